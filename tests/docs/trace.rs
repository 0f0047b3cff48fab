//! The traces of the docs: the real program under strace, with clients that take one step
//! at a time.
//!
//! Each scenario runs with `--narrate` too, so each trace has two witnesses, and they must
//! agree before anything is shown. What differs from run to run and teaches nothing is
//! made the same: see [`normal`].

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;

use super::buffers::{Buffers, STOPS};
use super::source::Method;
use super::support::{Client, Scratch, Server, Signal, quoted, thanks, until};

/// A dialogue between the program and its clients.
struct Scenario {
    name: &'static str,
    args: &'static [&'static str],
    play: fn(&mut Stage),
}

impl Scenario {
    /// A program with threads: an example.
    fn is_threaded(&self) -> bool {
        self.name == "pool"
    }
}

const fn scenario(
    name: &'static str,
    args: &'static [&'static str],
    play: fn(&mut Stage),
) -> Scenario {
    Scenario { name, args, play }
}

const SCENARIOS: [Scenario; 17] = [
    scenario("hello", &[], hello),
    scenario("once", &["-l", "127.0.0.1:1234", "once"], once),
    scenario("half", &[], half),
    scenario("crowd", &[], crowd),
    scenario("reset", &[], reset),
    scenario("slow", &[], slow),
    scenario("chat", &["chat"], chat),
    scenario("full", &["--max-connections", "1"], full),
    scenario("idle", &["--idle-timeout", "0.1"], idle),
    scenario("stop", &[], stop),
    scenario("unix", &["-l", "unix:server.sock", "--unix-mode", "666"], unix),
    scenario("http", &["-l", "127.0.0.1:8080", "http", "public"], http),
    scenario("proxy", &["-l", "127.0.0.1:6380", "proxy", "127.0.0.1:6379"], proxy),
    scenario("refused", &["-l", "127.0.0.1:6380", "proxy", "127.0.0.1:6379"], refused),
    scenario("pool", &[], pool),
    scenario("passed", &[], passed),
    scenario("handover", &["--reuse-port"], handover),
];

// ---- what the clients do -------------------------------------------------------------

/// One client, one message, and an orderly end.
fn hello(stage: &mut Stage) {
    let mut client = stage.connect();
    stage.step(|| client.send("hello\n"));
    client.expect(thanks("hello\n"));
    stage.step(|| client.finish());
    client.expect_end();
}

/// The server ends the connection, and then itself.
fn once(stage: &mut Stage) {
    let mut client = stage.connect();
    client.send("hello\n"); // and no step: within 20 ms the client has to be gone
    client.expect_rest("Good talking to you\n");
    drop(client);
    until("the end", || stage.server.has_ended());
}

/// A client that says all it has to say at once, its end included.
fn half(stage: &mut Stage) {
    let mut client = stage.connect();
    stage.frozen(|_| {
        client.send("one\ntwo");
        client.finish();
    });
    client.expect_rest(thanks("one\n") + &thanks("two\n"));
}

/// Five at once, who wait in the queue of a server that is busy elsewhere.
fn crowd(stage: &mut Stage) {
    let mut clients = Vec::new();
    stage.frozen(|server| clients = server.clients(5));
    stage.frozen(|_| drop(clients));
}

/// A client that asks and resets before anybody has read its question.
fn reset(stage: &mut Stage) {
    let mut client = stage.connect();
    stage.frozen(|_| {
        client.send("hello\n");
        client.reset();
    });
}

/// A client that asks for much, and does not read for a while.
fn slow(stage: &mut Stage) {
    const LINES: usize = 10_000;
    let mut client = stage.connect();
    stage.step(|| client.send([b'\n'; LINES]));
    // What the kernel has taken; the rest is in the server, which learns of room only later.
    let due = thanks("\n").repeat(LINES);
    let taken = stage.log().lines().rev().filter(|line| line.contains(" sendto(")).find_map(result);
    let taken = taken.unwrap();
    stage.frozen(|_| client.expect(&due[..taken]));
    client.expect(&due[taken..]);
    stage.step(|| drop(client));
}

