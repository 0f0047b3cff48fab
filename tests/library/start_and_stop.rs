//! Start, stop, join, and calls from other threads.

use crate::{connect, spawn};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::mpsc;
use std::time::Duration;
use threadbare::handlers::{Echo, Framing, Greet};
use threadbare::{
    Address, CallError, CloseReason, Conn, ConnId, ConnectionHandler, Limits, Net, Server,
};

fn ask(client: &mut TcpStream, line: &[u8], answer: &mut [u8]) {
    client.write_all(line).unwrap();
    client.read_exact(answer).unwrap();
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
    let server = Server::builder(Echo).bind("127.0.0.1:0").unwrap();
    let address = server.addresses()[0].clone();
    drop(server);
    let again = Server::builder(Echo).bind(address).unwrap();
    assert_eq!(again.warnings(), [""; 0]);
}

/// A file that is opened elsewhere, as by std, can be handed over like any other.
#[test]
fn a_file_of_the_standard_library() {
    struct Manifest;
    impl ConnectionHandler for Manifest {
        type Session = ();
        fn on_data(&mut self, conn: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
            let file = std::fs::File::open("Cargo.toml").unwrap();
            let length = file.metadata().unwrap().len();
            conn.write_file(file, 0, length);
            conn.close();
            input.len()
        }
    }
    let server = spawn(Manifest);
    let mut client = connect(&server);
    client.write_all(b"?").unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).unwrap();
    assert!(answer == std::fs::read("Cargo.toml").unwrap());
    server.handle().stop();
    server.join().unwrap();
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

/// A socket that the program has opened is served, beside others, and is left to whoever has
/// it too.
#[test]
fn a_listener_of_ones_own() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let kept = listener.try_clone().unwrap();
    let address = kept.local_addr().unwrap();
    let mut answer = [0; 5];
    let server = Server::builder(Echo).listener(listener).open().unwrap().spawn().unwrap();
    assert_eq!(server.addresses(), [Address::Tcp(address)]);
    ask(&mut TcpStream::connect(address).unwrap(), b"hello", &mut answer);
    server.handle().stop();
    server.join().unwrap();
    let mut waits = TcpStream::connect(address).unwrap();
    waits.write_all(b"hello").unwrap();
    let server = Server::builder(Echo).listener(kept).bind("127.0.0.1:0").unwrap();
    assert_eq!(server.addresses().len(), 2);
    let server = server.spawn().unwrap();
    waits.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"hello");
    server.handle().stop();
    server.join().unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let error = Server::builder(Echo).listener(socket).open().unwrap_err();
    assert!(error.to_string().ends_with(" does not listen"), "{error}");
}
