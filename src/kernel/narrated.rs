//! The narrator: every system call as one line, in the format of strace.
//!
//! [`Narrated`] wraps another kernel, passes each call on, and hands a line to a
//! sink when the call has returned:
//!
//! ```text
//! accept4(3, {sa_family=AF_INET, sin_port=htons(50844), sin_addr=inet_addr("127.0.0.1")}, [28 => 16], SOCK_CLOEXEC|SOCK_NONBLOCK) = 8  # docs/08-accepting.md
//! recvfrom(8, "hello\n", 65536, 0, NULL, NULL) = 6  # docs/09-receiving.md
//! close(8)                                = 0  # docs/13-closing.md
//! ```
//!
//! It differs from strace only where [`Kernel`] does not tell what strace can see:
//!
//! - memory inside the wrapped kernel is shown as [`POINTER`], always the same;
//! - a descriptor that is inherited, and that is not to be had because this process opened it
//!   itself, is told as one that is not open;
//! - of what is read from a signalfd, only the signal's number is shown;
//! - of a file that is no socket, no regular file and no directory, only the permissions
//!   are shown;
//! - the interface of a link-local address is shown as its number;
//! - a path that fits into no system call (too long, with a NUL in it) fails before
//!   the call is made, and is told all the same;
//! - the clock is not narrated: the vDSO answers, so strace does not see it either.
//!
//! The methods stand in the order of the trait, and each takes the same steps: pass
//! the call on, put its line together, tell it.

use std::fmt::{self, Display};
use std::io::IoSlice;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::linux::{ADDRESS_SIZE, TCP_ADDRESS_SIZE};
use super::{
    Address, Clock, EpollOp, Errno, Event, Fd, FileStatus, Kernel, OpenAs, Peer, Result, Signal,
    SocketOption, Wait,
};
use arguments::{
    POINTER, epoll_event, epoll_events, file_status, filled_sockaddr, iovecs, limits, octal,
    payload, quoted, quoted_path, signal_set, sockaddr, socket_option, timespec, words,
};

mod arguments;

type Sink = Arc<dyn Fn(&str) + Send + Sync>;

/// A kernel that prints each call, one line a call, as strace would.
#[derive(Clone)]
pub struct Narrated<K> {
    kernel: K,
    sink: Sink,
    /// Given the beginning of a wait, before it is made.
    on_wait: Option<Sink>,
    /// The number of the timerfd: its counter is read for another reason than the eventfd's.
    timer: Option<i32>,
    /// The number of the socket to the service manager, at which no client is.
    manager: Option<i32>,
    /// The limits that prlimit reported last.
    limits: Option<(u64, u64)>,
}

impl<K> Narrated<K> {
    /// Wraps `kernel`; `sink` is given each line, without a newline.
    pub fn new(kernel: K, sink: impl Fn(&str) + Send + Sync + 'static) -> Narrated<K> {
        let sink = Arc::new(sink);
        Narrated { kernel, sink, on_wait: None, timer: None, manager: None, limits: None }
    }

    /// Hands the beginning of each wait that may sleep, `epoll_wait(4, `, to `sink` before
    /// the call is made. Its whole line follows when it has returned.
    pub fn on_wait(mut self, sink: impl Fn(&str) + Send + Sync + 'static) -> Narrated<K> {
        self.on_wait = Some(Arc::new(sink));
        self
    }

    fn is_manager(&self, fd: &Fd) -> bool {
        self.manager == Some(fd.number())
    }

    /// Hands one line to the sink. `number` is what the system call returned, taken from
    /// what the method returned; the result itself is passed on untouched.
    fn tell<T, N: Display>(
        &self,
        chapter: &str,
        call: &str,
        result: Result<T>,
        number: impl FnOnce(&T) -> N,
    ) -> Result<T> {
        let outcome = match &result {
            Ok(value) => number(value).to_string(),
            Err(errno) => format!("-1 {errno:?} ({})", words(*errno)),
        };
        // strace, too, puts the results at column 40.
        (self.sink)(&format!("{call:<39} = {outcome}  # docs/{chapter}.md"));
        result
    }
}

impl<K: fmt::Debug> fmt::Debug for Narrated<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Narrated({:?})", self.kernel)
    }
}

impl<K: Kernel> Kernel for Narrated<K> {
    const IS_REAL: bool = K::IS_REAL;

    // ---- before anything exists: signals and limits

    fn rt_sigaction(&mut self, signal: Signal) -> Result<bool> {
        let result = self.kernel.rt_sigaction(signal);
        let action = match result {
            Ok(true) => "{sa_handler=SIG_IGN, sa_mask=[], sa_flags=0}",
            Ok(false) => "{sa_handler=SIG_DFL, sa_mask=[], sa_flags=0}",
            Err(_) => POINTER,
        };
        let call = format!("rt_sigaction({signal}, NULL, {action}, 8)");
        self.tell("03-signals", &call, result, |_| 0)
    }

