//! What an errno means: one table, asked by the code at every call.
//!
//! The same errno needs different reactions at different calls, and sometimes
//! at the same call in a different role: `epoll_ctl` out of memory ends the
//! start-up, pauses the listener, or makes a connection wait, depending on what
//! was added or changed. The table is therefore indexed by [`Call`], the call in its
//! role, and each cell holds one [`Reaction`]. Counting and logging are the
//! caller's. No reaction retries without bound.

use crate::kernel::Errno;

pub use crate::kernel::Call;

/// What the server does about an errno.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reaction {
    /// Do nothing now: wait for the next event.
    Wait,
    /// Make the same call again at once, a bounded number of times.
    Retry,
    /// Keep the bytes or the mask and try again by timer, a bounded number of times.
    Later,
    /// Stop asking this source for a while; resume by timer or when a connection closes.
    Pause,
    /// Close this connection; no other is affected.
    DropConnection,
    /// The start fails with one line that names the call, the object and the errno.
    FailStartup,
    /// The server drains what it can and ends with an error.
    FailRuntime,
    /// Go on without it, and warn once. (Where nothing would be left, the start fails.)
    Degrade,
    /// The failure does not matter.
    Ignore,
    /// It cannot happen unless the server is wrong. Counted, then the connection ends
    /// (for a core descriptor: the server).
    Bug,
}

