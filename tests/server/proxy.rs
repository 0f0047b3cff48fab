//! The proxy as its users see it: the real program between real sockets.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{
    Client, PATIENCE, Scratch, Server, pattern, quiet_port, raise_descriptor_limit, send_urgent,
    until,
};
use nix::sys::socket::{Backlog, listen, setsockopt, sockopt};

/// A server of the test's own, and the proxy in front of it.
struct Front {
    server: TcpListener,
    proxy: Server,
}

impl Front {
    fn new(options: &[&str]) -> Front {
        Front::of(TcpListener::bind("127.0.0.1:0").unwrap(), options)
    }

    fn of(server: TcpListener, options: &[&str]) -> Front {
        let address = server.local_addr().unwrap().to_string();
        Front { proxy: Server::start(&[options, &["proxy", &address]].concat()), server }
    }

    /// A client, and what the server sees of it.
    fn tunnel(&self) -> (Client, TcpStream) {
        let client = self.proxy.client();
        let server = self.server.accept().unwrap().0;
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        server.set_write_timeout(Some(PATIENCE)).unwrap();
        (client, server)
    }
}

/// The proxy in front of the echo server.
fn front_of_echo(options: &[&str]) -> (Server, Server) {
    let echo = Server::start(&["echo", "--max-connections", "2000"]);
    let proxy = Server::start(&[options, &["proxy", &echo.addresses[0]]].concat());
    (echo, proxy)
}

fn expect(server: &mut TcpStream, bytes: &[u8]) {
    let mut got = vec![0; bytes.len()];
    server.read_exact(&mut got).unwrap();
    assert_eq!(got, bytes);
}

fn expect_end(server: &mut TcpStream) {
    assert_eq!(server.read(&mut [0]).unwrap(), 0);
}

fn expect_reset(server: &mut TcpStream) {
    let end = server.read(&mut [0]).map_err(|error| error.kind());
    assert_eq!(end, Err(ErrorKind::ConnectionReset));
}

fn reset(stream: TcpStream) {
    let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(&stream, sockopt::Linger, &linger).unwrap();
}

/// The log says this, once.
#[track_caller]
fn said_once(server: &Server, words: &str) {
    until("a line in the log", || server.logs().contains(words));
    assert_eq!(server.logs().matches(words).count(), 1, "{}", server.logs());
}

#[test] // both directions at once, a byte as well as many
fn a_dialogue() {
    let front = Front::new(&[]);
    let (mut client, mut server) = front.tunnel();
    client.send("hello");
    expect(&mut server, b"hello");
    server.write_all(b"good day").unwrap();
    client.expect("good day");
    let (mut other, mut others) = front.tunnel();
    others.write_all(b"first words").unwrap();
    other.expect("first words");
    other.send("x");
    expect(&mut others, b"x");
    client.send("still here");
    expect(&mut server, b"still here");
}

#[test] // bytes that are urgent go through as all others do; that they were urgent does not
fn urgent_bytes() {
    let front = Front::new(&[]);
    let (mut client, mut server) = front.tunnel();
    client.send("one");
    client.send_urgent("two!");
    client.send("three");
    expect(&mut server, b"onetwo!three");
    server.write_all(b"a").unwrap();
    send_urgent(&server, b"b");
    server.write_all(b"c").unwrap();
    client.expect("abc");
}

#[test] // FIN goes through behind the last byte, and the other direction goes on
fn half_closes_in_both_orders() {
    let front = Front::new(&[]);
    let before = front.proxy.descriptors();
    let (mut client, mut server) = front.tunnel();
    client.send("question");
    client.finish();
    expect(&mut server, b"question");
    expect_end(&mut server);
    server.write_all(b"a late answer").unwrap();
    client.expect("a late answer");
    drop(server);
    client.expect_end();

    let (mut client, mut server) = front.tunnel();
    server.write_all(b"all I have").unwrap();
    server.shutdown(Shutdown::Write).unwrap();
    client.expect_rest("all I have");
    client.send("thanks");
    expect(&mut server, b"thanks");
    client.finish();
    expect_end(&mut server);
    until("all descriptors to be closed", || front.proxy.descriptors() == before);
}

#[test] // a reset at one side is one at the other, not an end that looks orderly
fn resets_go_through() {
    let front = Front::new(&[]);
    let before = front.proxy.descriptors();
    let (mut client, mut server) = front.tunnel();
    client.send("x");
    expect(&mut server, b"x");
    client.reset();
    expect_reset(&mut server);

    let (mut client, mut server) = front.tunnel();
    client.send("x");
    expect(&mut server, b"x");
    reset(server);
    assert!(client.until_reset().is_empty());
    until("all descriptors to be closed", || front.proxy.descriptors() == before);
}

