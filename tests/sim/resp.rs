//! The server of docs/programs/resp.rs under the simulated kernel: what its timers, groups and
//! pauses do, to the millisecond and to the byte. (With real clients: tests/server/resp.rs.)

use super::{MEMORY, Resp};
use crate::simulation::World;
use std::time::Duration;
use threadbare::kernel::sim::{Client, Short};
use threadbare::{CloseReason, Limits};

fn world() -> World<Resp> {
    World::new(Resp::default(), Limits::default())
}

fn ask(world: &mut World<Resp>, client: &mut Client, command: &str) -> String {
    let answer = world.ask(client, format!("{command}\r\n").as_bytes());
    String::from_utf8(answer).unwrap()
}

/// A command as a program sends it.
fn array(words: &[&str]) -> String {
    let words: String = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
    format!("*{}\r\n{words}", words.matches('$').count())
}

/// A dialogue, whole and a byte at a time.
#[test]
fn strings_and_lists() {
    for short in [Short::Full, Short::AtMost(1)] {
        let mut world = world();
        world.sim.shorten(short);
        let mut client = world.client();
        for (command, answer) in [
            ("ping", "+PONG\r\n"),
            ("ECHO hello", "$5\r\nhello\r\n"),
            ("", ""),
            ("GET a", "$-1\r\n"),
            ("SET a 1", "+OK\r\n"),
            ("INCR a", ":2\r\n"),
            ("INCRBY a 40", ":42\r\n"),
            ("GET a", "$2\r\n42\r\n"),
            ("SET a x NX", "$-1\r\n"),
            ("SET b x XX", "$-1\r\n"),
            ("SET a x XX", "+OK\r\n"),
            ("SET a x ZZ", "-ERR syntax error\r\n"),
            ("INCR a", "-ERR value is not an integer or out of range\r\n"),
            ("LPUSH a 1", "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n"),
            ("RPUSH l 1 2 3", ":3\r\n"),
            ("LPUSH l 0", ":4\r\n"),
            ("LPOP l", "$1\r\n0\r\n"),
            ("RPOP l", "$1\r\n3\r\n"),
            ("LLEN l", ":2\r\n"),
            ("DBSIZE", ":2\r\n"),
            ("DEL a l x", ":2\r\n"),
            ("LPOP l", "$-1\r\n"),
            ("FLY", "-ERR unknown command, or wrong number of arguments\r\n"),
        ] {
            assert_eq!(ask(&mut world, &mut client, command), answer, "{command}");
        }
        let pipelined = array(&["SET", "k", "a b\r\nc"]) + &array(&["GET", "k"]);
        let answer = world.ask(&mut client, pipelined.as_bytes());
        assert_eq!(answer, b"+OK\r\n$6\r\na b\r\nc\r\n");
        world.stop();
    }
}

/// The command behind QUIT is not obeyed, whether it came in the same packet or later.
#[test]
fn nothing_behind_quit_is_obeyed() {
    let mut world = world();
    let (mut client, mut other) = (world.client(), world.client());
    let commands = array(&["SET", "a", "1"]) + &array(&["QUIT"]) + &array(&["SET", "a", "2"]);
    assert_eq!(world.ask(&mut client, commands.as_bytes()), b"+OK\r\n+OK\r\n");
    client.send(array(&["SET", "a", "3"]).as_bytes());
    world.rest();
    assert!(client.saw_eof());
    assert_eq!(ask(&mut world, &mut other, "GET a"), "$1\r\n1\r\n");
    world.stop();
}

/// A key ends when its time is over, and not before; and its time is over when it is replaced.
#[test]
fn keys_expire() {
    let mut world = world();
    let mut client = world.client();
    let second = Duration::from_secs(1);
    ask(&mut world, &mut client, "SET a 1 PX 1500");
    ask(&mut world, &mut client, "SET b 1 EX 2");
    ask(&mut world, &mut client, "SET b 2");
    ask(&mut world, &mut client, "SET c 1");
    assert_eq!(ask(&mut world, &mut client, "EXPIRE c 864000"), ":1\r\n"); // ten days
    assert_eq!(ask(&mut world, &mut client, "EXPIRE x 1"), ":0\r\n");
    for (key, left) in [("a", ":1500\r\n"), ("b", ":-1\r\n"), ("x", ":-2\r\n")] {
        assert_eq!(ask(&mut world, &mut client, &format!("PTTL {key}")), left);
    }
    world.pass(Duration::from_millis(1_499));
    assert_eq!(ask(&mut world, &mut client, "GET a"), "$1\r\n1\r\n");
    assert_eq!(ask(&mut world, &mut client, "INCR a"), ":2\r\n"); // its time goes on
    world.pass(Duration::from_millis(3));
    assert_eq!(ask(&mut world, &mut client, "GET a"), "$-1\r\n");
    world.pass(2 * second);
    assert_eq!(ask(&mut world, &mut client, "GET b"), "$1\r\n2\r\n");
    world.pass(864_000 * second);
    let mut client = world.client();
    assert_eq!(ask(&mut world, &mut client, "DBSIZE"), ":1\r\n");
    world.stop();
}

