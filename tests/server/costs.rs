//! What a message and a connection cost, in exact counts: system calls and bytes. (Looks at
//! the clock are counted in tests/sim, allocations in tests/library, instructions of a release
//! build by `make check` with tests/bench.)

use crate::support::{
    Client, Scratch, Server, Signal, needs, quoted, raise_descriptor_limit, thanks, until,
};
use std::collections::BTreeMap;
use std::fs;

/// User memory of an idle connection, with its address, its deadline and its session.
const BYTES: u64 = 128;

/// The program under strace, which writes down every call.
struct Traced {
    server: Server,
    scratch: Scratch,
}

/// How often each call was made.
type Calls = BTreeMap<String, usize>;

impl Traced {
    fn start(args: &[&str]) -> Traced {
        let scratch = Scratch::new();
        let log = scratch.path("strace");
        let strace = format!("exec strace -D -qq -o {} \"$0\" \"$@\"", quoted(&log));
        Traced { server: Server::start_after(&strace, args), scratch }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.scratch.path("strace")).unwrap()
    }

    /// All calls so far, when nothing is under way. An epoll_wait that a stop ends is begun
    /// again, and does not count.
    fn calls(&self) -> Calls {
        self.server.settle();
        let mut calls = Calls::new();
        for line in
            self.log().lines().filter(|line| !line.contains("EINTR") && !line.starts_with("---"))
        {
            let Some((name, _)) = line.split_once('(') else { continue };
            if name
                .chars()
                .all(|letter| letter.is_ascii_lowercase() || "_0123456789".contains(letter))
            {
                *calls.entry(name.replace("pwait", "wait")).or_default() += 1;
            }
        }
        calls
    }

    /// The calls that `act` makes the server make.
    fn during(&self, act: impl FnOnce()) -> Calls {
        let before = self.calls();
        act();
        let mut calls = self.calls();
        for (name, count) in &mut calls {
            *count -= before.get(name).copied().unwrap_or_default();
        }
        calls.retain(|_, count| *count > 0);
        calls
    }

    /// Lets what clients do arrive in one batch.
    fn at_once(&self, act: impl FnOnce()) {
        let stops = || self.log().matches("--- stopped by SIGSTOP").count();
        let before = stops();
        self.server.signal(Signal::SIGSTOP);
        until("the server to be stopped", || stops() > before);
        act();
        self.server.thaw();
    }
}

fn counts<const N: usize>(calls: [(&str, usize); N]) -> Calls {
    calls.into_iter().map(|(name, count)| (name.to_owned(), count)).collect()
}

#[test] // 64 messages that are there at once: 64 recv, 64 send, one epoll_wait, and nothing else
fn a_batch_of_messages() {
    if !needs(&["strace"]) {
        return;
    }
    for framing in ["line", "chunk"] {
        let traced = Traced::start(&["--framing", framing]);
        let mut clients = traced.server.clients(64);
        let mut round = || {
            traced.at_once(|| clients.iter_mut().for_each(|client| client.send("hello\n")));
            clients.iter_mut().for_each(|client| client.expect(thanks("hello\n")));
        };
        round();
        let calls = traced.during(|| (0..5).for_each(|_| round()));
        assert_eq!(calls, counts([("epoll_wait", 5), ("recvfrom", 320), ("sendto", 320)]));
    }
}

#[test] // messages that come one by one: an epoll_wait, a recv, a send for each
fn a_message_alone() {
    if !needs(&["strace"]) {
        return;
    }
    let traced = Traced::start(&[]);
    let mut client = traced.server.client();
    client.ask("hello\n");
    let calls = traced.during(|| (0..100).for_each(|_| client.ask("hello\n")));
    assert_eq!(calls, counts([("epoll_wait", 100), ("recvfrom", 100), ("sendto", 100)]));
}

#[test] // a connection with one message: 8 calls, from accept4 to close
fn a_short_connection() {
    if !needs(&["strace"]) {
        return;
    }
    let traced = Traced::start(&[]);
    let mut last: Option<Client> = None;
    let mut round = || {
        traced.at_once(|| {
            drop(last.take()); // its end arrives together with the next one
            let mut client = traced.server.client();
            client.send("hello\n");
            last = Some(client);
        });
        last.as_mut().unwrap().expect(thanks("hello\n"));
    };
    (0..3).for_each(|_| round());
    let calls = traced.during(|| (0..10).for_each(|_| round()));
    let due = [("accept4", 10), ("close", 10), ("epoll_ctl", 10), ("epoll_wait", 20)];
    let due = due.into_iter().chain([("recvfrom", 20), ("sendto", 10)]);
    assert_eq!(calls, due.map(|(name, count)| (name.to_owned(), count)).collect());
}

#[test] // 10,000 idle connections, before their first message and after it
fn an_idle_connection() {
    const COUNT: usize = 10_000;
    raise_descriptor_limit();
    let server = Server::start(&["--max-connections", "10100"]);
    let mut clients = server.clients(1);
    clients[0].ask("warm up\n");
    server.settle();
    let before = server.anonymous_bytes();
    let each = || {
        server.settle();
        (server.anonymous_bytes() - before).div_ceil(COUNT as u64)
    };
    clients.extend(server.clients(COUNT));
    let silent = each();
    clients.iter_mut().for_each(|client| client.send("hello\n"));
    clients.iter_mut().for_each(|client| client.expect(thanks("hello\n")));
    let answered = each();
    println!("{silent} bytes for an idle connection, {answered} after its first message");
    assert!(silent <= BYTES && answered <= BYTES, "{silent} bytes, then {answered}");
}
