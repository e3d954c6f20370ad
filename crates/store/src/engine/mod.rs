//! The engine: accounts and their encrypted blocks over a block store and a catalog.
//!
//! Guarantees: nothing is written but sealed; a put that was acknowledged is durable; every read and write
//! passes the keyring's check; what is under a revoked key is neither read nor added to; delete and list need
//! no key. Writes that meet an outage of the account's vault wait in a buffer, within bounds, and are drained by
//! themselves once the key is back, once each. What went to a write-only buffer more than minutes ago can't be read by this
//! process, or by whoever has all that the service has, before the customer's vault unwraps its key. The memory of writes is bounded: those under way take from one allowance, and one account from a part
//! of it; how many reads are under way at once is the caller's to bound.
//!
//! Not its job: to keep bytes ([`BlockStore`]), to keep records ([`Catalog`]), to decide whether a key may be used
//! (`cofferdam-keyring`).

mod account;
mod account_name;
mod account_record;
mod account_rows;
mod admission;
mod archives;
mod blocks;
mod buffer;
mod builder;
mod create;
mod current_key;
mod describe;
mod drain;
mod drains;
mod error;
mod error_kind;
mod fences;
mod gate;
mod kek;
mod nodes;
#[cfg(feature = "object-store")]
mod object_keys;
mod operations;
mod pace;
mod purge;
mod records;
mod reload;
mod rows;
mod safe;
mod segment_record;
mod segments;
mod telemetry;
mod tend;
mod versions;
mod work_key;
mod written;

use std::{
    collections::BTreeMap,
    fmt,
    ops::Deref,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use cofferdam_crypto::{AccountId, BlockId, KeyId, PageSize, Version};
use cofferdam_keyring::{KeyEvent, Keyring, Policy, VaultEvent, VaultStatus};
use cofferdam_vault::{Clock, Entropy, Executor, Principal, VaultRegistry};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

pub use account::{Account, AccountKeyStatus, AccountStatus, BlockInfo, BlockPage, Outcome, PutReceipt};
pub use account_name::AccountName;
pub use archives::{
    ArchiveEntry, ArchiveId, ArchiveOverview, ArchiveReport, ImportOptions, ImportReport, Refusal, RefusedKek,
};
pub use buffer::{
    BufferChange, BufferEvent, BufferStatus, DrainBlocked, DrainReport, Moved, Trouble, TroubleKind,
};
pub use builder::EngineBuilder;
pub use describe::KekStatus;
pub use error::EngineError;
pub use error_kind::EngineErrorKind;
pub use nodes::NodeId;
#[cfg(feature = "object-store")]
pub(crate) use object_keys::ObjectKey;
pub use operations::{
    LinkTo, Operation, OperationFailure, OperationHandle, OperationId, OperationKind, OperationStatus,
    Progress, Reencrypt, Step,
};
pub use safe::{Needed, SafeToDisable};

use crate::{BlockStore, Catalog, ReceiptKey};
use account_record::{AccountRecord, Stage, UnverifiedRecord};
use admission::Admission;
use archives::{Claims, Ledger};
use buffer::BufferSettings;
use drains::Drains;
use fences::Fences;
use gate::Gates;
use nodes::Nodes;
use operations::{OperationRows, Runner};
use pace::Pace;
use records::Records;
use segments::Segments;
use tend::Tending;
use versions::{Given, Versions};
use written::Written;

/// Which key a new account's blocks are sealed under.
#[derive(Clone, Debug)]
pub enum AccountKey {
    /// The service's own.
    Service,
    /// A customer's KEK, in the vault registered for the principal.
    Customer {
        /// Whose vault.
        principal: Principal,
        /// Which KEK; without a version, the latest now.
        kek: KeyId,
        /// What writes are sealed under while that can't be had.
        buffer: BufferMode,
    },
}

/// What the writes of an account are sealed under that wait in its buffer for the customer's key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BufferMode {
    /// The account's service key: who has the service's vault can read them.
    #[default]
    ServiceManaged,
    /// Keys of their own, fresh every few minutes, wrapped to the public half of the customer's KEK: nobody can read them
    /// before the customer's vault unwraps those. Needs an RSA KEK, and the feature `aws-lc`.
    WriteOnly,
}

