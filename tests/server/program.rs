//! The program from outside: its options, addresses, errors, exit statuses,
//! signals and output, against the contract of the command line.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::support::{
    Client, Finished, STUCK, Scratch, Server, Signal, eventually, quoted, raise_descriptor_limit,
    run, run_after, show, stuck_clients, thanks, until,
};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket,
};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

/// A start that failed: exit 2, one line on stderr, nothing on stdout.
#[track_caller]
fn assert_refused(args: &[&str], finished: &Finished, needles: &[&str]) {
    let Finished { code, stdout, stderr } = finished;
    assert_eq!(*code, Some(2), "{args:?}: {stderr}");
    assert_eq!(stdout, "", "{args:?}");
    assert!(stderr.starts_with("error: ") && stderr.ends_with('\n'), "{args:?}: {stderr:?}");
    assert_eq!(stderr.lines().count(), 1, "{args:?}: {stderr:?}");
    for needle in needles {
        assert!(stderr.contains(needle), "{args:?}: no {needle:?} in {stderr:?}");
    }
}

/// A start with these arguments fails, and its error says all of these.
#[track_caller]
fn refuses(args: &[&str], needles: &[&str]) {
    assert_refused(args, &run(args), needles);
}

/// A client is answered, in full.
#[track_caller]
fn serves(address: &str) {
    let mut client = eventually("a server", || Client::try_to(address).ok());
    client.ask("hello\n");
    client.finish();
    client.expect_end();
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket())
}

// ---- help, version, options ----------------------------------------------------

