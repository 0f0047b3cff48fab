//! Who waits and who goes when memory is short, and what counts as memory.

use crate::simulation::World;
use std::time::Duration;
use threadbare::handlers::{Echo, Framing, Greet, Http};
use threadbare::kernel::Errno;
use threadbare::kernel::sim::{At, Client, Method, Simulated, Times};
use threadbare::{CloseReason, Conn, ConnId, ConnectionHandler, Limits, Net};

const ATTACKER: u8 = 1;
const POLITE: u8 = 2;
/// The longest line that is allowed, with its end.
const LONGEST: usize = 64 << 10;

fn world<H: ConnectionHandler>(handler: H, max_memory: usize) -> World<H> {
    let limits = Limits { max_memory, ..Limits::default() };
    let sim = Simulated::new(1);
    sim.set_limits(16_384, 16_384);
    sim.set_buffers(64 << 10, 64 << 10);
    World::on(sim, handler, limits).unwrap()
}

fn greet() -> Greet {
    Greet::new(Framing::Line, LONGEST)
}

fn client<H: ConnectionHandler>(world: &World<H>, address: u8, number: usize) -> Client {
    let port = 10_000 + number as u16;
    world.sim.connect_from(&world.address(), ([192, 0, 2, address], port).into()).unwrap()
}

fn clients<H: ConnectionHandler>(world: &mut World<H>, address: u8, count: usize) -> Vec<Client> {
    let clients = (0..count).map(|number| client(world, address, number)).collect();
    world.rest();
    clients
}

fn cut<H: ConnectionHandler>(world: &World<H>, why: CloseReason) -> u64 {
    world.server.counters().closed_for(why)
}

/// Sends a line of the longest allowed length in pieces, and reads the answer.
fn speaks<H: ConnectionHandler>(world: &mut World<H>, client: &mut Client) -> bool {
    let line = [&vec![b'p'; LONGEST - 1], &b"\n"[..]].concat();
    let due = [b"Thank you for your message ", &line[..]].concat();
    let (mut sent, mut answer) = (0, Vec::new());
    for _ in 0..400 {
        sent += client.send(&line[sent..line.len().min(sent + 20_000)]);
        world.rest();
        answer.extend(client.recv());
    }
    answer == due
}

/// Half lines from one address, short ones and long ones, fill the memory: a polite client of
/// another address still gets through with a line of the longest allowed length, 20 of 20.
#[test]
fn the_longest_line_beside_half_lines_of_one_address() {
    for (count, length) in [(6_000, 700), (1_000, 32_000), (600, 60_000)] {
        let mut world = world(greet(), 4 << 20);
        let mut attackers = clients(&mut world, ATTACKER, count);
        for part in 0..4 {
            for attacker in &mut attackers {
                attacker.send(&vec![b'x'; length / 4 + part]);
            }
            world.rest();
        }
        let (used, _) = world.server.memory();
        assert!(used > 3 << 20, "{used} bytes are no attack");
        for number in 0..20 {
            let mut polite = client(&world, POLITE, number);
            assert!(speaks(&mut world, &mut polite), "{count} half lines of {length}: {number}");
        }
    }
}

/// Who owes nothing is served beside any number of half lines, of its own address too: the
/// oldest of those that hold most goes.
#[test]
fn who_owes_nothing_is_always_served() {
    let mut world = world(greet(), 1 << 20);
    let mut attackers = clients(&mut world, ATTACKER, 5_000);
    for attacker in &mut attackers {
        attacker.send(b"half a line");
        world.sim.advance(Duration::from_millis(1));
        world.turn();
    }
    world.rest();
    for number in 0..50 {
        let mut newcomer = client(&world, ATTACKER, 6_000 + number);
        world.rest();
        let answer = world.ask(&mut newcomer, b"hello\n");
        assert_eq!(answer, b"Thank you for your message hello\n", "{number}");
    }
    assert!(attackers[0].recv().is_empty() && attackers[0].saw_reset(), "the oldest");
    assert!(!attackers.last_mut().unwrap().saw_reset());
}

