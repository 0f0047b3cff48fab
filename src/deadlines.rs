//! When to look at which slot: deadlines that cost nothing per message.
//!
//! A message only stores the time in its connection. Here each slot has at most
//! one entry: the time at which the loop should look at it. When that comes, the
//! true deadline is computed from the connection's fields, which may be
//! later, and the entry is set again. The next owner of a slot inherits its
//! entry: a look too early is harmless, so closing a connection costs nothing.
//!
//! It is a binary heap that knows where each slot stands, so that an entry can
//! be moved forward: however often deadlines appear, there is one entry a slot.
//!
//! Invariants:
//! 1. `place[slot]` is the index of the slot's entry in `heap`, or `NOWHERE`.
//! 2. No entry is earlier than its parent.

use crate::time::{Moment, Tick};
use std::collections::TryReserveError;

#[derive(Debug)]
pub(crate) struct Deadlines {
    heap: Vec<(Tick, u32)>,
    place: Vec<u32>,
}

const NOWHERE: u32 = u32::MAX;

impl Deadlines {
    pub(crate) fn with_capacity(slots: u32) -> Result<Deadlines, TryReserveError> {
        let mut deadlines = Deadlines { heap: Vec::new(), place: Vec::new() };
        deadlines.heap.try_reserve_exact(slots as usize)?;
        deadlines.place.try_reserve_exact(slots as usize)?;
        Ok(deadlines)
    }

    /// Sees to it that `slot` is looked at no later than `at`.
    pub(crate) fn look_by(&mut self, slot: u32, at: Tick) {
        while self.place.len() <= slot as usize {
            self.place.push(NOWHERE);
        }
        let mut place = self.place_of(slot);
        match self.heap.get_mut(place) {
            Some((look, _)) if at.is_before(*look) => *look = at,
            Some(_) => return, // looked at early enough
            None => {
                place = self.heap.len();
                self.heap.push((at, slot));
            }
        }
        self.set_place(place);
        self.sift_up(place);
    }

    /// The earliest time at which to look.
    pub(crate) fn next(&self) -> Option<Tick> {
        self.heap.first().map(|&(at, _)| at)
    }

    /// Takes one slot whose time has come.
    pub(crate) fn pop_due(&mut self, now: Moment) -> Option<u32> {
        let &(at, slot) = self.heap.first()?;
        if now.tick().is_before(at) {
            return None;
        }
        self.heap.swap_remove(0);
        if let Some(place) = self.place.get_mut(slot as usize) {
            *place = NOWHERE;
        }
        self.set_place(0);
        self.sift_down(0);
        Some(slot)
    }

    pub(crate) fn clear(&mut self) {
        self.heap.clear();
        self.place.fill(NOWHERE);
    }

    fn place_of(&self, slot: u32) -> usize {
        self.place.get(slot as usize).map_or(NOWHERE, |&place| place) as usize
    }

    /// Writes down where the entry at `place` stands, if there is one.
    fn set_place(&mut self, place: usize) {
        if let Some(&(_, slot)) = self.heap.get(place)
            && let Some(known) = self.place.get_mut(slot as usize)
        {
            *known = place as u32;
        }
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.heap.swap(a, b);
        self.set_place(a);
        self.set_place(b);
    }

    fn is_before(&self, a: usize, b: usize) -> bool {
        match (self.heap.get(a), self.heap.get(b)) {
            (Some((a, _)), Some((b, _))) => a.is_before(*b),
            _ => false,
        }
    }

    fn sift_up(&mut self, mut place: usize) {
        while place > 0 && self.is_before(place, (place - 1) / 2) {
            self.swap(place, (place - 1) / 2);
            place = (place - 1) / 2;
        }
    }

    fn sift_down(&mut self, mut place: usize) {
        loop {
            let (left, right) = (2 * place + 1, 2 * place + 2);
            let child = if self.is_before(right, left) { right } else { left };
            if !self.is_before(child, place) {
                return;
            }
            self.swap(place, child);
            place = child;
        }
    }
}

/// The loop's own deadlines, beside those of the connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alarm {
    /// The service manager is to hear that the loop turns.
    Watchdog,
    /// A stop that was announced begins.
    Stop,
    /// Clients are accepted again, after a pause.
    Accept,
    /// Outbound connections are tried again that could not be begun.
    Dial,
    /// A report is due that came too soon after another.
    Report,
    /// A stopping server closes its listeners.
    CloseListeners,
    /// A stopping server cuts off what has not finished.
    Cut,
}

impl Alarm {
    pub(crate) const ALL: [Alarm; 7] = [
        Alarm::Watchdog,
        Alarm::Stop,
        Alarm::Accept,
        Alarm::Dial,
        Alarm::Report,
        Alarm::CloseListeners,
        Alarm::Cut,
    ];
}

/// At most one time for each [`Alarm`].
#[derive(Debug, Default)]
pub(crate) struct Alarms {
    at: [Option<Moment>; Alarm::ALL.len()],
    /// The earliest of them, which nearly each turn asks for.
    next: Option<Moment>,
}

impl Alarms {
    /// Sets an alarm, or moves it forward.
    pub(crate) fn ring_by(&mut self, alarm: Alarm, at: Moment) {
        if let Some(set) = self.at.get_mut(alarm as usize) {
            *set = Some(set.map_or(at, |set| set.min(at)));
        }
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
    }

    /// Takes an alarm whose time has come.
    pub(crate) fn pop_due(&mut self, now: Moment) -> Option<Alarm> {
        let due = |alarm: &Alarm| {
            self.at.get(*alarm as usize).is_some_and(|set| set.is_some_and(|at| at <= now))
        };
        let alarm = Alarm::ALL.into_iter().find(due)?;
        *self.at.get_mut(alarm as usize)? = None;
        self.next = self.at.iter().flatten().copied().min();
        Some(alarm)
    }

    /// The earliest.
    pub(crate) fn next(&self) -> Option<Moment> {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Random deadlines come due as they do in a map of slots, across the wrap of the clock.
    #[test]
    fn behaves_as_a_map_of_slots() {
        let mut deadlines = Deadlines::with_capacity(0).unwrap();
        let mut model = BTreeMap::new();
        let (mut random, mut now) = (7u64, u64::from(u32::MAX) - 5_000);
        for step in 0..40_000u64 {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(step);
            let (slot, at) = ((random >> 40) as u32 % 60, now + (random >> 20) % 500);
            deadlines.look_by(slot, Moment::from_millis(at).tick());
            let entry = model.entry(slot).or_insert(at);
            *entry = at.min(*entry);
            if random.is_multiple_of(8) {
                now += (random >> 50) % 100;
                while let Some(slot) = deadlines.pop_due(Moment::from_millis(now)) {
                    assert!(model.remove(&slot).unwrap() <= now);
                }
                assert!(model.values().all(|&at| at > now));
            }
            let earliest = model.values().min().map(|&at| Moment::from_millis(at).tick());
            assert_eq!(deadlines.next(), earliest);
            assert_eq!(deadlines.heap.len(), model.len());
        }
    }
}
