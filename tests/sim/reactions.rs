//! The table of errnos is asked at every call, the start's too, and what a start makes of the
//! answer is what the table says. (What is made of it later: `every_fault`, which also looks
//! after every case whether the table was asked.)

use crate::simulation::World;
use crate::simulation::journal::errnos;
use crate::simulation::stage::{TCP, UNIX, leave_stale_file};
use std::path::Path;
use std::time::Duration;
use threadbare::kernel::sim::{At, Method, Simulated, Times, take_ledger};
use threadbare::reaction::{Reaction, reaction};
use threadbare::{
    Address, Call, Conn, ConnectionHandler, Directory, Errno, Error, Limits, Net, ServiceManager,
    Signal,
};

/// Answers with a file, and connects to itself.
struct Busy(Option<Directory>);

impl ConnectionHandler for Busy {
    type Session = ();

    fn on_start(&mut self, net: &mut Net) -> Result<(), Error> {
        self.0 = Some(net.open_directory("/srv")?);
        Ok(())
    }

    fn on_data(&mut self, conn: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
        conn.write(input);
        self.0.as_mut().map(Directory::renew);
        let open = |directory: &Directory| directory.open("file").ok();
        if let Some(file) = self.0.as_ref().and_then(open) {
            let _ = (file.status(), file.read_at(&mut [0; 4], 0));
            conn.write_file(file, 0, 9_000);
        }
        let own = Address::Tcp(([127, 0, 0, 1], 80).into());
        let _ = conn.net().connect(&own, Duration::from_secs(1));
        input.len()
    }
}

/// A start in which every call is needed: two families, a stale file, a mask that hides what
/// the file's mode has, a limit of descriptors that is too low, sockets that were passed, a
/// service manager, a port that is shared.
fn start(sim: &Simulated) -> Result<World<Busy>, Error> {
    sim.set_limits(64, 8_192);
    sim.set_umask(0o777);
    let manager = Address::Unix("/run/notify".into());
    sim.manage(&manager);
    let passed = [Address::Tcp(([127, 0, 0, 1], 81).into()), Address::Unix("/run/passed".into())];
    let [one, other] = passed.map(|at| format!("fd:{}", sim.pass(&at).unwrap()));
    let (max_connections, max_outbound, reuse_port) = (100, 2, 1);
    let limits = Limits { max_connections, max_outbound, reuse_port, ..Limits::default() };
    let builder = threadbare::Server::builder(Busy(None)).kernel(sim.clone()).limits(limits);
    let builder = builder.service_manager(ServiceManager::new(manager, None));
    World::of(builder, &[TCP, "[::1]:80", UNIX, &one, &other][..], sim.clone())
}

fn fresh() -> Simulated {
    let sim = Simulated::new(1);
    leave_stale_file(&sim);
    sim.write_file(Path::new("/srv/file"), &[b'x'; 9_000]);
    sim.set_buffers(1_000, 1_000);
    sim.take_trace();
    take_ledger();
    sim
}

/// The rows that were asked.
fn rows(bits: u128) -> Vec<Call> {
    Call::ALL.into_iter().filter(|&call| bits >> call as usize & 1 == 1).collect()
}

