//! A server of one's own in one file: it sends each line back in capitals.
//!
//! ```text
//! cargo run --example shout                     and, in another terminal:
//! make client SAY=hello
//! cargo test --test sim shout                   its tests, without a socket
//! ```
//!
//! `docs/18-handler.md` tells how it came about.

use log::LevelFilter;
use simple_logger::SimpleLogger;
use std::error::Error;
use std::time::Duration;
// ANCHOR: head
use threadbare::framing::{Frame, Lines};
use threadbare::{Conn, ConnectionHandler, Server};

/// The longest line in bytes, its ending not counted.
const LONGEST: usize = 4096;
// ANCHOR_END: head
/// A client that says nothing for this long is let go.
const SILENCE: Duration = Duration::from_secs(60);

/// One value serves all connections, so what they share is a field of it.
#[derive(Default)]
struct Shout {
    /// Where an answer is put together; kept, so that a line allocates nothing.
    loud: Vec<u8>,
}

// ANCHOR: answer
impl Shout {
    fn answer(&mut self, conn: &mut Conn<'_>, line: &[u8]) {
        self.loud.clear();
        self.loud.extend_from_slice(line);
        self.loud.make_ascii_uppercase();
        conn.write(&self.loud);
    }
}
// ANCHOR_END: answer

// ANCHOR: on_data
impl ConnectionHandler for Shout {
    type Session = Lines; // how far the input of a connection is searched already

    fn on_data(&mut self, conn: &mut Conn<'_>, lines: &mut Lines, input: &[u8]) -> usize {
        let mut rest = input;
        while !conn.is_full() {
            match lines.next(&mut rest, LONGEST) {
                Frame::Whole { raw, .. } => self.answer(conn, raw),
                Frame::Partial => break, // offered again with the next bytes
                Frame::TooLong => {
                    conn.write(b"NOT SO LONG\n");
                    conn.close();
                    break;
                }
            }
        }
        conn.set_timer(Some(SILENCE));
        input.len() - rest.len()
    }
    // ANCHOR_END: on_data

    /// What has no line end when nothing more comes is a line too.
    fn on_eof(&mut self, conn: &mut Conn<'_>, _: &mut Lines, rest: &[u8]) {
        if !rest.is_empty() {
            self.answer(conn, rest);
            conn.write(b"\n");
        }
        conn.close();
    }

    fn on_open(&mut self, conn: &mut Conn<'_>, _: &mut Lines) {
        conn.set_timer(Some(SILENCE));
    }

    fn on_timer(&mut self, conn: &mut Conn<'_>, _: &mut Lines) {
        conn.write(b"NOT A WORD?\n");
        conn.close();
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    SimpleLogger::new().with_level(LevelFilter::Info).init()?;
    // ANCHOR: main
    let server = Server::builder(Shout::default());
    let mut server = server.own_process(true).bind("127.0.0.1:1234")?;
    for address in server.addresses() {
        println!("listening on {address}");
    }
    server.run()?; // until Ctrl-C
    // ANCHOR_END: main
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use threadbare::kernel::sim::{Method, Short};
    use threadbare::sim::World;
    use threadbare::{CloseReason, Errno};

    #[test]
    fn a_line_comes_back_in_capitals() {
        let mut world = World::new(Shout::default());
        let mut client = world.client();
        assert_eq!(world.ask(&mut client, b"hello\n"), b"HELLO\n");
    }

    #[test]
    fn lines_come_back_in_capitals() {
        let mut world = World::new(Shout::default());
        let mut client = world.client();
        assert_eq!(world.ask(&mut client, b"hello\r\nyou"), b"HELLO\r\n");
        assert_eq!(world.ask(&mut client, b" there\n"), b"YOU THERE\n");
        client.send(b"bye");
        client.shutdown();
        world.rest();
        assert_eq!(client.recv(), b"BYE\n");
        assert!(client.saw_eof());
    }

    /// However little a recv or a send moves, the bytes are the same.
    #[test]
    fn a_byte_at_a_time() {
        let mut world = World::new(Shout::default());
        world.sim.shorten(Short::AtMost(1));
        let mut client = world.client();
        assert_eq!(world.ask(&mut client, b"hello\nyou\n"), b"HELLO\nYOU\n");
    }

    #[test]
    fn a_line_too_long_ends_the_connection() {
        let mut world = World::new(Shout::default());
        let mut client = world.client();
        assert_eq!(world.ask(&mut client, &[b'x'; LONGEST + 1]), b"NOT SO LONG\n");
        assert!(client.saw_eof());
    }

    /// A client has a minute from its last word on, to the millisecond. The time is the test's:
    /// nobody waits.
    #[test]
    fn a_silent_client_is_let_go() {
        let mut world = World::new(Shout::default());
        let mut client = world.client();
        world.advance(Duration::from_secs(50));
        assert_eq!(world.ask(&mut client, b"hello\n"), b"HELLO\n");
        world.advance(Duration::from_millis(59_999));
        assert_eq!(client.recv(), b"");
        world.advance(Duration::from_millis(3)); // timers are never early

        assert_eq!(client.recv(), b"NOT A WORD?\n");
        assert!(client.saw_eof());
    }

    /// Whatever fails for one client, the next is served, and nothing is left behind.
    #[test]
    fn a_failure_is_nobody_elses() {
        for method in [Method::Accept4, Method::Recv, Method::Send] {
            for errno in [Errno::EINTR, Errno::ENOMEM, Errno::ECONNRESET, Errno::ETIMEDOUT] {
                let mut world = World::new(Shout::default());
                let descriptors = world.sim.descriptors();
                world.fail_next(method, errno);
                let (mut unlucky, mut other) = (world.client(), world.client());
                world.ask(&mut unlucky, b"hello\n");
                world.advance(Duration::from_secs(1)); // no pause is longer
                assert_eq!(world.ask(&mut other, b"hello\n"), b"HELLO\n", "{method:?} {errno:?}");
                drop((unlucky, other));
                world.rest();
                assert_eq!(world.sim.descriptors(), descriptors, "{method:?} {errno:?}");
            }
        }
    }

    /// A client that floods and does not read is held back, not remembered.
    #[test]
    fn a_flood_waits_with_the_client() {
        let mut world = World::new(Shout::default());
        let mut client = world.client();
        let mut taken = 0;
        for _ in 0..1_000 {
            taken += client.send(&b"hello\n".repeat(10_000));
            world.rest();
        }
        assert!(taken < 2 << 20, "the server took {taken} bytes of one that does not read");
        client.reset();
        world.rest();
        let handle = world.server.handle();
        handle.stop();
        while world.server.turn().unwrap() {}
        let counters = world.server.finish().unwrap().counters;
        assert_eq!(counters.closed_for(CloseReason::PeerReset), 1, "{counters}");
    }
}
