//! The table of connections, and the only access to each of them.
//!
//! [`look`](Table::look) shows a connection. [`edit`](Table::edit) lends it out to be changed;
//! when it comes back, what it holds is counted and it is marked to be settled, so that no
//! caller can forget either. Most of what happens leaves nothing to be settled, because it
//! changes neither what a connection holds nor what follows for it sooner than it was going to:
//! bytes pass, a timer is put off. For that there is a [`Tally`]. There is no other way to a
//! connection, because `slots` is private to this file.
//!
//! Invariants:
//! 1. The budget counts the footprints of all connections, and the shares those of each
//!    address; the outbox may take what the budget leaves.
//! 2. A connection that was edited and is not settled yet is in `marked`, once.
//! 3. `staged` names what the outbox holds for a connection, and an answer is named so only as
//!    long as nothing more happens to its connection.

use super::shares::Shares;
use crate::budget::Budget;
use crate::connection::{Attention, Connection, State};
use crate::kernel::Fd;
use crate::limits::Limits;
use crate::outbox::{Outbox, Staged};
use crate::slots::{Id, Slots};
use crate::time::Moment;
use std::collections::TryReserveError;
use std::mem::{forget, replace, take};
use std::ops::{Deref, DerefMut};

/// As much as may wait for all connections together, however short memory is.
const OWED: usize = 64 << 10;

/// The slot of no connection.
const NOBODY: u32 = u32::MAX;

#[derive(Debug)]
pub(crate) struct Table {
    slots: Slots<Connection>,
    pub(super) ledger: Ledger,
}

/// What depends on all connections, and is kept right when one of them changes.
#[derive(Debug)]
pub(super) struct Ledger {
    /// The connections to be settled; at first there may be [`NOBODY`]. It never grows.
    marked: Vec<u32>,
    pub(super) budget: Budget,
    pub(super) shares: Shares,
    pub(super) outbox: Outbox,
}

impl Table {
    pub(super) fn new(limits: &Limits, mut outbox: Outbox) -> Result<Table, TryReserveError> {
        let slots = Slots::with_capacity(limits.slots())?;
        let budget = Budget::new(limits.max_memory, limits.high_water, limits.slots() as usize);
        let shares = Shares::with_capacity(limits.slots())?;
        let mut marked = Vec::new();
        marked.try_reserve_exact(limits.slots() as usize + 1)?;
        outbox.limit(budget.left());
        Ok(Table { slots, ledger: Ledger { marked, budget, shares, outbox } })
    }

    // ---- access to a connection -------------------------------------------------------------

    /// The connection in `slot`, to be looked at.
    #[inline]
    pub(crate) fn look(&self, slot: u32) -> Option<&Connection> {
        self.slots.get(slot)
    }

