//! Status reports to the service manager that started this process. sd_notify(3)
//!
//! It receives lines of text on a datagram socket: that the server is ready, that it stops, and,
//! if it asked for that, that the loop still turns. A manager that no longer gets the latter
//! considers the server stuck, which it is if a handler blocks, and ends it.
//!
//! Invariant: whether the manager reads, or is gone, makes no difference to the server.

use crate::error::{Error, wanted};
use crate::kernel::{Address, Fd, Kernel};
use crate::reaction::{Call, reaction, tolerate};
use crate::time::Span;
use std::env::{var, var_os};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::time::Duration;

/// Where a service manager listens, and how often it wants to hear that the server is alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceManager {
    address: Address,
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// One that listens at `address`, a Unix datagram socket, and that takes a server for stuck
    /// of which it hears nothing for as long as `watchdog`.
    #[must_use]
    pub fn new(address: Address, watchdog: Option<Duration>) -> ServiceManager {
        ServiceManager { address, watchdog }
    }

    /// The one that the environment names: NOTIFY_SOCKET, and WATCHDOG_USEC if it is meant for
    /// this process (WATCHDOG_PID).
    pub fn from_env() -> Option<ServiceManager> {
        let address = address(&var_os("NOTIFY_SOCKET")?)?;
        let is_ours = var("WATCHDOG_PID").map_or(true, |it| it == std::process::id().to_string());
        let micros = var("WATCHDOG_USEC").ok().and_then(|micros| micros.parse().ok());
        let micros = micros.filter(|&micros| is_ours && micros > 0);
        Some(ServiceManager { address, watchdog: micros.map(Duration::from_micros) })
    }
}

/// A path, or an `@` and a name that is no path.
fn address(word: &OsStr) -> Option<Address> {
    let path = match word.as_bytes() {
        [b'/', ..] => word.to_owned(),
        [b'@', name @ ..] => OsString::from_vec([b"\0", name].concat()),
        _ => return None,
    };
    Some(Address::Unix(path.into()))
}

/// A socket that leads to the service manager.
#[derive(Debug)]
pub(crate) struct Manager {
    fd: Fd,
    /// How often it hears that the loop turns.
    pub(crate) interval: Option<Span>,
}

impl Manager {
    /// Without it the server does as well, and the manager learns nothing.
    pub(crate) fn connect<K: Kernel>(
        kernel: &mut K,
        manager: &ServiceManager,
        warnings: &mut Vec<String>,
    ) -> Result<Option<Manager>, Error> {
        const WITHOUT: &str = "the service manager is not told";
        let shown = manager.address.to_string();
        let object = shown.trim_start_matches("unix:");
        let socket = || kernel.socket_datagram();
        let Some(fd) = wanted(Call::NotifySocket, object, WITHOUT, warnings, socket)? else {
            return Ok(None);
        };
        let connect = || kernel.connect(&fd, &manager.address);
        if wanted(Call::NotifyConnect, object, WITHOUT, warnings, connect)?.is_none() {
            tolerate(Call::Close, kernel.close(fd));
            return Ok(None);
        }
        // Half of what it asks for, as its manual has it: one that is late is still in time.
        let interval = manager.watchdog.map(|span| Span::at_least(span / 2));
        Ok(Some(Manager { fd, interval }))
    }

    pub(crate) fn tell<K: Kernel>(&self, kernel: &mut K, message: &str) {
        if let Err(errno) = kernel.send(&self.fd, message.as_bytes()) {
            reaction(Call::Notify, errno); // whatever it is, there is nothing to be done
        }
    }

    pub(crate) fn close<K: Kernel>(self, kernel: &mut K) {
        tolerate(Call::Close, kernel.close(self.fd));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_or_a_name_that_is_none() {
        let shown = |word: &str| address(word.as_ref()).map(|address| address.to_string());
        assert_eq!(shown("/run/notify").as_deref(), Some("unix:/run/notify"));
        assert_eq!(shown("@/org/notify").as_deref(), Some("unix:@/org/notify"));
        assert_eq!((shown("vsock:2:1"), shown("")), (None, None));
    }
}
