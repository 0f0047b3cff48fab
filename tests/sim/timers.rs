//! Timers of the handler and of connections: exact, in order, canceled, and free for messages.

use crate::simulation::World;
use std::time::Duration;
use threadbare::kernel::sim::Method;
use threadbare::{Address, Conn, ConnId, ConnectionHandler, Error, Limits, Net, Signal, TimerId};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 3_600);
/// A timer is late by this much, at most: it is rounded up, and the clock down.
const LATE: Duration = Duration::from_millis(2);

/// Notes what rings, and when.
#[derive(Default)]
struct Rings {
    rang: Vec<(Duration, String)>,
    /// Set at the start, before any client is there.
    at_start: Option<Duration>,
    /// What each message sets: a timer of the handler.
    at_message: Option<Duration>,
    closed: u64,
}

impl Rings {
    fn note(&mut self, net: &mut Net, what: String) {
        self.rang.push((net.now(), what));
    }

    fn names(&self) -> Vec<&str> {
        self.rang.iter().map(|(_, name)| &**name).collect()
    }
}

impl ConnectionHandler for Rings {
    type Session = u32;

    fn on_start(&mut self, net: &mut Net) -> Result<(), Error> {
        self.at_start.map(|delay| net.after(delay, 0));
        Ok(())
    }

    fn on_data(&mut self, conn: &mut Conn<'_>, _: &mut u32, input: &[u8]) -> usize {
        conn.write(input);
        self.at_message.take().map(|delay| conn.net().after(delay, 7));
        input.len()
    }

    fn on_timer(&mut self, conn: &mut Conn<'_>, rang: &mut u32) {
        *rang += 1;
        self.note(conn.net(), "plain".into());
    }

    fn on_timer_for(&mut self, conn: &mut Conn<'_>, rang: &mut u32, key: u32) {
        *rang += 1;
        self.note(conn.net(), format!("key {key}"));
        if key == 99 {
            conn.close();
        }
    }

    fn on_tick(&mut self, net: &mut Net, _: TimerId, token: u64) {
        self.note(net, format!("tick {token}"));
        if token == 13 {
            net.after(Duration::ZERO, 13); // for ever, but never twice in a turn
        }
    }

    fn on_close(&mut self, _: &mut Net, _: ConnId, rang: u32, _: threadbare::CloseReason) {
        self.closed += u64::from(rang);
    }
}

fn world() -> World<Rings> {
    World::new(Rings::default(), Limits::default())
}

fn with(world: &mut World<Rings>, act: impl FnOnce(&mut Rings, &mut Net) + Send + 'static) {
    world.server.handle().call(act).unwrap();
    world.rest();
}

/// The only connection, or the one begun last.
fn conn(net: &mut Net) -> Conn<'_> {
    let id = net.ids().last().unwrap();
    net.conn(id).unwrap()
}

/// Writes much at each timer of a connection, and notes how many went before the tick.
#[derive(Default)]
struct Loud {
    rang: usize,
    before_tick: Option<usize>,
}

impl ConnectionHandler for Loud {
    type Session = ();

    fn on_data(&mut self, conn: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
        conn.set_timer(Some(SECOND));
        input.len()
    }

    fn on_timer(&mut self, conn: &mut Conn<'_>, _: &mut ()) {
        self.rang += 1;
        conn.write(&[b'x'; 100 << 10]);
    }

    fn on_tick(&mut self, _: &mut Net, _: TimerId, _: u64) {
        self.before_tick = Some(self.rang);
    }
}

/// Timers of connections that use up the share of a turn keep the handler's own from nothing: it
/// waited until all of them had rung.
#[test]
fn a_crowd_of_timers_and_one_of_the_handler() {
    let mut world = World::new(Loud::default(), Limits::default());
    world.sim.set_buffers(1 << 20, 1 << 20);
    let mut clients: Vec<_> = (0..200).map(|_| world.client()).collect();
    clients.iter_mut().for_each(|client| _ = client.send(b"x"));
    world.rest();
    world.server.handle().call(|_, net| _ = net.after(SECOND, 0)).unwrap();
    world.rest();
    world.pass(2 * SECOND);
    let Loud { rang, before_tick } = *world.server.handler();
    assert_eq!(rang, 200);
    assert!(before_tick.is_some_and(|count| count <= 1), "{before_tick:?} of 200 before it");
    world.stop();
}