    fn rt_sigprocmask(&mut self, signals: &[Signal]) -> Result<()> {
        let result = self.kernel.rt_sigprocmask(signals);
        let signals = signal_set(signals);
        let call = format!("rt_sigprocmask(SIG_BLOCK, {signals}, NULL, 8)");
        self.tell("03-signals", &call, result, |_| 0)
    }

    fn prlimit(&mut self, soft: Option<u64>) -> Result<(u64, u64)> {
        let result = self.kernel.prlimit(soft);
        // Both limits can only be set together, so `Linux` asks before it sets: two lines.
        let asked = match self.limits {
            Some(limits) if soft.is_some() => Ok(limits),
            _ => result,
        };
        self.limits = result.ok().or(self.limits);
        let found = asked.map_or(POINTER.to_string(), limits);
        let call = format!("prlimit64(0, RLIMIT_NOFILE, NULL, {found})");
        let (_, hard) = self.tell("15-full", &call, asked, |_| 0)?;
        if let Some(soft) = soft {
            let wanted = limits((soft, hard));
            let call = format!("prlimit64(0, RLIMIT_NOFILE, {wanted}, NULL)");
            return self.tell("15-full", &call, result, |_| 0);
        }
        result
    }

    // ---- a listener

    fn socket(&mut self, address: &Address) -> Result<Fd> {
        let result = self.kernel.socket(address);
        let (family, protocol) = match address {
            Address::Tcp(SocketAddr::V4(_)) => ("AF_INET", "IPPROTO_IP"),
            Address::Tcp(SocketAddr::V6(_)) => ("AF_INET6", "IPPROTO_IP"),
            Address::Unix(_) => ("AF_UNIX", "0"),
        };
        let kind = "SOCK_STREAM|SOCK_CLOEXEC|SOCK_NONBLOCK";
        let call = format!("socket({family}, {kind}, {protocol})");
        self.tell("04-listening", &call, result, Fd::number)
    }

    fn fcntl_inherit(&mut self, number: i32) -> Result<Fd> {
        let result = self.kernel.fcntl_inherit(number);
        // `Linux` looks before it takes: two lines.
        let looked = result.as_ref().map(drop).map_err(|errno| *errno);
        if self.tell("17-production", &format!("fcntl({number}, F_GETFD)"), looked, |()| 0).is_ok()
        {
            let call = format!("fcntl({number}, F_SETFD, FD_CLOEXEC)");
            return self.tell("17-production", &call, result, |_| 0);
        }
        result
    }

    fn fcntl_nonblock(&mut self, fd: &Fd) -> Result<()> {
        let result = self.kernel.fcntl_nonblock(fd);
        let call = format!("fcntl({fd:?}, F_SETFL, O_RDWR|O_NONBLOCK)");
        self.tell("17-production", &call, result, |()| 0)
    }

    fn getsockopt_listens(&mut self, fd: &Fd) -> Result<bool> {
        let result = self.kernel.getsockopt_listens(fd);
        let value = match result {
            Ok(listens) => format!("[{}], [4]", u8::from(listens)),
            Err(_) => format!("{POINTER}, [4]"),
        };
        let call = format!("getsockopt({fd:?}, SOL_SOCKET, SO_ACCEPTCONN, {value})");
        self.tell("17-production", &call, result, |_| 0)
    }

    fn socket_datagram(&mut self) -> Result<Fd> {
        let result = self.kernel.socket_datagram();
        self.manager = result.as_ref().ok().map(Fd::number);
        let call = "socket(AF_UNIX, SOCK_DGRAM|SOCK_CLOEXEC|SOCK_NONBLOCK, 0)";
        self.tell("17-production", call, result, Fd::number)
    }

    fn setsockopt(&mut self, fd: &Fd, option: SocketOption) -> Result<()> {
        let result = self.kernel.setsockopt(fd, option);
        let chapter = match option {
            SocketOption::ReusePort
            | SocketOption::SteerTo(_)
            | SocketOption::StopSteering
            | SocketOption::DetachFilter => "17-production",
            SocketOption::NoDevice => "14-stopping",
            SocketOption::ResetOnClose => "13-closing",
            SocketOption::RefuseDescriptors => "16-passed",
            _ => "04-listening",
        };
        let call = format!("setsockopt({fd:?}, {})", socket_option(option));
        self.tell(chapter, &call, result, |_| 0)
    }