/// What a call returned, if it was no errno.
fn result(line: &str) -> Option<usize> {
    line.rsplit(" = ").next()?.parse().ok()
}

/// One who says two long lines, and asks something in between; and one who hears them.
fn chat(stage: &mut Stage) {
    let mut talker = stage.connect();
    let mut other = stage.connect();
    let [one, two] = ["a", "b"].map(|letter| letter.repeat(3_000) + "\n");
    stage.step(|| talker.send(format!("{one}/who\n{two}")));
    while !talker.line().contains("2 here") {}
    while !other.line().contains("bbb") {}
    stage.step(|| drop(talker));
    stage.step(|| drop(other));
}

/// A second client where there is room for one.
fn full(stage: &mut Stage) {
    let first = stage.connect();
    let mut second = stage.server.client();
    second.send("hello\n");
    stage.step(|| drop(first));
    second.expect(thanks("hello\n"));
    stage.step(|| drop(second));
}

/// A client that says nothing.
fn idle(stage: &mut Stage) {
    let mut client = stage.connect();
    client.expect_end();
    stage.step(|| drop(client));
}

/// SIGTERM, with one client who has asked and one who waits in the queue. They end at once, and
/// when the listener is closed: the end of one alone would set a timer of 1 ms, and what comes
/// before that depends on how busy the machine is.
fn stop(stage: &mut Stage) {
    let mut clients = vec![stage.connect()];
    stage.frozen(|server| {
        clients[0].send("last\n");
        server.signal(Signal::SIGTERM);
        clients.push(server.client());
        clients[1].send("hello\n");
    });
    clients[0].expect_rest(thanks("last\n"));
    clients[1].expect_rest(thanks("hello\n"));
    let is_closed = |line: &String| line.starts_with("close(3)");
    until("the listener to be closed", || normal(&stage.log()).iter().any(is_closed));
    stage.seen = 0; // it may have been closed in the step before
    stage.settle();
    stage.frozen(|_| clients.iter_mut().for_each(Client::finish));
    until("the end", || stage.server.has_ended());
}

/// Where a server was killed and left its socket file.
fn unix(stage: &mut Stage) {
    let address = stage.scratch.unix("server.sock");
    let mut client = stage.connect_to(&address);
    stage.step(|| client.send("hello\n"));
    client.expect(thanks("hello\n"));
    stage.step(|| drop(client));
}

/// A small file, a large one, and a path that leads out.
fn http(stage: &mut Stage) {
    let mut client = stage.connect_to("127.0.0.1:8080");
    for (path, length) in [("small.txt", 6), ("large.bin", LARGE), ("out.txt", 0)] {
        stage.step(|| client.send(format!("GET /{path} HTTP/1.1\r\nHost: h\r\n\r\n")));
        while client.line() != "\r\n" {}
        let length = if length == 0 { "not found\n".len() } else { length };
        let mut body = client.some(length).unwrap();
        while body.len() < length {
            body.extend(client.some(length - body.len()).unwrap());
        }
    }
    stage.step(|| drop(client));
}

const LARGE: usize = 50_000;

/// A client, and the server behind.
fn proxy(stage: &mut Stage) {
    let behind = TcpListener::bind("127.0.0.1:6379").unwrap();
    let mut client = stage.connect_to("127.0.0.1:6380");
    let (mut there, _) = behind.accept().unwrap();
    stage.step(|| client.send("ping\n"));
    there.read_exact(&mut [0; 5]).unwrap();
    stage.step(|| there.write_all(b"pong\n").unwrap());
    client.expect("pong\n");
    stage.step(|| client.finish());
    stage.step(|| drop(there));
    client.expect_end();
}

