//! Clients whose every byte is accounted for, on a server that does what they say, and
//! what must hold of all of them in the end, whatever went wrong meanwhile.

use super::World;
use super::journal::{Journal, errnos};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;
use threadbare::kernel::sim::{Client, Method, Short, Simulated, Times};
use threadbare::reaction::Reaction;
use threadbare::{
    CloseReason, Conn, ConnId, ConnectionHandler, Errno, Error, Limits, Net, Peer, Signal,
};

/// A line that begins with `*` is answered so often.
const ECHOES: usize = 8;

/// Answers each line with itself, in a way that its first byte chooses.
#[derive(Default)]
pub struct Chorus {
    pub opened: u64,
    pub closed: Vec<CloseReason>,
    /// Calls from a handle that were made.
    pub jobs: u64,
    /// All lines that came.
    heard: BTreeSet<Vec<u8>>,
}

impl ConnectionHandler for Chorus {
    /// A line that is answered later.
    type Session = Vec<u8>;

    fn on_open(&mut self, _: &mut Conn<'_>, _: &mut Vec<u8>) {
        self.opened += 1;
    }

    fn on_data(&mut self, conn: &mut Conn<'_>, later: &mut Vec<u8>, input: &[u8]) -> usize {
        let mut consumed = 0;
        for line in input.split_inclusive(|&byte| byte == b'\n') {
            if conn.is_full() || !line.ends_with(b"\n") || !later.is_empty() {
                break;
            }
            consumed += line.len();
            self.heard.insert(line.to_vec());
            match line[0] {
                b'*' => (0..ECHOES).for_each(|_| conn.write(line)),
                b'!' => broadcast(conn.net(), line),
                b'z' => {
                    later.extend(line);
                    conn.pause();
                    conn.set_timer(Some(Duration::from_secs(1)));
                }
                b'x' => {
                    conn.write(line);
                    conn.close();
                    break;
                }
                b'a' => {
                    conn.abort();
                    break;
                }
                _ => conn.write(line),
            }
        }
        consumed
    }

    fn on_timer(&mut self, conn: &mut Conn<'_>, later: &mut Vec<u8>) {
        conn.write(&std::mem::take(later));
        conn.resume();
    }

    fn on_eof(&mut self, conn: &mut Conn<'_>, _: &mut Vec<u8>, rest: &[u8]) {
        if !rest.is_empty() {
            conn.write(rest);
            conn.write(b"\n");
        }
        conn.close();
    }

    fn on_close(&mut self, _: &mut Net, _: ConnId, _: Vec<u8>, why: CloseReason) {
        self.closed.push(why);
    }
}

pub fn broadcast(net: &mut Net, line: &[u8]) {
    let all: Vec<ConnId> = net.ids().collect();
    for id in all {
        net.send(id, line);
    }
}

/// A client and the accounts it keeps.
pub struct Talker {
    client: Option<Client>,
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
}

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
    fn hear(&mut self, most: usize) -> usize {
        let Some(client) = &mut self.client else { return 0 };
        let heard = client.recv_at_most(most);
        self.eof = client.saw_eof();
        self.reset = client.saw_reset() || client.error() == Some(Errno::ECONNREFUSED);
        self.received.extend(&heard);
        heard.len()
    }

    /// The answers it is owed, in order: those to its lines, then that to the rest.
    fn due(&self) -> (Vec<&[u8]>, Option<Vec<u8>>) {
        let mut due = Vec::new();
        for line in self.sent.split_inclusive(|&byte| byte == b'\n') {
            match line[0] {
                _ if !line.ends_with(b"\n") => {
                    let rest = self.ended.then(|| [line, b"\n"].concat());
                    return (due, rest);
                }
                b'*' => due.extend([line; ECHOES]),
                b'a' => break,
                b'x' => {
                    due.push(line);
                    break;
                }
                _ => due.push(line),
            }
        }
        (due, None)
    }

    fn is_established(&self) -> bool {
        self.client.as_ref().is_some_and(Client::established)
    }

    /// What it has cannot be taken for a whole answer. (A Unix socket knows no reset.)
    fn has_no_whole_answer(&self) -> bool {
        let unix = self.client.as_ref().is_none_or(|client| client.address() == Peer::Unix);
        self.reset || self.received.is_empty() || unix
    }

    /// Which line of its own ended it, if one did: `x` or `a`.
    fn last_word(&self) -> Option<u8> {
        let mut lines = self.sent.split_inclusive(|&byte| byte == b'\n');
        let last = lines.find(|line| line.ends_with(b"\n") && matches!(line[0], b'a' | b'x'));
        last.map(|line| line[0])
    }
}

