//! A concurrent TCP server on one thread.
//!
//! One thread drives a hand-written epoll reactor over non-blocking sockets:
//! concurrency without a thread per client. You write a [`ConnectionHandler`],
//! which decides what happens to the bytes of a connection; everything else, from
//! `socket(2)` to a clean stop, is here.
//!
//! ```text
//!             ┌───────────────── epoll_wait ◀────────────────────────────┐
//!             ▼                                                          │
//!    what is ready?                                                      │
//!      a connection ── recv ─▶ your handler ─▶ the outbox ─▶ send        │
//!      a listener   ── accept4 ─▶ a new connection                       │
//!      the eventfd  ── calls from other threads                          │
//!      the signalfd ── SIGINT, SIGTERM: finish, then stop                │
//!      the timerfd  ── deadlines: idle, slow, stalled                    │
//!             │                                                          │
//!             └─▶ settle: what callbacks marked is done here, once ──────┘
//! ```
//!
//! A handler is a trait with one method that must be written, [`on_data`]:
//!
//! ```no_run
//! use threadbare::{Conn, ConnectionHandler, Server};
//!
//! /// Answers each line with its length.
//! struct Measure;
//!
//! impl ConnectionHandler for Measure {
//!     type Session = ();
//!
//!     fn on_data(&mut self, conn: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
//!         let mut consumed = 0;
//!         for line in input.split_inclusive(|&byte| byte == b'\n') {
//!             if conn.is_full() || !line.ends_with(b"\n") {
//!                 break; // what is left is offered again
//!             }
//!             writeln!(conn, "{} bytes", line.len() - 1);
//!             consumed += line.len();
//!         }
//!         consumed
//!     }
//! }
//!
//! fn main() -> Result<(), threadbare::Error> {
//!     let mut server = Server::builder(Measure).own_process(true).bind("127.0.0.1:1234")?;
//!     let summary = server.run()?; // until SIGINT, SIGTERM, or `Net::stop`
//!     println!("{summary}");
//!     Ok(())
//! }
//! ```
//!
//! Where to go on:
//!
//! - [`ConnectionHandler`]: all callbacks; [`Conn`]: what is done to the connection at hand;
//!   [`Net`]: the others, groups, timers, outbound connections.
//! - [`Builder`]: listeners, limits, [workers](Builder::workers) for what takes long. [`Handle`]:
//!   the server reached from other threads.
//! - [`framing`]: where a message ends. [`handlers`]: echo, chat, HTTP, a proxy, ready to use.
//! - `sim` (a feature): a handler tested in a simulated world, where any call can fail.
//! - The walkthrough in the directory `docs` of the source explains every system call that is made,
//!   in the order in which a server meets them; its chapter `handler` begins with an empty file.
//!
//! [`on_data`]: ConnectionHandler::on_data
//!
//! The files of the source, lowest floor first; each knows only those before it:
//! fallible, [`kernel`], [`reaction`], error, close_reason, time, limits, backoff, buffer, budget, slots,
//! deadlines, outbox, counters, connection, cuts, crowd, listener, net, [`handler`], mailbox,
//! manager, process, [`escape`], inherited, [`address`], [`proxy_header`], reactor, server, sim,
//! [`framing`] and [`handlers`].

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
compile_error!("threadbare is built on epoll, eventfd, signalfd and timerfd: 64-bit Linux only");

pub mod address;
mod backoff;
mod budget;
mod buffer;
mod close_reason;
mod connection;
mod counters;
mod crowd;
mod cuts;
mod deadlines;
mod error;
pub mod escape;
mod fallible;
pub mod framing;
pub mod handler;
pub mod handlers;
mod inherited;
pub mod kernel;
mod limits;
mod listener;
mod mailbox;
mod manager;
mod net;
mod outbox;
mod process;
pub mod proxy_header;
pub mod reaction;
mod reactor;
mod server;
#[cfg(feature = "sim")]
pub mod sim;
mod slots;
mod time;

pub use address::{AddressError, ToAddresses};
pub use close_reason::CloseReason;
#[cfg(feature = "sim")]
#[doc(hidden)]
pub use connection::taken;
#[doc(hidden)]
pub use connection::{TRANSITIONS, Transition};
pub use counters::Counters;
pub use error::Error;
pub use handler::ConnectionHandler;
pub use kernel::{Address, Call, Errno, Peer, Signal};
pub use limits::{Limits, Timeouts};
pub use mailbox::CallError;
pub use manager::ServiceManager;
pub use net::{Conn, ConnId, Directory, Fanout, File, Front, Net, Origin, Presence, TimerId};
pub use server::{Builder, Handle, MAX_LISTENERS, Running, Server, Summary};

/// The README's programs compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
