//! Files that are asked for again and again stay open until the second is over.
//!
//! ```text
//!   the first request ──▶ noted ── the second ──▶ kept ── its status is another one ──▶ gone
//!                           └─── the second is over ─┴──────────────────────────────────▶ gone
//! ```
//!
//! So `openat2` and `close` are saved, and `fstat` is not: as long as a kept file has the very
//! status that it had when it was opened, it is the one its path names. To write to a file, to
//! remove or rename it, or to put another in its place changes its ctime. That tells only if
//! the last change is longer ago than one tick of the kernel's clock, so no other file is kept.
//! What is not noticed is that a directory on the way is another one by now: that takes until
//! the second is over.
//!
//! Invariants:
//! 1. Most paths are asked for once, and cost no descriptor.
//! 2. Nothing is kept for longer than a second, also if no more requests come.

use crate::fallible::{self, copied};
use crate::kernel::FileStatus;
use crate::net::File;
use std::collections::HashMap;

/// Most files that are kept, of the descriptors that are planned for what handlers open.
const MOST: usize = 8;
/// Most paths that are noted in a second.
const NOTED: usize = 64;

/// What has been asked for in this second.
#[derive(Debug, Default)]
pub(super) struct Kept {
    paths: HashMap<Vec<u8>, Option<(File, FileStatus)>>,
    files: usize,
}

impl Kept {
    /// The file at `path`, if it is kept and has not changed.
    pub(super) fn find(&mut self, path: &[u8]) -> Option<(File, FileStatus)> {
        let kept = self.paths.get_mut(path)?;
        let (file, before) = kept.as_mut()?;
        if file.status() == Ok(*before) {
            return Some((file.clone(), *before));
        }
        *kept = None;
        self.files -= 1;
        None
    }

    /// Notes that a file was asked for, and keeps it if it was before.
    pub(super) fn note(&mut self, path: &[u8], file: &File, status: FileStatus) {
        let has_room = self.paths.len() < NOTED;
        match self.paths.get_mut(path) {
            Some(kept @ None) if self.files < MOST => {
                *kept = Some((file.clone(), status));
                self.files += 1;
            }
            // Without memory it is as though it had not been asked for.
            None if has_room => {
                let path = copied(path);
                let _ = path.and_then(|path| fallible::put(&mut self.paths, path, None));
            }
            _ => {}
        }
    }

    /// Whether there are files that must be closed in time.
    pub(super) fn has_files(&self) -> bool {
        self.files > 0
    }

    /// The second is over.
    pub(super) fn clear(&mut self) {
        self.paths.clear();
        self.files = 0;
    }
}
