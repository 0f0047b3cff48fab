//! The story: a server grows from program to program, and on each page a client breaks one of
//! them. What the pages show of it is made here: how a program differs from the one before, and
//! what strace sees of a scene.

use std::fs;
use std::process::Command;
use std::time::Duration;

use super::captions;
use super::support::{Client, Scratch, Server, Signal, example, quoted, until};
use super::trace::{plain, timeless};

/// The programs in their order, without their ending.
pub fn steps() -> Vec<String> {
    let files = fs::read_dir("docs/programs/steps").unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> =
        names.map(|name| name.trim_end_matches(".rs").to_owned()).collect();
    names.sort();
    names
}

/// The program with this number.
fn step(number: &str) -> Result<String, String> {
    let is_it = |name: &String| name.starts_with(&format!("{number}_"));
    steps().into_iter().find(is_it).ok_or_else(|| format!("no step {number}"))
}

// ---- differences -----------------------------------------------------------------------

/// How a program differs from the one before: what is new, what has gone, and a line around
/// each change.
pub fn changes(number: &str) -> Result<Vec<String>, String> {
    let before = format!("{:02}", number.parse::<usize>().map_err(|error| error.to_string())? - 1);
    let read = |number: &str| {
        let path = format!("docs/programs/steps/{}.rs", step(number)?);
        fs::read_to_string(path).map_err(|error| error.to_string())
    };
    Ok(unified(&read(&before)?, &read(number)?))
}

/// A unified difference without line numbers; what lies between two pieces is `…`.
fn unified(old: &str, new: &str) -> Vec<String> {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    // The first lines say what the step is about, and differ anyway.
    let body = |lines: &[&str]| lines.iter().take_while(|line| line.starts_with("//!")).count();
    let (old, new) = (&old[body(&old)..], &new[body(&new)..]);
    let lines: Vec<(char, &str)> = merged(old, new);
    let is_near = |at: usize| {
        let from = at.saturating_sub(1);
        lines[from..lines.len().min(at + 2)].iter().any(|line| line.0 != ' ')
    };
    let mut shown = Vec::new();
    let mut gap = false;
    for (at, (sign, line)) in lines.iter().enumerate() {
        if !is_near(at) {
            gap = !shown.is_empty();
            continue;
        }
        if std::mem::take(&mut gap) {
            shown.push("  …".to_owned());
        }
        shown.push(format!("{sign} {line}").trim_end().to_owned());
    }
    shown
}

/// The lines of both, each with where it stands: in both, only in the old, only in the new.
pub fn merged<'a>(old: &[&'a str], new: &[&'a str]) -> Vec<(char, &'a str)> {
    // How many lines are common to what is left from each pair of places on.
    let mut common = vec![vec![0; new.len() + 1]; old.len() + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            let either = common[i + 1][j].max(common[i][j + 1]);
            common[i][j] = if old[i] == new[j] { common[i + 1][j + 1] + 1 } else { either };
        }
    }
    let (mut i, mut j, mut lines) = (0, 0, Vec::new());
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            lines.push((' ', old[i]));
            (i, j) = (i + 1, j + 1);
        } else if j == new.len() || i < old.len() && common[i + 1][j] >= common[i][j + 1] {
            lines.push(('-', old[i]));
            i += 1;
        } else {
            lines.push(('+', new[j]));
            j += 1;
        }
    }
    lines
}

// ---- scenes ----------------------------------------------------------------------------

/// What clients do to one of the programs.
struct Scene {
    name: &'static str,
    /// Shell in front of the program.
    prelude: &'static str,
    /// With which call the part that is shown begins; with the last ones, if it is empty.
    from: &'static str,
    /// How many lines of the trace are shown.
    lines: usize,
    play: fn(&mut Stage),
}

const SCENES: [Scene; 12] = [
    scene("hello", "", 9, hello),
    scene("silent", "", 9, silent),
    scene("half", "", 9, half),
    scene("deaf", "", 6, deaf),
    scene("late", "EAGAIN", 6, late),
    scene("full", "", 4, late),
    scene("end", "", 6, end),
    scene("endless", "", 6, endless),
    Scene { prelude: "ulimit -n 16", ..scene("crowd", "EMFILE", 6, crowd) },
    scene("idle", "", 5, idle),
    scene("slow", "EPOLLERR", 8, slow),
    scene("stop", "read(5", 11, stop),
];

