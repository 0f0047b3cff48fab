//! Accepting clients: how many a turn, through which listener, which are turned away, and
//! when none is accepted.
//!
//! No client waits behind another listener's crowd. Listeners take turns, and the free places
//! are divided among those at which clients wait. What keeps one from accepting, a full
//! server or a lack of descriptors, keeps all, and begins and ends for all at once.

use super::Reactor;
use super::poll::{LISTENERS, listener_data};
use crate::close_reason::CloseReason;
use crate::connection::{Connection, Life, UNWATCHED};
use crate::deadlines::Alarm;
use crate::error::Error;
use crate::handler::ConnectionHandler;
use crate::kernel::{self, EpollOp, Errno, Fd, Kernel, Peer};
use crate::limits::Limits;
use crate::listener::{Intake, Listener};
use crate::net::ConnId;
use crate::reaction::{Call, Reaction, reaction};

/// What a listener's queue holds, as far as accept4 told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Queue {
    /// Perhaps more clients.
    Unknown,
    /// No client, or none will ever be accepted.
    Empty,
}

impl<H: ConnectionHandler, K: Kernel> Reactor<H, K> {
    /// Serves the listeners that are `woken`, core descriptors with their events, in order. The
    /// first is the one that would have been the next the last time.
    pub(super) fn serve_listeners(&mut self, woken: &[(u32, u32)]) {
        let first = woken.partition_point(|&(core, _)| core < LISTENERS + self.next_listener);
        let (last, first) = woken.split_at(first);
        let ready = woken.iter().filter(|(core, _)| *core >= LISTENERS).count();
        for &(core, mask) in first.iter().chain(last).filter(|(core, _)| *core >= LISTENERS) {
            self.serve_listener(core, mask, ready);
            if self.net.is_spent() {
                return;
            }
        }
    }

    /// An event of a listener; clients wait at `ready` of them.
    pub(super) fn serve_listener(&mut self, core: u32, mask: u32, ready: usize) {
        let index = (core - LISTENERS) as usize;
        if mask & (kernel::ERR | kernel::HUP) != 0 {
            // epoll reports a dead listener in every wait. accept4 returns the reason, and no client.
            self.turn_away_queue(index);
            return;
        }
        let places = self.places();
        if places == 0 {
            return self.give_way();
        }
        let share = places.div_ceil(ready);
        let intake = self.listeners.get_mut(index).and_then(Listener::intake);
        let quota = intake.map_or(0, |intake| intake.quota(self.turn));
        self.accept(index, share.min(quota.into()));
    }

    /// Accepts clients of all listeners, as far as there are places; those at which none waits
    /// are closed.
    pub(super) fn accept_all(&mut self) {
        let next = self.next_listener as usize;
        let open = self.listeners.iter().filter(|it| it.socket.is_some()).count();
        for index in (next..self.listeners.len()).chain(0..next) {
            if self.listeners.get(index).is_none_or(|listener| listener.socket.is_none()) {
                continue;
            }
            let share = self.places().div_ceil(open).min(u8::MAX.into());
            if self.accept(index, share) == Queue::Empty
                && let Some(listener) = self.listeners.get_mut(index)
            {
                listener.close(&mut self.kernel);
            }
        }
    }

    /// Lets in up to `most` clients of a listener.
    fn accept(&mut self, index: usize, most: usize) -> Queue {
        if self.backoff.is_on() {
            return Queue::Unknown;
        }
        for _ in 0..most {
            let Some(listener) = self.listeners.get_mut(index) else { return Queue::Empty };
            if listener.open >= listener.most {
                return Queue::Unknown;
            }
            let Some(socket) = listener.socket.as_mut() else { return Queue::Empty };
            match self.kernel.accept4(&socket.fd) {
                Ok((fd, peer)) => {
                    self.net.counters.accepted += 1;
                    self.next_listener = index as u32 + 1;
                    self.admit(fd, peer, index);
                    if self.flush_if_due() || self.backoff.is_on() {
                        return Queue::Unknown;
                    }
                }
                Err(errno) => match self.not_accepted(index, errno) {
                    Reaction::Wait => return Queue::Empty,
                    Reaction::Retry => {}
                    Reaction::Pause => {
                        self.pause_listeners(index, Call::Accept, errno);
                        return Queue::Unknown;
                    }
                    _ => {
                        self.lose_listener(index, Call::Accept, errno);
                        return Queue::Empty;
                    }
                },
            }
        }
        Queue::Unknown
    }

