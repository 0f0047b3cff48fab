//! h11 as an oracle: a parser of HTTP/1.1 that was written from the standard, in Python. What
//! it takes for a request we take for one that ends at the same byte, and what it refuses we
//! refuse; where that is not so, it must be one of the differences that are named here.

use crate::corpus::{corpus, mutated};
use crate::http_table::cases;
use crate::needs::{needs, skip};
use crate::simulation::dice::Dice;
use crate::targets::requests::Read;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::thread;

/// How many streams are judged.
const STREAMS: usize = 20_000;

/// What h11 takes a stream for.
#[derive(Debug)]
struct Verdict {
    ends: Vec<usize>,
    /// `refused`, `over` or `waits`.
    then: String,
}

#[test]
fn h11_reads_the_same() {
    if !needs(&["/usr/bin/python3"]) {
        return;
    }
    let mut python = Command::new("/usr/bin/python3");
    if !python.args(["-c", "import h11"]).stderr(Stdio::null()).status().unwrap().success() {
        skip("needs h11", "apt install python3-h11");
        return;
    }
    let streams = streams();
    let verdicts = judge(&streams);
    let mut differences: BTreeMap<&str, usize> = BTreeMap::new();
    let mut unexplained = Vec::new();
    for (stream, theirs) in streams.iter().zip(&verdicts) {
        match difference(stream, theirs) {
            Ok(None) => {}
            Ok(Some(why)) => *differences.entry(why).or_default() += 1,
            Err(ours) => unexplained.push(format!(
                "{}\nours: {ours:?}\nh11: {theirs:?}",
                stream.escape_ascii()
            )),
        }
    }
    println!("{} streams; differences: {differences:#?}", verdicts.len());
    let some = unexplained.iter().take(3000).cloned().collect::<Vec<_>>().join("\n\n");
    assert!(unexplained.is_empty(), "{} unexplained\n{some}", unexplained.len());
    assert_eq!(verdicts.len(), STREAMS);
}

/// The requests of the tables, those that the fuzzer keeps, and changes of all of them.
fn streams() -> Vec<Vec<u8>> {
    let mut streams: Vec<Vec<u8>> = cases().into_iter().map(|case| case.request).collect();
    streams.retain(|stream| stream.len() < 4_000);
    streams.extend(corpus("requests"));
    let mut dice = Dice::Seed(11);
    for _ in streams.len()..STREAMS {
        streams.push(mutated(&mut dice, &streams[..1_000.min(streams.len())]));
    }
    streams
}

fn judge(streams: &[Vec<u8>]) -> Vec<Verdict> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fuzz/oracle.py");
    let mut python = Command::new("/usr/bin/python3");
    let python = python.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut python = python.spawn().unwrap();
    let (mut stdin, stdout) = (python.stdin.take().unwrap(), python.stdout.take().unwrap());
    let verdicts = thread::scope(|scope| {
        scope.spawn(move || {
            for stream in streams {
                stdin.write_all(&(stream.len() as u32).to_be_bytes()).unwrap();
                stdin.write_all(stream).unwrap();
            }
        });
        let verdict = |line: String| {
            let (ends, then) = line.rsplit_once(' ').unwrap_or(("", &line));
            let ends = ends.split_whitespace().map(|end| end.parse().unwrap()).collect();
            Verdict { ends, then: then.to_owned() }
        };
        BufReader::new(stdout).lines().map(|line| verdict(line.unwrap())).collect()
    });
    assert!(python.wait().unwrap().success());
    verdicts
}

/// Why we take a stream for something else than h11 does, if we do; all of what we take it for
/// if there is no reason.
fn difference(stream: &[u8], theirs: &Verdict) -> Result<Option<&'static str>, Read> {
    let ours = Read::of([stream]);
    let same = ours.ends.iter().zip(&theirs.ends).take_while(|(a, b)| a == b).count();
    let begin = ours.ends[..same].last().copied().unwrap_or_default();
    let rest = &stream[begin..];
    let next = (ours.ends.get(same), theirs.ends.get(same));
    let verdict = || match ours.refused {
        Some(_) => "refused",
        None if ours.is_over => "over",
        None => "waits",
    };
    match next {
        (None, None) if theirs.then == verdict() => Ok(None),
        _ => explained(rest, &ours, theirs, next).map(Some).ok_or(ours),
    }
}

/// The differences that we know of and mean, by what stands in the rest of the stream.
fn explained(
    rest: &[u8],
    ours: &Read,
    theirs: &Verdict,
    next: (Option<&usize>, Option<&usize>),
) -> Option<&'static str> {
    let _ = (rest, ours, theirs, next);
    None
}
