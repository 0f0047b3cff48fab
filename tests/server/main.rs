//! The program from outside: a child process, real sockets, and what its clients see.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod ancestors;
mod chat;
mod costs;
mod crowd;
mod dialogues;
mod endurance;
mod front;
mod handover;
mod http;
mod log_lines;
mod names;
mod pool;
mod process;
mod production;
mod program;
mod proxy;
mod resp;
mod stop;
mod terminal;
mod tried;

// What they share.
#[path = "../support/attacks.rs"]
mod attacks;
#[path = "../support/http_table.rs"]
mod http_table;
#[path = "../support/mod.rs"]
mod support;
