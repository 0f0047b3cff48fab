//! A server with a thread for each client.
//!
//! ```text
//! cargo run --example thread_per_client            and in other terminals:
//! make client SAY=hello
//! ```
//!
//! One thread waits in poll(2) for new clients, and for the eventfd by which it is told to
//! stop. Each client has a thread of its own, which may block in `recv` and `send` as long
//! as it likes: it holds up nobody else. What is easy to get wrong here is not the talk but
//! the end of it, and every place is marked with "Often wrong".

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SigSet, Signal};
use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle, Scope};
use std::time::Duration;

/// The longest line. Often wrong: none, and one client takes all memory.
const LONGEST: u64 = 64 * 1024;
/// A client that takes nothing for so long is let go: a stop waits for its thread.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long no client is accepted when there is no descriptor or no thread for a client.
const PAUSE: u16 = 100;

fn main() -> ExitCode {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:1234".to_owned());
    match run(&address) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {address}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Serves until SIGINT or SIGTERM.
fn run(address: &str) -> io::Result<()> {
    // Often wrong: a signal is taken by any thread that does not block it. Blocked here,
    // before there are others, it is blocked in all of them, and `wait` gets it.
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
    signals.thread_block()?;
    let server = Server::start(address)?;
    println!("listening on {}", server.address);
    signals.wait()?;
    server.stop()?;
    server.join()
}

/// A server that runs on threads of its own.
struct Server {
    address: SocketAddr,
    bell: Arc<EventFd>,
    thread: JoinHandle<io::Result<()>>,
}

impl Server {
    fn start(address: &str) -> io::Result<Server> {
        // std sets SO_REUSEADDR, and asks for a queue of 128. Often wrong: a shorter one,
        // and a crowd of clients waits for seconds until its SYNs are sent again.
        let listener = TcpListener::bind(address)?;
        // Often wrong: poll says "ready", the client leaves, and a blocking accept waits for
        // the next one, deaf to the eventfd.
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let bell = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?);
        let heard = Arc::clone(&bell);
        let thread = thread::Builder::new().name("server".to_owned());
        let thread = thread.spawn(move || serve(&listener, &heard))?;
        Ok(Server { address, bell, thread })
    }

    /// Asks it to stop, from any thread. Often wrong: a flag, which a thread that sleeps in
    /// poll does not see, and which is no `bool` but an atomic if two threads use it.
    fn stop(&self) -> io::Result<()> {
        self.bell.write(1)?;
        Ok(())
    }

    /// Waits until it has stopped.
    fn join(self) -> io::Result<()> {
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other("the server panicked")))
    }
}

/// The sockets of those who are connected, so that a stop can reach them.
#[derive(Default)]
struct Clients(Mutex<HashMap<SocketAddr, Arc<TcpStream>>>);

impl Clients {
    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, Arc<TcpStream>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// ANCHOR: serve
/// Accepts clients until the eventfd is written, and then ends all conversations.
fn serve(listener: &TcpListener, bell: &EventFd) -> io::Result<()> {
    let clients = Clients::default();
    // The scope ends when every thread in it has ended.
    thread::scope(|scope| {
        let served = accept_until_rung(listener, bell, &clients, scope);
        // Often wrong: close(2), while the client's thread is blocked in recv on that number. The
        // number may belong to another client a moment later, and recv is not even woken.
        // After shutdown(2) it reads to the end, answers what it has, and closes itself.
        clients.lock().values().for_each(|client| drop(client.shutdown(Shutdown::Read)));
        println!("stopping");
        served
    })
}
// ANCHOR_END: serve

fn accept_until_rung<'scope, 'env>(
    listener: &TcpListener,
    bell: &EventFd,
    clients: &'env Clients,
    scope: &'scope Scope<'scope, 'env>,
) -> io::Result<()> {
    let (mut door, mut wait) = (PollFlags::POLLIN, PollTimeout::NONE);
    loop {
        // Often wrong: the clients' sockets are in this set, too. Then poll reports bytes
        // that the client's own thread is about to read, again and again: a busy loop.
        let mut ready =
            [PollFd::new(bell.as_fd(), PollFlags::POLLIN), PollFd::new(listener.as_fd(), door)];
        match poll(&mut ready, wait) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        if ready.first().and_then(PollFd::any).unwrap_or(true) {
            return Ok(());
        }
        (door, wait) = (PollFlags::POLLIN, PollTimeout::NONE);
        let admitted = listener.accept().and_then(|(client, peer)| {
            admit(client, peer, clients, scope)?;
            Ok(())
        });
        match admitted {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // Often wrong: out of descriptors the listener stays ready, accept goes on
            // failing, and the loop takes a core. Or: the server ends because one failed.
            Err(error) => {
                eprintln!("accept: {error}");
                (door, wait) = (PollFlags::empty(), PollTimeout::from(PAUSE));
            }
        }
    }
}

/// Gives a client its thread. It leaves the map when it has gone.
fn admit<'scope, 'env>(
    client: TcpStream,
    peer: SocketAddr,
    clients: &'env Clients,
    scope: &'scope Scope<'scope, 'env>,
) -> io::Result<()> {
    client.set_nonblocking(false)?;
    client.set_write_timeout(Some(PATIENCE))?;
    let client = Arc::new(client);
    clients.lock().insert(peer, Arc::clone(&client));
    let thread = thread::Builder::new().name("client".to_owned());
    let spawned = thread.spawn_scoped(scope, move || {
        // Whatever ends it, ends this client and nobody else. Often wrong: a write to a
        // client that has gone raises SIGPIPE, which ends the process. Rust ignores SIGPIPE
        // before `main`, so `write_all` gives EPIPE.
        if let Err(error) = talk(&client) {
            eprintln!("{peer}: {error}");
        }
        clients.lock().remove(&peer);
    });
    if spawned.is_err() {
        clients.lock().remove(&peer); // no thread: the client is dropped, which closes it
    }
    spawned.map(drop)
}

// ANCHOR: talk
/// The conversation. It may block where it likes.
fn talk(client: &TcpStream) -> io::Result<()> {
    let mut reader = BufReader::new(client);
    let mut line = Vec::new();
    // Often wrong: what one recv returns is taken for a message, or all of the buffer is.
    while reader.by_ref().take(LONGEST).read_until(b'\n', &mut line)? > 0 {
        if line.len() as u64 == LONGEST {
            return Err(io::Error::other("a line that is too long"));
        }
        let answer = [b"Thank you for your message ", line.as_slice()].concat();
        // Often wrong: one `send`, of which the kernel may take a part.
        (&mut &*client).write_all(&answer)?;
        line.clear();
    }
    Ok(())
}
// ANCHOR_END: talk
