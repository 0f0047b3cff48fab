//! Attacks on the memory of a server, by real clients: half messages that grow, output that
//! nobody reads, heads of requests, mixtures, bursts.
//!
//! An [`Attack`] is a crowd of clients of some kinds, and what each of them does in each round.
//! [`Attack::run`] measures the memory of the server's process beside the number that it counts,
//! which clients were cut, what stays when all have left, and whether polite clients get their
//! longest line through meanwhile. `make bench ARGS=attacks` prints all of them; tests hold the
//! most telling ones to their bounds.

#![allow(dead_code, unreachable_pub)] // the bench and the tests use their own part of it

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt,
};
use nix::unistd::Pid;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::AsRawFd;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

/// Where the attack comes from, and where else polite clients come from.
const ATTACKER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// Polite clients at once, and the longest line that they may send, with its end.
pub const POLITE: usize = 20;
const LONGEST: usize = 64 << 10;
/// How long a polite client waits for its answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long memory may take to come back when all clients have left, on a busy machine.
const RETURN: Duration = Duration::from_secs(20);

/// The server under attack, with all its deadlines off.
pub struct Victim<'a> {
    pub pid: i32,
    pub address: SocketAddrV4,
    pub max_memory: usize,
    /// What it has written to stderr so far.
    pub log: &'a (dyn Fn() -> String + Sync),
}

pub struct Attack {
    pub name: &'static str,
    /// What is attacked: a handler, and options.
    pub words: &'static [&'static str],
    /// With how much memory.
    pub limits: &'static [usize],
    pub clients: usize,
    rounds: usize,
    /// What its clients are, in turn.
    kinds: &'static [&'static str],
    /// What the client of this number does in this round.
    act: fn(&mut Crowd<'_>, usize, usize),
}

