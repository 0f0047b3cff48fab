//! Connections that the handler begins itself.
//!
//! The socket is made and connected at once, on the kernel that the handler brings; what
//! comes of it is told by epoll, as of any other connection: `on_open` when it stands,
//! `on_close` when it came to nothing.

use super::{ConnId, Net};
use crate::connection::Connection;
use crate::error::Error;
use crate::kernel::{Address, Errno, Kernel, Peer};
use crate::listener::tunables;
use crate::reaction::{Call, Reaction, reaction};
use crate::time::Moment;
use std::time::Duration;

impl Net {
    /// Begins to connect to `address`. When the connection is established, `on_open` is
    /// called with this id, and from then on it is a connection like any other. If it is
    /// refused, or not established within `timeout`, `on_close` reports why:
    /// [`Network`](crate::CloseReason::Network) with the call `connect` and its errno,
    /// ETIMEDOUT if it was too slow. connect(2)
    ///
    /// The id can be used at once. What is written waits until the connection is
    /// established, bounded as all output is, and is dropped if it never is;
    /// [`finish`](crate::Conn::finish) takes effect behind it, and a timer that is due before then
    /// rings then.
    ///
    /// `kernel` must be the kernel that the server runs on.
    ///
    /// # Errors
    ///
    /// The call that failed at once; `on_close` is not called then. Also, as `socket`:
    ///
    /// - EMFILE if there are [`max_outbound`](crate::Limits::max_outbound) such connections.
    /// - ESHUTDOWN if the server is stopping and there are as many such connections as
    ///   accepted ones, so none is left to begin it for: a handler that begins a connection
    ///   again whenever it ends would hold up the stop for ever. No system call that opens a
    ///   connection fails with this errno.
    pub fn connect<K: Kernel>(
        &mut self,
        kernel: &mut K,
        address: &Address,
        timeout: Duration,
    ) -> Result<ConnId, Error> {
        if self.outbound >= self.limits.max_outbound {
            let object = format!("{address}, max_outbound");
            return Err(Error::new(Call::Socket, object, Errno::EMFILE));
        }
        let accepted = self.table.len() - self.outbound as usize;
        if self.is_draining() && self.outbound as usize >= accepted {
            let object = format!("{address}, the server is stopping");
            return Err(Error::new(Call::Socket, object, Errno::ESHUTDOWN));
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
        let deadline = Moment::after(self.now_millis, timeout);
        let id = self.table.insert(Connection::outbound(fd, peer, self.now, deadline));
        self.outbound += 1;
        self.counters.connected += 1;
        self.table.mark(id.slot);
        Ok(ConnId(id))
    }
}