#[test] // -h is one screen, that of each handler names its own options; and the manual names all
fn help_is_one_screen() {
    let Finished { code, stdout, stderr } = run(&["-h"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert!(stdout.lines().count() <= 40, "{} lines", stdout.lines().count());
    assert!(stdout.lines().all(|line| line.chars().count() <= 80), "{stdout}");
    let options = "--listen --max-connections --max-per-ip --give-way --idle-timeout \
        --message-timeout --write-timeout --drain-timeout --max-memory --narrate -l -v -q -h -V";
    let words = "greet once echo chat http proxy unix: 127.0.0.1:1234 127.0.0.1:9999 10000 300 30 \
        60 10 256M";
    for word in options.split_whitespace().chain(words.split_whitespace()) {
        assert!(stdout.contains(word), "no {word} in {stdout}");
    }
    let examples = stdout.lines().filter(|line| line.trim_start().starts_with("threadbare "));
    assert!(examples.count() >= 3, "{stdout}");
    assert_eq!(run(&["--help"]).stdout, stdout);
    for (handler, option) in [("greet", "--framing"), ("chat", "--max-line")] {
        let page = run(&[handler, "-h"]).stdout;
        assert!(page.contains(option), "no {option} in {page}");
        assert!(page.lines().count() <= 40, "{page}");
    }
    let manual = std::fs::read_to_string("docs/man/threadbare.1").unwrap().replace("\\-", "-");
    for option in "--backlog --high-water --max-output --unix-mode --framing".split(' ') {
        assert!(manual.contains(option), "no {option} in the manual");
    }
}

#[test] // -V and --version print the name and the version
fn version() {
    for option in ["-V", "--version"] {
        let Finished { code, stdout, stderr } = run(&[option]);
        assert_eq!((code, stderr.as_str()), (Some(0), ""));
        assert_eq!(stdout, concat!("threadbare ", env!("CARGO_PKG_VERSION"), "\n"));
    }
}

#[test] // a usage error is one line that quotes the bad word and says `try -h`
fn usage_errors() {
    let wrong: [(&[&str], &str); 31] = [
        (&["--frobnicate"], "--frobnicate"),
        (&["-x"], "-x"),
        (&["serve"], "serve"),
        (&["echo", "extra"], "extra"),
        (&["greet", "greet"], "greet"),
        (&["--max-line"], "--max-line"),
        (&["-l"], "-l"),
        (&["--max-line", "many"], "many"),
        (&["--max-line", ""], "--max-line"),
        (&["--max-line", "64Q"], "64Q"),
        (&["--max-line", "-1"], "-1"),
        (&["--max-line", "1.5"], "1.5"),
        (&["--max-line", "99999999999999999999"], "99999999999999999999"),
        (&["--max-memory", "99999999999999G"], "99999999999999G"),
        (&["--max-connections", "ten"], "ten"),
        (&["--max-per-ip", "-2"], "-2"),
        (&["--backlog", "9x"], "9x"),
        (&["--idle-timeout", "-5"], "-5"),
        (&["--idle-timeout", "nan"], "nan"),
        (&["--message-timeout", "inf"], "inf"),
        (&["--write-timeout", "1e400"], "1e400"),
        (&["--drain-timeout", "soon"], "soon"),
        (&["--unix-mode", "888"], "888"),
        (&["--unix-mode", "rw"], "rw"),
        (&["--framing", "word"], "word"),
        (&["-l", "nonsense"], "nonsense"),
        (&["-l", "127.0.0.1"], "127.0.0.1"),
        (&["-l", "127.0.0.1:65536"], "127.0.0.1:65536"),
        (&["-l", "[::1:80"], "[::1:80"),
        (&["-l", "unix:"], "unix:"),
        (&["--narrate=yes"], "yes"),
    ];
    for (args, word) in wrong {
        refuses(args, &[word, "try -h"]);
    }
}

#[test] // a usage error names the option or handler that was probably meant
fn usage_errors_name_the_nearest() {
    refuses(&["--max-conections", "5"], &["\"--max-conections\"", "--max-connections"]);
    refuses(&["--idle-timout", "5"], &["--idle-timout", "--idle-timeout"]);
    refuses(&["--drian-timeout", "5"], &["--drian-timeout", "--drain-timeout"]);
    refuses(&["--naratte"], &["--naratte", "--narrate"]);
    refuses(&["ehco"], &["ehco", "echo"]);
    refuses(&["great"], &["great", "greet"]);
}

#[test] // the bad word reaches the terminal only escaped
fn usage_errors_are_escaped() {
    for args in [["--\u{1b}[31mred"], ["\u{1b}]0;title\u{7}"], ["two\nlines"], ["\u{9b}31m"]] {
        let finished = run(&args);
        assert_refused(&args, &finished, &["try -h"]);
        let text = finished.stderr.trim_end_matches('\n');
        assert!(!text.contains(char::is_control), "{text:?}");
    }
    let finished = run_after(r#"exec "$0" "$(printf 'br\377ken')""#, &[]);
    assert_refused(&["br\\xffken"], &finished, &["br", "ken", "try -h"]);
    assert!(finished.stderr.to_lowercase().contains(r"\xff"), "{:?}", finished.stderr);
}

#[test] // an option that the handler does not use is a usage error, wherever it stands
fn unused_options_are_errors() {
    for args in [["echo", "--framing", "line"], ["--framing", "line", "echo"]] {
        refuses(&args, &["--framing", "echo", "try -h"]);
    }
    refuses(&["echo", "--max-line", "5"], &["--max-line", "echo", "try -h"]);
    refuses(&["chat", "--framing", "line"], &["--framing", "chat", "try -h"]);
}

#[test] // options may stand anywhere, the last one wins, and = joins a value
fn options_anywhere_and_the_last_wins() {
    let spellings: [&[&str]; 3] = [
        &["--max-line", "3", "greet", "--max-line", "5"],
        &["greet", "--max-line=3", "--max-line=5"],
        &["--max-line", "1K", "--max-line", "5", "greet"],
    ];
    for args in spellings {
        let server = Server::start(args);
        let mut client = server.client();
        client.ask("12345\n");
        client.send("123456\n");
        client.expect_rest("error: line longer than 5 bytes\n");
    }
}

#[test] // BYTES takes K, M and G, and K is 1,024
fn sizes_take_suffixes() {
    let server = Server::start(&["--max-line", "1K", "--max-memory", "1G", "--max-output", "2M"]);
    let mut client = server.client();
    client.ask(&format!("{}\n", "x".repeat(1024)));
    client.send(format!("{}\n", "x".repeat(1025)));
    client.expect_rest("error: line longer than 1024 bytes\n");
}

#[test] // a high water above --max-output is cut to it and is no error
fn high_water_above_the_output_limit() {
    let mut server = Server::start(&["--high-water", "8M", "--max-output", "1M"]);
    serves(&server.addresses[0]);
    assert_eq!(server.stop(), Some(0));
}

// ---- listeners -------------------------------------------------------------------

#[test] // one ready line per listener in the order of -l, port 0 resolved, all of them served
fn several_listeners() {
    let scratch = Scratch::new();
    let unix = scratch.unix("s");
    let mut server = Server::start(&["-l", "127.0.0.1:0", "-l", &unix, "--listen", "[::1]:0"]);
    let addresses = server.addresses.clone();
    assert!(addresses[0].starts_with("127.0.0.1:") && !addresses[0].ends_with(":0"));
    assert_eq!(addresses[1], unix);
    assert!(addresses[2].starts_with("[::1]:") && !addresses[2].ends_with(":0"));
    addresses.iter().for_each(|address| serves(address));
    assert_eq!(server.stop(), Some(0));
    let due: String = addresses.iter().map(|name| format!("listening on {name}\n")).collect();
    assert_eq!(server.stdout(), due);
}

#[test] // the ready lines come only when every listener accepts: a client then never fails
fn ready_means_ready() {
    for _ in 0..10 {
        let server = Server::start(&["-l", "127.0.0.1:0", "-l", "127.0.0.1:0"]);
        assert!(server.addresses.iter().all(|address| Client::try_to(address).is_ok()));
    }
}

#[test] // a name listens at all its addresses
fn a_name_is_all_its_addresses() {
    use std::net::ToSocketAddrs;
    let due = ("localhost", 0).to_socket_addrs().unwrap().map(|address| address.ip());
    let due: std::collections::BTreeSet<_> = due.collect();
    let server = Server::start(&["-l", "localhost:0"]);
    until("a ready line per address", || server.stdout().lines().count() == due.len());
    for line in server.stdout().lines() {
        let address = line.strip_prefix("listening on ").unwrap();
        let ip = address.parse::<std::net::SocketAddr>().unwrap().ip();
        assert!(due.contains(&ip), "{line}");
        serves(address);
    }
}

#[test] // without -l: 127.0.0.1:1234, and 9999 for once; an occupied port is named
fn default_ports() {
    for (args, address) in [(&[][..], "127.0.0.1:1234"), (&["once"], "127.0.0.1:9999")] {
        let _taken = TcpListener::bind(address); // if this fails, it is taken already
        refuses(args, &[&format!("bind {address}: EADDRINUSE (Address already in use); ")]);
    }
}

#[test] // an address that is not of this machine: the errno, its text and a hint
fn foreign_address() {
    let due = "error: bind 192.0.2.77:0: EADDRNOTAVAIL (Cannot assign requested address); ";
    refuses(&["-l", "192.0.2.77:0"], &[due]);
}

#[test] // a port that needs a privilege: the error line of the contract, word for word
fn privileged_port() {
    let first = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    if first.trim() != "1024" {
        return; // on this machine the line would not be true
    }
    let prelude = match fs::metadata("/proc/self").unwrap().uid() == 0 {
        true => r#"exec setpriv --bounding-set=-net_bind_service "$0" "$@""#,
        false => "",
    };
    let args = ["-l", "127.0.0.1:80"];
    let due = "error: bind 127.0.0.1:80: EACCES (Permission denied); \
        ports below 1024 need a privilege, try -l 127.0.0.1:1234\n";
    assert_refused(&args, &run_after(prelude, &args), &[due]);
}

#[test] // a start that fails half-way prints only its error and leaves nothing behind
fn failed_start_cleans_up() {
    let scratch = Scratch::new();
    let (path, unix) = (scratch.path("s"), scratch.unix("s"));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let args = ["-l", "127.0.0.1:0", "-l", &unix, "-l", &address];
    let finished = run_after("ulimit -n 64", &args); // which would be a warning
    assert_refused(&args, &finished, &[&format!("error: bind {address}: EADDRINUSE (")]);
    assert!(!path.exists());
    let finished = run_after("export THREADBARE_TIPS=make", &args);
    assert_refused(&args, &finished, &["is another `make run` still going?"]);
}

// ---- Unix sockets ----------------------------------------------------------------

#[test] // the socket file has the mode asked for whatever the umask, 0600 unasked
fn unix_mode() {
    let cases: [(&str, &[&str], u32); 5] = [
        ("umask 0", &[], 0o600),
        ("umask 077", &[], 0o600),
        ("umask 0277", &[], 0o600),
        ("umask 077", &["--unix-mode", "0666"], 0o666),
        ("umask 0", &["--unix-mode", "640"], 0o640),
    ];
    for (umask, options, due) in cases {
        let scratch = Scratch::new();
        let listen = ["-l", &scratch.unix("s")];
        let server = Server::start_after(umask, &[&listen, options].concat());
        let got = mode(&scratch.path("s"));
        assert_eq!(got, due, "{umask} {options:?}: {got:o} instead of {due:o}");
        serves(&server.addresses[0]);
    }
}

#[test] // the socket file is not more open than asked for, not for a moment
fn unix_mode_from_the_first_moment() {
    for _ in 0..10 {
        let scratch = Scratch::new();
        let (path, done) = (scratch.path("s"), AtomicBool::new(false));
        thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                let mut seen = 0;
                while !done.load(Ordering::Relaxed) {
                    seen |= fs::symlink_metadata(&path).map_or(0, |file| file.permissions().mode());
                }
                seen & 0o7777
            });
            let _server = Server::start_after("umask 0", &["-l", &scratch.unix("s")]);
            done.store(true, Ordering::Relaxed);
            let seen = watcher.join().unwrap();
            assert_eq!(seen & !0o600, 0, "{seen:o}");
        });
    }
}

