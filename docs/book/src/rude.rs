//! Rude clients, one at a time, to see what the very server does about them that one reads from.

use crate::live::{Life, Log, locked};
use crate::view::now;
use Step::{Drip, Fin, Peek, Read, Say, Wait};
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Mutex;
use std::thread::sleep;
use std::time::Duration;

/// What a client is called, what it does, in words, and step by step, on one connection.
pub struct Rude(pub &'static str, pub &'static str, &'static [Step]);

enum Step {
    /// Sends a text so many times,
    Say(&'static str, usize),
    /// or a byte at a time.
    Drip(&'static str),
    Wait(u64),
    Fin,
    /// Waits for the answer and leaves it unread: the close will be a reset.
    Peek,
    Read,
}

const HALF: &str = "GET /docs/README.md HTTP/1.1\r\nHost: ";
const ASK: &str = "GET /docs/README.md HTTP/1.1\r\nHost: HOST\r\n\r\n";
const ALL: &str = "GET /all HTTP/1.1\r\nHost: HOST\r\n\r\n";

#[rustfmt::skip]
pub const RUDE: [Rude; 8] = [
    Rude("silent", "connects and leaves without a word", &[]),
    Rude("reset", "asks, and resets before it has read the answer", &[Say(ASK, 1), Peek]),
    Rude("bytes", "sends its request a byte at a time", &[Drip(ASK), Read]),
    Rude("half", "asks, ends its side, and waits for the answer", &[Say(ASK, 1), Fin, Read]),
    Rude("deaf", "asks for the whole book, and reads nothing for half a second", &[Say(ALL, 1), Wait(500), Read]),
    Rude("slow", "sends half a request, and then nothing for a second", &[Say(HALF, 1), Wait(1000)]),
    Rude("flood", "sends a line of 4 MB without an end", &[Say("flood! ", 600_000), Read]),
    Rude("noise", "sends bytes that are no HTTP", &[Say("\0\u{7f}\u{80}\r\n\x1b[2J\r\n\r\n", 1), Read]),
];

impl Step {
    /// Takes it, and reports what the client saw.
    fn take(&self, client: &mut TcpStream, host: SocketAddr) -> io::Result<String> {
        match self {
            Say(text, times) => {
                let text = text.replace("HOST", &host.to_string()).repeat(*times);
                _ = client.write_all(text.as_bytes()); // it may be refused
            }
            Drip(text) => {
                for byte in text.replace("HOST", &host.to_string()).as_bytes() {
                    client.write_all(&[*byte])?;
                    sleep(Duration::from_millis(2));
                }
            }
            Wait(ms) => sleep(Duration::from_millis(*ms)),
            Fin => client.shutdown(Shutdown::Write)?,
            Peek => _ = client.peek(&mut [0])?,
            Read => {
                let mut answer = Vec::new();
                client.read_to_end(&mut answer)?;
                let first = answer.split(|byte| *byte == b'\r').next().unwrap_or_default();
                let (first, count) = (String::from_utf8_lossy(first), answer.len());
                return Ok(format!("{first}, {count} bytes in all, and the end"));
            }
        }
        Ok("nothing, and left".to_owned())
    }
}

/// Lets a client loose on the server at that address, and waits until the server is done with
/// it: what the client saw, and what it caused.
pub fn let_loose(rude: &Rude, address: SocketAddr, log: &Mutex<Log>) -> (String, Option<Life>) {
    let mut client = match TcpStream::connect(address) {
        Ok(client) => client,
        Err(error) => return (error.to_string(), None),
    };
    let _ = client.set_read_timeout(Some(Duration::from_secs(5)));
    let port = client.local_addr().map_or(0, |it| it.port());
    locked(log).watched = Some(port);
    let mut seen = "nothing, and left".to_owned();
    for step in rude.2 {
        seen = step.take(&mut client, address).unwrap_or_else(|error| error.to_string());
    }
    drop(client);
    let (mut caused, from, begun) = (None, format!("htons({port})"), now());
    while now() - begun < Duration::from_secs(10) {
        caused = locked(log).accepted(&from);
        let lines = caused.map_or_else(Vec::new, |life| locked(log).lines(life));
        if lines.last().is_some_and(|line| line.text.starts_with("close(")) {
            break;
        }
        sleep(Duration::from_millis(5));
    }
    locked(log).watched = None;
    (seen, caused)
}
