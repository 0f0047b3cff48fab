//! Whether a connection is still there, for threads that work for it.

use super::{Conn, Net};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Says to any thread whether a connection is gone. It comes from [`Conn::presence`].
#[derive(Clone, Debug, Default)]
pub struct Presence(Arc<AtomicBool>);

impl Presence {
    /// Whether the connection has ended, so that no client waits for the answer.
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
    /// Lets another thread see when this connection is gone.
    ///
    /// A client that is reset while it is [paused](Conn::pause) is noticed at once. One that only
    /// ends its side is not: it may well wait for its answer.
    pub fn presence(&mut self) -> Presence {
        self.net.presences.entry(self.slot).or_default().clone()
    }
}
