//! The states of a connection, what is known in each, and the transitions between them.
//!
//! ```text
//!   Connecting, Preface ── refused, too slow, no header ──▶ Gone
//!    │ established, introduced
//!    ▼       close(), idle, limits            output sent    EOF, time, reset
//!   Open ────────────────────────▶ Closing ───────────▶ Lingering ──────────▶ Gone
//!    │  ╲     (FIN sent: Lingering)   │    (shutdown)                           ▲
//!    │   ╲ send or recv failed        │ no more comes (EOF, promise); abort     │
//!    │    ╲                           └─────────────────────────────────────────┤
//!    │     ▶ Broken ── what the peer had still sent is read and offered ────────┤
//!    ├─ abort_behind() ─▶ Delivering ── acknowledged, time: reset ──────────────┤
//!    └──────── abort ───────────────────────────────────────────────────────────┘
//! ```
//!
//! A variant carries what only that state needs, so a combination that cannot occur does not
//! compile: no input in Closing, no timer in Lingering, no close reason in Open. [`Life`]
//! owns the state and keeps it private. `transitions!` declares, once, which event leads from
//! which state to which; each event becomes a method, and these methods are the only way to
//! another state. The same declaration is the table that the chapter on closing prints.
//!
//! Invariants:
//! 1. A connection begins as Connecting, Preface or Open, and ends as Gone. No state is entered
//!    twice.
//! 2. `why` is set when service ends and does not change after it.

use super::transitions::{Transition, transitions};
use super::unsent::Unsent;
use crate::buffer::Buffer;
use crate::close_reason::CloseReason;
use crate::time::{Moment, Span};
use std::mem::take;
use std::ops::Deref;

mod asked;
mod flow;
mod preface;
mod queries;
mod tail;

pub(crate) use tail::Tail;

pub(crate) use asked::{Asked, Early};
pub(crate) use flow::{Fin, Flow, Level, Reading};

/// Upper bound on lingering.
const LINGER_TOTAL: Span = Span::millis(5_001);

#[derive(Debug)]
pub(crate) enum State {
    /// An outbound connection that is not established yet.
    Connecting {
        /// When the connect is given up.
        deadline: Moment,
        early: Early,
    },
    /// Waits for the header with which a front names the client. There is no session yet, and
    /// the handler does not know of the connection.
    Preface {
        /// What has arrived of it.
        header: Buffer,
        deadline: Moment,
    },
    /// In service. The peer may have sent its FIN already.
    Open(Open),
    /// Closed by the handler or by a limit: the last output is being sent, then FIN.
    Closing {
        why: CloseReason,
        unsent: Unsent,
        /// What the peer may still send.
        tail: Tail,
    },
    /// FIN is sent. Input is read and thrown away, because `close` with unread input sends a
    /// reset, and the client may lose the answer.
    Lingering { why: CloseReason, until: Moment },
    /// Ends with a reset, but not before the peer has all that was written, which a reset would
    /// overtake. Input is read and thrown away.
    Delivering {
        why: CloseReason,
        unsent: Unsent,
        tail: Tail,
        /// When the kernel last took bytes of it.
        since: Moment,
    },
    /// Nothing can be sent any more. What the peer sent before is still offered; if it is for
    /// another connection that cannot take it now, it waits in the kernel, unwatched.
    Broken {
        why: CloseReason,
        /// Its close is to be a reset.
        reset: bool,
        input: Buffer,
        asked: Asked,
        /// The handler is to hear that no output waits any more.
        drained: bool,
        /// The rest is to be offered again.
        again: bool,
        /// Bytes read since it broke.
        read: u32,
    },
    /// To be freed when the batch is done.
    Gone { why: CloseReason, reset: bool },
}

/// A connection in service: its two directions, and what the handler has asked for.
#[derive(Debug, Default)]
pub(crate) struct Open {
    /// Received, not consumed.
    pub(crate) input: Buffer,
    pub(crate) unsent: Unsent,
    pub(crate) flow: Flow,
    pub(crate) asked: Asked,
    /// The handler has heard, during a pause, that the peer's end is on its way.
    pub(crate) hung_up: bool,
    /// When the handler wants to be called.
    pub(crate) timer: Option<Moment>,
    /// Bytes read since the drain began.
    pub(crate) read: u32,
    /// Bytes of memory that the handler has charged to it.
    pub(crate) charged: u32,
}

/// The state of a connection, which only transitions change.
#[derive(Debug)]
pub(crate) struct Life(State);

impl Deref for Life {
    type Target = State;

    #[inline]
    fn deref(&self) -> &State {
        &self.0
    }
}

