//! The descriptors a loop cannot be without: epoll, and the three it always watches.
//!
//! epoll knows them by slots of generation 0, which no connection ever has.
//!
//! All but one are watched from the start. The signalfd is watched from the first wait on,
//! because epoll asks to be woken at the process that adds it: if a program forks between
//! `bind` and `run`, as daemons do, that must be the child.

use crate::connection::{State, UNWATCHED};
use crate::error::{Error, needed};
use crate::kernel::{self, EpollOp, Errno, Event, Fd, Kernel, Signal, Wait};
use crate::reaction::{Call, Reaction, reaction, tolerate};
use std::fmt;
use std::mem::take;

pub(crate) const EVENTFD: u32 = 0;
pub(crate) const SIGNALFD: u32 = 1;
pub(crate) const TIMERFD: u32 = 2;
/// No descriptor: the first turn, if a service manager is to hear of it.
pub(crate) const MANAGER: u32 = u32::MAX;
/// The first listener; the others follow.
pub(crate) const LISTENERS: u32 = 3;

/// What epoll returns with an event of a listener.
pub(super) fn listener_data(index: usize) -> u64 {
    u64::from(LISTENERS) + index as u64
}

/// What a wait of a closed loop is about.
const CLOSED: &str = "a server that was closed because a callback panicked";

/// epoll, and what is opened and closed with it.
#[derive(Debug, Default)]
pub(crate) enum Poll {
    /// It is not opened yet, or closed.
    #[default]
    None,
    /// It is opened, and nothing has waited for it.
    New(Core),
    /// The loop waits for it.
    Used(Core),
    /// All that it watched is closed. (It stays, because another loop may wait for it.)
    Over(Fd),
}

/// The descriptors of an open loop. (The eventfd belongs to the mailbox.)
#[derive(Debug)]
pub(crate) struct Core {
    epoll: Fd,
    /// `None` until it is opened.
    timer: Option<Fd>,
    /// The same, and where the server does not own the process.
    signals: Option<Fd>,
}

impl Poll {
    /// Opens them all; also the eventfd, which will belong to the mailbox. If one fails,
    /// the others stay until [`close`](Poll::close).
    pub(crate) fn open<K: Kernel>(
        &mut self,
        kernel: &mut K,
        signals: &[Signal],
    ) -> Result<Fd, Error> {
        let epoll = needed(Call::EpollCreate, "epoll", || kernel.epoll_create1())?;
        *self = Poll::New(Core { epoll, timer: None, signals: None });
        if !signals.is_empty() {
            let signals = needed(Call::SignalFd, "signals", || kernel.signalfd4(signals))?;
            self.keep(|core| &mut core.signals, signals);
        }
        let timer = needed(Call::TimerFd, "timer", || kernel.timerfd_create())?;
        self.keep(|core| &mut core.timer, timer);
        if let Some(timer) = self.timer() {
            self.watch_core(kernel, timer, TIMERFD.into(), "timerfd")?;
        }
        let eventfd = needed(Call::EventFd, "wake-ups", || kernel.eventfd2())?;
        match self.watch_core(kernel, &eventfd, EVENTFD.into(), "eventfd") {
            Ok(()) => Ok(eventfd),
            Err(error) => {
                tolerate(Call::Close, kernel.close(eventfd));
                Err(error)
            }
        }
    }

    fn keep(&mut self, place: impl FnOnce(&mut Core) -> &mut Option<Fd>, fd: Fd) {
        if let Some(core) = self.core_mut() {
            *place(core) = Some(fd);
        }
    }

    /// Begins to watch a descriptor without which there is no server.
    pub(crate) fn watch_core<K: Kernel>(
        &self,
        kernel: &mut K,
        fd: &Fd,
        data: u64,
        object: impl fmt::Display,
    ) -> Result<(), Error> {
        needed(Call::EpollAddCore, object, || {
            self.watch(kernel, EpollOp::Add, fd, kernel::IN, data)
        })
    }

    /// Begins to watch `fd`, or changes what it is watched for.
    pub(crate) fn watch<K: Kernel>(
        &self,
        kernel: &mut K,
        op: EpollOp,
        fd: &Fd,
        mask: u32,
        data: u64,
    ) -> kernel::Result<()> {
        let Some(epoll) = self.epoll() else { return Err(Errno::EBADF) };
        kernel.epoll_ctl(epoll, op, fd, Event { mask, data })
    }

    /// Changes what `fd` is watched for, if that is not what epoll was `told` last. With
    /// [`UNWATCHED`] epoll forgets the descriptor, and so it does where a change fails, until it
    /// can be made: it would go on reporting, in every wait, what nobody asks for any more.
    #[inline]
    pub(crate) fn rewatch<K: Kernel>(
        &self,
        kernel: &mut K,
        fd: &Fd,
        told: &mut u8,
        interest: u8,
        data: u64,
    ) -> Result<(), (Call, Errno)> {
        if *told == interest || *told == UNWATCHED && interest == 0 {
            return Ok(());
        }
        self.rewatch_anew(kernel, fd, told, interest, data)
    }

