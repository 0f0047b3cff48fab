//! Conversations with `greet`, `once` and `echo`: what is said, cut up in every
//! way, at every pace, up to every limit, and what must come back.

use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{
    Client, STUCK, STUCK_BYTES, Scratch, Server, Signal, eventually, pattern, stuck_clients,
    thanks, until,
};

/// Waits until the server has taken what was sent before: two exchanges of another
/// client stand behind it in the server's queue of events. (One would do if the
/// sender were never a newcomer, who is accepted first.)
fn taken(pilot: &mut Client) {
    pilot.ask("are we\n");
    pilot.ask("there yet\n");
}

fn greet_answers(lines: &[&str]) -> String {
    lines.iter().map(|line| thanks(line)).collect()
}

// ---- greet, by lines -------------------------------------------------------------

#[test] // each line is answered, ended as it ended; only a CR right before the LF is an ending
fn lines_and_their_endings() {
    let server = Server::start(&["greet"]);
    let mut client = server.client();
    for line in ["hello\n", "hello\r\n", "\n", "\r\n", "a\rb\n", "a\r\r\n", " \t \n", "\r\r\n"] {
        client.ask(line);
    }
}

#[test] // bytes that are not UTF-8, NUL and control bytes come back as they are
fn lines_of_any_bytes() {
    let server = Server::start(&[]);
    let mut client = server.client();
    let line: Vec<u8> = (0..=255).filter(|byte| *byte != b'\n').chain([b'\n']).collect();
    client.send(&line);
    client.expect([b"Thank you for your message ", &line[..]].concat());
    client.send(b"\xff\xfe\0\n");
    client.expect(b"Thank you for your message \xff\xfe\0\n");
}

#[test] // a message may be split anywhere, and its parts may be as small as one byte
fn lines_split_anywhere() {
    const TEXT: &str = "first\r\n\n\r\nsecond one\nx\r\n";
    let due = greet_answers(&["first\r\n", "\n", "\r\n", "second one\n", "x\r\n"]);
    let server = Server::start(&[]);
    let mut pilot = server.client();
    for split in 0..TEXT.len() {
        let mut client = server.client();
        client.send(&TEXT[..split]);
        taken(&mut pilot);
        client.send(&TEXT[split..]);
        client.expect(&due);
    }
    let mut client = server.client();
    for byte in TEXT.bytes() {
        client.send([byte]);
        taken(&mut pilot);
    }
    client.expect(&due);
}

#[test] // what is left at the end of the input is a line, too; an empty rest is none
fn the_rest_at_the_end() {
    let server = Server::start(&[]);
    for (sent, due) in [
        ("one\nrest", greet_answers(&["one\n", "rest\n"])),
        ("rest", greet_answers(&["rest\n"])),
        ("one\n", greet_answers(&["one\n"])),
        ("one\r\n", greet_answers(&["one\r\n"])),
        ("", String::new()),
    ] {
        let mut client = server.client();
        client.send(sent);
        client.finish();
        client.expect_rest(due);
    }
}

#[test] // thousands of lines in one write are all answered, in order
fn pipelined_lines() {
    let server = Server::start(&[]);
    let client = server.client();
    let lines: Vec<String> = (0..20_000).map(|number| format!("line {number}\n")).collect();
    let due: String = lines.iter().map(|line| thanks(line)).collect();
    both_ways(client, lines.concat().into_bytes(), due.as_bytes());
}

/// Sends everything from one thread and half-closes, while another reads to the end.
fn both_ways(mut client: Client, bytes: Vec<u8>, due: &[u8]) {
    let mut writer = client.twin();
    let sending = thread::spawn(move || {
        writer.send(bytes);
        writer.finish();
    });
    client.expect_rest(due);
    sending.join().unwrap();
}

#[test] // a client that has half-closed is answered in full, then gets FIN
fn half_close() {
    let server = Server::start(&[]);
    let mut pilot = server.client();
    let mut client = server.client();
    client.send("first\nsecond\n");
    client.finish();
    taken(&mut pilot); // it may be closed by now, but nothing is lost
    client.expect_rest(greet_answers(&["first\n", "second\n"]));
}

