//! What the server has done so far, in numbers.
//!
//! Invariant: the sum of `closed` and of the connections that are open is that of `accepted` and
//! `connected`. Bytes of a connection are added when it ends.

use crate::close_reason::CloseReason;
use std::fmt;
use std::iter::Sum;

/// Counts since the server was built.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Connections taken from the listeners.
    pub accepted: u64,
    /// Connections that the handler began.
    pub connected: u64,
    /// Connections that ended, by [`CloseReason::kind`]. When none is open, the sum is that of
    /// `accepted` and `connected`.
    pub closed: [u64; CloseReason::KINDS.len()],
    /// Bytes received by connections that have ended.
    pub received: u64,
    /// Bytes the kernel took from connections that have ended.
    pub sent: u64,
    /// Clients lost between connecting and accept4.
    pub accept_failed: u64,
    /// Times a listener was paused for want of descriptors or memory.
    pub accept_paused: u64,
    /// Mistakes of the server or its handler: each is logged and costs one call or connection.
    pub bugs: u64,
}

impl Counters {
    pub(crate) fn count_close(&mut self, why: CloseReason) {
        if let Some(count) = self.closed.get_mut(why.kind()) {
            *count += 1;
        }
    }

    /// Counts and logs a mistake of the server or its handler.
    #[cold]
    pub(crate) fn bug(&mut self, what: impl fmt::Display) {
        self.bugs += 1;
        log::error!("bug: {what}");
    }

    /// How many connections have ended for a reason of this kind.
    #[must_use]
    pub fn closed_for(&self, why: CloseReason) -> u64 {
        self.closed.get(why.kind()).copied().unwrap_or(0)
    }
}

/// What several servers have done together.
impl Sum for Counters {
    fn sum<I: Iterator<Item = Counters>>(all: I) -> Counters {
        all.fold(Counters::default(), |mut sum, it| {
            sum.accepted += it.accepted;
            sum.connected += it.connected;
            sum.closed.iter_mut().zip(it.closed).for_each(|(sum, count)| *sum += count);
            sum.received += it.received;
            sum.sent += it.sent;
            sum.accept_failed += it.accept_failed;
            sum.accept_paused += it.accept_paused;
            sum.bugs += it.bugs;
            sum
        })
    }
}

/// `12 accepted, 10 closed (9 peer closed, 1 idle), 340 bytes received, 610 sent`
impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let closed: u64 = self.closed.iter().sum();
        write!(f, "{} accepted, ", self.accepted)?;
        if self.connected > 0 {
            write!(f, "{} connected, ", self.connected)?;
        }
        write!(f, "{closed} closed")?;
        let mut before = " (";
        for (kind, count) in CloseReason::KINDS.iter().zip(self.closed) {
            if count > 0 {
                write!(f, "{before}{count} {kind}")?;
                before = ", ";
            }
        }
        f.write_str(if closed > 0 { ")" } else { "" })?;
        write!(f, ", {} bytes received, {} sent", self.received, self.sent)?;
        let rare = [
            (self.accept_failed, "lost before accept"),
            (self.accept_paused, "pauses of accepting"),
            (self.bugs, "bugs"),
        ];
        for (count, what) in rare.into_iter().filter(|&(count, _)| count > 0) {
            write!(f, ", {count} {what}")?;
        }
        Ok(())
    }
}
