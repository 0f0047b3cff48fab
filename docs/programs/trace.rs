//! The life of a server, call by call, made readable.
//!
//! ```text
//! make trace                                      a short dialogue, told
//! make trace ARGS='-l 127.0.0.1:1234 greet'       a session of your own, until Ctrl-C
//! ```
//!
//! It runs the program with `--narrate` and prints each call with the chapter behind it.
//! Addresses and events are told shorter than strace tells them: `8 EPOLLIN` is an event
//! of descriptor 8, where strace has the number that the server registered for it.

use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;
use std::collections::HashMap;
use std::env::{args, var_os};
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

/// A server that has told nothing for so long is asleep.
const SILENCE: Duration = Duration::from_millis(60);

fn main() -> ExitCode {
    let words: Vec<String> = args().skip(1).collect();
    let Some((program, own)) = words.split_first() else {
        eprintln!("error: which program? try: make trace");
        return ExitCode::from(2);
    };
    // Ctrl-C is for the server, which blocks it, too, and reads it.
    let ignored = SigSet::from(Signal::SIGINT).thread_block();
    let told = ignored.map_err(io::Error::from).and_then(|()| match own {
        [] => dialogue(program),
        _ => session(program, own),
    });
    match told {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("error: {program}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What the reader does is told until the server ends.
fn session(program: &str, own: &[String]) -> io::Result<u8> {
    let mut server = start(program, own, Stdio::inherit())?;
    let mut narrator = Narrator::of(&mut server);
    while let Ok(line) = narrator.lines.recv() {
        narrator.tell(&line);
    }
    end(server)
}

/// One client, one message, and an orderly end.
fn dialogue(program: &str) -> io::Result<u8> {
    let words = ["-l", "127.0.0.1:0"].map(str::to_owned);
    let mut server = start(program, &words, Stdio::piped())?;
    let mut narrator = Narrator::of(&mut server);
    let mut ready = String::new();
    if let Some(stdout) = server.stdout.as_mut() {
        BufReader::new(stdout).read_line(&mut ready)?;
    }
    narrator.step("The server starts.");
    let Some(address) = ready.trim_end().strip_prefix("listening on ") else {
        return end(server);
    };
    let mut client = TcpStream::connect(address)?;
    narrator.step("A client connects.");
    client.write_all(b"hello\n")?;
    let mut answer = [0; 100];
    narrator.step("It says: hello");
    let count = client.read(&mut answer)?;
    let answer = String::from_utf8_lossy(answer.get(..count).unwrap_or_default());
    narrator.step(&format!("It hears: {}", answer.trim_end()));
    client.shutdown(Shutdown::Write)?;
    narrator.step("It has no more to say.");
    kill(Pid::from_raw(server.id() as i32), Signal::SIGTERM)?;
    narrator.step("SIGTERM: the server is to stop.");
    end(server)
}

fn start(program: &str, words: &[String], stdout: Stdio) -> io::Result<Child> {
    let mut command = Command::new(program);
    command.arg("--narrate").args(words).stdout(stdout).stderr(Stdio::piped()).spawn()
}

/// The exit status of the server is ours.
fn end(mut server: Child) -> io::Result<u8> {
    let code = server.wait()?.code().unwrap_or(1);
    Ok(u8::try_from(code).unwrap_or(1))
}

/// Shows the lines of a server.
struct Narrator {
    lines: Receiver<String>,
    is_coloured: bool,
    /// The descriptor behind each number that was registered with epoll.
    descriptors: HashMap<String, String>,
}

impl Narrator {
    fn of(server: &mut Child) -> Narrator {
        let (sender, lines) = channel();
        if let Some(stderr) = server.stderr.take() {
            thread::spawn(move || {
                let lines = BufReader::new(stderr).lines().map_while(Result::ok);
                lines.map_while(|line| sender.send(line).ok()).for_each(drop);
            });
        }
        let is_coloured = io::stdout().is_terminal() && var_os("NO_COLOR").is_none();
        Narrator { lines, is_coloured, descriptors: HashMap::new() }
    }

    /// Says what has happened, and then what the server did about it until it slept.
    fn step(&mut self, what: &str) {
        println!("\n{}", self.paint("1", what));
        while let Ok(line) = self.lines.recv_timeout(SILENCE) {
            self.tell(&line);
        }
    }

    fn tell(&mut self, line: &str) {
        let Some((call, chapter)) = line.rsplit_once("  # docs/") else {
            return println!("            {line}");
        };
        let chapter = format!("{:<10}", chapter.trim_end_matches(".md"));
        let (call, result) = call.rsplit_once(" = ").unwrap_or((call, ""));
        let (name, rest) = call.trim_end().split_once('(').unwrap_or((call, ""));
        let rest = shorter(rest);
        let rest = if name == "epoll_ctl" { self.learn(&rest) } else { self.with_names(&rest) };
        let result = if result.starts_with('-') { self.paint("31", result) } else { result.into() };
        let (chapter, name) = (self.paint("2", &chapter), self.paint("36", name));
        println!("{chapter}  {name}({rest} = {result}");
    }

    /// What epoll_ctl registers: `4, EPOLL_CTL_ADD, 8, {events=EPOLLIN, data=…}`.
    fn learn(&mut self, rest: &str) -> String {
        let (about, event) = rest.split_once(", {events=").unwrap_or((rest, ""));
        let (mask, data) = event.split_once(", data={").unwrap_or((event, ""));
        let descriptor = about.rsplit(", ").next().unwrap_or_default();
        self.descriptors.insert(data.trim_end_matches("})").into(), descriptor.into());
        format!("{about}, {mask})")
    }

    /// Events with the descriptors that they are about.
    fn with_names(&self, rest: &str) -> String {
        let mut pieces = rest.split("{events=");
        let mut told = pieces.next().unwrap_or_default().to_owned();
        for piece in pieces {
            let (mask, piece) = piece.split_once(", data={").unwrap_or((piece, ""));
            let (data, piece) = piece.split_once("}}").unwrap_or((piece, ""));
            let name = self.descriptors.get(&format!("{data}}}")).map_or("?", String::as_str);
            told += &format!("{name} {mask}{piece}");
        }
        told
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.is_coloured { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.into() }
    }
}

/// Arguments without what nobody reads in a terminal.
fn shorter(arguments: &str) -> String {
    let mut told = arguments.to_owned();
    for (from, to) in [
        ("{sa_family=AF_INET, sin_port=htons(", "PORT("),
        (", [128 => 16]", ""),
        ("{it_interval={tv_sec=0, tv_nsec=0}, it_value={tv_sec=0, tv_nsec=0}}", "never"),
        ("{it_interval={tv_sec=0, tv_nsec=0}, it_value={tv_sec=", "second "),
    ] {
        told = told.replace(from, to);
    }
    if let Some((before, address)) = told.split_once("PORT(")
        && let Some((port, address)) = address.split_once("), sin_addr=inet_addr(\"")
        && let Some((ip, after)) = address.split_once("\")}")
    {
        told = format!("{before}{ip}:{port}{after}");
    }
    if let Some((before, nanoseconds)) = told.split_once(", tv_nsec=")
        && let Some((nanoseconds, after)) = nanoseconds.split_once("}}")
        && let Ok(nanoseconds) = nanoseconds.parse::<u32>()
    {
        told = format!("{before}.{:03}{after}", nanoseconds / 1_000_000);
    }
    told
}
