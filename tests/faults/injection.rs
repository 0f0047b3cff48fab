//! The program under strace, which lets its calls fail: each call it makes, at each
//! place, with each errno of the catalogue, once and three times in a row. (Three times is
//! left out where the call is not made again, and so would tell nothing new.)
//!
//! A fault-free run of each scenario tells which calls there are. Then each injection
//! is a run of its own, with real clients. What must come of it follows from
//! [`reaction`] and from the lines that strace marked as INJECTED:
//!
//! - a start that fails: exit 2, and one line that names the call and its errno;
//! - a loop that cannot go on: exit 3, and a line that says why;
//! - otherwise the exit status of the fault-free run. Who was not hit is answered in
//!   full and gets FIN, who was hit gets the beginning of its answer at least; a file that
//!   is not to be had is answered with the status for that;
//! - never a panic, never a turn of the loop for nothing, never a wait for nothing, and
//!   `bug:` in the log only where the table says so.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{LazyLock, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crate::support::{Scratch, Server, Signal, needs, pattern, thanks};
use nix::sys::stat::{Mode, umask};
use threadbare::kernel::Errno::{self, *};
use threadbare::reaction::{Call, Reaction, reaction};

/// Every call that the program makes, under each name it has on some machine, and what
/// it may fail with: the manual pages, and what has been seen beyond them. (`sendmsg` takes two
/// clients who hear each other, and is made to fail under the simulated kernel alone.)
#[rustfmt::skip] // one row a call
const CATALOGUE: [(&str, &[Errno]); 34] = [
    ("rt_sigaction", &[EFAULT, EINVAL]),
    ("rt_sigprocmask", &[EFAULT, EINVAL]),
    ("prlimit64", &[EFAULT, EINVAL, EPERM, ESRCH]),
    ("mmap mremap", &[ENOMEM]),
    ("socket", &[EACCES, EAFNOSUPPORT, EINVAL, EMFILE, ENFILE, ENOBUFS, ENOMEM, EPROTONOSUPPORT, EPERM]),
    ("setsockopt", &[EBADF, EFAULT, EINVAL, ENOPROTOOPT, ENOTSOCK, ENOMEM, ENOBUFS, EPERM]),
    ("fchmod chmod fchmodat", &[EACCES, EIO, ELOOP, ENOENT, ENOMEM, ENOTDIR, EPERM, EROFS]),
    ("bind", &[EACCES, EADDRINUSE, EADDRNOTAVAIL, EBADF, EINVAL, ENOTSOCK, EFAULT, ENOMEM, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR, EROFS]),
    ("lstat newfstatat", &[EACCES, ELOOP, ENOENT, ENOMEM, ENOTDIR, EOVERFLOW]),
    ("connect", &[EACCES, EPERM, EAGAIN, ECONNREFUSED, EINTR, EPROTOTYPE, ENOENT, EADDRINUSE, EADDRNOTAVAIL, EAFNOSUPPORT, EALREADY, EBADF, EFAULT, EISCONN, ENETUNREACH, EHOSTUNREACH, ENOTSOCK, ETIMEDOUT, EINPROGRESS]),
    ("getsockopt", &[EBADF, EFAULT, EINVAL, ENOPROTOOPT, ENOTSOCK]),
    ("openat2", &[EACCES, EAGAIN, EINTR, EINVAL, EIO, EISDIR, ELOOP, EMFILE, ENAMETOOLONG, ENFILE, ENODEV, ENOENT, ENOMEM, ENOSYS, ENOTDIR, ENXIO, EPERM, EXDEV]),
    ("flock", &[EAGAIN, EBADF, EINTR, EINVAL, ENOLCK]),
    ("fstat", &[EBADF, EFAULT, EIO, ENOMEM, EOVERFLOW]),
    ("pread64", &[EAGAIN, EBADF, EFAULT, EINTR, EINVAL, EIO, EISDIR, ENXIO, EOVERFLOW, ESPIPE]),
    ("sendfile", &[EAGAIN, EINTR, EPIPE, ECONNRESET, ETIMEDOUT, EHOSTUNREACH, ENETUNREACH, ENOTCONN, ENOBUFS, ENOMEM, EINVAL, ENOSYS, EOVERFLOW, ESPIPE, EIO, EBADF, EFAULT, ENOTSOCK]),
    ("unlink unlinkat", &[EACCES, EBUSY, EIO, EISDIR, ENOENT, ENOMEM, EPERM, EROFS]),
    ("listen", &[EADDRINUSE, EBADF, ENOTSOCK, EOPNOTSUPP]),
    ("getsockname", &[EBADF, EFAULT, EINVAL, ENOBUFS, ENOTSOCK]),
    ("epoll_create1", &[EINVAL, EMFILE, ENFILE, ENOMEM]),
    ("signalfd4", &[EBADF, EINVAL, EMFILE, ENFILE, ENODEV, ENOMEM]),
    ("timerfd_create", &[EINVAL, EMFILE, ENFILE, ENODEV, ENOMEM, EPERM]),
    ("eventfd2", &[EINVAL, EMFILE, ENFILE, ENODEV, ENOMEM]),
    ("epoll_ctl", &[ENOMEM, ENOSPC, EEXIST, EBADF, EINVAL, ELOOP, EPERM, ENOENT]),
    ("epoll_wait epoll_pwait", &[EINTR, EBADF, EINVAL, EFAULT]),
    ("accept4", &[EAGAIN, EINTR, ECONNABORTED, EPERM, EPROTO, ENETDOWN, ENOPROTOOPT, EHOSTDOWN, ENONET, EHOSTUNREACH, EOPNOTSUPP, ENETUNREACH, ETIMEDOUT, ENOSR, ESOCKTNOSUPPORT, EPROTONOSUPPORT, EMFILE, ENFILE, ENOBUFS, ENOMEM, EINVAL, EBADF, ENOTSOCK, EFAULT]),
    ("recvfrom", &[EAGAIN, EINTR, ECONNRESET, ETIMEDOUT, ECONNREFUSED, ENOTCONN, EPIPE, EHOSTUNREACH, ENETUNREACH, ENETDOWN, ECONNABORTED, ENOMEM, ENOBUFS, EBADF, EFAULT, EINVAL, ENOTSOCK, EISDIR, EIO]),
    ("sendto", &[EAGAIN, EINTR, EPIPE, ECONNRESET, ETIMEDOUT, EHOSTUNREACH, ENETUNREACH, ENETDOWN, ENOTCONN, EACCES, EPERM, ENOBUFS, ENOMEM, EBADF, EFAULT, EINVAL, ENOTSOCK, EMSGSIZE, EDESTADDRREQ, EISCONN, EOPNOTSUPP, EALREADY]),
    ("timerfd_settime", &[EBADF, EFAULT, EINVAL, ECANCELED]),
    ("read", &[EAGAIN, EINTR, EBADF, EFAULT, EINVAL, EIO, EISDIR]),
    ("shutdown", &[ENOTCONN, EBADF, EINVAL, ENOTSOCK]),
    ("close", &[EINTR, EIO, ENOSPC, EDQUOT, EBADF]),
    ("poll ppoll", &[EINTR, EINVAL, EFAULT, ENOMEM]),
    ("write", &[EPIPE, ENOSPC, EIO, EAGAIN, EINTR, EBADF, EFAULT, EINVAL, EFBIG, EDQUOT, EPERM]),
];

