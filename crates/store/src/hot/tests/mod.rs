//! What a cache does while a store is in the middle of something.

use std::{sync::atomic::AtomicBool, time::Duration};

use async_trait::async_trait;
use cofferdam_crypto::{Epoch, PageSize, Provider, Version};
use cofferdam_vault::{Inline, Timestamp, testing::ManualClock, testing::SeededEntropy};
use tokio::sync::Semaphore;

use super::*;
use crate::{
    Applied, BlockOp, EmbeddedOptions, EmbeddedStore, FaultyFile, Located, StoreError, StoreErrorKind,
};

/// Knows every account, and of no revocation.
struct AllWell;

#[async_trait]
impl Standing for AllWell {
    async fn revoked(&self) -> Result<BTreeSet<AccountId>, EngineError> {
        Ok(BTreeSet::new())
    }

    async fn unknown(&self, _: &BTreeSet<AccountId>) -> Result<BTreeSet<AccountId>, EngineError> {
        Ok(BTreeSet::new())
    }
}

/// A store whose whole reads, once they have what they read, wait until they are let go.
#[derive(Debug)]
struct Gated {
    store: EmbeddedStore,
    gate: Semaphore,
    read: Semaphore,
    /// Commits wait as well.
    slow: AtomicBool,
}

#[async_trait]
impl crate::Forwarding for Gated {
    fn behind(&self) -> &dyn BlockStore {
        &self.store
    }

    async fn commit(&self, batch: Vec<BlockOp>) -> Result<Vec<Applied>, StoreError> {
        let applied = self.store.commit(batch).await;
        if self.slow.load(Ordering::Relaxed) {
            self.read.add_permits(1);
            self.gate.acquire().await.unwrap().forget();
        }
        applied
    }

    async fn fetch(&self, account: AccountId, id: &BlockId) -> Result<Option<(Located, Bytes)>, StoreError> {
        let fetched = self.store.fetch(account, id).await;
        self.read.add_permits(1);
        self.gate.acquire().await.unwrap().forget();
        fetched
    }
}

const NOW: Duration = Duration::from_secs(1_795_000_000);

struct World {
    store: Arc<Gated>,
    cache: Arc<HotCache>,
    folder: tempfile::TempDir,
    account: AccountId,
}

impl World {
    async fn new(fill_on_put: bool) -> Self {
        Self::set_up(if fill_on_put { |settings| settings } else { |settings| settings.fill_on_put(false) })
            .await
    }

    async fn set_up(set: fn(HotCacheSettings) -> HotCacheSettings) -> Self {
        let options = EmbeddedOptions { executor: Arc::new(Inline), ..EmbeddedOptions::default() };
        let store = EmbeddedStore::create_on(Arc::new(FaultyFile::new()), options).unwrap();
        let store = Arc::new(Gated {
            store,
            gate: Semaphore::new(0),
            read: Semaphore::new(0),
            slow: AtomicBool::new(false),
        });
        let folder = tempfile::tempdir().unwrap();
        let settings = HotCacheSettings::new(1 << 20).disk(folder.path(), 2 << 20).executor(Arc::new(Inline));
        let clock = Arc::new(ManualClock::new(Timestamp { boot: NOW, wall: NOW }));
        let entropy = SeededEntropy::new(1);
        let cache = HotCache::open(store.clone(), &set(settings), clock, &entropy, &AllWell).await.unwrap();
        Self { store, cache, folder, account: AccountId::from_bytes([7; 16]) }
    }

    fn put(&self, id: &BlockId, version: u64, sealed: &[u8]) -> BlockOp {
        let meta = BlockMeta {
            version: Version::new(version),
            sealed_len: sealed.len() as u64,
            page_size: PageSize::DEFAULT,
            stored_at: NOW,
            epoch: Epoch::FIRST,
            provider: Provider::Customer,
        };
        BlockOp::Put { account: self.account, id: id.clone(), meta, sealed: Bytes::copy_from_slice(sealed) }
    }

    /// Starts a read, and waits until the store has read what it will answer.
    async fn begin_read(&self, id: &BlockId) -> JoinHandle<Result<Option<(Located, Bytes)>, StoreError>> {
        let (cache, account, id) = (self.cache.clone(), self.account, id.clone());
        let read = tokio::spawn(async move { cache.fetch(account, &id).await });
        self.store.read.acquire().await.unwrap().forget();
        read
    }