#[test] // nobody listens: a reset for each client, a line in the log for all of them
fn a_server_that_refuses() {
    let address = SocketAddr::from(([127, 0, 0, 1], quiet_port()));
    let front = Front::of(TcpListener::bind(address).unwrap(), &[]);
    let (mut client, mut server) = front.tunnel();
    drop(front.server);
    for _ in 0..3 {
        assert!(front.proxy.client().until_reset().is_empty());
    }
    let line = format!("connect {address}: ECONNREFUSED (Connection refused); clients are reset");
    said_once(&front.proxy, &line);
    // Who is in stays in.
    client.send("x");
    expect(&mut server, b"x");
    // And as soon as somebody listens again, all is well.
    let again = TcpListener::bind(address).unwrap();
    let mut client = front.proxy.client();
    client.send("y");
    expect(&mut again.accept().unwrap().0, b"y");
}

#[test] // a server that does not answer is waited for as long as --connect-timeout says
fn a_server_that_does_not_answer() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    // A queue of one that is full: the next SYN is dropped.
    listen(&server, Backlog::new(0).unwrap()).unwrap();
    let _queued = TcpStream::connect(address).unwrap();
    let limit = Duration::from_millis(300);
    let proxy = Server::start(&["--connect-timeout", "0.3", "proxy", &address.to_string()]);
    let started = Instant::now();
    assert!(proxy.client().until_reset().is_empty());
    assert!(started.elapsed() >= limit);
    said_once(&proxy, "ETIMEDOUT (Connection timed out); clients are reset");
}

/// Sends `length` bytes of the pattern.
fn pour(mut stream: impl Write, pattern: &[u8], length: usize) {
    let mut sent = 0;
    while sent < length {
        let from = sent % pattern.len();
        let most = (pattern.len() - from).min(length - sent);
        stream.write_all(&pattern[from..from + most]).unwrap();
        sent += most;
    }
}

/// Reads to the end, which must come after `length` bytes of the pattern.
fn drink(mut stream: impl Read, pattern: &[u8], length: usize) {
    let (mut heard, mut buffer) = (0, vec![0; 256 << 10]);
    loop {
        let count = stream.read(&mut buffer).unwrap();
        if count == 0 {
            break;
        }
        let mut piece = &buffer[..count];
        while !piece.is_empty() {
            let from = heard % pattern.len();
            let (now, later) = piece.split_at(piece.len().min(pattern.len() - from));
            assert!(pattern[from..].starts_with(now), "wrong bytes behind {heard}");
            (piece, heard) = (later, heard + now.len());
        }
    }
    assert_eq!(heard, length);
}

#[test] // who does not read holds up the one who sends, and memory stays bounded
fn a_slow_reader() {
    const LENGTH: usize = 64 << 20;
    let front = Front::new(&[]);
    let (client, mut server) = front.tunnel();
    let bytes = pattern(1_048_573);
    let before = front.proxy.anonymous_bytes();
    let sending = {
        let (bytes, server) = (bytes.clone(), server.try_clone().unwrap());
        thread::spawn(move || {
            pour(&server, &bytes, LENGTH);
            server.shutdown(Shutdown::Write).unwrap();
        })
    };
    front.proxy.settle();
    assert!(!sending.is_finished());
    let grown = front.proxy.anonymous_bytes().saturating_sub(before);
    assert!(grown < 4 << 20, "{grown} bytes of memory");
    // The client has ended too, which is no reason to drop what waits.
    let stream = client.into_stream();
    stream.shutdown(Shutdown::Write).unwrap();
    expect_end(&mut server);
    drink(&stream, &bytes, LENGTH);
    sending.join().unwrap();
}

/// Sends much through an echo, and gets it back.
fn there_and_back(length: usize) {
    let (_echo, proxy) = front_of_echo(&[]);
    let stream = proxy.client().into_stream();
    let bytes = pattern(1_048_573);
    let sending = {
        let (bytes, stream) = (bytes.clone(), stream.try_clone().unwrap());
        thread::spawn(move || {
            pour(&stream, &bytes, length);
            stream.shutdown(Shutdown::Write).unwrap();
        })
    };
    drink(&stream, &bytes, length);
    sending.join().unwrap();
}

#[test] // 64 MiB in both directions at once
fn many_bytes() {
    there_and_back(64 << 20);
}

#[test]
#[ignore = "1 GiB in both directions, 2 s to 20 s; `make check` runs it"]
fn very_many_bytes() {
    there_and_back(1 << 30);
}

