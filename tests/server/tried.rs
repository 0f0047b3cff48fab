//! What the docs ask their readers to try, tried: each command twenty times at once, with the
//! tools that the page names, each in a network of its own.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Output;
use std::thread;

use crate::ancestors::{EXERCISES, patched};
use crate::support::{Scratch, command, example, needs, path, way_into_a_network};

/// How often each command is tried.
const TIMES: usize = 20;

/// A block of commands behind its mark, and what the page says of it.
struct Try {
    name: String,
    commands: String,
    as_it_is: String,
    patched: Option<String>,
}

/// Those of a page.
fn tries(page: &str) -> Vec<Try> {
    let text = fs::read_to_string(page).unwrap();
    let pieces: Vec<&str> = text.split("<!-- try: ").skip(1).collect();
    let tries = pieces.into_iter().map(|piece| {
        let (name, rest) = piece.split_once(" -->\n```sh\n").expect("commands behind the mark");
        let (block, answer) = rest.split_once("```\n").unwrap();
        let (commands, as_it_is) = block.split_once("# as it is: ").expect("what is printed");
        let patched = answer
            .split_once("With the patch it prints ")
            .map(|(_, rest)| rest.lines().next().unwrap().trim_end_matches('.').to_owned());
        Try {
            name: name.to_owned(),
            commands: commands.to_owned(),
            as_it_is: as_it_is.trim().to_owned(),
            patched,
        }
    });
    tries.collect()
}

/// Whether the last line that was printed is what the page says.
fn is_as_said(said: &str, printed: &str) -> bool {
    let last = printed.trim_end().lines().last().unwrap_or_default().trim();
    let bound = |words: &str| Some(words.parse::<u64>().unwrap()).zip(last.parse::<u64>().ok());
    match (said, said.strip_prefix("less than "), said.strip_prefix("more than ")) {
        ("nothing", ..) => printed.is_empty(),
        (_, Some(most), _) => bound(most).is_some_and(|(most, count)| count < most),
        (_, _, Some(least)) => bound(least).is_some_and(|(least, count)| count > least),
        _ => last == said,
    }
}

/// Runs commands, a server beside them if there is one, alone in a network and among processes.
fn run(commands: &str, server: Option<&Path>) -> Output {
    let commands = commands.replace("cargo run -q --example one_message", &example("one_message"));
    let folder = Scratch::new();
    let start = match server {
        None => String::new(),
        Some(server) => {
            symlink(server, folder.path("mini_reactor")).unwrap();
            let folder = folder.path(".").display().to_string();
            format!(
                "(ulimit -n 20; exec {folder}/mini_reactor >{folder}/said) & \
                 until [ -s {folder}/said ]; do sleep 0.05; done\n"
            )
        }
    };
    // The commands have a shell of their own: their `wait` is not for the server.
    let script = format!("ip link set lo up\n{start}sh -c \"$0\"");
    let mut unshare = command("unshare");
    unshare.args(way_into_a_network().unwrap());
    unshare.args(["--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-ec", &script]);
    unshare.arg(commands).env("PATH", path()).output().unwrap()
}

/// Tries it so often, all at once.
fn twenty(tried: &Try, said: &str, server: Option<&Path>) {
    thread::scope(|scope| {
        let one = || run(&tried.commands, server);
        let all: Vec<_> = (0..TIMES).map(|_| scope.spawn(one)).collect();
        for output in all {
            let output = output.join().unwrap();
            let printed = String::from_utf8_lossy(&output.stdout);
            assert!(
                is_as_said(said, &printed),
                "{}: {said} is said, printed is {printed:?}, {:?}",
                tried.name,
                String::from_utf8_lossy(&output.stderr)
            );
        }
    });
}

#[test] // each command of the docs shows what its page says, twenty times of twenty
#[ignore = "a minute: `make check` runs it"]
fn what_is_to_be_tried_shows_what_is_said() {
    if !needs(&["git", "ip", "nc", "pidof", "strace", "unshare"]) {
        return;
    }
    let alone = tries("docs/02-ancestors.md");
    assert_eq!(alone.len(), 1);
    alone.iter().for_each(|it| twenty(it, &it.as_it_is, None));
    let scratch = Scratch::new();
    let programs = patched(&scratch);
    let exercises = tries("docs/23-exercises.md");
    let names: Vec<&str> = exercises.iter().map(|it| it.name.as_str()).collect();
    assert!(EXERCISES.iter().all(|it| names.contains(&it.0)) && names.len() == EXERCISES.len());
    for exercise in &exercises {
        let mini_reactor = example("mini_reactor");
        let patched = exercise.patched.as_ref().expect("what it prints with the patch");
        thread::scope(|scope| {
            let as_it_is = || twenty(exercise, &exercise.as_it_is, Some(Path::new(&mini_reactor)));
            scope.spawn(as_it_is);
            scope.spawn(|| twenty(exercise, patched, Some(&programs.join(&exercise.name))));
        });
    }
    println!("{} commands, {TIMES} times", alone.len() + exercises.len() * 2);
}
