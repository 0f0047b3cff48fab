//! `chat`: who hears what, with three members and with thousands, beside slow ones
//! and rude ones; and under the simulated kernel, with everything failing in turn.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

#[cfg(feature = "sim")]
mod simulation;
mod support;

use std::thread;
use std::time::{Duration, Instant};
use support::{Client, Server, Signal, raise_descriptor_limit, show, until};

/// A member called so: it has read everything up to its own change of name.
fn member(server: &Server, name: &str) -> Client {
    let mut client = server.client();
    client.send(format!("/name {name}\n"));
    let due = format!("* you are {name}\n");
    while client.line() != due {}
    client
}

/// The next line that is not about comings and goings.
#[track_caller]
fn said(client: &mut Client) -> String {
    loop {
        let line = client.line();
        if line.is_empty() || !line.starts_with("* ") {
            return line;
        }
    }
}

// ---- who hears what --------------------------------------------------------------

#[test] // three people: who comes, what is said, who is who, who goes
fn a_dialogue() {
    let server = Server::start(&["chat"]);
    let mut anna = server.client();
    anna.expect("* you are guest1, one of 1: /name NEW, /who, /quit\n");
    let mut bob = server.client();
    bob.expect("* you are guest2, one of 2: /name NEW, /who, /quit\n");
    anna.expect("* guest2 joined\n");
    let mut carl = server.client();
    carl.expect("* you are guest3, one of 3: /name NEW, /who, /quit\n");
    for client in [&mut anna, &mut bob] {
        client.expect("* guest3 joined\n");
    }
    anna.send("/name anna\n");
    anna.expect("* you are anna\n");
    bob.expect("* guest1 is now anna\n");
    carl.expect("* guest1 is now anna\n");
    anna.send("hello\r\nwho is there?\n");
    bob.expect("anna: hello\nanna: who is there?\n");
    carl.expect("anna: hello\nanna: who is there?\n");
    carl.send("me\n");
    bob.expect("guest3: me\n");
    anna.expect("guest3: me\n"); // and not a word of her own
    bob.send("/who\n");
    bob.expect("* 3 here: anna guest2 guest3\n");
    bob.send("bye\n/quit\n");
    bob.expect_end();
    for client in [&mut anna, &mut carl] {
        client.expect("guest2: bye\n* guest2 left\n");
    }
    carl.send("last words without an end");
    carl.finish();
    carl.expect_end();
    anna.expect("guest3: last words without an end\n* guest3 left\n");
    anna.send("alone\n/who\n");
    anna.expect("* 1 here: anna\n");
}

#[test] // names are unique, short, and of letters and digits; one that was left is free
fn names() {
    let server = Server::start(&["chat"]);
    let mut anna = member(&server, "anna");
    let mut other = member(&server, "Jürgen_2-李");
    anna.expect("* guest2 joined\n* guest2 is now Jürgen_2-李\n");
    other.send("/name anna\n");
    other.expect("error: that name is taken\n");
    let long = "x".repeat(21);
    for bad in ["a:b", "*", "a/b", "\u{1b}[2J", "a\u{202e}b", "\u{3164}", "error", "\u{ff}", &long]
    {
        other.send(format!("/name {bad}\n"));
        let due = if bad == "\u{ff}" { "* you are \u{ff}\n" } else { BAD_NAME };
        other.expect(due);
    }
    for bad in ["/name", "/name a b", "/nick a", "/", "/who are you"] {
        other.send(format!("{bad}\n"));
        other.expect("error: there are /name NEW, /who and /quit\n");
    }
    anna.send("/quit\n");
    other.expect("* anna left\n");
    other.send("/name anna\n");
    other.expect("* you are anna\n");
}

const BAD_NAME: &str = "error: a name is 1 to 20 letters, digits, - or _\n";

#[test] // a line that is too long ends its member with an error; the others hear no part of it
fn a_line_too_long() {
    let server = Server::start(&["chat", "--max-line", "10"]);
    let mut anna = member(&server, "anna");
    let mut bob = member(&server, "bob");
    anna.expect("* guest2 joined\n* guest2 is now bob\n");
    anna.send("0123456789\r\n");
    bob.expect("anna: 0123456789\n");
    bob.send("before\n01234567890\nafter\n");
    bob.expect_rest("error: line longer than 10 bytes\n");
    anna.expect("bob: before\n* bob left\n");
    let mut carl = member(&server, "carl");
    anna.expect("* guest3 joined\n* guest3 is now carl\n");
    carl.send("01234567890");
    carl.expect_rest("error: line longer than 10 bytes\n");
    anna.expect("* carl left\n");
    assert_eq!(server.logs().lines().count(), 0, "{}", server.logs());
}

