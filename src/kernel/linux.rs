//! The real calls, and the only `unsafe` code of the project.
//!
//! [`Linux`] owns nothing: the kernel keeps the state, and a descriptor belongs
//! to the owner of the [`Fd`]. So every method here is a thin translation:
//!
//! - **One method, one system call**, made through the libc function that strace
//!   shows under the same name. (Three exceptions: `clock_gettime` makes none, `prlimit` makes
//!   two when it sets, and so does `fcntl_inherit`, which looks before it takes.)
//! - **The calls of a message are made directly**: `epoll_wait`, `recv`, `send`, `sendmsg`. The C
//!   library's functions for them are points where a thread can be cancelled (pthreads(7)).
//!   In a process with a second thread, as the program has for its log, each of them
//!   prepares for that, at some 40 instructions a call; and nobody cancels here.
//! - **No policy.** The errno is returned as it came; nothing is retried, logged
//!   or interpreted. That is the business of [`reaction`](crate::reaction).
//! - **Non-blocking and close-on-exec from birth**, by the flags of the call that
//!   makes the descriptor: there is no moment between the two.
//!
//! What makes the `unsafe` blocks sound is the same in all of them: each pointer
//! comes from a reference that outlives the call, each length is the length of
//! what the pointer points to, and the kernel keeps no pointer afterwards.
//! Descriptor numbers need no such argument: a wrong one is an errno (EBADF).
//! Socket addresses are put together and taken apart as plain bytes, in safe
//! code: the kernel copies them, so they need no alignment.

#![allow(unsafe_code)]

use std::ffi::{CString, OsStr};
use std::io::IoSlice;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::{mem, ptr};

use nix::sys::signal::{SigSet, SigmaskHow, Signal as NixSignal, sigprocmask};

use super::{
    Address, Clock, EpollOp, Errno, Event, Fd, FileKind, FileStatus, Kernel, OpenAs, Peer, Result,
    Signal, SocketOption, Wait,
};
use crate::fallible::with_room;

/// The kernel this process runs on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Linux;

// `Event` is handed to the kernel as a `struct epoll_event`: it must have that layout.
const _: () = assert!(size_of::<Event>() == size_of::<libc::epoll_event>());
const _: () = assert!(align_of::<Event>() == align_of::<libc::epoll_event>());
const _: () = assert!(mem::offset_of!(Event, data) == mem::offset_of!(libc::epoll_event, u64));

impl Kernel for Linux {
    // ---- before anything exists: signals and limits

    fn rt_sigaction(&mut self, signal: Signal) -> Result<bool> {
        // SAFETY: `sigaction` consists of integers and an optional pointer, so zeroes are a
        // valid value. No new action is given: the call only writes the current one to `action`.
        let action = unsafe {
            let mut action = mem::zeroed::<libc::sigaction>();
            Errno::result(libc::sigaction(signal as i32, ptr::null(), &mut action))?;
            action
        };
        Ok(action.sa_sigaction == libc::SIG_IGN)
    }

    fn rt_sigprocmask(&mut self, signals: &[Signal]) -> Result<()> {
        // Not pthread_sigmask: that one returns its errno, which nix takes for success.
        // On Linux both block for the calling thread alone.
        let blocked = sigprocmask(SigmaskHow::SIG_BLOCK, Some(&signal_set(signals)), None);
        blocked.map_err(|errno| Errno::from_raw(errno as i32))
    }

    fn prlimit(&mut self, soft: Option<u64>) -> Result<(u64, u64)> {
        let mut limits = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: `limits` is valid for writing; no new limits are given. Process 0 is this one.
        Errno::result(unsafe { libc::prlimit(0, libc::RLIMIT_NOFILE, ptr::null(), &mut limits) })?;
        // Both limits can only be set together, so the hard one had to be asked for first.
        if let Some(soft) = soft {
            limits.rlim_cur = soft;
            // SAFETY: `limits` is valid for reading; the old limits are not asked for.
            Errno::result(unsafe {
                libc::prlimit(0, libc::RLIMIT_NOFILE, &limits, ptr::null_mut())
            })?;
        }
        Ok((limits.rlim_cur, limits.rlim_max))
    }

    // ---- a listener

    fn socket(&mut self, address: &Address) -> Result<Fd> {
        let family = match address {
            Address::Tcp(SocketAddr::V4(_)) => libc::AF_INET,
            Address::Tcp(SocketAddr::V6(_)) => libc::AF_INET6,
            Address::Unix(_) => libc::AF_UNIX,
        };
        let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: the call takes no pointer.
        own(unsafe { libc::socket(family, kind, 0) })
    }

    fn fcntl_inherit(&mut self, number: i32) -> Result<Fd> {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the call takes no pointer.
        let flags = Errno::result(unsafe { libc::fcntl(number, libc::F_GETFD) })?;
        if flags & libc::FD_CLOEXEC != 0 {
            return Err(Errno::EBADF);
        }
        // SAFETY: the call takes no pointer.
        done(unsafe { libc::fcntl(number, libc::F_SETFD, flags | libc::FD_CLOEXEC) })?;
        // SAFETY: it has outlived an exec, so the process was started with it; the standard
        // library and this one open none that would. Other code that takes over what was passed
        // sees by the flag that it is taken, as was seen here.
        Ok(Fd::from(unsafe { OwnedFd::from_raw_fd(number) }))
    }

