//! Connections that the handler begins itself.
//!
//! A callback only asks for one: the connection is there at once, and has no socket. When
//! the callbacks of a turn are through, [`Net::dial`] makes the sockets and connects them.
//! epoll reports what comes of it, as of any other connection: `on_open` when it stands,
//! `on_close` when it came to nothing.
//!
//! A lack of descriptors, memory or ports, or a full queue at the other end, means *not now*
//! and nothing about the server behind: as with listeners, a [backoff](Backoff) follows. The
//! connection waits without a socket and is tried again, in the order in which all were asked
//! for, by timer and whenever a connection is closed, until its time is over.
//!
//! Invariants:
//! 1. A connection without a socket is Connecting or Gone, and epoll does not know it.
//! 2. While it is Connecting, it is in `due` or in `waiting`, once.
//! 3. While any are in `waiting`, an alarm is set at the end of the backoff.

use super::{CALL, ConnId, Net};
use crate::backoff::Backoff;
use crate::close_reason::CloseReason;
use crate::connection::Connection;
use crate::error::Error;
use crate::fallible;
use crate::kernel::{Address, Errno, Fd, Kernel, Peer, SocketOption};
use crate::listener::tunables;
use crate::reaction::{Call, Reaction, attempt, reaction, tolerate};
use crate::time::{Moment, Span};
use std::collections::VecDeque;
use std::fmt;
use std::mem::swap;
use std::net::SocketAddr;
use std::time::Duration;

/// What it costs to begin a connection, in system calls.
const CALLS: usize = 9;

/// Outbound connections that have no socket yet, in the order in which they were asked for.
#[derive(Debug, Default)]
pub(super) struct Dials {
    /// To be tried in this turn, or the next.
    due: VecDeque<Dial>,
    /// Those that were tried in vain, and those behind them that want the same.
    waiting: VecDeque<Dial>,
    backoff: Backoff,
    short: Short,
}

#[derive(Debug)]
struct Dial {
    id: ConnId,
    address: Address,
    /// What kept it from being begun, if it was tried.
    why: Option<CloseReason>,
}

/// What was found to be short, so that nobody else need ask for it.
#[derive(Debug, Default)]
struct Short {
    sockets: bool,
    addresses: Vec<Address>,
}

impl Short {
    fn keeps(&self, address: &Address) -> bool {
        self.sockets || self.addresses.contains(address)
    }
}

