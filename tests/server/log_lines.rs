//! What a running server says on stderr, and that nothing that becomes of stderr stalls or
//! ends it: a terminal that is stopped, a pipe that is full or closed, a disk that is full,
//! a file that may not grow. Then what is said, and when; and what a terminal shows.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::fs::MetadataExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::support::{
    Client, Scratch, Server, Signal, eventually, needs, raise_descriptor_limit, until,
};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::pty::{Winsize, openpty};
use nix::sys::stat::Mode;
use nix::sys::termios::{FlowArg, tcflow};
use nix::unistd::mkfifo;

/// Clients come, are answered, and go.
fn serve(server: &Server, count: usize) {
    for _ in 0..count {
        let mut client = server.client();
        client.ask("hello\n");
        client.finish();
        client.expect_end();
    }
}

/// SIGTERM ends it well, and soon, whoever reads its last lines.
#[track_caller]
fn stops_soon(server: &mut Server) {
    let begun = Instant::now();
    assert_eq!(server.stop(), Some(0), "{}", server.logs());
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

/// Lines without the time before them, which must be RFC 3339.
#[track_caller]
fn records(text: &str) -> Vec<String> {
    let timeless = |line: &str| {
        let (time, rest) = line.split_at_checked(25).unwrap_or_else(|| panic!("{line}"));
        let digits = time.replace(|c: char| c.is_ascii_digit(), "0");
        assert_eq!(digits, "0000-00-00T00:00:00.000Z ", "{line}");
        rest.to_owned()
    };
    text.lines().map(timeless).collect()
}

// ---- whatever becomes of stderr ------------------------------------------------------

/// A terminal: the end that the server has, and the end that a person looks at.
struct Terminal {
    server: OwnedFd,
    person: OwnedFd,
}

impl Terminal {
    fn new() -> Terminal {
        Terminal::of(None)
    }

    fn of(window: Option<&Winsize>) -> Terminal {
        let pty = openpty(window, None).unwrap();
        for fd in [&pty.slave, &pty.master] {
            fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).unwrap();
        }
        Terminal { server: pty.slave, person: pty.master }
    }

    /// Starts the program with its stderr on the terminal.
    fn start(&self, prelude: &str, args: &[&str]) -> Server {
        let name = fs::read_link(format!("/proc/self/fd/{}", self.server.as_raw_fd())).unwrap();
        let prelude = format!("export TERM=xterm; {prelude}\nexec 2>{}", name.display());
        Server::start_after(&prelude, args)
    }

    /// What it shows from now on.
    fn look(&self) -> Arc<Mutex<String>> {
        let seen = Arc::new(Mutex::new(String::new()));
        let (sink, mut screen) = (Arc::clone(&seen), File::from(self.person.try_clone().unwrap()));
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = screen.read(&mut bytes) {
                sink.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        });
        seen
    }
}

#[test] // a terminal that is stopped (Ctrl-S, a stalled ssh) stalls and ends nothing
fn a_stopped_terminal() {
    for option in ["-v", "--narrate"] {
        let terminal = Terminal::new();
        let mut server = terminal.start("", &[option]);
        tcflow(&terminal.server, FlowArg::TCOOFF).unwrap();
        serve(&server, 100);
        stops_soon(&mut server);
    }
}

#[test] // nor does one that nobody reads, nor with the status line on it
fn a_terminal_that_is_never_read() {
    for options in [&["-v"][..], &["--narrate"], &[]] {
        let terminal = Terminal::new();
        let mut server = terminal.start("", options);
        serve(&server, 1_000);
        stops_soon(&mut server);
    }
}

#[test] // nor one that the server may not open, as after su, and was given by its parent
fn a_stopped_terminal_that_cannot_be_opened() {
    let terminal = Terminal::new();
    let inherited = nix::unistd::dup(&terminal.server).unwrap(); // survives exec
    let name = fs::read_link(format!("/proc/self/fd/{}", inherited.as_raw_fd())).unwrap();
    fs::set_permissions(&name, PermissionsExt::from_mode(0o000)).unwrap();
    tcflow(&terminal.server, FlowArg::TCOOFF).unwrap();
    // Not every sh knows descriptors above 9, and beside other tests it is one of them.
    let start = format!("exec 2>&{}; exec \"$0\" \"$@\"", inherited.as_raw_fd());
    let prelude = format!("export TERM=xterm; exec bash -c '{start}' \"$0\" \"$@\"");
    let mut server = Server::start_after(&prelude, &["-v"]);
    drop(inherited);
    serve(&server, 100);
    stops_soon(&mut server);
}

