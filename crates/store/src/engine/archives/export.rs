//! Writing an account into an archive.
//!
//! Guarantees: each block is in it in one of the versions that it had meanwhile, whole, and none is missed that was there all
//! the time; nothing is opened. What could be forged in the store (the account's record, the records of segments) was
//! found genuine first, since the archive's tags vouch for it. The key versions that can unwrap the archive are in the
//! ledger before it names them.
//!
//! Invariant: who looks for what needs a version looks at records and segments first and at the ledger after that; an
//! export writes the ledger first and reads them after that. So one of the two sees the other.
//!
//! Not its job: to read it back (`import`).

use std::collections::BTreeSet;

use cofferdam_crypto::{BlockId, Epoch, KeyId, Provider, SegmentId};
use cofferdam_keyring::{KeyError, LiveKey};
use tokio::io::AsyncWrite;

use super::{AccountPart, ArchiveEntry, ArchiveId, ArchiveReport};
use crate::{
    ArchiveCounts, ArchiveError, BlockMeta, Place,
    archive::{ArchiveWriter, Signatory},
    engine::{
        Account, EngineError,
        account_record::{AccountRecord, Stage},
        current_key::key_error,
        segments::SegmentFault,
    },
};

/// How many blocks are looked up at once.
const PAGE: usize = 256;
/// How often something is looked up that is changed each time before it is read.
const LOOKS: usize = 8;

impl Account {
    /// Writes the account into an archive: its blocks as they are sealed, and what is needed to unwrap its keys. Writes and
    /// drains may go on meanwhile. Needs the account's key and the service's, to authenticate it.
    ///
    /// The archive is in the account's ledger from the beginning, until [`Self::forget_archive`]: an export whose future is
    /// dropped is there too, as not finished. Making the file durable is the caller's.
    ///
    /// # Errors
    /// [`EngineError::KeyRevoked`], [`EngineError::KeyUnavailable`], [`EngineError::AccountDeleted`],
    /// [`EngineError::Archive`] when the file can't be written, or the account's key was rotated meanwhile;
    /// [`EngineError::Damaged`], [`EngineError::Store`].
    pub async fn export<W: AsyncWrite + Unpin + Send>(&self, out: W) -> Result<ArchiveReport, EngineError> {
        self.engine.check_open()?;
        let id = ArchiveId::random(&*self.engine.entropy)?;
        match self.export_as(id, out).await {
            Ok(report) => {
                tracing::info!(
                    target: "cofferdam::audit", account = %self.name(), archive = %id,
                    blocks = report.counts.stored + report.counts.buffered, "an account was exported"
                );
                Ok(report)
            }
            Err(e) => {
                // What is left of the file is no archive.
                let _ = self.engine.ledger.forget(self.id(), id).await;
                Err(e)
            }
        }
    }

    /// The archives of the account that are recorded.
    ///
    /// # Errors
    /// [`EngineError::Store`].
    pub async fn archives(&self) -> Result<Vec<ArchiveEntry>, EngineError> {
        self.engine.check_open()?;
        self.engine.ledger.of(self.id()).await
    }

    /// Takes an archive out of the ledger, once no copy of it is left: its keys are not kept for it any longer.
    ///
    /// # Errors
    /// [`EngineError::NoArchive`], [`EngineError::Store`].
    pub async fn forget_archive(&self, id: ArchiveId) -> Result<(), EngineError> {
        self.engine.check_open()?;
        if self.engine.ledger.forget(self.id(), id).await? {
            tracing::info!(target: "cofferdam::audit", account = %self.name(), archive = %id, "an archive is forgotten");
            return Ok(());
        }
        Err(EngineError::NoArchive { archive: id.to_string() })
    }

