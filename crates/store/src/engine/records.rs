//! Account records in the catalog, and what the keyring asks of them.
//!
//! Guarantees: a customer's wraps leave here only after the record's tag was checked under the account's service
//! AEK. That a key is revoked is kept in a row of its own, which needs no tag: without it the keyring asks the vault
//! before it serves anything, and with it as well.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use cofferdam_crypto::planted::{Bug, is_planted};
use cofferdam_crypto::{AccountId, KeyId, RecordKey};
use cofferdam_keyring::{Kek, KeyRecord, KeyRecords, RecordError};
use cofferdam_vault::Clock;
#[cfg(feature = "hot-cache")]
use uuid::Uuid;

use super::{
    AccountName, EngineError, UnverifiedRecord,
    account_record::{CustomerKek, Stage, VerifiedRecord},
    account_rows::{BridgeRow, RevokedRow},
    rows,
};
use crate::{Catalog, Revision, StoreError, StoreErrorKind, Stored};

const ACCOUNTS: &str = "account/";
const REVOKED: &str = "revoked/";
const SEALED: &str = "sealed/";
const BRIDGE: &str = "bridge/";
const OBJECTS: &str = "objects/";

#[derive(Debug)]
pub(super) struct Records {
    catalog: Arc<dyn Catalog>,
    clock: Arc<dyn Clock>,
    /// The keyring knows accounts by id, the catalog by name.
    names: RwLock<BTreeMap<AccountId, Known>>,
}

/// The name that an account's record was found under.
#[derive(Debug)]
struct Known {
    name: AccountName,
    /// Whether the record's tag was right. Until then another record may turn out to be the account's.
    verified: bool,
}

impl Records {
    pub(super) fn new(catalog: Arc<dyn Catalog>, clock: Arc<dyn Clock>) -> Self {
        Self { catalog, clock, names: RwLock::default() }
    }

    /// The record stored under this name, not yet verified.
    pub(super) async fn load(&self, name: &AccountName) -> Result<UnverifiedRecord, EngineError> {
        let stored = self.catalog.load(&account_key(name)).await?;
        let stored = stored.ok_or_else(|| EngineError::NoAccount { account: name.clone() })?;
        self.read(name, stored)
    }

    fn read(&self, name: &AccountName, stored: Stored) -> Result<UnverifiedRecord, EngineError> {
        let record = UnverifiedRecord::parse(name, &stored.bytes, stored.revision)?;
        self.learn(record.unverified().id, name, false)?;
        Ok(record)
    }

    /// The records of the accounts that come next after this one, deleted ones too, each as [`Self::load`] gives it.
    pub(super) async fn page(
        &self,
        after: Option<&AccountName>,
    ) -> Result<Vec<(AccountName, Result<UnverifiedRecord, EngineError>)>, EngineError> {
        let rows = self.catalog.list(ACCOUNTS, after.map(account_key).as_deref(), rows::PAGE).await?;
        let page = rows.into_iter().map(|(key, stored)| {
            let name = account_name(&key)?;
            let record = self.read(&name, stored);
            Ok((name, record))
        });
        page.collect()
    }

    /// The record stored under this name, if its tag is right.
    pub(super) async fn load_verified(
        &self,
        name: &AccountName,
        key: &RecordKey,
    ) -> Result<VerifiedRecord, EngineError> {
        let record = self.load(name).await?;
        let id = record.unverified().id;
        match record.verify(key) {
            Ok(record) => {
                self.learn(id, name, true)?;
                Ok(record)
            }
            Err(e) => {
                self.doubt(id, name);
                Err(e)
            }
        }
    }

    /// Whether the account's key was found to be revoked, and not found to be restored.
    pub(super) async fn is_revoked(&self, account: AccountId) -> Result<bool, StoreError> {
        if is_planted(Bug::RevokedForgotten) {
            return Ok(false);
        }
        Ok(self.catalog.load(&revoked_key(account)).await?.is_some())
    }

