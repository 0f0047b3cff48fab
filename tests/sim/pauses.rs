//! Clients that leave while their connection is paused: they are noticed, once, and what they sent
//! before is neither lost nor told out of order.

use crate::simulation::World;
use std::any::Any;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use threadbare::kernel::sim::{Client, Method, Simulated};
use threadbare::{
    CallError, CloseReason, Conn, ConnectionHandler, Error, Limits, Net, Presence, Server,
};

/// Notes what it hears. `p` pauses, and is the last byte that it takes at once; `f` ends our side; `w`
/// writes more than the kernel takes.
#[derive(Default)]
struct Pauses {
    heard: String,
    ids: Vec<threadbare::ConnId>,
    closes: bool,
}

impl ConnectionHandler for Pauses {
    type Session = ();

    fn on_open(&mut self, conn: &mut Conn<'_>, (): &mut ()) {
        self.ids.push(conn.id());
    }

    fn on_data(&mut self, conn: &mut Conn<'_>, (): &mut (), input: &[u8]) -> usize {
        for (at, &byte) in input.iter().enumerate() {
            self.heard.push(byte.into());
            match byte {
                b'f' => conn.finish(),
                b'w' => conn.write(&vec![b'.'; 1 << 20]),
                b'p' => {
                    conn.pause();
                    return at + 1;
                }
                _ => {}
            }
        }
        input.len()
    }

    fn on_drain(&mut self, _: &mut Conn<'_>, (): &mut ()) {
        self.heard.push_str(" drained ");
    }

    fn on_eof(&mut self, conn: &mut Conn<'_>, (): &mut (), _: &[u8]) {
        self.heard.push_str(" eof");
        conn.write(b"bye");
        conn.close();
    }

    fn on_hangup(&mut self, conn: &mut Conn<'_>, (): &mut ()) {
        self.heard.push_str(" hangup ");
        if self.closes {
            conn.close();
        }
    }
}

fn world(closes: bool) -> World<Pauses> {
    World::new(Pauses { closes, ..Pauses::default() }, Limits::default())
}

fn resume(world: &mut World<Pauses>) {
    let call = |pauses: &mut Pauses, net: &mut threadbare::Net| {
        for &id in &pauses.ids {
            net.conn(id).into_iter().for_each(|mut conn| conn.resume());
        }
    };
    world.server.handle().call(call).unwrap();
    world.rest();
}

fn changes(world: &World<Pauses>) -> u64 {
    world.sim.count(Method::EpollCtl)
}

/// The end of a paused client is noticed whenever it comes, and told in its order afterwards.
#[test]
fn a_client_that_ends_its_side_is_noticed() {
    type Leave = fn(&mut Client);
    let leave: [(&str, Leave); 4] = [
        ("p hangup  eof", |client| client.shutdown()),
        ("p hangup xyz eof", |client| {
            client.send(b"xyz"); // it is not read: the end stands behind it
            client.shutdown();
        }),
        ("p hangup xp eof", |client| {
            client.send(b"xp"); // and a second pause has no more to notice
            client.shutdown();
        }),
        ("p hangup f eof", |client| {
            client.send(b"f");
            client.shutdown();
        }),
    ];
    for (due, leave) in leave {
        let mut world = world(false);
        let mut client = world.client();
        world.ask(&mut client, b"p");
        leave(&mut client);
        world.rest();
        let calls = world.sim.count(Method::EpollWait);
        world.pass(Duration::from_secs(100));
        assert!(world.sim.count(Method::EpollWait) <= calls + 2, "it spins: {due}");
        for _ in 0..2 {
            resume(&mut world);
        }
        assert_eq!(world.server.handler().heard, due);
        let answer = client.recv();
        assert!(client.saw_eof() && (answer == b"bye" || due.contains('f')), "{due}");
        assert_eq!(world.stop().counters.closed_for(CloseReason::PeerClosed), 1, "{due}");
    }
}

