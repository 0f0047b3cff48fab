//! The descriptors that are no connections: which of them woke the loop, and for what.
//!
//! They are noted in `woken` as epoll reports them, and served after the connections of the turn,
//! in the order eventfd, signalfd, timerfd, listeners.
//!
//! Invariant: calls of other threads are taken from the mailbox only when those taken before are
//! all made, so the queue stays bounded.

use super::Reactor;
use super::poll::{EVENTFD, LISTENERS, MANAGER, SIGNALFD, TIMERFD};
use crate::handler::ConnectionHandler;
use crate::kernel::{Clock, Kernel};
use crate::mailbox::{Grace, Job};
use crate::net::{ConnId, Done};

/// Calls from other threads that are made in one turn, and how long that may take. The rest
/// comes in the next turns, which begin with a wait that costs next to nothing.
const JOBS: usize = 64;
const JOBS_NANOS: u64 = 50_000;

impl<H: ConnectionHandler, K: Kernel> Reactor<H, K> {
    /// Serves the core descriptors that were ready, after the connections: connected clients
    /// come before new ones, and bytes come before deadlines.
    pub(super) fn serve_core(&mut self, ready: usize) {
        let mut woken = std::mem::take(&mut self.woken);
        if let [(core @ LISTENERS.., mask)] = woken[..]
            && core != MANAGER
        {
            self.net.begin_quantum();
            self.serve_listener(core, mask, 1);
        } else {
            self.serve_several(&mut woken, ready);
        }
        woken.clear();
        self.woken = woken;
    }

    fn serve_several(&mut self, woken: &mut Vec<(u32, u32)>, ready: usize) {
        woken.sort_unstable(); // the listeners in their order; the last is the manager
        if woken.pop_if(|(core, _)| *core == MANAGER).is_some() {
            self.tell_ready();
        }
        for &(core, _) in woken.iter() {
            self.net.begin_quantum(); // the last one is for all listeners
            match core {
                EVENTFD => self.collect_jobs(),
                SIGNALFD => self.take_signals(),
                TIMERFD => self.expired(ready),
                _ => break,
            }
        }
        self.serve_listeners(woken);
    }

    /// Takes the calls that other threads have left, if the last ones are made.
    fn collect_jobs(&mut self) {
        match self.mailbox.collect(&mut self.jobs) {
            Ok(None) => {}
            Ok(Some(Grace::Usual)) => self.net.stop(),
            Ok(Some(Grace::Within(time))) => self.stop_within(time),
            Err(error) => {
                self.mailbox.close(); // or it would be ready in every wait
                self.fail(error);
            }
        }
    }

    /// Makes some of the calls that other threads have left.
    pub(super) fn run_jobs(&mut self) {
        if self.jobs.is_empty() {
            return;
        }
        self.net.begin_quantum();
        let end = self.kernel.clock_gettime(Clock::Monotonic).saturating_add(JOBS_NANOS);
        for _ in 0..JOBS {
            let Some(job) = self.jobs.pop_front() else { break };
            match job {
                Job::Call(call) => call(&mut self.handler, &mut self.net),
                Job::Done(done) => self.return_result(done),
            }
            if self.flush_if_due() || self.kernel.clock_gettime(Clock::Monotonic) >= end {
                break;
            }
        }
    }

    /// Gives what a worker has done to its connection, if that is still there, and resumes it.
    #[cold]
    fn return_result(&mut self, Done { id, result }: Done) {
        let Some(mut conn) = self.net.conn(ConnId(id)) else { return };
        match result {
            Ok(Some(result)) => {
                self.call(id.slot, |handler, conn, session| {
                    handler.on_result(conn, session, result);
                    conn.resume();
                });
            }
            Ok(None) => conn.out_of_memory(),
            Err(_) => conn.abort_behind(), // answers may stand before it
        }
    }
}
