//! What an errno means: one table, asked by the code at every call.
//!
//! The same errno asks for different answers at different calls, and sometimes
//! at the same call in a different role: `epoll_ctl` out of memory ends the
//! start-up, pauses the listener, or makes a connection wait, depending on what
//! was added or changed. So the table is indexed by [`Call`], the call in its
//! role, and each cell holds one [`Reaction`]. Counting and logging are the
//! caller's. No reaction retries without bound.

use crate::kernel::Errno;
use std::fmt;

/// A system call in the role it plays for the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each is the call it names, in the role it names")]
pub enum Call {
    SignalAction,
    SignalMask,
    DescriptorLimit,
    Memory,
    Socket,
    SetOption,
    SetTunable,
    FileMode,
    FileStatus,
    BindTcp,
    BindUnix,
    ProbeUnix,
    Unlink,
    Listen,
    LocalAddress,
    EpollCreate,
    EventFd,
    SignalFd,
    TimerFd,
    EpollAddCore,
    EpollAddConnection,
    EpollModify,
    EpollRemove,
    EpollWait,
    Accept,
    Recv,
    Send,
    SendPieces,
    Connect,
    ConnectResult,
    OpenDirectory,
    OpenFile,
    ReadStatus,
    ReadFile,
    SendFile,
    SetTimer,
    ReadCounter,
    WriteCounter,
    ReadSignal,
    RefuseNew,
    Shutdown,
    Close,
}

impl Call {
    /// Every call, in the order in which a server meets them.
    pub const ALL: [Call; 42] = [
        Call::SignalAction,
        Call::SignalMask,
        Call::DescriptorLimit,
        Call::Memory,
        Call::Socket,
        Call::SetOption,
        Call::SetTunable,
        Call::FileMode,
        Call::FileStatus,
        Call::BindTcp,
        Call::BindUnix,
        Call::ProbeUnix,
        Call::Unlink,
        Call::Listen,
        Call::LocalAddress,
        Call::OpenDirectory,
        Call::EpollCreate,
        Call::EventFd,
        Call::SignalFd,
        Call::TimerFd,
        Call::EpollAddCore,
        Call::EpollAddConnection,
        Call::EpollModify,
        Call::EpollRemove,
        Call::EpollWait,
        Call::Accept,
        Call::Recv,
        Call::Send,
        Call::SendPieces,
        Call::Connect,
        Call::ConnectResult,
        Call::OpenFile,
        Call::ReadStatus,
        Call::ReadFile,
        Call::SendFile,
        Call::SetTimer,
        Call::ReadCounter,
        Call::WriteCounter,
        Call::ReadSignal,
        Call::RefuseNew,
        Call::Shutdown,
        Call::Close,
    ];

