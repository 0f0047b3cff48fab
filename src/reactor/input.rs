//! Received bytes on their way to the handler, and the handler's rest.
//!
//! Where the handler contract lives: what is not consumed is kept and offered
//! again with the next bytes; if the handler stopped because its output was full
//! or because it paused, it is offered again without new bytes as soon as that
//! is over; `on_eof` is called only after a call that consumed nothing more.

use super::input_buffer::INPUT_BYTES;
use super::{DRAIN_BYTES, Reactor};
use crate::buffer::Buffer;
use crate::close_reason::CloseReason;
use crate::connection::{Open, State};
use crate::handler::ConnectionHandler;
use crate::kernel::{self, Errno, Kernel};
use crate::net::Conn;
use crate::reaction::{Call, Reaction, reaction};

impl<H: ConnectionHandler, K: Kernel> Reactor<H, K> {
    /// Offers the `n` bytes just received; nothing was left over from before.
    #[inline]
    pub(super) fn offer_fresh(&mut self, slot: u32, n: usize) {
        let Some(Some(session)) = self.sessions.get_mut(slot as usize) else { return };
        let Some(input) = self.input.get(..n) else { return };
        let conn = &mut Conn { net: &mut self.net, slot };
        let consumed = self.handler.on_data(conn, session, input);
        if consumed != n {
            self.keep_rest(slot, n, consumed);
        }
    }

    /// Moves what was not consumed of `n` fresh bytes into the connection's own buffer.
    #[cold]
    fn keep_rest(&mut self, slot: u32, n: usize, consumed: usize) {
        let fresh = self.input.get(..n).and_then(|input| input.get(consumed..));
        let mut rest = Buffer::default();
        if rest.push(fresh.unwrap_or_default(), self.net.now).is_none() {
            self.net.abort(slot, CloseReason::MemoryBudget);
        }
        self.after_offer(slot, rest, n, consumed);
    }

    /// Offers what was left over, and behind it the `fresh` bytes that were received; nothing
    /// if there is nothing.
    fn offer(&mut self, slot: u32, fresh: usize) {
        let Some(Some(session)) = self.sessions.get_mut(slot as usize) else { return };
        let taken = self.net.change(slot, |connection| connection.state.take_input());
        let (mut rest, now) = (taken.unwrap_or_default(), self.net.now);
        if rest.len() + fresh == 0 {
            return;
        }
        self.net.table.talks(slot);
        let conn = &mut Conn { net: &mut self.net, slot };
        let Some(input) = self.input.behind(&mut rest, fresh, now) else {
            return self.net.abort(slot, CloseReason::MemoryBudget);
        };
        let (offered, consumed) = (input.len(), self.handler.on_data(conn, session, input));
        let kept = rest.len(); // with what is fresh, if that was joined to it
        if consumed > 0 {
            rest.consume(consumed);
            rest.touch(now);
        }
        // Of the fresh bytes those that are consumed, or kept already.
        let read = fresh + consumed.max(kept) - offered;
        let unread = self.input.get(..fresh).and_then(|fresh| fresh.get(read..));
        if rest.push(unread.unwrap_or_default(), now).is_none() {
            self.net.abort(slot, CloseReason::MemoryBudget);
        }
        self.after_offer(slot, rest, offered, consumed);
    }

    /// The handler contract: when is the rest offered again, and when is it too much?
    fn after_offer(&mut self, slot: u32, rest: Buffer, offered: usize, consumed: usize) {
        let max_input = self.net.limits.max_input;
        if consumed > offered {
            self.net
                .counters
                .bug(format_args!("the handler consumed {consumed} of {offered} bytes"));
            return self.net.abort(slot, CloseReason::Handler);
        }
        let now = self.net.now;
        self.net.change(slot, |connection| {
            let is_held_up = connection.state.open().is_some_and(Open::holds_up_input);
            let stopped = connection.state.is_paused() || is_held_up || connection.state.is_again();
            let is_last = connection.state.open().is_none_or(|open| !open.flow.is_ahead());
            let has_rest = !rest.is_empty();
            let is_too_much = rest.len() > max_input;
            let Some(input) = connection.state.input_mut() else { return };
            *input = rest;
            let again = has_rest && (stopped || is_last && consumed > 0);
            connection.state.set_again(again);
            if is_too_much && !again {
                connection.close(CloseReason::InputLimit, now);
            }
        });
    }

