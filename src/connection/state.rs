//! The states of a connection, what is known in each, and the transitions between them.
//!
//! ```text
//!   Connecting, Preface ── refused, too slow, no header ──▶ Gone
//!    │ established, introduced
//!    ▼       close(), idle, limits            output sent    EOF, time, reset
//!   Open ────────────────────────▶ Closing ───────────▶ Lingering ──────────▶ Gone
//!    │  ╲                             │    (shutdown)                           ▲
//!    │   ╲ send or recv failed        │ EOF came before; abort, reset           │
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
//! 1. A connection begins as Connecting, Preface or Open and ends as Gone; no state is entered twice.
//! 2. `why` is set when service ends and does not change after it.

use super::transitions::{Transition, transitions};
use super::unsent::Unsent;
use crate::buffer::Buffer;
use crate::close_reason::CloseReason;
use crate::time::{Moment, Span};
use std::mem::take;
use std::ops::Deref;

mod asked;
mod preface;
mod seen;
mod tail;

pub(crate) use tail::Tail;

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
        /// FIN is sent already, because the handler had finished.
        has_fin: bool,
        /// What is lingered for when that is done.
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
    /// Nothing can be sent any more. What the peer sent before is still offered.
    Broken {
        why: CloseReason,
        /// Its close is to be a reset.
        reset: bool,
        input: Buffer,
        reading: Reading,
        /// Bytes read since it broke.
        read: u32,
    },
    /// To be freed when the batch is done.
    Gone { why: CloseReason, reset: bool },
}

/// What a handler has asked of a connection before it is established.
#[derive(Debug, Default)]
pub(crate) struct Early {
    unsent: Unsent,
    /// Output has reached the high water mark.
    full: bool,
    finish: bool,
    paused: bool,
    duplex: bool,
    held: bool,
    timer: Option<Moment>,
}

/// A connection in service: its two directions, and what the handler has asked for.
#[derive(Debug, Default)]
pub(crate) struct Open {
    /// Received, not consumed.
    pub(crate) input: Buffer,
    pub(crate) unsent: Unsent,
    pub(crate) reading: Reading,
    pub(crate) writing: Writing,
    /// When the handler wants to be called.
    pub(crate) timer: Option<Moment>,
    /// Bytes read since the drain began.
    pub(crate) read: u32,
    /// Bytes of memory that the handler has charged to it.
    pub(crate) charged: u32,
    /// The handler holds it: a stop does not end it by itself.
    pub(crate) held: bool,
    /// Input is offered even while output is full, because it is answered on another
    /// connection (proxy).
    pub(crate) duplex: bool,
}

/// The peer's direction, as the handler sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) end: PeerEnd,
    /// The handler wants no input for now.
    pub(crate) paused: bool,
    /// The rest is to be offered again without new bytes.
    pub(crate) again: bool,
    /// The handler has heard, during a pause, that the peer's end is on its way.
    pub(crate) hung_up: bool,
}

/// How far the peer's end has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum PeerEnd {
    /// EOF has not been received.
    #[default]
    Ahead,
    /// EOF has been received.
    Seen,
    /// The handler has been called with it.
    Told,
}

/// Our direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Writing {
    pub(crate) level: Level,
    pub(crate) fin: Fin,
}

/// How much output waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Level {
    #[default]
    Low,
    /// Output was above the high water mark and has not fallen below the low one.
    Full,
    /// The same, and memory is too short to read.
    Starved,
    /// Output has fallen below the low water mark, and the handler is to be called.
    Drained,
}

/// Whether the handler has ended our direction while it goes on reading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Fin {
    /// The handler has not ended it.
    #[default]
    No,
    /// FIN follows the last byte of output.
    Wanted,
    /// FIN is sent.
    Sent,
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
    close(why: CloseReason) {
        Connecting { .. } => Gone { why, reset: false };
        Preface { .. } => Gone { why, reset: false };
        Open (open) => Closing {
            why,
            has_fin: open.writing.fin == Fin::Sent,
            tail: open.reading.tail(),
            unsent: take(&mut open.unsent)
        };
        Broken { why, reset, .. } => Gone { why: *why, reset: *reset };
    }

    /// What is written is delivered, then a reset shows that it is not all. (After a FIN, it was.)
    deliver(why: CloseReason, now: Moment) {
        Connecting { .. } => Gone { why, reset: false };
        Open (open) if open.writing.fin == Fin::No => Delivering {
            why,
            tail: open.reading.tail(),
            unsent: take(&mut open.unsent),
            since: now
        };
        Open (open) => Closing {
            why,
            has_fin: open.writing.fin == Fin::Sent,
            tail: open.reading.tail(),
            unsent: take(&mut open.unsent)
        };
        Closing { why, has_fin: false, unsent, tail } => Delivering {
            why: *why,
            tail: *tail,
            unsent: take(unsent),
            since: now
        };
        Broken { why, reset, .. } => Gone { why: *why, reset: *reset };
    }

    /// All output of a connection that has ended or finished is sent. Gone if nothing more comes.
    flushed(now: Moment) {
        Open (open) if open.writing.fin != Fin::No && open.reading.end == PeerEnd::Told => Gone {
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
            reading: open.reading,
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
    pub(crate) fn input_mut(&mut self) -> Option<(&mut Buffer, &mut Reading)> {
        match &mut self.0 {
            State::Open(open) => Some((&mut open.input, &mut open.reading)),
            State::Broken { input, reading, .. } => Some((input, reading)),
            _ => None,
        }
    }

    /// Takes what was received and not consumed, to be offered.
    pub(crate) fn take_input(&mut self) -> Buffer {
        let Some((input, reading)) = self.input_mut() else { return Buffer::default() };
        reading.again = false;
        take(input)
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
            State::Open(Open { reading, writing, .. }) => {
                let due = writing.fin == Fin::Wanted && reading.end != PeerEnd::Told;
                if due {
                    writing.fin = Fin::Sent;
                }
                due
            }
            State::Closing { has_fin, tail, .. } => !*has_fin && *tail == Tail::Possible,
            _ => false,
        }
    }

    /// What follows for its two directions from what it holds: whether it must wait until less
    /// output is queued, and whether memory is too short to read.
    pub(crate) fn settle(&mut self, must_wait: bool, starves: bool, now: Moment) {
        if let Some((input, reading)) = self.input_mut() {
            reading.again &= !input.is_empty();
        }
        if let Some(open) = self.open_mut() {
            open.settle_level(must_wait, starves, now);
        }
    }

    pub(crate) fn set_level(&mut self, level: Level) {
        if let State::Open(open) = &mut self.0 {
            open.writing.level = level;
        }
    }

    /// Output has reached the high water mark.
    pub(crate) fn become_full(&mut self) {
        match &mut self.0 {
            State::Connecting { early, .. } => early.full = true,
            State::Open(open) if !open.writing.is_full() => open.writing.level = Level::Full,
            _ => {}
        }
    }
}

impl Open {
    /// What became of the output: whether it is above the mark now, and whether memory is
    /// too short to read.
    pub(crate) fn settle_level(&mut self, is_over: bool, starves: bool, now: Moment) {
        if self.writing.is_full() != is_over {
            if self.writing.level != Level::Starved {
                self.input.touch(now); // of a message that starved the deadline has run
            }
            self.writing.level = if is_over { Level::Full } else { Level::Drained };
        } else if self.writing.level == Level::Starved && !(starves && self.needs_to_read()) {
            self.writing.level = Level::Full;
        }
    }
}

impl Writing {
    pub(crate) fn is_full(self) -> bool {
        matches!(self.level, Level::Full | Level::Starved)
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
                    1 => life.close(why),
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
