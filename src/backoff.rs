//! Exponential backoff: a call that failed for lack of something is not made again for a while.
//!
//! Out of descriptors or memory, a call that fails goes on failing, and the event that led to
//! it stays. Therefore nothing is tried for 10 ms, then for twice as long each time, up to a
//! second; or until something has been given back, whichever comes first. All listeners share
//! one backoff, and all outbound connections another, so that none waits longer than the others.
//!
//! Invariant: the next delay is as short as the first only after a call has succeeded.

use crate::time::{Moment, Span};

/// The first and the longest delay, in milliseconds.
const DELAYS: (u64, u64) = (10, 1_000);
/// At the longest delay one follows the other: one line in this time is enough.
const NEWS: Span = Span::millis(60_000);

#[derive(Debug, Default)]
pub(crate) struct Backoff {
    /// When to try again, while it lasts.
    until: Option<Moment>,
    /// The last delay in milliseconds, if no call has succeeded since.
    last: u64,
    /// When it was last logged that clients wait.
    told_at: Option<Moment>,
}

impl Backoff {
    /// A call has failed; returns when to try again.
    pub(crate) fn begin(&mut self, now: Moment) -> Moment {
        self.last = (self.last * 2).clamp(DELAYS.0, DELAYS.1);
        *self.until.insert(now.after(Span::millis(self.last)))
    }

    /// When to try again, if nothing may be tried now.
    pub(crate) fn until(&self) -> Option<Moment> {
        self.until
    }

    pub(crate) fn is_on(&self) -> bool {
        self.until.is_some()
    }

    /// It is time to try again.
    pub(crate) fn end(&mut self) {
        self.until = None;
    }

    /// A call has succeeded: the next delay is the shortest.
    pub(crate) fn reset(&mut self) {
        self.last = 0;
    }

    /// Whether to log that clients wait.
    pub(crate) fn is_news(&mut self, now: Moment) -> bool {
        let news = self.told_at.is_none_or(|told| now.since(told) >= NEWS);
        if news {
            self.told_at = Some(now);
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_minute_is_news() {
        let mut backoff = Backoff::default();
        let moments = [0, 1, 59_999, 60_000, 119_999, 120_001].map(Moment::from_millis);
        let told = moments.map(|at| backoff.is_news(at));
        assert_eq!(told, [true, false, false, true, false, true]);
    }

    #[test]
    fn delays_grow_until_a_call_succeeds() {
        let mut backoff = Backoff::default();
        let now = Moment::from_millis(7);
        let begin = |backoff: &mut Backoff| backoff.begin(now).since(now).as_millis();
        let delays = [(); 9].map(|()| {
            backoff.end();
            begin(&mut backoff)
        });
        assert_eq!(delays, [10, 20, 40, 80, 160, 320, 640, 1_000, 1_000]);
        assert_eq!(begin(&mut backoff), 1_000); // though there is one already
        assert_eq!(backoff.until(), Some(now.after(Span::millis(1_000))));
        backoff.end();
        assert_eq!((backoff.until(), backoff.is_on()), (None, false));
        backoff.reset();
        assert_eq!((begin(&mut backoff), backoff.is_on()), (10, true));
    }
}