/// A server, its clients, and what they did.
pub struct Stage {
    pub world: World<Chorus>,
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
    /// Starts the server. With little room on the way, so that few bytes fill it.
    pub fn open(sim: &Simulated, address: &str, limits: Limits) -> Result<Stage, Error> {
        sim.set_buffers(48, 48);
        let mut world = World::at(address, sim.clone(), Chorus::default(), limits)?;
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
        self.talkers[who].hear(most);
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
        let call = self.world.server.handle().call(move |chorus: &mut Chorus, net| {
            chorus.jobs += 1;
            broadcast(net, &line);
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

    /// Milliseconds pass, and who is not deaf hears all.
    pub fn listen(&mut self, millis: u64) {
        self.pass(millis);
        let mut heard = 1;
        while heard > 0 {
            let all = self.talkers.iter_mut().filter(|talker| !talker.deaf);
            heard = all.map(|talker| talker.hear(usize::MAX)).sum();
            self.pass(0);
        }
    }

    // ---- the end -------------------------------------------------------------------

    /// No more faults: all must come to rest, and all accounts must balance.
    pub fn finale(mut self) -> Verdict<Outcome> {
        let sim = self.world.sim.clone();
        sim.heal();
        for _ in 0..6 {
            self.listen(1_000);
        }
        for who in 0..self.talkers.len() {
            match self.talkers[who].deaf {
                true => self.leave(who, true), // others may wait for its place
                false => self.end(who),
            }
        }
        for _ in 0..self.talkers.len() {
            self.listen(2_000); // each may have waited for the place of the one before
        }
        if self.world.failure.is_none() {
            self.judge_clients()?;
        }
        self.talkers.iter_mut().for_each(|talker| talker.client = None);
        self.pass(10_000);
        let stops = self.signals > 0 || self.world.note().has(Reaction::FailRuntime);
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
        let turned_away = self.signals > 0 && self.world.note().strikes().any(accepting);
        for (who, talker) in self.talkers.iter().enumerate() {
            let complete = self.judge_bytes(who)?;
            let touched = touched.get(&who);
            let never_in = self.signals > 0 && !talker.is_established();
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
                None if talker.last_word() == Some(b'a') => {
                    ensure!(talker.has_no_whole_answer(), "no reset: {}", story());
                }
                // Who talks on after the end, and does not hear it, is reset after a while.
                None if complete && talker.last_word() == Some(b'x') => {}
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

    /// Whether a client has all it is owed; what it has is right in any case.
    fn judge_bytes(&self, who: usize) -> Verdict<bool> {
        let talker = &self.talkers[who];
        let (lines, rest) = talker.due();
        let mut due = lines.into_iter().chain(rest.as_deref()).peekable();
        let mut others = self.broadcasts(who);
        for line in talker.received.split_inclusive(|&byte| byte == b'\n') {
            let whole = line.ends_with(b"\n");
            let fits =
                |wanted: &[u8]| if whole { wanted == line } else { wanted.starts_with(line) };
            if due.peek().is_some_and(|wanted| fits(wanted)) {
                if whole {
                    due.next();
                }
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
                due.peek().map(|wanted| String::from_utf8_lossy(wanted)),
            );
        }
        // A stop drops what is no whole line.
        Ok(due.next().is_none() || self.signals > 0 && due.next().is_none() && rest.is_some())
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
