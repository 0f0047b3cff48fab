//! One socket: its state, its counters, and what follows from them.
//!
//! Nothing here calls the kernel. Callbacks and events change the [state](state); the
//! reactor then asks the pure functions below what follows: [`interest`], [`has_work`],
//! [`deadline`]. So no decision is stored that could be derived.
//!
//! Invariants:
//! 1. `registered` is what epoll was told (or that it does not watch it), nothing else.
//! 2. `attention` is Quiet only if [`is_quiet`] held when it was last settled, and nothing
//!    but answered messages has happened since.
//! 3. What a settled connection holds agrees with itself: see [`contradiction`].
//!
//! [`interest`]: Connection::interest
//! [`has_work`]: Connection::has_work
//! [`deadline`]: Connection::deadline
//! [`is_quiet`]: Connection::is_quiet
//! [`contradiction`]: Connection::contradiction

use crate::close_reason::CloseReason;
use crate::counters::Counters;
use crate::kernel::{self, Errno, Fd, Peer};
use crate::limits::Timeouts;
use crate::reaction::{Call, Reaction, reaction};
use crate::time::{Moment, Span, Tick};
use std::fmt;
use std::net::{SocketAddr, SocketAddrV6};

#[cfg(feature = "sim")]
pub(crate) mod place;
mod state;

pub(crate) use state::{Fin, Level, Life, Open, PeerEnd, Reading, State};
pub use state::{TRANSITIONS, Transition};

/// Most bytes read from a closing connection.
pub(crate) const LINGER_BYTES: u32 = 1 << 20;
/// Lingering ends after this long without a byte.
const LINGER_QUIET: Span = Span::millis(2_001);

/// How often the kernel may be out of memory for one connection in a row.
const MAX_TRIES: u8 = 12;

/// Stands for the mask of what epoll does not watch.
pub(crate) const UNWATCHED: u8 = 1 << 7;
/// Stands for the length of the one segment that the outbox holds for a quiet connection.
pub(crate) const ANSWER: u32 = u32::MAX;
/// Stands for the listener of a connection that we began ourselves.
pub(crate) const OUTBOUND: u8 = u8::MAX;

/// How often in a row the kernel was out of memory for a connection; and whether nothing is
/// tried until the timer has it looked at again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shortage(u8);

impl Shortage {
    const WAITS: u8 = 1 << 7;

    pub(crate) fn waits(self) -> bool {
        self.0 & Shortage::WAITS != 0
    }

    pub(crate) fn tries(self) -> u8 {
        self.0 & !Shortage::WAITS
    }

    /// Once more.
    pub(crate) fn strike(&mut self) {
        self.0 = (self.tries() + 1) | Shortage::WAITS;
    }

    /// Now it is tried again.
    pub(crate) fn try_again(&mut self) {
        self.0 = self.tries();
    }
}

/// Whether a connection must be looked at before the next wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attention {
    /// No: nothing is going on but the next message.
    Quiet,
    /// No, but more than that is going on.
    Busy,
    /// Yes: it is in the list of those to be settled.
    Marked,
}

#[derive(Debug)]
pub(crate) struct Connection {
    /// Its socket; of an outbound connection at first [none](Fd::UNOPENED).
    pub(crate) fd: Fd,
    /// What the outbox holds for it, or [`ANSWER`].
    pub(crate) staged: u32,
    pub(crate) received: u64,
    pub(crate) sent: u64,
    /// When the last byte moved, in ticks; and how often these have reached their end since.
    pub(crate) last: Tick,
    spans: u8,
    pub(crate) attention: Attention,
    pub(crate) shortage: Shortage,
    /// What epoll was told to watch for.
    pub(crate) registered: u8,
    peer: PackedPeer,
    pub(crate) state: Life,
}

impl Connection {
    pub(crate) fn new(fd: Fd, peer: Peer, listener: u8, now: Moment) -> Connection {
        let registered = kernel::IN as u8;
        Connection::begin(fd, PackedPeer::of(peer, listener), registered, now, Life::open())
    }

    /// An outbound connection, which is given up at `deadline`. It has no socket yet.
    pub(crate) fn outbound(peer: Peer, now: Moment, deadline: Moment) -> Connection {
        let peer = PackedPeer::of(peer, OUTBOUND);
        Connection::begin(Fd::UNOPENED, peer, UNWATCHED, now, Life::connecting(deadline))
    }

    fn begin(fd: Fd, peer: PackedPeer, registered: u8, now: Moment, state: Life) -> Connection {
        Connection {
            fd,
            staged: 0,
            received: 0,
            sent: 0,
            last: now.tick(),
            spans: 0,
            attention: Attention::Busy,
            shortage: Shortage::default(),
            registered,
            peer,
            state,
        }
    }

