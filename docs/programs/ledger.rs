//! A server that writes down what it is told: each line is on the disk before its client hears of
//! it. Its operator talks to it at the terminal.
//!
//! ```text
//! cargo run --release --example ledger /tmp/lines       and, in another terminal:
//! make client SAY=hello
//! cargo test --test sim ledger                          its tests, without a socket
//! ```
//!
//! fdatasync(2) waits for the disk, so a worker calls it, whose own state is the open file: see
//! `docs/worker-pool.md`. The server runs on a thread of its own, and `main` asks it from outside.

use std::any::Any;
use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, Write};
use std::path::PathBuf;
use threadbare::framing::{Frame, Lines};
use threadbare::handlers::CatchPanics;
use threadbare::{Builder, Conn, ConnectionHandler, Server};

/// The longest line.
const LONGEST: usize = 4_096;
/// Most lines that wait for the disk.
const WAITING: usize = 1_000;

/// Counts the lines that are written down.
#[derive(Default)]
struct Ledger {
    lines: u64,
}

impl ConnectionHandler for Ledger {
    type Session = Lines;

    fn on_data(&mut self, conn: &mut Conn<'_>, lines: &mut Lines, input: &[u8]) -> usize {
        let mut rest = input;
        while !conn.is_full() && !conn.is_paused() {
            match lines.next(&mut rest, LONGEST) {
                Frame::Whole { body, .. } => {
                    let line = [body, b"\n"].concat();
                    if !conn.work(move |file: &mut io::Result<File>, _| write_down(file, &line)) {
                        conn.write(b"error: too many lines, try again later\n");
                        conn.close();
                    }
                }
                Frame::Partial => break,
                Frame::TooLong => {
                    conn.write(b"error: the line is too long\n");
                    conn.close();
                }
            }
        }
        input.len() - rest.len() // the next line comes when this one is written
    }

    fn on_result(&mut self, conn: &mut Conn<'_>, _: &mut Lines, result: Box<dyn Any + Send>) {
        match result.downcast::<Result<(), String>>().as_deref() {
            Ok(Ok(())) => {
                self.lines += 1;
                writeln!(conn, "{} written", self.lines);
            }
            Ok(Err(error)) => writeln!(conn, "error: {error}"),
            Err(_) => {}
        }
    }
}

/// A line is one write, and so one whole piece of the file, whichever process writes there.
fn write_down(file: &mut io::Result<File>, line: &[u8]) -> Result<(), String> {
    let file = file.as_mut().map_err(|error| error.to_string())?;
    file.write_all(line).and_then(|()| file.sync_data()).map_err(|error| error.to_string())
}

/// Each worker has the file open for itself.
fn builder(path: PathBuf) -> Builder<CatchPanics<Ledger>> {
    let open = move || OpenOptions::new().append(true).create(true).open(&path);
    Server::builder(CatchPanics(Ledger::default())).workers(4, WAITING, open)
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let path = words.next().ok_or("usage: ledger FILE [ADDRESS]")?;
    let address = words.next().unwrap_or("127.0.0.1:1234".into());
    // ANCHOR: outside
    let server = builder(path.into()).bind(&*address)?.spawn()?;
    for address in server.addresses() {
        println!("listening on {address}; type lines, clients or counters; Ctrl-D stops");
    }
    let handle = server.handle();
    for command in io::stdin().lock().lines() {
        match command?.as_str() {
            "lines" => println!("{}", handle.ask(|ledger, _| ledger.lines)?),
            "clients" => println!("{}", handle.ask(|_, net| net.ids().count())?),
            "counters" => println!("{}", handle.counters()?),
            _ => println!("lines, clients or counters"),
        }
    }
    handle.stop();
    let (ledger, ended) = server.join_handler();
    println!("{} lines written; {}", ledger.lines, ended?);
    // ANCHOR_END: outside
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use threadbare::sim::World;

    /// A file that nobody else uses, and that is removed at the end.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Scratch {
            let name = format!("threadbare-{name}-{}", std::process::id());
            Scratch(std::env::temp_dir().join(name))
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    /// Each line is answered when it is in the file, and in order.
    #[test]
    fn what_is_answered_is_written() {
        let scratch = Scratch::new("ledger");
        let mut world = World::start(builder(scratch.0.clone())).unwrap();
        let (mut one, mut two) = (world.client(), world.client());
        assert_eq!(world.ask(&mut one, b"a\nb\n"), b"1 written\n2 written\n");
        world.server.hold_work(true);
        assert_eq!(world.ask(&mut two, b"c\n"), b"");
        assert_eq!(std::fs::read(&scratch.0).unwrap(), b"a\nb\n");
        world.server.hold_work(false);
        world.rest();
        assert_eq!(two.recv(), b"3 written\n");
        assert_eq!(std::fs::read(&scratch.0).unwrap(), b"a\nb\nc\n");
        assert_eq!(world.server.into_handler().lines, 3);
    }

    /// A file that cannot be opened is an error of each line, and no more than that.
    #[test]
    fn a_file_that_cannot_be_opened() {
        let mut world = World::start(builder("/proc/none/such".into())).unwrap();
        let mut client = world.client();
        let answer = String::from_utf8(world.ask(&mut client, b"a\n")).unwrap();
        assert_eq!(answer, "error: No such file or directory (os error 2)\n");
        assert_eq!(world.ask(&mut client, &[b'x'; 5_000]), b"error: the line is too long\n");
    }
}
