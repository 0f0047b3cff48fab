//! `chat` under the simulated kernel: exact counts, members that are cut off, and everything
//! failing in turn.

use crate::simulation::{Report, World};
use std::time::Duration;
use threadbare::handlers::Chat;
use threadbare::kernel::sim::{At, Client, Method, Simulated, Times};
use threadbare::{CloseReason, Errno, Limits, Signal};

const TICK: Duration = Duration::from_millis(201);

fn room(limits: Limits) -> World<Chat> {
    let sim = Simulated::new(1);
    sim.set_limits(4_096, 4_096);
    World::on(sim, Chat::new(64 << 10).rate(u64::MAX, 0), limits).unwrap()
}

/// Members who have heard all there was.
fn members(world: &mut World<Chat>, count: usize) -> Vec<Client> {
    let mut members: Vec<Client> = (0..count).map(|_| world.client()).collect();
    world.pass(10 * TICK);
    members.iter_mut().for_each(|member| drop(member.recv()));
    members
}

fn text(member: &mut Client) -> String {
    String::from_utf8(member.recv()).unwrap()
}

/// Many lines at once are one send a member, and the bytes are the same for all.
#[test]
fn a_broadcast_is_one_send_each() {
    let mut world = room(Limits::default());
    let mut members = members(&mut world, 500);
    let sends = world.sim.count(Method::Send);
    members[0].send(b"one\ntwo\nthree\n");
    world.rest();
    assert_eq!(world.sim.count(Method::Send) - sends, 499);
    assert_eq!(text(&mut members[0]), "");
    for member in &mut members[1..] {
        assert_eq!(text(member), "guest1: one\nguest1: two\nguest1: three\n");
    }
    world.stop();
}

/// A crowd that comes and goes is told of in a few lines, by name in a small room.
#[test]
fn news_of_a_crowd() {
    let mut world = room(Limits::default());
    let mut first = members(&mut world, 1).remove(0);
    let few: Vec<Client> = (0..5).map(|_| world.client()).collect();
    world.rest();
    let joined = |n: usize| format!("* guest{n} joined\n");
    assert_eq!(text(&mut first), (2..7).map(joined).collect::<String>());
    let sends = world.sim.count(Method::Send);
    let many: Vec<Client> = (0..1_000).map(|_| world.client()).collect();
    world.pass(10 * TICK);
    let sends = world.sim.count(Method::Send) - sends;
    assert!(sends < 6_000, "{sends} sends for 1,000 who came");
    let news = text(&mut first);
    assert!(news.ends_with(" came or left, 1006 are here\n"), "{news}");
    assert!(news.starts_with(&joined(7)) && news.len() < 2_000, "{news}");
    drop((few, many));
    world.pass(10 * TICK);
    assert!(text(&mut first).ends_with(" are here\n"));
    first.send(b"/who\n");
    world.rest();
    assert_eq!(text(&mut first), "* 1 here: guest1\n");
    let waits = world.sim.count(Method::EpollWait);
    world.pass(Duration::from_secs(200));
    let waits = world.sim.count(Method::EpollWait) - waits;
    assert!(waits <= 2, "{waits} wake-ups without news");
    world.stop();
}

/// Those who leave in one turn are told together, whoever they are: the first who came, too.
#[test]
fn half_the_room_leaves() {
    let mut world = room(Limits::default());
    let mut all = members(&mut world, 1_200);
    drop(all.drain(..600)); // the first to go is told at once, to 1,199; the others wait
    world.rest();
    let news = text(&mut all[0]);
    assert!(news.ends_with(" left\n") && news.lines().count() == 1, "{news}");
    world.pass(3 * TICK);
    assert_eq!(text(&mut all[0]), "* 599 came or left, 600 are here\n");
    all[599].send(b"hello\n");
    world.rest();
    assert_eq!(text(&mut all[0]), "guest1200: hello\n");
    world.stop();
}

/// A talker waits for one who does not read, for a tick; then the talk goes on, and
/// the deaf one is cut at its output limit.
#[test]
fn who_is_behind_is_waited_for_but_not_long() {
    let limits = Limits { high_water: 64 << 10, max_output: 1 << 20, ..Limits::default() };
    let mut world = room(limits);
    let mut all = members(&mut world, 3);
    let (heads, rest) = all.split_at_mut(2);
    let [talker, reader] = heads else { panic!() };
    let deaf = &mut rest[0];
    let line = [&[b'x'; 999][..], b"\n"].concat();
    let (mut sent, mut heard, mut waits, mut cut) = (0, 0, 0, false);
    while !cut {
        assert!(heard < 4 << 20, "a member that does not read was not cut");
        sent += talker.send(&line.repeat(64)[sent % 1_000..]);
        world.rest();
        let more = text(reader);
        if more.is_empty() {
            waits += 1;
            assert_eq!(waits, 1, "the talk stopped again after {heard} bytes");
            world.pass(TICK);
        }
        heard += more.len();
        cut = more.contains("* guest3 left (output limit)\n");
    }
    deaf.recv();
    assert!(deaf.saw_reset() && waits == 1);
    let summary = world.stop();
    assert_eq!(summary.counters.closed_for(CloseReason::OutputLimit), 1, "{summary}");
}

