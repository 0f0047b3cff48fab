//! A handler on trial: a server in a simulated world, for the tests of its users.
//!
//! ```
//! use std::time::Duration;
//! use threadbare::handlers::Echo;
//! use threadbare::kernel::sim::Method;
//! use threadbare::sim::World;
//! use threadbare::{Errno, Limits, Server};
//!
//! let limits = Limits { idle_timeout: Some(Duration::from_secs(60)), ..Limits::default() };
//! let mut world = World::start(Server::builder(Echo).limits(limits))?;
//!
//! // A client sends something. The calls that the server makes for it, as strace prints them.
//! let mut client = world.client();
//! world.rest();
//! world.take_calls();
//! assert_eq!(world.ask(&mut client, b"hello"), b"hello");
//! assert_eq!(
//!     world.take_calls(),
//!     [
//!         r#"epoll_wait(4, [{events=EPOLLIN, data={u32=0, u64=4294967296}}], 1024, -1) = 1"#,
//!         r#"recvfrom(7, "hello", 65536, 0, NULL, NULL) = 5"#,
//!         r#"sendto(7, "hello", 5, MSG_NOSIGNAL, NULL, 0) = 5"#,
//!     ]
//! );
//!
//! // A call fails. That is the end of one client, and of no other.
//! world.fail_next(Method::Send, Errno::ECONNRESET);
//! let mut other = world.client();
//! assert_eq!(world.ask(&mut client, b"hello"), b"");
//! assert_eq!(world.ask(&mut other, b"hello"), b"hello");
//!
//! // A minute passes in the simulation.
//! world.advance(Duration::from_secs(61));
//! assert!(other.recv().is_empty() && other.saw_eof());
//! # Ok::<(), threadbare::Error>(())
//! ```
//!
//! No socket is opened, nothing is waited for, and the same seed gives the same run. Everything
//! else that a world can do is in [`sim`](World::sim): shortened transfers, clogged links, delays,
//! signals, servers to connect to.

use crate::error::Error;
use crate::handler::ConnectionHandler;
use crate::kernel::sim::{At, Client, Method, Simulated, Times};
use crate::kernel::{Errno, Linux, Narrated};
use crate::server::{Builder, Server};
use std::mem::take;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Turns in which nothing may be left to do, or the server spins.
const TURNS: usize = 10_000;

/// A server, and the kernel that it takes for Linux. See the [module](self).
#[derive(Debug)]
pub struct World<H: ConnectionHandler> {
    /// The kernel, to play what is around the server.
    pub sim: Simulated,
    /// The server, for its [handler](Server::handler), its [handle](Server::handle), and so on.
    pub server: Server<H, Narrated<Simulated>>,
    /// Whether it has not come to its end.
    pub is_running: bool,
    calls: Arc<Mutex<Vec<String>>>,
}

impl<H: ConnectionHandler> World<H> {
    /// A server with this handler and the usual limits.
    ///
    /// # Panics
    ///
    /// If the handler does not [start](ConnectionHandler::on_start).
    #[allow(clippy::panic, reason = "a test is to fail")]
    pub fn new(handler: H) -> World<H> {
        World::start(Server::builder(handler)).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Binds the server that `builder` describes to 127.0.0.1:80, in a world with seed 1.
    ///
    /// # Errors
    ///
    /// As [`Builder::bind`].
    pub fn start(builder: Builder<H, Linux>) -> Result<World<H>, Error> {
        let (sim, calls) = (Simulated::new(1), Arc::<Mutex<Vec<String>>>::default());
        let written = Arc::clone(&calls);
        let kernel = Narrated::new(sim.clone(), move |line| {
            let call = line.split("  # docs/").next().unwrap_or_default();
            let call = call.split_once(" = ").map(|(call, result)| [call.trim_end(), result]);
            let mut calls = written.lock().unwrap_or_else(PoisonError::into_inner);
            calls.extend(call.map(|call| call.join(" = ")));
        });
        let server = builder.kernel(kernel).bind("127.0.0.1:80")?;
        Ok(World { sim, server, is_running: true, calls })
    }

    /// A client begins to connect: to the first address of the server, where it listens.
    ///
    /// # Panics
    ///
    /// If the server listens no more.
    #[allow(clippy::panic, reason = "a test is to fail")]
    pub fn client(&self) -> Client {
        let client = self.server.addresses().first().map(|address| self.sim.connect(address));
        client.and_then(Result::ok).unwrap_or_else(|| panic!("nobody listens"))
    }

    /// Lets the server do what there is to do, as far as no time has to pass for it.
    ///
    /// # Panics
    ///
    /// If it has still something to do after 10,000 turns: it spins. And with the error of a server
    /// that cannot go on.
    #[allow(clippy::panic, reason = "a test is to fail")]
    pub fn rest(&mut self) {
        for _ in 0..TURNS {
            if !self.is_running || !self.sim.is_ready() && self.server.is_idle() {
                return;
            }
            self.is_running = self.server.turn().unwrap_or_else(|error| panic!("{error}"));
        }
        panic!("the server spins");
    }

    /// Lets a client send `words`, and the server do what there is to do; what the client has
    /// received then.
    pub fn ask(&mut self, client: &mut Client, words: &[u8]) -> Vec<u8> {
        client.send(words);
        self.rest();
        client.recv()
    }

    /// Lets time pass, from one moment at which something happens to the next. Timers are never
    /// early, and up to 2 ms late: for one of a second, let 1,002 ms pass.
    pub fn advance(&mut self, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let end = self.sim.now().saturating_add(nanoseconds);
        self.rest();
        while self.is_running && self.sim.now() < end {
            let next = self.sim.next_event().map_or(end, |next| next.min(end));
            self.sim.advance(Duration::from_nanos(next.saturating_sub(self.sim.now()).max(1)));
            self.rest();
        }
    }

    /// Lets the next call of `method` fail, once.
    pub fn fail_next(&self, method: Method, errno: Errno) {
        self.sim.fail(At::Of(method, self.sim.count(method)), errno, Times::Once);
    }

    /// The calls since they were taken last, each a line as strace writes it.
    pub fn take_calls(&mut self) -> Vec<String> {
        take(&mut *self.calls.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
