//! Listening sockets: bind, accept, and close without dropping the clients in the queue.
//!
//! While no client can be accepted, because the server is full or the kernel out of
//! descriptors, no listener is read: clients wait in the queues and nothing spins.
//! A listener has a socket until it is closed.
//!
//! Invariants:
//! 1. Every option that connections inherit is set here, once, so accepting needs
//!    no further call.
//! 2. The file of a Unix socket is its own ([`socket_file`]).
//! 3. A socket that was inherited belongs to others too. It is given no filter, its file stays,
//!    and the clients in its queue are left to its next owner.

use crate::connection::UNWATCHED;
use crate::error::{Error, needed, wanted};
use crate::kernel::{Address, Errno, Fd, Kernel, SocketOption};
use crate::limits::Limits;
use crate::reaction::{Call, Reaction, attempt, tolerate};
use std::fmt;
use std::net::SocketAddr;

mod socket_file;

use socket_file::SocketFile;

/// Accepts in one turn, at most.
const MAX_QUOTA: u8 = 64;
/// Clients lost in a row from which on it is not the clients.
const MAX_LOST: u8 = 16;
/// Unsent bytes the kernel takes for a connection: a client that does not read
/// parks this much instead of megabytes.
const NOTSENT_LOWAT: u32 = 131_072;
/// Seconds of silence after which TCP asks whether the peer is still there.
const KEEPALIVE_IDLE: u32 = 120;

#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) address: Address,
    /// `None` once it is closed.
    pub(crate) socket: Option<Socket>,
    /// How many of its clients are connected, and may be.
    pub(crate) open: u32,
    pub(crate) most: u32,
    /// Each connection begins with the header of a front.
    pub(crate) is_behind_front: bool,
}

/// A socket that listens.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) fd: Fd,
    /// The mask that epoll has.
    pub(crate) registered: u8,
    /// The file of a Unix socket, until it is removed.
    file: SocketFile,
    pub(crate) intake: Intake,
    /// It was inherited.
    pub(crate) is_shared: bool,
}

/// How clients come in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Intake {
    /// How many in the last turn in which some waited.
    quota: u8,
    last_wake: u64,
    /// Clients in a row that were lost between connecting and accept4.
    lost: u8,
}

impl Listener {
    /// A listening socket, not yet in an epoll set. Options that could not be set
    /// and are not essential are named in `warnings`.
    pub(crate) fn open<K: Kernel>(
        kernel: &mut K,
        address: &Address,
        limits: &Limits,
        warnings: &mut Vec<String>,
    ) -> Result<Listener, Error> {
        let fd = needed(Call::Socket, address, || kernel.socket(address))?;
        let mut socket = Socket::new(fd, false);
        let opened = socket.listen(kernel, address, limits, warnings);
        Listener::of(socket, opened, kernel)
    }

    /// The same of a socket that listens already. `name` is what errors call it.
    pub(crate) fn adopt<K: Kernel>(
        kernel: &mut K,
        fd: Fd,
        name: &str,
        limits: &Limits,
        warnings: &mut Vec<String>,
    ) -> Result<Listener, Error> {
        let socket = Socket::new(fd, true);
        let opened = socket.take_over(kernel, name, limits, warnings);
        Listener::of(socket, opened, kernel)
    }

    fn of<K: Kernel>(
        socket: Socket,
        opened: Result<Address, Error>,
        kernel: &mut K,
    ) -> Result<Listener, Error> {
        match opened {
            Ok(address) => {
                let (is_behind_front, open, most) = (false, 0, u32::MAX);
                Ok(Listener { address, socket: Some(socket), is_behind_front, open, most })
            }
            Err(error) => {
                socket.close(kernel);
                Err(error)
            }
        }
    }

    /// Which file its socket has, if it has one.
    pub(crate) fn file(&self) -> Option<(u64, u64)> {
        self.socket.as_ref()?.file.identity()
    }

    /// Where it listens, if that is TCP.
    pub(crate) fn tcp(&self) -> Option<SocketAddr> {
        if let Address::Tcp(address) = self.address { Some(address) } else { None }
    }

    /// How clients come in, unless it is closed.
    pub(crate) fn intake(&mut self) -> Option<&mut Intake> {
        self.socket.as_mut().map(|socket| &mut socket.intake)
    }

