//! The head of a request: from bytes to a [`Request`] that can be answered, or to the
//! status that refuses it.
//!
//! httparse splits the head into its parts; this module decides what they mean. It refuses
//! everything that two servers in a row might understand in two ways, because request
//! smuggling depends on that: a line that ends in a bare LF, two lengths, two hosts, a
//! length that is no plain number, a transfer coding other than `chunked`. RFC 9112
//!
//! It is a pure function of the bytes, and its result does not depend on how they arrived:
//! the input is cut to [`MAX_HEAD`] first.

use super::authority;
use super::body::{Body, MAX_BODY};
use super::status::Status;
use crate::fallible::{push, with_room};
use memchr::{memchr, memchr_iter};
use std::mem::MaybeUninit;

/// The longest head in bytes, its empty line included.
const MAX_HEAD: usize = 16 << 10;
/// the longest first line of one,
pub(super) const MAX_LINE: usize = 8 << 10;
/// and how many fields it may have.
const MAX_FIELDS: usize = 100;
/// The fields that an answer depends on: those that [`Framing::take`] knows.
const NEEDED: [&str; 11] = [
    "host",
    "content-length",
    "transfer-encoding",
    "expect",
    "connection",
    "range",
    "if-match",
    "if-range",
    "if-none-match",
    "if-modified-since",
    "if-unmodified-since",
];

/// A request that is to be answered when its body has been read.
#[derive(Debug)]
pub(super) struct Request<'a> {
    /// The bytes of the head.
    pub(super) head: &'a [u8],
    /// The status with which it is refused, if it is.
    pub(super) refusal: Option<Status>,
    /// It asks for the head of the answer only (HEAD).
    pub(super) is_head: bool,
    /// The path and the query, undecoded.
    pub(super) target: &'a str,
    /// Whether the connection stays open after the answer.
    pub(super) then: Then,
    pub(super) body: Option<Body>,
    /// It waits for `100 Continue` before it sends the body.
    pub(super) expects: bool,
    /// It has conditions or a range.
    pub(super) conditions: Conditions<'a>,
}

/// Whether a connection stays open after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// It stays open, which is the default of HTTP/1.1.
    Stay,
    /// It stays open, because a client of HTTP/1.0 has asked for that.
    StayAsAsked,
    /// It is closed.
    Close,
    /// It ends, and the client has said that it sends no more: it asked for that, or its HTTP/1.0
    /// does not ask for more.
    CloseAsAsked,
}

/// The fields that make a request conditional, or one for a part. RFC 9110, 13 and 14
#[derive(Debug, Default)]
pub(super) struct Conditions<'a> {
    /// The lines of a list: none if the field is absent, an empty one if it is empty.
    pub(super) if_match: Vec<&'a [u8]>,
    pub(super) if_none_match: Vec<&'a [u8]>,
    /// A field of a single value that is repeated has an empty one, which is never valid.
    pub(super) if_modified_since: Option<&'a [u8]>,
    pub(super) if_unmodified_since: Option<&'a [u8]>,
    pub(super) if_range: Option<&'a [u8]>,
    pub(super) range: Option<&'a [u8]>,
}

/// The fields that decide how reading goes on. A length, a transfer coding and a host may
/// each come once.
#[derive(Default)]
struct Framing<'a> {
    host: Option<&'a [u8]>,
    length: Option<&'a [u8]>,
    coding: Option<&'a [u8]>,
    close: bool,
    keep_alive: bool,
    expects: bool,
    expects_else: bool,
}

/// Whether a head of which `scanned` bytes were parsed before is worth parsing again: a line
/// has ended, or the head has become too long. So a head that comes byte by byte is parsed
/// once a line.
pub(super) fn has_news(input: &[u8], scanned: usize) -> bool {
    let fresh = input.get(scanned..).unwrap_or_default();
    input.len() >= MAX_HEAD
        || (scanned..input.len()).contains(&MAX_LINE)
        || memchr(b'\n', fresh).is_some()
}

/// Whether bytes that may be no request ask for the head of the answer only. The result does
/// not depend on how many more bytes have come.
pub(super) fn asks_for_head(head: &[u8]) -> bool {
    without_empty_lines(head).starts_with(b"HEAD ")
}