#[test] // a file size limit (ulimit -f) ends the log, not the server
fn a_file_size_limit() {
    for option in ["-v", "--narrate"] {
        let scratch = Scratch::new();
        let log = scratch.path("log");
        let prelude = format!("exec 2>{}; ulimit -f 8", log.display());
        let mut server = Server::start_after(&prelude, &[option]);
        serve(&server, 200);
        stops_soon(&mut server);
        let size = fs::metadata(&log).unwrap().len();
        assert!((2_000..=8 * 1024).contains(&size), "{size} bytes");
    }
}

#[test] // a full disk, a closed stderr and a pipe without a reader: it serves on, and panics not
fn streams_that_take_nothing() {
    let scratch = Scratch::new();
    let pipe = scratch.path("pipe");
    mkfifo(&pipe, Mode::S_IRWXU).unwrap();
    let no_reader = format!("exec 3<>{0} 2>{0} 3<&-", pipe.display());
    for stderr in ["exec 2>/dev/full", "exec 2>&-", &no_reader] {
        for option in ["-v", "--narrate"] {
            let mut server = Server::start_after(stderr, &[option]);
            serve(&server, 50);
            stops_soon(&mut server);
            assert_eq!(server.logs(), "", "{stderr} {option}");
        }
    }
}

/// A pipe for stderr, which we read when we want to.
struct Pipe {
    scratch: Scratch,
    reader: File,
}

impl Pipe {
    fn new() -> Pipe {
        let scratch = Scratch::new();
        mkfifo(&scratch.path("pipe"), Mode::S_IRWXU).unwrap();
        let nonblocking = nix::libc::O_NONBLOCK;
        let mut open = OpenOptions::new();
        let reader = open.read(true).custom_flags(nonblocking).open(scratch.path("pipe")).unwrap();
        Pipe { scratch, reader }
    }

    fn start(&self, args: &[&str]) -> Server {
        let prelude = format!("exec 2>{}", self.scratch.path("pipe").display());
        Server::start_after(&prelude, args)
    }

    /// What is in it now.
    fn read(&mut self) -> String {
        let mut bytes = Vec::new();
        let _ = self.reader.read_to_end(&mut bytes); // or it would have to wait
        String::from_utf8(bytes).unwrap()
    }
}

#[test] // what the ring cannot take is dropped, counted, and told: not a line is unaccounted for
fn dropped_lines_are_counted() {
    const CLIENTS: usize = 4_000;
    let mut pipe = Pipe::new();
    let mut server = pipe.start(&["-v"]);
    serve(&server, CLIENTS); // two lines each: more than pipe and ring hold
    let mut text = String::new();
    until("what was kept to be written", || {
        let before = text.len();
        text += &pipe.read();
        before == text.len() && text.len() > 300_000
    });
    server.signal(Signal::SIGUSR1);
    until("the next line", || {
        text += &pipe.read();
        text.ends_with('\n') && text.contains(" 0 open, holding ")
    });
    let lines = records(&text);
    let told = lines.iter().filter_map(|line| line.strip_suffix(" lines dropped"));
    let told: Vec<usize> = told
        .map(|line| line.strip_prefix("WARN  [threadbare] ").unwrap().parse().unwrap())
        .collect();
    let dropped: usize = told.iter().sum();
    assert!(dropped > 0 && lines.len() > 4_000, "{dropped} of {}", lines.len());
    assert_eq!(lines.len() - told.len() + dropped, 2 * CLIENTS + 1);
    drop(pipe);
    stops_soon(&mut server);
}

