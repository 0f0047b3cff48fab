//! A scenario and what goes wrong in it; and the sweep over all of them.
//!
//! - Each call of each scenario fails with each of its errnos: once, in a burst, and until
//!   the faults end.
//! - Behind the most important of these, the call that the failure provoked fails with each
//!   of its own; and so do some of those that follow.
//! - The gate: wherever a call was seen, in a run without faults or with one, each errno of
//!   its catalogue must have struck it. A place is a call in a state; what the sweep itself
//!   has left open there is struck in the simplest case that comes there.

use super::journal::{Place, errnos, is_a_lie};
use super::stage::{Outcome, TIMES, Verdict, WAYS, errno_named};
use super::sweep::{Sweep, attempt};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;
use threadbare::Errno;
use threadbare::kernel::sim::{At, Simulated, Times};

/// What goes wrong in one play.
#[derive(Clone, Debug)]
pub struct Case {
    pub scenario: &'static str,
    /// Which call, with which errno. The first strikes as often as `times` says, others once.
    faults: Vec<(u64, Errno)>,
    times: usize,
    pub way: usize,
}

impl Case {
    /// Nothing does.
    pub fn whole(scenario: &'static str, way: usize) -> Case {
        Case { scenario, faults: Vec::new(), times: 0, way }
    }

    /// The same, with one more fault.
    fn and(&self, index: usize, errno: Errno) -> Case {
        let mut case = self.clone();
        case.faults.push((index as u64, errno));
        case
    }

    /// Plans the faults, among the calls from now on. Those that strike once have
    /// precedence.
    pub fn plan(&self, sim: &Simulated) {
        let begin = sim.calls();
        for (place, &(index, errno)) in self.faults.iter().enumerate().rev() {
            let times = if place == 0 { TIMES[self.times].1 } else { Times::Once };
            sim.fail(At::Call(begin + index), errno, times);
        }
    }

    fn rank(&self) -> (usize, usize, &str, usize) {
        (self.faults.len(), self.times, self.scenario, self.way)
    }

    fn parse(text: &str, scenarios: &[&'static str]) -> Option<Case> {
        let mut parts = text.split('+');
        let words: Vec<&str> = parts.next()?.split(':').collect();
        let fault = |index: &str, errno: &str| Some((index.parse().ok()?, errno_named(errno)?));
        let (name, mut faults, times, way) = match words[..] {
            [name, way] => (name, Vec::new(), TIMES[0].0, way),
            [name, index, errno, times, way] => (name, vec![fault(index, errno)?], times, way),
            _ => return None,
        };
        for part in parts {
            let (index, errno) = part.split_once(':')?;
            faults.push(fault(index, errno)?);
        }
        Some(Case {
            scenario: scenarios.iter().find(|known| **known == name)?,
            faults,
            times: TIMES.iter().position(|(name, _)| *name == times)?,
            way: WAYS.iter().position(|known| known.name == way)?,
        })
    }
}

/// As the environment variable CASE takes it.
impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (times, way) = (TIMES[self.times].0, WAYS[self.way].name);
        f.write_str(self.scenario)?;
        let Some(((index, errno), more)) = self.faults.split_first() else {
            return write!(f, ":{way}");
        };
        write!(f, ":{index}:{errno:?}:{times}:{way}")?;
        more.iter().try_for_each(|(index, errno)| write!(f, "+{index}:{errno:?}"))
    }
}

/// All that is played.
pub struct Repertoire {
    pub scenarios: Vec<&'static str>,
    pub play: fn(&Case) -> Verdict<Outcome>,
}

impl Repertoire {
    /// Plays the case of the environment variable CASE alone; whether there is one.
    pub fn replay(&self) -> bool {
        let Ok(text) = std::env::var("CASE") else { return false };
        let case = Case::parse(&text, &self.scenarios);
        let case = case.expect("CASE is 'scenario:index:errno:times:way'");
        let outcome = (self.play)(&case).unwrap_or_else(|why| panic!("{case}: {why}"));
        println!("{case} is well, {} turns", outcome.turns);
        true
    }