/// A head with only the lines that an answer depends on, to be kept while a body arrives: the
/// other lines may be long. `None` if there is no memory.
pub(super) fn answerable(head: &[u8]) -> Option<Vec<u8>> {
    let is_needed = |line: &&[u8]| {
        let name = line.split(|&byte| byte == b':').next().unwrap_or_default();
        NEEDED.iter().any(|needed| name.eq_ignore_ascii_case(needed.as_bytes()))
    };
    let needed = || {
        let mut lines = without_empty_lines(head).split_inclusive(|&byte| byte == b'\n');
        let first = lines.next().into_iter();
        first.chain(lines.filter(is_needed)).chain([&b"\r\n"[..]])
    };
    let mut kept = with_room(needed().map(<[u8]>::len).sum())?;
    needed().for_each(|line| kept.extend_from_slice(line));
    Some(kept)
}

/// Adds a value to a list, if there is memory.
fn add<'a>(list: &mut Vec<&'a [u8]>, value: &'a [u8]) -> Result<(), Status> {
    push(list, value).ok_or(Status::UNAVAILABLE)
}

/// The bytes that the parser gets: empty lines in front are skipped, nothing else.
fn without_empty_lines(mut head: &[u8]) -> &[u8] {
    while let Some(rest) = head.strip_prefix(b"\r\n").or_else(|| head.strip_prefix(b"\n")) {
        head = rest;
    }
    head
}

/// The status with which a method is refused, if it is.
fn refused(method: &str, has_length: bool) -> Result<Option<Status>, Status> {
    match method {
        "GET" | "HEAD" => Ok(None),
        "POST" | "PUT" | "PATCH" if !has_length => Err(Status::LENGTH_REQUIRED),
        "OPTIONS" => Ok(Some(Status::NO_CONTENT)),
        "POST" | "PUT" | "PATCH" | "DELETE" | "TRACE" | "CONNECT" => {
            Ok(Some(Status::METHOD_NOT_ALLOWED))
        }
        _ => Ok(Some(Status::NOT_IMPLEMENTED)),
    }
}

impl<'a> Request<'a> {
    /// The first request of `input`; `None` if its head is not complete yet.
    #[inline]
    pub(super) fn parse(input: &'a [u8]) -> Result<Option<Request<'a>>, Status> {
        let window = input.get(..MAX_HEAD).unwrap_or(input);
        if window.get(..MAX_LINE).is_some_and(|line| memchr(b'\n', line).is_none()) {
            return Err(Status::URI_TOO_LONG);
        }
        let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let mut parsed = httparse::Request::new(&mut []);
        let result = parsed.parse_with_uninit_headers(window, &mut fields);
        let (method, target) = (parsed.method.unwrap_or_default(), parsed.path.unwrap_or_default());
        let length = match result {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return incomplete(window),
            Err(httparse::Error::Version) => return Request::of_later(method, target, window),
            Err(error) => return Err(status_of(error)),
        };
        let head = window.get(..length).unwrap_or_default();
        Request::of(head, method, target, parsed.version == Some(0), parsed.headers).map(Some)
    }

    /// A request of a later version 1.x, which is read as one of 1.1. RFC 9110, 2.5
    #[cold]
    fn of_later(
        method: &'a str,
        target: &'a str,
        window: &'a [u8],
    ) -> Result<Option<Request<'a>>, Status> {
        let begun = without_empty_lines(window);
        let Some(end) = memchr(b'\n', begun) else { return incomplete(window) };
        let (line, lines) = begun.split_at_checked(end + 1).unwrap_or_default();
        match line {
            [.., b' ', b'H', b'T', b'T', b'P', b'/', major, b'.', minor, b'\r', b'\n']
                if line.len()
                    == method.len() + target.len() + " ".len() * 2 + "HTTP/1.x\r\n".len()
                    && major.is_ascii_digit()
                    && minor.is_ascii_digit() =>
            {
                if *major != b'1' {
                    return Err(Status::VERSION_NOT_SUPPORTED);
                }
            }
            _ => return Err(Status::BAD_REQUEST),
        }
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        match httparse::parse_headers(lines, &mut fields) {
            Ok(httparse::Status::Complete((length, fields))) => {
                let length = window.len() - lines.len() + length;
                let head = window.get(..length).unwrap_or_default();
                Request::of(head, method, target, false, fields).map(Some)
            }
            Ok(httparse::Status::Partial) => incomplete(window),
            Err(error) => Err(status_of(error)),
        }
    }

