//! What callbacks have written, on its way to the kernel: one room for all connections, and for
//! each connection a chain of the pieces of it that are for that connection.
//!
//! ```text
//!  room    │ welcome\n │ anna: hi\n │ bob: oh\n │ you said hi\n │ …
//!  for 7     └─────────────────────────────────┘   one piece: each began where the last ended
//!  for 8                └─────────────────────┘    the same bytes, kept once
//!  for 9     └─────────┘              └─────────┘   two pieces
//! ```
//!
//! While a message is answered, its connection is the writer: it appends to a piece that stays
//! open, and a write is a comparison and a copy. What is written to other connections, or to
//! many in turn, is linked: a connection keeps the index of its chain, so that neither finding
//! nor appending takes longer when there is more of it.
//!
//! Invariants:
//! 1. Between turns it is empty, and nobody is the writer.
//! 2. A connection has at most one chain, and no piece is empty.
//! 3. `written` is at most the length of `room`, and that, but for the lead, what the
//!    budget has left; unless more was written when it had.

use std::collections::TryReserveError;

/// Output is sent when so many bytes wait.
const GROUP_BYTES: usize = 64 << 10;
/// Room that grew beyond this is given back, and so is the memory of so many chains or pieces.
const KEEP_BYTES: usize = 1 << 20;
const KEEP_LINKS: usize = 16 << 10;
/// Of a page of memory. The input begins where one does, and here the first byte stands half
/// a page behind: between addresses that differ by a multiple of a page, or a few bytes
/// more, some processors copy at a third of the speed.
const PAGE: usize = 4 << 10;
/// The writer when there is none.
const NOBODY: u32 = u32::MAX;
/// The index of a piece where there is none.
const NONE: u32 = u32::MAX;

/// Most parts of one `sendmsg`. The kernel takes [`IOV_MAX`](crate::kernel::IOV_MAX).
pub(crate) const PARTS: usize = 64;
/// From this length on a piece is a part of its own. It is cheaper to copy shorter ones together,
/// up to so many bytes a call: measured, see the chapter on sending.
const LARGE: usize = 2 << 10;
const COPIED: usize = 64 << 10;

/// What the outbox holds for a connection.
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

    /// More happens to the connection: its chain is the same, and no answer any more.
    #[inline]
    pub(crate) fn count(&mut self) {
        self.0 &= !Staged::ANSWER;
    }

    fn index(self) -> usize {
        (self.0 & !Staged::ANSWER) as usize
    }
}

#[derive(Debug)]
pub(crate) struct Outbox {
    room: Vec<u8>,
    /// Where the first byte stands,
    lead: usize,
    /// and the next one.
    written: usize,
    /// One for each connection, in the order in which they are served.
    chains: Vec<Chain>,
    pieces: Vec<Piece>,
    /// What the next call is to send.
    parts: Vec<Range>,
    writer: u32,
    /// Whose callback is running, if it may have written to others.
    talker: u32,
    /// Where the writer's piece began.
    start: usize,
    /// From here on the writer is full.
    full_at: usize,
    /// From here on it is time to send.
    due_at: usize,
    /// What was appended last.
    latest: Range,
    /// Bytes for all connections together, and the memory that they may take to link: what
    /// they would be in buffers of their own.
    owed: usize,
    /// What the budget has left.
    most: usize,
}

/// Bytes of the room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Range {
    start: u32,
    end: u32,
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

impl Range {
    fn len(self) -> usize {
        (self.end - self.start) as usize
    }

    fn indices(self) -> std::ops::Range<usize> {
        self.start as usize..self.end as usize
    }
}

impl Default for Outbox {
    fn default() -> Outbox {
        Outbox {
            room: Vec::new(),
            lead: 0,
            written: 0,
            chains: Vec::new(),
            pieces: Vec::new(),
            parts: Vec::new(),
            writer: NOBODY,
            talker: NOBODY,
            start: 0,
            full_at: 0,
            due_at: GROUP_BYTES,
            latest: Range::default(),
            owed: 0,
            most: usize::MAX,
        }
    }
}

impl Outbox {
    pub(crate) fn new() -> Result<Outbox, TryReserveError> {
        let mut outbox = Outbox::default();
        outbox.grow(2 * GROUP_BYTES)?;
        outbox.clear_links();
        outbox.clear();
        Ok(outbox)
    }

