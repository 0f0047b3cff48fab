//! The beginning of a connection behind a front: its header.

use super::{Life, Open, State};
use crate::buffer::Buffer;
use crate::time::Moment;

impl Life {
    /// A connection that a listener for fronts has accepted: its header must be whole by
    /// `deadline`.
    pub(crate) fn preface(deadline: Moment) -> Life {
        Life(State::Preface { header: Buffer::default(), deadline })
    }

    /// A header is awaited no longer than until then.
    pub(crate) fn limit_deadline(&mut self, most: Moment) {
        if let State::Preface { deadline, .. } = &mut self.0 {
            *deadline = (*deadline).min(most);
        }
    }

    /// Keeps what has come of a header, in one piece.
    pub(crate) fn keep_header(&mut self, fresh: &[u8], now: Moment) -> Option<()> {
        let State::Preface { header, .. } = &mut self.0 else { return Some(()) };
        header.join(fresh, now)
    }
}

impl Open {
    /// A connection that begins with `input`, of which `length` bytes were for us.
    pub(super) fn behind(mut input: Buffer, length: usize) -> Open {
        input.consume(length);
        let mut open = Open { input, ..Open::default() };
        open.flow.set_again(!open.input.is_empty());
        open
    }
}