    async fn export_as<W: AsyncWrite + Unpin + Send>(
        &self,
        id: ArchiveId,
        out: W,
    ) -> Result<ArchiveReport, EngineError> {
        let now = self.engine.clock.now().wall;
        let mut entry = ArchiveEntry::new(id, self.id(), now);
        let record = self.record_in_ledger(&mut entry).await?;
        // Also to find out at once whether the keys can be had that are needed at the end.
        self.signing_keys(&record).await?;

        let part = AccountPart {
            archive: id,
            account: self.id(),
            exported_at_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
            record,
        };
        let bytes = serde_json::to_vec(&part).map_err(|e| self.shared.bad_record(e))?;
        let out = ArchiveWriter::start(out, &bytes).await?;
        let mut export = Export { account: self, entry, record: part.record, out, segments: BTreeSet::new() };
        export.buffered().await?;
        export.stored().await?;
        let (mut entry, counts) = export.finish().await?;
        entry.finished = true;
        self.engine.ledger.note(&entry).await?;
        Ok(ArchiveReport { id, counts, keys: entry.keys })
    }

    /// The account's record, all of whose key versions are in the ledger.
    async fn record_in_ledger(&self, entry: &mut ArchiveEntry) -> Result<AccountRecord, EngineError> {
        loop {
            let (verified, _) = self.engine.verified(self.name()).await?;
            let record = verified.record;
            if record.id != self.id() {
                return Err(EngineError::NoAccount { account: self.name().clone() });
            }
            if let Stage::Deleted { until, .. } = record.stage {
                return Err(EngineError::AccountDeleted { account: self.name().clone(), until });
            }
            let mut is_new = false;
            for key_id in key_ids(&record) {
                is_new |= entry.add(key_id);
            }
            if !is_new {
                return Ok(record);
            }
            self.engine.ledger.note(entry).await?;
        }
    }

    /// The keys that authenticate an archive: the customer's where the account is linked, and the service's.
    async fn signing_keys(&self, record: &AccountRecord) -> Result<Vec<LiveKey>, EngineError> {
        let customer = record.customer.as_ref().filter(|_| record.linked).and_then(|of| of.epochs.last());
        let mut keys = Vec::with_capacity(2);
        for of in [customer, record.service.last()].into_iter().flatten() {
            keys.push(self.signing_key(of.scope.provider, of.scope.epoch).await?);
        }
        Ok(keys)
    }

    async fn signing_key(&self, provider: Provider, epoch: Epoch) -> Result<LiveKey, EngineError> {
        for _ in 0..LOOKS {
            match self.engine.keyring.opening_key(self.id(), provider, epoch).await {
                // The record is newer than what is held.
                Err(KeyError::UnknownEpoch(_)) => self.engine.reload(self.id()).await?,
                key => return key.map_err(|e| key_error(self.name(), e)),
            }
        }
        Err(rotated())
    }
}

/// An archive that is being written.
struct Export<'a, W> {
    account: &'a Account,
    entry: ArchiveEntry,
    record: AccountRecord,
    out: ArchiveWriter<W>,
    /// Those that are written.
    segments: BTreeSet<SegmentId>,
}

