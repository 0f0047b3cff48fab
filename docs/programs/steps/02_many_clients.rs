//! Step 2: many clients. One thread waits for all of them, in `epoll_wait`; no other call waits.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

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
            } else if let Some(client) = clients.get_mut(&id)
                && !client.serve().unwrap_or(false)
            {
                clients.remove(&id); // dropped, and so closed, and so out of the epoll set
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
    epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, id))?;
    Ok((id, Client { stream }))
}

struct Client {
    stream: TcpStream,
}

impl Client {
    /// Reads what the client sends and answers it. Returns whether the client is still there.
    fn serve(&mut self) -> io::Result<bool> {
        let mut bytes = [0; 4096];
        let count = self.stream.read(&mut bytes)?;
        if count == 0 {
            return Ok(false);
        }
        self.stream.write_all(&answer_to(bytes.get(..count).unwrap_or_default()))?;
        Ok(true)
    }
}

/// The answer to a message. One that begins with `slow` takes a second, as a database may.
fn answer_to(message: &[u8]) -> Vec<u8> {
    if message.starts_with(b"slow") {
        thread::sleep(Duration::from_secs(1));
    }
    [b"Thank you for your message ", message].concat()
}
