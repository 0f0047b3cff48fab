//! The real program on bad networks: loss, resets, cut cables, slow lines, tiny segments.
//!
//! Each case is a process of its own: this program, run once more by unshare(1) in a
//! network namespace of its own, plays the clients, and the server it starts is in
//! another. Two cables (veth) join them. Cable 1 is the one that suffers; on cable 2 a
//! witness talks all the while and must not notice. The namespaces have no names and end
//! with their processes, and these with the one that began them, however it ends: nothing
//! of the machine's own network is touched and nothing is left behind. Who is not root is
//! root in a user namespace, which is enough.
//!
//! Whatever the network does, at the end of each case: every byte that came was due, the
//! witness was answered at once, no descriptor is left, nothing was spun, each connection
//! ended for the reason it should, the server in the status it should, and its log says of
//! a connection that it was opened and that it was closed, to those who debug, and nothing
//! more.

use std::env;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::support::{
    Client, PATIENCE, Server, Signal, WAYS, again, in_a_network_of_its_own, needs, outcome, path,
    pattern, skip, until,
};

/// Tells a process which case it is to play, and what network it must not play in.
const PLAY: &str = "THREADBARE_NETWORK_CASE";
const OUTSIDE: &str = "THREADBARE_NETWORK_OUTSIDE";
/// CPU time that no case needs, in ticks of 10 ms.
const SPIN: u64 = 20;
/// An answer to the witness that takes so long is late.
const LATE: Duration = Duration::from_secs(3);

/// Something that networks do, and what must come of it.
struct Case {
    name: &'static str,
    /// Of the server, which is an `echo`.
    options: &'static [&'static str],
    play: fn(&Lab),
    /// Why connections ended, but for those that their clients ended.
    reasons: &'static [&'static str],
    /// The server is stopped by the case itself,
    stops: bool,
    /// ends in this status, and has told this error.
    status: i32,
    errors: &'static [&'static str],
}

/// What most cases come to: every client ends its connection, then a signal the server.
const CASE: Case = Case {
    name: "",
    options: &[],
    play: |_| {},
    reasons: &[],
    stops: false,
    status: 0,
    errors: &[],
};

const CASES: [Case; 21] = [
    Case { name: "1 % lost", play: |lab| loss(lab, 100, 2 << 20), ..CASE },
    Case { name: "5 % lost", play: |lab| loss(lab, 20, 1 << 20), ..CASE },
    Case { name: "20 % lost", play: |lab| loss(lab, 5, 256 << 10), ..CASE },
    Case {
        name: "reset amid a transfer",
        play: reset_amid_a_transfer,
        reasons: &["peer reset"],
        ..CASE
    },
    Case {
        name: "a reset for the client only",
        options: &["--idle-timeout", "2"],
        play: reset_for_the_client,
        reasons: &["idle"],
        ..CASE
    },
    Case {
        name: "cut with an answer on its way",
        options: &["--write-timeout", "0.5"],
        play: cut_with_an_answer_on_its_way,
        reasons: &["network (ETIMEDOUT)"],
        ..CASE
    },
    Case {
        name: "cut amid a transfer",
        options: &["--write-timeout", "1"],
        play: |lab| amid_a_slow_transfer(lab, |lab, _| lab.cut()),
        reasons: &["write stalled"],
        ..CASE
    },
    Case {
        name: "cut while idle",
        options: &["--idle-timeout", "2"],
        play: cut_while_idle,
        reasons: &["idle"],
        ..CASE
    },
    Case { name: "cut and mended", play: |lab| lapse(lab, Lab::cut), ..CASE },
    Case {
        name: "cut at the server and mended",
        play: |lab| lapse(lab, unplug_the_server),
        ..CASE
    },
    Case { name: "unreachable for a while", play: |lab| lapse(lab, unreachable), ..CASE },
    Case {
        name: "stopped with an answer on its way",
        play: stop_with_an_answer_on_its_way,
        reasons: &["shutdown", "shutdown"],
        stops: true,
        ..CASE
    },
    Case {
        name: "stopped with the cable cut",
        // More waits than the kernel takes of a client whose cable is cut.
        options: &["--drain-timeout", "0.5", "--high-water", "1M"],
        play: stop_with_the_cable_cut,
        reasons: &["drain deadline", "shutdown"],
        stops: true,
        status: 1,
        errors: &["error: cut 1 connection at the drain deadline (0.5 s)"],
    },
    Case {
        name: "1 Mbit",
        options: &["--high-water", "32K", "--write-timeout", "2"],
        play: slow_line,
        ..CASE
    },
    Case {
        name: "stopped on 1 Mbit",
        play: stop_on_a_slow_line,
        reasons: &["shutdown", "shutdown"],
        stops: true,
        ..CASE
    },
    Case { name: "ss -K of one", play: kill_one, reasons: &["network (ECONNABORTED)"], ..CASE },
    Case { name: "ss -K of all", play: kill_all, reasons: &["network (ECONNABORTED)"; 9], ..CASE },
    Case {
        name: "ss -K of the listener",
        play: kill_the_listener,
        reasons: &["shutdown", "shutdown"],
        stops: true,
        status: 3,
        errors: &["error: accept4 0.0.0.0:1234: EINVAL (Invalid argument)"],
        ..CASE
    },
    Case { name: "segments of 76 bytes", play: tiny_segments, ..CASE },
    Case { name: "a tiny window, sipped", play: tiny_window, ..CASE },
    Case { name: "64 half open", options: &["--max-connections", "4"], play: half_open, ..CASE },
];

