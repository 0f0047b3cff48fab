//! What the calls take and return: addresses, options, events, and what a file is.

use crate::fallible::copied;
use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// A local address: where a socket listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// TCP. A V6 socket never takes V4 connections (IPV6_V6ONLY).
    Tcp(SocketAddr),
    /// A Unix socket at a path; or, if that begins with a NUL, an abstract one, which has a name
    /// and no file. The server listens at none of these, but may inherit one. unix(7)
    Unix(PathBuf),
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Address {
        Address::Tcp(address)
    }
}

impl Address {
    /// A copy, if there is memory.
    pub(crate) fn copied(&self) -> Option<Address> {
        Some(match self {
            Address::Tcp(address) => Address::Tcp(*address),
            Address::Unix(path) => {
                let copy = copied(path.as_os_str().as_bytes())?;
                Address::Unix(OsString::from_vec(copy).into())
            }
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => write!(f, "{address}"),
            Address::Unix(path) => match path.as_os_str().as_bytes().strip_prefix(b"\0") {
                Some(name) => write!(f, "unix:@{}", String::from_utf8_lossy(name)),
                None => write!(f, "unix:{}", path.display()),
            },
        }
    }
}

/// The other end of a connection, as accept4 names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// A TCP peer.
    Tcp(SocketAddr),
    /// The client of a Unix socket, which has no address.
    Unix,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Tcp(address) => write!(f, "{address}"),
            Peer::Unix => f.write_str("unix"),
        }
    }
}

/// The options the server sets, each with the value it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketOption {
    /// SO_REUSEADDR: bind although old connections are in TIME_WAIT. socket(7)
    ReuseAddr,
    /// SO_REUSEPORT: other sockets that set it too, of the same user, may listen at the same
    /// address. The kernel deals new clients out to them. socket(7)
    ReusePort,
    /// SO_ATTACH_REUSEPORT_CBPF with a program that sends all new clients to the listener with
    /// this number, of those that share the address, in the order in which they began to listen.
    /// A number that no listener has changes nothing. socket(7)
    SteerTo(u32),
    /// SO_DETACH_REUSEPORT_BPF: new clients are dealt out again. socket(7)
    StopSteering,
    /// SO_DETACH_FILTER: whatever filter was attached to the socket is gone. socket(7)
    DetachFilter,
    /// IPV6_V6ONLY: a V6 listener leaves V4 alone. ipv6(7)
    V6Only,
    /// TCP_NODELAY: send small answers at once. Inherited by accepted sockets. tcp(7)
    NoDelay,
    /// SO_KEEPALIVE: probe a silent peer. Inherited. socket(7)
    KeepAlive,
    /// TCP_KEEPIDLE: seconds of silence before the first probe. Inherited. tcp(7)
    KeepIdle(u32),
    /// TCP_USER_TIMEOUT: milliseconds sent bytes may stay unacknowledged. Inherited. tcp(7)
    UserTimeout(u32),
    /// TCP_NOTSENT_LOWAT: how many unsent bytes the kernel takes before EAGAIN. Inherited. tcp(7)
    NotSentLowat(u32),
    /// TCP_CORK: send whole segments only, for at most 200 ms, because more follows. tcp(7)
    Cork(bool),
    /// SO_OOBINLINE: an urgent byte (MSG_OOB) stays where it was sent, among the others, instead
    /// of being taken out of the stream. Inherited. socket(7), tcp(7)
    UrgentInline,
    /// SO_BINDTOIFINDEX with a network device that does not exist: no SYN finds this listener
    /// any more, and each is refused. A handshake that has begun goes on. socket(7)
    NoDevice,
    /// SO_PASSRIGHTS off: no process can pass a descriptor to this Unix socket. Inherited. unix(7)
    RefuseDescriptors,
    /// SO_LINGER with 0 seconds: close sends a reset, so that an answer that was cut
    /// off cannot be taken for a whole one. socket(7)
    ResetOnClose,
}

/// What lstat and fstat report about a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileStatus {
    /// What kind of file.
    pub kind: FileKind,
    /// Its length in bytes.
    pub size: u64,
    /// When its content last changed, in nanoseconds since 1970.
    pub modified: i64,
    /// When anything of it last changed, that time included, in nanoseconds since 1970.
    pub changed: i64,
    /// Its permission bits.
    pub mode: u32,
    /// The device and the inode: which file this is, whatever its name.
    pub identity: (u64, u64),
}

/// The kinds of files that make a difference. inode(7)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A file with content.
    Regular,
    /// A directory.
    Directory,
    /// The name of a Unix socket.
    Socket,
    /// A link, a pipe, a device.
    Other,
}

/// What [`openat2_as`](super::Kernel::openat2_as) opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenAs {
    /// A directory, to be locked: O_RDONLY, O_DIRECTORY.
    Lock,
    /// Whatever it is, to be named: O_PATH, O_NOFOLLOW.
    Itself,
}

/// Which clock [`clock_gettime`](super::Kernel::clock_gettime) reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// CLOCK_MONOTONIC: never set, never back. For deadlines.
    Monotonic,
    /// CLOCK_REALTIME: since 1970, as far as the machine knows. For people.
    Realtime,
}

/// What is done to the epoll set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EpollOp {
    /// EPOLL_CTL_ADD
    Add,
    /// EPOLL_CTL_MOD
    Modify,
    /// EPOLL_CTL_DEL: not watched any more; the event is not looked at.
    Remove,
}

/// How long epoll_wait waits. Deadlines are on the timerfd, so there are only two ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all (0): work is left.
    No,
    /// Until an event (-1).
    Forever,
}

/// What is asked of a descriptor, or what is ready: the `struct epoll_event` of epoll_ctl(2).
#[derive(Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
#[cfg_attr(target_arch = "x86_64", repr(packed))]
pub struct Event {
    /// A set of [`IN`], [`OUT`], [`ERR`], [`HUP`], [`RDHUP`].
    pub mask: u32,
    /// Whatever was registered with the descriptor.
    pub data: u64,
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mask, data) = (self.mask, self.data);
        write!(f, "Event {{ mask: {mask:#x}, data: {data:#x} }}")
    }
}

/// Most pieces that one call takes: with more, [`Kernel::sendmsg`](super::Kernel::sendmsg) fails
/// with EMSGSIZE. sendmsg(2), UIO_MAXIOV
pub const IOV_MAX: usize = libc::UIO_MAXIOV as usize;

/// EPOLLIN: bytes, a connection or the peer's end can be taken.
pub const IN: u32 = libc::EPOLLIN as u32;
/// EPOLLOUT: the kernel takes bytes again.
pub const OUT: u32 = libc::EPOLLOUT as u32;
/// EPOLLERR: the connection failed. Reported whether asked for or not.
pub const ERR: u32 = libc::EPOLLERR as u32;
/// EPOLLHUP: both directions have ended. Reported whether asked for or not.
pub const HUP: u32 = libc::EPOLLHUP as u32;
/// EPOLLRDHUP: the peer has ended its direction, perhaps behind bytes that are still to be read.
pub const RDHUP: u32 = libc::EPOLLRDHUP as u32;
