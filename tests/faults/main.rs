//! The program where everything around it fails: its system calls (strace makes them fail), its memory,
//! and the network (in namespaces of its own).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod injection;
mod network;
mod no_memory;

#[path = "../support/allocator.rs"]
mod allocator;
#[path = "../support/mod.rs"]
mod support;
