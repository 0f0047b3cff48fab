//! Clients behind a front, under the simulated kernel: what a header of the PROXY protocol says
//! is who the client is, and nobody is anybody before it.

use crate::simulation::World;
use std::net::SocketAddr;
use std::time::Duration;
use threadbare::address::Place;
use threadbare::handlers::{Framing, Greet, Proxy};
use threadbare::kernel::sim::{Client, Simulated};
use threadbare::{
    CloseReason, Conn, ConnId, ConnectionHandler, Limits, Net, Peer, Signal, ToAddresses,
    proxy_header,
};

/// `greet`, and what it is told of its clients.
struct Host {
    greet: Greet,
    /// Who came, by whom; and where they had connected to.
    met: Vec<(Peer, Peer, Option<SocketAddr>)>,
    left: Vec<CloseReason>,
}

impl ConnectionHandler for Host {
    type Session = <Greet as ConnectionHandler>::Session;

    fn on_open(&mut self, conn: &mut Conn<'_>, _: &mut Self::Session) {
        let front = conn.front().expect("a front");
        self.met.push((conn.peer(), front.peer, front.destination));
    }

    fn on_data(&mut self, conn: &mut Conn<'_>, mind: &mut Self::Session, input: &[u8]) -> usize {
        self.greet.on_data(conn, mind, input)
    }

    fn on_eof(&mut self, conn: &mut Conn<'_>, mind: &mut Self::Session, rest: &[u8]) {
        self.greet.on_eof(conn, mind, rest);
    }

    fn on_close(&mut self, _: &mut Net, _: ConnId, _: Self::Session, why: CloseReason) {
        self.left.push(why);
    }
}

const CLIENT: &str = "192.0.2.1:56324";
const DOOR: &str = "198.51.100.1:443";
const V1: &str = "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n";

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn v2() -> Vec<u8> {
    proxy_header::write(Some(address(CLIENT)), Some(address(DOOR)))
}

fn behind_front(limits: Limits) -> World<Host> {
    let place = Place::parse("127.0.0.1:80".as_ref()).unwrap().behind_front();
    let host = Host { greet: Greet::new(Framing::Line, 64 << 10), met: vec![], left: vec![] };
    World::at(place, Simulated::new(1), host, limits).unwrap()
}

fn by_default() -> World<Host> {
    behind_front(Limits::default())
}

fn count(world: World<Host>, why: CloseReason) -> u64 {
    world.stop().counters.closed_for(why)
}

/// However header and request are cut on their way, and whatever the version.
#[test]
fn the_client_that_the_header_names_is_served_at_every_cut() {
    for header in [V1.as_bytes().to_vec(), v2()] {
        let all = [&header[..], b"hello\nand\n"].concat();
        for cut in 0..=all.len() {
            let mut world = by_default();
            let mut client = world.client();
            let (front, opened) = (client.address(), cut >= header.len());
            client.send(&all[..cut]);
            world.rest();
            assert_eq!(world.server.handler().met.len(), usize::from(opened), "{cut}");
            client.send(&all[cut..]);
            world.rest();
            let due = (Peer::Tcp(address(CLIENT)), front, Some(address(DOOR)));
            assert_eq!(world.server.handler().met, [due], "{cut}");
            let thanks = b"Thank you for your message ";
            assert_eq!(client.recv(), [&thanks[..], b"hello\n", thanks, b"and\n"].concat());
            let counters = world.server.counters();
            assert_eq!(counters.received, 10, "the header is not the client's");
            drop(client);
            world.stop();
        }
        let mut world = by_default();
        let mut client = world.client();
        for byte in &all {
            client.send(&[*byte]);
            world.rest();
        }
        assert_eq!(client.recv().len(), 2 * 27 + 10);
        world.stop();
    }
}

/// A health check of the front itself, and clients that it cannot name.
#[test]
fn who_is_not_named_is_the_front() {
    let local = [&v2()[..12], &[0x20, 0, 0, 0]].concat();
    for header in [b"PROXY UNKNOWN\r\n".to_vec(), local, proxy_header::write(None, None)] {
        let mut world = by_default();
        let mut client = world.client();
        assert_eq!(world.ask(&mut client, &[&header[..], b"a\n"].concat()).len(), 29);
        let front = client.address();
        assert_eq!(world.server.handler().met, [(front, front, None)]);
        world.stop();
    }
}