/// What an attack has cost, in bytes.
#[derive(Debug, Default)]
pub struct Damage {
    /// The most memory of the process above what it had with the same clients idle.
    pub peak: u64,
    /// What the server counted at the end of the attack.
    pub counted: u64,
    /// The memory above idle that stays when all have left,
    pub left: u64,
    /// and how much time of its CPU the server took until no more than a sixteenth stayed.
    pub back: Duration,
    /// Of each kind, how many clients were reset in the attack, and how many there were.
    pub cut: Vec<(&'static str, usize, usize)>,
    /// How many polite clients of another address, and of the attackers' own, got their answer.
    pub polite: [usize; 2],
    /// Connections that ended in the attack, and why, as the server counts them.
    pub closed: String,
}

/// The words that turn off every deadline that would end an attack.
pub const PATIENT: [&str; 8] = [
    "--message-timeout",
    "0",
    "--write-timeout",
    "0",
    "--idle-timeout",
    "0",
    "--drain-timeout",
    "0.1",
];

const BOTH: [usize; 2] = [64 << 20, 256 << 20];

pub const ATTACKS: [Attack; 12] = [
    Attack {
        name: "half lines, growing by a byte",
        words: &["greet"],
        limits: &BOTH,
        clients: 9_000,
        rounds: 50,
        kinds: &["half"],
        act: |crowd, number, round| crowd.grow(number, round),
    },
    Attack {
        name: "half lines of 1 KB",
        words: &["greet"],
        limits: &[8 << 20],
        clients: 9_000,
        rounds: 3,
        kinds: &["half"],
        act: |crowd, number, _| crowd.send(number, &[b'x'; 340]),
    },
    Attack {
        name: "half lines of 32 KB",
        words: &["greet"],
        limits: &BOTH,
        clients: 9_000,
        rounds: 3,
        kinds: &["half"],
        act: |crowd, number, _| crowd.send(number, &[b'x'; 10_600]),
    },
    Attack {
        name: "half lines of all sizes",
        words: &["greet", "--max-line", "1M"],
        limits: &BOTH,
        clients: 6_000,
        rounds: 30,
        kinds: &["half"],
        act: |crowd, number, round| {
            let most = 2 * crowd.share() / 30;
            crowd.send(number, &vec![b'x'; 1 + random(number, round) % (most * (1 + number % 5))]);
        },
    },
    Attack {
        name: "half lines in chat, by a byte",
        words: &["chat", "--max-line", "1M"],
        limits: &BOTH,
        clients: 1_000,
        rounds: 50,
        kinds: &["half"],
        act: |crowd, number, round| {
            crowd.read(number, 1 << 16);
            crowd.grow(number, round);
        },
    },
    Attack {
        name: "deaf",
        words: &["greet"],
        limits: &BOTH,
        clients: 2_000,
        rounds: 40,
        kinds: &["deaf"],
        act: |crowd, number, _| crowd.send(number, &[b'\n'; 16 << 10]),
    },
    Attack {
        name: "deaf, of all sizes",
        words: &["greet"],
        limits: &BOTH,
        clients: 3_000,
        rounds: 40,
        kinds: &["deaf", "deaf", "deaf", "deaf", "slow"],
        act: |crowd, number, round| {
            let chance = random(number, round);
            crowd.send(number, &vec![b'z'; chance % 3_000]);
            crowd.send(number, &vec![b'\n'; 1 + chance % 900]);
            if number % 5 == 4 {
                crowd.read(number, 1 + chance % 30_000);
            }
        },
    },
    Attack {
        name: "heads, growing by a byte",
        words: &["http"],
        limits: &BOTH,
        clients: 9_000,
        rounds: 50,
        kinds: &["half head"],
        act: |crowd, number, round| match round {
            0 => crowd.send(number, b"GET / HTTP/1.1\r\nHost: here\r\nX: "),
            _ if round < 25 => crowd.grow(number, round - 1), // and no more than a head may have
            _ => {}
        },
    },
    Attack {
        name: "heads of bodies to come",
        words: &["http"],
        limits: &BOTH,
        clients: 9_000,
        rounds: 1,
        kinds: &["body to come"],
        act: |crowd, number, _| {
            let head = "POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 100000\r\nIf-None-Match: ";
            crowd.send(number, &[head.as_bytes(), &[b'h'; 14_000], b"\r\n\r\nbody"].concat());
        },
    },
    Attack {
        name: "requests, answers unread",
        words: &["http"],
        limits: &BOTH,
        clients: 2_000,
        rounds: 40,
        kinds: &["deaf"],
        act: |crowd, number, _| {
            crowd.send(number, &b"GET / HTTP/1.1\r\nHost: here\r\n\r\n".repeat(500));
        },
    },
    Attack {
        name: "a mixture",
        words: &["greet"],
        limits: &BOTH,
        clients: 6_000,
        rounds: 50,
        kinds: &["half", "deaf", "comes and goes"],
        act: |crowd, number, round| {
            let chance = random(number, round);
            match number % 3 {
                0 => crowd.send(number, &vec![b'x'; 1 + chance % 400]),
                1 => crowd.send(number, &vec![b'\n'; 1 + chance % 2_000]),
                _ if chance.is_multiple_of(7) => crowd.come_again(number),
                _ => crowd.send(number, &vec![b'w'; 1 + chance % 9_000]),
            }
        },
    },
    Attack {
        name: "bursts: fill, empty, fill",
        words: &["greet"],
        limits: &BOTH,
        clients: 6_000,
        rounds: 12,
        kinds: &["half"],
        act: |crowd, number, round| {
            let size = [700, 3_000, 9_000, 30_000, 1_500, 60_000][round / 2 % 6];
            match round % 2 {
                0 => crowd.send(number, &vec![b'x'; size]),
                _ if number % 8 > 0 => crowd.come_again(number),
                _ => {}
            }
        },
    },
];

/// A number for a client and a round: the same in each run.
fn random(number: usize, round: usize) -> usize {
    let mixed = (number as u64 * 7_919 + round as u64 * 104_729 + 1)
        .wrapping_mul(6_364_136_223_846_793_005);
    (mixed >> 33) as usize
}

impl Attack {
    /// The attack that is called so.
    pub fn called(name: &str) -> &'static Attack {
        ATTACKS.iter().find(|attack| attack.name == name).expect("an attack of this name")
    }

