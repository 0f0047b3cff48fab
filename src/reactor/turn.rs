//! Turns that are broken off: what is asked of the others then, and where the next one goes on.
//!
//! A share of work is spent most often because a few callbacks have written to thousands. The
//! rest of the batch is kept, in order, and served in the next turns before epoll is asked
//! again. So that nobody has to wait for the end of the batch, each turn that is broken off asks
//! the core descriptors themselves: each of their calls returns at once if there is nothing.

use super::poll::{EVENTFD, LISTENERS, SIGNALFD, TIMERFD};
use super::{BATCH, Reactor};
use crate::error::Error;
use crate::handler::ConnectionHandler;
use crate::kernel::{self, Event, Kernel, Wait};

/// Sends without a look at signals.
const SENDS: usize = 1_024;

/// What is left of a batch.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rest {
    /// Events that have not been served.
    pub(super) left: usize,
    /// Whether the batch was full, so that there may be more.
    pub(super) was_full: bool,
}

impl Rest {
    /// The end of a turn: of a batch that is served to its end nothing is kept. Returns whether
    /// the next events are to come from epoll.
    pub(super) fn end_turn(&mut self) -> bool {
        self.was_full &= self.left > 0;
        self.left == 0
    }
}

impl<H: ConnectionHandler, K: Kernel> Reactor<H, K> {
    /// Sends what is staged if it is due; whether it is the others' turn.
    #[inline]
    pub(super) fn flush_if_due(&mut self) -> bool {
        self.net.is_due() && self.flush_now()
    }

    #[cold]
    fn flush_now(&mut self) -> bool {
        self.flush();
        self.net.is_spent()
    }

    /// Sends what is staged.
    #[inline]
    pub(super) fn flush(&mut self) {
        match self.net.staged() {
            0 => {}
            1..=SENDS => self.net.flush(&mut self.kernel),
            staged => self.flush_many(staged),
        }
    }

    /// A second signal is not to wait for thousands of sends. It breaks all connections, and
    /// then there is nothing left to send.
    #[cold]
    fn flush_many(&mut self, staged: usize) {
        for from in (0..staged).step_by(SENDS) {
            self.net.send_chains(&mut self.kernel, from..staged.min(from + SENDS));
            self.take_signals();
        }
        self.net.sent_all();
    }

    /// Keeps the last `left` of `ready` events for the next turn, and wakes the others.
    #[cold]
    pub(super) fn break_off(&mut self, ready: usize, left: usize, events: &mut [Event]) {
        events.copy_within(ready - left..ready, 0);
        let was_full = self.rest.was_full || ready == BATCH;
        self.rest = Rest { left, was_full };
        self.ask_the_others();
    }

    /// Wakes each core descriptor that would wake the loop, or may.
    fn ask_the_others(&mut self) {
        let is_watched = |index: &usize| {
            let socket = self.listeners.get(*index).and_then(|listener| listener.socket.as_ref());
            socket.is_some_and(|socket| socket.registered == kernel::IN as u8)
        };
        let listeners = (0..self.listeners.len()).filter(is_watched);
        let listeners = listeners.map(|index| LISTENERS + index as u32);
        let timer = self.timer.has_expired(self.net.now).then_some(TIMERFD);
        let asked = [SIGNALFD, EVENTFD].into_iter().chain(timer).chain(listeners);
        for core in asked {
            if !self.woken.iter().any(|&(woken, _)| woken == core) {
                self.woken.push((core, kernel::IN));
            }
        }
    }

    /// The events of a turn that has something to do without them: the rest of the batch, or
    /// what is ready.
    #[cold]
    pub(super) fn next_events(&mut self) -> Result<usize, Error> {
        match std::mem::take(&mut self.rest.left) {
            0 => self.poll.wait(&mut self.kernel, &mut self.events, Wait::No),
            left => Ok(left),
        }
    }
}