impl BufferMode {
    /// Its name, as records and command lines have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ServiceManaged => "service-managed",
            Self::WriteOnly => "write-only",
        }
    }
}

impl fmt::Display for BufferMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An account that is deleted and can be recovered. Times since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeletedAccount {
    /// Its name, which stays taken.
    pub name: AccountName,
    /// When it was deleted.
    pub at: Duration,
    /// When it is destroyed by itself.
    pub until: Duration,
}

/// Accounts and their encrypted blocks. Cheap to clone; all clones are one engine.
///
/// When the last clone and the last [`Account`] are dropped, its tasks end; [`Self::close`] waits for that.
///
/// ```no_run
/// # async fn example(engine: cofferdam_store::Engine) -> Result<(), cofferdam_store::EngineError> {
/// use cofferdam_crypto::BlockId;
/// use cofferdam_store::AccountName;
///
/// let account = engine.account(&AccountName::new("contoso")?).await?;
/// let id = BlockId::new("2026-11-24/000017").expect("a short id");
/// account.put(&id, "hello".into()).await?;
/// assert_eq!(account.get(&id).await?, "hello");
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Handle>,
}

/// What users of an engine hold: its tasks hold the rest, and end when this is dropped.
struct Handle(Arc<Inner>);

impl Deref for Handle {
    type Target = Arc<Inner>;

    fn deref(&self) -> &Arc<Inner> {
        &self.0
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.drains.stop();
        self.0.runner.stop();
        self.0.tending.stop();
        #[cfg(feature = "hot-cache")]
        if let Some(hot) = &self.0.hot {
            hot.stop();
        }
    }
}

struct Inner {
    blocks: Arc<dyn BlockStore>,
    /// The same, if there is a cache before the store.
    #[cfg(feature = "hot-cache")]
    hot: Option<Arc<crate::hot::HotCache>>,
    records: Arc<Records>,
    keyring: Keyring,
    vaults: VaultRegistry,
    service_kek: KeyId,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    executor: Arc<dyn Executor>,
    page_size: PageSize,
    max_block_len: u64,
    /// The most sealed bytes of a batch.
    max_batch_len: usize,
    policy: Policy,
    buffer: BufferSettings,
    /// For how long a deleted account can be recovered.
    retention: Duration,
    /// For how long new blocks are sealed under one epoch, and for how many bytes.
    cryptoperiod: Option<Duration>,
    cryptoperiod_bytes: Option<u64>,
    /// Signs that a version may be disabled.
    receipt_key: Option<ReceiptKey>,
    segments: Segments,
    drains: Drains,
    gates: Gates,
    fences: Fences,
    ledger: Ledger,
    claims: Claims,
    nodes: Nodes,
    operations: OperationRows,
    runner: Runner,
    tending: Tending,
    pace: Pace,
    admission: Admission,
    versions: Versions,
    written: Written,
    accounts: RwLock<BTreeMap<AccountName, Arc<account::Shared>>>,
    closed: AtomicBool,
    /// Whether closing has ended; held while it goes on.
    closing: tokio::sync::Mutex<bool>,
}

impl Engine {
    /// Starts to set up an engine over a store, with the service's own KEK for what no customer's key covers.
    pub fn builder<S>(store: Arc<S>, vaults: VaultRegistry, service_kek: KeyId) -> EngineBuilder
    where
        S: BlockStore + Catalog + 'static,
    {
        EngineBuilder::new(store.clone(), store, vaults, service_kek)
    }

    /// The same over a store of blocks and a catalog that are two things.
    pub fn builder_over(
        blocks: Arc<dyn BlockStore>,
        catalog: Arc<dyn Catalog>,
        vaults: VaultRegistry,
        service_kek: KeyId,
    ) -> EngineBuilder {
        EngineBuilder::new(blocks, catalog, vaults, service_kek)
    }

