//! The cache as a store: what it answers, and what comes in and goes with reads and writes.
//!
//! Invariants: an answer from the cache is of the version that the store has just named, or, where this engine is its only
//! writer, of a block that came in after its last change and was not changed since: every change takes it out, and until the
//! change has ended nothing comes in (`changes`). What is on disk is always asked about.

use std::{collections::BTreeSet, ops::Range};

use async_trait::async_trait;
use bytes::Bytes;
use cofferdam_crypto::planted::{Bug, is_planted};
use cofferdam_crypto::{AccountId, BlockId, SegmentId, Version};

use super::{ENTRY, Held, HotCache, changes::Ticket, status::one_more, tier::Key};
use crate::{
    Applied, BlockMeta, BlockOp, BlockStore, BufferUsage, Located, Place, SegmentRow, StoreError,
    StoreErrorKind, VersionRange,
};

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
            && let Some(held) = &held
        {
            return Ok(Answer::Hit(held.located(), held.sealed.clone()));
        }
        if let Some(held) = held.as_ref().filter(|held| self.knows_newest(&key, held)) {
            one_more(&self.counts.memory_hits);
            return Ok(Answer::Hit(held.located(), held.sealed.clone()));
        }
        let ticket = self.changes.ticket(&key);
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

    /// Whether a block in memory is the newest version without a question to the store.
    fn knows_newest(&self, key: &Key, held: &Held) -> bool {
        self.only_writer && self.rules.is_fresh(&held.meta) && self.changes.is_sure(key)
    }

    /// Takes a block in, unless it was changed since the ticket was drawn, or may not be here.
    fn fill(&self, key: Key, held: Held, ticket: Option<Ticket>) {
        let Some(ticket) = ticket.filter(|_| self.rules.admit(key.account, &held.meta)) else { return };
        let entered = self.changes.if_unchanged(&key, ticket, || self.enter(key, held));
        self.after_entering(key, entered);
    }

    /// Takes a block into memory. What goes to disk for that: the block itself, where it is too large.
    fn enter(&self, key: Key, held: Held) -> Vec<(Key, Held)> {
        if held.sealed.len() + ENTRY > self.memory.largest() {
            return vec![(key, held)];
        }
        let mut evicted = self.memory.insert(key, held);
        // An older version of it.
        evicted.retain(|(gone, _)| *gone != key);
        evicted
    }

    fn after_entering(&self, key: Key, evicted: Option<Vec<(Key, Held)>>) {
        self.demote(evicted.into_iter().flatten());
        if self.rules.is_barred(key.account) {
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

impl HotCache {
    async fn commit_and_note(&self, batch: Vec<BlockOp>) -> Result<Vec<Applied>, StoreError> {
        let mut changing = Changing::begin(self, &batch);
        let applied = self.store.commit(batch).await;
        changing.end(&applied);
        applied
    }

    /// What is cached of the account goes first, and nothing of it comes in again.
    async fn purge_and_remove(&self, account: AccountId, limit: usize) -> Result<u64, StoreError> {
        let _removing = Removing::begin(self);
        if !self.rules.is_barred(account) {
            self.purge(BTreeSet::from([account]), "its blocks are removed").await;
        }
        self.store.remove_blocks(account, limit).await
    }
}

/// Blocks that are being changed. When it is dropped before the end, nobody knows what became of them.
struct Changing<'a> {
    cache: &'a HotCache,
    /// With what comes in if it is written.
    ops: Vec<(Key, Ticket, Option<Held>)>,
}

impl<'a> Changing<'a> {
    fn begin(cache: &'a HotCache, batch: &[BlockOp]) -> Self {
        let begin = |op: &BlockOp| {
            let key = Key::of(op.account(), op.id());
            let ticket = cache.changes.begin(&key);
            cache.remove(&key);
            let comes_in = matches!(op, BlockOp::Put { .. } | BlockOp::Drain { .. }) && cache.fill_on_put;
            let held = op.sealed().filter(|_| comes_in);
            (key, ticket, held.map(|(meta, sealed)| Held { meta: *meta, sealed: sealed.clone() }))
        };
        Self { cache, ops: batch.iter().map(begin).collect() }
    }

    fn end(&mut self, applied: &Result<Vec<Applied>, StoreError>) {
        let (outcomes, sure) = match applied {
            Ok(outcomes) => (outcomes.as_slice(), true),
            // These say that it did not come to pass; of others nobody knows.
            Err(error) => (
                &[][..],
                matches!(
                    error.kind(),
                    StoreErrorKind::Conflict | StoreErrorKind::BufferFull | StoreErrorKind::TooLarge
                ),
            ),
        };
        for (at, (key, ticket, held)) in std::mem::take(&mut self.ops).into_iter().enumerate() {
            let written = outcomes.get(at) == Some(&Applied::Written);
            self.end_one(key, ticket, sure, held.filter(|_| written));
        }
    }

    fn end_one(&self, key: Key, ticket: Ticket, sure: bool, held: Option<Held>) {
        let cache = self.cache;
        let held = held.filter(|held| cache.rules.admit(key.account, &held.meta));
        let entered =
            cache.changes.end(&key, ticket, sure, || held.map(|held| cache.enter(key, held))).flatten();
        if entered.is_some() {
            cache.after_entering(key, entered);
        } else if let Some(disk) = &cache.disk {
            // Something older may have been pushed out to there since it began.
            disk.remove(key);
        }
    }
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        for (key, ticket, _) in std::mem::take(&mut self.ops) {
            self.end_one(key, ticket, false, None);
        }
    }
}

