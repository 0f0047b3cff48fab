//! Where connections come from.

use super::{Conn, ConnId, Net};
use crate::connection::OUTBOUND;

/// Where a connection comes from.
///
/// ```
/// # use threadbare::{Conn, ConnectionHandler, Origin};
/// # struct Doors;
/// # #[derive(Default)]
/// # struct Session { may_stop_the_server: bool }
/// # impl ConnectionHandler for Doors {
/// #   type Session = Session;
/// // bound to ["0.0.0.0:80", "unix:/run/admin.sock"]
/// fn on_open(&mut self, conn: &mut Conn<'_>, session: &mut Session) {
///     session.may_stop_the_server = conn.origin() == Origin::Listener(1);
/// }
/// #   fn on_data(&mut self, _: &mut Conn<'_>, _: &mut Session, _: &[u8]) -> usize { 0 }
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// It came through a listener: the index in [`Server::addresses`](crate::Server::addresses).
    Listener(usize),
    /// The handler began it: the token given to [`Net::connect_as`], or 0.
    Outbound(u64),
}

impl Net {
    /// Where a connection comes from; also the one that
    /// [`on_close`](crate::ConnectionHandler::on_close) is about.
    #[must_use]
    pub fn origin(&self, id: ConnId) -> Option<Origin> {
        match &self.closed {
            Some(closed) if closed.id == id => Some(closed.origin),
            _ if self.table.id(id.0.slot) != id.0 => None,
            _ => self.origin_of(id.0.slot),
        }
    }

    fn origin_of(&self, slot: u32) -> Option<Origin> {
        let listener = self.table.look(slot)?.listener();
        Some(self.origin_from(slot, listener))
    }

    /// Of a connection in `slot` that came through this listener.
    #[inline]
    pub(crate) fn origin_from(&self, slot: u32, listener: u8) -> Origin {
        match listener {
            OUTBOUND => Origin::Outbound(self.tokens.get(&slot).copied().unwrap_or_default()),
            listener => Origin::Listener(listener.into()),
        }
    }
}

impl Conn<'_> {
    /// Where it comes from: which listener, or with what token the handler began it.
    #[must_use]
    pub fn origin(&self) -> Origin {
        self.net.origin_of(self.slot).unwrap_or(Origin::Listener(0)) // it is there
    }
}
