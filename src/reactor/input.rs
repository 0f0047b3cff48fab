//! Received bytes on their way to the handler, and the handler's rest.
//!
//! Where the handler contract lives: what is not consumed is kept and offered
//! again with the next bytes; if the handler stopped because its output was full
//! or because it paused, it is offered again without new bytes as soon as that
//! is over; the peer's end is told only after a call that consumed nothing more.

use super::{DRAIN_BYTES, Reactor};
use crate::budget::SMALL;
use crate::close_reason::CloseReason;
use crate::connection::{LINGER_BYTES, Phase};
use crate::handler::ConnectionHandler;
use crate::kernel::{self, Kernel};
use crate::net::Conn;
use crate::reaction::{Call, Reaction, reaction};
use std::ops::{Deref, DerefMut};

/// Bytes received at once.
const INPUT_BYTES: usize = 64 << 10;

/// The one input buffer. It begins where a page of memory does: into one that begins 16
/// bytes behind, where malloc would put it, some processors copy at a third of the speed.
pub(crate) struct Input(Box<[Aligned; 1]>);

#[repr(align(4096))]
struct Aligned([u8; INPUT_BYTES]);

impl Input {
    /// `None` if there is no memory for it.
    pub(crate) fn allocate() -> Option<Input> {
        let mut one = Vec::new(); // `Box` alone would abort
        one.try_reserve_exact(1).ok()?;
        one.push(Aligned([0; INPUT_BYTES]));
        one.try_into().ok().map(Input)
    }
}

impl Deref for Input {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        let [Aligned(bytes)] = &*self.0;
        bytes
    }
}

