//! The core descriptors: calls from other threads, signals, time; and the stop.
//!
//! A stop loses nothing that was received. New clients are refused, those in the
//! queue are let in, and each connection is read until there is nothing, answered,
//! and closed with FIN. What has not finished at the drain deadline is cut, with a
//! reset, and counted.

use super::accepting::Queue;
use super::poll::{EVENTFD, LISTENERS, SIGNALFD, TIMERFD};
use super::{BATCH, GRACE, LOOKS, Reactor, Signals, Timerfd};
use crate::close_reason::CloseReason;
use crate::connection::{OUTBOUND, State};
use crate::deadlines::Alarm;
use crate::error::{Error, needed};
use crate::handler::ConnectionHandler;
use crate::kernel::{Errno, Kernel, Signal};
use crate::net::{ConnId, Stop};
use crate::process::Wish;
use crate::reaction::{Call, Reaction, attempt};
use crate::time::{Moment, Span};
use std::cmp::Reverse;

/// Why a connection that we began ends that is not established in time.
const TOO_SLOW: CloseReason = CloseReason::Network { call: Call::Connect, errno: Errno::ETIMEDOUT };

/// How many connections a report names.
const REPORTED: usize = 100;

impl<H: ConnectionHandler, K: Kernel> Reactor<H, K> {
    /// Serves the core descriptors that were ready, after the connections: those who
    /// are in come before those who want in, and bytes come before deadlines.
    pub(super) fn serve_core(&mut self, ready: usize) {
        let mut woken = std::mem::take(&mut self.woken);
        for (core, mask) in woken.drain(..) {
            match core {
                EVENTFD => self.run_jobs(),
                SIGNALFD => self.take_signals(),
                // After a long stop the batch is full: first everybody's bytes, then the
                // deadlines. One round of everybody, for with a crowd it is always full.
                TIMERFD if ready == BATCH && self.put_off <= self.net.table.len() / BATCH => {
                    self.put_off += 1;
                }
                TIMERFD => self.look_at_deadlines(),
                listener => self.serve_listener((listener - LISTENERS) as usize, mask),
            }
        }
        self.woken = woken;
    }

    fn run_jobs(&mut self) {
        match self.mailbox.collect() {
            Ok((jobs, stop)) => {
                for job in jobs {
                    job(&mut self.handler, &mut self.net);
                    self.net.flush_group(&mut self.kernel);
                }
                if stop {
                    self.net.stop();
                }
            }
            Err(error) => {
                self.mailbox.close(); // or it would be ready for ever
                self.fail(error);
            }
        }
    }

    /// The server cannot go on: it finishes what it can. The first error is told by
    /// whoever gets it from `run`, so only others are told here.
    #[cold]
    pub(super) fn fail(&mut self, error: Error) {
        match self.end.failure {
            Some(_) => log::error!("{error}"),
            None => self.end.failure = Some(error),
        }
        self.net.stop();
    }

    // ---- signals ---------------------------------------------------------------------

