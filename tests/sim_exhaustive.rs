//! Layer L1 of the tests of faults: scenarios × every call × every errno of that call ×
//! once, in a burst, until healed × whole, one-byte and random transfers; and pairs.
//!
//! A failure prints a line that replays it alone:
//! `CASE='dialogue:31:EPIPE:once:full' cargo test --features sim --test sim_exhaustive`;
//! a second fault of a pair stands behind: `…:full+35:EMFILE`.
#![cfg(feature = "sim")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod simulation;

use simulation::journal::{errnos, is_a_lie};
use simulation::stage::{
    Outcome, SHORTS, Stage, TIMES, UNIX, Verdict, errno_named, judge_start, leave_stale_file,
};
use simulation::sweep::{Sweep, attempt};
use std::fmt;
use std::time::Duration;
use threadbare::kernel::sim::{At, Method, Simulated};
use threadbare::{Errno, Limits, Signal};

const TCP: &str = "127.0.0.1:80";

struct Scenario {
    name: &'static str,
    address: &'static str,
    max_connections: u32,
    script: fn(&mut Stage),
}

const SCENARIOS: [Scenario; 13] = [
    Scenario { name: "dialogue", address: TCP, max_connections: 4, script: dialogue },
    Scenario { name: "pipelined", address: TCP, max_connections: 4, script: pipelined },
    Scenario { name: "half-close", address: TCP, max_connections: 4, script: half_close },
    Scenario { name: "reset", address: TCP, max_connections: 4, script: reset },
    Scenario { name: "slow-reader", address: TCP, max_connections: 4, script: slow_reader },
    Scenario { name: "full-house", address: TCP, max_connections: 2, script: full_house },
    Scenario { name: "drain", address: TCP, max_connections: 2, script: drain },
    Scenario { name: "deadline", address: TCP, max_connections: 4, script: deadline },
    Scenario { name: "broadcast", address: TCP, max_connections: 4, script: broadcast },
    Scenario { name: "timers", address: TCP, max_connections: 4, script: timers },
    Scenario { name: "unix", address: UNIX, max_connections: 4, script: dialogue },
    Scenario { name: "handle", address: TCP, max_connections: 4, script: handle },
    Scenario { name: "goodbyes", address: TCP, max_connections: 4, script: goodbyes },
];

fn dialogue(stage: &mut Stage) {
    let (one, other) = (stage.join(), stage.join());
    stage.say(one, ">");
    stage.pass(10);
    stage.hesitate(one);
    stage.say(other, ">");
    stage.listen(10);
    stage.end(one);
    stage.listen(10);
}

/// Many lines at once, and answers that fill all there is.
fn pipelined(stage: &mut Stage) {
    let (one, other) = (stage.join(), stage.join());
    stage.say(one, ">>*>>");
    stage.say(other, ">>>>");
    stage.pass(10);
    stage.say(one, ">*>");
    stage.listen(10);
}

/// The end is sent before the first byte is read.
fn half_close(stage: &mut Stage) {
    let (one, other) = (stage.join(), stage.join());
    stage.say(one, ">>");
    stage.mumble(one, ">00 rest");
    stage.end(one);
    stage.end(other);
    stage.listen(10);
}

fn reset(stage: &mut Stage) {
    let (one, other) = (stage.join(), stage.join());
    let early = stage.join();
    stage.leave(early, true);
    stage.say(one, ">>");
    stage.pass(10);
    stage.say(other, ">");
    stage.last_words(one);
    stage.pass(10);
    let last = stage.join(); // in the descriptor of the other
    stage.say(last, "*");
    stage.pass(10);
    stage.leave(last, false);
    stage.listen(10);
}

fn slow_reader(stage: &mut Stage) {
    let (slow, other) = (stage.join(), stage.join());
    stage.say(slow, "**>");
    for _ in 0..4 {
        stage.pass(100);
        stage.hear(slow, 40);
    }
    stage.say(other, ">");
    stage.say(slow, ">");
    stage.end(slow);
    stage.pass(100);
    stage.hear(slow, 60);
    stage.listen(100);
}

/// More clients than there is room for: the others wait until somebody goes.
fn full_house(stage: &mut Stage) {
    let all: Vec<usize> = (0..5).map(|_| stage.join()).collect();
    all.iter().for_each(|&who| stage.say(who, ">"));
    stage.listen(10);
    stage.leave(all[0], false);
    stage.pass(10);
    for who in &all[1..] {
        stage.end(*who);
        stage.listen(10);
    }
}

