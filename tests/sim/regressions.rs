//! Bugs by name: those that were found here, each of whose tests failed before its fix; and
//! behind them the well-known ones, which such servers have had at some time.

use crate::simulation::World;
use std::path::Path;
use std::time::Duration;
use threadbare::Signal;
use threadbare::handlers::{CatchPanics, Echo, Framing, Greet, Http, Proxy};
use threadbare::kernel::sim::{At, Client, Method, Simulated, Times};
use threadbare::{
    Address, Call, CallError, CloseReason, Conn, ConnId, ConnectionHandler, Errno, File, Limits,
    Net,
};

/// A handler of which only the answer to bytes matters. (Boxed: a server is compiled for each
/// type of handler.)
struct Data<'a>(Box<Answer<'a>>);

type Answer<'a> = dyn FnMut(&mut Conn<'_>, &[u8]) -> usize + 'a;

impl<'a> Data<'a> {
    fn new(answer: impl FnMut(&mut Conn<'_>, &[u8]) -> usize + 'a) -> Data<'a> {
        Data(Box::new(answer))
    }
}

impl ConnectionHandler for Data<'_> {
    type Session = ();
    fn on_data(&mut self, conn: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
        (self.0)(conn, input)
    }
}

/// A world with room for thousands.
fn crowded<H: ConnectionHandler>(handler: H, limits: Limits) -> World<H> {
    let sim = Simulated::new(1);
    sim.set_limits(8_192, 8_192);
    World::on(sim, handler, limits).unwrap()
}

fn crowd<H: ConnectionHandler>(world: &World<H>, count: usize) -> Vec<Client> {
    (0..count).map(|_| world.client()).collect()
}

/// A connection that was judged full by bytes still staged, which the kernel then took
/// all, was never read again.
#[test]
fn full_by_what_was_only_staged() {
    struct Farewell;
    impl ConnectionHandler for Farewell {
        type Session = ();
        fn on_data(&mut self, conn: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
            let whole = input.ends_with(b"\n");
            conn.write(if whole { input } else { b"" });
            if whole { input.len() } else { 0 }
        }
        fn on_close(&mut self, net: &mut Net, _: ConnId, _: (), _: CloseReason) {
            let others: Vec<ConnId> = net.ids().collect();
            others.into_iter().for_each(|id| assert!(net.send(id, &[b'.'; 2_000])));
        }
    }
    let mut world = World::new(Farewell, Limits { high_water: 1_000, ..Limits::default() });
    let (mut stays, mut leaves, _idle) = (world.client(), world.client(), world.client());
    world.rest();
    stays.send(b"half a line");
    leaves.close();
    world.rest();
    assert_eq!(stays.recv().len(), 2_000);
    assert_eq!(world.ask(&mut stays, b"\n"), b"half a line\n");
}

/// A handler that wrote until `is_full` waited for ever for `on_drain`, if the kernel took
/// everything at once.
#[test]
fn on_drain_after_everything_was_taken_at_once() {
    struct Stream(usize);
    impl Stream {
        fn pump(&mut self, conn: &mut Conn<'_>) {
            while self.0 > 0 && !conn.is_full() {
                conn.write(&[b'x'; 1_024]);
                self.0 -= 1;
            }
        }
    }
    impl ConnectionHandler for Stream {
        type Session = ();
        fn on_data(&mut self, conn: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
            self.pump(conn);
            input.len()
        }
        fn on_drain(&mut self, conn: &mut Conn<'_>, _: &mut ()) {
            self.pump(conn);
        }
    }
    let limits = Limits { high_water: 32 << 10, ..Limits::default() };
    let mut world = World::new(Stream(1_024), limits);
    let mut client = world.client();
    let mut received = world.ask(&mut client, b"go").len();
    for _ in 0..200 {
        world.rest();
        received += client.recv().len();
    }
    assert_eq!(received, 1 << 20);
}

/// With so many busy clients that every batch was full, no deadline ever came.
#[test]
fn deadlines_beside_a_busy_crowd() {
    let handler = Data::new(|conn: &mut Conn<'_>, input: &[u8]| match input {
        b"half" => 0,
        _ => {
            conn.write(input);
            input.len()
        }
    });
    let limits = Limits { message_timeout: Some(Duration::from_secs(1)), ..Limits::default() };
    let mut world = crowded(handler, limits);
    let mut busy = crowd(&world, 1_100);
    let mut slow = world.client();
    slow.send(b"half");
    for _ in 0..150 {
        for client in &mut busy {
            client.recv();
            client.send(b"ping");
        }
        world.sim.advance(Duration::from_millis(10));
        world.turn();
    }
    slow.recv();
    assert!(slow.saw_eof());
}

/// At a stop everybody's last answers were staged before any was sent, and clients who
/// read were cut for want of memory.
#[test]
fn a_stop_with_more_to_answer_than_the_budget() {
    let mut world = crowded(Echo, Limits { max_memory: 16 << 20, ..Limits::default() });
    let mut clients = crowd(&world, 2_000);
    world.rest();
    world.sim.signal(Signal::SIGTERM);
    world.turn();
    clients.iter_mut().for_each(|client| assert_eq!(client.send(&[b'x'; 30_000]), 30_000));
    let mut received = 0;
    while world.running {
        world.rest();
        for client in &mut clients {
            received += client.recv().len();
            if client.saw_eof() {
                client.close();
            }
        }
        world.sim.advance(Duration::from_millis(5));
    }
    assert_eq!(received, 2_000 * 30_000);
    let summary = world.server.finish().unwrap();
    assert_eq!(summary.counters.closed_for(CloseReason::MemoryBudget), 0);
}

