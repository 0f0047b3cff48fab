//! What users write: a [`ConnectionHandler`].

use crate::close_reason::CloseReason;
use crate::error::Error;
use crate::net::{Conn, ConnId, Net, TimerId};
use std::any::Any;

/// A protocol: what happens to the bytes of a connection.
///
/// One value serves the whole server, on the loop's thread, so what all
/// connections share is simply `self`: no lock, no `Rc`. What belongs to one
/// connection is its `Session`, lent to each call. A handler that only answers
/// bytes needs only [`on_data`](ConnectionHandler::on_data):
///
/// ```
/// use threadbare::{Conn, ConnectionHandler};
///
/// struct Echo;
///
/// impl ConnectionHandler for Echo {
///     type Session = ();
///     fn on_data(&mut self, conn: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
///         conn.write(input);
///         input.len()
///     }
/// }
/// ```
///
/// A callback must not block, because all connections wait for it. A panic unwinds out of
/// [`Server::run`](crate::Server::run), and closes everything, unless
/// [`CatchPanics`](crate::handlers::CatchPanics) is around the handler.
pub trait ConnectionHandler {
    /// What the handler remembers of one connection.
    type Session: Default;

    /// Called when the server starts, before listeners are opened. The handler opens here what it
    /// needs, a [directory](Net::open_directory) for example. If this fails,
    /// [`bind`](crate::Builder::bind) fails with the same error.
    ///
    /// # Errors
    ///
    /// Whatever keeps the handler from serving.
    fn on_start(&mut self, net: &mut Net) -> Result<(), Error> {
        let _ = net;
        Ok(())
    }

    /// Whether each client needs an outbound connection. Then a client is accepted only while
    /// there is a place for both, of [`max_connections`](crate::Limits::max_connections) and of
    /// [`max_outbound`](crate::Limits::max_outbound); until then it waits in the queue.
    fn needs_outbound(&self) -> bool {
        false
    }

    /// How many files a client may have open at once, beside its connection and those that are
    /// begun for it: this number of descriptors more is planned for each of
    /// [`max_connections`](crate::Limits::max_connections).
    fn files_per_client(&self) -> u32 {
        0
    }

    /// Called when bytes have arrived. Returns how many of them, from the front, are consumed.
    ///
    /// The rest is offered again together with the next bytes. Consume all
    /// whole messages of `input` and leave the incomplete one, with one
    /// exception: stop when [`conn.is_full()`](Conn::is_full). Then the rest is
    /// offered again, without new bytes, when output has fallen below the low
    /// water mark; the same after [`resume`](Conn::resume).
    ///
    /// Returning more than `input.len()` is a bug in the handler: the connection is closed.
    fn on_data(&mut self, conn: &mut Conn<'_>, session: &mut Self::Session, input: &[u8]) -> usize;

    /// Called when a client has connected.
    fn on_open(&mut self, conn: &mut Conn<'_>, session: &mut Self::Session) {
        let _ = (conn, session);
    }

    /// Called at EOF: the peer will send no more. `rest` holds the bytes that `on_data` left
    /// unconsumed. The peer may still be waiting for answers, which can still be written.
    fn on_eof(&mut self, conn: &mut Conn<'_>, session: &mut Self::Session, rest: &[u8]) {
        let _ = (session, rest);
        conn.close();
    }

    /// Called when the output was full and has fallen below the low water mark.
    fn on_drain(&mut self, conn: &mut Conn<'_>, session: &mut Self::Session) {
        let _ = (conn, session);
    }

    /// Called when the time set with [`set_timer`](Conn::set_timer) has come.
    fn on_timer(&mut self, conn: &mut Conn<'_>, session: &mut Self::Session) {
        let _ = (conn, session);
    }

    /// Called when the time set with [`set_timer_for`](Conn::set_timer_for) and this key has come.
    fn on_timer_for(&mut self, conn: &mut Conn<'_>, session: &mut Self::Session, key: u32) {
        let _ = (conn, session, key);
    }

    /// Called when the time set with [`Net::after`] and this token has come.
    fn on_tick(&mut self, net: &mut Net, timer: TimerId, token: u64) {
        let _ = (net, timer, token);
    }

    /// A worker has done the job that [`Conn::work`] gave it, and this is what the job returned.
    /// When this callback returns, the connection is resumed.
    ///
    /// ```
    /// # use std::any::Any;
    /// # use threadbare::{Conn, ConnectionHandler};
    /// # struct Slow;
    /// # impl ConnectionHandler for Slow {
    /// #   type Session = ();
    /// fn on_data(&mut self, conn: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
    ///     let words = input.to_vec();
    ///     if !conn.work(move |_: &mut (), _| words.len()) {
    ///         conn.write(b"too busy\n");
    ///     }
    ///     input.len()
    /// }
    ///
    /// fn on_result(&mut self, conn: &mut Conn<'_>, _: &mut (), result: Box<dyn Any + Send>) {
    ///     if let Ok(length) = result.downcast::<usize>() {
    ///         writeln!(conn, "{length} bytes");
    ///     }
    /// }
    /// # }
    /// ```
    fn on_result(
        &mut self,
        conn: &mut Conn<'_>,
        session: &mut Self::Session,
        result: Box<dyn Any + Send>,
    ) {
        let _ = (conn, session, result);
    }

    /// The peer has ended its side while the connection is [paused](Conn::pause): it will send no
    /// more, and is perhaps gone. What it sent before is still offered after the pause, and then
    /// [`on_eof`](ConnectionHandler::on_eof) comes.
    ///
    /// Many clients end their side and wait for the answer. If yours do not, end the connection
    /// here: a [job](Conn::work) that is done for it [sees](crate::Presence) that.
    fn on_hangup(&mut self, conn: &mut Conn<'_>, session: &mut Self::Session) {
        let _ = (conn, session);
    }

    /// Called when the connection is gone. The session is handed over.
    fn on_close(&mut self, net: &mut Net, id: ConnId, session: Self::Session, why: CloseReason) {
        let _ = (net, id, session, why);
    }

    /// Called when the server begins to stop: the last chance to write to its clients.
    fn on_shutdown(&mut self, net: &mut Net) {
        let _ = net;
    }
}