#[test] // 65,536 empty lines, 28 times as much in answer: nothing lost, nothing spun, memory bounded
fn a_burst_of_empty_lines() {
    let server = Server::start(&[]);
    let mut client = server.client();
    let (memory, ticks) = (server.anonymous_bytes(), server.cpu_ticks());
    client.send([b'\n'; 65_536]);
    client.finish();
    server.settle(); // as far as it goes without a reader
    let grown = server.anonymous_bytes().saturating_sub(memory);
    assert!(grown < 4 << 20, "{grown} bytes for a client that does not read");
    client.expect_rest(thanks("\n").repeat(65_536));
    let spent = server.cpu_ticks() - ticks;
    assert!(spent < 100, "{spent} ticks of CPU for 65,536 lines");
}

// ---- the longest line ------------------------------------------------------------

const TOO_LONG: &str = "error: line longer than 10 bytes\n";

#[test] // the longest line is answered, however it ends and wherever it is split
fn the_longest_line() {
    let server = Server::start(&["--max-line", "10"]);
    let mut pilot = server.client();
    let mut client = server.client();
    for split in 0..=11 {
        let line = "0123456789\r\n";
        client.send(&line[..split]);
        taken(&mut pilot);
        client.send(&line[split..]);
        client.expect(thanks(line));
    }
    client.ask("0123456789\n");
    client.send("0123456789");
    client.finish();
    client.expect_rest(thanks("0123456789\n"));
}

#[test] // one byte more: the answers so far, the error, FIN; nothing after it is answered
fn one_byte_more() {
    let server = Server::start(&["--max-line", "10"]);
    let mut pilot = server.client();
    let so_far = greet_answers(&["one\n", "two\r\n"]);
    for tail in [
        "0123456789x\n",
        "0123456789x",
        "0123456789x\r\n",
        "0123456789\rx\n",
        "0123456789\r\r\nafter\n",
    ] {
        let mut client = server.client();
        client.send(format!("one\ntwo\r\n{tail}"));
        client.expect_rest(format!("{so_far}{TOO_LONG}"));

        let mut client = server.client();
        client.send("one\ntwo\r\n");
        for byte in tail.bytes() {
            client.send([byte]);
            taken(&mut pilot);
        }
        client.expect_rest(format!("{so_far}{TOO_LONG}"));
    }
}

#[test] // the error of a line without end reaches a client that goes on sending, and no reset before it
fn too_long_while_sending() {
    let server = Server::start(&["--max-line", "10"]);
    for _ in 0..10 {
        let mut client = server.client();
        let mut writer = client.twin();
        let sending = thread::spawn(move || {
            // The server may hang up once it has shown its patience.
            let _ = writer.try_send(format!("one\n{}", "x".repeat(4 << 20)));
        });
        client.expect_rest(thanks("one\n") + TOO_LONG);
        sending.join().unwrap();
    }
}

#[test] // the error waits for a client that sends hundreds of kilobytes more before it reads
fn too_long_then_read() {
    let server = Server::start(&["--max-line", "10"]);
    let mut client = server.client();
    client.send("one\n");
    client.send("x".repeat(900_000));
    client.finish();
    client.expect_rest(thanks("one\n") + TOO_LONG);
}

#[test] // the default limit is 64 KiB exactly
fn the_default_limit() {
    let server = Server::start(&[]);
    let longest = "y".repeat(65_536);
    let mut client = server.client();
    client.ask(&format!("{longest}\r\n"));
    client.send(format!("{longest}y\n"));
    client.expect_rest("error: line longer than 65536 bytes\n");
}

// ---- greet, by chunks ------------------------------------------------------------

#[test] // chunk framing answers what one recv returned, with nothing added
fn chunks() {
    let server = Server::start(&["--framing", "chunk"]);
    let mut client = server.client();
    for chunk in ["hello", "with\nlines\r\nin it", "\n", "x"] {
        client.ask(chunk);
    }
    client.send(b"\0\xff");
    client.expect(b"Thank you for your message \0\xff");
    client.finish();
    client.expect_end();
}

