//! Timers, those of the handler and those of a connection; and the timeouts that a connection
//! has for itself.
//!
//! ```text
//!  Net::after              ─▶ of_handler, in the order in which they ring ─▶ on_tick
//!  Conn::set_timer         ─▶ a field of the connection                   ─▶ on_timer
//!  Conn::set_timer_for(7)  ─▶ keyed; the earliest is in that field, too   ─▶ on_timer_for
//! ```
//!
//! All of them are deadlines among others: the loop sets one timerfd to the earliest, and no
//! message looks at any. A timer that is canceled is removed, and costs nothing more. A timer of
//! a connection that each message puts off is a field that is written.
//!
//! Invariants:
//! 1. The field of a connection with timers in `keyed` is the earliest of these, or `None`.
//! 2. A slot in `keyed` has at least one timer, and leaves `keyed` with its connection.

use super::{Conn, Net};
use crate::close_reason::CloseReason;
use crate::fallible::Map;
use crate::limits::Timeouts;
use crate::time::{Moment, Span};
use std::collections::BTreeMap;
use std::time::Duration;

/// Names a timer that [`Net::after`] has set: an id is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimerId {
    at: Moment,
    /// The order of those for the same millisecond.
    serial: u64,
}

/// A timer of a connection: its key, unless it is the one without, and when it is due.
type Keyed = (Option<u32>, Moment);

/// Keeps the memory of the map that it is in: so a few timers come and go without any.
const NEVER: TimerId = TimerId { at: Moment::from_millis(u64::MAX >> 1), serial: 0 };

#[derive(Debug)]
pub(crate) struct Timers {
    of_handler: BTreeMap<TimerId, u64>,
    /// How many the handler has set.
    count: u64,
    /// By slot. (A list, because a connection has few.)
    keyed: Map<u32, Vec<Keyed>>,
}

impl Default for Timers {
    fn default() -> Timers {
        Timers { of_handler: BTreeMap::from([(NEVER, 0)]), count: 0, keyed: Map::default() }
    }
}

impl Timers {
    /// When the next timer of the handler is due.
    pub(crate) fn next(&self) -> Option<Moment> {
        let first = self.of_handler.first_key_value().filter(|(timer, _)| **timer != NEVER);
        first.map(|(timer, _)| timer.at)
    }

    /// Takes a timer of the handler that is due.
    pub(crate) fn pop_due(&mut self, now: Moment) -> Option<(TimerId, u64)> {
        let first = self.of_handler.first_entry()?;
        (first.key().at <= now).then(|| first.remove_entry())
    }

    /// Whether no connection has a timer with a key.
    #[inline]
    pub(super) fn has_no_keys(&self) -> bool {
        self.keyed.is_empty()
    }

    /// Forgets the timers of a connection that is gone.
    pub(super) fn forget(&mut self, slot: u32) {
        self.keyed.remove(&slot);
    }
}

impl Net {
    /// Calls [`on_tick`](crate::ConnectionHandler::on_tick) once after `delay`, with this
    /// `token`: a timer of the handler, which belongs to no connection. There can be as many
    /// as wanted. They do not hold up a stop.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use threadbare::{Conn, ConnectionHandler, Error, Net, TimerId};
    /// /// Sends the time to every client, once a second.
    /// struct Clock;
    ///
    /// impl ConnectionHandler for Clock {
    ///     type Session = ();
    ///     fn on_start(&mut self, net: &mut Net) -> Result<(), Error> {
    ///         net.after(Duration::from_secs(1), 0);
    ///         Ok(())
    ///     }
    ///     fn on_tick(&mut self, net: &mut Net, _: TimerId, _: u64) {
    ///         let line = format!("{:?}\n", net.now());
    ///         for id in net.ids() {
    ///             net.send(id, line.as_bytes());
    ///         }
    ///         net.after(Duration::from_secs(1), 0);
    ///     }
    ///     fn on_data(&mut self, _: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
    ///         input.len()
    ///     }
    /// }
    /// ```
    pub fn after(&mut self, delay: Duration, token: u64) -> TimerId {
        let at = self.now.after(Span::at_least(delay));
        if self.timers.next().is_none_or(|next| at < next) {
            self.table.unsettle(); // the timerfd may have to be set
        }
        self.timers.count += 1;
        let timer = TimerId { at, serial: self.timers.count };
        self.timers.of_handler.insert(timer, token);
        timer
    }

