//! What a message costs in allocations: none. The server's thread is counted, and no other.

#![allow(unsafe_code)] // the counting allocator

use crate::{connect, spawn};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use threadbare::Running;
#[cfg(feature = "http")]
use threadbare::handlers::Http;
use threadbare::handlers::{Chat, Framing, Greet};

/// The system's allocator, counting what each thread asks of it.
struct Counting;

thread_local! {
    /// How often this thread has allocated. (Without a destructor it needs no memory itself.)
    static MADE: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every method hands its arguments to the system's allocator and returns what that
// returns; counting does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        MADE.set(MADE.get() + 1);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        MADE.set(MADE.get() + 1);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often the server's thread has allocated so far, which it stores where it is asked to.
fn allocations<H>(server: &Running<H>) -> u64 {
    const UNTOLD: u64 = u64::MAX;
    let told = Arc::new(AtomicU64::new(UNTOLD));
    let tell = Arc::clone(&told);
    server.handle().call(move |_, _| tell.store(MADE.get(), Ordering::Relaxed)).unwrap();
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

/// 32,000 requests on 64 connections, and no allocation but for the date, once a second.
#[cfg(feature = "http")]
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
