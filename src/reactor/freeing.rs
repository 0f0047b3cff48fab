//! The end of a connection, and of all there are when the server goes: descriptor and slot are
//! given back, and what was counted is added up.
//!
//! Invariants:
//! 1. `on_close` is called once, after everything that belonged to the connection is gone.
//! 2. What was cut off ends with a reset: it must not look like a whole answer.

use super::Reactor;
use crate::connection::{Connection, OUTBOUND, State};
use crate::deadlines::Alarm;
use crate::handler::ConnectionHandler;
use crate::kernel::{Fd, Kernel, SocketOption};
use crate::net::{CALL, Closed, ConnId};
use crate::reaction::{Call, tolerate};
use crate::time::Span;
use std::ops::{Deref, DerefMut};

impl<H: ConnectionHandler, K: Kernel> Reactor<H, K> {
    /// Closes the descriptor, frees the slot, and calls `on_close`.
    #[cold]
    pub(super) fn free(&mut self, slot: u32) {
        let id = ConnId(self.net.table.id(slot));
        let Some(connection) = self.net.table.look(slot) else { return };
        let State::Gone { why, reset } = *connection.state else { return };
        log::debug!("closed {id} {connection}: {why}");
        self.net.counters.count_close(why);
        self.net.counters.received += connection.received;
        self.net.counters.sent += connection.sent;
        let (listener, peer, sent) = (connection.listener(), connection.peer(), connection.sent);
        let Some(fd) = self.net.table.remove(slot) else { return };
        self.net.closed = Some(Closed { id, sent, origin: self.net.origin_from(slot, listener) });
        self.net.forget(id);
        self.net.report_cut(why, peer);
        let is_outbound = listener == OUTBOUND;
        if is_outbound {
            self.net.forget_call(&mut self.kernel, &fd);
            self.net.outbound -= 1;
            self.net.tokens.remove(&slot);
        }
        let session = self.sessions.get_mut(slot as usize).and_then(Option::take);
        if let Some(listener) = self.listeners.get_mut(usize::from(listener)) {
            listener.open -= 1;
            self.unnamed -= u32::from(listener.is_behind_front && session.is_none());
        }
        self.close_socket(fd, reset);
        if self.net.is_draining() {
            self.timer.alarms.ring_by(Alarm::CloseListeners, self.net.now.after(Span::millis(1)));
        }
        if session.is_some() && !is_outbound {
            self.crowd.leave(peer); // it had entered before its session was opened
        }
        let session = session.or_else(|| is_outbound.then(H::Session::default));
        self.net.dial_again(); // there is room again, out and in
        self.backoff.end();
        if let Some(session) = session {
            self.handler.on_close(&mut self.net, id, session, why);
        }
    }

    /// Closes the socket of a connection, if that came to have one.
    #[inline]
    pub(super) fn close_socket(&mut self, fd: Fd, reset: bool) {
        if fd.is_unopened() {
            return;
        }
        if reset {
            self.net.spend(CALL);
            // If it fails the peer may take a cut answer for a whole one; nothing to be done.
            tolerate(Call::SetTunable, self.kernel.setsockopt(&fd, SocketOption::ResetOnClose));
        }
        self.close(fd);
    }

    pub(super) fn close(&mut self, fd: Fd) {
        if let Some(errno) = tolerate(Call::Close, self.kernel.close(fd)) {
            self.net.counters.bug(format_args!("close: {errno}"));
        }
    }
}

impl<H: ConnectionHandler, K: Kernel> Reactor<H, K> {
    /// Gives everything back but epoll, also when a handler panics. A wait fails from now on.
    pub(crate) fn close_all(&mut self) {
        for listener in &mut self.listeners {
            listener.close(&mut self.kernel);
        }
        self.mailbox.close();
        self.jobs.clear();
        for slot in self.net.table.slots_where(|_| true) {
            let id = ConnId(self.net.table.id(slot));
            // An answer that was cut off must not look like a whole one.
            let is_whole = |it: &Connection| matches!(*it.state, State::Lingering { .. });
            let reset = !self.net.table.look(slot).is_some_and(is_whole);
            if let Some(fd) = self.net.table.remove(slot) {
                self.close_socket(fd, reset);
                self.net.forget(id);
            }
        }
        self.poll.close(&mut self.kernel);
        self.process.iter_mut().for_each(|process| process.close(&mut self.kernel));
    }
}

/// A loop that is closed when it is dropped, or when its handler is taken back. It is there until
/// then.
pub(crate) struct Owned<H: ConnectionHandler, K: Kernel>(Option<Reactor<H, K>>);

impl<H: ConnectionHandler, K: Kernel> Owned<H, K> {
    pub(crate) fn new(reactor: Reactor<H, K>) -> Owned<H, K> {
        Owned(Some(reactor))
    }

    pub(crate) fn into_handler(mut self) -> H {
        self.close();
        match self.0.take() {
            Some(Reactor { handler, .. }) => handler,
            None => unreachable!("{TAKEN}"),
        }
    }

    fn close(&mut self) {
        if let Some(reactor) = &mut self.0 {
            reactor.close_all();
            reactor.poll.drop_epoll(&mut reactor.kernel);
        }
    }
}

/// It is taken out by value only.
const TAKEN: &str = "a loop that was taken apart is used";

impl<H: ConnectionHandler, K: Kernel> Deref for Owned<H, K> {
    type Target = Reactor<H, K>;

    fn deref(&self) -> &Reactor<H, K> {
        let Some(reactor) = &self.0 else { unreachable!("{TAKEN}") };
        reactor
    }
}

impl<H: ConnectionHandler, K: Kernel> DerefMut for Owned<H, K> {
    fn deref_mut(&mut self) -> &mut Reactor<H, K> {
        let Some(reactor) = &mut self.0 else { unreachable!("{TAKEN}") };
        reactor
    }
}

impl<H: ConnectionHandler, K: Kernel> Drop for Owned<H, K> {
    fn drop(&mut self) {
        self.close();
    }
}
