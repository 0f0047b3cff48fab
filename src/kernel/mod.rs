//! Every system call the server makes, as one trait.
//!
//! The methods are in the order in which a running server meets them, so the
//! trait is the table of contents of the walkthrough in `docs/`. It has three
//! implementations:
//!
//! - [`Linux`]: the real calls, and the only `unsafe` code of the project;
//! - [`Narrated`]: wraps another kernel and prints each call as strace would;
//! - `Simulated` (feature `sim`): sockets, epoll and a clock in memory.
//!
//! Rules that hold for all of them:
//!
//! 1. A call returns what the kernel returned, or its errno. What an errno
//!    *means* is decided in one place only: [`reaction`](crate::reaction).
//! 2. A descriptor is an [`Fd`], which cannot be copied. [`Kernel::close`] takes
//!    it away, so a double close does not compile, and what is dropped is closed.
//! 3. Every descriptor is born non-blocking and close-on-exec; one that is inherited is made so.

use std::fmt;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::num::NonZeroI32;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::path::Path;

mod calls;
mod linux;
mod names;
mod narrated;
#[cfg(feature = "sim")]
pub mod sim;
mod types;

pub use calls::Call;
pub use linux::Linux;
#[doc(hidden)]
pub use linux::window_columns;
pub(crate) use linux::{borrowed, ignore_signals, map_large_buffers, return_memory};
pub use names::{Errno, Signal};
pub use narrated::Narrated;
#[cfg(feature = "sim")]
pub use sim::Simulated;
pub use types::*;

/// What a system call returns: its result, or its errno.
pub type Result<T> = std::result::Result<T, Errno>;

