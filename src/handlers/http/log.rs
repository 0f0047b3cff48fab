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

use super::status::Status;
use crate::escape::escaped;
use crate::kernel::Peer;
use crate::net::{Conn, ConnId};
use std::collections::BTreeMap;
use std::fmt::{self, Write};

/// The most bytes of a first line that are logged.
const SHOWN: usize = 1 << 10;

/// The function that takes lines, and the buffer in which they are formatted.
pub(super) struct AccessLog {
    write: Box<dyn FnMut(&str) + Send>,
    line: String,
    /// The answers that are still being sent, at most one for each connection.
    sending: BTreeMap<ConnId, Sending>,
}

/// An answer that is being sent.
struct Sending {
    peer: Peer,
    head: Vec<u8>,
    status: Status,
    /// How long its body is, and how much of the connection's output ends with it.
    length: u64,
    end: u64,
}

impl AccessLog {
    pub(super) fn new(write: impl FnMut(&str) + Send + 'static) -> AccessLog {
        AccessLog { write: Box::new(write), line: String::new(), sending: BTreeMap::new() }
    }

    /// An answer to `head` was written, with `length` bytes of body, `file` of them from a file.
    /// It is logged at once if it does not have to wait for the client.
    pub(super) fn begin(
        &mut self,
        conn: &mut Conn<'_>,
        date: &str,
        head: &[u8],
        status: Status,
        (length, file): (u64, u64),
    ) {
        if !conn.is_full() {
            return self.note(conn.peer(), date, head, status, length);
        }
        let end = conn.sent() + conn.queued() as u64 + file;
        let head = head.trim_ascii_start();
        let head = head.get(..SHOWN).unwrap_or(head).to_vec(); // no more is logged
        let sending = Sending { peer: conn.peer(), head, status, length, end };
        self.sending.insert(conn.id(), sending);
    }

    /// Logs the answer that was being sent, if any: it has been sent, or its connection has ended
    /// after `sent` bytes of output.
    pub(super) fn end(&mut self, id: ConnId, date: &str, sent: u64) {
        if let Some(Sending { peer, head, status, length, end }) = self.sending.remove(&id) {
            self.note(peer, date, &head, status, length.saturating_sub(end.saturating_sub(sent)));
        }
    }

    /// Logs the answer to `head`, of whose body `length` bytes were sent.
    fn note(&mut self, peer: Peer, date: &str, head: &[u8], status: Status, length: u64) {
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

/// The first line of a head, escaped for use between quotes; `-` if there is none.
struct FirstLine<'a>(&'a [u8]);

impl fmt::Display for FirstLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = self.0.trim_ascii_start();
        let line = head.split(|&byte| byte == b'\r' || byte == b'\n').next().unwrap_or_default();
        if line.is_empty() {
            return f.write_str("-");
        }
        let shown = line.get(..SHOWN).unwrap_or(line);
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
