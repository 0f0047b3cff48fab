//! Signals are read, and done what each asks for: to stop, to report, or nothing.

use super::Reactor;
use crate::deadlines::Alarm;
use crate::error::Error;
use crate::handler::ConnectionHandler;
use crate::kernel::{Kernel, Signal};
use crate::net::ConnId;
use crate::process::Wish;
use crate::reaction::{Call, Reaction, attempt};
use crate::time::Span;
use std::cmp::Reverse;

/// How many signals are read in one turn: more than there are different ones.
const TAKEN: usize = 8;
/// How many connections a report names.
const REPORTED: usize = 100;
/// How often there is a report, however often one is asked for.
const REPORTS: Span = Span::millis(1_000);

/// The signals to stop that have come.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Signals {
    #[default]
    None,
    One(Signal),
    /// Everything ends at once; the last of them.
    Two(Signal),
}

impl Signals {
    pub(crate) fn last(self) -> Option<Signal> {
        match self {
            Signals::None => None,
            Signals::One(signal) | Signals::Two(signal) => Some(signal),
        }
    }
}

impl<H: ConnectionHandler, K: Kernel> Reactor<H, K> {
    /// Signals that arrive together count as one: the kernel merges them anyway.
    pub(super) fn take_signals(&mut self) {
        let (mut ending, mut asked) = (None, false);
        for _ in 0..TAKEN {
            let Some(fd) = &self.poll.signals else { break };
            match attempt(Call::ReadSignal, || self.kernel.read_signal(fd)) {
                Ok(signal) => match self.process.as_mut().map(|process| process.wish(signal)) {
                    Some(Wish::Stop) | None => ending = Some(signal),
                    Some(Wish::Report) => asked = true,
                    Some(Wish::Nothing) => {
                        self.process.iter_mut().for_each(|process| process.tell_unused(signal));
                    }
                },
                Err((Reaction::FailRuntime, errno)) => {
                    if let Some(fd) = self.poll.signals.take() {
                        self.close(fd); // or it would be ready for ever
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
        if let Some(signal) = ending {
            let is_second = self.end.signals.last().is_some();
            self.end.signals = if is_second { Signals::Two(signal) } else { Signals::One(signal) };
            match self.net.limits.stop_delay {
                Some(delay) if !self.net.is_stopping() => self.announce_stop(signal, delay),
                _ => self.net.stop(),
            }
            if is_second {
                self.cut();
            }
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
    /// Not for all: 10,000 lines would keep everybody waiting, and no log takes them.
    #[cold]
    fn report(&self) {
        let (open, (waiting, _)) = (self.net.table.len(), self.net.table.memory());
        let which = if open > REPORTED { "; those that hold most:" } else { "" };
        log::info!("{open} open, holding {waiting} bytes of memory, {}{which}", self.net.totals());
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
