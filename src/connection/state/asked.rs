//! What a handler asks of a connection, in whatever state that is.
//!
//! Of a connection that is not established yet it is noted, and done then; of one that has ended
//! it is nothing, and no mistake: the handler need not know.

use super::{Flow, Level, Life, Open, Reading, State, Unsent};
use crate::time::Moment;
use std::mem::take;

/// What a handler has asked of a connection for as long as it goes on. Each is independent of the
/// others.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Asked {
    /// It wants no input for now.
    pub(crate) paused: bool,
    /// It holds it: a stop does not end it by itself.
    pub(crate) held: bool,
    /// Input is offered even while output is full, because it is answered on another connection
    /// (proxy).
    pub(crate) duplex: bool,
}

impl Asked {
    /// Whether its input is worth waiting for even if the peer cannot be answered.
    pub(crate) fn keeps_input(self) -> bool {
        self.duplex && self.paused
    }
}

/// A connection that is not established yet: what it will begin with.
#[derive(Debug, Default)]
pub(crate) struct Early {
    pub(super) unsent: Unsent,
    pub(super) timer: Option<Moment>,
    pub(super) asked: Asked,
    /// Output has reached the high water mark.
    pub(super) full: bool,
    /// FIN follows the last byte of output. (Full or not.)
    pub(super) finish: bool,
}

impl Life {
    fn asked(&mut self) -> Option<&mut Asked> {
        match &mut self.0 {
            State::Connecting { early: Early { asked, .. }, .. }
            | State::Open(Open { asked, .. })
            | State::Broken { asked, .. } => Some(asked),
            _ => None,
        }
    }

    pub(crate) fn pause(&mut self) {
        self.asked().into_iter().for_each(|asked| asked.paused = true);
    }

    pub(crate) fn resume(&mut self, now: Moment) {
        if self.asked().is_some_and(|asked| take(&mut asked.paused)) {
            self.set_again(true);
        }
        self.input_mut().into_iter().for_each(|input| input.touch(now));
    }

    /// The peer's end has come during a pause; whether the handler is to hear of it.
    pub(crate) fn hang_up(&mut self) -> bool {
        let is_awaited = self.0.awaits_hangup();
        if let State::Open(open) = &mut self.0 {
            open.hung_up |= is_awaited;
        }
        is_awaited
    }

    pub(crate) fn finish(&mut self) {
        match &mut self.0 {
            State::Connecting { early, .. } => early.finish = true,
            State::Open(open) => open.flow.finish(),
            _ => {}
        }
    }

    pub(crate) fn duplex(&mut self, duplex: bool) {
        self.asked().into_iter().for_each(|asked| asked.duplex = duplex);
    }

    pub(crate) fn hold(&mut self, held: bool) {
        self.asked().into_iter().for_each(|asked| asked.held = held);
    }

    /// When the handler wants to be called next.
    pub(crate) fn timer(&self) -> Option<Moment> {
        match &self.0 {
            State::Connecting { early, .. } => early.timer,
            State::Open(open) => open.timer,
            _ => None,
        }
    }

    pub(crate) fn set_timer(&mut self, at: Option<Moment>) {
        match &mut self.0 {
            State::Connecting { early, .. } => early.timer = at,
            State::Open(open) => open.timer = at,
            _ => {}
        }
    }

    pub(crate) fn charge(&mut self, bytes: usize) {
        if let State::Open(open) = &mut self.0 {
            open.charged = u32::try_from(bytes).unwrap_or(u32::MAX);
        }
    }

    /// A file goes behind what was written; until it is sent, the connection is full.
    pub(crate) fn write_file(&mut self) {
        if let Some(unsent) = self.unsent_mut() {
            unsent.file = Some(Box::default());
        }
        self.become_full();
    }
}

impl Early {
    /// As an [`Open`] has it.
    pub(crate) fn flow(&self) -> Flow {
        let level = if self.full { Level::Full } else { Level::Low };
        Flow::Both { reading: Reading::default(), level, finish: self.finish }
    }

    /// What becomes of it when the connection is established.
    pub(super) fn open(&mut self, now: Moment) -> Open {
        let flow = self.flow();
        let Early { unsent, timer, asked, .. } = take(self);
        let mut open = Open { unsent, timer, flow, asked, ..Open::default() };
        open.unsent.bytes.touch(now); // until now the kernel could take nothing
        open
    }
}
