//! Signals are read, and done what each asks for: to stop, to report, or nothing.
//!
//! ```text
//!   None ── a signal to stop ─▶ One ── the same burst: one stop ─▶ One
//!                                └──── SIGINT again, or 500 ms later: everything ends ─▶ Two
//! ```
//!
//! Invariant: the kernel merges signals that are pending, so none is counted; what matters is
//! whether one has come, and when.

use super::Reactor;
use crate::deadlines::Alarm;
use crate::error::Error;
use crate::handler::ConnectionHandler;
use crate::kernel::{Clock, Kernel, Signal};
use crate::net::ConnId;
use crate::process::Command;
use crate::reaction::{Call, Reaction, attempt};
use crate::time::{Moment, Span};
use std::cmp::Reverse;

/// How many signals are read in one turn: more than there are different ones.
const TAKEN: usize = 8;
/// How many connections a report names.
const REPORTED: usize = 100;
/// How often there is a report, however often one is asked for.
const REPORTS: Span = Span::millis(1_000);

/// Signals to stop that come within this time after the first belong to it: a
/// supervisor, or a terminal that hangs up, may send several.
const BURST: Span = Span::millis(500);

/// The signals to stop that have come.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Signals {
    #[default]
    None,
    /// The server stops.
    One {
        last: Signal,
        /// When the first came.
        since: Moment,
        /// Whether a SIGINT is among them.
        typed: bool,
    },
    /// Everything ends at once; the last of them.
    Two(Signal),
}

impl Signals {
    pub(crate) fn last(self) -> Option<Signal> {
        match self {
            Signals::None => None,
            Signals::One { last, .. } | Signals::Two(last) => Some(last),
        }
    }

    pub(crate) fn are_two(self) -> bool {
        matches!(self, Signals::Two(_))
    }

    /// One more comes. Two mean *now* if two were meant: Ctrl-C was typed again, or the
    /// first was long ago.
    fn and(self, signal: Signal, now: Moment) -> Signals {
        let is_typed = signal == Signal::SIGINT;
        match self {
            Signals::None => Signals::One { last: signal, since: now, typed: is_typed },
            Signals::One { since, typed, .. }
                if now.since(since) < BURST && !(typed && is_typed) =>
            {
                Signals::One { last: signal, since, typed: typed || is_typed }
            }
            Signals::One { .. } | Signals::Two(_) => Signals::Two(signal),
        }
    }
}

impl<H: ConnectionHandler, K: Kernel> Reactor<H, K> {
    /// Signals that arrive together are merged by the kernel, so they are not counted.
    pub(super) fn take_signals(&mut self) {
        let (before, mut asked) = (self.end.signals, false);
        for _ in 0..TAKEN {
            let Some(fd) = self.poll.signals() else { break };
            match attempt(Call::ReadSignal, || self.kernel.read_signal(fd)) {
                Ok(signal) => match self.process.as_mut().map(|process| process.command(signal)) {
                    Some(Command::Stop) | None => {
                        // The turn may have begun long ago.
                        let nanos = self.kernel.clock_gettime(Clock::Monotonic);
                        let now = Moment::from_millis(nanos / 1_000_000);
                        self.end.signals = self.end.signals.and(signal, now);
                    }
                    Some(Command::Report) => asked = true,
                    Some(Command::Nothing) => {
                        self.process.iter_mut().for_each(|process| process.tell_unused(signal));
                    }
                },
                Err((Reaction::FailRuntime, errno)) => {
                    if let Some(fd) = self.poll.take_signals() {
                        self.close(fd); // or it would be ready in every wait
                    }
                    self.fail(Error::new(Call::ReadSignal, "signalfd", errno));
                    break;
                }
                Err(_) => break,
            }
        }
        if asked {
            self.want_report();
        }
        self.act_on_signals(before);
    }

    /// Does what the signals to stop ask for, now that there may be more than `before`.
    fn act_on_signals(&mut self, before: Signals) {
        match (before, self.end.signals) {
            (Signals::None, Signals::One { last, .. }) => match self.net.limits.stop_delay {
                Some(delay) if !self.net.is_stopping() => self.announce_stop(last, delay),
                _ => self.net.stop(),
            },
            (Signals::None | Signals::One { .. }, Signals::Two(_)) => {
                self.net.stop();
                self.cut();
            }
            _ => {}
        }
    }

    /// A report is wanted: now, or when the last one is a second ago.
    pub(super) fn want_report(&mut self) {
        let now = self.net.now;
        match self.reported_at.map(|last| last.after(REPORTS)) {
            Some(next) if now < next => self.timer.alarms.ring_by(Alarm::Report, next),
            _ => {
                self.reported_at = Some(now);
                self.report();
            }
        }
    }

    /// SIGUSR1: the totals, then a line for each of the connections that hold most memory.
    /// Not for all: 10,000 lines would make every client wait, and no log takes them.
    #[cold]
    fn report(&self) {
        let (open, (waiting, _)) = (self.net.table.len(), self.net.table.memory());
        let which = if open > REPORTED { "; those that hold most:" } else { "" };
        let so_far = self.net.counters();
        log::info!("{open} open, holding {waiting} bytes of memory, {so_far}{which}");
        let held = self.net.table.iter();
        let mut held: Vec<_> =
            held.map(|(slot, connection)| (Reverse(connection.footprint()), slot)).collect();
        if held.len() > REPORTED {
            held.select_nth_unstable(REPORTED);
            held.truncate(REPORTED);
        }
        held.sort_unstable();
        for (_, slot) in held {
            let Some(connection) = self.net.table.look(slot) else { continue };
            let idle = connection.idle(self.net.now).as_millis();
            let id = ConnId(self.net.table.id(slot));
            log::info!("{id} {connection} idle {}.{:03} s", idle / 1_000, idle % 1_000);
        }
    }
}