    fn fcntl_nonblock(&mut self, fd: &Fd) -> Result<()> {
        // SAFETY: the call takes no pointer.
        done(unsafe { libc::fcntl(fd.raw(), libc::F_SETFL, libc::O_RDWR | libc::O_NONBLOCK) })
    }

    fn getsockopt_listens(&mut self, fd: &Fd) -> Result<bool> {
        get(fd, libc::SO_ACCEPTCONN).map(|listens| listens != 0)
    }

    fn socket_datagram(&mut self) -> Result<Fd> {
        let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: the call takes no pointer.
        own(unsafe { libc::socket(libc::AF_UNIX, kind, 0) })
    }

    fn setsockopt(&mut self, fd: &Fd, option: SocketOption) -> Result<()> {
        use libc::{IPPROTO_IPV6, IPPROTO_TCP, SOL_SOCKET};
        match option {
            SocketOption::ReuseAddr => set(fd, SOL_SOCKET, libc::SO_REUSEADDR, &ON),
            SocketOption::ReusePort => set(fd, SOL_SOCKET, libc::SO_REUSEPORT, &ON),
            SocketOption::SteerTo(number) => {
                let program = [bpf(libc::BPF_RET | libc::BPF_K, 0, 0, number)];
                attach(fd, libc::SO_ATTACH_REUSEPORT_CBPF, program)
            }
            SocketOption::StopSteering => set(fd, SOL_SOCKET, libc::SO_DETACH_REUSEPORT_BPF, &ON),
            SocketOption::DetachFilter => set(fd, SOL_SOCKET, libc::SO_DETACH_FILTER, &ON),
            SocketOption::V6Only => set(fd, IPPROTO_IPV6, libc::IPV6_V6ONLY, &ON),
            SocketOption::NoDelay => set(fd, IPPROTO_TCP, libc::TCP_NODELAY, &ON),
            SocketOption::KeepAlive => set(fd, SOL_SOCKET, libc::SO_KEEPALIVE, &ON),
            SocketOption::KeepIdle(seconds) => set(fd, IPPROTO_TCP, libc::TCP_KEEPIDLE, &seconds),
            SocketOption::UserTimeout(ms) => set(fd, IPPROTO_TCP, libc::TCP_USER_TIMEOUT, &ms),
            SocketOption::NotSentLowat(bytes) => {
                set(fd, IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, &bytes)
            }
            SocketOption::Cork(on) => set(fd, IPPROTO_TCP, libc::TCP_CORK, &i32::from(on)),
            SocketOption::UrgentInline => set(fd, SOL_SOCKET, libc::SO_OOBINLINE, &ON),
            SocketOption::NoDevice => set(fd, SOL_SOCKET, libc::SO_BINDTOIFINDEX, &i32::MAX),
            SocketOption::RefuseDescriptors => set(fd, SOL_SOCKET, SO_PASSRIGHTS, &OFF),
            SocketOption::ResetOnClose => {
                let linger = libc::linger { l_onoff: 1, l_linger: 0 };
                set(fd, SOL_SOCKET, libc::SO_LINGER, &linger)
            }
        }
    }

    fn openat2_as(&mut self, path: &Path, what: OpenAs) -> Result<Fd> {
        let flags = match what {
            OpenAs::Lock => libc::O_RDONLY | libc::O_DIRECTORY,
            OpenAs::Itself => libc::O_PATH | libc::O_NOFOLLOW,
        };
        open(libc::AT_FDCWD, path, flags, 0)
    }

    fn flock(&mut self, fd: &Fd) -> Result<()> {
        // SAFETY: the call takes no pointer.
        done(unsafe { libc::flock(fd.raw(), libc::LOCK_EX | libc::LOCK_NB) })
    }

    fn clock_nanosleep(&mut self, nanoseconds: u64) -> Result<()> {
        let time = timespec(nanoseconds);
        let clock = libc::CLOCK_MONOTONIC;
        // SAFETY: `time` is valid for reading; what is left is not asked for.
        match unsafe { libc::clock_nanosleep(clock, 0, &time, ptr::null_mut()) } {
            0 => Ok(()),
            error => Err(Errno::from_raw(error)), // which it returns
        }
    }

    fn fchmod(&mut self, fd: &Fd, mode: u32) -> Result<()> {
        // SAFETY: the call takes no pointer.
        done(unsafe { libc::fchmod(fd.raw(), mode) })
    }

    fn bind(&mut self, fd: &Fd, address: &Address) -> Result<()> {
        let bytes = encode(address)?;
        // SAFETY: the pointer and the length are those of `bytes`.
        done(unsafe { libc::bind(fd.raw(), bytes.as_ptr().cast(), bytes.len() as u32) })
    }

