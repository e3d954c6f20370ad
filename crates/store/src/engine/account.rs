//! An account: its blocks, and the state of its key.

use std::{fmt, ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use cofferdam_crypto::{
    AccountId, BlockId, Epoch, HEADER_LEN, PageSpan, Provider, SealError, Version, plaintext_len, sealed_len,
};
use cofferdam_keyring::{KeyError, KeyHandle, KeyStatus, LiveKey, RecordError};
use cofferdam_vault::executor;
use tokio::sync::OnceCell;

use super::{
    AccountName, EngineError, Inner,
    account_record::AccountRecord,
    admission::{AccountAdmission, Admission},
};
use crate::{Applied, BlockMeta, BlockOp};

/// Up to this many bytes are sealed or opened where the caller runs; more is handed to a thread that may block.
const INLINE: usize = 256 << 10;

/// An account of an engine. Cheap to clone; keep one for as long as its blocks are worked with.
#[derive(Clone)]
pub struct Account {
    engine: Arc<Inner>,
    shared: Arc<Shared>,
}

/// What all handles of one account have in common.
pub(super) struct Shared {
    name: AccountName,
    id: AccountId,
    admission: AccountAdmission,
    /// The key that new blocks are sealed under, once the record was found genuine.
    key: OnceCell<CurrentKey>,
}

impl Shared {
    pub(super) fn new(record: &AccountRecord, admission: &Admission) -> Self {
        Self {
            name: record.name.clone(),
            id: record.id,
            admission: admission.account(),
            key: OnceCell::new(),
        }
    }
}

struct CurrentKey {
    provider: Provider,
    handle: KeyHandle,
}

/// Where an acknowledged block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// In the store, sealed under the account's key.
    Stored,
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
    /// How many blocks it has.
    pub blocks: u64,
    /// Their bytes, as they were put.
    pub bytes: u64,
}

impl Account {
    pub(super) fn new(engine: Arc<Inner>, shared: Arc<Shared>) -> Self {
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

    /// Seals a block and stores it; once this returns, it is durable. An older block of that id is replaced.
    ///
    /// If the future is dropped, the block is stored or it is not, whole either way.
    ///
    /// # Errors
    /// [`EngineError::KeyRevoked`], [`EngineError::KeyUnavailable`], [`EngineError::BlockTooLarge`],
    /// [`EngineError::Store`].
    pub async fn put(&self, id: &BlockId, data: Bytes) -> Result<PutReceipt, EngineError> {
        let receipts = self.put_batch(vec![(id.clone(), data)]).await?;
        receipts.first().copied().ok_or(EngineError::Closed)
    }

    /// Seals and stores several blocks: all of them or none. Of two with one id the later wins.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub async fn put_batch(&self, blocks: Vec<(BlockId, Bytes)>) -> Result<Vec<PutReceipt>, EngineError> {
        self.engine.check_open()?;
        let mut total = 0usize;
        for (_, data) in &blocks {
            total = total.saturating_add(self.sealed_len(data.len())?);
        }
        // First, so that who waits for a vault keeps nobody else from writing.
        self.sealing_key().await?;
        let admitted = self.engine.admission.admit(&self.shared.admission, total).await?;
        let key = self.sealing_key().await?;

        let engine = self.engine.clone();
        let account = self.shared.id;
        let seal = move || {
            let mut ops = Vec::with_capacity(blocks.len());
            for (id, data) in blocks {
                ops.push(engine.seal(&key, account, id, &data)?);
            }
            Ok(ops)
        };
        let ops = if total <= INLINE { seal() } else { executor::run(&*self.engine.executor, seal).await? };
        let ops = ops.map_err(|e| match e {
            SealError::Entropy(e) => EngineError::Entropy(e),
            // Lengths were checked and the buffers made to measure.
            _ => EngineError::BlockTooLarge { len: total as u64, max: self.engine.max_block_len },
        })?;
        let receipts =
            ops.iter().map(|op| PutReceipt { version: op.version(), outcome: Outcome::Stored }).collect();
        self.engine.blocks.commit(ops).await?;
        drop(admitted);
        Ok(receipts)
    }

