//! Where connections come from, limits and timeouts of some of them, a protocol that becomes
//! another one, and what is not obeyed behind a close.

use crate::simulation::World;
use std::time::Duration;
use threadbare::framing::{Frame, Lengths, Lines};
use threadbare::kernel::sim::{Client, Short, Simulated};
use threadbare::{
    Address, CloseReason, Conn, ConnId, ConnectionHandler, Limits, Net, Origin, Peer, Server,
    Timeouts,
};

const SECOND: Duration = Duration::from_secs(1);

/// Notes where connections come from when they open, and when they close. What a client sends is
/// for how many seconds it may be idle; `-` is for ever.
#[derive(Default)]
struct Doors {
    opened: Vec<Origin>,
    ids: Vec<ConnId>,
    closed: Vec<(Origin, CloseReason)>,
}

impl ConnectionHandler for Doors {
    type Session = ();

    fn on_open(&mut self, conn: &mut Conn<'_>, _: &mut ()) {
        self.opened.push(conn.origin());
        let id = conn.id();
        assert_eq!(conn.net().origin(id), Some(conn.origin()));
        self.ids.push(id);
    }

    fn on_data(&mut self, conn: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
        let idle = std::str::from_utf8(input).unwrap().parse().ok().map(Duration::from_secs);
        conn.set_timeouts(Timeouts { idle, ..conn.timeouts() });
        assert_eq!(conn.timeouts().idle, idle);
        input.len()
    }

    fn on_close(&mut self, net: &mut Net, id: ConnId, _: (), why: CloseReason) {
        self.closed.push((net.origin(id).unwrap(), why));
    }
}

const PLACES: [&str; 2] = ["127.0.0.1:80", "127.0.0.1:81"];

fn world(sim: &Simulated, limits: Limits) -> World<Doors> {
    World::at(PLACES, sim.clone(), Doors::default(), limits).unwrap()
}

fn connect<H: ConnectionHandler>(world: &mut World<H>, listener: usize) -> Client {
    let address = world.server.addresses()[listener].clone();
    let client = world.sim.connect(&address).unwrap();
    world.rest();
    client
}

/// Listeners by their index, outbound connections by their token, in each callback; also those
/// that came to nothing.
#[test]
fn a_connection_knows_where_it_comes_from() {
    let sim = Simulated::new(1);
    let mut world =
        world(&sim, Limits { max_connections: 10, max_outbound: 3, ..Limits::default() });
    let clients = [connect(&mut world, 1), connect(&mut world, 0), connect(&mut world, 1)];
    let back = Address::Tcp(([127, 0, 0, 1], 90).into());
    let mut remote = sim.listen(&back).unwrap();
    let nobody = Address::Tcp(([127, 0, 0, 1], 91).into());
    world
        .server
        .handle()
        .call(move |_, net| {
            net.connect_as(&back, SECOND, 7).unwrap();
            net.connect(&back, SECOND).unwrap();
            let id = net.connect_as(&nobody, SECOND, 9).unwrap();
            assert_eq!(net.origin(id), Some(Origin::Outbound(9)));
        })
        .unwrap();
    world.rest();
    use Origin::{Listener, Outbound};
    let doors = world.server.handler();
    assert_eq!(doors.opened[..3], [Listener(1), Listener(0), Listener(1)]);
    let begun = &doors.opened[3..]; // in the order in which they stand
    assert!(begun.len() == 2 && begun.contains(&Outbound(7)) && begun.contains(&Outbound(0)));
    assert_eq!(doors.closed.len(), 1);
    assert_eq!(doors.closed[0].0, Outbound(9));
    drop((clients, remote.accept(), remote.accept()));
    world.rest();
    let closed: Vec<Origin> = world.server.handler().closed.iter().map(|(it, _)| *it).collect();
    for origin in [Listener(0), Listener(1), Outbound(7), Outbound(0)] {
        assert!(closed.contains(&origin), "{origin:?} in {closed:?}");
    }
    world.stop();
}

