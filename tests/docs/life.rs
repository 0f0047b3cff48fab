//! The narration as people see it: in the window of a terminal, and as a picture.

#[path = "../../docs/programs/lanes.rs"]
mod lanes;
#[allow(dead_code)] // the width of a window
#[path = "../../src/program/view.rs"]
pub mod view;

use std::fs;
use std::time::Duration;

use super::support::{Scratch, command, example};
use super::trace::{golden, masked, timeless};
use lanes::{COLORS, MOST, Told, draw};
use view::View;

// ---- the picture that is committed ---------------------------------------------------

/// Where it stands.
pub const PICTURE: &str = "docs/charts/life.svg";

/// The picture of the dialogue of `make trace`, but for what differs from run to run: it is
/// drawn until it comes out as it is known, for on a busy machine a sleep may be missed.
pub fn picture() -> String {
    let known = fs::read_to_string(PICTURE).unwrap_or_default();
    let draws = (0..5).map(|_| steady(&drawn()));
    let mut last = String::new();
    for picture in draws {
        if picture == known || picture == last {
            return picture;
        }
        last = picture;
    }
    last
}

fn drawn() -> String {
    let scratch = Scratch::new();
    let svg = scratch.path("life.svg");
    let limits = "ulimit -Sn 1024; ulimit -Hn 16384; exec \"$0\" \"$@\"";
    let mut trace = command("sh");
    let svg_path = svg.display().to_string();
    let program = env!("CARGO_BIN_EXE_threadbare");
    trace.args(["-c", limits, &example("trace"), "--svg", &svg_path, program]);
    assert!(trace.output().unwrap().status.success());
    fs::read_to_string(svg).unwrap()
}

/// Ports, moments and sleeps as they would be on a machine that does nothing else.
fn steady(svg: &str) -> String {
    let lines = timeless(svg.lines().map(str::to_owned).collect());
    let mut sleeps = ["60 ms"; 4].into_iter().chain(["20 ms"]);
    let mut long = (String::new(), "");
    let mut steady = String::new();
    for line in lines {
        let line = masked(&line, "made at ", |c| c.is_ascii_digit() || *c == '.', 1, "…");
        let mut line = masked(&line, "closed at ", |c| c.is_ascii_digit() || *c == '.', 1, "…");
        if let Some((_, rest)) = line.split_once("<title>asleep for ") {
            long = (rest.split('<').next().unwrap().to_owned(), sleeps.next().unwrap_or("?"));
        }
        if line.contains("asleep for ") || line.starts_with("<text class='soft mid'") {
            line = line.replace(&format!("{}<", long.0), &format!("{}<", long.1));
        }
        steady += &(line + "\n");
    }
    let ports: Vec<String> = steady
        .split(">127.0.0.1:")
        .skip(1)
        .map(|it| it.split('<').next().unwrap().to_owned())
        .collect();
    for (port, due) in ports.iter().zip(["1234", "50001"]) {
        steady = steady.replace(&format!(">127.0.0.1:{port}<"), &format!(">127.0.0.1:{due}<"));
    }
    steady
}

#[test] // the committed picture shows the calls of the shortest trace, in the same order
fn the_committed_picture_has_the_calls_of_hello() {
    let names = |text: &str, before: &str| -> Vec<String> {
        let pieces = text.split(before).skip(1);
        pieces.map(|it| it.split('(').next().unwrap().to_owned()).collect()
    };
    let trace = fs::read_to_string(golden("hello")).unwrap();
    let trace = trace.replace("\nwrite(1,", "\n(");
    let mut due = names(&format!("\n{trace}"), "\n");
    due.retain(|name| !["exit_group", ""].contains(&name.as_str()));
    let svg = fs::read_to_string(PICTURE).unwrap();
    check_xml(&svg);
    assert_eq!(names(&svg, "rx='2'><title>"), due);
}

// ---- a life in lanes -----------------------------------------------------------------

/// The lines of a trace of docs/traces as the narrator tells them, each 10 microseconds
/// after the last, and waits in 20 ms.
fn told(trace: &str) -> Vec<Told> {
    let mut at = Duration::from_secs(1000);
    let lines = trace.lines().filter(|line| !line.contains("write(1, "));
    let lines = lines.filter(|line| !line.starts_with("exit_group("));
    let lines = lines.map(|line| line.trim_start_matches("[loop] ").trim_start_matches("[pool] "));
    let tell = |line: &str| {
        let waits = line.starts_with("epoll_wait(");
        at += if waits { Duration::from_millis(20) } else { Duration::from_micros(10) };
        (at, format!("{line}  # docs/05-loop.md"))
    };
    lines.map(tell).collect()
}

