//! The HTTP handler under the simulated kernel: the table cut in two at every place, every
//! errno of the calls for a file, and deadlines to the millisecond. (Requests that nobody
//! would think of are made up by tests/fuzz.)

use crate::http_table::{Fact, LAST, answers, cases, facts};
use crate::simulation::journal::errnos;
use crate::simulation::{Report, World};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use threadbare::handlers::Http;
use threadbare::kernel::sim::{At, Client, Method, Short, Simulated, Times};
use threadbare::{CloseReason, Errno, Limits, Signal};

type Www = World<Http>;

fn www() -> Www {
    serve(Http::new())
}

fn serve(http: Http) -> Www {
    serve_as(http.serve("/srv/www"))
}

fn serve_as(http: Http) -> Www {
    let sim = Simulated::new(1);
    sim.advance(Duration::from_secs(100)); // the dates of files are not those of no date
    for (name, content) in [
        ("index.html", &b"index\n"[..]),
        ("sub/index.html", b"sub\n"),
        ("bare/other", b""),
        ("ü b.txt", b"umlaut\n"),
        ("odd/index.html/x", b""),
        ("page.xhtml", b"<html/>"),
        ("feed.xml", b"<feed/>"),
        ("empty.txt", b""),
        (".env", b"secret\n"),
        (".well-known/x", b"known\n"),
        ("big.bin", &[b'x'; 100_000]),
    ] {
        sim.write_file(&Path::new("/srv/www").join(name), content);
    }
    let limits = Limits { message_timeout: None, ..Limits::default() };
    World::on(sim, http, limits).unwrap()
}

/// Everything that is answered until nothing comes any more.
fn listen(world: &mut Www, client: &mut Client) -> Vec<u8> {
    let mut said = Vec::new();
    loop {
        world.rest();
        let some = client.recv();
        if some.is_empty() {
            return said;
        }
        said.extend(some);
    }
}

/// Sends pieces, and lets the server look at each; everything that is answered.
fn ask<'a>(world: &mut Www, pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<u8>, Client) {
    let mut client = world.client();
    let mut said = Vec::new();
    for piece in pieces {
        client.send(piece);
        said.extend(listen(world, &mut client));
    }
    (said, client)
}

fn statuses(said: &[u8], request: &[u8]) -> Vec<u16> {
    answers(said, request).iter().map(|(status, _)| *status).collect()
}

/// The same bytes get the same answers, wherever they are cut.
fn cut_everywhere(step: usize) {
    let mut world = www();
    let (mut count, mut places) = (0, 0);
    for case in cases() {
        let shown = String::from_utf8_lossy(&case.request).into_owned();
        let _report = Report(&shown);
        let bytes = [&case.request, LAST.as_bytes()].concat();
        let (whole, client) = ask(&mut world, [&bytes[..]]);
        assert_eq!(statuses(&whole, &bytes), case.due);
        assert!(client.saw_eof());
        let step = if bytes.len() > 1_000 { 1_009 } else { step };
        for at in (1..bytes.len()).step_by(step) {
            let (first, second) = bytes.split_at(at);
            let (said, _) = ask(&mut world, [first, second]);
            assert!(said == whole, "cut at {at}");
            places += 1;
        }
        count += 1;
    }
    println!("{count} cases cut at {places} places");
    assert!(count >= 150 && places >= 10_000 / step, "{count} cases, {places} places");
    world.stop();
}

#[test]
fn the_table_cut_in_two() {
    cut_everywhere(7);
}

#[test]
#[ignore = "5 s; `make check` runs it"]
fn the_table_cut_in_two_at_every_place() {
    cut_everywhere(1);
}

