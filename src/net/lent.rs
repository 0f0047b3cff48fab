//! What a callback must know at once: which file a path names, what it is, what it says; and
//! the time of day. The calls are made on the kernel of the server.
//!
//! [`Net`] is lent to each callback and does not know the type of the kernel. It keeps a
//! clone, which is the same kernel, as a [`Lent`]; a handler has no other, so it cannot take
//! the wrong one. A [`Directory`] or [`File`] keeps one too: it makes its own calls, and is
//! closed when it is dropped, wherever that is.
//!
//! Each of these calls may wait for the disk, and while it does all clients wait.

use super::Net;
use crate::error::{Error, needed};
use crate::fallible::{copied, has_room_for_shared};
use crate::kernel::{Clock, Errno, Fd, FileStatus, Kernel, Linux, Result};
use crate::reaction::{Call, attempt, tolerate};
use std::alloc::Layout;
use std::ffi::OsString;
use std::fmt;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The calls of a [`Kernel`] that a callback makes.
pub(crate) trait Lent: Send + Sync {
    /// The same kernel once more.
    fn lend(&self) -> Box<dyn Lent>;
    fn openat2(&mut self, directory: Option<&Fd>, path: &Path) -> Result<Fd>;
    fn fstat(&mut self, fd: &Fd) -> Result<FileStatus>;
    fn pread64(&mut self, fd: &Fd, buffer: &mut [u8], offset: u64) -> Result<usize>;
    fn stat(&mut self, path: &Path) -> Result<FileStatus>;
    fn close(&mut self, fd: Fd) -> Result<()>;
    fn realtime(&mut self) -> u64;
}

impl<K: Kernel> Lent for K {
    fn lend(&self) -> Box<dyn Lent> {
        Box::new(self.clone()) // no allocation for `Linux`, which has no size
    }

    fn openat2(&mut self, directory: Option<&Fd>, path: &Path) -> Result<Fd> {
        Kernel::openat2(self, directory, path)
    }

    fn fstat(&mut self, fd: &Fd) -> Result<FileStatus> {
        Kernel::fstat(self, fd)
    }

    fn pread64(&mut self, fd: &Fd, buffer: &mut [u8], offset: u64) -> Result<usize> {
        Kernel::pread64(self, fd, buffer, offset)
    }

    fn stat(&mut self, path: &Path) -> Result<FileStatus> {
        Kernel::stat(self, path)
    }

    fn close(&mut self, fd: Fd) -> Result<()> {
        Kernel::close(self, fd)
    }

    fn realtime(&mut self) -> u64 {
        self.clock_gettime(Clock::Realtime)
    }
}

impl fmt::Debug for dyn Lent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kernel")
    }
}

/// A directory beneath which files are opened. It is closed when it is dropped.
#[derive(Debug)]
pub struct Directory {
    file: File,
    path: PathBuf,
    /// Which directory it is, if that could be found out.
    identity: Option<(u64, u64)>,
}

/// An open file. A clone is the same file, which is closed when the last one is dropped.
///
/// It comes from [`Directory::open`], or is made from a [`std::fs::File`] or an [`OwnedFd`].
#[derive(Clone)]
pub struct File(Arc<Open>);

struct Open {
    fd: Fd,
    kernel: Box<dyn Lent>,
}

impl Net {
    /// Opens a directory, most often in
    /// [`on_start`](crate::ConnectionHandler::on_start). openat2(2)
    ///
    /// ```no_run
    /// # use threadbare::{Directory, Errno, Error, Net};
    /// # fn on_start(net: &mut Net) -> Result<Directory, Error> {
    /// let directory = net.open_directory("/srv/files")?;
    /// # Ok(directory)
    /// # }
    /// // and then, in any callback:
    /// # fn greeting(directory: &Directory) -> Result<(), Errno> {
    /// let mut words = [0; 100];
    /// let count = directory.open("greeting")?.read_at(&mut words, 0)?;
    /// assert_eq!(directory.open("../passwd").err(), Some(Errno::EXDEV));
    /// # let _ = count;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The directory cannot be opened.
    pub fn open_directory(
        &mut self,
        path: impl AsRef<Path>,
    ) -> std::result::Result<Directory, Error> {
        let path = path.as_ref();
        Directory::at(self.kernel.lend(), path)
    }

