//! From one server to the next while clients come: none is reset, none waits for a second.
//!
//! The load counts what became of each client, and whether its SYN had to be sent twice: that is
//! what a second's delay is, on a machine however busy.

use crate::support::{
    Client, Scratch, Server, Signal, example, in_a_network_of_its_own, needs, path, until,
};
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use std::fmt;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

// ---- the load ------------------------------------------------------------------------

/// What became of the clients of a load.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    answered: usize,
    /// Not even connected: nobody listened.
    refused: usize,
    /// Connected, and ended or reset without an answer.
    lost: Vec<String>,
    /// Their SYN was sent again, a second later.
    delayed: usize,
    slowest: Duration,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { answered, refused, lost, delayed, slowest } = self;
        let lost = lost.len();
        write!(f, "{answered} answered, {refused} refused, {lost} lost, {delayed} delayed")?;
        write!(f, ", the slowest {} ms", slowest.as_millis())
    }
}

impl Counts {
    #[track_caller]
    pub(crate) fn lost_nobody(&self) {
        assert!(self.lost.is_empty() && self.refused == 0, "{self}: {:?}", self.lost);
        assert!(self.answered > 100, "{self}");
    }
}

/// Clients that come one after the other, on several threads.
pub(crate) struct Load {
    ends: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<Counts>>,
}

const LINE: &str = "hello\n";
pub(crate) const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";

impl Load {
    /// Each thread sends a line for each client, `late` after it has connected, and rests for
    /// `pause` between two.
    pub(crate) fn begin(address: &str, threads: usize, pause: Duration, late: Duration) -> Load {
        Load::of(address, threads, pause, late, LINE)
    }

