//! Lines that may come from telnet(1). RFC 854
//!
//! Between the typed bytes telnet sends commands: IAC and one byte, or IAC, a verb and an
//! option, or anything between IAC SB and IAC SE, LF included. Commands are not part of a
//! line, and two of the verbs need an answer. After Ctrl-C telnet sends IAC DO TIMING-MARK
//! and shows nothing until it is answered. So DO is answered with WONT and WILL with DONT,
//! which refuses every option. WONT and DONT are answers themselves; answering them could
//! go on forever.
//!
//! ```text
//!  Text ──IAC──▶ Command ──DO, WILL, DONT, WONT──▶ Option ──any──▶ Text
//!                 │   └───SB──▶ Sub ──IAC──▶ SubEnd ──SE──▶ Text
//!                 │              └──◀── any ───┘
//!                 └──another command──▶ Text
//! ```
//!
//! IAC is no byte of UTF-8. IAC IAC is the byte itself, and an IAC that begins no command is
//! a byte that was typed.
//!
//! Invariants:
//! 1. No byte is searched twice before its line is complete.
//! 2. A command in front of a line is consumed at once: a client that sends only commands,
//!    as a keep-alive, has begun no line.

use crate::fallible::with_room;
use crate::framing::Frame;
use memchr::{memchr, memchr2};
use std::borrow::Cow;

const SE: u8 = 240;
const SB: u8 = 250;
const WILL: u8 = 251;
const WONT: u8 = 252;
const DO: u8 = 253;
const DONT: u8 = 254;
const IAC: u8 = 255;
/// The first of the commands: end of file, of telnet's line mode. RFC 1184
const FIRST: u8 = 236;

/// How far a command has come, if one has begun.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Text,
    Command,
    Option(u8),
    Sub,
    SubEnd,
}

/// The meaning of a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Was {
    Text,
    /// The IAC before it was text, and this byte has to be read again.
    NoCommand,
    /// A part of a command.
    Command,
    /// The end of a command, and its answer.
    Asked([u8; 3]),
}

impl State {
    fn step(self, byte: u8) -> (State, Was) {
        match (self, byte) {
            (State::Text, IAC) => (State::Command, Was::Command),
            (State::Text, _) | (State::Command, IAC) => (State::Text, Was::Text),
            (State::Command, SB) => (State::Sub, Was::Command),
            (State::Command, WILL | WONT | DO | DONT) => (State::Option(byte), Was::Command),
            (State::Command, FIRST..) => (State::Text, Was::Command),
            (State::Command, _) => (State::Text, Was::NoCommand),
            (State::Option(DO), option) => (State::Text, Was::Asked([IAC, WONT, option])),
            (State::Option(WILL), option) => (State::Text, Was::Asked([IAC, DONT, option])),
            (State::Option(_), _) | (State::SubEnd, SE) => (State::Text, Was::Command),
            (State::Sub, IAC) => (State::SubEnd, Was::Command),
            (State::Sub | State::SubEnd, _) => (State::Sub, Was::Command),
        }
    }
}

/// Finds lines that end in LF or CRLF, with telnet's commands between them. One per connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lines {
    /// Bytes at the front of the input that have been searched.
    searched: u32,
    /// The state after the last searched byte.
    state: State,
    /// Whether there is text among the searched bytes.
    has_text: bool,
}

impl Lines {
    /// Takes the next line from the front of `input`, which must begin where the last one
    /// taken ended; the caller has to [clean](clean) the body. `max` bounds a line in bytes,
    /// commands included, its ending not. `answer` gets the answers to telnet.
    pub(super) fn next<'a>(
        &mut self,
        input: &mut &'a [u8],
        max: usize,
        mut answer: impl FnMut(&[u8]),
    ) -> Frame<'a> {
        loop {
            let at = self.searched as usize;
            let unsearched = input.get(at..).unwrap_or_default();
            let Some(&byte) = unsearched.first() else { break };
            if self.state == State::Text
                && let Some(length) = plain(unsearched)
            {
                if unsearched.get(length) == Some(&b'\n') {
                    return self.take(input, at + length, max);
                }
                self.has_text = true;
                self.searched += length as u32;
                continue;
            }
            let (state, was) = self.state.step(byte);
            self.state = state;
            match was {
                Was::NoCommand => {
                    self.has_text = true;
                    continue;
                }
                Was::Text => self.has_text = true,
                Was::Command => {}
                Was::Asked(due) => answer(&due),
            }
            self.searched += 1;
            // After an IAC it is not known yet whether it is text.
            if !self.has_text && self.state != State::Command {
                *input = input.get(self.searched as usize..).unwrap_or_default();
                self.searched = 0;
            }
        }
        // A CR at the end may be the first half of a CRLF.
        let length = input.strip_suffix(b"\r").unwrap_or(input).len();
        if length > max { Frame::TooLong } else { Frame::Partial }
    }

    fn take<'a>(&mut self, input: &mut &'a [u8], end: usize, max: usize) -> Frame<'a> {
        *self = Lines::default();
        let line = input.get(..end).unwrap_or_default();
        let body = line.strip_suffix(b"\r").unwrap_or(line);
        if body.len() > max {
            return Frame::TooLong;
        }
        let (raw, rest) = input.split_at_checked(end + 1).unwrap_or((*input, &[]));
        *input = rest;
        Frame::Whole { body, raw }
    }
}

