//! A server reached from outside of its callbacks: asked, stopped in a given time, driven by
//! another loop, and what is left of it after a panic.

use crate::{connect, spawn};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use threadbare::handlers::{CatchPanics, Echo};
use threadbare::{
    Address, CallError, CloseReason, Conn, ConnId, ConnectionHandler, Handle, Limits, Net, Server,
    TimerId,
};

const PATIENCE: Duration = Duration::from_secs(30);

/// Counts what it has heard, and panics wherever it is told to.
#[derive(Default)]
struct Moody {
    heard: usize,
    handle: Option<Handle<Moody>>,
    answer: Option<Result<(), CallError>>,
}

impl ConnectionHandler for Moody {
    type Session = Vec<u8>;

    fn on_data(&mut self, conn: &mut Conn<'_>, last: &mut Vec<u8>, input: &[u8]) -> usize {
        self.heard += input.len();
        conn.write(input);
        last.clear();
        last.extend(input);
        match input {
            b"now" => panic!("as the test wants it"),
            b"timer" => conn.set_timer(Some(Duration::ZERO)),
            b"key" => conn.set_timer_for(1, Some(Duration::ZERO)),
            b"tick" => _ = conn.net().after(Duration::ZERO, 0),
            b"ask" => self.answer = self.handle.as_ref().map(|handle| handle.ask(|_, _| ())),
            _ => {}
        }
        input.len()
    }

    fn on_eof(&mut self, conn: &mut Conn<'_>, last: &mut Vec<u8>, _: &[u8]) {
        assert_ne!(*last, b"eof");
        conn.close();
    }

    fn on_timer(&mut self, _: &mut Conn<'_>, _: &mut Vec<u8>) {
        panic!("as the test wants it")
    }

    fn on_timer_for(&mut self, _: &mut Conn<'_>, _: &mut Vec<u8>, _: u32) {
        panic!("as the test wants it")
    }

    fn on_tick(&mut self, _: &mut Net, _: TimerId, _: u64) {
        panic!("as the test wants it")
    }

    fn on_close(&mut self, _: &mut Net, _: ConnId, last: Vec<u8>, _: CloseReason) {
        assert_ne!(last, b"close");
    }

    fn on_shutdown(&mut self, _: &mut Net) {
        assert_eq!(self.heard % 1_000, 0);
    }
}

fn say(client: &mut TcpStream, words: &[u8]) -> Vec<u8> {
    client.write_all(words).unwrap();
    let mut answer = vec![0; words.len()];
    client.read_exact(&mut answer).unwrap();
    answer
}

/// An answer comes from the server's thread; within that it would be waited for in vain, and
/// says so. The counters include what is still open. At the end the handler comes back.
#[test]
fn a_running_server_is_asked() {
    let server = spawn(Moody::default());
    let mut client = connect(&server);
    assert_eq!(say(&mut client, &[b'x'; 1_000]), [b'x'; 1_000]);
    let handle = server.handle();
    assert_eq!(handle.ask(|moody, net| (moody.heard, net.ids().count())), Ok((1_000, 1)));
    let counters = handle.counters().unwrap();
    assert_eq!((counters.received, counters.sent, counters.accepted), (1_000, 1_000, 1));
    let own = handle.clone();
    handle.ask(|moody, _| moody.handle = Some(own)).unwrap();
    say(&mut client, b"ask");
    let answer = handle.ask(|moody, _| {
        moody.heard = 0;
        moody.handle = None;
        moody.answer
    });
    assert_eq!(answer, Ok(Some(Err(CallError::OwnThread))));
    drop(client);
    handle.stop();
    let (moody, ended) = server.join_handler();
    assert_eq!(ended.unwrap().counters.received, 1_003);
    assert_eq!(moody.heard, 0);
    assert_eq!(handle.ask(|moody, _| moody.heard), Err(CallError::Stopped));
}

