//! A door: opening it, letting clients in, closing it without losing those who wait.
//!
//! A listener that cannot let anybody in, because the server is full or the
//! kernel out of descriptors, is not read: clients wait in its queue and nothing
//! spins. Its interest, like a connection's, follows from its state and is told
//! to epoll only when the two differ.
//!
//! Invariants:
//! 1. Every option that connections inherit is set here, once, so accepting needs
//!    no further call.
//! 2. The file of a Unix socket is its own ([`socket_file`]).

use crate::error::Error;
use crate::kernel::{self, Address, Fd, Kernel, SocketOption};
use crate::limits::Limits;
use crate::reaction::{Call, Reaction, reaction};
use crate::time::{Span, Tick};

mod socket_file;

use socket_file::SocketFile;

/// Accepts in one turn, at most.
const MAX_QUOTA: u8 = 64;
/// The first and the longest pause after a failed accept, in milliseconds.
const PAUSE: (u32, u32) = (10, 1_000);
/// Unsent bytes the kernel takes for a connection: a client that does not read
/// parks this much instead of megabytes.
const NOTSENT_LOWAT: u32 = 131_072;
/// Seconds of silence after which TCP asks whether the peer is still there.
const KEEPALIVE_IDLE: u32 = 120;

#[derive(Debug)]
pub(crate) struct Listener {
    /// `None` once it is closed.
    pub(crate) fd: Option<Fd>,
    pub(crate) address: Address,
    /// That of a Unix socket.
    file: SocketFile,
    /// What epoll was told to watch for.
    pub(crate) registered: u8,
    /// Accepting failed for want of something: not before then again.
    pub(crate) paused_until: Option<Tick>,
    pause_millis: u32,
    /// When the log was last told, in milliseconds of the monotonic clock.
    warned_at: Option<u64>,
    quota: u8,
    last_wake: u64,
    /// Clients in a row that were lost between connecting and accept4.
    failures: u8,
}

impl Listener {
    /// One that has no socket yet.
    fn new(address: &Address) -> Listener {
        Listener {
            fd: None,
            address: address.clone(),
            file: SocketFile::NONE,
            registered: kernel::IN as u8,
            paused_until: None,
            pause_millis: 0,
            warned_at: None,
            quota: 0,
            last_wake: 0,
            failures: 0,
        }
    }

    /// A listening socket, not yet in an epoll set. Options that could not be set
    /// and are not essential are named in `warnings`.
    pub(crate) fn open<K: Kernel>(
        kernel: &mut K,
        address: &Address,
        limits: &Limits,
        warnings: &mut Vec<String>,
    ) -> Result<Listener, Error> {
        let failed = |call| move |errno| Error::new(call, address, errno);
        let fd = kernel.socket(address).map_err(failed(Call::Socket))?;
        let mut listener = Listener::new(address);
        let opened = match address {
            Address::Tcp(_) => set_options(kernel, &fd, address, limits, warnings)
                .and_then(|()| kernel.bind(&fd, address).map_err(failed(Call::BindTcp)))
                .and_then(|()| kernel.listen(&fd, limits.backlog).map_err(failed(Call::Listen))),
            Address::Unix(path) => {
                refuse_descriptors(kernel, &fd, address, warnings);
                let how = (limits.unix_mode, limits.backlog);
                listener.file.open(kernel, &fd, path, how, warnings)
            }
        };
        let opened =
            opened.and_then(|()| kernel.getsockname(&fd).map_err(failed(Call::LocalAddress)));
        listener.fd = Some(fd);
        match opened {
            Ok(bound) => listener.address = bound,
            Err(error) => {
                listener.close(kernel);
                return Err(error);
            }
        }
        Ok(listener)
    }

    /// What epoll should watch for.
    pub(crate) fn interest(&self, is_full: bool) -> u8 {
        if is_full || self.paused_until.is_some() { 0 } else { kernel::IN as u8 }
    }

    /// How many clients to let in in this turn: one, and twice as many in each
    /// successive turn that finds clients waiting. So a lone client costs no
    /// accept4 that says EAGAIN, and a crowd is let in fast.
    pub(crate) fn quota(&mut self, turn: u64) -> u8 {
        let successive = turn == self.last_wake + 1;
        self.quota = if successive { self.quota.saturating_mul(2).clamp(1, MAX_QUOTA) } else { 1 };
        self.last_wake = turn;
        self.quota
    }

    /// Accepting failed: waits 10 ms, then twice as long each time until it works again.
    pub(crate) fn pause(&mut self, now: Tick) -> Tick {
        self.pause_millis = (self.pause_millis * 2).clamp(PAUSE.0, PAUSE.1);
        let until = now.after(Span::millis(self.pause_millis));
        self.paused_until = Some(until);
        until
    }

