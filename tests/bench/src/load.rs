//! The clients: what they send, how fast, and that what comes back is right to the byte.
//!
//! A message is 16 letters that say whose it is and the how-manieth, a filler, and a newline.
//! None of it is a capital letter, so a 'T' can only begin the prefix of an answer. A server
//! that answers lines owes the prefix for each message; one that answers what a recv gave owes
//! it at the start of a batch, and may put it anywhere else, but never twice in a row.
//!
//! Three ways to load a server: exact batches (all send, then all are waited for), a closed
//! loop (who is answered sends again), and a fixed rate, where the latency counts from the time
//! at which a message should have been sent, so that a server that stalls does not stop the
//! clock along with the clients.

use crate::Outcome;
use crate::server::Running;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, SockaddrIn, bind, connect, recv, send, setsockopt,
    socket, sockopt,
};
use nix::sys::time::{TimeSpec, TimeVal};
use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub const PREFIX: &[u8] = b"Thank you for your message ";
/// The bytes of a message, if nothing else is said.
pub const SIZE: usize = 32;
/// A server that says nothing for so long has failed.
const PATIENCE: Duration = Duration::from_secs(5);
const PREFIX_LENGTH: usize = PREFIX.len();
const HEADER: usize = 16;

/// How much, and in what pieces.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub connections: usize,
    /// How many messages a client has under way.
    pub depth: usize,
    pub size: usize,
}

impl Shape {
    pub const fn of(connections: usize) -> Shape {
        Shape { connections, depth: 1, size: SIZE }
    }
}

/// When to stop.
#[derive(Clone, Copy)]
pub enum Until {
    Passed(Duration),
    Answered(u64),
}

impl Until {
    fn is_over(self, begin: Instant, answered: u64) -> bool {
        match self {
            Until::Passed(span) => begin.elapsed() >= span,
            Until::Answered(count) => answered >= count,
        }
    }
}

/// What a stretch of load came to.
#[derive(Clone, Default)]
pub struct Sample {
    pub answered: u64,
    pub elapsed: Duration,
    /// What the server's threads spent.
    pub cpu: Duration,
    /// Nanoseconds from message to answer; of exact batches there are none.
    pub latencies: Vec<u32>,
}

impl Sample {
    /// Answers a second.
    pub fn rate(&self) -> f64 {
        self.answered as f64 / self.elapsed.as_secs_f64()
    }

    /// The server's CPU time in µs for each answer.
    pub fn cpu_each(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.answered as f64
    }
}

/// A stretch of load under way.
struct Watch<'a> {
    server: &'a Running,
    begin: Instant,
    cpu: Duration,
}

impl<'a> Watch<'a> {
    fn start(server: &'a Running) -> Watch<'a> {
        Watch { server, cpu: server.cpu(), begin: Instant::now() }
    }

    fn stop(self, answered: u64, latencies: Vec<u32>) -> Sample {
        let elapsed = self.begin.elapsed();
        Sample { answered, elapsed, cpu: self.server.cpu() - self.cpu, latencies }
    }
}

/// What all clients say, and how they listen.
pub struct Script {
    size: usize,
    by_line: bool,
    /// Messages in a row, whose headers are filled in when they are sent.
    outbox: Vec<u8>,
    inbox: Vec<u8>,
}

impl Script {
    pub fn new(shape: Shape, by_line: bool) -> Script {
        let mut message: Vec<u8> = (b'a'..=b'z').cycle().take(shape.size - 1).collect();
        message.push(b'\n');
        let outbox = message.repeat(shape.depth);
        Script { size: shape.size, by_line, outbox, inbox: vec![0; 1 << 20] }
    }
}

/// How long both are the same.
fn common(a: &[u8], b: &[u8]) -> usize {
    let length = a.len().min(b.len());
    if a[..length] == b[..length] {
        return length;
    }
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

fn header(id: u32, number: u32) -> [u8; HEADER] {
    let name = u64::from(id) << 32 | u64::from(number);
    std::array::from_fn(|place| b'a' + (name >> (4 * place) & 15) as u8)
}

/// What a client has said, and how far the answers are.
#[derive(Clone, Default)]
pub struct Dialogue {
    id: u32,
    sent: u32,
    pub answered: u32,
    /// How much of the prefix has come, and how much of the message behind it.
    prefix: usize,
    body: usize,
    /// Part of the message has come since the last prefix.
    fruitful: bool,
}

impl Dialogue {
    /// The next messages.
    pub fn say<'a>(&mut self, messages: usize, script: &'a mut Script) -> &'a [u8] {
        for message in script.outbox.chunks_mut(script.size).take(messages) {
            message[..HEADER].copy_from_slice(&header(self.id, self.sent));
            self.sent += 1;
        }
        &script.outbox[..messages * script.size]
    }