/// The server behind answers amid an upload, and resets.
fn refused(stage: &mut Stage) {
    let behind = TcpListener::bind("127.0.0.1:6379").unwrap();
    let mut client = stage.connect_to("127.0.0.1:6380");
    let (mut there, _) = behind.accept().unwrap();
    stage.step(|| client.send("upload\n"));
    stage.step(|| there.write_all(b"no\n").unwrap());
    client.expect("no\n");
    stage.step(|| drop(there));
    client.until_reset();
}

/// The example with threads: one of them wakes the loop.
fn pool(stage: &mut Stage) {
    let mut client = stage.connect_to("127.0.0.1:1234");
    stage.step(|| client.send("999999999999989\n"));
    client.line();
    stage.settle();
    stage.step(|| drop(client));
}

/// A socket that was passed, and a service manager that is told.
fn passed(stage: &mut Stage) {
    let mut client = stage.connect();
    stage.step(|| client.send("hello\n"));
    client.expect(thanks("hello\n"));
    stage.step(|| drop(client));
}

/// A port that is shared, though nobody else is there.
fn handover(stage: &mut Stage) {
    passed(stage);
}

// ---- how they are played -------------------------------------------------------------

/// A running server and what strace has told of it so far.
pub struct Stage {
    server: Server,
    scratch: Scratch,
    log: PathBuf,
    /// How many lines of it belong to steps that are done.
    seen: usize,
    buffers: Buffers,
    /// What the server tells.
    _manager: Option<UnixDatagram>,
}

