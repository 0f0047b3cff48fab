//! The programs under test: what they are, how they are built, started, watched and ended.
//!
//! All do the same job and listen on the port of 127.0.0.1 that they are given. The first in
//! [`PROGRAMS`] is the floor, which all others are compared with; the second is the same
//! program once more, the control: what differs between these two is noise.

use crate::Outcome;
use crate::seat::{Seat, Seats};
use nix::sys::signal::{Signal, kill};
use nix::time::ClockId;
use nix::unistd::Pid;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A server as the tables name it.
pub struct Program {
    pub name: &'static str,
    source: Source,
    /// Whether each line is a message, or what one recv gave.
    pub by_line: bool,
}

enum Source {
    /// The server of this repository, with these words.
    Ours(&'static [&'static str]),
    /// A binary of this package, built on the crate of this name.
    Crate(&'static str),
    /// A file in peers/: its name, its libraries, and the Debian package that it needs.
    File(&'static str, &'static [&'static str], &'static str),
}

use Source::{Crate, File, Ours};

pub const PROGRAMS: [Program; 10] = [
    chunks("floor", File("floor.c", &[], "gcc")),
    chunks("floor again", File("floor.c", &[], "gcc")),
    chunks("threadbare", Ours(&["--framing", "chunk"])),
    Program { name: "threadbare, lines", source: Ours(&[]), by_line: true },
    chunks("mio", Crate("mio")),
    chunks("tokio", Crate("tokio")),
    chunks("Boost.Asio", File("asio.cpp", &["-pthread"], "libboost-dev")),
    chunks("libuv", File("libuv.c", &["-luv"], "libuv1-dev")),
    chunks("libevent", File("libevent.c", &["-levent"], "libevent-dev")),
    chunks("thread per client", File("thread.c", &["-pthread"], "gcc")),
];

const fn chunks(name: &'static str, source: Source) -> Program {
    Program { name, source, by_line: false }
}

/// A program that can be started.
pub struct Server {
    pub name: &'static str,
    pub by_line: bool,
    pub version: String,
    command: Vec<String>,
}

impl Program {
    /// Whether `bench check` looks at it, too.
    pub fn is_checked(&self) -> bool {
        matches!(self.source, Ours(_)) || self.name.starts_with("floor")
    }

    /// Builds it; fails with what is missing.
    pub fn build(&self, ours: &Path, directory: &Path) -> Outcome<Server> {
        let (path, version) = match self.source {
            Ours(_) => (ours.to_owned(), first_line(Command::new(ours).arg("--version"))),
            Crate(name) => (directory.join(format!("peer-{name}")), locked_version(name)),
            File(file, libraries, package) => {
                let path = compile(file, libraries, directory)
                    .map_err(|_| format!("cannot be compiled: install {package}"))?;
                let version = match libraries {
                    [] | ["-pthread"] if package == "gcc" => "this package".into(),
                    _ => first_line(Command::new(&path).arg("version")),
                };
                (path, version)
            }
        };
        if !path.exists() {
            return Err(format!("there is no {}", path.display()).into());
        }
        let mut command = vec![path.display().to_string()];
        if let Ours(words) = self.source {
            command.extend(["-q", "--max-connections", "20000"].map(str::to_owned));
            command.extend(words.iter().map(|word| word.to_string()));
        }
        Ok(Server { name: self.name, by_line: self.by_line, version, command })
    }
}

fn compile(file: &str, libraries: &[&str], directory: &Path) -> Outcome<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(file);
    let compiler = if file.ends_with(".cpp") { "g++" } else { "gcc" };
    let binary = directory.join(format!("peer-{}", file.replace('.', "-")));
    let changed = |path: &Path| fs::metadata(path).ok()?.modified().ok();
    if changed(&binary).is_some_and(|built| Some(built) > changed(&source)) {
        return Ok(binary);
    }
    let mut command = Command::new(compiler);
    command.args(["-O3", "-g", "-w", "-o"]).arg(&binary).arg(source).args(libraries);
    let done = command.output()?;
    if done.status.success() { Ok(binary) } else { Err("the compiler failed".into()) }
}