/// A stop while some are served, some wait for their answers, and some in the queue.
fn drain(stage: &mut Stage) {
    let all: Vec<usize> = (0..4).map(|_| stage.join()).collect();
    stage.pass(10);
    all.iter().for_each(|&who| stage.say(who, ">"));
    stage.mumble(all[1], "half a li");
    stage.say(all[2], "*");
    stage.signal(Signal::SIGTERM);
    stage.pass(5);
    stage.join();
    stage.listen(30);
    stage.end(all[0]);
    stage.listen(30);
}

/// A stop in which one does not hear, and one goes on for ever.
fn deadline(stage: &mut Stage) {
    let (deaf, paused, other) = (stage.join(), stage.join(), stage.join());
    stage.talkers[deaf].deaf = true;
    stage.say(deaf, "***");
    stage.say(paused, ">z");
    stage.say(other, "*");
    stage.pass(10);
    stage.signal(Signal::SIGTERM);
    stage.listen(1_100);
    stage.pass(3_000);
}

fn broadcast(stage: &mut Stage) {
    let (one, other, deaf) = (stage.join(), stage.join(), stage.join());
    stage.talkers[deaf].deaf = true;
    stage.pass(10);
    stage.say(one, ">!");
    stage.say(other, "!>!");
    stage.listen(10);
    stage.leave(other, true);
    stage.say(one, "!!");
    stage.listen(10);
}

/// Pauses and what comes meanwhile, a message that never ends, silence.
fn timers(stage: &mut Stage) {
    let (one, other) = (stage.join(), stage.join());
    stage.say(one, ">z>");
    stage.say(other, "z");
    stage.end(other);
    stage.listen(500);
    stage.say(one, ">");
    let loud = stage.join();
    stage.say(loud, "!"); // those who pause hear it too
    stage.listen(1_000);
    stage.say(loud, ">z");
    stage.pass(10);
    stage.leave(loud, true);
    let (slow, _silent) = (stage.join(), stage.join());
    stage.mumble(slow, ">and then");
    stage.listen(6_000);
    stage.listen(20_000);
}

fn handle(stage: &mut Stage) {
    let (one, other) = (stage.join(), stage.join());
    stage.announce();
    stage.say(one, ">");
    stage.listen(10);
    stage.announce();
    stage.announce();
    stage.say(other, "!");
    stage.listen(10);
    stage.signal(Signal::SIGUSR1);
    stage.signals -= 1; // that one only reports
    stage.listen(10);
}

/// The server ends it, while the client still talks.
fn goodbyes(stage: &mut Stage) {
    let (one, other, cut) = (stage.join(), stage.join(), stage.join());
    stage.say(one, ">x>");
    stage.say(other, "*x>");
    stage.say(cut, ">a>");
    stage.pass(10);
    stage.say(one, ">");
    stage.hear(one, 100);
    for _ in 0..6 {
        stage.hear(other, 15);
        stage.pass(10);
        stage.say(other, ">"); // must not cost it what is still under way
        stage.pass(10);
    }
    stage.end(other);
    stage.listen(3_000);
}

/// What goes wrong in one play.
#[derive(Clone, Debug, PartialEq)]
struct Case {
    scenario: usize,
    faults: Vec<(u64, Errno)>,
    times: usize,
    short: usize,
}

/// As the environment variable CASE takes it.
impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (times, short) = (TIMES[self.times].0, SHORTS[self.short].0);
        write!(f, "{}", SCENARIOS[self.scenario].name)?;
        for (place, (index, errno)) in self.faults.iter().enumerate() {
            match place {
                0 => write!(f, ":{index}:{errno:?}:{times}:{short}")?,
                _ => write!(f, "+{index}:{errno:?}")?,
            }
        }
        Ok(())
    }
}

impl Case {
    fn parse(text: &str) -> Option<Case> {
        let (first, second) = text.split_once('+').unwrap_or((text, ""));
        let mut words = first.split(':');
        let name = words.next()?;
        let scenario = SCENARIOS.iter().position(|scenario| scenario.name == name)?;
        let mut faults = vec![(words.next()?.parse().ok()?, errno_named(words.next()?)?)];
        let (times, short) = (words.next()?, words.next()?);
        if let Some((index, errno)) = second.split_once(':') {
            faults.push((index.parse().ok()?, errno_named(errno)?));
        }
        Some(Case {
            scenario,
            faults,
            times: TIMES.iter().position(|(name, _)| *name == times)?,
            short: SHORTS.iter().position(|(name, _)| *name == short)?,
        })
    }