/// A run that has not come so far by now hangs.
const PATIENCE: Duration = Duration::from_secs(5);
/// So that no run takes long; a scenario may ask for less.
const DRAIN: [&str; 2] = ["--drain-timeout", "1"];
/// So many turns of the loop are a spin: no scenario takes a fifth of them without faults.
const SPIN: usize = 500;

// ---- scenarios -------------------------------------------------------------------

struct Scenario {
    name: &'static str,
    args: &'static [&'static str],
    scene: Scene,
    /// Its exit status without faults.
    code: i32,
    play: fn(&mut Stage),
}

/// What the program finds.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scene {
    /// A port.
    Port,
    /// The file of a Unix socket, which a server left behind that was killed.
    StaleSocket,
    /// A folder for `http`, with these two files.
    Files,
    /// Somebody for `proxy` who listens.
    Upstream,
}

const fn scenario(
    name: &'static str,
    args: &'static [&'static str],
    play: fn(&mut Stage),
) -> Scenario {
    Scenario { name, args, scene: Scene::Port, code: 0, play }
}

const SCENARIOS: [Scenario; 8] = [
    scenario("dialogue", &[], dialogue),
    Scenario {
        scene: Scene::StaleSocket,
        ..scenario("unix", &["-v", "--unix-mode", "666"], half_close)
    },
    scenario("slow_reader", &[], slow_reader),
    scenario("full_house", &["--max-connections", "1"], full_house),
    Scenario { code: 1, ..scenario("cut", &["--drain-timeout", "0.1"], cut) },
    scenario("once", &["once"], once),
    Scenario { scene: Scene::Files, ..scenario("files", &["http"], files) },
    Scenario { scene: Scene::Upstream, ..scenario("tunnels", &["proxy"], tunnels) },
];

/// Two clients, turn by turn; one leaves, one stays until the stop.
fn dialogue(stage: &mut Stage) {
    let first = stage.connect();
    stage.ask(first, "one\n");
    let second = stage.connect();
    stage.ask(second, "two\n");
    stage.ask(first, "three\n");
    stage.finish(second);
    stage.hear_end(second);
}

/// A client says all it has to say at once, FIN included.
fn half_close(stage: &mut Stage) {
    let stays = stage.connect();
    stage.ask(stays, "here\n");
    let brief = stage.connect();
    stage.say(brief, "one\ntwo\nthree", &["one\n", "two\n", "three\n"].map(thanks).concat());
    stage.finish(brief);
    stage.hear_end(brief);
}

/// A client that is owed more than the kernel takes; another is served meanwhile.
fn slow_reader(stage: &mut Stage) {
    let slow = stuck(stage);
    let quick = stage.connect();
    stage.ask(quick, "quick\n");
    stage.hear(slow);
    stage.finish(slow);
    stage.hear_end(slow);
}

/// A client that asks for much and does not read.
fn stuck(stage: &mut Stage) -> usize {
    const LINES: usize = 20_000;
    let client = stage.connect();
    stage.say(client, &"\n".repeat(LINES), &thanks("\n").repeat(LINES));
    stage.wait_for_bytes(client); // the first answers are sent
    client
}

/// It never reads, and is cut at the drain deadline.
fn cut(stage: &mut Stage) {
    let client = stuck(stage);
    stage.talks[client].is_deaf = true;
}

/// One at a time: the second client waits until the first has left.
fn full_house(stage: &mut Stage) {
    let first = stage.connect();
    stage.ask(first, "one\n");
    let second = stage.connect();
    stage.say(second, "two\n", &thanks("two\n"));
    stage.finish(first);
    stage.hear_end(first);
    stage.hear(second);
}

/// The server stops by itself after one message.
fn once(stage: &mut Stage) {
    let client = stage.connect();
    stage.say(client, "hello\n", "Good talking to you\n");
    stage.hear_end(client);
}

