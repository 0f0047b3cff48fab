//! What can be counted exactly: system calls, instructions, bytes.
//!
//! A server plays the same base load under a tool, then the same and N units more; the
//! difference, divided by N, is what one unit costs, free of start, warm-up and end. The
//! units are a message in a batch of 64, a message alone, and a short connection, always
//! with the load on top ([`crate::seat`]), so that batches are what they are said to be.

use crate::load::{Fleet, Shape, Until, short_connections};
use crate::report::Table;
use crate::seat::Seat;
use crate::server::{Running, Server};
use crate::statistics::round;
use crate::{Bench, Outcome};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

const BATCH: usize = 64;

/// How many units of each kind are played.
#[derive(Clone, Copy)]
struct Play {
    batched: u64,
    alone: u64,
    short: u64,
}

const BASE: Play = Play { batched: 10 * BATCH as u64, alone: 20, short: 20 };

/// The base and N more of one kind; N, the name of the unit.
fn plays() -> [(&'static str, u64, Play); 3] {
    [
        ("message_in_64", 6400, Play { batched: BASE.batched + 6400, ..BASE }),
        ("message_alone", 2000, Play { alone: BASE.alone + 2000, ..BASE }),
        ("short_connection", 1000, Play { short: BASE.short + 1000, ..BASE }),
    ]
}

impl Play {
    fn on(self, server: &Running) -> Outcome<()> {
        let mut fleet = Fleet::connect(server, Shape::of(BATCH))?;
        fleet.batches(server, BATCH, BATCH, Until::Answered(self.batched))?;
        fleet.batches(server, 1, 1, Until::Answered(self.alone))?;
        short_connections(server, 1, Until::Answered(self.short))?;
        Ok(())
    }
}

/// What a tool counted, by name.
pub type Counts = BTreeMap<String, u64>;

/// A program that another runs under, and that leaves its findings in a file.
pub struct Tool {
    words: fn(&str) -> Vec<String>,
    parse: fn(&str) -> Option<Counts>,
}

pub const STRACE: Tool = Tool {
    words: |file| ["strace", "-D", "-f", "-c", "-o", file].map(str::to_owned).into(),
    parse: |text| {
        let rows = text.lines().filter(|line| line.starts_with([' ', '1']));
        let counts: Counts = rows
            .filter_map(|row| {
                let words: Vec<&str> = row.split_whitespace().collect();
                Some((words.last()?.to_string(), words.get(3)?.parse().ok()?))
            })
            .collect();
        counts.contains_key("total").then_some(counts)
    },
};

const CALLGRIND: Tool = Tool {
    words: |file| {
        let words = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"];
        words.into_iter().map(str::to_owned).chain([format!("--log-file={file}")]).collect()
    },
    parse: |text| {
        let (_, behind) = text.split_once("Collected : ")?;
        let count = behind.split_whitespace().next()?.parse().ok()?;
        Some(Counts::from([("total".into(), count)]))
    },
};

impl Tool {
    /// The file of its findings, which is not there yet, and the words of its command.
    pub fn words(&self, bench: &Bench) -> (PathBuf, Vec<String>) {
        let path = bench.scratch.join("counts");
        let _ = fs::remove_file(&path);
        let words = (self.words)(&path.display().to_string());
        (path, words)
    }

    /// Everything the server did from its start to its end.
    fn count(&self, bench: &Bench, server: &Server, play: Play) -> Outcome<Counts> {
        let (path, words) = self.words(bench);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let running = server.start(&bench.seats, Seat::OnTop, &words, 4096)?;
        play.on(&running)?;
        running.stop();
        self.read(&path).ok_or_else(|| format!("{} has counted nothing", words[0]).into())
    }

    /// The tool may end after what it watched.
    pub fn read(&self, path: &Path) -> Option<Counts> {
        (0..500).find_map(|_| {
            let counts = (self.parse)(&fs::read_to_string(path).unwrap_or_default());
            counts.or_else(|| {
                sleep(Duration::from_millis(10));
                None
            })
        })
    }

    /// What each unit costs, by what was counted.
    fn units(&self, bench: &Bench, server: &Server) -> Outcome<[BTreeMap<String, f64>; 3]> {
        let base = self.count(bench, server, BASE)?;
        let each = |(_, count, play): (_, u64, Play)| -> Outcome<_> {
            let more = self.count(bench, server, play)?;
            let difference = |(name, &total): (&String, &u64)| {
                let before = base.get(name).copied().unwrap_or_default();
                (name.clone(), (total as f64 - before as f64) / count as f64)
            };
            Ok(more.iter().map(difference).collect())
        };
        let [first, second, third] = plays();
        Ok([each(first)?, each(second)?, each(third)?])
    }

    fn table(&self, bench: &Bench, mut table: Table) -> Outcome<Table> {
        let _awake = bench.seats.take(Seat::OnTop)?;
        for server in bench.servers.iter().filter(|server| server.name != "floor again") {
            match self.units(bench, server) {
                Err(error) => table.failed(server.name, &error.to_string()),
                Ok(units) => {
                    let mut row: Vec<Value> = vec![server.name.into()];
                    row.extend(units.iter().map(|unit| json!(round(unit["total"]))));
                    if table.columns.len() > row.len() {
                        row.push(breakdown(&units[2]).into());
                    }
                    table.rows.push(row);
                }
            }
        }
        Ok(table)
    }
}

/// The calls that make up a unit.
pub fn breakdown(unit: &BTreeMap<String, f64>) -> String {
    let calls = unit.iter().filter(|(name, count)| *name != "total" && **count > 0.05);
    let calls = calls.map(|(name, &count)| match (count * 10.0).round() / 10.0 {
        1.0 => name.clone(),
        count => format!("{count} {name}"),
    });
    calls.collect::<Vec<_>>().join(", ")
}

fn columns() -> [&'static str; 5] {
    let [first, second, third] = plays().map(|(name, ..)| name);
    ["server", first, second, third, "calls_of_a_short_connection"]
}

pub fn calls(bench: &Bench) -> Outcome<Table> {
    STRACE.table(bench, Table::new("calls", "System calls (strace)", &columns()))
}

/// User instructions of one unit.
pub fn instructions_of(unit: &str, bench: &Bench, server: &Server) -> Outcome<f64> {
    let _awake = bench.seats.take(Seat::OnTop)?;
    let play = plays().into_iter().find(|(name, ..)| *name == unit);
    let (_, count, play) = play.ok_or_else(|| format!("no unit is called {unit}"))?;
    let [base, more] = [BASE, play].map(|play| CALLGRIND.count(bench, server, play));
    Ok((more?["total"] - base?["total"]) as f64 / count as f64)
}

pub fn instructions(bench: &Bench) -> Outcome<Table> {
    let title = "User instructions (callgrind)";
    CALLGRIND.table(bench, Table::new("instructions", title, &columns()[..4]))
}

/// What a connection takes of the server's memory that waits for its first message, and what
/// it keeps after that.
pub fn memory(bench: &Bench) -> Outcome<Table> {
    let count = if bench.quick { 2_000 } else { 10_000 };
    let title = format!("Bytes of user memory for each of {count} idle connections");
    let columns = ["server", "before_its_first_message", "after_it"];
    let mut table = Table::new("memory", &title, &columns);
    let _awake = bench.seats.take(Seat::Beside)?;
    for server in bench.servers.iter().filter(|server| server.name != "floor again") {
        match idle_bytes(bench, server, count) {
            Ok(bytes) => {
                table.rows.push(vec![server.name.into(), bytes[0].into(), bytes[1].into()])
            }
            Err(error) => table.failed(server.name, &error.to_string()),
        }
    }
    Ok(table)
}

fn idle_bytes(bench: &Bench, server: &Server, count: usize) -> Outcome<[u64; 2]> {
    let running = server.start(&bench.seats, Seat::Beside, &[], 4096)?;
    let mut fleet = Fleet::connect(&running, Shape::of(1))?;
    fleet.batches(&running, 1, 1, Until::Answered(1))?;
    running.settle();
    let before = running.memory();
    let each = || {
        running.settle();
        running.memory().saturating_sub(before) / count as u64
    };
    fleet.grow(&running, count + 1)?;
    let idle = each();
    fleet.batches(&running, count + 1, BATCH, Until::Answered(count as u64 + 1))?;
    Ok([idle, each()])
}
