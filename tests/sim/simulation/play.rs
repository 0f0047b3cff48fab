//! A random play on the stage: clients, faults, signals and clock jumps as the dice fall.

use super::dice::Dice;
use super::journal::{asks_for, errnos, is_a_lie};
use super::judge::judge_start;
use super::parts::{Chorus, Chunks, MAX_LINE, OneGuest, Part, chat, greet};
use super::stage::{
    FRONT, Outcome, SHORTS, Stage, TCP, TIMES, UNIX, Verdict, Way, leave_stale_file,
};
use std::time::Duration;
use threadbare::handlers::{Echo, Framing};
use threadbare::kernel::sim::{At, Method, Simulated};
use threadbare::reaction::Reaction;
use threadbare::{Limits, Signal};

/// All that the dice decide.
pub struct Play<'a> {
    dice: Dice<'a>,
    sim: Simulated,
    /// Faults that end the server are drawn too.
    deadly: bool,
}

impl<'a> Play<'a> {
    pub fn new(mut dice: Dice<'a>) -> Play<'a> {
        let deadly = dice.one_in(6);
        let sim = Simulated::new(dice.below(256) as u64);
        Play { dice, sim, deadly }
    }

    fn limits(&mut self, patient: bool) -> Limits {
        let timeout = |seconds| Some(Duration::from_secs(seconds)).filter(|_| !patient);
        Limits {
            max_connections: 1 + self.dice.below(5) as u32,
            max_per_address: if patient { 0 } else { self.dice.below(4) as u32 },
            give_way: timeout(1),
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

    pub fn play(&mut self) -> Verdict<Outcome> {
        let addresses: &[&str] = match self.dice.below(5) {
            0 => &[UNIX],
            1 => &[TCP, UNIX],
            2 => &[FRONT],
            _ => &[TCP],
        };
        let unix = addresses.contains(&UNIX);
        match self.dice.below(8) {
            0 | 1 => self.play_part(Chorus, addresses),
            2 => self.play_part(chat(), addresses),
            3 => self.play_part(Echo, addresses),
            4 => self.play_part(greet(), addresses),
            5 => self.play_part(Chunks::new(), addresses),
            // Here a client is known by its address, which one of a Unix socket lacks.
            _ if unix => self.play_part(Chorus, addresses),
            6 => self.play_part(OneGuest::new(Framing::Line), addresses),
            _ => self.play_part(OneGuest::new(Framing::Chunk), addresses),
        }
    }

    fn play_part<P: Part>(&mut self, part: P, addresses: &[&str]) -> Verdict<Outcome> {
        let patient = self.dice.one_in(2);
        if addresses.contains(&UNIX) {
            leave_stale_file(&self.sim);
            self.sim.take_trace();
        }
        let way = self.dice.below(4 * SHORTS.len());
        let ((name, short), slow) = (SHORTS[way % SHORTS.len()], way / SHORTS.len());
        let delay = Duration::from_millis([0, 0, 3, 50][slow]);
        if self.dice.one_in(10) {
            self.fail(Method::ALL);
        }
        let limits = self.limits(patient);
        let way = Way { name, short, delay };
        let mut stage = match Stage::open(part, &self.sim, addresses, limits, way) {
            Ok(stage) => stage,
            Err(error) => return judge_start(&self.sim, &error),
        };
        stage.patient = patient;
        for _ in 0..10 + self.dice.below(50) {
            if self.dice.is_spent() {
                break;
            }
            self.step(&mut stage);
        }
        stage.talkers.iter_mut().for_each(|talker| talker.deaf &= self.dice.one_in(2));
        stage.finale()
    }

    /// Somebody does something.
    fn step<P: Part>(&mut self, stage: &mut Stage<P>) {
        const RUNNING: [Method; 11] = [
            Method::EpollCtl,
            Method::EpollWait,
            Method::Accept4,
            Method::Recv,
            Method::Send,
            Method::Sendmsg,
            Method::TimerfdSettime,
            Method::ReadCounter,
            Method::Shutdown,
            Method::Setsockopt,
            Method::Close,
        ];
        const KINDS: [&str; 13] =
            [">", ">", ">>", ">>", ">*", "*", "!", "!>", "z", "z>", "x>", "a", "f>"];
        let crowd = stage.talkers.len();
        if crowd == 0 || crowd < 8 && self.dice.one_in(8) {
            stage.join_at(crowd);
            return;
        }
        let who = self.dice.below(crowd);
        match self.dice.below(40) {
            0..=11 => {
                stage.say(who, self.dice.pick(&KINDS));
            }
            12 if !P::COMMANDS.is_empty() && self.dice.one_in(2) => {
                stage.command(who, self.dice.pick(P::COMMANDS));
            }
            12 => stage.hesitate(who),
            13 => {
                let words = "m".repeat(self.dice.pick(&[1, 8, MAX_LINE, MAX_LINE + 1, 60]));
                stage.mumble(who, &(words + self.dice.pick(&["", "\r"])));
            }
            14 => stage.end(who),
            15 => stage.leave(who, true),
            16 => stage.leave(who, false),
            17..=18 => stage.talkers[who].deaf ^= true,
            19..=20 => stage.hear(who, 1 + self.dice.below(60)),
            21..=24 => drop(stage.listen(self.dice.below(100) as u64)),
            25..=27 => stage.pass(self.dice.below(2_000) as u64),
            28 => stage.leap(self.dice.below(8_000) as u64),
            29 => stage.announce(),
            30 => self.sim.heal(),
            31 if self.dice.one_in(12) => {
                stage.patient = false; // who talks on after a stop gets no answer
                stage.signal(Signal::SIGTERM);
            }
            31 => stage.ask_for_report(),
            32..=37 => self.fail(&RUNNING),
            _ => match self.dice.below(4) {
                0 | 1 => stage.clog(who, self.dice.below(1_500) as u64),
                2 => stage.unclog(who),
                _ => self.swizzle(stage),
            },
        }
    }

    /// Clogs some clients one after another, and unclogs them in another order.
    fn swizzle<P: Part>(&mut self, stage: &mut Stage<P>) {
        let mut some: Vec<usize> = (0..stage.talkers.len()).collect();
        some.retain(|_| self.dice.one_in(2));
        for &who in &some {
            stage.clog(who, 60_000);
            stage.pass(self.dice.below(30) as u64);
        }
        while !some.is_empty() {
            stage.unclog(some.swap_remove(self.dice.below(some.len())));
            stage.listen(self.dice.below(30) as u64);
        }
    }
}