/// Nobody's message deadline ran while memory was full of short rests, and a client that sent
/// its line in two pieces had to wait for the idle timeout.
#[test]
fn the_message_deadline_runs_while_memory_is_full() {
    let mut world = world(greet(), 1 << 20);
    let mut halves = clients(&mut world, ATTACKER, 850);
    halves.iter_mut().for_each(|half| assert_eq!(half.send(&[b'x'; 900]), 900));
    world.rest();
    halves.iter_mut().for_each(|half| assert_eq!(half.send(b"xx"), 2));
    world.rest();
    let mut client = halves.pop().unwrap();
    client.send(b"\n");
    world.pass(Duration::from_secs(29));
    assert!(client.recv().is_empty(), "there is no memory to read it");
    world.pass(Duration::from_secs(9));
    assert!(cut(&world, CloseReason::MessageTooSlow) > 500);
    let counters = world.server.counters();
    assert_eq!(counters.closed_for(CloseReason::Idle), 0);
    assert_eq!(counters.closed_for(CloseReason::MemoryBudget), 0, "nobody holds more");
}

/// What grew although nobody reads is cut at the address that holds most, and not at a polite
/// client that holds more than each of its connections.
#[test]
fn the_address_that_holds_most_goes_first() {
    let mut world = world(greet(), 2 << 20);
    let mut polite = client(&world, POLITE, 0);
    world.rest();
    polite.send(&[b'p'; 50_000]);
    world.rest();
    let mut attackers = clients(&mut world, ATTACKER, 3_000);
    for _ in 0..6 {
        attackers.iter_mut().for_each(|it| _ = it.send(&[b'x'; 300]));
        world.rest();
    }
    let mut others: Vec<Client> = (3..60).map(|address| client(&world, address, 0)).collect();
    for other in &mut others {
        assert!(speaks(&mut world, other));
    }
    let answer = world.ask(&mut polite, b"\n");
    assert_eq!(answer.len(), 50_001 + "Thank you for your message ".len());
}

/// Where all have one address, as behind a proxy, a polite line that is longer than each of the
/// half lines that fill the memory was cut for that; newcomers who owe nothing did it.
#[test]
fn the_longest_line_behind_a_proxy() {
    let mut world = world(greet(), 2 << 20);
    let mut halves = clients(&mut world, ATTACKER, 200);
    halves.iter_mut().for_each(|half| _ = half.send(&[b'x'; 6_000]));
    world.pass(Duration::from_secs(2));
    let mut polite = client(&world, ATTACKER, 900);
    world.rest();
    polite.send(&[b'p'; 30_000]);
    world.rest();
    halves.iter_mut().for_each(|half| _ = half.send(&[b'x'; 6_000]));
    world.rest();
    for number in 0..50 {
        let mut newcomer = client(&world, ATTACKER, 1_000 + number);
        world.rest();
        newcomer.send(b"half a line"); // it owes nothing, and so somebody goes for it
        world.pass(Duration::from_millis(10));
    }
    polite.send(b"\n");
    world.pass(Duration::from_secs(30)); // the halves are over before
    assert_eq!(polite.recv().len(), "Thank you for your message ".len() + 30_001);
}

/// What a handler charges counts as memory of its connection, and who is charged most goes.
#[test]
fn what_a_handler_charges_is_in_the_number() {
    #[derive(Default)]
    struct Keeps(Vec<(ConnId, CloseReason)>);
    impl ConnectionHandler for Keeps {
        type Session = Vec<u8>;
        fn on_data(&mut self, conn: &mut Conn<'_>, kept: &mut Vec<u8>, input: &[u8]) -> usize {
            kept.extend(input);
            conn.charge(kept.capacity());
            input.len()
        }
        fn on_close(&mut self, _: &mut Net, id: ConnId, _: Vec<u8>, why: CloseReason) {
            self.0.push((id, why));
        }
    }
    let mut world = world(Keeps::default(), 1 << 20);
    let [mut large, mut small] = [client(&world, 1, 1), client(&world, 2, 2)];
    world.rest();
    small.send(&[b's'; 1_000]);
    for _ in 0..40 {
        large.send(&[b'l'; 50_000]);
        world.rest();
    }
    large.recv();
    assert!(large.saw_reset() && !small.saw_reset());
    let (used, _) = world.server.memory();
    assert!((1_000..4_000).contains(&used), "{used}");
    small.close();
    world.rest();
    assert_eq!(world.server.memory().0, 0);
    assert_eq!(world.server.handler().0[0].1, CloseReason::MemoryBudget);
}

