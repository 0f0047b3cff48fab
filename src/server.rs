//! Building a server, running it, and reaching it from other threads.
//!
//! ```text
//!   Builder ── bind ─▶ Server ── run ─▶ Summary           on this thread
//!                        │  ╲
//!                        │   ── spawn ─▶ Running ── join ─▶ Summary
//!                        └── handle ─▶ Handle, for any thread, at any time
//! ```
//!
//! A [`Server`] owns the loop, with its listeners open; what the loop does is in `reactor`. A
//! [`Handle`] owns a share of the mailbox and nothing else, so it may outlive the server.
//!
//! Invariants:
//! 1. A start that fails has closed what it opened.
//! 2. However a server ends, by `run`, a panic of its handler or being dropped, all that it has
//!    is closed.

use crate::address::{Place, ToAddresses};
use crate::connection::OUTBOUND;
#[cfg(feature = "sim")]
use crate::connection::place;
use crate::counters::Counters;
use crate::error::{Error, wanted};
use crate::fallible::has_room_for;
use crate::handler::ConnectionHandler;
use crate::kernel::{Address, Errno, Fd, Kernel, Linux, Signal, borrowed};
use crate::limits::Limits;
use crate::mailbox::{CallError, Grace, Mailbox};
use crate::manager::ServiceManager;
use crate::net::{Net, Workers};
use crate::process::Process;
use crate::reaction::Call;
use crate::reactor::{End, Owned, Reactor};
use std::alloc::Layout;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Descriptors that a process keeps beside its connections: standard streams,
/// epoll, eventfd, timerfd, signalfd, and a few for whatever the handler opens.
const SPARE_DESCRIPTORS: u64 = 16 + 7;
/// Listeners a server can have: their number is one byte in each connection, and one
/// value of it stands for none.
pub const MAX_LISTENERS: usize = OUTBOUND as usize;

/// A server whose listeners are open: clients can connect already, and wait
/// until it [runs](Server::run).
///
/// ```
/// # use threadbare::{Server, handlers::Echo};
/// # fn main() -> Result<(), threadbare::Error> {
/// let mut server = Server::builder(Echo).bind(["127.0.0.1:0", "[::1]:0"])?;
/// for address in server.addresses() {
///     println!("listening on {address}");
/// }
/// # server.handle().stop();
/// println!("{}", server.run()?); // on this thread; `spawn` starts one
/// # Ok(())
/// # }
/// ```
pub struct Server<H: ConnectionHandler, K: Kernel = Linux> {
    reactor: Owned<H, K>,
    addresses: Vec<Address>,
    warnings: Vec<String>,
}

/// What a server is to be, before it is one.
///
/// ```
/// # use std::time::Duration;
/// # use threadbare::{Limits, Server, handlers::Echo};
/// # fn main() -> Result<(), threadbare::Error> {
/// let limits = Limits { idle_timeout: Some(Duration::from_secs(60)), ..Limits::default() };
/// let server = Server::builder(Echo).limits(limits).bind(["127.0.0.1:0", "[::1]:0"])?;
/// # let _ = server;
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing listens before `bind`"]
#[derive(Debug)]
pub struct Builder<H, K = Linux> {
    handler: H,
    kernel: K,
    limits: Limits,
    /// Most clients of the listeners that have a limit of their own.
    at_most: Vec<(usize, u32)>,
    owns_process: bool,
    manager: Option<ServiceManager>,
    /// Sockets that listen already.
    given: Vec<Fd>,
    workers: Option<StartWorkers<H>>,
}

/// Makes the workers, which take what they have done to this mailbox; whether they are simulated.
struct StartWorkers<H>(Box<dyn FnOnce(Arc<Mailbox<H>>, bool) -> Workers>);

impl<H> fmt::Debug for StartWorkers<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Workers")
    }
}

impl<H: ConnectionHandler> Server<H> {
    /// Starts to build a server with this handler.
    pub fn builder(handler: H) -> Builder<H> {
        let (limits, at_most, owns_process, manager, given, workers) = Default::default();
        Builder { handler, kernel: Linux, limits, at_most, owns_process, manager, given, workers }
    }
}

