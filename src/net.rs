//! What a handler may do: [`Conn`], the connection at hand, and [`Net`], all of them.
//!
//! A callback only marks and appends. What follows from a verb is in the rooms of this
//! directory: [`table`] is the one way to a connection, [`sending`] takes what is written to
//! the kernel, [`keeping`] has what the kernel did not take, [`memory`] decides which connections
//! wait when memory is short, [`files`] and [`outbound`] are verbs with work of their own,
//! [`upkeep`] is what the loop does and no handler. Only [`lent`] calls the kernel within a
//! callback, for what the callback must know at once.

use crate::close_reason::CloseReason;
use crate::connection::Connection;
use crate::counters::Counters;
use crate::cuts::Cuts;
use crate::fallible::Map;
use crate::kernel::{Address, Peer};
use crate::limits::{Limits, Patience, Spans};
use crate::slots::Id;
use crate::time::Moment;
use std::collections::HashSet;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;
use table::Table;

mod files;
mod front;
mod groups;
mod keeping;
mod lent;
mod memory;
mod origin;
mod outbound;
mod presence;
mod quantum;
mod sending;
mod shares;
mod table;
mod timers;
mod upkeep;
mod workers;

pub use front::Front;
pub use groups::Fanout;
use groups::Groups;
use lent::Lent;
pub use lent::{Directory, File};
pub use origin::Origin;
use outbound::Dials;
pub use presence::Presence;
pub(crate) use quantum::CALL;
pub use timers::TimerId;
use timers::Timers;
pub(crate) use workers::{Done, Workers};

/// Names a connection. An id is never reused while the server runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub(crate) Id);

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0.slot, self.0.generation)
    }
}

/// How far a stop of the server has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// No stop was asked for.
    No,
    /// It will stop after a delay, and serves until then.
    Announced,
    /// It is to stop, and begins in this turn.
    Wanted,
    /// It finishes what it has received.
    Draining,
}

impl Stop {
    /// Whether the server stops, and need not wait for what a connection has to say.
    pub(crate) fn may_end(self, connection: &Connection, timeouts: &Spans, now: Moment) -> bool {
        self == Stop::Draining && connection.speak_deadline(timeouts, now).is_none()
    }
}

/// All connections of the server, as its handler may use them: by their ids, which any callback
/// gets from [`Conn::id`] and may keep.
///
/// ```
/// # use threadbare::{ConnId, Net};
/// fn pass_on(net: &mut Net, to: ConnId, words: &[u8]) -> bool {
///     match net.conn(to) {
///         Some(mut conn) if conn.is_full() => false, // it does not keep up
///         Some(mut conn) => {
///             conn.write(words);
///             true
///         }
///         None => false, // it is gone
///     }
/// }
/// ```
#[derive(Debug)]
pub struct Net {
    pub(crate) table: Table,
    pub(crate) limits: Limits,
    pub(crate) timeouts: Patience,
    pub(crate) counters: Counters,
    /// When a client cut for each reason was last logged.
    pub(crate) cuts: Cuts,
    /// Where each listener listens.
    pub(crate) locals: Vec<Address>,
    /// The files of those that are Unix sockets.
    pub(crate) own_files: Vec<(u64, u64)>,
    /// The monotonic clock, read once a turn; and when it was first read.
    pub(crate) now: Moment,
    start: Moment,
    pub(crate) stop: Stop,
    /// Work since the loop looked at the others, in bytes.
    spent: usize,
    /// The connection that was freed last.
    pub(crate) closed: Option<Closed>,
    /// How many of the connections we began ourselves.
    pub(crate) outbound: u32,
    /// The local addresses of those that may lead back here: to a port of our own.
    calling: HashSet<SocketAddr>,
    has_told_sandbox: bool,
    pub(crate) timers: Timers,
    pub(crate) groups: Groups,
    /// Threads that do jobs for connections.
    pub(crate) workers: Option<Box<Workers>>,
    /// What these read, by slot.
    presences: Map<u32, Presence>,
    /// With what tokens outbound connections were begun, by slot.
    pub(crate) tokens: Map<u32, u64>,
    /// The files that are being sent, by slot.
    files: Map<u32, files::FilePart>,
    /// What is known of the fronts of clients that came through one, by slot.
    fronts: Map<u32, Front>,
    /// Outbound connections that have no socket yet.
    dials: Dials,
    /// Which connection is closed first when memory is short, if that is known.
    worst: Option<memory::Worst>,
    /// The kernel, for what a callback must know at once.
    kernel: Box<dyn Lent>,
}