#[test] // a socket file that nobody listens on any more is replaced, and removed at the end
fn stale_socket_file() {
    let scratch = Scratch::new();
    scratch.stale_socket("s");
    let mut server = Server::start(&["-l", &scratch.unix("s")]);
    serves(&server.addresses[0]);
    assert_eq!(server.stop(), Some(0));
    assert!(!scratch.path("s").exists());
}

#[test] // a socket file left by kill -9 does not stop the next start
fn socket_file_after_kill() {
    let scratch = Scratch::new();
    for _ in 0..3 {
        let mut server = Server::start(&["-l", &scratch.unix("s")]);
        serves(&server.addresses[0]);
        server.signal(Signal::SIGKILL);
        assert_eq!(server.wait(), None);
        assert!(is_socket(&scratch.path("s")));
    }
}

#[test] // a socket that is listened on is not taken away from its owner
fn live_socket_file() {
    let scratch = Scratch::new();
    let unix = scratch.unix("s");
    let server = Server::start(&["-l", &unix]);
    refuses(&["-l", &unix], &[&format!("error: bind {unix}: EADDRINUSE (")]);
    serves(&server.addresses[0]);
}

#[test] // a listener whose queue is full is alive, too: only ECONNREFUSED means nobody
fn live_socket_file_with_a_full_queue() {
    let scratch = Scratch::new();
    let unix = || {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        socket(AddressFamily::Unix, SockType::Stream, flags, None).unwrap()
    };
    let (listener, address) = (unix(), UnixAddr::new(&scratch.path("s")).unwrap());
    bind(listener.as_raw_fd(), &address).unwrap();
    listen(&listener, Backlog::new(1).unwrap()).unwrap();
    let mut waiting = vec![unix()];
    while connect(waiting.last().unwrap().as_raw_fd(), &address).is_ok() {
        assert!(waiting.len() < 100);
        waiting.push(unix());
    }
    refuses(&["-l", &scratch.unix("s")], &["error: bind unix:", "EADDRINUSE"]);
    assert!(is_socket(&scratch.path("s")));
}

