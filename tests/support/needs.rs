//! The programs and rights that a test needs. If one is missing, the test is skipped, and the
//! skip is reported: in the file named by THREADBARE_SKIPPED, which `make test` prints at its
//! end, or else on stderr. With CI=true nothing may be missing, and the test fails.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::thread;

/// Programs, each with the package it comes from; `make deps` reads the same table.
const TOOLS: &str = include_str!("../tools");

/// A right that a program needs to be of use, how it is tried, and how to get it.
struct Right {
    program: &'static str,
    name: &'static str,
    tried: &'static [&'static str],
    allow: &'static str,
}

const RIGHTS: [Right; 2] = [
    Right {
        program: "strace",
        name: "strace may not trace",
        tried: &["-qq", "-o", "/dev/null", "true"],
        allow: "sudo sysctl kernel.yama.ptrace_scope=1; in a container, --cap-add=SYS_PTRACE",
    },
    Right {
        program: "unshare",
        name: "no network namespace is to be had",
        tried: &["--map-root-user", "--net", "true"],
        allow: "sudo sysctl kernel.unprivileged_userns_clone=1 \
            kernel.apparmor_restrict_unprivileged_userns=0; in a container, --privileged",
    },
];

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
        let install = format!("sudo apt-get install {}", packages.join(" "));
        return skip(&format!("needs {}", missing.join(", ")), &install);
    }
    for right in RIGHTS.iter().filter(|right| programs.contains(&right.program)) {
        let tried = Command::new(right.program).args(right.tried).output();
        if !tried.is_ok_and(|output| output.status.success()) {
            return skip(right.name, right.allow);
        }
    }
    true
}

fn package(program: &str) -> &'static str {
    let rows = TOOLS.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut packages = rows.filter(|row| row.starts_with(&["test", program])).map(|row| row[2]);
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
