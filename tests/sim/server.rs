//! The whole server under the simulated kernel: what is hard to bring about with
//! real sockets, and exact where those are not. No test here can be slow or unlucky.

use crate::simulation::diary;
use crate::simulation::stage::{UNIX, leave_stale_file};
use crate::simulation::{Report, World};
use std::path::Path;
use std::time::Duration;
use threadbare::handlers::{Chat, Echo, Framing, Greet};
use threadbare::kernel::Kernel;
use threadbare::kernel::sim::{At, Client, Method, Remote, Short, Simulated, Times};
use threadbare::{
    Address, Call, CloseReason, Conn, ConnId, ConnectionHandler, Errno, Error, Limits, Net, Signal,
    Summary,
};

fn greet() -> Greet {
    Greet::new(Framing::Line, 64 << 10)
}

fn closed(summary: &Summary, why: CloseReason) -> u64 {
    summary.counters.closed_for(why)
}

/// A long answer, and that is all.
struct Farewell;

impl ConnectionHandler for Farewell {
    type Session = ();
    fn on_data(&mut self, conn: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
        conn.write(&vec![b'x'; 1 << 20]);
        conn.close();
        input.len()
    }
}

/// Notes why a connection has ended.
#[derive(Default)]
struct Dialer(Option<CloseReason>);

impl ConnectionHandler for Dialer {
    type Session = ();
    fn on_data(&mut self, _: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
        input.len()
    }
    fn on_close(&mut self, _: &mut Net, _: ConnId, _: (), why: CloseReason) {
        self.0 = Some(why);
    }
}

/// What else a client receives if it goes on receiving.
fn rest_of_answer<H: ConnectionHandler>(world: &mut World<H>, client: &mut Client) -> usize {
    let mut received = 0;
    for _ in 0..100 {
        world.rest();
        received += client.recv().len();
    }
    received
}

/// One client, from connecting to the end: nine calls, and the descriptors as before.
#[test]
fn a_whole_dialogue() {
    let mut world = World::new(greet(), Limits::default());
    let before = world.sim.descriptors();
    world.sim.take_trace();
    let mut client = world.client();
    world.rest();
    assert_eq!(world.ask(&mut client, b"hello\r\n"), b"Thank you for your message hello\r\n");
    client.close();
    world.rest();
    let calls: Vec<&str> = world.sim.trace().iter().map(|call| call.method.name()).collect();
    let expected = [
        "epoll_wait",
        "accept4",
        "epoll_ctl",
        "timerfd_settime", // once: it is inherited by the next
        "epoll_wait",
        "recv",
        "send", //
        "epoll_wait",
        "recv",
        "close",
    ];
    assert_eq!(calls, expected);
    assert_eq!(world.sim.descriptors(), before);
    let summary = world.stop();
    assert_eq!(closed(&summary, CloseReason::PeerClosed), 1);
    assert_eq!((summary.counters.received, summary.counters.sent), (7, 34));
}

/// A peer that has sent its end still gets its answers: lines, the rest, then FIN.
#[test]
fn half_close_is_answered() {
    let mut world = World::new(greet(), Limits::default());
    let mut client = world.client();
    client.send(b"one\ntwo");
    client.shutdown();
    world.rest();
    assert_eq!(client.recv(), b"Thank you for your message one\nThank you for your message two\n");
    assert!(client.saw_eof());
    assert_eq!(closed(&world.stop(), CloseReason::PeerClosed), 1);
}

/// The answer to the last line is lost to a reset, but lines that came behind it are not.
#[test]
fn bytes_behind_a_failed_send_are_read() {
    let mut world = World::new(greet(), Limits::default());
    let mut client = world.client();
    world.rest();
    world.sim.fail(At::Of(Method::Send, 0), Errno::ECONNRESET, Times::Once);
    client.send(b"first\n");
    world.rest();
    assert_eq!(world.sim.count(Method::Send), 1);
    assert!(world.sim.count(Method::Recv) >= 2, "it read on");
    assert_eq!(closed(&world.stop(), CloseReason::PeerReset), 1);
}

/// The rest that a full handler left is offered again, without new bytes, until all is
/// answered; and memory stays bounded however short the answers' way is.
#[test]
fn a_burst_of_empty_lines() {
    for short in [Short::Full, Short::AtMost(1), Short::Random] {
        let mut world = World::new(greet(), Limits { max_output: 1 << 20, ..Limits::default() });
        world.sim.shorten(short);
        let lines = if short == Short::AtMost(1) { 300 } else { 60_000 };
        let mut client = world.client();
        let (mut sent, mut answer) = (0, Vec::new());
        for _ in 0..100_000 {
            if sent < lines {
                sent += client.send(&vec![b'\n'; lines - sent]);
                if sent == lines {
                    client.shutdown();
                }
            }
            world.rest();
            answer.extend(client.recv());
            if client.saw_eof() {
                break;
            }
        }
        assert_eq!(answer, b"Thank you for your message \n".repeat(lines), "{short:?}");
        world.stop();
    }
}

/// A message a byte at a time does not extend its own deadline; a peer that takes
/// nothing is cut off; a quiet one is let go with FIN.
#[test]
fn deadlines() {
    let limits = Limits {
        idle_timeout: Some(Duration::from_secs(60)),
        message_timeout: Some(Duration::from_secs(5)),
        write_timeout: Some(Duration::from_secs(20)),
        ..Limits::default()
    };
    let mut world = World::new(greet(), limits);
    let (mut slow, mut quiet, mut deaf) = (world.client(), world.client(), world.client());
    for _ in 0..4 {
        slow.send(b"x");
        world.pass(Duration::from_secs(1));
        assert!(!slow.saw_eof());
    }
    slow.send(b"x");
    world.pass(Duration::from_secs(2));
    assert_eq!((slow.recv(), slow.saw_eof()), (vec![], true));
    let flood = vec![b'\n'; 60_000];
    deaf.send(&flood);
    world.pass(Duration::from_secs(21));
    deaf.recv();
    assert!(deaf.saw_reset(), "a cut answer must not look like a whole one");
    world.pass(Duration::from_secs(40));
    quiet.recv();
    assert!(quiet.saw_eof());
    let summary = world.stop();
    for why in [CloseReason::MessageTooSlow, CloseReason::WriteStalled, CloseReason::Idle] {
        assert_eq!(closed(&summary, why), 1, "{why}: {summary}");
    }
}

/// What a client sends that does not take its last answer is read out, however much it is; the
/// answer is still there for it.
#[test]
fn a_closing_connection_reads_whatever_comes() {
    let mut world = World::new(Farewell, Limits::default());
    let mut client = world.client();
    let received = world.ask(&mut client, b"go").len();
    let mut sent = 0;
    while sent < 20 << 20 {
        match client.send(&[b'.'; 64 << 10]) {
            0 => panic!("it is not read after {sent} bytes"),
            more => sent += more,
        }
        world.rest();
    }
    assert_eq!(received + rest_of_answer(&mut world, &mut client), 1 << 20);
    assert!(client.saw_eof());
    world.stop();
}

/// A client that has its answer and goes on sending is read for five seconds.
#[test]
fn lingering_takes_time_and_no_bytes() {
    let mut world = World::new(Farewell, Limits::default());
    let before = world.sim.descriptors();
    let mut client = world.client();
    client.send(b"go");
    rest_of_answer(&mut world, &mut client);
    for tenth in 0..50 {
        assert!(client.send(&[b'.'; 64 << 10]) > 0, "after {tenth} tenths");
        world.pass(Duration::from_millis(100));
    }
    world.pass(Duration::from_millis(10));
    assert_eq!(world.sim.descriptors(), before);
    client.send(b"more"); // which nobody takes
    client.recv();
    assert!(client.saw_eof());
    world.stop();
}

/// Who has nothing more to say is still sent all of the last answer.
#[test]
fn a_farewell_to_who_has_ended() {
    let mut world = World::new(Farewell, Limits::default());
    let mut client = world.client();
    let received = world.ask(&mut client, b"go").len();
    client.shutdown();
    assert_eq!(received + rest_of_answer(&mut world, &mut client), 1 << 20);
    assert!(client.saw_eof());
    assert_eq!(closed(&world.stop(), CloseReason::Handler), 1);
}

/// Who has ended and is gone does not make the loop spin, though nothing can be sent now
/// that would tell of it.
#[test]
fn a_farewell_to_who_is_gone() {
    let mut world = World::new(Farewell, Limits::default());
    let before = world.sim.descriptors();
    let mut client = world.client();
    world.sim.fail(At::Of(Method::Send, 0), Errno::ENOBUFS, Times::UntilHealed);
    world.ask(&mut client, b"go");
    client.shutdown();
    client.reset();
    world.rest();
    assert_eq!(world.sim.descriptors(), before);
    assert_eq!(closed(&world.stop(), CloseReason::PeerReset), 1);
}

/// Who never takes the last answer is let go when it has been idle for long: with a reset,
/// for a cut answer must not look like a whole one.
#[test]
fn a_farewell_to_the_deaf() {
    let limits = Limits {
        idle_timeout: Some(Duration::from_secs(5)),
        write_timeout: None,
        ..Limits::default()
    };
    let mut world = World::new(Farewell, limits);
    let mut client = world.client();
    client.send(b"go");
    world.pass(Duration::from_secs(6));
    client.recv();
    assert!(client.saw_reset());
    assert_eq!(closed(&world.stop(), CloseReason::Idle), 1);
}

/// When the answer is out and the client has ended, that was all: no call more.
#[test]
fn a_farewell_is_short() {
    let mut world = World::new(Farewell, Limits::default());
    let before = world.sim.descriptors();
    world.sim.set_buffers(1 << 20, 1 << 20);
    let mut client = world.client();
    assert_eq!(world.ask(&mut client, b"go").len(), 1 << 20);
    client.close();
    world.rest();
    assert_eq!((world.sim.count(Method::Recv), world.sim.descriptors()), (2, before));
    assert_eq!(closed(&world.stop(), CloseReason::Handler), 1);
}

/// Who consumes a byte at a time is not called again for nothing; but when the peer has
/// ended he gets the rest so too, and hears of the end only then.
#[test]
fn the_rest_comes_before_the_end() {
    #[derive(Default)]
    struct Nibbles(Vec<Vec<u8>>);
    impl ConnectionHandler for Nibbles {
        type Session = ();
        fn on_data(&mut self, _: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
            self.0.push(input.to_vec());
            1
        }
        fn on_eof(&mut self, conn: &mut Conn<'_>, _: &mut (), rest: &[u8]) {
            self.0.push(rest.to_vec());
            conn.close();
        }
    }
    let mut world = World::new(Nibbles::default(), Limits::default());
    let mut client = world.client();
    world.ask(&mut client, b"abc");
    assert_eq!(world.server.handler().0, [b"abc"]);
    client.shutdown();
    world.rest();
    assert_eq!(world.server.handler().0, [&b"abc"[..], b"bc", b"c", b""]);
    world.stop();
}

/// A client that asks for much more than it sends is not read ahead: the rest of one read
/// is answered before the next.
#[test]
fn no_more_than_one_read_waits() {
    let mut world = World::new(greet(), Limits::default());
    let mut client = world.client();
    for _ in 0..200 {
        client.send(&[b'\n'; 64 << 10]);
        world.rest();
        client.recv();
        assert!(world.server.memory().0 < 640 << 10);
    }
    client.reset();
    world.stop();
}

/// What was sent before a reset is offered, though the answers before it had held it up.
#[test]
fn the_last_words_of_who_took_nothing() {
    #[derive(Default)]
    struct Floods(Vec<Vec<u8>>);
    impl ConnectionHandler for Floods {
        type Session = ();
        fn on_data(&mut self, conn: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
            self.0.push(input.to_vec());
            conn.write(&vec![b'x'; 1 << 20]);
            input.len()
        }
    }
    let mut world = World::new(Floods::default(), Limits::default());
    let mut client = world.client();
    for words in [b"go", b"on"] {
        client.send(words);
        world.rest();
        assert_eq!(world.server.handler().0, [b"go"]);
    }
    client.reset();
    world.rest();
    assert_eq!(world.server.handler().0, [b"go", b"on"]);
    assert_eq!(closed(&world.stop(), CloseReason::PeerReset), 1);
}

/// A stop reads once more of everybody, and if that fails it is told why.
#[test]
fn the_last_read_fails() {
    let mut world = World::new(greet(), Limits::default());
    let mut client = world.client();
    world.ask(&mut client, b"hello\n");
    world.sim.fail(At::Of(Method::Recv, 1), Errno::ECONNRESET, Times::Once);
    assert_eq!(closed(&world.stop(), CloseReason::PeerReset), 1);
}

