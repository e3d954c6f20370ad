//! Where a simulation's chances come from.
//!
//! Guarantees: the same seed gives the same rolls, on every machine and in every version of every dependency
//! (SplitMix64, public domain). Not its job: secrets.

use std::time::Duration;

/// A source of chances.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Others, whose rolls do not depend on how often these are rolled afterwards.
    pub(crate) fn fork(&mut self) -> Self {
        Self(self.roll())
    }

    pub(crate) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Less than `n`; 0 if `n` is 0.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        // The high half of the product: its bias is below n / 2^64.
        ((u128::from(self.roll()) * u128::from(n)) >> 64) as u64
    }

    /// From `low` to `high`, both included.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// True `percent` times of a hundred.
    pub(crate) fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of these; the first if there is no other.
    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    /// Between these, in milliseconds.
    pub(crate) fn millis(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_millis(self.between(low, high))
    }

    /// A wait of this mean and an exponential distribution, at most six times as long.
    pub(crate) fn wait(&mut self, mean: Duration) -> Duration {
        let share = (self.roll() >> 11) as f64 / (1u64 << 53) as f64;
        mean.mul_f64((-(1.0 - share).ln()).min(6.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rolls_of_a_seed_are_those_of_the_published_splitmix64() {
        let mut dice = Dice::new(1_234_567);
        let first = [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423];
        assert_eq!([dice.roll(), dice.roll(), dice.roll()], first);
    }

    #[test]
    fn bounds_are_reached_and_kept() {
        let mut dice = Dice::new(1);
        let rolls: Vec<u64> = (0..1000).map(|_| dice.between(3, 5)).collect();
        assert!((3..=5).all(|n| rolls.contains(&n)));
        assert!(rolls.iter().all(|n| (3..=5).contains(n)));
        assert_eq!(dice.below(0), 0);
        let mean = Duration::from_secs(1);
        assert!((0..1000).all(|_| dice.wait(mean) <= 6 * mean));
    }
}
