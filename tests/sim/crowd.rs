//! Crowds: nobody waits behind another's, whatever the server is short of.

use crate::simulation::{World, diary};
use std::time::Duration;
use threadbare::handlers::{Echo, Framing, Greet, Proxy};
use threadbare::kernel::sim::{At, Client, Method, Remote, Simulated, Times};
use threadbare::{
    Address, CloseReason, Conn, ConnId, ConnectionHandler, Errno, Limits, Signal, ToAddresses,
};

fn greet() -> Greet {
    Greet::new(Framing::Line, 100)
}

/// A server with several doors, at one of which there is a crowd.
struct Doors {
    world: World<Greet>,
    addresses: Vec<Address>,
    /// Clients that have said something, by the door at which they wait.
    waiting: Vec<Vec<Client>>,
    served: Vec<u32>,
}

impl Doors {
    fn new(count: usize, max_connections: u32) -> Doors {
        let doors: Vec<String> =
            (0..count).map(|door| format!("127.0.0.1:{}", 80 + door)).collect();
        let limits = Limits { max_connections, drain_timeout: None, ..Limits::default() };
        let world = World::at(&doors[..], Simulated::new(1), greet(), limits).unwrap();
        let addresses = world.server.addresses().to_vec();
        let waiting = (0..count).map(|_| Vec::new()).collect();
        Doors { world, addresses, waiting, served: vec![0; count] }
    }

    /// Lets clients come, until there is a crowd at one door and a few at each other.
    fn come(&mut self, crowded: usize) {
        for (door, address) in self.addresses.iter().enumerate() {
            let most = if door == crowded { 40 } else { 3 };
            while self.waiting[door].len() < most {
                let mut client = self.world.sim.connect(address).unwrap();
                client.send(b"me\n");
                self.waiting[door].push(client);
            }
        }
    }

    /// Those who have been answered, counted.
    fn answered(&mut self) -> Vec<Client> {
        let mut answered = Vec::new();
        for (waiting, served) in self.waiting.iter_mut().zip(&mut self.served) {
            let is_answered = |client: &mut Client| !client.recv().is_empty();
            let those: Vec<Client> = waiting.extract_if(.., |client| is_answered(client)).collect();
            *served += those.len() as u32;
            answered.extend(those);
        }
        answered
    }

    #[track_caller]
    fn assert_fair(&self, case: &str) {
        let (least, most) = (self.served.iter().min().unwrap(), self.served.iter().max().unwrap());
        assert!(*most > 10 && least * 10 >= *most, "{case}: served {:?}", self.served);
    }
}

/// Each number of doors with a crowd at each of them, and of places.
fn cases() -> impl Iterator<Item = (usize, usize, u32)> {
    let doors = [2, 3, 5].into_iter().flat_map(|count| (0..count).map(move |door| (count, door)));
    doors.flat_map(|(count, door)| [1, 2, 3, 7].map(|places| (count, door, places)))
}

/// When places are few, the listener that came first had them all: 30,489 clients were served
/// at one, and none at the other.
#[test]
fn a_full_house_has_doors_for_all() {
    for (count, crowded, places) in cases() {
        let mut doors = Doors::new(count, places);
        for _ in 0..60 {
            doors.come(crowded);
            doors.world.rest();
            drop(doors.answered());
            doors.world.rest();
        }
        doors.assert_fair(&format!("{count} doors, a crowd at {crowded}, {places} places"));
    }
}

/// The same when descriptors are few, and those who leave free them.
#[test]
fn out_of_descriptors_at_all_doors() {
    for (count, crowded, places) in cases() {
        let mut doors = Doors::new(count, 100);
        let open = doors.world.sim.descriptors() as u64 + 3;
        doors.world.sim.set_limits(open + u64::from(places), 4096);
        for _ in 0..60 {
            doors.come(crowded);
            doors.world.rest();
            drop(doors.answered());
            doors.world.rest();
        }
        doors.assert_fair(&format!("{count} doors, a crowd at {crowded}, {places} descriptors"));
    }
}