    /// The name of the system call, as in its manual page.
    pub fn name(self) -> &'static str {
        match self {
            Call::SignalAction => "rt_sigaction",
            Call::SignalMask => "rt_sigprocmask",
            Call::DescriptorLimit => "prlimit",
            Call::Memory => "mmap",
            Call::Socket => "socket",
            Call::SetOption | Call::SetTunable | Call::RefuseNew => "setsockopt",
            Call::FileMode => "chmod",
            Call::FileStatus => "lstat",
            Call::BindTcp | Call::BindUnix => "bind",
            Call::ProbeUnix | Call::Connect => "connect",
            Call::ConnectResult => "getsockopt",
            Call::OpenDirectory | Call::OpenFile => "openat2",
            Call::ReadStatus => "fstat",
            Call::ReadFile => "pread64",
            Call::SendFile => "sendfile",
            Call::Unlink => "unlink",
            Call::Listen => "listen",
            Call::LocalAddress => "getsockname",
            Call::EpollCreate => "epoll_create1",
            Call::EventFd => "eventfd2",
            Call::SignalFd => "signalfd4",
            Call::TimerFd => "timerfd_create",
            Call::EpollAddCore
            | Call::EpollAddConnection
            | Call::EpollModify
            | Call::EpollRemove => "epoll_ctl",
            Call::EpollWait => "epoll_wait",
            Call::Accept => "accept4",
            Call::Recv => "recv",
            Call::Send => "send",
            Call::SendPieces => "sendmsg",
            Call::SetTimer => "timerfd_settime",
            Call::ReadCounter | Call::ReadSignal => "read",
            Call::WriteCounter => "write",
            Call::Shutdown => "shutdown",
            Call::Close => "close",
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the server does about an errno.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reaction {
    /// Nothing now: wait for the next event.
    Wait,
    /// The same call again at once, a bounded number of times.
    Retry,
    /// Keep the bytes or the mask and try again by timer, a bounded number of times.
    Later,
    /// Stop asking this source for a while; resume by timer or when a connection closes.
    Pause,
    /// This connection ends; nobody else notices.
    DropConnection,
    /// The start fails with one line that names the call, the object and the errno.
    FailStartup,
    /// The server drains what it can and ends with an error.
    FailRuntime,
    /// Go on without it, and warn once.
    Degrade,
    /// It does not matter.
    Ignore,
    /// It cannot happen unless the server is wrong. Counted, then the connection ends
    /// (for a core descriptor: the server).
    Bug,
}

/// The reaction to `errno` from `call`. Total: an errno the table does not name
/// pauses a listener, ends a connection, and fails a start.
#[rustfmt::skip] // one row a line
pub fn reaction(call: Call, errno: Errno) -> Reaction {
    use Errno::*;
    use Reaction::*;
    match call {
        // Start-up. Nothing is served yet, so failing loudly is the kindest answer.
        Call::SignalMask | Call::Memory | Call::Socket | Call::SetOption | Call::BindTcp | Call::Listen
        | Call::LocalAddress | Call::EpollCreate | Call::EventFd | Call::SignalFd | Call::TimerFd
        | Call::EpollAddCore | Call::OpenDirectory | Call::FileMode | Call::FileStatus | Call::Unlink => FailStartup,
        Call::SignalAction | Call::DescriptorLimit | Call::SetTunable => Degrade,
        Call::BindUnix => match errno {
            EADDRINUSE => Retry, // once, if the file is a socket at which nobody listens
            _ => FailStartup,
        },
        Call::ProbeUnix => match errno {
            ECONNREFUSED => Ignore, // nobody listens: the only proof that the file is stale
            _ => FailStartup,
        },

        // The loop.
        Call::EpollAddConnection => match errno {
            EEXIST | EBADF | EINVAL | ELOOP | EPERM => Bug,
            _ => Pause, // ENOMEM ENOSPC
        },
        Call::EpollModify => match errno {
            ENOMEM => Later, // by timer: no event may come to remind us
            _ => Bug,
        },
        Call::EpollRemove => match errno {
            ENOENT | EBADF => Ignore, // it is gone: that was the aim
            _ => DropConnection,      // or it would be reported for ever
        },
        Call::EpollWait => match errno {
            EINTR => Retry, // SIGSTOP and SIGCONT suffice, no handler needed
            _ => FailRuntime,
        },
        Call::SetTimer => FailRuntime,
        Call::ReadCounter => match errno {
            EAGAIN => Ignore,
            EINTR => Retry,
            _ => FailRuntime,
        },
        Call::WriteCounter => match errno {
            EAGAIN => Ignore, // the counter is full: a wake-up is pending already
            _ => Retry,       // nothing else can wake the loop
        },
        Call::ReadSignal => match errno {
            EAGAIN => Wait,
            EINTR => Retry,
            _ => FailRuntime,
        },
        Call::RefuseNew => Degrade, // EPERM: without CAP_NET_ADMIN, on kernels since 2026

        // Connections.
        Call::Accept => match errno {
            EAGAIN => Wait,
            EINTR | ECONNABORTED | EPERM | EPROTO // only this client is gone, the next may be well
            | ENETDOWN | ENOPROTOOPT | EHOSTDOWN | ENONET | EHOSTUNREACH | EOPNOTSUPP | ENETUNREACH
            | ETIMEDOUT | ENOSR | ESOCKTNOSUPPORT | EPROTONOSUPPORT => Retry,
            EINVAL | EBADF | ENOTSOCK | EFAULT => FailRuntime, // no listener any more
            _ => Pause, // EMFILE ENFILE ENOBUFS ENOMEM
        },
        Call::Recv => match errno {
            EAGAIN => Wait,
            EINTR => Retry,
            ENOMEM | ENOBUFS => Later,
            EBADF | EFAULT | EINVAL | ENOTSOCK | EISDIR | EIO => Bug,
            _ => DropConnection, // ECONNRESET ETIMEDOUT ECONNREFUSED ENOTCONN EPIPE EHOSTUNREACH …
        },
        Call::Send | Call::SendPieces => match errno {
            EAGAIN => Wait,
            EINTR => Retry,
            ENOMEM | ENOBUFS => Later, // not EPOLLOUT, which may be ready already: that would spin
            EMSGSIZE => Bug, // more than IOV_MAX pieces
            EBADF | EFAULT | EINVAL | ENOTSOCK | EDESTADDRREQ | EISCONN | EOPNOTSUPP | EALREADY => Bug,
            _ => DropConnection, // EPIPE ECONNRESET ETIMEDOUT EHOSTUNREACH ENETUNREACH EPERM …
        },
        // Outwards: whoever asked for the connection is told why there is none.
        Call::Connect => match errno {
            EINPROGRESS => Wait,
            EINTR => Wait, // it goes on all the same
            EBADF | EFAULT | ENOTSOCK | EALREADY | EISCONN => Bug,
            _ => DropConnection, // ECONNREFUSED ENETUNREACH EADDRNOTAVAIL ENOENT EAGAIN EACCES …
        },
        Call::ConnectResult => match errno {
            EBADF | EFAULT | EINVAL | ENOPROTOOPT | ENOTSOCK => Bug,
            _ => DropConnection, // what became of it: ECONNREFUSED ETIMEDOUT EHOSTUNREACH …
        },

        // Files. The handler answers its client according to the errno.
        Call::OpenFile => match errno {
            EINTR | EAGAIN => Retry, // EAGAIN: something was renamed meanwhile
            _ => Ignore,             // the client is told: ENOENT EACCES EXDEV ELOOP EMFILE …
        },
        Call::ReadStatus => Ignore,
        Call::ReadFile => match errno {
            EINTR => Retry,
            _ => DropConnection, // EIO EISDIR: the rest of the answer is not to be had
        },
        Call::SendFile => match errno {
            EAGAIN => Wait,
            EINTR => Retry,
            ENOMEM | ENOBUFS => Later,
            EINVAL | ENOSYS | EOVERFLOW => Degrade, // not with this file: read and send
            EBADF | EFAULT | ENOTSOCK => Bug,
            _ => DropConnection, // as send, and what the file says: EIO ESPIPE
        },
        Call::Shutdown => match errno {
            EBADF | EINVAL | ENOTSOCK => Bug,
            _ => Ignore, // ENOTCONN: the peer's reset was first
        },
        Call::Close => match errno {
            EBADF => Bug, // a double close: somebody else's descriptor may be next
            _ => Ignore,  // EINTR EIO: the descriptor is gone all the same, never retry
        },
    }
}

/// Makes a call again while its errno says [`Reaction::Retry`], at most 16 times;
/// then it counts as [`Reaction::Wait`].
pub(crate) fn attempt<T>(
    call: Call,
    mut make: impl FnMut() -> crate::kernel::Result<T>,
) -> Result<T, (Reaction, Errno)> {
    for _ in 0..16 {
        match make() {
            Ok(result) => return Ok(result),
            Err(errno) => match reaction(call, errno) {
                Reaction::Retry => {}
                reaction => return Err((reaction, errno)),
            },
        }
    }
    Err((Reaction::Wait, Errno::EINTR))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Start-up calls fail the start or go on without; nothing else may end there.
    #[test]
    fn every_cell_fits_its_role() {
        let first_running = Call::ALL.iter().position(|&call| call == Call::EpollAddConnection);
        for (index, &call) in Call::ALL.iter().enumerate() {
            for errno in (1..134).map(Errno::from_raw) {
                let reaction = reaction(call, errno);
                let startup = Some(index) < first_running;
                assert!(startup || reaction != Reaction::FailStartup, "{call:?} {errno:?}");
                assert!(!startup || reaction != Reaction::DropConnection, "{call:?} {errno:?}");
            }
        }
    }

    /// The errnos whose wrong answer is a well-known outage.
    #[test]
    fn the_famous_cells() {
        use Errno::*;
        assert_eq!(reaction(Call::Accept, EMFILE), Reaction::Pause);
        assert_eq!(reaction(Call::Accept, ECONNABORTED), Reaction::Retry);
        assert_eq!(reaction(Call::Close, EINTR), Reaction::Ignore);
        assert_eq!(reaction(Call::Send, EPIPE), Reaction::DropConnection);
        assert_eq!(reaction(Call::Send, ENOBUFS), Reaction::Later);
        assert_eq!(reaction(Call::WriteCounter, EAGAIN), Reaction::Ignore);
        assert_eq!(reaction(Call::EpollWait, EINTR), Reaction::Retry);
    }
    /// Each exception to what the rest of its row says.
    #[test]
    fn the_exceptions() {
        use Errno::*;
        let exceptions = [
            (Call::BindUnix, &[EADDRINUSE][..], Reaction::Retry),
            (Call::ProbeUnix, &[ECONNREFUSED], Reaction::Ignore),
            (Call::EpollAddConnection, &[EEXIST, EBADF, EINVAL, ELOOP, EPERM], Reaction::Bug),
            (Call::EpollModify, &[ENOMEM], Reaction::Later),
            (Call::EpollRemove, &[ENOENT, EBADF], Reaction::Ignore),
            (Call::EpollWait, &[EINTR], Reaction::Retry),
            (Call::ReadCounter, &[EAGAIN], Reaction::Ignore),
            (Call::ReadCounter, &[EINTR], Reaction::Retry),
            (Call::WriteCounter, &[EAGAIN], Reaction::Ignore),
            (Call::ReadSignal, &[EAGAIN], Reaction::Wait),
            (Call::ReadSignal, &[EINTR], Reaction::Retry),
            (Call::Accept, &[EAGAIN], Reaction::Wait),
            (Call::Accept, &[EINTR, ECONNABORTED, EPERM, EPROTO, ENETDOWN], Reaction::Retry),
            (Call::Accept, &[EINVAL, EBADF, ENOTSOCK, EFAULT], Reaction::FailRuntime),
            (Call::Recv, &[EAGAIN], Reaction::Wait),
            (Call::Recv, &[EINTR], Reaction::Retry),
            (Call::Recv, &[ENOMEM, ENOBUFS], Reaction::Later),
            (Call::Recv, &[EBADF, EFAULT, EINVAL, ENOTSOCK], Reaction::Bug),
            (Call::Send, &[EAGAIN], Reaction::Wait),
            (Call::Send, &[EINTR], Reaction::Retry),
            (Call::Send, &[ENOMEM, ENOBUFS], Reaction::Later),
            (Call::Send, &[EBADF, EFAULT, EINVAL, ENOTSOCK, EMSGSIZE], Reaction::Bug),
            (Call::SendPieces, &[EAGAIN], Reaction::Wait),
            (Call::SendPieces, &[EINTR], Reaction::Retry),
            (Call::SendPieces, &[ENOMEM, ENOBUFS], Reaction::Later),
            (Call::SendPieces, &[EBADF, EFAULT, EINVAL, ENOTSOCK, EMSGSIZE], Reaction::Bug),
            (Call::Connect, &[EINPROGRESS, EINTR], Reaction::Wait),
            (Call::Connect, &[EBADF, EFAULT, ENOTSOCK, EALREADY, EISCONN], Reaction::Bug),
            (Call::ConnectResult, &[EBADF, EFAULT, EINVAL, ENOTSOCK], Reaction::Bug),
            (Call::OpenFile, &[EINTR, EAGAIN], Reaction::Retry),
            (Call::ReadFile, &[EINTR], Reaction::Retry),
            (Call::SendFile, &[EAGAIN], Reaction::Wait),
            (Call::SendFile, &[EINTR], Reaction::Retry),
            (Call::SendFile, &[ENOMEM, ENOBUFS], Reaction::Later),
            (Call::SendFile, &[EINVAL, ENOSYS, EOVERFLOW], Reaction::Degrade),
            (Call::SendFile, &[EBADF, EFAULT, ENOTSOCK], Reaction::Bug),
            (Call::Shutdown, &[EBADF, EINVAL, ENOTSOCK], Reaction::Bug),
            (Call::Close, &[EBADF], Reaction::Bug),
        ];
        for (call, errnos, due) in exceptions {
            for &errno in errnos {
                assert_eq!(reaction(call, errno), due, "{call:?} {errno:?}");
            }
            assert_ne!(reaction(call, ETXTBSY), due, "{call:?} in general");
        }
    }

    #[test]
    fn a_call_is_named_as_in_its_manual_page() {
        let names = [Call::Accept, Call::BindUnix, Call::ReadCounter, Call::Memory];
        let names = names.map(|call| call.to_string());
        assert_eq!(names, ["accept4", "bind", "read", "mmap"]);
    }

    /// No call is made again without bound.
    #[test]
    fn an_attempt_gives_up() {
        let mut calls = 0;
        let result = attempt(Call::ReadSignal, || -> crate::kernel::Result<()> {
            calls += 1;
            Err(Errno::EINTR)
        });
        assert_eq!((calls, result), (16, Err((Reaction::Wait, Errno::EINTR))));
    }
}