    /// Which listener it came from, or [`OUTBOUND`].
    pub(crate) fn listener(&self) -> u8 {
        self.peer.listener
    }

    // ---- what happens to it ------------------------------------------------------------

    pub(crate) fn established(&mut self, now: Moment) {
        self.state.established(now);
        self.touch(now);
    }

    /// A byte has moved. (While it is quiet `spans` is 0, and `last` alone is set.)
    pub(crate) fn touch(&mut self, now: Moment) {
        self.last = now.tick();
        self.spans = 0;
    }

    /// `n` bytes have arrived.
    pub(crate) fn arrived(&mut self, n: usize, now: Moment) {
        self.received += n as u64;
        self.shortage = Shortage::default();
        self.state.count_read(n);
        self.touch(now);
    }

    /// The kernel took `n` bytes that had waited.
    pub(crate) fn moved(&mut self, n: usize, now: Moment) {
        self.sent += n as u64;
        if n > 0 {
            self.shortage = Shortage::default();
            self.touch(now);
            if let Some(unsent) = self.state.unsent_mut() {
                unsent.bytes.touch(now);
            }
        }
    }

    /// It is looked at: `last` is kept within the reach of ticks.
    pub(crate) fn carry(&mut self, now: Moment) {
        if self.last.age(now) >= Tick::REACH {
            self.last = self.last.one_reach_on();
            self.spans = self.spans.saturating_add(1); // 255 are eight years
        }
    }

    /// Ends it with FIN: what is written is still sent.
    pub(crate) fn close(&mut self, why: CloseReason) {
        self.state.close(why);
    }

    /// All output is sent: FIN, and if the peer's has come already, that is all. Returns
    /// whether FIN is to be sent now.
    pub(crate) fn flushed(&mut self, now: Moment) -> bool {
        let is_closing = matches!(*self.state, State::Closing { .. });
        let fin = self.state.take_fin();
        self.state.flushed(now);
        if is_closing {
            self.touch(now);
        }
        fin
    }

    /// Nothing can be sent any more: what the peer sent before is still read.
    pub(crate) fn broken(&mut self, why: CloseReason) {
        self.shortage.try_again();
        self.state.broken(why);
    }

    /// Ends it now.
    pub(crate) fn gone(&mut self, why: CloseReason) {
        self.state.end(why);
    }

    /// Ends it now, with a reset.
    pub(crate) fn abort(&mut self, why: CloseReason) {
        self.state.end(why);
        self.state.reset_on_close();
    }

    /// A call on it has failed: does what the table of errnos says.
    #[cold]
    pub(crate) fn failed(&mut self, call: Call, errno: Errno, counters: &mut Counters) {
        match reaction(call, errno) {
            // An interrupted call is made again at the next event, which is there already.
            Reaction::Wait | Reaction::Retry | Reaction::Ignore | Reaction::Degrade => {}
            Reaction::Later | Reaction::Pause => {
                self.shortage.strike();
                if self.shortage.tries() > MAX_TRIES {
                    self.abort(CloseReason::Server { call, errno });
                }
            }
            Reaction::DropConnection => {
                let why = CloseReason::of(call, errno);
                let is_read_out = |open: &Open| call == Call::Recv && !open.reading.again;
                match self.state.open().is_some_and(is_read_out) {
                    true => self.gone(why),
                    false => self.broken(why),
                }
                if why != CloseReason::PeerReset {
                    self.state.reset_on_close(); // a cut answer must not look like a whole one
                }
            }
            Reaction::FailStartup | Reaction::FailRuntime | Reaction::Bug => {
                counters.bug(format_args!("{call} on a connection: {errno}"));
                self.abort(CloseReason::Server { call, errno });
            }
        }
    }

    /// EOF has been received on a connection that has ended.
    pub(crate) fn at_end(&mut self) {
        if !matches!(*self.state, State::Closing { .. }) {
            self.done();
        } else if !self.state.at_end() {
            self.broken(CloseReason::PeerReset); // it was read before: this is a hang-up
        }
    }

    /// Ends it now, for the reason for which its service ended.
    pub(crate) fn done(&mut self) {
        if let Some(why) = self.state.why() {
            self.state.end(why);
        }
    }

    // ---- what follows from its state ----------------------------------------------------

    /// Nothing is going on but the next message.
    pub(crate) fn is_quiet(&self) -> bool {
        let State::Open(open) = &*self.state else { return false };
        self.registered == kernel::IN as u8
            && open.input.is_empty()
            && open.unsent.bytes.is_empty()
            && !open.reading.paused
            && open.writing.fin == Fin::No
            && self.shortage == Shortage::default()
            && self.spans == 0
    }

