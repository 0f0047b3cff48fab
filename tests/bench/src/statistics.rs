//! Numbers from many measurements: medians, and how far they can be trusted.

use serde_json::{Value, json};

/// A median with the interval that holds it with 95 % confidence.
#[derive(Clone, Copy)]
pub struct Interval {
    pub low: f64,
    pub median: f64,
    pub high: f64,
}

impl Interval {
    /// The bootstrap: medians of samples drawn, with repetition, from the sample itself.
    pub fn of(values: &[f64], dice: &mut Dice) -> Interval {
        let draw = |_| {
            let drawn = (0..values.len()).map(|_| values[dice.below(values.len())]);
            quantile(drawn.collect(), 0.5)
        };
        let medians: Vec<f64> = (0..1000).map(draw).collect();
        Interval {
            low: quantile(medians.clone(), 0.025),
            median: quantile(values.to_vec(), 0.5),
            high: quantile(medians, 0.975),
        }
    }

    pub fn to_json(self) -> Value {
        json!([round(self.low), round(self.median), round(self.high)])
    }
}

/// The value below which this part of all values lies.
pub fn quantile<T: PartialOrd + Copy + Default>(mut values: Vec<T>, part: f64) -> T {
    if values.is_empty() {
        return T::default();
    }
    let place = ((values.len() - 1) as f64 * part).round() as usize;
    let by_size = |a: &T, b: &T| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal);
    *values.select_nth_unstable_by(place, by_size).1
}

/// To four digits behind the point, which is more than any figure here deserves.
pub fn round(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

/// Random numbers for orders and draws; nothing depends on their quality. (xorshift64*)
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) % limit as u64) as usize
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}