/// Whatever fails on the way to a file is a status or a reset, never a wrong answer; and
/// nothing stays open.
#[test]
fn every_errno_on_the_way_to_a_file() {
    let mut count = 0;
    for path in ["/", "/big.bin", "/sub"] {
        for method in [Method::Openat2, Method::Fstat, Method::Pread64, Method::Sendfile] {
            for &errno in errnos(method) {
                for times in [Times::Once, Times::Burst(20)] {
                    let case = format!("{path} {method:?} {errno:?} {times:?}");
                    let _report = Report(&case);
                    let mut world = www();
                    let before = world.sim.descriptors();
                    let at = world.sim.count(method);
                    world.sim.fail(At::Of(method, at), errno, times);
                    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n{LAST}");
                    let (mut said, mut client) = ask(&mut world, [request.as_bytes()]);
                    world.pass(Duration::from_secs(60));
                    said.extend(client.recv());
                    if client.saw_eof() && errno != Errno::EPIPE && errno != Errno::ECONNRESET {
                        let statuses = statuses(&said, b"");
                        let first = [200, 301, 403, 404, 500, 503].contains(&statuses[0]);
                        assert!(first && statuses.len() == 2, "{statuses:?}");
                    }
                    client.close();
                    world.rest();
                    assert_eq!(world.sim.descriptors(), before);
                    count += 1;
                }
            }
        }
    }
    println!("{count} cases");
    assert!(count >= 250, "{count} cases");
}

/// What llhttp, the HTTP Garden and nginx's tests say to a request is what we say, or
/// docs/http.md explains the difference.
#[test]
fn foreign_facts() {
    let page = include_str!("../../docs/http.md");
    let mut world = www();
    let mut wrong = Vec::new();
    let mut told: BTreeSet<&str> = BTreeSet::new();
    for Fact { case, source, theirs, why } in facts() {
        let bytes = [&case.request, LAST.as_bytes()].concat();
        let (said, _) = ask(&mut world, [&bytes[..]]);
        let ours = statuses(&said, &bytes);
        let first = *ours.iter().find(|&&status| status != 100).expect("an answer");
        let is_bad = matches!(first, 400 | 411 | 413 | 414 | 417 | 431 | 505)
            || first == 501 && ours.len() == 1;
        let is_same = match theirs {
            "ok" => !is_bad,
            "bad" => is_bad,
            status => status.parse() == Ok(first),
        };
        if ours != case.due || is_same != why.is_none() {
            let due = &case.due;
            let shown = case.request.escape_ascii();
            wrong.push(format!("{source}: {theirs}, {ours:?}, not {due:?}, {why:?}\t{shown}"));
        }
        told.extend(why);
    }
    world.stop();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let explained = page.lines().filter_map(|line| line.strip_prefix("| **")?.split_once("** |"));
    assert_eq!(told, explained.map(|(name, _)| name).collect());
    for (repository, least) in [("nodejs/llhttp", 100), ("narf", 76), ("nginx/nginx-tests", 60)] {
        let count = facts().iter().filter(|fact| fact.source.starts_with(repository)).count();
        println!("{repository}: {count} facts");
        assert!(count >= least, "{repository}: {count} facts");
    }
}

/// A head that broke off was looked at again only if a line had ended: whoever sent a wrong
/// version in two pieces, and no more, was told something else than who sent it in one.
#[test]
fn what_is_wrong_at_the_end() {
    let wrong = [
        (&["GET / HTTP/1.1\r\nHost: @"][..], 400),
        (&["GET / HTTP/1.1\r\nHo", "st: @"], 400),
        (&["GET / HTTP/1.2"], 400), // which might have become a request
        (&["GET / HTTP", "/1.2"], 400),
        // Blank, but not as lines are: it was an answer, or none.
        (&["\n\r\r"], 400),
        (&["\n", "\r", "\r"], 400),
    ];
    for (pieces, status) in wrong {
        let mut world = www();
        let (mut said, mut client) = ask(&mut world, pieces.iter().map(|piece| piece.as_bytes()));
        client.shutdown();
        said.extend(listen(&mut world, &mut client));
        assert_eq!(statuses(&said, b""), [status]);
        world.stop();
    }
}

