//! A kernel in memory: sockets, epoll, eventfd, signalfd, timerfd and a clock.
//!
//! A test keeps one handle and gives a clone to the server. With its own it acts as the
//! rest of the world: clients, signals, the passing of time, and everything that can go
//! wrong. The server uses it as it uses [`Linux`](super::Linux).
//!
//! ```
//! use threadbare::kernel::sim::{At, Method, Simulated, Times};
//! use threadbare::kernel::{Address, Errno, Kernel};
//!
//! let sim = Simulated::new(1);
//! let mut kernel = sim.clone();
//! let address = Address::Tcp(([127, 0, 0, 1], 80).into());
//! let listener = kernel.socket(&address)?;
//! kernel.bind(&listener, &address)?;
//! Kernel::listen(&mut kernel, &listener, 16)?;
//!
//! let mut client = sim.connect(&address)?;
//! client.send(b"hello");
//! sim.fail(At::Of(Method::Recv, 0), Errno::EINTR, Times::Once);
//!
//! let (fd, _) = kernel.accept4(&listener)?;
//! let mut buffer = [0; 16];
//! assert_eq!(kernel.recv(&fd, &mut buffer), Err(Errno::EINTR));
//! assert_eq!(kernel.recv(&fd, &mut buffer), Ok(5));
//! kernel.send(&fd, b"bye")?;
//! kernel.close(fd)?;
//! assert_eq!(client.recv(), b"bye");
//! assert!(client.saw_eof());
//! # kernel.close(listener)?;
//! # Ok::<(), Errno>(())
//! ```
//!
//! # The model
//!
//! The world owns a table of descriptors (numbers from 3 up, the lowest free one
//! first, bounded by RLIMIT_NOFILE), the connections (whose clients' ends have no
//! descriptor), the files that Unix sockets leave, the pending signals, the clock,
//! and the plan of failures. It uses ordered containers and one seed, so the same calls
//! give the same results.
//!
//! - `world`: the table, listeners, files, epoll, counters, signals, timers;
//! - `stream`: what happens between the two ends of a connection;
//! - `links`: the links between them, which may be clogged, and the clock;
//! - `client`: the test's end of a connection;
//! - `faults`: the plan of failures, and the trace of the calls.
//!
//! It behaves only as Linux can behave, but not in all the ways in which Linux can: what a
//! network may do late happens at once by default.
//!
//! - Nothing takes time by default. Only [`Simulated::advance`] and a wait without events
//!   move the clock.
//! - [`Client::clog`] clogs the link of one client: what either side sends (a SYN, bytes,
//!   FIN, a reset) arrives when the link is free again, and so does a window update.
//!   [`Simulated::delay`] delays everything that crosses a link, for a time drawn from the
//!   seed; timers are late, and a wait may report some ready descriptors only the next
//!   time. Bytes stay in order, nothing is lost, and epoll reports what has arrived. A Unix
//!   socket has no link.
//! - **It cannot block.** If nothing is ready, [`Kernel::epoll_wait`] moves the clock to the
//!   earliest deadline of a timerfd that the set watches, or to the end of the first clog;
//!   without either it returns EINTR, as Linux does when the process is stopped and
//!   continued.
//! - A connection that finds the accept queue full waits until there is room, as if its SYN
//!   were being sent again all the time. It is refused when the listener closes or refuses
//!   SYNs. An answered SYN is acknowledged at once, except by [`Simulated::connect_slowly`].
//! - A call that a fault fails has no effect, with two exceptions. close frees the descriptor
//!   and fails, as on Linux. An epoll_ctl that is to remove a descriptor and fails with ENOENT or
//!   EBADF is true: epoll does not watch the descriptor any more.
//! - Any address is local, ports below 1024 need no privilege, and directories
//!   exist. TIME_WAIT, keepalive and TCP_USER_TIMEOUT are left out: no wait ends in
//!   ETIMEDOUT, unless by a fault. V6 sockets never take V4 (as [`Address`] has it).
//! - There is no fork, but a service manager keeps a socket that it has passed on. Listeners
//!   that share an address by SO_REUSEPORT are numbered in the order in which they began to
//!   listen; new clients come to the first of them, unless a program steers them to another.
//! - Level-triggered epoll only, IN, OUT, ERR, HUP and RDHUP only, and no sets within sets
//!   (EINVAL).

