//! What callbacks have written, on its way to the kernel: one buffer, the room, for all
//! connections, and for each connection a chain of the pieces of the room that are for it.
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
//! many in turn, is linked to their [`chains`]. What one call sends of a chain is [`gather`]ed.
//!
//! Invariants:
//! 1. Between turns it is empty, and there is no writer.
//! 2. A connection has at most one chain.
//! 3. `written` is at most the length of `room`, and that, but for the lead, what the
//!    budget has left; unless more was written when it had.

use chains::{Chains, Range, Walk};
use std::collections::TryReserveError;

mod chains;
mod gather;

pub(crate) use chains::Staged;

/// Output is sent when this many bytes wait.
const GROUP_BYTES: usize = 64 << 10;
/// A room that grew beyond this many bytes is freed.
const KEEP_BYTES: usize = 1 << 20;
/// A page of memory. The input begins at the start of one, and the first byte here half a page
/// later: between addresses that differ by a multiple of a page, or a few bytes more, some
/// processors copy at a third of the speed.
const PAGE: usize = 4 << 10;
/// The writer when there is none.
const NOBODY: u32 = u32::MAX;

#[derive(Debug)]
pub(crate) struct Outbox {
    room: Vec<u8>,
    /// Index of the first byte in `room`.
    lead: usize,
    /// Index of the next byte to be written.
    written: usize,
    /// Which bytes go to which connection.
    chains: Chains,
    /// The pieces for the next call to send.
    parts: Vec<Range>,
    writer: u32,
    /// Whose callback is running, if it may have written to others.
    talker: u32,
    /// Where the writer's piece began.
    start: usize,
    /// Index from which on the writer is at its high water mark.
    full_at: usize,
    /// Index from which on it is time to send.
    due_at: usize,
    /// The bytes that were appended last.
    latest: Range,
    /// How many bytes the budget has left.
    most: usize,
}

impl Default for Outbox {
    fn default() -> Outbox {
        Outbox {
            room: Vec::new(),
            lead: 0,
            written: 0,
            chains: Chains::default(),
            parts: Vec::new(),
            writer: NOBODY,
            talker: NOBODY,
            start: 0,
            full_at: 0,
            due_at: GROUP_BYTES,
            latest: Range::default(),
            most: usize::MAX,
        }
    }
}

impl Outbox {
    pub(crate) fn new() -> Result<Outbox, TryReserveError> {
        let mut outbox = Outbox::default();
        outbox.grow(2 * GROUP_BYTES)?;
        outbox.chains.reserve()?;
        outbox.parts.try_reserve_exact(gather::PARTS)?;
        outbox.clear_links();
        outbox.clear();
        Ok(outbox)
    }

    /// The memory that what was written takes.
    pub(crate) fn held(&self) -> usize {
        self.written - self.lead + self.chains.held()
    }

    /// The memory it would take in the connections' own buffers, answers not counted.
    pub(crate) fn owed(&self) -> usize {
        self.chains.owed()
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.chains.is_empty()
    }

