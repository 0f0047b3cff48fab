//! Output on its way to the kernel: staged, sent, and kept if the kernel does not take it.
//!
//! What a callback writes goes into the outbox that all connections share. [`Net::flush`] sends
//! each of its segments with one call, and only what the kernel did not take moves into the
//! connection's own buffer, or comes behind what waits there already. So a message allocates
//! nothing, and order per connection holds by construction.

use super::Net;
use crate::close_reason::CloseReason;
use crate::connection::ANSWER;
use crate::kernel::{self, Kernel};
use crate::outbox::Outbox;
use crate::reaction::Call;

/// Output is sent when so many bytes wait.
pub(super) const GROUP_BYTES: usize = 64 << 10;

impl Net {
    /// Appends `bytes` to the outbox for `slot`; `false` if it takes none any more.
    #[inline]
    pub(super) fn stage(&mut self, slot: u32, bytes: &[u8]) -> bool {
        self.table.outbox.write(slot, bytes) || self.stage_counted(slot, bytes)
    }

    /// The same for bytes that are more than an answer.
    #[inline(never)]
    fn stage_counted(&mut self, slot: u32, bytes: &[u8]) -> bool {
        self.table.close_answer();
        let written = self.table.outbox.written() + bytes.len();
        if written > self.table.budget.left() && !self.make_room(written) {
            self.abort(slot, CloseReason::MemoryBudget);
        }
        let most = self.table.budget.left();
        let put = |outbox: &mut Outbox| bytes.is_empty() || outbox.append(slot, bytes, most);
        let staged = self.table.stage(slot, bytes.len(), put);
        if !staged && self.table.look(slot).is_some_and(|c| c.state.is_behind_a_file()) {
            self.wrote_behind_a_file(slot);
        }
        staged
    }

    /// If these are the bytes that were staged last, they need not be staged again.
    pub(super) fn stage_again(&mut self, slot: u32, bytes: &[u8]) -> bool {
        self.table.stage(slot, bytes.len(), |outbox| outbox.repeat(slot, bytes))
    }

    /// Bytes cannot be queued behind a file, and the answer without them would be corrupt.
    #[cold]
    pub(super) fn wrote_behind_a_file(&mut self, slot: u32) {
        self.counters.bug("the handler wrote while a file was being sent");
        self.abort(slot, CloseReason::Handler);
    }

    /// Sends what is staged if it is enough for a group.
    #[inline]
    pub(crate) fn flush_group<K: Kernel>(&mut self, kernel: &mut K) {
        if self.table.outbox.written() >= GROUP_BYTES {
            self.flush(kernel);
        }
    }

    /// Sends what is staged: one `send` a segment.
    pub(crate) fn flush<K: Kernel>(&mut self, kernel: &mut K) {
        if self.table.outbox.is_empty() {
            return;
        }
        for index in 0..self.table.outbox.len() {
            let Some((slot, bytes, mut connection)) = self.table.segment(index) else { continue };
            if connection.staged != ANSWER {
                self.lend_outbox(index, |net, bytes| net.transmit(kernel, slot, bytes));
                continue;
            }
            connection.take_answer();
            match kernel.send(&connection.fd, bytes) {
                Ok(n) if n == bytes.len() => connection.answered(n),
                sent => self.lend_outbox(index, |net, bytes| net.sent_less(slot, bytes, sent)),
            }
        }
        self.table.outbox.clear();
    }

    /// Lends out the bytes of a segment, to what changes all the rest.
    #[inline(never)]
    fn lend_outbox(&mut self, index: usize, act: impl FnOnce(&mut Net, &[u8])) {
        let outbox = self.table.take_outbox();
        if let Some((_, bytes)) = outbox.get(index) {
            act(self, bytes);
        }
        self.table.put_outbox(outbox);
    }

    /// Sends a segment of a connection to which more happens than an answer, or keeps what
    /// the kernel does not take.
    fn transmit<K: Kernel>(&mut self, kernel: &mut K, slot: u32, bytes: &[u8]) {
        let Some(mut connection) = self.table.tally(slot) else { return };
        connection.take_staged(bytes.len());
        let Some(unsent) = connection.state.unsent() else { return };
        if !unsent.bytes.is_empty() || !connection.can_send() {
            return self.keep_output(slot, bytes);
        }
        match kernel.send(&connection.fd, bytes) {
            Ok(n) if n == bytes.len() => connection.sent(n, self.now),
            sent => self.sent_less(slot, bytes, sent),
        }
    }

    /// The kernel did not take all of a segment.
    #[cold]
    fn sent_less(&mut self, slot: u32, bytes: &[u8], sent: kernel::Result<usize>) {
        match sent {
            Ok(n) => self.moved(slot, n),
            Err(errno) => self.failed(slot, Call::Send, errno),
        }
        self.keep_output(slot, bytes.get(sent.unwrap_or(0)..).unwrap_or_default());
    }

    /// Sends from the connection's own output.
    pub(crate) fn send_waiting<K: Kernel>(&mut self, kernel: &mut K, slot: u32) {
        let Some(connection) = self.table.look(slot) else { return };
        let Some(unsent) = connection.state.unsent() else { return };
        if !connection.can_send() {
            return;
        }
        if unsent.bytes.is_empty() {
            return self.send_file(kernel, slot);
        }
        match kernel.send(&connection.fd, unsent.bytes.as_slice()) {
            Ok(n) => {
                self.change(slot, |connection| {
                    connection.state.unsent_mut().map(|unsent| unsent.bytes.consume(n))
                });
                self.moved(slot, n);
            }
            Err(errno) => self.failed(slot, Call::Send, errno),
        }
    }

    /// The kernel took `n` bytes that had waited.
    pub(super) fn moved(&mut self, slot: u32, n: usize) {
        let now = self.now;
        self.change(slot, |connection| connection.moved(n, now));
    }

    /// Keeps output that the kernel did not take.
    #[cold]
    pub(super) fn keep_output(&mut self, slot: u32, bytes: &[u8]) {
        let (now, max_output, spare) = (self.now, self.limits.max_output, self.spare());
        self.change(slot, |connection| {
            let Some(unsent) = connection.state.unsent_mut() else { return };
            let output = &mut unsent.bytes;
            if output.push(bytes, spare, now).is_err() {
                connection.abort(CloseReason::MemoryBudget);
            } else if output.len() > max_output {
                connection.abort(CloseReason::OutputLimit);
            }
        });
    }
}
