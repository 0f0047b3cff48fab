//! The access log: a line for each answer, in the common log format, with the number of bytes
//! of its body that were sent. An answer that has to wait for its client, as a large file
//! does, is logged when it has been sent, or when the connection has ended.
//!
//! ```text
//! 127.0.0.1 - - [06/Nov/1994:08:49:37 +0000] "GET /index.html HTTP/1.1" 200 1234
//! ```
//!
//! Text from a client is [escaped](crate::escape), and a quote is `\x22`, so that no client
//! can forge a line or a part of one.

use super::answer::LogDate;
use super::status::Status;
use crate::escape::escaped;
use crate::fallible::{Map, copied, put};
use crate::kernel::Peer;
use crate::net::{Conn, ConnId};
use std::fmt::{self, Write};

/// The most bytes of a first line that are logged.
const SHOWN: usize = 1 << 10;

/// What an answer that is being sent takes beside its first line, at most: maps double.
const MEMORY: usize = 2 * size_of::<(ConnId, Sending)>() + 64;

/// The function that takes lines, and the buffer in which they are formatted.
pub(super) struct AccessLog {
    write: Box<dyn FnMut(&str) + Send>,
    /// Has room for the longest.
    line: String,
    /// The answers that are still being sent, at most one for each connection.
    sending: Map<ConnId, Sending>,
}

/// An answer that is being sent.
struct Sending {
    peer: Peer,
    line: Vec<u8>,
    status: Status,
    /// How long its body is, and how much of the connection's output ends with it.
    length: u64,
    end: u64,
}

impl AccessLog {
    pub(super) fn new(write: impl FnMut(&str) + Send + 'static) -> AccessLog {
        let line = String::with_capacity(4 * SHOWN + 256); // a byte is four characters at most
        AccessLog { write: Box::new(write), line, sending: Map::default() }
    }

    /// An answer to `head` was written, with `length` bytes of body, of which `file` follow
    /// from a file. It is logged at once if it need not wait for the client, or if there is no memory
    /// to wait.
    pub(super) fn begin(
        &mut self,
        conn: &mut Conn<'_>,
        date: LogDate<'_>,
        head: &[u8],
        status: Status,
        (length, file): (u64, u64),
    ) {
        if !conn.takes_output() {
            return self.note(conn.peer(), date, head, status, 0); // the client is gone
        }
        if !conn.is_full() {
            return self.note(conn.peer(), date, head, status, length);
        }
        let end = conn.sent() + conn.queued() as u64 + file;
        let line = copied(first_line(head)); // no more is shown
        let memory = line.as_ref().map_or(0, Vec::capacity) + MEMORY;
        let sending = line.map(|line| Sending { peer: conn.peer(), line, status, length, end });
        match sending.and_then(|it| put(&mut self.sending, conn.id(), it)) {
            Some(()) => conn.charge(memory),
            None => self.note(conn.peer(), date, head, status, length),
        }
    }

    /// An answer ends, if one was being sent, and so does its connection, perhaps, of whose
    /// output `sent` bytes were sent. Whether there was one.
    pub(super) fn end(&mut self, id: ConnId, date: LogDate<'_>, sent: u64) -> bool {
        let ended = self.sending.remove(&id);
        if let Some(Sending { peer, line, status, length, end }) = &ended {
            self.note(*peer, date, line, *status, length.saturating_sub(end.saturating_sub(sent)));
        }
        ended.is_some()
    }

    /// Writes down the answer to `head`, of whose body `length` bytes were sent.
    fn note(&mut self, peer: Peer, date: LogDate<'_>, head: &[u8], status: Status, length: u64) {
        let request = FirstLine(head);
        self.line.clear();
        let _ = match peer {
            Peer::Tcp(address) => write!(self.line, "{}", address.ip()),
            Peer::Unix => write!(self.line, "-"),
        };
        let _ = write!(self.line, " - - [{date}] \"{request}\" {status} {length}");
        (self.write)(&self.line);
    }
}

/// The first line of a head, as far as it is logged.
fn first_line(head: &[u8]) -> &[u8] {
    let head = head.trim_ascii_start();
    let line = head.split(|&byte| byte == b'\r' || byte == b'\n').next().unwrap_or_default();
    line.get(..SHOWN).unwrap_or(line)
}

/// The first line of a head, escaped for use between quotes; `-` if there is none.
struct FirstLine<'a>(&'a [u8]);

impl fmt::Display for FirstLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = first_line(self.0);
        if shown.is_empty() {
            return f.write_str("-");
        }
        for (index, part) in shown.split(|&byte| byte == b'"').enumerate() {
            let quote = if index > 0 { r"\x22" } else { "" };
            write!(f, "{quote}{}", escaped(part))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_line_cannot_forge_a_line() {
        for (head, shown) in [
            (&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..], "GET / HTTP/1.1"),
            (b"\r\nGET / HTTP/1.0\r\n\r\n", "GET / HTTP/1.0"),
            (b"", "-"),
            (b"GET /\" 200 5 HTTP/1.1\n", r"GET /\x22 200 5 HTTP/1.1"),
            (b"\x16\x03\x01\x1b[2J", r"\x16\x03\x01\x1b[2J"),
            ("GET /\u{202e} HTTP/1.1".as_bytes(), r"GET /\xe2\x80\xae HTTP/1.1"),
        ] {
            assert_eq!(FirstLine(head).to_string(), shown);
        }
        assert_eq!(FirstLine(&[b'x'; 5_000]).to_string().len(), SHOWN);
    }
}
