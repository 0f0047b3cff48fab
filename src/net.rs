//! What a handler may do: [`Conn`], the connection at hand, and [`Net`], all of them.
//!
//! A callback only marks and appends. What it writes goes into the outbox that all
//! connections share; [`Net::flush`] sends each of its segments with one call, and
//! only what the kernel did not take moves into the connection's own buffer. So a
//! message allocates nothing, and order per connection holds by construction.
//!
//! Invariants:
//! 1. The budget counts the footprints of all connections.
//! 2. A connection whose state changed is in `marked`, once.
//! 3. `staged` is what the outbox holds for a connection, or [`ANSWER`]: its only
//!    segment there, not counted yet. So it is until more than the answer happens to it.

use crate::budget::{Budget, RESERVE_EACH, SMALL};
use crate::buffer::Buffer;
use crate::close_reason::CloseReason;
use crate::connection::{ANSWER, Attention, Connection, Level, Open, PeerEnd, Shortage};
use crate::counters::Counters;
use crate::cuts::Cuts;
use crate::error::Error;
use crate::kernel::{self, Address, Errno, Fd, Kernel, Peer};
use crate::limits::{Limits, Timeouts};
use crate::outbox::Outbox;
use crate::reaction::{Call, Reaction, reaction};
use crate::slots::{Id, Slots};
use crate::time::{Moment, Tick};
use std::collections::{BTreeMap, BTreeSet, TryReserveError};
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

mod files;
mod outbound;

/// Output is sent when so many bytes wait.
const GROUP_BYTES: usize = 64 << 10;
/// Whoever takes no byte for so many milliseconds is the first to go when memory is short.
const STALLED: u32 = 1_000;
/// How often the kernel may be out of memory for one connection in a row.
const MAX_TRIES: u8 = 12;

/// Names a connection for as long as the server runs: an id is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub(crate) Id);

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0.slot, self.0.generation)
    }
}

/// How far the server is on its way to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Nobody has asked for it.
    No,
    /// It is to stop, and begins in this turn.
    Wanted,
    /// It finishes what it has received.
    Draining,
}

/// All connections of the server, as its handler may use them.
#[derive(Debug)]
pub struct Net {
    pub(crate) connections: Slots<Connection>,
    pub(crate) marked: Vec<u32>,
    pub(crate) limits: Limits,
    pub(crate) timeouts: Timeouts,
    pub(crate) counters: Counters,
    /// When each reason for cutting a client was logged.
    pub(crate) cuts: Cuts,
    /// Where each listener listens.
    pub(crate) locals: Vec<Address>,
    /// Milliseconds of the monotonic clock, read once a turn; and when it was first read.
    pub(crate) now_millis: u64,
    pub(crate) start_millis: u64,
    pub(crate) now: Tick,
    pub(crate) stop: Stop,
    /// How many of the connections we began ourselves.
    pub(crate) outbound: u32,
    /// From where those of them come that may lead back here: to a port of our own.
    calling: BTreeSet<SocketAddr>,
    has_told_sandbox: bool,
    /// The files that are being sent, by slot.
    files: BTreeMap<u32, files::FilePart>,
    /// Files to be closed.
    pub(crate) discarded: Vec<Fd>,
    /// The memory that connections hold; the outbox is bounded by what is left of it.
    pub(crate) budget: Budget,
    outbox: Outbox,
    /// From here on a connection is full: what is configured, or its share of the budget.
    high_water: usize,
}

/// The connection a callback is about.
#[derive(Debug)]
pub struct Conn<'a> {
    pub(crate) net: &'a mut Net,
    pub(crate) slot: u32,
}

