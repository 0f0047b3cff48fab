//! The instruments of the black-box tests: the real program as a child process,
//! clients with real sockets, and what /proc tells of the server.
//!
//! Nothing here sleeps and hopes: a condition is waited for with [`until`], which
//! gives up only after a time that no healthy machine needs.

#![allow(dead_code, unreachable_pub)] // each test program uses its own part of it

mod needs;

use std::fs;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Once};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigHandler, kill, signal};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, SockaddrIn, UnixAddr, bind, connect, setsockopt,
    socket, sockopt,
};
use nix::unistd::Pid;
use threadbare::kernel::{Kernel, Linux};

#[allow(unused_imports)]
pub use needs::{WAYS, needs, path, skip, way_into_a_network};
pub use nix::sys::signal::Signal;

/// How long anything may take before the test that waits for it fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The answer of `greet` to a line, ended as the line ended.
pub fn thanks(line: &str) -> String {
    format!("Thank you for your message {line}")
}

/// Bytes in which no two places look alike for more than a few bytes, so that a
/// lost, doubled or moved piece shows. The period is a prime.
pub fn pattern(length: usize) -> Vec<u8> {
    const PERIOD: usize = 1_048_573;
    let mut state = 88_172_645_463_325_252_u64;
    let period: Vec<u8> = (0..PERIOD.min(length))
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect();
    period.iter().copied().cycle().take(length).collect()
}

/// Asks until it gets something.
#[track_caller]
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain for: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until the condition holds.
#[track_caller]
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    eventually(what, || holds().then_some(()));
}

/// Lets this process, and so the servers it starts, open as many files as it may.
pub fn raise_descriptor_limit() -> u64 {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    hard
}

/// A folder of its own for a test, removed at the end.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new() -> Scratch {
        Scratch::within(&std::env::temp_dir())
    }

    /// The same in another file system.
    pub fn within(folder: &Path) -> Scratch {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("threadbare-{}-{count}", std::process::id());
        let path = folder.join(name);
        fs::create_dir(&path).unwrap();
        Scratch(path)
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Leaves the file of a Unix socket on which nobody listens. Nobody ever did: what a
    /// listener of ours leaves is alive for as long as a child that another thread starts
    /// has not yet come to its exec.
    pub fn stale_socket(&self, name: &str) {
        let socket =
            socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        bind(socket.as_raw_fd(), &UnixAddr::new(&self.path(name)).unwrap()).unwrap();
    }

    /// The same as a listener's address.
    pub fn unix(&self, name: &str) -> String {
        format!("unix:{}", self.path(name).display())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What a child has written so far, read by a thread of its own.
struct Capture {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Capture {
    fn of(mut pipe: impl Read + Send + 'static) -> Capture {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&bytes);
        let reader = thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = pipe.read(&mut buffer) {
                sink.lock().unwrap().extend_from_slice(&buffer[..count]);
            }
        });
        Capture { bytes, reader: Some(reader) }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().unwrap()).into_owned()
    }

    fn finish(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
    }
}

/// A program of docs/programs: its path. `cargo test` has built it, and then this does nothing.
pub fn example(name: &str) -> String {
    static BUILT: Once = Once::new();
    BUILT.call_once(|| {
        let mut cargo = Command::new(env!("CARGO"));
        assert!(cargo.args(["build", "--locked", "-q", "--examples"]).status().unwrap().success());
    });
    let beside = Path::new(env!("CARGO_BIN_EXE_threadbare")).with_file_name("examples");
    beside.join(name).to_str().unwrap().to_owned()
}

/// A path as a word of the shell.
pub fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

/// A command for a child that SIGHUP ends, as usual: what nohup(1) ignores, a child ignores too.
#[allow(unsafe_code)]
pub fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    let reset = || {
        // SAFETY: the default action is no function of ours.
        unsafe { signal(Signal::SIGHUP, SigHandler::SigDfl) }.map(drop).map_err(io::Error::from)
    };
    if Linux.rt_sigaction(threadbare::Signal::SIGHUP) == Ok(true) {
        // SAFETY: what runs between fork and exec is one system call.
        unsafe { command.pre_exec(reset) };
    }
    command
}

/// This test once more, in a process of its own that `command` starts: to be told by a
/// variable in its environment that it is the child. `name` is that of the test.
pub fn again<'a>(command: &'a mut Command, name: &str) -> &'a mut Command {
    command.arg(std::env::current_exe().unwrap());
    command.args([name, "--exact", "--include-ignored", "--nocapture"])
}

