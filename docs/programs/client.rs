//! A client to talk to any of the servers in this repository.
//!
//! ```text
//! make client SAY='hello'         says it, and prints the answer
//! make client                     a conversation: each line you type is sent
//! make client TO=unix:/tmp/s      talks to another server than 127.0.0.1:1234
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

use std::io::{self, IsTerminal, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::thread;

const HELP: &str = "\
Usage: client [--to HOST:PORT | --to unix:PATH] [--] [WORD...]
Sends the words as one line, and prints the answer. Without words it sends each line
that you type, until Ctrl-D. The server is at 127.0.0.1:1234, unless --to names another.
";

/// What the command line asks for.
enum Command {
    Help,
    Talk { address: String, words: Vec<String> },
}

fn main() -> ExitCode {
    let talk = match parse(std::env::args().skip(1)) {
        Ok(Command::Help) => io::stdout().write_all(HELP.as_bytes()),
        Ok(Command::Talk { address, words }) => {
            let talk = if words.is_empty() { converse(&address) } else { ask(&address, &words) };
            talk.map_err(|error| explain(&address, error))
        }
        Err(usage) => {
            eprintln!("error: {usage}; try -h");
            return ExitCode::from(2);
        }
    };
    match talk {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Options stand first; the first word that is none begins the message.
fn parse(mut words: impl Iterator<Item = String>) -> Result<Command, String> {
    let mut address = "127.0.0.1:1234".to_owned();
    let first = loop {
        let Some(word) = words.next() else { break None };
        match word.as_str() {
            "-h" | "--help" => return Ok(Command::Help),
            "--to" => address = words.next().ok_or("--to needs an address")?,
            "--" => break words.next(),
            option if option.starts_with('-') && option != "-" => {
                match option.strip_prefix("--to=") {
                    Some(to) => address = to.to_owned(),
                    None => {
                        return Err(format!("unknown option {option:?}, to send it: -- {option}"));
                    }
                }
            }
            _ => break Some(word),
        }
    };
    Ok(Command::Talk { address, words: first.into_iter().chain(words).collect() })
}

/// What to do about it, where that is known.
fn explain(address: &str, error: io::Error) -> io::Error {
    use io::ErrorKind::*;
    let advice = match error.kind() {
        ConnectionRefused | NotFound => {
            "nothing listens there; start a server in another terminal: make run"
        }
        InvalidInput => "an address is HOST:PORT or unix:PATH, such as 127.0.0.1:1234",
        ConnectionReset | BrokenPipe => {
            "the server broke the connection off; its own lines say why"
        }
        _ => return io::Error::new(error.kind(), format!("{address}: {error}")),
    };
    io::Error::new(error.kind(), format!("{address}: {error}; {advice}"))
}

/// One line there, everything that comes back here.
fn ask(address: &str, words: &[String]) -> io::Result<()> {
    let mut server = connect(address)?;
    server.write_all(format!("{}\n", words.join(" ")).as_bytes())?;
    server.finish()?;
    print_all(server)
}

/// Lines from the terminal to the server, until either side has no more to say.
fn converse(address: &str) -> io::Result<()> {
    let server = connect(address)?;
    let is_typed = io::stdin().is_terminal();
    if is_typed {
        eprintln!("Connected to {address}. Type a line and press Enter; Ctrl-D ends.");
    }
    let mut sender = server.another()?;
    let typing = thread::spawn(move || {
        // If sending fails, the server has gone: the reading side says so, and ends.
        let _ = io::copy(&mut io::stdin().lock(), &mut sender);
        let _ = sender.finish();
    });
    print_all(server)?;
    if is_typed && !typing.is_finished() {
        eprintln!("The server closed the connection.");
    }
    Ok(())
}

/// Copies to stdout, at once and not only whole lines, until the server ends.
fn print_all(mut server: Box<dyn Connection>) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let count = server.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        let mut stdout = io::stdout().lock();
        let shown = stdout.write_all(buffer.get(..count).unwrap_or_default());
        match shown.and_then(|()| stdout.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()), // `| head`
            shown => shown?,
        }
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
