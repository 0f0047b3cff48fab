//! What one call sends of a chain: as much as one call takes, in as few parts as pay.
//!
//! A part is a large piece where it stands, or small ones copied together behind what is written.
//! One part goes with `send`, more with `sendmsg`.

use super::Outbox;
use super::chains::{Range, Walk};
use crate::kernel::{self, Fd, Kernel};
use crate::reaction::Call;
use std::io::IoSlice;

/// Most parts of one `sendmsg`. The kernel takes [`IOV_MAX`](kernel::IOV_MAX).
pub(super) const PARTS: usize = 64;
/// From this length on a piece is a part of its own; it is cheaper to copy shorter ones together:
/// measured, see the chapter on sending.
pub(super) const LARGE: usize = 2 << 10;
/// Most bytes copied together for one call.
pub(super) const COPIED: usize = 64 << 10;

impl Outbox {
    /// Puts together what the next call is to send: at least [`COPIED`] bytes, or all there are
    /// if they are fewer. Small pieces are copied behind what is written. Returns how many.
    pub(crate) fn gather(&mut self, walk: &mut Walk) -> usize {
        self.parts.clear();
        let (mut end, mut sum) = (self.written, 0);
        if walk.goes_on() && self.room.len() < end + COPIED {
            let _ = self.grow((end + COPIED).min(u32::MAX as usize)); // or nothing is copied
        }
        let most = self.room.len().min(end + COPIED);
        while self.parts.len() < PARTS {
            let Some(mut range) = self.chains.step(walk) else { break };
            sum += range.len();
            let is_alone = self.parts.is_empty() && !walk.goes_on();
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

    /// Sends what [`gather`](Outbox::gather) has put together: with which call, and how many
    /// bytes the kernel took. Bytes that a file follows wait for it, to leave in one segment.
    pub(crate) fn send_gathered<K: Kernel>(
        &self,
        kernel: &mut K,
        fd: &Fd,
        file_follows: bool,
    ) -> (Call, kernel::Result<usize>) {
        if let [part] = self.parts[..] {
            let bytes = self.bytes(part);
            let sent =
                if file_follows { kernel.send_more(fd, bytes) } else { kernel.send(fd, bytes) };
            return (Call::Send, sent);
        }
        let mut pieces = [IoSlice::new(&[]); PARTS];
        for (piece, bytes) in pieces.iter_mut().zip(self.parts()) {
            *piece = IoSlice::new(bytes);
        }
        let pieces = pieces.get(..self.parts.len()).unwrap_or_default();
        (Call::SendPieces, kernel.sendmsg(fd, pieces))
    }

    /// Puts pieces that have waited together for one call, behind what is written: as much as
    /// there is room for, or if there is none the first piece alone.
    pub(crate) fn copied<'a>(&'a mut self, pieces: impl Iterator<Item = &'a [u8]>) -> &'a [u8] {
        let (start, mut end, mut pieces) = (self.written, self.written, pieces.peekable());
        let first = pieces.next().unwrap_or_default();
        if pieces.peek().is_none() {
            return first;
        }
        let most = (start + COPIED).min(self.most.saturating_add(self.lead));
        if self.room.len() < most {
            let _ = self.grow(most);
        }
        for piece in std::iter::once(first).chain(pieces) {
            let Some(room) = self.room.get_mut(end..end + piece.len()) else { break };
            room.copy_from_slice(piece);
            end += piece.len();
        }
        if end > start { self.room.get(start..end).unwrap_or_default() } else { first }
    }

    pub(super) fn parts(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.parts.iter().map(|part| self.bytes(*part))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Staged;
    use super::*;

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

    /// Chains of `count` pieces of `length` bytes each, of which none are joined.
    fn pieces(outbox: &mut Outbox, count: usize, length: usize) {
        let [mut one, mut other] = [Staged::NOTHING; 2];
        for _ in 0..count {
            assert!(outbox.append(1, &mut one, &vec![1; length], 0));
            assert!(outbox.append(2, &mut other, b"-", 0));
        }
    }

    fn gathered(outbox: &mut Outbox, index: usize) -> Vec<usize> {
        let sum = outbox.gather(&mut outbox.walk(index));
        let lengths: Vec<usize> = outbox.parts().map(<[u8]>::len).collect();
        assert_eq!(sum, lengths.iter().sum::<usize>());
        lengths
    }

    /// No byte is copied for one piece, and no more than one call takes for many.
    #[test]
    fn no_more_is_copied_than_pays() {
        let mut outbox = Outbox::new().unwrap();
        pieces(&mut outbox, 1, 100);
        let room = outbox.room.len();
        assert_eq!(gathered(&mut outbox, 0), [100]);
        let stands = outbox.get(0).map(|(_, bytes)| bytes.as_ptr());
        assert_eq!(outbox.parts().next().map(<[u8]>::as_ptr), stands);
        assert_eq!(outbox.room.len(), room);
        outbox.grow(1 << 20).unwrap();
        pieces(&mut outbox, 40, 10);
        assert_eq!(gathered(&mut outbox, 2), [400]);
        assert_eq!(outbox.room.len(), 1 << 20, "there is room enough");
        outbox.clear();
        pieces(&mut outbox, 100, 1_000);
        let lengths = gathered(&mut outbox, 0);
        assert_eq!((lengths[0], lengths.len()), (65_000, 1 + 35));
    }

    /// The room grows by what is copied, and not for a piece that is alone.
    #[test]
    fn room_to_copy_into_is_made() {
        let mut outbox = Outbox::default(); // without any
        pieces(&mut outbox, 1, 10);
        assert_eq!(gathered(&mut outbox, 0), [10]);
        assert_eq!(outbox.room.len(), 11);
        let mut outbox = Outbox::default();
        pieces(&mut outbox, 2, 10);
        assert_eq!(gathered(&mut outbox, 0), [20]);
        assert_eq!(outbox.room.len(), 22 + COPIED);
    }

    /// What has waited is joined if there is memory for that; otherwise a piece goes alone.
    #[test]
    fn what_has_waited_is_joined_if_there_is_room() {
        let waits = [&[7; 100][..], &[8; 10], &[9; 5]];
        let copied = |most| {
            let mut outbox = Outbox::default();
            outbox.limit(most);
            let bytes = outbox.copied(waits.into_iter()).to_vec();
            (bytes, outbox.room.len())
        };
        assert_eq!(copied(usize::MAX), (waits.concat(), COPIED));
        assert_eq!(copied(112), (waits[..2].concat(), 112));
        assert_eq!(copied(20), (waits[0].to_vec(), 20));
    }
}
