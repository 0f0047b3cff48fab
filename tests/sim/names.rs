//! Names under the simulated kernel: of a listener, of the server behind a proxy, of a
//! directory. What a name means may change, and not all that it means need be there.

use crate::simulation::World;
use crate::simulation::journal::errnos;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;
use threadbare::address::Place;
use threadbare::handlers::{Echo, Http, Proxy};
use threadbare::kernel::sim::{At, Client, Method, Simulated, Times};
use threadbare::{Address, AddressError, Errno, Limits, Net, Server, Signal, ToAddresses};

/// Of a name, an address that this machine does not have kept the server from starting.
#[test]
fn an_address_of_a_name_that_is_not_here() {
    let name = |word: &str| {
        let addresses = ["[::1]:80", "127.0.0.1:80"].to_addresses().unwrap();
        Place::parse(word.as_ref()).unwrap().with(addresses)
    };
    let lacking = [
        (Method::Socket, Errno::EAFNOSUPPORT, "socket", "Address family not supported by protocol"),
        (Method::Bind, Errno::EADDRNOTAVAIL, "bind", "Cannot assign requested address"),
    ];
    for (method, errno, call, meaning) in lacking {
        let start = |times, index, place: Place| {
            let sim = Simulated::new(1);
            sim.fail(At::Of(method, index), errno, times);
            let started = Server::builder(Echo).kernel(sim.clone()).bind(place);
            (started, sim)
        };
        for (index, kept, lost) in
            [(0, "127.0.0.1:80", "[::1]:80"), (1, "[::1]:80", "127.0.0.1:80")]
        {
            let (server, sim) = start(Times::Once, index, name("there:80"));
            let server = server.unwrap();
            assert_eq!(server.addresses(), kept.to_addresses().unwrap());
            let line = format!("{call} there:80 ({lost}): {errno:?} ({meaning}); going on without");
            assert!(server.warnings().contains(&line), "{:?}", server.warnings());
            assert!(sim.connect(&server.addresses()[0]).is_ok());
        }
        let (failed, sim) = start(Times::UntilHealed, 0, name("there:80"));
        let due = format!("{call} there:80 (127.0.0.1:80): {errno:?} ({meaning})");
        assert_eq!((failed.unwrap_err().to_string(), sim.descriptors()), (due, 0));
        let (failed, sim) = start(Times::Once, 0, Place::parse("[::1]:80".as_ref()).unwrap());
        let due = format!("{call} [::1]:80: {errno:?} ({meaning})");
        assert_eq!((failed.unwrap_err().to_string(), sim.descriptors()), (due, 0));
        // Another failure is one, whatever else the name has.
        let sim = Simulated::new(1);
        sim.fail(At::Of(method, 0), Errno::EACCES, Times::Once);
        let failed = Server::builder(Echo).kernel(sim.clone()).bind(name("there:80")).unwrap_err();
        assert_eq!((failed.errno, failed.object.as_str()), (Errno::EACCES, "there:80 ([::1]:80)"));
    }
}

// ---- the server behind a proxy -----------------------------------------------------------

const FRONT: &str = "127.0.0.1:80";
const OLD: &str = "10.0.0.1:90";
const NEW: &str = "10.0.0.2:90";

fn address(word: &str) -> Address {
    word.to_addresses().unwrap().remove(0)
}

/// A proxy to a name that has these addresses, and how often it has been looked up.
fn proxy_to(addresses: &[&str]) -> (World<Proxy>, Arc<AtomicU32>) {
    let upstream = Place::parse("behind:90".as_ref()).unwrap();
    let upstream = upstream.with(addresses.to_addresses().unwrap());
    let limits = Limits { max_outbound: 100, max_connections: 100, ..Limits::default() };
    let proxy = Proxy::new(upstream, Duration::from_secs(10));
    let world = World::at(FRONT, Simulated::new(1), proxy, limits).unwrap();
    let lookups = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&lookups);
    world.server.handler().look_up_by(move |place| {
        assert_eq!(place.to_string(), "behind:90");
        counter.fetch_add(1, Relaxed);
        Ok(())
    });
    (world, lookups)
}

/// The lookup ends, and says so as a thread does.
fn found(world: &mut World<Proxy>, addresses: Result<Vec<Address>, AddressError>) {
    let job = move |proxy: &mut Proxy, net: &mut Net| proxy.looked_up(net, addresses);
    world.server.handle().call(job).unwrap();
    world.rest();
}