impl Stage {
    /// The server under strace, narrating, after `rule` for strace; ready and asleep.
    fn start(scenario: &Scenario, methods: &[Method], rule: &str) -> Stage {
        let scratch = Scratch::new();
        scratch.stale_socket("server.sock");
        fs::create_dir(scratch.path("public")).unwrap();
        fs::write(scratch.path("public/small.txt"), "hello\n").unwrap();
        fs::write(scratch.path("public/large.bin"), vec![b'x'; LARGE]).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", scratch.path("public/out.txt")).unwrap();
        let log = scratch.path("strace");
        // Each call under every name that it has on some machine.
        let names: String = methods.iter().map(|method| format!("?{},", method.traced())).collect();
        let names = names + "?epoll_pwait,?lstat,?fchmodat,?unlinkat,exit_group";
        let strace = format!("strace -D -f -q -e trace={names} {rule} -o {}", quoted(&log));
        let folder = scratch.path(".");
        let setup = format!("umask 022; ulimit -Sn 1024; ulimit -Hn 16384; cd {}", quoted(&folder));
        let program = match scenario.is_threaded() {
            true => super::support::example("worker_pool"),
            false => env!("CARGO_BIN_EXE_threadbare").to_owned(),
        };
        let prelude = format!("{setup}; exec {strace} \"$0\" --narrate \"$@\"");
        let mut manager = None;
        let server = match scenario.name {
            "passed" => {
                let door = TcpListener::bind("127.0.0.1:1234").unwrap();
                let name = SocketAddr::from_abstract_name("manager").unwrap();
                manager = UnixDatagram::bind_addr(&name).ok();
                let prelude = format!("export NOTIFY_SOCKET=@manager; {prelude}");
                Server::spawn_with(&[&door], "", &prelude, scenario.args)
            }
            _ => Server::spawn_other(&prelude, &program, scenario.args),
        };
        let buffers = Buffers::watch(server.pid(), &log, rule == STOPS);
        let mut stage = Stage { server, scratch, log, seen: 0, buffers, _manager: manager };
        until("the ready line", || stage.server.stdout().contains("listening on "));
        stage.server.addresses = vec!["127.0.0.1:1234".to_owned()];
        stage.settle();
        stage
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until the server has done something and is asleep again, or at its end.
    fn settle(&mut self) {
        let stat = format!("/proc/{}/stat", self.server.pid());
        let mut before = 0;
        until("the server to have done what there is to do", || {
            let lines = self.log().lines().count();
            let stat = fs::read_to_string(&stat).unwrap_or_default();
            let rests = stat.contains(") S ") || stat.contains(") Z ");
            let is_settled = rests && lines > self.seen && lines == before;
            before = lines;
            is_settled
        });
        self.seen = before;
    }

    /// One step of a client, and what the server does about it, to its end.
    fn step(&mut self, act: impl FnOnce()) {
        act();
        self.settle();
    }

    /// Several steps that the server finds done when it looks.
    fn frozen(&mut self, act: impl FnOnce(&Server)) {
        self.buffers.hold();
        self.server.signal(Signal::SIGSTOP);
        until("the server to be stopped", || self.buffers.is_held());
        act(&self.server);
        self.buffers.let_go();
        self.settle();
    }

    fn connect(&mut self) -> Client {
        self.connect_to("127.0.0.1:1234")
    }

    fn connect_to(&mut self, address: &str) -> Client {
        let client = Client::to(address);
        self.settle();
        client
    }
}

/// What a scenario came to: the lines of strace, what the buffers held beside them, and the
/// lines of the narrator.
struct Told {
    trace: Vec<String>,
    buffers: String,
    narrated: Vec<String>,
}

fn run(scenario: &Scenario, methods: &[Method], rule: &str) -> Told {
    let mut stage = Stage::start(scenario, methods, rule);
    (scenario.play)(&mut stage);
    if !stage.server.has_ended() {
        stage.server.signal(Signal::SIGTERM);
    }
    stage.server.wait();
    until("strace to have told all", || stage.log().contains("+++ exited with"));
    let log = stage.log();
    let narrated = stage.server.logs();
    let narrated = narrated.lines().filter(|line| line.contains("  # docs/"));
    let buffers = stage.buffers.told();
    Told { trace: normal(&log), buffers, narrated: narrated.map(str::to_owned).collect() }
}

// ---- making runs the same ------------------------------------------------------------

/// The lines of strace from the first call in `main` on, without what it alone can see:
/// process ids, addresses in memory, what comes with a signal, and how machines and
/// versions of strace write the same call.
pub fn normal(log: &str) -> Vec<String> {
    let mut unfinished: HashMap<&str, &str> = HashMap::new();
    let mut lines: Vec<(&str, String)> = Vec::new();
    for line in log.lines() {
        let (thread, call) = line.split_once(' ').unwrap_or_default();
        let mut call = call.trim_start().to_owned();
        // What lasts while another thread calls is told in two lines.
        if let Some(start) = line.strip_suffix(" <unfinished ...>") {
            unfinished.insert(thread, start[thread.len()..].trim_start());
            continue;
        }
        if let Some((_, rest)) = call.split_once(" resumed>") {
            call = unfinished.remove(thread).unwrap_or_default().to_owned() + rest;
        }
        // Before `main` there are signals, too, but not this one.
        let begins =
            ["rt_sigaction(SIGHUP, NULL", "openat2("].iter().any(|it| call.starts_with(it));
        let is_ours = !LEFT_OUT.iter().any(|start| call.starts_with(start));
        if (begins || !lines.is_empty()) && is_ours {
            lines.push((thread, plain(&call)));
        }
    }
    let main = lines.first().map_or("", |(thread, _)| thread);
    let is_alone = lines.iter().all(|(thread, _)| *thread == main);
    // Before it starts threads a program asks how many cores it may use, and how that is
    // found out differs from machine to machine.
    let at = |start| lines.iter().rposition(|(_, line)| line.starts_with(start));
    if let (false, Some(opened), Some(ready)) =
        (is_alone, at("epoll_ctl(4, EPOLL_CTL_ADD, 3,"), at("write(1,"))
    {
        lines.drain(opened + 1..ready);
    }
    let named = lines.into_iter().map(|(thread, line)| match (is_alone, thread == main) {
        (true, _) => line,
        (_, true) => format!("[loop] {line}"),
        (_, false) => format!("[pool] {line}"),
    });
    named.collect()
}

/// What is not a call of the loop: the log and its signal, what the C library does for a new
/// thread, and what strace has to say.
const LEFT_OUT: [&str; 10] = [
    "write(2,",
    "ioctl(1, T",
    "ioctl(2, T",
    "rt_sigprocmask(SIG_SETMASK",
    "rt_sigprocmask(SIG_BLOCK, ~[",
    "rt_sigprocmask(SIG_UNBLOCK, [RTMIN",
    "rt_sigaction(SIGRT_1",
    "rt_sigaction(SIGXFSZ",
    "---",
    "+++",
];

/// How other machines' calls for the same begin and end, and how ours do.
const ALIASES: [[&str; 4]; 5] = [
    ["epoll_pwait(", ", NULL, 8)", "epoll_wait(", ")"],
    ["lstat(", ")", "newfstatat(AT_FDCWD, ", ", AT_SYMLINK_NOFOLLOW)"],
    ["stat(", ")", "newfstatat(AT_FDCWD, ", ", 0)"],
    ["fchmodat(AT_FDCWD, ", ")", "chmod(", ")"],
    ["unlinkat(AT_FDCWD, ", ", 0)", "unlink(", ")"],
];

/// And older versions of strace have other words.
const OLDER: [(&str, &str); 4] = [
    ("{EPOLL", "{events=EPOLL"),
    (", {u32=", ", data={u32="),
    ("{0, data=", "{events=0, data="),
    ("0x53 /* SO_??? */", "SO_PASSRIGHTS"),
];

/// A call as every machine and version would tell it.
pub fn plain(call: &str) -> String {
    let (call, result) = call.rsplit_once(" = ").unwrap_or((call, ""));
    let mut call = call.trim_end().to_owned();
    for [begin, end, our_begin, our_end] in ALIASES {
        let arguments = call.strip_prefix(begin).and_then(|rest| rest.strip_suffix(end));
        call = arguments.map_or(call.clone(), |it| format!("{our_begin}{it}{our_end}"));
    }
    for (theirs, ours) in OLDER {
        call = call.replace(theirs, ours);
    }
    call = masked(&call, "0x", char::is_ascii_hexdigit, 6, "…");
    // Questions about sockets and their answers: what they are, and no more.
    for [end, known] in [[", 72)", "\\24\\0\\1\\3"], [", 20)", "\\24\\0\\0\\0\\3\\0"]] {
        if let Some(at) = call.find(known).filter(|_| call.ends_with(end)) {
            call = format!("{}\"...{end}", &call[..at + known.len()]);
        }
    }
    if let Some(signal) = call.find("\\0\\0\\0").filter(|_| call.ends_with(", 128)")) {
        call = format!("{}\\0\\0\\0\"..., 128)", &call[..signal]);
    }
    if result.is_empty() { call } else { format!("{call:<39} = {result}") }
}

/// What stands behind each `start`, of such characters and at least so many, as `by`.
pub fn masked(text: &str, start: &str, of: fn(&char) -> bool, least: usize, by: &str) -> String {
    let mut pieces = text.split(start);
    let mut result = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let length = piece.chars().take_while(of).count();
        result += start;
        result += if length >= least { by } else { &piece[..length] };
        result += &piece[length..];
    }
    result
}