    fn lstat(&mut self, path: &Path) -> Result<FileStatus> {
        let path = c_string(path)?;
        // SAFETY: `stat` consists of integers, so zeroes are a valid value; `path` ends in NUL.
        let status = unsafe {
            let mut status = mem::zeroed::<libc::stat>();
            Errno::result(libc::lstat(path.as_ptr(), &mut status))?;
            status
        };
        Ok(file_status(&status))
    }

    fn chmod(&mut self, path: &Path, mode: u32) -> Result<()> {
        let path = c_string(path)?;
        // SAFETY: `path` ends in NUL.
        done(unsafe { libc::chmod(path.as_ptr(), mode) })
    }

    fn connect(&mut self, fd: &Fd, address: &Address) -> Result<()> {
        let bytes = encode(address)?;
        // SAFETY: the pointer and the length are those of `bytes`.
        done(unsafe { libc::connect(fd.raw(), bytes.as_ptr().cast(), bytes.len() as u32) })
    }

    fn unlink(&mut self, path: &Path) -> Result<()> {
        let path = c_string(path)?;
        // SAFETY: `path` ends in NUL.
        done(unsafe { libc::unlink(path.as_ptr()) })
    }

    fn listen(&mut self, fd: &Fd, backlog: u32) -> Result<()> {
        let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
        // SAFETY: the call takes no pointer.
        done(unsafe { libc::listen(fd.raw(), backlog) })
    }

    fn getsockname(&mut self, fd: &Fd) -> Result<Address> {
        let mut bytes = [0; ADDRESS_SIZE];
        let mut length = ADDRESS_SIZE as u32;
        // SAFETY: `bytes` is valid for writing the `length` bytes that it has.
        done(unsafe { libc::getsockname(fd.raw(), bytes.as_mut_ptr().cast(), &mut length) })?;
        decode(bytes.get(..length as usize).unwrap_or(&bytes)).ok_or(Errno::EAFNOSUPPORT)
    }

    // ---- the loop

