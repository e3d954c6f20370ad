//! Which archives there are of an account, and which key versions can unwrap them.
//!
//! Guarantees: what was noted is durable, and stays until somebody says that the archive is gone, or the account is
//! purged. A key version that was added is never taken out.
//!
//! Not its job: to know whether the file is still there.

use std::{sync::Arc, time::Duration};

use cofferdam_crypto::{AccountId, KeyId};
use serde::{Deserialize, Serialize};

use super::ArchiveId;
use crate::{
    Catalog, StoreError, StoreErrorKind,
    engine::{EngineError, rows},
};

const ARCHIVES: &str = "archive/";

/// An archive that was made of an account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ArchiveEntry {
    /// The archive.
    pub id: ArchiveId,
    /// Of which account.
    pub account: AccountId,
    /// When it was begun, as time since the Unix epoch.
    pub exported_at: Duration,
    /// The key versions that can unwrap it.
    pub keys: Vec<KeyId>,
    /// Whether it was finished. One that was not is of no use, as far as it was written at all.
    pub finished: bool,
}

impl ArchiveEntry {
    pub(super) fn new(id: ArchiveId, account: AccountId, exported_at: Duration) -> Self {
        Self { id, account, exported_at, keys: Vec::new(), finished: false }
    }

    /// Adds a version. Whether it is new.
    pub(super) fn add(&mut self, key_id: &KeyId) -> bool {
        let is_new = !self.keys.contains(key_id);
        if is_new {
            self.keys.push(key_id.clone());
        }
        is_new
    }
}

/// The archives of all accounts.
#[derive(Debug)]
pub(in crate::engine) struct Ledger(Arc<dyn Catalog>);

impl Ledger {
    pub(in crate::engine) fn new(catalog: Arc<dyn Catalog>) -> Self {
        Self(catalog)
    }

    /// Writes what is known of an archive.
    pub(super) async fn note(&self, entry: &ArchiveEntry) -> Result<(), EngineError> {
        let key = key(entry.account, entry.id);
        let bytes = serde_json::to_vec(entry).map_err(|e| corrupt(&e))?;
        Ok(rows::put(&*self.0, &key, bytes.into()).await?)
    }

    /// Takes an archive out. Whether it was there.
    pub(super) async fn forget(&self, account: AccountId, id: ArchiveId) -> Result<bool, EngineError> {
        Ok(rows::remove(&*self.0, &key(account, id)).await?)
    }

    /// Takes all of an account's out.
    pub(in crate::engine) async fn forget_all(&self, account: AccountId) -> Result<(), EngineError> {
        for (key, _) in rows::under(&*self.0, &of_account(account)).await? {
            rows::remove(&*self.0, &key).await?;
        }
        Ok(())
    }

    /// The archives of one account.
    pub(super) async fn of(&self, account: AccountId) -> Result<Vec<ArchiveEntry>, EngineError> {
        self.under(&of_account(account)).await
    }

    /// Those of all accounts.
    pub(in crate::engine) async fn all(&self) -> Result<Vec<ArchiveEntry>, EngineError> {
        self.under(ARCHIVES).await
    }

    async fn under(&self, prefix: &str) -> Result<Vec<ArchiveEntry>, EngineError> {
        let rows = rows::under(&*self.0, prefix).await?;
        rows.iter()
            .map(|(_, stored)| serde_json::from_slice(&stored.bytes).map_err(|e| corrupt(&e)))
            .collect()
    }
}

fn key(account: AccountId, id: ArchiveId) -> String {
    format!("{}{id}", of_account(account))
}

fn of_account(account: AccountId) -> String {
    format!("{ARCHIVES}{account}/")
}

fn corrupt(e: &serde_json::Error) -> EngineError {
    StoreError::new(StoreErrorKind::Corrupt).with_detail(format!("the ledger of archives: {e}")).into()
}