#[test] // what is no stream socket is never removed: a file, a folder, a link, a datagram socket
fn other_files_stay() {
    let scratch = Scratch::new();
    let at = |name: &str| scratch.path(name);
    fs::write(at("file"), "precious").unwrap();
    fs::create_dir(at("folder")).unwrap();
    scratch.stale_socket("target");
    std::os::unix::fs::symlink(at("target"), at("link")).unwrap();
    let _datagrams = UnixDatagram::bind(at("datagram")).unwrap();
    for name in ["file", "folder", "link", "datagram"] {
        let before = fs::symlink_metadata(at(name)).unwrap();
        refuses(&["-l", &scratch.unix(name)], &["error: bind unix:", name, "EADDRINUSE"]);
        let after = fs::symlink_metadata(at(name)).unwrap();
        assert_eq!(before.modified().unwrap(), after.modified().unwrap(), "{name}");
        assert_eq!(before.file_type(), after.file_type(), "{name}");
    }
    assert_eq!(fs::read_to_string(at("file")).unwrap(), "precious");
}

#[test] // a path that cannot be bound: its errno, its text, one line
fn impossible_socket_paths() {
    let scratch = Scratch::new();
    refuses(&["-l", &scratch.unix("none/s")], &["ENOENT (No such file or directory)"]);
    refuses(&["-l", &scratch.unix(&"x".repeat(200))], &["error: ", "unix:"]);
}

