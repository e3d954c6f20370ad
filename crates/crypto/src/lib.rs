//! Keys, derivation and the sealed-block format of Cofferdam.
//!
//! Guarantees: every block is sealed under a key of its own; a block opens only in the place it was
//! sealed for; what does not open leaves no plaintext behind; no secret can be cloned or printed.
//!
//! Not its job: I/O, clocks, randomness (a [`SaltSource`] is passed in), caching, vaults.
//! `docs/format.md` specifies every byte.

mod aead;
mod aek;
mod block;
mod buf;
mod derive;
mod header;
mod id;
#[cfg(test)]
mod known_answers;
pub mod kw;
mod layout;
mod open;
mod salt;
mod sealer;
mod wrapped;

#[cfg(feature = "aws-lc")]
pub use aead::AwsLc;
pub use aead::{Aead, DefaultAead, RustCrypto};
pub use aek::Aek;
pub use buf::{BlockBuf, SealedBuf};
pub use derive::{RecordKey, RecordTag};
pub use header::{HEADER_LEN, Header, HeaderError, Suite};
pub use id::{AccountId, BlockId, BlockRef, Epoch, IdError, KeyId, KeyScope, Provider, Version};
pub use layout::{
    LengthError, LocateError, MAX_PLAINTEXT_LEN, PageSize, PageSizeError, PageSpan, RangeError, TAG_LEN,
    plaintext_len, sealed_len,
};
pub use open::OpenError;
pub use salt::{EntropyError, SALT_LEN, Salt, SaltSource};
pub use sealer::{BatchError, SealError, SealItem, Sealer};
pub use wrapped::{CHECK_LEN, KeyCheckValue, KeyMismatch, WrapAlgorithm, WrappedAek, WrappedKey};