/// What a start came to, against what the row says.
fn judge(row: Call, errno: Errno, came: &Result<World<Busy>, Error>) -> bool {
    let says = |text: &str| text.contains(row.name()) && text.contains(&format!("{errno:?}"));
    match (reaction(row, errno), came) {
        (Reaction::FailStartup, Err(error)) => {
            // What keeps it from looking at the file leaves it with what bind said.
            let in_use = (error.call, error.errno) == (Call::BindUnix, Errno::EADDRINUSE);
            let looks = matches!(row, Call::FileStatus | Call::ProbeUnix);
            (error.call, error.errno) == (row, errno) || looks && in_use
        }
        // An address that is named alone is the only one of its place.
        (Reaction::Degrade, Err(error)) if matches!(row, Call::Socket | Call::BindTcp) => {
            (error.call, error.errno) == (row, errno)
        }
        (Reaction::Degrade, Ok(world)) => world.server.warnings().iter().any(|it| says(it)),
        // In the first turn, with which it begins to hear signals.
        (Reaction::FailRuntime, Err(error)) => (error.call, error.errno) == (row, errno),
        (Reaction::Retry | Reaction::Later | Reaction::Ignore | Reaction::Bug, Ok(world)) => {
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
                let method = match call.method {
                    Method::OpenAs => "openat2",
                    method => method.name(),
                };
                let name = row.name();
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
    // The one is no call of the kernel's trait, the other is made only beside another start.
    assert_eq!(not_asked, [Call::Memory, Call::AwaitLock]);
}

/// A client that gets a file, slowly; a connection outwards; a call from elsewhere; a stop.
fn serve(mut world: World<Busy>) {
    let Ok(mut client) = world.sim.connect(&world.address()) else { return };
    client.send(b"hello");
    for _ in 0..12 {
        world.rest();
        client.recv();
    }
    let _other = world.sim.connect(&world.address());
    world.rest();
    // Pieces in several places: what another gets stands between them.
    let talk = |_: &mut Busy, net: &mut Net| {
        let ids: Vec<_> = net.ids().collect();
        for (at, id) in [0, 1, 0, 1].into_iter().enumerate() {
            let to = ids.iter().rev().nth(id);
            let _ = to.is_some_and(|to| net.send(*to, &[at as u8; 3_000]));
        }
    };
    let _ = world.server.handle().call(talk);
    world.rest();
    let Ok(cut_off) = world.sim.connect(&world.address()) else { return };
    world.rest();
    let third = cut_off.address();
    let cut = move |_: &mut Busy, net: &mut Net| {
        let ids: Vec<_> = net.ids().collect();
        for id in ids {
            let Some(mut conn) = net.conn(id) else { continue };
            if conn.peer() == third {
                conn.write(b"not all");
                conn.abort_behind();
            }
        }
    };
    let _ = world.server.handle().call(cut);
    world.rest();
    client.shutdown();
    world.pass(Duration::from_secs(5));
    world.sim.signal(Signal::SIGTERM);
    world.pass(Duration::from_secs(60));
}

#[test]
fn each_row_is_asked() {
    let sim = fresh();
    let world = start(&sim).unwrap();
    let begun = sim.calls();
    serve(world);
    let (count, mut asked) = (sim.calls() - begun, 0);
    for index in 0..count {
        for errno in [Errno::EXDEV, Errno::EAGAIN, Errno::ENOMEM, Errno::EINVAL] {
            let sim = fresh();
            let world = start(&sim).unwrap();
            sim.fail(At::Call(begun + index), errno, Times::Once);
            sim.fail(At::Call(begun + index + 1), Errno::EINVAL, Times::Once);
            serve(world);
            let (unasked, bits) = take_ledger();
            assert!(unasked.is_empty(), "call {index}, {errno:?}: {unasked:?}");
            asked |= bits;
        }
    }
    let runs = |call: &Call| *call as usize >= Call::EpollAddConnection as usize;
    let is_asked = |call: &Call| asked >> *call as usize & 1 == 1;
    let not_asked: Vec<Call> =
        Call::ALL.into_iter().filter(runs).filter(|it| !is_asked(it)).collect();
    assert!(not_asked.is_empty(), "{not_asked:?} of {count} calls");
    assert!(sim.count(Method::Sendfile) > 1);
}

/// Whatever the table treats unlike the rest of its row is an errno that the sweeps inject, but for
/// one that the simulated kernel says each time: a connect takes time.
#[test]
fn each_exception_of_the_table_is_injected() {
    let mut exceptions = 0;
    for row in Call::ALL {
        let is_one = |&errno: &Errno| reaction(row, errno) != reaction(row, Errno::EXDEV);
        for errno in (1..134).map(Errno::from_raw).filter(is_one) {
            let is_injected = errnos(method(row)).contains(&errno);
            let is_usual = (row, errno) == (Call::Connect, Errno::EINPROGRESS);
            assert!(is_injected || is_usual, "{row:?}: {errno:?} is never injected");
            exceptions += 1;
        }
    }
    assert!(exceptions > 100, "only {exceptions} exceptions");
}

/// The method by which the call of a row with exceptions is made.
fn method(row: Call) -> Method {
    match row {
        Call::Socket | Call::OutboundSocket => Method::Socket,
        Call::RefuseDescriptors | Call::Detach => Method::Setsockopt,
        Call::LockDirectory => Method::Flock,
        Call::BindTcp | Call::BindUnix => Method::Bind,
        Call::ProbeUnix | Call::Connect => Method::Connect,
        Call::OutboundAddress => Method::Getsockname,
        Call::EpollAddConnection | Call::EpollModify | Call::EpollRemove => Method::EpollCtl,
        Call::EpollWait => Method::EpollWait,
        Call::Accept => Method::Accept4,
        Call::Recv => Method::Recv,
        Call::Send => Method::Send,
        Call::SendPieces => Method::Sendmsg,
        Call::ConnectResult => Method::GetsockoptError,
        Call::OpenFile => Method::Openat2,
        Call::ReadFile => Method::Pread64,
        Call::SendFile => Method::Sendfile,
        Call::ReadCounter => Method::ReadCounter,
        Call::WriteCounter => Method::WriteCounter,
        Call::ReadSignal => Method::ReadSignal,
        Call::Shutdown => Method::Shutdown,
        Call::Unacknowledged => Method::IoctlOutq,
        Call::Close => Method::Close,
        _ => panic!("{row:?} has exceptions now: by which method is it called?"),
    }
}
