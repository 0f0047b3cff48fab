//! The server under test: where it is, and, if it was started here, its process.

use std::cell::{Cell, RefCell};
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long a polite client waits for its answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(3);
/// How long a server may take to start, and to end after a signal.
const SLOW: Duration = Duration::from_secs(15);

/// Nothing to complain of, or what went wrong.
pub(crate) type Verdict = Result<(), String>;

/// A server: an address, and a process if there is a command that starts it.
pub(crate) struct Victim {
    /// What starts it: the words of a shell.
    command: Option<String>,
    /// The address that was asked for; without one, the server prints it.
    asked: Option<SocketAddr>,
    address: Cell<Option<SocketAddr>>,
    child: RefCell<Option<Child>>,
    /// The longest wait of a polite client, since this was last taken.
    pub(crate) waited: Cell<Duration>,
}

impl Victim {
    /// A server that runs already.
    pub(crate) fn at(address: SocketAddr) -> Victim {
        let (child, waited) = (RefCell::default(), Cell::default());
        let (asked, address) = (Some(address), Cell::new(Some(address)));
        Victim { command: None, asked, address, child, waited }
    }

    /// A server that a command starts. It prints where it listens, unless `asked` says it.
    pub(crate) fn started_by(command: &str, asked: Option<SocketAddr>) -> Victim {
        let (child, waited) = (RefCell::default(), Cell::default());
        let command = Some(command.to_owned());
        Victim { command, asked, address: Cell::default(), child, waited }
    }

    /// Whether its process can be watched and stopped.
    pub(crate) fn is_ours(&self) -> bool {
        self.command.is_some()
    }

    /// The words by which this program is to start the same server.
    pub(crate) fn describe(&self, program: &mut Command) {
        program.args(self.asked.map(|address| address.to_string()));
        program.arg("--start").arg(self.command.as_deref().unwrap_or_default());
    }

    // ---- the process ----------------------------------------------------------------------

    /// Sees to it that it runs.
    pub(crate) fn start(&self) -> Verdict {
        let runs = |child: &mut Child| matches!(child.try_wait(), Ok(None));
        if self.command.is_none() || self.child.borrow_mut().as_mut().is_some_and(runs) {
            return Ok(());
        }
        self.start_with("")
    }