/// The validators change with the content: the size and the times were all that the tag was made
/// of, so a file of the same size in the place of another, with its date, had its tag. A tag
/// within the tick of a change is weak.
#[test]
fn validators_change_with_the_content() {
    fn tag(world: &mut Www) -> String {
        let (said, _) = ask(world, [&b"GET /page.xhtml HTTP/1.0\r\n\r\n"[..]]);
        let said = String::from_utf8(said).unwrap();
        said.lines().find_map(|line| line.strip_prefix("ETag: ")).expect("a tag").to_owned()
    }
    let mut world = www();
    let path = Path::new("/srv/www/page.xhtml");
    world.pass(Duration::from_secs(1));
    let first = tag(&mut world);
    assert!(first.starts_with('"'), "{first}");
    assert_eq!(tag(&mut world), first);
    world.sim.write_file(path, b"<body/>");
    let second = tag(&mut world);
    let weak = second.strip_prefix("W/").expect("a weak tag");
    assert_ne!(weak, first);
    world.pass(Duration::from_secs(1));
    assert_eq!(tag(&mut world), weak);
    let get = |tag: &str| {
        format!(
            "GET /page.xhtml HTTP/1.1\r\nHost: x\r\nIf-None-Match: \"other\"\r\nIf-None-Match: {tag}\r\n\r\n{LAST}"
        )
    };
    for (tag, due) in [(weak, 304), (&second, 304), (&first, 200)] {
        let (said, _) = ask(&mut world, [get(tag).as_bytes()]);
        assert_eq!(statuses(&said, b""), [due, 404], "{tag}");
    }
}