    #[cold]
    pub(super) fn serve_busy(&mut self, slot: u32, mut mask: u32) {
        if mask & kernel::RDHUP != 0 {
            self.hung_up(slot);
        }
        let Some(connection) = self.net.table.look(slot) else { return };
        match *connection.state {
            State::Connecting { .. } => return self.connected(slot),
            State::Preface { .. } => return self.read_header(slot),
            State::Broken { asked, .. } if asked.keeps_input() => {
                return self.net.table.mark(slot); // epoll is to forget it
            }
            _ => {}
        }
        let both_ended = mask & (kernel::ERR | kernel::HUP) == kernel::HUP;
        let is_awaited = |open: &Open| open.flow.reading().is_some();
        if both_ended && connection.state.open().is_some_and(is_awaited) {
            // Both ended in order: what the peer sent before that is read when it is wanted.
            mask = connection.interest().into();
            if mask == 0 {
                return self.unwatch(slot);
            }
        }
        let hangup = mask & (kernel::ERR | kernel::HUP) != 0;
        if mask & kernel::IN != 0 || hangup {
            match &*connection.state {
                // What was received before comes first.
                State::Open(open) if open.flow.is_again() && connection.can_offer() && !hangup => {}
                State::Open(_) => self.read(slot, hangup),
                State::Closing { .. } | State::Delivering { .. } | State::Lingering { .. } => {
                    self.discard(slot);
                }
                _ => {}
            }
        }
        if mask & kernel::OUT != 0 {
            self.net.send_waiting(&mut self.kernel, slot);
        }
    }

    /// Reads an open connection. On a hang-up it reads even while paused, because the kernel
    /// would report the hang-up in every wait, and bytes may precede it.
    fn read(&mut self, slot: u32, hangup: bool) {
        let most = self.net.may_read(slot, hangup);
        if most > 0 {
            let received = self.recv(slot, most);
            self.received(slot, received, hangup);
        }
    }

    /// Receives up to `most` bytes into the input buffer.
    pub(super) fn recv(&mut self, slot: u32, most: usize) -> kernel::Result<usize> {
        let Some(connection) = self.net.table.look(slot) else { return Err(Errno::EBADF) };
        let most = self.input.len().min(most);
        self.kernel.recv(&connection.fd, self.input.get_mut(..most).unwrap_or_default())
    }

    /// EOF of a quiet connection. No rest stands before it, and `on_eof` comes at once.
    #[cold]
    pub(super) fn ended(&mut self, slot: u32) {
        self.net.table.heard_end(slot);
        self.call(slot, |handler, conn, session| handler.on_eof(conn, session, &[]));
    }

    #[cold]
    pub(super) fn received(&mut self, slot: u32, received: kernel::Result<usize>, hangup: bool) {
        let now = self.net.now;
        match received {
            Ok(0) => {
                self.net.change(slot, |connection| match connection.state.open_mut() {
                    Some(open) if open.flow.is_ahead() => open.flow.ended(!open.input.is_empty()),
                    _ => connection.broken(CloseReason::PeerReset), // read for a hang-up
                });
                self.step(slot); // most often the handler can hear of the end at once
            }
            Ok(n) => {
                self.net.change(slot, |connection| connection.arrived(n, now));
                self.take_in(slot, n);
                self.net.change(slot, |connection| {
                    if hangup && !connection.can_offer() {
                        connection.broken(CloseReason::PeerReset); // the handler will not take more
                    }
                });
            }
            Err(errno) => self.net.failed(slot, Call::Recv, errno),
        }
    }

    /// Offers `n` fresh bytes, behind what was left over if there is something.
    fn take_in(&mut self, slot: u32, n: usize) {
        let Some(connection) = self.net.table.look(slot) else { return };
        let can_offer = connection.can_offer();
        if can_offer && connection.rest() == 0 {
            self.net.table.talks(slot);
            return self.offer_fresh(slot, n);
        } else if can_offer {
            return self.offer(slot, n);
        }
        let (fresh, now) = (self.input.get(..n).unwrap_or_default(), self.net.now);
        self.net.change(slot, |connection| {
            connection.state.set_again(true);
            let Some(input) = connection.state.input_mut() else { return };
            if input.push(fresh, now).is_none() {
                connection.abort(CloseReason::MemoryBudget);
            }
        });
    }

