//! The HTTP handler, from outside: a table of requests and what is due to them, sent whole,
//! byte by byte, behind others, and cut in two at every place; then what takes time, what
//! fails, and what no table thinks of.

use crate::http_table::{LAST, answers, cases};

use crate::support::{Client, Scratch, Server, needs};
use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

/// The files that the table is about.
const FILES: [(&str, &str); 12] = [
    ("index.html", "index\n"),
    ("sub/index.html", "sub\n"),
    ("bare/other", ""),
    ("ü b.txt", "umlaut\n"),
    ("empty.txt", ""),
    ("odd/index.html/x", ""),
    ("page.xhtml", "<html/>"),
    ("feed.xml", "<feed/>"),
    (".env", "secret\n"),
    (".git/config", "secret\n"),
    (".well-known/x", "known\n"),
    ("sub/.hidden", "secret\n"),
];

fn big() -> Vec<u8> {
    crate::support::pattern(100_000)
}

/// A folder `www` with the files, and one beside it with a secret.
fn www() -> Scratch {
    let scratch = Scratch::new();
    for (name, content) in FILES {
        let path = scratch.path("www").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    fs::write(scratch.path("www/big.bin"), big()).unwrap();
    fs::write(scratch.path("secret"), "secret\n").unwrap();
    until_settled(&scratch.path("www/big.bin"));
    scratch
}

/// A file that has just changed has a weak tag, and is not kept open: from here on this one,
/// and those that were written before, are as all others.
fn until_settled(path: &Path) {
    let changed = fs::metadata(path).unwrap().modified().unwrap();
    let is_settled = || changed.elapsed().is_ok_and(|age| age > Duration::from_millis(50));
    crate::support::until("the tags to be strong", is_settled);
}

fn serve(www: &Scratch, options: &[&str]) -> Server {
    let path = www.path("www");
    Server::start(&[options, &["http", path.to_str().unwrap()]].concat())
}

/// Sends `pieces`, one after the other; everything that is answered.
fn ask<'a>(server: &Server, pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut client = server.client();
    for piece in pieces {
        client.send(piece);
    }
    client.rest()
}

#[test]
fn the_table_whole_byte_by_byte_and_behind_others() {
    let www = www();
    let server = serve(&www, &[]);
    let before = server.descriptors();
    let mut count = 0;
    for case in cases() {
        let shown =
            String::from_utf8_lossy(&case.request[..case.request.len().min(300)]).into_owned();
        let bytes = [&case.request, LAST.as_bytes()].concat();
        let whole = answers(&ask(&server, [&bytes[..]]), &bytes);
        let statuses: Vec<u16> = whole.iter().map(|(status, _)| *status).collect();
        assert_eq!(statuses, case.due, "{shown}");
        let first = String::from_utf8_lossy(&whole[0].1).into_owned();
        assert!(first.contains(case.has) || case.has.is_empty(), "{shown}\n{first}");
        assert!(!first.contains("secret"), "{shown}");
        // Who has said that this is all is believed, unless more is there already.
        let is_all = whole.len() == 1 && says_close(&case.request);
        let bytewise = if is_all { without_more(&case.request) } else { &bytes[..] };
        let split = answers(&ask(&server, bytewise.chunks(1)), &bytes);
        assert!(split == whole, "byte by byte: {shown}");
        if !shown.starts_with("HEAD") {
            let ahead = b"GET /sub/ HTTP/1.1\r\nHost: x\r\n\r\n".repeat(3);
            let behind = answers(&ask(&server, [&[&ahead, &bytes[..]].concat()[..]]), b"");
            assert!(behind[3..] == whole, "behind others: {shown}");
        }
        count += 1;
    }
    crate::support::until("all descriptors to be closed", || server.descriptors() == before);
    println!("{count} cases");
    assert!(count >= 150, "{count} cases");
    assert!(!server.logs().contains("bug"), "{}", server.logs());
}

/// Whether a request says that no other follows, in whichever words.
fn says_close(request: &[u8]) -> bool {
    let request = String::from_utf8_lossy(request).to_ascii_lowercase();
    request.contains("close") || request.contains("http/1.0")
}

