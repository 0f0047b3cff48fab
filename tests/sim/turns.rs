//! Turns: how much is done before the others have theirs. Each test has a crowd that asks for
//! much more than one turn may do, and somebody who must not wait for the end of it.

use crate::simulation::World;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;
use threadbare::handlers::Echo;
use threadbare::kernel::sim::{Client, Method, Simulated};
use threadbare::{Address, CloseReason, Conn, ConnId, ConnectionHandler, Limits, Net, Signal};

/// What a handler saw, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Opened(ConnId),
    Said(ConnId),
    Rang(ConnId),
    Closed(ConnId),
    Stopping,
    Job,
}

/// Tells everybody everything, one send each: as naive as a handler can be.
#[derive(Clone, Default)]
struct Crier {
    seen: Rc<RefCell<Vec<Seen>>>,
    /// Comings and goings are told, too.
    tells_news: bool,
    /// One line is taken at a time, and the rest in later turns.
    by_line: bool,
    /// A stop waits for everybody.
    holds: bool,
    /// What a timer writes goes to its own client only.
    rings_alone: bool,
    /// Is done amid the next callback.
    amid: Rc<RefCell<Option<Amid>>>,
}

type Amid = Box<dyn FnMut(&mut Net)>;

impl Crier {
    fn tell(&self, net: &mut Net, what: &[u8]) {
        let ids: Vec<ConnId> = net.ids().collect();
        for id in ids {
            net.send(id, what);
        }
    }

    fn saw(&self, seen: Seen) {
        self.seen.borrow_mut().push(seen);
    }

    fn count(&self, is: impl Fn(&Seen) -> bool) -> usize {
        self.seen.borrow().iter().filter(|seen| is(seen)).count()
    }

    fn last(&self, what: Seen) -> Option<usize> {
        self.seen.borrow().iter().rposition(|seen| *seen == what)
    }

    /// Amid the next callback more than a share of a turn is spent, and hardly anybody hears of it.
    fn works(&self) {
        let three = self.opened()[1..4].to_vec();
        *self.amid.borrow_mut() = Some(Box::new(move |net| {
            three.iter().for_each(|id| assert!(net.send(*id, &vec![b'.'; 2 << 20])));
        }));
    }

    fn said(&self) -> usize {
        self.count(|seen| matches!(seen, Seen::Said(_)))
    }

    fn opened(&self) -> Vec<ConnId> {
        let seen = self.seen.borrow();
        let opened = seen.iter().filter_map(|seen| match seen {
            Seen::Opened(id) => Some(*id),
            _ => None,
        });
        opened.collect()
    }
}

impl ConnectionHandler for Crier {
    type Session = ();

    fn on_open(&mut self, conn: &mut Conn<'_>, _: &mut ()) {
        self.saw(Seen::Opened(conn.id()));
        conn.hold(self.holds);
        if self.tells_news {
            self.tell(conn.net(), b"+\n");
        }
    }

    fn on_data(&mut self, conn: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
        self.saw(Seen::Said(conn.id()));
        let amid = self.amid.take();
        if let Some(mut amid) = amid {
            amid(conn.net());
        }
        match input {
            b"timer\n" => conn.set_timer(Some(Duration::from_millis(10))),
            b"ping\n" => conn.write(b"pong\n"),
            _ => self.tell(conn.net(), b"hear, hear\n"),
        }
        if self.by_line && input.len() > 2 {
            conn.pause();
            conn.resume(); // so the rest is offered in the next turn
            return 2;
        }
        input.len()
    }

    fn on_timer(&mut self, conn: &mut Conn<'_>, _: &mut ()) {
        self.saw(Seen::Rang(conn.id()));
        if !self.rings_alone {
            self.tell(conn.net(), b"time\n");
        }
    }

    fn on_close(&mut self, net: &mut Net, id: ConnId, _: (), _: CloseReason) {
        self.saw(Seen::Closed(id));
        if self.tells_news {
            self.tell(net, b"-\n");
        }
    }

    fn on_shutdown(&mut self, _: &mut Net) {
        self.saw(Seen::Stopping);
    }
}

/// The sends that a share of a turn is worth; and how far one callback may go beyond it.
const SHARE: usize = 1_024;
const CROWD: usize = 400;

