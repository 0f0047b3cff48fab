//! Errnos and signals, by name.
//!
//! They are types of our own, so that a new version of the crate that knows their names is no new
//! version of this one.

use std::fmt;
use std::io;

/// Declares a number of the kernel with its names.
macro_rules! named {
    ($(#[$what:meta])* $Type:ident, $unknown:ident: $($name:ident)+) => {
        $(#[$what])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        #[repr(i32)]
        pub enum $Type {
            /// A number that has no name here.
            $unknown = 0,
            $(#[doc = stringify!($name)] $name = libc::$name,)+
        }

        impl $Type {
            /// The one with this number.
            pub fn from_raw(number: i32) -> $Type {
                match number {
                    $(libc::$name => $Type::$name,)+
                    _ => $Type::$unknown,
                }
            }

            /// Its name: its `Debug`, without the detour.
            pub fn name(self) -> &'static str {
                match self {
                    $Type::$unknown => stringify!($unknown),
                    $($Type::$name => stringify!($name),)+
                }
            }
        }
    };
}

named! {
    /// Why a system call failed. errno(3)
    ///
    /// ```
    /// use threadbare::Errno;
    /// assert_eq!(Errno::from_raw(11), Errno::EAGAIN);
    /// assert_eq!(Errno::EAGAIN.to_string(), "EAGAIN: Try again");
    /// assert_eq!(std::io::Error::from(Errno::EPIPE).kind(), std::io::ErrorKind::BrokenPipe);
    /// ```
    Errno, UnknownErrno:
    EPERM ENOENT ESRCH EINTR EIO ENXIO E2BIG ENOEXEC EBADF ECHILD EAGAIN ENOMEM EACCES EFAULT
    ENOTBLK EBUSY EEXIST EXDEV ENODEV ENOTDIR EISDIR EINVAL ENFILE EMFILE ENOTTY ETXTBSY EFBIG
    ENOSPC ESPIPE EROFS EMLINK EPIPE EDOM ERANGE EDEADLK ENAMETOOLONG ENOLCK ENOSYS ENOTEMPTY
    ELOOP ENOMSG EIDRM ECHRNG EL2NSYNC EL3HLT EL3RST ELNRNG EUNATCH ENOCSI EL2HLT EBADE EBADR
    EXFULL ENOANO EBADRQC EBADSLT EBFONT ENOSTR ENODATA ETIME ENOSR ENONET ENOPKG EREMOTE ENOLINK
    EADV ESRMNT ECOMM EPROTO EMULTIHOP EDOTDOT EBADMSG EOVERFLOW ENOTUNIQ EBADFD EREMCHG ELIBACC
    ELIBBAD ELIBSCN ELIBMAX ELIBEXEC EILSEQ ERESTART ESTRPIPE EUSERS ENOTSOCK EDESTADDRREQ EMSGSIZE
    EPROTOTYPE ENOPROTOOPT EPROTONOSUPPORT ESOCKTNOSUPPORT EOPNOTSUPP EPFNOSUPPORT EAFNOSUPPORT
    EADDRINUSE EADDRNOTAVAIL ENETDOWN ENETUNREACH ENETRESET ECONNABORTED ECONNRESET ENOBUFS EISCONN
    ENOTCONN ESHUTDOWN ETOOMANYREFS ETIMEDOUT ECONNREFUSED EHOSTDOWN EHOSTUNREACH EALREADY
    EINPROGRESS ESTALE EUCLEAN ENOTNAM ENAVAIL EISNAM EREMOTEIO EDQUOT ENOMEDIUM EMEDIUMTYPE
    ECANCELED ENOKEY EKEYEXPIRED EKEYREVOKED EKEYREJECTED EOWNERDEAD ENOTRECOVERABLE ERFKILL
    EHWPOISON
}

named! {
    /// A signal. signal(7)
    Signal, UnknownSignal:
    SIGHUP SIGINT SIGQUIT SIGILL SIGTRAP SIGABRT SIGBUS SIGFPE SIGKILL SIGUSR1 SIGSEGV SIGUSR2
    SIGPIPE SIGALRM SIGTERM SIGSTKFLT SIGCHLD SIGCONT SIGSTOP SIGTSTP SIGTTIN SIGTTOU SIGURG
    SIGXCPU SIGXFSZ SIGVTALRM SIGPROF SIGWINCH SIGIO SIGPWR SIGSYS
}

impl Errno {
    /// The errno of an error that the standard library reports;
    /// [`UnknownErrno`](Errno::UnknownErrno) if no system call has failed.
    #[must_use]
    pub fn from_io(error: &io::Error) -> Errno {
        Errno::from_raw(error.raw_os_error().unwrap_or_default())
    }

    /// What it means, in words.
    #[must_use]
    pub fn desc(self) -> &'static str {
        nix::errno::Errno::from_raw(self as i32).desc()
    }

    /// The errno of this thread's last call that failed.
    pub(super) fn last() -> Errno {
        Errno::from_raw(nix::errno::Errno::last_raw())
    }

    /// The errno of this thread's last call, if `result` says that it failed.
    pub(super) fn result<T: Copy + PartialEq + From<i8>>(result: T) -> super::Result<T> {
        if result == T::from(-1) { Err(Errno::last()) } else { Ok(result) }
    }
}

/// `EAGAIN: Try again`
impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name(), self.desc())
    }
}

impl std::error::Error for Errno {}

impl From<Errno> for io::Error {
    fn from(errno: Errno) -> io::Error {
        io::Error::from_raw_os_error(errno as i32)
    }
}

/// `SIGTERM`
impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
