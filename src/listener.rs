//! Listening sockets: opening one, accepting, and closing it without losing who waits.
//!
//! A listener that cannot let anybody in, because the server is full or the
//! kernel out of descriptors, is not read: clients wait in its queue and nothing
//! spins. Its interest, like a connection's, follows from its state and is told
//! to epoll only when the two differ.
//!
//! A listener has a socket until it is closed; the socket lets clients in, or pauses.
//!
//! Invariants:
//! 1. Every option that connections inherit is set here, once, so accepting needs
//!    no further call.
//! 2. The file of a Unix socket is its own ([`socket_file`]).
//! 3. A socket that was inherited belongs to others too. It is given no filter, its file stays,
//!    and the clients in its queue are left to whoever has it next.

use crate::connection::UNWATCHED;
use crate::error::{Error, needed, wanted};
use crate::kernel::{self, Address, Errno, Fd, Kernel, SocketOption};
use crate::limits::Limits;
use crate::reaction::{Call, Reaction, attempt, tolerate};
use crate::time::{Moment, Span};
use std::fmt;

mod socket_file;

use socket_file::SocketFile;

/// Accepts in one turn, at most.
const MAX_QUOTA: u8 = 64;
/// The first and the longest pause after a failed accept, in milliseconds.
const PAUSE: (u64, u64) = (10, 1_000);
/// Clients lost in a row from which on it is not the clients.
const MAX_LOST: u8 = 16;
/// At the limit clients come and go, and each coming may begin a new pause: one line in so
/// long says it all.
const NEWS: Span = Span::millis(60_000);
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
    /// When it was last logged that clients wait.
    warned_at: Option<Moment>,
}

/// A socket that listens.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) fd: Fd,
    /// What epoll was told to watch for.
    pub(crate) registered: u8,
    /// The file of a Unix socket, until it is removed.
    file: SocketFile,
    pub(crate) intake: Intake,
    /// It was inherited.
    pub(crate) is_shared: bool,
}

/// Whether clients are let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Intake {
    /// They are.
    Open {
        /// How many in the last turn in which some waited.
        quota: u8,
        last_wake: u64,
        /// Clients in a row that were lost between connecting and accept4.
        lost: u8,
        /// Milliseconds of the last pause, if nobody has been let in since.
        paused: u64,
    },
    /// Accepting failed for want of something: not before then again.
    Paused {
        until: Moment,
        /// Milliseconds.
        pause: u64,
    },
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
                let (socket, warned_at) = (Some(socket), None);
                let (is_behind_front, open, most) = (false, 0, u32::MAX);
                Ok(Listener { address, socket, is_behind_front, open, most, warned_at })
            }
            Err(error) => {
                socket.close(kernel);
                Err(error)
            }
        }
    }

    /// Whether to log that clients wait.
    pub(crate) fn is_news(&mut self, now: Moment) -> bool {
        let news = self.warned_at.is_none_or(|told| now.since(told) >= NEWS);
        if news {
            self.warned_at = Some(now);
        }
        news
    }

    /// How it lets clients in, unless it is closed.
    pub(crate) fn intake(&mut self) -> Option<&mut Intake> {
        self.socket.as_mut().map(|socket| &mut socket.intake)
    }

    /// When its pause is over, if it pauses.
    pub(crate) fn paused_until(&self) -> Option<Moment> {
        match self.socket.as_ref()?.intake {
            Intake::Paused { until, .. } => Some(until),
            Intake::Open { .. } => None,
        }
    }

    /// Lets no client begin to connect any more; what has begun can still be accepted. Where the
    /// port is shared by `sharing` servers of this process, new clients are sent on to the next
    /// listener, if there is one. Not for a socket that others have too.
    pub(crate) fn refuse_new<K: Kernel>(
        &mut self,
        kernel: &mut K,
        sharing: u32,
    ) -> Result<(), Error> {
        let Some(socket) = &mut self.socket else { return Ok(()) };
        if let Address::Unix(_) = self.address {
            socket.file.remove(kernel);
            return Ok(());
        }
        let steer = (Call::SteerNew, SocketOption::SteerTo(sharing));
        let refuse = (Call::RefuseNew, SocketOption::DropSyn);
        for (call, option) in (sharing > 0).then_some(steer).into_iter().chain([refuse]) {
            let refused = attempt(call, || kernel.setsockopt(&socket.fd, option));
            refused.map_err(|(_, errno)| Error::new(call, &self.address, errno))?;
        }
        Ok(())
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
        let (file, intake) = (SocketFile::NONE, Intake::new());
        Socket { fd, registered: UNWATCHED, file, intake, is_shared }
    }

    /// Makes it fit for the loop, whoever opened it, and leaves its address and its queue as they
    /// are; the address. What a predecessor has attached to it, so that nobody comes to it any
    /// more, would keep our clients away too.
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

    /// What epoll should watch for.
    pub(crate) fn interest(&self, is_full: bool) -> u8 {
        let lets_in = !is_full && matches!(self.intake, Intake::Open { .. });
        if lets_in { kernel::IN as u8 } else { 0 }
    }

    fn close<K: Kernel>(mut self, kernel: &mut K) {
        self.file.remove(kernel);
        tolerate(Call::Close, kernel.close(self.fd));
    }
}

