//! An account: its blocks, and the state of its key.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use cofferdam_crypto::{AccountId, BlockId, Epoch, Provider, Version, plaintext_len, sealed_len};
use cofferdam_keyring::{Fault, KeyError, KeyState, KeyStatus};
use tokio::sync::Mutex;

use super::{
    AccountName, BufferMode, EngineError, Handle,
    account_record::{AccountRecord, Stage},
    admission::{AccountAdmission, Admission},
    blocks::VERSION_TRIES,
    buffer::{BufferStatus, DrainReport},
    current_key::CurrentKey,
    gate::Gate,
};
use crate::{Applied, BlockMeta, BlockOp, Place, StoreError, StoreErrorKind};

/// An account of an engine. Cheap to clone; keep one for as long as its blocks are worked with.
#[derive(Clone)]
pub struct Account {
    pub(super) engine: Arc<Handle>,
    pub(super) shared: Arc<Shared>,
}

/// What all handles of one account have in common.
pub(super) struct Shared {
    pub(super) name: AccountName,
    pub(super) id: AccountId,
    pub(super) admission: AccountAdmission,
    /// The keys of its record, once that was found genuine.
    pub(super) key: ArcSwapOption<CurrentKey>,
    /// One look at the record at a time.
    pub(super) verifying: Mutex<()>,
    /// It is deleted.
    pub(super) deleted: AtomicBool,
    /// Who seals under its keys.
    pub(super) gate: Arc<Gate>,
    /// Bytes sealed under its customer's key that are not written down yet.
    pub(super) sealed: AtomicU64,
}

impl Shared {
    pub(super) fn new(record: &AccountRecord, admission: &Admission, gate: Arc<Gate>) -> Self {
        Self {
            name: record.name.clone(),
            id: record.id,
            admission: admission.account(),
            key: ArcSwapOption::empty(),
            verifying: Mutex::default(),
            deleted: AtomicBool::new(record.stage != Stage::Live),
            gate,
            sealed: AtomicU64::new(0),
        }
    }

    pub(super) fn name(&self) -> &AccountName {
        &self.name
    }

    pub(super) fn bad_record(&self, reason: impl fmt::Display) -> EngineError {
        EngineError::BadRecord { account: self.name.clone(), reason: reason.to_string() }
    }
}

/// Where an acknowledged block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// In the store, sealed under the account's key.
    Stored,
    /// In the fallback buffer, sealed as the account's [`BufferMode`] says, since its own key is unavailable. It is
    /// moved to the store once that is back.
    Buffered,
}

/// An acknowledgement: the block is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PutReceipt {
    /// The version it was given.
    pub version: Version,
    /// Where it is.
    pub outcome: Outcome,
}

/// A block in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockInfo {
    /// Its id.
    pub id: BlockId,
    /// Its version.
    pub version: Version,
    /// Its length in bytes, as it was put.
    pub len: u64,
    /// When it was stored, as time since the Unix epoch.
    pub stored_at: Duration,
    /// Whose key it is sealed under.
    pub provider: Provider,
    /// The epoch of that key.
    pub epoch: Epoch,
    /// Whether it is stored, or still in the buffer.
    pub place: Place,
}

/// A page of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockPage {
    /// The blocks, in the order of their ids' bytes.
    pub blocks: Vec<BlockInfo>,
    /// Where the next page starts; none after the last.
    pub next: Option<BlockId>,
}

/// An account and the state of its key, as this engine sees it now.
#[derive(Clone, Debug)]
pub struct AccountStatus {
    /// The account's name.
    pub name: AccountName,
    /// Its id.
    pub id: AccountId,
    /// Whose key new blocks are sealed under.
    pub provider: Provider,
    /// The state of that key.
    pub key: KeyStatus,
    /// What writes are sealed under that wait for it; `None` for an account under the service's key.
    pub buffer_mode: Option<BufferMode>,
    /// How many blocks it has.
    pub blocks: u64,
    /// Their bytes, as they were put.
    pub bytes: u64,
    /// What of it is in the buffer.
    pub buffer: BufferStatus,
}

