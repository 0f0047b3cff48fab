//! A key-value server that speaks RESP, the protocol of Redis: strings, lists, expiry, pub/sub.
//!
//! ```text
//! cargo run --release --example resp             and, in another terminal:
//! redis-cli -p 1234 SET greeting hello EX 10
//! redis-benchmark -p 1234 -t set,get -P 16
//! cargo test --test sim resp                     its tests, without a socket
//! ```
//!
//! It shows what a handler has beside `on_data`: a timer for each key that expires, a group for
//! each channel, a pause and a timer for a client that waits (`BLPOP`), and timeouts of its own
//! for one that only listens (`SUBSCRIBE`).

use log::LevelFilter;
use simple_logger::SimpleLogger;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::error::Error;
use std::ops::Range;
use std::time::Duration;
use threadbare::{
    CloseReason, Conn, ConnId, ConnectionHandler, Fanout, Net, Server, Timeouts, TimerId,
};

/// The most arguments of a command, and the most bytes of one of them.
const ARGUMENTS: usize = 1_024;
const ARGUMENT: usize = 512 << 10;
/// The most bytes that keys and values take together, and what each costs besides.
const MEMORY: usize = 64 << 20;
const OVERHEAD: usize = 64;
/// The most channels of a client.
const CHANNELS: usize = 1_000;

type Bytes = Box<[u8]>;

/// All keys, and who waits for what. One value serves all clients.
#[derive(Default)]
struct Resp {
    keys: BTreeMap<Bytes, Entry>,
    /// What `keys` takes, in bytes.
    used: usize,
    /// Which key each timer ends.
    expiring: BTreeMap<TimerId, Bytes>,
    /// Clients in BLPOP, in their order; and what each of them waits for.
    waiting: BTreeMap<Bytes, VecDeque<ConnId>>,
    blocked: BTreeMap<ConnId, Bytes>,
}

struct Entry {
    value: Value,
    /// When it ends, as `Net::now` counts, and the timer that ends it.
    expiry: Option<(Duration, TimerId)>,
}

enum Value {
    Text(Vec<u8>),
    List(VecDeque<Bytes>),
}

/// What is remembered of a client.
#[derive(Default)]
struct Session {
    /// With less input than this its next command is not whole.
    needed: usize,
    /// The channels it listens to: while there are any, it takes few commands.
    channels: BTreeSet<Bytes>,
}

/// Why a command is not obeyed, in the words for the client.
type Refused = &'static str;

const WRONG_TYPE: Refused = "WRONGTYPE Operation against a key holding the wrong kind of value";
const NO_NUMBER: Refused = "ERR value is not an integer or out of range";

// ---- the protocol ------------------------------------------------------------------------

/// What the input begins with.
enum Parsed {
    /// A command: where its arguments stand, and how long it is.
    Command(Vec<Range<usize>>, usize),
    /// Not all of a command: at least this number of bytes is needed.
    Partial(usize),
    Wrong(&'static str),
}

/// The line at `start`: where it ends, and where the next begins.
fn line(input: &[u8], start: usize) -> Option<(usize, usize)> {
    let rest = input.get(start..)?;
    let end = start + rest.iter().position(|&byte| byte == b'\n')?;
    let is_crlf = end > start && input.get(end - 1) == Some(&b'\r');
    Some((if is_crlf { end - 1 } else { end }, end + 1))
}

/// The number in the line at `start`, behind `mark`; and where the next line begins.
fn length(input: &[u8], start: usize, mark: u8, most: usize) -> Result<(usize, usize), Parsed> {
    let Some((end, next)) = line(input, start) else {
        let is_short = input.len() - start.min(input.len()) < 32; // no number is longer
        let partial = Parsed::Partial(input.len() + 1);
        return Err(if is_short { partial } else { Parsed::Wrong("length") });
    };
    let text = input.get(start..end).and_then(|text| text.strip_prefix(&[mark]));
    let number = text.and_then(number::<usize>).filter(|number| *number <= most);
    number.map(|number| (number, next)).ok_or(Parsed::Wrong("length"))
}

fn parse(input: &[u8]) -> Parsed {
    if input.first() != Some(&b'*') {
        return inline(input);
    }
    array(input).map_or_else(|parsed| parsed, |(words, length)| Parsed::Command(words, length))
}

/// `*2 $3 GET $1 a`, each on a line of its own.
fn array(input: &[u8]) -> Result<(Vec<Range<usize>>, usize), Parsed> {
    let (count, mut at) = length(input, 0, b'*', ARGUMENTS)?;
    let mut arguments = Vec::with_capacity(count);
    for _ in 0..count {
        let (bytes, start) = length(input, at, b'$', ARGUMENT)?;
        at = start + bytes + 2; // CRLF
        if at > input.len() {
            return Err(Parsed::Partial(at));
        }
        arguments.push(start..start + bytes);
    }
    Ok((arguments, at))
}

/// `GET a`, as a person types it.
fn inline(input: &[u8]) -> Parsed {
    let Some((end, next)) = line(input, 0) else {
        let is_long = input.len() > 64 << 10;
        return if is_long { Parsed::Wrong("line") } else { Parsed::Partial(input.len() + 1) };
    };
    let (mut arguments, mut start) = (Vec::new(), 0);
    for word in input.get(..end).unwrap_or_default().split(|&byte| byte == b' ') {
        if !word.is_empty() && arguments.len() < ARGUMENTS {
            arguments.push(start..start + word.len());
        }
        start += word.len() + 1;
    }
    Parsed::Command(arguments, next)
}

fn number<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    str::from_utf8(text).ok()?.parse().ok()
}