    fn play(&self) -> Verdict<Outcome> {
        let Scenario { address, max_connections, script, .. } = SCENARIOS[self.scenario];
        let sim = Simulated::new(7);
        if address == UNIX {
            leave_stale_file(&sim);
            sim.take_trace();
        }
        let begin = sim.calls();
        sim.shorten(SHORTS[self.short].1);
        for &(index, errno) in &self.faults {
            sim.fail(At::Call(begin + index), errno, TIMES[self.times].1);
        }
        let limits = Limits {
            max_connections,
            high_water: 64,
            idle_timeout: Some(Duration::from_secs(40)),
            message_timeout: Some(Duration::from_secs(15)),
            write_timeout: Some(Duration::from_secs(15)),
            drain_timeout: Some(Duration::from_secs(3)),
            ..Limits::default()
        };
        match Stage::open(&sim, address, limits) {
            Ok(mut stage) => {
                script(&mut stage);
                stage.finale()
            }
            Err(error) => judge_start(&sim, &error),
        }
    }
}

/// Plays all single faults of a scenario at every `stride`th call; and, behind the most
/// important of all single ones, every `pairs`th second one.
fn sweep_scenario(sweep: &Sweep, whole: &Case, stride: usize, pairs: usize) {
    let play = |faults: &[(u64, Method, Errno)], times: usize| {
        let faults = faults.iter().map(|&(index, _, errno)| (index, errno)).collect();
        let case = Case { faults, times, ..whole.clone() };
        let outcome = sweep.record(&format!("CASE='{case}'"), attempt(|| case.play()));
        outcome.map_or_else(Vec::new, |outcome| outcome.journal.calls)
    };
    let mut number = 0;
    let calls = play(&[], 0);
    for (index, &method) in (0..).zip(&calls).skip(whole.scenario % stride).step_by(stride) {
        for (rank, &errno) in errnos(method).iter().enumerate() {
            let first = (index, method, errno);
            let honest = |&times: &usize| !is_a_lie(method, errno, TIMES[times].1);
            let after: Vec<_> =
                (0..TIMES.len()).filter(honest).map(|times| play(&[first], times)).collect();
            // Only behind the most important ones, and only where both strike once.
            let seconds = (0..).zip(&after[0]).filter(|_| rank < 2).skip(index as usize + 1);
            for (index, &method) in seconds {
                number += 1;
                if number % pairs == 0 {
                    play(&[first, (index, method, errnos(method)[number / pairs % 2])], 0);
                }
            }
        }
    }
}

/// Sweeps all scenarios; the strides are those of whole, one-byte and random transfers.
fn sweep(strides: [usize; 3], pairs: [usize; 3]) -> Sweep {
    Sweep::run(SCENARIOS.len() * SHORTS.len(), |sweep, number| {
        let (short, scenario) = (number / SCENARIOS.len(), number % SCENARIOS.len());
        let whole = Case { scenario, faults: Vec::new(), times: 0, short };
        sweep_scenario(sweep, &whole, strides[short], pairs[short]);
    })
}

fn replay() -> bool {
    let Ok(text) = std::env::var("CASE") else { return false };
    let case = Case::parse(&text).expect("CASE is 'scenario:index:errno:times:short'");
    let outcome = case.play().unwrap_or_else(|why| panic!("{case}: {why}"));
    println!("{case} is well, {} turns", outcome.turns);
    true
}

/// A sample of all single faults and pairs, in all scenarios, breaks no promise.
#[test]
fn faults_in_a_sample() {
    if !replay() {
        sweep([5, 101, 29], [23, 6_011, 211]).conclude(9_000, 400);
    }
}

/// All single faults, and many pairs, break no promise.
#[test]
#[ignore = "a minute"]
fn every_fault() {
    if !replay() {
        sweep([1, 2, 1], [2, 4_001, 23]).conclude(170_000, 510);
    }
}

/// What a failure prints is what the replay reads.
#[test]
fn a_replay_line_names_its_case() {
    for text in ["drain:12:EPIPE:burst:byte", "unix:3:EXDEV:healed:random+40:EMFILE"] {
        assert_eq!(Case::parse(text).unwrap().to_string(), text);
    }
}
