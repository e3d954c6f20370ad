//! Whatever is wrong with the cache's files or disk, every read is right and none fails; a folder that is not a cache's, or
//! in use, is refused.

use std::fs;

use cofferdam::store::{Account, Engine, EngineError, HotCacheFaults, HotCacheSettings, StoreErrorKind};
use tokio::time::sleep;

use crate::{
    cached::{HOUR, MIB, Rng, content, files, folder, hits, on_disk, status},
    world::{World, id, name, scale, stored},
};

const BLOCKS: u64 = 40;
const LEN: usize = 48 << 10;

async fn filled(world: &World, settings: HotCacheSettings) -> (Engine, Account) {
    let engine = world.cached(settings).await.unwrap();
    let account = engine.create_account(&name("contoso"), world.customer_key()).await.unwrap();
    for n in 0..BLOCKS {
        stored(account.put(&id(&n.to_string()), content(n, LEN)).await);
    }
    engine.settle_hot_cache().await;
    (engine, account)
}

async fn all_read(account: &Account) {
    for n in 0..BLOCKS {
        let (block, data) = (id(&n.to_string()), content(n, LEN));
        assert_eq!(account.get_range(&block, 5000..40_000).await.unwrap(), data.slice(5000..40_000));
        assert_eq!(account.get(&block).await.unwrap(), data);
    }
}

#[tokio::test(start_paused = true)]
async fn a_damaged_file_is_read_from_the_store() {
    let world = World::new(411).await;
    let (engine, account) = filled(&world, on_disk(&world, MIB, 64 * MIB)).await;
    let (mut rng, mut damaged) = (Rng(411), 0);
    for _ in 0..scale(400, 8) {
        for path in files(&folder(&world)).0 {
            let mut bytes = fs::read(&path).unwrap();
            if bytes.is_empty() {
                continue;
            }
            let at = rng.below(bytes.len() as u64) as usize;
            match rng.below(6) {
                0 => bytes[at] ^= 1 << rng.below(8),
                // The header, most of the time.
                1 => bytes[at % 78] ^= 1 << rng.below(8),
                2 => bytes.truncate(at),
                3 => bytes.push(0),
                4 => bytes[at..].fill(0),
                _ => bytes.clear(),
            }
            fs::write(path, bytes).unwrap();
            damaged += 1;
        }
        all_read(&account).await;
        engine.settle_hot_cache().await;
    }
    println!("{damaged} files damaged: 0 reads wrong, 0 failed; {} troubles", status(&engine).troubles);
    assert!(status(&engine).troubles > 0 && hits(&engine) > 0);
    // It goes on as a cache.
    all_read(&account).await;
    let before = hits(&engine);
    all_read(&account).await;
    assert!(hits(&engine) > before);
}

