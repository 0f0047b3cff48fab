//! In production, under the simulated kernel: a socket that was passed, a service manager that is
//! told, a port that is handed over, a stop that is announced.

use crate::simulation::World;
use crate::simulation::stage::TCP;
use std::path::Path;
use std::time::Duration;
use threadbare::handlers::{Echo, Http};
use threadbare::kernel::Kernel;
use threadbare::kernel::sim::{At, Client, Method, Simulated, Times};
use threadbare::{
    Address, Builder, Conn, ConnectionHandler, Errno, Error, Limits, Net, Server, ServiceManager,
    Signal, sim,
};

fn kernel() -> Simulated {
    let sim = Simulated::new(1);
    sim.set_limits(20_000, 20_000);
    sim
}

fn tcp(port: u16) -> Address {
    Address::Tcp(([127, 0, 0, 1], port).into())
}

fn echo(sim: &Simulated, limits: Limits) -> Builder<Echo, Simulated> {
    Server::builder(Echo).kernel(sim.clone()).limits(limits)
}

/// A server at a socket that was passed.
fn inherit(sim: &Simulated, address: &Address) -> Result<World<Echo>, Error> {
    let number = sim.pass(address).unwrap();
    World::of(echo(sim, Limits::default()), &*format!("fd:{number}"), sim.clone())
}

fn is_answered(world: &mut World<Echo>, client: &mut Client) -> bool {
    world.ask(client, b"hello") == b"hello"
}

fn setsockopts(sim: &Simulated) -> usize {
    sim.trace().iter().filter(|call| call.method == Method::Setsockopt).count()
}

// ---- a socket that was passed --------------------------------------------------------

#[test] // LISTEN_FDS was not looked at: clients connected and hung, and no line said why
fn a_socket_that_was_passed_is_served() {
    let sim = kernel();
    for address in [tcp(80), Address::Unix("/run/passed".into())] {
        let mut world = inherit(&sim, &address).unwrap();
        assert_eq!(world.address(), address);
        assert_eq!(world.server.warnings(), [""; 0]);
        let mut client = world.client();
        assert!(is_answered(&mut world, &mut client));
        client.close();
        world.rest();
        assert_eq!(sim.count(Method::Listen), 0, "its backlog is the manager's");
        world.stop();
    }
}

#[test] // a blocking listener stalls the loop when its client is gone before accept4
fn a_socket_that_was_passed_does_not_block() {
    let sim = kernel();
    let mut world = inherit(&sim, &tcp(80)).unwrap();
    let mut client = world.client();
    assert!(is_answered(&mut world, &mut client));
    // The simulated accept4 panics if it would wait: a crowd asks once more than there are.
    let _crowd: Vec<Client> = (0..3).map(|_| world.client()).collect();
    world.rest();
    assert_eq!(world.server.open(), 4);
}

#[test] // the successor on the same listener never got a client: a filter, a file, a last accept
fn what_others_share_is_left_to_them() {
    for address in [tcp(80), Address::Unix("/run/passed".into())] {
        let sim = kernel();
        let mut first = inherit(&sim, &address).unwrap();
        let mut client = first.client();
        assert!(is_answered(&mut first, &mut client));
        sim.take_trace();
        sim.signal(Signal::SIGTERM);
        first.rest();
        let mut late = sim.connect(&address).unwrap();
        late.send(b"hello");
        first.end();
        assert!(!sim.is_haunted(), "epoll would go on to report it");
        assert_eq!(setsockopts(&sim), 0, "no filter");
        assert_eq!(sim.count(Method::Unlink), 0);
        drop(first);
        let mut second = inherit(&sim, &address).unwrap();
        second.rest();
        assert_eq!(late.recv(), b"hello", "whoever waits is the successor's");
        let mut next = second.client();
        assert!(is_answered(&mut second, &mut next));
    }
}

#[test] // a predecessor that is no server of this kind has left a filter that drops all SYNs
fn a_filter_that_was_left_is_detached() {
    let sim = kernel();
    let number = sim.pass(&tcp(80)).unwrap();
    sim.leave_filter(number);
    // The manager keeps the socket when the server that it was passed to is gone.
    let fd = sim.clone().fcntl_inherit(number).unwrap();
    sim.clone().close(fd).unwrap();
    let mut world = inherit(&sim, &tcp(80)).unwrap();
    let mut client = world.client();
    assert!(is_answered(&mut world, &mut client));
}

