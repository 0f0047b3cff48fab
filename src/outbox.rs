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
//!    budget has left.

use std::collections::TryReserveError;

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
        let (room, segments) = (Vec::new(), Vec::new());
        Outbox { room, lead: 0, written: 0, segments, writer: NOBODY, start: 0, full_at: 0 }
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

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// How many segments there are, in the order in which they are to be sent.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.segments.len()
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
        let most = most.saturating_add(self.lead);
        if self.room.len() > most {
            self.room.truncate(most.max(self.written));
        }
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
    }

    /// The first bytes of the room of an empty outbox, to be used for something else.
    pub(crate) fn scratch(&mut self, most: usize) -> &mut [u8] {
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
