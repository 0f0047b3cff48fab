//! One socket: its state, its counters, and what follows from them.
//!
//! Nothing here calls the kernel. Callbacks and events change the [state](state); the
//! reactor then asks the pure functions below what follows: [`interest`], [`has_work`],
//! [`deadline`]. So no decision is stored that could be derived.
//!
//! Invariants:
//! 1. `registered` is the mask that epoll has (or that epoll does not watch it), nothing else.
//! 2. `attention` is Quiet only if [`is_quiet`] held when it was last settled, and nothing
//!    but answered messages has happened since.
//! 3. What a settled connection holds agrees with itself: see [`contradiction`].
//!
//! [`interest`]: Connection::interest
//! [`has_work`]: Connection::has_work
//! [`deadline`]: Connection::deadline
//! [`is_quiet`]: Connection::is_quiet
//! [`contradiction`]: Connection::contradiction

use crate::buffer::Buffer;
use crate::close_reason::CloseReason;
use crate::counters::Counters;
use crate::kernel::{self, Errno, Fd, Peer};
use crate::outbox::Staged;
use crate::reaction::{Call, Reaction, reaction};
use crate::time::{Moment, Tick};

mod invariants;
mod log_line;
mod peer;
#[cfg(feature = "sim")]
pub(crate) mod place;
mod shortage;
mod state;
mod timeouts;
mod transitions;
mod unsent;

use peer::PackedPeer;
use shortage::{MAX_TRIES, Shortage};
pub use state::TRANSITIONS;
pub(crate) use state::{Fin, Life, Open, State, Tail};
pub use transitions::Transition;
#[cfg(feature = "sim")]
pub use transitions::taken;
pub(crate) use unsent::Unsent;

/// Stands for the mask of what epoll does not watch.
pub(crate) const UNWATCHED: u8 = 1 << 7;
/// Stands for the listener of a connection that we began ourselves.
pub(crate) const OUTBOUND: u8 = u8::MAX;

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
    /// What the outbox holds for it.
    pub(crate) staged: Staged,
    pub(crate) received: u64,
    pub(crate) sent: u64,
    /// When the last byte moved, in ticks; and how often the ticks have wrapped around since.
    pub(crate) last: Tick,
    spans: u8,
    pub(crate) attention: Attention,
    pub(crate) shortage: Shortage,
    /// The mask that epoll has.
    pub(crate) registered: u8,
    peer: PackedPeer,
    pub(crate) state: Life,
}

impl Connection {
    pub(crate) fn new(fd: Fd, peer: Peer, listener: u8, now: Moment, state: Life) -> Connection {
        let registered = kernel::IN as u8;
        Connection::begin(fd, PackedPeer::of(peer, listener), registered, now, state)
    }

    /// An outbound connection, which is given up at `deadline`. It has no socket yet.
    pub(crate) fn outbound(peer: Peer, now: Moment, deadline: Moment) -> Connection {
        let peer = PackedPeer::of(peer, OUTBOUND);
        Connection::begin(Fd::UNOPENED, peer, UNWATCHED, now, Life::connecting(deadline))
    }

    fn begin(fd: Fd, peer: PackedPeer, registered: u8, now: Moment, state: Life) -> Connection {
        Connection {
            fd,
            staged: Staged::NOTHING,
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

    // ---- events --------------------------------------------------------------------------

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
            self.state.taken(now);
        }
    }

    /// Ends it with FIN: what is written is still sent.
    pub(crate) fn close(&mut self, why: CloseReason, now: Moment) {
        let has_finished = self.state.open().is_some_and(|open| open.flow.has_sent_fin());
        if has_finished {
            self.touch(now); // it lingers from now on
        }
        self.state.close(why, now);
    }

