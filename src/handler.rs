//! What users write: a [`ConnectionHandler`], and why its connections ended.

use crate::kernel::Errno;
use crate::net::{Conn, ConnId, Net};
use crate::reaction::Call;
use std::fmt;

/// A protocol: what happens to the bytes of a connection.
///
/// One value serves the whole server, on the loop's thread, so what all
/// connections share is simply `self`: no lock, no `Rc`. What belongs to one
/// connection is its `Session`, lent to each call. Who only answers bytes
/// writes only [`on_data`](ConnectionHandler::on_data):
///
/// ```
/// use threadbare::{Conn, ConnectionHandler};
///
/// struct Echo;
///
/// impl ConnectionHandler for Echo {
///     type Session = ();
///     fn on_data(&mut self, conn: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
///         conn.write(input);
///         input.len()
///     }
/// }
/// ```
///
/// A callback must not block: everybody waits for it. A panic unwinds out of
/// [`Server::run`](crate::Server::run).
pub trait ConnectionHandler {
    /// What the handler remembers of one connection.
    type Session: Default;

    /// Bytes have arrived. Returns how many of them, from the front, are done with.
    ///
    /// The rest is offered again together with the next bytes. So consume all
    /// whole messages of `input` and leave the incomplete one, with one
    /// exception: stop when [`conn.is_full()`](Conn::is_full). Then the rest is
    /// offered again, without new bytes, when output has fallen below the low
    /// water mark; the same after [`resume`](Conn::resume).
    ///
    /// To return more than `input.len()` is a bug of the handler, which ends the connection.
    fn on_data(&mut self, conn: &mut Conn<'_>, session: &mut Self::Session, input: &[u8]) -> usize;

    /// A client has connected.
    fn on_open(&mut self, conn: &mut Conn<'_>, session: &mut Self::Session) {
        let _ = (conn, session);
    }

    /// The peer will send no more; `rest` is what `on_data` consumed nothing more of.
    /// The peer may well be waiting for answers: they can still be written.
    fn on_eof(&mut self, conn: &mut Conn<'_>, session: &mut Self::Session, rest: &[u8]) {
        let _ = (session, rest);
        conn.close();
    }

    /// The output, having been full, fell below the low water mark.
    fn on_drain(&mut self, conn: &mut Conn<'_>, session: &mut Self::Session) {
        let _ = (conn, session);
    }

    /// The time set with [`set_timer`](Conn::set_timer) has come.
    fn on_timer(&mut self, conn: &mut Conn<'_>, session: &mut Self::Session) {
        let _ = (conn, session);
    }

    /// The connection is gone, and with it its session.
    fn on_close(&mut self, net: &mut Net, id: ConnId, session: Self::Session, why: CloseReason) {
        let _ = (net, id, session, why);
    }

    /// The server begins to stop: say goodbye to whom it concerns.
    fn on_shutdown(&mut self, net: &mut Net) {
        let _ = net;
    }
}

/// Why a connection ended. The same value reaches the handler, the log and the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The peer had sent everything, and was answered.
    PeerClosed,
    /// The peer reset the connection, or went away before it had its answer.
    PeerReset,
    /// No byte moved for the idle timeout.
    Idle,
    /// The rest of a message did not come within the message timeout.
    MessageTooSlow,
    /// The peer took no byte within the write timeout.
    WriteStalled,
    /// More output waited than `max_output`.
    OutputLimit,
    /// The handler left more input unconsumed than `max_input`.
    InputLimit,
    /// It held the most when all waiting bytes came to `max_memory`.
    MemoryBudget,
    /// Its address had `max_per_address` connections already. The handler never saw it.
    AddressLimit,
    /// The handler closed or aborted it.
    Handler,
    /// The server stopped, and the connection had finished.
    Shutdown,
    /// The server stopped, and the connection had not finished in time.
    DrainDeadline,
    /// The network failed: a call gave this errno.
    Network {
        /// The call.
        call: Call,
        /// Its errno.
        errno: Errno,
    },
    /// The server could not go on with it: a call gave this errno.
    Server {
        /// The call.
        call: Call,
        /// Its errno.
        errno: Errno,
    },
}

impl CloseReason {
    /// The names of the kinds of reasons, in the order of [`CloseReason::kind`].
    pub const KINDS: [&'static str; 14] = [
        "peer closed",
        "peer reset",
        "idle",
        "message too slow",
        "write stalled",
        "output limit",
        "input limit",
        "memory budget",
        "address limit",
        "handler",
        "shutdown",
        "drain deadline",
        "network",
        "server",
    ];

    /// Which kind of reason this is: an index into [`CloseReason::KINDS`].
    pub fn kind(self) -> usize {
        match self {
            CloseReason::PeerClosed => 0,
            CloseReason::PeerReset => 1,
            CloseReason::Idle => 2,
            CloseReason::MessageTooSlow => 3,
            CloseReason::WriteStalled => 4,
            CloseReason::OutputLimit => 5,
            CloseReason::InputLimit => 6,
            CloseReason::MemoryBudget => 7,
            CloseReason::AddressLimit => 8,
            CloseReason::Handler => 9,
            CloseReason::Shutdown => 10,
            CloseReason::DrainDeadline => 11,
            CloseReason::Network { .. } => 12,
            CloseReason::Server { .. } => 13,
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(CloseReason::KINDS.get(self.kind()).unwrap_or(&"unknown"))?;
        match self {
            CloseReason::Network { call, errno } | CloseReason::Server { call, errno } => {
                write!(f, " ({call}: {errno:?})")
            }
            _ => Ok(()),
        }
    }
}
