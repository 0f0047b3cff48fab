//! What a message costs in allocations: none. The server's thread is counted, and no other.

use crate::allocator::{Counting, FAILS, HELD, MADE, NEVER, PEAK};
use crate::{connect, spawn};
use nix::sys::socket::{setsockopt, sockopt};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use threadbare::handlers::Http;
use threadbare::handlers::{Chat, Framing, Greet};
use threadbare::{Conn, ConnId, ConnectionHandler, Limits, Running, Server};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often the server's thread has allocated so far.
fn allocations<H: ConnectionHandler>(server: &Running<H>) -> u64 {
    ask(server, || MADE.get())
}

/// What the server's thread says, which it stores where it is asked to.
fn ask<H: ConnectionHandler>(server: &Running<H>, what: fn() -> u64) -> u64 {
    const UNTOLD: u64 = u64::MAX - 1;
    let told = Arc::new(AtomicU64::new(UNTOLD));
    let tell = Arc::clone(&told);
    server.handle().call(move |_, _| tell.store(what(), Ordering::Relaxed)).unwrap();
    let asked = Instant::now();
    while told.load(Ordering::Relaxed) == UNTOLD {
        assert!(asked.elapsed() < Duration::from_secs(30), "the server does not answer");
        std::thread::yield_now();
    }
    told.load(Ordering::Relaxed)
}

/// Reads until these bytes have come.
fn read_to(client: &mut TcpStream, end: &[u8]) {
    let (mut seen, mut byte) = (Vec::new(), [0]);
    while !seen.ends_with(end) {
        client.read_exact(&mut byte).unwrap();
        seen.extend(byte);
    }
}

/// Messages on 64 connections, and not one allocation on the server's thread.
#[test]
fn a_message_allocates_nothing() {
    messages_allocate_nothing(2_000);
}

/// The same with a million messages.
#[test]
#[ignore = "half a minute: `make check` runs it"]
fn a_million_messages_allocate_nothing() {
    messages_allocate_nothing(15_625);
}

fn messages_allocate_nothing(count: usize) {
    let server = spawn(Greet::new(Framing::Line, 1 << 16));
    let mut clients: Vec<TcpStream> = (0..64).map(|_| connect(&server)).collect();
    let mut answer = [0; 34];
    let mut rounds = |count: usize| {
        for _ in 0..count {
            for client in &mut clients {
                client.write_all(b"hello.\n").unwrap();
            }
            for client in &mut clients {
                client.read_exact(&mut answer).unwrap();
            }
        }
    };
    rounds(100);
    let before = allocations(&server);
    rounds(count);
    assert_eq!(allocations(&server) - before, 0);
    println!("{} messages without an allocation", 64 * count);
    assert_eq!(&answer, b"Thank you for your message hello.\n");
    server.handle().stop();
    server.join().unwrap();
}

/// Lines from one member of a chat to 63 others, and not one allocation either.
#[test]
fn a_broadcast_allocates_nothing() {
    let server = spawn(Chat::new(1 << 16));
    let mut members: Vec<TcpStream> = (0..64).map(|_| connect(&server)).collect();
    members.iter_mut().for_each(|member| read_to(member, b"/quit\n")); // all are welcome
    let [talker, others @ ..] = &mut members[..] else { panic!() };
    talker.write_all(b"begin\n").unwrap();
    others.iter_mut().for_each(|other| read_to(other, b": begin\n"));
    let mut heard = [0; 15];
    let mut rounds = |count: usize| {
        for _ in 0..count {
            talker.write_all(b"hello.\n").unwrap();
            others.iter_mut().for_each(|other| other.read_exact(&mut heard).unwrap());
        }
    };
    rounds(100);
    let before = allocations(&server);
    rounds(500);
    assert_eq!(allocations(&server) - before, 0);
    assert_eq!(&heard, b"guest1: hello.\n");
    server.handle().stop();
    server.join().unwrap();
}

/// What a name looks like is found without memory, whatever marks its letters have: a name that is
/// refused allocates nothing.
#[test]
fn to_look_at_a_name_allocates_nothing() {
    let server = spawn(Chat::new(1 << 16));
    let [mut holds, mut wants] = [connect(&server), connect(&server)];
    [&mut holds, &mut wants].into_iter().for_each(|member| read_to(member, b"/quit\n"));
    let ask = |member: &mut TcpStream, name: &str, answers: &[&str]| {
        member.write_all(format!("/name {name}\n").as_bytes()).unwrap();
        loop {
            let (mut line, mut byte) = (Vec::new(), [0]);
            while line.last() != Some(&b'\n') {
                member.read_exact(&mut byte).unwrap();
                line.extend(byte);
            }
            if answers.iter().any(|answer| line.starts_with(answer.as_bytes())) {
                return line.starts_with(b"error: that name");
            }
        }
    };
    let letters = ('\u{80}'..'\u{3000}').chain('\u{a640}'..'\u{ac00}');
    let mut taken = 0;
    for letter in letters.filter(|letter| letter.is_alphanumeric()) {
        let name = letter.to_string().repeat(3);
        ask(&mut holds, &name, &["* you are", "error"]);
        let before = allocations(&server);
        taken += usize::from(ask(&mut wants, &name, &["error"]));
        assert_eq!(allocations(&server), before, "{name}");
    }
    assert!(taken > 1_000, "only {taken} names may be had");
    server.handle().stop();
    server.join().unwrap();
}