/// When epoll refused a connection, the whole quota of that turn met the same end.
#[test]
fn one_refused_by_epoll_not_a_quota() {
    let mut world = crowded(Echo, Limits::default());
    let _clients = crowd(&world, 300);
    (0..7).for_each(|_| world.turn());
    let accepted = world.sim.count(Method::Accept4);
    let next = At::Of(Method::EpollCtl, world.sim.count(Method::EpollCtl));
    world.sim.fail(next, Errno::ENOSPC, Times::Once);
    world.turn();
    assert_eq!(world.sim.count(Method::Accept4), accepted + 1);
}

/// At the drain deadline each client that was lost in a full queue took the turn of another: the
/// last of those who waited were reset uncounted, when the listener was closed.
#[test]
fn lost_clients_in_a_queue_that_is_turned_away() {
    for (lost, met) in [(0, 3), (1, 3), (3, 0)] {
        let limits = Limits { max_connections: 1, backlog: 2, ..Limits::default() };
        let mut world = World::new(Greet::new(Framing::Line, 100), limits);
        let mut deaf = world.client();
        deaf.send(&vec![b'\n'; 60_000]);
        world.rest();
        let _waiting = [world.client(), world.client(), world.client()];
        let accepts = world.sim.count(Method::Accept4);
        let times = if met > 0 { Times::Burst(lost.max(1)) } else { Times::UntilHealed };
        if lost > 0 {
            world.sim.fail(At::Of(Method::Accept4, accepts), Errno::EPERM, times);
        }
        world.sim.signal(Signal::SIGTERM);
        let summary = world.end();
        let counters = &summary.counters;
        assert_eq!((summary.cut, counters.accept_failed), (1 + met, lost), "{lost} lost");
        let at_deadline = counters.closed_for(CloseReason::DrainDeadline);
        assert_eq!((at_deadline, counters.accepted), (1 + met, 1 + met), "{lost} lost");
        let last = u64::from(lost == 0); // with nobody lost the queue is found to be empty: never
        assert!(world.sim.count(Method::Accept4) - accepts <= met + lost + last);
    }
}

/// And those that come without end, where they cannot be refused, do not hold it up.
#[test]
fn a_queue_that_is_turned_away_and_fills_again() {
    let limits = Limits { max_connections: 1, backlog: 2, ..Limits::default() };
    let mut world = World::new(Greet::new(Framing::Line, 100), limits);
    let mut deaf = world.client();
    deaf.send(&vec![b'\n'; 60_000]);
    world.rest();
    let _waiting = crowd(&world, 20); // the simulated kernel lets them in as there is room
    let options = world.sim.count(Method::Setsockopt);
    world.sim.fail(At::Of(Method::Setsockopt, options), Errno::ENOPROTOOPT, Times::Once);
    world.sim.signal(Signal::SIGTERM);
    assert_eq!(world.end().cut, 1 + 3);
}

/// A second signal, while a stop was only announced, reset the clients in the queue of a socket
/// that others have too.
#[test]
fn a_queue_of_others_at_a_second_signal() {
    let sim = Simulated::new(1);
    let address = Address::Tcp(([127, 0, 0, 1], 80).into());
    let number = sim.pass(&address).unwrap();
    let limits = Limits {
        max_connections: 1,
        stop_delay: Some(Duration::from_secs(5)),
        ..Limits::default()
    };
    let mut world = World::at(&*format!("fd:{number}"), sim.clone(), Echo, limits).unwrap();
    let _served = world.client();
    world.rest();
    let mut waits = world.client();
    sim.signal(Signal::SIGTERM);
    world.pass(Duration::from_secs(1));
    sim.signal(Signal::SIGTERM);
    world.rest();
    assert!(!world.running && !sim.is_haunted());
    waits.recv();
    assert!(!waits.saw_reset(), "it is left to the others");
    assert_eq!(world.end().cut, 1);
}

/// Where epoll could not forget a socket that others have too, it reported the clients that waited
/// for them, until the drain deadline: the loop never slept.
#[test]
fn a_queue_of_others_that_epoll_cannot_forget() {
    for errno in [Errno::ENOMEM, Errno::ENOSPC, Errno::ENOENT, Errno::EBADF] {
        let sim = Simulated::new(1);
        let address = Address::Tcp(([127, 0, 0, 1], 80).into());
        let number = sim.pass(&address).unwrap();
        let limits = Limits::default();
        let mut world = World::at(&*format!("fd:{number}"), sim.clone(), Echo, limits).unwrap();
        let controls = sim.count(Method::EpollCtl);
        sim.fail(At::Of(Method::EpollCtl, controls), errno, Times::Once);
        sim.signal(Signal::SIGTERM);
        world.rest();
        assert!(!sim.is_haunted(), "{errno}");
        world.end();
    }
}

/// A stop hung when the last slot was freed by a connection that never was one.
#[test]
fn a_stop_after_a_failed_admission() {
    let limits = Limits { max_connections: 1, drain_timeout: None, ..Limits::default() };
    let mut world = World::new(Echo, limits);
    let mut first = world.client();
    world.rest();
    let _second = world.client();
    world.sim.signal(Signal::SIGTERM);
    world.pass(Duration::from_millis(100));
    let next = At::Of(Method::EpollCtl, world.sim.count(Method::EpollCtl) + 1);
    world.sim.fail(next, Errno::ENOSPC, Times::Once);
    first.close();
    world.pass(Duration::from_secs(3_600));
    assert!(!world.running);
}

/// After `close` input was still offered, if the connection had broken before.
#[test]
fn close_in_a_broken_connection() {
    let mut after_close = 0;
    let mut closed = false;
    let handler = Data::new(|conn: &mut Conn<'_>, input: &[u8]| {
        after_close += usize::from(closed);
        conn.write(b"ok\n");
        if input.starts_with(b"QUIT") {
            conn.close();
            closed = true;
        }
        input.iter().position(|&byte| byte == b'\n').map_or(0, |end| end + 1)
    });
    let mut world = World::new(handler, Limits::default());
    let mut client = world.client();
    world.rest();
    world.sim.fail(At::Of(Method::Send, 0), Errno::EPIPE, Times::Once);
    for line in [&b"hello\n"[..], b"QUIT\n", b"more\n"] {
        client.send(line);
        world.turn();
    }
    world.rest();
    drop(world);
    assert_eq!(after_close, 0);
}