#[test] // the last lines are written before the end, and more of them than a pipe holds
fn the_end_is_flushed() {
    const CLIENTS: usize = 1_000;
    raise_descriptor_limit();
    let mut server = Server::start(&["-v"]);
    let clients = server.clients(CLIENTS);
    until("all to be in", || server.logs().matches(" opened ").count() == CLIENTS);
    assert_eq!(server.stop(), Some(0));
    drop(clients);
    let lines = records(&server.logs());
    let is_end = |line: &&String| line.starts_with("DEBUG [threadbare] closed ");
    assert_eq!(lines.iter().filter(is_end).count(), CLIENTS);
    assert!(lines.last().unwrap().contains("1000 shutdown"), "{:?}", lines.last());
}

#[test] // the loop's thread writes no line: not one write(2) to stderr is its own
fn the_loop_writes_no_line() {
    if !needs(&["strace"]) {
        return;
    }
    for option in ["-v", "--narrate"] {
        let scratch = Scratch::new();
        let trace = scratch.path("strace");
        let strace = "exec strace -D -f -qq -e trace=write,writev,epoll_wait,epoll_pwait -o";
        let strace = format!("{strace} {} \"$0\" \"$@\"", trace.display());
        let mut server = Server::start_after(&strace, &[option]);
        serve(&server, 20);
        assert_eq!(server.stop(), Some(0));
        let read = || fs::read_to_string(&trace).unwrap();
        until("strace to have told all", || read().matches("epoll_").count() > 20);
        let trace = read();
        let who = |what: &str| -> BTreeSet<&str> {
            let lines = trace.lines().filter(|line| line.contains(what));
            lines.map(|line| line.split(' ').next().unwrap()).collect()
        };
        let (waits, writes) = (who(" epoll_"), who(" write(2, "));
        assert_eq!((waits.len(), writes.len()), (1, 1), "{trace}");
        assert!(waits.is_disjoint(&writes), "{trace}");
    }
}

#[test] // SIGHUP stops a server on a terminal, which is what closing the terminal sends
fn a_hangup_on_a_terminal() {
    let terminal = Terminal::new();
    let _seen = terminal.look();
    let mut server = terminal.start("", &[]);
    let mut client = server.client();
    client.ask("hello\n");
    server.signal(Signal::SIGHUP);
    client.expect_end(); // the drain has begun
    assert_eq!(server.wait(), Some(0));
}

#[test] // the log thread takes none of the signals that the loop reads
fn the_log_thread_takes_no_signal() {
    let server = Server::start(&[]);
    let read = || -> Option<Vec<String>> {
        let tasks = fs::read_dir(format!("/proc/{}/task", server.pid())).ok()?;
        let read = |task: fs::DirEntry| fs::read_to_string(task.path().join("status")).ok();
        tasks.map(|task| read(task.ok()?)).collect()
    };
    let is_log = |status: &String| status.starts_with("Name:\tthreadbare-log\n");
    let statuses = eventually("the log thread", || read().filter(|all| all.iter().any(is_log)));
    assert_eq!(statuses.len(), 2);
    let blocked = |status: &String| {
        let line = status.lines().find_map(|line| line.strip_prefix("SigBlk:\t")).unwrap();
        u64::from_str_radix(line, 16).unwrap()
    };
    for status in &statuses {
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGUSR1] {
            assert!(blocked(status) >> (signal as u32 - 1) & 1 == 1, "{signal}: {status}");
        }
    }
}

// ---- what is said --------------------------------------------------------------------

#[test] // in a pipe a record is a time in UTC, a level, and the message; no color
fn a_record() {
    let mut server = Server::start(&[]);
    serve(&server, 1);
    assert_eq!(server.stop(), Some(0));
    let due = [
        "INFO  [threadbare] stopping (SIGTERM), 0 open",
        "INFO  [threadbare] 1 accepted, 1 closed (1 peer closed), 6 bytes received, 33 sent",
    ];
    assert_eq!(records(&server.logs()), due);
}