    fn epoll_create1(&mut self) -> Result<Fd> {
        // SAFETY: the call takes no pointer.
        own(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })
    }

    fn eventfd2(&mut self) -> Result<Fd> {
        // SAFETY: the call takes no pointer.
        own(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })
    }

    fn signalfd4(&mut self, signals: &[Signal]) -> Result<Fd> {
        let set = signal_set(signals);
        let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
        // SAFETY: `set` is an initialised signal set. -1 asks for a new descriptor.
        own(unsafe { libc::signalfd(-1, set.as_ref(), flags) })
    }

    fn timerfd_create(&mut self) -> Result<Fd> {
        let flags = libc::TFD_CLOEXEC | libc::TFD_NONBLOCK;
        // SAFETY: the call takes no pointer.
        own(unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, flags) })
    }

    fn epoll_ctl(&mut self, epoll: &Fd, op: EpollOp, fd: &Fd, mut event: Event) -> Result<()> {
        let op = match op {
            EpollOp::Add => libc::EPOLL_CTL_ADD,
            EpollOp::Modify => libc::EPOLL_CTL_MOD,
            EpollOp::Remove => libc::EPOLL_CTL_DEL,
        };
        let event = (&raw mut event).cast();
        // SAFETY: `event` points to an `Event`, which has the layout of `epoll_event`.
        done(unsafe { libc::epoll_ctl(epoll.raw(), op, fd.raw(), event) })
    }

    #[inline]
    fn epoll_wait(&mut self, epoll: &Fd, events: &mut [Event], wait: Wait) -> Result<usize> {
        let capacity = i32::try_from(events.len()).unwrap_or(i32::MAX);
        let timeout: i32 = match wait {
            Wait::No => 0,
            Wait::Forever => -1,
        };
        let (fd, events) = (epoll.raw() as usize, events.as_mut_ptr() as usize);
        // SAFETY: `events` is valid for writing `capacity` events, and an `Event` has the
        // layout of `epoll_event`. No signal mask is given.
        unsafe { call(EPOLL_WAIT, [fd, events, capacity as usize, timeout as usize, 0, 8]) }
    }

    #[inline]
    fn clock_gettime(&mut self, clock: Clock) -> u64 {
        let clock = match clock {
            Clock::Monotonic => libc::CLOCK_MONOTONIC,
            Clock::Realtime => libc::CLOCK_REALTIME,
        };
        let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // It cannot fail: the clock exists and the pointer is valid.
        // SAFETY: `now` is valid for writing.
        unsafe { libc::clock_gettime(clock, &mut now) };
        now.tv_sec as u64 * SECOND + now.tv_nsec as u64
    }

    // ---- one connection

    #[inline]
    fn accept4(&mut self, fd: &Fd) -> Result<(Fd, Peer)> {
        let mut bytes = [0; TCP_ADDRESS_SIZE];
        let mut length = TCP_ADDRESS_SIZE as u32;
        let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        let (address, size) = (bytes.as_mut_ptr() as usize, &raw mut length as usize);
        let words = [fd.raw() as usize, address, size, flags as usize, 0, 0];
        // SAFETY: `address` is valid for writing the `length` bytes that `bytes` has.
        let number = unsafe { call(libc::SYS_accept4, words) }?;
        let fd = own(number as i32)?;
        // The address of a Unix client, which may be longer, is not looked at.
        Ok((fd, decode_tcp(&bytes).map_or(Peer::Unix, Peer::Tcp)))
    }

    #[inline]
    fn recv(&mut self, fd: &Fd, buffer: &mut [u8]) -> Result<usize> {
        let (pointer, length) = (buffer.as_mut_ptr() as usize, buffer.len());
        // SAFETY: the pointer and the length are those of `buffer`; no address is asked for.
        unsafe { call(libc::SYS_recvfrom, [fd.raw() as usize, pointer, length, 0, 0, 0]) }
    }

    #[inline]
    fn send(&mut self, fd: &Fd, bytes: &[u8]) -> Result<usize> {
        send_with(fd, bytes, libc::MSG_NOSIGNAL)
    }

    fn send_more(&mut self, fd: &Fd, bytes: &[u8]) -> Result<usize> {
        send_with(fd, bytes, libc::MSG_NOSIGNAL | libc::MSG_MORE)
    }

    #[inline]
    fn sendmsg(&mut self, fd: &Fd, pieces: &[IoSlice<'_>]) -> Result<usize> {
        // SAFETY: `msghdr` consists of integers and pointers that may be null, so zeroes are a
        // valid value: no address, no control data.
        let mut message = unsafe { mem::zeroed::<libc::msghdr>() };
        message.msg_iov = pieces.as_ptr().cast_mut().cast();
        message.msg_iovlen = pieces.len() as _;
        let (message, flags) = (&raw const message as usize, libc::MSG_NOSIGNAL as usize);
        // SAFETY: an `IoSlice` has the layout of `iovec`, as the standard library promises; the
        // kernel reads as many of them as `pieces` has, and the bytes that they name.
        unsafe { call(libc::SYS_sendmsg, [fd.raw() as usize, message, flags, 0, 0, 0]) }
    }

    // ---- a connection outwards

    fn getsockopt_error(&mut self, fd: &Fd) -> Result<Option<Errno>> {
        let error = get(fd, libc::SO_ERROR)?;
        Ok(if error == 0 { None } else { Some(Errno::from_raw(error)) })
    }

    // ---- files

    fn openat2(&mut self, dir: Option<&Fd>, path: &Path) -> Result<Fd> {
        let Some(dir) = dir else {
            return open(libc::AT_FDCWD, path, libc::O_PATH | libc::O_DIRECTORY, 0);
        };
        // Opening a pipe for reading blocks until a writer appears, unless O_NONBLOCK is set.
        let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY;
        let resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_MAGICLINKS;
        open(dir.raw(), path, flags, resolve)
    }

    fn fstat(&mut self, fd: &Fd) -> Result<FileStatus> {
        // Not the libc function: that one makes a newfstatat of it, here and there.
        // SAFETY: `stat` consists of integers, so zeroes are a valid value; it is the
        // kernel's own `struct stat` on 64-bit machines.
        let status = unsafe {
            let mut status = mem::zeroed::<libc::stat>();
            Errno::result(libc::syscall(libc::SYS_fstat, fd.raw(), &raw mut status))?;
            status
        };
        Ok(file_status(&status))
    }

    fn pread64(&mut self, fd: &Fd, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let offset = i64::try_from(offset).map_err(|_| Errno::EINVAL)?;
        let (pointer, length) = (buffer.as_mut_ptr().cast(), buffer.len());
        // SAFETY: the pointer and the length are those of `buffer`.
        let read = unsafe { libc::pread64(fd.raw(), pointer, length, offset) };
        Ok(Errno::result(read)? as usize)
    }

    fn sendfile(&mut self, fd: &Fd, file: &Fd, offset: u64, count: usize) -> Result<usize> {
        let mut offset = i64::try_from(offset).map_err(|_| Errno::EINVAL)?;
        // SAFETY: `offset` is valid for reading and writing.
        let sent = unsafe { libc::sendfile64(fd.raw(), file.raw(), &mut offset, count) };
        Ok(Errno::result(sent)? as usize)
    }

    fn stat(&mut self, path: &Path) -> Result<FileStatus> {
        let path = c_string(path)?;
        // SAFETY: `stat` consists of integers, so zeroes are a valid value; `path` ends in NUL.
        let status = unsafe {
            let mut status = mem::zeroed::<libc::stat>();
            Errno::result(libc::stat(path.as_ptr(), &mut status))?;
            status
        };
        Ok(file_status(&status))
    }

    // ---- the stop

    fn socket_diag(&mut self) -> Result<Fd> {
        let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: the call takes no pointer.
        own(unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_SOCK_DIAG) })
    }

    fn write_diag(&mut self, fd: &Fd, local: SocketAddr) -> Result<()> {
        write(fd, &question(local))
    }

    fn read_diag(&mut self, fd: &Fd) -> Result<bool> {
        // A header, and an errno if that is the answer. What follows goes with the socket.
        let mut message = [0; HEADER + 4];
        read(fd, &mut message)?;
        answer(&message)
    }

    // ---- counters, signals, time

    fn timerfd_settime(&mut self, fd: &Fd, deadline: Option<u64>) -> Result<()> {
        // A time of zero disarms. A deadline of zero has passed, and must fire: so 1 ns.
        let nanoseconds = deadline.map_or(0, |deadline| deadline.max(1));
        let timer = libc::itimerspec {
            it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: timespec(nanoseconds),
        };
        let flags = libc::TFD_TIMER_ABSTIME;
        // SAFETY: `timer` is valid for reading; the old value is not asked for.
        done(unsafe { libc::timerfd_settime(fd.raw(), flags, &timer, ptr::null_mut()) })
    }

    fn read_counter(&mut self, fd: &Fd) -> Result<u64> {
        let mut counter = [0; 8];
        read(fd, &mut counter)?;
        Ok(u64::from_ne_bytes(counter))
    }

    fn write_counter(&mut self, fd: &Fd) -> Result<()> {
        write(fd, &1_u64.to_ne_bytes())
    }

    fn read_signal(&mut self, fd: &Fd) -> Result<Signal> {
        let mut info = [0; size_of::<libc::signalfd_siginfo>()];
        read(fd, &mut info)?;
        // Its first field is the number of the signal, `ssi_signo`.
        let number = info.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
        match Signal::from_raw(number) {
            Signal::UnknownSignal => Err(Errno::EINVAL),
            signal => Ok(signal),
        }
    }

    // ---- closing

    fn shutdown(&mut self, fd: &Fd) -> Result<()> {
        // SAFETY: the call takes no pointer.
        done(unsafe { libc::shutdown(fd.raw(), libc::SHUT_WR) })
    }

    fn ioctl_outq(&mut self, fd: &Fd) -> Result<usize> {
        let mut waiting: libc::c_int = 0;
        // SAFETY: `waiting` is valid for writing the number. (SIOCOUTQ has this other name, too.)
        done(unsafe { libc::ioctl(fd.raw(), libc::TIOCOUTQ, &raw mut waiting) })?;
        Ok(usize::try_from(waiting).unwrap_or(0))
    }

    fn close(&mut self, fd: Fd) -> Result<()> {
        // SAFETY: the number comes from the one `Fd` that owned it, and that is gone now:
        // nobody else can be using this descriptor.
        unsafe { call(libc::SYS_close, [fd.into_raw() as usize, 0, 0, 0, 0, 0]) }.map(drop)
    }
}

