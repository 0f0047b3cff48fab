//! What the sockets' buffers held beside the lines of a trace.
//!
//! After each call that moves bytes strace stops the server ([`STOPS`]), as a signal does.
//! While it stands still, its own descriptors are asked (SIOCINQ: what is to be received;
//! SIOCOUTQ: what was sent and is not acknowledged), and then it goes on. So the numbers are
//! those at the very line, and nothing is added to the trace.
//!
//! docs/buffers.json has a line for each trace: by how many of its lines are done, triples of a
//! descriptor and these two numbers. The book's stepper shows them.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{self, AddressFamily, SockType, SockaddrLike, SockaddrStorage, sockopt};
use nix::unistd::Pid;

use super::source::methods;
use super::trace::{self, look, normal};
use super::{ALONE, as_shown};

/// The rule for strace: the server stops when one of these has returned.
pub const STOPS: &str = "-e inject=accept4,recvfrom,sendto,sendmsg,close:signal=SIGSTOP";

const FILE: &str = "docs/buffers.json";

/// Those of a trace, as they are known.
fn golden(name: &str) -> String {
    let all = fs::read_to_string(FILE).unwrap_or_default();
    let start = format!("\"{name}\": ");
    let line = all.lines().find_map(|line| line.strip_prefix(&start));
    line.unwrap_or_default().trim_end_matches(',').to_owned()
}

/// Looks at a server each time that it stops.
pub struct Buffers(Arc<Watch>);

struct Watch {
    pid: i32,
    log: PathBuf,
    /// By the number of lines that are done.
    held: Mutex<BTreeMap<usize, Vec<[i32; 3]>>>,
    /// How often the server was told to go on.
    continued: AtomicUsize,
    /// The next stop is the test's own, and lasts.
    lasts: AtomicBool,
    is_over: AtomicBool,
}

impl Buffers {
    pub fn watch(pid: i32, log: &Path, looks: bool) -> Buffers {
        let watch = Arc::new(Watch {
            pid,
            log: log.to_owned(),
            held: Mutex::default(),
            continued: AtomicUsize::new(0),
            lasts: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
        });
        if looks {
            let watch = Arc::clone(&watch);
            thread::spawn(move || watch.look());
        }
        Buffers(watch)
    }

    /// Says that the next stop is to last.
    pub fn hold(&self) {
        self.0.lasts.store(true, SeqCst);
    }

    pub fn is_held(&self) -> bool {
        self.0.stopped().is_some()
    }

    /// Ends a stop that lasts: what clients did meanwhile is there when the next line is told.
    pub fn let_go(&self) {
        let told = self.0.stopped().unwrap_or_default();
        self.0.note(normal(&told).len() + 1);
        self.0.go_on();
        self.0.lasts.store(false, SeqCst);
    }

    pub fn told(&self) -> String {
        let held = self.0.held.lock().unwrap();
        let lines: Vec<String> =
            held.iter().map(|(line, held)| format!("\"{line}\": {held:?}")).collect();
        format!("{{{}}}", lines.join(", "))
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        self.0.is_over.store(true, SeqCst);
    }
}

impl Watch {
    /// Looks at each stop, until the watch is over.
    fn look(&self) {
        while !self.is_over.load(SeqCst) {
            if let Some(told) = self.stopped().filter(|_| !self.lasts.load(SeqCst)) {
                self.note(normal(&told).len());
                self.go_on();
            }
            thread::sleep(Duration::from_micros(200));
        }
    }

    /// The log, if the server stands still and has not been told to go on.
    fn stopped(&self) -> Option<String> {
        let told = fs::read_to_string(&self.log).ok()?;
        let continued = told.matches("--- SIGCONT {").count();
        let is_stopped = told.rfind("--- stopped by SIGSTOP") > told.rfind("--- SIGCONT {");
        (is_stopped && continued == self.continued.load(SeqCst)).then_some(told)
    }

    fn go_on(&self) {
        self.continued.fetch_add(1, SeqCst);
        let _ = kill(Pid::from_raw(self.pid), Signal::SIGCONT); // it may have been killed
    }

    fn note(&self, line: usize) {
        let held: Vec<[i32; 3]> = (3..64).filter_map(|fd| asked(self.pid, fd)).collect();
        if !held.is_empty() {
            self.held.lock().unwrap().insert(line, held);
        }
    }
}

/// What a connected socket of another process holds.
#[allow(unsafe_code)]
fn asked(pid: i32, number: i32) -> Option<[i32; 3]> {
    let copy = |fd: libc::c_long| -> Option<OwnedFd> {
        let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0)?;
        // SAFETY: the kernel has just made it, for nobody else.
        Some(unsafe { OwnedFd::from_raw_fd(fd) })
    };
    // SAFETY: neither call takes a pointer.
    let process = copy(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    let (process, zero) = (process.as_raw_fd(), 0);
    // SAFETY: as above.
    let socket = copy(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process, number, zero) })?;
    let peer = socket::getpeername::<SockaddrStorage>(socket.as_raw_fd()).ok()?;
    let is_stream = socket::getsockopt(&socket, sockopt::SockType) == Ok(SockType::Stream);
    let (mut receive, mut send) = (0, 0);
    // SAFETY: both numbers are valid to be written.
    let failed = unsafe {
        libc::ioctl(socket.as_raw_fd(), libc::FIONREAD, &raw mut receive)
            + libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut send)
    };
    match peer.family() {
        Some(AddressFamily::Inet) if is_stream && failed == 0 => Some([number, receive, send]),
        // What is sent is in the peer's buffer at once; SIOCOUTQ reports what that costs.
        Some(AddressFamily::Unix) if is_stream && failed == 0 => Some([number, receive, 0]),
        _ => None,
    }
}

/// Compares what is known with what the buffers hold now, or writes it. Where the machine is so
/// busy that each stop brings another timer first, what is known stands.
pub fn prove() {
    // Or how much a client's kernel takes depends on how fast its reader is.
    let _ = fs::write("/proc/sys/net/ipv4/tcp_moderate_rcvbuf", "0");
    let updates = std::env::var("UPDATE").is_ok();
    let (mut before, mut all) = (String::new(), BTreeMap::new());
    let (mut settled, mut wrong) = (0, BTreeMap::new());
    look(&methods(), |name, trace, held| {
        let known = golden(name);
        let golden = fs::read_to_string(trace::golden(name)).unwrap_or_default();
        let is_golden = golden.lines().eq(trace.iter().map(String::as_str));
        let is_so = is_golden && (held == known || updates && held == before);
        before.clone_from(&held);
        all.entry(name.to_owned()).or_insert(known.clone());
        if is_so {
            settled += 1;
            wrong.remove(name);
            all.insert(name.to_owned(), held);
        } else if is_golden {
            wrong.insert(name.to_owned(), (known, held));
        }
        is_so
    });
    println!("the buffers of {settled} traces are as recorded");
    if updates {
        let lines: Vec<String> =
            all.iter().map(|(name, held)| format!("\"{name}\": {held}")).collect();
        fs::write(FILE, format!("{{\n{}\n}}\n", lines.join(",\n"))).unwrap();
    }
    assert!(wrong.is_empty(), "`make docs-update` writes them anew: {wrong:#?}");
    assert!(settled >= 10, "only {settled} traces came out as they are known");
}

#[test] // and where they are written, the traces come first: see `the_docs_are_true`
fn the_buffers_are_as_recorded() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    if std::env::var("UPDATE").is_err() {
        as_shown("buffers::the_buffers_are_as_recorded", prove);
    }
}
