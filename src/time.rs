//! Time as the loop counts it: milliseconds in 32 bits.
//!
//! A [`Tick`] is a moment, a [`Span`] a length of time. Both are half the size of what the
//! standard library has, and comparing two is one subtraction.

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
    pub(crate) const fn millis(millis: u32) -> Span {
        Span(millis)
    }

    /// Rounded up, and one tick more, because the tick it starts from was rounded down.
    pub(crate) fn at_least(duration: Duration) -> Span {
        let millis = duration.as_nanos().div_ceil(1_000_000) + 1;
        Span(millis.min(1 << 30) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_never_short() {
        assert_eq!(Span::at_least(Duration::from_micros(400)), Span(2));
        assert_eq!(Span::at_least(Duration::from_secs(1)), Span(1001));
        assert_eq!(Span::at_least(Duration::from_secs(u64::MAX)), Span(1 << 30));
    }
}
