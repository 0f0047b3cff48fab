//! A handler that does whatever it likes: every verb, in every callback, to the connection at
//! hand and to others, to some that are connecting, closing or gone. It checks that it is
//! called as the contract says. And a random play around it: clients, servers, faults, time.

use super::dice::Dice;
use super::journal::{asks_for, errnos, is_a_lie};
use super::stage::{Outcome, SHORTS, TIMES, Verdict};
use super::{World, diary};
use std::any::Any;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;
use threadbare::kernel::sim::{At, Client, Method, Remote, Simulated};
use threadbare::reaction::Reaction;
use threadbare::{
    Address, CloseReason, Conn, ConnId, ConnectionHandler, Error, File, Limits, Net, Server,
    Signal, Summary, Timeouts, TimerId, ToAddresses,
};

macro_rules! ensure {
    ($truth:expr, $($why:tt)*) => { if !$truth { return Err(format!($($why)*)); } };
}

const FOLDER: &str = "/srv";
const FILE: &str = "file";
const FILE_BYTES: u64 = 300;
const GROUP: &str = "group";
const BACK: [&str; 2] = ["127.0.0.1:90", "unix:/run/back"];

/// Where the decisions of a play come from: a seed, and another from the so manieth decision
/// on, and so forth. So a play can be had again up to a place that few reach, and go on
/// in another way from there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Way(pub Vec<(u64, u64)>);

impl Way {
    /// The same up to this decision, and another way from there on.
    pub fn branch(&self, at: u64, seed: u64) -> Way {
        let before = self.0.iter().filter(|(from, _)| *from < at);
        Way(before.copied().chain([(at, seed)]).collect())
    }

    /// As it is printed, `0:17+345:1` or only `17`.
    pub fn parse(text: &str) -> Option<Way> {
        let steps = text.split('+').map(|step| {
            let (at, seed) = step.split_once(':').unwrap_or(("0", step));
            Some((at.parse().ok()?, seed.parse().ok()?))
        });
        steps.collect::<Option<Vec<_>>>().map(Way)
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let steps: Vec<String> = self.0.iter().map(|(at, seed)| format!("{at}:{seed}")).collect();
        f.write_str(&steps.join("+"))
    }
}

struct Decisions {
    path: Vec<(u64, u64)>,
    made: u64,
    dice: Dice<'static>,
}

impl Decisions {
    fn below(&mut self, limit: usize) -> usize {
        if let Some(&(_, seed)) = self.path.iter().find(|(at, _)| *at == self.made) {
            self.dice = Dice::Seed(seed);
        }
        self.made += 1;
        self.dice.below(limit)
    }
}

pub struct Whim {
    dice: Rc<RefCell<Decisions>>,
    back: Vec<Address>,
    /// All it ever met or began, the latest last.
    known: Vec<ConnId>,
    /// Those that were opened and not closed.
    open: BTreeSet<ConnId>,
    closed: BTreeSet<ConnId>,
    /// Its end was told.
    told: BTreeSet<ConnId>,
    hung_up: BTreeSet<ConnId>,
    /// What it does more often than anything else, so that rare things come together.
    tastes: [usize; 3],
    /// It may believe a peer that has said nothing of the kind.
    trusts: bool,
    /// It takes a byte at a time, so that its rests last.
    nibbles: bool,
    /// It calls what others seldom need, too.
    meddles: bool,
    /// Timers that it may cancel.
    timers: Vec<TimerId>,
    /// Jobs that it has given, of which it has had no result.
    jobs: BTreeMap<ConnId, usize>,
    /// It leaves off, so that all can come to rest.
    tired: bool,
}

impl Whim {
    fn below(&self, limit: usize) -> usize {
        self.dice.borrow_mut().below(limit)
    }

    fn one_in(&self, count: usize) -> bool {
        self.below(count) == 0
    }

    /// Does some things.
    fn act(&mut self, net: &mut Net, own: Option<ConnId>) {
        if self.tired {
            return;
        }
        for _ in 0..self.below(4) {
            let other = self.known.get(self.below(self.known.len().clamp(1, 8)));
            let other = if self.one_in(3) { self.known.last() } else { other }.copied();
            let target = if self.one_in(3) { other } else { own.or(other) };
            self.verb(net, target);
        }
    }