    /// Cancels a timer that [`after`](Net::after) has set; `false` if it has rung.
    ///
    /// ```
    /// # use std::{collections::HashMap, time::Duration};
    /// # use threadbare::{Net, TimerId};
    /// struct Cache {
    ///     /// What expires when.
    ///     keys: HashMap<TimerId, String>,
    /// }
    ///
    /// impl Cache {
    ///     fn keep(&mut self, net: &mut Net, key: String) -> TimerId {
    ///         let timer = net.after(Duration::from_secs(60), 0);
    ///         self.keys.insert(timer, key); // `on_tick` removes it
    ///         timer
    ///     }
    ///
    ///     fn remove(&mut self, net: &mut Net, timer: TimerId) {
    ///         net.cancel(timer);
    ///         self.keys.remove(&timer);
    ///     }
    /// }
    /// ```
    pub fn cancel(&mut self, timer: TimerId) -> bool {
        self.timers.of_handler.remove(&timer).is_some()
    }

    /// Sets, replaces or cancels a timer of a connection, which ends if there is no memory for it.
    fn set_timer(&mut self, slot: u32, key: Option<u32>, delay: Option<Duration>) {
        let at = delay.map(|delay| self.now.after(Span::at_least(delay)));
        let mut next = at;
        if key.is_some() || self.timers.keyed.contains_key(&slot) {
            if self.set_keyed(slot, key, at).is_none() {
                return self.abort(slot, CloseReason::MemoryBudget);
            }
            next = self.earliest(slot);
        }
        if !self.table.tally(slot).is_some_and(|mut connection| connection.put_off(next)) {
            self.change(slot, |connection| connection.state.set_timer(next));
        }
    }

    /// The same for one of several. `None` if there is no memory for it.
    fn set_keyed(&mut self, slot: u32, key: Option<u32>, at: Option<Moment>) -> Option<()> {
        self.timers.keyed.try_reserve(1).ok()?;
        let plain = self.table.look(slot).and_then(|it| it.state.timer());
        let is_first = !self.timers.keyed.contains_key(&slot);
        let timers = self.timers.keyed.entry(slot).or_default();
        match is_first {
            // Most connections have no more.
            true => timers.try_reserve_exact(1 + usize::from(plain.is_some())).ok()?,
            false => timers.try_reserve(1).ok()?,
        }
        timers.extend(plain.filter(|_| is_first).map(|at| (None, at)));
        timers.retain(|(other, _)| *other != key);
        timers.extend(at.map(|at| (key, at)));
        Some(())
    }

    /// When the next timer with a key is due; a slot without any is forgotten.
    fn earliest(&mut self, slot: u32) -> Option<Moment> {
        let next = self.timers.keyed.get(&slot)?.iter().map(|&(_, at)| at).min();
        if next.is_none() {
            self.timers.keyed.remove(&slot);
        }
        next
    }

    /// Takes the key of a timer of this connection that is due, in the order of their times.
    pub(crate) fn pop_key(&mut self, slot: u32, now: Moment) -> Option<Option<u32>> {
        self.table.look(slot)?.state.open()?; // a callback may have closed it
        let timers = self.timers.keyed.get_mut(&slot)?;
        let (_, at, index) = timers
            .iter()
            .enumerate()
            .map(|(i, &(key, at))| (key, at, i))
            .min_by_key(|&(key, at, _)| (at, key))?;
        let key = (at <= now).then(|| timers.swap_remove(index).0);
        let next = self.earliest(slot);
        self.change(slot, |connection| connection.state.set_timer(next));
        key
    }

    /// Whether a connection has timers with keys.
    pub(crate) fn has_keys(&self, slot: u32) -> bool {
        self.timers.keyed.contains_key(&slot)
    }
}

