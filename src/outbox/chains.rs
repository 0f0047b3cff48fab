//! Which bytes go to which connection: for each a chain of pieces of the room.
//!
//! ```text
//!  list     │ for 7: first ─ last │ for 8 │ for 9: first ─ last │ …
//!                            │                            │
//!  pieces   │ of 9 ──▶ of 9 ──▶ …  (a ring: behind the last one comes the first of them)
//! ```
//!
//! A chain keeps its first piece itself, because most have no other. Of the pieces behind it the
//! chain knows the last one, and that leads to the first of them: so neither appending nor
//! beginning to read takes longer when there are more.
//!
//! Invariants:
//! 1. No piece is empty, and none begins where the one before it ends: they are one.
//! 2. The last piece knows how long the chain is, which is less than 4 GiB.

use std::collections::TryReserveError;

/// The memory of more chains or pieces than this is given back.
const KEEP_LINKS: usize = 16 << 10;
/// Answers are sent before there are more of them.
const ANSWERS: usize = 64;
/// The index of a piece where there is none.
const NONE: u32 = u32::MAX;

/// What the outbox holds for a connection: the index of its chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Staged(u32);

impl Staged {
    pub(crate) const NOTHING: Staged = Staged(Staged::ANSWER - 1);
    /// Marks the chain of an answer.
    const ANSWER: u32 = 1 << 31;

    /// Whether it is the answer of a quiet connection to its message, and nothing more has
    /// happened to the connection since.
    #[inline]
    pub(crate) fn is_answer(self) -> bool {
        self.0 & Staged::ANSWER != 0
    }

    #[inline]
    pub(crate) fn is_nothing(self) -> bool {
        self == Staged::NOTHING
    }

    /// More happens to the connection: its chain stays, and is an answer no more.
    #[inline]
    pub(crate) fn demote(&mut self) {
        self.0 &= !Staged::ANSWER;
    }

    fn index(self) -> usize {
        (self.0 & !Staged::ANSWER) as usize
    }
}

/// Bytes of the room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Range {
    pub(super) start: u32,
    pub(super) end: u32,
}

impl Range {
    pub(super) fn len(self) -> usize {
        (self.end - self.start) as usize
    }

    pub(super) fn indices(self) -> std::ops::Range<usize> {
        self.start as usize..self.end as usize
    }
}

#[derive(Debug, Default)]
pub(super) struct Chains {
    /// One for each connection, in the order in which they are served.
    list: Vec<Chain>,
    pieces: Vec<Piece>,
    /// What was linked, and the memory that this may take: what it would be in buffers of the
    /// connections' own.
    owed: usize,
}

/// What goes to `slot`: this, and the pieces behind it.
#[derive(Clone, Copy, Debug)]
struct Chain {
    slot: u32,
    first: Range,
    /// The last of the pieces behind the first one, or [`NONE`].
    last: u32,
}

/// Some more of a chain.
#[derive(Clone, Copy, Debug)]
struct Piece {
    range: Range,
    /// The next piece; behind the last one, the first of them again.
    next: u32,
    /// How many bytes of the chain stand before it.
    before: u32,
}

/// How far the pieces of a chain have been walked.
#[derive(Debug)]
pub(crate) struct Walk {
    first: Option<Range>,
    next: u32,
    last: u32,
}

impl Walk {
    /// Whether there are pieces to come, the first one not counted.
    pub(crate) fn goes_on(&self) -> bool {
        self.next != NONE
    }
}

impl Chains {
    /// Makes room for the answers of a batch, so that none of them allocates.
    pub(super) fn reserve(&mut self) -> Result<(), TryReserveError> {
        self.list.try_reserve_exact(ANSWERS)
    }

    /// How many there are.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The memory that they take.
    pub(super) fn held(&self) -> usize {
        self.list.len() * size_of::<Chain>() + self.pieces.len() * size_of::<Piece>()
    }

    pub(super) fn owed(&self) -> usize {
        self.owed
    }

    /// The slot that a chain is for, and its first piece.
    #[inline]
    pub(super) fn get(&self, index: usize) -> Option<(u32, Range)> {
        self.list.get(index).map(|chain| (chain.slot, chain.first))
    }

    /// The first piece of the chain that was begun last.
    pub(super) fn latest(&self) -> Option<Range> {
        self.list.last().map(|chain| chain.first)
    }

