//! Clients whose every byte is accounted for, on a server that does what they say, and
//! what must hold of all of them in the end, whatever went wrong meanwhile.

use super::World;
use super::journal::{Journal, errnos};
use super::parts::{Chorus, Ending, Part, Watched};
use std::path::Path;
use std::time::Duration;
use threadbare::kernel::sim::{Client, Method, Short, Simulated, Times};
use threadbare::reaction::Reaction;
use threadbare::{ConnId, Errno, Error, Limits, Net, Peer, Signal};

pub fn broadcast(net: &mut Net, line: &[u8]) {
    let all: Vec<ConnId> = net.ids().collect();
    for id in all {
        net.send(id, line);
    }
}

/// A client and the accounts it keeps.
pub struct Talker {
    client: Option<Client>,
    peer: Option<Peer>,
    /// Said, and not yet taken by its kernel.
    unsent: Vec<u8>,
    sent: Vec<u8>,
    received: Vec<u8>,
    /// It ends its direction when all is sent.
    ends: bool,
    ended: bool,
    /// It never reads.
    pub deaf: bool,
    /// It went without waiting for its answers.
    pub left: bool,
    eof: bool,
    reset: bool,
    /// When it had last received all there was.
    caught_up: u64,
    /// It once left something unread for longer than a server lingers.
    dawdled: bool,
}

/// As long as a server that is done waits for a client that neither talks nor hears.
const PATIENCE: Duration = Duration::from_secs(2);

