//! Outbound connections: those that are asked for are begun; what became of a connect.
//!
//! `net/outbound.rs` has those that wait for a socket, and opens them; here the loop learns from
//! epoll whether one is established.

use super::Reactor;
use crate::close_reason::CloseReason;
use crate::deadlines::Alarm;
use crate::handler::ConnectionHandler;
use crate::kernel::Kernel;
use crate::net::ConnId;
use crate::reaction::{Call, Reaction, reaction};

impl<H: ConnectionHandler, K: Kernel> Reactor<H, K> {
    /// Begins the connections that callbacks have asked for so far.
    #[inline]
    pub(super) fn dial(&mut self) {
        if self.net.has_dials()
            && let Some(again) = self.net.dial(&mut self.kernel)
        {
            self.timer.alarms.ring_by(Alarm::Dial, again);
        }
    }

    /// An event of an outbound connection: it is established, or it has failed.
    #[cold]
    pub(super) fn connected(&mut self, slot: u32) {
        let now = self.net.now;
        let Some(connection) = self.net.table.look(slot) else { return };
        let call = Call::ConnectResult;
        let errno = match self.kernel.getsockopt_error(&connection.fd) {
            Ok(None) => {
                self.net.change(slot, |connection| connection.established(now));
                let id = ConnId(self.net.table.id(slot));
                if let Some(connection) = self.net.table.look(slot) {
                    log::debug!("opened {id} {connection}");
                }
                self.open_session(slot);
                return self.net.send_waiting(&mut self.kernel, slot); // what was written early
            }
            Ok(Some(errno)) => errno,
            Err(errno) if reaction(call, errno) == Reaction::Bug => {
                return self.net.failed(slot, call, errno);
            }
            Err(errno) => errno,
        };
        let why = CloseReason::Network { call: Call::Connect, errno };
        self.net.change(slot, |connection| connection.gone(why));
    }
}