#[test]
fn what_is_no_header_is_reset_and_counted() {
    let wrong: [&[u8]; 4] =
        [b"GET / HTTP/1.1\r\n\r\n", b"\n", b"PROXY TCP4 me you 1 2\r\n", &[0; 5_000]];
    for bytes in wrong {
        let mut world = by_default();
        let mut client = world.client();
        assert_eq!(world.ask(&mut client, bytes), b"");
        assert!(client.saw_reset(), "{}", bytes.escape_ascii());
        let host = world.server.handler();
        assert!(host.met.is_empty() && host.left.is_empty(), "the handler never saw it");
        assert_eq!(count(world, CloseReason::ProxyHeader), 1);
    }
}

/// With its request in between, without, and in the middle of it.
#[test]
fn a_header_and_then_the_end() {
    for (said, answered) in [("hello\n", 33), ("hello", 33), ("", 0)] {
        let mut world = by_default();
        let mut client = world.client();
        client.send(&[&v2()[..], said.as_bytes()].concat());
        client.shutdown();
        world.rest();
        assert_eq!(client.recv().len(), answered, "{said:?}");
        assert!(client.saw_eof());
        assert_eq!(world.server.handler().left, [CloseReason::PeerClosed]);
        world.stop();
    }
    for (cut, why) in [(0, CloseReason::PeerClosed), (1, CloseReason::ProxyHeader)] {
        let mut world = by_default();
        let mut client = world.client();
        client.send(&v2()[..cut]);
        client.shutdown();
        world.rest();
        client.recv();
        assert_eq!((client.saw_reset(), world.server.open()), (cut > 0, 0), "{cut}");
        assert_eq!(count(world, why), 1);
    }
}

/// A byte in time is no header in time.
#[test]
fn a_header_must_be_whole_within_five_seconds_or_the_message_timeout() {
    for (message_timeout, most) in [(Some(2), 2), (Some(30), 5), (None, 5)] {
        let message_timeout = message_timeout.map(Duration::from_secs);
        let mut world = behind_front(Limits { message_timeout, ..Limits::default() });
        let mut client = world.client();
        for byte in &v2()[..most] {
            assert!(client.send(&[*byte]) == 1 && !client.saw_reset());
            world.pass(Duration::from_millis(990));
        }
        client.recv();
        assert!(!client.saw_reset(), "{most}");
        world.pass(Duration::from_millis(100));
        client.recv();
        assert!(client.saw_reset(), "{most}");
        assert_eq!(count(world, CloseReason::ProxyHeader), 1);
    }
}

fn named(world: &World<Host>, ip: [u8; 4], port: u16) -> Client {
    let mut client = world.client();
    client.send(&proxy_header::write(Some((ip, port).into()), None));
    client
}

/// All come from the front's address, which counts for nothing.
#[test]
fn so_many_from_one_address_behind_a_front() {
    let mut world = behind_front(Limits { max_per_address: 1, ..Limits::default() });
    let [mut one, mut other] = [1, 2].map(|ip| named(&world, [192, 0, 2, ip], 7));
    let _silent = [world.client(), world.client()];
    for client in [&mut one, &mut other] {
        assert_eq!(world.ask(client, b"me\n").len(), 30);
    }
    for port in [8, 9] {
        let mut again = named(&world, [192, 0, 2, 1], port);
        world.rest();
        again.recv();
        assert!(again.saw_eof(), "one too many");
    }
    drop(one);
    world.rest();
    let mut again = named(&world, [192, 0, 2, 1], 10);
    assert_eq!(world.ask(&mut again, b"me\n").len(), 30);
    assert_eq!(count(world, CloseReason::AddressLimit), 2);
}