/// A file that is read, and one that is sent from where it is, to a client that is slow to
/// take it; another is served meanwhile.
fn files(stage: &mut Stage) {
    let slow = stage.connect();
    stage.request(slow, &SMALL);
    stage.hear_answer(slow, &SMALL);
    stage.request(slow, &LARGE);
    stage.wait_for_bytes(slow);
    let quick = stage.connect();
    stage.request(quick, &SMALL);
    stage.hear_answer(quick, &SMALL);
    stage.hear_answer(slow, &LARGE);
    stage.finish(quick);
    stage.hear_end(quick);
}

/// A client that talks, and hears so much that it is slow to take it; then one that says all
/// at once. Each end goes through behind the last byte.
fn tunnels(stage: &mut Stage) {
    let slow = stage.connect();
    let behind = stage.accept(slow);
    stage.say_through(slow, behind, "question\n");
    stage.say_through(behind, slow, &"answer\n".repeat(60_000));
    stage.wait_for_bytes(slow);
    let brief = stage.connect();
    let other = stage.accept(brief);
    stage.say_through(brief, other, "all I have");
    stage.finish(brief);
    stage.hear(other);
    stage.say_through(other, brief, "thanks");
    stage.finish(other);
    stage.hear_end(brief);
    stage.hear_end(other);
    stage.hear(slow);
    stage.finish(behind);
    stage.hear_end(slow); // and goes
    stage.hear_end(behind);
}

/// A file beneath the folder, last changed at [`MODIFIED`].
struct Content {
    name: &'static str,
    length: usize,
}

/// Read, and sent with its head.
const SMALL: Content = Content { name: "small.txt", length: 300 };
/// More than the kernel takes at once.
const LARGE: Content = Content { name: "large.txt", length: 400_000 };
/// In seconds since 1970, and as an answer has it.
const MODIFIED: (u64, &str) = (1_000_000_000, "Sun, 09 Sep 2001 01:46:40 GMT");
/// Stands for the date of an answer, which may be any.
const DATE: &str = "\0\0\0, \0\0 \0\0\0 \0\0\0\0 \0\0:\0\0:\0\0 GMT";

impl Content {
    fn bytes(&self) -> &'static [u8] {
        static BYTES: LazyLock<Vec<u8>> =
            LazyLock::new(|| pattern(LARGE.length).iter().map(|byte| byte | 1).collect()); // no 0, see DATE
        &BYTES[..self.length]
    }

    fn create_in(&self, folder: &Path) {
        let mut file = File::create(folder.join(self.name)).unwrap();
        file.write_all(self.bytes()).unwrap();
        let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(MODIFIED.0);
        file.set_modified(modified).unwrap();
    }

    /// With an entity tag of `tag` bytes, which may be any.
    fn answer(&self, tag: usize) -> Vec<u8> {
        let Content { length, .. } = self;
        let (modified, tag) = (MODIFIED.1, "\0".repeat(tag));
        let head = format!(
            "HTTP/1.1 200 OK\r\nDate: {DATE}\r\nContent-Type: text/plain; charset=utf-8\r\n\
             Content-Length: {length}\r\nLast-Modified: {modified}\r\nETag: {tag}\r\n\
             Accept-Ranges: bytes\r\n\r\n"
        );
        [head.as_bytes(), self.bytes()].concat()
    }
}

/// Why a file is not to be had: what a client is told.
fn status_of(call: Call, errno: Errno) -> &'static str {
    match errno {
        _ if call == Call::ReadFile => "500 Internal Server Error",
        ENOENT | ENOTDIR | EISDIR | ELOOP | ENAMETOOLONG | EINVAL | EXDEV | ENXIO | ENODEV => {
            "404 Not Found"
        }
        EACCES | EPERM => "403 Forbidden",
        EMFILE | ENFILE | ENOMEM => "503 Service Unavailable",
        _ => "500 Internal Server Error",
    }
}

fn refusal(status: &str) -> String {
    let (length, retry) =
        (status.len() + 1, if status.starts_with("503") { "Retry-After: 1\r\n" } else { "" });
    format!(
        "HTTP/1.1 {status}\r\nDate: {DATE}\r\n{retry}Content-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {length}\r\n\r\n{status}\n"
    )
}

/// What the clients of a run see and do. None of them gives up because of an error.
struct Stage<'a> {
    server: &'a Server,
    address: String,
    injection: Option<&'a Injection>,
    log: &'a Log,
    upstream: Option<&'a TcpListener>,
    talks: Vec<Talk>,
    /// How many clients there are.
    clients: usize,
    /// The status of each answer that was no file.
    refused: Vec<&'static str>,
}

/// What one side of a connection hears: a client, or who is behind the proxy.
#[derive(Default)]
struct Talk {
    /// The number of the client on whose behalf it is.
    client: usize,
    /// Until the end of what it hears.
    stream: Option<TcpStream>,
    due: Vec<u8>,
    got: Vec<u8>,
    /// It hears nothing more until the server has ended.
    is_deaf: bool,
    /// What ended it, if that was no FIN.
    error: Option<ErrorKind>,
}

