//! Clients whose every byte is accounted for, on a server that does what they say. What
//! must hold of all of them in the end is in `judge`.

use super::journal::{Journal, errnos};
use super::parts::{Chorus, Part, Watched};
use super::{World, diary};
use std::net::SocketAddr;
use std::time::Duration;
use threadbare::address::Place;
use threadbare::kernel::sim::{Client, Method, Short, Simulated, Times};
use threadbare::{Address, ConnId, Errno, Error, Limits, Net, Peer, Signal, Summary, proxy_header};

pub fn broadcast(net: &mut Net, line: &[u8]) {
    let all: Vec<ConnId> = net.ids().collect();
    for id in all {
        net.send(id, line);
    }
}

/// A client and the accounts it keeps.
pub struct Talker {
    pub client: Option<Client>,
    pub peer: Option<Peer>,
    /// The number of its connection.
    pub connection: Option<u64>,
    /// What its front says before it, and its kernel has not taken yet.
    preface: Vec<u8>,
    /// Said, and not yet taken by its kernel.
    unsent: Vec<u8>,
    pub sent: Vec<u8>,
    pub received: Vec<u8>,
    /// It ends its direction when all is sent.
    ends: bool,
    pub ended: bool,
    /// It ends its direction also where the server has ended its own, and waits for that.
    pub ends_late: bool,
    /// It never reads.
    pub deaf: bool,
    /// It went without waiting for its answers.
    pub left: bool,
    /// Somebody outside paused it.
    pub held: bool,
    pub eof: bool,
    pub reset: bool,
    /// When it had last received all there was.
    caught_up: u64,
    /// It once left something unread for longer than a server lingers.
    pub dawdled: bool,
}

/// As long as a server that is done waits for a client that neither talks nor hears.
const PATIENCE: Duration = Duration::from_secs(2);

impl Talker {
    /// Sends what waits; how much its kernel took.
    fn push(&mut self) -> usize {
        let Some(client) = &mut self.client else { return 0 };
        if !self.preface.is_empty() {
            let count = client.send(&self.preface);
            self.preface.drain(..count);
            if !self.preface.is_empty() {
                return count;
            }
        }
        let count = if self.unsent.is_empty() { 0 } else { client.send(&self.unsent) };
        self.sent.extend(self.unsent.drain(..count));
        // (Before it is connected, that would be to give up.)
        let in_time = !self.eof || self.ends_late;
        let can_end = self.ends && !self.ended && in_time && client.established();
        let ends = can_end && self.unsent.is_empty();
        if ends {
            client.shutdown();
            // Behind the server's own end, it makes no message of a rest.
            (self.ended, self.ends_late) = (!self.eof, false);
        }
        count + usize::from(ends)
    }

    /// Receives; how much.
    fn hear(&mut self, most: usize, now: u64) -> usize {
        let Some(client) = &mut self.client else { return 0 };
        let heard = client.recv_at_most(most);
        self.dawdled |= u128::from(now - self.caught_up) > PATIENCE.as_nanos();
        if heard.len() < most {
            self.caught_up = now;
        }
        self.eof = client.saw_eof();
        self.reset = client.saw_reset() || client.error() == Some(Errno::ECONNREFUSED);
        self.received.extend(&heard);
        heard.len()
    }

    pub fn is_established(&self) -> bool {
        self.client.as_ref().is_some_and(Client::established)
    }

    /// What it has cannot be taken for a whole answer. (A Unix socket knows no reset.)
    pub fn has_no_whole_answer(&self) -> bool {
        let unix = self.peer.is_none_or(|peer| peer == Peer::Unix);
        self.reset || self.received.is_empty() || unix
    }
}

/// A server, its clients, and what they did.
pub struct Stage<P: Part = Chorus> {
    pub world: World<Watched<P>>,
    pub talkers: Vec<Talker>,
    pub is_behind_front: bool,
    lines: usize,
    /// Lines that a call from a handle sent to all.
    pub announced: Vec<Vec<u8>>,
    /// Lines that must be heard, though their speakers reset the connection behind them.
    pub last: Vec<(usize, Vec<u8>)>,
    pub jobs: u64,
    pub signals: u32,
    /// How often it was asked for a report.
    pub reports: usize,
    /// What the summary must say if nothing went wrong.
    pub expect: fn(&Summary) -> bool,
    /// Nobody is sent away for being slow.
    pub patient: bool,
    /// Bytes were under way for a while, also when the server stopped.
    pub slow: bool,
    /// How long things take at most.
    delay: Duration,
    pub limits: Limits,
    pub begun: u64,
    pub baseline: (usize, usize),
}

/// What was played, in figures.
pub struct Outcome {
    pub journal: Journal,
    pub turns: u64,
    /// So many calls were made while faults could strike.
    pub before_healing: usize,
}

/// Why a case failed.
pub type Verdict<T> = Result<T, String>;

pub const TCP: &str = "127.0.0.1:80";
pub const UNIX: &str = "unix:/run/stage";
/// Behind a front, which names each client.
pub const FRONT: &str = "front 127.0.0.1:80";

