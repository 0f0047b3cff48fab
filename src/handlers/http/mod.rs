//! HTTP/1.1: files, or a plain answer.
//!
//! A connection is a sequence of requests, which are read one at a time:
//!
//! ```text
//!        head ──▶ request ──────────────── no body ──▶ answer ──▶ the next head
//!         │         │ body                                ▲   └──▶ close
//!         │         ▼                                     │
//!         │       (100 Continue) ──▶ body, thrown away ───┘
//!         └────────────────────────────┴── wrong, too large, too slow ──▶ status, close
//! ```
//!
//! An answer is sent only when the body of its request has been read, because a malformed
//! body is answered with 400. Until then the fields of the head that the answer depends on
//! are kept, and [charged](Conn::charge) to the connection; so is the line of the log of an answer
//! that is being sent.
//! After a status of 4xx or 5xx caused by malformed input the connection is closed, because
//! the start of the next request is unknown. The client still gets the status, because
//! [`Conn::close`] makes sure that the last answer arrives.
//!
//! A stop waits for a body that is on its way, because its client may have been asked for it; when
//! the drain deadline is near, the answer is 503.
//!
//! Files of up to [`SMALL`] bytes are read into the output, so that head and body are one
//! send. Larger ones follow their head by sendfile; until they are sent, the connection is
//! full, and further requests wait.

use crate::close_reason::CloseReason;
use crate::error::Error;
use crate::escape::escaped;
use crate::fallible::{boxed, with_room};
use crate::handler::ConnectionHandler;
use crate::kernel::Errno;
use crate::net::{Conn, ConnId, File, Net, TimerId};
use crate::reaction::Call;
use answer::Answers;
use body::Body;
use conditions::{Due, Version};
use files::{Files, Found};
use log::AccessLog;
use request::{Request, Then};
use status::Status;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

mod answer;
mod authority;
mod body;
mod conditions;
mod files;
mod kept;
mod log;
mod request;
mod status;
mod types;

/// Files up to this many bytes are read into the output; larger ones are sent by sendfile.
const SMALL: u64 = 16 << 10;
/// How long a file is kept open that is requested again and again.
const SECOND: Duration = Duration::from_secs(1);
/// How long a head may take to arrive, and then a body.
const DEADLINE: Duration = Duration::from_secs(20);
/// Another server, or the same one after its restart, may have what this one lacks.
const RETRY: &str = "Retry-After: 1\r\n";

/// An HTTP server for the files of a directory, or with the plain answer `hello`.
///
/// ```no_run
/// use threadbare::{Server, handlers::Http};
///
/// let http = Http::new().serve("public");
/// Server::builder(http).own_process(true).bind("127.0.0.1:8080")?.run()?;
/// # Ok::<(), threadbare::Error>(())
/// ```
pub struct Http {
    /// The directory that is served; opened, once the server has started.
    directory: Option<PathBuf>,
    files: Option<Files>,
    answers: Answers,
    /// The buffer into which a small file is read.
    content: Vec<u8>,
    deadline: Option<Duration>,
    /// While the server stops: how long bodies are waited for.
    last_call: Option<Duration>,
    log: Option<AccessLog>,
    /// Whether a timer is set that closes the files that are kept open.
    is_timed: bool,
}

/// The request that a connection is reading.
#[derive(Debug, Default)]
pub struct Session {
    /// Its head is complete, its body is not.
    pending: Option<Box<[Pending; 1]>>,
    /// This many bytes of a head have come, and it is not complete.
    scanned: usize,
    timer: Timer,
}

/// What a connection does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// It reads another request, if the input has one.
    Request,
    /// It waits for more bytes.
    MoreBytes,
    /// It has been closed.
    Nothing,
}

/// The timer of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Timer {
    #[default]
    Off,
    /// It runs for the head or body that is being read now.
    Running,
    /// It runs for a head or body that was read before.
    Stale,
}

#[derive(Debug)]
struct Pending {
    head: Vec<u8>,
    body: Body,
}

