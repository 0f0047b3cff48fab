//! The one number that bounds all waiting bytes, and how it is shared.
//!
//! As memory gets short, the high water mark of all connections falls to a share of
//! what is left: those that owe most are held back first, and something is always
//! left for those that owe nothing. (Switches share packet memory that way:
//! "dynamic thresholds", Choudhury and Hahne, 1998.) The last part is a reserve, so
//! much for each connection, from which only small reads and answers are made.
//!
//! ```text
//!   0                                                tight_from            max
//!   ├──────────────── plenty ────────────────────────────┼── short ──┬─reserve─┤
//!     whole reads, the configured high water mark          shares      small reads
//! ```
//!
//! Connections are cheap, addresses are not: so what may be read also depends on what all
//! connections of an address hold. One that holds [`HEAVY`] times what is left gets no more
//! than small reads. One that holds little beside what is left has its share of all of that,
//! the reserve included. So k addresses that take all they can leave a part in 1 + 8k.
//!
//! What is held back by a full connection's own high water mark is freed by that
//! connection's own progress. What was held back only because memory was short is
//! looked at again when twice as much is free as then: see [`Budget::note_held_back`].
//!
//! Invariant: `high_water` is what `used` and `reserve` make it, because each method that
//! changes one of them computes it again. Each message asks for it.

use crate::buffer::BLOCK;

/// Bytes that any connection can have while there is plenty.
const WHOLE_SHARE: usize = 64 << 10;
/// Reserve for each connection, in bytes: a block of input and two of output.
pub(crate) const RESERVE_EACH: usize = 3 * BLOCK;
/// Most bytes one connection may take from the reserve at a time.
pub(crate) const SMALL: usize = 500;
/// With less than this left, nothing is read from the reserve.
const LAST: usize = 8 << 10;
/// An address that holds this multiple of what is left is held back.
const HEAVY: usize = 8;
/// An address that holds less than this part of what is left may use the reserve.
const LIGHT: usize = 4;

/// From this peak on, memory is returned to the kernel as its use declines.
const HIGH_PEAK: usize = 4 << 20;

#[derive(Debug)]
pub(crate) struct Budget {
    max: usize,
    /// The memory in use: what connections hold.
    used: usize,
    reserve: usize,
    tight_from: usize,
    /// From here on a connection is full: what is configured, or its share of what is left.
    high_water: usize,
    configured: usize,
    /// Connections are held back for lack of memory until no more than this is used.
    relief: Option<usize>,
    /// The most that was in use; as that declines, what was in use when memory was last returned.
    peak: usize,
}

impl Budget {
    /// Bounds all connections to `max` bytes, and fills each to `high_water` at most. The reserve
    /// is for as many as there can be: those that come first must not spend it.
    pub(crate) fn new(max: usize, high_water: usize, connections: usize) -> Budget {
        let reserve = (WHOLE_SHARE + connections * RESERVE_EACH).min(max / 4);
        let short = (reserve + 8 * WHOLE_SHARE).max(max / HEAVY);
        let tight_from = max.saturating_sub(short);
        let (used, configured, relief, peak) = (0, high_water, None, 0);
        let mut budget =
            Budget { max, used, reserve, tight_from, high_water, configured, relief, peak };
        budget.measure();
        budget
    }

    /// A connection held `before` bytes and holds `after`.
    #[inline]
    pub(crate) fn changed(&mut self, before: usize, after: usize) {
        self.used = self.used + after - before;
        self.measure();
    }

    fn measure(&mut self) {
        self.high_water = self.measured();
    }

    fn measured(&self) -> usize {
        self.configured.min(self.share().max(SMALL)).max(1)
    }

    /// Whether the high water mark is what is left makes it, as always.
    pub(crate) fn is_measured(&self) -> bool {
        self.high_water == self.measured()
    }

    #[inline]
    pub(crate) fn high_water(&self) -> usize {
        self.high_water
    }

    /// Whether memory is so short that connections are full below the configured mark.
    pub(crate) fn is_short(&self) -> bool {
        self.high_water < self.configured
    }

    pub(crate) fn used(&self) -> usize {
        self.used
    }

    #[inline]
    pub(crate) fn has_room_for(&self, more: usize) -> bool {
        self.used + more <= self.max
    }

    #[inline]
    pub(crate) fn left(&self) -> usize {
        self.max.saturating_sub(self.used)
    }

    /// What one connection may take of what is left above the reserve.
    #[inline]
    pub(crate) fn share(&self) -> usize {
        self.left().saturating_sub(self.reserve) / 8
    }

    /// Whether so little is left that reading needs an [`allowance`](Budget::allowance).
    #[inline]
    pub(crate) fn is_tight(&self) -> bool {
        self.used > self.tight_from
    }

    /// How many bytes may be read from a connection that holds an incomplete message of `rest`
    /// bytes, and whose address holds `by_address` in all. (Whether it owes too much is another
    /// question.)
    pub(crate) fn allowance(&self, rest: usize, by_address: usize) -> usize {
        let left = self.left();
        let share = match by_address {
            held if held <= left / LIGHT && left > LAST => left / 8,
            held if held / HEAVY >= left => 0,
            _ => self.share(),
        };
        match share {
            0 if rest < SMALL && left > LAST => SMALL,
            0 => 0,
            share => share.max(SMALL),
        }
    }