/// The calls a server makes, in the order in which it meets them.
///
/// The last paragraph of each method names its manual pages, the chapter that explains it,
/// and its rows in the table of errnos, [`reaction`](crate::reaction::reaction).
///
/// A kernel is a handle: a clone is the same kernel, used from another thread
/// (only to write to the [`eventfd2`](Kernel::eventfd2)).
///
/// To implement it elsewhere is possible and not stable: a minor version may add a method.
pub trait Kernel: Clone + Send + Sync + 'static {
    /// Whether the kernel's signals and memory are those of this process.
    const IS_REAL: bool = true;

    // ---- before anything exists: signals and limits ----- docs/03-signals.md, docs/15-full.md

    /// Whether this process ignores `signal`, as `nohup` does with SIGHUP.
    ///
    /// rt_sigaction(2), docs/03-signals.md, [`Call::SignalAction`]
    fn rt_sigaction(&mut self, signal: Signal) -> Result<bool>;

    /// Blocks `signals` for this thread, so that they can be read as bytes.
    ///
    /// rt_sigprocmask(2), docs/03-signals.md, [`Call::SignalMask`]
    fn rt_sigprocmask(&mut self, signals: &[Signal]) -> Result<()>;

    /// The soft and the hard limit of open descriptors; sets the soft one first
    /// if `soft` is given.
    ///
    /// prlimit(2), docs/15-full.md, [`Call::DescriptorLimit`]
    fn prlimit(&mut self, soft: Option<u64>) -> Result<(u64, u64)>;

    // ---- a listener ------------------------------------------------- docs/04-listening.md

    /// Creates a stream socket of the address family of `address`.
    ///
    /// socket(2), docs/04-listening.md, docs/12-connecting.md, [`Call::Socket`], [`Call::OutboundSocket`]
    fn socket(&mut self, address: &Address) -> Result<Fd>;

    /// Takes over the descriptor `number`, with which this process was started, and makes it
    /// close-on-exec. One that is close-on-exec already was opened here, and is in use (EBADF).
    ///
    /// fcntl(2), sd_listen_fds(3), docs/17-production.md, [`Call::Inherit`]
    fn fcntl_inherit(&mut self, number: i32) -> Result<Fd>;

    /// Makes a descriptor from elsewhere non-blocking, for all processes that share it.
    ///
    /// fcntl(2), docs/17-production.md, [`Call::Inherit`]
    fn fcntl_nonblock(&mut self, fd: &Fd) -> Result<()>;

    /// Whether a socket listens: SO_ACCEPTCONN.
    ///
    /// getsockopt(2), socket(7), docs/17-production.md, [`Call::CheckListener`]
    fn getsockopt_listens(&mut self, fd: &Fd) -> Result<bool>;

    /// Creates a datagram socket for messages to the service manager.
    ///
    /// socket(2), unix(7), sd_notify(3), docs/17-production.md, [`Call::NotifySocket`]
    fn socket_datagram(&mut self) -> Result<Fd>;

    /// Sets one option of a socket.
    ///
    /// setsockopt(2), socket(7), tcp(7), ipv6(7), docs/04-listening.md, docs/14-stopping.md, docs/13-closing.md,
    /// docs/16-passed.md, docs/17-production.md,
    /// [`Call::SetOption`], [`Call::SetTunable`], [`Call::RefuseDescriptors`], [`Call::Detach`],
    /// [`Call::SteerNew`], [`Call::RefuseNew`]
    fn setsockopt(&mut self, fd: &Fd, option: SocketOption) -> Result<()>;

    /// Opens the directory at `path` to lock it; or whatever is at `path`, only as a reference to
    /// it (O_PATH): a symbolic link is not followed, and a socket file can be opened too.
    ///
    /// openat2(2), docs/04-listening.md, [`Call::OpenToLock`], [`Call::OpenSocketFile`]
    fn openat2_as(&mut self, path: &Path, what: OpenAs) -> Result<Fd>;

    /// Takes the exclusive lock of an open directory, unless another process holds it. Closing
    /// the descriptor releases it.
    ///
    /// flock(2), docs/04-listening.md, [`Call::LockDirectory`]
    fn flock(&mut self, fd: &Fd) -> Result<()>;

    /// Sleeps for this many nanoseconds. Used before the server serves anyone, never after.
    ///
    /// clock_nanosleep(2), docs/04-listening.md, [`Call::AwaitLock`]
    fn clock_nanosleep(&mut self, nanoseconds: u64) -> Result<()>;

    /// Sets the mode that a Unix socket's file is born with (less the umask).
    ///
    /// fchmod(2), docs/04-listening.md, [`Call::FileMode`]
    fn fchmod(&mut self, fd: &Fd, mode: u32) -> Result<()>;

    /// Gives the socket its address.
    ///
    /// bind(2), docs/04-listening.md, [`Call::BindTcp`], [`Call::BindUnix`]
    fn bind(&mut self, fd: &Fd, address: &Address) -> Result<()>;

    /// What kind of file is at `path`; symbolic links are not followed.
    ///
    /// lstat(2), docs/04-listening.md, [`Call::FileStatus`], [`Call::CheckFile`]
    fn lstat(&mut self, path: &Path) -> Result<FileStatus>;

    /// Sets the mode of the file at `path`: a descriptor's below /proc/self/fd, at which
    /// nobody can put another file.
    ///
    /// chmod(2), docs/04-listening.md, [`Call::FileMode`]
    fn chmod(&mut self, path: &Path, mode: u32) -> Result<()>;

    /// Starts to connect. With TCP it goes on after EINPROGRESS, and epoll reports when it
    /// is over; a Unix socket is connected at once, or not at all.
    ///
    /// connect(2), docs/04-listening.md, docs/12-connecting.md, docs/17-production.md, [`Call::ProbeUnix`],
    /// [`Call::Connect`], [`Call::NotifyConnect`]
    fn connect(&mut self, fd: &Fd, address: &Address) -> Result<()>;

    /// Removes the file at `path`.
    ///
    /// unlink(2), docs/04-listening.md, [`Call::Unlink`], [`Call::RemoveFile`]
    fn unlink(&mut self, path: &Path) -> Result<()>;

    /// Makes the socket a listener: from now on clients queue, up to `backlog` of them.
    ///
    /// listen(2), docs/04-listening.md, [`Call::Listen`]
    fn listen(&mut self, fd: &Fd, backlog: u32) -> Result<()>;

    /// The address a socket is bound to, with the port the kernel chose for 0.
    ///
    /// getsockname(2), docs/04-listening.md, docs/12-connecting.md,
    /// [`Call::LocalAddress`], [`Call::OutboundAddress`]
    fn getsockname(&mut self, fd: &Fd) -> Result<Address>;

    // ---- the loop --------- docs/05-loop.md, docs/06-waking.md, docs/03-signals.md, docs/07-time.md

    /// Creates an empty set of descriptors to wait for.
    ///
    /// epoll_create1(2), docs/05-loop.md, [`Call::EpollCreate`]
    fn epoll_create1(&mut self) -> Result<Fd>;

    /// Creates a descriptor from which blocked signals are read.
    ///
    /// signalfd4(2), docs/03-signals.md, [`Call::SignalFd`]
    fn signalfd4(&mut self, signals: &[Signal]) -> Result<Fd>;

    /// Creates a timer that is a descriptor, on the monotonic clock.
    ///
    /// timerfd_create(2), docs/07-time.md, [`Call::TimerFd`]
    fn timerfd_create(&mut self) -> Result<Fd>;

    /// Creates a counter that any thread can raise to wake the loop.
    ///
    /// eventfd2(2), docs/06-waking.md, [`Call::EventFd`]
    fn eventfd2(&mut self) -> Result<Fd>;

    /// Adds `fd` to the set, changes what is asked of it, or removes it.
    ///
    /// epoll_ctl(2), docs/05-loop.md,
    /// [`Call::EpollAddCore`], [`Call::EpollAddSignals`], [`Call::EpollAddConnection`],
    /// [`Call::EpollModify`], [`Call::EpollRemove`]
    fn epoll_ctl(&mut self, epoll: &Fd, op: EpollOp, fd: &Fd, event: Event) -> Result<()>;

    /// Waits until a descriptor of the set is ready, and fills `events` from the
    /// front. Returns the number of events filled.
    ///
    /// epoll_wait(2), docs/05-loop.md, [`Call::EpollWait`]
    fn epoll_wait(&mut self, epoll: &Fd, events: &mut [Event], wait: Wait) -> Result<usize>;

    /// Nanoseconds on a clock. Not a system call: the vDSO answers.
    ///
    /// clock_gettime(2), vdso(7), docs/07-time.md
    fn clock_gettime(&mut self, clock: Clock) -> u64;

    // ---- one connection -- docs/08-accepting.md, docs/09-receiving.md, docs/10-sending.md

    /// Takes the first connection out of the listener's queue.
    ///
    /// accept4(2), docs/08-accepting.md, [`Call::Accept`]
    fn accept4(&mut self, fd: &Fd) -> Result<(Fd, Peer)>;

    /// Receives bytes that have arrived. Returns how many; 0 is EOF.
    ///
    /// recv(2), docs/09-receiving.md, [`Call::Recv`]
    fn recv(&mut self, fd: &Fd, buffer: &mut [u8]) -> Result<usize>;

    /// Hands bytes to the kernel. Returns how many it took. Never raises SIGPIPE.
    ///
    /// send(2), docs/10-sending.md, docs/17-production.md, [`Call::Send`], [`Call::Notify`]
    fn send(&mut self, fd: &Fd, bytes: &[u8]) -> Result<usize>;

    /// As `send`, when more bytes or the FIN follow at once: the last, partly filled packet waits
    /// for them.
    ///
    /// send(2) MSG_MORE, docs/11-files.md, docs/13-closing.md, [`Call::Send`]
    fn send_more(&mut self, fd: &Fd, bytes: &[u8]) -> Result<usize>;

    /// As `send`, for bytes in several places, at most [`IOV_MAX`] of them. Returns how many
    /// bytes the kernel took, which may end within any piece.
    ///
    /// sendmsg(2), docs/10-sending.md, [`Call::SendPieces`]
    fn sendmsg(&mut self, fd: &Fd, pieces: &[IoSlice<'_>]) -> Result<usize>;

    // ---- an outbound connection ----------------------------------- docs/12-connecting.md

    /// The outcome of a [`connect`](Kernel::connect) that was in progress: SO_ERROR. Reading
    /// it resets it, so it must not be used on an established connection.
    ///
    /// getsockopt(2), socket(7), docs/12-connecting.md, [`Call::ConnectResult`]
    fn getsockopt_error(&mut self, fd: &Fd) -> Result<Option<Errno>>;

    // ---- files ------------------------------------------------------- docs/11-files.md

    /// Without `dir` opens the directory `path`; with it, the file `path` for reading.
    /// Nothing in that path leads out of `dir`, no `..` and no symbolic link, and opening
    /// never blocks, not even on a FIFO.
    ///
    /// openat2(2), docs/11-files.md, [`Call::OpenDirectory`], [`Call::OpenFile`]
    fn openat2(&mut self, dir: Option<&Fd>, path: &Path) -> Result<Fd>;

    /// What an open file is.
    ///
    /// fstat(2), docs/11-files.md, docs/04-listening.md, [`Call::ReadStatus`], [`Call::SocketFileStatus`]
    fn fstat(&mut self, fd: &Fd) -> Result<FileStatus>;

    /// Reads bytes of a file from `offset` on. Returns how many; 0 at the end of the file.
    ///
    /// pread(2), docs/11-files.md, [`Call::ReadFile`]
    fn pread64(&mut self, fd: &Fd, buffer: &mut [u8], offset: u64) -> Result<usize>;

    /// Sends bytes of a file without reading them here: up to `count` from `offset` on.
    /// Returns how many the kernel took; 0 at the end of the file.
    ///
    /// sendfile(2), docs/11-files.md, [`Call::SendFile`]
    fn sendfile(&mut self, fd: &Fd, file: &Fd, offset: u64, count: usize) -> Result<usize>;

    /// What kind of file `path` is now; symbolic links are followed.
    ///
    /// stat(2), docs/11-files.md, [`Call::DirectoryStatus`]
    fn stat(&mut self, path: &Path) -> Result<FileStatus>;

    // ---- stopping -------------------------------------------------- docs/14-stopping.md

    /// Creates a socket on which the kernel answers questions about sockets.
    ///
    /// socket(2), netlink(7), sock_diag(7), docs/14-stopping.md, [`Call::DiagSocket`]
    fn socket_diag(&mut self) -> Result<Fd>;

    /// Asks which handshakes with the port of `local` are in progress.
    ///
    /// write(2), sock_diag(7), docs/14-stopping.md, [`Call::DiagAsk`]
    fn write_diag(&mut self, fd: &Fd, local: SocketAddr) -> Result<()>;

    /// Reads the beginning of the answer. Returns whether any handshake is in progress.
    ///
    /// read(2), sock_diag(7), docs/14-stopping.md, [`Call::DiagAnswer`]
    fn read_diag(&mut self, fd: &Fd) -> Result<bool>;

    // ---- time, and what wakes the loop ---- docs/07-time.md, docs/06-waking.md, docs/03-signals.md

    /// Sets the timer to `deadline`, in nanoseconds of [`clock_gettime`](Kernel::clock_gettime);
    /// `None` disarms it.
    ///
    /// timerfd_settime(2), docs/07-time.md, [`Call::SetTimer`]
    fn timerfd_settime(&mut self, fd: &Fd, deadline: Option<u64>) -> Result<()>;

    /// Reads and resets the counter of an eventfd.
    ///
    /// A timerfd has one too, of its expirations; setting it anew resets that as well.
    ///
    /// read(2), eventfd(2), docs/06-waking.md, docs/07-time.md, [`Call::ReadCounter`]
    fn read_counter(&mut self, fd: &Fd) -> Result<u64>;

    /// Raises the counter of an eventfd by one.
    ///
    /// write(2), eventfd(2), docs/06-waking.md, [`Call::WriteCounter`]
    fn write_counter(&mut self, fd: &Fd) -> Result<()>;

    /// Reads one signal from a signalfd.
    ///
    /// read(2), signalfd(2), docs/03-signals.md, [`Call::ReadSignal`]
    fn read_signal(&mut self, fd: &Fd) -> Result<Signal>;

    // ---- closing --------------------------------------------------- docs/13-closing.md

    /// Ends the sending direction: the peer reads to the end of what was sent.
    ///
    /// shutdown(2), docs/13-closing.md, [`Call::Shutdown`]
    fn shutdown(&mut self, fd: &Fd) -> Result<()>;

    /// How many of the bytes that were sent the peer has not acknowledged: SIOCOUTQ. (The peer
    /// of a Unix socket: has not read.)
    ///
    /// ioctl(2), tcp(7), docs/13-closing.md, [`Call::Unacknowledged`]
    fn ioctl_outq(&mut self, fd: &Fd) -> Result<usize>;

    /// Closes the descriptor. Must never be tried again, whatever it returns.
    ///
    /// close(2), docs/13-closing.md, [`Call::Close`]
    fn close(&mut self, fd: Fd) -> Result<()>;
}

/// A descriptor that this process owns, or one of a simulated kernel.
///
/// No safe code makes an `Fd` of any number: it comes from a [`Kernel`], from an [`OwnedFd`],
/// or it is [simulated](Fd::simulated), and no system call mistakes it for one of Linux's.
/// [`Kernel::close`] closes it. Dropping it closes it too; a simulated one stays
/// open in its world, whose count of descriptors shows the leak to a test.
///
/// Stored inverted, because `!fd` is zero only for -1, the one value that is no
/// descriptor: so `Option<Fd>` is four bytes. Those of Linux are not negative. The others
/// begin at `i32::MIN`, which is none at all.
#[derive(PartialEq, Eq)]
pub struct Fd(NonZeroI32);

impl Fd {
    /// Stands for the descriptor of a socket that is still to be opened: no kernel knows it.
    pub(crate) const UNOPENED: Fd = Fd(NonZeroI32::MAX);
    /// The number that the simulated descriptor 0 has inside, which Linux never hands out.
    const SIMULATED: i32 = i32::MIN + 1;
    /// How many simulated descriptors there can be.
    const MOST_SIMULATED: i32 = 1 << 30;

    /// The descriptor `number` of a kernel that is not Linux; `None` if it is negative, or
    /// 2<sup>30</sup> or more.
    ///
    /// For implementations of [`Kernel`] that make up their descriptors. Each real call
    /// fails with EBADF on it, and dropping it closes nothing.
    pub fn simulated(number: i32) -> Option<Fd> {
        let number = (0..Fd::MOST_SIMULATED).contains(&number).then_some(number)?;
        NonZeroI32::new(!(Fd::SIMULATED + number)).map(Fd)
    }

    /// The number that [`simulated`](Fd::simulated) was given; `None` if it is one of Linux's.
    pub fn simulated_number(&self) -> Option<i32> {
        (i32::MIN + 1..0).contains(&self.raw()).then(|| self.raw() - Fd::SIMULATED)
    }

    /// Whether it is [`UNOPENED`](Fd::UNOPENED).
    pub(crate) fn is_unopened(&self) -> bool {
        self.raw() == i32::MIN
    }

    /// The number, for display.
    pub fn number(&self) -> i32 {
        if self.raw() < 0 { self.raw().wrapping_sub(Fd::SIMULATED) } else { self.raw() }
    }

    /// The number that is passed to a system call.
    #[inline]
    fn raw(&self) -> i32 {
        !self.0.get()
    }

    /// Gives up ownership without closing, and returns the number for a system call.
    fn into_raw(self) -> i32 {
        let raw = self.raw();
        std::mem::forget(self);
        raw
    }
}

/// An open descriptor from elsewhere.
impl From<OwnedFd> for Fd {
    #[inline]
    fn from(fd: OwnedFd) -> Fd {
        // It is never -1.
        NonZeroI32::new(!fd.into_raw_fd()).map_or(Fd::UNOPENED, Fd)
    }
}

impl fmt::Debug for Fd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.number())
    }
}