    fn verb(&mut self, net: &mut Net, target: Option<ConnId>) {
        let number = if self.one_in(2) { self.below(40) } else { self.tastes[self.below(3)] };
        let (flag, length) = (self.one_in(2), 1 + self.below(90));
        let Some(id) = target.or_else(|| self.known.first().copied()) else { return };
        let file = if number == 12 { file(net) } else { None };
        match number {
            0..=2 => drop(net.send(id, &vec![b's'; length])),
            3 => drop(net.ids().count()),
            4 if self.one_in(4) => drop(net.close(id)),
            5..=6 => self.dial(net),
            7 if self.one_in(600) => net.stop(),
            7 if flag => drop(net.after(Duration::from_millis(length as u64 * 20), 0)),
            _ => {}
        }
        let Some(mut conn) = net.conn(id) else { return };
        assert_eq!(conn.id(), id);
        match number {
            8..=11 => conn.write(&vec![b'w'; length * if flag { 1 } else { 4 }]),
            12 => {
                if let Some(file) = file {
                    conn.write_file(file, length as u64, FILE_BYTES - length as u64);
                }
            }
            13 => conn.write(b""),
            14..=15 if flag => conn.finish(),
            16..=18 => conn.duplex(flag),
            19 => conn.hold(flag),
            20 if self.one_in(4) => conn.abort(),
            21 if self.one_in(4) => conn.close(),
            33..=34 if self.one_in(4) => conn.abort_behind(),
            35..=36 if self.trusts && self.one_in(4) => conn.close_without_linger(),
            22..=24 => conn.pause(),
            25..=28 => conn.resume(),
            29 => conn.set_timer(None),
            30 => conn.set_timer(Some(Duration::from_millis(length as u64 * 20))),
            31 => conn.set_timer_for(1, flag.then(|| Duration::from_millis(length as u64 * 20))),
            32 => drop((conn.peer(), conn.local().cloned(), conn.queued(), conn.is_full())),
            _ => {}
        }
        if self.meddles && self.one_in(3) {
            self.meddle(net, id);
        }
    }

    /// The verbs for groups, workers, timers of its own, and limits of one connection.
    fn meddle(&mut self, net: &mut Net, id: ConnId) {
        let (number, flag, length) = (self.below(10), self.one_in(2), 1 + self.below(400));
        match number {
            0 => drop(net.join(GROUP, id)),
            1 if flag => drop(net.leave(GROUP, id)),
            2 => {
                let fanout = net.send_group(GROUP, &vec![b'g'; length], flag.then_some(id));
                assert!(fanout.full <= fanout.sent, "{fanout:?}");
            }
            3 => self.timers.push(net.after(Duration::from_millis(length as u64), 1)),
            4 => drop(self.timers.pop().is_some_and(|timer| net.cancel(timer))),
            5 => assert!(net.members(GROUP).into_iter().all(|id| net.conn(id).is_some())),
            _ => {}
        }
        let Some(mut conn) = net.conn(id) else { return };
        match number {
            6 => conn.charge(if flag { length } else { 0 }),
            7 => {
                let idle = flag.then(|| Duration::from_secs(1 + length as u64 / 10));
                conn.set_timeouts(Timeouts { idle, ..conn.timeouts() });
            }
            8..=9
                if !conn.is_paused()
                    && conn.work(move |_: &mut (), presence| (id, presence.is_gone())) =>
            {
                assert!(conn.is_paused(), "a job, and no pause");
                *self.jobs.entry(id).or_default() += 1;
            }
            _ => {}
        }
    }

    fn dial(&mut self, net: &mut Net) {
        let address = &self.back[self.dice.borrow_mut().below(self.back.len())];
        let timeout = Duration::from_millis(500);
        if let Ok(id) = net.connect(address, timeout) {
            assert!(!self.known.contains(&id), "an id is used again");
            self.known.push(id);
            if self.one_in(2) {
                self.verb(net, Some(id));
            }
        }
    }

