//! Key vaults: where a customer keeps the key encryption key (KEK), and what its answers mean.
//!
//! Guarantees: every failure of every vault has one [`VaultErrorKind`], and one table says what it means for
//! a cached key ([`VaultErrorKind::meaning`]). Time, randomness and blocking work are passed in, as [`Clock`],
//! [`Entropy`] and [`Executor`].
//!
//! Not its job: caching, retrying, deciding what a failure costs: that is `cofferdam-keyring`'s.

#[cfg(feature = "aws")]
pub mod aws;
#[cfg(feature = "azure")]
pub mod azure;
mod budget;
mod clock;
#[cfg(feature = "conformance")]
pub mod conformance;
mod entropy;
mod error;
pub mod executor;
#[cfg(any(feature = "azure", feature = "transit"))]
mod https;
mod key_vault;
pub mod layers;
mod local;
#[cfg(feature = "pkcs11")]
pub mod pkcs11;
mod reauthenticate;
mod registry;
mod routes;
#[cfg(feature = "serve")]
pub mod serve;
#[cfg(feature = "testing")]
pub mod testing;
#[cfg(feature = "transit")]
pub mod transit;

pub use budget::{BudgetError, VaultBudget};
pub use clock::{Clock, SystemClock, Timestamp};
pub use entropy::{AwsLcRsaKeys, Entropy, RsaKeySource, SystemEntropy};
pub use error::{Meaning, VaultError, VaultErrorKind};
pub use executor::{Executor, Inline, Job, SpawnBlocking, Threads, WorkLost};
pub use key_vault::{
    KeyKind, KeyProperties, KeyState, KeyVault, PublicKeyAnswer, UnknownKeyKind, WrapContext,
};
pub use local::{
    Deletion, KeyInfo, KeyOperation, LocalVault, LocalVaultError, LocalVaultOptions, Passphrase,
    PassphraseCost, Recovery, VersionInfo,
};
pub use reauthenticate::{Credential, CredentialError, KNOWN_GOOD_FOR, Reauthenticating};
pub use registry::{Principal, VaultRegistry, is_same_vault};
pub use routes::VaultRoutes;
