//! What the loop does with [`Net`] and no handler does: it creates it, sets its clock, changes a
//! connection, and removes what is stored beside the table when one is freed.

use super::lent::Lent;
use super::outbound::Dials;
use super::{ConnId, Groups, Net, Stop, Table, Timers};
use crate::close_reason::CloseReason;
use crate::connection::Connection;
use crate::counters::Counters;
use crate::cuts::Cuts;
use crate::error::Error;
use crate::fallible::Map;
use crate::kernel::{Clock, Errno, Kernel, Peer};
use crate::limits::{Limits, Patience};
use crate::outbox::Outbox;
use crate::reaction::Call;
use crate::time::Moment;
use std::collections::{HashSet, TryReserveError};

impl Net {
    pub(crate) fn new<K: Kernel>(limits: Limits, kernel: &mut K) -> Result<Net, TryReserveError> {
        let now = Moment::from_millis(kernel.clock_gettime(Clock::Monotonic) / 1_000_000);
        Ok(Net {
            table: Table::new(&limits, Outbox::new()?)?,
            timeouts: Patience::new(&limits),
            limits,
            counters: Counters::default(),
            cuts: Cuts::default(),
            locals: Vec::new(),
            own_files: Vec::new(),
            now,
            start: now,
            stop: Stop::No,
            spent: 0,
            closed: None,
            outbound: 0,
            calling: HashSet::new(),
            has_told_sandbox: false,
            timers: Timers::default(),
            groups: Groups::default(),
            workers: None,
            presences: Map::default(),
            tokens: Map::default(),
            files: Map::default(),
            fronts: Map::default(),
            dials: Dials::default(),
            worst: None,
            kernel: kernel.lend(),
        })
    }

    pub(crate) fn begin_turn(&mut self, nanos: u64) {
        self.now = Moment::from_millis(nanos / 1_000_000);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.stop == Stop::Draining
    }

    pub(crate) fn may_end(&self, slot: u32, connection: &Connection) -> bool {
        self.stop.may_end(connection, self.timeouts.of(slot), self.now)
    }

    // ---- one connection ------------------------------------------------------------------

    /// Changes a connection, which is counted and marked after it.
    pub(crate) fn change<R>(
        &mut self,
        slot: u32,
        change: impl FnOnce(&mut Connection) -> R,
    ) -> Option<R> {
        self.table.edit(slot).map(|mut connection| change(&mut connection))
    }

    pub(crate) fn close_slot(&mut self, slot: u32, why: CloseReason) {
        let now = self.now;
        self.change(slot, |connection| connection.close(why, now));
    }

    pub(crate) fn abort(&mut self, slot: u32, why: CloseReason) {
        self.change(slot, |connection| connection.abort(why));
    }

    /// Does to a connection what the table of errnos demands after a failed call.
    #[cold]
    pub(crate) fn failed(&mut self, slot: u32, call: Call, errno: Errno) {
        self.tell_sandbox(call, errno);
        if let Some(mut connection) = self.table.edit(slot) {
            connection.failed(call, errno, &mut self.counters);
        }
    }

    /// If a sandbox forbids what each connection needs, none is served: worth a line, once.
    fn tell_sandbox(&mut self, call: Call, errno: Errno) {
        let error = Error::new(call, "a connection", errno);
        if !self.has_told_sandbox
            && let Some(why) = error.sandbox()
        {
            self.has_told_sandbox = true;
            log::warn!("{error}; {why}, or a firewall");
        }
    }

    /// Removes what is stored beside the table about a connection that is gone: for most, nothing.
    #[inline]
    pub(crate) fn forget(&mut self, id: ConnId) {
        let is_nothing = self.files.is_empty()
            & self.fronts.is_empty()
            & self.presences.is_empty()
            & self.timers.has_no_keys()
            & self.timeouts.are_usual()
            & self.groups.are_empty();
        if !is_nothing {
            self.forget_all(id);
        }
    }

    #[cold]
    fn forget_all(&mut self, id: ConnId) {
        let slot = id.0.slot;
        self.close_file(slot);
        self.forget_front(slot);
        self.end_presence(slot);
        self.timers.forget(slot);
        self.timeouts.forget(slot);
        self.groups.forget(id);
    }

    /// Logs that a client has ended, if a limit cut it.
    #[inline]
    pub(crate) fn report_cut(&mut self, why: CloseReason, peer: Peer) {
        if !matches!(why, CloseReason::PeerClosed) {
            self.cuts.report(why, peer, &self.limits, self.now.as_millis());
        }
    }
}
