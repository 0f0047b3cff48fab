//! Output that is a part of a file: it goes from the page cache to the socket, and
//! user memory never sees it.
//!
//! The file comes behind the bytes that wait, and bytes that are written before it is sent
//! come behind it: meanwhile the connection counts as full. It belongs to `Net` from the
//! moment it is handed over, and is closed in any case, because it is dropped.

use super::quantum::CALL;
use super::{Conn, File, Net};
use crate::buffer::Buffer;
use crate::close_reason::CloseReason;
use crate::connection::Unsent;
use crate::fallible;
use crate::kernel::{Errno, Kernel, OUT, SocketOption};
use crate::reaction::{Call, Reaction, reaction, tolerate};
use std::alloc::Layout;

/// Most bytes sent at once, because all connections wait for it. More is no faster (measured).
const CHUNK: u64 = 256 << 10;
/// What is read at once from a file that sendfile does not take.
const READ_CHUNK: u64 = 64 << 10;

/// What is left to send of a file.
#[derive(Debug)]
pub(crate) struct FilePart {
    file: File,
    offset: u64,
    left: u64,
    /// The kernel sends whole segments only, because more follows.
    is_corked: bool,
}

impl Conn<'_> {
    /// Sends `length` bytes of an open file, from `offset` on, behind what was written.
    /// sendfile(2)
    ///
    /// From now on the connection [is full](Conn::is_full), until the kernel has taken
    /// them all: then `on_drain` says so. Bytes written meanwhile wait behind the file. To send
    /// a second file meanwhile is a bug of the handler, which ends the connection. The file is
    /// closed when it is sent, or cannot be; if it turns out to be shorter than that, the
    /// connection is reset.
    ///
    /// SIGPIPE must be ignored, as Rust's runtime sees to before `main`: `sendfile` knows no
    /// MSG_NOSIGNAL, and a client that leaves would end the process.
    ///
    /// ```
    /// # use threadbare::{Conn, Directory, Errno};
    /// /// `directory` is from [`Net::open_directory`](threadbare::Net::open_directory): the file is
    /// /// beneath it, whatever the client wrote.
    /// fn send_file(conn: &mut Conn<'_>, directory: &Directory, path: &str) -> Result<(), Errno> {
    ///     let file = directory.open(path)?;
    ///     let length = file.status()?.size;
    ///     writeln!(conn, "{length}");
    ///     conn.write_file(file, 0, length);
    ///     Ok(())
    /// }
    /// ```
    pub fn write_file(&mut self, file: impl Into<File>, offset: u64, length: u64) {
        let file = file.into();
        let Conn { net, slot } = self;
        if net.table.look(*slot).is_some_and(|c| c.state.is_behind_a_file()) {
            net.counters.bug("the handler sent a file while a file was being sent");
            net.abort(*slot, CloseReason::Handler);
        }
        let takes = net.table.look(*slot).is_some_and(|c| c.state.takes_output());
        if !takes || length == 0 {
            return;
        }
        let now = net.now;
        let part = FilePart { file, offset, left: length, is_corked: false };
        let is_noted = fallible::put(&mut net.files, *slot, part).is_some();
        if !is_noted || !fallible::has_room_for(Layout::new::<Buffer>()) {
            return self.out_of_memory();
        }
        net.change(*slot, |connection| {
            connection.touch(now); // from now on the kernel must take some
            connection.state.write_file();
        });
    }
}

impl Net {
    /// Sends from a file for which no event has been asked yet.
    #[inline]
    pub(crate) fn begin_file<K: Kernel>(&mut self, kernel: &mut K, slot: u32) {
        let Some(connection) = self.table.look(slot) else { return };
        let has_file = connection.state.unsent().is_some_and(|unsent| unsent.file.is_some());
        let is_asked = connection.registered & OUT as u8 != 0;
        if has_file && !is_asked && !self.is_spent() {
            self.send_file(kernel, slot);
        }
    }

