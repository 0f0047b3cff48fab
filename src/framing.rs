//! Where one message ends and the next begins.
//!
//! A byte stream has no messages; a framing finds them. All of these work the
//! same way: `next` takes a message from the front of the input that a handler is
//! offered, as a slice of it, and leaves an incomplete one to be offered again
//! with more behind it. So none needs a buffer of its own.
//!
//! | | a message ends | remembered between calls |
//! |---|---|---|
//! | [`Lines`] | at LF or CRLF | how far the input is searched |
//! | [`Delimited`] | at bytes of your choice | how far the input is searched |
//! | [`Lengths`] | after as many bytes as stand before it | nothing |
//!
//! Invariants:
//! 1. No byte is searched twice, even if a message comes a byte at a time. Of a
//!    delimiter of n bytes the last n-1 are looked at again: it may be cut there.
//! 2. A message that is too long is refused as soon as that is certain. A length
//!    that is too large needs none of the message's own bytes.
//!
//! What is left is kept by the server, up to `max_input` of its
//! [`Limits`](crate::Limits): let that be larger than the longest message.

use memchr::{memchr, memmem};
use std::num::NonZeroU32;

/// What a framing found at the front of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A whole message, which is taken from the input.
    Whole {
        /// The message itself.
        body: &'a [u8],
        /// The message with what marks its length or its end.
        raw: &'a [u8],
    },
    /// Not all of it is there: leave the input, and wait for more.
    Partial,
    /// It is longer than allowed, whether or not all of it has arrived. The input after
    /// it cannot be read.
    TooLong,
}

/// Messages that end at a delimiter, such as an empty line. One per connection.
///
/// ```
/// use threadbare::framing::{Delimited, Frame};
///
/// let mut heads = Delimited::default();
/// let mut input = &b"GET / HTTP/1.1\r\nHost: here\r\n\r\nbody"[..];
/// let Frame::Whole { body, .. } = heads.next(&mut input, b"\r\n\r\n", 8192) else { panic!() };
/// assert_eq!(body, b"GET / HTTP/1.1\r\nHost: here");
/// assert_eq!(input, b"body");
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Delimited {
    searched: Searched,
}

/// How many bytes at the front of the input are searched: no delimiter begins there.
///
/// It stands in every idle connection, so it is small: a `u32`, stored inverted, because
/// then an `Option` of it is no larger. Beyond 4 GiB it merely searches again.
#[derive(Clone, Copy, Debug)]
struct Searched(NonZeroU32);

impl Default for Searched {
    fn default() -> Searched {
        Searched(NonZeroU32::MAX)
    }
}

impl Searched {
    fn new(bytes: usize) -> Searched {
        NonZeroU32::new(!(bytes as u32)).map(Searched).unwrap_or_default()
    }

    fn get(self) -> usize {
        !self.0.get() as usize
    }
}

impl Delimited {
    /// Takes the next message from the front of `input`, which must begin where the
    /// last one taken ended. `max` bounds its body. An empty delimiter is never found.
    #[inline]
    pub fn next<'a>(&mut self, input: &mut &'a [u8], delimiter: &[u8], max: usize) -> Frame<'a> {
        match self.find(input, delimiter) {
            Some(at) if at > max => Frame::TooLong,
            Some(at) => self.take(input, at, at + delimiter.len()),
            None if self.searched.get() > max => Frame::TooLong,
            None => Frame::Partial,
        }
    }

    /// Where the first delimiter begins.
    #[inline]
    fn find(&mut self, input: &[u8], delimiter: &[u8]) -> Option<usize> {
        let searched = self.searched.get();
        let unsearched = input.get(searched..).unwrap_or_default();
        let found = match delimiter {
            [] => None,
            [byte] => memchr(*byte, unsearched),
            several => memmem::find(unsearched, several),
        };
        if found.is_none() {
            let cut = delimiter.len().max(1) - 1;
            self.searched = Searched::new(input.len().saturating_sub(cut));
        }
        Some(searched + found?)
    }

    #[inline]
    fn take<'a>(&mut self, input: &mut &'a [u8], body: usize, raw: usize) -> Frame<'a> {
        self.searched = Searched::default();
        take(input, 0, body, raw)
    }
}