/// Days and weeks, beyond what 32 bits of milliseconds hold, and milliseconds between them: each
/// rings in its order, never early, and no more than a moment late.
#[test]
fn timers_of_the_handler_ring_in_order() {
    let mut world = world();
    let delays = [60 * DAY, 7 * SECOND, Duration::ZERO, 13 * DAY, 7 * SECOND, LATE, 30 * DAY];
    with(&mut world, move |_, net| {
        for (token, delay) in delays.into_iter().enumerate() {
            net.after(delay, token as u64);
        }
    });
    world.pass(61 * DAY);
    let rings = world.server.handler();
    assert_eq!(
        rings.names(),
        ["tick 2", "tick 5", "tick 1", "tick 4", "tick 3", "tick 6", "tick 0"]
    );
    for (at, name) in &rings.rang {
        let token: usize = name[5..].parse().unwrap();
        assert!(*at >= delays[token] && *at <= delays[token] + LATE, "{name} at {at:?}");
    }
    world.stop();
}

/// A canceled timer neither rings nor wakes the loop, and an id names one timer for ever.
#[test]
fn a_canceled_timer_costs_nothing() {
    let mut world = world();
    with(&mut world, |_, net| {
        let timers: Vec<TimerId> = (0..1_000).map(|token| net.after(SECOND, token)).collect();
        let kept = net.after(2 * SECOND, 1_000);
        for &timer in &timers {
            assert!(net.cancel(timer));
            assert!(!net.cancel(timer));
        }
        assert!(!timers.contains(&kept));
    });
    let waits = world.sim.count(Method::EpollWait);
    world.pass(3 * SECOND);
    assert_eq!(world.server.handler().names(), ["tick 1000"]);
    assert!(world.sim.count(Method::EpollWait) - waits <= 4);
    with(&mut world, |_, net| {
        let timer = net.after(Duration::ZERO, 1);
        net.after(Duration::ZERO, 2);
        assert!(net.cancel(timer));
    });
    world.pass(SECOND);
    assert_eq!(world.server.handler().names(), ["tick 1000", "tick 2"]);
    world.stop();
}

/// A timer that is set before there is a client, and one that an ordinary message sets, in a
/// turn with nothing else to do.
#[test]
fn a_timer_wakes_a_loop_that_has_nothing_to_do() {
    let rings = Rings { at_start: Some(SECOND), ..Rings::default() };
    let mut world = World::new(rings, Limits::default());
    world.pass(SECOND + LATE);
    assert_eq!(world.server.handler().names(), ["tick 0"]);
    let mut client = world.client();
    assert_eq!(world.ask(&mut client, b"hello"), b"hello");
    with(&mut world, |rings, _| rings.at_message = Some(SECOND));
    assert_eq!(world.ask(&mut client, b"again"), b"again");
    world.pass(SECOND + LATE);
    assert_eq!(world.server.handler().names(), ["tick 0", "tick 7"]);
    // Also if another one is due later.
    with(&mut world, |rings, net| {
        net.after(DAY, 1);
        rings.at_message = Some(SECOND);
    });
    assert_eq!(world.ask(&mut client, b"earlier"), b"earlier");
    world.pass(SECOND + LATE);
    assert_eq!(world.server.handler().names(), ["tick 0", "tick 7", "tick 7"]);
    world.stop();
}

/// The first wait of a server whose handler has set a timer does not last for ever.
#[test]
fn a_timer_that_is_set_before_the_first_wait() {
    for (at_start, how_long) in [(Some(SECOND), ", 0) = "), (None, ", -1) = ")] {
        let rings = Rings { at_start, ..Rings::default() };
        let mut world = threadbare::sim::World::new(rings);
        assert!(!world.server.is_idle(), "there is something to do before the first wait");
        world.server.turn().unwrap();
        let calls = world.take_calls();
        let waits: Vec<&String> =
            calls.iter().filter(|call| call.starts_with("epoll_wait(")).collect();
        assert!(waits.len() == 1 && waits[0].contains(how_long), "{waits:?}");
    }
}

