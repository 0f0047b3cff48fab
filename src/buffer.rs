//! Bytes that wait: the rest of an input, or the unsent end of an output.
//!
//! A buffer is filled at its end and emptied from its front. It is a list of [blocks] of one
//! size: to grow it moves nothing, and a block that one buffer gives back is right for any
//! other. The memory of all buffers is therefore the number of their blocks, and however they
//! grow and shrink, memory does not become fragmented.
//!
//! A handler is offered its unconsumed input in one piece. Up to [`LONG`] bytes are copied
//! together for each offer, which costs no more than the call that received the next ones.
//! Longer input is [joined](Buffer::join), in memory that the allocator maps for it alone.
//!
//! Invariant: an empty buffer owns no memory, and is a null pointer.

use crate::time::Moment;
use blocks::Blocks;

mod blocks;

pub(crate) use blocks::BLOCK;

/// Input that is longer is one piece of memory.
pub(crate) const LONG: usize = 64 << 10;

/// Its blocks, unless it is empty. (An array of one, because memory for that may be refused.)
#[derive(Debug, Default)]
pub(crate) struct Buffer(Option<Box<[Blocks; 1]>>);

impl Buffer {
    fn blocks(&self) -> Option<&Blocks> {
        self.0.as_deref().map(|[blocks]| blocks)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    pub(crate) fn len(&self) -> usize {
        self.blocks().map_or(0, |blocks| blocks.length)
    }

    /// The bytes, in order.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        self.blocks().into_iter().flat_map(Blocks::pieces)
    }

    /// The memory it holds, which is what a budget must count.
    pub(crate) fn footprint(&self) -> usize {
        self.blocks().map_or(0, Blocks::footprint)
    }

    /// Since when its first byte has waited: since it was appended, or since the last
    /// [`touch`](Buffer::touch). `None` if it is empty.
    pub(crate) fn since(&self) -> Option<Moment> {
        self.blocks().map(|blocks| blocks.since)
    }

    /// Restarts the wait of its front.
    pub(crate) fn touch(&mut self, now: Moment) {
        if let Some([blocks]) = self.0.as_deref_mut() {
            blocks.since = now;
        }
    }

    /// Appends `more`. `None` if memory fails: then nothing has changed.
    pub(crate) fn push(&mut self, more: &[u8], now: Moment) -> Option<()> {
        self.push_all(more.len(), [more], now)
    }