/// Whoever had answers yet to be asked for was not let go on when memory was short, and some
/// who had done nothing wrong were cut off to make way for it.
#[test]
fn answers_go_on_when_memory_is_short() {
    let handler = Data::new(|conn: &mut Conn<'_>, input: &[u8]| {
        let mut answered = 0;
        while answered < input.len() && !conn.is_full() {
            conn.write(&[b'x'; 30]);
            answered += 1;
        }
        answered
    });
    let limits = Limits { max_memory: 1 << 20, write_timeout: None, ..Limits::default() };
    let mut world = crowded(handler, limits);
    let mut clients = crowd(&world, 32);
    let (mut asked, mut answered) = (0, 0);
    for _ in 0..5 {
        asked += clients.iter_mut().map(|client| client.send(&[b'\n'; 20_000])).sum::<usize>();
        world.rest();
        answered += clients.iter_mut().step_by(3).map(|client| client.recv().len()).sum::<usize>();
    }
    while answered < 30 * asked {
        world.rest();
        let more = clients.iter_mut().map(|client| client.recv().len()).sum::<usize>();
        assert!(more > 0, "{answered} of {} bytes, then no more", 30 * asked);
        answered += more;
    }
    assert_eq!(answered, 30 * asked);
}

/// One write larger than the whole budget ended everybody who held anything.
#[test]
fn a_write_larger_than_the_budget() {
    let handler = Data::new(|conn: &mut Conn<'_>, input: &[u8]| {
        if input != b"huge" {
            return 0;
        }
        conn.write(&vec![b'x'; 5 << 20]);
        input.len()
    });
    let mut world = World::new(handler, Limits { max_memory: 4 << 20, ..Limits::default() });
    let mut others = crowd(&world, 10);
    others.iter_mut().for_each(|client| assert_eq!(client.send(&[b'x'; 4_000]), 4_000));
    let mut huge = world.client();
    world.rest();
    world.ask(&mut huge, b"huge");
    others.iter_mut().for_each(|client| drop(client.recv()));
    assert!(!others.iter().any(Client::saw_reset));
    assert!(huge.saw_reset());
}

/// `pause` and `resume` in one callback lost the rest.
#[test]
fn pause_and_resume_in_one_callback() {
    let mut calls = 0;
    let handler = Data::new(|conn: &mut Conn<'_>, _: &[u8]| {
        calls += 1;
        conn.pause();
        conn.resume();
        1
    });
    let mut world = World::new(handler, Limits::default());
    let mut client = world.client();
    world.ask(&mut client, b"abc");
    drop(world);
    assert_eq!(calls, 3);
}

/// Out of time, of signals, of wake-ups: the server ends instead of hanging or spinning.
#[test]
fn a_core_descriptor_that_fails() {
    for method in [Method::TimerfdSettime, Method::ReadSignal, Method::ReadCounter] {
        let mut world = World::new(Echo, Limits::default());
        world.sim.fail(At::Of(method, 0), Errno::EIO, Times::UntilHealed);
        let _client = world.client();
        world.server.handle().call(|_, _| {}).unwrap();
        world.sim.signal(Signal::SIGTERM);
        world.pass(Duration::from_secs(60));
        assert!(!world.running, "{method:?}");
    }
}

/// Whatever broke a connection that was full, the peer was said to have reset it.
#[test]
fn why_a_full_connection_broke() {
    let mut world = World::new(Echo, Limits { high_water: 1_000, ..Limits::default() });
    let mut client = world.client();
    while client.send(&[b'x'; 1 << 16]) > 0 {
        world.rest();
    }
    client.reset();
    let second = At::Of(Method::Recv, world.sim.count(Method::Recv) + 1);
    world.sim.fail(second, Errno::ETIMEDOUT, Times::UntilHealed);
    world.rest();
    let reason = CloseReason::Network { call: Call::Recv, errno: Errno::ETIMEDOUT };
    assert_eq!(world.stop().counters.closed_for(reason), 1);
}

/// Calls were taken although nobody would ever make them.
#[test]
fn a_call_after_the_end() {
    let mut world = World::new(Echo, Limits::default());
    let handle = world.server.handle();
    handle.stop();
    world.end();
    let refused = handle.call(|_, _| {});
    assert_eq!(refused, Err(CallError::Stopped));
    assert_eq!(refused.unwrap_err().to_string(), "the server has stopped");
    assert_eq!(handle.ask(|_, _| {}), Err(CallError::Stopped));
}

/// A wake-up that failed is tried again with the next call, and not if one is pending.
#[test]
fn a_wake_up_that_fails() {
    for (errno, writes) in [(Errno::EINVAL, 2), (Errno::EAGAIN, 1)] {
        let world = World::new(Echo, Limits::default());
        let handle = world.server.handle();
        let before = world.sim.count(Method::WriteCounter);
        world.sim.fail(At::Of(Method::WriteCounter, before), errno, Times::Once);
        (0..2).for_each(|_| handle.call(|_, _| {}).unwrap());
        assert_eq!(world.sim.count(Method::WriteCounter) - before, writes, "{errno:?}");
    }
}

