//! What an archive says of itself, before anything of it is checked.
//!
//! Not its job: whether it is whole or genuine (`import`).

use std::time::Duration;

use cofferdam_crypto::{AccountId, KeyId};
use tokio::io::{AsyncRead, AsyncSeek};

use super::{ArchiveId, export::key_ids, import::parse};
use crate::{
    archive::{UncheckedArchive, is_archive},
    engine::{AccountName, EngineError},
};

/// The beginning of an archive: to be shown, and not to be believed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ArchiveOverview {
    /// Its id.
    pub archive: ArchiveId,
    /// The name that its account had.
    pub account: AccountName,
    /// The account's id.
    pub account_id: AccountId,
    /// When it was exported, as time since the Unix epoch.
    pub exported_at: Duration,
    /// Whether the account was linked to a customer's key.
    pub linked: bool,
    /// The versions that the account's keys are wrapped under, the service's among them.
    pub keys: Vec<KeyId>,
}

impl ArchiveOverview {
    /// Whether a file that begins so is an archive.
    pub fn is_archive(start: &[u8]) -> bool {
        is_archive(start)
    }

    /// Reads the beginning of an archive. Needs no key.
    ///
    /// # Errors
    /// [`EngineError::Archive`].
    pub async fn read<R: AsyncRead + AsyncSeek + Unpin>(input: R) -> Result<Self, EngineError> {
        let archive = UncheckedArchive::open(input, u64::MAX).await?;
        let part = parse(archive.account())?;
        let mut keys: Vec<KeyId> = key_ids(&part.record).cloned().collect();
        keys.sort();
        keys.dedup();
        Ok(Self {
            archive: part.archive,
            account: part.record.name.clone(),
            account_id: part.account,
            exported_at: Duration::from_millis(part.exported_at_ms),
            linked: part.record.linked,
            keys,
        })
    }
}
