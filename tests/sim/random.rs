//! Layer L2 of the tests of faults: random clients, random faults, clock jumps and
//! signals; then the faults end, and all must come to rest.
//!
//! A failure prints its seed:
//! `SEED=4711 cargo test --test sim random::`.

use crate::simulation::World;
use crate::simulation::dice::Dice;
use crate::simulation::play::Play;
use crate::simulation::sweep::{Sweep, attempt};
use crate::simulation::whim::{self, Way, Whim};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Mutex;
use threadbare::kernel::sim::Simulated;
use threadbare::{Conn, ConnectionHandler, Limits, Server};

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
    play_seeds(2_500, 470);
}

/// Many random plays come to rest, with all accounts balanced.
#[test]
#[ignore = "a quarter of a minute"]
fn many_seeds() {
    play_seeds(50_000, 1_250);
}

/// Where a connection never stands between two turns, though types allow it, and why. All of
/// these words are in its name.
const NEVER: &[(&[&str], &str)] = &[
    (&["gone"], "it is freed in the turn in which it ends"),
    (&["full", "fin sent"], "FIN goes behind the last byte: nothing is owed"),
];

fn why_never(place: &str) -> Option<&'static str> {
    let words: Vec<&str> = place.split(", ").collect();
    let fits = |word: &&str| words.contains(word);
    NEVER.iter().find(|(all, _)| all.iter().all(fits)).map(|(_, why)| *why)
}

/// Ways to places that few others lead to: full for want of memory, when its own output is sent.
const RARE: [&str; 2] = ["0:185+959:40464", "0:185+959:40464+1056:40706"];

/// How to come to each place that was seen, and how many plays came there.
#[derive(Default)]
struct Map(BTreeMap<&'static str, (Way, u64, usize)>);

impl Map {
    /// Plays these, and writes down what is new, in their order.
    fn explore(&mut self, sweep: &Sweep, ways: &[Way]) {
        let found = Mutex::new(Vec::new());
        sweep.more(ways.len(), |number| {
            let play = || {
                let (outcome, places) = whim::play(&ways[number])?;
                found.lock().unwrap().push((number, places));
                Ok(outcome)
            };
            sweep.record(&format!("SEED={}", ways[number]), attempt(play));
        });
        let mut found = found.into_inner().unwrap();
        found.sort_by_key(|(number, _)| *number);
        for (number, places) in found {
            for (place, made) in places {
                let known = self.0.entry(place);
                known.or_insert_with(|| (ways[number].clone(), made, 0)).2 += 1;
            }
        }
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

    fn left(&self) -> Vec<&'static str> {
        let is_left = |place: &&str| !self.0.contains_key(place) && why_never(place).is_none();
        product().into_iter().filter(is_left).collect()
    }
}

/// Answers once the end has been read, as the flags say, before it is told of it or then.
struct LastAnswer {
    when_told: bool,
    pauses: bool,
    keeps: bool,
    finishes: bool,
    length: usize,
    asked: bool,
}

impl LastAnswer {
    fn answer(&self, conn: &mut Conn<'_>) {
        conn.write(&vec![b'w'; self.length]);
        if self.finishes {
            conn.finish();
        }
        if self.pauses {
            conn.pause();
        }
    }
}

impl ConnectionHandler for LastAnswer {
    type Session = ();
    fn on_data(&mut self, conn: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
        if self.when_told {
            return input.len();
        }
        if !std::mem::replace(&mut self.asked, true) {
            return 0; // offered again with the end
        }
        self.answer(conn);
        input.len() - usize::from(self.keeps)
    }
    fn on_eof(&mut self, conn: &mut Conn<'_>, _: &mut (), _: &[u8]) {
        match self.when_told {
            true => self.answer(conn),
            false => conn.close(),
        }
    }
}

/// What a long answer behind the peer's end comes to while it is read bit by bit. By chance a
/// play seldom gets there.
fn last_answers() -> BTreeSet<&'static str> {
    let seen = Rc::new(RefCell::new(BTreeSet::new()));
    for number in 0..256 {
        let handler = LastAnswer {
            when_told: number & 128 > 0,
            pauses: number & 1 > 0,
            keeps: number & 2 > 0,
            finishes: number & 4 > 0,
            length: if number & 8 > 0 { 136 } else { 110 },
            asked: false,
        };
        let sim = Simulated::new(1);
        sim.set_buffers(48, 48);
        let limits = Limits { high_water: 64, ..Limits::default() };
        let mut world = World::on(sim, handler, limits).unwrap();
        let seen = Rc::clone(&seen);
        world.watch = Some(Box::new(move |place| _ = seen.borrow_mut().insert(place)));
        let mut client = world.client();
        client.send(b"a question");
        match number & 64 {
            0 => client.shutdown(),
            _ => {
                world.rest();
                client.send(b", and more of it");
            }
        }
        world.rest();
        for _ in 0..20 {
            client.recv_at_most(if number & 16 > 0 { 30 } else { 100 });
            match number & 32 {
                0 => world.rest(),
                _ => world.turn(),
            }
        }
    }
    seen.take()
}

/// Closes for a client that has said that it sends no more, and then wants a reset behind its
/// answer.
struct ChangedMind;

impl ConnectionHandler for ChangedMind {
    type Session = ();
    fn on_data(&mut self, conn: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
        conn.write(&[b'w'; 136]);
        conn.close_without_linger();
        conn.abort_behind();
        input.len()
    }
}

/// What that comes to. By chance a play seldom gets there.
fn changed_mind() -> BTreeSet<&'static str> {
    let sim = Simulated::new(1);
    sim.set_buffers(48, 48);
    let mut world = World::on(sim, ChangedMind, Limits::default()).unwrap();
    let mut client = world.client();
    client.send(b"a question");
    world.rest();
    world.server.places().map(|(_, [_, place])| place).collect()
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
    map.explore(&sweep, &RARE.map(|path| Way::parse(path).expect("they were printed")));
    for place in last_answers().union(&changed_mind()).copied() {
        map.0.entry(place).or_insert_with(|| (Way(vec![(0, 0)]), 1, 1));
    }
    for round in 1..=rounds {
        let left = map.left();
        println!("round {round}: {} places left: {:?}", left.len(), left.get(..8).unwrap_or(&left));
        if left.is_empty() {
            break;
        }
        map.explore(&sweep, &map.branches(round));
    }
    sweep.conclude(count as usize, 100);
    map
}

/// A handler that calls everything everywhere does no harm.
#[test]
#[ignore = "half a minute"]
fn many_whims() {
    play_whims(40_000, 0);
}

/// Nor does it in some plays; and these reach every place of State × Reading × Writing, but
/// for those of which it is said why not.
#[test]
fn whims_reach_every_place() {
    let seen = play_whims(3_000, 300).0;
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