impl Stage<'_> {
    fn connect(&mut self) -> usize {
        let stream = match self.address.strip_prefix("unix:") {
            // The file is there before and after the server.
            Some(path) => await_or_fail("nobody can connect", || match UnixStream::connect(path) {
                Ok(stream) => Some(Ok(TcpStream::from(OwnedFd::from(stream)))),
                Err(error) => self.server.has_ended().then_some(Err(error)),
            }),
            // A server that hangs may drop the SYN.
            None => TcpStream::connect_timeout(&self.address.parse().unwrap(), PATIENCE),
        };
        let error = stream.as_ref().err().map(io::Error::kind);
        let client = self.clients;
        self.clients += 1;
        self.talks.push(Talk { client, stream: stream.ok(), error, ..Talk::default() });
        self.talks.len() - 1
    }

    /// The other end of the tunnel that is begun for a client; or nobody, if that came to its
    /// end before.
    fn accept(&mut self, client: usize) -> usize {
        let (server, talk) = (self.server, &mut self.talks[client]);
        let listener = self.upstream.unwrap();
        let stream = await_or_fail("no tunnel is begun", || {
            let is_over = talk.stream.is_none() || server.has_ended();
            match listener.accept() {
                Ok((stream, _)) => Some(Some(stream)),
                Err(_) if is_over => Some(None),
                Err(_) => {
                    talk.hear(Duration::from_millis(1));
                    None
                }
            }
        });
        let client = talk.client;
        self.talks.push(Talk { client, stream, ..Talk::default() });
        self.talks.len() - 1
    }

    /// Waits until an answer has begun, and does not read it.
    fn wait_for_bytes(&self, client: usize) {
        if let Some(stream) = &self.talks[client].stream {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let _ = stream.peek(&mut [0]);
        }
    }

    fn request(&mut self, client: usize, file: &Content) {
        self.say(client, &format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", file.name), "");
    }

    /// Hears the file, or why it is not to be had.
    fn hear_answer(&mut self, client: usize, file: &Content) {
        const STATUSES: [&str; 4] = [
            "403 Forbidden",
            "404 Not Found",
            "500 Internal Server Error",
            "503 Service Unavailable",
        ];
        let talk = &mut self.talks[client];
        let status = talk.due.len() + "HTTP/1.1 ".len()..;
        while talk.got.len() < status.start + 3 && talk.hear(PATIENCE) {}
        let said = talk.got.get(status).unwrap_or_default();
        match STATUSES.iter().find(|status| said.starts_with(&status.as_bytes()[..3])) {
            Some(status) => {
                self.refused.push(status);
                talk.due.extend(refusal(status).into_bytes());
            }
            None => {
                let begin = talk.due.len();
                let has = |talk: &Talk, text: &[u8]| {
                    let head = talk.got.get(begin..).unwrap_or_default();
                    head.windows(text.len()).position(|some| some == text)
                };
                while has(talk, b"\r\n\r\n").is_none() && talk.hear(PATIENCE) {}
                let end = has(talk, b"\r\nAccept-Ranges: ")
                    .unwrap_or(talk.got.len().saturating_sub(begin));
                let tag = has(talk, b"ETag: ").map_or(0, |tag| end - tag - "ETag: ".len());
                talk.due.extend(file.answer(tag));
            }
        }
        self.hear(client);
    }

    /// Says something that another is to hear.
    fn say_through(&mut self, who: usize, whom: usize, text: &str) {
        self.talks[whom].due.extend_from_slice(text.as_bytes());
        self.say(who, text, "");
    }

    /// Says something to which `answer` is due.
    fn say(&mut self, client: usize, text: &str, answer: &str) {
        let talk = &mut self.talks[client];
        talk.due.extend_from_slice(answer.as_bytes());
        if let Some(stream) = &mut talk.stream {
            let _ = stream.write_all(text.as_bytes()); // reading tells what became of it
        }
    }

    /// Hears what is due, or the end.
    fn hear(&mut self, client: usize) {
        let talk = &mut self.talks[client];
        while talk.got.len() < talk.due.len() && talk.hear(PATIENCE) {}
        let stuck = talk.stream.is_some() && talk.got.len() < talk.due.len();
        assert!(!stuck, "client {client} waits in vain for its answer");
    }

    fn ask(&mut self, client: usize, line: &str) {
        self.say(client, line, &thanks(line));
        self.hear(client);
    }

    fn finish(&mut self, client: usize) {
        if let Some(stream) = &self.talks[client].stream {
            let _ = stream.shutdown(Shutdown::Write);
        }
    }

    /// Hears what is due and the end, unless the call that makes the end was made to fail.
    fn hear_end(&mut self, client: usize) {
        let makes_ends = |it: &Injection| it.call == "close" || it.is_lost_fin();
        let end_fails = self.injection.is_some_and(makes_ends);
        let deadline = Instant::now() + PATIENCE;
        let talk = &mut self.talks[client];
        while talk.stream.is_some() && !(end_fails && self.log.has_struck()) {
            assert!(Instant::now() < deadline, "client {client} waits in vain for its end");
            talk.hear(Duration::from_millis(5));
        }
    }
}

impl Talk {
    /// Hears something within a time; whether it did.
    fn hear(&mut self, patience: Duration) -> bool {
        let Some(stream) = &mut self.stream else { return false };
        let mut buffer = [0; 65_536];
        stream.set_read_timeout(Some(patience)).unwrap();
        match stream.read(&mut buffer) {
            Ok(count @ 1..) => {
                self.got.extend_from_slice(&buffer[..count]);
                return true;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Ok(_) => {}
            Err(error) => self.error = Some(error.kind()),
        }
        self.stream = None;
        false
    }

    /// What came, without what `http` adds to its last answer when a failure stops the server.
    fn heard(&self) -> Vec<u8> {
        const LAST: &[u8] = b"Connection: close\r\n";
        let place = |bytes: &[u8]| bytes.windows(LAST.len()).position(|window| window == LAST);
        let mut heard = self.got.clone();
        if let (Some(at), None) = (place(&self.got), place(&self.due)) {
            heard.drain(at..at + LAST.len());
        }
        heard
    }

    /// Whether all of it is what is due.
    fn is_right(&self) -> bool {
        let heard = self.heard();
        let mut pairs = heard.iter().zip(&self.due);
        heard.len() <= self.due.len() && pairs.all(|(got, &due)| *got == due || due == 0)
    }

    fn is_whole(&self) -> bool {
        self.heard().len() == self.due.len() && self.error.is_none()
    }
}

// ---- injections --------------------------------------------------------------------

/// The `index`-th call of this name, counted from 1 as strace does, fails `times` times.
#[derive(Clone)]
struct Injection {
    scenario: &'static Scenario,
    call: &'static str,
    index: usize,
    errno: Errno,
    times: usize,
    /// Before the loop begins.
    at_start: bool,
}

impl Injection {
    /// As strace's option -e takes it.
    fn rule(&self) -> String {
        let Injection { call, index, errno, times, .. } = self;
        format!("inject={call}:error={errno:?}:when={index}..{}", index + times - 1)
    }

