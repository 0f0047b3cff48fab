//! The stop. It loses nothing that was received.
//!
//! New clients are refused, those in the queue are accepted, and each connection is read until
//! there is nothing, answered, and closed with FIN. What has not finished at the drain deadline
//! is cut, with a reset, and counted.

use super::poll::listener_data;
use super::{Reactor, Signals};
use crate::close_reason::CloseReason;
use crate::connection::{OUTBOUND, State};
use crate::deadlines::Alarm;
use crate::error::Error;
use crate::handler::ConnectionHandler;
use crate::kernel::{EpollOp, Kernel, Signal};
use crate::listener::{Listener, Socket};
use crate::net::Stop;
use crate::reaction::{Call, attempt, tolerate};
use crate::time::{Moment, Span};
use std::net::SocketAddr;
use std::time::Duration;

/// How long after the stop, and how often then, it is asked whether handshakes are under way.
const ASK: Span = Span::millis(20);
/// How long a stopping server leaves its listeners open for them at most.
const HANDSHAKE: Span = Span::millis(1_000);
/// How long it waits for the first bytes of a client that has just connected, at most.
const FIRST_BYTES: Span = Span::millis(1_000);

/// How the server comes to its end.
#[derive(Debug, Default)]
pub(crate) struct End {
    pub(crate) signals: Signals,
    /// What made it stop.
    pub(crate) failure: Option<Error>,
    /// Connections that had not finished at the drain deadline.
    pub(crate) cut: u64,
    pub(crate) handshakes: Handshakes,
}

/// Whether clients may still come through listeners that let no new ones in.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Handshakes {
    /// Handshakes may be under way: when to ask next, and until when it matters.
    UnderWay { ask: Moment, until: Moment },
    /// None is, and so none ever will be.
    #[default]
    Over,
}

impl<H: ConnectionHandler, K: Kernel> Reactor<H, K> {
    /// The server cannot go on: it finishes what it can. The first error is returned by `run`,
    /// so only later ones are logged here.
    #[cold]
    pub(super) fn fail(&mut self, error: Error) {
        match self.end.failure {
            Some(_) => log::error!("{error}"),
            None => self.end.failure = Some(error),
        }
        self.net.stop();
    }

    pub(super) fn begin_drain(&mut self) {
        self.net.stop = Stop::Draining;
        self.steer_new();
        let why = match &self.end.failure {
            Some(error) => error.to_string(),
            None => self.end.signals.last().map_or("asked to", Signal::name).to_owned(),
        };
        log::info!("stopping ({why}), {} open{}", self.net.table.len(), self.what_now());
        let (open, plural) =
            (self.net.table.len(), if self.net.table.len() == 1 { "" } else { "s" });
        self.tell_stopping(&format!("finishing {open} connection{plural}"));
        self.handler.on_shutdown(&mut self.net);
        let now = self.net.now;
        let (ask, until) = (now.after(ASK), now.after(HANDSHAKE));
        self.end.handshakes = Handshakes::UnderWay { ask, until };
        self.timer.alarms.ring_by(Alarm::CloseListeners, ask);
        let half = self.net.timeouts.drain.map_or(FIRST_BYTES, Span::half);
        self.net.timeouts.await_first_bytes(now, FIRST_BYTES.min(half));
        if let Some(span) = self.net.timeouts.drain {
            self.timer.alarms.ring_by(Alarm::Cut, now.after(span));
        }
        let header = self.net.now.after(self.header_patience());
        for slot in self.net.table.slots_where(|_| true) {
            self.net.change(slot, |connection| {
                connection.state.forget_read();
                connection.state.limit_deadline(header);
            });
        }
        self.refuse_new();
    }

    /// Begins to stop, if it has not begun: what has not finished in `time` is cut.
    pub(super) fn stop_within(&mut self, time: Duration) {
        let timeout = &mut self.net.limits.drain_timeout;
        if timeout.is_none_or(|usual| time < usual) {
            *timeout = Some(time);
            let span = Span::at_least(time);
            self.net.timeouts.drain = Some(span);
            if self.net.is_draining() {
                self.timer.alarms.ring_by(Alarm::Cut, self.net.now.after(span));
            }
        }
        self.net.stop();
    }