/// After a long stop of the whole process everybody's bytes come before the deadlines,
/// though they be more than fit into one batch.
#[test]
fn bytes_before_deadlines() {
    let sim = Simulated::new(1);
    sim.set_limits(8_192, 8_192);
    let limits = Limits { idle_timeout: Some(Duration::from_secs(60)), ..Limits::default() };
    let mut world = World::on(sim, Echo, limits).unwrap();
    let mut crowd: Vec<Client> = (0..1_500).map(|_| world.client()).collect();
    world.rest();
    world.sim.advance(Duration::from_secs(61));
    crowd.iter_mut().for_each(|client| assert_eq!(client.send(b"ping"), 4));
    world.rest();
    crowd.iter_mut().for_each(|client| assert_eq!(client.recv(), b"ping"));
    world.stop();
}

/// Only many failures in a row end a connection for which the kernel has no memory.
#[test]
fn out_of_memory_now_and_then() {
    let mut world = World::new(greet(), Limits::default());
    let mut client = world.client();
    for method in [Method::Recv, Method::Send] {
        for _ in 0..20 {
            let next = At::Of(method, world.sim.count(method));
            world.sim.fail(next, Errno::ENOBUFS, Times::Burst(2));
            client.send(b"hello\n");
            world.pass(Duration::from_secs(1));
            assert_eq!(client.recv(), b"Thank you for your message hello\n");
        }
    }
    let next = At::Of(Method::Recv, world.sim.count(Method::Recv));
    world.sim.fail(next, Errno::ENOBUFS, Times::Burst(12));
    client.send(b"hello\n");
    world.pass(Duration::from_secs(10));
    assert_eq!(client.recv(), b"Thank you for your message hello\n");
    let next = At::Of(Method::Recv, world.sim.count(Method::Recv));
    world.sim.fail(next, Errno::ENOBUFS, Times::UntilHealed);
    client.send(b"hello\n");
    world.pass(Duration::from_secs(3));
    client.recv();
    assert!(!client.saw_reset(), "it is tried again, each time later");
    world.pass(Duration::from_secs(60));
    client.recv();
    assert!(client.saw_reset());
    world.stop();
}

/// Takes a byte a time, and wants the next at once; and how much was offered at most.
#[derive(Default)]
struct Sips(Vec<u8>, usize);

impl ConnectionHandler for Sips {
    type Session = ();
    fn on_data(&mut self, conn: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
        self.0.push(input[0]);
        self.1 = self.1.max(input.len());
        conn.pause();
        assert!(conn.is_paused());
        conn.resume();
        assert!(!conn.is_paused());
        1
    }
}

/// As long as there is something to be offered no more is read.
#[test]
fn what_is_here_already_comes_first() {
    let mut world = World::new(Sips::default(), Limits::default());
    let mut client = world.client();
    world.rest();
    for words in [b"abc", b"def"] {
        client.send(words);
        world.turn();
    }
    world.rest();
    let Sips(taken, most) = world.server.handler();
    assert_eq!((&taken[..], *most), (&b"abcdef"[..], 3));
    world.stop();
}

/// What was received is offered, piece by piece if the handler likes, though the client has gone
/// with a reset before it was all.
#[test]
fn the_rest_is_offered_behind_a_reset() {
    let mut world = World::new(Sips::default(), Limits::default());
    let mut client = world.client();
    world.rest();
    client.send(b"abc");
    world.turn();
    assert_eq!(world.server.handler().0, b"a");
    client.reset();
    world.rest();
    assert_eq!(world.server.handler().0, b"abc");
    assert_eq!(closed(&world.stop(), CloseReason::PeerReset), 1);
}

/// What a client has not taken is given up as soon as it has gone, before its last bytes are read.
#[test]
fn who_has_gone_takes_nothing_more() {
    let mut world = World::new(Echo, Limits::default());
    world.sim.set_buffers(100, 100);
    let mut client = world.client();
    world.rest();
    for _ in 0..10 {
        client.send(&[b'.'; 50]);
        world.rest();
    }
    assert!(world.server.memory().0 > 0);
    client.send(&[b'.'; 50]);
    client.reset();
    world.turn();
    assert_eq!(world.server.memory().0, 0);
    world.rest();
    assert_eq!(world.server.counters().received, 550);
    world.stop();
}

/// The last answer and the end behind it are announced as one, and can leave in one packet.
#[test]
fn a_goodbye_is_one_packet() {
    struct Bye;
    impl ConnectionHandler for Bye {
        type Session = ();
        fn on_data(&mut self, conn: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
            conn.write(input);
            if input == b"bye\n" {
                conn.close();
            }
            input.len()
        }
    }
    let mut world = threadbare::sim::World::new(Bye);
    let mut client = world.client();
    for (words, is_last) in [(&b"hi\n"[..], false), (b"bye\n", true)] {
        world.take_calls();
        assert_eq!(world.ask(&mut client, words), words);
        let calls = world.take_calls();
        let sends: Vec<&String> = calls.iter().filter(|call| call.starts_with("sendto(")).collect();
        assert!(sends.len() == 1 && sends[0].contains("MSG_MORE") == is_last, "{calls:?}");
    }
}

/// With the lowest mark a connection is full with each byte that waits, and goes on all the same
/// when that is taken.
#[test]
fn the_lowest_high_water_mark() {
    let mut world = World::new(Echo, Limits { high_water: 1, ..Limits::default() });
    world.sim.set_buffers(10, 10);
    let mut client = world.client();
    world.rest();
    let mut sent = 0;
    for _ in 0..20 {
        sent += client.send(&[b'.'; 10]);
        world.rest();
    }
    assert!((20..200).contains(&sent), "{sent} bytes fit");
    assert_eq!(rest_of_answer(&mut world, &mut client), sent);
    world.stop();
}

/// Says something, and ends with a reset behind it.
struct Breaks(usize);

impl ConnectionHandler for Breaks {
    type Session = ();
    fn on_data(&mut self, conn: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
        conn.write(&vec![b'x'; self.0]);
        conn.abort_behind();
        input.len()
    }
}

/// A reset waits until the peer has all that stands before it, and comes soon then: the longer it
/// has taken, the less often the kernel is asked.
#[test]
fn a_reset_comes_soon_behind_the_last_byte() {
    for millis in [10, 20, 40, 80, 150, 300, 10_000] {
        let mut world = World::new(Breaks(1_000), Limits::default());
        world.sim.set_buffers(64 << 10, 100);
        let mut client = world.client();
        world.rest();
        client.send(b"?");
        world.pass(Duration::from_millis(millis));
        assert_eq!((world.server.open(), client.saw_reset()), (1, false));
        let asked = world.sim.count(Method::IoctlOutq);
        assert!(asked < 20 + millis / 150, "asked {asked} times in {millis} ms");
        assert_eq!(rest_of_answer(&mut world, &mut client), 1_000);
        world.pass(Duration::from_millis(millis.min(400) / 2 + 5));
        client.recv();
        assert_eq!((world.server.open(), client.saw_reset()), (0, true), "after {millis} ms");
    }
}

/// Behind the handler's own end there is nothing that a reset could show to be missing.
#[test]
fn a_reset_behind_the_end_is_a_close() {
    struct Ends;
    impl ConnectionHandler for Ends {
        type Session = ();
        fn on_data(&mut self, conn: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
            conn.write(b"bye\n");
            conn.finish();
            conn.abort_behind();
            input.len()
        }
    }
    let mut world = World::new(Ends, Limits::default());
    let mut client = world.client();
    world.rest();
    assert_eq!(world.ask(&mut client, b"?"), b"bye\n");
    world.pass(Duration::from_secs(10));
    assert!(client.saw_eof() && !client.saw_reset());
    assert_eq!(world.server.open(), 0);
    assert_eq!(closed(&world.stop(), CloseReason::Handler), 1);
}

/// No reset overtakes what was written to a Unix socket: nobody waits until that is read.
#[test]
fn a_unix_client_may_read_later() {
    let mut world =
        World::at("unix:/run/door", Simulated::new(1), Breaks(1_000), Limits::default()).unwrap();
    let mut client = world.client();
    world.rest();
    client.send(b"?");
    world.pass(Duration::from_millis(10));
    assert_eq!(world.server.open(), 0);
    assert_eq!(client.recv().len(), 1_000);
}

/// Without a write timeout it is the idle timeout that ends a connection whose client takes nothing
/// of its last answer.
#[test]
fn a_reset_behind_what_is_never_taken() {
    let idle_timeout = Some(Duration::from_secs(5));
    let limits = Limits { write_timeout: None, idle_timeout, ..Limits::default() };
    let mut world = World::new(Breaks(1 << 20), limits);
    let mut client = world.client();
    world.rest();
    client.send(b"?");
    world.pass(Duration::from_secs(4));
    assert_eq!(world.server.open(), 1);
    world.pass(Duration::from_secs(2));
    assert_eq!(world.server.open(), 0);
    assert_eq!(closed(&world.stop(), CloseReason::Idle), 1);
}

/// The time for a message begins with its first byte, wherever in a recv that stands.
#[test]
fn each_message_has_its_own_time() {
    let limits = Limits { message_timeout: Some(Duration::from_secs(5)), ..Limits::default() };
    let mut world = World::new(greet(), limits);
    world.pass(Duration::from_secs(100));
    let mut client = world.client();
    for piece in [&b"one\ntw"[..], b"o\nthr", b"ee\nfour\nfi"] {
        client.send(piece);
        world.pass(Duration::from_secs(4));
        assert!(!client.recv().is_empty() && !client.saw_eof());
    }
    world.pass(Duration::from_secs(2));
    client.recv();
    assert!(client.saw_eof());
    assert_eq!(closed(&world.stop(), CloseReason::MessageTooSlow), 1);
}

/// While others have it paused, or have written more to it than it has taken, the rest of its
/// message is not awaited: it would not be read.
#[test]
fn no_message_is_late_while_none_is_read() {
    let limits = Limits {
        message_timeout: Some(Duration::from_secs(5)),
        high_water: 100_000,
        ..Limits::default()
    };
    let mut world = World::new(greet(), limits);
    world.sim.set_buffers(10_000, 10_000);
    let mut client = world.client();
    let call = |world: &mut World<Greet>, what: fn(&mut Conn<'_>)| {
        let act = move |_: &mut Greet, net: &mut Net| {
            let ids = net.ids();
            ids.for_each(|id| what(&mut net.conn(id).unwrap()));
        };
        world.server.handle().call(act).unwrap();
        world.rest();
    };
    world.ask(&mut client, b"ha");
    call(&mut world, |conn| conn.pause());
    world.pass(Duration::from_secs(8));
    call(&mut world, |conn| conn.resume());
    assert_eq!(world.ask(&mut client, b"l\n"), b"Thank you for your message hal\n");
    world.ask(&mut client, b"f");
    call(&mut world, |conn| conn.write(&vec![b'.'; 150_000]));
    world.pass(Duration::from_secs(8));
    assert_eq!(rest_of_answer(&mut world, &mut client), 150_000);
    assert_eq!(world.ask(&mut client, b"\n"), b"Thank you for your message f\n");
    world.ask(&mut client, b"now it is late");
    world.pass(Duration::from_secs(6));
    assert_eq!(closed(&world.stop(), CloseReason::MessageTooSlow), 1);
}

/// Whoever takes a little now and then is not cut off, however long it takes.
#[test]
fn a_slow_reader_is_no_stalled_one() {
    let limits = Limits { write_timeout: Some(Duration::from_secs(5)), ..Limits::default() };
    let mut world = World::new(greet(), limits);
    world.pass(Duration::from_secs(100));
    let mut client = world.client();
    client.send(&vec![b'\n'; 30_000]);
    let mut received = 0;
    for _ in 0..5 {
        world.pass(Duration::from_secs(4));
        received += client.recv_at_most(100_000).len();
        assert!(received > 0 && !client.saw_reset());
    }
    for _ in 0..20 {
        world.rest();
        received += client.recv().len();
    }
    assert_eq!(received, 30_000 * b"Thank you for your message \n".len());
    world.stop();
}

/// What was not consumed is forgotten with the close, though the connection lingers.
#[test]
fn a_closed_connection_holds_no_memory() {
    struct Curt;
    impl ConnectionHandler for Curt {
        type Session = ();
        fn on_data(&mut self, conn: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
            if input.ends_with(b"!") {
                conn.write(b"enough");
                conn.close();
            }
            0
        }
    }
    let mut world = World::new(Curt, Limits::default());
    let mut client = world.client();
    world.ask(&mut client, &[b'.'; 10_000]);
    assert!(world.server.memory().0 >= 10_000);
    assert_eq!(world.ask(&mut client, b"!"), b"enough");
    assert!(client.saw_eof());
    assert_eq!(world.server.memory().0, 0);
    world.stop();
}

