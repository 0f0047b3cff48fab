//! The quantum: how much work is done for some before the others have their turn.
//!
//! The number of events bounds what is received and answered in a turn of the loop. It does not
//! bound what a callback starts: one line of chat may be 8,000 sends. So all work that is more
//! than an answer is counted here, in bytes: a system call as [`CALL`] bytes, a write that needs
//! no call of its own as [`WRITE`], bytes as themselves. What is staged is counted then, not when
//! it is sent, so that a quantum also bounds what waits to be sent. It takes a few milliseconds.
//!
//! When the quantum is spent, nothing is lost or refused: the outbox is due at once. The loop
//! checks that after each event anyway, so an answer pays nothing for all this. Each kind of work
//! in a turn begins a quantum of its own and does at least one step, so none starves another.

use super::Net;

/// The work of a quantum, in bytes.
const QUANTUM: usize = 4 << 20;
/// Bytes that can be copied in about the time of a system call.
pub(crate) const CALL: usize = 4 << 10;
/// Bytes that can be copied in about the time of appending to a chain.
pub(super) const WRITE: usize = 64;

impl Net {
    /// Counts work.
    #[inline]
    pub(crate) fn spend(&mut self, bytes: usize) {
        self.spent += bytes;
        if self.is_spent() {
            self.table.ledger.outbox.make_due();
        }
    }

    /// Whether it is the others' turn.
    #[inline]
    pub(crate) fn is_spent(&self) -> bool {
        self.spent >= QUANTUM
    }

    /// The next kind of work begins.
    pub(crate) fn begin_quantum(&mut self) {
        self.spent = 0;
        self.table.ledger.outbox.take_its_time();
    }
}
