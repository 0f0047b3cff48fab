//! Crowds, hostile clients, full tables and repeated stops. The heaviest cuts are
//! `#[ignore]`d: `cargo test -- --include-ignored` runs them as well.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::attacks::{Attack, PATIENT, POLITE, Victim};
use crate::support::{
    Client, Scratch, Server, Signal, in_a_network_of_its_own, needs, pattern, quiet_port,
    raise_descriptor_limit, thanks, until,
};

const SECOND: Duration = Duration::from_secs(1);

/// Clients that are accepted and answered, all of them.
fn crowd(server: &Server, count: usize) -> Vec<Client> {
    let mut clients = server.clients(count);
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(format!("number {number}\n"));
    }
    for (number, client) in clients.iter_mut().enumerate() {
        client.expect(thanks(&format!("number {number}\n")));
    }
    clients
}

// ---- crowds ----------------------------------------------------------------------

#[test] // 5,000 simultaneous connections on one thread (and one for the log), each answered with its own words
fn five_thousand_connections() {
    raise_descriptor_limit();
    let server = Server::start(&[]);
    let baseline = server.descriptors();
    let mut clients = crowd(&server, 5000);
    assert_eq!(server.threads(), 2);
    assert_eq!(server.descriptors(), baseline + 5000);
    clients.iter_mut().for_each(|client| client.ask("again\n"));
    drop(clients);
    until("every descriptor to be closed", || server.descriptors() == baseline);
}

/// Idle means idle: nothing is spent in two seconds.
fn assert_idle(server: &Server) {
    server.settle();
    let (ticks, switches) = server.spends(2 * SECOND);
    assert!(ticks == 0 && switches <= 4, "{ticks} ticks, {switches} switches in 2 s");
}

#[test] // idle with nobody there: no CPU, no wake-ups
fn idle_alone() {
    let server = Server::start(&[]);
    assert_idle(&server);
    server.client().ask("hello\n");
    assert_idle(&server);
}

#[test] // 10,000 idle connections: no CPU, no wake-ups, less than 200 bytes and a session each
fn ten_thousand_idle_connections() {
    raise_descriptor_limit();
    let server = Server::start(&[]);
    server.client().ask("warm up\n");
    server.settle();
    let before = server.anonymous_bytes();
    let mut clients = crowd(&server, 10_000);
    assert_idle(&server);
    let each = server.anonymous_bytes().saturating_sub(before) / 10_000;
    assert!(each < 200 + 32, "{each} bytes per idle connection");
    clients.iter_mut().step_by(100).for_each(|client| client.ask("again\n"));
}

#[test] // memory and descriptors come back after a crowd has left, again and again
fn nothing_leaks() {
    raise_descriptor_limit();
    let server = Server::start(&[]);
    let baseline = server.descriptors();
    let mut memory = 0;
    for round in 0..6 {
        crowd(&server, 1000);
        until("every descriptor to be closed", || server.descriptors() == baseline);
        if round == 1 {
            memory = server.anonymous_bytes();
        }
    }
    let grown = server.anonymous_bytes().saturating_sub(memory);
    assert!(grown < 256 << 10, "{grown} bytes more after 4 more rounds");
}

#[test] // thousands of short connections, some at the same time, each wholly answered
fn short_connections() {
    let server = Server::start(&[]);
    let baseline = server.descriptors();
    let talk = || {
        for round in 0..500 {
            let mut client = server.client();
            client.send(format!("round {round}"));
            client.finish();
            client.expect_rest(thanks(&format!("round {round}\n")));
        }
    };
    thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(talk))));
    until("every descriptor to be closed", || server.descriptors() == baseline);
}

// ---- hostile clients -------------------------------------------------------------

#[test] // a reader that never reads does not slow down the 20 beside it
fn a_reader_that_never_reads() {
    let server = Server::start(&["echo"]);
    let mut hog = server.client();
    let sent = hog.stuff(&pattern(65_536), 64 << 20);
    let mut clients = server.clients(20);
    let mut slowest = Duration::ZERO;
    for _ in 0..50 {
        for client in &mut clients {
            let begin = Instant::now();
            client.send("quick\n");
            client.expect("quick\n");
            slowest = slowest.max(begin.elapsed());
        }
    }
    assert!(slowest < SECOND, "an answer took {slowest:?}");
    server.settle();
    hog.finish();
    let due = pattern(65_536).repeat(sent / 65_536 + 1);
    hog.expect_rest(&due[..sent]); // and it gets every byte after all
}