/// Idle is idle: the timer costs nothing per message, and when all have gone it goes
/// off once at most.
#[test]
fn idle_is_idle() {
    let mut world = World::new(greet(), Limits::default());
    for _ in 0..100 {
        let mut client = world.client();
        for _ in 0..10 {
            assert!(!world.ask(&mut client, b"hello\n").is_empty());
        }
        client.close();
    }
    let mut last = Vec::new();
    for _ in 0..3 {
        last.push(world.client());
        world.pass(Duration::from_secs(10));
    }
    drop(last);
    world.rest();
    assert_eq!(world.sim.count(Method::TimerfdSettime), 1);
    let waits = world.sim.count(Method::EpollWait);
    world.pass(Duration::from_secs(36_000));
    assert_eq!(world.sim.count(Method::EpollWait), waits + 1);
    assert_eq!(world.sim.armed(), None);
    world.stop();
}

/// Bytes that the kernel does not take are no sign of life.
#[test]
fn idle_though_more_is_written() {
    let limits = Limits { idle_timeout: Some(Duration::from_secs(5)), ..Limits::default() };
    let mut world = World::new(greet(), limits);
    world.sim.set_buffers(100, 100);
    let _deaf = world.client();
    world.rest();
    for (bytes, seconds, open) in [(200, 4, 1), (10, 2, 0)] {
        let tell = move |_: &mut Greet, net: &mut Net| {
            net.ids().for_each(|id| assert!(net.send(id, &vec![b'.'; bytes])));
        };
        world.server.handle().call(tell).unwrap();
        world.pass(Duration::from_secs(seconds));
        assert_eq!(world.server.open(), open);
    }
    assert_eq!(closed(&world.stop(), CloseReason::Idle), 1);
}

/// A stop leaves the doors open for a moment, for handshakes that the kernel does not list yet,
/// even if somebody leaves meanwhile; and no longer.
#[test]
fn a_stop_is_a_moment_late() {
    let mut world = World::new(greet(), Limits::default());
    let mut client = world.client();
    world.ask(&mut client, b"hello\n");
    world.sim.signal(Signal::SIGTERM);
    world.pass(Duration::from_millis(10));
    client.close();
    world.pass(Duration::from_millis(9));
    assert!(world.running && !world.client().established(), "who comes now has come too late");
    world.pass(Duration::from_millis(3));
    assert!(!world.running);
    world.end();
}

/// A client takes itself for connected when the server's kernel has answered its SYN. It is
/// waited for, up to a second, and its first bytes for another; whoever comes then is refused.
#[test]
fn a_handshake_under_way_at_a_stop() {
    for (millis, is_served) in [(5, true), (50, true), (200, true), (950, true), (1_100, false)] {
        let mut world = World::new(greet(), Limits::default());
        let time = Duration::from_millis(millis);
        let mut slow = world.sim.connect_slowly(&world.address(), time).unwrap();
        world.sim.signal(Signal::SIGTERM);
        world.rest();
        let mut late = world.client();
        late.send(b"late\n");
        assert_eq!(late.error(), Some(Errno::ECONNREFUSED));
        world.pass(time);
        world.pass(Duration::from_millis(300));
        slow.send(b"hello\n");
        world.rest();
        let due = if is_served { thanks() } else { Vec::new() };
        assert_eq!((slow.recv(), slow.saw_reset()), (due, !is_served), "{millis} ms");
        drop(slow);
        let begun = world.sim.now();
        world.end();
        assert!(world.sim.now() - begun >= 3_600_000_000_000);
    }
}

/// If the kernel does not say whether handshakes are under way, they may be.
#[test]
fn a_kernel_that_does_not_list_handshakes() {
    for method in [Method::SocketDiag, Method::WriteDiag, Method::ReadDiag] {
        let mut world = World::new(greet(), Limits::default());
        world.sim.fail(At::Of(method, 0), Errno::EACCES, Times::UntilHealed);
        let time = Duration::from_millis(500);
        let mut slow = world.sim.connect_slowly(&world.address(), time).unwrap();
        slow.send(b"hello\n");
        world.sim.signal(Signal::SIGTERM);
        world.pass(Duration::from_millis(990));
        assert_eq!(slow.recv(), thanks());
        drop(slow);
        assert!(world.running);
        world.pass(Duration::from_millis(40));
        assert!(!world.running);
        world.end();
    }
}

/// What `greet` answers to `hello`.
fn thanks() -> Vec<u8> {
    b"Thank you for your message hello\n".to_vec()
}

/// A client that has connected and not spoken when the stop comes is heard, for a second; one
/// that has been answered ends at once, and so does one that has ended.
#[test]
fn first_bytes_behind_a_stop() {
    for millis in [0, 5, 50, 500, 990] {
        let mut world = World::new(greet(), Limits::default());
        let (mut newcomer, mut silent) = (world.client(), world.client());
        let (mut answered, mut ended) = (world.client(), world.client());
        world.ask(&mut answered, b"hello\n");
        ended.shutdown();
        world.rest();
        let mut queued = world.client();
        world.sim.signal(Signal::SIGTERM);
        world.pass(Duration::from_millis(millis));
        for client in [&mut answered, &mut ended] {
            client.recv();
            assert!(client.saw_eof());
        }
        for client in [&mut newcomer, &mut queued] {
            assert_eq!(
                world.ask(client, b"hello\nanother\n").len(),
                2 * thanks().len() + 2,
                "{millis} ms"
            );
            client.recv();
            assert!(client.saw_eof());
        }
        world.pass(Duration::from_millis(999 - millis));
        silent.recv();
        assert!(!silent.saw_eof());
        world.pass(Duration::from_millis(3));
        silent.recv();
        assert!(silent.saw_eof() && !silent.saw_reset());
        drop((newcomer, silent, answered, ended, queued));
        let summary = world.end();
        assert_eq!((summary.cut, closed(&summary, CloseReason::Shutdown)), (0, 4));
    }
}

/// Where the drain is short, so is that time: a silent client is no reason to be cut.
#[test]
fn first_bytes_and_a_short_drain() {
    let drain_timeout = Some(Duration::from_millis(500));
    let mut world = World::new(greet(), Limits { drain_timeout, ..Limits::default() });
    let mut silent = world.client();
    world.rest();
    world.sim.signal(Signal::SIGTERM);
    world.pass(Duration::from_millis(260));
    silent.recv();
    assert!(silent.saw_eof());
    assert_eq!(world.end().cut, 0);
}

/// Who does not finish in time is cut, with a reset, and counted; who merely lingers is not.
#[test]
fn the_drain_deadline() {
    let mut world = World::new(greet(), Limits::default());
    let (mut deaf, mut lingers) = (world.client(), world.client());
    deaf.send(&vec![b'\n'; 60_000]);
    lingers.send(b"hello\n");
    world.rest();
    let summary = {
        assert!(world.sim.signal(Signal::SIGTERM));
        world.end()
    };
    deaf.recv();
    lingers.recv();
    assert!(deaf.saw_reset() && lingers.saw_eof());
    assert_eq!((summary.cut, closed(&summary, CloseReason::DrainDeadline)), (1, 1));
}

/// At the drain deadline those who still wait in the queue are reset, all of them, and
/// counted too.
#[test]
fn the_queue_at_the_drain_deadline() {
    let limits = Limits { max_connections: 1, backlog: 2, ..Limits::default() };
    let mut world = World::new(greet(), limits);
    let mut deaf = world.client();
    deaf.send(&vec![b'\n'; 60_000]);
    world.rest();
    let mut waiting = [world.client(), world.client(), world.client()];
    let summary = world.stop();
    for client in &mut waiting {
        client.recv();
        client.recv();
        assert!(client.saw_reset());
    }
    assert_eq!((summary.cut, closed(&summary, CloseReason::DrainDeadline)), (4, 4));
}

/// The same if one of them was lost in the queue; and if the listener is none any more, the server
/// says so.
#[test]
fn the_queue_at_the_drain_deadline_and_what_fails_there() {
    for (errno, cut) in [(Errno::ECONNABORTED, Some(3)), (Errno::EINVAL, None)] {
        let limits = Limits { max_connections: 1, backlog: 2, ..Limits::default() };
        let mut world = World::new(greet(), limits);
        let mut deaf = world.client();
        deaf.send(&vec![b'\n'; 60_000]);
        world.rest();
        let _waiting = [world.client(), world.client()];
        let next = At::Of(Method::Accept4, world.sim.count(Method::Accept4));
        world.sim.fail(next, errno, Times::Once);
        world.sim.signal(Signal::SIGTERM);
        world.pass(Duration::from_secs(3_600));
        match (world.server.finish(), cut) {
            (Ok(summary), Some(cut)) => {
                assert_eq!((summary.cut, summary.counters.accept_failed), (cut, 1));
            }
            (Err(error), None) => assert_eq!((error.call, error.errno), (Call::Accept, errno)),
            (other, _) => panic!("{errno}: {other:?}"),
        }
    }
}

/// A recv that finds nothing, although bytes are there, costs a client in a stop at most the answer
/// to these bytes. The answers before arrive: FIN is behind them, and what is unread is read before
/// the close, which would otherwise be a reset.
#[test]
fn an_untrue_eagain_in_a_stop() {
    let mut missed = 0;
    for lies in 1..6 {
        let mut world = World::new(greet(), Limits::default());
        let mut client = world.client();
        client.send(b"one\n");
        world.rest();
        client.send(b"two\n");
        let next = At::Of(Method::Recv, world.sim.count(Method::Recv));
        world.sim.fail(next, Errno::EAGAIN, Times::Burst(lies));
        world.sim.signal(Signal::SIGTERM);
        world.pass(Duration::from_secs(1));
        let answer = String::from_utf8(client.recv()).unwrap();
        let (one, two) = ("Thank you for your message one\n", "Thank you for your message two\n");
        assert!(client.saw_eof() && !client.saw_reset(), "{lies} times: {answer}");
        assert_eq!(answer.strip_prefix(one).unwrap().trim_start_matches(two), "", "{lies} times");
        missed += u32::from(answer == one);
        client.close();
        assert_eq!(world.end().cut, 0);
    }
    assert!(missed > 0, "no lie came when it was closed");
}

/// What is asked for from within a callback is done, though nothing else happens.
#[test]
fn a_handler_may_stop_the_server() {
    struct Quits;
    impl ConnectionHandler for Quits {
        type Session = ();
        fn on_data(&mut self, conn: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
            conn.write(b"bye\n");
            conn.net().stop();
            input.len()
        }
    }
    let mut world = World::new(Quits, Limits::default());
    let mut client = world.client();
    world.rest();
    assert_eq!(world.ask(&mut client, b"quit\n"), b"bye\n");
    world.pass(Duration::from_secs(5));
    assert!(!world.running);
    world.end();
}

/// A stop is given the least time that anybody has asked for, from when it was asked for.
#[test]
fn a_stop_within_a_time() {
    for (asked, seconds) in [
        (&[(0, Some(2))][..], 2),
        (&[(0, None)], 30), // as configured
        (&[(0, None), (1, Some(2))], 3),
        (&[(0, Some(2)), (1, Some(60))], 2),
        (&[(0, Some(60))], 30),
    ] {
        let limits = Limits { drain_timeout: Some(Duration::from_secs(30)), ..Limits::default() };
        let mut world = World::new(greet(), limits);
        let mut deaf = world.client();
        deaf.send(&vec![b'\n'; 60_000]);
        world.rest();
        let (handle, begin) = (world.server.handle(), world.sim.now());
        for (at, most) in asked {
            let now = begin + at * 1_000_000_000;
            world.pass(Duration::from_nanos(now - world.sim.now()));
            match most {
                Some(most) => handle.stop_within(Duration::from_secs(*most)),
                None => handle.stop(),
            }
            world.rest();
        }
        let end = begin + seconds * 1_000_000_000 - 1_000_000;
        world.pass(Duration::from_nanos(end - world.sim.now()));
        assert!(world.running, "{asked:?}");
        world.pass(Duration::from_millis(5));
        assert!(!world.running, "{asked:?}");
        assert_eq!(world.end().cut, 1);
    }
}

