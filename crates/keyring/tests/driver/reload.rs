//! A record that changed is read again, while keys go on serving; what it has now is used, and what it lost is dropped.

use std::{sync::atomic::Ordering, time::Duration};

use cofferdam_crypto::{AccountId, Epoch, Provider};
use cofferdam_keyring::{KeyError, KeyState, RecordError, What, Why};
use cofferdam_vault::{
    VaultErrorKind as Kind,
    testing::{Answer, Outcome},
};
use tokio::time::{Instant, sleep};

use crate::common::{MS, SECOND, World, kek};

const DOWN: Answer = Answer::Fail(Kind::Unavailable);

async fn active() -> (World, AccountId) {
    let world = World::new();
    let account = world.account(1).await;
    world.key(account).await.unwrap();
    world.forget_calls();
    (world, account)
}

async fn epoch(world: &World, account: AccountId) -> u32 {
    world.key(account).await.unwrap().scope().epoch.number()
}

fn reads(world: &World) -> usize {
    world.records.reads.load(Ordering::Relaxed)
}

/// Another node re-encrypted everything: the record has its newest epoch alone.
fn drop_old(world: &World, account: AccountId) {
    world.records.change(account, |record| {
        record.epochs.drain(..record.epochs.len() - 1);
    });
}

#[tokio::test(start_paused = true)]
async fn after_a_reload_the_new_epoch_is_sealed_under_and_the_old_one_opens_still() {
    let (world, account) = active().await;
    let old = world.key(account).await.unwrap();
    world.add_epoch(account, 2).await;
    assert_eq!(epoch(&world, account).await, 1, "nobody said so yet");
    world.keyring.reload(account).await.unwrap();
    assert_eq!(epoch(&world, account).await, 2);
    assert!(old.still_usable());
    let calls = world.customer.unwraps();
    world.keyring.opening_key(account, Provider::Customer, Epoch::FIRST).await.unwrap();
    assert_eq!(world.customer.unwraps(), calls, "it is held");
}