fn crowded(crier: &Crier, limits: Limits, count: usize) -> (World<Crier>, Vec<Client>) {
    let sim = Simulated::new(1);
    sim.set_limits(16_384, 16_384);
    let limits = Limits { max_connections: 12_000, ..limits };
    let mut world = World::on(sim, crier.clone(), limits).unwrap();
    let crowd: Vec<Client> = (0..count).map(|_| world.client()).collect();
    world.rest();
    assert_eq!(crier.opened().len(), count);
    (world, crowd)
}

fn say(crowd: &mut [Client], words: &[u8]) {
    crowd.iter_mut().for_each(|client| assert_eq!(client.send(words), words.len()));
}

/// A turn does at most this number of sends in each of its four parts, and one callback more.
fn assert_turns_are_short(world: &mut World<Crier>) {
    let mut sends = world.sim.count(Method::Send);
    while world.running && (world.sim.is_ready() || !world.server.is_idle()) {
        world.turn();
        let now = world.sim.count(Method::Send);
        assert!(now - sends <= 4 * (SHARE + CROWD) as u64, "{} sends in a turn", now - sends);
        sends = now;
    }
}

/// With 400 talkers in a chat of 8,000, a stop was noticed after all of them: 41 s later.
#[test]
fn a_stop_amid_a_batch_of_broadcasts() {
    let crier = Crier::default();
    let (mut world, mut crowd) = crowded(&crier, Limits::default(), CROWD);
    say(&mut crowd, b"hello\n");
    world.turn();
    assert!((1..CROWD / 2).contains(&crier.said()), "{} talkers in a turn", crier.said());
    world.sim.signal(Signal::SIGTERM);
    world.turn();
    let stopping = crier.count(|seen| *seen == Seen::Stopping);
    assert_eq!(stopping, 1, "after {} talkers", crier.said());
    assert_turns_are_short(&mut world);
    assert_eq!(crier.said(), CROWD, "what was received is heard");
    world.end();
}

/// The same with the drain deadline, which must not wait for the end of the batch either.
#[test]
fn the_drain_deadline_amid_a_batch_of_broadcasts() {
    let crier = Crier { holds: true, ..Crier::default() };
    let limits = Limits { drain_timeout: Some(Duration::from_secs(2)), ..Limits::default() };
    let (mut world, mut crowd) = crowded(&crier, limits, CROWD);
    say(&mut crowd, b"hello\n");
    world.sim.signal(Signal::SIGTERM);
    for _ in 0..3 {
        world.turn();
    }
    world.sim.advance(Duration::from_millis(2_002));
    let said = crier.said();
    for _ in 0..CROWD {
        if world.running {
            world.turn();
        }
    }
    assert!(!world.running, "it did not stop");
    let summary = world.server.finish().unwrap();
    assert_eq!(summary.counters.closed_for(CloseReason::DrainDeadline), CROWD as u64, "{summary}");
    assert!(crier.said() <= said + CROWD / 4, "{} more talkers", crier.said() - said);
}

/// Signals are looked at even between the sends of one line, and what is cut off is not sent.
#[test]
fn a_second_signal_amid_a_broadcast() {
    const MEMBERS: usize = 5_000;
    let crier = Crier { holds: true, ..Crier::default() };
    let (mut world, mut crowd) = crowded(&crier, Limits::default(), MEMBERS);
    let sim = world.sim.clone();
    for signal in [Signal::SIGINT, Signal::SIGINT] {
        let sim = sim.clone();
        *crier.amid.borrow_mut() = Some(Box::new(move |_| assert!(sim.signal(signal))));
        say(&mut crowd[..1], b"hello\n");
        world.turn();
    }
    assert_eq!(crier.said(), 2);
    let sends = sim.count(Method::Send) as usize;
    assert!((MEMBERS..=MEMBERS + SHARE).contains(&sends), "{sends} sends");
    for _ in 0..MEMBERS / SHARE + 1 {
        if world.running {
            world.turn();
        }
    }
    assert!(!world.running, "it goes on");
    assert_eq!(crier.count(|seen| matches!(seen, Seen::Closed(_))), MEMBERS);
}

