//! The traces of the chapters, made to be read: no line is wider than a page, and where there
//! are more than a few each has a word beside it.

use std::time::Duration;

use super::life::view::View;

/// The widest line of a trace on a page.
pub const COLUMNS: usize = 100;
/// With more lines than these a trace has a word for each.
pub const FEW: usize = 5;
/// Room for a word, with what stands in front of it.
const WORD: usize = 24;
/// Where a view that shows a call begins it.
const TIME: usize = 9;

/// Some lines of a trace, of which all are needed: what was registered with epoll is known then.
/// The `page` on which they are shown decides about their form: one explains what strace prints.
pub fn shown(all: &[String], lines: &[String], page: &str) -> Vec<String> {
    if page.contains("reading-a-trace") {
        return lines.to_vec();
    }
    let room = if lines.len() > FEW { COLUMNS - WORD } else { COLUMNS };
    let mut view = View::new(Duration::ZERO, false);
    let start = all.iter().position(|line| std::ptr::eq(line, &lines[0])).unwrap();
    let all = all[..start + lines.len()].iter().map(|line| narrower(&mut view, line, room));
    with_words(all.skip(start).collect(), lines)
}

/// The lines of a scene of the story.
pub fn of_a_scene(lines: &[String]) -> Vec<String> {
    let is_long = |line: &String| lines.len() > FEW && line.chars().count() > COLUMNS - WORD;
    let shown = lines.iter().map(|line| if is_long(line) { terse(line) } else { line.clone() });
    with_words(shown.collect(), lines)
}

/// A call without what it always has, and with one number for the data of an event.
fn terse(line: &str) -> String {
    let line = line.replace(", 0, NULL, NULL)", ")").replace(", NULL, 0)", ")");
    let mut pieces = line.split("data={u32=");
    let mut terse = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (number, rest) = piece.split_once('}').unwrap_or((piece, ""));
        terse += &format!("data={}{rest}", number.split(',').next().unwrap_or_default());
    }
    terse
}

/// The lines with a word beside each, found in `whole`, if they are more than a few.
fn with_words(shown: Vec<String>, whole: &[String]) -> Vec<String> {
    if shown.len() <= FEW {
        return shown;
    }
    let widest = shown.iter().map(|line| line.chars().count()).max().unwrap_or_default();
    let column = widest.min(COLUMNS - WORD);
    let lines = shown.iter().zip(whole);
    lines.map(|(line, whole)| format!("{line:<column$}  // {}", word(whole))).collect()
}

/// A call as strace has it, or as a terminal shows it if that is too wide.
fn narrower(view: &mut View, line: &str, room: usize) -> String {
    let thread = ["[loop] ", "[pool] "].into_iter().find(|it| line.starts_with(it)).unwrap_or("");
    let line = &line[thread.len()..];
    let room = room - thread.len();
    let short = view.line(Duration::ZERO, TIME + room, &format!("{line}  # docs/.md"));
    let call = match line.chars().count() <= room {
        true => line.to_owned(),
        false => short.chars().skip(TIME).collect::<String>().trim_end().to_owned(),
    };
    let (call, result) = call.rsplit_once(" = ").unwrap_or((&call, ""));
    let call = call.trim_end();
    let padded = format!("{thread}{call:<39} = {result}");
    if padded.chars().count() <= room { padded } else { format!("{thread}{call} = {result}") }
}

