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

/// The memory of a block,
pub(crate) const BLOCK: usize = 1 << 10;
/// and of the first one, if it is begun with few bytes: most rests are short.
const FIRST: usize = 128;
/// of which the allocator has this much for itself.
const OVERHEAD: usize = 16;
/// What the allocator maps is a number of pages.
const PAGE: usize = 4 << 10;

#[derive(Debug)]
pub(super) struct Chain {
    blocks: VecDeque<Vec<u8>>,
    /// How much of the first block is consumed.
    start: usize,
    /// Bytes that are not consumed.
    pub(super) length: usize,
    held: usize,
    pub(super) since: Moment,
}

impl Chain {
    /// An empty one, if there is memory.
    pub(super) fn begin(since: Moment) -> Option<Box<[Chain; 1]>> {
        boxed(Chain { blocks: VecDeque::new(), start: 0, length: 0, held: 0, since })
    }

    pub(super) fn footprint(&self) -> usize {
        let list = self.blocks.capacity() * size_of::<Vec<u8>>();
        self.held + list + size_of::<Chain>() + 2 * OVERHEAD
    }

    /// Whether what is counted is what the allocator gave: itself, the list, and each block.
    #[cfg(test)]
    pub(super) fn is_counted(&self) -> bool {
        let list = self.blocks.capacity() * size_of::<Vec<u8>>();
        let given = self.blocks.iter().map(Vec::capacity).chain([list, size_of::<Chain>()]);
        let taken: usize = given.map(|bytes| bytes + OVERHEAD).sum();
        self.footprint() == taken && self.held >= self.length
    }

    pub(super) fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let mut start = self.start;
        self.blocks.iter().map(move |block| block.get(take(&mut start)..).unwrap_or_default())
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
                let block = self.blocks.get_mut(last)?;
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
        let filled = self.blocks.len();
        let room = self.blocks.back().map_or(0, |last| last.capacity() - last.len());
        let is_short = filled == 0 && length <= FIRST - OVERHEAD;
        let each = if is_short { FIRST } else { BLOCK };
        let missing = length.saturating_sub(room).div_ceil(each - OVERHEAD);
        match filled {
            0 => self.blocks.try_reserve_exact(missing).ok()?,
            _ => self.blocks.try_reserve(missing).ok()?,
        }
        for _ in 0..missing {
            let Some(block) = room_for(each) else {
                self.blocks.truncate(filled);
                return None;
            };
            self.blocks.push_back(block);
        }
        self.held += missing * each;
        Some(if room > 0 { filled - 1 } else { filled })
    }

    /// Appends `more`, and makes all of it one block.
    pub(super) fn join(&mut self, more: &[u8]) -> Option<()> {
        let least = self.start + self.length + more.len() + OVERHEAD;
        let memory = if least <= BLOCK { BLOCK } else { least.next_multiple_of(PAGE) };
        let room = memory - OVERHEAD;
        if let ([whole], []) = self.blocks.as_mut_slices() {
            whole.try_reserve_exact(room - whole.len()).ok()?; // mapped, it is moved by no copy
            whole.extend_from_slice(more);
            self.held = memory_of(whole);
        } else {
            let mut whole = room_for(memory)?;
            self.blocks.try_reserve(1).ok()?;
            self.blocks.iter().for_each(|block| whole.extend_from_slice(block));
            whole.extend_from_slice(more);
            self.held = memory_of(&whole);
            self.blocks.clear();
            self.blocks.push_back(whole);
        }
        self.length += more.len();
        Some(())
    }

    /// Takes `n` bytes from the front; there are more.
    pub(super) fn consume(&mut self, n: usize) {
        self.start += n;
        while let Some(first) = self.blocks.front_mut() {
            let Some(left) = first.len().checked_sub(self.start).filter(|left| *left > 0) else {
                self.start -= first.len();
                self.held -= memory_of(first);
                self.blocks.pop_front();
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