use std::fmt;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{
    Address, Clock, ERR, EpollOp, Errno, Event, Fd, FileKind, FileStatus, HUP, IN, IOV_MAX, Kernel,
    OUT, OpenAs, Peer, RDHUP, Result, Signal, SocketOption, Wait,
};

mod client;
mod faults;
mod links;
mod stream;
#[cfg(test)]
mod tests;
mod world;

pub use client::{Client, Remote};
pub(crate) use faults::asked;
#[doc(hidden)]
pub use faults::take_ledger;
pub use faults::{At, Call, Method, Short, Times};

use stream::Capacity;
use world::{Holder, World};

/// A kernel in memory. A clone is the same kernel. See the [module](self).
#[derive(Clone)]
pub struct Simulated(Arc<Mutex<World>>);

impl fmt::Debug for Simulated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let world = self.world();
        f.debug_struct("Simulated")
            .field("descriptors", &world.descriptors())
            .field("calls", &world.faults.total())
            .field("now", &world.now())
            .finish_non_exhaustive()
    }
}

/// The test's side: the world around the server.
impl Simulated {
    /// A world in which nothing has happened yet. All randomness in it comes from `seed`.
    pub fn new(seed: u64) -> Simulated {
        Simulated(Arc::new(Mutex::new(World::new(seed))))
    }

    // ---- clients

    /// A client connects. ECONNREFUSED, ENOENT: no server listens; EAGAIN: the queue of a Unix
    /// listener is full. (A TCP client then waits: see [`Client::established`].)
    pub fn connect(&self, address: &Address) -> Result<Client> {
        self.connect_as(address, None)
    }

    /// A client connects from an address of its own.
    pub fn connect_from(&self, address: &Address, client: SocketAddr) -> Result<Client> {
        self.connect_as(address, Some(client))
    }

    fn connect_as(&self, address: &Address, client: Option<SocketAddr>) -> Result<Client> {
        let (end, name) = self.client(|world| {
            let end = world.connect_client(address, client)?;
            Ok((end, world.streams.get(end).map_or(Peer::Unix, |end| end.name)))
        })?;
        Ok(Client::new(self.clone(), end, name))
    }

    /// A client connects, and its last ACK takes this long: meanwhile it considers itself
    /// connected, its handshake is under way, and its bytes arrive with the ACK.
    pub fn connect_slowly(&self, address: &Address, time: Duration) -> Result<Client> {
        let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let (end, name) = self.client(|world| {
            let end = world.connect_slowly(address, time)?;
            Ok((end, world.streams.get(end).map_or(Peer::Unix, |end| end.name)))
        })?;
        Ok(Client::new(self.clone(), end, name))
    }

    /// Sets the buffers of connections made from now on, in bytes for each direction: the
    /// sender's (128 KiB) and the receiver's (64 KiB). A Unix socket has only the former. At
    /// least 1 each.
    pub fn set_buffers(&self, outbox: usize, inbox: usize) {
        self.world().capacity = Capacity { outbox: outbox.max(1), inbox: inbox.max(1) };
    }

    // ---- the process and its surroundings

    /// A signal arrives. Returns whether the process lives on: a signal that is neither blocked
    /// nor ignored would end or stop it.
    pub fn signal(&self, signal: Signal) -> bool {
        self.client(|world| world.raise(signal))
    }

    /// Lets the process ignore `signal` from the start, as `nohup` does.
    pub fn ignore(&self, signal: Signal) {
        self.world().ignored.insert(signal);
    }

    /// Sets RLIMIT_NOFILE: 1024 and 4096 if not set.
    pub fn set_limits(&self, soft: u64, hard: u64) {
        self.world().limit = (soft, hard);
    }

    /// Sets the umask: 022 if not set.
    pub fn set_umask(&self, umask: u32) {
        self.world().umask = umask & 0o777;
    }

    /// Lets another process hold the lock of a directory, until the clock shows `until`, in
    /// nanoseconds.
    pub fn hold_lock(&self, directory: &Path, until: u64) {
        self.world().locks.insert(directory.to_owned(), Holder::Until(until));
    }

    /// Sets the port that the kernel picks next, for port 0 and for an outbound connection.
    pub fn set_next_port(&self, port: u16) {
        self.world().next_port = port;
    }

