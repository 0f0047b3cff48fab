//! Clients behind a front: the client is unknown before the header is whole.
//!
//! A connection of a listener for fronts begins as [Preface](State::Preface). `on_open` is
//! called, and its address counts, when the header has named the client. What is no header, or
//! not whole in time, is reset, and logged with its first bytes.

use super::Reactor;
use crate::close_reason::CloseReason;
use crate::connection::{Life, State};
use crate::escape::escaped;
use crate::handler::ConnectionHandler;
use crate::kernel::{Kernel, Peer};
use crate::net::{ConnId, Front};
use crate::proxy_header::{self, Header, Parsed};
use crate::reaction::Call;
use crate::time::Span;

/// A header must be whole after this long, or the message timeout if that is less.
const PATIENCE: Span = Span::millis(5_000);
/// While the server stops, after this long: most fronts send it as soon as they connect.
const PATIENCE_AT_A_STOP: Span = Span::millis(1_000);
/// Bytes that are shown of what is no header.
const SHOWN: usize = 8;

impl<H: ConnectionHandler, K: Kernel> Reactor<H, K> {
    /// The state of a connection that a listener for fronts has accepted.
    #[cold]
    pub(super) fn preface(&self) -> Life {
        Life::preface(self.net.now.after(self.header_patience()))
    }

    /// How long a header is awaited.
    pub(super) fn header_patience(&self) -> Span {
        let most = if self.net.is_draining() { PATIENCE_AT_A_STOP } else { PATIENCE };
        self.net.timeouts.usual.message.map_or(most, |message| message.min(most))
    }

    /// An event of a connection whose header is awaited.
    #[cold]
    pub(super) fn read_header(&mut self, slot: u32) {
        match self.recv(slot, proxy_header::LONGEST) {
            Ok(0) if self.header(slot).is_empty() => {
                self.net.close_slot(slot, CloseReason::PeerClosed)
            } // a probe
            Ok(0) => self.refuse_front(slot),
            Ok(n) => {
                let now = self.net.now;
                let fresh = self.input.get(..n).unwrap_or_default();
                self.net.change(slot, |connection| {
                    if connection.state.keep_header(fresh, now).is_none() {
                        connection.abort(CloseReason::MemoryBudget);
                    }
                });
                match proxy_header::parse(self.header(slot)) {
                    Parsed::Partial => {}
                    Parsed::Whole(header) => self.introduce(slot, header),
                    Parsed::Wrong => self.refuse_front(slot),
                }
            }
            Err(errno) => self.net.failed(slot, Call::Recv, errno),
        }
    }

    /// What has come of a header.
    fn header(&self, slot: u32) -> &[u8] {
        match self.net.table.look(slot).map(|connection| &*connection.state) {
            Some(State::Preface { header, .. }) => header.pieces().next().unwrap_or_default(),
            _ => &[],
        }
    }

    /// The header is whole: the client is in service, and what followed the header is offered.
    fn introduce(&mut self, slot: u32, header: Header) {
        let Some(connection) = self.net.table.look(slot) else { return };
        let front = connection.peer();
        let client = header.addresses.map_or(front, |(client, _)| Peer::Tcp(client));
        let destination = header.addresses.map(|(_, destination)| destination);
        let (now, noted) = (self.net.now, Front { peer: front, destination });
        let entered = self.net.note_front(slot, noted).ok_or(CloseReason::MemoryBudget);
        let entered = entered.and_then(|()| self.enter(client));
        self.net.hand_over(slot, client);
        self.net.change(slot, |connection| {
            connection.introduced(client, header.length, now);
            if let Err(why) = entered {
                connection.gone(why);
            }
        });
        if let Err(why) = entered {
            return log::debug!("turned away {client}: {why}");
        }
        if let Some(connection) = self.net.table.look(slot) {
            log::debug!("opened {} {connection}", ConnId(self.net.table.id(slot)));
        }
        self.unnamed -= 1;
        self.open_session(slot);
        self.step(slot);
    }

    /// The header is not whole in time. A stop ends those that have not begun one in order.
    #[cold]
    pub(super) fn header_is_late(&mut self, slot: u32) {
        match self.net.is_draining() && self.header(slot).is_empty() {
            true => self.net.close_slot(slot, CloseReason::Shutdown),
            false => self.refuse_front(slot),
        }
    }

    /// It did not begin with a header, or the header is not whole in time.
    #[cold]
    fn refuse_front(&mut self, slot: u32) {
        let Some(connection) = self.net.table.look(slot) else { return };
        let header = self.header(slot);
        let first = escaped(header.get(..SHOWN).unwrap_or(header));
        log::debug!("turned away {}: no PROXY header, first bytes \"{first}\"", connection.peer());
        self.net.abort(slot, CloseReason::ProxyHeader);
    }
}
