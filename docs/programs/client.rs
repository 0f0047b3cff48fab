//! A client to talk to any of the servers in this repository.
//!
//! ```text
//! cargo run --example client -- [--to HOST:PORT | --to unix:PATH] [WORD...]
//! ```
//!
//! With words it sends them as one line and prints the reply; without, it sends
//! each line you type and prints what comes back, whenever it comes.
//!
//! Two things here are easy to get wrong. *Where does the reply end?* TCP carries
//! a stream, not messages, so the client says "that was all" by closing only its
//! sending direction (shutdown(2)) and then reads to the server's end. *Who waits
//! for whom?* Reading and typing both block, so each has a thread; the server in
//! this repository shows how to do without.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::thread;

fn main() -> ExitCode {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    let mut address = "127.0.0.1:1234".to_string();
    if words.first().is_some_and(|word| word == "--to") && words.len() > 1 {
        address = words.drain(..2).skip(1).collect();
    }
    let talk = if words.is_empty() { converse(&address) } else { ask(&address, &words.join(" ")) };
    match talk {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {address}: {error}");
            if let io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound = error.kind() {
                eprintln!("Nobody listens there. Start a server in another terminal: make run");
            }
            ExitCode::FAILURE
        }
    }
}

/// One line there, everything that comes back here.
fn ask(address: &str, line: &str) -> io::Result<()> {
    let mut server = connect(address)?;
    server.write_all(format!("{line}\n").as_bytes())?;
    server.finish()?;
    print_all(server)
}

/// Lines from the terminal to the server, until either side has no more to say.
fn converse(address: &str) -> io::Result<()> {
    let server = connect(address)?;
    let mut sender = server.another()?;
    thread::spawn(move || {
        // If sending fails, the server has gone: the reading side says so, and ends.
        let _ = io::copy(&mut io::stdin().lock(), &mut sender);
        let _ = sender.finish();
    });
    print_all(server)
}

/// Copies to stdout, at once and not only whole lines, until the server ends.
fn print_all(mut server: Box<dyn Connection>) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let count = server.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        io::stdout().write_all(buffer.get(..count).unwrap_or_default())?;
        io::stdout().flush()?;
    }
}

/// What the program needs of a connection, whatever kind of socket it is.
trait Connection: Read + Write + Send {
    /// Ends the sending direction: the server reads to the end, and may still answer.
    fn finish(&self) -> io::Result<()>;
    /// The same connection for another thread.
    fn another(&self) -> io::Result<Box<dyn Connection>>;
}

fn connect(address: &str) -> io::Result<Box<dyn Connection>> {
    match address.strip_prefix("unix:") {
        Some(path) => Ok(Box::new(UnixStream::connect(path)?)),
        None => Ok(Box::new(TcpStream::connect(address)?)),
    }
}

impl Connection for TcpStream {
    fn finish(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
    fn another(&self) -> io::Result<Box<dyn Connection>> {
        Ok(Box::new(self.try_clone()?))
    }
}

impl Connection for UnixStream {
    fn finish(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
    fn another(&self) -> io::Result<Box<dyn Connection>> {
        Ok(Box::new(self.try_clone()?))
    }
}
