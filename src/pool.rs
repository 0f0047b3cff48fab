//! Threads for work that blocks or takes long, while the loop goes on.
//!
//! ```text
//!  the loop's thread                                   one of the pool's
//!
//!  on_data: pool.run(conn, work, answer) ─▶ queue ──▶  work()
//!           the connection is paused                     │
//!           answer(handler, conn, result) ◀── Handle::call
//!           the connection is resumed
//! ```
//!
//! A connection has one job at a time, because it is paused meanwhile. Its answers therefore
//! come in the order of its requests, and a client that asks faster than it can be
//! answered is held back by TCP. Neither needs a line of code.
//!
//! Invariants:
//! 1. No more than `capacity` jobs wait. (Their clients may have left, and others come
//!    in their place, so the limit of connections alone does not bound them.)
//! 2. For each answer in `answers` a call is on its way that takes one, unless the
//!    server has ended.
//! 3. Once `closed`, there are no jobs and there will be none.

use crate::mailbox::CallError;
use crate::net::{Conn, Net};
use crate::server::Handle;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{fmt, io, mem};

/// How soon a worker tries again to deliver an answer when 65,536 calls wait already.
const AGAIN: Duration = Duration::from_millis(1);

/// Threads that work for the connections of a server whose handler is `H`. It is a part
/// of the handler:
///
/// ```no_run
/// # use threadbare::{Conn, ConnectionHandler, Server, WorkerPool};
/// struct Sleepy {
///     pool: WorkerPool<Sleepy>,
/// }
///
/// impl ConnectionHandler for Sleepy {
///     type Session = ();
///     fn on_data(&mut self, conn: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
///         let length = input.len();
///         let work = move || std::thread::sleep(std::time::Duration::from_secs(length as u64));
///         if !self.pool.run(conn, work, |_, conn, ()| conn.write(b"good morning\n")) {
///             conn.write(b"error: too busy\n");
///         }
///         length
///     }
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let handler = Sleepy { pool: WorkerPool::new(1_000) };
/// let mut server = Server::builder(handler).own_process(true).bind("127.0.0.1:1234")?;
/// server.handler().pool.start(4, server.handle())?;
/// server.run()?;
/// # Ok(())
/// # }
/// ```
///
/// Dropped, it drops the jobs that wait and joins its threads: it waits for the jobs that
/// run, since a thread cannot be interrupted.
pub struct WorkerPool<H> {
    shared: Arc<Shared<H>>,
    capacity: usize,
}

struct Shared<H> {
    state: Mutex<State<H>>,
    /// Jobs have come, or the pool was closed.
    changed: Condvar,
}

struct State<H> {
    jobs: VecDeque<Job<H>>,
    answers: VecDeque<Answer<H>>,
    threads: Vec<JoinHandle<()>>,
    /// Where the answers go of a pool without threads, which does each job at once.
    inline: Option<Handle<H>>,
    closed: bool,
}

type Job<H> = Box<dyn FnOnce() -> Answer<H> + Send>;
type Answer<H> = Box<dyn FnOnce(&mut H, &mut Net) + Send>;

