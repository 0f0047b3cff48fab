//! Time as the loop counts it: milliseconds in 32 bits.
//!
//! A [`Tick`] is a moment, a [`Span`] a length of time. Both are half the size of what the
//! standard library has, and comparing two is one subtraction. They reach 12 days. A
//! [`Moment`] has no such limit: a wait for one is looked at again every 12 days.

use std::num::NonZeroU64;
use std::time::Duration;

/// Milliseconds of the monotonic clock, modulo 2^32.
///
/// Ticks compare by their distance, so they may wrap (every 49 days) as long as
/// no two that are compared lie more than 24 days apart; [`Span`] sees to that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tick(u32);

impl Tick {
    pub(crate) const fn from_millis(millis: u64) -> Tick {
        Tick(millis as u32)
    }

    pub(crate) fn after(self, span: Span) -> Tick {
        Tick(self.0.wrapping_add(span.0))
    }

    /// Whether `self` is before `other`.
    pub(crate) fn before(self, other: Tick) -> bool {
        (self.0.wrapping_sub(other.0) as i32) < 0
    }

    /// Milliseconds from `earlier` to `self`; 0 if it is not earlier.
    pub(crate) fn since(self, earlier: Tick) -> u32 {
        (self.0.wrapping_sub(earlier.0) as i32).max(0) as u32
    }

    pub(crate) fn earlier(self, other: Tick) -> Tick {
        if other.before(self) { other } else { self }
    }
}

/// A length of time in milliseconds, at most 12 days.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span(u32);

impl Span {
    pub(crate) const LONGEST: Span = Span(1 << 30);

    pub(crate) const fn millis(millis: u32) -> Span {
        Span(millis)
    }

    /// Rounded up, and one tick more, because the tick it starts from was rounded down.
    pub(crate) fn at_least(duration: Duration) -> Span {
        let (whole, span) = Span::in_parts(duration);
        if whole == 0 { span } else { Span::LONGEST }
    }

    /// The same in full: how many times the longest span comes before this one.
    pub(crate) fn in_parts(duration: Duration) -> (u64, Span) {
        let (millis, longest) = (millis_of(duration), u64::from(Span::LONGEST.0));
        let whole = (millis - 1) / longest; // there is one at least
        (whole, Span((millis - whole * longest) as u32))
    }

    pub(crate) fn as_millis(self) -> u32 {
        self.0
    }
}

/// Rounded up, and one more.
fn millis_of(duration: Duration) -> u64 {
    let millis = duration.as_nanos().div_ceil(1_000_000) + 1;
    u64::try_from(millis).unwrap_or(u64::MAX)
}

/// Milliseconds of the monotonic clock in full, and one more, so that an `Option` of them is
/// no larger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment(NonZeroU64);

impl Moment {
    pub(crate) fn after(now_millis: u64, delay: Duration) -> Moment {
        Moment(NonZeroU64::MIN.saturating_add(now_millis).saturating_add(millis_of(delay)))
    }

    /// Whether it has come.
    pub(crate) fn is_past(self, now_millis: u64) -> bool {
        self.0.get() - 1 <= now_millis
    }

    /// When to look at it: when it comes, or as far ahead as ticks reach.
    pub(crate) fn look(self, now_millis: u64) -> Tick {
        let left = (self.0.get() - 1).saturating_sub(now_millis);
        Tick::from_millis(now_millis + left.min(Span::LONGEST.0.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_never_short() {
        assert_eq!(Span::at_least(Duration::from_micros(400)), Span(2));
        assert_eq!(Span::at_least(Duration::from_secs(1)), Span(1001));
        assert_eq!(Span::at_least(Duration::from_secs(u64::MAX)), Span::LONGEST);
        assert_eq!(Span::in_parts(Duration::from_millis(1 << 30)), (1, Span(1)));
        assert_eq!(Span::in_parts(Duration::from_millis((1 << 30) - 1)), (0, Span::LONGEST));
    }
}