impl<H: ConnectionHandler, K: Kernel> Builder<H, K> {
    /// Sets what the server allows.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Lets the listener with this index in [`addresses`](Server::addresses) take at most this
    /// many clients at once, of the [`max_connections`](Limits::max_connections) of all: the
    /// others find their places, whatever comes through this one.
    ///
    /// ```
    /// # use threadbare::{Server, handlers::Echo};
    /// # fn main() -> Result<(), threadbare::Error> {
    /// // The second listener is for the operators: it has places when the first has none left.
    /// let server = Server::builder(Echo).limit_listener(0, 9_990);
    /// let server = server.bind(["127.0.0.1:0", "[::1]:0"])?;
    /// # let _ = server;
    /// # Ok(())
    /// # }
    /// ```
    pub fn limit_listener(mut self, listener: usize, max_connections: u32) -> Self {
        self.at_most.push((listener, max_connections));
        self
    }

    /// Uses another kernel: [`Narrated`](crate::kernel::Narrated) to see every call,
    /// or `Simulated` (feature `sim`) to test a handler under every fault.
    pub fn kernel<K2: Kernel>(self, kernel: K2) -> Builder<H, K2> {
        let Builder { handler, limits, at_most, owns_process, manager, given, workers, .. } = self;
        Builder { handler, kernel, limits, at_most, owns_process, manager, given, workers }
    }

