//! What it costs to send to many: one client says some lines in one packet, and all the others
//! hear them.
//!
//! threadbare is its `chat`; tokio is a room on its broadcast channel (peers/room.rs); redis
//! publishes to subscribers. Each sample is the server's CPU time for some packets, divided by
//! the deliveries: lines times the members that hear them. The servers take turns, in random
//! order, and what counts is the ratio to tokio in the same round.

use crate::report::Table;
use crate::seat::Seat;
use crate::server::{Running, Server, first_line};
use crate::statistics::{Dice, Interval, round};
use crate::{Bench, Outcome};
use serde_json::{Value, json};
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Members, and lines in one packet.
const SHAPES: [(usize, usize); 6] =
    [(20, 1), (20, 20), (200, 1), (200, 20), (200, 100), (9_000, 1)];
/// What a client says, without its line end.
const WORDS: &str = "a line as people write them";
/// Deliveries in one sample, at least.
const DELIVERIES: usize = 40_000;
/// Longest wait for all to have heard.
const PATIENCE: Duration = Duration::from_secs(60);

/// A kind of server: how it is spoken to, and what its clients hear.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Chat,
    Tokio,
    Redis,
}

impl Kind {
    fn server(self, bench: &Bench) -> Outcome<Server> {
        let ours = bench.servers.iter().find(|server| server.is_ours());
        let words = |words: &str| words.split(' ').map(str::to_owned).collect();
        match self {
            Kind::Chat => {
                let ours = ours.ok_or("there is no threadbare")?;
                Ok(ours.with_words(&["chat", "--idle-timeout", "0"]))
            }
            Kind::Tokio => {
                let path = std::env::current_exe()?.with_file_name("peer-room");
                Ok(Server::new("tokio", words(&format!("{} PORT", path.display()))))
            }
            Kind::Redis => {
                if first_line(Command::new("redis-server").arg("--version")).is_empty() {
                    return Err("install redis-server".into());
                }
                let line = "redis-server --bind 127.0.0.1 --port PORT --appendonly no \
                    --maxclients 19000 --save";
                let mut command: Vec<String> = words(line);
                command.push(String::new());
                Ok(Server::new("redis", command))
            }
        }
    }

    fn packet(self, lines: usize) -> String {
        match self {
            Kind::Redis => format!("PUBLISH c \"{WORDS}\"\r\n").repeat(lines),
            Kind::Chat | Kind::Tokio => format!("{WORDS}\n").repeat(lines),
        }
    }

    /// How many bytes a line is for each who hears it.
    fn heard(self) -> usize {
        WORDS.len()
            + match self {
                Kind::Chat => "guest1: \n".len(),
                Kind::Tokio => 1,
                Kind::Redis => "*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$27\r\n\r\n".len(),
            }
    }
}

/// A server, one who talks and those who hear.
struct Room {
    kind: Kind,
    running: Running,
    talker: TcpStream,
    members: Vec<TcpStream>,
}

impl Room {
    fn open(
        bench: &Bench,
        kind: Kind,
        server: &Server,
        count: usize,
        tool: &[&str],
    ) -> Outcome<Room> {
        let running = server.start(&bench.seats, Seat::Beside, tool, 4096)?;
        let connect = || TcpStream::connect(("127.0.0.1", running.port));
        let talker = connect()?;
        talker.set_nodelay(true)?;
        running.settle(); // so that it is the first guest
        let mut members = Vec::new();
        for _ in 0..count {
            let mut member = connect()?;
            if kind == Kind::Redis {
                member.write_all(b"SUBSCRIBE c\r\n")?;
            }
            member.set_nonblocking(true)?;
            members.push(member);
        }
        talker.set_nonblocking(true)?;
        let mut room = Room { kind, running, talker, members };
        room.quiet();
        Ok(room)
    }

    /// Hears all that is told about who comes. A chat tells of many at its next tick, and a
    /// busy machine may not let it run for a while: silence counts at the third time.
    fn quiet(&mut self) {
        let mut silent = 0;
        while silent < 3 {
            self.running.settle();
            let all = self.members.iter_mut().chain([&mut self.talker]);
            silent = if all.map(drain).sum::<usize>() == 0 { silent + 1 } else { 0 };
        }
    }

    /// Says a packet so often, each when all have heard the one before.
    fn talk(&mut self, packets: usize, lines: usize) -> Outcome<()> {
        let packet = self.kind.packet(lines);
        let due = lines * self.kind.heard();
        let end = Instant::now() + PATIENCE;
        for _ in 0..packets {
            self.talker.write_all(packet.as_bytes())?;
            for member in &mut self.members {
                let mut heard = 0;
                while heard < due {
                    heard += drain(member);
                    if Instant::now() > end {
                        return Err("not all have heard it".into());
                    }
                }
                if heard > due {
                    return Err("somebody has heard too much".into());
                }
            }
            drain(&mut self.talker);
        }
        Ok(())
    }