/// And when others free them, of which only a timer tells.
#[test]
fn descriptors_that_others_free() {
    for (count, crowded, places) in cases() {
        let mut doors = Doors::new(count, 1_000);
        let mut open = doors.world.sim.descriptors() as u64 + 3;
        let mut guests = Vec::new();
        for _ in 0..60 {
            doors.world.sim.set_limits(open, 4096);
            doors.come(crowded);
            doors.world.pass(Duration::from_millis(1_500));
            guests.extend(doors.answered());
            open += u64::from(places);
        }
        doors.assert_fair(&format!("{count} doors, a crowd at {crowded}, {places} descriptors"));
    }
}

/// A stop lets in who waits, as places become free: at all doors.
#[test]
fn a_stop_with_queues_at_all_doors() {
    for (count, crowded, places) in cases() {
        let mut doors = Doors::new(count, places);
        doors.come(crowded);
        for door in 0..count {
            for _ in 0..300 {
                let mut client = doors.world.sim.connect(&doors.addresses[door]).unwrap();
                client.send(b"me\n");
                doors.waiting[door].push(client);
            }
        }
        assert!(doors.world.sim.signal(Signal::SIGTERM));
        while doors.served.iter().sum::<u32>() < 150 {
            doors.world.pass(Duration::from_millis(2));
            drop(doors.answered());
        }
        doors.assert_fair(&format!("{count} doors, a crowd at {crowded}, {places} places"));
    }
}

/// Where clients are lost on their way in, through a firewall of one door perhaps, nobody is let in
/// for a moment, and then the other doors come first.
#[test]
fn a_door_at_which_clients_are_lost() {
    let mut doors = Doors::new(2, 100);
    let sim = doors.world.sim.clone();
    sim.fail(At::Of(Method::Accept4, 0), Errno::ECONNABORTED, Times::Burst(31));
    doors.come(0);
    doors.world.pass(Duration::from_secs(1));
    let trace = sim.trace();
    let accepts: Vec<i32> =
        trace.iter().filter(|call| call.method == Method::Accept4).map(|call| call.fd).collect();
    let lost = |door| accepts[..31].iter().filter(|fd| **fd == door).count();
    assert_eq!((lost(accepts[30]), lost(accepts[31])), (16, 15), "{accepts:?}");
    assert_eq!(doors.answered().len(), 43);
}

/// When letting in one client is as much work as a turn may have, the listener that epoll
/// reports first had every turn.
#[test]
fn a_share_that_one_crowd_spends() {
    /// Greets each client with more than a share of a turn; and how many there were by door.
    struct Loud([u32; 2]);
    impl ConnectionHandler for Loud {
        type Session = ();
        fn on_data(&mut self, _: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
            input.len()
        }
        fn on_open(&mut self, conn: &mut Conn<'_>, _: &mut ()) {
            let Some(Address::Tcp(local)) = conn.local() else { return };
            self.0[usize::from(local.port() - 80)] += 1;
            conn.write(&vec![b'.'; 5 << 20]);
            conn.abort();
        }
    }
    let limits = Limits { max_output: 64 << 20, ..Limits::default() };
    let doors = ["127.0.0.1:80", "127.0.0.1:81"];
    let mut world = World::at(doors, Simulated::new(1), Loud([0; 2]), limits).unwrap();
    let addresses = world.server.addresses().to_vec();
    let mut clients = Vec::new();
    for _ in 0..60 {
        for address in &addresses {
            clients.push(world.sim.connect(address).unwrap());
        }
        world.turn();
    }
    let [one, other] = world.server.handler().0;
    assert!(one.min(other) * 10 >= one.max(other), "{one} : {other}");
}

