//! tokio on one thread: a task for each client, with a buffer of its own.

use std::net::Ipv4Addr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

const PREFIX: &[u8] = b"Thank you for your message ";

async fn serve(mut client: TcpStream, input: usize) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    let mut answer = vec![0; PREFIX.len() + input];
    answer[..PREFIX.len()].copy_from_slice(PREFIX);
    loop {
        match client.read(&mut answer[PREFIX.len()..]).await? {
            0 => return Ok(()),
            got => client.write_all(&answer[..PREFIX.len() + got]).await?,
        }
    }
}

async fn listen(port: u16, input: usize) -> std::io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind((Ipv4Addr::LOCALHOST, port).into())?;
    let listener = socket.listen(4096)?;
    loop {
        let (client, _) = listener.accept().await?;
        tokio::spawn(serve(client, input));
    }
}

fn main() -> std::io::Result<()> {
    let mut numbers = std::env::args().skip(1).map(|word| word.parse().expect("a number"));
    let (port, input) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(4096));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(listen(port as u16, input))
}