/// Whoever waits for an answer when the server ends hears that it has.
#[test]
fn a_question_does_not_outlive_the_server() {
    let server = spawn(Moody::default());
    let handle = server.handle();
    let (begins, begun) = mpsc::channel();
    let (lets, let_go) = mpsc::channel::<()>();
    handle
        .call(move |_, net| {
            begins.send(()).unwrap();
            let_go.recv_timeout(PATIENCE).unwrap();
            net.stop();
        })
        .unwrap();
    begun.recv_timeout(PATIENCE).unwrap();
    handle.stop_now();
    let asking: Vec<_> = (0..100)
        .map(|_| {
            let handle = handle.clone();
            std::thread::spawn(move || handle.ask(|_, _| ()))
        })
        .collect();
    lets.send(()).unwrap();
    server.join().unwrap();
    for asked in asking {
        assert!(matches!(asked.join().unwrap(), Ok(()) | Err(CallError::Stopped)));
    }
}

/// Keeps its connections at a stop.
struct Holds;

impl ConnectionHandler for Holds {
    type Session = ();

    fn on_open(&mut self, conn: &mut Conn<'_>, _: &mut ()) {
        conn.hold(true);
        conn.write(b"!");
    }

    fn on_data(&mut self, _: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
        input.len()
    }
}

/// A stop takes no longer than it may: whether that is said at first, or when it has begun; and
/// the shortest time holds.
#[test]
fn a_stop_within_a_time() {
    type Stop = fn(&Handle<Holds>);
    let stops: [Stop; 4] = [
        |handle| handle.stop_within(Duration::from_millis(100)),
        |handle| handle.stop_now(),
        |handle| {
            handle.stop();
            until_stopping(handle);
            handle.stop_within(Duration::from_secs(3_600));
            handle.stop_within(Duration::from_millis(100));
        },
        |handle| {
            handle.stop_within(Duration::from_millis(100));
            handle.stop_within(Duration::from_secs(3_600));
            handle.stop();
        },
    ];
    for (at, stop) in stops.into_iter().enumerate() {
        let limits = Limits { drain_timeout: None, ..Limits::default() };
        let server = Server::builder(Holds).limits(limits).bind("127.0.0.1:0").unwrap();
        let server = server.spawn().unwrap();
        let Address::Tcp(address) = server.addresses()[0] else { panic!("TCP") };
        let mut client = TcpStream::connect(address).unwrap();
        client.read_exact(&mut [0]).unwrap();
        let begun = Instant::now();
        stop(&server.handle());
        assert_eq!(server.join().unwrap().cut, 1, "stop {at}");
        assert!(begun.elapsed() < PATIENCE);
        if at != 1 {
            assert!(begun.elapsed() >= Duration::from_millis(100), "stop {at}");
        }
        assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
}

/// Until the turn is over in which it has begun to stop.
fn until_stopping(handle: &Handle<Holds>) {
    (0..2).for_each(|_| handle.ask(|_, _| ()).unwrap());
}

/// Two servers and their clients in one thread, which waits with poll(2) for whatever comes:
/// messages, timers, calls from other threads, the stop.
#[test]
fn servers_live_in_another_loop() {
    let bind = || Server::builder(Echo).bind("127.0.0.1:0").unwrap();
    let mut servers = [bind(), bind()];
    let mut clients = servers.each_ref().map(|server| {
        let Address::Tcp(address) = server.addresses()[0] else { panic!("TCP") };
        let client = TcpStream::connect(address).unwrap();
        client.set_nonblocking(true).unwrap();
        client
    });
    let mut heard = [0, 0];
    let mut run = [true, true];
    for server in &mut servers {
        assert!(server.poll().unwrap());
        assert_eq!(server.handle().ask(|_, _| ()), Err(CallError::OwnThread)); // or for ever
    }
    let deadline = Instant::now() + PATIENCE;
    let message = [b'x'; 500_000];
    let mut sent = [0, 0];
    while run.contains(&true) {
        assert!(Instant::now() < deadline, "heard {heard:?} of {sent:?}");
        for (at, client) in clients.iter_mut().enumerate() {
            sent[at] += client.write(&message[sent[at]..]).unwrap_or(0);
            let mut buffer = [0; 65_536];
            heard[at] += client.read(&mut buffer).unwrap_or(0);
            if heard[at] == message.len() {
                heard[at] += 1;
                servers[at].handle().stop(); // it rings, and so wakes the poll
            }
        }
        let fds = servers.each_ref().map(|server| PollFd::new(server.as_fd(), PollFlags::POLLIN));
        let mut fds = fds.to_vec();
        fds.extend(clients.iter().map(|client| PollFd::new(client.as_fd(), PollFlags::POLLIN)));
        poll(&mut fds, PollTimeout::from(1_000u16)).unwrap();
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap()).collect();
        drop(fds);
        for (at, server) in servers.iter_mut().enumerate() {
            if ready[at] && run[at] {
                run[at] = server.poll().unwrap();
            }
        }
    }
    for server in &mut servers {
        let counters = server.finish().unwrap().counters;
        assert_eq!((counters.received, counters.sent), (500_000, 500_000));
    }
}

