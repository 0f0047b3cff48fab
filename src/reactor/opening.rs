//! What a loop owns: its memory is allocated, then the listeners are opened, and the descriptors
//! it always watches.
//!
//! Invariants:
//! 1. All memory whose size the limits give is there before the first descriptor is opened.
//! 2. Whatever fails, dropping the loop closes what was opened before.

use super::giving_way::GivingWay;
use super::input_buffer::InputBuffer;
use super::poll::{Poll, listener_data};
use super::timerfd::Timer;
use super::turn::Rest;
use super::{BATCH, End, Reactor};
use crate::address::Place;
use crate::backoff::Backoff;
use crate::crowd::Crowd;
use crate::error::{Error, needed};
use crate::fallible::with_room;
use crate::handler::ConnectionHandler;
use crate::kernel::{self, Errno, Event, Fd, Kernel};
use crate::limits::Limits;
use crate::listener::Listener;
use crate::net::Net;
use crate::process::Process;
use crate::reaction::{Call, Reaction, reaction};
use std::collections::VecDeque;
use std::sync::Arc;

/// What a loop asks the allocator for before it begins: it never needs longer lists.
struct Memory<S> {
    net: Net,
    timer: Timer,
    input: InputBuffer,
    sessions: Vec<Option<S>>,
    events: Vec<Event>,
    woken: Vec<(u32, u32)>,
    work: Vec<u32>,
    leaving: Vec<u32>,
}

impl<S> Memory<S> {
    /// `None` if there is not enough.
    fn allocate<K: Kernel>(limits: Limits, kernel: &mut K) -> Option<Memory<S>> {
        let slots = limits.slots();
        let mut events = with_room(BATCH)?;
        events.resize(BATCH, Event::default());
        Some(Memory {
            net: Net::new(limits, kernel).ok()?,
            timer: Timer::new(slots).ok()?,
            input: InputBuffer::allocate()?,
            sessions: with_room(slots as usize)?,
            events,
            woken: with_room(BATCH)?,
            work: with_room(slots as usize)?,
            leaving: with_room(slots as usize)?,
        })
    }
}

impl<H: ConnectionHandler, K: Kernel> Reactor<H, K> {
    /// A loop that owns no descriptor yet.
    pub(crate) fn new(
        handler: H,
        mut kernel: K,
        limits: Limits,
        process: Option<Process>,
    ) -> Result<Self, Error> {
        let object = format!("buffers and tables for {} connections", limits.max_connections);
        let Some(memory) = Memory::allocate(limits, &mut kernel) else {
            return Err(Error::new(Call::Memory, object, Errno::ENOMEM));
        };
        Ok(Reactor {
            handler,
            kernel,
            net: memory.net,
            sessions: memory.sessions,
            poll: Poll::default(),
            timer: memory.timer,
            mailbox: Arc::default(),
            listeners: Vec::new(),
            next_listener: 0,
            backoff: Backoff::default(),
            giving_way: GivingWay::default(),
            crowd: Crowd::default(),
            unnamed: 0,
            input: memory.input,
            events: memory.events,
            woken: memory.woken,
            rest: Rest::default(),
            jobs: VecDeque::new(),
            work: memory.work,
            leaving: VecDeque::from(memory.leaving),
            is_idle: true,
            turn: 0,
            end: End::default(),
            reported_at: None,
            process,
        })
    }

    /// Lets the handler open what it needs, as it does before it has a client.
    pub(crate) fn start(&mut self) -> Result<(), Error> {
        self.handler.on_start(&mut self.net)?;
        self.note_idle(); // it may have begun connections
        self.is_idle &= self.net.table.is_settled(); // it may have set timers
        Ok(())
    }

    /// Opens all listeners, then what the loop needs, and lets epoll watch them all. If
    /// one fails, dropping the loop closes the others.
    pub(crate) fn open(
        &mut self,
        given: Vec<Fd>,
        places: &[Place],
        warnings: &mut Vec<String>,
    ) -> Result<(), Error> {
        for fd in given {
            let name = format!("fd:{fd:?}");
            self.adopt(fd, &name, warnings)?;
        }
        for place in places {
            self.inherit(place, warnings)?;
            self.listen_at(place, warnings)?;
        }
        let signals = self.process.as_ref().map_or(&[][..], |process| &process.signals);
        let eventfd = self.poll.open(&mut self.kernel, signals)?;
        self.mailbox.open(self.kernel.clone(), eventfd);
        for (index, listener) in self.listeners.iter_mut().enumerate() {
            let Some(socket) = &mut listener.socket else { continue };
            let (fd, data) = (&socket.fd, listener_data(index));
            self.poll.watch_core(&mut self.kernel, fd, data, &listener.address)?;
            socket.registered = kernel::IN as u8;
        }
        self.expect_manager();
        Ok(())
    }

    /// Takes over the sockets of a place that listen already. Two names can be one descriptor's.
    fn inherit(&mut self, place: &Place, warnings: &mut Vec<String>) -> Result<(), Error> {
        for &number in place.descriptors() {
            let mut sockets = self.listeners.iter().filter_map(|it| it.socket.as_ref());
            if sockets.any(|socket| socket.fd.number() == number) {
                continue;
            }
            let name = format!("fd:{number}");
            let fd = needed(Call::Inherit, &name, || self.kernel.fcntl_inherit(number))?;
            self.adopt(fd, &name, warnings)?;
            if let Some(listener) = self.listeners.last_mut() {
                listener.is_behind_front = place.is_behind_front();
            }
        }
        Ok(())
    }

    fn adopt(&mut self, fd: Fd, name: &str, warnings: &mut Vec<String>) -> Result<(), Error> {
        let limits = &self.net.limits;
        let listener = Listener::adopt(&mut self.kernel, fd, name, limits, warnings)?;
        self.net.locals.push(listener.address.clone());
        self.listeners.push(listener);
        Ok(())
    }

    /// Listens at all addresses of a place that this machine has. One will do: a name often
    /// has an IPv6 address where there is no IPv6. An address that is named alone is the
    /// only one of its place, so to lack it is an error.
    fn listen_at(&mut self, place: &Place, warnings: &mut Vec<String>) -> Result<(), Error> {
        let (mut stands, mut lacking) = (false, Vec::new());
        for address in place.addresses() {
            if self.listeners.iter().any(|listener| listener.address == *address) {
                stands = true; // it was named before
                continue;
            }
            match Listener::open(&mut self.kernel, address, &self.net.limits, warnings) {
                Ok(mut listener) => {
                    listener.is_behind_front = place.is_behind_front();
                    self.net.locals.push(listener.address.clone());
                    self.net.own_files.extend(listener.file());
                    self.listeners.push(listener);
                    stands = true;
                }
                Err(Error { call, object, errno }) => {
                    let error = Error::new(call, place.call(object), errno);
                    match reaction(call, errno) {
                        Reaction::Degrade => lacking.push(error),
                        _ => return Err(error),
                    }
                }
            }
        }
        if !stands && let Some(error) = lacking.pop() {
            return Err(error);
        }
        warnings.extend(lacking.iter().map(|error| format!("{error}; going on without")));
        Ok(())
    }
}