/// What is still asked of a connection that was freed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Closed {
    pub(crate) id: ConnId,
    /// How many bytes were sent on it.
    pub(crate) sent: u64,
    pub(crate) origin: Origin,
}

/// The connection a callback is about.
///
/// Every verb only marks or appends; the loop acts when the callback has returned. So none of
/// them blocks, and none fails.
///
/// ```
/// # use threadbare::Conn;
/// fn refuse(conn: &mut Conn<'_>) {
///     writeln!(conn, "error: {} is not welcome", conn.peer());
///     conn.close(); // when that is sent
///     assert!(conn.is_full()); // it takes no more, and a loop in `on_data` ends
/// }
/// ```
#[derive(Debug)]
pub struct Conn<'a> {
    pub(crate) net: &'a mut Net,
    pub(crate) slot: u32,
}

impl Conn<'_> {
    /// The id of this connection, for later use or for other callbacks.
    #[must_use]
    pub fn id(&self) -> ConnId {
        ConnId(self.net.table.id(self.slot))
    }

    /// The other end: the client, also where a [front](Conn::front) has named it.
    pub fn peer(&self) -> Peer {
        self.net.table.look(self.slot).map_or(Peer::Unix, Connection::peer)
    }

    /// Whether it is an outbound connection of this very server that has come back to it,
    /// whatever the address it was begun to. A proxy that forwarded it would never stop.
    #[must_use]
    pub fn is_own(&self) -> bool {
        let who = self.front().map_or(self.peer(), |front| front.peer);
        self.net.is_own_call(who)
    }

    /// The listener it came through: for a listener on all addresses, that address.
    #[must_use]
    pub fn local(&self) -> Option<&Address> {
        let connection = self.net.table.look(self.slot)?;
        self.net.locals.get(usize::from(connection.listener()))
    }

    /// Writes `bytes`, which are sent in order, as fast as the peer takes them. Never blocks:
    /// what the peer does not take at once waits in memory, see [`Conn::is_full`].
    #[inline]
    pub fn write(&mut self, bytes: &[u8]) {
        self.net.stage(self.slot, bytes);
    }

    /// Writes formatted text, as `write!(conn, "{n} bytes\n")` does: without a String, and like
    /// [`write`](Conn::write) it never fails.
    ///
    /// ```
    /// # use threadbare::{Conn};
    /// # fn example(conn: &mut Conn<'_>) {
    /// let waiting = conn.queued();
    /// writeln!(conn, "{waiting} bytes wait");
    /// # }
    /// ```
    pub fn write_fmt(&mut self, text: fmt::Arguments<'_>) {
        struct Text<'a, 'b>(&'a mut Conn<'b>);
        impl fmt::Write for Text<'_, '_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                self.0.write(text.as_bytes());
                Ok(())
            }
        }
        let _ = fmt::Write::write_fmt(&mut Text(self), text);
    }

    /// Bytes written that the kernel has not yet taken.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.net.table.queued(self.slot)
    }

    /// Bytes that the kernel has taken of what was written, files included, since the beginning.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.net.table.look(self.slot).map_or(0, |connection| connection.sent)
    }

    /// Whether what is written can still be sent.
    #[cfg(feature = "http")]
    pub(crate) fn takes_output(&self) -> bool {
        self.net.table.look(self.slot).is_some_and(|connection| connection.state.takes_output())
    }

    /// Whether `on_data` should stop consuming input: output has reached the high water mark
    /// (`on_drain` is called when it has fallen below the low one), or the connection is closed.
    /// A [paused](Conn::is_paused) connection is not full.
    #[inline]
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.net.table.is_full(self.slot)
    }

    /// Closes the connection when everything written has been sent: FIN, and what the
    /// peer still sends is thrown away. No more input is offered. A connection that is not
    /// established yet is given up at once.
    pub fn close(&mut self) {
        let now = self.net.now;
        self.net.change(self.slot, |connection| {
            let has_ended = connection.state.has_heard_all();
            let why = if has_ended { CloseReason::PeerClosed } else { CloseReason::Handler };
            connection.close(why, now);
        });
    }

    /// Closes the connection as [`close`](Conn::close) does, for a peer that has said that it sends
    /// no more, as HTTP does with `Connection: close`. So there is nothing to linger for: the
    /// socket is closed as soon as the kernel has everything. What the peer sends all the same
    /// before that is noticed, and lingered for; what it sends later is answered with a reset, and
    /// it may lose the end of what was written.
    pub fn close_without_linger(&mut self) {
        self.close();
        self.net.change(self.slot, |connection| connection.state.renounce());
    }

    /// Ends our direction only: FIN when everything written has been sent, and what the
    /// peer sends is still offered. Nothing more can be written. When the peer has ended
    /// too, the connection closes by itself.
    ///
    /// ```
    /// # use threadbare::{Conn};
    /// # fn example(conn: &mut Conn<'_>) {
    /// conn.write(b"that was all\n");
    /// conn.finish(); // the peer reads EOF behind it, and may go on talking
    /// # }
    /// ```
    pub fn finish(&mut self) {
        self.net.change(self.slot, |connection| connection.state.finish());
    }

    /// Offers input even while output is above the high water mark, for a handler that answers
    /// it on another connection, as a proxy does. The handler has to [`pause`](Conn::pause) this
    /// connection when that one is full. If the peer resets during that pause, what it sent before
    /// waits for [`resume`](Conn::resume).
    pub fn duplex(&mut self, duplex: bool) {
        self.net.change(self.slot, |connection| connection.state.duplex(duplex));
    }

    /// Holds the connection: a stop of the server does not end it. It is read and
    /// served until the handler closes it, or the drain deadline resets it.
    ///
    /// ```
    /// # use threadbare::{Conn};
    /// fn begin_transfer(conn: &mut Conn<'_>) {
    ///     conn.hold(true); // a stop waits for it
    /// }
    ///
    /// fn end_transfer(conn: &mut Conn<'_>, is_whole: bool) {
    ///     conn.hold(false);
    ///     if is_whole { conn.close() } else { conn.abort() } // a reset: the peer knows
    /// }
    /// ```
    pub fn hold(&mut self, hold: bool) {
        self.net.change(self.slot, |connection| connection.state.hold(hold));
    }

    /// Whether it is held.
    #[cfg(feature = "http")]
    pub(crate) fn is_held(&self) -> bool {
        let connection = self.net.table.look(self.slot);
        connection.and_then(|it| it.state.open()).is_some_and(|open| open.asked.held)
    }

    /// Closes the connection now, with a reset; what was written may be lost.
    pub fn abort(&mut self) {
        self.net.abort(self.slot, CloseReason::Handler);
    }

    /// Ends the connection with a reset too, but not before the peer has all that was written:
    /// its kernel has acknowledged it, or has acknowledged nothing for the write timeout. For an
    /// answer that is not whole, behind others that are. No more input is offered.
    pub fn abort_behind(&mut self) {
        let now = self.net.now;
        self.net.change(self.slot, |connection| connection.abort_behind(CloseReason::Handler, now));
    }

    /// Stops input until [`resume`](Conn::resume): nothing more is offered, and soon TCP makes the
    /// peer wait. It does not end the callback: a loop in `on_data` that is to stop here asks
    /// [`is_paused`](Conn::is_paused).
    ///
    /// ```
    /// # use threadbare::{Conn};
    /// # fn example(conn: &mut Conn<'_>) {
    /// conn.pause(); // its answer is being found elsewhere
    /// assert!(conn.is_paused());
    /// let id = conn.id();
    /// // later, in another callback:
    /// if let Some(mut conn) = conn.net().conn(id) {
    ///     conn.write(b"found\n");
    ///     conn.resume();
    /// }
    /// # }
    /// ```
    pub fn pause(&mut self) {
        self.net.change(self.slot, |connection| connection.state.pause());
    }

    /// Ends a pause; what was not consumed is offered again.
    pub fn resume(&mut self) {
        let now = self.net.now;
        self.net.change(self.slot, |connection| connection.state.resume(now));
    }

    /// Whether input is stopped, by [`pause`](Conn::pause) or by a [job](Conn::work).
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.net.table.look(self.slot).is_some_and(|connection| connection.state.is_paused())
    }

    /// Counts `bytes` as memory of this connection, in place of what was charged before: what the
    /// handler keeps for it, which [`max_memory`](Limits::max_memory) is to bound. It counts as
    /// long as the connection is in service. When memory is short, the connections that hold
    /// most go first.
    ///
    /// ```
    /// # use threadbare::{Conn};
    /// # fn example(conn: &mut Conn<'_>) {
    /// let cart: Vec<u8> = vec![0; 10_000]; // kept in the session
    /// conn.charge(cart.len());
    /// # }
    /// ```
    pub fn charge(&mut self, bytes: usize) {
        self.net.change(self.slot, |connection| connection.state.charge(bytes));
    }

    /// There was no memory for what a callback needs for this connection: it ends.
    pub(crate) fn out_of_memory(&mut self) {
        self.net.abort(self.slot, CloseReason::MemoryBudget);
    }

    /// All connections, this one included.
    pub fn net(&mut self) -> &mut Net {
        self.net
    }
}

