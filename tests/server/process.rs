//! The process around a server, and others beside it: signals that ask for nothing, a fork, two
//! owners, process 1, two servers at one path, a directory that somebody else writes to, a
//! sandbox.

#![allow(unsafe_code)] // fork

use crate::support::{Client, Scratch, Server, Signal, again, command, eventually, needs, outcome};
use crate::support::{run, until};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::kill;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use threadbare::handlers::Echo;
use threadbare::{Address, Errno};

const ALONE: &str = "THREADBARE_ALONE";

/// Runs a test in a process of its own.
fn alone(name: &str, test: impl FnOnce()) {
    if std::env::var(ALONE).is_ok() {
        return test();
    }
    let mut command = command("env");
    command.arg(format!("{ALONE}=1"));
    let (is_true, said) = outcome(&again(&mut command, name).output().unwrap());
    assert!(is_true, "{said}");
}

#[test] // a server that forked between bind and run heard no signal: only SIGKILL ended it
fn a_fork_between_bind_and_run() {
    alone("process::a_fork_between_bind_and_run", || {
        let server = threadbare::Server::builder(Echo).own_process(true);
        let mut server = server.bind("127.0.0.1:0").unwrap();
        let Address::Tcp(address) = server.addresses()[0] else { panic!() };
        // SAFETY: the child uses what is its own, and ends without what the harness does then.
        let child = match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                let ended = server.run().is_ok();
                // SAFETY: it returns nowhere.
                unsafe { nix::libc::_exit(i32::from(!ended)) };
            }
            ForkResult::Parent { child } => child,
        };
        let mut client = Client::to(&address.to_string());
        client.send("hello");
        client.expect("hello");
        kill(child, Signal::SIGTERM).unwrap();
        let ended = eventually("the child to end", || {
            match waitpid(child, Some(WaitPidFlag::WNOHANG)).unwrap() {
                WaitStatus::StillAlive => None,
                status => Some(status),
            }
        });
        assert_eq!(ended, WaitStatus::Exited(child, 0));
        std::mem::forget(server); // the child has given it back
    });
}

#[test] // of two servers that own the process, the second had none of its signals
fn two_owners_of_the_process() {
    alone("process::two_owners_of_the_process", || {
        let owner = || threadbare::Server::builder(Echo).own_process(true).bind("127.0.0.1:0");
        let first = owner().unwrap();
        let error = owner().err().unwrap();
        assert_eq!(error.errno, Errno::EBUSY);
        assert!(error.to_string().contains("another server of this process has"), "{error}");
        let beside = threadbare::Server::builder(Echo).bind("127.0.0.1:0");
        assert!(beside.is_ok(), "one that does not own the process may be there");
        drop(first);
        assert!(owner().is_ok(), "it is free again");
    });
}

#[test] // SIGUSR2 killed it without a drain; SIGHUP without a terminal stopped it with status 0
fn signals_that_ask_for_nothing() {
    let mut server = Server::start(&[]);
    let mut client = server.client();
    for signal in [Signal::SIGUSR2, Signal::SIGHUP] {
        for _ in 0..3 {
            server.signal(signal);
            client.ask("still here\n");
        }
        until("a line", || server.logs().contains(&format!("{signal} does nothing")));
    }
    client.ask("still here\n");
    drop(client);
    assert_eq!(server.stop(), Some(0));
    let logs = server.logs();
    for signal in ["SIGUSR2", "SIGHUP"] {
        assert_eq!(logs.matches(&format!("{signal} does nothing")).count(), 1, "{logs}");
    }
}

#[test] // as process 1 it left zombies of what had lost its parent
fn process_1_leaves_no_zombies() {
    if !needs(&["unshare"]) {
        return;
    }
    let ways = [&["-pf", "--mount-proc"][..], &["-Urpf", "--mount-proc"]];
    let may = |way: &&&[&str]| {
        command("unshare").args(**way).arg("true").output().is_ok_and(|it| it.status.success())
    };
    let Some(way) = ways.iter().find(may) else { return };
    // The shell leaves two processes that nobody will ask for, and becomes the server.
    let lose = "(sleep 0.1 & sleep 0.2 &) ; exec \"$0\" \"$@\"";
    let words = [&["unshare", "--kill-child"], *way, &["sh", "-c", lose]].concat();
    let mut server = Server::spawn_under(&words, &["-l", "127.0.0.1:0"]);
    until("the ready line", || server.stdout().contains("listening on "));
    let children = |pid: i32| {
        let path = format!("/proc/{pid}/task/{pid}/children");
        let text = fs::read_to_string(path).unwrap_or_default();
        text.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<i32>>()
    };
    let first = children(server.pid())[0];
    until("the lost ones to have gone", || children(first).is_empty());
    kill(nix::unistd::Pid::from_raw(first), Signal::SIGTERM).unwrap();
    assert_eq!(server.wait(), Some(0), "{}", server.logs());
}

