//! Rude clients, one at a time, to see what the very server does about them that one reads from.

use crate::live::{Log, Place, locked};
use crate::view::now;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

type Seen = io::Result<String>;

pub struct Rude {
    pub name: &'static str,
    pub does: &'static str,
    act: fn(&mut TcpStream, &str) -> Seen,
}

/// What a rude client saw, and what it caused.
pub struct Deed {
    pub rude: &'static Rude,
    pub seen: String,
    pub caused: Option<Place>,
}

/// Each has one connection, so that all it caused can be shown.
pub const RUDE: [Rude; 8] = [
    Rude {
        name: "silent",
        does: "connects and leaves without a word",
        act: |_, _| Ok("nothing".into()),
    },
    Rude {
        name: "reset",
        does: "asks, and resets before it has read the answer",
        act: |client, ask| {
            client.write_all(ask.as_bytes())?;
            client.peek(&mut [0])?; // what is unread when it is closed makes the close a reset
            Ok("that an answer was there, and left it unread".into())
        },
    },
    Rude {
        name: "bytes",
        does: "sends its request a byte at a time",
        act: |client, ask| {
            for byte in ask.as_bytes() {
                client.write_all(&[*byte])?;
                thread::sleep(Duration::from_millis(2));
            }
            answer(client)
        },
    },
    Rude {
        name: "half",
        does: "asks, ends its side, and waits for the answer",
        act: |client, ask| {
            client.write_all(ask.as_bytes())?;
            client.shutdown(Shutdown::Write)?;
            answer(client)
        },
    },
    Rude {
        name: "deaf",
        does: "asks for 300 pages at once, and reads nothing for half a second",
        act: |client, ask| {
            client.write_all(ask.replace("close", "keep-alive").repeat(299).as_bytes())?;
            client.write_all(ask.as_bytes())?;
            thread::sleep(Duration::from_millis(500));
            answer(client)
        },
    },
    Rude {
        name: "slow",
        does: "sends half a request, and then nothing for a second",
        act: |client, ask| {
            client.write_all(ask.split_at(ask.len() / 2).0.as_bytes())?;
            thread::sleep(Duration::from_secs(1));
            Ok("nothing, and leaves".into())
        },
    },
    Rude {
        name: "flood",
        does: "sends a line of 4 MB without an end",
        act: |client, _| {
            let _ = client.write_all(&[b'x'; 4 << 20]); // it may be refused before
            answer(client)
        },
    },
    Rude {
        name: "noise",
        does: "sends bytes that are no HTTP",
        act: |client, _| {
            client.write_all(b"\0\xff\xfe\x80\r\n\x1b[2J\r\n\r\n")?;
            answer(client)
        },
    },
];

fn answer(client: &mut TcpStream) -> Seen {
    let mut answer = Vec::new();
    client.read_to_end(&mut answer)?;
    let first = answer.split(|byte| *byte == b'\r').next().unwrap_or_default();
    Ok(format!("{}, {} bytes in all, and the end", String::from_utf8_lossy(first), answer.len()))
}

/// Lets a client loose on the server at that address, and waits until the server is done with it.
pub fn let_loose(rude: &'static Rude, address: SocketAddr, log: &Mutex<Log>) -> Deed {
    let act = || -> io::Result<(u16, Seen)> {
        let mut client = TcpStream::connect(address)?;
        client.set_read_timeout(Some(Duration::from_secs(5)))?;
        client.set_write_timeout(Some(Duration::from_secs(5)))?;
        let host = client.peer_addr()?;
        let ask =
            format!("GET /docs/README.md HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let port = client.local_addr()?.port();
        locked(log).watched = Some(port);
        Ok((port, (rude.act)(&mut client, &ask)))
    };
    let (mut caused, begun) = (None, now());
    let seen = act().and_then(|(port, seen)| {
        while now() - begun < Duration::from_secs(10) {
            let found = locked(log).caused(port);
            caused = found.map(|it| it.0);
            if found.is_some_and(|it| it.1) {
                break;
            }
            thread::sleep(Duration::from_millis(5));
        }
        seen
    });
    Deed { rude, seen: seen.unwrap_or_else(|error| error.to_string()), caused }
}
