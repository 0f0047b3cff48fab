//! The file of a Unix socket: made, guarded and removed.
//!
//! A Unix listener has a name in the file system, and others write there too. Between looking
//! at a path and acting on it the path may come to mean something else, so:
//!
//! - The directory is locked (flock) while the file is made, until it listens, and while it is
//!   removed: of two servers that start at one path at the same time, one finds the other
//!   listening. In between neither knows whether a file at which nobody listens is stale, or
//!   about to be used.
//! - The mode is changed by way of a descriptor of the file, not by its path, at which a
//!   symbolic link could stand by then.
//! - The file is removed only if it is the one that was made.
//!
//! A lock binds those who ask for it. Who may write to the directory can do as before what
//! that right is good for: remove the file.

use crate::error::{Error, needed};
use crate::kernel::{Address, Errno, Fd, FileKind, Kernel, OpenAs};
use crate::limits::Limits;
use crate::reaction::{Call, Reaction, attempt, reaction, tolerate};
use std::path::{Path, PathBuf};

/// How often the lock is asked for, and the pause in between: a second in all. To start takes
/// less than a millisecond.
const TRIES: u32 = 100;
const PAUSE_NANOS: u64 = 10_000_000;

/// The file that we made, wherever it is now, until it is removed.
#[derive(Debug)]
pub(crate) struct SocketFile(Option<Made>);

/// Where it was made, and which it is: the device and the inode.
#[derive(Debug)]
struct Made {
    path: PathBuf,
    identity: (u64, u64),
}

/// Whether the directory of a socket's file is locked.
enum Lock {
    Held(Fd),
    /// It cannot be locked.
    None,
    /// Another process has it.
    Busy(PathBuf, Errno),
}

impl SocketFile {
    /// Of a socket that has no file, or none any more.
    pub(crate) const NONE: SocketFile = SocketFile(None);

    /// Which file it is, if there is one.
    pub(crate) fn identity(&self) -> Option<(u64, u64)> {
        self.0.as_ref().map(|made| made.identity)
    }

    /// Binds a Unix socket and lets it listen. Its file is never more open than the mode that
    /// is asked for, not for a moment: it is born with that less the umask, and then gets what
    /// the umask took away.
    pub(crate) fn open<K: Kernel>(
        &mut self,
        kernel: &mut K,
        fd: &Fd,
        path: &Path,
        limits: &Limits,
        warnings: &mut Vec<String>,
    ) -> Result<(), Error> {
        let lock = match wait_for_lock(kernel, path, warnings) {
            Lock::Busy(directory, errno) => {
                return Err(Error::new(Call::LockDirectory, directory.display(), errno));
            }
            lock => lock,
        };
        let address = Address::Unix(path.to_path_buf());
        let opened = self
            .bind(kernel, fd, path, limits.unix_mode)
            .and_then(|()| needed(Call::Listen, address, || kernel.listen(fd, limits.backlog)));
        lock.release(kernel);
        opened
    }

    fn bind<K: Kernel>(
        &mut self,
        kernel: &mut K,
        fd: &Fd,
        path: &Path,
        mode: u32,
    ) -> Result<(), Error> {
        let address = &Address::Unix(path.to_path_buf());
        needed(Call::FileMode, address, || kernel.fchmod(fd, mode))?;
        let mut may_be_stale = true;
        while let Err(errno) = kernel.bind(fd, address) {
            let in_use = Error::new(Call::BindUnix, address, errno);
            let again = reaction(Call::BindUnix, errno) == Reaction::Retry;
            if !again || !std::mem::take(&mut may_be_stale) {
                return Err(in_use);
            }
            remove_stale(kernel, address, path, in_use)?;
        }
        let status = needed(Call::FileStatus, address, || kernel.lstat(path))?;
        let identity = status.identity;
        self.0 = Some(Made { path: path.to_path_buf(), identity });
        if status.mode == mode {
            return Ok(());
        }
        let itself = OpenAs::Itself;
        let file = needed(Call::OpenSocketFile, address, || kernel.openat2_as(path, itself))?;
        let changed = match needed(Call::SocketFileStatus, address, || kernel.fstat(&file)) {
            Ok(now) if now.kind == FileKind::Socket && now.identity == identity => {
                let path = by_descriptor(&file);
                needed(Call::FileMode, address, || kernel.chmod(&path, mode))
            }
            // It has been replaced.
            Ok(_) => Err(Error::new(Call::SocketFileStatus, address, Errno::ESTALE)),
            Err(error) => Err(error),
        };
        tolerate(Call::Close, kernel.close(file));
        changed
    }