    /// A connection is held back whose own high water mark would not hold it.
    pub(crate) fn note_held_back(&mut self) {
        let freed = self.left().max(WHOLE_SHARE);
        self.relief = self.relief.max(Some(self.used.saturating_sub(freed)));
    }

    /// Whether use has declined to a quarter of its peak, or of what was then left, and so on until
    /// nothing is left: then memory should be returned to the kernel. The last blocks lie scattered
    /// among free ones, and hold back many times their size.
    #[inline]
    pub(crate) fn take_decline(&mut self) -> bool {
        if self.used > self.peak.max(HIGH_PEAK) {
            self.peak = self.used;
        }
        let declined = self.peak > 0 && self.used <= self.peak / 4;
        if declined {
            self.peak = self.used;
        }
        declined
    }

    /// Whether enough has become free to look again at those held back.
    #[inline]
    pub(crate) fn take_relief(&mut self) -> bool {
        let due = self.relief.is_some_and(|relief| self.used <= relief);
        if due {
            self.relief = None;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Many that take all they may, in turn, without end: the reserve stays, and from it
    /// everybody still gets small reads.
    #[test]
    fn the_greedy_never_get_the_last_part() {
        for connections in [10, 1_000, 10_000] {
            let mut budget = Budget::new(256 << 20, 256 << 10, connections);
            for _ in 0..100 {
                for _ in 0..connections {
                    let taken = budget.share();
                    budget.changed(0, taken);
                }
            }
            assert!(budget.left() >= budget.reserve);
            for _ in 0..connections {
                assert!(budget.allowance(0, budget.used()) >= SMALL);
                budget.changed(0, 2 * BLOCK);
            }
        }
    }

    /// While there is plenty, anybody is read in whole and filled to the configured mark.
    #[test]
    fn memory_is_short_when_a_share_is_less_than_all() {
        let plenty = (1 << 20) - (WHOLE_SHARE + 8 * WHOLE_SHARE);
        for (used, is_short) in [(0, false), (plenty, false), (plenty + 8, true), (1 << 20, true)] {
            let mut budget = Budget::new(1 << 20, WHOLE_SHARE, 0);
            budget.changed(0, used);
            assert_eq!([budget.is_short(), budget.is_tight()], [is_short; 2], "{used} used");
        }
    }

    /// Who holds little may use what is reserved, who holds too much has small reads, and of the
    /// last part nobody has any.
    #[test]
    fn what_an_address_holds_decides_what_it_may_read() {
        const LEFT: usize = 128 << 10; // of which one half is reserved
        let share = LEFT / 2 / 8;
        for (left, by_address, rest, due) in [
            (LEFT, 0, 0, LEFT / 8),
            (LEFT, LEFT / LIGHT, 0, LEFT / 8),
            (LEFT, LEFT / LIGHT + 1, 0, share),
            (LEFT, LEFT * HEAVY - 1, 0, share),
            (LEFT, LEFT * HEAVY, SMALL - 1, SMALL),
            (LEFT, LEFT * HEAVY, SMALL, 0), // its message is as long as a small read already
            (LAST + 8, 0, 0, LAST / 8 + 1),
            (LAST + 8, LEFT, 0, SMALL),
            (LAST, 0, 0, 0),
            (LAST, LEFT, 0, 0),
        ] {
            let mut budget = Budget::new(4 << 20, 256 << 10, 0);
            budget.changed(0, (4 << 20) - left);
            let allowance = budget.allowance(rest, by_address);
            assert_eq!(allowance, due, "{left} left, {by_address} held, a rest of {rest}");
        }
    }

    #[test]
    fn relief_comes_when_twice_as_much_is_free() {
        let mut budget = Budget::new(1 << 20, 256 << 10, 0);
        budget.changed(0, 900 << 10);
        budget.note_held_back();
        assert!(!budget.take_relief());
        budget.changed(100 << 10, 0);
        assert!(!budget.take_relief());
        budget.changed(24 << 10, 0);
        assert!(budget.take_relief() && !budget.take_relief());
    }

    /// What a flood has left is returned again and again: a quarter may hold back the rest. What
    /// comes and goes below it costs no call.
    #[test]
    fn memory_is_returned_at_each_quarter_of_a_peak() {
        let mut budget = Budget::new(64 << 20, 256 << 10, 0);
        let mut used = 0;
        let mut declines = |used_now: usize| {
            budget.changed(used, used_now);
            used = used_now;
            budget.take_decline()
        };
        for _ in 0..3 {
            assert!(!declines(HIGH_PEAK) && !declines(0), "that was no peak");
        }
        assert!(!declines(16 << 20));
        let mut returned = Vec::new();
        for block in (0..(16 << 20) / BLOCK).rev() {
            if declines(block * BLOCK) {
                returned.push(block);
            }
        }
        assert_eq!(returned, [4_096, 1_024, 256, 64, 16, 4, 1, 0], "in blocks");
        assert!(!declines(HIGH_PEAK) && !declines(0), "that was no peak");
        assert!(
            !declines(16 << 20) && declines(1 << 20) && declines(0) && !declines(0),
            "once each"
        );
    }
}
