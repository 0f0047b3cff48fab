//! In production: sockets that are passed, a service manager that is told, a journal that knows
//! what is an error; and all of it under a real systemd.

use crate::handover::Load;
use crate::support::{
    Client, STUCK, Scratch, Server, command, eventually, in_a_network_of_its_own, needs, run,
    stuck_clients, thanks, until,
};
use std::fs;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::linux::fs::MetadataExt;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;
use threadbare::{Conn, ConnectionHandler};

// ---- sockets that are passed ---------------------------------------------------------

fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

/// How a launcher ends.
const START: &str = "exec \"$0\" \"$@\"";

fn passed(sockets: &[&dyn AsRawFd], names: &str, args: &[&str]) -> Server {
    let mut server = Server::spawn_with(sockets, names, START, args);
    server.until_ready(sockets.len());
    server
}

#[test] // clients connected to a socket that was passed, and nobody ever served them
fn sockets_that_are_passed_are_served() {
    let scratch = Scratch::new();
    let (tcp, address) = listener();
    let unix = UnixListener::bind(scratch.path("door")).unwrap(); // both would block
    let path = scratch.unix("door");
    for args in [&[][..], &["-l", "fd:3", "-l", "fd:4"], &["-l", "fd:web", "-l", "fd:local"]] {
        let mut server = passed(&[&tcp, &unix], "web:local", args);
        assert_eq!(server.addresses, [&*address, &*path]);
        for address in [&address, &path] {
            Client::to(address).ask("hello\n");
        }
        assert_eq!(server.stop(), Some(0), "{}", server.logs());
        assert!(scratch.path("door").exists(), "its file is not ours");
    }
    let mut server = passed(&[&unix, &tcp], "", &["-l", "fd:4", "-l", "fd:3"]);
    assert_eq!(server.addresses, [&*address, &*path], "in the order of -l");
    assert_eq!(server.stop(), Some(0));
}

#[test]
fn what_was_passed_and_is_not_named_is_an_error() {
    let (one, _) = listener();
    let (other, _) = listener();
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let said = |sockets: &[&dyn AsRawFd], args: &[&str]| {
        let mut server = Server::spawn_with(sockets, "", START, args);
        assert_eq!(server.wait(), Some(2));
        assert_eq!(server.stdout(), "");
        server.logs()
    };
    assert_eq!(
        said(&[&one, &other], &["-l", "fd:3"]),
        "error: LISTEN_FDS passes 2 sockets, and -l names only fd:3; \
         name fd:4 too, or leave -l out; try -h\n"
    );
    assert_eq!(
        said(&[&udp], &[]),
        "error: fd:3 does not listen; write ListenStream= and Accept=no in the socket unit\n"
    );
    assert_eq!(
        said(&[&one], &["-l", "fd:3", "-l", "fd:9"]),
        "error: fcntl fd:9: EBADF (Bad file number); \
         nothing was passed there, see systemd.socket(5) ListenStream=\n"
    );
    assert!(said(&[&one], &["-l", "fd:web"]).contains("was not passed (LISTEN_FDNAMES)"));
    let finished = run(&["-l", "fd:0"]);
    assert_eq!(finished.code, Some(2));
    assert_eq!(
        finished.stderr,
        "error: getsockopt fd:0: ENOTSOCK (Socket operation on non-socket); it is no socket\n"
    );
}

#[test] // a successor on the same listener never got a client again: the filter of a stop stayed
fn a_successor_at_the_same_socket() {
    let (tcp, address) = listener();
    let mut first = passed(&[&tcp], "", &[]);
    let mut held = Client::to(&address);
    held.ask("hello\n");
    first.freeze();
    let mut waits = Client::to(&address); // in the queue, when the first is told to stop
    waits.send("hello\n");
    first.signal(crate::support::Signal::SIGTERM);
    let mut late = Client::to(&address);
    late.send("hello\n");
    first.thaw();
    assert_eq!(first.wait(), Some(0));
    let mut second = passed(&[&tcp], "", &[]);
    for client in [&mut waits, &mut late] {
        client.expect(thanks("hello\n"));
    }
    assert_eq!(second.stop(), Some(0));
}

#[test] // epoll reported the socket that was closed here, and open elsewhere: the stop spun
fn a_stop_does_not_spin_for_clients_of_the_successor() {
    let (tcp, address) = listener();
    let mut server = passed(&[&tcp], "", &[&STUCK[..], &["--drain-timeout", "2"]].concat());
    let stuck = stuck_clients(&server, 1);
    server.signal(crate::support::Signal::SIGTERM);
    until("the stop", || server.logs().contains("stopping (SIGTERM)"));
    let _waits = Client::to(&address);
    let (ticks, switches) = server.spends(Duration::from_millis(500));
    assert!(ticks < 10 && switches < 10, "{ticks} ticks, {switches} switches");
    drop(stuck);
    assert!(server.wait().is_some());
}