    /// The connection in `slot`, to be changed.
    #[inline]
    pub(crate) fn edit(&mut self, slot: u32) -> Option<Edit<'_>> {
        self.end_answer();
        let Table { slots, ledger } = self;
        let connection = slots.get_mut(slot)?;
        connection.staged.demote();
        Some(Edit { held: connection.footprint(), connection, slot, ledger })
    }

    /// The connection in `slot`, to note what passes.
    #[inline]
    pub(crate) fn tally(&mut self, slot: u32) -> Option<Tally<'_>> {
        self.slots.get_mut(slot).map(Tally)
    }

    /// The same for the connection with this id, if it is still there.
    #[inline]
    pub(crate) fn find(&mut self, id: Id) -> Option<Tally<'_>> {
        self.slots.find(id).map(Tally)
    }

    /// The same; and whether nothing is going on but its next message, for which memory is not
    /// short.
    #[inline]
    pub(crate) fn find_quiet(&mut self, id: Id) -> Option<(Tally<'_>, bool)> {
        let connection = self.slots.find(id)?;
        let is_quiet = connection.attention == Attention::Quiet && connection.staged.is_nothing();
        Some((Tally(connection), is_quiet && !self.ledger.budget.is_tight()))
    }

    /// Adds a connection, which holds nothing yet.
    #[inline]
    pub(crate) fn insert(&mut self, connection: Connection) -> Id {
        self.slots.insert(connection)
    }

    /// Removes a connection that has ended, and so holds nothing; or, when all is closed, any.
    /// Returns its socket.
    #[inline]
    pub(crate) fn remove(&mut self, slot: u32) -> Option<Fd> {
        let connection = self.slots.get_mut(slot)?;
        let fd = replace(&mut connection.fd, Fd::UNOPENED);
        self.slots.remove(slot);
        Some(fd)
    }

    /// EOF of a quiet connection is reported to the handler, which changes nothing that is counted.
    pub(crate) fn heard_end(&mut self, slot: u32) {
        if let Some(connection) = self.slots.get_mut(slot) {
            connection.state.open_mut().into_iter().for_each(|open| open.flow.told());
        }
        self.mark(slot);
    }

    /// Marks a connection to be settled.
    pub(crate) fn mark(&mut self, slot: u32) {
        self.end_answer();
        if let Some(connection) = self.slots.get_mut(slot) {
            connection.staged.demote();
            self.ledger.mark(connection, slot);
        }
    }

    /// Requests that this turn is settled even if no connection is marked.
    pub(super) fn unsettle(&mut self) {
        if self.ledger.marked.is_empty() {
            self.ledger.marked.push(NOBODY);
        }
    }

    /// Takes a connection that is to be settled; `None` if what is staged for it, or anything
    /// if there is none, must be sent before.
    pub(crate) fn next_marked(&mut self) -> Option<u32> {
        let is_ready = |slot| self.slots.get(slot).is_none_or(|c| c.staged.is_nothing());
        self.ledger.marked.pop_if(|slot| is_ready(*slot))
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.ledger.marked.is_empty()
    }

    // ---- all of them --------------------------------------------------------------------

    pub(crate) fn id(&self, slot: u32) -> Id {
        self.slots.id(slot)
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// All connections with their slots.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Connection)> + Clone {
        self.slots.iter()
    }

    /// The slots of those for which `is` holds.
    pub(crate) fn slots_where(&self, is: impl Fn(&Connection) -> bool) -> Vec<u32> {
        self.iter().filter(|(_, connection)| is(connection)).map(|(slot, _)| slot).collect()
    }

    /// The memory that is counted, and that which connections hold: always the same.
    pub(crate) fn memory(&self) -> (usize, usize) {
        let held = self.iter().map(|(_, connection)| connection.footprint());
        (self.ledger.budget.used(), held.sum())
    }

    pub(crate) fn is_counted(&self) -> bool {
        let (counted, held) = self.memory();
        counted == held
    }

    /// Whether the outbox may take what the budget leaves, and a connection its share, as always.
    pub(crate) fn is_measured(&self) -> bool {
        let Ledger { outbox, budget, .. } = &self.ledger;
        outbox.is_limited_to(budget.left()) && budget.is_measured()
    }

    // ---- output in the outbox -----------------------------------------------------------

    /// Begins the answer of a connection that is quiet, and so owes nothing.
    #[inline]
    pub(crate) fn open_answer(&mut self, slot: u32) {
        self.ledger.outbox.open(slot, self.ledger.budget.high_water());
    }

    /// What the connection has staged that is the next to answer.
    #[inline]
    pub(crate) fn next_answer(&self) -> Staged {
        self.ledger.outbox.next_answer()
    }

    /// The callback of `slot` is running, and it answers no message of a quiet connection.
    pub(crate) fn talks(&mut self, slot: u32) {
        self.ledger.outbox.talks(slot);
    }

    /// Ends it, if it has not ended because more than that happened.
    #[inline]
    pub(crate) fn close_answer(&mut self) {
        if let Some(slot) = self.ledger.outbox.close() {
            self.answered_oddly(slot);
        }
    }

    /// Ends it, because more happens.
    #[inline]
    fn end_answer(&mut self) {
        self.ledger.outbox.talks_on();
        self.close_answer();
    }

    /// The handler wrote nothing, or enough to fill the connection.
    #[cold]
    fn answered_oddly(&mut self, slot: u32) {
        let Some(connection) = self.slots.get_mut(slot) else { return };
        match self.ledger.outbox.length_of(slot, connection.staged) {
            0 => connection.staged = Staged::NOTHING,
            _ => self.became_full(slot),
        }
    }

    /// What is staged for a connection, if it takes output, and the outbox to append to it; and
    /// whether more comes behind a file.
    pub(super) fn stage(&mut self, slot: u32) -> Option<(&mut Staged, &mut Outbox, bool)> {
        self.end_answer();
        let connection = self.slots.get_mut(slot)?;
        connection.staged.demote();
        let (takes_output, behind) =
            (connection.state.takes_output(), connection.state.is_behind_a_file());
        takes_output.then_some((&mut connection.staged, &mut self.ledger.outbox, behind))
    }

    /// More is staged for a connection than before.
    pub(super) fn staged(&mut self, slot: u32) {
        if self.queued(slot) >= self.ledger.budget.high_water() {
            self.became_full(slot);
        }
        if self.ledger.outbox.owed() >= self.ledger.budget.share().max(OWED) {
            self.enough_for_now();
        }
    }

    /// The output for all connections together has reached its bound. The connection whose
    /// callback has written it becomes full, so that the callback stops.
    #[cold]
    fn enough_for_now(&mut self) {
        self.ledger.outbox.make_due();
        if let Some(slot) = self.ledger.outbox.talker() {
            self.became_full(slot);
        }
    }

    /// The handler may have seen that it is full, and waits for `on_drain`, even if the kernel
    /// then takes everything at once.
    #[cold]
    fn became_full(&mut self, slot: u32) {
        if let Some(mut connection) = self.edit(slot) {
            connection.state.become_full();
        }
    }

    /// Bytes written that the kernel has not taken.
    pub(super) fn queued(&self, slot: u32) -> usize {
        let Some(connection) = self.look(slot) else { return 0 };
        self.ledger.outbox.length_of(slot, connection.staged) + connection.unsent()
    }

    /// A connection, and of its own output as much as a call takes, in one piece.
    pub(super) fn waiting(&mut self, slot: u32) -> Option<(&Connection, &[u8])> {
        let connection = self.slots.get(slot)?;
        let pieces = connection.state.unsent()?.bytes.pieces();
        Some((connection, self.ledger.outbox.copied(pieces)))
    }

    /// Whether output is above the high water mark, or the connection has been ended. (Not if it
    /// is broken: what the peer had sent before is worth hearing.)
    #[inline]
    pub(super) fn is_full(&self, slot: u32) -> bool {
        let has_ended = |state: &State| {
            matches!(state, State::Closing { .. } | State::Lingering { .. } | State::Gone { .. })
        };
        let is_full = || {
            let state = self.look(slot).map(|connection| &*connection.state);
            state.is_some_and(|state| state.is_full() || has_ended(state))
        };
        self.ledger.outbox.is_full(slot).unwrap_or_else(is_full)
    }

    /// A chain of the outbox: its slot and first bytes, and the connection they are for.
    #[inline]
    pub(super) fn chain(&mut self, index: usize) -> Option<(u32, &[u8], Tally<'_>)> {
        let (slot, bytes) = self.ledger.outbox.get(index)?;
        Some((slot, bytes, Tally(self.slots.get_mut(slot)?)))
    }

    /// Lends the outbox out, to be given back.
    pub(super) fn take_outbox(&mut self) -> Outbox {
        take(&mut self.ledger.outbox)
    }

    pub(super) fn put_outbox(&mut self, outbox: Outbox) {
        self.ledger.outbox = outbox;
        self.ledger.outbox.limit(self.ledger.budget.left()); // it was away when that changed
    }
}

