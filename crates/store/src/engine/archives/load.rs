//! Storing the blocks of an archive.
//!
//! Guarantees: a block of the store is stored as it is sealed, under its own version. A block of the buffer is sealed under the
//! account's own key, which is there now, and stored under its own version too. Where another block of this store has that
//! version, it is sealed anew under a fresh one. A key is used for as long after its vault gave it as a keyring would.
//!
//! Not its job: to say when the account is there (`import`).

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use cofferdam_crypto::{
    BlockId, Epoch, KeyScope, Provider, ProviderKind, SealError, Sealer, SegmentId, Version, plaintext_len,
};
use cofferdam_vault::{Timestamp, executor};
use tokio::io::{AsyncRead, AsyncSeek};
use zeroize::Zeroizing;

use super::{ImportOptions, keys};
use crate::{
    BlockMeta, BlockOp, Place, StoreError, StoreErrorKind,
    archive::{ArchiveRecord, Loading},
    engine::{
        EngineError, Inner,
        account_record::AccountRecord,
        blocks::{INLINE, VERSION_TRIES},
        kek,
        segment_record::{SegmentRecord, UnverifiedSegment},
    },
};

/// Up to so many sealed bytes are stored in one commit; a larger block goes alone.
const BATCH_BYTES: usize = 1 << 20;
/// Up to so many blocks.
const BATCH: usize = 128;

/// What was done.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub(super) drained: u64,
    pub(super) renumbered: u64,
}

/// What is being loaded, and under which keys.
pub(super) struct Load<'a> {
    pub(super) engine: &'a Arc<Inner>,
    pub(super) options: &'a ImportOptions,
    /// As the archive has it.
    pub(super) old: &'a AccountRecord,
    /// As it will be here.
    pub(super) record: &'a AccountRecord,
    keys: Keys,
    batch: Vec<BlockOp>,
    bytes: usize,
    loaded: Loaded,
}

/// Keys that vaults have unwrapped, until they are too old.
#[derive(Default)]
struct Keys {
    account: BTreeMap<(ProviderKind, Epoch), Arc<Sealer>>,
    since: Option<Timestamp>,
    segments: BTreeMap<SegmentId, Segment>,
}

/// A segment of the archive, and its key while that was unwrapped of late.
struct Segment {
    record: SegmentRecord,
    key: Option<(Arc<Sealer>, Timestamp)>,
}

impl<'a> Load<'a> {
    pub(super) fn new(
        engine: &'a Arc<Inner>,
        options: &'a ImportOptions,
        old: &'a AccountRecord,
        record: &'a AccountRecord,
    ) -> Self {
        let (keys, loaded) = (Keys::default(), Loaded::default());
        Self { engine, options, old, record, keys, batch: Vec::new(), bytes: 0, loaded }
    }

    /// Stores all that the archive holds.
    pub(super) async fn all<R: AsyncRead + AsyncSeek + Unpin>(
        mut self,
        archive: &mut Loading<R>,
    ) -> Result<Loaded, EngineError> {
        while let Some(record) = archive.next().await? {
            self.engine.check_open()?;
            match record {
                ArchiveRecord::Segment { id, record } => self.segment(id, &record)?,
                ArchiveRecord::Block { place: Place::Store, id, meta, sealed } => {
                    self.put(id, meta, sealed).await?;
                }
                ArchiveRecord::Block { place: Place::Buffer, id, meta, sealed } => {
                    let (meta, sealed) = self.seal_anew(&id, &meta, sealed, meta.version).await?;
                    self.loaded.drained += 1;
                    self.put(id, meta, sealed).await?;
                }
            }
        }
        self.commit().await?;
        Ok(self.loaded)
    }

    fn segment(&mut self, id: SegmentId, bytes: &[u8]) -> Result<(), EngineError> {
        // Its tag was checked when it was exported; the archive's, which was checked here, vouches for that.
        let read = UnverifiedSegment::parse(self.old.id, id, bytes).map_err(|reason| self.old.bad(reason))?;
        self.keys.segments.insert(id, Segment { record: read.unverified().clone(), key: None });
        Ok(())
    }

