//! The life of a server, call by call, made readable.
//!
//! ```text
//! make trace                                      a short dialogue, told
//! make trace ARGS='-l 127.0.0.1:1234 greet'       a session of your own, until Ctrl-C
//! make trace SVG=life.svg                         drawn, too: see lanes.rs
//! ```
//!
//! It runs the program with `--narrate` and shows each call as the program itself does on a
//! terminal: shorter than strace has it, with the time in front and the chapter behind.
//! `8 EPOLLIN` is an event of descriptor 8, where strace has the number that the server
//! registered for it.

mod lanes;
mod server;
#[path = "../../src/program/view.rs"]
mod view;

use lanes::Told;
use nix::sys::signal::{SigSet, Signal};
use server::Server;
use std::env::args;
use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write, stdout};
use std::net::{Shutdown, TcpStream};
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;
use view::{Call, View, now};

/// A server that has made no call for this long is asleep.
const SILENCE: Duration = Duration::from_millis(60);

fn main() -> ExitCode {
    let mut words: Vec<String> = args().skip(1).collect();
    let mut svg = String::new();
    if words.first().is_some_and(|word| word == "--svg") && words.len() > 1 {
        svg = words.drain(..2).nth(1).unwrap_or_default();
    }
    let Some((program, own)) = words.split_first() else {
        eprintln!("error: which program? try: make trace");
        return ExitCode::from(2);
    };
    match run(program, own, &svg) {
        Ok(status) => ExitCode::from(status),
        // The reader has seen enough (`| head`). A server that dies resets, and breaks no pipe.
        Err((_, error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err((what, error)) => {
            eprintln!("error: {what}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Shows a life, and draws it if `svg` names a file; the server's exit status. An error
/// comes with the name of the file that it is about.
fn run<'a>(program: &'a str, own: &[String], svg: &'a str) -> Result<u8, (&'a str, io::Error)> {
    let file = match svg {
        "" => None,
        path => Some(File::create(path).map_err(|error| (path, error))?),
    };
    // Ctrl-C is for the server, which blocks it, too, and reads it.
    let ignored = SigSet::from(Signal::SIGINT).thread_block();
    let told = ignored.map_err(io::Error::from).and_then(|()| match own {
        [] => dialogue(program),
        _ => session(program, own),
    });
    let (status, told) = told.map_err(|error| (program, error))?;
    if let Some(mut file) = file {
        let picture = lanes::draw(&told);
        let written = file.write_all(picture.as_bytes()).and_then(|()| {
            let what = "A browser shows it, each call at its tick.";
            writeln!(stdout(), "\nThe picture is in {svg}. {what}")
        });
        written.map_err(|error| (svg, error))?;
    }
    Ok(status)
}

/// The exit status of the server, and what it told.
type Life = (u8, Vec<Told>);

/// What the reader does is told until the server ends.
fn session(program: &str, own: &[String]) -> io::Result<Life> {
    let mut server = start(program, own, Stdio::inherit())?;
    let mut narrator = Narrator::of(&mut server);
    loop {
        narrator.until_asleep()?;
        let Ok(told) = narrator.lines.recv() else { break };
        narrator.tell(told)?;
    }
    end(server, narrator)
}

/// One client, one message, and an orderly end.
fn dialogue(program: &str) -> io::Result<Life> {
    let words = ["-l", "127.0.0.1:0"].map(str::to_owned);
    let mut server = start(program, &words, Stdio::piped())?;
    let mut narrator = Narrator::of(&mut server);
    let mut ready = String::new();
    if let Some(stdout) = server.0.stdout.as_mut() {
        BufReader::new(stdout).read_line(&mut ready)?;
    }
    narrator.step("The server starts.")?;
    let Some(address) = ready.trim_end().strip_prefix("listening on ") else {
        return end(server, narrator);
    };
    let mut client = TcpStream::connect(address)?;
    narrator.step("A client connects.")?;
    client.write_all(b"hello\n")?;
    let mut answer = [0; 100];
    narrator.step("It sends: hello")?;
    let count = client.read(&mut answer)?;
    let answer = String::from_utf8_lossy(answer.get(..count).unwrap_or_default());
    narrator.heading(&format!("It receives: {}", answer.trim_end()))?;
    client.shutdown(Shutdown::Write)?;
    narrator.step("It closes its side.")?;
    server.signal(Signal::SIGTERM)?;
    narrator.step("SIGTERM: a graceful shutdown.")?;
    end(server, narrator)
}

fn start(program: &str, words: &[String], stdout: Stdio) -> io::Result<Server> {
    let mut command = Command::new(program);
    command.arg("--narrate").args(words).stdout(stdout).stderr(Stdio::piped());
    command.spawn().map(Server)
}

/// The exit status of the server is ours.
fn end(mut server: Server, narrator: Narrator) -> io::Result<Life> {
    let code = server.0.wait()?.code().unwrap_or(1);
    Ok((u8::try_from(code).unwrap_or(1), narrator.told))
}

/// Shows the lines of a server, and keeps them for the picture.
struct Narrator {
    lines: Receiver<Told>,
    told: Vec<Told>,
    view: View,
    is_terminal: bool,
}

impl Narrator {
    fn of(server: &mut Server) -> Narrator {
        let (sender, lines) = channel();
        if let Some(stderr) = server.0.stderr.take() {
            thread::spawn(move || {
                let lines = BufReader::new(stderr).lines().map_while(Result::ok);
                lines.map_while(|line| sender.send((now(), line)).ok()).for_each(drop);
            });
        }
        let view = View::new(now(), view::takes_color(&stdout()));
        Narrator { lines, told: Vec::new(), view, is_terminal: stdout().is_terminal() }
    }

    /// Says what has happened, and then what the server did about it until it slept.
    fn step(&mut self, what: &str) -> io::Result<()> {
        self.heading(what)?;
        self.until_asleep()
    }

    fn heading(&mut self, what: &str) -> io::Result<()> {
        writeln!(stdout(), "{}\n{}", self.view.interrupt(), self.view.paint("1", what))
    }

    fn until_asleep(&mut self) -> io::Result<()> {
        loop {
            match self.lines.recv_timeout(SILENCE) {
                Ok(told) => self.tell(told)?,
                Err(RecvTimeoutError::Timeout) => return self.sleep(),
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
    }

    fn tell(&mut self, (at, line): Told) -> io::Result<()> {
        writeln!(stdout(), "{}", self.view.line(at, view::columns(stdout()), &line))?;
        self.told.push((at, line));
        Ok(())
    }

    /// Shows the call under way, as strace does: it is told only when it has returned.
    fn sleep(&mut self) -> io::Result<()> {
        let mut calls = self.told.iter().filter_map(|(_, line)| Call::of(line));
        let epoll = calls.find(|call| call.name == "epoll_create1").map(|call| call.result);
        if let (true, Some(epoll), Some((at, _))) = (self.is_terminal, epoll, self.told.last()) {
            write!(stdout(), "{}", self.view.wait(*at, &format!("epoll_wait({epoll}, ")))?;
            stdout().flush()?;
        }
        Ok(())
    }
}
