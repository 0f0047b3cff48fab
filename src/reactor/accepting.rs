//! New clients: how many a turn, who is turned away, and when nobody is let in.

use super::Reactor;
use super::poll::LISTENERS;
use crate::close_reason::CloseReason;
use crate::connection::{Connection, Life};
use crate::deadlines::Alarm;
use crate::error::Error;
use crate::handler::ConnectionHandler;
use crate::kernel::{self, EpollOp, Errno, Fd, Kernel, Peer};
use crate::listener::{Intake, Listener};
use crate::net::ConnId;
use crate::reaction::{Call, Reaction, reaction};

/// What a listener's queue holds, as far as accept4 told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Queue {
    /// Perhaps more clients.
    Unknown,
    /// Nobody, or nobody will ever be accepted.
    Empty,
}

impl<H: ConnectionHandler, K: Kernel> Reactor<H, K> {
    /// Lets in up to `quota` clients of one listener.
    pub(super) fn accept(&mut self, index: usize, quota: u8) -> Queue {
        for _ in 0..quota {
            let is_full = self.is_full();
            let Some(listener) = self.listeners.get_mut(index) else { return Queue::Empty };
            if is_full || listener.open >= listener.most {
                return Queue::Unknown;
            }
            let Some(socket) = listener.socket.as_mut() else { return Queue::Empty };
            if let Intake::Paused { .. } = socket.intake {
                return Queue::Unknown;
            }
            match self.kernel.accept4(&socket.fd) {
                Ok((fd, peer)) => {
                    self.net.counters.accepted += 1;
                    self.admit(fd, peer, index);
                    if self.flush_if_due() {
                        return Queue::Unknown;
                    }
                }
                Err(errno) => match reaction(Call::Accept, errno) {
                    Reaction::Wait => return Queue::Empty,
                    Reaction::Retry => {
                        self.net.counters.accept_failed += 1;
                        if socket.intake.lost_again() {
                            self.pause_listener(index, Call::Accept, errno);
                        }
                    }
                    Reaction::Pause => {
                        self.pause_listener(index, Call::Accept, errno);
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

    /// An event of a listener.
    pub(super) fn serve_listener(&mut self, index: usize, mask: u32) {
        if mask & (kernel::ERR | kernel::HUP) != 0 {
            // A dead listener says so for ever. accept4 says why, though nobody is let in now.
            self.turn_away_queue(index);
            return;
        }
        let intake = self.listeners.get_mut(index).and_then(Listener::intake);
        let quota = intake.map_or(0, |intake| intake.quota(self.turn));
        self.accept(index, quota);
    }

    /// Resets whoever waits in the queue of a listener; how many they were.
    #[cold]
    pub(super) fn turn_away_queue(&mut self, index: usize) -> u64 {
        let mut turned_away = 0;
        for _ in 0..=self.net.limits.backlog {
            let Some(listener) = self.listeners.get_mut(index) else { break };
            let Some(socket) = &listener.socket else { break };
            match self.kernel.accept4(&socket.fd) {
                Ok((fd, peer)) => {
                    self.net.counters.accepted += 1;
                    turned_away += 1;
                    self.turn_away(fd, peer, CloseReason::DrainDeadline, true);
                }
                Err(errno) => match reaction(Call::Accept, errno) {
                    Reaction::Retry => self.net.counters.accept_failed += 1,
                    Reaction::FailRuntime => self.lose_listener(index, Call::Accept, errno),
                    _ => break,
                },
            }
        }
        turned_away
    }

    /// Whether there is no slot for another client.
    pub(super) fn is_full(&self) -> bool {
        let accepted = self.net.table.len() - self.net.outbound as usize;
        accepted >= self.net.limits.max_connections as usize
    }

    /// Makes a connection of an accepted descriptor.
    fn admit(&mut self, fd: Fd, peer: Peer, listener: usize) {
        let is_behind_front = self.listeners.get(listener).is_some_and(|it| it.is_behind_front);
        if !is_behind_front && !self.enter(peer) {
            return self.turn_away(fd, peer, CloseReason::AddressLimit, false);
        }
        let state = if is_behind_front { self.preface() } else { Life::open() };
        let connection = Connection::new(fd, peer, listener as u8, self.net.now, state);
        let id = self.net.table.insert(connection);
        if let Some(listener) = self.listeners.get_mut(listener) {
            listener.open += 1;
        }
        let Some(connection) = self.net.table.look(id.slot) else { return };
        let (fd, data) = (&connection.fd, id.to_u64());
        if let Err(errno) = self.poll.watch(&mut self.kernel, EpollOp::Add, fd, kernel::IN, data) {
            return self.admit_failed(id.slot, listener, errno);
        }
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
    pub(super) fn enter(&mut self, client: Peer) -> bool {
        let max = self.net.limits.max_per_address;
        max == 0 || self.crowd.enter(client, max)
    }

    /// A connection stands: the handler gets to know it.
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

    /// epoll would not take the connection just accepted.
    #[cold]
    fn admit_failed(&mut self, slot: u32, listener: usize, errno: Errno) {
        let call = Call::EpollAddConnection;
        let why = CloseReason::Server { call, errno };
        if let Some(connection) = self.net.table.look(slot)
            && connection.state.open().is_some()
        {
            self.crowd.leave(connection.peer()); // it entered, and has no session that would leave
        }
        if reaction(call, errno) == Reaction::Pause {
            self.pause_listener(listener, call, errno);
            self.net.change(slot, |connection| connection.gone(why));
        } else {
            self.net.failed(slot, call, errno);
        }
    }

    /// Clients wait in the queue until a connection closes or the time is up.
    #[cold]
    fn pause_listener(&mut self, index: usize, call: Call, errno: Errno) {
        let now = self.net.now;
        let Some(listener) = self.listeners.get_mut(index) else { return };
        let Some(intake) = listener.intake() else { return };
        self.timer.alarms.ring_by(Alarm::Accept, intake.pause(now));
        self.net.counters.accept_paused += 1;
        if listener.is_news(now) {
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

    /// A connection has closed: there is room again.
    pub(super) fn resume_listeners(&mut self) {
        self.listeners.iter_mut().filter_map(Listener::intake).for_each(Intake::resume);
    }

    /// Resumes the listeners whose pause is over, and sees to the next.
    pub(super) fn resume_paused(&mut self) {
        for intake in self.listeners.iter_mut().filter_map(Listener::intake) {
            match *intake {
                Intake::Paused { until, .. } if self.net.now < until => {
                    self.timer.alarms.ring_by(Alarm::Accept, until);
                }
                _ => intake.resume(),
            }
        }
    }

    /// Tells epoll which listeners to watch, where that has changed.
    pub(super) fn settle_listeners(&mut self) {
        let is_full = self.is_full();
        for index in 0..self.listeners.len() {
            let Some(listener) = self.listeners.get_mut(index) else { return };
            let Some(socket) = &mut listener.socket else { continue };
            let interest = socket.interest(is_full || listener.open >= listener.most);
            let (data, fd) = (u64::from(LISTENERS) + index as u64, &socket.fd);
            let told = &mut socket.registered;
            let Err((call, errno)) = self.poll.rewatch(&mut self.kernel, fd, told, interest, data)
            else {
                continue;
            };
            match reaction(call, errno) {
                Reaction::Later | Reaction::Pause => self.pause_listener(index, call, errno),
                _ => self.lose_listener(index, call, errno),
            }
        }
    }
}
