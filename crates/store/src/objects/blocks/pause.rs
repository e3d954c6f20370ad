//! How long one waits whose compare-and-swap met another's.

use std::time::Duration;

use cofferdam_vault::Entropy;

use super::random;
use crate::{StoreError, StoreErrorKind};

/// How often one tries: with so many in one's way, all of them at the same row, it takes tens of tries.
const TRIES: u32 = 100;
const FIRST: Duration = Duration::from_millis(2);
const LONGEST: Duration = Duration::from_millis(250);

/// Random pauses that get longer.
pub(super) struct Pauses<'a> {
    entropy: &'a dyn Entropy,
    taken: u32,
}

impl<'a> Pauses<'a> {
    pub(super) fn new(entropy: &'a dyn Entropy) -> Self {
        Self { entropy, taken: 0 }
    }

    /// Waits a while.
    ///
    /// # Errors
    /// `Conflict` after too many of them; `Io` without randomness.
    pub(super) async fn next(&mut self) -> Result<(), StoreError> {
        self.taken += 1;
        if self.taken >= TRIES {
            let detail = format!("others changed the same rows {TRIES} times meanwhile");
            return Err(StoreError::new(StoreErrorKind::Conflict).with_detail(detail));
        }
        // The first is met again at once: most often there was one other, and it is done.
        if self.taken > 1 {
            let longest = FIRST.saturating_mul(1 << self.taken.min(10)).min(LONGEST);
            let share = random(self.entropy)? as f64 / u64::MAX as f64;
            tokio::time::sleep(longest.mul_f64(share)).await;
        }
        Ok(())
    }
}
