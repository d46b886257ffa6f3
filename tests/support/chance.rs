//! Choices at random that can be made again: they follow from a seed, which is printed.

use std::time::{SystemTime, UNIX_EPOCH};

/// Names the seed to use again.
const SEED: &str = "EVENTBUS_SEED";

/// The generator "splitmix64".
#[derive(Debug)]
pub(crate) struct Chance(u64);

impl Chance {
    /// Follows from the environment's seed, or from a new one.
    pub(crate) fn new() -> Self {
        let fresh = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64);
        let seed = match std::env::var(SEED) {
            Ok(text) => text.parse().expect("a seed is a number"),
            Err(_) => fresh(),
        };
        println!("{SEED}={seed}");
        Self(seed)
    }

    /// The generator whose seed is what this one would make of its own: so a long run can be taken up again in its midst.
    pub(crate) fn following(&self) -> Self {
        Self(Self(self.0).next())
    }

    /// How to have the same choices again.
    pub(crate) fn to_repeat(&self) -> String {
        format!("{SEED}={}", self.0)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}
