//! Files over HTTP, beside the servers that are known for it: nginx, lighttpd, darkhttpd, Caddy.
//!
//! Each peer that is installed is compared with threadbare in pairs: a slice of the same load
//! for one, then for the other, in random order, on the same CPU. What counts is the ratio
//! within a pair, and of all pairs the median with its interval: below 1, or with 1 inside,
//! threadbare needs no more CPU than the peer. All have one process and no access log, but for
//! darkhttpd, whose log cannot be turned off and goes to /dev/null; Caddy has threads, which share
//! the CPU.
//!
//! The peers are not among what `make deps` installs, because a package of theirs may start a
//! server of its own.

use crate::load::Sample;
use crate::report::Table;
use crate::seat::Seat;
use crate::server::Running;
use crate::statistics::{Dice, Interval, quantile, round};
use crate::{Bench, Outcome};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::socket::{MsgFlags, recv};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, Instant};

/// The files that are served, and how long each is.
const FILES: [(&str, u64); 3] = [("1k", 1 << 10), ("100k", 100 << 10), ("1g", 1 << 30)];
/// A server that is silent for this long has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// What clients do for a slice of time.
#[derive(Clone, Copy)]
pub enum Load {
    /// This number of connections ask for a file again and again.
    Loop(usize, &'static str),
    /// This number at a time, each for one request.
    Short(usize, &'static str),
    /// One asks for the small file, while this number of others take the large one.
    Beside(usize),
}

/// The cases: a name, a title, the load, and milliseconds of a slice.
pub const CASES: [(&str, &str, Load, u64); 5] = [
    ("http-1k", "A file of 1 KiB, 64 connections", Load::Loop(64, "1k"), 150),
    ("http-100k", "A file of 100 KiB, 16 connections", Load::Loop(16, "100k"), 150),
    ("http-short", "A file of 1 KiB, a connection each, 16 at a time", Load::Short(16, "1k"), 150),
    ("http-1g", "A file of 1 GiB, one connection", Load::Loop(1, "1g"), 1),
    ("http-bulk", "1 KiB beside 12 downloads of 1 GiB", Load::Beside(12), 500),
];

type Command = fn(&Path, &str, u16) -> Outcome<Vec<String>>;

/// The peers: how each is called, and how it is started, with files of its own in a folder, to
/// serve another folder on a port.
const PEERS: [(&str, Command); 4] = [
    ("nginx", |own, www, port| {
        let own = own.display();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {own};"))
            .concat();
        let config = format!(
            "daemon off; master_process off; pid {own}/pid; error_log /dev/null;\n\
             events {{ worker_connections 20000; }}\n\
             http {{ access_log off; sendfile on; tcp_nopush on; keepalive_timeout 300;\n\
             keepalive_requests 1000000000; {temporary}\n\
             server {{ listen 127.0.0.1:{port} backlog=4096; root {www}; }} }}\n"
        );
        let path = format!("{own}/nginx.conf");
        fs::write(&path, config)?;
        Ok(words(&["nginx", "-e", "/dev/null", "-c", &path]))
    }),
    ("lighttpd", |own, www, port| {
        let path = own.join("lighttpd.conf").display().to_string();
        let config = format!(
            "server.document-root = \"{www}\"\nserver.bind = \"127.0.0.1\"\nserver.port = {port}\n\
             server.max-connections = 10000\nserver.max-fds = 20000\nserver.listen-backlog = 4096\n\
             server.max-keep-alive-requests = 65535\nserver.max-keep-alive-idle = 300\n\
             server.network-backend = \"sendfile\"\n"
        );
        fs::write(&path, config)?;
        Ok(words(&["lighttpd", "-D", "-f", &path]))
    }),
    ("darkhttpd", |_, www, port| {
        let port = port.to_string();
        Ok(words(&["darkhttpd", www, "--port", &port, "--addr", "127.0.0.1"]))
    }),
    ("caddy", |own, www, port| {
        let path = own.join("Caddyfile").display().to_string();
        let config = format!(
            "{{\n\tadmin off\n\tauto_https off\n}}\n\
             http://127.0.0.1:{port} {{\n\troot * {www}\n\tfile_server\n}}\n"
        );
        fs::write(&path, config)?;
        Ok(words(&["caddy", "run", "--adapter", "caddyfile", "--config", &path]))
    }),
];

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| word.to_string()).collect()
}

