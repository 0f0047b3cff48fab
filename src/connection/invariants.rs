//! What holds of each settled connection, and types cannot say. Debug builds check it.
//!
//! What types do say is not here: only a Starved connection starves, and no input is read behind
//! an end that the handler has heard. What all connections hold together is checked where it is
//! counted, in `net/table.rs`.

use super::{Connection, Fin, State};

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
                (
                    open.flow.fin() != Fin::Sent || open.flow.is_starved() || !open.flow.is_full(),
                    "it is full, but FIN is behind all of it",
                ),
            ],
            _ => [(true, ""); 4],
        };
        claims.into_iter().find(|(holds, _)| !holds).map(|(_, wrong)| wrong)
    }
}
