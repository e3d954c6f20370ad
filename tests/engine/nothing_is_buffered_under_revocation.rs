//! A denial ends everything at once, also buffering; what was buffered before waits, and is drained when access is back.

use std::time::Duration;

use cofferdam::{
    crypto::Provider,
    keyring::KeyState,
    store::{BlockStore, BufferChange, Catalog, DrainBlocked, EngineErrorKind, Place},
};
use tokio::time::sleep;

use crate::world::{NOTICED, POLL, World, buffered, id, is_revoked, key_state, stored};

#[tokio::test(start_paused = true)]
async fn a_revoked_key_buffers_nothing_not_even_through_an_outage_or_a_restart() {
    let mut world = World::new(81).await;
    let account = world.contoso().await;
    stored(account.put(&id("block"), "content".into()).await);
    world.customer.disable(&world.kek).await.unwrap();
    sleep(NOTICED).await;
    for _ in 0..3 {
        let answer = world.contoso_again().await.put(&id("block"), "late".into()).await;
        assert!(is_revoked(&answer), "{answer:?}");
        assert_eq!(world.store.buffer_usage(account.id()).await.unwrap(), None);
        world.customer.set_offline(true).await.unwrap();
        sleep(Duration::from_secs(3600)).await;
        let answer = world.contoso_again().await.put(&id("block"), "late".into()).await;
        assert!(is_revoked(&answer), "{answer:?}");
        world.restart().await;
    }
    let listed = world.contoso_again().await.list(None, 10).await.unwrap().blocks;
    assert_eq!(listed.iter().map(|b| b.place).collect::<Vec<_>>(), [Place::Store]);
}

#[tokio::test(start_paused = true)]
async fn a_denial_during_the_outage_stops_buffering_and_what_was_buffered_is_drained_within_one_poll_of_access()
 {
    let mut world = World::new(82).await;
    let account = world.contoso().await;
    world.lose_key(&account).await;
    let receipt = buffered(account.put(&id("before"), "buffered before".into()).await);

    world.customer.disable(&world.kek).await.unwrap();
    world.customer.set_offline(false).await.unwrap();
    sleep(POLL).await;
    let answer = account.put(&id("after"), "refused".into()).await;
    assert!(is_revoked(&answer), "{answer:?}");
    let answer = account.get(&id("before")).await;
    assert!(is_revoked(&answer), "the service's key could open it: {answer:?}");
    let report = account.drain().await.unwrap();
    assert!(matches!(report.blocked, Some(DrainBlocked::Revoked(_))), "{report:?}");
    assert_eq!(report.left.unwrap().blocks, 1);

    // The vault goes away and comes back, the process too: it stays where it is.
    world.customer.set_offline(true).await.unwrap();
    sleep(Duration::from_secs(3600)).await;
    world.restart().await;
    world.customer.set_offline(false).await.unwrap();
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(world.store.buffer_usage(account.id()).await.unwrap().unwrap().blocks, 1);
    let account = world.contoso_again().await;
    assert_eq!(key_state(&account).await, KeyState::Revoked);
    assert!(account.delete(&id("nothing")).await.is_ok_and(|was_there| !was_there), "a delete needs no key");

    // Nobody uses the account: it is asked for because something waits.
    world.customer.enable(&world.kek).await.unwrap();
    sleep(POLL).await;
    assert_eq!(world.store.buffer_usage(account.id()).await.unwrap(), None);
    let at = world.store.stat(account.id(), &id("before")).await.unwrap().unwrap();
    assert_eq!((at.place, at.meta.provider), (Place::Store, Provider::Customer));
    assert_eq!(at.meta.version, receipt.version);
    assert_eq!(account.get(&id("before")).await.unwrap(), "buffered before");
}

#[tokio::test(start_paused = true)]
async fn a_drain_stops_at_a_denial_and_goes_on_when_access_is_back() {
    let (world, held) = World::held(83).await;
    let account = world.contoso().await;
    world.lose_key(&account).await;
    for n in 0..20u8 {
        buffered(account.put(&id(&format!("block-{n:02}")), vec![n; 1_000_000].into()).await);
    }
    let mut events = world.engine.buffer_events();
    world.customer.set_offline(false).await.unwrap();
    let first = events.recv().await.unwrap().what;
    let BufferChange::Drained { left, .. } = first else { panic!("{first:?}") };
    // The next block waits for a thread, through the denial.
    held.hold();
    tokio::task::yield_now().await;
    world.customer.disable(&world.kek).await.unwrap();
    sleep(NOTICED).await;
    assert!(held.release() > 0, "it waited");
    let report = account.drain().await.unwrap();
    assert!(matches!(report.blocked, Some(DrainBlocked::Revoked(_))), "{report:?}");
    assert_eq!(report.left.unwrap().blocks, left.blocks);
    assert!((1..20).contains(&left.blocks), "{left:?}");
    sleep(Duration::from_secs(600)).await;
    assert_eq!(world.store.buffer_usage(account.id()).await.unwrap().unwrap().blocks, left.blocks);

    world.customer.enable(&world.kek).await.unwrap();
    sleep(POLL).await;
    assert_eq!(world.store.buffer_usage(account.id()).await.unwrap(), None);
    for n in 0..20u8 {
        assert_eq!(account.get(&id(&format!("block-{n:02}"))).await.unwrap(), vec![n; 1_000_000]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_record_that_can_not_be_believed_is_no_outage() {
    let world = World::new(84).await;
    let account = world.contoso().await;
    let fresh = world.twin().await;
    // Somebody tampers with the record; the vault is away as well.
    let key = "account/contoso";
    let record = world.store.load(key).await.unwrap().unwrap();
    let mut bytes = record.bytes.to_vec();
    bytes[5] ^= 1;
    world.store.swap(key, Some(&record.revision), Some(bytes.into())).await.unwrap();
    world.customer.set_offline(true).await.unwrap();
    let again = fresh.account(account.name()).await.unwrap();
    let error = again.put(&id("block"), "content".into()).await.unwrap_err();
    assert_eq!(error.kind(), EngineErrorKind::Corrupt, "{error}");
    assert_eq!(world.store.buffer_usage(account.id()).await.unwrap(), None);
}