/// With a timer of each kind pending a message costs what it costs without: a recv, a send, a
/// wait.
#[test]
fn a_message_pays_for_no_timer() {
    let mut world = world();
    let mut client = world.client();
    world.rest();
    with(&mut world, |_, net| {
        (0..100).for_each(|token| _ = net.after(DAY, token));
        conn(net).set_timer(Some(DAY));
        (0..10).for_each(|key| conn(net).set_timer_for(key, Some(DAY)));
    });
    world.ask(&mut client, b"hello");
    world.sim.take_trace();
    for _ in 0..10 {
        assert_eq!(world.ask(&mut client, b"hello"), b"hello");
    }
    let calls = world.sim.take_trace();
    assert_eq!(calls.len(), 30, "{:?}", calls.iter().map(|it| it.method).collect::<Vec<_>>());
    world.stop();
}

/// Echoes, and lets go of a client a second after its last message.
struct Impatient;

impl ConnectionHandler for Impatient {
    type Session = ();

    fn on_data(&mut self, conn: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
        conn.set_timer((input != b"wait").then_some(SECOND));
        conn.write(input);
        input.len()
    }

    fn on_timer(&mut self, conn: &mut Conn<'_>, _: &mut ()) {
        conn.close();
    }
}

/// A timer that each message puts off rings when the last one says, one that is canceled never,
/// and both wake the loop no more than once a second.
#[test]
fn a_timer_that_is_put_off_is_exact() {
    let mut world = World::new(Impatient, Limits::default());
    let mut client = world.client();
    for _ in 0..100 {
        assert_eq!(world.ask(&mut client, b"hello"), b"hello");
        world.pass(SECOND / 10);
    }
    assert!(world.sim.count(Method::TimerfdSettime) < 15);
    assert_eq!(world.ask(&mut client, b"wait"), b"wait");
    world.pass(10 * SECOND);
    assert_eq!(world.ask(&mut client, b"hello"), b"hello");
    world.pass(SECOND / 2);
    assert_eq!(world.ask(&mut client, b"hello"), b"hello");
    world.pass(SECOND - LATE);
    assert!(client.recv().is_empty() && !client.saw_eof());
    world.pass(2 * LATE);
    assert!(client.recv().is_empty() && client.saw_eof());
    world.stop();
}

/// A timer that is set to an earlier time, in a later turn, rings at that time.
#[test]
fn a_timer_that_is_brought_forward_is_exact() {
    let mut world = world();
    let _client = world.client();
    world.rest();
    for delay in [9 * SECOND, SECOND] {
        with(&mut world, move |_, net| conn(net).set_timer(Some(delay)));
    }
    world.pass(SECOND + LATE);
    assert_eq!(world.server.handler().names(), ["plain"]);
    world.stop();
}

/// Each key has a timer of its own, beside the one without: set, replaced, canceled.
#[test]
fn a_connection_has_a_timer_for_each_key() {
    let mut world = world();
    let _client = world.client();
    world.rest();
    with(&mut world, |_, net| {
        let mut conn = conn(net);
        conn.set_timer(Some(2 * SECOND)); // before there are keys
        conn.set_timer_for(3, Some(3 * SECOND));
        conn.set_timer_for(1, Some(SECOND));
        conn.set_timer_for(4, Some(SECOND));
        conn.set_timer_for(4, Some(4 * SECOND)); // later
        conn.set_timer_for(5, Some(9 * SECOND));
        conn.set_timer_for(5, Some(SECOND / 2)); // earlier
        conn.set_timer_for(6, Some(SECOND));
        conn.set_timer_for(6, None);
        conn.set_timer_for(7, None);
    });
    world.pass(10 * SECOND);
    let due =
        [(500, "key 5"), (1_000, "key 1"), (2_000, "plain"), (3_000, "key 3"), (4_000, "key 4")];
    let rings = world.server.handler();
    assert_eq!(rings.names(), due.map(|(_, name)| name));
    for ((at, _), (due, name)) in rings.rang.iter().zip(due) {
        let due = Duration::from_millis(due);
        assert!(*at >= due && *at <= due + LATE, "{name} at {at:?}");
    }
    with(&mut world, |_, net| {
        conn(net).set_timer_for(8, Some(SECOND));
        conn(net).set_timer(Some(SECOND)); // when there are keys
        conn(net).set_timer_for(8, None);
        conn(net).set_timer(None);
    });
    world.pass(2 * SECOND);
    assert_eq!(world.server.handler().rang.len(), 5);
    world.stop();
}

