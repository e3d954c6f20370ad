//! A sealed block that who can write to the store moved, rolled back or changed is refused.

use bytes::Bytes;
use cofferdam::{
    crypto::{BlockId, Epoch, Provider, Version},
    store::{Account, AccountKey, BlockMeta, BlockOp, BlockStore, EmbeddedStore, EngineError},
};

use crate::world::{World, name};

fn id(text: &str) -> BlockId {
    BlockId::new(text).unwrap()
}

async fn plant(store: &EmbeddedStore, account: &Account, id: &BlockId, meta: BlockMeta, sealed: Bytes) {
    let meta = BlockMeta { sealed_len: sealed.len() as u64, ..meta };
    let op = BlockOp::Put { account: account.id(), id: id.clone(), meta, sealed };
    store.commit(vec![op]).await.unwrap();
}

async fn assert_damaged(account: &Account, id: &BlockId, what: &str) {
    let whole = account.get(id).await;
    assert!(matches!(whole, Err(EngineError::Damaged { .. })), "{what}: {whole:?}");
    let part = account.get_range(id, 0..1).await;
    assert!(matches!(part, Err(EngineError::Damaged { .. })), "{what}, a range: {part:?}");
}

#[tokio::test(start_paused = true)]
async fn blocks_moved_rolled_back_or_changed_are_refused() {
    let world = World::new(1).await;
    let contoso = world.engine.create_account(&name("contoso"), world.customer_key()).await.unwrap();
    let fabrikam = world.engine.create_account(&name("fabrikam"), world.customer_key()).await.unwrap();
    let service = world.engine.create_account(&name("service"), AccountKey::Service).await.unwrap();
    contoso.put(&id("a"), "the first".into()).await.unwrap();
    let (old_at, old) = world.store.fetch(contoso.id(), &id("a")).await.unwrap().unwrap();
    contoso.put(&id("a"), "the second".into()).await.unwrap();
    let (at, sealed) = world.store.fetch(contoso.id(), &id("a")).await.unwrap().unwrap();
    let meta = at.meta;
    let newer =
        |meta: BlockMeta, by: u64| BlockMeta { version: Version::new(meta.version.number() + by), ..meta };

    plant(&world.store, &contoso, &id("b"), newer(meta, 1), sealed.clone()).await;
    assert_damaged(&contoso, &id("b"), "as another block").await;

    plant(&world.store, &fabrikam, &id("a"), newer(meta, 2), sealed.clone()).await;
    assert_damaged(&fabrikam, &id("a"), "as another account's").await;

    plant(&world.store, &contoso, &id("a"), newer(meta, 3), old.clone()).await;
    assert_damaged(&contoso, &id("a"), "rolled back").await;

    for (what, bytes) in [
        ("cut", sealed.slice(..sealed.len() - 1)),
        ("extended", [&sealed[..], &[0]].concat().into()),
        ("without its pages", sealed.slice(..76)),
        ("nothing of it", Bytes::new()),
    ] {
        plant(&world.store, &contoso, &id("c"), newer(meta, 10 + bytes.len() as u64), bytes).await;
        assert_damaged(&contoso, &id("c"), what).await;
        contoso.delete(&id("c")).await.unwrap();
    }
    for meta in [
        BlockMeta { provider: Provider::Customer, ..newer(meta, 300) },
        BlockMeta { epoch: Epoch::new(999), ..newer(meta, 301) },
    ] {
        plant(&world.store, &service, &id("d"), meta, sealed.clone()).await;
        assert_damaged(&service, &id("d"), "under a key that the account does not have").await;
    }
    assert!(old_at.meta.version < meta.version);
    world.engine.close().await.unwrap();
}
