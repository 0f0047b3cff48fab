//! Groups: who is sent what, what is counted, and who has left.

use crate::simulation::World;
use threadbare::kernel::sim::{Client, Method};
use threadbare::{CloseReason, Conn, ConnId, ConnectionHandler, Fanout, Limits, Net};

/// Each client is in the group of all.
#[derive(Default)]
struct Rooms {
    /// How many were in the group when the end of a connection was told.
    left: Vec<usize>,
}

impl ConnectionHandler for Rooms {
    type Session = ();

    fn on_open(&mut self, conn: &mut Conn<'_>, _: &mut ()) {
        let id = conn.id();
        assert!(conn.net().join("all", id));
        assert!(!conn.net().join("all", id));
    }

    fn on_data(&mut self, conn: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
        let id = conn.id();
        conn.net().send_group("all", input, Some(id));
        input.len()
    }

    fn on_close(&mut self, net: &mut Net, id: ConnId, _: (), _: CloseReason) {
        assert!(!net.members("all").contains(&id) && !net.leave("all", id));
        assert!(!net.join("all", id), "it is gone");
        self.left.push(net.members("all").len());
    }
}

fn room(count: usize) -> (World<Rooms>, Vec<Client>) {
    let mut world = World::new(Rooms::default(), Limits { high_water: 1_000, ..Limits::default() });
    let clients = (0..count).map(|_| world.client()).collect();
    world.rest();
    (world, clients)
}

/// What `net` gives, between two turns.
fn with<T: Send + 'static>(
    world: &mut World<Rooms>,
    act: impl FnOnce(&mut Net) -> T + Send + 'static,
) -> T {
    let (tell, told) = std::sync::mpsc::channel();
    world.server.handle().call(move |_, net| tell.send(act(net)).unwrap()).unwrap();
    world.rest();
    told.recv().unwrap()
}

/// `sent`, `full` and `gone`.
fn counts(fanout: Fanout) -> (usize, usize, usize) {
    (fanout.sent, fanout.full, fanout.gone)
}

#[test]
fn a_group_is_sent_to_and_counted() {
    let (mut world, mut clients) = room(5);
    assert_eq!(world.ask(&mut clients[0], b"hello"), b"");
    assert!(clients[1..].iter_mut().all(|client| client.recv() == b"hello"));

    // A member that does not read is full, one that is closing is sent nothing, a group without
    // members is nobody.
    world.sim.set_buffers(100, 100);
    let mut deaf = world.client();
    world.rest();
    let ids = with(&mut world, |net| net.members("all"));
    let closing = ids[1];
    let fanout = with(&mut world, move |net| {
        net.close(closing);
        [
            net.send_group("all", &[b'x'; 2_000], None),
            net.send_group("nobody", b"x", None),
            net.send_group("all", b"", Some(closing)),
        ]
    });
    assert_eq!(fanout.map(counts), [(5, 5, 1), (0, 0, 0), (5, 5, 0)]);
    let fanout = with(&mut world, |net| net.send_group("all", b"y", None));
    assert_eq!(counts(fanout), (5, 1, 1), "only one does not keep up");
    let mut all = Vec::new();
    for _ in 0..100 {
        all.extend(deaf.recv());
        world.rest();
    }
    assert_eq!((all.len(), all.last()), (2_001, Some(&b'y')));
    world.stop();
}

/// It is in no group when `on_close` is called, and its slot's next owner is in none, either.
#[test]
fn a_connection_leaves_when_it_closes() {
    let (mut world, mut clients) = room(3);
    with(&mut world, |net| {
        let ids = net.members("all");
        for (at, &id) in ids.iter().enumerate() {
            assert!(net.join(format!("own {at}"), id) && net.join([0, 255], id));
        }
        assert!(net.leave([0, 255], ids[2]) && !net.leave([0, 255], ids[2]));
    });
    clients.remove(0).reset();
    clients.remove(0).close();
    world.rest();
    assert_eq!(world.server.handler().left, [2, 1]);
    let _next = [world.client(), world.client()];
    world.rest();
    let groups = ["all", "own 0", "own 1", "own 2", "\0"];
    let members = with(&mut world, move |net| groups.map(|group| net.members(group).len()));
    assert_eq!(members, [3, 0, 0, 1, 0]);
    world.stop();
}

/// Ids can be sent to while they are gone through; and a line for all is one call for each.
#[test]
fn a_loop_over_ids_may_send() {
    let (mut world, mut clients) = room(50);
    let sends = world.sim.count(Method::Send);
    let sent = with(&mut world, |net| {
        let mut sent = 0;
        for id in net.ids() {
            sent += usize::from(net.send(id, b"one ") && net.send(id, b"two"));
        }
        for id in net.members("all") {
            sent += usize::from(net.send(id, b"!"));
        }
        sent
    });
    assert_eq!((sent, world.sim.count(Method::Send) - sends), (100, 50));
    assert!(clients.iter_mut().all(|client| client.recv() == b"one two!"));
    world.stop();
}
