//! Deleting accounts: soft first, with the name taken, then for good, with nothing left.

use std::time::Duration;

use cofferdam::store::{
    Account, AccountKey, BlockStore, Catalog, EngineError, EngineErrorKind, OperationKind, OperationStatus,
};

use crate::world::{self, World, id, name, stored};

const DAY: Duration = Duration::from_secs(24 * 3600);

async fn delete(account: &Account) {
    let operation = account.delete_account().await.unwrap().wait().await.unwrap();
    assert_eq!(operation.status, OperationStatus::Succeeded, "{operation:?}");
}

fn is_deleted<T: std::fmt::Debug>(answer: &Result<T, EngineError>) -> bool {
    matches!(answer, Err(EngineError::AccountDeleted { .. }))
}

/// What names the account's keys: its key ids and the bytes of its wraps, as they are in its record.
async fn needles(world: &World) -> Vec<String> {
    let stored = world.store.load("account/contoso").await.unwrap().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&stored.bytes[33..]).unwrap();
    let mut needles = Vec::new();
    for epochs in [&json["service"], &json["customer"]["epochs"]] {
        for epoch in epochs.as_array().into_iter().flatten() {
            needles.push(epoch["check"].as_str().unwrap().to_owned());
            for wrap in epoch["wraps"].as_array().unwrap() {
                needles.push(wrap["bytes"].as_str().unwrap().to_owned());
            }
        }
    }
    needles.push(world.kek.as_str().to_owned());
    needles
}

#[tokio::test(start_paused = true)]
async fn a_deleted_account_answers_nothing_keeps_its_name_and_comes_back_with_its_blocks() {
    let mut world = World::new(531).await;
    let account = world.contoso().await;
    stored(account.put(&id("block"), "data".into()).await);
    delete(&account).await;
    for again in [false, true] {
        if again {
            world.restart().await;
        }
        assert!(is_deleted(&world.engine.account(&name("contoso")).await.map(drop)));
        let taken = world.engine.create_account(&name("contoso"), AccountKey::Service).await;
        assert!(matches!(taken, Err(EngineError::AccountExists { .. })), "{taken:?}");
    }
    assert!(is_deleted(&account.get(&id("block")).await) || account.get(&id("block")).await.is_err());
    assert!(account.put(&id("other"), "data".into()).await.is_err());
    let operation = world.engine.recover_account(&name("contoso")).await.unwrap().wait().await.unwrap();
    assert_eq!(operation.status, OperationStatus::Succeeded);
    let account = world.contoso_again().await;
    assert_eq!(account.get(&id("block")).await.unwrap(), "data");
    stored(account.put(&id("other"), "more".into()).await);
    let not_deleted = world.engine.recover_account(&name("contoso")).await;
    assert!(matches!(not_deleted, Err(EngineError::NotDeleted { .. })), "{not_deleted:?}");
}

#[tokio::test(start_paused = true)]
async fn handles_of_a_deleted_account_are_refused_and_work_again_once_it_is_recovered() {
    let world = World::new(532).await;
    let account = world.contoso().await;
    stored(account.put(&id("block"), "data".into()).await);
    delete(&account).await;
    assert!(is_deleted(&account.get(&id("block")).await));
    assert!(is_deleted(&account.put(&id("other"), "data".into()).await));
    assert!(is_deleted(&account.list(None, 10).await));
    assert!(is_deleted(&account.delete(&id("block")).await));
    world.engine.recover_account(&name("contoso")).await.unwrap().wait().await.unwrap();
    assert_eq!(account.get(&id("block")).await.unwrap(), "data");
}

