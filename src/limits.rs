//! Every bound the server keeps, as plain fields; and the time limits as the loop uses them.
//!
//! [`Limits`] is what the program sets. [`Patience`] is what the loop looks at: the same timeouts
//! in its own unit, and those of connections that have some of their own.

use crate::fallible::{self, Map};
use crate::time::{Moment, Span};
use std::time::Duration;

/// What the server allows, safe for the open internet by default.
///
/// ```
/// use threadbare::Limits;
/// let limits = Limits { max_connections: 100, idle_timeout: None, ..Limits::default() };
/// assert_eq!(limits.high_water, 256 * 1024);
/// ```
/// More fields may come with a minor version: end a value with `..Limits::default()`, as above.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once (10,000). At the limit new clients wait in the listener's queue.
    pub max_connections: u32,
    /// Connections at once that the handler begins itself, beside those (0).
    pub max_outbound: u32,
    /// Connections at once from one address, an IPv6 /64 counting as one; 0 is no limit (0).
    /// Those above are closed at once. Unix sockets are exempt.
    pub max_per_address: u32,
    /// How long a connection must be idle to be closed for a client that waits, when all places
    /// are taken (1 s). The one that has been idle for longest is closed, if its address has more
    /// than a quarter of the places, nothing is going on in it, and its handler neither
    /// [holds](crate::Conn::hold) nor [pauses](crate::Conn::pause) it. `None`: never.
    pub give_way: Option<Duration>,
    /// Clients that may wait in each listener's queue (4,096). listen(2)
    pub backlog: u32,
    /// Closes a connection after this long without a byte in either direction (300 s).
    pub idle_timeout: Option<Duration>,
    /// Closes a connection whose incomplete message has waited this long for its rest (30 s).
    pub message_timeout: Option<Duration>,
    /// Closes a connection whose output waits and of which the kernel has taken no byte for this
    /// long (60 s).
    pub write_timeout: Option<Duration>,
    /// How long a stop waits for connections to finish (10 s).
    pub drain_timeout: Option<Duration>,
    /// A connection with this many unsent bytes is not read (256 KiB). Below half of that it is
    /// read again, and `on_drain` is called.
    pub high_water: usize,
    /// A connection with this many unsent bytes is closed with a reset (4 MiB).
    pub max_output: usize,
    /// Most bytes that a handler may leave unconsumed; with more the connection ends (1 MiB).
    pub max_input: usize,
    /// Most memory for bytes that wait, in and out, of all connections together (256 MiB).
    pub max_memory: usize,
    /// The permission bits of a Unix socket's file (0600).
    pub unix_mode: u32,
    /// How many servers of this process share each TCP address, with each other and with those of
    /// other processes of the same user; 0 is no sharing (0). At a stop new clients are sent on
    /// to the process that came to the address after this one. SO_REUSEPORT, socket(7)
    pub reuse_port: u32,
    /// How long the server goes on serving after the first signal to stop (0). A load balancer
    /// that checks its health can choose another server meanwhile.
    pub stop_delay: Option<Duration>,
}

impl Limits {
    /// How many connections there can be in all.
    pub(crate) fn slots(&self) -> u32 {
        self.max_connections.saturating_add(self.max_outbound)
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_connections: 10_000,
            max_outbound: 0,
            max_per_address: 0,
            give_way: Some(Duration::from_secs(1)),
            backlog: 4_096,
            idle_timeout: Some(Duration::from_secs(300)),
            message_timeout: Some(Duration::from_secs(30)),
            write_timeout: Some(Duration::from_secs(60)),
            drain_timeout: Some(Duration::from_secs(10)),
            high_water: 256 << 10,
            max_output: 4 << 20,
            max_input: 1 << 20,
            max_memory: 256 << 20,
            unix_mode: 0o600,
            reuse_port: 0,
            stop_delay: None,
        }
    }
}

/// How long a connection is waited for: see [`Limits`], whose values are those of each
/// connection that has none [of its own](crate::Conn::set_timeouts).
///
/// More fields may come with a minor version: end a value with `..conn.timeouts()`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// See [`Limits::idle_timeout`].
    pub idle: Option<Duration>,
    /// See [`Limits::message_timeout`].
    pub message: Option<Duration>,
    /// See [`Limits::write_timeout`].
    pub write: Option<Duration>,
}

/// The same as the loop adds them.
#[derive(Debug)]
pub(crate) struct Spans {
    told: Timeouts,
    pub(crate) idle: Option<Span>,
    pub(crate) message: Option<Span>,
    pub(crate) write: Option<Span>,
    /// While the server stops: since when, and how long it waits for a client's first bytes.
    pub(crate) newcomer: Option<(Moment, Span)>,
}

/// The timeouts of all connections.
#[derive(Debug)]
pub(crate) struct Patience {
    pub(crate) usual: Spans,
    /// Of those that have their own, by slot.
    own: Map<u32, Spans>,
    pub(crate) drain: Option<Span>,
    pub(crate) give_way: Option<Span>,
}

impl Spans {
    fn of(told: Timeouts) -> Spans {
        let [idle, message, write] =
            [told.idle, told.message, told.write].map(|timeout| timeout.map(Span::at_least));
        Spans { told, idle, message, write, newcomer: None }
    }
}

impl Patience {
    pub(crate) fn new(limits: &Limits) -> Patience {
        let usual = Timeouts {
            idle: limits.idle_timeout,
            message: limits.message_timeout,
            write: limits.write_timeout,
        };
        let drain = limits.drain_timeout.map(Span::at_least);
        let give_way = limits.give_way.map(Span::at_least);
        Patience { usual: Spans::of(usual), own: Map::default(), drain, give_way }
    }

    /// Those of a connection.
    #[inline]
    pub(crate) fn of(&self, slot: u32) -> &Spans {
        if self.own.is_empty() {
            return &self.usual;
        }
        self.own.get(&slot).unwrap_or(&self.usual)
    }

    /// The same, as the handler gets and sets them.
    pub(crate) fn told(&self, slot: u32) -> Timeouts {
        self.of(slot).told
    }

    /// `None` if there is no memory for them.
    pub(crate) fn set(&mut self, slot: u32, timeouts: Timeouts) -> Option<()> {
        let newcomer = self.usual.newcomer;
        fallible::put(&mut self.own, slot, Spans { newcomer, ..Spans::of(timeouts) })
    }

    /// The server stops, and waits for `span` for the first bytes of each client.
    pub(crate) fn await_first_bytes(&mut self, since: Moment, span: Span) {
        for spans in self.own.values_mut().chain([&mut self.usual]) {
            spans.newcomer = Some((since, span));
        }
    }

    /// Whether no connection has its own.
    #[inline]
    pub(crate) fn are_usual(&self) -> bool {
        self.own.is_empty()
    }

    /// A connection is gone.
    pub(crate) fn forget(&mut self, slot: u32) {
        self.own.remove(&slot);
    }
}
