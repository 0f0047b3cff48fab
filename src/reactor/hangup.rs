//! The peer's end, while its connection is not read.
//!
//! The end of a paused connection would not be seen, because it is not read. Therefore it is
//! watched for RDHUP, which needs no read. Only a pause costs anything for that, and no further
//! call: it is one `epoll_ctl` anyway. epoll would report the end in each turn from then on, so
//! after the first report the connection is not watched for it any more.

use super::Reactor;
use crate::connection::Connection;
use crate::handler::ConnectionHandler;
use crate::kernel::Kernel;

impl<H: ConnectionHandler, K: Kernel> Reactor<H, K> {
    /// The peer's end has come while the connection was paused.
    #[cold]
    pub(super) fn hung_up(&mut self, slot: u32) {
        let is_awaited = self.net.change(slot, |connection| connection.state.hang_up());
        if is_awaited == Some(true) {
            self.call(slot, |handler, conn, session| handler.on_hangup(conn, session));
        }
    }

    /// Stops watching a connection: nothing is wanted of it, and epoll would report its end for
    /// ever.
    pub(super) fn unwatch(&mut self, slot: u32) {
        let data = self.net.table.id(slot).to_u64();
        let Some(mut connection) = self.net.table.edit(slot) else { return };
        let Connection { fd, registered, .. } = &mut *connection;
        if let Err((call, errno)) = self.poll.unwatch(&mut self.kernel, fd, registered, data) {
            connection.failed(call, errno, &mut self.net.counters);
        }
    }
}