    /// The same, unless the cache has it.
    async fn begin_read_of_the_store(
        &self,
        id: &BlockId,
        is_cached: bool,
    ) -> Option<JoinHandle<Result<Option<(Located, Bytes)>, StoreError>>> {
        if is_cached { None } else { Some(self.begin_read(id).await) }
    }

    async fn end_read(&self, read: JoinHandle<Result<Option<(Located, Bytes)>, StoreError>>) -> Bytes {
        self.store.gate.add_permits(1);
        read.await.unwrap().unwrap().unwrap().1
    }
}

fn id() -> BlockId {
    BlockId::new("block").unwrap()
}

#[tokio::test]
async fn a_read_that_a_write_or_a_delete_overtook_fills_nothing_and_what_was_written_stays() {
    for fill_on_put in [true, false] {
        let world = World::new(fill_on_put).await;
        let id = id();
        world.store.commit(vec![world.put(&id, 1, b"one")]).await.unwrap();

        let read = world.begin_read(&id).await;
        world.cache.commit(vec![world.put(&id, 2, b"two")]).await.unwrap();
        assert_eq!(world.end_read(read).await, "one", "as of when it was read");
        let key = Key::of(world.account, &id);
        let kept = world.cache.memory.get(&key).map(|held| held.sealed);
        assert_eq!(kept, fill_on_put.then(|| Bytes::from_static(b"two")));
        world.cache.remove(&key);

        let read = world.begin_read(&id).await;
        let version = Version::new(3);
        let delete = BlockOp::Delete { account: world.account, id: id.clone(), version };
        world.cache.commit(vec![delete]).await.unwrap();
        assert_eq!(world.end_read(read).await, "two");
        assert_eq!(world.cache.usage_of(world.account), HotCached::default());
    }
}

#[tokio::test]
async fn a_read_under_way_at_a_purge_leaves_nothing_behind() {
    let world = World::new(false).await;
    let id = id();
    world.store.commit(vec![world.put(&id, 1, b"one")]).await.unwrap();
    let read = world.begin_read(&id).await;
    world.cache.purge(BTreeSet::from([world.account]), "test").await;
    assert_eq!(world.end_read(read).await, "one");
    assert_eq!(world.cache.usage_of(world.account), HotCached::default());
    // Until the key is back.
    world.cache.unbar(world.account);
    world.store.gate.add_permits(1);
    world.cache.fetch(world.account, &id).await.unwrap();
    assert_eq!(world.cache.usage_of(world.account).memory, CacheUsage { blocks: 1, bytes: 3 });
}

#[tokio::test]
async fn ranges_are_those_of_the_store_wherever_they_come_from() {
    let world = World::new(true).await;
    // One that memory takes, one for the disk alone.
    for (name, len) in [("small", 100_000), ("large", 131_000)] {
        let id = BlockId::new(name).unwrap();
        let sealed: Vec<u8> = (0..len).map(|n| (n % 251) as u8).collect();
        world.cache.commit(vec![world.put(&id, 1 + len as u64, &sealed)]).await.unwrap();
        world.cache.settle().await;
        let at = world.cache.stat(world.account, &id).await.unwrap().unwrap();
        let len = len as u64;
        for ranges in [vec![0..0, len..len], vec![0..len, 0..len], vec![7..90_000, 5..6], Vec::new()] {
            let cached = world.cache.read(world.account, &id, &at, &ranges).await.unwrap();
            assert_eq!(
                cached,
                world.store.read(world.account, &id, &at, &ranges).await.unwrap(),
                "{ranges:?}"
            );
        }
        #[expect(clippy::reversed_empty_ranges, reason = "that is what is refused")]
        for range in [0..len + 1, len + 1..len + 1, 9..8, u64::MAX - 1..u64::MAX] {
            let refused = world.cache.read(world.account, &id, &at, &[0..1, range]).await.unwrap_err();
            assert_eq!(refused.kind(), StoreErrorKind::OutOfBounds);
        }
    }
    let status = world.cache.status();
    assert!(status.memory.hits > 0 && status.disk.unwrap().hits > 0, "{status:?}");
    assert_eq!(status.misses, 4, "what is out of bounds on disk is the store's to refuse");
}

