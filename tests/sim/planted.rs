//! What users can find with `threadbare::sim`: four bugs that handlers have are planted, and each
//! is found by ten lines that the handler without it passes.

use std::time::Duration;
use threadbare::framing::{Frame, Lines};
use threadbare::kernel::sim::Short;
use threadbare::sim::World;
use threadbare::{Conn, ConnectionHandler, Limits, Server};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    None,
    /// It takes the beginning of a line for done with.
    LostByte,
    /// It does not ask whether the output is full.
    MissedFull,
    /// Its timer is not set again.
    StuckTimer,
    /// It notes only that something was said, not when.
    LateExpiry,
}

/// Answers each line with a thousand bytes, and lets go of a client that is silent for a minute.
struct Planted(Bug);

#[derive(Default)]
struct Session {
    lines: Lines,
    heard: Duration,
    has_spoken: bool,
}

const SILENCE: Duration = Duration::from_secs(60);

impl ConnectionHandler for Planted {
    type Session = Session;

    fn on_open(&mut self, conn: &mut Conn<'_>, session: &mut Session) {
        session.heard = conn.net().now();
        conn.set_timer(Some(SILENCE));
    }

    fn on_data(&mut self, conn: &mut Conn<'_>, session: &mut Session, input: &[u8]) -> usize {
        (session.heard, session.has_spoken) = (conn.net().now(), true);
        let mut rest = input;
        while self.0 == Bug::MissedFull || !conn.is_full() {
            match session.lines.next(&mut rest, 100) {
                Frame::Whole { body, .. } => conn.write(&body.repeat(1_000)),
                _ if self.0 == Bug::LostByte => return input.len(),
                _ => break,
            }
        }
        input.len() - rest.len()
    }

    fn on_timer(&mut self, conn: &mut Conn<'_>, session: &mut Session) {
        let silent = conn.net().now() - session.heard;
        let left = SILENCE.saturating_sub(silent);
        match self.0 {
            Bug::StuckTimer if !left.is_zero() => {}
            Bug::LateExpiry if std::mem::take(&mut session.has_spoken) => {
                conn.set_timer(Some(SILENCE));
            }
            _ if left.is_zero() => conn.close(),
            _ => conn.set_timer(Some(left)),
        }
    }
}

/// However few bytes come at once, each line is answered.
fn no_byte_is_lost(bug: Bug) -> bool {
    let mut world = World::new(Planted(bug));
    world.sim.shorten(Short::AtMost(1));
    let mut client = world.client();
    world.ask(&mut client, b"a\nb\n") == [[b'a'; 1_000], [b'b'; 1_000]].concat()
}

/// A client that asks much and reads late gets all of its answers.
fn a_slow_reader_is_waited_for(bug: Bug) -> bool {
    let limits = Limits { max_memory: 16 << 20, ..Limits::default() };
    let mut world = World::start(Server::builder(Planted(bug)).limits(limits)).unwrap();
    let (mut client, mut received) = (world.client(), 0);
    client.send(&b"x\n".repeat(30_000));
    for _ in 0..10_000 {
        world.rest();
        received += client.recv().len();
    }
    received == 30_000_000
}

/// A client that has spoken and then is silent is let go, some time.
fn a_silent_client_is_let_go(bug: Bug) -> bool {
    let mut world = World::new(Planted(bug));
    let mut client = world.client();
    world.advance(SILENCE / 2);
    world.ask(&mut client, b"a\n");
    world.advance(3 * SILENCE);
    client.recv();
    client.saw_eof()
}

/// And when its time is over.
fn a_silent_client_is_let_go_in_time(bug: Bug) -> bool {
    let mut world = World::new(Planted(bug));
    let mut client = world.client();
    world.advance(SILENCE / 2);
    world.ask(&mut client, b"a\n");
    world.advance(SILENCE + Duration::from_millis(2));
    client.recv();
    client.saw_eof()
}

type Check = fn(Bug) -> bool;

#[test]
fn planted_bugs_are_found() {
    let checks: [(Bug, Check); 4] = [
        (Bug::LostByte, no_byte_is_lost),
        (Bug::MissedFull, a_slow_reader_is_waited_for),
        (Bug::StuckTimer, a_silent_client_is_let_go),
        (Bug::LateExpiry, a_silent_client_is_let_go_in_time),
    ];
    for (bug, check) in checks {
        assert!(check(Bug::None), "{bug:?} is found where it is not");
        assert!(!check(bug), "{bug:?} is not found");
    }
}
