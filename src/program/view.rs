//! The narration on a terminal: each call on one line that fits the window.
//!
//! ```text
//!   0.061  accept4(3, 127.0.0.1:50844, SOCK_CLOEXEC|NONBLOCK) = 8       accepting
//!   0.061  timerfd_settime(6, TFD_TIMER_ABSTIME, in 300.0 s) = 0        time
//!   0.062  epoll_wait(4, ▮
//! ```
//!
//! In front stand the seconds since the start; the chapter of docs/ behind the call is
//! left out where there is no room for it. A call is shown shorter than the narrator has
//! it ([`View::shorter`]), and cut (`…`) only if that is not enough. A wait is shown when
//! it begins, and completed when it returns, so one sees that the server sleeps.
//!
//! The narrator's own lines are whole; pipes and files get those. docs/programs/trace.rs
//! shows the same view of a server that narrates into a pipe.

use std::collections::HashMap;
use std::env::var_os;
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::time::Duration;
use threadbare::kernel::{Clock, Kernel, Linux, window_columns};

/// Where the chapters stand, if the window is wider.
const WIDEST: usize = 100;
/// The longest name of a chapter. The names begin this far from the edge, if they can.
const CHAPTER: usize = 10;
/// What is left of the bytes of a payload, before the chapter is given up for them.
const PAYLOAD: usize = 8;

/// The moment, as a [`View`] counts.
pub(crate) fn now() -> Duration {
    Duration::from_nanos(Linux.clock_gettime(Clock::Monotonic))
}

/// Whether colors are welcome: on a terminal, unless NO_COLOR forbids them. no-color.org
pub(crate) fn takes_color(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && var_os("NO_COLOR").is_none_or(|it| it.is_empty())
}

/// How wide the window of a terminal is.
pub(crate) fn columns(terminal: impl AsFd) -> usize {
    window_columns(terminal).unwrap_or(80)
}

/// A line of a narrator, taken apart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call<'a> {
    pub(crate) name: &'a str,
    pub(crate) arguments: &'a str,
    pub(crate) result: &'a str,
    /// The page of docs/ that explains it, without its number and `.md`.
    pub(crate) chapter: &'a str,
}

impl<'a> Call<'a> {
    /// `None` for any other line.
    pub(crate) fn of(line: &'a str) -> Option<Call<'a>> {
        let (call, chapter) = line.rsplit_once("  # docs/")?;
        let (call, result) = call.rsplit_once(" = ").unwrap_or((call, ""));
        let (name, rest) = call.trim_end().split_once('(').unwrap_or((call, ""));
        let arguments = rest.strip_suffix(')').unwrap_or(rest);
        let chapter = chapter.trim_end_matches(".md");
        let chapter = chapter.trim_start_matches(|c: char| c.is_ascii_digit() || c == '-');
        Some(Call { name, arguments, result, chapter })
    }
}

/// Shows the lines of a narrator one after the other, and keeps what later ones need.
#[derive(Debug)]
pub(crate) struct View {
    /// The moment that is shown as 0.
    started: Duration,
    is_colored: bool,
    /// The moment at which the wait began that is shown and not completed.
    asleep: Option<Duration>,
    /// The descriptor behind each number that was registered with epoll.
    descriptors: HashMap<String, String>,
}

impl View {
    /// Begins at a moment of [`now`].
    pub(crate) fn new(started: Duration, is_colored: bool) -> View {
        View { started, is_colored, asleep: None, descriptors: HashMap::new() }
    }

    /// A wait that begins, of which the call is known so far: `epoll_wait(4, `. To be shown
    /// without an end of line.
    pub(crate) fn wait(&mut self, at: Duration, call: &str) -> String {
        self.asleep = Some(at);
        let (name, rest) = call.split_once('(').unwrap_or((call, ""));
        format!("{}{}({rest}", self.paint("2", &self.time(at)), self.paint("36", name))
    }

