//! The library from inside: servers on threads of this process, with real sockets. No test
//! here starts a child, which would hold the descriptors of the others until its exec.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod allocations;
#[path = "../support/allocator.rs"]
mod allocator;
mod outside;
mod pool;
mod sizes;
mod start_and_stop;

use std::net::TcpStream;
use std::time::Duration;
use threadbare::{Address, ConnectionHandler, Running, Server};

fn connect<H: ConnectionHandler>(server: &Running<H>) -> TcpStream {
    let Address::Tcp(address) = server.addresses()[0] else { panic!("a TCP listener") };
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

fn spawn<H: ConnectionHandler<Session: Send> + Send + 'static>(handler: H) -> Running<H> {
    Server::builder(handler).bind("127.0.0.1:0").unwrap().spawn().unwrap()
}
