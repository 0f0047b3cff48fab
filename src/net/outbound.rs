//! Connections that the handler begins itself.
//!
//! The socket is made and connected at once, on the kernel that the handler brings; what
//! comes of it is told by epoll, as of any other connection: `on_open` when it stands,
//! `on_close` when it came to nothing.

use super::{ConnId, Net};
use crate::connection::Connection;
use crate::error::Error;
use crate::kernel::{Address, Errno, Fd, Kernel, Peer, SocketOption};
use crate::listener::{refuse_descriptors, tunables};
use crate::reaction::{Call, Reaction, reaction};
use crate::time::Moment;
use std::net::SocketAddr;
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
        let accepted = self.connections.len() - self.outbound as usize;
        if self.is_draining() && self.outbound as usize >= accepted {
            let object = format!("{address}, the server is stopping");
            return Err(Error::new(Call::Socket, object, Errno::ESHUTDOWN));
        }
        let fd =
            kernel.socket(address).map_err(|errno| Error::new(Call::Socket, address, errno))?;
        match address {
            Address::Tcp(_) => {
                for option in tunables(&self.limits) {
                    let _ = kernel.setsockopt(&fd, option); // it is the worse for it, but it works
                }
            }
            Address::Unix(_) => refuse_descriptors(kernel, &fd, address, &mut Vec::new()),
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
        if let Err(errno) = self.look_back(kernel, &fd, address) {
            let _ = kernel.close(fd);
            return Err(Error::new(Call::Connect, address, errno));
        }
        let peer = match address {
            Address::Tcp(address) => Peer::Tcp(*address),
            Address::Unix(_) => Peer::Unix,
        };
        let deadline = Moment::after(self.now_millis, timeout);
        let id = self.connections.insert(Connection::outbound(fd, peer, self.now, deadline));
        self.outbound += 1;
        self.counters.connected += 1;
        self.mark(id.slot);
        Ok(ConnId(id))
    }

    /// Where a connection comes from that has just begun. If nobody listens at a port of this
    /// machine, the kernel may pick that very port for our own end: then the connection is
    /// established with itself, and keeps the real server from its port (ECONNREFUSED is what
    /// is true of it). If it may come back through a listener of ours, its address is noted.
    fn look_back<K: Kernel>(
        &mut self,
        kernel: &mut K,
        fd: &Fd,
        address: &Address,
    ) -> Result<(), Errno> {
        let Address::Tcp(to) = address else { return Ok(()) };
        let from = match kernel.getsockname(fd) {
            Ok(Address::Tcp(from)) => canonical(from),
            Ok(Address::Unix(_)) => return Ok(()),
            Err(errno) => {
                if reaction(Call::OutboundAddress, errno) == Reaction::Bug {
                    self.counters.bugs += 1;
                    log::error!("bug: getsockname: {errno}");
                }
                return Ok(());
            }
        };
        let to = canonical(*to);
        // The unspecified address is this machine, to connect to.
        if from.port() == to.port() && (from.ip() == to.ip() || to.ip().is_unspecified()) {
            let _ = kernel.setsockopt(fd, SocketOption::ResetOnClose); // or the port stays taken
            return Err(Errno::ECONNREFUSED);
        }
        let is_at_port =
            |own: &Address| matches!(own, Address::Tcp(own) if own.port() == to.port());
        if self.locals.iter().any(is_at_port) {
            self.calling.insert(from);
        }
        Ok(())
    }

    /// An outbound connection is about to be closed.
    pub(crate) fn forget_call<K: Kernel>(&mut self, kernel: &mut K, fd: &Fd) {
        if !self.calling.is_empty()
            && let Ok(Address::Tcp(from)) = kernel.getsockname(fd)
        {
            self.calling.remove(&canonical(from));
        }
    }

    /// Whether `peer` is the other end of an outbound connection of this server: a loop.
    pub(crate) fn is_own_call(&self, peer: Peer) -> bool {
        matches!(peer, Peer::Tcp(peer) if self.calling.contains(&canonical(peer)))
    }
}

/// A V4 address that is written as a V6 one is the V4 one.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