// ---- results

/// Nanoseconds in a second.
const SECOND: u64 = 1_000_000_000;

/// The set of some signals, as the calls take it.
fn signal_set(signals: &[Signal]) -> SigSet {
    signals.iter().filter_map(|&signal| NixSignal::try_from(signal as i32).ok()).collect()
}

/// The result of a call that makes a descriptor: it failed, or the descriptor is ours.
#[inline]
fn own(number: i32) -> Result<Fd> {
    Errno::result(number)?;
    // SAFETY: the kernel has just made it, and nobody else knows of it.
    Ok(Fd::from(unsafe { OwnedFd::from_raw_fd(number) }))
}

/// A descriptor of Linux, lent; that of stderr where there is none.
pub(crate) fn borrowed(fd: Option<&Fd>) -> BorrowedFd<'_> {
    // SAFETY: an `Fd` is open as long as it is borrowed, and to Rust 2 is open at any time.
    unsafe { BorrowedFd::borrow_raw(fd.map_or(2, Fd::raw)) }
}

/// What is dropped is closed, unless Linux does not know it.
impl Drop for Fd {
    #[inline]
    fn drop(&mut self) {
        if self.raw() >= 0 {
            // SAFETY: it was an `OwnedFd`, and this is the one `Fd` that owns it now.
            unsafe { libc::close(self.raw()) };
        }
    }
}

/// Younger architectures have it only with a mask of signals and the mask's size.
#[cfg(target_arch = "x86_64")]
const EPOLL_WAIT: libc::c_long = libc::SYS_epoll_wait;
#[cfg(not(target_arch = "x86_64"))]
const EPOLL_WAIT: libc::c_long = libc::SYS_epoll_pwait;

/// Sends bytes to a connected peer. send(2)
#[inline]
fn send_with(fd: &Fd, bytes: &[u8], flags: libc::c_int) -> Result<usize> {
    let (pointer, length) = (bytes.as_ptr() as usize, bytes.len());
    // SAFETY: the pointer and the length are those of `bytes`; no address is given.
    unsafe { call(libc::SYS_sendto, [fd.raw() as usize, pointer, length, flags as usize, 0, 0]) }
}

/// Makes a system call. syscall(2)
///
/// # Safety
///
/// As for the call: what it is given as pointers must be valid for what it does with them.
#[cfg(target_arch = "x86_64")]
#[inline]
unsafe fn call(number: libc::c_long, [a, b, c, d, e, f]: [usize; 6]) -> Result<usize> {
    let result: isize;
    // SAFETY: the caller's; and these are the registers of the call, and those it changes.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    if result < 0 { Err(errno(result)) } else { Ok(result as usize) }
}

