//! Sharp comparisons on a machine that is not quiet.
//!
//! All servers are up at once, and connected. Each round gives each of them a short slice of
//! the same load, in random order, so that whatever else the machine does strikes all alike;
//! what counts is the ratio to the floor in the same round, and of many rounds the median with
//! its interval. The servers are started anew several times, since each start places their
//! memory differently, and that alone makes a percent. The floor also runs against itself: if
//! these two differ by more than [`TOLERANCE`], exact batches are void.

use crate::load::{Fleet, Sample, Shape, Until, short_connections};
use crate::report::Table;
use crate::seat::Seat;
use crate::server::{Running, Server};
use crate::statistics::{Dice, Interval, quantile, round};
use crate::{Bench, Outcome};
use serde_json::{Value, json};
use std::time::Duration;

/// By how much the floor may differ from itself in exact batches. Free-running figures are
/// shown with what their control says, and nothing should be built on a few percent of them.
const TOLERANCE: f64 = 0.015;

/// Who is not here, and beats everybody who is built on epoll.
pub const IO_URING: &str = "Not measured here: on io_uring, monoio came to 1.119 times the \
    floor's rate in exact batches of 64 at .827 of its CPU, to .95 and 1.10 in batches of one; \
    free-running to .86 of its rate at 64 connections, and .77 at depth 16";

/// How a slice is filled.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Exact batches, the load on the server's CPU.
    Batches,
    /// A closed loop, the load on a CPU of its own.
    Free,
    /// Connections that carry one message each, the load on a CPU of its own.
    Short,
    /// The same, the load on the server's CPU.
    ShortBatches,
}

pub struct Contest {
    pub name: &'static str,
    pub title: &'static str,
    pub shape: Shape,
    pub mode: Mode,
    pub rounds: usize,
    /// How often the servers are started.
    pub heats: usize,
    pub slice: Duration,
}

/// A server in a contest, with its clients.
struct Contestant<'a> {
    place: usize,
    server: &'a Server,
    running: Running,
    fleet: Option<Fleet>,
}

impl Contest {
    /// How long it takes, starts and connecting included.
    pub fn estimate(&self, servers: usize) -> Duration {
        let starts = if self.takes_turns(servers) { self.rounds } else { self.heats };
        let connecting = self.shape.connections as u32 * Duration::from_micros(100);
        let slices = (self.slice + Duration::from_millis(3)) * self.rounds as u32;
        ((Duration::from_millis(150) + connecting) * starts as u32 + slices) * servers as u32
    }

    /// Whether not all can be connected at once: there are 20,000 descriptors at best.
    fn takes_turns(&self, servers: usize) -> bool {
        !self.is_short() && self.shape.connections * servers > 15_000
    }

    fn is_short(&self) -> bool {
        matches!(self.mode, Mode::Short | Mode::ShortBatches)
    }

    fn seat(&self) -> Seat {
        match self.mode {
            Mode::Batches | Mode::ShortBatches => Seat::OnTop,
            Mode::Free | Mode::Short => Seat::Beside,
        }
    }

    /// The whole contest, as a table; once more if the control says that it was void.
    pub fn run(&self, bench: &Bench) -> Outcome<Table> {
        let table = self.run_once(bench)?;
        if !table.is_void() || self.heats == 1 {
            return Ok(table);
        }
        println!("void: the floor differs from itself by more than 1.5 %; once more");
        self.run_once(bench)
    }

    fn run_once(&self, bench: &Bench) -> Outcome<Table> {
        let _awake = bench.seats.take(self.seat())?;
        let mut dice = Dice(0x5eed);
        let mut samples: Vec<Result<Vec<Sample>, String>> =
            vec![Ok(Vec::new()); bench.servers.len()];
        if self.takes_turns(bench.servers.len()) {
            for _ in 0..self.rounds {
                let mut order: Vec<usize> = (0..bench.servers.len()).collect();
                dice.shuffle(&mut order);
                for place in order {
                    let begun = self.begin(bench, place);
                    let sample = begun.and_then(|mut it| self.slice(&mut it));
                    note(&mut samples[place], sample);
                }
            }
        } else {
            for _ in 0..self.heats {
                self.heat(bench, &mut dice, &mut samples);
            }
        }
        Ok(self.table(bench, &samples, &mut dice))
    }

