//! The two directions of a connection in service, and how far each has come.
//!
//! ```text
//!      no memory to read into              our FIN is sent
//!   Starved ◀───────────────▶ Both ───────────────────────▶ HalfClosedLocal
//!      (its FIN may be sent)   │                                  │
//!                              │ the handler hears the peer's end │
//!                              ▼                                  ▼
//!                       HalfClosedRemote ─── all is sent ────▶ (the connection is gone)
//! ```
//!
//! Invariants:
//! 1. What a variant carries are independent facts: each combination occurs.
//! 2. When it is settled, output that is Full is owed: it waits for the kernel. So after our FIN,
//!    which is behind all of it, it is not Full.

/// Which of its directions go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// Both.
    Both {
        reading: Reading,
        level: Level,
        /// FIN follows the last byte of output.
        finish: bool,
    },
    /// The peer is to be read, and there is no memory to read into. For its handler it is full.
    Starved { fin: Fin },
    /// The peer's: our FIN is sent.
    HalfClosedLocal { reading: Reading, level: Level },
    /// Ours: the handler has been called with the peer's end.
    HalfClosedRemote { level: Level, finish: bool },
}

/// How far the peer's direction has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reading {
    /// EOF has been received.
    pub(crate) ended: bool,
    /// The rest is to be offered again without new bytes.
    pub(crate) again: bool,
}

/// How much output waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Level {
    #[default]
    Low,
    /// Output was above the high water mark and has not fallen below the low one.
    Full,
    /// It has fallen below, or memory is there again, and the handler is to be called.
    Drained,
}

/// Whether the handler has ended our direction while it goes on reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fin {
    /// The handler has not ended it.
    No,
    /// FIN follows the last byte of output.
    Wanted,
    /// FIN is sent.
    Sent,
}

impl Default for Flow {
    fn default() -> Flow {
        Flow::Both { reading: Reading::default(), level: Level::Low, finish: false }
    }
}

impl Flow {
    // ---- what it is ----------------------------------------------------------------------

    /// The peer's direction, unless the handler knows of its end.
    pub(crate) fn reading(self) -> Option<Reading> {
        match self {
            Flow::Both { reading, .. } | Flow::HalfClosedLocal { reading, .. } => Some(reading),
            Flow::Starved { .. } => Some(Reading::default()),
            Flow::HalfClosedRemote { .. } => None,
        }
    }

    /// Whether the peer's end has not been received.
    pub(crate) fn is_ahead(self) -> bool {
        match self {
            Flow::Both { reading, .. } | Flow::HalfClosedLocal { reading, .. } => !reading.ended,
            Flow::Starved { .. } => true,
            Flow::HalfClosedRemote { .. } => false,
        }
    }

    pub(crate) fn is_again(self) -> bool {
        self.reading().is_some_and(|reading| reading.again)
    }

    /// Whether it can only go on by reading.
    pub(crate) fn needs_to_read(self) -> bool {
        self.reading() == Some(Reading::default())
    }

    pub(crate) fn level(self) -> Level {
        match self {
            Flow::Both { level, .. }
            | Flow::HalfClosedLocal { level, .. }
            | Flow::HalfClosedRemote { level, .. } => level,
            Flow::Starved { .. } => Level::Full,
        }
    }

    pub(crate) fn is_full(self) -> bool {
        self.level() == Level::Full
    }

    pub(crate) fn is_starved(self) -> bool {
        matches!(self, Flow::Starved { .. })
    }

    pub(crate) fn fin(self) -> Fin {
        match self {
            Flow::Both { finish: true, .. } | Flow::HalfClosedRemote { finish: true, .. } => {
                Fin::Wanted
            }
            Flow::Both { .. } | Flow::HalfClosedRemote { .. } => Fin::No,
            Flow::HalfClosedLocal { .. } => Fin::Sent,
            Flow::Starved { fin } => fin,
        }
    }

    pub(crate) fn has_sent_fin(self) -> bool {
        matches!(self, Flow::HalfClosedLocal { .. } | Flow::Starved { fin: Fin::Sent })
    }

    // ---- what becomes of it --------------------------------------------------------------

    /// EOF has been received, perhaps behind a rest.
    pub(crate) fn ended(&mut self, has_rest: bool) {
        if let Some(reading) = self.reading_mut() {
            *reading = Reading { ended: true, again: reading.again || has_rest };
        }
    }

