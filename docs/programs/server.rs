//! The server that trace.rs and tour.rs run: it does not outlive them, however they end.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::process::Child;

/// A child that is stopped, now, and waited for unless that has been done.
pub(crate) struct Server(pub(crate) Child);

impl Server {
    pub(crate) fn signal(&self, signal: Signal) -> nix::Result<()> {
        kill(Pid::from_raw(self.0.id() as i32), signal)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            // The second signal ends it without a lingering close; of two alike one might be lost.
            let _ = self.signal(Signal::SIGTERM).and_then(|()| self.signal(Signal::SIGINT));
            let _ = self.0.wait();
        }
    }
}
