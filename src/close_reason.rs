//! Why connections end.

use crate::kernel::Errno;
use crate::reaction::Call;
use std::fmt;

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

    /// What it means for a connection that `call` failed with `errno`.
    pub(crate) fn of(call: Call, errno: Errno) -> CloseReason {
        match errno {
            Errno::ECONNRESET | Errno::EPIPE => CloseReason::PeerReset,
            _ => CloseReason::Network { call, errno },
        }
    }

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