    fn openat2_as(&mut self, path: &Path, what: OpenAs) -> Result<Fd> {
        let result = self.kernel.openat2_as(path, what);
        let flags = match what {
            OpenAs::Lock => "O_RDONLY|O_CLOEXEC|O_DIRECTORY",
            OpenAs::Itself => "O_RDONLY|O_NOFOLLOW|O_CLOEXEC|O_PATH",
        };
        let path = quoted_path(path);
        let call = format!("openat2(AT_FDCWD, {path}, {{flags={flags}, resolve=0}}, 24)");
        self.tell("04-listening", &call, result, Fd::number)
    }

    fn flock(&mut self, fd: &Fd) -> Result<()> {
        let result = self.kernel.flock(fd);
        let call = format!("flock({fd:?}, LOCK_EX|LOCK_NB)");
        self.tell("04-listening", &call, result, |_| 0)
    }

    fn clock_nanosleep(&mut self, nanoseconds: u64) -> Result<()> {
        let result = self.kernel.clock_nanosleep(nanoseconds);
        let time = timespec(nanoseconds);
        let call = format!("clock_nanosleep(CLOCK_MONOTONIC, 0, {time}, NULL)");
        self.tell("04-listening", &call, result, |_| 0)
    }

    fn fchmod(&mut self, fd: &Fd, mode: u32) -> Result<()> {
        let result = self.kernel.fchmod(fd, mode);
        let call = format!("fchmod({fd:?}, {})", octal(mode));
        self.tell("04-listening", &call, result, |_| 0)
    }

    fn bind(&mut self, fd: &Fd, address: &Address) -> Result<()> {
        let result = self.kernel.bind(fd, address);
        let (address, length) = sockaddr(address);
        let call = format!("bind({fd:?}, {address}, {length})");
        self.tell("04-listening", &call, result, |_| 0)
    }

    fn lstat(&mut self, path: &Path) -> Result<FileStatus> {
        let result = self.kernel.lstat(path);
        let (path, status) = (quoted_path(path), file_status(result.ok()));
        let call = format!("newfstatat(AT_FDCWD, {path}, {status}, AT_SYMLINK_NOFOLLOW)");
        self.tell("04-listening", &call, result, |_| 0)
    }

    fn chmod(&mut self, path: &Path, mode: u32) -> Result<()> {
        let result = self.kernel.chmod(path, mode);
        let call = format!("chmod({}, {})", quoted_path(path), octal(mode));
        self.tell("04-listening", &call, result, |_| 0)
    }

    fn connect(&mut self, fd: &Fd, address: &Address) -> Result<()> {
        let result = self.kernel.connect(fd, address);
        // A Unix socket is most often connected only to learn whether anybody is there.
        let chapter = match address {
            Address::Tcp(_) => "12-connecting",
            Address::Unix(_) if self.is_manager(fd) => "17-production",
            Address::Unix(_) => "04-listening",
        };
        let (address, length) = sockaddr(address);
        let call = format!("connect({fd:?}, {address}, {length})");
        self.tell(chapter, &call, result, |_| 0)
    }

    fn unlink(&mut self, path: &Path) -> Result<()> {
        let result = self.kernel.unlink(path);
        let call = format!("unlink({})", quoted_path(path));
        self.tell("04-listening", &call, result, |_| 0)
    }

    fn listen(&mut self, fd: &Fd, backlog: u32) -> Result<()> {
        let result = self.kernel.listen(fd, backlog);
        // The system call takes a signed number.
        let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
        let call = format!("listen({fd:?}, {backlog})");
        self.tell("04-listening", &call, result, |_| 0)
    }

    fn getsockname(&mut self, fd: &Fd) -> Result<Address> {
        let result = self.kernel.getsockname(fd);
        let address = filled_sockaddr(result.as_ref().ok(), ADDRESS_SIZE);
        let call = format!("getsockname({fd:?}, {address})");
        self.tell("04-listening", &call, result, |_| 0)
    }

    // ---- the loop

    fn epoll_create1(&mut self) -> Result<Fd> {
        let result = self.kernel.epoll_create1();
        let call = "epoll_create1(EPOLL_CLOEXEC)";
        self.tell("05-loop", call, result, Fd::number)
    }

    fn eventfd2(&mut self) -> Result<Fd> {
        let result = self.kernel.eventfd2();
        let call = "eventfd2(0, EFD_CLOEXEC|EFD_NONBLOCK)";
        self.tell("06-waking", call, result, Fd::number)
    }

    fn signalfd4(&mut self, signals: &[Signal]) -> Result<Fd> {
        let result = self.kernel.signalfd4(signals);
        let signals = signal_set(signals);
        let call = format!("signalfd4(-1, {signals}, 8, SFD_CLOEXEC|SFD_NONBLOCK)");
        self.tell("03-signals", &call, result, Fd::number)
    }

