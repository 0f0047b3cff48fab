//! Step 1: a byte comes. One client after the other; the server waits in `read` for what the
//! client sends, and answers it.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

fn main() -> io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:1234".to_owned());
    let listener = TcpListener::bind(address)?;
    println!("listening on {}", listener.local_addr()?);

    for stream in listener.incoming() {
        let mut client = Client { stream: stream? };
        while client.serve()? {}
    }
    Ok(())
}

struct Client {
    stream: TcpStream,
}

impl Client {
    /// Reads what the client sends and answers it. Returns whether the client is still there.
    fn serve(&mut self) -> io::Result<bool> {
        let mut bytes = [0; 4096];
        let count = self.stream.read(&mut bytes)?;
        if count == 0 {
            return Ok(false);
        }
        self.stream.write_all(&answer_to(bytes.get(..count).unwrap_or_default()))?;
        Ok(true)
    }
}

/// The answer to a message. One that begins with `slow` takes a second, as a database may.
fn answer_to(message: &[u8]) -> Vec<u8> {
    if message.starts_with(b"slow") {
        thread::sleep(Duration::from_secs(1));
    }
    [b"Thank you for your message ", message].concat()
}
