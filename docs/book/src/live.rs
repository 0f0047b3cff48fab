//! What the kernel is asked, by connection; and rude clients, to see what they cause.
//!
//! The narrator gives each line to [`Log::tell`], which files it under the connection that it is
//! about. So whoever asks for the calls of a request gets those of its own connection, and of a
//! wait that reported several, the one event that is its own.

use crate::lanes::Told;
use crate::view::{Call, now};
use std::collections::{HashMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// So many connections are remembered, and so many lines of each.
const LIVES: usize = 256;
const LINES: usize = 400;

pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The lines of connections, oldest connection first.
#[derive(Default)]
pub struct Log {
    /// What made the loop and the listener.
    start: Vec<Told>,
    lives: VecDeque<Life>,
    /// How many were forgotten.
    before: usize,
    /// The life on each descriptor, by its number among all.
    open: HashMap<String, usize>,
    /// The descriptor behind each `data` that epoll reports.
    names: HashMap<String, String>,
    /// The wait that returned last, without its events.
    wait: Told,
    /// Whose bytes were received last: a callback is about it.
    current: usize,
    fell_asleep: Option<Duration>,
    pub asleep: Duration,
    pub woken: u64,
}

#[derive(Default)]
struct Life {
    port: String,
    lines: Vec<Told>,
    is_over: bool,
}

/// A request among the lines of its connection.
#[derive(Clone, Copy)]
pub struct Place {
    life: usize,
    from: usize,
    /// To the end of the connection, not only up to the next request.
    is_whole: bool,
}

fn is_receive(told: &Told) -> bool {
    told.1.starts_with("recvfrom(")
}

impl Log {
    pub fn falls_asleep(&mut self, at: Duration) {
        self.fell_asleep = Some(at);
    }

    /// Takes a line of the narrator.
    pub fn tell(&mut self, at: Duration, line: &str) {
        let Some(call) = Call::of(line) else { return };
        let mut arguments = call.arguments.split(", ");
        let first = arguments.next().unwrap_or_default();
        match call.name {
            "epoll_wait" => self.woke(at, line),
            "accept4" if !call.result.starts_with('-') => {
                let port = call.arguments.split("htons(").nth(1).unwrap_or_default();
                let port = port.split(')').next().unwrap_or_default().to_owned();
                let lines = vec![self.wait.clone(), (at, line.to_owned())];
                self.lives.push_back(Life { port, lines, is_over: false });
                if self.lives.len() > LIVES {
                    self.lives.pop_front();
                    self.before += 1;
                }
                self.open.insert(call.result.to_owned(), self.before + self.lives.len() - 1);
            }
            "epoll_ctl" => {
                let fd = arguments.nth(1).unwrap_or_default().to_owned();
                if let Some((_, data)) = line.split_once("data=") {
                    self.names
                        .insert(data.split('}').next().unwrap_or_default().to_owned(), fd.clone());
                }
                self.note(&fd, at, line);
            }
            "socket" | "epoll_create1" if self.woken == 0 => self.start.push((at, line.to_owned())),
            name => {
                self.note(first, at, line);
                match (name, self.open.get(first).copied()) {
                    ("recvfrom", Some(life)) => self.current = life,
                    ("close", Some(life)) => {
                        self.open.remove(first);
                        if let Some(life) = self.life(life) {
                            life.is_over = true;
                        }
                    }
                    _ => {}
                }
            }
        }
    }

    /// A wait has returned: each connection that it reports gets the line with its own event.
    fn woke(&mut self, at: Duration, line: &str) {
        self.woken += 1;
        if let Some(since) = self.fell_asleep.take() {
            self.asleep += at.saturating_sub(since);
        }
        let (before, events) = line.split_once('[').unwrap_or((line, ""));
        let (events, after) = events.split_once("], ").unwrap_or((events, ""));
        let events: Vec<&str> = events.split("}}, ").collect();
        let others = if events.len() > 1 { ", …" } else { "" };
        self.wait = (at, line.to_owned());
        for event in events {
            let event = event.trim_end_matches("}}");
            let data = event.split_once("data=").map_or("", |it| it.1);
            if let Some(fd) = self.names.get(data).cloned() {
                self.note(&fd, at, &format!("{before}[{event}}}}}{others}], {after}"));
            }
        }
    }

    fn note(&mut self, fd: &str, at: Duration, line: &str) {
        if let Some(life) = self.open.get(fd).copied().and_then(|life| self.life(life))
            && life.lines.len() < LINES
        {
            life.lines.push((at, line.to_owned()));
        }
    }

    fn life(&mut self, number: usize) -> Option<&mut Life> {
        self.lives.get_mut(number.checked_sub(self.before)?)
    }

    /// The request that has just been received: it begins with the wait that reported it, and the
    /// first one of a connection with the connection.
    pub fn request(&mut self) -> Place {
        let number = self.current;
        let lines = self.life(number).map_or(&[][..], |life| &life.lines);
        let from = match lines.iter().filter(|it| is_receive(it)).count() {
            0 | 1 => 0,
            _ => lines.iter().rposition(|told| told.1.starts_with("epoll_wait(")).unwrap_or(0),
        };
        Place { life: number, from, is_whole: false }
    }

    /// The lines of a request, up to the next one on its connection; and in front of them, for the
    /// picture, those that made the loop, the listener and the connection.
    pub fn lines(&mut self, place: Place) -> (Vec<Told>, Vec<Told>) {
        let start = self.start.clone();
        let Some(life) = self.life(place.life) else { return (start, Vec::new()) };
        let mut lines = life.lines.get(place.from..).unwrap_or_default().to_vec();
        let mut receives =
            lines.iter().enumerate().filter(|it| is_receive(it.1) && !place.is_whole);
        if let Some((second, _)) = receives.nth(1) {
            lines.truncate(second);
            lines.pop_if(|told| told.1.starts_with("epoll_wait("));
        }
        let birth = if place.from > 0 { life.lines.get(1..2).unwrap_or_default() } else { &[] };
        ([&start, birth].concat(), lines)
    }

    /// The connection that came from a port; and whether the server has closed it.
    fn caused(&self, port: u16) -> Option<(Place, bool)> {
        let port = port.to_string();
        let at = self.lives.iter().rposition(|life| life.port == port)?;
        let life = self.before + at;
        Some((Place { life, from: 0, is_whole: true }, self.lives.get(at)?.is_over))
    }
}

// ---- rude clients --------------------------------------------------------------------

type Seen = io::Result<String>;

pub struct Rude {
    pub name: &'static str,
    pub does: &'static str,
    act: fn(&mut TcpStream, &str) -> Seen,
}

/// What a rude client saw, and what it caused.
pub struct Deed {
    pub rude: &'static Rude,
    pub seen: String,
    pub caused: Option<Place>,
}

/// Each has one connection, so that all it caused can be shown.
pub const RUDE: [Rude; 8] = [
    Rude {
        name: "silent",
        does: "connects and leaves without a word",
        act: |_, _| Ok("nothing".into()),
    },
    Rude {
        name: "reset",
        does: "asks, and resets before it has read the answer",
        act: |client, ask| {
            client.write_all(ask.as_bytes())?;
            client.peek(&mut [0])?; // what is unread when it is closed makes the close a reset
            Ok("that an answer was there, and left it unread".into())
        },
    },
    Rude {
        name: "bytes",
        does: "sends its request a byte at a time",
        act: |client, ask| {
            for byte in ask.as_bytes() {
                client.write_all(&[*byte])?;
                thread::sleep(Duration::from_millis(2));
            }
            answer(client)
        },
    },
    Rude {
        name: "half",
        does: "asks, ends its side, and waits for the answer",
        act: |client, ask| {
            client.write_all(ask.as_bytes())?;
            client.shutdown(Shutdown::Write)?;
            answer(client)
        },
    },
    Rude {
        name: "deaf",
        does: "asks for 300 pages at once, and reads nothing for half a second",
        act: |client, ask| {
            client.write_all(ask.replace("close", "keep-alive").repeat(299).as_bytes())?;
            client.write_all(ask.as_bytes())?;
            thread::sleep(Duration::from_millis(500));
            answer(client)
        },
    },
    Rude {
        name: "slow",
        does: "sends half a request, and then nothing for a second",
        act: |client, ask| {
            client.write_all(ask.split_at(ask.len() / 2).0.as_bytes())?;
            thread::sleep(Duration::from_secs(1));
            Ok("nothing, and leaves".into())
        },
    },
    Rude {
        name: "flood",
        does: "sends a line of 4 MB without an end",
        act: |client, _| {
            let _ = client.write_all(&[b'x'; 4 << 20]); // it may be refused before
            answer(client)
        },
    },
    Rude {
        name: "noise",
        does: "sends bytes that are no HTTP",
        act: |client, _| {
            client.write_all(b"\0\xff\xfe\x80\r\n\x1b[2J\r\n\r\n")?;
            answer(client)
        },
    },
];

fn answer(client: &mut TcpStream) -> Seen {
    let mut answer = Vec::new();
    client.read_to_end(&mut answer)?;
    let first = answer.split(|byte| *byte == b'\r').next().unwrap_or_default();
    Ok(format!("{}, {} bytes in all, and the end", String::from_utf8_lossy(first), answer.len()))
}

/// Lets a client loose on the server at that address, and waits until the server is done with it.
pub fn let_loose(rude: &'static Rude, address: SocketAddr, log: &Mutex<Log>) -> Deed {
    let act = || -> io::Result<(u16, Seen)> {
        let mut client = TcpStream::connect(address)?;
        client.set_read_timeout(Some(Duration::from_secs(5)))?;
        client.set_write_timeout(Some(Duration::from_secs(5)))?;
        let host = client.peer_addr()?;
        let ask =
            format!("GET /docs/README.md HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        Ok((client.local_addr()?.port(), (rude.act)(&mut client, &ask)))
    };
    let (mut caused, begun) = (None, now());
    let seen = act().and_then(|(port, seen)| {
        while now() - begun < Duration::from_secs(10) {
            let found = locked(log).caused(port);
            caused = found.map(|it| it.0);
            if found.is_some_and(|it| it.1) {
                break;
            }
            thread::sleep(Duration::from_millis(5));
        }
        seen
    });
    Deed { rude, seen: seen.unwrap_or_else(|error| error.to_string()), caused }
}