    /// Sends new clients on to the next listener, if there is one, where the port is shared by
    /// `sharing` servers of this process. Not for a socket that others have too.
    pub(crate) fn steer_new<K: Kernel>(&self, kernel: &mut K, sharing: u32) -> Result<(), Error> {
        match (&self.socket, &self.address) {
            (Some(Socket { is_shared: false, .. }), Address::Tcp(_)) if sharing > 0 => {
                self.set_at_stop(kernel, Call::SteerNew, SocketOption::SteerTo(sharing))
            }
            _ => Ok(()),
        }
    }

    /// Lets no client begin to connect any more; what has begun can still be accepted. Not for a
    /// socket that others have too.
    pub(crate) fn refuse_new<K: Kernel>(&mut self, kernel: &mut K) -> Result<(), Error> {
        match (&mut self.socket, &self.address) {
            (Some(socket), Address::Unix(_)) => socket.file.remove(kernel),
            (Some(_), Address::Tcp(_)) => {
                return self.set_at_stop(kernel, Call::RefuseNew, SocketOption::NoDevice);
            }
            (None, _) => {}
        }
        Ok(())
    }

    fn set_at_stop<K: Kernel>(
        &self,
        kernel: &mut K,
        call: Call,
        option: SocketOption,
    ) -> Result<(), Error> {
        let Some(socket) = &self.socket else { return Ok(()) };
        let done = attempt(call, || kernel.setsockopt(&socket.fd, option));
        done.map_err(|(_, errno)| Error::new(call, &self.address, errno))
    }

    /// Closes the listener; clients that still wait in its queue are reset.
    pub(crate) fn close<K: Kernel>(&mut self, kernel: &mut K) {
        if let Some(socket) = self.socket.take() {
            socket.close(kernel);
        }
    }
}

impl Socket {
    fn new(fd: Fd, is_shared: bool) -> Socket {
        let (file, intake) = (SocketFile::NONE, Intake::default());
        Socket { fd, registered: UNWATCHED, file, intake, is_shared }
    }

    /// Prepares a socket that another process opened, without changing its address or its queue.
    /// Returns the address. A filter with which a predecessor kept new clients away is removed,
    /// because it would keep ours away too.
    fn take_over<K: Kernel>(
        &self,
        kernel: &mut K,
        name: &str,
        limits: &Limits,
        warnings: &mut Vec<String>,
    ) -> Result<Address, Error> {
        let fd = &self.fd;
        if !needed(Call::CheckListener, name, || kernel.getsockopt_listens(fd))? {
            return Err(Error::new(Call::CheckListener, name, Errno::EINVAL)); // as accept4 says
        }
        needed(Call::Inherit, name, || kernel.fcntl_nonblock(fd))?;
        let address = needed(Call::LocalAddress, name, || kernel.getsockname(fd))?;
        set_if_possible(kernel, fd, Call::Detach, SocketOption::DetachFilter, name, warnings);
        match address {
            Address::Tcp(_) => set_tunables(kernel, fd, &address, limits, warnings)?,
            Address::Unix(_) => refuse_descriptors(kernel, fd, &address, warnings),
        }
        if limits.backlog != Limits::default().backlog {
            needed(Call::Listen, name, || kernel.listen(fd, limits.backlog))?;
        }
        Ok(address)
    }

    /// Gives it its options and its address, and opens it; the address it has then.
    fn listen<K: Kernel>(
        &mut self,
        kernel: &mut K,
        address: &Address,
        limits: &Limits,
        warnings: &mut Vec<String>,
    ) -> Result<Address, Error> {
        match address {
            Address::Tcp(_) => {
                set_options(kernel, &self.fd, address, limits, warnings)?;
                needed(Call::BindTcp, address, || kernel.bind(&self.fd, address))?;
            }
            Address::Unix(path) => {
                refuse_descriptors(kernel, &self.fd, address, warnings);
                self.file.open(kernel, &self.fd, path, limits, warnings)?;
                return needed(Call::LocalAddress, address, || kernel.getsockname(&self.fd));
            }
        }
        needed(Call::Listen, address, || kernel.listen(&self.fd, limits.backlog))?;
        if limits.reuse_port > 0 {
            // A predecessor has sent new clients on to us, and may have left that so.
            let (call, option) = (Call::Detach, SocketOption::StopSteering);
            set_if_possible(kernel, &self.fd, call, option, address, warnings);
        }
        needed(Call::LocalAddress, address, || kernel.getsockname(&self.fd))
    }

    fn close<K: Kernel>(mut self, kernel: &mut K) {
        self.file.remove(kernel);
        tolerate(Call::Close, kernel.close(self.fd));
    }
}

