//! Connections: two ends, the bytes between them, and how they part.
//!
//! An end has two queues. What it sends goes into its own `outbox` (the send
//! buffer), and from there, as far as there is room, at once into the `inbox` of
//! the other end (the receive window). That difference is what a reset makes
//! visible: the inbox outlives it, the outbox does not. A Unix socket has no
//! outbox: what is sent has arrived, and is the sender's load until it is read.
//!
//! The states of tcp(7) and unix(7) come down to a few flags, named after the
//! kernel's own fields:
//!
//! | flag | in the kernel | set by |
//! |---|---|---|
//! | `send_shut` | `SEND_SHUTDOWN` | shutdown; a reset; on a Unix socket the peer's close too |
//! | `recv_shut` | `RCV_SHUTDOWN` | the peer's FIN; a reset |
//! | `done` | `SOCK_DONE` | the peer's FIN (TCP only): recv says 0 from now on, whatever else happened |
//! | `dead` | `TCP_CLOSE` | both FINs; a reset (TCP only) |
//! | `error` | `sk_err` | a reset; told once, by recv or send, and till then by EPOLLERR |
//!
//! Invariants, after each operation:
//! - a byte is in one queue only, and they keep their order: inbox, then outbox;
//! - the outbox holds something only while the peer's inbox is full;
//! - `done` implies `recv_shut`; `dead` with a peer implies both directions are shut;
//! - a connection is forgotten when both its ends are closed.

use std::collections::{BTreeMap, VecDeque};

use super::{Address, ERR, Errno, HUP, IN, OUT, Peer, Result};

/// What setsockopt left behind, as far as it changes what is seen.
#[derive(Clone, Copy)]
pub(super) struct Options {
    pub(super) reuse_address: bool,
    pub(super) drop_syn: bool,
    pub(super) reset_on_close: bool,
    pub(super) not_sent_lowat: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            reuse_address: false,
            drop_syn: false,
            reset_on_close: false,
            not_sent_lowat: usize::MAX,
        }
    }
}

/// How much fits: into an outbox, into an inbox.
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
    /// What getsockname answers.
    pub(super) local: Address,
    /// What the other end's accept4 answers.
    pub(super) name: Peer,
    pub(super) options: Options,
    capacity: Capacity,
    /// The descriptor that owns it; none for the client's end, in the accept queue, or closed.
    pub(super) fd: Option<i32>,
    inbox: VecDeque<u8>,
    outbox: VecDeque<u8>,
    /// The SYN has not been answered yet.
    pub(super) connecting: bool,
    /// It has been answered.
    pub(super) established: bool,
    send_shut: bool,
    recv_shut: bool,
    done: bool,
    dead: bool,
    /// Our FIN, which follows the last byte of the outbox, has arrived.
    fin_arrived: bool,
    /// Nobody holds it; what is left of it is between the two kernels.
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
            outbox: VecDeque::new(),
            connecting: false,
            established: false,
            send_shut: false,
            recv_shut: false,
            done: false,
            dead: false,
            fin_arrived: false,
            closed: false,
            error: None,
        }
    }

    /// A reset arrives. Whoever had the peer's FIN already, and owes his own, is told
    /// of a broken pipe instead (`tcp_reset` in the kernel: TCP_CLOSE_WAIT).
    fn reset(&mut self) {
        if !self.dead {
            let waits = self.done && !self.send_shut;
            self.die(if waits { Errno::EPIPE } else { Errno::ECONNRESET });
        }
    }

    fn die(&mut self, error: Errno) {
        self.error = Some(error);
        self.connecting = false;
        (self.send_shut, self.recv_shut, self.dead) = (true, true, true);
        self.outbox.clear();
    }

    /// What epoll says of it: `tcp_poll` and `unix_poll`.
    fn poll(&self, peer: &End) -> u32 {
        if self.connecting {
            return 0;
        }
        let mut mask = 0;
        if self.recv_shut || !self.inbox.is_empty() {
            mask |= IN;
        }
        let writable = if self.tcp {
            // At least a third of the buffer free, and half of NOTSENT_LOWAT.
            let unsent = self.outbox.len();
            self.send_shut
                || (unsent * 3 <= self.capacity.outbox * 2
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
    fn send(&mut self, peer: &mut End, bytes: &[u8]) -> Result<usize> {
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
            let limit = self.capacity.outbox.min(self.options.not_sent_lowat);
            let queue = if self.tcp { &mut self.outbox } else { &mut peer.inbox };
            let room = limit.saturating_sub(queue.len()).min(rest.len());
            let (now, later) = rest.split_at(room);
            queue.extend(now);
            rest = later;
            if room == 0 || !self.flow(peer) {
                break;
            }
        }
        match bytes.len() - rest.len() {
            0 if !bytes.is_empty() => Err(Errno::EAGAIN),
            sent => Ok(sent),
        }
    }

    /// Moves what can move from this end to the other; whether the connection still lives.
    fn flow(&mut self, peer: &mut End) -> bool {
        if !self.tcp || self.dead || self.connecting {
            return !self.dead;
        }
        if peer.closed && !self.outbox.is_empty() {
            // Nobody is there to read: the other kernel answers with a reset.
            peer.die(Errno::ECONNRESET);
            self.reset();
            return false;
        }
        let room = peer.capacity.inbox.saturating_sub(peer.inbox.len());
        let moved = room.min(self.outbox.len());
        peer.inbox.extend(self.outbox.drain(..moved));
        if self.send_shut && self.outbox.is_empty() && !self.fin_arrived {
            self.fin_arrived = true;
            (peer.recv_shut, peer.done) = (true, true);
        }
        if self.fin_arrived && peer.fin_arrived {
            (self.dead, peer.dead) = (true, true);
        }
        !self.dead
    }

    /// `inet_shutdown` and `unix_shutdown`, SHUT_WR.
    fn shutdown(&mut self, peer: &mut End) -> Result<()> {
        if self.connecting {
            // The attempt is given up.
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
                self.die(Errno::ECONNRESET);
                peer.reset();
            } else {
                self.send_shut = true;
            }
        }
        self.inbox.clear();
        self.closed = true;
        self.fd = None;
    }
}

