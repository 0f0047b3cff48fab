//! The servers of docs/programs, from the first to the last, and the real one: the same
//! dialogues, and the same ordinary clients that end or stall the servers of many tutorials.
//!
//! Then the exercises of docs/23-exercises.md: each is a change to one of these programs, and
//! what must come of it.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::support::{
    Client, Scratch, Server, example, in_a_network_of_its_own, needs, quiet_port, thanks, until,
};

/// A server that serves many, and what it says to a line.
struct Ancestor {
    name: &'static str,
    question: &'static str,
    answer: String,
    /// It ends when it is told to, in status 0.
    stops: bool,
}

fn ancestors() -> [Ancestor; 4] {
    let thanks = || thanks("hello\n");
    let greets = |name, stops| Ancestor { name, question: "hello\n", answer: thanks(), stops };
    let factors = "12: 2 2 3\n".to_owned();
    [
        greets("thread_per_client", true),
        greets("mini_reactor", false),
        Ancestor { name: "worker_pool", question: "12\n", answer: factors, stops: true },
        greets("threadbare", true),
    ]
}

/// Plays with each of them, and then sees that it lives, and ends as it should.
fn with_each(play: impl Fn(&Ancestor, &Server)) {
    for ancestor in ancestors() {
        println!("{}", ancestor.name);
        let mut server = match ancestor.name {
            "threadbare" => Server::start(&[]),
            name => Server::example(name, &["127.0.0.1:0"]),
        };
        play(&ancestor, &server);
        ancestor.ask(&mut server.client());
        if ancestor.stops {
            assert_eq!(server.stop(), Some(0), "{}", server.logs());
        }
    }
}

impl Ancestor {
    fn ask(&self, client: &mut Client) {
        client.send(self.question);
        client.expect(&self.answer);
    }
}

#[test] // lines in pieces, lines that come together, two clients in turn, a half-close
fn an_ordinary_dialogue() {
    with_each(|it, server| {
        let mut clients = server.clients(2);
        for _ in 0..3 {
            clients.iter_mut().for_each(|client| it.ask(client));
        }
        clients[0].send(&it.question[..1]);
        it.ask(&mut clients[1]);
        clients[0].send(it.question[1..].to_owned() + it.question);
        clients[0].expect(it.answer.repeat(2));
        clients[1].send(it.question);
        clients[1].finish();
        clients[1].expect_rest(&it.answer);
        it.ask(&mut clients[0]);
    });
}

#[test] // one of two clients resets, once idle and once with its answer on the way
fn a_reset_is_nobody_elses() {
    with_each(|it, server| {
        let mut stays = server.client();
        for _ in 0..10 {
            server.client().reset();
            let mut rude = server.client();
            rude.send(it.question);
            rude.reset();
            it.ask(&mut stays);
        }
    });
}

#[test] // one client does not read, and the others do not notice
fn who_does_not_read_stalls_nobody() {
    with_each(|it, server| {
        let (mut deaf, mut other) = (server.client(), server.client());
        deaf.stuff(it.question.repeat(1000).as_bytes(), 4 << 20);
        (0..10).for_each(|_| it.ask(&mut other));
        drop(deaf);
    });
}

#[test] // stopped in its tracks; three questions of one client, and another resets; go on
fn a_pause_with_a_reset_in_it() {
    with_each(|it, server| {
        let (mut asks, mut resets) = (server.client(), server.client());
        it.ask(&mut asks);
        it.ask(&mut resets);
        server.freeze();
        (0..3).for_each(|_| asks.send(it.question));
        resets.send(it.question.repeat(3));
        resets.reset();
        server.thaw();
        asks.expect(it.answer.repeat(3));
    });
}

// ---- what the exercises break, or mend -------------------------------------------------

/// With nothing to do it does nothing.
fn comes_to_rest(server: &Server) -> bool {
    let mut client = server.client();
    client.ask("hello\n");
    rests(server)
}

