//! The simulated kernel against its own documentation, and against Linux.
//!
//! A script that is generic over the kernel runs on both, and must get the same results.
//! Descriptor numbers and addresses differ, so they are left out of the results.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt::Debug;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use super::*;
use crate::kernel::Linux;

/// The results of a script, a line per call.
type Seen = Vec<String>;

thread_local! {
    /// How many milliseconds the script gives the loopback device to deliver.
    static PAUSE: Cell<u64> = const { Cell::new(0) };
    /// The simulated kernel, if it delays deliveries.
    static SLOW: RefCell<Option<Simulated>> = const { RefCell::new(None) };
}

/// The loopback device mostly delivers within the call that sends, but not always: so a
/// script that saw something else on Linux is run again, with patience.
///
/// Where the simulated kernel takes its time, it is over after this.
fn settle() {
    if PAUSE.get() > 0 {
        thread::sleep(Duration::from_millis(PAUSE.get()));
    }
    SLOW.with_borrow(|slow| slow.iter().for_each(|sim| sim.advance(LONG)));
}

/// Time enough for several things that take up to a tenth of it.
const LONG: Duration = Duration::from_millis(10);

/// Writes a test that runs one script on both kernels, and compares the results.
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
                for pause in [3, 30, 300] {
                    if simulated != real {
                        real.clear();
                        PAUSE.set(pause);
                        script(&mut Linux, &mut real, seed);
                        PAUSE.set(0);
                    }
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

/// A loopback address that no other script uses, and any port. Thousands of connections
/// leave TIME_WAIT behind: on 127.0.0.1 that would use up the ports of other tests.
fn own_host() -> Address {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let [_, high, low, last] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let process = 64 + (std::process::id() % 64) as u8;
    Address::Tcp(([127, process + (high & 63), low, last.max(1)], 0).into())
}

/// A socket that is about to connect from the host where the server is.
fn client<K: Kernel>(k: &mut K, server: &Address) -> Fd {
    let fd = k.socket(server).unwrap();
    if let Address::Tcp(address) = server {
        k.bind(&fd, &Address::Tcp((address.ip(), 0).into())).unwrap();
        // Or the Nagle algorithm holds bytes back.
        k.setsockopt(&fd, SocketOption::NoDelay).unwrap();
    }
    fd
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
    let address = if unix { fresh_path() } else { own_host() };
    let (door, address) = listener(k, &address, 4);
    let one = client(k, &address);
    let _ = k.setsockopt(&door, SocketOption::NoDelay); // not for a Unix socket
    let begun = k.connect(&one, &address);
    assert_eq!(begun, if unix { Ok(()) } else { Err(Errno::EINPROGRESS) });
    settle();
    let other = k.accept4(&door).unwrap().0;
    k.close(door).unwrap();
    if unix {
        k.unlink(path_of(&address)).unwrap();
    }
    [Some(other), Some(one)]
}

/// The events that epoll reports of a descriptor.
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

fn look<K: Kernel>(k: &mut K, seen: &mut Seen, name: &str, fd: Option<&Fd>, mask: u32) {
    if let Some(fd) = fd {
        see(seen, &format!("  {name}"), poll(k, fd, mask));
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
            look(k, seen, SIDES[0], ends[0].as_ref(), IN | OUT);
            look(k, seen, SIDES[1], ends[1].as_ref(), IN | OUT);
        }
    }
    end(k, ends.into_iter().flatten());
}