/// A table of one case: a row for each peer.
pub fn compare(
    bench: &Bench,
    name: &str,
    title: &str,
    load: Load,
    slice: Duration,
) -> Outcome<Table> {
    let columns =
        ["beside", "rate", "rate_ratio", "cpu_us", "cpu_ratio", "p50_us", "p99_us", "p99_ratio"];
    let mut table = Table::new(name, title, &columns);
    table.note("rate, CPU and latencies are the peer's; a ratio is threadbare's figure to that");
    let www = bench.scratch.join("www");
    fs::create_dir_all(&www)?;
    for (name, length) in FILES {
        File::create(www.join(name))?.set_len(length)?;
    }
    let www = www.display().to_string();
    let pairs = if bench.quick { 5 } else { 25 };
    let mut dice = Dice(0x5eed);
    for (peer, command) in PEERS {
        if !is_installed(peer) {
            table.failed(peer, "it is not installed");
            continue;
        }
        match pairs_with(bench, &www, command, load, (pairs, slice), &mut dice) {
            Ok((ours, theirs)) => table.rows.push(row(peer, &ours, &theirs, &mut dice)),
            Err(error) => table.failed(peer, &error.to_string()),
        }
    }
    Ok(table)
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// The samples of both in turn, pair by pair.
fn pairs_with(
    bench: &Bench,
    www: &str,
    command: Command,
    load: Load,
    (pairs, slice): (usize, Duration),
    dice: &mut Dice,
) -> Outcome<(Vec<Sample>, Vec<Sample>)> {
    let _awake = bench.seats.take(Seat::Beside)?;
    let ours = start(bench, "threadbare", |port| {
        let program = std::env::var("SERVER")?;
        let at = format!("127.0.0.1:{port}");
        Ok(words(&[&program, "-q", "--max-connections", "10000", "-l", &at, "http", www]))
    })?;
    let own = bench.scratch.join("peer");
    fs::create_dir_all(&own)?;
    let theirs = start(bench, "the peer", |port| command(&own, www, port))?;
    let servers = [&ours, &theirs];
    for server in servers {
        load.slice(server, slice)?; // warms up
        server.settle();
    }
    let mut samples = [Vec::new(), Vec::new()];
    for _ in 0..pairs {
        let mut order = [0, 1];
        dice.shuffle(&mut order);
        for place in order {
            samples[place].push(load.slice(servers[place], slice)?);
            servers[place].settle();
        }
    }
    let [ours, theirs] = samples;
    Ok((ours, theirs))
}

fn start(
    bench: &Bench,
    name: &'static str,
    command: impl FnOnce(u16) -> Outcome<Vec<String>>,
) -> Outcome<Running> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let words = [bench.seats.server(Seat::Beside), command(port)?].concat();
    Running::start(name, &words, port, true)
}

fn row(peer: &str, ours: &[Sample], theirs: &[Sample], dice: &mut Dice) -> Vec<Value> {
    let median = |figure: fn(&Sample) -> f64| {
        json!(round(quantile(theirs.iter().map(figure).collect(), 0.5)))
    };
    let mut ratio = |figure: fn(&Sample) -> f64| {
        let pairs = ours.iter().zip(theirs).map(|(a, b)| figure(a) / figure(b));
        Interval::of(&pairs.collect::<Vec<_>>(), dice).to_json()
    };
    fn latency(sample: &Sample, part: f64) -> f64 {
        f64::from(quantile(sample.latencies.clone(), part)) / 1e3
    }
    vec![
        peer.into(),
        median(Sample::rate),
        ratio(Sample::rate),
        median(Sample::cpu_each),
        ratio(Sample::cpu_each),
        median(|sample| latency(sample, 0.5)),
        median(|sample| latency(sample, 0.99)),
        ratio(|sample| latency(sample, 0.99)),
    ]
}

