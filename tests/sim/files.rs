//! Files as output, under the simulated kernel: every errno of every call at every place,
//! short transfers, slow clients, clients that leave, files that change, and a stop.
//! Whatever happens, what arrives is a prefix of what is due, others notice nothing, and
//! every descriptor is closed in the end.

use crate::simulation::journal::{errnos, is_a_lie};
use crate::simulation::stage::{SHORTS, TIMES};
use crate::simulation::{Report, World};
use std::path::Path;
use std::time::Duration;
use threadbare::kernel::sim::{At, Client, Method, Short, Simulated, Times};
use threadbare::{
    CloseReason, Conn, ConnectionHandler, Directory, Errno, Error, File, Limits, Net, Signal,
};

const FILE: &str = "/srv/file";
const SIZE: usize = 60_000;

/// Answers `file\n` with that line and the file, `close\n` the same and closes, anything
/// else with itself.
struct Sender {
    directory: Option<Directory>,
    /// How much of the file is sent.
    length: u64,
}

impl Sender {
    fn open(&mut self) -> Option<File> {
        self.directory.as_ref().unwrap().open("file").ok()
    }
}

impl ConnectionHandler for Sender {
    type Session = ();

    fn on_start(&mut self, net: &mut Net) -> Result<(), Error> {
        self.directory = Some(net.open_directory("/srv")?);
        Ok(())
    }

    fn on_data(&mut self, conn: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
        let mut consumed = 0;
        for line in input.split_inclusive(|&byte| byte == b'\n') {
            if conn.is_full() || !line.ends_with(b"\n") {
                break;
            }
            consumed += line.len();
            conn.write(line);
            match line {
                b"file\n" | b"close\n" | b"and behind\n" => match self.open() {
                    Some(file) => {
                        conn.write_file(file, 0, self.length);
                        if line == b"and behind\n" {
                            conn.write(b"behind");
                        }
                    }
                    None => conn.abort(),
                },
                b"twice\n" => {
                    for file in [self.open().unwrap(), self.open().unwrap()] {
                        conn.write_file(file, 0, self.length);
                    }
                }
                b"abort\n" => {
                    let file = self.open().unwrap();
                    conn.write_file(file, 0, self.length);
                    conn.abort();
                }
                b"look\n" => {
                    let file = self.open().unwrap();
                    let status = file.status().unwrap();
                    let mut bytes = [0; 100];
                    assert_eq!(file.read_at(&mut bytes, status.size - 10), Ok(10));
                    conn.write(&bytes[..10]);
                }
                _ => {}
            }
            if line == b"close\n" {
                conn.close();
                break;
            }
        }
        consumed
    }
}

fn content() -> Vec<u8> {
    (0..SIZE).map(|at| (at * 31 % 251) as u8).collect()
}

/// What is due for some lines.
fn due(lines: &[u8]) -> Vec<u8> {
    let mut due = Vec::new();
    for line in lines.split_inclusive(|&byte| byte == b'\n') {
        due.extend(line);
        if matches!(line, b"file\n" | b"close\n" | b"and behind\n") {
            due.extend(content());
        }
        if line == b"and behind\n" {
            due.extend(b"behind");
        }
    }
    due
}

fn world(limits: Limits) -> World<Sender> {
    let sim = Simulated::new(1);
    sim.write_file(Path::new(FILE), &content());
    let sender = Sender { directory: None, length: SIZE as u64 };
    World::on(sim, sender, limits).unwrap()
}

/// Reads, as much as there is each time, until nothing comes any more.
fn read_all(world: &mut World<Sender>, client: &mut Client, each: usize) -> Vec<u8> {
    let mut received = Vec::new();
    for _ in 0..2_000_000 {
        world.rest();
        let some = client.recv_at_most(each);
        if some.is_empty() {
            return received;
        }
        received.extend(some);
    }
    panic!("it does not end");
}