/// How many bytes come before the next LF or IAC, if any do or it is an LF.
fn plain(bytes: &[u8]) -> Option<usize> {
    let length = memchr2(b'\n', IAC, bytes).unwrap_or(bytes.len());
    (length > 0 || bytes.first() == Some(&b'\n')).then_some(length)
}

/// A line without telnet's commands. `None` if there is no memory for it.
pub(super) fn clean(line: &[u8]) -> Option<Cow<'_, [u8]>> {
    if memchr(IAC, line).is_none() {
        return Some(Cow::Borrowed(line));
    }
    let (mut text, mut state) = (with_room(line.len())?, State::Text);
    for &byte in line {
        let (next, was) = state.step(byte);
        state = next;
        match was {
            Was::Text => text.push(byte),
            Was::NoCommand => text.extend([IAC, byte]),
            Was::Command | Was::Asked(_) => {}
        }
    }
    text.extend((state == State::Command).then_some(IAC)); // what came behind is no command
    Some(Cow::Owned(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines of bytes that come in pieces of `size`, the answers, and the rest.
    fn heard(bytes: &[u8], size: usize) -> (Vec<Vec<u8>>, Vec<u8>, Vec<u8>) {
        let (mut lines, mut rest, mut answers) = (Lines::default(), Vec::new(), Vec::new());
        let mut found = Vec::new();
        for piece in bytes.chunks(size) {
            rest.extend(piece);
            let mut input = &rest[..];
            while let Frame::Whole { body, .. } =
                lines.next(&mut input, 1000, |answer| answers.extend(answer))
            {
                found.push(clean(body).unwrap().into_owned());
            }
            rest = input.to_vec();
        }
        (found, answers, rest)
    }

    /// The result does not depend on how the bytes are cut.
    #[test]
    fn commands_are_no_part_of_a_line() {
        for (bytes, lines, answers, rest) in [
            (&b"a\r\nb\n\nc"[..], &[&b"a"[..], b"b", b""][..], &b""[..], &b"c"[..]),
            // Ctrl-C, as telnet(1) sends it; it waits for the answer.
            (b"\xff\xf4\xff\xfd\x06", &[], b"\xff\xfc\x06", b""),
            (b"he\xff\xf4\xff\xfd\x06llo\n", &[b"hello"], b"\xff\xfc\x06", b""),
            (b"\xff\xf2hi\n", &[b"hi"], b"", b""), // the data mark, urgent
            (b"\xff\xfb\x18hi\n", &[b"hi"], b"\xff\xfe\x18", b""), // WILL TERMINAL-TYPE
            (b"\xff\xfe\x01\xff\xfc\x01x\n", &[b"x"], b"", b""), // DONT and WONT
            (b"a\xff\xfd\x0ab\n", &[b"ab"], b"\xff\xfc\x0a", b""), // option 10 is no LF
            (b"\xff\xfa\x1f\0\x50\0\x0a\xff\xf0hi\n", &[b"hi"], b"", b""), // ten rows
            (b"\xff\xfa\x1f\xff\xff\n\xff\xf0\n", &[b""], b"", b""),
            (b"a\xff\xffb\n", &[b"a\xffb"], b"", b""),
            (b"\xff\xff\n", &[b"\xff"], b"", b""),
            (b"caf\xff\n\xff\r\nx", &[b"caf\xff", b"\xff"], b"", b"x"), // no telnet
            (b"\xff\xf1\xff\xf1\xff", &[], b"", b"\xff"), // a keep-alive, and half of one
        ] {
            for size in [1, 2, 3, 100] {
                let due = (
                    lines.iter().map(|line| line.to_vec()).collect(),
                    answers.to_vec(),
                    rest.to_vec(),
                );
                assert_eq!(heard(bytes, size), due, "{bytes:?} in pieces of {size}");
            }
        }
    }

    /// As [`crate::framing::Lines`] has it.
    #[test]
    fn the_limit_is_exact() {
        let next = |mut input: &[u8]| match Lines::default().next(&mut input, 3, |_| {}) {
            Frame::Whole { body, .. } => Ok(body.len()),
            Frame::Partial => Err("partial"),
            Frame::TooLong => Err("too long"),
        };
        assert_eq!(next(b"abc\n"), Ok(3));
        assert_eq!(next(b"abc\r\n"), Ok(3));
        assert_eq!(next(b"abc\r"), Err("partial"));
        assert_eq!(next(b"abcd"), Err("too long"));
        assert_eq!(next(b"abcd\n"), Err("too long"));
        assert_eq!(next(b"abc\rd"), Err("too long"));
        assert_eq!(next(b"a\xff\xf1b\n"), Err("too long"));
        assert_eq!(next(&b"\xff\xf1".repeat(9)), Err("partial"));
    }

    /// Without an IAC the lines are those of [`crate::framing::Lines`], however they are cut.
    #[test]
    fn plain_lines_as_everybody_has_them() {
        let mut seed = 7_u64;
        let mut random = |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) as usize % below
        };
        for _ in 0..2_000 {
            let bytes: Vec<u8> = (0..random(40)).map(|_| b"ab\r\n"[random(4)]).collect();
            let (mut plain, mut due, mut rest) =
                (crate::framing::Lines::default(), vec![], &bytes[..]);
            while let Frame::Whole { body, .. } = plain.next(&mut rest, 1000) {
                due.push(body.to_vec());
            }
            assert_eq!(heard(&bytes, 1 + random(5)), (due, vec![], rest.to_vec()));
        }
    }
}