fn unresolved() -> Result<Vec<Address>, AddressError> {
    Err("8080".to_addresses().unwrap_err())
}

fn is_reset(client: &mut Client) -> bool {
    client.recv();
    client.saw_reset()
}

/// The name of the server behind was looked up at the start and never again: when it had
/// moved, each client was reset, for ever.
#[test]
fn a_server_behind_that_moves() {
    let (mut world, lookups) = proxy_to(&[OLD]);
    let old = world.sim.listen(&address(OLD)).unwrap();
    drop(world.client());
    world.rest();
    assert_eq!(lookups.load(Relaxed), 0, "who answers is not looked up");
    drop(old);
    let mut new = world.sim.listen(&address(NEW)).unwrap();
    let mut clients: Vec<Client> = (0..5).map(|_| world.client()).collect();
    clients.iter_mut().for_each(|client| _ = client.send(b"hello"));
    world.pass(Duration::from_millis(500));
    assert_eq!(lookups.load(Relaxed), 1, "one lookup for all who wait");
    assert!(!clients.iter_mut().any(is_reset), "they wait for it");
    found(&mut world, Ok(vec![address(NEW)]));
    let mut servers: Vec<Client> = std::iter::from_fn(|| new.accept()).collect();
    assert_eq!(servers.len(), clients.len());
    for server in &mut servers {
        assert_eq!(server.recv(), b"hello");
        assert_eq!(world.ask(server, b"welcome"), b"");
    }
    clients.iter_mut().for_each(|client| assert_eq!(client.recv(), b"welcome"));
    // From now on it is known.
    let _sixth = world.client();
    world.rest();
    assert!(new.accept().is_some());
    assert_eq!(lookups.load(Relaxed), 1);
}

/// A machine without IPv6 has no `::1`. That was taken for a want of ports, and the client
/// waited for ten seconds; or for a want of sockets, and the other address was not tried.
#[test]
fn an_address_of_the_server_behind_that_is_not_here() {
    let off = [
        &[(Method::Socket, Errno::EAFNOSUPPORT)][..],
        &[(Method::Connect, Errno::EADDRNOTAVAIL), (Method::Bind, Errno::EADDRNOTAVAIL)],
    ];
    for failures in off {
        let (mut world, lookups) = proxy_to(&["[::1]:90", "127.0.0.1:90"]);
        let mut server = world.sim.listen(&address("127.0.0.1:90")).unwrap();
        for &(method, errno) in failures {
            world.sim.fail(At::Of(method, world.sim.count(method)), errno, Times::Once);
        }
        let mut client = world.client();
        client.send(b"hello");
        world.rest();
        let mut server = server.accept().expect("the other address is tried at once");
        assert_eq!((server.recv(), lookups.load(Relaxed)), (b"hello".to_vec(), 0));
        drop((client, server));
        world.stop();
    }
}

/// Only an address of this machine can be one that it lacks: to reach another machine a port is
/// lacking, and one comes free.
#[test]
fn no_port_to_reach_the_server_behind() {
    let (mut world, _) = proxy_to(&[OLD, NEW]);
    let mut servers = [OLD, NEW].map(|it| world.sim.listen(&address(it)).unwrap());
    for method in [Method::Connect, Method::Bind] {
        let next = At::Of(method, world.sim.count(method));
        world.sim.fail(next, Errno::EADDRNOTAVAIL, Times::Once);
    }
    let mut client = world.client();
    client.send(b"hello");
    world.rest();
    assert!(servers.iter_mut().all(|it| it.accept().is_none()), "it waits for a port");
    world.pass(Duration::from_secs(2));
    assert_eq!(servers[0].accept().unwrap().recv(), b"hello");
}

/// Where a connection comes from is asked only to find loops: it is used without.
#[test]
fn where_the_proxy_comes_from_is_not_known() {
    for (errno, bugs) in [(Errno::ENOBUFS, 0), (Errno::EBADF, 1)] {
        let (mut world, _) = proxy_to(&[OLD]);
        let mut server = world.sim.listen(&address(OLD)).unwrap();
        let next = At::Of(Method::Getsockname, world.sim.count(Method::Getsockname));
        world.sim.fail(next, errno, Times::Once);
        let mut client = world.client();
        client.send(b"hello");
        world.rest();
        assert_eq!(server.accept().unwrap().recv(), b"hello");
        assert_eq!(world.server.counters().bugs, bugs, "{errno}");
    }
}

