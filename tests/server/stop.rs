//! A stop as its clients see it: whoever has connected is answered, also behind a proxy, and
//! whoever runs the server.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{
    Client, PATIENCE, Scratch, Server, Signal, command, in_a_network_of_its_own, needs, path,
    quiet_port, until,
};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// Takes from the program the capabilities that an ordinary user does not have, if it has them.
const ORDINARY: &str = "setpriv --bounding-set=-net_admin,-net_raw true 2>/dev/null && \
    exec setpriv --bounding-set=-net_admin,-net_raw --inh-caps=-net_admin,-net_raw \"$0\" \"$@\"";

#[test] // first bytes that come up to a second after SIGTERM are answered, and then it ends
fn late_first_bytes() {
    for (handler, question, answer) in [
        ("greet", "hello\n", "Thank you for your message hello\n"),
        ("http", GET, "HTTP/1.1 200 OK"),
    ] {
        for delay in [0, 5, 50, 500] {
            let mut server = Server::start(&[handler]);
            let mut client = server.client();
            let mut answered = server.client();
            answered.send(question);
            answered.expect(answer);
            server.signal(Signal::SIGTERM);
            until("an answered client to have its end", || {
                answered.try_line().is_ok_and(|it| it.is_empty())
            });
            thread::sleep(Duration::from_millis(delay));
            client.send(question);
            let said = String::from_utf8(client.rest()).unwrap();
            assert!(said.starts_with(answer), "{handler}, {delay} ms: {said}");
            assert_eq!(said.contains("\r\nConnection: close\r\n"), handler == "http");
            drop((client, answered));
            assert_eq!(server.wait(), Some(0));
        }
    }
}

#[test] // a silent client holds up a stop for a second, and gets FIN
fn a_silent_client() {
    let mut server = Server::start(&[]);
    let mut client = server.client();
    server.settle();
    let begun = Instant::now();
    server.signal(Signal::SIGTERM);
    client.expect_end();
    drop(client);
    assert_eq!(server.wait(), Some(0));
    let took = begun.elapsed();
    assert!((900..2_000).contains(&took.as_millis()), "{took:?}");
}

/// A client that connects, waits, and asks: whether it is answered, or was refused.
fn ask_late(address: &str, wait: Duration) -> Option<bool> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    thread::sleep(wait);
    let mut answer = Vec::new();
    let asked = stream.write_all(b"hello\n").and_then(|()| stream.shutdown(Shutdown::Write));
    let _ = asked.and_then(|()| stream.read_to_end(&mut answer));
    Some(answer == b"Thank you for your message hello\n")
}

/// Restarts the server at one port so many times, while `load` goes on.
fn restarts(count: usize, prelude: &str, load: impl FnOnce(&str) + Send) {
    let port = quiet_port();
    let address = format!("127.0.0.1:{port}");
    let start = || Server::start_after(prelude, &["-l", &address]);
    let mut server = start();
    thread::scope(|scope| {
        let load = scope.spawn(|| load(&address));
        for _ in 0..count {
            thread::sleep(Duration::from_millis(500));
            server.signal(Signal::SIGTERM);
            assert_eq!(server.wait(), Some(0), "{}", server.logs());
            server = start();
        }
        load.join().unwrap();
    });
    assert_eq!(server.stop(), Some(0));
}

/// Of so many that connect, wait 20 ms and ask, 40 at a time, nobody goes unanswered.
fn restarts_without_a_loss(prelude: &str, clients: usize) {
    let (asked, lost, refused) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    restarts(4, prelude, |address| {
        thread::scope(|scope| {
            for _ in 0..40 {
                scope.spawn(|| {
                    while asked.load(Relaxed) < clients {
                        match ask_late(address, Duration::from_millis(20)) {
                            Some(is_answered) => {
                                asked.fetch_add(1, Relaxed);
                                lost.fetch_add(usize::from(!is_answered), Relaxed);
                            }
                            None => {
                                refused.fetch_add(1, Relaxed);
                                thread::sleep(Duration::from_millis(5));
                            }
                        }
                    }
                });
            }
        });
    });
    let [asked, lost, refused] = [asked, lost, refused].map(AtomicUsize::into_inner);
    println!("{lost} of {asked} lost, {refused} refused");
    assert_eq!(lost, 0, "of {asked}");
}

#[test] // restarts lose nobody who has connected
#[ignore = "4 s; `make check` runs it"]
fn restarts_lose_nobody() {
    restarts_without_a_loss("", 5_000);
}

#[test] // nor do they for an ordinary user
#[ignore = "4 s; `make check` runs it"]
fn restarts_lose_nobody_without_capabilities() {
    if needs(&["setpriv"]) {
        restarts_without_a_loss(ORDINARY, 5_000);
    }
}

/// A program that ends with the test.
struct Program(Child);