    /// A block's bytes.
    ///
    /// # Errors
    /// [`EngineError::NoBlock`], [`EngineError::KeyRevoked`], [`EngineError::KeyUnavailable`],
    /// [`EngineError::Damaged`], [`EngineError::Store`].
    pub async fn get(&self, id: &BlockId) -> Result<Bytes, EngineError> {
        self.engine.check_open()?;
        self.sealing_key().await?;
        let (meta, sealed) =
            self.engine.blocks.fetch(self.shared.id, id).await?.ok_or_else(|| self.no_block(id))?;
        let len = self.plaintext_len(id, &meta)?;
        let key = self.opening_key(id, &meta).await?;
        let owned = id.clone();
        let open = move || {
            let mut out = vec![0; len];
            key.open_to(owned.at(meta.version), &sealed, &mut out).map(|_| Bytes::from(out))
        };
        let opened = if len <= INLINE { open() } else { executor::run(&*self.engine.executor, open).await? };
        opened.map_err(|_| self.damaged(id))
    }

    /// Some of a block's bytes; opens only the pages they are in.
    ///
    /// # Errors
    /// [`EngineError::Range`] when the block doesn't have them; else as [`Self::get`].
    pub async fn get_range(&self, id: &BlockId, range: Range<u64>) -> Result<Bytes, EngineError> {
        self.engine.check_open()?;
        self.sealing_key().await?;
        loop {
            let meta = self.engine.blocks.stat(self.shared.id, id).await?.ok_or_else(|| self.no_block(id))?;
            let len = self.plaintext_len(id, &meta)? as u64;
            let span = PageSpan::locate(meta.sealed_len, meta.page_size, range.clone())
                .map_err(|_| EngineError::Range { block: id.clone(), range: range.clone(), len })?;
            let parts = [0..HEADER_LEN as u64, span.bytes()];
            let read = self.engine.blocks.read(self.shared.id, id, meta.version, &parts).await?;
            // None: a newer version took its place since it was looked up.
            let Some(parts) = read else { continue };
            let [header, pages] = parts.as_slice() else { return Err(self.damaged(id)) };
            let (header, pages) = (header.clone(), pages.clone());
            let key = self.opening_key(id, &meta).await?;
            let wanted = usize::try_from(range.end - range.start).map_err(|_| self.damaged(id))?;
            let owned = id.clone();
            let open = move || {
                let mut out = vec![0; wanted];
                key.open_span(owned.at(meta.version), &header, &span, &pages, &mut out)
                    .map(|_| Bytes::from(out))
            };
            let opened =
                if wanted <= INLINE { open() } else { executor::run(&*self.engine.executor, open).await? };
            return opened.map_err(|_| self.damaged(id));
        }
    }

    /// Deletes a block, durably. Needs no key. Tells whether it was there.
    ///
    /// # Errors
    /// [`EngineError::Store`].
    pub async fn delete(&self, id: &BlockId) -> Result<bool, EngineError> {
        self.engine.check_open()?;
        let _admitted = self.engine.admission.admit(&self.shared.admission, 1).await?;
        let version = self.engine.next_version();
        let op = BlockOp::Delete { account: self.shared.id, id: id.clone(), version };
        let applied = self.engine.blocks.commit(vec![op]).await?;
        Ok(applied.first() == Some(&Applied::Deleted))
    }

    /// Up to `limit` blocks in the order of their ids' bytes, from the first after `after`. Needs no key.
    ///
    /// # Errors
    /// [`EngineError::Store`]; [`EngineError::Damaged`] when a length in the store makes no sense.
    pub async fn list(&self, after: Option<&BlockId>, limit: usize) -> Result<BlockPage, EngineError> {
        self.engine.check_open()?;
        let rows = self.engine.blocks.list(self.shared.id, after, limit).await?;
        let next = if rows.len() < limit { None } else { rows.last().map(|(id, _)| id.clone()) };
        let blocks = rows
            .into_iter()
            .map(|(id, meta)| {
                let len = self.plaintext_len(&id, &meta)? as u64;
                let BlockMeta { version, stored_at, provider, epoch, .. } = meta;
                Ok(BlockInfo { id, version, len, stored_at, provider, epoch })
            })
            .collect::<Result<_, EngineError>>()?;
        Ok(BlockPage { blocks, next })
    }

    /// The state of the account's key, and how much it holds. Asks no vault; walks the list.
    ///
    /// # Errors
    /// As [`Self::list`].
    pub async fn status(&self) -> Result<AccountStatus, EngineError> {
        self.engine.check_open()?;
        let record = self.engine.records.load(&self.shared.name).await?;
        let provider = record.unverified().provider();
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
        Ok(AccountStatus {
            name: self.shared.name.clone(),
            id: self.shared.id,
            provider,
            key: self.engine.keyring.status(self.shared.id, provider),
            blocks,
            bytes,
        })
    }