/// ENOENT was answered with an ADD, and when that failed as well, epoll went on reporting
/// what nobody listened for. It is a mistake of the server's: it drains, and ends with it.
#[test]
fn a_listener_that_epoll_denies_to_know() {
    let limits = Limits { max_connections: 1, ..Limits::default() };
    let mut world = World::new(Echo, limits);
    let changes = world.sim.count(Method::EpollCtl) + 1;
    world.sim.fail(At::Of(Method::EpollCtl, changes), Errno::ENOENT, Times::Burst(3));
    let mut served = world.client();
    served.send(b"hello");
    world.pass(Duration::from_secs(60));
    assert_eq!(served.recv(), b"hello");
    let failed = world.server.finish().err().map(|error| (error.call, error.errno));
    assert_eq!((failed, world.running), (Some((Call::EpollModify, Errno::ENOENT)), false));
}

/// A proxy in front of `back`, and who listens there.
fn proxy(front: &str, back: &Address) -> (World<Proxy>, threadbare::kernel::sim::Remote) {
    let sim = Simulated::new(1);
    let remote = sim.listen(back).unwrap();
    let handler = Proxy::new(vec![back.clone()], Duration::from_secs(3));
    let limits = Limits { max_outbound: 10, high_water: 32 << 10, ..Limits::default() };
    (World::at(front, sim, handler, limits).unwrap(), remote)
}

/// Reads slowly to the end.
fn sip(world: &mut World<Proxy>, client: &mut Client) -> usize {
    let mut heard = 0;
    for _ in 0..1_000 {
        heard += client.recv_at_most(8 << 10).len();
        world.rest();
    }
    assert!(client.saw_eof() && !client.saw_reset());
    heard
}

/// Once both sides have sent FIN, epoll reports a hang-up, though bytes wait in front of
/// the peer's: a connection that was paused then was read once more, and dropped.
#[test]
fn paused_while_both_have_ended() {
    let back = Address::Tcp(([127, 0, 0, 1], 90).into());
    let (mut world, mut remote) = proxy("127.0.0.1:80", &back);
    let mut client = world.client();
    client.shutdown();
    world.rest();
    let mut server = remote.accept().unwrap();
    let mut sent = 0;
    while sent < 256 << 10 {
        match server.send(&[7; 64 << 10]) {
            0 => break,
            count => sent += count,
        }
        world.rest();
    }
    server.shutdown();
    world.rest();
    assert_eq!(sip(&mut world, &mut client), sent);
}

/// The peer's close hangs a Unix socket up, and what it had said before was lost if the
/// connection was paused.
#[test]
fn paused_while_the_peer_of_a_unix_socket_goes() {
    let back = Address::Unix("/run/back".into());
    let (mut world, mut remote) = proxy("unix:/run/front", &back);
    let mut client = world.client();
    world.rest();
    let mut server = remote.accept().unwrap();
    let mut sent = 0;
    while let count @ 1.. = server.send(&[7; 64 << 10]) {
        sent += count;
        world.rest();
    }
    server.close();
    world.rest();
    assert_eq!(sip(&mut world, &mut client), sent);
}

/// A Unix socket whose connect was interrupted is not connected, and never will be.
#[test]
fn an_interrupted_connect_to_a_unix_socket() {
    let back = Address::Unix("/run/back".into());
    let (mut world, _remote) = proxy("127.0.0.1:80", &back);
    world.sim.fail(At::Of(Method::Connect, 0), Errno::EINTR, Times::Once);
    let mut client = world.client();
    world.ask(&mut client, b"hello");
    assert!(client.saw_reset());
    world.stop();
}

/// Who is owed much was not read, and where two connections wait for each other that is a
/// deadlock: a proxy reads the one to write to the other.
#[test]
fn a_proxy_reads_from_whom_it_owes() {
    let back = Address::Tcp(([127, 0, 0, 1], 90).into());
    let (mut world, mut remote) = proxy("127.0.0.1:80", &back);
    let mut client = world.client();
    world.rest();
    let mut server = remote.accept().unwrap();
    while server.send(&[7; 64 << 10]) > 0 {
        world.rest();
    }
    world.ask(&mut client, b"still talking");
    assert_eq!(server.recv(), b"still talking");
}

/// An errno of connect that only a mistake of ours explains went by as if the network had
/// said it: the client was told, and the counter of mistakes was not.
#[test]
fn a_connect_that_is_a_bug() {
    let back = Address::Tcp(([127, 0, 0, 1], 90).into());
    let (mut world, _remote) = proxy("127.0.0.1:80", &back);
    for (count, errno) in [Errno::EBADF, Errno::EALREADY].into_iter().enumerate() {
        world.sim.fail(At::Of(Method::Connect, count as u64), errno, Times::Once);
        let mut client = world.client();
        world.rest();
        client.recv();
        assert!(client.saw_reset());
    }
    assert!(world.sim.signal(Signal::SIGTERM));
    world.pass(Duration::from_secs(60));
    assert_eq!(world.server.finish().unwrap().counters.bugs, 2);
}

/// With too few descriptors for the connections that a handler may begin, there was no
/// start at all.
#[test]
fn descriptors_are_shared_with_connections_outwards() {
    for (limit, expected) in [(64, Some(20)), (26, Some(1)), (25, None)] {
        let sim = Simulated::new(1);
        sim.set_limits(limit, limit);
        let limits = Limits { max_outbound: 10_000, ..Limits::default() };
        let world = World::on(sim, Echo, limits);
        let warned = world.ok().map(|world| world.server.warnings().join(""));
        let due = expected.map(|expected| {
            format!(
                "max-connections lowered from 10000 to {expected}, \
                 max-outbound lowered from 10000 to {expected}: RLIMIT_NOFILE is {limit}"
            )
        });
        assert_eq!(warned, due);
    }
}

