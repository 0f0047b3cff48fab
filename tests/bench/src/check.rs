//! Whether the bench still works, in a few seconds; and that a message, a short connection and
//! the verbs of the library cost the server no more of its own instructions than it promises,
//! which only a release build can show.

use crate::counts::instructions_of;
use crate::duel::{Contest, Mode};
use crate::load::{Dialogue, Fleet, PREFIX, Script, Shape};
use crate::seat::Seat;
use crate::server::first_line;
use crate::{Bench, Outcome, verbs};
use std::process::Command;
use std::time::Duration;

/// The server, a unit, and the most user instructions that it may cost.
const PROMISED: [(&str, &str, f64); 3] = [
    ("threadbare", "message_in_64", 190.0),
    ("threadbare", "short_connection", 2_000.0),
    ("threadbare, lines", "message_in_64", 318.0),
];

fn is_ci() -> bool {
    std::env::var("CI").is_ok_and(|word| word == "true")
}

pub fn run(bench: &Bench) -> Outcome<()> {
    lies_are_noticed()?;
    let mut failures = Vec::new();
    for (name, mode) in [("batches", Mode::Batches), ("free", Mode::Free), ("short", Mode::Short)] {
        let (shape, slice) = (Shape::of(8), Duration::from_millis(10));
        let contest = Contest { name, title: name, shape, mode, rounds: 3, heats: 1, slice };
        let table = contest.run(bench)?;
        if table.rows.len() != bench.servers.len() {
            failures.push(table.notes.join("; "));
        }
    }
    for server in &bench.servers {
        let _awake = bench.seats.take(Seat::Beside)?;
        let running = server.start(&bench.seats, Seat::Beside, &[], 4096)?;
        let mut fleet = Fleet::connect(&running, Shape::of(8))?;
        fleet.at_rate(&running, 1_000.0, Duration::from_millis(50))?;
        drop(running);
    }
    failures.extend(promises_are_kept(bench)?);
    if failures.is_empty() { Ok(()) } else { Err(failures.join("; ").into()) }
}

/// Counts what is promised; what costs more than that.
fn promises_are_kept(bench: &Bench) -> Outcome<Vec<String>> {
    if first_line(Command::new("valgrind").arg("--version")).is_empty() {
        println!("SKIPPED: instructions are counted by valgrind, which is missing");
        return Ok(is_ci().then(|| "no valgrind".into()).into_iter().collect());
    }
    let mut broken = Vec::new();
    for (name, unit, most) in PROMISED {
        for server in bench.servers.iter().filter(|server| server.name == name) {
            let each = instructions_of(unit, bench, server)?;
            println!("{name}: {each:.1} instructions for {unit}, at most {most}");
            if each > most {
                broken.push(format!("{name}: {each:.1} instructions for {unit}"));
            }
        }
    }
    broken.extend(verbs::too_dear(bench)?);
    Ok(broken)
}

/// A right answer passes in whatever pieces it comes; changed in any one byte, or with one
/// too few or too many, it does not.
fn lies_are_noticed() -> Outcome<()> {
    for by_line in [true, false] {
        let mut script = Script::new(Shape::of(1), by_line);
        let mut asked = Dialogue::default();
        let answer = [PREFIX, asked.say(1, &mut script)].concat();
        let passes = |pieces: &[&[u8]]| {
            let mut dialogue = asked.clone();
            let heard = pieces.iter().try_for_each(|piece| dialogue.hear(piece, &script));
            heard.is_ok() && dialogue.answered == 1
        };
        for place in 0..answer.len() {
            let (before, behind) = answer.split_at(place);
            let changed = [before, &[behind[0] ^ 1], &behind[1..]].concat();
            let lies =
                [changed, [before, &behind[1..]].concat(), [before, &behind[..1], behind].concat()];
            if !passes(&[before, behind]) || lies.iter().any(|lie| passes(&[lie])) {
                return Err(format!("answers are not told from lies at byte {place}").into());
            }
        }
    }
    Ok(())
}