/// Whether it takes next to no CPU time for a while.
fn rests(server: &Server) -> bool {
    let before = server.cpu_ticks();
    thread::sleep(Duration::from_millis(300));
    server.cpu_ticks() - before <= 2
}

/// What a client says, and then its end, before the server has looked at either.
fn answers_before_the_end(server: &Server) -> bool {
    let mut client = server.client();
    client.ask("hello\n");
    server.freeze();
    client.send("last\n");
    client.finish();
    server.thaw();
    let mut answer = Vec::new();
    client.into_stream().read_to_end(&mut answer).is_ok() && answer == thanks("last\n").as_bytes()
}

/// More than it reads at once, and then nothing more.
fn reads_all(server: &Server) -> bool {
    let line = format!("{}\n", "x".repeat(999));
    let mut client = server.client();
    client.ask("hello\n");
    server.freeze();
    client.send(line.repeat(100));
    server.thaw();
    hears(client, &thanks(&line).repeat(100))
}

/// More answers than the kernel takes from it, for a client that reads them late.
fn sends_all(server: &Server) -> bool {
    const LINES: usize = 200_000;
    let client = server.client();
    let mut writer = client.twin();
    thread::scope(|scope| {
        scope.spawn(move || writer.try_send([b'\n'; LINES]));
        until("the server to wait for the client", || rests(server));
        hears(client, &thanks("\n").repeat(LINES))
    })
}

/// Who waits three seconds for the next byte waits in vain.
fn hears(client: Client, due: &str) -> bool {
    let mut stream = client.into_stream();
    stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    let mut answer = vec![0; due.len()];
    stream.read_exact(&mut answer).is_ok() && answer == due.as_bytes()
}

/// Out of descriptors it does nothing, and goes on when somebody has left.
fn rests_when_full(server: &Server) -> bool {
    let mut clients = server.clients(60);
    clients[0].ask("hello\n");
    let is_at_rest = rests(server);
    let mut last = clients.pop().unwrap();
    drop(clients);
    last.ask("hello\n");
    is_at_rest
}

#[ignore = "seconds: `make check` runs it"]
#[test] // what the exercises break holds of all who greet; being full only of the real one
fn nothing_to_mend() {
    for ancestor in ancestors().iter().filter(|it| it.question == "hello\n") {
        let start = |prelude: &str| match ancestor.name {
            "threadbare" => Server::start_after(prelude, &[]),
            name => Server::other(prelude, &example(name), &["127.0.0.1:0"]),
        };
        let server = start("");
        for (name, holds) in [
            ("comes_to_rest", comes_to_rest as fn(&Server) -> bool),
            ("answers_before_the_end", answers_before_the_end),
            ("reads_all", reads_all),
            ("sends_all", sends_all),
        ] {
            assert!(holds(&server), "{} {name}", ancestor.name);
        }
        let is_full = rests_when_full(&start("ulimit -n 40"));
        assert_eq!(is_full, ancestor.name != "mini_reactor", "{}", ancestor.name);
    }
}