/// A name that nobody has yet is no end of the program: each client is a new try, though not
/// more often than every three seconds.
#[test]
fn a_name_that_is_not_there_yet() {
    let (mut world, lookups) = proxy_to(&[]);
    let mut first = world.client();
    world.rest();
    assert_eq!(lookups.load(Relaxed), 1);
    found(&mut world, unresolved());
    assert!(is_reset(&mut first));
    for _ in 0..20 {
        let mut client = world.client();
        world.rest();
        assert!(is_reset(&mut client), "it is not looked up again at once");
    }
    assert_eq!(lookups.load(Relaxed), 1);
    world.pass(Duration::from_secs(3));
    let mut remote = world.sim.listen(&address(NEW)).unwrap();
    let mut client = world.client();
    client.send(b"hello");
    world.rest();
    assert_eq!(lookups.load(Relaxed), 2);
    found(&mut world, Ok(vec![address(NEW)]));
    assert_eq!(remote.accept().unwrap().recv(), b"hello");
    assert!(!is_reset(&mut client));
    world.stop();
}

/// A lookup that finds the addresses that have just failed is no reason to try them again,
/// and one that takes too long is not waited for.
#[test]
fn a_lookup_that_is_of_no_use() {
    let (mut world, lookups) = proxy_to(&[OLD, NEW]);
    let mut client = world.client();
    world.rest();
    assert_eq!((lookups.load(Relaxed), is_reset(&mut client)), (1, false));
    let connects = world.sim.count(Method::Connect);
    assert_eq!(connects, 2, "all addresses come first");
    found(&mut world, Ok(vec![address(NEW)]));
    assert!(is_reset(&mut client));
    assert_eq!(world.sim.count(Method::Connect), connects);
    world.pass(Duration::from_secs(3));
    let mut client = world.client();
    world.pass(Duration::from_millis(9_900));
    assert_eq!((lookups.load(Relaxed), is_reset(&mut client)), (2, false));
    world.pass(Duration::from_millis(200));
    assert!(is_reset(&mut client));
    // One who leaves is not waited for either; and the answer may come late.
    drop(world.client());
    world.rest();
    let mut remote = world.sim.listen(&address(OLD)).unwrap();
    found(&mut world, unresolved());
    let _client = world.client();
    world.rest();
    assert!(remote.accept().is_some(), "the old addresses are kept");
}

/// A stop waits for no resolver longer than for anything else.
#[test]
fn a_stop_during_a_lookup() {
    let (mut world, _) = proxy_to(&[OLD]);
    let mut client = world.client();
    world.rest();
    assert!(world.sim.signal(Signal::SIGTERM));
    world.rest();
    assert!(!is_reset(&mut client));
    let mut remote = world.sim.listen(&address(NEW)).unwrap();
    found(&mut world, Ok(vec![address(NEW)]));
    let mut server = remote.accept().unwrap();
    assert_eq!(world.ask(&mut server, b"late"), b"");
    assert_eq!(client.recv(), b"late");
    server.close();
    client.close();
    world.rest();
    let (mut world, _) = proxy_to(&[OLD]);
    let mut client = world.client();
    world.rest();
    assert!(world.sim.signal(Signal::SIGTERM));
    world.pass(Duration::from_secs(11));
    assert!(is_reset(&mut client) && !world.running);
}

/// A resolver that cannot be asked is said, and not waited for.
#[test]
fn no_thread_for_a_lookup() {
    let upstream = Place::parse("behind:90".as_ref()).unwrap();
    let proxy = Proxy::new(upstream, Duration::from_secs(10));
    let mut world = World::new(proxy, Limits { max_outbound: 10, ..Limits::default() });
    world.server.handler().look_up_by(|_| Err(io::ErrorKind::WouldBlock.into()));
    let mut client = world.client();
    world.rest();
    assert!(is_reset(&mut client));
}

// ---- a directory ---------------------------------------------------------------------------

const GET: &[u8] = b"GET /page HTTP/1.1\r\nHost: a\r\n\r\n";

