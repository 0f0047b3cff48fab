//! A server whose answers take long to find: it factors numbers, on all cores.
//!
//! ```text
//! cargo run --release --example worker_pool         and, in another terminal:
//! make client SAY=1000000007000000049
//! cargo test --test sim worker_pool                 its tests, without a socket
//! ```
//!
//! One thread serves the clients, the others do the sums: see `docs/worker-pool.md`.

use log::LevelFilter;
use simple_logger::SimpleLogger;
use std::any::Any;
use std::error::Error;
use std::fmt::Write;
use std::num::NonZero;
use std::thread;
use threadbare::framing::{Frame, Lines};
use threadbare::handlers::CatchPanics;
use threadbare::kernel::{Kernel, Linux, Narrated};
use threadbare::{Builder, Conn, ConnectionHandler, Presence, Server};

/// Numbers have at most so many digits: the hardest takes a second or two.
const DIGITS: usize = 18;
/// So many questions may wait for a thread.
const WAITING: usize = 1_000;

/// Answers each number with its prime factors, as factor(1) does.
struct Factors;

#[derive(Default)]
struct Session {
    lines: Lines,
    /// The question being worked on is the last one.
    is_last: bool,
}

impl Factors {
    /// Takes a question. Until its answer is there, the connection is paused.
    fn ask(&self, conn: &mut Conn<'_>, line: &[u8]) {
        let digits = str::from_utf8(line).ok().filter(|text| text.len() <= DIGITS);
        let Some(number) = digits.and_then(|digits| digits.parse().ok()) else {
            writeln!(conn, "error: not a number of up to {DIGITS} digits");
            return;
        };
        // ANCHOR: run
        let taken = conn.work(move |_: &mut (), client| factors(number, client)); // by a worker
        if !taken {
            conn.write(b"error: too many questions, try again later\n");
        }
        // ANCHOR_END: run
    }
}

impl ConnectionHandler for Factors {
    type Session = Session;

    /// Takes lines up to the first that needs work: the rest is offered after its answer.
    fn on_data(&mut self, conn: &mut Conn<'_>, session: &mut Session, input: &[u8]) -> usize {
        // ANCHOR: take
        let mut rest = input;
        while !conn.is_full() && !conn.is_paused() {
            match session.lines.next(&mut rest, 2 * DIGITS) {
                Frame::Whole { body, .. } => self.ask(conn, body),
                Frame::Partial => break,
                Frame::TooLong => {
                    conn.write(b"error: no number is so long\n");
                    conn.close();
                    break;
                }
            }
        }
        input.len() - rest.len()
        // ANCHOR_END: take
    }

    /// A number without a line end is a question, too; its answer is the last.
    fn on_eof(&mut self, conn: &mut Conn<'_>, session: &mut Session, rest: &[u8]) {
        session.is_last = true;
        if !rest.is_empty() {
            self.ask(conn, rest);
        }
        if !conn.is_paused() {
            conn.close();
        }
    }

    // ANCHOR: on_result
    /// The answer is found, and the client is still there.
    fn on_result(
        &mut self,
        conn: &mut Conn<'_>,
        session: &mut Session,
        answer: Box<dyn Any + Send>,
    ) {
        if let Ok(answer) = answer.downcast::<String>() {
            conn.write(answer.as_bytes());
        }
        if session.is_last {
            conn.close();
        }
    }
    // ANCHOR_END: on_result
}

/// The answer: the number and its prime factors, smallest first, by trial division. Nobody needs
/// it if the client is gone.
fn factors(number: u64, client: &Presence) -> String {
    let mut answer = format!("{number}:");
    let mut rest = number;
    // 2, 3, and then all that neither divides: 5, 7, 11, 13, 17, 19, 23, 25, ...
    let others = (5..).step_by(6).flat_map(|n: u64| [n, n + 2]);
    for divisor in [2, 3].into_iter().chain(others) {
        if divisor * divisor > rest || client.is_gone() {
            break;
        }
        while rest.is_multiple_of(divisor) {
            let _ = write!(answer, " {divisor}"); // to a String: it cannot fail
            rest /= divisor;
        }
    }
    if rest > 1 {
        let _ = write!(answer, " {rest}");
    }
    answer + "\n"
}

fn main() -> Result<(), Box<dyn Error>> {
    SimpleLogger::new().with_level(LevelFilter::Info).init()?;
    let mut words = std::env::args().skip(1).peekable();
    let narrates = words.next_if_eq("--narrate").is_some();
    let address = words.next().unwrap_or("127.0.0.1:1234".into());
    match narrates {
        true => serve(Narrated::new(Linux, |line| eprintln!("{line}")), &address),
        false => serve(Linux, &address),
    }
}

