//! What is fuzzed: each target makes something of any bytes, and panics if it breaks a
//! promise. To add one is to name it here and to give it a corpus, and in
//! tests/sim/corpus.rs a test.
#![allow(unreachable_pub)] // seen by two programs

mod addresses;
mod command_line;
mod escape;
mod framing;
mod http;
mod proxy_header;
pub mod requests;

use crate::simulation::dice::Dice;
use crate::simulation::play::Play;

pub type Target = fn(&[u8]);

const TARGETS: [(&str, Target); 8] = [
    ("addresses", addresses::target),
    ("command_line", command_line::target),
    ("escape", escape::target),
    ("framing", framing::target),
    ("http", http::target),
    ("proxy_header", proxy_header::target),
    ("requests", requests::target),
    ("simulated", simulated),
];

pub fn named(name: &str) -> Option<Target> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|(_, target)| *target)
}

/// Clients, faults and time on the simulated kernel; each byte is one decision.
fn simulated(bytes: &[u8]) {
    if let Err(why) = Play::new(Dice::Bytes(bytes)).play() {
        panic!("{why}");
    }
}