#[test] // whatever a member sends, what others get is printable text, whole lines, in its name
fn bad_bytes() {
    let server = Server::start(&["chat"]);
    let mut anna = member(&server, "anna");
    let mut bob = member(&server, "bob");
    anna.expect("* guest2 joined\n* guest2 is now bob\n");
    let everything: Vec<u8> = (0..=255).filter(|byte| *byte != b'\n').collect();
    for (sent, due) in [
        (&b"\x1b[2J\x07\x08\rroot: obey\x7f"[..], "[2Jroot: obey"),
        (b"caf\xe9 \x9b2J", "caf\u{fffd} \u{fffd}2J"),
        ("\u{9b}2J a\u{202e}b\u{2066}c\u{2028}d\u{200b}\u{feff}".as_bytes(), "2J abcd"),
        ("Grüße, 日本 🧵".as_bytes(), "Grüße, 日本 🧵"),
        (b"\0", ""),
        (b" * anna left", " * anna left"),
    ] {
        bob.send([sent, b"\n"].concat());
        anna.expect(format!("bob: {due}\n"));
    }
    bob.send([&everything[..], b"\nthe end\n"].concat());
    let line = anna.line();
    assert!(line.starts_with("bob: ") && line.ends_with('\n'), "{line:?}");
    assert!(!line.trim_end_matches('\n').contains(char::is_control), "{line:?}");
    anna.expect("bob: the end\n");
    bob.send(b"/\x1b[2J\n");
    bob.expect("error: there are /name NEW, /who and /quit\n");
}

#[test] // at a stop members are told, what was said before is passed on, and everybody gets FIN
fn a_stop() {
    let mut server = Server::start(&["chat"]);
    let mut members = ["a", "b", "c"].map(|name| member(&server, name));
    members[0].send("x\n".repeat(1_000));
    server.signal(Signal::SIGTERM);
    let heard = members.map(|mut member| String::from_utf8(member.rest()).unwrap());
    assert_eq!(server.wait(), Some(0), "{}", server.logs());
    for text in &heard {
        assert_eq!(text.matches("* the server stops\n").count(), 1, "{text}");
        assert!(!text.contains("left"), "{text}");
    }
    for text in &heard[1..] {
        assert_eq!(text.matches("a: x\n").count(), 1_000);
    }
}

// ---- thousands -------------------------------------------------------------------

#[test] // 2,000 members who come at once: each hears each of the others
fn two_thousand_members() {
    raise_descriptor_limit();
    let server = Server::start(&["chat"]);
    let mut members = server.clients(2_000);
    for member in &mut members {
        assert!(member.line().starts_with("* you are guest"), "no welcome");
    }
    let begin = server.cpu_ticks();
    for number in [0, 999, 1_999] {
        members[number].send(format!("this is {number}\n"));
        let due = format!(": this is {number}\n");
        for (other, member) in members.iter_mut().enumerate().filter(|&(other, _)| other != number)
        {
            let line = said(member);
            assert!(line.ends_with(&due), "{other}: {line:?}");
        }
    }
    let ticks = server.cpu_ticks() - begin;
    println!("{ticks} ticks for 6,000 lines");
    // Half of them leave at once: the others hear of it, in a few lines.
    let gone = members.split_off(1_000);
    drop(gone);
    until("everybody to be gone", || {
        members[0].send("/who\n");
        loop {
            let line = members[0].line();
            if let Some((here, _)) = line[2..].split_once(" here: ") {
                return here == "1000";
            }
        }
    });
    let before = server.cpu_ticks();
    members[0].send("still here?\n");
    for member in &mut members[1..] {
        assert_eq!(said(member), "guest1: still here?\n");
    }
    println!("{} ticks for 1,000 lines", server.cpu_ticks() - before);
}

