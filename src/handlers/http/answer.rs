//! Answers: the status, the date, and the head in front of a body.
//!
//! Text that never changes is formatted once. The date changes once a second, and with it the
//! plain answer, so sending that answer copies bytes that are formatted already.

use super::request::{MAX_LINE, Then};
use super::status::Status;
use httpdate::HttpDate;
use std::fmt::{self, Display};
use std::io::Write;
use std::time::{Duration, UNIX_EPOCH};

/// The body of the plain answer.
const HELLO: &str = "hello\n";
const TEXT: &str = "text/plain; charset=utf-8";

/// Seconds since 1970 as HTTP writes them.
pub(super) fn date(seconds: u64) -> HttpDate {
    const LAST: u64 = 253_402_300_799; // 31 December 9999
    HttpDate::from(UNIX_EPOCH + Duration::from_secs(seconds.min(LAST)))
}

/// A date as a log has it: `06/Nov/1994:08:49:37 +0000`.
pub(super) struct LogDate<'a>(&'a str);

impl Display for LogDate<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = self.0.split(' ').skip(1);
        let [day, month, year, time] = [(); 4].map(|()| words.next().unwrap_or_default());
        write!(f, "{day}/{month}/{year}:{time} +0000")
    }
}

/// Where answers are put together, in memory that is there from the start.
#[derive(Debug)]
pub(super) struct Answers {
    /// The time in `date` and `hello`, in seconds since 1970.
    pub(super) now: u64,
    /// When `date` becomes outdated, on the server's own clock.
    right_until: Duration,
    /// `Sun, 06 Nov 1994 08:49:37 GMT`
    date: String,
    /// The whole plain answer.
    hello: Vec<u8>,
    /// The head at hand, and a short text behind it.
    head: Vec<u8>,
}

/// Room for the longest head: with a target in it, in a Location.
const LONGEST_HEAD: usize = MAX_LINE + 1_024;

impl Answers {
    pub(super) fn new() -> Answers {
        let memory = || Vec::with_capacity(LONGEST_HEAD); // before there is a server
        let (now, right_until, date) = (0, Duration::ZERO, String::with_capacity(64));
        Answers { now, right_until, date, hello: memory(), head: memory() }
    }

    /// Whether another second has begun since [`set_date`](Answers::set_date).
    #[inline]
    pub(super) fn is_late(&self, clock: Duration) -> bool {
        clock >= self.right_until
    }

    /// Sets the time, in nanoseconds since 1970, which it is when the server's own clock
    /// shows `clock`.
    #[cold]
    pub(super) fn set_date(&mut self, nanos: u64, clock: Duration) {
        self.now = nanos / 1_000_000_000;
        self.right_until = clock + Duration::from_nanos(1_000_000_000 - nanos % 1_000_000_000);
        self.date.clear(); // which keeps its memory
        let _ = fmt::Write::write_fmt(&mut self.date, format_args!("{}", date(self.now)));
        self.text(Status::OK, Then::Stay, "");
        std::mem::swap(&mut self.hello, &mut self.head);
    }

    /// The time of day in nanoseconds since 1970, when the server's own clock shows `clock`.
    pub(super) fn time(&self, clock: Duration) -> i64 {
        let until = self.right_until.saturating_sub(clock).as_nanos() as i64;
        (self.now as i64).saturating_add(1).saturating_mul(1_000_000_000).saturating_sub(until)
    }

    /// The plain answer: `200 OK`, as text, on a connection that stays open.
    #[inline]
    pub(super) fn hello(&self) -> &[u8] {
        &self.hello
    }

    /// The date for the access log.
    pub(super) fn log_date(&self) -> LogDate<'_> {
        LogDate(&self.date)
    }

    /// A head with these fields, each ending in CRLF.
    pub(super) fn head(&mut self, status: Status, then: Then, fields: impl Display) -> &[u8] {
        let connection = match then {
            Then::Stay => "",
            Then::StayAsAsked => "Connection: keep-alive\r\n",
            Then::Close | Then::CloseAsAsked => "Connection: close\r\n",
        };
        self.head.clear();
        let (status, date) = (status.0, &self.date);
        let _ = write!(
            self.head, // which has room
            "HTTP/1.1 {status}\r\nDate: {date}\r\n{connection}{fields}\r\n"
        );
        &self.head
    }

    /// The head and the body of an answer that is a line of text: the plain one, or
    /// the status itself.
    pub(super) fn text(
        &mut self,
        status: Status,
        then: Then,
        fields: impl Display,
    ) -> (&[u8], &[u8]) {
        if status == Status::NO_CONTENT {
            return (self.head(status, then, fields), &[]);
        }
        let (text, end) = if status == Status::OK { (HELLO, "") } else { (status.0, "\n") };
        let length = text.len() + end.len();
        let head = self.head(
            status,
            then,
            format_args!("{fields}Content-Type: {TEXT}\r\nContent-Length: {length}\r\n"),
        );
        let head = head.len();
        self.head.extend([text, end].map(str::as_bytes).into_iter().flatten());
        self.head.split_at_checked(head).unwrap_or_default()
    }
}
