//! A handler around another one, whose panics it catches.

use crate::close_reason::CloseReason;
use crate::error::Error;
use crate::handler::ConnectionHandler;
use crate::net::{Conn, ConnId, Net, TimerId};
use std::any::Any;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Keeps a panic of one callback from ending the server: the connection that it was about is
/// reset, and the panic is counted as a [bug](crate::Counters::bugs).
///
/// ```
/// # use threadbare::Server;
/// # use threadbare::handlers::{CatchPanics, Echo};
/// # fn main() -> Result<(), threadbare::Error> {
/// let server = Server::builder(CatchPanics(Echo)).bind("127.0.0.1:0")?;
/// let echo: &Echo = server.handler();
/// # let _ = echo;
/// # Ok(())
/// # }
/// ```
///
/// Without it a panic unwinds out of [`Server::run`](crate::Server::run), all that the server has
/// is closed, and it cannot run again. What the callback had done to the handler before it
/// panicked stays done, so let that be no half of something. A panic in
/// [`on_start`](ConnectionHandler::on_start) or in a call through a
/// [`Handle`](crate::Handle) is not caught: there is no connection to end for it.
#[derive(Debug, Default)]
pub struct CatchPanics<H>(pub H);

impl<H> CatchPanics<H> {
    /// Makes a callback about a connection; its result, unless it panics.
    fn about<T>(
        &mut self,
        conn: &mut Conn<'_>,
        call: impl FnOnce(&mut H, &mut Conn<'_>) -> T,
    ) -> Option<T> {
        let result = catch_unwind(AssertUnwindSafe(|| call(&mut self.0, conn))).ok();
        if result.is_none() {
            let id = conn.id();
            conn.net().counters.bug(format_args!("a callback about {id} panicked"));
            conn.abort();
        }
        result
    }

    /// Makes a callback about none.
    fn about_all(&mut self, net: &mut Net, call: impl FnOnce(&mut H, &mut Net)) {
        if catch_unwind(AssertUnwindSafe(|| call(&mut self.0, net))).is_err() {
            net.counters.bug("a callback panicked");
        }
    }
}

impl<H: ConnectionHandler> ConnectionHandler for CatchPanics<H> {
    type Session = H::Session;

    fn needs_outbound(&self) -> bool {
        self.0.needs_outbound()
    }

    fn files_per_client(&self) -> u32 {
        self.0.files_per_client()
    }

    fn on_start(&mut self, net: &mut Net) -> Result<(), Error> {
        self.0.on_start(net)
    }

    fn on_data(&mut self, conn: &mut Conn<'_>, session: &mut H::Session, input: &[u8]) -> usize {
        let consumed = self.about(conn, |handler, conn| handler.on_data(conn, session, input));
        consumed.unwrap_or(input.len())
    }

    fn on_open(&mut self, conn: &mut Conn<'_>, session: &mut H::Session) {
        self.about(conn, |handler, conn| handler.on_open(conn, session));
    }

    fn on_eof(&mut self, conn: &mut Conn<'_>, session: &mut H::Session, rest: &[u8]) {
        self.about(conn, |handler, conn| handler.on_eof(conn, session, rest));
    }

    fn on_drain(&mut self, conn: &mut Conn<'_>, session: &mut H::Session) {
        self.about(conn, |handler, conn| handler.on_drain(conn, session));
    }

    fn on_timer(&mut self, conn: &mut Conn<'_>, session: &mut H::Session) {
        self.about(conn, |handler, conn| handler.on_timer(conn, session));
    }

    fn on_timer_for(&mut self, conn: &mut Conn<'_>, session: &mut H::Session, key: u32) {
        self.about(conn, |handler, conn| handler.on_timer_for(conn, session, key));
    }

    fn on_result(
        &mut self,
        conn: &mut Conn<'_>,
        session: &mut H::Session,
        result: Box<dyn Any + Send>,
    ) {
        self.about(conn, |handler, conn| handler.on_result(conn, session, result));
    }

    fn on_hangup(&mut self, conn: &mut Conn<'_>, session: &mut H::Session) {
        self.about(conn, |handler, conn| handler.on_hangup(conn, session));
    }

    fn on_tick(&mut self, net: &mut Net, timer: TimerId, token: u64) {
        self.about_all(net, |handler, net| handler.on_tick(net, timer, token));
    }

    fn on_close(&mut self, net: &mut Net, id: ConnId, session: H::Session, why: CloseReason) {
        self.about_all(net, |handler, net| handler.on_close(net, id, session, why));
    }

    fn on_shutdown(&mut self, net: &mut Net) {
        self.about_all(net, H::on_shutdown);
    }
}

impl<H> Deref for CatchPanics<H> {
    type Target = H;

    fn deref(&self) -> &H {
        &self.0
    }
}

impl<H> DerefMut for CatchPanics<H> {
    fn deref_mut(&mut self) -> &mut H {
        &mut self.0
    }
}