/// Where to listen: behind a front where the word says so.
fn places(addresses: &[&str]) -> Vec<Place> {
    let place = |address: &&str| match address.strip_prefix("front ") {
        Some(address) => Place::parse(address.as_ref()).unwrap().behind_front(),
        None => Place::parse(address.as_ref()).unwrap(),
    };
    addresses.iter().map(place).collect()
}

impl<P: Part> Stage<P> {
    /// Starts the server. With little room on the way, so that few bytes fill it.
    pub fn open(
        part: P,
        sim: &Simulated,
        addresses: &[&str],
        limits: Limits,
        way: Way,
    ) -> Result<Self, Error> {
        diary::begin();
        sim.set_buffers(48, 48);
        sim.shorten(way.short);
        sim.delay(way.delay);
        let begun = sim.now();
        let (places, sim) = (places(addresses), sim.clone());
        let mut world = World::at(places, sim.clone(), Watched::new(part), limits.clone())?;
        world.note();
        Ok(Stage {
            limits,
            begun,
            delay: way.delay,
            slow: way.delay > Duration::ZERO,
            reports: 0,
            expect: |_| true,
            baseline: (sim.descriptors(), sim.watched()),
            world,
            is_behind_front: addresses.contains(&FRONT),
            talkers: Vec::new(),
            lines: 0,
            announced: Vec::new(),
            last: Vec::new(),
            jobs: 0,
            signals: 0,
            patient: true,
        })
    }

    /// A client connects; which it is.
    pub fn join(&mut self) -> usize {
        self.join_at(0)
    }

    /// A client connects to another listener.
    pub fn join_at(&mut self, listener: usize) -> usize {
        let client = self.world.sim.connect(&self.address(listener));
        let named = SocketAddr::from(([192, 0, 2, 1], self.talkers.len() as u16));
        self.enter(client.ok(), named)
    }

    /// A client connects from the `last` of some hosts.
    pub fn join_from(&mut self, last: u8) -> usize {
        let port = 1_000 + self.talkers.len() as u16;
        let from = SocketAddr::from(([10, 0, 0, last], port));
        let client = self.world.sim.connect_from(&self.address(0), from);
        self.enter(client.ok(), from)
    }

    pub fn address(&self, listener: usize) -> Address {
        let addresses = self.world.server.addresses();
        addresses[listener % addresses.len()].clone()
    }

    /// A client is there. If it came through a front, that has `named` it.
    fn enter(&mut self, client: Option<Client>, named: SocketAddr) -> usize {
        let left = client.is_none();
        let mut peer = client.as_ref().map(Client::address);
        let mut preface = Vec::new();
        if self.is_behind_front {
            peer = peer.map(|_| Peer::Tcp(named));
            preface = proxy_header::write(Some(named), None);
        }
        self.talkers.push(Talker {
            preface,
            connection: client.as_ref().and_then(Client::connection),
            held: false,
            peer,
            client,
            unsent: Vec::new(),
            sent: Vec::new(),
            received: Vec::new(),
            ends: false,
            ended: false,
            ends_late: false,
            deaf: false,
            left,
            eof: false,
            reset: false,
            caught_up: self.world.sim.now(),
            dawdled: false,
        });
        let who = self.talkers.len() - 1;
        self.talkers[who].push();
        who
    }

    /// A client says a line, unlike any other, that begins with each of `kinds`.
    pub fn say(&mut self, who: usize, kinds: &str) {
        for kind in kinds.chars() {
            self.lines += 1;
            let line = format!("{kind}{who:02} line {}\n", self.lines);
            self.talkers[who].unsent.extend(line.bytes());
        }
        self.talkers[who].push();
    }

    /// A client says something that is no whole line.
    pub fn mumble(&mut self, who: usize, words: &str) {
        self.talkers[who].unsent.extend(words.bytes());
        self.talkers[who].push();
    }

    /// A client says a line in which `#` stands for a number unlike any other.
    pub fn command(&mut self, who: usize, words: &str) {
        self.lines += 1;
        let line = words.replace('#', &self.lines.to_string());
        self.mumble(who, &(line + "\n"));
    }

    /// A client says the first half of its line, and the rest after a while.
    pub fn hesitate(&mut self, who: usize) {
        self.mumble(who, &format!(">{who:02} wai"));
        self.pass(50);
        self.lines += 1;
        self.mumble(who, &format!("ted {}\n", self.lines));
    }

    /// A client ends its direction.
    pub fn end(&mut self, who: usize) {
        self.talkers[who].ends = true;
        self.talkers[who].push();
    }

    pub fn hear(&mut self, who: usize, most: usize) {
        self.talkers[who].hear(most, self.world.sim.now());
    }

    /// A client goes, with a reset or not, whatever it is owed.
    pub fn leave(&mut self, who: usize, with_reset: bool) {
        let talker = &mut self.talkers[who];
        talker.left = true;
        if let Some(mut client) = talker.client.take()
            && with_reset
        {
            client.reset();
        }
    }

