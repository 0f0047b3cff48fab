//! Time as the loop counts it: milliseconds of the monotonic clock.
//!
//! A [`Moment`] is one of them in full, a [`Span`] a number of them. What each connection
//! must store is half as long: a [`Tick`], which reaches 12 days. Whatever lies further ahead
//! is looked at by then, and set for the rest.

use std::num::NonZeroU64;
use std::time::Duration;

/// A length of time in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span(u64);

impl Span {
    pub(crate) const fn millis(millis: u64) -> Span {
        Span(millis)
    }

    /// Rounded up, and one more, because the moment it starts from was rounded down.
    pub(crate) fn at_least(duration: Duration) -> Span {
        let millis = duration.as_nanos().div_ceil(1_000_000) + 1;
        Span(u64::try_from(millis).unwrap_or(u64::MAX))
    }

    pub(crate) fn as_millis(self) -> u64 {
        self.0
    }

    pub(crate) fn half(self) -> Span {
        Span(self.0 / 2)
    }
}

/// Milliseconds of the monotonic clock, and one more, so that an `Option` of them is no larger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Moment(NonZeroU64);

/// The beginning of the clock: before every other moment.
impl Default for Moment {
    fn default() -> Moment {
        Moment::from_millis(0)
    }
}

impl Moment {
    pub(crate) const fn from_millis(millis: u64) -> Moment {
        Moment(NonZeroU64::MIN.saturating_add(millis))
    }

    pub(crate) fn as_millis(self) -> u64 {
        self.0.get() - 1
    }

    pub(crate) fn after(self, span: Span) -> Moment {
        Moment(self.0.saturating_add(span.0))
    }

    pub(crate) fn before(self, span: Span) -> Moment {
        Moment::from_millis(self.as_millis().saturating_sub(span.0))
    }

    /// From `earlier` to `self`; nothing if it is not earlier.
    pub(crate) fn since(self, earlier: Moment) -> Span {
        Span(self.as_millis().saturating_sub(earlier.as_millis()))
    }

    /// Its lower half.
    #[inline]
    pub(crate) fn tick(self) -> Tick {
        Tick(self.0.get() as u32)
    }

    /// When to look at it: when it comes, or as far ahead of `now` as ticks reach.
    pub(crate) fn look(self, now: Moment) -> Tick {
        now.after(self.since(now).min(Tick::REACH)).tick()
    }

    /// The moment of a tick to look at; `self` if that is past.
    pub(crate) fn next(self, tick: Tick) -> Moment {
        let ahead = tick.0.wrapping_sub(self.tick().0) as i32;
        self.after(Span(ahead.max(0) as u64))
    }
}

/// The lower half of a [`Moment`].
///
/// Ticks compare by their distance, so they may wrap (every 49 days) as long as no two that
/// are compared lie more than 24 days apart; [`Moment::look`] sees to that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tick(u32);

impl Tick {
    /// 12 days.
    pub(crate) const REACH: Span = Span(1 << 30);

    /// Whether `self` is before `other`.
    pub(crate) fn is_before(self, other: Tick) -> bool {
        (self.0.wrapping_sub(other.0) as i32) < 0
    }

    /// How long it is past, which it must be, by less than 49 days.
    pub(crate) fn age(self, now: Moment) -> Span {
        Span(now.tick().0.wrapping_sub(self.0).into())
    }

    /// The tick that many reaches of the clock later.
    pub(crate) fn one_reach_on(self) -> Tick {
        Tick(self.0.wrapping_add(Tick::REACH.0 as u32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_never_short() {
        assert_eq!(Span::at_least(Duration::from_micros(400)), Span(2));
        assert_eq!(Span::at_least(Duration::from_secs(1)), Span(1001));
        assert_eq!(Span::at_least(Duration::MAX), Span(u64::MAX));
    }

    /// Moments are looked at as they come, or 12 days ahead, across the wrap of ticks.
    #[test]
    fn a_moment_is_looked_at_within_reach() {
        for millis in [0, 7, u64::from(u32::MAX) - 3, 1 << 40] {
            let now = Moment::from_millis(millis);
            for span in [0, 1, 5, 1 << 29, (1 << 30) - 1, 1 << 30] {
                let at = now.after(Span(span));
                assert_eq!(now.next(at.look(now)), at);
                assert_eq!((at.since(now), now.since(at)), (Span(span), Span(0)));
                assert_eq!((at.before(Span(span)), at.tick().is_before(now.tick())), (now, false));
                assert_eq!(now.tick().is_before(at.tick()), span > 0);
                assert_eq!((now.tick().age(at), at.tick().age(at)), (Span(span), Span(0)));
            }
            let far = now.after(Tick::REACH).after(Span(1));
            assert_eq!(now.next(far.look(now)), now.after(Tick::REACH));
            assert_eq!(far.tick().one_reach_on().age(far.after(Span(1 << 31))), Tick::REACH);
            assert_eq!(now.after(Span(9)).next(now.tick()), now.after(Span(9)));
        }
        assert_eq!(Moment::from_millis(5).before(Span(9)).as_millis(), 0);
        assert_eq!(Moment::from_millis(5).after(Span(u64::MAX)).as_millis(), u64::MAX - 1);
    }
}
