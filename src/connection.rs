//! One socket: its state, what waits on either side of it, and what follows from that.
//!
//! ```text
//!   Connecting ── refused, too slow ──▶ Gone
//!    │ connected
//!    ▼       close(), idle, limits            output sent          EOF, time
//!   Open ────────────────────────▶ Closing ───────────▶ Lingering ──────────▶ Gone
//!    │  ╲                             │    (shutdown)                           ▲
//!    │   ╲ send or recv failed        │ EOF seen before: nothing to linger for  │
//!    │    ╲                           └─────────────────────────────────────────┤
//!    │     ▶ Broken ── what the peer had still sent is read and offered ────────┤
//!    └──────── abort ───────────────────────────────────────────────────────────┘
//! ```
//!
//! Nothing here calls the kernel. Callbacks and events change the fields; the
//! reactor then asks the pure functions below what follows: [`interest`],
//! [`has_work`], [`deadline`]. So no decision is stored that could be derived.
//!
//! Invariants:
//! 1. `input` is empty unless the phase is Open or Broken.
//! 2. `output` is empty, and `file` false, unless the phase is Open or Closing.
//! 3. `registered` is what epoll was told (or that it does not watch it), nothing else.
//!
//! [`interest`]: Connection::interest
//! [`has_work`]: Connection::has_work
//! [`deadline`]: Connection::deadline

use crate::budget::Budget;
use crate::buffer::Buffer;
use crate::close_reason::CloseReason;
use crate::deadlines::{Span, Tick};
use crate::kernel::{self, Fd, Peer};
use crate::limits::Timeouts;
use std::fmt;
use std::net::{SocketAddr, SocketAddrV6};

/// A closing connection is read out up to this many bytes,
pub(crate) const LINGER_BYTES: u32 = 1 << 20;
/// this long after its last byte,
const LINGER_QUIET: Span = Span::millis(2_001);
/// and this long in all.
pub(crate) const LINGER_TOTAL: Span = Span::millis(5_001);

/// Stands for the mask of what epoll does not watch.
pub(crate) const UNWATCHED: u8 = 1 << 7;
/// Stands for the length of the one segment that the outbox holds for a quiet connection.
pub(crate) const ANSWER: u32 = u32::MAX;
/// Stands for the listener of a connection that we began ourselves.
pub(crate) const OUTBOUND: u8 = u8::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Begun by us, not yet established.
    Connecting,
    /// In service; the peer may have sent its end already.
    Open,
    /// The last output is being sent, then FIN.
    Closing,
    /// FIN is sent; what the peer still sends is read and thrown away, for a
    /// close with unread input would reset the connection and lose the answer.
    Lingering,
    /// Nothing can be sent any more; what the peer had sent before is still offered.
    Broken,
    /// To be freed when the batch is done.
    Gone,
}

/// How far the handler has ended its own direction while it goes on reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finish {
    /// Not at all.
    No,
    /// FIN follows the last byte of output.
    Wanted,
    /// FIN is sent.
    Sent,
}

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) fd: Fd,
    pub(crate) phase: Phase,
    /// Valid from the moment the phase is no longer Open.
    pub(crate) why: CloseReason,
    peer: PackedPeer,
    /// Which listener it came from, or [`OUTBOUND`].
    pub(crate) listener: u8,
    /// What epoll was told to watch for.
    pub(crate) registered: u8,
    /// How often in a row the kernel was out of memory for it.
    pub(crate) tries: u8,
    /// The kernel was out of memory: nothing is tried until somebody looks at it again.
    pub(crate) later: bool,

    /// The peer's end was read.
    pub(crate) eof: bool,
    /// The handler was told of the end.
    pub(crate) eof_told: bool,
    /// The handler wants no input for now.
    pub(crate) paused: bool,
    /// Output was above high water and has not yet fallen below low water.
    pub(crate) full: bool,
    /// Memory is so short that it must not be read.
    pub(crate) starved: bool,
    /// It is read though it be full: its input is not answered on itself.
    pub(crate) duplex: bool,
    /// The rest is to be offered again without new bytes.
    pub(crate) reoffer: bool,
    /// Output has fallen below low water and the handler is to be told.
    pub(crate) drained: bool,
    /// It is in the list of those to be settled.
    pub(crate) marked: bool,
    /// Nothing is going on but the next message: [`Connection::is_quiet`], as of the last
    /// time it was settled, and not marked since.
    pub(crate) quiet: bool,
    /// Its close is to be a reset.
    pub(crate) reset: bool,
    /// A stop does not end it by itself.
    pub(crate) held: bool,
    pub(crate) finish: Finish,
    /// A part of a file follows the output.
    pub(crate) file: bool,
    /// There is a `timer`.
    pub(crate) timed: bool,

    /// Received, not consumed.
    pub(crate) input: Buffer,
    /// Written, not taken by the kernel.
    pub(crate) output: Buffer,
    /// What the outbox holds for it, or [`ANSWER`].
    pub(crate) staged: u32,
    /// Read since the phase, or the drain, began.
    pub(crate) read_at_end: u32,

    pub(crate) received: u64,
    pub(crate) sent: u64,
    /// When the last byte moved.
    pub(crate) last: Tick,
    /// While `timed`: when the handler wants to be called. Connecting: when it is too
    /// slow. Lingering: when that is over.
    pub(crate) timer: Tick,
}