/// The lines without moments, and with 50001, 50002 and so on for the ports that the kernel
/// chose.
pub fn timeless(lines: Vec<String>) -> Vec<String> {
    let mut known: Vec<String> = Vec::new();
    let rename = |line: String| {
        let line = masked(&line, "it_value={tv_sec=", char::is_ascii_digit, 2, "…");
        let line = masked(&line, "…, tv_nsec=", char::is_ascii_digit, 1, "…");
        let line = masked(&line, "\\r\\nDate: ", |c| *c != '"', 1, "…");
        let mut pieces = line.split("sin_port=htons(");
        let mut result = pieces.next().unwrap_or_default().to_owned();
        for piece in pieces {
            let (port, rest) = piece.split_once(')').unwrap();
            let mut shown = port.to_owned();
            if port.parse().is_ok_and(|port: u16| port >= 32_768) {
                let at = known.iter().position(|it| it == port).unwrap_or(known.len());
                if at == known.len() {
                    known.push(port.to_owned());
                }
                shown = (50_001 + at).to_string();
            }
            result += &format!("sin_port=htons({shown}){rest}");
        }
        result
    };
    lines.into_iter().map(rename).collect()
}

// ---- all of them -------------------------------------------------------------------

/// Where the trace of a scenario stands.
pub fn golden(name: &str) -> String {
    format!("docs/traces/{name}.txt")
}

