//! What a loop owns is opened: the listeners, and the descriptors it always watches.

use super::Reactor;
use super::poll::LISTENERS;
use crate::error::Error;
use crate::handler::ConnectionHandler;
use crate::kernel::{self, Address, EpollOp, Kernel, Signal};
use crate::listener::Listener;
use crate::reaction::Call;

impl<H: ConnectionHandler, K: Kernel> Reactor<H, K> {
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
        for (index, listener) in self.listeners.iter().enumerate() {
            let Some(fd) = &listener.fd else { continue };
            let data = u64::from(LISTENERS) + index as u64;
            let added = self.poll.watch(&mut self.kernel, EpollOp::Add, fd, kernel::IN, data);
            let failed = |errno| Error::new(Call::EpollAddCore, &listener.address, errno);
            added.map_err(failed)?;
        }
        Ok(())
    }
}
