//! The table of connections, and the one door to each of them.
//!
//! [`look`](Table::look) shows a connection. [`edit`](Table::edit) lends it out to be changed;
//! when it comes back, what it holds is counted and it is marked to be settled, so that no
//! caller can forget either. Bytes that pass change neither the state of a connection nor what
//! it holds: a [`Tally`] notes them, and leaves nothing to be settled. There is no other way to
//! a connection, because `slots` is private to this file.
//!
//! Invariants:
//! 1. The budget counts the footprints of all connections; the outbox may take what it leaves.
//! 2. A connection that was edited and is not settled yet is in `marked`, once.
//! 3. `staged` is what the outbox holds for a connection, or [`ANSWER`]: its only segment
//!    there, not counted yet. It is counted before more than the answer happens to it.

use crate::budget::Budget;
use crate::connection::{ANSWER, Attention, Connection};
use crate::limits::Limits;
use crate::outbox::Outbox;
use crate::slots::{Id, Slots};
use crate::time::Moment;
use std::collections::TryReserveError;
use std::mem::{forget, take};
use std::ops::{Deref, DerefMut};

#[derive(Debug)]
pub(crate) struct Table {
    slots: Slots<Connection>,
    /// The connections to be settled.
    marked: Vec<u32>,
    pub(super) budget: Budget,
    pub(super) outbox: Outbox,
}

impl Table {
    pub(super) fn new(limits: &Limits, mut outbox: Outbox) -> Result<Table, TryReserveError> {
        let slots = Slots::with_capacity(limits.slots())?;
        let budget = Budget::new(limits.max_memory, limits.high_water);
        outbox.limit(budget.left());
        Ok(Table { slots, marked: Vec::new(), budget, outbox })
    }

    // ---- the door -----------------------------------------------------------------------

    /// The connection in `slot`, to be looked at.
    #[inline]
    pub(crate) fn look(&self, slot: u32) -> Option<&Connection> {
        self.slots.get(slot)
    }

    /// The connection in `slot`, to be changed.
    pub(crate) fn edit(&mut self, slot: u32) -> Option<Edit<'_>> {
        self.close_answer();
        let Table { slots, marked, budget, outbox } = self;
        let connection = slots.get_mut(slot)?;
        count_answer(connection, slot, outbox);
        let held = connection.footprint();
        Some(Edit { connection, slot, held, marked, budget, outbox })
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

    /// Adds a connection, which holds nothing yet.
    pub(crate) fn insert(&mut self, connection: Connection) -> Id {
        self.slots.insert(connection)
    }

    /// Removes a connection, and what it holds from the budget.
    pub(crate) fn remove(&mut self, slot: u32) -> Option<Connection> {
        let connection = self.slots.remove(slot)?;
        recount(&mut self.budget, &mut self.outbox, connection.footprint(), 0);
        Some(connection)
    }

    /// Marks a connection to be settled.
    pub(crate) fn mark(&mut self, slot: u32) {
        self.close_answer();
        if let Some(connection) = self.slots.get_mut(slot) {
            count_answer(connection, slot, &self.outbox);
            mark(connection, slot, &mut self.marked);
        }
    }

    /// Takes a connection that is to be settled.
    pub(crate) fn next_marked(&mut self) -> Option<u32> {
        self.marked.pop()
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.marked.is_empty()
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
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Connection)> {
        self.slots.iter()
    }

    /// The slots of those for which `is` holds.
    pub(crate) fn slots_where(&self, is: impl Fn(&Connection) -> bool) -> Vec<u32> {
        self.iter().filter(|(_, connection)| is(connection)).map(|(slot, _)| slot).collect()
    }

    /// The memory that is counted, and that which connections hold: always the same.
    pub(crate) fn memory(&self) -> (usize, usize) {
        let held = self.iter().map(|(_, connection)| connection.footprint());
        (self.budget.used(), held.sum())
    }

    pub(crate) fn is_counted(&self) -> bool {
        let (counted, held) = self.memory();
        counted == held
    }

    /// Whether the outbox may take what the budget leaves, as always.
    pub(crate) fn is_measured(&self) -> bool {
        self.outbox.is_limited_to(self.budget.left())
    }

    // ---- output in the outbox -----------------------------------------------------------

    /// Begins the answer of a connection that is quiet, and so owes nothing.
    #[inline]
    pub(crate) fn open_answer(&mut self, slot: u32) {
        self.outbox.open(slot, self.budget.high_water());
    }