/// Whether such a process did its work, and what it said, without what the harness says: the
/// test counts once.
pub fn outcome(output: &Output) -> (bool, String) {
    let said = [String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)];
    let is_ours = |line: &&str| !["running 1 test", "test "].iter().any(|it| line.starts_with(it));
    let ours: Vec<&str> = said.iter().flat_map(|said| said.lines()).filter(is_ours).collect();
    (output.status.success() && said[0].contains(" 1 passed;"), ours.join("\n"))
}

/// Runs a test in a network of its own, where root of a user namespace may do what it likes, and
/// where no ports, no connections and no TIME_WAIT of others are. `prepare` is shell for it.
pub fn in_a_network_of_its_own(name: &str, prepare: &str, test: impl FnOnce()) {
    const INSIDE: &str = "THREADBARE_NETWORK";
    if std::env::var(INSIDE).is_ok() {
        return test();
    }
    if !needs(&["ip", "unshare"]) {
        return;
    }
    let start = format!("ip link set lo up\n{prepare}\nexec \"$0\" \"$@\"");
    let mut unshare = command("unshare");
    unshare.args(way_into_a_network().unwrap()).args(["sh", "-ec", &start]).env("PATH", path());
    let (is_true, said) = outcome(&again(&mut unshare, name).env(INSIDE, "1").output().unwrap());
    println!("{said}");
    assert!(is_true, "see above");
}

/// A program that has come to its end.
#[derive(Debug)]
pub struct Finished {
    /// The exit status; `None` if a signal killed it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs the program to its end.
pub fn run(args: &[&str]) -> Finished {
    run_after("", args)
}

/// The same, after some lines of shell in the same process (`ulimit -n 20`).
pub fn run_after(prelude: &str, args: &[&str]) -> Finished {
    let mut server = Server::spawn(prelude, args);
    let code = server.wait();
    Finished { code, stdout: server.stdout(), stderr: server.logs() }
}

/// The program as a child process.
pub struct Server {
    child: Child,
    pid: Pid,
    is_reaped: bool,
    stdout: Capture,
    stderr: Capture,
    /// The addresses of the ready lines, in their order.
    pub addresses: Vec<String>,
}

impl Server {
    /// Starts the program and waits until it is ready. Without `-l` in `args` it
    /// listens on a free port of 127.0.0.1.
    pub fn start(args: &[&str]) -> Server {
        Server::start_after("", args)
    }

    /// The same, after some lines of shell in the same process (`umask 0`).
    pub fn start_after(prelude: &str, args: &[&str]) -> Server {
        Server::start_under(&["sh", "-c", &format!("{prelude}\nexec \"$0\" \"$@\"")], args)
    }

    /// The same, with words in front of the program's name that end in its start.
    pub fn start_under(words: &[&str], args: &[&str]) -> Server {
        let given = args.iter().filter(|arg| matches!(**arg, "-l" | "--listen")).count();
        let local = ["-l", "127.0.0.1:0"];
        let args = if given == 0 { [args, &local].concat() } else { args.to_vec() };
        let mut server = Server::spawn_under(words, &args);
        server.addresses = eventually("the ready lines", || {
            let ready = server.ready_lines();
            assert!(
                ready.len() >= given.max(1) || server.child.try_wait().unwrap().is_none(),
                "no start: {}",
                server.stderr.text()
            );
            (ready.len() >= given.max(1)).then_some(ready)
        });
        server
    }

    /// Starts the program and waits for nothing.
    pub fn spawn(prelude: &str, args: &[&str]) -> Server {
        Server::spawn_under(&["sh", "-c", &format!("{prelude}\nexec \"$0\" \"$@\"")], args)
    }