fn bulk(conn: &mut Conn<'_>, bytes: Option<&[u8]>) {
    let Some(bytes) = bytes else { return conn.write(b"$-1\r\n") };
    write!(conn, "${}\r\n", bytes.len());
    conn.write(bytes);
    conn.write(b"\r\n");
}

fn integer(conn: &mut Conn<'_>, number: i64) {
    write!(conn, ":{number}\r\n");
}

fn ok(conn: &mut Conn<'_>) {
    conn.write(b"+OK\r\n");
}

// ---- the commands ------------------------------------------------------------------------

impl Resp {
    fn obey(
        &mut self,
        conn: &mut Conn<'_>,
        session: &mut Session,
        command: &[u8],
        arguments: &[&[u8]],
    ) -> Result<(), Refused> {
        match (command, arguments) {
            (b"QUIT", []) => {
                ok(conn);
                conn.close(); // what stands behind it is not obeyed: `is_full` ends the loop
            }
            (b"SUBSCRIBE", [_, ..]) => self.subscribe(conn, session, arguments)?,
            (b"UNSUBSCRIBE", _) => unsubscribe(conn, session, arguments),
            (b"PING", []) if !session.channels.is_empty() => {
                conn.write(b"*2\r\n$4\r\npong\r\n$0\r\n\r\n");
            }
            _ if !session.channels.is_empty() => {
                return Err("ERR only (UN)SUBSCRIBE, PING and QUIT are allowed in this context");
            }
            (b"PING", []) => conn.write(b"+PONG\r\n"),
            (b"PING" | b"ECHO", [text]) => bulk(conn, Some(text)),
            (b"COMMAND" | b"CONFIG", _) => conn.write(b"*0\r\n"), // redis-benchmark asks
            (b"PUBLISH", [channel, message]) => {
                let Fanout { sent, .. } = publish(conn.net(), channel, message);
                integer(conn, sent as i64);
            }
            (b"PUBSUB", [b"NUMSUB", channel]) => {
                let count = conn.net().members(channel).len();
                conn.write(b"*2\r\n");
                bulk(conn, Some(channel));
                integer(conn, count as i64);
            }
            _ => return self.obey_for_keys(conn, command, arguments),
        }
        Ok(())
    }

    fn obey_for_keys(
        &mut self,
        conn: &mut Conn<'_>,
        command: &[u8],
        arguments: &[&[u8]],
    ) -> Result<(), Refused> {
        match (command, arguments) {
            (b"GET", [key]) => bulk(conn, self.text(key)?),
            (b"SET", [key, value, options @ ..]) => self.set(conn, key, value, options)?,
            (b"INCR", [key]) => self.add(conn, key, 1)?,
            (b"INCRBY", [key, by]) => self.add(conn, key, number(by).ok_or(NO_NUMBER)?)?,
            (b"DEL", keys) => {
                let net = conn.net();
                let gone = keys.iter().filter(|key| self.remove(net, key)).count();
                integer(conn, gone as i64);
            }
            (b"DBSIZE", []) => integer(conn, self.keys.len() as i64),
            (b"FLUSHALL", []) => {
                self.expiring.keys().for_each(|timer| _ = conn.net().cancel(*timer));
                (self.keys, self.expiring, self.used) = Default::default();
                ok(conn);
            }
            (b"EXPIRE", [key, time]) => self.expire(conn, key, duration(time, 1_000)?),
            (b"PTTL", [key]) => self.time_left(conn, key),
            (b"LPUSH" | b"RPUSH", [key, values @ ..]) if !values.is_empty() => {
                self.push(conn, key, values, command == b"LPUSH")?;
            }
            (b"LPOP" | b"RPOP", [key]) => {
                let popped = self.pop(conn.net(), key, command == b"LPOP")?;
                bulk(conn, popped.as_deref());
            }
            (b"BLPOP", [key, timeout]) => self.pop_or_wait(conn, key, timeout)?,
            (b"LLEN", [key]) => integer(conn, self.list(key)?.map_or(0, VecDeque::len) as i64),
            _ => return Err("ERR unknown command, or wrong number of arguments"),
        }
        Ok(())
    }