fn builder(waiting: usize) -> Builder<CatchPanics<Factors>> {
    // ANCHOR: setup
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    Server::builder(CatchPanics(Factors)).workers(threads, waiting, || ())
    // ANCHOR_END: setup
}

fn serve(kernel: impl Kernel, address: &str) -> Result<(), Box<dyn Error>> {
    let mut server = builder(WAITING).kernel(kernel).own_process(true).bind(address)?;
    for address in server.addresses() {
        println!("listening on {address}");
    }
    let summary = server.run()?; // until Ctrl-C: what was asked is answered first
    if summary.forced {
        std::process::exit(1); // a second one: not even the sums under way are waited for
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use threadbare::sim::World;

    fn world(waiting: usize) -> World<CatchPanics<Factors>> {
        World::start(builder(waiting)).unwrap()
    }

    #[test]
    fn numbers_and_their_factors() {
        for (number, due) in [
            (0, "0:\n"),
            (1, "1:\n"),
            (2, "2: 2\n"),
            (97, "97: 97\n"),
            (360, "360: 2 2 2 3 3 5\n"),
            (10_403, "10403: 101 103\n"),
            (1 << 40, &format!("{}:{}\n", 1_u64 << 40, " 2".repeat(40))),
            (999_999_999_989, "999999999989: 999999999989\n"),
            (999_966_000_289, "999966000289: 999983 999983\n"),
        ] {
            assert_eq!(factors(number, &Presence::default()), due);
        }
    }

    /// What a client asks ahead is answered in order, hard or easy, number or not.
    #[test]
    fn answers_come_in_the_order_of_the_questions() {
        let mut world = world(10);
        let mut client = world.client();
        let bad = "error: not a number of up to 18 digits\n";
        assert_eq!(
            world.ask(&mut client, b"999966000289\n6\nsix\n1234567890123456789\n4\n"),
            format!("999966000289: 999983 999983\n6: 2 3\n{bad}{bad}4: 2 2\n").as_bytes()
        );
        client.send(b"15");
        client.shutdown();
        world.rest();
        assert_eq!(client.recv(), b"15: 3 5\n");
        assert!(client.saw_eof());
    }

    /// While a client's question is worked on, its next ones stay where they are, and others
    /// are served.
    #[test]
    fn a_question_in_flight_pauses_its_client_only() {
        let mut world = world(2);
        world.server.hold_work(true);
        let (mut first, mut second, mut third) = (world.client(), world.client(), world.client());
        first.send(&b"35\n".repeat(1_000));
        second.send(b"77\n");
        world.rest();
        let bad = b"error: not a number of up to 18 digits\n";
        assert_eq!(world.ask(&mut third, b"x\n"), bad);
        let busy = b"error: too many questions, try again later\n";
        assert_eq!(world.ask(&mut third, b"8\n"), busy);
        assert_eq!((first.recv(), second.recv()), (vec![], vec![]));
        world.server.hold_work(false);
        world.rest();
        assert_eq!(second.recv(), b"77: 7 11\n");
        assert_eq!(world.ask(&mut third, b"8\n"), b"8: 2 2 2\n");
        assert!(first.recv().starts_with(b"35: 5 7\n35: 5 7\n"));
    }

    /// A client that ends its side during the sum still gets its answer; one that is reset is seen
    /// to be gone, and nobody does its sum.
    #[test]
    fn who_leaves_and_who_only_ends_its_side() {
        let mut world = world(2);
        world.server.hold_work(true);
        let (mut waits, mut leaves) = (world.client(), world.client());
        waits.send(b"999966000289\n");
        leaves.send(b"999966000289\n");
        world.rest();
        waits.shutdown();
        leaves.reset();
        world.rest();
        assert_eq!(world.server.open(), 1);
        world.server.hold_work(false);
        world.rest();
        assert_eq!(waits.recv(), b"999966000289: 999983 999983\n");
        assert!(waits.saw_eof());
    }

    /// A stop answers what was asked before it ends.
    #[test]
    fn a_stop_waits_for_the_answer() {
        let mut world = world(2);
        world.server.hold_work(true);
        let mut client = world.client();
        client.send(b"21\n22\n");
        world.rest();
        world.server.handle().stop();
        world.rest();
        assert_eq!((client.recv(), client.saw_eof()), (vec![], false));
        world.server.hold_work(false);
        world.rest();
        assert_eq!(client.recv(), b"21: 3 7\n22: 2 11\n");
        assert!(client.saw_eof());
    }
}
