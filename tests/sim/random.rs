//! Layer L2 of the tests of faults: random clients, random faults, clock jumps and
//! signals; then the faults end, and all must come to rest.
//!
//! A failure prints its seed:
//! `SEED=4711 cargo test --test sim random::`.

use crate::simulation::dice::Dice;
use crate::simulation::play::Play;
use crate::simulation::sweep::{Sweep, attempt};

/// Plays `count` seeds, or only the one of the environment variable SEED.
fn play_seeds(count: usize, triples: usize) {
    if let Ok(seed) = std::env::var("SEED") {
        let dice = Dice::Seed(seed.parse().expect("SEED is a number"));
        let outcome = Play::new(dice).play();
        println!("{} turns", outcome.unwrap_or_else(|why| panic!("{why}")).turns);
        return;
    }
    let sweep = Sweep::run(count, |sweep, seed| {
        let play = || Play::new(Dice::Seed(seed as u64)).play();
        sweep.record(&format!("SEED={seed}"), attempt(play));
    });
    sweep.conclude(count, triples);
}

/// Some random plays come to rest, with all accounts balanced.
#[test]
fn some_seeds() {
    play_seeds(2_500, 360);
}

/// Many random plays come to rest, with all accounts balanced.
#[test]
#[ignore = "a quarter of a minute"]
fn many_seeds() {
    play_seeds(50_000, 680);
}