/// Bytes and the end in one go: the pause comes when the end is here already.
#[test]
fn an_end_that_came_before_the_pause_is_noticed() {
    let mut world = world(false);
    let mut client = world.client();
    client.send(b"apbp");
    client.shutdown();
    world.rest();
    assert_eq!(world.server.handler().heard, "ap hangup ");
    resume(&mut world);
    resume(&mut world);
    assert_eq!(world.server.handler().heard, "ap hangup bp eof");
    world.stop();
}

/// Nobody but a paused client is watched for that, and the watch costs no call: a pause and its
/// end are told to epoll anyway.
#[test]
fn only_a_pause_is_watched_and_at_no_cost() {
    let mut world = world(false);
    let mut client = world.client();
    world.ask(&mut client, b"abc");
    let before = changes(&world);
    world.ask(&mut client, b"p");
    resume(&mut world);
    assert_eq!(changes(&world), before + 2, "a pause and its end");
    client.shutdown();
    world.rest();
    assert_eq!(world.server.handler().heard, "abcp eof");
    world.stop();
}

/// What is written goes on during a pause, and the handler hears of that; but nothing is offered,
/// and nobody has left.
#[test]
fn a_pause_holds_up_no_output() {
    let mut world = world(false);
    let mut client = world.client();
    world.rest();
    client.send(b"wpx");
    let mut received = 0;
    for _ in 0..100 {
        world.rest();
        received += client.recv().len();
    }
    assert_eq!((received, &*world.server.handler().heard), (1 << 20, "wp drained "));
    resume(&mut world);
    assert_eq!(world.server.handler().heard, "wp drained x");
    world.stop();
}

/// A handler may take it for the end, and then the connection is gone at once; a reset always is.
#[test]
fn who_is_let_go_is_gone_at_once() {
    let leave: [fn(&mut Client); 2] = [Client::shutdown, Client::reset];
    for leave in leave {
        let mut world = world(true);
        let mut client = world.client();
        world.ask(&mut client, b"p");
        client.send(b"more");
        leave(&mut client);
        world.rest();
        assert_eq!(world.server.open(), 0);
        assert_eq!(world.server.handler().heard, "p hangup ");
        world.stop();
    }
}

/// On a Unix socket the peer's close ends both directions: that is a hang-up, too.
#[test]
fn a_unix_client_that_closes() {
    let sim = Simulated::new(1);
    let mut world = World::at("unix:/run/s", sim, Pauses::default(), Limits::default()).unwrap();
    let mut client = world.client();
    world.ask(&mut client, b"p");
    client.send(b"x");
    client.close();
    world.rest();
    assert_eq!(world.server.handler().heard, "p hangup ");
    resume(&mut world);
    assert_eq!(world.server.handler().heard, "p hangup x eof");
    world.stop();
}

/// Does a job for each byte. `!` asks for a second one at once, which is a mistake.
struct Jobs;

impl ConnectionHandler for Jobs {
    type Session = ();

    fn on_data(&mut self, conn: &mut Conn<'_>, (): &mut (), input: &[u8]) -> usize {
        let mut rest = input.iter();
        while !conn.is_full() && !conn.is_paused() {
            let Some(&byte) = rest.next() else { break };
            assert!(conn.work(move |_: &mut (), _| byte.to_ascii_uppercase()));
            if byte == b'!' && !conn.work(|_: &mut (), _| b'?') {
                conn.write(b"one at a time: ");
            }
        }
        input.len() - rest.len()
    }

    fn on_result(&mut self, conn: &mut Conn<'_>, (): &mut (), result: Box<dyn Any + Send>) {
        conn.write(&[*result.downcast::<u8>().unwrap()]);
    }
}