/// Whether each element is closed by what closes it, each attribute is quoted, and no
/// text looks like an element.
fn check_xml(svg: &str) {
    let mut open = Vec::new();
    for piece in svg.split('<').skip(1) {
        let (tag, text) = piece.split_once('>').unwrap_or_else(|| panic!("not closed: {piece}"));
        assert!(!text.contains('>'), "{text}");
        for text in [tag, text] {
            let mut entities = text.split('&').skip(1);
            assert!(
                entities.all(|it| ["lt;", "gt;", "amp;"].iter().any(|e| it.starts_with(e))),
                "{text}"
            );
        }
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "{piece}");
            continue;
        }
        let (tag, is_empty) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
        let (name, attributes) = tag.split_once(' ').unwrap_or((tag, ""));
        let quoted: Vec<&str> = attributes.split('\'').collect();
        assert!(quoted.len() % 2 == 1 && quoted.last().unwrap().is_empty(), "{tag}");
        for name in quoted.iter().step_by(2).filter(|it| !it.is_empty()) {
            let name = name.trim_start().strip_suffix('=').unwrap_or_else(|| panic!("{tag}"));
            assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || "-:".contains(c)), "{tag}");
        }
        if !is_empty {
            open.push(name);
        }
    }
    assert_eq!(open, Vec::<&str>::new());
}

#[test]
fn each_descriptor_of_each_trace_has_a_lane_and_each_call_a_tick() {
    let makers = [
        "socket",
        "accept4",
        "epoll_create1",
        "eventfd2",
        "signalfd4",
        "timerfd_create",
        "openat2",
    ];
    for entry in fs::read_dir("docs/traces").unwrap() {
        let path = entry.unwrap().path();
        let told = told(&fs::read_to_string(&path).unwrap());
        let drawn = &told[..told.len().min(MOST)];
        let makes = |line: &&Told| {
            let (call, result) = line.1.split("  #").next().unwrap().rsplit_once(" = ").unwrap();
            makers.contains(&call.split('(').next().unwrap()) && result.parse::<u32>().is_ok()
        };
        let svg = draw(&told);
        check_xml(&svg);
        let count = |what: &str| svg.matches(what).count();
        assert_eq!(count("class='life'"), drawn.iter().filter(makes).count(), "{path:?}");
        assert_eq!(count("class='tick "), drawn.len(), "{path:?}");
        assert_eq!(count(": made at "), count("class='life'"), "{path:?}");
        let listens = told.iter().any(|(_, line)| line.starts_with("listen("));
        assert!(!listens || svg.contains(">listener "), "{path:?}");
        assert!(svg.contains(">connection "), "{path:?}");
    }
}

#[test]
fn what_clients_say_is_text() {
    let line =
        r#"recvfrom(8, "</title><script>'&\"", 65536, 0, NULL, NULL) = 20  # docs/09-receiving.md"#;
    let forged = "info: hello  # docs/x'><script>.md";
    let svg = draw(&[line, forged].map(|line| (Duration::ZERO, line.to_owned())));
    check_xml(&svg);
    assert!(svg.contains("&lt;/title&gt;&lt;script&gt;'&amp;") && !svg.contains("<script"));
}

#[test]
fn a_long_life_is_cut_and_no_life_is_a_picture_too() {
    let line = "close(8) = -1 EBADF (Bad file descriptor)  # docs/13-closing.md".to_owned();
    let svg = draw(&vec![(Duration::ZERO, line); MOST + 7]);
    check_xml(&svg);
    assert_eq!(svg.matches("class='tick ").count(), MOST);
    assert!(svg.contains(&format!("the first {MOST} of {} system calls", MOST + 7)));
    check_xml(&draw(&[]));
}

#[test]
fn each_chapter_that_the_narrator_names_has_a_color() {
    for chapter in
        fs::read_to_string("src/kernel/narrated.rs").unwrap().split("self.tell(\"").skip(1)
    {
        let (_, chapter) = chapter.split('"').next().unwrap().split_once('-').unwrap();
        assert!(COLORS.iter().any(|(name, _)| *name == chapter), "{chapter}");
    }
}

// ---- the window of a terminal --------------------------------------------------------

const AT: Duration = Duration::from_secs(100);

