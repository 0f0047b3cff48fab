//! What callbacks have written, on its way to the kernel: one buffer for all connections.
//!
//! It is a list of segments, each the bytes for one connection, sent in this order; a
//! broadcast is many segments of the same bytes. While a message is answered, its
//! connection is the writer: it appends to a segment that stays open, and a write is a
//! comparison and a copy.
//!
//! Invariants:
//! 1. Between turns it is empty, and nobody is the writer.
//! 2. `written` is at most the length of `room`, and that, but for the lead, what the
//!    budget has left; unless more was written when it had.

use std::collections::TryReserveError;

/// Output is sent when so many bytes wait.
pub(crate) const GROUP_BYTES: usize = 64 << 10;
/// Room that grew beyond this is given back.
const KEEP_BYTES: usize = 1 << 20;
/// Of a page of memory. The input begins where one does, and here the first byte stands half
/// a page behind: between addresses that differ by a multiple of a page, or a few bytes
/// more, some processors copy at a third of the speed.
const PAGE: usize = 4 << 10;
/// The writer when there is none.
const NOBODY: u32 = u32::MAX;

#[derive(Debug)]
pub(crate) struct Outbox {
    room: Vec<u8>,
    /// Where the first byte stands,
    lead: usize,
    /// and the next one.
    written: usize,
    segments: Vec<Segment>,
    writer: u32,
    /// Where the writer's segment began.
    start: usize,
    /// From here on the writer is full.
    full_at: usize,
    /// From here on it is time to send.
    due_at: usize,
    /// What the budget has left.
    most: usize,
}

/// These bytes of the room go to `slot`.
#[derive(Clone, Copy, Debug)]
struct Segment {
    slot: u32,
    start: usize,
    end: usize,
}

impl Default for Outbox {
    fn default() -> Outbox {
        Outbox {
            room: Vec::new(),
            lead: 0,
            written: 0,
            segments: Vec::new(),
            writer: NOBODY,
            start: 0,
            full_at: 0,
            due_at: GROUP_BYTES,
            most: usize::MAX,
        }
    }
}

impl Outbox {
    pub(crate) fn with_room(length: usize) -> Result<Outbox, TryReserveError> {
        let mut outbox = Outbox::default();
        outbox.grow(length)?;
        outbox.clear();
        Ok(outbox)
    }

    pub(crate) fn written(&self) -> usize {
        self.written - self.lead
    }

