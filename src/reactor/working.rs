//! Clients that wait while something else is done for them: what a worker has done is handed over,
//! and a client that leaves meanwhile is noticed.
//!
//! A paused connection is not read, so its end would not be seen. Therefore it is watched for
//! RDHUP, which needs no read. Only a pause costs anything for that, and no further call: it is
//! one `epoll_ctl` anyway. epoll would report the end in each turn from then on, so after the
//! first report the connection is not watched for it any more.

use super::Reactor;
use crate::connection::Connection;
use crate::handler::ConnectionHandler;
use crate::kernel::Kernel;
use crate::net::{ConnId, Done};

impl<H: ConnectionHandler, K: Kernel> Reactor<H, K> {
    /// Hands what a worker has done to its connection, if that is still there, and resumes it.
    #[cold]
    pub(super) fn hand_over(&mut self, Done { id, result }: Done) {
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

    /// The peer's end has come while the connection was paused.
    #[cold]
    pub(super) fn hung_up(&mut self, slot: u32) {
        let is_awaited = self.net.change(slot, |connection| connection.state.hang_up());
        if is_awaited == Some(true) {
            self.call(slot, |handler, conn, session| handler.on_hangup(conn, session));
        }
    }
    /// Handles an event of a connection from which nothing is wanted, and which epoll would
    /// report for ever.
    pub(super) fn unwatch(&mut self, slot: u32) {
        let data = self.net.table.id(slot).to_u64();
        let Some(mut connection) = self.net.table.edit(slot) else { return };
        let Connection { fd, registered, .. } = &mut *connection;
        if let Err((call, errno)) = self.poll.unwatch(&mut self.kernel, fd, registered, data) {
            connection.failed(call, errno, &mut self.net.counters);
        }
    }
}
