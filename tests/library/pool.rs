//! The workers: order, back-pressure, panics, clients that leave, stops. The tests
//! hold the jobs by a gate, so that nothing depends on how long anything takes.

use std::any::Any;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use threadbare::{
    Address, CallError, CloseReason, Conn, ConnectionHandler, Handle, Presence, Running, Server,
    Summary,
};

const PATIENCE: Duration = Duration::from_secs(30);

/// Each byte is a request: its work waits at the gate until the test lets it through, and
/// the answer is the byte and how many works were under way. `!` panics. `#` is answered with
/// how many jobs the worker's state has seen. A client that hangs up in a job for `-` is let go.
struct Slow {
    gate: Arc<Mutex<Receiver<()>>>,
    begun: Sender<(u8, Presence)>,
    under_way: Arc<AtomicUsize>,
    taken: usize,
    answered: usize,
    latest: u8,
    hung_up: Vec<u8>,
}

impl ConnectionHandler for Slow {
    type Session = ();

    fn on_data(&mut self, conn: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
        let byte = input[0];
        let (gate, begun) = (Arc::clone(&self.gate), self.begun.clone());
        let under_way = Arc::clone(&self.under_way);
        let taken = conn.work(move |seen: &mut u8, presence| {
            *seen += 1;
            if byte == b'#' {
                return [byte, b'0' + *seen];
            }
            let count = under_way.fetch_add(1, Ordering::SeqCst) + 1;
            begun.send((byte, presence.clone())).unwrap();
            let passed = gate.lock().unwrap().recv_timeout(PATIENCE);
            under_way.fetch_sub(1, Ordering::SeqCst);
            passed.expect("let through");
            assert_ne!(byte, b'!', "as the test wants it");
            [byte, b'0' + count as u8]
        });
        if !taken {
            conn.write(b"busy");
        }
        self.taken += usize::from(taken);
        self.latest = byte;
        1
    }

    fn on_result(&mut self, conn: &mut Conn<'_>, _: &mut (), result: Box<dyn Any + Send>) {
        self.answered += 1;
        conn.write(&*result.downcast::<[u8; 2]>().unwrap());
    }

    fn on_hangup(&mut self, conn: &mut Conn<'_>, _: &mut ()) {
        self.hung_up.push(self.latest);
        if self.latest == b'-' {
            conn.close();
        }
    }
}

/// A server, and the gate.
struct World {
    server: Running<Slow>,
    gate: Sender<()>,
    begun: Receiver<(u8, Presence)>,
    /// Held by the handler, and by each job.
    alive: Arc<AtomicUsize>,
}

impl World {
    fn new(threads: usize, capacity: usize) -> World {
        let (gate, waits) = mpsc::channel();
        let (begins, begun) = mpsc::channel();
        let alive = Arc::new(AtomicUsize::new(0));
        let slow = Slow {
            gate: Arc::new(Mutex::new(waits)),
            begun: begins,
            under_way: Arc::clone(&alive),
            taken: 0,
            answered: 0,
            latest: 0,
            hung_up: Vec::new(),
        };
        let builder = Server::builder(slow).workers(threads, capacity, || 0_u8);
        let server = builder.bind("127.0.0.1:0").unwrap().spawn().unwrap();
        World { server, gate, begun, alive }
    }

    fn client(&self) -> TcpStream {
        let Address::Tcp(address) = self.server.addresses()[0] else { panic!("TCP") };
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Waits until the work for this byte has begun.
    fn until_begun(&self, byte: u8) -> Presence {
        let (begun, presence) = self.begun.recv_timeout(PATIENCE).unwrap();
        assert_eq!(begun, byte);
        presence
    }

    /// Waits until so many jobs were taken.
    fn until_taken(&self, count: usize) {
        until("jobs to be taken", || self.ask(move |slow| slow.taken == count));
    }

    fn let_through(&self, count: usize) {
        (0..count).for_each(|_| self.gate.send(()).unwrap());
    }

    /// Asks the handler something.
    fn ask<T: Send + 'static>(&self, ask: impl FnOnce(&Slow) -> T + Send + 'static) -> T {
        self.server.handle().ask(move |slow, _| ask(slow)).unwrap()
    }

    /// Who stays until then would only keep the server lingering.
    fn stop(self, clients: impl Sized) -> Summary {
        self.server.handle().stop();
        drop(clients);
        let summary = self.server.join().unwrap();
        assert_eq!(Arc::strong_count(&self.alive), 1, "a thread or a job was left over");
        summary
    }
}