#[test] // at the end only our own socket file is removed, not that of a successor
fn the_socket_file_of_a_successor_stays() {
    let scratch = Scratch::new();
    let path = scratch.path("s");
    let mut server = Server::start(&["-l", &scratch.unix("s")]);
    fs::remove_file(&path).unwrap();
    let _successor = UnixListener::bind(&path).unwrap();
    assert_eq!(server.stop(), Some(0));
    assert!(is_socket(&path));
}

// ---- signals and the drain -------------------------------------------------------

#[test] // SIGINT and SIGTERM end it with status 0, and idle clients get FIN
fn signals_end_it() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut server = Server::start(&[]);
        let mut client = server.client();
        client.ask("hello\n");
        server.signal(signal);
        client.expect_end();
        drop(client);
        assert_eq!(server.wait(), Some(0), "{signal}");
    }
}

#[test] // under nohup SIGHUP does nothing; SIGPIPE, SIGWINCH and SIGCHLD never do
fn signals_that_do_nothing() {
    let mut server = Server::start_after("trap '' HUP", &[]);
    let mut client = server.client();
    for signal in [Signal::SIGHUP, Signal::SIGPIPE, Signal::SIGWINCH, Signal::SIGCHLD] {
        server.signal(signal);
        for _ in 0..5 {
            client.ask("still here\n");
            serves(&server.addresses[0]);
        }
    }
    drop(client);
    assert_eq!(server.stop(), Some(0));
}

#[test] // SIGUSR1 prints a line per connection and the counters, and nothing ends
fn usr1_tells() {
    let server = Server::start(&[]);
    let mut clients = server.clients(3);
    clients.iter_mut().for_each(|client| client.ask("hello\n"));
    serves(&server.addresses[0]); // a fourth, which is gone again
    let before = server.logs().len();
    server.signal(Signal::SIGUSR1);
    let told = || server.logs()[before..].to_owned();
    until("the counters", || told().contains("accepted"));
    clients.iter_mut().for_each(|client| client.ask("again\n"));
    let told = told();
    for client in &clients {
        assert_eq!(told.lines().filter(|line| line.contains(&client.name())).count(), 1, "{told}");
    }
    let accepted = told.lines().find(|line| line.contains("accepted")).unwrap();
    assert!(accepted.split(|c: char| !c.is_ascii_digit()).any(|word| word == "4"), "{told}");
}

#[test] // the drain answers what has arrived, also in the queue, and drops partial messages
fn drain_answers_what_has_arrived() {
    let mut server = Server::start(&[]);
    let mut clients = server.clients(3);
    clients.iter_mut().for_each(|client| client.ask("hello\n"));
    server.freeze();
    clients.extend(server.clients(3)); // these wait in the queue
    for client in &mut clients {
        client.send("one\ntwo\npart");
    }
    server.signal(Signal::SIGTERM);
    server.thaw();
    for client in &mut clients {
        client.expect_rest(thanks("one\n") + &thanks("two\n"));
    }
    drop(clients);
    assert_eq!(server.wait(), Some(0));
}

#[test] // clients queued while the server is full are served as slots free, before it ends
fn drain_serves_the_queue_of_a_full_server() {
    let mut server = Server::start(&["--max-connections", "1"]);
    let mut clients = server.clients(1);
    clients[0].ask("first\n");
    clients.extend(server.clients(5));
    for client in &mut clients[1..] {
        client.send("queued\n");
    }
    server.signal(Signal::SIGTERM);
    let mut first = clients.remove(0);
    first.expect_end();
    thread::sleep(Duration::from_millis(200)); // it takes its time to leave
    drop(first);
    for mut client in clients {
        client.expect_rest(thanks("queued\n"));
    }
    assert_eq!(server.wait(), Some(0));
}

