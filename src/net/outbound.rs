//! Connections that the handler begins itself.
//!
//! A callback only marks the wish: the connection is there at once, and has no socket. When
//! the callbacks of a turn are through, [`Net::dial`] makes the sockets and connects them.
//! epoll reports what comes of it, as of any other connection: `on_open` when it stands,
//! `on_close` when it came to nothing.
//!
//! Invariant: a connection without a socket is Connecting or Gone, and epoll does not know it.

use super::{ConnId, Net};
use crate::close_reason::CloseReason;
use crate::connection::Connection;
use crate::error::Error;
use crate::kernel::{Address, Errno, Fd, Kernel, Peer, SocketOption};
use crate::listener::tunables;
use crate::reaction::{Call, Reaction, attempt, reaction, tolerate};
use crate::time::Span;
use std::mem::take;
use std::net::SocketAddr;
use std::time::Duration;

impl Net {
    /// Begins to connect to `address`. When the connection is established, `on_open` is
    /// called with this id, and from then on it is a connection like any other. If not,
    /// `on_close` reports why:
    ///
    /// - [`Network`](CloseReason::Network) with the call `connect` and its errno: it was
    ///   refused; ETIMEDOUT if it was not established within `timeout`. connect(2)
    /// - [`Server`](CloseReason::Server) with the call `socket` and its errno: there was no
    ///   descriptor for it. socket(2)
    ///
    /// The socket is opened after the callback. The id can be used at once: what is written
    /// waits until the connection is established, bounded as all output is, and is dropped
    /// if it never is; [`finish`](crate::Conn::finish) takes effect behind it, and a timer
    /// that is due before then rings then.
    ///
    /// # Errors
    ///
    /// What is known at once, as the call `socket`; `on_close` is not called then.
    ///
    /// - EMFILE if there are [`max_outbound`](crate::Limits::max_outbound) such connections.
    /// - ESHUTDOWN if the server is stopping and there are as many such connections as
    ///   accepted ones, so none is left to begin it for: a handler that begins a connection
    ///   again whenever it ends would hold up the stop for ever. No system call that opens a
    ///   connection fails with this errno.
    pub fn connect(&mut self, address: &Address, timeout: Duration) -> Result<ConnId, Error> {
        self.connect_as(address, timeout, 0)
    }

    /// The same with a `token`, which the handler finds in its [`origin`](crate::Conn::origin):
    /// so `on_open` and `on_close` know what it was begun for.
    ///
    /// # Errors
    ///
    /// As [`connect`](Net::connect).
    pub fn connect_as(
        &mut self,
        address: &Address,
        timeout: Duration,
        token: u64,
    ) -> Result<ConnId, Error> {
        if self.outbound >= self.limits.max_outbound {
            let object = format!("{address}, max_outbound");
            return Err(Error::new(Call::OutboundSocket, object, Errno::EMFILE));
        }
        let accepted = self.table.len() - self.outbound as usize;
        if self.is_draining() && self.outbound as usize >= accepted {
            let object = format!("{address}, the server is stopping");
            return Err(Error::new(Call::OutboundSocket, object, Errno::ESHUTDOWN));
        }
        let peer = match address {
            Address::Tcp(address) => Peer::Tcp(*address),
            Address::Unix(_) => Peer::Unix,
        };
        let deadline = self.now.after(Span::at_least(timeout));
        let connection = Connection::outbound(peer, self.now, deadline);
        let id = ConnId(self.table.insert(connection));
        self.wishes.push((id, address.clone()));
        if token != 0 {
            self.tokens.insert(id.0.slot, token);
        }
        self.outbound += 1;
        self.counters.connected += 1;
        self.table.mark(id.0.slot);
        Ok(id)
    }

    /// Opens the sockets that callbacks have asked for so far. One that is asked for when
    /// another has failed has to wait for the next turn, because a turn is bounded.
    #[inline]
    pub(crate) fn dial<K: Kernel>(&mut self, kernel: &mut K) {
        if !self.wishes.is_empty() {
            self.dial_all(kernel);
        }
    }

    #[cold]
    fn dial_all<K: Kernel>(&mut self, kernel: &mut K) {
        for (id, address) in take(&mut self.wishes) {
            if !self.table.find(id.0).is_some_and(|connection| connection.state.is_connecting()) {
                continue; // it was closed before it had a socket
            }
            let opened = self.open_socket(kernel, &address);
            self.change(id.0.slot, |connection| match opened {
                Ok(fd) => connection.fd = fd,
                Err(why) => connection.gone(why),
            });
        }
    }

    /// A socket that connects, or is connected already.
    fn open_socket<K: Kernel>(
        &mut self,
        kernel: &mut K,
        address: &Address,
    ) -> Result<Fd, CloseReason> {
        let call = Call::OutboundSocket;
        let opened = attempt(call, || kernel.socket(address));
        let fd = opened.map_err(|(_, errno)| CloseReason::Server { call, errno })?;
        match address {
            Address::Tcp(_) => {
                for option in tunables(&self.limits) {
                    tolerate(Call::SetTunable, kernel.setsockopt(&fd, option)); // it works without
                }
            }
            Address::Unix(_) => {
                let refused = kernel.setsockopt(&fd, SocketOption::RefuseDescriptors);
                tolerate(Call::RefuseDescriptors, refused);
            }
        }
        let begun = match kernel.connect(&fd, address) {
            // Only TCP takes time: a Unix socket is connected now, or never.
            Err(errno)
                if reaction(Call::Connect, errno) == Reaction::Wait
                    && matches!(address, Address::Tcp(_)) =>
            {
                Ok(())
            }
            begun => begun,
        };
        let Err(errno) = begun.and_then(|()| self.look_back(kernel, &fd, address)) else {
            return Ok(fd);
        };
        if reaction(Call::Connect, errno) == Reaction::Bug {
            self.counters.bug(format_args!("connect: {errno}"));
        }
        tolerate(Call::Close, kernel.close(fd));
        Err(CloseReason::Network { call: Call::Connect, errno })
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
        let from = match attempt(Call::OutboundAddress, || kernel.getsockname(fd)) {
            Ok(Address::Tcp(from)) => canonical(from),
            Ok(Address::Unix(_)) => return Ok(()),
            Err((reaction, errno)) => {
                if reaction == Reaction::Bug {
                    self.counters.bug(format_args!("getsockname: {errno}"));
                }
                return Ok(());
            }
        };
        let to = canonical(*to);
        // The unspecified address is this machine, to connect to.
        if from.port() == to.port() && (from.ip() == to.ip() || to.ip().is_unspecified()) {
            let reset = kernel.setsockopt(fd, SocketOption::ResetOnClose); // or the port stays taken
            tolerate(Call::SetTunable, reset);
            return Err(Errno::ECONNREFUSED);
        }
        let is_there = |own: &Address| matches!(own, Address::Tcp(own) if own.port() == to.port());
        if self.locals.iter().any(is_there) {
            self.calling.insert(from);
        }
        Ok(())
    }

    /// An outbound connection is about to be closed.
    pub(crate) fn forget_call<K: Kernel>(&mut self, kernel: &mut K, fd: &Fd) {
        if !self.calling.is_empty()
            && !fd.is_unopened()
            && let Ok(Address::Tcp(from)) =
                attempt(Call::OutboundAddress, || kernel.getsockname(fd))
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
