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
use std::error::Error;
use std::fmt::Write;
use std::num::NonZero;
use std::thread;
use threadbare::framing::{Frame, Lines};
use threadbare::kernel::{Kernel, Linux, Narrated};
use threadbare::{Conn, ConnectionHandler, Presence, Server, WorkerPool};

/// Numbers have at most so many digits: the hardest takes a second or two.
const DIGITS: usize = 18;
/// So many questions may wait for a thread.
const WAITING: usize = 1_000;

/// Answers each number with its prime factors, as factor(1) does.
struct Factors {
    pool: WorkerPool<Factors>,
}

impl Factors {
    /// Takes a question; whether its answer is on its way. Until it is there, the
    /// connection is paused.
    fn ask(&self, conn: &mut Conn<'_>, line: &[u8], is_last: bool) -> bool {
        let digits = str::from_utf8(line).ok().filter(|text| text.len() <= DIGITS);
        let Some(number) = digits.and_then(|digits| digits.parse().ok()) else {
            writeln!(conn, "error: not a number of up to {DIGITS} digits");
            return false;
        };
        // ANCHOR: run
        let client = conn.presence();
        let taken = self.pool.run(
            conn,
            move || factors(number, &client), // on a thread of the pool
            move |_, conn, answer| {
                conn.write(answer.as_bytes()); // on the server's, if the client is still there
                if is_last {
                    conn.close();
                }
            },
        );
        // ANCHOR_END: run
        if !taken {
            conn.write(b"error: too many questions, try again later\n");
        }
        taken
    }
}

impl ConnectionHandler for Factors {
    type Session = Lines;

    /// Takes lines up to the first that needs work: the rest is offered after its answer.
    fn on_data(&mut self, conn: &mut Conn<'_>, lines: &mut Lines, input: &[u8]) -> usize {
        // ANCHOR: take
        let (mut rest, mut asked) = (input, false);
        while !asked && !conn.is_full() {
            match lines.next(&mut rest, 2 * DIGITS) {
                Frame::Whole { body, .. } => asked = self.ask(conn, body, false),
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
    fn on_eof(&mut self, conn: &mut Conn<'_>, _: &mut Lines, rest: &[u8]) {
        if rest.is_empty() || !self.ask(conn, rest, true) {
            conn.close();
        }
    }
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

fn serve(kernel: impl Kernel, address: &str) -> Result<(), Box<dyn Error>> {
    // ANCHOR: setup
    let handler = Factors { pool: WorkerPool::new(WAITING) };
    let mut server = Server::builder(handler).kernel(kernel).own_process(true).bind(address)?;
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    server.handler().pool.start(threads, server.handle())?;
    // ANCHOR_END: setup
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
    use std::time::{Duration, Instant};
    use threadbare::kernel::sim::{Client, Simulated};

    /// The server, and the kernel it takes for Linux. The threads are real.
    struct World {
        sim: Simulated,
        server: Server<Factors, Simulated>,
    }

    impl World {
        fn new(threads: usize, waiting: usize) -> World {
            let sim = Simulated::new(1);
            let handler = Factors { pool: WorkerPool::new(waiting) };
            let server = Server::builder(handler).kernel(sim.clone()).bind("127.0.0.1:80").unwrap();
            if threads > 0 {
                server.handler().pool.start(threads, server.handle()).unwrap();
            }
            World { sim, server }
        }

        fn client(&self) -> Client {
            self.sim.connect(&self.server.addresses()[0]).unwrap()
        }

        /// Lets the server do what there is to do, but it does not wait for a thread.
        fn rest(&mut self) {
            while self.sim.is_ready() || !self.server.is_idle() {
                self.server.turn().unwrap();
            }
        }

        /// Lets the server and the threads work until a client has got so much.
        fn receive(&mut self, client: &mut Client, length: usize) -> String {
            let deadline = Instant::now() + Duration::from_secs(30);
            let mut received = Vec::new();
            while received.len() < length {
                assert!(Instant::now() < deadline, "only {}", received.escape_ascii());
                self.rest();
                received.extend(client.recv());
                thread::yield_now();
            }
            String::from_utf8(received).unwrap()
        }

        fn ask(&mut self, client: &mut Client, question: &str, answer: &str) {
            client.send(question.as_bytes());
            assert_eq!(self.receive(client, answer.len()), answer);
        }
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
        let mut world = World::new(2, 10);
        let mut client = world.client();
        let bad = "error: not a number of up to 18 digits\n";
        let due = format!("999966000289: 999983 999983\n6: 2 3\n{bad}{bad}4: 2 2\n");
        world.ask(&mut client, "999966000289\n6\nsix\n1234567890123456789\n4\n", &due);
        client.send(b"15");
        client.shutdown();
        assert_eq!(world.receive(&mut client, 8), "15: 3 5\n");
        world.rest();
        client.recv();
        assert!(client.saw_eof());
    }

    /// Without threads each run is the same: the answers are there when the server is at rest.
    #[test]
    fn work_takes_no_time_in_a_simulated_world() {
        let handler = Factors { pool: WorkerPool::new(2) };
        let mut world = threadbare::sim::World::new(handler);
        world.server.handler().pool.start_inline(world.server.handle());
        let (mut one, mut two) = (world.client(), world.client());
        two.send(b"15\n16");
        two.shutdown();
        assert_eq!(
            world.ask(&mut one, b"6\nsix\n8\n"),
            b"6: 2 3\nerror: not a number of up to 18 digits\n8: 2 2 2\n"
        );
        assert_eq!(two.recv(), b"15: 3 5\n16: 2 2 2 2\n");
        assert!(two.saw_eof());
    }

    /// While a client's question is worked on, its next ones stay where they are, and others
    /// are served.
    #[test]
    fn a_question_in_flight_pauses_its_client_only() {
        let mut world = World::new(0, 2); // nobody works yet
        let (mut first, mut second, mut third) = (world.client(), world.client(), world.client());
        first.send(&b"35\n".repeat(100_000));
        second.send(b"77\n");
        world.rest();
        world.ask(&mut third, "x\n", "error: not a number of up to 18 digits\n");
        world.ask(&mut third, "8\n", "error: too many questions, try again later\n");
        assert_eq!((first.recv(), second.recv()), (vec![], vec![]));
        let handle = world.server.handle();
        world.server.handler().pool.start(1, handle).unwrap();
        assert_eq!(world.receive(&mut second, 9), "77: 7 11\n");
        world.ask(&mut third, "8\n", "8: 2 2 2\n");
        assert!(world.receive(&mut first, 80).starts_with("35: 5 7\n35: 5 7\n"));
    }

    /// A stop answers what was asked before it ends.
    #[test]
    fn a_stop_waits_for_the_answer() {
        let mut world = World::new(0, 2);
        let mut client = world.client();
        client.send(b"21\n22\n");
        world.rest();
        let handle = world.server.handle();
        handle.stop();
        world.rest();
        assert_eq!((client.recv(), client.saw_eof()), (vec![], false));
        world.server.handler().pool.start(1, handle).unwrap();
        assert_eq!(world.receive(&mut client, 17), "21: 3 7\n22: 2 11\n");
        world.rest();
        client.recv();
        assert!(client.saw_eof());
    }
}
