//! The pure functions of the HTTP handler, without a server around them: where requests end,
//! wherever their bytes are cut, and that what is due of a file is a part of it.
//!
//! The modules of the handler are compiled into this one.

use crate::simulation::dice::Dice;
use body::Body;
use conditions::{Due, Version};
use request::{Request, Then};
use status::Status;
use threadbare::kernel::{FileKind, FileStatus};

#[path = "../../../src/handlers/http/answer.rs"]
#[allow(dead_code)]
mod answer;
#[path = "../../../src/handlers/http/authority.rs"]
mod authority;
#[path = "../../../src/handlers/http/body.rs"]
mod body;
#[path = "../../../src/handlers/http/conditions.rs"]
mod conditions;
#[path = "../../../src/handlers/http/request.rs"]
#[allow(dead_code)]
mod request;
#[path = "../../../src/handlers/http/status.rs"]
#[allow(dead_code)]
mod status;

pub fn target(bytes: &[u8]) {
    let mut dice = Dice::Bytes(bytes);
    let places: Vec<usize> = (0..dice.below(4)).map(|_| dice.below(1 << 16)).collect();
    let (size, now) = (dice.below(4) as u64 * 700, dice.below(1 << 16) as i64 * 1_000_000_000);
    let stream = dice.take(usize::MAX);
    let whole = Read::of([stream]);
    let mut cuts: Vec<usize> = places.iter().map(|place| place % (stream.len() + 1)).collect();
    cuts.sort_unstable();
    let ends = cuts.iter().copied().chain([stream.len()]);
    let pieces = [0].into_iter().chain(cuts.iter().copied()).zip(ends);
    assert_eq!(Read::of(pieces.map(|(begin, end)| &stream[begin..end])), whole);
    let begins = [0].into_iter().chain(whole.ends.iter().copied());
    for begin in begins {
        if let Ok(Some(request)) = Request::parse(&stream[begin..]) {
            assert!(request.head.len() <= stream.len() - begin && !request.target.is_empty());
            is_within(&request, size, now);
        }
    }
}

/// Whatever a client asks of a file, it gets a part of it.
fn is_within(request: &Request<'_>, size: u64, now: i64) {
    let (kind, mode, identity) = (FileKind::Regular, 0, (1, 1));
    let status = FileStatus { kind, size, modified: now / 2, changed: now / 2, mode, identity };
    match request.conditions.due(&Version::of(&status, now), request.is_head) {
        Due::Part { offset, length } => {
            assert!(!request.is_head && length > 0 && offset + length <= size);
        }
        Due::NoSuchPart => assert!(size > 0),
        Due::Whole | Due::NotModified | Due::PreconditionFailed => {}
    }
}

/// What a stream of requests is taken for.
#[derive(Debug, Default, PartialEq)]
pub struct Read {
    /// Where each request ends.
    pub ends: Vec<usize>,
    /// Why the next one is refused, if it is; otherwise more bytes must come.
    pub refused: Option<&'static str>,
    /// The last one was said to be the last.
    pub is_over: bool,
}

impl Read {
    /// Reads as the handler does: what is not taken is offered again with the next piece.
    pub fn of<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Read {
        let mut read = Read::default();
        let (mut input, mut scanned, mut taken) = (Vec::new(), 0, 0);
        let mut pending: Option<(Body, Then)> = None;
        for piece in pieces {
            input.extend_from_slice(piece);
            if scanned > 0 && !request::has_news(&input, scanned) {
                scanned = input.len();
                continue;
            }
            let mut rest = &input[..];
            while !rest.is_empty() && !read.is_over && read.refused.is_none() {
                let begun = rest;
                match Read::take(&mut rest, &mut pending) {
                    Ok(Some(then)) => {
                        scanned = 0;
                        read.ends.push(taken + input.len() - rest.len());
                        read.is_over = matches!(then, Then::Close | Then::CloseAsAsked);
                    }
                    Ok(None) => {
                        scanned = if pending.is_some() { 0 } else { rest.len() };
                        if rest.len() == begun.len() || rest.is_empty() {
                            break;
                        }
                    }
                    Err(Status(status)) => read.refused = Some(status),
                }
            }
            let consumed = input.len() - rest.len();
            taken += consumed;
            input.drain(..consumed);
        }
        // What is wrong may not have been looked at yet: it came without the end of a line.
        if read.refused.is_none() && !read.is_over && pending.is_none() {
            read.refused = Request::parse(&input).err().map(|status| status.0);
        }
        read
    }

    /// Takes a request from the front, or as much of one as there is.
    fn take(rest: &mut &[u8], pending: &mut Option<(Body, Then)>) -> Result<Option<Then>, Status> {
        if pending.is_none() {
            let Some(mut request) = Request::parse(rest)? else { return Ok(None) };
            *rest = &rest[request.head.len()..];
            let Some(body) = request.body.take() else { return Ok(Some(request.then)) };
            *pending = Some((body, request.then));
        }
        let Some((body, then)) = pending else { return Ok(None) };
        let then = *then;
        if !body.pass(rest)? {
            return Ok(None);
        }
        *pending = None;
        Ok(Some(then))
    }
}
