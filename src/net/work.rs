//! Work: what one share of a turn may cost before the others have theirs.
//!
//! The number of events bounds what is received and answered in a turn. It does not bound what
//! a callback starts: one line of chat may be 8,000 sends. Whatever is more than an answer is
//! counted here, in bytes: a system call as [`CALL`] bytes, a write that needs none of its own as
//! [`WRITE`], bytes as themselves. What is staged is counted then, and not when it is sent, so
//! that a share also bounds what waits to be sent. A share of [`SHARE`] takes a few milliseconds.
//!
//! When a share is spent, nothing is lost or refused. The outbox is due at once, which the loop
//! looks at anyway after each event, so an answer pays nothing for all this. Each kind of work
//! in a turn begins a share of its own and does at least one step, so none starves another.

use super::Net;

/// What may be spent until it is the others' turn.
const SHARE: usize = 4 << 20;
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
            self.table.ledger.outbox.hurry();
        }
    }

    /// Whether it is the others' turn.
    #[inline]
    pub(crate) fn is_spent(&self) -> bool {
        self.spent >= SHARE
    }

    /// Begins a new share.
    pub(crate) fn begin_share(&mut self) {
        self.spent = 0;
        self.table.ledger.outbox.take_its_time();
    }
}