impl Net {
    /// Sends `bytes` to a connection. Returns `false` if it is closed or closing.
    ///
    /// To send the same bytes to many, send them to one after the other: they are
    /// kept in memory once.
    pub fn send(&mut self, id: ConnId, bytes: &[u8]) -> bool {
        let slot = id.0.slot;
        self.table.find(id.0).is_some() && self.stage_counted(slot, bytes)
    }

    /// A connection by its id, with all that can be done to it; `None` if it is gone.
    pub fn conn(&mut self, id: ConnId) -> Option<Conn<'_>> {
        self.table.find(id.0)?;
        Some(Conn { net: self, slot: id.0.slot })
    }

    /// Closes a connection as [`Conn::close`] does. Returns `false` if it is gone.
    pub fn close(&mut self, id: ConnId) -> bool {
        self.conn(id).map(|mut conn| conn.close()).is_some()
    }

    /// What [`Conn::sent`] returns for a connection, and returned at the end of the one that
    /// [`on_close`](crate::ConnectionHandler::on_close) is about; 0 of any other.
    pub fn sent(&mut self, id: ConnId) -> u64 {
        match self.conn(id) {
            Some(conn) => conn.sent(),
            None => self.closed.filter(|closed| closed.id == id).map_or(0, |closed| closed.sent),
        }
    }

    /// The ids of all connections in service now: a copy, so each can be sent to meanwhile.
    ///
    /// ```
    /// # use threadbare::{Net};
    /// # fn example(net: &mut Net) {
    /// for id in net.ids() {
    ///     net.send(id, b"the server goes down in five minutes\n");
    /// }
    /// # }
    /// ```
    pub fn ids(&self) -> impl Iterator<Item = ConnId> + use<> {
        let in_service = self.table.iter().filter(|(_, c)| c.state.open().is_some());
        let ids: Vec<ConnId> = in_service.map(|(slot, _)| ConnId(self.table.id(slot))).collect();
        ids.into_iter()
    }

    /// Time since the server was built, read once a turn of the loop.
    #[must_use]
    pub fn now(&self) -> Duration {
        Duration::from_millis(self.now.since(self.start).as_millis())
    }

    /// Stops the server as SIGTERM does: it finishes what it has received.
    pub fn stop(&mut self) {
        if let Stop::No | Stop::Announced = self.stop {
            self.stop = Stop::Wanted;
        }
    }

    /// What the server allows.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Whether the server is stopping, or will stop after its delay. A handler that answers health
    /// checks reports then that clients should use another server.
    #[inline]
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stop != Stop::No
    }

    /// What the server has done so far; the bytes of open connections are included. It looks at
    /// each of them.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let mut counters = self.counters.clone();
        for (_, connection) in self.table.iter() {
            counters.received += connection.received;
            counters.sent += connection.sent;
        }
        counters
    }
}
