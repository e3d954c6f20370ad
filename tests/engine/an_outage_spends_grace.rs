//! A vault that can't be reached costs nothing until the grace ends, then everything, until it is back; one that said no
//! is remembered.

use std::time::Duration;

use cofferdam::{crypto::BlockId, keyring::KeyState, store::EngineErrorKind};

use crate::world::{self, World, is_revoked, name};

const GRACE: Duration = Duration::from_secs(30 * 60);

#[tokio::test(start_paused = true)]
async fn reads_and_writes_go_on_until_the_grace_ends_and_resume_by_themselves() {
    let world = World::new(21).await;
    let account = world.engine.create_account(&name("contoso"), world.customer_key()).await.unwrap();
    let id = BlockId::new("block").unwrap();
    account.put(&id, "content".into()).await.unwrap();
    world.customer.set_offline(true).await.unwrap();
    let began = tokio::time::Instant::now();
    while began.elapsed() < GRACE - Duration::from_secs(60) {
        account.put(&id, "content".into()).await.unwrap();
        assert_eq!(account.get(&id).await.unwrap(), "content");
        tokio::time::sleep(Duration::from_secs(7)).await;
    }
    assert_eq!(account.status().await.unwrap().key.state, KeyState::Grace);

    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(account.get(&id).await.unwrap_err().kind(), EngineErrorKind::Unavailable);
    assert_eq!(account.list(None, 10).await.unwrap().blocks.len(), 1, "a list needs no key");
    assert_eq!(account.status().await.unwrap().key.state, KeyState::Unavailable);

    world.customer.set_offline(false).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(account.get(&id).await.unwrap(), "content");
    world.engine.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_account_that_is_cold_in_an_outage_is_unavailable_and_starts_all_the_same() {
    let mut world = World::new(22).await;
    let id = BlockId::new("block").unwrap();
    let account = world.engine.create_account(&name("contoso"), world.customer_key()).await.unwrap();
    account.put(&id, "content".into()).await.unwrap();
    world.customer.set_offline(true).await.unwrap();
    world.restart().await;
    let account = world.engine.account(&name("contoso")).await.unwrap();
    assert_eq!(account.get(&id).await.unwrap_err().kind(), EngineErrorKind::Unavailable);
    world.customer.set_offline(false).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(account.get(&id).await.unwrap(), "content");
}

#[tokio::test(start_paused = true)]
async fn a_revocation_is_remembered_through_a_restart_and_an_outage() {
    let mut world = World::new(23).await;
    let id = BlockId::new("block").unwrap();
    let account = world.engine.create_account(&name("contoso"), world.customer_key()).await.unwrap();
    account.put(&id, "content".into()).await.unwrap();
    world.customer.disable(&world.kek).await.unwrap();
    tokio::time::sleep(world::NOTICED).await;
    let answer = account.get(&id).await;
    assert!(is_revoked(&answer), "{answer:?}");

    world.customer.set_offline(true).await.unwrap();
    world.restart().await;
    let account = world.engine.account(&name("contoso")).await.unwrap();
    assert_eq!(account.status().await.unwrap().key.state, KeyState::Revoked, "before anybody asks the vault");
    let answer = account.get(&id).await;
    assert!(is_revoked(&answer), "an outage does not open what was revoked: {answer:?}");

    world.customer.set_offline(false).await.unwrap();
    world.customer.enable(&world.kek).await.unwrap();
    tokio::time::sleep(world::NOTICED).await;
    assert_eq!(account.get(&id).await.unwrap(), "content");
}