    /// Attacks a server, and looks at what it costs. With `polite`, whether others are served.
    pub fn run(&self, victim: &Victim<'_>, polite: bool) -> io::Result<Damage> {
        let mut crowd = Crowd { attack: self, victim, clients: Vec::new(), cut: Vec::new() };
        crowd.cut.resize(self.kinds.len(), 0);
        for _ in 0..self.clients {
            crowd.clients.push(Some(victim.client(ATTACKER, true)?));
        }
        victim.settle();
        let (idle, mut peak) = (victim.memory(), 0);
        for round in 0..self.rounds {
            for number in 0..self.clients {
                (self.act)(&mut crowd, number, round);
                if number % 500 == 0 {
                    peak = peak.max(victim.memory());
                }
            }
            victim.settle();
            peak = peak.max(victim.memory());
        }
        let (counted, closed) = victim.report();
        let cut = crowd.count_cut();
        let serve = |source| if polite { victim.serves(source) } else { 0 };
        let polite = [OTHER, ATTACKER].map(serve);
        peak = peak.max(victim.memory());
        drop(crowd);
        let above_idle = |memory: u64| memory.saturating_sub(idle);
        let (end, spent, mut left) = (Instant::now() + RETURN, victim.ticks(), u64::MAX);
        while left > victim.max_memory as u64 / 16 && Instant::now() < end {
            sleep(Duration::from_millis(100));
            left = above_idle(victim.memory());
        }
        let back = Duration::from_millis(10 * (victim.ticks() - spent));
        Ok(Damage { peak: above_idle(peak), counted, left, back, cut, polite, closed })
    }
}

/// The attacking clients.
struct Crowd<'a> {
    attack: &'a Attack,
    victim: &'a Victim<'a>,
    /// `None` once the server has reset it.
    clients: Vec<Option<TcpStream>>,
    /// Of each kind, how many were.
    cut: Vec<usize>,
}

impl Crowd<'_> {
    /// What is left of the memory for each, if all have the same.
    fn share(&self) -> usize {
        self.victim.max_memory / self.attack.clients
    }

    /// Half of a share at once, then a byte at a time, then a twentieth of a share.
    fn grow(&mut self, number: usize, round: usize) {
        let length = match round {
            0 => self.share() / 2,
            1..20 => 1,
            _ => self.share() / 20,
        };
        self.send(number, &vec![b'x'; length]);
    }

    /// Sends what the socket takes.
    fn send(&mut self, number: usize, bytes: &[u8]) {
        let Some(client) = &mut self.clients[number] else { return };
        let is_there = is_there(client.write(bytes));
        self.note(number, is_there);
    }

    /// Reads what there is.
    fn read(&mut self, number: usize, most: usize) {
        let Some(client) = &mut self.clients[number] else { return };
        let is_there = is_there(client.read(&mut vec![0; most]));
        self.note(number, is_there);
    }

    /// Goes with a reset, and comes again.
    fn come_again(&mut self, number: usize) {
        self.count_if_cut(number);
        if let Some(client) = self.clients[number].take() {
            reset(client);
        }
        self.clients[number] = self.victim.client(ATTACKER, true).ok();
    }

    /// A client whose connection is gone has been cut.
    fn note(&mut self, number: usize, is_there: bool) {
        if !is_there {
            self.clients[number] = None;
            self.cut[number % self.attack.kinds.len()] += 1;
        }
    }

    fn count_if_cut(&mut self, number: usize) {
        let Some(client) = &self.clients[number] else { return };
        self.note(number, matches!(client.take_error(), Ok(None)));
    }

    fn count_cut(&mut self) -> Vec<(&'static str, usize, usize)> {
        (0..self.clients.len()).for_each(|number| self.count_if_cut(number));
        let mut counts: Vec<(&'static str, usize, usize)> = Vec::new();
        for (place, (&kind, &cut)) in self.attack.kinds.iter().zip(&self.cut).enumerate() {
            let all = (place..self.clients.len()).step_by(self.attack.kinds.len()).count();
            match counts.iter_mut().find(|count| count.0 == kind) {
                Some(count) => *count = (kind, count.1 + cut, count.2 + all),
                None => counts.push((kind, cut, all)),
            }
        }
        counts
    }
}

