//! Escapes bytes from outside, so that a terminal or a log can show them.
//!
//! A client may send whatever it likes, and a terminal obeys much of it: ESC
//! moves the cursor and can retitle the window, CR overwrites the line, the C1
//! byte 0x9b is a second ESC [, and bidirectional controls show `evil.exe` as
//! `exe.live`. So client bytes, words of the command line and paths reach a
//! terminal, a log or another client in one of two ways only.
//!
//! [`escaped`] shows exactly what the bytes were:
//!
//! - printable UTF-8 stands for itself, but a backslash is doubled;
//! - every byte of anything else becomes `\xHH`, two lower-case hex digits.
//!
//! So a backslash always begins an escape, and the bytes can be read back
//! without a doubt; `printf %b` does it.
//!
//! [`printable`] is for reading: what is not printable is left out.

use std::fmt::{self, Write};

/// Displays `bytes` so that they can neither command a terminal nor pretend to
/// be something else.
///
/// ```
/// use threadbare::escape::escaped;
/// assert_eq!(escaped("naïve\r\n".as_bytes()).to_string(), r"naïve\x0d\x0a");
/// assert_eq!(escaped(b"\x1b[2J \xff \\").to_string(), r"\x1b[2J \xff \\");
/// ```
#[must_use]
pub fn escaped(bytes: &[u8]) -> Escaped<'_> {
    Escaped(bytes)
}

/// What [`escaped`] gives: to be displayed.
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'a>(&'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                match c {
                    '\\' => f.write_str("\\\\")?,
                    c if is_printable(c) => f.write_char(c)?,
                    c => hex(f, c.encode_utf8(&mut [0; 4]).as_bytes())?,
                }
            }
            hex(f, chunk.invalid())?;
        }
        Ok(())
    }
}

fn hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "\\x{byte:02x}"))
}

/// Displays what is printable of `bytes`, and leaves the rest out. Where the bytes are
/// no UTF-8 stands U+FFFD, so that a reader knows that something is missing.
///
/// ```
/// use threadbare::escape::printable;
/// assert_eq!(printable(b"\x1b[31mred\tcr\xfcnch\\\r").to_string(), "[31mredcr\u{fffd}nch\\");
/// ```
#[must_use]
pub fn printable(bytes: &[u8]) -> Printable<'_> {
    Printable(bytes)
}

/// What [`printable`] gives: to be displayed.
#[derive(Clone, Copy, Debug)]
pub struct Printable<'a>(&'a [u8]);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            let mut pieces = chunk.valid().split(|c| !is_printable(c));
            pieces.try_for_each(|piece| f.write_str(piece))?;
            if !chunk.invalid().is_empty() {
                f.write_char(char::REPLACEMENT_CHARACTER)?;
            }
        }
        Ok(())
    }
}

/// Whether a reader sees `c`, and a terminal merely shows it.
pub(crate) fn is_printable(c: char) -> bool {
    !matches!(c,
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' // C0, DEL, C1: terminals obey them
        | '\u{61c}' | '\u{200e}' | '\u{200f}' // these and the next two turn the direction
        | '\u{202a}'..='\u{202e}'
        | '\u{2066}'..='\u{206f}'
        | '\u{2028}' | '\u{2029}' // they end a line
        | '\u{ad}' | '\u{180e}' | '\u{200b}'..='\u{200d}' // from here on: invisible
        | '\u{115f}' | '\u{1160}' | '\u{3164}' | '\u{ffa0}' // these count as letters
        | '\u{2060}'..='\u{2065}'
        | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_printable_utf8_stands_for_itself() {
        let table: &[(&[u8], &str)] = &[
            (b"", ""),
            (b"hello, world \"quoted\"", "hello, world \"quoted\""),
            ("grüße e\u{301} 日本 🧵 \u{1f468}".as_bytes(), "grüße e\u{301} 日本 🧵 \u{1f468}"),
            (b"a\\b", r"a\\b"),
            (br"\x1b", r"\\x1b"), // typed by the client: not to be taken for an ESC
            (b"\0\t\r\n", r"\x00\x09\x0d\x0a"),
            (b"\x1b[31mred\x07", r"\x1b[31mred\x07"),
            (b"\x7f", r"\x7f"),
            ("\u{9b}2J".as_bytes(), r"\xc2\x9b2J"), // C1, as UTF-8
            (b"\x9b2J", r"\x9b2J"),                 // C1, as a bare byte
            ("a\u{202e}b\u{2066}c".as_bytes(), r"a\xe2\x80\xaeb\xe2\x81\xa6c"),
            ("\u{200b}\u{feff}\u{2028}".as_bytes(), r"\xe2\x80\x8b\xef\xbb\xbf\xe2\x80\xa8"),
            (b"\xff\xfe", r"\xff\xfe"),
            (b"\xe2\x82", r"\xe2\x82"), // cut short
            (b"\xe2\x82x", r"\xe2\x82x"),
            (b"\xc0\xaf", r"\xc0\xaf"),                 // overlong '/'
            (b"\xed\xa0\x80", r"\xed\xa0\x80"),         // a surrogate
            (b"\xf4\x90\x80\x80", r"\xf4\x90\x80\x80"), // beyond Unicode
        ];
        for (bytes, shown) in table {
            assert_eq!(escaped(bytes).to_string(), *shown, "{bytes:?}");
        }
    }

    /// No byte of any value, alone or beside others, gets through unless it is printable.
    #[test]
    fn nothing_but_printable_characters_is_left() {
        for first in 0..=255 {
            for second in 0..=255 {
                let text = printable(&[b'a', first, second, b'z']).to_string();
                assert!(text.starts_with('a') && text.ends_with('z'), "{text:?}");
                assert!(text.chars().all(is_printable), "{text:?}");
            }
        }
        let all: String = ('\0'..=char::MAX).collect();
        let left = printable(all.as_bytes()).to_string();
        assert_eq!(left, all.chars().filter(|&c| is_printable(c)).collect::<String>());
        assert!(!left.contains(char::is_control) && left.chars().count() > 1_000_000);
    }

    /// What is shown names exactly one sequence of bytes: reading it back gives it.
    #[test]
    fn escapes_can_be_read_back() {
        let all: Vec<u8> = (0..=255).collect();
        let pairs: Vec<u8> = (0..=255).flat_map(|byte| [b'\\', byte, 0xc3, byte]).collect();
        for bytes in [all, pairs, "\\ü\u{9b}\u{202e}\\\\x41".as_bytes().to_vec()] {
            assert_eq!(read_back(&escaped(&bytes).to_string()), bytes);
        }
    }

    fn read_back(shown: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut rest = shown;
        while let Some(c) = rest.chars().next() {
            let taken = match rest.get(..2) {
                Some("\\\\") => {
                    bytes.push(b'\\');
                    2
                }
                Some("\\x") => {
                    bytes.extend(rest.get(2..4).and_then(|hex| u8::from_str_radix(hex, 16).ok()));
                    4
                }
                _ => {
                    assert_ne!(c, '\\');
                    bytes.extend(c.to_string().as_bytes());
                    c.len_utf8()
                }
            };
            rest = rest.get(taken..).unwrap_or_default();
        }
        bytes
    }
}
