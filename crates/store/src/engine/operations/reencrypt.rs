//! Sealing an account's blocks anew under its newest key, and giving up the older ones.
//!
//! Guarantees: a block is opened and sealed only while both keys may be used, keeps its version, and is replaced whole or
//! not at all, and only if nobody wrote it anew meanwhile. A key's wraps are destroyed only after a whole pass found nothing
//! that is sealed under it, in the store or in the buffer; none of an account that has objects outside the store, which
//! nobody here can go through. Foreground work goes first, as beside a drain. After a restart it
//! goes on where it was.
//!
//! Not its job: that nobody seals under an older key any longer: that is waited for before (`announce`).

use std::{sync::Arc, time::Duration};

use cofferdam_crypto::planted::{Bug, is_planted};
use cofferdam_crypto::{BlockId, Epoch, Provider, plaintext_len};
use data_encoding::HEXLOWER;
use tokio::time::{Instant, sleep};
use zeroize::Zeroizing;

use super::{
    OperationKind,
    row::Begun,
    runner::{Stop, Task, stop},
};
use crate::{
    Applied, BlockMeta, BlockOp,
    engine::{
        EngineError, Inner,
        account_record::AccountRecord,
        blocks::Used,
        current_key::key_error,
        drain::{PAGE, Row, batch_len},
        work_key::WorkKey,
    },
};

/// How many blocks are done, or how much time is gone, between two notes of how far it came.
const NOTED_EVERY: u64 = 1024;
const NOTED_AFTER: Duration = Duration::from_secs(1);

/// Seals everything anew that is not under the newest epoch of the account's key.
pub(super) async fn reencrypt(task: &Task, begun: &Begun) -> Result<(), Stop> {
    if is_planted(Bug::RetireBeforeReencrypted) {
        return Ok(());
    }
    let mut work = Work::begin(task, begun).await?;
    loop {
        let (found, damaged) = work.pass().await?;
        if let Some(block) = damaged {
            let why =
                format!("block {block} does not open: restore it from a copy, write it again, or delete it");
            return Err(Stop::Wait(why));
        }
        if found == 0 {
            return work.note().await;
        }
        work.after = None;
    }
}

struct Work<'a> {
    task: &'a Task,
    engine: Arc<Inner>,
    begun: &'a Begun,
    to: Provider,
    after: Option<BlockId>,
    done: u64,
    total: u64,
    noted: u64,
    noted_at: Instant,
    seen: u64,
}

impl<'a> Work<'a> {
    async fn begin(task: &'a Task, begun: &'a Begun) -> Result<Self, Stop> {
        let engine = task.engine.clone();
        let (verified, _) = engine.verified(&begun.operation.account).await.map_err(|e| stop(e, true))?;
        let progress = begun.operation.progress;
        let after = begun.cursor.as_ref().and_then(|hex| HEXLOWER.decode(hex.as_bytes()).ok());
        let mut work = Self {
            task,
            engine,
            begun,
            to: verified.record.provider(),
            after: after.and_then(|bytes| BlockId::new(bytes).ok()),
            done: progress.done,
            total: progress.total,
            noted: progress.done,
            noted_at: Instant::now(),
            seen: 0,
        };
        if work.total == 0 {
            work.total = work.count().await?;
            work.note().await?;
        }
        Ok(work)
    }

    async fn page(&self, after: Option<&BlockId>) -> Result<Vec<Row>, Stop> {
        let page = self.engine.blocks.stored(self.task.account, after, PAGE).await;
        page.map_err(|e| stop(e.into(), true))
    }

    async fn count(&self) -> Result<u64, Stop> {
        let epoch = self.epoch().await?;
        let (mut count, mut after) = (0, None);
        loop {
            let page = self.page(after.as_ref()).await?;
            let Some((last, _)) = page.last() else { return Ok(count) };
            after = Some(last.clone());
            count += page.iter().filter(|(_, meta)| self.is_old(meta, epoch)).count() as u64;
        }
    }

    async fn key(&self) -> Result<cofferdam_keyring::LiveKey, Stop> {
        let key = self.engine.keyring.sealing_key(self.task.account, self.to).await;
        key.map_err(|e| stop(key_error(&self.begun.operation.account, e), true))
    }

    async fn epoch(&self) -> Result<Epoch, Stop> {
        Ok(self.key().await?.scope().epoch)
    }

