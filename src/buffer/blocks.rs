//! A buffer that is not empty: blocks, the first of which may be consumed in part.
//!
//! ```text
//!   [ consumed │ bytes ][ bytes ][ bytes │ room ]     blocks of one size, the first may be short
//!   [ consumed │ bytes                   │ room ]     joined: one that is longer
//! ```
//!
//! Invariants:
//! 1. No block is empty, and the last one is not consumed.
//! 2. `held` is the memory of all blocks, with what the allocator adds.
//! 3. Of a joined block at most half is consumed, unless there was no memory for less.

use crate::fallible::{boxed, with_room};
use crate::time::Moment;
use std::collections::VecDeque;
use std::mem::take;

/// The memory of a block.
pub(crate) const BLOCK: usize = 1 << 10;
/// The memory of the first block, if it is begun with few bytes: most rests are short.
const FIRST: usize = 128;
/// What the allocator keeps of a block for itself.
const OVERHEAD: usize = 16;
/// What the allocator maps is a number of pages.
const PAGE: usize = 4 << 10;

#[derive(Debug)]
pub(super) struct Blocks {
    list: VecDeque<Vec<u8>>,
    /// How much of the first block is consumed.
    start: usize,
    /// Bytes that are not consumed.
    pub(super) length: usize,
    held: usize,
    pub(super) since: Moment,
}

impl Blocks {
    /// An empty one, if there is memory.
    pub(super) fn begin(since: Moment) -> Option<Box<[Blocks; 1]>> {
        boxed(Blocks { list: VecDeque::new(), start: 0, length: 0, held: 0, since })
    }

    pub(super) fn footprint(&self) -> usize {
        let list = self.list.capacity() * size_of::<Vec<u8>>();
        self.held + list + size_of::<Blocks>() + 2 * OVERHEAD
    }

    /// Whether what is counted is what the allocator gave: itself, the list, and each block.
    #[cfg(test)]
    pub(super) fn is_counted(&self) -> bool {
        let list = self.list.capacity() * size_of::<Vec<u8>>();
        let given = self.list.iter().map(Vec::capacity).chain([list, size_of::<Blocks>()]);
        let taken: usize = given.map(|bytes| bytes + OVERHEAD).sum();
        self.footprint() == taken && self.held >= self.length
    }

    pub(super) fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let mut start = self.start;
        self.list.iter().map(move |block| block.get(take(&mut start)..).unwrap_or_default())
    }

    /// Appends pieces that are `length` bytes together, or nothing.
    pub(super) fn push<'a>(
        &mut self,
        length: usize,
        pieces: impl IntoIterator<Item = &'a [u8]>,
    ) -> Option<()> {
        let mut last = self.grow(length)?;
        for mut piece in pieces {
            while !piece.is_empty() {
                let block = self.list.get_mut(last)?;
                let most = piece.len().min(block.capacity() - block.len());
                let (fits, later) = piece.split_at_checked(most)?;
                block.extend_from_slice(fits);
                piece = later;
                last += usize::from(!later.is_empty());
            }
        }
        self.length += length;
        Some(())
    }

    /// Adds the blocks that `length` more bytes need. Returns the first with room.
    fn grow(&mut self, length: usize) -> Option<usize> {
        let filled = self.list.len();
        let room = self.list.back().map_or(0, |last| last.capacity() - last.len());
        let is_short = filled == 0 && length <= FIRST - OVERHEAD;
        let each = if is_short { FIRST } else { BLOCK };
        let missing = length.saturating_sub(room).div_ceil(each - OVERHEAD);
        match filled {
            0 => self.list.try_reserve_exact(missing).ok()?,
            _ => self.list.try_reserve(missing).ok()?,
        }
        for _ in 0..missing {
            let Some(block) = room_for(each) else {
                self.list.truncate(filled);
                return None;
            };
            self.list.push_back(block);
        }
        self.held += missing * each;
        Some(if room > 0 { filled - 1 } else { filled })
    }

    /// Appends `more`, and makes all of it one block.
    pub(super) fn join(&mut self, more: &[u8]) -> Option<()> {
        let least = self.start + self.length + more.len() + OVERHEAD;
        let memory = if least <= BLOCK { BLOCK } else { least.next_multiple_of(PAGE) };
        let room = memory - OVERHEAD;
        if let ([whole], []) = self.list.as_mut_slices() {
            whole.try_reserve_exact(room - whole.len()).ok()?; // mapped, it is moved by no copy
            whole.extend_from_slice(more);
            self.held = memory_of(whole);
        } else {
            let mut whole = room_for(memory)?;
            self.list.try_reserve(1).ok()?;
            self.list.iter().for_each(|block| whole.extend_from_slice(block));
            whole.extend_from_slice(more);
            self.held = memory_of(&whole);
            self.list.clear();
            self.list.push_back(whole);
        }
        self.length += more.len();
        Some(())
    }

    /// Takes `n` bytes from the front; there are more.
    pub(super) fn consume(&mut self, n: usize) {
        self.start += n;
        while let Some(first) = self.list.front_mut() {
            let Some(left) = first.len().checked_sub(self.start).filter(|left| *left > 0) else {
                self.start -= first.len();
                self.held -= memory_of(first);
                self.list.pop_front();
                continue;
            };
            if memory_of(first) > BLOCK
                && left < self.start
                && let Some(mut shorter) = room_for((left + OVERHEAD).next_multiple_of(PAGE))
            {
                shorter.extend_from_slice(first.get(take(&mut self.start)..).unwrap_or_default());
                self.held = self.held + memory_of(&shorter) - memory_of(first);
                *first = shorter;
            }
            return;
        }
    }
}

/// The memory that a block takes.
fn memory_of(block: &Vec<u8>) -> usize {
    block.capacity() + OVERHEAD
}

/// An empty block that takes this much, if there is memory.
fn room_for(memory: usize) -> Option<Vec<u8>> {
    with_room(memory - OVERHEAD)
}