/// All connections.
#[derive(Default)]
pub(super) struct Streams {
    pairs: BTreeMap<u64, [End; 2]>,
    next: u64,
    /// Descriptors whose readiness may have changed, in that order.
    pub(super) woken: Vec<i32>,
}

impl Streams {
    /// A connection that is being made: its beginner's end, to which `other` belongs.
    /// Nobody holds the other end before [`establish`](Streams::establish).
    pub(super) fn begin(&mut self, mut one: End, mut other: End) -> EndId {
        one.connecting = true;
        other.closed = true;
        let pair = self.next;
        self.next += 1;
        self.pairs.insert(pair, [one, other]);
        pair * 2
    }

    /// The handshake is done. The other end; `None` if nobody waits for it any more.
    pub(super) fn establish(&mut self, beginner: EndId) -> Option<EndId> {
        self.operate(beginner, |one, other| {
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

    /// Nobody listens: the beginner is told.
    pub(super) fn refuse(&mut self, beginner: EndId) {
        let _ = self.operate(beginner, |one, _| {
            if one.connecting {
                one.die(Errno::ECONNREFUSED);
            }
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
        self.operate(id, |end, _| end.recv(buffer))?
    }

    pub(super) fn send(&mut self, id: EndId, bytes: &[u8]) -> Result<usize> {
        self.operate(id, |end, peer| end.send(peer, bytes))?
    }

    /// SO_ERROR: tells the error, and resets it.
    pub(super) fn take_error(&mut self, id: EndId) -> Result<Option<Errno>> {
        self.operate(id, |end, _| end.error.take())
    }

    pub(super) fn shutdown(&mut self, id: EndId) -> Result<()> {
        self.operate(id, End::shutdown)?
    }

    pub(super) fn close(&mut self, id: EndId, queued: bool) {
        let _ = self.operate(id, |end, peer| end.close(peer, queued));
    }

    /// Does something with an end and its peer; then lets the bytes move, wakes the
    /// owner that has more to do now, and forgets the connection if neither end has one.
    fn operate<T>(&mut self, id: EndId, act: impl FnOnce(&mut End, &mut End) -> T) -> Result<T> {
        let [even, odd] = self.pairs.get_mut(&(id / 2)).ok_or(Errno::EBADF)?;
        let (end, peer) = if id.is_multiple_of(2) { (even, odd) } else { (odd, even) };
        let before = (end.poll(peer), peer.poll(end));
        let result = act(end, peer);
        end.flow(peer);
        peer.flow(end);
        let after = (end.poll(peer), peer.poll(end));
        if after.0 & !before.0 != 0 {
            self.woken.extend(end.fd);
        }
        if after.1 & !before.1 != 0 {
            self.woken.extend(peer.fd);
        }
        if end.closed && peer.closed {
            self.pairs.remove(&(id / 2));
        }
        Ok(result)
    }
}
