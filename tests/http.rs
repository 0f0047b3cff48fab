//! The HTTP handler, from outside: a table of requests and what is due to them, sent whole,
//! byte by byte, behind others, and cut in two at every place; then what takes time, what
//! fails, and what no table thinks of.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;
#[allow(unreachable_pub)]
#[path = "http/table.rs"]
mod table;

use std::fs;
use std::time::Duration;
use support::{Client, Scratch, Server};
use table::{LAST, answers, cases};

/// The files that the table is about.
const FILES: [(&str, &str); 9] = [
    ("index.html", "index\n"),
    ("sub/index.html", "sub\n"),
    ("bare/other", ""),
    ("ü b.txt", "umlaut\n"),
    ("empty.txt", ""),
    (".env", "secret\n"),
    (".git/config", "secret\n"),
    (".well-known/x", "known\n"),
    ("sub/.hidden", "secret\n"),
];

fn big() -> Vec<u8> {
    support::pattern(100_000)
}

/// A folder `www` with the files, and one beside it with a secret.
fn www() -> Scratch {
    let scratch = Scratch::new();
    for (name, content) in FILES {
        let path = scratch.path("www").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    fs::write(scratch.path("www/big.bin"), big()).unwrap();
    fs::write(scratch.path("secret"), "secret\n").unwrap();
    scratch
}

fn serve(www: &Scratch, options: &[&str]) -> Server {
    let path = www.path("www");
    Server::start(&[options, &["http", path.to_str().unwrap()]].concat())
}

/// Sends `pieces`, one after the other; everything that is answered.
fn ask<'a>(server: &Server, pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut client = server.client();
    for piece in pieces {
        client.send(piece);
    }
    client.rest()
}

#[test]
fn the_table_whole_byte_by_byte_and_behind_others() {
    let www = www();
    let server = serve(&www, &[]);
    let before = server.descriptors();
    let mut count = 0;
    for case in cases() {
        let shown =
            String::from_utf8_lossy(&case.request[..case.request.len().min(300)]).into_owned();
        let bytes = [&case.request, LAST.as_bytes()].concat();
        let whole = answers(&ask(&server, [&bytes[..]]), &bytes);
        let statuses: Vec<u16> = whole.iter().map(|(status, _)| *status).collect();
        assert_eq!(statuses, case.due, "{shown}");
        let first = String::from_utf8_lossy(&whole[0].1).into_owned();
        assert!(first.contains(case.has) || case.has.is_empty(), "{shown}\n{first}");
        assert!(!first.contains("secret"), "{shown}");
        let split = answers(&ask(&server, bytes.chunks(1)), &bytes);
        assert!(split == whole, "byte by byte: {shown}");
        if !shown.starts_with("HEAD") {
            let ahead = b"GET /sub/ HTTP/1.1\r\nHost: x\r\n\r\n".repeat(3);
            let behind = answers(&ask(&server, [&[&ahead, &bytes[..]].concat()[..]]), b"");
            assert!(behind[3..] == whole, "behind others: {shown}");
        }
        count += 1;
    }
    support::until("all descriptors to be closed", || server.descriptors() == before);
    println!("{count} cases");
    assert!(count >= 150, "{count} cases");
    assert!(!server.logs().contains("bug"), "{}", server.logs());
}