#[test] // under journald a priority stands before a record, and no time; elsewhere it does not
fn under_journald() {
    let scratch = Scratch::new();
    let log = scratch.path("log");
    File::create(&log).unwrap();
    let status = fs::metadata(&log).unwrap();
    let stream = format!("{}:{}", status.st_dev(), status.st_ino());
    let run = |stream: &str| {
        let prelude = format!("export JOURNAL_STREAM={stream}; exec 2>{}", log.display());
        let mut server = Server::start_after(&prelude, &["-v"]);
        serve(&server, 1);
        assert_eq!(server.stop(), Some(0));
        fs::read_to_string(&log).unwrap()
    };
    let text = run(&stream);
    let starts: Vec<&str> =
        text.lines().map(|line| line.split_once(" 0").map_or(line, |it| it.0)).collect();
    let due = [
        "<7>DEBUG [threadbare] opened",
        "<7>DEBUG [threadbare] closed",
        "<6>INFO  [threadbare] stopping (SIGTERM),",
        "<6>INFO  [threadbare] 1 accepted, 1 closed (1 peer closed), 6 bytes received, 33 sent",
    ];
    assert_eq!(starts, due);
    assert_eq!(records(&run("1:2")).len(), 4, "another stream is journald's");
}

#[test] // SIGUSR1 with 3,000 clients loses nothing: the totals, then the 100 that hold most
fn usr1_with_a_crowd() {
    const CLIENTS: usize = 3_000;
    raise_descriptor_limit();
    let server = Server::start(&[]);
    let mut clients = server.clients(CLIENTS);
    clients[2_000].send("x".repeat(30_000));
    clients[1_000].send("x".repeat(10_000));
    clients[CLIENTS - 1].ask("all are in\n");
    let ask = || {
        let before = server.logs().len();
        server.signal(Signal::SIGUSR1);
        let told = || records(&server.logs()[before..]);
        until("the report", || server.logs().ends_with('\n') && told().len() >= 101);
        told()
    };
    let told = eventually("both to be heard", || {
        Some(ask())
            .filter(|told| told[2].contains(" rest 10000 ") && told[1].contains(" rest 30000 "))
    });
    assert!(told[0].starts_with("INFO  [threadbare] 3000 open, holding "), "{}", told[0]);
    assert!(told[0].contains(", 3000 accepted, ") && told[0].ends_with("; those that hold most:"));
    for (line, client) in [(1, &clients[2_000]), (2, &clients[1_000])] {
        assert!(told[line].contains(&client.name()), "{}", told[line]);
    }
    assert_eq!(told.len(), 101);
    clients[CLIENTS - 1].ask("still here\n");
}

/// The warnings so far, without what stands before and behind the message.
fn warnings(server: &Server) -> Vec<String> {
    let records = records(&server.logs()).into_iter();
    records.filter_map(|line| line.strip_prefix("WARN  [threadbare] ").map(str::to_owned)).collect()
}

#[test] // a client that a limit cuts is named, with the reason and the option, at the default level
fn limits_that_cut_are_seen() {
    let server = Server::start(&["--message-timeout", "0.2", "--max-per-ip", "2"]);
    let mut slow = server.client();
    slow.send("half a li");
    slow.expect_end();
    let name = slow.name();
    let due = format!(
        "{name} was cut (message too slow): the rest of its message did not come in 0.2 s (--message-timeout)"
    );
    until("the line", || warnings(&server) == [due.clone()]);
    drop(slow);

    let mut other = Client::from(Ipv4Addr::new(127, 0, 0, 2), &server.addresses[0]);
    let mut another = Client::from(Ipv4Addr::new(127, 0, 0, 2), &server.addresses[0]);
    other.ask("in\n");
    another.ask("in\n");
    let mut third = Client::from(Ipv4Addr::new(127, 0, 0, 2), &server.addresses[0]);
    let name = third.name();
    assert!(third.some(1).unwrap_or_default().is_empty());
    let due = format!(
        "{name} was cut (address limit): its address had 2 connections already (--max-per-ip)"
    );
    until("the line", || warnings(&server).last() == Some(&due));

    let server = Server::start(&["echo", "--max-output", "64K", "--write-timeout", "0.3"]);
    let mut deaf = server.client();
    let _ = deaf.try_to_stuff(&[b'x'; 65_536], 64 << 20);
    let name = deaf.name();
    until("the line", || warnings(&server).iter().any(|line| line.starts_with(&name)));
    let told = warnings(&server);
    assert!(
        told[0].ends_with("for 0.3 s (--write-timeout)") || told[0].ends_with("(--max-output)"),
        "{told:?}"
    );
}