    // ---- to add ------------------------------------------------------------------------

    /// What the connection has staged that is the next to answer.
    #[inline]
    pub(super) fn next_answer(&self) -> Staged {
        Staged(self.list.len() as u32 | Staged::ANSWER)
    }

    /// Adds the answer of `slot`.
    #[inline]
    pub(super) fn answer(&mut self, slot: u32, first: Range) {
        self.list.push(Chain { slot, first, last: NONE });
    }

    /// Adds a piece to the chain of `slot`, or lengthens its last one. `None` if memory fails.
    pub(super) fn link(&mut self, slot: u32, staged: &mut Staged, range: Range) -> Option<()> {
        let index = staged.index();
        match self.list.get_mut(index).filter(|_| !staged.is_nothing()) {
            Some(chain) => {
                let last = self.pieces.get_mut(chain.last as usize);
                let (end, before) = match &last {
                    Some(piece) => (piece.range.end, piece.before as usize + piece.range.len()),
                    None => (chain.first.end, chain.first.len()),
                };
                u32::try_from(before + range.len()).ok()?;
                match last {
                    Some(piece) if end == range.start => piece.range.end = range.end,
                    None if end == range.start => chain.first.end = range.end,
                    _ => self.lengthen(index, range, before as u32)?,
                }
            }
            None => {
                self.list.try_reserve(1).ok()?;
                *staged = Staged(self.list.len() as u32);
                self.list.push(Chain { slot, first: range, last: NONE });
            }
        }
        self.owed += range.len() + size_of::<Piece>();
        Some(())
    }

    /// Adds a piece behind those of a chain.
    fn lengthen(&mut self, index: usize, range: Range, before: u32) -> Option<()> {
        self.pieces.try_reserve(1).ok()?;
        let new = self.pieces.len() as u32;
        let chain = self.list.get_mut(index)?;
        let next = match self.pieces.get_mut(chain.last as usize) {
            Some(last) => std::mem::replace(&mut last.next, new),
            None => new,
        };
        chain.last = new;
        self.pieces.push(Piece { range, next, before });
        Some(())
    }

    // ---- to read -----------------------------------------------------------------------

    /// Whether a chain ends with these bytes: then more of them behind is one piece.
    pub(super) fn ends_with(&self, staged: Staged, range: Range) -> bool {
        !staged.is_nothing() && self.end(staged.index()).is_some_and(|(end, _)| end == range.end)
    }

    /// How many bytes there are for a connection.
    pub(super) fn length_of(&self, staged: Staged) -> usize {
        if staged.is_nothing() { 0 } else { self.length(staged.index()) }
    }

    /// How many bytes a chain has.
    pub(super) fn length(&self, index: usize) -> usize {
        self.end(index).map_or(0, |(_, length)| length)
    }

    /// Where the last piece of a chain ends, and how many bytes that makes.
    fn end(&self, index: usize) -> Option<(u32, usize)> {
        let chain = self.list.get(index)?;
        Some(match self.pieces.get(chain.last as usize) {
            Some(last) => (last.range.end, last.before as usize + last.range.len()),
            None => (chain.first.end, chain.first.len()),
        })
    }

    /// The beginning of the pieces of a chain.
    pub(super) fn walk(&self, index: usize) -> Walk {
        let Some(&Chain { first, last, .. }) = self.list.get(index) else {
            return Walk { first: None, next: NONE, last: NONE };
        };
        let next = self.pieces.get(last as usize).map_or(NONE, |piece| piece.next);
        Walk { first: Some(first), next, last }
    }

    /// The next piece.
    pub(super) fn step(&self, walk: &mut Walk) -> Option<Range> {
        if let Some(first) = walk.first.take() {
            return Some(first);
        }
        let piece = self.pieces.get(walk.next as usize)?;
        walk.next = if walk.next == walk.last { NONE } else { piece.next };
        Some(piece.range)
    }

    /// The pieces of a chain, without its first `taken` bytes.
    pub(super) fn rest(&self, index: usize, mut taken: usize) -> impl Iterator<Item = Range> {
        let mut walk = self.walk(index);
        std::iter::from_fn(move || {
            let mut range = self.step(&mut walk)?;
            let skipped = taken.min(range.len());
            taken -= skipped;
            range.start += skipped as u32;
            Some(range)
        })
    }

