//! The beginning and the end of a loop: what it owns is opened, and given back.
//!
//! A start that fails gives back what it has opened, because dropping the loop does, at any
//! time: after a clean stop, amid everything, or while a handler panics.

use super::poll::{LISTENERS, Poll};
use super::{BATCH, End, Input, Reactor, Timerfd};
use crate::connection::State;
use crate::crowd::Crowd;
use crate::deadlines::{Alarms, Deadlines};
use crate::error::Error;
use crate::handler::ConnectionHandler;
use crate::kernel::{self, Address, Errno, Event, Kernel};
use crate::limits::Limits;
use crate::listener::Listener;
use crate::net::Net;
use crate::process::Process;
use crate::reaction::Call;
use std::collections::TryReserveError;
use std::sync::Arc;

/// An empty vector with room for `length` elements.
fn room_for<T>(length: usize) -> Result<Vec<T>, TryReserveError> {
    let mut vector = Vec::new();
    vector.try_reserve_exact(length).map(|()| vector)
}

impl<H: ConnectionHandler, K: Kernel> Reactor<H, K> {
    /// A loop that owns no descriptor yet.
    pub(crate) fn new(
        handler: H,
        mut kernel: K,
        limits: Limits,
        process: Option<Process>,
    ) -> Result<Self, Error> {
        let no_memory = || {
            let object = format!("buffers and tables for {} connections", limits.max_connections);
            Error::new(Call::Memory, object, Errno::ENOMEM)
        };
        let net = Net::new(limits.clone(), &mut kernel).map_err(|_| no_memory())?;
        let deadlines = Deadlines::with_capacity(limits.slots()).map_err(|_| no_memory())?;
        let sessions = room_for(limits.slots() as usize).map_err(|_| no_memory())?;
        let input = Input::allocate().ok_or_else(no_memory)?;
        let mut events = room_for(BATCH).map_err(|_| no_memory())?;
        events.resize(BATCH, Event::default());
        Ok(Reactor {
            handler,
            net,
            sessions,
            mailbox: Arc::default(),
            poll: Poll::default(),
            kernel,
            listeners: Vec::new(),
            crowd: Crowd::default(),
            deadlines,
            alarms: Alarms::default(),
            timerfd: Timerfd::Disarmed,
            put_off: 0,
            input,
            events,
            woken: Vec::new(),
            work: Vec::new(),
            turn: 0,
            end: End::default(),
            process,
        })
    }

    /// Lets the handler open what it needs, as it does before it has a client.
    pub(crate) fn start(&mut self) -> Result<(), Error> {
        self.handler.on_start(&mut self.net)?;
        self.work.extend(self.net.table.slots_where(|_| true)); // it may have begun connections
        Ok(())
    }

    /// Opens all listeners, then what the loop needs, and lets epoll watch them all. If
    /// one fails, dropping the loop closes the others.
    pub(crate) fn open(
        &mut self,
        addresses: &[Address],
        warnings: &mut Vec<String>,
    ) -> Result<(), Error> {
        for address in addresses {
            let limits = &self.net.limits;
            let listener = Listener::open(&mut self.kernel, address, limits, warnings)?;
            self.net.locals.push(listener.address.clone());
            self.listeners.push(listener);
        }
        let signals = self.process.as_ref().map_or(&[][..], |process| &process.signals);
        let eventfd = self.poll.open(&mut self.kernel, signals)?;
        self.mailbox.open(self.kernel.clone(), eventfd);
        for (index, listener) in self.listeners.iter_mut().enumerate() {
            let Some(socket) = &mut listener.socket else { continue };
            let (fd, data) = (&socket.fd, u64::from(LISTENERS) + index as u64);
            self.poll.watch_core(&mut self.kernel, fd, data, &listener.address)?;
            socket.registered = kernel::IN as u8;
        }
        Ok(())
    }
}

/// Gives everything back, also when a handler panics.
impl<H: ConnectionHandler, K: Kernel> Drop for Reactor<H, K> {
    fn drop(&mut self) {
        for listener in &mut self.listeners {
            listener.close(&mut self.kernel);
        }
        self.mailbox.close();
        for slot in self.net.table.slots_where(|_| true) {
            if let Some(connection) = self.net.table.remove(slot) {
                if connection.fd.is_unopened() {
                    continue;
                }
                // An answer that was cut off must not look like a whole one.
                let reset = !matches!(*connection.state, State::Lingering { .. });
                self.close_socket(connection.fd, reset);
                self.net.close_file(slot);
            }
        }
        self.poll.close(&mut self.kernel);
    }
}
