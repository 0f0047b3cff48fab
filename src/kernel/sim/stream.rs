//! Connections: two ends, the bytes between them, and how a connection ends.
//!
//! Bytes that an end sends go into its own `outbox` (the send buffer); from there, as far
//! as the receive window allows, onto the `wire`; and from there into the `inbox` of the
//! other end. A reset shows the difference: inbox and wire survive it, the outbox does
//! not. On a free link the wire is empty again at once. On a clogged one nothing crosses,
//! in either direction, until it is free: no bytes, FIN or reset, no answer to a SYN, and
//! no window update (see `links`). A Unix socket has neither outbox nor wire: bytes that
//! are sent have arrived, and count against the sender's buffer until they are read.
//!
//! A few flags, named after the kernel's own fields, represent the states of tcp(7) and
//! unix(7):
//!
//! | flag | in the kernel | set by |
//! |---|---|---|
//! | `send_shut` | `SEND_SHUTDOWN` | shutdown; a reset; on a Unix socket the peer's close too |
//! | `recv_shut` | `RCV_SHUTDOWN` | the peer's FIN; a reset |
//! | `fin_sent`, `rst_sent` | in flight | they are on the wire, behind its bytes |
//! | `done` | `SOCK_DONE` | the peer's FIN (TCP only): recv returns 0 from now on |
//! | `dead` | `TCP_CLOSE` | both FINs; a reset (TCP only) |
//! | `error` | `sk_err` | a reset; returned once; until then EPOLLERR |
//!
//! Invariants, after each operation:
//! - a byte is in one queue only, and they keep their order: inbox, wire, outbox;
//! - what is on the wire fits into the peer's inbox;
//! - on a free link the wire is empty, and the outbox is not empty only while the peer's
//!   inbox is full;
//! - `done` implies `recv_shut`; `dead` with a peer implies both directions are shut;
//! - a connection is forgotten when both its ends are closed.

use std::collections::{BTreeMap, VecDeque};

use super::links::Links;
use super::{Address, ERR, Errno, HUP, IN, OUT, Peer, RDHUP, Result};

/// The socket options that change the behavior of a connection.
#[derive(Clone, Copy)]
pub(super) struct Options {
    pub(super) reuse_address: bool,
    /// SYNs are not answered (of another host),
    pub(super) reuse_port: bool,
    pub(super) drop_syn: bool,
    /// or refused.
    pub(super) refuse_syn: bool,
    pub(super) reset_on_close: bool,
    pub(super) urgent_inline: bool,
    pub(super) not_sent_lowat: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            reuse_address: false,
            reuse_port: false,
            drop_syn: false,
            refuse_syn: false,
            reset_on_close: false,
            urgent_inline: false,
            not_sent_lowat: usize::MAX,
        }
    }
}

/// The sizes of an outbox and of an inbox, in bytes.
#[derive(Clone, Copy)]
pub(super) struct Capacity {
    pub(super) outbox: usize,
    pub(super) inbox: usize,
}

/// One end of a connection, by connection and side: the other end is `id ^ 1`.
pub(super) type EndId = u64;

/// One end of a connection.
pub(super) struct End {
    tcp: bool,
    /// What getsockname returns.
    pub(super) local: Address,
    /// The address that the other end's accept4 returns.
    pub(super) name: Peer,
    pub(super) options: Options,
    capacity: Capacity,
    /// The descriptor that owns it; none at the client's end, in the accept queue, or after close.
    pub(super) fd: Option<i32>,
    inbox: VecDeque<u8>,
    wire: VecDeque<u8>,
    outbox: VecDeque<u8>,
    /// The room in the peer's inbox, as last announced (the window).
    window: usize,
    /// The SYN has not been answered yet.
    pub(super) connecting: bool,
    /// It has been answered.
    pub(super) established: bool,
    send_shut: bool,
    recv_shut: bool,
    done: bool,
    dead: bool,
    /// Our FIN follows the last byte of the outbox.
    fin_sent: bool,
    fin_arrived: bool,
    /// Our reset is on the wire.
    rst_sent: bool,
    /// The last bytes were sent with MSG_MORE: their packet waits for what follows.
    waits_for_more: bool,
    /// No program holds it; what is left of it is between the two kernels.
    closed: bool,
    error: Option<Errno>,
}

impl End {
    pub(super) fn new(local: Address, name: Peer, options: Options, capacity: Capacity) -> End {
        End {
            tcp: matches!(local, Address::Tcp(_)),
            local,
            name,
            options,
            capacity,
            fd: None,
            inbox: VecDeque::new(),
            wire: VecDeque::new(),
            outbox: VecDeque::new(),
            window: capacity.inbox,
            connecting: false,
            established: false,
            send_shut: false,
            recv_shut: false,
            done: false,
            dead: false,
            fin_sent: false,
            fin_arrived: false,
            rst_sent: false,
            waits_for_more: false,
            closed: false,
            error: None,
        }
    }

