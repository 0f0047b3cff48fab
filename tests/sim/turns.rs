//! Turns: how much is done before the others have theirs. Each test has a crowd that asks for
//! much more than one turn may do, and somebody who must not wait for the end of it.

use crate::simulation::World;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;
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
        self.tell(conn.net(), b"time\n");
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
    assert_turns_are_short(&mut world);
    assert_eq!(crier.count(|seen| matches!(seen, Seen::Rang(_))), CROWD);
    crowd.iter_mut().for_each(|client| assert_eq!(client.recv().len(), CROWD * 5));
    world.stop();
}

/// The bytes that wait in the rest of a batch come before the deadline of their connection.
#[test]
fn deadlines_wait_for_the_rest_of_a_batch() {
    let crier = Crier::default();
    let limits = Limits { idle_timeout: Some(Duration::from_secs(5)), ..Limits::default() };
    let (mut world, mut crowd) = crowded(&crier, limits, CROWD);
    say(&mut crowd, b"hello\n");
    world.turn();
    world.sim.advance(Duration::from_secs(6));
    world.rest();
    assert_eq!(crier.said(), CROWD, "{} were idle", CROWD - crier.said());
    world.stop();
}

/// A full batch whose last event spent the quantum was taken to have a rest for as long as there
/// was something else to do, so that deadlines were put off.
#[test]
fn deadlines_after_a_batch_that_was_served_to_its_end() {
    const BATCH: usize = 1_024;
    let crier = Crier::default();
    let limits = Limits { idle_timeout: Some(Duration::from_secs(5)), ..Limits::default() };
    let (mut world, mut crowd) = crowded(&crier, limits, BATCH);
    let handle = world.server.handle();
    let job = |crier: &mut Crier, _: &mut Net| crier.saw(Seen::Job);
    *crier.amid.borrow_mut() = Some(Box::new(move |_: &mut Net| while handle.call(job).is_ok() {}));
    let (last, others) = crowd.split_last_mut().unwrap();
    say(others, b"ping\n");
    last.send(b"hello\n");
    world.turn();
    assert_eq!(crier.said(), BATCH);
    world.sim.advance(Duration::from_secs(6));
    world.turn();
    world.turn();
    let calls = crier.count(|seen| *seen == Seen::Job);
    crowd.iter_mut().for_each(|client| drop(client.recv()));
    assert!(crowd.iter().all(Client::saw_eof), "they are idle, and {calls} calls came first");
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
