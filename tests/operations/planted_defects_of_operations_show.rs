//! Each defect that can be planted in the engine's operations does what it is named after, and without it nothing of that
//! happens. Needs `--cfg cofferdam_planted`.

#![cfg(cofferdam_planted)]

use std::time::Duration;

use cofferdam::{
    crypto::planted::{Bug, plant},
    store::{Account, AccountKey, BlockStore, Catalog, LinkTo, Reencrypt},
};
use futures_util::poll;

use crate::world::{NOTICED, World, id, is_revoked, name, stored};

async fn rotate_kek(world: &World, account: &Account) {
    let new = world.customer.new_version("payroll").await.unwrap();
    account.rotate_kek(None, new, None).await.unwrap().wait().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_version_that_was_said_to_be_safe_is_wrapped_under_where_fences_are_forgotten() {
    for bug in [None, Some(Bug::FenceForgotten)] {
        let world = World::new(581).await;
        let account = world.contoso().await;
        rotate_kek(&world, &account).await;
        assert!(world.engine.safe_to_disable(&world.kek).await.unwrap().is_safe());
        plant(bug);
        let back = account.rotate_kek(None, world.kek.clone(), None).await;
        plant(None);
        assert_eq!(back.is_ok(), bug.is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn a_purge_leaves_the_wraps_only_where_it_keeps_them() {
    for bug in [None, Some(Bug::PurgeKeepsWraps)] {
        let world = World::new(582).await;
        let account = world.contoso().await;
        stored(account.put(&id("block"), "data".into()).await);
        account.delete_account().await.unwrap().wait().await.unwrap();
        plant(bug);
        world.engine.purge_account(&name("contoso")).await.unwrap().wait().await.unwrap();
        plant(None);
        let left = world.store.load("account/contoso").await.unwrap();
        assert_eq!(left.is_some(), bug.is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn a_linked_account_is_read_while_it_is_revoked_only_where_its_owner_is_not_asked() {
    for bug in [None, Some(Bug::LinkedReadWithoutKey)] {
        let world = World::new(583).await;
        let account = world.engine.create_account(&name("contoso"), AccountKey::Service).await.unwrap();
        stored(account.put(&id("before"), "service".into()).await);
        let to = LinkTo { principal: World::principal(), kek: world.kek.clone(), buffer: world.mode };
        account.link(to, Reencrypt::No).await.unwrap().wait().await.unwrap();
        plant(bug);
        world.customer.disable(&world.kek).await.unwrap();
        tokio::time::sleep(NOTICED).await;
        let read = account.get(&id("before")).await;
        plant(None);
        assert_eq!(is_revoked(&read), bug.is_none(), "{read:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_epoch_is_retired_under_blocks_only_where_nobody_looks() {
    for bug in [None, Some(Bug::RetireBeforeReencrypted)] {
        let world = World::new(584).await;
        let account = world.contoso().await;
        stored(account.put(&id("block"), "data".into()).await);
        plant(bug);
        account.rotate_aek(Reencrypt::Yes).await.unwrap().wait().await.unwrap();
        plant(None);
        assert_eq!(account.get(&id("block")).await.is_ok(), bug.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn who_changes_a_key_waits_for_writes_only_where_the_gate_is_not_forgotten() {
    for bug in [None, Some(Bug::GateForgotten)] {
        let (mut world, held) = World::held(585).await;
        let _ = &mut world;
        let account = world.contoso().await;
        stored(account.put(&id("block"), "data".into()).await);
        held.hold();
        // A large write that waits for a thread, with the key of before.
        let large = id("large");
        let mut put = std::pin::pin!(account.put(&large, vec![7; 600 << 10].into()));
        for _ in 0..50 {
            assert!(poll!(put.as_mut()).is_pending());
            tokio::task::yield_now().await;
        }
        plant(bug);
        let handle = account.rotate_aek(Reencrypt::No).await.unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(20), handle.wait()).await;
        plant(None);
        assert_eq!(ended.is_ok(), bug.is_some());
        held.release();
        put.await.unwrap();
        handle.wait().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn an_operation_ends_before_others_have_seen_it_only_where_it_does_not_wait() {
    for bug in [None, Some(Bug::NoAnnounce)] {
        let world = World::set_up(586, |builder| builder.shared(true)).await;
        let other = world.twin().await;
        let account = world.contoso().await;
        stored(account.put(&id("block"), "data".into()).await);
        let there = other.account(&name("contoso")).await.unwrap();
        there.get(&id("block")).await.unwrap();
        plant(bug);
        let handle = account.rotate_aek(Reencrypt::No).await.unwrap();
        handle.wait().await.unwrap();
        stored(there.put(&id("there"), "data".into()).await);
        plant(None);
        let at = world.store.stat(account.id(), &id("there")).await.unwrap().unwrap();
        assert_eq!(at.meta.epoch.number(), if bug.is_some() { 1 } else { 2 });
    }
}
