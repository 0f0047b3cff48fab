//! The head of a request: from bytes to a [`Request`] that can be answered, or to the
//! status that refuses it.
//!
//! httparse splits the head into its parts. What they mean is decided here, and whatever
//! two servers in a row might understand in two ways is refused, for that is what request
//! smuggling lives on: a line that ends in a bare LF, two lengths, two hosts, a length that
//! is no plain number, a transfer coding other than `chunked`. RFC 9112
//!
//! It is a pure function of the bytes, and says the same of them however they arrived: what
//! it looks at is cut to [`MAX_HEAD`] first.

use super::body::{Body, MAX_BODY};
use super::status::Status;
use memchr::{memchr, memchr_iter};
use std::mem::MaybeUninit;

/// The longest head, its empty line included,
const MAX_HEAD: usize = 16 << 10;
/// the longest first line of one,
const MAX_LINE: usize = 8 << 10;
/// and how many fields it may have.
const MAX_FIELDS: usize = 100;

/// A request that is to be answered, when its body has passed by.
#[derive(Debug)]
pub(super) struct Request<'a> {
    /// All of it.
    pub(super) head: &'a [u8],
    /// Why it gets no more than a status.
    pub(super) refusal: Option<Status>,
    /// It asks for the head of the answer only.
    pub(super) is_head: bool,
    /// The path and the query, as they came.
    pub(super) target: &'a str,
    /// What becomes of the connection.
    pub(super) then: Then,
    pub(super) body: Option<Body>,
    /// It waits for `100 Continue` before it sends the body.
    pub(super) expects: bool,
    /// It asks for something in particular.
    pub(super) wishes: Wishes<'a>,
}

/// What becomes of the connection behind an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// It stays, which HTTP/1.1 takes for granted,
    Stay,
    /// or has asked for, in HTTP/1.0.
    StayAsAsked,
    /// It ends.
    Close,
}

/// The fields that make a request conditional, or one for a part. RFC 9110, 13 and 14
#[derive(Debug, Default)]
pub(super) struct Wishes<'a> {
    pub(super) if_match: Option<&'a [u8]>,
    pub(super) if_none_match: Option<&'a [u8]>,
    pub(super) if_modified_since: Option<&'a [u8]>,
    pub(super) if_unmodified_since: Option<&'a [u8]>,
    pub(super) if_range: Option<&'a [u8]>,
    pub(super) range: Option<&'a [u8]>,
}

/// The fields that decide how the connection is read on. Each may come once.
#[derive(Default)]
struct Framing<'a> {
    host: Option<&'a [u8]>,
    length: Option<&'a [u8]>,
    coding: Option<&'a [u8]>,
    expect: Option<&'a [u8]>,
    close: bool,
    keep_alive: bool,
}

/// Whether a head of which `scanned` bytes were seen before may be more than incomplete
/// now: a line has ended, or it grew too long. So a head that comes byte by byte is parsed
/// once a line.
pub(super) fn has_news(input: &[u8], scanned: usize) -> bool {
    let fresh = input.get(scanned..).unwrap_or_default();
    input.len() >= MAX_HEAD
        || (scanned..input.len()).contains(&MAX_LINE)
        || memchr(b'\n', fresh).is_some()
}

/// Whether what may be no request at all asks for the head of the answer only. Like the
/// parser it passes over empty lines, and over nothing else: what it would say of more bytes
/// must not depend on how many have come.
pub(super) fn asks_for_head(mut head: &[u8]) -> bool {
    while let Some(rest) = head.strip_prefix(b"\r\n").or_else(|| head.strip_prefix(b"\n")) {
        head = rest;
    }
    head.starts_with(b"HEAD ")
}

impl<'a> Request<'a> {
    /// The first request of `input`; `None` if there is not yet all of its head.
    #[inline]
    pub(super) fn parse(input: &'a [u8]) -> Result<Option<Request<'a>>, Status> {
        let window = input.get(..MAX_HEAD).unwrap_or(input);
        if window.get(..MAX_LINE).is_some_and(|line| memchr(b'\n', line).is_none()) {
            return Err(Status::URI_TOO_LONG);
        }
        let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let mut parsed = httparse::Request::new(&mut []);
        let length = match parsed.parse_with_uninit_headers(window, &mut fields) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if window.len() < MAX_HEAD => return Ok(None),
            Ok(httparse::Status::Partial) => return Err(Status::FIELDS_TOO_LARGE),
            Err(error) => return Err(refusal(error, window)),
        };
        let head = input.get(..length).unwrap_or_default();
        let (method, target) = (parsed.method.unwrap_or_default(), parsed.path.unwrap_or_default());
        if memchr_iter(b'\n', head).any(|end| head.get(end.wrapping_sub(1)) != Some(&b'\r')) {
            return Err(Status::BAD_REQUEST);
        }
        let (mut framing, mut wishes) = (Framing::default(), Wishes::default());
        for field in parsed.headers.iter() {
            framing.take(field.name, field.value, &mut wishes)?;
        }
        let is_old = parsed.version == Some(0);
        if framing.host.is_none() && !is_old {
            return Err(Status::BAD_REQUEST);
        }
        let body = framing.body(is_old)?;
        let refusal = match method {
            "GET" | "HEAD" => None,
            "POST" | "PUT" | "PATCH" if body.is_none() => return Err(Status::LENGTH_REQUIRED),
            "OPTIONS" => Some(Status::NO_CONTENT), // of this or of *, as health checks ask
            "POST" | "PUT" | "PATCH" | "DELETE" | "TRACE" | "CONNECT" => {
                Some(Status::METHOD_NOT_ALLOWED)
            }
            _ => Some(Status::NOT_IMPLEMENTED),
        };
        let expects = framing.expects(is_old)? && body.is_some();
        Ok(Some(Request {
            head,
            refusal,
            is_head: method == "HEAD",
            target: if refusal.is_none() { path_of(target)? } else { target },
            // Behind a CONNECT comes who knows what, and whoever expects a `100 Continue`
            // and gets something else may or may not send the body.
            then: match framing.then(is_old) {
                _ if method == "CONNECT" || expects && refusal.is_some() => Then::Close,
                then => then,
            },
            body,
            expects,
            wishes,
        }))
    }
}

