//! The simulated kernel against its own documentation, and against Linux.
//!
//! A script that is generic over the kernel runs on both, and must see the same.
//! Descriptor numbers and addresses differ, so they are kept out of what is seen.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::cell::Cell;
use std::fmt::Debug;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use super::*;
use crate::kernel::Linux;

/// What a script saw, a line per call.
type Seen = Vec<String>;

thread_local! {
    /// Whether the script gives the loopback device time to deliver.
    static PATIENT: Cell<bool> = const { Cell::new(false) };
}

/// The loopback device mostly delivers within the call that sends, but not always.
fn settle() {
    if PATIENT.get() {
        thread::sleep(Duration::from_millis(3));
    }
}

/// Writes a test that runs one script on both kernels, and compares what it saw.
macro_rules! same_as_linux {
    ($(#[$meta:meta])* fn $name:ident($kernel:ident, $seen:ident) $body:block) => {
        same_as_linux! { $(#[$meta])* fn $name($kernel, $seen, _seed in 0..1) $body }
    };
    ($(#[$meta:meta])* fn $name:ident($kernel:ident, $seen:ident, $seed:ident in $seeds:expr) $body:block) => {
        $(#[$meta])*
        #[test]
        fn $name() {
            fn script<K: Kernel>($kernel: &mut K, $seen: &mut Seen, $seed: u64) $body
            for seed in $seeds {
                let (sim, mut simulated, mut real) = (Simulated::new(0), Seen::new(), Seen::new());
                script(&mut sim.clone(), &mut simulated, seed);
                assert_eq!(sim.descriptors(), 0, "left open");
                assert_eq!(sim.world().streams.len(), 0, "not forgotten");
                script(&mut Linux, &mut real, seed);
                if simulated != real {
                    real.clear();
                    PATIENT.set(true);
                    script(&mut Linux, &mut real, seed);
                    PATIENT.set(false);
                }
                assert_eq!(simulated, real, "seed {seed}");
            }
        }
    };
}

fn see(seen: &mut Seen, what: &str, result: impl Debug) {
    seen.push(format!("{what}: {result:?}"));
}

/// A path that no other test uses, in a directory that exists on Linux too.
fn fresh_path() -> Address {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("threadbare-sim-{}-{next}", std::process::id());
    Address::Unix(std::env::temp_dir().join(name))
}

fn path_of(address: &Address) -> &Path {
    match address {
        Address::Unix(path) => path,
        Address::Tcp(_) => panic!("no path"),
    }
}

fn any_port() -> Address {
    Address::Tcp(([127, 0, 0, 1], 0).into())
}

fn listener<K: Kernel>(k: &mut K, address: &Address, backlog: u32) -> (Fd, Address) {
    let fd = k.socket(address).unwrap();
    k.bind(&fd, address).unwrap();
    k.listen(&fd, backlog).unwrap();
    let address = k.getsockname(&fd).unwrap();
    (fd, address)
}

/// The two ends of a connection: the accepted one and the one that connected.
fn pair<K: Kernel>(k: &mut K, unix: bool) -> [Option<Fd>; 2] {
    let address = if unix { fresh_path() } else { any_port() };
    let (door, address) = listener(k, &address, 4);
    let one = k.socket(&address).unwrap();
    let begun = k.connect(&one, &address);
    assert_eq!(begun, if unix { Ok(()) } else { Err(Errno::EINPROGRESS) });
    let other = k.accept4(&door).unwrap().0;
    k.close(door).unwrap();
    if unix {
        k.unlink(path_of(&address)).unwrap();
    }
    [Some(other), Some(one)]
}

/// What epoll says of a descriptor.
fn poll<K: Kernel>(k: &mut K, fd: &Fd, mask: u32) -> u32 {
    let epoll = k.epoll_create1().unwrap();
    let mut events = [Event::default()];
    k.epoll_ctl(&epoll, EpollOp::Add, fd, Event { mask, data: 0 }).unwrap();
    k.epoll_wait(&epoll, &mut events, Wait::No).unwrap();
    k.close(epoll).unwrap();
    events[0].mask
}

fn random(seed: &mut u64, below: u64) -> u64 {
    *seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
    (*seed >> 33) % below
}

const SIDES: [&str; 2] = ["server", "client"];

/// Does something random to one end of a connection; the end, unless it was closed.
fn act<K: Kernel>(k: &mut K, seen: &mut Seen, seed: &mut u64, name: &str, fd: Fd) -> Option<Fd> {
    match random(seed, 20) {
        0..6 => {
            let length = 1 + random(seed, 1000) as usize;
            see(seen, &format!("{name} send {length}"), k.send(&fd, &vec![7; length]));
        }
        6..14 => {
            let mut buffer = vec![0; 1 + random(seed, 2000) as usize];
            let result = k.recv(&fd, &mut buffer);
            see(seen, &format!("{name} recv {}", buffer.len()), result);
        }
        14..18 => see(seen, &format!("{name} shutdown"), k.shutdown(&fd)),
        18 => {
            k.setsockopt(&fd, SocketOption::ResetOnClose).unwrap();
            see(seen, &format!("{name} reset"), k.close(fd));
            return None;
        }
        _ => {
            see(seen, &format!("{name} close"), k.close(fd));
            return None;
        }
    }
    Some(fd)
}

fn look<K: Kernel>(k: &mut K, seen: &mut Seen, name: &str, fd: Option<&Fd>) {
    if let Some(fd) = fd {
        see(seen, &format!("  {name}"), poll(k, fd, IN | OUT));
        see(seen, &format!("  {name} at 0"), poll(k, fd, 0));
    }
}

fn end(k: &mut impl Kernel, fds: impl IntoIterator<Item = Fd>) {
    for fd in fds {
        k.close(fd).unwrap();
    }
}

/// Random things done to both ends of a connection.
fn talk<K: Kernel>(k: &mut K, seen: &mut Seen, mut seed: u64, unix: bool) {
    let mut ends = pair(k, unix);
    for _ in 0..14 {
        let which = random(&mut seed, 2) as usize;
        if let Some(fd) = ends[which].take() {
            ends[which] = act(k, seen, &mut seed, SIDES[which], fd);
            settle();
            look(k, seen, SIDES[0], ends[0].as_ref());
            look(k, seen, SIDES[1], ends[1].as_ref());
        }
    }
    end(k, ends.into_iter().flatten());
}

/// Random things done by clients in the queue of a listener, which may close.
fn queue<K: Kernel>(k: &mut K, seen: &mut Seen, mut seed: u64, unix: bool) {
    let address = if unix { fresh_path() } else { any_port() };
    let backlog = if unix { random(&mut seed, 4) as u32 } else { 16 };
    let (door, address) = listener(k, &address, backlog);
    let (mut door, mut clients, mut accepted) = (Some(door), Vec::new(), Vec::new());
    for _ in 0..20 {
        match (random(&mut seed, 12), &door) {
            (0..4, Some(_)) if clients.len() < 6 => {
                let client = k.socket(&address).unwrap();
                see(seen, "connect", k.connect(&client, &address));
                clients.push(Some(client));
            }
            (4..6, Some(listener)) => match k.accept4(listener) {
                Ok((fd, _)) => accepted.push(fd),
                Err(errno) => see(seen, "accept", errno),
            },
            (6, Some(_)) => end(k, door.take()),
            _ if !clients.is_empty() => {
                let which = random(&mut seed, clients.len() as u64) as usize;
                if let Some(fd) = clients[which].take() {
                    clients[which] = act(k, seen, &mut seed, "client", fd);
                }
            }
            _ => {}
        }
        settle();
        look(k, seen, "door", door.as_ref());
        clients.iter().for_each(|fd| look(k, seen, "client", fd.as_ref()));
        accepted.iter().for_each(|fd| look(k, seen, "accepted", Some(fd)));
    }
    for fd in accepted {
        let mut buffer = [0; 9000];
        see(seen, "accepted recv", k.recv(&fd, &mut buffer));
        see(seen, "accepted recv", k.recv(&fd, &mut buffer));
        see(seen, "accepted shutdown", k.shutdown(&fd));
        k.close(fd).unwrap();
    }
    end(k, clients.into_iter().flatten().chain(door));
    if unix {
        k.unlink(path_of(&address)).unwrap();
    }
}

same_as_linux! {
    fn random_talk_over_tcp(k, seen, seed in 0..1000) {
        talk(k, seen, seed, false);
    }
}

same_as_linux! {
    fn random_talk_over_unix(k, seen, seed in 0..1000) {
        talk(k, seen, seed, true);
    }
}

same_as_linux! {
    fn random_queue_of_tcp(k, seen, seed in 0..500) {
        queue(k, seen, seed, false);
    }
}

same_as_linux! {
    fn random_queue_of_unix(k, seen, seed in 0..500) {
        queue(k, seen, seed, true);
    }
}

same_as_linux! {
    /// Which events come, in which order, and how a full batch rotates.
    fn random_epoll(k, seen, seed in 0..500) {
        let mut seed = seed;
        let epoll = k.epoll_create1().unwrap();
        let counters: Vec<Fd> = (0..5).map(|_| k.eventfd2().unwrap()).collect();
        for _ in 0..60 {
            let index = random(&mut seed, 5);
            let fd = &counters[index as usize];
            let mask = [0, IN, IN, IN | OUT][random(&mut seed, 4) as usize];
            let event = Event { mask, data: index };
            match random(&mut seed, 10) {
                0 | 1 => see(seen, "add", k.epoll_ctl(&epoll, EpollOp::Add, fd, event)),
                2 => see(seen, "modify", k.epoll_ctl(&epoll, EpollOp::Modify, fd, event)),
                3..6 => see(seen, "write", k.write_counter(fd)),
                6 => see(seen, "read", k.read_counter(fd)),
                _ => {
                    let mut events = vec![Event::default(); 1 + random(&mut seed, 4) as usize];
                    see(seen, "wait", k.epoll_wait(&epoll, &mut events, Wait::No));
                    see(seen, "    ", events);
                }
            }
        }
        end(k, counters.into_iter().chain([epoll]));
    }
}

/// Sends until nothing more goes.
fn fill<K: Kernel>(k: &mut K, fd: &Fd) -> (usize, Errno) {
    let mut sent = 0;
    let chunk = vec![1; 1 << 16];
    loop {
        match k.send(fd, &chunk) {
            Ok(length) => sent += length,
            Err(errno) => return (sent, errno),
        }
        settle();
    }
}

/// Receives until nothing more comes.
fn drain<K: Kernel>(k: &mut K, fd: &Fd) -> (usize, Result<usize>) {
    let (mut received, mut buffer) = (0, vec![0; 1 << 16]);
    loop {
        match k.recv(fd, &mut buffer) {
            Ok(length @ 1..) => received += length,
            last => return (received, last),
        }
        settle();
    }
}

same_as_linux! {
    /// What a reader that does not read does to the other side, and what is lost with it.
    fn full(k, seen) {
        for unix in [false, true] {
            see(seen, "unix", unix);
            // Everything arrives in the end, also behind a shutdown and a close.
            let [Some(s), Some(c)] = pair(k, unix) else { return };
            let (sent, errno) = fill(k, &s);
            see(seen, "full", (sent > 100_000, errno, poll(k, &s, IN | OUT)));
            let received = drain(k, &c);
            see(seen, "drained", (sent == received.0, received.1));
            see(seen, "writable", poll(k, &s, IN | OUT));
            let (sent, _) = fill(k, &s);
            k.shutdown(&c).unwrap();
            see(seen, "peer's end", poll(k, &s, IN | OUT));
            k.shutdown(&s).unwrap();
            see(seen, "both ends", (poll(k, &s, IN | OUT), poll(k, &s, 0)));
            k.close(s).unwrap();
            let received = drain(k, &c);
            see(seen, "drained", (sent == received.0, received.1));
            end(k, [c]);

            // close with unread input loses what had not arrived.
            let [Some(s), Some(c)] = pair(k, unix) else { return };
            let (sent, _) = fill(k, &s);
            k.send(&c, b"unread").unwrap();
            settle();
            k.close(s).unwrap();
            let received = drain(k, &c);
            see(seen, "lost", (sent > received.0, received.0 > 0, received.1));
            end(k, [c]);

            // So does a peer that sends to a closed end.
            let [Some(s), Some(c)] = pair(k, unix) else { return };
            let (sent, _) = fill(k, &s);
            k.close(s).unwrap();
            see(seen, "send", k.send(&c, b"late"));
            let received = drain(k, &c);
            see(seen, "lost", (sent > received.0, received.0 > 0, received.1));
            see(seen, "send", (k.send(&c, b"x"), k.send(&c, b"x")));
            end(k, [c]);
        }
    }
}

same_as_linux! {
    /// The order of faults.md: data, then the error once, then the end.
    fn data_then_reset(k, seen) {
        let [Some(s), Some(c)] = pair(k, false) else { return };
        k.send(&c, b"DATA").unwrap();
        k.setsockopt(&c, SocketOption::ResetOnClose).unwrap();
        k.close(c).unwrap();
        settle();
        see(seen, "poll", (poll(k, &s, IN), poll(k, &s, 0)));
        for _ in 0..3 {
            let mut buffer = [0; 9];
            see(seen, "recv", (k.recv(&s, &mut buffer), buffer));
        }
        see(seen, "poll", (poll(k, &s, IN), k.shutdown(&s), k.send(&s, b"x")));
        end(k, [s]);
    }
}

same_as_linux! {
    /// All the ways of two TCP sockets to want one address.
    fn addresses_in_use(k, seen) {
        for case in 0..24 {
            let [first_shares, first_listens, second_shares] = [1, 2, 4].map(|bit| case & bit != 0);
            let ip = [[127, 0, 0, 1], [0, 0, 0, 0], [127, 0, 0, 2]][case / 8];
            let first = k.socket(&any_port()).unwrap();
            if first_shares {
                k.setsockopt(&first, SocketOption::ReuseAddr).unwrap();
            }
            k.bind(&first, &any_port()).unwrap();
            if first_listens {
                k.listen(&first, 1).unwrap();
            }
            let Ok(Address::Tcp(address)) = k.getsockname(&first) else { return };
            let second = k.socket(&any_port()).unwrap();
            if second_shares {
                k.setsockopt(&second, SocketOption::ReuseAddr).unwrap();
            }
            let bound = k.bind(&second, &Address::Tcp((ip, address.port()).into()));
            see(seen, &format!("{case} bind"), bound);
            see(seen, "listen", bound.and_then(|()| k.listen(&second, 1)));
            see(seen, "again", k.bind(&first, &any_port()));
            end(k, [first, second]);
        }
        // A connection keeps its port too, unless both listeners share.
        for (old, new) in [(false, false), (false, true), (true, false), (true, true)] {
            let door = k.socket(&any_port()).unwrap();
            if old {
                k.setsockopt(&door, SocketOption::ReuseAddr).unwrap();
            }
            k.bind(&door, &any_port()).unwrap();
            k.listen(&door, 1).unwrap();
            let address = k.getsockname(&door).unwrap();
            let client = k.socket(&address).unwrap();
            assert_eq!(k.connect(&client, &address), Err(Errno::EINPROGRESS));
            let (accepted, _) = k.accept4(&door).unwrap();
            assert_eq!(k.getsockname(&accepted), Ok(address.clone()));
            k.close(door).unwrap();
            let door = k.socket(&address).unwrap();
            if new {
                k.setsockopt(&door, SocketOption::ReuseAddr).unwrap();
            }
            see(seen, "rebind", k.bind(&door, &address));
            end(k, [door, accepted, client]);
        }
    }
}

same_as_linux! {
    /// The file of a Unix socket, from its birth to the next server.
    fn files(k, seen) {
        let address = fresh_path();
        let path = path_of(&address);
        let too_long = Address::Unix(format!("/tmp/{}", "x".repeat(103)).into());
        see(seen, "lstat", (k.lstat(path), k.chmod(path, 0o600), k.unlink(path)));
        let first = k.socket(&address).unwrap();
        see(seen, "connect", (k.connect(&first, &address), k.connect(&first, &too_long)));
        see(seen, "bind", (k.bind(&first, &too_long), k.bind(&first, &Address::Unix("".into()))));
        see(seen, "listen", (k.listen(&first, 1), k.getsockname(&first)));
        see(seen, "fchmod", k.fchmod(&first, 0o600));
        see(seen, "bind", k.bind(&first, &address));
        see(seen, "bind again", (k.bind(&first, &address), k.bind(&first, &fresh_path())));
        let status = k.lstat(path).unwrap();
        see(seen, "status", (status.is_socket, status.mode));
        see(seen, "name", k.getsockname(&first).unwrap() == address);
        let probe = k.socket(&address).unwrap();
        see(seen, "bound only", k.connect(&probe, &address));
        k.listen(&first, 1).unwrap();
        see(seen, "listening", k.connect(&probe, &address));
        see(seen, "twice", k.connect(&probe, &address));
        see(seen, "itself", k.connect(&first, &address));
        end(k, [probe, first]);

        let second = k.socket(&address).unwrap();
        see(seen, "stale", (k.bind(&second, &address), k.connect(&second, &address)));
        see(seen, "chmod", (k.chmod(path, 0o640), k.lstat(path).unwrap().mode));
        k.unlink(path).unwrap();
        k.fchmod(&second, 0o666).unwrap();
        see(seen, "bind", k.bind(&second, &address));
        see(seen, "umask", k.lstat(path).unwrap().mode);
        k.listen(&second, 0).unwrap();
        k.unlink(path).unwrap();
        let client = k.socket(&address).unwrap();
        see(seen, "unlinked", (k.connect(&client, &address), k.getsockname(&second).unwrap() == address));
        end(k, [second, client]);
    }
}

same_as_linux! {
    /// Calls that make no sense, on every kind of descriptor.
    fn misuse(k, seen) {
        let tcp = any_port();
        let v6 = Address::Tcp(([0; 8], 0).into());
        let unix = fresh_path();
        let [server, client] = pair(k, false);
        let [unix_server, unix_client] = pair(k, true);
        let fds = [
            k.socket(&tcp).ok(), k.socket(&v6).ok(), k.socket(&unix).ok(),
            Some(listener(k, &tcp, 1).0), Some(listener(k, &unix, 1).0),
            server, client, unix_server, unix_client,
            k.epoll_create1().ok(), k.eventfd2().ok(), k.timerfd_create().ok(), k.signalfd4(&[]).ok(),
        ];
        k.unlink(path_of(&unix)).unwrap();
        let mut events = [Event::default()];
        let other = fresh_path();
        for (index, fd) in fds.iter().flatten().enumerate() {
            see(seen, "descriptor", index);
            see(seen, "poll", if index == 9 { 0 } else { poll(k, fd, IN | OUT) });
            see(seen, "recv", k.recv(fd, &mut [0; 200]));
            see(seen, "send", k.send(fd, b"x"));
            see(seen, "accept4", k.accept4(fd).map(|_| ()));
            see(seen, "fchmod", k.fchmod(fd, 0o600));
            if index > 8 {
                see(seen, "bind", k.bind(fd, &tcp));
                see(seen, "listen", k.listen(fd, 1));
                see(seen, "getsockname", k.getsockname(fd));
                see(seen, "setsockopt", k.setsockopt(fd, SocketOption::KeepAlive));
                see(seen, "connect", k.connect(fd, &tcp));
                see(seen, "settime", if index == 11 { Ok(()) } else { k.timerfd_settime(fd, None) });
            } else {
                let family = if [2, 4, 7, 8].contains(&index) { &unix } else { &tcp };
                see(seen, "connect", if index < 3 { Ok(()) } else { k.connect(fd, family) });
                see(seen, "bind", if index < 3 { Ok(()) } else { k.bind(fd, if family == &unix { &other } else { &tcp }) });
                use SocketOption::*;
                for option in [V6Only, NoDelay, KeepAlive, KeepIdle(0), KeepIdle(32768), KeepIdle(9),
                    UserTimeout(u32::MAX), UserTimeout(9), NotSentLowat(1 << 17), NotSentLowat(0), ReuseAddr] {
                    see(seen, &format!("{option:?}"), k.setsockopt(fd, option));
                }
            }
            if [9, 12].contains(&index) {
                see(seen, "read_counter", k.read_counter(fd));
            }
            if index != 9 {
                see(seen, "epoll_wait", k.epoll_wait(fd, &mut events, Wait::No));
            }
            see(seen, "shutdown", k.shutdown(fd));
            see(seen, "poll", if index == 9 { 0 } else { poll(k, fd, IN | OUT) });
        }
        let [v4, v6s, unixs] = [0, 1, 2].map(|index: usize| fds[index].as_ref().unwrap());
        see(seen, "v4", (k.bind(v4, &v6), k.bind(v4, &unix)));
        see(seen, "v6", (k.bind(v6s, &tcp), k.bind(v6s, &unix)));
        see(seen, "unix", (k.bind(unixs, &tcp), k.bind(unixs, &v6)));
        see(seen, "listen", (k.listen(v4, 1), k.listen(v6s, 1), k.listen(unixs, 1)));
        let epoll = fds[9].as_ref().unwrap();
        see(seen, "no events", k.epoll_wait(epoll, &mut [], Wait::No));
        see(seen, "itself", k.epoll_ctl(epoll, EpollOp::Add, epoll, Event::default()));
        see(seen, "modify", k.epoll_ctl(epoll, EpollOp::Modify, v4, Event::default()));
        end(k, fds.into_iter().flatten());
    }
}

same_as_linux! {
    fn counters_and_timers(k, seen) {
        let (counter, timer) = (k.eventfd2().unwrap(), k.timerfd_create().unwrap());
        see(seen, "empty", (k.read_counter(&counter), poll(k, &counter, IN | OUT)));
        see(seen, "write", (k.write_counter(&counter), k.write_counter(&counter)));
        see(seen, "read", (poll(k, &counter, IN | OUT), k.read_counter(&counter), k.read_counter(&counter)));
        see(seen, "unset", (k.read_counter(&timer), poll(k, &timer, IN)));
        // A deadline that has passed, even 0, expires at once; setting again takes that back.
        for deadline in [Some(0), Some(1), Some(k.clock_gettime()), None, Some(u64::MAX / 4)] {
            see(seen, "set", k.timerfd_settime(&timer, deadline));
            if deadline.is_some_and(|deadline| deadline > 1) {
                settle();
            }
            see(seen, "poll", (poll(k, &timer, IN | OUT)));
        }
        see(seen, "disarmed", (k.timerfd_settime(&timer, None), k.read_counter(&timer)));
        see(seen, "set", (k.timerfd_settime(&timer, Some(1)), k.read_counter(&timer), k.read_counter(&timer)));

        // A wait without end ends with the timer, not before.
        let epoll = k.epoll_create1().unwrap();
        let mut events = [Event::default(); 4];
        k.epoll_ctl(&epoll, EpollOp::Add, &timer, Event { mask: IN, data: 7 }).unwrap();
        let deadline = k.clock_gettime() + 20_000_000;
        k.timerfd_settime(&timer, Some(deadline)).unwrap();
        see(seen, "not yet", k.epoll_wait(&epoll, &mut events, Wait::No));
        see(seen, "wait", (k.epoll_wait(&epoll, &mut events, Wait::Forever), events[0]));
        see(seen, "late", k.clock_gettime() >= deadline);
        see(seen, "still", k.epoll_wait(&epoll, &mut events, Wait::No));
        see(seen, "read", (k.read_counter(&timer), k.epoll_wait(&epoll, &mut events, Wait::No)));
        end(k, [counter, timer, epoll]);
    }
}

// ---- the simulated kernel alone
