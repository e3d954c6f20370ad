//! Archives of accounts: exported here, recorded, imported elsewhere.
//!
//! Guarantees: an archive that was finished is in the ledger of the account's catalog, with every key version that can
//! unwrap it, and was there before its first byte was written. An account that was imported exists whole or not at all.
//!
//! Not its job: the bytes (`crate::archive`), where the file is kept.

mod claims;
mod export;
mod import;
mod keys;
mod ledger;
mod load;
mod overview;

use std::{collections::BTreeMap, fmt, str::FromStr, sync::Arc};

use cofferdam_crypto::{AccountId, KeyId};
use cofferdam_vault::{Entropy, KeyVault, Principal};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

pub(super) use claims::Claims;
pub use keys::{Refusal, RefusedKek};
pub use ledger::ArchiveEntry;
pub(super) use ledger::Ledger;
pub use overview::ArchiveOverview;

use super::{AccountName, EngineError, account_record::AccountRecord};
use crate::ArchiveCounts;

/// Names an archive: 128 random bits, printed as 32 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ArchiveId([u8; 16]);

impl ArchiveId {
    /// The id of these bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    fn random(entropy: &dyn Entropy) -> Result<Self, EngineError> {
        let mut bytes = [0; 16];
        entropy.fill(&mut bytes)?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for ArchiveId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for ArchiveId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ArchiveId({self})")
    }
}

impl From<ArchiveId> for String {
    fn from(id: ArchiveId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for ArchiveId {
    type Error = EngineError;

    fn try_from(text: String) -> Result<Self, EngineError> {
        text.parse()
    }
}

impl FromStr for ArchiveId {
    type Err = EngineError;

    fn from_str(text: &str) -> Result<Self, EngineError> {
        let bytes = HEXLOWER.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| EngineError::NoArchive { archive: text.chars().take(64).collect() })
    }
}

/// What an export wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiveReport {
    /// The archive's id, by which the ledger knows it.
    pub id: ArchiveId,
    /// What it holds.
    pub counts: ArchiveCounts,
    /// The key versions that can unwrap it. Whoever imports it needs one of the customer's, if there are such.
    pub keys: Vec<KeyId>,
}

/// How an archive is imported. No vault is asked to unwrap its keys but those that this names.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    name: Option<AccountName>,
    vaults: BTreeMap<Principal, Principal>,
    service: ServiceVault,
    under: Option<(Principal, KeyId)>,
}

/// Who may be asked to unwrap the service's keys of an archive.
#[derive(Clone, Debug, Default)]
enum ServiceVault {
    #[default]
    Nobody,
    Own,
    Other(Arc<dyn KeyVault>),
}

impl ImportOptions {
    /// Under the archive's own name, with no vault to ask.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives the account another name.
    #[must_use]
    pub fn named(mut self, name: AccountName) -> Self {
        self.name = Some(name);
        self
    }

    /// What the archive says is in the vault of its principal `theirs` may be asked of the vault that is registered here for
    /// `ours`.
    #[must_use]
    pub fn allow(mut self, theirs: Principal, ours: Principal) -> Self {
        self.vaults.insert(theirs, ours);
        self
    }

    /// The engine's own service vault may be asked for the service's keys of the archive: for one that the same service
    /// has written. Blocks that are sealed under such a key need it, and so does an account without a customer's key; with it
    /// the import is refused unless the service's key vouches for the archive, which matters where the KEK is RSA.
    #[must_use]
    pub fn allow_own_service(mut self) -> Self {
        self.service = ServiceVault::Own;
        self
    }

    /// The same of the vault of the service that has written the archive, where that is another.
    #[must_use]
    pub fn allow_service(mut self, vault: Arc<dyn KeyVault>) -> Self {
        self.service = ServiceVault::Other(vault);
        self
    }

    /// Wraps the account's keys under this KEK from here on, in place of the one that has unwrapped them.
    #[must_use]
    pub fn under(mut self, principal: Principal, kek: KeyId) -> Self {
        self.under = Some((principal, kek));
        self
    }
}

/// What an import restored.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImportReport {
    /// Which archive it was.
    pub archive: ArchiveId,
    /// What that holds.
    pub counts: ArchiveCounts,
    /// The customer's key version that unwrapped it, if there is one.
    pub unwrapped_by: Option<KeyId>,
    /// Whether the service's key vouches for it as well. Without that, an archive whose KEK is RSA may have been made by
    /// anybody who has that one's public half.
    pub vouched: bool,
    /// Blocks of its buffer that were sealed under the account's own key, now that this is there.
    pub drained: u64,
    /// Blocks whose versions were taken here already, so that they were sealed anew under others.
    pub renumbered: u64,
}

/// The account's part of an archive.
#[derive(Debug, Serialize, Deserialize)]
struct AccountPart {
    archive: ArchiveId,
    account: AccountId,
    /// In milliseconds since the Unix epoch.
    exported_at_ms: u64,
    record: AccountRecord,
}