transitions! {
    /// A connect has succeeded.
    established(now: Moment) {
        Connecting { early, .. } => Open (early.open(now));
    }

    /// A front's header is whole. What came behind its `length` bytes is to be offered.
    introduced(length: usize) {
        Preface { header, .. } => Open (Open::behind(take(header), length));
    }

    /// The handler, the peer's FIN, a timeout or a limit ends it: what is written is sent.
    close(why: CloseReason, now: Moment) {
        Connecting { .. } => Gone { why, reset: false };
        Preface { .. } => Gone { why, reset: false };
        Open (open) if !open.flow.has_sent_fin() => Closing {
            why,
            tail: open.flow.tail(),
            unsent: take(&mut open.unsent)
        };
        Open (open) if open.flow.is_ahead() => Lingering { why, until: now.after(LINGER_TOTAL) };
        Open (_) => Gone { why, reset: false };
        Broken { why, reset, .. } => Gone { why: *why, reset: *reset };
    }

    /// What is written is delivered, then a reset shows that it is not all.
    deliver(why: CloseReason, now: Moment) {
        Connecting { .. } => Gone { why, reset: false };
        Open (open) if open.flow.fin() == Fin::No => Delivering {
            why,
            tail: open.flow.tail(),
            unsent: take(&mut open.unsent),
            since: now
        };
        Closing { why, unsent, tail } => Delivering {
            why: *why,
            tail: *tail,
            unsent: take(unsent),
            since: now
        };
        Broken { why, reset, .. } => Gone { why: *why, reset: *reset };
    }

    /// All output of a connection that has ended or finished is sent. Gone if nothing more comes.
    flushed(now: Moment) {
        Open (Open { flow: Flow::HalfClosedRemote { finish: true, .. }, .. }) => Gone {
            why: CloseReason::PeerClosed,
            reset: false
        };
        Closing { why, tail: Tail::Possible, .. } => Lingering {
            why: *why,
            until: now.after(LINGER_TOTAL)
        };
        Closing { why, .. } => Gone { why: *why, reset: false };
    }

    /// A call has failed for good, or the peer has hung up: nothing can be sent.
    broken(why: CloseReason) {
        Connecting { .. } => Gone { why, reset: false };
        Preface { .. } => Gone { why, reset: false };
        Open (open) => Broken {
            why,
            reset: false,
            input: take(&mut open.input),
            asked: open.asked,
            drained: open.asked.duplex && open.flow.level() != Level::Low,
            again: open.flow.is_again(),
            read: 0
        };
        Closing { .. } => Gone { why, reset: false };
        Delivering { .. } => Gone { why, reset: false };
        Lingering { why, .. } => Gone { why: *why, reset: false };
    }

    /// Ends it now: by `abort`, a limit, a failure, or because nothing is left to do.
    end(why: CloseReason) {
        Connecting { .. } => Gone { why, reset: false };
        Preface { .. } => Gone { why, reset: false };
        Open (_) => Gone { why, reset: false };
        Closing { .. } => Gone { why, reset: false };
        Delivering { .. } => Gone { why, reset: false };
        Lingering { .. } => Gone { why, reset: false };
        Broken { reset, .. } => Gone { why, reset: *reset };
    }
}

impl Life {
    /// An accepted connection.
    pub(crate) fn open() -> Life {
        Life(State::Open(Open::default()))
    }

    /// An outbound connection, which is given up at `deadline`.
    pub(super) fn connecting(deadline: Moment) -> Life {
        Life(State::Connecting { deadline, early: Early::default() })
    }

    pub(crate) fn open_mut(&mut self) -> Option<&mut Open> {
        if let State::Open(open) = &mut self.0 { Some(open) } else { None }
    }

    /// What the peer has sent, while it is still for the handler.
    pub(crate) fn input_mut(&mut self) -> Option<&mut Buffer> {
        match &mut self.0 {
            State::Open(Open { input, .. }) | State::Broken { input, .. } => Some(input),
            _ => None,
        }
    }

    /// Takes what was received and not consumed, to be offered.
    pub(crate) fn take_input(&mut self) -> Buffer {
        self.set_again(false);
        self.input_mut().map(take).unwrap_or_default()
    }

    /// Whether the rest is to be offered again without new bytes.
    pub(crate) fn set_again(&mut self, new: bool) {
        match &mut self.0 {
            State::Open(open) => open.flow.set_again(new),
            State::Broken { again, .. } => *again = new,
            _ => {}
        }
    }