impl Conn<'_> {
    /// Its name, to be used later or by others.
    pub fn id(&self) -> ConnId {
        ConnId(self.net.connections.id(self.slot))
    }

    /// The other end.
    pub fn peer(&self) -> Peer {
        self.net.connections.get(self.slot).map_or(Peer::Unix, Connection::peer)
    }

    /// Whether it is an outbound connection of this very server that has come back to it,
    /// whatever the address it was begun to. A proxy that handed it on would do so for ever.
    pub fn is_own(&self) -> bool {
        self.net.is_own_call(self.peer())
    }

    /// The listener it came through: for a listener on all addresses, that address.
    pub fn local(&self) -> Option<&Address> {
        let connection = self.net.connections.get(self.slot)?;
        self.net.locals.get(usize::from(connection.listener()))
    }

    /// Sends `bytes`, in order, as fast as the peer takes them. Never blocks; what
    /// the peer does not take at once waits in memory, see [`Conn::is_full`].
    #[inline]
    pub fn write(&mut self, bytes: &[u8]) {
        self.net.stage(self.slot, bytes);
    }

    /// Bytes written that the kernel has not yet taken.
    pub fn queued(&self) -> usize {
        match self.net.connections.get(self.slot) {
            Some(connection) if connection.staged == ANSWER => self.net.outbox.length_of(self.slot),
            connection => connection.map_or(0, Connection::queued),
        }
    }

    /// Whether output stands above the high water mark: time to stop consuming
    /// input. `on_drain` says when it has fallen below the low one.
    #[inline]
    pub fn is_full(&self) -> bool {
        let is_full = || self.net.connections.get(self.slot).is_some_and(|c| c.state.is_full());
        self.net.outbox.is_full(self.slot).unwrap_or_else(is_full)
    }

    /// Ends the connection when everything written has been sent: FIN, and what the
    /// peer still sends is thrown away. No more input is offered. A connection that is not
    /// established yet is given up at once.
    pub fn close(&mut self) {
        let Some(connection) = self.net.connections.get_mut(self.slot) else { return };
        let has_ended =
            connection.state.input().is_some_and(|(_, reading)| reading.end != PeerEnd::Ahead);
        let why = if has_ended { CloseReason::PeerClosed } else { CloseReason::Handler };
        self.net.close_slot(self.slot, why);
    }

    /// Ends our direction only: FIN when everything written has been sent, and what the
    /// peer sends is still offered. Nothing more can be written. When the peer has ended
    /// too, the connection closes by itself.
    pub fn finish(&mut self) {
        self.net.change(self.slot, |connection| connection.state.finish());
    }

    /// Offers input though output stands above the high water mark, for a handler that does
    /// not answer it here but elsewhere, as a proxy does. It has to [`pause`](Conn::pause)
    /// this connection when that one is full.
    pub fn duplex(&mut self, duplex: bool) {
        self.net.change(self.slot, |connection| connection.state.duplex(duplex));
    }

    /// While held, a connection is not ended by a stop of the server: it is read and
    /// served until the handler closes it, or the drain deadline cuts it off.
    pub fn hold(&mut self, hold: bool) {
        self.net.change(self.slot, |connection| connection.state.hold(hold));
    }

    /// Ends the connection now, with a reset; what was written may be lost.
    pub fn abort(&mut self) {
        self.net.change(self.slot, |connection| connection.abort(CloseReason::Handler));
    }

    /// Takes no more input until [`resume`](Conn::resume): nothing is offered, and
    /// soon TCP lets the peer wait.
    pub fn pause(&mut self) {
        self.net.change(self.slot, |connection| connection.state.pause());
    }

    /// Ends a pause; what was not consumed is offered again.
    pub fn resume(&mut self) {
        let now = self.net.now;
        self.net.change(self.slot, |connection| connection.state.resume(now));
    }

    /// Calls `on_timer` once after `delay`, or never; replaces the time set before.
    pub fn set_timer(&mut self, delay: Option<Duration>) {
        let at = delay.map(|delay| Moment::after(self.net.now_millis, delay));
        self.net.change(self.slot, |connection| connection.state.set_timer(at));
    }

    /// All connections, this one included.
    pub fn net(&mut self) -> &mut Net {
        self.net
    }
}

