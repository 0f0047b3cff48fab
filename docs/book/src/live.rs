//! What the kernel was asked, a line a call.
//!
//! The narrator gives each line to [`Log::tell`], and it is kept as it is. Which lines are about
//! a connection is found out when somebody asks: those that name its descriptor, and of a wait
//! that reported several events, the one that is its own. A connection carries one request, so
//! these are the calls of that request.

use crate::view::Call;
use std::collections::VecDeque;
use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What makes the loop and the listener.
const MADE: [&str; 3] = ["socket(", "listen(", "epoll_create1("];
/// Most lines remembered.
const MOST: usize = 20_000;

pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A line of the narrator, when it came, and what the kernel held for the client then: bytes to
/// be received, and bytes that the client has not acknowledged.
#[derive(Clone)]
pub struct Line {
    pub at: Duration,
    pub text: String,
    pub held: Option<(u64, u64)>,
}

#[derive(Default)]
pub struct Log {
    lines: VecDeque<Line>,
    /// How many were forgotten.
    before: usize,
    /// Those of [`MADE`].
    pub start: Vec<Line>,
    /// The port of a client beside whose calls is written what the kernel holds for it.
    pub watched: Option<u16>,
    pub fell_asleep: Option<Duration>,
    pub asleep: Duration,
    pub woken: u64,
}

/// A connection, by the number of the line that accepted it.
#[derive(Clone, Copy)]
pub struct Life(usize);

impl Log {
    /// Takes a line of the narrator.
    pub fn tell(&mut self, at: Duration, text: &str) {
        let line = Line { at, text: text.to_owned(), held: self.watched.and_then(held) };
        if text.starts_with("epoll_wait(") {
            self.woken += 1;
            self.asleep += at.saturating_sub(self.fell_asleep.take().unwrap_or(at));
        } else if self.woken == 0 && MADE.iter().any(|name| text.starts_with(name)) {
            self.start.push(line.clone());
        }
        self.lines.push_back(line);
        if self.lines.len() > MOST {
            self.lines.pop_front();
            self.before += 1;
        }
    }

    /// The connection that was received from last.
    pub fn current(&self) -> Option<Life> {
        let line = self.lines.iter().rfind(|line| line.text.starts_with("recvfrom("))?;
        let fd = line.text.split(['(', ',']).nth(1)?;
        self.accepted(&format!(" = {fd}  # "))
    }

    /// The connection that was accepted last in such a line.
    pub fn accepted(&self, how: &str) -> Option<Life> {
        let accepts = |line: &Line| line.text.starts_with("accept4(") && line.text.contains(how);
        Some(Life(self.before + self.lines.iter().rposition(accepts)?))
    }

    /// The lines about a connection, from the wait that reported it in the queue to its close.
    pub fn lines(&self, Life(born): Life) -> Vec<Line> {
        let born = born.wrapping_sub(self.before); // one that is forgotten is behind the end
        let Some(accept) = self.lines.get(born) else { return Vec::new() };
        let fd = Call::of(&accept.text).map_or("", |call| call.result);
        let mut earlier = self.lines.range(..born).rev();
        let mut own =
            Vec::from_iter(earlier.find(|it| it.text.starts_with("epoll_wait(")).cloned());
        let mut data = None;
        own.push(accept.clone());
        for line in self.lines.range(born + 1..) {
            let Some(call) = Call::of(&line.text) else { continue };
            let nth = if call.name == "epoll_ctl" { 2 } else { 0 };
            if call.name == "epoll_wait" {
                let text = data.and_then(|data| own_event(&line.text, data));
                own.extend(text.map(|text| Line { text, ..line.clone() }));
            } else if call.arguments.split(", ").nth(nth) == Some(fd) {
                own.push(line.clone());
                let registered = call.arguments.split_once("data=");
                data = registered.map(|it| it.1.trim_end_matches('}')).or(data);
                if call.name == "close" {
                    break;
                }
            }
        }
        own
    }
}

/// The line of a wait with one of its events, if that was reported.
fn own_event(line: &str, data: &str) -> Option<String> {
    let (before, rest) = line.split_once('[')?;
    let (events, after) = rest.split_once("], ")?;
    let events: Vec<&str> = events.trim_end_matches('}').split("}}, ").collect();
    let own = events.iter().find(|event| event.ends_with(data))?;
    let others = if events.len() > 1 { ", …" } else { "" };
    Some(format!("{before}[{own}}}}}{others}], {after}"))
}

/// What the kernel holds for the connection with that client, as SIOCINQ and SIOCOUTQ report to
/// the owner of the descriptor.
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