/// A download has a file open, and descriptors were planned for connections alone: the last
/// clients got 503.
#[test]
fn descriptors_are_planned_for_files() {
    fn plan<H: ConnectionHandler>(handler: H, expected: u32) {
        let sim = Simulated::new(1);
        sim.set_limits(64, 64);
        let world = World::on(sim, handler, Limits::default()).unwrap();
        let due = format!("max-connections lowered from 10000 to {expected}: RLIMIT_NOFILE is 64");
        assert_eq!(world.server.warnings().join(""), due);
    }
    plan(Http::new(), 40);
    plan(Http::new().serve("/srv"), 20);
    plan(CatchPanics(Http::new().serve("/srv")), 20);
}

/// A server that lets nobody in, and only calls, could not be started.
#[test]
fn a_pure_client() {
    struct Caller(Option<ConnId>);
    impl ConnectionHandler for Caller {
        type Session = ();
        fn on_start(&mut self, net: &mut Net) -> Result<(), threadbare::Error> {
            let back = Address::Tcp(([127, 0, 0, 1], 90).into());
            self.0 = Some(net.connect(&back, Duration::from_secs(1))?);
            Ok(())
        }
        fn on_open(&mut self, conn: &mut Conn<'_>, _: &mut ()) {
            conn.write(b"hello");
        }
        fn on_data(&mut self, _: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
            input.len()
        }
    }
    let sim = Simulated::new(1);
    let mut remote = sim.listen(&Address::Tcp(([127, 0, 0, 1], 90).into())).unwrap();
    let limits = Limits { max_connections: 0, max_outbound: 1, ..Limits::default() };
    let mut world = World::on(sim, Caller(None), limits).unwrap();
    let _waits = world.client();
    world.rest();
    assert_eq!(remote.accept().unwrap().recv(), b"hello");
    assert_eq!(world.server.open(), 1);
    world.pass(Duration::from_secs(5));
}

/// Another spelling of the path at which a proxy listens went by as the server behind, and one
/// client took every place.
#[test]
fn a_proxy_that_leads_to_itself_by_another_path() {
    let sim = Simulated::new(1);
    let proxy = Proxy::new(Address::Unix("/run/link".into()), Duration::from_secs(3));
    let limits = Limits { max_outbound: 100, max_connections: 100, ..Limits::default() };
    let mut world = World::at("unix:/run/front", sim, proxy, limits).unwrap();
    world.sim.link(Path::new("/run/link"), Some(Path::new("/run/front")));
    let mut client = world.client();
    client.send(b"round and round");
    world.rest();
    client.recv();
    assert!(client.saw_eof() || client.error().is_some());
    assert_eq!(world.sim.count(Method::Connect), 0, "it is not even tried");
    assert_eq!(world.stop().counters.accepted, 1);
}

/// The file `/srv/file`, opened as a handler does it.
/// Whether a path leads to this server is known by the file at its end, and not by its name.
#[test]
fn a_path_that_leads_here() {
    let address = |path: &str| Address::Unix(Path::new(path).into());
    let sim = Simulated::new(1);
    sim.link(Path::new("/var/run/door"), Some(Path::new("/run/door")));
    let _other = sim.listen(&address("/run/other")).unwrap();
    let doors = ["unix:/run/door", "127.0.0.1:80"];
    let mut world = World::at(doors, sim, Echo, Limits::default()).unwrap();
    let ask = move |_: &mut Echo, net: &mut Net| {
        let paths = ["/run/door", "/var/run/door", "/run/other", "/run/nobody"];
        let leads = paths.map(|path| net.leads_here(&address(path)));
        assert_eq!(leads, [true, true, false, false]);
        assert!(!net.leads_here(&Address::Tcp(([127, 0, 0, 1], 80).into())));
    };
    world.server.handle().call(ask).unwrap();
    world.rest();
    world.stop();
}

fn open_file(net: &mut Net) -> File {
    net.open_directory("/srv").unwrap().open("file").unwrap()
}

/// A world in which `file` is answered with 20,000 bytes of a file, anything else with
/// itself.
fn world_with_a_file() -> World<impl ConnectionHandler> {
    let sim = Simulated::new(1);
    sim.set_buffers(2_000, 1_000);
    sim.write_file(Path::new("/srv/file"), &[b'f'; 20_000]);
    let handler = Data::new(move |conn: &mut Conn<'_>, input: &[u8]| {
        let length = match input {
            b"file" => Some(20_000),
            b"nothing" => Some(0),
            _ => None,
        };
        match length {
            Some(length) => {
                let file = open_file(conn.net());
                conn.write_file(file, 0, length);
            }
            None => conn.write(input),
        }
        input.len()
    });
    World::on(sim, handler, Limits::default()).unwrap()
}

/// The time that a client may refuse to read was counted from its last output, however
/// long ago, if it did not take the first byte of a file at once.
#[test]
fn a_file_for_a_client_that_was_quiet_for_long() {
    let mut world = world_with_a_file();
    let mut client = world.client();
    assert_eq!(world.ask(&mut client, b"hello"), b"hello");
    world.pass(Duration::from_secs(200));
    world.sim.fail(At::Of(Method::Sendfile, 0), Errno::ENOBUFS, Times::Burst(3));
    client.send(b"file");
    world.pass(Duration::from_secs(5));
    let mut received = Vec::new();
    for _ in 0..100 {
        received.extend(client.recv());
        world.rest();
    }
    assert_eq!((received.len(), client.saw_reset()), (20_000, false));
}

/// A file of which nothing was to be sent stayed open until something else happened.
#[test]
fn a_file_of_which_nothing_is_sent() {
    let mut world = world_with_a_file();
    let mut client = world.client();
    world.rest();
    let before = world.sim.descriptors();
    client.send(b"nothing");
    world.rest();
    assert_eq!(world.sim.descriptors(), before);
}