/// What a turn had no time for came last in the next turn or first, by turns: those in the middle
/// waited until the first and the last had nothing to do any more.
#[test]
fn what_is_left_of_a_turn_goes_first() {
    /// Takes a byte a time, which costs a share of a turn, and wants the next at once.
    #[derive(Default)]
    struct Busy(Vec<(ConnId, u32)>);
    impl ConnectionHandler for Busy {
        type Session = ();
        fn on_open(&mut self, conn: &mut Conn<'_>, _: &mut ()) {
            self.0.push((conn.id(), 0));
        }
        fn on_data(&mut self, conn: &mut Conn<'_>, _: &mut (), _: &[u8]) -> usize {
            let id = conn.id();
            self.0.iter_mut().filter(|(it, _)| *it == id).for_each(|(_, count)| *count += 1);
            conn.write(&vec![b'.'; 5 << 20]);
            conn.pause();
            conn.resume();
            1
        }
    }
    let limits = Limits {
        high_water: 64 << 20,
        max_output: 64 << 20,
        max_memory: 1 << 30,
        ..Limits::default()
    };
    let mut world = World::new(Busy::default(), limits);
    world.sim.set_buffers(16 << 20, 16 << 20);
    let mut clients: Vec<Client> = (0..9).map(|_| world.client()).collect();
    world.rest();
    clients.iter_mut().for_each(|client| assert_eq!(client.send(&[b'x'; 200]), 200));
    for _ in 0..90 {
        world.turn();
        clients.iter_mut().for_each(|client| drop(client.recv()));
    }
    let offers: Vec<u32> = world.server.handler().0.iter().map(|(_, count)| *count).collect();
    let (least, most) = (offers.iter().min().unwrap(), offers.iter().max().unwrap());
    assert!(*most > 5 && least * 10 >= *most, "{offers:?}");
}

// ---- on the way out ------------------------------------------------------------------

/// A proxy, the server behind it, and its clients.
struct Front {
    world: World<Proxy>,
    remote: Remote,
    /// Clients that have said something.
    clients: Vec<Client>,
    servers: Vec<Client>,
    served: usize,
    reset: usize,
}

const TCP: &str = "127.0.0.1:90";
const UNIX: &str = "unix:/run/back";

fn address(word: &str) -> Address {
    word.to_addresses().unwrap().remove(0)
}

impl Front {
    fn new(behind: &[&str]) -> Front {
        diary::begin();
        let sim = Simulated::new(1);
        let upstreams: Vec<Address> = behind.iter().map(|word| address(word)).collect();
        let remote = sim.listen(&upstreams[0]).unwrap();
        let limits = Limits { max_connections: 200, max_outbound: 200, ..Limits::default() };
        let proxy = Proxy::new(upstreams, Duration::from_secs(3));
        let world = World::on(sim, proxy, limits).unwrap();
        Front { world, remote, clients: Vec::new(), servers: Vec::new(), served: 0, reset: 0 }
    }

    fn come(&mut self, count: usize) {
        for _ in 0..count {
            let mut client = self.world.client();
            client.send(b"ping");
            self.clients.push(client);
        }
    }

    /// The server accepts so many and answers them; and whoever has an answer, or a reset, goes.
    fn pass(&mut self, millis: u64, accepts: usize) {
        self.world.pass(Duration::from_millis(millis));
        self.servers.extend((0..accepts).filter_map(|_| self.remote.accept()));
        self.world.rest();
        self.servers.retain_mut(|server| server.recv() != b"ping" || server.send(b"pong") != 4);
        self.world.rest();
        let (served, reset) = (&mut self.served, &mut self.reset);
        self.clients.retain_mut(|client| {
            let answer = client.recv();
            *served += usize::from(answer == b"pong");
            *reset += usize::from(client.saw_reset());
            answer != b"pong" && !client.saw_reset()
        });
        self.world.rest();
    }

    /// The next call of this method, and those after it, fail.
    fn fail(&self, method: Method, errno: Errno) {
        let next = At::Of(method, self.world.sim.count(method));
        self.world.sim.fail(next, errno, Times::UntilHealed);
    }
}

/// The queue of the server behind was full, and 83 of 100 clients were reset.
#[test]
fn a_full_queue_behind() {
    let mut front = Front::new(&[UNIX]);
    front.remote.set_backlog(1);
    front.come(100);
    for _ in 0..100 {
        front.pass(20, 1);
    }
    assert_eq!((front.served, front.reset), (100, 0));
    assert_eq!(diary::count("EAGAIN"), 1);
    front.world.stop();
}

