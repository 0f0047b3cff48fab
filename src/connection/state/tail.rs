//! What a peer may still send to a connection that has ended.

use super::{Flow, Life, State};

/// What may still come, and is thrown away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tail {
    /// Anything: it is lingered for.
    Possible,
    /// Nothing, as the peer has said in the words of its protocol.
    Renounced,
    /// Nothing: EOF has been received.
    Over,
}

impl Flow {
    pub(super) fn tail(self) -> Tail {
        if self.is_ahead() { Tail::Possible } else { Tail::Over }
    }
}

impl Life {
    fn tail_mut(&mut self) -> Option<&mut Tail> {
        match &mut self.0 {
            State::Closing { tail, .. } | State::Delivering { tail, .. } => Some(tail),
            _ => None,
        }
    }

    /// The peer of a closing connection has said that it sends no more.
    pub(crate) fn renounce(&mut self) {
        if let Some(tail @ Tail::Possible) = self.tail_mut() {
            *tail = Tail::Renounced;
        }
    }

    /// Bytes have come on a closing connection, whatever the peer has said.
    pub(crate) fn talks_on(&mut self) {
        if let Some(tail @ Tail::Renounced) = self.tail_mut() {
            *tail = Tail::Possible;
        }
    }

    /// EOF has been received on a closing connection; `false` if it had been before.
    pub(crate) fn at_end(&mut self) -> bool {
        let tail = self.tail_mut().filter(|tail| **tail != Tail::Over);
        tail.map(|tail| *tail = Tail::Over).is_some()
    }
}
