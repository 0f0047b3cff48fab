//! However a stream is cut, the messages found in it are those of the uncut stream, and
//! each is found, or found too long, as soon as it can be.

use crate::simulation::dice::Dice;
use threadbare::framing::{Frame, Lines};

pub fn target(bytes: &[u8]) {
    let mut dice = Dice::Bytes(bytes);
    let max = dice.below(32);
    let mut lines = Lines::default();
    let next = |input: &mut &[u8]| match lines.next(input, max) {
        Frame::Whole { body, raw } => Found::Message(body.to_vec(), raw.to_vec()),
        Frame::Partial => Found::Partial,
        Frame::TooLong => Found::TooLong,
    };
    assert_same(dice, next, |stream| naive_line(stream, max));
}

/// What is at the front of a stream.
#[derive(Debug, PartialEq)]
enum Found {
    /// A message without and with what frames it.
    Message(Vec<u8>, Vec<u8>),
    Partial,
    TooLong,
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