fn expect(client: &mut TcpStream, due: &[u8]) {
    let mut got = vec![0; due.len()];
    client.read_exact(&mut got).unwrap();
    assert_eq!(got.escape_ascii().to_string(), due.escape_ascii().to_string());
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain for: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// A client's requests are worked on one at a time and in order, whatever it has sent
/// ahead, and different clients' at the same time.
#[test]
fn one_at_a_time_for_each_and_all_at_once() {
    let world = World::new(4, 100);
    let mut ahead = world.client();
    ahead.write_all(b"abcdefgh").unwrap();
    for byte in b'a'..=b'h' {
        world.until_begun(byte);
        assert!(world.begun.try_recv().is_err(), "two at a time for one client");
        world.let_through(1);
        expect(&mut ahead, &[byte, b'1']);
    }
    let mut clients: Vec<TcpStream> = (0..4).map(|_| world.client()).collect();
    for (client, byte) in clients.iter_mut().zip(b'0'..) {
        client.write_all(&[byte]).unwrap();
        world.until_begun(byte);
    }
    world.let_through(4);
    for (client, byte) in clients.iter_mut().zip(b'0'..) {
        expect(client, &[byte, byte + 1]);
    }
    world.stop((ahead, clients));
}

/// A panic ends the connection whose job it was, with a reset, and nothing else: the one
/// thread goes on.
#[test]
fn a_panic_ends_one_connection() {
    let world = World::new(1, 100);
    let (mut unlucky, mut other) = (world.client(), world.client());
    unlucky.write_all(b"!x").unwrap();
    world.until_begun(b'!');
    other.write_all(b"a").unwrap();
    world.let_through(2);
    let end = unlucky.read(&mut [0; 8]).map_err(|error| error.kind());
    assert_eq!(end, Err(ErrorKind::ConnectionReset));
    expect(&mut other, b"a1");
    let summary = world.stop(other);
    assert_eq!(summary.counters.closed_for(CloseReason::Handler), 1);
}

/// The answer to a client that has left reaches nobody, and not the next in its slot.
#[test]
fn a_client_that_leaves() {
    let world = World::new(1, 100);
    let mut leaves = world.client();
    leaves.write_all(b"a").unwrap();
    let presence = world.until_begun(b'a');
    assert!(!presence.is_gone());
    socket_reset(&leaves);
    drop(leaves);
    until("the job to see that", || presence.is_gone());
    let mut next = world.client();
    next.write_all(b"b").unwrap();
    world.until_taken(2);
    world.let_through(2);
    expect(&mut next, b"b1");
    assert_eq!(world.ask(|slow| slow.answered), 1);
    let summary = world.stop(next);
    assert_eq!(summary.counters.closed_for(CloseReason::PeerReset), 1);
}

fn socket_reset(stream: &TcpStream) {
    let now = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    nix::sys::socket::setsockopt(stream, nix::sys::socket::sockopt::Linger, &now).unwrap();
}

/// A client that ends its side during a job is noticed, once. What that means is the handler's to
/// say: this one lets `-` go, whose job sees that, and answers the others.
#[test]
fn a_client_that_hangs_up() {
    let world = World::new(2, 100);
    let (mut goes, mut stays) = (world.client(), world.client());
    stays.write_all(b"ab").unwrap();
    let there = world.until_begun(b'a');
    stays.shutdown(Shutdown::Write).unwrap();
    until("it to be noticed", || world.ask(|slow| slow.hung_up == b"a"));
    goes.write_all(b"-x").unwrap();
    let gone = world.until_begun(b'-');
    goes.shutdown(Shutdown::Write).unwrap();
    until("the job to see that", || gone.is_gone());
    assert!(!there.is_gone());
    world.let_through(2);
    world.until_begun(b'b');
    world.let_through(1);
    let mut all = Vec::new();
    stays.read_to_end(&mut all).unwrap();
    assert!(matches!(all[..], [b'a', _, b'b', _]), "{all:?}");
    assert_eq!(world.ask(|slow| (slow.hung_up.clone(), slow.answered)), (b"a-".to_vec(), 2));
    assert!(world.begun.try_recv().is_err(), "what stood behind `-` was begun");
    world.stop((goes, stays));
}

/// A worker keeps its state from one job to the next; after a panic it has a new one.
#[test]
fn a_worker_has_a_state_of_its_own() {
    let world = World::new(1, 100);
    let mut client = world.client();
    client.write_all(b"###").unwrap();
    expect(&mut client, b"#1#2#3");
    let mut unlucky = world.client();
    unlucky.write_all(b"!").unwrap();
    world.until_begun(b'!');
    world.let_through(1);
    assert!(unlucky.read(&mut [0]).is_err());
    client.write_all(b"##").unwrap();
    expect(&mut client, b"#1#2");
    world.stop((client, unlucky));
}

/// Gives a job to workers that it does not have, or that have another state.
struct Wrong;

impl ConnectionHandler for Wrong {
    type Session = ();

    fn on_data(&mut self, conn: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
        let taken = conn.work(|_: &mut String, _| ());
        writeln!(conn, "{taken}");
        input.len()
    }
}

#[test]
fn without_such_workers_a_job_is_refused_at_once() {
    for builder in [Server::builder(Wrong), Server::builder(Wrong).workers(1, 1, || 0_u8)] {
        let server = builder.bind("127.0.0.1:0").unwrap().spawn().unwrap();
        let Address::Tcp(address) = server.addresses()[0] else { panic!("TCP") };
        let mut client = TcpStream::connect(address).unwrap();
        client.write_all(b"?").unwrap();
        expect(&mut client, b"false\n");
        drop(client);
        server.handle().stop();
        assert_eq!(server.join().unwrap().counters.bugs, 1);
    }
}

/// A client that has ended its side waits for its answers, and gets all of them.
#[test]
fn half_close_is_answered() {
    let world = World::new(2, 100);
    let mut client = world.client();
    client.write_all(b"abc").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    world.let_through(3);
    let mut all = Vec::new();
    client.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"a1b1c1");
    world.stop(client);
}

