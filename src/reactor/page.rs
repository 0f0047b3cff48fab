//! The one input buffer, where a page of memory begins.

use std::ops::{Deref, DerefMut};

/// Bytes received at once.
pub(super) const INPUT_BYTES: usize = 64 << 10;

/// The one input buffer. It begins where a page of memory does: into one that begins 16
/// bytes behind, where malloc would put it, some processors copy at a third of the speed.
pub(crate) struct Input(Box<[Aligned; 1]>);

#[repr(align(4096))]
struct Aligned([u8; INPUT_BYTES]);

impl Input {
    /// `None` if there is no memory for it.
    pub(crate) fn allocate() -> Option<Input> {
        let mut one = Vec::new(); // `Box` alone would abort
        one.try_reserve_exact(1).ok()?;
        one.push(Aligned([0; INPUT_BYTES]));
        one.try_into().ok().map(Input)
    }
}

impl Deref for Input {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        let [Aligned(bytes)] = &*self.0;
        bytes
    }
}

impl DerefMut for Input {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        let [Aligned(bytes)] = &mut *self.0;
        bytes
    }
}