    /// What has come must be what is due.
    pub fn hear(&mut self, mut bytes: &[u8], script: &Script) -> Outcome<()> {
        while let Some(&first) = bytes.first() {
            if self.prefix == PREFIX_LENGTH && first == PREFIX[0] && self.fruitful {
                (self.prefix, self.fruitful) = (0, false);
            }
            let header = header(self.id, self.answered);
            let due = match (self.prefix, self.body) {
                (prefix @ ..PREFIX_LENGTH, _) => &PREFIX[prefix..],
                (_, body @ ..HEADER) => &header[body..],
                (_, body) => &script.outbox[body..script.size],
            };
            let right = common(due, bytes);
            if right == 0 {
                return Err(format!("client {} did not get what it is due", self.id).into());
            }
            bytes = &bytes[right..];
            if self.prefix < PREFIX_LENGTH {
                self.prefix += right;
                continue;
            }
            self.body += right;
            self.fruitful = true;
            if self.body == script.size {
                self.complete(script.by_line)?;
            }
        }
        Ok(())
    }

    fn complete(&mut self, by_line: bool) -> Outcome<()> {
        if self.answered == self.sent {
            return Err(format!("client {} got more than it asked for", self.id).into());
        }
        self.answered += 1;
        self.body = 0;
        if by_line || self.answered == self.sent {
            (self.prefix, self.fruitful) = (0, false);
        }
        Ok(())
    }
}

struct Client {
    socket: OwnedFd,
    dialogue: Dialogue,
    /// When the messages under way were due to be sent.
    due: VecDeque<Instant>,
}

impl Client {
    /// From one of many addresses, so that ports do not run out.
    fn connect(server: &Running, id: u32) -> Outcome<Client> {
        static TURN: AtomicU32 = AtomicU32::new(0);
        let turn = TURN.fetch_add(1, Ordering::Relaxed) / 64 % 60_000;
        let [high, low] = (turn as u16).to_be_bytes();
        let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        setsockopt(&socket, sockopt::TcpNoDelay, &true)?;
        setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
        let patience = TimeVal::new(PATIENCE.as_secs() as i64, 0);
        setsockopt(&socket, sockopt::SendTimeout, &patience)?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &patience)?;
        bind(socket.as_raw_fd(), &SockaddrIn::new(127, 1, high, low.max(1), 0))?;
        connect(socket.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, server.port))
            .map_err(|errno| format!("connect to {}: {errno}", server.name))?;
        let dialogue = Dialogue { id, ..Dialogue::default() };
        Ok(Client { socket, dialogue, due: VecDeque::new() })
    }

    fn say(&mut self, messages: usize, due: Instant, script: &mut Script) -> Outcome<()> {
        self.due.extend(std::iter::repeat_n(due, messages));
        let mut bytes = self.dialogue.say(messages, script);
        while !bytes.is_empty() {
            let sent = send(self.socket.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL);
            bytes = &bytes[sent.map_err(|errno| format!("send: {errno}"))?..];
        }
        Ok(())
    }

    /// Receives, and checks it: how many messages are answered now that were not.
    fn hear(&mut self, flags: MsgFlags, script: &mut Script) -> Outcome<usize> {
        let got = match recv(self.socket.as_raw_fd(), &mut script.inbox, flags) {
            Ok(0) => return Err("the server ended a connection".into()),
            Ok(got) => got,
            Err(Errno::EAGAIN) if flags.contains(MsgFlags::MSG_DONTWAIT) => return Ok(0),
            Err(errno) => return Err(format!("recv: {errno}").into()),
        };
        let before = self.dialogue.answered;
        self.dialogue.hear(&script.inbox[..got], script)?;
        Ok((self.dialogue.answered - before) as usize)
    }

    /// The latencies of messages that are answered now.
    fn settle(&mut self, answered: usize, now: Instant, latencies: &mut Vec<u32>) {
        let span = |due: Instant| now.duration_since(due).as_nanos().min(u32::MAX.into()) as u32;
        latencies.extend(self.due.drain(..answered).map(span));
    }
}