/// There was no descriptor left for the connection behind, and the client was reset: of ten
/// clients one or nine were served, as what was left was even or odd.
#[test]
fn few_descriptors_for_both_sides() {
    for left in 2..15 {
        let mut front = Front::new(&[TCP]);
        let open = front.world.sim.descriptors() as u64 + 3;
        front.world.sim.set_limits(open + left, 4_096);
        front.come(10);
        for _ in 0..100 {
            front.pass(20, 10);
        }
        assert_eq!((front.served, front.reset), (10, 0), "{left} descriptors");
        front.world.stop();
    }
}

/// The listener is not to be watched while all places are taken: if epoll cannot note that for want
/// of memory, clients wait, and the server goes on.
#[test]
fn a_listener_that_cannot_be_silenced_at_once() {
    let limits = Limits { max_connections: 1, give_way: None, ..Limits::default() };
    let mut world = World::new(Echo, limits);
    let next = world.sim.count(Method::EpollCtl) + 1; // behind the one that adds the client
    world.sim.fail(At::Of(Method::EpollCtl, next), Errno::ENOMEM, Times::Once);
    let (first, mut second) = (world.client(), world.client());
    world.rest();
    assert_eq!((world.server.open(), world.running), (1, true));
    drop(first);
    world.pass(Duration::from_secs(1));
    assert_eq!(world.ask(&mut second, b"hello"), b"hello");
    world.stop();
}

/// All ports were in TIME_WAIT, and 40 of 60 clients were reset.
#[test]
fn no_port_for_a_while() {
    for errno in [Errno::EADDRNOTAVAIL, Errno::ENOBUFS, Errno::ENOMEM] {
        let mut front = Front::new(&[TCP]);
        front.come(20);
        front.pass(1, 20);
        front.pass(1, 20);
        assert_eq!(front.served, 20);
        front.fail(Method::Connect, errno);
        front.come(40);
        front.pass(1_000, 60);
        assert_eq!(front.world.server.open(), 80, "they are in, because descriptors are not short");
        assert!(front.world.sim.count(Method::Connect) < 30, "it is tried now and then");
        front.world.sim.heal();
        front.pass(1_000, 60);
        front.pass(10, 60);
        assert_eq!((front.served, front.reset), (60, 0), "{errno}");
        front.world.stop();
    }
}

/// While those who are in wait for a descriptor, nobody else is let in.
#[test]
fn accepting_pauses_while_sockets_are_short() {
    for errno in [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM] {
        let mut front = Front::new(&[TCP]);
        front.fail(Method::Socket, errno);
        front.come(1);
        front.pass(10, 10);
        front.come(30);
        front.pass(1_000, 10);
        assert_eq!(front.world.sim.count(Method::Accept4), 1, "{errno}");
        assert!(front.world.sim.count(Method::Socket) < 12, "it is tried now and then");
        front.world.sim.heal();
        for _ in 0..10 {
            front.pass(200, 31);
        }
        assert_eq!((front.served, front.reset), (31, 0), "{errno}");
        front.world.stop();
    }
}

/// What lasts longer than the connect timeout ends as what it was, and says nothing of the
/// server behind: another address is tried if a queue is full, and not if descriptors are short.
#[test]
fn a_shortage_that_does_not_pass() {
    const OTHER: &str = "unix:/run/other";
    for (method, errno, tries_on) in
        [(Method::Socket, Errno::EMFILE, false), (Method::Connect, Errno::EAGAIN, true)]
    {
        let mut front = Front::new(&[UNIX, OTHER]);
        front.fail(method, errno);
        front.come(1);
        front.pass(2_900, 10);
        assert_eq!(front.reset, 0, "{errno}");
        front.pass(200, 10);
        assert_eq!(front.reset, usize::from(!tries_on), "{errno}");
        front.pass(3_000, 10);
        assert_eq!(front.reset, 1, "{errno}");
        let (last, call) = if tries_on { (OTHER, "connect") } else { (UNIX, "socket") };
        let line = format!("{call} {last}: {errno:?} ({}); clients are reset until", errno.desc());
        assert_eq!(diary::count(&line), 1, "{line}");
        front.world.stop();
    }
}