#[test] // restarts under load at a socket that others hold: clients wait for a moment, no more
fn restarts_at_a_passed_socket_lose_nobody() {
    let (tcp, address) = listener();
    let mut server = passed(&[&tcp], "", &[]);
    let load = Load::begin(&address, 4, Duration::from_millis(2), Duration::ZERO);
    for _ in 0..4 {
        load.until_more(50);
        assert_eq!(server.stop(), Some(0));
        server = passed(&[&tcp], "", &[]);
    }
    load.until_more(50);
    load.end().lost_nobody();
}

#[test] // systemd's own launcher, which passes what it listens at
fn systemd_socket_activate() {
    if !needs(&["systemd-socket-activate"]) {
        return;
    }
    let port = crate::support::quiet_port();
    let address = format!("127.0.0.1:{port}");
    let launcher = ["systemd-socket-activate", "-l", &address, "--fdname=web"];
    let mut server = Server::spawn_under(&launcher, &["-l", "fd:web"]);
    let mut client = eventually("the launcher to listen", || Client::try_to(&address).ok());
    client.ask("hello\n");
    server.until_ready(1);
    assert_eq!(server.addresses, [address]);
    assert_eq!(server.stop(), Some(0));
}

// ---- a service manager ---------------------------------------------------------------

/// What a datagram socket hears, message by message.
fn hear(manager: &UnixDatagram) -> String {
    let mut message = [0; 1_000];
    manager.set_read_timeout(Some(crate::support::PATIENCE)).unwrap();
    let length = manager.recv(&mut message).unwrap();
    String::from_utf8(message[..length].to_vec()).unwrap()
}

#[test]
fn the_manager_is_told() {
    let scratch = Scratch::new();
    let path = scratch.path("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    let prelude = format!("export NOTIFY_SOCKET={} WATCHDOG_USEC=200000", path.display());
    let mut server = Server::start_after(&prelude, &["--stop-delay", "0.3"]);
    assert_eq!(hear(&manager), "READY=1");
    for _ in 0..3 {
        assert_eq!(hear(&manager), "WATCHDOG=1");
    }
    let mut client = server.client();
    client.ask("hello\n");
    server.signal(crate::support::Signal::SIGTERM);
    let mut heard: Vec<String> = Vec::new();
    while heard.iter().filter(|it| it.starts_with("STOPPING=1")).count() < 2 {
        heard.push(hear(&manager));
    }
    heard.retain(|it| it != "WATCHDOG=1");
    let due = ["serving for 0.3 s more", "finishing 1 connection"];
    assert_eq!(heard, due.map(|status| format!("STOPPING=1\nSTATUS={status}")));
    assert_eq!(server.wait(), Some(0));
}

#[test]
fn a_manager_that_is_not_there() {
    let mut server = Server::start_after("export NOTIFY_SOCKET=@/no/manager/here", &[]);
    server.client().ask("hello\n");
    assert_eq!(server.stop(), Some(0));
    let warning = "warning: connect @/no/manager/here: ECONNREFUSED (Connection refused); \
                   the service manager is not told\n";
    assert!(server.logs().contains(warning), "{}", server.logs());
}

#[test] // `journalctl -p err` did not show why a start failed: its line had no priority
fn a_failed_start_is_an_error_in_the_journal() {
    let scratch = Scratch::new();
    let journal = scratch.path("journal");
    let file = fs::File::create(&journal).unwrap();
    let status = file.metadata().unwrap();
    let stream = format!("{}:{}", status.st_dev(), status.st_ino());
    let (_taken, address) = listener();
    let status = command(env!("CARGO_BIN_EXE_threadbare"))
        .args(["-l", &address])
        .env("JOURNAL_STREAM", stream)
        .stderr(Stdio::from(file))
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(2));
    let line = fs::read_to_string(&journal).unwrap();
    assert!(line.starts_with(&format!("<3>error: bind {address}: EADDRINUSE")), "{line}");
}

// ---- all cores -----------------------------------------------------------------------

#[test] // servers on several threads share a port, what is in an Arc, a Handle, and their end
fn one_port_on_several_threads() {
    let mut server = Server::example("all_cores", &["2", "127.0.0.1:0"]);
    let mut clients = server.clients(32);
    let mut seen = [0; 2];
    let mut numbers = Vec::new();
    for client in &mut clients {
        client.send("hello\n");
        let line = client.line();
        let (number, core) = line.trim_end().split_once(", core ").unwrap();
        numbers.push(number.to_owned());
        seen[core.parse::<usize>().unwrap()] += 1;
    }
    assert!(seen.iter().all(|&count| count > 0), "of 32 clients {seen:?}");
    numbers.sort();
    numbers.dedup();
    assert_eq!(numbers.len(), 32, "they count together");
    clients[0].send("/all now\n");
    clients.iter_mut().for_each(|client| assert_eq!(client.line(), "now\n"));
    drop(clients);
    assert_eq!(server.stop(), Some(0), "{}", server.logs());
    let logs = server.logs();
    assert!(logs.contains("all: 32 accepted, 32 closed"), "{logs}");
}

