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
    /// What the handler remembers of one connection. If it is an enum, the connection can switch
    /// to another protocol: what stands behind the switch is read in the new one.
    ///
    /// ```
    /// # use threadbare::{Conn, ConnectionHandler, sim::World};
    /// use threadbare::framing::{Frame, Lengths, Lines};
    ///
    /// enum Session { Text(Lines), Binary }
    /// # impl Default for Session { fn default() -> Session { Session::Text(Lines::default()) } }
    /// # struct Both;
    /// # impl ConnectionHandler for Both {
    /// # type Session = Session;
    ///
    /// fn on_data(&mut self, conn: &mut Conn<'_>, session: &mut Session, input: &[u8]) -> usize {
    ///     let mut rest = input;
    ///     while !conn.is_full() {
    ///         match session {
    ///             Session::Text(lines) => match lines.next(&mut rest, 1_000) {
    ///                 Frame::Whole { body: b"BINARY", .. } => *session = Session::Binary,
    ///                 Frame::Whole { raw, .. } => conn.write(raw),
    ///                 Frame::Partial => break,
    ///                 Frame::TooLong => conn.close(), // and so `is_full` ends the loop
    ///             },
    ///             Session::Binary => match Lengths::U16Be.next(&mut rest, 1_000) {
    ///                 Frame::Whole { raw, .. } => conn.write(raw),
    ///                 Frame::Partial => break,
    ///                 Frame::TooLong => conn.close(),
    ///             },
    ///         }
    ///     }
    ///     input.len() - rest.len()
    /// }
    /// # }
    /// # let (mut world, words) = (World::new(Both), b"hello\nBINARY\n\0\x03a\nb");
    /// # let mut client = world.client();
    /// # assert_eq!(world.ask(&mut client, words), b"hello\n\0\x03a\nb");
    /// ```
    type Session: Default;

    /// Called when the server starts, before listeners are opened. The handler opens here what it
    /// needs, a [directory](Net::open_directory) for example. If this fails,
    /// [`bind`](crate::Builder::bind) fails with the same error.
    ///
    /// ```
    /// # use threadbare::{Call, Conn, ConnectionHandler, Errno, Error, Net, Server};
    /// # #[derive(Debug, Default)]
    /// # struct Motd { text: Vec<u8> }
    /// # impl ConnectionHandler for Motd {
    /// # type Session = ();
    /// # fn on_data(&mut self, _: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize { input.len() }
    /// fn on_start(&mut self, _: &mut Net) -> Result<(), Error> {
    ///     let path = "/etc/none/motd";
    ///     let read = std::fs::read(path);
    ///     let failed = |error| Error::new(Call::OpenFile, path, Errno::from_io(&error));
    ///     self.text = read.map_err(failed)?;
    ///     Ok(())
    /// }
    /// # }
    /// # let error = Server::builder(Motd::default()).bind("127.0.0.1:0").unwrap_err();
    /// # assert_eq!(error.to_string(), "openat2 /etc/none/motd: ENOENT (No such file or directory)");
    /// ```
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
    /// water mark. A handler that pauses its connections, or gives them to workers, stops when
    /// [`conn.is_paused()`](Conn::is_paused) as well: the rest is offered again after
    /// [`resume`](Conn::resume).
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

    /// Called when a worker has done the job that [`Conn::work`] gave it, with what the job
    /// returned. When this callback returns, the connection is resumed.
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

    /// Called when the peer has ended its side while the connection is [paused](Conn::pause): it
    /// will send no more, and is perhaps gone. What it sent before is still offered after the
    /// pause, and then [`on_eof`](ConnectionHandler::on_eof) comes.
    ///
    /// Many clients end their side and wait for the answer. If yours do not, end the connection
    /// here: a [job](Conn::work) that is done for it [sees](crate::Presence) that.
    ///
    /// ```
    /// # use threadbare::{Conn, ConnectionHandler};
    /// # struct Impatient;
    /// # impl ConnectionHandler for Impatient {
    /// # type Session = ();
    /// # fn on_data(&mut self, _: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize { input.len() }
    /// fn on_hangup(&mut self, conn: &mut Conn<'_>, _: &mut ()) {
    ///     conn.close(); // whoever waits for a job of ours keeps its connection open
    /// }
    /// # }
    /// ```
    fn on_hangup(&mut self, conn: &mut Conn<'_>, session: &mut Self::Session) {
        let _ = (conn, session);
    }

    /// Called when the connection is gone. The session is handed over.
    ///
    /// ```
    /// # use threadbare::{CloseReason, Conn, ConnectionHandler, ConnId, Net};
    /// # #[derive(Default)]
    /// # struct Watched { resets: u32 }
    /// # impl ConnectionHandler for Watched {
    /// # type Session = ();
    /// # fn on_data(&mut self, _: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize { input.len() }
    /// fn on_close(&mut self, net: &mut Net, id: ConnId, _: (), why: CloseReason) {
    ///     match why {
    ///         CloseReason::PeerReset => self.resets += 1,
    ///         _ => println!("{id}: {why}, after {} bytes", net.sent(id)),
    ///     }
    /// }
    /// # }
    /// ```
    fn on_close(&mut self, net: &mut Net, id: ConnId, session: Self::Session, why: CloseReason) {
        let _ = (net, id, session, why);
    }

    /// Called when the server begins to stop: the last chance to write to its clients.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use threadbare::{Conn, ConnectionHandler, Net, sim::World};
    /// # struct Polite;
    /// # impl ConnectionHandler for Polite {
    /// # type Session = ();
    /// fn on_data(&mut self, conn: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
    ///     if input.starts_with(b"shutdown") {
    ///         conn.net().stop(); // as SIGTERM does
    ///     }
    ///     input.len()
    /// }
    ///
    /// fn on_shutdown(&mut self, net: &mut Net) {
    ///     for id in net.ids() {
    ///         net.send(id, b"goodbye\n");
    ///     }
    /// }
    /// # }
    /// # let mut world = World::new(Polite);
    /// # let mut client = world.client();
    /// # assert_eq!(world.ask(&mut client, b"shutdown\n"), b"goodbye\n");
    /// # assert!(client.saw_eof());
    /// ```
    fn on_shutdown(&mut self, net: &mut Net) {
        let _ = net;
    }
}