    /// The first signal, if the server is to serve on for a while: nothing changes but what is
    /// said of its health.
    pub(super) fn announce_stop(&mut self, signal: Signal, delay: Duration) {
        let seconds = delay.as_secs_f64();
        log::info!("{signal}: serves on for {seconds} s, then stops; a second signal ends it now");
        self.tell_stopping(&format!("serving for {seconds} s more"));
        self.net.stop = Stop::Announced;
        self.timer.alarms.ring_by(Alarm::Stop, self.net.now.after(Span::at_least(delay)));
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

    /// Closes a listener. If others have the socket too, epoll would go on to report it: what epoll
    /// watches is the socket, and that stays open.
    pub(super) fn close_listener(&mut self, index: usize) {
        let Some(listener) = self.listeners.get_mut(index) else { return };
        if let Some(Socket { is_shared: true, fd, registered, .. }) = &mut listener.socket
            && self.poll.unwatch(&mut self.kernel, fd, registered, 0).is_err()
        {
            let data = listener_data(index);
            let silenced = self.poll.watch(&mut self.kernel, EpollOp::Modify, fd, 0, data);
            tolerate(Call::EpollModify, silenced); // that was all that could be done
        }
        listener.close(&mut self.kernel);
    }

    /// Closes the listeners that others have too. The clients that wait there are left to them.
    fn leave_to_others(&mut self) {
        let is_shared = |it: &Listener| it.socket.as_ref().is_some_and(|socket| socket.is_shared);
        for index in 0..self.listeners.len() {
            if self.listeners.get(index).is_some_and(is_shared) {
                self.close_listener(index);
            }
        }
    }

    /// Sends new clients on to a successor. That is the first thing that a stop does, and to refuse
    /// them the last: a SYN for which the kernel had found this listener just before would
    /// otherwise be dropped, and sent again a second later.
    fn steer_new(&mut self) {
        let sharing = self.net.limits.reuse_port;
        let listeners = self.listeners.iter();
        warn_of(listeners.filter_map(|it| it.steer_new(&mut self.kernel, sharing).err()));
    }

    /// Refuses new clients.
    fn refuse_new(&mut self) {
        self.leave_to_others();
        let listeners = self.listeners.iter_mut();
        warn_of(listeners.filter_map(|it| it.refuse_new(&mut self.kernel).err()));
    }

    /// Whether it is too early to close the listeners: a client that has been answered by the
    /// kernel, and has not acknowledged that, takes itself for connected.
    fn awaits_handshakes(&mut self) -> bool {
        let Handshakes::UnderWay { ask, until } = self.end.handshakes else { return false };
        let now = self.net.now;
        if now < ask || now < until && self.are_under_way() {
            let ask = if now < ask { ask } else { now.after(ASK) };
            self.end.handshakes = Handshakes::UnderWay { ask, until };
            self.timer.alarms.ring_by(Alarm::CloseListeners, ask);
            return true;
        }
        self.end.handshakes = Handshakes::Over;
        false
    }

    /// Asks the kernel about the handshakes of all listeners. If it does not say, they are
    /// taken for under way.
    fn are_under_way(&mut self) -> bool {
        let listening = self.listeners.iter().filter(|listener| listener.socket.is_some());
        let ports: Vec<SocketAddr> = listening.filter_map(Listener::tcp).collect();
        if ports.is_empty() {
            return false;
        }
        let failed = |call| move |(_, errno)| Error::new(call, "sock_diag", errno);
        let kernel = &mut self.kernel;
        let opened = attempt(Call::DiagSocket, || kernel.socket_diag());
        let asked = opened.map_err(failed(Call::DiagSocket)).and_then(|diag| {
            let any = ports.into_iter().try_fold(false, |any, port| {
                let asked = attempt(Call::DiagAsk, || kernel.write_diag(&diag, port));
                asked.map_err(failed(Call::DiagAsk))?;
                let answer = attempt(Call::DiagAnswer, || kernel.read_diag(&diag));
                Ok(any || answer.map_err(failed(Call::DiagAnswer))?)
            });
            tolerate(Call::Close, kernel.close(diag));
            any
        });
        asked.unwrap_or_else(|error| {
            log::debug!("{error}; handshakes may be under way: the listeners stay open for 1 s");
            true
        })
    }

    /// Accepts the clients that wait; closes a listener when none does.
    pub(super) fn close_listeners(&mut self) {
        if self.awaits_handshakes() {
            return;
        }
        self.accept_all();
        if self.is_full() {
            return; // until a client leaves
        }
        if self.listeners.iter().any(|listener| listener.socket.is_some()) {
            // Not at once: that would be within this turn, and a turn is bounded.
            let again = self.backoff.until().unwrap_or(self.net.now.after(Span::millis(1)));
            self.timer.alarms.ring_by(Alarm::CloseListeners, again);
        }
    }

    /// The drain deadline: resets what has not finished, and the clients still in a queue.
    /// Who merely lingers has everything. Calls that are not made yet never will be.
    pub(super) fn cut(&mut self) {
        self.jobs.clear();
        self.leave_to_others(); // which a stop that was only announced has not done
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
            // A callback that is told of this end may have begun a connection meanwhile.
            self.timer.alarms.ring_by(Alarm::Cut, self.net.now.after(Span::millis(1)));
        }
    }

    /// Whether everything is done.
    pub(super) fn has_ended(&self) -> bool {
        let closed = self.listeners.iter().all(|listener| listener.socket.is_none());
        let is_forced = self.end.signals.are_two();
        let is_done = self.net.is_draining() && closed && self.net.table.is_empty();
        self.leaving.is_empty() && (is_forced || is_done && self.jobs.is_empty())
    }
}

/// Where new clients cannot be refused, one log line for all listeners has the consequence.
fn warn_of(failed: impl Iterator<Item = Error>) {
    if let Some(error) = failed.reduce(|first, _| first) {
        log::warn!("{error}; clients that connect from now on may get no answer");
    }
}
