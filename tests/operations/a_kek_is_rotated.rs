//! Rotating an account's KEK: what is refused and why, what changes, and what does not.

use cofferdam::{
    crypto::KeyId,
    store::{Account, BlockStore, EngineError, OperationKind, OperationStatus},
    vault::{Principal, Recovery},
};

use crate::world::{GRACE, NOTICED, World, id, is_revoked, is_unavailable, name};

async fn rotate(account: &Account, to: &KeyId) {
    let operation = account.rotate_kek(None, to.clone(), None).await.unwrap().wait().await.unwrap();
    assert_eq!(operation.status, OperationStatus::Succeeded, "{operation:?}");
    assert!(matches!(operation.kind, OperationKind::RotateKek { .. }));
    assert!(operation.ended_at.unwrap() >= operation.started_at);
}

#[tokio::test(start_paused = true)]
async fn after_a_rotation_all_reads_and_the_old_version_is_needed_no_longer() {
    let mut world = World::new(501).await;
    let account = world.contoso().await;
    account.put(&id("before"), "one".into()).await.unwrap();
    let at = world.store.stat(account.id(), &id("before")).await.unwrap();
    let new = world.customer.new_version("payroll").await.unwrap();
    rotate(&account, &new).await;
    assert_eq!(world.store.stat(account.id(), &id("before")).await.unwrap(), at, "a block was touched");
    world.customer.disable(&world.kek).await.unwrap();
    tokio::time::sleep(NOTICED).await;
    assert_eq!(account.get(&id("before")).await.unwrap(), "one");
    account.put(&id("after"), "two".into()).await.unwrap();
    world.customer.delete(&world.kek).await.unwrap();
    world.restart().await;
    let account = world.contoso_again().await;
    assert_eq!(account.get(&id("before")).await.unwrap(), "one");
    assert_eq!(account.get(&id("after")).await.unwrap(), "two");
    assert_eq!(account.key_status().await.unwrap().key.key_id, Some(new));
}

#[tokio::test(start_paused = true)]
async fn a_new_version_that_is_not_set_changes_nothing_and_disabling_the_old_one_before_is_a_revocation() {
    let world = World::new(502).await;
    let account = world.contoso().await;
    account.put(&id("block"), "data".into()).await.unwrap();
    let new = world.customer.new_version("payroll").await.unwrap();
    tokio::time::sleep(NOTICED).await;
    assert_eq!(account.get(&id("block")).await.unwrap(), "data");
    assert_eq!(account.key_status().await.unwrap().key.key_id, Some(world.kek.clone()));
    world.customer.disable(&world.kek).await.unwrap();
    tokio::time::sleep(NOTICED).await;
    assert!(is_revoked(&account.get(&id("block")).await));
    // As it is, it can't be rotated away: that would be the way around every revocation.
    let refused = account.rotate_kek(None, new.clone(), None).await.unwrap_err();
    assert!(matches!(refused, EngineError::OldKek { .. }), "{refused}");
    assert!(refused.to_string().contains("enable that version"), "{refused}");
    world.customer.enable(&world.kek).await.unwrap();
    tokio::time::sleep(NOTICED).await;
    rotate(&account, &new).await;
    assert_eq!(account.get(&id("block")).await.unwrap(), "data");
}

#[tokio::test(start_paused = true)]
async fn each_condition_that_fails_is_named() {
    let world = World::new(503).await;
    let account = world.contoso().await;
    account.put(&id("block"), "data".into()).await.unwrap();
    let rotate = async |to: &KeyId| account.rotate_kek(None, to.clone(), None).await.unwrap_err().to_string();

    let nobody = KeyId::new("local://customer/keys/nobody").unwrap();
    let said = rotate(&nobody).await;
    assert!(said.contains("describe the KEK") && said.contains("nobody"), "{said}");

    let disabled = world.customer.new_version("payroll").await.unwrap();
    world.customer.disable(&disabled).await.unwrap();
    let said = rotate(&disabled).await;
    assert!(said.contains("Disabled: enable or recover it first"), "{said}");

    let fleeting = world.customer.create_key_with("fleeting", Recovery::Off).await.unwrap();
    let said = rotate(&fleeting).await;
    assert!(said.contains("soft delete and purge protection"), "{said}");

    let said = rotate(&world.kek).await;
    assert!(said.contains("already"), "{said}");

    let stranger = account.rotate_kek(Some(Principal::new("stranger")), world.kek.clone(), None).await;
    assert!(matches!(stranger, Err(EngineError::NoVault { .. })), "{stranger:?}");

    let other = world.customer.create_key("other").await.unwrap();
    let unknown = account.rotate_kek(None, other.clone(), Some(nobody)).await;
    assert!(matches!(unknown, Err(EngineError::NoSuchKek { .. })), "{unknown:?}");

    world.customer.set_offline(true).await.unwrap();
    let said = rotate(&other).await;
    assert!(said.contains("did not describe the KEK"), "{said}");
    tokio::time::sleep(GRACE + NOTICED).await;
    assert!(is_unavailable(&account.get(&id("block")).await));
    world.customer.set_offline(false).await.unwrap();
    tokio::time::sleep(NOTICED).await;
    assert_eq!(account.get(&id("block")).await.unwrap(), "data");
    assert!(account.operations().await.unwrap().is_empty(), "what was refused left an operation");
}

#[cfg(feature = "aws-lc")]
#[tokio::test(start_paused = true)]
async fn a_key_of_a_kind_that_does_not_fit_the_buffer_is_refused() {
    let world = World::write_only(504).await;
    let account = world.contoso().await;
    let aes = world.customer.create_key("aes").await.unwrap();
    let refused = account.rotate_kek(None, aes, None).await.unwrap_err();
    assert!(matches!(refused, EngineError::NoWriteOnly { .. }), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn three_rotations_in_a_row_skip_no_reader_that_was_away() {
    let mut world = World::new(505).await;
    let account = world.contoso().await;
    let mut written = Vec::new();
    for n in 0..4 {
        let block = id(&format!("block-{n}"));
        account.put(&block, format!("content {n}").into()).await.unwrap();
        written.push(block);
        if n < 3 {
            rotate(&account, &world.customer.new_version("payroll").await.unwrap()).await;
        }
    }
    let versions = world.customer.list().await.unwrap();
    let versions = versions.iter().find(|key| key.key_id.as_str().contains("payroll")).unwrap();
    for old in &versions.versions[..3] {
        world.customer.disable(&old.key_id).await.unwrap();
    }
    world.restart().await;
    let account = world.contoso_again().await;
    for (n, block) in written.iter().enumerate() {
        assert_eq!(account.get(block).await.unwrap(), format!("content {n}"));
    }
    assert_eq!(account.operations().await.unwrap().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_account_that_follows_the_latest_version_rotates_by_itself() {
    let world = World::new(506).await;
    let kek = KeyId::new("local://customer/keys/payroll").unwrap();
    let key =
        cofferdam::store::AccountKey::Customer { principal: World::principal(), kek, buffer: world.mode };
    let account = world.engine.create_account(&name("contoso"), key).await.unwrap();
    account.put(&id("block"), "data".into()).await.unwrap();
    account.follow_latest(true).await.unwrap();
    let new = world.customer.new_version("payroll").await.unwrap();
    tokio::time::sleep(2 * std::time::Duration::from_secs(3600)).await;
    world.engine.settle_operations().await;
    world.customer.disable(&world.kek).await.unwrap();
    tokio::time::sleep(NOTICED).await;
    assert_eq!(account.get(&id("block")).await.unwrap(), "data");
    assert_eq!(account.key_status().await.unwrap().key.key_id, Some(new));
}