/// After `finish` a write did nothing, as it should, but in the next message it was sent:
/// the kernel said EPIPE, and the connection was taken for broken.
#[test]
fn a_write_long_after_finish() {
    let handler = Data::new(|conn: &mut Conn<'_>, input: &[u8]| {
        conn.write(b"bye");
        conn.finish();
        conn.write(b"bye");
        let id = conn.id();
        assert!(!conn.net().send(id, b"bye"), "it would be lost");
        input.len()
    });
    let mut world = World::new(handler, Limits::default());
    let mut client = world.client();
    assert_eq!(world.ask(&mut client, b"one"), b"bye");
    for _ in 0..3 {
        assert_eq!(world.ask(&mut client, b"more"), b"");
    }
    assert!(client.saw_eof());
    client.close();
    world.rest();
    let summary = world.stop();
    assert_eq!(summary.counters.closed_for(CloseReason::PeerClosed), 1, "{summary}");
}

/// A time beyond 12 days was cut to that: a timer of 30 days rang after 12.43.
#[test]
fn a_deadline_beyond_twelve_days() {
    const DAY: Duration = Duration::from_secs(24 * 3_600);
    struct Far(Vec<&'static str>);
    impl ConnectionHandler for Far {
        type Session = ();
        fn on_open(&mut self, conn: &mut Conn<'_>, _: &mut ()) {
            conn.set_timer(Some(30 * DAY));
        }
        fn on_data(&mut self, conn: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
            conn.write(input);
            input.len()
        }
        fn on_timer(&mut self, _: &mut Conn<'_>, _: &mut ()) {
            self.0.push("rang");
        }
        fn on_close(&mut self, _: &mut Net, _: ConnId, _: (), why: CloseReason) {
            self.0.push(match why {
                CloseReason::Idle => "idle",
                CloseReason::Network { call: Call::Connect, errno: Errno::ETIMEDOUT } => "slow",
                _ => "otherwise",
            });
        }
    }
    let moment = Duration::from_millis(20);

    // A timer, and an idle timeout of weeks. Between them a message that begins it anew.
    let limits = Limits { idle_timeout: Some(60 * DAY), ..Limits::default() };
    let mut world = World::new(Far(Vec::new()), limits);
    let mut client = world.client();
    world.pass(30 * DAY - moment);
    assert!(world.server.handler().0.is_empty(), "{:?}", world.server.handler().0);
    world.pass(2 * moment);
    assert_eq!(world.server.handler().0, ["rang"]);
    assert_eq!(world.ask(&mut client, b"hello"), b"hello");
    world.pass(60 * DAY - moment);
    assert_eq!(world.server.handler().0, ["rang"]);
    world.pass(2 * moment);
    client.recv();
    assert!(client.saw_eof());
    client.close();
    world.rest();
    assert_eq!(world.server.handler().0, ["rang", "idle"]);
    let looks = world.turns;
    assert!(looks < 60, "{looks} turns");
    world.stop();

    // A connect to somebody who never answers.
    let limits = Limits { max_outbound: 1, idle_timeout: None, ..Limits::default() };
    let mut world = World::new(Far(Vec::new()), limits);
    let back = Address::Tcp(([127, 0, 0, 1], 90).into());
    let mut remote = world.sim.listen(&back).unwrap();
    remote.mute(true);
    let dial = move |_: &mut Far, net: &mut Net| drop(net.connect(&back, 20 * DAY));
    world.server.handle().call(dial).unwrap();
    world.pass(20 * DAY - moment);
    assert!(world.server.handler().0.is_empty(), "{:?}", world.server.handler().0);
    world.pass(2 * moment);
    assert_eq!(world.server.handler().0, ["slow"]);
    world.stop();
}

/// The server behind was down, and the kernel picked its port for our own end: the client got
/// its own bytes back, and the real server could not bind.
#[test]
fn a_connection_to_itself() {
    let sim = Simulated::new(1);
    let back = Address::Tcp(([127, 0, 0, 1], 40_000).into());
    let proxy = Proxy::new(vec![back.clone()], Duration::from_secs(3));
    let limits = Limits { max_outbound: 4, ..Limits::default() };
    let mut world = World::on(sim.clone(), proxy, limits).unwrap();
    let front = Address::Tcp(([127, 0, 0, 1], 80).into());
    let mut client = sim.connect_from(&front, ([127, 0, 0, 9], 1).into()).unwrap();
    client.send(b"hello");
    sim.set_next_port(40_000);
    world.rest();
    client.recv();
    assert!(client.saw_reset(), "nobody is there");
    assert_eq!(sim.descriptors(), world.server.addresses().len() + 4, "and nothing is kept");
    let remote = sim.listen(&back);
    assert!(remote.is_ok(), "the port is free");
    client.close();
    world.rest();
    let summary = world.stop();
    assert_eq!(summary.counters.bugs, 0, "{summary}");
}

/// A proxy that led to itself by another spelling than the listener's handed one client on
/// until nothing was left.
#[test]
fn a_proxy_that_leads_to_itself() {
    for (listen, upstream) in [
        ("0.0.0.0:80", ([127, 0, 0, 1], 80).into()),
        ("0.0.0.0:80", ([10, 0, 0, 5], 80).into()),
        ("[::]:80", std::net::SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, 80))),
    ] {
        let sim = Simulated::new(1);
        let upstreams = vec![Address::Tcp(upstream)];
        let proxy = Proxy::new(upstreams, Duration::from_secs(3));
        let limits = Limits { max_outbound: 100, ..Limits::default() };
        let mut world = World::at(listen, sim.clone(), proxy, limits).unwrap();
        for _ in 0..3 {
            let mut client = sim.connect(&Address::Tcp(upstream)).unwrap();
            client.send(b"hello");
            world.rest();
            client.recv();
            assert!(client.saw_reset(), "{listen}: it is told");
            client.close();
            world.rest();
        }
        let summary = world.stop();
        assert!(summary.counters.connected <= 3, "{listen}: once for each client: {summary}");
    }
}