#[test]
fn files_follow_what_was_written_and_come_in_order() {
    for (outbox, inbox) in [(40, 1), (1_000, 100), (128 << 10, 64 << 10), (1 << 20, 1 << 20)] {
        for (name, short) in SHORTS {
            if short == Short::AtMost(1) && outbox > 1_000 {
                continue; // a byte is a byte
            }
            let case = format!("{outbox} {inbox} {name}");
            let _report = Report(&case);
            let mut world = world(Limits::default());
            world.sim.set_buffers(outbox, inbox);
            world.sim.shorten(short);
            let before = world.sim.descriptors();
            let mut client = world.client();
            let lines = b"one\nfile\ntwo\nand behind\nfile\nclose\nnever\n";
            let mut sent = 0;
            while sent < lines.len() {
                sent += client.send(&lines[sent..]);
                world.rest();
            }
            let received = read_all(&mut world, &mut client, 10_000);
            assert_eq!(received.len(), due(&lines[..lines.len() - 6]).len());
            assert!(received == due(&lines[..lines.len() - 6]));
            assert!(client.saw_eof());
            client.close();
            world.rest();
            assert_eq!(world.sim.descriptors(), before);
            assert_eq!(world.stop().counters.closed_for(CloseReason::Handler), 1);
        }
    }
}

/// The lines of two clients: the first gets files, slowly, the other its words back.
const LINES: &[u8] = b"file\nword\nand behind\n";

/// What one case came to: whether the fault struck.
fn play(method: Method, at: u64, errno: Errno, times: Times, short: Short) -> bool {
    let mut world =
        world(Limits { write_timeout: Some(Duration::from_secs(20)), ..Limits::default() });
    world.sim.set_buffers(10_000, 5_000);
    world.sim.shorten(short);
    let before = world.sim.descriptors();
    let (mut reader, mut other) = (world.client(), world.client());
    world.rest();
    let struck = world.sim.count(method) + at;
    world.sim.fail(At::Of(method, struck), errno, times);
    reader.send(LINES);
    let mut received = Vec::new();
    let mut echoed = Vec::new();
    let mut said = Vec::new();
    let mut idle = 0;
    while idle < 4 {
        let word = format!("word {}\n", said.len());
        if echoed.len() == said.len() && said.len() < 200 {
            other.send(word.as_bytes());
            said.extend(word.as_bytes());
        }
        world.pass(Duration::from_millis(50));
        let (some, echo) = (reader.recv_at_most(8_000), other.recv());
        idle = if some.is_empty() && echo.is_empty() { idle + 1 } else { 0 };
        received.extend(some);
        echoed.extend(echo);
        if idle == 2 {
            world.sim.heal();
            world.pass(Duration::from_secs(5)); // what was put off is due
        }
    }
    let whole = due(LINES);
    assert!(whole.starts_with(&received), "wrong bytes, after {} of them", received.len());
    let ended = reader.saw_reset() || reader.saw_eof();
    assert!(received == whole || ended, "stuck after {} of {}", received.len(), whole.len());
    // Of a peer that is gone nobody needs to see a reset.
    let is_gone = matches!(errno, Errno::EPIPE | Errno::ECONNRESET);
    assert!(received == whole || !reader.saw_eof() || is_gone, "cut short, with a FIN");
    if matches!(method, Method::Sendfile | Method::Openat2 | Method::Pread64) {
        assert_eq!(echoed, said, "another client notices");
    }
    assert!(said.starts_with(&echoed), "another client gets wrong bytes");
    let was_struck = world.sim.trace().iter().any(|call| call.injected);
    reader.close();
    other.close();
    world.rest();
    world.pass(Duration::from_secs(100));
    assert_eq!(world.sim.descriptors(), before, "descriptors are left open");
    was_struck
}