#[test] // each in a process and in networks of its own, all at once
fn every_network() {
    match env::var(PLAY) {
        Ok(name) => play(CASES.iter().find(|case| case.name == name).unwrap()),
        Err(_) => play_all(),
    }
}

/// One in ten packets between the clients and the proxy is lost, both ways, but for handshakes.
/// What was lost is sent again soon.
const LOSSY: &str = "
    nft 'table ip t { chain c { type filter hook input priority 0
        tcp flags & syn == 0 tcp sport 1234 numgen random mod 10 0 drop
        tcp flags & syn == 0 tcp dport 1234 numgen random mod 10 0 drop; }; }'
    ip route change local 127.0.0.1 dev lo table local rto_min 10ms";

/// A server that refuses an upload answers, closes, and so resets: its clients have the answer
/// although the network loses some of it, and then they hear of the end.
#[test]
fn a_reset_behind_an_answer() {
    if !needs(&["ip", "nft", "unshare"]) {
        return;
    }
    in_a_network_of_its_own("network::a_reset_behind_an_answer", LOSSY, || {
        const CLIENTS: usize = 200;
        let behind = TcpListener::bind("127.0.0.1:1235").unwrap();
        let answer = [&b"HTTP/1.1 413 \r\n\r\n"[..], &pattern(3_000)].concat();
        let proxy = Server::start(&["-l", "127.0.0.1:1234", "proxy", "127.0.0.1:1235"]);
        let answered = AtomicUsize::new(0);
        thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..CLIENTS {
                    let (mut server, _) = behind.accept().unwrap();
                    let answer = &answer;
                    scope.spawn(move || {
                        let _ = server.read(&mut [0; 100]);
                        server.write_all(answer).unwrap(); // and a reset, for it has not read all
                    });
                }
            });
            for _ in 0..CLIENTS {
                scope.spawn(|| {
                    let mut client = Client::to("127.0.0.1:1234");
                    let mut writer = client.twin();
                    scope.spawn(move || _ = writer.try_send(pattern(200_000)));
                    let mut said = Vec::new();
                    while let Ok(more @ [_, ..]) = client.some(4_096).as_deref() {
                        said.extend_from_slice(more);
                    }
                    answered.fetch_add(usize::from(said == answer), Relaxed);
                });
            }
        });
        assert_eq!(answered.into_inner(), CLIENTS);
        drop(proxy);
    });
}

// ---- the cases -----------------------------------------------------------------------

