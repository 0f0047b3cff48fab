//! Sends everything back.

use crate::handler::ConnectionHandler;
use crate::net::Conn;

/// Answers bytes with the same bytes. At the peer's end it sends what it owes,
/// then ends as well: that is what `on_eof` does unless one writes it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Echo;

impl ConnectionHandler for Echo {
    type Session = ();

    fn on_data(&mut self, conn: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
        conn.write(input);
        input.len()
    }
}