/// What the kernel itself returns of a call that failed: the errno, negative. Out of line,
/// because all calls but one in a thousand are made without it.
#[cfg(target_arch = "x86_64")]
#[cold]
#[inline(never)]
fn errno(result: isize) -> Errno {
    Errno::from_raw(-result as i32)
}

/// The same where the C library has to know how.
#[cfg(not(target_arch = "x86_64"))]
#[inline]
unsafe fn call(number: libc::c_long, [a, b, c, d, e, f]: [usize; 6]) -> Result<usize> {
    // SAFETY: the caller's.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    Ok(Errno::result(result)? as usize)
}

/// The result of a call that only succeeds or fails.
fn done(result: i32) -> Result<()> {
    Errno::result(result).map(drop)
}

/// What we want to know of a `struct stat`.
fn file_status(status: &libc::stat) -> FileStatus {
    FileStatus {
        kind: match status.st_mode & libc::S_IFMT {
            libc::S_IFREG => FileKind::Regular,
            libc::S_IFDIR => FileKind::Directory,
            libc::S_IFSOCK => FileKind::Socket,
            _ => FileKind::Other,
        },
        size: status.st_size as u64,
        modified: nanoseconds(status.st_mtime, status.st_mtime_nsec),
        changed: nanoseconds(status.st_ctime, status.st_ctime_nsec),
        mode: status.st_mode & 0o7777,
        identity: (status.st_dev, status.st_ino),
    }
}

/// A time of a file, which anybody may set: beyond the year 2262 it is the last that fits.
fn nanoseconds(seconds: i64, nanoseconds: i64) -> i64 {
    seconds.saturating_mul(SECOND as i64).saturating_add(nanoseconds)
}

// ---- calls made from more than one place

/// The values that turn an option on, and off.
const ON: i32 = 1;
const OFF: i32 = 0;

/// Since Linux 6.16; the C library does not know it yet.
const SO_PASSRIGHTS: i32 = 83;

/// openat2(2), close-on-exec.
fn open(dir: i32, path: &Path, flags: i32, resolve: u64) -> Result<Fd> {
    let path = c_string(path)?;
    // SAFETY: `open_how` consists of integers, so zeroes are a valid value.
    let mut how = unsafe { mem::zeroed::<libc::open_how>() };
    how.flags = (flags | libc::O_CLOEXEC) as u64;
    how.resolve = resolve;
    // SAFETY: `path` ends in NUL; `how` is valid for reading the bytes that it has.
    let opened = unsafe {
        libc::syscall(libc::SYS_openat2, dir, path.as_ptr(), &raw const how, size_of_val(&how))
    };
    own(opened as i32)
}

/// Nanoseconds as the kernel takes them.
fn timespec(nanoseconds: u64) -> libc::timespec {
    libc::timespec {
        tv_sec: (nanoseconds / SECOND) as i64,
        tv_nsec: (nanoseconds % SECOND) as libc::c_long,
    }
}

/// setsockopt(2), with the kernel's own type for the option as `T`.
fn set<T>(fd: &Fd, level: i32, name: i32, value: &T) -> Result<()> {
    let (pointer, length) = (ptr::from_ref(value).cast(), size_of::<T>() as u32);
    // SAFETY: the pointer and the length are those of `value`. Where that holds a pointer of
    // its own (a program of BPF), what it points to outlives the call too.
    done(unsafe { libc::setsockopt(fd.raw(), level, name, pointer, length) })
}

/// setsockopt(2), with a program in classic BPF.
fn attach<const N: usize>(
    fd: &Fd,
    name: i32,
    mut instructions: [libc::sock_filter; N],
) -> Result<()> {
    let program = libc::sock_fprog { len: N as u16, filter: instructions.as_mut_ptr() };
    set(fd, libc::SOL_SOCKET, name, &program)
}

/// getsockopt(2), of a number.
fn get(fd: &Fd, name: i32) -> Result<i32> {
    let (mut number, mut length) = (0, size_of::<i32>() as u32);
    let value = (&raw mut number).cast();
    // SAFETY: `value` is valid for writing the `length` bytes that `number` has.
    done(unsafe { libc::getsockopt(fd.raw(), libc::SOL_SOCKET, name, value, &mut length) })?;
    Ok(number)
}

/// read(2), for descriptors that are no sockets.
fn read(fd: &Fd, buffer: &mut [u8]) -> Result<()> {
    let (pointer, length) = (buffer.as_mut_ptr().cast(), buffer.len());
    // SAFETY: the pointer and the length are those of `buffer`.
    Errno::result(unsafe { libc::read(fd.raw(), pointer, length) }).map(drop)
}

/// write(2), for descriptors that are no sockets to peers.
fn write(fd: &Fd, bytes: &[u8]) -> Result<()> {
    // SAFETY: the pointer and the length are those of `bytes`.
    Errno::result(unsafe { libc::write(fd.raw(), bytes.as_ptr().cast(), bytes.len()) }).map(drop)
}