impl Conn<'_> {
    /// The timeouts that it has.
    #[must_use]
    pub fn timeouts(&self) -> Timeouts {
        self.net.timeouts.told(self.slot)
    }

    /// Gives it timeouts of its own, from now on: more time than others, or less, or no end.
    ///
    /// ```
    /// # use threadbare::{Conn, Timeouts};
    /// # fn subscribe(conn: &mut Conn<'_>) {
    /// // From now on it waits for news, and need not say anything.
    /// conn.set_timeouts(Timeouts { idle: None, ..conn.timeouts() });
    /// # }
    /// ```
    ///
    /// The kernel's own guard against a peer that acknowledges nothing (TCP_USER_TIMEOUT) stays
    /// at twice [`Limits::write_timeout`](crate::Limits::write_timeout).
    pub fn set_timeouts(&mut self, timeouts: Timeouts) {
        if self.net.timeouts.set(self.slot, timeouts).is_none() {
            return self.out_of_memory();
        }
        self.net.table.mark(self.slot); // its deadline may be another
    }

    /// Calls [`on_timer`](crate::ConnectionHandler::on_timer) once after `delay`, or never;
    /// replaces the time set before. To put it off at each message costs next to nothing.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use threadbare::{Conn, ConnectionHandler, sim::World};
    /// const SILENCE: Duration = Duration::from_secs(5);
    /// # struct Impatient;
    /// # impl ConnectionHandler for Impatient {
    /// # type Session = ();
    ///
    /// fn on_data(&mut self, conn: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
    ///     conn.set_timer(Some(SILENCE));
    ///     input.len()
    /// }
    ///
    /// fn on_timer(&mut self, conn: &mut Conn<'_>, _: &mut ()) {
    ///     conn.write(b"hello?\n");
    ///     conn.set_timer(Some(SILENCE)); // once more
    /// }
    /// # }
    /// # let mut world = World::new(Impatient);
    /// # let mut client = world.client();
    /// # world.ask(&mut client, b"x");
    /// # world.advance(2 * SILENCE + Duration::from_millis(10));
    /// # assert_eq!(client.recv(), b"hello?\nhello?\n");
    /// ```
    pub fn set_timer(&mut self, delay: Option<Duration>) {
        self.net.set_timer(self.slot, None, delay);
    }

    /// The same with a `key`, for a handler that waits for several things at once: each key
    /// has a timer of its own, and
    /// [`on_timer_for`](crate::ConnectionHandler::on_timer_for) is called with it.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use threadbare::{Conn, ConnectionHandler, sim::World};
    /// const PING: u32 = 1;
    /// const LOGIN: u32 = 2;
    /// # struct Login;
    /// # impl ConnectionHandler for Login {
    /// # type Session = ();
    ///
    /// fn on_open(&mut self, conn: &mut Conn<'_>, _: &mut ()) {
    ///     conn.set_timer_for(PING, Some(Duration::from_secs(20)));
    ///     conn.set_timer_for(LOGIN, Some(Duration::from_secs(30)));
    /// }
    ///
    /// fn on_timer_for(&mut self, conn: &mut Conn<'_>, _: &mut (), key: u32) {
    ///     match key {
    ///         PING => conn.write(b"ping\n"),
    ///         _ => conn.close(),
    ///     }
    /// }
    ///
    /// fn on_data(&mut self, conn: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
    ///     conn.set_timer_for(LOGIN, None); // it has logged in
    ///     input.len()
    /// }
    /// # }
    /// # let mut world = World::new(Login);
    /// # let (mut silent, mut talks) = (world.client(), world.client());
    /// # world.ask(&mut talks, b"me");
    /// # world.advance(Duration::from_secs(31));
    /// # assert_eq!((silent.recv(), talks.recv()), (b"ping\n".to_vec(), b"ping\n".to_vec()));
    /// # assert!(silent.saw_eof() && !talks.saw_eof());
    /// ```
    pub fn set_timer_for(&mut self, key: u32, delay: Option<Duration>) {
        self.net.set_timer(self.slot, Some(key), delay);
    }
}
