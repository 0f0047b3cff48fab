//! Conditions and ranges: whether a request gets all of a file, a part, or a status.
//! RFC 9110, 13 (conditions) and 14 (ranges)
//!
//! A pure function of the request's fields and the file's.

use super::answer::date;
use super::request::Conditions;
use crate::kernel::FileStatus;
use memchr::memchr;
use std::fmt::{self, Display};
use std::io::Write;
use std::time::UNIX_EPOCH;

/// The longest tick of the clock with which the kernel stamps files, in nanoseconds: two
/// changes within one tick may have the same times. (Since Linux 6.13 some file systems give
/// the second one a later time if a process has asked for the first.)
const TICK: i64 = 10_000_000;

/// What the conditions compare.
#[derive(Debug)]
pub(super) struct Version {
    /// Its entity tag, with its quotes.
    tag: Tag,
    /// The file may change once more and keep this tag.
    is_weak: bool,
    /// When it was last changed, in seconds since 1970, if that is known.
    modified: Option<u64>,
    /// The second of its last change is over, so only one content has that date.
    is_dated: bool,
    /// Its length in bytes.
    pub(super) size: u64,
}

/// An entity tag: four numbers in hexadecimal, what stands between them, and two quotes.
#[derive(Debug, PartialEq)]
struct Tag {
    text: [u8; Tag::LONGEST],
    length: usize,
}

impl Tag {
    const LONGEST: usize = 4 * 16 + 3 + 2;

    fn new(text: fmt::Arguments<'_>) -> Tag {
        let mut tag = Tag { text: [0; Tag::LONGEST], length: 0 };
        let mut rest = &mut tag.text[..];
        let _ = rest.write_fmt(text); // it fits
        tag.length = Tag::LONGEST - rest.len();
        tag
    }

    fn bytes(&self) -> &[u8] {
        self.text.get(..self.length).unwrap_or_default()
    }
}

impl Version {
    /// The version of a file, at the time `now` in nanoseconds since 1970. Programs can set the
    /// mtime, as backups do; the inode and the ctime show that.
    pub(super) fn of(status: &FileStatus, now: i64) -> Version {
        let &FileStatus { size, modified, changed, identity: (_, inode), .. } = status;
        let [seconds, last, present] =
            [modified, modified.max(changed), now].map(|nanos| nanos / 1_000_000_000);
        Version {
            tag: Tag::new(format_args!("\"{modified:x}-{size:x}-{inode:x}-{changed:x}\"")),
            is_weak: may_change_unseen(status, now),
            // Some tools set 0 or 1 instead of no date. A date in the future is not allowed, and in
            // this second the file may change again and keep its date: so the second before.
            // RFC 9110, 8.8.2
            modified: (seconds > 1).then_some(seconds.min(present.saturating_sub(1)).max(0) as u64),
            is_dated: last < present,
            size,
        }
    }
}

/// Whether a file may change once more at `now` and have the same times.
pub(super) fn may_change_unseen(status: &FileStatus, now: i64) -> bool {
    status.changed.saturating_add(TICK) > now
}

/// The fields that a client hands back.
impl Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(modified) = self.modified {
            write!(f, "Last-Modified: {}\r\n", date(modified))?;
        }
        let weak = if self.is_weak { "W/" } else { "" };
        let tag = str::from_utf8(self.tag.bytes()).unwrap_or_default();
        write!(f, "ETag: {weak}{tag}\r\nAccept-Ranges: bytes\r\n")
    }
}

/// What the answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Whole,
    /// This many bytes from an offset on: at least one, and none after the end.
    Part {
        offset: u64,
        length: u64,
    },
    /// The client has this version already.
    NotModified,
    /// It is not the version that the client asked for.
    PreconditionFailed,
    /// The file has no such part.
    NoSuchPart,
}

impl Conditions<'_> {
    /// What the answer about a file is; a HEAD is never for a part.
    pub(super) fn due(&self, file: &Version, is_head: bool) -> Due {
        let date = |field: Option<&[u8]>| field.and_then(seconds).zip(file.modified);
        let fails = match date(self.if_unmodified_since) {
            _ if !self.if_match.is_empty() => !names(&self.if_match, file, false),
            Some((since, modified)) => modified > since,
            None => false,
        };
        if fails {
            return Due::PreconditionFailed;
        }
        let has_it = match date(self.if_modified_since) {
            _ if !self.if_none_match.is_empty() => names(&self.if_none_match, file, true),
            Some((since, modified)) => modified <= since,
            None => false,
        };
        if has_it {
            return Due::NotModified;
        }
        let dated = file.modified.filter(|_| file.is_dated);
        let is_same = self.if_range.is_none_or(|version| {
            let is_date = || dated.is_some() && seconds(version) == dated;
            !file.is_weak && (version == file.tag.bytes() || is_date())
        });
        match self.range {
            Some(range) if is_same && !is_head => part(range, file.size),
            _ => Due::Whole,
        }
    }
}

