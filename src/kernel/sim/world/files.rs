//! The files of the world: names, inodes, directories, symbolic links and locks.

use super::{Entry, Holder, Inode, World, number_of};
use crate::kernel::{Errno, Fd, FileKind, FileStatus, OpenAs, Result};
use std::path::{Component, Path, PathBuf};

impl World {
    /// Creates a file. Returns its inode.
    pub(crate) fn create(&mut self, path: &Path, mode: u32, kind: FileKind) -> u64 {
        self.inodes.push(Inode { mode, kind, content: Vec::new(), modified: 0 });
        let number = self.inodes.len() as u64;
        self.files.insert(path.to_owned(), number);
        number
    }

    pub(super) fn inode(&mut self, number: u64) -> Result<&mut Inode> {
        self.inodes.get_mut(number.wrapping_sub(1) as usize).ok_or(Errno::EBADF)
    }

    /// The file with this name.
    pub(crate) fn named(&mut self, path: &Path) -> Result<&mut Inode> {
        let number = *self.files.get(path).ok_or(Errno::ENOENT)?;
        self.inode(number)
    }

    pub(super) fn status(&mut self, number: u64) -> Result<FileStatus> {
        let Inode { mode, kind, modified, ref content } = *self.inode(number)?;
        let (size, changed, identity) = (content.len() as u64, modified, (1, number));
        Ok(FileStatus { kind, size, modified, changed, mode, identity })
    }

    pub(crate) fn lstat(&mut self, path: &Path) -> Result<FileStatus> {
        let number = *self.files.get(path).ok_or(Errno::ENOENT)?;
        self.status(number)
    }

    /// An open file has another name, below /proc/self/fd.
    pub(crate) fn chmod(&mut self, path: &Path, mode: u32) -> Result<()> {
        let number = path.strip_prefix("/proc/self/fd").ok().and_then(Path::to_str);
        let inode = match number.and_then(|number| number.parse().ok()) {
            Some(number) => match *self.entry(number).map_err(|_| Errno::ENOENT)? {
                Entry::File(inode) => self.inode(inode)?,
                _ => return Ok(()),
            },
            None => self.named(path)?,
        };
        inode.mode = mode & 0o7777;
        Ok(())
    }

    pub(crate) fn openat2_as(&mut self, path: &Path, what: OpenAs) -> Result<Fd> {
        let file = self.files.get(path).copied();
        match (what, file) {
            (OpenAs::Lock, None) => self.install(Entry::Directory(path.to_owned())),
            (OpenAs::Lock, Some(_)) => Err(Errno::ENOTDIR),
            (OpenAs::Itself, Some(number)) => self.install(Entry::File(number)),
            (OpenAs::Itself, None) => Err(Errno::ENOENT),
        }
    }

    /// Directories only: nothing else is locked.
    pub(crate) fn flock(&mut self, fd: &Fd) -> Result<()> {
        let Entry::Directory(path) = self.entry(fd.number())? else { return Err(Errno::EBADF) };
        let (path, now) = (path.clone(), self.now());
        match self.locks.get(&path) {
            Some(Holder::Until(until)) if *until > now => return Err(Errno::EAGAIN),
            Some(Holder::Ours(other)) if *other != fd.number() => return Err(Errno::EAGAIN),
            _ => {}
        }
        self.locks.insert(path, Holder::Ours(fd.number()));
        Ok(())
    }

    pub(crate) fn stat(&mut self, path: &Path) -> Result<FileStatus> {
        let path = self.followed(path)?;
        match self.files.get(&path) {
            Some(&number) => self.status(number),
            None => Ok(self.directory(path)),
        }
    }

    /// The target of a path, if it is a symbolic link.
    pub(super) fn followed(&self, path: &Path) -> Result<PathBuf> {
        match self.links.get(path) {
            Some(Some(target)) => Ok(target.clone()),
            Some(None) => Err(Errno::ENOENT),
            None => Ok(path.to_owned()),
        }
    }

