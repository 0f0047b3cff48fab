//! Step 10: slow work. A question that takes long goes to a thread, and its answer comes back
//! through an eventfd: a descriptor that epoll can watch.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

/// A question with the client that asked it; or an answer with the client that gets it.
type Job = (u64, Vec<u8>);

/// A client with this many unsent bytes is not read.
const FULL: usize = 256 * 1024;
/// The longest line, in bytes.
const LONGEST: usize = 64 * 1024;
/// How long a client may neither send nor read anything.
const SILENCE: Duration = Duration::from_secs(5);
/// How long a refused client may take to close its side.
const LINGER: Duration = Duration::from_secs(2);

fn main() -> io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:1234".to_owned());
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let listens = name(&listener);
    epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, listens))?;
    println!("listening on {}", listener.local_addr()?);

    let bell = Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?);
    let rings = name(&*bell);
    epoll.add(&*bell, EpollEvent::new(EpollFlags::EPOLLIN, rings))?;
    let (asks, asked) = channel();
    let (answers, answered) = channel();
    thread::spawn({
        let bell = Arc::clone(&bell);
        move || work(&asked, &answers, &bell)
    });

    let mut accepts = true;
    let mut clients: HashMap<u64, Client> = HashMap::new();
    let mut events = [EpollEvent::empty(); 64];
    loop {
        let ready = match epoll.wait(&mut events, time_left(&clients)) {
            Err(Errno::EINTR) => 0, // the process was stopped and continued
            ready => ready?,
        };
        let (mut has_left, mut turns) = (false, Vec::new());
        for event in events.iter().take(ready) {
            let id = event.data();
            if id == listens {
                match listener.accept() {
                    Ok((stream, _)) => {
                        let id = name(&stream);
                        clients.extend(admit(&epoll, stream, id).ok());
                    }
                    Err(error) if is_shortage(&error) => {
                        accepts = false;
                        watch_listener(&epoll, &listener, accepts)?;
                    }
                    Err(_) => {} // this client has left; there may be others
                }
            } else if id == rings {
                let _ = bell.read(); // back to 0, or epoll reports it again and again
                for (id, answer) in answered.try_iter() {
                    if let Some(client) = clients.get_mut(&id) {
                        client.output.extend(answer);
                        client.waits = false;
                        turns.push(id);
                    }
                }
            } else if event.events().contains(EpollFlags::EPOLLERR) {
                has_left |= clients.remove(&id).is_some(); // reset, even while it is not read
            } else {
                turns.push(id);
            }
        }
        for id in turns.drain(..) {
            let Some(client) = clients.get_mut(&id) else { continue };
            let stays = client.serve(id, &asks).unwrap_or(false);
            if !stays || client.watch(&epoll, id).is_err() {
                clients.remove(&id); // dropped, and so closed, and so out of the epoll set
                has_left = true;
            }
        }
        let (now, count) = (Instant::now(), clients.len());
        clients.retain(|_, client| client.due() > now);
        has_left |= clients.len() < count;
        if has_left && !accepts {
            accepts = true;
            watch_listener(&epoll, &listener, accepts)?;
        }
    }
}

/// A thread's work: one question after the other, and the bell for each answer.
fn work(asked: &Receiver<Job>, answers: &Sender<Job>, bell: &EventFd) {
    for (id, question) in asked {
        let _ = answers.send((id, answer_to(&question)));
        let _ = bell.write(1);
    }
}

/// How long until the next client is due. Rounded up, so never too early.
fn time_left(clients: &HashMap<u64, Client>) -> EpollTimeout {
    let Some(next) = clients.values().map(Client::due).min() else { return EpollTimeout::NONE };
    let left = next.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
    EpollTimeout::try_from(left).unwrap_or(EpollTimeout::MAX)
}

/// Whether a call failed for lack of something that a client frees when it leaves.
fn is_shortage(error: &io::Error) -> bool {
    let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
    matches!(errno, Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM)
}

/// Asks epoll for clients in the queue, or no longer.
fn watch_listener(epoll: &Epoll, listener: &TcpListener, accepts: bool) -> io::Result<()> {
    let mut wanted = EpollFlags::empty();
    wanted.set(EpollFlags::EPOLLIN, accepts);
    Ok(epoll.modify(listener, &mut EpollEvent::new(wanted, name(listener)))?)
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
    let (waits, has_ended, must_go, told) = (false, false, false, false);
    let since = Instant::now();
    Ok((id, Client { stream, input, output, waits, has_ended, must_go, told, since, watched }))
}

struct Client {
    stream: TcpStream,
    /// Bytes that have arrived and are not a whole line yet.
    input: Vec<u8>,
    /// Answers that the kernel has not taken yet.
    output: Vec<u8>,
    /// It waits for an answer of the thread, and is not read until it has it.
    waits: bool,
    /// The client has closed its sending direction: EOF.
    has_ended: bool,
    /// It has sent something that the server refuses. Whatever else it sends is thrown away.
    must_go: bool,
    /// FIN has been sent to it.
    told: bool,
    /// When it last sent or read something, or was refused.
    since: Instant,
    /// The events that epoll watches it for.
    watched: EpollFlags,
}

impl Client {
    /// Does what can be done without waiting. Returns whether the client is still there.
    fn serve(&mut self, id: u64, asks: &Sender<Job>) -> io::Result<bool> {
        if self.reads() {
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes) {
                Ok(0) => self.has_ended = true,
                Ok(count) => {
                    self.input.extend(bytes.iter().take(count));
                    self.moved();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        if self.must_go {
            self.input.clear();
        }
        self.answer(id, asks);
        self.flush()?;
        if self.input.len() > LONGEST && !self.waits {
            self.moved();
            self.must_go = true;
        }
        if self.must_go && !self.told && self.output.is_empty() {
            self.stream.shutdown(Shutdown::Write)?; // FIN: the client reads EOF
            self.told = true;
        }
        Ok(!(self.has_ended && self.output.is_empty()) || self.waits)
    }

    /// It has sent or read something. A refused client gains no time by that.
    fn moved(&mut self) {
        if !self.must_go {
            self.since = Instant::now();
        }
    }

    /// When it must leave.
    fn due(&self) -> Instant {
        self.since + if self.must_go { LINGER } else { SILENCE }
    }

    /// Whether to read from it. What is not read fills the socket's buffer, then the
    /// client's, and then the client must wait: TCP calls this flow control.
    fn reads(&self) -> bool {
        !self.has_ended && !self.waits && self.output.len() < FULL
    }

    /// Sends as much as the kernel takes. The rest stays here until there is room.
    fn flush(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(count) => {
                    self.output.drain(..count);
                    self.moved();
                }
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

    /// Answers the whole lines; at EOF, also what follows the last one. What stands
    /// behind a slow question waits with it, so that answers keep their order.
    fn answer(&mut self, id: u64, asks: &Sender<Job>) {
        let mut answered = 0;
        for line in self.input.split_inclusive(|&byte| byte == b'\n') {
            if self.waits || !(line.ends_with(b"\n") || self.has_ended) {
                break;
            }
            answered += line.len();
            if line.starts_with(b"slow") {
                self.waits = asks.send((id, line.to_vec())).is_ok();
            } else {
                self.output.extend(answer_to(line));
            }
        }
        self.input.drain(..answered);
    }
}

/// The answer to a message. One that begins with `slow` takes a second, as a database may.
fn answer_to(message: &[u8]) -> Vec<u8> {
    if message.starts_with(b"slow") {
        thread::sleep(Duration::from_secs(1));
    }
    [b"Thank you for your message ", message].concat()
}