/// Whoever stops a server reads how long that may take, and how it takes no time.
#[test]
fn what_a_stop_says() {
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    for (signal, guests, drain_timeout, line) in [
        (Signal::SIGTERM, 0, seconds(30), "stopping (SIGTERM), 0 open"),
        (
            Signal::SIGTERM,
            1,
            seconds(30),
            "stopping (SIGTERM), 1 open: waits at most 30 s; a second signal ends it now",
        ),
        (
            Signal::SIGINT,
            2,
            None,
            "stopping (SIGINT), 2 open: waits until they have finished; \
             a second Ctrl-C ends it now",
        ),
    ] {
        diary::begin();
        let mut world = World::new(greet(), Limits { drain_timeout, ..Limits::default() });
        let _guests: Vec<Client> = (0..guests).map(|_| world.client()).collect();
        world.rest();
        world.sim.signal(signal);
        world.rest();
        assert!(diary::said(line), "{line}");
    }
}

/// Of a client that never ends a stopping server reads 8 MiB, however much it has read before.
#[test]
fn a_stop_reads_so_much_and_no_more() {
    /// Answers, and always leaves a byte.
    #[derive(Default)]
    struct Takes(usize);
    impl ConnectionHandler for Takes {
        type Session = ();
        fn on_data(&mut self, conn: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
            conn.write(b".");
            self.0 += input.len() - 1;
            input.len() - 1
        }
    }
    const MOST: usize = 8 << 20;
    let mut world = World::new(Takes::default(), Limits::default());
    world.sim.set_buffers(1 << 20, 1 << 20);
    let mut client = world.client();
    world.rest();
    let more = vec![b'.'; 1 << 20]; // never all of it is read in a turn
    while world.server.handler().0 < MOST + (1 << 20) {
        client.send(&more);
        world.turn();
    }
    let before = world.server.handler().0;
    world.sim.signal(Signal::SIGTERM);
    for _ in 0..200 {
        client.send(&more);
        world.turn();
    }
    let read = world.server.handler().0 - before;
    assert!((MOST..MOST + (256 << 10)).contains(&read), "{read} bytes");
    client.recv();
    assert!(client.saw_eof());
}

/// At the limit clients wait in the queue, and nothing happens until somebody leaves.
#[test]
fn a_full_house() {
    let mut world = World::new(greet(), Limits { max_connections: 1, ..Limits::default() });
    let mut first = world.client();
    world.rest();
    let mut second = world.client();
    second.send(b"me too\n");
    world.rest();
    assert!(second.recv().is_empty());
    first.close();
    world.rest();
    assert_eq!(second.recv(), b"Thank you for your message me too\n");
    world.stop();
}

/// A pause for want of descriptors ends when somebody leaves, at all doors, without waiting.
#[test]
fn a_pause_ends_when_somebody_leaves() {
    let doors = ["127.0.0.1:80", "127.0.0.1:81"];
    let mut world = World::at(doors, Simulated::new(1), greet(), Limits::default()).unwrap();
    let mut guest = world.client();
    world.rest();
    let next = world.sim.count(Method::Accept4);
    world.sim.fail(At::Of(Method::Accept4, next), Errno::EMFILE, Times::UntilHealed);
    let addresses = world.server.addresses().to_vec();
    let mut waiting: Vec<Client> =
        addresses.iter().map(|address| world.sim.connect(address).unwrap()).collect();
    world.pass(Duration::from_secs(5));
    world.sim.heal();
    guest.close();
    world.rest();
    for client in &mut waiting {
        assert_eq!(world.ask(client, b"me\n"), b"Thank you for your message me\n");
    }
    world.stop();
}

/// Who closes twice is still sent all of the answer, and no input is offered, no timer
/// goes off in between.
#[test]
fn to_close_twice_is_to_close_once() {
    #[derive(Default)]
    struct Twice(Option<ConnId>);
    impl ConnectionHandler for Twice {
        type Session = ();
        fn on_data(&mut self, conn: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
            assert!(self.0.is_none());
            self.0 = Some(conn.id());
            conn.write(&vec![b'x'; 1 << 20]);
            conn.set_timer(Some(Duration::from_millis(10)));
            conn.close();
            assert!(!conn.net().send(self.0.unwrap(), b"more"));
            input.len()
        }
        fn on_timer(&mut self, _: &mut Conn<'_>, _: &mut ()) {
            panic!("of a connection that is closed");
        }
    }
    let mut world = World::new(Twice::default(), Limits::default());
    let mut client = world.client();
    let mut answer = world.ask(&mut client, b"go");
    let again = |twice: &mut Twice, net: &mut Net| assert!(net.close(twice.0.unwrap()));
    world.server.handle().call(again).unwrap();
    for _ in 0..100 {
        client.send(b"more");
        world.pass(Duration::from_millis(10));
        answer.extend(client.recv());
    }
    assert_eq!((answer.len(), client.saw_eof()), (1 << 20, true));
    assert_eq!(closed(&world.stop(), CloseReason::Handler), 1);
}

/// What became of a connect is told by a call, which can fail itself: as if the connect had,
/// unless it is a mistake of ours.
#[test]
fn nobody_knows_what_became_of_a_connect() {
    for (errno, bugs) in [(Errno::ENOMEM, 0), (Errno::EBADF, 1)] {
        let limits = Limits { max_outbound: 1, ..Limits::default() };
        let mut world = World::new(Dialer::default(), limits);
        let back = Address::Tcp(([127, 0, 0, 1], 90).into());
        let _remote = world.sim.listen(&back).unwrap();
        world.sim.fail(At::Of(Method::GetsockoptError, 0), errno, Times::Once);
        let dial = move |_: &mut Dialer, net: &mut Net| {
            net.connect(&back, Duration::from_secs(1)).unwrap();
        };
        world.server.handle().call(dial).unwrap();
        world.rest();
        let why = match bugs {
            0 => CloseReason::Network { call: Call::Connect, errno },
            _ => CloseReason::Server { call: Call::ConnectResult, errno },
        };
        assert_eq!(world.server.handler().0, Some(why));
        world.server.handle().stop();
        world.pass(Duration::from_secs(1));
        assert_eq!(world.server.finish().unwrap().counters.bugs, bugs);
    }
}

/// Connections outwards take no room from those who come in.
#[test]
fn outwards_is_counted_apart() {
    let limits = Limits { max_connections: 1, max_outbound: 2, ..Limits::default() };
    let mut world = World::new(greet(), limits);
    let back = Address::Tcp(([127, 0, 0, 1], 90).into());
    let mut remote = world.sim.listen(&back).unwrap();
    let dial = move |_: &mut Greet, net: &mut Net| {
        for _ in 0..2 {
            net.connect(&back, Duration::from_secs(1)).unwrap();
        }
        let third = net.connect(&back, Duration::from_secs(1));
        assert_eq!(third.unwrap_err().errno, Errno::EMFILE);
    };
    let before = world.sim.count(Method::EpollCtl);
    world.server.handle().call(dial).unwrap();
    world.rest();
    assert_eq!(world.sim.count(Method::EpollCtl), before + 2 * 2, "to be told, and to be read");
    let there = [remote.accept().unwrap(), remote.accept().unwrap()];
    world.pass(Duration::from_secs(2));
    let mut client = world.client();
    assert_eq!(world.ask(&mut client, b"me\n"), b"Thank you for your message me\n");
    for mut client in there {
        assert_eq!(world.ask(&mut client, b"you\n"), b"Thank you for your message you\n");
    }
    world.stop();
}

/// What fails at once is reported as what fails later is: by `on_close`, once. Until then the
/// id is good.
#[test]
fn a_connect_that_fails_at_once() {
    let [tcp, unix] = [Address::Tcp(([127, 0, 0, 1], 90).into()), Address::Unix("/back".into())];
    let server = CloseReason::Server { call: Call::OutboundSocket, errno: Errno::EACCES };
    let network = |errno| CloseReason::Network { call: Call::Connect, errno };
    for (address, fault, why, bugs) in [
        (&unix, None, network(Errno::ENOENT), 0),
        (&tcp, Some((Method::Socket, Errno::EACCES)), server, 0),
        (&tcp, Some((Method::Connect, Errno::ENETUNREACH)), network(Errno::ENETUNREACH), 0),
        (&tcp, Some((Method::Connect, Errno::EBADF)), network(Errno::EBADF), 1),
    ] {
        let limits = Limits { max_outbound: 1, ..Limits::default() };
        let mut world = World::new(Dialer::default(), limits);
        let before = world.sim.descriptors();
        if let Some((method, errno)) = fault {
            world.sim.fail(At::Of(method, world.sim.count(method)), errno, Times::Once);
        }
        let there = address.clone();
        let dial = move |_: &mut Dialer, net: &mut Net| {
            let id = net.connect(&there, Duration::from_secs(1)).unwrap();
            assert!(net.send(id, b"hello"));
        };
        world.server.handle().call(dial).unwrap();
        world.rest();
        assert_eq!(world.server.handler().0, Some(why));
        assert_eq!(world.sim.descriptors(), before);
        world.server.handle().stop();
        world.pass(Duration::from_secs(1));
        let counters = world.server.finish().unwrap().counters;
        assert_eq!((counters.connected, counters.bugs), (1, bugs));
    }
}

/// A handler that dials again in `on_close`, where each connect fails at once, does so once a
/// turn: everybody else is served.
#[test]
fn who_dials_in_vain_holds_up_nobody() {
    struct Stubborn(Address);
    impl ConnectionHandler for Stubborn {
        type Session = ();
        fn on_start(&mut self, net: &mut Net) -> Result<(), Error> {
            net.connect(&self.0, Duration::from_secs(1)).map(drop)
        }
        fn on_data(&mut self, conn: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
            conn.write(input);
            input.len()
        }
        fn on_close(&mut self, net: &mut Net, _: ConnId, _: (), _: CloseReason) {
            let _ = net.connect(&self.0, Duration::from_secs(1));
        }
    }
    let handler = Stubborn(Address::Unix("/run/nobody".into()));
    let mut world = World::new(handler, Limits { max_outbound: 1, ..Limits::default() });
    let mut client = world.client();
    client.send(b"hello");
    (0..20).for_each(|_| world.turn());
    assert_eq!(client.recv(), b"hello");
    assert_eq!(world.sim.count(Method::Connect), 1 + 20, "one in the first turn");
    let sim = world.sim.clone();
    drop(world);
    assert_eq!(sim.descriptors(), 0);
}

/// A connect has so much time, and no more.
#[test]
fn a_connect_that_is_too_slow() {
    let mut world = World::new(Dialer::default(), Limits { max_outbound: 1, ..Limits::default() });
    let back = Address::Tcp(([127, 0, 0, 1], 90).into());
    let mut remote = world.sim.listen(&back).unwrap();
    remote.mute(true);
    let dial = move |_: &mut Dialer, net: &mut Net| {
        net.connect(&back, Duration::from_secs(1)).unwrap();
    };
    world.server.handle().call(dial).unwrap();
    world.pass(Duration::from_millis(990));
    assert_eq!(world.server.handler().0, None);
    world.pass(Duration::from_millis(20));
    let why = CloseReason::Network { call: Call::Connect, errno: Errno::ETIMEDOUT };
    assert_eq!(world.server.handler().0, Some(why));
    world.stop();
}

/// A connection outwards that does not stand yet can be closed like any other.
#[test]
fn closed_while_connecting() {
    let mut world = World::new(Dialer::default(), Limits { max_outbound: 1, ..Limits::default() });
    let back = Address::Tcp(([127, 0, 0, 1], 90).into());
    let mut remote = world.sim.listen(&back).unwrap();
    remote.mute(true);
    let before = world.sim.descriptors();
    let dial = move |_: &mut Dialer, net: &mut Net| {
        let id = net.connect(&back, Duration::from_secs(1)).unwrap();
        assert!(net.close(id));
    };
    world.server.handle().call(dial).unwrap();
    let sockets = world.sim.count(Method::Socket);
    world.rest();
    assert_eq!(world.server.handler().0, Some(CloseReason::Handler));
    assert_eq!(world.sim.count(Method::Socket), sockets, "it never had one");
    assert_eq!(world.sim.descriptors(), before);
    world.stop();
}

/// A newcomer in `chat` sets the timer of another member. A member that is on its way out
/// has none: its lingering takes as long as it would have taken.
#[test]
fn a_newcomer_does_not_cut_a_goodbye() {
    let limits = Limits {
        idle_timeout: Some(Duration::from_secs(2)),
        write_timeout: None,
        ..Limits::default()
    };
    let mut world = World::new(Chat::new(64), limits);
    let before = world.sim.descriptors();
    let _silent = world.client();
    world.pass(Duration::from_millis(2_300));
    assert_eq!(world.sim.count(Method::Shutdown), 1, "it has been idle, and lingers");
    let _newcomer = world.client();
    world.pass(Duration::from_millis(1_500));
    assert_eq!(world.sim.descriptors(), before + 2, "it still lingers");
    world.pass(Duration::from_millis(400));
    assert_eq!(world.sim.descriptors(), before + 1);
}