/// Dialogues and a bulk transfer, while one packet of so many is lost, both ways. Not by chance:
/// TCP waits twice as long each time, and a run of bad luck would take minutes. Nor with
/// timestamps, by which it takes a lost answer for a slow one, and waits longer and longer.
fn loss(lab: &Lab, one_of: u32, size: usize) {
    let timestamps = "echo 0 > /proc/sys/net/ipv4/tcp_timestamps";
    lab.at_client(timestamps);
    lab.at_server(timestamps);
    let (mut talkers, mut bulk) = ([lab.client(), lab.client()], lab.client());
    let lost = format!("numgen inc mod {one_of} 0 counter drop");
    lab.fault_at_client(&lost);
    lab.fault_at_server(&lost);
    thread::scope(|scope| {
        scope.spawn(|| transfer(&mut bulk, size, 64 << 10));
        for (number, client) in talkers.iter_mut().enumerate() {
            scope.spawn(move || {
                (0..20).for_each(|round| echo(client, &format!("{number}.{round}\n")))
            });
        }
    });
    let counted = [lab.at_client("nft list ruleset"), lab.at_server("nft list ruleset")];
    assert!(!counted.iter().any(|rules| rules.contains("packets 0 ")), "nothing was lost");
    lab.mend();
}

/// What the server sends is answered with a reset.
fn reset_amid_a_transfer(lab: &Lab) {
    amid_a_transfer(lab, "20mbit", 1 << 20, |lab, _| {
        lab.fault_at_client("meta l4proto tcp reject with tcp reset");
    });
}

/// What the client sends is answered with a reset, of which the server learns nothing.
fn reset_for_the_client(lab: &Lab) {
    let mut client = lab.client();
    echo(&mut client, "hello\n");
    lab.fault_at_server("meta l4proto tcp reject with tcp reset");
    client.send("unheard\n");
    assert_eq!(client.until_reset(), b"");
    lab.until_closed(1);
    lab.mend();
}

/// All that is due is in the kernel's hands: it must give up, or nobody does.
fn cut_with_an_answer_on_its_way(lab: &Lab) {
    let mut client = lab.client();
    cut_before_the_answer(lab, &mut client, Lab::cut);
    lab.until_closed(1);
    lab.mend();
    expect_no_more_than("question\n", client);
}

/// Nobody is there, and nobody says so. Where the idle timeout is off, the kernel asks.
fn cut_while_idle(lab: &Lab) {
    let mut client = lab.client();
    echo(&mut client, "hello\n");
    let asks = lab.at_server("ss -Htno dst 10.77.1.2");
    assert!(asks.contains("timer:(keepalive,"), "{asks}");
    lab.cut();
    lab.until_closed(1);
    lab.mend();
    expect_no_more_than("", client);
}

/// The network fails and recovers before any deadline: nothing is lost, either way.
fn lapse(lab: &Lab, cut: fn(&Lab)) {
    let mut client = lab.client();
    cut_before_the_answer(lab, &mut client, cut);
    client.send("another\n");
    let tries_again = || {
        let sockets = lab.at_server("ss -Htni dst 10.77.1.2");
        sockets.contains(" backoff:") || sockets.contains(" retrans:")
    };
    until("the answer to be sent again", tries_again);
    lab.mend();
    client.expect("question\nanother\n");
    echo(&mut client, "still here\n");
}

/// What a router says when the cable behind it is cut.
fn unreachable(lab: &Lab) {
    lab.fault_at_client("reject with icmp type host-unreachable");
    lab.fault_at_server("reject with icmp type host-unreachable");
}

fn unplug_the_server(lab: &Lab) {
    lab.at_server("ip link set cable1 down");
}

/// Where the kernel has all that is due, the server may end: the kernel delivers it.
fn stop_with_an_answer_on_its_way(lab: &Lab) {
    let mut client = lab.client();
    cut_before_the_answer(lab, &mut client, Lab::cut);
    lab.server.signal(Signal::SIGTERM);
    until("the server to end", || lab.server.has_ended());
    lab.mend();
    client.expect_rest("question\n");
}

/// What it has not is cut at the drain deadline, and counted.
fn stop_with_the_cable_cut(lab: &Lab) {
    amid_a_slow_transfer(lab, |lab, _| {
        lab.cut();
        lab.server.signal(Signal::SIGTERM);
    });
}

/// What comes faster than it can be answered, the server leaves unread.
fn slow_line(lab: &Lab) {
    lab.slow_down("1mbit");
    let (mut client, bytes) = (lab.client(), pattern(448 << 10));
    let mut writer = client.twin();
    thread::scope(|scope| {
        scope.spawn(|| (writer.send(&bytes), writer.finish()));
        until("the server to read no more", || lab.server.held_back() == 1);
        client.expect_rest(&bytes);
    });
}