impl Http {
    /// Answers `hello`.
    #[must_use]
    pub fn new() -> Http {
        Http {
            directory: None,
            files: None,
            answers: Answers::new(),
            content: Vec::new(),
            deadline: Some(DEADLINE),
            last_call: None,
            log: None,
            is_timed: false,
        }
    }

    /// Serves the files beneath `directory`, which is opened when the server binds.
    pub fn serve(mut self, directory: impl Into<PathBuf>) -> Http {
        self.directory = Some(directory.into());
        self
    }

    /// Sets how long a head, and then a body, may take to arrive (20 s); after that the answer
    /// is 408. The server's own [`message_timeout`](crate::Limits::message_timeout) ends a
    /// connection without an answer, so it should be longer, or off.
    #[must_use]
    pub fn deadline(mut self, deadline: Option<Duration>) -> Http {
        self.deadline = deadline;
        self
    }

    /// Passes a line for each answer to `write`, in the common log format.
    pub fn access_log(mut self, write: impl FnMut(&str) + Send + 'static) -> Http {
        self.log = Some(AccessLog::new(write));
        self
    }

    /// How long a head or a body that begins now may take.
    fn patience(&self, net: &Net) -> Option<Duration> {
        let left = self.last_call.map(|at| at.saturating_sub(net.now()));
        self.deadline.into_iter().chain(left).min()
    }

    /// The date is right to the second.
    #[inline]
    fn look_at_the_clock(&mut self, net: &mut Net) {
        let clock = net.now();
        if self.answers.is_late(clock) {
            let since = net.system_time().duration_since(UNIX_EPOCH).unwrap_or_default();
            self.answers.set_date(since.as_nanos() as u64, clock);
            if let Some(files) = &mut self.files {
                files.renew(); // once a second is often enough
            }
        }
    }

    /// Takes one request from the front of `rest`, or the part of it that is there.
    #[inline]
    fn take_request(
        &mut self,
        conn: &mut Conn<'_>,
        session: &mut Session,
        rest: &mut &[u8],
    ) -> Next {
        if let Some(pending) = session.pending.take() {
            return self.pass_body(conn, session, pending, rest);
        }
        match Request::parse(rest) {
            Ok(Some(mut request)) => {
                *rest = rest.get(request.head.len()..).unwrap_or_default();
                session.moves_on();
                match request.body.take() {
                    None => self.answer(conn, &mut request, rest),
                    Some(body) => self.begin_body(conn, session, &mut request, body, rest),
                }
            }
            Ok(None) => {
                session.scanned = rest.len();
                Next::MoreBytes
            }
            Err(status) => self.refuse(conn, rest, status),
        }
    }

