//! Where salts come from.
//!
//! Not its job: to draw them. A [`SaltSource`] is passed in.

use std::fmt;

use thiserror::Error;

/// The length of a block's salt, in bytes.
pub const SALT_LEN: usize = 32;

/// What makes every write's DEK its own.
pub type Salt = [u8; SALT_LEN];

/// Where salts come from.
///
/// An implementation must never give the same salt twice: not across threads, restarts or forks.
/// `cofferdam-keyring` has one that also guards against a restored machine image.
pub trait SaltSource: fmt::Debug + Send + Sync {
    /// Draws a fresh salt for each place.
    ///
    /// # Errors
    /// [`EntropyError`] when the source has none to give; nothing is sealed then.
    fn fill_salts(&self, salts: &mut [Salt]) -> Result<(), EntropyError>;
}

/// A source of randomness failed.
#[derive(Debug, Error)]
#[error("the source of randomness failed: {0}")]
pub struct EntropyError(#[source] pub Box<dyn std::error::Error + Send + Sync>);
