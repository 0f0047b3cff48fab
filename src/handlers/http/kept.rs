//! Files that are requested again and again stay open until the second is over.
//!
//! ```text
//!   the first request ──▶ noted ── the second ──▶ kept ── its status is another one ──▶ gone
//!                           └─── the second is over ─┴──────────────────────────────────▶ gone
//! ```
//!
//! This saves `openat2` and `close`, but not `fstat`: while a kept file has the status that it
//! had when it was opened, it is the file that its path names. Writing to a file, removing or
//! renaming it, and putting another in its place change its ctime. That is certain only if the
//! last change is longer ago than one tick of the kernel's clock, so no other file is kept. A
//! directory on the way that was replaced is not noticed until the second is over.
//!
//! Invariants:
//! 1. A path that is requested once in a second costs no descriptor.
//! 2. No file is kept for longer than a second, even if no more requests come.

use crate::fallible::{self, copied};
use crate::kernel::FileStatus;
use crate::net::File;
use std::collections::HashMap;

/// The most files that are kept, out of the descriptors that are reserved for handlers.
const MOST: usize = 8;
/// The most paths that are noted in a second.
const NOTED: usize = 64;

/// The paths that were requested in this second, and the files that are kept.
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

    /// Notes that a file was requested, and keeps it open if it had been requested before.
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
