//! Where random bytes come from.
//!
//! Guarantees: the source is passed in, so tests can replay a run; production draws from the operating
//! system, never from a generator whose state a fork or a restored image could repeat.
//!
//! Not promised for RSA: aws-lc draws primes and OAEP's seeds from a generator of its own (NIST SP 800-90A, seeded by
//! the system), which can't be passed in. [`RsaKeySource`] lets a test bring its keys; its wraps differ in every run.

use std::fmt;

use cofferdam_crypto::{
    EntropyError,
    rsa::{RsaError, RsaKek, RsaSize},
};
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

/// Where new RSA KEKs come from.
pub trait RsaKeySource: fmt::Debug + Send + Sync {
    /// A key of this size that nobody had before. May take seconds, so it is called where work may block.
    ///
    /// # Errors
    /// [`RsaError`] when there is none to be had.
    fn draw(&self, size: RsaSize) -> Result<RsaKek, RsaError>;
}

/// Keys that aws-lc generates, from its own generator.
#[derive(Clone, Copy, Debug, Default)]
pub struct AwsLcRsaKeys;

impl RsaKeySource for AwsLcRsaKeys {
    fn draw(&self, size: RsaSize) -> Result<RsaKek, RsaError> {
        RsaKek::generate(size)
    }
}