#[test] // both of two starts at one path said that they listened, up to one time in twenty
fn two_starts_at_one_path() {
    let rounds = 40;
    for round in 0..rounds {
        let scratch = Scratch::new();
        scratch.stale_socket("s");
        // The same file, however it is written.
        let folder = scratch.path("");
        let spellings = [
            folder.join("s"),
            folder.join("./s"),
            folder.join("../").join(folder.file_name().unwrap()).join("s"),
        ];
        let words = spellings.map(|path| format!("unix:{}", path.display()));
        let servers: Vec<Server> =
            words.iter().map(|word| Server::spawn("", &["-l", word])).collect();
        until("each to be ready, or to have ended", || {
            let is_decided = |it: &Server| it.stdout().contains("listening") || it.has_ended();
            servers.iter().all(is_decided)
        });
        let (mut ready, mut ended): (Vec<_>, Vec<_>) =
            servers.into_iter().partition(|server| !server.has_ended());
        assert_eq!(ready.len(), 1, "round {round}");
        for server in &mut ended {
            assert_eq!(server.wait(), Some(2));
            assert!(server.logs().contains("EADDRINUSE"), "{}", server.logs());
        }
        assert_eq!(ready[0].stop(), Some(0));
        assert!(!spellings_exist(&scratch), "its own file is gone");
    }
}

fn spellings_exist(scratch: &Scratch) -> bool {
    scratch.path("s").symlink_metadata().is_ok()
}

#[test] // a start waits for a directory that another locks, for a second; an end does not
fn a_locked_directory() {
    let scratch = Scratch::new();
    let lock = || Flock::lock(File::open(scratch.path("")).unwrap(), FlockArg::LockExclusive);
    let held = lock().unwrap();
    let started = Instant::now();
    let failed = run(&["-l", &scratch.unix("s")]);
    assert_eq!(failed.code, Some(2), "{}", failed.stderr);
    assert!(failed.stderr.starts_with("error: flock "), "{}", failed.stderr);
    assert!(failed.stderr.contains("another process keeps that directory locked"));
    assert!(started.elapsed() >= Duration::from_millis(900), "it waits");
    let freed = thread::spawn(move || {
        thread::sleep(Duration::from_millis(100)); // not for a condition: this is the other one
        drop(held);
    });
    let mut server = Server::start(&["-l", &scratch.unix("s")]);
    freed.join().unwrap();
    let _held = lock().unwrap();
    assert_eq!(server.stop(), Some(0));
    assert!(!spellings_exist(&scratch), "the file goes, whoever has the lock");
}

#[test] // chmod followed a symbolic link that somebody had put in the place of the socket
fn a_mode_is_not_given_through_a_link() {
    let scratch = Scratch::new();
    let (path, secret) = (scratch.path("s"), scratch.path("secret"));
    fs::write(&secret, "").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let (done, replaced) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                if path.symlink_metadata().is_ok_and(|it| !it.is_symlink()) {
                    let spare = scratch.path("link");
                    let _ = std::os::unix::fs::symlink(&secret, &spare);
                    fs::rename(&spare, &path).unwrap();
                    replaced.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        for _ in 0..60 {
            let mut server =
                Server::spawn("umask 077", &["-l", &scratch.unix("s"), "--unix-mode", "666"]);
            until("an outcome", || server.stdout().contains("listening") || server.has_ended());
            if !server.has_ended() {
                server.signal(Signal::SIGTERM);
            }
            server.wait();
            let _ = fs::remove_file(&path);
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(replaced.load(Ordering::Relaxed) > 20, "nobody was in its way");
    let mode = fs::metadata(&secret).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600, "what the link leads to is as it was");
}

#[test] // what a sandbox forbids was put down to descriptors
fn a_sandbox_is_named() {
    if !needs(&["strace"]) {
        return;
    }
    // A start.
    for (call, errno) in [("listen", "EPERM"), ("epoll_create1", "ENOSYS"), ("bind", "EACCES")] {
        let rule = format!("inject={call}:error={errno}");
        let words = ["strace", "-qq", "-o", "/dev/null", "-e", &rule];
        let mut server = Server::spawn_under(&words, &["-l", "127.0.0.1:0"]);
        assert_eq!(server.wait(), Some(2), "{}", server.logs());
        let line = server.logs();
        assert!(line.contains(errno) && line.contains("a sandbox forbids it"), "{line}");
    }
    // A server that runs, each time anew.
    for (call, errno) in [
        ("accept4", "EPERM"),
        ("accept4", "ENOSYS"),
        ("recvfrom", "EPERM"),
        ("recvfrom", "ENOSYS"),
        ("sendto", "EACCES"),
    ] {
        let rule = format!("inject={call}:error={errno}");
        let words = ["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", &rule];
        let mut server = Server::spawn_under(&words, &["-l", "127.0.0.1:0"]);
        until("the ready line", || server.stdout().contains("listening on "));
        let address = server.stdout().trim().rsplit(' ').next().unwrap().to_owned();
        let mut client = Client::to(&address);
        client.send("hello\n");
        until("a line", || server.logs().contains("a sandbox forbids it"));
        let logs = server.logs();
        assert!(logs.contains(call.trim_end_matches("from").trim_end_matches("to")), "{logs}");
        assert!(logs.contains(errno) && !logs.contains("descriptors"), "{logs}");
        server.signal(Signal::SIGTERM);
        server.wait();
    }
}
