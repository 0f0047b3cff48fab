//! The files that are served: from the target of a request to an open file.
//!
//! Whatever a path says, it stays beneath the directory: the kernel sees to that
//! (RESOLVE_BENEATH), symbolic links included. On top of it no part of a path may begin
//! with a dot, so that `.git` and `.env` are not there, and neither is `..`; a part `.` names
//! nothing and is passed over. Only regular files are served; a pipe or a device is opened
//! without waiting and closed again.

use super::kept::Kept;
use super::request::MAX_LINE;
use super::status::Status;
use super::wishes::may_change_unseen;
use crate::fallible::with_room;
use crate::kernel::{Errno, FileKind, FileStatus};
use crate::net::{Directory, File};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The page of a folder.
const INDEX: &[u8] = b"index.html";
/// The one part of a path that may begin with a dot, at its start. RFC 8615
const WELL_KNOWN: &[u8] = b".well-known";

/// What became of a target.
#[derive(Debug)]
pub(super) enum Found {
    File(File, FileStatus),
    /// A directory whose name was given without the slash behind it.
    Directory,
}

/// A directory, and a place where paths are put together.
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

    /// A second is over: closes what was kept open, and opens the directory anew if its path
    /// names another one by now.
    pub(super) fn renew(&mut self) {
        self.close();
        if self.directory.renew() {
            log::info!("the directory is another one than before");
        }
    }

    /// Closes what was kept open.
    pub(super) fn close(&mut self) {
        self.kept.clear();
    }

    /// Whether files are kept open, which are to be closed soon.
    pub(super) fn has_open(&self) -> bool {
        self.kept.has_files()
    }

    /// Opens the file that a target names: its path, and a query that does not matter. It is
    /// `now`, in nanoseconds since 1970.
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
            FileKind::Directory if is_folder => Err(Status::NO_INDEX), // it is called like one
            FileKind::Directory => Ok(Found::Directory),
            _ => Err(Status::NOT_FOUND),
        }
    }

    /// What to say of a folder in which there is no page: whether there is the folder.
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

/// What the path of a target says, each `%41` taken for its byte, once.
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

/// A path without the slashes in front, as it stands below the directory.
fn relative(path: &[u8]) -> &[u8] {
    let slashes = path.iter().take_while(|&&byte| byte == b'/').count();
    path.get(slashes..).unwrap_or_default()
}

/// Whether any part of a path begins with a dot, and is more than that.
fn is_hidden(path: &[u8]) -> bool {
    let parts = path.split(|&byte| byte == b'/').filter(|part| !matches!(part, [] | [b'.']));
    parts.enumerate().any(|(at, part)| part.starts_with(b".") && !(at == 0 && part == WELL_KNOWN))
}

/// What a client is told of a file that cannot be opened.
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