/// A batch that was dropped would be reported again in the same order, and those at its end
/// would wait for ever.
#[test]
fn everybody_has_a_turn_before_anybody_has_two() {
    let crier = Crier::default();
    let (mut world, mut crowd) = crowded(&crier, Limits::default(), CROWD);
    crier.seen.borrow_mut().clear();
    say(&mut crowd, b"1\n");
    for round in 0..CROWD {
        world.turn();
        for client in &mut crowd {
            client.recv();
            if round < CROWD / 2 && crier.said() < 2 * CROWD {
                client.send(b"2\n");
            }
        }
    }
    let talkers: Vec<Seen> = crier.seen.borrow().clone();
    assert!(talkers.len() > 2 * CROWD, "only {} turns", talkers.len());
    for (index, talker) in talkers.iter().enumerate().take(2 * CROWD) {
        let between = talkers[..index].iter().rev().position(|other| other == talker);
        assert!(between.is_none_or(|between| between >= CROWD / 2), "{between:?} at {index}");
    }
    world.rest();
    crowd.iter_mut().for_each(|client| drop(client.recv()));
    world.stop();
}

/// Whose bytes wait in the rest of a batch seems idle, and is not: no newcomer has its place.
#[test]
fn who_has_spoken_does_not_give_way() {
    let crier = Crier::default();
    let limits = Limits { max_connections: CROWD as u32, ..Limits::default() };
    let sim = Simulated::new(1);
    sim.set_limits(16_384, 16_384);
    let mut world = World::on(sim, crier.clone(), limits).unwrap();
    let mut crowd: Vec<Client> = (0..CROWD).map(|_| world.client()).collect();
    world.pass(Duration::from_secs(5));
    assert_eq!(world.server.open(), CROWD);
    crier.works();
    say(&mut crowd, b"ping\n");
    let _newcomer = world.client();
    while crier.said() < CROWD - 3 {
        // three have more to take before they are heard
        world.turn();
        assert_eq!(world.server.counters().closed_for(CloseReason::GaveWay), 0);
    }
}

/// An event of the rest may be for a connection that has gone since, and its slot another's.
#[test]
fn a_stale_event_in_the_rest_of_a_batch() {
    let crier = Crier::default();
    let (mut world, mut crowd) = crowded(&crier, Limits::default(), CROWD);
    let last = crier.opened()[CROWD - 1];
    *crier.amid.borrow_mut() = Some(Box::new(move |net| net.conn(last).unwrap().abort()));
    say(&mut crowd, b"hello\n");
    let mut next = world.client();
    world.turn();
    assert_eq!(crier.count(|seen| *seen == Seen::Closed(last)), 1);
    world.turn();
    assert_eq!(crier.opened().len(), CROWD + 1, "a newcomer waits for the whole batch");
    let newcomer = crier.opened()[CROWD];
    next.send(b"ping\n");
    world.rest();
    let due = [b"hear, hear\n".repeat(CROWD), b"pong\n".to_vec()].concat();
    assert!(due.ends_with(&next.recv()));
    assert_eq!(crier.count(|seen| *seen == Seen::Said(newcomer)), 1);
    assert_eq!(crier.said(), CROWD);
    crowd[CROWD - 1].recv();
    assert!(crowd[CROWD - 1].saw_reset());
    world.stop();
}

/// A turn is broken off for work, and not because answers have been sent in between.
#[test]
fn a_batch_with_long_answers_is_one_turn() {
    let mut world = World::new(Echo, Limits::default());
    let mut clients: Vec<Client> = (0..100).map(|_| world.client()).collect();
    world.rest();
    clients.iter_mut().for_each(|client| assert_eq!(client.send(&[b'.'; 4_000]), 4_000));
    world.turn();
    clients.iter_mut().for_each(|client| assert_eq!(client.recv().len(), 4_000));
    world.stop();
}

/// Amid a batch that takes many turns clients come in at each door.
#[test]
fn newcomers_amid_a_batch_at_all_doors() {
    let crier = Crier::default();
    let doors = ["127.0.0.1:80", "127.0.0.1:81", "127.0.0.1:82"];
    let sim = Simulated::new(1);
    sim.set_limits(16_384, 16_384);
    let mut world = World::at(doors, sim, crier.clone(), Limits::default()).unwrap();
    let mut crowd: Vec<Client> = (0..CROWD).map(|_| world.client()).collect();
    world.rest();
    let settings = world.sim.count(Method::TimerfdSettime);
    say(&mut crowd, b"hello\n");
    world.turn();
    assert_eq!(world.sim.count(Method::TimerfdSettime), settings, "no time is up");
    let addresses = world.server.addresses().to_vec();
    let _newcomers: Vec<Client> =
        addresses.iter().map(|address| world.sim.connect(address).unwrap()).collect();
    world.turn();
    assert!(crier.said() < CROWD / 2, "{} talkers in two turns", crier.said());
    assert_eq!(crier.opened().len(), CROWD + doors.len());
}

