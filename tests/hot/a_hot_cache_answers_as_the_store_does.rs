//! Whatever is written, deleted, read, revoked, restarted, waited for, by an engine with a hot cache or by another one: the
//! cache answers as the store does, keeps its bounds, and holds nothing of a revoked account.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use cofferdam::store::{AccountKey, EmbeddedOptions, HotCacheSettings};
use tokio::runtime::Builder;

use crate::{
    cached::{self, Figures, MIB, hits},
    world::{World, id, name, scale},
};

#[test]
fn any_interleaving_reads_what_a_model_says_through_the_cache() {
    let (seeds, mut all) = (scale(1000, 12) as u64, Figures::default());
    for seed in 0..seeds {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        match runtime.block_on(cached::run(seed, 150)) {
            Ok(figures) => all.add(&figures),
            Err(violation) => panic!("seed {seed}: {violation}"),
        }
    }
    println!("{seeds} seeds: {all:?}, 0 stale, 0 differ");
    assert!(all.memory_hits > 0 && all.disk_hits > 0 && all.purged_blocks > 0 && all.restarts > 0);
}

/// With threads and real time: who begins to read after a write was acknowledged reads it, or a later one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_reads_what_was_overwritten_before_the_read_began() {
    let writes = scale(3000, 150) as u64;
    for only_writer in [false, true] {
        let world = World::threaded(431, EmbeddedOptions::default()).await;
        let engine = world.cached(HotCacheSettings::new(MIB).only_writer(only_writer)).await.unwrap();
        let account = engine.create_account(&name("house"), AccountKey::Service).await.unwrap();
        let acknowledged: Arc<Vec<AtomicU64>> = Arc::new((0..4).map(|_| AtomicU64::new(0)).collect());
        let mut tasks = Vec::new();
        for n in 0..4 {
            let (account, acknowledged, block) = (account.clone(), acknowledged.clone(), id(&n.to_string()));
            account.put(&block, 0u64.to_be_bytes().to_vec().into()).await.unwrap();
            tasks.push(tokio::spawn(async move {
                for count in 1..=writes {
                    account.put(&block, count.to_be_bytes().to_vec().into()).await.unwrap();
                    acknowledged[n].store(count, Ordering::SeqCst);
                    for _ in 0..8 {
                        assert_eq!(account.get(&block).await.unwrap(), count.to_be_bytes().as_slice());
                        tokio::task::yield_now().await;
                    }
                }
            }));
        }
        for _ in 0..4 {
            let (account, acknowledged) = (account.clone(), acknowledged.clone());
            tasks.push(tokio::spawn(async move {
                let mut turn = 0;
                while acknowledged.iter().any(|count| count.load(Ordering::SeqCst) < writes) {
                    turn += 1;
                    let n = turn % 4;
                    let before = acknowledged[n].load(Ordering::SeqCst);
                    let read = account.get(&id(&n.to_string())).await.unwrap();
                    let read = u64::from_be_bytes(read.as_ref().try_into().unwrap());
                    assert!(read >= before, "block {n}: {read} was read after {before} was acknowledged");
                    tokio::task::yield_now().await;
                }
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
        println!(
            "{} writes beside reads, only writer {only_writer}: {} hits, 0 stale",
            4 * writes,
            hits(&engine)
        );
        assert!(hits(&engine) > 0);
        engine.close().await.unwrap();
    }
}