/// The traces by the names of their scenarios; and those of failures, by what fails.
pub struct Traces {
    all: HashMap<String, Vec<String>>,
    /// How many lines both witnesses agree on.
    pub agreed: usize,
}

/// The calls of a trace in whatever order, but for those that only wait.
fn calls_made(trace: &[String]) -> Vec<&String> {
    let waits =
        |line: &&String| !line.starts_with("epoll_wait(") && !line.starts_with("timerfd_settime(");
    let mut calls: Vec<&String> = trace.iter().filter(waits).collect();
    calls.sort();
    calls
}

/// Plays each scenario while its buffers are looked at: gives `settle` its name, its trace, and
/// what the buffers held, until that is content, or six times.
pub fn look(methods: &[Method], mut settle: impl FnMut(&str, &[String], String) -> bool) {
    for scenario in &SCENARIOS {
        for _ in 0..6 {
            let told = run(scenario, methods, STOPS);
            if settle(scenario.name, &timeless(told.trace), told.buffers) {
                break;
            }
        }
    }
}

impl Traces {
    /// Plays all scenarios, and `hello` once more for each of the faults.
    pub fn new(methods: &[Method], faults: &[String]) -> Result<Traces, String> {
        let mut traces = Traces { all: HashMap::new(), agreed: 0 };
        for scenario in &SCENARIOS {
            let golden = fs::read_to_string(golden(scenario.name)).unwrap_or_default();
            traces.settle(scenario, methods, "", scenario.name, Some(&golden))?;
        }
        for fault in faults {
            let [call, errno, when] = fault.split(' ').collect::<Vec<_>>()[..] else {
                return Err(format!("a fault is a call, an errno and when, not {fault}"));
            };
            let rule = format!("-e inject={call}:error={errno}:when={when}");
            traces.settle(&SCENARIOS[0], methods, &rule, fault, None)?;
        }
        Ok(traces)
    }