/// What was received before the stop is answered in full, though that takes a while.
fn stop_on_a_slow_line(lab: &Lab) {
    lab.slow_down("1mbit");
    let (mut client, bytes) = (lab.client(), pattern(320 << 10));
    client.send(&bytes);
    until("the server to have it", || lab.unsent() == 0 && lab.unread() == 0);
    lab.server.signal(Signal::SIGTERM);
    client.expect_rest(&bytes);
}

fn kill_one(lab: &Lab) {
    let mut other = lab.client();
    amid_a_transfer(lab, "20mbit", 1 << 20, |lab, client| {
        lab.at_server(&format!("ss -KHtn dst {client}"));
    });
    echo(&mut other, "still here\n");
}

/// The witness too.
fn kill_all(lab: &Lab) {
    let mut clients: Vec<Client> = (0..8).map(|_| lab.client()).collect();
    clients.iter_mut().for_each(|client| echo(client, "hello\n"));
    lab.at_server("ss -KHtn state established");
    clients.iter_mut().for_each(|client| assert_eq!(client.until_reset(), b""));
}

/// The server finishes what it can, and fails.
fn kill_the_listener(lab: &Lab) {
    let mut client = lab.client();
    echo(&mut client, "hello\n");
    lab.server.freeze();
    client.send("question\n");
    until("the question", || lab.unread() > 0);
    lab.at_server("ss -KHtnl");
    lab.server.thaw();
    client.expect_rest("question\n");
}

fn tiny_segments(lab: &Lab) {
    let route = "ip route change 10.77.1.0/24 dev cable1 advmss 88";
    lab.at_client(route);
    lab.at_server(route);
    let mut client = lab.client();
    let sockets = lab.at_server("ss -Htni dst 10.77.1.2");
    assert!(sockets.contains(" mss:76 "), "{sockets}");
    transfer(&mut client, 256 << 10, 64 << 10);
}

fn tiny_window(lab: &Lab) {
    lab.at_client("echo 4096 4096 4096 > /proc/sys/net/ipv4/tcp_rmem");
    let mut client = lab.client();
    transfer(&mut client, 64 << 10, 7);
}

/// Clients whose handshake lacks its last part take nobody's place. When the network lets
/// them, all come in, a few at a time.
fn half_open(lab: &Lab) {
    lab.fault_at_client("tcp flags & (syn | ack) == (syn | ack) drop");
    thread::scope(|scope| {
        for _ in 0..64 {
            scope.spawn(|| echo(&mut lab.client(), "at last\n"));
        }
        let half_open = || lab.at_server("ss -Htn state syn-recv").lines().count();
        until("half open connections", || half_open() == 64);
        echo(&mut Client::to(WITNESS), "hello\n");
        lab.mend();
    });
}

// ---- what several cases do -------------------------------------------------------------

fn echo(client: &mut Client, line: &str) {
    client.send(line);
    client.expect(line);
}

/// Sends so many bytes and FIN, and reads them back, at most `sip` at once, and FIN.
fn transfer(client: &mut Client, size: usize, sip: usize) {
    let (bytes, mut writer) = (pattern(size), client.twin());
    thread::scope(|scope| {
        scope.spawn(|| (writer.send(&bytes), writer.finish()));
        let mut at = 0;
        while at < size {
            let got = client.sip(sip);
            assert!(!got.is_empty() && bytes[at..].starts_with(&got), "from byte {at} on");
            at += got.len();
        }
        client.expect_end();
    });
}

/// The question has come, and the cable is cut before the answer leaves.
fn cut_before_the_answer(lab: &Lab, client: &mut Client, cut: fn(&Lab)) {
    echo(client, "hello\n");
    lab.server.freeze();
    client.send("question\n");
    until("the question", || lab.unread() > 0);
    cut(lab);
    lab.server.thaw();
}

/// The server has ended the connection: the client says something, and learns of it. What
/// was due may still have come, for a kernel keeps packets until it knows where to.
fn expect_no_more_than(due: &str, mut client: Client) {
    let _ = client.try_send("anybody?\n");
    let mut got = Vec::new();
    while let Ok(more @ [_, ..]) = client.some(100).as_deref() {
        got.extend_from_slice(more);
    }
    assert!(due.as_bytes().starts_with(&got), "{}", crate::support::show(&got));
}