/// The state of an account's key and of its buffer, as this engine sees them now.
#[derive(Clone, Debug)]
pub struct AccountKeyStatus {
    /// Whose key new blocks are sealed under.
    pub provider: Provider,
    /// The state of that key.
    pub key: KeyStatus,
    /// What writes are sealed under that wait for it; `None` for an account under the service's key.
    pub buffer_mode: Option<BufferMode>,
    /// What waits for it.
    pub buffer: BufferStatus,
}

impl Account {
    pub(super) fn new(engine: Arc<Handle>, shared: Arc<Shared>) -> Self {
        Self { engine, shared }
    }

    /// Its name.
    pub fn name(&self) -> &AccountName {
        &self.shared.name
    }

    /// Its id.
    pub fn id(&self) -> AccountId {
        self.shared.id
    }

    /// Refuses what is asked of a closed engine, or of a deleted account.
    pub(super) async fn check_open(&self) -> Result<(), EngineError> {
        self.engine.check_open()?;
        if !self.shared.deleted.load(Ordering::Acquire) {
            return Ok(());
        }
        match self.engine.records.load(&self.shared.name).await?.unverified() {
            record if record.id != self.shared.id => {
                Err(EngineError::NoAccount { account: self.shared.name.clone() })
            }
            record => match record.stage {
                Stage::Deleted { until, .. } => {
                    Err(EngineError::AccountDeleted { account: self.shared.name.clone(), until })
                }
                // Recovered by another engine.
                Stage::Live => {
                    self.shared.deleted.store(false, Ordering::Release);
                    Ok(())
                }
            },
        }
    }

    /// Deletes a block, durably. Needs no key. Tells whether it was there.
    ///
    /// # Errors
    /// [`EngineError::Store`].
    pub async fn delete(&self, id: &BlockId) -> Result<bool, EngineError> {
        self.check_open().await?;
        let _under_way = self.engine.pace.foreground();
        for _ in 0..VERSION_TRIES {
            let version = self.engine.version(self.engine.versions_for(1).await?, 0);
            let op = BlockOp::Delete { account: self.shared.id, id: id.clone(), version };
            if let Some(applied) = self.commit(vec![op]).await? {
                return Ok(applied.first() != Some(&Applied::Absent));
            }
        }
        Err(StoreError::new(StoreErrorKind::Conflict).into())
    }

    /// Up to `limit` blocks, at least one, in the order of their ids' bytes, from the first after `after`. Needs no key.
    ///
    /// # Errors
    /// [`EngineError::Store`]; [`EngineError::Damaged`] when a length in the store makes no sense.
    pub async fn list(&self, after: Option<&BlockId>, limit: usize) -> Result<BlockPage, EngineError> {
        self.check_open().await?;
        let _under_way = self.engine.pace.foreground();
        let limit = limit.max(1);
        let rows = self.engine.blocks.list(self.shared.id, after, limit).await?;
        let next = if rows.len() < limit { None } else { rows.last().map(|(id, _)| id.clone()) };
        let blocks = rows
            .into_iter()
            .map(|(id, at)| {
                let len = self.plaintext_len(&id, &at.meta)? as u64;
                let BlockMeta { version, stored_at, provider, epoch, .. } = at.meta;
                Ok(BlockInfo { id, version, len, stored_at, provider, epoch, place: at.place })
            })
            .collect::<Result<_, EngineError>>()?;
        Ok(BlockPage { blocks, next })
    }