    fn check(&self, conn: &Conn<'_>, session: &Option<ConnId>) {
        let id = conn.id();
        assert_eq!(*session, Some(id), "the session of somebody else");
        assert!(self.open.contains(&id) && !self.closed.contains(&id));
    }
}

fn file(net: &mut Net) -> Option<File> {
    net.open_directory(FOLDER).ok()?.open(FILE).ok()
}

impl ConnectionHandler for Whim {
    /// Whose it is.
    type Session = Option<ConnId>;

    fn on_start(&mut self, net: &mut Net) -> Result<(), Error> {
        if self.meddles {
            self.dial(net);
        }
        Ok(())
    }

    fn on_open(&mut self, conn: &mut Conn<'_>, session: &mut Option<ConnId>) {
        let id = conn.id();
        assert_eq!(session.replace(id), None);
        assert!(self.open.insert(id), "opened twice");
        if !self.known.contains(&id) {
            self.known.push(id);
        }
        self.act(conn.net(), Some(id));
    }

    fn on_data(&mut self, conn: &mut Conn<'_>, own: &mut Option<ConnId>, input: &[u8]) -> usize {
        self.check(conn, own);
        assert_ne!(input, b"", "on_data without bytes");
        assert!(!self.told.contains(&conn.id()), "bytes behind the end");
        self.act(conn.net(), *own);
        match self.below(8) {
            0 => 0,
            1..=6 if self.nibbles && !self.tired => 1,
            1 | 2 => self.below(input.len() + 1),
            3 if self.one_in(200) => input.len() + 1,
            _ => input.len(),
        }
    }

    fn on_eof(&mut self, conn: &mut Conn<'_>, own: &mut Option<ConnId>, _: &[u8]) {
        self.check(conn, own);
        assert!(self.told.insert(conn.id()), "the end was told twice");
        self.act(conn.net(), *own);
        if self.tired || self.one_in(2) {
            conn.close();
        }
    }

    fn on_hangup(&mut self, conn: &mut Conn<'_>, own: &mut Option<ConnId>) {
        self.check(conn, own);
        assert!(self.hung_up.insert(conn.id()), "it hung up twice");
        assert!(!self.told.contains(&conn.id()), "it hung up behind its end");
        if self.meddles {
            self.act(conn.net(), *own);
        }
    }

    fn on_result(
        &mut self,
        conn: &mut Conn<'_>,
        own: &mut Option<ConnId>,
        result: Box<dyn Any + Send>,
    ) {
        self.check(conn, own);
        let id = conn.id();
        assert_eq!(*result.downcast::<(ConnId, bool)>().unwrap(), (id, false));
        let jobs = self.jobs.get_mut(&id).expect("a result of no job");
        *jobs = jobs.checked_sub(1).expect("a result too many");
        self.act(conn.net(), *own);
    }

    fn on_drain(&mut self, conn: &mut Conn<'_>, own: &mut Option<ConnId>) {
        self.check(conn, own);
        self.act(conn.net(), *own);
    }

    fn on_timer(&mut self, conn: &mut Conn<'_>, own: &mut Option<ConnId>) {
        self.check(conn, own);
        self.act(conn.net(), *own);
    }

    fn on_timer_for(&mut self, conn: &mut Conn<'_>, own: &mut Option<ConnId>, key: u32) {
        self.check(conn, own);
        assert_eq!(key, 1);
        self.act(conn.net(), *own);
    }

    fn on_tick(&mut self, net: &mut Net, _: TimerId, _: u64) {
        self.act(net, None);
    }

    fn on_close(&mut self, net: &mut Net, id: ConnId, own: Option<ConnId>, _: CloseReason) {
        assert!(own.is_none_or(|own| own == id), "the session of somebody else");
        assert_eq!(own.is_some(), self.open.remove(&id), "closed, but never opened");
        assert!(self.closed.insert(id), "closed twice");
        self.jobs.remove(&id);
        assert!(!net.members(GROUP).contains(&id), "it is still in its group");
        assert!(net.conn(id).is_none() && !net.send(id, b"x"), "it is still there");
        self.act(net, None);
    }