/// Heads of requests whose body never comes were kept outside the number, whole.
#[test]
fn heads_are_in_the_number() {
    let mut world = world(Http::new(), 1 << 20);
    let mut clients = clients(&mut world, ATTACKER, 500);
    let field = |name: &str, length| format!("{name}: {}\r\n", "x".repeat(length));
    let head = |field: String| {
        format!("POST /page HTTP/1.1\r\nHost: here\r\nContent-Length: 9\r\n{field}\r\nbody")
    };
    for client in &mut clients {
        client.send(head(field("X-Long", 12_000)).as_bytes());
    }
    world.rest();
    let (used, _) = world.server.memory();
    assert!((500 * 50..500 * 300).contains(&used), "{used}: of each what its answer needs");
    for client in &mut clients {
        client.send(b", all");
    }
    world.rest();
    assert_eq!(world.server.memory().0, 0);
    let needed = head(field("If-None-Match", 12_000));
    for client in &mut clients {
        client.recv();
        client.send(needed.as_bytes());
        world.rest();
        assert!(world.server.memory().0 <= 1 << 20);
    }
    assert!(cut(&world, CloseReason::MemoryBudget) > 300);
}

/// The least memory that the program takes is enough for the longest line, even if at first the
/// kernel takes nothing of the answer.
#[test]
fn the_least_memory_is_enough_for_a_line() {
    let mut world = world(greet(), 3 * LONGEST + (64 << 10));
    let mut polite = client(&world, POLITE, 0);
    assert!(speaks(&mut world, &mut polite));
    world.sim.set_buffers(100, 100);
    let mut polite = client(&world, POLITE, 1);
    let line = [&vec![b'p'; LONGEST - 1], &b"\n"[..]].concat();
    let mut sent = 0;
    while sent < line.len() {
        sent += polite.send(&line[sent..]);
        world.rest();
    }
    assert!(world.server.memory().0 > LONGEST, "the answer waits");
    world.sim.set_buffers(64 << 10, 64 << 10);
    for _ in 0..200 {
        world.rest();
        polite.recv();
    }
    assert_eq!(cut(&world, CloseReason::MemoryBudget), 0);
}

/// Thanks at length for each byte, and counts them.
#[derive(Default)]
struct Thanks(usize);

impl ConnectionHandler for Thanks {
    type Session = ();
    fn on_data(&mut self, conn: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
        let thanks = |_: &&u8| {
            let is_full = conn.is_full();
            if !is_full {
                conn.write(&[b't'; 30]);
            }
            !is_full
        };
        let consumed = input.iter().take_while(thanks).count();
        self.0 += consumed;
        consumed
    }
}

/// When a crowd went that had read nothing, all that each of them had sent was handled before its
/// memory, and the others' turn, came: 13 s for 2,000. What is held is free at once now, and the
/// input of those that have gone is read by little.
#[test]
fn who_has_gone_gives_memory_back_first() {
    let mut world = world(Thanks::default(), 4 << 20);
    let mut deaf = clients(&mut world, ATTACKER, 200);
    for _ in 0..4 {
        deaf.iter_mut().for_each(|it| _ = it.send(&[b'x'; 64 << 10]));
        world.rest();
    }
    assert!(world.server.memory().0 > 2 << 20);
    deaf.iter_mut().for_each(Client::reset);
    let mut most = 0;
    for _ in 0..4 {
        let before = world.server.handler().0;
        world.turn();
        most = most.max(world.server.handler().0 - before);
    }
    assert!(most < 512 << 10, "{most} bytes in a turn, {:?} held", world.server.memory());
    world.pass(Duration::from_secs(10));
    assert_eq!(world.server.memory().0, 0);
}

