//! All cores: one server a core, in one process, all at one port.
//!
//! ```text
//! cargo run --release --example all_cores           a server for each core, at port 1234
//! cargo run --release --example all_cores 2 0.0.0.0:8080
//! ```
//!
//! Each server is a loop on a thread of its own, with a listener of its own; the kernel deals new
//! clients out to the listeners (SO_REUSEPORT). What all of them share is in an `Arc`; a client
//! stays with the server that has accepted it, and one server does not see the clients of
//! another. `docs/17-production.md` says when this is worth it.

use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::available_parallelism;
use threadbare::framing::{Frame, Lines};
use threadbare::{Conn, ConnectionHandler, Counters, Handle, Limits, Net, Server, Summary};

/// The longest line in bytes.
const LONGEST: usize = 4_096;

/// All servers as one: what is asked of it is asked of each.
// ANCHOR: all
struct All<H>(Arc<Mutex<Vec<Handle<H>>>>);

impl<H: 'static> All<H> {
    fn new() -> All<H> {
        All(Arc::default())
    }

    fn add(&self, handle: Handle<H>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(handle);
    }

    fn handles(&self) -> Vec<Handle<H>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stops them all. One that has stopped is none the worse for it.
    fn stop(&self) {
        self.handles().iter().for_each(Handle::stop);
    }

    /// Makes a call on the thread of each.
    fn call(&self, job: impl Fn(&mut H, &mut Net) + Clone + Send + 'static) {
        for handle in self.handles() {
            let _ = handle.call(job.clone()); // one that has ended has no clients any more
        }
    }
}

impl<H> Clone for All<H> {
    fn clone(&self) -> All<H> {
        All(Arc::clone(&self.0))
    }
}
// ANCHOR_END: all

/// Numbers the lines of all clients, on all cores. `/all TEXT` is sent to every client.
struct Numbers {
    core: usize,
    lines: Arc<AtomicU64>,
    all: All<Numbers>,
}

impl ConnectionHandler for Numbers {
    type Session = Lines;

    fn on_data(&mut self, conn: &mut Conn<'_>, lines: &mut Lines, input: &[u8]) -> usize {
        let mut rest = input;
        while !conn.is_full() {
            match lines.next(&mut rest, LONGEST) {
                Frame::Whole { body, .. } => self.answer(conn, body),
                Frame::Partial => break,
                Frame::TooLong => {
                    conn.abort();
                    break;
                }
            }
        }
        input.len() - rest.len()
    }

    /// The first server receives the signals, and stops the others.
    fn on_shutdown(&mut self, _: &mut Net) {
        self.all.stop();
    }
}

impl Numbers {
    fn answer(&self, conn: &mut Conn<'_>, line: &[u8]) {
        if let Some(text) = line.strip_prefix(b"/all ") {
            let text: Arc<[u8]> = [text, b"\n"].concat().into();
            self.all.call(move |_, net| {
                for id in net.ids().collect::<Vec<_>>() {
                    net.send(id, &text);
                }
            });
            return;
        }
        let number = self.lines.fetch_add(1, Ordering::Relaxed) + 1;
        writeln!(conn, "line {number}, core {}", self.core);
    }
}

// ANCHOR: main
fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let cores = match words.next() {
        Some(word) => word.parse()?,
        None => available_parallelism()?.get(),
    };
    let address = words.next().unwrap_or("127.0.0.1:1234".to_owned());

    let (all, lines) = (All::new(), Arc::default());
    let limits = Limits { reuse_port: u32::try_from(cores)?, ..Limits::default() };
    let describe = |core| {
        let handler = Numbers { core, lines: Arc::clone(&lines), all: all.clone() };
        Server::builder(handler).limits(limits.clone())
    };
    // The first owns the process, so before the others have threads: these inherit its mask.
    let mut first = describe(0).own_process(true).bind(&*address)?;
    all.add(first.handle());
    let mut others = Vec::new();
    for core in 1..cores {
        let server = describe(core).bind(first.addresses())?;
        all.add(server.handle());
        others.push(server.spawn()?);
    }
    if let Some(address) = first.addresses().first() {
        println!("listening on {address}");
    }

    let ended = first.run();
    all.stop();
    let others = others.into_iter().map(|it| it.join());
    let all: Vec<Summary> = [ended].into_iter().chain(others).collect::<Result<_, _>>()?;
    for (core, summary) in all.iter().enumerate() {
        eprintln!("core {core}: {summary}");
    }
    let sum: Counters = all.iter().map(|summary| summary.counters.clone()).sum();
    eprintln!("all: {sum}");
    Ok(())
}
// ANCHOR_END: main
