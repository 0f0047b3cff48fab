//! Connections that the handler begins itself.
//!
//! The socket is made and connected at once, on the kernel that the handler brings; what
//! comes of it is told by epoll, as of any other connection: `on_open` when it stands,
//! `on_close` when it came to nothing.

use super::{ConnId, Net};
use crate::connection::Connection;
use crate::deadlines::Span;
use crate::error::Error;
use crate::kernel::{Address, Errno, Kernel, Peer};
use crate::listener::tunables;
use crate::reaction::{Call, Reaction, reaction};
use std::time::Duration;

impl Net {
    /// Begins to connect to `address`. When the connection stands, `on_open` is called
    /// with this id, and from then on it is a connection like any other. If it does not
    /// within `timeout`, or is refused, `on_close` says why:
    /// [`Network`](crate::CloseReason::Network) with the call `connect` and its errno,
    /// ETIMEDOUT if it was too slow. connect(2)
    ///
    /// `kernel` must be the kernel that the server runs on.
    ///
    /// # Errors
    ///
    /// What failed at once, `on_close` is not called then. EMFILE from `socket` also if
    /// there are [`max_outbound`](crate::Limits::max_outbound) such connections already.
    pub fn connect<K: Kernel>(
        &mut self,
        kernel: &mut K,
        address: &Address,
        timeout: Duration,
    ) -> Result<ConnId, Error> {
        if self.outbound >= self.limits.max_outbound {
            return Err(Error::new(
                Call::Socket,
                format!("{address}, max_outbound"),
                Errno::EMFILE,
            ));
        }
        let fd =
            kernel.socket(address).map_err(|errno| Error::new(Call::Socket, address, errno))?;
        if let Address::Tcp(_) = address {
            for option in tunables(&self.limits) {
                let _ = kernel.setsockopt(&fd, option); // it is the worse for it, but it works
            }
        }
        if let Err(errno) = kernel.connect(&fd, address) {
            // Only TCP takes time: a Unix socket is connected now, or never.
            let goes_on = reaction(Call::Connect, errno) == Reaction::Wait;
            if !goes_on || matches!(address, Address::Unix(_)) {
                if reaction(Call::Connect, errno) == Reaction::Bug {
                    self.counters.bugs += 1;
                    log::error!("bug: connect: {errno}");
                }
                let _ = kernel.close(fd);
                return Err(Error::new(Call::Connect, address, errno));
            }
        }
        let peer = match address {
            Address::Tcp(address) => Peer::Tcp(*address),
            Address::Unix(_) => Peer::Unix,
        };
        let deadline = self.now.after(Span::at_least(timeout));
        let id = self.connections.insert(Connection::outbound(fd, peer, self.now, deadline));
        self.outbound += 1;
        self.counters.connected += 1;
        self.mark(id.slot);
        Ok(ConnId(id))
    }
}
