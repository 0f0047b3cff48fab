//! Step 7: the lingering close. A refused client gets FIN first, and what it still sends is read
//! and thrown away: closing a socket with unread input makes the kernel reset the connection.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// A client with this many unsent bytes is not read.
const FULL: usize = 256 * 1024;
/// The longest line, in bytes.
const LONGEST: usize = 64 * 1024;

fn main() -> io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:1234".to_owned());
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let listens = name(&listener);
    epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, listens))?;
    println!("listening on {}", listener.local_addr()?);

    let mut clients: HashMap<u64, Client> = HashMap::new();
    let mut events = [EpollEvent::empty(); 64];
    loop {
        let ready = match epoll.wait(&mut events, EpollTimeout::NONE) {
            Err(Errno::EINTR) => 0, // the process was stopped and continued
            ready => ready?,
        };
        for event in events.iter().take(ready) {
            let id = event.data();
            if id == listens {
                let Ok((stream, _)) = listener.accept() else { continue };
                let id = name(&stream);
                clients.extend(admit(&epoll, stream, id).ok());
            } else if let Some(client) = clients.get_mut(&id) {
                let stays = client.serve().unwrap_or(false);
                if !stays || client.watch(&epoll, id).is_err() {
                    clients.remove(&id); // dropped, and so closed, and so out of the epoll set
                }
            }
        }
    }
}

/// The number that epoll reports for a socket: its descriptor.
fn name(socket: &impl AsRawFd) -> u64 {
    socket.as_raw_fd() as u64
}

/// Watches a new client's socket.
fn admit(epoll: &Epoll, stream: TcpStream, id: u64) -> io::Result<(u64, Client)> {
    stream.set_nonblocking(true)?;
    let watched = EpollFlags::EPOLLIN;
    epoll.add(&stream, EpollEvent::new(watched, id))?;
    let (input, output) = (Vec::new(), Vec::new());
    let (has_ended, must_go, told) = (false, false, false);
    Ok((id, Client { stream, input, output, has_ended, must_go, told, watched }))
}

struct Client {
    stream: TcpStream,
    /// Bytes that have arrived and are not a whole line yet.
    input: Vec<u8>,
    /// Answers that the kernel has not taken yet.
    output: Vec<u8>,
    /// The client has closed its sending direction: EOF.
    has_ended: bool,
    /// It has sent something that the server refuses. Whatever else it sends is thrown away.
    must_go: bool,
    /// FIN has been sent to it.
    told: bool,
    /// The events that epoll watches it for.
    watched: EpollFlags,
}

impl Client {
    /// Does what can be done without waiting. Returns whether the client is still there.
    fn serve(&mut self) -> io::Result<bool> {
        if self.reads() {
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes) {
                Ok(0) => self.has_ended = true,
                Ok(count) => self.input.extend(bytes.iter().take(count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        if self.must_go {
            self.input.clear();
        }
        self.answer();
        self.flush()?;
        if self.input.len() > LONGEST {
            self.must_go = true;
        }
        if self.must_go && !self.told && self.output.is_empty() {
            self.stream.shutdown(Shutdown::Write)?; // FIN: the client reads EOF
            self.told = true;
        }
        Ok(!(self.has_ended && self.output.is_empty()))
    }

    /// Whether to read from it. What is not read fills the socket's buffer, then the
    /// client's, and then the client must wait: TCP calls this flow control.
    fn reads(&self) -> bool {
        !self.has_ended && self.output.len() < FULL
    }

    /// Sends as much as the kernel takes. The rest stays here until there is room.
    fn flush(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Asks epoll for room to write while bytes wait for it, and only then: there is nearly
    /// always room, and epoll would report it again and again.
    fn watch(&mut self, epoll: &Epoll, id: u64) -> io::Result<()> {
        let mut wanted = EpollFlags::empty();
        wanted.set(EpollFlags::EPOLLIN, self.reads());
        wanted.set(EpollFlags::EPOLLOUT, !self.output.is_empty());
        if wanted != self.watched {
            epoll.modify(&self.stream, &mut EpollEvent::new(wanted, id))?;
            self.watched = wanted;
        }
        Ok(())
    }

    /// Answers the whole lines; at EOF, also what follows the last one.
    fn answer(&mut self) {
        let whole = self.input.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        let whole = if self.has_ended { self.input.len() } else { whole };
        let lines: Vec<u8> = self.input.drain(..whole).collect();
        for line in lines.split_inclusive(|&byte| byte == b'\n') {
            self.output.extend(answer_to(line));
        }
    }
}

/// The answer to a message. One that begins with `slow` takes a second, as a database may.
fn answer_to(message: &[u8]) -> Vec<u8> {
    if message.starts_with(b"slow") {
        thread::sleep(Duration::from_secs(1));
    }
    [b"Thank you for your message ", message].concat()
}