/// The origin of a connection that is gone is known while its end is reported. Later it is not that
/// of the connection that closed last, nor that of the next one in its place.
#[test]
fn an_origin_is_that_of_one_connection() {
    let mut world = world(&Simulated::new(1), Limits::default());
    let [gone, other] = [1, 0].map(|listener| connect(&mut world, listener));
    drop(gone);
    world.rest();
    let _next = connect(&mut world, 0);
    drop(other);
    world.rest();
    let look = |doors: &mut Doors, net: &mut Net| {
        let [gone, _, next] = doors.ids[..] else { panic!("three came") };
        assert_eq!((net.origin(gone), net.origin(next)), (None, Some(Origin::Listener(0))));
        assert_eq!(doors.closed[0].0, Origin::Listener(1));
    };
    world.server.handle().call(look).unwrap();
    world.rest();
    world.stop();
}

/// A listener that has as many clients as it may lets the others wait, and no one at the other
/// listener; when one leaves, the next is served.
#[test]
fn a_listener_has_a_limit_of_its_own() {
    let sim = Simulated::new(1);
    let limits = Limits { max_connections: 10, ..Limits::default() };
    let server = Server::builder(Doors::default()).limits(limits).limit_listener(0, 2);
    let server = server.limit_listener(9, 1).kernel(sim.clone());
    let mut world = World::of(server, PLACES, sim).unwrap();
    let mut public: Vec<Client> = (0..5).map(|_| connect(&mut world, 0)).collect();
    let _admin = connect(&mut world, 1);
    assert_eq!(
        world.server.handler().opened,
        [Origin::Listener(0), Origin::Listener(0), Origin::Listener(1)]
    );
    public.remove(0).close();
    world.rest();
    assert_eq!((world.server.handler().opened.len(), world.server.open()), (4, 3));
    drop(public);
    world.rest();
    assert_eq!((world.server.handler().opened.len(), world.server.open()), (6, 1));
    let stopped = world.server.handle();
    stopped.stop();
    world.end();
}

/// One connection waits longer than others, another one for ever; the next in the slot as usual.
#[test]
fn a_connection_has_timeouts_of_its_own() {
    let sim = Simulated::new(1);
    let limits = Limits { idle_timeout: Some(10 * SECOND), ..Limits::default() };
    let mut world = world(&sim, limits);
    let mut clients: Vec<Client> = (0..4).map(|_| connect(&mut world, 0)).collect();
    for (client, words) in clients.iter_mut().zip(["", "30", "-", "3"]) {
        client.send(words.as_bytes());
    }
    let mut ended_after = [0; 4];
    for second in 1..100 {
        world.pass(SECOND);
        for (client, ended) in clients.iter_mut().zip(&mut ended_after) {
            client.recv();
            if client.saw_eof() && *ended == 0 {
                *ended = second;
                client.close();
            }
        }
    }
    assert_eq!(ended_after, [11, 31, 0, 4]);
    let mut next: Vec<Client> = (0..3).map(|_| connect(&mut world, 0)).collect();
    world.pass(11 * SECOND);
    next.iter_mut().for_each(|client| assert!(client.recv().is_empty() && client.saw_eof()));
    world.stop();
}

/// Lines, until one says `SWITCH`; then messages behind their length, as after an upgrade.
struct Switch;

#[derive(Default)]
enum Protocol {
    #[default]
    Lines,
    Messages,
}

#[derive(Default)]
struct Session {
    protocol: Protocol,
    lines: Lines,
}

impl ConnectionHandler for Switch {
    type Session = Session;

    fn on_data(&mut self, conn: &mut Conn<'_>, session: &mut Session, input: &[u8]) -> usize {
        let mut rest = input;
        while !conn.is_full() {
            let frame = match session.protocol {
                Protocol::Lines => session.lines.next(&mut rest, 100),
                Protocol::Messages => Lengths::U16Be.next(&mut rest, 100),
            };
            let Frame::Whole { body, .. } = frame else { break };
            match session.protocol {
                Protocol::Lines if body == b"SWITCH" => session.protocol = Protocol::Messages,
                Protocol::Lines if body == b"QUIT" => conn.close(),
                Protocol::Lines => writeln!(conn, "line {}", body.escape_ascii()),
                Protocol::Messages => writeln!(conn, "message {}", body.escape_ascii()),
            }
        }
        input.len() - rest.len()
    }
}

