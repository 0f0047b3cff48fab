//! The README is true: what its console blocks show is what a user sees. And so are the
//! docs: the code in them is that of the programs.
#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::process::Command;
use support::{Server, until};

/// The commands of the README with what it says they print.
fn blocks() -> Vec<(String, String)> {
    let readme = std::fs::read_to_string("README.md").unwrap();
    let fenced = readme.split("```console\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let commands =
        fenced.map(|block| block.strip_prefix("$ ").expect("a command").split_once('\n'));
    commands.map(|block| block.unwrap()).map(|(a, b)| (a.to_string(), b.to_string())).collect()
}

/// Runs a command to its end; what it prints.
fn output(command: &mut Command) -> String {
    String::from_utf8(command.output().unwrap().stdout).unwrap()
}

/// A program of docs/programs.
fn example(name: &str) -> Command {
    let mut cargo = Command::new(env!("CARGO"));
    let features = if cfg!(feature = "sim") { "sim" } else { "" }; // as it is built already
    cargo.args(["run", "--locked", "-q", "--features", features, "--example", name, "--"]);
    cargo
}

/// What `make run` prints: its own words, and those of the program it becomes.
fn make_run(arguments: &[&str]) -> String {
    let mut make = Command::new("make");
    let words = output(make.args(["--no-print-directory", "run", "CARGO=true", "BIN=true"]));
    let server = Server::start(arguments);
    words + &server.stdout().replace(&server.addresses[0], "127.0.0.1:1234")
}

#[test] // each console block is run; a command that this test does not know fails it
fn console_blocks() {
    for (command, expected) in blocks() {
        let seen = match command.as_str() {
            "make run" => make_run(&[]),
            "make run ARGS=--narrate" => {
                let server = Server::start(&["--narrate"]);
                until("a chapter behind a call", || server.logs().contains("# docs/"));
                String::new()
            }
            "threadbare -h" => output(Command::new(env!("CARGO_BIN_EXE_threadbare")).arg("-h")),
            "cargo run -q --example client -- hello" => {
                let server = Server::start(&[]);
                output(example("client").args(["--to", &server.addresses[0], "hello"]))
            }
            other => panic!("the README shows a command that nobody tries: {other}"),
        };
        assert_eq!(seen, expected, "{command}");
    }
}

#[test] // the rude clients of `make torture` are survived, by lines and by an echo
fn torture() {
    for handler in ["greet", "echo"] {
        let server = Server::start(&[handler]);
        let table = output(example("torture").arg(&server.addresses[0]));
        assert!(table.ends_with("survived 20 of 20\n"), "{handler}:\n{table}");
    }
}

#[test] // files that the README and the docs point to exist
fn links() {
    let mut pages = files("docs", ".md");
    pages.push(("README.md".into(), std::fs::read_to_string("README.md").unwrap()));
    let mut links = 0;
    for (page, text) in pages {
        let folder = std::path::Path::new(&page).parent().unwrap();
        let targets = text.split("](").skip(1).map(|rest| rest.split([')', '#']).next().unwrap());
        for target in targets.filter(|target| !target.is_empty()) {
            assert!(folder.join(target).exists(), "{page} points to {target}");
            links += 1;
        }
    }
    println!("{links} links");
    assert!(links > 100, "only {links} links");
}

/// All files below a folder whose names end so, with what is in them.
fn files(folder: &str, end: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path().to_str().unwrap().to_string();
        if std::path::Path::new(&path).is_dir() {
            found.extend(files(&path, end));
        } else if path.ends_with(end) {
            found.push((path.clone(), std::fs::read_to_string(&path).unwrap()));
        }
    }
    found
}

#[test] // code shown in docs/ stands so in a program, which is tested
fn code_blocks() {
    let sources: Vec<_> =
        files("docs/programs", ".rs").into_iter().chain(files("src", ".rs")).collect();
    let mut blocks = 0;
    for (page, text) in files("docs", ".md") {
        for block in text.split("```rust\n").skip(1).map(|rest| rest.split("```").next().unwrap()) {
            let stands = sources.iter().any(|(_, source)| source.contains(block));
            assert!(stands, "{page} shows code that stands nowhere:\n{block}");
            blocks += 1;
        }
    }
    println!("{blocks} blocks");
    assert!(blocks >= 10, "only {blocks} blocks");
}