    async fn put(&mut self, id: BlockId, meta: BlockMeta, sealed: Bytes) -> Result<(), EngineError> {
        if self.batch.len() == BATCH || self.bytes.saturating_add(sealed.len()) > BATCH_BYTES {
            self.commit().await?;
        }
        self.bytes += sealed.len();
        self.batch.push(BlockOp::Put { account: self.old.id, id, meta, sealed });
        Ok(())
    }

    async fn commit(&mut self) -> Result<(), EngineError> {
        self.bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        let Some(highest) = batch.iter().map(BlockOp::version).max() else { return Ok(()) };
        self.engine.versions.seen(highest);
        match self.engine.blocks.commit(batch.clone()).await {
            Ok(_) => return Ok(()),
            // Some block of it has another's version, or was there in the buffer: one after the other.
            Err(e) if e.kind() == StoreErrorKind::Conflict => {}
            Err(e) => return Err(e.into()),
        }
        for op in batch {
            self.commit_one(op).await?;
        }
        Ok(())
    }

    async fn commit_one(&mut self, op: BlockOp) -> Result<(), EngineError> {
        let BlockOp::Put { account, id, meta, sealed } = &op else { return Ok(()) };
        let (account, mut op) = (*account, op.clone());
        for _ in 0..VERSION_TRIES {
            match self.engine.blocks.commit(vec![op]).await {
                // Also where what was buffered of it is newer, and is there already.
                Ok(_) => return Ok(()),
                Err(e) if e.kind() == StoreErrorKind::Conflict => {
                    let last = self.engine.blocks.last_version().await?;
                    self.engine.versions.seen(last);
                }
                Err(e) => return Err(e.into()),
            }
            let version = self.engine.version(self.engine.versions_for(1).await?, 0);
            let (meta, sealed) = self.seal_anew(id, meta, sealed.clone(), version).await?;
            self.loaded.renumbered += 1;
            op = BlockOp::Put { account, id: id.clone(), meta, sealed };
        }
        Err(StoreError::new(StoreErrorKind::Conflict).into())
    }

    /// Opens a block and seals it anew, under the newest epoch of the account's customer, or of the service where it has
    /// none.
    async fn seal_anew(
        &mut self,
        id: &BlockId,
        meta: &BlockMeta,
        sealed: Bytes,
        version: Version,
    ) -> Result<(BlockMeta, Bytes), EngineError> {
        let from = match meta.provider {
            Provider::Buffer(segment) => self.segment_key(segment, id).await?,
            provider => self.key(provider.kind(), meta.epoch, id).await?,
        };
        let of = match (&self.record.customer, meta.provider) {
            (Some(customer), Provider::Customer | Provider::Buffer(_)) => &customer.epochs,
            (Some(customer), Provider::Service) if self.record.linked => &customer.epochs,
            _ => &self.record.service,
        };
        let to = of.last().map(|of| (of.scope.provider.kind(), of.scope.epoch));
        let (kind, epoch) = to.ok_or_else(|| self.damaged(id))?;
        let to = self.key(kind, epoch, id).await?;

        let len = plaintext_len(meta.sealed_len, meta.page_size).ok();
        let len = len.and_then(|len| usize::try_from(len).ok()).ok_or_else(|| self.damaged(id))?;
        let (engine, block, meta) = (self.engine.clone(), id.clone(), *meta);
        let work = move || -> Result<_, Failed> {
            let mut plain = Zeroizing::new(vec![0; len]);
            from.open_to(block.at(meta.version), &sealed, &mut plain).map_err(|_| Failed::Open)?;
            let anew = engine.seal_as(&to, &block, version, meta.page_size, meta.stored_at, &plain);
            anew.map_err(Failed::Seal)
        };
        let done = if meta.sealed_len <= INLINE as u64 {
            work()
        } else {
            executor::run(&*self.engine.executor, work).await?
        };
        done.map_err(|e| match e {
            Failed::Open => self.damaged(id),
            Failed::Seal(e) => e.into(),
        })
    }