#[test] // what the drain deadline leaves is reset, counted, told, and status 1
fn drain_deadline_cuts() {
    for (count, due) in [(1, "cut 1 connection at"), (2, "cut 2 connections at")] {
        let mut server = Server::start(&[&STUCK[..], &["--drain-timeout", "0.3"]].concat());
        let mut clients = stuck_clients(&server, count);
        assert_eq!(server.stop(), Some(1));
        let due = format!("{due} the drain deadline (0.3 s)");
        assert!(server.logs().contains(&due), "no {due:?} in {}", server.logs());
        clients.iter_mut().for_each(|client| drop(client.until_reset()));
    }
}

#[test] // clients still queued at the drain deadline are cut, too, and not passed over
fn drain_deadline_cuts_the_queue() {
    let mut server = Server::start(&["--max-connections", "1", "--drain-timeout", "0.3"]);
    let mut lingering = server.client();
    lingering.ask("hello\n");
    let mut queued = server.clients(3);
    queued.iter_mut().for_each(|client| client.send("let me in\n"));
    assert_eq!(server.stop(), Some(1), "{}", server.logs());
    assert!(server.logs().contains("cut 3 connections at"), "{}", server.logs());
    queued.iter_mut().for_each(|client| assert!(client.until_reset().is_empty()));
    lingering.expect_end();
}

#[test] // a peer that has everything and only keeps its side open is not cut
fn lingering_is_not_cut() {
    let mut server = Server::start(&["--drain-timeout", "0.3"]);
    let mut client = server.client();
    client.ask("hello\n");
    assert_eq!(server.stop(), Some(0));
    assert!(!server.logs().contains("cut"), "{}", server.logs());
    client.expect_end();
}

#[test] // --drain-timeout 0 waits for a slow client, who gets an exact prefix and FIN
fn drain_without_deadline() {
    let mut server = Server::start(&["echo", "--drain-timeout", "0"]);
    let mut client = server.client();
    let bytes = crate::support::pattern(1_048_573);
    let sent = client.stuff(&bytes, 64 << 20);
    server.signal(Signal::SIGTERM);
    server.until_refusing();
    let got = client.rest();
    assert!(!got.is_empty() && got.len() <= sent, "{} of {sent}", got.len());
    assert!(got.iter().eq(bytes.iter().cycle().take(got.len())), "not what was sent");
    drop(client);
    assert_eq!(server.wait(), Some(0));
}

#[test] // a second signal ends it at once with 128+n, and removes the socket file
fn second_signal() {
    let typed = (Signal::SIGINT, Signal::SIGINT, Duration::ZERO);
    let later = [Signal::SIGTERM, Signal::SIGINT]
        .map(|second| (Signal::SIGTERM, second, Duration::from_millis(500)));
    for (first, second, pause) in later.into_iter().chain([typed]) {
        let scratch = Scratch::new();
        let options = ["--drain-timeout", "0", "-l", "127.0.0.1:0", "-l", &scratch.unix("s")];
        let mut server = Server::start(&[&STUCK[..], &options].concat());
        let _stuck = stuck_clients(&server, 1);
        let mut idle = server.client();
        idle.ask("hello\n");
        server.signal(first);
        idle.expect_end(); // the drain has begun
        thread::sleep(pause);
        server.signal(second);
        assert_eq!(server.wait(), Some(128 + second as i32));
        assert!(!scratch.path("s").exists());
    }
}

#[test] // signals in a burst are one: s6, nodemon, a terminal that hangs up send several
fn signals_in_a_burst() {
    for burst in [
        [Signal::SIGTERM, Signal::SIGTERM, Signal::SIGTERM],
        [Signal::SIGINT, Signal::SIGTERM, Signal::SIGTERM],
        [Signal::SIGTERM, Signal::SIGINT, Signal::SIGTERM],
    ] {
        let mut server = Server::start(&STUCK);
        let mut stuck = stuck_clients(&server, 1);
        let mut idle = server.client();
        idle.ask("hello\n");
        for signal in burst {
            server.signal(signal);
            until("it to be read", || !server.has_signals());
        }
        idle.expect_end();
        assert!(stuck[0].rest().ends_with(b"\n"), "it is waited for");
        drop(stuck);
        assert_eq!(server.wait(), Some(0), "{burst:?}");
    }
}

// ---- descriptors -----------------------------------------------------------------

