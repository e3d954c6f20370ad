//! Accounts under several KEKs: an outage of one vault is bridged by another, a denial by any one is obeyed.

use std::time::Duration;

use cofferdam::{
    crypto::KeyId,
    store::{Account, EngineError, OperationHandle, OperationStatus},
};

use crate::world::{GRACE, NOTICED, POLL, World, id, is_revoked, is_unavailable, stored};

const DAY: Duration = Duration::from_secs(24 * 3600);

async fn done(handle: Result<OperationHandle, EngineError>) {
    let operation = handle.unwrap().wait().await.unwrap();
    assert_eq!(operation.status, OperationStatus::Succeeded, "{operation:?}");
}

/// An account under a KEK in each of two vaults.
async fn under_two(world: &World) -> (Account, KeyId) {
    let account = world.contoso().await;
    stored(account.put(&id("block"), "data".into()).await);
    let second = world.partner.create_key("spare").await.unwrap();
    done(account.add_kek(World::partner_principal(), second.clone()).await).await;
    assert_eq!(account.get(&id("block")).await.unwrap(), "data");
    (account, second)
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_one_vault_is_bridged_by_another_for_a_day_and_no_longer() {
    let world = World::new(561).await;
    let (account, _) = under_two(&world).await;
    world.customer.set_offline(true).await.unwrap();
    for _ in 0..23 {
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert_eq!(account.get(&id("block")).await.unwrap(), "data");
        stored(account.put(&id("other"), "more".into()).await);
    }
    tokio::time::sleep(DAY / 24 + GRACE + NOTICED).await;
    assert!(is_unavailable(&account.get(&id("block")).await));
    world.customer.set_offline(false).await.unwrap();
    tokio::time::sleep(POLL).await;
    assert_eq!(account.get(&id("block")).await.unwrap(), "data");
}

#[tokio::test(start_paused = true)]
async fn a_denial_by_any_is_a_revocation_until_that_kek_verifies_or_is_removed() {
    let mut world = World::new(562).await;
    let (account, second) = under_two(&world).await;
    world.partner.disable(&second).await.unwrap();
    tokio::time::sleep(NOTICED).await;
    assert!(is_revoked(&account.get(&id("block")).await));
    world.partner.enable(&second).await.unwrap();
    tokio::time::sleep(POLL).await;
    assert_eq!(account.get(&id("block")).await.unwrap(), "data");

    world.partner.disable(&second).await.unwrap();
    tokio::time::sleep(NOTICED).await;
    assert!(is_revoked(&account.get(&id("block")).await));
    done(account.remove_kek(&second).await).await;
    tokio::time::sleep(POLL).await;
    assert_eq!(account.get(&id("block")).await.unwrap(), "data");
    drop(account);
    world.restart().await;
    assert_eq!(world.contoso_again().await.get(&id("block")).await.unwrap(), "data");
}

#[tokio::test(start_paused = true)]
async fn a_kek_is_removed_only_while_another_unwraps_and_the_last_one_never() {
    let world = World::new(563).await;
    let (account, second) = under_two(&world).await;
    world.partner.set_offline(true).await.unwrap();
    let refused = account.remove_kek(&world.kek).await;
    assert!(matches!(refused, Err(EngineError::OldKek { .. })), "{refused:?}");
    world.partner.set_offline(false).await.unwrap();
    done(account.remove_kek(&world.kek).await).await;
    world.customer.delete(&world.kek).await.unwrap();
    tokio::time::sleep(NOTICED).await;
    assert_eq!(account.get(&id("block")).await.unwrap(), "data");
    let last = account.remove_kek(&second).await;
    assert!(matches!(last, Err(EngineError::LastKek { .. })), "{last:?}");
    let unknown = account.remove_kek(&world.kek).await;
    assert!(matches!(unknown, Err(EngineError::NoSuchKek { .. })), "{unknown:?}");
}

#[tokio::test(start_paused = true)]
async fn there_are_at_most_four_and_each_is_rotated_by_itself() {
    let world = World::new(564).await;
    let (account, second) = under_two(&world).await;
    for n in 0..2 {
        let more = world.customer.create_key(&format!("more-{n}")).await.unwrap();
        done(account.add_kek(World::principal(), more).await).await;
    }
    let fifth = world.customer.create_key("fifth").await.unwrap();
    let refused = account.add_kek(World::principal(), fifth.clone()).await;
    assert!(matches!(refused, Err(EngineError::TooManyKeks { most: 4, .. })), "{refused:?}");
    let which = account.rotate_kek(None, fifth.clone(), None).await;
    assert!(matches!(which, Err(EngineError::NoSuchKek { named: None, .. })), "{which:?}");
    done(account.rotate_kek(Some(World::principal()), fifth, Some(second.clone())).await).await;
    world.partner.delete(&second).await.unwrap();
    tokio::time::sleep(NOTICED).await;
    assert_eq!(account.get(&id("block")).await.unwrap(), "data");
    stored(account.put(&id("other"), "more".into()).await);
}