// ---- once ------------------------------------------------------------------------

/// `once` ends with status 0, and has printed nothing but its ready line and this.
fn assert_once(mut server: Server, message: &str) {
    assert_eq!(server.wait(), Some(0), "{}", server.logs());
    let ready = format!("listening on {}\n", server.addresses[0]);
    assert_eq!(server.stdout(), format!("{ready}The message was: {message}\n"));
}

#[test] // once: the first message is printed and answered, others get FIN, status 0
fn once() {
    let server = Server::start(&["once"]);
    let mut others = server.clients(2);
    others[0].send("part");
    let mut client = server.client();
    client.send("hel");
    client.send("lo\nmore\n");
    client.expect_rest("Good talking to you\n");
    others.iter_mut().for_each(Client::expect_end);
    drop(others);
    drop(client);
    assert_once(server, "hello");
}

#[test] // once: a client that leaves without a message is waited past; a rest at the end is a message
fn once_waits_past_those_who_leave() {
    let server = Server::start(&["once"]);
    drop(server.client());
    let mut silent = server.client();
    silent.finish();
    silent.expect_end();
    let mut gone = server.client();
    gone.send("half a mess");
    gone.reset();
    let mut client = server.client();
    client.send("the rest");
    client.finish();
    client.expect_rest("Good talking to you\n");
    drop(client);
    assert_once(server, "the rest");
}

#[test] // once prints everything but printable UTF-8 escaped
fn once_escapes() {
    let server = Server::start(&["once"]);
    let mut client = server.client();
    client.send(b"caf\xc3\xa9 \x1b[31m\0\r\t\x7f \xff \xc2\x9b \xe2\x80\xae \xf0\x9f\x91\x8b\n");
    client.expect_rest("Good talking to you\n");
    let due = "café \\x1b[31m\\x00\\x0d\\x09\\x7f \\xff \\xc2\\x9b \\xe2\\x80\\xae 👋";
    drop(client);
    assert_once(server, due);
}

#[test] // once by chunks: whatever comes first is the message
fn once_by_chunks() {
    let server = Server::start(&["once", "--framing", "chunk"]);
    let mut client = server.client();
    client.send("no line");
    client.expect_rest("Good talking to you\n");
    drop(client);
    assert_once(server, "no line");
}

#[test] // once, stopped before a message: status 1
fn once_without_a_message() {
    let mut server = Server::start(&["once"]);
    let mut client = server.client();
    client.send("no line yet");
    server.signal(Signal::SIGTERM);
    client.expect_end();
    drop(client);
    assert_eq!(server.wait(), Some(1));
    assert!(!server.stdout().contains("message"), "{}", server.stdout());
}

#[test] // once, its client gone before the answer: the message counts all the same
fn once_with_a_client_that_resets() {
    let server = Server::start(&["once"]);
    server.freeze();
    let mut client = server.client();
    client.send("bye\n");
    client.reset();
    server.thaw();
    assert_once(server, "bye");
}

// ---- echo ------------------------------------------------------------------------

#[test] // echo gives back each byte as it comes, and at the end all it owes, then FIN
fn echo() {
    let server = Server::start(&["echo"]);
    let mut client = server.client();
    for bytes in [&b"x"[..], b"\n", b"\0\xff\r\n", &pattern(100_000)] {
        client.send(bytes);
        client.expect(bytes);
    }
    client.send("the end");
    client.finish();
    client.expect_rest("the end");
}

#[test] // 64 MiB both ways at once come back byte for byte
fn echo_64_mebibytes() {
    let server = Server::start(&["echo"]);
    let bytes = pattern(64 << 20);
    both_ways(server.client(), bytes.clone(), &bytes);
}