/// A client sends and reads without pause, but not as fast as it could: until the network
/// strikes, a busy machine may take a second, and a server that moves what comes all the
/// while would look as if it span. When `some` bytes have come back the network strikes
/// this client, and its connection must break.
fn amid_a_transfer(lab: &Lab, rate: &str, some: usize, strike: impl FnOnce(&Lab, &str)) {
    lab.slow_down(rate);
    let bytes = pattern(1 << 20);
    let mut client = lab.client();
    let (mut writer, name, arrived) = (client.twin(), client.name(), AtomicUsize::new(0));
    let begun = Instant::now();
    let goes_on = || begun.elapsed() < PATIENCE;
    thread::scope(|scope| {
        scope.spawn(|| while goes_on() && writer.try_send(&bytes).is_ok() {});
        scope.spawn(|| {
            while goes_on()
                && let Ok(got @ [_, ..]) = client.some(64 << 10).as_deref()
            {
                let at = arrived.fetch_add(got.len(), Relaxed) % bytes.len();
                let due = bytes[at..].iter().chain(&bytes);
                assert!(got.iter().eq(due.take(got.len())), "from byte {at} on");
            }
        });
        until("bytes to come back", || arrived.load(Relaxed) >= some);
        strike(lab, &name);
        lab.until_closed(1);
        lab.mend();
    });
}

/// The same, and what strikes finds output waiting in the server, however long it takes.
fn amid_a_slow_transfer(lab: &Lab, strike: impl FnOnce(&Lab, &str)) {
    amid_a_transfer(lab, "4mbit", 1, |lab, client| {
        until("the server to read no more", || lab.server.held_back() == 1);
        lab.server.freeze();
        strike(lab, client);
        lab.server.thaw();
    });
}

// ---- the laboratory --------------------------------------------------------------------

/// The server on cable 1, which suffers, and on cable 2.
const SERVER: &str = "10.77.1.1:1234";
const WITNESS: &str = "10.77.2.1:1234";

/// Runs before the server, in its namespace. `clients` is a process in theirs; not $PPID,
/// which may have become 1. On cable 1 a packet is a packet, not 64 KB of them, and what is
/// lost is sent again soon, so that no case takes minutes.
const CABLES: &str = r#"
    exec setpriv --pdeathsig KILL unshare --net sh -ec '
        for n in 1 2; do
            ip link add cable$n type veth peer name cable$n netns $clients
            there="nsenter --target $clients --net"
            ip address add 10.77.$n.1/24 dev cable$n
            $there ip address add 10.77.$n.2/24 dev cable$n
            ip link set cable$n up
            $there ip link set cable$n up
        done
        for side in "" "$there"; do
            $side ip link set cable1 gso_max_segs 1
            $side ip route change 10.77.1.0/24 dev cable1 rto_min 10ms
        done
        exec "$0" "$@"
    ' "$0" "$@"
"#;

struct Lab {
    server: Server,
    /// The server's namespace, which so outlives it.
    namespace: File,
}

impl Lab {
    fn new(options: &[&str]) -> Lab {
        let prelude = format!("export clients={}\n{CABLES}", std::process::id());
        let options = [options, &["-v", "-l", "0.0.0.0:1234", "echo"]].concat();
        let server = Server::start_after(&prelude, &options);
        let namespace = File::open(format!("/proc/{}/ns/net", server.pid())).unwrap();
        Lab { server, namespace }
    }

    /// A client on the cable that suffers.
    fn client(&self) -> Client {
        Client::to(SERVER)
    }

    /// Runs a line of shell in the namespace of the clients, which is that of this process.
    fn at_client(&self, script: &str) -> String {
        shell(&["sh", "-ec", script])
    }

    /// The same in the namespace of the server.
    fn at_server(&self, script: &str) -> String {
        let fd = self.namespace.as_raw_fd();
        let namespace = format!("--net=/proc/{}/fd/{fd}", std::process::id());
        shell(&["nsenter", &namespace, "sh", "-ec", script])
    }

    /// What the network does to a packet that comes to the client,
    fn fault_at_client(&self, rule: &str) {
        self.at_client(&fault(rule));
    }