    /// The account's key of an epoch, as its record has it here.
    async fn key(
        &mut self,
        kind: ProviderKind,
        epoch: Epoch,
        of: &BlockId,
    ) -> Result<Arc<Sealer>, EngineError> {
        let now = self.engine.clock.now();
        let is_fresh = |since: Timestamp| now.since(&since) < self.engine.policy.refresh();
        if !self.keys.since.is_some_and(is_fresh) {
            self.keys.account = self.unwrap().await?;
            self.keys.since = Some(now);
        }
        self.keys.account.get(&(kind, epoch)).cloned().ok_or_else(|| self.damaged(of))
    }

    async fn unwrap(&self) -> Result<BTreeMap<(ProviderKind, Epoch), Arc<Sealer>>, EngineError> {
        let (engine, record) = (self.engine, self.record);
        let mut keys = BTreeMap::new();
        let mut keep = |aeks: Vec<cofferdam_crypto::Aek>, epochs: &[cofferdam_crypto::WrappedAek]| {
            for (aek, of) in aeks.iter().zip(epochs) {
                let of: KeyScope = of.scope;
                keys.insert((of.provider.kind(), of.epoch), Arc::new(Sealer::new(aek, of)));
            }
        };
        if let Some(customer) = &record.customer
            && let Some(kek) = customer.keks.first()
        {
            let vault = kek::vault_of(engine, &record.name, &kek.principal)?;
            keep(kek::unwrap_all(engine, vault, &kek.key_id, &customer.epochs).await?, &customer.epochs);
        }
        if let Some(wrap) = record.service.last().and_then(|of| of.wraps.first()) {
            let vault = engine.vaults.service();
            keep(kek::unwrap_all(engine, vault, &wrap.key_id, &record.service).await?, &record.service);
        }
        Ok(keys)
    }

    /// The key of a segment, from a vault that may be asked for the archive's keys.
    async fn segment_key(&mut self, segment: SegmentId, of: &BlockId) -> Result<Arc<Sealer>, EngineError> {
        let now = self.engine.clock.now();
        let refresh = self.engine.policy.refresh();
        let Some(Segment { record, key }) = self.keys.segments.get(&segment) else {
            return Err(self.damaged(of));
        };
        if let Some((key, since)) = key
            && now.since(since) < refresh
        {
            return Ok(key.clone());
        }
        let wrapped = record.key.clone();
        let mut refused = Vec::new();
        for wrap in &wrapped.wraps {
            for kek in self.old.customer.iter().flat_map(|customer| &customer.keks) {
                // The version may be one of before: it is in the vault that has the KEK.
                let vault = match keys::vault_of(self.engine, self.options, kek) {
                    Ok((_, vault)) => vault,
                    Err(why) => {
                        refused.push(keys::RefusedKek::of_wrap(wrap, kek, why));
                        continue;
                    }
                };
                let one = std::slice::from_ref(&wrapped);
                match kek::unwrap_all(self.engine, vault, &wrap.key_id, one).await {
                    Ok(aeks) => {
                        let Some(aek) = aeks.first() else { return Err(self.damaged(of)) };
                        let key = Arc::new(Sealer::new(aek, wrapped.scope));
                        if let Some(held) = self.keys.segments.get_mut(&segment) {
                            held.key = Some((key.clone(), now));
                        }
                        return Ok(key);
                    }
                    Err(EngineError::Vault { source, .. }) => {
                        let why = keys::Refusal::Vault(source);
                        refused.push(keys::RefusedKek::of_wrap(wrap, kek, why));
                    }
                    Err(e) => return Err(e),
                }
            }
        }
        Err(EngineError::NotImportable { account: self.record.name.clone(), refused })
    }

    fn damaged(&self, id: &BlockId) -> EngineError {
        EngineError::Damaged { account: self.record.name.clone(), block: id.clone() }
    }
}

/// Why a block was not sealed anew.
enum Failed {
    Open,
    Seal(SealError),
}