impl<W: AsyncWrite + Unpin + Send> Export<'_, W> {
    /// The buffer first: a drain moves blocks from there to the store, so none is missed.
    async fn buffered(&mut self) -> Result<(), EngineError> {
        let mut after = None;
        loop {
            let blocks = &self.account.engine.blocks;
            let page = blocks.buffered(self.account.id(), after.as_ref(), PAGE).await?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(last.clone());
            for (id, _) in &page {
                self.buffered_block(id).await?;
            }
        }
    }

    async fn buffered_block(&mut self, id: &BlockId) -> Result<(), EngineError> {
        let account = self.account;
        for _ in 0..LOOKS {
            let fetched = account.engine.blocks.fetch(account.id(), id).await?;
            // Drained since, or deleted. What is stored of it has its turn later.
            let Some((at, sealed)) = fetched.filter(|(at, _)| at.place == Place::Buffer) else {
                return Ok(());
            };
            if let Provider::Buffer(segment) = at.meta.provider
                && !self.segment(segment, id).await?
            {
                continue;
            }
            self.check(id, &at.meta).await?;
            return Ok(self.out.block(Place::Buffer, id, &at.meta, &sealed).await?);
        }
        // Each time it is there and its segment is not.
        Err(account.damaged(id))
    }

    /// Whether the segment is written: `false` when it is gone, and its blocks with it.
    async fn segment(&mut self, segment: SegmentId, of: &BlockId) -> Result<bool, EngineError> {
        let (engine, account) = (&self.account.engine, self.account.id());
        while !self.segments.contains(&segment) {
            let Some(row) = engine.blocks.segment(account, segment).await? else { return Ok(false) };
            let genuine = match engine.genuine(account, segment, &row.record).await {
                Ok(genuine) => genuine,
                Err(SegmentFault::Key(e) | SegmentFault::ServiceKey(e)) => {
                    return Err(key_error(self.account.name(), e));
                }
                Err(_) => return Err(self.account.damaged(of)),
            };
            let mut is_new = false;
            for wrap in &genuine.key.wraps {
                is_new |= self.entry.add(&wrap.key_id);
            }
            if is_new {
                // Then it is read again.
                engine.ledger.note(&self.entry).await?;
                continue;
            }
            self.out.segment(segment, &row.record).await?;
            self.segments.insert(segment);
        }
        Ok(true)
    }

    async fn stored(&mut self) -> Result<(), EngineError> {
        let mut after = None;
        loop {
            let blocks = &self.account.engine.blocks;
            let page = blocks.stored(self.account.id(), after.as_ref(), PAGE).await?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(last.clone());
            for (id, _) in &page {
                let fetched = self.account.engine.blocks.fetch_stored(self.account.id(), id).await?;
                // None: deleted since.
                let Some((meta, sealed)) = fetched else { continue };
                self.check(id, &meta).await?;
                self.out.block(Place::Store, id, &meta, &sealed).await?;
            }
        }
    }

    /// Refuses a block under an epoch that the archive has no wrap of.
    async fn check(&self, id: &BlockId, meta: &BlockMeta) -> Result<(), EngineError> {
        if has_epoch(&self.record, meta) {
            return Ok(());
        }
        let (verified, _) = self.account.engine.verified(self.account.name()).await?;
        if has_epoch(&verified.record, meta) { Err(rotated()) } else { Err(self.account.damaged(id)) }
    }

    async fn finish(self) -> Result<(ArchiveEntry, ArchiveCounts), EngineError> {
        // Blocks may be gone for another reason than that somebody deleted them.
        let (verified, _) = self.account.engine.verified(self.account.name()).await?;
        if let Stage::Deleted { until, .. } = verified.record.stage {
            return Err(EngineError::AccountDeleted { account: self.account.name().clone(), until });
        }
        let keys = self.account.signing_keys(&self.record).await?;
        let by: Vec<_> =
            keys.iter().map(|key| Signatory { scope: *key.scope(), key: key.record_key() }).collect();
        let counts = self.out.finish(&by).await?;
        Ok((self.entry, counts))
    }
}

/// Every version that an account's keys are wrapped under.
pub(super) fn key_ids(record: &AccountRecord) -> impl Iterator<Item = &KeyId> {
    let customer = record.customer.iter().flat_map(|customer| &customer.epochs);
    customer.chain(&record.service).flat_map(|epoch| &epoch.wraps).map(|wrap| &wrap.key_id)
}

fn has_epoch(record: &AccountRecord, meta: &BlockMeta) -> bool {
    let epochs = match meta.provider {
        Provider::Customer => record.customer.as_ref().map_or(&[][..], |customer| &customer.epochs),
        Provider::Service => &record.service,
        // Of a segment's block the segment was looked at.
        Provider::Buffer(_) => return true,
    };
    epochs.iter().any(|of| of.scope.epoch == meta.epoch)
}

fn rotated() -> EngineError {
    let reason = "the account's keys were changed while it was written: export it again".into();
    EngineError::Archive(ArchiveError::Unfit { reason })
}
