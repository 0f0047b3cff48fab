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
    /// What made the loop and the listener.
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
            let slept = self.fell_asleep.take().map(|since| at.saturating_sub(since));
            self.asleep += slept.unwrap_or_default();
        } else if self.woken == 0 && (text.starts_with("socket(") || text.starts_with("epoll_cr")) {
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
        let born = born.checked_sub(self.before).filter(|born| *born < self.lines.len());
        let (earlier, later) = (self.lines.range(..born.unwrap_or(0)), born.unwrap_or(usize::MAX));
        let (mut own, mut fd, mut data) = (Vec::new(), "", None);
        own.extend(earlier.rev().find(|line| line.text.starts_with("epoll_wait(")).cloned());
        for line in self.lines.iter().skip(later) {
            let Some(call) = Call::of(&line.text) else { continue };
            let about = |nth| call.arguments.split(", ").nth(nth) == Some(fd);
            let text = match call.name {
                "accept4" if fd.is_empty() => {
                    fd = call.result;
                    Some(line.text.clone())
                }
                "epoll_wait" => data.and_then(|data| own_event(&line.text, data)),
                "epoll_ctl" if about(2) => {
                    data = call.arguments.split_once("data=").map(|it| it.1.trim_end_matches('}'));
                    Some(line.text.clone())
                }
                "epoll_ctl" => None,
                _ => about(0).then(|| line.text.clone()),
            };
            let is_last = text.is_some() && call.name == "close";
            own.extend(text.map(|text| Line { text, ..line.clone() }));
            if is_last {
                break;
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