    /// What waits for the kernel, while it can be sent, or may be later.
    pub(crate) fn unsent_mut(&mut self) -> Option<&mut Unsent> {
        match &mut self.0 {
            State::Connecting { early, .. } => Some(&mut early.unsent),
            State::Open(Open { unsent, .. })
            | State::Closing { unsent, .. }
            | State::Delivering { unsent, .. } => Some(unsent),
            _ => None,
        }
    }

    /// The kernel took bytes that had waited.
    pub(crate) fn taken(&mut self, now: Moment) {
        if let State::Delivering { since, .. } = &mut self.0 {
            *since = now;
        }
        if let Some(unsent) = self.unsent_mut() {
            unsent.bytes.touch(now);
        }
    }

    /// Bytes read since the drain began, or the connection broke.
    fn read_mut(&mut self) -> Option<&mut u32> {
        match &mut self.0 {
            State::Open(Open { read, .. }) | State::Broken { read, .. } => Some(read),
            _ => None,
        }
    }

    pub(crate) fn count_read(&mut self, n: usize) {
        if let Some(read) = self.read_mut() {
            *read = read.saturating_add(n as u32);
        }
    }

    /// Restarts the count of bytes read.
    pub(crate) fn forget_read(&mut self) {
        if let Some(read) = self.read_mut() {
            *read = 0;
        }
    }

    /// The close of a connection that has ended is to be a reset.
    pub(crate) fn reset_on_close(&mut self) {
        if let State::Broken { reset, .. } | State::Gone { reset, .. } = &mut self.0 {
            *reset = true;
        }
    }

    /// Whether FIN is to be sent now that all output is, which it is from now on.
    pub(crate) fn take_fin(&mut self) -> bool {
        match &mut self.0 {
            State::Open(open) => open.flow.take_fin(),
            State::Closing { tail, .. } => *tail == Tail::Possible,
            _ => false,
        }
    }

    /// What follows for its two directions. `owes`: too much output waits for it to be read.
    /// `starves`: it would be read, but memory is too short.
    pub(crate) fn settle(&mut self, owes: bool, starves: bool, now: Moment) {
        if let State::Open(open) = &mut self.0 {
            open.settle(owes, starves, now);
        }
    }

    /// The handler is called because output was drained.
    pub(crate) fn drained(&mut self) {
        match &mut self.0 {
            State::Open(open) => open.flow.set_level(Level::Low),
            State::Broken { drained, .. } => *drained = false,
            _ => {}
        }
    }

    /// Output has reached the high water mark.
    pub(crate) fn become_full(&mut self) {
        match &mut self.0 {
            State::Connecting { early, .. } => early.full = true,
            State::Open(open) => open.flow.set_level(Level::Full),
            _ => {}
        }
    }
}

impl Open {
    fn settle(&mut self, owes: bool, starves: bool, now: Moment) {
        if self.input.is_empty() {
            self.flow.set_again(false);
        }
        let before = self.flow;
        self.flow.settle(owes, starves);
        if self.flow != before && !before.is_starved() {
            self.input.touch(now); // of a message that starved the deadline has run
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In whatever order events come, a connection ends once, and for the first reason.
    #[test]
    fn every_life_ends_and_for_one_reason() {
        const NOW: Moment = Moment::from_millis(7);
        let mut random = 1u64;
        for round in 0..20_000u64 {
            let deadline = NOW.after(Span::millis(1));
            let mut life = match round % 3 {
                0 => Life::open(),
                1 => Life::connecting(deadline),
                _ => Life::preface(deadline),
            };
            let (mut reason, mut rank) = (None, 0);
            for step in 0..12 {
                random = random.wrapping_mul(6364136223846793005).wrapping_add(round + step);
                let why = [CloseReason::Handler, CloseReason::Idle, CloseReason::PeerReset]
                    [(random >> 40) as usize % 3];
                match (random >> 33) % 9 {
                    0 => life.established(NOW),
                    8 => life.introduced(0),
                    1 => life.close(why, NOW),
                    2 => life.flushed(NOW),
                    3 => life.broken(why),
                    4 if step > 6 => life.end(why),
                    5 => life.finish(),
                    6 => drop(life.take_fin()),
                    7 => life.deliver(why, NOW),
                    _ => drop(life.at_end()),
                }
                let order = match *life {
                    State::Connecting { .. } | State::Preface { .. } => 0,
                    State::Open(_) => 1,
                    State::Closing { .. } => 2,
                    State::Delivering { .. } => 3,
                    State::Lingering { .. } | State::Broken { .. } => 3,
                    State::Gone { .. } => 4,
                };
                assert!(order >= rank, "back to {life:?}");
                rank = order;
                if rank == 4 {
                    reason = reason.or(life.why());
                    assert_eq!(life.why(), reason);
                }
            }
        }
    }
}