#[test] // a slow reader gets every byte, and costs bounded memory meanwhile
fn echo_to_a_slow_reader() {
    let server = Server::start(&["echo"]);
    let memory = server.anonymous_bytes();
    let bytes = pattern(16 << 20);
    let mut client = server.client();
    let mut writer = client.twin();
    let sent = bytes.clone();
    let sending = thread::spawn(move || {
        writer.send(sent);
        writer.finish();
    });
    for piece in bytes.chunks(1 << 20) {
        server.settle(); // all stands still: nobody reads
        let grown = server.anonymous_bytes().saturating_sub(memory);
        assert!(grown < 2 << 20, "{grown} bytes more");
        client.expect(piece);
    }
    client.expect_end();
    sending.join().unwrap();
}

#[test] // connections do not get each other's bytes
fn echo_keeps_connections_apart() {
    let server = Server::start(&["echo"]);
    let talk = |number: usize| {
        let mut client = server.client();
        for round in 0..200 {
            let text = format!("client {number} round {round} {}\n", "-".repeat(number * 37));
            client.send(&text);
            client.expect(&text);
        }
    };
    let talk = &talk;
    thread::scope(|scope| (0..20).for_each(|number| drop(scope.spawn(move || talk(number)))));
}

// ---- deadlines -------------------------------------------------------------------

const SECOND: Duration = Duration::from_secs(1);

/// Seconds until the server's FIN, which must not come before `least`.
fn ends_after(client: &mut Client, begin: Instant, least: f64) {
    client.rest();
    let seconds = begin.elapsed().as_secs_f64();
    assert!(seconds >= least, "FIN after {seconds} s instead of {least} s");
}

#[test] // idle: FIN when no byte came for that long, never early
fn idle_timeout() {
    let server = Server::start(&["--idle-timeout", "0.5"]);
    let begin = Instant::now();
    ends_after(&mut server.client(), begin, 0.5);
    let mut client = server.client();
    client.ask("hello\n");
    let begin = Instant::now();
    client.ask("again\n");
    ends_after(&mut client, begin, 0.5);
}

#[test] // idle: a client that says something now and then stays
fn idle_timeout_of_the_busy() {
    let server = Server::start(&["--idle-timeout", "1.5"]);
    let mut client = server.client();
    for _ in 0..12 {
        client.ask("hello\n");
        thread::sleep(SECOND / 4);
    }
    client.ask("still here\n");
}

#[test] // message: one byte now and then does not extend it
fn message_timeout() {
    let server = Server::start(&["--message-timeout", "0.8", "--idle-timeout", "0"]);
    let mut client = server.client();
    let mut writer = client.twin();
    let begin = Instant::now();
    let dribbling = thread::spawn(move || {
        let bytes = (0..300).map(|_| writer.try_send("x")).take_while(Result::is_ok);
        bytes.for_each(|_| thread::sleep(SECOND / 10)); // for half a minute, if it may
    });
    ends_after(&mut client, begin, 0.8);
    let seconds = begin.elapsed().as_secs_f64();
    assert!(seconds < 10.0, "a message of one byte now and then lasted {seconds} s");
    drop(client);
    drop(server);
    dribbling.join().unwrap();
}

#[test] // message: every whole message starts it anew
fn message_timeout_of_the_steady() {
    let server = Server::start(&["--message-timeout", "1.5"]);
    let mut client = server.client();
    client.send("par");
    for _ in 0..12 {
        thread::sleep(SECOND / 4);
        client.send("t\npar");
        client.expect(thanks("part\n"));
    }
}

#[test] // message: a quiet client that owes no rest of a message is left alone
fn message_timeout_of_the_quiet() {
    let server = Server::start(&["--message-timeout", "0.3"]);
    let mut client = server.client();
    client.ask("whole\n");
    client.expect_silence(SECOND);
    client.ask("whole\n");
}

#[test] // write: a reader that never reads is reset, whatever it has been sent
fn write_timeout() {
    let server = Server::start(&[&STUCK[..], &["--write-timeout", "0.5"]].concat());
    let baseline = server.descriptors();
    let mut clients = stuck_clients(&server, 2);
    until("the connections to be closed", || server.descriptors() == baseline);
    for client in &mut clients {
        assert!(client.until_reset().len() < STUCK_BYTES);
    }
}

