//! The library as its users see it: start, stop, join, calls from other threads, and
//! what a message costs.
#![allow(unsafe_code)] // the counting allocator
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;
use threadbare::handlers::{Chat, Echo, Framing, Greet};
use threadbare::{
    Address, CallError, CloseReason, Conn, ConnId, ConnectionHandler, Limits, Net, Running, Server,
};
#[cfg(feature = "http")]
use threadbare::{handlers::Http, kernel::Linux};

/// The system's allocator, counting.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every method hands its arguments to the system's allocator and returns what that
// returns; counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Tests that count allocations, or would be counted, take turns.
static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());

fn take_turn() -> std::sync::MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn connect<H>(server: &Running<H>) -> TcpStream {
    let Address::Tcp(address) = server.addresses()[0] else { panic!("a TCP listener") };
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

fn ask(client: &mut TcpStream, line: &[u8], answer: &mut [u8]) {
    client.write_all(line).unwrap();
    client.read_exact(answer).unwrap();
}

/// Reads until these bytes have come.
fn read_to(client: &mut TcpStream, end: &[u8]) {
    let (mut seen, mut byte) = (Vec::new(), [0]);
    while !seen.ends_with(end) {
        client.read_exact(&mut byte).unwrap();
        seen.extend(byte);
    }
}

fn spawn<H: ConnectionHandler<Session: Send> + Send + 'static>(handler: H) -> Running<H> {
    Server::builder(handler).bind("127.0.0.1:0").unwrap().spawn().unwrap()
}

/// Messages on 64 connections, and not one allocation in the whole process.
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
    let _turn = take_turn();
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
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    rounds(count);
    assert_eq!(ALLOCATIONS.load(Ordering::Relaxed) - before, 0);
    println!("{} messages without an allocation", 64 * count);
    assert_eq!(&answer, b"Thank you for your message hello.\n");
    server.handle().stop();
    server.join().unwrap();
}

/// Lines from one member of a chat to 63 others, and not one allocation either.
#[test]
fn a_broadcast_allocates_nothing() {
    let _turn = take_turn();
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
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    rounds(500);
    assert_eq!(ALLOCATIONS.load(Ordering::Relaxed) - before, 0);
    assert_eq!(&heard, b"guest1: hello.\n");
    server.handle().stop();
    server.join().unwrap();
}

/// 32,000 requests on 64 connections, and no allocation but for the date, once a second.
#[cfg(feature = "http")]
#[test]
fn a_plain_request_allocates_nothing() {
    let _turn = take_turn();
    let server = spawn(Http::new(Linux));
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
    let (before, begun) = (ALLOCATIONS.load(Ordering::Relaxed), std::time::Instant::now());
    rounds(500);
    let (made, dates) =
        (ALLOCATIONS.load(Ordering::Relaxed) - before, begun.elapsed().as_secs() + 2);
    assert!(made <= 5 * dates, "{made} allocations in {dates} s");
    server.handle().stop();
    server.join().unwrap();
}

/// Calls from many threads all arrive, in order for each thread, however they coalesce;
/// what does not fit is refused, and after the end nothing is taken.
#[test]
fn calls_from_many_threads() {
    struct Count(Vec<u32>);
    impl ConnectionHandler for Count {
        type Session = ();
        fn on_data(&mut self, _: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
            input.len()
        }
    }
    let _turn = take_turn();
    let server = spawn(Count(vec![0; 8]));
    let handle = server.handle();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let handle = handle.clone();
            scope.spawn(move || {
                for number in 0..20_000 {
                    let job = move |count: &mut Count, _: &mut Net| {
                        assert_eq!(count.0[thread], number);
                        count.0[thread] += 1;
                    };
                    while handle.call(job) == Err(CallError::Full) {
                        std::thread::yield_now();
                    }
                }
            });
        }
    });
    let (tell, told) = mpsc::channel();
    handle.call(move |count, _| tell.send(count.0.clone()).unwrap()).unwrap();
    assert_eq!(told.recv().unwrap(), [20_000; 8]);
    handle.stop();
    server.join().unwrap();
    assert_eq!(handle.call(|_, _| {}), Err(CallError::Stopped));
    handle.stop();
}