#[tokio::test(start_paused = true)]
async fn a_reload_evicts_nothing_while_it_is_under_way() {
    let (world, account) = active().await;
    let key = world.key(account).await.unwrap();
    world.add_epoch(account, 2).await;
    world.customer.set_latency(3 * SECOND);
    let mut events = world.keyring.subscribe();
    let keyring = world.keyring.clone();
    let reload = tokio::spawn(async move { keyring.reload(account).await });
    for _ in 0..29 {
        sleep(100 * MS).await;
        let asked = Instant::now();
        assert_eq!(epoch(&world, account).await, 1);
        assert_eq!(asked.elapsed(), Duration::ZERO);
        assert!(key.still_usable() && !reload.is_finished());
    }
    reload.await.unwrap().unwrap();
    assert_eq!(epoch(&world, account).await, 2);
    while let Ok(event) = events.try_recv() {
        assert!(matches!(event.what, What::Refreshed) || event.provider == Provider::Service, "{event:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_under_way_is_not_cancelled_and_not_taken_for_the_reload() {
    let world = World::new();
    let account = world.account(1).await;
    world.forget_calls();
    world.customer.set_latency(SECOND);
    let keyring = world.keyring.clone();
    let cold = tokio::spawn(async move { keyring.sealing_key(account, Provider::Customer).await.map(drop) });
    sleep(500 * MS).await;
    assert_eq!(world.customer.calls().len(), 1, "it has read its record");
    world.customer.set_latency(Duration::ZERO);
    world.add_epoch(account, 2).await;
    world.keyring.reload(account).await.unwrap();
    assert_eq!(epoch(&world, account).await, 2);
    cold.await.unwrap().unwrap();
    assert!(
        world
            .customer
            .calls()
            .iter()
            .filter(|c| c.unwrap)
            .all(|call| matches!(call.ended, Some((_, Outcome::Worked))))
    );
}

#[tokio::test(start_paused = true)]
async fn a_thousand_reloads_at_one_time_share_two_attempts_at_most() {
    let (world, account) = active().await;
    world.add_epoch(account, 2).await;
    world.customer.set_latency(SECOND);
    world.service.set_latency(SECOND);
    let (calls, service, before) = (world.customer.unwraps(), world.service.unwraps(), reads(&world));
    let reloads: Vec<_> = (0..1000_u32)
        .map(|n| {
            let keyring = world.keyring.clone();
            tokio::spawn(async move {
                sleep(n * MS / 2).await;
                keyring.reload(account).await
            })
        })
        .collect();
    for reload in reloads {
        reload.await.unwrap().unwrap();
    }
    // The first one's, which the others came after, and theirs; of the customer's, at most.
    assert!(world.customer.unwraps() - calls <= 2 && world.service.unwraps() - service <= 2);
    assert!(reads(&world) - before <= 4, "{}", reads(&world) - before);
    assert_eq!(world.customer.max_in_flight(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_epoch_that_left_the_record_is_dropped_also_where_the_vault_is_away() {
    for away in [false, true] {
        let world = World::new();
        let account = world.account(2).await;
        world.keyring.opening_key(account, Provider::Customer, Epoch::FIRST).await.unwrap();
        let newest = world.key(account).await.unwrap();
        let first = world.keyring.opening_key(account, Provider::Customer, Epoch::FIRST).await.unwrap();
        drop_old(&world, account);
        if away {
            world.customer.answer(DOWN);
        }
        // What it has now is held already.
        world.keyring.reload(account).await.unwrap();
        assert!(!first.still_usable() && newest.still_usable());
        world.customer.answer(Answer::Work);
        sleep(40 * SECOND).await;
        let gone = world.keyring.opening_key(account, Provider::Customer, Epoch::FIRST).await.unwrap_err();
        assert!(matches!(gone, KeyError::UnknownEpoch(_)), "{gone}");
        assert_eq!(epoch(&world, account).await, 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_of_which_the_record_has_nothing_left_is_not_sealed_under_whatever_the_vault_says() {
    let (world, account) = active().await;
    let old = world.key(account).await.unwrap();
    world.add_epoch(account, 2).await;
    drop_old(&world, account);
    world.customer.answer(DOWN);
    let mut events = world.keyring.subscribe();
    // The record was read, and no key is held.
    world.keyring.reload(account).await.unwrap();
    assert!(!old.still_usable());
    assert_eq!(world.state(account), KeyState::Unavailable);
    let told: Vec<_> = std::iter::from_fn(|| events.try_recv().ok()).map(|event| event.what).collect();
    assert!(told.iter().any(|what| matches!(what, What::Changed { why: Why::Outdated, .. })), "{told:?}");
    assert!(world.key(account).await.unwrap_err().is_outage());
    world.customer.answer(Answer::Work);
    sleep(5 * SECOND).await;
    assert_eq!(epoch(&world, account).await, 2);
}

#[tokio::test(start_paused = true)]
async fn a_reload_in_an_outage_says_so_keeps_the_key_within_its_grace_and_is_made_up_for_by_itself() {
    let (world, account) = active().await;
    world.add_epoch(account, 2).await;
    world.customer.answer(DOWN);
    let refused = world.keyring.reload(account).await.unwrap_err();
    assert!(refused.is_outage(), "{refused}");
    assert_eq!(world.use_for(account, 1700 * SECOND, SECOND).await, (0, Duration::ZERO));
    assert_eq!((epoch(&world, account).await, world.state(account)), (1, KeyState::Grace));
    assert!(world.keyring.reload(account).await.is_err(), "and again");
    world.customer.answer(Answer::Work);
    let (failed, _) = world.use_for(account, 61 * SECOND, SECOND).await;
    assert_eq!((failed, epoch(&world, account).await), (0, 2));
    world.keyring.reload(account).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_record_that_can_not_be_read_is_said_and_read_again_before_the_vault_is_asked() {
    let (world, account) = active().await;
    world.use_for(account, 20 * SECOND, SECOND).await;
    world.rewrap(account, 2).await;
    world.records.broken.store(true, Ordering::Relaxed);
    let refused = world.keyring.reload(account).await.unwrap_err();
    assert!(matches!(&refused, KeyError::Record(e) if matches!(**e, RecordError::Storage(_))), "{refused}");
    // Whoever asks under the old version would be told no.
    world.customer.answer_for(&kek(1), Some(Answer::Fail(Kind::AccessDenied)));
    world.forget_calls();
    world.use_for(account, 100 * SECOND, SECOND).await;
    assert!(world.customer.calls().is_empty());
    world.records.broken.store(false, Ordering::Relaxed);
    let (failed, _) = world.use_for(account, 100 * SECOND, SECOND).await;
    assert_eq!((failed, world.state(account)), (0, KeyState::Active));
    assert!(world.customer.calls().iter().all(|call| call.key_id == kek(2)));
}

#[tokio::test(start_paused = true)]
async fn a_denial_of_the_old_wrap_while_reloading_is_no_revocation() {
    let (world, account) = active().await;
    // Read before it changes, asked after.
    world.records.latency_ms.store(200, Ordering::Relaxed);
    world.customer.set_latency(SECOND);
    let reload = {
        let keyring = world.keyring.clone();
        tokio::spawn(async move { keyring.reload(account).await })
    };
    sleep(500 * MS).await;
    world.customer.set_latency(Duration::ZERO);
    world.rewrap(account, 2).await;
    world.customer.answer_for(&kek(1), Some(Answer::Fail(Kind::KeyDisabled)));
    world.keyring.reload(account).await.unwrap();
    reload.await.unwrap().unwrap();
    assert_eq!(world.use_for(account, 100 * SECOND, SECOND).await.0, 0);
    assert!(world.records.persisted.lock().unwrap().is_empty());
    assert_eq!(world.keyring.status(account, Provider::Customer).key_id, Some(kek(2)));
}

#[tokio::test(start_paused = true)]
async fn a_reload_of_an_account_that_is_gone_drops_its_keys_at_once() {
    let (world, account) = active().await;
    let key = world.key(account).await.unwrap();
    world.records.delete(account);
    world.keyring.reload(account).await.unwrap();
    assert!(!key.still_usable());
    let refused = world.key(account).await.unwrap_err();
    assert!(matches!(refused, KeyError::UnknownAccount { .. }), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn a_reload_where_no_key_is_held_asks_nobody_and_the_next_use_reads_the_record() {
    let (world, account) = active().await;
    sleep(7200 * SECOND).await;
    assert_eq!(world.state(account), KeyState::Cold);
    world.forget_calls();
    let before = reads(&world);
    world.add_epoch(account, 2).await;
    let calls = world.customer.calls().len();
    world.keyring.reload(account).await.unwrap();
    assert_eq!((world.customer.calls().len(), reads(&world)), (calls, before));
    assert_eq!(epoch(&world, account).await, 2);
    // An account that was never asked for.
    let other = world.account(1).await;
    world.keyring.reload(other).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_reload_of_a_revoked_account_asks_nobody_and_restores_nothing() {
    let (world, account) = active().await;
    world.customer.answer(Answer::Fail(Kind::AccessDenied));
    sleep(40 * SECOND).await;
    assert_eq!(world.state(account), KeyState::Revoked);
    world.forget_calls();
    world.keyring.reload(account).await.unwrap();
    assert!(world.customer.calls().is_empty());
    assert_eq!(world.state(account), KeyState::Revoked);
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_gives_a_reload_up_cancels_nothing() {
    let (world, account) = active().await;
    world.add_epoch(account, 2).await;
    world.customer.set_latency(SECOND);
    for wait in [Duration::ZERO, 300 * MS] {
        let _ = tokio::time::timeout(wait, world.keyring.reload(account)).await;
    }
    sleep(3 * SECOND).await;
    assert_eq!(epoch(&world, account).await, 2);
}

#[tokio::test(start_paused = true)]
async fn who_reloads_as_the_keyring_closes_is_told_so() {
    let (world, account) = active().await;
    world.add_epoch(account, 2).await;
    world.customer.answer(Answer::Hang);
    let keyring = world.keyring.clone();
    let reload = tokio::spawn(async move { keyring.reload(account).await });
    sleep(100 * MS).await;
    world.keyring.close().await;
    assert!(matches!(reload.await.unwrap(), Err(KeyError::Closed)));
}

#[tokio::test(start_paused = true)]
async fn a_kek_that_was_added_is_asked_from_the_reload_on() {
    let world = World::several(2, Default::default(), Default::default());
    let account = world.account(1).await;
    world.key(account).await.unwrap();
    world.wrap_under(account, &[(0, 1), (1, 1)]).await;
    let before = world.vault(1).unwraps();
    world.keyring.reload(account).await.unwrap();
    sleep(MS).await;
    assert_eq!(world.vault(1).unwraps() - before, 1);
    world.vault(1).answer(Answer::Fail(Kind::AccessDenied));
    let mut watch = world.keyring.watch(account, Provider::Customer);
    let use_it = world.use_for(account, 100 * SECOND, SECOND);
    tokio::join!(use_it, async {
        watch.wait_for(|&state| state == KeyState::Revoked).await.unwrap().to_owned()
    });
}
