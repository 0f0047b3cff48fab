//! Time: whose deadline has come, and when the timerfd is to expire next.
//!
//! A deadline is not a timer. What a connection waits for follows from its fields, so when
//! the timerfd expires each slot that is due is looked at, and most often only entered anew.
//! The timerfd is set when an earlier deadline has appeared, or after it expired.

use super::turn::Rest;
use super::{BATCH, Reactor};
use crate::close_reason::CloseReason;
use crate::connection::{Connection, State};
use crate::deadlines::{Alarm, Alarms, Deadlines};
use crate::error::{Error, needed};
use crate::handler::ConnectionHandler;
use crate::kernel::{Errno, Kernel, Peer};
use crate::reaction::Call;
use crate::time::Moment;
use std::collections::TryReserveError;

/// Why an outbound connection ends that is not established in time.
const TOO_SLOW: CloseReason = CloseReason::Network { call: Call::Connect, errno: Errno::ETIMEDOUT };
/// Deadlines looked at in one turn.
const LOOKS: usize = 1_024;

/// When to look at what.
#[derive(Debug)]
pub(crate) struct Timer {
    pub(super) deadlines: Deadlines,
    pub(super) alarms: Alarms,
    fd: Timerfd,
    /// While deadlines are put off: how many events come before them.
    put_off: Option<usize>,
}

/// The last setting of the timerfd, and whether it has expired since.
#[derive(Clone, Copy, Debug)]
enum Timerfd {
    /// It never expires.
    Disarmed,
    /// When it expires.
    Armed(Moment),
    /// It has expired, and stays readable until it is set again.
    Expired,
}

impl Timer {
    pub(super) fn new(slots: u32) -> Result<Timer, TryReserveError> {
        let deadlines = Deadlines::with_capacity(slots)?;
        Ok(Timer { deadlines, alarms: Alarms::default(), fd: Timerfd::Disarmed, put_off: None })
    }

    /// Whether the timerfd is readable.
    pub(super) fn has_expired(&self, now: Moment) -> bool {
        match self.fd {
            Timerfd::Disarmed => false,
            Timerfd::Armed(at) => at <= now,
            Timerfd::Expired => true,
        }
    }

    /// Whether deadlines wait for more events, after a turn that has `served` some.
    /// Bytes come first, then deadlines: the rest of this batch, or if it is
    /// full, as after a long stop of the process, those of all connections. But one round of
    /// them, because with a crowd it is always full.
    fn is_put_off(&mut self, served: usize, rest: Rest, connections: usize) -> bool {
        let before = match self.put_off {
            None => connections.max(1),
            Some(before) => before.saturating_sub(served),
        };
        let puts_off = before > 0 && (rest.was_full || rest.left > 0);
        self.put_off = puts_off.then_some(before);
        puts_off
    }

    /// What to tell the timerfd: nothing, or when to expire, if ever. The next timer of the
    /// handler is `tick`.
    fn due(&self, now: Moment, tick: Option<Moment>) -> Option<Option<Moment>> {
        let look = self.deadlines.next().map(|tick| now.next(tick));
        let next = [look, self.alarms.next(), tick].into_iter().flatten().min();
        let is_late = match (next, self.fd) {
            (Some(next), Timerfd::Armed(at)) => next < at,
            (Some(_), Timerfd::Disarmed) | (_, Timerfd::Expired) => true,
            // It expires once for nothing, which is cheaper than a call now.
            (None, Timerfd::Armed(_) | Timerfd::Disarmed) => false,
        };
        is_late.then_some(next)
    }
}

impl<H: ConnectionHandler, K: Kernel> Reactor<H, K> {
    /// The timerfd has expired, in a turn with `ready` events: looks at the slots that are due.
    pub(super) fn expired(&mut self, ready: usize) {
        let rest = Rest { was_full: self.rest.was_full || ready == BATCH, ..self.rest };
        if !self.timer.is_put_off(ready - rest.left, rest, self.net.table.len()) {
            self.look_at_deadlines();
        }
        self.ring_alarms();
    }