/// Notes what happens to a connection that it begins.
#[derive(Default)]
struct Early {
    id: Option<ConnId>,
    opened: bool,
    heard: usize,
    rang: bool,
    drained: bool,
    why: Option<CloseReason>,
}

impl ConnectionHandler for Early {
    type Session = ();
    fn on_open(&mut self, _: &mut Conn<'_>, _: &mut ()) {
        self.opened = true;
    }
    fn on_data(&mut self, _: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
        self.heard += input.len();
        input.len()
    }
    fn on_timer(&mut self, _: &mut Conn<'_>, _: &mut ()) {
        self.rang = true;
    }
    fn on_drain(&mut self, _: &mut Conn<'_>, _: &mut ()) {
        self.drained = true;
    }
    fn on_close(&mut self, _: &mut Net, _: ConnId, _: (), why: CloseReason) {
        self.why = Some(why);
    }
}

/// A world in which a connection is being begun, to somebody who does not answer yet, and
/// `act` has been done to it.
fn dialing(
    limits: Limits,
    act: impl FnOnce(&mut Conn<'_>) + Send + 'static,
) -> (World<Early>, Remote) {
    let mut world = World::new(Early::default(), Limits { max_outbound: 1, ..limits });
    let back = Address::Tcp(([127, 0, 0, 1], 90).into());
    let mut remote = world.sim.listen(&back).unwrap();
    remote.mute(true);
    let dial = move |early: &mut Early, net: &mut Net| {
        let id = net.connect(&back, Duration::from_secs(5)).unwrap();
        early.id = Some(id);
        act(&mut net.conn(id).unwrap());
    };
    world.server.handle().call(dial).unwrap();
    world.rest();
    (world, remote)
}

/// The timer of a handler does not replace the time that a connect has; it runs all the
/// same, and rings once the connection stands.
#[test]
fn a_timer_leaves_the_time_of_a_connect_alone() {
    let too_slow = CloseReason::Network { call: Call::Connect, errno: Errno::ETIMEDOUT };
    for timer in [None, Some(100), Some(60_000)] {
        let (mut world, _remote) = dialing(Limits::default(), move |conn| {
            conn.set_timer(timer.map(Duration::from_millis));
        });
        world.pass(Duration::from_millis(4_990));
        assert_eq!(world.server.handler().why, None, "{timer:?}");
        world.pass(Duration::from_millis(20));
        assert_eq!(world.server.handler().why, Some(too_slow), "{timer:?}");
        assert!(!world.server.handler().rang);
        world.stop();
    }
    let (mut world, mut remote) =
        dialing(Limits::default(), |conn| conn.set_timer(Some(Duration::from_secs(1))));
    remote.mute(false);
    world.pass(Duration::from_millis(990));
    assert!(world.server.handler().opened && !world.server.handler().rang);
    world.pass(Duration::from_millis(20));
    assert!(world.server.handler().rang);
    world.stop();
}

/// What is written to a connection that is still being begun waits until it stands, and so
/// does the end.
#[test]
fn written_while_connecting() {
    let (mut world, mut remote) = dialing(Limits::default(), |conn| {
        conn.write(b"hello ");
        conn.write(b"there");
        assert_eq!(conn.queued(), 11);
        let id = conn.id();
        conn.finish();
        assert!(!conn.net().send(id, b"too late"));
    });
    assert_eq!(world.sim.count(Method::Send), 0);
    assert!(world.server.memory().0 > 0, "it counts");
    remote.mute(false);
    world.rest();
    let mut server = remote.accept().unwrap();
    assert_eq!(server.recv(), b"hello there");
    assert!(server.saw_eof());
    server.close();
    world.rest();
    assert_eq!(world.server.handler().why, Some(CloseReason::PeerClosed));
    assert_eq!(world.server.memory(), (0, 0));
    world.stop();
}

/// What a handler asks of a connection that is still being begun holds when it stands.
#[test]
fn asked_while_connecting() {
    let (mut world, mut remote) = dialing(Limits::default(), |conn| {
        conn.pause();
        assert!(conn.is_paused());
        conn.hold(true);
    });
    remote.mute(false);
    world.rest();
    let mut server = remote.accept().unwrap();
    server.send(b"hello");
    world.rest();
    assert_eq!(world.server.handler().heard, 0, "it is paused");
    let go_on = |early: &mut Early, net: &mut Net| net.conn(early.id.unwrap()).unwrap().resume();
    world.server.handle().call(go_on).unwrap();
    world.rest();
    assert_eq!(world.server.handler().heard, 5);
    world.sim.signal(Signal::SIGTERM);
    world.pass(Duration::from_secs(5));
    assert!(world.running && world.server.handler().why.is_none(), "it is held");
    server.close();
    world.end();
    assert_eq!(world.server.handler().why, Some(CloseReason::PeerClosed));

    // And what is said last is said of it.
    let (mut world, mut remote) = dialing(Limits::default(), |conn| {
        conn.pause();
        conn.hold(true);
        conn.resume();
        conn.hold(false);
    });
    remote.mute(false);
    world.rest();
    let mut server = remote.accept().unwrap();
    server.send(b"hello");
    world.rest();
    assert_eq!(world.server.handler().heard, 5);
    world.sim.signal(Signal::SIGTERM);
    world.pass(Duration::from_secs(5));
    assert!(!world.running);

    // A duplex connection is read although it is full; another is not.
    for (duplex, heard) in [(true, 5), (false, 0)] {
        let limits = Limits { high_water: 1_000, ..Limits::default() };
        let (mut world, mut remote) = dialing(limits, move |conn| {
            conn.duplex(duplex);
            conn.write(&[7; 200_000]);
        });
        remote.mute(false);
        world.rest();
        let mut server = remote.accept().unwrap();
        server.send(b"hello");
        world.rest();
        assert_eq!(world.server.handler().heard, heard);
    }
}

/// It is bounded as all output is, has a high water mark, and is dropped with the connection.
#[test]
fn much_is_written_while_connecting() {
    let much = |conn: &mut Conn<'_>| {
        conn.write(&[7; 1_000]);
        assert!(!conn.is_full());
        conn.write(&[7; 1_000]);
        assert!(conn.is_full());
    };
    let limits = Limits { high_water: 1_500, max_output: 2_500, ..Limits::default() };
    let (mut world, mut remote) = dialing(limits.clone(), much);
    remote.mute(false);
    world.rest();
    assert_eq!(remote.accept().unwrap().recv().len(), 2_000);
    world.rest();
    assert!(world.server.handler().drained);
    world.stop();

    let (mut world, mut remote) = dialing(limits.clone(), much);
    world.pass(Duration::from_secs(6));
    assert!(world.server.handler().why.is_some());
    assert_eq!(world.server.memory(), (0, 0));
    remote.mute(false);
    assert!(remote.accept().is_none());
    world.stop();

    let (mut world, _remote) = dialing(limits, much);
    let more = |early: &mut Early, net: &mut Net| assert!(net.send(early.id.unwrap(), &[7; 501]));
    world.server.handle().call(more).unwrap();
    world.rest();
    assert_eq!(world.server.handler().why, Some(CloseReason::OutputLimit));
    assert_eq!(world.server.memory(), (0, 0));
    world.stop();
}

/// Whatever a handler does, `on_data` has bytes: a natural handler looks at the first.
#[test]
fn on_data_always_has_bytes() {
    struct Careless;
    impl ConnectionHandler for Careless {
        type Session = ();
        fn on_data(&mut self, conn: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
            assert_ne!(input, b"", "on_data without bytes");
            conn.write(&[input[0]; 1_000]);
            conn.pause();
            input.len()
        }
        fn on_drain(&mut self, conn: &mut Conn<'_>, _: &mut ()) {
            conn.resume();
        }
    }
    let mut world = World::new(Careless, Limits { high_water: 100, ..Limits::default() });
    let mut client = world.client();
    for _ in 0..3 {
        assert_eq!(world.ask(&mut client, b"x").len(), 1_000);
    }
    world.stop();
}

/// A handler that keeps its connection outwards alive begins it again when it ends. Not while
/// the server stops, which would then never end.
#[test]
fn who_dials_again_does_not_hold_up_a_stop() {
    struct Faithful(Address, Vec<Errno>);
    impl ConnectionHandler for Faithful {
        type Session = ();
        fn on_data(&mut self, _: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
            input.len()
        }
        fn on_close(&mut self, net: &mut Net, _: ConnId, _: (), _: CloseReason) {
            let again = net.connect(&self.0, Duration::from_secs(1));
            self.1.extend(again.err().map(|error| error.errno));
        }
    }
    for drain_timeout in [None, Some(Duration::from_secs(3))] {
        let sim = Simulated::new(1);
        let back = Address::Tcp(([127, 0, 0, 1], 90).into());
        let mut remote = sim.listen(&back).unwrap();
        remote.mute(true);
        let handler = Faithful(back, Vec::new());
        let limits = Limits { drain_timeout, max_outbound: 5, ..Limits::default() };
        let mut world = World::on(sim, handler, limits).unwrap();
        let mut client = world.client();
        world.rest();
        client.reset();
        world.pass(Duration::from_secs(10));
        assert!(world.sim.count(Method::Connect) >= 9, "it tries and tries");
        world.sim.signal(Signal::SIGTERM);
        world.end();
        assert_eq!(world.server.handler().1, [Errno::ESHUTDOWN]);
    }
    // For a client that is still there it may be begun; the drain deadline cuts both.
    let sim = Simulated::new(1);
    let back = Address::Tcp(([127, 0, 0, 1], 90).into());
    let mut remote = sim.listen(&back).unwrap();
    remote.mute(true);
    let handler = Faithful(back, Vec::new());
    let drain_timeout = Some(Duration::from_secs(3));
    let limits = Limits { drain_timeout, max_outbound: 5, ..Limits::default() };
    let mut world = World::on(sim, handler, limits).unwrap();
    let (mut gone, _held) = (world.client(), [world.client(), world.client(), world.client()]);
    world.rest();
    let hold = |_: &mut Faithful, net: &mut Net| {
        net.ids().collect::<Vec<_>>().into_iter().for_each(|id| {
            net.conn(id).unwrap().hold(true);
        });
    };
    world.server.handle().call(hold).unwrap();
    world.rest();
    gone.reset();
    world.rest();
    world.sim.signal(Signal::SIGTERM);
    world.pass(Duration::from_millis(2_900));
    assert!(world.running && world.sim.count(Method::Connect) >= 3);
    world.pass(Duration::from_millis(200));
    assert!(!world.running);
    world.end();
}

/// A paused connection is offered nothing, and what waited comes after resume, first and
/// whole; a stop waits for it.
#[test]
fn pause_and_resume() {
    struct Slow;
    impl ConnectionHandler for Slow {
        type Session = ();
        fn on_data(&mut self, conn: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
            conn.write(&input[..1]);
            conn.pause();
            conn.set_timer(Some(Duration::from_secs(1)));
            1
        }
        fn on_timer(&mut self, conn: &mut Conn<'_>, _: &mut ()) {
            conn.write(b".");
            conn.resume();
        }
    }
    let mut world = World::new(Slow, Limits::default());
    let mut client = world.client();
    assert_eq!(world.ask(&mut client, b"abc"), b"a");
    world.pass(Duration::from_millis(900));
    assert_eq!(world.ask(&mut client, b"d"), b"");
    world.pass(Duration::from_millis(200));
    assert_eq!(client.recv(), b".b");
    let summary = world.stop();
    assert_eq!(client.recv(), b".c.d.");
    assert!(client.saw_eof());
    assert_eq!(closed(&summary, CloseReason::Shutdown), 1);
}

/// What a handler had left for want of more is offered again after a pause, though it was
/// somebody else who made that pause, and no byte has come since.
#[test]
fn a_pause_made_by_others() {
    #[derive(Default)]
    struct Patient(Vec<Vec<u8>>);
    impl ConnectionHandler for Patient {
        type Session = ();
        fn on_data(&mut self, _: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
            self.0.push(input.to_vec());
            0
        }
    }
    let mut world = World::new(Patient::default(), Limits::default());
    let mut client = world.client();
    world.ask(&mut client, b"half");
    let every = |world: &mut World<Patient>, change: fn(&mut Conn<'_>)| {
        let job = move |_: &mut Patient, net: &mut Net| {
            let all: Vec<ConnId> = net.ids().collect();
            all.into_iter().for_each(|id| change(&mut net.conn(id).unwrap()));
        };
        world.server.handle().call(job).unwrap();
        world.rest();
    };
    every(&mut world, |conn| conn.resume()); // there is no pause to end
    assert_eq!(world.server.handler().0, [b"half"]);
    every(&mut world, |conn| conn.pause());
    every(&mut world, |conn| conn.resume());
    assert_eq!(world.server.handler().0, [b"half", b"half"]);
    world.stop();
}

