//! The calls by name, each in the roles that it has in the server.

use std::fmt;

/// Declares [`Call`]: each role once, in the order in which a server meets them, with the
/// name of its system call as in its manual page.
macro_rules! calls {
    ($($role:ident $name:literal,)*) => {
        /// A system call, in one of the roles it has in the server.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Call {
            $(#[doc = concat!("`", $name, "`")] $role,)*
        }

        impl Call {
            /// Every call, in the order in which a server meets them.
            pub const ALL: [Call; [$($name),*].len()] = [$(Call::$role),*];

            /// The name of the system call, as in its manual page.
            pub fn name(self) -> &'static str {
                match self {
                    $(Call::$role => $name,)*
                }
            }
        }
    };
}

calls! {
    SignalAction "rt_sigaction",
    SignalMask "rt_sigprocmask",
    DescriptorLimit "prlimit",
    Memory "mmap",
    Socket "socket",
    SetOption "setsockopt",
    SetTunable "setsockopt",
    RefuseDescriptors "setsockopt",
    Inherit "fcntl",
    CheckListener "getsockopt",
    Detach "setsockopt",
    NotifySocket "socket",
    NotifyConnect "connect",
    OpenToLock "openat2",
    LockDirectory "flock",
    AwaitLock "clock_nanosleep",
    FileMode "chmod",
    FileStatus "lstat",
    BindTcp "bind",
    BindUnix "bind",
    OpenSocketFile "openat2",
    SocketFileStatus "fstat",
    ProbeUnix "connect",
    Unlink "unlink",
    Listen "listen",
    LocalAddress "getsockname",
    OpenDirectory "openat2",
    EpollCreate "epoll_create1",
    EventFd "eventfd2",
    SignalFd "signalfd4",
    TimerFd "timerfd_create",
    EpollAddCore "epoll_ctl",
    EpollAddSignals "epoll_ctl",
    EpollAddConnection "epoll_ctl",
    EpollModify "epoll_ctl",
    EpollRemove "epoll_ctl",
    EpollWait "epoll_wait",
    Accept "accept4",
    Recv "recv",
    Send "send",
    SendPieces "sendmsg",
    OutboundSocket "socket",
    Connect "connect",
    OutboundAddress "getsockname",
    ConnectResult "getsockopt",
    OpenFile "openat2",
    ReadStatus "fstat",
    ReadFile "pread64",
    SendFile "sendfile",
    DirectoryStatus "stat",
    SetTimer "timerfd_settime",
    ReadCounter "read",
    WriteCounter "write",
    ReadSignal "read",
    Notify "send",
    SteerNew "setsockopt",
    RefuseNew "setsockopt",
    DiagSocket "socket",
    DiagAsk "write",
    DiagAnswer "read",
    CheckFile "lstat",
    RemoveFile "unlink",
    Shutdown "shutdown",
    Unacknowledged "ioctl",
    Close "close",
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
