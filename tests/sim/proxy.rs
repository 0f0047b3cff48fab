//! The proxy under the simulated kernel: plays of clients, servers and tunnels between
//! them × every call × every errno of that call, as `every_fault` has them.
//!
//! `CASE='dialogue:31:EPIPE:once:full' cargo test --test sim proxy::` replays
//! a case alone.

use crate::simulation::case::{Case, Repertoire};
use crate::simulation::judge::judge_start;
use crate::simulation::stage::{Outcome, Verdict, WAYS};
use crate::simulation::{World, diary};
use std::time::Duration;
use threadbare::handlers::Proxy;
use threadbare::kernel::sim::{Client, Method, Remote, Simulated};
use threadbare::reaction::Reaction;
use threadbare::{Address, CloseReason, Errno, Error, Limits, Signal, ToAddresses};

macro_rules! ensure {
    ($truth:expr, $($why:tt)*) => { if !$truth { return Err(format!($($why)*)); } };
}

/// Who speaks.
const CLIENT: usize = 0;
const SERVER: usize = 1;

/// A tunnel: both who talk through it, and the accounts of each.
#[derive(Default)]
struct Tunnel {
    ends: [Option<Client>; 2],
    unsent: [Vec<u8>; 2],
    said: [Vec<u8>; 2],
    heard: [Vec<u8>; 2],
    /// Ends when all is sent; has ended.
    ends_now: [bool; 2],
    ended: [bool; 2],
    eof: [bool; 2],
    reset: [bool; 2],
    /// Somebody went without waiting for the rest.
    left: bool,
}

impl Tunnel {
    fn push(&mut self, who: usize) -> usize {
        let Some(end) = &mut self.ends[who] else { return 0 };
        let count = if self.unsent[who].is_empty() { 0 } else { end.send(&self.unsent[who]) };
        self.said[who].extend(self.unsent[who].drain(..count));
        let ends = self.ends_now[who] && !self.ended[who] && self.unsent[who].is_empty();
        if ends {
            end.shutdown();
            self.ended[who] = true;
        }
        count + usize::from(ends)
    }

    fn hear(&mut self, who: usize, most: usize) -> usize {
        let Some(end) = &mut self.ends[who] else { return 0 };
        let heard = end.recv_at_most(most);
        self.eof[who] |= end.saw_eof();
        let ends = [Errno::EPIPE, Errno::ECONNREFUSED];
        self.reset[who] |= end.saw_reset() || end.error().is_some_and(|e| ends.contains(&e));
        self.heard[who].extend(&heard);
        heard.len()
    }
}

struct Play {
    world: World<Proxy>,
    remote: Option<Remote>,
    tunnels: Vec<Tunnel>,
    /// Servers that have not heard yet whose they are.
    strangers: Vec<Client>,
    stopped: bool,
    /// Time limits may have ended a tunnel.
    late: bool,
    begun: u64,
    baseline: (usize, usize),
}

const TCP: [&str; 2] = ["127.0.0.1:80", "127.0.0.1:90"];
const UNIX: [&str; 2] = ["unix:/run/front", "unix:/run/back"];

fn address(word: &str) -> Address {
    word.to_addresses().unwrap().remove(0)
}

impl Play {
    fn open(sim: &Simulated, scenario: &Scenario) -> Result<Play, Error> {
        sim.set_buffers(48, 48);
        let [front, back] = scenario.addresses;
        let dead = scenario.dead.then(|| address("127.0.0.1:91"));
        let upstreams: Vec<Address> = dead.into_iter().chain([address(back)]).collect();
        let limits = Limits {
            max_connections: 4,
            max_outbound: 4,
            high_water: 64,
            idle_timeout: Some(Duration::from_secs(40)),
            write_timeout: Some(Duration::from_secs(15)),
            drain_timeout: Some(Duration::from_secs(6)),
            ..Limits::default()
        };
        let handler = Proxy::new(upstreams, Duration::from_secs(3));
        let remote = Some(sim.listen(&address(back)).unwrap());
        diary::begin();
        let begun = sim.now();
        let mut world = World::at(front, sim.clone(), handler, limits)?;
        world.note();
        let baseline = (sim.descriptors(), sim.watched());
        let (tunnels, strangers) = Default::default();
        let (stopped, late) = (false, false);
        Ok(Play { world, remote, tunnels, strangers, stopped, late, begun, baseline })
    }

    /// A client connects, and says who it is.
    fn join(&mut self) -> usize {
        let who = self.tunnels.len();
        let client = self.world.sim.connect(&self.world.address()).ok();
        let left = client.is_none();
        self.tunnels.push(Tunnel { ends: [client, None], left, ..Tunnel::default() });
        self.say(who, CLIENT, &[b'a' + who as u8]);
        who
    }