/// Its header costs no client of another listener its place, and gives it none.
#[test]
fn a_front_and_its_neighbours_count_apart() {
    let mut places = ["127.0.0.1:80", "127.0.0.1:81"].to_places().unwrap();
    places[1] = places[1].clone().behind_front();
    let limits = Limits { max_per_address: 1, ..Limits::default() };
    let greet = Greet::new(Framing::Line, 64 << 10);
    let mut world = World::at(places, Simulated::new(1), greet, limits).unwrap();
    let behind = world.server.addresses()[1].clone();
    let from = "10.0.0.1:5".parse().unwrap();
    for wrong in [&b"x"[..], b"PROXY TCP4"] {
        let mut front = world.sim.connect_from(&behind, from).unwrap();
        front.send(wrong);
        front.shutdown();
        world.rest();
    }
    let mut own = world.sim.connect_from(&world.address(), from).unwrap();
    assert_eq!(world.ask(&mut own, b"me\n").len(), 30);
    let mut front = world.sim.connect_from(&behind, "10.0.0.1:6".parse().unwrap()).unwrap();
    front.send(&proxy_header::write(Some(address(CLIENT)), None));
    assert_eq!(world.ask(&mut front, b"me\n").len(), 30);
    drop(front);
    world.rest();
    let mut second =
        world.sim.connect_from(&world.address(), "10.0.0.1:7".parse().unwrap()).unwrap();
    assert_eq!(world.ask(&mut second, b"me\n"), b"");
    assert!(second.saw_eof() || second.saw_reset());
    assert_eq!(world.stop().counters.closed_for(CloseReason::AddressLimit), 1);
}

/// What is known of a front leaves with its client: the next in that place came without one.
#[test]
fn who_comes_next_has_no_front() {
    #[derive(Default)]
    struct Notes(Vec<bool>);
    impl ConnectionHandler for Notes {
        type Session = ();
        fn on_open(&mut self, conn: &mut Conn<'_>, (): &mut ()) {
            self.0.push(conn.front().is_some());
        }
        fn on_data(&mut self, _: &mut Conn<'_>, (): &mut (), input: &[u8]) -> usize {
            input.len()
        }
    }
    let mut places = ["127.0.0.1:80", "127.0.0.1:81"].to_places().unwrap();
    places[1] = places[1].clone().behind_front();
    let mut world =
        World::at(places, Simulated::new(1), Notes::default(), Limits::default()).unwrap();
    let behind = world.server.addresses()[1].clone();
    for _ in 0..2 {
        let mut front = world.sim.connect(&behind).unwrap();
        world.ask(&mut front, &v2());
        front.close();
        world.rest();
        let mut direct = world.client();
        world.rest();
        direct.close();
        world.rest();
    }
    assert_eq!(world.server.handler().0, [true, false, true, false]);
    world.stop();
}

/// What has come is answered, and nobody waits for those of whom no header ever comes.
#[test]
fn a_stop_serves_those_whose_header_has_come() {
    let mut world = by_default();
    let [mut whole, mut half] = [world.client(), world.client()];
    half.send(&v2()[..20]);
    world.rest();
    whole.send(&[&v2()[..], b"hello\n"].concat());
    assert!(world.sim.signal(Signal::SIGTERM));
    world.rest();
    assert_eq!(whole.recv().len(), 33);
    half.send(&[&v2()[20..], b"hello\n"].concat());
    world.rest();
    assert_eq!(half.recv().len(), 33);
    drop((whole, half));
    world.stop();
    let mut world = by_default();
    let [mut silent, mut half] = [world.client(), world.client()];
    half.send(b"PROXY ");
    world.rest();
    assert!(world.sim.signal(Signal::SIGTERM));
    world.pass(Duration::from_millis(990));
    assert!(world.running, "they are on their way, perhaps");
    world.pass(Duration::from_millis(20));
    assert!(!world.running);
    let _ = (silent.recv(), half.recv());
    assert!(silent.saw_eof() && half.saw_reset());
    let summary = world.end();
    let closed =
        [CloseReason::Shutdown, CloseReason::ProxyHeader].map(|it| summary.counters.closed_for(it));
    assert_eq!((closed, summary.cut), ([1, 1], 0));
}

// ---- out ----------------------------------------------------------------------------------

/// Who the client is stands in front of its first byte, once, wherever it is handed on to; and
/// what a front has named is handed on.
#[test]
fn a_proxy_names_its_clients() {
    let [dead, alive] = ["127.0.0.1:91", "127.0.0.1:92"];
    let addresses = [dead, alive].to_addresses().unwrap();
    for is_behind_front in [false, true] {
        let sim = Simulated::new(1);
        let mut place = Place::parse("127.0.0.1:80".as_ref()).unwrap();
        if is_behind_front {
            place = place.behind_front();
        }
        let proxy = Proxy::new(addresses.clone(), Duration::from_secs(1)).send_proxy(true);
        let limits = Limits { max_outbound: 9, ..Limits::default() };
        let mut world = World::at(place, sim, proxy, limits).unwrap();
        let mut remote = world.sim.listen(&addresses[1]).unwrap();
        let mut client = world.client();
        let own = format!("{}", client.address());
        let (from, to) = if is_behind_front { (CLIENT, DOOR) } else { (&*own, "127.0.0.1:80") };
        if is_behind_front {
            client.send(&v2());
        }
        client.send(b"hello\n");
        world.pass(Duration::from_secs(3));
        let mut server = remote.accept().expect("the second address");
        let due = proxy_header::write(Some(address(from)), Some(address(to)));
        assert_eq!(server.recv(), [&due[..], b"hello\n"].concat(), "{is_behind_front}");
        server.send(b"thanks");
        world.rest();
        assert_eq!(client.recv(), b"thanks");
        drop((client, server));
        world.stop();
    }
}