/// The path as the kernel takes it, ended by a NUL; so none may be inside.
fn c_string(path: &Path) -> Result<CString> {
    let bytes = path.as_os_str().as_bytes();
    let mut string = with_room(bytes.len() + 1).ok_or(Errno::ENOMEM)?;
    string.extend_from_slice(bytes);
    CString::new(string).map_err(|_| Errno::EINVAL) // which finds room for the NUL
}

// ---- programs of classic BPF

/// One instruction: its code, how many to skip if true and if false, its operand.
const fn bpf(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt, jf, k }
}

// ---- questions about sockets: netlink(7), sock_diag(7)

/// The size of `struct nlmsghdr`, and of what follows it in a question:
/// `struct inet_diag_req_v2`.
const HEADER: usize = 16;
const QUESTION: usize = 56;
/// SOCK_DIAG_BY_FAMILY
const BY_FAMILY: u16 = 20;
/// A socket for which a SYN has come and was answered: TCP_SYN_RECV.
const SYN_RECEIVED: u32 = 1 << 3;

/// Which handshakes with the port of `local` are under way?
fn question(local: SocketAddr) -> [u8; HEADER + QUESTION] {
    let family = if local.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    let length = (HEADER + QUESTION) as u32;
    let fields: [&[u8]; 7] = [
        &length.to_ne_bytes(),
        &BY_FAMILY.to_ne_bytes(),
        &flags.to_ne_bytes(),
        &[0; 8], // a number and a sender, which the answer repeats
        &[family as u8, libc::IPPROTO_TCP as u8, 0, 0],
        &SYN_RECEIVED.to_ne_bytes(),
        &local.port().to_be_bytes(), // the rest is 0: whatever it be
    ];
    let mut question = [0; HEADER + QUESTION];
    for (place, byte) in question.iter_mut().zip(fields.into_iter().flatten()) {
        *place = *byte;
    }
    question
}

/// What the first message of an answer says: there is one, there is none, or an errno.
fn answer(message: &[u8]) -> Result<bool> {
    let number = |at: usize| message.get(at..)?.first_chunk().map(|it| i32::from_ne_bytes(*it));
    match number(4).map(|kind| kind & 0xffff) {
        Some(kind) if kind == i32::from(BY_FAMILY) => Ok(true),
        Some(libc::NLMSG_DONE) => Ok(false),
        Some(libc::NLMSG_ERROR) => Err(Errno::from_raw(-number(HEADER).unwrap_or(-libc::EPROTO))),
        _ => Err(Errno::EPROTO),
    }
}

// ---- addresses as bytes: ip(7), ipv6(7), unix(7)

/// The size of `struct sockaddr_storage`, which holds any address.
pub(super) const ADDRESS_SIZE: usize = size_of::<libc::sockaddr_storage>();

/// The size of a `struct sockaddr_in6`, the larger one of TCP's two.
pub(super) const TCP_ADDRESS_SIZE: usize = size_of::<libc::sockaddr_in6>();

/// The longest path of a Unix socket, without the NUL behind it. unix(7)
const PATH_MAX: usize = 107;

/// The bytes of a `sockaddr_in`, `sockaddr_in6` or `sockaddr_un`.
fn encode(address: &Address) -> Result<Vec<u8>> {
    let mut bytes = with_room(ADDRESS_SIZE).ok_or(Errno::ENOMEM)?;
    let family = match address {
        Address::Tcp(SocketAddr::V4(_)) => libc::AF_INET,
        Address::Tcp(SocketAddr::V6(_)) => libc::AF_INET6,
        Address::Unix(_) => libc::AF_UNIX,
    };
    bytes.extend((family as u16).to_ne_bytes());
    match address {
        Address::Tcp(SocketAddr::V4(v4)) => {
            bytes.extend(v4.port().to_be_bytes());
            bytes.extend(v4.ip().octets());
            bytes.extend([0; 8]); // sin_zero: only padding
        }
        Address::Tcp(SocketAddr::V6(v6)) => {
            bytes.extend(v6.port().to_be_bytes());
            bytes.extend([0; 4]); // sin6_flowinfo: not used
            bytes.extend(v6.ip().octets());
            bytes.extend(v6.scope_id().to_ne_bytes());
        }
        Address::Unix(path) => match path.as_os_str().as_bytes() {
            // The kernel would take it as a wish for an address without a file.
            [] => return Err(Errno::ENOENT),
            [0, name @ ..] if name.len() > PATH_MAX => return Err(Errno::ENAMETOOLONG),
            name @ [0, ..] => bytes.extend(name), // no NUL ends it
            path if path.contains(&0) => return Err(Errno::EINVAL),
            path if path.len() > PATH_MAX => return Err(Errno::ENAMETOOLONG),
            path => bytes.extend([path, b"\0"].into_iter().flatten()),
        },
    }
    Ok(bytes)
}