/// Clients of one server.
pub struct Fleet {
    clients: Vec<Client>,
    script: Script,
    epoll: Epoll,
    events: Vec<EpollEvent>,
    /// Whose turn it is in batches that are smaller than the fleet.
    turn: usize,
}

impl Fleet {
    pub fn connect(server: &Running, shape: Shape) -> Outcome<Fleet> {
        let mut fleet = Fleet {
            clients: Vec::new(),
            script: Script::new(shape, server.by_line),
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            events: vec![EpollEvent::empty(); 4096],
            turn: 0,
        };
        fleet.grow(server, shape.connections)?;
        Ok(fleet)
    }

    /// More clients, until there are so many.
    pub fn grow(&mut self, server: &Running, connections: usize) -> Outcome<()> {
        for id in self.clients.len()..connections {
            self.clients.push(Client::connect(server, id as u32)?);
        }
        Ok(())
    }

    /// The first `active` clients, `batch` at a time in turn: all send a message, then all
    /// are waited for. The last first: when it is answered the others are.
    pub fn batches(
        &mut self,
        server: &Running,
        active: usize,
        batch: usize,
        until: Until,
    ) -> Outcome<Sample> {
        let watch = Watch::start(server);
        let mut answered = 0;
        while !until.is_over(watch.begin, answered) {
            let places = (self.turn..self.turn + batch).map(move |place| place % active);
            for place in places.clone() {
                self.clients[place].say(1, watch.begin, &mut self.script)?;
            }
            for place in places.rev() {
                let client = &mut self.clients[place];
                while client.hear(MsgFlags::empty(), &mut self.script)? == 0 {}
                client.due.clear();
            }
            self.turn = (self.turn + batch) % active;
            answered += batch as u64;
        }
        Ok(watch.stop(answered, Vec::new()))
    }

    /// Everybody has messages under way for so long; then all are waited for.
    pub fn closed_loop(
        &mut self,
        server: &Running,
        depth: usize,
        span: Duration,
    ) -> Outcome<Sample> {
        let watch = Watch::start(server);
        let (mut answered, mut latencies) = (0, Vec::new());
        let mut under_way = self.clients.len() * depth;
        for client in &mut self.clients {
            client.say(depth, Instant::now(), &mut self.script)?;
        }
        self.watch_clients()?;
        while under_way > 0 {
            let ready = self.epoll.wait(&mut self.events, PATIENCE.as_millis() as u16)?;
            if ready == 0 {
                return Err(format!("{under_way} messages stay unanswered").into());
            }
            let goes_on = watch.begin.elapsed() < span;
            for event in &self.events[..ready] {
                let client = &mut self.clients[event.data() as usize];
                let count = client.hear(MsgFlags::MSG_DONTWAIT, &mut self.script)?;
                let now = Instant::now();
                client.settle(count, now, &mut latencies);
                answered += count as u64;
                under_way -= count;
                if goes_on && count > 0 {
                    client.say(count, now, &mut self.script)?;
                    under_way += count;
                }
            }
        }
        Ok(watch.stop(answered, latencies))
    }