    /// A service manager listens at `address` and passes the socket to the server, in blocking
    /// mode. Returns the number of the descriptor. When the server closes it, the manager keeps
    /// the socket, with the clients in its queue, and passes the same one the next time.
    pub fn pass(&self, address: &Address) -> Result<i32> {
        self.client(|world| world.pass(address))
    }

    /// Whether a socket that a service manager has passed was closed while epoll watched it. It is
    /// open elsewhere, so Linux would go on reporting it; this kernel does not.
    pub fn is_haunted(&self) -> bool {
        self.world().is_haunted
    }

    /// A service manager receives the messages that are sent to `address`.
    pub fn manage(&self, address: &Address) {
        self.world().manager = Some((address.clone(), Vec::new()));
    }

    /// The messages that the service manager has received since the last call.
    pub fn heard(&self) -> Vec<String> {
        let mut world = self.world();
        world.manager.as_mut().map(|(_, heard)| std::mem::take(heard)).unwrap_or_default()
    }

    /// Creates an empty regular file.
    pub fn create_file(&self, path: &Path) {
        let mut world = self.world();
        if world.lstat(path).is_err() {
            let mode = 0o666 & !world.umask;
            world.create(path, mode, FileKind::Regular);
        }
    }

    /// Writes bytes to a regular file, and creates it if it does not exist.
    pub fn write_file(&self, path: &Path, content: &[u8]) {
        self.create_file(path);
        let mut world = self.world();
        let modified = world.now() as i64;
        if let Ok(file) = world.named(path) {
            (file.content, file.modified) = (content.to_vec(), modified);
        }
    }

    /// Makes `name` a symbolic link to the directory `target`, or a name that does not exist.
    /// (Any other name of a directory exists in this world.)
    pub fn link(&self, name: &Path, target: Option<&Path>) {
        self.world().links.insert(name.to_owned(), target.map(Path::to_owned));
    }

    /// Attaches a filter that drops SYNs to the listener with this number, as another process
    /// may leave it.
    pub fn leave_filter(&self, number: i32) {
        self.world().leave_filter(number);
    }

    // ---- other hosts

    /// Another host listens at `address`, to which the server can connect.
    pub fn listen(&self, address: &Address) -> Result<Remote> {
        let number = self.client(|world| world.listen_remote(address))?;
        Ok(Remote::new(self.clone(), number))
    }

    /// The status of the file at `path`, if there is one.
    pub fn file(&self, path: &Path) -> Option<FileStatus> {
        self.world().lstat(path).ok()
    }

    /// Moves the clock forward; timers that this reaches expire.
    pub fn advance(&self, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.client(|world| world.move_clock(world.now().saturating_add(nanoseconds)));
    }

    /// Delays things from now on, each by up to `most`, drawn from the seed: what is put on an
    /// idle link arrives later, a timer is late, and a wait may report some events only the
    /// next time. Zero turns it off.
    pub fn delay(&self, most: Duration) {
        self.world().streams.links.delay = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
    }

    /// What the monotonic clock shows, in nanoseconds.
    pub fn now(&self) -> u64 {
        self.world().now()
    }

    // ---- what can be seen from outside

    /// How many descriptors are open.
    pub fn descriptors(&self) -> usize {
        self.world().descriptors()
    }

    /// How many descriptors the epoll sets watch.
    pub fn watched(&self) -> usize {
        self.world().watched()
    }

    /// Whether epoll_wait would return an event now, without moving the clock.
    pub fn is_ready(&self) -> bool {
        self.world().is_ready()
    }

    /// The earliest deadline that a timerfd is armed for.
    pub fn armed(&self) -> Option<u64> {
        self.world().armed()
    }

    /// When a timerfd expires next, or a link is free again, whichever comes first.
    pub fn next_event(&self) -> Option<u64> {
        self.world().next_event(|_| true)
    }

    // ---- faults

    /// Plans a failure. Several may be planned; the first that matches a call fails it.
    pub fn fail(&self, at: At, errno: Errno, times: Times) {
        self.world().faults.add(at, errno, times);
    }

    /// Removes all failures, those that have begun and those still planned.
    pub fn heal(&self) {
        self.world().faults.heal();
    }

