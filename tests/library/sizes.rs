//! What a server holds for each client beside the memory budget: the table of docs/15-full.md is
//! compared with what the allocator gives to the server's thread. `make docs-update` writes it anew.
//!
//! Lists and maps double when they are full, so what one client costs depends on how many there
//! are. [`COUNTS`] goes from one doubling to the next: the least and the most that is measured in
//! between hold for other numbers of clients too.

use crate::allocator::CHUNKS;
use crate::connect;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect as begin, socket,
};
use std::any::Any;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::ops::RangeInclusive;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread;
use std::time::Duration;
use threadbare::address::Place;
use threadbare::handlers::{Chat, Echo, Framing, Greet, Http, Proxy};
use threadbare::{
    Address, Builder, Conn, ConnectionHandler, Limits, Running, Server, Timeouts, ToAddresses,
};

const CHAPTER: &str = "docs/15-full.md";
const MARK: &str = "<!-- sizes -->\n";
/// How many clients there are when it is measured.
const COUNTS: RangeInclusive<usize> = 224..=448;

/// What is measured, in the words of the chapter; at least and at most.
type Row = (&'static str, [usize; 2]);

/// Uses the verbs whose memory is measured, one for each letter that a client sends.
struct Verbs {
    /// Where a connect has to wait.
    full: Address,
}

impl ConnectionHandler for Verbs {
    type Session = ();

    fn on_data(&mut self, conn: &mut Conn<'_>, (): &mut (), input: &[u8]) -> usize {
        let (id, minute) = (conn.id(), Some(Duration::from_secs(60)));
        match input {
            b"group" => _ = conn.net().join("all", id),
            b"timer" => conn.set_timer(minute),
            b"key" => conn.set_timer_for(7, minute),
            b"timeouts" => conn.set_timeouts(Timeouts { idle: minute, ..conn.timeouts() }),
            b"connect" => _ = conn.net().connect(&self.full, Duration::from_secs(60)).unwrap(),
            b"after" => _ = conn.net().after(Duration::from_secs(60), 1),
            b"job" => assert!(conn.work(|(): &mut (), presence| {
                while !presence.is_gone() {
                    thread::sleep(Duration::from_millis(1)); // the others wait
                }
            })),
            _ => {}
        }
        conn.write(b".");
        input.len()
    }

    fn on_result(&mut self, _: &mut Conn<'_>, (): &mut (), _: Box<dyn Any + Send>) {}
}

/// The memory that the server's thread holds now, in bytes. What asks for it takes none itself, here
/// or there.
fn held<H: ConnectionHandler>(server: &Running<H>) -> i64 {
    const UNTOLD: i64 = i64::MIN;
    static TOLD: AtomicI64 = AtomicI64::new(UNTOLD);
    server.handle().call(|_, _| TOLD.store(CHUNKS.get(), Ordering::Relaxed)).unwrap();
    loop {
        match TOLD.swap(UNTOLD, Ordering::Relaxed) {
            UNTOLD => thread::yield_now(),
            told => return told,
        }
    }
}

/// What a server holds for a client, at least and at most, that `begin` has brought: each returns when
/// the server has done what it has to do for it.
fn cost<H>(server: Builder<H>, begin: impl FnMut(&Running<H>) -> TcpStream) -> [usize; 2]
where
    H: ConnectionHandler<Session: Send> + Send + 'static,
{
    cost_at("127.0.0.1:0".to_places().unwrap(), server, begin)
}

fn cost_at<H>(
    places: Vec<Place>,
    server: Builder<H>,
    mut begin: impl FnMut(&Running<H>) -> TcpStream,
) -> [usize; 2]
where
    H: ConnectionHandler<Session: Send> + Send + 'static,
{
    raise_descriptor_limit();
    let server = server.bind(places).unwrap().spawn().unwrap();
    let mut clients = vec![begin(&server)]; // what is allocated once for all is there now
    let before = held(&server);
    let mut least_and_most = [usize::MAX, 0];
    for count in 1..=*COUNTS.end() {
        clients.push(begin(&server));
        if COUNTS.contains(&count) {
            let [least, most] = &mut least_and_most;
            let of_one = (held(&server) - before).max(0) as usize / count;
            (*least, *most) = ((*least).min(of_one), (*most).max(of_one));
        }
    }
    server.handle().stop_now();
    server.join().unwrap();
    least_and_most
}

/// A client that sends something, and waits for the end of the answer.
fn says(client: TcpStream, words: &[u8], end: &[u8]) -> TcpStream {
    let mut client = client;
    client.write_all(words).unwrap();
    hears(client, end)
}

fn hears(mut client: TcpStream, end: &[u8]) -> TcpStream {
    let (mut heard, mut byte) = (Vec::new(), [0]);
    while !heard.ends_with(end) {
        client.read_exact(&mut byte).unwrap();
        heard.extend(byte);
    }
    client
}

/// A client with an address of its own.
fn connect_from<H: ConnectionHandler>(server: &Running<H>, number: usize) -> TcpStream {
    let Address::Tcp(std::net::SocketAddr::V4(to)) = server.addresses()[0] else { panic!("IPv4") };
    let from = Ipv4Addr::new(127, 1, (number >> 8) as u8, number as u8);
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(from, 0))).unwrap();
    begin(fd.as_raw_fd(), &SockaddrIn::from(to)).unwrap();
    TcpStream::from(fd)
}

