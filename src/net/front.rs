//! Clients that came through a front: which address really connected.
//!
//! Invariant: a connection has a [`Front`] from its header on until it is freed, if it came
//! through a listener for fronts; no other has one.

use super::{Conn, Net};
use crate::fallible;
use crate::kernel::Peer;
use std::net::SocketAddr;

/// What is known of the front through which a client came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Front {
    /// Who really connected.
    pub peer: Peer,
    /// Where the client had connected to, if the front named one.
    pub destination: Option<SocketAddr>,
}

impl Conn<'_> {
    /// The front through which the client came, if the listener
    /// [is for fronts](crate::address::Place::behind_front). [`peer`](Conn::peer) is then the
    /// client that it named, or, if it named none, the front itself.
    #[must_use]
    pub fn front(&self) -> Option<Front> {
        self.net.fronts.get(&self.slot).copied()
    }
}

impl Net {
    /// `None` if there is no memory for it.
    pub(crate) fn note_front(&mut self, slot: u32, front: Front) -> Option<()> {
        fallible::put(&mut self.fronts, slot, front)
    }

    /// Its connection is freed.
    pub(super) fn forget_front(&mut self, slot: u32) {
        self.fronts.remove(&slot);
    }
}
