//! The programs and rights that a test needs. If one is missing, the test is skipped, and the
//! skip is reported: in the file named by THREADBARE_SKIPPED, which `make test` prints at its
//! end, or else on stderr. With CI=true nothing may be missing, and the test fails.

#![allow(unreachable_pub)] // several test programs use it

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::thread;

/// Programs, each with the package it comes from; `make deps` reads the same table.
const TOOLS: &str = include_str!("../tools");

/// Programs that need a right to be of use: what is said if they have none.
const RIGHTS: [(&str, &str); 2] =
    [("strace", "strace may not trace"), ("unshare", "no network namespace is to be had")];

/// The ways into a network of one's own: as one who may, and as anybody. Root takes the first
/// also where there are no user namespaces, as in a chroot.
pub const WAYS: [&[&str]; 2] = [&["--net"], &["--map-root-user", "--net"]];

fn succeeds(program: &str, words: &[&str]) -> bool {
    Command::new(program).args(words).output().is_ok_and(|output| output.status.success())
}

/// The first of the ways that is open.
pub fn way_into_a_network() -> Option<&'static [&'static str]> {
    WAYS.into_iter().find(|way| succeeds("unshare", &[way, &["true"][..]].concat()))
}

/// What to type, as `make doctor` says it too.
fn way_out(words: &[&str]) -> String {
    let told = Command::new("tests/doctor").args(words).output();
    let told = told.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    told.unwrap_or_else(|_| "make doctor".to_owned())
}

/// Where programs are looked for. Not everybody's PATH leads to nft.
pub fn path() -> String {
    std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin"
}

/// Whether these programs are installed and permitted to work. If not, the test returns.
#[track_caller]
pub fn needs(programs: &[&str]) -> bool {
    let is_here =
        |program: &&&str| path().split(':').any(|folder| Path::new(folder).join(program).exists());
    let missing: Vec<&str> = programs.iter().filter(|it| !is_here(it)).copied().collect();
    if !missing.is_empty() {
        let mut packages: Vec<&str> = missing.iter().map(|program| package(program)).collect();
        packages.dedup();
        let install = way_out(&[&["install"], &packages[..]].concat());
        return skip(&format!("needs {}", missing.join(", ")), &install);
    }
    for (program, without) in RIGHTS.iter().filter(|(program, _)| programs.contains(program)) {
        let is_permitted = match *program {
            "unshare" => way_into_a_network().is_some(),
            _ => succeeds(program, &["-qq", "-o", "/dev/null", "true"]),
        };
        if !is_permitted {
            return skip(without, &way_out(&["allow", program]));
        }
    }
    true
}

fn package(program: &str) -> &'static str {
    let rows = TOOLS.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut packages = rows
        .filter(|row| matches!(row[..], ["test" | "check", of, _] if of == program))
        .map(|row| row[2]);
    packages.next().unwrap_or_else(|| panic!("tests/tools does not know {program}"))
}

/// Reports why this test is skipped and what to type, and returns `false`.
#[track_caller]
pub fn skip(why: &str, way_out: &str) -> bool {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{why}: {way_out}");
    let current = thread::current();
    let caller = std::panic::Location::caller().to_string();
    let name = current.name().filter(|name| *name != "main").unwrap_or(&caller);
    let told = match std::env::var_os("THREADBARE_SKIPPED") {
        Some(path) => OpenOptions::new()
            .append(true)
            .open(path)
            .and_then(|mut file| file.write_all(format!("{name}\t{why}\t{way_out}\n").as_bytes())),
        None => std::io::stderr() // itself: what `eprintln` says, the harness keeps
            .write_all(format!("SKIPPED {name}: {why}: {way_out}\n").as_bytes()),
    };
    told.unwrap();
    false
}
