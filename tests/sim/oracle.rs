//! h11 as an oracle: a parser of HTTP/1.1 that was written from the standard, in Python. What
//! it takes for a request we take for one that ends at the same byte, and what it refuses we
//! refuse; where that is not so, it must be one of the differences that are named here.

use crate::corpus::{corpus, mutated};
use crate::http_table::cases;
use crate::needs::needs;
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
#[ignore = "needs h11, in Python; `make check` runs it"]
fn h11_reads_the_same() {
    if !needs(&["/usr/lib/python3/dist-packages/h11/__init__.py"]) {
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
            Err(ours) => unexplained
                .push(format!("{}\nours: {ours:?}\nh11: {theirs:?}", stream.escape_ascii())),
        }
    }
    println!("{} streams; differences: {differences:#?}", verdicts.len());
    let some = unexplained.iter().take(10).cloned().collect::<Vec<_>>().join("\n\n");
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

/// The differences that we know of and mean, by what stands in the rest of the stream. There is
/// none for two requests that end at different bytes.
fn explained(
    rest: &[u8],
    ours: &Read,
    theirs: &Verdict,
    next: (Option<&usize>, Option<&usize>),
) -> Option<&'static str> {
    let text: String = rest.iter().map(|&byte| byte.to_ascii_lowercase() as char).collect();
    let has = |what: &str| text.contains(what);
    let count = |what: &str| text.matches(what).count();
    let is_empty_in_front = text.starts_with("\r\n") || text.starts_with('\n');
    match (ours.refused, next) {
        (_, (Some(_), Some(_))) => None,
        // h11 takes no empty line in front of a request, and no space in front of an extension.
        (_, (Some(_), None)) | (None, (None, None)) if theirs.then == "refused" => {
            let has_space = has(" ;") || has("\t;");
            let line = text.split("\r\n").next().unwrap_or_default();
            let reasons = [
                (is_empty_in_front, "empty lines"),
                (has_space, "spaces"),
                (!line.is_ascii(), "bytes beyond ASCII"),
            ];
            reasons.into_iter().find(|(is, _)| *is).map(|(_, why)| why)
        }
        // Of a CONNECT, and of an expectation that is not met, ours is the last answer.
        (None, (None, None)) if ours.is_over => Some("what ends a connection"),
        (_, (None, None)) if theirs.then == "over" => Some("keep-alive in HTTP/1.0"),
        (None, _) => None,
        (Some(status), _) if !status.starts_with("400") => Some("limits, and what is not done"),
        // h11 waits for the end of a head or a line before it looks.
        (Some(_), (None, None)) if theirs.then == "waits" => Some("sooner"),
        (Some(_), _) => {
            let bare = has("\n\n") || text.replace("\r\n", "").contains('\n');
            let target = text.split(' ').nth(1).unwrap_or_default();
            let is_odd = |byte: char| !byte.is_ascii_alphanumeric() && !".:-,[]".contains(byte);
            let host = text.split("\r\nhost:").nth(1).unwrap_or_default();
            let host = host.split("\r\n").next().unwrap_or_default().trim_matches([' ', '\t']);
            let two = count("content-length") + count("transfer-encoding") > 1;
            let is_list = has("content-length") && has(",");
            let is_control = |byte: char| byte.is_ascii_control() && !"\r\n\t".contains(byte);
            let reasons = [
                (bare, "bare LF"),
                (!target.starts_with('/') || target.contains('#'), "targets"),
                (text.starts_with("connect "), "targets"),
                (host.contains(is_odd) || host.contains([':', '[', ',']), "hosts"),
                (!has("\r\nhost:"), "hosts"), // h11 wants one in 1.1 only, not in 1.2
                (two || is_list, "two lengths"),
                (has("transfer-encoding") && has("http/1.0"), "chunks in HTTP/1.0"),
                (has("chunked") && (has(";") || has(" \r\n")), "extensions"),
                (text.contains(is_control), "control bytes"),
                (has("\r\n ") || has("\r\n\t"), "folded lines"),
                (is_empty_in_front, "empty lines"),
            ];
            reasons.into_iter().find(|(is, _)| *is).map(|(_, why)| why)
        }
    }
}