    /// Whether the rest is to be offered again.
    pub(crate) fn set_again(&mut self, again: bool) {
        if again != self.is_again()
            && let Some(reading) = self.reading_mut()
        {
            reading.again = again;
        }
    }

    /// Who has something to be offered waits for memory no longer.
    fn reading_mut(&mut self) -> Option<&mut Reading> {
        self.feed(Level::Full);
        match self {
            Flow::Both { reading, .. } | Flow::HalfClosedLocal { reading, .. } => Some(reading),
            _ => None,
        }
    }

    /// The handler is called with the peer's end.
    pub(crate) fn told(&mut self) {
        *self = match *self {
            Flow::Both { level, finish, .. } => Flow::HalfClosedRemote { level, finish },
            flow => Flow::HalfClosedRemote { level: flow.level(), finish: flow.fin() != Fin::No },
        };
    }

    /// The handler ends our direction.
    pub(crate) fn finish(&mut self) {
        match self {
            Flow::Both { finish, .. } | Flow::HalfClosedRemote { finish, .. } => *finish = true,
            Flow::Starved { fin: fin @ Fin::No } => *fin = Fin::Wanted,
            Flow::Starved { .. } | Flow::HalfClosedLocal { .. } => {}
        }
    }

    /// All output is sent; whether FIN is to be sent now, which it is from now on.
    pub(crate) fn take_fin(&mut self) -> bool {
        *self = match *self {
            Flow::Both { reading, level, finish: true } => Flow::HalfClosedLocal { reading, level },
            Flow::Starved { fin: Fin::Wanted } => Flow::Starved { fin: Fin::Sent },
            _ => return false,
        };
        true
    }

    pub(crate) fn set_level(&mut self, new: Level) {
        match self {
            Flow::Both { level, .. }
            | Flow::HalfClosedLocal { level, .. }
            | Flow::HalfClosedRemote { level, .. } => *level = new,
            Flow::Starved { .. } => {}
        }
    }

    /// There was no memory to read into.
    pub(crate) fn starve(&mut self) {
        if self.needs_to_read() {
            *self = Flow::Starved { fin: self.fin() };
        }
    }

    /// It does not starve any more.
    fn feed(&mut self, level: Level) {
        let Flow::Starved { fin } = *self else { return };
        let reading = Reading::default();
        *self = match fin {
            Fin::Sent => Flow::HalfClosedLocal { reading, level },
            fin => Flow::Both { reading, level, finish: fin == Fin::Wanted },
        };
    }

    /// What follows from whether so much output is owed that it is full, and from whether it
    /// would be read and `starves`.
    pub(crate) fn settle(&mut self, owes: bool, starves: bool) {
        let level = if owes { Level::Full } else { Level::Drained };
        match self.level() {
            _ if self.is_starved() && starves => {}
            _ if self.is_starved() => self.feed(level),
            Level::Full if !owes && starves => self.starve(),
            Level::Full => self.set_level(level),
            Level::Low | Level::Drained if owes => self.set_level(level),
            Level::Low | Level::Drained => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A starved connection is read again as it was, with the FIN that was sent meanwhile.
    #[test]
    fn an_end_that_is_sent_while_starving() {
        let mut flow = Flow::default();
        flow.set_level(Level::Full);
        flow.settle(true, true);
        assert!(!flow.is_starved(), "its output is what it waits for");
        flow.settle(false, true);
        assert!(flow.is_starved() && flow.is_full());
        assert!(!flow.take_fin());
        flow.finish();
        assert!(flow.take_fin() && !flow.take_fin());
        flow.settle(false, false);
        let (reading, level) = (Reading::default(), Level::Drained);
        assert_eq!(flow, Flow::HalfClosedLocal { reading, level });
    }

    /// A connection with bytes to offer, or an end to report, need not be read for that.
    #[test]
    fn who_has_something_to_be_offered_does_not_starve() {
        let (mut again, mut ended) = (Flow::default(), Flow::default());
        again.set_again(true);
        ended.ended(false);
        for flow in [&mut again, &mut ended] {
            let before = *flow;
            flow.starve();
            assert_eq!(*flow, before);
        }
    }
}