impl Dials {
    /// Those that wait are tried again, before all others.
    #[cold]
    fn are_due(&mut self) {
        self.waiting.append(&mut self.due);
        swap(&mut self.waiting, &mut self.due);
        self.backoff.end();
    }
}

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
    /// - ENOMEM if there is no memory for it.
    /// - EMFILE if there are [`max_outbound`](crate::Limits::max_outbound) such connections.
    /// - ESHUTDOWN if the server is stopping and there are as many such connections as
    ///   accepted ones, so none is left to begin it for: a handler that begins a connection
    ///   again whenever it ends would keep the server from stopping. No system call that opens a
    ///   connection fails with this errno.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use threadbare::{Address, Conn};
    /// fn ask_backend(conn: &mut Conn<'_>, backend: &Address, question: &[u8]) {
    ///     // `Limits::max_outbound` is 0 at first: set it.
    ///     match conn.net().connect(backend, Duration::from_secs(5)) {
    ///         Ok(id) => {
    ///             conn.net().send(id, question); // when it stands
    ///             conn.pause(); // until `on_data` has the answer, from `id`, or `on_close`
    ///         }
    ///         Err(error) => writeln!(conn, "error: {error}"),
    ///     }
    /// }
    /// ```
    pub fn connect(&mut self, address: &Address, timeout: Duration) -> Result<ConnId, Error> {
        self.connect_as(address, timeout, 0)
    }

    /// The same with a `token`, which the handler finds in its [`origin`](crate::Conn::origin):
    /// so `on_open` and `on_close` know what it was begun for.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use threadbare::{Address, Conn, Error, Net, Origin};
    /// # const STATISTICS: u64 = 7;
    /// # fn on_start(net: &mut Net, address: &Address) -> Result<(), Error> {
    /// net.connect_as(address, Duration::from_secs(5), STATISTICS)?;
    /// # Ok(())
    /// # }
    /// // and in `on_open`:
    /// # fn on_open(conn: &mut Conn<'_>) {
    /// if conn.origin() == Origin::Outbound(STATISTICS) {
    ///     conn.write(b"begin\n");
    /// }
    /// # }
    /// ```
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
        let refused = |object: fmt::Arguments<'_>, errno| {
            Err(Error::new(Call::OutboundSocket, object, errno))
        };
        if self.outbound >= self.limits.max_outbound {
            return refused(format_args!("{address}, max_outbound"), Errno::EMFILE);
        }
        let accepted = self.table.len() - self.outbound as usize;
        if self.is_draining() && self.outbound as usize >= accepted {
            return refused(format_args!("{address}, the server is stopping"), Errno::ESHUTDOWN);
        }
        let peer = match address {
            Address::Tcp(address) => Peer::Tcp(*address),
            Address::Unix(_) => Peer::Unix,
        };
        let deadline = self.now.after(Span::at_least(timeout));
        let connection = Connection::outbound(peer, self.now, deadline);
        let Some(copy) = self.room_for_a_dial(address, token) else {
            return refused(format_args!("{address}"), Errno::ENOMEM);
        };
        let id = ConnId(self.table.insert(connection));
        self.dials.due.push_back(Dial { id, address: copy, why: None });
        if token != 0 {
            self.tokens.insert(id.0.slot, token);
        }
        self.outbound += 1;
        self.counters.connected += 1;
        self.table.mark(id.0.slot);
        Ok(id)
    }

    /// Sees to it that a connection to `address` can be begun, without memory from now on; with a
    /// copy of that.
    fn room_for_a_dial(&mut self, address: &Address, token: u64) -> Option<Address> {
        let Dials { due, waiting, .. } = &mut self.dials;
        self.tokens.try_reserve((token != 0).into()).ok()?;
        // All may come to wait, and those that wait may all be due.
        due.try_reserve(waiting.len() + 1).ok()?;
        waiting.try_reserve(due.len() + 1).ok()?;
        address.copied()
    }

    /// Whether any connections are to be begun now.
    pub(crate) fn has_dials(&self) -> bool {
        !self.dials.due.is_empty()
    }

    /// Whether any connections wait for descriptors, or for memory for a socket.
    pub(crate) fn lacks_sockets(&self) -> bool {
        self.dials.short.sockets
    }

    /// Why the connection in `slot` has no socket, if it was tried to get one.
    pub(crate) fn why_it_waits(&self, slot: u32) -> Option<CloseReason> {
        self.dials.waiting.iter().find(|dial| dial.id.0.slot == slot)?.why
    }

    /// Something was freed, or time has passed: the connections that wait are due first.
    #[inline]
    pub(crate) fn dial_again(&mut self) {
        if !self.dials.waiting.is_empty() {
            self.dials.are_due();
        }
    }

    /// Opens the sockets that callbacks have asked for so far, as many as fit into a turn.
    /// Returns when to try again, if something is short.
    #[cold]
    pub(crate) fn dial<K: Kernel>(&mut self, kernel: &mut K) -> Option<Moment> {
        if !self.dials.backoff.is_on() {
            self.dials.short = Short::default();
        }
        while let Some(mut dial) = self.dials.due.pop_front() {
            let slot = dial.id.0.slot;
            if !self.table.find(dial.id.0).is_some_and(|it| it.state.is_connecting()) {
                continue; // it was closed before it had a socket
            }
            if self.dials.short.keeps(&dial.address) {
                self.dials.waiting.push_back(dial);
                continue;
            }
            match self.open_socket(kernel, &dial.address) {
                Ok(fd) => {
                    self.dials.backoff.reset();
                    self.change(slot, |connection| connection.fd = fd);
                }
                Err((Reaction::Pause, why)) => {
                    dial.why = Some(why);
                    self.falls_short(&dial.address, why);
                    self.dials.waiting.push_back(dial);
                }
                Err((_, why)) => drop(self.change(slot, |connection| connection.gone(why))),
            }
            self.spend(CALLS * CALL);
            if self.is_spent() {
                break;
            }
        }
        let Dials { waiting, backoff, .. } = &mut self.dials;
        (!waiting.is_empty() && !backoff.is_on()).then(|| backoff.begin(self.now))
    }

    /// Notes what is short, for connections that need the same; and logs it, once a minute.
    fn falls_short(&mut self, address: &Address, why: CloseReason) {
        let Dials { short, backoff, .. } = &mut self.dials;
        match why {
            // Without memory others find out for themselves.
            CloseReason::Network { .. } => {
                let copy = address.copied();
                let _ = copy.and_then(|copy| fallible::push(&mut short.addresses, copy));
            }
            _ => short.sockets = true,
        }
        if let CloseReason::Network { call, errno } | CloseReason::Server { call, errno } = why
            && backoff.is_news(self.now)
        {
            let error = Error::new(call, address, errno);
            log::warn!("{error}; outbound connections wait, and are tried again");
        }
    }

    /// A socket that connects, or is connected already; or why there is none.
    fn open_socket<K: Kernel>(
        &mut self,
        kernel: &mut K,
        address: &Address,
    ) -> Result<Fd, (Reaction, CloseReason)> {
        let call = Call::OutboundSocket;
        let opened = attempt(call, || kernel.socket(address));
        let failed = |(reaction, errno)| (reaction, CloseReason::Server { call, errno });
        let fd = opened.map_err(failed)?;
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
        let reaction = reaction_to(errno, kernel, &fd, address);
        if reaction == Reaction::Bug {
            self.counters.bug(format_args!("connect: {errno}"));
        }
        tolerate(Call::Close, kernel.close(fd));
        Err((reaction, CloseReason::Network { call: Call::Connect, errno }))
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
            self.calling.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
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

    /// Whether `address` is the file of a Unix socket at which this server listens, however its
    /// path is written: by a symbolic link, or in a directory that is mounted twice. What leads
    /// here over TCP shows when it [comes in](crate::Conn::is_own). stat(2)
    pub fn leads_here(&mut self, address: &Address) -> bool {
        let Address::Unix(path) = address else { return false };
        if self.own_files.is_empty() {
            return false;
        }
        let named = attempt(Call::DirectoryStatus, || self.kernel.stat(path));
        named.is_ok_and(|named| self.own_files.contains(&named.identity))
    }

    /// Whether `peer` is the other end of an outbound connection of this server: a loop.
    pub(crate) fn is_own_call(&self, peer: Peer) -> bool {
        matches!(peer, Peer::Tcp(peer) if self.calling.contains(&canonical(peer)))
    }
}

/// What a failed connect means. EADDRNOTAVAIL says that no port is free, or that this machine
/// lacks the address, which then is one of its own, as `::1` where IPv6 is off: `bind` cannot
/// have that either, and no port comes free there.
#[cold]
fn reaction_to<K: Kernel>(errno: Errno, kernel: &mut K, fd: &Fd, address: &Address) -> Reaction {
    let mut lacks = |to: &SocketAddr| {
        let bound = kernel.bind(fd, &Address::Tcp(SocketAddr::new(to.ip(), 0)));
        bound.is_err_and(|errno| reaction(Call::BindTcp, errno) == Reaction::Degrade)
    };
    match address {
        Address::Tcp(to) if errno == Errno::EADDRNOTAVAIL && to.ip().is_loopback() && lacks(to) => {
            Reaction::DropConnection
        }
        _ => reaction(Call::Connect, errno),
    }
}

/// A V4 address that is written as a V6 one is the V4 one.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