impl Connection {
    pub(crate) fn new(fd: Fd, peer: Peer, listener: u8, now: Tick) -> Connection {
        Connection {
            fd,
            phase: Phase::Open,
            why: CloseReason::Handler,
            peer: PackedPeer::of(peer),
            listener,
            registered: kernel::IN as u8,
            tries: 0,
            later: false,
            eof: false,
            eof_told: false,
            paused: false,
            full: false,
            starved: false,
            duplex: false,
            reoffer: false,
            drained: false,
            marked: false,
            quiet: false,
            reset: false,
            held: false,
            finish: Finish::No,
            file: false,
            timed: false,
            input: Buffer::default(),
            output: Buffer::default(),
            staged: 0,
            read_at_end: 0,
            received: 0,
            sent: 0,
            last: now,
            timer: now,
        }
    }

    /// A connection that we begin ourselves, and that is too slow at `deadline`.
    pub(crate) fn outbound(fd: Fd, peer: Peer, now: Tick, deadline: Tick) -> Connection {
        Connection {
            phase: Phase::Connecting,
            registered: UNWATCHED,
            timed: true,
            timer: deadline,
            ..Connection::new(fd, peer, OUTBOUND, now)
        }
    }

    /// Nothing is going on but the next message.
    #[inline]
    pub(crate) fn is_quiet(&self) -> bool {
        self.phase == Phase::Open
            && self.registered == kernel::IN as u8
            && self.input.is_empty()
            && self.output.is_empty()
            && !self.paused
            && self.finish == Finish::No
            && self.tries == 0
    }

    /// Bytes written and not yet taken by the kernel.
    pub(crate) fn queued(&self) -> usize {
        self.staged as usize + self.output.len()
    }

    /// Whether the kernel has taken everything.
    pub(crate) fn is_flushed(&self) -> bool {
        self.queued() == 0 && !self.file
    }

    /// Whether anything waits for the kernel to take it.
    pub(crate) fn is_sending(&self) -> bool {
        !self.output.is_empty() || self.file
    }

    /// Whether the handler may write.
    pub(crate) fn takes_output(&self) -> bool {
        self.phase == Phase::Open && self.finish == Finish::No && !self.file
    }

    /// Whether it owes as much as `mark`; who owes nothing never does.
    pub(crate) fn owes(&self, mark: usize) -> bool {
        self.queued() > 0 && self.queued() >= mark
    }

    /// Whether it can only go on by reading, and memory is too short for that.
    pub(crate) fn starves(&self, budget: &Budget) -> bool {
        !self.reoffer && budget.allowance(self.input.len()) == 0
    }

    /// What it holds of the memory budget.
    pub(crate) fn footprint(&self) -> usize {
        self.input.footprint() + self.output.footprint()
    }

    /// Whether received bytes are still for the handler.
    pub(crate) fn takes_input(&self) -> bool {
        matches!(self.phase, Phase::Open | Phase::Broken)
    }

    /// Whether its output, or want of memory, holds up its input.
    pub(crate) fn is_held_up(&self) -> bool {
        if self.duplex { self.starved } else { self.full }
    }