    fn say(&mut self, tunnel: usize, who: usize, words: &[u8]) {
        self.tunnels[tunnel].unsent[who].extend(words);
        self.tunnels[tunnel].push(who);
    }

    /// Says so many bytes, unlike those of any other.
    fn speak(&mut self, tunnel: usize, who: usize, length: usize) {
        let words: Vec<u8> = (0..length).map(|i| (i * 7 + tunnel * 31 + who * 101) as u8).collect();
        self.say(tunnel, who, &words);
    }

    fn end(&mut self, tunnel: usize, who: usize) {
        self.tunnels[tunnel].ends_now[who] = true;
        self.tunnels[tunnel].push(who);
    }

    fn leave(&mut self, tunnel: usize, who: usize, with_reset: bool) {
        self.tunnels[tunnel].left = true;
        if let Some(mut end) = self.tunnels[tunnel].ends[who].take()
            && with_reset
        {
            end.reset();
        }
    }

    fn stop(&mut self) {
        self.stopped = true;
        self.world.sim.signal(Signal::SIGTERM);
    }

    /// Servers accept, and hear from whom they are.
    fn meet(&mut self) {
        if let Some(remote) = &mut self.remote {
            self.strangers.extend(std::iter::from_fn(|| remote.accept()));
        }
        for mut server in std::mem::take(&mut self.strangers) {
            match server.recv_at_most(1)[..] {
                [name] => {
                    let tunnel = &mut self.tunnels[usize::from(name - b'a')];
                    tunnel.heard[SERVER].push(name);
                    tunnel.ends[SERVER] = Some(server);
                }
                _ if server.saw_eof() || server.error().is_some() => {}
                _ => self.strangers.push(server),
            }
        }
    }

    fn pass(&mut self, millis: u64) {
        self.world.pass(Duration::from_millis(millis));
        for _ in 0..100_000 {
            self.meet();
            let sent = |tunnel: &mut Tunnel| tunnel.push(CLIENT) + tunnel.push(SERVER);
            if self.tunnels.iter_mut().map(sent).sum::<usize>() == 0 {
                return;
            }
            self.world.rest();
        }
        panic!("talk without end");
    }

    /// Everybody hears all there is.
    fn listen(&mut self, millis: u64) {
        self.pass(millis);
        let mut heard = 1;
        while heard > 0 {
            let hear = |t: &mut Tunnel| t.hear(CLIENT, usize::MAX) + t.hear(SERVER, usize::MAX);
            heard = self.tunnels.iter_mut().map(hear).sum();
            self.pass(0);
        }
    }

    fn hear(&mut self, tunnel: usize, who: usize, most: usize) {
        self.tunnels[tunnel].hear(who, most);
        self.pass(1);
    }

    // ---- the end

    fn finale(mut self) -> Verdict<Outcome> {
        let sim = self.world.sim.clone();
        let before_healing = self.world.note().calls.len();
        sim.heal();
        for _ in 0..5 {
            self.listen(1_000);
        }
        for tunnel in 0..self.tunnels.len() {
            self.end(tunnel, CLIENT);
            self.end(tunnel, SERVER);
        }
        for _ in 0..6 {
            self.listen(1_000);
        }
        if self.world.failure.is_none() {
            self.judge_tunnels()?;
        }
        self.tunnels.iter_mut().for_each(|tunnel| tunnel.ends = [None, None]);
        self.strangers.clear();
        self.pass(10_000);
        let stops = self.stopped || self.world.note().has(Reaction::FailRuntime);
        if self.world.running && !stops {
            let now = (sim.descriptors(), sim.watched());
            let lost = self.world.note().is_fatal();
            ensure!(lost || now == self.baseline, "left behind: {now:?}, {:?}", self.baseline);
        }
        if self.world.running && !stops {
            self.stop();
        }
        self.world.pass(Duration::from_secs(60));
        ensure!(!self.world.running, "it did not stop");
        let failed = self.world.failure.clone();
        match failed.map_or_else(|| self.world.server.finish(), Err) {
            Err(error) => {
                let journal = self.world.note();
                let explained = journal.is_fatal() && journal.explains(&error);
                ensure!(explained, "it ended with {error}");
                ensure!(!diary::has(&error.to_string()), "told twice: {error}");
            }
            Ok(summary) => {
                let counters = summary.counters;
                let closed: u64 = counters.closed.iter().sum();
                ensure!(counters.accepted + counters.connected == closed, "{counters}");
                let journal = self.world.note();
                ensure!(counters.bugs == 0 || journal.has(Reaction::Bug), "{counters}");
            }
        }
        let Play { world, remote, begun, .. } = self;
        let (turns, journal) = (world.turns, world.journal.unwrap_or_default());
        drop((world.server, remote));
        ensure!(sim.descriptors() == 0, "{} descriptors leaked", sim.descriptors());
        diary::judge(&journal, (sim.now() - begun) / 60_000_000_000)?;
        Ok(Outcome { journal, turns, before_healing })
    }

