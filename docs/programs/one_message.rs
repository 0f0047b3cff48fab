//! The first server there is: it takes one message, answers it, and quits.
//!
//! ```text
//! cargo run --example one_message                  and in another terminal:
//! make client TO=127.0.0.1:9999 SAY=hello
//! ```
//!
//! Run it a second time within a minute, and `bind` says EADDRINUSE. This side has closed
//! first, so its end of the connection stays in TIME_WAIT for a minute, to answer what may
//! still be on its way, and holds the address. With `--reuse` it sets SO_REUSEADDR before
//! it binds. Both runs must: the old socket, too, has to have allowed it.
//!
//! Every call here waits: `accept` for a client, `read` for what it says. So whoever
//! connects first and is silent keeps everybody else out.

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, listen, setsockopt, socket,
    sockopt,
};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::ExitCode;

/// The longest message.
const LONGEST: u64 = 100;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let reuse = words.iter().any(|word| word == "--reuse");
    let address = words.iter().find(|word| *word != "--reuse").map_or("127.0.0.1:9999", |it| it);
    match address.parse().map_err(io::Error::other).and_then(|address| serve(address, reuse)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            if error.raw_os_error() == Some(Errno::EADDRINUSE as i32) {
                eprintln!("Another server is there, or was until a minute ago; try --reuse");
            }
            ExitCode::FAILURE
        }
    }
}

fn serve(address: SocketAddrV4, reuse: bool) -> io::Result<()> {
    let listener = open(address, reuse)?;
    println!("listening on {}", listener.local_addr()?);
    loop {
        let (client, _) = listener.accept()?;
        // A client that leaves without a word is no message, and one that resets no reason
        // to end: the next may have something to say.
        match take_message(&client) {
            Ok(message) if message.is_empty() => {}
            Ok(message) => {
                println!("The message was: {}", message.trim_ascii_end().escape_ascii());
                return answer(client);
            }
            Err(error) => eprintln!("{error}"),
        }
    } // here `client` is dropped, which is close(2)
}

// ANCHOR: open
/// The three calls that make a listener.
fn open(address: SocketAddrV4, reuse: bool) -> io::Result<TcpListener> {
    // IPv4, a stream, and protocol 0: the usual one for these two, TCP.
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    if reuse {
        setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    }
    bind(fd.as_raw_fd(), &SockaddrIn::from(address))?;
    listen(&fd, Backlog::new(10)?)?;
    Ok(TcpListener::from(fd))
}
// ANCHOR_END: open

/// Reads to the end of a line, of the stream, or of our patience with its length. One read
/// is not one message: it may give less, or more.
fn take_message(client: &TcpStream) -> io::Result<Vec<u8>> {
    let mut message = Vec::new();
    BufReader::new(client.take(LONGEST)).read_until(b'\n', &mut message)?;
    Ok(message)
}

/// `write_all` is `send`, again and again until all is sent.
fn answer(mut client: TcpStream) -> io::Result<()> {
    client.write_all(b"Good talking to you\n")
}
