//! Whatever a client sends, it gets whole answers, each once, and then an end; and the same
//! ones wherever its bytes are cut.

use crate::simulation::World;
use crate::simulation::dice::Dice;
use std::path::Path;
use threadbare::Limits;
use threadbare::handlers::Http;
use threadbare::kernel::sim::Simulated;

pub fn target(bytes: &[u8]) {
    let mut dice = Dice::Bytes(bytes);
    let places: Vec<usize> = (0..dice.below(4)).map(|_| dice.below(1 << 16)).collect();
    let stream = dice.take(usize::MAX);
    let mut world = world();
    let before = world.sim.descriptors();
    let whole = answers(&mut world, [stream]);
    assert_well_formed(&whole, stream);
    assert_same(&whole, &answers(&mut world, cut(stream, &places)));
    assert_same(&whole, &answers(&mut world, stream.chunks(1)));
    assert_eq!(world.sim.descriptors(), before);
    world.stop();
}

fn world() -> World<Http> {
    let sim = Simulated::new(1);
    for (name, content) in [
        ("index.html", &b"index\n"[..]),
        ("sub/index.html", b"sub\n"),
        ("empty.txt", b""),
        (".well-known/x", b"known\n"),
        ("big.bin", &[b'x'; 40_000]),
    ] {
        sim.write_file(&Path::new("/srv/www").join(name), content);
    }
    let http = Http::new().serve("/srv/www");
    World::on(sim, http, Limits { message_timeout: None, ..Limits::default() }).unwrap()
}

fn cut<'a>(mut stream: &'a [u8], places: &[usize]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    for place in places {
        let (piece, rest) = stream.split_at(place % (stream.len() + 1));
        pieces.push(piece);
        stream = rest;
    }
    pieces.push(stream);
    pieces
}

/// All that is said to a client that sends `pieces` and ends.
fn answers<'a>(world: &mut World<Http>, pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut client = world.client();
    let mut said = Vec::new();
    let mut listen = |world: &mut World<_>, client: &mut threadbare::kernel::sim::Client| {
        world.rest();
        while let some = client.recv()
            && !some.is_empty()
        {
            said.extend(some);
            world.rest();
        }
    };
    for piece in pieces {
        client.send(piece);
        listen(world, &mut client);
    }
    client.shutdown();
    listen(world, &mut client);
    assert!(client.saw_eof() && !client.saw_reset(), "it has no end");
    client.close();
    world.rest();
    said
}

fn assert_same(whole: &[u8], cut: &[u8]) {
    assert!(whole == cut, "{}\nis otherwise\n{}", whole.escape_ascii(), cut.escape_ascii());
}

/// Answer stands behind answer, none behind one that says it is the last, and no more of
/// them than there are requests.
fn assert_well_formed(said: &[u8], stream: &[u8]) {
    let count = |what: &[u8]| stream.windows(what.len()).filter(|at| *at == what).count();
    let (mut rest, mut answers, mut silent, mut goes_on) = (said, 0, 0, true);
    while !rest.is_empty() {
        assert!(goes_on, "an answer behind the last: {}", said.escape_ascii());
        let end = rest.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole head") + 4;
        let head = str::from_utf8(&rest[..end - 2]).expect("text");
        rest = &rest[end..];
        let status = head.strip_prefix("HTTP/1.1 ").and_then(|line| line.get(..3)?.parse().ok());
        let status: u16 = status.expect("a status");
        let fields: Vec<_> = head.split_terminator("\r\n").skip(1).collect();
        let is_field = |line: &&str| line.split_once(": ").is_some_and(|(name, _)| is_token(name));
        assert!(fields.iter().all(is_field) && !head.contains("\n\n"), "{head:?}");
        let value = |name| fields.iter().find_map(|line| line.strip_prefix(name));
        answers += usize::from(status != 100);
        goes_on = value("Connection: ") != Some("close");
        if matches!(status, 100 | 204 | 304) {
            continue;
        }
        assert!(value("Date: ").is_some(), "{head:?}");
        let length: usize = value("Content-Length: ").expect("a length").parse().unwrap();
        // A body does not look like an answer; without one, the request was a HEAD.
        if length > 0 && (rest.is_empty() || rest.starts_with(b"HTTP/1.1 ")) {
            silent += 1;
        } else {
            rest = rest.get(length..).expect("a whole body");
        }
    }
    assert!(silent <= count(b"HEAD "), "an answer without its body: {}", said.escape_ascii());
    // The last one may be to what is no whole request.
    assert!(answers <= count(b"\n\r\n") + 1, "too many answers: {}", said.escape_ascii());
}

fn is_token(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}
