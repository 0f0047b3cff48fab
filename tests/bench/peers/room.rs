//! tokio on one thread: what one client says, a line or many, all the others hear. A task reads
//! each client and another writes to it; between them is tokio's broadcast channel. What has
//! come together is written together.

use std::net::Ipv4Addr;
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpSocket;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::broadcast::{self, Receiver, Sender};

/// Who said it, and what.
type Line = (u64, Arc<[u8]>);

async fn hear(client: OwnedReadHalf, id: u64, room: Sender<Line>) -> std::io::Result<()> {
    let (mut client, mut line) = (BufReader::new(client), Vec::new());
    while client.read_until(b'\n', &mut line).await? > 0 {
        let _ = room.send((id, line.as_slice().into()));
        line.clear();
    }
    Ok(())
}

async fn tell(mut client: OwnedWriteHalf, id: u64, mut room: Receiver<Line>) -> Option<()> {
    let mut text = Vec::new();
    loop {
        let mut next = Some(room.recv().await.ok()?);
        while let Some((by, line)) = next {
            if by != id {
                text.extend_from_slice(&line);
            }
            next = room.try_recv().ok();
        }
        client.write_all(&text).await.ok()?;
        text.clear();
    }
}

async fn listen(port: u16) -> std::io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind((Ipv4Addr::LOCALHOST, port).into())?;
    let (listener, (room, _)) = (socket.listen(4096)?, broadcast::channel(1 << 14));
    for id in 0.. {
        let (client, _) = listener.accept().await?;
        client.set_nodelay(true)?;
        let (input, output) = client.into_split();
        tokio::spawn(hear(input, id, room.clone()));
        tokio::spawn(tell(output, id, room.subscribe()));
    }
    Ok(())
}

fn main() -> std::io::Result<()> {
    let port = std::env::args().nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(listen(port))
}