fn view() -> View {
    View::new(Duration::from_millis(99_938), false)
}

/// How a call is shown in 80 columns, without time and chapter.
fn shown(call: &str) -> String {
    let line = view().line(AT, 80, &format!("{call}  # docs/x.md"));
    line.trim_start_matches("  0.062  ").trim_end().trim_end_matches(" x").trim_end().to_owned()
}

#[test]
fn every_line_of_every_trace_fits_80_columns() {
    let mut wide = 0;
    for entry in fs::read_dir("docs/traces").unwrap() {
        let trace = fs::read_to_string(entry.unwrap().path()).unwrap();
        let mut view = view();
        for line in trace.lines() {
            wide += usize::from(line.chars().count() > 80);
            let line = line.trim_start_matches("[loop] ").trim_start_matches("[pool] ");
            let is_short = ["epoll_", "newfstatat("].iter().any(|it| line.starts_with(it));
            let chapter = if is_short { "loop" } else { "receiving" };
            let shown = view.line(AT, 80, &format!("{line}  # docs/{chapter}.md"));
            let long = [
                "openat2(",
                "sendmsg(",
                "rt_sigprocmask(",
                "signalfd4(",
                "SOL_SOCKET, SO_", // a long name, and what it is set to
                "socket(AF_NETLINK",
            ];
            if long.iter().any(|it| line.contains(it)) {
                assert!(shown.chars().count() <= 80, "{shown}");
                continue; // too many flags, pieces, signals or digits, all of which matter
            }
            assert!(shown.trim_end().chars().count() <= 80, "{shown}");
            assert!(
                shown.trim_end().ends_with(&format!(" {chapter}")),
                "no room for its chapter: {shown}"
            );
            assert!(!shown.contains("…)") || shown.contains(", at …) = 0"), "cut: {shown}");
        }
    }
    assert!(wide > 100, "the traces have become short: {wide}");
}