/// Whether a list of entity tags, in one line or several, has that of a file. The weak
/// comparison takes `W/"x"` for `"x"`; the strong one takes no weak tag at all.
fn names(lines: &[&[u8]], file: &Version, weakly: bool) -> bool {
    let is_it = |(tag, is_weak): (&[u8], bool)| {
        tag == file.tag.bytes() && (weakly || !is_weak && !file.is_weak)
    };
    lines == [b"*"] || lines.iter().any(|line| tags(line).any(is_it))
}

/// The entity tags of a line, each with its quotes, and whether it is weak. A tag may have a
/// comma in it. Anything else ends the list. RFC 9110, 8.8.3
fn tags(mut line: &[u8]) -> impl Iterator<Item = (&[u8], bool)> {
    std::iter::from_fn(move || {
        while let [b',' | b' ' | b'\t', rest @ ..] = line {
            line = rest;
        }
        let (is_weak, tag) = match line.strip_prefix(b"W/") {
            Some(tag) => (true, tag),
            None => (false, line),
        };
        let length = memchr(b'"', tag.strip_prefix(b"\"")?)? + 2;
        let (tag, rest) = tag.split_at_checked(length)?;
        let is_next = matches!(rest.trim_ascii_start(), [] | [b',', ..]);
        line = rest;
        (is_next && !tag.iter().any(|&byte| byte <= b' ' || byte == 0x7f)).then_some((tag, is_weak))
    })
}

/// The seconds since 1970 of a date; `None` if it is malformed.
fn seconds(date: &[u8]) -> Option<u64> {
    let date = httpdate::parse_http_date(str::from_utf8(date).ok()?).ok()?;
    Some(date.duration_since(UNIX_EPOCH).ok()?.as_secs())
}

/// The part that a Range asks for. A malformed Range is ignored, and so are several ranges at
/// once: then the answer is the whole file, as the standard allows. So it is for an empty
/// file, which has no part.
fn part(range: &[u8], size: u64) -> Due {
    let Some((first, last)) = first_and_last(range).filter(|_| size > 0) else {
        return Due::Whole;
    };
    let (first, end) = match (first, last) {
        (None, None) => return Due::Whole,
        (None, Some(length)) => (size - length.min(size), size),
        (Some(first), None) => (first, size),
        (Some(first), Some(last)) if first > last => return Due::Whole,
        (Some(first), Some(last)) => (first, last.saturating_add(1).min(size)),
    };
    if first >= end { Due::NoSuchPart } else { Due::Part { offset: first, length: end - first } }
}

/// The two numbers of `bytes=0-499`, either of which may be missing. The ranges are a list:
/// empty ones do not count, and several give `None`. RFC 9110, 14.1.1
fn first_and_last(range: &[u8]) -> Option<(Option<u64>, Option<u64>)> {
    let (unit, ranges) = str::from_utf8(range).ok()?.split_once('=')?;
    let mut ranges = ranges.split(',').map(str::trim_ascii).filter(|range| !range.is_empty());
    let (range, others) = (ranges.next()?, ranges.next());
    let is_understood = unit.eq_ignore_ascii_case("bytes") && others.is_none();
    let (first, last) = range.split_once('-').filter(|_| is_understood)?;
    Some((number(first)?, number(last)?))
}