impl Net {
    /// Sends `bytes` to a connection; `false` if it is gone or going.
    ///
    /// To send the same bytes to many, send them to one after the other: they are
    /// kept in memory once.
    pub fn send(&mut self, id: ConnId, bytes: &[u8]) -> bool {
        let slot = id.0.slot;
        self.connections.find(id.0).is_some()
            && (self.stage_again(slot, bytes) || self.stage(slot, bytes))
    }

    /// A connection by its id, with all that can be done to it.
    pub fn conn(&mut self, id: ConnId) -> Option<Conn<'_>> {
        self.connections.find(id.0)?;
        Some(Conn { net: self, slot: id.0.slot })
    }

    /// Ends a connection as [`Conn::close`] does; `false` if it is gone.
    pub fn close(&mut self, id: ConnId) -> bool {
        self.conn(id).map(|mut conn| conn.close()).is_some()
    }

    /// The ids of all connections in service.
    pub fn ids(&self) -> impl Iterator<Item = ConnId> + '_ {
        let in_service = self.connections.iter().filter(|(_, c)| c.state.open().is_some());
        in_service.map(|(slot, _)| ConnId(self.connections.id(slot)))
    }

    /// Time since the server was built, read once a turn of the loop.
    pub fn now(&self) -> Duration {
        Duration::from_millis(self.now_millis - self.start_millis)
    }

    /// Stops the server as SIGTERM does: it finishes what it has received.
    pub fn stop(&mut self) {
        if self.stop == Stop::No {
            self.stop = Stop::Wanted;
        }
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.stop == Stop::Draining
    }

    /// Logs that a client has ended, if a limit cut it.
    pub(crate) fn report_cut(&mut self, why: CloseReason, peer: Peer) {
        self.cuts.report(why, peer, &self.limits, self.now_millis);
    }

    /// The counters, with the bytes of connections that are still open.
    pub(crate) fn totals(&self) -> Counters {
        let mut counters = self.counters.clone();
        for (_, connection) in self.connections.iter() {
            counters.received += connection.received;
            counters.sent += connection.sent;
        }
        counters
    }

    pub(crate) fn new(limits: Limits, now_nanos: u64) -> Result<Net, TryReserveError> {
        let now_millis = now_nanos / 1_000_000;
        let mut net = Net {
            connections: Slots::with_capacity(limits.slots())?,
            marked: Vec::new(),
            timeouts: Timeouts::of(&limits),
            budget: Budget::new(limits.max_memory),
            limits,
            counters: Counters::default(),
            cuts: Cuts::default(),
            locals: Vec::new(),
            now_millis,
            start_millis: now_millis,
            now: Tick::from_millis(now_millis),
            stop: Stop::No,
            outbound: 0,
            calling: BTreeSet::new(),
            has_told_sandbox: false,
            files: BTreeMap::new(),
            discarded: Vec::new(),
            outbox: Outbox::with_room(2 * GROUP_BYTES)?,
            high_water: 0,
        };
        net.measure();
        Ok(net)
    }

    /// Computes what is looked at often and changes seldom: whenever the budget has changed.
    fn measure(&mut self) {
        self.outbox.limit(self.budget.left());
        self.high_water = self.limits.high_water.min(self.budget.share().max(SMALL)).max(1);
    }

    /// Whether the outbox and the high water mark agree with the budget, as they always do.
    pub(crate) fn is_measured(&self) -> bool {
        let high_water = self.limits.high_water.min(self.budget.share().max(SMALL)).max(1);
        self.outbox.is_limited_to(self.budget.left()) && self.high_water == high_water
    }

    /// Whether the budget counts what connections hold, as it always does.
    pub(crate) fn is_counted(&self) -> bool {
        let held = self.connections.iter().map(|(_, connection)| connection.footprint());
        held.sum::<usize>() == self.budget.used()
    }

    pub(crate) fn begin_turn(&mut self, nanos: u64) {
        self.now_millis = nanos / 1_000_000;
        self.now = Tick::from_millis(self.now_millis);
    }

    /// Puts a connection on the list of those to be settled.
    pub(crate) fn mark(&mut self, slot: u32) {
        if let Some(connection) = self.counted(slot)
            && connection.attention != Attention::Marked
        {
            connection.attention = Attention::Marked;
            self.marked.push(slot);
        }
    }

    /// A connection to which more happens than an answer: what is staged is counted.
    fn counted(&mut self, slot: u32) -> Option<&mut Connection> {
        self.close_answer();
        let connection = self.connections.get_mut(slot)?;
        if connection.staged == ANSWER {
            connection.staged = self.outbox.length_of(slot) as u32;
        }
        Some(connection)
    }

    /// Changes a connection: the one door, which keeps the budget and the marks right.
    pub(crate) fn change<R>(
        &mut self,
        slot: u32,
        change: impl FnOnce(&mut Connection) -> R,
    ) -> Option<R> {
        self.counted(slot)?;
        let connection = self.connections.get_mut(slot)?;
        let before = connection.footprint();
        let result = change(connection);
        let after = connection.footprint();
        if connection.attention != Attention::Marked {
            connection.attention = Attention::Marked;
            self.marked.push(slot);
        }
        if after != before {
            self.budget.take(after);
            self.budget.give_back(before);
            self.measure();
        }
        Some(result)
    }

    pub(crate) fn close_slot(&mut self, slot: u32, why: CloseReason) {
        self.change(slot, |connection| connection.close(why));
    }

    /// Begins the answer of a connection that is quiet, and so owes nothing.
    #[inline]
    pub(crate) fn open_answer(&mut self, slot: u32) {
        self.outbox.open(slot, self.high_water);
    }

    /// Ends it, if it has not ended because more than that happened.
    #[inline]
    pub(crate) fn close_answer(&mut self) {
        if let Some(slot) = self.outbox.close() {
            self.answered_oddly(slot);
        }
    }

    /// With nothing, or with so much that the connection became full.
    #[cold]
    fn answered_oddly(&mut self, slot: u32) {
        match self.outbox.length_of(slot) {
            0 => drop(self.counted(slot)),
            _ => self.became_full(slot),
        }
    }

    /// Appends `bytes` to the outbox for `slot`; `false` if it takes none any more.
    #[inline]
    fn stage(&mut self, slot: u32, bytes: &[u8]) -> bool {
        self.outbox.write(slot, bytes) || self.stage_counted(slot, bytes)
    }

    /// The same for bytes that are more than an answer.
    #[inline(never)]
    fn stage_counted(&mut self, slot: u32, bytes: &[u8]) -> bool {
        self.close_answer();
        let written = self.outbox.written() + bytes.len();
        if written > self.budget.left() && !self.make_room(written) {
            self.change(slot, |connection| connection.abort(CloseReason::MemoryBudget));
        }
        let most = self.budget.left();
        match self.counted(slot) {
            Some(connection) if connection.state.takes_output() => {}
            Some(connection) if connection.state.is_behind_a_file() => {
                self.wrote_behind_a_file(slot);
                return false;
            }
            _ => return false,
        }
        let staged = bytes.is_empty() || self.outbox.append(slot, bytes, most);
        if staged {
            self.count_staged(slot, bytes.len());
        }
        staged
    }

    /// If these are the bytes that were staged last, they need not be staged again.
    fn stage_again(&mut self, slot: u32, bytes: &[u8]) -> bool {
        let takes = self.counted(slot).is_some_and(|connection| connection.state.takes_output());
        let staged = takes && self.outbox.repeat(slot, bytes);
        if staged {
            self.count_staged(slot, bytes.len());
        }
        staged
    }

    fn count_staged(&mut self, slot: u32, n: usize) {
        let high_water = self.high_water;
        let Some(connection) = self.connections.get_mut(slot) else { return };
        connection.staged = (connection.staged as usize + n).min(ANSWER as usize - 1) as u32;
        if connection.owes(high_water) {
            self.became_full(slot);
        }
    }

    /// There is no place for the bytes, and an answer without them is no answer.
    #[cold]
    fn wrote_behind_a_file(&mut self, slot: u32) {
        self.counters.bugs += 1;
        log::error!("bug: the handler wrote while a file was being sent");
        self.change(slot, |connection| connection.abort(CloseReason::Handler));
    }

    /// The handler may have been told so, and waits for `on_drain`, even if the kernel
    /// then takes everything at once.
    #[cold]
    fn became_full(&mut self, slot: u32) {
        self.change(slot, |connection| connection.state.become_full());
    }

    /// Sends what is staged if it is enough for a group.
    #[inline]
    pub(crate) fn flush_group<K: Kernel>(&mut self, kernel: &mut K) {
        if self.outbox.written() >= GROUP_BYTES {
            self.flush(kernel);
        }
    }

    /// Lends out the unconsumed input of a connection, to be given back.
    pub(crate) fn take_input(&mut self, slot: u32) -> Buffer {
        let taken = self.change(slot, |connection| {
            connection.state.input_mut().map(|(input, _)| std::mem::take(input))
        });
        taken.flatten().unwrap_or_default()
    }

    /// Gives it back, unless the connection takes no input any more.
    pub(crate) fn put_input(&mut self, slot: u32, input: Buffer) {
        self.change(slot, |connection| {
            if let Some((place, _)) = connection.state.input_mut() {
                *place = input;
            }
        });
    }

    /// Sends what is staged: one `send` a segment.
    pub(crate) fn flush<K: Kernel>(&mut self, kernel: &mut K) {
        if self.outbox.is_empty() {
            return;
        }
        for index in 0..self.outbox.len() {
            let Some((slot, bytes)) = self.outbox.get(index) else { continue };
            let Some(connection) = self.connections.get_mut(slot) else { continue };
            if connection.staged != ANSWER {
                self.lend_outbox(index, |net, bytes| net.transmit(kernel, slot, bytes));
                continue;
            }
            connection.staged = 0;
            match kernel.send(&connection.fd, bytes) {
                Ok(n) if n == bytes.len() => connection.sent += n as u64,
                sent => self.lend_outbox(index, |net, bytes| net.sent_less(slot, bytes, sent)),
            }
        }
        self.outbox.clear();
    }

    /// Lends out the bytes of a segment, to what changes all the rest.
    #[inline(never)]
    fn lend_outbox(&mut self, index: usize, act: impl FnOnce(&mut Net, &[u8])) {
        let outbox = std::mem::take(&mut self.outbox);
        if let Some((_, bytes)) = outbox.get(index) {
            act(self, bytes);
        }
        self.outbox = outbox;
        self.measure();
    }

    /// Sends a segment of a connection to which more happens than an answer, or keeps what
    /// the kernel does not take.
    fn transmit<K: Kernel>(&mut self, kernel: &mut K, slot: u32, bytes: &[u8]) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        connection.staged = (connection.staged as usize).saturating_sub(bytes.len()) as u32;
        let Some(unsent) = connection.state.unsent() else { return };
        if !unsent.bytes.is_empty() || !connection.can_send() {
            return self.keep_output(slot, bytes);
        }
        match kernel.send(&connection.fd, bytes) {
            Ok(n) if n == bytes.len() => {
                connection.sent += n as u64;
                connection.touch(self.now);
            }
            sent => self.sent_less(slot, bytes, sent),
        }
    }

    /// The kernel did not take all of a segment.
    #[cold]
    fn sent_less(&mut self, slot: u32, bytes: &[u8], sent: kernel::Result<usize>) {
        match sent {
            Ok(n) => self.moved(slot, n),
            Err(errno) => self.failed(slot, Call::Send, errno),
        }
        self.keep_output(slot, bytes.get(sent.unwrap_or(0)..).unwrap_or_default());
    }

    /// Sends from the connection's own output.
    pub(crate) fn send_waiting<K: Kernel>(&mut self, kernel: &mut K, slot: u32) {
        let Some(connection) = self.connections.get(slot) else { return };
        let Some(unsent) = connection.state.unsent() else { return };
        if !connection.can_send() {
            return;
        }
        if unsent.bytes.is_empty() {
            return self.send_file(kernel, slot);
        }
        match kernel.send(&connection.fd, unsent.bytes.as_slice()) {
            Ok(n) => {
                self.change(slot, |connection| {
                    connection.state.unsent_mut().map(|unsent| unsent.bytes.consume(n))
                });
                self.moved(slot, n);
            }
            Err(errno) => self.failed(slot, Call::Send, errno),
        }
    }

    /// The kernel took `n` bytes that had waited.
    fn moved(&mut self, slot: u32, n: usize) {
        let now = self.now;
        let Some(connection) = self.connections.get_mut(slot) else { return };
        connection.sent += n as u64;
        if n > 0 {
            connection.shortage = Shortage::default();
            connection.touch(now);
            if let Some(unsent) = connection.state.unsent_mut() {
                unsent.bytes.touch(now);
            }
        }
    }

    /// Keeps output that the kernel did not take.
    #[cold]
    fn keep_output(&mut self, slot: u32, bytes: &[u8]) {
        let (now, max_output) = (self.now, self.limits.max_output);
        let spare = self.budget.spare();
        self.change(slot, |connection| {
            let Some(unsent) = connection.state.unsent_mut() else { return };
            let output = &mut unsent.bytes;
            if output.push(bytes, spare, now).is_err() {
                connection.abort(CloseReason::MemoryBudget);
            } else if output.len() > max_output {
                connection.abort(CloseReason::OutputLimit);
            }
        });
    }

    /// Does to a connection what the table says of a failed call.
    #[cold]
    pub(crate) fn failed(&mut self, slot: u32, call: Call, errno: Errno) {
        self.tell_sandbox(call, errno);
        let reason = CloseReason::of(call, errno);
        match reaction(call, errno) {
            // An interrupted call is made again at the next event, which is there already.
            Reaction::Wait | Reaction::Retry | Reaction::Ignore | Reaction::Degrade => {}
            Reaction::Later | Reaction::Pause => {
                self.change(slot, |connection| {
                    connection.shortage.strike();
                    if connection.shortage.tries() > MAX_TRIES {
                        connection.abort(CloseReason::Server { call, errno });
                    }
                });
            }
            Reaction::DropConnection => {
                self.change(slot, |connection| {
                    // If it lives, a cut answer must not look like a whole one.
                    let reset = reason != CloseReason::PeerReset;
                    let is_read_out = |open: &Open| call == Call::Recv && !open.reading.again;
                    match connection.state.open().is_some_and(is_read_out) {
                        true => connection.gone(reason),
                        false => connection.broken(reason),
                    }
                    if reset {
                        connection.state.reset_on_close();
                    }
                });
            }
            Reaction::FailStartup | Reaction::FailRuntime | Reaction::Bug => {
                self.counters.bugs += 1;
                log::error!("bug: {call} on a connection: {errno}");
                self.change(slot, |c| c.abort(CloseReason::Server { call, errno }));
            }
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

    // ---- the memory budget ------------------------------------------------------

    /// Whether a connection owes so much, or memory is so short, that it must not be read.
    pub(crate) fn is_over(&mut self, slot: u32) -> bool {
        let high_water = self.high_water;
        let Some(connection) = self.connections.get(slot) else { return false };
        let Some(open) = connection.state.open() else { return false };
        let is_full = open.writing.is_full();
        // Once full, it is full until it has fallen to the low water mark, half of the high one.
        let mark = if is_full { high_water / 2 } else { high_water };
        let owes = connection.owes(mark) || open.unsent.file;
        let starved = is_full && self.starves(open);
        if starved && !owes {
            self.make_way();
        }
        let over = owes || starved;
        if over && high_water < self.limits.high_water {
            self.budget.squeeze();
        }
        over
    }

    /// Whether it can only go on by reading, and memory is too short for that.
    pub(crate) fn starves(&self, open: &Open) -> bool {
        open.needs_to_read() && self.budget.allowance(open.input.len()) == 0
    }

    /// Holds a connection back until memory is free again.
    #[cold]
    pub(crate) fn hold_back(&mut self, slot: u32) {
        self.budget.squeeze();
        self.change(slot, |connection| {
            if let Some(open) = connection.state.open_mut() {
                open.writing.level = Level::Starved;
            }
        });
        self.make_way();
    }

    /// Somebody who owes nothing is held back for want of memory. If it is incomplete
    /// messages that fill it, or output that has eaten up the reserve too (which only
    /// grows so far if nobody asks for it: a broadcast), waiting might help nobody:
    /// then the largest message is ended, or the worst debtor.
    #[cold]
    fn make_way(&mut self) {
        let inputs: usize = self.connections.iter().map(|(_, c)| c.input_footprint()).sum();
        let in_the_way = match inputs > self.budget.used() / 2 {
            true => self.largest(Connection::input_footprint),
            false if self.budget.share() == 0 => self.worst(),
            false => None,
        };
        if let Some(slot) = in_the_way {
            self.change(slot, |connection| connection.abort(CloseReason::MemoryBudget));
        }
    }

    /// Sets a reserve aside for as many as there are.
    pub(crate) fn plan(&mut self) {
        if self.budget.plan_for(self.connections.len()) {
            self.measure();
        }
    }

    /// Marks those held back for want of memory, if enough has become free; whether it has.
    #[inline]
    pub(crate) fn relieve(&mut self) -> bool {
        let due = self.budget.take_relief();
        if due {
            self.relieve_the_full();
        }
        due
    }

    #[cold]
    fn relieve_the_full(&mut self) {
        let is_full = |open: &Open| open.writing.is_full();
        let held = self.slots_where(|connection| connection.state.open().is_some_and(is_full));
        held.into_iter().for_each(|slot| self.mark(slot));
    }

    /// Ends the worst debtors until `more` bytes fit; whether they do.
    #[cold]
    fn make_room(&mut self, more: usize) -> bool {
        while !self.budget.has_room_for(more) {
            if more > self.limits.max_memory {
                return false; // nobody's end would help
            }
            let Some(slot) = self.worst() else { return false };
            self.change(slot, |connection| connection.abort(CloseReason::MemoryBudget));
        }
        true
    }

    /// Enforces the budget after a batch: what grew although nobody reads is cut.
    pub(crate) fn keep_budget(&mut self) {
        self.make_room(0);
    }

    pub(crate) fn slots_where(&self, is: impl Fn(&Connection) -> bool) -> Vec<u32> {
        self.connections.iter().filter(|(_, c)| is(c)).map(|(slot, _)| slot).collect()
    }

    /// Who holds the most; of those who have taken nothing for a while, if there are any.
    fn worst(&self) -> Option<u32> {
        let is_stalled = |c: &Connection| {
            c.state.unsent().is_some_and(|unsent| {
                let bytes = &unsent.bytes;
                bytes.len() > RESERVE_EACH && self.now.since(bytes.since()) >= STALLED
            })
        };
        let stalled = self.largest(|c| if is_stalled(c) { c.footprint() } else { 0 });
        stalled.or_else(|| self.largest(Connection::footprint))
    }

    fn largest(&self, size: impl Fn(&Connection) -> usize) -> Option<u32> {
        // Who holds next to nothing is not to blame.
        let held = self.connections.iter().filter(|(_, c)| size(c) > RESERVE_EACH);
        held.max_by_key(|(_, connection)| size(connection)).map(|(slot, _)| slot)
    }
}
