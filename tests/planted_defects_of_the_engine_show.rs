//! Each defect that can be planted in the engine does what it is named after: else a simulator that finds none of it would
//! say nothing. Needs `--cfg cofferdam_planted`.

#![cfg(cofferdam_planted)]
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "a test")]

mod world;

use std::{io::ErrorKind, sync::Arc, time::Duration};

use cofferdam::{
    crypto::{
        Provider,
        planted::{Bug, plant},
    },
    store::{BlockStore, EmbeddedOptions, EmbeddedStore, EngineError, FaultyFile, FileFault, FileOp},
    vault::Inline,
};
use tokio::time::sleep;
use world::{NOTICED, POLL, World, buffered, id, name, stored};

#[tokio::test(start_paused = true)]
async fn a_forgotten_revocation_lets_an_outage_buffer() {
    let mut world = World::new(131).await;
    let account = world.contoso().await;
    stored(account.put(&id("block"), "content".into()).await);
    world.customer.disable(&world.kek).await.unwrap();
    sleep(NOTICED).await;
    assert!(world::is_revoked(&account.check_key().await));
    world.customer.set_offline(true).await.unwrap();
    plant(Some(Bug::RevokedForgotten));
    drop(account);
    world.restart().await;
    buffered(world.contoso_again().await.put(&id("block"), "kept".into()).await);
    plant(None);
}

#[tokio::test(start_paused = true)]
async fn a_write_under_a_revoked_key_is_buffered() {
    let world = World::new(132).await;
    let account = world.contoso().await;
    world.customer.disable(&world.kek).await.unwrap();
    sleep(NOTICED).await;
    plant(Some(Bug::BufferedWhileRevoked));
    buffered(account.put(&id("block"), "kept".into()).await);
    plant(None);
}

#[tokio::test(start_paused = true)]
async fn a_buffered_block_is_read_without_the_accounts_key() {
    let world = World::new(133).await;
    let account = world.contoso().await;
    world.lose_key(&account).await;
    buffered(account.put(&id("block"), "content".into()).await);
    plant(Some(Bug::BufferReadWithoutKey));
    assert_eq!(account.get(&id("block")).await.unwrap(), "content");
    plant(None);
}

#[tokio::test(start_paused = true)]
async fn nothing_drains_what_an_earlier_process_buffered() {
    let mut world = World::new(134).await;
    let account = world.contoso().await;
    world.lose_key(&account).await;
    buffered(account.put(&id("block"), "content".into()).await);
    drop(account);
    plant(Some(Bug::DrainForgottenAtOpen));
    world.restart().await;
    world.customer.set_offline(false).await.unwrap();
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(world.store.buffering(None, 10).await.unwrap().len(), 1);
    plant(None);
}

#[tokio::test(start_paused = true)]
async fn a_drained_block_stays_under_the_services_key() {
    let world = World::new(135).await;
    let account = world.contoso().await;
    world.lose_key(&account).await;
    buffered(account.put(&id("block"), "content".into()).await);
    plant(Some(Bug::DrainUnderServiceKey));
    world.customer.set_offline(false).await.unwrap();
    sleep(POLL).await;
    let at = world.store.stat(account.id(), &id("block")).await.unwrap().unwrap();
    assert_eq!((at.place, at.meta.provider), (cofferdam::store::Place::Store, Provider::Service));
    plant(None);
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_fails_in_the_middle_loses_what_it_deleted_first() {
    let options = || EmbeddedOptions { executor: Arc::new(Inline), ..EmbeddedOptions::default() };
    let mut lost = 0;
    for nth in 0..4 {
        let world = World::new(136).await;
        let file = FaultyFile::new();
        let store = EmbeddedStore::create_on(Arc::new(file.clone()), options()).unwrap();
        let engine = world.engine_over(&store, world.clock.clone()).await;
        let account = engine.create_account(&name("contoso"), world.customer_key()).await.unwrap();
        world.lose_key(&account).await;
        buffered(account.put(&id("block"), "content".into()).await);
        plant(Some(Bug::DrainDeletesFirst));
        file.fail(FileOp::Sync, nth, FileFault::Error(ErrorKind::Other));
        world.customer.set_offline(false).await.unwrap();
        sleep(POLL).await;
        plant(None);
        drop((engine, account, store));
        let store = EmbeddedStore::open_on(Arc::new(file.after_crash(|| 0)), options()).unwrap();
        let engine = world.engine_over(&store, world.clock.clone()).await;
        let account = engine.account(&name("contoso")).await.unwrap();
        sleep(POLL).await;
        lost += usize::from(matches!(account.get(&id("block")).await, Err(EngineError::NoBlock { .. })));
    }
    assert!(lost > 0, "no moment lost it");
}