    /// Starts the program as a service manager does that passes these sockets on, with these
    /// names, and waits for nothing. `prelude` is shell that ends in its start.
    #[allow(unsafe_code)]
    pub fn spawn_with(
        sockets: &[&dyn AsRawFd],
        names: &str,
        prelude: &str,
        args: &[&str],
    ) -> Server {
        let mut numbers: Vec<i32> = sockets.iter().map(|socket| socket.as_raw_fd()).collect();
        let prelude = format!(
            "export LISTEN_PID=$$ LISTEN_FDS={} LISTEN_FDNAMES='{names}'\n{prelude}",
            numbers.len()
        );
        let words = ["sh", "-c", &prelude, env!("CARGO_BIN_EXE_threadbare")];
        let mut command = command(words[0]);
        command.args(&words[1..]).args(args);
        let pass = move || {
            // First out of the way: one may have the number that another is to get.
            for number in &mut numbers {
                // SAFETY: the call takes no pointer.
                let copied = unsafe { nix::libc::fcntl(*number, nix::libc::F_DUPFD_CLOEXEC, 100) };
                *number = if copied < 0 { return Err(io::Error::last_os_error()) } else { copied };
            }
            for (place, number) in (3..).zip(&numbers) {
                // SAFETY: the child has nothing open that it needs but what it was born with.
                if unsafe { nix::libc::dup2(*number, place) } < 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            Ok(())
        };
        // SAFETY: what runs between fork and exec are system calls.
        unsafe { command.pre_exec(pass) };
        Server::child(command)
    }

    /// Waits until it is ready, at so many addresses.
    pub fn until_ready(&mut self, count: usize) {
        self.addresses = eventually("the ready lines", || {
            let ready = self.ready_lines();
            assert!(ready.len() >= count || !self.has_ended(), "no start: {}", self.logs());
            (ready.len() >= count).then_some(ready)
        });
    }

    /// The same with another program.
    pub fn spawn_other(prelude: &str, path: &str, args: &[&str]) -> Server {
        Server::spawn_words(&["sh", "-c", &format!("{prelude}\nexec \"$0\" \"$@\""), path], args)
    }

    /// The same, with words in front of the program's name that end in its start.
    pub fn spawn_under(words: &[&str], args: &[&str]) -> Server {
        Server::spawn_words(&[words, &[env!("CARGO_BIN_EXE_threadbare")]].concat(), args)
    }

    fn spawn_words(words: &[&str], args: &[&str]) -> Server {
        let mut command = command(words[0]);
        command.args(&words[1..]).args(args);
        Server::child(command)
    }

    fn child(mut command: Command) -> Server {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        Server {
            pid: Pid::from_raw(i32::try_from(child.id()).unwrap()),
            stdout: Capture::of(child.stdout.take().unwrap()),
            stderr: Capture::of(child.stderr.take().unwrap()),
            child,
            is_reaped: false,
            addresses: Vec::new(),
        }
    }

    /// Starts a program of docs/programs and waits until it is ready.
    pub fn example(name: &str, args: &[&str]) -> Server {
        Server::other("", &example(name), args)
    }

    /// Starts another program, after some lines of shell, and waits until it is ready.
    pub fn other(prelude: &str, path: &str, args: &[&str]) -> Server {
        let mut server = Server::spawn_other(prelude, path, args);
        server.addresses = eventually("the ready line", || {
            let ready = server.ready_lines();
            assert!(!ready.is_empty() || !server.has_ended(), "no start: {}", server.logs());
            (!ready.is_empty()).then_some(ready)
        });
        server
    }

    fn ready_lines(&self) -> Vec<String> {
        let text = self.stdout.text();
        let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        let named = whole.filter_map(|line| line.trim_end().strip_prefix("listening on "));
        named.map(str::to_owned).collect()
    }

    /// Everything on stdout so far.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// Everything on stderr so far.
    pub fn logs(&self) -> String {
        self.stderr.text()
    }

    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// A client of the first listener.
    #[track_caller]
    pub fn client(&self) -> Client {
        Client::to(&self.addresses[0])
    }

    #[track_caller]
    pub fn clients(&self, count: usize) -> Vec<Client> {
        (0..count).map(|_| self.client()).collect()
    }

    /// Not after [`wait`](Server::wait): the number may be another process's by then.
    pub fn signal(&self, signal: Signal) {
        assert!(!self.is_reaped, "it has ended, and its number is free");
        kill(self.pid, signal).unwrap();
    }

    /// Stops the process in its tracks: from now on events pile up.
    pub fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
        until("the server to be stopped", || self.state() == "T");
    }

    /// Ends [`freeze`](Server::freeze).
    pub fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// Waits for the end: the exit status, `None` if a signal killed it.
    #[track_caller]
    pub fn wait(&mut self) -> Option<i32> {
        let status = eventually("the server to end", || self.child.try_wait().unwrap());
        self.is_reaped = true;
        self.stdout.finish();
        self.stderr.finish();
        status.code()
    }

    /// Whether it has come to its end, and waits to be asked about it.
    pub fn has_ended(&self) -> bool {
        self.state() == "Z"
    }

    /// SIGTERM, and the exit status.
    #[track_caller]
    pub fn stop(&mut self) -> Option<i32> {
        self.signal(Signal::SIGTERM);
        self.wait()
    }