    /// The account of this name, to work with its blocks. Needs no key yet.
    ///
    /// # Errors
    /// [`EngineError::NoAccount`], [`EngineError::AccountDeleted`], [`EngineError::BadRecord`], [`EngineError::Store`].
    pub async fn account(&self, name: &AccountName) -> Result<Account, EngineError> {
        self.inner.check_open()?;
        let known = self.inner.accounts.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        match known {
            Some(shared) => {
                let account = Account::new(self.inner.clone(), shared);
                account.check_open().await?;
                Ok(account)
            }
            None => {
                let record = self.inner.records.load(name).await?;
                match record.unverified().stage {
                    Stage::Live => Ok(self.remember(name, record.unverified())),
                    Stage::Deleted { until, .. } => {
                        Err(EngineError::AccountDeleted { account: name.clone(), until })
                    }
                }
            }
        }
    }

    /// Makes an account under the service's key or a customer's.
    ///
    /// The KEK is checked first: it must be enabled and recoverable (soft delete and purge protection), and its vault
    /// must wrap and unwrap with it; for a write-only buffer it must be RSA.
    ///
    /// # Errors
    /// [`EngineError::AccountExists`], [`EngineError::UnfitKek`], [`EngineError::NoWriteOnly`], [`EngineError::NoVault`],
    /// [`EngineError::Vault`], [`EngineError::Entropy`], [`EngineError::Store`].
    pub async fn create_account(&self, name: &AccountName, key: AccountKey) -> Result<Account, EngineError> {
        self.inner.check_open()?;
        let record = create::create(&self.inner, name, key).await?;
        Ok(self.remember(name, &record))
    }

    /// The names of up to `limit` accounts in order, from the first after `after`. Those that are deleted are left out.
    ///
    /// # Errors
    /// [`EngineError::Store`].
    pub async fn accounts(
        &self,
        after: Option<&AccountName>,
        limit: usize,
    ) -> Result<Vec<AccountName>, EngineError> {
        self.inner.check_open()?;
        let live = self.inner.records.list(after, limit.max(1), |stage| stage == Stage::Live).await?;
        Ok(live.into_iter().map(|(name, _)| name).collect())
    }

    /// The same of accounts that are deleted and can be recovered.
    ///
    /// # Errors
    /// [`EngineError::Store`].
    pub async fn deleted_accounts(
        &self,
        after: Option<&AccountName>,
        limit: usize,
    ) -> Result<Vec<DeletedAccount>, EngineError> {
        self.inner.check_open()?;
        let deleted = self.inner.records.list(after, limit.max(1), |stage| stage != Stage::Live).await?;
        let of = |(name, stage)| match stage {
            Stage::Deleted { at, until } => Some(DeletedAccount { name, at, until }),
            Stage::Live => None,
        };
        Ok(deleted.into_iter().filter_map(of).collect())
    }

    /// What happens to keys: changes of state, refreshes, alarms.
    pub fn events(&self) -> broadcast::Receiver<KeyEvent> {
        self.inner.keyring.subscribe()
    }

    /// How the calls to each vault stand that renew keys: sent, budget, limit, the effective refresh, the alarm. How often
    /// a vault may be called is set in the registry: `VaultRegistry::with_budget`.
    pub fn vaults(&self) -> Vec<VaultStatus> {
        self.inner.keyring.vaults()
    }

    /// What happens to the calls to vaults: whose accounts in use need more than the budget, and no longer do.
    pub fn vault_events(&self) -> broadcast::Receiver<VaultEvent> {
        self.inner.keyring.subscribe_vaults()
    }

    /// What happens to buffers: when buffering begins, how far drains came, what went wrong.
    pub fn buffer_events(&self) -> broadcast::Receiver<BufferEvent> {
        self.inner.drains.subscribe()
    }