    /// Also serves a socket that listens already: an `OwnedFd`, or what converts to one, such as
    /// a `TcpListener`. The server assumes that other processes have it too: at a stop the clients
    /// that wait in its queue are left to them, and the file of a Unix socket stays.
    ///
    /// ```
    /// # use std::net::TcpListener;
    /// # use threadbare::{Server, handlers::Echo};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let server = Server::builder(Echo).listener(listener).open()?;
    /// assert_eq!(server.addresses().len(), 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn listener(mut self, fd: impl Into<OwnedFd>) -> Self {
        self.given.push(fd.into().into());
        self
    }

    /// Gives the server threads for what blocks or takes long: see [`Conn::work`]. There are
    /// `threads` of them, at least one, which are started when the server begins to run, and
    /// `capacity` jobs may wait for them. Each has a state of its own, which `state` makes for its
    /// first job: a connection to a database, for example, or nothing.
    ///
    /// ```
    /// # use threadbare::{Server, handlers::Echo};
    /// # fn main() -> Result<(), threadbare::Error> {
    /// let server = Server::builder(Echo).workers(4, 1_000, || ()).bind("127.0.0.1:0")?;
    /// # let _ = server;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// When the server is dropped, jobs that wait are dropped, and those that run are waited for.
    /// Under a simulated kernel there are no threads: jobs are done between two turns, in order.
    ///
    /// [`Conn::work`]: crate::Conn::work
    pub fn workers<S: Send + 'static>(
        mut self,
        threads: usize,
        capacity: usize,
        state: impl Fn() -> S + Send + Sync + 'static,
    ) -> Self
    where
        H: 'static,
    {
        self.workers =
            Some(StartWorkers(Box::new(move |mailbox: Arc<Mailbox<H>>, is_simulated| {
                let threads = (!is_simulated).then_some(threads.max(1));
                let deliver = move |done| mailbox.deliver(done);
                Workers::new(threads, capacity, state, deliver)
            })));
        self
    }

    /// Lets the server take what belongs to the process as a whole, so only one server of a
    /// process can: the signals SIGINT, SIGTERM, SIGUSR1, SIGUSR2, and SIGHUP unless it is
    /// ignored, which are blocked in this thread, so do it before there are others; SIGXFSZ,
    /// which is ignored, and SIGCHLD in process 1, so that no zombies stay; as many
    /// descriptors as it is allowed (RLIMIT_NOFILE); and the allocator: large buffers are
    /// mapped, and memory is returned to the kernel after a flood. mallopt(3), malloc_trim(3)
    ///
    /// SIGHUP stops the server only if stderr is a terminal. SIGUSR2 does nothing.
    ///
    /// The server reports to the [`ServiceManager`] that started the process, if that asked for
    /// it: that it is ready, that it stops, and that its loop turns.
    pub fn own_process(mut self, owns: bool) -> Self {
        self.owns_process = owns;
        self
    }

    /// Reports to this service manager instead of the one that the environment names. Only a
    /// server that [owns the process](Builder::own_process) reports.
    pub fn service_manager(mut self, manager: ServiceManager) -> Self {
        self.manager = Some(manager);
        self
    }

    /// Opens only the listeners that it was [given](Builder::listener).
    ///
    /// # Errors
    ///
    /// As [`bind`](Builder::bind).
    pub fn open(self) -> Result<Server<H, K>, Error> {
        self.bind(&[] as &[Address])
    }

    /// Opens the listeners. When this returns, clients can connect.
    ///
    /// # Errors
    ///
    /// The first call that failed, on what, and its errno; nothing stays open then.
    /// An address that cannot be understood is reported as a failed `bind` with EINVAL.
    ///
    /// Of a name, an address that this machine does not have is no error if the server can
    /// listen at another: then it is among the [warnings](Server::warnings).
    pub fn bind(self, addresses: impl ToAddresses) -> Result<Server<H, K>, Error> {
        let places = addresses.to_places()?;
        let count = self.given.len() + places.iter().map(Place::count).sum::<usize>();
        if count == 0 || count > MAX_LISTENERS {
            let object = format!("{count} addresses (from 1 to {MAX_LISTENERS} are possible)");
            return Err(Error::new(Call::BindTcp, object, Errno::EINVAL));
        }
        let Builder { handler, mut kernel, mut limits, owns_process, manager, .. } = self;
        let mut warnings = Vec::new();
        let process = match owns_process {
            true => {
                let named = || ServiceManager::from_env().filter(|_| K::IS_REAL);
                Some(Process::take(&mut kernel, manager.or_else(named), &mut warnings)?)
            }
            false => None,
        };
        let each = 1 + u64::from(handler.files_per_client());
        fit_limits(&mut kernel, &mut limits, (count, each), owns_process, &mut warnings)?;
        let mut reactor = Owned::new(Reactor::new(handler, kernel, limits, process)?);
        let start = |StartWorkers(start)| start(Arc::clone(&reactor.mailbox), !K::IS_REAL);
        reactor.net.workers = self.workers.map(start).map(Box::new);
        reactor.start()?;
        reactor.open(self.given, &places, &mut warnings)?;
        for (listener, most) in self.at_most {
            if let Some(listener) = reactor.listeners.get_mut(listener) {
                listener.most = most;
            }
        }
        Ok(Server { addresses: reactor.net.locals.clone(), reactor, warnings })
    }
}

/// Fits the limits to each other and to what the process may open: descriptors for the listeners,
/// and a number of them for each client.
fn fit_limits<K: Kernel>(
    kernel: &mut K,
    limits: &mut Limits,
    (listeners, each): (usize, u64),
    raise: bool,
    warnings: &mut Vec<String>,
) -> Result<(), Error> {
    limits.high_water = limits.high_water.min(limits.max_output);
    let (call, object) = (Call::DescriptorLimit, "RLIMIT_NOFILE");
    let limit = wanted(call, object, "it may be too low", warnings, || kernel.prlimit(None))?;
    let Some((mut soft, hard)) = limit else { return Ok(()) };
    let others = listeners as u64 + SPARE_DESCRIPTORS;
    let (asked, outbound) = (u64::from(limits.max_connections), u64::from(limits.max_outbound));
    let most = asked.saturating_mul(each).saturating_add(outbound);
    let all = most.saturating_add(others);
    if raise && soft < all && soft < hard {
        let raise = || kernel.prlimit(Some(all.min(hard)));
        let raised = wanted(call, object, "it stays as it is", warnings, raise)?;
        soft = raised.map_or(soft, |(raised, _)| raised);
    }
    if soft >= all {
        return Ok(());
    }
    // Both kinds get less, in the same proportion.
    let room = soft.saturating_sub(others);
    let share = u128::from(room) * u128::from(asked) / u128::from(most.max(1));
    let connections = share as u64; // it is at most `room`
    let fewer = outbound.min(room - connections * each);
    if room == 0 || connections == 0 && asked > 0 {
        let object = format!("RLIMIT_NOFILE {soft}, too few for one connection");
        return Err(Error::new(Call::DescriptorLimit, object, Errno::EMFILE));
    }
    (limits.max_connections, limits.max_outbound) = (connections as u32, fewer as u32);
    let kinds = [("max-connections", asked, connections), ("max-outbound", outbound, fewer)];
    let lowered = kinds.iter().filter(|(_, from, to)| to < from);
    let lowered = lowered.map(|(kind, from, to)| format!("{kind} lowered from {from} to {to}"));
    let lowered = lowered.collect::<Vec<_>>().join(", ");
    warnings.push(format!("{lowered}: RLIMIT_NOFILE is {soft}"));
    Ok(())
}