    fn timerfd_create(&mut self) -> Result<Fd> {
        let result = self.kernel.timerfd_create();
        self.timer = result.as_ref().ok().map(Fd::number);
        let call = "timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC|TFD_NONBLOCK)";
        self.tell("07-time", call, result, Fd::number)
    }

    fn epoll_ctl(&mut self, epoll: &Fd, op: EpollOp, fd: &Fd, event: Event) -> Result<()> {
        let result = self.kernel.epoll_ctl(epoll, op, fd, event);
        let op = match op {
            EpollOp::Add => "EPOLL_CTL_ADD",
            EpollOp::Modify => "EPOLL_CTL_MOD",
            EpollOp::Remove => "EPOLL_CTL_DEL",
        };
        let event = match op {
            "EPOLL_CTL_DEL" => POINTER.to_owned(), // it is not looked at
            _ => epoll_event(&event),
        };
        let call = format!("epoll_ctl({epoll:?}, {op}, {fd:?}, {event})");
        self.tell("05-loop", &call, result, |_| 0)
    }

    fn epoll_wait(&mut self, epoll: &Fd, events: &mut [Event], wait: Wait) -> Result<usize> {
        if let (Some(begin), Wait::Forever) = (&self.on_wait, wait) {
            begin(&format!("epoll_wait({epoll:?}, "));
        }
        let result = self.kernel.epoll_wait(epoll, events, wait);
        let capacity = events.len();
        let reported = match result {
            Ok(count) => epoll_events(events.get(..count).unwrap_or(events)),
            Err(_) => format!("{:p}", events.as_ptr()),
        };
        let timeout = match wait {
            Wait::No => 0,
            Wait::Forever => -1,
        };
        let call = format!("epoll_wait({epoll:?}, {reported}, {capacity}, {timeout})");
        self.tell("05-loop", &call, result, |count| *count)
    }

    fn clock_gettime(&mut self, clock: Clock) -> u64 {
        self.kernel.clock_gettime(clock)
    }

    // ---- one connection

    fn accept4(&mut self, fd: &Fd) -> Result<(Fd, Peer)> {
        let result = self.kernel.accept4(fd);
        let peer = result.as_ref().ok().map(|(_, peer)| match peer {
            Peer::Tcp(address) => Address::Tcp(*address),
            Peer::Unix => Address::Unix(PathBuf::new()),
        });
        let peer = filled_sockaddr(peer.as_ref(), TCP_ADDRESS_SIZE);
        let call = format!("accept4({fd:?}, {peer}, SOCK_CLOEXEC|SOCK_NONBLOCK)");
        self.tell("08-accepting", &call, result, |(fd, _)| fd.number())
    }

    fn recv(&mut self, fd: &Fd, buffer: &mut [u8]) -> Result<usize> {
        let result = self.kernel.recv(fd, buffer);
        let length = buffer.len();
        let received = match result {
            Ok(count) => payload(buffer.get(..count).unwrap_or(buffer)),
            Err(_) => format!("{:p}", buffer.as_ptr()),
        };
        let call = format!("recvfrom({fd:?}, {received}, {length}, 0, NULL, NULL)");
        self.tell("09-receiving", &call, result, |count| *count)
    }

    fn send(&mut self, fd: &Fd, bytes: &[u8]) -> Result<usize> {
        let result = self.kernel.send(fd, bytes);
        let (sent, length) = (payload(bytes), bytes.len());
        let call = format!("sendto({fd:?}, {sent}, {length}, MSG_NOSIGNAL, NULL, 0)");
        let chapter = if self.is_manager(fd) { "17-production" } else { "10-sending" };
        self.tell(chapter, &call, result, |count| *count)
    }

    fn send_more(&mut self, fd: &Fd, bytes: &[u8]) -> Result<usize> {
        let result = self.kernel.send_more(fd, bytes);
        let (sent, length) = (payload(bytes), bytes.len());
        let call = format!("sendto({fd:?}, {sent}, {length}, MSG_NOSIGNAL|MSG_MORE, NULL, 0)");
        self.tell("11-files", &call, result, |count| *count)
    }