    /// The command that does it again; the clients are those of the scenario.
    fn replay(&self) -> String {
        let args = [&DRAIN[..], self.scenario.args].concat().join(" ");
        let (address, more) = match self.scenario.scene {
            Scene::Port => ("127.0.0.1:0", ""),
            Scene::StaleSocket => ("unix:/tmp/stale", ""),
            Scene::Files => ("127.0.0.1:0", " FOLDER"),
            Scene::Upstream => ("127.0.0.1:0", " 127.0.0.1:PORT"),
        };
        let program = env!("CARGO_BIN_EXE_threadbare");
        let (name, rule) = (self.scenario.name, self.rule());
        format!("{name}: strace -f -e {rule} -o /dev/null {program} -l {address} {args}{more}")
    }

    /// Whether it hits `shutdown` so that its caller believes the peer to have reset: then
    /// no FIN is sent, and the reset that would tell never comes.
    fn is_lost_fin(&self) -> bool {
        self.call == "shutdown" && self.errno == ENOTCONN
    }

    /// Whether the call was made again behind the first failure, so that a second would
    /// have made a difference.
    fn was_followed(&self, calls: &[Traced]) -> bool {
        let behind = calls.iter().skip_while(|traced| !traced.is_injected()).skip(1);
        behind.filter(|traced| traced.name == self.call).count() > 0
    }
}

/// All injections into a scenario, each once, from the calls of a fault-free run.
fn injections(scenario: &'static Scenario, calls: &[Traced]) -> Vec<Injection> {
    let mut counts = BTreeMap::new();
    let (mut in_main, mut at_start, mut at_stop) = (false, true, false);
    let mut all = Vec::new();
    for traced in calls {
        in_main |= traced.text.starts_with("rt_sigaction(SIGHUP, NULL");
        at_start &= !traced.name.starts_with("epoll_") || traced.name.starts_with("epoll_c");
        at_stop |= !at_start && traced.name == "read"; // the signal
        // strace counts for each thread.
        let index = counts.entry((&traced.thread, &traced.name)).or_insert(0);
        *index += 1;
        let is_log = calls.first().is_some_and(|first| first.thread != traced.thread);
        // What strikes the n-th write of the log thread strikes the loop's n-th, too, and
        // whether the ready line went out is not to be known on a port of the kernel's choice.
        let is_ready_line =
            ["write(1, \"list", "poll([{fd=1"].iter().any(|t| traced.text.starts_with(t));
        // Most start alike, and stop alike.
        let is_new = match scenario.name {
            "dialogue" | "unix" => true,
            "cut" => !at_start,
            _ => !at_start && !at_stop || traced.name == "openat2",
        };
        let may_be_lost = !(is_ready_line || is_log) || scenario.scene == Scene::StaleSocket;
        // Of the log thread its writes; and not what the C library does to start it.
        let is_ours = match traced.name.as_str() {
            "rt_sigprocmask" => traced.role(at_start, false).is_some(),
            "write" => true,
            _ => !is_log,
        };
        if !in_main || !is_new || !may_be_lost || !is_ours {
            continue;
        }
        let mut names =
            CATALOGUE.iter().flat_map(|row| row.0.split(' ').map(move |call| (call, row.1)));
        let (call, errnos) = names.find(|(call, _)| traced.name == *call).unwrap();
        for &errno in errnos {
            all.push(Injection { scenario, call, index: *index, errno, times: 1, at_start });
        }
    }
    all
}

/// strace's record of a run.
struct Log(PathBuf);

/// A line of it.
struct Traced {
    thread: String,
    name: String,
    /// From the name on.
    text: String,
}

impl Log {
    fn text(&self) -> String {
        fs::read_to_string(&self.0).unwrap_or_default()
    }

    fn has_struck(&self) -> bool {
        self.text().contains("(INJECTED)")
    }

    fn calls(&self) -> Vec<Traced> {
        let text = self.text();
        let (mut calls, mut unfinished) = (Vec::new(), BTreeMap::new());
        for line in text.lines() {
            let Some((thread, text)) = line.split_once(' ') else { continue };
            // What lasts while another thread calls is told in two lines.
            if let Some(begun) = text.strip_suffix(" <unfinished ...>") {
                unfinished.insert(thread, begun.trim_start());
                continue;
            }
            let text = match text.split_once(" resumed>") {
                Some((_, rest)) => unfinished.remove(thread).unwrap_or_default().to_owned() + rest,
                None => text.trim_start().to_owned(),
            };
            let Some((name, _)) = text.split_once('(') else { continue };
            calls.push(Traced { thread: thread.to_owned(), name: name.to_owned(), text });
        }
        calls
    }
}

impl Traced {
    fn is_injected(&self) -> bool {
        self.text.ends_with("(INJECTED)")
    }

    fn result(&self) -> Option<i32> {
        self.text.rsplit_once(" = ")?.1.split(' ').next()?.parse().ok()
    }

    /// The descriptor that it was about.
    fn fd(&self) -> Option<i32> {
        let mut arguments = self.text.split_once('(')?.1.split([',', ')']);
        let place = if self.name == "epoll_ctl" { 2 } else { 0 };
        arguments.nth(place)?.trim().parse().ok()
    }