    /// Ends it, and starts it anew, with words of a shell in front of it (`ulimit -n 40`).
    pub(crate) fn start_with(&self, prelude: &str) -> Verdict {
        self.kill();
        let Some(command) = &self.command else { return Err("it was not started here".into()) };
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("{prelude}\nexec {command}")]).stdin(Stdio::null());
        let child = shell.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.map_err(|error| format!("sh: {error}"))?;
        let (prints, printed) = channel();
        for stream in [
            child.stdout.take().map(|it| Box::new(it) as Box<dyn Read + Send>),
            child.stderr.take().map(|it| Box::new(it) as Box<dyn Read + Send>),
        ] {
            let prints = prints.clone();
            thread::spawn(move || addresses(stream.into_iter(), &prints));
        }
        drop(prints);
        *self.child.borrow_mut() = Some(child);
        let address = match self.asked {
            Some(address) => address,
            None => printed.recv_timeout(SLOW).map_err(|_| {
                format!("{command:?} prints no address like 127.0.0.1:1234; give it: ADDR=…")
            })?,
        };
        self.address.set(Some(address));
        let end = Instant::now() + SLOW;
        while self.connect().is_err() {
            if Instant::now() > end {
                return Err(format!("{command:?} does not listen on {address}"));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Ends it at once.
    pub(crate) fn kill(&self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub(crate) fn signal(&self, signal: Signal) -> Verdict {
        let pid = self.pid()?;
        kill(Pid::from_raw(pid), signal).map_err(|error| format!("{signal}: {error}"))
    }

    /// Its end, after a signal.
    pub(crate) fn ends(&self) -> Result<ExitStatus, String> {
        let end = Instant::now() + SLOW;
        while Instant::now() < end {
            let status = self.child.borrow_mut().as_mut().and_then(|it| it.try_wait().ok()?);
            if let Some(status) = status {
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(20));
        }
        Err(format!("it has not ended {} s after SIGTERM", SLOW.as_secs()))
    }

    pub(crate) fn pid(&self) -> Result<i32, String> {
        let pid = self.child.borrow().as_ref().map(Child::id).ok_or("it does not run")?;
        Ok(pid as i32)
    }

    fn proc(&self, file: &str) -> Result<String, String> {
        let path = format!("/proc/{}/{file}", self.pid()?);
        fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))
    }

    /// CPU time that it has taken, in hundredths of a second.
    fn ticks(&self) -> Result<u64, String> {
        let stat = self.proc("stat")?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split(' ').collect();
        let field = |at: usize| fields.get(at).and_then(|it| it.parse().ok()).unwrap_or(0);
        Ok(field(12) + field(13))
    }

    /// The memory it uses, in MB.
    pub(crate) fn megabytes(&self) -> Result<usize, String> {
        let status = self.proc("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0");
        let kilobytes = line.split_whitespace().next().and_then(|it| it.parse::<usize>().ok());
        Ok(kilobytes.unwrap_or(0) / 1024)
    }

    /// How many descriptors it has open.
    pub(crate) fn descriptors(&self) -> Result<usize, String> {
        let path = format!("/proc/{}/fd", self.pid()?);
        fs::read_dir(&path).map(Iterator::count).map_err(|error| format!("{path}: {error}"))
    }

    /// It has nothing to do, and does nothing: it takes hardly any CPU time for a second.
    pub(crate) fn rests(&self) -> Verdict {
        let second = Duration::from_secs(1);
        thread::sleep(second / 5);
        let before = self.ticks()?;
        thread::sleep(second);
        match self.ticks()? - before {
            0..=4 => Ok(()),
            ticks => Err(format!("it takes {ticks} % of a CPU with nothing to do")),
        }
    }

    // ---- its clients ----------------------------------------------------------------------

    pub(crate) fn connect(&self) -> io::Result<TcpStream> {
        let address = self.address.get().ok_or(io::ErrorKind::NotConnected)?;
        let client = TcpStream::connect_timeout(&address, PATIENCE)?;
        client.set_read_timeout(Some(PATIENCE))?;
        client.set_write_timeout(Some(Duration::from_secs(1)))?;
        client.set_nodelay(true)?;
        Ok(client)
    }

    pub(crate) fn connect_many(&self, count: usize) -> Result<Vec<TcpStream>, String> {
        let clients: io::Result<Vec<TcpStream>> = (0..count).map(|_| self.connect()).collect();
        clients.map_err(|error| format!("connect: {error}"))
    }

    /// A polite client is answered, and its words come back.
    pub(crate) fn answers(&self) -> Verdict {
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
    pub(crate) fn repeat(
        &self,
        count: usize,
        act: fn(&mut TcpStream) -> io::Result<()>,
    ) -> Verdict {
        for _ in 0..count {
            let mut client = self.connect().map_err(|error| format!("connect: {error}"))?;
            let _ = act(&mut client);
        }
        Ok(())
    }

    /// While `count` such clients are there, a polite one is answered, soon.
    pub(crate) fn beside(
        &self,
        count: usize,
        act: fn(&mut TcpStream) -> io::Result<()>,
    ) -> Verdict {
        let mut clients = self.connect_many(count)?;
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
    pub(crate) fn expect(&self, bytes: &[u8], lines: usize) -> Verdict {
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
    pub(crate) fn flood_and_look(&self, bytes: &[u8]) -> Verdict {
        let mut client = self.connect().map_err(|error| format!("connect: {error}"))?;
        let _ = client.write_all(bytes);
        let _ = client.set_read_timeout(Some(Duration::from_millis(200)));
        while matches!(client.read(&mut [0; 65_536]), Ok(1..)) {}
        Ok(())
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Reads what a server prints, so that it never waits for a reader, and passes on the addresses.
fn addresses(streams: impl Iterator<Item = Box<dyn Read + Send>>, found: &Sender<SocketAddr>) {
    for stream in streams {
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line);
            let words = line.split_whitespace().filter(|word| word.contains(':'));
            if let Some(address) = words.filter_map(|word| word.parse().ok()).next() {
                let _ = found.send(address);
            }
        }
    }
}

/// The address that a word names.
pub(crate) fn address(word: &str) -> Option<SocketAddr> {
    word.to_socket_addrs().ok()?.next()
}

/// Reads until `words` have come.
pub(crate) fn read_until(client: &mut TcpStream, words: &[u8]) -> io::Result<()> {
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