/// Random things done by clients in the queue of a listener, which may close.
fn queue<K: Kernel>(k: &mut K, seen: &mut Seen, mut seed: u64, unix: bool) {
    let address = if unix { fresh_path() } else { own_host() };
    let backlog = if unix { random(&mut seed, 4) as u32 } else { 16 };
    let (door, address) = listener(k, &address, backlog);
    let (mut door, mut clients, mut accepted) = (Some(door), Vec::new(), Vec::new());
    for _ in 0..20 {
        match (random(&mut seed, 12), &door) {
            (0..4, Some(_)) if clients.len() < 6 => {
                let fd = client(k, &address);
                see(seen, "connect", k.connect(&fd, &address));
                clients.push(Some(fd));
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
        look(k, seen, "door", door.as_ref(), IN | OUT);
        clients.iter().for_each(|fd| look(k, seen, "client", fd.as_ref(), IN | OUT));
        accepted.iter().for_each(|fd| look(k, seen, "accepted", Some(fd), IN | OUT));
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
    /// Which events come: of three counters, in which order, and how a full batch rotates;
    /// or of these and of connections too. Those are sorted, for Linux also puts a
    /// connection on the list when something unwatched happens.
    fn random_epoll(k, seen, seed in 0..500) {
        let kinds = if seed.is_multiple_of(2) { 3 } else { 7 };
        let mut seed = seed;
        let epoll = k.epoll_create1().unwrap();
        let mut fds: Vec<Option<Fd>> = (0..3).map(|_| k.eventfd2().ok()).collect();
        fds.extend(pair(k, false));
        fds.extend(pair(k, true));
        for _ in 0..80 {
            let index = random(&mut seed, kinds) as usize;
            let mask = [0, IN, IN, IN | OUT][random(&mut seed, 4) as usize];
            let event = Event { mask, data: index as u64 };
            let Some(fd) = fds[index].take() else { continue };
            match random(&mut seed, 11) {
                0 | 1 => see(seen, "add", k.epoll_ctl(&epoll, EpollOp::Add, &fd, event)),
                2 => see(seen, "modify", k.epoll_ctl(&epoll, EpollOp::Modify, &fd, event)),
                3..6 if index < 3 => see(seen, "write", k.write_counter(&fd)),
                6 if index < 3 => see(seen, "read", k.read_counter(&fd)),
                3..5 => see(seen, "send", k.send(&fd, b"ab")),
                5 | 6 => see(seen, "recv", k.recv(&fd, &mut [0; 3])),
                7 if random(&mut seed, 8) == 0 => {
                    see(seen, "close", k.close(fd));
                    settle();
                    continue;
                }
                _ => {
                    let size = if kinds == 3 { 1 + random(&mut seed, 3) } else { 7 };
                    let mut events = vec![Event::default(); size as usize];
                    see(seen, "wait", k.epoll_wait(&epoll, &mut events, Wait::No));
                    if kinds > 3 {
                        events.sort_by_key(|event| event.data);
                    }
                    see(seen, "    ", events);
                }
            }
            fds[index] = Some(fd);
            settle();
        }
        end(k, fds.into_iter().flatten().chain([epoll]));
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

/// Receives until nothing more comes. With patience also what has to be sent again, which
/// happens when both directions are full.
fn drain<K: Kernel>(k: &mut K, fd: &Fd) -> (usize, Result<usize>) {
    let (mut received, mut again, mut buffer) = (0, 0, vec![0; 1 << 16]);
    loop {
        match k.recv(fd, &mut buffer) {
            Ok(length @ 1..) => (received, again) = (received + length, 0),
            Err(Errno::EAGAIN) if PAUSE.get() > 0 && again < 4 => again += 1,
            last => return (received, last),
        }
        settle();
    }
}

/// Random things done to both ends, with queues that are filled and emptied. How much
/// they hold is not the same on both kernels, and Linux lets them grow: so what is
/// compared is what follows from it, and not whether there is room.
fn flood<K: Kernel>(k: &mut K, seen: &mut Seen, mut seed: u64, unix: bool) {
    let mut ends = pair(k, unix);
    let (mut sent, mut received) = ([0; 2], [0; 2]);
    for _ in 0..8 {
        let which = random(&mut seed, 2) as usize;
        let action = random(&mut seed, 10);
        let Some(fd) = ends[which].take() else { continue };
        let name = SIDES[which];
        match action {
            0..3 => {
                let (length, errno) = fill(k, &fd);
                sent[which] += length;
                see(seen, &format!("{name} fill"), errno);
            }
            3..6 => {
                let (length, last) = drain(k, &fd);
                received[which] += length;
                let all = received[which] == sent[1 - which];
                see(seen, &format!("{name} drain"), (last, all));
            }
            6..8 => see(seen, &format!("{name} shutdown"), k.shutdown(&fd)),
            8 => match k.send(&fd, b"x") {
                // A full queue may have a corner left for a byte.
                Err(Errno::EAGAIN) => {}
                Ok(length) => sent[which] += length,
                Err(errno) => see(seen, &format!("{name} send"), errno),
            },
            _ => {
                see(seen, &format!("{name} close"), k.close(fd));
                continue;
            }
        }
        ends[which] = Some(fd);
        settle();
        look(k, seen, SIDES[0], ends[0].as_ref(), IN);
        look(k, seen, SIDES[1], ends[1].as_ref(), IN);
    }
    end(k, ends.into_iter().flatten());
}

same_as_linux! {
    fn random_flood_over_tcp(k, seen, seed in 0..200) {
        flood(k, seen, seed, false);
    }
}

same_as_linux! {
    fn random_flood_over_unix(k, seen, seed in 0..200) {
        flood(k, seen, seed, true);
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
    /// After a reset: the data, then the error once, then EOF.
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
    /// Outbound connections: the events, whatever the other end does, and the effect of
    /// SO_ERROR on them.
    fn random_connect(k, seen, seed in 0..500) {
        let mut seed = seed;
        let (door, address) = listener(k, &own_host(), 4);
        k.setsockopt(&door, SocketOption::NoDelay).unwrap();
        let one = client(k, &address);
        if random(&mut seed, 3) == 0 {
            k.close(door).unwrap();
            see(seen, "connect to nobody", k.connect(&one, &address));
            settle();
            refused(k, seen, &mut seed, &one);
            return k.close(one).unwrap();
        }
        see(seen, "connect", k.connect(&one, &address));
        settle();
        let mut other = Some(k.accept4(&door).unwrap().0);
        for _ in 0..5 {
            if let Some(fd) = other.take() {
                other = act(k, seen, &mut seed, "server", fd);
            }
            settle();
            look(k, seen, "client", Some(&one), IN | OUT);
            if random(&mut seed, 2) == 0 {
                see(seen, "so_error", k.getsockopt_error(&one));
            }
            if random(&mut seed, 2) == 0 {
                see(seen, "recv", k.recv(&one, &mut [0; 300]));
            }
        }
        end(k, [door, one].into_iter().chain(other));
    }
}

/// What can still be done with a connection that was refused, in some order.
fn refused<K: Kernel>(k: &mut K, seen: &mut Seen, seed: &mut u64, fd: &Fd) {
    for _ in 0..4 {
        look(k, seen, "refused", Some(fd), IN | OUT);
        match random(seed, 3) {
            0 => see(seen, "so_error", k.getsockopt_error(fd)),
            1 => see(seen, "recv", k.recv(fd, &mut [0; 9])),
            _ => see(seen, "send", k.send(fd, b"x")),
        }
    }
}

same_as_linux! {
    /// All the ways in which two TCP sockets can ask for one address.
    fn addresses_in_use(k, seen) {
        for case in 0..24 {
            let [first_shares, first_listens, second_shares] = [1, 2, 4].map(|bit| case & bit != 0);
            let first = k.socket(&any_port()).unwrap();
            if first_shares {
                k.setsockopt(&first, SocketOption::ReuseAddr).unwrap();
            }
            // Not an ephemeral port: other tests have left TIME_WAIT on those.
            let start = 10_000 + (std::process::id() % 100 * 100) as u16 + case as u16;
            let mut ports = (start..start + 9000).step_by(24);
            let port = ports.find(|port| {
                let address = ([127, 0, 0, 1], *port).into();
                k.bind(&first, &Address::Tcp(address)).is_ok()
            });
            let ip = [[127, 0, 0, 1], [0, 0, 0, 0], [127, 0, 0, 2]][case / 8];
            let second_address = Address::Tcp((ip, port.unwrap()).into());
            if first_listens {
                k.listen(&first, 1).unwrap();
            }
            let second = k.socket(&any_port()).unwrap();
            if second_shares {
                k.setsockopt(&second, SocketOption::ReuseAddr).unwrap();
            }
            let bound = k.bind(&second, &second_address);
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
            k.bind(&door, &own_host()).unwrap();
            k.listen(&door, 1).unwrap();
            let address = k.getsockname(&door).unwrap();
            let one = client(k, &address);
            assert_eq!(k.connect(&one, &address), Err(Errno::EINPROGRESS));
            let (accepted, _) = k.accept4(&door).unwrap();
            assert_eq!(k.getsockname(&accepted), Ok(address.clone()));
            k.close(door).unwrap();
            let door = k.socket(&address).unwrap();
            if new {
                k.setsockopt(&door, SocketOption::ReuseAddr).unwrap();
            }
            see(seen, "rebind", k.bind(&door, &address));
            end(k, [door, accepted, one]);
        }
    }
}

same_as_linux! {
    /// The file of a Unix socket, from `bind` to the next server.
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
        see(seen, "status", (status.kind, status.mode));
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
                // Not simulated: to ask a second time how a connect went, and to name a
                // Unix client.
                if ![0, 1, 2, 6].contains(&index) {
                    see(seen, "connect", k.connect(fd, family));
                }
                let name = if family == &unix { &other } else { &tcp };
                if ![0, 1, 2, 7, 8].contains(&index) {
                    see(seen, "bind", k.bind(fd, name));
                }
                use SocketOption::*;
                for option in [V6Only, NoDelay, KeepAlive, KeepIdle(0), KeepIdle(32768), KeepIdle(9),
                    UserTimeout(u32::MAX), UserTimeout(9), NotSentLowat(1 << 17), NotSentLowat(0), Cork(true), ReuseAddr] {
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
        for deadline in [Some(0), Some(1), Some(k.clock_gettime(Clock::Monotonic)), None, Some(u64::MAX / 4)] {
            see(seen, "set", k.timerfd_settime(&timer, deadline));
            if deadline.is_some_and(|deadline| deadline > 1) {
                settle();
            }
            see(seen, "poll", poll(k, &timer, IN | OUT));
        }
        see(seen, "disarmed", (k.timerfd_settime(&timer, None), k.read_counter(&timer)));
        see(seen, "set", (k.timerfd_settime(&timer, Some(1)), k.read_counter(&timer), k.read_counter(&timer)));

        // A wait without end ends with the timer, not before.
        let epoll = k.epoll_create1().unwrap();
        let mut events = [Event::default(); 4];
        k.epoll_ctl(&epoll, EpollOp::Add, &timer, Event { mask: IN, data: 7 }).unwrap();
        let deadline = k.clock_gettime(Clock::Monotonic) + 20_000_000;
        k.timerfd_settime(&timer, Some(deadline)).unwrap();
        see(seen, "not yet", k.epoll_wait(&epoll, &mut events, Wait::No));
        see(seen, "wait", (k.epoll_wait(&epoll, &mut events, Wait::Forever), events[0]));
        see(seen, "late", k.clock_gettime(Clock::Monotonic) >= deadline);
        see(seen, "still", k.epoll_wait(&epoll, &mut events, Wait::No));
        see(seen, "read", (k.read_counter(&timer), k.epoll_wait(&epoll, &mut events, Wait::No)));
        end(k, [counter, timer, epoll]);
    }
}

// ---- the simulated kernel alone
/// A world with a TCP listener, as the server and as the test see it.
fn world(backlog: u32) -> (Simulated, Simulated, Fd, Address) {
    let sim = Simulated::new(1);
    let mut k = sim.clone();
    let (door, address) = listener(&mut k, &any_port(), backlog);
    (sim, k, door, address)
}

#[test]
fn descriptors_are_reused_from_the_lowest() {
    let mut k = Simulated::new(0);
    let mut fds: VecDeque<Fd> = (0..4).map(|_| k.eventfd2().unwrap()).collect();
    assert_eq!(fds.iter().map(Fd::number).collect::<Vec<_>>(), [3, 4, 5, 6]);
    k.close(fds.remove(2).unwrap()).unwrap();
    k.close(fds.remove(1).unwrap()).unwrap();
    fds.extend((0..3).map(|_| k.eventfd2().unwrap()));
    assert_eq!(fds.iter().map(Fd::number).collect::<Vec<_>>(), [3, 6, 4, 5, 7]);
    assert_eq!(k.descriptors(), 5);
    end(&mut k, fds);
    assert_eq!(k.descriptors(), 0);
    assert_eq!(k.close(Fd::simulated(3).unwrap()), Err(Errno::EBADF));
    assert_eq!(k.close(Fd::simulated((1 << 30) - 1).unwrap()), Err(Errno::EBADF));
}

/// A number means nothing to another kernel: each call on it is EBADF, and none reaches
/// another descriptor. 99 would be -100, the working directory, to a careless kernel.
#[test]
fn a_descriptor_of_another_kernel_is_none() {
    for number in [0, 1, 3, 98, 99, 100, (1 << 30) - 1] {
        let fd = Fd::simulated(number).unwrap();
        assert_eq!((fd.number(), fd.simulated_number()), (number, Some(number)));
        assert_eq!(Linux.fstat(&fd), Err(Errno::EBADF));
        let event = Event::default();
        let calls = [
            Linux.openat2(Some(&fd), Path::new(".")).map(drop),
            Linux.accept4(&fd).map(drop),
            Linux.recv(&fd, &mut [0]).map(drop),
            Linux.send(&fd, b"x").map(drop),
            Linux.shutdown(&fd),
            Linux.setsockopt(&fd, SocketOption::NoDelay),
            Linux.getsockopt_error(&fd).map(drop),
            Linux.getsockname(&fd).map(drop),
            Linux.listen(&fd, 1),
            Linux.fchmod(&fd, 0o600),
            Linux.pread64(&fd, &mut [0], 0).map(drop),
            Linux.sendfile(&fd, &fd, 0, 1).map(drop),
            Linux.epoll_ctl(&fd, EpollOp::Add, &fd, event),
            Linux.epoll_wait(&fd, &mut [event], Wait::No).map(drop),
            Linux.timerfd_settime(&fd, None),
            Linux.read_counter(&fd).map(drop),
            Linux.write_counter(&fd),
            Linux.read_signal(&fd).map(drop),
        ];
        assert_eq!(calls, [Err(Errno::EBADF); 18], "{number}");
        assert_eq!(Linux.close(fd), Err(Errno::EBADF));
    }
    for number in [-1, i32::MIN, 1 << 30, i32::MAX] {
        assert_eq!(Fd::simulated(number), None);
    }
    assert_eq!((Fd::UNOPENED.number(), Fd::UNOPENED.simulated_number()), (-1, None));
    let mut k = Simulated::new(0);
    let fds: Vec<Fd> = (0..100).map(|_| k.eventfd2().unwrap()).collect();
    let real = Linux.eventfd2().unwrap();
    assert_eq!((real.number() >= 0, real.simulated_number()), (true, None));
    assert_eq!(k.write_counter(&real), Err(Errno::EBADF));
    assert_eq!(k.close(real), Err(Errno::EBADF));
    assert_eq!(k.close(Fd::UNOPENED), Err(Errno::EBADF));
    assert_eq!(k.descriptors(), 100);
    end(&mut k, fds);
}

/// A descriptor of Linux is closed when it is dropped; a simulated one is not, and the world
/// reports it.
#[test]
fn what_is_dropped_is_closed() {
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    let mut k = Simulated::new(0);
    let ends: [fn(Fd, &mut Simulated); 3] = [
        |fd, _| drop(fd),
        |fd, _| Linux.close(fd).unwrap(),
        |fd, k| assert_eq!(k.close(fd), Err(Errno::EBADF)),
    ];
    for end in ends {
        let (mut one, other) = UnixStream::pair().unwrap();
        end(Fd::from(std::os::fd::OwnedFd::from(other)), &mut k);
        assert_eq!(one.read(&mut [0]).unwrap(), 0, "closed");
    }
    drop(k.eventfd2().unwrap());
    assert_eq!(k.descriptors(), 1);
}

#[test]
fn a_full_table_is_noticed_before_an_empty_queue() {
    let (sim, mut k, door, address) = world(8);
    assert_eq!(k.prlimit(None), Ok((1024, 4096)));
    assert_eq!(k.prlimit(Some(4097)), Err(Errno::EINVAL));
    assert_eq!(k.prlimit(Some(4)), Ok((4, 4096)));
    assert_eq!(k.accept4(&door), Err(Errno::EMFILE));
    assert_eq!(k.epoll_create1(), Err(Errno::EMFILE));
    let client = sim.connect(&address).unwrap();
    assert_eq!(k.accept4(&door), Err(Errno::EMFILE));
    sim.set_limits(5, 5);
    let (fd, peer) = k.accept4(&door).unwrap();
    assert_eq!((fd.number(), peer), (4, client.address()));
    assert_eq!(k.accept4(&door), Err(Errno::EMFILE));
    k.close(fd).unwrap();
    assert_eq!(k.accept4(&door), Err(Errno::EAGAIN));
    k.close(door).unwrap();
}

#[test]
fn closing_a_descriptor_takes_it_out_of_the_set() {
    let sim = Simulated::new(0);
    let mut k = sim.clone();
    let (epoll, first) = (k.epoll_create1().unwrap(), k.eventfd2().unwrap());
    let event = Event { mask: IN, data: 1 };
    k.epoll_ctl(&epoll, EpollOp::Add, &first, event).unwrap();
    k.write_counter(&first).unwrap();
    assert_eq!((sim.watched(), sim.is_ready()), (1, true));
    k.close(first).unwrap();
    assert_eq!((sim.watched(), sim.is_ready()), (0, false));
    let second = k.eventfd2().unwrap();
    assert_eq!(k.epoll_ctl(&epoll, EpollOp::Modify, &second, event), Err(Errno::ENOENT));
    k.epoll_ctl(&epoll, EpollOp::Add, &second, event).unwrap();
    assert!(!sim.is_ready());
    k.write_counter(&second).unwrap();
    assert_eq!(k.epoll_wait(&epoll, &mut [event; 4], Wait::No), Ok(1));
    end(&mut k, [epoll, second]);
}

#[test]
fn a_queue_holds_one_more_than_its_backlog_and_the_next_wait() {
    let (sim, mut k, door, address) = world(1);
    let epoll = k.epoll_create1().unwrap();
    let event = Event { mask: IN, data: 0 };
    k.epoll_ctl(&epoll, EpollOp::Add, &door, event).unwrap();
    assert_eq!(k.epoll_wait(&epoll, &mut [event], Wait::No), Ok(0));
    let mut clients: Vec<Client> = (0..4).map(|_| sim.connect(&address).unwrap()).collect();
    assert_eq!(k.epoll_wait(&epoll, &mut [event], Wait::No), Ok(1));
    let established =
        |clients: &[Client]| -> Vec<bool> { clients.iter().map(Client::established).collect() };
    assert_eq!(established(&clients), [true, true, false, false]);
    assert_eq!((clients[1].send(b"x"), clients[2].send(b"x")), (1, 0));
    let (fd, peer) = k.accept4(&door).unwrap();
    assert_eq!(peer, clients[0].address()); // the first comes first
    assert_eq!(established(&clients), [true, true, true, false]);
    k.close(fd).unwrap();
    clients[3].close(); // gives up
    // Closing resets the clients in the queue, and refuses others.
    let late = sim.connect(&address).unwrap();
    clients.push(late);
    end(&mut k, [door, epoll]);
    clients.iter_mut().for_each(|client| assert_eq!(client.recv(), b""));
    assert!(clients[0].saw_eof() && !clients[0].saw_reset());
    assert!(clients[1].saw_reset() && clients[2].saw_reset() && !clients[1].saw_eof());
    assert_eq!(clients[4].error(), Some(Errno::ECONNREFUSED));
    assert!(!clients[4].saw_eof() && !clients[4].saw_reset() && !clients[4].established());
    assert_eq!(sim.connect(&address).unwrap_err(), Errno::ECONNREFUSED);
    drop(clients);
    assert_eq!(sim.world().streams.len(), 0);
}

#[test]
fn refused_syns_leave_the_queue_and_handshakes_alone() {
    let (sim, mut k, door, address) = world(8);
    let mut queued = sim.connect(&address).unwrap();
    let mut slow = sim.connect_slowly(&address, LONG).unwrap();
    assert_eq!(slow.send(b"so"), 2);
    k.setsockopt(&door, SocketOption::NoDevice).unwrap();
    let mut late = sim.connect(&address).unwrap();
    assert!(queued.established() && slow.established() && !late.established());
    assert_eq!((late.send(b"x"), late.error()), (0, Some(Errno::ECONNREFUSED)));
    let (fd, _) = k.accept4(&door).unwrap();
    assert_eq!(k.accept4(&door), Err(Errno::EAGAIN));
    let diag = k.socket_diag().unwrap();
    let Address::Tcp(local) = address else { panic!("{address}") };
    let asks = |k: &mut Simulated| {
        k.write_diag(&diag, local).unwrap();
        k.read_diag(&diag)
    };
    assert_eq!(asks(&mut k), Ok(true));
    sim.advance(LONG);
    assert_eq!(asks(&mut k), Ok(false));
    let (second, _) = k.accept4(&door).unwrap();
    assert_eq!(k.recv(&second, &mut [0; 9]), Ok(2));
    k.send(&fd, b"hello").unwrap();
    let mut too_slow = sim.connect_slowly(&address, LONG);
    assert_eq!(too_slow.as_mut().map(|client| client.send(b"x")), Ok(0), "refused as well");
    end(&mut k, [fd, second, door, diag]);
    assert_eq!(queued.recv(), b"hello");
    assert!(queued.saw_eof());
}

/// A client that has not sent its last ACK when the listener closes is reset.
#[test]
fn a_handshake_under_way_does_not_outlive_its_listener() {
    let (sim, mut k, door, address) = world(8);
    let mut slow = sim.connect_slowly(&address, LONG).unwrap();
    slow.send(b"hello");
    k.close(door).unwrap();
    assert!(!slow.saw_reset());
    sim.advance(LONG);
    slow.recv();
    assert!(slow.saw_reset());
}

same_as_linux! {
    fn refused_syns(k, seen) {
        let (door, address) = listener(k, &any_port(), 8);
        let [first, second] = [k.socket(&address).unwrap(), k.socket(&address).unwrap()];
        see(seen, "first", k.connect(&first, &address));
        see(seen, "refuse", k.setsockopt(&door, SocketOption::NoDevice));
        see(seen, "second", k.connect(&second, &address));
        settle();
        see(seen, "poll", (poll(k, &first, IN | OUT), poll(k, &second, IN | OUT)));
        see(seen, "error", k.getsockopt_error(&second));
        let (fd, _) = k.accept4(&door).unwrap();
        see(seen, "late", k.accept4(&door).map(drop));
        k.send(&first, b"x").unwrap();
        settle();
        see(seen, "recv", k.recv(&fd, &mut [0; 9]));
        end(k, [door, first, second, fd]);
    }
}

same_as_linux! {
    /// Bytes are acknowledged before they are read; on a Unix socket they must be read.
    fn bytes_that_are_not_acknowledged(k, seen) {
        for address in [any_port(), fresh_path()] {
            let is_tcp = matches!(address, Address::Tcp(_));
            let (door, address) = listener(k, &address, 8);
            let client = k.socket(&address).unwrap();
            let _ = k.connect(&client, &address);
            settle();
            let (fd, _) = k.accept4(&door).unwrap();
            see(seen, "nothing", k.ioctl_outq(&fd));
            k.send(&fd, b"hello").unwrap();
            settle();
            see(seen, "sent", k.ioctl_outq(&fd).map(|waiting| (waiting == 0) == is_tcp));
            k.recv(&client, &mut [0; 9]).unwrap();
            see(seen, "read", k.ioctl_outq(&fd));
            see(seen, "door", k.ioctl_outq(&door).map_err(|errno| is_tcp || errno == Errno::EINVAL));
            end(k, [fd, client, door]);
            if !is_tcp {
                k.unlink(path_of(&address)).unwrap();
            }
        }
    }
}

#[test]
fn a_client_that_does_not_read_fills_the_queues() {
    let (sim, mut k, door, address) = world(8);
    sim.set_buffers(300, 100);
    let mut client = sim.connect(&address).unwrap();
    let (fd, _) = k.accept4(&door).unwrap();
    assert_eq!(k.send(&fd, &[1; 1000]), Ok(400));
    assert_eq!(k.send(&fd, &[1; 1000]), Err(Errno::EAGAIN));
    assert_eq!(poll(&mut k, &fd, OUT), 0);
    assert_eq!(client.recv_at_most(99).len(), 99);
    assert_eq!(poll(&mut k, &fd, OUT), 0); // 201 of 300 wait: less than a third is free
    assert_eq!(client.recv_at_most(1).len(), 1);
    assert_eq!(poll(&mut k, &fd, OUT), OUT);
    // NOTSENT_LOWAT bounds the unsent bytes, and wants half of that free.
    k.setsockopt(&fd, SocketOption::NotSentLowat(50)).unwrap();
    assert_eq!(client.recv().len(), 300);
    assert_eq!(k.send(&fd, &[2; 1000]), Ok(150));
    assert_eq!(client.recv_at_most(25).len(), 25);
    assert_eq!(poll(&mut k, &fd, OUT), 0);
    assert_eq!(client.recv_at_most(1).len(), 1);
    assert_eq!(poll(&mut k, &fd, OUT), OUT);
    // What was not sent is lost with a reset; what was is not.
    assert_eq!(client.send(b"unread"), 6);
    end(&mut k, [fd, door]);
    assert_eq!(client.recv().len(), 100);
    assert!(client.saw_reset() && !client.saw_eof());
}

#[test]
fn clients_have_addresses_and_come_to_an_end() {
    let (sim, mut k, door, address) = world(8);
    let name = SocketAddr::from(([10, 0, 0, 7], 999));
    let mut client = sim.connect_from(&address, name).unwrap();
    let (fd, peer) = k.accept4(&door).unwrap();
    assert_eq!((peer, client.address()), (Peer::Tcp(name), Peer::Tcp(name)));
    let mut buffer = [0; 9];
    client.send(b"bye");
    client.shutdown();
    assert_eq!(k.recv(&fd, &mut buffer), Ok(3));
    assert_eq!(k.recv(&fd, &mut buffer), Ok(0));
    k.send(&fd, b"reply").unwrap();
    assert_eq!(client.recv(), b"reply");
    assert!(!client.saw_eof() && !client.saw_reset());
    client.reset();
    assert_eq!((client.send(b"x"), client.recv(), client.error()), (0, vec![], Some(Errno::EBADF)));
    // It had sent its FIN already: recv stays at EOF, and send fails.
    assert_eq!(k.recv(&fd, &mut buffer), Ok(0));
    assert_eq!(k.send(&fd, b"x"), Err(Errno::EPIPE));
    k.close(fd).unwrap();

    sim.connect(&address).unwrap().send(b"then dropped");
    let mut reset = sim.connect(&address).unwrap();
    reset.send(b"then reset");
    reset.reset();
    let ends = [k.accept4(&door).unwrap().0, k.accept4(&door).unwrap().0];
    let mut buffer = [0; 99];
    assert_eq!(k.recv(&ends[0], &mut buffer), Ok(12));
    assert_eq!(k.recv(&ends[0], &mut buffer), Ok(0));
    assert_eq!(k.recv(&ends[1], &mut buffer), Ok(10));
    assert_eq!(k.recv(&ends[1], &mut buffer), Err(Errno::ECONNRESET));
    end(&mut k, ends.into_iter().chain([door]));

    // A client of a Unix socket.
    let unix = fresh_path();
    assert_eq!(sim.connect(&unix).unwrap_err(), Errno::ENOENT);
    sim.create_file(path_of(&unix));
    assert_eq!(sim.file(path_of(&unix)).unwrap().kind, FileKind::Regular);
    assert_eq!(sim.connect(&unix).unwrap_err(), Errno::ECONNREFUSED);
    k.unlink(path_of(&unix)).unwrap();
    assert_eq!(sim.file(path_of(&unix)), None);
    sim.set_umask(0o077);
    let (door, _) = listener(&mut k, &unix, 0);
    k.setsockopt(&door, SocketOption::NoDevice).unwrap(); // means nothing here
    assert_eq!(sim.file(path_of(&unix)).unwrap().mode, 0o700);
    let client = sim.connect(&unix).unwrap();
    assert_eq!(sim.connect(&unix).unwrap_err(), Errno::EAGAIN);
    let (fd, peer) = k.accept4(&door).unwrap();
    assert_eq!((peer, client.address()), (Peer::Unix, Peer::Unix));
    end(&mut k, [fd, door]);
}

#[test]
fn a_wait_without_events_jumps_to_the_next_timer_or_is_interrupted() {
    let sim = Simulated::new(0);
    let mut k = sim.clone();
    let epoll = k.epoll_create1().unwrap();
    let timers = [k.timerfd_create().unwrap(), k.timerfd_create().unwrap()];
    let mut events = [Event::default(); 4];
    let start = sim.now();
    k.timerfd_settime(&timers[0], Some(start + 50)).unwrap();
    k.timerfd_settime(&timers[1], Some(start + 90)).unwrap();
    assert_eq!(sim.armed(), Some(start + 50));
    assert_eq!(k.epoll_wait(&epoll, &mut events, Wait::Forever), Err(Errno::EINTR));
    k.epoll_ctl(&epoll, EpollOp::Add, &timers[0], Event { mask: 0, data: 0 }).unwrap();
    assert_eq!(k.epoll_wait(&epoll, &mut events, Wait::Forever), Err(Errno::EINTR));
    k.epoll_ctl(&epoll, EpollOp::Add, &timers[1], Event { mask: IN, data: 1 }).unwrap();
    assert_eq!(k.epoll_wait(&epoll, &mut events, Wait::No), Ok(0));
    assert_eq!(sim.now(), start);
    assert_eq!(k.epoll_wait(&epoll, &mut events, Wait::Forever), Ok(1));
    assert_eq!(
        (sim.now(), k.clock_gettime(Clock::Monotonic), sim.armed()),
        (start + 90, start + 90, None)
    );
    assert_eq!(timers.each_ref().map(|fd| k.read_counter(fd)), [Ok(1), Ok(1)]);
    assert_eq!(k.epoll_wait(&epoll, &mut events, Wait::Forever), Err(Errno::EINTR));
    k.timerfd_settime(&timers[1], Some(start + 100)).unwrap();
    sim.advance(Duration::from_nanos(9));
    assert!(!sim.is_ready());
    sim.advance(Duration::from_nanos(1));
    assert!(sim.is_ready());
    end(&mut k, timers.into_iter().chain([epoll]));
}

#[test]
fn signals_wait_while_they_are_blocked() {
    let sim = Simulated::new(0);
    let mut k = sim.clone();
    sim.ignore(Signal::SIGHUP);
    assert_eq!(k.rt_sigaction(Signal::SIGHUP), Ok(true));
    assert_eq!(k.rt_sigaction(Signal::SIGTERM), Ok(false));
    assert!(sim.signal(Signal::SIGHUP) && sim.signal(Signal::SIGCHLD));
    assert!(!sim.signal(Signal::SIGTERM));
    k.rt_sigprocmask(&[Signal::SIGTERM, Signal::SIGKILL]).unwrap();
    assert!(sim.signal(Signal::SIGTERM) && !sim.signal(Signal::SIGKILL));
    let (epoll, fd) = (k.epoll_create1().unwrap(), k.signalfd4(&[Signal::SIGTERM]).unwrap());
    assert_eq!(k.read_signal(&fd), Ok(Signal::SIGTERM));
    k.epoll_ctl(&epoll, EpollOp::Add, &fd, Event { mask: IN, data: 0 }).unwrap();
    assert!(!sim.is_ready());
    sim.signal(Signal::SIGTERM);
    assert_eq!(k.epoll_wait(&epoll, &mut [Event::default()], Wait::Forever), Ok(1));
    end(&mut k, [epoll, fd]);
}

/// Signals come as a set, the lowest first, and only those asked for.
fn pending<K: Kernel>(k: &mut K, raise: impl Fn(Signal)) -> Seen {
    use Signal::{SIGTERM, SIGURG, SIGUSR1, SIGUSR2};
    let mut seen = Seen::new();
    k.rt_sigprocmask(&[SIGUSR1, SIGUSR2, SIGTERM]).unwrap();
    let fds = [k.signalfd4(&[SIGUSR2, SIGUSR1]).unwrap(), k.signalfd4(&[SIGTERM, SIGURG]).unwrap()];
    see(&mut seen, "none", (k.read_signal(&fds[0]), poll(k, &fds[0], IN | OUT)));
    for signal in [SIGUSR2, SIGTERM, SIGUSR2, SIGUSR1, SIGUSR2, SIGURG] {
        raise(signal);
    }
    for _ in 0..4 {
        for fd in &fds {
            see(&mut seen, "pending", (poll(k, fd, IN), k.read_signal(fd)));
        }
    }
    end(k, fds);
    seen
}

#[test]
fn signals_are_a_set_on_both_kernels() {
    let sim = Simulated::new(0);
    let simulated = pending(&mut sim.clone(), |signal| assert!(sim.signal(signal)));
    let real = pending(&mut Linux, |signal| {
        let signal = nix::sys::signal::Signal::try_from(signal as i32).unwrap();
        nix::sys::signal::raise(signal).unwrap();
    });
    assert_eq!(simulated, real);
}

#[test]
fn faults_strike_where_they_were_planned() {
    let sim = Simulated::new(0);
    let mut k = sim.clone();
    let mut fd = Some(k.eventfd2().unwrap());
    let write = |k: &mut Simulated| k.write_counter(fd.as_ref().unwrap()).err();
    // By the index among all calls; a burst then follows the method it struck.
    sim.fail(At::Call(2), Errno::EIO, Times::Burst(2));
    assert_eq!(write(&mut k), None);
    assert_eq!(write(&mut k), Some(Errno::EIO));
    k.prlimit(None).unwrap();
    assert_eq!([write(&mut k), write(&mut k)], [Some(Errno::EIO), None]);
    // By the index among the calls of the method; the clock does not count.
    let next = sim.count(Method::WriteCounter);
    assert_eq!(next, 4);
    sim.fail(At::Of(Method::WriteCounter, next + 1), Errno::EINTR, Times::Once);
    k.clock_gettime(Clock::Monotonic);
    assert_eq!([write(&mut k), write(&mut k), write(&mut k)], [None, Some(Errno::EINTR), None]);
    // Until healed; and two at once.
    sim.fail(At::Call(sim.calls()), Errno::EAGAIN, Times::UntilHealed);
    sim.fail(At::Of(Method::Prlimit, 1), Errno::EPERM, Times::Once);
    assert!((0..9).all(|_| write(&mut k) == Some(Errno::EAGAIN)));
    assert_eq!(k.prlimit(None), Err(Errno::EPERM));
    sim.heal();
    assert_eq!(write(&mut k), None);
    // Those that failed did nothing.
    assert_eq!(k.read_counter(fd.as_ref().unwrap()), Ok(5));
    // But a close that fails has closed.
    sim.fail(At::Of(Method::Close, 0), Errno::EINTR, Times::Once);
    assert_eq!(k.close(fd.take().unwrap()), Err(Errno::EINTR));
    assert_eq!(sim.descriptors(), 0);

    let call = |method, fd, result, injected| Call {
        method,
        fd,
        op: None,
        connection: None,
        result,
        injected,
    };
    let trace = sim.take_trace();
    assert_eq!(trace.len() as u64, sim.calls());
    assert_eq!(sim.trace(), []);
    assert_eq!(
        trace[..3],
        [
            call(Method::Eventfd2, -1, Ok(3), false),
            call(Method::WriteCounter, 3, Ok(0), false),
            call(Method::WriteCounter, 3, Err(Errno::EIO), true),
        ]
    );
    assert_eq!(Method::ALL.len(), 46);
    assert!(Method::ALL.is_sorted());
    let called: u64 = Method::ALL.iter().map(|method| sim.count(*method)).sum();
    assert_eq!(called, sim.calls());
    assert_eq!(Method::EpollCreate1.name(), "epoll_create1");
}

#[test]
fn transfers_are_short_and_the_same_seed_says_how_short() {
    let run = |seed, short| {
        let sim = Simulated::new(seed);
        let mut k = sim.clone();
        let (door, address) = listener(&mut k, &any_port(), 1);
        let mut client = sim.connect(&address).unwrap();
        let (fd, _) = k.accept4(&door).unwrap();
        sim.shorten(short);
        let text: Vec<u8> = (0..100).collect();
        assert_eq!(client.send(&text), 100);
        let (mut received, mut sent) = (Vec::new(), 0);
        while received.len() < 100 {
            let mut buffer = [0; 60];
            let length = k.recv(&fd, &mut buffer).unwrap();
            received.extend_from_slice(&buffer[..length]);
        }
        while sent < 100 {
            sent += k.send(&fd, &text[sent..]).unwrap();
        }
        assert_eq!((k.recv(&fd, &mut [0; 9]), k.send(&fd, b"")), (Err(Errno::EAGAIN), Ok(0)));
        assert_eq!((&received, &client.recv()), (&text, &text));
        end(&mut k, [fd, door]);
        sim.trace()
    };
    let count = |trace: &[Call], method| trace.iter().filter(|call| call.method == method).count();
    let full = run(1, Short::Full);
    assert_eq!((count(&full, Method::Recv), count(&full, Method::Send)), (3, 2));
    let single = run(1, Short::AtMost(1));
    assert_eq!((count(&single, Method::Recv), count(&single, Method::Send)), (101, 101));
    assert_eq!(run(1, Short::Random), run(1, Short::Random));
    assert_ne!(run(1, Short::Random), run(2, Short::Random));
}

/// Receives the bytes that are there, up to 100.
fn received<K: Kernel>(k: &mut K, fd: &Fd) -> Result<Vec<u8>> {
    let mut buffer = [0; 100];
    k.recv(fd, &mut buffer).map(|length| buffer[..length].to_vec())
}

#[test]
fn what_is_on_a_clogged_link_arrives_in_order_when_it_is_free() {
    let (sim, mut k, door, address) = world(8);
    sim.set_buffers(6, 4);
    let [mut one, mut other] = [(); 2].map(|()| sim.connect(&address).unwrap());
    let fds = [k.accept4(&door).unwrap().0, k.accept4(&door).unwrap().0];
    let epoll = k.epoll_create1().unwrap();
    for (data, fd) in (0..).zip(&fds) {
        k.epoll_ctl(&epoll, EpollOp::Add, fd, Event { mask: IN, data }).unwrap();
    }
    one.clog(Duration::from_millis(5));
    other.clog(Duration::from_millis(1));
    other.clog(Duration::from_millis(9)); // the last word counts
    // 4 are sent and 2 wait; the answer waits too, and room in the server's inbox is no news.
    assert_eq!((one.send(b"abcdefgh"), one.send(b"h"), other.send(b"xy")), (6, 0, 2));
    assert_eq!(k.send(&fds[0], b"answer"), Ok(6));
    one.shutdown();
    other.reset();
    assert_eq!((received(&mut k, &fds[0]), one.recv()), (Err(Errno::EAGAIN), vec![]));
    assert!(!sim.is_ready());
    assert_eq!(sim.next_event(), Some(sim.now() + 5_000_000));
    // A wait lasts until the first is free; epoll is true to what has arrived.
    let mut events = [Event::default(); 4];
    assert_eq!(k.epoll_wait(&epoll, &mut events, Wait::Forever), Ok(1));
    assert_eq!((events[0].data, events[0].mask), (0, IN));
    assert_eq!(received(&mut k, &fds[0]).unwrap(), b"abcd");
    assert_eq!(received(&mut k, &fds[0]).unwrap(), b"ef");
    assert_eq!(received(&mut k, &fds[0]).unwrap(), b"");
    assert_eq!((one.recv(), one.saw_eof()), (b"answer".to_vec(), false));
    // The bytes of the other are there before its reset; what was sent to it is lost.
    assert_eq!(k.send(&fds[1], b"lost"), Ok(4));
    assert_eq!(received(&mut k, &fds[1]), Err(Errno::EAGAIN));
    sim.advance(Duration::from_millis(3));
    assert_eq!(received(&mut k, &fds[1]), Err(Errno::EAGAIN));
    sim.advance(Duration::from_millis(1));
    assert_eq!(poll(&mut k, &fds[1], IN), IN | HUP | ERR);
    assert_eq!(received(&mut k, &fds[1]).unwrap(), b"xy");
    assert_eq!(received(&mut k, &fds[1]), Err(Errno::ECONNRESET));
    // News of room is held back as well.
    assert_eq!(k.send(&fds[0], &[1; 20]), Ok(10));
    one.clog(Duration::MAX);
    assert_eq!((one.recv().len(), k.send(&fds[0], b"x")), (4, Err(Errno::EAGAIN)));
    one.unclog();
    assert_eq!((one.recv().len(), k.send(&fds[0], b"x")), (6, Ok(1)));
    // A reset by the server, and bytes that arrive after a close.
    one.clog(Duration::from_millis(1));
    k.setsockopt(&fds[0], SocketOption::ResetOnClose).unwrap();
    end(&mut k, fds.into_iter().chain([epoll]));
    assert_eq!((one.recv(), one.error()), (b"x".to_vec(), None));
    sim.advance(Duration::from_millis(1));
    assert_eq!((one.recv(), one.saw_reset()), (vec![], true));
    drop(one);
    assert_eq!((sim.next_event(), sim.world().streams.len()), (None, 0));
    k.close(door).unwrap();
}

#[test]
fn a_syn_takes_its_time_as_well() {
    let (sim, mut k, door, address) = world(8);
    sim.delay(Duration::from_millis(1));
    let mut clients = [(); 3].map(|()| sim.connect(&address).unwrap());
    clients[0].clog(Duration::from_millis(50));
    clients[1].clog(Duration::from_millis(40));
    assert!(clients.iter().all(|client| !client.established()));
    assert_eq!((k.accept4(&door), clients[0].send(b"x")), (Err(Errno::EAGAIN), 0));
    sim.advance(Duration::from_millis(40));
    // They come in the order in which they arrive, and one is too late.
    for client in [2, 1] {
        let (fd, peer) = k.accept4(&door).unwrap();
        assert_eq!(peer, clients[client].address());
        let number = sim.trace().last().unwrap().connection;
        assert!(number.is_some() && number == clients[client].connection());
        k.close(fd).unwrap();
    }
    k.close(door).unwrap();
    assert_eq!((clients[0].recv(), clients[0].error()), (vec![], None));
    sim.advance(Duration::from_millis(10));
    assert_eq!((clients[0].recv(), clients[0].error()), (vec![], Some(Errno::ECONNREFUSED)));
}

/// However long things take, what becomes of them is the same.
#[test]
fn nothing_is_changed_by_delays_but_the_time() {
    let play = |script: &dyn Fn(&mut Simulated, &mut Seen), slow: bool| {
        let (sim, mut seen) = (Simulated::new(3), Seen::new());
        if slow {
            sim.delay(LONG / 10);
            SLOW.set(Some(sim.clone()));
        }
        script(&mut sim.clone(), &mut seen);
        SLOW.set(None);
        assert_eq!((sim.next_event(), sim.world().streams.len()), (None, 0));
        (seen, sim.trace())
    };
    let mut delayed = 0;
    for seed in 0..2_000 {
        let talks = |k: &mut Simulated, seen: &mut Seen| talk(k, seen, seed, false);
        let queues = |k: &mut Simulated, seen: &mut Seen| queue(k, seen, seed, false);
        for script in [&talks as &dyn Fn(&mut Simulated, &mut Seen), &queues] {
            let (at_once, slow) = (play(script, false).0, play(script, true));
            assert_eq!(at_once, slow.0, "seed {seed}");
            if seed % 100 == 0 {
                assert_eq!(slow, play(script, true), "seed {seed} is not deterministic");
            }
            delayed += 1;
        }
    }
    assert_eq!(delayed, 4_000);
}

#[test]
fn timers_are_late_and_waits_tell_of_some_events_only_the_next_time() {
    let sim = Simulated::new(1);
    let mut k = sim.clone();
    sim.delay(Duration::from_nanos(100));
    let epoll = k.epoll_create1().unwrap();
    let timer = k.timerfd_create().unwrap();
    let bells: Vec<Fd> = (0..8).map(|_| k.eventfd2().unwrap()).collect();
    k.epoll_ctl(&epoll, EpollOp::Add, &timer, Event { mask: IN, data: 99 }).unwrap();
    let mut late = Vec::new();
    for _ in 0..20 {
        let at = sim.now() + 1_000;
        k.timerfd_settime(&timer, Some(at)).unwrap();
        assert_eq!(k.epoll_wait(&epoll, &mut [Event::default()], Wait::Forever), Ok(1));
        late.push(sim.now() - at);
    }
    assert!(late.iter().all(|late| (1..=100).contains(late)) && late[0] != late[1], "{late:?}");
    k.timerfd_settime(&timer, None).unwrap();
    for (data, bell) in (0..).zip(&bells) {
        k.epoll_ctl(&epoll, EpollOp::Add, bell, Event { mask: IN, data }).unwrap();
        k.write_counter(bell).unwrap();
    }
    // Level-triggered: what is not reported stays ready, and its turn comes.
    let mut told = Vec::new();
    for _ in 0..20 {
        let mut events = [Event::default(); 16];
        let count = k.epoll_wait(&epoll, &mut events, Wait::No).unwrap();
        assert!((1..=8).contains(&count));
        told.push(events[..count].iter().map(|event| event.data).collect::<Vec<_>>());
    }
    assert!(told.iter().any(|told| told.len() < 8));
    assert!((0..8).all(|bell| told.iter().flatten().any(|data| *data == bell)));
    end(&mut k, bells.into_iter().chain([timer, epoll]));
}

#[test]
fn a_bell_rings_from_another_thread() {
    let sim = Simulated::new(0);
    let mut k = sim.clone();
    let bell = k.eventfd2().unwrap();
    let mut other = k.clone();
    let bell = thread::spawn(move || {
        other.write_counter(&bell).unwrap();
        bell
    });
    let bell = bell.join().unwrap();
    assert_eq!(k.read_counter(&bell), Ok(1));
    k.close(bell).unwrap();
    assert!(format!("{k:?}").starts_with("Simulated { descriptors: 0, calls: 4"));
}