impl Drop for Crowd<'_> {
    fn drop(&mut self) {
        self.clients.drain(..).flatten().for_each(reset);
    }
}

/// Whether a call found the connection in order.
fn is_there(result: io::Result<usize>) -> bool {
    match result {
        Ok(_) => true,
        Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
    }
}

/// Ends a connection with a reset.
fn reset(client: TcpStream) {
    let now = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    let _ = setsockopt(&client, sockopt::Linger, &now);
}

impl Victim<'_> {
    /// A client from this address of the machine. The kernel keeps little for it if it is `deaf`.
    fn client(&self, source: Ipv4Addr, deaf: bool) -> io::Result<TcpStream> {
        let kind = (AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC);
        let fd = socket(kind.0, kind.1, kind.2, None)?;
        if deaf {
            setsockopt(&fd, sockopt::RcvBuf, &4096)?;
        }
        bind(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(source, 0)))?;
        connect(fd.as_raw_fd(), &SockaddrIn::from(self.address))?;
        let client = TcpStream::from(fd);
        client.set_nonblocking(deaf)?;
        Ok(client)
    }

    fn proc(&self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.pid)).unwrap_or_default()
    }

    /// Memory of its own, counted page by page.
    fn memory(&self) -> u64 {
        let rollup = self.proc("smaps_rollup");
        let line = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:"));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        number.unwrap_or_default() * 1024
    }

    /// Clock ticks, of 10 ms, that it has spent.
    fn ticks(&self) -> u64 {
        let stat = self.proc("stat");
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum()
    }

    /// Waits until it does nothing, but not for ever: a crowd may keep it busy.
    fn settle(&self) {
        for _ in 0..60 {
            let before = self.ticks();
            sleep(Duration::from_millis(50));
            if self.ticks() == before {
                return;
            }
        }
    }

    /// Asks it with SIGUSR1: what it counts as memory, and which connections have ended.
    fn report(&self) -> (u64, String) {
        let reports = |log: &str| log.matches(" open, holding ").count();
        let before = reports(&(self.log)());
        let _ = kill(Pid::from_raw(self.pid), Signal::SIGUSR1);
        let end = Instant::now() + PATIENCE;
        while reports(&(self.log)()) == before && Instant::now() < end {
            sleep(Duration::from_millis(20));
        }
        let log = (self.log)();
        let line = log.lines().rfind(|line| line.contains(" open, holding ")).unwrap_or_default();
        let behind = |words: &str| line.split_once(words).map_or("", |(_, behind)| behind);
        let counted = behind("holding ").split(' ').next().unwrap_or_default();
        let closed = behind(" accepted, ").split(", ").next().unwrap_or_default();
        let closed = match line.split_once(" closed (") {
            Some((_, reasons)) => reasons.split(')').next().unwrap_or_default(),
            None => closed,
        };
        (counted.parse().unwrap_or_default(), closed.to_owned())
    }

    /// How many of some clients from `source` get a line of the longest allowed length through,
    /// which they send in two pieces, and all at about the same time.
    fn serves(&self, source: Ipv4Addr) -> usize {
        thread::scope(|scope| {
            let clients: Vec<_> = (0..POLITE)
                .map(|_| {
                    sleep(Duration::from_millis(20));
                    scope.spawn(move || self.client(source, false).and_then(speak).unwrap_or(false))
                })
                .collect();
            clients.into_iter().filter_map(|client| client.join().ok()).filter(|ok| *ok).count()
        })
    }
}

/// Whether a client gets the answer of `greet` to the longest allowed line.
fn speak(mut client: TcpStream) -> io::Result<bool> {
    client.set_read_timeout(Some(PATIENCE))?;
    client.set_write_timeout(Some(PATIENCE))?;
    let line = [&[b'p'; LONGEST - 1], &b"\n"[..]].concat();
    let (first, second) = line.split_at(LONGEST / 2);
    client.write_all(first)?;
    sleep(Duration::from_millis(50));
    client.write_all(second)?;
    let mut answer = vec![0; "Thank you for your message ".len() + line.len()];
    client.read_exact(&mut answer)?;
    Ok(answer.ends_with(&line))
}
