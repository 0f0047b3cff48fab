//! The links between the two ends of TCP connections: which are clogged, until when,
//! and how long deliveries take; and the clock.
//!
//! A link is free, or clogged until some time. What is put on a free link crosses at once,
//! unless deliveries take time: then it clogs the link for a time drawn from the seed.
//! Whatever is put on a clogged link crosses when it is free again, in order.

use std::collections::BTreeMap;

pub(super) struct Links {
    /// What the clock shows, in nanoseconds.
    pub(super) now: u64,
    /// The longest delay of a delivery, in nanoseconds.
    pub(super) delay: u64,
    random: u64,
    /// Until when each connection's link is clogged.
    clogged: BTreeMap<u64, u64>,
}

impl Links {
    pub(super) fn new(seed: u64) -> Links {
        Links { now: 1_000_000_000, delay: 0, random: seed, clogged: BTreeMap::new() }
    }

    /// The next random number of the seed: splitmix64.
    pub(super) fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.random;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// How long something takes: nothing, or more than that.
    pub(super) fn draw(&mut self) -> u64 {
        match self.delay {
            0 => 0,
            most => 1 + self.random() % most,
        }
    }

    pub(super) fn is_clogged(&self, pair: u64) -> bool {
        self.clogged.contains_key(&pair)
    }

    /// Whether what is put on the link crosses at once.
    pub(super) fn is_free(&self, pair: u64) -> bool {
        self.delay == 0 && !self.is_clogged(pair)
    }

    pub(super) fn clog(&mut self, pair: u64, until: u64) {
        self.clogged.insert(pair, until);
    }

    pub(super) fn unclog(&mut self, pair: u64) {
        self.clogged.remove(&pair);
    }

    /// Clogs a free link on which something is under way, for as long as that takes.
    pub(super) fn carry(&mut self, pair: u64, under_way: bool) {
        if under_way && self.delay > 0 && !self.is_clogged(pair) {
            let until = self.now.saturating_add(self.draw());
            self.clog(pair, until);
        }
    }

    /// The link that will be free first, and when.
    pub(super) fn next(&self) -> Option<(u64, u64)> {
        let first = self.clogged.iter().min_by_key(|&(_, until)| until)?;
        Some((*first.0, *first.1))
    }
}