    /// The call in its role, or none if nobody minds its failure.
    fn role(&self, at_start: bool, of_client: bool) -> Option<Call> {
        let has = |word| self.text.contains(word);
        Some(match self.name.as_str() {
            "rt_sigaction" => Call::SignalAction,
            "rt_sigprocmask" if has("(SIG_BLOCK, [HUP") || has("(SIG_BLOCK, [INT") => {
                Call::SignalMask // not the C library's, which starts a thread
            }
            "prlimit64" => Call::DescriptorLimit,
            "socket" if has("AF_NETLINK") => return None,
            "socket" => Call::Socket,
            "setsockopt" if has("SO_REUSEADDR") || has("IPV6_V6ONLY") => Call::SetOption,
            "setsockopt" if has("SO_BINDTOIFINDEX") || has("SO_LINGER") => return None,
            "setsockopt" if has("0x53") || has("SO_PASSRIGHTS") => Call::RefuseDescriptors,
            "setsockopt" => Call::SetTunable,
            "fchmod" | "chmod" | "fchmodat" => Call::FileMode,
            "bind" if has("AF_UNIX") => Call::BindUnix,
            "bind" => Call::BindTcp,
            "lstat" | "newfstatat" if at_start => Call::FileStatus,
            "newfstatat" => Call::DirectoryStatus,
            "connect" if at_start => Call::ProbeUnix,
            "connect" => Call::Connect,
            "getsockopt" => Call::ConnectResult,
            "openat2" if has("O_NOFOLLOW") => Call::OpenSocketFile,
            "openat2" if has("O_RDONLY|O_CLOEXEC|O_DIRECTORY") => Call::OpenToLock,
            "flock" => Call::LockDirectory,
            "openat2" if at_start => Call::OpenDirectory,
            "openat2" => Call::OpenFile,
            "fstat" if at_start => Call::SocketFileStatus,
            "fstat" => Call::ReadStatus,
            "pread64" => Call::ReadFile,
            "sendfile" => Call::SendFile,
            "unlink" | "unlinkat" if at_start => Call::Unlink,
            "listen" => Call::Listen,
            "getsockname" if at_start => Call::LocalAddress,
            "getsockname" => Call::OutboundAddress,
            "epoll_create1" => Call::EpollCreate,
            "signalfd4" => Call::SignalFd,
            "timerfd_create" => Call::TimerFd,
            "eventfd2" => Call::EventFd,
            "epoll_ctl" if has("u64=1}") => Call::EpollAddSignals,
            "epoll_ctl" if has("EPOLL_CTL_MOD") => Call::EpollModify,
            "epoll_ctl" if has("EPOLL_CTL_DEL") => Call::EpollRemove,
            "epoll_ctl" if of_client || !at_start => Call::EpollAddConnection,
            "epoll_ctl" => Call::EpollAddCore,
            "epoll_wait" | "epoll_pwait" => Call::EpollWait,
            "accept4" => Call::Accept,
            "recvfrom" => Call::Recv,
            "sendto" => Call::Send,
            "timerfd_settime" => Call::SetTimer,
            "read" if has(", 20)") => return None, // whether handshakes are under way
            "read" => Call::ReadSignal,
            "shutdown" => Call::Shutdown,
            "close" => Call::Close,
            _ => return None, // the log's calls, the file at the end, memory
        })
    }
}

// ---- what must come of it ------------------------------------------------------------

/// What the injected failures allow to happen.
#[derive(Default, Debug)]
struct Allowed {
    /// Exit 2: what the error line names.
    start_fails: Option<Call>,
    /// Exit 3.
    run_fails: Option<Call>,
    /// Clients that need not be answered in full.
    hit: BTreeSet<usize>,
    /// Requests for a file that must be answered so.
    refused: Vec<&'static str>,
    bug: bool,
    /// Or it may be none.
    perhaps: bool,
}

impl Allowed {
    fn by(injection: &Injection, calls: &[Traced]) -> Allowed {
        let mut allowed = Allowed::default();
        let mut clients = BTreeMap::new(); // by descriptor; numbered as they were accepted
        let mut accepted = 0;
        let mut binds = 0;
        for traced in calls {
            binds += usize::from(traced.name == "bind");
            match (traced.name.as_str(), traced.result()) {
                ("accept4", Some(fd @ 0..)) => {
                    clients.insert(fd, accepted);
                    accepted += 1;
                }
                // A connection is begun for whoever came last.
                ("socket", Some(fd @ 0..)) if accepted > 0 && !traced.text.contains("NETLINK") => {
                    clients.insert(fd, accepted - 1);
                }
                ("openat2" | "socket", Some(fd @ 0..)) => _ = clients.remove(&fd),
                _ => {}
            }
            if !traced.is_injected() {
                continue;
            }
            let client = match traced.name.as_str() {
                "socket" if accepted > 0 => Some(accepted - 1),
                _ => traced.fd().and_then(|fd| clients.get(&fd)).copied(),
            };
            let Some(call) = traced.role(injection.at_start, client.is_some()) else { continue };
            // The file is stale: so it is what really happens.
            let is_true = match (call, injection.errno) {
                (Call::BindUnix, EADDRINUSE) => binds == 1,
                (Call::ProbeUnix, ECONNREFUSED) => true,
                _ => false,
            };
            if !is_true {
                allowed.because_of(call, injection.errno, client);
            }
            if injection.scenario.scene == Scene::Upstream && injection.is_lost_fin() {
                allowed.hit.extend(client); // who waits for its end is cut at last
            }
        }
        allowed
    }

