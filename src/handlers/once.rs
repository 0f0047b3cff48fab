//! Takes one message, and that is all.

use super::{Framing, NO_WEB, is_web, too_long};
use crate::framing::{Frame, Lines};
use crate::handler::ConnectionHandler;
use crate::net::{Conn, Net};

const ANSWER: &[u8] = b"Good talking to you\n";

/// Takes the first whole message of any client, answers "Good talking to you",
/// and stops the server. A client that leaves without a message is waited past, and so is one
/// that speaks HTTP: any web page could end the server otherwise.
pub struct Once<P> {
    framing: Framing,
    max_line: usize,
    print: P,
    done: bool,
}

impl<P: FnMut(&[u8])> Once<P> {
    /// `max_line` bounds a line in bytes, its ending not counted; `print` gets the message.
    pub fn new(framing: Framing, max_line: usize, print: P) -> Once<P> {
        Once { framing, max_line, print, done: false }
    }

    /// Whether the message has come.
    pub fn done(&self) -> bool {
        self.done
    }

    fn take(&mut self, conn: &mut Conn<'_>, message: &[u8]) {
        if is_web(message) {
            log::info!("an HTTP request from {} is no message", conn.peer());
            conn.write(NO_WEB);
            return conn.close();
        }
        (self.print)(message);
        self.done = true;
        conn.write(ANSWER);
        conn.close();
        conn.net().stop();
    }
}

impl<P: FnMut(&[u8])> ConnectionHandler for Once<P> {
    type Session = Lines;

    fn on_open(&mut self, conn: &mut Conn<'_>, _: &mut Lines) {
        if self.done {
            conn.close();
        }
    }

    fn on_data(&mut self, conn: &mut Conn<'_>, lines: &mut Lines, input: &[u8]) -> usize {
        if self.done {
            return input.len(); // somebody else was first
        }
        let mut rest = input;
        match self.framing {
            Framing::Chunk => self.take(conn, input),
            Framing::Line => match lines.next(&mut rest, self.max_line) {
                Frame::Whole { body, .. } => self.take(conn, body),
                Frame::Partial => return 0,
                Frame::TooLong => {
                    too_long(conn, self.max_line);
                    conn.close();
                }
            },
        }
        input.len()
    }

    /// A line without an end is a message too, if nothing more comes.
    fn on_eof(&mut self, conn: &mut Conn<'_>, _: &mut Lines, rest: &[u8]) {
        if rest.len() > self.max_line {
            too_long(conn, self.max_line);
        } else if !rest.is_empty() && !self.done {
            self.take(conn, rest);
        }
        conn.close();
    }

    /// The message has come: a stop need not wait for what others might say.
    fn on_shutdown(&mut self, net: &mut Net) {
        if self.done {
            let others: Vec<_> = net.ids().collect();
            others.into_iter().for_each(|id| _ = net.close(id));
        }
    }
}

impl<P> std::fmt::Debug for Once<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Once { framing, max_line, done, .. } = self;
        write!(f, "Once {{ {framing:?}, max_line: {max_line}, done: {done} }}")
    }
}