/// One that found no memory had others cut until the whole reserve was free again, 14 for a few
/// bytes. One that holds much makes way for it now.
#[test]
fn no_more_are_cut_than_one_needs() {
    let mut world = world(greet(), 8 << 20);
    let mut deaf = clients(&mut world, ATTACKER, 200);
    for _ in 0..4 {
        deaf.iter_mut().for_each(|it| _ = it.send(&[b'\n'; 16 << 10]));
        world.rest();
    }
    world.pass(Duration::from_secs(2));
    let mut halves: Vec<Client> = (0..600).map(|n| client(&world, ATTACKER, 300 + n)).collect();
    world.rest();
    halves.iter_mut().for_each(|it| _ = it.send(&[b'x'; 500]));
    world.rest(); // they have used a part of the reserve
    let before = cut(&world, CloseReason::MemoryBudget);
    halves[0].send(&[b'x'; 700]);
    world.rest();
    assert_eq!(cut(&world, CloseReason::MemoryBudget) - before, 1);
    assert!(world.ask(&mut halves[0], b"\n").ends_with(b"x\n"));
}

/// Nobody goes who holds nothing, however long it has been silent: its end would free nothing.
#[test]
fn who_holds_nothing_never_goes() {
    let mut world = world(greet(), 1 << 20);
    let mut silent = client(&world, ATTACKER, 9_000);
    world.pass(Duration::from_secs(5));
    let mut halves = clients(&mut world, ATTACKER, 5_000);
    halves.iter_mut().for_each(|half| _ = half.send(b"half a line"));
    let mut newcomer = client(&world, ATTACKER, 9_001);
    world.rest();
    assert!(world.ask(&mut newcomer, b"hello\n").ends_with(b"hello\n"));
    assert!(cut(&world, CloseReason::MemoryBudget) > 0);
    assert!(world.ask(&mut silent, b"hello\n").ends_with(b"hello\n"));
}

/// To find out who must go is to look at all, and counts as work: many that need room keep nobody
/// waiting.
#[test]
fn who_must_go_is_looked_for_in_turns() {
    let mut world = world(greet(), 1 << 20);
    let mut halves = clients(&mut world, ATTACKER, 5_000);
    let mut newcomers: Vec<Client> =
        (0..500).map(|n| client(&world, ATTACKER, 6_000 + n)).collect();
    world.rest();
    halves.iter_mut().for_each(|half| _ = half.send(b"half a line"));
    world.rest();
    newcomers.iter_mut().for_each(|it| _ = it.send(b"half a line"));
    let (first, mut most) = (cut(&world, CloseReason::MemoryBudget), 0);
    while world.sim.is_ready() || !world.server.is_idle() {
        let before = cut(&world, CloseReason::MemoryBudget);
        world.turn();
        most = most.max(cut(&world, CloseReason::MemoryBudget) - before);
    }
    let all = cut(&world, CloseReason::MemoryBudget) - first;
    assert!(all > 100 && most <= 40, "{all} went, {most} of them in one turn");
}

/// Sends more bytes of a line from each.
fn say(world: &mut World<Greet>, clients: &mut [Client], length: usize) {
    clients.iter_mut().for_each(|client| assert_eq!(client.send(&vec![b'x'; length]), length));
    world.rest();
}

/// Addresses that hold about as much wait for each other, and end none of the other's connections.
#[test]
fn equals_wait_for_each_other() {
    let mut world = world(greet(), 1 << 20);
    let mut ones = clients(&mut world, 1, 12);
    let mut others = clients(&mut world, 2, 9);
    for _ in 0..3 {
        say(&mut world, &mut ones, 20_000);
        say(&mut world, &mut others, 20_000);
    }
    assert!(world.server.memory().0 > 700_000);
    assert_eq!((cut(&world, CloseReason::MemoryBudget), world.server.open()), (0, 21));
}

