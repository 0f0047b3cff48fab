//! No memory at all: each allocation of a running server fails once. What ends is a connection,
//! with its reason, and the clients behind it are served as before.
//!
//! Where the standard library can only end the process, it must do so in one of the places that
//! the chapter names. So the sweeps run in a process of their own, which is begun again behind the
//! allocation that ended it.

use crate::allocator::{Counting, FAILS, NEVER, TRACED};
use crate::support::{Scratch, eventually};
use nix::libc::linger;
use nix::sys::socket::{setsockopt, sockopt};
use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use threadbare::handlers::{Chat, Echo, Framing, Greet, Http, Proxy};
use threadbare::{
    Address, Builder, CloseReason, Conn, ConnectionHandler, Limits, Net, Running, Server, Timeouts,
    TimerId, ToAddresses,
};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What each client of a server says, all of them at once; one that says nothing resets.
type Dialogue = &'static [&'static [u8]];

const SERVERS: [(&str, Dialogue); 7] = [
    ("greet", &[b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\nanna\nbo", b"PROXY UNKNOWN\r\n\n"]),
    (
        "chat",
        &[
            b"hello\n/name anna\n/who\n\xff\xfd\x01h\xffi\n",
            b"hi\n/name bob\n/name Anna\n/what\n/name \xcf\x80\nlonger than that\n/quit\n",
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"",
        ],
    ),
    (
        "http",
        &[
            b"GET / HTTP/1.1\r\nHost: a\r\nIf-None-Match: \"x\"\r\nIf-Match: \"y\"\r\n\r\nGET /",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nbody",
            b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n",
        ],
    ),
    (
        "http DIR",
        &[
            b"GET /small.html HTTP/1.1\r\nHost: a\r\nIf-None-Match: \"x\"\r\n\r\n",
            b"GET /small.html HTTP/1.1\r\nHost: a\r\nRange: bytes=1-3\r\n\r\n",
            b"GET /large HTTP/1.1\r\nHost: a\r\n\r\nHEAD /large HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET /large HTTP/1.1\r\nHost: a\r\nRange: bytes=99999999-\r\n\r\n",
            b"GET /none HTTP/1.1\r\nHost: a\r\n\r\nGET /folder?q HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET /folder/ HTTP/1.1\r\nHost: a\r\n\r\nGET /%zz HTTP/1.1\r\nHost: a\r\n\r\n",
        ],
    ),
    ("proxy", &[b"through the proxy\n", b"and so is this\n", b""]),
    ("proxy to nobody", &[b"is there anybody?\n"]),
    ("all", &[b"group\nkeys\nwork\nsend\nagain\n", b"group\nsend\n"]),
];

/// Uses what a handler can have: groups, timers with keys, timeouts, workers.
struct All;

impl ConnectionHandler for All {
    type Session = ();

    fn on_data(&mut self, conn: &mut Conn<'_>, (): &mut (), input: &[u8]) -> usize {
        let Some(end) = input.iter().position(|&byte| byte == b'\n') else { return 0 };
        let (id, soon) = (conn.id(), Some(Duration::from_millis(1)));
        match &input[..end] {
            b"group" => {
                conn.net().join("all", id);
                conn.net().join("others", id);
                conn.net().leave("others", id);
            }
            b"send" => _ = conn.net().send_group("all", b"to all\n", None),
            b"keys" => {
                conn.set_timer(soon);
                conn.set_timer_for(7, soon);
                conn.set_timer_for(8, Some(Duration::from_secs(60)));
                conn.set_timeouts(Timeouts { idle: None, ..conn.timeouts() });
                conn.net().after(Duration::from_millis(1), 1);
            }
            b"work" => {
                let key = end;
                if !conn.work(move |(): &mut (), _| key) {
                    conn.write(b"not now\n");
                }
            }
            _ => conn.write(b"?\n"),
        }
        end + 1
    }

    fn on_result(&mut self, conn: &mut Conn<'_>, (): &mut (), _: Box<dyn std::any::Any + Send>) {
        conn.write(b"done\n");
    }

    fn on_timer(&mut self, conn: &mut Conn<'_>, (): &mut ()) {
        conn.write(b"tick\n");
    }

    fn on_timer_for(&mut self, conn: &mut Conn<'_>, (): &mut (), _: u32) {
        conn.write(b"tock\n");
    }

    fn on_tick(&mut self, _: &mut Net, _: TimerId, _: u64) {}
}

// ---- in a process of its own -----------------------------------------------------------

/// A value of the server's thread.
fn ask<H: ConnectionHandler>(server: &Running<H>, what: fn() -> u64) -> u64 {
    const UNTOLD: u64 = u64::MAX - 1;
    let told = Arc::new(AtomicU64::new(UNTOLD));
    let tell = Arc::clone(&told);
    server.handle().call(move |_, _| tell.store(what(), Ordering::Relaxed)).unwrap();
    eventually("the server to answer", || {
        let told = told.load(Ordering::Relaxed);
        (told != UNTOLD).then_some(told)
    })
}

/// Clients of a server, all at once. What each of them hears, but for numbers and dates.
fn talk<H: ConnectionHandler>(server: &Running<H>, dialogue: Dialogue) -> Vec<String> {
    let Address::Tcp(address) = server.addresses()[0] else { panic!("a TCP listener") };
    let begin = |words: &&[u8]| {
        let mut client = TcpStream::connect(address).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let _ = client.write_all(words); // it may have ended
        ask(server, || 0);
        client
    };
    let clients: Vec<TcpStream> = dialogue.iter().map(begin).collect();
    for _ in 0..3 {
        ask(server, || 0); // its thread has done what it can do
    }
    let mut answers = Vec::new();
    for (mut client, words) in clients.into_iter().zip(dialogue) {
        if words.is_empty() {
            setsockopt(&client, sockopt::Linger, &linger { l_onoff: 1, l_linger: 0 }).unwrap();
            continue; // and it is dropped
        }
        let _ = client.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let heard = client.read_to_end(&mut answer);
        let gone_quiet = heard.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        assert!(!gone_quiet, "{:?} gets neither an answer nor an end", words.escape_ascii());
        let has_header = answer.starts_with(b"\r\n\r\n\0"); // which the server behind the proxy echoes
        let answer = String::from_utf8_lossy(&answer[if has_header { 28 } else { 0 }..]);
        let lines = answer.lines().filter(|line| !line.starts_with("Date: "));
        let varies = |c: char| c.is_numeric() || c == 'x'; // and what large files are full of
        let lines: Vec<String> = lines.map(|line| line.replace(varies, "")).collect();
        answers.push(lines.join("\n") + if heard.is_err() { "\n(reset)" } else { "" });
    }
    answers
}

/// Fails each allocation from this one on, once. Prints which is next.
fn sweep<H>(server: Builder<H>, name: &str, dialogue: Dialogue, from: u64)
where
    H: ConnectionHandler<Session: Send> + Send + 'static,
{
    let place = "127.0.0.1:0".to_places().unwrap();
    let place = place.into_iter().map(|it| if name == "greet" { it.behind_front() } else { it });
    let server = server.bind(place.collect::<Vec<_>>()).unwrap().spawn().unwrap();
    let usual = eventually("files to be old enough for a strong entity tag", || {
        let answers = talk(&server, dialogue); // what is allocated once for all is there now
        answers.iter().all(|answer| !answer.contains("W/")).then_some(answers)
    });
    let mut touched = 0;
    for count in from.. {
        println!("failing {count}");
        server.handle().call(move |_, _| FAILS.set(count)).unwrap();
        let answers = talk(&server, dialogue);
        let is_last = ask(&server, || FAILS.replace(NEVER)) != NEVER;
        let differ = answers.iter().zip(&usual).filter(|(now, usual)| now != usual);
        let differ: Vec<_> = differ.collect();
        // In a room all hear of it.
        assert!(differ.len() <= 1 || matches!(name, "chat" | "all"), "{differ:#?}");
        touched += usize::from(!differ.is_empty());
        if is_last {
            break; // it makes no more
        }
        assert!(count < 10_000, "it never ends");
        if count % 8 == 0 && !matches!(name, "chat" | "all") {
            assert_eq!(talk(&server, dialogue), usual, "behind allocation {count}");
        }
    }
    let last = talk(&server, dialogue);
    assert_eq!(last.len(), usual.len());
    server.handle().stop();
    let counters = server.join().unwrap().counters;
    assert_eq!(counters.bugs, 0, "{counters}");
    let cut = counters.closed_for(CloseReason::MemoryBudget);
    println!("swept: {touched} rounds differed, {counters}");
    assert!(cut > 0 || from > 0 || touched == 0, "nothing ended: {counters}");
}

/// The part of [`each_allocation_fails_once`] that runs in a process of its own.
#[test]
#[ignore = "a part of another"]
fn a_sweep() {
    let Ok(task) = env::var("SWEEP") else { return };
    let (name, from) = task.split_once(':').unwrap();
    TRACED.store(true, Ordering::Relaxed);
    let (_, dialogue) = SERVERS.iter().find(|(known, _)| *known == name).unwrap();
    let from = from.parse().unwrap();
    let limits = Limits { max_outbound: 100, max_per_address: 100, ..Limits::default() };
    let proxy = |to: Address| Proxy::new(to, Duration::from_secs(9)).send_proxy(true);
    match name {
        "greet" => {
            let greet = Greet::new(Framing::Line, 1 << 16);
            sweep(Server::builder(greet).limits(limits), name, dialogue, from);
        }
        "chat" => sweep(Server::builder(Chat::new(1 << 16)).limits(limits), name, dialogue, from),
        "http" => sweep(Server::builder(Http::new()).limits(limits), name, dialogue, from),
        "http DIR" => {
            let scratch = Scratch::new();
            fs::write(scratch.path("small.html"), "small").unwrap();
            fs::write(scratch.path("large"), vec![b'x'; 2 << 20]).unwrap();
            fs::create_dir(scratch.path("folder")).unwrap();
            let http = Http::new().serve(scratch.path("")).access_log(|_| {});
            sweep(Server::builder(http).limits(limits), name, dialogue, from);
        }
        "proxy" => {
            let behind = Server::builder(Echo).bind("127.0.0.1:0").unwrap().spawn().unwrap();
            let proxy = proxy(behind.addresses()[0].clone());
            sweep(Server::builder(proxy).limits(limits), name, dialogue, from);
        }
        "proxy to nobody" => {
            // A port that no other test is given.
            let nobody = Address::Tcp("127.0.0.1:1".parse().unwrap());
            sweep(Server::builder(proxy(nobody)).limits(limits), name, dialogue, from);
        }
        _ => {
            let all = Server::builder(All).limits(limits).workers(1, 100, || ());
            sweep(all, name, dialogue, from);
        }
    }
}

// ---- and what becomes of it ------------------------------------------------------------

/// Runs [`a_sweep`]; whether it ended by itself, and what it printed.
fn run(name: &str, from: u64) -> (bool, String) {
    let mut child = Command::new(env::current_exe().unwrap());
    child.args(["--exact", "no_memory::a_sweep", "--ignored", "--nocapture"]);
    child.env("SWEEP", format!("{name}:{from}")).env("RUST_BACKTRACE", "0");
    let output = child.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code().is_none_or(|code| code == 0), "{name}: {text}{errors}");
    (output.status.success(), text)
}

/// The innermost function of ours in a trace, and its file.
fn place(trace: &str) -> Option<String> {
    let frames = trace.lines().zip(trace.lines().skip(1));
    let mut ours = frames.filter_map(|(function, at)| {
        let file = at.trim().strip_prefix("at ./src/")?.split(':').next()?;
        let function = function.split_once(": ")?.1.split('<').next()?;
        Some(format!("{file} {function}"))
    });
    ours.next()
}

#[test]
fn each_allocation_fails_once() {
    let mut places = BTreeSet::new();
    for (name, _) in SERVERS {
        let (mut from, mut ended) = (0, 0);
        loop {
            let (is_swept, told) = run(name, from);
            let failing = told.lines().rev().find_map(|line| line.split_once("failing "));
            let last: u64 = failing.map_or(from, |(_, number)| number.parse().unwrap());
            if is_swept {
                let told = told.lines().find(|line| line.starts_with("swept")).unwrap();
                println!("{name}: {last} allocations fail, {ended} end the process; {told}");
                break;
            }
            let trace = told.rsplit("failing ").next().unwrap_or_default();
            let place = place(trace).unwrap_or_else(|| panic!("{name}: {trace}"));
            println!("{name}: allocation {last} ends the process, in {place}");
            places.insert(place);
            from = last + 1;
            ended += 1;
            assert!(ended < 100, "{places:#?}");
        }
    }
    assert_eq!(places, BTreeSet::new());
}