    /// Plays a scenario until it comes out as it is known: on a busy machine two things may
    /// happen in one turn of the loop, or a timer come first. Where that is not known, or to
    /// be written, it has to come out twice; six times, if it is the same calls as are known, in
    /// another order. Where strace is so slow that a timer of 20 ms comes first each time, the calls
    /// must be the same all the same.
    fn settle(
        &mut self,
        scenario: &Scenario,
        methods: &[Method],
        rule: &str,
        name: &str,
        known: Option<&str>,
    ) -> Result<(), String> {
        let twice_will_do = known.is_none() || std::env::var("UPDATE").is_ok();
        let known: Vec<String> = known.unwrap_or_default().lines().map(str::to_owned).collect();
        let (mut before, mut differs, mut agreed) = (Vec::new(), None, 0);
        for _ in 0..6 {
            let told = run(scenario, methods, rule);
            agreed = agree(name, &told, methods)?;
            let trace = timeless(told.trace);
            let has_known_calls = calls_made(&known) == calls_made(&trace);
            let is_settled = known == trace || twice_will_do && before == trace && !has_known_calls;
            let differ = trace.iter().zip(&before).find(|(new, old)| new != old);
            differs = differ.map(|differ| format!("{differ:#?}")).or(differs);
            before.clone_from(&trace);
            self.all.insert(name.to_owned(), trace);
            if is_settled {
                self.agreed += agreed;
                return Ok(());
            }
        }
        self.agreed += agreed;
        match differs {
            None if twice_will_do => {} // it is another one each time, and the same
            _ if calls_made(&known) == calls_made(&before) => {
                self.all.insert(name.to_owned(), known);
            }
            Some(differs) if twice_will_do => {
                return Err(format!("{name} comes out differently each time: {differs}"));
            }
            _ => {} // what is otherwise will be told
        }
        Ok(())
    }

    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.all.keys()
    }

    pub fn lines(&self, name: &str) -> Result<&[String], String> {
        self.all.get(name).map(Vec::as_slice).ok_or_else(|| format!("no scenario {name}"))
    }

    /// A piece of a trace: `accept4..sendto`, from the first line of the one call to the next
    /// line of the other; `recvfrom#2` for one; nothing for all.
    pub fn slice(&self, name: &str, bounds: &str) -> Result<&[String], String> {
        let lines = self.lines(name)?;
        if bounds.is_empty() {
            return Ok(lines);
        }
        let (from, to) = bounds.split_once("..").unwrap_or((bounds, ""));
        let start = place(lines, from).ok_or_else(|| format!("{name} has no {from}"))?;
        let rest = &lines[start..];
        let length = if to.is_empty() { Some(0) } else { place(rest, to) };
        let length = length.ok_or_else(|| format!("{name} has no {to} behind {from}"))?;
        Ok(&rest[..=length])
    }

    /// From the call before the first failure to the first success of the same call, or, if
    /// there is none, to the next close.
    pub fn fault(&self, fault: &str) -> Result<&[String], String> {
        let lines = self.lines(fault)?;
        let failed = |line: &String| line.ends_with("(INJECTED)");
        let first =
            lines.iter().position(failed).ok_or_else(|| format!("{fault} did not strike"))?;
        let last = lines.iter().rposition(failed).unwrap_or(first);
        let call = lines[first].split_inclusive('(').next().unwrap_or_default();
        let rest = &lines[last + 1..];
        let success = rest.iter().position(|line| line.starts_with(call));
        let length = success.or_else(|| rest.iter().position(|line| line.starts_with("close(")));
        Ok(&lines[first.saturating_sub(1)..last + 2 + length.unwrap_or(0)])
    }
}

/// Which thread of several made a call, and the call.
fn by_whom(line: &str) -> (&str, &str) {
    let named = ["[loop] ", "[pool] "].iter().find(|it| line.starts_with(**it));
    line.split_at(named.map_or(0, |it| it.len()))
}

/// Where the n-th line of a call is: `name#n`.
fn place(lines: &[String], call: &str) -> Option<usize> {
    let (name, number) = call.split_once('#').unwrap_or((call, "1"));
    let is_call = |line: &String| {
        by_whom(line).1.strip_prefix(name).is_some_and(|rest| rest.starts_with('('))
    };
    let mut places = (0..lines.len()).filter(|&at| is_call(&lines[at]));
    places.nth(number.parse::<usize>().ok()?.checked_sub(1)?)
}