/// A talker without a rate got one who reads 1 MB a second cut off in 0.6 s.
#[test]
fn a_fast_talker_is_paused_and_cuts_nobody_off() {
    let mut world = World::on(Simulated::new(1), Chat::new(64 << 10), Limits::default()).unwrap();
    let mut all = members(&mut world, 2);
    let line = [&[b'x'; 999][..], b"\n"].concat();
    let (mut sent, mut heard, begin) = (0, 0, world.sim.now());
    while world.sim.now() - begin < 20_000_000_000 {
        sent += all[0].send(&line.repeat(64)[sent % 1_000..]);
        world.pass(Duration::from_millis(10));
        heard += all[1].recv_at_most(10_000).len();
        assert!(!all[1].saw_eof() && !all[1].saw_reset(), "cut off after {heard} bytes");
    }
    let due = (512 << 10) + 20 * (256 << 10);
    assert!((due * 9 / 10..=due + 60_000).contains(&heard), "{heard} bytes of {due}");
    assert!(!all[0].saw_eof() && !all[0].saw_reset());
    world.stop();
}

/// Who catches up in time is waited for every time, and hears everything.
#[test]
fn who_catches_up_is_waited_for() {
    let limits = Limits { high_water: 64 << 10, max_output: 128 << 10, ..Limits::default() };
    let mut world = room(limits);
    let mut all = members(&mut world, 2);
    let line = [&[b'x'; 999][..], b"\n"].concat();
    let (mut sent, mut heard) = (0, 0);
    let all_sent = 4_000 * line.len();
    for _ in 0..10_000 {
        if sent < all_sent {
            sent += all[0].send(&line.repeat(64)[sent % 1_000..64_000.min(all_sent - sent)]);
        }
        world.pass(Duration::from_millis(1));
        heard += all[1].recv_at_most(50_000).len();
    }
    assert_eq!(heard, 4_000 * (line.len() + "guest1: ".len()));
    world.stop();
}

/// Half of the room does not read, and fills the memory: it is they who are cut, and the
/// others hear everything.
#[test]
fn the_deaf_do_not_exhaust_the_others() {
    for max_memory in [8 << 20, 16 << 20] {
        deaf_half(max_memory);
    }
}

fn deaf_half(max_memory: usize) {
    let mut world = room(Limits { max_memory, ..Limits::default() });
    let mut all = members(&mut world, 100);
    let (readers, deaf) = all.split_at_mut(50);
    let all_said = [&[b'x'; 199][..], b"\n"].concat().repeat(20_000);
    let due = 20_000 * ("guest1: ".len() + 200);
    let (mut sent, mut heard, begin) = (0, vec![0; 50], world.sim.now());
    while heard[1..].iter().any(|&heard| heard < due) {
        sent += readers[0].send(&all_said[sent..]);
        world.pass(Duration::from_millis(10));
        for (reader, heard) in readers.iter_mut().zip(&mut heard) {
            let lines = text(reader);
            let talk = lines.split_inclusive('\n').filter(|line| !line.starts_with("* "));
            *heard += talk.map(str::len).sum::<usize>();
            assert!(!reader.saw_eof() && !reader.saw_reset());
        }
        assert!(world.sim.now() - begin < 10_000_000_000, "the deaf hold up the others");
    }
    assert_eq!(heard[1..], [due; 49]);
    deaf.iter_mut().for_each(|deaf| drop(deaf.recv()));
    let cut = deaf.iter().filter(|deaf| deaf.saw_reset()).count() as u64;
    let summary = world.stop();
    assert_eq!(summary.counters.closed_for(CloseReason::MemoryBudget), cut, "{summary}");
    assert!(cut > 0, "{summary}");
}

/// Everything a member may send, at random, in random pieces: what the others hear are
/// whole lines of printable text, each in a member's name or the server's.
#[test]
fn random_bytes() {
    const PIECES: [&[u8]; 16] = [
        b"hello",
        b"\n",
        b"\r\n",
        b"/name ",
        b"anna",
        b"/who\n",
        b"\x1b[2J",
        b"\xff",
        b"\xe2\x80",
        b"\xae",
        b"* ",
        b": ",
        b"/",
        b"\0\t\r",
        "日本\u{202e}".as_bytes(),
        b"\n/name b\n",
    ];
    let mut lines = 0;
    for seed in 0..200 {
        let mut world = room(Limits::default());
        let mut all = members(&mut world, 3);
        let mut state = seed;
        let mut random = |below: usize| {
            state = u64::wrapping_add(u64::wrapping_mul(state, 6_364_136_223_846_793_005), 1);
            (state >> 33) as usize % below
        };
        let mut heard = String::new();
        for _ in 0..100 {
            all[random(2)].send(PIECES[random(16)]);
            world.rest();
            heard += &text(&mut all[2]);
        }
        for line in heard.split_terminator('\n') {
            let ours = line.starts_with("* ");
            let name = line.split_once(": ").map(|(name, _)| name);
            let known = name.is_some_and(|n| !n.is_empty() && n.chars().all(char::is_alphanumeric));
            assert!(ours || known, "seed {seed}: {line:?}");
            assert!(!line.contains(|c: char| c.is_control() || c == '\u{202e}'), "{line:?}");
            lines += 1;
        }
        assert!(heard.is_empty() || heard.ends_with('\n'));
        world.stop();
    }
    println!("{lines} lines");
    assert!(lines > 2_000, "only {lines} lines");
}