    /// Reads what is left on a closing connection, so that its `close` does not send a reset.
    fn discard(&mut self, slot: u32) {
        let (now, received) = (self.net.now, self.recv(slot, INPUT_BYTES));
        self.net.change(slot, |connection| match received {
            Ok(0) => connection.at_end(),
            Ok(_) => connection.talks_on(now),
            Err(_) => {}
        });
        if let Err(errno) = received {
            self.net.failed(slot, Call::Recv, errno);
        }
    }

    /// Does for a connection what needs no event: as much as one `recv` allows.
    pub(super) fn step(&mut self, slot: u32) {
        let Some(connection) = self.net.table.look(slot) else { return };
        if !connection.has_work(self.net.may_end(slot, connection)) {
            return;
        }
        if connection.state.is_drained() {
            self.net.change(slot, |connection| connection.state.drained());
            self.call(slot, |handler, conn, session| handler.on_drain(conn, session));
        }
        self.offer_again(slot);
        self.go_on(slot);
        self.net.table.mark(slot);
    }

    /// Offers the rest without new bytes, if that is wanted, and possible.
    fn offer_again(&mut self, slot: u32) {
        let Some(connection) = self.net.table.look(slot) else { return };
        if connection.state.is_again() && connection.can_offer() {
            self.offer(slot, 0);
        }
    }

    /// Goes on with a connection, if all it has received has been offered.
    fn go_on(&mut self, slot: u32) {
        let Some(connection) = self.net.table.look(slot) else { return };
        let has_more = connection.state.is_again() && connection.can_offer();
        if has_more || !connection.has_work(self.net.may_end(slot, connection)) {
            return;
        }
        let Some(Open { flow, read, .. }) = connection.state.open() else {
            return self.read_out(slot);
        };
        match flow.reading() {
            Some(reading) if reading.ended => self.tell_eof(slot),
            Some(_) if *read < DRAIN_BYTES => self.read_last(slot),
            _ => self.net.close_slot(slot, CloseReason::Shutdown),
        }
    }

    /// A stopping server answers what it has received, and no more. FIN goes behind the answers,
    /// and until the peer's comes it is read, so bytes that EAGAIN has overlooked cause no reset.
    fn read_last(&mut self, slot: u32) {
        let most = self.net.may_read(slot, false);
        if most == 0 {
            return;
        }
        match self.recv(slot, most) {
            Err(errno) if reaction(Call::Recv, errno) == Reaction::Wait => {
                self.net.close_slot(slot, CloseReason::Shutdown);
            }
            received => self.received(slot, received, false),
        }
    }

    /// Reads a connection on which nothing can be sent any more: what the peer sent before is
    /// still offered to the handler.
    fn read_out(&mut self, slot: u32) {
        let now = self.net.now;
        let Some(connection) = self.net.table.look(slot) else { return };
        let State::Broken { mut why, read, asked, .. } = *connection.state else { return };
        if connection.can_offer() && (read < DRAIN_BYTES || asked.duplex) {
            match self.recv(slot, INPUT_BYTES) {
                Ok(n @ 1..) => {
                    self.net.change(slot, |connection| connection.arrived(n, now));
                    return self.take_in(slot, n);
                }
                // A hang-up was taken for a reset. Only now does the kernel say what it was.
                Err(errno)
                    if reaction(Call::Recv, errno) == Reaction::DropConnection
                        && why == CloseReason::PeerReset =>
                {
                    why = CloseReason::of(Call::Recv, errno);
                }
                _ => {}
            }
        }
        self.net.change(slot, |connection| connection.gone(why));
    }

    fn tell_eof(&mut self, slot: u32) {
        let told = self.net.change(slot, |connection| {
            let rest = connection.state.take_input();
            connection.state.open_mut().into_iter().for_each(|open| open.flow.told());
            rest
        });
        let mut rest = told.unwrap_or_default();
        let Some(Some(session)) = self.sessions.get_mut(slot as usize) else { return };
        let Some(input) = self.input.behind(&mut rest, 0, self.net.now) else {
            return self.net.abort(slot, CloseReason::MemoryBudget);
        };
        self.net.table.talks(slot);
        self.handler.on_eof(&mut Conn { net: &mut self.net, slot }, session, input);
    }

    /// Makes a callback, with the disjoint parts of `self` that it needs.
    pub(super) fn call(
        &mut self,
        slot: u32,
        callback: impl FnOnce(&mut H, &mut Conn<'_>, &mut H::Session),
    ) {
        if let Some(Some(session)) = self.sessions.get_mut(slot as usize) {
            self.net.table.talks(slot);
            callback(&mut self.handler, &mut Conn { net: &mut self.net, slot }, session);
        }
    }
}