#[test]
fn what_cannot_be_taken_over_fails_the_start() {
    let error = |sim: &Simulated, word: &str| {
        let begun = World::of(echo(sim, Limits::default()), word, sim.clone());
        begun.err().map(|error| error.to_string()).unwrap_or_default()
    };
    let sim = kernel();
    let own = sim.clone().socket(&tcp(80)).unwrap();
    let number = own.number();
    assert!(error(&sim, &format!("fd:{number}")).contains("EBADF"), "it is somebody's");
    assert_eq!(error(&sim, "fd:7"), "fcntl fd:7: EBADF (Bad file number)");
    assert_eq!(error(&sim, "fd:0"), "getsockopt fd:0: ENOTSOCK (Socket operation on non-socket)");
    let number = sim.pass(&tcp(80)).unwrap();
    let open = sim.descriptors();
    sim.fail(At::Of(Method::GetsockoptListens, 1), Errno::ENOTSOCK, Times::Once);
    assert!(error(&sim, &format!("fd:{number}")).contains("getsockopt fd:"));
    assert_eq!(sim.descriptors(), open - 1, "nothing stays open");
    let words = format!("fd:{0}", sim.pass(&tcp(80)).unwrap());
    let twice = World::of(echo(&sim, Limits::default()), [&*words, &*words], sim.clone()).unwrap();
    assert_eq!(twice.server.addresses().len(), 1, "named twice is one");
}

#[test] // `listen` again only sets the length of the queue, and only if that was asked for
fn the_backlog_is_the_managers_unless_it_is_given() {
    let sim = kernel();
    let limits = Limits { backlog: 7, ..Limits::default() };
    let word = format!("fd:{}", sim.pass(&tcp(80)).unwrap());
    let world = World::of(echo(&sim, limits), &*word, sim.clone()).unwrap();
    assert_eq!(sim.count(Method::Listen), 1);
    world.stop();
}

// ---- the service manager -------------------------------------------------------------

fn notify() -> Address {
    Address::Unix("\0/org/manager".into())
}

fn managed(sim: &Simulated, watchdog: Option<Duration>) -> World<Echo> {
    let manager = ServiceManager::new(notify(), watchdog);
    let builder = echo(sim, Limits::default()).service_manager(manager);
    World::of(builder, TCP, sim.clone()).unwrap()
}

#[test]
fn the_manager_is_told() {
    let sim = kernel();
    sim.manage(&notify());
    let mut world = managed(&sim, None);
    assert_eq!(sim.heard(), ["READY=1"], "in the first turn");
    let mut client = world.client();
    assert!(is_answered(&mut world, &mut client));
    world.pass(Duration::from_secs(60));
    assert_eq!(sim.heard(), [""; 0], "nothing wakes it that nobody asked for");
    sim.signal(Signal::SIGTERM);
    world.rest();
    assert_eq!(sim.heard(), ["STOPPING=1\nSTATUS=finishing 1 connection"]);
    world.end();
    let running = sim.descriptors();
    drop(world);
    assert!(sim.descriptors() < running);
    assert_eq!(sim.descriptors(), 0, "the socket to the manager is closed too");
}

/// Blocks for a minute at each message.
struct Sleeper(Simulated);

impl ConnectionHandler for Sleeper {
    type Session = ();

    fn on_data(&mut self, _: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
        self.0.advance(Duration::from_secs(60));
        input.len()
    }
}

#[test] // a handler that blocks is found: nothing is said meanwhile
fn the_watchdog_hears_the_loop_and_no_thread_beside_it() {
    let sim = kernel();
    sim.manage(&notify());
    let manager = ServiceManager::new(notify(), Some(Duration::from_secs(4)));
    let builder = Server::builder(Sleeper(sim.clone())).kernel(sim.clone());
    let mut world = World::of(builder.service_manager(manager), TCP, sim.clone()).unwrap();
    world.pass(Duration::from_secs(20));
    let heard = sim.heard();
    assert_eq!(heard[0], "READY=1");
    assert!(heard[1..].iter().all(|it| it == "WATCHDOG=1"));
    assert!((9..=10).contains(&heard[1..].len()), "every other second: {}", heard.len());
    let mut client = world.client();
    client.send(b"sleep");
    world.rest();
    assert!(sim.heard().len() <= 1, "once, when it has come back");
}