    /// Bytes have arrived on a connection that has ended.
    pub(crate) fn talks_on(&mut self, now: Moment) {
        self.state.talks_on();
        self.touch(now);
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

    /// Ends it with a reset, behind all that is written.
    pub(crate) fn abort_behind(&mut self, why: CloseReason, now: Moment) {
        match self.state.open() {
            _ if self.sent == 0 && self.is_flushed() => self.abort(why), // nothing is written
            Some(open) if open.flow.fin() != Fin::No => self.close(why, now), // it is whole
            _ => self.state.deliver(why, now),
        }
    }

    /// Ends it now, with a reset, for the reason for which its service ended.
    pub(crate) fn reset(&mut self) {
        self.done();
        self.state.reset_on_close();
    }

    /// A call on it has failed: does what the table of errnos demands.
    #[cold]
    pub(crate) fn failed(&mut self, call: Call, errno: Errno, counters: &mut Counters) {
        match reaction(call, errno) {
            // An interrupted call is made again at the next event, which is there already.
            Reaction::Wait | Reaction::Retry | Reaction::Ignore | Reaction::Degrade => {}
            Reaction::Later | Reaction::Pause => {
                self.shortage.count_failure();
                if self.shortage.tries() > MAX_TRIES {
                    self.abort(CloseReason::Server { call, errno });
                }
            }
            Reaction::DropConnection => {
                let why = CloseReason::of(call, errno);
                match &*self.state {
                    State::Open(open) if call == Call::Recv && !open.flow.is_again() => {
                        self.gone(why);
                    }
                    State::Broken { .. } => self.done(), // epoll cannot forget it
                    _ => self.broken(why),
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
        if !matches!(*self.state, State::Closing { .. } | State::Delivering { .. }) {
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
            && !open.asked.paused
            && open.flow.fin() == Fin::No
            && self.shortage == Shortage::default()
            && self.spans == 0
    }

    /// Bytes that wait for the kernel in its own buffer.
    pub(crate) fn unsent(&self) -> usize {
        self.state.unsent().map_or(0, Unsent::len)
    }

    /// Whether the kernel has taken everything.
    pub(crate) fn is_flushed(&self) -> bool {
        self.staged.is_nothing() && !self.is_sending()
    }

    /// Whether anything waits for the kernel to take it.
    pub(crate) fn is_sending(&self) -> bool {
        self.state.unsent().is_some_and(|unsent| !unsent.is_empty())
    }

    /// Whether the kernel would take bytes, as far as we know.
    pub(crate) fn can_send(&self) -> bool {
        !self.shortage.waits() && !self.state.is_connecting()
    }

    /// Whether as much as `mark` waits; never true when nothing waits.
    pub(crate) fn owes(&self, mark: usize) -> bool {
        self.unsent() >= mark.max(1)
    }

    /// What it holds of the memory budget.
    pub(crate) fn footprint(&self) -> usize {
        match &*self.state {
            State::Preface { header, .. } => header.footprint(),
            State::Open(open) => {
                open.input.footprint() + open.unsent.footprint() + open.charged as usize
            }
            State::Broken { input, .. } => input.footprint(),
            state => state.unsent().map_or(0, Unsent::footprint),
        }
    }

    /// Bytes received and not consumed.
    pub(crate) fn rest(&self) -> usize {
        self.state.input().map_or(0, Buffer::len)
    }

    /// Whether the handler may be offered input now.
    pub(crate) fn can_offer(&self) -> bool {
        match &*self.state {
            State::Open(open) => {
                !open.asked.paused && !open.holds_up_input() && !self.shortage.waits()
            }
            State::Broken { asked, .. } => !asked.paused,
            _ => false,
        }
    }

    /// What epoll should watch for. HUP and ERR come unasked, unless it is not watched.
    pub(crate) fn interest(&self) -> u8 {
        if self.shortage.waits() {
            return 0;
        }
        let read = match &*self.state {
            State::Connecting { .. } if self.fd.is_unopened() => return 0,
            State::Connecting { .. } => return kernel::OUT as u8,
            State::Preface { .. } => true,
            State::Open(open) => {
                open.flow.is_ahead() && !open.asked.paused && !open.holds_up_input()
            }
            State::Closing { tail, .. } | State::Delivering { tail, .. } => *tail != Tail::Over,
            State::Lingering { .. } => true,
            State::Broken { asked, .. } if asked.keeps_input() => return UNWATCHED,
            State::Broken { .. } | State::Gone { .. } => false,
        };
        let write = if self.is_sending() { kernel::OUT as u8 } else { 0 };
        (if read { kernel::IN as u8 } else { 0 }) | write | self.state.hangup_mask()
    }

    /// Whether it is a client that has sent nothing yet, or has not been answered, and has not
    /// ended: a stop waits for its bytes, which may be on their way.
    pub(crate) fn may_speak(&self) -> bool {
        let is_ahead = |open: &Open| open.flow.is_ahead();
        let is_new = self.received == 0 || self.sent == 0 && self.is_flushed();
        is_new && self.listener() != OUTBOUND && self.state.open().is_some_and(is_ahead)
    }

    /// Whether there is something to do for it without waiting for an event. `may_end`: the server
    /// stops, and need not wait for its bytes.
    pub(crate) fn has_work(&self, may_end: bool) -> bool {
        match &*self.state {
            State::Open(Open { flow, asked, .. }) => {
                let is_due = flow.reading().is_some_and(|reading| reading.again || reading.ended);
                self.state.is_drained() || self.can_offer() && (is_due || may_end && !asked.held)
            }
            State::Broken { asked, .. } => self.state.is_drained() || !asked.keeps_input(),
            _ => false,
        }
    }

    pub(crate) fn peer(&self) -> Peer {
        self.peer.unpack()
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
        Connection::new(Fd::simulated(3).unwrap(), Peer::Unix, 0, NOW, Life::open())
    }

    /// Otherwise each message would take the slow path.
    #[test]
    fn a_new_connection_is_quiet() {
        let mut connection = connection();
        assert!(connection.is_quiet());
        connection.state.pause();
        assert!(!connection.is_quiet());
    }

    #[test]
    fn what_the_log_says_of_a_connection() {
        let mut connection = connection();
        assert_eq!(connection.to_string(), "unix fd 3 Open received 0 sent 0");
        let open = connection.state.open_mut().unwrap();
        open.input.push(b"abc", NOW).unwrap();
        open.flow.ended(false);
        open.unsent.bytes.push(b"abcde", NOW).unwrap();
        let said = "unix fd 3 Open received 0 sent 0 rest 3 unsent 5 eof";
        assert_eq!(connection.to_string(), said);
        connection.gone(CloseReason::Idle);
        assert_eq!(connection.to_string(), "unix fd 3 received 0 sent 0");
    }
}