    fn because_of(&mut self, call: Call, errno: Errno, client: Option<usize>) {
        match (reaction(call, errno), client) {
            (Reaction::FailStartup, _) | (Reaction::Retry, _) if call == Call::BindUnix => {
                self.start_fails = Some(call);
            }
            // An address that is named alone is the only one of its place.
            (Reaction::Degrade, None) if matches!(call, Call::Socket | Call::BindTcp) => {
                self.start_fails = Some(call);
            }
            // There is no socket for the connection begun for it.
            (Reaction::Degrade, Some(client)) if call == Call::Socket => {
                _ = self.hit.insert(client);
            }
            (Reaction::FailStartup, Some(client)) => _ = self.hit.insert(client),
            (Reaction::FailStartup, None) => self.start_fails = Some(call),
            (Reaction::FailRuntime, _) => self.run_fails = Some(call),
            (Reaction::Bug, Some(client)) => {
                self.hit.insert(client);
                self.bug = true;
            }
            (Reaction::DropConnection | Reaction::Pause, Some(client)) => {
                self.hit.insert(client);
            }
            (Reaction::Wait, Some(client)) if call == Call::Connect => {
                self.hit.insert(client); // it goes on, so it is said, and does not
            }
            (Reaction::Ignore, _) if matches!(call, Call::OpenFile | Call::ReadStatus) => {
                self.refused.push(status_of(call, errno));
            }
            (Reaction::DropConnection, None) if call == Call::ReadFile => {
                self.refused.push(status_of(call, errno));
            }
            // Whose file it was does not show.
            (Reaction::Bug, None) if call == Call::Close => self.perhaps = true,
            // A listener that cannot be watched, or not be forgotten.
            (Reaction::Bug, None) if call == Call::EpollModify => self.run_fails = Some(call),
            (Reaction::DropConnection, None) if call == Call::EpollRemove => {
                self.run_fails = Some(call);
            }
            _ => {}
        }
    }
}

/// Plays a scenario, with a failure or without: the trace, or what is wrong.
fn run(scenario: &'static Scenario, injection: Option<&Injection>) -> Result<Vec<Traced>, String> {
    let scratch = Scratch::new();
    let log = Log(scratch.path("strace"));
    let unix = (scenario.scene == Scene::StaleSocket).then(|| scratch.unix("socket"));
    let (mut upstream, mut argument) = (None, None);
    match scenario.scene {
        Scene::Port => {}
        Scene::StaleSocket => scratch.stale_socket("socket"),
        Scene::Files => {
            let folder = scratch.path("");
            [SMALL, LARGE].iter().for_each(|file| file.create_in(&folder));
            argument = Some(folder.display().to_string());
        }
        Scene::Upstream => {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.set_nonblocking(true).unwrap();
            argument = Some(listener.local_addr().unwrap().to_string());
            upstream = Some(listener);
        }
    }
    let address = ["-l", unix.as_deref().unwrap_or("127.0.0.1:0")];
    let args = [&DRAIN[..], &address, scenario.args, argument.as_deref().as_slice()].concat();
    let strace = strace(injection);
    let words = strace.split_whitespace().chain(["-o", log.0.to_str().unwrap()]);
    let words: Vec<&str> = words.collect();
    let mut server = Server::spawn_under(&words, &args);
    let played = catch_unwind(AssertUnwindSafe(|| {
        play(&mut server, scenario, unix.as_deref(), upstream.as_ref(), injection, &log)
    }));
    let calls = log.calls();
    let told = || format!("\nstderr: {}", server.logs());
    let outcome = played.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or(panic.downcast_ref::<&str>().map(|&text| text.to_owned())).unwrap_or_default()
    });
    let judged = outcome.and_then(|outcome| judge(scenario, injection, &calls, &outcome));
    judged.map_err(|wrong| wrong + &told())?;
    Ok(calls)
}

/// The command that runs a program under strace. With -D it is the program that is
/// our child, and strace its grandchild.
fn strace(injection: Option<&Injection>) -> String {
    let all = || CATALOGUE.map(|row| format!("?{}", row.0.replace(' ', ",?"))).join(",");
    let told = "accept4,socket,?openat2,?epoll_wait,epoll_pwait"; // what the judge needs
    let traced = injection.map_or_else(all, |it| format!("{},{told}", it.call));
    let rule = injection.map_or(String::new(), |it| format!("-e {}", it.rule()));
    format!("strace -D -qq -f --seccomp-bpf -e trace={traced} {rule}")
}

/// What a run came to.
struct Outcome {
    code: Option<i32>,
    stdout: String,
    stderr: String,
    talks: Vec<Talk>,
    refused: Vec<&'static str>,
}

fn play(
    server: &mut Server,
    scenario: &Scenario,
    unix: Option<&str>,
    upstream: Option<&TcpListener>,
    injection: Option<&Injection>,
    log: &Log,
) -> Outcome {
    let (mut talks, mut refused) = (Vec::new(), Vec::new());
    let address = match unix {
        // It is tried until it works: the ready line is one of the lines that may be lost.
        Some(unix) => Some(unix.to_owned()),
        None => {
            await_or_fail("the program does not start", || match ready_line(&server.stdout()) {
                None => server.has_ended().then_some(None),
                line => Some(line),
            })
        }
    };
    if let Some(address) = address {
        let mut stage =
            Stage { server, address, injection, log, upstream, talks, clients: 0, refused };
        (scenario.play)(&mut stage);
        (talks, refused) = (stage.talks, stage.refused);
        server.signal(Signal::SIGTERM);
    }
    await_or_fail("the program does not end", || {
        for talk in talks.iter_mut().filter(|talk| !talk.is_deaf) {
            while talk.hear(Duration::from_millis(1)) {}
        }
        server.has_ended().then_some(())
    });
    let code = server.wait();
    for talk in &mut talks {
        while talk.hear(PATIENCE) {}
    }
    Outcome { code, stdout: server.stdout(), stderr: server.logs(), talks, refused }
}

