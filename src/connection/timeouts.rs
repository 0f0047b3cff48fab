//! Time limits of a connection: which run in its state, when the next one is over, and what
//! comes of it.
//!
//! A message only stores when it came. When a limit may be over the reactor looks, and then
//! the true deadline is computed here, from what is stored anyway.

use super::{Connection, Open, State};
use crate::close_reason::CloseReason;
use crate::limits::Spans;
use crate::time::{Moment, Span, Tick};

/// Lingering ends after this long without a byte.
const LINGER_QUIET: Span = Span::millis(2_001);
/// The shortest and the longest time after which the kernel is asked again whether the peer has
/// acknowledged everything.
const ASK_AGAIN: (u64, u64) = (2, 200);

/// The earlier of two, if there are any.
fn first(one: Option<Moment>, other: Option<Moment>) -> Option<Moment> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

impl Connection {
    /// It is looked at: `last` is kept within the reach of ticks.
    pub(crate) fn carry(&mut self, now: Moment) {
        if self.last.age(now) >= Tick::REACH {
            self.last = self.last.one_reach_on();
            self.spans = self.spans.saturating_add(1); // 255 are eight years
        }
    }

    /// When something is due even if no byte moves.
    pub(crate) fn deadline(&self, timeouts: &Spans, now: Moment) -> Option<Moment> {
        let shortage = self.shortage.waits().then(|| 5 << self.shortage.tries().min(8));
        let shortage = shortage.map(|millis| now.after(Span::millis(millis)));
        let idle_or_write =
            || first(self.idle_deadline(timeouts, now), self.write_deadline(timeouts, now));
        match &*self.state {
            State::Connecting { deadline, .. } | State::Preface { deadline, .. } => {
                first(shortage, Some(*deadline))
            }
            State::Open(open) => {
                let message = self.message_deadline(timeouts);
                let speak = self.speak_deadline(timeouts, now);
                first(first(shortage, idle_or_write()), first(first(message, speak), open.timer))
            }
            State::Delivering { since, .. } if self.is_flushed() => {
                let waited = now.since(*since).as_millis() / 2;
                let again = now.after(Span::millis(waited.clamp(ASK_AGAIN.0, ASK_AGAIN.1)));
                first(Some(again), self.delivery_deadline(timeouts))
            }
            State::Closing { .. } | State::Delivering { .. } => first(shortage, idle_or_write()),
            State::Lingering { until, .. } => Some(self.last(now).after(LINGER_QUIET).min(*until)),
            State::Broken { .. } => self.idle_deadline(timeouts, now),
            State::Gone { .. } => None,
        }
    }

    /// Ends it if one of its deadlines has come; for the reason `too_slow` if it is not
    /// established. After a shortage it is only tried again, perhaps a little early.
    pub(crate) fn expire(&mut self, timeouts: &Spans, now: Moment, too_slow: CloseReason) {
        let come = |at: Option<Moment>| at.is_some_and(|at| at <= now);
        if self.shortage.waits() {
            self.shortage.try_again();
        } else if come(self.write_deadline(timeouts, now)) {
            self.abort(CloseReason::WriteStalled);
        } else if come(self.message_deadline(timeouts)) {
            self.close(CloseReason::MessageTooSlow, now);
        } else if come(self.deadline(timeouts, now)) {
            match *self.state {
                State::Connecting { .. } => self.gone(too_slow),
                State::Open(_) => self.close(CloseReason::Idle, now),
                State::Closing { .. } | State::Delivering { .. } => self.abort(CloseReason::Idle),
                _ => self.done(),
            }
        }
    }

    /// When the last byte moved.
    fn last(&self, now: Moment) -> Moment {
        now.before(self.idle(now))
    }

    /// How long no byte has moved.
    pub(crate) fn idle(&self, now: Moment) -> Span {
        let counted = u64::from(self.spans) * Tick::REACH.as_millis();
        Span::millis(counted + self.last.age(now).as_millis())
    }

    /// Whether it can end without loss, for others that wait: nothing is going on in it, and
    /// has not been for `span`.
    pub(crate) fn can_give_way(&self, span: Span, now: Moment) -> bool {
        let is_free = self.state.open().is_some_and(|open| !open.asked.held && !open.asked.duplex);
        is_free && self.is_quiet() && self.staged.is_nothing() && self.idle(now) >= span
    }

    /// Runs whatever happens.
    fn idle_deadline(&self, timeouts: &Spans, now: Moment) -> Option<Moment> {
        timeouts.idle.map(|span| self.last(now).after(span))
    }

    /// Runs while the rest of a message is awaited; not while we do not read, unless it is for
    /// want of memory that we do not: then rests that hold it must come to an end.
    fn message_deadline(&self, timeouts: &Spans) -> Option<Moment> {
        let open = self.state.open()?;
        let Open { input, flow, asked, .. } = open;
        let is_read = self.can_offer() || flow.is_starved() && !asked.paused;
        let is_awaited = flow.needs_to_read() && is_read;
        let since = input.since().filter(|_| is_awaited)?;
        timeouts.message.map(|span| since.after(span))
    }

    /// Whether the peer may not have all that was written, although the kernel has.
    pub(crate) fn awaits_acknowledgment(&self) -> bool {
        matches!(*self.state, State::Delivering { .. }) && self.is_flushed()
    }

    /// Runs while the peer has not acknowledged the last bytes before a reset.
    pub(crate) fn delivery_deadline(&self, timeouts: &Spans) -> Option<Moment> {
        let State::Delivering { since, .. } = *self.state else { return None };
        timeouts.write.map(|span| since.after(span))
    }

    /// Runs, while the server stops, for a client that has not been answered. However it spreads
    /// its bytes, it has twice the time.
    pub(crate) fn speak_deadline(&self, timeouts: &Spans, now: Moment) -> Option<Moment> {
        let (began, span) = timeouts.newcomer?;
        let last = self.last(now).clamp(began, began.after(span));
        Some(last.after(span)).filter(|at| now < *at && self.may_speak() && self.can_offer())
    }

    /// Runs while output waits.
    fn write_deadline(&self, timeouts: &Spans, now: Moment) -> Option<Moment> {
        let unsent = self.state.unsent().filter(|unsent| !unsent.is_empty())?;
        let since = unsent.bytes.since().unwrap_or_else(|| self.last(now)); // it is a file
        timeouts.write.map(|span| since.after(span))
    }
}