    /// So many messages a second from the clients in turn, whatever the server does.
    pub fn at_rate(&mut self, server: &Running, rate: f64, span: Duration) -> Outcome<Sample> {
        let watch = Watch::start(server);
        let total = (rate * span.as_secs_f64()) as u64;
        let due = |number: u64| watch.begin + Duration::from_secs_f64(number as f64 / rate);
        let (mut sent, mut answered, mut latencies) = (0, 0, Vec::new());
        self.watch_clients()?;
        while answered < total {
            let now = Instant::now();
            if now > watch.begin + span + PATIENCE {
                return Err(format!("{} messages stay unanswered", sent - answered).into());
            }
            while sent < total && due(sent) <= now {
                let turn = sent as usize % self.clients.len();
                self.clients[turn].say(1, due(sent), &mut self.script)?;
                sent += 1;
            }
            let next = if sent < total { due(sent) } else { now + PATIENCE };
            let ready = self.wait(next.saturating_duration_since(Instant::now()))?;
            for event in &self.events[..ready] {
                let client = &mut self.clients[event.data() as usize];
                let count = client.hear(MsgFlags::MSG_DONTWAIT, &mut self.script)?;
                client.settle(count, Instant::now(), &mut latencies);
                answered += count as u64;
            }
        }
        Ok(watch.stop(answered, latencies))
    }

    /// Lets epoll watch the clients that it does not watch yet.
    fn watch_clients(&mut self) -> Outcome<()> {
        for (place, client) in self.clients.iter().enumerate().rev() {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, place as u64);
            match self.epoll.add(&client.socket, event) {
                Ok(()) => {}
                Err(Errno::EEXIST) => break, // and so are those before it
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Waits to the nanosecond, which epoll_wait cannot: how many are ready.
    fn wait(&mut self, span: Duration) -> Outcome<usize> {
        let mut poll = [PollFd::new(self.epoll.0.as_fd(), PollFlags::POLLIN)];
        match ppoll(&mut poll, Some(TimeSpec::from(span)), None) {
            Ok(0) | Err(Errno::EINTR) => Ok(0),
            Ok(_) => Ok(self.epoll.wait(&mut self.events, 0u8)?),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Connections that carry one message each, so many at a time. The clients close them.
pub fn short_connections(server: &Running, slots: usize, until: Until) -> Outcome<Sample> {
    let mut script = Script::new(Shape::of(slots), server.by_line);
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let mut events = vec![EpollEvent::empty(); slots];
    let watch = Watch::start(server);
    let (mut answered, mut begun, mut latencies) = (0, 0, Vec::new());
    let mut begin = |slot: usize, script: &mut Script| -> Outcome<Client> {
        let now = Instant::now();
        let mut client = Client::connect(server, begun)?;
        begun += 1;
        epoll.add(&client.socket, EpollEvent::new(EpollFlags::EPOLLIN, slot as u64))?;
        client.say(1, now, script)?;
        Ok(client)
    };
    let clients = (0..slots).map(|slot| begin(slot, &mut script).map(Some));
    let mut clients = clients.collect::<Outcome<Vec<_>>>()?;
    let mut open = slots as u64;
    while open > 0 {
        let ready = epoll.wait(&mut events, PATIENCE.as_millis() as u16)?;
        if ready == 0 {
            return Err(format!("{open} short connections stay unanswered").into());
        }
        for event in &events[..ready] {
            let slot = event.data() as usize;
            let Some(client) = &mut clients[slot] else { continue };
            if client.hear(MsgFlags::MSG_DONTWAIT, &mut script)? == 0 {
                continue;
            }
            client.settle(1, Instant::now(), &mut latencies);
            clients[slot] = None; // closed
            answered += 1;
            open -= 1;
            if !until.is_over(watch.begin, answered + open) {
                clients[slot] = Some(begin(slot, &mut script)?);
                open += 1;
            }
        }
    }
    Ok(watch.stop(answered, latencies))
}
