//! Layer L2 of the tests of faults: random clients, random faults, clock jumps and
//! signals; then the faults end, and all must come to rest.
//!
//! A failure prints its seed:
//! `SEED=4711 cargo test --features sim --test sim_random`.
#![cfg(feature = "sim")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod simulation;

use simulation::dice::Dice;
use simulation::play::Play;
use simulation::sweep::{Sweep, attempt};
use simulation::whim::{self, Way, Whim};
use std::collections::BTreeMap;
use std::sync::Mutex;
use threadbare::Server;
use threadbare::kernel::sim::Simulated;

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

/// Where a connection never stands between two turns, though types allow it, and why. All of
/// these words are in its name, and none of those behind a `-`.
const NEVER: &[(&[&str], &str)] = &[
    (&["gone"], "it is freed in the turn in which it ends"),
    (&["told", "again"], "the rest went with the end"),
    (&["told", "fin sent"], "both directions have ended: it is gone"),
    (&["closing", "fin sent"], "FIN goes behind the last byte: nothing is left to wait for"),
    (&["starved", "again"], "who has a rest to be offered needs no memory to go on"),
    (&["starved", "seen"], "who has read to the end needs no memory to go on"),
    (&["starved", "told"], "who has read to the end needs no memory to go on"),
    (&["full", "again", "fin sent"], "nothing is queued behind FIN, and it needs no memory"),
    (&["full", "seen", "fin sent"], "nothing is queued behind FIN, and it needs no memory"),
];

fn why_never(place: &str) -> Option<&'static str> {
    let words: Vec<&str> = place.split(", ").collect();
    let fits = |word: &&str| match word.strip_prefix('-') {
        Some(word) => !words.contains(&word),
        None => words.contains(word),
    };
    NEVER.iter().find(|(all, _)| all.iter().all(fits)).map(|(_, why)| *why)
}

/// How to come to each place that was seen, and how many plays came there.
#[derive(Default)]
struct Map(BTreeMap<&'static str, (Way, u64, usize)>);

impl Map {
    /// Plays these, and writes down what is new.
    fn explore(&mut self, sweep: &Sweep, paths: &[Way]) {
        let map = Mutex::new(&mut self.0);
        sweep.more(paths.len(), |number| {
            let path = &paths[number];
            let play = || {
                let (outcome, places) = whim::play(path)?;
                let mut map = map.lock().unwrap();
                for (place, made) in places {
                    map.entry(place).or_insert_with(|| (path.clone(), made, 0)).2 += 1;
                }
                Ok(outcome)
            };
            sweep.record(&format!("SEED={path}"), attempt(play));
        });
    }

    /// From the places to which fewest came, other ways.
    fn branches(&self, round: u64) -> Vec<Way> {
        let mut rare: Vec<_> = self.0.values().collect();
        rare.sort_by_key(|(.., count)| *count);
        let branches = |(path, made, _): &&(Way, u64, usize)| {
            let path = path.clone();
            let made = *made;
            (0..20).map(move |seed| path.branch(made, round << 8 | seed)).collect::<Vec<_>>()
        };
        rare.iter().take(20).flat_map(branches).collect()
    }

    fn left(&self) -> usize {
        let is_left = |place: &&&str| !self.0.contains_key(**place) && why_never(place).is_none();
        product().iter().filter(is_left).count()
    }
}

fn product() -> Vec<&'static str> {
    Server::<Whim, Simulated>::all_places()
}

/// Plays so many whims, and in so many rounds others that go on from rare places, until all
/// are reached.
fn play_whims(count: u64, rounds: u64) -> Map {
    let (sweep, mut map) = (Sweep::run(0, |_, _| {}), Map::default());
    if let Ok(path) = std::env::var("SEED") {
        map.explore(&sweep, &[Way::parse(&path).expect("SEED is as it was printed")]);
        sweep.conclude(1, 0);
        return map;
    }
    let seeds: Vec<Way> = (0..count).map(|seed| Way(vec![(0, seed)])).collect();
    map.explore(&sweep, &seeds);
    for round in 1..=rounds {
        println!("round {round}: {} places left", map.left());
        if map.left() == 0 {
            break;
        }
        map.explore(&sweep, &map.branches(round));
    }
    sweep.conclude(count as usize, 100);
    map
}

/// A handler that calls everything everywhere does no harm.
#[test]
fn some_whims() {
    play_whims(1_500, 0);
}

/// Nor does it in many plays; and these reach every place of State × Reading × Writing,
/// but for those of which it is said why not.
#[test]
#[ignore = "a minute"]
fn many_whims_reach_every_place() {
    let seen = play_whims(4_000, 200).0;
    let (mut wrong, mut reached, mut impossible) = (Vec::new(), 0, 0);
    for place in product() {
        match (seen.get(place), why_never(place)) {
            (Some(_), None) => reached += 1,
            (None, Some(_)) => impossible += 1,
            (Some((path, ..)), Some(why)) => {
                wrong.push(format!("SEED={path} reaches {place}, though {why}"));
            }
            (None, None) => wrong.push(format!("not reached: {place}")),
        }
    }
    println!("{reached} places reached, {impossible} impossible");
    let product = product();
    let others = seen.keys().filter(|place| !product.contains(place));
    wrong.extend(others.map(|place| format!("not of the product: {place}")));
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}