impl<'a> Framing<'a> {
    #[inline]
    fn take(&mut self, name: &str, value: &'a [u8], wishes: &mut Wishes<'a>) -> Result<(), Status> {
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        match name.len() {
            4 if is("host") => {
                once(&mut self.host, value)?;
                if !value.iter().all(|&byte| may_name_a_host(byte)) {
                    return Err(Status::BAD_REQUEST);
                }
            }
            14 if is("content-length") => once(&mut self.length, value)?,
            17 if is("transfer-encoding") => once(&mut self.coding, value)?,
            6 if is("expect") => once(&mut self.expect, value)?,
            10 if is("connection") => {
                for option in value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
                    self.close |= option.eq_ignore_ascii_case(b"close");
                    self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            5 if is("range") => wishes.range = Some(value),
            8 if is("if-match") => wishes.if_match = Some(value),
            8 if is("if-range") => wishes.if_range = Some(value),
            13 if is("if-none-match") => wishes.if_none_match = Some(value),
            17 if is("if-modified-since") => wishes.if_modified_since = Some(value),
            19 if is("if-unmodified-since") => wishes.if_unmodified_since = Some(value),
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
        match self.expect {
            Some(expect) if !is_old => {
                let is_known = expect.eq_ignore_ascii_case(b"100-continue");
                if is_known { Ok(true) } else { Err(Status::EXPECTATION_FAILED) }
            }
            _ => Ok(false),
        }
    }

    fn then(&self, is_old: bool) -> Then {
        match (self.close, is_old) {
            (true, _) => Then::Close,
            (false, false) => Then::Stay,
            (false, true) if self.keep_alive => Then::StayAsAsked,
            (false, true) => Then::Close,
        }
    }
}

fn once<'a>(place: &mut Option<&'a [u8]>, value: &'a [u8]) -> Result<(), Status> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(Status::BAD_REQUEST),
    }
}

/// A length is digits and nothing else: no sign, no list, no space.
fn plain_number(digits: &[u8]) -> Result<u64, Status> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Status::BAD_REQUEST);
    }
    let number = str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
    number.filter(|&number| number <= MAX_BODY).ok_or(Status::CONTENT_TOO_LARGE)
}

/// Which bytes may name a host: names, addresses, ports, and what RFC 3986 allows besides.
#[expect(clippy::indexing_slicing, reason = "a constant that panics does not compile")]
const NAMES_A_HOST: [bool; 256] = {
    let mut may = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        may[byte] = (byte as u8).is_ascii_alphanumeric()
            || matches!(byte as u8, b'.' | b':' | b'-' | b'_' | b'[' | b']' | b'~' | b'%' | b'!')
            || matches!(byte as u8, b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b';' | b'=');
        byte += 1;
    }
    may
};

fn may_name_a_host(byte: u8) -> bool {
    NAMES_A_HOST.get(usize::from(byte)).is_some_and(|&may| may)
}

/// The path and query of a target, which may also name the host, as for a proxy.
fn path_of(target: &str) -> Result<&str, Status> {
    if target.starts_with('/') && memchr(b'#', target.as_bytes()).is_none() {
        return Ok(target);
    }
    let (scheme, rest) = target.split_once("://").ok_or(Status::BAD_REQUEST)?;
    let is_http = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
    let at = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (host, path) = rest.split_at_checked(at).unwrap_or_default();
    if !is_http || host.is_empty() || path.contains('#') {
        return Err(Status::BAD_REQUEST);
    }
    Ok(if path.starts_with('/') { path } else { "/" })
}

/// What to say to a head that is none.
#[cold]
fn refusal(error: httparse::Error, input: &[u8]) -> Status {
    let line = input.trim_ascii_start().split(|&byte| byte == b'\n').next().unwrap_or_default();
    let version = line.split(|&byte| byte == b' ').nth(2).unwrap_or_default();
    let names_another = match version.strip_prefix(b"HTTP/") {
        Some([digit, ..]) => digit.is_ascii_digit(),
        _ => false,
    };
    match error {
        httparse::Error::TooManyHeaders => Status::FIELDS_TOO_LARGE,
        httparse::Error::Version if names_another => Status::VERSION_NOT_SUPPORTED,
        _ => Status::BAD_REQUEST,
    }
}