/// A stop waits for the job in flight, and for those which the client has already asked for.
#[test]
fn a_stop_answers_what_was_asked() {
    let world = World::new(1, 100);
    let mut client = world.client();
    client.write_all(b"abc").unwrap();
    world.until_begun(b'a');
    world.server.handle().stop();
    world.ask(|_| ()); // it has begun
    world.let_through(3);
    let mut all = Vec::new();
    client.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"a1b1c1");
    let summary = world.stop(client);
    assert_eq!((summary.cut, summary.counters.closed_for(CloseReason::Shutdown)), (0, 1));
}

/// When as many jobs wait as may, the next is refused, and its connection goes on.
#[test]
fn the_queue_is_bounded() {
    let world = World::new(1, 2);
    let mut clients: Vec<TcpStream> = (0..4).map(|_| world.client()).collect();
    clients[0].write_all(b"a").unwrap();
    world.until_begun(b'a');
    for client in &mut clients[1..3] {
        client.write_all(b"b").unwrap();
    }
    world.until_taken(3);
    clients[3].write_all(b"c").unwrap();
    expect(&mut clients[3], b"busy");
    world.let_through(3);
    expect(&mut clients[0], b"a1");
    clients[1..3].iter_mut().for_each(|client| expect(client, b"b1"));
    clients[3].write_all(b"d").unwrap();
    world.let_through(1);
    expect(&mut clients[3], b"d1");
    world.stop(clients);
}

/// An answer that finds the mailbox full is delivered when there is room.
#[test]
fn the_mailbox_is_full() {
    let world = World::new(1, 100);
    let mut client = world.client();
    client.write_all(b"a").unwrap();
    world.until_begun(b'a');
    let handle: Handle<Slow> = world.server.handle();
    let (resume, resumed) = mpsc::channel::<()>();
    let (blocks, blocked) = mpsc::channel();
    handle
        .call(move |_, _| {
            blocks.send(()).unwrap();
            resumed.recv_timeout(PATIENCE).unwrap();
        })
        .unwrap();
    blocked.recv_timeout(PATIENCE).unwrap();
    while handle.call(|_, _| {}) != Err(CallError::Full) {}
    world.let_through(1);
    until("the work to be done", || world.alive.load(Ordering::SeqCst) == 0);
    assert_eq!(handle.call(|_, _| {}), Err(CallError::Full));
    resume.send(()).unwrap();
    expect(&mut client, b"a1");
    world.stop(client);
}

/// The end of a server waits for the jobs that run, and drops those that wait.
#[test]
fn dropped_with_work_to_do() {
    let world = World::new(1, 100);
    let mut clients: Vec<TcpStream> = (0..3).map(|_| world.client()).collect();
    clients[0].write_all(b"a").unwrap();
    world.until_begun(b'a');
    clients[1].write_all(b"b").unwrap();
    world.until_taken(2);
    let World { server, gate, begun, alive } = world;
    // The loop ends by a panic, as a handler's bug would end it.
    server.handle().call(|_, _| panic!("as the test wants it")).unwrap();
    until("the waiting job to be dropped", || Arc::strong_count(&alive) == 2);
    gate.send(()).unwrap();
    let joined = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| server.join()));
    assert!(joined.is_err());
    assert_eq!(Arc::strong_count(&alive), 1);
    assert!(begun.try_recv().is_err(), "a job was begun for nobody");
}