    fn judge_tunnels(&mut self) -> Verdict<()> {
        let fatal = self.world.note().is_fatal();
        let touched = self.world.note().touched.clone();
        for (number, tunnel) in self.tunnels.iter().enumerate() {
            let touched = touched.get(&number);
            let story = || {
                format!(
                    "tunnel {number}: said {:?}, heard {:?}, ended {:?}, eof {:?}, reset {:?}, left {}, struck {touched:?}",
                    tunnel.said.each_ref().map(Vec::len),
                    tunnel.heard.each_ref().map(Vec::len),
                    tunnel.ended,
                    tunnel.eof,
                    tunnel.reset,
                    tunnel.left
                )
            };
            for who in [CLIENT, SERVER] {
                let (said, heard) = (&tunnel.said[1 - who], &tunnel.heard[who]);
                ensure!(said.starts_with(heard), "wrong bytes at {who}: {}", story());
                let Some(_) = &tunnel.ends[who] else { continue };
                let over = tunnel.eof[who] || tunnel.reset[who];
                // A server that was never told of may be anybody's.
                ensure!(over || self.stopped && fatal, "no end at {who}: {}", story());
                if tunnel.left || self.stopped || self.late || fatal {
                    continue;
                }
                let whole = tunnel.eof[who] && !tunnel.reset[who] && said == heard;
                match touched {
                    None => ensure!(whole, "untouched, but cut at {who}: {}", story()),
                    Some(strikes) => ensure!(
                        whole
                            || tunnel.reset[who]
                            || self.world.address() == address(UNIX[0])
                            || strikes.iter().any(ends_it_anyway),
                        "a cut stream looks whole at {who}: {}",
                        story()
                    ),
                }
            }
        }
        Ok(())
    }
}

/// Whether no reset can follow: the connection is dead, or could not be told to reset.
fn ends_it_anyway(&(method, errno): &(Method, i32)) -> bool {
    use Errno::*;
    let dead = [ECONNRESET, EPIPE];
    let told = matches!(method, Method::Recv | Method::Send | Method::Sendmsg);
    method == Method::Setsockopt || told && dead.contains(&Errno::from_raw(errno))
}

// ---- the plays -----------------------------------------------------------------------