    /// Sweeps all scenarios. For each way that bytes move: every how manieth call fails
    /// alone, and every how manieth pair of calls.
    pub fn sweep(&self, strides: [usize; WAYS.len()], pairs: [usize; WAYS.len()]) -> Sweep {
        let (gate, count) = (Gate::default(), self.scenarios.len());
        let sweep = Sweep::run(count * WAYS.len(), |sweep, number| {
            let (way, scenario) = (number / count, number % count);
            let whole = Case::whole(self.scenarios[scenario], way);
            let first = scenario % strides[way];
            self.sweep_scenario(sweep, &gate, &whole, (first, strides[way]), pairs[way]);
        });
        gate.forget_the_late();
        self.fill(&gate, &sweep);
        sweep
    }

    fn sweep_scenario(
        &self,
        sweep: &Sweep,
        gate: &Gate,
        whole: &Case,
        (start, stride): (usize, usize),
        pairs: usize,
    ) {
        let play = |case: &Case| {
            let Some(outcome) = self.record(sweep, case) else { return Vec::new() };
            if case.faults.len() < 2 {
                gate.saw(case, &outcome);
            }
            let mut calls = outcome.journal.calls;
            calls.truncate(outcome.before_healing);
            calls
        };
        let mut number = 0;
        let calls = play(whole);
        for (index, &method) in calls.iter().enumerate().skip(start).step_by(stride) {
            for (rank, &errno) in errnos(method).iter().enumerate() {
                let first = whole.and(index, errno);
                let honest = |&times: &usize| !is_a_lie(method, errno, TIMES[times].1);
                let all = (0..TIMES.len()).filter(honest);
                let after: Vec<_> =
                    all.map(|times| play(&Case { times, ..first.clone() })).collect();
                if rank >= 2 {
                    continue;
                }
                for (second, &method) in after[0].iter().enumerate().skip(index + 1) {
                    if second == index + 1 && calls.get(second) != Some(&method) {
                        errnos(method).iter().for_each(|&e| drop(play(&first.and(second, e))));
                        continue;
                    }
                    number += 1;
                    if number % pairs == 0 {
                        play(&first.and(second, errnos(method)[number / pairs % 2]));
                    }
                }
            }
        }
    }

    /// Fills the holes that the sweep has left.
    fn fill(&self, gate: &Gate, sweep: &Sweep) {
        let holes = gate.holes(sweep);
        println!("{} places, {} holes to fill", gate.0.lock().unwrap().len(), holes.len());
        sweep.more(holes.len(), |number| drop(self.record(sweep, &holes[number].1)));
        for (name, case) in gate.holes(sweep) {
            sweep.fail(format!("CASE='{case}': a hole, {name}"));
        }
    }

    fn record(&self, sweep: &Sweep, case: &Case) -> Option<Outcome> {
        sweep.record(&format!("CASE='{case}'"), attempt(|| (self.play)(case)))
    }

    /// Whether what a failure prints is what the replay reads.
    pub fn reads(&self, text: &str) -> bool {
        Case::parse(text, &self.scenarios).is_some_and(|case| case.to_string() == text)
    }
}

/// Where a call was seen: the simplest case, its index there, and whether that is before
/// the faults end.
#[derive(Default)]
struct Gate(Mutex<BTreeMap<Place, (Case, usize, bool)>>);

impl Gate {
    fn saw(&self, case: &Case, outcome: &Outcome) {
        let mut places = self.0.lock().unwrap();
        for (&place, &index) in &outcome.journal.places {
            let in_time = index < outcome.before_healing;
            let simpler = |(known, _, early): &(Case, usize, bool)| {
                (!in_time, case.rank()) < (!*early, known.rank())
            };
            if places.get(&place).is_none_or(simpler) {
                places.insert(place, (case.clone(), index, in_time));
            }
        }
    }

    /// Some calls are seen only where the faults have ended, so that nothing can strike them:
    /// in a sample many, in a whole sweep a few of the rarest places.
    fn forget_the_late(&self) {
        let mut places = self.0.lock().unwrap();
        let all = places.len();
        places.retain(|_, (_, _, in_time)| *in_time);
        println!("{} places are reached only when the faults have ended", all - places.len());
    }

    /// What was not struck, and the case that would.
    fn holes(&self, sweep: &Sweep) -> Vec<(String, Case)> {
        let places = self.0.lock().unwrap();
        let all = places.iter().flat_map(|(&(state, deed), (case, index, _))| {
            errnos(deed.0).iter().filter_map(move |&errno| {
                let hit = sweep.has_hit(&(state, deed, errno as i32));
                let name = format!("{}{} while {state}: {errno:?}", deed.0.name(), deed.1);
                (!hit).then(|| (name, case.and(*index, errno)))
            })
        });
        all.collect()
    }
}