#[tokio::test]
async fn a_newer_version_on_disk_is_not_lost_to_an_older_one_that_is_pushed_out() {
    let world = World::new(true).await;
    let big = vec![1; 120_000];
    let ids: Vec<_> = (0..40).map(|n| BlockId::new(format!("{n}")).unwrap()).collect();
    for round in 0..3 {
        for (n, id) in ids.iter().enumerate() {
            let version = round * 100 + n as u64 + 1;
            world.cache.commit(vec![world.put(id, version, &big)]).await.unwrap();
        }
    }
    for file in std::fs::read_dir(world.folder.path().join(world.account.to_string())).unwrap() {
        let header = std::fs::read(file.unwrap().path()).unwrap();
        let meta = BlockMeta::decode(&header[40..files::HEADER_LEN]).unwrap();
        assert!(meta.version.number() > 200, "{meta:?}");
    }
    assert!(world.cache.status().disk.unwrap().blocks > 0);
}

#[tokio::test]
async fn an_only_writer_asks_nobody_and_reads_no_older_version_though_a_writer_gives_up() {
    let world = World::set_up(|settings| settings.only_writer(true)).await;
    let id = id();
    world.cache.commit(vec![world.put(&id, 1, b"one")]).await.unwrap();
    // The store would wait at the gate.
    let hit = world.cache.fetch(world.account, &id).await.unwrap().unwrap();
    assert_eq!((hit.1, world.cache.status().memory.hits), (Bytes::from_static(b"one"), 1));
    assert_eq!(world.cache.stat(world.account, &id).await.unwrap(), Some(hit.0));

    // The store has applied it, and its answer is under way when the caller gives up.
    world.store.slow.store(true, Ordering::Relaxed);
    let (cache, put) = (world.cache.clone(), world.put(&id, 2, b"two"));
    let commit = tokio::spawn(async move { cache.commit(vec![put]).await });
    world.store.read.acquire().await.unwrap().forget();
    commit.abort();
    assert!(commit.await.unwrap_err().is_cancelled());
    assert_eq!(world.cache.usage_of(world.account), HotCached::default(), "nothing while it is under way");
    let read = world.begin_read(&id).await;
    world.store.gate.add_permits(1);
    assert_eq!(world.end_read(read).await, "two");
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    // It went to its end and brought in what it wrote.
    let hit = world.cache.fetch(world.account, &id).await.unwrap().unwrap();
    assert_eq!((hit.1, world.cache.status().memory.hits), (Bytes::from_static(b"two"), 2));
}

#[tokio::test]
async fn an_only_writer_asks_again_where_a_commit_failed_and_nobody_knows_how_far_it_came() {
    let world = World::set_up(|settings| settings.only_writer(true)).await;
    let id = id();
    world.cache.commit(vec![world.put(&id, 1, b"one")]).await.unwrap();
    world.store.store.close().await.unwrap();
    world.cache.commit(vec![world.put(&id, 2, b"two")]).await.unwrap_err();
    assert_eq!(world.cache.usage_of(world.account), HotCached::default());
    assert!(!world.cache.changes.is_sure(&Key::of(world.account, &id)));
}

#[tokio::test]
async fn a_block_that_is_sealed_anew_is_taken_out_and_no_read_mixes_two_sealings() {
    for fill_on_put in [true, false] {
        let world = World::new(fill_on_put).await;
        let id = id();
        world.cache.commit(vec![world.put(&id, 1, b"one sealing")]).await.unwrap();
        let before = world.cache.stat(world.account, &id).await.unwrap().unwrap();
        let reseal = |epoch, sealed: &[u8]| {
            let BlockOp::Put { account, id, meta, sealed } = world.put(&id, 1, sealed) else { panic!() };
            BlockOp::Reseal { account, id, meta: BlockMeta { epoch: Epoch::new(epoch), ..meta }, sealed }
        };
        // One is being read when it is sealed anew, by this engine and, after that, by another.
        let read = world.begin_read_of_the_store(&id, fill_on_put).await;
        world.cache.commit(vec![reseal(2, b"two sealing")]).await.unwrap();
        if let Some(read) = read {
            assert_eq!(world.end_read(read).await, "one sealing", "as of when it was read");
        }
        assert_eq!(world.cache.usage_of(world.account), HotCached::default());
        assert_eq!(world.cache.read(world.account, &id, &before, &[0..3, 4..11]).await.unwrap(), None);
        for (epoch, sealed) in [(2, "two sealing"), (3, "thr sealing")] {
            if epoch == 3 {
                world.store.commit(vec![reseal(3, sealed.as_bytes())]).await.unwrap();
            }
            world.store.gate.add_permits(1);
            let (at, found) = world.cache.fetch(world.account, &id).await.unwrap().unwrap();
            assert_eq!((at.meta.epoch, found), (Epoch::new(epoch), Bytes::from(sealed)));
            let ranges = world.cache.read(world.account, &id, &at, &[0..3, 4..11]).await.unwrap().unwrap();
            assert_eq!(ranges, [&sealed.as_bytes()[..3], b"sealing"]);
            assert_eq!(world.cache.usage_of(world.account).memory.blocks, 1, "it came in");
        }
    }
}

