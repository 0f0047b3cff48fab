//! The descriptors that are no connections: which of them woke the loop, and for what.

use super::Reactor;
use super::poll::{EVENTFD, LISTENERS, SIGNALFD, TIMERFD};
use crate::handler::ConnectionHandler;
use crate::kernel::Kernel;

impl<H: ConnectionHandler, K: Kernel> Reactor<H, K> {
    /// Serves the core descriptors that were ready, after the connections: those who
    /// are in come before those who want in, and bytes come before deadlines.
    pub(super) fn serve_core(&mut self, ready: usize) {
        let mut woken = std::mem::take(&mut self.woken);
        for (core, mask) in woken.drain(..) {
            match core {
                EVENTFD => self.run_jobs(),
                SIGNALFD => self.take_signals(),
                TIMERFD if self.timer.is_put_off(ready, self.net.table.len()) => {}
                TIMERFD => self.look_at_deadlines(),
                listener => self.serve_listener((listener - LISTENERS) as usize, mask),
            }
        }
        self.woken = woken;
    }

    /// Makes the calls that other threads have left.
    fn run_jobs(&mut self) {
        match self.mailbox.collect() {
            Ok((jobs, stop)) => {
                for job in jobs {
                    job(&mut self.handler, &mut self.net);
                    self.net.flush_if_due(&mut self.kernel);
                }
                if stop {
                    self.net.stop();
                }
            }
            Err(error) => {
                self.mailbox.close(); // or it would be ready for ever
                self.fail(error);
            }
        }
    }
}
