//! Calls into the loop from other threads, and what workers have done: a queue, and an eventfd
//! that wakes the loop.
//!
//! The eventfd is written only when no wake-up is pending, so a thousand calls may cost one
//! wake-up. The queue and the eventfd are under one lock, so that no wake-up is lost.
//!
//! Invariants:
//! 1. A wake-up `is_pending` exactly while the eventfd's counter is not 0, or about to be read.
//! 2. Without a waker (the server has ended, or not begun) the queue is empty and takes
//!    nothing.

use crate::error::Error;
use crate::kernel::{Fd, Kernel};
use crate::net::{Done, Net};
use crate::reaction::{Call, Reaction, attempt, tolerate};
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Duration;

/// Calls that may wait; more are refused.
const CAPACITY: usize = 65_536;
/// How long a worker waits for memory for what it has done.
const RETRY: Duration = Duration::from_millis(10);

/// How much time a stop of the server may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grace {
    /// As much as the limits allow.
    Usual,
    /// This much.
    Within(Duration),
}

pub(crate) type Callback<H> = Box<dyn FnOnce(&mut H, &mut Net) + Send>;

/// What the loop is to do between its events.
pub(crate) enum Job<H> {
    /// A call of another thread.
    Call(Callback<H>),
    /// What a worker has done.
    Done(Done),
}

/// Why [`Handle::call`](crate::Handle::call) or [`Handle::ask`](crate::Handle::ask) did nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CallError {
    /// 65,536 calls wait already, or there is no memory for one more.
    Full,
    /// The server has ended.
    Stopped,
    /// It was asked on its own thread, which would never stop waiting for itself.
    OwnThread,
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CallError::Full => "too many calls wait for the server",
            CallError::Stopped => "the server has stopped",
            CallError::OwnThread => "the server's own thread would wait for itself",
        })
    }
}

impl std::error::Error for CallError {}

pub(crate) struct Mailbox<H>(Mutex<State<H>>);

struct State<H> {
    jobs: VecDeque<Job<H>>,
    /// Set when the server is to stop. Not a job, so that it cannot be refused.
    stop: Option<Grace>,
    /// The thread that runs the loop.
    runs_on: Option<ThreadId>,
    /// `None` before the server has opened its eventfd, and once it has ended.
    waker: Option<Box<dyn Waker>>,
}

impl<H> Mailbox<H> {
    /// Takes over the eventfd: from now on calls are taken.
    pub(crate) fn open<K: Kernel>(&self, kernel: K, eventfd: Fd) {
        self.lock().waker = Some(Box::new(EventFd { kernel, fd: eventfd, is_pending: false }));
    }

    /// A job that panicked did so outside of the lock, so the state is whole whatever happened.
    fn lock(&self) -> MutexGuard<'_, State<H>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From any thread: leaves a call, and wakes the loop if it is the first.
    pub(crate) fn post(&self, call: Callback<H>) -> Result<(), CallError> {
        let mut state = self.lock();
        if state.waker.is_none() {
            return Err(CallError::Stopped);
        }
        if state.jobs.len() >= CAPACITY || !state.has_place() {
            return Err(CallError::Full);
        }
        state.push(Job::Call(call));
        Ok(())
    }

    /// From a worker: leaves a result, of which there are no more than jobs that the workers accept.
    /// If there is no memory, the worker waits for some. If the server has ended, it is dropped.
    pub(crate) fn deliver(&self, done: Done) {
        let mut state = self.lock();
        while state.waker.is_some() && !state.has_place() {
            drop(state);
            thread::sleep(RETRY);
            state = self.lock();
        }
        if state.waker.is_some() {
            state.push(Job::Done(done));
        }
    }

    /// From any thread: the server is to stop. Of several times the shortest holds.
    pub(crate) fn stop(&self, how: Grace) {
        let mut state = self.lock();
        state.stop = Some(match (state.stop, how) {
            (Some(Grace::Within(one)), Grace::Within(other)) => Grace::Within(one.min(other)),
            (Some(Grace::Within(one)), Grace::Usual) => Grace::Within(one),
            (_, how) => how,
        });
        state.wake();
    }

    /// The loop has something to do that no event would wake it for.
    pub(crate) fn wake(&self) {
        self.lock().wake();
    }

    /// The loop runs on this thread from now on, or on none.
    #[cold] // and so it leaves no trace in the loop
    pub(crate) fn runs_on(&self, thread: Option<ThreadId>) {
        self.lock().runs_on = thread;
    }

    /// Whether this is the thread that runs the loop.
    pub(crate) fn is_own_thread(&self) -> bool {
        self.lock().runs_on == Some(thread::current().id())
    }

    /// From the loop, when the eventfd may be readable. Once it has run the `jobs` that it took
    /// before, resets the eventfd and takes all that wait; until then the eventfd keeps waking
    /// it, and the queue stays bounded. Returns whether to stop.
    pub(crate) fn collect(&self, jobs: &mut VecDeque<Job<H>>) -> Result<Option<Grace>, Error> {
        let mut state = self.lock();
        if jobs.is_empty() {
            if let Some(waker) = &mut state.waker {
                waker.reset()?;
            }
            std::mem::swap(jobs, &mut state.jobs);
        }
        Ok(state.stop)
    }

    /// The server has ended: gives the eventfd back.
    pub(crate) fn close(&self) {
        let (waker, jobs) = {
            let mut state = self.lock();
            state.runs_on = None;
            (state.waker.take(), std::mem::take(&mut state.jobs))
        };
        drop(jobs); // outside of the lock: what a job owns may do anything when dropped
        if let Some(waker) = waker {
            waker.close();
        }
    }
}

impl<H> Default for Mailbox<H> {
    fn default() -> Mailbox<H> {
        let (jobs, stop, runs_on) = Default::default();
        Mailbox(Mutex::new(State { jobs, stop, runs_on, waker: None }))
    }
}

impl<H> State<H> {
    fn has_place(&mut self) -> bool {
        self.jobs.try_reserve(1).is_ok()
    }

    /// Leaves a job, for which there is a place.
    fn push(&mut self, job: Job<H>) {
        self.jobs.push_back(job);
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(waker) = &mut self.waker {
            waker.wake();
        }
    }
}

/// The eventfd together with its kernel, whose type a `Handle` must not know.
trait Waker: Send {
    /// Wakes the loop, unless a wake-up is pending.
    fn wake(&mut self);
    /// The loop has woken: the next call wakes it again.
    fn reset(&mut self) -> Result<(), Error>;
    fn close(self: Box<Self>);
}

struct EventFd<K> {
    kernel: K,
    fd: Fd,
    is_pending: bool,
}

impl<K: Kernel> Waker for EventFd<K> {
    fn wake(&mut self) {
        if self.is_pending {
            return;
        }
        self.is_pending = match attempt(Call::WriteCounter, || self.kernel.write_counter(&self.fd))
        {
            Ok(()) => true,
            // The counter is full: a wake-up is pending already. Any other failure is
            // tried again by the next call.
            Err((reaction, _)) => reaction == Reaction::Ignore,
        };
    }

    fn reset(&mut self) -> Result<(), Error> {
        match attempt(Call::ReadCounter, || self.kernel.read_counter(&self.fd)) {
            Err((Reaction::FailRuntime, errno)) => {
                Err(Error::new(Call::ReadCounter, "eventfd", errno))
            }
            _ => {
                self.is_pending = false;
                Ok(())
            }
        }
    }

    fn close(self: Box<Self>) {
        let EventFd { mut kernel, fd, .. } = *self;
        tolerate(Call::Close, kernel.close(fd));
    }
}