/// However the bytes come, none is lost at the switch and none is read twice.
#[test]
fn a_protocol_becomes_another_one() {
    let input = b"a\nSWITCH\n\x00\x02\n\n\x00\x00\x00\x06SWITCH";
    let due = "line a\nmessage \\n\\n\nmessage \nmessage SWITCH\n";
    for most in 1..=input.len() {
        let mut world = World::new(Switch, Limits::default());
        world.sim.shorten(Short::AtMost(most));
        let mut client = world.client();
        let answer = world.ask(&mut client, input);
        assert_eq!(String::from_utf8(answer).unwrap(), due, "at most {most}");
        world.stop();
    }
    // In packets of their own, too.
    for cut in 1..input.len() {
        let mut world = World::new(Switch, Limits::default());
        let mut client = world.client();
        let mut answer = world.ask(&mut client, &input[..cut]);
        answer.extend(world.ask(&mut client, &input[cut..]));
        assert_eq!(String::from_utf8(answer).unwrap(), due, "cut at {cut}");
        world.stop();
    }
}

/// A loop that asks `is_full` ends by itself when the connection is closed: what stands behind
/// the last command is not obeyed, and what had been answered before is sent.
#[test]
fn nothing_is_obeyed_behind_a_close() {
    let mut world = World::new(Switch, Limits::default());
    for commands in ["a\nQUIT\nb\n", "a\nQUIT\nb\nQUIT\nc\n", "a\nQUIT\n"] {
        let mut client = world.client();
        assert_eq!(world.ask(&mut client, commands.as_bytes()), b"line a\n");
        client.send(b"later\n");
        world.rest();
        assert!(client.recv().is_empty() && client.saw_eof());
    }
    world.stop();
}

/// Notes who came, and whether that was this server.
#[derive(Default)]
struct Mirror(Vec<(Peer, bool)>);

impl ConnectionHandler for Mirror {
    type Session = ();

    fn on_open(&mut self, conn: &mut Conn<'_>, _: &mut ()) {
        self.0.push((conn.peer(), conn.is_own()));
    }

    fn on_data(&mut self, _: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
        input.len()
    }
}

/// A connection of the server to itself is known as such while it stands. A client that has its
/// address later is a client.
#[test]
fn an_address_is_the_servers_own_for_a_while() {
    let limits = Limits { max_outbound: 1, ..Limits::default() };
    let mut world = World::new(Mirror::default(), limits);
    let address = world.address();
    let to = address.clone();
    world.server.handle().call(move |_, net| _ = net.connect(&to, SECOND).unwrap()).unwrap();
    world.rest();
    let came = world.server.handler().0.iter().find(|(_, is_own)| *is_own);
    let &(Peer::Tcp(from), _) = came.unwrap() else { panic!("TCP") };
    let close_all = |_: &mut Mirror, net: &mut Net| net.ids().for_each(|id| _ = net.close(id));
    world.server.handle().call(close_all).unwrap();
    world.pass(10 * SECOND);
    assert_eq!(world.server.open(), 0);
    let client = world.sim.connect_from(&address, from).unwrap();
    world.rest();
    assert_eq!(world.server.handler().0.last(), Some(&(Peer::Tcp(from), false)));
    drop(client);
    world.stop();
}

/// A handler can ask which paths lead to a Unix socket of its own server.
#[test]
fn a_path_that_leads_back() {
    let sim = Simulated::new(1);
    sim.link("/run/link".as_ref(), Some("/run/front".as_ref()));
    let mut world =
        World::at("unix:/run/front", sim, Mirror::default(), Limits::default()).unwrap();
    let look = |_: &mut Mirror, net: &mut Net| {
        for (path, is_own) in [("/run/front", true), ("/run/link", true), ("/run/other", false)] {
            assert_eq!(net.leads_here(&Address::Unix(path.into())), is_own, "{path}");
        }
    };
    world.server.handle().call(look).unwrap();
    world.rest();
    world.stop();
}