    /// Something else is shown meanwhile; the wait is shown whole when it returns.
    pub(crate) fn interrupt(&mut self) -> &'static str {
        if self.asleep.take().is_some() { "<unfinished ...>\n" } else { "" }
    }

    /// A line of the narrator, which ended at that moment; or any other line, left as it is.
    pub(crate) fn line(&mut self, at: Duration, columns: usize, line: &str) -> String {
        let Some(Call { name, arguments, result, chapter }) = Call::of(line) else {
            // Of a record, the time of day is of no interest here.
            let record = line.split_once(" [threadbare] ").filter(|(when, _)| when.contains("Z "));
            let text = record.map_or(line, |(_, text)| text);
            return format!("{}         {text}", self.interrupt());
        };
        let mut arguments = self.shorter(name, arguments, at);
        // A wait is completed where it stands.
        let (begin, at) = match self.asleep.take() {
            Some(since) if name == "epoll_wait" => ("\r", since),
            Some(_) => ("<unfinished ...>\n", at),
            None => ("", at),
        };
        let time = self.time(at);
        let room = columns.min(WIDEST).saturating_sub(time.len());
        let beside = room.saturating_sub(chapter.len() + 1);
        if name == "epoll_wait" && width(name, &arguments, result) > beside {
            arguments = arguments.replace("EPOLL", "");
        }
        let shown = fit(name, &arguments, result, beside);
        let has_chapter = shown.is_some();
        let (arguments, result) = shown
            .or_else(|| fit(name, &arguments, result, room))
            .unwrap_or_else(|| cut(name, &arguments, result, room));
        let length = width(name, &arguments, &result);
        let time = self.paint("2", &time);
        if length > room {
            // Too narrow a window even for what was cut.
            let call = format!("{name}({arguments}) = {result}");
            return format!("{begin}{time}{}", call.chars().take(room).collect::<String>());
        }
        let name = self.paint("36", name);
        let color = if result.starts_with('-') { "31" } else { "" };
        let call = format!("{name}({arguments}) = {}", self.paint(color, &result));
        if !has_chapter {
            return format!("{begin}{time}{call}");
        }
        let gap = " ".repeat(room.saturating_sub(CHAPTER + length).max(1));
        format!("{begin}{time}{call}{gap}{}", self.paint("2", chapter))
    }

    fn time(&self, at: Duration) -> String {
        format!("{:7.3}  ", at.saturating_sub(self.started).as_secs_f64())
    }

    /// Text in a color of a terminal, or a style.
    pub(crate) fn paint(&self, color: &str, text: &str) -> String {
        let is_plain = !self.is_colored || color.is_empty();
        if is_plain { text.into() } else { format!("\x1b[{color}m{text}\x1b[0m") }
    }

    /// The arguments of a call without what nobody reads in a terminal. What clients may
    /// choose, payloads and paths, is left as it is.
    pub(crate) fn shorter(&mut self, name: &str, arguments: &str, at: Duration) -> String {
        let arguments = &pointer(arguments);
        match name {
            "recvfrom" => without(arguments, ", 0, NULL, NULL"),
            "sendto" => without(arguments, ", NULL, 0"),
            "sendmsg" => {
                let (fd, rest) = arguments.split_once(", {").unwrap_or((arguments, ""));
                let (_, pieces) = rest.split_once("msg_iov=").unwrap_or(("", rest));
                let pieces = pieces.rsplit_once(", msg_iovlen=").map_or(pieces, |it| it.0);
                format!("{fd}, {pieces}, MSG_NOSIGNAL")
            }
            "openat2" => {
                let (path, how) = arguments.rsplit_once(", {").unwrap_or((arguments, ""));
                format!("{path}, {{{}", once(&bare(&without(how, ", 24"))))
            }
            "read" | "write" | "pread64" | "sendfile" | "chmod" | "unlink" => arguments.clone(),
            "socket" => once(&without(arguments, ", IPPROTO_IP")),
            "rt_sigaction" | "rt_sigprocmask" | "signalfd4" => {
                // The size of a set of signals.
                once(&bare(arguments).replace("], 8", "]").replace("}, 8", "}"))
            }
            "bind" | "connect" | "accept4" | "getsockname" => once(&address(arguments)),
            "epoll_ctl" => self.learn(arguments),
            "epoll_wait" => self.with_names(arguments),
            "timerfd_settime" => deadline(arguments, at),
            _ => {
                // A path is in quotes, and what can be shortened stands behind it.
                let (path, rest) = arguments.rsplit_once("\", ").unwrap_or(("", arguments));
                let path = if path.is_empty() { String::new() } else { format!("{path}\", ") };
                path + &once(&bare(rest))
            }
        }
    }