    fn text(&self, key: &[u8]) -> Result<Option<&[u8]>, Refused> {
        match self.keys.get(key).map(|entry| &entry.value) {
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(Value::List(_)) => Err(WRONG_TYPE),
            None => Ok(None),
        }
    }

    fn list(&self, key: &[u8]) -> Result<Option<&VecDeque<Bytes>>, Refused> {
        match self.keys.get(key).map(|entry| &entry.value) {
            Some(Value::List(list)) => Ok(Some(list)),
            Some(Value::Text(_)) => Err(WRONG_TYPE),
            None => Ok(None),
        }
    }

    /// Lets a key have this value forever.
    fn put(&mut self, net: &mut Net, key: &[u8], value: Value) -> Result<(), Refused> {
        self.take(OVERHEAD + key.len() + value.size())?;
        self.remove(net, key);
        self.keys.insert(key.into(), Entry { value, expiry: None });
        Ok(())
    }

    /// Counts what is kept more from now on.
    fn take(&mut self, bytes: usize) -> Result<(), Refused> {
        if self.used + bytes > MEMORY {
            return Err("OOM command not allowed when used memory is at its limit");
        }
        self.used += bytes;
        Ok(())
    }

    fn remove(&mut self, net: &mut Net, key: &[u8]) -> bool {
        self.set_expiry(net, key, None);
        let Some(entry) = self.keys.remove(key) else { return false };
        self.used -= OVERHEAD + key.len() + entry.value.size();
        true
    }

    fn set(
        &mut self,
        conn: &mut Conn<'_>,
        key: &[u8],
        value: &[u8],
        mut options: &[&[u8]],
    ) -> Result<(), Refused> {
        let (mut expiry, mut if_there) = (None, None);
        loop {
            options = match options {
                [] => break,
                [unit @ (b"EX" | b"ex" | b"PX" | b"px"), time, rest @ ..] => {
                    let unit = if unit.eq_ignore_ascii_case(b"EX") { 1_000 } else { 1 };
                    expiry = Some(duration(time, unit)?);
                    rest
                }
                [b"NX" | b"nx", rest @ ..] => {
                    if_there = Some(false);
                    rest
                }
                [b"XX" | b"xx", rest @ ..] => {
                    if_there = Some(true);
                    rest
                }
                _ => return Err("ERR syntax error"),
            }
        }
        if if_there.is_some_and(|wanted| wanted != self.keys.contains_key(key)) {
            bulk(conn, None);
            return Ok(());
        }
        self.put(conn.net(), key, Value::Text(value.to_vec()))?;
        self.set_expiry(conn.net(), key, expiry);
        ok(conn);
        Ok(())
    }

    fn add(&mut self, conn: &mut Conn<'_>, key: &[u8], by: i64) -> Result<(), Refused> {
        let old = self.text(key)?.map_or(Some(0), number::<i64>).ok_or(NO_NUMBER)?;
        let new = old.checked_add(by).ok_or(NO_NUMBER)?;
        let digits = new.to_string().into_bytes();
        match self.keys.get_mut(key).map(|entry| &mut entry.value) {
            Some(Value::Text(text)) => {
                self.used = self.used + digits.len() - text.len();
                *text = digits; // its time goes on
            }
            _ => self.put(conn.net(), key, Value::Text(digits))?,
        }
        integer(conn, new);
        Ok(())
    }

    // ---- time

    // ANCHOR: set_expiry
    /// Sets when a key expires, or that it never does.
    fn set_expiry(&mut self, net: &mut Net, key: &[u8], after: Option<Duration>) {
        let Some(entry) = self.keys.get_mut(key) else { return };
        if let Some((_, timer)) = entry.expiry.take() {
            net.cancel(timer);
            self.expiring.remove(&timer);
        }
        if let Some(after) = after {
            let timer = net.after(after, 0);
            entry.expiry = Some((net.now() + after, timer));
            self.expiring.insert(timer, key.into());
        }
    }
    // ANCHOR_END: set_expiry