    pub(crate) fn of(
        address: &str,
        threads: usize,
        pause: Duration,
        late: Duration,
        request: &'static str,
    ) -> Load {
        let (ends, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let run = |_| {
            let (ends, count, address) = (ends.clone(), count.clone(), address.to_owned());
            thread::spawn(move || {
                let mut counts = Counts::default();
                while !ends.load(Relaxed) {
                    one(&address, late, request, &mut counts);
                    count.fetch_add(1, Relaxed);
                    thread::sleep(pause);
                }
                counts
            })
        };
        let threads = (0..threads).map(run).collect();
        Load { ends, count, threads }
    }

    /// Waits until so many more clients have come and gone.
    #[track_caller]
    pub(crate) fn until_more(&self, more: usize) {
        let due = self.count.load(Relaxed) + more;
        until("more clients", || self.count.load(Relaxed) >= due);
    }

    pub(crate) fn end(self) -> Counts {
        self.ends.store(true, Relaxed);
        let mut sum = Counts::default();
        for thread in self.threads {
            let counts = thread.join().unwrap();
            sum.answered += counts.answered;
            sum.refused += counts.refused;
            sum.lost.extend(counts.lost);
            sum.delayed += counts.delayed;
            sum.slowest = sum.slowest.max(counts.slowest);
        }
        sum
    }
}

/// One client: it connects, waits, asks, and reads the answer.
fn one(address: &str, late: Duration, request: &str, counts: &mut Counts) {
    let begin = Instant::now();
    let Ok(mut stream) = TcpStream::connect(address) else {
        counts.refused += 1;
        return;
    };
    counts.delayed += usize::from(was_sent_again(&stream));
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    if !late.is_zero() {
        thread::sleep(late);
    }
    let mut answer = [0; 4_096];
    let got = stream.write_all(request.as_bytes()).and_then(|()| stream.read(&mut answer));
    let is_http = request == GET;
    match got {
        Ok(length @ 1..) if !is_http || answer[..length].starts_with(b"HTTP/1.1 200") => {
            counts.answered += 1;
        }
        Ok(0) => counts.lost.push("FIN instead of an answer".to_owned()),
        Ok(length) => {
            let line = String::from_utf8_lossy(&answer[..length.min(40)]).into_owned();
            counts.lost.push(line);
        }
        Err(error) => counts.lost.push(format!("{:?}", error.kind())),
    }
    counts.slowest = counts.slowest.max(begin.elapsed().saturating_sub(late));
    // A reset, when all is read: no port stays in TIME_WAIT.
    let now = libc::linger { l_onoff: 1, l_linger: 0 };
    let _ = setsockopt(&stream, sockopt::Linger, &now);
}

/// Whether anything of it was sent more than once: tcpi_total_retrans of TCP_INFO.
#[allow(unsafe_code)]
fn was_sent_again(stream: &TcpStream) -> bool {
    const TOTAL: usize = 100;
    let mut info = [0_u8; 104];
    let mut length = info.len() as u32;
    // SAFETY: `info` is valid for writing the `length` bytes that it has.
    let got = unsafe {
        let (level, name) = (libc::IPPROTO_TCP, libc::TCP_INFO);
        libc::getsockopt(stream.as_raw_fd(), level, name, info.as_mut_ptr().cast(), &mut length)
    };
    got == 0 && info[TOTAL..] != [0; 4]
}

// ---- one port, handed on -------------------------------------------------------------

/// A process that shares port 1234: with one listener, or with two. It may be without any
/// capability, as a service most often is.
fn sharing(listeners: usize, is_bare: bool) -> Server {
    let bare = if is_bare { "setpriv --bounding-set=-all --inh-caps=-all --" } else { "" };
    let program = match listeners {
        1 => env!("CARGO_BIN_EXE_threadbare").to_owned(),
        _ => example("all_cores"),
    };
    let args = match listeners {
        1 => vec!["--reuse-port", "-l", "127.0.0.1:1234"],
        _ => vec!["2", "127.0.0.1:1234"],
    };
    let prelude = format!("exec {bare} \"$0\" \"$@\"");
    Server::other(&prelude, &program, &args)
}

/// Hands the port on, again and again: the new one first, then the old one is stopped.
fn hand_on(times: usize, listeners: usize, is_bare: bool) -> Counts {
    let mut old = sharing(listeners, is_bare);
    let load = Load::begin("127.0.0.1:1234", 16, Duration::from_micros(200), Duration::ZERO);
    for _ in 0..times {
        let new = sharing(listeners, is_bare);
        load.until_more(200);
        assert_eq!(old.stop(), Some(0), "{}", old.logs());
        load.until_more(200);
        old = new;
    }
    let counts = load.end();
    let rights = if is_bare { "no capability" } else { "root" };
    println!("{times} handovers, {listeners} a process, {rights}: {counts}");
    counts
}

fn handovers(name: &str, times: usize, listeners: usize, is_bare: bool) {
    if !needs(&["setpriv"]) {
        return;
    }
    in_a_network_of_its_own(name, "", || {
        let counts = hand_on(times, listeners, is_bare);
        counts.lost_nobody();
        let most = if listeners == 1 { 0 } else { counts.answered / 100_000 + 1 };
        assert!(counts.delayed <= most, "{counts}");
    });
}

#[test] // HAProxy's way loses one in 30,000: who meets the old one's listener at its close
fn a_port_is_handed_on() {
    handovers("handover::a_port_is_handed_on", 3, 1, false);
}

#[test]
fn a_port_is_handed_on_without_capabilities() {
    handovers("handover::a_port_is_handed_on_without_capabilities", 3, 1, true);
}

#[test]
#[ignore = "half a minute: `make check` runs it"]
fn thirty_times() {
    handovers("handover::thirty_times", 30, 1, false);
}

#[test]
#[ignore = "half a minute: `make check` runs it"]
fn thirty_times_without_capabilities() {
    handovers("handover::thirty_times_without_capabilities", 30, 1, true);
}

#[test]
#[ignore = "half a minute: `make check` runs it"]
fn thirty_times_with_two_listeners() {
    handovers("handover::thirty_times_with_two_listeners", 30, 2, false);
}

#[test]
#[ignore = "half a minute: `make check` runs it"]
fn thirty_times_with_two_listeners_without_capabilities() {
    let name = "handover::thirty_times_with_two_listeners_without_capabilities";
    handovers(name, 30, 2, true);
}

// ---- behind a front ------------------------------------------------------------------

/// A front that knows two servers, and listens at port 7000.
struct Front(Child);

impl Front {
    fn start(program: &str, config: &str, scratch: &Scratch) -> Front {
        let file = scratch.path("front.conf");
        fs::write(&file, config).unwrap();
        let file = file.to_str().unwrap();
        let folder = scratch.path("").display().to_string();
        let args = match program {
            "nginx" => vec!["-p", &folder, "-e", "stderr", "-c", file],
            _ => vec!["-db", "-f", file],
        };
        let mut command = Command::new(program);
        command.args(args).env("PATH", path()).stdin(Stdio::null()).stdout(Stdio::null());
        let front = Front(command.spawn().unwrap());
        until("the front to listen", || Client::try_to("127.0.0.1:7000").is_ok());
        front
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What nginx needs for TCP.
const STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// nginx as it comes: max_fails 1, fail_timeout 10 s.
fn nginx(is_http: bool, scratch: &Scratch) -> Front {
    let servers = "upstream servers { server 127.0.0.1:7001; server 127.0.0.1:7002; }";
    let body = match is_http {
        true => format!(
            "http {{ access_log off; {servers} \
             server {{ listen 127.0.0.1:7000; location / {{ proxy_pass http://servers; }} }} }}"
        ),
        false => format!(
            "stream {{ {servers} server {{ listen 127.0.0.1:7000; proxy_pass servers; }} }}"
        ),
    };
    let module = if is_http { String::new() } else { format!("load_module {STREAM};") };
    let config = format!(
        "{module} daemon off; master_process off; pid nginx.pid; \
         events {{ worker_connections 1000; }} {body}"
    );
    Front::start("nginx", &config, scratch)
}

fn haproxy(is_http: bool, scratch: &Scratch) -> Front {
    let mode = if is_http { "http" } else { "tcp" };
    let config = format!(
        "defaults\n mode {mode}\n timeout connect 5s\n timeout client 30s\n timeout server 30s\n\
         option redispatch\n\
         listen front\n bind 127.0.0.1:7000\n \
         server one 127.0.0.1:7001 check\n server two 127.0.0.1:7002 check\n"
    );
    Front::start("haproxy", &config, scratch)
}

/// Two servers behind a front, each handed on twice, at 200 requests a second.
fn roll(name: &str, front: fn(bool, &Scratch) -> Front, is_http: bool, late: u64) {
    in_a_network_of_its_own(name, "", || {
        let scratch = Scratch::new();
        let handler = if is_http { "http" } else { "greet" };
        let start = |port: u16| {
            Server::start(&["--reuse-port", "-l", &format!("127.0.0.1:{port}"), handler])
        };
        let mut servers = [7001, 7002].map(|port| (port, start(port)));
        let _front = front(is_http, &scratch);
        let (late, request) = (Duration::from_millis(late), if is_http { GET } else { LINE });
        let threads = if late.is_zero() { 4 } else { 14 };
        let load = Load::of("127.0.0.1:7000", threads, Duration::from_millis(20), late, request);
        for _ in 0..2 {
            for (port, server) in &mut servers {
                load.until_more(200);
                let new = start(*port);
                server.signal(Signal::SIGTERM);
                assert_eq!(server.wait(), Some(0), "{}", server.logs());
                *server = new;
            }
        }
        load.until_more(200);
        let counts = load.end();
        println!("{name}, {} ms late: {counts}", late.as_millis());
        counts.lost_nobody();
    });
}

fn rolls(name: &str, program: &str, is_http: bool, late: u64) {
    type Start = fn(bool, &Scratch) -> Front;
    let (front, tools): (Start, &[&str]) = match program {
        "nginx" => (nginx, &["nginx", STREAM]),
        _ => (haproxy, &["haproxy"]),
    };
    if needs(tools) {
        roll(name, front, is_http, late);
    }
}

/// A test for each front, protocol and delay.
macro_rules! rolling {
    ($($name:ident: $program:literal $is_http:literal $late:literal,)*) => {
        $(
            #[test]
            #[ignore = "six seconds, with a real front: `make check` runs it"]
            fn $name() {
                rolls(concat!("handover::", stringify!($name)), $program, $is_http, $late);
            }
        )*
    };
}

rolling! {
    behind_nginx_http: "nginx" true 0,
    behind_nginx_http_late: "nginx" true 50,
    behind_nginx_tcp: "nginx" false 0,
    behind_nginx_tcp_late: "nginx" false 50,
    behind_haproxy_http: "haproxy" true 0,
    behind_haproxy_http_late: "haproxy" true 50,
    behind_haproxy_tcp: "haproxy" false 0,
    behind_haproxy_tcp_late: "haproxy" false 50,
}
