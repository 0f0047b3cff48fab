//! Clients that wait while something else is done for them: what a worker has done is handed over,
//! and a client that leaves meanwhile is noticed.
//!
//! Of a paused connection nothing is read, so its end would not be seen. Therefore it is watched
//! for RDHUP, which asks for no read. Nothing but a pause costs anything for that, and this one
//! no call more: epoll hears of the pause anyway. It reports the end in each turn from then on,
//! so it is told once, and not watched for it any more.

use super::Reactor;
use crate::handler::ConnectionHandler;
use crate::kernel::Kernel;
use crate::net::{ConnId, Done};

impl<H: ConnectionHandler, K: Kernel> Reactor<H, K> {
    /// Hands what a worker has done to its connection, if that is still there, and resumes it.
    #[cold]
    pub(super) fn hand_over(&mut self, Done { id, result }: Done) {
        let Some(mut conn) = self.net.conn(ConnId(id)) else { return };
        match result {
            Ok(result) => {
                self.call(id.slot, |handler, conn, session| {
                    handler.on_result(conn, session, result);
                    conn.resume();
                });
            }
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
}