    fn expire(&mut self, conn: &mut Conn<'_>, key: &[u8], after: Duration) {
        let is_there = self.keys.contains_key(key);
        self.set_expiry(conn.net(), key, Some(after));
        integer(conn, is_there.into());
    }

    fn time_left(&self, conn: &mut Conn<'_>, key: &[u8]) {
        let now = conn.net().now();
        let left = |at: Duration| at.saturating_sub(now).as_millis() as i64;
        let entry = self.keys.get(key).map(|entry| entry.expiry);
        integer(conn, entry.map_or(-2, |expiry| expiry.map_or(-1, |(at, _)| left(at))));
    }

    // ---- lists

    fn push(
        &mut self,
        conn: &mut Conn<'_>,
        key: &[u8],
        values: &[&[u8]],
        in_front: bool,
    ) -> Result<(), Refused> {
        if self.list(key)?.is_none() {
            self.put(conn.net(), key, Value::List(VecDeque::new()))?;
        }
        self.take(values.iter().map(|value| OVERHEAD + value.len()).sum())?;
        let Some(Entry { value: Value::List(list), .. }) = self.keys.get_mut(key) else {
            return Err(WRONG_TYPE);
        };
        for &value in values {
            if in_front { list.push_front(value.into()) } else { list.push_back(value.into()) }
        }
        integer(conn, list.len() as i64);
        self.serve_waiting(conn.net(), key)
    }

    fn pop(&mut self, net: &mut Net, key: &[u8], front: bool) -> Result<Option<Bytes>, Refused> {
        self.list(key)?;
        let Some(Entry { value: Value::List(list), .. }) = self.keys.get_mut(key) else {
            return Ok(None);
        };
        let popped = if front { list.pop_front() } else { list.pop_back() };
        let is_empty = list.is_empty();
        self.used -= popped.as_ref().map_or(0, |value| OVERHEAD + value.len());
        if is_empty {
            self.remove(net, key);
        }
        Ok(popped)
    }

    // ---- clients that wait

    // ANCHOR: wait
    /// Answers now, or pauses the client until there is something, or its time is over.
    fn pop_or_wait(
        &mut self,
        conn: &mut Conn<'_>,
        key: &[u8],
        timeout: &[u8],
    ) -> Result<(), Refused> {
        let timeout = duration(timeout, 1_000)?;
        if let Some(value) = self.pop(conn.net(), key, true)? {
            popped(conn, key, &value);
            return Ok(());
        }
        self.blocked.insert(conn.id(), key.into());
        self.waiting.entry(key.into()).or_default().push_back(conn.id());
        conn.set_timer(Some(timeout).filter(|timeout| !timeout.is_zero()));
        conn.pause();
        Ok(())
    }
    // ANCHOR_END: wait

    /// Gives what a list has to those who wait for it.
    fn serve_waiting(&mut self, net: &mut Net, key: &[u8]) -> Result<(), Refused> {
        while let Some(&id) = self.waiting.get(key).and_then(|waiting| waiting.front()) {
            let Some(value) = self.pop(net, key, true)? else { return Ok(()) };
            self.unblock(net, id, |conn| popped(conn, key, &value));
        }
        Ok(())
    }

