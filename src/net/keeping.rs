//! Output that the kernel did not take: it waits in the connection's own buffer.
//!
//! It comes behind what waits there already, or behind a file that is being sent; so the order
//! of a connection's bytes holds by construction. What may wait is bounded, for each connection
//! and for all of them, and a connection that exceeds a bound ends.

use super::Net;
use crate::close_reason::CloseReason;
use crate::connection::Unsent;
use crate::time::Moment;

impl Net {
    /// Keeps what the kernel did not take of a chain: all but the first `taken` bytes.
    #[cold]
    pub(super) fn keep_chain(&mut self, slot: u32, index: usize, taken: usize) {
        let outbox = self.table.take_outbox(); // what changes is all the rest
        let left = outbox.length(index).saturating_sub(taken);
        self.make_room(outbox.held() + left);
        self.keep(slot, left, |unsent, now| {
            unsent.bytes.push_all(left, outbox.rest(index, taken), now)
        });
        self.table.put_outbox(outbox);
    }

    /// Keeps bytes behind the file that a connection is sending; whether they are there.
    #[cold]
    pub(super) fn keep_behind(&mut self, slot: u32, bytes: &[u8]) -> bool {
        self.has_room_for(slot, bytes.len())
            && self.keep(slot, bytes.len(), |unsent, now| match &mut unsent.file {
                Some(behind) => behind.push(bytes, now),
                None => unsent.bytes.push(bytes, now),
            })
    }

    /// Keeps `length` bytes more. If none waited before, that may be more than are allowed to
    /// wait: then the next are too much.
    fn keep(
        &mut self,
        slot: u32,
        length: usize,
        push: impl FnOnce(&mut Unsent, Moment) -> Option<()>,
    ) -> bool {
        let (now, max_output) = (self.now, self.limits.max_output);
        let Some(mut connection) = self.table.edit(slot) else { return false };
        let Some(unsent) = connection.state.unsent_mut() else { return false };
        let waits = unsent.len();
        if waits > 0 && waits + length > max_output {
            connection.abort(CloseReason::OutputLimit);
            return false;
        }
        let is_kept = push(unsent, now).is_some();
        if !is_kept {
            connection.abort(CloseReason::MemoryBudget);
        }
        is_kept
    }
}