    /// Shortens each recv and send from now on.
    pub fn shorten(&self, short: Short) {
        self.world().short = short;
    }

    /// How often the server called `method`.
    pub fn count(&self, method: Method) -> u64 {
        self.world().faults.count(method)
    }

    /// How many calls the server made: the index the next one will have.
    pub fn calls(&self) -> u64 {
        self.world().faults.total()
    }

    /// How often the server has read the clock.
    pub fn clock_reads(&self) -> u64 {
        self.world().clock_reads
    }

    /// The calls since the last [`take_trace`](Simulated::take_trace), or since the start.
    /// Reads of the clock are not among them, because they are no system calls.
    pub fn trace(&self) -> Vec<Call> {
        self.world().faults.trace.clone()
    }

    /// The same, and removes them from the trace; the count goes on.
    pub fn take_trace(&self) -> Vec<Call> {
        std::mem::take(&mut self.world().faults.trace)
    }

    // ---- inside

    /// The world; a test that panicked in another thread does not end it.
    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something that happens outside of the server.
    fn client<T>(&self, act: impl FnOnce(&mut World) -> T) -> T {
        let mut world = self.world();
        let result = act(&mut world);
        world.deliver();
        result
    }

    /// A call of the server: it is made unless a fault fails it, and is added to the trace.
    fn call<T: Traced>(
        &self,
        method: Method,
        fd: Option<&Fd>,
        act: impl FnOnce(&mut World) -> Result<T>,
    ) -> Result<T> {
        self.traced(method, fd.map_or(-1, Fd::number), None, |world, fault| match fault {
            Some(errno) => Err(errno),
            None => act(world),
        })
    }

    fn traced<T: Traced>(
        &self,
        method: Method,
        fd: i32,
        op: Option<EpollOp>,
        act: impl FnOnce(&mut World, Option<Errno>) -> Result<T>,
    ) -> Result<T> {
        let mut world = self.world();
        let fault = world.faults.strike(method);
        let connection = world.connection(fd);
        let result = act(&mut world, fault);
        world.deliver();
        let told = result.as_ref().map(Traced::number).map_err(|errno| *errno);
        let connection = match (method, told) {
            (Method::Accept4, Ok(accepted)) => world.connection(accepted as i32),
            _ => connection,
        };
        let injected = fault.is_some() && told.err() == fault;
        faults::made(method, told.err());
        world.faults.trace.push(Call { method, fd, op, connection, result: told, injected });
        result
    }
}

/// The server's side.
impl Kernel for Simulated {
    const IS_REAL: bool = false;

    fn rt_sigaction(&mut self, signal: Signal) -> Result<bool> {
        self.call(Method::RtSigaction, None, |world| Ok(world.ignored.contains(&signal)))
    }

    fn rt_sigprocmask(&mut self, signals: &[Signal]) -> Result<()> {
        self.call(Method::RtSigprocmask, None, |world| {
            world.block(signals);
            Ok(())
        })
    }

    fn prlimit(&mut self, soft: Option<u64>) -> Result<(u64, u64)> {
        self.call(Method::Prlimit, None, |world| world.prlimit(soft))
    }

    fn socket(&mut self, address: &Address) -> Result<Fd> {
        self.call(Method::Socket, None, |world| world.socket(address))
    }

    fn fcntl_inherit(&mut self, number: i32) -> Result<Fd> {
        self.call(Method::FcntlInherit, None, |world| world.inherit(number))
    }

    fn fcntl_nonblock(&mut self, fd: &Fd) -> Result<()> {
        self.call(Method::FcntlNonblock, Some(fd), |world| world.unblock(fd))
    }

    fn getsockopt_listens(&mut self, fd: &Fd) -> Result<bool> {
        self.call(Method::GetsockoptListens, Some(fd), |world| world.listens(fd))
    }

    fn socket_datagram(&mut self) -> Result<Fd> {
        self.call(Method::SocketDatagram, None, World::socket_datagram)
    }

    fn setsockopt(&mut self, fd: &Fd, option: SocketOption) -> Result<()> {
        self.call(Method::Setsockopt, Some(fd), |world| world.setsockopt(fd, option))
    }

    fn openat2_as(&mut self, path: &Path, what: OpenAs) -> Result<Fd> {
        self.call(Method::OpenAs, None, |world| world.openat2_as(path, what))
    }