#[test] // a thousand tunnels at once, each with words of its own
fn a_thousand_tunnels() {
    raise_descriptor_limit();
    let (_echo, proxy) = front_of_echo(&[]);
    let before = proxy.descriptors();
    let mut clients = proxy.clients(1_000);
    for round in 0..3 {
        for (number, client) in clients.iter_mut().enumerate() {
            client.send(format!("{round} {number}\n"));
        }
        for (number, client) in clients.iter_mut().enumerate() {
            client.expect(format!("{round} {number}\n"));
        }
    }
    proxy.settle();
    assert_eq!(proxy.descriptors(), before + 2_000);
    drop(clients);
    until("all descriptors to be closed", || proxy.descriptors() == before);
}

#[test] // Unix sockets in front and behind; who says something and goes is heard
fn unix_sockets() {
    let scratch = Scratch::new();
    let server = UnixListener::bind(scratch.path("back")).unwrap();
    let (front, back) = (scratch.unix("front"), scratch.unix("back"));
    let proxy = Server::start(&["-l", &front, "proxy", &back]);
    let mut client = proxy.client();
    client.send("log this");
    drop(client);
    let mut heard = String::new();
    let mut accepted = server.accept().unwrap().0;
    accepted.set_read_timeout(Some(PATIENCE)).unwrap();
    accepted.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "log this");
    // And the other way round, while the client does not read yet.
    let mut client = proxy.client();
    let accepted = server.accept().unwrap().0;
    let bytes = pattern(1 << 20);
    let sending = {
        let bytes = bytes.clone();
        thread::spawn(move || { &accepted }.write_all(&bytes).unwrap())
    };
    proxy.settle();
    client.expect_rest(&bytes);
    sending.join().unwrap();
}

#[test] // silence ends both sides, in order
fn idle_tunnels() {
    let front = Front::new(&["--idle-timeout", "0.3"]);
    let (mut client, mut server) = front.tunnel();
    client.expect_end();
    expect_end(&mut server);
}

#[test] // a stop: what was said is delivered, quiet servers are told, and may still answer
fn a_stop() {
    let mut front = Front::new(&[]);
    let (mut client, mut server) = front.tunnel();
    client.send("last question");
    front.proxy.signal(crate::support::Signal::SIGTERM);
    expect(&mut server, b"last question");
    expect_end(&mut server);
    server.write_all(b"last answer").unwrap();
    drop(server);
    client.expect_rest("last answer");
    drop(client);
    assert_eq!(front.proxy.wait(), Some(0));
}

#[test] // a stop waits for a transfer under way, whole
fn a_stop_in_the_middle() {
    let mut front = Front::new(&[]);
    let (client, mut server) = front.tunnel();
    let bytes = pattern(1_048_573);
    server.write_all(b"first").unwrap();
    let stream = client.into_stream();
    expect(&mut stream.try_clone().unwrap(), b"first");
    let pouring = {
        let bytes = bytes.clone();
        thread::spawn(move || {
            for piece in 0..15 {
                pour(&server, &bytes, 1_048_573);
                thread::sleep(Duration::from_millis(if piece == 0 { 0 } else { 100 }));
            }
        })
    };
    front.proxy.signal(crate::support::Signal::SIGTERM);
    drink(&stream, &bytes, 15 * 1_048_573);
    pouring.join().unwrap();
    drop(stream);
    assert_eq!(front.proxy.wait(), Some(0));
}

#[test] // who does not end is cut with a reset at the deadline, and a tunnel counts once
fn a_stop_that_is_not_heard() {
    let mut front = Front::new(&["--drain-timeout", "3"]);
    let (mut client, mut server) = front.tunnel();
    server.write_all(b"half an an").unwrap();
    client.expect("half an an");
    assert_eq!(front.proxy.stop(), Some(1));
    assert!(client.until_reset().is_empty());
    expect_end(&mut server); // it was told before
    said_once(&front.proxy, "cut 1 connection at the drain deadline (3 s)");
}

#[test] // too few descriptors for all the connections asked for: fewer, half of them begun
fn too_few_descriptors() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap().to_string();
    let proxy = Server::start_after("ulimit -n 64", &["proxy", &address]);
    said_once(
        &proxy,
        "max-connections lowered from 10000 to 20, max-outbound lowered from 10000 to 20: RLIMIT_NOFILE is 64",
    );
    let clients = proxy.clients(25); // five of them wait
    let mut servers: Vec<_> = (0..20).map(|_| server.accept().unwrap().0).collect();
    proxy.settle();
    drop(clients);
    servers.iter_mut().for_each(expect_end);
    drop(servers);
    for _ in 0..5 {
        expect_end(&mut server.accept().unwrap().0);
    }
    assert!(!proxy.logs().contains("EMFILE"), "{}", proxy.logs());
}