    /// Whether the handler may be offered input now.
    pub(crate) fn can_offer(&self) -> bool {
        match self.phase {
            Phase::Open => !self.paused && !self.is_held_up() && !self.later,
            Phase::Broken => !self.paused,
            _ => false,
        }
    }

    /// What epoll should watch for. HUP and ERR come unasked.
    pub(crate) fn interest(&self) -> u8 {
        if self.later {
            return 0;
        }
        let read = match self.phase {
            Phase::Connecting => return kernel::OUT as u8,
            Phase::Open => !self.eof && !self.paused && !self.is_held_up(),
            Phase::Closing | Phase::Lingering => !self.eof && self.read_at_end < LINGER_BYTES,
            Phase::Broken | Phase::Gone => false,
        };
        let write = self.is_sending();
        (if read { kernel::IN as u8 } else { 0 }) | (if write { kernel::OUT as u8 } else { 0 })
    }

    /// Whether there is something to do for it without waiting for an event.
    pub(crate) fn has_work(&self, draining: bool) -> bool {
        match self.phase {
            Phase::Open => {
                self.drained
                    || self.can_offer()
                        && (self.reoffer || self.eof && !self.eof_told || draining && !self.held)
            }
            Phase::Broken => true,
            _ => false,
        }
    }

    /// When something happens to it though no byte moves.
    pub(crate) fn deadline(&self, timeouts: &Timeouts, now: Tick) -> Option<Tick> {
        let idle = timeouts.idle.map(|span| self.last.after(span));
        let earliest = |a: Option<Tick>, b: Option<Tick>| match (a, b) {
            (Some(a), Some(b)) => Some(a.earlier(b)),
            (a, b) => a.or(b),
        };
        let retry = Some(now.after(Span::millis(5 << self.tries.min(8)))).filter(|_| self.later);
        match self.phase {
            Phase::Connecting => earliest(self.timer(), retry),
            Phase::Open => {
                let waits =
                    earliest(self.message_deadline(timeouts), self.write_deadline(timeouts));
                earliest(earliest(idle, waits), earliest(self.timer(), retry))
            }
            Phase::Closing => earliest(earliest(idle, retry), self.write_deadline(timeouts)),
            Phase::Lingering => {
                let quiet = self.last.after(LINGER_QUIET);
                Some(quiet.earlier(self.timer))
            }
            Phase::Broken | Phase::Gone => None,
        }
    }

    /// When the handler wants to be called.
    pub(crate) fn timer(&self) -> Option<Tick> {
        Some(self.timer).filter(|_| self.timed)
    }

    /// Runs while the rest of a message is awaited; not while we do not read.
    pub(crate) fn message_deadline(&self, timeouts: &Timeouts) -> Option<Tick> {
        let awaited = !self.input.is_empty() && self.can_offer() && !self.reoffer && !self.eof;
        timeouts.message.filter(|_| awaited).map(|span| self.input.since().after(span))
    }

    /// Runs while output waits.
    pub(crate) fn write_deadline(&self, timeouts: &Timeouts) -> Option<Tick> {
        let stalled_since = if self.output.is_empty() { self.last } else { self.output.since() };
        timeouts.write.filter(|_| self.is_sending()).map(|span| stalled_since.after(span))
    }

    pub(crate) fn peer(&self) -> Peer {
        self.peer.unpack()
    }

    /// Ends it with FIN: what is written is still sent.
    pub(crate) fn close(&mut self, why: CloseReason) {
        if self.phase == Phase::Open {
            self.phase = Phase::Closing;
            self.why = why;
            self.input.clear();
            self.timed = false;
            self.read_at_end = 0;
        } else if self.phase == Phase::Broken {
            self.gone(self.why);
        } else if self.phase == Phase::Connecting {
            self.gone(why);
        }
    }

    /// Ends it for reading what is left: nothing can be sent any more.
    pub(crate) fn broken(&mut self, why: CloseReason) {
        match self.phase {
            Phase::Open => {
                self.phase = Phase::Broken;
                self.why = why;
                self.read_at_end = 0;
            }
            Phase::Connecting | Phase::Closing => self.gone(why), // the last answer is lost
            Phase::Lingering => self.gone(self.why),              // it had everything
            Phase::Broken | Phase::Gone => {}
        }
        self.output.clear();
        self.file = false;
        self.full = false;
        self.later = false;
        self.timed = false;
    }

