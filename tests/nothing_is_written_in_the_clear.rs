//! No plaintext and no key of an account reaches the disk, for accounts under either key.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "a test")]

mod world;

use cofferdam::{crypto::BlockId, store::AccountKey};
use world::{World, holds, name};

#[tokio::test(start_paused = true)]
async fn canaries_are_nowhere_on_disk() {
    let world = World::new(12).await;
    for (account, key) in [("contoso", world.customer_key()), ("under-the-service-key", AccountKey::Service)]
    {
        let account = world.engine.create_account(&name(account), key).await.unwrap();
        for n in 0..20 {
            let canary = format!("canary {n:02} of {account:?}: 5105-1051-0510-5100");
            let block = canary.repeat(2000).into();
            account.put(&BlockId::new(format!("id-of-{n:02}")).unwrap(), block).await.unwrap();
        }
    }
    world.engine.close().await.unwrap();
    assert!(holds(world.path(), b"id-of-07"), "the search finds what is there in the clear");
    for n in 0..20 {
        assert!(!holds(world.path(), format!("canary {n:02} of").as_bytes()), "canary {n} is on disk");
    }
}