impl Talker {
    /// Sends what waits; how much its kernel took.
    fn push(&mut self) -> usize {
        let Some(client) = &mut self.client else { return 0 };
        let count = if self.unsent.is_empty() { 0 } else { client.send(&self.unsent) };
        self.sent.extend(self.unsent.drain(..count));
        let ends = self.ends && !self.ended && !self.eof && self.unsent.is_empty();
        if ends {
            client.shutdown();
            self.ended = true;
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

    fn is_established(&self) -> bool {
        self.client.as_ref().is_some_and(Client::established)
    }

    /// What it has cannot be taken for a whole answer. (A Unix socket knows no reset.)
    fn has_no_whole_answer(&self) -> bool {
        let unix = self.peer.is_none_or(|peer| peer == Peer::Unix);
        self.reset || self.received.is_empty() || unix
    }
}

/// A server, its clients, and what they did.
pub struct Stage<P: Part = Chorus> {
    pub world: World<Watched<P>>,
    pub talkers: Vec<Talker>,
    lines: usize,
    /// Lines that a call from a handle sent to all.
    announced: Vec<Vec<u8>>,
    /// Lines that must be heard, though their speakers reset the connection behind them.
    last: Vec<(usize, Vec<u8>)>,
    pub jobs: u64,
    pub signals: u32,
    /// Nobody is sent away for being slow.
    pub patient: bool,
    baseline: (usize, usize),
}

/// What was played, in figures.
pub struct Outcome {
    pub journal: Journal,
    pub turns: u64,
}

/// Why a case failed.
pub type Verdict<T> = Result<T, String>;

macro_rules! ensure {
    ($truth:expr, $($why:tt)*) => { if !$truth { return Err(format!($($why)*)); } };
}

pub const UNIX: &str = "unix:/run/stage";

impl Stage {
    pub fn open(sim: &Simulated, address: &str, limits: Limits) -> Result<Stage, Error> {
        Stage::with(Chorus, sim, address, limits)
    }
}

impl<P: Part> Stage<P> {
    /// Starts the server. With little room on the way, so that few bytes fill it.
    pub fn with(part: P, sim: &Simulated, address: &str, limits: Limits) -> Result<Self, Error> {
        sim.set_buffers(48, 48);
        let mut world = World::at(address, sim.clone(), Watched::new(part), limits)?;
        world.note();
        Ok(Stage {
            baseline: (sim.descriptors(), sim.watched()),
            world,
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
        let client = self.world.sim.connect(&self.world.address()).ok();
        let left = client.is_none();
        self.talkers.push(Talker {
            peer: client.as_ref().map(Client::address),
            client,
            unsent: Vec::new(),
            sent: Vec::new(),
            received: Vec::new(),
            ends: false,
            ended: false,
            deaf: false,
            left,
            eof: false,
            reset: false,
            caught_up: self.world.sim.now(),
            dawdled: false,
        });
        self.talkers.len() - 1
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

    /// A client says the first half of its line, and the rest after a while.
    pub fn hesitate(&mut self, who: usize) {
        self.mumble(who, &format!(">{who:02} wai"));
        self.pass(50);
        self.mumble(who, "ted\n");
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

    /// A client says one more line, resets, and is to be heard.
    pub fn last_words(&mut self, who: usize) {
        let before = self.talkers[who].sent.len();
        self.say(who, ">");
        self.last.push((who, self.talkers[who].sent[before..].to_vec()));
        self.leave(who, true);
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
        let call = self.world.server.handle().call(move |watched: &mut Watched<P>, net| {
            watched.jobs += 1;
            if P::IN_LINES {
                broadcast(net, &line);
            }
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

    /// Milliseconds pass, and who is not deaf hears all; how much that was.
    pub fn listen(&mut self, millis: u64) -> usize {
        self.pass(millis);
        let (mut heard, mut sum) = (1, 0);
        while heard > 0 {
            let now = self.world.sim.now();
            let all = self.talkers.iter_mut().filter(|talker| !talker.deaf);
            heard = all.map(|talker| talker.hear(usize::MAX, now)).sum();
            sum += heard;
            self.pass(0);
        }
        sum
    }

    // ---- the end -------------------------------------------------------------------

    /// No more faults: all must come to rest, and all accounts must balance.
    pub fn finale(mut self) -> Verdict<Outcome> {
        let sim = self.world.sim.clone();
        sim.heal();
        self.settle(6)?;
        for who in 0..self.talkers.len() {
            match self.talkers[who].deaf {
                true => self.leave(who, true), // others may wait for its place
                false => self.end(who),
            }
        }
        for _ in 0..self.talkers.len() {
            self.settle(2)?; // each may have waited for the place of the one before
        }
        if self.world.failure.is_none() {
            self.judge_clients()?;
        }
        self.talkers.iter_mut().for_each(|talker| talker.client = None);
        self.pass(10_000);
        let stops = self.is_stopping() || self.world.note().has(Reaction::FailRuntime);
        if self.world.running && !stops {
            let now = (sim.descriptors(), sim.watched());
            let lost = self.is_fatal();
            ensure!(lost || now == self.baseline, "left behind: {now:?}, {:?}", self.baseline);
            let (made, of) = (self.world.server.handler().jobs, self.jobs);
            // EAGAIN tells of a wake-up that is pending, and here it is not.
            let unrung = (Method::WriteCounter, Errno::EAGAIN);
            let lied = self.world.note().strikes().any(|strike| strike == unrung);
            ensure!(lost || lied || made == of, "{made} of {of} calls were made");
        }
        if self.world.running && !stops {
            self.signal(Signal::SIGTERM);
        }
        self.world.pass(Duration::from_secs(60));
        ensure!(!self.world.running, "it did not stop");
        self.judge_server()?;
        let Stage { world, .. } = self;
        let (turns, journal) = (world.turns, world.journal.unwrap_or_default());
        drop(world.server);
        ensure!(sim.descriptors() == 0, "{} descriptors leaked", sim.descriptors());
        let file = sim.file(Path::new(UNIX.trim_start_matches("unix:")));
        let kept =
            journal.strikes().any(|(method, _)| matches!(method, Method::Lstat | Method::Unlink));
        ensure!(file.is_none() || kept, "the file of the Unix socket is still there");
        Ok(Outcome { journal, turns })
    }

    /// Listens for some seconds, and then until two have passed in silence.
    fn settle(&mut self, seconds: u32) -> Verdict<()> {
        let (mut passed, mut quiet) = (0, 0);
        while passed < seconds || quiet < 2 {
            quiet = if self.listen(1_000) == 0 { quiet + 1 } else { 0 };
            passed += 1;
            ensure!(passed < 600, "no end of answers");
        }
        Ok(())
    }

    /// Whether somebody wanted the server to stop.
    fn is_stopping(&self) -> bool {
        self.signals > 0 || self.world.server.handler().part.has_stopped()
    }

    /// Whether the server had to stop by itself, or may have: a core descriptor failed.
    fn is_fatal(&mut self) -> bool {
        let journal = self.world.note();
        journal.has(Reaction::FailRuntime)
            || journal
                .common
                .iter()
                .any(|&(method, errno)| method == Method::EpollCtl && errno != Errno::ENOMEM as i32)
    }

    fn judge_clients(&mut self) -> Verdict<()> {
        let fatal = self.is_fatal();
        let forced = self.signals > 1;
        let touched = self.world.note().touched.clone();
        for (who, words) in self.last.iter().filter(|(who, _)| !touched.contains_key(who)) {
            let heard = fatal || self.world.server.handler().heard.contains(words);
            ensure!(heard, "the last words of client {who} were not heard");
        }
        let accepting = |(method, _)| matches!(method, Method::Accept4 | Method::Setsockopt);
        // Whom the end of a stop finds in the queue is reset.
        let turned_away = self.is_stopping() && self.world.note().strikes().any(accepting);
        for (who, talker) in self.talkers.iter().enumerate() {
            let (complete, ending) = self.judge_bytes(who)?;
            let touched = touched.get(&who);
            let never_in = self.is_stopping() && !talker.is_established();
            if talker.left || never_in {
                continue;
            }
            let story = || {
                format!(
                    "client {who}: sent {:?}, received {:?}, eof {}, reset {}, struck {touched:?}",
                    String::from_utf8_lossy(&talker.sent),
                    String::from_utf8_lossy(&talker.received),
                    talker.eof,
                    talker.reset,
                )
            };
            ensure!(talker.eof || talker.reset, "neither FIN nor reset: {}", story());
            if fatal || forced || !self.patient {
                continue;
            }
            match touched {
                None if ending == Some(Ending::Abort) => {
                    ensure!(talker.has_no_whole_answer(), "no reset: {}", story());
                }
                // Who talks on after the end, and does not hear it, is reset after a while.
                None if ending == Some(Ending::Close)
                    && (complete || talker.dawdled && talker.reset) => {}
                None if turned_away && talker.reset => {}
                None => {
                    ensure!(complete && talker.eof && !talker.reset, "untouched, but {}", story())
                }
                Some(strikes) => ensure!(
                    complete || talker.has_no_whole_answer() || strikes.iter().any(ends_it_anyway),
                    "a cut answer looks whole: {}",
                    story()
                ),
            }
        }
        Ok(())
    }

    /// Whether a client has all it is owed, and how the handler ended it; what it has is
    /// right in any case.
    fn judge_bytes(&self, who: usize) -> Verdict<(bool, Option<Ending>)> {
        let talker = &self.talkers[who];
        let part = &self.world.server.handler().part;
        let due = part.due(talker.peer, &talker.sent, talker.ended);
        let received = part.essence(&talker.received);
        let mut answers = due.answers.iter().peekable();
        let mut others = self.broadcasts(who);
        for line in received.split_inclusive(|&byte| byte == b'\n') {
            let whole = line.ends_with(b"\n");
            let fits =
                |wanted: &[u8]| if whole { wanted == line } else { wanted.starts_with(line) };
            if answers.peek().is_some_and(|wanted| fits(wanted)) {
                answers.next_if(|wanted| *wanted == line);
                continue;
            }
            // The broadcasts of each come in order, though not all need to.
            let found = others.iter_mut().any(|lines| {
                let place = lines.iter().position(|wanted| fits(wanted));
                place.map(|place| lines.drain(..=place)).is_some()
            });
            ensure!(
                found,
                "client {who} received {:?} instead of {:?}",
                String::from_utf8_lossy(line),
                answers.peek().map(|wanted| String::from_utf8_lossy(wanted)),
            );
        }
        // A stop drops what is no whole line.
        let dropped = usize::from(self.is_stopping() && due.to_rest);
        Ok((answers.count() <= dropped, due.ending))
    }

    /// What others said to all, by speaker.
    fn broadcasts(&self, who: usize) -> Vec<Vec<&[u8]>> {
        let others = self.talkers.iter().enumerate().filter(|(other, _)| *other != who);
        let said = others.map(|(_, talker)| {
            let lines = talker.sent.split_inclusive(|&byte| byte == b'\n');
            lines.filter(|line| line.starts_with(b"!")).collect()
        });
        said.chain([self.announced.iter().map(Vec::as_slice).collect()]).collect()
    }

    fn judge_server(&mut self) -> Verdict<()> {
        let failed = self.world.failure.clone();
        let finished = self.world.server.finish();
        let chorus = self.world.server.handler();
        let (opened, closed) = (chorus.opened, chorus.closed.len() as u64);
        let fatal = self.is_fatal();
        if let Some(error) = failed.as_ref().or(finished.as_ref().err()) {
            let journal = self.world.note();
            let added_again = |errno| errno == Errno::ENOENT && error.errno == Errno::EEXIST;
            let known =
                journal.strikes().any(|(_, errno)| errno == error.errno || added_again(errno));
            ensure!(known && fatal, "it ended with {error}");
            return Ok(());
        }
        ensure!(opened == closed, "{opened} opened, {closed} closed");
        let counters = finished.map_err(|error| error.to_string())?.counters;
        let sum: u64 = counters.closed.iter().sum();
        ensure!(counters.accepted == sum, "accepted is not closed: {counters}");
        let journal = self.world.note();
        // What is watched is not ENOENT: it is added again, which is EEXIST.
        let unwatched = journal.strikes().any(|strike| strike == (Method::EpollCtl, Errno::ENOENT));
        let may_be_wrong = unwatched || journal.has(Reaction::Bug);
        ensure!(counters.bugs == 0 || may_be_wrong, "{counters}");
        Ok(())
    }
}

/// Whether no FIN can follow in the real world: the connection is dead, or could not be
/// told to end with a reset.
fn ends_it_anyway(&(method, errno): &(Method, i32)) -> bool {
    use Errno::*;
    let dead = [
        ECONNRESET,
        EPIPE,
        ETIMEDOUT,
        ECONNREFUSED,
        ENOTCONN,
        EHOSTUNREACH,
        ENETUNREACH,
        ENETDOWN,
        ECONNABORTED,
    ];
    let told = matches!(method, Method::Recv | Method::Send);
    method == Method::Setsockopt || told && dead.contains(&Errno::from_raw(errno))
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

/// Whether a failed start says what failed, and left nothing open.
pub fn judge_start(sim: &Simulated, error: &Error) -> Verdict<Outcome> {
    ensure!(sim.descriptors() == 0, "a failed start leaks: {error}");
    let trace = sim.trace();
    let mut journal = Journal::default();
    journal.after(sim);
    let mut struck = trace.iter().filter(|call| call.injected);
    let named = |call: &threadbare::kernel::sim::Call| {
        let name = call.method.name().trim_start_matches('f');
        call.result == Err(error.errno) && error.call.name() == name
    };
    // Whatever kept it from proving that the file is stale, the address is in use.
    let in_use = error.errno == Errno::EADDRINUSE && error.call.name() == "bind";
    ensure!(in_use || struck.any(named), "the start failed with {error}");
    Ok(Outcome { journal, turns: 0 })
}

/// The names that a replay line uses.
pub const TIMES: [(&str, Times); 3] =
    [("once", Times::Once), ("burst", Times::Burst(3)), ("healed", Times::UntilHealed)];
pub const SHORTS: [(&str, Short); 3] =
    [("full", Short::Full), ("byte", Short::AtMost(1)), ("random", Short::Random)];

/// The errno with this name, among those that are ever injected.
pub fn errno_named(name: &str) -> Option<Errno> {
    let all = Method::ALL.iter().flat_map(|&method| errnos(method));
    all.copied().find(|errno| format!("{errno:?}") == name)
}
