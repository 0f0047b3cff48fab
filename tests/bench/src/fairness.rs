//! How long 100 quiet clients wait while others misbehave.
//!
//! The quiet ones send at a fixed rate; their latency counts from the time at which a message
//! was due. It is taken in short spans, and of each figure the median span counts: what else
//! the machine does strikes a few of them. Beside the clients is nobody, or one firehose, which sends as fast as it can and reads
//! everything, or 1,000 deaf clients, which go on sending and never read. The pests are a
//! process of their own, which steps back for the load, so that it is the server that is
//! measured, and not who gets the load's CPU.

use crate::load::{Fleet, Shape};
use crate::report::Table;
use crate::seat::{Helper, Seat};
use crate::server::{Running, Server};
use crate::statistics::{quantile, round};
use crate::{Bench, Outcome};
use nix::sys::socket::{setsockopt, sockopt};
use serde_json::{Value, json};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread::sleep;
use std::time::Duration;

const QUIET: usize = 100;
/// Messages a second of all of them together.
const RATE: f64 = 2_000.0;
const PESTS: [&str; 3] = ["nobody", "firehose", "deaf"];
const DEAF: usize = 1_000;
/// So many short spans.
const SPANS: u32 = 15;

pub fn fairness(bench: &Bench) -> Outcome<Table> {
    let title = "Latency in µs of 100 quiet clients, the median of 15 spans: alone, beside a \
                 firehose, and beside 1,000 clients that send and do not read";
    let columns = ["server", "p50", "p99", "firehose_p50", "firehose_p99", "deaf_p50", "deaf_p99"];
    let mut table = Table::new("fairness", title, &columns);
    let unfit = ["floor", "floor again"]; // they lose what a socket does not take
    for server in bench.servers.iter().filter(|server| !unfit.contains(&server.name)) {
        let mut row: Vec<Value> = vec![server.name.into()];
        for pest in PESTS {
            match beside(bench, server, pest) {
                Ok(spans) => row.extend([0.5, 0.99].map(|part| {
                    let each = spans.iter().map(|latencies| quantile(latencies.clone(), part));
                    json!(round(f64::from(quantile(each.collect(), 0.5)) / 1e3))
                })),
                Err(error) => {
                    row.extend([Value::Null, Value::Null]);
                    table.note(format!("{} beside {pest}: {error}", server.name));
                }
            }
        }
        table.rows.push(row);
    }
    Ok(table)
}

/// The latencies of all messages, by span.
fn beside(bench: &Bench, server: &Server, pest: &str) -> Outcome<Vec<Vec<u32>>> {
    let _awake = bench.seats.take(Seat::Beside)?;
    let running = server.start(&bench.seats, Seat::Beside, &[], 4096)?;
    let mut fleet = Fleet::connect(&running, Shape::of(QUIET))?;
    let span = Duration::from_millis(if bench.quick { 40 } else { 200 });
    fleet.at_rate(&running, RATE, span)?; // warms up
    let _pest = start_pest(bench, &running, pest)?;
    (0..SPANS).map(|_| Ok(fleet.at_rate(&running, RATE, span)?.latencies)).collect()
}

fn start_pest(bench: &Bench, server: &Running, kind: &str) -> Outcome<Helper> {
    let port = server.port.to_string();
    let mut pest = Helper::start(&bench.seats.beside_load(), &["pest", kind, &port])?;
    // It says a byte when all its clients are connected.
    pest.0.stdout.as_mut().ok_or("no pipe")?.read_exact(&mut [0])?;
    Ok(pest)
}

/// What the pest's process does, until it is killed or the server has had enough.
pub fn be_a_pest(kind: &str, port: u16) -> Outcome<()> {
    let connect = || -> Outcome<TcpStream> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    };
    let ready = || -> Outcome<()> {
        print!("!");
        Ok(std::io::stdout().flush()?)
    };
    match kind {
        "firehose" => {
            let stream = connect()?;
            ready()?;
            firehose(stream)
        }
        "deaf" => {
            let mut streams = (0..DEAF).map(|_| connect()).collect::<Outcome<Vec<_>>>()?;
            for stream in &streams {
                setsockopt(stream, sockopt::RcvBuf, &4096)?;
            }
            let lines = lines(4 << 10);
            ready()?;
            loop {
                streams.iter_mut().for_each(|stream| drop(push(stream, &lines)));
                sleep(Duration::from_millis(50));
            }
        }
        _ => {
            ready()?;
            loop {
                sleep(Duration::from_secs(1));
            }
        }
    }
}

fn firehose(mut stream: TcpStream) -> Outcome<()> {
    let (lines, mut answers) = (lines(64 << 10), vec![0; 1 << 20]);
    let mut offset = 0;
    loop {
        let sent = push(&mut stream, &lines[offset..])?;
        offset = (offset + sent) % lines.len();
        while let Ok(1..) = stream.read(&mut answers) {}
        if sent == 0 {
            sleep(Duration::from_micros(20));
        }
    }
}

/// So many bytes in lines of a kilobyte.
fn lines(bytes: usize) -> Vec<u8> {
    let mut line = vec![b'x'; 1023];
    line.push(b'\n');
    line.repeat(bytes / 1024)
}

/// Writes what the socket takes.
fn push(stream: &mut TcpStream, bytes: &[u8]) -> Outcome<usize> {
    match stream.write(bytes) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        written => Ok(written?),
    }
}