    /// The memory that what was written takes.
    pub(crate) fn held(&self) -> usize {
        let links = self.chains.len() * size_of::<Chain>() + self.pieces.len() * size_of::<Piece>();
        self.written - self.lead + links
    }

    /// What it would take in buffers of the connections' own.
    pub(crate) fn owed(&self) -> usize {
        self.owed
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.chains.is_empty()
    }

    /// For how many connections there is something.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.chains.len()
    }

    /// Whether so much is written that it is to be sent.
    #[inline]
    pub(crate) fn is_due(&self) -> bool {
        self.written >= self.due_at
    }

    /// It is to be sent as soon as possible.
    #[cold]
    pub(crate) fn hurry(&mut self) {
        self.due_at = 0;
    }

    pub(crate) fn take_its_time(&mut self) {
        self.due_at = GROUP_BYTES;
    }

    /// For whom a chain is, and the bytes that it begins with: all, if it is an answer.
    #[inline]
    pub(crate) fn get(&self, index: usize) -> Option<(u32, &[u8])> {
        let chain = self.chains.get(index)?;
        Some((chain.slot, self.bytes(chain.first)))
    }

    /// The bytes of the room.
    #[inline]
    pub(crate) fn bytes(&self, range: Range) -> &[u8] {
        self.room.get(range.indices()).unwrap_or_default()
    }

    // ---- the writer --------------------------------------------------------------------

    /// What the connection has staged that is the next writer.
    #[inline]
    pub(crate) fn next_answer(&self) -> Staged {
        Staged(self.chains.len() as u32 | Staged::ANSWER)
    }

    /// Makes `slot` the writer, which is full after so many bytes. There must be none.
    #[inline]
    pub(crate) fn open(&mut self, slot: u32, high_water: usize) {
        self.writer = slot;
        self.start = self.written;
        self.full_at = self.written + high_water;
    }

    /// The callback of `slot` is running, which is no writer.
    pub(crate) fn talks(&mut self, slot: u32) {
        self.talker = slot;
    }

    /// The callback of the writer does more than to answer.
    pub(crate) fn talks_on(&mut self) {
        if self.writer != NOBODY {
            self.talker = self.writer;
        }
    }

    /// Whose callback is running, if it may have written to others.
    pub(crate) fn talker(&self) -> Option<u32> {
        Some(self.talker).filter(|&slot| slot != NOBODY)
    }

    /// Closes the writer's piece. Returns its slot if that is worth a look: it became full, or
    /// has written nothing.
    #[inline]
    pub(crate) fn close(&mut self) -> Option<u32> {
        let Outbox { writer: slot, start, written: end, .. } = *self;
        if slot == NOBODY {
            return None;
        }
        self.writer = NOBODY;
        if end == start {
            return Some(slot);
        }
        let first = Range { start: start as u32, end: end as u32 };
        self.chains.push(Chain { slot, first, last: NONE });
        (end >= self.full_at).then_some(slot)
    }

    /// Whether the writer is full; `None` if that is not `slot`.
    #[inline]
    pub(crate) fn is_full(&self, slot: u32) -> Option<bool> {
        (self.writer == slot).then_some(self.written >= self.full_at)
    }

    /// Appends to the open piece, if it is that of `slot` and there is room.
    #[inline]
    pub(crate) fn write(&mut self, slot: u32, bytes: &[u8]) -> bool {
        let end = self.written + bytes.len();
        match self.room.get_mut(self.written..end) {
            Some(room) if self.writer == slot => room.copy_from_slice(bytes),
            _ => return false,
        }
        self.written = end;
        true
    }

    // ---- chains ------------------------------------------------------------------------

    /// Appends bytes for `slot`, for which `staged` is there already; `false` if memory fails.
    /// The room may grow to `most` bytes.
    pub(crate) fn append(
        &mut self,
        slot: u32,
        staged: &mut Staged,
        bytes: &[u8],
        most: usize,
    ) -> bool {
        let (start, end) = (self.written, self.written + bytes.len());
        let Ok(last) = u32::try_from(end) else { return false };
        let range = Range { start: start as u32, end: last };
        if end > self.room.len() && self.grow(end.max(most.min(2 * self.room.len()))).is_err()
            || self.link(slot, staged, range).is_none()
        {
            return false;
        }
        if let Some(room) = self.room.get_mut(start..end) {
            room.copy_from_slice(bytes);
        }
        self.written = end;
        self.latest = range;
        true
    }

    /// The same for bytes that were appended last: they need not be kept again. `false` if that
    /// is not so.
    pub(crate) fn repeat(&mut self, slot: u32, staged: &mut Staged, bytes: &[u8]) -> bool {
        let latest = self.latest();
        if self.bytes(latest) != bytes || self.ends_with(*staged, latest) {
            return false;
        }
        self.latest = latest;
        self.link(slot, staged, latest).is_some()
    }

    /// Whether these bytes are the end of a chain: then more of them behind is one piece.
    fn ends_with(&self, staged: Staged, range: Range) -> bool {
        let chain = self.chains.get(staged.index()).filter(|_| !staged.is_nothing());
        chain.is_some_and(|chain| {
            let last = self.pieces.get(chain.last as usize).map_or(chain.first, |last| last.range);
            last.end == range.end
        })
    }

    /// What was written last: that may be an answer.
    fn latest(&self) -> Range {
        let answer = self.chains.last().map(|chain| chain.first);
        let is_last = |range: &Range| range.end as usize == self.written;
        [Some(self.latest), answer].into_iter().flatten().find(is_last).unwrap_or_default()
    }

    /// Adds a piece to the chain of `slot`, or lengthens its last one.
    fn link(&mut self, slot: u32, staged: &mut Staged, range: Range) -> Option<()> {
        let index = staged.index();
        match self.chains.get_mut(index).filter(|_| !staged.is_nothing()) {
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
                self.chains.try_reserve(1).ok()?;
                *staged = Staged(self.chains.len() as u32);
                self.chains.push(Chain { slot, first: range, last: NONE });
            }
        }
        self.owed += range.len() + size_of::<Piece>();
        Some(())
    }

    /// Adds a piece behind those of a chain.
    fn lengthen(&mut self, index: usize, range: Range, before: u32) -> Option<()> {
        self.pieces.try_reserve(1).ok()?;
        let new = self.pieces.len() as u32;
        let chain = self.chains.get_mut(index)?;
        let next = match self.pieces.get_mut(chain.last as usize) {
            Some(last) => std::mem::replace(&mut last.next, new),
            None => new,
        };
        chain.last = new;
        self.pieces.push(Piece { range, next, before });
        Some(())
    }

    /// How many bytes there are for `slot`.
    pub(crate) fn length_of(&self, slot: u32, staged: Staged) -> usize {
        if self.writer == slot {
            return self.written - self.start;
        }
        if staged.is_nothing() { 0 } else { self.length(staged.index()) }
    }

    /// How many bytes a chain has.
    pub(crate) fn length(&self, index: usize) -> usize {
        let Some(chain) = self.chains.get(index) else { return 0 };
        match self.pieces.get(chain.last as usize) {
            Some(last) => last.before as usize + last.range.len(),
            None => chain.first.len(),
        }
    }

    // ---- what is sent ------------------------------------------------------------------

    /// The beginning of the pieces of a chain.
    pub(crate) fn walk(&self, index: usize) -> Walk {
        let (mut walk, chain) =
            (Walk { first: None, next: NONE, last: NONE }, self.chains.get(index));
        if let Some(&Chain { first, last, .. }) = chain {
            let next = self.pieces.get(last as usize).map_or(NONE, |piece| piece.next);
            walk = Walk { first: Some(first), next, last };
        }
        walk
    }

    /// The next piece.
    pub(crate) fn step(&self, walk: &mut Walk) -> Option<Range> {
        if let Some(first) = walk.first.take() {
            return Some(first);
        }
        let piece = self.pieces.get(walk.next as usize)?;
        walk.next = if walk.next == walk.last { NONE } else { piece.next };
        Some(piece.range)
    }

    /// The bytes of a chain, piece by piece, without the first `taken`.
    pub(crate) fn rest(&self, index: usize, taken: usize) -> impl Iterator<Item = &[u8]> {
        let (mut walk, mut taken) = (self.walk(index), taken);
        std::iter::from_fn(move || {
            let bytes = self.bytes(self.step(&mut walk)?);
            let skipped = taken.min(bytes.len());
            taken -= skipped;
            bytes.get(skipped..)
        })
    }

    /// Puts together what the next call is to send: at least [`COPIED`] bytes, or all there are
    /// if they are fewer. Small pieces are copied behind what is written. Returns how many.
    pub(crate) fn gather(&mut self, walk: &mut Walk) -> usize {
        self.parts.clear();
        let (mut end, mut sum) = (self.written, 0);
        if walk.next != NONE && self.room.len() < end + COPIED {
            let _ = self.grow((end + COPIED).min(u32::MAX as usize)); // or nothing is copied
        }
        let most = self.room.len().min(end + COPIED);
        while self.parts.len() < PARTS {
            let Some(mut range) = self.step(walk) else { break };
            sum += range.len();
            let is_alone = self.parts.is_empty() && walk.next == NONE;
            if range.len() < LARGE && end + range.len() <= most && !is_alone {
                self.room.copy_within(range.indices(), end);
                range = Range { start: end as u32, end: end as u32 + range.len() as u32 };
                end += range.len();
            }
            match self.parts.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => self.parts.push(range),
            }
        }
        sum
    }

    /// What [`gather`](Outbox::gather) has put together.
    pub(crate) fn parts(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.parts.iter().map(|part| self.bytes(*part))
    }

    // ---- the room ----------------------------------------------------------------------

    /// Takes no more than `most` bytes from now on, without being asked again.
    #[inline]
    pub(crate) fn limit(&mut self, most: usize) {
        self.most = most;
        let most = most.saturating_add(self.lead);
        if self.room.len() > most {
            self.room.truncate(most.max(self.written));
        }
    }

    pub(crate) fn is_limited_to(&self, most: usize) -> bool {
        self.most == most
    }

    /// Everything is sent.
    pub(crate) fn clear(&mut self) {
        self.chains.clear();
        if self.owed > 0 {
            self.clear_links();
        }
        self.written = self.lead;
        self.limit(self.most);
    }

    /// More is sent than answers, and the room may have grown for it.
    #[cold]
    fn clear_links(&mut self) {
        self.pieces.clear();
        self.pieces.shrink_to(KEEP_LINKS);
        self.chains.shrink_to(KEEP_LINKS);
        self.room.truncate(KEEP_BYTES);
        self.room.shrink_to(KEEP_BYTES);
        self.lead = (PAGE / 2).wrapping_sub(self.room.as_ptr().addr()) % PAGE;
        self.lead = self.lead.min(self.room.len());
        self.latest = Range::default();
        (self.owed, self.due_at, self.talker) = (0, GROUP_BYTES, NOBODY);
    }

    /// The first bytes of the room of an empty outbox, to be used for something else: some,
    /// however short memory is, for into none a file seems to be read to its end.
    pub(crate) fn scratch(&mut self, most: usize) -> &mut [u8] {
        if self.room.len() < PAGE {
            let _ = self.grow(PAGE);
        }
        let length = self.room.len().min(most);
        self.room.get_mut(..length).unwrap_or_default()
    }

    /// Makes the room `length` bytes long.
    fn grow(&mut self, length: usize) -> Result<(), TryReserveError> {
        self.room.try_reserve_exact(length.saturating_sub(self.room.len()))?;
        self.room.resize(length, 0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const SLOTS: usize = 4;
    const HIGH_WATER: usize = 100;

    fn random(state: &mut u64) -> usize {
        *state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (*state >> 33) as usize
    }

    /// What goes to a connection, as its chain has it.
    fn chained(outbox: &Outbox, index: usize) -> Vec<u8> {
        let pieces: Vec<&[u8]> = outbox.rest(index, 0).collect();
        assert!(pieces.iter().all(|piece| !piece.is_empty()));
        let (all, taken) = (pieces.concat(), pieces.len());
        assert!(outbox.rest(index, taken).collect::<Vec<_>>().concat() == all[taken..]);
        all
    }

    /// Random calls do what a queue for each connection does, served in the order in which
    /// they began; and what one call sends after the other is all of it, in order.
    #[test]
    fn behaves_as_a_queue_for_each_connection() {
        let mut outbox = Outbox::new().unwrap();
        let (mut queues, mut order) = (BTreeMap::<u32, Vec<u8>>::new(), Vec::new());
        let (mut staged, mut answer) = ([Staged::NOTHING; SLOTS], None::<(u32, Vec<u8>)>);
        let (mut seed, mut latest, mut calls) = (1, Vec::new(), [0; 2]);
        for step in 0..30_000u32 {
            let slot = (random(&mut seed) % SLOTS) as u32;
            let large = random(&mut seed).is_multiple_of(4);
            let length = random(&mut seed) % if large { 8 * LARGE } else { 60 };
            let mut bytes = vec![step as u8; length];
            match random(&mut seed) % 8 {
                0 if answer.is_none() && staged[slot as usize].is_nothing() => {
                    staged[slot as usize] = outbox.next_answer();
                    outbox.open(slot, HIGH_WATER);
                    assert!(staged[slot as usize].is_answer());
                    answer = Some((slot, Vec::new()));
                }
                1 | 2 => {
                    let is_writer = answer.as_ref().is_some_and(|(writer, _)| *writer == slot);
                    let fits = outbox.written + bytes.len() <= outbox.room.len();
                    assert_eq!(outbox.write(slot, &bytes), is_writer && fits);
                    if let Some((_, answer)) = answer.as_mut().filter(|_| is_writer && fits) {
                        answer.append(&mut bytes);
                    }
                }
                3 => {
                    let closed = answer.take();
                    let worth = closed.as_ref().and_then(|(slot, answer)| {
                        (answer.is_empty() || answer.len() >= HIGH_WATER).then_some(*slot)
                    });
                    assert_eq!(outbox.close(), worth);
                    let Some((slot, written)) = closed else { continue };
                    let staged = &mut staged[slot as usize];
                    staged.count();
                    if written.is_empty() {
                        *staged = Staged::NOTHING;
                    }
                    if !written.is_empty() {
                        order.push(slot);
                        latest.clone_from(&written);
                        queues.insert(slot, written);
                    }
                }
                4..=6 if answer.is_none() && !bytes.is_empty() => {
                    let known = &mut staged[slot as usize];
                    order.extend(known.is_nothing().then_some(slot));
                    let again = !latest.is_empty() && !step.is_multiple_of(3);
                    if again {
                        bytes.clone_from(&latest);
                    }
                    // What is the end of its chain already is not linked again.
                    if !again || !outbox.repeat(slot, known, &bytes) {
                        assert!(outbox.append(slot, known, &bytes, 1 << 20));
                        latest.clone_from(&bytes);
                    }
                    queues.entry(slot).or_default().append(&mut bytes);
                }
                7 if answer.is_none() && step % 128 == 0 => {
                    for (index, slot) in order.drain(..).enumerate() {
                        let (mut walk, mut sent) = (outbox.walk(index), Vec::<u8>::new());
                        while let due = outbox.gather(&mut walk)
                            && due > 0
                        {
                            let before = sent.len();
                            assert!(outbox.parts().len() <= PARTS);
                            outbox.parts().for_each(|bytes| sent.extend(bytes));
                            assert_eq!(sent.len() - before, due);
                            let is_all = sent.len() == queues[&slot].len();
                            assert!(is_all || due >= COPIED);
                            calls[usize::from(before > 0)] += 1;
                        }
                        assert!(sent == queues[&slot]);
                    }
                    outbox.clear();
                    queues.clear();
                    latest.clear();
                    staged = [Staged::NOTHING; SLOTS];
                }
                _ => {}
            }
            assert_eq!((outbox.is_empty(), outbox.len()), (order.is_empty(), order.len()));
            for (index, &slot) in order.iter().enumerate() {
                let (known, bytes) = outbox.get(index).unwrap();
                assert!(known == slot && queues[&slot].starts_with(bytes));
                if step % 64 == 0 {
                    assert!(chained(&outbox, index) == queues[&slot]);
                }
            }
            for slot in 0..SLOTS as u32 {
                let own = answer.as_ref().filter(|(writer, _)| *writer == slot);
                let is_full = own.map(|(_, answer)| answer.len() >= HIGH_WATER);
                assert_eq!(outbox.is_full(slot), is_full);
                let length = own.map(|(_, bytes)| bytes).or(queues.get(&slot)).map_or(0, Vec::len);
                assert_eq!(outbox.length_of(slot, staged[slot as usize]), length);
            }
        }
        assert!(calls.iter().all(|calls| *calls > 5), "{calls:?} first and further calls");
    }

    /// What a packet of 20 lines to 49 members costs: their bytes once, and a piece for each.
    #[test]
    fn lines_to_many_are_one_piece_for_each() {
        let (mut outbox, mut staged) = (Outbox::new().unwrap(), [Staged::NOTHING; 49]);
        for line in 0..20 {
            let line = format!("guest1: line {line}\n");
            for (slot, staged) in staged.iter_mut().enumerate() {
                let again = outbox.repeat(slot as u32, staged, line.as_bytes());
                assert_eq!(again, slot > 0);
                assert!(again || outbox.append(slot as u32, staged, line.as_bytes(), 1 << 20));
            }
        }
        assert_eq!((outbox.chains.len(), outbox.pieces.len()), (49, 0));
        assert_eq!(outbox.held(), 10 * 15 + 10 * 16 + 49 * size_of::<Chain>());
        assert_eq!(outbox.gather(&mut outbox.walk(48)), 10 * 15 + 10 * 16);
        assert_eq!(outbox.parts().len(), 1);
    }

    /// Small pieces are one part together, large ones each their own.
    #[test]
    fn small_pieces_are_copied_together() {
        let (mut outbox, mut staged) = (Outbox::new().unwrap(), Staged::NOTHING);
        for length in [10, 20, LARGE, 30, LARGE - 1, LARGE + 1, 40] {
            assert!(outbox.append(1, &mut staged, &vec![length as u8; length], 1 << 20));
            // So nothing is joined.
            assert!(outbox.append(2, &mut Staged::NOTHING.clone(), b"-", 1 << 20));
        }
        outbox.gather(&mut outbox.walk(0));
        let lengths: Vec<usize> = outbox.parts().map(<[u8]>::len).collect();
        assert_eq!(lengths, [30, LARGE, 30 + LARGE - 1, LARGE + 1, 40]);
    }

    #[test]
    fn there_is_always_room_for_something_else() {
        assert_eq!(Outbox::default().scratch(100).len(), 100);
    }

    /// Room grows to twice its length, but not beyond what it may, unless it must; and it
    /// goes again, but never from under what is written.
    #[test]
    fn room_comes_and_goes() {
        let room = 2 * GROUP_BYTES;
        let mut outbox = Outbox::new().unwrap();
        let lead = outbox.lead;
        assert_eq!((outbox.room.as_ptr().addr() + lead) % PAGE, PAGE / 2);
        let mut staged = Staged::NOTHING;
        for (end, most, room) in [
            (room, 10 * room, room),
            (room + 1, 10 * room, 2 * room),
            (2 * room + 1, 3 * room, 3 * room),
            (3 * room + 1, 3 * room, 3 * room + 1),
        ] {
            let more = vec![7; end - outbox.written];
            assert!(outbox.append(1, &mut staged, &more, most));
            assert_eq!(outbox.room.len(), room);
        }
        outbox.limit(10);
        assert_eq!(outbox.get(0), Some((1, &vec![7; 3 * room + 1 - lead][..])));
        outbox.clear();
        let (length, lead) = (outbox.room.len(), outbox.lead);
        assert_eq!((outbox.held(), length), (0, lead + 10));
        assert_eq!((outbox.scratch(4).len(), outbox.scratch(room).len()), (4, length.max(PAGE)));
        outbox.limit(2 * KEEP_BYTES);
        assert!(outbox.append(1, &mut Staged::NOTHING.clone(), &vec![7; KEEP_BYTES + 1], 0));
        for slot in 0..2 * KEEP_LINKS as u32 {
            let mut staged = Staged::NOTHING;
            assert!(outbox.append(slot, &mut staged, b"a", 0));
            assert!(outbox.append(NOBODY, &mut Staged::NOTHING.clone(), b"-", 0));
            assert!(outbox.append(slot, &mut staged, b"b", 0));
        }
        outbox.clear();
        assert_eq!(outbox.room.len(), KEEP_BYTES);
        assert!(outbox.room.capacity() <= KEEP_BYTES);
        let links = [outbox.chains.capacity(), outbox.pieces.capacity()];
        assert_eq!(links, [KEEP_LINKS; 2]);
    }
}
