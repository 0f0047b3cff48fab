//! Memory that connections hold: which of them may be read, which must wait, which must go.
//!
//! The [budget](crate::budget) says how much is left, and here is decided what follows for a
//! connection. One that owes little may read what the budget allows it. One that owes as much
//! as the high water mark must wait until its output has been sent, and one that finds nothing
//! left to read into until others have freed some.
//!
//! A connection must go if it is in the way of another. It is the [worst](Net::worst) one of the
//! address that [holds most](super::shares): of those in which nothing has moved for a second
//! the one with the most bytes times seconds squared, or if there is none, the largest. It is in
//! the way of a connection whose address holds half as much at most. Within one address it is in
//! the way of one that has waited half as long at most, or holds much less. Half of what it gives
//! back is for the other to read into, and half is free again. The worst must also go if output
//! grew although the peer does not read. A connection that only has to wait, waits no longer than
//! for its message deadline.

use super::Net;
use super::quantum::WRITE;
use crate::buffer::{BLOCK, Buffer};
use crate::close_reason::CloseReason;
use crate::connection::{Connection, Open};
use crate::crowd::Network;
use crate::kernel::Peer;
use crate::time::{Moment, Span};

/// A connection whose bytes have waited for this long goes before all that wait less.
const STALLED: Span = Span::millis(1_000);
/// Bytes read at once of a peer that has hung up.
const LAST_WORDS: usize = 16 << 10;
/// What must be given back, at least, for one connection to go on.
const WAY: usize = 4 * BLOCK;

/// The connection that goes first when memory is short.
#[derive(Clone, Copy, Debug)]
pub(super) struct Worst {
    slot: u32,
    holds: usize,
    waited: Span,
    /// Its address, and what that holds.
    holder: Option<Network>,
    by_address: usize,
}

impl Net {
    // ---- may it be read? ----------------------------------------------------------------

    /// How many bytes of a connection may be read now.
    pub(crate) fn allowance(&self, slot: u32) -> usize {
        let Some(connection) = self.table.look(slot) else { return 0 };
        let by_address = self.table.ledger.shares.of(connection.peer());
        self.table.ledger.budget.allowance(connection.rest(), by_address)
    }

    // ---- must it wait? ------------------------------------------------------------------

    /// Whether a connection owes so much that it must not be read; and whether it would be read,
    /// but memory is too short.
    pub(crate) fn verdict(&mut self, slot: u32) -> (bool, bool) {
        let high_water = self.table.ledger.budget.high_water();
        let Some(connection) = self.table.look(slot) else { return (false, false) };
        let Some(open) = connection.state.open() else { return (false, false) };
        let is_full = open.flow.is_full();
        // Once full, it is full until it has fallen to the low water mark, half of the high one.
        let mark = if is_full { high_water / 2 } else { high_water };
        let owes = connection.owes(mark) || open.unsent.file.is_some();
        let needs_to_read = is_full && open.flow.needs_to_read();
        let starves = needs_to_read && self.allowance(slot) == 0;
        let starves = starves && (owes || self.in_the_way(slot).is_none());
        if (owes || starves) && self.table.ledger.budget.is_short() {
            self.table.ledger.budget.note_held_back();
        }
        (owes, starves)
    }

    /// How many bytes of a connection may be read now. If memory is too short, and nobody goes
    /// for it, it is held back until memory is free again.
    pub(crate) fn may_read(&mut self, slot: u32, hangup: bool) -> usize {
        match self.allowance(slot) {
            allowance if hangup => self.last_words(slot, allowance),
            0 => self.hold_back(slot),
            allowance => allowance,
        }
    }

    /// How many bytes may be read of a peer that has hung up, and cannot be held back because
    /// epoll would report it in every wait. If output waits, the peer will not take it: its memory is
    /// free at once, and the input is read in its turn; so it is if the handler waits for another
    /// connection to take it. If there is no memory, it ends.
    #[cold]
    fn last_words(&mut self, slot: u32, allowance: usize) -> usize {
        let open = self.table.look(slot).and_then(|connection| connection.state.open());
        let is_over = open.is_some_and(|it| it.waits_to_send() || it.asked.keeps_input());
        match allowance {
            _ if is_over => self.change(slot, |it| it.broken(CloseReason::PeerReset)),
            0 => self.change(slot, |it| it.gone(CloseReason::PeerReset)),
            _ => return allowance.min(LAST_WORDS),
        };
        0
    }

    #[cold]
    fn hold_back(&mut self, slot: u32) -> usize {
        let allowance = self.make_way(slot);
        if allowance == 0 {
            self.table.ledger.budget.note_held_back();
            self.change(slot, |connection| {
                connection.state.open_mut().into_iter().for_each(|open| open.flow.starve());
            });
        }
        allowance
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
        let is_full = |open: &Open| open.flow.is_full();
        for slot in 0..self.limits.slots() {
            if self.table.look(slot).is_some_and(|it| it.state.open().is_some_and(is_full)) {
                self.table.mark(slot);
            }
        }
    }

