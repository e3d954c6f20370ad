//! What was buffered is drained once, whatever happens to the process, and however many engines share the store.

use std::{sync::Arc, time::Duration};

use cofferdam::{
    crypto::{BlockId, Version},
    store::{
        Account, BlockOp, BlockStore, BufferChange, BufferEvent, BufferLimit, DrainBlocked, EmbeddedOptions,
        EmbeddedStore, EngineError, Moved, StoreErrorKind, TroubleKind,
    },
    vault::Inline,
};
use tokio::{sync::broadcast, time::sleep};

use crate::world::{MODES, POLL, World, buffered, id, name, stored};

const BLOCKS: u8 = 24;

fn block(n: u8) -> BlockId {
    BlockId::new([b'b', n]).unwrap()
}

async fn fill(account: &Account) {
    for n in 0..BLOCKS {
        buffered(account.put(&block(n), vec![n; 400_000].into()).await);
    }
}

async fn assert_all_there(world: &World) {
    let account = world.contoso_again().await;
    assert_eq!(account.drain().await.unwrap().left, None);
    for n in 0..BLOCKS {
        assert_eq!(account.get(&block(n)).await.unwrap(), vec![n; 400_000], "block {n}");
    }
    assert_eq!(account.list(None, 100).await.unwrap().blocks.len(), usize::from(BLOCKS));
}

/// What a listener has been told so far, of blocks that were drained.
fn drained(events: &mut broadcast::Receiver<BufferEvent>) -> Moved {
    let mut all = Moved::default();
    while let Ok(event) = events.try_recv() {
        if let BufferChange::Drained { moved, .. } = event.what {
            all.blocks += moved.blocks;
            all.bytes += moved.bytes;
        }
    }
    all
}