    fn look_at_deadlines(&mut self) {
        self.timer.fd = Timerfd::Expired;
        let now = self.net.now;
        if self.net.table.is_empty() {
            self.timer.deadlines.clear();
        }
        // One of each in turn: if one kind uses up the share, the other has had as many.
        for _ in 0..LOOKS {
            let slot = self.timer.deadlines.pop_due(now);
            slot.inspect(|&slot| self.look_at(slot, now));
            let tick = self.net.timers.pop_due(now);
            tick.inspect(|&(timer, token)| self.handler.on_tick(&mut self.net, timer, token));
            if slot.is_none() && tick.is_none() || self.flush_if_due() {
                break;
            }
        }
    }

    /// Acts on the loop's own deadlines, which do not wait for work to be done.
    fn ring_alarms(&mut self) {
        let now = self.net.now;
        while let Some(alarm) = self.timer.alarms.pop_due(now) {
            match alarm {
                Alarm::Watchdog => self.tell_alive(),
                Alarm::Stop => self.net.stop(),
                Alarm::Accept => self.resume_paused(),
                Alarm::Dial => self.net.dial_again(),
                Alarm::Report => self.want_report(),
                Alarm::CloseListeners => self.close_listeners(),
                Alarm::Cut => self.cut(),
            }
        }
    }

    /// Looks at `slot`, whose entry is due: which of its deadlines has come, if any?
    fn look_at(&mut self, slot: u32, now: Moment) {
        let rings = self.net.change(slot, |connection| {
            let timer = connection.state.open_mut().map(|open| &mut open.timer);
            timer.and_then(|timer| timer.take_if(|at| *at <= now))
        });
        if rings.flatten().is_some() {
            self.ring(slot, now);
        }
        let looked_at = self.net.table.look(slot);
        if looked_at.is_some_and(Connection::awaits_acknowledgment) {
            return self.look_at_delivery(slot, now);
        }
        let timeouts = self.net.timeouts.of(slot);
        let why = self.net.table.look(slot).is_some_and(|it| it.fd.is_unopened());
        let too_slow = why.then(|| self.net.why_it_waits(slot)).flatten().unwrap_or(TOO_SLOW);
        let Some(mut connection) = self.net.table.edit(slot) else { return };
        connection.carry(now);
        if let State::Preface { .. } = *connection.state
            && connection.deadline(timeouts, now).is_some_and(|at| at <= now)
        {
            drop(connection);
            return self.header_is_late(slot);
        }
        connection.expire(timeouts, now, too_slow);
    }

    /// A timer of a connection is due, or several.
    fn ring(&mut self, slot: u32, now: Moment) {
        if !self.net.has_keys(slot) {
            return self.call(slot, |handler, conn, session| handler.on_timer(conn, session));
        }
        while let Some(key) = self.net.pop_key(slot, now) {
            self.call(slot, |handler, conn, session| match key {
                None => handler.on_timer(conn, session),
                Some(key) => handler.on_timer_for(conn, session, key),
            });
        }
    }

    /// All is with the kernel, and a reset is to follow: has the peer acknowledged it?
    #[cold]
    fn look_at_delivery(&mut self, slot: u32, now: Moment) {
        let Some(mut connection) = self.net.table.edit(slot) else { return };
        let deadline = connection.delivery_deadline(self.net.timeouts.of(slot));
        match self.kernel.ioctl_outq(&connection.fd) {
            Ok(1..) if deadline.is_some_and(|at| at <= now) => {
                connection.abort(CloseReason::WriteStalled);
            }
            // A Unix socket has no reset that could overtake anything.
            Ok(1..) if connection.peer() != Peer::Unix => {}
            Ok(_) => connection.reset(),
            Err(errno) => {
                connection.failed(Call::Unacknowledged, errno, &mut self.net.counters);
                connection.reset();
            }
        }
    }

    /// Sets the timerfd if an earlier deadline has appeared, or it went off.
    pub(super) fn set_timer(&mut self) -> Result<(), Error> {
        let Some(next) = self.timer.due(self.net.now, self.net.timers.next()) else {
            return Ok(());
        };
        let nanos = next.map(|at| at.as_millis().saturating_mul(1_000_000));
        let Some(timer) = self.poll.timer() else { return Ok(()) };
        // Without time there is not even a drain deadline: it ends here.
        needed(Call::SetTimer, "timerfd", || self.kernel.timerfd_settime(timer, nanos))?;
        self.timer.fd = next.map_or(Timerfd::Disarmed, Timerfd::Armed);
        Ok(())
    }
}