#[test] // one greedy client that sends and reads without pause starves nobody
fn a_greedy_client() {
    let server = Server::start(&["echo"]);
    let (mut greedy, done) = (server.client(), AtomicBool::new(false));
    let mut writer = greedy.twin();
    let sending = || {
        while !done.load(Ordering::Relaxed) {
            writer.send([7; 65_536]);
        }
        writer.finish();
    };
    thread::scope(|scope| {
        scope.spawn(sending);
        scope.spawn(|| while !greedy.some(1 << 20).unwrap().is_empty() {});
        let mut clients = server.clients(20);
        for _ in 0..10 {
            for client in &mut clients {
                let begin = Instant::now();
                client.send("quick\n");
                client.expect("quick\n");
                assert!(begin.elapsed() < 2 * SECOND, "an answer took {:?}", begin.elapsed());
            }
        }
        done.store(true, Ordering::Relaxed);
    });
}

/// What a client may do before it resets.
type Stage = (&'static str, fn(&Server) -> Client);

const STAGES: [Stage; 6] = [
    ("before a byte", |server| server.client()),
    ("amid a line", |server| {
        let mut client = server.client();
        client.send("half a li");
        client
    }),
    ("before it reads the answer", |server| {
        let mut client = server.client();
        client.send("question\n");
        client
    }),
    ("after the answer", |server| {
        let mut client = server.client();
        client.ask("question\n");
        client
    }),
    ("amid a big answer", |server| {
        let mut client = server.client();
        client.send([b'\n'; 30_000]);
        client.expect(thanks("\n"));
        client
    }),
    ("while the server lingers", |server| {
        let mut client = server.client();
        client.send([b'x'; 200]);
        client.expect_rest("error: line longer than 100 bytes\n");
        client
    }),
];

#[test] // a reset at each stage ends that connection only, and leaves nothing open
fn resets() {
    let server = Server::start(&["--max-line", "100"]);
    let mut witness = server.client();
    witness.ask("begin\n");
    let baseline = server.descriptors();
    for (stage, act) in STAGES {
        for _ in 0..5 {
            act(&server).reset();
            witness.ask("still here\n");
        }
        until(stage, || server.descriptors() == baseline);

        server.freeze();
        let frozen = act_frozen(&server, stage);
        frozen.into_iter().for_each(Client::reset);
        server.thaw();
        witness.ask("still here\n");
        until(stage, || server.descriptors() == baseline);
    }
    assert_idle(&server);
}

/// The stages that need no answer, while the server is stopped: all of it, the
/// connection, the bytes and the reset, waits in the queue.
fn act_frozen(server: &Server, stage: &str) -> Vec<Client> {
    let silent = &STAGES[..3];
    silent.iter().filter(|(name, _)| *name == stage).map(|(_, act)| act(server)).collect()
}

#[test] // stopped, three messages queued, another client resets, continued: all are answered
fn stop_and_continue() {
    let mut server = Server::start(&[]);
    let mut clients = server.clients(3);
    clients.iter_mut().for_each(|client| client.ask("before\n"));
    let baseline = server.descriptors();
    for _ in 0..10 {
        server.freeze();
        clients[0].send("one\ntwo\n");
        clients[0].send("three\n");
        clients[1].send("gone\n");
        clients.swap_remove(1).reset();
        clients.push(server.client());
        server.thaw();
        clients[0].expect(thanks("one\n") + &thanks("two\n") + &thanks("three\n"));
        clients.iter_mut().for_each(|client| client.ask("after\n"));
    }
    assert_eq!(server.descriptors(), baseline);
    drop(clients);
    assert_eq!(server.stop(), Some(0));
}

// ---- stops and restarts ----------------------------------------------------------

/// One round: clients talk without pause, SIGTERM comes after a number of answers.
/// Each request is answered in full, or the connection ends with FIN and no part of
/// an answer; status 0.
fn stop_under_load(after: usize) {
    let scratch = Scratch::new();
    let mut server = Server::start(&["-l", "127.0.0.1:0", "-l", &scratch.unix("s")]);
    let answers = AtomicUsize::new(0);
    let talk = |address: &str, messages: usize| {
        // A client that cannot connect any more has found the door closed: the end.
        while let Ok(mut client) = Client::at_once_to(address) {
            for round in 0..messages {
                let line = format!("round {round}\n");
                match client.try_send(&line).and_then(|()| client.try_line()) {
                    Ok(end) if end.is_empty() => return,
                    Ok(answer) => assert_eq!(answer, thanks(&line)),
                    Err(error) => panic!("{address}, round {round}: {error}"),
                }
                answers.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    let talk = &talk;
    thread::scope(|scope| {
        for (number, address) in server.addresses.iter().cycle().take(16).enumerate() {
            scope.spawn(move || talk(address, [1, 1, 1, 1, 3, 3][number % 6]));
        }
        until("answers", || answers.load(Ordering::Relaxed) >= after);
        server.signal(Signal::SIGTERM);
    });
    assert_eq!(server.wait(), Some(0), "{}", server.logs());
}

#[test] // SIGTERM under load: nothing is lost, nobody is reset
fn sigterm_under_load() {
    (0..20).for_each(|round| stop_under_load(round * 37));
}

#[test]
#[ignore = "heavy"] // the same, 200 times
fn sigterm_under_load_200() {
    let every_other = |first| (first..200).step_by(2).for_each(|round| stop_under_load(round * 13));
    thread::scope(|scope| {
        (0..2).for_each(|first| drop(scope.spawn(move || every_other(first))));
    });
}

/// Kills it with open connections and starts it at once on the same port.
fn kill_and_restart(cycles: usize) {
    let address = format!("127.0.0.1:{}", quiet_port());
    let mut clients = Vec::new();
    for _ in 0..cycles {
        let mut server = Server::start(&["-l", &address]);
        clients = server.clients(5);
        clients.iter_mut().for_each(|client| client.ask("hello\n"));
        clients[0].send("unread");
        server.signal(Signal::SIGKILL);
        assert_eq!(server.wait(), None);
    }
    drop(clients);
}

#[test] // after kill -9 the port can be bound at once, whatever the old connections do
fn kill_and_restart_on_one_port() {
    kill_and_restart(50);
}

#[test] // and after a clean stop, with the server's end in TIME_WAIT
fn stop_and_restart_on_one_port() {
    let address = format!("127.0.0.1:{}", quiet_port());
    for _ in 0..10 {
        let mut server = Server::start(&["-l", &address]);
        let mut client = server.client();
        client.ask("hello\n");
        server.signal(Signal::SIGTERM);
        client.expect_end();
        drop(client);
        assert_eq!(server.wait(), Some(0));
    }
}

// ---- full tables and full memory -------------------------------------------------

#[test] // EMFILE while it runs: a log line an episode, no spin, nobody lost; healed, all are served
fn out_of_descriptors() {
    let server = Server::start(&[]);
    let mut first = server.client();
    first.ask("in\n");
    let told = || server.logs().matches("EMFILE").count();
    for episode in 1..=3 {
        let open = server.descriptors();
        server.limit_descriptors(open + 3);
        let mut clients = server.clients(8);
        clients.iter_mut().for_each(|client| client.send("let me in\n"));
        clients[..3].iter_mut().for_each(|client| client.expect(thanks("let me in\n")));
        until("a word in the log", || told() > 0);
        let (ticks, _) = server.spends(2 * SECOND);
        assert!(ticks <= 4, "{ticks} ticks in 2 s");
        first.ask("undisturbed\n");
        for _ in 0..2 {
            drop(clients.remove(0)); // one leaves, one comes in, and it is full again
            clients[2].expect(thanks("let me in\n"));
        }
        server.limit_descriptors(1000);
        clients[3..].iter_mut().for_each(|client| client.expect(thanks("let me in\n")));
        drop(clients);
        until("every descriptor to be closed", || server.descriptors() == open);
        assert!(told() <= episode, "episode {episode}: {}", server.logs());
    }
}

/// Clients that send and never read cannot push the server's memory beyond its
/// limit, while quiet clients beside them are served; at the end it all comes back.
fn memory_holds(handler: &str, count: usize, limit: u64) {
    if !needs(&["ss"]) {
        return;
    }
    raise_descriptor_limit();
    let options = ["--max-memory", &limit.to_string(), "--write-timeout", "0"];
    let mut server = Server::start(&[&[handler], &options[..]].concat());
    let baseline = server.descriptors();
    let mut quiet = server.clients(100);
    let mut hogs = server.clients(count);
    let before = server.anonymous_bytes();
    let most = AtomicUsize::new(0);
    let look = |server: &Server| {
        let now = usize::try_from(server.anonymous_bytes().saturating_sub(before)).unwrap();
        most.fetch_max(now, Ordering::Relaxed);
    };
    let bytes = vec![b'\n'; 65_536];
    thread::scope(|scope| {
        for hogs in hogs.chunks_mut(count.div_ceil(100)) {
            let bytes = &bytes;
            scope.spawn(move || {
                hogs.iter_mut().for_each(|hog| drop(hog.try_to_stuff(bytes, 2 << 20)))
            });
        }
        for round in 0..20 {
            for client in &mut quiet {
                let line = format!("round {round}\n");
                client.send(&line);
                client.expect(if handler == "echo" { line } else { thanks(&line) });
            }
            look(&server);
        }
    });
    server.settle();
    look(&server);
    let most = most.into_inner() as u64;
    let slack = (4 << 20) + limit / 8; // tables, and what the allocator loses between blocks
    assert!(most < limit + slack, "{most} bytes, limit {limit}");
    assert!(most > limit / 4, "{most} bytes: the clients did not even come near {limit}");
    let parked = server.parked_bytes();
    let each = parked / count as u64;
    println!(
        "{handler}: {count} clients that do not read: {most} bytes here, {each} each in the kernel"
    );
    // Where nothing bounds it (TCP_NOTSENT_LOWAT does), it is megabytes.
    assert!((1..1 << 20).contains(&each), "the kernel parks {each} bytes for each");
    drop((quiet, hogs));
    until("every descriptor to be closed", || server.descriptors() == baseline);
    server.settle();
    let left = server.anonymous_bytes().saturating_sub(before);
    assert!(left < slack, "of {most} bytes {left} stay when all have left");
    assert_eq!(server.stop(), Some(0));
    let logs = server.logs(); // those who do not read are held back, not cut off
    assert!(!logs.contains("memory budget"), "{logs}");
}

#[test] // --max-memory holds against an echo to those who do not read
fn memory_limit_of_echo() {
    memory_holds("echo", 200, 16 << 20);
}

#[test] // --max-memory holds against answers 28 times as long as the questions
fn memory_limit_of_greet() {
    memory_holds("greet", 200, 16 << 20);
}

#[test]
#[ignore = "heavy"] // the same with 1,000 clients and 64 MiB
fn memory_limit_of_echo_1000() {
    memory_holds("echo", 1000, 64 << 20);
}

#[test]
#[ignore = "heavy"] // the same with 1,000 clients and 64 MiB
fn memory_limit_of_greet_1000() {
    memory_holds("greet", 1000, 64 << 20);
}

/// Half lines that grow by little, from so many clients that they fill the memory: the process
/// takes no more than a tenth above its limit, and gives it back when they have left.
fn half_lines_grow(count: usize, limit: u64) {
    raise_descriptor_limit();
    let options = ["--max-memory", &limit.to_string(), "--message-timeout", "0"];
    let mut server = Server::start(&[&["greet"], &options[..]].concat());
    let mut clients = server.clients(count);
    server.settle();
    let before = server.anonymous_bytes();
    let (mut most, mut sent) = (0, 0);
    for round in 0_usize.. {
        for (number, client) in clients.iter_mut().enumerate() {
            let length = 1 + (number * 7_919 + round * 104_729) % 4_000;
            sent += client.try_to_stuff(&vec![b'x'; length], length).unwrap_or(0) as u64;
        }
        server.settle();
        most = most.max(server.anonymous_bytes().saturating_sub(before));
        if sent > 2 * limit || round > 200 {
            break;
        }
    }
    assert!(most > limit / 2, "{most} bytes: the clients did not even come near {limit}");
    assert!(most < limit + limit / 10, "{most} bytes, limit {limit}");
    clients.into_iter().for_each(Client::reset);
    server.settle();
    let left = || server.anonymous_bytes().saturating_sub(before);
    until("memory to be given back", || left() < limit / 10);
    assert_eq!(server.stop(), Some(0));
}

#[test] // --max-memory is the memory that half lines take which grow by a few bytes
fn memory_limit_of_half_lines() {
    half_lines_grow(500, 16 << 20);
}

#[test]
#[ignore = "heavy"] // the same with 2,000 clients and 64 MiB
fn memory_limit_of_half_lines_64m() {
    half_lines_grow(2_000, 64 << 20);
}

/// One of the [attacks], at 64 MiB: the memory of the process stays within 1.1 of the number, and
/// comes back when all have left; polite clients of another address get their longest line
/// through, and so do `own` of those of the attackers' own.
fn withstands(test: &str, name: &str, own: usize) {
    // Thousands of clients of each need the ports of a machine.
    in_a_network_of_its_own(&format!("endurance::{test}"), "", || suffer(name, own));
}

fn suffer(name: &str, own: usize) {
    raise_descriptor_limit();
    let attack = Attack::called(name);
    let max_memory = attack.limits[0];
    let limit = max_memory.to_string();
    let words = [attack.words, &PATIENT[..], &["--max-memory", &limit]].concat();
    let server = Server::start(&words);
    let address = server.addresses[0].parse().unwrap();
    let log = || server.logs();
    let victim = Victim { pid: server.pid(), address, max_memory, log: &log };
    let greets = attack.words[0] == "greet";
    let damage = attack.run(&victim, greets).unwrap();
    println!("{name}: {damage:?}");
    let limit = max_memory as u64;
    assert!(damage.peak > limit / 2, "this is no attack: {damage:?}");
    assert!(damage.peak <= limit + limit / 10, "{damage:?}");
    assert!(damage.left <= limit / 10, "{damage:?}");
    if greets {
        let [others, same] = damage.polite;
        assert!(others == POLITE && same >= own, "{damage:?}");
    }
}

#[test]
#[ignore = "heavy"] // 9,000 half lines that grow by a byte
fn attack_of_half_lines() {
    withstands("attack_of_half_lines", "half lines, growing by a byte", POLITE);
}

#[test]
#[ignore = "heavy"] // 9,000 short ones, in 8 MiB
fn attack_of_short_half_lines() {
    withstands("attack_of_short_half_lines", "half lines of 1 KB", POLITE);
}

#[test]
#[ignore = "heavy"] // 9,000 long ones: polite lines of their own address were cut, 18 of 20
fn attack_of_long_half_lines() {
    withstands("attack_of_long_half_lines", "half lines of 32 KB", POLITE);
}

#[test]
#[ignore = "heavy"] // 2,000 clients that do not read: their memory stayed while they were read out
fn attack_of_the_deaf() {
    withstands("attack_of_the_deaf", "deaf", POLITE);
}

#[test]
#[ignore = "heavy"] // half lines, deaf clients, and some that come and go
fn attack_of_a_mixture() {
    withstands("attack_of_a_mixture", "a mixture", POLITE);
}

#[test]
#[ignore = "heavy"] // pipelined requests whose answers nobody reads
fn attack_of_requests() {
    withstands("attack_of_requests", "requests, answers unread", 0);
}

#[test]
#[ignore = "heavy"] // 100,000 connections one after the other over TCP and Unix sockets: nothing is left
fn a_hundred_thousand_connections() {
    let scratch = Scratch::new();
    let server = Server::start(&["-l", "127.0.0.1:0", "-l", &scratch.unix("s")]);
    let baseline = server.descriptors();
    let before = server.anonymous_bytes();
    let talk = |worker: usize| {
        for round in 0..25_000 {
            let mut client = Client::to(&server.addresses[(worker + round) % 2]);
            client.ask("hello\n");
            if round % 3 == 0 {
                client.reset(); // keeps the ports from running out, too
            } else {
                client.finish();
                client.expect_end();
            }
        }
    };
    let talk = &talk;
    thread::scope(|scope| (0..4).for_each(|worker| drop(scope.spawn(move || talk(worker)))));
    until("every descriptor to be closed", || server.descriptors() == baseline);
    let grown = server.anonymous_bytes().saturating_sub(before);
    assert!(grown < 1 << 20, "{grown} bytes more");
}