    /// What epoll_ctl registers: `4, EPOLL_CTL_ADD, 8, {events=EPOLLIN, data=…}`.
    fn learn(&mut self, arguments: &str) -> String {
        let (about, event) = arguments.split_once(", {events=").unwrap_or((arguments, ""));
        let (mask, data) = event.split_once(", data={").unwrap_or((event, ""));
        let descriptor = about.rsplit(", ").next().unwrap_or_default();
        self.descriptors.insert(data.trim_end_matches('}').into(), descriptor.into());
        format!("{about}, {mask}")
    }

    /// Events with the descriptors that they are about: `8 EPOLLIN`.
    fn with_names(&self, arguments: &str) -> String {
        let mut pieces = arguments.split("{events=");
        let mut shown = pieces.next().unwrap_or_default().to_owned();
        for piece in pieces {
            let (mask, piece) = piece.split_once(", data={").unwrap_or((piece, ""));
            let (data, piece) = piece.split_once("}}").unwrap_or((piece, ""));
            let name = self.descriptors.get(data).map_or("?", String::as_str);
            shown += &format!("{name} {mask}{piece}");
        }
        shown
    }
}

fn without(arguments: &str, end: &str) -> String {
    arguments.strip_suffix(end).unwrap_or(arguments).to_owned()
}

/// An address in memory says nothing: `8, 0x…, 65536`.
fn pointer(arguments: &str) -> String {
    match arguments.split_once(", 0x") {
        Some((before, pointer)) if !before.contains('"') => {
            let rest = pointer.trim_start_matches(|c: char| c.is_ascii_hexdigit() || c == '…');
            format!("{before}, 0x…{rest}")
        }
        _ => arguments.to_owned(),
    }
}

/// The address of a socket as people write it: `3, 127.0.0.1:1234`.
pub(crate) fn address(arguments: &str) -> String {
    let written = |arguments: &str| {
        let (before, fields) = arguments.split_once("{sa_family=AF_")?;
        let (fields, after) = fields.rsplit_once('}')?;
        let (family, fields) = fields.split_once(", ").unwrap_or((fields, ""));
        let field = |start: &str, end: &str| fields.split_once(start)?.1.split_once(end);
        let address = match family {
            "INET" => {
                let (port, _) = field("htons(", ")")?;
                format!("{}:{port}", field("inet_addr(\"", "\"")?.0)
            }
            "INET6" => {
                let (port, _) = field("htons(", ")")?;
                format!("[{}]:{port}", field("AF_INET6, \"", "\"")?.0)
            }
            _ => format!("unix:{}", fields.strip_prefix("sun_path=").unwrap_or_default()),
        };
        // How long the address is in memory: `[128 => 16]`.
        let after = match after.strip_prefix(", [") {
            Some(rest) => rest.split_once(']')?.1,
            None => after,
        };
        Some(format!("{before}{address}{after}"))
    };
    written(arguments).unwrap_or_else(|| arguments.replace(", [128]", ""))
}

