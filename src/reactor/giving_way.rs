//! Which connection gives way when all places are taken and a client waits.
//!
//! Ten thousand idle connections from one address would keep all other clients out until the
//! idle timeout. So a new client gets the place of the connection that has been idle for longest,
//! if its address has more than a quarter of all places and nothing is going on in it:
//! nothing half received or half sent, and nothing for which its handler holds or pauses it.
//!
//! Only a listener reports that a client waits. So the listeners are watched even when all places
//! are taken, until one reports a client and no connection can give way; then not for a second,
//! or until there is a place.
//!
//! Invariant: a look at all connections finds up to 64, so that newcomers share its cost.

use super::Reactor;
use crate::close_reason::CloseReason;
use crate::connection::{Connection, OUTBOUND};
use crate::crowd::Crowded;
use crate::deadlines::Alarm;
use crate::fallible::with_room;
use crate::handler::ConnectionHandler;
use crate::kernel::Kernel;
use crate::slots::Id;
use crate::time::{Moment, Span};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Most connections that one look finds.
const FOUND: usize = 64;
/// How long what was found is true, also if that was nothing.
const FRESH: Span = Span::millis(1_000);

#[derive(Debug, Default)]
pub(crate) struct GivingWay {
    /// Who gives way next; the last is the first.
    next: Vec<Id>,
    /// Until when that is true.
    fresh_until: Moment,
    /// No connection could give way: none is looked for until then.
    rests_until: Moment,
}

impl<H: ConnectionHandler, K: Kernel> Reactor<H, K> {
    /// Whether all places are taken, and a connection may give way to a newcomer, as far as is
    /// known.
    pub(super) fn may_give_way(&self) -> bool {
        let places = self.net.limits.max_connections as usize;
        let is_taken = self.net.table.len() - self.net.outbound as usize >= places;
        let rests = self.net.now < self.giving_way.rests_until;
        let is_on = self.net.timeouts.give_way.is_some() && places > 1; // one is no crowd
        is_on && is_taken && !rests && !self.net.is_draining()
    }

    /// A client waits: one connection gives way, if any can.
    #[cold]
    pub(super) fn give_way(&mut self) {
        let Some(idle) = self.net.timeouts.give_way else { return };
        if !self.may_give_way() || self.rest.left > 0 {
            return; // what is left of a batch may be bytes of a connection that seems idle
        }
        let now = self.net.now;
        if now >= self.giving_way.fresh_until || self.giving_way.next.is_empty() {
            self.look_for_idle(idle).unwrap_or_default(); // without memory nobody gives way now
        }
        while let Some(id) = self.giving_way.next.pop() {
            if self.net.table.find(id).is_some_and(|it| it.can_give_way(idle, now)) {
                self.net.change(id.slot, |connection| connection.gone(CloseReason::GaveWay));
                return;
            }
        }
        let until = now.after(FRESH);
        self.giving_way.rests_until = until;
        self.timer.alarms.ring_by(Alarm::Accept, until);
    }

    /// Finds those that have been idle for longest, of addresses with too many places. `None` if
    /// there is no memory for them.
    fn look_for_idle(&mut self, idle: Span) -> Option<()> {
        let now = self.net.now;
        self.giving_way.fresh_until = now.after(FRESH);
        let accepted = |(_, it): &(u32, &Connection)| it.listener() != OUTBOUND;
        let peers = self.net.table.iter().filter(accepted).map(|(_, it)| it.peer());
        let mut crowded = Crowded::find(peers, self.net.limits.max_connections as usize);
        let mut found = BinaryHeap::from(with_room(FOUND + 1)?);
        self.giving_way.next.try_reserve(FOUND).ok()?;
        for (slot, it) in self.net.table.iter().filter(accepted) {
            if it.can_give_way(idle, now) && crowded.has(it.peer()) {
                found.push(Reverse((it.idle(now), Reverse(slot))));
            }
            if found.len() > FOUND {
                found.pop(); // that which has been idle for the shortest
            }
        }
        let mut found = found.into_sorted_vec();
        let table = &self.net.table;
        let mut takes = |slot| table.look(slot).is_some_and(|it| crowded.take(it.peer()));
        found.retain(|&Reverse((_, Reverse(slot)))| takes(slot));
        let ids = found.iter().rev().map(|&Reverse((_, Reverse(slot)))| table.id(slot));
        self.giving_way.next.clear();
        self.giving_way.next.extend(ids);
        Some(())
    }
}