    // ---- to end ------------------------------------------------------------------------

    /// Forgets them all.
    #[inline]
    pub(super) fn clear(&mut self) {
        self.list.clear();
    }

    /// The same where more was linked than answers.
    pub(super) fn clear_links(&mut self) {
        self.clear();
        self.list.shrink_to(KEEP_LINKS);
        self.pieces.clear();
        self.pieces.shrink_to(KEEP_LINKS);
        self.owed = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::random;
    use super::*;

    const SLOTS: usize = 4;

    fn bytes(ranges: impl Iterator<Item = Range>) -> Vec<u32> {
        ranges.flat_map(|range| range.start..range.end).collect()
    }

    /// Random links do what a list for each connection does, of the places in the room of what
    /// goes there.
    #[test]
    fn behaves_as_a_list_for_each_connection() {
        let mut chains = Chains::default();
        let (mut lists, mut order) = (vec![Vec::new(); SLOTS], Vec::new());
        let (mut staged, mut written, mut seed) = ([Staged::NOTHING; SLOTS], 0, 1);
        let (mut latest, mut owed, mut most) = (Range::default(), 0, 0);
        for step in 0..20_000 {
            let slot = random(&mut seed) % SLOTS;
            let (known, list) = (&mut staged[slot], &mut lists[slot]);
            match random(&mut seed) % 64 {
                0 => {
                    if owed > 0 {
                        chains.clear_links()
                    } else {
                        chains.clear()
                    }
                    (staged, owed) = ([Staged::NOTHING; SLOTS], 0);
                    lists.iter_mut().for_each(Vec::clear);
                    order.clear();
                }
                1..8 if known.is_nothing() => {
                    *known = chains.next_answer();
                    assert!(known.is_answer());
                    latest = Range { start: written, end: written + 9 };
                    chains.answer(slot as u32, latest);
                    written = latest.end;
                    list.extend(latest.start..latest.end);
                    order.push(slot);
                }
                choice => {
                    known.demote();
                    // Either what was linked last, or what is new behind it.
                    if choice < 40 || latest.len() == 0 {
                        latest = Range { start: written, end: written + 1 + slot as u32 };
                        written = latest.end;
                    }
                    order.extend(known.is_nothing().then_some(slot));
                    let ends = list.last().is_some_and(|last| last + 1 == latest.end);
                    assert_eq!(chains.ends_with(*known, latest), ends);
                    chains.link(slot as u32, known, latest).unwrap();
                    list.extend(latest.start..latest.end);
                    owed += latest.len() + size_of::<Piece>();
                }
            }
            assert_eq!((chains.len(), chains.owed()), (order.len(), owed));
            let links: usize = (0..order.len()).map(|index| chains.rest(index, 0).count()).sum();
            assert_eq!(chains.held(), links * 16); // a chain is 16 bytes, a piece too
            for (index, &slot) in order.iter().enumerate() {
                let list = &lists[slot];
                assert_eq!((staged[slot].index(), chains.length(index)), (index, list.len()));
                assert_eq!(chains.get(index).map(|(slot, _)| slot), Some(slot as u32));
                let taken = random(&mut seed) % (list.len() + 1);
                assert!(bytes(chains.rest(index, taken)) == list[taken..], "step {step}");
                let pieces: Vec<Range> = chains.rest(index, 0).collect();
                assert!(pieces.iter().all(|piece| piece.len() > 0));
                assert!(pieces.windows(2).all(|two| two[0].end != two[1].start));
                most = most.max(pieces.len());
            }
        }
        assert!(most > 5, "at most {most} pieces");
    }

    #[test]
    fn the_memory_of_many_is_given_back() {
        let mut chains = Chains::default();
        for slot in 0..2 * KEEP_LINKS as u32 {
            let mut staged = Staged::NOTHING;
            chains.link(slot, &mut staged, Range { start: 0, end: 1 }).unwrap();
            chains.link(slot, &mut staged, Range { start: 2, end: 3 }).unwrap();
        }
        chains.clear_links();
        assert_eq!((chains.held(), chains.owed()), (0, 0));
        assert_eq!([chains.list.capacity(), chains.pieces.capacity()], [KEEP_LINKS; 2]);
    }
}