#[test] // whatever the call to the manager says, the server serves, and warns once
fn a_manager_that_does_not_hear_is_no_reason_to_fail() {
    for (method, errno) in
        [(Method::SocketDatagram, Errno::EMFILE), (Method::Connect, Errno::EPERM)]
    {
        let sim = kernel();
        sim.manage(&notify());
        sim.fail(At::Of(method, 0), errno, Times::Once);
        let mut world = managed(&sim, Some(Duration::from_secs(4)));
        let warning = world.server.warnings().join("; ");
        assert!(warning.contains("@/org/manager: E"), "{warning}");
        assert!(warning.ends_with("; the service manager is not told"), "{warning}");
        let mut client = world.client();
        assert!(is_answered(&mut world, &mut client));
        world.stop();
        assert_eq!(sim.heard(), [""; 0]);
    }
    let sim = kernel();
    let world = managed(&sim, None); // nobody is there
    assert!(world.server.warnings()[0].starts_with("connect @/org/manager: ECONNREFUSED"));
    let sim = kernel();
    sim.manage(&notify());
    sim.fail(At::Of(Method::Send, 0), Errno::EAGAIN, Times::UntilHealed);
    let mut world = managed(&sim, None);
    sim.heal();
    let mut client = world.client();
    assert!(is_answered(&mut world, &mut client));
}

// ---- a port that is handed over ------------------------------------------------------

fn sharing(sim: &Simulated) -> World<Echo> {
    let limits = Limits { reuse_port: 1, ..Limits::default() };
    World::of(echo(sim, limits), TCP, sim.clone()).unwrap()
}

#[test] // a client whose SYN meets the one that stops waits a second, or is reset
fn a_stop_sends_new_clients_to_the_successor() {
    let sim = kernel();
    let mut old = sharing(&sim);
    for _ in 0..3 {
        let mut held = old.client();
        assert!(is_answered(&mut old, &mut held));
        let mut new = sharing(&sim);
        let mut before = sim.connect(&old.address()).unwrap();
        before.send(b"old");
        old.server.handle().stop();
        while !old.server.is_stopping() {
            old.turn();
        }
        let mut after = sim.connect(&old.address()).unwrap();
        after.send(b"new");
        assert!(after.established(), "its SYN is not dropped");
        while old.running {
            [&mut old, &mut new].into_iter().for_each(World::turn);
        }
        drop(old);
        new.rest();
        assert_eq!(after.recv(), b"new");
        assert_eq!(before.recv(), b"old", "who was in the queue is served by the old one");
        let mut next = new.client();
        assert!(is_answered(&mut new, &mut next));
        old = new;
    }
}

/// Makes a call that can be seen when the server begins to stop.
struct LastCall;

impl ConnectionHandler for LastCall {
    type Session = ();

    fn on_data(&mut self, _: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
        input.len()
    }

    fn on_shutdown(&mut self, net: &mut Net) {
        let _ = net.open_directory("/nowhere");
    }
}

#[test] // back to back, a SYN in between was dropped, and sent again a second later
fn new_clients_are_steered_long_before_they_are_refused() {
    let limits = Limits { reuse_port: 1, ..Limits::default() };
    let mut world = sim::World::start(Server::builder(LastCall).limits(limits)).unwrap();
    world.rest();
    world.take_calls();
    world.server.handle().stop();
    world.rest();
    let calls = world.take_calls();
    let place = |name: &str| calls.iter().position(|call| call.contains(name)).expect(name);
    let [steered, stops, refused] =
        ["SO_ATTACH_REUSEPORT_CBPF", "openat2(", "SO_BINDTOIFINDEX"].map(place);
    assert!(steered < stops && stops < refused, "{calls:?}");
}

#[test] // nobody is there to go on: as without
fn a_stop_without_a_successor() {
    let sim = kernel();
    let mut world = sharing(&sim);
    let mut waits = world.client();
    waits.send(b"hello");
    sim.signal(Signal::SIGTERM);
    world.rest();
    let late = world.client();
    assert!(!late.established());
    world.end();
    assert_eq!(waits.recv(), b"hello");
}