fn page(world: &mut World<Http>, client: &mut Client) -> String {
    let answer = String::from_utf8(world.ask(client, GET)).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    format!("{} {body}", head.split(' ').nth(1).unwrap())
}

/// The directory was opened once: after a deploy by a symbolic link the old content was served
/// for ever, and after `rm -rf DIR; mkdir DIR` nothing.
#[test]
fn a_directory_that_is_another_one() {
    let sim = Simulated::new(1);
    for (file, content) in [("/one/page", "one"), ("/two/page", "two"), ("/three/page", "three")] {
        sim.write_file(Path::new(file), content.as_bytes());
    }
    let name = Path::new("/current");
    sim.link(name, Some(Path::new("/one")));
    let http = Http::new().serve(name);
    let mut world = World::on(sim.clone(), http, Limits::default()).unwrap();
    let mut client = world.client();
    world.rest();
    assert_eq!(page(&mut world, &mut client), "200 one");
    sim.link(name, Some(Path::new("/two")));
    world.pass(Duration::from_secs(2));
    assert_eq!(page(&mut world, &mut client), "200 two");
    // While there is none, the old one serves, and so it does if the new one cannot be opened.
    sim.link(name, None);
    world.pass(Duration::from_secs(2));
    assert_eq!(page(&mut world, &mut client), "200 two");
    sim.link(name, Some(Path::new("/three")));
    let opens = sim.count(Method::Openat2);
    sim.fail(At::Of(Method::Openat2, opens), Errno::EACCES, Times::Once);
    world.pass(Duration::from_secs(2));
    assert_eq!(page(&mut world, &mut client), "200 two");
    world.pass(Duration::from_secs(2));
    assert_eq!(page(&mut world, &mut client), "200 three");
    for errno in errnos(Method::Stat) {
        let stats = sim.count(Method::Stat);
        sim.fail(At::Of(Method::Stat, stats), *errno, Times::Once);
        world.pass(Duration::from_secs(2));
        assert_eq!(page(&mut world, &mut client), "200 three");
        assert_eq!(sim.count(Method::Stat), stats + 1);
    }
    world.stop();
}

/// What it costs: one stat a second while it serves, and nothing while nobody asks.
#[test]
fn a_look_a_second() {
    let sim = Simulated::new(1);
    sim.write_file(Path::new("/srv/page"), b"page");
    let http = Http::new().serve("/srv");
    let mut world = World::on(sim.clone(), http, Limits::default()).unwrap();
    let mut client = world.client();
    world.rest();
    let opens = |sim: &Simulated| sim.count(Method::Openat2);
    page(&mut world, &mut client);
    let (stats, opened) = (sim.count(Method::Stat), opens(&sim));
    for _ in 0..100 {
        world.pass(Duration::from_millis(100));
        assert_eq!(page(&mut world, &mut client), "200 page");
    }
    let looks = sim.count(Method::Stat) - stats;
    assert!((9..=11).contains(&looks), "{looks} looks in ten seconds");
    // The file twice until it is kept, which it is for a second at most; the directory not at all.
    assert!(opens(&sim) - opened <= 4 * 11, "{} opens", opens(&sim) - opened);
    world.pass(Duration::from_secs(1)); // what is kept is closed
    let (stats, waits) = (sim.count(Method::Stat), sim.count(Method::EpollWait));
    world.pass(Duration::from_secs(100));
    assert_eq!((sim.count(Method::Stat), sim.count(Method::EpollWait)), (stats, waits));
    world.stop();
}

// ---- urgent bytes ----------------------------------------------------------------------------

/// An urgent byte was taken out of the stream, so bytes did not go through as they are.
#[test]
fn urgent_bytes_go_through() {
    let (mut world, _) = proxy_to(&[NEW]);
    let mut remote = world.sim.listen(&address(NEW)).unwrap();
    let mut client = world.client();
    world.rest();
    let mut server = remote.accept().unwrap();
    client.send(b"abc");
    assert!(client.send_urgent(b'!'));
    client.send(b"def");
    world.rest();
    assert_eq!(server.recv(), b"abc!def");
    server.send(b"1");
    assert!(server.send_urgent(b'2'));
    world.rest();
    assert_eq!(client.recv(), b"12");
    world.stop();
}
