//! A minute with the server: what it does about good clients and bad ones, call by call.
//!
//! ```text
//! make tour
//! ```
//!
//! It starts the program with `--narrate`, plays a few clients, and shows of the system
//! calls that follow the few that matter. `make trace` shows all of them.

use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::Pid;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write, stdout};
use std::net::TcpStream;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

/// The longest wait for a call that the server is about to make.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a reader needs for a line, if there is one.
const READING: Duration = Duration::from_millis(900);

fn main() -> ExitCode {
    let Some(program) = std::env::args().nth(1) else {
        eprintln!("error: which program? try: make tour");
        return ExitCode::from(2);
    };
    match tour(&program) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {program}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn tour(program: &str) -> io::Result<()> {
    let mut guide = Guide::start(program)?;
    guide.say(&[
        "A server starts. It opens a socket to listen on, and an epoll instance,",
        "which reports whatever becomes ready.",
    ]);
    guide.show(&["socket(", "bind(", "listen(", "epoll_create1(", "EPOLL_CTL_ADD, 3,"])?;

    guide.say(&["A client connects and says hello. It is accepted, read, and answered."]);
    let mut polite = guide.client()?;
    ask(&mut polite, "hello")?;
    guide.show(&["epoll_wait(", "accept4(", "epoll_ctl(", "recvfrom(", "sendto("])?;

    guide.say(&[
        "A second client sends half a line and falls silent. The server does not wait",
        "for the other half: the first client is answered as before.",
    ]);
    let mut half = guide.client()?;
    half.write_all(b"half a li")?;
    guide.show(&["accept4(", "\"half a li\""])?;
    ask(&mut polite, "and me?")?;
    guide.show(&["recvfrom(", "sendto("])?;

    guide.say(&["A third client resets its connection. The server closes it; no other notices."]);
    let rude = guide.client()?;
    guide.show(&["accept4("])?;
    setsockopt(&rude, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
    drop(rude);
    guide.show(&["ECONNRESET", "close("])?;

    guide.say(&[
        "A fourth client asks and asks, and reads no answer. Its socket fills up, so the",
        "server stops reading it, and waits for room instead (EPOLLOUT). Others go on.",
    ]);
    let mut slow = guide.client()?;
    let mut asking = slow.try_clone()?;
    thread::spawn(move || asking.write_all(&b"more, please\n".repeat(1 << 18)));
    guide.show(&["accept4(", "recvfrom(", "sendto(", "{events=EPOLLOUT, "])?;
    ask(&mut polite, "and me?")?;
    guide.show(&["\"and me?", "sendto("])?;

    guide.say(&["Now it reads. There is room again: it gets the rest, and is read once more."]);
    let reading = thread::spawn(move || io::copy(&mut slow, &mut io::sink()));
    guide.show(&["[{events=EPOLLOUT, ", "sendto(", "EPOLL_CTL_MOD"])?;

    guide.say(&[
        "SIGTERM, like Ctrl-C, stops it. What was received is answered, each connection",
        "and then the listener are closed, and the server ends.",
    ]);
    kill(Pid::from_raw(guide.server.id() as i32), Signal::SIGTERM)?;
    guide.show(&["docs/signals.md", "shutdown(", "close("])?;
    drop((polite, half));
    let _ = reading.join();
    let status = guide.server.wait()?;
    guide.say(&[
        &format!("It has ended ({status}). All the calls of a short life: make trace."),
        "Each call and its reasons: docs/README.md. Twenty rude clients: make torture.",
    ]);
    Ok(())
}

fn ask(client: &mut TcpStream, line: &str) -> io::Result<()> {
    client.write_all(format!("{line}\n").as_bytes())?;
    match client.read(&mut [0; 100])? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

/// The server, and what it tells.
struct Guide {
    server: Child,
    address: String,
    lines: Receiver<String>,
    has_reader: bool,
}

impl Guide {
    fn start(program: &str) -> io::Result<Guide> {
        let mut command = Command::new(program);
        command.args(["--narrate", "-l", "127.0.0.1:0"]);
        let mut server = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let (sender, lines) = channel();
        if let Some(stderr) = server.stderr.take() {
            thread::spawn(move || {
                let lines = BufReader::new(stderr).lines().map_while(Result::ok);
                lines.map_while(|line| sender.send(line).ok()).for_each(drop);
            });
        }
        let mut ready = String::new();
        if let Some(stdout) = server.stdout.as_mut() {
            BufReader::new(stdout).read_line(&mut ready)?;
        }
        let address = ready.trim_end().strip_prefix("listening on ").unwrap_or_default().into();
        Ok(Guide { server, address, lines, has_reader: stdout().is_terminal() })
    }

    fn client(&self) -> io::Result<TcpStream> {
        TcpStream::connect(&self.address)
    }

    fn say(&self, sentence: &[&str]) {
        println!();
        for line in sentence {
            println!("{}", self.paint("1", line));
            self.pause();
        }
    }

    /// Waits for calls that contain these words, in this order, and shows each.
    fn show(&self, calls: &[&str]) -> io::Result<()> {
        for words in calls {
            loop {
                let line = self.lines.recv_timeout(PATIENCE);
                let line = line.map_err(|_| io::Error::other(format!("it never did {words}")))?;
                if line.contains(words) {
                    println!("  {}", self.call(&line));
                    self.pause();
                    break;
                }
            }
        }
        Ok(())
    }

    /// A narrated call in 78 columns: the call, its result, its chapter.
    fn call(&self, line: &str) -> String {
        let (line, chapter) = line.rsplit_once("  # docs/").unwrap_or((line, ""));
        let (call, result) = line.rsplit_once(" = ").unwrap_or((line, ""));
        let (call, result) = (call.trim_end(), result.split(" (").next().unwrap_or_default());
        let room = 60_usize.saturating_sub(result.len());
        let call = match call.char_indices().nth(room) {
            Some((end, _)) => format!("{}…", call.get(..end).unwrap_or_default()),
            None => call.to_owned(),
        };
        let shown = format!("{call} = {result}");
        format!("{shown:<65} {}", self.paint("2", chapter.trim_end_matches(".md")))
    }

    fn pause(&self) {
        if self.has_reader {
            thread::sleep(READING);
        }
    }

    fn paint(&self, color: &str, text: &str) -> String {
        let is_plain = !self.has_reader || std::env::var_os("NO_COLOR").is_some();
        if is_plain { text.into() } else { format!("\x1b[{color}m{text}\x1b[0m") }
    }
}