/// Stopped from another thread under load, again and again: each request is answered
/// whole or not at all, and nobody is reset.
#[test]
fn stop_under_load() {
    let _turn = take_turn();
    for round in 0..20 {
        let server = spawn(Greet::new(Framing::Line, 1 << 16));
        let clients: Vec<TcpStream> = (0..8).map(|_| connect(&server)).collect();
        let handle = server.handle();
        std::thread::scope(|scope| {
            for mut client in clients {
                scope.spawn(move || {
                    let mut answer = Vec::new();
                    let mut buffer = [0; 4096];
                    while client.write_all(b"hello.\n").is_ok() {
                        let n = client.read(&mut buffer).expect("a clean end");
                        answer.extend_from_slice(&buffer[..n]);
                        if n == 0 {
                            break;
                        }
                    }
                    assert_eq!(answer.len() % 34, 0);
                });
            }
            std::thread::sleep(Duration::from_millis(round));
            handle.stop();
        });
        let summary = server.join().unwrap();
        assert_eq!((summary.cut, summary.counters.accepted), (0, 8));
        assert_eq!(summary.counters.closed.iter().sum::<u64>(), 8);
    }
}

/// A handler's panic comes out of `join`, and the descriptors are given back.
#[test]
fn a_panic_comes_out_of_join() {
    struct Panics;
    impl ConnectionHandler for Panics {
        type Session = ();
        fn on_data(&mut self, _: &mut Conn<'_>, _: &mut (), _: &[u8]) -> usize {
            panic!("as the test wants it")
        }
    }
    let _turn = take_turn();
    let server = spawn(Panics);
    let mut client = connect(&server);
    client.write_all(b"boo").unwrap();
    let joined = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| server.join()));
    let panic = joined.expect_err("the panic");
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"as the test wants it"));
    // Reset or ended, but not left hanging.
    assert!(matches!(client.read(&mut [0; 8]), Ok(0) | Err(_)));
}

/// A server that never runs gives back what it opened, and its port.
#[test]
fn a_server_that_never_runs() {
    let _turn = take_turn();
    let server = Server::builder(Echo).bind("127.0.0.1:0").unwrap();
    let address = server.addresses()[0].clone();
    drop(server);
    let again = Server::builder(Echo).bind(address).unwrap();
    assert_eq!(again.warnings(), [""; 0]);
}

/// Who writes to others: each line to all, in the order in which they came.
#[test]
fn writing_to_other_connections() {
    #[derive(Default)]
    struct Hub(Vec<ConnId>);
    impl ConnectionHandler for Hub {
        type Session = ();
        fn on_open(&mut self, conn: &mut Conn<'_>, _: &mut ()) {
            self.0.push(conn.id());
        }
        fn on_data(&mut self, conn: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
            for &id in &self.0 {
                assert!(conn.net().send(id, input));
            }
            input.len()
        }
        fn on_close(&mut self, net: &mut Net, id: ConnId, _: (), why: CloseReason) {
            self.0.retain(|&other| other != id);
            assert!(!net.send(id, b"too late"));
            self.0.iter().for_each(|&other| assert!(net.send(other, b"bye\n")));
            assert_eq!(why, CloseReason::PeerClosed);
        }
    }
    let _turn = take_turn();
    let server = spawn(Hub::default());
    let (mut a, mut b) = (connect(&server), connect(&server));
    let mut answer = [0; 4];
    ask(&mut a, b"one\n", &mut answer);
    ask(&mut b, b"two\n", &mut answer);
    while &answer != b"two\n" {
        b.read_exact(&mut answer).unwrap(); // b may have been there for "one"
    }
    a.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"two\n");
    drop(a);
    b.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"bye\n");
    drop(b);
    server.handle().stop();
    server.join().unwrap();
}

/// Limits that contradict each other are made to fit, not refused.
#[test]
fn a_high_water_above_the_cap_is_cut() {
    let limits = Limits { high_water: 1 << 30, max_output: 1 << 20, ..Limits::default() };
    let server = Server::builder(Echo).limits(limits).bind("127.0.0.1:0").unwrap();
    drop(server);
}