    /// Adds to how long the account's key was observed to be revoked, and tells how long that is in all; `None` when
    /// it is not recorded as revoked.
    ///
    /// Never more is counted than has passed by the wall clock since somebody last counted, so that two engines don't
    /// count the same time.
    pub(super) async fn observe_revoked(
        &self,
        account: AccountId,
        time: Duration,
    ) -> Result<Option<Duration>, StoreError> {
        let key = revoked_key(account);
        loop {
            let Some(stored) = self.catalog.load(&key).await? else { return Ok(None) };
            let mut row = RevokedRow::parse(&stored.bytes);
            let now = self.clock.now().wall;
            row.observed += time.min(now.saturating_sub(row.counted_until));
            row.counted_until = now;
            match self.catalog.swap(&key, Some(&stored.revision), Some(row.encode())).await {
                Ok(_) => return Ok(Some(row.observed)),
                // Another task wrote it: look again.
                Err(e) if e.kind() == StoreErrorKind::Conflict => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Looks through the catalog for the names of these accounts, for the keyring, until all are found.
    pub(super) async fn learn_names(&self, wanted: &BTreeSet<AccountId>) -> Result<(), EngineError> {
        let mut after = None;
        loop {
            let known = |id: &AccountId| self.name_of(*id).is_some();
            if wanted.iter().all(known) {
                return Ok(());
            }
            // What is wrong with one record is told to who uses that account.
            let page = self.page(after.as_ref()).await?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(last.clone());
        }
    }

    /// The name of this account, if its record was looked at.
    pub(super) fn name_of(&self, id: AccountId) -> Option<AccountName> {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        names.get(&id).map(|known| known.name.clone())
    }

    /// Stores a new account's record.
    pub(super) async fn insert(
        &self,
        name: &AccountName,
        id: AccountId,
        bytes: Vec<u8>,
    ) -> Result<(), EngineError> {
        match self.catalog.swap(&account_key(name), None, Some(bytes.into())).await {
            Ok(_) => self.learn(id, name, true),
            Err(e) if e.kind() == StoreErrorKind::Conflict => {
                Err(EngineError::AccountExists { account: name.clone() })
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Replaces a record, or removes it, if it is still at this revision: whether it was.
    pub(super) async fn replace(
        &self,
        name: &AccountName,
        revision: &Revision,
        bytes: Option<Vec<u8>>,
    ) -> Result<bool, EngineError> {
        match self.catalog.swap(&account_key(name), Some(revision), bytes.map(Bytes::from)).await {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == StoreErrorKind::Conflict => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Whether the record under this name is that of this account.
    pub(super) async fn has(&self, name: &AccountName, id: AccountId) -> Result<bool, EngineError> {
        let stored = self.catalog.load(&account_key(name)).await?;
        let Some(stored) = stored else { return Ok(false) };
        Ok(UnverifiedRecord::parse(name, &stored.bytes, stored.revision)?.unverified().id == id)
    }

    /// Removes what is kept of an account beside its record.
    pub(super) async fn remove_rows(&self, id: AccountId) -> Result<(), EngineError> {
        for key in [revoked_key(id), bridge_key(id), sealed_key(id), objects_key(id)] {
            rows::remove(&*self.catalog, &key).await?;
        }
        Ok(())
    }

    /// Takes note that objects outside the engine's store are sealed under the account's keys.
    #[cfg(feature = "object-store")]
    pub(super) async fn note_objects(&self, id: AccountId) -> Result<(), StoreError> {
        if self.has_objects(id).await? {
            return Ok(());
        }
        rows::put(&*self.catalog, &objects_key(id), Bytes::from_static(b"{}")).await
    }

    /// Whether objects outside the engine's store may be sealed under any key that the account ever had.
    pub(super) async fn has_objects(&self, id: AccountId) -> Result<bool, StoreError> {
        Ok(self.catalog.load(&objects_key(id)).await?.is_some())
    }

    /// Adds to how many bytes were sealed under an epoch of an account, and tells how many that are in all.
    pub(super) async fn add_sealed(&self, id: AccountId, epoch: u32, bytes: u64) -> Result<u64, StoreError> {
        let key = sealed_key(id);
        loop {
            let stored = self.catalog.load(&key).await?;
            let text = stored.as_ref().and_then(|stored| std::str::from_utf8(&stored.bytes).ok());
            let known = text.and_then(|text| text.split_once(' '));
            let known = known.and_then(|(of, sealed)| Some((of.parse::<u32>().ok()?, sealed.parse().ok()?)));
            let before: u64 = known.filter(|(of, _)| *of == epoch).map_or(0, |(_, sealed)| sealed);
            let sealed = before.saturating_add(bytes);
            if bytes == 0 {
                return Ok(sealed);
            }
            let revision = stored.as_ref().map(|stored| &stored.revision);
            match self.catalog.swap(&key, revision, Some(format!("{epoch} {sealed}").into())).await {
                Ok(_) => return Ok(sealed),
                Err(e) if e.kind() == StoreErrorKind::Conflict => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// The accounts that somebody here has looked at.
    pub(super) fn known(&self) -> Vec<AccountId> {
        self.names.read().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    /// The account is gone.
    pub(super) fn unlearn(&self, id: AccountId) {
        self.names.write().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    /// The next `limit` accounts after this one at a stage that fits, with that.
    pub(super) async fn list(
        &self,
        after: Option<&AccountName>,
        limit: usize,
        fits: impl Fn(Stage) -> bool + Send,
    ) -> Result<Vec<(AccountName, Stage)>, EngineError> {
        let (mut found, mut after) = (Vec::new(), after.map(account_key));
        loop {
            let rows = self.catalog.list(ACCOUNTS, after.as_deref(), limit).await?;
            let Some((last, _)) = rows.last() else { return Ok(found) };
            after = Some(last.clone());
            for (key, stored) in rows {
                let name = account_name(&key)?;
                // What is wrong with a record is told to who uses that account.
                let stage = UnverifiedRecord::parse(&name, &stored.bytes, stored.revision)
                    .map_or(Stage::Live, |record| record.unverified().stage);
                if fits(stage) {
                    found.push((name, stage));
                    if found.len() == limit {
                        return Ok(found);
                    }
                }
            }
        }
    }

    /// Notes whose id this is. One id has one name: a record that names another account's id is a copy.
    fn learn(&self, id: AccountId, name: &AccountName, verified: bool) -> Result<(), EngineError> {
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        let known = names.entry(id).or_insert_with(|| Known { name: name.clone(), verified });
        if known.name == *name {
            known.verified |= verified;
            return Ok(());
        }
        let reason = format!("its id is that of account {}", known.name);
        Err(EngineError::BadRecord { account: name.clone(), reason })
    }

    /// Forgets a name whose record proved to be none.
    fn doubt(&self, id: AccountId, name: &AccountName) {
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        if names.get(&id).is_some_and(|known| known.name == *name && !known.verified) {
            names.remove(&id);
        }
    }

    /// Since when this KEK has not answered while another did.
    pub(super) async fn bridged_since(
        &self,
        account: AccountId,
        kek: &KeyId,
    ) -> Result<Option<Duration>, StoreError> {
        Ok(self.load_bridges(account).await?.since(kek))
    }

    async fn load_bridges(&self, account: AccountId) -> Result<BridgeRow, StoreError> {
        let stored = self.catalog.load(&bridge_key(account)).await?;
        Ok(stored.map_or(BridgeRow::default(), |stored| BridgeRow::parse(&stored.bytes)))
    }

    async fn load_by_id(&self, id: AccountId) -> Result<UnverifiedRecord, RecordError> {
        let name = self.name_of(id).ok_or(RecordError::NotFound)?;
        let record = self.load(&name).await.map_err(record_error)?;
        if record.unverified().id == id { Ok(record) } else { Err(RecordError::NotFound) }
    }
}

fn account_key(name: &AccountName) -> String {
    format!("{ACCOUNTS}{name}")
}

fn account_name(key: &str) -> Result<AccountName, EngineError> {
    AccountName::new(key.strip_prefix(ACCOUNTS).unwrap_or(key))
}

fn revoked_key(account: AccountId) -> String {
    format!("{REVOKED}{account}")
}

fn sealed_key(account: AccountId) -> String {
    format!("{SEALED}{account}")
}

fn objects_key(account: AccountId) -> String {
    format!("{OBJECTS}{account}")
}

fn bridge_key(account: AccountId) -> String {
    format!("{BRIDGE}{account}")
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
        Ok(KeyRecord::under(None, record.unverified().service.clone()))
    }

    async fn customer_keys(&self, account: AccountId, service: &RecordKey) -> Result<KeyRecord, RecordError> {
        let name = self.name_of(account).ok_or(RecordError::NotFound)?;
        let record = self.load_verified(&name, service).await.map_err(record_error)?.record;
        if record.id != account || record.stage != Stage::Live {
            return Err(RecordError::NotFound);
        }
        let customer = record.customer.ok_or(RecordError::NotFound)?;
        let revoked = self.is_revoked(account).await.map_err(storage)?;
        let mut keks: Vec<Kek> = customer.keks.iter().map(CustomerKek::kek).collect();
        // One alone has none that could stand in for it.
        if keks.len() > 1 {
            let bridges = self.load_bridges(account).await.map_err(storage)?;
            for kek in &mut keks {
                kek.bridged_since = bridges.since(&kek.key_id);
            }
        }
        Ok(KeyRecord { keks, epochs: customer.epochs, revoked })
    }

    async fn set_revoked(&self, account: AccountId, revoked: bool) -> Result<(), RecordError> {
        let key = revoked_key(account);
        let now = self.clock.now().wall;
        let row = RevokedRow { since: now, observed: Duration::ZERO, counted_until: now };
        loop {
            let stored = self.catalog.load(&key).await.map_err(storage)?;
            if stored.is_some() == revoked {
                return Ok(());
            }
            let new = revoked.then(|| row.encode());
            match self.catalog.swap(&key, stored.as_ref().map(|s| &s.revision), new).await {
                Ok(_) => return Ok(()),
                // Another task wrote it: look again.
                Err(e) if e.kind() == StoreErrorKind::Conflict => {}
                Err(e) => return Err(storage(e)),
            }
        }
    }

    async fn note_bridge(
        &self,
        account: AccountId,
        kek: &KeyId,
        since: Option<Duration>,
    ) -> Result<(), RecordError> {
        let key = bridge_key(account);
        loop {
            let stored = self.catalog.load(&key).await.map_err(storage)?;
            let row = stored.as_ref().map_or(BridgeRow::default(), |stored| BridgeRow::parse(&stored.bytes));
            let Some(row) = row.noting(kek, since) else { return Ok(()) };
            match self.catalog.swap(&key, stored.as_ref().map(|s| &s.revision), row.encode()).await {
                Ok(_) => return Ok(()),
                // Another task wrote it: look again.
                Err(e) if e.kind() == StoreErrorKind::Conflict => {}
                Err(e) => return Err(storage(e)),
            }
        }
    }
}

#[cfg(feature = "hot-cache")]
#[async_trait]
impl crate::hot::Standing for Records {
    async fn revoked(&self) -> Result<BTreeSet<AccountId>, EngineError> {
        // What is under another name than we give is nobody's.
        let id = |key: &str| Uuid::try_parse(key.strip_prefix(REVOKED)?).ok();
        let rows = rows::under(&*self.catalog, REVOKED).await?;
        let ids = rows.iter().filter_map(|(key, _)| id(key));
        Ok(ids.map(|id| AccountId::from_bytes(*id.as_bytes())).collect())
    }

    async fn unknown(&self, of: &BTreeSet<AccountId>) -> Result<BTreeSet<AccountId>, EngineError> {
        self.learn_names(of).await?;
        Ok(of.iter().copied().filter(|id| self.name_of(*id).is_none()).collect())
    }
}