impl Ledger {
    /// A connection that held `before` bytes holds `after`.
    #[inline]
    fn recount(&mut self, connection: &Connection, before: usize, after: usize) {
        if before != after {
            self.shares.changed(connection.peer(), before, after);
            self.budget.changed(before, after);
            self.outbox.limit(self.budget.left());
        }
    }

    #[inline]
    fn mark(&mut self, connection: &mut Connection, slot: u32) {
        if connection.attention != Attention::Marked {
            connection.attention = Attention::Marked;
            self.marked.push(slot);
        }
    }
}

/// A connection that is lent out to be changed.
pub(crate) struct Edit<'a> {
    connection: &'a mut Connection,
    slot: u32,
    /// What it held when it was lent.
    held: usize,
    ledger: &'a mut Ledger,
}

impl Edit<'_> {
    /// It is settled now, and not by its return to be settled once more.
    pub(crate) fn settled(mut self, attention: Attention) {
        self.recount();
        self.connection.attention = attention;
        forget(self);
    }

    fn recount(&mut self) {
        self.ledger.recount(self.connection, self.held, self.connection.footprint());
    }
}

impl Drop for Edit<'_> {
    fn drop(&mut self) {
        self.recount();
        self.ledger.mark(self.connection, self.slot);
    }
}

impl Deref for Edit<'_> {
    type Target = Connection;

    #[inline]
    fn deref(&self) -> &Connection {
        self.connection
    }
}