// ---- a real systemd ------------------------------------------------------------------

/// Sleeps for ten seconds at each message.
struct Sleeper;

impl ConnectionHandler for Sleeper {
    type Session = ();

    fn on_data(&mut self, _: &mut Conn<'_>, _: &mut (), input: &[u8]) -> usize {
        std::thread::sleep(Duration::from_secs(10));
        input.len()
    }
}

const SLEEPER: &str = "THREADBARE_SLEEPER";

/// Boots. Root here is root of the machine where that is who runs the tests, and a systemd that
/// boots cleans /tmp: so it may write nowhere but to file systems in memory, or does not begin.
const BOOT: &str = r#"
set -e
mount -t tmpfs none /run
mkdir -p /run/systemd/system /run/dbus
cp "$0" /run/threadbare
cp "$1" /run/tests
mount -o remount,bind,ro /
for place in /tmp /var/tmp /var/log /var/lib/systemd; do mount -t tmpfs none "$place"; done
if touch /usr/here 2>/dev/null || [ "$(ls -A /tmp)" ]; then exit 1; fi
mount -t tmpfs none /sys/fs/cgroup || true
mount -t cgroup2 none /sys/fs/cgroup
for unit in tmpfiles-setup.service tmpfiles-setup-dev.service tmpfiles-clean.timer udevd.service \
    udev-trigger.service timesyncd.service pcrphase.service pcrphase-sysinit.service \
    update-utmp.service remount-fs.service sysctl.service modules-load.service; do
    ln -s /dev/null "/run/systemd/system/systemd-$unit"
done
export container=docker
exec /lib/systemd/systemd --system --unit=basic.target --log-target=console --show-status=false
"#;

/// A systemd that has booted in namespaces of its own, but for the network.
struct Systemd {
    unshare: Child,
    pid: String,
}

impl Systemd {
    fn boot() -> Systemd {
        let flags = ["-Umpfi", "-C", "-r", "--mount-proc", "--kill-child", "sh", "-c", BOOT];
        let this = std::env::current_exe().unwrap();
        let mut unshare = command("unshare");
        unshare.args(flags).arg(env!("CARGO_BIN_EXE_threadbare")).arg(this);
        unshare.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let unshare = unshare.spawn().unwrap();
        let children = format!("/proc/{0}/task/{0}/children", unshare.id());
        let pid = eventually("the first process of the namespace", || {
            fs::read_to_string(&children).ok()?.split_whitespace().next().map(str::to_owned)
        });
        let systemd = Systemd { unshare, pid };
        until("systemd to be up", || systemd.run("systemctl is-active basic.target").0);
        systemd
    }

    /// Runs a command of the shell inside: whether it succeeded, and what it said.
    fn run(&self, script: &str) -> (bool, String) {
        let enter = ["-t", &self.pid, "-U", "-m", "-p", "-i", "-C", "--preserve-credentials"];
        let mut command = command("timeout");
        command.args(["40", "nsenter"]).args(enter).args(["sh", "-c", script]);
        let output = command.output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    }

    #[track_caller]
    fn must(&self, script: &str) -> String {
        let (is_true, said) = self.run(script);
        assert!(is_true, "{script}: {said}");
        said
    }

    fn unit(&self, name: &str, text: &str) {
        let path = format!("/run/systemd/system/{name}");
        self.must(&format!("cat > '{path}' <<'END OF UNIT'\n{text}\nEND OF UNIT"));
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        let _ = self.unshare.kill(); // and with it all of its children
        let _ = self.unshare.wait();
    }
}

/// A unit of docs/units, but for what does not work in nested namespaces, and with this start.
fn unit(name: &str, start: &str) -> String {
    let text = fs::read_to_string(Path::new("docs/units").join(name)).unwrap();
    let needs_more = [
        "DynamicUser",
        "Private",
        "Protect",
        "Restrict",
        "ProcSubset",
        "SystemCall",
        "IPAddress",
        "Capability",
        "Ambient",
        "NoNewPrivileges",
        "LockPersonality",
        "MemoryDeny",
        "RemoveIPC",
        "LimitNOFILE",
    ];
    let is_kept = |line: &&str| {
        line.starts_with("RestrictAddressFamilies=AF_UNIX")
            || line.starts_with("RestartPrevent")
            || !needs_more.iter().any(|begin| line.starts_with(begin))
    };
    let lines: Vec<&str> = text.lines().filter(is_kept).collect();
    let text = lines.join("\n").replace("/usr/local/bin/threadbare greet", start);
    text.replace("[Unit]\n", "[Unit]\nStartLimitIntervalSec=0\n") // started so often on purpose
}