    fn rewatch_anew<K: Kernel>(
        &self,
        kernel: &mut K,
        fd: &Fd,
        told: &mut u8,
        interest: u8,
        data: u64,
    ) -> Result<(), (Call, Errno)> {
        if interest == UNWATCHED {
            return self.unwatch(kernel, fd, told, data);
        }
        let (op, call) = match *told {
            UNWATCHED => (EpollOp::Add, Call::EpollAddConnection),
            _ => (EpollOp::Modify, Call::EpollModify),
        };
        let hangup = if interest & State::HANGUP != 0 { kernel::RDHUP } else { 0 };
        let changed =
            self.watch(kernel, op, fd, u32::from(interest & !State::HANGUP) | hangup, data);
        let Err(errno) = changed.map(|()| *told = interest) else { return Ok(()) };
        if reaction(call, errno) == Reaction::Later {
            self.unwatch(kernel, fd, told, data)?;
        }
        Err((call, errno))
    }

    /// Removes `fd` from the epoll set, which would report it in every wait.
    pub(crate) fn unwatch<K: Kernel>(
        &self,
        kernel: &mut K,
        fd: &Fd,
        told: &mut u8,
        data: u64,
    ) -> Result<(), (Call, Errno)> {
        if let Err(errno) = self.watch(kernel, EpollOp::Remove, fd, 0, data)
            && reaction(Call::EpollRemove, errno) != Reaction::Ignore
        {
            return Err((Call::EpollRemove, errno));
        }
        *told = UNWATCHED;
        Ok(())
    }

    /// Waits for events.
    #[inline]
    pub(crate) fn wait<K: Kernel>(
        &mut self,
        kernel: &mut K,
        events: &mut [Event],
        wait: Wait,
    ) -> Result<usize, Error> {
        let Poll::Used(core) = self else { return self.wait_first(kernel, events, wait) };
        match kernel.epoll_wait(&core.epoll, events, wait) {
            Ok(ready) => Ok(ready),
            Err(errno) => none_if_interrupted(errno),
        }
    }

    /// The first wait, in the process that will make all others: from now on signals wake it.
    #[cold]
    fn wait_first<K: Kernel>(
        &mut self,
        kernel: &mut K,
        events: &mut [Event],
        wait: Wait,
    ) -> Result<usize, Error> {
        if let Some(signals) = self.signals() {
            needed(Call::EpollAddSignals, "signalfd", || {
                self.watch(kernel, EpollOp::Add, signals, kernel::IN, SIGNALFD.into())
            })?;
        }
        *self = match take(self) {
            Poll::New(core) => Poll::Used(core),
            other => other,
        };
        match self {
            Poll::Used(Core { epoll, .. }) => {
                kernel.epoll_wait(epoll, events, wait).or_else(none_if_interrupted)
            }
            _ => Err(Error::new(Call::EpollWait, CLOSED, Errno::EBADF)),
        }
    }

    /// Whether there has been a wait.
    pub(crate) fn is_begun(&self) -> bool {
        matches!(self, Poll::Used(_))
    }

    /// The epoll descriptor, for another event loop that waits for it.
    pub(crate) fn epoll(&self) -> Option<&Fd> {
        match self {
            Poll::None => None,
            Poll::New(core) | Poll::Used(core) => Some(&core.epoll),
            Poll::Over(fd) => Some(fd),
        }
    }

    fn core(&self) -> Option<&Core> {
        if let Poll::New(core) | Poll::Used(core) = self { Some(core) } else { None }
    }

    fn core_mut(&mut self) -> Option<&mut Core> {
        if let Poll::New(core) | Poll::Used(core) = self { Some(core) } else { None }
    }

    pub(super) fn timer(&self) -> Option<&Fd> {
        self.core()?.timer.as_ref()
    }

    pub(super) fn signals(&self) -> Option<&Fd> {
        self.core()?.signals.as_ref()
    }

    /// Gives up the signalfd, which is to be closed.
    pub(super) fn take_signals(&mut self) -> Option<Fd> {
        self.core_mut()?.signals.take()
    }

    /// Closes all but epoll itself.
    pub(crate) fn close<K: Kernel>(&mut self, kernel: &mut K) {
        match take(self) {
            Poll::New(core) | Poll::Used(core) => {
                *self = Poll::Over(core.epoll);
                for fd in [core.timer, core.signals].into_iter().flatten() {
                    tolerate(Call::Close, kernel.close(fd));
                }
            }
            closed => *self = closed,
        }
    }

    /// Closes epoll, at last, when all else is [closed](Poll::close).
    pub(crate) fn drop_epoll<K: Kernel>(&mut self, kernel: &mut K) {
        if let Poll::Over(fd) = take(self) {
            tolerate(Call::Close, kernel.close(fd));
        }
    }
}

/// A wait that a signal or a debugger interrupts has found nothing.
#[cold]
fn none_if_interrupted(errno: Errno) -> Result<usize, Error> {
    match reaction(Call::EpollWait, errno) {
        Reaction::Retry => Ok(0),
        _ => Err(Error::new(Call::EpollWait, "epoll", errno)),
    }
}
