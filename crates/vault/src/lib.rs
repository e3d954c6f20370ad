//! Key vaults: where a customer keeps the key encryption key (KEK), and what its answers mean.
//!
//! Guarantees: every failure of every vault has one [`VaultErrorKind`], and one table says what it means for
//! a cached key ([`VaultErrorKind::meaning`]). Time and randomness are passed in, as [`Clock`] and
//! [`Entropy`].
//!
//! Not its job: caching, retrying, deciding what a failure costs: that is `cofferdam-keyring`'s.

mod clock;
mod entropy;
mod error;
mod key_vault;
mod registry;
#[cfg(feature = "testing")]
pub mod testing;

pub use clock::{Clock, SystemClock, Timestamp};
pub use entropy::{Entropy, SystemEntropy};
pub use error::{Meaning, VaultError, VaultErrorKind};
pub use key_vault::{KeyKind, KeyProperties, KeyState, KeyVault, WrapContext};
pub use registry::{Principal, VaultRegistry};
