//! What becomes of an account's objects when its keys change: they stay readable.

use cofferdam_crypto::{Epoch, Header, KeyId, ProviderKind};
use cofferdam_store::{BufferMode, LinkTo, OperationHandle, OperationStatus, Reencrypt};
use cofferdam_vault::{Principal, VaultErrorKind, testing::Answer};
use object_store::{ObjectStoreExt, path::Path};
use tokio::time::sleep;

use super::world::{NOTICED, World, bytes, said};

async fn done(operation: OperationHandle) {
    let ended = operation.wait().await.unwrap();
    assert_eq!(ended.status, OperationStatus::Succeeded, "{ended:?}");
}

async fn sealed_under(world: &World, path: &str) -> (ProviderKind, Epoch) {
    let header = Header::parse(&world.stored(path).await).unwrap();
    (header.provider(), header.epoch())
}

#[tokio::test(start_paused = true)]
async fn objects_outlive_the_aek_that_they_were_sealed_under() {
    let world = World::new().await;
    let plain = bytes(1, 10_000);
    world.put("a", &plain).await;
    let mut upload = world.store.put_multipart(&Path::from("b")).await.unwrap();
    upload.put_part(plain[..5_000].to_vec().into()).await.unwrap();
    // Blocks are sealed anew, and what they were under would be destroyed if nothing else could need it.
    done(world.account.rotate_aek(Reencrypt::Yes).await.unwrap()).await;
    upload.put_part(plain[5_000..].to_vec().into()).await.unwrap();
    upload.complete().await.unwrap();
    world.put("c", &plain).await;
    for (path, epoch) in [("a", 1), ("b", 1), ("c", 2)] {
        assert!(world.get(path).await.unwrap() == plain, "{path}");
        assert_eq!(sealed_under(&world, path).await, (ProviderKind::Customer, Epoch::new(epoch)), "{path}");
    }
    world.store.copy(&Path::from("a"), &Path::from("a")).await.unwrap();
    assert_eq!(sealed_under(&world, "a").await, (ProviderKind::Customer, Epoch::new(2)));
    assert!(world.get("a").await.unwrap() == plain);
}

#[tokio::test(start_paused = true)]
async fn objects_outlive_an_unlink_and_need_the_customers_key_while_the_account_is_linked() {
    let world = World::new().await;
    let plain = bytes(1, 10_000);
    world.put("of customer", &plain).await;
    done(world.account.unlink(Reencrypt::Yes).await.unwrap()).await;
    world.put("of service", &plain).await;
    assert_eq!(sealed_under(&world, "of service").await.0, ProviderKind::Service);
    for path in ["of customer", "of service"] {
        assert!(world.get(path).await.unwrap() == plain, "{path}");
    }
    // Unlinked, the service's own need no customer; the customer's do.
    world.vault.answer(Answer::Fail(VaultErrorKind::AccessDenied));
    sleep(NOTICED).await;
    assert!(world.get("of service").await.unwrap() == plain);
    assert_eq!(said(world.get("of customer").await).1, "KeyRevoked");

    world.vault.answer(Answer::Work);
    sleep(NOTICED).await;
    let kek = KeyId::new("scripted://again/1").unwrap();
    world.vault.create_key(&kek).unwrap();
    let to = LinkTo { principal: Principal::new("contoso"), kek, buffer: BufferMode::default() };
    done(world.account.link(to, Reencrypt::No).await.unwrap()).await;
    for path in ["of customer", "of service"] {
        assert!(world.get(path).await.unwrap() == plain, "{path}");
    }
    world.vault.answer(Answer::Fail(VaultErrorKind::AccessDenied));
    sleep(NOTICED).await;
    for path in ["of customer", "of service"] {
        assert_eq!(said(world.get(path).await).1, "KeyRevoked", "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_deleted_account_reads_nothing() {
    let world = World::new().await;
    world.put("a", b"text").await;
    done(world.account.delete_account().await.unwrap()).await;
    assert_eq!(said(world.get("a").await).1, "Account");
    assert_eq!(said(world.store.put(&Path::from("b"), "x".into()).await).1, "Account");
}
