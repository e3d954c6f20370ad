//! Rotating an account's AEK: new epochs, re-encryption, and the end of old ones.

use std::time::Duration;

use cofferdam::{
    crypto::{Epoch, Provider},
    store::{Account, BlockStore, Catalog, OperationStatus, Reencrypt},
};

use crate::world::{self, NOTICED, World, id};

async fn rotate(account: &Account, reencrypt: Reencrypt) {
    let operation = account.rotate_aek(reencrypt).await.unwrap().wait().await.unwrap();
    assert_eq!(operation.status, OperationStatus::Succeeded, "{operation:?}");
}

async fn epoch_of(world: &World, account: &Account, block: &str) -> (Provider, Epoch) {
    let at = world.store.stat(account.id(), &id(block)).await.unwrap().unwrap();
    (at.meta.provider, at.meta.epoch)
}

async fn record(world: &World) -> serde_json::Value {
    let stored = world.store.load("account/contoso").await.unwrap().unwrap();
    serde_json::from_slice(&stored.bytes[33..]).unwrap()
}

#[tokio::test(start_paused = true)]
async fn new_blocks_are_sealed_under_the_new_epoch_at_once_and_old_ones_stay_readable() {
    let mut world = World::new(511).await;
    let account = world.contoso().await;
    account.put(&id("first"), "one".into()).await.unwrap();
    rotate(&account, Reencrypt::No).await;
    account.put(&id("second"), "two".into()).await.unwrap();
    rotate(&account, Reencrypt::No).await;
    account.put(&id("third"), "three".into()).await.unwrap();
    for (block, epoch) in [("first", 1), ("second", 2), ("third", 3)] {
        assert_eq!(epoch_of(&world, &account, block).await, (Provider::Customer, Epoch::new(epoch)));
    }
    world.restart().await;
    let account = world.contoso_again().await;
    for (block, data) in [("first", "one"), ("second", "two"), ("third", "three")] {
        assert_eq!(account.get(&id(block)).await.unwrap(), data);
    }
}

#[tokio::test(start_paused = true)]
async fn re_encryption_leaves_nothing_under_the_old_epoch_and_its_wraps_are_destroyed() {
    let mut world = World::new(512).await;
    let account = world.contoso().await;
    let n = world::scale(5_000, 300);
    for block in 0..n {
        account.put(&id(&format!("block-{block:05}")), format!("content {block}").into()).await.unwrap();
    }
    let before = record(&world).await["customer"]["epochs"][0]["wraps"][0]["bytes"].clone();
    let version = world.store.stat(account.id(), &id("block-00007")).await.unwrap().unwrap().meta.version;
    let handle = account.rotate_aek(Reencrypt::Yes).await.unwrap();
    let operation = handle.wait().await.unwrap();
    assert_eq!(operation.status, OperationStatus::Succeeded, "{operation:?}");
    let at = world.store.stat(account.id(), &id("block-00007")).await.unwrap().unwrap().meta;
    assert_eq!((at.version, at.epoch), (version, Epoch::new(2)), "a block keeps its version");
    let epochs = record(&world).await["customer"]["epochs"].clone();
    assert_eq!(epochs.as_array().unwrap().len(), 1, "{epochs}");
    world.engine.compact().await.unwrap();
    assert!(!world::holds(world.path(), before.as_str().unwrap().as_bytes()), "a wrap is in the file still");
    // The KEK's former version was never needed for that: a new one takes its place, and it can be deleted.
    let new = world.customer.new_version("payroll").await.unwrap();
    account.rotate_kek(None, new, None).await.unwrap().wait().await.unwrap();
    world.customer.delete(&world.kek).await.unwrap();
    world.restart().await;
    let account = world.contoso_again().await;
    for block in 0..n {
        assert_eq!(account.get(&id(&format!("block-{block:05}"))).await.unwrap(), format!("content {block}"));
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_written_during_a_re_encryption_is_what_is_read_after_it() {
    let world = World::new(513).await;
    let account = world.contoso().await;
    for block in 0..600 {
        account.put(&id(&format!("block-{block:03}")), format!("old {block}").into()).await.unwrap();
    }
    let handle = account.rotate_aek(Reencrypt::Yes).await.unwrap();
    for block in (0..600).step_by(7) {
        account.put(&id(&format!("block-{block:03}")), format!("new {block}").into()).await.unwrap();
        account.delete(&id(&format!("block-{:03}", block + 1))).await.unwrap();
    }
    assert_eq!(handle.wait().await.unwrap().status, OperationStatus::Succeeded);
    for block in 0..600 {
        let got = account.get(&id(&format!("block-{block:03}"))).await;
        match block % 7 {
            0 => assert_eq!(got.unwrap(), format!("new {block}")),
            1 => assert!(got.is_err(), "{block} was deleted"),
            _ => assert_eq!(got.unwrap(), format!("old {block}")),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_epoch_ends_by_itself_after_its_cryptoperiod_or_its_bytes() {
    let day = Duration::from_secs(24 * 3600);
    let world =
        World::set_up(514, |builder| builder.cryptoperiod(Some(Duration::from_secs(24 * 3600)))).await;
    let account = world.contoso().await;
    account.put(&id("first"), "one".into()).await.unwrap();
    tokio::time::sleep(day + 2 * Duration::from_secs(3600)).await;
    world.engine.settle_operations().await;
    tokio::time::sleep(NOTICED).await;
    account.put(&id("second"), "two".into()).await.unwrap();
    assert_eq!(epoch_of(&world, &account, "second").await.1, Epoch::new(2));
    assert_eq!(account.get(&id("first")).await.unwrap(), "one");

    let world = World::set_up(515, |builder| builder.cryptoperiod_bytes(Some(1 << 20))).await;
    let account = world.contoso().await;
    account.put(&id("small"), vec![1; 1000].into()).await.unwrap();
    tokio::time::sleep(2 * Duration::from_secs(3600)).await;
    account.put(&id("large"), vec![1; 1 << 20].into()).await.unwrap();
    assert_eq!(epoch_of(&world, &account, "large").await.1, Epoch::FIRST);
    tokio::time::sleep(2 * Duration::from_secs(3600)).await;
    account.put(&id("next"), vec![1; 1000].into()).await.unwrap();
    assert_eq!(epoch_of(&world, &account, "next").await.1, Epoch::new(2));
}