/// A client that goes while it waits is not dialed for when there is room.
#[test]
fn who_goes_is_not_dialed_for_when_there_is_room() {
    let mut front = Front::new(&[UNIX]);
    front.remote.set_backlog(0);
    front.come(5); // the first is in the queue
    front.world.rest();
    front.clients.truncate(2);
    front.world.rest();
    for _ in 0..20 {
        front.pass(20, 1);
    }
    assert_eq!((front.served, front.clients.len()), (2, 0));
    let counters = front.world.stop().counters;
    assert_eq!((counters.accepted, counters.connected), (5, 5));
}

/// A stop waits for those who wait.
#[test]
fn a_stop_while_a_queue_behind_is_full() {
    let mut front = Front::new(&[UNIX]);
    front.remote.set_backlog(1);
    front.come(20);
    front.pass(10, 1);
    assert!(front.world.sim.signal(Signal::SIGTERM));
    for _ in 0..60 {
        front.pass(20, 1);
    }
    assert_eq!((front.served, front.reset), (20, 0));
}

// ---- places --------------------------------------------------------------------------

/// A house of 100 places, of which clients of one network have `count`, and others the rest.
fn house<H: ConnectionHandler>(handler: H, count: usize) -> (World<H>, Vec<Client>) {
    let limits = Limits { max_connections: 100, ..Limits::default() };
    let mut world = World::at("[::1]:80", Simulated::new(1), handler, limits).unwrap();
    let clients = (0..100).map(|number| match number < count {
        true => from(&world, &format!("[2001:db8::{number:x}]:1")),
        false => from(&world, &format!("[2001:db8:{number:x}::1]:1")),
    });
    let clients: Vec<Client> = clients.collect();
    world.rest();
    assert_eq!(world.server.open(), 100);
    (world, clients)
}

/// A client with this address.
fn from<H: ConnectionHandler>(world: &World<H>, address: &str) -> Client {
    world.sim.connect_from(&world.address(), address.parse().unwrap()).unwrap()
}

/// Newcomers come, each from an address of its own, and how many are answered within 3 s.
fn newcomers<H: ConnectionHandler>(world: &mut World<H>, count: usize) -> (Vec<Client>, usize) {
    let addresses = (0..count).map(|number| format!("[2001:db8:ffff:{number:x}::1]:1"));
    let mut newcomers: Vec<Client> = addresses.map(|address| from(world, &address)).collect();
    newcomers.iter_mut().for_each(|client| assert_eq!(client.send(b"me\n"), 3));
    world.pass(Duration::from_secs(3));
    let answered = newcomers.iter_mut().filter_map(|it| (!it.recv().is_empty()).then_some(()));
    let answered = answered.count();
    (newcomers, answered)
}

fn gone(clients: &mut [Client]) -> Vec<usize> {
    let has_ended = |client: &mut Client| client.recv().is_empty() && client.saw_eof();
    let numbered = clients.iter_mut().enumerate();
    numbered.filter_map(|(number, client)| has_ended(client).then_some(number)).collect()
}

/// Idle connections of one address kept everybody else out until the idle timeout. The longest
/// idle goes first, and none more than there are newcomers.
#[test]
fn an_idle_crowd_gives_way() {
    let (mut world, mut crowd) = house(greet(), 90);
    world.pass(Duration::from_millis(100));
    for client in &mut crowd[..5] {
        world.ask(client, b"me\n");
    }
    let (_newcomers, answered) = newcomers(&mut world, 20);
    assert_eq!(answered, 20);
    assert_eq!(gone(&mut crowd), (5..25).collect::<Vec<_>>());
    let summary = world.stop();
    assert_eq!(summary.counters.closed_for(CloseReason::GaveWay), 20);
}