    fn flock(&mut self, fd: &Fd) -> Result<()> {
        self.call(Method::Flock, Some(fd), |world| world.flock(fd))
    }

    fn clock_nanosleep(&mut self, nanoseconds: u64) -> Result<()> {
        self.call(Method::ClockNanosleep, None, |world| {
            world.move_clock(world.now().saturating_add(nanoseconds));
            Ok(())
        })
    }

    fn fchmod(&mut self, fd: &Fd, mode: u32) -> Result<()> {
        self.call(Method::Fchmod, Some(fd), |world| world.fchmod(fd, mode))
    }

    fn bind(&mut self, fd: &Fd, address: &Address) -> Result<()> {
        self.call(Method::Bind, Some(fd), |world| world.bind(fd, address))
    }

    fn lstat(&mut self, path: &Path) -> Result<FileStatus> {
        self.call(Method::Lstat, None, |world| world.lstat(path))
    }

    fn chmod(&mut self, path: &Path, mode: u32) -> Result<()> {
        self.call(Method::Chmod, None, |world| world.chmod(path, mode))
    }

    fn connect(&mut self, fd: &Fd, address: &Address) -> Result<()> {
        self.call(Method::Connect, Some(fd), |world| world.connect(fd, address))
    }

    fn unlink(&mut self, path: &Path) -> Result<()> {
        self.call(Method::Unlink, None, |world| world.unlink(path))
    }

    fn listen(&mut self, fd: &Fd, backlog: u32) -> Result<()> {
        self.call(Method::Listen, Some(fd), |world| world.listen(fd, backlog))
    }

    fn getsockname(&mut self, fd: &Fd) -> Result<Address> {
        self.call(Method::Getsockname, Some(fd), |world| world.getsockname(fd))
    }

    fn epoll_create1(&mut self) -> Result<Fd> {
        self.call(Method::EpollCreate1, None, World::epoll_create1)
    }

    fn eventfd2(&mut self) -> Result<Fd> {
        self.call(Method::Eventfd2, None, World::eventfd2)
    }

    fn signalfd4(&mut self, signals: &[Signal]) -> Result<Fd> {
        self.call(Method::Signalfd4, None, |world| world.signalfd4(signals))
    }

    fn timerfd_create(&mut self) -> Result<Fd> {
        self.call(Method::TimerfdCreate, None, World::timerfd_create)
    }

    fn epoll_ctl(&mut self, epoll: &Fd, op: EpollOp, fd: &Fd, event: Event) -> Result<()> {
        self.traced(Method::EpollCtl, fd.number(), Some(op), |world, fault| {
            let is_gone = matches!(fault, Some(Errno::ENOENT | Errno::EBADF));
            match fault {
                Some(errno) if op == EpollOp::Remove && is_gone => {
                    world.epoll_ctl(epoll, op, fd, event).and(Err(errno))
                }
                Some(errno) => Err(errno),
                None => world.epoll_ctl(epoll, op, fd, event),
            }
        })
    }

    fn epoll_wait(&mut self, epoll: &Fd, events: &mut [Event], wait: Wait) -> Result<usize> {
        self.call(Method::EpollWait, Some(epoll), |world| world.epoll_wait(epoll, events, wait))
    }

    /// In this world the wall clock starts in 1970, together with the monotonic one.
    fn clock_gettime(&mut self, _: Clock) -> u64 {
        self.world().clock_reads += 1;
        self.now()
    }

    fn accept4(&mut self, fd: &Fd) -> Result<(Fd, Peer)> {
        self.call(Method::Accept4, Some(fd), |world| world.accept4(fd))
    }

    fn recv(&mut self, fd: &Fd, buffer: &mut [u8]) -> Result<usize> {
        self.call(Method::Recv, Some(fd), |world| world.recv(fd, buffer))
    }

    fn send(&mut self, fd: &Fd, bytes: &[u8]) -> Result<usize> {
        self.call(Method::Send, Some(fd), |world| world.send(fd, bytes))
    }

    fn send_more(&mut self, fd: &Fd, bytes: &[u8]) -> Result<usize> {
        self.call(Method::Send, Some(fd), |world| world.send_more(fd, bytes))
    }