    fn sendmsg(&mut self, fd: &Fd, pieces: &[IoSlice<'_>]) -> Result<usize> {
        let result = self.kernel.sendmsg(fd, pieces);
        let (iov, length) = (iovecs(pieces), pieces.len());
        let name = "msg_name=NULL, msg_namelen=0";
        let rest = format!("msg_iovlen={length}, msg_controllen=0, msg_flags=0");
        let call = format!("sendmsg({fd:?}, {{{name}, msg_iov={iov}, {rest}}}, MSG_NOSIGNAL)");
        self.tell("10-sending", &call, result, |count| *count)
    }

    // ---- a connection outwards

    fn getsockopt_error(&mut self, fd: &Fd) -> Result<Option<Errno>> {
        let result = self.kernel.getsockopt_error(fd);
        let error = match result {
            Ok(None) => "[0], [4]".to_string(),
            Ok(Some(errno)) => format!("[{errno:?}], [4]"),
            Err(_) => format!("{POINTER}, [4]"),
        };
        let call = format!("getsockopt({fd:?}, SOL_SOCKET, SO_ERROR, {error})");
        self.tell("12-connecting", &call, result, |_| 0)
    }

    // ---- files

    fn openat2(&mut self, dir: Option<&Fd>, path: &Path) -> Result<Fd> {
        let result = self.kernel.openat2(dir, path);
        let path = quoted_path(path);
        let call = match dir {
            None => {
                let how = "{flags=O_RDONLY|O_CLOEXEC|O_PATH|O_DIRECTORY, resolve=0}";
                format!("openat2(AT_FDCWD, {path}, {how}, 24)")
            }
            Some(dir) => {
                let flags = "O_RDONLY|O_NOCTTY|O_NONBLOCK|O_CLOEXEC";
                let resolve = "RESOLVE_NO_MAGICLINKS|RESOLVE_BENEATH";
                format!("openat2({dir:?}, {path}, {{flags={flags}, resolve={resolve}}}, 24)")
            }
        };
        self.tell("11-files", &call, result, Fd::number)
    }

    fn fstat(&mut self, fd: &Fd) -> Result<FileStatus> {
        let result = self.kernel.fstat(fd);
        let call = format!("fstat({fd:?}, {})", file_status(result.ok()));
        self.tell("11-files", &call, result, |_| 0)
    }

    fn pread64(&mut self, fd: &Fd, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let result = self.kernel.pread64(fd, buffer, offset);
        let length = buffer.len();
        let read = match result {
            Ok(count) => payload(buffer.get(..count).unwrap_or(buffer)),
            Err(_) => format!("{:p}", buffer.as_ptr()),
        };
        let call = format!("pread64({fd:?}, {read}, {length}, {offset})");
        self.tell("11-files", &call, result, |count| *count)
    }

    fn sendfile(&mut self, fd: &Fd, file: &Fd, offset: u64, count: usize) -> Result<usize> {
        let result = self.kernel.sendfile(fd, file, offset, count);
        let place = match result {
            Ok(sent) => format!("[{offset}] => [{}]", offset + sent as u64),
            Err(_) => format!("[{offset}]"),
        };
        let call = format!("sendfile({fd:?}, {file:?}, {place}, {count})");
        self.tell("11-files", &call, result, |count| *count)
    }

    fn stat(&mut self, path: &Path) -> Result<FileStatus> {
        let result = self.kernel.stat(path);
        let (path, status) = (quoted_path(path), file_status(result.ok()));
        self.tell("11-files", &format!("newfstatat(AT_FDCWD, {path}, {status}, 0)"), result, |_| 0)
    }

    // ---- the stop

    fn socket_diag(&mut self) -> Result<Fd> {
        let result = self.kernel.socket_diag();
        let call = "socket(AF_NETLINK, SOCK_RAW|SOCK_CLOEXEC|SOCK_NONBLOCK, NETLINK_SOCK_DIAG)";
        self.tell("14-stopping", call, result, Fd::number)
    }

    /// Shows the length of the question, its kind and its flags; the port is another each time.
    fn write_diag(&mut self, fd: &Fd, local: SocketAddr) -> Result<()> {
        let result = self.kernel.write_diag(fd, local);
        let call = format!("write({fd:?}, \"H\\0\\0\\0\\24\\0\\1\\3\"..., 72)");
        self.tell("14-stopping", &call, result, |()| 72)
    }

    /// Shows the length of the first message of the answer and its kind: a socket (20), or the
    /// end of the list (3).
    fn read_diag(&mut self, fd: &Fd) -> Result<bool> {
        let result = self.kernel.read_diag(fd);
        let begins =
            |any| if any { "\"`\\0\\0\\0\\24\\0\"..." } else { "\"\\24\\0\\0\\0\\3\\0\"..." };
        let answer = result.map_or(POINTER, begins);
        let call = format!("read({fd:?}, {answer}, 20)");
        self.tell("14-stopping", &call, result, |_| 20)
    }

    // ---- counters, signals, time

    fn timerfd_settime(&mut self, fd: &Fd, deadline: Option<u64>) -> Result<()> {
        let result = self.kernel.timerfd_settime(fd, deadline);
        // Zero would disarm the timer, so a deadline of zero is set to one nanosecond.
        let value = timespec(deadline.map_or(0, |deadline| deadline.max(1)));
        let timer = format!("{{it_interval={}, it_value={value}}}", timespec(0));
        let call = format!("timerfd_settime({fd:?}, TFD_TIMER_ABSTIME, {timer}, NULL)");
        self.tell("07-time", &call, result, |_| 0)
    }

    fn read_counter(&mut self, fd: &Fd) -> Result<u64> {
        let result = self.kernel.read_counter(fd);
        let is_timer = self.timer == Some(fd.number());
        let chapter = if is_timer { "07-time" } else { "06-waking" };
        let counter = result.map_or(POINTER.to_string(), |count| quoted(&count.to_ne_bytes()));
        let call = format!("read({fd:?}, {counter}, 8)");
        self.tell(chapter, &call, result, |_| 8)
    }

    fn write_counter(&mut self, fd: &Fd) -> Result<()> {
        let result = self.kernel.write_counter(fd);
        let one = quoted(&1_u64.to_ne_bytes());
        let call = format!("write({fd:?}, {one}, 8)");
        self.tell("06-waking", &call, result, |()| 8)
    }

    fn read_signal(&mut self, fd: &Fd) -> Result<Signal> {
        let result = self.kernel.read_signal(fd);
        // The number of the signal comes first in the 128 bytes.
        let number = |signal| quoted(&(signal as u32).to_ne_bytes()) + "...";
        let info = result.map_or(POINTER.to_string(), number);
        let call = format!("read({fd:?}, {info}, 128)");
        self.tell("03-signals", &call, result, |_| 128)
    }

    // ---- closing

    fn shutdown(&mut self, fd: &Fd) -> Result<()> {
        let result = self.kernel.shutdown(fd);
        let call = format!("shutdown({fd:?}, SHUT_WR)");
        self.tell("13-closing", &call, result, |_| 0)
    }

    fn ioctl_outq(&mut self, fd: &Fd) -> Result<usize> {
        let result = self.kernel.ioctl_outq(fd);
        let waiting = result.map_or(POINTER.to_owned(), |waiting| format!("[{waiting}]"));
        let call = format!("ioctl({fd:?}, TIOCOUTQ, {waiting})");
        self.tell("13-closing", &call, result, |_| 0)
    }

    fn close(&mut self, fd: Fd) -> Result<()> {
        let call = format!("close({fd:?})");
        let result = self.kernel.close(fd);
        self.tell("13-closing", &call, result, |_| 0)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::kernel::{FileKind, IN, Linux};
    use std::io::Write;
    use std::net::TcpStream;
    use std::sync::Mutex;

    /// A real kernel, and the lines it has told.
    fn narrated() -> (Narrated<Linux>, Arc<Mutex<Vec<String>>>) {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = lines.clone();
        let tell = move |line: &str| sink.lock().unwrap().push(line.to_string());
        (Narrated::new(Linux, tell), lines)
    }

    #[test]
    fn an_error_keeps_its_errno_and_is_told_in_words() {
        let (mut kernel, lines) = narrated();
        assert_eq!(kernel.unlink(Path::new("/no/such")), Err(Errno::ENOENT));
        let line = r#"unlink("/no/such")                      = -1 ENOENT (No such file or directory)  # docs/04-listening.md"#;
        assert_eq!(*lines.lock().unwrap(), [line]);
    }

    #[test]
    fn a_life_on_loopback_is_told_line_by_line() -> Result<()> {
        let (mut kernel, lines) = narrated();
        let address = Address::Tcp(([127, 0, 0, 1], 0).into());
        let listener = kernel.socket(&address)?;
        kernel.setsockopt(&listener, SocketOption::NoDelay)?;
        kernel.bind(&listener, &address)?;
        kernel.listen(&listener, 4096)?;
        let Address::Tcp(server) = kernel.getsockname(&listener)? else {
            return Err(Errno::EAFNOSUPPORT);
        };
        let epoll = kernel.epoll_create1()?;
        let timer = kernel.timerfd_create()?;
        let bell = kernel.eventfd2()?;
        let mut client = TcpStream::connect(server).unwrap();
        let (connection, peer) = kernel.accept4(&listener)?;
        assert_eq!(peer, Peer::Tcp(client.local_addr().unwrap()));
        client.write_all(b"hello\n").unwrap();
        let event = Event { mask: IN, data: 1 << 32 | 1 };
        kernel.epoll_ctl(&epoll, EpollOp::Add, &connection, event)?;
        let mut events = [Event::default(); 8];
        assert_eq!(kernel.epoll_wait(&epoll, &mut events, Wait::Forever)?, 1);
        let mut buffer = [0; 100];
        assert_eq!(kernel.recv(&connection, &mut buffer)?, 6);
        assert_eq!(kernel.recv(&connection, &mut buffer), Err(Errno::EAGAIN));
        assert_eq!(kernel.send(&connection, &[b'x'; 40])?, 40);
        let pieces = [IoSlice::new(b"two "), IoSlice::new(&[b'y'; 40])];
        assert_eq!(kernel.sendmsg(&connection, &pieces)?, 44);
        kernel.write_counter(&bell)?;
        assert_eq!(kernel.read_counter(&bell)?, 1);
        kernel.timerfd_settime(&timer, Some(0))?;
        // Until the timer has expired, behind the narrator's back.
        while Linux.read_counter(&timer).is_err() {}
        assert_eq!(kernel.read_counter(&timer), Err(Errno::EAGAIN));
        kernel.setsockopt(&connection, SocketOption::ResetOnClose)?;
        kernel.setsockopt(&listener, SocketOption::NoDevice)?;
        assert_eq!(kernel.ioctl_outq(&connection), Ok(0));
        let diag = kernel.socket_diag()?;
        kernel.write_diag(&diag, server)?;
        assert_eq!(kernel.read_diag(&diag), Ok(false));
        kernel.shutdown(&connection)?;

        let (l, e, t, b, c) = (&listener, &epoll, &timer, &bell, &connection);
        let (sp, cp) = (server.port(), client.local_addr().unwrap().port());
        let at = buffer.as_ptr();
        let (x, y) = ("x".repeat(32), "y".repeat(32));
        let expected = [
            format!(
                "socket(AF_INET, SOCK_STREAM|SOCK_CLOEXEC|SOCK_NONBLOCK, IPPROTO_IP) = {l:?}  # docs/04-listening.md"
            ),
            format!("setsockopt({l:?}, SOL_TCP, TCP_NODELAY, [1], 4) = 0  # docs/04-listening.md"),
            format!(
                "bind({l:?}, {{sa_family=AF_INET, sin_port=htons(0), sin_addr=inet_addr(\"127.0.0.1\")}}, 16) = 0  # docs/04-listening.md"
            ),
            format!("listen({l:?}, 4096) = 0  # docs/04-listening.md"),
            format!(
                "getsockname({l:?}, {{sa_family=AF_INET, sin_port=htons({sp}), sin_addr=inet_addr(\"127.0.0.1\")}}, [128 => 16]) = 0  # docs/04-listening.md"
            ),
            format!("epoll_create1(EPOLL_CLOEXEC) = {e:?}  # docs/05-loop.md"),
            format!(
                "timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC|TFD_NONBLOCK) = {t:?}  # docs/07-time.md"
            ),
            format!("eventfd2(0, EFD_CLOEXEC|EFD_NONBLOCK) = {b:?}  # docs/06-waking.md"),
            format!(
                "accept4({l:?}, {{sa_family=AF_INET, sin_port=htons({cp}), sin_addr=inet_addr(\"127.0.0.1\")}}, [28 => 16], SOCK_CLOEXEC|SOCK_NONBLOCK) = {c:?}  # docs/08-accepting.md"
            ),
            format!(
                "epoll_ctl({e:?}, EPOLL_CTL_ADD, {c:?}, {{events=EPOLLIN, data={{u32=1, u64=4294967297}}}}) = 0  # docs/05-loop.md"
            ),
            format!(
                "epoll_wait({e:?}, [{{events=EPOLLIN, data={{u32=1, u64=4294967297}}}}], 8, -1) = 1  # docs/05-loop.md"
            ),
            format!(
                "recvfrom({c:?}, \"hello\\n\", 100, 0, NULL, NULL) = 6  # docs/09-receiving.md"
            ),
            format!(
                "recvfrom({c:?}, {at:p}, 100, 0, NULL, NULL) = -1 EAGAIN (Resource temporarily unavailable)  # docs/09-receiving.md"
            ),
            format!(
                "sendto({c:?}, \"{x}\"..., 40, MSG_NOSIGNAL, NULL, 0) = 40  # docs/10-sending.md"
            ),
            format!(
                "sendmsg({c:?}, {{msg_name=NULL, msg_namelen=0, msg_iov=[{{iov_base=\"two \", iov_len=4}}, {{iov_base=\"{y}\"..., iov_len=40}}], msg_iovlen=2, msg_controllen=0, msg_flags=0}}, MSG_NOSIGNAL) = 44  # docs/10-sending.md"
            ),
            format!("write({b:?}, \"\\1\\0\\0\\0\\0\\0\\0\\0\", 8) = 8  # docs/06-waking.md"),
            format!("read({b:?}, \"\\1\\0\\0\\0\\0\\0\\0\\0\", 8) = 8  # docs/06-waking.md"),
            format!(
                "timerfd_settime({t:?}, TFD_TIMER_ABSTIME, {{it_interval={{tv_sec=0, tv_nsec=0}}, it_value={{tv_sec=0, tv_nsec=1}}}}, NULL) = 0  # docs/07-time.md"
            ),
            format!(
                "read({t:?}, {POINTER}, 8) = -1 EAGAIN (Resource temporarily unavailable)  # docs/07-time.md"
            ),
            format!(
                "setsockopt({c:?}, SOL_SOCKET, SO_LINGER, {{l_onoff=1, l_linger=0}}, 8) = 0  # docs/13-closing.md"
            ),
            format!(
                "setsockopt({l:?}, SOL_SOCKET, SO_BINDTOIFINDEX, [2147483647], 4) = 0  # docs/14-stopping.md"
            ),
            format!("ioctl({c:?}, TIOCOUTQ, [0]) = 0  # docs/13-closing.md"),
            format!(
                "socket(AF_NETLINK, SOCK_RAW|SOCK_CLOEXEC|SOCK_NONBLOCK, NETLINK_SOCK_DIAG) = {diag:?}  # docs/14-stopping.md"
            ),
            format!(
                "write({diag:?}, \"H\\0\\0\\0\\24\\0\\1\\3\"..., 72) = 72  # docs/14-stopping.md"
            ),
            format!("read({diag:?}, \"\\24\\0\\0\\0\\3\\0\"..., 20) = 20  # docs/14-stopping.md"),
            format!("shutdown({c:?}, SHUT_WR) = 0  # docs/13-closing.md"),
        ];
        for (line, expected) in lines.lock().unwrap().iter().zip(&expected) {
            // The padding in front of the result has its own test.
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            let expected: Vec<&str> = expected.split_ascii_whitespace().collect();
            assert_eq!(words, expected);
        }
        assert_eq!(lines.lock().unwrap().len(), expected.len());
        for fd in [listener, epoll, timer, bell, connection, diag] {
            kernel.close(fd)?;
        }
        Ok(())
    }

    #[test]
    fn a_connection_outwards_and_a_file_are_told_line_by_line() -> Result<()> {
        let (mut kernel, lines) = narrated();
        let folder = std::env::temp_dir().join(format!("threadbare-told-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("f"), "hello\n").unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let address = Address::Tcp(listener.local_addr().unwrap());
        let socket = kernel.socket(&address)?;
        assert_eq!(kernel.connect(&socket, &address), Err(Errno::EINPROGRESS));
        let _accepted = listener.accept().unwrap();
        assert_eq!(kernel.getsockopt_error(&socket)?, None);
        let root = kernel.openat2(None, &folder)?;
        let file = kernel.openat2(Some(&root), Path::new("f"))?;
        let status = kernel.fstat(&file)?;
        assert_eq!((status.kind, status.size), (FileKind::Regular, 6));
        assert_eq!(kernel.pread64(&file, &mut [0; 8], 2)?, 4);
        assert_eq!(kernel.sendfile(&socket, &file, 1, 100)?, 5);
        assert_eq!(kernel.openat2(Some(&root), Path::new("../f")), Err(Errno::EXDEV));
        std::fs::remove_dir_all(&folder).unwrap();

        let (s, r, f, mode) = (&socket, &root, &file, octal(status.mode));
        let flags = "flags=O_RDONLY|O_NOCTTY|O_NONBLOCK|O_CLOEXEC";
        let how = format!("{{{flags}, resolve=RESOLVE_NO_MAGICLINKS|RESOLVE_BENEATH}}, 24");
        let expected = [
            "socket(AF_INET, SOCK_STREAM|SOCK_CLOEXEC|SOCK_NONBLOCK, IPPROTO_IP) ".to_string(),
            format!("connect({s:?}, {{sa_family=AF_INET, sin_port=htons({port}), "),
            format!(
                "getsockopt({s:?}, SOL_SOCKET, SO_ERROR, [0], [4]) = 0  # docs/12-connecting.md"
            ),
            format!("openat2(AT_FDCWD, {}, ", quoted_path(&folder)),
            format!("openat2({r:?}, \"f\", {how}) = {f:?}  # docs/11-files.md"),
            format!(
                "fstat({f:?}, {{st_mode=S_IFREG|{mode}, st_size=6, ...}}) = 0  # docs/11-files.md"
            ),
            format!("pread64({f:?}, \"llo\\n\", 8, 2) "),
            format!("sendfile({s:?}, {f:?}, [1] => [6], 100) "),
            format!(
                "openat2({r:?}, \"../f\", {how}) = -1 EXDEV (Invalid cross-device link)  # docs"
            ),
        ];
        let told = lines.lock().unwrap().clone();
        for (line, begins) in told.iter().zip(&expected) {
            assert!(line.starts_with(begins), "{line}\n{begins}");
        }
        assert_eq!(told.len(), expected.len());
        for fd in [socket, root, file] {
            kernel.close(fd)?;
        }
        Ok(())
    }
}