/// That strace and the narrator say the same, line by line: how many lines. And that what
/// the narrator names as the chapter behind a call is one in which the call stands.
fn agree(name: &str, told: &Told, methods: &[Method]) -> Result<usize, String> {
    // Neither a line on stdout nor the end of the process is a call of the server's.
    let is_told = |line: &&str| !["write(1,", "exit_group("].iter().any(|it| line.starts_with(it));
    let is_from_outside = |line: &&str| line.starts_with("write(");
    let calls = told.trace.iter().map(|line| by_whom(line).1);
    let mut seen: Vec<&str> = calls.filter(is_told).collect();
    // Of two threads each tells its own calls in order.
    seen.sort_by_key(is_from_outside);
    let mut narrated = Vec::new();
    for line in &told.narrated {
        let (call, chapter) = line.rsplit_once("  # docs/").unwrap_or_default();
        let chapter = chapter.trim_end_matches(".md").to_owned();
        let traced = call.split('(').next().unwrap_or_default();
        let mut of_call = methods.iter().filter(|method| method.traced() == traced);
        if !of_call.any(|method| method.chapters.contains(&chapter)) {
            return Err(format!("{name}: {chapter} is no chapter behind {traced}: {line}"));
        }
        narrated.push(plain(call));
    }
    narrated.sort_by_key(|line| is_from_outside(&line.as_str()));
    let told = |line: &str| line.trim_end_matches(" (INJECTED)").to_owned();
    for (at, line) in seen.iter().enumerate() {
        let other = narrated.get(at).map_or("nothing", String::as_str);
        if told(line) != other {
            return Err(format!(
                "{name}, call {at}: strace and the narrator differ\n- {line}\n+ {other}"
            ));
        }
    }
    if narrated.len() != seen.len() {
        return Err(format!("{name}: more is narrated than done: {}", narrated[seen.len()]));
    }
    Ok(seen.len())
}

#[test] // strace 5 on one machine, strace 6 on another
fn a_trace_is_the_same_on_every_machine() {
    const OLD: [&str; 7] = [
        "77  rt_sigaction(SIGHUP, NULL, {sa_handler=SIG_DFL, sa_mask=[], sa_flags=0}, 8) = 0",
        "77  epoll_pwait(4, [{EPOLLIN, {u32=3, u64=3}}], 1024, -1, NULL, 8) = 1",
        "77  lstat(\"s\", {st_mode=S_IFSOCK|0755, st_size=0, ...}) = 0",
        "77  fchmodat(AT_FDCWD, \"s\", 0666) = 0",
        "77  unlinkat(AT_FDCWD, \"s\", 0) = 0",
        "77  write(2, \"error: \", 7) = 7",
        "77  read(5, 0x7ffe5b6034a0, 128) = -1 EAGAIN (Resource temporarily unavailable)",
    ];
    const NEW: [&str; 8] = [
        "9 rt_sigaction(SIGPIPE, NULL, {sa_handler=SIG_DFL, sa_mask=[], sa_flags=0}, 8) = 0",
        "9 rt_sigaction(SIGHUP, NULL, {sa_handler=SIG_DFL, sa_mask=[], sa_flags=0}, 8) = 0",
        "9 epoll_wait(4, [{events=EPOLLIN, data={u32=3, u64=3}}], 1024, -1) = 1",
        "9 newfstatat(AT_FDCWD, \"s\", {st_mode=S_IFSOCK|0755, st_size=0, ...}, AT_SYMLINK_NOFOLLOW) = 0",
        "9 chmod(\"s\", 0666)                     = 0",
        "9 unlink(\"s\")                           = 0",
        "9 read(5, 0x55555b6034a0, 128)          = -1 EAGAIN (Resource temporarily unavailable)",
        "9 +++ exited with 0 +++",
    ];
    assert_eq!(normal(&OLD.join("\n")), normal(&NEW.join("\n")));
    let thread = "7 rt_sigaction(SIGHUP, NULL, 0) = 0\n7 epoll_wait(4,  <unfinished ...>\n\
        8 write(7, \"1\", 8) = 8\n7 <... epoll_wait resumed>[], 1, -1) = 0";
    let due = ["[loop] rt_sigaction(", "[pool] write(", "[loop] epoll_wait(4, [], 1, -1)  "];
    for (line, start) in normal(thread).iter().zip(due) {
        assert!(line.starts_with(start), "{line}");
    }
}
