//! The one error: a call that failed, on what, and how.
//!
//! It ends the start or the server; what a call means for one connection is a `CloseReason`. The
//! functions at the end make a call and ask the table of errnos: [`needed`] fails with it,
//! [`wanted`] goes on without and warns.

use crate::fallible::shown;
use crate::kernel::{self, Errno};
use crate::reaction::{Call, Reaction, attempt};
use std::fmt;

/// A system call that failed and ended the start or the server.
///
/// `Display` and `Debug` both print `bind 127.0.0.1:80: EACCES (Permission denied)`, so that a
/// `main` that returns it prints a readable line.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Error {
    /// The call, in its role.
    pub call: Call,
    /// What it was called on: an address, a path, a limit.
    pub object: String,
    /// Why it failed.
    pub errno: Errno,
}

impl Error {
    /// An error of a handler that could not [start](crate::ConnectionHandler::on_start), too.
    ///
    /// ```
    /// use threadbare::{Call, Errno, Error};
    /// let error = Error::new(Call::OpenFile, "/etc/motd", Errno::ENOENT);
    /// assert_eq!(error.to_string(), "openat2 /etc/motd: ENOENT (No such file or directory)");
    /// ```
    pub fn new(call: Call, object: impl fmt::Display, errno: Errno) -> Error {
        Error { call, object: shown(object), errno }
    }
}

/// What to do about a call that the process is not allowed to make.
const FORBIDDEN: &str = "a sandbox forbids it (seccomp, SELinux, AppArmor, a container)";

impl Error {
    /// What to do where the process is not allowed to make a call: a sandbox fails it with EPERM,
    /// EACCES or ENOSYS, every time, and nothing that the server does helps. seccomp(2)
    #[must_use]
    pub fn sandbox(&self) -> Option<&'static str> {
        let is_refusal = matches!(self.errno, Errno::EPERM | Errno::EACCES | Errno::ENOSYS);
        is_refusal.then_some(FORBIDDEN)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if (self.call, self.errno) == (Call::CheckListener, Errno::EINVAL) {
            return write!(f, "{} does not listen", self.object); // the call has not failed
        }
        write!(f, "{} {}: {:?} ({})", self.call, self.object, self.errno, self.errno.desc())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.errno)
    }
}

/// Of the kind that its errno has, for functions that return `std::io::Result`.
impl From<Error> for std::io::Error {
    fn from(error: Error) -> std::io::Error {
        std::io::Error::new(std::io::Error::from(error.errno).kind(), error)
    }
}

/// Makes a call that must succeed for the start to go on, whatever the reaction to its errno.
pub(crate) fn needed<T>(
    call: Call,
    object: impl fmt::Display,
    make: impl FnMut() -> kernel::Result<T>,
) -> Result<T, Error> {
    attempt(call, make).map_err(|(_, errno)| Error::new(call, object, errno))
}

/// Makes a call of a start that can go on without, where the table says so: then there is a
/// warning instead of a result, which says what follows.
pub(crate) fn wanted<T>(
    call: Call,
    object: impl fmt::Display,
    without: &str,
    warnings: &mut Vec<String>,
    make: impl FnMut() -> kernel::Result<T>,
) -> Result<Option<T>, Error> {
    match attempt(call, make) {
        Ok(result) => Ok(Some(result)),
        Err((Reaction::Degrade, errno)) => {
            warnings.push(format!("{}; {without}", Error::new(call, object, errno)));
            Ok(None)
        }
        Err((_, errno)) => Err(Error::new(call, object, errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error as _;

    #[test]
    fn an_error_of_ours_is_an_error_of_io() {
        let ours = Error::new(Call::BindTcp, "127.0.0.1:80", Errno::EADDRINUSE);
        let source = ours.source().map(ToString::to_string);
        assert_eq!(source, Some(Errno::EADDRINUSE.to_string()));
        let text = ours.to_string();
        let io = std::io::Error::from(ours);
        assert_eq!((io.kind(), io.to_string()), (std::io::ErrorKind::AddrInUse, text));
    }

    /// `main` prints what it returns with `Debug`.
    #[test]
    fn an_error_reads_the_same_in_both_ways() {
        let error = Error::new(Call::BindTcp, "127.0.0.1:80", Errno::EACCES);
        assert_eq!(format!("{error:?}"), "bind 127.0.0.1:80: EACCES (Permission denied)");
        assert_eq!(error.to_string(), format!("{error:?}"));
    }

    #[test]
    fn a_refusal_is_laid_to_a_sandbox_and_a_shortage_is_not() {
        let sandbox = |errno| Error::new(Call::Accept, "[::]:80", errno).sandbox();
        let refusals = [Errno::EPERM, Errno::EACCES, Errno::ENOSYS].map(sandbox);
        assert_eq!(refusals, [Some(FORBIDDEN); 3]);
        assert_eq!([Errno::EMFILE, Errno::ENOMEM].map(sandbox), [None; 2]);
    }
}