    /// Servers start, have their part of the rounds, and end.
    fn heat(&self, bench: &Bench, dice: &mut Dice, samples: &mut [Result<Vec<Sample>, String>]) {
        let mut contestants = Vec::new();
        for (place, samples) in samples.iter_mut().enumerate() {
            let warm = self.begin(bench, place).and_then(|mut contestant| {
                self.slice(&mut contestant)?;
                Ok(contestant)
            });
            match warm {
                Ok(contestant) => contestants.push(contestant),
                Err(error) => *samples = Err(error.to_string()),
            }
        }
        for _ in 0..self.rounds.div_ceil(self.heats) {
            dice.shuffle(&mut contestants);
            contestants.retain_mut(|contestant| {
                let sample = self.slice(contestant);
                note(&mut samples[contestant.place], sample)
            });
        }
    }

    fn begin<'a>(&self, bench: &'a Bench, place: usize) -> Outcome<Contestant<'a>> {
        let server = &bench.servers[place];
        let buffer = if self.shape.size > 4096 { 32 << 10 } else { 4096 };
        let running = server.start(&bench.seats, self.seat(), &[], buffer)?;
        let fleet = match self.is_short() {
            true => None,
            false => Some(Fleet::connect(&running, self.shape)?),
        };
        running.settle();
        Ok(Contestant { place, server, running, fleet })
    }

    fn slice(&self, contestant: &mut Contestant<'_>) -> Outcome<Sample> {
        let (running, shape) = (&contestant.running, self.shape);
        let until = Until::Passed(self.slice);
        let sample = match &mut contestant.fleet {
            None => short_connections(running, shape.connections, until),
            Some(fleet) if self.mode == Mode::Batches => {
                fleet.batches(running, shape.connections, shape.connections, until)
            }
            Some(fleet) => fleet.closed_loop(running, shape.depth, self.slice),
        };
        sample.map_err(|error| format!("{}: {error}", contestant.server.name).into())
    }

    fn table(
        &self,
        bench: &Bench,
        samples: &[Result<Vec<Sample>, String>],
        dice: &mut Dice,
    ) -> Table {
        let columns = ["server", "rate", "rate_ratio", "cpu_us", "cpu_ratio", "p50_us", "p99_us"];
        let latencies = if self.seat() == Seat::OnTop { 0 } else { 2 };
        let mut table = Table::new(self.name, self.title, &columns[..5 + latencies]);
        if self.name == "batches-64" {
            table.note(IO_URING);
        }
        let floor = samples[0].clone().unwrap_or_default();
        for (server, samples) in bench.servers.iter().zip(samples) {
            let samples = match samples {
                Ok(samples) => samples,
                Err(error) => {
                    table.failed(server.name, error);
                    continue;
                }
            };
            let median = |figure: fn(&Sample) -> f64| {
                json!(round(quantile(samples.iter().map(figure).collect(), 0.5)))
            };
            let mut ratio = |figure: fn(&Sample) -> f64| {
                let pairs = samples.iter().zip(&floor);
                let ratios: Vec<f64> = pairs.map(|(a, b)| figure(a) / figure(b)).collect();
                Interval::of(&ratios, dice)
            };
            let (rate, cpu) = (ratio(Sample::rate), ratio(Sample::cpu_each));
            if server.name == "floor again" {
                let off = (rate.median - 1.0).abs().max((cpu.median - 1.0).abs());
                let is_sharp = self.seat() == Seat::OnTop;
                table.judge(off, if is_sharp { TOLERANCE } else { f64::INFINITY });
            }
            let mut row: Vec<Value> = vec![server.name.into()];
            row.extend([median(Sample::rate), rate.to_json()]);
            row.extend([median(Sample::cpu_each), cpu.to_json()]);
            let all: Vec<u32> = samples.iter().flat_map(|s| s.latencies.iter().copied()).collect();
            let latency = |part| json!(round(f64::from(quantile(all.clone(), part)) / 1e3));
            row.extend([0.5, 0.99].into_iter().take(latencies).map(latency));
            table.rows.push(row);
        }
        table
    }
}

/// Keeps a sample, or the first failure, after which there is nothing more to keep.
fn note(samples: &mut Result<Vec<Sample>, String>, sample: Outcome<Sample>) -> bool {
    match (samples.as_mut(), sample) {
        (Ok(samples), Ok(sample)) => samples.push(sample),
        (Ok(_), Err(error)) => *samples = Err(error.to_string()),
        (Err(_), _) => {}
    }
    samples.is_ok()
}