    /// CPU microseconds a delivery.
    fn sample(&mut self, lines: usize) -> Outcome<f64> {
        let each = lines * self.members.len();
        let packets = DELIVERIES.div_ceil(each).max(3);
        let before = self.running.cpu();
        self.talk(packets, lines)?;
        let spent = self.running.cpu() - before;
        Ok(spent.as_secs_f64() * 1e6 / (packets * each) as f64)
    }
}

/// Reads what there is.
fn drain(stream: &mut TcpStream) -> usize {
    let (mut buffer, mut sum) = ([0; 16 << 10], 0);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return sum,
            Ok(n) => sum += n,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return sum,
        }
    }
}

pub fn fanout(bench: &Bench) -> Outcome<Table> {
    let title = "One talks, many hear: a delivery (a line to a member)";
    let columns = ["server", "cpu_us", "ratio_to_tokio", "calls"];
    let mut table = Table::new("fanout", title, &columns);
    let _awake = bench.seats.take(Seat::Beside)?;
    let (mut dice, mut servers) = (Dice(0x5eed), Vec::new());
    for (kind, name) in [(Kind::Tokio, "tokio"), (Kind::Chat, "threadbare"), (Kind::Redis, "redis")]
    {
        match kind.server(bench) {
            Ok(server) => servers.push((kind, name, server)),
            Err(error) => println!("SKIPPED: {name}: {error}"),
        }
    }
    for (count, lines) in SHAPES {
        if count > bench.most_connections {
            println!("SKIPPED: {count} members are more than there are descriptors for");
            continue;
        }
        let samples = samples(bench, &servers, count, lines, &mut dice)?;
        let tokio = samples.first().cloned().unwrap_or_default();
        for ((kind, name, server), samples) in servers.iter().zip(&samples) {
            let pairs = samples.iter().zip(&tokio);
            let ratio = Interval::of(&pairs.map(|(a, b)| a / b).collect::<Vec<_>>(), &mut dice);
            let calls = match count {
                ..1_000 => json!(round(calls(bench, *kind, server, count, lines)?)),
                _ => Value::Null,
            };
            let row = format!("{name}: {count} members, {lines} lines");
            let cpu = Interval::of(samples, &mut dice);
            table.rows.push(vec![row.into(), cpu.to_json(), ratio.to_json(), calls]);
        }
    }
    Ok(table)
}

/// Of each server the same number, one in each round.
fn samples(
    bench: &Bench,
    servers: &[(Kind, &str, Server)],
    count: usize,
    lines: usize,
    dice: &mut Dice,
) -> Outcome<Vec<Vec<f64>>> {
    let rounds = if bench.quick { 3 } else { 21 };
    let open = |place: usize| {
        let (kind, _, server) = &servers[place];
        let mut room = Room::open(bench, *kind, server, count, &[])?;
        room.sample(lines)?; // warm
        Outcome::Ok(room)
    };
    let mut order: Vec<usize> = (0..servers.len()).collect();
    // There are 20,000 descriptors at best: then one is up at a time.
    let all_fit = count * servers.len() < bench.most_connections;
    let mut rooms: Vec<Option<Room>> = Vec::new();
    for place in 0..servers.len() {
        rooms.push(if all_fit { Some(open(place)?) } else { None });
    }
    let mut samples = vec![Vec::new(); servers.len()];
    for _ in 0..rounds {
        dice.shuffle(&mut order);
        for &place in &order {
            let sample = match &mut rooms[place] {
                Some(room) => room.sample(lines)?,
                None => open(place)?.sample(lines)?,
            };
            samples[place].push(sample);
        }
    }
    Ok(samples)
}

/// System calls a delivery: what some more packets add.
fn calls(bench: &Bench, kind: Kind, server: &Server, count: usize, lines: usize) -> Outcome<f64> {
    const PACKETS: usize = 10;
    let path = bench.scratch.join("fanout-calls");
    let file = path.display().to_string();
    let tool = ["strace", "-D", "-f", "-c", "-o", &file];
    let mut totals = [0.0; 2];
    for (total, packets) in totals.iter_mut().zip([PACKETS, 3 * PACKETS]) {
        let _ = fs::remove_file(&path);
        let mut room = Room::open(bench, kind, server, count, &tool)?;
        room.talk(packets, lines)?;
        room.running.stop();
        *total = total_of(&path).ok_or("strace has counted nothing")?;
    }
    Ok((totals[1] - totals[0]) / (2 * PACKETS * lines * count) as f64)
}

/// The tool may end after what it watched.
fn total_of(path: &std::path::Path) -> Option<f64> {
    (0..500).find_map(|_| {
        sleep(Duration::from_millis(10));
        let text = fs::read_to_string(path).ok()?;
        let row = text.lines().find(|line| line.ends_with(" total"))?;
        row.split_whitespace().nth(3).or(row.split_whitespace().nth(2))?.parse().ok()
    })
}