/// Everybody leaves at once, and each leave is told to all the others.
#[test]
fn a_crowd_that_leaves() {
    let crier = Crier { tells_news: true, ..Crier::default() };
    let (mut world, mut crowd) = crowded(&crier, Limits::default(), CROWD);
    crowd[CROWD / 2..].iter_mut().for_each(Client::reset);
    assert_turns_are_short(&mut world);
    assert_eq!(crier.count(|seen| matches!(seen, Seen::Closed(_))), CROWD / 2);
    crowd.truncate(CROWD / 2);
    assert!(crowd.iter_mut().all(|client| client.recv().ends_with(b"-\n")));
    world.stop();
}

/// Everybody comes at once, and each is told to all the others.
#[test]
fn a_crowd_that_comes() {
    let crier = Crier { tells_news: true, ..Crier::default() };
    let (mut world, crowd) = crowded(&crier, Limits::default(), CROWD);
    let more: Vec<Client> = (0..CROWD).map(|_| world.client()).collect();
    assert_turns_are_short(&mut world);
    assert_eq!(crier.opened().len(), 2 * CROWD);
    drop((crowd, more));
    world.stop();
}

/// Steps without events are bounded, too, and nobody is left out.
#[test]
fn offers_of_what_is_left() {
    let crier = Crier { by_line: true, ..Crier::default() };
    let (mut world, mut crowd) = crowded(&crier, Limits::default(), CROWD);
    say(&mut crowd, b"1\n2\n3\n");
    assert_turns_are_short(&mut world);
    assert_eq!(crier.said(), 3 * CROWD);
    assert!(crowd.iter_mut().all(|client| client.recv().len() == 3 * CROWD * 11));
    world.stop();
}

/// Everybody's timer goes off at once.
#[test]
fn timers_that_go_off_together() {
    let crier = Crier::default();
    let (mut world, mut crowd) = crowded(&crier, Limits::default(), CROWD);
    say(&mut crowd, b"timer\n");
    world.rest();
    world.sim.advance(Duration::from_millis(20));
    world.turn();
    let rang = crier.count(|seen| matches!(seen, Seen::Rang(_)));
    assert!((1..CROWD / 2).contains(&rang), "{rang} in a turn");
    assert_turns_are_short(&mut world);
    assert_eq!(crier.count(|seen| matches!(seen, Seen::Rang(_))), CROWD);
    crowd.iter_mut().for_each(|client| assert_eq!(client.recv().len(), CROWD * 5));
    world.stop();
}

/// A full batch whose last event spent the quantum was taken to have a rest for as long as there
/// was something else to do, so that deadlines were put off.
#[test]
fn deadlines_after_a_batch_that_was_served_to_its_end() {
    const BATCH: usize = 1_024;
    let crier = Crier::default();
    let limits = Limits { idle_timeout: Some(Duration::from_secs(5)), ..Limits::default() };
    let (mut world, mut crowd) = crowded(&crier, limits, BATCH + 100);
    let handle = world.server.handle();
    let job = |crier: &mut Crier, _: &mut Net| crier.saw(Seen::Job);
    *crier.amid.borrow_mut() = Some(Box::new(move |_: &mut Net| while handle.call(job).is_ok() {}));
    say(&mut crowd[..BATCH - 1], b"ping\n");
    say(&mut crowd[BATCH - 1..BATCH], b"hello\n"); // to all: more than a quantum
    world.turn();
    assert_eq!(crier.said(), BATCH);
    world.sim.advance(Duration::from_secs(6));
    (0..4).for_each(|_| world.turn());
    let calls = crier.count(|seen| *seen == Seen::Job);
    crowd.iter_mut().for_each(|client| drop(client.recv()));
    assert!(crowd.iter().all(Client::saw_eof), "they are idle, and {calls} calls came first");
    world.stop();
}

/// The bytes that wait in the rest of a batch come before the timer of their connection.
#[test]
fn timers_wait_for_the_rest_of_a_batch() {
    let crier = Crier::default();
    let (mut world, mut crowd) = crowded(&crier, Limits::default(), CROWD);
    say(&mut crowd, b"timer\n");
    world.rest();
    say(&mut crowd, b"hello\n");
    world.turn();
    world.sim.advance(Duration::from_millis(20));
    world.rest();
    for id in crier.opened() {
        assert!(crier.last(Seen::Said(id)) < crier.last(Seen::Rang(id)), "{id}");
    }
}

