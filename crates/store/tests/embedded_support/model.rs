//! What a store should hold after a sequence of batches, on two plain maps.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use cofferdam_crypto::{AccountId, BlockId, SegmentId, Version};
use cofferdam_store::{
    Applied, BlockMeta, BlockOp, BlockStore, BufferUsage, EmbeddedStore, Located, Place, SegmentRow,
    StoreErrorKind,
};

use super::record_of;

type Key = (AccountId, BlockId);
type Blocks = BTreeMap<Key, (BlockMeta, Bytes)>;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Model {
    pub stored: Blocks,
    pub buffered: Blocks,
    /// Of the accounts with something buffered.
    pub since: BTreeMap<AccountId, Duration>,
    pub records: BTreeMap<String, Bytes>,
    /// The records of segments that were replaced.
    pub replaced: BTreeMap<(AccountId, SegmentId), Bytes>,
    /// The highest version of a put, a write to the buffer or a deletion.
    pub highest: u64,
}

impl Model {
    /// All of a batch or nothing of it.
    pub fn commit(&mut self, batch: &[BlockOp]) -> Result<Vec<Applied>, StoreErrorKind> {
        let mut next = self.clone();
        let applied = batch.iter().map(|op| next.apply(op)).collect::<Result<Vec<_>, _>>()?;
        let puts = |op: &BlockOp| matches!(op, BlockOp::Put { .. } | BlockOp::Buffer { .. });
        let written = batch.iter().zip(&applied).any(|(op, at)| puts(op) && *at == Applied::Written);
        if written && batch.iter().any(|op| puts(op) && self.is_late(op)) {
            return Err(StoreErrorKind::Conflict);
        }
        *self = next;
        Ok(applied)
    }

    /// Whether a version at least as new is there already.
    fn is_late(&self, op: &BlockOp) -> bool {
        let key = (op.account(), op.id().clone());
        let there = [self.stored.get(&key), self.buffered.get(&key)];
        there.into_iter().flatten().any(|(meta, _)| meta.version >= op.version())
    }

    fn apply(&mut self, op: &BlockOp) -> Result<Applied, StoreErrorKind> {
        let key = (op.account(), op.id().clone());
        if !matches!(op, BlockOp::Drain { .. } | BlockOp::Reseal { .. } | BlockOp::Discard { .. }) {
            self.highest = self.highest.max(op.version().number());
        }
        let buffered = self.buffered.get(&key).map(|(meta, _)| meta.version);
        let there = buffered.or(self.stored.get(&key).map(|(meta, _)| meta.version));
        let newer = there.filter(|there| *there >= op.version()).map(|by| Applied::Superseded { by });
        let applied = match op {
            BlockOp::Drain { meta, sealed, at, .. } if buffered == Some(op.version()) => {
                self.buffered.remove(&key);
                self.stored.insert(key, (*meta, sealed.clone()));
                let since = self.since.get_mut(&op.account()).unwrap();
                *since = (*since).max(*at);
                Applied::Written
            }
            BlockOp::Discard { .. } if buffered == Some(op.version()) => {
                self.buffered.remove(&key);
                Applied::Deleted
            }
            BlockOp::Reseal { meta, sealed, .. }
                if self.stored.get(&key).is_some_and(|(there, _)| {
                    let other = (there.provider != meta.provider) || there.epoch < meta.epoch;
                    there.version == meta.version && other
                }) =>
            {
                self.stored.insert(key, (*meta, sealed.clone()));
                Applied::Written
            }
            BlockOp::Drain { .. } | BlockOp::Reseal { .. } | BlockOp::Discard { .. } => {
                newer.unwrap_or(Applied::Absent)
            }
            _ if newer.is_some() => newer.unwrap(),
            BlockOp::Put { meta, sealed, .. } => {
                self.buffered.remove(&key);
                self.stored.insert(key, (*meta, sealed.clone()));
                Applied::Written
            }
            BlockOp::Buffer { meta, sealed, limit, .. } => {
                let since = self.since.get(&op.account());
                if since.is_some_and(|since| *since < limit.since) {
                    return Err(StoreErrorKind::BufferFull);
                }
                self.buffered.insert(key, (*meta, sealed.clone()));
                self.since.entry(op.account()).or_insert(meta.stored_at);
                if self.usage(op.account()).unwrap().bytes > limit.bytes {
                    return Err(StoreErrorKind::BufferFull);
                }
                Applied::Written
            }
            BlockOp::Delete { .. } => {
                let gone = [self.stored.remove(&key), self.buffered.remove(&key)];
                if gone.iter().any(Option::is_some) { Applied::Deleted } else { Applied::Absent }
            }
        };
        self.prune(op.account());
        Ok(applied)
    }

    /// An empty buffer holds nothing since any time, and no segment outlives its blocks.
    fn prune(&mut self, account: AccountId) {
        let of_account: Vec<_> = self
            .buffered
            .iter()
            .filter(|((owner, _), _)| *owner == account)
            .map(|(_, (meta, _))| *meta)
            .collect();
        if of_account.is_empty() {
            self.since.remove(&account);
        }
        self.replaced.retain(|(owner, segment), _| {
            *owner != account || of_account.iter().any(|meta| meta.provider.segment() == Some(*segment))
        });
    }

