//! What a loop owns is opened: the listeners, and the descriptors it always watches.

use super::Reactor;
use super::poll::LISTENERS;
use crate::error::Error;
use crate::handler::ConnectionHandler;
use crate::kernel::{self, Address, Kernel, Signal};
use crate::listener::Listener;

impl<H: ConnectionHandler, K: Kernel> Reactor<H, K> {
    /// Lets the handler open what it needs, as it does before it has a client.
    pub(crate) fn start(&mut self) -> Result<(), Error> {
        self.handler.on_start(&mut self.net)?;
        self.work.extend(self.net.table.slots_where(|_| true)); // it may have begun connections
        self.note_idle();
        Ok(())
    }

    /// Opens all listeners, then what the loop needs, and lets epoll watch them all. If
    /// one fails, dropping the loop closes the others.
    pub(crate) fn open(
        &mut self,
        addresses: &[Address],
        signals: &[Signal],
        warnings: &mut Vec<String>,
    ) -> Result<(), Error> {
        for address in addresses {
            let limits = &self.net.limits;
            let listener = Listener::open(&mut self.kernel, address, limits, warnings)?;
            self.net.locals.push(listener.address.clone());
            self.listeners.push(listener);
        }
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