impl<H: ConnectionHandler, K: Kernel> Server<H, K> {
    /// Where it listens, in the order of the addresses given to
    /// [`bind`](Builder::bind), with the ports the kernel chose for port 0.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Warnings about what could not be had as asked for, and is not worth failing for.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The handler, before and after running.
    pub fn handler(&self) -> &H {
        &self.reactor.handler
    }

    /// The handler, to be changed before and after running.
    pub fn handler_mut(&mut self) -> &mut H {
        &mut self.reactor.handler
    }

    /// The handler, back from the server, which is closed.
    ///
    /// ```
    /// # use threadbare::{Server, handlers::Echo};
    /// # fn main() -> Result<(), threadbare::Error> {
    /// let mut server = Server::builder(Echo).bind("127.0.0.1:0")?;
    /// # server.handle().stop();
    /// server.run()?;
    /// let echo: Echo = server.into_handler();
    /// # let _ = echo;
    /// # Ok(())
    /// # }
    /// ```
    pub fn into_handler(self) -> H {
        self.reactor.into_handler()
    }

    /// A way to reach the server from other threads.
    pub fn handle(&self) -> Handle<H> {
        Handle(Arc::clone(&self.reactor.mailbox))
    }

    /// Serves on this thread until the server is stopped, by a [`Handle`], by its
    /// handler, or by a signal.
    ///
    /// # Errors
    ///
    /// The failure after which the server could not go on; it finished what it could.
    #[inline]
    pub fn run(&mut self) -> Result<Summary, Error> {
        self.start_workers();
        self.run_turns(|_| ())
    }

    /// The same; before each turn `watch` may look at the connections. For the status line of the
    /// program, whose handlers have no [`workers`](Builder::workers), and hidden because nobody else
    /// wants it: one loop, whether watched or not, saves a message some 25 instructions, and
    /// workers that could be started cost it 4.
    ///
    /// # Panics
    ///
    /// If there are workers: they would not be started.
    #[doc(hidden)]
    #[allow(clippy::missing_errors_doc, reason = "as `run`")]
    #[inline]
    pub fn run_watched(&mut self, watch: impl FnMut(&Net)) -> Result<Summary, Error> {
        assert!(self.reactor.net.workers.is_none(), "workers, and only `run` starts them");
        self.run_turns(watch)
    }

    #[inline]
    fn run_turns(&mut self, mut watch: impl FnMut(&Net)) -> Result<Summary, Error> {
        let mailbox = Arc::clone(&self.reactor.mailbox);
        mailbox.runs_on(Some(thread::current().id()));
        let reactor = &mut *self.reactor; // looked at once, and not in each turn
        let ended = loop {
            watch(&reactor.net);
            match guarded_turn(reactor) {
                Ok(true) => {}
                Ok(false) => break self.finish(),
                Err(error) => break Err(error),
            }
        };
        mailbox.runs_on(None);
        ended
    }

