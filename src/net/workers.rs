//! Threads for work that blocks or takes long, while the loop goes on.
//!
//! ```text
//!  the loop's thread                                   one of the workers
//!
//!  on_data: conn.work(job): paused ─▶ queue ────────▶  job(its state, presence)
//!  on_result(conn, session, result) ◀── mailbox ◀──────┘
//!  the connection is resumed
//! ```
//!
//! A connection has one job at a time, because it is paused meanwhile. So its answers come in the
//! order of its requests, and a client that asks faster than it can be answered waits in its own
//! kernel: neither needs a line of code.
//!
//! The workers are started when the server begins to run: then no client can ask for a thread when
//! there is no memory for one, and none is lost by a fork before. In a simulated world there are no
//! threads: jobs are done one after the other between two turns, or later, as the test likes.
//!
//! Invariants:
//! 1. No more than `capacity` jobs wait. (Their clients may have left, and others come in their
//!    place, so the limit of connections alone does not bound them.)
//! 2. Each job that was taken gives one [`Done`], unless the server has ended.
//! 3. Once `closed`, there are no jobs and there will be none.

use super::{Conn, Net, Presence};
use crate::fallible::has_room_for;
use crate::slots::Id;
use std::alloc::Layout;
use std::any::{Any, TypeId};
use std::collections::VecDeque;
use std::fmt;
use std::mem::take;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

/// The result of a job, `None` if there was no memory for it; or that it panicked.
pub(crate) struct Done {
    pub(crate) id: Id,
    pub(crate) result: thread::Result<Option<Box<dyn Any + Send>>>,
}

/// What a worker has for itself, whatever type that is.
type State = Box<dyn Any + Send>;
type Work = Box<dyn FnOnce(&mut dyn Any, &Presence) -> Option<Box<dyn Any + Send>> + Send>;

/// A value of any type, if there is memory.
fn boxed(value: impl Any + Send) -> Option<Box<dyn Any + Send>> {
    let has_room = has_room_for(Layout::for_value(&value));
    has_room.then(|| -> Box<dyn Any + Send> { Box::new(value) })
}

struct Job {
    id: Id,
    presence: Presence,
    work: Work,
}

/// The threads that work for the connections of a server.
pub(crate) struct Workers {
    shared: Arc<Shared>,
    capacity: usize,
    state: TypeId,
    hands: Hands,
}

/// What does the jobs.
enum Hands {
    /// Threads, and how many are still to be started.
    Threads { unstarted: usize, started: Vec<JoinHandle<()>> },
    /// In a simulated world the loop's own thread, between two turns, unless it is held.
    Own { state: Option<State>, is_held: bool },
}

struct Shared {
    queue: Mutex<Queue>,
    /// Jobs have come, or there will be none.
    changed: Condvar,
    make: Box<dyn Fn() -> Option<State> + Send + Sync>,
    /// Takes what is done to the loop.
    deliver: Box<dyn Fn(Done) + Send + Sync>,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    closed: bool,
}

impl Workers {
    /// Each of the `threads` has a state that `make` makes, and `deliver`s what it has done. `None`,
    /// in a simulated world: [`do_waiting`](Workers::do_waiting) does the jobs.
    pub(crate) fn new<S: Send + 'static>(
        threads: Option<usize>,
        capacity: usize,
        make: impl Fn() -> S + Send + Sync + 'static,
        deliver: impl Fn(Done) + Send + Sync + 'static,
    ) -> Workers {
        let (make, deliver) = (Box::new(move || boxed(make())), Box::new(deliver));
        let (queue, changed) = Default::default();
        let shared = Arc::new(Shared { queue, changed, make, deliver });
        let hands = match threads {
            Some(unstarted) => Hands::Threads { unstarted, started: Vec::new() },
            None => Hands::Own { state: None, is_held: false },
        };
        Workers { shared, capacity, state: TypeId::of::<S>(), hands }
    }

    /// Starts the threads, once. clone(2)
    pub(crate) fn start(&mut self) {
        let Hands::Threads { unstarted, started } = &mut self.hands else { return };
        for _ in 0..take(unstarted) {
            let shared = Arc::clone(&self.shared);
            let thread = thread::Builder::new().name("worker".into());
            match thread.spawn(move || shared.work()) {
                Ok(thread) => started.push(thread),
                Err(error) => {
                    log::warn!("{} workers, and no more can be started: {error}", started.len());
                    return;
                }
            }
        }
    }

    /// Takes a job, if there is a worker, fewer than `capacity` wait, and there is memory for it.
    fn take(&self, job: Job) -> bool {
        if matches!(&self.hands, Hands::Threads { started, .. } if started.is_empty()) {
            return false;
        }
        let mut queue = self.shared.lock();
        if queue.jobs.len() >= self.capacity || queue.jobs.try_reserve(1).is_err() {
            return false;
        }
        queue.jobs.push_back(job);
        drop(queue);
        self.shared.changed.notify_one();
        true
    }

    /// Does the jobs that wait, in a simulated world.
    pub(crate) fn do_waiting(&mut self) {
        let Hands::Own { state, is_held: false } = &mut self.hands else { return };
        loop {
            let job = self.shared.lock().jobs.pop_front(); // the lock is not held meanwhile
            let Some(job) = job else { return };
            self.shared.make_done(job, state);
        }
    }

    /// Lets no job be done in a simulated world, or again.
    #[cfg(feature = "sim")]
    pub(crate) fn hold(&mut self, hold: bool) {
        if let Hands::Own { is_held, .. } = &mut self.hands {
            *is_held = hold;
        }
        self.do_waiting();
    }
}