    /// Ends it, if it has not ended because more than that happened.
    #[inline]
    pub(crate) fn close_answer(&mut self) {
        if let Some(slot) = self.outbox.close() {
            self.answered_oddly(slot);
        }
    }

    /// The handler wrote nothing, or enough to fill the connection.
    #[cold]
    fn answered_oddly(&mut self, slot: u32) {
        if self.outbox.length_of(slot) > 0 {
            self.became_full(slot);
        } else if let Some(connection) = self.slots.get_mut(slot) {
            connection.staged = 0;
        }
    }

    /// Lets `put` append `n` bytes to the outbox, if the connection takes output; whether they
    /// are there.
    pub(super) fn stage(
        &mut self,
        slot: u32,
        n: usize,
        put: impl FnOnce(&mut Outbox) -> bool,
    ) -> bool {
        self.close_answer();
        let Some(connection) = self.slots.get_mut(slot) else { return false };
        count_answer(connection, slot, &self.outbox);
        let staged = connection.state.takes_output() && put(&mut self.outbox);
        if staged {
            connection.staged = (connection.staged as usize + n).min(ANSWER as usize - 1) as u32;
            if connection.owes(self.budget.high_water()) {
                self.became_full(slot);
            }
        }
        staged
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
        match self.look(slot) {
            Some(connection) if connection.staged == ANSWER => self.outbox.length_of(slot),
            connection => connection.map_or(0, Connection::queued),
        }
    }

    /// Whether output is above the high water mark.
    #[inline]
    pub(super) fn is_full(&self, slot: u32) -> bool {
        let is_full = || self.look(slot).is_some_and(|connection| connection.state.is_full());
        self.outbox.is_full(slot).unwrap_or_else(is_full)
    }

    /// A segment of the outbox: its slot and bytes, and the connection they are for.
    #[inline]
    pub(super) fn segment(&mut self, index: usize) -> Option<(u32, &[u8], Tally<'_>)> {
        let (slot, bytes) = self.outbox.get(index)?;
        Some((slot, bytes, Tally(self.slots.get_mut(slot)?)))
    }

    /// Lends the outbox out, to be given back.
    pub(super) fn take_outbox(&mut self) -> Outbox {
        take(&mut self.outbox)
    }

    pub(super) fn put_outbox(&mut self, outbox: Outbox) {
        self.outbox = outbox;
        self.outbox.limit(self.budget.left()); // it was away when that changed
    }
}

/// What is staged for a connection is counted.
#[inline]
fn count_answer(connection: &mut Connection, slot: u32, outbox: &Outbox) {
    if connection.staged == ANSWER {
        connection.staged = outbox.length_of(slot) as u32;
    }
}

#[inline]
fn mark(connection: &mut Connection, slot: u32, marked: &mut Vec<u32>) {
    if connection.attention != Attention::Marked {
        connection.attention = Attention::Marked;
        marked.push(slot);
    }
}

/// A connection that held `before` bytes holds `after`.
#[inline]
fn recount(budget: &mut Budget, outbox: &mut Outbox, before: usize, after: usize) {
    if before != after {
        budget.changed(before, after);
        outbox.limit(budget.left());
    }
}

/// A connection that is lent out to be changed.
pub(crate) struct Edit<'a> {
    connection: &'a mut Connection,
    slot: u32,
    /// What it held when it was lent.
    held: usize,
    marked: &'a mut Vec<u32>,
    budget: &'a mut Budget,
    outbox: &'a mut Outbox,
}

impl Edit<'_> {
    /// It is settled now, and not by its return to be settled once more.
    pub(crate) fn settled(mut self, attention: Attention) {
        self.recount();
        self.connection.attention = attention;
        forget(self);
    }

    fn recount(&mut self) {
        recount(self.budget, self.outbox, self.held, self.connection.footprint());
    }
}

impl Drop for Edit<'_> {
    fn drop(&mut self) {
        self.recount();
        mark(self.connection, self.slot, self.marked);
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
    pub(crate) fn asked(&mut self, n: usize, now: Moment) {
        self.0.received += n as u64;
        self.0.last = now.tick();
        self.0.staged = ANSWER;
    }

    /// Takes the answer from what is staged.
    #[inline]
    pub(super) fn take_answer(&mut self) {
        self.0.staged = 0;
    }

    /// Takes `n` bytes from what is staged.
    pub(super) fn take_staged(&mut self, n: usize) {
        self.0.staged = (self.0.staged as usize).saturating_sub(n) as u32;
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