impl Program {
    fn start(program: &str, words: &[&str]) -> Program {
        let mut command = command("setpriv");
        command.args(["--pdeathsig", "KILL", program]).args(words).env("PATH", path());
        Program(
            command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap(),
        )
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn listens(address: &str) -> bool {
    TcpStream::connect(address).is_ok()
}

#[test] // HAProxy connects before its clients speak: restarts behind it lose nobody either
#[ignore = "10 s; `make check` runs it"]
fn restarts_behind_haproxy() {
    if !needs(&["haproxy", "setpriv"]) {
        return;
    }
    let (scratch, front) = (Scratch::new(), quiet_port());
    restarts(4, ORDINARY, |address| {
        let config = format!(
            "defaults\n mode tcp\n timeout connect 5s\n timeout client 30s\n timeout server 30s\n \
             retries 10\nlisten l\n bind 127.0.0.1:{front}\n server s {address}\n"
        );
        fs::write(scratch.path("config"), config).unwrap();
        let config = scratch.path("config");
        let _haproxy = Program::start("haproxy", &["-f", config.to_str().unwrap()]);
        let front = format!("127.0.0.1:{front}");
        until("haproxy to listen", || listens(&front));
        let lost = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..2_000 {
                scope.spawn(|| {
                    let answered = ask_late(&front, Duration::from_millis(50));
                    lost.fetch_add(usize::from(answered != Some(true)), Relaxed);
                });
                thread::sleep(Duration::from_millis(4));
            }
        });
        println!("{} of 2000 lost", lost.load(Relaxed));
        assert_eq!(lost.into_inner(), 0);
    });
}

/// Loses the last part of each handshake, so that it lasts until the client speaks.
const SLOW: &str = "nft 'table ip t { chain c { type filter hook input priority 0; \
    tcp flags & (fin | syn | rst | psh | ack) == ack ct state new,established tcp dport 1234 \
    meta length 52 drop; }; }'";

#[test] // a handshake that takes a while is waited for
fn slow_handshakes() {
    if !needs(&["nft"]) {
        return;
    }
    in_a_network_of_its_own("stop::slow_handshakes", SLOW, || {
        for millis in [50, 100, 200] {
            let mut server = Server::start_after(ORDINARY, &["-l", "127.0.0.1:1234"]);
            let mut clients: Vec<_> = (0..5).map(|_| Client::to("127.0.0.1:1234")).collect();
            server.signal(Signal::SIGTERM);
            thread::sleep(Duration::from_millis(millis));
            for client in &mut clients {
                client.send("hello\n");
                client.expect_rest("Thank you for your message hello\n");
            }
            drop(clients);
            assert_eq!(server.wait(), Some(0), "{millis} ms");
        }
    });
}

/// A slow answer comes through the proxy though that is stopped meanwhile.
fn slow_answer(behind: &str, question: &str, answer: &str, meanwhile: impl FnOnce()) {
    until("the server behind to listen", || listens(behind));
    let mut proxy = Server::start(&["proxy", behind]);
    let (mut client, mut at_rest) = (proxy.client(), proxy.client());
    client.send(question);
    proxy.settle();
    let begun = Instant::now();
    proxy.signal(Signal::SIGTERM);
    at_rest.expect_end();
    assert!(begun.elapsed() < Duration::from_millis(2_500), "{:?}", begun.elapsed());
    meanwhile();
    client.expect(answer);
    drop((client, at_rest));
    assert_eq!(proxy.wait(), Some(0), "{}", proxy.logs());
}

#[test] // BLPOP is answered when there is something, which may be in the middle of a stop
#[ignore = "5 s; `make check` runs it"]
fn a_slow_answer_of_redis() {
    if !needs(&["redis-server", "setpriv"]) {
        return;
    }
    let (scratch, port) = (Scratch::new(), quiet_port());
    let folder = scratch.path("");
    let words = ["--port", &port.to_string(), "--save", "", "--dir", folder.to_str().unwrap()];
    let _redis = Program::start("redis-server", &words);
    let address = format!("127.0.0.1:{port}");
    slow_answer(&address, "BLPOP queue 0\r\n", "*2\r\n$5\r\nqueue\r\n$3\r\njob\r\n", || {
        thread::sleep(Duration::from_secs(1));
        let mut other = Client::to(&address);
        other.send("RPUSH queue job\r\n");
        other.expect(":1\r\n");
    });
}

#[test] // a web server that thinks for three seconds
#[ignore = "5 s; `make check` runs it"]
fn a_slow_answer_of_node() {
    if !needs(&["node", "setpriv"]) {
        return;
    }
    let port = quiet_port();
    let script = format!(
        "require('http').createServer((_, res) => setTimeout(() => res.end('done'), 3000))\
         .listen({port}, '127.0.0.1')"
    );
    let _node = Program::start("node", &["-e", &script]);
    slow_answer(&format!("127.0.0.1:{port}"), GET, "HTTP/1.1 200 OK\r\n", || {});
}

#[test] // a refused upload: a client that writes all of it before it reads has the status
fn refused_uploads() {
    let server = Server::start(&["http"]);
    for round in 0..40 {
        let length = if round % 2 == 0 { 5 << 20 } else { 20 << 20 };
        let mut stream = TcpStream::connect(&server.addresses[0]).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let piece = vec![b'.'; 256 << 10];
        for at in (0..length).step_by(piece.len()) {
            stream.write_all(&piece).unwrap_or_else(|error| panic!("{round}, byte {at}: {error}"));
        }
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        assert!(said.starts_with("HTTP/1.1 413 "), "{round}: {said}");
    }
}
