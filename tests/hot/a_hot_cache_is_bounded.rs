//! The bounds of a hot cache: bytes, age, what of a block comes in, and what outlives a restart.

use std::time::Duration;

use cofferdam::store::{AccountKey, HotCacheSettings};
use tokio::time::sleep;

use crate::{
    cached::{HOUR, MIB, SWEPT, content, files, folder, hits, on_disk, status},
    world::{World, id, name, stored},
};

const DAY: Duration = Duration::from_secs(24 * 3600);

#[tokio::test(start_paused = true)]
async fn bytes_in_memory_and_on_disk_stay_within_their_bounds() {
    let world = World::new(421).await;
    let engine = world.cached(on_disk(&world, MIB, 2 * MIB)).await.unwrap();
    let account = engine.create_account(&name("house"), AccountKey::Service).await.unwrap();
    for n in 0..150u64 {
        let len = 1000 + (n as usize * 7919) % 120_000;
        stored(account.put(&id(&n.to_string()), content(n, len)).await);
        engine.settle_hot_cache().await;
        let status = status(&engine);
        let disk = status.disk.unwrap();
        assert!(status.memory.bytes <= MIB && disk.bytes <= 2 * MIB, "{status:?}");
        let (files, _) = files(&folder(&world));
        let bytes: u64 = files.iter().map(|file| file.metadata().unwrap().len().next_multiple_of(4096)).sum();
        assert_eq!((files.len() as u64, bytes), (disk.blocks, disk.bytes));
    }
    let status = status(&engine);
    assert!(status.memory.bytes > MIB / 2 && status.disk.unwrap().bytes > MIB, "{status:?}");
}

#[tokio::test(start_paused = true)]
async fn a_block_is_cached_for_14_days_and_then_deleted() {
    let world = World::new(422).await;
    let engine = world.cached(on_disk(&world, MIB, 64 * MIB)).await.unwrap();
    let account = engine.create_account(&name("house"), AccountKey::Service).await.unwrap();
    for n in 0..30u64 {
        stored(account.put(&id(&n.to_string()), content(n, 60_000)).await);
    }
    sleep(14 * DAY - HOUR).await;
    engine.settle_hot_cache().await;
    let cached = account.hot_cached();
    assert!(cached.memory.blocks > 0 && cached.disk.blocks > 0, "{cached:?}");
    let before = hits(&engine);
    account.get(&id("29")).await.unwrap();
    assert_eq!(hits(&engine), before + 1);
    sleep(HOUR + Duration::from_secs(1)).await;
    let before = hits(&engine);
    assert_eq!(account.get(&id("29")).await.unwrap(), content(29, 60_000));
    account.get_range(&id("28"), 0..9).await.unwrap();
    assert_eq!(hits(&engine), before, "it is too old, and comes in no more");
    sleep(SWEPT).await;
    assert_eq!(account.hot_cached(), Default::default());
    assert_eq!(files(&folder(&world)).0.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_written_comes_in_at_once_or_with_the_first_read_as_the_setting_says() {
    let world = World::new(423).await;
    for fill in [true, false] {
        let engine = world.cached(HotCacheSettings::new(MIB).fill_on_put(fill)).await.unwrap();
        let account = engine.create_account(&name(&format!("a-{fill}")), AccountKey::Service).await.unwrap();
        let (block, data) = (id("block"), content(1, 50_000));
        stored(account.put(&block, data.clone()).await);
        assert_eq!(account.hot_cached().memory.blocks, u64::from(fill));
        // A range fetches no block.
        assert_eq!(account.get_range(&block, 7..70).await.unwrap(), data.slice(7..70));
        assert_eq!(account.hot_cached().memory.blocks, u64::from(fill));
        account.get(&block).await.unwrap();
        account.get_range(&block, 7..70).await.unwrap();
        assert_eq!((hits(&engine), status(&engine).misses), if fill { (3, 0) } else { (1, 2) });
        // A newer version takes its place, a delete removes it.
        stored(account.put(&block, "short".into()).await);
        assert_eq!(account.hot_cached().memory.blocks, u64::from(fill));
        assert!(account.delete(&block).await.unwrap());
        assert_eq!(account.hot_cached().memory.blocks, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_block_larger_than_an_eighth_goes_to_disk_or_nowhere() {
    let world = World::new(424).await;
    let engine = world.cached(on_disk(&world, MIB, 2 * MIB)).await.unwrap();
    let account = engine.create_account(&name("house"), AccountKey::Service).await.unwrap();
    for (block, len) in [("small", 100_000), ("large", 200_000), ("huge", 300_000)] {
        stored(account.put(&id(block), content(1, len)).await);
    }
    engine.settle_hot_cache().await;
    let cached = account.hot_cached();
    assert_eq!((cached.memory.blocks, cached.disk.blocks), (1, 1));
    for (block, len) in [("small", 100_000), ("large", 200_000), ("huge", 300_000)] {
        assert_eq!(account.get(&id(block)).await.unwrap(), content(1, len));
    }
    let status = status(&engine);
    assert_eq!((status.memory.hits, status.disk.unwrap().hits, status.misses), (1, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn what_is_on_disk_outlives_a_restart_and_what_was_overwritten_meanwhile_is_not_read() {
    let mut world = World::new(425).await;
    let engine = world.cached(on_disk(&world, MIB, 64 * MIB)).await.unwrap();
    let account = engine.create_account(&name("house"), AccountKey::Service).await.unwrap();
    for n in 0..60u64 {
        stored(account.put(&id(&n.to_string()), content(n, 60_000)).await);
    }
    engine.settle_hot_cache().await;
    let on_disk_before = account.hot_cached().disk.blocks;
    assert!(on_disk_before > 30);
    engine.close().await.unwrap();
    world.restart().await;
    // Somebody without a cache writes to the store.
    let bare = world.engine.account(&name("house")).await.unwrap();
    for n in (0..60u64).step_by(2) {
        stored(bare.put(&id(&n.to_string()), content(1000 + n, 60_000)).await);
    }
    let engine = world.cached(on_disk(&world, MIB, 64 * MIB)).await.unwrap();
    let account = engine.account(&name("house")).await.unwrap();
    assert_eq!(account.hot_cached().disk.blocks, on_disk_before);
    for n in 0..60u64 {
        let seed = if n % 2 == 0 { 1000 + n } else { n };
        assert_eq!(account.get(&id(&n.to_string())).await.unwrap(), content(seed, 60_000));
    }
    let disk = status(&engine).disk.unwrap();
    assert!(disk.hits > 10 && disk.hits <= 30, "{disk:?}");
    engine.close().await.unwrap();
}
