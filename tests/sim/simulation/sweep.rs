//! Many cases, on all cores: what they found, in figures and failures.

use super::journal::Triple;
use super::stage::{Outcome, Verdict};
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// What a sweep found.
pub struct Sweep {
    begun: Instant,
    cases: AtomicUsize,
    turns: AtomicUsize,
    triples: Mutex<BTreeSet<Triple>>,
    failures: Mutex<Vec<String>>,
}

impl Sweep {
    /// Runs `work` for each number below `count`, on all cores.
    pub fn run(count: usize, work: impl Fn(&Sweep, usize) + Sync) -> Sweep {
        let sweep = Sweep::new();
        sweep.more(count, |number| work(&sweep, number));
        sweep
    }

    fn new() -> Sweep {
        Sweep {
            begun: Instant::now(),
            cases: AtomicUsize::new(0),
            turns: AtomicUsize::new(0),
            triples: Mutex::default(),
            failures: Mutex::default(),
        }
    }

    /// The same again, beside what was run before.
    pub fn more(&self, count: usize, work: impl Fn(usize) + Sync) {
        let next = AtomicUsize::new(0);
        let worker = || {
            while let number = next.fetch_add(1, Ordering::Relaxed)
                && number < count
            {
                work(number);
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
                scope.spawn(worker);
            }
        });
    }

    /// Writes down one case; what came of it, if it is well.
    pub fn record(&self, replay: &str, played: Verdict<Outcome>) -> Option<Outcome> {
        self.cases.fetch_add(1, Ordering::Relaxed);
        match played {
            Ok(outcome) => {
                self.turns.fetch_add(outcome.turns as usize, Ordering::Relaxed);
                self.triples.lock().unwrap().extend(&outcome.journal.triples);
                return Some(outcome);
            }
            Err(why) => self.fail(format!("{replay}: {why}")),
        }
        None
    }

    pub fn fail(&self, failure: String) {
        self.failures.lock().unwrap().push(failure);
    }

    pub fn has_hit(&self, triple: &Triple) -> bool {
        self.triples.lock().unwrap().contains(triple)
    }

    /// Prints the figures, and fails if there were failures, or fewer cases or triples
    /// than there should be.
    pub fn conclude(self, cases: usize, triples: usize) {
        let failures = self.failures.into_inner().unwrap();
        let hit = self.triples.into_inner().unwrap();
        let (played, turns) = (self.cases.into_inner(), self.turns.into_inner());
        let seconds = self.begun.elapsed().as_secs_f32();
        println!("{played} cases, {turns} turns, {} triples, {seconds:.1} s", hit.len());
        let mut states = BTreeMap::<_, usize>::new();
        hit.iter().for_each(|(state, ..)| *states.entry(state).or_default() += 1);
        println!("triples by state: {states:?}");
        let mut alike = BTreeMap::<_, Vec<&String>>::new();
        for failure in &failures {
            let (case, why) = failure.split_once(": ").unwrap_or_default();
            let errno = case.split(':').nth(2).unwrap_or_default();
            alike.entry((why.get(..20), errno)).or_default().push(failure);
        }
        for failures in alike.values() {
            println!("{} like {}", failures.len(), failures[0]);
        }
        assert!(failures.is_empty(), "{} cases failed", failures.len());
        assert!(played >= cases && hit.len() >= triples, "{played} cases, {} triples", hit.len());
    }
}

/// A panic is a verdict too.
pub fn attempt(case: impl FnOnce() -> Verdict<Outcome>) -> Verdict<Outcome> {
    catch_unwind(AssertUnwindSafe(case)).unwrap_or_else(|panic| {
        let told = panic.downcast_ref::<String>().map(String::as_str);
        let told = told.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(format!("panic: {}", told.unwrap_or("?")))
    })
}
