//! The files that are served: from the target of a request to an open file.
//!
//! Whatever a path says, it stays beneath the directory: the kernel sees to that
//! (RESOLVE_BENEATH), symbolic links included. On top of it no part of a path may begin
//! with a dot, so that `.git` and `.env` are not there, and neither is `..`. Only regular
//! files are served; a pipe or a device is opened without waiting and closed again.

use super::status::Status;
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
    path: Vec<u8>,
}

impl Files {
    pub(super) fn new(directory: Directory) -> Files {
        Files { directory, path: Vec::new() }
    }

    /// Opens the file that a target names: its path, and a query that does not matter.
    pub(super) fn open(&mut self, target: &str) -> Result<Found, Status> {
        decode(target.as_bytes(), &mut self.path)?;
        let folder = self.path.len();
        let is_folder = self.path.ends_with(b"/");
        if is_folder {
            self.path.extend(INDEX);
        }
        let path = relative(&self.path);
        if is_hidden(path) {
            return Err(Status::NOT_FOUND);
        }
        let mut file = match self.directory.open(OsStr::from_bytes(path)) {
            Ok(file) => file,
            Err(Errno::ENOENT) if is_folder => {
                self.path.truncate(folder);
                return Err(self.without_index());
            }
            Err(errno) => return Err(status_of(errno)),
        };
        let status = file.status().map_err(status_of)?;
        match status.kind {
            FileKind::Regular => Ok(Found::File(file, status)),
            FileKind::Directory => Ok(Found::Directory),
            _ => Err(Status::NOT_FOUND),
        }
    }

    /// What to say of a folder in which there is no page: whether there is the folder.
    #[cold]
    fn without_index(&self) -> Status {
        let path = Some(relative(&self.path)).filter(|path| !path.is_empty()).unwrap_or(b".");
        let status = self.directory.open(OsStr::from_bytes(path)).and_then(|mut it| it.status());
        let is_folder = status.is_ok_and(|status| status.kind == FileKind::Directory);
        if is_folder { Status::NO_INDEX } else { Status::NOT_FOUND }
    }

    /// The type of the file that was opened last, by its name.
    pub(super) fn content_type(&self) -> &'static str {
        let path = Path::new(OsStr::from_bytes(&self.path));
        let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
        let known = TYPES.iter().find(|(_, names)| names.split(' ').any(|name| extension == name));
        known.map_or("application/octet-stream", |(of, _)| of)
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

/// Whether any part of a path begins with a dot.
fn is_hidden(path: &[u8]) -> bool {
    let mut parts = path.split(|&byte| byte == b'/').enumerate();
    parts.any(|(at, part)| part.starts_with(b".") && !(at == 0 && part == WELL_KNOWN))
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

#[rustfmt::skip] // one row a type
const TYPES: [(&str, &str); 33] = [
    ("text/html; charset=utf-8", "html htm"),
    ("text/css; charset=utf-8", "css"),
    ("text/javascript; charset=utf-8", "js mjs"),
    ("text/plain; charset=utf-8", "txt log conf rs c h toml"),
    ("text/markdown; charset=utf-8", "md"),
    ("text/csv; charset=utf-8", "csv"),
    ("text/xml; charset=utf-8", "xml"),
    ("application/json", "json map"),
    ("application/manifest+json", "webmanifest"),
    ("application/rss+xml", "rss"),
    ("application/atom+xml", "atom"),
    ("application/wasm", "wasm"),
    ("application/pdf", "pdf"),
    ("application/zip", "zip"),
    ("application/gzip", "gz tgz"),
    ("application/x-tar", "tar"),
    ("image/svg+xml", "svg"),
    ("image/png", "png"),
    ("image/jpeg", "jpg jpeg"),
    ("image/gif", "gif"),
    ("image/webp", "webp"),
    ("image/avif", "avif"),
    ("image/x-icon", "ico"),
    ("font/woff2", "woff2"),
    ("font/woff", "woff"),
    ("font/ttf", "ttf"),
    ("font/otf", "otf"),
    ("audio/mpeg", "mp3"),
    ("audio/ogg", "ogg opus"),
    ("audio/wav", "wav"),
    ("video/mp4", "mp4 m4v"),
    ("video/webm", "webm"),
    ("video/quicktime", "mov"),
];