/// A server that starts waits while another makes a socket in the same directory; for a
/// second at most.
#[test]
fn two_starts_in_one_directory() {
    let path = Path::new("/run/door");
    let start = |until: u64| {
        let sim = Simulated::new(1);
        sim.hold_lock(Path::new("/run"), until);
        (World::at("unix:/run/door", sim.clone(), greet(), Limits::default()), sim)
    };
    let (world, sim) = start(500_000_000);
    assert!(sim.now() >= 500_000_000 && sim.file(path).is_some());
    let world = world.unwrap();
    // At the end nothing is waited for, and the file goes all the same.
    sim.hold_lock(Path::new("/run"), u64::MAX);
    world.stop();
    assert!(sim.file(path).is_none());

    let (world, sim) = start(u64::MAX);
    let error = world.err().unwrap();
    assert_eq!((error.call, error.errno), (Call::LockDirectory, Errno::EAGAIN));
    assert!((900_000_000..2_000_000_000).contains(&sim.now()), "{}", sim.now());
    assert_eq!((sim.file(path), sim.descriptors()), (None, 0));
}

/// Of the timeouts only the idle one went beyond 12 days: the others ended then, whatever was
/// asked for.
#[test]
fn timeouts_beyond_twelve_days() {
    const DAY: Duration = Duration::from_secs(24 * 3_600);
    let (limit, moment) = (30 * DAY, Duration::from_millis(20));
    let none = Limits { idle_timeout: None, message_timeout: None, ..Limits::default() };
    let none = Limits { write_timeout: None, drain_timeout: None, ..none };

    // Half a message, and an answer that is not read, of which a few bytes fit.
    for (limits, why) in [
        (Limits { message_timeout: Some(limit), ..none.clone() }, CloseReason::MessageTooSlow),
        (Limits { write_timeout: Some(limit), ..none.clone() }, CloseReason::WriteStalled),
    ] {
        let answer = Data::new(move |conn, input| match why {
            CloseReason::WriteStalled => {
                conn.write(&[b'.'; 10_000]);
                input.len()
            }
            _ => 0,
        });
        let mut world = World::new(answer, limits);
        world.sim.set_buffers(1_000, 1_000);
        world.pass(40 * DAY); // the ticks wrap in what follows
        let mut client = world.client();
        client.send(b"half");
        world.pass(limit - moment);
        assert_eq!(world.server.open(), 1, "{why}");
        world.pass(2 * moment);
        assert_eq!(
            world.server.counters().closed_for(why),
            u64::from(why == CloseReason::WriteStalled),
            "{why}"
        );
        client.recv();
        client.close();
        world.rest();
        assert_eq!(world.server.counters().closed_for(why), 1, "{why}");
        assert!(world.turns < 20, "{} turns", world.turns);
        world.stop();
    }

    // A stop that waits for a client.
    let hold = Data::new(|conn, input| {
        conn.hold(true);
        input.len()
    });
    let mut world = World::new(hold, Limits { drain_timeout: Some(limit), ..none });
    let mut client = world.client();
    client.send(b"wait");
    world.rest();
    world.sim.signal(Signal::SIGTERM);
    world.pass(limit - moment);
    assert!(world.running && world.server.open() == 1);
    world.pass(2 * moment);
    assert!(!world.running);
    client.recv();
    assert!(client.saw_reset());
    assert_eq!(world.end().cut, 1);
}

// ---- the well-known ones

fn greet() -> Greet {
    Greet::new(Framing::Line, 64 << 10)
}

/// ERR and HUP stand in the same event as IN, and whoever drops the connection for them
/// loses what was sent before the reset.
#[test]
fn err_and_hup_dropped_unread() {
    #[derive(Default)]
    struct Log(Vec<String>);
    impl ConnectionHandler for Log {
        type Session = ();
        fn on_data(&mut self, _: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
            self.0.push(String::from_utf8_lossy(input).into_owned());
            input.len()
        }
        fn on_eof(&mut self, _: &mut Conn<'_>, _: &mut (), _: &[u8]) {
            self.0.push("eof".into());
        }
        fn on_close(&mut self, _: &mut Net, _: ConnId, _: (), why: CloseReason) {
            self.0.push(why.to_string());
        }
    }
    let mut world = World::new(Log::default(), Limits::default());
    let mut client = world.client();
    world.rest();
    client.send(b"last words");
    client.reset();
    world.rest();
    assert_eq!(world.server.handler().0, ["last words", "peer reset"]);
    world.stop();
}

/// A close with unread input is a reset, which overtakes the last answer: so FIN comes
/// first, and what the client still sends is read and thrown away.
#[test]
fn no_lingering_close() {
    let mut world = World::new(Greet::new(Framing::Line, 10), Limits::default());
    world.sim.set_buffers(64, 16);
    let mut client = world.client();
    let mut answer = Vec::new();
    for _ in 0..20 {
        client.send(&[b'x'; 40]);
        world.turn();
        answer.extend(client.recv_at_most(4));
    }
    world.rest();
    answer.extend(client.recv());
    assert_eq!(String::from_utf8(answer).unwrap(), "error: line longer than 10 bytes\n");
    assert!(client.saw_eof() && !client.saw_reset());
    world.stop();
}

/// Out of descriptors, the listener stays ready and accept4 goes on failing: it is asked
/// a few times a second, and nobody is lost.
#[test]
fn emfile_loop() {
    let mut world = World::new(greet(), Limits::default());
    world.sim.fail(At::Of(Method::Accept4, 0), Errno::EMFILE, Times::UntilHealed);
    let mut client = world.client();
    client.send(b"patience\n");
    world.pass(Duration::from_secs(10));
    let tries = world.sim.count(Method::Accept4);
    assert!((5..20).contains(&tries), "{tries} tries in 10 s");
    world.sim.heal();
    world.pass(Duration::from_secs(2));
    assert_eq!(client.recv(), b"Thank you for your message patience\n");
    let summary = world.stop();
    assert_eq!(summary.counters.accept_paused, tries);
}