/// A client that is not named yet will need a connection to the server behind, too: while earlier
/// ones are still closing, it waits in the queue. It is not accepted and reset.
#[test]
fn a_client_without_a_header_has_a_place_to_be_forwarded() {
    let place = Place::parse("127.0.0.1:80".as_ref()).unwrap().behind_front();
    let upstream = "127.0.0.1:92".to_addresses().unwrap();
    let idle_timeout = Some(Duration::from_secs(10));
    let limits = Limits { max_connections: 2, max_outbound: 2, idle_timeout, ..Limits::default() };
    let proxy = Proxy::new(upstream.clone(), Duration::from_secs(1));
    let mut world = World::at(place, Simulated::new(1), proxy, limits).unwrap();
    let mut remote = world.sim.listen(&upstream[0]).unwrap();
    let join = |world: &mut World<Proxy>, last: bool| {
        let mut client = world.client();
        world.rest();
        client.send(&[&v2()[..], b"hello"].concat());
        if last {
            client.shutdown();
        }
        world.rest();
        client
    };
    let _first = join(&mut world, true);
    let _server = remote.accept().unwrap();
    world.pass(Duration::from_millis(10_100));
    assert_eq!(world.server.open(), 1, "the connection to the server behind lingers");
    let mut clients = [world.client(), world.client()];
    world.rest();
    for client in &mut clients {
        client.send(&[&v2()[..], b"hello"].concat());
    }
    world.rest();
    let mut servers = vec![remote.accept().unwrap()];
    assert!(remote.accept().is_none());
    world.pass(Duration::from_secs(3));
    servers.push(remote.accept().expect("its turn has come"));
    for (client, server) in clients.iter_mut().zip(&mut servers) {
        client.recv();
        assert!(!client.saw_reset() && server.recv() == b"hello");
    }
    // And who never says who it is gives its place back.
    clients.into_iter().for_each(drop);
    servers.into_iter().for_each(drop);
    world.pass(Duration::from_secs(3));
    let mut silent = [world.client(), world.client()];
    world.pass(Duration::from_secs(6));
    for client in &mut silent {
        client.recv();
        assert!(client.saw_reset());
    }
    let mut last = join(&mut world, false);
    assert!(remote.accept().is_some() && last.recv().is_empty() && !last.saw_reset());
    drop(last);
    world.stop();
}

/// Notes whether a client that came through a front is its own.
#[derive(Default)]
struct Mirror(Vec<bool>);

impl ConnectionHandler for Mirror {
    type Session = ();
    fn on_open(&mut self, conn: &mut Conn<'_>, (): &mut ()) {
        self.0.extend(conn.front().is_some().then(|| conn.is_own()));
    }
    fn on_data(&mut self, _: &mut Conn<'_>, (): &mut (), input: &[u8]) -> usize {
        input.len()
    }
}

/// It may name anybody: who really connected is what tells.
#[test]
fn a_server_knows_itself_behind_its_own_header() {
    let place = Place::parse("127.0.0.1:80".as_ref()).unwrap().behind_front();
    let limits = Limits { max_outbound: 1, ..Limits::default() };
    let mut world = World::at(place, Simulated::new(1), Mirror::default(), limits).unwrap();
    let own = world.address();
    let call = world.server.handle().call(move |_: &mut Mirror, net: &mut Net| {
        let id = net.connect(&own, Duration::from_secs(1)).unwrap();
        assert!(net.send(id, &v2()));
    });
    assert!(call.is_ok());
    let mut other = world.client();
    other.send(&v2());
    world.pass(Duration::from_secs(1));
    let mut own = world.server.handler().0.clone();
    own.sort_unstable();
    assert_eq!(own, [false, true]);
    world.stop();
}
