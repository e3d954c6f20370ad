//! Moving an account from the service's key to a customer's, and back.

use cofferdam::{
    crypto::Provider,
    store::{Account, AccountKey, BlockStore, EngineError, LinkTo, OperationStatus, Reencrypt},
};

use crate::world::{self, NOTICED, POLL, World, id, is_revoked, name, stored};

fn link_to(world: &World) -> LinkTo {
    LinkTo { principal: World::principal(), kek: world.kek.clone(), buffer: world.mode }
}

async fn link(world: &World, account: &Account, reencrypt: Reencrypt) {
    let operation = account.link(link_to(world), reencrypt).await.unwrap().wait().await.unwrap();
    assert_eq!(operation.status, OperationStatus::Succeeded, "{operation:?}");
}

async fn unlink(account: &Account, reencrypt: Reencrypt) {
    let operation = account.unlink(reencrypt).await.unwrap().wait().await.unwrap();
    assert_eq!(operation.status, OperationStatus::Succeeded, "{operation:?}");
}

async fn provider(world: &World, account: &Account, block: &str) -> Provider {
    world.store.stat(account.id(), &id(block)).await.unwrap().unwrap().meta.provider
}

#[tokio::test(start_paused = true)]
async fn old_blocks_read_seamlessly_under_either_key() {
    let mut world = World::new(521).await;
    let account = world.engine.create_account(&name("contoso"), AccountKey::Service).await.unwrap();
    stored(account.put(&id("before"), "service".into()).await);
    link(&world, &account, Reencrypt::No).await;
    stored(account.put(&id("linked"), "customer".into()).await);
    assert_eq!(provider(&world, &account, "before").await, Provider::Service);
    assert_eq!(provider(&world, &account, "linked").await, Provider::Customer);
    for restarts in 0..2 {
        let account = world.contoso_again().await;
        assert_eq!(account.get(&id("before")).await.unwrap(), "service", "{restarts}");
        assert_eq!(account.get(&id("linked")).await.unwrap(), "customer", "{restarts}");
        assert_eq!(account.get_range(&id("before"), 1..4).await.unwrap(), "erv");
        world.restart().await;
    }
    let account = world.contoso_again().await;
    unlink(&account, Reencrypt::No).await;
    stored(account.put(&id("after"), "service again".into()).await);
    assert_eq!(provider(&world, &account, "after").await, Provider::Service);
    for (block, data) in [("before", "service"), ("linked", "customer"), ("after", "service again")] {
        assert_eq!(account.get(&id(block)).await.unwrap(), data);
    }
}

#[tokio::test(start_paused = true)]
async fn while_a_linked_account_is_revoked_nothing_of_it_is_read_and_after_an_unlink_the_services_is() {
    let world = World::new(522).await;
    let account = world.engine.create_account(&name("contoso"), AccountKey::Service).await.unwrap();
    stored(account.put(&id("before"), "service".into()).await);
    link(&world, &account, Reencrypt::No).await;
    stored(account.put(&id("linked"), "customer".into()).await);
    world.customer.disable(&world.kek).await.unwrap();
    tokio::time::sleep(NOTICED).await;
    for block in ["before", "linked"] {
        assert!(is_revoked(&account.get(&id(block)).await), "{block}");
        assert!(is_revoked(&account.get_range(&id(block), 0..2).await), "{block}");
    }
    unlink(&account, Reencrypt::No).await;
    assert_eq!(account.get(&id("before")).await.unwrap(), "service");
    assert!(is_revoked(&account.get(&id("linked")).await), "it needs the customer's key");
    stored(account.put(&id("after"), "service again".into()).await);
    world.customer.enable(&world.kek).await.unwrap();
    tokio::time::sleep(POLL).await;
    assert_eq!(account.get(&id("linked")).await.unwrap(), "customer");
}

#[tokio::test(start_paused = true)]
async fn what_is_buffered_stays_the_customers_after_an_unlink() {
    for &mode in world::MODES {
        let world = World::in_mode(mode, 523).await;
        let account = world.contoso().await;
        stored(account.put(&id("stored"), "customer".into()).await);
        world.lose_key(&account).await;
        world::buffered(account.put(&id("waits"), "buffered".into()).await);
        unlink(&account, Reencrypt::No).await;
        assert!(account.get(&id("waits")).await.is_err(), "{mode}: it was read without the customer's key");
        assert!(account.get(&id("stored")).await.is_err(), "{mode}");
        let again = account.link(link_to(&world), Reencrypt::No).await;
        assert!(matches!(again, Err(EngineError::Vault { .. })), "{mode}: its vault is offline: {again:?}");
        world.customer.set_offline(false).await.unwrap();
        let undrained = account.link(link_to(&world), Reencrypt::No).await;
        assert!(matches!(undrained, Err(EngineError::Undrained { blocks: 1, .. })), "{undrained:?}");
        world.regain_key(&account).await;
        assert_eq!(account.get(&id("waits")).await.unwrap(), "buffered", "{mode}");
        assert_eq!(provider(&world, &account, "waits").await, Provider::Customer, "{mode}");
    }
}

#[tokio::test(start_paused = true)]
async fn re_encryption_moves_every_block_and_gives_the_customers_key_up() {
    let mut world = World::new(524).await;
    let account = world.engine.create_account(&name("contoso"), AccountKey::Service).await.unwrap();
    for n in 0..400 {
        stored(account.put(&id(&format!("block-{n:03}")), format!("content {n}").into()).await);
    }
    link(&world, &account, Reencrypt::Yes).await;
    assert_eq!(provider(&world, &account, "block-000").await, Provider::Customer);
    assert_eq!(provider(&world, &account, "block-399").await, Provider::Customer);
    stored(account.put(&id("linked"), "customer".into()).await);
    unlink(&account, Reencrypt::Yes).await;
    world.customer.delete(&world.kek).await.unwrap();
    world.restart().await;
    let account = world.contoso_again().await;
    for n in 0..400 {
        assert_eq!(account.get(&id(&format!("block-{n:03}"))).await.unwrap(), format!("content {n}"));
    }
    assert_eq!(account.get(&id("linked")).await.unwrap(), "customer");
}

#[tokio::test(start_paused = true)]
async fn an_account_is_linked_anew_and_reads_what_it_had_from_before() {
    let mut world = World::new(525).await;
    let account = world.contoso().await;
    stored(account.put(&id("first"), "one".into()).await);
    unlink(&account, Reencrypt::No).await;
    stored(account.put(&id("between"), "two".into()).await);
    let other = world.customer.create_key("other").await.unwrap();
    let to = LinkTo { kek: other, ..link_to(&world) };
    let operation = account.link(to, Reencrypt::No).await.unwrap().wait().await.unwrap();
    assert_eq!(operation.status, OperationStatus::Succeeded, "{operation:?}");
    stored(account.put(&id("second"), "three".into()).await);
    // The former key is needed no longer.
    world.customer.delete(&world.kek).await.unwrap();
    world.restart().await;
    let account = world.contoso_again().await;
    for (block, data) in [("first", "one"), ("between", "two"), ("second", "three")] {
        assert_eq!(account.get(&id(block)).await.unwrap(), data);
    }
    let again = account.link(link_to(&world), Reencrypt::No).await;
    assert!(matches!(again, Err(EngineError::AlreadyLinked { .. })), "{again:?}");
}