    /// What an errno of accept4 means. A client that was lost before it was accepted is no
    /// reason to back off; so many in a row that it is not the clients are one.
    fn not_accepted(&mut self, index: usize, errno: Errno) -> Reaction {
        let reaction = reaction(Call::Accept, errno);
        if reaction == Reaction::Retry {
            self.net.counters.accept_failed += 1;
            let intake = self.listeners.get_mut(index).and_then(Listener::intake);
            if intake.is_some_and(Intake::lost_again) {
                self.next_listener = index as u32 + 1; // it may be this one alone
                return Reaction::Pause;
            }
        }
        reaction
    }

    /// Resets the clients that wait in the queue of a listener. Returns how many they were: at most
    /// as many as the queue holds, because others may come as fast as these go. Clients that are
    /// lost are bounded by the same number, and do not count as one of them.
    #[cold]
    pub(super) fn turn_away_queue(&mut self, index: usize) -> u64 {
        let holds = u64::from(self.net.limits.backlog) + 1;
        let (mut turned_away, mut lost) = (0, 0);
        while turned_away < holds && lost < holds {
            let Some(listener) = self.listeners.get_mut(index) else { break };
            let Some(socket) = &listener.socket else { break };
            match self.kernel.accept4(&socket.fd) {
                Ok((fd, peer)) => {
                    self.net.counters.accepted += 1;
                    turned_away += 1;
                    self.turn_away(fd, peer, CloseReason::DrainDeadline, true);
                }
                Err(errno) => match reaction(Call::Accept, errno) {
                    Reaction::Retry => {
                        self.net.counters.accept_failed += 1;
                        lost += 1;
                    }
                    Reaction::FailRuntime => self.lose_listener(index, Call::Accept, errno),
                    _ => break,
                },
            }
        }
        turned_away
    }

    /// How many clients can be accepted.
    pub(super) fn places(&self) -> usize {
        let Limits { max_connections, max_outbound, .. } = self.net.limits;
        if self.net.lacks_sockets() {
            return 0; // those who are in come first
        }
        let begun = self.net.outbound as usize;
        let accepted = self.net.table.len() - begun;
        let places = (max_connections as usize).saturating_sub(accepted);
        let reserved = begun + self.unnamed as usize; // which will need one each
        match self.handler.needs_outbound() {
            true => places.min((max_outbound as usize).saturating_sub(reserved)),
            false => places,
        }
    }

    /// Whether there is no place for another client.
    pub(super) fn is_full(&self) -> bool {
        self.places() == 0
    }

    /// Makes a connection of an accepted descriptor.
    fn admit(&mut self, fd: Fd, peer: Peer, listener: usize) {
        let is_behind_front = self.listeners.get(listener).is_some_and(|it| it.is_behind_front);
        if !is_behind_front && let Err(why) = self.enter(peer) {
            return self.turn_away(fd, peer, why, false);
        }
        let state = if is_behind_front { self.preface() } else { Life::open() };
        let connection = Connection::new(fd, peer, listener as u8, self.net.now, state);
        let id = self.net.table.insert(connection);
        if let Some(listener) = self.listeners.get_mut(listener) {
            listener.open += 1;
        }
        self.unnamed += u32::from(is_behind_front);
        let Some(connection) = self.net.table.look(id.slot) else { return };
        let (fd, data) = (&connection.fd, id.to_u64());
        if let Err(errno) = self.poll.watch(&mut self.kernel, EpollOp::Add, fd, kernel::IN, data) {
            return self.admit_failed(id.slot, listener, errno);
        }
        self.backoff.reset();
        if let Some(intake) = self.listeners.get_mut(listener).and_then(Listener::intake) {
            intake.accepted();
        }
        if is_behind_front {
            return self.net.table.mark(id.slot); // the handler hears of the client once it is named
        }
        log::debug!("opened {} {connection}", ConnId(id));
        self.open_session(id.slot);
        self.settle_new(id.slot);
    }