#[test] // a port is not shared by mistake
fn who_does_not_share_has_it_alone() {
    let sim = kernel();
    let _first = sharing(&sim);
    let second = World::on(sim.clone(), Echo, Limits::default());
    assert_eq!(second.err().map(|error| error.errno), Some(Errno::EADDRINUSE));
}

#[test] // steered by a predecessor, every client would go past the one that listens
fn a_start_ends_what_a_predecessor_steered() {
    for (reuse_port, times) in [(0, 0), (1, 1)] {
        let limits = Limits { reuse_port, ..Limits::default() };
        let mut world = sim::World::start(Server::builder(Echo).limits(limits)).unwrap();
        let calls = world.take_calls();
        let ends = calls.iter().filter(|call| call.contains("SO_DETACH_REUSEPORT_BPF"));
        assert_eq!(ends.count(), times, "{calls:?}");
    }
}

// ---- a stop that is announced --------------------------------------------------------

const DELAY: Duration = Duration::from_secs(5);

fn delayed(sim: &Simulated) -> World<Http> {
    sim.manage(&notify());
    let limits = Limits { stop_delay: Some(DELAY), ..Limits::default() };
    let builder = Server::builder(Http::new()).kernel(sim.clone()).limits(limits);
    let builder = builder.service_manager(ServiceManager::new(notify(), None));
    World::of(builder, TCP, sim.clone()).unwrap()
}

fn get(world: &mut World<Http>, client: &mut Client) -> String {
    client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    world.rest();
    String::from_utf8(client.recv()).unwrap()
}

#[test]
fn a_stop_that_is_announced_serves_on() {
    let sim = kernel();
    let mut world = delayed(&sim);
    let mut idle = world.client();
    assert!(!get(&mut world, &mut idle).contains("Connection: close"));
    sim.signal(Signal::SIGTERM);
    world.rest();
    assert_eq!(sim.heard(), ["READY=1", "STOPPING=1\nSTATUS=serving for 5 s more"]);
    world.pass(DELAY - Duration::from_millis(10));
    idle.recv();
    assert!(!idle.saw_eof(), "nothing is ended yet");
    let mut new = world.client();
    let answer = get(&mut world, &mut new);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("Connection: close\r\n"));
    // Who asks for several is told with the last.
    let mut several = world.client();
    several.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n");
    world.rest();
    let answers = String::from_utf8(several.recv()).unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 2);
    assert_eq!(answers.matches("Connection: close").count(), 1);
    world.pass(Duration::from_millis(20));
    assert!(sim.connect(&world.address()).is_ok_and(|late| !late.established()), "now it stops");
    world.end();
    idle.recv();
    assert!(idle.saw_eof());
}

#[test] // a second signal is still the end
fn a_second_signal_during_the_delay() {
    let sim = kernel();
    let mut world = delayed(&sim);
    let _client = world.client();
    world.rest();
    sim.signal(Signal::SIGTERM);
    world.rest();
    world.pass(Duration::from_secs(1));
    assert!(world.running);
    sim.signal(Signal::SIGINT);
    world.rest();
    assert!(!world.running && world.server.finish().unwrap().forced);
}

#[test] // a call to stop is none of a signal: whoever makes it knows what it does
fn a_handle_stops_at_once() {
    let sim = kernel();
    let mut world = delayed(&sim);
    world.server.handle().stop();
    world.pass(Duration::from_secs(1));
    assert!(!world.running);
}

#[test] // a stop that is under way is not taken back
fn a_signal_during_a_stop_announces_nothing() {
    let sim = kernel();
    let mut world = delayed(&sim);
    let mut slow = world.client();
    slow.send(b"GET / HTTP/1.1\r\n");
    world.rest();
    world.server.handle().stop();
    world.rest();
    sim.heard();
    sim.signal(Signal::SIGTERM);
    world.rest();
    assert_eq!(sim.heard(), [""; 0]);
    assert!(world.running && world.server.is_stopping());
    slow.send(b"Host: h\r\n\r\n");
    world.end();
    assert!(slow.recv().starts_with(b"HTTP/1.1 200"));
}

#[test]
fn the_file_of_a_passed_unix_socket_stays() {
    let sim = kernel();
    let path = Path::new("/run/passed");
    let world = inherit(&sim, &Address::Unix(path.into())).unwrap();
    world.stop();
    assert!(sim.file(path).is_some());
}