    /// Interprets the parts of a head.
    #[inline]
    fn of(
        head: &'a [u8],
        method: &str,
        target: &'a str,
        is_old: bool,
        fields: &[httparse::Header<'a>],
    ) -> Result<Request<'a>, Status> {
        if memchr_iter(b'\n', head).any(|end| head.get(end.wrapping_sub(1)) != Some(&b'\r')) {
            return Err(Status::BAD_REQUEST);
        }
        let (mut framing, mut conditions) = (Framing::default(), Conditions::default());
        for field in fields {
            framing.take(field.name, field.value, &mut conditions)?;
        }
        if framing.host.is_none() && !is_old {
            return Err(Status::BAD_REQUEST);
        }
        let body = framing.body(is_old)?;
        let has_length = framing.length.is_some() || framing.coding.is_some();
        let refusal = refused(method, has_length)?;
        let expects = framing.expects(is_old)? && body.is_some();
        Ok(Request {
            head,
            refusal,
            is_head: method == "HEAD",
            target: match refusal {
                Some(Status::NOT_IMPLEMENTED) => target, // of any form
                _ => path_of(method, target).ok_or(Status::BAD_REQUEST)?,
            },
            // After CONNECT any bytes may follow, and a client that expects `100 Continue` and
            // gets another status may or may not send the body.
            then: match framing.then(is_old) {
                _ if method == "CONNECT" || expects && refusal.is_some() => Then::Close,
                Then::CloseAsAsked if body.is_some() => Then::Close, // perhaps CRLF behind it
                then => then,
            },
            body,
            expects,
            conditions,
        })
    }
}

/// What of a head is there may become a whole one, unless it is too long.
fn incomplete<'a>(window: &[u8]) -> Result<Option<Request<'a>>, Status> {
    if window.len() < MAX_HEAD { Ok(None) } else { Err(Status::FIELDS_TOO_LARGE) }
}

impl<'a> Framing<'a> {
    #[inline]
    fn take(
        &mut self,
        name: &str,
        value: &'a [u8],
        conditions: &mut Conditions<'a>,
    ) -> Result<(), Status> {
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        match name.len() {
            4 if is("host") => {
                once(&mut self.host, value)?;
                authority::parts(value).ok_or(Status::BAD_REQUEST)?;
            }
            14 if is("content-length") => once(&mut self.length, value)?,
            17 if is("transfer-encoding") => once(&mut self.coding, value)?,
            6 if is("expect") => {
                for expectation in elements(value) {
                    let is_known = expectation.eq_ignore_ascii_case(b"100-continue");
                    self.expects |= is_known;
                    self.expects_else |= !is_known;
                }
            }
            10 if is("connection") => {
                for option in elements(value) {
                    self.close |= option.eq_ignore_ascii_case(b"close");
                    self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            5 if is("range") => single(&mut conditions.range, value),
            8 if is("if-match") => add(&mut conditions.if_match, value)?,
            8 if is("if-range") => single(&mut conditions.if_range, value),
            13 if is("if-none-match") => add(&mut conditions.if_none_match, value)?,
            17 if is("if-modified-since") => single(&mut conditions.if_modified_since, value),
            19 if is("if-unmodified-since") => single(&mut conditions.if_unmodified_since, value),
            _ => {}
        }
        Ok(())
    }

    fn body(&self, is_old: bool) -> Result<Option<Body>, Status> {
        match (self.length, self.coding) {
            (None, None) => Ok(None),
            (Some(length), None) => Ok(Body::of_length(plain_number(length)?)),
            (None, Some(coding)) if !is_old => {
                let is_known = coding.eq_ignore_ascii_case(b"chunked");
                if is_known { Ok(Some(Body::chunked())) } else { Err(Status::NOT_IMPLEMENTED) }
            }
            _ => Err(Status::BAD_REQUEST),
        }
    }

    fn expects(&self, is_old: bool) -> Result<bool, Status> {
        match self.expects_else && !is_old {
            true => Err(Status::EXPECTATION_FAILED),
            false => Ok(self.expects && !is_old),
        }
    }

    fn then(&self, is_old: bool) -> Then {
        match (self.close, is_old) {
            (true, _) => Then::CloseAsAsked,
            (false, false) => Then::Stay,
            (false, true) if self.keep_alive => Then::StayAsAsked,
            (false, true) => Then::CloseAsAsked,
        }
    }
}

fn once<'a>(place: &mut Option<&'a [u8]>, value: &'a [u8]) -> Result<(), Status> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(Status::BAD_REQUEST),
    }
}