/// Every errno of the calls that a file needs, at these indices.
fn sweep(indices: &[u64], shorts: &[Short]) -> usize {
    let own = [Method::Openat2, Method::Sendfile, Method::Pread64];
    let common = [Method::Send, Method::Recv, Method::EpollCtl];
    let mut struck = 0;
    for method in own.into_iter().chain(common) {
        for &errno in errnos(method) {
            for (name, times) in TIMES {
                let is_patient = matches!(errno, Errno::EAGAIN | Errno::EINTR);
                let is_lie = is_patient && times == Times::UntilHealed;
                if is_lie || is_a_lie(method, errno, times) {
                    continue;
                }
                for (&at, &short) in
                    indices.iter().flat_map(|at| shorts.iter().map(move |short| (at, short)))
                {
                    let case = format!("{method:?} {at} {errno:?} {name} {short:?}");
                    let _report = Report(&case);
                    struck += usize::from(play(method, at, errno, times, short));
                }
            }
        }
    }
    println!("{struck} cases struck");
    struck
}

#[test]
fn errnos_of_every_call() {
    assert!(sweep(&[1], &[Short::Random]) >= 180);
}

#[test]
#[ignore = "10 s; `make check` runs it"]
fn every_errno_of_every_call() {
    assert!(sweep(&[0, 1, 5, 9], &[Short::Full, Short::Random]) >= 1_000);
}

/// A regression: a file that sendfile does not take was read into the buffer in which the
/// answers to others were waiting, and these were lost.
#[test]
fn a_file_that_is_read_among_the_answers_to_others() {
    assert!(play(Method::Sendfile, 1, Errno::EINVAL, Times::Once, Short::Random));
}

/// A file that got shorter cannot be sent: no FIN may make the answer look whole.
#[test]
fn a_file_that_shrinks() {
    for fault in [None, Some(Errno::EINVAL)] {
        let mut world = world(Limits::default());
        world.sim.set_buffers(10_000, 5_000);
        if let Some(errno) = fault {
            world.sim.fail(At::Of(Method::Sendfile, 0), errno, Times::UntilHealed);
        }
        let mut client = world.client();
        client.send(b"file\n");
        if fault.is_none() {
            world.rest();
        }
        world.sim.write_file(Path::new(FILE), &content()[..20_000]);
        let received = read_all(&mut world, &mut client, 9_000);
        assert!(due(b"file\n").starts_with(&received) && received.len() <= 20_005);
        world.pass(Duration::from_millis(10)); // the kernel is asked whether it has all
        client.recv();
        assert!(client.saw_reset() && !client.saw_eof());
        let before = world.sim.descriptors();
        world.pass(Duration::from_secs(10));
        assert_eq!(world.sim.descriptors(), before);
        world.stop();
    }
}

/// So much of a file in a turn and no more, however fast its client takes it: a file that went
/// in one go kept everybody else waiting.
#[test]
fn a_file_goes_in_turns() {
    const LENGTH: usize = 4 << 20;
    for fault in [None, Some(Errno::EINVAL)] {
        let sim = Simulated::new(1);
        sim.set_buffers(8 << 20, 8 << 20);
        sim.write_file(Path::new(FILE), &vec![b'x'; LENGTH]);
        if let Some(errno) = fault {
            sim.fail(At::Of(Method::Sendfile, 0), errno, Times::UntilHealed);
        }
        let sender = Sender { directory: None, length: LENGTH as u64 };
        let mut world = World::on(sim, sender, Limits::default()).unwrap();
        let mut client = world.client();
        world.rest();
        let options = world.sim.count(Method::Setsockopt);
        client.send(b"file\n");
        let (mut most, mut all) = (0, 0);
        while world.sim.is_ready() || !world.server.is_idle() {
            world.turn();
            let received = client.recv().len();
            (most, all) = (most.max(received), all + received);
        }
        assert_eq!(all, b"file\n".len() + LENGTH);
        assert!(most <= 300 << 10, "{most} bytes in a turn");
        // Whole segments only, until the last call has been made.
        let options = world.sim.count(Method::Setsockopt) - options;
        assert_eq!(options, if fault.is_none() { 2 } else { 0 });
    }
}

