//! Thanks for each message.

use super::{Framing, too_long};
use crate::framing::{Frame, Lines};
use crate::handler::ConnectionHandler;
use crate::net::Conn;

const THANKS: &[u8] = b"Thank you for your message ";

/// Answers each message with "Thank you for your message " and the message,
/// ended as the message was.
#[derive(Clone, Copy, Debug)]
pub struct Greet {
    framing: Framing,
    max_line: usize,
}

impl Greet {
    /// `max_line` bounds a line in bytes, its ending not counted.
    #[must_use]
    pub fn new(framing: Framing, max_line: usize) -> Greet {
        Greet { framing, max_line }
    }

    fn thank_for_lines(&self, conn: &mut Conn<'_>, lines: &mut Lines, input: &[u8]) -> usize {
        let mut rest = input;
        while !rest.is_empty() && !conn.is_full() {
            match lines.next(&mut rest, self.max_line) {
                Frame::Whole { raw, .. } => {
                    conn.write(THANKS);
                    conn.write(raw);
                }
                Frame::Partial => break,
                Frame::TooLong => {
                    too_long(conn, self.max_line);
                    conn.close();
                    break;
                }
            }
        }
        input.len() - rest.len()
    }
}

impl ConnectionHandler for Greet {
    type Session = Lines;

    #[inline]
    fn on_data(&mut self, conn: &mut Conn<'_>, lines: &mut Lines, input: &[u8]) -> usize {
        match self.framing {
            Framing::Line => self.thank_for_lines(conn, lines, input),
            Framing::Chunk => {
                conn.write(THANKS);
                conn.write(input);
                input.len()
            }
        }
    }

    /// A line without an end is a line too, if nothing more comes.
    fn on_eof(&mut self, conn: &mut Conn<'_>, _: &mut Lines, rest: &[u8]) {
        if rest.len() > self.max_line {
            too_long(conn, self.max_line);
        } else if !rest.is_empty() {
            conn.write(THANKS);
            conn.write(rest);
            conn.write(b"\n");
        }
        conn.close();
    }
}
