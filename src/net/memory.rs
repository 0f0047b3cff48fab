//! Memory that connections hold: which of them may be read, which must wait, which must go.
//!
//! The [budget](crate::budget) says how much is left, and here is decided what follows for a
//! connection. One that owes little may read what the budget allows it. One that owes as much
//! as the high water mark must wait until its output has been sent, and one that finds nothing
//! left to read into until others have freed some. A connection must go only if waiting frees
//! nothing, or if output grew although nobody reads: the worst debtor first.

use super::Net;
use crate::budget::RESERVE_EACH;
use crate::close_reason::CloseReason;
use crate::connection::{Connection, Level, Open};
use crate::time::Span;

/// A connection that has taken no byte for this long is the first to go.
const STALLED: Span = Span::millis(1_000);

impl Net {
    // ---- may it be read? ----------------------------------------------------------------

    /// Whether so little is left that reading needs an [`allowance`](Net::allowance).
    #[inline]
    pub(crate) fn is_tight(&self) -> bool {
        self.table.ledger.budget.is_tight()
    }

    /// How many bytes of a connection may be read now.
    pub(crate) fn allowance(&self, slot: u32) -> usize {
        self.table.ledger.budget.allowance(self.table.look(slot).map_or(0, Connection::rest))
    }

    /// By how much a buffer may grow beyond what is needed now.
    pub(crate) fn spare(&self) -> usize {
        self.table.ledger.budget.spare()
    }

    // ---- must it wait? ------------------------------------------------------------------

    /// Whether a connection owes so much, or memory is so short, that it must not be read; and
    /// whether memory is that short.
    pub(crate) fn verdict(&mut self, slot: u32) -> (bool, bool) {
        let budget = &self.table.ledger.budget;
        let high_water = budget.high_water();
        let Some(connection) = self.table.look(slot) else { return (false, false) };
        let Some(open) = connection.state.open() else { return (false, false) };
        let starves = budget.allowance(open.input.len()) == 0;
        let is_full = open.writing.is_full();
        // Once full, it is full until it has fallen to the low water mark, half of the high one.
        let mark = if is_full { high_water / 2 } else { high_water };
        let owes = connection.owes(mark) || open.unsent.file.is_some();
        let starved = is_full && open.needs_to_read() && starves;
        if starved && !owes {
            self.make_way();
        }
        if (owes || starved) && self.table.ledger.budget.is_short() {
            self.table.ledger.budget.squeeze();
        }
        (owes || starved, starves)
    }

    /// Holds a connection back until memory is free again.
    #[cold]
    pub(crate) fn hold_back(&mut self, slot: u32) {
        self.table.ledger.budget.squeeze();
        self.change(slot, |connection| connection.state.set_level(Level::Starved));
        self.make_way();
    }

    /// Marks those held back for want of memory, if enough has become free; whether it has.
    #[inline]
    pub(crate) fn relieve(&mut self) -> bool {
        let due = self.table.ledger.budget.take_relief();
        if due {
            self.relieve_the_full();
        }
        due
    }

    #[cold]
    fn relieve_the_full(&mut self) {
        let is_full = |open: &Open| open.writing.is_full();
        let held =
            self.table.slots_where(|connection| connection.state.open().is_some_and(is_full));
        held.into_iter().for_each(|slot| self.table.mark(slot));
    }

    // ---- must it go? --------------------------------------------------------------------

    /// A connection that owes nothing is held back. If incomplete messages fill the memory, or
    /// output has used up the reserve too (which only a broadcast does, for nobody asked for
    /// it), waiting may free nothing: the largest message goes, or the worst debtor.
    #[cold]
    fn make_way(&mut self) {
        let inputs: usize = self.table.iter().map(|(_, c)| c.input_footprint()).sum();
        let in_the_way = match inputs > self.table.ledger.budget.used() / 2 {
            true => self.largest(Connection::input_footprint),
            false if self.table.ledger.budget.share() == 0 => self.worst(),
            false => None,
        };
        if let Some(slot) = in_the_way {
            self.abort(slot, CloseReason::MemoryBudget);
        }
    }

    /// Ends the worst debtors until `more` bytes fit; whether they do.
    #[cold]
    pub(super) fn make_room(&mut self, more: usize) -> bool {
        while !self.table.ledger.budget.has_room_for(more) {
            if more > self.limits.max_memory {
                return false; // no other connection's end would help
            }
            let Some(slot) = self.worst() else { return false };
            self.abort(slot, CloseReason::MemoryBudget);
        }
        true
    }

    /// The connection that holds most; of those that have taken nothing for a while, if there
    /// are any.
    fn worst(&self) -> Option<u32> {
        let is_stalled = |connection: &Connection| {
            connection.state.unsent().is_some_and(|unsent| {
                let bytes = &unsent.bytes;
                let is_stalled = |since| self.now.since(since) >= STALLED;
                bytes.len() > RESERVE_EACH && bytes.since().is_some_and(is_stalled)
            })
        };
        let stalled = self.largest(|c| if is_stalled(c) { c.footprint() } else { 0 });
        stalled.or_else(|| self.largest(Connection::footprint))
    }

    /// Connections that hold almost nothing are not candidates.
    fn largest(&self, size: impl Fn(&Connection) -> usize) -> Option<u32> {
        let held = self.table.iter().filter(|(_, connection)| size(connection) > RESERVE_EACH);
        held.max_by_key(|(_, connection)| size(connection)).map(|(slot, _)| slot)
    }

    // ---- once a turn --------------------------------------------------------------------

    /// Enforces the budget after a batch: what grew although nobody reads is cut.
    pub(crate) fn keep_budget(&mut self) {
        self.make_room(0);
    }

    /// Sets a reserve aside for as many connections as there are.
    pub(crate) fn plan(&mut self) {
        self.table.ledger.budget.plan_for(self.table.len());
    }

    /// Whether a flood has run off: then memory should be returned to the kernel.
    #[inline]
    pub(crate) fn take_ebb(&mut self) -> bool {
        self.table.ledger.budget.take_ebb()
    }
}
