//! After a sync of the store's file has failed nothing is acknowledged any more, neither stored, buffered nor drained; what
//! was acknowledged before is there after the power fails.

use std::{io::ErrorKind, sync::Arc};

use cofferdam::{
    store::{
        BlockStore, DrainBlocked, EmbeddedOptions, EmbeddedStore, EngineError, FaultyFile, FileFault, FileOp,
        Outcome,
    },
    vault::Inline,
};
use tokio::time::sleep;

use crate::world::{POLL, World, buffered, id, name, stored};

fn options() -> EmbeddedOptions {
    EmbeddedOptions { executor: Arc::new(Inline), ..EmbeddedOptions::default() }
}

#[tokio::test(start_paused = true)]
async fn no_write_is_acknowledged_after_a_sync_that_failed_with_eio() {
    for want in [Outcome::Stored, Outcome::Buffered] {
        for nth in 0..4 {
            let world = World::new(111).await;
            let file = FaultyFile::new();
            let store = EmbeddedStore::create_on(Arc::new(file.clone()), options()).unwrap();
            let engine = world.engine_over(&store, world.clock.clone()).await;
            let account = engine.create_account(&name("contoso"), world.customer_key()).await.unwrap();
            if want == Outcome::Buffered {
                world.lose_key(&account).await;
            }
            let mut acknowledged = Vec::new();
            file.fail(FileOp::Sync, nth, FileFault::Error(ErrorKind::Other));
            let mut failed = false;
            for n in 0..20 {
                let block = id(&format!("block-{n:02}"));
                match account.put(&block, format!("content {n}").into()).await {
                    Ok(receipt) => {
                        assert!(!failed, "put {n} was acknowledged after a failed sync ({want:?}, {nth})");
                        assert_eq!(receipt.outcome, want);
                        acknowledged.push((n, block));
                    }
                    Err(e) => {
                        assert!(matches!(e, EngineError::Store(_)), "{e}");
                        failed = true;
                    }
                }
            }
            assert!(failed, "the sync failed");
            drop((engine, account));

            let mut draws = 7u64;
            let after = file.after_crash(|| {
                draws = draws.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(nth);
                draws >> 33
            });
            let store = EmbeddedStore::open_on(Arc::new(after), options()).unwrap();
            world.customer.set_offline(false).await.unwrap();
            let engine = world.engine_over(&store, world.clock.clone()).await;
            let account = engine.account(&name("contoso")).await.unwrap();
            sleep(POLL).await;
            account.drain().await.unwrap();
            for (n, block) in acknowledged {
                assert_eq!(account.get(&block).await.unwrap(), format!("content {n}"), "({want:?}, {nth})");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_meets_a_failing_store_says_so_and_is_done_by_the_next_process() {
    let world = World::new(112).await;
    let file = FaultyFile::new();
    let store = EmbeddedStore::create_on(Arc::new(file.clone()), options()).unwrap();
    let engine = world.engine_over(&store, world.clock.clone()).await;
    let account = engine.create_account(&name("contoso"), world.customer_key()).await.unwrap();
    world.lose_key(&account).await;
    for n in 0..10u8 {
        buffered(account.put(&id(&format!("block-{n}")), vec![n; 900_000].into()).await);
    }
    // Some batches are drained before it fails.
    file.fail(FileOp::Sync, 7, FileFault::Error(ErrorKind::Other));
    world.customer.set_offline(false).await.unwrap();
    sleep(POLL).await;
    let report = engine.drain().await;
    // The handle refuses everything by now, also to say what is left.
    assert!(matches!(report, Err(EngineError::Store(_))), "{report:?}");
    drop((engine, account, store));

    let after = file.after_crash(|| 0);
    let store = EmbeddedStore::open_on(Arc::new(after), options()).unwrap();
    let engine = world.engine_over(&store, world.clock.clone()).await;
    let reports = engine.drain().await.unwrap();
    assert_eq!(reports.len(), 1);
    assert_eq!((reports[0].left, &reports[0].blocked), (None, &None));
    assert!((1..10).contains(&reports[0].drained.blocks), "{reports:?}");
    let account = engine.account(&name("contoso")).await.unwrap();
    for n in 0..10u8 {
        assert_eq!(account.get(&id(&format!("block-{n}"))).await.unwrap(), vec![n; 900_000]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_a_full_disk_and_goes_on_when_there_is_room() {
    let world = World::new(113).await;
    let file = FaultyFile::new();
    let store = EmbeddedStore::create_on(Arc::new(file.clone()), options()).unwrap();
    let engine = world.engine_over(&store, world.clock.clone()).await;
    let account = engine.create_account(&name("contoso"), world.customer_key()).await.unwrap();
    world.lose_key(&account).await;
    for n in 0..10u8 {
        buffered(account.put(&id(&format!("block-{n}")), vec![n; 900_000].into()).await);
    }
    file.set_capacity(Some(file.allocated()));
    let full = account.put(&id("too-much"), vec![0; 1 << 20].into()).await;
    world.customer.set_offline(false).await.unwrap();
    sleep(POLL).await;
    let report = account.drain().await.unwrap();
    if full.is_err() {
        assert!(matches!(report.blocked, Some(DrainBlocked::Trouble(_)) | None), "{report:?}");
    }
    file.set_capacity(None);
    sleep(2 * POLL).await;
    assert_eq!(account.drain().await.unwrap().left, None);
    assert_eq!(store.buffer_usage(account.id()).await.unwrap(), None);
    for n in 0..10u8 {
        assert_eq!(account.get(&id(&format!("block-{n}"))).await.unwrap(), vec![n; 900_000]);
    }
    stored(account.put(&id("later"), "room".into()).await);
}
