//! The links between the two ends of TCP connections: which are clogged, until when,
//! and how long things take. Here is the clock, too.
//!
//! A link is free, or it is clogged until some time. A free one is crossed at once,
//! unless things take time: then the first thing that wants to cross clogs it for a
//! while drawn from the seed. Whatever is put on a clogged link crosses when it is free
//! again, in order.

use std::collections::BTreeMap;

pub(super) struct Links {
    /// Nanoseconds on the clock.
    pub(super) now: u64,
    /// How long things take at most, in nanoseconds.
    pub(super) delay: u64,
    random: u64,
    /// Until when each connection's link is clogged.
    clogged: BTreeMap<u64, u64>,
}

impl Links {
    pub(super) fn new(seed: u64) -> Links {
        Links { now: 1_000_000_000, delay: 0, random: seed, clogged: BTreeMap::new() }
    }

    /// The next number of the seed: splitmix64.
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

    /// If something is under way on a link that is not clogged, it takes its time.
    pub(super) fn carry(&mut self, pair: u64, under_way: bool) {
        if under_way && self.delay > 0 && !self.is_clogged(pair) {
            let until = self.now.saturating_add(self.draw());
            self.clog(pair, until);
        }
    }

    /// The link that is free next, and when.
    pub(super) fn next(&self) -> Option<(u64, u64)> {
        let first = self.clogged.iter().min_by_key(|&(_, until)| until)?;
        Some((*first.0, *first.1))
    }
}
