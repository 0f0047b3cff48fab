//! Layer L7 of the tests of faults: what fuzzing has found worth keeping (tests/fuzz), once
//! more, and seeded mutations of it. `make fuzz` is what finds more.
//!
//! A failure prints the line that replays it:
//! `INPUT=file cargo test --test sim corpus::framing`.

use crate::simulation::dice::Dice;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};

/// Plays the whole corpus of a target, at least `files`, and mutations of it, `cases` in all;
/// or only the file of the environment variable INPUT.
fn replay(name: &str, files: usize, cases: usize) {
    let target = crate::targets::named(name).expect("a target");
    if let Some(path) = std::env::var_os("INPUT") {
        return target(&fs::read(path).expect("INPUT is a file"));
    }
    let corpus = corpus(name);
    let mut dice = Dice::Seed(cases as u64);
    for number in 0..cases.max(corpus.len()) {
        let mutated = || mutated(&mut dice, &corpus);
        let input = corpus.get(number).cloned().unwrap_or_else(mutated);
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(&input))) {
            let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
            fs::write(&path, input).unwrap();
            let test = "cargo test --test sim corpus::";
            println!("to replay: INPUT={} {test}{name}", path.display());
            resume_unwind(panic);
        }
    }
    println!("{name}: {} files, {cases} cases", corpus.len());
    assert!(corpus.len() >= files, "the corpus has but {} files", corpus.len());
}

/// The committed inputs, always in the same order.
pub(crate) fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(name);
    let files = fs::read_dir(folder).expect("the target has a corpus");
    let mut paths: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Some input with a few changes.
pub(crate) fn mutated(dice: &mut Dice<'_>, corpus: &[Vec<u8>]) -> Vec<u8> {
    let some = |dice: &mut Dice<'_>| &corpus[dice.below(corpus.len())];
    let mut input = some(dice).clone();
    for _ in 0..=dice.below(4) {
        let at = dice.below(input.len() + 1);
        let byte = dice.below(256) as u8;
        match dice.below(4) {
            0 => input.insert(at, byte),
            1 => drop(input.splice(at..(at + 1).min(input.len()), None)),
            2 => drop(input.splice(at..(at + 1).min(input.len()), Some(byte))),
            _ => {
                let other = some(dice);
                input.truncate(at);
                input.extend(&other[dice.below(other.len() + 1)..]);
            }
        }
    }
    input
}

#[test]
fn addresses() {
    replay("addresses", 50, 20_000);
}

#[test]
fn command_line() {
    replay("command_line", 90, 20_000);
}

#[test]
fn escape() {
    replay("escape", 20, 20_000);
}

#[test]
fn framing() {
    replay("framing", 50, 20_000);
}

#[test]
fn http() {
    replay("http", 100, 5_000);
}

#[test]
fn proxy_header() {
    replay("proxy_header", 15, 20_000);
}

#[test]
fn requests() {
    replay("requests", 100, 100_000);
}

#[test]
fn simulated() {
    replay("simulated", 100, 4_000);
}