const fn scene(
    name: &'static str,
    from: &'static str,
    lines: usize,
    play: fn(&mut Stage),
) -> Scene {
    Scene { name, prelude: "", from, lines, play }
}

/// A client says a line, and leaves.
fn hello(stage: &mut Stage) {
    let mut client = stage.connect();
    stage.step(|| client.send("hello\n"));
    client.expect("Thank you for your message hello\n");
    stage.step(|| drop(client));
    stage.finish();
}

/// One says nothing, and another has a question.
fn silent(stage: &mut Stage) {
    let _silent = stage.connect();
    let mut client = Client::to("127.0.0.1:1234");
    client.send("hello\n");
    std::thread::sleep(Duration::from_millis(200));
    stage.finish();
}

/// A line that comes in two pieces.
fn half(stage: &mut Stage) {
    let mut client = stage.connect();
    stage.step(|| client.send("hel"));
    stage.step(|| client.send("lo\n"));
    stage.finish();
}

const LONG: usize = 4095;

/// Asks for much more than fits into the kernel, and reads nothing.
fn deaf(stage: &mut Stage) {
    let mut client = stage.connect();
    let line = [vec![b'x'; LONG], b"\n".to_vec()].concat();
    let _ = client.try_to_stuff(&line, 16 << 20);
    stage.settle();
    stage.finish();
}

/// The same, and then it reads everything.
fn late(stage: &mut Stage) {
    let mut client = stage.connect();
    stage.step(|| client.send([b'\n'; 4096].repeat(40)));
    stage.finish();
}

/// Says something that is no whole line, and that it says no more.
fn end(stage: &mut Stage) {
    let mut client = stage.connect();
    stage.frozen(|_| {
        client.send("hello");
        client.finish();
    });
    stage.finish();
}

/// A line that does not end, and an end long after what the server takes.
fn endless(stage: &mut Stage) {
    let mut client = stage.connect();
    stage.frozen(|_| client.send(vec![b'x'; 80_000]));
    drop(client); // to which one program has something to do, and another nothing
    std::thread::sleep(Duration::from_millis(200));
    stage.finish();
}

/// More clients than there are descriptors for.
fn crowd(stage: &mut Stage) {
    let clients: Vec<Client> = (0..16).map(|_| Client::to("127.0.0.1:1234")).collect();
    std::thread::sleep(Duration::from_millis(300));
    stage.finish();
    drop(clients);
}

/// Says a line, and then nothing.
fn idle(stage: &mut Stage) {
    let mut client = stage.connect();
    stage.step(|| client.send("hello\n"));
    client.expect("Thank you for your message hello\n");
    client.expect_end();
    stage.settle();
    stage.finish();
}

/// Asks something slow and leaves; the next one comes, and says nothing.
fn slow(stage: &mut Stage) {
    let mut client = stage.connect();
    stage.step(|| client.send("slow\n"));
    stage.step(|| client.reset());
    let _next = stage.connect();
    until("the bell", || {
        of_the_loop(&stage.log()).iter().any(|it| it.starts_with("read(5, \"\\1"))
    });
    std::thread::sleep(Duration::from_millis(200));
    stage.finish();
}

/// SIGTERM, with a question that nobody has read yet.
fn stop(stage: &mut Stage) {
    let mut client = stage.connect();
    stage.frozen(|server| {
        client.send("last\n");
        server.signal(Signal::SIGTERM);
    });
    client.expect("Thank you for your message last\n");
    client.expect_end();
    stage.step(|| drop(client));
    until("the end", || stage.server.has_ended());
}

/// A running program, and what strace has told of it.
struct Stage {
    server: Server,
    log: std::path::PathBuf,
    seen: usize,
    _scratch: Scratch,
}

/// The calls that a scene is about.
const CALLS: &str = "epoll_wait,epoll_ctl,accept4,recvfrom,sendto,shutdown,close,read,write";