    /// What a connection holds is that client's from now on, who came through a front.
    pub(crate) fn hand_over(&mut self, slot: u32, client: Peer) {
        let Some(connection) = self.table.look(slot) else { return };
        let (front, held) = (connection.peer(), connection.footprint());
        self.table.ledger.shares.changed(front, held, 0);
        self.table.ledger.shares.changed(client, 0, held);
    }

    // ---- must it go? --------------------------------------------------------------------

    /// Ends connections that are in the way of one that found no memory. How many bytes of that
    /// may be read now.
    #[cold]
    fn make_way(&mut self, slot: u32) -> usize {
        let mut freed = 0;
        while freed < WAY
            && let Some(worst) = self.in_the_way(slot)
        {
            self.abort(worst.slot, CloseReason::MemoryBudget);
            freed += worst.holds;
        }
        self.allowance(slot).max(freed / 2)
    }

    /// The worst connection, if it must go for this one to be read.
    fn in_the_way(&mut self, slot: u32) -> Option<Worst> {
        let worst = self.worst()?;
        let connection = self.table.look(slot)?;
        let is_stalled = worst.waited >= STALLED;
        let is_late = is_stalled && worst.waited.half() >= waited(connection, self.now);
        // Else all that were stopped half-way would cut each other for their next bytes.
        let much = if is_stalled { 16 } else { 2 };
        let is_in_the_way = match Network::of(connection.peer()) == worst.holder {
            true => is_late || worst.holds / much >= connection.footprint(),
            false => worst.by_address / 2 >= self.table.ledger.shares.of(connection.peer()),
        };
        is_in_the_way.then_some(worst)
    }

    /// Ends the worst debtors until `more` bytes fit; whether they do.
    #[inline]
    pub(super) fn make_room(&mut self, more: usize) -> bool {
        while !self.table.ledger.budget.has_room_for(more) {
            if more > self.limits.max_memory {
                return false; // no other connection's end would help
            }
            let Some(worst) = self.worst() else { return false };
            self.abort(worst.slot, CloseReason::MemoryBudget);
        }
        true
    }

    /// Of the address that holds most the connection that is to go first. It is looked for once
    /// a turn, and when it has gone.
    #[cold]
    fn worst(&mut self) -> Option<Worst> {
        let is_there = |worst: &Worst| {
            let connection = self.table.look(worst.slot);
            connection.is_some_and(|it| it.footprint() == worst.holds)
        };
        if self.worst.is_none_or(|worst| !is_there(&worst)) {
            self.spend(WRITE * self.table.len()); // all are looked at
            self.worst = self.look_for_worst();
        }
        self.worst
    }

    fn look_for_worst(&self) -> Option<Worst> {
        let (holder, by_address) = self.table.ledger.shares.largest()?;
        let is_of_holder = |connection: &Connection| {
            Network::of(connection.peer()) == holder && connection.footprint() > 0
        };
        let held = self.table.iter().filter(|(_, connection)| is_of_holder(connection));
        let worst = held.max_by_key(|(_, connection)| rank(connection, self.now));
        worst.map(|(slot, connection)| Worst {
            slot,
            holder,
            by_address,
            holds: connection.footprint(),
            waited: waited(connection, self.now),
        })
    }

    // ---- once a turn --------------------------------------------------------------------

    /// Enforces the budget after a batch: what grew although nobody reads is cut.
    #[inline]
    pub(crate) fn keep_budget(&mut self) {
        self.worst = None;
        self.make_room(0);
    }

    /// Whether a flood has run off: then memory should be returned to the kernel.
    #[inline]
    pub(crate) fn take_decline(&mut self) -> bool {
        self.table.ledger.budget.take_decline()
    }
}

/// The higher, the sooner a connection goes. Of those that have stalled both the large and the old
/// cost much; but the time counts twice, because a long line that is slow for once is younger than
/// those that fill the memory.
fn rank(connection: &Connection, now: Moment) -> (bool, u64, u64) {
    let (holds, waited) = (connection.footprint() as u64, waited(connection, now));
    let time = waited.as_millis();
    let is_stalled = waited >= STALLED;
    (
        is_stalled,
        if is_stalled { holds.saturating_mul(time.saturating_mul(time)) } else { holds },
        time,
    )
}

/// How long the kernel has taken nothing of its output; or, if there is none, the front of its
/// input has waited; or, if there is neither, no byte has moved.
fn waited(connection: &Connection, now: Moment) -> Span {
    let output = connection.state.unsent().and_then(|unsent| unsent.bytes.since());
    let input = || connection.state.input().and_then(Buffer::since);
    output.or_else(input).map_or_else(|| connection.idle(now), |since| now.since(since))
}