/// What a call does there, in a word or some.
fn word(line: &str) -> &'static str {
    let line = line.trim_start_matches("[loop] ").trim_start_matches("[pool] ");
    let (call, result) = line.rsplit_once(" = ").unwrap_or((line, ""));
    let (name, arguments) = call.split_once('(').unwrap_or((call, ""));
    let says = |text: &str| arguments.contains(text);
    let fails = |errno: &str| result.contains(errno);
    match name {
        "socket" if says("AF_NETLINK") => "to ask the kernel",
        "socket" if says("SOCK_DGRAM") => "to the manager",
        "socket" => "a socket",
        "setsockopt" => option(arguments),
        "bind" if fails("EADDRINUSE") => "the file is there",
        "bind" => "its address",
        "listen" => "clients may queue",
        "getsockname" => "which port?",
        "getsockopt" => "how did it end?",
        "connect" if fails("EINPROGRESS") => "the SYN is sent",
        "connect" if fails("ECONNREFUSED") => "no server there",
        "connect" => "connected",
        "flock" => "one server at a time",
        "fchmod" | "chmod" => "its mode",
        "unlink" => "the file goes",
        "newfstatat" | "fstat" => "what is it?",
        "openat2" if result.starts_with('-') => "refused",
        "openat2" if says("O_DIRECTORY") => "its directory",
        "openat2" => "the file",
        "pread64" => "its bytes",
        "sendfile" => "the file itself",
        "epoll_create1" => "the epoll set",
        "signalfd4" => "signals as bytes",
        "timerfd_create" => "a timer",
        "eventfd2" => "for other threads",
        "epoll_ctl" if says("_ADD") => "watch it",
        "epoll_ctl" if says("_DEL") => "watch it no more",
        "epoll_ctl" if says("events=0") => "watch nothing",
        "epoll_ctl" if says("EPOLLRDHUP") => "watch for FIN",
        "epoll_ctl" if says("EPOLLOUT") => "watch for room",
        "epoll_ctl" => "watch for input",
        "epoll_wait" => waited(arguments, result),
        "accept4" | "recvfrom" if result.is_empty() => "asleep",
        "accept4" if fails("EAGAIN") => "no further client",
        "accept4" if fails("EMFILE") => "no descriptor left",
        "accept4" => "a client",
        "recvfrom" if result == "0" => "EOF: its FIN",
        "recvfrom" if fails("EAGAIN") => "nothing now",
        "recvfrom" if result.starts_with('-') => "it has reset",
        "recvfrom" => "its bytes",
        "sendto" if fails("EAGAIN") => "no room",
        "sendto" if result.starts_with('-') => "the client is gone",
        "sendto" if says("MSG_MORE") => "more follows",
        "sendto" if says(&format!(", {result}, ")) => "the answer",
        "sendto" => "a part of it",
        "sendmsg" => "several pieces",
        "shutdown" => "our FIN",
        "close" => "closed",
        "timerfd_settime" if says("it_value={tv_sec=0, tv_nsec=0}") => "no deadline",
        "timerfd_settime" => "the next deadline",
        "ioctl" => "acknowledged?",
        "read" if fails("EAGAIN") => "no other",
        "read" if result == "128" => "which signal",
        "read" if result == "8" => "how many wake-ups",
        "read" => "the kernel's answer",
        "write" if arguments.starts_with("1, ") => "the ready line",
        "write" if result == "8" => "wakes the loop",
        "write" => "asks",
        "exit_group" => "the end",
        _ => "",
    }
}

fn option(arguments: &str) -> &'static str {
    let options = [
        ("SO_REUSEADDR", "despite TIME_WAIT"),
        ("SO_REUSEPORT,", "a shared port"),
        ("SO_ATTACH_REUSEPORT", "new clients go on"),
        ("TCP_NODELAY", "no Nagle"),
        ("SO_KEEPALIVE", "probe the silent"),
        ("TCP_KEEPIDLE", "after this many s"),
        ("TCP_NOTSENT_LOWAT", "bounds the unsent"),
        ("SO_OOBINLINE", "urgent data inline"),
        ("TCP_USER_TIMEOUT", "bounds the unacked"),
        ("SO_BINDTOIFINDEX", "no new clients"),
        ("SO_LINGER", "close will reset"),
        ("SO_PASSRIGHTS", "no descriptors"),
        ("IPV6_V6ONLY", "IPv6 only"),
    ];
    options.iter().find(|(name, _)| arguments.contains(name)).map_or("", |(_, word)| word)
}

fn waited(arguments: &str, result: &str) -> &'static str {
    match result {
        _ if result.contains("EINTR") => "interrupted",
        "" => "asleep",
        "0" => "no event",
        "1" if arguments.contains("EPOLLHUP") => "a hang-up",
        "1" if arguments.contains("EPOLLOUT") => "there is room",
        // The real server, which asks for 1,024, has numbers of its own for what is no client.
        "1" if arguments.contains(", 1024, ") => {
            let data = arguments.split("u64=").nth(1).and_then(|data| data.split('}').next());
            match data.and_then(|data| data.parse::<u64>().ok()) {
                Some(0) => "another thread",
                Some(1) => "a signal",
                Some(2) => "the timer",
                Some(3..0x1_0000_0000) => "a client waits",
                _ => "input of a client",
            }
        }
        "1" => "an event",
        _ => "several events",
    }
}