/// A paused connection whose peer is gone does not make the loop spin.
#[test]
fn a_paused_connection_whose_peer_is_gone() {
    struct Never;
    impl ConnectionHandler for Never {
        type Session = ();
        fn on_data(&mut self, conn: &mut Conn<'_>, _: &mut (), _: &[u8]) -> usize {
            conn.pause();
            0
        }
    }
    let mut world = World::new(Never, Limits::default());
    let mut client = world.client();
    world.ask(&mut client, b"abc");
    client.send(b"def");
    client.reset();
    world.rest();
    assert_eq!(world.sim.count(Method::Recv), 2, "nobody will take more");
    assert_eq!(closed(&world.stop(), CloseReason::PeerReset), 1);
}

/// Echoes to many clients that do not read: all that waits stays below the budget,
/// and a client that does read is served meanwhile.
#[test]
fn the_memory_budget() {
    let limits = Limits { max_memory: 4 << 20, write_timeout: None, ..Limits::default() };
    let mut world = World::new(Echo, limits);
    let mut deaf: Vec<Client> = (0..64).map(|_| world.client()).collect();
    let mut quiet = world.client();
    for _ in 0..40 {
        for client in &mut deaf {
            client.send(&vec![b'x'; 60_000]);
        }
        world.rest();
        assert_eq!(world.ask(&mut quiet, b"ping"), b"ping");
    }
    // Memory comes free again, and everybody gets all that was sent.
    let (mut sent, mut received) = (0, 0);
    for client in &mut deaf {
        sent += client.send(b"end");
    }
    for _ in 0..400 {
        world.pass(Duration::from_millis(200));
        received = deaf.iter_mut().map(|client| client.recv().len()).sum::<usize>().max(received);
    }
    assert!(sent <= 64 * 3 && received < 1 << 30);
    let summary = world.stop();
    assert_eq!(closed(&summary, CloseReason::MemoryBudget), 0, "{summary}");
}

/// Where memory is so short that nobody may owe anything more, whoever owes nothing is
/// read in small pieces, and served.
#[test]
fn served_from_the_reserve() {
    struct Flood;
    impl ConnectionHandler for Flood {
        type Session = ();
        fn on_data(&mut self, conn: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
            match input {
                b"flood" => conn.write(&vec![b'x'; 960 << 10]),
                _ => conn.write(input),
            }
            input.len()
        }
    }
    let mut world = World::new(Flood, Limits { max_memory: 1 << 20, ..Limits::default() });
    world.sim.set_buffers(100, 100);
    let mut deaf = world.client();
    deaf.send(b"flood");
    world.rest();
    let (used, _) = world.server.memory();
    assert!(used > 960 << 10, "{used}: nobody else may take what is left");
    world.sim.set_buffers(64 << 10, 64 << 10);
    let mut quiet = world.client();
    for _ in 0..3 {
        assert_eq!(world.ask(&mut quiet, b"ping"), b"ping");
    }
    world.sim.take_trace();
    assert_eq!(world.ask(&mut quiet, &[b'.'; 5_000]), [b'.'; 5_000]);
    let calls = world.sim.take_trace();
    let mut read = calls.iter().filter(|call| call.method == Method::Recv);
    assert!(read.all(|call| call.result.unwrap() <= 512), "the reserve is for all");
    deaf.reset();
    world.rest();
    assert_eq!(world.server.memory().0, 0);
    world.stop();
}

/// Who sends when there is no memory at all is not read, and it is the worst debtor who
/// goes. Then everything goes on, also for a connection that is read though it be full.
#[test]
fn no_memory_at_all() {
    struct Flood(bool);
    impl ConnectionHandler for Flood {
        type Session = ();
        fn on_open(&mut self, conn: &mut Conn<'_>, _: &mut ()) {
            conn.duplex(self.0);
        }
        fn on_data(&mut self, conn: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
            match input {
                b"flood" => conn.write(&vec![b'x'; 1_020 << 10]),
                b"hush" => {}
                _ => conn.write(input),
            }
            input.len()
        }
    }
    for (duplex, words, answer) in
        [(false, b"ping", &b"ping"[..]), (true, b"ping", b"ping"), (false, b"hush", b"")]
    {
        let limits = Limits { max_memory: 1 << 20, ..Limits::default() };
        let mut world = World::new(Flood(duplex), limits);
        world.sim.set_buffers(100, 100);
        let [mut deaf, mut quiet] = [world.client(), world.client()];
        deaf.send(b"flood");
        world.rest();
        for _ in 0..3 {
            assert_eq!(world.ask(&mut quiet, words), answer);
        }
        deaf.recv();
        assert!(deaf.saw_reset());
        assert_eq!(closed(&world.stop(), CloseReason::MemoryBudget), 1);
    }
}

/// Where many short rests fill the memory nobody is to blame. Who sends on has to wait, with
/// his bytes in the kernel, until others have left.
#[test]
fn many_short_rests() {
    struct Whole;
    impl ConnectionHandler for Whole {
        type Session = ();
        fn on_data(&mut self, conn: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
            if !input.ends_with(b"\n") {
                return 0;
            }
            conn.write(b"ok\n");
            input.len()
        }
    }
    let limits = Limits { max_memory: 1 << 20, ..Limits::default() };
    let mut world = World::new(Whole, limits);
    let mut clients: Vec<Client> = (0..600).map(|_| world.client()).collect();
    world.rest();
    for part in [1_000, 250, 250] {
        clients.iter_mut().for_each(|client| assert_eq!(client.send(&vec![b'x'; part]), part));
        world.rest();
    }
    let (used, _) = world.server.memory();
    assert!((760 << 10..1 << 20).contains(&used), "{used}");
    let received = world.sim.count(Method::Recv);
    assert_eq!(clients[599].send(b"\n"), 1);
    world.rest();
    assert_eq!(world.sim.count(Method::Recv), received, "there is no memory to read it");
    clients.drain(..300).for_each(|mut client| client.reset());
    world.rest();
    assert_eq!(clients[299].recv(), b"ok\n");
    assert_eq!(closed(&world.stop(), CloseReason::MemoryBudget), 0);
}

/// What others have written for a connection in the same turn counts as its output.
#[test]
fn what_others_wrote_counts() {
    #[derive(Default)]
    struct Gossip(Vec<usize>);
    impl ConnectionHandler for Gossip {
        type Session = ();
        fn on_data(&mut self, conn: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
            let own = conn.id();
            self.0.push(conn.queued());
            let others: Vec<ConnId> = conn.net().ids().filter(|id| *id != own).collect();
            others.into_iter().for_each(|id| assert!(conn.net().send(id, input)));
            input.len()
        }
    }
    let mut world = World::new(Gossip::default(), Limits::default());
    let [mut one, mut other] = [world.client(), world.client()];
    world.rest();
    one.send(b"hello");
    other.send(b"you");
    world.rest();
    assert_eq!((one.recv(), other.recv()), (b"you".to_vec(), b"hello".to_vec()));
    assert_eq!(world.server.handler().0, [0, 5]);
    world.stop();
}

/// A broadcast stands in memory once, however many it goes to, and cuts nobody who reads.
#[test]
fn a_broadcast_far_beyond_the_budget() {
    struct Shout;
    impl ConnectionHandler for Shout {
        type Session = ();
        fn on_data(&mut self, conn: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
            let all: Vec<ConnId> = conn.net().ids().collect();
            let bytes = vec![b'!'; 64 << 10];
            all.into_iter().for_each(|id| assert!(conn.net().send(id, &bytes)));
            input.len()
        }
    }
    let mut world = World::new(Shout, Limits { max_memory: 1 << 20, ..Limits::default() });
    let mut clients: Vec<Client> = (0..100).map(|_| world.client()).collect();
    world.rest();
    clients[0].send(b"now");
    world.rest();
    for client in &mut clients {
        assert_eq!(client.recv().len(), 64 << 10);
    }
    assert_eq!(closed(&world.stop(), CloseReason::Shutdown), 100);
}

/// However much a client goes on to send, a stop comes to its end, and so does a
/// connection to which nothing can be sent any more.
#[test]
fn an_endless_message() {
    struct Swallows(usize);
    impl ConnectionHandler for Swallows {
        type Session = ();
        fn on_data(&mut self, conn: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
            self.0 += input.len();
            conn.write(b".");
            input.len()
        }
    }
    for is_stop in [true, false] {
        let limits = Limits { drain_timeout: None, ..Limits::default() };
        let mut world = World::new(Swallows(0), limits);
        world.sim.set_buffers(256 << 10, 256 << 10);
        let mut client = world.client();
        world.rest();
        match is_stop {
            true => assert!(world.sim.signal(Signal::SIGTERM)),
            false => world.sim.fail(At::Of(Method::Send, 0), Errno::EPIPE, Times::Once),
        }
        client.send(&[b'x'; 256 << 10]);
        for _ in 0..200 {
            world.turn();
            client.recv();
            client.send(&[b'x'; 256 << 10]);
        }
        assert!(client.saw_eof() || client.saw_reset());
        client.close();
        world.rest();
        let heard = world.server.handler().0;
        match is_stop {
            true => assert!((8 << 20..9 << 20).contains(&heard), "{heard}"),
            false => assert_eq!(heard, (8 << 20) + (64 << 10)), // the recv before the failure
        }
        world.server.handle().stop();
        assert_eq!(world.end().counters.received, heard as u64);
    }
}

/// What the server is doing, as it says when it is asked.
#[test]
fn sigusr1() {
    diary::begin();
    let mut world = World::new(greet(), Limits::default());
    let mut client = world.client();
    world.ask(&mut client, b"me\nrest");
    world.pass(Duration::from_millis(1_500));
    assert!(world.sim.signal(Signal::SIGUSR1));
    world.rest();
    assert_eq!(diary::count("received 7 sent 30 rest 4 idle 1.500 s"), 1);
    assert_eq!(diary::count("1 open, holding "), 1);
    assert_eq!(diary::count(" 7 bytes received, 30 sent"), 1);
    world.stop();
}

/// A second signal ends everything at once; what was cut off is reset, told, and counted. Two
/// that come within half a second are one, unless somebody has typed Ctrl-C again.
#[test]
fn a_second_signal_resets() {
    use Signal::{SIGINT, SIGTERM};
    for (first, second, millis, ends) in [
        (SIGTERM, SIGINT, 500, true),
        (SIGINT, SIGTERM, 500, true),
        (SIGINT, SIGINT, 1, true),
        (SIGTERM, SIGTERM, 499, false),
        (SIGTERM, SIGINT, 499, false),
        (SIGINT, SIGTERM, 1, false),
    ] {
        let mut world = World::new(greet(), Limits::default());
        let mut deaf = world.client();
        deaf.send(&vec![b'\n'; 60_000]);
        world.rest();
        world.sim.signal(first);
        world.rest();
        world.sim.advance(Duration::from_millis(millis));
        world.sim.signal(second);
        world.rest();
        assert_eq!(world.running, !ends, "{first} {second} {millis}");
        let summary = world.end();
        deaf.recv();
        assert!(summary.forced == ends && deaf.saw_reset());
        assert_eq!(summary.stopped_by, Some(second));
        assert_eq!(closed(&summary, CloseReason::DrainDeadline), 1);
    }
}

/// Ctrl-C that is typed again means *now*, whatever else comes before or between.
#[test]
fn ctrl_c_among_other_signals() {
    use Signal::{SIGINT, SIGTERM};
    for signals in [[SIGTERM, SIGINT, SIGINT], [SIGINT, SIGTERM, SIGINT]] {
        let mut world = World::new(greet(), Limits::default());
        let mut deaf = world.client();
        deaf.send(&vec![b'\n'; 60_000]);
        world.rest();
        for signal in signals {
            assert!(world.running);
            world.sim.signal(signal);
            world.rest();
        }
        assert!(!world.running, "{signals:?}");
    }
}

/// `Handle::stop` is never refused, though the mailbox is full.
#[test]
fn stop_with_a_full_mailbox() {
    let mut world = World::new(greet(), Limits::default());
    let handle = world.server.handle();
    while handle.call(|_, _| {}).is_ok() {}
    handle.stop();
    world.end();
}