#[test]
#[ignore = "boots a systemd, a minute: `make check` runs it"]
fn under_a_real_systemd() {
    let tools = ["nsenter", "unshare", "ip", "systemd-socket-activate"];
    if !needs(&tools) {
        return;
    }
    in_a_network_of_its_own("production::under_a_real_systemd", "", || {
        let systemd = Systemd::boot();
        let start = "/run/threadbare greet";
        systemd.unit("threadbare.socket", &unit("threadbare.socket", ""));
        systemd.unit("threadbare.service", &unit("threadbare.service", start));
        systemd.must("systemctl daemon-reload && systemctl start threadbare.socket");
        restarts(&systemd);
        processes(&systemd, start);
        failed_start(&systemd, start);
        watchdog(&systemd);
    });
}

/// Four restarts at 300 requests a second, and four more with clients who keep a stop waiting.
fn restarts(systemd: &Systemd) {
    let address = "127.0.0.1:1234";
    Client::to(address).ask("hello\n"); // which starts the service
    systemd.must("systemctl is-active threadbare.service");
    for lingerers in [0, 20] {
        let load = Load::begin(address, 6, Duration::from_millis(20), Duration::ZERO);
        for _ in 0..4 {
            let mut idle: Vec<Client> = (0..lingerers).map(|_| Client::to(address)).collect();
            idle.iter_mut().for_each(|client| client.ask("hello\n"));
            load.until_more(100);
            systemd.must("systemctl restart threadbare.service");
        }
        load.until_more(100);
        let counts = load.end();
        println!("4 restarts, {lingerers} lingering: {counts}");
        counts.lost_nobody();
    }
    assert!(systemd.must("journalctl -u threadbare").contains("stopping (SIGTERM)"));
}

/// Two processes at one door, restarted one after the other.
fn processes(systemd: &Systemd, start: &str) {
    systemd.must("systemctl stop threadbare.service");
    systemd.unit("threadbare@.service", &unit("threadbare@.service", start));
    systemd.must("systemctl daemon-reload && systemctl start threadbare@1 threadbare@2");
    let load = Load::begin("127.0.0.1:1234", 6, Duration::from_millis(20), Duration::ZERO);
    for number in [1, 2, 1, 2] {
        load.until_more(100);
        systemd.must(&format!("systemctl restart threadbare@{number}"));
    }
    load.until_more(100);
    let counts = load.end();
    println!("two processes, 4 restarts: {counts}");
    counts.lost_nobody();
    systemd.must("systemctl stop threadbare@1 threadbare@2 threadbare.socket");
}

/// A start that fails fails the unit, and the journal has its reason among the errors.
fn failed_start(systemd: &Systemd, start: &str) {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let service = unit("threadbare.service", &format!("{start} -l {address}"));
    let service = service.replace("Requires=threadbare.socket", "");
    let service = service.replace("RestrictAddressFamilies=AF_UNIX", "");
    systemd.unit("fails.service", &service);
    assert!(!systemd.run("systemctl daemon-reload; systemctl start fails.service").0);
    assert!(systemd.run("systemctl is-failed fails.service").0);
    let errors = systemd.must("journalctl -p err -u fails.service");
    assert!(errors.contains(&format!("error: bind {address}: EADDRINUSE")), "{errors}");
}

/// A handler that blocks is found, and the service started again.
fn watchdog(systemd: &Systemd) {
    let service = format!(
        "[Service]\nType=notify\nNotifyAccess=all\nWatchdogSec=1\nRestart=on-watchdog\n\
         Environment={SLEEPER}=1\n\
         ExecStart=/run/tests production::a_sleeper --exact --include-ignored --nocapture\n"
    );
    systemd.unit("sleeper.service", &service);
    systemd.must("systemctl daemon-reload && systemctl start sleeper.service");
    let restarts = || systemd.must("systemctl show -P NRestarts sleeper.service");
    assert_eq!(restarts().trim(), "0");
    let mut client = Client::to("127.0.0.1:4321");
    client.send("sleep");
    until("the service to be started again", || restarts().trim() != "0");
}

#[test]
#[ignore = "a part of another test"]
fn a_sleeper() {
    if std::env::var(SLEEPER).is_ok() {
        let server = threadbare::Server::builder(Sleeper).own_process(true);
        server.bind("127.0.0.1:4321").unwrap().run().unwrap();
    }
}
