//! The files that are served: from the target of a request to an open file.
//!
//! The kernel keeps every path beneath the directory (RESOLVE_BENEATH), symbolic links
//! included. Besides, no part of a path may begin with a dot, so `.git`, `.env` and `..` are
//! not found; a part `.` is skipped. Only regular files are served; a FIFO or a device is
//! opened without waiting and closed again.

use super::conditions::may_change_unseen;
use super::kept::Kept;
use super::request::MAX_LINE;
use super::status::Status;
use crate::fallible::with_room;
use crate::kernel::{Errno, FileKind, FileStatus};
use crate::net::{Directory, File};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The file that is served for a directory.
const INDEX: &[u8] = b"index.html";
/// The one part of a path that may begin with a dot, at its start. RFC 8615
const WELL_KNOWN: &[u8] = b".well-known";

/// The result of opening a target.
#[derive(Debug)]
pub(super) enum Found {
    File(File, FileStatus),
    /// A directory whose name lacks the slash at its end.
    Directory,
}

/// A directory, and a buffer in which paths are formatted.
#[derive(Debug)]
pub(super) struct Files {
    directory: Directory,
    kept: Kept,
    /// Has room for the longest target.
    path: Vec<u8>,
}

impl Files {
    /// `None` if there is no memory for it.
    pub(super) fn new(directory: Directory) -> Option<Files> {
        let path = with_room(MAX_LINE + INDEX.len())?;
        Some(Files { directory, kept: Kept::default(), path })
    }

    /// A second is over: closes the files that were kept open, and opens the directory anew if
    /// its path names another one now.
    pub(super) fn renew(&mut self) {
        self.close();
        if self.directory.renew() {
            log::info!("the directory is another one than before");
        }
    }

    /// Closes the files that were kept open.
    pub(super) fn close(&mut self) {
        self.kept.clear();
    }

    /// Whether files are kept open that must be closed soon.
    pub(super) fn has_open(&self) -> bool {
        self.kept.has_files()
    }

    /// Opens the file that a target names by its path; the query does not matter. `now` is the
    /// time in nanoseconds since 1970.
    pub(super) fn open(&mut self, target: &str, now: i64) -> Result<Found, Status> {
        decode(target.as_bytes(), &mut self.path)?;
        if self.path.ends_with(b"/.") {
            self.path.pop();
        }
        let folder = self.path.len();
        let is_folder = self.path.ends_with(b"/");
        if is_folder {
            self.path.extend(INDEX);
        }
        let path = relative(&self.path);
        if is_hidden(path) {
            return Err(Status::NOT_FOUND);
        }
        if let Some((file, status)) = self.kept.find(path) {
            return Ok(Found::File(file, status));
        }
        let file = match self.directory.open(OsStr::from_bytes(path)) {
            Ok(file) => file,
            Err(Errno::ENOENT) if is_folder => {
                self.path.truncate(folder);
                return Err(self.without_index());
            }
            Err(errno) => return Err(status_of(errno)),
        };
        let status = file.status().map_err(status_of)?;
        match status.kind {
            FileKind::Regular => {
                if !may_change_unseen(&status, now) {
                    self.kept.note(path, &file, status);
                }
                Ok(Found::File(file, status))
            }
            FileKind::Directory if is_folder => Err(Status::NO_INDEX), // it is named index.html
            FileKind::Directory => Ok(Found::Directory),
            _ => Err(Status::NOT_FOUND),
        }
    }

    /// The status for a directory without an index: it depends on whether the directory exists.
    #[cold]
    fn without_index(&self) -> Status {
        let path = Some(relative(&self.path)).filter(|path| !path.is_empty()).unwrap_or(b".");
        let status = self.directory.open(OsStr::from_bytes(path)).and_then(|it| it.status());
        let is_folder = status.is_ok_and(|status| status.kind == FileKind::Directory);
        if is_folder { Status::NO_INDEX } else { Status::NOT_FOUND }
    }

    /// The name of the file that was opened last.
    pub(super) fn name(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.path))
    }
}

/// The path of a target, each `%41` decoded to its byte, once.
fn decode(target: &[u8], path: &mut Vec<u8>) -> Result<(), Status> {
    path.clear();
    let mut bytes = target.iter().copied().take_while(|&byte| byte != b'?');
    while let Some(byte) = bytes.next() {
        let mut digit = || bytes.next().and_then(|byte| char::from(byte).to_digit(16));
        let byte = match byte {
            b'%' => match (digit(), digit()) {
                (Some(high), Some(low)) => (high << 4 | low) as u8,
                _ => return Err(Status::BAD_REQUEST),
            },
            byte => byte,
        };
        if byte.is_ascii_control() {
            return Err(Status::BAD_REQUEST);
        }
        path.push(byte);
    }
    Ok(())
}

/// A path without the slashes in front, relative to the directory.
fn relative(path: &[u8]) -> &[u8] {
    let slashes = path.iter().take_while(|&&byte| byte == b'/').count();
    path.get(slashes..).unwrap_or_default()
}

/// Whether a part of a path begins with a dot and is longer than that.
fn is_hidden(path: &[u8]) -> bool {
    let parts = path.split(|&byte| byte == b'/').filter(|part| !matches!(part, [] | [b'.']));
    parts.enumerate().any(|(at, part)| part.starts_with(b".") && !(at == 0 && part == WELL_KNOWN))
}

/// The status for a file that cannot be opened.
fn status_of(errno: Errno) -> Status {
    match errno {
        Errno::ENOENT | Errno::ENOTDIR | Errno::EISDIR | Errno::ENAMETOOLONG | Errno::EINVAL => {
            Status::NOT_FOUND
        }
        Errno::EXDEV | Errno::ELOOP | Errno::ENXIO | Errno::ENODEV => Status::NOT_FOUND,
        Errno::EACCES | Errno::EPERM => Status::FORBIDDEN,
        Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::EINTR | Errno::EAGAIN => {
            Status::UNAVAILABLE
        }
        _ => Status::SERVER_ERROR,
    }
}
