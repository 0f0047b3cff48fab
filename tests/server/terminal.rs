//! `--narrate` on a terminal: a line fits the window, and one sees the server sleep.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::support::{Client, Signal, thanks, until};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::kill;
use nix::unistd::Pid;

/// The program with a terminal of so many columns for stderr, one visit, and its end: what
/// the terminal got, and what of it stood there while the server slept.
fn visited(columns: u16, no_color: &str) -> (String, String) {
    let window = Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    let terminal = openpty(&window, None).unwrap();
    for end in [&terminal.master, &terminal.slave] {
        fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).unwrap();
    }
    let mut server = Command::new(env!("CARGO_BIN_EXE_threadbare"))
        .args(["--narrate", "-l", "127.0.0.1:0"])
        .env("NO_COLOR", no_color)
        .stdout(Stdio::piped())
        .stderr(terminal.slave)
        .spawn()
        .unwrap();
    let shown = Arc::new(Mutex::new(String::new()));
    let (mut master, sink) = (File::from(terminal.master), Arc::clone(&shown));
    let reader = thread::spawn(move || {
        let mut bytes = [0; 4096];
        // At the end of the program a terminal reports EIO.
        while let Ok(count @ 1..) = master.read(&mut bytes) {
            sink.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
    });
    let text = || shown.lock().unwrap().clone();
    let sleeps = || is_begun(plain(&text()).lines().last().unwrap_or_default());
    let mut ready = String::new();
    BufReader::new(server.stdout.as_mut().unwrap()).read_line(&mut ready).unwrap();
    until("the wait to be seen", sleeps);
    let asleep = text();
    let mut client = Client::to(ready.trim_end().strip_prefix("listening on ").unwrap());
    client.send("hello\n");
    client.expect(thanks("hello\n"));
    drop(client);
    until("the wait for another client", || plain(&text()).contains(" close(") && sleeps());
    kill(Pid::from_raw(server.id() as i32), Signal::SIGTERM).unwrap();
    server.wait().unwrap();
    reader.join().unwrap();
    (text(), asleep)
}

/// A wait that has not returned. (Which descriptor epoll is, depends on what was inherited.)
fn is_begun(line: &str) -> bool {
    let call = line.rsplit('\r').next().and_then(|line| line.split_once("  epoll_wait("));
    let epoll = call.and_then(|(_, rest)| rest.strip_suffix(", "));
    epoll.is_some_and(|epoll| epoll.parse::<u32>().is_ok())
}

/// What is left of a text without its colors.
fn plain(text: &str) -> String {
    let mut pieces = text.split("\x1b[");
    let first = pieces.next().unwrap_or_default().to_owned();
    first + &pieces.map(|it| it.split_once('m').map_or("", |(_, rest)| rest)).collect::<String>()
}

/// The lines as they stand there at last: what comes behind a return is written over the line.
fn lines(text: &str) -> Vec<String> {
    let shown = |line: &str| {
        let line = line.trim_end_matches('\r');
        line.rsplit('\r').next().unwrap().to_owned()
    };
    plain(text).lines().map(shown).collect()
}

#[test]
fn no_line_is_wider_than_the_window() {
    for columns in [80, 60, 132] {
        let (text, _) = visited(columns, "");
        assert!(text.contains("\x1b[36mepoll_wait\x1b[0m("), "{text}");
        let lines = lines(&text);
        let calls = lines.iter().filter(|line| line.contains(") = "));
        assert!(calls.clone().count() > 35, "{text}");
        for line in calls {
            assert!(line.chars().count() <= columns.into(), "{columns}: {line}");
        }
        let waits = lines.iter().filter(|line| line.contains(" EPOLLIN], 1024, -1) = 1"));
        assert!(waits.count() >= 4, "{columns}: {text}");
        let chapters = lines.iter().filter(|line| line.ends_with("  loop")).count();
        assert!(columns < 80 || chapters > 8, "{columns}: {text}");
    }
}

#[test]
fn the_wait_is_seen_while_it_lasts_and_completed_when_it_returns() {
    let (text, asleep) = visited(80, "1");
    assert!(!text.contains('\x1b'), "colors, against NO_COLOR: {text}");
    let begun = asleep.lines().last().unwrap();
    assert!(is_begun(begun) && begun.trim_start().starts_with("0."), "{begun}");
    // In its place, with the moment at which it began.
    let rest = text.strip_prefix(&asleep).and_then(|rest| rest.strip_prefix('\r')).unwrap();
    let whole = rest.lines().next().unwrap();
    assert!(whole.starts_with(begun) && whole.contains(" EPOLLIN], 1024, -1) = 1 "), "{whole}");
    // And nothing is shown twice.
    let lines = lines(&text);
    assert!(lines.iter().all(|line| !is_begun(line)), "{text}");
}
