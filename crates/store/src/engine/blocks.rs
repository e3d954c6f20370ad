//! Writing and reading an account's blocks.
//!
//! Guarantees: a key is used only while the keyring lets it be, also by work that had to wait for a thread; a read
//! that does not open gives nothing; a put is acknowledged only for what a later read finds. While the account's key
//! is unavailable, and only then, a put goes to the buffer, sealed under the service's key for this account or, where its
//! buffer is write-only, under the key of a segment; what is there is read only while the account's own key may be used,
//! too.

use std::{
    ops::Range,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use cofferdam_crypto::{
    AccountId, BlockId, BlockRef, HEADER_LEN, KeyScope, OpenError, PageSize, PageSpan, SealError, Sealer,
    Version, sealed_len,
};
use cofferdam_keyring::LiveKey;
use cofferdam_vault::{WorkLost, executor};

use super::{
    Account, EngineError, Inner, Outcome, PutReceipt, admission::Admitted, telemetry, versions::Given,
    work_key::WorkKey,
};
use crate::{Applied, BlockMeta, BlockOp, BufferLimit, Located, StoreError, StoreErrorKind};

/// Up to this many bytes are sealed or opened where the caller runs; more is handed to a thread that may block.
pub(super) const INLINE: usize = 256 << 10;
/// How often a write asks for a newer version while somebody else's are in its way.
pub(super) const VERSION_TRIES: usize = 8;
/// How often a block is looked up that is replaced or drained each time before it is read.
const LOOKS: usize = 3;
/// How often a block is opened anew because a key lapsed meanwhile.
pub(super) const LAPSES: usize = 8;

/// What became of work with a key.
pub(super) enum Used<T> {
    Done(T),
    /// The key was taken away or ran out before the work, or before its end.
    Lapsed,
}

/// Blocks that are sealed and not yet committed.
struct Sealed {
    admitted: Admitted,
    ops: Vec<BlockOp>,
    outcome: Outcome,
}

impl Account {
    /// Seals a block and stores it; once this returns, it is durable. An older block of that id is replaced.
    ///
    /// While the account's key is unavailable the block is buffered, within the bounds of the buffer, and moved to the
    /// store once the key is back: the receipt says so. If the future is dropped, the block is stored or it is not,
    /// whole either way.
    ///
    /// # Errors
    /// [`EngineError::KeyRevoked`], [`EngineError::KeyUnavailable`], [`EngineError::BufferFull`],
    /// [`EngineError::BlockTooLarge`], [`EngineError::Store`].
    pub async fn put(&self, id: &BlockId, data: Bytes) -> Result<PutReceipt, EngineError> {
        let receipts = self.put_batch(vec![(id.clone(), data)]).await?;
        receipts.first().copied().ok_or(EngineError::Closed)
    }

    /// Seals and stores several blocks: all of them or none. Of two with one id the later wins.
    ///
    /// # Errors
    /// As [`Self::put`]; [`EngineError::BatchTooLarge`].
    pub async fn put_batch(&self, blocks: Vec<(BlockId, Bytes)>) -> Result<Vec<PutReceipt>, EngineError> {
        self.check_open().await?;
        let _under_way = self.engine.pace.foreground();
        let mut total = 0usize;
        for (_, data) in &blocks {
            total = total.saturating_add(self.sealed_len(data.len())?);
        }
        let max = self.engine.max_batch_len;
        if total > max {
            return Err(EngineError::BatchTooLarge { len: total, max });
        }
        // First, so that who waits for a vault keeps nobody else from writing.
        self.writing_key().await?;
        let mut admitted = self.engine.admission.admit(&self.shared.admission, total).await?;
        let blocks = Arc::new(blocks);
        for _ in 0..VERSION_TRIES {
            let versions = self.engine.versions_for(blocks.len()).await?;
            self.engine.be_live().await?;
            // Before the key is looked at: who changes the account's key waits for this write.
            let _entered = self.shared.gate.enter();
            let sealed = self.seal(admitted, blocks.clone(), total, versions).await?;
            if !self.engine.nodes.is_live() {
                admitted = sealed.admitted;
                continue;
            }
            let outcome = sealed.outcome;
            let receipts =
                sealed.ops.iter().map(|op| PutReceipt { version: op.version(), outcome }).collect();
            let applied;
            (admitted, applied) = match outcome {
                Outcome::Stored => (sealed.admitted, self.commit(sealed.ops).await?),
                Outcome::Buffered => self.commit_to_buffer(sealed).await?,
            };
            if applied.is_some() {
                if outcome == Outcome::Stored {
                    self.shared.sealed.fetch_add(total as u64, Ordering::Relaxed);
                }
                return Ok(receipts);
            }
        }
        Err(StoreError::new(StoreErrorKind::Conflict).into())
    }

    /// Seals blocks under the key of now. What was admitted goes with the work, which a dropped future does not end.
    async fn seal(
        &self,
        mut admitted: Admitted,
        blocks: Arc<Vec<(BlockId, Bytes)>>,
        total: usize,
        versions: Given,
    ) -> Result<Sealed, EngineError> {
        loop {
            let (key, outcome) = self.writing_key().await?;
            let key = match outcome {
                Outcome::Stored => WorkKey::Live(key),
                Outcome::Buffered => self.buffering_key(key).await?,
            };
            let (engine, account, blocks) = (self.engine.clone(), self.shared.id, blocks.clone());
            let work = move |key: &WorkKey| {
                let seal = |(n, (id, data)): (usize, &(BlockId, Bytes))| {
                    engine.seal(key, account, id, engine.version(versions, n), data, outcome)
                };
                (admitted, blocks.iter().enumerate().map(seal).collect::<Result<_, SealError>>())
            };
            match self.engine.with_keys(key, None, total, work).await? {
                Used::Done((still_admitted, ops)) => {
                    admitted = still_admitted;
                    // The last moment to learn that the account's key is back, or that it is revoked.
                    if outcome == Outcome::Stored || self.writing_key().await?.1 == Outcome::Buffered {
                        return Ok(Sealed { admitted, ops: ops?, outcome });
                    }
                }
                Used::Lapsed => admitted = self.engine.admission.admit(&self.shared.admission, total).await?,
            }
        }
    }

    /// Commits to the buffer and sees to it that it will be drained, even if the caller gives up meanwhile.
    async fn commit_to_buffer(
        &self,
        sealed: Sealed,
    ) -> Result<(Admitted, Option<Vec<Applied>>), EngineError> {
        let account = self.clone();
        let commit = tokio::spawn(async move {
            let applied = account.commit(sealed.ops).await;
            if let Err(EngineError::Store(e)) = &applied
                && e.kind() == StoreErrorKind::Corrupt
            {
                // Perhaps its segment's record is not ours any longer: the next write has another.
                account.engine.segments.forget(account.shared.id);
            }
            let applied = applied?;
            if let Some(applied) = &applied {
                telemetry::count_buffered(applied.len());
                account.engine.drains.buffered(&account.engine.0, account.shared.id);
            }
            Ok((sealed.admitted, applied))
        });
        commit.await.map_err(|_| WorkLost)?
    }

    /// Commits, unless somebody else's newer versions are in the way: then `None`, and newer ones are there to be had.
    ///
    /// What was superseded by a version that this engine wrote was written at the same time as that: it counts as written
    /// just before.
    pub(super) async fn commit(&self, ops: Vec<BlockOp>) -> Result<Option<Vec<Applied>>, EngineError> {
        let versions: Vec<Version> = ops.iter().map(BlockOp::version).collect();
        let applied = match self.engine.blocks.commit(ops).await {
            Ok(applied) => applied,
            Err(e) if e.kind() == StoreErrorKind::Conflict => {
                let last = self.engine.blocks.last_version().await?;
                self.engine.versions.seen(last);
                return Ok(None);
            }
            Err(e) if e.kind() == StoreErrorKind::BufferFull => {
                telemetry::count_refusal();
                return Err(self.buffer_full().await?);
            }
            Err(e) => return Err(e.into()),
        };
        let mut in_the_way = false;
        for (version, applied) in versions.into_iter().zip(&applied) {
            match applied {
                Applied::Written => self.engine.written.note(version),
                Applied::Superseded { by } => {
                    self.engine.versions.seen(*by);
                    in_the_way |= !self.engine.written.has(*by);
                }
                Applied::Deleted | Applied::Absent => {}
            }
        }
        Ok((!in_the_way).then_some(applied))
    }

    /// A block's bytes.
    ///
    /// # Errors
    /// [`EngineError::NoBlock`], [`EngineError::KeyRevoked`], [`EngineError::KeyUnavailable`],
    /// [`EngineError::Damaged`], [`EngineError::Store`].
    pub async fn get(&self, id: &BlockId) -> Result<Bytes, EngineError> {
        self.check_open().await?;
        let _under_way = self.engine.pace.foreground();
        self.engine.be_live().await?;
        self.owner().await?;
        self.get_whole(id).await
    }

    async fn get_whole(&self, id: &BlockId) -> Result<Bytes, EngineError> {
        let opened = self.get_as_fetched(id).await;
        if !self.is_cache_to_blame(id, &opened) {
            return opened;
        }
        let opened = self.get_as_fetched(id).await;
        // What the store has does not open either: it is of no use in the cache.
        self.is_cache_to_blame(id, &opened);
        opened
    }

    /// Whether a block did not open that was cached; it is no longer. The store's may open.
    fn is_cache_to_blame(&self, id: &BlockId, opened: &Result<Bytes, EngineError>) -> bool {
        matches!(opened, Err(EngineError::Damaged { .. })) && self.engine.distrust(self.shared.id, id)
    }

    async fn get_as_fetched(&self, id: &BlockId) -> Result<Bytes, EngineError> {
        for _ in 0..LOOKS {
            let (at, sealed) =
                self.engine.blocks.fetch(self.shared.id, id).await?.ok_or_else(|| self.no_block(id))?;
            let len = self.plaintext_len(id, &at.meta)?;
            let opened = self.open(id, &at, len, move |key, block| {
                let mut out = vec![0; len];
                key.open_to(block, &sealed, &mut out).map(|_| out)
            });
            // None: it was drained, or sealed anew, since it was looked up.
            if let Some(opened) = opened.await? {
                return Ok(opened);
            }
        }
        // Each time it is there and its segment, or its key, is not.
        Err(self.damaged(id))
    }

    /// Some of a block's bytes; opens only the pages they are in.
    ///
    /// # Errors
    /// [`EngineError::Range`] when the block doesn't have them; else as [`Self::get`].
    pub async fn get_range(&self, id: &BlockId, range: Range<u64>) -> Result<Bytes, EngineError> {
        self.check_open().await?;
        let _under_way = self.engine.pace.foreground();
        self.engine.be_live().await?;
        self.owner().await?;
        let outside = |len| EngineError::Range { block: id.clone(), range: range.clone(), len };
        for _ in 0..LOOKS {
            let at = self.engine.blocks.stat(self.shared.id, id).await?.ok_or_else(|| self.no_block(id))?;
            let meta = at.meta;
            let len = self.plaintext_len(id, &meta)? as u64;
            let span =
                PageSpan::locate(meta.sealed_len, meta.page_size, range.clone()).map_err(|_| outside(len))?;
            let parts = [0..HEADER_LEN as u64, span.bytes()];
            let read = self.engine.blocks.read(self.shared.id, id, &at, &parts).await?;
            // None: a newer version took its place since it was looked up, or it was drained.
            let Some(parts) = read else { continue };
            let [header, pages] = <[Bytes; 2]>::try_from(parts).map_err(|_| self.damaged(id))?;
            let wanted = usize::try_from(range.end - range.start).map_err(|_| self.damaged(id))?;
            let opened = self.open(id, &at, pages.len(), move |key, block| {
                let mut out = vec![0; wanted];
                key.open_span(block, &header, &span, &pages, &mut out).map(|_| out)
            });
            let Some(opened) = opened.await.transpose() else { continue };
            if !self.is_cache_to_blame(id, &opened) {
                return opened;
            }
        }
        // It is written faster than it can be looked up: take all of it in one snapshot.
        let whole = self.get_whole(id).await?;
        let wanted = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
        match wanted.filter(|(start, end)| start <= end && *end <= whole.len()) {
            Some((start, end)) => Ok(whole.slice(start..end)),
            None => Err(outside(whole.len() as u64)),
        }
    }

    /// Opens what was read of a block under the key that sealed it; `None` when the block's segment, or that key,
    /// is gone.
    async fn open(
        &self,
        id: &BlockId,
        at: &Located,
        len: usize,
        open: impl Fn(&Sealer, BlockRef<'_>) -> Result<Vec<u8>, OpenError> + Send + Sync + 'static,
    ) -> Result<Option<Bytes>, EngineError> {
        let open = Arc::new(open);
        for _ in 0..LAPSES {
            let Some(key) = self.opening_key(id, &at.meta).await? else { return Ok(None) };
            // What is buffered is the account's all the same: without its own key, the service's opens nothing. Nor, while it is
            // linked, what was stored before.
            let owner = self.owner_of(at).await?;
            let (open, id_of_block, version) = (open.clone(), id.clone(), at.meta.version);
            let work = move |key: &WorkKey| open(key, id_of_block.at(version));
            if let Used::Done(opened) = self.engine.with_keys(key, owner, len, work).await? {
                return opened.map(|bytes| Some(bytes.into())).map_err(|_| self.damaged(id));
            }
        }
        // Each time there was a key, and each time it was gone before its use: there is no room for it.
        Err(self.overdue(at.meta.provider))
    }
}

impl Inner {
    /// Works with a key: at once where it is short, else on a thread, where it may have to wait. What waited uses the
    /// key, and its result is used, only if the key was not taken away meanwhile; the same goes for the key of the
    /// data's `owner`, where that is another.
    pub(super) async fn with_keys<T: Send + 'static>(
        &self,
        key: WorkKey,
        owner: Option<LiveKey>,
        len: usize,
        work: impl FnOnce(&WorkKey) -> T + Send + 'static,
    ) -> Result<Used<T>, EngineError> {
        if len <= INLINE && owner.is_none() {
            return Ok(Used::Done(work(&key)));
        }
        let work = move || {
            let usable = || key.still_usable() && owner.as_ref().is_none_or(LiveKey::still_usable);
            if !usable() {
                return Used::Lapsed;
            }
            let done = work(&key);
            if usable() { Used::Done(done) } else { Used::Lapsed }
        };
        if len <= INLINE { Ok(work()) } else { Ok(executor::run(&*self.executor, work).await?) }
    }

    /// Seals one block into the operation that stores or buffers it.
    fn seal(
        &self,
        key: &WorkKey,
        account: AccountId,
        id: &BlockId,
        version: Version,
        data: &[u8],
        outcome: Outcome,
    ) -> Result<BlockOp, SealError> {
        let now = self.clock.now().wall;
        let (meta, sealed) = self.seal_as(key, id, version, self.page_size, now, data)?;
        let id = id.clone();
        Ok(match outcome {
            Outcome::Stored => BlockOp::Put { account, id, meta, sealed },
            Outcome::Buffered => {
                let since = now.saturating_sub(self.buffer.max_time);
                let limit = BufferLimit { bytes: self.buffer.max_bytes, since };
                let segment = key.segment_record().cloned();
                BlockOp::Buffer { account, id, meta, sealed, limit, segment }
            }
        })
    }

    /// Seals a buffered block anew into the operation that drains it.
    pub(super) fn reseal(
        &self,
        key: &Sealer,
        account: AccountId,
        id: &BlockId,
        meta: &BlockMeta,
        plain: &[u8],
    ) -> Result<BlockOp, SealError> {
        let (meta, sealed) = self.seal_as(key, id, meta.version, meta.page_size, meta.stored_at, plain)?;
        let at = self.clock.now().wall;
        Ok(BlockOp::Drain { account, id: id.clone(), meta, sealed, at })
    }

    /// Seals a stored block anew into the operation that replaces it, under the same version.
    pub(super) fn seal_anew(
        &self,
        key: &Sealer,
        account: AccountId,
        id: &BlockId,
        meta: &BlockMeta,
        plain: &[u8],
    ) -> Result<BlockOp, SealError> {
        let (meta, sealed) = self.seal_as(key, id, meta.version, meta.page_size, meta.stored_at, plain)?;
        Ok(BlockOp::Reseal { account, id: id.clone(), meta, sealed })
    }

    /// Seals a block under this version, with what is known of it then.
    pub(super) fn seal_as(
        &self,
        key: &Sealer,
        id: &BlockId,
        version: Version,
        page_size: PageSize,
        stored_at: Duration,
        data: &[u8],
    ) -> Result<(BlockMeta, Bytes), SealError> {
        let mut sealed = vec![0; sealed_len(data.len() as u64, page_size)? as usize];
        key.seal_to(id.at(version), page_size, data, &mut sealed, self.keyring.salts())?;
        let (sealed_len, &KeyScope { epoch, provider, .. }) = (sealed.len() as u64, key.scope());
        Ok((BlockMeta { version, sealed_len, page_size, stored_at, epoch, provider }, sealed.into()))
    }
}