/// Lines that end in LF or CRLF. One per connection.
///
/// ```
/// use threadbare::framing::{Frame, Lines};
///
/// let (mut lines, mut input) = (Lines::default(), &b"one\r\ntw"[..]);
/// assert_eq!(lines.next(&mut input, 80), Frame::Whole { body: b"one", raw: b"one\r\n" });
/// assert_eq!(lines.next(&mut input, 80), Frame::Partial);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Lines(Delimited);

impl Lines {
    /// Takes the next line from the front of `input`, which must begin where the
    /// last one taken ended. `max` bounds the line, its ending not counted.
    #[inline]
    pub fn next<'a>(&mut self, input: &mut &'a [u8], max: usize) -> Frame<'a> {
        let Some(end) = self.0.find(input, b"\n") else {
            // A CR at the end may still turn out to belong to the line's.
            let length = input.strip_suffix(b"\r").unwrap_or(input).len();
            return if length > max { Frame::TooLong } else { Frame::Partial };
        };
        let line = input.get(..end).unwrap_or_default();
        let length = line.strip_suffix(b"\r").unwrap_or(line).len();
        if length > max {
            return Frame::TooLong;
        }
        self.0.take(input, length, end + 1)
    }
}

/// Messages with their length before them, which does not count itself.
///
/// ```
/// use threadbare::framing::{Frame, Lengths};
///
/// let mut input = &b"\0\x05hello\0\x05wor"[..];
/// assert_eq!(
///     Lengths::U16Be.next(&mut input, 1000),
///     Frame::Whole { body: b"hello", raw: b"\0\x05hello" }
/// );
/// assert_eq!(Lengths::U16Be.next(&mut input, 1000), Frame::Partial);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lengths {
    /// One byte.
    U8,
    /// Two bytes, the high one first, as networks have it.
    U16Be,
    /// Two bytes, the low one first.
    U16Le,
    /// Four bytes, the high one first.
    U32Be,
    /// Four bytes, the low one first.
    U32Le,
    /// Eight bytes, the high one first.
    U64Be,
    /// Eight bytes, the low one first.
    U64Le,
    /// Seven bits a byte, the low ones first, the eighth set in all but the last byte:
    /// LEB128, as Protocol Buffers delimit messages. Nine bytes at most.
    Varint,
}

impl Lengths {
    /// Takes the next message from the front of `input`. `max` bounds its body.
    #[inline]
    pub fn next<'a>(self, input: &mut &'a [u8], max: usize) -> Frame<'a> {
        let Some((length, rest)) = self.read(input) else { return Frame::Partial };
        match usize::try_from(length) {
            Ok(length) if length <= max => {
                let start = input.len() - rest.len();
                let end = start.saturating_add(length);
                take(input, start, end, end)
            }
            _ => Frame::TooLong,
        }
    }

    /// The length, and what stands behind it.
    #[inline]
    fn read(self, input: &[u8]) -> Option<(u64, &[u8])> {
        fn bytes<const N: usize>(input: &[u8], value: fn([u8; N]) -> u64) -> Option<(u64, &[u8])> {
            input.split_first_chunk().map(|(bytes, rest)| (value(*bytes), rest))
        }
        match self {
            Lengths::U8 => bytes(input, |[byte]| byte.into()),
            Lengths::U16Be => bytes(input, |bytes| u16::from_be_bytes(bytes).into()),
            Lengths::U16Le => bytes(input, |bytes| u16::from_le_bytes(bytes).into()),
            Lengths::U32Be => bytes(input, |bytes| u32::from_be_bytes(bytes).into()),
            Lengths::U32Le => bytes(input, |bytes| u32::from_le_bytes(bytes).into()),
            Lengths::U64Be => bytes(input, u64::from_be_bytes),
            Lengths::U64Le => bytes(input, u64::from_le_bytes),
            Lengths::Varint => varint(input),
        }
    }
}