    /// A reset arrives. An end that has the peer's FIN and has not sent its own gets EPIPE
    /// instead of ECONNRESET (`tcp_reset` in the kernel: TCP_CLOSE_WAIT).
    fn reset(&mut self) {
        if !self.dead {
            let waits = self.done && !self.send_shut;
            self.die(match self.connecting {
                true => Errno::ECONNREFUSED,
                false if waits => Errno::EPIPE,
                false => Errno::ECONNRESET,
            });
        }
    }

    /// Ends the connection with a reset, which goes to the peer.
    fn abort(&mut self) {
        self.die(Errno::ECONNRESET);
        self.rst_sent = true;
    }

    fn die(&mut self, error: Errno) {
        self.error = Some(error);
        self.connecting = false;
        (self.send_shut, self.recv_shut, self.dead) = (true, true, true);
        self.outbox.clear();
    }

    /// The events that epoll reports: `tcp_poll` and `unix_poll`.
    fn poll(&self, peer: &End) -> u32 {
        if self.connecting {
            return 0;
        }
        let mut mask = 0;
        if self.recv_shut || !self.inbox.is_empty() {
            mask |= IN;
        }
        if self.recv_shut {
            mask |= RDHUP;
        }
        let writable = if self.tcp {
            // At least a third of the buffer free, and half of NOTSENT_LOWAT.
            let (unsent, unacknowledged) = (self.outbox.len(), self.wire.len());
            self.send_shut
                || ((unsent + unacknowledged) * 3 <= self.capacity.outbox * 2
                    && unsent * 2 < self.options.not_sent_lowat)
        } else {
            // At least three quarters free.
            peer.inbox.len() * 4 <= self.capacity.outbox
        };
        if writable {
            mask |= OUT;
        }
        if self.dead || (self.send_shut && self.recv_shut) {
            mask |= HUP;
        }
        if self.error.is_some() {
            mask |= ERR;
        }
        mask
    }

    /// `tcp_recvmsg` and `unix_stream_read_generic`.
    fn recv(&mut self, buffer: &mut [u8]) -> Result<usize> {
        if !self.inbox.is_empty() {
            let length = self.inbox.len().min(buffer.len());
            for (place, byte) in buffer.iter_mut().zip(self.inbox.drain(..length)) {
                *place = byte;
            }
            return Ok(length);
        }
        match self.error {
            Some(error) if !self.done => {
                self.error = None;
                Err(error)
            }
            _ if self.recv_shut => Ok(0),
            _ if self.dead => Err(Errno::ENOTCONN),
            _ => Err(Errno::EAGAIN),
        }
    }

    /// `tcp_sendmsg` and `unix_stream_sendmsg`.
    fn send(&mut self, peer: &mut End, bytes: &[u8], free: bool) -> Result<usize> {
        if self.connecting {
            return Err(Errno::EAGAIN);
        }
        if self.send_shut || self.dead {
            // A Unix socket keeps its error for recv.
            let error = if self.tcp { self.error.take() } else { None };
            return Err(error.unwrap_or(Errno::EPIPE));
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let buffer = self.capacity.outbox.saturating_sub(self.wire.len());
            let limit = buffer.min(self.options.not_sent_lowat);
            let queue = if self.tcp { &mut self.outbox } else { &mut peer.inbox };
            let room = limit.saturating_sub(queue.len()).min(rest.len());
            let (now, later) = rest.split_at(room);
            queue.extend(now);
            rest = later;
            if room == 0 {
                break;
            }
            exchange(self, peer, free);
            if self.dead {
                break;
            }
        }
        match bytes.len() - rest.len() {
            0 if !bytes.is_empty() => Err(Errno::EAGAIN),
            sent => {
                self.waits_for_more = false;
                Ok(sent)
            }
        }
    }

    /// The room in its inbox, in bytes.
    fn room(&self) -> usize {
        self.capacity.inbox.saturating_sub(self.inbox.len())
    }

    /// Puts on the wire what may be sent: bytes for which there is room, then the FIN.
    fn depart(&mut self) {
        let length = self.window.min(self.outbox.len());
        self.wire.extend(self.outbox.drain(..length));
        self.window -= length;
        self.fin_sent |= self.send_shut && !self.dead && self.outbox.is_empty();
    }