    fn is_old(&self, meta: &BlockMeta, epoch: Epoch) -> bool {
        (meta.provider, meta.epoch) != (self.to, epoch)
    }

    /// Goes through all blocks from where it is. How many it found to do, and one that does not open.
    async fn pass(&mut self) -> Result<(u64, Option<BlockId>), Stop> {
        let (mut found, mut damaged) = (0, None);
        loop {
            let epoch = self.epoch().await?;
            let page = self.page(self.after.as_ref()).await?;
            let Some((last, _)) = page.last() else { return Ok((found, damaged)) };
            let last = last.clone();
            let old: Vec<Row> = page.into_iter().filter(|(_, meta)| self.is_old(meta, epoch)).collect();
            found += old.len() as u64;
            let mut old = old.as_slice();
            while !old.is_empty() {
                let (batch, rest) = old.split_at(batch_len(old));
                old = rest;
                let engine = self.engine.clone();
                let Some(_turn) = engine.drains.turn().await else { return Err(Stop::Ended) };
                let began = Instant::now();
                damaged = damaged.or(self.batch(batch).await?);
                let rest = engine.pace.rest_after(began.elapsed(), &mut self.seen);
                if rest.is_zero() {
                    tokio::task::yield_now().await;
                } else {
                    sleep(rest).await;
                }
                if self.noted_at.elapsed() >= NOTED_AFTER {
                    self.note().await?;
                }
            }
            self.after = Some(last);
            if self.done - self.noted >= NOTED_EVERY {
                self.note().await?;
            }
        }
    }

    async fn note(&mut self) -> Result<(), Stop> {
        let (done, total) = (self.done, self.total.max(self.done));
        let cursor = self.after.as_ref().map(|id| HEXLOWER.encode(id.as_bytes()));
        let note = self.task.update(|row| {
            (row.last.operation.progress.done, row.last.operation.progress.total) = (done, total);
            row.last.cursor = cursor.clone();
        });
        note.await?;
        (self.noted, self.noted_at) = (done, Instant::now());
        Ok(())
    }

    /// Seals these anew in one commit. One of them that does not open.
    async fn batch(&mut self, rows: &[Row]) -> Result<Option<BlockId>, Stop> {
        let engine = self.engine.clone();
        let largest = rows.iter().map(|(_, meta)| meta.sealed_len).max().unwrap_or_default();
        let bytes = rows.iter().map(|(_, meta)| meta.sealed_len).sum::<u64>() + 2 * largest;
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        let admitted = engine.admission.admit(&engine.drains.share, bytes).await;
        let _admitted = admitted.map_err(|e| stop(e, true))?;
        engine.be_live().await.map_err(|e| stop(e, true))?;
        let _entered = engine.gates.of(self.task.account).enter();
        let (mut ops, mut damaged) = (Vec::new(), None);
        for (id, meta) in rows {
            match self.reseal(id, meta).await? {
                Resealed::Sealed(op) => ops.push(op),
                Resealed::Gone => {}
                Resealed::Damaged => damaged = damaged.or(Some(id.clone())),
            }
        }
        if !engine.nodes.is_live() {
            return Err(Stop::Soon("this engine has to look for changes first".into()));
        }
        let applied = engine.blocks.commit(ops).await.map_err(|e| stop(e.into(), true))?;
        // What is not written was written or deleted anew meanwhile.
        self.done += applied.iter().filter(|applied| **applied == Applied::Written).count() as u64;
        Ok(damaged)
    }