#[tokio::test]
async fn an_account_whose_blocks_are_removed_leaves_the_cache_with_what_is_being_read_of_it() {
    for only_writer in [false, true] {
        let set: fn(HotCacheSettings) -> HotCacheSettings =
            if only_writer { |set| set.only_writer(true) } else { |set| set };
        let world = World::set_up(set).await;
        let (small, large, late) = (id(), BlockId::new("large").unwrap(), BlockId::new("late").unwrap());
        world.cache.commit(vec![world.put(&small, 1, b"one")]).await.unwrap();
        world.cache.commit(vec![world.put(&large, 2, &[2; 131_000])]).await.unwrap();
        world.store.commit(vec![world.put(&late, 3, b"three")]).await.unwrap();
        let other = AccountId::from_bytes([8; 16]);
        let BlockOp::Put { id, meta, sealed, .. } = world.put(&small, 4, b"other") else { panic!() };
        world.cache.commit(vec![BlockOp::Put { account: other, id, meta, sealed }]).await.unwrap();
        world.cache.settle().await;
        let cached = world.cache.usage_of(world.account);
        assert_eq!((cached.memory.blocks, cached.disk.blocks), (1, 1));
        let read = world.begin_read(&late).await;
        assert_eq!(world.cache.remove_blocks(world.account, 2).await.unwrap(), 2);
        assert_eq!(world.end_read(read).await, "three");
        assert_eq!(world.cache.remove_blocks(world.account, 2).await.unwrap(), 1);
        assert_eq!(world.cache.remove_blocks(world.account, 2).await.unwrap(), 0);
        world.cache.settle().await;
        assert_eq!(world.cache.usage_of(world.account), HotCached::default());
        world.store.gate.add_permits(9);
        for id in [&small, &large, &late] {
            assert_eq!(world.cache.fetch(world.account, id).await.unwrap(), None);
        }
        assert_eq!(world.cache.usage_of(other).memory.blocks, 1);
        assert_eq!(world.cache.fetch(other, &small).await.unwrap().unwrap().1, "other");
    }
}

/// The executor gives up what it was given: nobody waits for ever, and the next one works.
#[tokio::test]
async fn work_that_is_dropped_is_nobodys_loss() {
    #[derive(Debug)]
    struct Dropping;
    impl cofferdam_vault::Executor for Dropping {
        fn execute(&self, job: cofferdam_vault::Job) {
            drop(job);
        }
    }
    let options = EmbeddedOptions { executor: Arc::new(Inline), ..EmbeddedOptions::default() };
    let store = Arc::new(EmbeddedStore::create_on(Arc::new(FaultyFile::new()), options).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let settings = HotCacheSettings::new(1 << 20).disk(folder.path(), 1 << 20).executor(Arc::new(Dropping));
    let clock = Arc::new(ManualClock::new(Timestamp { boot: NOW, wall: NOW }));
    let cache = HotCache::open(store, &settings, clock, &SeededEntropy::new(1), &AllWell).await.unwrap();
    let account = AccountId::from_bytes([7; 16]);
    cache.settle().await;
    cache.purge(BTreeSet::from([account]), "test").await;
    assert_eq!((cache.status().purges, cache.owed().len()), (0, 1), "it is tried again");
    cache.sweep().await;
    BlockStore::close(&*cache).await.unwrap();
}
