//! Where the decisions of a random test come from: a seed, which never ends, or
//! bytes, each of which is one decision, so that a fuzzer can change one and keep
//! the others.

pub enum Dice<'a> {
    /// splitmix64
    Seed(u64),
    /// When they have all been used, every further decision is 0.
    Bytes(&'a [u8]),
}

impl<'a> Dice<'a> {
    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        let number = match self {
            Dice::Seed(seed) => splitmix(seed),
            Dice::Bytes(_) => {
                let size = if limit <= 256 { 1 } else { 2 };
                self.take(size).iter().fold(0, |number, &byte| number << 8 | u64::from(byte))
            }
        };
        (number % limit as u64) as usize
    }

    pub fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// The next bytes as they are, at most `count` of them. A seed has none.
    pub fn take(&mut self, count: usize) -> &'a [u8] {
        let Dice::Bytes(bytes) = self else { return &[] };
        let (taken, rest) = bytes.split_at(count.min(bytes.len()));
        *bytes = rest;
        taken
    }

    /// Whether all that was to be decided has been.
    pub fn is_spent(&self) -> bool {
        matches!(self, Dice::Bytes([]))
    }
}

fn splitmix(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = *seed;
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
