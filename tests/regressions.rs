//! Bugs that were found, by name. Each test failed before its fix.
#![cfg(feature = "sim")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use threadbare::kernel::sim::Simulated;
use threadbare::{CloseReason, Conn, ConnId, ConnectionHandler, Limits, Net, Server};

fn rest<H: ConnectionHandler>(sim: &Simulated, server: &mut Server<H, Simulated>) {
    while sim.is_ready() || !server.is_idle() {
        assert!(server.turn().unwrap());
    }
}

/// A connection that was judged full by bytes still staged, which the kernel then took
/// all, was never read again.
#[test]
fn full_by_what_was_only_staged() {
    struct Farewell;
    impl ConnectionHandler for Farewell {
        type Session = ();
        fn on_data(&mut self, conn: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
            if input.ends_with(b"\n") {
                conn.write(input);
                return input.len();
            }
            0
        }
        fn on_close(&mut self, net: &mut Net, _: ConnId, _: (), _: CloseReason) {
            let others: Vec<ConnId> = net.ids().collect();
            others.into_iter().for_each(|id| assert!(net.send(id, &[b'.'; 2_000])));
        }
    }
    let sim = Simulated::new(1);
    let limits = Limits { high_water: 1_000, ..Limits::default() };
    let builder = Server::builder(Farewell).kernel(sim.clone()).limits(limits);
    let mut server = builder.bind("127.0.0.1:80").unwrap();
    let address = server.addresses()[0].clone();
    let mut stays = sim.connect(&address).unwrap();
    let mut leaves = sim.connect(&address).unwrap();
    let _idle = sim.connect(&address).unwrap();
    rest(&sim, &mut server);
    stays.send(b"half a line");
    leaves.close();
    rest(&sim, &mut server);
    assert_eq!(stays.recv().len(), 2_000);
    stays.send(b"\n");
    rest(&sim, &mut server);
    assert_eq!(stays.recv(), b"half a line\n");
}