/// A client that asks while another broadcasts receives the answer and the broadcast.
#[test]
fn an_answer_and_a_broadcast_in_one_batch() {
    let crier = Crier::default();
    let (mut world, mut crowd) = crowded(&crier, Limits::default(), 3);
    for (client, words) in crowd.iter_mut().zip([&b"ping\n"[..], b"ping\n", b"hello\n"]) {
        client.send(words);
    }
    world.turn();
    let heard = crowd.iter_mut().map(Client::recv);
    assert!(heard.eq([&b"pong\nhear, hear\n"[..], b"pong\nhear, hear\n", b"hear, hear\n"]));
}

/// A batch is full where more are ready than one wait reports, as when the process was stopped for
/// long. Then deadlines wait for all who may have sent something, even if the batch is broken off at
/// its end; and no longer than that.
#[test]
fn deadlines_wait_for_more_than_a_full_batch() {
    const MANY: usize = 1_500;
    const BATCH: usize = 1_024;
    const LAST: usize = 2 * BATCH - MANY - 1; // first come those that the wait before had no room for
    let crier = Crier { rings_alone: true, ..Crier::default() };
    let limits = Limits { idle_timeout: Some(Duration::from_secs(5)), ..Limits::default() };
    let (mut world, mut crowd) = crowded(&crier, limits, MANY);
    say(&mut crowd, b"timer\n");
    world.rest();
    for (index, client) in crowd.iter_mut().enumerate() {
        let is_loud = [100, 200, LAST].contains(&index);
        client.send(if is_loud { b"hello\n" } else { b"ping\n" });
    }
    let turns = world.turns;
    world.sim.advance(Duration::from_millis(20));
    world.rest();
    for id in crier.opened() {
        assert!(crier.last(Seen::Said(id)) < crier.last(Seen::Rang(id)), "{id}");
    }
    world.pass(Duration::from_secs(10));
    assert_eq!(crier.count(|seen| matches!(seen, Seen::Closed(_))), MANY);
    assert!(world.turns - turns < 100, "{} turns", world.turns - turns);
    world.stop();
}

/// Where a batch was not full, and all of it is served, nobody's bytes are awaited.
#[test]
fn deadlines_behind_a_batch_that_is_served() {
    const MANY: usize = 1_500;
    let crier = Crier::default();
    let limits = Limits { idle_timeout: Some(Duration::from_secs(5)), ..Limits::default() };
    let (mut world, mut crowd) = crowded(&crier, limits, MANY);
    world.ask(&mut crowd[0], b"ping\n");
    world.sim.advance(Duration::from_secs(6));
    crier.works();
    crowd[MANY - 1].send(b"ping\n"); // epoll reports it behind the timer
    world.turn();
    assert_eq!(crier.said(), 2);
    let has_ended = |client: &mut Client| {
        client.recv();
        client.recv().is_empty() && client.saw_eof()
    };
    let ended = crowd.iter_mut().filter_map(|client| has_ended(client).then_some(())).count();
    assert!(ended > 500, "{ended} in the turn in which their time was up");
    world.stop();
}

/// Calls that take long leave time to others between them.
#[test]
fn calls_that_take_long() {
    let crier = Crier::default();
    let (mut world, _crowd) = crowded(&crier, Limits::default(), 1);
    for _ in 0..20 {
        let sim = world.sim.clone();
        let job = move |crier: &mut Crier, _: &mut Net| {
            sim.advance(Duration::from_micros(30));
            crier.saw(Seen::Job);
        };
        world.server.handle().call(job).unwrap();
    }
    for turn in 1..=10 {
        world.turn();
        assert_eq!(crier.count(|seen| *seen == Seen::Job), 2 * turn);
    }
    world.stop();
}

