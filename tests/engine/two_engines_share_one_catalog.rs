//! Two engines over one store: what one changes of an account, the other takes note of before it matters.

use std::time::Duration;

use cofferdam::{
    crypto::{Epoch, Provider},
    store::{AccountKey, BlockStore, Engine, EngineError, LinkTo, OperationStatus, Reencrypt},
};
use futures_util::future::join;

use crate::world::{NOTICED, World, id, name, stored};

async fn two(seed: u64) -> (World, Engine) {
    let world = World::set_up(seed, |builder| builder.shared(true)).await;
    let other = world.twin().await;
    (world, other)
}

#[tokio::test(start_paused = true)]
async fn a_node_that_holds_an_old_wrap_when_the_other_has_rotated_is_not_revoked() {
    let (world, other) = two(541).await;
    let account = world.contoso().await;
    stored(account.put(&id("block"), "data".into()).await);
    let there = other.account(&name("contoso")).await.unwrap();
    assert_eq!(there.get(&id("block")).await.unwrap(), "data");
    let new = world.customer.new_version("payroll").await.unwrap();
    let rotated = account.rotate_kek(None, new.clone(), None).await.unwrap().wait().await.unwrap();
    assert_eq!(rotated.status, OperationStatus::Succeeded, "{rotated:?}");
    world.customer.disable(&world.kek).await.unwrap();
    for _ in 0..60 {
        tokio::time::sleep(Duration::from_secs(7)).await;
        assert_eq!(there.get(&id("block")).await.unwrap(), "data");
        stored(there.put(&id("other"), "more".into()).await);
    }
    assert_eq!(there.key_status().await.unwrap().key.key_id, Some(new));
}

#[tokio::test(start_paused = true)]
async fn of_two_that_rotate_one_account_at_once_one_wins_and_the_other_gets_a_clear_conflict() {
    let (world, other) = two(542).await;
    let account = world.contoso().await;
    stored(account.put(&id("block"), "data".into()).await);
    let there = other.account(&name("contoso")).await.unwrap();
    let (one, two) = (
        world.customer.new_version("payroll").await.unwrap(),
        world.customer.create_key("other").await.unwrap(),
    );
    let (here, over_there) =
        join(account.rotate_kek(None, one, None), there.rotate_kek(None, two, None)).await;
    let (won, lost) = match (here, over_there) {
        (Ok(won), Err(lost)) | (Err(lost), Ok(won)) => (won, lost),
        both => panic!("{both:?}"),
    };
    assert!(matches!(lost, EngineError::OperationRunning { .. }), "{lost}");
    assert!(lost.to_string().contains(&won.id().to_string()), "{lost}");
    assert_eq!(won.wait().await.unwrap().status, OperationStatus::Succeeded);
    tokio::time::sleep(NOTICED).await;
    assert_eq!(account.get(&id("block")).await.unwrap(), "data");
    assert_eq!(there.get(&id("block")).await.unwrap(), "data");
}

#[tokio::test(start_paused = true)]
async fn an_old_epoch_is_retired_only_after_the_other_node_seals_under_the_new_one() {
    let (world, other) = two(543).await;
    let account = world.contoso().await;
    stored(account.put(&id("block"), "data".into()).await);
    let there = other.account(&name("contoso")).await.unwrap();
    stored(there.put(&id("there"), "data".into()).await);
    let handle = account.rotate_aek(Reencrypt::Yes).await.unwrap();
    let mut written = 0;
    while !handle.status().await.unwrap().status.has_ended() {
        stored(there.put(&id(&format!("there-{written}")), "data".into()).await);
        written += 1;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(written > 0);
    assert_eq!(handle.wait().await.unwrap().status, OperationStatus::Succeeded);
    stored(there.put(&id("after"), "data".into()).await);
    for (block, meta) in world.store.stored(account.id(), None, 10_000).await.unwrap() {
        assert_eq!((meta.provider, meta.epoch), (Provider::Customer, Epoch::new(2)), "{block}");
        assert_eq!(there.get(&block).await.unwrap(), "data");
    }
}

#[tokio::test(start_paused = true)]
async fn a_link_ends_only_after_the_other_node_seals_under_the_customers_key() {
    let (world, other) = two(544).await;
    let account = world.engine.create_account(&name("contoso"), AccountKey::Service).await.unwrap();
    let there = other.account(&name("contoso")).await.unwrap();
    stored(there.put(&id("before"), "data".into()).await);
    let to = LinkTo { principal: World::principal(), kek: world.kek.clone(), buffer: world.mode };
    let linked = account.link(to, Reencrypt::No).await.unwrap().wait().await.unwrap();
    assert_eq!(linked.status, OperationStatus::Succeeded, "{linked:?}");
    stored(there.put(&id("after"), "data".into()).await);
    let at = world.store.stat(account.id(), &id("after")).await.unwrap().unwrap();
    assert_eq!(at.meta.provider, Provider::Customer);
    let deleted = there.delete_account().await.unwrap().wait().await.unwrap();
    assert_eq!(deleted.status, OperationStatus::Succeeded);
    assert!(account.get(&id("before")).await.is_err(), "it is deleted");
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_is_gone_is_waited_for_no_longer_than_a_lease_and_its_operation_goes_on() {
    let (world, other) = two(545).await;
    let account = world.contoso().await;
    stored(account.put(&id("block"), "data".into()).await);
    let there = other.account(&name("contoso")).await.unwrap();
    let new = world.customer.new_version("payroll").await.unwrap();
    let id_of = {
        let handle = there.rotate_kek(None, new.clone(), None).await.unwrap();
        handle.id()
    };
    // It goes without a word.
    drop((there, other));
    tokio::time::sleep(Duration::from_secs(5 * 60)).await;
    let operation = world.engine.operation(id_of).await.unwrap().wait().await.unwrap();
    assert_eq!(operation.status, OperationStatus::Succeeded, "{operation:?}");
    world.customer.disable(&world.kek).await.unwrap();
    tokio::time::sleep(NOTICED).await;
    assert_eq!(account.get(&id("block")).await.unwrap(), "data");
}