/// A server that is dropped amid an answer resets its client: a FIN would make it look whole.
#[test]
fn a_server_that_is_dropped() {
    let mut world = world(Limits::default());
    world.sim.set_buffers(10_000, 5_000);
    let [mut client, mut other] = [world.client(), world.client()];
    client.send(b"file\n");
    world.ask(&mut other, b"hello\n");
    other.shutdown();
    world.rest();
    drop(world);
    while !client.recv().is_empty() {}
    assert!(client.saw_reset() && !client.saw_eof());
    other.recv();
    assert!(other.saw_eof() && !other.saw_reset());
}

/// What ends in the middle of a file: the client, the handler, its bugs, a stop.
#[test]
fn ends_in_the_middle() {
    for (line, why) in [
        (&b"file\n"[..], CloseReason::PeerReset),
        (b"abort\n", CloseReason::Handler),
        (b"twice\n", CloseReason::Handler),
        (b"file\nx", CloseReason::DrainDeadline),
        (b"close\nx", CloseReason::DrainDeadline),
    ] {
        let mut world = world(Limits::default());
        world.sim.set_buffers(10_000, 5_000);
        let before = world.sim.descriptors();
        let mut client = world.client();
        client.send(line);
        world.rest();
        match why {
            CloseReason::PeerReset => client.reset(),
            CloseReason::DrainDeadline => {
                assert!(world.sim.signal(Signal::SIGTERM));
                world.pass(Duration::from_secs(20));
                client.recv();
                assert!(client.saw_reset());
            }
            _ => {}
        }
        world.rest();
        if world.running {
            assert_eq!(world.sim.descriptors(), before, "{line:?}");
            assert!(world.sim.signal(Signal::SIGTERM));
            world.pass(Duration::from_secs(20));
        }
        let counters = world.server.finish().unwrap().counters;
        assert_eq!(counters.closed_for(why), 1, "{line:?}: {counters}");
        let is_bug = line == b"twice\n";
        assert_eq!(counters.bugs, u64::from(is_bug));
        let sim = world.sim.clone();
        drop(world);
        assert_eq!(sim.descriptors(), 0, "{line:?}");
    }
}

/// What others send to a connection that is sending a file comes behind the file, and is
/// bounded as all that waits.
#[test]
fn bytes_behind_a_file_wait() {
    let limits = Limits { max_output: 300 << 10, high_water: 1 << 10, ..Limits::default() };
    let mut world = world(limits);
    world.sim.set_buffers(10_000, 5_000);
    let mut client = world.client();
    client.send(b"file\n");
    world.rest();
    let send = |world: &mut World<Sender>, length: usize| {
        let act = move |_: &mut Sender, net: &mut Net| {
            let id = net.ids().next().unwrap();
            assert!(net.send(id, &vec![b'x'; length]));
        };
        world.server.handle().call(act).unwrap();
        world.rest();
    };
    send(&mut world, 1);
    send(&mut world, 2_000);
    let received = read_all(&mut world, &mut client, 10_000);
    assert!(received == [due(b"file\n"), vec![b'x'; 2_001]].concat());
    assert_eq!(world.ask(&mut client, b"word\n"), b"word\n"); // it is full no more
    client.send(b"file\n");
    world.rest();
    send(&mut world, 299 << 10);
    assert_eq!(world.server.memory().0, world.server.memory().1);
    assert!(world.server.memory().0 >= 299 << 10);
    let too_much = |_: &mut Sender, net: &mut Net| {
        let id = net.ids().next().unwrap();
        assert!(!net.send(id, &[b'x'; 2 << 10]));
    };
    world.server.handle().call(too_much).unwrap();
    world.rest();
    assert_eq!(world.stop().counters.closed_for(CloseReason::OutputLimit), 1);
}