    pub(super) fn directory(&mut self, path: PathBuf) -> FileStatus {
        let place = self.directories.iter().position(|known| *known == path);
        let place = place.unwrap_or_else(|| {
            self.directories.push(path);
            self.directories.len() - 1
        });
        let kind = FileKind::Directory;
        FileStatus {
            kind,
            size: 0,
            modified: 0,
            changed: 0,
            mode: 0o777,
            identity: (2, place as u64),
        }
    }

    pub(crate) fn openat2(&mut self, dir: Option<&Fd>, path: &Path) -> Result<Fd> {
        let Some(dir) = dir else {
            let path = self.followed(path)?;
            let is_file = self.files.contains_key(&path);
            return if is_file {
                Err(Errno::ENOTDIR)
            } else {
                self.install(Entry::Directory(path))
            };
        };
        let Entry::Directory(root) = self.entry(number_of(dir))? else {
            return Err(Errno::ENOTDIR);
        };
        let path = beneath(root, path)?;
        self.lowest_free()?;
        if path.ancestors().skip(1).any(|above| self.files.contains_key(above)) {
            return Err(Errno::ENOTDIR);
        }
        match self.files.get(&path).copied() {
            Some(number) if self.inode(number)?.kind == FileKind::Socket => Err(Errno::ENXIO),
            Some(number) => self.install(Entry::File(number)),
            None if self.files.keys().any(|file| file.starts_with(&path)) => {
                self.install(Entry::Directory(path))
            }
            None => Err(Errno::ENOENT),
        }
    }

    pub(crate) fn fstat(&mut self, fd: &Fd) -> Result<FileStatus> {
        let kind = match self.entry(number_of(fd))? {
            &Entry::File(number) => return self.status(number),
            Entry::Directory(path) => {
                let path = path.clone();
                return Ok(self.directory(path));
            }
            Entry::Socket(_) | Entry::Stream(_) => FileKind::Socket,
            _ => FileKind::Other,
        };
        Ok(FileStatus { kind, size: 0, modified: 0, changed: 0, mode: 0o777, identity: (1, 0) })
    }

    /// The bytes of an open file from `offset` on.
    pub(super) fn content(&mut self, fd: &Fd, offset: u64, directory: Errno) -> Result<&[u8]> {
        match *self.entry(number_of(fd))? {
            Entry::File(number) => {
                Ok(self.inode(number)?.content.get(offset as usize..).unwrap_or_default())
            }
            Entry::Directory(_) => Err(directory),
            _ => Err(Errno::ESPIPE),
        }
    }

    pub(crate) fn pread64(&mut self, fd: &Fd, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let content = self.content(fd, offset, Errno::EISDIR)?;
        let length = content.len().min(buffer.len());
        for (place, byte) in buffer.iter_mut().zip(content) {
            *place = *byte;
        }
        Ok(length)
    }

    pub(crate) fn sendfile(
        &mut self,
        fd: &Fd,
        file: &Fd,
        offset: u64,
        count: usize,
    ) -> Result<usize> {
        let content = self.content(file, offset, Errno::EINVAL)?;
        let bytes = content.get(..count.min(content.len())).unwrap_or_default().to_vec();
        if bytes.is_empty() {
            return self.stream(fd, Errno::EPIPE, Errno::ENOTCONN).map(|_| 0);
        }
        self.send(fd, &bytes)
    }

    pub(crate) fn unlink(&mut self, path: &Path) -> Result<()> {
        self.files.remove(path).map(drop).ok_or(Errno::ENOENT)
    }
}

/// Resolves a path that must not lead out of `root`.
fn beneath(root: &Path, path: &Path) -> Result<PathBuf> {
    let mut found = root.to_owned();
    let mut depth = 0;
    for component in path.components() {
        match component {
            Component::Normal(name) => {
                found.push(name);
                depth += 1;
            }
            Component::CurDir => {}
            Component::ParentDir if depth > 0 => {
                found.pop();
                depth -= 1;
            }
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                return Err(Errno::EXDEV);
            }
        }
    }
    if path.as_os_str().is_empty() { Err(Errno::ENOENT) } else { Ok(found) }
}