    /// What is stored goes first.
    pub fn remove_blocks(&mut self, account: AccountId, limit: usize) -> u64 {
        let mut removed = 0;
        for blocks in [&mut self.stored, &mut self.buffered] {
            let keys: Vec<Key> = blocks.keys().filter(|(owner, _)| *owner == account).cloned().collect();
            for key in keys.into_iter().take(limit.max(1) - removed) {
                blocks.remove(&key);
                removed += 1;
            }
        }
        self.prune(account);
        removed as u64
    }

    pub fn replace_segment(
        &mut self,
        account: AccountId,
        segment: SegmentId,
        expected: &Bytes,
        new: &Bytes,
    ) -> bool {
        let there = self.segments(account).into_iter().find(|(id, _)| *id == segment);
        let is_it = there.is_some_and(|(_, row)| row.record == expected);
        if is_it {
            self.replaced.insert((account, segment), new.clone());
        }
        is_it
    }

    pub fn usage(&self, account: AccountId) -> Option<BufferUsage> {
        let since = *self.since.get(&account)?;
        let of = self.buffered.iter().filter(|((owner, _), _)| *owner == account);
        let (blocks, bytes) = of.fold((0, 0), |(n, sum), (_, (meta, _))| (n + 1, sum + meta.sealed_len));
        Some(BufferUsage { blocks, bytes, since })
    }

    /// The segments of an account's buffer, which are those of its blocks.
    pub fn segments(&self, account: AccountId) -> Vec<(SegmentId, SegmentRow)> {
        let mut blocks = BTreeMap::new();
        for ((owner, _), (meta, _)) in &self.buffered {
            if let Some(segment) = meta.provider.segment().filter(|_| *owner == account) {
                *blocks.entry(segment).or_default() += 1;
            }
        }
        let record = |segment| self.replaced.get(&(account, segment)).cloned().unwrap_or(record_of(segment));
        let row = |(segment, blocks)| (segment, SegmentRow { blocks, record: record(segment) });
        blocks.into_iter().map(row).collect()
    }

    pub fn newest(&self, account: AccountId) -> BTreeMap<BlockId, (Located, Bytes)> {
        let places = [(Place::Store, &self.stored), (Place::Buffer, &self.buffered)];
        let all =
            places.into_iter().flat_map(|(place, blocks)| blocks.iter().map(move |block| (place, block)));
        all.filter(|(_, ((owner, _), _))| *owner == account)
            .map(|(place, ((_, id), (meta, sealed)))| {
                (id.clone(), (Located { place, meta: *meta }, sealed.clone()))
            })
            .collect()
    }

    /// Whether the store says the same of everything that one can ask it.
    pub async fn assert_seen_in(&self, store: &EmbeddedStore, accounts: &[AccountId], what: &str) {
        self.assert_same_in(store, accounts, what).await;
        assert_eq!(store.last_version().await.unwrap(), Version::new(self.highest), "{what}");
    }

    /// The same of any store, whose last version may be one that it gave out and that nobody used.
    pub async fn assert_same_in(&self, store: &dyn BlockStore, accounts: &[AccountId], what: &str) {
        for account in accounts {
            let newest = self.newest(*account);
            let listed = BlockStore::list(store, *account, None, usize::MAX).await.unwrap();
            let expected: Vec<_> = newest.iter().map(|(id, (at, _))| (id.clone(), *at)).collect();
            assert_eq!(listed, expected, "{what}: list");
            assert_eq!(list_in_pages(store, *account, 2).await, expected, "{what}: list in pages");
            for (id, (at, sealed)) in &newest {
                assert_eq!(store.stat(*account, id).await.unwrap(), Some(*at), "{what}: stat {id}");
                let found = store.fetch(*account, id).await.unwrap();
                assert_eq!(found, Some((*at, sealed.clone())), "{what}: fetch {id}");
                let half = at.meta.sealed_len / 2;
                let found = store
                    .read(*account, id, at, std::slice::from_ref(&(half..at.meta.sealed_len)))
                    .await
                    .unwrap()
                    .unwrap();
                assert_eq!(found, [sealed.slice(half as usize..)], "{what}: read {id}");
                let elsewhere = Located {
                    place: if at.place == Place::Store { Place::Buffer } else { Place::Store },
                    ..*at
                };
                assert_eq!(store.read(*account, id, &elsewhere, &[]).await.unwrap(), None, "{what}: {id}");
            }
            let stored = store.stored(*account, None, usize::MAX).await.unwrap();
            let of = self.stored.iter().filter(|((owner, _), _)| owner == account);
            let expected: Vec<_> = of.clone().map(|((_, id), (meta, _))| (id.clone(), *meta)).collect();
            assert_eq!(stored, expected, "{what}: stored");
            if let Some((first, _)) = stored.first() {
                let rest = store.stored(*account, Some(first), 2).await.unwrap();
                assert_eq!(rest, expected[1..].iter().take(2).cloned().collect::<Vec<_>>(), "{what}: stored");
            }
            for ((_, id), block) in of {
                assert_eq!(
                    store.fetch_stored(*account, id).await.unwrap().as_ref(),
                    Some(block),
                    "{what}: {id}"
                );
            }
            let buffered = store.buffered(*account, None, usize::MAX).await.unwrap();
            let of = self.buffered.iter().filter(|((owner, _), _)| owner == account);
            let expected: Vec<_> = of.map(|((_, id), (meta, _))| (id.clone(), *meta)).collect();
            assert_eq!(buffered, expected, "{what}: buffered");
            let usage = store.buffer_usage(*account).await.unwrap();
            assert_eq!(usage, self.usage(*account), "{what}: usage");
            let segments = store.segments(*account, None, usize::MAX).await.unwrap();
            assert_eq!(segments, self.segments(*account), "{what}: segments");
            for (n, (segment, row)) in segments.iter().enumerate() {
                assert_eq!(store.segment(*account, *segment).await.unwrap().as_ref(), Some(row), "{what}");
                let rest = store.segments(*account, Some(*segment), 2).await.unwrap();
                assert_eq!(rest, segments[n + 1..].iter().take(2).cloned().collect::<Vec<_>>(), "{what}");
            }
        }
        let buffering = store.buffering(None, usize::MAX).await.unwrap();
        let expected: Vec<_> = self.since.keys().map(|of| (*of, self.usage(*of).unwrap())).collect();
        assert_eq!(buffering, expected, "{what}: buffering");
        if let Some((first, rest)) = expected.split_first() {
            assert_eq!(store.buffering(Some(first.0), 1).await.unwrap(), rest[..rest.len().min(1)], "{what}");
        }
        assert!(store.last_version().await.unwrap() >= Version::new(self.highest), "{what}");
    }

