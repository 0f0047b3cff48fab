//! A minute with the server: what it does about good clients and bad ones, call by call.
//!
//! ```text
//! make tour
//! ```
//!
//! It starts the program with `--narrate`, plays a few clients, and shows of the system
//! calls that follow the few that matter. `make trace` shows all of them.

mod server;
#[allow(dead_code)] // what goes on, a wait, is not shown here
#[path = "../../src/program/view.rs"]
mod view;

use nix::libc;
use nix::sys::signal::Signal;
use nix::sys::socket::{setsockopt, sockopt};
use server::Server;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write, stdout};
use std::net::TcpStream;
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;
use view::{View, now};

/// The longest wait for a call that the server is about to make.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long each line stands before the next, if a person reads.
const READING: Duration = Duration::from_millis(900);

fn main() -> ExitCode {
    let Some(program) = std::env::args().nth(1) else {
        eprintln!("error: which program? try: make tour");
        return ExitCode::from(2);
    };
    match tour(&program) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader has seen enough (`| head`). A server that dies resets, and breaks no pipe.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
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
    ])?;
    guide.show(&["socket(", "bind(", "listen(", "epoll_create1(", "EPOLL_CTL_ADD, 3,"])?;

    guide.say(&["A client connects and says hello. It is accepted, read, and answered."])?;
    let mut polite = guide.client()?;
    ask(&mut polite, "hello")?;
    guide.show(&["epoll_wait(", "accept4(", "epoll_ctl(", "recvfrom(", "sendto("])?;

    guide.say(&[
        "A second client sends half a line and falls silent. The server does not wait",
        "for the other half: the first client is answered as before.",
    ])?;
    let mut half = guide.client()?;
    half.write_all(b"half a li")?;
    guide.show(&["accept4(", "\"half a li\""])?;
    ask(&mut polite, "and me?")?;
    guide.show(&["recvfrom(", "sendto("])?;

    guide
        .say(&["A third client resets its connection. The server closes it; no other notices."])?;
    let rude = guide.client()?;
    guide.show(&["accept4("])?;
    setsockopt(&rude, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
    drop(rude);
    guide.show(&["ECONNRESET", "close("])?;

    guide.say(&[
        "A fourth client asks and asks, and reads no answer. Its socket fills up, so the",
        "server stops reading it, and waits for room instead (EPOLLOUT). Others go on.",
    ])?;
    let mut slow = guide.client()?;
    let mut asking = slow.try_clone()?;
    thread::spawn(move || asking.write_all(&b"more, please\n".repeat(1 << 18)));
    guide.show(&["accept4(", "recvfrom(", "sendto(", "{events=EPOLLOUT, "])?;
    ask(&mut polite, "and me?")?;
    guide.show(&["\"and me?", "sendto("])?;

    guide.say(&["Now it reads. There is room again: it gets the rest, and is read once more."])?;
    let reading = thread::spawn(move || io::copy(&mut slow, &mut io::sink()));
    guide.show(&["[{events=EPOLLOUT, ", "sendto(", "EPOLL_CTL_MOD"])?;

    guide.say(&[
        "SIGTERM, like Ctrl-C, stops it. What was received is answered, each connection",
        "and then the listener are closed, and the server ends.",
    ])?;
    guide.server.signal(Signal::SIGTERM)?;
    guide.show(&["docs/03-signals.md", "shutdown(", "close("])?;
    drop((polite, half));
    let _ = reading.join();
    let status = guide.server.0.wait()?;
    guide.say(&[
        &format!("It has ended ({status}). All the calls of a short life: make trace."),
        "Each call and its reasons: docs/README.md. Twenty rude clients: make torture.",
    ])?;
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
    server: Server,
    address: String,
    /// Lines of the narrator, and when they came.
    lines: Receiver<(Duration, String)>,
    view: View,
    has_reader: bool,
}

impl Guide {
    fn start(program: &str) -> io::Result<Guide> {
        let mut command = Command::new(program);
        command.args(["--narrate", "-l", "127.0.0.1:0"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut server = Server(command.spawn()?);
        let view = View::new(now(), view::takes_color(&stdout()));
        let (sender, lines) = channel();
        if let Some(stderr) = server.0.stderr.take() {
            thread::spawn(move || {
                let lines = BufReader::new(stderr).lines().map_while(Result::ok);
                lines.map_while(|line| sender.send((now(), line)).ok()).for_each(drop);
            });
        }
        let mut ready = String::new();
        if let Some(stdout) = server.0.stdout.as_mut() {
            BufReader::new(stdout).read_line(&mut ready)?;
        }
        let address = ready.trim_end().strip_prefix("listening on ").unwrap_or_default().into();
        Ok(Guide { server, address, lines, view, has_reader: stdout().is_terminal() })
    }

    fn client(&self) -> io::Result<TcpStream> {
        TcpStream::connect(&self.address)
    }

    fn say(&self, sentence: &[&str]) -> io::Result<()> {
        writeln!(stdout())?;
        for line in sentence {
            writeln!(stdout(), "{}", self.view.paint("1", line))?;
            self.pause();
        }
        Ok(())
    }

    /// Waits for calls that contain these words, in this order, and shows each.
    fn show(&mut self, calls: &[&str]) -> io::Result<()> {
        for words in calls {
            loop {
                let line = self.lines.recv_timeout(PATIENCE);
                let (at, line) =
                    line.map_err(|_| io::Error::other(format!("it never did {words}")))?;
                // Of those that are not shown, too, the view learns.
                let shown = self.view.line(at, view::columns(stdout()), &line);
                if line.contains(words) {
                    writeln!(stdout(), "{shown}")?;
                    self.pause();
                    break;
                }
            }
        }
        Ok(())
    }

    fn pause(&self) {
        if self.has_reader {
            thread::sleep(READING);
        }
    }
}
