//! Where one message ends and the next begins.
//!
//! A byte stream has no messages; a framing finds them. It works on the input
//! that the handler is offered, so it needs no buffer of its own, and remembers
//! what it has searched, so that a message which comes a byte at a time is still
//! searched only once.

/// Splits input into lines that end in LF or CRLF. One per connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lines {
    searched: usize,
}

/// What [`Lines::next`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// A whole line.
    Whole {
        /// The line without its ending.
        text: &'a [u8],
        /// The line with its ending.
        raw: &'a [u8],
    },
    /// No line end yet: leave the input and wait for more.
    Partial,
    /// The line is longer than allowed, whether or not its end has come.
    TooLong,
}

impl Lines {
    /// Takes the next line from the front of `input`, which must begin where the
    /// last line taken ended. `max` bounds the text of a line, its ending not counted.
    #[inline]
    pub fn next<'a>(&mut self, input: &mut &'a [u8], max: usize) -> Line<'a> {
        let unsearched = input.get(self.searched..).unwrap_or_default();
        let Some(found) = memchr::memchr(b'\n', unsearched) else {
            self.searched = input.len();
            return if is_too_long(input, max) { Line::TooLong } else { Line::Partial };
        };
        let Some((raw, rest)) = input.split_at_checked(self.searched + found + 1) else {
            return Line::Partial;
        };
        let text = raw.strip_suffix(b"\r\n").or(raw.strip_suffix(b"\n")).unwrap_or(raw);
        if text.len() > max {
            return Line::TooLong;
        }
        (*input, self.searched) = (rest, 0);
        Line::Whole { text, raw }
    }
}

/// Whether a line that begins with `partial` must be too long: a CR at its end may
/// yet turn out to belong to the ending.
fn is_too_long(partial: &[u8], max: usize) -> bool {
    let text = partial.strip_suffix(b"\r").unwrap_or(partial);
    text.len() > max
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole<'a>(line: Line<'a>) -> &'a [u8] {
        match line {
            Line::Whole { text, .. } => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn lines_of_all_endings() {
        let (mut lines, mut input) = (Lines::default(), &b"a\nb\r\n\n\r\nc\rd\n\xff\0\nrest"[..]);
        for expected in [&b"a"[..], b"b", b"", b"", b"c\rd", b"\xff\0"] {
            assert_eq!(whole(lines.next(&mut input, 9)), expected);
        }
        assert_eq!(lines.next(&mut input, 9), Line::Partial);
        assert_eq!(input, b"rest");
    }

    /// The longest line is allowed with either ending, one byte more is not, and it is
    /// known as soon as it can be.
    #[test]
    fn the_limit_is_exact() {
        let next = |mut input: &[u8]| match Lines::default().next(&mut input, 3) {
            Line::Whole { text, .. } => Ok(text.len()),
            Line::Partial => Err("partial"),
            Line::TooLong => Err("too long"),
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

    /// However the input is cut, the lines are the same, and no byte is searched twice.
    #[test]
    fn a_byte_at_a_time() {
        let all = b"one\r\ntwo\n\nthree\n";
        let (mut lines, mut start, mut found) = (Lines::default(), 0, Vec::new());
        for end in 1..=all.len() {
            let mut input = &all[start..end];
            while let Line::Whole { text, .. } = lines.next(&mut input, 100) {
                found.push(text.to_vec());
            }
            assert_eq!(lines.searched, input.len());
            start = end - input.len();
        }
        assert_eq!(found, [&b"one"[..], b"two", b"", b"three"]);
    }
}
