//! The one input buffer, where a page of memory begins, and in front of it room for a rest.
//!
//! ```text
//!            │ rest of before │ bytes received now    │
//!   ─────────┴────────────────┼───────────────────────┴───
//!                             a page begins here
//! ```

use crate::buffer::{Buffer, LONG};
use crate::fallible::boxed;
use crate::time::Moment;
use std::ops::{Deref, DerefMut};

/// Bytes received at once.
pub(super) const INPUT_BYTES: usize = 64 << 10;

/// The one input buffer, into which everything is received. It begins where a page of memory
/// does: into one that begins 16 bytes later, where malloc would put it, some processors copy at
/// a third of the speed.
pub(crate) struct InputBuffer(Box<[Aligned; 1]>);

#[repr(align(4096))]
struct Aligned([u8; LONG + INPUT_BYTES]);

impl InputBuffer {
    /// `None` if there is no memory for it.
    pub(crate) fn allocate() -> Option<InputBuffer> {
        boxed(Aligned([0; LONG + INPUT_BYTES])).map(InputBuffer)
    }

    /// A rest, and behind it the `fresh` bytes that were received, in one piece: the rest is
    /// put before them, or if it is long, they are moved behind it. `None` if memory fails.
    pub(super) fn behind<'a>(
        &'a mut self,
        rest: &'a mut Buffer,
        fresh: usize,
        now: Moment,
    ) -> Option<&'a [u8]> {
        let Some(begin) = LONG.checked_sub(rest.len()) else {
            rest.join(self.get(..fresh)?, now)?;
            return rest.pieces().next();
        };
        let [Aligned(bytes)] = &mut *self.0;
        let mut room = bytes.get_mut(begin..LONG)?;
        for piece in rest.pieces() {
            let (place, later) = room.split_at_mut_checked(piece.len())?;
            place.copy_from_slice(piece);
            room = later;
        }
        bytes.get(begin..LONG + fresh)
    }
}

impl Deref for InputBuffer {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        let [Aligned(bytes)] = &*self.0;
        bytes.split_at(LONG).1
    }
}

impl DerefMut for InputBuffer {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        let [Aligned(bytes)] = &mut *self.0;
        bytes.split_at_mut(LONG).1
    }
}
