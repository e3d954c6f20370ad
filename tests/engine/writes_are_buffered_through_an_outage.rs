//! An outage of the customer's vault costs nothing within the grace, and no write after it: those are buffered, and are
//! in their place once the vault is back.

use std::time::Duration;

use cofferdam::{
    crypto::{BlockId, Provider},
    keyring::KeyState,
    store::{BlockStore, BufferChange, EngineErrorKind, Moved, Outcome, Place},
};
use tokio::time::{Instant, sleep, sleep_until};

use crate::world::{
    GRACE, POLL, TIME_OUT, World, buffered, holds, id, is_unavailable, key_state, name, scale, stored,
};

#[tokio::test(start_paused = true)]
async fn an_outage_shorter_than_the_grace_fails_no_operation_and_none_waits_longer_than_a_time_out() {
    for hanging in [false, true] {
        let world = World::new(51).await;
        let account = world.contoso().await;
        stored(account.put(&id("block"), "content".into()).await);
        match hanging {
            true => world.way.set_hanging(true),
            false => world.customer.set_offline(true).await.unwrap(),
        }
        let began = Instant::now();
        let mut longest = Duration::ZERO;
        while began.elapsed() < GRACE - Duration::from_secs(60) {
            let asked = Instant::now();
            stored(account.put(&id("block"), "content".into()).await);
            longest = longest.max(asked.elapsed());
            let asked = Instant::now();
            assert_eq!(account.get(&id("block")).await.unwrap(), "content");
            longest = longest.max(asked.elapsed());
            sleep(Duration::from_millis(3137)).await;
        }
        assert!(longest <= TIME_OUT, "{longest:?}");
        assert_eq!(key_state(&account).await, KeyState::Grace);
        world.way.set_hanging(false);
        world.customer.set_offline(false).await.unwrap();
        sleep(POLL).await;
        assert_eq!(key_state(&account).await, KeyState::Active);
        world.engine.close().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn no_write_of_an_outage_past_the_grace_fails_or_waits_longer_than_a_time_out() {
    let world = World::new(52).await;
    let account = world.contoso().await;
    stored(account.put(&id("block"), "content".into()).await);
    world.way.set_hanging(true);
    let began = Instant::now();
    let (mut longest, mut last) = (Duration::ZERO, Outcome::Stored);
    while began.elapsed() < GRACE + Duration::from_secs(20 * 60) {
        let asked = Instant::now();
        let receipt = account.put(&id("block"), "content".into()).await.unwrap();
        longest = longest.max(asked.elapsed());
        assert!(last == Outcome::Stored || receipt.outcome == Outcome::Buffered, "it does not go back");
        last = receipt.outcome;
        sleep(Duration::from_millis(6007)).await;
    }
    assert_eq!(last, Outcome::Buffered);
    // Also who comes after a long time in which nobody asked.
    sleep(Duration::from_secs(3 * 3600)).await;
    let asked = Instant::now();
    buffered(account.put(&id("block"), "content".into()).await);
    longest = longest.max(asked.elapsed());
    assert!(longest <= TIME_OUT, "{longest:?}");
}

#[tokio::test(start_paused = true)]
async fn at_usable_until_writes_turn_from_stored_to_buffered_and_reads_end() {
    let world = World::new(53).await;
    let account = world.contoso().await;
    stored(account.put(&id("block"), "content".into()).await);
    world.customer.set_offline(true).await.unwrap();
    sleep(Duration::from_secs(600)).await;
    stored(account.put(&id("block"), "in grace".into()).await);
    let usable_until = account.key_status().await.unwrap().key.usable_until.unwrap();
    let left = |of: &World| usable_until.boot - cofferdam::vault::Clock::now(&*of.clock).boot;
    let end = Instant::now() + left(&world);
    let ms = Duration::from_millis(1);

    sleep_until(end - ms).await;
    stored(account.put(&id("block"), "the last one".into()).await);
    assert_eq!(account.get(&id("block")).await.unwrap(), "the last one");
    sleep_until(end + ms).await;
    buffered(account.put(&id("block"), "the first one".into()).await);
    let answer = account.get(&id("block")).await;
    assert!(is_unavailable(&answer), "{answer:?}");
    let answer = account.get_range(&id("block"), 0..3).await;
    assert!(is_unavailable(&answer), "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn an_hour_of_buffered_writes_is_all_there_afterwards_each_once_and_never_in_the_clear() {
    let world = World::new(54).await;
    let account = world.contoso().await;
    let (puts, before) = (scale(10_000, 1_000), 20);
    let content = |n: usize| format!("canary {:02} of 20: 5105-1051-0510-5100, put {n}", n % 20);
    let block = |n: usize| BlockId::new(format!("block-{n:05}")).unwrap();
    for n in 0..before {
        stored(account.put(&block(n), content(n).into()).await);
    }
    world.lose_key(&account).await;
    let mut events = world.engine.buffer_events();

    let pause = Duration::from_secs(3600) / puts as u32;
    for n in before..before + puts {
        // Every tenth in a batch of its own kind, with one large block.
        if n % 10 == 0 {
            let large = content(n).repeat(2000);
            let receipts = account.put_batch(vec![(block(n), large.into())]).await.unwrap();
            assert_eq!(receipts[0].outcome, Outcome::Buffered);
        } else {
            buffered(account.put(&block(n), content(n).into()).await);
        }
        if n % 50 == 0 {
            let answer = account.get(&block(n)).await;
            assert!(is_unavailable(&answer), "{answer:?}");
        }
        sleep(pause).await;
    }
    let listed = account.list(None, 2 * puts).await.unwrap().blocks;
    assert_eq!(listed.len(), before + puts, "a list needs no key");
    assert_eq!(listed.iter().filter(|b| b.place == Place::Buffer).count(), puts);
    let status = account.status().await.unwrap();
    assert_eq!((status.blocks, status.buffer.blocks), ((before + puts) as u64, puts as u64));
    assert!(status.buffer.since.is_some());
    let held = status.buffer.bytes;
    assert_no_canaries(&world);

    world.regain_key(&account).await;
    for n in 0..before + puts {
        let want = if n >= before && n % 10 == 0 { content(n).repeat(2000) } else { content(n) };
        assert_eq!(account.get(&block(n)).await.unwrap(), want, "block {n}");
    }
    let listed = account.list(None, 2 * puts).await.unwrap().blocks;
    let ids: std::collections::BTreeSet<_> = listed.iter().map(|b| &b.id).collect();
    assert_eq!((listed.len(), ids.len()), (before + puts, before + puts), "each is there once");
    for info in &listed {
        assert_eq!((info.place, info.provider), (Place::Store, Provider::Customer), "{:?}", info.id);
    }
    assert_eq!(world.store.buffer_usage(account.id()).await.unwrap(), None);
    assert!(world.store.buffered(account.id(), None, 10).await.unwrap().is_empty());

    let all = Moved { blocks: puts as u64, bytes: held };
    assert_eq!(account.key_status().await.unwrap().buffer.drained, all);
    assert_eq!(events.recv().await.unwrap().what, BufferChange::Began);
    let mut drained = Moved::default();
    loop {
        match events.recv().await.unwrap().what {
            BufferChange::Drained { moved, left } => {
                drained.blocks += moved.blocks;
                drained.bytes += moved.bytes;
                assert_eq!(left.blocks, all.blocks - drained.blocks, "progress is told");
                assert_eq!(left.bytes, all.bytes - drained.bytes);
            }
            what => {
                assert_eq!(what, BufferChange::Finished { drained: all });
                break;
            }
        }
    }
    assert_eq!(drained, all);
    assert_no_canaries(&world);
    world.engine.close().await.unwrap();
    assert_no_canaries(&world);
}

fn assert_no_canaries(world: &World) {
    assert!(holds(world.path(), b"block-00007"), "the search finds what is there in the clear");
    for n in 0..20 {
        assert!(!holds(world.path(), format!("canary {n:02} of 20").as_bytes()), "canary {n} is on disk");
    }
}

#[tokio::test(start_paused = true)]
async fn without_the_services_own_key_nothing_is_acknowledged_and_the_error_says_so() {
    let mut world = World::new(55).await;
    world.contoso().await;
    world.service.set_offline(true).await.unwrap();
    world.customer.set_offline(true).await.unwrap();
    world.restart().await;
    let account = world.contoso_again().await;
    let error = account.put(&id("block"), "content".into()).await.unwrap_err();
    assert_eq!(error.kind(), EngineErrorKind::Unavailable);
    assert!(error.to_string().contains("service key"), "{error}");
    assert_eq!(world.store.buffer_usage(account.id()).await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn an_account_that_is_cold_in_an_outage_buffers_too() {
    let mut world = World::new(56).await;
    let account = world.contoso().await;
    stored(account.put(&id("old"), "content".into()).await);
    world.customer.set_offline(true).await.unwrap();
    world.restart().await;
    let account = world.contoso_again().await;
    buffered(account.put(&id("new"), "content".into()).await);
    assert!(is_unavailable(&account.get(&id("new")).await));
    world.regain_key(&account).await;
    for block in ["old", "new"] {
        assert_eq!(account.get(&id(block)).await.unwrap(), "content");
    }
}

#[tokio::test(start_paused = true)]
async fn an_account_under_the_services_key_buffers_nothing() {
    let mut world = World::new(57).await;
    let key = cofferdam::store::AccountKey::Service;
    let account = world.engine.create_account(&name("fabrikam"), key).await.unwrap();
    stored(account.put(&id("block"), "content".into()).await);
    world.service.set_offline(true).await.unwrap();
    world.restart().await;
    let account = world.engine.account(&name("fabrikam")).await.unwrap();
    let answer = account.put(&id("block"), "late".into()).await;
    assert!(is_unavailable(&answer), "{answer:?}");
}