    /// Bytes written and not yet taken by the kernel.
    pub(crate) fn queued(&self) -> usize {
        self.staged as usize + self.state.unsent().map_or(0, |unsent| unsent.bytes.len())
    }

    /// Whether the kernel has taken everything.
    pub(crate) fn is_flushed(&self) -> bool {
        self.staged == 0 && !self.is_sending()
    }

    /// Whether anything waits for the kernel to take it.
    pub(crate) fn is_sending(&self) -> bool {
        self.state.unsent().is_some_and(|unsent| !unsent.is_empty())
    }

    /// Whether the kernel would take bytes, as far as we know.
    pub(crate) fn can_send(&self) -> bool {
        !self.shortage.waits() && !self.state.is_connecting()
    }

    /// Whether as much as `mark` is queued; never true when nothing is queued.
    pub(crate) fn owes(&self, mark: usize) -> bool {
        self.queued() > 0 && self.queued() >= mark
    }

    /// What it holds of the memory budget.
    pub(crate) fn footprint(&self) -> usize {
        match &*self.state {
            State::Open(open) => open.input.footprint() + open.unsent.bytes.footprint(),
            State::Broken { input, .. } => input.footprint(),
            state => state.unsent().map_or(0, |unsent| unsent.bytes.footprint()),
        }
    }

    pub(crate) fn input_footprint(&self) -> usize {
        self.state.input().map_or(0, |(input, _)| input.footprint())
    }

    /// Bytes received and not consumed.
    pub(crate) fn rest(&self) -> usize {
        self.state.input().map_or(0, |(input, _)| input.len())
    }

    /// Whether the handler may be offered input now.
    pub(crate) fn can_offer(&self) -> bool {
        match &*self.state {
            State::Open(open) => {
                !open.reading.paused && !open.holds_up_input() && !self.shortage.waits()
            }
            State::Broken { reading, .. } => !reading.paused,
            _ => false,
        }
    }

    /// What epoll should watch for. HUP and ERR come unasked.
    pub(crate) fn interest(&self) -> u8 {
        if self.shortage.waits() {
            return 0;
        }
        let read = match &*self.state {
            State::Connecting { .. } if self.fd.is_unopened() => return 0,
            State::Connecting { .. } => return kernel::OUT as u8,
            State::Open(open) => {
                let Reading { end, paused, .. } = open.reading;
                end == PeerEnd::Ahead && !paused && !open.holds_up_input()
            }
            State::Closing { at_end, read, .. } => !at_end && *read < LINGER_BYTES,
            State::Lingering { read, .. } => *read < LINGER_BYTES,
            State::Broken { .. } | State::Gone { .. } => false,
        };
        let write = self.is_sending();
        (if read { kernel::IN as u8 } else { 0 }) | (if write { kernel::OUT as u8 } else { 0 })
    }

    /// Whether there is something to do for it without waiting for an event.
    pub(crate) fn has_work(&self, draining: bool) -> bool {
        match &*self.state {
            State::Connecting { .. } => self.fd.is_unopened(),
            State::Open(Open { reading, writing, held, .. }) => {
                writing.level == Level::Drained
                    || self.can_offer()
                        && (reading.again || reading.end == PeerEnd::Seen || draining && !held)
            }
            State::Broken { .. } => true,
            _ => false,
        }
    }

    /// When something happens to it though no byte moves.
    pub(crate) fn deadline(&self, timeouts: &Timeouts, now: Moment) -> Option<Moment> {
        let shortage = self.shortage.waits().then(|| 5 << self.shortage.tries().min(8));
        let shortage = shortage.map(|millis| now.after(Span::millis(millis)));
        let (write, idle) = (self.write_deadline(timeouts, now), self.idle_deadline(timeouts, now));
        let all = match &*self.state {
            State::Connecting { deadline, .. } => [shortage, Some(*deadline), None, None, None],
            State::Open(open) => {
                [shortage, idle, self.message_deadline(timeouts), write, open.timer]
            }
            State::Closing { .. } => [shortage, idle, write, None, None],
            State::Lingering { until, .. } => {
                [Some(self.last(now).after(LINGER_QUIET)), Some(*until), None, None, None]
            }
            State::Broken { .. } | State::Gone { .. } => [None; 5],
        };
        all.into_iter().flatten().min()
    }

    /// When the last byte moved.
    fn last(&self, now: Moment) -> Moment {
        now.before(self.idle(now))
    }

    /// How long no byte has moved.
    pub(crate) fn idle(&self, now: Moment) -> Span {
        let counted = u64::from(self.spans) * Tick::REACH.as_millis();
        Span::millis(counted + self.last.age(now).as_millis())
    }

    /// Runs whatever happens.
    fn idle_deadline(&self, timeouts: &Timeouts, now: Moment) -> Option<Moment> {
        timeouts.idle.map(|span| self.last(now).after(span))
    }