    /// One turn of the loop: waits, and serves what is ready. Returns whether to go on. For
    /// tests under a simulated kernel, and for stepping through a server.
    ///
    /// # Errors
    ///
    /// As [`run`](Server::run).
    pub fn turn(&mut self) -> Result<bool, Error> {
        self.start_workers();
        self.reactor.mailbox.runs_on(Some(thread::current().id()));
        guarded_turn(&mut self.reactor)
    }

    /// Starts the workers, if that has not been done.
    #[cold] // and so it leaves no trace in the loop
    fn start_workers(&mut self) {
        if let Some(workers) = &mut self.reactor.net.workers {
            workers.start();
        }
    }

    /// One turn that does not wait: for a server that lives in another loop, which waits for
    /// its [descriptor](AsFd) to be readable. Whether to go on; if not, [`finish`](Server::finish)
    /// has the summary.
    ///
    /// It does a bounded part of what there is to do. As long as something is left, the
    /// descriptor is readable.
    ///
    /// ```
    /// # use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
    /// # use threadbare::{Server, handlers::Echo};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let mut server = Server::builder(Echo).bind("127.0.0.1:0")?;
    /// let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    /// epoll.add(&server, EpollEvent::new(EpollFlags::EPOLLIN, 1))?;
    /// # server.handle().stop();
    /// while server.poll()? {
    ///     epoll.wait(&mut [EpollEvent::empty(); 8], EpollTimeout::NONE)?; // and for all else
    /// }
    /// println!("{}", server.finish()?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`run`](Server::run).
    pub fn poll(&mut self) -> Result<bool, Error> {
        self.reactor.is_idle = false;
        let goes_on = self.turn()?;
        if goes_on && !self.reactor.is_idle {
            self.reactor.mailbox.wake();
        }
        Ok(goes_on)
    }

    /// How many connections are open, in whatever state.
    pub fn open(&self) -> usize {
        self.reactor.net.table.len()
    }

    /// What the server has done so far; the bytes of open connections are included, unlike
    /// in [`Summary::counters`]. It looks at each of them, so it is not for every turn.
    pub fn counters(&self) -> Counters {
        self.reactor.net.counters()
    }

    /// Lets no more jobs be done, or again. Under a simulated kernel: so a test decides how long a
    /// job takes, and what happens meanwhile.
    #[cfg(feature = "sim")]
    pub fn hold_work(&mut self, hold: bool) {
        if let Some(workers) = &mut self.reactor.net.workers {
            workers.hold(hold);
        }
    }

    /// Whether the next turn waits for an event, because nothing is left to do.
    pub fn is_idle(&self) -> bool {
        self.reactor.is_idle && self.reactor.poll.is_begun()
    }

    /// Where each connection stands, by descriptor; with all that is known of it, and only
    /// its state, reading and writing. For the tests that count which calls failed where.
    #[cfg(feature = "sim")]
    #[doc(hidden)]
    pub fn places(&self) -> impl Iterator<Item = (i32, [&'static str; 2])> {
        let all = self.reactor.net.table.iter();
        all.map(|(_, connection)| (connection.fd.number(), place::of(connection)))
    }

    /// State × Reading × Writing: where a connection can stand, as far as types can say.
    #[cfg(feature = "sim")]
    #[doc(hidden)]
    #[must_use]
    pub fn all_places() -> Vec<&'static str> {
        place::product()
    }

    /// Whether it stops. For the same tests.
    #[cfg(feature = "sim")]
    #[doc(hidden)]
    pub fn is_stopping(&self) -> bool {
        self.reactor.net.is_draining()
    }

    /// The memory that is counted as in use, and that which is: always the same.
    #[cfg(feature = "sim")]
    #[doc(hidden)]
    pub fn memory(&self) -> (usize, usize) {
        self.reactor.net.table.memory()
    }