    /// How many segments there are, in the order in which they are to be sent.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.segments.len()
    }

    /// Whether so much is written that it is to be sent.
    #[inline]
    pub(crate) fn is_due(&self) -> bool {
        self.written >= self.due_at
    }

    /// It is to be sent as soon as possible, until [`take_its_time`](Outbox::take_its_time).
    #[cold]
    pub(crate) fn hurry(&mut self) {
        self.due_at = 0;
    }

    pub(crate) fn take_its_time(&mut self) {
        self.due_at = GROUP_BYTES;
    }

    /// For whom a segment is, and its bytes.
    #[inline]
    pub(crate) fn get(&self, index: usize) -> Option<(u32, &[u8])> {
        let segment = self.segments.get(index)?;
        Some((segment.slot, self.room.get(segment.start..segment.end)?))
    }

    /// Makes `slot` the writer, who is full after so many bytes. There must be none.
    #[inline]
    pub(crate) fn open(&mut self, slot: u32, high_water: usize) {
        self.writer = slot;
        self.start = self.written;
        self.full_at = self.written + high_water;
    }

    /// Closes the writer's segment. Says whose it was, if that is worth a look: he became
    /// full, or has written nothing.
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
        self.segments.push(Segment { slot, start, end });
        (end >= self.full_at).then_some(slot)
    }

    /// Whether the writer is full; `None` if that is not `slot`.
    #[inline]
    pub(crate) fn is_full(&self, slot: u32) -> Option<bool> {
        (self.writer == slot).then_some(self.written >= self.full_at)
    }

    /// Appends to the open segment, if it is that of `slot` and there is room.
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

    /// Appends a closed segment, or to the last one; `false` if memory fails. The room
    /// may grow to `most` bytes.
    pub(crate) fn append(&mut self, slot: u32, bytes: &[u8], most: usize) -> bool {
        let (start, end) = (self.written, self.written + bytes.len());
        if end > self.room.len() && self.grow(end.max(most.min(2 * self.room.len()))).is_err() {
            return false;
        }
        let Some(room) = self.room.get_mut(start..end) else { return false };
        room.copy_from_slice(bytes);
        self.written = end;
        match self.segments.last_mut() {
            Some(last) if last.slot == slot && last.end == start => last.end = end,
            _ => self.segments.push(Segment { slot, start, end }),
        }
        true
    }

    /// Appends the last segment once more, for `slot`, if these are its bytes.
    pub(crate) fn repeat(&mut self, slot: u32, bytes: &[u8]) -> bool {
        let Some(&last) = self.segments.last() else { return false };
        let is_same = self.room.get(last.start..last.end) == Some(bytes);
        if is_same {
            self.segments.push(Segment { slot, ..last });
        }
        is_same
    }

    /// How much is there for `slot`, who has one segment.
    pub(crate) fn length_of(&self, slot: u32) -> usize {
        if self.writer == slot {
            return self.written - self.start;
        }
        let segment = self.segments.iter().rev().find(|segment| segment.slot == slot);
        segment.map_or(0, |segment| segment.end - segment.start)
    }

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
        self.segments.clear();
        if self.room.len() > KEEP_BYTES {
            self.room.truncate(KEEP_BYTES);
            self.room.shrink_to_fit();
        }
        self.lead = (PAGE / 2).wrapping_sub(self.room.as_ptr().addr()) % PAGE;
        self.lead = self.lead.min(self.room.len());
        self.written = self.lead;
        self.limit(self.most);
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

    /// Random calls do what a list of segments does.
    #[test]
    fn behaves_as_a_list_of_segments() {
        const HIGH_WATER: usize = 100;
        let mut outbox = Outbox::with_room(500).unwrap();
        let (mut segments, mut answer) = (Vec::<(u32, Vec<u8>)>::new(), None::<(u32, Vec<u8>)>);
        let (mut written, mut random) = (0, 1u64);
        for step in 0..50_000u64 {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(step);
            let slot = (random >> 33) as u32 % 3;
            let mut bytes = vec![step as u8; (random >> 40) as usize % 60];
            match (random >> 50) % 7 {
                0 if answer.is_none() => {
                    outbox.open(slot, HIGH_WATER);
                    answer = Some((slot, Vec::new()));
                }
                1 | 2 => {
                    let is_writer = answer.as_ref().is_some_and(|(writer, _)| *writer == slot);
                    let fits = outbox.written + bytes.len() <= outbox.room.len();
                    assert_eq!(outbox.write(slot, &bytes), is_writer && fits);
                    if let Some((_, answer)) = answer.as_mut().filter(|_| is_writer && fits) {
                        written += bytes.len();
                        answer.append(&mut bytes);
                    }
                }
                3 => {
                    let closed = answer.take();
                    let worth = closed.as_ref().and_then(|(slot, answer)| {
                        (answer.is_empty() || answer.len() >= HIGH_WATER).then_some(*slot)
                    });
                    assert_eq!(outbox.close(), worth);
                    segments.extend(closed.filter(|(_, answer)| !answer.is_empty()));
                }
                4 if answer.is_none() && !bytes.is_empty() => {
                    assert!(outbox.append(slot, &bytes, 1_000));
                    written += bytes.len();
                    match segments.last_mut() {
                        Some((last, queue)) if *last == slot => queue.append(&mut bytes),
                        _ => segments.push((slot, bytes)),
                    }
                }
                5 if answer.is_none() => {
                    let last = segments.last().map(|(_, bytes)| bytes.clone());
                    bytes = last.clone().filter(|_| step % 4 > 0).unwrap_or(bytes);
                    let is_same = last.as_ref() == Some(&bytes);
                    assert_eq!(outbox.repeat(slot, &bytes), is_same);
                    segments.extend(is_same.then_some((slot, bytes)));
                }
                6 if answer.is_none() && step % 8 == 0 => {
                    outbox.clear();
                    segments.clear();
                    written = 0;
                }
                _ => {}
            }
            let all: Vec<(u32, &[u8])> = (0..outbox.len()).filter_map(|i| outbox.get(i)).collect();
            assert!(all.iter().copied().eq(segments.iter().map(|(slot, b)| (*slot, &b[..]))));
            assert_eq!((outbox.len() == 0, outbox.written()), (segments.is_empty(), written));
            for slot in 0..3 {
                let own = answer.as_ref().filter(|(writer, _)| *writer == slot);
                let is_full = own.map(|(_, answer)| answer.len() >= HIGH_WATER);
                assert_eq!(outbox.is_full(slot), is_full);
                let length = own.or(segments.iter().rev().find(|(other, _)| *other == slot));
                assert_eq!(outbox.length_of(slot), length.map_or(0, |(_, bytes)| bytes.len()));
            }
        }
    }

    #[test]
    fn there_is_always_room_for_something_else() {
        assert_eq!(Outbox::default().scratch(100).len(), 100);
    }

    /// Room grows to twice its length, but not beyond what it may, unless it must; and it
    /// goes again, but never from under what is written.
    #[test]
    fn room_comes_and_goes() {
        const ROOM: usize = 2 * PAGE;
        let mut outbox = Outbox::with_room(ROOM).unwrap();
        let lead = outbox.lead;
        assert_eq!((outbox.room.as_ptr().addr() + lead) % PAGE, PAGE / 2);
        for (end, most, room) in [
            (ROOM, 10 * ROOM, ROOM),
            (ROOM + 1, 10 * ROOM, 2 * ROOM),
            (2 * ROOM + 1, 3 * ROOM, 3 * ROOM),
            (3 * ROOM + 1, 3 * ROOM, 3 * ROOM + 1),
        ] {
            assert!(outbox.append(1, &vec![7; end - outbox.written], most));
            assert_eq!(outbox.room.len(), room);
        }
        outbox.limit(10);
        assert_eq!(outbox.get(0), Some((1, &vec![7; 3 * ROOM + 1 - lead][..])));
        outbox.clear();
        let (length, lead) = (outbox.room.len(), outbox.lead);
        assert_eq!((outbox.written(), length), (0, lead + 10));
        assert_eq!((outbox.scratch(4).len(), outbox.scratch(ROOM).len()), (4, length.max(PAGE)));
        outbox.limit(2 * KEEP_BYTES);
        assert!(outbox.append(1, &vec![7; KEEP_BYTES + 1], 0));
        outbox.clear();
        assert_eq!(outbox.room.len(), KEEP_BYTES);
        assert!(outbox.room.capacity() <= KEEP_BYTES);
    }
}
