//! A connection as the log shows it.

use super::{Connection, State};
use std::fmt;

/// The connection on one line, as the log and SIGUSR1 show it.
impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Connection { fd, received, sent, .. } = self;
        write!(
            f,
            "{} fd {fd:?}{}",
            self.peer(),
            match *self.state {
                State::Connecting { .. } => " Connecting",
                State::Preface { .. } => " Preface",
                State::Open(_) => " Open",
                State::Closing { .. } => " Closing",
                State::Lingering { .. } => " Lingering",
                State::Delivering { .. } => " Delivering",
                State::Broken { .. } => " Broken",
                State::Gone { .. } => "",
            }
        )?;
        write!(f, " received {received} sent {sent}")?;
        if self.rest() > 0 {
            write!(f, " rest {}", self.rest())?;
        }
        if self.unsent() > 0 {
            write!(f, " unsent {}", self.unsent())?;
        }
        let flags = [
            (self.state.has_heard_all(), "eof"),
            (self.state.is_paused(), "paused"),
            (self.state.is_full(), "full"),
        ];
        for (_, name) in flags.into_iter().filter(|(flag, _)| *flag) {
            write!(f, " {name}")?;
        }
        Ok(())
    }
}