/// The reaction to `errno` from `call`. Total: an errno the table does not name
/// pauses a listener, ends a connection, and fails a start.
#[rustfmt::skip] // one row a line
pub fn reaction(call: Call, errno: Errno) -> Reaction {
    #[cfg(feature = "sim")]
    crate::kernel::sim::asked(call as usize, call.name(), errno); // the tests count who asks
    use Errno::*;
    use Reaction::*;
    match call {
        // Start-up. Nothing is served yet, so failing with a clear error is best.
        Call::Socket => match errno {
            EAFNOSUPPORT => Degrade, // if another address of the same name serves
            _ => FailStartup,
        },
        Call::BindTcp => match errno {
            EADDRNOTAVAIL => Degrade, // if another address of the same name serves
            _ => FailStartup,
        },
        Call::SignalMask | Call::Memory | Call::SetOption | Call::Listen | Call::LocalAddress
        | Call::EpollCreate | Call::EventFd | Call::SignalFd | Call::TimerFd | Call::EpollAddCore
        | Call::OpenDirectory | Call::FileMode | Call::FileStatus | Call::OpenSocketFile
        | Call::SocketFileStatus | Call::Unlink | Call::Inherit | Call::CheckListener => FailStartup,
        Call::SignalAction | Call::DescriptorLimit | Call::SetTunable | Call::OpenToLock
        | Call::NotifySocket | Call::NotifyConnect => Degrade,
        Call::Detach => match errno {
            ENOENT => Ignore, // there was no filter
            _ => Degrade,
        },
        Call::RefuseDescriptors => match errno {
            ENOPROTOOPT => Ignore, // before Linux 6.16 the option does not exist, and nothing else helps
            _ => Degrade,
        },
        Call::LockDirectory => match errno {
            EAGAIN => Later, // another server starts or ends there: again, for a second
            EINTR => Retry,
            _ => Degrade, // ENOLCK EBADF: a file system without such locks
        },
        Call::AwaitLock => Ignore, // EINTR: it sleeps less than it should
        Call::BindUnix => match errno {
            EADDRINUSE => Retry, // once, if the file is a socket at which no server listens
            _ => FailStartup,
        },
        Call::ProbeUnix => match errno {
            ECONNREFUSED => Ignore, // no server listens: the only proof that the file is stale
            _ => FailStartup,
        },

        // The loop.
        Call::EpollAddConnection => match errno {
            EEXIST | EBADF | EINVAL | ELOOP | EPERM => Bug,
            _ => Pause, // ENOMEM ENOSPC
        },
        Call::EpollModify => match errno {
            ENOMEM => Later, // by timer, because no event may come
            _ => Bug,
        },
        Call::EpollRemove => match errno {
            ENOENT | EBADF => Ignore, // it is gone already
            _ => DropConnection,      // otherwise it would be reported forever
        },
        Call::EpollWait => match errno {
            EINTR => Retry, // SIGSTOP and SIGCONT are enough, even without a signal handler
            _ => FailRuntime,
        },
        Call::SetTimer | Call::EpollAddSignals => FailRuntime,
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
        Call::CheckFile | Call::RemoveFile => Ignore, // the next start removes it, if it is stale
        Call::SteerNew | Call::RefuseNew => Degrade, // an old kernel
        Call::DiagSocket | Call::DiagAsk | Call::DiagAnswer => Degrade, // treated as under way

        // Connections.
        Call::Accept => match errno {
            EAGAIN => Wait,
            EINTR | ECONNABORTED | EPERM | EPROTO // this client is gone, the next may not be
            | ENETDOWN | ENOPROTOOPT | EHOSTDOWN | ENONET | EHOSTUNREACH | EOPNOTSUPP | ENETUNREACH
            | ETIMEDOUT | ENOSR | ESOCKTNOSUPPORT | EPROTONOSUPPORT => Retry,
            EINVAL | EBADF | ENOTSOCK | EFAULT => FailRuntime, // it is no listener any more
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
        // Outbound: the handler that asked for the connection learns why it failed. A passing
        // shortage says nothing about the other server.
        Call::OutboundSocket => match errno {
            EMFILE | ENFILE | ENOBUFS | ENOMEM => Pause,
            _ => DropConnection, // EAFNOSUPPORT EACCES …
        },
        Call::Connect => match errno {
            EINPROGRESS => Wait,
            EINTR => Wait, // the connect goes on all the same
            EAGAIN | EADDRNOTAVAIL | ENOBUFS | ENOMEM => Pause, // its queue is full; no port is free
            EBADF | EFAULT | ENOTSOCK | EALREADY | EISCONN => Bug,
            _ => DropConnection, // ECONNREFUSED ENETUNREACH ENOENT EACCES …
        },
        Call::OutboundAddress => match errno {
            EBADF | EFAULT | EINVAL | ENOTSOCK => Bug,
            _ => Ignore, // ENOBUFS: whether it leads back to us is not known
        },
        Call::ConnectResult => match errno {
            EBADF | EFAULT | EINVAL | ENOPROTOOPT | ENOTSOCK => Bug,
            _ => DropConnection, // the outcome of the connect: ECONNREFUSED ETIMEDOUT EHOSTUNREACH …
        },

        // Files. The handler answers its client according to the errno.
        Call::OpenFile => match errno {
            EINTR | EAGAIN => Retry, // EAGAIN: something was renamed meanwhile
            _ => Ignore,             // the handler answers accordingly: ENOENT EACCES EXDEV ELOOP EMFILE …
        },
        Call::ReadStatus | Call::Notify => Ignore,
        Call::ReadFile => match errno {
            EINTR => Retry,
            _ => DropConnection, // EIO EISDIR: the rest of the answer cannot be read
        },
        Call::SendFile => match errno {
            EAGAIN => Wait,
            EINTR => Retry,
            ENOMEM | ENOBUFS => Later,
            EINVAL | ENOSYS | EOVERFLOW => Degrade, // not with this file: read and send
            EBADF | EFAULT | ENOTSOCK => Bug,
            _ => DropConnection, // as send, and errors of the file: EIO ESPIPE
        },
        Call::DirectoryStatus => Ignore, // the open directory is used; a file that cannot be found is not ours
        Call::Shutdown => match errno {
            EBADF | EINVAL | ENOTSOCK => Bug,
            _ => Ignore, // ENOTCONN: a reset came first, or both sides have ended
        },
        Call::Unacknowledged => match errno {
            EBADF | EFAULT | EINVAL | ENOTTY => Bug,
            _ => Ignore, // treated as acknowledged
        },
        Call::Close => match errno {
            EBADF => Bug, // a double close: another connection's descriptor may be next
            _ => Ignore,  // EINTR EIO: the descriptor is closed all the same, never retry
        },
    }
}

/// Makes a call again while its errno means [`Reaction::Retry`], at most 16 times;
/// then it counts as [`Reaction::Wait`].
pub(crate) fn attempt<T>(
    call: Call,
    mut make: impl FnMut() -> crate::kernel::Result<T>,
) -> Result<T, (Reaction, Errno)> {
    let mut failed = Errno::EINTR;
    for _ in 0..16 {
        match make() {
            Ok(result) => return Ok(result),
            Err(errno) => match reaction(call, errno) {
                Reaction::Retry => failed = errno,
                reaction => return Err((reaction, errno)),
            },
        }
    }
    Err((Reaction::Wait, failed))
}

/// Ignores a failure, where something is being given up anyway. Returns the errno if the
/// table calls it a bug.
pub(crate) fn tolerate(call: Call, result: crate::kernel::Result<()>) -> Option<Errno> {
    result.err().filter(|&errno| reaction(call, errno) == Reaction::Bug)
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

    /// The errnos whose wrong handling has caused well-known outages.
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
    /// Each exception to the rest of its row.
    #[test]
    fn the_exceptions() {
        use Errno::*;
        let exceptions = [
            (Call::Socket, &[EAFNOSUPPORT][..], Reaction::Degrade),
            (Call::BindTcp, &[EADDRNOTAVAIL], Reaction::Degrade),
            (Call::Detach, &[ENOENT], Reaction::Ignore),
            (Call::RefuseDescriptors, &[ENOPROTOOPT], Reaction::Ignore),
            (Call::LockDirectory, &[EAGAIN], Reaction::Later),
            (Call::LockDirectory, &[EINTR], Reaction::Retry),
            (Call::BindUnix, &[EADDRINUSE], Reaction::Retry),
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
            (Call::OutboundSocket, &[EMFILE, ENFILE, ENOBUFS, ENOMEM], Reaction::Pause),
            (Call::Connect, &[EINPROGRESS, EINTR], Reaction::Wait),
            (Call::Connect, &[EAGAIN, EADDRNOTAVAIL, ENOBUFS, ENOMEM], Reaction::Pause),
            (Call::Connect, &[EBADF, EFAULT, ENOTSOCK, EALREADY, EISCONN], Reaction::Bug),
            (Call::OutboundAddress, &[EBADF, EFAULT, EINVAL, ENOTSOCK], Reaction::Bug),
            (Call::ConnectResult, &[EBADF, EFAULT, EINVAL, ENOTSOCK], Reaction::Bug),
            (Call::OpenFile, &[EINTR, EAGAIN], Reaction::Retry),
            (Call::ReadFile, &[EINTR], Reaction::Retry),
            (Call::SendFile, &[EAGAIN], Reaction::Wait),
            (Call::SendFile, &[EINTR], Reaction::Retry),
            (Call::SendFile, &[ENOMEM, ENOBUFS], Reaction::Later),
            (Call::SendFile, &[EINVAL, ENOSYS, EOVERFLOW], Reaction::Degrade),
            (Call::SendFile, &[EBADF, EFAULT, ENOTSOCK], Reaction::Bug),
            (Call::Shutdown, &[EBADF, EINVAL, ENOTSOCK], Reaction::Bug),
            (Call::Unacknowledged, &[EBADF, EFAULT, EINVAL, ENOTTY], Reaction::Bug),
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
