//! What a message and a connection cost, from one connection to as many as there can be, and
//! with as many idle ones beside.
//!
//! The messages come in exact batches of 64 at most, from all active connections in turn: the
//! batch stays what it is, only the number of connections grows.

use crate::load::{Fleet, Sample, Shape, Until};
use crate::report::Table;
use crate::seat::Seat;
use crate::server::{Running, Server};
use crate::statistics::{quantile, round};
use crate::{Bench, Outcome};
use serde_json::json;
use std::time::Duration;

const POINTS: [usize; 6] = [1, 10, 100, 1_000, 9_500, 19_000];
const QUICK_POINTS: [usize; 3] = [1, 100, 4_000];
/// Who is shown beside us.
const SHOWN: [&str; 5] = ["floor", "threadbare", "tokio", "libuv", "thread per client"];

pub fn scale(bench: &Bench) -> Outcome<Table> {
    let title = "CPU time in µs: a message, a message with as many idle connections beside, \
                 and opening a connection";
    let columns = ["server", "connections", "message_us", "beside_idle_us", "connection_us"];
    let mut table = Table::new("scale", title, &columns);
    let points = if bench.quick { &QUICK_POINTS[..] } else { &POINTS };
    let _awake = bench.seats.take(Seat::OnTop)?;
    for server in bench.servers.iter().filter(|server| SHOWN.contains(&server.name)) {
        if let Err(error) = climb(bench, server, points, &mut table) {
            table.failed(server.name, &error.to_string());
        }
    }
    Ok(table)
}

fn climb(bench: &Bench, server: &Server, points: &[usize], table: &mut Table) -> Outcome<()> {
    let running = server.start(&bench.seats, Seat::OnTop, &[], 4096)?;
    let mut fleet = Fleet::connect(&running, Shape::of(0))?;
    let most = bench.most_connections;
    let mut open = 0;
    for &active in points.iter().filter(|&&point| point <= most) {
        let opened = grow(&running, &mut fleet, &mut open, active)?;
        let message = message_cost(&running, &mut fleet, active)?;
        let beside_idle = if 2 * active <= most {
            grow(&running, &mut fleet, &mut open, 2 * active)?;
            Some(message_cost(&running, &mut fleet, active)?)
        } else {
            None
        };
        let cells = [Some(message), beside_idle, opened].map(|cell| json!(cell.map(round)));
        let mut row = vec![json!(server.name), json!(active)];
        row.extend(cells);
        table.rows.push(row);
    }
    Ok(())
}

/// Opens connections until there are so many: what the server spent on each in µs, if there
/// are enough to say so.
fn grow(
    running: &Running,
    fleet: &mut Fleet,
    open: &mut usize,
    count: usize,
) -> Outcome<Option<f64>> {
    let new = count.saturating_sub(*open);
    let before = running.cpu();
    fleet.grow(running, count)?;
    running.settle();
    let spent = (running.cpu() - before).as_secs_f64() * 1e6;
    *open += new;
    Ok((new >= 32).then(|| spent / new as f64))
}

/// The median of several stretches, after one that warms up.
fn message_cost(running: &Running, fleet: &mut Fleet, active: usize) -> Outcome<f64> {
    let mut stretch = || {
        let span = Until::Passed(Duration::from_millis(60));
        fleet.batches(running, active, active.min(64), span)
    };
    stretch()?;
    let samples: Vec<Sample> = (0..7).map(|_| stretch()).collect::<Outcome<_>>()?;
    Ok(quantile(samples.iter().map(Sample::cpu_each).collect(), 0.5))
}
