//! The whole idea in a hundred lines: one thread, many clients, nothing that waits but
//! `epoll_wait`.
//!
//! ```text
//! cargo run --example mini_reactor                 and in other terminals:
//! make client SAY=hello
//! ```
//!
//! It answers lines, whatever its clients do to it. What it leaves out, the rest of this
//! repository is about: a stop that loses nothing, time limits, a bound for all clients
//! together, being out of descriptors, fairness, a handler of your own.

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};

/// Stands for the listener among the events; clients count up from here.
const LISTENER: u64 = 0;
/// A client with so much unread is not read.
const FULL: usize = 256 * 1024;
/// The longest line.
const LONGEST: usize = 64 * 1024;

/// One client: its socket, and the bytes that wait on either side of it.
struct Client {
    stream: TcpStream,
    input: Vec<u8>,
    output: Vec<u8>,
    /// It will say no more.
    has_ended: bool,
    /// What epoll watches it for.
    watched: EpollFlags,
}

fn main() -> io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:1234".to_owned());
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
    println!("listening on {}", listener.local_addr()?);

    let mut clients = HashMap::new();
    let mut newest = LISTENER;
    let mut events = [EpollEvent::empty(); 64];
    loop {
        let ready = match epoll.wait(&mut events, EpollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => 0, // SIGSTOP and SIGCONT are enough
            ready => ready?,
        };
        for event in events.iter().take(ready) {
            if event.data() == LISTENER {
                let Ok((stream, _)) = listener.accept() else { continue }; // none, or no descriptor
                newest += 1; // never reused: an old event finds no client
                clients.extend(admit(&epoll, stream, newest).ok());
            } else if let Some(client) = clients.get_mut(&event.data()) {
                let goes_on = client.serve().unwrap_or(false);
                if !goes_on || client.watch(&epoll, event.data()).is_err() {
                    clients.remove(&event.data()); // dropped: closed, and out of the epoll set
                }
            }
        }
    }
}

fn admit(epoll: &Epoll, stream: TcpStream, id: u64) -> io::Result<(u64, Client)> {
    stream.set_nonblocking(true)?;
    let watched = EpollFlags::EPOLLIN;
    epoll.add(&stream, EpollEvent::new(watched, id))?;
    let (input, output) = (Vec::new(), Vec::new());
    Ok((id, Client { stream, input, output, has_ended: false, watched }))
}

impl Client {
    /// Does what can be done without waiting. Returns whether there will be more to do.
    fn serve(&mut self) -> io::Result<bool> {
        if !self.has_ended && self.output.len() < FULL {
            let mut bytes = [0; 16 * 1024];
            match self.stream.read(&mut bytes) {
                Ok(0) => self.has_ended = true,
                Ok(count) => self.input.extend(bytes.iter().take(count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error), // a reset, for instance
            }
        }
        self.answer();
        // As much as the kernel takes. The rest stays here until it has room.
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(!(self.has_ended && self.output.is_empty()) && self.input.len() <= LONGEST)
    }

    /// A line is a message; so is what stands behind the last one when nothing more comes.
    fn answer(&mut self) {
        let whole = self.input.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        let whole = if self.has_ended { self.input.len() } else { whole };
        for line in self.input.drain(..whole).as_slice().split_inclusive(|&byte| byte == b'\n') {
            self.output.extend(b"Thank you for your message ");
            self.output.extend(line);
        }
    }

    /// Level-triggered epoll reports an event as long as its condition holds. So only what
    /// will be used is asked for, and `modify` is called only for changes.
    fn watch(&mut self, epoll: &Epoll, id: u64) -> io::Result<()> {
        let reads = !self.has_ended && self.output.len() < FULL;
        let mut wanted = EpollFlags::empty();
        wanted.set(EpollFlags::EPOLLIN, reads);
        wanted.set(EpollFlags::EPOLLOUT, !self.output.is_empty());
        if wanted != self.watched {
            epoll.modify(&self.stream, &mut EpollEvent::new(wanted, id))?;
            self.watched = wanted;
        }
        Ok(())
    }
}