    /// Delivers what is on the wire, in order, and the window update.
    fn arrive(&mut self, peer: &mut End) {
        if peer.closed && !peer.dead && !self.wire.is_empty() {
            // No process can read it: the other kernel answers with a reset.
            peer.abort();
        }
        match peer.dead {
            true => self.wire.clear(),
            false => peer.inbox.append(&mut self.wire),
        }
        if self.fin_sent && !self.fin_arrived {
            self.fin_arrived = true;
            (peer.recv_shut, peer.done) = (true, peer.done || !peer.dead);
        }
        if std::mem::take(&mut self.rst_sent) {
            peer.reset();
        }
        if self.fin_arrived && peer.fin_arrived {
            (self.dead, peer.dead) = (true, true);
        }
        self.window = peer.room();
    }

    /// Whether something has to cross the link: bytes on the wire, or a window update for
    /// bytes that wait for it.
    fn is_under_way(&self, peer: &End) -> bool {
        let waits = !self.outbox.is_empty() && self.window < peer.room();
        let fin = self.fin_sent && !self.fin_arrived;
        self.tcp && (fin || waits || self.rst_sent || !self.wire.is_empty())
    }

    /// `inet_shutdown` and `unix_shutdown`, SHUT_WR.
    fn shutdown(&mut self, peer: &mut End) -> Result<()> {
        if self.connecting {
            // The connect is given up.
            (self.connecting, self.dead, self.error) = (false, true, Some(Errno::ECONNRESET));
        } else if !self.tcp {
            (self.send_shut, peer.recv_shut) = (true, true);
        } else if self.dead {
            return Err(Errno::ENOTCONN);
        } else {
            self.send_shut = true;
        }
        Ok(())
    }

    /// `tcp_close` and `unix_release_sock`. `queued`: it was still in the accept queue.
    fn close(&mut self, peer: &mut End, queued: bool) {
        let unread = !self.inbox.is_empty();
        if !self.tcp {
            (self.send_shut, self.recv_shut) = (true, true);
            (peer.send_shut, peer.recv_shut) = (true, true);
            if (unread || queued) && !peer.closed {
                peer.error = Some(Errno::ECONNRESET);
            }
        } else if self.connecting {
            self.die(Errno::ECONNRESET);
        } else if !self.dead {
            if unread || queued || self.options.reset_on_close {
                self.abort();
            } else {
                self.send_shut = true;
            }
        }
        self.inbox.clear();
        self.closed = true;
        self.fd = None;
    }
}

/// Moves what can move between two ends. `free`: the link is.
fn exchange(one: &mut End, other: &mut End, free: bool) {
    if !one.tcp {
        return;
    }
    if free {
        (one.window, other.window) = (other.room(), one.room());
    }
    one.depart();
    other.depart();
    if free {
        one.arrive(other);
        other.arrive(one);
    }
}

/// All connections.
pub(super) struct Streams {
    pairs: BTreeMap<u64, [End; 2]>,
    next: u64,
    pub(super) links: Links,
    /// Descriptors whose readiness may have changed, in that order.
    pub(super) woken: Vec<i32>,
}

impl Streams {
    pub(super) fn new(seed: u64) -> Streams {
        let links = Links::new(seed);
        Streams { pairs: BTreeMap::new(), next: 0, links, woken: Vec::new() }
    }

    /// Begins a connection. Returns the connecting end, to which `other` belongs. No descriptor
    /// holds the other end before [`establish`](Streams::establish).
    pub(super) fn begin(&mut self, mut one: End, mut other: End) -> EndId {
        one.connecting = true;
        other.closed = true;
        let pair = self.next;
        self.next += 1;
        self.links.carry(pair, one.tcp); // the SYN
        self.pairs.insert(pair, [one, other]);
        pair * 2
    }

    /// Completes a handshake. Returns the other end, or `None` if the connecting end is closed.
    pub(super) fn establish(&mut self, beginner: EndId) -> Option<EndId> {
        self.operate(beginner, |one, other, _| {
            let waiting = one.connecting;
            if waiting {
                (one.connecting, other.closed) = (false, false);
                (one.established, other.established) = (true, true);
            }
            waiting
        })
        .unwrap_or_default()
        .then_some(beginner ^ 1)
    }

    /// No server listens: the connect fails.
    pub(super) fn refuse(&mut self, beginner: EndId) {
        let _ = self.operate(beginner, |one, other, _| other.rst_sent = one.connecting);
    }

    /// The connection that an end belongs to.
    pub(super) fn pair(id: EndId) -> u64 {
        id / 2
    }

    /// Whether everything that this end has sent has arrived.
    pub(super) fn is_reachable(&self, id: EndId) -> bool {
        !self.links.is_clogged(Streams::pair(id))
    }

    /// Clogs the link of an end, if it has one.
    pub(super) fn clog(&mut self, id: EndId, time: u64) {
        if self.get(id).is_some_and(|end| end.tcp) {
            self.links.clog(Streams::pair(id), self.links.now.saturating_add(time));
        }
    }

