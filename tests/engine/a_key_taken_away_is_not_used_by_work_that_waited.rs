//! Large blocks are sealed and opened on threads, where they may wait: a key that was taken away meanwhile is not used.

use cofferdam::{crypto::BlockId, store::BlockStore};

use crate::world::{NOTICED, World, is_revoked, name};

#[tokio::test(start_paused = true)]
async fn a_get_and_a_put_that_waited_through_a_denial_are_refused() {
    let (world, held) = World::held(31).await;
    let account = world.engine.create_account(&name("contoso"), world.customer_key()).await.unwrap();
    let (id, other) = (BlockId::new("large").unwrap(), BlockId::new("other").unwrap());
    account.put(&id, vec![7; 900_000].into()).await.unwrap();

    held.hold();
    let get = tokio::spawn({
        let (account, id) = (account.clone(), id.clone());
        async move { account.get(&id).await }
    });
    let put = tokio::spawn({
        let (account, other) = (account.clone(), other.clone());
        async move { account.put(&other, vec![8; 900_000].into()).await }
    });
    tokio::task::yield_now().await;
    world.customer.disable(&world.kek).await.unwrap();
    tokio::time::sleep(NOTICED).await;
    assert!(is_revoked(&account.check_key().await));
    assert_eq!(held.release(), 2, "both waited");

    let get = get.await.unwrap();
    assert!(is_revoked(&get), "{:?}", get.map(|data| data.len()));
    let put = put.await.unwrap();
    assert!(is_revoked(&put), "{put:?}");
    assert_eq!(world.store.stat(account.id(), &other).await.unwrap(), None);

    world.customer.enable(&world.kek).await.unwrap();
    tokio::time::sleep(NOTICED).await;
    assert_eq!(account.get(&id).await.unwrap(), vec![7; 900_000]);
}
