//! libFuzzer around the target that the environment variable TARGET names: `make fuzz`.
//!
//! What it finds worth keeping stays in a scratch corpus below `target/fuzz`. The committed
//! one is the least of it that covers nearly as much, made by
//!
//! ```sh
//! make fuzz TARGET=simulated SECONDS=600
//! mkdir new && TARGET=simulated target/fuzz/*/release/threadbare-fuzz -set_cover_merge=1 \
//!     new target/fuzz/simulated/corpus tests/fuzz/corpus/simulated
//! ```
//!
//! of which the first files (`ls -tr`) cover the most: 20 to 100 of them were kept.
#![no_main]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../../../src/fallible.rs"]
#[allow(dead_code)]
mod fallible;
#[path = "../../sim/simulation/mod.rs"]
mod simulation;
#[path = "../targets/mod.rs"]
mod targets;

use std::sync::LazyLock;
use threadbare::kernel; // it and `fallible` are for the modules of a handler that a target takes in

static TARGET: LazyLock<targets::Target> = LazyLock::new(|| {
    let name = std::env::var("TARGET").unwrap_or_default();
    targets::named(&name).unwrap_or_else(|| panic!("TARGET names no target: {name:?}"))
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| TARGET(bytes));
