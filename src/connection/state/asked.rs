//! What a handler asks of a connection, in whatever state that is.
//!
//! Of a connection that is not established yet it is noted, and done then; of one that has ended
//! it is nothing, and no mistake: the handler need not know.

#[cfg(feature = "sim")]
use super::Reading;
use super::{Early, Fin, Level, Life, Open, State, Writing};
use crate::time::Moment;
use std::mem::take;

impl Life {
    pub(crate) fn pause(&mut self) {
        match &mut self.0 {
            State::Connecting { early, .. } => early.paused = true,
            State::Open(Open { reading, .. }) | State::Broken { reading, .. } => {
                reading.paused = true;
            }
            _ => {}
        }
    }

    pub(crate) fn resume(&mut self, now: Moment) {
        if let State::Connecting { early, .. } = &mut self.0 {
            early.paused = false;
        }
        if let Some((input, reading)) = self.input_mut() {
            reading.again |= reading.paused;
            reading.paused = false;
            input.touch(now);
        }
    }

    /// The peer's end has come during a pause; whether the handler is to hear of it.
    pub(crate) fn hang_up(&mut self) -> bool {
        let is_awaited = self.0.awaits_hangup();
        if let Some((_, reading)) = self.input_mut() {
            reading.hung_up |= is_awaited;
        }
        is_awaited
    }

    pub(crate) fn finish(&mut self) {
        match &mut self.0 {
            State::Connecting { early, .. } => early.finish = true,
            State::Open(Open { writing, .. }) if writing.fin == Fin::No => {
                writing.fin = Fin::Wanted;
            }
            _ => {}
        }
    }

    pub(crate) fn duplex(&mut self, duplex: bool) {
        match &mut self.0 {
            State::Connecting { early, .. } => early.duplex = duplex,
            State::Open(open) => open.duplex = duplex,
            _ => {}
        }
    }

    pub(crate) fn hold(&mut self, held: bool) {
        match &mut self.0 {
            State::Connecting { early, .. } => early.held = held,
            State::Open(open) => open.held = held,
            _ => {}
        }
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
    /// As [`Open`] would have it.
    #[cfg(feature = "sim")]
    pub(crate) fn place(&self) -> (Reading, Writing, bool) {
        let level = if self.full { Level::Full } else { Level::Low };
        let fin = if self.finish { Fin::Wanted } else { Fin::No };
        let reading = Reading { paused: self.paused, ..Reading::default() };
        (reading, Writing { level, fin }, self.unsent.file.is_some())
    }

    /// What becomes of it when the connection is established.
    pub(super) fn open(&mut self, now: Moment) -> Open {
        let Early { unsent, full, finish, paused, duplex, held, timer } = take(self);
        let mut open = Open { unsent, timer, held, duplex, ..Open::default() };
        open.unsent.bytes.touch(now); // until now the kernel could take nothing
        open.reading.paused = paused;
        open.writing = Writing {
            level: if full { Level::Full } else { Level::Low },
            fin: if finish { Fin::Wanted } else { Fin::No },
        };
        open
    }
}