/// A patch of docs/exercises to `mini_reactor`, and whether what it is about holds then.
pub(crate) type Exercise = (&'static str, fn(&Server) -> bool, bool);

pub(crate) const EXERCISES: [Exercise; 5] = [
    ("epollout-for-ever", comes_to_rest, false),
    ("close-at-rdhup", answers_before_the_end, false),
    ("edge-triggered", reads_all, false),
    ("short-send", sends_all, false),
    ("pause-at-emfile", rests_when_full, true),
];

#[test] // each applies, compiles, and breaks or mends what its page says
#[ignore = "seconds: `make check` runs it"]
fn exercises() {
    if !needs(&["git"]) {
        return;
    }
    let patches = fs::read_dir("docs/exercises").unwrap().count();
    assert_eq!(patches, EXERCISES.len(), "a patch that nobody tries");
    let scratch = Scratch::new();
    let programs = patched(&scratch);
    thread::scope(|scope| {
        for (name, holds, due) in EXERCISES {
            let program = programs.join(name);
            scope.spawn(move || {
                let program = program.to_str().unwrap();
                let server = Server::other("ulimit -n 40", program, &["127.0.0.1:0"]);
                assert_eq!(holds(&server), due, "{name}");
            });
        }
    });
    println!("{patches} exercises");
}

/// Applies each patch to a copy of its own, and builds them all: where the programs are. The
/// copies are a package, with the dependencies that are built already.
pub(crate) fn patched(scratch: &Scratch) -> PathBuf {
    let ours = fs::read_to_string("Cargo.toml").unwrap();
    let (_, dependencies) = ours.split_once("[dev-dependencies]").unwrap();
    let nix = dependencies.lines().find(|line| line.starts_with("nix")).unwrap();
    let mut manifest = format!(
        "[package]\nname = \"exercises\"\nedition = \"2024\"\n[dependencies]\n{nix}\n\
         [profile.dev]\nopt-level = 1\n"
    );
    for (name, ..) in EXERCISES {
        let copy = scratch.path(name);
        fs::create_dir_all(copy.join("docs/programs")).unwrap();
        fs::copy("docs/programs/mini_reactor.rs", copy.join("docs/programs/mini_reactor.rs"))
            .unwrap();
        let patch = fs::canonicalize(format!("docs/exercises/{name}.patch")).unwrap();
        succeeds(Command::new("git").arg("apply").arg(patch).current_dir(copy));
        let path = format!("{name}/docs/programs/mini_reactor.rs");
        manifest += &format!("[[bin]]\nname = \"{name}\"\npath = \"{path}\"\n");
    }
    fs::copy("Cargo.lock", scratch.path("Cargo.lock")).unwrap();
    fs::write(scratch.path("Cargo.toml"), manifest).unwrap();
    let target = Path::new(env!("CARGO_BIN_EXE_threadbare")).parent().unwrap().join("exercises");
    let mut cargo = Command::new(env!("CARGO"));
    let build = cargo.args(["build", "-q", "--offline"]).env("CARGO_TARGET_DIR", &target);
    succeeds(build.current_dir(scratch.path(".")));
    target.join("debug")
}

fn succeeds(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

// ---- one message -------------------------------------------------------------------------

/// The one that takes one message, and the real one in its role.
fn starts_of_one_message() -> [fn() -> Server; 2] {
    [|| Server::example("one_message", &["127.0.0.1:0"]), || Server::start(&["once"])]
}

#[test] // who leaves without a word, or resets, is no message; the next one is
fn one_message() {
    for start in starts_of_one_message() {
        let mut server = start();
        drop(server.client());
        server.client().reset();
        let mut client = server.client();
        client.send("hel");
        client.send("lo\n");
        client.expect_rest("Good talking to you\n");
        assert_eq!(server.wait(), Some(0));
        assert!(server.stdout().ends_with("The message was: hello\n"), "{}", server.stdout());
    }
}

#[test] // the second start meets TIME_WAIT, unless both sockets have SO_REUSEADDR
fn one_message_twice() {
    // Elsewhere the kernel may hold as many in TIME_WAIT as it will.
    in_a_network_of_its_own("ancestors::one_message_twice", "", || {
        let talk = |address: &str, options: &[&str]| {
            let mut server = Server::example("one_message", &[&[address], options].concat());
            let mut client = server.client();
            client.send("hello\n");
            client.expect_rest("Good talking to you\n");
            assert_eq!(server.wait(), Some(0));
        };
        let again = |address: &str, options: &[&str]| {
            let path = example("one_message");
            let arguments = [&[address], options].concat();
            let mut server = Server::spawn_other("", &path, &arguments);
            assert_eq!(server.wait(), Some(1));
            assert!(server.logs().contains("(os error 98)"), "{}", server.logs());
        };
        let address = format!("127.0.0.1:{}", quiet_port());
        talk(&address, &[]);
        again(&address, &[]);
        again(&address, &["--reuse"]); // the old socket had it not
        let address = format!("127.0.0.1:{}", quiet_port());
        talk(&address, &["--reuse"]);
        talk(&address, &["--reuse"]);
    });
}