    /// For how many connections output is staged.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.chains.len()
    }

    /// Whether enough is written that it should be sent now.
    #[inline]
    pub(crate) fn is_due(&self) -> bool {
        self.written >= self.due_at
    }

    /// Makes output due as soon as possible.
    #[cold]
    pub(crate) fn make_due(&mut self) {
        self.due_at = 0;
    }

    /// Makes output due when a group of bytes waits; or fewer, if memory is short, because what
    /// the kernel does not take is copied, and both must fit.
    pub(crate) fn take_its_time(&mut self) {
        self.due_at = self.lead + GROUP_BYTES.min(self.most / 4);
    }

    /// The slot that a chain is for, and the bytes that it begins with: all, if it is an answer.
    #[inline]
    pub(crate) fn get(&self, index: usize) -> Option<(u32, &[u8])> {
        self.chains.get(index).map(|(slot, first)| (slot, self.bytes(first)))
    }

    /// The bytes of the room.
    #[inline]
    pub(crate) fn bytes(&self, range: Range) -> &[u8] {
        self.room.get(range.indices()).unwrap_or_default()
    }

    // ---- the writer --------------------------------------------------------------------

    /// How many bytes are staged for the connection that is the next writer.
    #[inline]
    pub(crate) fn next_answer(&self) -> Staged {
        self.chains.next_answer()
    }

    /// Makes `slot` the writer, which is full after this many bytes. There must be no writer yet.
    #[inline]
    pub(crate) fn open(&mut self, slot: u32, high_water: usize) {
        self.writer = slot;
        self.start = self.written;
        self.full_at = self.written + high_water;
    }

    /// The callback of `slot` is running, and `slot` is not the writer.
    pub(crate) fn talks(&mut self, slot: u32) {
        self.talker = slot;
    }

    /// The callback of the writer does more than answer.
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
        self.chains.answer(slot, Range { start: start as u32, end: end as u32 });
        (end >= self.full_at).then_some(slot)
    }

    /// Whether `slot` is full; `None` if it is not the writer.
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
            || self.chains.link(slot, staged, range).is_none()
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
        if self.bytes(latest) != bytes || self.chains.ends_with(*staged, latest) {
            return false;
        }
        self.latest = latest;
        self.chains.link(slot, staged, latest).is_some()
    }

    /// What was written last: that may be an answer.
    fn latest(&self) -> Range {
        let is_last = |range: &Range| range.end as usize == self.written;
        let both = [Some(self.latest), self.chains.latest()];
        both.into_iter().flatten().find(is_last).unwrap_or_default()
    }

    /// How many bytes there are for `slot`.
    pub(crate) fn length_of(&self, slot: u32, staged: Staged) -> usize {
        if self.writer == slot {
            return self.written - self.start;
        }
        self.chains.length_of(staged)
    }

    /// How many bytes a chain has.
    pub(crate) fn length(&self, index: usize) -> usize {
        self.chains.length(index)
    }

    /// The beginning of the pieces of a chain.
    pub(crate) fn walk(&self, index: usize) -> Walk {
        self.chains.walk(index)
    }

    /// The bytes of a chain, piece by piece, without the first `taken`.
    pub(crate) fn rest(&self, index: usize, taken: usize) -> impl Iterator<Item = &[u8]> {
        self.chains.rest(index, taken).map(|range| self.bytes(range))
    }

    // ---- the room ----------------------------------------------------------------------

    /// Takes no more than `most` bytes from now on, without being asked again.
    #[inline]
    pub(crate) fn limit(&mut self, most: usize) {
        self.most = most;
        if self.due_at > 0 {
            self.take_its_time();
        }
        let most = most.saturating_add(self.lead);
        if self.room.len() > most {
            self.room.truncate(most.max(self.written));
        }
    }

    pub(crate) fn is_limited_to(&self, most: usize) -> bool {
        self.most == most
    }

    /// Empties the outbox, because everything is sent.
    pub(crate) fn clear(&mut self) {
        self.chains.clear();
        if self.chains.owed() > 0 {
            self.clear_links();
        }
        self.written = self.lead;
        self.limit(self.most);
    }

    /// More is sent than answers, and the room may have grown for it.
    #[cold]
    fn clear_links(&mut self) {
        self.chains.clear_links();
        self.room.truncate(KEEP_BYTES);
        self.room.shrink_to(KEEP_BYTES);
        self.lead = (PAGE / 2).wrapping_sub(self.room.as_ptr().addr()) % PAGE;
        self.lead = self.lead.min(self.room.len());
        self.latest = Range::default();
        self.talker = NOBODY;
        self.take_its_time();
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
    use super::gather::{COPIED, LARGE, PARTS};
    use super::*;
    use std::collections::BTreeMap;

    const SLOTS: usize = 4;
    const HIGH_WATER: usize = 100;

    pub(super) fn random(state: &mut u64) -> usize {
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
                    staged.demote();
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
        assert_eq!(outbox.held(), 10 * 15 + 10 * 16 + 49 * 16); // a chain is 16 bytes, a piece too
        assert_eq!(outbox.gather(&mut outbox.walk(48)), 10 * 15 + 10 * 16);
        assert_eq!(outbox.parts().len(), 1);
    }

    /// An answer that others receive too, as in a chat, is kept once.
    #[test]
    fn an_answer_is_repeated_to_others() {
        let (mut outbox, mut other) = (Outbox::new().unwrap(), Staged::NOTHING);
        outbox.open(1, HIGH_WATER);
        assert!(outbox.write(1, b"hi\n"));
        outbox.close();
        assert!(!outbox.repeat(2, &mut other, b"ho\n"));
        assert!(outbox.repeat(2, &mut other, b"hi\n"));
        assert_eq!((outbox.held(), chained(&outbox, 1)), (3 + 2 * 16, b"hi\n".to_vec()));
    }

    /// A group of bytes is sent at once; less if memory is short, and anything if it is urgent.
    #[test]
    fn output_is_due_when_a_group_waits() {
        let due = |outbox: &mut Outbox| {
            let mut staged = Staged::NOTHING;
            let mut is_due =
                |_: &usize| outbox.is_due() || !outbox.append(1, &mut staged, b".", 1 << 20);
            (0..=GROUP_BYTES).find(|bytes| is_due(bytes))
        };
        let mut outbox = Outbox::new().unwrap();
        assert_eq!(due(&mut outbox), Some(GROUP_BYTES));
        outbox.clear();
        outbox.limit(4_000);
        assert_eq!(due(&mut outbox), Some(1_000));
        outbox.make_due();
        outbox.limit(1 << 20);
        assert!(outbox.is_due(), "more memory leaves it due");
        outbox.clear();
        assert_eq!(due(&mut outbox), Some(GROUP_BYTES));
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
        outbox.clear();
        assert_eq!(outbox.room.len(), KEEP_BYTES);
        assert!(outbox.room.capacity() <= KEEP_BYTES);
    }
}