/// The numbers in a line.
fn numbers(line: &str) -> Vec<usize> {
    line.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect()
}

#[test] // --max-connections above the descriptor limit: one warning, both numbers, and it is true
fn lowered_to_the_descriptor_limit() {
    let server =
        Server::start_after("ulimit -n 64", &["--max-connections", "5000", "--give-way", "0"]);
    until("the warning", || server.logs().contains("RLIMIT_NOFILE is 64\n"));
    let logs = server.logs();
    let warnings: Vec<&str> = logs.lines().filter(|line| line.contains("5000")).collect();
    assert_eq!(warnings.len(), 1, "{logs}");
    let lowered = numbers(warnings[0]).into_iter().find(|number| (8..64).contains(number));
    let lowered = lowered.unwrap_or_else(|| panic!("no second number: {logs}"));

    let mut clients = server.clients(lowered + 1);
    clients[..lowered].iter_mut().for_each(|client| client.ask("in\n"));
    clients[lowered].send("waits\n");
    clients[lowered].expect_silence(Duration::from_millis(200));
    drop(clients.remove(0));
    clients[lowered - 1].expect(thanks("waits\n"));
}

#[test] // warnings come before the ready lines
fn warnings_before_ready_lines() {
    let mut server = Server::start_after("ulimit -n 64; exec 2>&1", &[]);
    assert_eq!(server.stop(), Some(0));
    let text = server.stdout();
    let at = |needle| text.find(needle).unwrap_or_else(|| panic!("no {needle} in {text}"));
    assert!(at("10000") < at("listening on"), "{text}");
}

#[test] // a low soft limit is raised as far as the hard one allows, without a word
fn soft_limit_is_raised() {
    raise_descriptor_limit();
    let server = Server::start_after("ulimit -Sn 64", &["--max-connections", "200"]);
    assert!(!server.logs().contains("200"), "{}", server.logs());
    server.clients(200).iter_mut().for_each(|client| client.ask("in\n"));
}

#[test] // too few descriptors for one connection: a start-up error that names RLIMIT_NOFILE
fn too_few_descriptors() {
    let args = ["-l", "127.0.0.1:0"];
    for limit in [5, 8] {
        let finished = run_after(&format!("ulimit -n {limit}"), &args);
        assert_refused(&args, &finished, &["RLIMIT_NOFILE"]);
    }
}

#[test] // too little memory to start: an error that says so, from where main begins to where it fits
fn too_little_memory() {
    let args = ["-l", "192.0.2.1:1"]; // whose bind fails, when there is memory enough
    let mut refused = 0;
    for kib in (2_000..50_000).step_by(100) {
        let finished = run_after(&format!("ulimit -v {kib}"), &args);
        if finished.stderr.contains("EADDRNOTAVAIL") {
            assert!(refused >= 5, "{refused}");
            return;
        }
        // Below that it is the loader and the language that cannot start.
        if refused > 0 || finished.stderr.contains("error: mmap") {
            assert_refused(&args, &finished, &["error: mmap buffers and tables for", "ENOMEM"]);
            refused += 1;
        }
    }
    panic!("it never starts");
}

// ---- stdin, stdout, stderr -------------------------------------------------------

/// Starts it with its streams in this state, and it serves, and ends, as always.
#[track_caller]
fn serves_after(prelude: &str, args: &[&str]) {
    let scratch = Scratch::new();
    let mut server = Server::spawn(prelude, &[&["-l", &scratch.unix("s")], args].concat());
    for _ in 0..20 {
        serves(&scratch.unix("s"));
    }
    assert_eq!(server.stop(), Some(0), "{prelude} {args:?}");
}

#[test] // closed or full standard streams neither block nor end it, nor reach a client
fn closed_and_full_streams() {
    for streams in ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", ">/dev/full", "2>/dev/full"] {
        for option in ["-q", "-v", "--narrate"] {
            serves_after(&format!("exec {streams}"), &[option]);
        }
    }
}

/// A pipe that is full from the start and that nobody reads.
fn full_pipe(path: &PathBuf) -> File {
    mkfifo(path, Mode::S_IRWXU).unwrap();
    let nonblocking = nix::libc::O_NONBLOCK;
    let mut pipe =
        OpenOptions::new().read(true).write(true).custom_flags(nonblocking).open(path).unwrap();
    while pipe.write(&[b'.'; 512]).is_ok() {}
    pipe
}

