//! A connection as the log shows it, and what would be wrong with it.

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

impl Connection {
    /// What is wrong with a settled connection, if anything is: what types cannot say.
    pub(crate) fn contradiction(&self) -> Option<&'static str> {
        let claims = match &*self.state {
            State::Open(open) => [
                (!open.flow.is_again() || !open.input.is_empty(), "nothing is to be offered again"),
                (
                    open.unsent.file.is_none() || open.flow.is_full(),
                    "a file is sent, but it is not full",
                ),
                (
                    open.flow.reading().is_some() || open.input.is_empty(),
                    "a rest stands behind the end",
                ),
            ],
            _ => [(true, ""); 3],
        };
        claims.into_iter().find(|(holds, _)| !holds).map(|(_, wrong)| wrong)
    }
}