#[test]
fn what_is_noise_in_a_terminal_is_left_out() {
    for (call, due) in [
        (
            "rt_sigaction(SIGHUP, NULL, {sa_handler=SIG_DFL, sa_mask=[], sa_flags=0}, 8) = 0",
            "rt_sigaction(SIGHUP, NULL, {SIG_DFL}) = 0",
        ),
        (
            "prlimit64(0, RLIMIT_NOFILE, {rlim_cur=10024, rlim_max=16*1024}, NULL) = 0",
            "prlimit64(0, RLIMIT_NOFILE, {10024, 16*1024}, NULL) = 0",
        ),
        (
            "socket(AF_INET, SOCK_STREAM|SOCK_CLOEXEC|SOCK_NONBLOCK, IPPROTO_IP) = 3",
            "socket(AF_INET, SOCK_STREAM|CLOEXEC|NONBLOCK) = 3",
        ),
        (
            r#"bind(3, {sa_family=AF_INET, sin_port=htons(1234), sin_addr=inet_addr("127.0.0.1")}, 16) = 0"#,
            "bind(3, 127.0.0.1:1234, 16) = 0",
        ),
        (
            r#"getsockname(3, {sa_family=AF_INET6, sin6_port=htons(80), sin6_flowinfo=htonl(0), inet_pton(AF_INET6, "::1", &sin6_addr), sin6_scope_id=0}, [128 => 28]) = 0"#,
            "getsockname(3, [::1]:80) = 0",
        ),
        (r#"bind(3, {sa_family=AF_UNIX, sun_path="a}b"}, 6) = 0"#, r#"bind(3, unix:"a}b", 6) = 0"#),
        (
            "accept4(3, {sa_family=AF_UNIX}, [128 => 2], SOCK_CLOEXEC|SOCK_NONBLOCK) = 8",
            "accept4(3, unix:, SOCK_CLOEXEC|NONBLOCK) = 8",
        ),
        (
            "accept4(3, 0x7ffc00000000, [128], SOCK_CLOEXEC|SOCK_NONBLOCK) = -1 EAGAIN (Resource temporarily unavailable)",
            "accept4(3, 0x…, SOCK_CLOEXEC|NONBLOCK) = -1 EAGAIN",
        ),
        (
            "setsockopt(3, SOL_SOCKET, SO_BINDTOIFINDEX, [2147483647], 4) = 0",
            "setsockopt(3, SOL_SOCKET, SO_BINDTOIFINDEX, [2147483647], 4) = 0",
        ),
        (
            "read(5, 0x7ffc00000000, 128) = -1 EINTR (Interrupted)",
            "read(5, 0x…, 128) = -1 EINTR (Interrupted)",
        ),
    ] {
        assert_eq!(shown(call), due);
    }
}

#[test] // they may say what only looks like a part of a call
fn what_clients_say_is_shown_as_it_is() {
    for call in [
        r#"recvfrom(8, "{sa_family=AF_INET, [128 => 16]", 65536) = 31"#,
        r#"sendto(8, ", 0x1234567 A_B|A_C", 19, MSG_NOSIGNAL) = 19"#,
        r#"openat2(9, "flags= A_B|A_C", {O_RDONLY}) = -1 ENOENT"#,
    ] {
        assert_eq!(shown(call), call);
    }
}

#[test]
fn a_payload_is_cut_before_its_chapter_is_and_not_within_an_escape() {
    let told = format!(r#"sendto(8, "{}"..., 33, MSG_NOSIGNAL, NULL, 0) = 33"#, "abc\\n".repeat(8));
    let due = format!(r#"sendto(8, "{}abc"..., 33, MSG_NOSIGNAL) = 33"#, "abc\\n".repeat(5));
    assert_eq!(shown(&told), due);
    let path = "x".repeat(200);
    let shown = shown(&format!(r#"unlink("{path}") = -1 ENAMETOOLONG (File name too long)"#));
    assert!(shown.ends_with("x\"...) = -1 ENAMETOOLONG"), "{shown}");
}

#[test]
fn a_window_may_be_small() {
    for columns in 0..120 {
        let line =
            "epoll_ctl(4, EPOLL_CTL_ADD, 8, {events=EPOLLIN|EPOLLOUT, data={u32=0, u64=0}}) = 0";
        let shown = view().line(AT, columns, &format!("{line}  # docs/05-loop.md"));
        assert!(shown.trim_end().chars().count() <= columns.max(9), "{columns}: {shown}");
    }
}

#[test]
fn events_have_descriptors_and_deadlines_are_from_now() {
    let mut view = view();
    let data = "data={u32=0, u64=4294967296}}";
    let add =
        format!("epoll_ctl(4, EPOLL_CTL_ADD, 8, {{events=EPOLLIN, {data}) = 0  # docs/05-loop.md");
    assert!(view.line(AT, 80, &add).contains(" epoll_ctl(4, EPOLL_CTL_ADD, 8, EPOLLIN) = 0 "));
    let wait =
        format!("epoll_wait(4, [{{events=EPOLLIN, {data}], 1024, -1) = 1  # docs/05-loop.md");
    assert!(view.line(AT, 80, &wait).contains(" epoll_wait(4, [8 EPOLLIN], 1024, -1) = 1 "));
    let set = |seconds, nanoseconds| {
        let none = "{tv_sec=0, tv_nsec=0}";
        let value = format!("{{tv_sec={seconds}, tv_nsec={nanoseconds}}}");
        let timer = format!("{{it_interval={none}, it_value={value}}}");
        shown(&format!("timerfd_settime(6, TFD_TIMER_ABSTIME, {timer}, NULL) = 0"))
    };
    let due = |when: &str| format!("timerfd_settime(6, TFD_TIMER_ABSTIME, {when}) = 0");
    assert_eq!(set(400, 1), due("in 300.0 s"));
    assert_eq!(set(100, 20_400_000), due("in 20 ms"));
    assert_eq!(set(0, 1), due("in 0 ms"));
    assert_eq!(set(0, 0), due("never"));
}

#[test]
fn a_wait_is_shown_when_it_begins_and_completed_when_it_returns() {
    let mut view = view();
    let told = "epoll_wait(4, [], 1024, -1) = 0  # docs/05-loop.md";
    let gap = " ".repeat(30);
    let whole = format!("epoll_wait(4, [], 1024, -1) = 0{gap}loop");
    assert_eq!(view.wait(AT, "epoll_wait(4, "), "  0.062  epoll_wait(4, ");
    let later = AT + Duration::from_secs(2);
    assert_eq!(view.line(later, 80, told), format!("\r  0.062  {whole}"));
    // If another line comes between the two, it is shown anew.
    view.wait(AT, "epoll_wait(4, ");
    assert_eq!(view.line(AT, 80, "info: hello"), "<unfinished ...>\n         info: hello");
    assert_eq!(view.line(later, 80, told), format!("  2.062  {whole}"));
}
