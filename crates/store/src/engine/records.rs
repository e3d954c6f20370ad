//! Account records in the catalog, and what the keyring asks of them.
//!
//! Guarantees: a customer's wraps leave here only after the record's tag was checked under the account's service
//! AEK. That a key is revoked is kept in a row of its own, which needs no tag: without it the keyring asks the vault
//! before it serves anything, and with it as well.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use async_trait::async_trait;
use bytes::Bytes;
use cofferdam_crypto::{AccountId, RecordKey};
use cofferdam_keyring::{KeyRecord, KeyRecords, RecordError};
use cofferdam_vault::Clock;

use super::{AccountName, EngineError, UnverifiedRecord};
use crate::{Catalog, StoreError, StoreErrorKind};

const ACCOUNTS: &str = "account/";
const REVOKED: &str = "revoked/";

#[derive(Debug)]
pub(super) struct Records {
    catalog: Arc<dyn Catalog>,
    clock: Arc<dyn Clock>,
    /// The keyring knows accounts by id, the catalog by name.
    names: RwLock<BTreeMap<AccountId, AccountName>>,
}

impl Records {
    pub(super) fn new(catalog: Arc<dyn Catalog>, clock: Arc<dyn Clock>) -> Self {
        Self { catalog, clock, names: RwLock::default() }
    }

    /// The record stored under this name, not yet verified.
    pub(super) async fn load(&self, name: &AccountName) -> Result<UnverifiedRecord, EngineError> {
        let stored = self.catalog.load(&account_key(name)).await?;
        let stored = stored.ok_or_else(|| EngineError::NoAccount { account: name.clone() })?;
        let record = UnverifiedRecord::parse(name, &stored.bytes)?;
        self.learn(record.unverified().id, name);
        Ok(record)
    }

    /// Stores a new account's record.
    pub(super) async fn insert(
        &self,
        name: &AccountName,
        id: AccountId,
        bytes: Vec<u8>,
    ) -> Result<(), EngineError> {
        match self.catalog.swap(&account_key(name), None, Some(bytes.into())).await {
            Ok(_) => {
                self.learn(id, name);
                Ok(())
            }
            Err(e) if e.kind() == StoreErrorKind::Conflict => {
                Err(EngineError::AccountExists { account: name.clone() })
            }
            Err(e) => Err(e.into()),
        }
    }

    pub(super) async fn list(
        &self,
        after: Option<&AccountName>,
        limit: usize,
    ) -> Result<Vec<AccountName>, EngineError> {
        let after = after.map(account_key);
        let rows = self.catalog.list(ACCOUNTS, after.as_deref(), limit).await?;
        rows.iter().map(|(key, _)| AccountName::new(key.strip_prefix(ACCOUNTS).unwrap_or(key))).collect()
    }

    fn learn(&self, id: AccountId, name: &AccountName) {
        self.names.write().unwrap_or_else(PoisonError::into_inner).insert(id, name.clone());
    }

    async fn load_by_id(&self, id: AccountId) -> Result<UnverifiedRecord, RecordError> {
        let name = self.names.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned();
        let record = self.load(&name.ok_or(RecordError::NotFound)?).await.map_err(record_error)?;
        if record.unverified().id == id { Ok(record) } else { Err(RecordError::NotFound) }
    }
}

fn account_key(name: &AccountName) -> String {
    format!("{ACCOUNTS}{name}")
}

fn revoked_key(account: AccountId) -> String {
    format!("{REVOKED}{account}")
}

fn record_error(e: EngineError) -> RecordError {
    match e {
        EngineError::NoAccount { .. } => RecordError::NotFound,
        EngineError::BadRecord { reason, .. } => RecordError::Tampered(reason),
        e => RecordError::Storage(Box::new(e)),
    }
}

fn storage(e: StoreError) -> RecordError {
    RecordError::Storage(Box::new(e))
}

#[async_trait]
impl KeyRecords for Records {
    async fn service_keys(&self, account: AccountId) -> Result<KeyRecord, RecordError> {
        let record = self.load_by_id(account).await?;
        let epochs = record.unverified().service.clone();
        Ok(KeyRecord { principal: None, epochs, revoked: false })
    }

    async fn customer_keys(&self, account: AccountId, service: &RecordKey) -> Result<KeyRecord, RecordError> {
        let record = self.load_by_id(account).await?.verify(service).map_err(record_error)?;
        let customer = record.customer.ok_or(RecordError::NotFound)?;
        let revoked = self.catalog.load(&revoked_key(account)).await.map_err(storage)?.is_some();
        Ok(KeyRecord { principal: Some(customer.principal), epochs: customer.epochs, revoked })
    }

    async fn set_revoked(&self, account: AccountId, revoked: bool) -> Result<(), RecordError> {
        let key = revoked_key(account);
        let since = self.clock.now().wall.as_millis().to_string();
        loop {
            let stored = self.catalog.load(&key).await.map_err(storage)?;
            if stored.is_some() == revoked {
                return Ok(());
            }
            let new = revoked.then(|| Bytes::from(since.clone()));
            match self.catalog.swap(&key, stored.as_ref().map(|s| &s.revision), new).await {
                Ok(_) => return Ok(()),
                // Another task wrote it: look again.
                Err(e) if e.kind() == StoreErrorKind::Conflict => {}
                Err(e) => return Err(storage(e)),
            }
        }
    }
}
