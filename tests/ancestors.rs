//! The servers of docs/programs, from the first to the last, and the real one: the same
//! dialogues, and the same ordinary clients that end or stall the servers of many tutorials.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use support::{Client, Server, example, quiet_port, thanks};

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
        let mut server = Server::spawn(&format!("exec '{path}' \"$@\""), &arguments);
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
}
