//! No memory at all: each allocation of a running server fails, once, or with all that follow. What
//! ends are connections, with their reason, and the clients behind them are served as before.
//!
//! Where the standard library can only end the process, it must do so in one of the places that
//! the chapter names. So the sweeps run in a process of their own, which is begun again behind the
//! allocation that ended it.

use crate::allocator::{Counting, FAILED, FAILS, LASTS, NEVER, TRACED};
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
use threadbare::address::Place;
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
            MARKS.as_bytes(),
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

/// Names with marks: five in a row, and two letters that have two each, were sorted in memory that
/// the library of `chat` asked for.
const MARKS: &str = "/name \u{628}\u{64b}\u{64c}\u{64d}\u{64e}\u{64f}\n/name \u{1ebf}\u{1ebf}\n\
                     /name \u{1f82}\u{1f82}\n/name nguy\u{1ec5}n\n/name \u{130}\u{130}\n";

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
        let is_reset = client.write_all(words).is_err(); // then `read` does not report it
        ask(server, || 0);
        (client, is_reset)
    };
    let clients: Vec<(TcpStream, bool)> = dialogue.iter().map(begin).collect();
    for _ in 0..3 {
        ask(server, || 0); // its thread has done what it can do
    }
    let mut answers = Vec::new();
    for ((mut client, is_reset), words) in clients.into_iter().zip(dialogue) {
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
        answers.push(lines.join("\n") + if is_reset || heard.is_err() { "\n(reset)" } else { "" });
    }
    answers
}

/// What a sweep is to do.
#[derive(Clone, Copy)]
struct Task<'a> {
    name: &'a str,
    /// The allocation to begin with.
    from: u64,
    /// All allocations behind the one that fails do so too, until the clients have gone.
    lasts: bool,
}

/// Fails each allocation from this one on. Prints which is next.
fn sweep<H>(server: Builder<H>, dialogue: Dialogue, Task { name, from, lasts }: Task<'_>)
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
        let fail = move || {
            FAILED.set(0);
            LASTS.set(lasts);
            FAILS.set(count);
        };
        server.handle().call(move |_, _| fail()).unwrap();
        let answers = talk(&server, dialogue);
        let failed = || {
            FAILS.set(NEVER);
            FAILED.get()
        };
        let is_last = ask(&server, failed) == 0;
        let differ = answers.iter().zip(&usual).filter(|(now, usual)| now != usual);
        let differ: Vec<_> = differ.collect();
        // In a room all hear of it.
        assert!(lasts || differ.len() <= 1 || matches!(name, "chat" | "all"), "{differ:#?}");
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
    let [name, from, lasts] = task.split(':').collect::<Vec<_>>()[..] else { panic!("{task}") };
    let (_, dialogue) = SERVERS.iter().find(|(known, _)| *known == name).unwrap();
    let task = Task { name, from: from.parse().unwrap(), lasts: lasts.parse().unwrap() };
    TRACED.store(!task.lasts, Ordering::Relaxed); // a trace takes long
    let limits = Limits { max_outbound: 100, max_per_address: 100, ..Limits::default() };
    let proxy = |to: Address| Proxy::new(to, Duration::from_secs(9)).send_proxy(true);
    match name {
        "greet" => {
            let greet = Greet::new(Framing::Line, 1 << 16);
            sweep(Server::builder(greet).limits(limits), dialogue, task);
        }
        "chat" => sweep(Server::builder(Chat::new(1 << 16)).limits(limits), dialogue, task),
        "http" => sweep(Server::builder(Http::new()).limits(limits), dialogue, task),
        "http DIR" => {
            let scratch = Scratch::new();
            fs::write(scratch.path("small.html"), "small").unwrap();
            fs::write(scratch.path("large"), vec![b'x'; 2 << 20]).unwrap();
            fs::create_dir(scratch.path("folder")).unwrap();
            let http = Http::new().serve(scratch.path("")).access_log(|_| {});
            sweep(Server::builder(http).limits(limits), dialogue, task);
        }
        "proxy" => {
            let behind = Server::builder(Echo).bind("127.0.0.1:0").unwrap().spawn().unwrap();
            let proxy = proxy(behind.addresses()[0].clone());
            sweep(Server::builder(proxy).limits(limits), dialogue, task);
        }
        "proxy to nobody" => {
            let nobody = Address::Tcp("127.0.0.1:1".parse().unwrap());
            sweep(Server::builder(proxy(nobody)).limits(limits), dialogue, task);
        }
        _ => {
            let all = Server::builder(All).limits(limits).workers(1, 100, || ());
            sweep(all, dialogue, task);
        }
    }
}