    /// The state of the account's key, and how much it holds. Asks no vault; walks the list.
    ///
    /// # Errors
    /// As [`Self::list`].
    pub async fn status(&self) -> Result<AccountStatus, EngineError> {
        let AccountKeyStatus { provider, key, buffer_mode, buffer } = self.key_status().await?;
        let (mut blocks, mut bytes, mut after) = (0, 0, None);
        loop {
            let page = self.list(after.as_ref(), 1000).await?;
            blocks += page.blocks.len() as u64;
            bytes += page.blocks.iter().map(|b| b.len).sum::<u64>();
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let (name, id) = (self.shared.name.clone(), self.shared.id);
        Ok(AccountStatus { name, id, provider, key, buffer_mode, blocks, bytes, buffer })
    }

    /// The state of the account's key and of its buffer. Asks no vault and walks nothing: cheap.
    ///
    /// # Errors
    /// [`EngineError::Store`]; [`EngineError::NoAccount`] and [`EngineError::BadRecord`] before the first use.
    pub async fn key_status(&self) -> Result<AccountKeyStatus, EngineError> {
        self.check_open().await?;
        let id = self.shared.id;
        let (provider, buffer_mode) = match self.shared.key.load_full() {
            Some(current) => (current.provider, current.buffer_mode()),
            None => {
                let record = self.engine.records.load(&self.shared.name).await?;
                (record.unverified().provider(), record.unverified().buffer_mode())
            }
        };
        let mut key = self.engine.keyring.status(id, provider);
        if key.state == KeyState::Cold && self.engine.records.is_revoked(id).await? {
            key.state = KeyState::Revoked;
        }
        let usage = self.engine.blocks.buffer_usage(id).await?;
        let (drained, trouble) = self.engine.drains.progress(id);
        let buffer = BufferStatus {
            blocks: usage.map_or(0, |usage| usage.blocks),
            bytes: usage.map_or(0, |usage| usage.bytes),
            since: usage.map(|usage| usage.since),
            drained,
            trouble: trouble.filter(|_| usage.is_some()),
        };
        Ok(AccountKeyStatus { provider, key, buffer_mode, buffer })
    }

    /// What of the account is in the hot cache; nothing where there is none. Walks over all that is in it.
    #[cfg(feature = "hot-cache")]
    pub fn hot_cached(&self) -> crate::HotCached {
        self.engine.hot.as_ref().map(|hot| hot.usage_of(self.shared.id)).unwrap_or_default()
    }

    /// Waits until what the account has buffered is drained, or can't be drained now.
    ///
    /// # Errors
    /// [`EngineError::Store`].
    pub async fn drain(&self) -> Result<DrainReport, EngineError> {
        self.check_open().await?;
        self.engine.drains.settled(Some(self.shared.id)).await;
        self.engine.drains.report(&self.engine, self.shared.id).await
    }

    /// Makes sure that the account's key can be used now, unwrapping it if need be.
    ///
    /// # Errors
    /// [`EngineError::KeyRevoked`], [`EngineError::KeyUnavailable`], [`EngineError::BadRecord`],
    /// [`EngineError::Store`].
    pub async fn check_key(&self) -> Result<(), EngineError> {
        self.sealing_key().await.map(drop)
    }

    pub(super) fn sealed_len(&self, len: usize) -> Result<usize, EngineError> {
        let max = self.engine.max_block_len;
        let too_large = || EngineError::BlockTooLarge { len: len as u64, max };
        if len as u64 > max {
            return Err(too_large());
        }
        let sealed = sealed_len(len as u64, self.engine.page_size).map_err(|_| too_large())?;
        usize::try_from(sealed).map_err(|_| too_large())
    }

    pub(super) fn plaintext_len(&self, id: &BlockId, meta: &BlockMeta) -> Result<usize, EngineError> {
        let len = plaintext_len(meta.sealed_len, meta.page_size).map_err(|_| self.damaged(id))?;
        usize::try_from(len).map_err(|_| self.damaged(id))
    }

    pub(super) fn no_block(&self, id: &BlockId) -> EngineError {
        EngineError::NoBlock { account: self.shared.name.clone(), block: id.clone() }
    }

    pub(super) fn damaged(&self, id: &BlockId) -> EngineError {
        EngineError::Damaged { account: self.shared.name.clone(), block: id.clone() }
    }

    /// A key was to be had, and never for long enough.
    pub(super) fn overdue(&self, provider: Provider) -> EngineError {
        self.key_error(KeyError::Unavailable {
            account: self.shared.id,
            provider,
            fault: Fault::Overdue,
            proven: true,
            retry: self.engine.policy.retry_max(),
        })
    }

    /// Why the buffer took nothing.
    pub(super) async fn buffer_full(&self) -> Result<EngineError, EngineError> {
        let usage = self.engine.blocks.buffer_usage(self.shared.id).await?;
        let settings = &self.engine.buffer;
        Ok(EngineError::BufferFull {
            account: self.shared.name.clone(),
            blocks: usage.map_or(0, |usage| usage.blocks),
            bytes: usage.map_or(0, |usage| usage.bytes),
            since: usage.map(|usage| usage.since),
            max_bytes: settings.max_bytes,
            max_time: settings.max_time,
        })
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Account({})", self.shared.name)
    }
}