impl Stage {
    fn start(number: &str, scene: &Scene) -> Result<Stage, String> {
        let scratch = Scratch::new();
        let log = scratch.path("strace");
        let strace = format!("strace -D -f -q -s 24 -e trace={CALLS} -o {}", quoted(&log));
        let prelude = format!("{}\nexec {strace} \"$0\" \"$@\"", scene.prelude);
        let program = example(&format!("step_{}", step(number)?));
        let server = Server::spawn_other(&prelude, &program, &["127.0.0.1:1234"]);
        let mut stage = Stage { server, log, seen: 0, _scratch: scratch };
        until("the ready line", || stage.server.stdout().contains("listening on "));
        stage.settle();
        Ok(stage)
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn is_asleep(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.server.pid()));
        stat.is_ok_and(|stat| stat.contains(") S ") || stat.contains(") Z "))
    }

    /// Waits until the program has done something and is asleep again, or at its end.
    fn settle(&mut self) {
        let mut before = 0;
        until("the program to have done what there is to do", || {
            let lines = self.log().lines().count();
            let is_settled = self.is_asleep() && lines > self.seen && lines == before;
            before = lines;
            is_settled
        });
        self.seen = before;
    }

    fn step(&mut self, act: impl FnOnce()) {
        act();
        self.settle();
    }

    /// Several steps that the program finds done when it looks.
    fn frozen(&mut self, act: impl FnOnce(&Server)) {
        let stops = |stage: &Stage| stage.log().matches("--- stopped by SIGSTOP").count();
        let before = stops(self);
        self.server.signal(Signal::SIGSTOP);
        until("the program to be stopped", || stops(self) > before);
        act(&self.server);
        self.server.thaw();
        self.settle();
    }

    fn connect(&mut self) -> Client {
        let client = Client::to("127.0.0.1:1234");
        self.settle();
        client
    }

    /// The end, whatever the program does.
    fn finish(&mut self) {
        self.server.signal(Signal::SIGKILL);
        until("the end", || self.server.has_ended());
    }
}

/// What strace sees of a scene, as a page shows it: `02 half`.
pub fn trace(asked: &str, known: &[String]) -> Result<Vec<String>, String> {
    let (number, name) = asked.split_once(' ').ok_or("a scene is a step and a name")?;
    let scene = SCENES.iter().find(|scene| scene.name == name).ok_or("no such scene")?;
    let mut before = Vec::new();
    for _ in 0..6 {
        let mut stage = Stage::start(number, scene)?;
        let skipped = stage.seen;
        (scene.play)(&mut stage);
        stage.server.wait();
        let mut calls = of_the_loop(&stage.log());
        calls.drain(..skipped.saturating_sub(1).min(calls.len()));
        let mut calls = timeless(calls);
        let first = match scene.from {
            "" => calls.len().saturating_sub(scene.lines),
            from => calls.iter().position(|call| call.contains(from)).unwrap_or(0).max(1) - 1,
        };
        calls.drain(..first);
        calls.truncate(scene.lines);
        if name == "deaf" {
            usual_part(&mut calls);
        }
        let calls = captions::of_a_scene(&calls);
        if calls == known || calls == before {
            return Ok(calls);
        }
        before = calls;
    }
    Ok(before)
}

/// How much of an answer fits into a buffer that is nearly full differs from run to run: a page
/// shows what it mostly is.
fn usual_part(calls: &mut [String]) {
    const USUAL: usize = 2924;
    let length = |call: &str| call.split(", ").nth(2)?.parse().ok();
    for index in 1..calls.len() {
        let [taken, refused] = [&calls[index - 1], &calls[index]].map(String::as_str);
        let is_sent = taken.starts_with("sendto(") && refused.starts_with("sendto(");
        let Some((head, part)) = taken.rsplit_once(" = ").filter(|_| is_sent) else { continue };
        let (Some(all), Some(rest)): (Option<usize>, Option<usize>) =
            (length(taken), length(refused))
        else {
            continue;
        };
        if part.parse() == Ok(all - rest.min(all)) && refused.contains("EAGAIN") && all > USUAL {
            let shown = format!("{head} = {USUAL}");
            calls[index] =
                refused.replacen(&format!(", {rest}, "), &format!(", {}, ", all - USUAL), 1);
            calls[index - 1] = shown;
        }
    }
}

/// The calls of the first thread, each in a line that fits on a page.
fn of_the_loop(log: &str) -> Vec<String> {
    let main = log.split(' ').next().unwrap_or_default();
    let mut calls: Vec<String> = Vec::new();
    for line in log.lines() {
        let (thread, call) = line.split_once(' ').unwrap_or_default();
        let call = call.trim_start();
        let is_call = !call.starts_with("---") && !call.starts_with("+++");
        // What comes with SIGSTOP and SIGCONT is the test's own doing.
        if thread != main || !is_call || call.contains("EINTR") {
            continue;
        }
        match call.split_once(" resumed>") {
            Some((_, rest)) => {
                let start = calls.pop().unwrap_or_default();
                calls.push(short(&(start.trim_end_matches('…').to_owned() + rest)));
            }
            None => calls.push(short(call)),
        }
    }
    calls
}