/// A file that is only looked at is closed by being dropped, and so is one that comes too late.
#[test]
fn a_file_that_is_not_sent_is_closed() {
    let mut world = world(Limits::default());
    let mut client = world.client();
    world.rest();
    let before = world.sim.descriptors();
    let due = [b"look\n", &content()[SIZE - 10..]].concat();
    assert_eq!(world.ask(&mut client, b"look\n"), due);
    assert_eq!(world.sim.descriptors(), before);
    let too_late = |sender: &mut Sender, net: &mut Net| {
        let id = net.ids().next().unwrap();
        let file = sender.open().unwrap();
        let mut conn = net.conn(id).unwrap();
        conn.close();
        conn.write_file(file, 0, 10);
    };
    world.server.handle().call(too_late).unwrap();
    world.rest();
    assert_eq!(world.sim.descriptors(), before);
    client.close();
    world.stop();
}

/// Without its directory the server does not start, says why, and leaves nothing open.
#[test]
fn a_start_without_the_directory() {
    let sim = Simulated::new(1);
    let sender = Sender { directory: None, length: 0 };
    sim.fail(At::Of(Method::Openat2, 0), Errno::EACCES, Times::Once);
    let error = World::on(sim.clone(), sender, Limits::default()).err().unwrap();
    assert_eq!(error.to_string(), "openat2 /srv: EACCES (Permission denied)");
    assert_eq!((sim.descriptors(), sim.count(Method::Listen)), (0, 0));
}

/// A stop waits for a file that is being sent, and answers what came before it.
#[test]
fn a_stop_sends_the_file_to_its_end() {
    let mut world = world(Limits::default());
    world.sim.set_buffers(10_000, 5_000);
    let mut client = world.client();
    client.send(b"file\nword\nfile\n");
    world.rest();
    assert!(world.sim.signal(Signal::SIGTERM));
    let received = read_all(&mut world, &mut client, 9_000);
    assert!(received == due(b"file\nword\nfile\n"));
    assert!(client.saw_eof());
    client.close();
    assert_eq!(world.end().cut, 0);
}

/// A client that takes nothing of a file is cut off, and one that takes a little is not.
#[test]
fn a_client_that_does_not_take_the_file() {
    let mut world =
        world(Limits { write_timeout: Some(Duration::from_secs(10)), ..Limits::default() });
    world.sim.set_buffers(1_000, 1_000);
    let (mut deaf, mut slow) = (world.client(), world.client());
    deaf.send(b"file\n");
    slow.send(b"file\n");
    let mut received = 0;
    for _ in 0..10 {
        world.pass(Duration::from_secs(9));
        received += slow.recv_at_most(1_000).len();
    }
    deaf.recv();
    assert!(deaf.saw_reset() && !slow.saw_reset() && received == 10_000);
    slow.close();
    assert_eq!(world.stop().counters.closed_for(CloseReason::WriteStalled), 1);
}

/// However long a client may take nothing of a file, it is that long.
#[test]
fn a_file_may_stall_for_weeks() {
    const DAY: Duration = Duration::from_secs(24 * 3_600);
    let (write_timeout, moment) = (Some(30 * DAY), Duration::from_millis(20));
    let mut world = world(Limits { write_timeout, idle_timeout: None, ..Limits::default() });
    world.sim.set_buffers(1_000, 1_000);
    let mut deaf = world.client();
    deaf.send(b"file\n");
    world.pass(30 * DAY - moment);
    assert_eq!(world.server.open(), 1);
    world.pass(2 * moment);
    assert_eq!(world.server.open(), 0);
    assert_eq!(world.stop().counters.closed_for(CloseReason::WriteStalled), 1);
}