/// Of one address, who has waited for long goes for who has just come, though that holds as much.
/// Half of what this frees is for the other to read into, and half stays free.
#[test]
fn the_old_go_for_the_new() {
    let mut world = world(greet(), 1 << 20);
    let mut old = clients(&mut world, ATTACKER, 20);
    say(&mut world, &mut old, 30_000);
    world.pass(Duration::from_secs(10));
    let mut new = client(&world, ATTACKER, 900);
    world.rest();
    new.send(&[b'n'; 10_000]);
    world.rest();
    say(&mut world, &mut old, 30_000);
    assert_eq!(cut(&world, CloseReason::MemoryBudget), 0, "they wait for each other");
    let (before, _) = world.server.memory();
    new.send(&[b'n'; 45_000]);
    world.turn();
    let (after, _) = world.server.memory();
    assert_eq!(cut(&world, CloseReason::MemoryBudget), 1);
    let freed = before - after;
    assert!((15_000..35_000).contains(&freed), "{freed} bytes of {before} are free again");
    assert!(world.ask(&mut new, b"\n").ends_with(b"nnn\n"));
}

/// Who reads its answers again is answered what it has sent already, however short memory is: that
/// needs none.
#[test]
fn what_is_here_is_answered_without_memory() {
    let sim = Simulated::new(1);
    sim.set_buffers(16 << 10, 64 << 10);
    let limits = Limits { max_memory: 1 << 20, high_water: 1_000, ..Limits::default() };
    let mut world = World::on(sim, greet(), limits).unwrap();
    let mut others = clients(&mut world, POLITE, 5);
    say(&mut world, &mut others, 50_000);
    let mut full = client(&world, POLITE, 900);
    world.rest();
    full.send(&[b'\n'; 10_000]);
    world.rest();
    let mut attackers = clients(&mut world, ATTACKER, 12);
    for _ in 0..3 {
        say(&mut world, &mut attackers, 20_000);
    }
    let (used, _) = world.server.memory();
    assert!(used > 700_000, "{used}");
    let mut answers = 0;
    for _ in 0..1_000 {
        answers += full.recv().len();
        world.rest();
    }
    assert_eq!(answers, 10_000 * "Thank you for your message \n".len());
    assert!(world.server.memory().0 > 700_000, "nobody else has moved");
}

/// The output of a peer that has reset is free at once. What it had sent before is read behind that.
#[test]
fn output_for_nobody_is_free_at_once() {
    let limits = Limits { high_water: 1_000, ..Limits::default() };
    let mut world = World::new(Echo, limits);
    world.sim.set_buffers(20_000, 20_000);
    let mut client = client(&world, POLITE, 0);
    let mut sent = 0;
    for _ in 0..100 {
        world.rest();
        sent += client.send(&[b'x'; 1_000]);
    }
    assert!(world.server.memory().0 > 1_000 && world.server.counters().received < sent as u64);
    client.reset();
    world.turn();
    assert!(world.server.memory().0 < 1_000, "{:?}", world.server.memory());
    world.rest();
    assert_eq!(world.server.memory().0, 0);
}

/// So is little output, and what came just before the reset is read behind it.
#[test]
fn little_output_for_nobody_is_free_at_once() {
    let mut world = World::new(Keeper, Limits::default());
    world.sim.set_buffers(20_000, 20_000);
    let mut client = client(&world, POLITE, 0);
    client.send(b"some");
    world.rest();
    assert!(world.server.memory().0 > 9_000);
    client.send(b"quiet");
    client.reset();
    world.turn();
    assert!(world.server.memory().0 < 9_000, "{:?}", world.server.memory());
    world.rest();
    assert_eq!((world.server.memory().0, world.server.counters().received), (0, 9));
}

/// Where no output waits, the last words are read at once, and an interrupted call is made again.
#[test]
fn the_last_words_of_a_quiet_connection() {
    let mut world = World::new(Echo, Limits::default());
    let mut client = client(&world, POLITE, 0);
    world.ask(&mut client, b"hello");
    let next = At::Of(Method::Recv, world.sim.count(Method::Recv));
    world.sim.fail(next, Errno::EINTR, Times::Once);
    client.send(b"bye");
    client.reset();
    world.rest();
    assert_eq!((world.server.counters().received, world.server.open()), (8, 0));
}