/// An event, or a name, that outlives its connection reached the next owner of the
/// descriptor and of the slot.
#[test]
fn no_generation() {
    /// `kill` ends all others.
    #[derive(Default)]
    struct Killer {
        ids: Vec<ConnId>,
        heard: Vec<Vec<u8>>,
    }
    impl ConnectionHandler for Killer {
        type Session = ();
        fn on_open(&mut self, conn: &mut Conn<'_>, _: &mut ()) {
            self.ids.push(conn.id());
        }
        fn on_data(&mut self, conn: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
            self.heard.push(input.to_vec());
            let (own, net) = (conn.id(), conn.net());
            let others: Vec<ConnId> = net.ids().filter(|id| *id != own).collect();
            others.into_iter().for_each(|id| net.conn(id).unwrap().abort());
            input.len()
        }
    }
    let mut world = World::new(Killer::default(), Limits::default());
    let mut victim = world.client();
    let mut killer = world.client();
    world.rest();
    // Both in one batch, and a newcomer too.
    killer.send(b"kill");
    victim.send(b"secret");
    let mut newcomer = world.client();
    world.rest();
    assert_eq!(world.server.handler().heard, [b"kill"]);
    let mut heir = world.client();
    world.rest();
    // The heir has the slot and the descriptor of the victim, and nothing else of it.
    let ids = world.server.handler().ids.clone();
    let slot = |id: &ConnId| id.to_string().split_once('.').unwrap().0.to_owned();
    assert_eq!((slot(&ids[3]), ids[3] != ids[0]), (slot(&ids[0]), true));
    let accepts = world.sim.trace().into_iter().filter(|call| call.method == Method::Accept4);
    let fds: Vec<_> = accepts.filter_map(|call| call.result.ok()).collect();
    assert_eq!(fds[3], fds[0]);
    let named = world.server.handle().call(move |_, net| {
        assert!(!net.send(ids[0], b"for the victim") && net.conn(ids[0]).is_none());
        assert!(net.send(ids[3], b"for the heir"));
    });
    named.unwrap();
    world.rest();
    assert_eq!((heir.recv(), newcomer.recv()), (b"for the heir".to_vec(), vec![]));
    victim.recv();
    assert!(victim.saw_reset() && !heir.saw_eof() && !newcomer.saw_eof());
    world.stop();
}

/// After EINTR from close the descriptor is gone all the same: a second close ends whoever
/// has it next.
#[test]
fn close_retried() {
    for errno in [Errno::EINTR, Errno::EIO] {
        let mut world = World::new(greet(), Limits::default());
        let mut first = world.client();
        world.rest();
        let closes = world.sim.count(Method::Close);
        world.sim.fail(At::Of(Method::Close, closes), errno, Times::Once);
        first.close();
        let mut next = world.client();
        world.rest();
        assert_eq!(world.ask(&mut next, b"me\n"), b"Thank you for your message me\n");
        assert_eq!(world.sim.count(Method::Close), closes + 1);
        world.stop();
    }
}

/// Closing a listener resets who waits in its queue: a stop lets them in first. It answers
/// what was received, drops half messages, and ends everybody with FIN.
#[test]
fn queue_reset_by_drain() {
    let limits = Limits { max_connections: 2, ..Limits::default() };
    let mut world = World::new(greet(), limits);
    let mut clients: Vec<Client> = (0..6).map(|_| world.client()).collect();
    world.rest();
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(format!("{number}\nhalf").as_bytes());
    }
    assert!(world.sim.signal(Signal::SIGTERM));
    for _ in 0..1_000 {
        world.pass(Duration::from_millis(20));
        for (number, client) in clients.iter_mut().enumerate() {
            let answer = client.recv();
            if !answer.is_empty() {
                assert_eq!(answer, format!("Thank you for your message {number}\n").as_bytes());
            }
            if client.saw_eof() {
                client.shutdown();
            }
        }
    }
    assert!(clients.iter().all(|client| client.saw_eof() && !client.saw_reset()));
    let summary = world.end();
    assert_eq!((summary.counters.closed_for(CloseReason::Shutdown), summary.cut), (6, 0));
}

/// Of clients that did not read some were cut, though they had only to be held back: those that
/// came first had spent the reserve of those that were still to be accepted.
#[test]
fn who_does_not_read_is_held_back_and_not_cut() {
    for seed in [3, 11, 22, 34] {
        let mut random = seed;
        let mut dice = move |most: usize| {
            random = 6364136223846793005_u64.wrapping_mul(random).wrapping_add(1442695040888963407);
            (random >> 33) as usize % most
        };
        let limits = Limits { max_memory: 4 << 20, write_timeout: None, ..Limits::default() };
        let mut world = crowded(Greet::new(Framing::Line, 1 << 16), limits);
        world.sim.set_buffers(1 << (10 + dice(8)), 1 << (10 + dice(8)));
        let count = 60 + dice(200);
        let mut clients = crowd(&world, count);
        for round in 0..60 {
            for client in &mut clients {
                if dice(4) < 3 {
                    client.send(&vec![b'\n'; 1 + dice(65_536)]);
                }
            }
            (0..dice(4)).for_each(|_| world.turn());
            if round % 2 == 0 && dice(2) == 0 {
                let (one, other) = (dice(count), dice(count));
                for client in &mut clients[one.min(other)..one.max(other)] {
                    client.recv_at_most(dice(9_000)); // now there is room for a little more
                }
            }
        }
        world.rest();
        assert_eq!(world.server.counters().closed_for(CloseReason::MemoryBudget), 0, "seed {seed}");
    }
}