#[test] // of a crowd that meets one limit one is named, and no client that leaves by itself is
fn limits_that_cut_a_crowd_are_told_once() {
    let mut server = Server::start(&["--message-timeout", "0.1", "--idle-timeout", "0.5"]);
    let mut clients = server.clients(20);
    clients.iter_mut().for_each(|client| client.send("half"));
    clients.iter_mut().for_each(Client::expect_end);
    drop(clients);
    serve(&server, 3);
    server.client().expect_end(); // idle
    server.client().reset();
    assert_eq!(server.stop(), Some(0));
    assert_eq!(warnings(&server).len(), 1, "{}", server.logs());
}

#[test] // a stop says how long it takes at most, and how it takes no time; if it has to wait
fn a_stop_says_how_long() {
    for (signal, options, due) in [
        (Signal::SIGINT, &[][..], ": waits at most 10 s; a second Ctrl-C ends it now"),
        (
            Signal::SIGTERM,
            &["--drain-timeout", "0.5"],
            ": waits at most 0.5 s; a second signal ends it now",
        ),
        (
            Signal::SIGTERM,
            &["--drain-timeout", "0"],
            ": waits until they have finished; a second signal ends it now",
        ),
    ] {
        let mut server = Server::start(options);
        let mut clients = server.clients(3);
        clients.iter_mut().for_each(|client| client.ask("hello\n"));
        server.signal(signal);
        clients.iter_mut().for_each(Client::expect_end);
        drop(clients);
        assert_eq!(server.wait(), Some(0));
        let due = format!("INFO  [threadbare] stopping ({signal}), 3 open{due}");
        assert_eq!(records(&server.logs())[0], due);
    }
}

// ---- on a terminal -------------------------------------------------------------------

/// The lines of a screen, with what a terminal makes of returns and of erasing.
fn screen(seen: &str) -> Vec<String> {
    let seen = seen.replace("\x1b[?7l", "").replace("\x1b[?7h", "");
    let last = |line: &str| line.rsplit("\r\x1b[K").next().unwrap_or_default().to_owned();
    seen.split("\r\n").map(last).collect()
}

#[test] // a person sees what is served and what to try, and a line that changes when something does
fn a_terminal_shows_what_to_try_and_that_it_lives() {
    let terminal = Terminal::new();
    let seen = terminal.look();
    let shown = || screen(&seen.lock().unwrap());
    let mut server = terminal.start("export LC_ALL=C.UTF-8", &[]);
    let pid = server.pid();
    let address = server.addresses[0].replace(':', " ");
    until("the status line", || shown().len() >= 6);
    let due = [
        "┌ greet: each line is answered with \"Thank you for your message <line>\"".to_owned(),
        format!("│ talk to it     nc {address}    and type a line"),
        "│ stop it        Ctrl-C: it finishes what it has received; a second one: now".to_owned(),
        format!("│ look inside    kill -USR1 {pid}    or start it with --narrate"),
        format!("└ be rude to it  yes | nc {address} | sleep 9    asks, and never reads"),
    ];
    assert_eq!(shown()[..5], due);
    let status = || shown().last().unwrap().clone();
    until("nobody", || status() == "0 open, 0 bytes in, 0 bytes out, no message yet");

    let mut clients = server.clients(3);
    clients[0].ask("hello\n");
    clients[1].send("half");
    until("what they did", || status().starts_with("3 open, 10 bytes in, 33 bytes out, "));
    assert!(status().contains(", last message ") && status().ends_with('Z'), "{}", status());
    clients.pop();
    until("who has left", || status().starts_with("2 open, "));

    server.signal(Signal::SIGUSR1); // its lines go above
    until("the report", || shown().iter().any(|line| line.contains(" rest 4 ")));
    until("the line below it", || status().starts_with("2 open, "));
    server.signal(Signal::SIGINT);
    drop(clients);
    assert_eq!(server.wait(), Some(0));
    until("the line to be gone", || status().is_empty());
    let lines = shown();
    assert!(lines[lines.len() - 2].contains(", 10 bytes received, "), "{lines:?}");
    assert_eq!(lines.iter().filter(|line| line.contains(" bytes in, ")).count(), 0, "{lines:?}");
    assert_eq!(server.stdout(), format!("listening on {}\n", server.addresses[0]));
}

