//! mio used well: one buffer for all clients, one recv for each event, and a queue only for
//! what the socket does not take. Until that is gone the client is not read.

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use std::io::{ErrorKind, Read, Result, Write};

const PREFIX: &[u8] = b"Thank you for your message ";
const INPUT: usize = 64 << 10;
const LISTENER: Token = Token(usize::MAX);

struct Client {
    stream: TcpStream,
    /// What is still to be sent.
    rest: Vec<u8>,
}

/// Sends what it can; what is left stays.
fn flush(client: &mut Client) -> Result<()> {
    while !client.rest.is_empty() {
        match client.stream.write(&client.rest) {
            Ok(sent) => drop(client.rest.drain(..sent)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    client.rest = Vec::new();
    Ok(())
}

/// Answers what has come; false at the end.
fn serve(client: &mut Client, answer: &mut [u8]) -> Result<bool> {
    flush(client)?;
    while client.rest.is_empty() {
        let got = match client.stream.read(&mut answer[PREFIX.len()..]) {
            Ok(0) => return Ok(false),
            Ok(got) => got,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
            Err(error) => return Err(error),
        };
        let whole = &answer[..PREFIX.len() + got];
        let sent = match client.stream.write(whole) {
            Ok(sent) => sent,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        client.rest.extend_from_slice(&whole[sent..]);
        if got < INPUT && sent == whole.len() {
            return Ok(true); // a short read: mio is edge-triggered, and will tell
        }
    }
    Ok(true)
}

fn main() -> Result<()> {
    let port: u16 = std::env::args().nth(1).map_or(0, |word| word.parse().expect("a port"));
    let mut listener = TcpListener::bind(([127, 0, 0, 1], port).into())?;
    let (mut poll, mut events) = (Poll::new()?, Events::with_capacity(1024));
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut clients: Vec<Option<Client>> = Vec::new();
    let mut free = Vec::new();
    let mut answer = [PREFIX, &[0; INPUT]].concat();
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((mut stream, _)) = listener.accept() {
                    stream.set_nodelay(true)?;
                    let slot = free.pop().unwrap_or(clients.len());
                    let both = Interest::READABLE | Interest::WRITABLE;
                    poll.registry().register(&mut stream, Token(slot), both)?;
                    clients.resize_with(clients.len().max(slot + 1), || None);
                    clients[slot] = Some(Client { stream, rest: Vec::new() });
                }
                continue;
            }
            let Token(slot) = event.token();
            let Some(client) = &mut clients[slot] else { continue };
            let has_room = event.is_writable() && !client.rest.is_empty();
            if !event.is_readable() && !has_room {
                continue;
            }
            let goes_on = serve(client, &mut answer).unwrap_or(false);
            if !goes_on || event.is_read_closed() && client.rest.is_empty() {
                clients[slot] = None; // closed, and so deregistered
                free.push(slot);
            }
        }
    }
}
