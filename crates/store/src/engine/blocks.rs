//! Writing and reading an account's blocks.
//!
//! Guarantees: a key is used only while the keyring lets it be, also by work that had to wait for a thread; a read
//! that does not open gives nothing; a put is acknowledged only for what a later read finds.

use std::{
    ops::Range,
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;
use cofferdam_crypto::{
    AccountId, BlockId, BlockRef, HEADER_LEN, OpenError, PageSpan, SealError, sealed_len,
};
use cofferdam_keyring::LiveKey;
use cofferdam_vault::executor;

use super::{Account, EngineError, Inner, Outcome, PutReceipt, admission::Admitted};
use crate::{Applied, BlockMeta, BlockOp, Located, StoreError, StoreErrorKind};

/// Up to this many bytes are sealed or opened where the caller runs; more is handed to a thread that may block.
const INLINE: usize = 256 << 10;
/// How often a write asks for a newer version while somebody else's are in its way.
pub(super) const VERSION_TRIES: usize = 8;
/// How often a range is looked up again because its block was replaced meanwhile.
const RANGE_TRIES: usize = 3;

/// What became of work with a key.
enum Used<T> {
    Done(T),
    /// The key was taken away or ran out before the work, or before its end.
    Lapsed,
}

impl Account {
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
    /// As [`Self::put`]; [`EngineError::BatchTooLarge`].
    pub async fn put_batch(&self, blocks: Vec<(BlockId, Bytes)>) -> Result<Vec<PutReceipt>, EngineError> {
        self.engine.check_open()?;
        let mut total = 0usize;
        for (_, data) in &blocks {
            total = total.saturating_add(self.sealed_len(data.len())?);
        }
        let max = self.engine.max_batch_len;
        if total > max {
            return Err(EngineError::BatchTooLarge { len: total, max });
        }
        // First, so that who waits for a vault keeps nobody else from writing.
        self.sealing_key().await?;
        let mut admitted = self.engine.admission.admit(&self.shared.admission, total).await?;
        let blocks = Arc::new(blocks);
        for _ in 0..VERSION_TRIES {
            let ops;
            (admitted, ops) = self.seal(admitted, blocks.clone(), total).await?;
            let receipts =
                ops.iter().map(|op| PutReceipt { version: op.version(), outcome: Outcome::Stored }).collect();
            if self.commit(ops).await?.is_some() {
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
    ) -> Result<(Admitted, Vec<BlockOp>), EngineError> {
        loop {
            let key = self.sealing_key().await?;
            let (engine, account, blocks) = (self.engine.clone(), self.shared.id, blocks.clone());
            let work = move |key: &LiveKey| {
                let seal = |(id, data): &(BlockId, Bytes)| engine.seal(key, account, id, data);
                (admitted, blocks.iter().map(seal).collect::<Result<_, SealError>>())
            };
            match self.with_key(key, total, work).await? {
                Used::Done((admitted, ops)) => return Ok((admitted, ops?)),
                Used::Lapsed => admitted = self.engine.admission.admit(&self.shared.admission, total).await?,
            }
        }
    }

    /// Commits, unless somebody else's newer versions are in the way: then `None`, and newer ones are there to be had.
    ///
    /// What was superseded by a version of this engine's own was written at the same time as that: it counts as
    /// written just before.
    pub(super) async fn commit(&self, ops: Vec<BlockOp>) -> Result<Option<Vec<Applied>>, EngineError> {
        let applied = match self.engine.blocks.commit(ops).await {
            Ok(applied) => applied,
            Err(e) if e.kind() == StoreErrorKind::Conflict => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let mut in_the_way = false;
        for op in &applied {
            if let Applied::Superseded { by } = op {
                in_the_way |=
                    self.engine.last_version.fetch_max(by.number(), Ordering::Relaxed) < by.number();
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
        self.engine.check_open()?;
        self.sealing_key().await?;
        let (Located { meta, .. }, sealed) =
            self.engine.blocks.fetch(self.shared.id, id).await?.ok_or_else(|| self.no_block(id))?;
        let len = self.plaintext_len(id, &meta)?;
        self.open(id, &meta, len, move |key, block| {
            let mut out = vec![0; len];
            key.open_to(block, &sealed, &mut out).map(|_| out)
        })
        .await
    }

    /// Some of a block's bytes; opens only the pages they are in.
    ///
    /// # Errors
    /// [`EngineError::Range`] when the block doesn't have them; else as [`Self::get`].
    pub async fn get_range(&self, id: &BlockId, range: Range<u64>) -> Result<Bytes, EngineError> {
        self.engine.check_open()?;
        self.sealing_key().await?;
        let outside = |len| EngineError::Range { block: id.clone(), range: range.clone(), len };
        for _ in 0..RANGE_TRIES {
            let found =
                self.engine.blocks.stat(self.shared.id, id).await?.ok_or_else(|| self.no_block(id))?;
            let meta = found.meta;
            let len = self.plaintext_len(id, &meta)? as u64;
            let span =
                PageSpan::locate(meta.sealed_len, meta.page_size, range.clone()).map_err(|_| outside(len))?;
            let parts = [0..HEADER_LEN as u64, span.bytes()];
            let read = self.engine.blocks.read(self.shared.id, id, &found, &parts).await?;
            // None: a newer version took its place since it was looked up.
            let Some(parts) = read else { continue };
            let [header, pages] = <[Bytes; 2]>::try_from(parts).map_err(|_| self.damaged(id))?;
            let wanted = usize::try_from(range.end - range.start).map_err(|_| self.damaged(id))?;
            return self
                .open(id, &meta, pages.len(), move |key, block| {
                    let mut out = vec![0; wanted];
                    key.open_span(block, &header, &span, &pages, &mut out).map(|_| out)
                })
                .await;
        }
        // It is written faster than it can be looked up: take all of it in one snapshot.
        let whole = self.get(id).await?;
        let wanted = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
        match wanted.filter(|(start, end)| start <= end && *end <= whole.len()) {
            Some((start, end)) => Ok(whole.slice(start..end)),
            None => Err(outside(whole.len() as u64)),
        }
    }

    /// Opens what was read of a block under the key that sealed it.
    async fn open(
        &self,
        id: &BlockId,
        meta: &BlockMeta,
        len: usize,
        open: impl Fn(&LiveKey, BlockRef<'_>) -> Result<Vec<u8>, OpenError> + Send + Sync + 'static,
    ) -> Result<Bytes, EngineError> {
        let open = Arc::new(open);
        loop {
            let key = self.opening_key(id, meta).await?;
            let (open, id_of_block, version) = (open.clone(), id.clone(), meta.version);
            let work = move |key: &LiveKey| open(key, id_of_block.at(version));
            if let Used::Done(opened) = self.with_key(key, len, work).await? {
                return opened.map(Bytes::from).map_err(|_| self.damaged(id));
            }
        }
    }

    /// Works with a key: at once where it is short, else on a thread, where it may have to wait. What waited uses the
    /// key, and its result is used, only if the key was not taken away meanwhile.
    async fn with_key<T: Send + 'static>(
        &self,
        key: LiveKey,
        len: usize,
        work: impl FnOnce(&LiveKey) -> T + Send + 'static,
    ) -> Result<Used<T>, EngineError> {
        if len <= INLINE {
            return Ok(Used::Done(work(&key)));
        }
        let work = move || {
            if !key.still_usable() {
                return Used::Lapsed;
            }
            let done = work(&key);
            if key.still_usable() { Used::Done(done) } else { Used::Lapsed }
        };
        Ok(executor::run(&*self.engine.executor, work).await?)
    }
}

impl Inner {
    /// Seals one block into the operation that stores it.
    fn seal(
        &self,
        key: &LiveKey,
        account: AccountId,
        id: &BlockId,
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
        Ok(BlockOp::Put { account, id: id.clone(), meta, sealed: sealed.into() })
    }
}