    /// Reads the body that follows a head. If all of it is there, nothing needs to be kept.
    #[cold]
    fn begin_body(
        &mut self,
        conn: &mut Conn<'_>,
        session: &mut Session,
        request: &mut Request<'_>,
        mut body: Body,
        rest: &mut &[u8],
    ) -> Next {
        if request.expects && request.refusal.is_some() {
            return self.answer(conn, request, rest);
        }
        if request.expects {
            conn.write(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        match body.pass(rest) {
            Ok(true) => self.answer(conn, request, rest),
            Ok(false) => {
                let head = request::answerable(request.head);
                conn.charge(head.as_ref().map_or(0, Vec::capacity) + size_of::<Pending>());
                session.pending = head.and_then(|head| boxed(Pending { head, body }));
                match session.pending {
                    Some(_) => {
                        conn.hold(true);
                        Next::MoreBytes
                    }
                    None => self.refuse(conn, request.head, Status::UNAVAILABLE),
                }
            }
            Err(status) => self.refuse(conn, request.head, status),
        }
    }

    /// Takes more of a body that has begun.
    #[cold]
    fn pass_body(
        &mut self,
        conn: &mut Conn<'_>,
        session: &mut Session,
        mut kept: Box<[Pending; 1]>,
        rest: &mut &[u8],
    ) -> Next {
        let [pending] = &mut *kept;
        match (pending.body.pass(rest), Request::parse(&pending.head)) {
            (Ok(true), Ok(Some(mut request))) => {
                session.moves_on();
                conn.charge(0);
                conn.hold(false);
                self.answer(conn, &mut request, rest)
            }
            (Ok(_), _) => {
                session.pending = Some(kept);
                Next::MoreBytes
            }
            (Err(status), _) => self.refuse(conn, &pending.head, status),
        }
    }

    /// Answers a request whose body has been read. If the server stops and no request is behind
    /// it, the answer has `Connection: close`, so that the client sends its next one elsewhere.
    #[inline]
    fn answer(&mut self, conn: &mut Conn<'_>, request: &mut Request<'_>, rest: &[u8]) -> Next {
        let is_last = rest.is_empty();
        if is_last && request.then != Then::CloseAsAsked && conn.net().is_stopping() {
            request.then = Then::Close;
        }
        let is_common = request.then == Then::Stay && !request.is_head;
        match (request.refusal, &self.files) {
            (Some(status), _) => self.say(conn, request, status),
            (None, Some(_)) => self.send_file(conn, request),
            (None, None) if is_common && self.log.is_none() => conn.write(self.answers.hello()),
            (None, None) => self.say(conn, request, Status::OK),
        }
        match request.then {
            Then::Stay | Then::StayAsAsked => return Next::Request,
            Then::CloseAsAsked if is_last => conn.close_without_linger(),
            Then::CloseAsAsked | Then::Close => conn.close(),
        }
        Next::Nothing
    }

    /// Answers with a line of text: the plain answer, or the status itself.
    #[cold]
    fn say(&mut self, conn: &mut Conn<'_>, request: &Request<'_>, status: Status) {
        let fields = match status {
            Status::NO_CONTENT | Status::METHOD_NOT_ALLOWED => "Allow: GET, HEAD, OPTIONS\r\n",
            Status::UNAVAILABLE => RETRY,
            _ => "",
        };
        self.say_with(conn, request.head, status, request.then, fields);
    }

    fn say_with(
        &mut self,
        conn: &mut Conn<'_>,
        head: &[u8],
        status: Status,
        then: Then,
        fields: impl fmt::Display,
    ) {
        let (answer, body) = self.answers.text(status, then, fields);
        let body = if request::asks_for_head(head) { &[] } else { body };
        conn.write(answer);
        conn.write(body);
        let length = body.len() as u64;
        self.note(conn, head, status, length);
    }

    /// Answers a request that is malformed or cannot be read to its end, and closes.
    #[cold]
    fn refuse(&mut self, conn: &mut Conn<'_>, head: &[u8], status: Status) -> Next {
        let fields = if status == Status::UNAVAILABLE { RETRY } else { "" };
        self.say_with(conn, head, status, Then::Close, fields);
        conn.close();
        Next::Nothing
    }

    /// Logs an answer with a body of `length` bytes, when these have been sent.
    #[inline]
    fn note(&mut self, conn: &mut Conn<'_>, head: &[u8], status: Status, length: u64) {
        if let Some(log) = &mut self.log {
            let file = if length > SMALL { length } else { 0 };
            log.begin(conn, self.answers.log_date(), head, status, (length, file));
        }
    }

    // ---- files ---------------------------------------------------------------------

    fn send_file(&mut self, conn: &mut Conn<'_>, request: &Request<'_>) {
        let Some(files) = &mut self.files else { return };
        let now = self.answers.time(conn.net().now());
        match files.open(request.target, now) {
            Ok(Found::File(file, status)) => {
                let content = types::of(files.name());
                let version = Version::of(&status, now);
                if files.has_open() && !self.is_timed {
                    self.is_timed = true;
                    conn.net().after(SECOND, 0);
                }
                self.send_version(conn, request, file, &version, content);
            }
            Ok(Found::Directory) => self.redirect(conn, request),
            Err(status) => self.say(conn, request, status),
        }
    }

    /// Answers with a file, or with the status that is due instead.
    fn send_version(
        &mut self,
        conn: &mut Conn<'_>,
        request: &Request<'_>,
        file: File,
        version: &Version,
        content: (&str, &str),
    ) {
        let (then, size) = (request.then, version.size);
        let due = request.conditions.due(version, request.is_head);
        let (status, offset, length) = match due {
            Due::Whole => (Status::OK, 0, size),
            Due::Part { offset, length } => (Status::PARTIAL_CONTENT, offset, length),
            Due::NotModified => (Status::NOT_MODIFIED, 0, 0),
            Due::PreconditionFailed => {
                return self.say_with(conn, request.head, Status::PRECONDITION_FAILED, then, "");
            }
            Due::NoSuchPart => {
                let status = Status::RANGE_NOT_SATISFIABLE;
                return self.say_with(
                    conn,
                    request.head,
                    status,
                    then,
                    format_args!("Content-Range: bytes */{size}\r\n"),
                );
            }
        };
        let sent = if request.is_head { 0 } else { length };
        if sent > 0 && sent <= SMALL && !self.read(&file, offset, sent as usize) {
            return self.say(conn, request, Status::SERVER_ERROR);
        }
        conn.write(self.answers.head(status, then, Fields { due, version, content }));
        if sent > SMALL {
            conn.write_file(file, offset, sent);
        } else {
            conn.write(self.content.get(..sent as usize).unwrap_or_default());
        }
        self.note(conn, request.head, status, sent);
    }

    /// Redirects the client to the name with the slash, so that relative links are right. The
    /// target is relative, because a proxy in front may have removed a prefix.
    fn redirect(&mut self, conn: &mut Conn<'_>, request: &Request<'_>) {
        let end = request.target.find('?').unwrap_or(request.target.len());
        let (path, query) = request.target.split_at_checked(end).unwrap_or_default();
        let name = path.rsplit('/').next().unwrap_or_default();
        // Without the dot a colon in the name would end a scheme.
        self.say_with(
            conn,
            request.head,
            Status::MOVED_PERMANENTLY,
            request.then,
            format_args!("Location: ./{name}/{query}\r\n"),
        );
    }

    /// Reads a part of a file into `content`. Returns whether all of it could be read.
    fn read(&mut self, file: &File, offset: u64, length: usize) -> bool {
        let mut filled = 0;
        while let Some(space) = self.content.get_mut(filled..length).filter(|s| !s.is_empty()) {
            let offset = offset + filled as u64;
            match file.read_at(space, offset) {
                Ok(read) if read > 0 => filled += read,
                _ => return false, // it became shorter, or cannot be read
            }
        }
        true
    }
}

impl Session {
    /// A head or a body is complete.
    #[inline]
    fn moves_on(&mut self) {
        self.scanned = 0;
        if self.timer == Timer::Running {
            self.timer = Timer::Stale;
        }
    }

    /// Sets the deadline while a head or a body is expected: anew for each.
    fn set_timer(&mut self, conn: &mut Conn<'_>, deadline: Option<Duration>) {
        match (deadline, self.timer) {
            (None, Timer::Off) | (Some(_), Timer::Running) => {}
            _ => conn.set_timer(deadline),
        }
        self.timer = if deadline.is_some() { Timer::Running } else { Timer::Off };
    }
}

impl ConnectionHandler for Http {
    type Session = Session;

    /// One, while it is sent.
    fn files_per_client(&self) -> u32 {
        self.directory.is_some().into()
    }

    fn on_start(&mut self, net: &mut Net) -> Result<(), Error> {
        let Some(directory) = &self.directory else { return Ok(()) };
        let shown = escaped(directory.as_os_str().as_bytes());
        let opened = net.open_directory(directory);
        let opened = opened.map_err(|error| Error { object: shown.to_string(), ..error })?;
        let no_memory = || Error::new(Call::Memory, "paths and small files", Errno::ENOMEM);
        let mut content = with_room(SMALL as usize).ok_or_else(no_memory)?;
        content.resize(SMALL as usize, 0);
        self.content = content;
        self.files = Some(Files::new(opened).ok_or_else(no_memory)?);
        Ok(())
    }

    fn on_data(&mut self, conn: &mut Conn<'_>, session: &mut Session, input: &[u8]) -> usize {
        self.look_at_the_clock(conn.net());
        if session.scanned > 0 && !request::has_news(input, session.scanned) {
            session.scanned = input.len();
            return 0;
        }
        let mut rest = input;
        while !rest.is_empty() && !conn.is_full() {
            match self.take_request(conn, session, &mut rest) {
                Next::Request => {}
                Next::MoreBytes => break,
                Next::Nothing => return input.len(),
            }
        }
        let awaits = (!rest.is_empty() || session.pending.is_some()) && !conn.is_full();
        let patience = if awaits { self.patience(conn.net()) } else { None };
        session.set_timer(conn, patience);
        input.len() - rest.len()
    }

    /// Answers a request that will never be complete.
    fn on_eof(&mut self, conn: &mut Conn<'_>, session: &mut Session, rest: &[u8]) {
        self.look_at_the_clock(conn.net());
        if let Some([pending]) = session.pending.take().as_deref() {
            self.refuse(conn, &pending.head, Status::BAD_REQUEST);
            return;
        }
        // A malformed line without its end may not have been parsed yet.
        match Request::parse(rest) {
            Ok(_) if rest.trim_ascii().is_empty() => conn.close(),
            parsed => _ = self.refuse(conn, rest, parsed.err().unwrap_or(Status::BAD_REQUEST)),
        }
    }

    fn on_drain(&mut self, conn: &mut Conn<'_>, _: &mut Session) {
        if self.log.is_some() {
            self.look_at_the_clock(conn.net());
        }
        if let Some(log) = &mut self.log {
            let has_ended = log.end(conn.id(), self.answers.log_date(), u64::MAX);
            if has_ended {
                conn.charge(0);
            }
        }
    }

    fn on_close(&mut self, net: &mut Net, id: ConnId, _: Session, _: CloseReason) {
        if self.log.is_some() {
            self.look_at_the_clock(net);
        }
        if let Some(log) = &mut self.log {
            log.end(id, self.answers.log_date(), net.sent(id));
        }
    }

    fn on_tick(&mut self, _: &mut Net, _: TimerId, _: u64) {
        self.is_timed = false;
        self.files.iter_mut().for_each(Files::close);
    }

    fn on_timer(&mut self, conn: &mut Conn<'_>, session: &mut Session) {
        self.look_at_the_clock(conn.net());
        let pending = session.pending.take();
        let head = pending.as_deref().map_or(&[][..], |[pending]| &pending.head);
        let is_last_call = self.last_call.is_some_and(|at| conn.net().now() >= at);
        let status = if is_last_call { Status::UNAVAILABLE } else { Status::REQUEST_TIMEOUT };
        self.refuse(conn, head, status);
    }

    /// Bodies on their way have three quarters of the drain timeout, so that the answer arrives in
    /// the rest of it.
    fn on_shutdown(&mut self, net: &mut Net) {
        let Some(left) = net.limits().drain_timeout.map(|most| most * 3 / 4) else { return };
        self.last_call = Some(net.now() + left);
        for id in net.ids() {
            if let Some(mut conn) = net.conn(id).filter(Conn::is_held) {
                conn.set_timer(Some(left));
            }
        }
    }
}

impl Default for Http {
    fn default() -> Http {
        Http::new()
    }
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Http { directory, deadline, .. } = self;
        write!(f, "Http {{ {directory:?}, deadline: {deadline:?} }}")
    }
}

/// The fields that describe a file, as far as they are due.
struct Fields<'a> {
    due: Due,
    version: &'a Version,
    /// The type of the file, and what it says of the character set.
    content: (&'a str, &'a str),
}

impl fmt::Display for Fields<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fields { due, version, content: (of, charset) } = *self;
        let (length, part) = match due {
            Due::Whole => (version.size, None),
            Due::Part { offset, length } => (length, Some(offset)),
            _ => return version.fmt(f),
        };
        write!(f, "Content-Type: {of}{charset}\r\nContent-Length: {length}\r\n")?;
        if let Some(offset) = part {
            let (last, size) = (offset + length.saturating_sub(1), version.size);
            write!(f, "Content-Range: bytes {offset}-{last}/{size}\r\n")?;
        }
        version.fmt(f)
    }
}
