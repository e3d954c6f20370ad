//! Keys, derivation and the sealed-block format of Cofferdam.
//!
//! Guarantees: every block is sealed under a key of its own; a block opens only in the place it was
//! sealed for; what does not open leaves no plaintext behind; no secret can be cloned or printed.
//!
//! Not its job: I/O, clocks, randomness (a [`SaltSource`] is passed in), caching, vaults.
//! `docs/format.md` specifies every byte.
//!
//! ```
//! use cofferdam_crypto::{
//!     AccountId, Aek, BlockId, EntropyError, Epoch, KeyScope, PageSize, Provider, Salt, SaltSource, Sealer, Version,
//!     sealed_len,
//! };
//! use rand::{TryRng, rngs::SysRng};
//!
//! #[derive(Debug)]
//! struct System;
//!
//! impl SaltSource for System {
//!     fn fill_salts(&self, salts: &mut [Salt]) -> Result<(), EntropyError> {
//!         salts.iter_mut().try_for_each(|s| SysRng.try_fill_bytes(s)).map_err(|e| EntropyError(Box::new(e)))
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let aek = Aek::try_from_fn(|aek| SysRng.try_fill_bytes(aek))?;
//! let account = AccountId::from_bytes([7; 16]);
//! let sealer = Sealer::new(&aek, KeyScope { account, epoch: Epoch::FIRST, provider: Provider::Customer });
//!
//! let (id, plaintext) = (BlockId::new("logs/1")?, b"what the customer wrote");
//! let mut sealed = vec![0; sealed_len(plaintext.len() as u64, PageSize::DEFAULT)? as usize];
//! sealer.seal_to(id.at(Version::new(1)), PageSize::DEFAULT, plaintext, &mut sealed, &System)?;
//!
//! let mut opened = [0; 8];
//! sealer.open_range(id.at(Version::new(1)), &sealed, 9..17, &mut opened)?;
//! assert_eq!(&opened, b"customer");
//! assert!(sealer.open(id.at(Version::new(2)), &sealed).is_err());
//! # Ok(())
//! # }
//! ```

mod aead;
mod aek;
mod archive;
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
#[doc(hidden)]
pub mod planted;
mod reader;
pub mod rsa;
mod salt;
mod sealer;
mod segment;
mod wrapped;
mod writer;

#[cfg(feature = "aws-lc")]
pub use aead::AwsLc;
pub use aead::{Aead, DefaultAead, RustCrypto};
pub use aek::Aek;
pub use archive::ArchiveHash;
pub use buf::{BlockBuf, SealedBuf};
pub use derive::{RecordKey, RecordTag};
pub use header::{HEADER_LEN, Header, HeaderError, Suite};
pub use id::{
    AccountId, BlockId, BlockRef, Epoch, IdError, KeyId, KeyScope, Provider, ProviderKind, Version,
};
pub use layout::{
    LengthError, LocateError, MAX_PLAINTEXT_LEN, PageSize, PageSizeError, PageSpan, RangeError, TAG_LEN,
    plaintext_len, sealed_len,
};
pub use open::OpenError;
pub use reader::BlockReader;
pub use salt::{EntropyError, SALT_LEN, Salt, SaltSource};
pub use sealer::{BatchError, SealError, SealItem, Sealer};
pub use segment::SegmentId;
pub use wrapped::{CHECK_LEN, EpochTag, KeyCheckValue, KeyMismatch, WrapAlgorithm, WrappedAek, WrappedKey};
pub use writer::BlockWriter;