    /// and to one that comes to the server.
    fn fault_at_server(&self, rule: &str) {
        self.at_server(&fault(rule));
    }

    /// Pulls the plug, at the client's end.
    fn cut(&self) {
        self.at_client("ip link set cable1 down");
    }

    /// Ends what faults and cuts have begun.
    fn mend(&self) {
        let mend = "nft 'add table ip fault; delete table ip fault'; ip link set cable1 up";
        self.at_client(mend);
        self.at_server(mend);
    }

    /// No more than so much a second goes from the server to the client.
    fn slow_down(&self, rate: &str) {
        let shaper = format!("tbf rate {rate} burst 10kb limit 100kb");
        self.at_server(&format!("tc qdisc add dev cable1 root {shaper}"));
    }

    /// Bytes that the server's kernel has and the server has not read.
    fn unread(&self) -> usize {
        column(&self.at_server("ss -Htn dst 10.77.1.2"), 1)
    }

    /// Bytes that clients have sent and the server's kernel has not got.
    fn unsent(&self) -> usize {
        column(&self.at_client("ss -Htn dst 10.77.1.1"), 2)
    }

    /// What the log says of connections: their names, and why they ended.
    fn connections(&self, what: &str) -> Vec<String> {
        let logs = self.server.logs();
        let lines = logs
            .lines()
            .filter_map(|line| line.split_once("DEBUG [threadbare] ")?.1.strip_prefix(what));
        lines.map(|line| line.trim().to_owned()).collect()
    }

    fn until_closed(&self, count: usize) {
        until("connections to end", || self.connections("closed").len() >= count);
    }
}

fn fault(rule: &str) -> String {
    let hook = "type filter hook input priority 0";
    format!("nft 'table ip fault {{ chain input {{ {hook}; iifname cable1 {rule}; }}; }}'")
}

/// The sum of a column of numbers.
fn column(table: &str, column: usize) -> usize {
    let fields = table.lines().filter_map(|line| line.split_whitespace().nth(column));
    fields.map(|field| field.parse::<usize>().unwrap()).sum()
}