    fn on_shutdown(&mut self, net: &mut Net) {
        self.act(net, None);
    }
}

/// One random play; which places were seen between two turns, and after how many decisions.
pub fn play(path: &Way) -> Verdict<(Outcome, BTreeMap<&'static str, u64>)> {
    let seed = path.0.first().map_or(0, |(_, seed)| *seed);
    let decisions = Decisions { path: path.0.clone(), made: 0, dice: Dice::Seed(seed) };
    let dice = Rc::new(RefCell::new(decisions));
    let below = |limit| dice.borrow_mut().below(limit);
    let sim = Simulated::new(seed % 256);
    sim.set_buffers(48, 48);
    let way = below(2 * SHORTS.len());
    sim.shorten(SHORTS[way % SHORTS.len()].1);
    sim.delay(Duration::from_millis([0, 3][way / SHORTS.len()]));
    let content: Vec<u8> = (0..FILE_BYTES).map(|i| i as u8).collect();
    sim.write_file(&std::path::Path::new(FOLDER).join(FILE), &content);
    let back: Vec<Address> = BACK.iter().map(|it| it.to_addresses().unwrap().remove(0)).collect();
    let mut remotes: Vec<Remote> = back.iter().map(|it| sim.listen(it).unwrap()).collect();
    let handler = Whim {
        dice: Rc::clone(&dice),
        back,
        known: Vec::new(),
        open: BTreeSet::new(),
        closed: BTreeSet::new(),
        told: BTreeSet::new(),
        hung_up: BTreeSet::new(),
        trusts: seed.is_multiple_of(2),
        tastes: [0; 3].map(|_| below(32)),
        nibbles: below(2) == 0,
        meddles: seed % 4 == 2,
        timers: Vec::new(),
        jobs: BTreeMap::new(),
        tired: false,
    };
    let tight = below(2) == 0;
    let memory = 3_000 + below(2_000); // of blocks of 1 KiB
    let limits = Limits {
        max_connections: 6,
        max_outbound: 3,
        high_water: 64,
        max_output: if !tight && below(2) == 0 { 600 } else { 1 << 20 },
        max_memory: if tight { memory } else { 256 << 20 },
        idle_timeout: Some(Duration::from_secs(20)),
        message_timeout: Some(Duration::from_secs(8)),
        write_timeout: Some(Duration::from_secs(10)),
        drain_timeout: Some(Duration::from_secs(3)),
        ..Limits::default()
    };
    diary::begin();
    let mut places = ["127.0.0.1:80", "127.0.0.1:81"].to_places().unwrap();
    places[1] = places[1].clone().behind_front();
    let builder = Server::builder(handler).kernel(sim.clone()).limits(limits);
    let world = World::of(builder.workers(1, 2, || ()), places, sim.clone());
    let mut world = world.map_err(|error| error.to_string())?;
    let places = Rc::new(RefCell::new(BTreeMap::new()));
    let (made, seen) = (Rc::clone(&dice), Rc::clone(&places));
    world.watch = Some(Box::new(move |place| {
        seen.borrow_mut().entry(place).or_insert(made.borrow().made);
    }));
    world.note();
    let (mut clients, mut servers) = (Vec::<Client>::new(), Vec::<Client>::new());
    if seed % 8 == 1 {
        // One behind a front that is slow to name it, or does not come to that.
        let behind = world.server.addresses()[1].clone();
        clients.extend(world.sim.connect(&behind).ok());
        clients.iter_mut().for_each(|client| _ = client.send(b"PROXY "));
        world.pass(Duration::from_millis(10));
    }
    if tight && below(3) > 0 {
        // Two that never read hold most of the memory, and no one is ended for that.
        clients.extend((0..2).filter_map(|_| world.sim.connect(&world.address()).ok()));
        world.pass(Duration::from_millis(10));
        let most = 200 + below(900);
        let hog = move |_: &mut Whim, net: &mut Net| {
            let all: Vec<ConnId> = net.ids().collect();
            all.into_iter().for_each(|id| _ = net.send(id, &vec![b'h'; most]));
        };
        let _ = world.server.handle().call(hog);
        world.pass(Duration::ZERO);
    }
    for _ in 0..20 + below(60) {
        if !world.running {
            break;
        }
        let crowd = clients.len() + servers.len();
        match below(16) {
            0 | 1 if clients.len() < 6 => clients.extend(world.sim.connect(&world.address())),
            2 => {
                for remote in &mut remotes {
                    remote.mute(below(3) == 0);
                    servers.extend(remote.accept());
                }
            }
            3..=11 if crowd > 0 => {
                let who = below(crowd);
                let at = who.checked_sub(clients.len());
                let all = if at.is_some() { &mut servers } else { &mut clients };
                let at = at.unwrap_or(who);
                match below(16) {
                    0..=5 => drop(all[at].send(&vec![b'c'; 1 + below(120)])),
                    7..=12 if tight && at < 2 => {} // memory stays short
                    7..=12 => drop(all[at].recv_at_most(1 + below(200))),
                    6 | 13 => {
                        all[at].send(&vec![b'c'; 1 + below(40)]);
                        all[at].shutdown();
                    }
                    14 => drop(all.swap_remove(at)),
                    _ => {
                        all[at].reset();
                        all.swap_remove(at);
                    }
                }
            }
            12 => world.pass(Duration::from_millis(below(3_000) as u64)),
            13 => {
                let whim = |whim: &mut Whim, net: &mut Net| {
                    if !whim.known.is_empty() {
                        whim.act(net, None);
                    }
                };
                let _ = world.server.handle().call(whim);
            }
            14 if below(3) == 0 => {
                const RUNNING: [Method; 8] = [
                    Method::EpollCtl,
                    Method::Recv,
                    Method::Send,
                    Method::Sendmsg,
                    Method::Sendfile,
                    Method::GetsockoptError,
                    Method::Shutdown,
                    Method::Setsockopt,
                ];
                let method = RUNNING[below(RUNNING.len())];
                let errno = errnos(method)[below(errnos(method).len())];
                let times = TIMES[below(TIMES.len())].1;
                let deadly = asks_for(method, errno, Reaction::FailRuntime);
                if !is_a_lie(method, errno, times) && !deadly && method != Method::EpollCtl
                    || errno == threadbare::Errno::ENOMEM
                {
                    sim.fail(At::Of(method, sim.count(method) + below(3) as u64), errno, times);
                }
            }
            _ => sim.heal(),
        }
        world.pass(Duration::ZERO);
    }
    sim.heal();
    if world.running && below(2) == 0 {
        world.sim.signal(Signal::SIGTERM); // amid all this
        world.pass(Duration::from_millis(below(1_000) as u64));
    }
    drop((clients, servers));
    if world.running {
        let tire = |whim: &mut Whim, _: &mut Net| whim.tired = true;
        let _ = world.server.handle().call(tire);
        world.pass(Duration::from_secs(1));
        world.sim.signal(Signal::SIGTERM);
        world.pass(Duration::from_secs(60));
    }
    ensure!(!world.running, "it did not stop");
    ensure!(world.failure.is_none(), "it ended with {:?}", world.failure);
    let memory = world.server.memory();
    ensure!(memory == (0, 0), "{memory:?} bytes are in use at the end");
    match world.server.finish() {
        Ok(Summary { counters, .. }) => {
            let (begun, closed) = (counters.accepted + counters.connected, &counters.closed);
            ensure!(begun == closed.iter().sum::<u64>(), "{counters}");
        }
        // A listener that epoll could watch no more as it should, nor forget.
        Err(error) => {
            let journal = world.note();
            ensure!(journal.is_fatal() && journal.explains(&error), "it ended with {error}");
        }
    }
    ensure!(world.server.handler().open.is_empty(), "opened, and never closed");
    world.note();
    let World { server, journal, turns, .. } = world;
    drop((server, remotes));
    ensure!(sim.descriptors() == 0, "{} descriptors leaked", sim.descriptors());
    let journal = journal.unwrap_or_default();
    let before_healing = journal.calls.len();
    Ok((Outcome { journal, turns, before_healing }, places.take()))
}
