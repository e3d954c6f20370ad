//! The cache as a store: what it answers, and what comes in and goes with reads and writes.
//!
//! Invariants: an answer from the cache is of the version that the store has just named. A block comes in only if it was not
//! changed since it was read; that keeps out what no read would be answered with, and what was deleted.

use std::{
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use bytes::Bytes;
use cofferdam_crypto::planted::{Bug, is_planted};
use cofferdam_crypto::{AccountId, BlockId, SegmentId, Version};

use super::{ENTRY, Held, HotCache, status::one_more, tier::Key};
use crate::{
    Applied, BlockMeta, BlockOp, BlockStore, BufferUsage, Located, Place, SegmentRow, StoreError,
    StoreErrorKind,
};

/// How many marks there are of what was changed.
const MARKS: usize = 1024;

/// What the cache has for a read.
enum Answer {
    Hit(Located, Bytes),
    /// The store has no such block.
    Gone,
    Miss,
}

impl HotCache {
    async fn answer(&self, account: AccountId, id: &BlockId, key: Key) -> Result<Answer, StoreError> {
        let held = self.memory.get(&key);
        let on_disk = self.disk.as_ref().filter(|disk| held.is_none() && disk.version_of(&key).is_some());
        if held.is_none() && on_disk.is_none() {
            return Ok(Answer::Miss);
        }
        if is_planted(Bug::HotCacheStale)
            && let Some(Held { meta, sealed }) = &held
        {
            return Ok(Answer::Hit(Located { place: Place::Store, meta: *meta }, sealed.clone()));
        }
        let ticket = self.changes.now(&key);
        let Some(at) = self.store.stat(account, id).await? else {
            self.remove(&key);
            return Ok(Answer::Gone);
        };
        if at.place == Place::Store && self.rules.is_fresh(&at.meta) {
            match (held, on_disk) {
                (Some(held), _) if held.meta == at.meta => {
                    one_more(&self.counts.memory_hits);
                    return Ok(Answer::Hit(at, held.sealed));
                }
                (None, Some(disk)) if disk.version_of(&key) == Some(at.meta) => {
                    let whole = 0..at.meta.sealed_len;
                    if let Some(sealed) =
                        disk.read(key, at.meta, vec![whole]).await.and_then(|mut of| of.pop())
                    {
                        self.fill(key, Held { meta: at.meta, sealed: sealed.clone() }, ticket);
                        return Ok(Answer::Hit(at, sealed));
                    }
                }
                _ => self.remove(&key),
            }
        } else {
            self.remove(&key);
        }
        Ok(Answer::Miss)
    }

    /// Ranges of a block that is cached.
    async fn part(
        &self,
        key: Key,
        of: &Located,
        ranges: &[Range<u64>],
    ) -> Result<Option<Vec<Bytes>>, StoreError> {
        if of.place != Place::Store || !self.rules.is_fresh(&of.meta) {
            return Ok(None);
        }
        let within = |range: &Range<u64>| range.start <= range.end && range.end <= of.meta.sealed_len;
        if let Some(held) = self.memory.get(&key).filter(|held| held.meta == of.meta) {
            let slice = |range: &Range<u64>| {
                let bounds = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
                bounds.filter(|_| within(range)).map(|(start, end)| held.sealed.slice(start..end))
            };
            let parts: Option<Vec<Bytes>> = ranges.iter().map(slice).collect();
            one_more(&self.counts.memory_hits);
            return parts.map(Some).ok_or_else(|| StoreError::new(StoreErrorKind::OutOfBounds));
        }
        match &self.disk {
            Some(disk) if disk.version_of(&key) == Some(of.meta) && ranges.iter().all(within) => {
                Ok(disk.read(key, of.meta, ranges.to_vec()).await)
            }
            _ => Ok(None),
        }
    }

    /// Takes a block in, unless it was changed since the ticket was drawn, or may not be here.
    fn fill(&self, key: Key, held: Held, ticket: u64) {
        if !self.rules.admit(key.account, &held.meta) {
            return;
        }
        if held.sealed.len() + ENTRY <= self.memory.largest() {
            // Not the block itself: what is on disk of it may be newer by now.
            let evicted = self.memory.insert(key, held);
            self.demote(evicted.into_iter().filter(|(gone, _)| *gone != key));
        } else if let Some(disk) = &self.disk {
            disk.write(key, held);
        }
        if self.changes.now(&key) != ticket || self.rules.is_barred(key.account) {
            self.remove(&key);
        }
    }

    /// What was pushed out of memory goes to disk.
    pub(super) fn demote(&self, evicted: impl IntoIterator<Item = (Key, Held)>) {
        let Some(disk) = &self.disk else { return };
        for (key, held) in evicted {
            if self.rules.admit(key.account, &held.meta) {
                disk.write(key, held);
            }
        }
    }

    pub(super) fn remove(&self, key: &Key) {
        self.memory.remove(key);
        if let Some(disk) = &self.disk {
            disk.remove(*key);
        }
    }
}

#[async_trait]
impl BlockStore for HotCache {
    async fn commit(&self, batch: Vec<BlockOp>) -> Result<Vec<Applied>, StoreError> {
        let ops: Vec<(Key, Option<Held>)> = batch
            .iter()
            .map(|op| {
                let stored = matches!(op, BlockOp::Put { .. } | BlockOp::Drain { .. });
                let held = op.sealed().filter(|_| stored && self.fill_on_put);
                let held = held.map(|(meta, sealed)| Held { meta: *meta, sealed: sealed.clone() });
                (Key::of(op.account(), op.id()), held)
            })
            .collect();
        // Now as well: the future may be dropped before the end.
        for (key, _) in &ops {
            self.changes.note(key);
            self.remove(key);
        }
        let applied = self.store.commit(batch).await;
        let outcomes = applied.as_deref().unwrap_or_default();
        for (at, (key, held)) in ops.into_iter().enumerate() {
            let ticket = self.changes.note(&key);
            match (outcomes.get(at), held) {
                (Some(Applied::Written), Some(held)) => self.fill(key, held, ticket),
                (Some(Applied::Superseded { .. } | Applied::Absent), _) => {}
                _ => self.remove(&key),
            }
        }
        applied
    }

    async fn stat(&self, account: AccountId, id: &BlockId) -> Result<Option<Located>, StoreError> {
        self.store.stat(account, id).await
    }

    async fn fetch(&self, account: AccountId, id: &BlockId) -> Result<Option<(Located, Bytes)>, StoreError> {
        let key = Key::of(account, id);
        match self.answer(account, id, key).await? {
            Answer::Hit(at, sealed) => return Ok(Some((at, sealed))),
            Answer::Gone => return Ok(None),
            Answer::Miss => {}
        }
        let ticket = self.changes.now(&key);
        let fetched = self.store.fetch(account, id).await?;
        if let Some((Located { place: Place::Store, meta }, sealed)) = &fetched {
            one_more(&self.counts.misses);
            self.fill(key, Held { meta: *meta, sealed: sealed.clone() }, ticket);
        }
        Ok(fetched)
    }

    /// Answers from the cache where it has exactly the version that is asked for: that version was the newest one when it was
    /// looked up.
    async fn read(
        &self,
        account: AccountId,
        id: &BlockId,
        of: &Located,
        ranges: &[Range<u64>],
    ) -> Result<Option<Vec<Bytes>>, StoreError> {
        if let Some(parts) = self.part(Key::of(account, id), of, ranges).await? {
            return Ok(Some(parts));
        }
        if of.place == Place::Store {
            one_more(&self.counts.misses);
        }
        self.store.read(account, id, of, ranges).await
    }

    async fn list(
        &self,
        account: AccountId,
        after: Option<&BlockId>,
        limit: usize,
    ) -> Result<Vec<(BlockId, Located)>, StoreError> {
        self.store.list(account, after, limit).await
    }

    async fn buffered(
        &self,
        account: AccountId,
        after: Option<&BlockId>,
        limit: usize,
    ) -> Result<Vec<(BlockId, BlockMeta)>, StoreError> {
        self.store.buffered(account, after, limit).await
    }

    async fn segment(
        &self,
        account: AccountId,
        segment: SegmentId,
    ) -> Result<Option<SegmentRow>, StoreError> {
        self.store.segment(account, segment).await
    }

    async fn segments(
        &self,
        account: AccountId,
        after: Option<SegmentId>,
        limit: usize,
    ) -> Result<Vec<(SegmentId, SegmentRow)>, StoreError> {
        self.store.segments(account, after, limit).await
    }

    async fn buffer_usage(&self, account: AccountId) -> Result<Option<BufferUsage>, StoreError> {
        self.store.buffer_usage(account).await
    }

    async fn buffering(
        &self,
        after: Option<AccountId>,
        limit: usize,
    ) -> Result<Vec<(AccountId, BufferUsage)>, StoreError> {
        self.store.buffering(after, limit).await
    }

    async fn last_version(&self) -> Result<Version, StoreError> {
        self.store.last_version().await
    }

    /// Deletes what is left to delete, lets go of the folder, and closes the store.
    async fn close(&self) -> Result<(), StoreError> {
        self.end().await;
        if let Some(disk) = &self.disk {
            disk.close().await;
        }
        self.store.close().await
    }
}

/// Which blocks were changed, roughly: a mark stands for many.
///
/// Who reads a block from the store draws a ticket before, and finds it out of date if the block was written or deleted
/// meanwhile: then what was read is not kept, although no read would be answered with it.
pub(super) struct Changes(Box<[AtomicU64]>);

impl Default for Changes {
    fn default() -> Self {
        Self((0..MARKS).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Changes {
    fn now(&self, key: &Key) -> u64 {
        self.mark(key).load(Ordering::SeqCst)
    }

    fn note(&self, key: &Key) -> u64 {
        self.mark(key).fetch_add(1, Ordering::SeqCst) + 1
    }

    fn mark(&self, key: &Key) -> &AtomicU64 {
        &self.0[(key.name % MARKS as u128) as usize]
    }
}