#[test] // each of 50 members says 200 lines at once: all are heard, whole, in each one's order
fn everybody_talks_at_once() {
    const LINES: usize = 200;
    let server = Server::start(&["chat"]);
    let members: Vec<Client> = (0..50).map(|n| member(&server, &format!("m{n}"))).collect();
    let talk = |(number, mut member): (usize, Client)| {
        let lines: String = (0..LINES).map(|line| format!("{line}\n")).collect();
        member.send(lines);
        let mut next = [0; 50];
        next[number] = LINES;
        while next.iter().any(|&next| next < LINES) {
            let line = said(&mut member);
            let (name, word) = line.trim_end().split_once(": ").unwrap();
            let from: usize = name[1..].parse().unwrap();
            assert_eq!(word, next[from].to_string(), "{line:?}");
            next[from] += 1;
        }
        member // it stays until all have heard it
    };
    thread::scope(|scope| {
        let talks = members.into_iter().enumerate().map(|one| scope.spawn(move || talk(one)));
        let talks: Vec<_> = talks.collect();
        drop(talks.into_iter().map(|talk| talk.join().unwrap()).collect::<Vec<_>>());
    });
}

#[test] // three who never read: the others hear 32 MB at their own pace, and the three are cut
fn slow_members() {
    const LINE: usize = 1_000;
    const LINES: usize = 32_000;
    let mut server = Server::start(&["chat", "-v"]);
    let mut slow: Vec<Client> = (0..3).map(|n| member(&server, &format!("slow{n}"))).collect();
    let quick: Vec<Client> = (0..3).map(|n| member(&server, &format!("quick{n}"))).collect();
    let mut talker = member(&server, "talker");
    let memory = server.anonymous_bytes();
    let line = format!("{}\n", "x".repeat(LINE - 1));
    let begin = Instant::now();
    thread::scope(|scope| {
        for mut member in quick {
            scope.spawn(move || {
                let due = format!("talker: {}\n", "x".repeat(LINE - 1));
                for number in 0..LINES {
                    let line = said(&mut member);
                    assert!(line == due, "line {number}: {}", show(line.as_bytes()));
                }
            });
        }
        talker.send(line.repeat(LINES));
    });
    println!("{:?} for 3 x 32 MB", begin.elapsed());
    let grown = server.anonymous_bytes().saturating_sub(memory);
    assert!(grown < 32 << 20, "{grown} bytes for three who do not read");
    for member in &mut slow {
        member.until_reset();
    }
    assert_eq!(server.stop(), Some(0));
    assert_eq!(server.logs().matches(": output limit").count(), 3, "{}", server.logs());
}

#[test] // a talker far quicker than the others is held back, and talks nobody out of the room
fn a_quick_talker() {
    const LINES: usize = 8_000;
    let mut server = Server::start(&["chat", "--max-output", "1M", "--high-water", "64K"]);
    let listeners: Vec<Client> = (0..4).map(|n| member(&server, &format!("l{n}"))).collect();
    let mut talker = member(&server, "talker");
    thread::scope(|scope| {
        for mut member in listeners {
            scope.spawn(move || {
                for number in 0..LINES {
                    let line = said(&mut member);
                    assert!(line.starts_with("talker: "), "line {number}: {line:?}");
                    if number % 64 == 0 {
                        thread::sleep(Duration::from_millis(2)); // 32 MB/s, at most
                    }
                }
            });
        }
        talker.send(format!("{}\n", "x".repeat(999)).repeat(LINES));
    });
    assert_eq!(server.stop(), Some(0));
}

// ---- under the simulated kernel --------------------------------------------------

#[cfg(feature = "sim")]
mod simulated {
    use super::simulation::{Report, World};
    use std::time::Duration;
    use threadbare::handlers::Chat;
    use threadbare::kernel::sim::{At, Client, Method, Simulated, Times};
    use threadbare::{CloseReason, Errno, Limits, Signal};

    const TICK: Duration = Duration::from_millis(201);

    fn room(limits: Limits) -> World<Chat> {
        let sim = Simulated::new(1);
        sim.set_limits(4_096, 4_096);
        World::on(sim, Chat::new(64 << 10), limits).unwrap()
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

    /// Who lends its timer to the news may leave: another one does.
    #[test]
    fn the_teller_leaves() {
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
                let known =
                    name.is_some_and(|n| !n.is_empty() && n.chars().all(char::is_alphanumeric));
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
            assert!(
                second.ends_with("* guest1 is now anna\nanna: first\nanna: second\n"),
                "{second}"
            );
            assert!(
                third.ends_with(
                    "anna: second\nerror: that name is taken\nguest2: fifth\n* guest2 left\n"
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
}