/// A conversation with everything in it; what each of three heard.
fn conversation(world: &mut World<Chat>) -> [String; 3] {
    let mut heard = [const { String::new() }; 3];
    let mut members: Vec<Client> =
        (0..3).filter_map(|_| world.sim.connect(&world.address()).ok()).collect();
    let mut say = |world: &mut World<Chat>, members: &mut [Client], who: usize, what: &str| {
        world.pass(Duration::from_secs(3)); // no pause after a failure is longer
        if let Some(member) = members.get_mut(who) {
            match what {
                "" => member.shutdown(),
                what => drop(member.send(what.as_bytes())),
            }
        }
        world.pass(Duration::from_secs(3));
        for (member, heard) in members.iter_mut().zip(&mut heard) {
            *heard += &String::from_utf8_lossy(&member.recv());
        }
    };
    say(world, &mut members, 0, "/name anna\nfirst\nsec");
    say(world, &mut members, 1, "third\n");
    say(world, &mut members, 0, "ond\n/who\n");
    say(world, &mut members, 2, "/name anna\n\x1bfourth");
    say(world, &mut members, 1, "fifth\n/quit\n");
    say(world, &mut members, 2, "");
    say(world, &mut members, 0, "sixth\n");
    heard
}

/// Each call of the conversation fails in turn: what is heard are the right lines, in
/// order, once; and the server stops and leaves nothing behind.
#[test]
fn every_call_fails_in_turn() {
    let errnos = [
        Errno::EINTR,
        Errno::EAGAIN,
        Errno::ENOMEM,
        Errno::EMFILE,
        Errno::ECONNRESET,
        Errno::EPIPE,
        Errno::ENOBUFS,
        Errno::ETIMEDOUT,
    ];
    let calls = {
        let mut world = room(Limits::default());
        let [anna, second, third] = conversation(&mut world);
        assert!(anna.ends_with("guest2: third\n* 3 here: anna guest2 guest3\nguest2: fifth\n* guest2 left\nguest3: fourth\n* guest3 left\n"), "{anna}");
        assert!(second.ends_with("* guest1 is now anna\nanna: first\nanna: second\n"), "{second}");
        assert!(
            third.ends_with(
                "anna: second\nerror: that name is taken, or looks like one that is\nguest2: fifth\n* guest2 left\n"
            ),
            "{third}"
        );
        let sim = world.sim.clone();
        world.stop();
        sim.calls()
    };
    let mut cases = 0;
    for index in 0..calls {
        for errno in errnos {
            for times in [Times::Once, Times::Burst(3)] {
                let sim = Simulated::new(index);
                sim.fail(At::Call(index), errno, times);
                cases += 1;
                let case = format!("call {index} {errno:?} {times:?}");
                let _report = Report(&case);
                let limits = Limits::default();
                let Ok(mut world) = World::on(sim.clone(), Chat::new(1_000), limits) else {
                    assert_eq!(sim.descriptors(), 0, "{case}: a failed start leaks");
                    continue;
                };
                for (who, heard) in conversation(&mut world).iter().enumerate() {
                    assert_in_order(&case, who, heard);
                }
                sim.heal();
                if world.running {
                    sim.signal(Signal::SIGTERM);
                    world.pass(Duration::from_secs(3_600));
                    assert!(!world.running, "{case}: it did not stop");
                }
                drop(world);
                assert_eq!(sim.descriptors(), 0, "{case}: a leak\n{:?}", sim.trace());
            }
        }
    }
    println!("{cases} cases");
    assert!(cases > 1_000, "only {cases} cases");
}

/// Whole lines, of those that were said, by others, each once and in order.
fn assert_in_order(case: &str, who: usize, heard: &str) {
    const SAID: [(usize, &str); 6] =
        [(0, "first"), (1, "third"), (0, "second"), (1, "fifth"), (2, "fourth"), (0, "sixth")];
    let mut said = SAID.iter();
    for line in heard.split_inclusive('\n') {
        if line.starts_with("* ") || line.starts_with("error: ") || !line.ends_with('\n') {
            continue; // the end of one who was cut off
        }
        let words = line.trim_end().split_once(": ").map(|(_, words)| words);
        let by = said.find(|(_, said)| Some(*said) == words).map(|(by, _)| *by);
        assert!(by.is_some_and(|by| by != who), "{case}: {who} heard {line:?} in {heard:?}");
    }
}
