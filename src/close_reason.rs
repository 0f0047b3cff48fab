//! Why connections end.
//!
//! Invariant: the same value reaches the handler, the log and the counters. The kinds are
//! declared once; the names and the places in the counters follow from the declaration.

use crate::kernel::Errno;
use crate::reaction::Call;
use std::fmt;

/// Declares [`CloseReason`]: each kind once, with the name that the log and the counters show.
macro_rules! reasons {
    ($($(#[$what:meta])* $kind:ident $({ $call:ident, $errno:ident })? $name:literal,)*) => {
        /// Why a connection ended. The same value reaches the handler, the log and the counters.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum CloseReason {
            $($(#[$what])* $kind $({
                /// The call.
                $call: Call,
                /// Its errno.
                $errno: Errno,
            })?,)*
        }

        /// The kinds alone, to be counted.
        enum Kind {
            $($kind,)*
        }

        impl CloseReason {
            /// The names of the kinds of reasons, in the order of [`CloseReason::kind`].
            pub const KINDS: [&'static str; [$($name),*].len()] = [$($name),*];

            /// Which kind of reason this is: an index into [`CloseReason::KINDS`].
            pub fn kind(self) -> usize {
                match self {
                    $(CloseReason::$kind { .. } => Kind::$kind as usize,)*
                }
            }
        }
    };
}

reasons! {
    /// The peer had sent everything, and was answered.
    PeerClosed "peer closed",
    /// The peer reset the connection, or went away before it had its answer.
    PeerReset "peer reset",
    /// No byte moved for the idle timeout.
    Idle "idle",
    /// The rest of a message did not come within the message timeout.
    MessageTooSlow "message too slow",
    /// The peer took no byte within the write timeout.
    WriteStalled "write stalled",
    /// More output waited than `max_output`.
    OutputLimit "output limit",
    /// The handler left more input unconsumed than `max_input`.
    InputLimit "input limit",
    /// All waiting bytes came to `max_memory`, and of the address that held most it held most.
    MemoryBudget "memory budget",
    /// Its address had `max_per_address` connections already. The handler never saw it.
    AddressLimit "address limit",
    /// All places were taken, a client waited, it was idle, and its address had too many.
    GaveWay "gave way",
    /// It came through a listener for fronts, and did not begin with a whole
    /// [header](crate::proxy_header) in time. The handler never saw it.
    ProxyHeader "bad proxy header",
    /// The handler closed or aborted it.
    Handler "handler",
    /// The server stopped, and the connection had finished.
    Shutdown "shutdown",
    /// The server stopped, and the connection had not finished in time.
    DrainDeadline "drain deadline",
    /// The network failed: a call gave this errno.
    Network { call, errno } "network",
    /// The server could not go on with it: a call gave this errno.
    Server { call, errno } "server",
}

impl CloseReason {
    /// What it means for a connection that `call` failed with `errno`.
    pub(crate) fn of(call: Call, errno: Errno) -> CloseReason {
        match errno {
            Errno::ECONNRESET | Errno::EPIPE => CloseReason::PeerReset,
            _ => CloseReason::Network { call, errno },
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