    /// Whether all is read and agrees, what a buffered version hides as well.
    pub async fn assert_verifies(&self, store: &EmbeddedStore, what: &str) {
        let report = store.verify().await.unwrap();
        assert!(report.is_sound(), "{what}: {report:?}");
        let sum = |blocks: &Blocks| blocks.values().map(|(meta, _)| meta.sealed_len).sum::<u64>();
        assert_eq!(
            (report.blocks, report.bytes, report.buffered_blocks, report.buffered_bytes, report.records),
            (
                self.stored.len() as u64,
                sum(&self.stored),
                self.buffered.len() as u64,
                sum(&self.buffered),
                self.records.len() as u64
            ),
            "{what}"
        );
    }
}

async fn list_in_pages(store: &dyn BlockStore, account: AccountId, limit: usize) -> Vec<(BlockId, Located)> {
    let mut all: Vec<(BlockId, Located)> = Vec::new();
    loop {
        let after = all.last().map(|(id, _)| id.clone());
        let page = BlockStore::list(store, account, after.as_ref(), limit).await.unwrap();
        assert!(page.len() <= limit);
        if page.is_empty() {
            return all;
        }
        all.extend(page);
    }
}

/// Everything that a store holds: at last what a buffered version hides, by discarding that. For a copy of a store.
pub async fn lay_open(store: &EmbeddedStore, accounts: &[AccountId]) -> Model {
    let mut model = lay_open_blocks(store, accounts).await;
    for (key, stored) in cofferdam_store::Catalog::list(store, "", None, usize::MAX).await.unwrap() {
        model.records.insert(key, stored.bytes);
    }
    model
}

/// The same without the records of its catalog.
pub async fn lay_open_blocks(store: &dyn BlockStore, accounts: &[AccountId]) -> Model {
    let mut model = Model { highest: store.last_version().await.unwrap().number(), ..Model::default() };
    for (account, usage) in store.buffering(None, usize::MAX).await.unwrap() {
        model.since.insert(account, usage.since);
        let mut discards = Vec::new();
        for (id, meta) in store.buffered(account, None, usize::MAX).await.unwrap() {
            let (at, sealed) = store.fetch(account, &id).await.unwrap().unwrap();
            assert_eq!(at, Located { place: Place::Buffer, meta });
            discards.push(BlockOp::Discard { account, id: id.clone(), version: meta.version });
            model.buffered.insert((account, id), (meta, sealed));
        }
        assert_eq!(model.usage(account), Some(usage));
        for (segment, row) in store.segments(account, None, usize::MAX).await.unwrap() {
            if row.record != record_of(segment) {
                model.replaced.insert((account, segment), row.record);
            }
        }
        assert_eq!(store.segments(account, None, usize::MAX).await.unwrap(), model.segments(account));
        let applied = store.commit(discards).await.unwrap();
        assert!(applied.iter().all(|applied| *applied == Applied::Deleted));
        assert_eq!(store.segments(account, None, usize::MAX).await.unwrap(), []);
    }
    for account in accounts {
        for (id, at) in BlockStore::list(store, *account, None, usize::MAX).await.unwrap() {
            let (fetched, sealed) = store.fetch(*account, &id).await.unwrap().unwrap();
            assert_eq!((fetched, at.place), (at, Place::Store));
            model.stored.insert((*account, id), (at.meta, sealed));
        }
    }
    model
}
