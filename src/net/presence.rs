//! Whether a connection is still there, for the threads that work for it.
//!
//! Invariant: only connections that have had a job are in `presences`, each until it is freed; what
//! was read as gone stays gone.

use super::{Conn, Net};
use crate::fallible::{self, has_room_for_shared};
use std::alloc::Layout;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Says to a [job](Conn::work) whether the connection it works for is gone.
#[derive(Clone, Debug, Default)]
pub struct Presence(Arc<AtomicBool>);

impl Presence {
    /// Whether the connection has ended, so that no client waits for the answer.
    ///
    /// A client that resets is gone at once. One that only ends its direction is not, because it
    /// may wait for its answer, unless the handler
    /// [ends it](crate::ConnectionHandler::on_hangup).
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Net {
    /// A connection is gone.
    pub(super) fn end_presence(&mut self, slot: u32) {
        if let Some(presence) = self.presences.remove(&slot) {
            presence.0.store(true, Ordering::Relaxed);
        }
    }
}

impl Conn<'_> {
    /// Lets another thread see when this connection is gone. `None` if there is no memory.
    pub(super) fn presence(&mut self) -> Option<Presence> {
        let Conn { net, slot } = self;
        if let Some(presence) = net.presences.get(slot) {
            return Some(presence.clone());
        }
        let presence = has_room_for_shared(Layout::new::<AtomicBool>()).then(Presence::default)?;
        fallible::put(&mut net.presences, *slot, presence.clone())?;
        Some(presence)
    }
}