/// A timer whose callback closes the connection is the last; the next owner of its slot has none.
#[test]
fn timers_end_with_their_connection() {
    let mut world = world();
    let mut client = world.client();
    world.rest();
    with(&mut world, |_, net| {
        [99, 1, 2].into_iter().for_each(|key| conn(net).set_timer_for(key, Some(SECOND)));
        conn(net).set_timer_for(3, Some(2 * SECOND)); // which never rings
        conn(net).set_timer_for(0, Some(SECOND / 2));
    });
    world.pass(SECOND + LATE);
    // Of the same millisecond the least key rings first.
    assert_eq!(world.server.handler().names(), ["key 0", "key 1", "key 2", "key 99"]);
    assert!(client.recv().is_empty() && client.saw_eof());
    client.close();
    world.pass(SECOND);
    let mut next = world.client();
    world.pass(5 * SECOND);
    assert_eq!(world.ask(&mut next, b"hello"), b"hello");
    assert_eq!(world.server.handler().rang.len(), 4);
    assert_eq!(world.server.handler().closed, 4);
    with(&mut world, |_, net| conn(net).set_timer(Some(SECOND)));
    world.pass(2 * SECOND);
    assert_eq!(world.server.handler().names()[4..], ["plain"]);
    world.stop();
}

/// A timer with a key, set while a connection is being begun, rings when it stands.
#[test]
fn a_key_waits_for_the_connection() {
    let limits = Limits { max_outbound: 1, ..Limits::default() };
    let mut world = World::new(Rings::default(), limits);
    let back = Address::Tcp(([127, 0, 0, 1], 90).into());
    let mut remote = world.sim.listen(&back).unwrap();
    remote.mute(true);
    with(&mut world, move |_, net| {
        let id = net.connect(&back, 5 * SECOND).unwrap();
        let mut conn = net.conn(id).unwrap();
        conn.set_timer(Some(SECOND / 2));
        conn.set_timer_for(1, Some(SECOND));
        conn.set_timer_for(2, Some(4 * SECOND));
    });
    world.pass(2 * SECOND);
    assert!(world.server.handler().rang.is_empty());
    remote.mute(false);
    world.pass(SECOND / 10);
    assert_eq!(world.server.handler().names(), ["plain", "key 1"]);
    world.pass(2 * SECOND);
    assert_eq!(world.server.handler().names(), ["plain", "key 1", "key 2"]);
    world.stop();
}

/// Timers hold up neither a stop nor other clients, not even one that is set again whenever it
/// rings.
#[test]
fn a_timer_holds_up_nothing() {
    let mut world = world();
    let mut client = world.client();
    world.rest();
    world.server.handle().call(|_, net| _ = net.after(Duration::ZERO, 13)).unwrap();
    world.pass(SECOND);
    let rang = world.server.handler().rang.len();
    assert!((300..=1_000).contains(&rang), "rang {rang} times in a second");
    client.send(b"hello");
    world.pass(LATE);
    assert_eq!(client.recv(), b"hello");
    drop(client);
    assert!(world.sim.signal(Signal::SIGTERM));
    world.pass(SECOND);
    assert!(!world.running);
    world.server.finish().unwrap();
}

/// A year's worth of timers that are due at once is rung in turns, between the messages.
#[test]
fn many_timers_leave_time_for_messages() {
    let mut world = world();
    let mut client = world.client();
    world.rest();
    with(&mut world, |_, net| (0..10_000).for_each(|token| _ = net.after(SECOND, token)));
    world.sim.advance(SECOND + LATE);
    client.send(b"hello");
    world.turn();
    world.turn();
    assert_eq!(client.recv(), b"hello");
    let rang = world.server.handler().rang.len();
    assert!((1_000..=3_000).contains(&rang), "{rang} in two turns");
    world.rest();
    let rings = world.server.handler();
    assert!(rings.names().iter().enumerate().all(|(at, name)| *name == format!("tick {at}")));
    assert_eq!(rings.rang.len(), 10_000);
    world.stop();
}
