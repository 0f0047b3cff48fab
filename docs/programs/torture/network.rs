//! Clients on a slow cable, or on one that is cut: both ends are in a network namespace, in
//! which a packet filter drops what a case wants to be late or lost.
//!
//! The program runs itself once more in there, for one case, and starts the server there.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::rude;
use crate::victim::{Verdict, Victim, read_until};

/// The word in front of the case's name, in there.
pub(crate) const CASE: &str = "--in-a-network";

/// How long the last packet of a handshake takes.
const DELAY: Duration = Duration::from_millis(150);

/// Ways into a network of one's own: for root, and for others.
const WAYS: [&str; 2] = ["-n", "-rn"];

/// What such a network begins with.
const PRELUDE: &str = "ip link set lo up && nft add table inet cable && nft add chain inet cable \
    out '{ type filter hook output priority 0; }'";

fn way_in() -> Option<&'static str> {
    WAYS.into_iter().find(|way| {
        let mut unshare = Command::new("unshare");
        unshare.args([way, "sh", "-c", PRELUDE]).stdout(Stdio::null()).stderr(Stdio::null());
        unshare.status().is_ok_and(|status| status.success())
    })
}

/// Why there can be no such network.
pub(crate) fn lacks() -> Option<String> {
    way_in().is_none().then(|| "needs a network namespace, ip, nft".to_owned())
}

/// Runs a case in a network of its own.
fn run(victim: &Victim, case: &str) -> Verdict {
    let way = way_in().ok_or("no network namespace")?;
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let start = format!("{PRELUDE} && exec \"$0\" \"$@\"");
    let mut inside = Command::new("unshare");
    inside.args([way, "sh", "-c", &start]).arg(program).args([CASE, case]);
    victim.describe(&mut inside);
    let output = inside.output().map_err(|error| format!("unshare: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(said.trim().trim_start_matches("error: ").to_owned())
}

/// The case, once inside.
pub(crate) fn inside(victim: &Victim, case: &str) -> Verdict {
    match case {
        "handshake" => handshake_inside(victim),
        "cable" => cable_inside(victim),
        _ => Err(format!("no such case: {case}")),
    }
}

/// Drops the packets for which a rule of nft(8) holds.
fn drop_packets(rule: &str) -> Verdict {
    nft(&format!("add rule inet cable out {rule} drop"))
}

fn nft(words: &str) -> Verdict {
    let done = Command::new("nft").arg(words).status();
    match done.map_err(|error| format!("nft: {error}"))? {
        status if status.success() => Ok(()),
        status => Err(format!("nft {words}: {status}")),
    }
}

/// A client is connected, as far as it knows: its last packet of the handshake is on its way
/// when SIGTERM comes.
pub(crate) fn slow_handshake(victim: &Victim) -> Verdict {
    run(victim, "handshake")
}

fn handshake_inside(victim: &Victim) -> Verdict {
    victim.answers()?;
    drop_packets("tcp dport != 0 tcp flags & (syn | ack) == ack")?;
    let mut client = victim.connect().map_err(|error| format!("connect: {error}"))?;
    victim.signal(Signal::SIGTERM)?;
    thread::sleep(DELAY);
    nft("flush chain inet cable out")?;
    let talk = client.write_all(b"in time?\n").and_then(|()| read_until(&mut client, b"in time?"));
    talk.map_err(|error| format!("it was connected, and then: {error}"))
}

/// Nothing more comes through, in the middle of an answer of megabytes.
pub(crate) fn cut_cable(victim: &Victim) -> Verdict {
    run(victim, "cable")
}

fn cable_inside(victim: &Victim) -> Verdict {
    let mut client = victim.connect().map_err(|error| format!("connect: {error}"))?;
    let _ = rude::deaf(&mut client);
    let _ = client.read(&mut [0; 100_000]);
    drop_packets("oif lo")?;
    victim.rests()?;
    let begin = Instant::now();
    victim.signal(Signal::SIGTERM)?;
    victim.ends().map(drop).map_err(|why| format!("{why} ({:?})", begin.elapsed()))
}
