//! What still needs a version of a KEK is named; and once nothing does, disabling it breaks nothing.

use cofferdam::store::{
    AccountKey, Engine, EngineError, Needed, OperationStatus, Receipt, ReceiptKey, SafeToDisable,
};

use crate::world::{self, NOTICED, World, id, name, stored};

fn signing_key() -> ReceiptKey {
    let fill = |seed: &mut [u8; 32]| {
        seed.fill(7);
        Ok::<_, std::convert::Infallible>(())
    };
    ReceiptKey::try_from_fn(fill).unwrap()
}

async fn world(seed: u64) -> World {
    World::set_up(seed, |builder| builder.receipt_key(signing_key())).await
}

async fn ask(engine: &Engine, world: &World) -> SafeToDisable {
    engine.safe_to_disable(&world.kek).await.unwrap()
}

async fn rotate_away(world: &World, names: &[&str]) {
    let new = world.customer.new_version("payroll").await.unwrap();
    for account in names {
        let account = world.engine.account(&name(account)).await.unwrap();
        let rotated = account.rotate_kek(None, new.clone(), None).await.unwrap().wait().await.unwrap();
        assert_eq!(rotated.status, OperationStatus::Succeeded, "{rotated:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn it_says_no_and_what_for_before_a_rotation_and_yes_after_it_and_disabling_breaks_nothing() {
    let mut world = world(551).await;
    let account = world.contoso().await;
    stored(account.put(&id("block"), "data".into()).await);
    let before = ask(&world.engine, &world).await;
    assert!(!before.is_safe() && before.receipt.is_none());
    let wraps = Needed::Wraps { account: name("contoso"), epochs: 1, deleted: false };
    assert_eq!(before.needed, [wraps]);
    assert!(before.needed[0].to_string().contains("rotate"), "{}", before.needed[0]);
    rotate_away(&world, &["contoso"]).await;
    let after = ask(&world.engine, &world).await;
    assert!(after.is_safe(), "{after:?}");
    let receipt = after.receipt.unwrap();
    let receipt = Receipt::from_bytes(receipt.as_bytes()).unwrap();
    receipt.verify(&signing_key().public()).unwrap();
    assert_eq!((&receipt.statement().key_id, receipt.statement().examined.accounts), (&world.kek, 1));
    world.customer.disable(&world.kek).await.unwrap();
    tokio::time::sleep(NOTICED).await;
    assert_eq!(account.get(&id("block")).await.unwrap(), "data");
    world.customer.delete(&world.kek).await.unwrap();
    world.restart().await;
    assert_eq!(world.contoso_again().await.get(&id("block")).await.unwrap(), "data");
}

#[tokio::test(start_paused = true)]
async fn a_version_that_is_safe_to_disable_is_wrapped_under_no_longer() {
    let world = world(552).await;
    let account = world.contoso().await;
    stored(account.put(&id("block"), "data".into()).await);
    // Refused: so nothing is fenced.
    assert!(!ask(&world.engine, &world).await.is_safe());
    let other = world.engine.create_account(&name("other"), world.customer_key()).await.unwrap();
    stored(other.put(&id("block"), "data".into()).await);
    rotate_away(&world, &["contoso", "other"]).await;
    assert!(ask(&world.engine, &world).await.is_safe());
    let back = account.rotate_kek(None, world.kek.clone(), None).await;
    assert!(matches!(back, Err(EngineError::UnfitKek { .. })), "{back:?}");
    let third = world.engine.create_account(&name("third"), world.customer_key()).await;
    assert!(matches!(third, Err(EngineError::UnfitKek { .. })), "{third:?}");
    assert!(third.unwrap_err().to_string().contains("safe to disable"));
}

#[tokio::test(start_paused = true)]
async fn who_asks_at_the_same_time_as_another_gets_the_same_answer_and_the_fence_stands_for_both() {
    let world = world(555).await;
    let account = world.contoso().await;
    stored(account.put(&id("block"), "data".into()).await);
    let (one, other) =
        futures_util::future::join(ask(&world.engine, &world), ask(&world.engine, &world)).await;
    assert!(!one.is_safe() && !other.is_safe());
    rotate_away(&world, &["contoso"]).await;
    let (one, other) =
        futures_util::future::join(ask(&world.engine, &world), ask(&world.engine, &world)).await;
    assert!(one.is_safe() && other.is_safe());
    let back = account.rotate_kek(None, world.kek.clone(), None).await;
    assert!(matches!(back, Err(EngineError::UnfitKek { .. })), "{back:?}");
}

#[tokio::test(start_paused = true)]
async fn asking_about_a_version_that_is_in_use_fails_nothing_that_goes_on_under_it() {
    let world = world(556).await;
    let account = world.contoso().await;
    let mut asked = 0;
    for _ in 0..20 {
        let rotation = async {
            let rotated = account.rotate_aek(cofferdam::store::Reencrypt::No).await.unwrap();
            rotated.wait().await.unwrap()
        };
        let asking = async {
            assert!(!ask(&world.engine, &world).await.is_safe());
        };
        let (rotated, ()) = futures_util::future::join(rotation, asking).await;
        assert_eq!(rotated.status, OperationStatus::Succeeded, "{rotated:?}");
        asked += 1;
    }
    assert_eq!(asked, 20);
}

#[tokio::test(start_paused = true)]
async fn deleted_accounts_and_running_operations_are_named() {
    let world = world(553).await;
    let account = world.contoso().await;
    stored(account.put(&id("block"), "data".into()).await);
    account.delete_account().await.unwrap().wait().await.unwrap();
    let deleted = ask(&world.engine, &world).await;
    assert!(matches!(deleted.needed[..], [Needed::Wraps { deleted: true, .. }]), "{deleted:?}");
    world.engine.purge_account(&name("contoso")).await.unwrap().wait().await.unwrap();
    world.engine.create_account(&name("other"), AccountKey::Service).await.unwrap();

    let account = world.engine.create_account(&name("third"), world.customer_key()).await.unwrap();
    let new = world.customer.new_version("payroll").await.unwrap();
    world.way.hang_after(4);
    let handle = account.rotate_kek(None, new, None).await;
    world.way.set_hanging(true);
    if let Ok(handle) = handle {
        let asked = ask(&world.engine, &world).await;
        let is_named = |needed: &Needed| matches!(needed, Needed::Operation { operation, .. } if *operation == handle.id());
        assert!(asked.needed.iter().any(is_named), "{asked:?}");
        world.way.set_hanging(false);
        assert_eq!(handle.wait().await.unwrap().status, OperationStatus::Succeeded);
    } else {
        panic!("{handle:?}");
    }
    world.way.set_hanging(false);
    assert!(ask(&world.engine, &world).await.is_safe());
}

#[cfg(feature = "aws-lc")]
#[tokio::test(start_paused = true)]
async fn segments_of_a_write_only_buffer_are_rewrapped_and_named_until_then() {
    let world = World::write_only(554).await;
    let account = world.contoso().await;
    stored(account.put(&id("stored"), "data".into()).await);
    world.lose_key(&account).await;
    for block in 0..5 {
        world::buffered(account.put(&id(&format!("waits-{block}")), "buffered".into()).await);
    }
    let asked = ask(&world.engine, &world).await;
    let segments = |needed: &Needed| matches!(needed, Needed::Segments { segments: 1, .. });
    assert!(asked.needed.iter().any(segments), "{asked:?}");
    let new = world.customer.create_key_of(
        "newer",
        cofferdam::vault::KeyKind::Rsa(cofferdam::crypto::rsa::RsaSize::Rsa2048),
        cofferdam::vault::Recovery::default(),
    );
    let new = new.await.unwrap();
    world.customer.set_offline(false).await.unwrap();
    let rotated = account.rotate_kek(None, new, None).await.unwrap().wait().await.unwrap();
    assert_eq!(rotated.status, OperationStatus::Succeeded, "{rotated:?}");
    assert!(ask(&world.engine, &world).await.is_safe());
    world.customer.disable(&world.kek).await.unwrap();
    tokio::time::sleep(NOTICED).await;
    account.drain().await.unwrap();
    for block in 0..5 {
        assert_eq!(account.get(&id(&format!("waits-{block}"))).await.unwrap(), "buffered");
    }
}