#[tokio::test(start_paused = true)]
async fn a_process_that_ends_in_the_outage_leaves_it_to_the_next_which_drains_by_itself() {
    for &mode in MODES {
        for crash in [false, true] {
            let mut world = World::in_mode(mode, 91).await;
            let account = world.contoso().await;
            world.lose_key(&account).await;
            fill(&account).await;
            drop(account);
            match crash {
                true => world.crash().await,
                false => world.restart().await,
            }
            // Nobody uses the account: the engine looks it up.
            sleep(Duration::from_secs(600)).await;
            let reports = world.engine.drain().await.unwrap();
            let [report] = reports.as_slice() else { panic!("{reports:?}") };
            assert_eq!(report.name, Some(name("contoso")));
            assert_eq!(report.left.unwrap().blocks, u64::from(BLOCKS));
            assert!(matches!(report.blocked, Some(DrainBlocked::KeyUnavailable(_))), "{report:?}");
            world.customer.set_offline(false).await.unwrap();
            sleep(POLL).await;
            let reports = world.engine.drain().await.unwrap();
            let [report] = reports.as_slice() else { panic!("{reports:?}") };
            assert_eq!((report.left, report.drained.blocks), (None, u64::from(BLOCKS)));
            assert_all_there(&world).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_opens_after_the_outage_drains_before_drain_returns() {
    for &mode in MODES {
        let mut world = World::in_mode(mode, 92).await;
        let account = world.contoso().await;
        world.lose_key(&account).await;
        fill(&account).await;
        drop(account);
        world.crash().await;
        world.customer.set_offline(false).await.unwrap();
        world.restart().await;
        // As a program does that ends after one command.
        let reports = world.engine.drain().await.unwrap();
        assert_eq!(reports.len(), 1);
        assert_eq!((reports[0].left, reports[0].drained.blocks), (None, u64::from(BLOCKS)));
        assert_all_there(&world).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_that_ends_in_the_drain_leaves_the_rest_to_the_next_and_drains_nothing_twice() {
    for &mode in MODES {
        for batches in 1..6 {
            let mut world = World::in_mode(mode, 93).await;
            let account = world.contoso().await;
            world.lose_key(&account).await;
            fill(&account).await;
            let mut events = world.engine.buffer_events();
            world.customer.set_offline(false).await.unwrap();
            let mut first = 0;
            for _ in 0..batches {
                let what = events.recv().await.unwrap().what;
                let BufferChange::Drained { moved, .. } = what else { panic!("{what:?}") };
                first += moved.blocks;
            }
            drop(account);
            world.crash().await;
            first += drained(&mut events).blocks;
            let mut events = world.engine.buffer_events();
            world.engine.drain().await.unwrap();
            assert_eq!(first + drained(&mut events).blocks, u64::from(BLOCKS), "after {batches} batches");
            assert!(first < u64::from(BLOCKS));
            assert_all_there(&world).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn two_engines_over_one_store_drain_each_block_once() {
    for &mode in MODES {
        let world = World::in_mode(mode, 94).await;
        let account = world.contoso().await;
        world.lose_key(&account).await;
        fill(&account).await;
        let twin = world.twin().await;
        let mut events = [world.engine.buffer_events(), twin.buffer_events()];
        // The other engine writes, too.
        let again = twin.account(&name("contoso")).await.unwrap();
        buffered(again.put(&block(0), vec![0; 400_000].into()).await);
        world.customer.set_offline(false).await.unwrap();
        sleep(2 * POLL).await;
        world.engine.drain().await.unwrap();
        twin.drain().await.unwrap();
        let [one, other] = events.each_mut().map(|events| drained(events).blocks);
        assert_eq!(one + other, u64::from(BLOCKS), "{one} and {other}");
        assert_all_there(&world).await;
    }
}

#[tokio::test(start_paused = true)]
async fn closing_drains_what_it_can_while_the_key_is_usable_and_does_not_wait_for_one_that_is_not() {
    for &mode in MODES {
        let mut world = World::in_mode(mode, 95).await;
        let account = world.contoso().await;
        world.lose_key(&account).await;
        fill(&account).await;
        let began = tokio::time::Instant::now();
        world.restart().await;
        assert_eq!(began.elapsed(), Duration::ZERO, "there was nothing to wait for");
        assert_eq!(world.store.buffer_usage(account.id()).await.unwrap().unwrap().blocks, u64::from(BLOCKS));

        let mut events = world.engine.buffer_events();
        world.customer.set_offline(false).await.unwrap();
        while !matches!(events.recv().await.unwrap().what, BufferChange::Drained { .. }) {}
        world.restart().await;
        assert_eq!(world.store.buffer_usage(account.id()).await.unwrap(), None, "closing went on with it");
        assert_all_there(&world).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_engine_whose_last_handle_is_dropped_lets_go_of_the_store() {
    for &mode in MODES {
        let world = World::in_mode(mode, 96).await;
        let path = world.path().join("other.store");
        let options = || EmbeddedOptions { executor: Arc::new(Inline), ..Default::default() };
        let store = EmbeddedStore::create(&path, options()).unwrap();
        let engine = world.engine_over(&store, world.clock.clone()).await;
        let account = engine.create_account(&name("fabrikam"), world.customer_key()).await.unwrap();
        world.lose_key(&account).await;
        buffered(account.put(&id("block"), "content".into()).await);
        // Something waits, and the way to the vault hangs: the drain is in the middle of asking.
        world.way.set_hanging(true);
        sleep(Duration::from_secs(31)).await;
        drop((engine, store));
        sleep(Duration::from_secs(600)).await;
        let still_open = EmbeddedStore::open(&path, options()).unwrap_err();
        assert_eq!(still_open.kind(), StoreErrorKind::Locked, "an account is a handle, too");
        drop(account);
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        EmbeddedStore::open(&path, options()).unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_damaged_block_stays_and_stops_no_other_and_is_told_of() {
    for &mode in MODES {
        let mut world = World::in_mode(mode, 97).await;
        let account = world.contoso().await;
        world.lose_key(&account).await;
        fill(&account).await;
        world.engine.close().await.unwrap();
        // Somebody swaps the ciphertext of two blocks, whose lengths are the same.
        let (four, five) = (block(4), block(5));
        let store = world.reopened_store();
        let (at, sealed) = store.fetch(account.id(), &four).await.unwrap().unwrap();
        let segment = match at.meta.provider.segment() {
            Some(segment) => store.segment(account.id(), segment).await.unwrap().map(|row| row.record),
            None => None,
        };
        let newest = store.last_version().await.unwrap().number();
        let mut meta = at.meta;
        meta.version = Version::new(newest + 1);
        let limit = BufferLimit { bytes: u64::MAX, since: Duration::ZERO };
        let op = BlockOp::Buffer { account: account.id(), id: five.clone(), meta, sealed, limit, segment };
        store.commit(vec![op]).await.unwrap();
        world.store = store;
        world.engine = world.twin().await;
        let account = world.contoso_again().await;
        let mut events = world.engine.buffer_events();
        world.customer.set_offline(false).await.unwrap();
        sleep(2 * POLL).await;
        let report = account.drain().await.unwrap();
        assert_eq!(report.blocked, Some(DrainBlocked::Damaged { blocks: 1 }));
        assert_eq!((report.left.unwrap().blocks, report.drained.blocks), (1, u64::from(BLOCKS) - 1));
        let trouble = account.key_status().await.unwrap().buffer.trouble.unwrap();
        assert_eq!(trouble.kind, TroubleKind::Damaged(five.clone()));
        let mut told = 0;
        while let Ok(event) = events.try_recv() {
            told += usize::from(matches!(event.what, BufferChange::Trouble(_)));
        }
        assert_eq!(told, 1, "once");
        let answer = account.get(&five).await;
        assert!(matches!(answer, Err(EngineError::Damaged { .. })), "{answer:?}");
        assert_eq!(account.get(&four).await.unwrap(), vec![4; 400_000]);
        // Written again it is whole, and nothing is left.
        stored(account.put(&five, vec![5; 400_000].into()).await);
        assert_eq!(world.store.buffer_usage(account.id()).await.unwrap(), None);
        assert_all_there(&world).await;
    }
}
