//! The program where everything around it fails: its system calls (strace makes them fail), and
//! the network (in namespaces of its own).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod injection;
mod network;

#[path = "../support/mod.rs"]
mod support;