    /// Ends it now.
    pub(crate) fn gone(&mut self, why: CloseReason) {
        if self.phase != Phase::Gone {
            self.phase = Phase::Gone;
            self.why = why;
        }
        self.input.clear();
        self.output.clear();
        self.file = false;
    }

    /// Ends it now, with a reset.
    pub(crate) fn abort(&mut self, why: CloseReason) {
        self.gone(why);
        self.reset = true;
    }
}

/// A [`Peer`] in 24 bytes instead of 32. The flow label of IPv6 is left out, which
/// Linux tells only to who asks for it.
#[derive(Clone, Copy, Debug)]
struct PackedPeer {
    ip: [u8; 16],
    scope: u32,
    port: u16,
    family: Family,
}

#[derive(Clone, Copy, Debug)]
enum Family {
    Unix,
    V4,
    V6,
}

impl PackedPeer {
    fn of(peer: Peer) -> PackedPeer {
        let packed = |ip, port, scope, family| PackedPeer { ip, port, scope, family };
        match peer {
            Peer::Unix => packed([0; 16], 0, 0, Family::Unix),
            Peer::Tcp(SocketAddr::V4(peer)) => {
                packed(peer.ip().to_ipv6_mapped().octets(), peer.port(), 0, Family::V4)
            }
            Peer::Tcp(SocketAddr::V6(peer)) => {
                packed(peer.ip().octets(), peer.port(), peer.scope_id(), Family::V6)
            }
        }
    }

    fn unpack(self) -> Peer {
        let PackedPeer { ip, port, scope, family } = self;
        let [.., a, b, c, d] = ip;
        match family {
            Family::Unix => Peer::Unix,
            Family::V4 => Peer::Tcp(SocketAddr::from(([a, b, c, d], port))),
            Family::V6 => Peer::Tcp(SocketAddrV6::new(ip.into(), port, 0, scope).into()),
        }
    }
}

/// The connection on one line, as the log and SIGUSR1 show it.
impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Connection { fd, phase, received, sent, .. } = self;
        write!(f, "{} fd {fd:?}", self.peer())?;
        if *phase != Phase::Gone {
            write!(f, " {phase:?}")?;
        }
        write!(f, " received {received} sent {sent}")?;
        if !self.input.is_empty() {
            write!(f, " rest {}", self.input.len())?;
        }
        if self.queued() > 0 {
            write!(f, " unsent {}", self.queued())?;
        }
        for (flag, name) in [(self.eof, "eof"), (self.paused, "paused"), (self.full, "full")] {
            if flag {
                write!(f, " {name}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an idle connection costs, beside its session, 12 bytes for its deadline, and
    /// 4 for its generation.
    #[test]
    fn a_connection_is_small() {
        assert!(size_of::<Option<Connection>>() <= 104);
    }

    #[test]
    fn a_peer_is_what_it_was() {
        for text in ["192.0.2.1:80", "[2001:db8::1]:65535", "[fe80::1%7]:0"] {
            let peer = Peer::Tcp(text.parse().unwrap());
            assert_eq!(PackedPeer::of(peer).unpack(), peer);
        }
        assert_eq!(PackedPeer::of(Peer::Unix).unpack(), Peer::Unix);
    }

    fn connection() -> Connection {
        Connection::new(Fd::new(3).unwrap(), Peer::Unix, 0, Tick::default())
    }

    /// Else each message would go the long way.
    #[test]
    fn a_new_connection_is_quiet() {
        let mut connection = connection();
        assert!(connection.is_quiet());
        connection.paused = true;
        assert!(!connection.is_quiet());
        connection.fd.into_number();
    }

    #[test]
    fn what_the_log_says_of_a_connection() {
        let mut connection = connection();
        assert_eq!(connection.to_string(), "unix fd 3 Open received 0 sent 0");
        connection.input.push(b"abc", 0, Tick::default()).unwrap();
        (connection.staged, connection.eof) = (5, true);
        let said = "unix fd 3 Open received 0 sent 0 rest 3 unsent 5 eof";
        assert_eq!(connection.to_string(), said);
        connection.phase = Phase::Gone;
        assert_eq!(connection.to_string(), said.replace(" Open", ""));
        connection.fd.into_number();
    }
}