/// One thread that called in a loop kept everybody waiting for seconds.
#[test]
fn a_flood_of_calls() {
    let crier = Crier::default();
    let (mut world, mut crowd) = crowded(&crier, Limits::default(), 1);
    let handle = world.server.handle();
    let job = |crier: &mut Crier, _: &mut Net| crier.saw(Seen::Job);
    while handle.call(job).is_ok() {}
    world.turn();
    while handle.call(job).is_ok() {}
    let jobs = crier.count(|seen| *seen == Seen::Job);
    crowd[0].send(b"ping\n");
    world.turn();
    world.turn();
    assert_eq!(crowd[0].recv(), b"pong\n");
    let made = crier.count(|seen| *seen == Seen::Job) - jobs;
    assert!(jobs == 64 && made <= 128, "{jobs} at once, {made} before the answer");
    handle.stop();
    world.turn();
    world.turn();
    assert_eq!(crier.count(|seen| *seen == Seen::Stopping), 1, "a stop waits for calls");
    world.end();
    let made = crier.count(|seen| *seen == Seen::Job);
    assert!(made >= 65_536, "what was left before the stop is done: {made}");
}

/// Connections are begun in turns, too: a callback that wants hundreds keeps nobody waiting. And
/// where nothing was short, nothing is tried again later.
#[test]
fn connections_are_begun_in_turns() {
    let crier = Crier::default();
    let limits = Limits { max_outbound: 500, idle_timeout: None, ..Limits::default() };
    let (mut world, _) = crowded(&crier, limits, 0);
    let back = Address::Tcp(([192, 0, 2, 1], 90).into());
    let _remote = world.sim.listen(&back).unwrap();
    let minute = Duration::from_secs(60);
    let begin = move |_: &mut Crier, net: &mut Net| {
        (0..500).for_each(|_| _ = net.connect(&back, minute).unwrap());
    };
    world.server.handle().call(begin).unwrap();
    let (mut most, mut sockets) = (0, world.sim.count(Method::Socket));
    let all = sockets + 500;
    while world.sim.is_ready() || !world.server.is_idle() {
        world.turn();
        let now = world.sim.count(Method::Socket);
        (most, sockets) = (most.max(now - sockets), now);
    }
    assert_eq!((sockets, crier.opened().len()), (all, 500));
    assert!(most <= 150, "{most} in a turn");
    let waits = world.sim.count(Method::EpollWait);
    world.pass(minute / 2);
    assert_eq!(world.sim.count(Method::EpollWait), waits, "it woke up for nothing");
    world.stop();
}

/// A server in a loop of another's: as long as something is left to do, its descriptor is readable.
#[test]
fn what_is_left_wakes_the_other_loop() {
    let crier = Crier { by_line: true, ..Crier::default() };
    let (mut world, mut crowd) = crowded(&crier, Limits::default(), 1);
    assert!(world.server.poll().unwrap());
    say(&mut crowd, b"1\n2\n3\n4\n5\n");
    for _ in 0..100 {
        if world.sim.is_ready() {
            assert!(world.server.poll().unwrap());
        }
    }
    assert_eq!(crier.said(), 5);
    assert!(!world.sim.is_ready(), "it spins");
    world.stop();
}

/// An answer does not wait until all clients with a message have been read.
#[test]
fn answers_leave_amid_a_batch() {
    let crier = Crier::default();
    let (mut world, mut crowd) = crowded(&crier, Limits::default(), 100);
    say(&mut crowd, b"ping\n");
    world.sim.take_trace();
    world.turn();
    let calls: Vec<Method> = world.sim.take_trace().iter().map(|call| call.method).collect();
    let first_sent = calls.iter().position(|&it| it == Method::Send).unwrap();
    let last_read = calls.iter().rposition(|&it| it == Method::Recv).unwrap();
    assert!(first_sent < last_read / 2, "{first_sent} of {last_read}");
    world.stop();
}

/// Output that has waited costs a turn its bytes and a call for each client: what a few take again
/// goes in one turn.
#[test]
fn what_waited_for_a_few_goes_in_one_turn() {
    let crier = Crier::default();
    let (mut world, _) = crowded(&crier, Limits::default(), 0);
    world.sim.set_buffers(5_000, 5_000);
    let mut crowd: Vec<Client> = (0..12).map(|_| world.client()).collect();
    world.rest();
    let send = |_: &mut Crier, net: &mut Net| {
        net.ids().for_each(|id| assert!(net.send(id, &[b'x'; 50_000])));
    };
    world.server.handle().call(send).unwrap();
    world.rest();
    crowd.iter_mut().for_each(|client| assert!(!client.recv().is_empty()));
    let before = world.sim.count(Method::Send);
    world.turn();
    assert_eq!(world.sim.count(Method::Send) - before, 12);
    world.stop();
}