    async fn reseal(&self, id: &BlockId, meta: &BlockMeta) -> Result<Resealed, Stop> {
        let engine = &self.engine;
        let fetched = engine.blocks.fetch_stored(self.task.account, id).await;
        let Some((now, sealed)) = fetched.map_err(|e| stop(e.into(), true))? else {
            return Ok(Resealed::Gone);
        };
        if now != *meta {
            return Ok(Resealed::Gone);
        }
        let meta = *meta;
        let len = plaintext_len(meta.sealed_len, meta.page_size).ok();
        let Some(len) = len.and_then(|len| usize::try_from(len).ok()) else {
            return Ok(Resealed::Damaged);
        };
        let opening = engine.keyring.opening_key(self.task.account, meta.provider, meta.epoch).await;
        let opening = match opening {
            Ok(opening) => opening,
            Err(cofferdam_keyring::KeyError::UnknownEpoch(_)) => return Ok(Resealed::Damaged),
            Err(e) => return Err(stop(key_error(&self.begun.operation.account, e), true)),
        };
        let to = self.key().await?;
        let (inner, account, block, under) = (engine.clone(), self.task.account, id.clone(), to.clone());
        let work = move |opening: &WorkKey| -> Result<Option<BlockOp>, cofferdam_crypto::SealError> {
            let mut plain = Zeroizing::new(vec![0; len]);
            if opening.open_to(block.at(meta.version), &sealed, &mut plain).is_err() {
                return Ok(None);
            }
            inner.seal_anew(&under, account, &block, &meta, &plain).map(Some)
        };
        match engine.with_keys(WorkKey::Live(opening), Some(to), len, work).await {
            Ok(Used::Done(Ok(Some(op)))) => Ok(Resealed::Sealed(op)),
            Ok(Used::Done(Ok(None))) => Ok(Resealed::Damaged),
            Ok(Used::Done(Err(e))) => Err(stop(e.into(), true)),
            Ok(Used::Lapsed) => Err(Stop::Soon("a key lapsed meanwhile".into())),
            Err(e) => Err(stop(e, true)),
        }
    }

    /// Whether nothing is sealed any longer under what the operation gives up.
    async fn is_free(&self, record: &AccountRecord) -> Result<bool, Stop> {
        if is_planted(Bug::RetireBeforeReencrypted) {
            return Ok(true);
        }
        let newest = record.customer.as_ref().and_then(|of| of.epochs.last()).map(|of| of.scope.epoch);
        if !record.linked {
            let buffered = self.engine.blocks.buffer_usage(self.task.account).await;
            if let Some(usage) = buffered.map_err(|e| stop(e.into(), true))? {
                // Those are the customer's, and are drained under the customer's key.
                return Err(Stop::Wait(format!(
                    "{} blocks are buffered: they are drained first",
                    usage.blocks
                )));
            }
        }
        let is_needed = |meta: &BlockMeta| {
            meta.provider == Provider::Customer && (!record.linked || Some(meta.epoch) != newest)
        };
        let mut after = None;
        loop {
            let page = self.page(after.as_ref()).await?;
            let Some((last, _)) = page.last() else { return Ok(true) };
            after = Some(last.clone());
            if page.iter().any(|(_, meta)| is_needed(meta)) {
                return Ok(false);
            }
        }
    }
}

/// Destroys the wraps of what nothing is sealed under any longer.
pub(super) async fn retire(task: &Task, begun: &Begun) -> Result<(), Stop> {
    let engine = &task.engine;
    // Nobody here knows what those are sealed under.
    if engine.records.has_objects(task.account).await.map_err(|e| stop(e.into(), true))? {
        return Ok(());
    }
    let mut work = Work::begin(task, begun).await?;
    loop {
        let verified = engine.verified(&begun.operation.account).await;
        let (verified, service) = verified.map_err(|e| stop(e, true))?;
        let mut record = verified.record;
        if !is_retiring(&begun.operation.kind, &record) {
            return Ok(());
        }
        if !work.is_free(&record).await? {
            work.after = None;
            if let (_, Some(block)) = work.pass().await? {
                return Err(Stop::Wait(format!("block {block} does not open")));
            }
            continue;
        }
        match &mut record.customer {
            Some(customer) if record.linked => {
                let old = customer.epochs.len().saturating_sub(1);
                customer.epochs.drain(..old);
            }
            customer => *customer = None,
        }
        let bytes = record.seal(service.record_key()).map_err(|e: EngineError| stop(e, true))?;
        let replaced = engine.records.replace(&record.name, &verified.revision, Some(bytes)).await;
        if replaced.map_err(|e| stop(e, true))? {
            return Ok(());
        }
    }
}

fn is_retiring(kind: &OperationKind, record: &AccountRecord) -> bool {
    match kind {
        OperationKind::Unlink { .. } => !record.linked && record.customer.is_some(),
        _ => record.linked && record.customer.as_ref().is_some_and(|customer| customer.epochs.len() > 1),
    }
}

/// What became of a block that was to be sealed anew.
enum Resealed {
    Sealed(BlockOp),
    /// It was written anew, or deleted.
    Gone,
    Damaged,
}