impl Intake {
    /// How many clients to accept this turn: one, and twice as many in each successive
    /// turn that finds clients waiting. A lone client then costs no accept4 that returns
    /// EAGAIN, and a crowd is accepted fast.
    pub(crate) fn quota(&mut self, turn: u64) -> u8 {
        let successive = turn == self.last_wake + 1;
        let next = if successive { self.quota.saturating_mul(2).clamp(1, MAX_QUOTA) } else { 1 };
        (self.quota, self.last_wake) = (next, turn);
        next
    }

    /// A client was accepted.
    pub(crate) fn accepted(&mut self) {
        self.lost = 0;
    }

    /// Counts a client that was lost in accept4. Returns whether so many were lost in a row that
    /// the clients cannot be the cause.
    pub(crate) fn lost_again(&mut self) -> bool {
        self.lost = self.lost.saturating_add(1);
        self.lost >= MAX_LOST
    }
}

/// The options of a TCP connection that it can also do without.
pub(crate) fn tunables(limits: &Limits) -> impl Iterator<Item = SocketOption> + use<> {
    // The kernel's own guard against a peer that acknowledges nothing: twice the
    // write timeout, so that ours, which knows the reason, comes first. It holds 24 days.
    let unacknowledged = limits.write_timeout.and_then(|timeout| {
        let millis = i32::try_from(timeout.saturating_mul(2).as_millis()).ok()?;
        Some(SocketOption::UserTimeout(millis.max(1) as u32))
    });
    let tunables = [
        SocketOption::NoDelay,
        SocketOption::KeepAlive,
        SocketOption::KeepIdle(KEEPALIVE_IDLE),
        SocketOption::NotSentLowat(NOTSENT_LOWAT),
        SocketOption::UrgentInline,
    ];
    tunables.into_iter().chain(unacknowledged)
}

/// Sets the options of a TCP listener, most of them for the connections that inherit them.
fn set_options<K: Kernel>(
    kernel: &mut K,
    fd: &Fd,
    address: &Address,
    limits: &Limits,
    warnings: &mut Vec<String>,
) -> Result<(), Error> {
    let v6 = matches!(address, Address::Tcp(address) if address.is_ipv6());
    let v6 = v6.then_some(SocketOption::V6Only);
    let shares = (limits.reuse_port > 0).then_some(SocketOption::ReusePort);
    for option in [Some(SocketOption::ReuseAddr), shares, v6].into_iter().flatten() {
        needed(Call::SetOption, address, || kernel.setsockopt(fd, option))?;
    }
    set_tunables(kernel, fd, address, limits, warnings)
}

/// The kernel would close what is passed within recv, and perhaps sleep there.
fn refuse_descriptors<K: Kernel>(
    kernel: &mut K,
    fd: &Fd,
    address: &Address,
    warnings: &mut Vec<String>,
) {
    let object = format!("{address} SO_PASSRIGHTS");
    let (call, option) = (Call::RefuseDescriptors, SocketOption::RefuseDescriptors);
    set_if_possible(kernel, fd, call, option, object, warnings);
}

/// Sets an option that may be unknown, or have nothing to do.
fn set_if_possible<K: Kernel>(
    kernel: &mut K,
    fd: &Fd,
    call: Call,
    option: SocketOption,
    object: impl fmt::Display,
    warnings: &mut Vec<String>,
) {
    if let Err((Reaction::Degrade, errno)) = attempt(call, || kernel.setsockopt(fd, option)) {
        let error = Error::new(call, object, errno);
        warnings.push(format!("{error}; going on without"));
    }
}

/// Sets the options that connections inherit.
fn set_tunables<K: Kernel>(
    kernel: &mut K,
    fd: &Fd,
    address: &Address,
    limits: &Limits,
    warnings: &mut Vec<String>,
) -> Result<(), Error> {
    for option in tunables(limits) {
        let object = format!("{address} {option:?}");
        let set = || kernel.setsockopt(fd, option);
        wanted(Call::SetTunable, object, "going on without", warnings, set)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_is_let_in_ever_faster() {
        let mut intake = Intake::default();
        let quotas = [5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16].map(|turn| intake.quota(turn));
        assert_eq!(quotas, [1, 2, 4, 1, 2, 4, 8, 16, 32, 64, 64]);
    }

    #[test]
    fn sixteen_lost_in_a_row_are_a_reason_to_pause() {
        let mut intake = Intake::default();
        let lost = [(); 16].map(|()| intake.lost_again());
        assert_eq!(lost.iter().position(|&enough| enough), Some(15));
        intake.accepted();
        assert!(!intake.lost_again());
    }
}
