//! Rude clients for any TCP server whose answer to a line contains the line.
//!
//! ```text
//! make torture ADDR=127.0.0.1:1234
//! ```
//!
//! Each of them does what real networks and real people do: it leaves without a word,
//! resets, does not read, sends a byte at a time, floods. A server survives it if the
//! rude client is treated as it deserves, and if a polite one is answered while it goes
//! on and afterwards. What is sent are lines of printable text unless the point is that
//! they are not, and never more than a few megabytes.

use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use std::cell::Cell;
use std::io::{self, IsTerminal, Read, Write, stdout};
use std::net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};
use threadbare::kernel::window_columns;

/// How long a polite client waits for its answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often the seconds are written anew.
const TICK: Duration = Duration::from_millis(200);

/// What a client found out: nothing to complain of, or what went wrong.
type Verdict = Result<(), String>;

/// A rude client: what it does, as the table says it, and the doing.
type Rude = (&'static str, fn(&Victim) -> Verdict);

const RUDE: [Rude; 20] = [
    ("100 clients connect and leave without a word", |v| v.repeat(100, |_| Ok(()))),
    ("100 clients connect and reset", |v| v.repeat(100, reset)),
    ("100 clients ask and leave before the answer", |v| v.repeat(100, |c| c.write_all(b"bye\n"))),
    ("100 clients ask and reset before the answer", |v| v.repeat(100, ask_and_reset)),
    ("a client ends its side before it has asked", |v| v.expect(b"", 0)),
    ("a client asks, ends its side, waits for the answer", |v| v.expect(b"half\n", 1)),
    ("a line that comes a byte at a time", byte_at_a_time),
    ("10,000 lines at once, and the end of the client's side", pipelined),
    ("64 KiB of empty lines", |v| v.flood_and_look(&[b'\n'; 65_536])),
    ("bytes that are no text", |v| v.flood_and_look(b"\0\xff\xfe\x80\r\r\n\x1b[2J\0\n")),
    ("a line of 4 MB", |v| v.flood_and_look(&vec![b'x'; 4 << 20])),
    ("urgent data", urgent),
    ("a client that never reads", |v| v.beside(1, deaf)),
    ("20 clients that never read", |v| v.beside(20, deaf)),
    ("200 clients that send half a line and stop", |v| {
        v.beside(200, |c| c.write_all(b"half a li"))
    }),
    ("500 clients at once, each answered", crowd),
    ("a client that reads a byte at a time, through a small window", small_window),
    ("a client that resets in the middle of a long answer", reset_in_an_answer),
    ("a client that ends both directions and stays", |v| {
        v.beside(1, |c| c.shutdown(Shutdown::Both))
    }),
    ("2,000 short connections, one after the other", |v| v.repeat(2_000, ask_once)),
];

fn main() -> ExitCode {
    let word = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:1234".to_string());
    let address = word.to_socket_addrs().ok().and_then(|mut all| all.next());
    let Some(address) = address else {
        eprintln!("error: {word}: no such address; try make torture ADDR=127.0.0.1:1234");
        return ExitCode::from(2);
    };
    let victim = Victim { address, waited: Cell::default() };
    if let Err(why) = victim.answers() {
        let takes = "any server will do whose answer to a line contains the line: make run";
        eprintln!("error: {word}: {why}; {takes}");
        return ExitCode::from(2);
    }
    match torture(&victim) {
        Ok(all) => ExitCode::from(u8::from(!all)),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS, // `| head`
        Err(error) => {
            eprintln!("error: stdout: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether the server survives all of them. An error is one of stdout.
fn torture(victim: &Victim) -> io::Result<bool> {
    writeln!(stdout(), "{:<60} a polite one waits", "Rude clients")?;
    let mut survived = 0;
    for (what, rude) in RUDE {
        victim.waited.take();
        let verdict = watched(what, || rude(victim).and_then(|()| victim.answers()));
        survived += usize::from(verdict.is_ok());
        let waited = victim.waited.get();
        match verdict {
            Ok(()) => {
                let millis = 1e3 * waited.as_secs_f32();
                writeln!(stdout(), "{what:<60} survived {} {millis:.1} ms", bar(waited))?;
            }
            Err(why) => writeln!(stdout(), "{what:<60} FAILED: {why}")?,
        }
    }
    writeln!(stdout(), "survived {survived} of {}", RUDE.len())?;
    Ok(survived == RUDE.len())
}

/// Acts; on a terminal the seconds run meanwhile, where the verdict will stand.
fn watched(what: &str, act: impl FnOnce() -> Verdict) -> Verdict {
    if !stdout().is_terminal() {
        return act();
    }
    thread::scope(|scope| {
        let (acting, acted) = channel::<()>();
        scope.spawn(move || {
            let begun = Instant::now();
            loop {
                // In a narrow window the seconds stand further to the left.
                let width = window_columns(stdout()).map_or(60, |it| it.saturating_sub(8).min(60));
                let seconds = begun.elapsed().as_secs_f32();
                let _ = write!(stdout(), "\r{what:<width$.width$} {seconds:.1} s\r");
                let _ = stdout().flush();
                if acted.recv_timeout(TICK) == Err(RecvTimeoutError::Disconnected) {
                    return;
                }
            }
        });
        let verdict = act();
        drop(acting);
        verdict
    })
}

/// A wait as one letter: each step is a little more than three times as long.
fn bar(waited: Duration) -> char {
    let steps = [1, 3, 10, 30, 100, 300, 1000];
    let longer = steps.iter().filter(|&&step| waited.as_millis() >= step).count();
    "▁▂▃▄▅▆▇█".chars().nth(longer).unwrap_or('█')
}

/// The server under test.
struct Victim {
    address: SocketAddr,
    /// The longest wait of a polite client, since this was last taken.
    waited: Cell<Duration>,
}

impl Victim {
    fn connect(&self) -> io::Result<TcpStream> {
        let client = TcpStream::connect_timeout(&self.address, PATIENCE)?;
        client.set_read_timeout(Some(PATIENCE))?;
        client.set_write_timeout(Some(Duration::from_secs(1)))?;
        client.set_nodelay(true)?;
        Ok(client)
    }

    /// A polite client is answered, and its words come back.
    fn answers(&self) -> Verdict {
        let polite = || {
            let mut client = self.connect()?;
            client.write_all(b"are you there?\n")?;
            read_until(&mut client, b"are you there?")
        };
        let asked = Instant::now();
        let answered = polite();
        self.waited.set(self.waited.get().max(asked.elapsed()));
        answered.map_err(|error: io::Error| format!("a polite client: {error}"))
    }

    /// Does the same `count` times, each time with a new client, whose own end does not matter.
    fn repeat(&self, count: usize, act: fn(&mut TcpStream) -> io::Result<()>) -> Verdict {
        for _ in 0..count {
            let mut client = self.connect().map_err(|error| format!("connect: {error}"))?;
            let _ = act(&mut client);
        }
        Ok(())
    }

    /// While `count` such clients are there, a polite one is answered, soon.
    fn beside(&self, count: usize, act: fn(&mut TcpStream) -> io::Result<()>) -> Verdict {
        let clients: io::Result<Vec<TcpStream>> = (0..count).map(|_| self.connect()).collect();
        let mut clients = clients.map_err(|error| format!("connect: {error}"))?;
        for client in &mut clients {
            let _ = act(client);
        }
        self.answers()?;
        match self.waited.get() {
            soon if soon < Duration::from_secs(1) => Ok(()),
            late => Err(format!("a polite client waited {:.1} s", late.as_secs_f32())),
        }
    }

    /// Sends `bytes` and the end, and counts the lines that come back before the server's end.
    fn expect(&self, bytes: &[u8], lines: usize) -> Verdict {
        let talk = || {
            let mut client = self.connect()?;
            client.write_all(bytes)?;
            client.shutdown(Shutdown::Write)?;
            let mut answer = Vec::new();
            client.read_to_end(&mut answer)?;
            Ok(answer.iter().filter(|&&byte| byte == b'\n').count())
        };
        match talk().map_err(|error: io::Error| error.to_string())? {
            seen if seen == lines => Ok(()),
            seen => Err(format!("{seen} lines came back instead of {lines}")),
        }
    }

    /// Sends `bytes` and reads whatever comes for a while; only the others matter.
    fn flood_and_look(&self, bytes: &[u8]) -> Verdict {
        let mut client = self.connect().map_err(|error| format!("connect: {error}"))?;
        let _ = client.write_all(bytes);
        let _ = client.set_read_timeout(Some(Duration::from_millis(200)));
        while matches!(client.read(&mut [0; 65_536]), Ok(1..)) {}
        Ok(())
    }
}

/// Reads until `words` have come.
fn read_until(client: &mut TcpStream, words: &[u8]) -> io::Result<()> {
    let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
    while !seen.windows(words.len()).any(|window| window == words) {
        match client.read(&mut buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => seen.extend_from_slice(buffer.get(..n).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let within = PATIENCE.as_secs();
                let what = format!("no answer with the words of the question within {within} s");
                return Err(io::Error::new(io::ErrorKind::TimedOut, what));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Lets the close that follows be a reset.
fn reset(client: &mut TcpStream) -> io::Result<()> {
    let at_once = libc::linger { l_onoff: 1, l_linger: 0 };
    Ok(setsockopt(client, sockopt::Linger, &at_once)?)
}

fn ask_and_reset(client: &mut TcpStream) -> io::Result<()> {
    client.write_all(b"bye\n")?;
    reset(client)
}

fn ask_once(client: &mut TcpStream) -> io::Result<()> {
    client.write_all(b"once\n")?;
    read_until(client, b"once")?;
    reset(client) // so that the client's ports last
}

/// Sends until nothing more is taken, and never reads.
fn deaf(client: &mut TcpStream) -> io::Result<()> {
    client.set_write_timeout(Some(Duration::from_millis(100)))?;
    for _ in 0..256 {
        client.write_all(&b"does anybody listen?\n".repeat(1_000))?;
    }
    Ok(())
}

fn byte_at_a_time(victim: &Victim) -> Verdict {
    let talk = || {
        let mut client = victim.connect()?;
        for byte in b"one by one\n" {
            client.write_all(std::slice::from_ref(byte))?;
            thread::sleep(Duration::from_millis(2)); // each is to be a segment of its own
        }
        client.shutdown(Shutdown::Write)?;
        let mut answer = Vec::new();
        client.read_to_end(&mut answer)
    };
    talk().map(drop).map_err(|error: io::Error| error.to_string())
}

/// Reads beside writing, as a client must that sends more than fits on the way.
fn pipelined(victim: &Victim) -> Verdict {
    let talk = || {
        let mut client = victim.connect()?;
        let mut reader = client.try_clone()?;
        let counting = thread::spawn(move || {
            let mut answer = Vec::new();
            reader.read_to_end(&mut answer)?;
            Ok::<usize, io::Error>(answer.iter().filter(|&&byte| byte == b'\n').count())
        });
        client.write_all(&b"line\n".repeat(10_000))?;
        client.shutdown(Shutdown::Write)?;
        counting.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
    };
    match talk().map_err(|error: io::Error| error.to_string())? {
        10_000 => Ok(()),
        seen => Err(format!("{seen} of 10,000 answers")),
    }
}

fn urgent(victim: &Victim) -> Verdict {
    use nix::sys::socket::{MsgFlags, send};
    use std::os::fd::AsRawFd;
    let client = victim.connect().map_err(|error| error.to_string())?;
    let _ = send(client.as_raw_fd(), b"now!\n", MsgFlags::MSG_OOB);
    victim.answers()
}

fn crowd(victim: &Victim) -> Verdict {
    let clients: io::Result<Vec<TcpStream>> = (0..500).map(|_| victim.connect()).collect();
    let mut clients = clients.map_err(|error| format!("connect: {error}"))?;
    let mut all = || {
        clients.iter_mut().try_for_each(|client| client.write_all(b"one of many\n"))?;
        clients.iter_mut().try_for_each(|client| read_until(client, b"one of many"))
    };
    all().map_err(|error: io::Error| error.to_string())
}

fn small_window(victim: &Victim) -> Verdict {
    let talk = || {
        let mut client = victim.connect()?;
        setsockopt(&client, sockopt::RcvBuf, &1)?; // the kernel's least
        client.write_all(&b"slowly, please\n".repeat(100))?;
        client.shutdown(Shutdown::Write)?;
        let (mut lines, mut byte) = (0, [0]);
        while client.read(&mut byte)? > 0 {
            lines += usize::from(byte == *b"\n");
        }
        Ok(lines)
    };
    match talk().map_err(|error: io::Error| error.to_string())? {
        100 => Ok(()),
        seen => Err(format!("{seen} of 100 answers")),
    }
}

fn reset_in_an_answer(victim: &Victim) -> Verdict {
    let mut client = victim.connect().map_err(|error| error.to_string())?;
    let _ = deaf(&mut client);
    let _ = client.read(&mut [0; 100]);
    reset(&mut client).map_err(|error| error.to_string())
}