    /// Waits until its first listener is closed: the drain is under way.
    pub fn until_refusing(&self) {
        until("the listener to be closed", || Client::try_to(&self.addresses[0]).is_err());
    }

    fn proc(&self, name: &str) -> PathBuf {
        Path::new("/proc").join(self.pid.to_string()).join(name)
    }

    /// The fields of /proc/PID/stat from the third, the state, on.
    fn stat(&self) -> Vec<String> {
        let stat = fs::read_to_string(self.proc("stat")).unwrap();
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        fields.split(' ').map(str::to_owned).collect()
    }

    fn state(&self) -> String {
        self.stat().swap_remove(0)
    }

    /// Whether signals wait to be read.
    pub fn has_signals(&self) -> bool {
        let status = fs::read_to_string(self.proc("status")).unwrap_or_default();
        let sets = ["SigPnd:", "ShdPnd:"].into_iter();
        let mut sets =
            sets.filter_map(|set| status.lines().find_map(|line| line.strip_prefix(set)));
        sets.any(|set| set.trim().bytes().any(|digit| digit != b'0'))
    }

    /// CPU time so far, in ticks of 10 ms.
    pub fn cpu_ticks(&self) -> u64 {
        self.stat()[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum()
    }

    /// How often its threads have gone to sleep so far.
    pub fn switches(&self) -> u64 {
        let tasks = fs::read_dir(self.proc("task")).unwrap();
        let statuses = tasks.map(|task| task.unwrap().path().join("status"));
        statuses.map(|status| status_field(&status, "voluntary_ctxt_switches")).sum()
    }

    /// Memory of its own, in bytes. Counted page by page: /proc/PID/status only estimates.
    pub fn anonymous_bytes(&self) -> u64 {
        status_field(&self.proc("smaps_rollup"), "Anonymous") * 1024
    }

    /// Bytes that the kernel holds for its TCP connections: received and not yet read, written
    /// and not yet acknowledged, with what it needs to manage them. ss(8), skmem; the test
    /// [`needs`] it.
    pub fn parked_bytes(&self) -> u64 {
        let port = self.addresses[0].rsplit_once(':').unwrap().1;
        let filter = ["-Htmn", "state", "established", "sport", "=", &format!(":{port}")];
        let told = Command::new("ss").args(filter).output().unwrap();
        let told = String::from_utf8(told.stdout).unwrap();
        let fields = told.split([',', '(']).filter_map(|field| field.strip_prefix(['r', 'w']));
        fields.filter_map(|number| number.parse::<u64>().ok()).sum()
    }

    pub fn threads(&self) -> u64 {
        status_field(&self.proc("status"), "Threads")
    }

    /// How many descriptors it has open.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(self.proc("fd")).unwrap().count()
    }

    /// How many connections it does not read because they do not read: those that epoll
    /// watches for EPOLLOUT, 0x4, and for what it always does, 0x18.
    pub fn held_back(&self) -> usize {
        let infos = fs::read_dir(self.proc("fdinfo")).unwrap();
        let infos = infos.filter_map(|info| fs::read_to_string(info.ok()?.path()).ok());
        let watches_output = |line: &&str| {
            let mut words = line.split_whitespace();
            words.next() == Some("tfd:") && words.nth(2) == Some("1c")
        };
        infos.map(|info| info.lines().filter(watches_output).count()).sum()
    }

    /// Sets the soft limit of open descriptors of the running server.
    pub fn limit_descriptors(&self, soft: usize) {
        let limit = format!("--nofile={soft}:");
        let pid = self.pid.to_string();
        let status = Command::new("prlimit").args(["--pid", &pid, &limit]).status().unwrap();
        assert!(status.success());
    }

    /// Waits until nothing happens in the server any more but a look at the clock.
    #[track_caller]
    pub fn settle(&self) {
        until("the server to come to rest", || {
            let (ticks, switches) = self.spends(Duration::from_millis(100));
            ticks == 0 && switches <= 2
        });
    }