    /// Runs while the rest of a message is awaited; not while we do not read.
    pub(crate) fn message_deadline(&self, timeouts: &Timeouts) -> Option<Moment> {
        let Open { input, reading, .. } = self.state.open()?;
        let is_awaited = !reading.again && reading.end == PeerEnd::Ahead && self.can_offer();
        let since = input.since().filter(|_| is_awaited)?;
        timeouts.message.map(|span| since.after(span))
    }

    /// Runs while output waits.
    pub(crate) fn write_deadline(&self, timeouts: &Timeouts, now: Moment) -> Option<Moment> {
        let unsent = self.state.unsent().filter(|unsent| !unsent.is_empty())?;
        let since = unsent.bytes.since().unwrap_or_else(|| self.last(now)); // it is a file
        timeouts.write.map(|span| since.after(span))
    }

    /// What is wrong with a settled connection, if anything is: what types cannot say.
    pub(crate) fn contradiction(&self) -> Option<&'static str> {
        let claims = match &*self.state {
            State::Open(open) => [
                (!open.reading.again || !open.input.is_empty(), "nothing is to be offered again"),
                (!open.unsent.file || open.writing.is_full(), "a file is sent, but it is not full"),
                (
                    open.reading.end != PeerEnd::Told || open.input.is_empty(),
                    "a rest stands behind the end",
                ),
            ],
            _ => [(true, ""); 3],
        };
        claims.into_iter().find(|(holds, _)| !holds).map(|(_, wrong)| wrong)
    }

    pub(crate) fn peer(&self) -> Peer {
        self.peer.unpack()
    }
}

/// A [`Peer`] in 24 bytes instead of 32. The flow label of IPv6 is left out, which
/// Linux reports only on request.
#[derive(Clone, Copy, Debug)]
struct PackedPeer {
    ip: [u8; 16],
    scope: u32,
    port: u16,
    family: Family,
    /// In the byte that is left over.
    listener: u8,
}

#[derive(Clone, Copy, Debug)]
enum Family {
    Unix,
    V4,
    V6,
}

impl PackedPeer {
    fn of(peer: Peer, listener: u8) -> PackedPeer {
        let packed = |ip, port, scope, family| PackedPeer { ip, port, scope, family, listener };
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
        let PackedPeer { ip, port, scope, family, .. } = self;
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
        let Connection { fd, received, sent, .. } = self;
        write!(
            f,
            "{} fd {fd:?}{}",
            self.peer(),
            match *self.state {
                State::Connecting { .. } => " Connecting",
                State::Open(_) => " Open",
                State::Closing { .. } => " Closing",
                State::Lingering { .. } => " Lingering",
                State::Broken { .. } => " Broken",
                State::Gone { .. } => "",
            }
        )?;
        write!(f, " received {received} sent {sent}")?;
        if self.rest() > 0 {
            write!(f, " rest {}", self.rest())?;
        }
        if self.queued() > 0 {
            write!(f, " unsent {}", self.queued())?;
        }
        let reading = self.state.input().map(|(_, reading)| reading).unwrap_or_default();
        let is_full = self.state.is_full();
        let flags =
            [(reading.end != PeerEnd::Ahead, "eof"), (reading.paused, "paused"), (is_full, "full")];
        for (_, name) in flags.into_iter().filter(|(flag, _)| *flag) {
            write!(f, " {name}")?;
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
            assert_eq!(PackedPeer::of(peer, 0).unpack(), peer);
        }
        assert_eq!(PackedPeer::of(Peer::Unix, 0).unpack(), Peer::Unix);
    }

    const NOW: Moment = Moment::from_millis(0);

    fn connection() -> Connection {
        Connection::new(Fd::simulated(3).unwrap(), Peer::Unix, 0, NOW)
    }

    /// Else each message would go the long way.
    #[test]
    fn a_new_connection_is_quiet() {
        let mut connection = connection();
        assert!(connection.is_quiet());
        connection.state.open_mut().unwrap().reading.paused = true;
        assert!(!connection.is_quiet());
    }

    #[test]
    fn what_the_log_says_of_a_connection() {
        let mut connection = connection();
        assert_eq!(connection.to_string(), "unix fd 3 Open received 0 sent 0");
        let open = connection.state.open_mut().unwrap();
        open.input.push(b"abc", 0, NOW).unwrap();
        open.reading.end = PeerEnd::Seen;
        connection.staged = 5;
        let said = "unix fd 3 Open received 0 sent 0 rest 3 unsent 5 eof";
        assert_eq!(connection.to_string(), said);
        connection.gone(CloseReason::Idle);
        assert_eq!(connection.to_string(), "unix fd 3 received 0 sent 0 unsent 5");
    }
}
