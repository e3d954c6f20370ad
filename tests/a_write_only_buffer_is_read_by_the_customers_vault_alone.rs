//! What went to a write-only buffer is opened by the customer's vault alone: segments are renewed, their keys are not kept,
//! and the service with all of its own vault and of the store opens none of them.

#![cfg(feature = "aws-lc")]
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "a test")]

mod world;

use std::time::Duration;

use cofferdam::{
    crypto::{Header, Provider, ProviderKind, SegmentId},
    store::{AccountKey, BlockStore, BufferMode, EngineError, EngineErrorKind, Place},
    vault::KeyState,
};
use tokio::time::sleep;
use world::{GRACE, NOTICED, POLL, World, buffered, id, is_revoked, is_unavailable, name, stored};

const MINUTES_5: Duration = Duration::from_secs(300);

async fn segments(world: &World, account: &cofferdam::store::Account) -> Vec<(SegmentId, u64)> {
    let rows = world.store.segments(account.id(), None, 1000).await.unwrap();
    rows.into_iter().map(|(id, row)| (id, row.blocks)).collect()
}

#[tokio::test(start_paused = true)]
async fn writes_of_an_outage_are_sealed_for_the_vault_and_drained_when_it_is_back() {
    let world = World::write_only(401).await;
    let account = world.contoso().await;
    stored(account.put(&id("before"), "stored".into()).await);
    world.lose_key(&account).await;
    let receipt = buffered(account.put(&id("one"), "waits".into()).await);
    buffered(account.put(&id("two"), vec![2; 300_000].into()).await);
    assert!(is_unavailable(&account.get(&id("one")).await));

    let (at, sealed) = world.store.fetch(account.id(), &id("one")).await.unwrap().unwrap();
    assert_eq!((at.place, at.meta.version), (Place::Buffer, receipt.version));
    let segment = at.meta.provider.segment().unwrap();
    assert_eq!(Header::parse(&sealed).unwrap().provider(), ProviderKind::Buffer);
    assert_eq!(segments(&world, &account).await, [(segment, 2)]);

    world.regain_key(&account).await;
    assert_eq!(account.get(&id("one")).await.unwrap(), "waits");
    assert_eq!(account.get(&id("two")).await.unwrap(), vec![2; 300_000]);
    let at = world.store.stat(account.id(), &id("one")).await.unwrap().unwrap();
    assert_eq!(
        (at.place, at.meta.provider, at.meta.version),
        (Place::Store, Provider::Customer, receipt.version)
    );
    assert_eq!(segments(&world, &account).await, []);
    assert!(world.store.verify().await.unwrap().is_sound());
}