    /// Removes the file, unless there is none or it is another's. This waits for no lock: as
    /// long as the socket listens, no server that starts takes the file for a stale one.
    pub(crate) fn remove<K: Kernel>(&mut self, kernel: &mut K) {
        let Some(Made { path, identity }) = self.0.take() else { return };
        let lock = lock(kernel, &path).unwrap_or(Lock::None);
        let there = attempt(Call::CheckFile, || kernel.lstat(&path));
        if there.is_ok_and(|status| status.identity == identity) {
            tolerate(Call::RemoveFile, kernel.unlink(&path));
        }
        lock.release(kernel);
    }
}

impl Lock {
    fn release<K: Kernel>(self, kernel: &mut K) {
        if let Lock::Held(fd) = self {
            tolerate(Call::Close, kernel.close(fd));
        }
    }
}

/// The name of an open file, whatever stands at its path by now. proc(5)
fn by_descriptor(file: &Fd) -> PathBuf {
    format!("/proc/self/fd/{}", file.number()).into()
}

/// Locks the directory of `path`, if that is possible at once; an error says why it never is.
fn lock<K: Kernel>(kernel: &mut K, path: &Path) -> Result<Lock, Error> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = parent.unwrap_or(Path::new("."));
    let failed = |call, errno| Error::new(call, directory.display(), errno);
    let opened = attempt(Call::OpenToLock, || kernel.openat2_as(directory, OpenAs::Lock));
    let fd = opened.map_err(|(_, errno)| failed(Call::OpenToLock, errno))?;
    match attempt(Call::LockDirectory, || kernel.flock(&fd)) {
        Ok(()) => Ok(Lock::Held(fd)),
        Err((reaction, errno)) => {
            tolerate(Call::Close, kernel.close(fd));
            match reaction {
                Reaction::Degrade => Err(failed(Call::LockDirectory, errno)),
                _ => Ok(Lock::Busy(directory.to_owned(), errno)),
            }
        }
    }
}

/// The same, for a second.
fn wait_for_lock<K: Kernel>(kernel: &mut K, path: &Path, warnings: &mut Vec<String>) -> Lock {
    for tries in 1.. {
        match lock(kernel, path) {
            Ok(Lock::Busy(..)) if tries < TRIES => {
                tolerate(Call::AwaitLock, kernel.clock_nanosleep(PAUSE_NANOS)); // interrupted: sooner
            }
            Ok(lock) => return lock,
            Err(error) => {
                warnings.push(format!(
                    "{error}; of two servers that start at one path at once, one may lose it"
                ));
                return Lock::None;
            }
        }
    }
    Lock::None
}

/// Removes the file of a Unix socket at which nobody listens any more. Only
/// ECONNREFUSED proves that; anything else at the path is left alone.
fn remove_stale<K: Kernel>(
    kernel: &mut K,
    address: &Address,
    path: &Path,
    in_use: Error,
) -> Result<(), Error> {
    match attempt(Call::FileStatus, || kernel.lstat(path)) {
        Ok(status) if status.kind == FileKind::Socket => {}
        _ => return Err(in_use),
    }
    let probe = needed(Call::Socket, address, || kernel.socket(address))?;
    let answer = attempt(Call::ProbeUnix, || kernel.connect(&probe, address));
    tolerate(Call::Close, kernel.close(probe));
    match answer {
        Err((Reaction::Ignore, _)) => needed(Call::Unlink, address, || kernel.unlink(path)),
        _ => Err(in_use),
    }
}