/// A panic that nobody catches closes everything, and the server says so when it is to run again.
#[test]
fn nothing_is_half_open_after_a_panic() {
    let mut server = Server::builder(Moody::default()).bind("127.0.0.1:0").unwrap();
    let Address::Tcp(address) = server.addresses()[0] else { panic!("TCP") };
    let handle = server.handle();
    let clients = std::thread::spawn(move || {
        let (mut other, mut unlucky) =
            (TcpStream::connect(address).unwrap(), TcpStream::connect(address).unwrap());
        assert_eq!(say(&mut other, b"hello"), b"hello");
        unlucky.write_all(b"now").unwrap();
        for client in [&mut other, &mut unlucky] {
            let end = client.read(&mut [0; 8]).map_err(|error| error.kind());
            assert_eq!(end, Err(ErrorKind::ConnectionReset));
        }
    });
    assert!(catch_unwind(AssertUnwindSafe(|| server.run())).is_err());
    clients.join().unwrap();
    assert_eq!((server.open(), server.handler().heard), (0, 8));
    assert_eq!(handle.ask(|_, _| ()), Err(CallError::Stopped));
    for _ in 0..2 {
        let error = server.run().unwrap_err();
        let said = "epoll_wait a server that was closed because a callback panicked: EBADF";
        assert!(error.to_string().starts_with(said), "{error}");
    }
    assert!(TcpStream::connect(address).is_err());
}

/// Caught, a panic ends the connection that it was about, in whatever callback; others, and the
/// server, go on.
#[test]
fn a_panic_that_is_caught_ends_one_connection() {
    let server = spawn(CatchPanics(Moody::default()));
    let mut other = connect(&server);
    for words in [&b"now"[..], b"timer", b"key"] {
        let mut unlucky = connect(&server);
        unlucky.write_all(words).unwrap();
        let mut rest = Vec::new();
        let end = unlucky.read_to_end(&mut rest).map_err(|error| error.kind());
        assert_eq!(end, Err(ErrorKind::ConnectionReset), "{}", words.escape_ascii());
        assert_eq!(say(&mut other, b"hello"), b"hello");
    }
    let mut ends = connect(&server);
    say(&mut ends, b"eof");
    ends.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(ends.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    say(&mut other, b"tick");
    let mut closes = connect(&server);
    say(&mut closes, b"close");
    drop(closes);
    let handle = server.handle();
    let deadline = Instant::now() + PATIENCE;
    while handle.counters().unwrap().bugs < 6 {
        assert!(Instant::now() < deadline, "{} bugs", handle.counters().unwrap().bugs);
    }
    assert_eq!(say(&mut other, b"hello"), b"hello");
    drop(other);
    handle.ask(|moody, _| moody.heard = 1).unwrap(); // its `on_shutdown` will not like that
    handle.stop();
    let summary = server.join().unwrap();
    assert_eq!((summary.counters.bugs, summary.counters.closed_for(CloseReason::Handler)), (7, 4));
}