    /// Makes sure that the account's key can be used now, unwrapping it if need be.
    ///
    /// # Errors
    /// [`EngineError::KeyRevoked`], [`EngineError::KeyUnavailable`], [`EngineError::BadRecord`],
    /// [`EngineError::Store`].
    pub async fn check_key(&self) -> Result<(), EngineError> {
        self.sealing_key().await.map(drop)
    }

    async fn sealing_key(&self) -> Result<LiveKey, EngineError> {
        let current = self.current_key().await?;
        current.handle.sealing_key().await.map_err(|e| self.key_error(e))
    }

    async fn opening_key(&self, id: &BlockId, meta: &BlockMeta) -> Result<LiveKey, EngineError> {
        let current = self.current_key().await?;
        let key = if current.provider == meta.provider {
            current.handle.opening_key(meta.epoch).await
        } else {
            self.engine.keyring.opening_key(self.shared.id, meta.provider, meta.epoch).await
        };
        match key {
            // No AEK was ever made of the epoch that the block claims.
            Err(KeyError::UnknownEpoch(_)) => Err(self.damaged(id)),
            key => key.map_err(|e| self.key_error(e)),
        }
    }

    async fn current_key(&self) -> Result<&CurrentKey, EngineError> {
        match self.shared.key.get() {
            Some(current) => Ok(current),
            None => self.shared.key.get_or_try_init(|| self.verify_record()).await,
        }
    }

    /// Whose key the account is under, from a record that was found genuine: who can write to the catalog must
    /// not be able to move an account off its customer's key.
    async fn verify_record(&self) -> Result<CurrentKey, EngineError> {
        let service = self.engine.keyring.sealing_key(self.shared.id, Provider::Service).await;
        let service = service.map_err(|e| self.key_error(e))?;
        let record = self.engine.records.load(&self.shared.name).await?.verify(service.record_key())?;
        let provider = record.provider();
        Ok(CurrentKey { provider, handle: self.engine.keyring.handle(self.shared.id, provider) })
    }

    fn sealed_len(&self, len: usize) -> Result<usize, EngineError> {
        let max = self.engine.max_block_len;
        let too_large = || EngineError::BlockTooLarge { len: len as u64, max };
        if len as u64 > max {
            return Err(too_large());
        }
        let sealed = sealed_len(len as u64, self.engine.page_size).map_err(|_| too_large())?;
        usize::try_from(sealed).map_err(|_| too_large())
    }

    fn plaintext_len(&self, id: &BlockId, meta: &BlockMeta) -> Result<usize, EngineError> {
        let len = plaintext_len(meta.sealed_len, meta.page_size).map_err(|_| self.damaged(id))?;
        usize::try_from(len).map_err(|_| self.damaged(id))
    }

    fn no_block(&self, id: &BlockId) -> EngineError {
        EngineError::NoBlock { account: self.shared.name.clone(), block: id.clone() }
    }

    fn damaged(&self, id: &BlockId) -> EngineError {
        EngineError::Damaged { account: self.shared.name.clone(), block: id.clone() }
    }

    fn key_error(&self, e: KeyError) -> EngineError {
        let account = self.shared.name.clone();
        match e {
            e @ KeyError::Revoked { .. } => EngineError::KeyRevoked { account, source: e },
            KeyError::NoVault { principal, .. } => EngineError::NoVault { account, principal },
            KeyError::UnknownAccount { .. } => EngineError::NoAccount { account },
            KeyError::Record(e) => match &*e {
                RecordError::NotFound => EngineError::NoAccount { account },
                RecordError::Tampered(reason) => EngineError::BadRecord { account, reason: reason.clone() },
                _ => EngineError::KeyUnavailable { account, source: KeyError::Record(e) },
            },
            KeyError::Closed => EngineError::Closed,
            e => EngineError::KeyUnavailable { account, source: e },
        }
    }
}

impl Inner {
    /// Seals one block into the operation that stores it.
    fn seal(
        &self,
        key: &LiveKey,
        account: AccountId,
        id: BlockId,
        data: &[u8],
    ) -> Result<BlockOp, SealError> {
        let version = self.next_version();
        let mut sealed = vec![0; sealed_len(data.len() as u64, self.page_size)? as usize];
        key.seal_to(id.at(version), self.page_size, data, &mut sealed, self.keyring.salts())?;
        let meta = BlockMeta {
            version,
            sealed_len: sealed.len() as u64,
            page_size: self.page_size,
            stored_at: self.clock.now().wall,
            epoch: key.scope().epoch,
            provider: key.scope().provider,
        };
        Ok(BlockOp::Put { account, id, meta, sealed: sealed.into() })
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Account({})", self.shared.name)
    }
}