    /// Signals that arrive together count as one: the kernel merges them anyway.
    fn take_signals(&mut self) {
        let mut ending = None;
        loop {
            let Some(fd) = &self.poll.signals else { return };
            match attempt(Call::ReadSignal, || self.kernel.read_signal(fd)) {
                Ok(signal) => match self.process.as_mut().map(|process| process.wish(signal)) {
                    Some(Wish::Stop) | None => ending = Some(signal),
                    Some(Wish::Report) => self.report(),
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
        if let Some(signal) = ending {
            let is_second = self.end.signals.last().is_some();
            self.end.signals = if is_second { Signals::Two(signal) } else { Signals::One(signal) };
            self.net.stop();
            if is_second {
                self.cut();
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

    // ---- time ------------------------------------------------------------------------

    fn look_at_deadlines(&mut self) {
        (self.timerfd, self.put_off) = (Timerfd::Expired, 0);
        let now = self.net.now;
        if self.net.table.is_empty() {
            self.deadlines.clear();
        }
        for _ in 0..LOOKS {
            let Some(slot) = self.deadlines.pop_due(now) else { break };
            self.look_at(slot, now);
            self.net.flush_group(&mut self.kernel);
        }
        while let Some(alarm) = self.alarms.pop_due(now) {
            match alarm {
                Alarm::Accept => self.resume_paused(),
                Alarm::CloseListeners => self.close_listeners(),
                Alarm::Cut => self.cut(),
            }
        }
    }

    /// Somebody should look at `slot` now: which of its deadlines has come, if any?
    fn look_at(&mut self, slot: u32, now: Moment) {
        let come = |at: Option<Moment>| at.is_some_and(|at| at <= now);
        let rings = self.net.change(slot, |connection| {
            let timer = connection.state.open_mut().map(|open| &mut open.timer);
            timer.and_then(|timer| timer.take_if(|at| *at <= now))
        });
        if rings.flatten().is_some() {
            self.call(slot, |handler, conn, session| handler.on_timer(conn, session));
        }
        let timeouts = &self.net.timeouts;
        let Some(mut connection) = self.net.table.edit(slot) else { return };
        connection.carry(now);
        if connection.shortage.waits() {
            connection.shortage.try_again(); // perhaps a little early
        } else if come(connection.write_deadline(timeouts, now)) {
            connection.abort(CloseReason::WriteStalled);
        } else if come(connection.message_deadline(timeouts)) {
            connection.close(CloseReason::MessageTooSlow);
        } else if come(connection.deadline(timeouts, now)) {
            match *connection.state {
                State::Connecting { .. } => connection.gone(TOO_SLOW),
                State::Open(_) => connection.close(CloseReason::Idle),
                State::Closing { .. } => connection.abort(CloseReason::Idle),
                _ => connection.done(),
            }
        }
    }

    /// Sets the timerfd if an earlier deadline has appeared, or it went off.
    pub(super) fn set_timer(&mut self) -> Result<(), Error> {
        let look = self.deadlines.next().map(|tick| self.net.now.next(tick));
        let next = [look, self.alarms.next()].into_iter().flatten().min();
        let late = match (next, self.timerfd) {
            (Some(next), Timerfd::Armed(at)) => next < at,
            (Some(_), Timerfd::Disarmed) | (_, Timerfd::Expired) => true,
            // It expires once for nothing, which is cheaper than a call now.
            (None, Timerfd::Armed(_)) => false,
            (None, Timerfd::Disarmed) => false,
        };
        if !late {
            return Ok(());
        }
        let nanos = next.map(|at| at.as_millis().saturating_mul(1_000_000));
        let Some(timer) = &self.poll.timer else { return Ok(()) };
        // Without time there is not even a drain deadline: it ends here.
        needed(Call::SetTimer, "timerfd", || self.kernel.timerfd_settime(timer, nanos))?;
        self.timerfd = next.map_or(Timerfd::Disarmed, Timerfd::Armed);
        Ok(())
    }

    // ---- the stop --------------------------------------------------------------------

    pub(super) fn begin_drain(&mut self) {
        self.net.stop = Stop::Draining;
        let why = match &self.end.failure {
            Some(error) => error.to_string(),
            None => self.end.signals.last().map_or("asked to", Signal::as_str).to_owned(),
        };
        log::info!("stopping ({why}), {} open{}", self.net.table.len(), self.what_now());
        self.handler.on_shutdown(&mut self.net);
        self.refuse_new();
        let grace = self.net.now.after(GRACE);
        self.end.grace = Some(grace);
        self.alarms.ring_by(Alarm::CloseListeners, grace);
        if let Some(span) = self.net.timeouts.drain {
            self.alarms.ring_by(Alarm::Cut, self.net.now.after(span));
        }
        for slot in self.net.table.slots_where(|_| true) {
            self.net.change(slot, |connection| connection.state.forget_read());
        }
    }

    /// How long a stop takes at most, and how it takes no time, if there is reason to ask.
    fn what_now(&self) -> String {
        if self.net.table.is_empty() {
            return String::new();
        }
        let most = match self.net.limits.drain_timeout {
            Some(most) => format!(": waits at most {} s", most.as_secs_f64()),
            None => ": waits until they have finished".to_owned(),
        };
        let again = match self.end.signals.last() {
            Some(Signal::SIGINT) => "; a second Ctrl-C ends it now",
            Some(_) => "; a second signal ends it now",
            None => "",
        };
        most + again
    }

    /// Keeps new clients out. Where that fails, one line for all listeners says what follows.
    fn refuse_new(&mut self) {
        let listeners = self.listeners.iter_mut();
        let failed = listeners.filter_map(|listener| listener.refuse_new(&mut self.kernel).err());
        let Some(error) = failed.reduce(|first, _| first) else { return };
        // An ordinary user is not allowed to: no news, and the same at each stop.
        let (level, way_out) = match error.errno {
            Errno::EPERM => (log::Level::Debug, "; with CAP_NET_ADMIN they would be kept out"),
            _ => (log::Level::Warn, ""),
        };
        log::log!(level, "{error}; clients that connect from now on may get no answer{way_out}");
    }

    /// Lets in whoever waits; closes a listener when nobody does.
    fn close_listeners(&mut self) {
        if let Some(grace) = self.end.grace.filter(|&grace| self.net.now < grace) {
            return self.alarms.ring_by(Alarm::CloseListeners, grace);
        }
        for index in 0..self.listeners.len() {
            if self.accept(index, u8::MAX) == Queue::Empty
                && let Some(listener) = self.listeners.get_mut(index)
            {
                listener.close(&mut self.kernel);
            }
        }
        if self.is_full() {
            return; // until somebody leaves
        }
        for listener in self.listeners.iter().filter(|listener| listener.socket.is_some()) {
            // Not at once: that would be within this turn, and a turn is bounded.
            let again = listener.paused_until().unwrap_or(self.net.now.after(Span::millis(1)));
            self.alarms.ring_by(Alarm::CloseListeners, again);
        }
    }

    /// The drain deadline: what has not finished is cut, and who still waits in a queue.
    /// Who merely lingers has everything.
    fn cut(&mut self) {
        for index in 0..self.listeners.len() {
            self.end.cut += self.turn_away_queue(index);
            if let Some(listener) = self.listeners.get_mut(index) {
                listener.close(&mut self.kernel);
            }
        }
        let (mut accepted, mut begun) = (0, 0);
        for slot in self.net.table.slots_where(|_| true) {
            self.net.change(slot, |connection| {
                if let State::Lingering { .. } | State::Gone { .. } = *connection.state {
                    return connection.done();
                }
                let is_begun = connection.listener() == OUTBOUND;
                let count = if is_begun { &mut begun } else { &mut accepted };
                *count += 1;
                connection.abort(CloseReason::DrainDeadline);
            });
        }
        // A client and the connection begun for it are one.
        self.end.cut += accepted.max(begun);
        if !self.net.table.is_empty() {
            // Whoever hears of this end may have begun a connection meanwhile.
            self.alarms.ring_by(Alarm::Cut, self.net.now.after(Span::millis(1)));
        }
    }

    /// Whether everything is done.
    pub(super) fn has_ended(&self) -> bool {
        let closed = self.listeners.iter().all(|listener| listener.socket.is_none());
        let is_forced = matches!(self.end.signals, Signals::Two(_));
        is_forced || self.net.is_draining() && closed && self.net.table.is_empty()
    }
}