impl DerefMut for Edit<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut Connection {
        self.connection
    }
}

/// A connection of which only the bytes that pass are noted.
pub(crate) struct Tally<'a>(&'a mut Connection);

impl Tally<'_> {
    /// A quiet connection has received `n` bytes, which are to be answered.
    #[inline]
    pub(crate) fn heard(&mut self, n: usize, now: Moment, answer: Staged) {
        self.0.received += n as u64;
        self.0.last = now.tick();
        self.0.staged = answer;
    }

    /// Nothing is going on but its first message, unless it is marked already; whether that is so.
    #[inline]
    pub(crate) fn make_quiet(&mut self) -> bool {
        let is_quiet = self.0.attention == Attention::Busy;
        if is_quiet {
            self.0.attention = Attention::Quiet;
        }
        is_quiet
    }

    /// Its timer rings later than it was to, or never: that is noticed when it is looked at for
    /// the earlier time. Returns whether it is so.
    #[inline]
    pub(super) fn put_off(&mut self, at: Option<Moment>) -> bool {
        let before = self.0.state.timer();
        let is_later = before.is_some_and(|before| at.is_none_or(|at| before <= at));
        if is_later {
            self.0.state.set_timer(at);
        }
        is_later
    }

    /// Takes what is staged.
    #[inline]
    pub(super) fn take_staged(&mut self) {
        self.0.staged = Staged::NOTHING;
    }

    /// The kernel took a whole answer.
    #[inline]
    pub(super) fn answered(&mut self, n: usize) {
        self.0.sent += n as u64;
    }

    /// The kernel took `n` bytes, and none had waited before them.
    pub(super) fn sent(&mut self, n: usize, now: Moment) {
        self.0.sent += n as u64;
        self.0.touch(now);
    }
}

impl Deref for Tally<'_> {
    type Target = Connection;

    #[inline]
    fn deref(&self) -> &Connection {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::Life;
    use crate::kernel::Peer;

    /// Each timer that a handler set could lengthen the list, which then asked for memory.
    #[test]
    fn what_is_marked_needs_no_more_memory() {
        let limits = Limits { max_connections: 2, ..Limits::default() };
        let mut table = Table::new(&limits, Outbox::new().unwrap()).unwrap();
        let places = table.ledger.marked.capacity();
        let now = Moment::from_millis(0);
        for _ in 0..2 {
            (0..9).for_each(|_| table.unsettle());
            table.insert(Connection::new(Fd::UNOPENED, Peer::Unix, 0, now, Life::open()));
        }
        (0..2).for_each(|slot| table.mark(slot));
        assert_eq!((table.ledger.marked.len(), table.ledger.marked.capacity()), (3, places));
    }
}
