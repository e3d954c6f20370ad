//! Randomness that repeats.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
};

use cofferdam_crypto::EntropyError;
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::Entropy;

/// The same bytes for the same seed. For tests only: who knows the seed knows every key.
pub struct SeededEntropy {
    seed: u64,
    rng: Mutex<StdRng>,
}

impl SeededEntropy {
    /// The source of this seed.
    pub fn new(seed: u64) -> Self {
        Self { seed, rng: Mutex::new(StdRng::seed_from_u64(seed)) }
    }
}

impl fmt::Debug for SeededEntropy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SeededEntropy({})", self.seed)
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, out: &mut [u8]) -> Result<(), EntropyError> {
        self.rng.lock().unwrap_or_else(PoisonError::into_inner).fill_bytes(out);
        Ok(())
    }
}