    /// The ticks and the sleeps that it spends in a span of time.
    pub fn spends(&self, span: Duration) -> (u64, u64) {
        let (ticks, switches) = (self.cpu_ticks(), self.switches());
        thread::sleep(span);
        (self.cpu_ticks() - ticks, self.switches() - switches)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if !thread::panicking() {
            let logs = self.logs();
            assert!(!logs.contains("panicked"), "the server panicked: {logs}");
        }
    }
}

/// Options for [`stuck_clients`].
pub const STUCK: [&str; 2] = ["--high-water", "4M"];
/// How many bytes each of them is owed.
pub const STUCK_BYTES: usize = 50_000 * 28;

/// Clients of `greet` with the options [`STUCK`] that have asked for much and read
/// nothing. All they have said is read: only a server that means it resets them.
#[track_caller]
pub fn stuck_clients(server: &Server, count: usize) -> Vec<Client> {
    let mut clients = server.clients(count);
    for client in &mut clients {
        client.send([b'\n'; 50_000]);
    }
    server.settle();
    clients
}

fn status_field(path: &Path, name: &str) -> u64 {
    let status = fs::read_to_string(path).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap().trim().trim_end_matches(" kB").parse().unwrap()
}

/// A client with blocking calls that give up after [`PATIENCE`].
pub struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    /// Connects to an address as the ready lines name it.
    pub fn to(address: &str) -> Client {
        Client::try_to(address).unwrap_or_else(|error| panic!("connect to {address}: {error}"))
    }

    pub fn try_to(address: &str) -> io::Result<Client> {
        let stream = match address.strip_prefix("unix:") {
            // A TcpStream in name only: its calls are those of any stream socket.
            Some(path) => TcpStream::from(OwnedFd::from(UnixStream::connect(path)?)),
            None => TcpStream::connect(address)?,
        };
        Ok(Client::over(stream))
    }

    /// Connects within a time so short that a SYN that was dropped is not sent again.
    pub fn at_once_to(address: &str) -> io::Result<Client> {
        match address.parse() {
            Ok(tcp) => TcpStream::connect_timeout(&tcp, PATIENCE / 150).map(Client::over),
            Err(_) => Client::try_to(address),
        }
    }

    /// Connects from another address of this machine, such as 127.0.0.2.
    pub fn from(source: Ipv4Addr, address: &str) -> Client {
        let kind = (AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC);
        let fd = socket(kind.0, kind.1, kind.2, None).unwrap();
        bind(fd.as_raw_fd(), &SockaddrIn::from(std::net::SocketAddrV4::new(source, 0))).unwrap();
        let server: std::net::SocketAddrV4 = address.parse().unwrap();
        connect(fd.as_raw_fd(), &SockaddrIn::from(server)).unwrap();
        Client::over(TcpStream::from(fd))
    }

    fn over(stream: TcpStream) -> Client {
        let _ = stream.set_nodelay(true); // a Unix socket has no such option
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Client { stream: BufReader::new(stream) }
    }

    /// Its socket, as long as nothing was read too early.
    pub fn into_stream(self) -> TcpStream {
        assert!(self.stream.buffer().is_empty());
        self.stream.into_inner()
    }

    /// A second client value for the same socket, for another thread. To be taken
    /// before anything is read.
    pub fn twin(&self) -> Client {
        Client { stream: BufReader::new(self.stream.get_ref().try_clone().unwrap()) }
    }