/// A length that does not end is as good as too large.
fn varint(input: &[u8]) -> Option<(u64, &[u8])> {
    const LONGEST: usize = 9; // 63 bits
    let mut value = 0;
    for (index, byte) in input.iter().enumerate().take(LONGEST) {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, input.get(index + 1..)?));
        }
    }
    (input.len() >= LONGEST).then_some((u64::MAX, input))
}

/// Takes `raw` bytes, if they are there; the body is from `start` to `end` of them.
#[inline]
fn take<'a>(input: &mut &'a [u8], start: usize, end: usize, raw: usize) -> Frame<'a> {
    let Some((raw, rest)) = input.split_at_checked(raw) else { return Frame::Partial };
    *input = rest;
    Frame::Whole { body: raw.get(start..end).unwrap_or_default(), raw }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole<'a>(frame: Frame<'a>) -> &'a [u8] {
        match frame {
            Frame::Whole { body, .. } => body,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn lines_of_all_endings() {
        let (mut lines, mut input) = (Lines::default(), &b"a\nb\r\n\n\r\nc\rd\n\xff\0\nrest"[..]);
        for expected in [&b"a"[..], b"b", b"", b"", b"c\rd", b"\xff\0"] {
            assert_eq!(whole(lines.next(&mut input, 9)), expected);
        }
        assert_eq!(lines.next(&mut input, 9), Frame::Partial);
        assert_eq!(input, b"rest");
    }

    /// The longest line is allowed with either ending, one byte more is not, and it is
    /// known as soon as it can be.
    #[test]
    fn the_limit_is_exact() {
        let next = |mut input: &[u8]| match Lines::default().next(&mut input, 3) {
            Frame::Whole { body, .. } => Ok(body.len()),
            Frame::Partial => Err("partial"),
            Frame::TooLong => Err("too long"),
        };
        assert_eq!(next(b"abc\n"), Ok(3));
        assert_eq!(next(b"abc\r\n"), Ok(3));
        assert_eq!(next(b"abc\r"), Err("partial"));
        assert_eq!(next(b"abc"), Err("partial"));
        assert_eq!(next(b"abcd"), Err("too long"));
        assert_eq!(next(b"abcd\n"), Err("too long"));
        assert_eq!(next(b"abc\rd"), Err("too long"));
        assert_eq!(next(b"abc\r\r"), Err("too long"));
    }

    #[test]
    fn the_limit_of_delimited_messages() {
        let next = |mut input: &[u8]| match Delimited::default().next(&mut input, b"--", 3) {
            Frame::Whole { body, raw } => Ok((body.len(), raw.len())),
            Frame::Partial => Err("partial"),
            Frame::TooLong => Err("too long"),
        };
        assert_eq!(next(b"--"), Ok((0, 2)));
        assert_eq!(next(b"abc--"), Ok((3, 5)));
        assert_eq!(next(b"a-c--d--"), Ok((3, 5)));
        assert_eq!(next(b"abc-"), Err("partial"));
        assert_eq!(next(b"abcd"), Err("partial")); // it could end in a dash as well
        assert_eq!(next(b"abcde"), Err("too long"));
        assert_eq!(next(b"abcd--"), Err("too long"));
    }

    /// A length above the limit is refused before a byte of the message is there, and a
    /// length that lies as far as it can breaks nothing.
    #[test]
    fn lengths_of_all_kinds() {
        use Lengths::*;
        let table: [(Lengths, &[u8]); 8] = [
            (U8, b"\x03"),
            (U16Be, b"\0\x03"),
            (U16Le, b"\x03\0"),
            (U32Be, b"\0\0\0\x03"),
            (U32Le, b"\x03\0\0\0"),
            (U64Be, b"\0\0\0\0\0\0\0\x03"),
            (U64Le, b"\x03\0\0\0\0\0\0\0"),
            (Varint, b"\x83\x80\0"), // three bytes for what needs one
        ];
        for (kind, prefix) in table {
            let all = [prefix, b"abcd"].concat();
            for end in 0..prefix.len() + 3 {
                assert_eq!(kind.next(&mut &all[..end], 3), Frame::Partial, "{kind:?} {end}");
            }
            let mut input = &all[..];
            assert_eq!(whole(kind.next(&mut input, 3)), b"abc", "{kind:?}");
            assert_eq!(input, b"d");
            assert_eq!(kind.next(&mut &prefix[..], 2), Frame::TooLong, "{kind:?}");
            let huge = if kind == Varint { &[0xff; 9][..] } else { &[0xff; 8] };
            let due = if kind == U8 { Frame::Partial } else { Frame::TooLong };
            assert_eq!(kind.next(&mut &huge[..], 255), due, "{kind:?}");
            let all_ones = kind.next(&mut &huge[..], usize::MAX);
            assert!(matches!(all_ones, Frame::Partial | Frame::TooLong), "{kind:?}");
        }
        assert_eq!(
            whole(Varint.next(&mut &[&b"\xac\x02"[..], &[7; 300]].concat()[..], 300)),
            [7; 300]
        );
        assert_eq!(Varint.next(&mut &[0xff; 8][..], 300), Frame::Partial);
    }

    /// However the input is cut, the messages are the same, and no byte is searched twice.
    #[test]
    fn a_byte_at_a_time() {
        let all = b"one\r\ntwo\n\nthree\n";
        let (mut lines, mut start, mut found) = (Lines::default(), 0, Vec::new());
        for end in 1..=all.len() {
            let mut input = &all[start..end];
            while let Frame::Whole { body, .. } = lines.next(&mut input, 100) {
                found.push(body.to_vec());
            }
            assert_eq!(lines.0.searched.get(), input.len());
            start = end - input.len();
        }
        assert_eq!(found, [&b"one"[..], b"two", b"", b"three"]);
    }

    /// The count: of n bytes that come one by one, n are searched for one byte, and at
    /// most so many again as the delimiter is longer.
    #[test]
    fn a_long_message_is_searched_once() {
        let table = [(&b"\n"[..], &b"x"[..]), (b"\r\n", b"\r"), (b"\r\n.\r\n", b"\r\n.\r")];
        for (delimiter, filling) in table {
            let all = [&filling.repeat(8_000), delimiter].concat();
            let (mut messages, mut looked_at) = (Delimited::default(), 0);
            for end in 1..=all.len() {
                looked_at += end - messages.searched.get();
                let frame = messages.next(&mut &all[..end], delimiter, 1 << 20);
                assert_eq!(frame == Frame::Partial, end < all.len());
            }
            assert!(looked_at <= all.len() * delimiter.len(), "{looked_at} for {}", all.len());
        }
    }

    /// Random bytes, cut at random, against what a search from scratch finds.
    #[test]
    fn delimited_as_the_simple_way() {
        let mut seed = 1_u64;
        let mut random = |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) as usize % below
        };
        let mut messages = 0;
        for case in 0..3_000 {
            let delimiter: Vec<u8> = (0..1 + case % 4).map(|_| b"ab"[random(2)]).collect();
            let all: Vec<u8> = (0..random(60)).map(|_| b"abc"[random(3)]).collect();
            let (mut due, mut rest) = (Vec::new(), &all[..]);
            while let Some(at) = rest.windows(delimiter.len()).position(|w| w == delimiter) {
                due.push(rest[..at].to_vec());
                rest = &rest[at + delimiter.len()..];
            }
            let (mut framing, mut start, mut found) = (Delimited::default(), 0, Vec::new());
            for end in 0..=all.len() {
                if end < all.len() && random(3) > 0 {
                    continue;
                }
                let mut input = &all[start..end];
                while let Frame::Whole { body, .. } = framing.next(&mut input, &delimiter, 60) {
                    found.push(body.to_vec());
                }
                start = end - input.len();
            }
            assert_eq!(found, due, "{delimiter:?} in {all:?}");
            messages += due.len();
        }
        println!("{messages} messages");
        assert!(messages > 10_000, "only {messages} messages");
    }

    #[test]
    fn an_empty_delimiter_is_never_found() {
        assert_eq!(Delimited::default().next(&mut &b"abc"[..], b"", 9), Frame::Partial);
    }

    /// It is part of every idle connection.
    #[test]
    fn a_framing_is_small() {
        assert_eq!(size_of::<Option<Lines>>(), 4);
    }
}