/// Not before a second, and not once its address has no more than a quarter.
#[test]
fn a_quarter_of_the_places_is_nobodys_fault() {
    let (mut world, mut crowd) = house(greet(), 30);
    let mut early = from(&world, "[2001:db8:eeee::1]:1");
    early.send(b"me\n");
    world.pass(Duration::from_millis(950));
    assert!(early.recv().is_empty());
    world.pass(Duration::from_millis(1_200));
    assert!(!early.recv().is_empty());
    let (_newcomers, answered) = newcomers(&mut world, 10);
    assert_eq!((answered, gone(&mut crowd).len()), (4, 5));
    let (mut world, mut crowd) = house(greet(), 25);
    let (_newcomers, answered) = newcomers(&mut world, 10);
    assert_eq!((answered, gone(&mut crowd)), (0, vec![]));
}

/// However many others have been idle for longer, it is one of the crowd that goes.
#[test]
fn only_a_crowd_gives_way() {
    let limits = Limits { max_connections: 100, ..Limits::default() };
    let mut world = World::at("[::1]:80", Simulated::new(1), greet(), limits).unwrap();
    let others = (0..70).map(|number| from(&world, &format!("[2001:db8:{number:x}::1]:1")));
    let mut others: Vec<Client> = others.collect();
    world.pass(Duration::from_secs(1));
    let crowd = (0..30).map(|number| from(&world, &format!("[2001:db8:cccc::{number:x}]:1")));
    let mut crowd: Vec<Client> = crowd.collect();
    world.pass(Duration::from_secs(2));
    let (_newcomers, answered) = newcomers(&mut world, 1);
    assert_eq!((answered, gone(&mut crowd), gone(&mut others)), (1, vec![0], vec![]));
}

/// Who has been idle for longest is found out anew, if the last look is a second old.
#[test]
fn an_old_look_is_not_believed() {
    let (mut world, mut crowd) = house(greet(), 90);
    world.pass(Duration::from_secs(2));
    let mut first = from(&world, "[2001:db8:eeee::1]:1");
    world.ask(&mut first, b"me\n");
    assert_eq!(gone(&mut crowd), [0]);
    for client in &mut crowd[1..10] {
        world.ask(client, b"me\n");
    }
    world.pass(Duration::from_secs(2));
    let (_newcomers, answered) = newcomers(&mut world, 1);
    assert_eq!((answered, gone(&mut crowd)), (1, vec![0, 10]));
}

/// Who gives way makes no place for a connection outwards, and so nobody does for want of one.
#[test]
fn nobody_gives_way_for_want_of_a_place_outwards() {
    /// Begins a connection for each client.
    struct Dials;
    impl ConnectionHandler for Dials {
        type Session = ();
        fn on_data(&mut self, conn: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
            let dialed = conn.net().connect(&address(TCP), Duration::from_secs(3));
            assert!(dialed.is_ok());
            input.len()
        }
        fn needs_outbound(&self) -> bool {
            true
        }
    }
    let sim = Simulated::new(1);
    let mut remote = sim.listen(&address(TCP)).unwrap();
    let limits = Limits { max_connections: 8, max_outbound: 4, ..Limits::default() };
    let mut world = World::on(sim, Dials, limits).unwrap();
    let mut clients: Vec<Client> = (0..4).map(|_| world.client()).collect();
    world.rest();
    clients.iter_mut().for_each(|client| assert_eq!(client.send(b"dial"), 4));
    world.rest();
    let _servers: Vec<Client> = std::iter::from_fn(|| remote.accept()).collect();
    world.pass(Duration::from_secs(2));
    assert_eq!(world.server.open(), 8);
    let _newcomer = world.client();
    world.pass(Duration::from_secs(3));
    assert_eq!((gone(&mut clients), world.server.open()), (vec![], 8));
}