/// A file that fits is sent at once, and epoll is not asked for anything; one that does not
/// is sent on when there is room, and not tried before.
#[test]
fn no_call_too_many() {
    let mut fits = world(Limits::default());
    let mut client = fits.client();
    fits.rest();
    let before = fits.sim.count(Method::EpollCtl);
    assert_eq!(fits.ask(&mut client, b"file\n"), due(b"file\n"));
    assert_eq!((fits.sim.count(Method::EpollCtl), fits.sim.count(Method::Sendfile)), (before, 1));

    let mut world = world(Limits::default());
    world.sim.set_buffers(1_000, 1_000);
    let mut client = world.client();
    client.send(b"file\n");
    world.rest();
    let before = world.sim.count(Method::Sendfile);
    let pause = |_: &mut Sender, net: &mut Net| {
        let id = net.ids().next().unwrap();
        net.conn(id).unwrap().pause();
    };
    world.server.handle().call(pause).unwrap();
    world.rest();
    assert_eq!(world.sim.count(Method::Sendfile), before);
    world.sim.take_trace();
    assert_eq!(read_all(&mut world, &mut client, 1_000), due(b"file\n"));
    let calls = world.sim.take_trace();
    let mut sent = calls.iter().filter(|call| call.method == Method::Sendfile);
    assert!(sent.all(|call| call.result.is_ok()));
    world.stop();
}

/// While more of a file follows, the kernel is to send whole segments only (TCP_CORK), and not a
/// moment longer. Whatever fails, each change is one call, and a file that goes at once needs none.
#[test]
fn a_cork_while_more_follows() {
    const MUCH: usize = 1 << 20;
    let [full, refused] = [Errno::EAGAIN, Errno::EINVAL];
    for (there, fault, changes) in [
        (SIZE, None, 0),
        (SIZE, Some((0, full, Times::Once)), 0),
        (MUCH, None, 2),
        (MUCH, Some((1, full, Times::Once)), 2),
        (MUCH, Some((1, refused, Times::UntilHealed)), 2),
        (0, None, 1), // it has shrunk: that is the reset
    ] {
        let case = format!("{there} {fault:?}");
        let _report = Report(&case);
        let sim = Simulated::new(1);
        sim.set_buffers(8 << 20, 8 << 20);
        sim.write_file(Path::new(FILE), &vec![b'x'; there]);
        if let Some((at, errno, times)) = fault {
            sim.fail(At::Of(Method::Sendfile, at), errno, times);
        }
        let sender = Sender { directory: None, length: there.max(1) as u64 };
        let mut world = World::on(sim, sender, Limits::default()).unwrap();
        let mut client = world.client();
        world.rest();
        let before = world.sim.count(Method::Setsockopt);
        client.send(b"file\n");
        world.pass(Duration::from_secs(1));
        assert_eq!(client.recv().len(), b"file\n".len() + there);
        assert_eq!(world.sim.count(Method::Setsockopt) - before, changes);
    }
}

/// A file costs a turn its bytes and a call, whether it is sent or read: a few small ones leave
/// much of the turn to others.
#[test]
fn small_files_go_in_one_turn() {
    for (fault, method) in [(None, Method::Sendfile), (Some(Errno::EINVAL), Method::Pread64)] {
        let mut world = world(Limits::default());
        if let Some(errno) = fault {
            world.sim.fail(At::Of(Method::Sendfile, 0), errno, Times::UntilHealed);
        }
        let mut clients: Vec<Client> = (0..12).map(|_| world.client()).collect();
        world.rest();
        clients.iter_mut().for_each(|client| _ = client.send(b"file\n"));
        world.turn();
        assert_eq!(world.sim.count(method), 12);
    }
}

/// A file that is read because it cannot be sent: an interrupted call is made again, and any other
/// failure resets the client, as it does for a file that is sent.
#[test]
fn a_read_that_fails() {
    for (errno, is_whole) in [(Errno::EINTR, true), (Errno::EIO, false)] {
        let mut world = world(Limits::default());
        world.sim.fail(At::Of(Method::Sendfile, 0), Errno::EINVAL, Times::UntilHealed);
        world.sim.fail(At::Of(Method::Pread64, 0), errno, Times::Once);
        let mut client = world.client();
        let received = world.ask(&mut client, b"file\n");
        world.pass(Duration::from_millis(10));
        client.recv();
        assert_eq!((received == due(b"file\n"), client.saw_reset()), (is_whole, !is_whole));
    }
}