    /// Appends pieces of `length` bytes in all. `None` if memory fails, as for one piece.
    pub(crate) fn push_all<'a>(
        &mut self,
        length: usize,
        pieces: impl IntoIterator<Item = &'a [u8]>,
        now: Moment,
    ) -> Option<()> {
        match length {
            0 => Some(()),
            _ => self.change(now, |blocks| blocks.push(length, pieces)),
        }
    }

    /// Appends `more`, and makes all of it one piece.
    pub(crate) fn join(&mut self, more: &[u8], now: Moment) -> Option<()> {
        self.change(now, |blocks| blocks.join(more))
    }

    fn change(&mut self, now: Moment, act: impl FnOnce(&mut Blocks) -> Option<()>) -> Option<()> {
        let mut one = match self.0.take() {
            Some(one) => one,
            None => Blocks::begin(now)?,
        };
        let [blocks] = &mut *one;
        let changed = act(blocks);
        self.0 = if blocks.length > 0 { Some(one) } else { None };
        changed
    }

    /// Takes `n` bytes from the front; all of them if it holds fewer.
    pub(crate) fn consume(&mut self, n: usize) {
        let Some([blocks]) = self.0.as_deref_mut() else { return };
        blocks.length = blocks.length.saturating_sub(n);
        match blocks.length {
            0 => self.0 = None,
            _ => blocks.consume(n),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    const NOW: Moment = Moment::from_millis(0);

    fn bytes(buffer: &Buffer) -> Vec<u8> {
        buffer.pieces().flatten().copied().collect()
    }

    #[test]
    fn empty_owns_nothing() {
        assert_eq!(size_of::<Buffer>(), size_of::<usize>());
        let mut buffer = Buffer::default();
        buffer.push(b"abc", NOW).unwrap();
        buffer.consume(3);
        assert_eq!((buffer.is_empty(), buffer.footprint()), (true, 0));
        buffer.push(b"", NOW).unwrap();
        buffer.join(b"", NOW).unwrap();
        assert!(buffer.is_empty());
    }

    /// More behind it does not make its front any younger; a touch does.
    #[test]
    fn the_front_waits_since_it_came() {
        let mut buffer = Buffer::default();
        let [first, second, third] = [1, 2, 3].map(Moment::from_millis);
        assert_eq!(buffer.since(), None);
        buffer.push(b"abc", first).unwrap();
        buffer.push(b"def", second).unwrap();
        assert_eq!(buffer.since(), Some(first));
        buffer.touch(third);
        assert_eq!(buffer.since(), Some(third));
    }

    /// Random pushes, joins and consumes do what a queue of single bytes does; what is counted
    /// is what all its vectors have asked for.
    #[test]
    fn behaves_as_a_queue_of_bytes() {
        let (mut buffer, mut model) = (Buffer::default(), VecDeque::new());
        let mut random = 1_u64;
        for step in 0..20_000_u64 {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(step);
            let n = (random >> 33) as usize % if step % 7 == 0 { 90_000 } else { 3_000 };
            if random & (1 << 20) == 0 {
                let more: Vec<u8> = (0..n).map(|i| (i as u64 ^ step) as u8).collect();
                match random % 5 {
                    0 => buffer.join(&more, NOW).unwrap(),
                    1 => {
                        let pieces = more.chunks(1 + n % 1_500);
                        buffer.push_all(n, pieces, NOW).unwrap();
                    }
                    _ => buffer.push(&more, NOW).unwrap(),
                }
                model.extend(more);
            } else {
                buffer.consume(n);
                model.drain(..n.min(model.len()));
            }
            assert_eq!((buffer.len(), buffer.is_empty()), (model.len(), model.is_empty()));
            assert_eq!(buffer.pieces().map(<[u8]>::len).sum::<usize>(), model.len());
            assert!(buffer.pieces().all(|piece| !piece.is_empty()));
            assert!(buffer.blocks().is_none_or(Blocks::is_counted));
        }
        assert!(bytes(&buffer).iter().eq(model.iter()));
    }

    /// However a buffer has come to its length, it takes little more than that.
    #[test]
    fn growing_by_a_byte_takes_no_more_than_growing_at_once() {
        let (mut slow, mut quick) = (Buffer::default(), Buffer::default());
        for _ in 0..50_000 {
            slow.push(b"x", NOW).unwrap();
        }
        quick.push(&[b'x'; 50_000], NOW).unwrap();
        assert_eq!(bytes(&slow), bytes(&quick));
        assert!(slow.footprint() < 54_000 && quick.footprint() < 53_000);
        slow.consume(25_000);
        assert!(slow.footprint() < 29_000, "what is consumed is given back");
    }

    /// Most rests are short, and take a short block.
    #[test]
    fn a_short_rest_takes_little() {
        let held = |bytes: usize| {
            let mut buffer = Buffer::default();
            buffer.push(&vec![7; bytes], NOW).unwrap();
            buffer.footprint()
        };
        assert!(held(112) <= 256);
        assert_eq!((held(1), held(113), held(1_008)), (held(112), held(112) + 896, held(113)));
    }

    /// What is one piece takes whole pages, and no more of them than it needs.
    #[test]
    fn what_is_joined_takes_whole_pages() {
        for (bytes, pages) in [(65_520, 16), (65_521, 17), (65_528, 17)] {
            let mut buffer = Buffer::default();
            buffer.push(&[7; 100], NOW).unwrap();
            buffer.join(&vec![7; bytes - 100], NOW).unwrap();
            let beside = buffer.footprint() - (pages << 12);
            assert!(beside <= 150, "{bytes}: {beside}");
            buffer.consume(bytes - 10_000);
            assert!(buffer.footprint() < 13_000);
        }
    }

    /// A block that is consumed to its last byte goes.
    #[test]
    fn no_block_is_empty() {
        let mut buffer = Buffer::default();
        buffer.push(&[7; 3 * 1_008], NOW).unwrap();
        buffer.consume(1_008);
        assert!(buffer.pieces().map(<[u8]>::len).eq([1_008, 1_008]));
        let before = buffer.footprint();
        buffer.consume(1_000);
        assert_eq!(buffer.footprint(), before, "only what was joined is shortened");
    }

    /// A short rest of a long read does not keep the long memory.
    #[test]
    fn a_short_rest_is_short() {
        let mut buffer = Buffer::default();
        buffer.push(&[7; 40_000], NOW).unwrap();
        buffer.join(&[7; 60_000], NOW).unwrap();
        assert_eq!(buffer.pieces().next().unwrap(), [7; 100_000]);
        buffer.consume(99_990);
        assert_eq!(bytes(&buffer), [7; 10]);
        assert!(buffer.footprint() < 8_192);
    }
}