#[test] // a stdout or stderr that nobody reads neither blocks nor ends it
fn full_pipes() {
    let scratch = Scratch::new();
    let path = scratch.path("pipe");
    let _pipe = full_pipe(&path);
    for streams in [">", "2>"] {
        for option in ["-v", "--narrate"] {
            serves_after(&format!("exec {streams}{}", quoted(&path)), &[option]);
        }
    }
}

/// Serves with a pipe of ours on stderr: `act` gets the pipe's reader.
fn serves_with_a_pipe(option: &str, rounds: usize, act: impl FnOnce(File)) {
    let scratch = Scratch::new();
    let path = scratch.path("pipe");
    mkfifo(&path, Mode::S_IRWXU).unwrap();
    let reader = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let mut server = Server::start_after(&format!("exec 2>{}", quoted(&path)), &[option]);
    act(reader);
    (0..rounds).for_each(|_| serves(&server.addresses[0]));
    assert_eq!(server.stop(), Some(0));
}

#[test] // a pipe on stderr that fills up while it runs does not stop it, at -v or narrating
fn a_pipe_that_fills_up() {
    for option in ["-v", "--narrate"] {
        serves_with_a_pipe(option, 1500, std::mem::forget); // stays open, and is never read
    }
}

#[test] // the reader of stderr goes away: no SIGPIPE, no panic, it serves on
fn stderr_loses_its_reader() {
    for option in ["-v", "--narrate"] {
        serves_with_a_pipe(option, 20, drop);
    }
}

#[test] // -v has one line when a connection opens and one when it closes; without it there is none
fn connections_in_the_log() {
    for (options, due) in [(&["-v"][..], 2), (&[], 0), (&["-q"], 0)] {
        let mut server = Server::start(options);
        let mut client = server.client();
        client.ask("hello\n");
        let name = client.name();
        client.finish();
        client.expect_end();
        assert_eq!(server.stop(), Some(0));
        let logs = server.logs();
        assert_eq!(logs.lines().filter(|line| line.contains(&name)).count(), due, "{logs}");
    }
}

#[test] // the log has a few lines at info, none with -q, and what a client sends is not in it
fn a_few_lines() {
    for (options, due) in [(&[][..], 1..=8), (&["-q"], 0..=0)] {
        let mut server = Server::start(options);
        server.clients(20).iter_mut().for_each(|client| client.ask("a\u{1b}[31msecret\n"));
        assert_eq!(server.stop(), Some(0));
        let logs = server.logs();
        assert!(due.contains(&logs.lines().count()), "{options:?}: {logs}");
        assert!(!logs.contains("secret"), "{logs}");
    }
}

#[test] // --narrate prints the calls as strace does: no log prefix, escaped, cut at 32 bytes
fn narration() {
    let mut server = Server::start(&["--narrate"]);
    let mut client = server.client();
    client.ask("a\u{1b}[31m\0\u{7}1\t\"\\\r\n");
    client.ask(&format!("{}\n", "x".repeat(40)));
    drop(client);
    assert_eq!(server.stop(), Some(0));
    let logs = server.logs();
    let told = |start: &str, parts: &[&str]| {
        let fits = |line: &&str| {
            line.starts_with(start)
                && line.contains(" = ")
                && parts.iter().all(|part| line.contains(part))
        };
        assert!(logs.lines().any(|line| fits(&line)), "no {start} with {parts:?} in {logs}");
    };
    for call in ["socket(", "bind(", "listen(", "epoll_create1(", "epoll_ctl(", "epoll_wait("] {
        told(call, &["  # docs/", ".md"]);
    }
    told("accept4(", &["sin_addr=inet_addr(\"127.0.0.1\")", "SOCK_CLOEXEC|SOCK_NONBLOCK"]);
    told("recvfrom(", &[r#""a\33[31m\0\0071\t\"\\\r\n""#]);
    told("recvfrom(", &[&format!("\"{}\"...", "x".repeat(32)), ") = 41"]);
    told("sendto(", &["\"Thank you for your message xxxxx\"...", "MSG_NOSIGNAL", ") = 68"]);
    assert!(!logs.contains(char::from(0x1b)), "{}", show(logs.as_bytes()));
}