/// The address in these bytes, or `None` if they are of another family or too few.
fn decode(bytes: &[u8]) -> Option<Address> {
    let (family, path) = bytes.split_first_chunk()?;
    if i32::from(u16::from_ne_bytes(*family)) != libc::AF_UNIX {
        return decode_tcp(bytes).map(Address::Tcp);
    }
    // A socket that was never bound, as most clients are, has no path at all. An abstract one
    // has a NUL in front, and none behind.
    let path = match path {
        [0, _, ..] => path,
        path => path.split(|&byte| byte == 0).next()?,
    };
    Some(Address::Unix(PathBuf::from(OsStr::from_bytes(path))))
}

/// The address of TCP in these bytes, or `None` if there is another, or there are too few.
fn decode_tcp(bytes: &[u8]) -> Option<SocketAddr> {
    let (family, bytes) = bytes.split_first_chunk()?;
    match i32::from(u16::from_ne_bytes(*family)) {
        libc::AF_INET => {
            let (port, bytes) = bytes.split_first_chunk()?;
            let (ip, _) = bytes.split_first_chunk::<4>()?;
            Some(SocketAddrV4::new(Ipv4Addr::from(*ip), u16::from_be_bytes(*port)).into())
        }
        libc::AF_INET6 => {
            let (port, bytes) = bytes.split_first_chunk()?;
            let (_flowinfo, bytes) = bytes.split_first_chunk::<4>()?;
            let (ip, bytes) = bytes.split_first_chunk::<16>()?;
            let (scope, _) = bytes.split_first_chunk()?;
            let port = u16::from_be_bytes(*port);
            let scope = u32::from_ne_bytes(*scope);
            Some(SocketAddrV6::new(Ipv6Addr::from(*ip), port, 0, scope).into())
        }
        _ => None,
    }
}

/// Lets every large buffer be a mapping of its own, which grows without being copied.
/// Left to itself the C library stops doing so after the first one is freed, and a
/// flood of slow readers leaves holes that nothing fits. mallopt(3)
pub(crate) fn map_large_buffers() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer; at worst it refuses.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 64 << 10);
    }
}

/// Ignores two signals. SIGXFSZ: a write beyond the file size limit, perhaps of the log, fails
/// (EFBIG) instead of ending the process. setrlimit(2), RLIMIT_FSIZE. And as process 1, SIGCHLD:
/// what has lost its parent becomes our child, and would stay a zombie. wait(2)
pub(crate) fn ignore_signals() {
    // SAFETY: no handler is installed, so nothing runs when the signals come.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        if libc::getpid() == 1 {
            libc::signal(libc::SIGCHLD, libc::SIG_IGN);
        }
    }
}

/// How many columns the window of a terminal has; `None` if it is no terminal. For programs
/// that show what the server does. ioctl_tty(2), TIOCGWINSZ
pub fn window_columns(terminal: impl AsFd) -> Option<usize> {
    let mut window = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: `terminal` is open while it is borrowed, and `window` is what TIOCGWINSZ fills in.
    let status =
        unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCGWINSZ, &raw mut window) };
    (status == 0 && window.ws_col > 0).then_some(window.ws_col.into())
}

/// Gives memory that was freed back to the kernel: the C library keeps it between
/// blocks still in use. malloc_trim(3)
pub(crate) fn return_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer, and is safe from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_survives_its_bytes() {
        let v6 = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 443, 0, 7);
        for address in [
            Address::Tcp(([192, 168, 0, 1], 1234).into()),
            Address::Tcp(v6.into()),
            Address::Unix("/run/a socket".into()),
            Address::Unix("x".repeat(PATH_MAX).into()),
            Address::Unix("\0org/a socket".into()),
            Address::Unix(format!("\0{}", "x".repeat(PATH_MAX)).into()),
        ] {
            let decoded = encode(&address).map(|bytes| decode(&bytes));
            assert_eq!(decoded, Ok(Some(address)));
        }
    }

    #[test]
    fn a_path_that_is_no_address_is_refused() {
        let refused = |path: &str| encode(&Address::Unix(path.into()));
        assert_eq!(refused(&"x".repeat(PATH_MAX + 1)), Err(Errno::ENAMETOOLONG));
        assert_eq!(refused(&format!("\0{}", "x".repeat(PATH_MAX + 1))), Err(Errno::ENAMETOOLONG));
        assert_eq!(refused("a\0b"), Err(Errno::EINVAL));
        assert_eq!(refused(""), Err(Errno::ENOENT));
    }

    #[test]
    fn bytes_that_are_no_address_are_none() {
        let v4 = (libc::AF_INET as u16).to_ne_bytes();
        let netlink = (libc::AF_NETLINK as u16).to_ne_bytes();
        assert_eq!(decode(&[]), None);
        assert_eq!(decode(&[&v4[..], &[0; 5]].concat()), None);
        assert_eq!(decode(&[&netlink[..], &[0; 14]].concat()), None);
        let unbound = (libc::AF_UNIX as u16).to_ne_bytes();
        assert_eq!(decode(&unbound), Some(Address::Unix(PathBuf::new())));
    }
}
