//! The console blocks of the docs, run: what they show is what a user sees.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use super::pages;
use super::support::{Client, Scratch, Server, command, example, quoted, thanks, until};
use super::trace::masked;

/// A console block, with what its commands really print. The first word of each must be
/// known here: what nobody tries is not shown.
pub fn run(block: &[String]) -> Result<Vec<String>, String> {
    let mut shown = Vec::new();
    let mut server = None; // what one command serves, the next may ask
    let mut clients = Vec::new();
    for line in block.iter().filter_map(|line| line.strip_prefix("$ ")) {
        shown.push(format!("$ {line}"));
        let words: Vec<&str> = line.split(' ').collect();
        let text = match words[..] {
            ["threadbare", .., "-h" | "-V"] => output(Command::new(PROGRAM).args(&words[1..])),
            ["make", "install", prefix, root] => make_install(prefix, root),
            ["threadbare", ref args @ ..] => served(&mut server, args),
            ["make", "run"] => {
                let folder = Scratch::new();
                let (nothing, made) = (Path::new("/bin/true"), folder.path("threadbare"));
                symlink(nothing, &made).unwrap();
                make(&["run"], &made) + &served(&mut server, &[])
            }
            ["make", "client", ref args @ ..] => {
                let _ = server.is_none().then(|| served(&mut server, &[]));
                make(&[&["client"], args].concat(), Path::new(&example("client")))
            }
            ["make", "trace"] => make_trace(),
            ["cargo", "run", "-q", "--example", name] => {
                drop(server.take());
                server.insert(Server::example(name, &[])).stdout()
            }
            _ if line.contains(PID) => {
                let server: &Server = server.as_ref().ok_or("first start the program")?;
                if clients.is_empty() {
                    clients = two_clients(server);
                }
                looked_at(server, line)
            }
            _ => return Err(format!("a command that nobody tries: {line}")),
        };
        shown.extend(text.lines().map(str::to_owned));
    }
    drop(clients);
    if let Some(server) = &mut server {
        server.stop(); // in order, so that the files of its sockets go
    }
    if shown.is_empty() {
        return Err("a console block without a command; begin it with `$ `".to_owned());
    }
    Ok(shown)
}

/// Whether its commands do without a network of their own.
pub fn is_simple(block: &[String]) -> bool {
    let mut commands = block.iter().filter_map(|line| line.strip_prefix("$ "));
    commands.all(|command| matches!(command, "threadbare -h" | "threadbare -V"))
}

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_threadbare");

/// How a command names the server that the block began with.
const PID: &str = "$(pidof threadbare)";

/// One who has his answer, and one whose line has no end yet.
fn two_clients(server: &Server) -> Vec<Client> {
    let mut clients = vec![server.client()];
    clients[0].send("hello\n");
    clients[0].expect(thanks("hello\n"));
    clients.push(server.client());
    clients[1].send("half line");
    until("both to be heard", || report(server).contains(" rest 9 "));
    clients
}

/// What the server logs when it is asked for a report, but for ports and moments.
fn report(server: &Server) -> String {
    let before = server.logs().len();
    let told = || server.logs()[before..].to_owned();
    // The totals, and a line for each that is open.
    let is_whole = |told: &str| {
        let open = told.split_once(" open, holding ").and_then(|(start, _)| start.rsplit_once(' '));
        let open = open.and_then(|(_, count)| count.parse::<usize>().ok());
        open.is_some_and(|open| told.matches('\n').count() > open)
    };
    server.signal(super::support::Signal::SIGUSR1);
    until("the report", || is_whole(&told()));
    let told = masked(&told(), "127.0.0.1:", char::is_ascii_digit, 4, "…");
    timeless(&masked(&told, "idle ", |c| c.is_ascii_digit() || *c == '.', 1, "…"))
}

/// Records without the time at which they came.
fn timeless(told: &str) -> String {
    let is_time = |word: &&str| word.ends_with('Z') && word.matches(':').count() == 2;
    let without = |line: &str| {
        let time = line.split(' ').find(is_time);
        time.map_or(line.to_owned(), |time| line.replace(time, "…Z")) + "\n"
    };
    told.lines().map(without).collect()
}