fn single<'a>(place: &mut Option<&'a [u8]>, value: &'a [u8]) {
    *place = Some(if place.is_none() { value } else { b"" });
}

/// The elements of a list of words; empty ones do not count. RFC 9110, 5.6.1
fn elements(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
}

/// A length is digits and nothing else: no sign, no list, no space.
fn plain_number(digits: &[u8]) -> Result<u64, Status> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Status::BAD_REQUEST);
    }
    let number = str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
    number.filter(|&number| number <= MAX_BODY).ok_or(Status::CONTENT_TOO_LARGE)
}

/// The path and query of a target, which may also name the host, as for a proxy; `None` if
/// the target has no form that the method allows. RFC 9112, 3.2
fn path_of<'a>(method: &str, target: &'a str) -> Option<&'a str> {
    if memchr(b'#', target.as_bytes()).is_some() {
        return None;
    }
    match method {
        _ if target.starts_with('/') && method != "CONNECT" => Some(target),
        "OPTIONS" if target == "*" => Some(target),
        "CONNECT" => {
            let (host, port) = authority::parts(target.as_bytes())?;
            (!host.is_empty() && port.len() > 1).then_some(target)
        }
        _ => {
            let (scheme, rest) = target.split_once("://")?;
            let is = |known: &str| scheme.eq_ignore_ascii_case(known);
            let (authority, path) = {
                let end = rest.find(['/', '?']).unwrap_or(rest.len());
                rest.split_at_checked(end)?
            };
            let (host, _) = authority::parts(authority.as_bytes())?;
            let path = if path.starts_with('/') { path } else { "/" };
            (!host.is_empty() && (is("http") || is("https"))).then_some(path)
        }
    }
}

/// The status for a malformed head.
#[cold]
fn status_of(error: httparse::Error) -> Status {
    match error {
        httparse::Error::TooManyHeaders => Status::FIELDS_TOO_LARGE,
        _ => Status::BAD_REQUEST,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kept part of a head gets the answer that the whole head would get.
    #[test]
    fn of_a_head_what_its_answer_needs() {
        let fields = "Host: here\r\nconnection: close\r\nCONTENT-LENGTH: 5\r\nExpect: 100-continue\r\n\
            If-None-Match: \"a\"\r\nif-none-match: \"b\"\r\nRange: bytes=1-2\r\nIf-Range: \"c\"\r\n\
            If-Match: *\r\nIf-Modified-Since: today\r\nIf-Unmodified-Since: today\r\n";
        for first in ["GET /a?b HTTP/1.1", "\r\nHEAD /a HTTP/1.9", "PUT /a HTTP/1.1"] {
            let padding = format!("X-Host: no\r\nCookie: {}\r\n", "c".repeat(9_000));
            let head = format!("{first}\r\n{padding}{fields}Hos: t\r\n\r\n");
            let kept = answerable(head.as_bytes()).unwrap();
            assert_eq!(kept.len(), first.trim_ascii_start().len() + fields.len() + 4);
            let [whole, part] = [head.as_bytes(), &kept].map(|head| {
                let Ok(Some(request)) = Request::parse(head) else { panic!("{head:?}") };
                let Request { refusal, is_head, target, then, body, expects, conditions, .. } =
                    request;
                format!("{:?}", (refusal, is_head, target, then, body, expects, conditions))
            });
            assert_eq!(whole, part);
        }
    }
}