/// A file that is asked for a second time stays open until the second is over, and what
/// becomes of it meanwhile is seen at once.
#[test]
fn a_file_that_is_asked_for_again() {
    let mut world = www();
    world.pass(Duration::from_secs(1));
    let mut client = world.client();
    world.rest();
    let before = world.sim.descriptors();
    let get = |world: &mut Www, client: &mut Client, name: &str| {
        client.send(format!("GET /{name} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
        listen(world, client)
    };
    let opened = world.sim.count(Method::Openat2);
    for _ in 0..5 {
        assert!(get(&mut world, &mut client, "page.xhtml").ends_with(b"\r\n\r\n<html/>"));
        assert!(get(&mut world, &mut client, "big.bin").ends_with(b"xxx"));
    }
    assert_eq!(world.sim.count(Method::Openat2), opened + 4);
    assert_eq!(world.sim.descriptors(), before + 2);
    world.sim.write_file(Path::new("/srv/www/page.xhtml"), b"<body/>!");
    assert!(get(&mut world, &mut client, "page.xhtml").ends_with(b"\r\n\r\n<body/>!"));
    for name in 0..100 {
        get(&mut world, &mut client, &format!("big.bin?{name}")); // the same path
    }
    for name in (0..20).map(|name| format!("{name}.txt")) {
        world.sim.write_file(&Path::new("/srv/www").join(&name), b"some");
    }
    world.pass(Duration::from_millis(900)); // what has just changed is not kept
    for _ in 0..3 {
        for name in 0..20 {
            get(&mut world, &mut client, &format!("{name}.txt"));
        }
        assert!(world.sim.descriptors() <= before + 8);
    }
    assert_eq!(world.sim.descriptors(), before + 8);
    world.pass(Duration::from_secs(1)); // and nobody asks for anything
    assert_eq!(world.sim.descriptors(), before);
    let turns = world.sim.count(Method::EpollWait);
    world.pass(Duration::from_secs(30));
    assert_eq!(world.sim.count(Method::EpollWait), turns);
}

/// The files that are kept open are among the descriptors that are planned: each place may be
/// taken, each client may download a file of its own, and still 8 are kept.
#[test]
fn kept_files_are_planned_for() {
    let sim = Simulated::new(1);
    sim.set_limits(64, 64);
    for number in 0..20 {
        let path = format!("/srv/www/{number}.bin");
        sim.write_file(Path::new(&path), &vec![b'x'; 4 << 20]);
        sim.write_file(Path::new(&format!("/srv/www/{number}.txt")), b"some");
    }
    sim.advance(Duration::from_secs(100));
    let limits = Limits::default();
    let mut world = World::on(sim, Http::new().serve("/srv/www"), limits).unwrap();
    let mut clients: Vec<_> = (0..20).map(|_| world.client()).collect();
    world.rest();
    let before = world.sim.descriptors();
    let get = |name: &str| format!("GET /{name} HTTP/1.1\r\nHost: x\r\n\r\n").into_bytes();
    for name in (0..20).map(|number| format!("{number}.txt")) {
        for _ in 0..2 {
            clients[0].send(&get(&name));
            assert!(listen(&mut world, &mut clients[0]).ends_with(b"\r\nsome"));
        }
    }
    assert_eq!(world.sim.descriptors(), before + 8);
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(&get(&format!("{number}.bin")));
        world.rest();
        assert!(client.recv().starts_with(b"HTTP/1.1 200"), "{number}");
    }
    assert_eq!(world.sim.descriptors(), before + 8 + 20);
}

/// A date of 0 or 1 is none: no Last-Modified, and no condition on it.
#[test]
fn a_file_of_no_date() {
    let sim = Simulated::new(1);
    sim.write_file(Path::new("/srv/www/index.html"), b"index\n");
    let http = Http::new().serve("/srv/www");
    let mut world = World::on(sim, http, Limits::default()).unwrap();
    world.pass(Duration::from_secs(1));
    let since = "If-Modified-Since: Fri, 31 Dec 2100 23:59:59 GMT";
    let request = format!("GET / HTTP/1.1\r\nHost: x\r\n{since}\r\n\r\n{LAST}");
    let (said, _) = ask(&mut world, [request.as_bytes()]);
    assert_eq!(statuses(&said, b""), [200, 404]);
    let said = String::from_utf8(said).unwrap();
    assert!(said.contains("\r\nETag: ") && !said.contains("Last-Modified"), "{said}");
}

/// The access log has what was sent, not what was meant to be: of a client that leaves in the
/// middle of a file, the bytes that the kernel took.
#[test]
fn the_log_has_what_was_sent() {
    let lines: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = Arc::clone(&lines);
    let mut world =
        serve(Http::new().access_log(move |line| log.lock().unwrap().push(line.into())));
    let tails = || -> Vec<String> {
        let lines = lines.lock().unwrap();
        lines.iter().map(|line| line.rsplit_once("\" ").unwrap().1.to_owned()).collect()
    };
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    let mut client = world.client();
    client.send(
        (get("/") + &get("/nothing") + &get("/big.bin") + "HEAD /big.bin HTTP/1.0\r\n\r\n")
            .as_bytes(),
    );
    listen(&mut world, &mut client);
    assert_eq!(tails(), ["200 6", "404 14", "200 100000", "200 0"]);
    world.sim.set_buffers(10_000, 10_000);
    let mut client = world.client();
    client.send(get("/big.bin").as_bytes());
    world.rest();
    let some = client.recv();
    world.rest();
    assert_eq!(tails().len(), 4); // it is still being sent
    let head = some.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
    client.reset();
    world.rest();
    let last = tails().pop().unwrap();
    let sent: usize = last.strip_prefix("200 ").expect("a line").parse().unwrap();
    // Of what the kernel took, the client has seen all but two buffers at most.
    assert!((some.len() - head..=some.len() - head + 20_000).contains(&sent), "{sent}");
    assert_eq!(tails().len(), 5);
    world.stop();
}

/// A client that is gone gets no answer to what it had sent before: the log had these answers as
/// sent, 4 MB of them in a trial.
#[test]
fn an_answer_to_nobody_is_no_bytes() {
    let lines: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = Arc::clone(&lines);
    let mut world =
        serve(Http::new().access_log(move |line| log.lock().unwrap().push(line.into())));
    world.sim.set_buffers(10_000, 10_000);
    let mut client = world.client();
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    client.send((get("/big.bin") + &get("/") + &get("/big.bin") + &get("/nothing")).as_bytes());
    world.rest();
    client.reset();
    world.rest();
    let lines = lines.lock().unwrap();
    let tails: Vec<_> = lines.iter().map(|line| line.rsplit_once("\" ").unwrap().1).collect();
    let of_nobody: Vec<_> = tails.iter().filter(|tail| tail.ends_with(" 0")).collect();
    assert_eq!(of_nobody, [&"200 0", &"200 0", &"404 0"], "{tails:?}");
    assert_eq!(tails.len(), 4);
    drop(lines);
    world.stop();
}

/// The line of the log of an answer that is being sent counts as memory, until the answer is over.
#[test]
fn a_line_that_waits_for_its_answer_is_counted() {
    let mut world = serve(Http::new().access_log(|_| {}));
    world.sim.set_buffers(10_000, 10_000);
    let mut client = world.client();
    let path = "x".repeat(800);
    client.send(format!("GET /big.bin?{path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
    world.rest();
    assert!(world.server.memory().0 > path.len(), "{:?}", world.server.memory());
    while !client.recv().is_empty() {
        world.rest();
    }
    assert!(!client.saw_eof());
    assert_eq!(world.server.memory().0, 0);
    world.stop();
}

#[test]
fn out_of_descriptors_is_for_now() {
    for errno in [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM] {
        let mut world = www();
        let at = world.sim.count(Method::Openat2);
        world.sim.fail(At::Of(Method::Openat2, at), errno, Times::Once);
        let request = format!("GET / HTTP/1.1\r\nHost: x\r\n\r\n{LAST}");
        let (said, _) = ask(&mut world, [request.as_bytes()]);
        assert_eq!(statuses(&said, b""), [503, 404]);
        assert!(String::from_utf8(said).unwrap().contains("\r\nRetry-After: 1\r\n"));
        world.stop();
    }
}

/// The deadline of a head begins with its first byte and ends with its last, that of a body
/// likewise; none runs between requests, or while the client does not take its answers.
#[test]
fn deadlines() {
    let second = Duration::from_secs(1);
    let head = b"GET /big.bin HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n";
    let mut world = www();
    let mut client = world.client();
    world.pass(100 * second); // no deadline before the first byte
    for byte in &head[..15] {
        client.send(&[*byte]);
        world.pass(second);
    }
    client.send(&head[15..]);
    for _ in 0..18 {
        world.pass(second);
        assert_eq!(client.send(b"x"), 1);
    }
    assert_eq!(listen(&mut world, &mut client), b"");
    client.send(b"xx");
    assert_eq!(statuses(&listen(&mut world, &mut client), b""), [200]);
    world.pass(100 * second); // none between requests
    client.send(b"G");
    world.pass(19 * second);
    assert_eq!(client.recv(), b"");
    world.pass(2 * second);
    assert_eq!(statuses(&client.recv(), b""), [408]);
    assert!(client.saw_eof());

    world.sim.set_buffers(1_000, 1_000);
    let mut slow = world.client();
    slow.send(b"GET /big.bin HTTP/1.1\r\nHost: x\r\n\r\nGET / HT");
    let mut said = Vec::new();
    while said.len() < 100_000 {
        world.pass(second); // 100 s in all
        said.extend(slow.recv());
    }
    said.extend(listen(&mut world, &mut slow));
    slow.send(b"TP/1.0\r\n\r\n");
    said.extend(listen(&mut world, &mut slow));
    assert_eq!(statuses(&said, b""), [200, 200]);
    assert_eq!(world.stop().counters.closed_for(CloseReason::Handler), 2);
}

/// However little the kernel moves at once.
#[test]
fn short_transfers() {
    for short in [Short::AtMost(5), Short::Random] {
        let mut world = www();
        world.sim.shorten(short);
        let request = format!(
            "GET / HTTP/1.1\r\nHost: x\r\n\r\nGET /big.bin HTTP/1.1\r\nHost: x\r\nRange: bytes=0-39999\r\n\r\n{LAST}"
        );
        let (said, _) = ask(&mut world, [request.as_bytes()]);
        assert_eq!(statuses(&said, b""), [200, 206, 404]);
        world.stop();
    }
}

/// In a stop an answer says that it is the last, unless more requests have come with this one;
/// and a body that is on its way behind its head is heard, if it is a client's first.
#[test]
fn a_stop_says_so() {
    let get = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    for http in [Http::new(), Http::new().serve("/srv/www")] {
        let mut world = serve_as(http);
        let (mut pipelined, mut newcomer) = (world.client(), world.client());
        let (mut in_pieces, mut answered) = (world.client(), world.client());
        answered.send(get);
        let before = listen(&mut world, &mut answered);
        assert!(!before.windows(17).any(|it| it == b"Connection: close"));
        world.sim.signal(Signal::SIGTERM);
        assert_eq!(listen(&mut world, &mut answered), b"");
        assert!(answered.saw_eof());
        pipelined.send(&get.repeat(3));
        let said = listen(&mut world, &mut pipelined);
        assert_eq!(statuses(&said, &get.repeat(3)), [200, 200, 200]);
        let text = String::from_utf8(said).unwrap();
        let (before, last) = text.rsplit_once("HTTP/1.1").unwrap();
        assert!(!before.contains("Connection: close") && last.contains("Connection: close"));
        assert!(pipelined.saw_eof());
        newcomer.send(get);
        let said = String::from_utf8(listen(&mut world, &mut newcomer)).unwrap();
        assert!(said.contains("Connection: close") && newcomer.saw_eof(), "{said}");
        in_pieces.send(&get[..10]);
        world.pass(Duration::from_millis(500));
        in_pieces.send(&get[10..]);
        assert_eq!(statuses(&listen(&mut world, &mut in_pieces), get), [200]);
        drop((pipelined, newcomer, in_pieces, answered));
        assert_eq!(world.end().cut, 0);
    }
}

/// A client whose body is on its way when the server stops, perhaps because it was told to go on,
/// is answered: as the request deserves if the body is whole in time, and with 503 if not.
#[test]
fn a_stop_waits_for_a_body() {
    const SECOND: Duration = Duration::from_secs(1);
    let head = b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n";
    let plain = String::from_utf8(head.to_vec()).unwrap().replace("Expect", "X");
    for head in [&head[..], plain.as_bytes()] {
        for (has_been_answered, is_late) in [(false, false), (true, false), (false, true)] {
            let mut world = www();
            let (mut client, mut second) = (world.client(), world.client());
            if has_been_answered {
                client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
                listen(&mut world, &mut client);
            }
            client.send(head);
            let said = listen(&mut world, &mut client);
            assert_eq!(said.starts_with(b"HTTP/1.1 100 "), head.len() != plain.len());
            client.send(b"12345");
            world.rest();
            world.sim.signal(Signal::SIGTERM);
            world.rest();
            second.send(head); // the stop has begun
            world.pass(6 * SECOND);
            let said = [client.recv(), second.recv()].concat();
            assert!(!client.saw_eof() && !second.saw_eof(), "{}", said.escape_ascii());
            if is_late {
                world.pass(2 * SECOND);
            } else {
                client.send(b"67890");
                second.send(b"1234567890");
            }
            for client in [&mut client, &mut second] {
                let said = String::from_utf8(listen(&mut world, client)).unwrap();
                let due = if is_late { "HTTP/1.1 503 " } else { "HTTP/1.1 200 " };
                assert!(said.starts_with(due) && said.contains("Connection: close"), "{said}");
                assert_eq!(said.contains("Retry-After: 1"), is_late);
                assert!(client.saw_eof());
            }
            drop((client, second));
            assert_eq!(world.end().cut, 0);
        }
    }
}

/// A stop has patience with bodies, and with nobody else: a download goes on, and nothing is added.
#[test]
fn a_stop_amid_a_download() {
    let mut world = www();
    world.sim.set_buffers(1_000, 1_000);
    let mut client = world.client();
    client.send(b"GET /big.bin HTTP/1.1\r\nHost: a\r\n\r\n");
    world.rest();
    world.sim.signal(Signal::SIGTERM);
    world.pass(Duration::from_secs(9));
    let said = listen(&mut world, &mut client);
    assert!(said.ends_with(&[b'x'; 100_000]) && client.saw_eof());
    drop(client);
    assert_eq!(world.end().cut, 0);
}

/// A file that has shrunk cannot be sent whole: its answer is reset, but not before the client
/// has those that came before it.
#[test]
fn a_cut_answer_behind_a_whole_one() {
    let mut world = www();
    let mut client = world.client();
    world.rest();
    let requests = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /big.bin HTTP/1.1\r\nHost: a\r\n\r\n";
    world.sim.fail(At::Of(Method::Sendfile, 0), Errno::EIO, Times::UntilHealed);
    client.send(requests);
    world.sim.take_trace();
    client.clog(Duration::from_millis(500));
    client.unclog();
    client.clog(Duration::from_millis(500));
    world.pass(Duration::from_millis(490));
    assert!(!client.saw_reset());
    world.pass(Duration::from_millis(20));
    let said = client.recv();
    assert!(said.windows(6).any(|it| it == b"index\n"), "the first answer is lost");
    world.pass(Duration::from_millis(400));
    client.recv();
    assert!(client.saw_reset() && !client.saw_eof());
    world.stop();
}

/// A refused upload: the client writes all of it before it reads, and has the status.
#[test]
fn a_refused_upload_of_any_length() {
    for length in [5 << 20, 20 << 20] {
        let mut world = www();
        let mut client = world.client();
        client.send(
            format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n").as_bytes(),
        );
        let mut sent = 0;
        while sent < length {
            world.rest();
            sent += client.send(&vec![b'.'; (64 << 10).min(length - sent)]);
            world.pass(Duration::from_micros(1_000));
            assert_eq!(client.error(), None, "after {sent} bytes");
        }
        let said = listen(&mut world, &mut client);
        assert!(said.starts_with(b"HTTP/1.1 413"), "{}", String::from_utf8_lossy(&said));
        assert!(client.saw_eof() && !client.saw_reset());
        world.stop();
    }
}

/// A client that has said that it sends no more is not lingered for: no `shutdown`, no event, no
/// `recv`. One that may have more to say is: behind a body old clients send an empty line.
#[test]
fn a_client_that_sends_no_more() {
    let get = "GET / HTTP/1.1\r\nHost: x\r\n";
    for (request, lingers) in [
        (format!("{get}Connection: close\r\n\r\n"), false),
        (format!("{get}Connection: a, Close\r\nContent-Length: 0\r\n\r\n"), false),
        ("GET / HTTP/1.0\r\n\r\n".into(), false),
        ("HEAD /none HTTP/1.0\r\n\r\n".into(), false),
        ("OPTIONS * HTTP/1.0\r\n\r\n".into(), false),
        ("GET /big.bin HTTP/1.0\r\n\r\n".into(), false),
        (format!("{get}\r\nGET / HTTP/1.0\r\n\r\n"), false),
        ("GET / HTTP/1.0\r\n\r\n\r\n".into(), true),
        (format!("{get}Connection: close\r\n\r\nG"), true),
        (format!("{get}Connection: close\r\nContent-Length: 1\r\n\r\nx"), true),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nConnection: close\r\n\r\n".into(), true),
        (format!("{get}Connection: close\r\nHost: y\r\n\r\n"), true),
    ] {
        let mut world = www();
        let before = world.sim.descriptors();
        let (said, client) = ask(&mut world, [request.as_bytes()]);
        assert!(said.starts_with(b"HTTP/1.1 ") && client.saw_eof(), "{request}");
        let shutdowns = world.sim.count(Method::Shutdown);
        let open = world.sim.descriptors() > before;
        assert_eq!((shutdowns, open), (lingers.into(), lingers), "{request}");
        drop(client);
        world.stop();
    }
}

/// A client that talks on although it has said that it would not, while its answer is on its way:
/// it is read, and has all of the answer.
#[test]
fn a_client_that_talks_on() {
    let mut world = www();
    world.sim.write_file(Path::new("/srv/www/huge.bin"), &vec![b'x'; 4 << 20]);
    let mut client = world.client();
    client.send(b"GET /huge.bin HTTP/1.0\r\n\r\n");
    world.rest();
    client.send(b"GET / HTTP/1.0\r\n\r\n");
    let said = listen(&mut world, &mut client);
    assert_eq!(answers(&said, b"").len(), 1);
    assert!(said.ends_with(&vec![b'x'; 4 << 20]) && client.saw_eof() && !client.saw_reset());
    assert_eq!(world.sim.count(Method::Shutdown), 1);
    world.stop();
}