impl DerefMut for Input {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        let [Aligned(bytes)] = &mut *self.0;
        bytes
    }
}

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
        let rest = self.input.get(..n).and_then(|input| input.get(consumed..));
        let (now, spare) = (self.net.now, self.net.budget.spare());
        self.net.change(slot, |connection| {
            if connection.takes_input()
                && connection.input.push(rest.unwrap_or_default(), spare, now).is_err()
            {
                connection.abort(CloseReason::MemoryBudget);
            }
        });
        self.after_offer(slot, n, consumed);
    }

    /// Offers what was left over, and what came since.
    fn offer(&mut self, slot: u32) {
        let Some(Some(session)) = self.sessions.get_mut(slot as usize) else { return };
        let mut rest = self.net.take_input(slot);
        let offered = rest.len();
        let conn = &mut Conn { net: &mut self.net, slot };
        let consumed = self.handler.on_data(conn, session, rest.as_slice());
        if consumed > 0 {
            rest.consume(consumed);
            rest.touch(self.net.now);
        }
        self.net.put_input(slot, rest);
        self.after_offer(slot, offered, consumed);
    }

    /// The handler contract: when is the rest offered again, and when is it too much?
    fn after_offer(&mut self, slot: u32, offered: usize, consumed: usize) {
        let max_input = self.net.limits.max_input;
        if consumed > offered {
            self.net.counters.bugs += 1;
            log::error!("bug: the handler consumed {consumed} bytes of {offered}");
            self.net.change(slot, |connection| connection.abort(CloseReason::Handler));
            return;
        }
        self.net.change(slot, |connection| {
            let stopped = connection.paused || connection.is_held_up() || connection.reoffer;
            let at_end = connection.eof || connection.phase == Phase::Broken;
            connection.reoffer =
                !connection.input.is_empty() && (stopped || at_end && consumed > 0);
            if connection.input.len() > max_input && !connection.reoffer {
                connection.close(CloseReason::InputLimit);
            }
        });
    }

    #[cold]
    pub(super) fn serve_busy(&mut self, slot: u32, mut mask: u32) {
        let Some(connection) = self.net.connections.get(slot) else { return };
        if connection.phase == Phase::Connecting {
            return self.connected(slot);
        }
        let both_ended = mask & (kernel::ERR | kernel::HUP) == kernel::HUP;
        if both_ended && connection.phase == Phase::Open && !connection.eof_told {
            // In order: what the peer sent before its end is read when it is wanted.
            mask = connection.interest().into();
            if mask == 0 {
                return self.unwatch(slot);
            }
        }
        let hangup = mask & (kernel::ERR | kernel::HUP) != 0;
        if mask & kernel::IN != 0 || hangup {
            let allowance = self.net.budget.allowance(connection.input.len());
            match connection.phase {
                // First what is here already.
                Phase::Open if connection.reoffer && connection.can_offer() && !hangup => {}
                Phase::Open if allowance == 0 && !hangup => self.net.hold_back(slot),
                Phase::Open => self.read(slot, allowance.max(SMALL), hangup),
                Phase::Closing | Phase::Lingering => self.discard(slot),
                Phase::Connecting | Phase::Broken | Phase::Gone => {}
            }
        }
        if mask & kernel::OUT != 0 {
            self.net.send_waiting(&mut self.kernel, slot);
        }
    }

    /// Nothing is wanted of a connection that epoll reports for ever.
    fn unwatch(&mut self, slot: u32) {
        let data = self.net.connections.id(slot).to_u64();
        let Some(connection) = self.net.connections.get_mut(slot) else { return };
        let (fd, told) = (&connection.fd, &mut connection.registered);
        if let Err((call, errno)) = self.core.unwatch(&mut self.kernel, fd, told, data) {
            self.net.failed(slot, call, errno);
        }
    }

    /// Reads an open connection. On a hang-up it reads too, though it be paused: the
    /// kernel would report the hang-up for ever, and bytes may stand before it.
    fn read(&mut self, slot: u32, allowance: usize, hangup: bool) {
        let Some(connection) = self.net.connections.get_mut(slot) else { return };
        let length = self.input.len().min(allowance);
        let Some(input) = self.input.get_mut(..length) else { return };
        let received = self.kernel.recv(&connection.fd, input);
        self.received(slot, received, hangup);
    }

    #[cold]
    pub(super) fn received(&mut self, slot: u32, received: kernel::Result<usize>, hangup: bool) {
        let now = self.net.now;
        match received {
            Ok(0) => {
                self.net.change(slot, |connection| match connection.eof {
                    true => connection.broken(CloseReason::PeerReset), // read for a hang-up
                    false => {
                        connection.eof = true;
                        connection.reoffer |= !connection.input.is_empty();
                    }
                });
                self.step(slot); // most often the end can be told, and the connection freed, at once
            }
            Ok(n) => {
                self.net.change(slot, |connection| {
                    connection.tries = 0;
                    connection.received += n as u64;
                    connection.read_at_end = connection.read_at_end.saturating_add(n as u32);
                    connection.last = now;
                });
                self.take_in(slot, n);
                self.net.change(slot, |connection| {
                    if hangup && !connection.can_offer() {
                        connection.broken(CloseReason::PeerReset); // nobody will take more
                    }
                });
            }
            Err(errno) => self.net.failed(slot, Call::Recv, errno),
        }
    }

    /// Offers `n` fresh bytes, behind what was left over if there is something.
    fn take_in(&mut self, slot: u32, n: usize) {
        let Some(connection) = self.net.connections.get(slot) else { return };
        let can_offer = connection.can_offer();
        if can_offer && connection.input.is_empty() {
            return self.offer_fresh(slot, n);
        }
        let fresh = self.input.get(..n).unwrap_or_default();
        let (now, spare) = (self.net.now, self.net.budget.spare());
        self.net.change(slot, |connection| {
            if connection.input.push(fresh, spare, now).is_err() {
                connection.abort(CloseReason::MemoryBudget);
            }
            connection.reoffer |= !can_offer;
        });
        if can_offer {
            self.offer(slot);
        }
    }

    /// Reads a closing connection out, so that its end is not a reset.
    fn discard(&mut self, slot: u32) {
        let Some(connection) = self.net.connections.get_mut(slot) else { return };
        let received = self.kernel.recv(&connection.fd, &mut self.input);
        let now = self.net.now;
        self.net.change(slot, |connection| match received {
            Ok(0) if connection.phase == Phase::Lingering => connection.gone(connection.why),
            Ok(0) if connection.eof => connection.broken(CloseReason::PeerReset), // a hang-up
            Ok(0) => connection.eof = true,
            Ok(n) => {
                connection.last = now;
                connection.read_at_end = connection.read_at_end.saturating_add(n as u32);
                if connection.phase == Phase::Lingering && connection.read_at_end >= LINGER_BYTES {
                    connection.gone(connection.why);
                }
            }
            Err(_) => {}
        });
        if let Err(errno) = received {
            self.net.failed(slot, Call::Recv, errno);
        }
    }

    /// Does for a connection what needs no event: as much as one `recv` allows.
    pub(super) fn step(&mut self, slot: u32) {
        let Some(connection) = self.net.connections.get_mut(slot) else { return };
        if !connection.has_work(self.net.draining) {
            return;
        }
        if std::mem::take(&mut connection.drained) {
            self.call(slot, |handler, conn, session| handler.on_drain(conn, session));
        }
        self.offer_again(slot);
        self.go_on(slot);
        self.net.mark(slot);
    }

    /// Offers the rest without new bytes, if that is wanted, and possible.
    fn offer_again(&mut self, slot: u32) {
        let Some(connection) = self.net.connections.get_mut(slot) else { return };
        if connection.can_offer() && std::mem::take(&mut connection.reoffer) {
            self.offer(slot);
        }
    }

    /// Goes on with a connection, if all it has received has been offered.
    fn go_on(&mut self, slot: u32) {
        let Some(connection) = self.net.connections.get_mut(slot) else { return };
        let has_more = connection.reoffer && connection.can_offer();
        if has_more || !connection.has_work(self.net.draining) {
            return;
        }
        if connection.phase == Phase::Broken {
            self.read_out(slot);
        } else if connection.eof && !connection.eof_told {
            self.tell_eof(slot);
        } else if connection.eof || connection.read_at_end >= DRAIN_BYTES {
            self.net.close_slot(slot, CloseReason::Shutdown);
        } else if self.net.budget.allowance(connection.input.len()) == 0 {
            self.net.hold_back(slot);
        } else {
            self.read_last(slot);
        }
    }

    /// A stopping server answers what it has received, and no more.
    fn read_last(&mut self, slot: u32) {
        let Some(connection) = self.net.connections.get_mut(slot) else { return };
        let allowance = self.net.budget.allowance(connection.input.len());
        let length = self.input.len().min(allowance);
        let Some(input) = self.input.get_mut(..length) else { return };
        match self.kernel.recv(&connection.fd, input) {
            Err(errno) if reaction(Call::Recv, errno) == Reaction::Wait => {
                self.net.close_slot(slot, CloseReason::Shutdown);
            }
            received => self.received(slot, received, false),
        }
    }

    /// Nothing can be sent any more, but what the peer sent before is still worth having.
    fn read_out(&mut self, slot: u32) {
        let Some(connection) = self.net.connections.get_mut(slot) else { return };
        let mut why = connection.why;
        if connection.can_offer() && connection.read_at_end < DRAIN_BYTES {
            match self.kernel.recv(&connection.fd, &mut self.input) {
                Ok(n @ 1..) => {
                    connection.received += n as u64;
                    connection.read_at_end = connection.read_at_end.saturating_add(n as u32);
                    return self.take_in(slot, n);
                }
                // A hang-up was taken for a reset. Only now does the kernel say what it was.
                Err(errno)
                    if why == CloseReason::PeerReset
                        && reaction(Call::Recv, errno) == Reaction::DropConnection =>
                {
                    why = CloseReason::of(Call::Recv, errno);
                }
                _ => {}
            }
        }
        self.net.change(slot, |connection| connection.gone(why));
    }

    fn tell_eof(&mut self, slot: u32) {
        let rest = self.net.take_input(slot);
        self.net.change(slot, |connection| connection.eof_told = true);
        self.call(slot, |handler, conn, session| handler.on_eof(conn, session, rest.as_slice()));
    }

    /// Makes a callback, with the disjoint parts of `self` that it needs.
    pub(super) fn call(
        &mut self,
        slot: u32,
        callback: impl FnOnce(&mut H, &mut Conn<'_>, &mut H::Session),
    ) {
        if let Some(Some(session)) = self.sessions.get_mut(slot as usize) {
            callback(&mut self.handler, &mut Conn { net: &mut self.net, slot }, session);
        }
    }
}