/// A call without what would be too much of it: addresses but for the port, and milliseconds.
fn short(call: &str) -> String {
    if let Some((call, _)) = call.split_once(" <unfinished ...>") {
        return call.trim_end().to_owned() + "…";
    }
    let call = plain(call);
    let call = call.replace("{sa_family=AF_INET, ", "{").replace(", [128 => 16]", "");
    let call = call.replace(", sin_addr=inet_addr(\"127.0.0.1\")", "");
    let call = call.replace(" (Resource temporarily unavailable)", "");
    let waits = call.strip_prefix("epoll_wait(").and_then(|call| call.rsplit_once(", "));
    let Some((start, time)) = waits else { return call };
    let (time, result) = time.split_once(')').unwrap_or((time, ""));
    let time = match time.parse::<u64>() {
        Ok(millis) => millis.next_multiple_of(1_000).to_string(),
        Err(_) => time.to_owned(), // -1
    };
    let result = result.trim_start();
    format!("{:<39} {result}", format!("epoll_wait({start}, {time})"))
}

// ---- scores ----------------------------------------------------------------------------

const SCORES: &str = "docs/story/scores.txt";

/// How many rude clients a program survives, as it was when the scores were last written.
pub fn score(number: &str) -> Result<String, String> {
    let scores = fs::read_to_string(SCORES).map_err(|error| format!("{SCORES}: {error}"))?;
    let mut lines = scores.lines().filter_map(|line| line.split_once(' '));
    let (_, score) = lines.find(|(name, _)| name.starts_with(number)).ok_or("no such step")?;
    Ok(score.split(' ').next().unwrap_or_default().to_owned())
}

/// Plays all rude clients with all programs, and compares the scores with those that are known.
pub fn compare_scores() {
    let torture = example("torture");
    let of = |name: &str, words: &str| {
        let program = match name {
            "threadbare" => env!("CARGO_BIN_EXE_threadbare").to_owned(),
            _ => example(&format!("step_{name}")),
        };
        let start = format!("{} {words}", quoted(std::path::Path::new(&program)));
        let output = Command::new(&torture).args(["--start", &start]).output().unwrap();
        let table = String::from_utf8(output.stdout).unwrap();
        let score = table.lines().last().and_then(|line| line.strip_prefix("survived "));
        let score = score.unwrap_or_else(|| panic!("{name}: no score: {table}"));
        (format!("{name} {score}\n"), table)
    };
    let mut names: Vec<(String, &str)> =
        steps().into_iter().map(|name| (name, "127.0.0.1:0")).collect();
    names.push(("threadbare".to_owned(), "-q -l 127.0.0.1:0"));
    let mut played = Vec::new();
    // Mostly they wait, so several at a time do not disturb each other.
    for some in names.chunks(7) {
        std::thread::scope(|scope| {
            let of = &of;
            let threads: Vec<_> =
                some.iter().map(|(name, words)| scope.spawn(move || of(name, words))).collect();
            played.extend(threads.into_iter().map(|thread| thread.join().unwrap()));
        });
    }
    if std::env::var("UPDATE").is_ok() {
        let scores: String = played.iter().map(|(score, _)| score.as_str()).collect();
        fs::write(SCORES, &scores).unwrap();
    }
    let known = fs::read_to_string(SCORES).unwrap_or_default();
    let known: Vec<&str> = known.lines().collect();
    assert_eq!(known.len(), played.len(), "{SCORES} has other programs");
    // What a program loses by chance it may also win: how much it has unsent when the end is
    // read, for one. What it loses by design it loses each time, so one play of three is near.
    let is_near = |old: &str, new: &str| {
        let count = |line: &str| line.split(' ').nth(1).and_then(|it| it.parse::<i32>().ok());
        old.split(' ').next() == new.split(' ').next()
            && count(old).zip(count(new)).is_some_and(|(old, new)| (old - new).abs() <= 2)
    };
    for (((name, words), known), mut play) in names.iter().zip(known).zip(played) {
        for _ in 0..2 {
            if !is_near(known, &play.0) {
                play = of(name, words);
            }
        }
        let (score, table) = play;
        assert!(is_near(known, &score), "the score is {score}, and not {known}\n{table}");
    }
    for (name, words) in &names[names.len() - 2..] {
        let (score, table) = of(name, words);
        assert!(score.ends_with(" 32 of 32\n"), "{score}{table}");
    }
}