#[tokio::test(start_paused = true)]
async fn after_its_time_it_is_destroyed_and_nothing_of_its_keys_is_left_in_the_files() {
    let mut world = World::new(533).await;
    let account = world.contoso().await;
    let witness = world.engine.create_account(&name("witness"), AccountKey::Service).await.unwrap();
    stored(witness.put(&id("block"), "stays".into()).await);
    for n in 0..300 {
        stored(account.put(&id(&format!("block-{n}")), vec![n as u8; 5000].into()).await);
    }
    let new = world.customer.new_version("payroll").await.unwrap();
    account.rotate_kek(None, new.clone(), None).await.unwrap().wait().await.unwrap();
    let needles = [needles(&world).await, vec![new.as_str().to_owned(), account.id().to_string()]].concat();
    delete(&account).await;
    assert!(world::holds(world.path(), needles[0].as_bytes()), "there was nothing to destroy");
    tokio::time::sleep(14 * DAY + DAY).await;
    world.engine.settle_operations().await;
    let operations = world.engine.operations().await.unwrap();
    let purge = operations.iter().find(|of| of.kind == OperationKind::Purge).unwrap();
    assert_eq!(purge.status, OperationStatus::Succeeded, "{purge:?}");
    assert_eq!(world.store.stored(account.id(), None, 10).await.unwrap(), []);
    world.engine.close().await.unwrap();
    let store = std::fs::read(world.path().join("blocks.store")).unwrap();
    for needle in needles.iter().filter(|needle| !needle.contains('-') || needle.starts_with("local:")) {
        let needle = needle.as_bytes();
        assert!(memchr::memmem::find(&store, needle).is_none(), "{needle:?} is left");
    }
    world.reopen().await;
    let gone = world.engine.account(&name("contoso")).await.unwrap_err();
    assert_eq!(gone.kind(), EngineErrorKind::NotFound);
    let witness = world.engine.account(&name("witness")).await.unwrap();
    assert_eq!(witness.get(&id("block")).await.unwrap(), "stays");
    // Its name is free.
    let account = world.contoso().await;
    assert_eq!(account.list(None, 10).await.unwrap().blocks, []);
}

#[tokio::test(start_paused = true)]
async fn it_is_purged_early_unless_it_is_protected() {
    let world = World::new(534).await;
    let account = world.contoso().await;
    stored(account.put(&id("block"), "data".into()).await);
    let early = world.engine.purge_account(&name("contoso")).await;
    assert!(matches!(early, Err(EngineError::NotDeleted { .. })), "{early:?}");
    account.protect_from_purge().await.unwrap();
    delete(&account).await;
    let refused = world.engine.purge_account(&name("contoso")).await;
    assert!(matches!(refused, Err(EngineError::PurgeProtected { .. })), "{refused:?}");

    let other = world.engine.create_account(&name("other"), world.customer_key()).await.unwrap();
    stored(other.put(&id("block"), "data".into()).await);
    delete(&other).await;
    let purged = world.engine.purge_account(&name("other")).await.unwrap().wait().await.unwrap();
    assert_eq!(purged.status, OperationStatus::Succeeded, "{purged:?}");
    let gone = world.engine.account(&name("other")).await.unwrap_err();
    assert_eq!(gone.kind(), EngineErrorKind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn a_deletion_cancels_a_drain_and_a_recovery_goes_on_with_it() {
    for &mode in world::MODES {
        let world = World::in_mode(mode, 535).await;
        let account = world.contoso().await;
        stored(account.put(&id("stored"), "data".into()).await);
        world.lose_key(&account).await;
        for n in 0..20 {
            world::buffered(account.put(&id(&format!("block-{n}")), "waits".into()).await);
        }
        delete(&account).await;
        world.customer.set_offline(false).await.unwrap();
        tokio::time::sleep(DAY).await;
        let usage = world.store.buffer_usage(account.id()).await.unwrap().unwrap();
        assert_eq!(usage.blocks, 20, "{mode}: what is deleted was drained");
        world.engine.recover_account(&name("contoso")).await.unwrap().wait().await.unwrap();
        let account = world.contoso_again().await;
        world.regain_key(&account).await;
        assert_eq!(account.get(&id("block-7")).await.unwrap(), "waits", "{mode}");
    }
}
