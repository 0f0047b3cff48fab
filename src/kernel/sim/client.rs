//! The other side: clients and servers that a test controls.

use super::stream::{EndId, Streams};
use super::{Errno, Peer, Result, Simulated};
use std::time::Duration;

/// A client of a server on a [`Simulated`] kernel. Dropping it closes it.
///
/// A client never blocks, and no fault fails its calls. It reads only in
/// [`recv`](Client::recv): without that, bytes for it fill the buffers. Like any program it
/// learns from the next call what happened to its connection: so receive first, and then
/// check [`saw_eof`](Client::saw_eof).
#[derive(Debug)]
pub struct Client {
    kernel: Simulated,
    /// Its end of the connection, until it closes.
    end: Option<EndId>,
    address: Peer,
    eof: bool,
    reset: bool,
    error: Option<Errno>,
}

impl Client {
    pub(super) fn new(kernel: Simulated, end: EndId, address: Peer) -> Client {
        Client { kernel, end: Some(end), address, eof: false, reset: false, error: None }
    }

    /// Its address, as accept4 returns it to the server.
    pub fn address(&self) -> Peer {
        self.address
    }

    /// The number of its connection, as the [trace](Simulated::trace) has it. None after close.
    pub fn connection(&self) -> Option<u64> {
        self.end.map(Streams::pair)
    }

    /// Clogs the link to the server for this long from now, in place of an earlier clog:
    /// nothing crosses it meanwhile, in either direction. The clog outlives the client. On a
    /// Unix socket it does nothing.
    pub fn clog(&self, time: Duration) {
        let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        if let Some(end) = self.end {
            self.kernel.world().streams.clog(end, time);
        }
    }

    /// The link is free again: what was held back arrives.
    pub fn unclog(&self) {
        if let Some(end) = self.end {
            self.kernel.client(|world| world.unclog(Streams::pair(end)));
        }
    }

    /// Whether the server's kernel has answered: the connection is in the accept queue or
    /// beyond. It is not while that queue is full, or SYNs are dropped.
    pub fn established(&self) -> bool {
        let world = self.kernel.world();
        let end = self.end.and_then(|end| world.streams.get(end));
        end.is_some_and(|end| end.established)
    }

    /// Sends bytes. Returns how many found room: 0 if none did, or the connection has ended.
    pub fn send(&mut self, bytes: &[u8]) -> usize {
        let result = self.with(|streams, end| streams.send(end, bytes));
        self.noted(result).unwrap_or_default()
    }

    /// Sends an urgent byte, as MSG_OOB does. Returns whether it stays among the others, which it
    /// does if the server has set SO_OOBINLINE and there is room.
    pub fn send_urgent(&mut self, byte: u8) -> bool {
        let is_inline = self.with(|streams, end| streams.keeps_urgent(end));
        is_inline.unwrap_or_default() && self.send(&[byte]) == 1
    }

    /// Receives everything there is now.
    pub fn recv(&mut self) -> Vec<u8> {
        self.recv_at_most(usize::MAX)
    }

    /// Receives at most this many of the bytes that are there now.
    pub fn recv_at_most(&mut self, most: usize) -> Vec<u8> {
        let mut received = Vec::new();
        let mut buffer = [0; 16 * 1024];
        while received.len() < most {
            let size = buffer.len().min(most - received.len());
            let place = buffer.get_mut(..size).unwrap_or_default();
            let result = self.with(|streams, end| streams.recv(end, place));
            match self.noted(result) {
                Some(0) => {
                    self.eof |= !self.reset && self.error != Some(Errno::ECONNREFUSED);
                    break;
                }
                Some(length) => received.extend(buffer.iter().take(length)),
                None => break,
            }
        }
        received
    }

    /// Sends FIN: the server reads EOF behind the bytes that were sent.
    pub fn shutdown(&mut self) {
        let _ = self.with(Streams::shutdown);
    }

    /// Closes. The connection is reset if input is unread, as on Linux. Later calls of this
    /// client do nothing.
    pub fn close(&mut self) {
        if let Some(end) = self.end.take() {
            self.kernel.client(|world| world.streams.close(end, false));
        }
    }

    /// Closes with a reset, as SO_LINGER with 0 seconds does on Linux. A Unix socket just
    /// closes.
    pub fn reset(&mut self) {
        let _ = self.with(|streams, end| {
            streams.get_mut(end).ok_or(Errno::EBADF)?.options.reset_on_close = true;
            Ok(())
        });
        self.close();
    }

    /// Whether [`recv`](Client::recv) has reached EOF: `false` before there was one.
    pub fn saw_eof(&self) -> bool {
        self.eof
    }

    /// Whether a call has failed with ECONNRESET: `false` before there was one.
    pub fn saw_reset(&self) -> bool {
        self.reset
    }

    /// The errno of the first send or recv that failed: ECONNRESET, ECONNREFUSED, EPIPE; EBADF
    /// after close.
    pub fn error(&self) -> Option<Errno> {
        self.error
    }

    /// Does something with its end.
    fn with<T>(&self, act: impl FnOnce(&mut Streams, EndId) -> Result<T>) -> Result<T> {
        let end = self.end.ok_or(Errno::EBADF)?;
        self.kernel.client(|world| act(&mut world.streams, end))
    }

    fn noted<T>(&mut self, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(Errno::EAGAIN) => None,
            Err(errno) => {
                self.reset |= errno == Errno::ECONNRESET;
                self.error.get_or_insert(errno);
                None
            }
        }
    }
}

/// A server on another host, controlled by the test. Dropping it closes its listener.
#[derive(Debug)]
pub struct Remote {
    kernel: Simulated,
    number: i32,
}

impl Remote {
    pub(super) fn new(kernel: Simulated, number: i32) -> Remote {
        Remote { kernel, number }
    }

    /// Accepts the first connection in its queue. Returns its end, which behaves like a
    /// client's.
    pub fn accept(&mut self) -> Option<Client> {
        let (end, address) = self.kernel.client(|world| world.accept_remote(self.number))?;
        Some(Client::new(self.kernel.clone(), end, address))
    }

    /// Sets how many clients may wait to be accepted: one more than `backlog`.
    pub fn set_backlog(&mut self, backlog: usize) {
        self.kernel.client(|world| world.set_remote_backlog(self.number, backlog));
    }

    /// With `true` it answers no new connection, as a host that is down; `false` ends that.
    pub fn mute(&mut self, mute: bool) {
        self.kernel.client(|world| world.mute_remote(self.number, mute));
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.kernel.client(|world| world.close_remote(self.number));
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.close();
    }
}
