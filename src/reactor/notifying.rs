//! Reports to the service manager: the server is ready, it stops, the loop turns.
//!
//! READY is sent from the first turn, when the loop can serve, and WATCHDOG from a turn after an
//! alarm: a loop that hangs sends none. Without a manager nothing here does anything.

use super::Reactor;
use super::poll::MANAGER;
use crate::deadlines::Alarm;
use crate::handler::ConnectionHandler;
use crate::kernel::Kernel;
use crate::process::Process;
use crate::time::Span;

impl<H: ConnectionHandler, K: Kernel> Reactor<H, K> {
    /// If there is a manager, the first turn waits for nothing: it says that it is the first.
    pub(super) fn expect_manager(&mut self) {
        if self.process.as_ref().and_then(Process::manager).is_some() {
            self.woken.push((MANAGER, 0));
            self.is_idle = false;
        }
    }

    pub(super) fn tell_ready(&mut self) {
        self.tell_manager("READY=1");
        self.ring_watchdog();
    }

    /// That it stops, and what it does meanwhile.
    pub(super) fn tell_stopping(&mut self, status: &str) {
        self.tell_manager(&format!("STOPPING=1\nSTATUS={status}"));
    }

    /// From a turn of the loop, and so a handler that blocks keeps the manager from hearing it.
    pub(super) fn tell_alive(&mut self) {
        self.tell_manager("WATCHDOG=1");
        self.ring_watchdog();
    }

    fn ring_watchdog(&mut self) {
        let interval: Option<Span> =
            self.process.as_ref().and_then(Process::manager).and_then(|it| it.interval);
        if let Some(interval) = interval {
            self.timer.alarms.ring_by(Alarm::Watchdog, self.net.now.after(interval));
        }
    }

    fn tell_manager(&mut self, message: &str) {
        if let Some(manager) = self.process.as_ref().and_then(Process::manager) {
            manager.tell(&mut self.kernel, message);
        }
    }
}