/// Blocks are being removed, and nobody says which: each may be one of them.
struct Removing<'a>(&'a HotCache);

impl<'a> Removing<'a> {
    fn begin(cache: &'a HotCache) -> Self {
        cache.changes.begin_all();
        Self(cache)
    }
}

impl Drop for Removing<'_> {
    fn drop(&mut self) {
        self.0.changes.end_all();
    }
}

#[async_trait]
impl BlockStore for HotCache {
    async fn commit(&self, batch: Vec<BlockOp>) -> Result<Vec<Applied>, StoreError> {
        let cache = if self.only_writer { self.me.upgrade() } else { None };
        let Some(cache) = cache else { return self.commit_and_note(batch).await };
        // To its end, even if the caller gives up: else nobody here knows when the store applies it.
        let commit = tokio::spawn(async move { cache.commit_and_note(batch).await });
        commit.await.map_err(|lost| StoreError::new(StoreErrorKind::Closed).caused_by(lost))?
    }

    async fn stat(&self, account: AccountId, id: &BlockId) -> Result<Option<Located>, StoreError> {
        let key = Key::of(account, id);
        match self.memory.get(&key).filter(|held| self.knows_newest(&key, held)) {
            Some(held) => Ok(Some(held.located())),
            None => self.store.stat(account, id).await,
        }
    }

    async fn fetch(&self, account: AccountId, id: &BlockId) -> Result<Option<(Located, Bytes)>, StoreError> {
        let key = Key::of(account, id);
        match self.answer(account, id, key).await? {
            Answer::Hit(at, sealed) => return Ok(Some((at, sealed))),
            Answer::Gone => return Ok(None),
            Answer::Miss => {}
        }
        let ticket = self.changes.ticket(&key);
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

    async fn stored(
        &self,
        account: AccountId,
        after: Option<&BlockId>,
        limit: usize,
    ) -> Result<Vec<(BlockId, BlockMeta)>, StoreError> {
        self.store.stored(account, after, limit).await
    }

    async fn fetch_stored(
        &self,
        account: AccountId,
        id: &BlockId,
    ) -> Result<Option<(BlockMeta, Bytes)>, StoreError> {
        self.store.fetch_stored(account, id).await
    }

    async fn replace_segment(
        &self,
        account: AccountId,
        segment: SegmentId,
        expected: &Bytes,
        new: Bytes,
    ) -> Result<bool, StoreError> {
        self.store.replace_segment(account, segment, expected, new).await
    }

    async fn remove_blocks(&self, account: AccountId, limit: usize) -> Result<u64, StoreError> {
        let cache = if self.only_writer { self.me.upgrade() } else { None };
        let Some(cache) = cache else { return self.purge_and_remove(account, limit).await };
        let removal = tokio::spawn(async move { cache.purge_and_remove(account, limit).await });
        removal.await.map_err(|lost| StoreError::new(StoreErrorKind::Closed).caused_by(lost))?
    }

    async fn compact(&self) -> Result<(), StoreError> {
        self.store.compact().await
    }

    async fn last_version(&self) -> Result<Version, StoreError> {
        self.store.last_version().await
    }

    async fn reserve_versions(
        &self,
        at_least: Version,
        count: u32,
    ) -> Result<Option<VersionRange>, StoreError> {
        self.store.reserve_versions(at_least, count).await
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