    /// What the server did, once [`turn`](Server::turn) has said that it is over.
    ///
    /// # Errors
    ///
    /// As [`run`](Server::run).
    pub fn finish(&mut self) -> Result<Summary, Error> {
        self.reactor.mailbox.close();
        self.reactor.jobs.clear(); // the callers hear that it has stopped
        let End { signals, failure, cut, .. } = std::mem::take(&mut self.reactor.end);
        let forced = signals.are_two();
        let counters = self.reactor.net.counters.clone();
        failure.map_or(Ok(Summary { stopped_by: signals.last(), forced, cut, counters }), Err)
    }
}

/// The descriptor of epoll: readable when there is something to do, from the first
/// [`poll`](Server::poll) on.
impl<H: ConnectionHandler> AsFd for Server<H> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        borrowed(self.reactor.poll.epoll())
    }
}

/// One turn, and what workers have to do in a simulated world.
#[inline]
fn guarded_turn<H: ConnectionHandler, K: Kernel>(
    reactor: &mut Reactor<H, K>,
) -> Result<bool, Error> {
    let unwinds = CloseOnUnwind(reactor);
    let goes_on = unwinds.0.turn();
    if !K::IS_REAL
        && let Some(workers) = &mut unwinds.0.net.workers
    {
        workers.do_waiting();
    }
    std::mem::forget(unwinds);
    goes_on
}

/// A turn that unwinds leaves things half done, so nothing stays open.
struct CloseOnUnwind<'a, H: ConnectionHandler, K: Kernel>(&'a mut Reactor<H, K>);

impl<H: ConnectionHandler, K: Kernel> Drop for CloseOnUnwind<'_, H, K> {
    fn drop(&mut self) {
        log::error!("a callback panicked: the server is closed");
        self.0.is_idle = true;
        self.0.close_all();
    }
}

impl<H, K> Server<H, K>
where
    H: ConnectionHandler + Send + 'static,
    H::Session: Send,
    K: Kernel,
{
    /// Serves on a thread of its own, named `threadbare`.
    ///
    /// # Errors
    ///
    /// Whatever kept the thread from being created. clone(2)
    pub fn spawn(mut self) -> std::io::Result<Running<H, K>> {
        let handle = self.handle();
        let addresses = self.addresses.clone();
        let thread = thread::Builder::new().name("threadbare".into());
        let thread = thread.spawn(move || {
            let ended = self.run();
            (self, ended)
        })?;
        Ok(Running { handle, addresses, thread })
    }
}

impl<H: ConnectionHandler, K: Kernel> fmt::Debug for Server<H, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

/// Reaches a running server from any thread; as many clones as wanted.
///
/// ```
/// # use threadbare::{Server, handlers::Echo};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let server = Server::builder(Echo).bind("127.0.0.1:0")?.spawn()?;
/// let handle = server.handle();
/// std::thread::spawn(move || {
///     let _ = handle.call(|_, net| net.ids().for_each(|id| _ = net.send(id, b"goodbye\n")));
///     handle.stop();
/// });
/// println!("{}", server.join()?);
/// # Ok(())
/// # }
/// ```
pub struct Handle<H>(Arc<Mailbox<H>>);

impl<H> Handle<H> {
    /// Runs `job` on the server's thread, soon. It may do whatever a callback may do.
    ///
    /// # Errors
    ///
    /// [`CallError::Full`] if 65,536 calls wait already or there is no memory for one more,
    /// [`CallError::Stopped`] if the server has ended. A call that was taken may still go unmade if
    /// the server ends first.
    pub fn call(
        &self,
        job: impl FnOnce(&mut H, &mut Net) + Send + 'static,
    ) -> Result<(), CallError> {
        match has_room_for(Layout::for_value(&job)) {
            true => self.0.post(Box::new(job)),
            false => Err(CallError::Full),
        }
    }

    /// Stops the server as SIGTERM does: it finishes what it has received. Stopping a
    /// server that has ended is fine.
    pub fn stop(&self) {
        self.0.stop(Grace::Usual);
    }