/// A loop in `on_data` ends where it has given a job, so answers come in the order of their
/// requests; a job that is given all the same is refused, because the connection is paused.
#[test]
fn one_job_at_a_time() {
    let builder = Server::builder(Jobs).workers(1, 10, || ());
    let mut world = threadbare::sim::World::start(builder).unwrap();
    let mut client = world.client();
    assert_eq!(world.ask(&mut client, b"abc"), b"ABC");
    world.server.hold_work(true);
    assert_eq!(world.ask(&mut client, b"d!e"), b"");
    world.server.hold_work(false);
    world.rest();
    assert_eq!(client.recv(), b"Done at a time: !E");
    assert_eq!(world.server.counters().bugs, 1);
    assert_eq!(world.server.handle().ask(|_, _| ()), Err(CallError::OwnThread)); // or for ever
}

/// Gives a job to the connection that it has begun.
#[derive(Default)]
struct TooEarly(Vec<&'static str>);

impl ConnectionHandler for TooEarly {
    type Session = ();

    fn on_start(&mut self, net: &mut Net) -> Result<(), Error> {
        let id = net.connect(&BEHIND.into(), Duration::from_secs(5))?;
        let taken = net.conn(id).is_some_and(|mut conn| conn.work(|_: &mut (), _| ()));
        self.0.push(if taken { "taken" } else { "refused" });
        Ok(())
    }

    fn on_data(&mut self, conn: &mut Conn<'_>, (): &mut (), input: &[u8]) -> usize {
        self.0.push("heard");
        conn.close();
        let taken = conn.work(|_: &mut (), _| ());
        self.0.push(if taken { "taken" } else { "refused" });
        input.len()
    }

    fn on_result(&mut self, _: &mut Conn<'_>, (): &mut (), _: Box<dyn Any + Send>) {
        self.0.push("done");
    }
}

const BEHIND: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 90);

/// The result of a job for a connection that was not established yet was lost, and the connection
/// stayed paused for ever; one that was closed could have any number of jobs.
#[test]
fn a_job_for_a_connection_that_is_not_in_service() {
    let sim = Simulated::new(1);
    let mut behind = sim.listen(&BEHIND.into()).unwrap();
    let limits = Limits { max_outbound: 1, ..Limits::default() };
    let builder = Server::builder(TooEarly::default()).kernel(sim.clone()).limits(limits);
    let mut world = World::of(builder.workers(1, 10, || ()), "127.0.0.1:80", sim).unwrap();
    world.rest();
    let mut remote = behind.accept().unwrap();
    world.rest();
    remote.send(b"hello");
    world.rest();
    assert_eq!(world.server.handler().0, ["refused", "heard", "refused"]);
    world.stop();
}

/// Does a job for each message, which notes whether its client was gone.
#[derive(Default)]
struct Watched(Arc<Mutex<Vec<(u8, bool)>>>);

impl ConnectionHandler for Watched {
    type Session = ();

    fn on_data(&mut self, conn: &mut Conn<'_>, (): &mut (), input: &[u8]) -> usize {
        let (byte, seen) = (input[0], Arc::clone(&self.0));
        let note = move |_: &mut (), it: &Presence| seen.lock().unwrap().push((byte, it.is_gone()));
        if !conn.work(note) {
            conn.write(b"busy");
        }
        1
    }
}

/// No more jobs wait than may, the next is refused; and a job sees whether its client has gone, and
/// not that the one before in that place has.
#[test]
fn jobs_wait_and_see_who_is_gone() {
    let watched = Watched::default();
    let seen = Arc::clone(&watched.0);
    let builder = Server::builder(watched).workers(1, 2, || ());
    let mut world = threadbare::sim::World::start(builder).unwrap();
    let [mut goes, mut stays, mut third] = [world.client(), world.client(), world.client()];
    world.rest();
    world.server.hold_work(true);
    assert_eq!(world.ask(&mut goes, b"g"), b"");
    assert_eq!(world.ask(&mut stays, b"s"), b"");
    assert_eq!(world.ask(&mut third, b"t"), b"busy");
    goes.reset();
    world.rest();
    world.server.hold_work(false);
    world.rest();
    let mut next = world.client();
    world.ask(&mut next, b"n");
    world.ask(&mut stays, b"S"); // its second
    assert_eq!(*seen.lock().unwrap(), [(b'g', true), (b's', false), (b'n', false), (b'S', false)]);
}
