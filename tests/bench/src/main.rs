//! What the job costs: threadbare beside the floor and its peers, on this machine.
//!
//! The job: a client sends a message, the server answers "Thank you for your message " and the
//! message. `bench` measures everything, `bench free scale` some of it, `bench batches mio` that
//! for fewer servers, and `bench check` only whether all this still works. Figures go to a JSON
//! file in docs, and charts are drawn from that. In the environment, SERVER is the program of
//! this repository; QUICK=1 takes two minutes. What is quick, or not of all servers, leaves the
//! files in docs alone.

mod attack;
mod charts;
mod check;
mod counts;
mod duel;
mod fairness;
mod fanout;
mod http;
mod load;
mod report;
mod scale;
mod seat;
mod server;
mod statistics;
mod verbs;

use duel::{Contest, Mode};
use load::Shape;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use report::Table;
use seat::Seats;
use serde_json::{Map, Value};
use server::{PROGRAMS, Program, Server};
use std::io::{IsTerminal, stderr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// What all measurements share.
pub struct Bench {
    pub quick: bool,
    pub seats: Seats,
    pub servers: Vec<Server>,
    /// For files that nobody keeps.
    pub scratch: PathBuf,
    pub most_connections: usize,
}

/// Whom two minutes suffice for.
const QUICK: [&str; 6] =
    ["floor", "floor again", "threadbare", "threadbare, lines", "tokio", "libuv"];

fn is_quick() -> bool {
    std::env::var("QUICK").is_ok_and(|word| word == "1")
}

/// A table that can be made, and in how many seconds, roughly.
struct Step {
    name: &'static str,
    seconds: f64,
    make: Make,
}

type Make = Box<dyn Fn(&Bench) -> Outcome<Table>>;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["pest", kind, port] => {
            port.parse().map_err(Into::into).and_then(|port| fairness::be_a_pest(kind, port))
        }
        ["spin"] => seat::spin(),
        ["check"] => Bench::new(Program::is_checked).and_then(|bench| check::run(&bench)),
        _ => measure(&words),
    };
    if let Err(error) = done {
        eprintln!("bench: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Makes the tables that the words name, or all, of the servers that they name, or all.
fn measure(words: &[&str]) -> Outcome<()> {
    let is_server = |word: &&str| PROGRAMS.iter().any(|program| program.name.starts_with(*word));
    let (servers, tables): (Vec<&str>, Vec<&str>) = words.iter().partition(|word| is_server(word));
    if stderr().is_terminal() {
        thread::spawn(|| {
            loop {
                thread::sleep(Duration::from_secs(2));
                eprint!(".");
            }
        });
    }
    let bench = Bench::new(|program| match servers[..] {
        [] => !is_quick() || QUICK.contains(&program.name),
        _ => program.is_checked() || servers.iter().any(|word| program.name.starts_with(word)),
    })?;
    let steps = bench.steps_called(&tables)?;
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").canonicalize()?;
    let for_docs = !bench.quick && servers.is_empty();
    let is_void = bench.make(&steps, if for_docs { &docs } else { &bench.scratch })?;
    if is_void && for_docs {
        return Err("the machine was too busy: some tables are void".into());
    }
    Ok(())
}

impl Bench {
    /// Builds what is asked for; a peer that cannot be built is left out, and that is said.
    fn new(is_wanted: impl Fn(&Program) -> bool) -> Outcome<Bench> {
        let (_, descriptors) = getrlimit(Resource::RLIMIT_NOFILE)?;
        setrlimit(Resource::RLIMIT_NOFILE, descriptors, descriptors)?;
        let ours = std::env::var_os("SERVER").ok_or("SERVER is not set: use make bench")?;
        let scratch = std::env::current_exe()?.with_file_name("bench-files");
        std::fs::create_dir_all(&scratch)?;
        let binaries = scratch.parent().unwrap_or(&scratch);
        let mut servers = Vec::new();
        for program in PROGRAMS.iter().filter(|program| is_wanted(program)) {
            match program.build(Path::new(&ours), binaries) {
                Ok(server) => servers.push(server),
                Err(error) if servers.len() < 2 => return Err(error),
                Err(error) => println!("SKIPPED: {}: {error}", program.name),
            }
        }
        Ok(Bench {
            quick: is_quick(),
            seats: Seats::find()?,
            servers,
            scratch,
            most_connections: usize::try_from(descriptors)?.saturating_sub(1_000).min(19_000),
        })
    }

    fn versions(&self) -> Map<String, Value> {
        let version = |server: &Server| (server.name.into(), Value::from(server.version.clone()));
        self.servers.iter().map(version).collect()
    }

    /// Makes tables, shows them, and writes them down; whether one is void.
    fn make(&self, steps: &[Step], directory: &Path) -> Outcome<bool> {
        let file = directory.join("measured.json");
        let seconds: f64 = steps.iter().map(|step| step.seconds).sum();
        println!("about {:.0} s, while the machine should do nothing else", seconds.ceil());
        if !self.seats.realtime {
            println!("no real-time priorities here (they take root): other work will disturb");
        }
        let mut is_void = false;
        for (number, Step { name, seconds, make }) in steps.iter().enumerate() {
            println!("\n[{}/{}] {name}: {:.0} s", number + 1, steps.len(), seconds.ceil());
            let table = make(self)?;
            table.print();
            is_void |= table.is_void();
            report::write(&file, &table, &self.versions())?;
        }
        report::publish(&file, &directory.join("measured.md"))?;
        let drawn = charts::draw(&report::read(&file), &directory.join("charts"))?;
        println!(
            "\nwritten to {}: measured.json measured.md {}",
            directory.display(),
            drawn.join(" ")
        );
        Ok(is_void)
    }

    /// What is called so, or begins so: "free" is all that is free-running.
    fn steps_called(&self, names: &[&str]) -> Outcome<Vec<Step>> {
        let is_called = |step: &Step, name: &str| {
            step.name == name || step.name.split('-').next() == Some(name)
        };
        let mut steps = self.steps();
        if let Some(name) =
            names.iter().find(|name| !steps.iter().any(|step| is_called(step, name)))
        {
            let all: Vec<&str> = steps.iter().map(|step| step.name).collect();
            return Err(format!("nothing is called {name:?}; there are {}", all.join(", ")).into());
        }
        // Attacks compare nothing, and take as long as all the others.
        steps.retain(|step| match names {
            [] => step.name != "attacks",
            _ => names.iter().any(|name| is_called(step, name)),
        });
        Ok(steps)
    }

    /// All there is to measure, in this order.
    fn steps(&self) -> Vec<Step> {
        let of = Shape::of;
        let (deep, large) = (Shape { depth: 16, ..of(64) }, Shape { size: 16 << 10, ..of(64) });
        let each = if self.quick { [2.0, 3.5, 1.5, 0.8, 2.0] } else { [2.5, 6.0, 3.0, 5.0, 9.0] };
        let [calls, instructions, memory, scale, fairness] = each;
        let step = |name, seconds, make: fn(&Bench) -> Outcome<Table>| Step {
            name,
            seconds: seconds * (self.servers.len() - 1) as f64,
            make: Box::new(make),
        };
        let contest = |(name, title, shape, mode, rounds, millis)| {
            self.contest(name, title, shape, mode, rounds, millis)
        };
        let exact = [
            ("batches-64", "Exact batches of 64 messages", of(64), Mode::Batches, 200, 30),
            ("batches-1", "Exact batches of one message", of(1), Mode::Batches, 200, 30),
            ("batches-short", "One short connection at a time", of(1), Mode::ShortBatches, 200, 30),
        ];
        let free = [
            ("free-1", "Free-running: 1 connection", of(1), Mode::Free, 80, 40),
            ("free-64", "Free-running: 64 connections", of(64), Mode::Free, 80, 40),
            ("free-1000", "Free-running: 1,000 connections", of(1_000), Mode::Free, 80, 60),
            ("free-10000", "Free-running: 10,000 connections", of(10_000), Mode::Free, 7, 500),
            ("free-deep", "64 connections, 16 messages each under way", deep, Mode::Free, 80, 40),
            ("free-large", "64 connections, messages of 16 KiB", large, Mode::Free, 80, 40),
            ("free-short", "Short connections, 16 at a time", of(16), Mode::Short, 80, 40),
        ];
        let counts = [
            step("calls", calls, counts::calls),
            step("instructions", instructions, counts::instructions),
            step("memory", memory, counts::memory),
        ];
        let others = [
            Step { name: "verbs", seconds: 45.0, make: Box::new(verbs::verbs) },
            step("scale", scale, scale::scale),
            step("fairness", fairness, fairness::fairness),
            Step {
                name: "fanout",
                seconds: if self.quick { 60.0 } else { 240.0 },
                make: Box::new(fanout::fanout),
            },
            Step {
                name: "attacks",
                seconds: if self.quick { 100.0 } else { 150.0 },
                make: Box::new(attack::attacks),
            },
        ];
        let files = http::CASES.map(|(name, title, load, millis)| Step {
            name,
            seconds: if self.quick { 15.0 } else { 75.0 },
            make: Box::new(move |bench| {
                http::compare(bench, name, title, load, Duration::from_millis(millis))
            }),
        });
        let exact = exact.into_iter().map(contest);
        let all = exact.chain(counts).chain(free.into_iter().map(contest)).chain(others);
        all.chain(files).collect()
    }

    fn contest(
        &self,
        name: &'static str,
        title: &'static str,
        shape: Shape,
        mode: Mode,
        rounds: usize,
        millis: u64,
    ) -> Step {
        let (rounds, heats) = if self.quick { (rounds.div_ceil(10), 1) } else { (rounds, 4) };
        let slice = Duration::from_millis(millis);
        let contest = Contest { name, title, shape, mode, rounds, heats, slice };
        let seconds = contest.estimate(self.servers.len()).as_secs_f64();
        Step { name, seconds, make: Box::new(move |bench| contest.run(bench)) }
    }
}
