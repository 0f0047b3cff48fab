//! The server under the simulated kernel: no socket, no real clock, and every call can be made
//! to fail. Exact and quick; no test here can be slow or unlucky.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod chat;
#[cfg(feature = "cli")]
mod corpus;
mod crowd;
mod drawings;
mod every_fault;
mod fanout;
mod files;
mod front;
mod groups;
mod http;
mod memory;
mod names;
#[cfg(feature = "cli")]
mod oracle;
mod origins;
mod pauses;
mod planted;
mod production;
mod proxy;
mod random;
mod reactions;
mod regressions;
mod server;
mod timers;
mod turns;

// What they share.
#[path = "../support/http_table.rs"]
mod http_table;
mod simulation;

#[cfg(feature = "cli")]
#[path = "../support/needs.rs"]
#[allow(dead_code)]
mod needs;
// The modules of a handler that a fuzz target takes in find what they name here.
#[cfg(feature = "cli")]
#[path = "../../src/fallible.rs"]
#[allow(dead_code)]
mod fallible;
#[cfg(feature = "cli")]
use threadbare::kernel;

// What is fuzzed, and four programs of the walkthrough: their tests come with them.
#[allow(dead_code, clippy::print_stdout)]
#[path = "../../docs/programs/ledger.rs"]
mod ledger;
#[allow(dead_code, clippy::print_stdout)] // here nobody calls `main`
#[path = "../../docs/programs/resp.rs"]
mod resp;
#[allow(dead_code, clippy::print_stdout)]
#[path = "../../docs/programs/shout.rs"]
mod shout;
#[cfg(feature = "cli")]
#[path = "../fuzz/targets/mod.rs"]
mod targets;
#[allow(dead_code)]
#[path = "../../docs/programs/worker_pool.rs"]
mod worker_pool;