    /// A client says one more line, resets, and is to be heard if its kernel took it.
    pub fn last_words(&mut self, who: usize) {
        let before = self.talkers[who].sent.len();
        self.say(who, ">");
        let words = self.talkers[who].sent[before..].to_vec();
        self.last.extend(words.ends_with(b"\n").then_some((who, words)));
        self.leave(who, true);
    }

    /// The link of a client is clogged for a while.
    pub fn clog(&mut self, who: usize, millis: u64) {
        self.slow = true;
        if let Some(client) = &self.talkers[who].client {
            client.clog(Duration::from_millis(millis));
        }
    }

    pub fn unclog(&mut self, who: usize) {
        self.talkers[who].client.iter().for_each(Client::unclog);
    }

    /// Somebody asks how it is going.
    pub fn ask_for_report(&mut self) {
        self.reports += 1;
        self.world.sim.signal(Signal::SIGUSR1);
    }

    pub fn signal(&mut self, signal: Signal) {
        self.signals += 1;
        self.world.sim.signal(signal);
    }

    /// Somebody outside sends a line to all.
    pub fn announce(&mut self) {
        self.lines += 1;
        let line = format!("!house {}\n", self.lines).into_bytes();
        self.announced.push(line.clone());
        self.call(move |net| {
            if P::IN_LINES {
                broadcast(net, &line);
            }
        });
    }

    /// Somebody outside pauses a client, or lets it go on.
    pub fn hold(&mut self, who: usize, held: bool) {
        let peer = self.talkers[who].peer;
        self.talkers[who].held = true;
        self.call(move |net| {
            let all: Vec<ConnId> = net.ids().collect();
            for id in all {
                match net.conn(id) {
                    Some(mut conn) if Some(conn.peer()) == peer && held => conn.pause(),
                    Some(mut conn) if Some(conn.peer()) == peer => conn.resume(),
                    _ => {}
                }
            }
        });
    }

    /// Makes a call through a handle. (Which thread does it shows nowhere in the world.)
    fn call(&mut self, job: impl FnOnce(&mut Net) + Send + 'static) {
        let call = self.world.server.handle().call(move |watched: &mut Watched<P>, net| {
            watched.jobs += 1;
            job(net);
        });
        self.jobs += u64::from(call.is_ok());
        self.world.note();
    }

    /// Milliseconds pass, and who has something to say says it.
    pub fn pass(&mut self, millis: u64) {
        self.world.pass(Duration::from_millis(millis));
        while self.talkers.iter_mut().map(Talker::push).sum::<usize>() > 0 {
            self.world.rest();
        }
    }

    /// The server turns once, if there is anything to do.
    pub fn turn(&mut self) {
        if self.world.running && (self.world.sim.is_ready() || !self.world.server.is_idle()) {
            self.world.turn();
        }
    }

    /// Milliseconds pass in which the server does not run.
    pub fn leap(&mut self, millis: u64) {
        self.world.sim.advance(Duration::from_millis(millis));
    }

    /// Milliseconds pass, and who is not deaf hears all; how much that was.
    pub fn listen(&mut self, millis: u64) -> usize {
        self.pass(millis);
        let (mut heard, mut sum) = (1, 0);
        while heard > 0 {
            let now = self.world.sim.now();
            let all = self.talkers.iter_mut().filter(|talker| !talker.deaf);
            heard = all.map(|talker| talker.hear(usize::MAX, now)).sum();
            sum += heard;
            self.world.pass(3 * self.delay);
            self.pass(0);
        }
        sum
    }

    /// Whether somebody wanted the server to stop.
    pub fn is_stopping(&self) -> bool {
        self.signals > 0 || self.world.server.handler().part.has_stopped()
    }
}

/// The names that a replay line uses.
pub const TIMES: [(&str, Times); 3] =
    [("once", Times::Once), ("burst", Times::Burst(3)), ("healed", Times::UntilHealed)];
pub const SHORTS: [(&str, Short); 3] =
    [("full", Short::Full), ("byte", Short::AtMost(1)), ("random", Short::Random)];

/// How bytes move.
#[derive(Clone, Copy)]
pub struct Way {
    pub name: &'static str,
    pub short: Short,
    pub delay: Duration,
}

const fn way((name, short): (&'static str, Short), millis: u64) -> Way {
    Way { name, short, delay: Duration::from_millis(millis) }
}

pub const WAYS: [Way; 4] =
    [way(SHORTS[0], 0), way(SHORTS[1], 0), way(SHORTS[2], 0), way(("late", Short::Full), 4)];

/// The errno with this name, among those that are ever injected.
pub fn errno_named(name: &str) -> Option<Errno> {
    let all = Method::ALL.iter().flat_map(|&method| errnos(method));
    all.copied().find(|errno| format!("{errno:?}") == name)
}

/// What a server that was killed leaves.
pub fn leave_stale_file(sim: &Simulated) {
    use threadbare::kernel::{Address, Kernel};
    let mut kernel = sim.clone();
    let address = Address::Unix(UNIX.trim_start_matches("unix:").into());
    let fd = kernel.socket(&address).unwrap();
    kernel.bind(&fd, &address).unwrap();
    kernel.close(fd).unwrap();
}