    /// Counts a client in, unless its address has as many connections as it may.
    pub(super) fn enter(&mut self, client: Peer) -> Result<(), CloseReason> {
        match self.net.limits.max_per_address {
            0 => Ok(()),
            max => self.crowd.enter(client, max),
        }
    }

    /// A connection is established: calls `on_open`.
    pub(super) fn open_session(&mut self, slot: u32) {
        while self.sessions.len() <= slot as usize {
            self.sessions.push(None);
        }
        if let Some(session) = self.sessions.get_mut(slot as usize) {
            *session = Some(H::Session::default());
        }
        self.call(slot, |handler, conn, session| handler.on_open(conn, session));
    }

    /// A client that never becomes a connection.
    fn turn_away(&mut self, fd: Fd, peer: Peer, why: CloseReason, reset: bool) {
        log::debug!("turned away {peer}: {why}");
        self.net.report_cut(why, peer);
        self.net.counters.count_close(why);
        self.close_socket(fd, reset);
    }

    /// epoll would not take the connection just accepted. If that is for want of memory, it is
    /// tried again by timer, and others wait in the queue meanwhile.
    #[cold]
    fn admit_failed(&mut self, slot: u32, listener: usize, errno: Errno) {
        let call = Call::EpollAddConnection;
        let entered = self.net.table.look(slot).filter(|it| it.state.open().is_some());
        let entered = entered.map(Connection::peer);
        self.net.change(slot, |connection| connection.registered = UNWATCHED);
        self.net.failed(slot, call, errno);
        let waits = reaction(call, errno) == Reaction::Pause;
        if waits {
            self.pause_listeners(listener, call, errno);
        }
        match entered {
            Some(_) if waits => self.open_session(slot),
            Some(peer) => self.crowd.leave(peer), // it has no session that would leave
            None => {}
        }
    }

    /// Clients wait in the queues until a connection closes or the time is up. What is short
    /// at one listener is short at all.
    #[cold]
    fn pause_listeners(&mut self, index: usize, call: Call, errno: Errno) {
        let now = self.net.now;
        let Some(listener) = self.listeners.get_mut(index) else { return };
        self.timer.alarms.ring_by(Alarm::Accept, self.backoff.begin(now));
        self.net.counters.accept_paused += 1;
        if self.backoff.is_news(now) {
            let error = Error::new(call, &listener.address, errno);
            match error.sandbox() {
                Some(why) => log::warn!("{error}; {why}; new clients wait until it is allowed"),
                None => {
                    log::warn!("{error}; new clients wait until descriptors or memory are free")
                }
            }
        }
    }

    /// The listener is no listener any more: stop, with an error.
    #[cold]
    fn lose_listener(&mut self, index: usize, call: Call, errno: Errno) {
        let Some(listener) = self.listeners.get_mut(index) else { return };
        let error = Error::new(call, &listener.address, errno);
        self.close_listener(index);
        self.fail(error);
    }

    /// Resumes accepting if the backoff is over, or sees to it when it is.
    pub(super) fn resume_paused(&mut self) {
        match self.backoff.until() {
            Some(until) if self.net.now < until => {
                self.timer.alarms.ring_by(Alarm::Accept, until);
            }
            _ => self.backoff.end(),
        }
    }

    /// Tells epoll which listeners to watch, where that has changed.
    pub(super) fn settle_listeners(&mut self) {
        let lets_in = !self.backoff.is_on() && (!self.is_full() || self.may_give_way());
        let interest = if lets_in { kernel::IN as u8 } else { 0 };
        for index in 0..self.listeners.len() {
            let Some(listener) = self.listeners.get_mut(index) else { return };
            let Some(socket) = &mut listener.socket else { continue };
            let interest = if listener.open < listener.most { interest } else { 0 };
            let (data, fd) = (listener_data(index), &socket.fd);
            let told = &mut socket.registered;
            let Err((call, errno)) = self.poll.rewatch(&mut self.kernel, fd, told, interest, data)
            else {
                continue;
            };
            match reaction(call, errno) {
                Reaction::Later | Reaction::Pause => self.pause_listeners(index, call, errno),
                _ => self.lose_listener(index, call, errno),
            }
        }
    }
}