    /// The address the server knows it by.
    pub fn name(&self) -> String {
        self.stream.get_ref().local_addr().unwrap().to_string()
    }

    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes.as_ref())
    }

    /// Sends bytes of which the last is urgent.
    pub fn send_urgent(&mut self, bytes: impl AsRef<[u8]>) {
        send_urgent(self.stream.get_ref(), bytes.as_ref());
    }

    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        in_time(self.try_send(bytes));
    }

    /// Reads as many bytes as are expected, and they must be these.
    #[track_caller]
    pub fn expect(&mut self, bytes: impl AsRef<[u8]>) {
        let mut got = vec![0; bytes.as_ref().len()];
        in_time(self.stream.read_exact(&mut got));
        assert_same(&got, bytes.as_ref());
    }

    /// Reads a line, with its ending.
    #[track_caller]
    pub fn line(&mut self) -> String {
        in_time(self.try_line())
    }

    pub fn try_line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line).map(|_| line)
    }

    /// Sends to a `greet` server and reads its thanks.
    #[track_caller]
    pub fn ask(&mut self, line: &str) {
        self.send(line);
        self.expect(thanks(line));
    }

    /// Reads what comes at once, at most `most` bytes.
    pub fn some(&mut self, most: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; most];
        let count = self.stream.read(&mut bytes)?;
        bytes.truncate(count);
        Ok(bytes)
    }

    /// The same, but from the socket itself, so that the rest stays in the kernel.
    #[track_caller]
    pub fn sip(&mut self, most: usize) -> Vec<u8> {
        let mut bytes = vec![0; most];
        let count = in_time(self.stream.get_mut().read(&mut bytes));
        bytes.truncate(count);
        bytes
    }

    /// Reads to the server's FIN.
    #[track_caller]
    pub fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if let Err(error) = self.stream.read_to_end(&mut bytes) {
            panic!("{error} after {} bytes, instead of FIN: {}", bytes.len(), show(&bytes));
        }
        bytes
    }

    /// Reads to the server's FIN, and what comes before it must be this.
    #[track_caller]
    pub fn expect_rest(&mut self, bytes: impl AsRef<[u8]>) {
        assert_same(&self.rest(), bytes.as_ref());
    }

    /// FIN, and not a byte before it.
    #[track_caller]
    pub fn expect_end(&mut self) {
        self.expect_rest("");
    }

    /// Reads to the server's reset: the bytes before it.
    #[track_caller]
    pub fn until_reset(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let end = self.stream.read_to_end(&mut bytes).map_err(|error| error.kind());
        assert_eq!(end.err(), Some(ErrorKind::ConnectionReset), "after {} bytes", bytes.len());
        bytes
    }

    /// Nothing comes for a while, no byte and no end.
    #[track_caller]
    pub fn expect_silence(&mut self, span: Duration) {
        self.stream.get_ref().set_read_timeout(Some(span)).unwrap();
        let mut got = self.some(100).map_err(|error| error.kind());
        while got == Err(ErrorKind::Interrupted) {
            got = self.some(100).map_err(|error| error.kind()); // SIGSTOP and SIGCONT are enough
        }
        assert_eq!(got, Err(ErrorKind::WouldBlock));
        self.stream.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
    }

    /// Sends pieces of `bytes`, again and again, until nobody takes any for 200 ms,
    /// or `most` are sent: how many were.
    #[track_caller]
    pub fn stuff(&mut self, bytes: &[u8], most: usize) -> usize {
        self.try_to_stuff(bytes, most).unwrap_or_else(|error| panic!("stuffing: {error}"))
    }

    /// The same, for a client that may be cut off meanwhile.
    pub fn try_to_stuff(&mut self, bytes: &[u8], most: usize) -> io::Result<usize> {
        let brief = Some(Duration::from_millis(200));
        self.stream.get_ref().set_write_timeout(brief).unwrap();
        let mut sent = 0;
        while sent < most {
            let from = sent % bytes.len();
            match self.stream.get_mut().write(&bytes[from..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        self.stream.get_ref().set_write_timeout(Some(PATIENCE)).unwrap();
        Ok(sent)
    }

    /// FIN: this side has said everything, and goes on reading.
    pub fn finish(&mut self) {
        self.stream.get_ref().shutdown(Shutdown::Write).unwrap();
    }

    /// Closes with a reset.
    pub fn reset(self) {
        let now = nix::libc::linger { l_onoff: 1, l_linger: 0 };
        setsockopt(self.stream.get_ref(), sockopt::Linger, &now).unwrap();
    }
}

#[track_caller]
/// Sends bytes of which the last is urgent (MSG_OOB).
pub fn send_urgent(socket: &impl AsRawFd, bytes: &[u8]) {
    let sent = nix::sys::socket::send(socket.as_raw_fd(), bytes, MsgFlags::MSG_OOB).unwrap();
    assert_eq!(sent, bytes.len());
}

fn in_time<T>(result: io::Result<T>) -> T {
    match result {
        Ok(value) => value,
        Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("stuck for {PATIENCE:?}"),
        Err(error) => panic!("{error}"),
    }
}

#[track_caller]
fn assert_same(got: &[u8], due: &[u8]) {
    let common = got.iter().zip(due).take_while(|(got, due)| got == due).count();
    let at = |bytes: &[u8]| format!("{} of {}", show(&bytes[common..]), bytes.len());
    assert!(got == due, "from byte {common} on {} instead of {}", at(got), at(due));
}

/// Bytes for a failure's message: escaped, and not too many.
pub fn show(bytes: &[u8]) -> String {
    let start = bytes.get(..300).unwrap_or(bytes).escape_ascii();
    format!("{} bytes \"{start}\"", bytes.len())
}

/// A port of 127.0.0.1 that the kernel gives to no client, below the ephemeral range; and that
/// is given to no other test.
pub fn quiet_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 20_000 + u16::try_from(std::process::id() % 1000).unwrap() * 10;
    let mut ports = (0..10_000).map(|_| first + NEXT.fetch_add(1, Ordering::Relaxed));
    ports.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap()
}