#[tokio::test(start_paused = true)]
async fn files_that_were_exchanged_or_taken_away_are_read_from_the_store() {
    let world = World::new(412).await;
    let (engine, account) = filled(&world, on_disk(&world, MIB, 64 * MIB)).await;
    let all = files(&folder(&world)).0;
    assert!(all.len() > 4);
    fs::copy(&all[0], &all[1]).unwrap();
    fs::remove_file(&all[2]).unwrap();
    all_read(&account).await;
    let home = all[0].parent().unwrap();
    fs::remove_dir_all(home).unwrap();
    all_read(&account).await;
    // In its place stands something that no file can be written into.
    engine.settle_hot_cache().await;
    fs::remove_dir_all(home).unwrap();
    fs::write(home, "in the way").unwrap();
    all_read(&account).await;
    engine.settle_hot_cache().await;
    all_read(&account).await;
    assert!(status(&engine).troubles > 0);
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_fails_nothing_and_is_tried_again() {
    let world = World::new(413).await;
    let faults = HotCacheFaults::default();
    faults.set_room(Some(100_000));
    let (engine, account) = filled(&world, on_disk(&world, MIB, 64 * MIB).faults(faults.clone())).await;
    all_read(&account).await;
    let full = status(&engine);
    assert!(full.troubles > 0 && full.skipped_writes > 0 && full.disk.unwrap().blocks <= 2, "{full:?}");
    assert!(files(&folder(&world)).0.len() <= 2, "no half of a file is left");
    println!(
        "a full disk: {} troubles, {} writes skipped, 0 reads failed",
        full.troubles, full.skipped_writes
    );
    faults.set_room(None);
    sleep(HOUR / 60).await;
    all_read(&account).await;
    engine.settle_hot_cache().await;
    assert!(status(&engine).disk.unwrap().blocks > 4);
}

/// With threads and real time, as in production.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fills_under_readers_and_writers_at_once_fails_nothing() {
    let world = World::threaded(414, cofferdam::store::EmbeddedOptions::default()).await;
    let faults = HotCacheFaults::default();
    faults.set_room(Some(500_000));
    let (engine, account) = filled(&world, on_disk(&world, MIB, MIB).faults(faults.clone())).await;
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let account = account.clone();
            tokio::spawn(async move { all_read(&account).await })
        })
        .collect();
    for reader in readers {
        reader.await.unwrap();
    }
    faults.set_room(None);
    engine.settle_hot_cache().await;
    let status = status(&engine);
    assert!(status.memory.bytes <= MIB && status.disk.unwrap().bytes <= MIB);
    engine.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_block_that_is_damaged_in_the_store_is_damaged_with_a_cache_as_well() {
    use cofferdam::store::{BlockOp, BlockStore};
    let world = World::new(415).await;
    let (engine, account) = filled(&world, HotCacheSettings::new(MIB).fill_on_put(false)).await;
    let block = id("7");
    let (at, sealed) = world.store.fetch(account.id(), &block).await.unwrap().unwrap();
    let mut bytes = sealed.to_vec();
    bytes[1000] ^= 1;
    let mut meta = at.meta;
    meta.version = cofferdam::crypto::Version::new(meta.version.number() + 1_000_000);
    let op = BlockOp::Put { account: account.id(), id: block.clone(), meta, sealed: bytes.into() };
    world.store.commit(vec![op]).await.unwrap();
    for _ in 0..3 {
        assert!(matches!(account.get(&block).await, Err(EngineError::Damaged { .. })));
        assert!(matches!(account.get_range(&block, 0..9).await, Err(EngineError::Damaged { .. })));
    }
    assert_eq!(engine.hot_cache().unwrap().memory.blocks, 0, "it is not kept");
}

#[tokio::test(start_paused = true)]
async fn a_folder_that_is_in_use_or_holds_anything_else_is_refused() {
    let world = World::new(416).await;
    let settings = || on_disk(&world, MIB, 64 * MIB);
    let engine = world.cached(settings()).await.unwrap();
    let kind = |opened: Result<Engine, EngineError>| match opened {
        Err(EngineError::Store(e)) => e.kind(),
        opened => panic!("{opened:?}"),
    };
    assert_eq!(kind(world.cached(settings()).await), StoreErrorKind::Locked);
    let others = HotCacheSettings::new(MIB).disk(world.path(), MIB);
    assert_eq!(kind(world.cached(others).await), StoreErrorKind::NotAStore);
    let file = HotCacheSettings::new(MIB).disk(world.path().join("blocks.store"), MIB);
    assert_eq!(kind(world.cached(file).await), StoreErrorKind::AlreadyExists);
    for bad in [HotCacheSettings::new(7), HotCacheSettings::new(MIB).age(HOUR / 2), on_disk(&world, MIB, 7)] {
        assert!(matches!(world.cached(bad).await, Err(EngineError::BadSetting { .. })));
    }
    // Free again once the engine that had it is closed.
    engine.close().await.unwrap();
    let mut world = world;
    world.restart().await;
    world.cached(on_disk(&world, MIB, 64 * MIB)).await.unwrap();
}