fn limits() -> Limits {
    Limits { max_connections: 1_000, max_outbound: 1_000, ..Limits::default() }
}

/// Both ends of a connection are in this process.
fn raise_descriptor_limit() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(16_384), hard).unwrap();
}

/// What a place for a connection takes in the tables that are reserved at the start.
fn place<H: ConnectionHandler>(handler: fn() -> H) -> usize {
    let reserved = |max_connections| {
        let before = CHUNKS.get();
        let limits = Limits { max_connections, ..Limits::default() };
        let server = Server::builder(handler()).limits(limits).bind("127.0.0.1:0").unwrap();
        let reserved = CHUNKS.get() - before;
        drop(server);
        reserved
    };
    (reserved(500) - reserved(400)) as usize / 100
}

/// A path at which a connect has to wait; what keeps it so.
fn full_socket() -> (Address, impl Sized) {
    let path = std::env::temp_dir().join(format!("threadbare-full-{}", std::process::id()));
    let _ = fs::remove_file(&path);
    let listener = UnixListener::bind(&path).unwrap();
    let kind = (AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_NONBLOCK);
    let address = nix::sys::socket::UnixAddr::new(&path).unwrap();
    let mut waiting = Vec::<UnixStream>::new();
    loop {
        let client = socket(kind.0, kind.1, kind.2, None).unwrap();
        match begin(client.as_raw_fd(), &address) {
            Ok(()) => waiting.push(client.into()),
            Err(_) => return (Address::Unix(path), (listener, waiting)),
        }
    }
}

fn verbs(words: &'static [u8]) -> [usize; 2] {
    let (full, _keeps) = full_socket();
    let verbs = Verbs { full: full.clone() };
    let server = Server::builder(verbs).limits(limits()).workers(1, 1_000, || ());
    let cost = cost(server, |server| says(connect(server), words, b"."));
    let Address::Unix(path) = full else { panic!() };
    fs::remove_file(path).unwrap();
    cost
}