fn ready_line(stdout: &str) -> Option<String> {
    let (line, _) = stdout.split_once('\n')?;
    line.strip_prefix("listening on ").map(str::to_owned)
}

fn await_or_fail<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// What is wrong with the outcome of a run, if anything is.
fn judge(
    scenario: &Scenario,
    injection: Option<&Injection>,
    calls: &[Traced],
    outcome: &Outcome,
) -> Result<(), String> {
    let mut allowed = injection.map(|it| Allowed::by(it, calls)).unwrap_or_default();
    let Outcome { code, stdout, stderr, talks, refused } = outcome;
    // Memory that cannot be mapped may be had elsewhere.
    let is_table = |it: &Injection| it.at_start && it.call == "mmap" && *code == Some(2);
    if injection.is_some_and(is_table) {
        allowed.start_fails = Some(Call::Memory);
    }
    let named = |call: Call| {
        let errno = injection.map_or(EINVAL, |it| it.errno);
        let says = |call: &str, errno: &str| {
            let mut errors = stderr.lines().filter(|line| line.starts_with("error: "));
            errors.any(|line| line.contains(call) && line.contains(errno))
        };
        // What keeps it from looking at the file leaves it with what bind said.
        let probes = matches!(call, Call::ProbeUnix | Call::FileStatus);
        let is_stack = call == Call::Memory && says("clone log thread", "EAGAIN");
        is_stack || says(call.name(), &format!("{errno:?}")) || probes && says("bind", "EADDRINUSE")
    };
    let check = |holds: bool, what: &str| match holds {
        true => Ok(()),
        false => Err(format!("{what}; exit {code:?}; {allowed:?}")),
    };
    check(!stderr.contains("panicked"), "it panicked")?;
    let turns = calls.iter().filter(|traced| traced.name.starts_with("epoll_w")).count();
    // What strace did not let it close goes on firing.
    let goes_on = injection.is_some_and(|it| it.call == "close");
    check(turns < SPIN || goes_on, &format!("it spins: {turns} turns"))?;
    if let Some(call) = allowed.start_fails {
        check(*code == Some(2), "the start must fail")?;
        check(stderr.lines().count() == 1 && named(call), "one line names call and errno")?;
        return check(stdout.is_empty(), "a start that fails is silent");
    }
    for (number, talk) in talks.iter().enumerate() {
        let Talk { client, due, got, error, .. } = talk;
        let sizes = format!("talk {number}: {} of {} bytes, {error:?}", got.len(), due.len());
        check(talk.is_right(), &format!("{sizes}, not its own"))?;
        let may_lack = allowed.run_fails.is_some() || allowed.hit.contains(client);
        check(may_lack || talk.is_whole() || scenario.code == 1, &sizes)?;
    }
    let fails = allowed.run_fails.is_some();
    check(fails || *refused == allowed.refused, &format!("refused: {refused:?}"))?;
    let bug = stderr.lines().any(|line| line.contains("ERROR [threadbare] bug: "));
    check(bug == allowed.bug || allowed.perhaps, "the log says bug, or should")?;
    if let Some(call) = allowed.run_fails {
        check(*code == Some(3), "it must fail")?;
        return check(named(call), "a line names call and errno");
    }
    let fits =
        *code == Some(scenario.code) || !allowed.hit.is_empty() && matches!(code, Some(0 | 1));
    check(fits, "the exit status")
}

// ---- all of them ----------------------------------------------------------------------

#[test] // a hundred injections, evenly from all
fn a_sample_of_injections() {
    inject(|all| all.len() / 60, 90);
}

#[test] // each call, each place, each errno, once and in a burst
#[ignore = "minutes: `make check` runs it"]
fn every_injection() {
    inject(|_| 1, 5_000);
}

/// Makes every `stride`-th injection; at least `due` of them must have struck.
fn inject(stride: impl Fn(&[Injection]) -> usize, due: usize) {
    if !needs(&["strace"]) {
        return;
    }
    let started = Instant::now();
    umask(Mode::from_bits_truncate(0o022)); // so that --unix-mode differs from it
    let all: Vec<Injection> = SCENARIOS
        .iter()
        .flat_map(|scenario| injections(scenario, &run(scenario, None).unwrap()))
        .collect();
    for (names, _) in CATALOGUE {
        let is_made = all.iter().any(|it| names.split(' ').any(|name| name == it.call));
        assert!(is_made, "{names} is never called");
    }
    let chosen: Vec<&Injection> = all.iter().step_by(stride(&all)).collect();
    let (next, struck) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let failures = Mutex::new(Vec::new());
    let strike = |injection: &Injection| match run(injection.scenario, Some(injection)) {
        Ok(calls) => {
            struck.fetch_add(calls.iter().any(Traced::is_injected).into(), Relaxed);
            Some(calls)
        }
        Err(wrong) => {
            failures.lock().unwrap().push((injection.clone(), wrong));
            None
        }
    };
    let work = || {
        while let Some(&injection) = chosen.get(next.fetch_add(1, Relaxed)) {
            let calls = strike(injection);
            if calls.is_some_and(|calls| injection.was_followed(&calls)) {
                strike(&Injection { times: 3, ..injection.clone() });
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(2, |cores| cores.get() * 2) {
            scope.spawn(work);
        }
    });
    let failures = failures.into_inner().unwrap();
    let struck = struck.into_inner() + failures.len();
    println!("injected {struck} failures at {} chances in {:?}", all.len(), started.elapsed());
    for (injection, wrong) in &failures {
        println!("{}\n{wrong}", injection.replay());
    }
    assert!(failures.is_empty(), "{} injections went wrong", failures.len());
    assert!(struck >= due, "only {struck} injections");
}
