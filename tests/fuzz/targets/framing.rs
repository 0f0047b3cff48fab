//! However a stream is cut, the messages found in it are those of the uncut stream, and
//! each is found, or found too long, as soon as it can be.

use crate::simulation::dice::Dice;
use threadbare::framing::{Delimited, Frame, Lengths, Lines};

pub fn target(bytes: &[u8]) {
    let mut dice = Dice::Bytes(bytes);
    let kind = dice.below(3);
    let max = dice.below(32);
    match kind {
        0 => {
            let mut lines = Lines::default();
            assert_same(dice, |input| lines.next(input, max).into(), |all| naive_line(all, max))
        }
        1 => {
            let (mut delimited, length) = (Delimited::default(), dice.below(4));
            let delimiter = dice.take(length);
            let next = |input: &mut &[u8]| delimited.next(input, delimiter, max).into();
            assert_same(dice, next, |all| naive_delimited(all, delimiter, max))
        }
        _ => {
            let (lengths, header) = dice.pick(&HEADERS);
            let next = |input: &mut &[u8]| lengths.next(input, max).into();
            assert_same(dice, next, |all| naive_length(all, header, max))
        }
    }
}

/// What is at the front of a stream.
#[derive(Debug, PartialEq)]
enum Found {
    /// A message without and with what frames it.
    Message(Vec<u8>, Vec<u8>),
    Partial,
    TooLong,
}

impl From<Frame<'_>> for Found {
    fn from(frame: Frame<'_>) -> Found {
        match frame {
            Frame::Whole { body, raw } => Found::Message(body.to_vec(), raw.to_vec()),
            Frame::Partial => Found::Partial,
            Frame::TooLong => Found::TooLong,
        }
    }
}

/// Offers the stream piece by piece, as the server does: what is not taken, again. After
/// each piece all that `next` has found is what `naive` finds in the stream so far.
fn assert_same(
    mut dice: Dice<'_>,
    mut next: impl FnMut(&mut &[u8]) -> Found,
    naive: impl Fn(&[u8]) -> Found,
) {
    let mut input = Vec::new();
    while !dice.is_spent() {
        let length = dice.below(32);
        input.extend(dice.take(length));
        loop {
            let mut rest = &input[..];
            let (found, expected) = (next(&mut rest), naive(&input));
            assert_eq!(found, expected, "in {input:?}");
            match found {
                Found::Message(_, raw) => {
                    assert_eq!(rest, &input[raw.len()..]);
                    input.drain(..raw.len());
                }
                Found::Partial => break,
                Found::TooLong => return,
            }
        }
    }
}

// ---- the same, as simply as can be ----------------------------------------------------

fn naive_line(stream: &[u8], max: usize) -> Found {
    let raw: Vec<u8> = stream.split_inclusive(|&byte| byte == b'\n').next().unwrap_or(b"").to_vec();
    let is_whole = raw.ends_with(b"\n");
    let mut text = raw.clone();
    // At its end a CR belongs to the ending, or may yet do so.
    for ending in [b'\n', b'\r'] {
        if text.last() == Some(&ending) {
            text.pop();
        }
    }
    match is_whole {
        _ if text.len() > max => Found::TooLong,
        true => Found::Message(text, raw),
        false => Found::Partial,
    }
}

/// A delimiter that is not there can begin no earlier than where it would be cut.
fn naive_delimited(stream: &[u8], delimiter: &[u8], max: usize) -> Found {
    let begins = |&at: &usize| !delimiter.is_empty() && stream[at..].starts_with(delimiter);
    let earliest = (stream.len() + 1).saturating_sub(delimiter.len().max(1));
    match (0..stream.len()).find(begins) {
        Some(at) if at <= max => {
            Found::Message(stream[..at].to_vec(), stream[..at + delimiter.len()].to_vec())
        }
        None if earliest <= max => Found::Partial,
        _ => Found::TooLong,
    }
}

/// How a length is written.
#[derive(Clone, Copy)]
enum Header {
    Big(usize),
    Little(usize),
    Varint,
}

const HEADERS: [(Lengths, Header); 8] = [
    (Lengths::U8, Header::Big(1)),
    (Lengths::U16Be, Header::Big(2)),
    (Lengths::U16Le, Header::Little(2)),
    (Lengths::U32Be, Header::Big(4)),
    (Lengths::U32Le, Header::Little(4)),
    (Lengths::U64Be, Header::Big(8)),
    (Lengths::U64Le, Header::Little(8)),
    (Lengths::Varint, Header::Varint),
];

fn naive_length(stream: &[u8], header: Header, max: usize) -> Found {
    const LONGEST_VARINT: usize = 9;
    let (size, bits, little) = match header {
        Header::Big(size) => (size, 8, false),
        Header::Little(size) => (size, 8, true),
        Header::Varint => match stream.iter().position(|byte| byte & 0x80 == 0) {
            Some(last) if last < LONGEST_VARINT => (last + 1, 7, true),
            _ if stream.len() >= LONGEST_VARINT => return Found::TooLong,
            _ => return Found::Partial,
        },
    };
    let Some(header) = stream.get(..size) else { return Found::Partial };
    let mut digits: Vec<u8> = header.to_vec();
    if little {
        digits.reverse();
    }
    let digit = |&byte: &u8| u128::from(byte) & ((1 << bits) - 1);
    let length = digits.iter().map(digit).fold(0, |length, digit| length << bits | digit);
    match stream.get(size..size + length.min(max as u128) as usize) {
        _ if length > max as u128 => Found::TooLong,
        Some(body) => Found::Message(body.to_vec(), stream[..size + body.len()].to_vec()),
        None => Found::Partial,
    }
}
