//! `chat`: who hears what, with three members and with thousands, beside slow ones
//! and rude ones; and under the simulated kernel, with everything failing in turn.

use crate::support::{Client, Server, Signal, raise_descriptor_limit, show, until};
use std::thread;
use std::time::{Duration, Instant};

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
    other.expect(TAKEN);
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

const BAD_NAME: &str =
    "error: a name is 1 to 20 letters, digits, - or _, of one script, few marks in a row\n";
const TAKEN: &str = "error: that name is taken, or looks like one that is\n";

#[test] // nobody is taken for somebody else, or for the server
fn names_that_look_alike() {
    let server = Server::start(&["chat"]);
    let mut anna = member(&server, "anna");
    let mut other = server.client();
    assert!(other.line().starts_with("* you are guest2"));
    anna.expect("* guest2 joined\n");
    let _three = ["paypal", "сосо", "Ian"].map(|name| member(&server, name));
    for _ in 0..6 {
        other.line(); // they come, and say who they are
    }
    for (name, answer, why) in [
        ("Anna", TAKEN, "letters are large or small"),
        ("ANNA", TAKEN, "the same"),
        ("paypaI", TAKEN, "a capital I for the l"),
        ("paypa1", TAKEN, "a one for the l"),
        ("coco", TAKEN, "Latin for Cyrillic"),
        ("lan", TAKEN, "a small l for the I"),
        ("guest2", TAKEN, "one's own"),
        ("аnna", BAD_NAME, "a Cyrillic a"),
        ("pаypal", BAD_NAME, "the same"),
        ("αnna", BAD_NAME, "a Greek one"),
        ("ａnna", BAD_NAME, "a wide one"),
        ("Error", BAD_NAME, "as the server begins its lines"),
        ("еггог", BAD_NAME, "the same, in Cyrillic"),
    ] {
        other.send(format!("/name {name}\n"));
        assert_eq!(other.line(), answer, "{why}");
    }
    // A name that was given up is free, and so is what it looks like.
    other.send("/name bob\n/name Bob\n/name Борис\n");
    other.expect("* you are bob\n* you are Bob\n* you are Борис\n");
    anna.send("/name BOB\n");
    while anna.line() != "* you are BOB\n" {}
}

#[test] // a page in a browser cannot speak for the one who looks at it
fn a_web_page_says_nothing() {
    let server = Server::start(&["chat"]);
    let mut anna = member(&server, "anna");
    for (words, rest) in [
        ("POST / HTTP/1.1\r\nHost: 127.0.0.1:1234\r\n\r\nspam\r\n/name bob\r\n", true),
        ("GET /hello HTTP/1.0\n\n", true),
        ("POST / HTTP/1.1", false),
        ("\x16\x03\x01\x02\0\x01\0\x01\u{fc}\x03\x03 TLS\0\n", true), // https
    ] {
        let mut page = server.client();
        let welcome = page.line();
        assert!(welcome.starts_with("* you are guest"), "{welcome}");
        page.send(words);
        if !rest {
            page.finish();
        }
        page.expect_rest("error: this is no web server\n");
        let guest = welcome.split([' ', ',']).nth(3).unwrap();
        anna.expect(format!("* {guest} joined\n* {guest} left\n"));
    }
    // Who has said something else before is no browser.
    let mut bob = member(&server, "bob");
    bob.send("hello\nI like HTTP/1.1\n");
    assert_eq!(said(&mut anna), "bob: hello\n");
    anna.expect("bob: I like HTTP/1.1\n");
}

#[test] // as telnet(1) does it: the interrupt, a mark that is urgent, and a question
fn ctrl_c_in_telnet() {
    let server = Server::start(&["chat"]);
    let mut anna = member(&server, "anna");
    let mut bob = member(&server, "bob");
    anna.expect("* guest2 joined\n* guest2 is now bob\n");
    bob.send(b"he\xff\xf4\xff");
    bob.send_urgent(b"\xf2");
    bob.send(b"\xff\xfd\x06");
    bob.expect(b"\xff\xfc\x06"); // telnet shows nothing before it has this
    bob.send(b"llo\r\n\xff\xfb\x1f\xff\xfa\x1f\0\x50\0\x0a\xff\xf0there\r\n");
    bob.expect(b"\xff\xfe\x1f");
    anna.expect("bob: hello\nbob: there\n");
    anna.send("well\n");
    bob.expect("anna: well\n");
}

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

#[test] // 400 of 8,000 talk at once, 320 MB in all: a stop of two seconds is over soon after (41 s once)
#[ignore = "heavy"]
fn a_stop_amid_a_crowd_that_talks() {
    raise_descriptor_limit();
    let mut server = Server::start(&["chat", "--drain-timeout", "2"]);
    let mut members = server.clients(8_000);
    server.settle();
    let before = server.cpu_ticks();
    for talker in &mut members[..400] {
        talker.send(format!("{:799}\n", "much to say"));
    }
    until("it to be passed on", || server.cpu_ticks() > before + 5);
    let begin = Instant::now();
    server.signal(Signal::SIGTERM);
    let status = server.wait();
    let took = begin.elapsed();
    println!("{took:?} from the signal to the end, status {status:?}");
    assert!(took < Duration::from_secs(12), "{took:?}");
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

#[test] // three who never read: the others hear all at the talker's rate, and the three are cut
fn slow_members() {
    const LINE: usize = 1_000;
    const LINES: usize = 1_500;
    let mut server = Server::start(&["chat", "-v", "--max-output", "512K"]);
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
    println!("{:?} for 3 x 1.5 MB", begin.elapsed());
    let grown = server.anonymous_bytes().saturating_sub(memory);
    assert!(grown < 32 << 20, "{grown} bytes for three who do not read");
    for member in &mut slow {
        member.until_reset();
    }
    assert_eq!(server.stop(), Some(0));
    assert_eq!(server.logs().matches(": output limit\n").count(), 3, "{}", server.logs());
}

#[test] // a talker far quicker than the others is held back, and talks nobody out of the room
fn a_quick_talker() {
    const LINES: usize = 1_000;
    let mut server = Server::start(&["chat", "--max-output", "128K", "--high-water", "64K"]);
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
