//! What the verbs of the library cost: `bin/verbs.rs` does one of them so many times, and then
//! some more under a tool.

use crate::counts::{Counts, STRACE, breakdown};
use crate::report::Table;
use crate::statistics::round;
use crate::{Bench, Outcome};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

type Counted = BTreeMap<String, f64>;

/// Something to be done with the library, in the program's words and in those of the docs.
struct Verb {
    name: &'static str,
    title: &'static str,
    /// How many times it is done, and then as many times again.
    count: u64,
    /// How many units that is each time.
    units: u64,
    /// Which thread of the program is looked at.
    thread: usize,
    /// The most user instructions that a unit may cost.
    most: f64,
}

const fn verb(name: &'static str, title: &'static str, count: u64, most: f64) -> Verb {
    Verb { name, title, count, units: 1, thread: 1, most }
}

const VERBS: [Verb; 11] = [
    verb("message", "a message", 1_000, 520.0),
    verb("message_beside_timers", "the same beside 10,000 timers", 1_000, 520.0),
    verb("message_that_sets_a_timer", "the same with `conn.set_timer`", 1_000, 580.0),
    verb("after", "`net.after` beside 10,000 timers", 5_000, 650.0),
    verb("cancel", "`net.cancel` of one among 10,000", 5_000, 500.0),
    verb("on_tick", "`on_tick`, one of 20,000 timers", 5_000, 500.0),
    verb("join", "`net.join` and `net.leave`", 5_000, 3_000.0),
    Verb {
        units: 200,
        ..verb("send_group", "`net.send_group`, for each of 200 members", 40, 650.0)
    },
    Verb {
        units: 200,
        ..verb("send_group_20", "the same, 20 lines in one turn, for each line", 40, 450.0)
    },
    verb("call", "`handle.call`, both sides, and a turn", 1_000, 850.0),
    Verb { thread: 2, ..verb("ask", "`handle.ask`, the thread of the server", 1_000, 1_750.0) },
];

/// The program, which is built beside the bench.
fn program() -> Outcome<PathBuf> {
    let beside = || Ok::<_, std::io::Error>(std::env::current_exe()?.with_file_name("verbs"));
    let path = std::env::var_os("VERBS").map_or_else(beside, |path| Ok(path.into()))?;
    if path.exists() { Ok(path) } else { Err("there is no program verbs: use make".into()) }
}

impl Verb {
    /// The difference that `count` more of them make, for a unit.
    fn unit(&self, count: impl Fn(u64) -> Outcome<Counts>) -> Outcome<Counted> {
        let (less, more) = (count(self.count)?, count(2 * self.count)?);
        let all = (self.count * self.units) as f64;
        let difference = |(name, &more): (&String, &u64)| {
            let less = less.get(name).copied().unwrap_or_default();
            (name.clone(), (more as f64 - less as f64) / all)
        };
        Ok(more.iter().map(difference).collect())
    }

    /// Runs it under a tool.
    fn run(&self, tool: &[String], count: u64) -> Outcome<()> {
        let mut command = Command::new(&tool[0]);
        command.args(&tool[1..]).arg(program()?).args([self.name, &count.to_string()]);
        let output = command.output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        let failed = || format!("verbs {} under {}: {}: {said}", self.name, tool[0], output.status);
        if output.status.success() { Ok(()) } else { Err(failed().into()) }
    }

    /// System calls of all threads.
    fn calls(&self, bench: &Bench) -> Outcome<Counted> {
        self.unit(|count| {
            let (path, words) = STRACE.words(bench);
            self.run(&words, count)?;
            STRACE.read(&path).ok_or_else(|| "strace has counted nothing".into())
        })
    }

    /// User instructions of the thread that is looked at: callgrind has a file for each.
    fn instructions(&self, bench: &Bench) -> Outcome<f64> {
        let file = bench.scratch.join("callgrind").display().to_string();
        let unit = self.unit(|count| {
            let words = ["valgrind", "--tool=callgrind", "--separate-threads=yes"];
            let words = words.map(str::to_owned).into_iter();
            self.run(
                &words.chain([format!("--callgrind-out-file={file}")]).collect::<Vec<_>>(),
                count,
            )?;
            let text = fs::read_to_string(format!("{file}-{:02}", self.thread))?;
            let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
            let total = total.ok_or("callgrind has counted nothing")?.parse()?;
            Ok(Counts::from([("total".into(), total)]))
        })?;
        Ok(unit["total"])
    }
}

pub fn verbs(bench: &Bench) -> Outcome<Table> {
    let title = "Verbs of the library: user instructions (callgrind), system calls (strace)";
    let mut table = Table::new("verbs", title, &["verb", "instructions", "calls"]);
    for verb in &VERBS {
        let calls = breakdown(&verb.calls(bench)?);
        let instructions = json!(round(verb.instructions(bench)?));
        table.rows.push(vec![verb.title.into(), instructions, calls.into()]);
    }
    Ok(table)
}

/// Which verbs cost more than they may.
pub fn too_dear(bench: &Bench) -> Outcome<Vec<String>> {
    let mut broken = Vec::new();
    for verb in &VERBS {
        let (Verb { title, most, .. }, each) = (verb, verb.instructions(bench)?);
        println!("{title}: {each:.1} instructions, at most {most}");
        if each > *most {
            broken.push(format!("{title}: {each:.1} instructions"));
        }
    }
    Ok(broken)
}
