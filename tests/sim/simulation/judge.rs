//! What must hold in the end, whatever went wrong: the invariants, after every case.
//!
//! - What a client has received is a prefix of what it is owed, byte for byte, beside
//!   what others said to all. Who was not struck has it all, and FIN; who was struck has
//!   it all, or cannot take what it has for the whole.
//! - When all have gone, descriptors, the epoll set and the memory are as they were at
//!   first, and whoever comes now is served.
//! - The server stops; each connection that it accepted has been closed, for one reason;
//!   the summary says why it ended, or the error names the call, its object and the errno.
//! - The log has a line an episode. The file of a Unix socket is gone.

use super::diary;
use super::journal::{Journal, roles};
use super::parts::{Due, Ending, Part};
use super::stage::{Outcome, Stage, Talker, UNIX, Verdict};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use threadbare::kernel::sim::{Method, Short, Simulated, take_ledger};
use threadbare::reaction::Reaction;
use threadbare::{Address, CloseReason, Errno, Error, Peer, Signal, Summary, proxy_header};

macro_rules! ensure {
    ($truth:expr, $($why:tt)*) => { if !$truth { return Err(format!($($why)*)); } };
}

impl<P: Part> Stage<P> {
    /// No more faults: all must come to rest, and all accounts must balance.
    pub fn finale(mut self) -> Verdict<Outcome> {
        let sim = self.world.sim.clone();
        let before_healing = self.heal();
        self.settle(6)?;
        for who in 0..self.talkers.len() {
            match self.talkers[who].deaf {
                true => self.leave(who, true), // others may wait for its place
                false => {
                    self.talkers[who].ends_late = true;
                    self.end(who);
                }
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
            self.judge_rest()?;
            self.signal(Signal::SIGTERM);
        }
        self.world.pass(Duration::from_secs(60));
        ensure!(!self.world.running, "it did not stop");
        self.judge_server()?;
        let minutes = (sim.now() - self.begun) / 60_000_000_000;
        let Stage { world, .. } = self;
        let (turns, mut journal) = (world.turns, world.journal.unwrap_or_default());
        journal.before_the_end();
        drop(world.server);
        journal.after(&sim);
        ensure!(sim.descriptors() == 0, "{} descriptors leaked", sim.descriptors());
        let (unasked, _) = take_ledger();
        ensure!(unasked.is_empty(), "the table was not asked: {unasked:?}");
        let file = sim.file(Path::new(UNIX.trim_start_matches("unix:")));
        // What cannot be looked at, or removed, stays.
        let keeps = [Method::Lstat, Method::Unlink];
        let kept = journal.strikes().any(|(method, _)| keeps.contains(&method));
        ensure!(file.is_none() || kept, "the file of the Unix socket is still there");
        diary::judge(&journal, minutes)?;
        let before_healing = before_healing.unwrap_or(journal.calls.len());
        Ok(Outcome { journal, turns, before_healing })
    }

    /// Ends all faults, and frees all links; how many calls were made before. Not if the
    /// server has failed: then what its end gives back may fail as well.
    fn heal(&mut self) -> Option<usize> {
        (0..self.talkers.len()).for_each(|who| self.unclog(who));
        self.world.note();
        if self.world.failure.is_some() {
            return None;
        }
        self.world.sim.heal();
        self.world.journal.as_ref().map(|journal| journal.calls.len())
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

    fn is_fatal(&mut self) -> bool {
        self.world.note().is_fatal()
    }

    fn judge_clients(&mut self) -> Verdict<()> {
        let (fatal, stops) = (self.is_fatal(), self.is_stopping());
        let forced = self.signals > 1;
        self.world.note();
        let Some(journal) = &self.world.journal else { return Ok(()) };
        let struck = |talker: &Talker| journal.struck_at(talker.connection);
        // Whom the end of a stop finds in the queue is reset; and, if others were in the way,
        // whose answers are still on theirs.
        let accepting = |(method, _)| matches!(method, Method::Accept4 | Method::Setsockopt);
        let late = self.slow && journal.struck > 0;
        let cut = stops && (late || journal.strikes().any(accepting));
        let watched = self.world.server.handler();
        for (who, words) in &self.last {
            let heard = fatal || watched.heard.contains(words);
            let talker = &self.talkers[*who];
            ensure!(heard || struck(talker).is_some(), "the last words of {who} were not heard");
        }
        for (who, talker) in self.talkers.iter().enumerate() {
            let (complete, ending) = self.judge_bytes(who)?;
            let touched = struck(talker);
            let never_in = stops && !talker.is_established();
            // It stays paused if the call that was to end this was never made.
            let held = talker.held && watched.jobs < self.jobs;
            if talker.left || never_in || held {
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
            if self.is_turned_away(talker) {
                ensure!(talker.received.is_empty(), "who is turned away is answered: {}", story());
                continue;
            }
            if fatal || forced || !self.patient {
                continue;
            }
            match touched {
                None if ending == Some(Ending::Abort) => {
                    ensure!(talker.has_no_whole_answer(), "no reset: {}", story());
                }
                None if ending == Some(Ending::LateAbort) => {
                    ensure!(complete || talker.has_no_whole_answer(), "a cut one: {}", story());
                }
                // Who talks on after the end, and does not hear it, is reset after a while;
                // before he has heard all, if he dawdles, or his link is clogged.
                None if ending == Some(Ending::Close)
                    && (complete || (talker.dawdled || self.slow) && talker.reset) => {}
                None if cut && talker.reset => {}
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

    /// Whether its address had as many connections as it may have, or what its front says of it
    /// did not come in time.
    fn is_turned_away(&self, talker: &Talker) -> bool {
        let met = &self.world.server.handler().met;
        let stranger = talker.peer.is_some_and(|peer| peer != Peer::Unix && !met.contains(&peer));
        let is_late = self.is_behind_front && self.slow && talker.reset;
        (self.limits.max_per_address > 0 || is_late) && stranger
    }

    /// What a client is owed. Where things take time, a stop finds some of what was said
    /// still under way: that came too late.
    fn due(&self, talker: &Talker) -> Due {
        let watched = self.world.server.handler();
        let mut came = talker.sent.len();
        if P::SERVES_ALL && self.slow && self.is_stopping() {
            let lines = talker.sent.split_inclusive(|&byte| byte == b'\n');
            came = lines.take_while(|line| watched.heard.contains(*line)).map(<[u8]>::len).sum();
        }
        let (sent, all) = (&talker.sent[..came], came == talker.sent.len());
        watched.part.due(talker.peer, sent, all && talker.ended)
    }

    /// Whether a client has all it is owed, and how the handler ended it; what it has is
    /// right in any case.
    fn judge_bytes(&self, who: usize) -> Verdict<(bool, Option<Ending>)> {
        let talker = &self.talkers[who];
        let part = &self.world.server.handler().part;
        let owed = self.due(talker);
        let due = part.due(talker.peer, &talker.sent, talker.ended);
        let received = part.essence(&talker.received);
        let mut answers = due.answers.iter().peekable();
        let mut others = self.broadcasts(who);
        let mut is_known = vec![false; others.len()];
        for line in received.split_inclusive(|&byte| byte == b'\n') {
            let whole = line.ends_with(b"\n");
            let fits =
                |wanted: &[u8]| if whole { wanted == line } else { wanted.starts_with(line) };
            if answers.peek().is_some_and(|wanted| fits(wanted)) {
                answers.next_if(|wanted| *wanted == line);
                continue;
            }
            // The broadcasts of each come in order, though not all need to.
            let found = others.iter_mut().zip(&mut is_known).any(|(lines, is_known)| {
                let most = if P::TELLS_ALL && *is_known { 1 } else { usize::MAX };
                let place = lines.iter().take(most).position(|wanted| fits(wanted));
                *is_known |= place.is_some();
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
        let dropped = usize::from(self.is_stopping() && owed.to_rest);
        let answered = due.answers.len() - answers.count();
        Ok((answered + dropped >= owed.answers.len(), due.ending))
    }

    /// What others said to all, by speaker.
    fn broadcasts(&self, who: usize) -> Vec<Vec<Vec<u8>>> {
        let part = &self.world.server.handler().part;
        let others = self.talkers.iter().enumerate().filter(|(other, _)| *other != who);
        let told = others.map(|(_, talker)| part.told(&talker.sent, talker.ended || talker.left));
        told.chain([self.announced.clone()]).collect()
    }

    /// All have gone, and the server runs: it is as it was at first, and serves.
    fn judge_rest(&mut self) -> Verdict<()> {
        if self.is_fatal() {
            return Ok(());
        }
        let sim = &self.world.sim;
        let now = (sim.descriptors(), sim.watched());
        // EAGAIN tells of a wake-up that is pending, and here it is not.
        let unrung = (Method::WriteCounter, Errno::EAGAIN);
        let lied = self.world.note().strikes().any(|strike| strike == unrung);
        let (made, of) = (self.world.server.handler().jobs, self.jobs);
        ensure!(lied || made == of, "{made} of {of} calls were made");
        if made < of {
            return Ok(()); // nobody has let go on who was paused
        }
        ensure!(now == self.baseline, "left behind: {now:?}, {:?}", self.baseline);
        let memory = self.world.server.memory();
        ensure!(memory == (0, 0), "{memory:?} bytes are in use");
        // Signals that come together count as one.
        let (report, asked) = (diary::count(" open, holding "), self.reports);
        let unread = self.world.note().strikes().any(|(method, _)| method == Method::ReadSignal);
        let reported = report <= asked && (report > 0 || asked == 0);
        ensure!(unread || reported, "{report} reports of {asked}");
        if !P::SERVES_ALL {
            return Ok(());
        }
        for number in 0..self.world.server.addresses().len() {
            self.judge_visit(number)?;
        }
        Ok(())
    }

    /// Who comes now is served; from an address that others had, as many as may.
    fn judge_visit(&mut self, listener: usize) -> Verdict<()> {
        self.world.sim.shorten(Short::Full);
        self.world.sim.delay(Duration::ZERO);
        let address = self.address(listener);
        let mut visitors = Vec::new();
        for number in 0..self.limits.max_per_address.clamp(1, self.limits.max_connections) {
            let from = SocketAddr::from(([10, 0, 0, 1], 60_000 + number as u16));
            let client = match address {
                Address::Tcp(_) => self.world.sim.connect_from(&address, from),
                Address::Unix(_) => self.world.sim.connect(&address),
            };
            let client = client.map_err(|errno| format!("nobody at {address}: {errno}"));
            visitors.push(client?);
            if self.is_behind_front
                && let Some(client) = visitors.last_mut()
            {
                client.send(&proxy_header::write(Some(from), None));
            }
        }
        self.world.pass(Duration::from_millis(100));
        const HELLO: &[u8] = b">hello\n";
        for (number, visitor) in visitors.iter_mut().enumerate() {
            visitor.send(HELLO);
            self.world.pass(Duration::from_millis(10));
            let mut answer = visitor.recv();
            self.world.pass(Duration::from_millis(10));
            answer.extend(visitor.recv());
            let part = &self.world.server.handler().part;
            let due = part.due(Some(visitor.address()), HELLO, false).answers.concat();
            let told = HELLO.repeat(if P::TELLS_ALL { number } else { 0 });
            let answer = part.essence(&answer);
            ensure!(answer == [told, due].concat(), "{address} answers {answer:?}");
        }
        drop(visitors);
        self.world.pass(Duration::from_millis(100));
        Ok(())
    }

    fn judge_server(&mut self) -> Verdict<()> {
        let failed = self.world.failure.clone();
        let finished = self.world.server.finish();
        let watched = self.world.server.handler();
        let (opened, closed) = (watched.opened, watched.closed.len() as u64);
        let fatal = self.is_fatal();
        if failed.is_none() {
            let memory = self.world.server.memory();
            ensure!(opened == closed, "{opened} opened, {closed} closed");
            ensure!(memory == (0, 0), "{memory:?} bytes are in use at the end");
        }
        if let Some(error) = failed.as_ref().or(finished.as_ref().err()) {
            ensure!(fatal && self.world.note().explains(error), "it ended with {error}");
            ensure!(!diary::has(&error.to_string()), "told twice: {error}");
            return Ok(());
        }
        self.judge_summary(&finished.map_err(|error| error.to_string())?)
    }

    fn judge_summary(&mut self, summary: &Summary) -> Verdict<()> {
        let Summary { stopped_by, forced, cut, counters, .. } = summary;
        let sum: u64 = counters.closed.iter().sum();
        ensure!(counters.accepted == sum, "accepted is not closed: {counters}");
        let at_deadline = counters.closed_for(CloseReason::DrainDeadline);
        ensure!(*cut == at_deadline, "{cut} cut: {counters}");
        ensure!(!forced || self.signals > 1, "forced by {} signals", self.signals);
        let done = self.world.server.handler().part.has_stopped();
        ensure!(done || stopped_by.is_some() == (self.signals > 0), "{stopped_by:?} stopped it");
        let expected = (self.expect)(summary);
        let journal = self.world.note();
        ensure!(expected || journal.struck > 0, "unexpected: {summary:?}");
        ensure!(counters.bugs == 0 || journal.has(Reaction::Bug), "{counters}");
        Ok(())
    }
}

impl Journal {
    /// Whether the server had to stop by itself, or may have: a core descriptor failed.
    pub fn is_fatal(&self) -> bool {
        let watching = |&(method, _): &(Method, i32)| method == Method::EpollCtl;
        self.has(Reaction::FailRuntime) || self.common.iter().any(watching)
    }

    /// Whether the server may well end with this: the call was struck with that errno.
    pub fn explains(&self, error: &Error) -> bool {
        let named = |method| roles(method).iter().any(|call| call.name() == error.call.name());
        let mut strikes = self.strikes();
        !error.object.is_empty()
            && strikes.any(|(method, errno)| named(method) && errno == error.errno)
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
    let told = matches!(method, Method::Recv | Method::Send | Method::Sendmsg);
    method == Method::Setsockopt || told && dead.contains(&Errno::from_raw(errno))
}

/// Whether a failed start says what failed, and left nothing open.
pub fn judge_start(sim: &Simulated, error: &Error) -> Verdict<Outcome> {
    ensure!(sim.descriptors() == 0, "a failed start leaks: {error}");
    let (unasked, _) = take_ledger();
    ensure!(unasked.is_empty(), "the table was not asked: {unasked:?}");
    let trace = sim.trace();
    let mut journal = Journal::default();
    journal.after(sim);
    let mut struck = trace.iter().filter(|call| call.injected);
    let named = |call: &threadbare::kernel::sim::Call| {
        let name = match call.method {
            Method::Flock => "flock",
            Method::OpenAs => "openat2",
            Method::Fstat => "fstat",
            method => method.name().trim_start_matches('f'),
        };
        call.result == Err(error.errno) && error.call.name() == name
    };
    // Whatever kept it from proving that the file is stale, the address is in use.
    let in_use = error.errno == Errno::EADDRINUSE && error.call.name() == "bind";
    ensure!(in_use || struck.any(named), "the start failed with {error}");
    ensure!(diary::count("") == 0, "it logs and returns {error}");
    let before_healing = journal.calls.len();
    Ok(Outcome { journal, turns: 0, before_healing })
}