/// A client that waits for a list gets what is pushed, or hears that its time is over; what it
/// has sent behind that is answered then.
#[test]
fn a_client_waits_for_a_list() {
    let mut world = world();
    let (mut first, mut second, mut other) = (world.client(), world.client(), world.client());
    assert_eq!(ask(&mut world, &mut first, "BLPOP l 0\r\nPING"), "");
    assert_eq!(ask(&mut world, &mut second, "BLPOP l 5\r\nPING"), "");
    assert_eq!(ask(&mut world, &mut other, "RPUSH l x"), ":1\r\n");
    assert_eq!(first.recv(), b"*2\r\n$1\r\nl\r\n$1\r\nx\r\n+PONG\r\n");
    world.pass(Duration::from_millis(4_990));
    assert_eq!(second.recv(), b"");
    world.pass(Duration::from_millis(20));
    assert_eq!(second.recv(), b"*-1\r\n+PONG\r\n");
    world.stop();
}

/// A client that leaves while it waits gets nothing, and so nothing is lost with it: whether it is
/// reset or only ends its side, and whether that came before or after it began to wait.
#[test]
fn nothing_is_popped_for_a_client_that_has_left() {
    let leave: [fn(&mut World<Resp>, &mut Client); 4] = [
        |_, client| _ = client.send(b"BLPOP l 9\r\n"),
        |world, client| {
            assert_eq!(ask(world, client, "BLPOP l 9"), "");
            client.reset();
        },
        |world, client| {
            assert_eq!(ask(world, client, "BLPOP l 9"), "");
            client.shutdown();
        },
        |_, client| {
            client.send(b"BLPOP l 9\r\n");
            client.shutdown();
        },
    ];
    for (at, leave) in leave.into_iter().enumerate() {
        let mut world = world();
        let (mut leaves, mut other) = (world.client(), world.client());
        leave(&mut world, &mut leaves);
        world.rest();
        assert_eq!(ask(&mut world, &mut other, "RPUSH l y"), ":1\r\n");
        let left = if at == 0 { ":0\r\n" } else { ":1\r\n" }; // the first one stayed
        assert_eq!(ask(&mut world, &mut other, "LLEN l"), left, "{at}");
        world.stop();
    }
}

/// Messages go to those who listen, and are counted; a listener that leaves is none, and one
/// that is idle stays.
#[test]
fn listeners_hear_what_is_published() {
    let mut world = world();
    let (mut one, mut two, mut talker) = (world.client(), world.client(), world.client());
    let subscribed = "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n";
    assert_eq!(ask(&mut world, &mut one, "SUBSCRIBE news"), subscribed);
    let both = ask(&mut world, &mut two, "SUBSCRIBE news other");
    assert_eq!(both, format!("{subscribed}*3\r\n$9\r\nsubscribe\r\n$5\r\nother\r\n:2\r\n"));
    assert_eq!(ask(&mut world, &mut talker, "PUBLISH news hello"), ":2\r\n");
    let message = b"*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$5\r\nhello\r\n";
    assert_eq!((one.recv(), two.recv()), (message.to_vec(), message.to_vec()));
    assert!(ask(&mut world, &mut one, "GET a").starts_with("-ERR only"));
    assert_eq!(ask(&mut world, &mut one, "PING"), "*2\r\n$4\r\npong\r\n$0\r\n\r\n");
    world.pass(Duration::from_secs(1_000));
    talker.recv();
    assert!(talker.saw_eof() && !one.saw_eof());
    let mut talker = world.client();
    two.reset();
    world.rest();
    let count = "*2\r\n$4\r\nnews\r\n:1\r\n";
    assert_eq!(ask(&mut world, &mut talker, "PUBSUB NUMSUB news"), count);
    assert_eq!(ask(&mut world, &mut talker, "PUBLISH other x"), ":0\r\n");
    assert!(ask(&mut world, &mut one, "UNSUBSCRIBE").ends_with(":0\r\n"));
    assert_eq!(ask(&mut world, &mut talker, "PUBLISH news x"), ":0\r\n");
    assert_eq!(ask(&mut world, &mut one, "GET a"), "$-1\r\n"); // an ordinary client again
    let summary = world.stop();
    assert_eq!(summary.counters.closed_for(CloseReason::Idle), 1);
}

/// What is no command ends its client, and what would be too much is refused.
#[test]
fn nonsense_and_greed() {
    let mut world = world();
    for wrong in ["*2\r\n$x\r\n", "*-1\r\n", "*99999\r\n", "*1\r\n$9999999\r\n", "*1\r\nGET\r\n"] {
        let mut client = world.client();
        let answer = world.ask(&mut client, wrong.as_bytes());
        assert_eq!(answer, b"-ERR Protocol error: invalid length\r\n", "{wrong}");
        assert!(client.saw_eof());
    }
    let mut client = world.client();
    let (value, mut last, mut stored) = ("x".repeat(100 << 10), String::new(), 0);
    while !last.starts_with('-') {
        last = String::from_utf8(
            world.ask(&mut client, array(&["SET", &stored.to_string(), &value]).as_bytes()),
        )
        .unwrap();
        world.rest();
        stored += 100 << 10;
        assert!(stored < 2 * MEMORY);
    }
    assert!(last.starts_with("-OOM "), "{last}");
    assert_eq!(ask(&mut world, &mut client, "FLUSHALL"), "+OK\r\n");
    assert_eq!(ask(&mut world, &mut client, "SET a 1"), "+OK\r\n");
    world.stop();
}