    fn sendmsg(&mut self, fd: &Fd, pieces: &[IoSlice<'_>]) -> Result<usize> {
        self.call(Method::Sendmsg, Some(fd), |world| world.sendmsg(fd, pieces))
    }

    fn getsockopt_error(&mut self, fd: &Fd) -> Result<Option<Errno>> {
        self.call(Method::GetsockoptError, Some(fd), |world| world.getsockopt_error(fd))
    }

    fn openat2(&mut self, dir: Option<&Fd>, path: &Path) -> Result<Fd> {
        self.call(Method::Openat2, dir, |world| world.openat2(dir, path))
    }

    fn fstat(&mut self, fd: &Fd) -> Result<FileStatus> {
        self.call(Method::Fstat, Some(fd), |world| world.fstat(fd))
    }

    fn pread64(&mut self, fd: &Fd, buffer: &mut [u8], offset: u64) -> Result<usize> {
        self.call(Method::Pread64, Some(fd), |world| world.pread64(fd, buffer, offset))
    }

    fn sendfile(&mut self, fd: &Fd, file: &Fd, offset: u64, count: usize) -> Result<usize> {
        self.call(Method::Sendfile, Some(fd), |world| world.sendfile(fd, file, offset, count))
    }

    fn stat(&mut self, path: &Path) -> Result<FileStatus> {
        self.call(Method::Stat, None, |world| world.stat(path))
    }

    fn socket_diag(&mut self) -> Result<Fd> {
        self.call(Method::SocketDiag, None, World::socket_diag)
    }

    fn write_diag(&mut self, fd: &Fd, local: SocketAddr) -> Result<()> {
        self.call(Method::WriteDiag, Some(fd), |world| world.write_diag(fd, local))
    }

    fn read_diag(&mut self, fd: &Fd) -> Result<bool> {
        self.call(Method::ReadDiag, Some(fd), |world| world.read_diag(fd))
    }

    fn timerfd_settime(&mut self, fd: &Fd, deadline: Option<u64>) -> Result<()> {
        self.call(Method::TimerfdSettime, Some(fd), |world| world.timerfd_settime(fd, deadline))
    }

    fn read_counter(&mut self, fd: &Fd) -> Result<u64> {
        self.call(Method::ReadCounter, Some(fd), |world| world.read_counter(fd))
    }

    fn write_counter(&mut self, fd: &Fd) -> Result<()> {
        self.call(Method::WriteCounter, Some(fd), |world| world.write_counter(fd))
    }

    fn read_signal(&mut self, fd: &Fd) -> Result<Signal> {
        self.call(Method::ReadSignal, Some(fd), |world| world.read_signal(fd))
    }

    fn shutdown(&mut self, fd: &Fd) -> Result<()> {
        self.call(Method::Shutdown, Some(fd), |world| world.shutdown(fd))
    }

    fn ioctl_outq(&mut self, fd: &Fd) -> Result<usize> {
        self.call(Method::IoctlOutq, Some(fd), |world| world.ioctl_outq(fd))
    }

    fn close(&mut self, fd: Fd) -> Result<()> {
        // A descriptor of Linux is unknown here; dropping it closes it.
        let number = fd.simulated_number().unwrap_or(-1);
        self.traced(Method::Close, number, None, |world, fault| {
            let closed = world.close(number);
            fault.map_or(closed, Err)
        })
    }
}

/// A result, as one number for the trace.
trait Traced {
    fn number(&self) -> i64;
}

macro_rules! traced {
    ($($type:ty: |$result:pat_param| $number:expr,)*) => {
        $(impl Traced for $type {
            fn number(&self) -> i64 {
                let $result = self;
                $number
            }
        })*
    };
}

traced! {
    (): |()| 0,
    bool: |result| i64::from(*result),
    u64: |result| i64::try_from(*result).unwrap_or(i64::MAX),
    usize: |result| i64::try_from(*result).unwrap_or(i64::MAX),
    Fd: |fd| i64::from(Fd::number(fd)),
    (Fd, Peer): |(fd, _)| i64::from(Fd::number(fd)),
    Signal: |signal| *signal as i64,
    Option<Errno>: |error| error.map_or(0, |error| error as i64),
    (u64, u64): |(soft, _)| soft.number(),
    FileStatus: |status| i64::from(status.mode),
    Address: |_| 0,
}