/// A request without what comes behind it, if it has no body.
fn without_more(request: &[u8]) -> &[u8] {
    let head = String::from_utf8_lossy(request).to_ascii_lowercase();
    let has_body = head.contains("content-length") || head.contains("transfer-encoding");
    let end = request.windows(4).position(|it| it == b"\r\n\r\n");
    end.filter(|_| !has_body).map_or(request, |end| &request[..end + 4])
}

/// A head and a body have deadlines of their own, which a byte now and then does not extend.
#[test]
fn who_is_too_slow_is_told_so() {
    let server = Server::start(&["http", "--message-timeout", "0.3"]);
    let mut idle = server.client();
    for (slow, drops) in [
        ("GET / HTTP/1.1\r\nHost: x\r\n", "X"),
        ("GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n", "x"),
        ("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", "0"),
    ] {
        let mut client = server.client();
        client.send(format!("GET / HTTP/1.1\r\nHost: x\r\n\r\n{slow}"));
        let mut twin = client.twin();
        let told = Arc::new(AtomicBool::new(false));
        let is_told = Arc::clone(&told);
        let writer = std::thread::spawn(move || {
            while !is_told.load(Ordering::Relaxed) && twin.try_send(drops).is_ok() {
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        let answers = answers(&client.rest(), b"");
        let statuses: Vec<u16> = answers.iter().map(|(status, _)| *status).collect();
        assert_eq!(statuses, [200, 408], "{slow}");
        told.store(true, Ordering::Relaxed);
        writer.join().unwrap();
    }
    // Between requests nobody is in a hurry.
    idle.send("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert_eq!(answers(&idle.rest(), b"")[0].0, 200);
}

/// A request that ends in the middle is answered too.
#[test]
fn half_a_request_and_then_the_end() {
    let server = Server::start(&["http"]);
    for half in ["GET / HT", "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nabc"] {
        let mut client = server.client();
        client.send(half);
        client.finish();
        assert_eq!(answers(&client.rest(), b"")[0].0, 400, "{half}");
    }
    for whole in ["", "\r\n", "GET / HTTP/1.1\r\nHost: x\r\n\r\n"] {
        let mut client = server.client();
        client.send(whole);
        client.finish();
        assert_eq!(answers(&client.rest(), b"").len(), usize::from(whole.len() > 2));
    }
}

/// Only regular files are served, and nothing that a link leads out to; a pipe that nobody
/// writes to does not hold up the server.
#[test]
fn what_is_no_file() {
    let www = www();
    let pipe = www.path("www/pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for (from, to) in [
        (www.path("secret"), "absolute"),
        ("../secret".into(), "out"),
        ("/".into(), "root"),
        ("loop".into(), "loop"),
        ("index.html".into(), "in"),
        ("/dev/zero".into(), "device"),
    ] {
        std::os::unix::fs::symlink(from, www.path("www").join(to)).unwrap();
    }
    let socket = std::os::unix::net::UnixListener::bind(www.path("www/socket")).unwrap();
    fs::write(www.path("www/shut"), "secret\n").unwrap();
    fs::set_permissions(www.path("www/shut"), std::os::unix::fs::PermissionsExt::from_mode(0o000))
        .unwrap();
    let server = serve(&www, &[]);
    let is_root = fs::read(www.path("www/shut")).is_ok();
    for (path, due) in [
        ("pipe", 404),
        ("absolute", 404),
        ("out", 404),
        ("root/etc/passwd", 404),
        ("loop", 404),
        ("device", 404),
        ("socket", 404),
        ("in", 200),
        ("shut", if is_root { 200 } else { 403 }),
    ] {
        let request = format!("GET /{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let said = ask(&server, [request.as_bytes()]);
        assert_eq!(answers(&said, b"")[0].0, due, "{path}");
    }
    drop(socket);
}

/// Whatever becomes of a file that is kept open is seen by the next request.
#[test]
fn what_becomes_of_a_file_that_is_kept_open() {
    type Act = fn(&Path);
    let acts: [(Act, u16, &str); 7] = [
        (|at| fs::write(at, "other\n").unwrap(), 200, "other\n"),
        (|at| fs::write(at, "a longer one\n").unwrap(), 200, "a longer one\n"),
        (|at| fs::File::options().write(true).open(at).unwrap().set_len(2).unwrap(), 200, "fi"),
        (|at| fs::remove_file(at).unwrap(), 404, "404 Not Found\n"),
        (|at| fs::rename(at, at.with_extension("old")).unwrap(), 404, "404 Not Found\n"),
        (
            |at| {
                fs::write(at.with_extension("new"), "next!\n").unwrap();
                fs::rename(at.with_extension("new"), at).unwrap();
            },
            200,
            "next!\n",
        ),
        (
            |at| {
                fs::hard_link(at, at.with_extension("link")).unwrap();
                fs::remove_file(at).unwrap();
                std::os::unix::fs::symlink("empty.txt", at).unwrap();
            },
            200,
            "",
        ),
    ];
    let www = www();
    for (index, _) in acts.iter().enumerate() {
        fs::write(www.path("www").join(format!("{index}.txt")), "first\n").unwrap();
    }
    until_settled(&www.path("www/6.txt"));
    let server = serve(&www, &[]);
    let before = server.descriptors();
    let (mut kept, mut client) = (0, server.client());
    for (index, (act, status, due)) in acts.iter().enumerate() {
        let mut get = |status: u16, body: &str| {
            client.send(format!("GET /{index}.txt HTTP/1.1\r\nHost: x\r\n\r\n"));
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                head += &client.line();
            }
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{index}: {head}");
            assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{head}");
            client.expect(body);
        };
        for _ in 0..3 {
            get(200, "first\n");
        }
        kept += usize::from(server.descriptors() > before + 1);
        act(&www.path("www").join(format!("{index}.txt")));
        get(*status, due);
    }
    assert!(kept > 0); // a second may be over at any time
    crate::support::until("it to be closed", || server.descriptors() == before + 1);
}

/// Out of descriptors, a file is not to be had for now; the connection goes on.
#[test]
fn out_of_descriptors() {
    let www = www();
    let server = serve(&www, &[]);
    let mut client = server.client();
    let request = "GET /empty.txt HTTP/1.1\r\nHost: x\r\n\r\n";
    let answer = |client: &mut Client| {
        client.send(request);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            head += &client.line();
        }
        head
    };
    assert!(answer(&mut client).starts_with("HTTP/1.1 200"));
    server.limit_descriptors(5); // these are all taken
    let refused = answer(&mut client);
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("\r\nRetry-After: 1\r\n"));
    client.expect("503 Service Unavailable\n");
    server.limit_descriptors(1_000);
    assert!(answer(&mut client).starts_with("HTTP/1.1 200"));
}

/// A large file goes to the slow and to the fast, whole; who leaves in its middle leaves
/// nothing behind.
#[test]
fn large_files_and_those_who_leave() {
    let www = www();
    let large = crate::support::pattern(20 << 20);
    fs::write(www.path("www/large"), &large).unwrap();
    let server = serve(&www, &[]);
    let before = server.descriptors();
    let request = b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut slow = server.client();
    slow.send(request);
    let mut leavers = server.clients(4);
    leavers.iter_mut().for_each(|client| client.send(request));
    let said = ask(&server, [&request[..], &request[..], LAST.as_bytes()]);
    let all = answers(&said, b"");
    assert!(all.len() == 3 && all[1].1.ends_with(&large) && all[0] == all[1]);
    for (index, mut client) in leavers.into_iter().enumerate() {
        client.some(1_000).unwrap();
        if index % 2 == 0 {
            client.reset();
        }
    }
    slow.send(LAST);
    assert!(answers(&slow.rest(), b"")[0] == all[0]);
    drop(slow);
    crate::support::until("all descriptors to be closed", || server.descriptors() == before);
}

/// The access log: a line for each answer, in which a client cannot forge anything.
#[test]
fn the_access_log() {
    let www = www();
    let mut server = serve(&www, &["--access-log"]);
    ask(&server, [&b"GET /\" HTTP/1.1\r\nHost: x\r\n\r\n"[..], b"GET / HTTP/1.0\r\n\r\n"]);
    ask(&server, [&b"GET /\x1b[2J HTTP/1.1\r\n\r\n"[..]]);
    ask(&server, [&b"HEAD /big.bin HTTP/1.0\r\n\r\n"[..]]);
    ask(&server, [&b"GET /big.bin HTTP/1.0\r\n\r\n"[..]]);
    assert_eq!(server.stop(), Some(0));
    let logs = server.logs();
    let lines: Vec<&str> =
        logs.lines().filter(|line| line.starts_with("127.0.0.1 - - [")).collect();
    let tails: Vec<&str> =
        lines.iter().map(|line| line.split_once(" +0000] ").unwrap().1).collect();
    let due = [
        r#""GET /\x22 HTTP/1.1" 404 14"#,
        r#""GET / HTTP/1.0" 200 6"#,
        r#""GET /\x1b[2J HTTP/1.1" 400 16"#,
        r#""HEAD /big.bin HTTP/1.0" 200 0"#,
        r#""GET /big.bin HTTP/1.0" 200 100000"#,
    ];
    assert_eq!(tails, due);
    let mut quiet = serve(&www, &[]);
    ask(&quiet, [&b"GET /bad\r\n\r\n"[..]]);
    assert_eq!(quiet.stop(), Some(0));
    assert!(!quiet.logs().contains("bad"), "{}", quiet.logs());
}

/// apt takes what it needs from a flat repository, whose paths all begin with `./`.
#[test]
fn apt_uses_a_flat_repository() {
    if !needs(&["apt-get", "dpkg-deb", "sha256sum"]) {
        return;
    }
    let scratch = Scratch::new();
    let run = |program: &str, words: &[&str]| {
        let output = Command::new(program).args(words).current_dir(scratch.path("")).output();
        let output = output.unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{program} {words:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    };
    let about = "Package: thanks\nVersion: 1.0\nArchitecture: all\nMaintainer: x <x@x>\nDescription: thanks\n";
    fs::create_dir_all(scratch.path("thanks/DEBIAN")).unwrap();
    fs::create_dir_all(scratch.path("thanks/usr/share")).unwrap();
    fs::write(scratch.path("thanks/DEBIAN/control"), about).unwrap();
    fs::write(scratch.path("thanks/usr/share/large"), crate::support::pattern(300_000)).unwrap();
    fs::create_dir_all(scratch.path("www")).unwrap();
    run(
        "dpkg-deb",
        &["--root-owner-group", "-Znone", "--build", "thanks", "www/thanks_1.0_all.deb"],
    );
    let package = fs::metadata(scratch.path("www/thanks_1.0_all.deb")).unwrap();
    let (size, modified) = (package.len(), package.modified().unwrap());
    assert!(size > 300_000);
    let sum = run("sha256sum", &["www/thanks_1.0_all.deb"]);
    let sum = &sum[..64];
    let place = "Filename: ./thanks_1.0_all.deb";
    fs::write(
        scratch.path("www/Packages"),
        format!("{about}{place}\nSize: {size}\nSHA256: {sum}\n"),
    )
    .unwrap();
    let mut server = serve(&scratch, &["--access-log"]);
    for folder in ["state/lists/partial", "cache/archives/partial", "etc", "out"] {
        fs::create_dir_all(scratch.path(folder)).unwrap();
    }
    fs::write(scratch.path("state/status"), "").unwrap();
    let source = format!("deb [trusted=yes] http://{}/ ./\n", server.addresses[0]);
    fs::write(scratch.path("sources.list"), source).unwrap();
    let at = |name: &str| scratch.path(name).display().to_string();
    let options = [
        format!("Dir::State={}", at("state")),
        format!("Dir::State::status={}", at("state/status")),
        format!("Dir::Cache={}", at("cache")),
        format!("Dir::Etc={}", at("etc")),
        format!("Dir::Etc::sourcelist={}", at("sources.list")),
        "APT::Sandbox::User=".to_owned(),
        "Acquire::Languages=none".to_owned(),
        "Acquire::http::Proxy=false".to_owned(),
        "Acquire::Retries=0".to_owned(),
    ];
    let apt = |words: &[&str]| {
        let mut all = Vec::new();
        for option in &options {
            all.extend(["-o", option]);
        }
        all.extend(words);
        run("apt-get", &all)
    };
    apt(&["update"]);
    apt(&["update"]); // what it has is up to date
    // The rest of a download that broke off, if the file is still of the same date.
    let whole = fs::read(scratch.path("www/thanks_1.0_all.deb")).unwrap();
    let partial = scratch.path("cache/archives/partial/thanks_1.0_all.deb");
    fs::write(&partial, &whole[..100_000]).unwrap();
    fs::File::options().write(true).open(&partial).unwrap().set_modified(modified).unwrap();
    // In its first second a file may change again and keep its date.
    let is_over = || SystemTime::now() > modified + Duration::from_secs(2);
    crate::support::until("the next second", is_over);
    apt(&["install", "--download-only", "-y", "thanks"]);
    assert_eq!(fs::read(scratch.path("cache/archives/thanks_1.0_all.deb")).unwrap(), whole);
    assert_eq!(server.stop(), Some(0));
    let logs = server.logs();
    let rest = format!("\"GET /./thanks_1.0_all.deb HTTP/1.1\" 206 {}", size - 100_000);
    for due in ["\"GET /./Packages HTTP/1.1\" 200 ", "\" 304 0", &rest] {
        assert!(logs.contains(due), "{logs}");
    }
}

#[test]
fn a_directory_that_is_none() {
    let scratch = www();
    for (name, errno) in [("nowhere", "ENOENT"), ("secret", "ENOTDIR")] {
        let path = scratch.path(name);
        let finished = crate::support::run(&["-l", "127.0.0.1:0", "http", path.to_str().unwrap()]);
        assert_eq!((finished.code, finished.stdout.as_str()), (Some(2), ""));
        let begins = format!("error: openat2 {}: {errno}", path.display());
        assert!(finished.stderr.starts_with(&begins), "{}", finished.stderr);
    }
}

#[test] // http DIR without index.html: a warning at the start, and a page that says why it is a 404
fn a_folder_without_index_says_so() {
    let scratch = Scratch::new();
    fs::create_dir_all(scratch.path("www/bare")).unwrap();
    let mut server = serve(&scratch, &[]);
    for path in ["/", "/bare/"] {
        let request = format!("GET {path} HTTP/1.0\r\n\r\n");
        let answer = String::from_utf8(ask(&server, [request.as_bytes()])).unwrap();
        let due = "404 This folder has no index.html, and folders are not listed";
        assert!(answer.starts_with(&format!("HTTP/1.1 {due}\r\n")), "{answer}");
        assert!(answer.ends_with(&format!("\r\n\r\n{due}\n")), "{answer}");
    }
    assert_eq!(server.stop(), Some(0));
    let due = format!("warning: {} has no index.html, ", scratch.path("www").display());
    assert!(server.logs().contains(&due), "{}", server.logs());
}

#[test] // whatever time a file has, from year 1 to year 10^10, it is served, and never of tomorrow
fn files_of_any_time() {
    // On a disk the file system may not keep all of them; in memory it does.
    let memory = Path::new("/dev/shm");
    let memory = memory.is_dir().then(|| Scratch::within(memory));
    for scratch in [Some(Scratch::new()), memory].into_iter().flatten() {
        let file = scratch.path("page");
        fs::write(&file, "page\n").unwrap();
        let server = Server::start(&["http", scratch.path("").to_str().unwrap()]);
        for seconds in [
            -62_135_596_800, // year 1
            -1,
            0,
            1,
            i64::from(i32::MAX) + 1,
            9_223_372_036, // the last second of nanoseconds in 64 bits, in 2262
            9_223_372_037,
            253_402_300_800,         // year 10,000
            315_569_520_000_000_000, // year 10^10
            i64::MAX,
        ] {
            let time = TimeSpec::new(seconds, 999_999_999);
            utimensat(AT_FDCWD, &file, &time, &time, UtimensatFlags::NoFollowSymlink).unwrap();
            let answer =
                ask(&server, [&b"GET /page HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"[..]]);
            let answer = String::from_utf8(answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{seconds}: {answer}");
            assert!(answer.ends_with("\r\n\r\npage\n"), "{seconds}: {answer}");
            let dates = ["Date", "Last-Modified"].map(|name| {
                let field =
                    answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
                field.map(|date| httpdate::parse_http_date(date).unwrap())
            });
            assert!(dates[1].is_none_or(|modified| Some(modified) <= dates[0]), "{answer}");
        }
    }
}