    /// A client need not wait any more.
    fn unblock(&mut self, net: &mut Net, id: ConnId, answer: impl FnOnce(&mut Conn<'_>)) {
        let Some(key) = self.blocked.remove(&id) else { return };
        if let Some(waiting) = self.waiting.get_mut(&key) {
            waiting.retain(|other| *other != id);
            if waiting.is_empty() {
                self.waiting.remove(&key);
            }
        }
        if let Some(mut conn) = net.conn(id) {
            answer(&mut conn);
            conn.set_timer(None);
            conn.resume();
        }
    }

    // ---- channels

    // ANCHOR: subscribe
    /// From now on the client only listens, and need not say anything.
    fn subscribe(
        &mut self,
        conn: &mut Conn<'_>,
        session: &mut Session,
        channels: &[&[u8]],
    ) -> Result<(), Refused> {
        if session.channels.len() + channels.len() > CHANNELS {
            return Err("ERR too many channels");
        }
        conn.set_timeouts(Timeouts { idle: None, ..conn.timeouts() });
        let id = conn.id();
        for &channel in channels {
            session.channels.insert(channel.into());
            conn.net().join(channel, id); // it leaves by itself when it closes
            tell(conn, "subscribe", Some(channel), session.channels.len());
        }
        Ok(())
    }
    // ANCHOR_END: subscribe
}

fn unsubscribe(conn: &mut Conn<'_>, session: &mut Session, channels: &[&[u8]]) {
    let id = conn.id();
    let all: Vec<Bytes> = match channels {
        [] => session.channels.iter().cloned().collect(),
        some => some.iter().map(|&channel| channel.into()).collect(),
    };
    for channel in &all {
        session.channels.remove(channel);
        conn.net().leave(channel, id);
        tell(conn, "unsubscribe", Some(channel), session.channels.len());
    }
    if all.is_empty() {
        tell(conn, "unsubscribe", None, 0);
    }
}

fn tell(conn: &mut Conn<'_>, what: &str, channel: Option<&[u8]>, count: usize) {
    conn.write(b"*3\r\n");
    bulk(conn, Some(what.as_bytes()));
    bulk(conn, channel);
    integer(conn, count as i64);
}

fn publish(net: &mut Net, channel: &[u8], message: &[u8]) -> Fanout {
    let mut frame = b"*3\r\n$7\r\nmessage\r\n".to_vec();
    for part in [channel, message] {
        frame.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
        frame.extend_from_slice(part);
        frame.extend_from_slice(b"\r\n");
    }
    net.send_group(channel, &frame, None)
}

fn popped(conn: &mut Conn<'_>, key: &[u8], value: &[u8]) {
    conn.write(b"*2\r\n");
    bulk(conn, Some(key));
    bulk(conn, Some(value));
}

fn duration(text: &[u8], unit: u64) -> Result<Duration, Refused> {
    let millis = number::<u64>(text).and_then(|count| count.checked_mul(unit));
    millis.map(Duration::from_millis).ok_or(NO_NUMBER)
}

impl Value {
    fn size(&self) -> usize {
        match self {
            Value::Text(text) => text.len(),
            Value::List(list) => list.iter().map(|value| OVERHEAD + value.len()).sum(),
        }
    }
}

impl ConnectionHandler for Resp {
    type Session = Session;

    fn on_data(&mut self, conn: &mut Conn<'_>, session: &mut Session, input: &[u8]) -> usize {
        let mut rest = input;
        while !conn.is_full() && !conn.is_paused() && rest.len() >= session.needed.max(1) {
            session.needed = 0;
            match parse(rest) {
                Parsed::Command(arguments, length) => {
                    let (command, later) = rest.split_at_checked(length).unwrap_or((rest, &[]));
                    rest = later;
                    let arguments = arguments.into_iter().filter_map(|range| command.get(range));
                    let arguments: Vec<&[u8]> = arguments.collect();
                    let Some((name, arguments)) = arguments.split_first() else { continue };
                    let name = name.to_ascii_uppercase();
                    if let Err(refused) = self.obey(conn, session, &name, arguments) {
                        write!(conn, "-{refused}\r\n");
                    }
                }
                Parsed::Partial(needed) => session.needed = needed,
                Parsed::Wrong(what) => {
                    write!(conn, "-ERR Protocol error: invalid {what}\r\n");
                    conn.close();
                }
            }
        }
        input.len() - rest.len()
    }

    /// The time of a client in BLPOP is over.
    fn on_timer(&mut self, conn: &mut Conn<'_>, _: &mut Session) {
        let id = conn.id();
        self.unblock(conn.net(), id, |conn| conn.write(b"*-1\r\n"));
    }

    // ANCHOR: on_tick
    /// The time of a key is over.
    fn on_tick(&mut self, net: &mut Net, timer: TimerId, _: u64) {
        if let Some(key) = self.expiring.remove(&timer) {
            self.remove(net, &key);
        }
    }
    // ANCHOR_END: on_tick

    /// A client in BLPOP ends its side: as with Redis it is gone, and nothing is popped for it.
    fn on_hangup(&mut self, conn: &mut Conn<'_>, _: &mut Session) {
        conn.close();
    }

    fn on_close(&mut self, net: &mut Net, id: ConnId, _: Session, _: CloseReason) {
        self.unblock(net, id, |_| ());
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    SimpleLogger::new().with_level(LevelFilter::Info).init()?;
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:1234".into());
    let mut server = Server::builder(Resp::default()).own_process(true).bind(&*address)?;
    for address in server.addresses() {
        println!("listening on {address}");
    }
    server.run()?; // until Ctrl-C
    Ok(())
}

#[cfg(test)]
#[path = "../../tests/sim/resp.rs"]
mod tests;