/// A deadline as time from now.
fn deadline(arguments: &str, at: Duration) -> String {
    let remaining = |value: &str| {
        let (seconds, nanoseconds) = value.split_once(", tv_nsec=")?;
        let (seconds, nanoseconds) = (seconds.parse().ok()?, nanoseconds.parse().ok()?);
        if (seconds, nanoseconds) == (0, 0) {
            return Some("never".to_owned());
        }
        let left = Duration::new(seconds, nanoseconds).saturating_sub(at);
        let is_short = left < Duration::from_secs(1);
        let ms = (left + Duration::from_micros(500)).as_millis();
        Some(if is_short {
            format!("in {ms} ms")
        } else {
            format!("in {:.1} s", left.as_secs_f64())
        })
    };
    let Some((before, value)) = arguments.split_once("{it_interval=") else {
        return arguments.to_owned();
    };
    let value = value.split_once("it_value={tv_sec=").and_then(|(_, value)| value.split_once("}}"));
    let left = value.and_then(|(value, _)| remaining(value)).unwrap_or_else(|| "at …".to_owned());
    format!("{before}{left}")
}

/// Structures without the names of their fields, and without what is always the same.
fn bare(arguments: &str) -> String {
    let mut shown = arguments.to_owned();
    for noise in [
        "sa_handler=",
        ", sa_mask=[], sa_flags=0",
        "rlim_cur=",
        "rlim_max=",
        ", filter=0x…",
        ", filter=0x7ffc00000000",
        ", st_size=0, ...",
        "st_mode=",
        "st_size=",
        ", ...",
        "flags=",
        "resolve=",
        "AT_SYMLINK_",
    ] {
        shown = shown.replace(noise, "");
    }
    shown
}

/// Flags that begin alike say so once: `SOCK_STREAM|CLOEXEC|NONBLOCK`.
fn once(arguments: &str) -> String {
    let is_flag = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || "_|".contains(c);
    let mut shown = String::new();
    for word in arguments.split_inclusive(|c| !is_flag(c)) {
        let mut flags = word.split('|');
        let first = flags.next().unwrap_or_default();
        let begin = first.split_inclusive('_').next().filter(|it| it.ends_with('_'));
        shown += first;
        for flag in flags {
            shown += "|";
            shown += begin.and_then(|begin| flag.strip_prefix(begin)).unwrap_or(flag);
        }
    }
    shown
}

fn width(name: &str, arguments: &str, result: &str) -> usize {
    // The parentheses and ` = ` are five.
    name.len() + arguments.chars().count() + result.chars().count() + 5
}

/// Arguments and result in at most `room` columns: without the words for an errno, with less of
/// the payload. None if that is not enough.
fn fit(name: &str, arguments: &str, result: &str, room: usize) -> Option<(String, String)> {
    if width(name, arguments, result) <= room {
        return Some((arguments.into(), result.into()));
    }
    let result = result.split_once(" (").map_or(result, |(errno, _)| errno);
    let over = width(name, arguments, result).saturating_sub(room);
    if over == 0 {
        return Some((arguments.into(), result.into()));
    }
    let (before, payload) = arguments.split_once('"')?;
    let (payload, after) = payload.rsplit_once('"')?;
    let after = after.strip_prefix("...").unwrap_or(after);
    let length = room.checked_sub(width(name, before, result) + after.chars().count() + 5)?;
    // An escape is not cut in its middle.
    let mut kept: String = payload.chars().take(length).collect();
    let tail = kept.len().saturating_sub(3);
    if let Some(escape) = kept.get(tail..).and_then(|tail| tail.find('\\')) {
        kept.truncate(tail + escape);
    }
    (kept.len() >= PAYLOAD).then(|| (format!("{before}\"{kept}\"...{after}"), result.into()))
}

/// The same by force: the result is kept, the end of the arguments is not.
fn cut(name: &str, arguments: &str, result: &str, room: usize) -> (String, String) {
    let result = result.split_once(" (").map_or(result, |(errno, _)| errno);
    let length = room.saturating_sub(width(name, "…", result));
    (arguments.chars().take(length).chain(['…']).collect(), result.into())
}
