//! Two servers in tokio's loop, on its one thread, beside whatever else runs there.
//!
//! ```text
//! cargo run --manifest-path docs/programs/in_tokio/Cargo.toml      and, in another terminal:
//! make client SAY=hello
//! ```
//!
//! A server is a descriptor, which is readable when there is something to do. tokio waits for that,
//! and then the server does a bounded part of it: it never waits itself.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::error::Error;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;
use threadbare::handlers::{Echo, Framing, Greet};
use threadbare::{ConnectionHandler, Server, Summary};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::{Builder, Runtime};
use tokio::task::{LocalSet, yield_now};

/// Serves until the server is stopped.
#[expect(
    deprecated,
    reason = "what is to be used instead is unsafe; an `OwnedFd` is one descriptor"
)]
async fn serve<H: ConnectionHandler>(mut server: Server<H>) -> io::Result<Summary> {
    let descriptor = server.as_fd().try_clone_to_owned()?;
    let descriptor = AsyncFd::with_interest(descriptor, Interest::READABLE)?;
    let mut goes_on = server.poll()?; // from the first turn on the descriptor is readable
    while goes_on {
        let mut ready = descriptor.readable().await?;
        goes_on = server.poll()?;
        // tokio hears of changes alone (EPOLLET), so as long as something is left to do it must
        // not forget that the descriptor is readable.
        if !is_readable(&server)? {
            ready.clear_ready();
        }
        yield_now().await; // the others have their turn
    }
    Ok(server.finish()?)
}

fn is_readable(server: &impl AsFd) -> io::Result<bool> {
    Ok(poll(&mut [PollFd::new(server.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO)? > 0)
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

fn main() -> Result<(), Box<dyn Error>> {
    let greet = Server::builder(Greet::new(Framing::Line, 4_096)).bind("127.0.0.1:1234")?;
    let echo = Server::builder(Echo).bind("127.0.0.1:1235")?;
    for address in greet.addresses().iter().chain(echo.addresses()) {
        println!("listening on {address}");
    }
    let others = async {
        loop {
            tokio::time::sleep(Duration::from_secs(10)).await;
            println!("tokio runs, too");
        }
    };
    let tasks = LocalSet::new();
    tasks.spawn_local(others);
    tasks.spawn_local(serve(echo));
    println!("{}", runtime()?.block_on(tasks.run_until(serve(greet)))?); // until it is killed
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use threadbare::Address;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    /// Two servers and their clients on one thread: each byte comes back, though a server never
    /// does more than a part at a time, and a stop from elsewhere wakes it.
    #[test]
    fn servers_and_clients_share_a_thread() {
        let tasks = LocalSet::new();
        let servers = [(); 2].map(|()| Server::builder(Echo).bind("127.0.0.1:0").unwrap());
        let talk = servers.map(|server| {
            let (handle, address) = (server.handle(), server.addresses()[0].clone());
            let Address::Tcp(address) = address else { panic!("TCP") };
            let served = tasks.spawn_local(serve(server));
            async move {
                let (mut reads, mut writes) =
                    TcpStream::connect(address).await.unwrap().into_split();
                let writing = tokio::task::spawn_local(async move {
                    writes.write_all(&vec![b'x'; 5_000_000]).await.unwrap();
                });
                let mut all = Vec::new();
                reads.read_to_end(&mut all).await.unwrap();
                writing.await.unwrap();
                handle.stop();
                let counters = served.await.unwrap().unwrap().counters;
                assert_eq!((all.len(), counters.sent), (5_000_000, 5_000_000));
            }
        });
        let all = talk.map(|talk| tasks.spawn_local(talk));
        runtime().unwrap().block_on(async {
            let within = tokio::time::timeout(Duration::from_secs(60), tasks);
            within.await.expect("they came to an end");
            for one in all {
                one.await.unwrap();
            }
        });
    }
}