impl Load {
    /// A slice of time of this load; of downloads as many as begin in it.
    fn slice(self, server: &Running, span: Duration) -> Outcome<Sample> {
        let (clients, file) = match self {
            Load::Loop(clients, file) | Load::Short(clients, file) => (clients, file),
            Load::Beside(downloads) => (downloads + 1, "1k"),
        };
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let (mut events, mut inbox) = (vec![EpollEvent::empty(); clients], vec![0; 1 << 20]);
        let is_short = matches!(self, Load::Short(..));
        let begin = |place: usize| -> Outcome<Client> {
            let file = if matches!(self, Load::Beside(_)) && place > 0 { "1g" } else { file };
            let client = Client::connect(server.port, file, is_short)?;
            epoll.add(&client.stream, EpollEvent::new(EpollFlags::EPOLLIN, place as u64))?;
            Ok(client)
        };
        let mut open = (0..clients).map(begin).collect::<Outcome<Vec<_>>>()?;
        let (cpu, watch) = (server.cpu(), Instant::now());
        for client in &mut open {
            client.ask()?;
        }
        let (mut under_way, mut units, mut bytes) = (clients, 0, 0);
        let mut latencies = Vec::new();
        while under_way > 0 {
            let ready = epoll.wait(&mut events, PATIENCE.as_millis() as u16)?;
            if ready == 0 {
                return Err(format!("{under_way} requests stay unanswered").into());
            }
            let goes_on = watch.elapsed() < span;
            if !goes_on && matches!(self, Load::Beside(_)) {
                break; // the downloads need not end
            }
            for event in &events[..ready] {
                let place = event.data() as usize;
                let got = open[place].hear(&mut inbox)?;
                bytes += got;
                if open[place].left != Some(0) {
                    continue;
                }
                if !matches!(self, Load::Beside(_)) || place == 0 {
                    let span = open[place].asked.elapsed().as_nanos();
                    latencies.push(span.min(u32::MAX.into()) as u32);
                    units += 1;
                }
                if !goes_on {
                    epoll.delete(&open[place].stream)?; // its end is no answer
                    under_way -= 1;
                    continue;
                }
                if is_short || open[place].is_last {
                    open[place] = begin(place)?;
                }
                open[place].ask()?;
            }
        }
        let elapsed = watch.elapsed();
        // What bulk costs is a matter of bytes, and is counted in MiB.
        let answered = if matches!(self, Load::Beside(_)) { bytes >> 20 } else { units };
        Ok(Sample { answered, elapsed, cpu: server.cpu() - cpu, latencies })
    }
}

/// A client that asks for one file.
struct Client {
    stream: TcpStream,
    request: String,
    head: Vec<u8>,
    /// How much of the body is to come, once the head is here.
    left: Option<u64>,
    /// The server ends the connection behind this answer.
    is_last: bool,
    asked: Instant,
}

impl Client {
    fn connect(port: u16, file: &str, is_short: bool) -> Outcome<Client> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let close = if is_short { "Connection: close\r\n" } else { "" };
        let request = format!("GET /{file} HTTP/1.1\r\nHost: 127.0.0.1\r\n{close}\r\n");
        let (head, asked) = (Vec::new(), Instant::now());
        Ok(Client { stream, request, head, left: None, is_last: false, asked })
    }

    fn ask(&mut self) -> Outcome<()> {
        self.head.clear();
        (self.left, self.asked) = (None, Instant::now());
        Ok(self.stream.write_all(self.request.as_bytes())?)
    }

    /// Receives some of the answer; how many bytes of its body.
    fn hear(&mut self, inbox: &mut [u8]) -> Outcome<u64> {
        if self.left == Some(0) {
            return Ok(0); // the end, of which the answer to a short connection told
        }
        if let Some(left) = &mut self.left {
            // The body is thrown away where it is.
            let flags = MsgFlags::MSG_TRUNC | MsgFlags::MSG_DONTWAIT;
            let got = match recv(self.stream.as_raw_fd(), inbox, flags) {
                Err(Errno::EAGAIN) => return Ok(0),
                got => got? as u64,
            };
            *left = left.checked_sub(got).filter(|_| got > 0).ok_or("a body of another length")?;
            return Ok(got);
        }
        let got = self.stream.read(inbox)?;
        if got == 0 {
            return Err("the server ended a connection".into());
        }
        self.head.extend_from_slice(&inbox[..got]);
        let Some(end) = self.head.windows(4).position(|four| four == b"\r\n\r\n") else {
            return Ok(0);
        };
        let head = str::from_utf8(&self.head[..end])?.to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
        let length: u64 = length.ok_or("an answer without a length")?.trim().parse()?;
        if !head.starts_with("http/1.1 200 ") {
            return Err(format!("an answer that is no file: {head}").into());
        }
        self.is_last = head.contains("\r\nconnection: close");
        let body = (self.head.len() - end - 4) as u64;
        self.left = Some(length.checked_sub(body).ok_or("a body of another length")?);
        Ok(body)
    }
}
