//! Where random bytes come from.
//!
//! Guarantees: the source is passed in, so tests can replay a run; production draws from the operating
//! system, never from a generator whose state a fork or a restored image could repeat.

use std::fmt;

use cofferdam_crypto::EntropyError;
use rand::{TryRng, rngs::SysRng};

/// A source of cryptographically secure random bytes.
pub trait Entropy: fmt::Debug + Send + Sync {
    /// Fills all of `out`.
    ///
    /// # Errors
    /// [`EntropyError`] when the source fails; `out` must not be used then.
    fn fill(&self, out: &mut [u8]) -> Result<(), EntropyError>;
}

/// The operating system's source.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, out: &mut [u8]) -> Result<(), EntropyError> {
        SysRng.try_fill_bytes(out).map_err(|e| EntropyError(Box::new(e)))
    }
}