    /// Whether to tell the log: at the limit clients come and go, and each coming may
    /// begin a new pause, but one line a minute says it all.
    pub(crate) fn is_news(&mut self, now_millis: u64) -> bool {
        let news = self.warned_at.is_none_or(|told| now_millis - told >= 60_000);
        if news {
            self.warned_at = Some(now_millis);
        }
        news
    }

    pub(crate) fn accepted(&mut self) {
        (self.pause_millis, self.failures) = (0, 0);
    }

    /// One more client was lost in accept4. Whether there were so many in a row that
    /// it is not the clients.
    pub(crate) fn failed_again(&mut self) -> bool {
        self.failures = self.failures.saturating_add(1);
        self.failures >= 16
    }

    /// Lets no client begin to connect any more; what has begun can still be accepted.
    pub(crate) fn refuse_new<K: Kernel>(&mut self, kernel: &mut K) -> Result<(), Error> {
        if let (Address::Tcp(_), Some(fd)) = (&self.address, &self.fd) {
            let refused = kernel.setsockopt(fd, SocketOption::DropSyn);
            return refused.map_err(|errno| Error::new(Call::RefuseNew, &self.address, errno));
        }
        self.remove_file(kernel);
        Ok(())
    }

    /// Closes the listener; whoever still waits in its queue is reset.
    pub(crate) fn close<K: Kernel>(&mut self, kernel: &mut K) {
        self.remove_file(kernel);
        if let Some(fd) = self.fd.take() {
            let _ = kernel.close(fd);
        }
    }

    fn remove_file<K: Kernel>(&mut self, kernel: &mut K) {
        if let Address::Unix(path) = &self.address {
            self.file.remove(kernel, path);
        }
    }
}

/// The options of a TCP connection that it can also do without.
pub(crate) fn tunables(limits: &Limits) -> impl Iterator<Item = SocketOption> + use<> {
    // The kernel's own guard against a peer that acknowledges nothing: twice the
    // write timeout, so that ours, which knows the reason, comes first.
    let unacknowledged = limits.write_timeout.map(|timeout| {
        SocketOption::UserTimeout(timeout.saturating_mul(2).as_millis().clamp(1, 1 << 30) as u32)
    });
    let tunables = [
        SocketOption::NoDelay,
        SocketOption::KeepAlive,
        SocketOption::KeepIdle(KEEPALIVE_IDLE),
        SocketOption::NotSentLowat(NOTSENT_LOWAT),
    ];
    tunables.into_iter().chain(unacknowledged)
}

/// Lets nobody pass a descriptor to a Unix socket, or to those that it will accept. The kernel
/// would close it within recv, and with the wrong kind of descriptor sleep there.
pub(crate) fn refuse_descriptors<K: Kernel>(
    kernel: &mut K,
    fd: &Fd,
    address: &Address,
    warnings: &mut Vec<String>,
) {
    if let Err(errno) = kernel.setsockopt(fd, SocketOption::RefuseDescriptors)
        && reaction(Call::RefuseDescriptors, errno) == Reaction::Degrade
    {
        let error = Error::new(Call::RefuseDescriptors, format!("{address} SO_PASSRIGHTS"), errno);
        warnings.push(format!("{error}; going on without"));
    }
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
    for option in [Some(SocketOption::ReuseAddr), v6.then_some(SocketOption::V6Only)] {
        let Some(option) = option else { continue };
        let set = kernel.setsockopt(fd, option);
        set.map_err(|errno| Error::new(Call::SetOption, address, errno))?;
    }
    for option in tunables(limits) {
        if let Err(errno) = kernel.setsockopt(fd, option) {
            let error = Error::new(Call::SetTunable, format!("{address} {option:?}"), errno);
            warnings.push(format!("{error}; going on without"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener() -> Listener {
        Listener::new(&Address::Unix("/run/door".into()))
    }

    #[test]
    fn one_line_a_minute_is_news() {
        let mut listener = listener();
        let told = [0, 1, 59_999, 60_000, 119_999, 120_001].map(|at| listener.is_news(at));
        assert_eq!(told, [true, false, false, true, false, true]);
    }

    #[test]
    fn a_crowd_is_let_in_ever_faster() {
        let mut listener = listener();
        let quotas = [5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16].map(|turn| listener.quota(turn));
        assert_eq!(quotas, [1, 2, 4, 1, 2, 4, 8, 16, 32, 64, 64]);
    }

    #[test]
    fn pauses_grow_until_somebody_is_let_in() {
        let mut listener = listener();
        let now = Tick::default();
        let pauses = [(); 9].map(|()| listener.pause(now).since(now));
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 640, 1_000, 1_000]);
        listener.accepted();
        assert_eq!(listener.pause(now).since(now), 10);
    }
}