impl Shared {
    /// The life of a worker.
    fn work(&self) {
        let mut state = None;
        while let Some(job) = self.next_job() {
            self.make_done(job, &mut state);
        }
    }

    /// Does a job. After a panic the worker's state is made anew, because it may be half changed.
    fn make_done(&self, job: Job, state: &mut Option<State>) {
        let Job { id, presence, work } = job;
        let result = catch_unwind(AssertUnwindSafe(|| {
            if state.is_none() {
                *state = (self.make)();
            }
            work(&mut **state.as_mut()?, &presence)
        }));
        if result.is_err() {
            *state = None;
        }
        (self.deliver)(Done { id, result });
    }

    /// Waits for a job; `None` when there will be no more.
    fn next_job(&self) -> Option<Job> {
        let queue = self.lock();
        let nothing_new = |queue: &mut Queue| queue.jobs.is_empty() && !queue.closed;
        let queue = self.changed.wait_while(queue, nothing_new);
        let mut queue = queue.unwrap_or_else(PoisonError::into_inner);
        queue.jobs.pop_front()
    }

    /// Nothing that can panic is done under the lock.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Drops the jobs that wait, and waits for those that run: a thread cannot be interrupted.
impl Drop for Workers {
    fn drop(&mut self) {
        let mut queue = self.shared.lock();
        queue.closed = true;
        let jobs = take(&mut queue.jobs);
        drop(queue);
        drop(jobs); // outside of the lock: what a job owns may do anything when dropped
        self.shared.changed.notify_all();
        if let Hands::Threads { started, .. } = &mut self.hands {
            for thread in started.drain(..) {
                let _ = thread.join(); // it catches the panics of its jobs, and has none of its own
            }
        }
    }
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let started =
            if let Hands::Threads { started, .. } = &self.hands { started.len() } else { 0 };
        write!(f, "{started} workers, {} jobs wait", self.shared.lock().jobs.len())
    }
}

impl Conn<'_> {
    /// Lets a [worker](crate::Builder::workers) do a job that blocks or takes long. The
    /// connection is paused until it is done; then [`on_result`] gets what the job returned, and
    /// the connection is resumed.
    ///
    /// So a connection has one job at a time, and its answers come in the order of its requests.
    /// A loop in `on_data` must end where it has given one:
    ///
    /// ```
    /// # use threadbare::{Conn, framing::{Frame, Lines}};
    /// fn on_data(conn: &mut Conn<'_>, lines: &mut Lines, input: &[u8]) -> usize {
    ///     let mut rest = input;
    ///     while !conn.is_full() && !conn.is_paused() {
    ///         let Frame::Whole { body, .. } = lines.next(&mut rest, 100) else { break };
    ///         let line = body.to_vec();
    ///         if !conn.work(move |_: &mut (), _| line.len()) {
    ///             conn.write(b"too busy\n");
    ///         }
    ///     }
    ///     input.len() - rest.len() // the other lines are offered after the answer
    /// }
    /// ```
    ///
    /// The job borrows the state of its worker, of the type that
    /// [`workers`](crate::Builder::workers) makes, and can [see](Presence) that the connection has
    /// ended. If it panics, the connection ends with a reset, and nothing else does. If the
    /// connection has ended meanwhile, the result is dropped.
    ///
    /// The idle deadline goes on: it should be longer than the longest job.
    ///
    /// `false` if too many jobs wait already, there is no memory for one more, no worker could be
    /// started, or the connection is not established yet or closed: then nothing has happened.
    /// Without workers, with a state of another type, or while the connection is paused, it is a
    /// bug of the handler, which is counted, and `false` as well. If there is no memory for what
    /// the job returned, the connection ends.
    ///
    /// [`on_result`]: crate::ConnectionHandler::on_result
    #[must_use = "if it returns false no result will come, and the client still waits for an answer"]
    pub fn work<S: 'static, T: Send + 'static>(
        &mut self,
        job: impl FnOnce(&mut S, &Presence) -> T + Send + 'static,
    ) -> bool {
        if self.net.table.look(self.slot).is_none_or(|it| it.state.input().is_none()) {
            return false; // no result would find it
        }
        if self.is_paused() {
            self.net.counters.bug("a job for a connection that is paused");
            return false;
        }
        let (id, presence) = (self.id().0, self.presence());
        let Some(presence) = presence else { return false };
        let Net { workers, counters, .. } = &mut *self.net;
        let Some(workers) = workers.as_ref().filter(|it| it.state == TypeId::of::<S>()) else {
            counters.bug("a job, and no workers that have such a state");
            return false;
        };
        let work = move |state: &mut dyn Any, presence: &Presence| {
            let state = state.downcast_mut()?; // it was looked at before
            boxed(job(state, presence))
        };
        let taken = has_room_for(Layout::for_value(&work))
            && workers.take(Job { id, presence, work: Box::new(work) });
        if taken {
            self.pause();
        }
        taken
    }
}