    /// The link of a connection is free: delivers what is on it.
    pub(super) fn unclog(&mut self, pair: u64) {
        self.links.unclog(pair);
        let _ = self.operate(pair * 2, |one, other, _| {
            one.arrive(other);
            other.arrive(one);
        });
    }

    pub(super) fn get(&self, id: EndId) -> Option<&End> {
        let [even, odd] = self.pairs.get(&(id / 2))?;
        Some(if id.is_multiple_of(2) { even } else { odd })
    }

    pub(super) fn get_mut(&mut self, id: EndId) -> Option<&mut End> {
        let [even, odd] = self.pairs.get_mut(&(id / 2))?;
        Some(if id.is_multiple_of(2) { even } else { odd })
    }

    /// The ends that a listener gave birth to, and that still live.
    pub(super) fn accepted(&self) -> impl Iterator<Item = &End> {
        let ends = self.pairs.values().map(|[_, other]| other);
        ends.filter(|end| end.established && !end.dead)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.pairs.len()
    }

    pub(super) fn poll(&self, id: EndId) -> u32 {
        match (self.get(id), self.get(id ^ 1)) {
            (Some(end), Some(peer)) => end.poll(peer),
            _ => 0,
        }
    }

    pub(super) fn recv(&mut self, id: EndId, buffer: &mut [u8]) -> Result<usize> {
        self.operate(id, |end, _, _| end.recv(buffer))?
    }

    pub(super) fn send(&mut self, id: EndId, bytes: &[u8]) -> Result<usize> {
        self.operate(id, |end, peer, free| end.send(peer, bytes, free))?
    }

    /// All bytes of the last call were sent with MSG_MORE.
    pub(super) fn sent_more(&mut self, id: EndId) -> Result<()> {
        self.operate(id, |end, _, _| end.waits_for_more = true)
    }

    /// Whether the last packet of an end is kept back although it could go.
    pub(super) fn waits_for_more(&self, id: EndId) -> bool {
        let waits = self.get(id).is_some_and(|end| end.tcp && !end.send_shut && end.waits_for_more);
        waits && self.poll(id) & OUT != 0
    }

    /// Whether an urgent byte from this end stays among the others at the other one. (On a Unix
    /// socket it does not: the option is not inherited.)
    pub(super) fn keeps_urgent(&self, id: EndId) -> Result<bool> {
        let peer = self.get(id ^ 1).ok_or(Errno::EBADF)?;
        Ok(peer.tcp && peer.options.urgent_inline)
    }

    /// SO_ERROR: returns the error, and clears it.
    pub(super) fn take_error(&mut self, id: EndId) -> Result<Option<Errno>> {
        self.operate(id, |end, _, _| end.error.take())
    }

    /// SIOCOUTQ: how many bytes the other kernel has not acknowledged, a FIN counted as one; on
    /// a Unix socket, how many the peer has not read.
    pub(super) fn unacknowledged(&self, id: EndId) -> Result<usize> {
        let (end, peer) = self.get(id).zip(self.get(id ^ 1)).ok_or(Errno::EBADF)?;
        let fin = usize::from(end.send_shut && !end.dead && !end.fin_arrived);
        Ok(if end.tcp { end.outbox.len() + end.wire.len() + fin } else { peer.inbox.len() })
    }

    pub(super) fn shutdown(&mut self, id: EndId) -> Result<()> {
        self.operate(id, |end, peer, _| end.shutdown(peer))?
    }

    pub(super) fn close(&mut self, id: EndId, queued: bool) {
        let _ = self.operate(id, |end, peer, _| end.close(peer, queued));
    }

    /// Does something with an end and its peer; then lets the bytes move, wakes the
    /// owner that has more to do now, and forgets the connection if neither end has one.
    fn operate<T>(
        &mut self,
        id: EndId,
        act: impl FnOnce(&mut End, &mut End, bool) -> T,
    ) -> Result<T> {
        let pair = id / 2;
        let [even, odd] = self.pairs.get_mut(&pair).ok_or(Errno::EBADF)?;
        let (end, peer) = if id.is_multiple_of(2) { (even, odd) } else { (odd, even) };
        let before = (end.poll(peer), peer.poll(end));
        let free = self.links.is_free(pair);
        let result = act(end, peer, free);
        exchange(end, peer, free);
        let after = (end.poll(peer), peer.poll(end));
        if after.0 & !before.0 != 0 {
            self.woken.extend(end.fd);
        }
        if after.1 & !before.1 != 0 {
            self.woken.extend(peer.fd);
        }
        self.links.carry(pair, end.is_under_way(peer) || peer.is_under_way(end));
        if end.closed && peer.closed {
            self.pairs.remove(&pair);
            self.links.unclog(pair);
        }
        Ok(result)
    }
}
