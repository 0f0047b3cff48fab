//! Layer L2 of the tests of faults: random clients, random faults, clock jumps and
//! signals; then the faults end, and all must come to rest.
//!
//! A failure prints its seed:
//! `SEED=4711 cargo test --features sim --test sim_random`.
#![cfg(feature = "sim")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod simulation;

use simulation::journal::{asks_for, errnos, is_a_lie};
use simulation::stage::{
    Outcome, SHORTS, Stage, TIMES, UNIX, Verdict, judge_start, leave_stale_file,
};
use simulation::sweep::{Sweep, attempt};
use std::time::Duration;
use threadbare::kernel::sim::{At, Method, Simulated};
use threadbare::reaction::Reaction;
use threadbare::{Limits, Signal};

/// splitmix64
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) % limit as u64) as usize
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// All that a seed decides.
struct Play {
    dice: Dice,
    sim: Simulated,
    /// Faults that end the server are drawn too.
    deadly: bool,
}

impl Play {
    fn new(seed: u64) -> Play {
        let mut dice = Dice(seed);
        let deadly = dice.one_in(6);
        Play { dice, sim: Simulated::new(seed), deadly }
    }

    fn limits(&mut self, patient: bool) -> Limits {
        let timeout = |seconds| Some(Duration::from_secs(seconds)).filter(|_| !patient);
        Limits {
            max_connections: 1 + self.dice.below(5) as u32,
            max_per_address: if patient { 0 } else { self.dice.below(4) as u32 },
            high_water: 64,
            max_output: if patient { 1 << 20 } else { 256 },
            idle_timeout: timeout(10),
            message_timeout: timeout(4),
            write_timeout: timeout(6),
            drain_timeout: Some(Duration::from_secs(60)),
            ..Limits::default()
        }
    }

    /// One of the next calls of some method is to fail.
    fn fail(&mut self, methods: &[Method]) {
        let method = self.dice.pick(methods);
        let errno = self.dice.pick(errnos(method));
        let times = self.dice.pick(&TIMES).1;
        let deadly = asks_for(method, errno, Reaction::FailRuntime);
        if is_a_lie(method, errno, times) || deadly && !self.deadly {
            return;
        }
        let at = At::Of(method, self.sim.count(method) + self.dice.below(4) as u64);
        self.sim.fail(at, errno, times);
    }

    fn play(&mut self) -> Verdict<Outcome> {
        let patient = self.dice.one_in(2);
        let address = if self.dice.one_in(5) { UNIX } else { "127.0.0.1:80" };
        if address == UNIX {
            leave_stale_file(&self.sim);
            self.sim.take_trace();
        }
        self.sim.shorten(self.dice.pick(&SHORTS).1);
        if self.dice.one_in(10) {
            self.fail(Method::ALL);
        }
        let limits = self.limits(patient);
        let mut stage = match Stage::open(&self.sim, address, limits) {
            Ok(stage) => stage,
            Err(error) => return judge_start(&self.sim, &error),
        };
        stage.patient = patient;
        for _ in 0..10 + self.dice.below(50) {
            self.step(&mut stage);
        }
        stage.talkers.iter_mut().for_each(|talker| talker.deaf &= self.dice.one_in(2));
        stage.finale()
    }

    /// Somebody does something.
    fn step(&mut self, stage: &mut Stage) {
        const RUNNING: [Method; 10] = [
            Method::EpollCtl,
            Method::EpollWait,
            Method::Accept4,
            Method::Recv,
            Method::Send,
            Method::TimerfdSettime,
            Method::ReadCounter,
            Method::Shutdown,
            Method::Setsockopt,
            Method::Close,
        ];
        const KINDS: [&str; 12] =
            [">", ">", ">>", ">>", ">*", "*", "!", "!>", "z", "z>", "x>", "a"];
        let crowd = stage.talkers.len();
        if crowd == 0 || crowd < 8 && self.dice.one_in(8) {
            stage.join();
            return;
        }
        let who = self.dice.below(crowd);
        match self.dice.below(40) {
            0..=11 => {
                stage.say(who, self.dice.pick(&KINDS));
            }
            12..=13 => stage.hesitate(who),
            14 => stage.end(who),
            15 => stage.leave(who, true),
            16 => stage.leave(who, false),
            17..=18 => stage.talkers[who].deaf ^= true,
            19..=20 => stage.hear(who, 1 + self.dice.below(60)),
            21..=24 => stage.listen(self.dice.below(100) as u64),
            25..=27 => stage.pass(self.dice.below(2_000) as u64),
            28 => self.sim.advance(Duration::from_millis(self.dice.below(8_000) as u64)),
            29 => stage.announce(),
            30 => self.sim.heal(),
            31 if self.dice.one_in(12) => {
                stage.patient = false; // who talks on after a stop gets no answer
                stage.signal(Signal::SIGTERM);
            }
            31 => drop(self.sim.signal(Signal::SIGUSR1)),
            _ => self.fail(&RUNNING),
        }
    }
}

/// Plays `count` seeds, or only the one of the environment variable SEED.
fn play_seeds(count: usize, triples: usize) {
    if let Ok(seed) = std::env::var("SEED") {
        let outcome = Play::new(seed.parse().expect("SEED is a number")).play();
        println!("{} turns", outcome.unwrap_or_else(|why| panic!("{why}")).turns);
        return;
    }
    let sweep = Sweep::run(count, |sweep, seed| {
        let mut play = Play::new(seed as u64);
        let played = attempt(|| play.play());
        sweep.record(&format!("SEED={seed}"), played);
    });
    sweep.conclude(count, triples);
}

/// Some random plays come to rest, with all accounts balanced.
#[test]
fn some_seeds() {
    play_seeds(2_000, 330);
}

/// Many random plays come to rest, with all accounts balanced.
#[test]
#[ignore = "a quarter of a minute"]
fn many_seeds() {
    play_seeds(50_000, 590);
}