/// The version of a crate in this package's lock file.
fn locked_version(name: &str) -> String {
    let mut lines = include_str!("../Cargo.lock").lines();
    lines.find(|line| *line == format!("name = \"{name}\""));
    lines.next().unwrap_or_default().trim_start_matches("version = ").trim_matches('"').into()
}

/// What a command prints first; empty if it fails.
pub fn first_line(command: &mut Command) -> String {
    let output = command.stderr(Stdio::null()).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    text.unwrap_or_default().lines().next().unwrap_or_default().to_owned()
}

impl Server {
    /// What is compared in one table only. `PORT` stands for the port in its command.
    pub fn new(name: &'static str, command: Vec<String>) -> Server {
        Server { name, by_line: true, version: String::new(), command }
    }

    /// The same program, told more.
    pub fn with_words(&self, words: &[&str]) -> Server {
        let mut command = self.command[..4].to_vec();
        command.extend(words.iter().map(|word| word.to_string()));
        Server { name: self.name, by_line: true, version: self.version.clone(), command }
    }

    /// Starts it on its seat, under a tool if there is one, and waits until it listens.
    /// Servers whose clients each have a buffer of their own get one of `buffer` bytes.
    pub fn start(
        &self,
        seats: &Seats,
        seat: Seat,
        tool: &[&str],
        buffer: usize,
    ) -> Outcome<Running> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut words = seats.server(seat);
        words.extend(tool.iter().map(|word| word.to_string()));
        let takes_port = self.command.iter().any(|word| word == "PORT");
        let own = |word: &String| if word == "PORT" { port.to_string() } else { word.clone() };
        words.extend(self.command.iter().map(own));
        match self.is_ours() {
            _ if takes_port => {}
            true => words.extend(["-l".into(), format!("127.0.0.1:{port}")]),
            false => words.extend([port.to_string(), buffer.to_string()]),
        }
        Running::start(self.name, &words, port, self.by_line)
    }

    /// The program itself.
    pub fn path(&self) -> &str {
        &self.command[0]
    }

    pub fn is_ours(&self) -> bool {
        self.name.starts_with("threadbare")
    }
}

/// A server that runs. It ends when it is dropped.
pub struct Running {
    child: Child,
    pub pid: Pid,
    pub port: u16,
    pub by_line: bool,
    pub name: &'static str,
}

impl Running {
    /// Starts a command, and waits until it listens on its port.
    pub fn start(
        name: &'static str,
        words: &[String],
        port: u16,
        by_line: bool,
    ) -> Outcome<Running> {
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn()?;
        let pid = Pid::from_raw(child.id() as i32);
        let mut running = Running { child, pid, port, by_line, name };
        let patience = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if running.child.try_wait()?.is_some() || Instant::now() > patience {
                return Err(format!("{name} did not start").into());
            }
            sleep(Duration::from_millis(10));
        }
        running.settle();
        Ok(running)
    }

    /// CPU time of all its threads so far, to the nanosecond.
    pub fn cpu(&self) -> Duration {
        let clock = ClockId::pid_cpu_clock_id(self.pid).and_then(ClockId::now);
        clock.map(Duration::from).unwrap_or_default()
    }

    /// Bytes of memory of its own.
    pub fn memory(&self) -> u64 {
        let path = format!("/proc/{}/smaps_rollup", self.pid);
        let rollup = fs::read_to_string(path).unwrap_or_default();
        let line = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:"));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        number.unwrap_or_default() * 1024
    }

    /// Waits until it does nothing any more, but not for ever.
    pub fn settle(&self) {
        let patience = Instant::now() + Duration::from_secs(10);
        let mut spent = self.cpu();
        while Instant::now() < patience {
            sleep(Duration::from_millis(50));
            let now = self.cpu();
            if now - spent < Duration::from_micros(100) {
                return;
            }
            spent = now;
        }
    }

    /// SIGTERM, and the end, so that a tool around it can say what it has seen.
    pub fn stop(mut self) {
        let _ = kill(self.pid, Signal::SIGTERM);
        let patience = Instant::now() + Duration::from_secs(10);
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < patience {
            sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