/// Runs a command that must succeed: what it says.
fn shell(command: &[&str]) -> String {
    let output = Command::new(command[0]).args(&command[1..]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", command.last().unwrap());
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A client to which nothing happens, who talks on cable 2 until the case is over, or the
/// server says FIN. Any other end of its connections the server's log will tell.
struct Witness {
    done: Arc<AtomicBool>,
    talk: JoinHandle<Duration>,
}

impl Witness {
    fn new() -> Witness {
        let done = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&done);
        let mut client = Client::to(WITNESS);
        let talk = thread::spawn(move || {
            let mut slowest = Duration::ZERO;
            while !told.load(Relaxed) {
                let asked = Instant::now();
                let sent = client.try_send("all is well\n");
                match sent.and_then(|()| client.some(100)).as_deref() {
                    Ok(b"all is well\n") => slowest = slowest.max(asked.elapsed()),
                    Ok([]) => break,
                    Err(_) => client = Client::to(WITNESS),
                    Ok(other) => panic!("{}", crate::support::show(other)),
                }
                thread::sleep(Duration::from_millis(20));
            }
            slowest
        });
        Witness { done, talk }
    }

    /// How long an answer took at most.
    fn dismiss(self) -> Duration {
        self.done.store(true, Relaxed);
        self.talk.join().unwrap()
    }
}

// ---- all of them -----------------------------------------------------------------------

/// Plays a case in this process, whose network is its own.
fn play(case: &Case) {
    assert_ne!(env::var(OUTSIDE).unwrap(), namespace(), "this is the machine's own network");
    let mut lab = Lab::new(case.options);
    let baseline = lab.server.descriptors();
    let witness = Witness::new();
    (case.play)(&lab);
    if !case.stops {
        echo(&mut Client::to(WITNESS), "good bye\n");
    }
    let slowest = witness.dismiss();
    assert!(slowest < LATE, "an answer to the witness took {slowest:?}");
    if !case.stops {
        until("every descriptor to be closed", || lab.server.descriptors() == baseline);
        lab.server.signal(Signal::SIGTERM);
    }
    until("the server to end", || lab.server.has_ended());
    let ticks = lab.server.cpu_ticks();
    let status = lab.server.wait();
    println!("{}\n{ticks} ticks, status {status:?}, slowest {slowest:?}", lab.server.logs());
    assert!(ticks < SPIN, "it spins: {ticks} ticks of 10 ms");
    assert_eq!(status, Some(case.status));
    judge_log(case, &lab);
}

/// Of each connection the log says twice something to those who debug, and of the rest
/// next to nothing.
fn judge_log(case: &Case, lab: &Lab) {
    let names = |what| {
        let mut names = lab.connections(what);
        names.iter_mut().for_each(|line| line.truncate(line.find(' ').unwrap()));
        names.sort();
        names
    };
    assert_eq!(names("opened"), names("closed"));
    let closed = lab.connections("closed");
    // Which call meets an error first is chance.
    let reason = |line: &String| {
        let (_, reason) = line.split_once(": ").unwrap();
        reason.replace("recv: ", "").replace("send: ", "")
    };
    let mut reasons: Vec<String> = closed.iter().map(reason).collect();
    reasons.retain(|reason| reason != "peer closed");
    reasons.sort_unstable();
    assert_eq!(reasons, case.reasons);
    let logs = lab.server.logs();
    let (debug, told): (Vec<&str>, Vec<&str>) =
        logs.lines().partition(|line| line.contains(" DEBUG "));
    let (info, errors): (Vec<&str>, Vec<&str>) =
        told.into_iter().partition(|line| line.contains(" INFO "));
    let (cut, errors): (Vec<&str>, Vec<&str>) =
        errors.into_iter().partition(|line| line.contains(" was cut ("));
    assert_eq!(debug.len(), 2 * closed.len());
    assert_eq!(cut.len(), usize::from(case.reasons.contains(&"write stalled")), "{cut:?}");
    assert!(info.len() <= 2, "that it stops, and what it did");
    assert_eq!(errors, case.errors);
}

/// What the cases need there.
const NEEDS: &str = "
    ip link add cable1 type veth peer name cable2
    tc qdisc add dev cable1 root tbf rate 1mbit burst 10kb limit 100kb
    nft 'table ip t { chain c { numgen inc mod 100 0 counter drop; reject with tcp reset; }; };'
    echo 4096 4096 4096 > /proc/sys/net/ipv4/tcp_rmem
    ss -KHtn
    unshare --net nsenter --version
    setpriv --pdeathsig KILL true
";

fn way_in() -> Result<&'static [&'static str], String> {
    let mut why = String::new();
    for way in WAYS {
        let tried = unshare(way).args(["sh", "-ec", NEEDS]).output().unwrap();
        if tried.status.success() {
            return Ok(way);
        }
        why = String::from_utf8_lossy(&tried.stderr).lines().next().unwrap_or_default().to_owned();
    }
    Err(why)
}

/// The name of the network namespace of this process.
fn namespace() -> String {
    fs::read_link("/proc/self/ns/net").unwrap().display().to_string()
}

/// What runs a command in a namespace of its own.
fn unshare(way: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    command.args(way).env("PATH", path());
    command
}

fn play_all() {
    if !needs(&["ip", "nft", "nsenter", "setpriv", "ss", "tc", "unshare"]) {
        return;
    }
    let way_in = match way_in() {
        Ok(way) => way,
        Err(why) => {
            let way_out = "a kernel with veth, tbf and nftables; in a container, --privileged";
            skip(&format!("no network to try on: {why}"), way_out);
            return;
        }
    };
    let started = Instant::now();
    let begin = |case: &Case| {
        let mut command = unshare(way_in);
        command.args(["setpriv", "--pdeathsig", "KILL"]);
        again(&mut command, "network::every_network");
        command.env(PLAY, case.name).env(OUTSIDE, namespace());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let processes = CASES.each_ref().map(begin);
    let mut failed = Vec::new();
    for (case, process) in CASES.iter().zip(processes) {
        let output = process.wait_with_output().unwrap();
        let (is_well, said) = outcome(&output);
        if !is_well {
            println!("network: {}:\n{said}", case.name);
            failed.push(case.name);
        }
    }
    println!("network: {} cases in {:?}", CASES.len(), started.elapsed());
    assert!(failed.is_empty(), "{failed:?}");
}
