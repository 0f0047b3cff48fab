//! Output on its way to the kernel: first staged, then sent.
//!
//! What a callback writes goes into the outbox that all connections share. [`Net::flush`] sends
//! all there is for a connection with one call, and only what the kernel did not take is
//! [kept](super::keeping). So a message allocates nothing.

use super::Net;
use super::quantum::{CALL, WRITE};
use crate::close_reason::CloseReason;
use crate::kernel::{self, Kernel};
use crate::reaction::Call;
use std::ops::Range;

/// Most bytes of memory that linking a piece to a connection takes.
const LINK: usize = 32;

impl Net {
    /// Appends `bytes` to the outbox for `slot`. Returns `false` if it takes none any more.
    #[inline]
    pub(super) fn stage(&mut self, slot: u32, bytes: &[u8]) -> bool {
        self.table.ledger.outbox.write(slot, bytes) || self.stage_counted(slot, bytes)
    }

    /// Stages bytes that are more than an answer. The bytes that were staged last are not
    /// stored a second time.
    #[inline(never)]
    pub(super) fn stage_counted(&mut self, slot: u32, bytes: &[u8]) -> bool {
        if !self.has_room_for(slot, LINK) {
            return false;
        }
        let chains = self.staged();
        self.spend(WRITE); // even if the kernel takes none of it
        let Some((staged, outbox, is_behind_a_file)) = self.table.stage(slot) else { return false };
        if is_behind_a_file {
            return self.keep_behind(slot, bytes);
        }
        let is_there = bytes.is_empty() || outbox.repeat(slot, staged, bytes);
        let is_there = is_there || self.append(slot, bytes);
        if is_there {
            self.table.staged(slot);
            let is_new = self.staged() > chains; // to be sent by a call of its own
            self.spend(if is_new { CALL } else { 0 } + bytes.len());
        }
        is_there
    }

    /// Stores bytes for `slot` in the outbox. Returns whether they are there.
    fn append(&mut self, slot: u32, bytes: &[u8]) -> bool {
        if !self.has_room_for(slot, bytes.len() + LINK) {
            return false;
        }
        let most = self.table.ledger.budget.left();
        let Some((staged, outbox, _)) = self.table.stage(slot) else { return false };
        let is_there = outbox.append(slot, staged, bytes, most);
        if !is_there {
            self.abort(slot, CloseReason::MemoryBudget);
        }
        is_there
    }

    /// Whether the outbox can take `more` bytes for `slot`. Where it cannot, the connections that
    /// owe most are closed to make room.
    pub(super) fn has_room_for(&mut self, slot: u32, more: usize) -> bool {
        let held = self.table.ledger.outbox.held() + more;
        let has_room = held <= self.table.ledger.budget.left() || self.make_room(held);
        if !has_room {
            self.abort(slot, CloseReason::MemoryBudget);
        }
        has_room
    }

    /// Whether staged output should be sent now.
    #[inline]
    pub(crate) fn is_due(&self) -> bool {
        self.table.ledger.outbox.is_due()
    }

    /// For how many connections something is staged.
    #[inline]
    pub(crate) fn staged(&self) -> usize {
        self.table.ledger.outbox.len()
    }

    /// Sends what is staged if that is for at most `most` connections: mere answers. A broadcast
    /// waits, because the rest of the batch may add to it.
    #[inline]
    pub(crate) fn flush_answers<K: Kernel>(&mut self, kernel: &mut K, most: usize) {
        if (1..=most).contains(&self.staged()) {
            self.send_chains(kernel, 0..self.staged());
            self.sent_all();
        }
    }

    pub(crate) fn is_flushed(&self) -> bool {
        self.table.ledger.outbox.is_empty()
    }

    /// Sends what is staged.
    #[inline(never)]
    pub(crate) fn flush<K: Kernel>(&mut self, kernel: &mut K) {
        self.send_chains(kernel, 0..self.staged());
        self.sent_all();
    }

    /// Empties the outbox, because all that was staged is sent.
    pub(crate) fn sent_all(&mut self) {
        self.table.ledger.outbox.clear();
    }

    /// Sends some of the outbox, with one call for each connection. Answers to messages are sent
    /// right here; all other output by `transmit`.
    #[inline]
    pub(crate) fn send_chains<K: Kernel>(&mut self, kernel: &mut K, indices: Range<usize>) {
        for index in indices {
            let Some((slot, bytes, mut connection)) = self.table.chain(index) else { continue };
            if !connection.staged.is_answer() {
                self.transmit(kernel, slot, index);
                continue;
            }
            connection.take_staged();
            match kernel.send(&connection.fd, bytes) {
                Ok(n) if n == bytes.len() => connection.answered(n),
                sent => self.sent_less(slot, index, 0, Call::Send, sent),
            }
        }
    }

    /// Sends the chain of a connection to which more happens than an answer, or keeps what
    /// the kernel does not take.
    #[inline(never)]
    fn transmit<K: Kernel>(&mut self, kernel: &mut K, slot: u32, index: usize) {
        let Some(mut connection) = self.table.tally(slot) else { return };
        connection.take_staged();
        let Some(unsent) = connection.state.unsent() else { return };
        if !unsent.bytes.is_empty() || !connection.can_send() {
            return self.keep_chain(slot, index, 0);
        }
        let (mut walk, mut taken) = (self.table.ledger.outbox.walk(index), 0);
        loop {
            let due = self.table.ledger.outbox.gather(&mut walk);
            if due == 0 {
                break;
            }
            let Some(connection) = self.table.look(slot) else { return };
            let follows = !walk.goes_on() && connection.state.is_followed();
            let (call, sent) =
                self.table.ledger.outbox.send_gathered(kernel, &connection.fd, follows);
            if sent != Ok(due) {
                return self.sent_less(slot, index, taken, call, sent);
            }
            taken += due;
        }
        if let Some(mut connection) = self.table.tally(slot) {
            connection.sent(taken, self.now);
        }
    }

    /// The kernel did not take all of a chain, of which it had taken some before.
    #[cold]
    fn sent_less(
        &mut self,
        slot: u32,
        index: usize,
        before: usize,
        call: Call,
        sent: kernel::Result<usize>,
    ) {
        let taken = before + sent.unwrap_or(0);
        self.moved(slot, taken);
        if let Err(errno) = sent {
            self.failed(slot, call, errno);
        }
        self.keep_chain(slot, index, taken);
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
        let Some((connection, bytes)) = self.table.waiting(slot) else { return };
        match kernel.send(&connection.fd, bytes) {
            Ok(n) => {
                self.change(slot, |connection| {
                    connection.state.unsent_mut().map(|unsent| unsent.bytes.consume(n))
                });
                self.moved(slot, n);
                self.spend(CALL + n);
            }
            Err(errno) => self.failed(slot, Call::Send, errno),
        }
    }

    /// The kernel took `n` bytes that had waited.
    pub(super) fn moved(&mut self, slot: u32, n: usize) {
        let now = self.now;
        self.change(slot, |connection| connection.moved(n, now));
    }
}
