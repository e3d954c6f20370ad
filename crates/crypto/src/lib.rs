//! Keys, derivation and the sealed-block format of Cofferdam.
//!
//! Guarantees: every block is sealed under a key of its own; a block opens only in the place it was
//! sealed for; what does not open leaves no plaintext behind; no secret can be cloned or printed.
//!
//! Not its job: I/O, clocks, randomness (a [`SaltSource`] is passed in), caching, vaults.
//! `docs/format.md` specifies every byte.

mod aek;
mod derive;
mod id;
pub mod kw;
mod sealer;
mod wrapped;

pub use aek::Aek;
pub use derive::{RecordKey, RecordTag};
pub use id::{AccountId, BlockId, BlockRef, Epoch, IdError, KeyId, KeyScope, Provider, Version};
pub use sealer::{EntropyError, SALT_LEN, Salt, SaltSource, Sealer};
pub use wrapped::{CHECK_LEN, KeyCheckValue, KeyMismatch, WrapAlgorithm, WrappedAek, WrappedKey};