/// What a command says about a running server.
fn looked_at(server: &Server, line: &str) -> String {
    if line.starts_with("kill -USR1 ") {
        return report(server);
    }
    let line = line.replace(PID, &server.pid().to_string());
    output(Command::new("sh").args(["-c", &line]))
}

/// Runs a command to its end; what it prints.
pub fn output(command: &mut Command) -> String {
    String::from_utf8(command.output().unwrap().stdout).unwrap()
}

/// What a server prints until it is ready. It listens where it says: nobody else does in
/// this network.
fn served(server: &mut Option<Server>, args: &[&str]) -> String {
    drop(server.take());
    let has_address = args.contains(&"-l");
    let args = if has_address { args.to_vec() } else { [&["-l", "127.0.0.1:1234"], args].concat() };
    let folder = Scratch::new();
    fs::create_dir(folder.path("public")).unwrap();
    let prelude = format!("cd {}", quoted(&folder.path(".")));
    server.insert(Server::start_after(&prelude, &args)).stdout()
}

/// What `make` prints, for a target that runs a program once cargo has built it: here it was,
/// and the part of cargo is played by a line that names it.
fn make(words: &[&str], built: &Path) -> String {
    let cargo = format!("CARGO=printf '\"executable\":\"%s\"\\n' {}", quoted(built));
    let mut make = Command::new("make");
    output(make.arg("--no-print-directory").args(words).arg(cargo.replace('$', "$$")))
}

/// What `make install` prints, into a folder that stands for `root`.
fn make_install(prefix: &str, root: &str) -> String {
    let (folder, root) = (Scratch::new(), root.trim_start_matches("DESTDIR="));
    let own = folder.path("root").display().to_string();
    let said = make(&["install", prefix, &format!("DESTDIR={own}")], Path::new(PROGRAM));
    said.replace(&own, root)
}

/// What `make trace` prints, but for ports and moments.
fn make_trace() -> String {
    let limits = "ulimit -Sn 1024; ulimit -Hn 16384; exec \"$0\" \"$@\"";
    let mut trace = command("sh");
    let told = output(trace.args(["-c", limits, &example("trace"), PROGRAM]));
    told.lines().map(|line| steady(line) + "\n").collect()
}

/// A line of it: the moment that stands in front, and ports, without the chapter being moved.
fn steady(line: &str) -> String {
    let shown = masked(line, "127.0.0.1:", char::is_ascii_digit, 4, "…");
    let shown = masked(&shown, "ABSTIME, in ", |c| c.is_ascii_digit() || *c == '.', 1, "…");
    let lost = " ".repeat(line.chars().count() - shown.chars().count());
    let told = |time: &str| time.trim().parse::<f64>().is_ok();
    match (shown.split_at_checked(9), shown.rsplit_once(' ')) {
        (Some((time, _)), Some((call, chapter))) if told(time) => {
            format!("      …  {}{lost} {chapter}", &call[9..])
        }
        _ => shown,
    }
}

/// What containers, clusters and service managers start, as the docs have it, starts: the words
/// are understood, and fit together.
#[test]
fn what_others_start_starts() {
    let units = fs::read_dir("docs/units").unwrap().map(|unit| unit.unwrap().path());
    let units = units.map(|unit| fs::read_to_string(unit).unwrap());
    let texts: Vec<String> = pages().into_iter().map(|(_, text)| text).chain(units).collect();
    let mut started = [0, 0, 0];
    for line in texts.iter().flat_map(|text| text.lines()).map(str::trim) {
        let begins = ["CMD [", "args: [", "ExecStart=/usr/local/bin/threadbare "];
        let Some(kind) = begins.iter().position(|begin| line.starts_with(begin)) else { continue };
        let words = line[begins[kind].len()..].split(if kind < 2 { "," } else { " " });
        let mut words: Vec<String> =
            words.map(|word| word.trim_matches([' ', '"', ']']).to_owned()).collect();
        let folder = Scratch::new();
        for at in 0..words.len() {
            if at > 0 && words[at - 1] == "-l" {
                words[at] = words[at].replace(":8080", ":0");
            } else if words[at].starts_with('/') {
                words[at] = folder.path(".").display().to_string(); // it has another one
            }
        }
        drop(Server::start(&words.iter().map(String::as_str).collect::<Vec<_>>()));
        started[kind] += 1;
    }
    assert!(started.iter().all(|&count| count > 0), "{started:?}");
}