impl<H: 'static> WorkerPool<H> {
    /// A pool without threads, in which up to `capacity` jobs can wait.
    pub fn new(capacity: usize) -> WorkerPool<H> {
        let (jobs, answers, threads) = Default::default();
        let state = Mutex::new(State { jobs, answers, threads, inline: None, closed: false });
        WorkerPool { shared: Arc::new(Shared { state, changed: Condvar::new() }), capacity }
    }

    /// Starts threads, at least one. To be done after [`bind`](crate::Builder::bind) if the
    /// server owns the process: they inherit which signals are blocked.
    ///
    /// # Errors
    ///
    /// Whatever kept a thread from being created; those before it work. clone(2)
    pub fn start(&self, threads: usize, handle: Handle<H>) -> io::Result<()> {
        for _ in 0..threads.max(1) {
            let (shared, handle) = (Arc::clone(&self.shared), handle.clone());
            let thread = thread::Builder::new().name("worker".into());
            let thread = thread.spawn(move || {
                while let Some(job) = shared.next_job() {
                    shared.deliver(job(), &handle);
                }
            })?;
            self.shared.lock().threads.push(thread);
        }
        Ok(())
    }

    /// Starts no threads: [`run`](WorkerPool::run) does each job itself, at once, which
    /// blocks the loop, and its answer comes in the same turn or the next. For tests of a handler
    /// in a simulated world, where work takes no time and each run is the same.
    pub fn start_inline(&self, handle: Handle<H>) {
        self.shared.lock().inline = Some(handle);
    }

    /// Pauses the connection, lets a thread do `work`, calls `answer` with the result on
    /// the loop's thread, and resumes the connection. If `work` panics, the connection
    /// ends with a reset, and nothing else does. If the client has left meanwhile, there
    /// is no call to `answer`; work that takes long can see it
    /// ([`Conn::presence`](Conn::presence)), and end.
    ///
    /// The idle deadline goes on: it should be longer than the longest work.
    ///
    /// `false` if too many jobs wait already: then nothing has happened.
    #[must_use = "if it is false the client waits for an answer that nobody gives"]
    pub fn run<T: Send + 'static>(
        &self,
        conn: &mut Conn<'_>,
        work: impl FnOnce() -> T + Send + 'static,
        answer: impl FnOnce(&mut H, &mut Conn<'_>, T) + Send + 'static,
    ) -> bool {
        let id = conn.id();
        let job = move || -> Answer<H> {
            let result = catch_unwind(AssertUnwindSafe(work));
            Box::new(move |handler, net| {
                let Some(mut conn) = net.conn(id) else { return };
                match result {
                    Ok(result) => {
                        answer(handler, &mut conn, result);
                        conn.resume();
                    }
                    Err(_) => conn.abort_behind(), // answers may stand before it
                }
            })
        };
        let mut state = self.shared.lock();
        if state.closed || state.jobs.len() >= self.capacity {
            return false;
        }
        conn.pause();
        match state.inline.clone() {
            None => {
                if state.threads.is_empty() && state.jobs.is_empty() {
                    log::error!("a job waits in a worker pool that has not been started");
                }
                state.jobs.push_back(Box::new(job));
                self.shared.changed.notify_one();
            }
            Some(handle) => {
                drop(state);
                self.shared.deliver(job(), &handle);
            }
        }
        true
    }
}

impl<H: 'static> Shared<H> {
    /// Waits for a job; `None` when there will be no more.
    fn next_job(&self) -> Option<Job<H>> {
        let nothing_new = |state: &mut State<H>| state.jobs.is_empty() && !state.closed;
        let state = self.changed.wait_while(self.lock(), nothing_new);
        state.unwrap_or_else(PoisonError::into_inner).jobs.pop_front()
    }

    /// Brings an answer to the loop's thread.
    fn deliver(self: &Arc<Self>, answer: Answer<H>, handle: &Handle<H>) {
        self.lock().answers.push_back(answer);
        loop {
            let shared = Arc::clone(self);
            let called = handle.call(move |handler, net| {
                let answer = shared.lock().answers.pop_front();
                if let Some(answer) = answer {
                    answer(handler, net);
                }
            });
            match called {
                Err(CallError::Full) => thread::sleep(AGAIN),
                Ok(()) | Err(CallError::Stopped | CallError::OwnThread) => return,
            }
        }
    }
}

impl<H> Shared<H> {
    /// Nothing that can panic is done under the lock.
    fn lock(&self) -> MutexGuard<'_, State<H>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<H> Drop for WorkerPool<H> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.closed = true;
        let (jobs, threads) = (mem::take(&mut state.jobs), mem::take(&mut state.threads));
        drop(state);
        drop(jobs); // outside of the lock: what a job owns may do anything when dropped
        self.shared.changed.notify_all();
        for thread in threads {
            let _ = thread.join(); // it catches the panics of its jobs, and has none of its own
        }
    }
}

impl<H> fmt::Debug for WorkerPool<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waiting = self.shared.lock().jobs.len();
        f.debug_struct("WorkerPool").field("waiting", &waiting).finish_non_exhaustive()
    }
}