pub(crate) struct Scenario {
    name: &'static str,
    /// In front, and behind.
    addresses: [&'static str; 2],
    /// The first address to be tried is one at which nobody listens.
    dead: bool,
    script: fn(&mut Play),
}

const fn scenario(name: &'static str, script: fn(&mut Play)) -> Scenario {
    Scenario { name, addresses: TCP, dead: false, script }
}

pub(crate) const SCENARIOS: [Scenario; 14] = [
    scenario("dialogue", dialogue),
    scenario("client-first", client_ends_first),
    scenario("server-first", server_ends_first),
    scenario("slow-client", slow_client),
    scenario("slow-server", slow_server),
    scenario("resets", resets),
    scenario("refused", refused),
    scenario("muted", muted),
    scenario("stop", stop),
    scenario("stop-busy", stop_while_busy),
    Scenario { dead: true, ..scenario("second-address", dialogue) },
    Scenario { addresses: UNIX, ..scenario("unix", dialogue) },
    Scenario { addresses: UNIX, ..scenario("unix-slow", slow_client) },
    Scenario { addresses: UNIX, ..scenario("unix-leaves", unix_leaves) },
];

fn dialogue(play: &mut Play) {
    let (one, other) = (play.join(), play.join());
    play.pass(10);
    play.speak(one, CLIENT, 20);
    play.listen(10);
    play.speak(one, SERVER, 30);
    play.speak(other, SERVER, 10);
    play.listen(10);
    play.end(one, CLIENT);
    play.listen(10);
    play.end(one, SERVER);
    play.listen(10);
    play.speak(other, CLIENT, 10);
    play.listen(10);
}

/// The end comes with the first bytes, before the connection behind stands.
fn client_ends_first(play: &mut Play) {
    let (one, other) = (play.join(), play.join());
    play.speak(one, CLIENT, 300);
    play.end(one, CLIENT);
    play.end(other, CLIENT);
    play.listen(10);
    play.speak(one, SERVER, 300);
    play.speak(other, SERVER, 30);
    play.listen(10);
    play.end(other, SERVER);
    play.listen(10);
    play.speak(one, SERVER, 10);
    play.end(one, SERVER);
    play.listen(10);
}

fn server_ends_first(play: &mut Play) {
    let (one, other) = (play.join(), play.join());
    play.pass(10);
    play.speak(one, SERVER, 300);
    play.end(one, SERVER);
    play.end(other, SERVER);
    play.listen(10);
    play.speak(one, CLIENT, 200);
    play.speak(other, CLIENT, 20);
    play.listen(10);
    play.end(one, CLIENT);
    play.listen(10);
}

/// Both have ended, and much is still on its way to one who does not hurry.
fn slow_client(play: &mut Play) {
    let (slow, other) = (play.join(), play.join());
    play.end(slow, CLIENT);
    play.pass(10);
    play.speak(slow, SERVER, 350);
    play.end(slow, SERVER);
    play.speak(other, SERVER, 350);
    for _ in 0..5 {
        play.pass(100);
        play.hear(slow, CLIENT, 40);
        play.hear(other, CLIENT, 60);
    }
    play.pass(100);
    play.speak(other, CLIENT, 10);
    play.listen(10);
}

fn slow_server(play: &mut Play) {
    let slow = play.join();
    play.pass(10);
    play.speak(slow, CLIENT, 400);
    play.pass(100);
    play.end(slow, CLIENT);
    for _ in 0..4 {
        play.hear(slow, SERVER, 50);
        play.pass(100);
        play.speak(slow, SERVER, 5);
    }
    play.end(slow, SERVER);
    play.listen(10);
}

fn resets(play: &mut Play) {
    let (one, other, third) = (play.join(), play.join(), play.join());
    play.pass(10);
    play.speak(one, CLIENT, 100);
    play.leave(one, CLIENT, true);
    play.speak(other, SERVER, 100);
    play.pass(10);
    play.speak(other, SERVER, 100);
    play.leave(other, SERVER, true);
    play.listen(10);
    let early = play.join();
    play.leave(early, CLIENT, true);
    play.pass(10);
    play.speak(third, CLIENT, 30);
    play.leave(third, SERVER, false);
    play.speak(third, CLIENT, 30);
    play.listen(10);
}

/// Nobody listens; later somebody does.
fn refused(play: &mut Play) {
    play.remote = None;
    let one = play.join();
    play.tunnels[one].left = true;
    play.listen(10);
    play.remote = play.world.sim.listen(&address(TCP[1])).ok();
    dialogue_of(play);
}

fn dialogue_of(play: &mut Play) {
    let one = play.join();
    play.pass(10);
    play.speak(one, CLIENT, 20);
    play.listen(10);
    play.speak(one, SERVER, 20);
    play.listen(10);
}

/// A host that does not answer: one client waits in vain, one goes, one has luck.
fn muted(play: &mut Play) {
    play.remote.as_mut().unwrap().mute(true);
    let (one, gone) = (play.join(), play.join());
    play.tunnels[one].left = true;
    play.pass(1_000);
    play.leave(gone, CLIENT, true);
    play.listen(2_500);
    let lucky = play.join();
    play.end(lucky, CLIENT);
    play.pass(1_000);
    play.remote.as_mut().unwrap().mute(false);
    play.listen(10);
    play.speak(lucky, SERVER, 30);
    play.listen(10);
}

/// A stop with one who is quiet, one who is just coming, one who waits for a connection.
fn stop(play: &mut Play) {
    let (_quiet, _other) = (play.join(), play.join());
    play.listen(10);
    play.remote.as_mut().unwrap().mute(true);
    let _dialing = play.join();
    play.pass(10);
    play.stop();
    let _late = play.join();
    play.pass(10);
    play.remote.as_mut().unwrap().mute(false);
    play.listen(1_500);
    for tunnel in 0..4 {
        play.speak(tunnel, SERVER, 50);
        play.end(tunnel, SERVER);
    }
    play.listen(100);
}

/// A stop in the middle of much talk.
fn stop_while_busy(play: &mut Play) {
    let (one, slow) = (play.join(), play.join());
    play.listen(10);
    play.speak(slow, SERVER, 350);
    play.speak(one, CLIENT, 350);
    play.pass(1);
    play.stop();
    for _ in 0..4 {
        play.pass(500);
        play.hear(slow, CLIENT, 100);
        play.hear(one, SERVER, 100);
    }
    play.end(slow, SERVER);
    play.listen(10);
}

/// Who says something, closes and goes is heard all the same.
fn unix_leaves(play: &mut Play) {
    let (one, other) = (play.join(), play.join());
    play.pass(10);
    play.speak(one, CLIENT, 30);
    play.leave(one, CLIENT, false);
    play.speak(other, SERVER, 200);
    play.pass(10);
    play.leave(other, SERVER, false);
    play.listen(1_000);
    play.leave(other, CLIENT, false);
    play.listen(1_000);
}

// ---- the sweep -----------------------------------------------------------------------

fn repertoire() -> Repertoire {
    Repertoire { scenarios: SCENARIOS.iter().map(|scenario| scenario.name).collect(), play }
}

fn play(case: &Case) -> Verdict<Outcome> {
    let scenario = SCENARIOS.iter().find(|scenario| scenario.name == case.scenario).unwrap();
    let sim = Simulated::new(7);
    sim.shorten(WAYS[case.way].short);
    sim.delay(WAYS[case.way].delay);
    case.plan(&sim);
    match Play::open(&sim, scenario) {
        Ok(mut play) => {
            (scenario.script)(&mut play);
            play.finale()
        }
        Err(error) => judge_start(&sim, &error),
    }
}

/// Without faults all is well.
#[test]
fn plays_without_faults() {
    for Scenario { name, .. } in &SCENARIOS {
        for way in 0..WAYS.len() {
            let case = Case::whole(name, way);
            play(&case).unwrap_or_else(|why| panic!("{case}: {why}"));
        }
    }
}

/// A sample of all faults breaks no promise.
#[test]
fn faults_in_a_sample() {
    if !repertoire().replay() {
        repertoire().sweep([23, 4_001, 997, 997], [997; 4]).conclude(4_000, 1_350);
    }
}

/// No fault does.
#[test]
#[ignore = "a quarter of a minute; `make check` runs it"]
fn every_fault() {
    if !repertoire().replay() {
        let [cases, errnos] = LEAST;
        repertoire().sweep([1, 401, 97, 97], [97; 4]).conclude(cases, errnos);
    }
}

/// Cases of a whole sweep, and errnos at places.
pub(crate) const LEAST: [usize; 2] = [74_000, 2_300];

// ---- single promises -----------------------------------------------------------------

/// A proxy to these addresses.
fn proxy(upstreams: &[&str], limits: Limits) -> World<Proxy> {
    let sim = Simulated::new(1);
    let upstreams: Vec<Address> = upstreams.iter().map(|word| address(word)).collect();
    let handler = Proxy::new(upstreams, Duration::from_secs(3));
    World::on(sim, handler, Limits { max_outbound: limits.max_connections, ..limits }).unwrap()
}

fn tunnel(world: &mut World<Proxy>, remote: &mut Remote) -> (Client, Client) {
    let client = world.client();
    world.rest();
    (client, remote.accept().unwrap())
}

/// What a message costs: a recv, a send, and its share of an epoll_wait.
#[test]
fn three_calls_a_message() {
    let mut world = proxy(&[TCP[1]], Limits::default());
    let mut remote = world.sim.listen(&address(TCP[1])).unwrap();
    let (mut client, mut server) = tunnel(&mut world, &mut remote);
    world.ask(&mut client, b"hello");
    assert_eq!(server.recv(), b"hello");
    world.sim.take_trace();
    assert_eq!(world.ask(&mut client, b"again"), b"");
    assert_eq!(world.ask(&mut server, b"and again"), b"again");
    assert_eq!(client.recv(), b"and again");
    let calls: Vec<&str> = world.sim.take_trace().iter().map(|call| call.method.name()).collect();
    assert_eq!(calls, ["epoll_wait", "recv", "send"].repeat(2));
}

/// A tunnel, from the first call to the last.
#[test]
fn a_whole_tunnel() {
    let mut world = proxy(&[TCP[1]], Limits::default());
    let mut remote = world.sim.listen(&address(TCP[1])).unwrap();
    world.sim.take_trace();
    let (mut client, mut server) = tunnel(&mut world, &mut remote);
    client.shutdown();
    world.rest();
    server.recv();
    assert!(server.saw_eof());
    server.close();
    world.rest();
    client.recv();
    assert!(client.saw_eof());
    let calls: Vec<&str> = world.sim.trace().iter().map(|call| call.method.name()).collect();
    let due = "epoll_wait accept4 epoll_ctl socket setsockopt setsockopt setsockopt \
               setsockopt setsockopt setsockopt connect getsockname epoll_ctl epoll_ctl \
               timerfd_settime epoll_wait getsockopt_error epoll_ctl epoll_ctl epoll_wait recv \
               shutdown epoll_ctl epoll_wait recv close close";
    assert_eq!(calls.join(" "), due);
    assert_eq!(world.stop().counters.connected, 1);
}

/// Each address is tried once, each for its time; the one that answered is asked first
/// from then on.
#[test]
fn addresses_are_tried_in_turn() {
    let [dead, deaf, good] = ["127.0.0.1:91", "127.0.0.1:92", TCP[1]];
    let mut world = proxy(&[dead, deaf, good], Limits::default());
    let mut mute = world.sim.listen(&address(deaf)).unwrap();
    mute.mute(true);
    let mut first = world.client();
    world.pass(Duration::from_secs(10));
    first.recv();
    assert!(first.saw_reset(), "nobody was left to be tried");
    assert_eq!(world.sim.count(Method::Connect), 3);

    let mut remote = world.sim.listen(&address(good)).unwrap();
    let mut second = world.client();
    world.pass(Duration::from_millis(2_900));
    assert!(remote.accept().is_none(), "the deaf one still has time");
    world.pass(Duration::from_millis(200));
    assert!(remote.accept().is_some());
    assert_eq!(world.sim.count(Method::Connect), 6);

    let _third = world.client();
    world.rest();
    assert!(remote.accept().is_some());
    assert_eq!(world.sim.count(Method::Connect), 7);
    second.close();
    world.stop();
}

/// A client that resets does not leave a connection behind that is still begun.
#[test]
fn who_does_not_wait_is_not_dialed_for() {
    let mut world = proxy(&[TCP[1]], Limits::default());
    let mut remote = world.sim.listen(&address(TCP[1])).unwrap();
    remote.mute(true);
    let before = world.sim.descriptors();
    let mut client = world.client();
    world.rest();
    client.reset();
    world.rest();
    assert_eq!(world.sim.descriptors(), before);
    remote.mute(false);
    assert!(remote.accept().is_none());
}

/// With very little memory everything still arrives, though nobody hurries.
#[test]
fn little_memory_and_slow_readers() {
    let limits = Limits { max_memory: 512 << 10, ..Limits::default() };
    let mut world = proxy(&[TCP[1]], limits);
    world.sim.set_buffers(4 << 10, 4 << 10);
    let mut remote = world.sim.listen(&address(TCP[1])).unwrap();
    let mut all: Vec<_> = (0..30).map(|_| tunnel(&mut world, &mut remote)).collect();
    const LENGTH: usize = 100_000;
    let mut sums = vec![[0; 4]; all.len()]; // sent and received, by client and server
    for round in 0..20_000 {
        for ((client, server), sums) in all.iter_mut().zip(&mut sums) {
            let [sent, heard, servers, servers_heard] = sums;
            *sent += client.send(&[b'c'; 5_000][..5_000.min(LENGTH - *sent)]);
            *servers += server.send(&[b's'; 5_000][..5_000.min(LENGTH - *servers)]);
            let most = if round < 50 { 100 } else { usize::MAX };
            *heard += client.recv_at_most(most).len();
            *servers_heard += server.recv_at_most(most).len();
            assert!(!client.saw_reset() && !server.saw_reset(), "round {round}");
        }
        world.rest();
        if sums.iter().all(|sums| *sums == [LENGTH; 4]) {
            return;
        }
    }
    panic!("stuck at {sums:?}");
}

// ---- a stop -------------------------------------------------------------------------------

/// How long a proxy takes to stop, in milliseconds, in which something goes on meanwhile; and
/// how many it cut.
fn time_of_stop(
    mut world: World<Proxy>,
    mut meanwhile: impl FnMut(&mut World<Proxy>, u64),
) -> (u64, u64) {
    world.sim.signal(Signal::SIGTERM);
    let begun = world.sim.now();
    let millis = |world: &World<Proxy>| (world.sim.now() - begun) / 1_000_000;
    for _ in 0..40_000 {
        world.rest();
        let now = millis(&world);
        if !world.running {
            return (now, world.end().cut);
        }
        meanwhile(&mut world, now);
        world.pass(Duration::from_millis(1));
    }
    panic!("it does not stop");
}

/// Nothing is due where the server spoke last, or the client never did: such tunnels end after a
/// second without bytes.
#[test]
fn a_stop_and_tunnels_at_rest() {
    let mut world = proxy(&[TCP[1]], Limits::default());
    let mut remote = world.sim.listen(&address(TCP[1])).unwrap();
    let mut tunnels: Vec<_> = (0..3).map(|_| tunnel(&mut world, &mut remote)).collect();
    world.ask(&mut tunnels[0].0, b"question");
    world.ask(&mut tunnels[0].1, b"answer");
    world.ask(&mut tunnels[1].1, b"220 ready");
    let (millis, cut) = time_of_stop(world, |world, _| {
        for (client, server) in &mut tunnels {
            client.recv();
            server.recv();
            if server.saw_eof() {
                server.close();
            }
            world.rest();
            client.recv();
            if client.saw_eof() {
                client.close();
            }
        }
    });
    assert!((1_000..1_100).contains(&millis), "{millis} ms");
    assert_eq!(cut, 0);
}

/// An answer that is due is waited for, until half of the time if it is the server's first, and
/// for all of it if the server has spoken before.
#[test]
fn a_stop_waits_for_an_answer() {
    for (has_spoken, after, is_answered, cut) in [
        (false, 3_000, true, 0),
        (true, 3_000, true, 0),
        (true, 7_000, true, 0),
        (true, 12_000, false, 1),
    ] {
        let mut world = proxy(&[TCP[1]], Limits::default());
        let mut remote = world.sim.listen(&address(TCP[1])).unwrap();
        let (mut client, mut server) = tunnel(&mut world, &mut remote);
        if has_spoken {
            world.ask(&mut client, b"first");
            world.ask(&mut server, b"answer");
        }
        world.ask(&mut client, b"question");
        server.recv();
        client.recv();
        let mut heard = Vec::new();
        let result = time_of_stop(world, |world, now| {
            server.recv();
            if now == after {
                assert!(!server.saw_eof());
                server.send(b"late answer");
                world.rest();
            }
            heard.extend(client.recv());
            if server.saw_eof() {
                server.close();
                client.close();
            }
        });
        client.recv();
        let due: &[u8] = if is_answered { b"late answer" } else { b"" };
        assert_eq!((heard, result.1), (due.to_vec(), cut), "{has_spoken} {after}");
        assert_eq!(client.saw_reset(), !is_answered);
        assert!(result.0 <= if is_answered { after + 2_100 } else { 10_010 }, "{result:?}");
    }
}

/// Where only the client speaks, its server hears the end after half of the time, and has all.
#[test]
fn a_stop_and_a_client_that_only_speaks() {
    for (drain, due) in [(10, 5_000), (2, 1_000)] {
        let drain_timeout = Some(Duration::from_secs(drain));
        let mut world = proxy(&[TCP[1]], Limits { drain_timeout, ..Limits::default() });
        let mut remote = world.sim.listen(&address(TCP[1])).unwrap();
        let (mut client, mut server) = tunnel(&mut world, &mut remote);
        world.ask(&mut client, b"a line of a log");
        let mut heard = Vec::new();
        let (millis, cut) = time_of_stop(world, |_, _| {
            heard.extend(server.recv());
            client.recv();
            if server.saw_eof() {
                server.close();
            }
            if client.saw_eof() {
                client.close();
            }
        });
        assert!((due..due + 100).contains(&millis), "{millis} ms");
        assert_eq!((heard, cut), (b"a line of a log".to_vec(), 0));
    }
}

/// A short drain looks more often: who is at rest is no reason to be cut.
#[test]
fn a_short_stop_and_a_tunnel_at_rest() {
    let drain_timeout = Some(Duration::from_millis(500));
    let mut world = proxy(&[TCP[1]], Limits { drain_timeout, ..Limits::default() });
    let mut remote = world.sim.listen(&address(TCP[1])).unwrap();
    let (mut client, mut server) = tunnel(&mut world, &mut remote);
    world.ask(&mut client, b"question");
    world.ask(&mut server, b"answer");
    let (_, cut) = time_of_stop(world, |_, _| {
        client.recv();
        server.recv();
        if server.saw_eof() {
            server.close();
        }
        if client.saw_eof() {
            client.close();
        }
    });
    assert_eq!(cut, 0);
}

// ---- an end does not overtake what is owed ------------------------------------------------

/// A reset at one end comes to the other behind the bytes that came before it.
#[test]
fn a_reset_behind_an_answer() {
    for of_server in [true, false] {
        let mut world = proxy(&[TCP[1]], Limits::default());
        let mut remote = world.sim.listen(&address(TCP[1])).unwrap();
        let (client, server) = tunnel(&mut world, &mut remote);
        let (mut one, mut other) = if of_server { (server, client) } else { (client, server) };
        other.send(b"an upload");
        world.rest();
        one.recv();
        other.clog(Duration::from_millis(700)); // what is lost comes again
        one.send(b"413 and the reason");
        one.reset();
        world.pass(Duration::from_millis(690));
        other.send(b"more of it");
        world.pass(Duration::from_millis(5));
        assert_eq!((other.recv(), other.saw_reset()), (Vec::new(), false));
        world.pass(Duration::from_millis(10));
        assert_eq!(other.recv(), b"413 and the reason");
        assert!(!other.saw_eof(), "it would look whole");
        world.pass(Duration::from_millis(400));
        other.recv();
        assert!(other.saw_reset());
        assert_eq!(world.server.open(), 0);
        world.stop();
    }
}

/// More than the kernel takes is delivered too.
#[test]
fn a_reset_behind_a_long_answer() {
    let mut world = proxy(&[TCP[1]], Limits::default());
    world.sim.set_buffers(10_000, 10_000);
    let mut remote = world.sim.listen(&address(TCP[1])).unwrap();
    let (mut client, mut server) = tunnel(&mut world, &mut remote);
    let mut sent = 0;
    for _ in 0..20 {
        sent += server.send(&[b'x'; 10_000]);
        world.rest();
    }
    server.reset();
    world.rest();
    let mut heard = 0;
    for _ in 0..1_000 {
        heard += client.recv_at_most(1_000).len();
        world.pass(Duration::from_millis(1));
    }
    client.recv();
    assert!(sent > 100_000 && heard == sent, "{heard} of {sent}");
    assert!(client.saw_reset());
    world.stop();
}

/// Both ends send until the proxy reads neither, because neither reads. Returns the ends, and how
/// much each has sent.
fn stuck(world: &mut World<Proxy>, remote: &mut Remote) -> ((Client, Client), [usize; 2]) {
    world.sim.set_buffers(10_000, 10_000);
    let (mut client, mut server) = tunnel(world, remote);
    let mut sent = [0, 0];
    for _ in 0..60 {
        sent[CLIENT] += client.send(&[b'c'; 10_000]);
        sent[SERVER] += server.send(&[b's'; 10_000]);
        world.rest();
    }
    assert!(sent.iter().all(|sent| (262_144..500_000).contains(sent)), "{sent:?}");
    ((client, server), sent)
}

/// What the kernel has received before a reset is delivered, even if the other end cannot take it
/// now: the end that was reset waits, without a call, until it can.
#[test]
fn a_reset_behind_more_than_the_other_end_takes() {
    for of_server in [true, false] {
        let mut world = proxy(&[TCP[1]], Limits::default());
        let mut remote = world.sim.listen(&address(TCP[1])).unwrap();
        let ((client, server), sent) = stuck(&mut world, &mut remote);
        let (mut one, mut other) = if of_server { (server, client) } else { (client, server) };
        one.reset();
        world.rest();
        let calls = world.sim.count(Method::EpollWait);
        world.pass(Duration::from_secs(30));
        assert!(world.sim.count(Method::EpollWait) <= calls + 4, "it spins");
        let mut heard = 0;
        for _ in 0..1_000 {
            heard += other.recv_at_most(1_000).len();
            world.pass(Duration::from_millis(1));
        }
        other.recv();
        let due = sent[usize::from(of_server)] - 10_000; // those had not left its own kernel
        assert_eq!((heard, other.saw_reset()), (due, true));
        assert_eq!(world.server.open(), 0);
        assert_eq!(world.stop().counters.closed_for(CloseReason::PeerReset), 1);
    }
}

/// An end that was reset waits for the other no longer than there is another.
#[test]
fn two_resets_while_each_end_waits_for_the_other() {
    let end: [fn(&mut Client); 2] = [Client::reset, |client| {
        client.shutdown(); // which is noticed during the pause
        client.reset();
    }];
    for of_server in [true, false] {
        for end in end {
            let limits = Limits { idle_timeout: None, write_timeout: None, ..Limits::default() };
            let mut world = proxy(&[TCP[1]], limits);
            let mut remote = world.sim.listen(&address(TCP[1])).unwrap();
            let ((client, server), _) = stuck(&mut world, &mut remote);
            let (mut one, mut other) = if of_server { (server, client) } else { (client, server) };
            one.reset();
            world.rest();
            end(&mut other);
            world.rest();
            assert_eq!(world.server.open(), 0);
            world.stop();
        }
    }
}

/// And an end that reads nothing is waited for no longer than the write timeout.
#[test]
fn a_reset_behind_what_is_never_taken() {
    let write_timeout = Some(Duration::from_secs(5));
    let mut world = proxy(&[TCP[1]], Limits { write_timeout, ..Limits::default() });
    let mut remote = world.sim.listen(&address(TCP[1])).unwrap();
    let ((_client, mut server), _) = stuck(&mut world, &mut remote);
    server.reset();
    world.pass(Duration::from_millis(5_100));
    assert_eq!(world.server.open(), 0);
    world.stop();
}

/// A peer that acknowledges nothing is waited for no longer than the write timeout.
#[test]
fn a_reset_that_cannot_be_delivered() {
    let write_timeout = Some(Duration::from_secs(5));
    let mut world = proxy(&[TCP[1]], Limits { write_timeout, ..Limits::default() });
    let mut remote = world.sim.listen(&address(TCP[1])).unwrap();
    let (client, mut server) = tunnel(&mut world, &mut remote);
    client.clog(Duration::from_secs(60));
    server.send(b"413");
    server.reset();
    world.pass(Duration::from_millis(4_900));
    assert_eq!(world.server.open(), 1);
    world.pass(Duration::from_millis(200));
    assert_eq!(world.server.open(), 0);
    world.stop();
}

/// A server behind that takes nothing is cut by the write timeout; what it said goes to the
/// client first.
#[test]
fn a_stalled_end_and_what_it_said() {
    let write_timeout = Some(Duration::from_secs(5));
    let mut world = proxy(&[TCP[1]], Limits { write_timeout, ..Limits::default() });
    world.sim.set_buffers(10_000, 10_000);
    let mut remote = world.sim.listen(&address(TCP[1])).unwrap();
    let (mut client, mut server) = tunnel(&mut world, &mut remote);
    for _ in 0..50 {
        client.send(&[b'u'; 10_000]);
        world.rest();
    }
    world.pass(Duration::from_millis(4_000));
    client.clog(Duration::from_millis(1_500));
    server.send(b"413");
    world.pass(Duration::from_millis(3_000));
    assert_eq!(client.recv(), b"413");
    world.pass(Duration::from_millis(400));
    client.recv();
    assert!(client.saw_reset());
    world.stop();
}