/// What is measured, in the words of the chapter.
fn rows() -> Vec<Row> {
    let greet = || Greet::new(Framing::Line, 1 << 16);
    let line = |server: &Running<Greet>| says(connect(server), b"\n", b"\n");
    let idle = cost(Server::builder(greet()).limits(limits()), line);
    let chat = || Server::builder(Chat::new(1 << 16)).limits(limits());
    let guest = cost(chat(), |server| hears(connect(server), b"/quit\n"));
    let mut number = 0;
    let named = cost(chat(), |server| {
        number += 1;
        let name = format!("{number:0>20}");
        let words = format!("/name {name}\n");
        says(connect(server), words.as_bytes(), format!("* you are {name}\n").as_bytes())
    });
    let behind = Server::builder(Echo).bind("127.0.0.1:0").unwrap().spawn().unwrap();
    let proxy = Proxy::new(behind.addresses()[0].clone(), Duration::from_secs(9));
    let through = |server: &Running<Proxy>| says(connect(server), b".", b".");
    let tunnel = cost(Server::builder(proxy).limits(limits()), through);
    behind.handle().stop_now();
    behind.join().unwrap();
    let head: &[u8] =
        b"GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n";
    let head = cost(Server::builder(Http::new()).limits(limits()), |server| {
        says(connect(server), head, b"HTTP/1.1 100 Continue\r\n\r\n")
    });
    let scratch = std::env::temp_dir().join(format!("threadbare-sizes-{}", std::process::id()));
    fs::create_dir(&scratch).unwrap();
    fs::write(scratch.join("large"), vec![b'x'; 8 << 20]).unwrap();
    let files = Server::builder(Http::new().serve(&scratch)).limits(limits());
    let get = b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n";
    let file = cost(files, |server| says(connect(server), get, b"\r\n\r\n"));
    fs::remove_dir_all(scratch).unwrap();
    let many = Limits { max_per_address: 9, ..limits() };
    let mut number = 0;
    let address = cost(Server::builder(Echo).limits(many), |server| {
        number += 1;
        says(connect_from(server, number), b".", b".")
    });
    let front = "127.0.0.1:0".to_places().unwrap().into_iter().map(|it| it.behind_front());
    let named_by_front = b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n\n";
    let fronted = cost_at(front.collect(), Server::builder(greet()).limits(limits()), |server| {
        says(connect(server), named_by_front, b"\n")
    });
    let places = [place(greet), place(|| Chat::new(9)), place(Http::new)].map(|it| [it; 2]);
    vec![
        ("place in the tables, which are reserved at the start", places[0]),
        ("the same in `chat`, whose session is larger", places[1]),
        ("the same in `http`", places[2]),
        ("connection that is idle, beside its place", idle),
        ("guest of `chat`", guest),
        ("member of `chat` with a name of 20 bytes", named),
        ("tunnel of `proxy`, beside its two connections", tunnel),
        ("file that is being sent", file),
        ("head that `http` keeps until its body has come: it is in the number", head),
        ("group that a connection is in", verbs(b"group")),
        ("connection with a timer", verbs(b"timer")),
        ("connection with a timer that has a key", verbs(b"key")),
        ("connection with timeouts of its own", verbs(b"timeouts")),
        ("connection with a job that waits for a worker, beside what the job has", verbs(b"job")),
        ("connect that waits, beside its place", verbs(b"connect")),
        ("client that a front has named", fronted),
        ("address, with `--max-per-ip`", address),
        ("timer of the handler", verbs(b"after")),
    ]
}

/// A row of the table.
fn row((what, [least, most]): &Row) -> String {
    match least == most {
        true => format!("| {what} | {least} |\n"),
        false => format!("| {what} | {least} to {most} |\n"),
    }
}

/// Whether a row of the chapter is about right: a few bytes move with what else the server did.
fn is_right(old: &str, (what, due): &Row) -> bool {
    let Some(numbers) = old.strip_prefix(&format!("| {what} | ")) else { return false };
    let numbers = numbers.trim_end_matches([' ', '|']).split(" to ").map(str::parse::<usize>);
    let numbers: Result<Vec<usize>, _> = numbers.collect();
    let Ok([least, .., most] | [least @ most]) = numbers.as_deref() else { return false };
    [(*least, due[0]), (*most, due[1])].iter().all(|(old, new)| old.abs_diff(*new) <= 4 + new / 20)
}

/// The figures of the chapter are those of the server.
#[test]
fn the_sizes_are_true() {
    let chapter = fs::read_to_string(CHAPTER).unwrap();
    let (front, table) = chapter.split_once(MARK).expect("a table");
    let old: Vec<&str> = table.lines().skip(2).take_while(|it| it.starts_with('|')).collect();
    let rows = rows();
    rows.iter().for_each(|row| println!("{row:?}"));
    let is_true = rows.len() == old.len() && old.iter().zip(&rows).all(|it| is_right(it.0, it.1));
    if std::env::var_os("UPDATE").is_some() && !is_true {
        let head: String = table.split_inclusive('\n').take(2).collect();
        let behind: String = table.split_inclusive('\n').skip(2 + old.len()).collect();
        let rows: String = rows.iter().map(row).collect();
        return fs::write(CHAPTER, [front, MARK, &head, &rows, &behind].concat()).unwrap();
    }
    assert!(is_true, "{CHAPTER} differs from what is true; `make docs-update` mends it");
}