/// Echoes, and keeps as much as a client says.
struct Keeper;

impl ConnectionHandler for Keeper {
    type Session = ();
    fn on_data(&mut self, conn: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
        match input {
            b"much" => conn.charge(800_000),
            b"all" => conn.charge((1 << 20) - 1_000),
            b"most" => conn.charge((1 << 20) - 16_000),
            b"more" => {
                let id = conn.id();
                assert!(!conn.net().send(id, &vec![b'x'; 2 << 20]));
            }
            b"quiet" => {}
            b"some" => conn.write(&[b'x'; 50_000]),
            b"long" => conn.write(&vec![b'x'; 500_000]),
            _ => conn.write(input),
        }
        input.len()
    }
}

/// A client that was not read only because memory was short is read again as soon as another one
/// gives it back, though it has taken nothing itself.
#[test]
fn who_was_full_while_memory_was_short_is_read_again() {
    let mut world = world(Keeper, 1 << 20);
    world.sim.set_buffers(1_000, 1_000);
    let [mut deaf, mut other] = [client(&world, 1, 0), client(&world, 2, 0)];
    let mut say = |world: &mut World<Keeper>| {
        assert_eq!(deaf.send(&[b'x'; 800]), 800);
        world.rest();
        world.server.counters().received
    };
    (0..5).for_each(|_| _ = say(&mut world));
    other.send(b"much");
    assert_eq!(say(&mut world), 6 * 800 + 4);
    assert_eq!(say(&mut world), 6 * 800 + 4, "it is full");
    other.reset();
    world.rest();
    assert_eq!(world.server.counters().received, 7 * 800 + 4);
}

/// A peer that has hung up cannot wait for memory: epoll would report it for ever.
#[test]
fn who_hangs_up_while_there_is_no_memory() {
    let mut world = world(Keeper, 1 << 20);
    let [mut hog, mut other] = [client(&world, 1, 0), client(&world, 2, 0)];
    world.ask(&mut hog, b"all");
    other.send(b"hello");
    other.reset();
    world.rest();
    assert_eq!((cut(&world, CloseReason::PeerReset), world.server.open()), (1, 1));
}

/// The memory of its output is enough to read what it said last.
#[test]
fn who_hangs_up_and_gives_memory_back() {
    let mut world = world(Keeper, 1 << 20);
    world.sim.set_buffers(20_000, 20_000);
    let [mut other, mut hog] = [client(&world, 1, 0), client(&world, 2, 0)];
    other.send(b"some");
    world.rest();
    world.ask(&mut hog, b"most");
    let (used, most) = world.server.memory();
    assert!(used > 10_000 && used > most - (8 << 10) && world.server.open() == 2);
    other.send(b"quiet");
    other.reset();
    world.rest();
    assert_eq!((world.server.counters().received, world.server.open()), (4 + 4 + 5, 1));
}

/// What all the memory could not hold is refused where it is written, not later.
#[test]
fn more_than_all_memory_is_not_written() {
    let mut world = world(Keeper, 1 << 20);
    let mut client = client(&world, POLITE, 0);
    client.send(b"more");
    world.rest();
    assert_eq!((cut(&world, CloseReason::MemoryBudget), world.server.open()), (1, 0));
}

/// While the kernel's leavings are copied, there are two of them, and both count.
#[test]
fn what_is_copied_counts_twice() {
    let mut world = world(Keeper, 1 << 20);
    world.sim.set_buffers(1_000, 1_000);
    let [mut deaf, mut other] = [client(&world, 1, 0), client(&world, 2, 0)];
    deaf.send(b"long");
    world.rest();
    assert_eq!(world.server.open(), 2, "alone it fits");
    world.pass(Duration::from_secs(2));
    other.send(b"long");
    world.rest();
    assert_eq!((cut(&world, CloseReason::MemoryBudget), world.server.open()), (1, 1));
}