/// Whoever is in the middle of something stays: half a line, an answer not taken, a pause, and
/// what its handler holds, as a proxy holds its tunnels.
#[test]
fn nothing_that_goes_on_gives_way() {
    /// Does as it is told.
    struct Kept;
    impl ConnectionHandler for Kept {
        type Session = ();
        fn on_data(&mut self, conn: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
            match input {
                b"half" => return 0,
                b"full" => conn.write(&vec![b'x'; 1 << 20]),
                b"hold" => conn.hold(true),
                b"pause" => conn.pause(),
                b"duplex" => conn.duplex(true),
                _ => conn.write(input),
            }
            input.len()
        }
    }
    for words in ["half", "full", "hold", "pause", "duplex"] {
        let (mut world, mut crowd) = house(Kept, 100);
        crowd.iter_mut().for_each(|client| assert_eq!(client.send(words.as_bytes()), words.len()));
        world.rest();
        let turns = world.turns;
        let (_newcomers, answered) = newcomers(&mut world, 3);
        assert_eq!((answered, gone(&mut crowd)), (0, vec![]), "{words}");
        assert!(world.turns - turns < 20, "{words}: {} turns in 3 s", world.turns - turns);
    }
}

/// Off means off, and an address with one connection is no crowd.
#[test]
fn a_house_in_which_nobody_gives_way() {
    for (places, give_way) in [(4, None), (1, Some(Duration::from_secs(1)))] {
        let limits = Limits { max_connections: places, give_way, ..Limits::default() };
        let mut world = World::new(greet(), limits);
        let mut guests: Vec<Client> = (0..places).map(|_| world.client()).collect();
        world.pass(Duration::from_secs(5));
        let mut other = world.client();
        other.send(b"me\n");
        world.pass(Duration::from_secs(5));
        assert!(other.recv().is_empty() && gone(&mut guests).is_empty());
    }
}

/// A connection to the server behind that outlives its client keeps its place, and newcomers
/// were reset for it. They wait.
#[test]
fn a_proxy_is_full_when_either_kind_of_place_is() {
    let sim = Simulated::new(1);
    let mut remote = sim.listen(&address(TCP)).unwrap();
    let limits = Limits { max_connections: 4, max_outbound: 4, ..Limits::default() };
    let proxy = Proxy::new(vec![address(TCP)], Duration::from_secs(3));
    let mut world = World::on(sim, proxy, limits).unwrap();
    let mut kept = Vec::new();
    for _ in 0..4 {
        let mut client = world.client();
        world.rest();
        kept.extend(remote.accept());
        client.shutdown();
        world.rest();
        client.reset();
        world.rest();
    }
    assert_eq!((kept.len(), world.server.open()), (4, 4), "clients have gone, and places not");
    let mut newcomers: Vec<Client> = (0..3).map(|_| world.client()).collect();
    world.pass(Duration::from_millis(500));
    for newcomer in &mut newcomers {
        newcomer.recv();
        assert!(!newcomer.saw_reset() && newcomer.error().is_none());
    }
    kept.drain(..3);
    world.rest();
    for newcomer in &mut newcomers {
        let mut server = remote.accept().unwrap();
        world.ask(newcomer, b"hello");
        assert_eq!(server.recv(), b"hello");
        kept.push(server);
    }
}

/// A report names a hundred connections; if there are more, those that hold most.
#[test]
fn a_report_of_many() {
    for (count, limited) in [(100, 0), (101, 1), (150, 1)] {
        diary::begin();
        let mut world = World::new(greet(), Limits::default());
        world.sim.set_limits(1_000, 1_000);
        let mut clients: Vec<Client> = (0..count).map(|_| world.client()).collect();
        clients.last_mut().unwrap().send(b"half a line");
        world.rest();
        world.sim.signal(Signal::SIGUSR1);
        world.rest();
        assert_eq!((diary::count(" idle "), diary::count(" rest 11 ")), (100, 1));
        assert_eq!(diary::count("; those that hold most:"), limited, "of {count}");
    }
}

/// Reports that are asked for in a flood come once a second, and one comes after the last.
#[test]
fn a_flood_of_reports() {
    diary::begin();
    let mut world = World::new(greet(), Limits::default());
    let _clients: Vec<Client> = (0..10).map(|_| world.client()).collect();
    for _ in 0..500 {
        world.sim.signal(Signal::SIGUSR1);
        world.rest();
        world.pass(Duration::from_millis(10));
    }
    assert!(diary::count(" open, holding ") <= 6);
    world.pass(Duration::from_secs(2));
    assert_eq!(diary::count(" open, holding "), 6);
    world.stop();
}
