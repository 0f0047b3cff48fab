//! Bytes that wait: the rest of an input, or the unsent end of an output.
//!
//! A buffer is filled at its end and emptied from its front. The front is an
//! offset, not a move: taking `n` bytes from a long output costs nothing.
//!
//! Invariants:
//! 1. An empty buffer owns no memory and is one null pointer in size.
//! 2. After `consume` a large buffer's rest is at least a ninth of the bytes it holds, or
//!    half of its memory: else it has moved to less. A move costs little beside what was
//!    consumed.

use crate::time::Moment;
use std::collections::TryReserveError;

/// Smaller leftovers are not worth moving to a smaller allocation.
const SMALL: usize = 4096;

#[derive(Debug, Default)]
pub(crate) struct Buffer(Option<Box<Bytes>>);

#[derive(Debug)]
struct Bytes {
    data: Vec<u8>,
    start: usize,
    since: Moment,
}

impl Buffer {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    pub(crate) fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// The bytes, in order.
    pub(crate) fn as_slice(&self) -> &[u8] {
        match &self.0 {
            Some(bytes) => bytes.data.get(bytes.start..).unwrap_or_default(),
            None => &[],
        }
    }

    /// The memory it holds, which is what a budget must count: at least its length.
    pub(crate) fn footprint(&self) -> usize {
        match &self.0 {
            Some(bytes) => bytes.data.capacity() + size_of::<Bytes>(),
            None => 0,
        }
    }

    /// Since when its front has waited: since it was put there, or [`touch`](Buffer::touch).
    /// `None` if it is empty.
    pub(crate) fn since(&self) -> Option<Moment> {
        self.0.as_ref().map(|bytes| bytes.since)
    }

    /// The wait of its front begins anew.
    pub(crate) fn touch(&mut self, now: Moment) {
        if let Some(bytes) = &mut self.0 {
            bytes.since = now;
        }
    }

    /// Appends `more`; on failure nothing has changed. If it must grow, it grows to twice
    /// its length, as vectors do, but by no more than `spare` beyond what is needed:
    /// where memory is short, a few bytes must not take much of it.
    pub(crate) fn push(
        &mut self,
        more: &[u8],
        spare: usize,
        now: Moment,
    ) -> Result<(), TryReserveError> {
        self.push_all(more.len(), [more], spare, now)
    }

    /// The same for pieces that are `length` bytes together.
    pub(crate) fn push_all<'a>(
        &mut self,
        length: usize,
        pieces: impl IntoIterator<Item = &'a [u8]>,
        spare: usize,
        now: Moment,
    ) -> Result<(), TryReserveError> {
        if length == 0 {
            return Ok(());
        }
        let fresh = || Box::new(Bytes { data: Vec::new(), start: 0, since: now });
        let mut bytes = self.0.take().unwrap_or_else(fresh);
        if bytes.start >= bytes.data.len() - bytes.start {
            bytes.data.drain(..bytes.start); // moves no more bytes than were consumed
            bytes.start = 0;
        }
        let growth = length.max(bytes.data.len()).min(length + spare);
        let reserved = match bytes.data.capacity() - bytes.data.len() >= length {
            true => Ok(()),
            false => bytes.data.try_reserve_exact(growth),
        };
        if reserved.is_ok() {
            pieces.into_iter().for_each(|piece| bytes.data.extend_from_slice(piece));
        }
        self.0 = Some(bytes).filter(|bytes| !bytes.data.is_empty());
        reserved
    }

    /// Takes `n` bytes from the front; all of them if it holds fewer.
    pub(crate) fn consume(&mut self, n: usize) {
        let Some(bytes) = &mut self.0 else { return };
        bytes.start = bytes.start.saturating_add(n);
        let left = bytes.data.len().saturating_sub(bytes.start);
        if left == 0 {
            self.0 = None;
        } else if bytes.data.capacity() > SMALL.max(2 * left) && left <= SMALL.max(bytes.start / 8)
        {
            bytes.data.drain(..bytes.start);
            bytes.data.shrink_to_fit();
            bytes.start = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    const NOW: Moment = Moment::from_millis(0);

    #[test]
    fn empty_owns_nothing() {
        assert_eq!(size_of::<Buffer>(), size_of::<usize>());
        let mut buffer = Buffer::default();
        buffer.push(b"abc", 0, NOW).unwrap();
        buffer.consume(3);
        assert_eq!((buffer.is_empty(), buffer.footprint()), (true, 0));
        buffer.push(b"", 0, NOW).unwrap();
        assert!(buffer.is_empty());
    }

    /// Random pushes and consumes do what a queue of single bytes does.
    #[test]
    fn behaves_as_a_queue_of_bytes() {
        let (mut buffer, mut model) = (Buffer::default(), VecDeque::new());
        let mut random = 1u64;
        for step in 0..20_000u64 {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(step);
            let n = (random >> 33) as usize % 9_000;
            if random & (1 << 20) == 0 {
                let more: Vec<u8> = (0..n).map(|i| (i as u64 ^ step) as u8).collect();
                buffer.push(&more, n, NOW).unwrap();
                model.extend(more);
            } else {
                buffer.consume(n);
                model.drain(..n.min(model.len()));
            }
            assert_eq!(buffer.len(), model.len());
            assert_eq!(buffer.is_empty(), model.is_empty());
            assert!(buffer.footprint() >= buffer.len());
        }
        assert!(buffer.as_slice().iter().eq(model.iter()));
    }

    /// A short rest of a long read does not keep the long allocation.
    #[test]
    fn a_short_rest_is_short() {
        let mut buffer = Buffer::default();
        buffer.push(&[7; 65_536], 0, NOW).unwrap();
        buffer.consume(65_530);
        assert_eq!(buffer.as_slice(), [7; 6]);
        assert!(buffer.footprint() < 128);
    }

    fn of_length(length: usize) -> Buffer {
        let mut buffer = Buffer::default();
        buffer.push(&vec![7; length], 0, NOW).unwrap();
        buffer
    }

    /// A rest is moved to less memory if that frees half of it, and more than a page, and
    /// is cheap beside what it took to consume the others.
    #[test]
    fn memory_is_freed_where_it_is_worth_a_move() {
        for (length, consumed, freed) in [
            (4_096, 4_090, false),
            (6_000, 2_500, false),
            (10_000, 6_000, true),
            (80_000, 70_000, false),
            (100_000, 90_000, true),
        ] {
            let mut buffer = of_length(length);
            buffer.consume(consumed);
            let held = buffer.footprint();
            assert_eq!(held < length, freed, "{held} bytes for the rest of {length}");
        }
    }

    #[test]
    fn space_is_used_again_before_it_grows() {
        let mut buffer = of_length(20_000);
        buffer.consume(12_000);
        let held = buffer.footprint();
        buffer.push(&[7; 10_000], 0, NOW).unwrap();
        assert_eq!(buffer.footprint(), held);
    }
}