// ---- and what becomes of it ------------------------------------------------------------

/// Runs [`a_sweep`]; whether it ended by itself, and what it printed.
fn run(Task { name, from, lasts }: Task<'_>) -> (bool, String) {
    let mut child = Command::new(env::current_exe().unwrap());
    child.args(["--exact", "no_memory::a_sweep", "--ignored", "--nocapture"]);
    child.env("SWEEP", format!("{name}:{from}:{lasts}")).env("RUST_BACKTRACE", "0");
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
            let (is_swept, told) = run(Task { name, from, lasts: false });
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

/// An allocation that fails is seldom the only one: no more were looked at, and the line of the log
/// about a client that was cut for want of memory took some.
#[test]
fn all_allocations_fail_from_one_on() {
    for (name, _) in SERVERS {
        let (is_swept, told) = run(Task { name, from: 0, lasts: true });
        let behind = told.rsplit("failing ").next().unwrap_or_default();
        assert!(is_swept, "{name}, failing {behind}");
        println!("{name}: {}", told.lines().find(|line| line.starts_with("swept")).unwrap());
    }
}

// ---- on other threads, and from them ---------------------------------------------------

/// Which allocation of the worker's thread fails next, behind a job; and which had not yet, before.
static OF_WORKER: AtomicU64 = AtomicU64::new(NEVER);
static LEFT: AtomicU64 = AtomicU64::new(NEVER);

/// Lets a worker work without memory.
struct Works;

impl ConnectionHandler for Works {
    type Session = ();

    fn on_data(&mut self, conn: &mut Conn<'_>, (): &mut (), input: &[u8]) -> usize {
        let is_taken = conn.work(|(): &mut (), _| {
            LEFT.store(FAILS.replace(OF_WORKER.swap(NEVER, Ordering::Relaxed)), Ordering::Relaxed);
            5_usize // has a size, and so takes memory
        });
        assert!(is_taken);
        input.len()
    }

    fn on_result(&mut self, conn: &mut Conn<'_>, (): &mut (), _: Box<dyn std::any::Any + Send>) {
        conn.write(b"done\n");
    }
}

/// A worker that had no memory for its result, or for the way to the loop, ended the process.
#[test]
fn each_allocation_of_a_worker_fails_once() {
    let server = Server::builder(Works).workers(1, 100, || ()).bind("127.0.0.1:0").unwrap();
    let server = server.spawn().unwrap();
    let Address::Tcp(address) = server.addresses()[0] else { panic!("a TCP listener") };
    let work = |fails: u64| {
        OF_WORKER.store(fails, Ordering::Relaxed);
        let mut client = TcpStream::connect(address).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        client.write_all(b"x").unwrap();
        let mut answer = [0; 5];
        client.read_exact(&mut answer).is_ok_and(|()| answer == *b"done\n")
    };
    let mut lost = 0;
    // The first result to come finds the mailbox without memory, and the worker waits for that.
    for fails in [2, 1, 0, 2, 1, 0] {
        lost += u64::from(!work(fails));
        assert!(work(NEVER), "behind allocation {fails}");
    }
    assert!(lost > 0, "no allocation failed: {}", LEFT.load(Ordering::Relaxed));
    server.handle().stop();
    let counters = server.join().unwrap().counters;
    let cut = counters.closed_for(CloseReason::MemoryBudget);
    assert_eq!((cut, counters.bugs), (lost, 0), "{counters}");
}

/// What a lookup has found is taken over without memory.
#[test]
fn what_a_lookup_finds_takes_no_memory() {
    let name: Place = "nobody.invalid:1".parse().unwrap();
    let limits = Limits { max_outbound: 9, ..Limits::default() };
    let proxy = Server::builder(Proxy::new(name, Duration::from_secs(9))).limits(limits);
    let server = proxy.bind("127.0.0.1:0").unwrap().spawn().unwrap();
    let found = |port: u16| Ok(vec![Address::Tcp(([127, 0, 0, 1], port).into()); 2]);
    for (round, found) in [found(1), found(2), Ok(Vec::new()), found(2)].into_iter().enumerate() {
        server.handle().call(|_, _| FAILS.set(0)).unwrap();
        server.handle().call(move |proxy, net| proxy.looked_up(net, found)).unwrap();
        let has_failed = ask(&server, || FAILS.replace(NEVER)) == NEVER;
        println!("round {round}: {has_failed}");
    }
    server.handle().stop();
    assert_eq!(server.join().unwrap().counters.bugs, 0);
}