/// The handler that everybody writes first: each line to all.
struct Naive;

impl ConnectionHandler for Naive {
    type Session = ();

    fn on_data(&mut self, conn: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
        let mut consumed = 0;
        for line in input.split_inclusive(|&byte| byte == b'\n') {
            if conn.is_full() {
                break;
            }
            let ids: Vec<ConnId> = conn.net().ids().collect();
            for id in ids {
                conn.net().send(id, line);
            }
            consumed += line.len();
        }
        consumed
    }
}

/// Lines to 200 members of whom nobody reads: what the server's thread holds at any time is
/// bounded by the budget, whatever is copied, linked or kept for each of them.
#[test]
fn a_broadcast_stays_below_the_budget() {
    const MOST: usize = 16 << 20;
    let limits = Limits { max_memory: MOST, ..Limits::default() };
    let server = Server::builder(Naive).limits(limits).bind("127.0.0.1:0").unwrap().spawn();
    let server = server.unwrap();
    let member = |_| {
        let member = connect(&server);
        setsockopt(&member, sockopt::RcvBuf, &4096).unwrap(); // the kernel keeps little for it
        member
    };
    let mut members: Vec<TcpStream> = (0..200).map(member).collect();
    ask(&server, || {
        HELD.set(0); // what the thread holds already, another has allocated
        PEAK.set(0);
        0
    });
    let talker = &mut members[0];
    talker.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
    let begun = Instant::now();
    let line = [&[b'x'; 99], &b"\n"[..]].concat();
    let peak = || ask(&server, || PEAK.get() as u64);
    while peak() < 8 << 20 {
        let _ = talker.write(&line.repeat(600)); // it is held up, and may be cut
        assert!(begun.elapsed() < Duration::from_secs(30), "so little is no test: {}", peak());
    }
    for _ in 0..20 {
        let _ = talker.write(&line.repeat(600));
    }
    let peak = peak();
    assert!(peak < MOST as u64 + (2 << 20), "{peak} bytes");
    drop(members);
    server.handle().stop();
    server.join().unwrap();
}

/// Two clients of `greet`: one sends a line in pieces, the other does not read for a while.
/// Whether both were answered in full; else the connection of one of them has ended.
fn short_of_memory(server: &Running<Greet>) -> bool {
    let (mut pieces, mut deaf) = (connect(server), connect(server));
    let all_sent = [&[b'x'; 9][..], &[b'x'; 3_000], &[b'x'; 70_000], b"\n"].iter().all(|piece| {
        let sent = pieces.write_all(piece).is_ok();
        until_quiet(server);
        sent
    });
    let (mut answer, mut answers) = (vec![0; 28 + 73_009], vec![0; 28 * 20_000]);
    let answered = all_sent && pieces.read_exact(&mut answer).is_ok();
    let sent = deaf.write_all(&[b'\n'; 20_000]).is_ok();
    until_quiet(server);
    let heard = sent && deaf.read_exact(&mut answers).is_ok();
    answered && heard
}

/// Until the server's thread has done what it can do: it makes calls only when it has.
fn until_quiet(server: &Running<Greet>) {
    for _ in 0..3 {
        allocations(server);
    }
}

/// Each allocation of a running server fails once: what ends is a connection, at most, and the
/// next client is served.
#[test]
fn each_allocation_fails_once() {
    let server = spawn(Greet::new(Framing::Line, 1 << 17));
    assert!(short_of_memory(&server)); // what is allocated once for all is there now
    let (mut ended, mut count) = (0, 0_u64);
    loop {
        server.handle().call(move |_, _| FAILS.set(count)).unwrap();
        ended += u64::from(!short_of_memory(&server));
        if ask(&server, || FAILS.replace(NEVER)) != NEVER {
            break; // it makes no more
        }
        count += 1;
        assert!(count < 10_000, "it never ends");
    }
    assert!(short_of_memory(&server));
    println!("{count} allocations failed, {ended} times a connection ended");
    assert!(count > 20 && ended > 0, "{count} allocations failed, {ended} connections ended");
    server.handle().stop();
    let summary = server.join().unwrap();
    assert_eq!(summary.counters.bugs, 0, "{summary}");
}

/// 32,000 requests on 64 connections, and no allocation but for the date, once a second.
#[test]
fn a_plain_request_allocates_nothing() {
    let server = spawn(Http::new());
    let mut clients: Vec<TcpStream> = (0..64).map(|_| connect(&server)).collect();
    let mut answer = [0; 512];
    let mut rounds = |count: usize| {
        for _ in 0..count {
            for client in &mut clients {
                client.write_all(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n").unwrap();
            }
            for client in &mut clients {
                let length = client.read(&mut answer).unwrap();
                assert!(answer[..length].ends_with(b"\r\n\r\nhello\n"));
            }
        }
    };
    rounds(100);
    let (before, begun) = (allocations(&server), Instant::now());
    rounds(500);
    let (made, dates) = (allocations(&server) - before, begun.elapsed().as_secs() + 2);
    assert!(made <= 5 * dates, "{made} allocations in {dates} s");
    server.handle().stop();
    server.join().unwrap();
}