/// A number in digits, or none where there is no text. A number beyond 64 bits becomes the
/// largest: no file is that long.
fn number(text: &str) -> Option<Option<u64>> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    is_plain.then(|| (!text.is_empty()).then(|| text.parse().unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::FileKind;

    fn file() -> Version {
        Version {
            tag: Tag::new(format_args!("\"a-1\"")),
            is_weak: false,
            modified: Some(784_111_777),
            is_dated: true,
            size: 1_000,
        }
    }
    const THEN: &[u8] = b"Sun, 06 Nov 1994 08:49:37 GMT"; // when it was modified
    const BEFORE: &[u8] = b"Sun, 06 Nov 1994 08:49:36 GMT";

    fn due(conditions: &Conditions<'_>) -> Due {
        conditions.due(&file(), false)
    }

    #[test]
    fn ranges() {
        let part = |offset, length| Due::Part { offset, length };
        for (range, expected) in [
            ("bytes=0-499", part(0, 500)),
            ("bytes=500-999", part(500, 500)),
            ("bytes=500-", part(500, 500)),
            ("bytes=-1", part(999, 1)),
            ("bytes=-1000", part(0, 1_000)),
            ("bytes=-9999", part(0, 1_000)),
            ("bytes=999-99999999999999999999999", part(999, 1)),
            ("Bytes=0-0", part(0, 1)),
            ("bytes=, 1-2 ,", part(1, 2)), // a list, of one
            ("bytes=0 - 0", Due::Whole),
            ("bytes=1000-", Due::NoSuchPart),
            ("bytes=18446744073709551615-", Due::NoSuchPart),
            ("bytes=-0", Due::NoSuchPart),
            ("bytes=5-4", Due::Whole), // malformed: ignored
            ("bytes=-", Due::Whole),
            ("bytes=0-1,5-6", Due::Whole), // several: the whole
            ("bytes=+1-2", Due::Whole),
            ("bytes", Due::Whole),
            ("lines=0-1", Due::Whole),
            ("", Due::Whole),
        ] {
            let conditions = Conditions { range: Some(range.as_bytes()), ..Conditions::default() };
            assert_eq!(due(&conditions), expected, "{range}");
            assert_eq!(conditions.due(&file(), true), Due::Whole, "HEAD {range}");
        }
        // An empty file has no part, and is not refused for that.
        for range in ["bytes=0-", "bytes=-5", "bytes=-0", "bytes=0-0"] {
            let conditions = Conditions { range: Some(range.as_bytes()), ..Conditions::default() };
            assert_eq!(
                conditions.due(&Version { size: 0, ..file() }, false),
                Due::Whole,
                "{range}"
            );
        }
    }

    #[test]
    fn conditions() {
        let whole = Conditions::default;
        for (list, is_this, is_this_weakly) in [
            (&b"\"a-1\""[..], true, true),
            (b"\"b,\",\"a-1\"", true, true), // a comma may stand in a tag
            (b", ,\"a-1\",", true, true),    // empty elements do not count
            (b"\"b, \"a-1\", c\"", false, false), // anything but a tag ends the list
            (b"b, \"a-1\"", false, false),
            (b"*, \"a-1\"", false, false),
            (b"\"b\" , \"a-1\"", true, true),
            (b"*", true, true),
            (b"W/\"a-1\"", false, true),
            (b"\"a-\"", false, false),
            (b"a-1", false, false),
            (b"", false, false),
        ] {
            let expected = if is_this { Due::Whole } else { Due::PreconditionFailed };
            assert_eq!(due(&Conditions { if_match: vec![list], ..whole() }), expected, "{list:?}");
            let expected = if is_this_weakly { Due::NotModified } else { Due::Whole };
            // A tag is more than a date.
            let conditions = Conditions {
                if_none_match: vec![list],
                if_modified_since: Some(BEFORE),
                ..whole()
            };
            assert_eq!(due(&conditions), expected, "{list:?}");
        }
        for (since, modified, unmodified) in [
            (THEN, Due::NotModified, Due::Whole),
            (BEFORE, Due::Whole, Due::PreconditionFailed),
            (b"Sunday, 06-Nov-94 08:49:37 GMT", Due::NotModified, Due::Whole),
            (b"Sun Nov  6 08:49:37 1994", Due::NotModified, Due::Whole),
            (b"yesterday", Due::Whole, Due::Whole), // ignored
            (b"\xff", Due::Whole, Due::Whole),
        ] {
            assert_eq!(due(&Conditions { if_modified_since: Some(since), ..whole() }), modified);
            assert_eq!(
                due(&Conditions { if_unmodified_since: Some(since), ..whole() }),
                unmodified
            );
        }
    }

    /// Each part of a file's status that changes with its content changes the tag.
    #[test]
    fn versions() {
        let (now, kind) = (1_000_000_000_000, FileKind::Regular);
        let status =
            FileStatus { kind, size: 5, modified: 7, changed: 8, mode: 0o644, identity: (1, 9) };
        let tag = |status| Version::of(&status, now).tag;
        let due = tag(status);
        assert_ne!(tag(FileStatus { size: 6, ..status }), due);
        assert_ne!(tag(FileStatus { modified: 8, ..status }), due);
        assert_ne!(tag(FileStatus { changed: 9, ..status }), due); // with its old date set again
        assert_ne!(tag(FileStatus { identity: (1, 10), ..status }), due); // another in its place
        assert_eq!(tag(FileStatus { identity: (2, 9), ..status }), due); // after a boot, perhaps
        for (changed, is_weak) in [(now - TICK, false), (now - TICK + 1, true), (now + 1, true)] {
            assert_eq!(Version::of(&FileStatus { changed, ..status }, now).is_weak, is_weak);
        }
        for (seconds, due) in [
            (-1, None),
            (0, None),
            (1, None),
            (2, Some(2)),
            (999, Some(999)),
            (1_000, Some(999)),
            (9_999, Some(999)),
        ] {
            let modified = seconds * 1_000_000_000;
            assert_eq!(Version::of(&FileStatus { modified, ..status }, now).modified, due);
        }
    }

    /// A client that knew the first of two versions of one second kept it, or put a part of the
    /// second one behind it.
    #[test]
    fn a_file_that_changes_twice_in_a_second() {
        let at = |millis: i64| millis * 1_000_000;
        let of = |changed: i64, now: i64| {
            let (kind, changed) = (FileKind::Regular, at(changed));
            let identity = (1, 9);
            let status =
                FileStatus { kind, size: 5, modified: changed, changed, mode: 0o644, identity };
            Version::of(&status, at(now))
        };
        let told = |version: &Version| {
            httpdate::fmt_http_date(
                UNIX_EPOCH + std::time::Duration::from_secs(version.modified.unwrap()),
            )
        };
        let first = told(&of(100_100, 100_300));
        let range = Some(&b"bytes=3-"[..]);
        for now in [100_700, 101_000, 200_000] {
            let second = of(100_500, now);
            let if_range = Some(first.as_bytes());
            let conditions = Conditions { range, if_range, ..Conditions::default() };
            assert_eq!(conditions.due(&second, false), Due::Whole, "{now}");
            if now < 101_000 {
                continue; // asked for again in that second it is found later
            }
            let conditions = Conditions { if_modified_since: if_range, ..Conditions::default() };
            assert_eq!(conditions.due(&second, false), Due::Whole, "{now}");
            let since = told(&second);
            let conditions =
                Conditions { if_modified_since: Some(since.as_bytes()), ..Conditions::default() };
            assert_eq!(conditions.due(&second, false), Due::NotModified, "{now}");
        }
    }

    #[test]
    fn a_list_in_several_lines() {
        let lines: Vec<&[u8]> = vec![b"\"b\"", b"", b"\"a-1\""];
        let conditions = Conditions { if_match: lines.clone(), ..Conditions::default() };
        assert_eq!(due(&conditions), Due::Whole);
        let conditions = Conditions { if_none_match: lines, ..Conditions::default() };
        assert_eq!(due(&conditions), Due::NotModified);
        let conditions = Conditions { if_match: vec![b"*", b"\"b\""], ..Conditions::default() };
        assert_eq!(due(&conditions), Due::PreconditionFailed); // an asterisk stands alone
    }

    /// A file that has just changed may do so again and keep its tag; one of no known date has
    /// none to compare.
    #[test]
    fn weak_tags_and_no_date() {
        let weak = Version { is_weak: true, ..file() };
        let tag: &[u8] = b"\"a-1\"";
        let range = Some(&b"bytes=0-0"[..]);
        let conditions = Conditions { range, if_range: Some(tag), ..Conditions::default() };
        assert_eq!(conditions.due(&weak, false), Due::Whole);
        let conditions = Conditions { if_match: vec![tag], ..Conditions::default() };
        assert_eq!(conditions.due(&weak, false), Due::PreconditionFailed);
        let conditions = Conditions { if_none_match: vec![b"W/\"a-1\""], ..Conditions::default() };
        assert_eq!(conditions.due(&weak, false), Due::NotModified);
        let dateless = Version { modified: None, ..file() };
        for date in [Some(THEN), Some(BEFORE)] {
            let conditions = Conditions { if_unmodified_since: date, ..Conditions::default() };
            assert_eq!(conditions.due(&dateless, false), Due::Whole);
            let conditions = Conditions { if_modified_since: date, ..Conditions::default() };
            assert_eq!(conditions.due(&dateless, false), Due::Whole);
            let conditions = Conditions { range, if_range: date, ..Conditions::default() };
            assert_eq!(conditions.due(&dateless, false), Due::Whole);
        }
        let conditions = Conditions { range, if_range: Some(b"nonsense"), ..Conditions::default() };
        assert_eq!(conditions.due(&dateless, false), Due::Whole); // no date is not no date
    }

    #[test]
    fn a_part_is_of_the_version_that_the_client_has() {
        for (version, is_same) in [
            (&b"\"a-1\""[..], true),
            (THEN, true),
            (BEFORE, false),
            (b"W/\"a-1\"", false),
            (b"\"b\"", false),
            (b"nonsense", false),
        ] {
            let (range, if_range) = (Some(&b"bytes=0-0"[..]), Some(version));
            let expected = if is_same { Due::Part { offset: 0, length: 1 } } else { Due::Whole };
            assert_eq!(due(&Conditions { range, if_range, ..Conditions::default() }), expected);
        }
    }
}