    /// The time of day, as far as the machine knows; for people. It may jump, unlike
    /// [`now`](Net::now). clock_gettime(2), CLOCK_REALTIME
    pub fn system_time(&mut self) -> SystemTime {
        UNIX_EPOCH + Duration::from_nanos(self.kernel.realtime())
    }
}

impl Directory {
    fn at(mut kernel: Box<dyn Lent>, path: &Path) -> std::result::Result<Directory, Error> {
        let fd = needed(Call::OpenDirectory, path.display(), || kernel.openat2(None, path))?;
        let copy = copied(path.as_os_str().as_bytes());
        let copy = copy.filter(|_| has_room_for_shared(Layout::new::<Open>()));
        let Some(copy) = copy.map(OsString::from_vec) else {
            tolerate(Call::Close, kernel.close(fd));
            return Err(Error::new(Call::OpenDirectory, path.display(), Errno::ENOMEM));
        };
        let file = File(Arc::new(Open { fd, kernel }));
        let identity = file.status().ok().map(|status| status.identity);
        Ok(Directory { file, path: copy.into(), identity })
    }

    /// Opens the directory anew if its path names another one by now: a deploy has swapped a
    /// symbolic link, or removed the directory and made it again. Returns whether it has; while
    /// there is none, the old one stays. stat(2), and nothing else if all is as it was.
    pub fn renew(&mut self) -> bool {
        let mut kernel = self.file.0.kernel.lend();
        let named = attempt(Call::DirectoryStatus, || kernel.stat(&self.path));
        let is_other = named.is_ok_and(|named| Some(named.identity) != self.identity);
        let other = is_other.then(|| Directory::at(kernel, &self.path));
        let Some(Ok(directory)) = other else { return false };
        *self = directory;
        true
    }

    /// Opens the file at `path` for reading. Nothing in that path leads out of the
    /// directory, no `..` and no symbolic link, and opening never blocks, not even on a FIFO.
    /// openat2(2), RESOLVE_BENEATH
    ///
    /// # Errors
    ///
    /// The errno of the call: EXDEV for a path that leads out of the directory, ENOENT,
    /// EACCES, EMFILE and others. ENOMEM if there is no memory.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<File> {
        let mut kernel = self.file.0.kernel.lend();
        let opened =
            attempt(Call::OpenFile, || kernel.openat2(Some(self.file.fd()), path.as_ref()));
        let fd = opened.map_err(|(_, errno)| errno)?;
        if !has_room_for_shared(Layout::new::<Open>()) {
            tolerate(Call::Close, kernel.close(fd));
            return Err(Errno::ENOMEM);
        }
        Ok(File(Arc::new(Open { fd, kernel })))
    }
}

impl File {
    /// What kind of file it is, its length, and when it changed. fstat(2)
    ///
    /// # Errors
    ///
    /// The errno of the call.
    pub fn status(&self) -> Result<FileStatus> {
        let mut kernel = self.0.kernel.lend();
        let status = attempt(Call::ReadStatus, || kernel.fstat(self.fd()));
        status.map_err(|(_, errno)| errno)
    }

    /// Reads into `buffer`, from `offset` on; returns the number of bytes, which is 0 behind
    /// the end of the file. For a few bytes: large files are
    /// [handed over](crate::Conn::write_file). pread(2)
    ///
    /// # Errors
    ///
    /// The errno of the call.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let mut kernel = self.0.kernel.lend();
        let read = attempt(Call::ReadFile, || kernel.pread64(self.fd(), buffer, offset));
        read.map_err(|(_, errno)| errno)
    }

    pub(super) fn fd(&self) -> &Fd {
        &self.0.fd
    }
}

impl From<OwnedFd> for File {
    fn from(fd: OwnedFd) -> File {
        File(Arc::new(Open { fd: fd.into(), kernel: Box::new(Linux) }))
    }
}

impl From<std::fs::File> for File {
    fn from(file: std::fs::File) -> File {
        OwnedFd::from(file).into()
    }
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "File({:?})", self.fd())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let fd = std::mem::replace(&mut self.fd, Fd::UNOPENED);
        if let Some(errno) = tolerate(Call::Close, self.kernel.close(fd)) {
            log::error!("bug: close: {errno}");
        }
    }
}
