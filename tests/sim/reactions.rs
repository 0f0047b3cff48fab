//! The table of errnos is asked at every call, the start's too, and what it says is done.
//! (While the server runs: the gate in `every_fault`, which asks after every case.)

use crate::simulation::World;
use crate::simulation::journal::errnos;
use crate::simulation::stage::{TCP, UNIX, leave_stale_file};
use threadbare::handlers::Echo;
use threadbare::kernel::sim::{At, Simulated, Times, take_ledger};
use threadbare::reaction::{Reaction, reaction};
use threadbare::{Call, Errno, Error, Limits};

/// A start in which every call is needed: two families, a stale file, a mask that hides what
/// the file's mode has, a limit of descriptors that is too low.
fn start(sim: &Simulated) -> Result<World<Echo>, Error> {
    sim.set_limits(64, 8_192);
    sim.set_umask(0o777);
    let limits = Limits { max_connections: 100, ..Limits::default() };
    World::at(&[TCP, "[::1]:80", UNIX][..], sim.clone(), Echo, limits)
}

fn fresh() -> Simulated {
    let sim = Simulated::new(1);
    leave_stale_file(&sim);
    sim.take_trace();
    take_ledger();
    sim
}

/// The rows that were asked.
fn rows(bits: u64) -> Vec<Call> {
    Call::ALL.into_iter().filter(|&call| bits >> call as usize & 1 == 1).collect()
}

/// What a start came to, against what the row says.
fn judge(row: Call, errno: Errno, came: &Result<World<Echo>, Error>) -> bool {
    let says = |text: &str| text.contains(row.name()) && text.contains(&format!("{errno:?}"));
    match (reaction(row, errno), came) {
        (Reaction::FailStartup, Err(error)) => {
            // What keeps it from looking at the file leaves it with what bind said.
            let in_use = (error.call, error.errno) == (Call::BindUnix, Errno::EADDRINUSE);
            let looks = matches!(row, Call::FileStatus | Call::ProbeUnix);
            (error.call, error.errno) == (row, errno) || looks && in_use
        }
        (Reaction::Degrade, Ok(world)) => world.server.warnings().iter().any(|it| says(it)),
        (Reaction::Retry | Reaction::Ignore | Reaction::Bug, Ok(world)) => {
            world.server.warnings().is_empty()
        }
        // It was the second time already.
        (Reaction::Retry, Err(error)) => (error.call, error.errno) == (row, errno),
        _ => false,
    }
}

#[test]
fn a_start_does_what_the_table_says() {
    let sim = fresh();
    let world = start(&sim).unwrap();
    let calls = sim.take_trace();
    drop(world);
    let (mut asked, mut cases) = (0, 0);
    for (index, call) in calls.iter().enumerate() {
        for &errno in errnos(call.method) {
            let sim = fresh();
            sim.fail(At::Call(sim.calls() + index as u64), errno, Times::Once);
            let came = start(&sim);
            let (unasked, bits) = take_ledger();
            let at = format!("call {index}, {}: {errno:?}", call.method.name());
            assert!(unasked.is_empty(), "{at}: {unasked:?}");
            let of_this = |row: &Call| {
                let (name, method) = (row.name(), call.method.name());
                method.starts_with(name) || method.ends_with(name)
            };
            let rows: Vec<Call> = rows(bits).into_iter().filter(of_this).collect();
            let is_right = |&row: &Call| judge(row, errno, &came);
            let came = came.as_ref().map(|world| world.server.warnings());
            assert!(rows.iter().any(is_right), "{at}: {rows:?}, but it came to {came:?}");
            asked |= bits;
            cases += 1;
        }
    }
    assert!(cases > 200, "only {cases} cases");
    let starts = |call: &Call| (*call as usize) < Call::EpollAddConnection as usize;
    let not_asked: Vec<Call> = Call::ALL
        .into_iter()
        .filter(starts)
        .filter(|call| asked >> *call as usize & 1 == 0)
        .collect();
    // The one is no call of the kernel's trait, the other is a handler's.
    assert_eq!(not_asked, [Call::Memory, Call::OpenDirectory]);
}
