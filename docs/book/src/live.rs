//! What the kernel is asked, by connection.
//!
//! The narrator gives each line to [`Log::tell`], which files it under the connection that it is
//! about. So the calls of a request are those of its own connection, and of a wait that
//! reported several events, the one that is its own.

use crate::lanes::Told;
use crate::view::Call;
use std::collections::{HashMap, VecDeque};
use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Most connections remembered, and most lines of each.
const LIVES: usize = 256;
const LINES: usize = 400;

pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The bytes that the kernel holds for the connection with that client: those to be received, and
/// those sent and not acknowledged, as SIOCINQ and SIOCOUTQ report to the owner of the descriptor.
fn held(client: u16) -> Option<(u64, u64)> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(fs::read_to_string);
    let end = format!(":{client:04X}");
    tables.iter().flatten().flat_map(|table| table.lines()).find_map(|line| {
        let mut fields = line.split_whitespace().skip(2);
        let (peer, queues) = (fields.next()?, fields.nth(1)?);
        let (send, receive) = queues.split_once(':').filter(|_| peer.ends_with(&end))?;
        Some((u64::from_str_radix(receive, 16).ok()?, u64::from_str_radix(send, 16).ok()?))
    })
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
    /// The port of a client beside whose calls is written what the kernel holds for it.
    pub watched: Option<u16>,
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
    /// Number of receives of its connection, up to the last one of this request.
    receives: usize,
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
        let watched = self.watched;
        if let Some(life) = self.open.get(fd).copied().and_then(|life| self.life(life))
            && life.lines.len() < LINES
        {
            let port = life.port.parse().ok().filter(|port| watched == Some(*port));
            let (held, line) = (port.and_then(held), line.to_owned());
            let held = held.map(|(receive, send)| format!("\t{receive}\t{send}"));
            life.lines.push((at, line + &held.unwrap_or_default()));
        }
    }

    fn life(&mut self, number: usize) -> Option<&mut Life> {
        self.lives.get_mut(number.checked_sub(self.before)?)
    }

    /// The connection whose bytes were received last: in its first callback, its own.
    pub fn current(&self) -> usize {
        self.current
    }

    /// A request that is answered now, on that connection. It begins with the last wait that
    /// reported the connection, and the first one with the connection.
    pub fn request(&mut self, life: usize) -> Place {
        let lines = self.life(life).map_or(&[][..], |life| &life.lines);
        let receives = lines.iter().filter(|it| is_receive(it)).count();
        let wait = lines.iter().rposition(|told| told.1.starts_with("epoll_wait("));
        let from = wait.filter(|_| receives > 1).unwrap_or(0);
        Place { life, from, receives }
    }

    /// The lines of a request, up to the next one on its connection; and in front of them, for the
    /// picture, those that made the loop, the listener and the connection.
    pub fn lines(&mut self, place: Place) -> (Vec<Told>, Vec<Told>) {
        let start = self.start.clone();
        let Some(life) = self.life(place.life) else { return (start, Vec::new()) };
        let mut receives = (0..).zip(&life.lines).filter(|it| is_receive(it.1));
        let next = receives.nth(place.receives).map_or(life.lines.len(), |it| it.0);
        let mut lines = life.lines.get(place.from..next).unwrap_or_default().to_vec();
        if next < life.lines.len() {
            lines.pop_if(|told| told.1.starts_with("epoll_wait("));
        }
        let birth = if place.from > 0 { life.lines.get(1..2).unwrap_or_default() } else { &[] };
        ([&start, birth].concat(), lines)
    }

    /// The connection that came from a port; and whether the server has closed it.
    pub fn caused(&self, port: u16) -> Option<(Place, bool)> {
        let port = port.to_string();
        let at = self.lives.iter().rposition(|life| life.port == port)?;
        let life = self.before + at;
        Some((Place { life, from: 0, receives: usize::MAX }, self.lives.get(at)?.is_over))
    }
}