#[test] // what does not fit a narrow window is left out, and its last column is not overwritten
fn the_status_line_of_a_narrow_window() {
    let window = Winsize { ws_row: 24, ws_col: 30, ws_xpixel: 0, ws_ypixel: 0 };
    let terminal = Terminal::of(Some(&window));
    let seen = terminal.look();
    let _server = terminal.start("", &[]);
    let due = "0 open, 0 bytes in, 0 bytes ou";
    until("the line", || screen(&seen.lock().unwrap()).last().unwrap() == due);
}

#[test] // idle is idle with the status line, too: no thread wakes when nothing happens
fn an_idle_server_with_a_status_line_sleeps() {
    let terminal = Terminal::new();
    let seen = terminal.look();
    let server = terminal.start("", &[]);
    let mut client = server.client();
    for _ in 0..1_000 {
        client.ask("hello\n"); // many changes, and few of them are drawn
    }
    let due = "1 open, 6000 bytes in, 33.0 kB out, ";
    until("the last change", || screen(&seen.lock().unwrap()).last().unwrap().starts_with(due));
    server.settle();
    let drawn = seen.lock().unwrap().len();
    let (ticks, switches) = server.spends(Duration::from_secs(2));
    assert!(ticks == 0 && switches == 0, "{ticks} ticks, {switches} switches in 2 s");
    assert_eq!(seen.lock().unwrap().len(), drawn);
}

#[test] // what fills a terminal by itself, and -q, have no status line; -q has nothing at all
fn no_status_line_beside_other_lines() {
    for (prelude, options, lines) in [
        ("", &["-v"][..], 5),
        ("", &["-q"], 0),
        ("export TERM=dumb", &[], 5),
        ("", &["once", "-l", "127.0.0.1:0"], 5),
    ] {
        let terminal = Terminal::new();
        let seen = terminal.look();
        let mut server = terminal.start(&format!("export LC_ALL=C; {prelude}"), options);
        server.signal(Signal::SIGTERM);
        server.wait();
        let shown = || seen.lock().unwrap().clone();
        let framed = |text: &str| text.lines().filter(|line| line.starts_with(['+', '|'])).count();
        until("the end to be seen", || lines == 0 || shown().contains(" accepted, "));
        let seen = shown();
        assert!(!seen.contains("bytes in, "), "{options:?}: {seen}");
        assert_eq!(framed(&seen), lines, "{options:?}: {seen}");
        assert_eq!(seen.is_empty(), options == ["-q"], "{options:?}: {seen}");
    }
}

#[test] // color on a terminal, unless NO_COLOR; UTF-8 only where the locale has it
fn color_and_characters() {
    for (prelude, color, utf8) in [
        ("unset NO_COLOR LC_ALL LC_CTYPE; export LANG=en_US.utf8", true, true),
        ("export NO_COLOR=1 LC_ALL=C LANG=C.UTF-8", false, false),
    ] {
        let terminal = Terminal::new();
        let seen = terminal.look();
        let mut server = terminal.start(prelude, &[]);
        assert_eq!(server.stop(), Some(0));
        until("its end", || seen.lock().unwrap().contains("0 accepted"));
        let seen = seen.lock().unwrap().clone();
        assert_eq!(seen.contains("\x1b[36mINFO "), color, "{seen}");
        assert_eq!(seen.is_ascii(), !utf8, "{seen}");
    }
}

#[test] // a path on the screen is escaped; make's targets are named where make started it; URLs
fn the_frame_of_other_servers() {
    let scratch = Scratch::new();
    let evil = scratch.path("a\u{1b}[2Jb");
    fs::create_dir(&evil).unwrap();
    fs::write(evil.join("index.html"), "").unwrap();
    let unix = scratch.unix("s");
    for (prelude, args, due) in [
        ("", &["http", path(&evil)][..], "http: the files beneath "),
        ("", &["http"], "open it        http://127.0.0.1:"),
        ("", &["-l", &unix, "echo"], "nc -U "),
        ("export THREADBARE_TIPS=make", &[], "make torture ADDR=127.0.0.1:"),
    ] {
        let terminal = Terminal::new();
        let seen = terminal.look();
        let _server = terminal.start(&format!("export LC_ALL=C; {prelude}"), args);
        until("the frame", || seen.lock().unwrap().contains(due));
        assert!(!seen.lock().unwrap().contains("\x1b[2J"));
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}