    /// Sends from the file of a connection that has nothing else to send.
    pub(crate) fn send_file<K: Kernel>(&mut self, kernel: &mut K, slot: u32) {
        let Some(connection) = self.table.look(slot) else { return };
        let is_next = |unsent: &Unsent| unsent.bytes.is_empty() && unsent.file.is_some();
        let is_next = connection.state.unsent().is_some_and(is_next);
        if !is_next || !connection.staged.is_nothing() || !connection.can_send() {
            return;
        }
        let Some(FilePart { file, offset, left, is_corked }) = self.files.get_mut(&slot) else {
            return;
        };
        let left = *left;
        let count = CHUNK.min(left) as usize;
        let sent = kernel.sendfile(&connection.fd, file.fd(), *offset, count);
        // A call ends within a segment, and TCP_NODELAY would let each of these ends leave as a
        // small packet of its own: of a download, these cost a third.
        let goes_on = match sent {
            Ok(n) => n > 0 && left > n as u64,
            Err(errno) => *is_corked && reaction(Call::SendFile, errno) != Reaction::Degrade,
        };
        if goes_on != *is_corked {
            *is_corked = goes_on;
            let option = SocketOption::Cork(goes_on);
            tolerate(Call::SetTunable, kernel.setsockopt(&connection.fd, option));
        }
        match sent {
            Ok(0) => self.file_failed(slot, Call::SendFile, Errno::ENODATA), // it has shrunk
            Ok(n) => {
                self.spend(CALL + n);
                self.moved(slot, n);
                self.advance_file(slot, n);
            }
            Err(errno) if reaction(Call::SendFile, errno) == Reaction::Degrade => {
                self.read_file(kernel, slot);
            }
            Err(errno) => self.failed(slot, Call::SendFile, errno),
        }
    }

    /// Some file systems do not let their files be sent: then they are read.
    #[cold]
    fn read_file<K: Kernel>(&mut self, kernel: &mut K, slot: u32) {
        self.flush(kernel); // the buffer may hold what others are to get
        let Some(FilePart { file, offset, left, .. }) = self.files.get(&slot) else { return };
        let most = READ_CHUNK.min(*left).min(self.limits.max_output as u64).max(1);
        let mut outbox = self.table.take_outbox();
        let bytes = outbox.scratch(most as usize);
        match kernel.pread64(file.fd(), bytes, *offset) {
            Ok(0) => self.file_failed(slot, Call::ReadFile, Errno::ENODATA),
            Ok(n) => {
                self.spend(CALL + n);
                let (bytes, now) = (bytes.get(..n).unwrap_or_default(), self.now);
                self.change(slot, |connection| {
                    let unsent = connection.state.unsent_mut();
                    if unsent.is_some_and(|unsent| unsent.bytes.push(bytes, now).is_none()) {
                        connection.abort(CloseReason::MemoryBudget);
                    }
                });
                self.advance_file(slot, n);
            }
            Err(errno) if reaction(Call::ReadFile, errno) == Reaction::Retry => {}
            Err(errno) => self.file_failed(slot, Call::ReadFile, errno),
        }
        self.table.put_outbox(outbox);
    }

    /// `n` bytes of the file are done with.
    fn advance_file(&mut self, slot: u32, n: usize) {
        let Some(part) = self.files.get_mut(&slot) else { return };
        part.offset += n as u64;
        part.left = part.left.saturating_sub(n as u64);
        if part.left == 0 {
            self.close_file(slot);
            let now = self.now;
            self.change(slot, |connection| {
                let unsent = connection.state.unsent_mut();
                if unsent.is_some_and(|unsent| unsent.file_sent(now).is_none()) {
                    connection.abort(CloseReason::MemoryBudget);
                }
            });
        }
    }

    /// The rest of the file is not to be had: the answer cannot become whole.
    /// What stands before it is delivered, whole answers among it.
    fn file_failed(&mut self, slot: u32, call: Call, errno: Errno) {
        self.close_file(slot);
        let (why, now) = (CloseReason::Server { call, errno }, self.now);
        self.change(slot, |connection| {
            if let Some(unsent) = connection.state.unsent_mut() {
                unsent.file = None; // and what stands behind it
            }
            connection.abort_behind(why, now);
        });
    }

    /// Closes the file of a connection, if it has one.
    pub(super) fn close_file(&mut self, slot: u32) {
        self.files.remove(&slot);
    }
}