    /// Waits until everything that is buffered is drained or can't be drained now; how far each account came that had
    /// something to drain since the engine was opened.
    ///
    /// # Errors
    /// [`EngineError::Store`].
    pub async fn drain(&self) -> Result<Vec<DrainReport>, EngineError> {
        self.inner.check_open()?;
        let drains = &self.inner.drains;
        drains.settled(None).await;
        let mut reports = Vec::new();
        for account in drains.accounts() {
            reports.push(drains.report(&self.inner, account).await?);
        }
        Ok(reports)
    }

    /// Finishes the writes that are under way, takes nothing more, wipes every key and closes the store. Reads under
    /// way finish or are refused. What is being drained is drained, for at most as long as one call to a vault may take;
    /// the rest is safe where it is.
    ///
    /// It may be called again: after a dropped future it goes on where that ended, and once it has returned, it is done.
    ///
    /// # Errors
    /// [`EngineError::Store`] when the store can't be closed cleanly; keys are wiped all the same.
    pub async fn close(&self) -> Result<(), EngineError> {
        self.inner.closed.store(true, Ordering::SeqCst);
        let mut done = self.inner.closing.lock().await;
        if *done {
            return Ok(());
        }
        self.inner.runner.stop();
        self.inner.tending.stop();
        self.inner.runner.ended().await;
        self.inner.tending.ended().await;
        self.inner.admission.flush().await;
        self.inner.drains.quiet(self.inner.policy.call_timeout()).await;
        self.inner.drains.stop();
        self.inner.drains.ended().await;
        self.inner.admission.close().await;
        self.inner.nodes.leave().await;
        self.inner.segments.close();
        self.inner.keyring.close().await;
        self.inner.accounts.write().unwrap_or_else(PoisonError::into_inner).clear();
        match self.inner.blocks.close().await.map_err(EngineError::from) {
            Ok(()) | Err(EngineError::Closed) => {
                *done = true;
                Ok(())
            }
            Err(e) => Err(e),
        }
    }

    /// What the hot cache did and holds, if there is one. Cheap.
    #[cfg(feature = "hot-cache")]
    pub fn hot_cache(&self) -> Option<crate::HotCacheStatus> {
        self.inner.hot.as_ref().map(|hot| hot.status())
    }

    /// Waits until the hot cache has written to its disk what it is to write, and removed what it is to remove.
    #[cfg(feature = "hot-cache")]
    pub async fn settle_hot_cache(&self) {
        if let Some(hot) = &self.inner.hot {
            hot.settle().await;
        }
    }

    fn remember(&self, name: &AccountName, record: &AccountRecord) -> Account {
        let mut accounts = self.inner.accounts.write().unwrap_or_else(PoisonError::into_inner);
        let new =
            || Arc::new(account::Shared::new(record, &self.inner.admission, self.inner.gates.of(record.id)));
        let shared = accounts.entry(name.clone()).or_insert_with(new).clone();
        Account::new(self.inner.clone(), shared)
    }
}

impl Inner {
    fn check_open(&self) -> Result<(), EngineError> {
        if self.closed.load(Ordering::Relaxed) { Err(EngineError::Closed) } else { Ok(()) }
    }

    /// Drops what is cached of a block that did not open. Whether it was cached, so that the store's may open.
    fn distrust(&self, account: AccountId, id: &BlockId) -> bool {
        #[cfg(feature = "hot-cache")]
        return self.hot.as_ref().is_some_and(|hot| hot.distrust(account, id));
        #[cfg(not(feature = "hot-cache"))]
        {
            let _ = (account, id);
            false
        }
    }

    /// Versions for so many blocks, to be given to them in order.
    async fn versions_for(&self, blocks: usize) -> Result<Given, EngineError> {
        Ok(self.versions.take(&*self.blocks, blocks).await?)
    }

    /// The version of the `n`th block that they are for, as it is sealed.
    fn version(&self, given: Given, n: usize) -> Version {
        self.versions.of(given, n, || self.clock.now().wall)
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("blocks", &self.inner.blocks).finish_non_exhaustive()
    }
}