/// Calls from several threads, made while the loop turns, are all made, in the order of
/// each: some pause a client, and the last lets it go on.
#[test]
fn calls_from_other_threads() {
    const CALLS: u32 = 2_000;
    #[derive(Default)]
    struct Calls([Vec<u32>; 4]);
    impl ConnectionHandler for Calls {
        type Session = ();
        fn on_data(&mut self, conn: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
            conn.write(input);
            input.len()
        }
    }
    let mut world = World::new(Calls::default(), Limits::default());
    let mut client = world.client();
    world.rest();
    let handle = world.server.handle();
    let threads = [0, 1, 2, 3].map(|thread| {
        let handle = handle.clone();
        std::thread::spawn(move || {
            for number in 0..CALLS {
                let job = move |calls: &mut Calls, net: &mut Net| {
                    calls.0[thread].push(number);
                    let all: Vec<ConnId> = net.ids().collect();
                    for id in all {
                        let mut conn = net.conn(id).unwrap();
                        if number % 2 == 0 { conn.pause() } else { conn.resume() }
                    }
                };
                handle.call(job).unwrap();
            }
        })
    });
    while !threads.iter().all(|thread| thread.is_finished()) {
        client.send(b".");
        // With nothing to do, a turn would jump to the next deadline.
        if world.sim.is_ready() || !world.server.is_idle() {
            world.turn();
        }
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    handle
        .call(|_, net| {
            let id = net.ids().next().unwrap();
            net.conn(id).unwrap().resume();
        })
        .unwrap();
    world.rest();
    let due: Vec<u32> = (0..CALLS).collect();
    assert!(world.server.handler().0.iter().all(|calls| *calls == due));
    client.recv();
    assert_eq!(world.ask(&mut client, b"!"), b"!");
    world.stop();
}

/// When epoll takes no more, the client just accepted is watched a little later, and the others
/// wait for a while. It was closed.
#[test]
fn out_of_epoll_watches() {
    let mut world = World::new(greet(), Limits::default());
    let next = world.sim.count(Method::EpollCtl);
    world.sim.fail(At::Of(Method::EpollCtl, next), Errno::ENOSPC, Times::Once);
    let mut clients: Vec<Client> = (0..20).map(|_| world.client()).collect();
    world.rest();
    assert_eq!(world.sim.count(Method::Accept4), 1);
    clients.iter_mut().for_each(|client| assert_eq!(client.send(b"hello\n"), 6));
    world.pass(Duration::from_secs(1));
    let served = clients.iter_mut().filter_map(|c| (!c.recv().is_empty()).then_some(())).count();
    assert_eq!(served, 20);
    world.stop();
}

/// epoll denies to know a connection that it has: it ends, and nothing is tried that the
/// denial would make spin, however often it is repeated.
#[test]
fn a_connection_that_epoll_denies() {
    for times in [Times::Once, Times::Burst(3), Times::UntilHealed] {
        let mut world = World::new(Farewell, Limits::default());
        let mut client = world.client();
        world.rest();
        let next = world.sim.count(Method::EpollCtl);
        world.sim.fail(At::Of(Method::EpollCtl, next), Errno::ENOENT, times);
        client.send(b"hello\n");
        let turns = world.turns;
        world.rest();
        assert!(world.turns - turns < 5, "it spins: {} turns", world.turns - turns);
        assert_eq!(world.sim.count(Method::EpollCtl), next + 1, "it is not tried again");
        client.recv();
        assert!(client.saw_reset());
        world.sim.heal();
        assert!(world.sim.signal(Signal::SIGTERM));
        world.pass(Duration::from_secs(3_600));
        let counters = world.server.finish().unwrap().counters;
        assert_eq!((counters.bugs, world.running), (1, false));
    }
}

/// What epoll neither changes nor forgets would be reported for ever: it ends.
#[test]
fn what_epoll_neither_changes_nor_forgets() {
    let mut world = World::new(Farewell, Limits::default());
    let mut client = world.client();
    world.rest();
    let next = world.sim.count(Method::EpollCtl);
    world.sim.fail(At::Of(Method::EpollCtl, next), Errno::ENOMEM, Times::Once);
    world.sim.fail(At::Of(Method::EpollCtl, next + 1), Errno::EPERM, Times::Once);
    client.send(b"hello\n");
    world.rest();
    assert_eq!((world.server.open(), world.sim.count(Method::EpollCtl)), (0, next + 2));
    rest_of_answer(&mut world, &mut client);
    assert!(client.saw_reset());
    world.stop();
}

/// Who fails to keep new clients out says so once, for all listeners, and stops all the same;
/// whoever comes then is answered like the others.
#[test]
fn new_clients_that_cannot_be_refused() {
    let line = "; clients that connect from now on may get no answer";
    for (errno, lines) in [(Errno::EPERM, 1), (Errno::ENOPROTOOPT, 1)] {
        let addresses = ["127.0.0.1:80", "127.0.0.1:81"];
        let sim = Simulated::new(1);
        let mut world = World::at(addresses, sim.clone(), greet(), Limits::default()).unwrap();
        let mut client = world.client();
        world.rest();
        diary::begin();
        let next = At::Of(Method::Setsockopt, sim.count(Method::Setsockopt));
        sim.fail(next, errno, Times::UntilHealed);
        client.send(b"last\n");
        assert!(sim.signal(Signal::SIGTERM));
        world.rest();
        assert_eq!(diary::count(line), lines);
        assert_eq!(diary::count("setsockopt"), lines);
        assert_eq!(client.recv(), b"Thank you for your message last\n");
        let mut late = world.client();
        late.send(b"late\n");
        world.end();
        assert_eq!(late.recv(), b"Thank you for your message late\n");
    }
}

/// A Unix socket takes the place of a stale one, with the mode it should have; and at the
/// end its file goes.
#[test]
fn the_file_of_a_unix_socket() {
    let sim = Simulated::new(1);
    let path = Path::new(UNIX.trim_start_matches("unix:"));
    leave_stale_file(&sim);
    let limits = || Limits { unix_mode: 0o666, ..Limits::default() };
    let mut world = World::at(UNIX, sim.clone(), greet(), limits()).unwrap();
    assert_eq!(sim.file(path).unwrap().mode, 0o666);
    let another = World::at(UNIX, sim.clone(), greet(), limits());
    assert_eq!(another.err().unwrap().errno, Errno::EADDRINUSE);
    let mut client = world.client();
    assert_eq!(world.ask(&mut client, b"me\n"), b"Thank you for your message me\n");
    world.stop();
    assert_eq!(sim.file(path), None);
}

/// Nothing but a stale socket, or its own, is removed from the path of a Unix socket.
#[test]
fn the_files_of_others() {
    let path = Path::new(UNIX.trim_start_matches("unix:"));
    let sim = Simulated::new(1);
    sim.create_file(path);
    let theirs = sim.file(path);
    let error = World::at(UNIX, sim.clone(), greet(), Limits::default()).err().unwrap();
    assert_eq!((error.errno, sim.file(path)), (Errno::EADDRINUSE, theirs));

    let mut sim = Simulated::new(1);
    let world = World::at(UNIX, sim.clone(), greet(), Limits::default()).unwrap();
    sim.unlink(path).unwrap();
    sim.create_file(path);
    world.stop();
    assert!(sim.file(path).is_some(), "it is not the one that was made");

    let sim = Simulated::new(1);
    leave_stale_file(&sim);
    sim.fail(At::Of(Method::Connect, 0), Errno::EACCES, Times::Once);
    let error = World::at(UNIX, sim.clone(), greet(), Limits::default()).err().unwrap();
    assert_eq!(error.errno, Errno::EADDRINUSE);
    assert!(sim.file(path).is_some(), "perhaps somebody listens");
}

/// A client lost on its way in is no reason to pause; sixteen in a row are.
#[test]
fn clients_lost_on_their_way_in() {
    let mut world = World::new(greet(), Limits::default());
    let mut client = world.client();
    let lost = At::Of(Method::Accept4, 0);
    world.sim.fail(lost, Errno::ECONNABORTED, Times::Burst(15));
    assert_eq!(world.ask(&mut client, b"me\n"), b"Thank you for your message me\n");
    let before = world.sim.count(Method::Accept4);
    world.sim.fail(At::Of(Method::Accept4, before), Errno::ECONNABORTED, Times::UntilHealed);
    let mut next = world.client();
    next.send(b"me\n");
    world.rest();
    assert_eq!(world.sim.count(Method::Accept4), before + 16);
    world.sim.heal();
    world.pass(Duration::from_secs(1));
    assert_eq!(next.recv(), b"Thank you for your message me\n");
    let counters = world.stop().counters;
    assert_eq!((counters.accept_paused, counters.accept_failed), (1, 15 + 16));
}

/// In each turn twice as many are let in as in the last.
#[test]
fn a_crowd_comes_in_fast() {
    let mut world = World::new(greet(), Limits::default());
    let _crowd: Vec<Client> = (0..127).map(|_| world.client()).collect();
    world.rest();
    assert_eq!(world.sim.count(Method::Accept4), 127);
    assert_eq!(world.turns, 7);
}

/// A wait that was interrupted is begun again; one that fails is the end.
#[test]
fn a_wait_that_fails() {
    let mut world = World::new(greet(), Limits::default());
    let mut client = world.client();
    world.sim.fail(At::Of(Method::EpollWait, 0), Errno::EINTR, Times::Burst(3));
    assert_eq!(world.ask(&mut client, b"me\n"), b"Thank you for your message me\n");
    let next = At::Of(Method::EpollWait, world.sim.count(Method::EpollWait));
    world.sim.fail(next, Errno::EINVAL, Times::UntilHealed);
    client.send(b"me\n");
    world.rest();
    let failure = world.failure.map(|error| (error.call, error.errno));
    assert_eq!(failure, Some((Call::EpollWait, Errno::EINVAL)));
}

/// A connection that epoll would not take, for a reason that does not pass, is none that the
/// handler hears of.
#[test]
fn a_connection_that_epoll_refuses() {
    let limits = Limits { max_per_address: 1, ..Limits::default() };
    let mut world = World::new(Early::default(), limits);
    let next = At::Of(Method::EpollCtl, world.sim.count(Method::EpollCtl));
    world.sim.fail(next, Errno::EPERM, Times::Once);
    let mut refused = world.client();
    world.rest();
    refused.recv();
    assert!(refused.saw_reset());
    let handler = world.server.handler();
    assert!(!handler.opened && handler.why.is_none());
    let _next = world.client();
    world.rest();
    assert!(world.server.handler().opened, "the address has a place again");
}

/// A pause that begins anew lasts as long as it should, whenever the one before would have ended.
#[test]
fn a_pause_that_begins_anew() {
    let mut world = World::new(greet(), Limits::default());
    let mut guest = world.client();
    world.rest();
    let before = world.sim.count(Method::Accept4);
    let tries = |world: &World<Greet>| world.sim.count(Method::Accept4) - before;
    world.sim.fail(At::Of(Method::Accept4, before), Errno::EMFILE, Times::UntilHealed);
    let _waiting = world.client();
    world.pass(Duration::from_millis(200));
    assert_eq!(tries(&world), 5); // the next comes at 310 ms
    guest.close();
    world.rest();
    assert_eq!(tries(&world), 6); // and now at 520 ms
    world.pass(Duration::from_millis(310));
    assert_eq!(tries(&world), 6);
    world.pass(Duration::from_millis(20));
    assert_eq!(tries(&world), 7);
}

/// Who has left makes room for another from the same address.
#[test]
fn so_many_from_one_address() {
    let mut world = World::new(greet(), Limits { max_per_address: 1, ..Limits::default() });
    for _ in 0..3 {
        let [mut client, mut another] = [world.client(), world.client()];
        assert_eq!(world.ask(&mut client, b"me\n"), b"Thank you for your message me\n");
        another.recv();
        assert!(another.saw_eof());
        drop(client);
        world.rest();
    }
    assert_eq!(closed(&world.stop(), CloseReason::AddressLimit), 3);
}

/// Consumes nothing.
struct Waits;

impl ConnectionHandler for Waits {
    type Session = ();
    fn on_data(&mut self, _: &mut Conn<'_>, _: &mut (), _: &[u8]) -> usize {
        0
    }
}

/// A client that a limit cuts is named at once, and those who follow are counted in a line every
/// ten seconds.
#[test]
fn who_is_cut_is_told_now_and_then() {
    diary::begin();
    let mut world = World::new(Waits, Limits { max_input: 1_000, ..Limits::default() });
    let (cut, more) = (" was cut (", " more since the last such line");
    for (pause, lines, counted) in [(0, 1, 0), (1, 1, 0), (5, 1, 0), (5, 2, 1), (11, 3, 1)] {
        world.pass(Duration::from_secs(pause));
        let mut client = world.client();
        world.ask(&mut client, &[b'.'; 1_001]);
        assert!(client.saw_eof());
        client.close();
        world.rest();
        assert_eq!((diary::count(cut), diary::count(more)), (lines, counted));
    }
    assert_eq!(diary::count("(--max-line); 2 more since the last such line"), 1);
    world.stop();
}

/// A handler may leave so much unconsumed, and not a byte more.
#[test]
fn the_longest_rest() {
    let mut world = World::new(Waits, Limits { max_input: 1_000, ..Limits::default() });
    let [mut fits, mut long] = [world.client(), world.client()];
    world.ask(&mut fits, &[b'.'; 999]);
    world.ask(&mut fits, b".");
    world.ask(&mut long, &[b'.'; 1_001]);
    assert!(!fits.saw_eof() && long.saw_eof());
    world.ask(&mut fits, b".");
    assert!(fits.saw_eof());
    assert_eq!(closed(&world.stop(), CloseReason::InputLimit), 2);
}

/// While a client takes nothing, nothing is sent to it, though it goes on asking.
#[test]
fn no_send_in_vain() {
    let mut world = World::new(Echo, Limits::default());
    world.sim.set_buffers(100, 100);
    let mut client = world.client();
    for _ in 0..10 {
        client.send(&[b'.'; 50]);
        world.rest();
    }
    let sends = world.sim.count(Method::Send);
    for _ in 0..10 {
        assert_eq!(client.send(&[b'.'; 50]), 50);
        world.rest();
    }
    assert_eq!(world.sim.count(Method::Send), sends);
    let mut received = 0;
    for _ in 0..20 {
        received += client.recv().len();
        world.rest();
    }
    assert_eq!(received, 20 * 50);
    world.stop();
}

/// A handler that consumes what it was not offered is wrong, and its connection ends.
#[test]
fn more_consumed_than_offered() {
    struct Greedy;
    impl ConnectionHandler for Greedy {
        type Session = ();
        fn on_data(&mut self, _: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
            input.len() + 1
        }
    }
    let mut world = World::new(Greedy, Limits::default());
    let mut client = world.client();
    world.ask(&mut client, b"hello");
    assert!(client.saw_reset());
    world.server.handle().stop();
    world.pass(Duration::from_secs(1));
    assert_eq!(world.server.finish().unwrap().counters.bugs, 1);
}

/// What is short at one door is short at all: none is asked while the pause lasts.
#[test]
fn pauses_of_two_doors() {
    let doors = ["127.0.0.1:80", "127.0.0.1:81"];
    let mut world = World::at(doors, Simulated::new(1), greet(), Limits::default()).unwrap();
    let [first, second] = [0, 1].map(|door| world.server.addresses()[door].clone());
    world.sim.fail(At::Of(Method::Accept4, 0), Errno::EMFILE, Times::UntilHealed);
    let _waiting = world.sim.connect(&first).unwrap();
    world.pass(Duration::from_millis(200));
    let tries = world.sim.count(Method::Accept4); // the next comes at 310 ms
    assert_eq!(tries, 5);
    let _waiting = world.sim.connect(&second).unwrap();
    world.pass(Duration::from_millis(90));
    assert_eq!(world.sim.count(Method::Accept4), tries);
    world.sim.heal();
    world.pass(Duration::from_millis(30));
    assert_eq!(world.server.open(), 2);
    world.stop();
}

/// A listener that is none any more is the end of the server, with an error; whoever is in
/// is answered first.
#[test]
fn a_listener_that_is_lost() {
    let mut world = World::new(greet(), Limits::default());
    let mut client = world.client();
    world.rest();
    let next = At::Of(Method::Accept4, world.sim.count(Method::Accept4));
    world.sim.fail(next, Errno::EINVAL, Times::Once);
    client.send(b"me\n");
    let _lost = world.client();
    world.pass(Duration::from_secs(10));
    assert!(!world.running && world.failure.is_none());
    assert_eq!(client.recv(), b"Thank you for your message me\n");
    let error = world.server.finish().unwrap_err();
    assert_eq!((error.call, error.errno), (Call::Accept, Errno::EINVAL));
}

/// A descriptor that somebody else has closed is a bug, and told as one.
#[test]
fn a_close_that_finds_nothing() {
    let mut world = World::new(greet(), Limits::default());
    let client = world.client();
    world.rest();
    let next = At::Of(Method::Close, world.sim.count(Method::Close));
    world.sim.fail(next, Errno::EBADF, Times::Once);
    drop(client);
    world.rest();
    world.server.handle().stop();
    world.pass(Duration::from_secs(1));
    assert_eq!(world.server.finish().unwrap().counters.bugs, 1);
}

/// What connections inherit is set when the door is opened, and never again.
#[test]
fn options_are_set_once() {
    let without = || Limits { write_timeout: None, ..Limits::default() };
    for (address, limits, count) in [
        ("127.0.0.1:80", Limits::default(), 7),
        ("127.0.0.1:80", without(), 6),
        ("[::1]:80", without(), 7),
        (UNIX, Limits::default(), 1), // SO_PASSRIGHTS
    ] {
        let mut world = World::at(address, Simulated::new(1), greet(), limits).unwrap();
        let mut client = world.client();
        assert_eq!(world.ask(&mut client, b"me\n"), b"Thank you for your message me\n");
        assert_eq!(world.sim.count(Method::Setsockopt), count, "{address}");
    }
}

/// A stale file is removed only if it is in the way: any other failure leaves it alone.
#[test]
fn a_bind_that_fails_for_another_reason() {
    let sim = Simulated::new(1);
    leave_stale_file(&sim);
    let path = Path::new(UNIX.trim_start_matches("unix:"));
    let stale = sim.file(path).unwrap();
    sim.fail(At::Of(Method::Bind, sim.count(Method::Bind)), Errno::EACCES, Times::Once);
    let error = World::at(UNIX, sim.clone(), greet(), Limits::default()).err().unwrap();
    assert_eq!((error.call, error.errno), (Call::BindUnix, Errno::EACCES));
    assert_eq!(sim.file(path).map(|file| file.identity), Some(stale.identity));
}

/// One dialogue with everything in it, for the sweep below.
fn script(world: &mut World<Greet>) -> (Vec<u8>, Vec<u8>) {
    let mut answers = (Vec::new(), Vec::new());
    let Ok(mut first) = world.sim.connect(&world.address()) else { return answers };
    first.send(b"one\ntw");
    world.pass(Duration::from_millis(50));
    let second = world.sim.connect(&world.address());
    first.send(b"o\n");
    world.pass(Duration::from_secs(3));
    if let Ok(mut second) = second {
        second.send(b"other\n");
        second.shutdown();
        world.pass(Duration::from_secs(3));
        answers.1 = second.recv();
        second.close();
    }
    world.pass(Duration::from_secs(3));
    answers.0 = first.recv();
    first.shutdown();
    world.pass(Duration::from_secs(3));
    answers.0.extend(first.recv());
    answers
}

/// Each call of a dialogue fails in turn, with each of some errnos, once and in a burst:
/// the server never panics, spins or leaks, never lies in its answers, and stops cleanly.
#[test]
fn every_call_fails_in_turn() {
    let errnos = [
        Errno::EINTR,
        Errno::EAGAIN,
        Errno::ENOMEM,
        Errno::EMFILE,
        Errno::ECONNRESET,
        Errno::EPIPE,
        Errno::ENOBUFS,
        Errno::ETIMEDOUT,
        Errno::ENOENT,
        Errno::ECONNABORTED,
    ];
    let whole = b"Thank you for your message one\nThank you for your message two\n";
    let calls = {
        let mut world = World::new(greet(), Limits::default());
        assert_eq!(script(&mut world).0, whole);
        let sim = world.sim.clone();
        world.stop();
        sim.calls()
    };
    let mut cases = 0;
    for index in 0..calls {
        for errno in errnos {
            for times in [Times::Once, Times::Burst(3)] {
                let sim = Simulated::new(index);
                sim.fail(At::Call(index), errno, times);
                cases += 1;
                let case = format!("call {index} {errno:?} {times:?}");
                let _report = Report(&case);
                let Ok(mut world) = World::on(sim.clone(), greet(), Limits::default()) else {
                    assert_eq!(sim.descriptors(), 0, "{case}: a failed start leaks");
                    continue;
                };
                let (first, second) = script(&mut world);
                assert!(whole.starts_with(&first), "{case}: {:?}", String::from_utf8_lossy(&first));
                assert!(b"Thank you for your message other\n".starts_with(&second[..]), "{case}");
                sim.heal();
                if world.running {
                    sim.signal(Signal::SIGTERM);
                    world.pass(Duration::from_secs(3_600));
                    assert!(!world.running, "{case}: it did not stop");
                }
                drop(world);
                assert_eq!(sim.descriptors(), 0, "{case}: a leak\n{:?}", sim.trace());
            }
        }
    }
    println!("{cases} cases");
    assert!(cases > 800, "only {cases} cases");
}

#[test] // the clock is read once a turn, however many messages there are in it
fn the_clock() {
    let mut world = World::new(Greet::new(Framing::Line, 1 << 10), Limits::default());
    let mut clients: Vec<_> = (0..64).map(|_| world.client()).collect();
    world.rest();
    for _ in 0..10 {
        clients.iter_mut().for_each(|client| assert_eq!(client.send(b"hello\n"), 6));
        let (turns, reads) = (world.turns, world.sim.clock_reads());
        world.rest();
        assert_eq!(world.sim.clock_reads() - reads, world.turns - turns);
        assert_eq!(world.turns - turns, 1);
        clients
            .iter_mut()
            .for_each(|client| assert_eq!(client.recv(), b"Thank you for your message hello\n"));
    }
}

/// The log names a client that a limit cut, and none that left; and, once, what a sandbox forbids
/// of each connection.
#[test]
fn the_log_names_what_cut_a_client() {
    diary::begin();
    let limits = Limits { message_timeout: Some(Duration::from_secs(1)), ..Limits::default() };
    let mut world = World::new(greet(), limits);
    let [mut leaves, mut slow] = [world.client(), world.client()];
    leaves.close();
    slow.send(b"half a li");
    world.pass(Duration::from_secs(2));
    slow.close();
    world.rest();
    assert_eq!(diary::count(" was cut ("), 1);
    assert_eq!(diary::count(" was cut (message too slow)"), 1);
    let mut clients = [world.client(), world.client()];
    world.rest();
    let next = At::Of(Method::Recv, world.sim.count(Method::Recv));
    world.sim.fail(next, Errno::EPERM, Times::UntilHealed);
    clients.iter_mut().for_each(|client| _ = client.send(b"hello\n"));
    world.rest();
    assert_eq!((world.server.open(), diary::count(", or a firewall")), (0, 1));
    world.stop();
}

/// What a handler reads of its server and of a connection is what they have done so far.
#[test]
fn a_handler_reads_what_was_done() {
    let mut world = World::new(Echo, Limits::default());
    let mut client = world.client();
    assert_eq!(world.ask(&mut client, b"hello"), b"hello");
    let look = |_: &mut Echo, net: &mut Net| {
        let id = net.ids().next().unwrap();
        let counters = net.counters();
        assert_eq!((counters.accepted, counters.received, counters.sent), (1, 5, 5));
        assert_eq!((net.sent(id), net.conn(id).unwrap().sent()), (5, 5));
    };
    world.server.handle().call(look).unwrap();
    world.rest();
    assert!(world.running);
    world.stop();
}

/// As much output as `max_output` says may wait, to the byte.
#[test]
fn output_up_to_the_limit_waits() {
    let limits = Limits { max_output: 1_000, high_water: 500, ..Limits::default() };
    let mut world = World::new(Echo, limits);
    world.sim.set_buffers(100, 100);
    let _deaf = world.client();
    world.rest();
    let send = |world: &mut World<Echo>, up_to: usize| {
        let fill = move |_: &mut Echo, net: &mut Net| {
            let id = net.ids().next().unwrap();
            let waits = net.conn(id).unwrap().queued();
            assert!(net.send(id, &vec![b'x'; up_to - waits]));
        };
        world.server.handle().call(fill).unwrap();
        world.rest();
        world.server.counters().closed_for(CloseReason::OutputLimit)
    };
    assert_eq!(send(&mut world, 500), 0);
    assert_eq!(send(&mut world, 1_000), 0);
    assert_eq!(send(&mut world, 1_001), 1);
    world.stop();
}
