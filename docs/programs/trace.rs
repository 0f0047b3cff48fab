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
#[path = "../../src/program/view.rs"]
mod view;

use lanes::Told;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;
use std::env::{args, var_os};
use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write, stdout};
use std::net::{Shutdown, TcpStream};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;
use threadbare::kernel::{Clock, Kernel, Linux};
use view::View;

/// A server that has told nothing for so long is asleep.
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
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Shows a life, and draws it if `svg` names a file; the server's exit status.
fn run(program: &str, own: &[String], svg: &str) -> Result<u8, String> {
    let of = |what: &str, error: io::Error| format!("{what}: {error}");
    let file = match svg {
        "" => None,
        path => Some(File::create(path).map_err(|error| of(path, error))?),
    };
    // Ctrl-C is for the server, which blocks it, too, and reads it.
    let ignored = SigSet::from(Signal::SIGINT).thread_block();
    let told = ignored.map_err(io::Error::from).and_then(|()| match own {
        [] => dialogue(program),
        _ => session(program, own),
    });
    let (status, told) = told.map_err(|error| of(program, error))?;
    if let Some(mut file) = file {
        let picture = lanes::draw(&told);
        file.write_all(picture.as_bytes()).map_err(|error| of(svg, error))?;
        println!("\nThe picture is in {svg}. A browser shows it, each call at its tick.");
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
        narrator.until_asleep();
        let Ok(told) = narrator.lines.recv() else { break };
        narrator.tell(told);
    }
    end(server, narrator)
}

/// One client, one message, and an orderly end.
fn dialogue(program: &str) -> io::Result<Life> {
    let words = ["-l", "127.0.0.1:0"].map(str::to_owned);
    let mut server = start(program, &words, Stdio::piped())?;
    let mut narrator = Narrator::of(&mut server);
    let mut ready = String::new();
    if let Some(stdout) = server.stdout.as_mut() {
        BufReader::new(stdout).read_line(&mut ready)?;
    }
    narrator.step("The server starts.");
    let Some(address) = ready.trim_end().strip_prefix("listening on ") else {
        return end(server, narrator);
    };
    let mut client = TcpStream::connect(address)?;
    narrator.step("A client connects.");
    client.write_all(b"hello\n")?;
    let mut answer = [0; 100];
    narrator.step("It says: hello");
    let count = client.read(&mut answer)?;
    let answer = String::from_utf8_lossy(answer.get(..count).unwrap_or_default());
    narrator.heading(&format!("It hears: {}", answer.trim_end()));
    client.shutdown(Shutdown::Write)?;
    narrator.step("It has no more to say.");
    kill(Pid::from_raw(server.id() as i32), Signal::SIGTERM)?;
    narrator.step("SIGTERM: the server is to stop.");
    end(server, narrator)
}

fn start(program: &str, words: &[String], stdout: Stdio) -> io::Result<Child> {
    let mut command = Command::new(program);
    command.arg("--narrate").args(words).stdout(stdout).stderr(Stdio::piped()).spawn()
}

/// The exit status of the server is ours.
fn end(mut server: Child, narrator: Narrator) -> io::Result<Life> {
    let code = server.wait()?.code().unwrap_or(1);
    Ok((u8::try_from(code).unwrap_or(1), narrator.told))
}

fn now() -> Duration {
    Duration::from_nanos(Linux.clock_gettime(Clock::Monotonic))
}

/// Shows the lines of a server, and keeps them for the picture.
struct Narrator {
    lines: Receiver<Told>,
    told: Vec<Told>,
    view: View,
    is_terminal: bool,
    is_colored: bool,
}

impl Narrator {
    fn of(server: &mut Child) -> Narrator {
        let (sender, lines) = channel();
        if let Some(stderr) = server.stderr.take() {
            thread::spawn(move || {
                let lines = BufReader::new(stderr).lines().map_while(Result::ok);
                lines.map_while(|line| sender.send((now(), line)).ok()).for_each(drop);
            });
        }
        let is_terminal = stdout().is_terminal();
        let is_colored = is_terminal && var_os("NO_COLOR").is_none_or(|it| it.is_empty());
        let view = View::new(now(), is_colored);
        Narrator { lines, told: Vec::new(), view, is_terminal, is_colored }
    }

    /// Says what has happened, and then what the server did about it until it slept.
    fn step(&mut self, what: &str) {
        self.heading(what);
        self.until_asleep();
    }

    fn heading(&mut self, what: &str) {
        let (begin, end) = if self.is_colored { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
        println!("{}\n{begin}{what}{end}", self.view.interrupt());
    }

    fn until_asleep(&mut self) {
        loop {
            match self.lines.recv_timeout(SILENCE) {
                Ok(told) => self.tell(told),
                Err(RecvTimeoutError::Timeout) => return self.sleep(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn tell(&mut self, (at, line): Told) {
        println!("{}", self.view.line(at, view::columns(stdout()), &line));
        self.told.push((at, line));
    }

    /// Shows the call under way, as strace does: it is told only when it has returned.
    fn sleep(&mut self) {
        let mut calls =
            self.told.iter().filter_map(|(_, line)| line.strip_prefix("epoll_create1("));
        let epoll = calls.next().and_then(|call| call.split(['=', '#']).nth(1)).map(str::trim);
        if let (true, Some(epoll), Some((at, _))) = (self.is_terminal, epoll, self.told.last()) {
            print!("{}", self.view.wait(*at, &format!("epoll_wait({epoll}, ")));
            let _ = stdout().flush();
        }
    }
}