impl Intake {
    fn new() -> Intake {
        Intake::Open { quota: 0, last_wake: 0, lost: 0, paused: 0 }
    }

    /// How many clients to let in in this turn: one, and twice as many in each
    /// successive turn that finds clients waiting. So a lone client costs no
    /// accept4 that says EAGAIN, and a crowd is let in fast.
    pub(crate) fn quota(&mut self, turn: u64) -> u8 {
        let Intake::Open { quota, last_wake, .. } = self else { return 0 };
        let successive = turn == *last_wake + 1;
        *quota = if successive { quota.saturating_mul(2).clamp(1, MAX_QUOTA) } else { 1 };
        *last_wake = turn;
        *quota
    }

    /// Accepting failed: waits 10 ms, then twice as long each time until it works again.
    pub(crate) fn pause(&mut self, now: Moment) -> Moment {
        let (Intake::Open { paused: last, .. } | Intake::Paused { pause: last, .. }) = *self;
        let pause = (last * 2).clamp(PAUSE.0, PAUSE.1);
        let until = now.after(Span::millis(pause));
        *self = Intake::Paused { until, pause };
        until
    }

    /// Ends a pause, if there is one.
    pub(crate) fn resume(&mut self) {
        if let Intake::Paused { pause: paused, .. } = *self {
            *self = Intake::Open { quota: 0, last_wake: 0, lost: 0, paused };
        }
    }

    /// A client was let in.
    pub(crate) fn accepted(&mut self) {
        if let Intake::Open { lost, paused, .. } = self {
            (*lost, *paused) = (0, 0);
        }
    }

    /// One more client was lost in accept4. Whether there were so many in a row that
    /// it is not the clients.
    pub(crate) fn lost_again(&mut self) -> bool {
        let Intake::Open { lost, .. } = self else { return false };
        *lost = lost.saturating_add(1);
        *lost >= MAX_LOST
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
    fn one_line_a_minute_is_news() {
        let address = Address::Unix("/run/door".into());
        let (is_behind_front, open, most, warned_at) = (false, 0, 1, None);
        let mut listener =
            Listener { address, socket: None, is_behind_front, open, most, warned_at };
        let moments = [0, 1, 59_999, 60_000, 119_999, 120_001].map(Moment::from_millis);
        let told = moments.map(|at| listener.is_news(at));
        assert_eq!(told, [true, false, false, true, false, true]);
    }

    #[test]
    fn a_crowd_is_let_in_ever_faster() {
        let mut intake = Intake::new();
        let quotas = [5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16].map(|turn| intake.quota(turn));
        assert_eq!(quotas, [1, 2, 4, 1, 2, 4, 8, 16, 32, 64, 64]);
    }

    #[test]
    fn pauses_grow_until_somebody_is_let_in() {
        let mut intake = Intake::new();
        let now = Moment::from_millis(7);
        let pause = |intake: &mut Intake| intake.pause(now).since(now).as_millis();
        let pauses = [(); 9].map(|()| {
            intake.resume();
            pause(&mut intake)
        });
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 640, 1_000, 1_000]);
        assert_eq!(pause(&mut intake), 1_000); // though it pauses already
        intake.resume();
        intake.accepted();
        assert_eq!(pause(&mut intake), 10);
    }

    #[test]
    fn sixteen_lost_in_a_row_are_a_reason_to_pause() {
        let mut intake = Intake::new();
        let lost = [(); 16].map(|()| intake.lost_again());
        assert_eq!(lost.iter().position(|&enough| enough), Some(15));
        intake.accepted();
        assert!(!intake.lost_again());
        intake.pause(Moment::from_millis(7));
        assert!(!intake.lost_again() && intake.quota(1) == 0);
    }
}