#[test] // write: a slow reader is left alone
fn write_timeout_of_the_slow() {
    let server = Server::start(&["echo", "--write-timeout", "1"]);
    let mut slow = server.client();
    let mut writer = slow.twin();
    let bytes = pattern(8 << 20);
    let sent = bytes.clone();
    let sending = thread::spawn(move || writer.send(sent));
    for piece in bytes.chunks(1 << 20) {
        thread::sleep(SECOND / 4);
        slow.expect(piece);
    }
    sending.join().unwrap();
}

#[test] // 0 turns a timeout off
fn no_timeouts() {
    let options = ["--idle-timeout", "0", "--message-timeout", "0", "--write-timeout", "0"];
    let server = Server::start(&options);
    let mut client = server.client();
    client.send("par");
    client.expect_silence(SECOND);
    client.send("t\n");
    client.expect(thanks("part\n"));
}

// ---- limits ----------------------------------------------------------------------

#[test] // --max-per-ip: one too many is closed at once, another address and Unix sockets are not
fn max_per_address() {
    let scratch = Scratch::new();
    let server =
        Server::start(&["--max-per-ip", "2", "-l", "127.0.0.1:0", "-l", &scratch.unix("s")]);
    let mut clients = server.clients(2);
    clients.iter_mut().for_each(|client| client.ask("in\n"));
    server.client().expect_end();
    Client::from(Ipv4Addr::new(127, 0, 0, 2), &server.addresses[0]).ask("other\n");
    let mut locals: Vec<Client> = (0..4).map(|_| Client::to(&server.addresses[1])).collect();
    locals.iter_mut().for_each(|client| client.ask("unix\n"));
    clients.iter_mut().for_each(|client| client.ask("still in\n"));
    clients.pop();
    let mut next = eventually("room again", || {
        let mut client = server.client();
        client.try_send("again\n").ok()?;
        (client.some(100).ok()? == thanks("again\n").as_bytes()).then_some(client)
    });
    next.ask("in\n");
}

#[test] // full: the next client waits at no cost, and is served when another leaves
fn max_connections() {
    let server = Server::start(&["--max-connections", "2", "--give-way", "0"]);
    let mut clients = server.clients(2);
    clients.iter_mut().for_each(|client| client.ask("in\n"));
    let mut next = server.client();
    next.send("waiting\n");
    server.settle();
    let (ticks, switches) = server.spends(SECOND);
    assert!(ticks == 0 && switches <= 2, "{ticks} ticks, {switches} switches while full");
    next.expect_silence(SECOND / 100);
    clients.iter_mut().for_each(|client| client.ask("undisturbed\n"));
    clients.pop();
    next.expect(thanks("waiting\n"));
}

#[test] // full: of many that wait nobody is lost
fn nobody_is_lost_while_full() {
    let server = Server::start(&["--max-connections", "2"]);
    let mut clients = server.clients(60);
    clients.iter_mut().for_each(|client| client.send("patience\n"));
    for mut client in clients {
        client.expect(thanks("patience\n"));
    }
    server.client().ask("and one more\n");
}

#[test] // a page in a browser cannot end it, nor say anything for the one who looks at it
fn once_is_no_web_server() {
    for framing in ["line", "chunk"] {
        let mut server = Server::start(&["once", "--framing", framing]);
        for page in [
            "POST / HTTP/1.1\r\nHost: a\r\n\r\nx=1\r\n",
            "GET /\u{2f} HTTP/1.0\n",
            "\x16\x03\x01\x02\0\x01\0\x01\u{fc}\x03\x03 TLS\0\n", // https: as a browser begins
        ] {
            let mut client = server.client();
            client.send(page);
            client.expect_rest("error: this is no web server\n");
        }
        let mut client = server.client();
        client.send("hello\n");
        client.expect_rest("Good talking to you\n");
        assert_eq!(server.wait(), Some(0));
        assert!(server.stdout().contains("The message was: hello"), "{}", server.stdout());
    }
}
