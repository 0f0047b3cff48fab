//! Read access to the state, for code that must not change it.

use super::{Early, Fin, Level, Open, State, Unsent};
use crate::buffer::Buffer;
use crate::close_reason::CloseReason;

impl State {
    /// Stands for RDHUP in the mask of what epoll watches, of which a connection keeps a byte.
    pub(crate) const HANGUP: u8 = 1 << 6;

    pub(crate) fn open(&self) -> Option<&Open> {
        if let State::Open(open) = self { Some(open) } else { None }
    }

    pub(crate) fn input(&self) -> Option<&Buffer> {
        match self {
            State::Open(Open { input, .. }) | State::Broken { input, .. } => Some(input),
            _ => None,
        }
    }

    /// Whether the rest is to be offered again without new bytes.
    pub(crate) fn is_again(&self) -> bool {
        match self {
            State::Open(open) => open.flow.is_again(),
            State::Broken { again, .. } => *again,
            _ => false,
        }
    }

    /// Whether the handler wants no input for now.
    pub(crate) fn is_paused(&self) -> bool {
        match self {
            State::Connecting { early, .. } => early.asked.paused,
            State::Open(open) => open.asked.paused,
            State::Broken { asked, .. } => asked.paused,
            _ => false,
        }
    }

    /// Whether the handler is to be called because output was drained.
    pub(crate) fn is_drained(&self) -> bool {
        match self {
            State::Open(open) => open.flow.level() == Level::Drained,
            State::Broken { drained, .. } => *drained,
            _ => false,
        }
    }

    /// Whether the peer's end has been received, while what it sent is for the handler.
    pub(crate) fn has_heard_all(&self) -> bool {
        self.open().is_some_and(|open| !open.flow.is_ahead())
    }

    pub(crate) fn unsent(&self) -> Option<&Unsent> {
        match self {
            State::Connecting { early, .. } => Some(&early.unsent),
            State::Open(Open { unsent, .. })
            | State::Closing { unsent, .. }
            | State::Delivering { unsent, .. } => Some(unsent),
            _ => None,
        }
    }

    /// Whether the handler may write.
    pub(crate) fn takes_output(&self) -> bool {
        match self {
            State::Connecting { early, .. } => !early.finish,
            State::Open(open) => open.flow.fin() == Fin::No,
            _ => false,
        }
    }

    /// Whether a write would come behind a file that is not sent yet.
    pub(crate) fn is_behind_a_file(&self) -> bool {
        match self {
            State::Connecting { early: Early { unsent, .. }, .. }
            | State::Open(Open { unsent, .. }) => unsent.file.is_some(),
            _ => false,
        }
    }

    /// Whether a file, or FIN, follows what is written at once: one packet can have both.
    pub(crate) fn is_followed(&self) -> bool {
        matches!(self, State::Closing { .. }) || self.is_behind_a_file()
    }

    /// Whether output is above the high water mark.
    pub(crate) fn is_full(&self) -> bool {
        match self {
            State::Connecting { early, .. } => early.full,
            State::Open(open) => open.flow.is_full(),
            _ => false,
        }
    }

    /// Whether the handler is to hear that the peer's end has come while nothing is read.
    pub(super) fn awaits_hangup(&self) -> bool {
        let is_awaited =
            |open: &Open| open.asked.paused && !open.hung_up && open.flow.reading().is_some();
        self.open().is_some_and(is_awaited)
    }

    /// The same as a mask.
    pub(crate) fn hangup_mask(&self) -> u8 {
        if self.awaits_hangup() { State::HANGUP } else { 0 }
    }

    pub(crate) fn is_connecting(&self) -> bool {
        matches!(self, State::Connecting { .. })
    }

    pub(crate) fn is_gone(&self) -> bool {
        matches!(self, State::Gone { .. })
    }

    /// Why it ended, once it has.
    pub(crate) fn why(&self) -> Option<CloseReason> {
        match self {
            State::Connecting { .. } | State::Preface { .. } | State::Open(_) => None,
            State::Closing { why, .. }
            | State::Delivering { why, .. }
            | State::Lingering { why, .. }
            | State::Broken { why, .. }
            | State::Gone { why, .. } => Some(*why),
        }
    }
}

impl Open {
    /// Whether output, or a shortage of memory, holds up the input.
    pub(crate) fn holds_up_input(&self) -> bool {
        if self.asked.duplex { self.flow.is_starved() } else { self.flow.is_full() }
    }

    /// Whether it is read, or would be if its output were taken, and output waits.
    pub(crate) fn waits_to_send(&self) -> bool {
        !self.asked.paused && (self.holds_up_input() || !self.unsent.is_empty())
    }
}