    /// As [`stop`](Handle::stop), but resets and counts what has not finished in `time`. Of
    /// several times, [`Limits::drain_timeout`] included, the shortest holds.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use threadbare::{Server, handlers::Echo};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let server = Server::builder(Echo).bind("127.0.0.1:0")?.spawn()?;
    /// let handle = server.handle();
    /// println!("{} clients so far", handle.counters()?.accepted);
    /// handle.stop_within(Duration::from_secs(3));
    /// println!("{} were cut", server.join()?.cut);
    /// # Ok(())
    /// # }
    /// ```
    pub fn stop_within(&self, time: Duration) {
        self.0.stop(Grace::Within(time));
    }

    /// Stops the server at once: all connections are reset.
    pub fn stop_now(&self) {
        self.stop_within(Duration::ZERO);
    }

    /// Runs `question` on the server's thread, with the handler and its connections, and waits
    /// for the result.
    ///
    /// ```
    /// # use threadbare::{Server, handlers::Echo};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let server = Server::builder(Echo).bind("127.0.0.1:0")?.spawn()?;
    /// let connected = server.handle().ask(|_, net| net.ids().count())?;
    /// assert_eq!(connected, 0);
    /// server.handle().stop_now();
    /// # server.join()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`call`](Handle::call); also [`CallError::Stopped`] if the server has ended before it
    /// could answer, and [`CallError::OwnThread`] on the thread on which the server
    /// [runs](Server::run), or had its last [turn](Server::poll): that thread would wait for
    /// itself. It waits for a server that does not run yet.
    pub fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut H, &mut Net) -> T + Send + 'static,
    ) -> Result<T, CallError> {
        if self.0.is_own_thread() {
            return Err(CallError::OwnThread);
        }
        let (answer, answered) = mpsc::sync_channel(1);
        self.call(move |handler, net| _ = answer.send(question(handler, net)))?;
        answered.recv().map_err(|_| CallError::Stopped)
    }

    /// What the server has done so far: see [`Net::counters`].
    ///
    /// # Errors
    ///
    /// As [`ask`](Handle::ask).
    pub fn counters(&self) -> Result<Counters, CallError> {
        self.ask(|_, net| net.counters())
    }
}

impl<H> Clone for Handle<H> {
    fn clone(&self) -> Self {
        Handle(Arc::clone(&self.0))
    }
}

impl<H> fmt::Debug for Handle<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handle")
    }
}

/// A server on a thread of its own.
pub struct Running<H: ConnectionHandler, K: Kernel = Linux> {
    handle: Handle<H>,
    addresses: Vec<Address>,
    thread: JoinHandle<(Server<H, K>, Result<Summary, Error>)>,
}

impl<H: ConnectionHandler, K: Kernel> Running<H, K> {
    /// A way to reach it.
    #[must_use]
    pub fn handle(&self) -> Handle<H> {
        self.handle.clone()
    }

    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Waits until it has stopped. Does not stop it: that is [`Handle::stop`].
    ///
    /// ```
    /// # use threadbare::{Server, handlers::Echo};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let running = Server::builder(Echo).bind("127.0.0.1:0")?.spawn()?;
    /// running.handle().stop();
    /// println!("{}", running.join()?); // or `join_handler`, which gives the handler back
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Server::run`].
    ///
    /// # Panics
    ///
    /// If the handler panicked, with the same panic.
    pub fn join(self) -> Result<Summary, Error> {
        self.join_handler().1
    }

    /// The same, and gives the handler back, however the server ended.
    ///
    /// # Panics
    ///
    /// As [`join`](Running::join).
    pub fn join_handler(self) -> (H, Result<Summary, Error>) {
        let joined = self.thread.join();
        let (server, ended) = joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (server.into_handler(), ended)
    }
}

impl<H: ConnectionHandler, K: Kernel> fmt::Debug for Running<H, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

/// What a server did, and how it ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// The signal that stopped it, if one did.
    pub stopped_by: Option<Signal>,
    /// A second signal came: everything was ended at once.
    pub forced: bool,
    /// Connections that had not finished at the drain deadline.
    pub cut: u64,
    /// Everything it counted.
    pub counters: Counters,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.counters.fmt(f)
    }
}
