//! The keyring while its vault works: cadence, single flight, epochs, idleness, shutting down.

use std::{
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use cofferdam_crypto::{AccountId, Epoch, Provider, SALT_LEN};
use cofferdam_keyring::{KeyError, KeyState, Policy, RecordError, What};
use cofferdam_vault::{Clock as _, VaultErrorKind as Kind, testing::Answer};
use tokio::time::{Instant, sleep, timeout};

use crate::common::{self, MS, SECOND, World};

#[tokio::test(start_paused = true)]
async fn a_used_key_is_refreshed_on_target_and_jitter_only_shortens_most_for_the_first() {
    for (refresh, least) in [(6, 6_000), (8, 6_000), (30, 22_500), (60, 45_000)] {
        let policy = Policy::default().with_refresh(Duration::from_secs(refresh)).unwrap();
        let world = World::with(policy);
        let account = world.account(1).await;
        assert_eq!(world.use_for(account, 1200 * SECOND, SECOND).await, (0, Duration::ZERO));
        let sent: Vec<Instant> =
            world.customer.calls().into_iter().filter(|call| call.unwrap).map(|call| call.sent).collect();
        assert!(sent.len() as u64 >= 1200 / refresh, "{} calls", sent.len());
        let gaps: Vec<Duration> = sent.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gaps[0] >= Policy::MIN_REFRESH, "{gaps:?}");
        assert!(gaps[1..].iter().all(|&gap| gap >= Duration::from_millis(least)), "{gaps:?}");
        assert!(gaps.iter().all(|&gap| gap <= Duration::from_secs(refresh) + MS), "{gaps:?}");
        assert!(refresh == 6 || gaps.iter().any(|gap| gap != &gaps[0]), "no jitter: {gaps:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_callers_at_a_cold_start_make_one_call_to_each_vault() {
    let world = World::new();
    let account = world.account(1).await;
    world.customer.set_latency(200 * MS);
    let (before, service_before) = (world.customer.unwraps(), world.service.unwraps());
    crowd(&world, account).await;
    assert_eq!(world.customer.unwraps() - before, 1);
    assert_eq!(world.service.unwraps() - service_before, 1);
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_callers_at_expiry_make_one_call() {
    let world = World::new();
    let account = world.account(1).await;
    world.key(account).await.unwrap();
    world.customer.set_latency(200 * MS);
    let before = world.customer.unwraps();
    world.clock.suspend(66 * SECOND);
    crowd(&world, account).await;
    assert_eq!(world.customer.unwraps() - before, 1);
    assert_eq!(world.customer.max_in_flight(), 1);
}

async fn crowd(world: &World, account: AccountId) {
    let callers: Vec<_> = (0..10_000)
        .map(|_| {
            let keyring = world.keyring.clone();
            tokio::spawn(async move { keyring.sealing_key(account, Provider::Customer).await.map(drop) })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_answered_in_the_order_of_asking() {
    let world = World::new();
    let account = world.account(1).await;
    world.customer.set_latency(SECOND);
    let answered = Arc::new(Mutex::new(Vec::new()));
    let callers: Vec<_> = (0..200)
        .map(|n| {
            let (keyring, answered) = (world.keyring.clone(), answered.clone());
            tokio::spawn(async move {
                keyring.sealing_key(account, Provider::Customer).await.unwrap();
                answered.lock().unwrap().push(n);
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    assert!(answered.lock().unwrap().iter().copied().eq(0..200), "{answered:?}");
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_gives_up_cancels_nothing() {
    let world = World::new();
    let account = world.account(1).await;
    world.customer.set_latency(SECOND);
    let before = world.customer.unwraps();
    assert!(timeout(100 * MS, world.key(account)).await.is_err());
    sleep(2 * SECOND).await;
    assert_eq!(world.state(account), KeyState::Active);
    world.key(account).await.unwrap();
    assert_eq!(world.customer.unwraps() - before, 1);
}

#[tokio::test(start_paused = true)]
async fn the_hot_path_makes_no_call_and_never_waits() {
    let world = World::new();
    let account = world.account(1).await;
    let handle = world.keyring.handle(account, Provider::Customer);
    let key = handle.sealing_key().await.unwrap();
    let (before, reads) = (world.customer.unwraps(), world.records.reads.load(Ordering::Relaxed));
    let asked = Instant::now();
    for _ in 0..1000 {
        assert_eq!(handle.sealing_key().await.unwrap().scope(), key.scope());
        assert!(key.still_usable());
    }
    assert_eq!(asked.elapsed(), Duration::ZERO);
    assert_eq!(world.customer.unwraps(), before);
    assert_eq!(world.records.reads.load(Ordering::Relaxed), reads);
}

#[tokio::test(start_paused = true)]
async fn old_epochs_are_unwrapped_once_and_renewed_with_the_newest() {
    let world = World::new();
    let account = world.account(3).await;
    let newest = world.key(account).await.unwrap();
    assert_eq!(newest.scope().epoch, Epoch::new(3));
    let before = world.customer.unwraps();
    for _ in 0..3 {
        let old = world.keyring.opening_key(account, Provider::Customer, Epoch::FIRST).await.unwrap();
        assert_eq!(old.scope().epoch, Epoch::FIRST);
    }
    assert_eq!(world.customer.unwraps() - before, 1);

    world.use_for(account, 300 * SECOND, SECOND).await;
    let before = world.customer.unwraps();
    world.keyring.opening_key(account, Provider::Customer, Epoch::FIRST).await.unwrap();
    assert_eq!(world.customer.unwraps(), before, "a refresh renews every epoch under its KEK");
}

#[tokio::test(start_paused = true)]
async fn an_epoch_that_another_node_added_is_found_and_one_that_nobody_made_is_refused() {
    let world = World::new();
    let account = world.account(1).await;
    world.key(account).await.unwrap();
    assert_unknown(&world, account, 3).await;

    world.add_epoch(account, 2).await;
    let found = world.keyring.opening_key(account, Provider::Customer, Epoch::new(2)).await.unwrap();
    assert_eq!(found.scope().epoch, Epoch::new(2));
    assert_eq!(world.key(account).await.unwrap().scope().epoch, Epoch::new(2));
    world.keyring.opening_key(account, Provider::Customer, Epoch::FIRST).await.unwrap();
}

async fn assert_unknown(world: &World, account: AccountId, epoch: u32) {
    let epoch = Epoch::new(epoch);
    let refused = world.keyring.opening_key(account, Provider::Customer, epoch).await.unwrap_err();
    assert!(matches!(refused, KeyError::UnknownEpoch(scope) if scope.epoch == epoch), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn asking_for_an_unknown_epoch_over_and_over_costs_the_vault_nothing() {
    let world = World::new();
    let account = world.account(1).await;
    world.key(account).await.unwrap();
    let reads = || world.records.reads.load(Ordering::Relaxed);
    let calls = || world.customer.calls().len() + world.service.calls().len();
    let (calls_before, reads_before) = (calls(), reads());
    for _ in 0..1000 {
        assert_unknown(&world, account, 999).await;
    }
    assert_eq!((calls() - calls_before, reads() - reads_before), (0, 1));

    // As many different ones: each is looked for, none is unwrapped.
    for epoch in 1000..2000 {
        assert_unknown(&world, account, epoch).await;
    }
    assert_eq!(calls(), calls_before);
    assert!(reads() - reads_before <= 1001);

    // For as long as it is asked for, once after each refresh.
    let (unwraps_before, reads_before) = (world.customer.unwraps(), reads());
    for _ in 0..3000 {
        assert_unknown(&world, account, 999).await;
        sleep(100 * MS).await;
    }
    let refreshes = world.customer.unwraps() - unwraps_before;
    assert!((10..=14).contains(&refreshes), "{refreshes}");
    let reads = reads() - reads_before;
    assert!(reads <= 2 * (refreshes + 1), "{reads} reads");
}

#[tokio::test(start_paused = true)]
async fn a_crowd_that_asks_for_an_unknown_epoch_makes_one_read() {
    let world = World::new();
    let account = world.account(1).await;
    world.key(account).await.unwrap();
    let (unwraps, reads) = (world.customer.unwraps(), world.records.reads.load(Ordering::Relaxed));
    let callers: Vec<_> = (0..100)
        .map(|_| {
            let keyring = world.keyring.clone();
            let ask = async move { keyring.opening_key(account, Provider::Customer, Epoch::new(9)).await };
            tokio::spawn(async move { ask.await.map(drop) })
        })
        .collect();
    for caller in callers {
        assert!(matches!(caller.await.unwrap().unwrap_err(), KeyError::UnknownEpoch(_)));
    }
    assert_eq!(world.records.reads.load(Ordering::Relaxed) - reads, 1);
    assert_eq!(world.customer.unwraps(), unwraps);
}

#[tokio::test(start_paused = true)]
async fn an_epoch_found_unknown_is_looked_for_again_after_a_refresh_and_once_forgotten() {
    for forget in [false, true] {
        let world = World::new();
        let account = world.account(1).await;
        world.key(account).await.unwrap();
        assert_unknown(&world, account, 2).await;
        world.add_epoch(account, 2).await;
        if forget {
            world.keyring.forget(account);
        } else {
            world.use_for(account, 31 * SECOND, SECOND).await;
        }
        let found = world.keyring.opening_key(account, Provider::Customer, Epoch::new(2)).await.unwrap();
        assert_eq!(found.scope().epoch, Epoch::new(2));
    }
}

#[tokio::test(start_paused = true)]
async fn a_record_store_that_hangs_or_panics_over_an_unknown_epoch_keeps_no_refresh_from_the_key() {
    let world = World::new();
    let account = world.account(1).await;
    world.key(account).await.unwrap();
    world.records.customer_panics.store(true, Ordering::Relaxed);
    let opening = world.keyring.opening_key(account, Provider::Customer, Epoch::new(9));
    let refused = opening.await.unwrap_err();
    assert!(refused.to_string().contains("panicked"), "{refused}");
    assert_eq!(world.state(account), KeyState::Active);

    world.records.customer_panics.store(false, Ordering::Relaxed);
    world.records.latency_ms.store(86_400_000, Ordering::Relaxed);
    let before = world.customer.unwraps();
    let asker = {
        let keyring = world.keyring.clone();
        tokio::spawn(async move {
            keyring.opening_key(account, Provider::Customer, Epoch::new(9)).await.map(drop)
        })
    };
    assert_eq!(world.use_for(account, 200 * SECOND, SECOND).await, (0, Duration::ZERO));
    assert!(world.customer.unwraps() - before >= 6, "{}", world.customer.unwraps() - before);
    let refused = asker.await.unwrap().unwrap_err();
    assert!(matches!(&refused, KeyError::Record(e) if matches!(**e, RecordError::TimedOut(_))), "{refused}");
    world.records.latency_ms.store(1, Ordering::Relaxed);
    assert_unknown(&world, account, 9).await;
}

#[tokio::test(start_paused = true)]
async fn a_damaged_wrap_of_an_old_epoch_hurts_that_epoch_and_the_one_after_it_alone() {
    let world = World::new();
    let account = world.account(3).await;
    world.records.change(account, |record| record.epochs[0].wraps[0].bytes[7] ^= 1);
    world.key(account).await.unwrap();
    let mut events = world.keyring.subscribe();
    for epoch in [1, 2, 1, 2] {
        let epoch = Epoch::new(epoch);
        let failed = world.keyring.opening_key(account, Provider::Customer, epoch).await.unwrap_err();
        assert!(matches!(failed, KeyError::Unavailable { .. }), "{failed}");
    }
    assert_eq!(events.recv().await.unwrap().what, What::Alarm(cofferdam_keyring::Alarm::Corrupt));
    world.key(account).await.unwrap();
    assert_eq!(world.state(account), KeyState::Active);
}

#[tokio::test(start_paused = true)]
async fn an_idle_key_is_not_refreshed_and_is_dropped_at_its_bound() {
    let world = World::new();
    let account = world.account(1).await;
    let key = world.key(account).await.unwrap();
    let before = world.customer.unwraps();
    sleep(1799 * SECOND).await;
    assert_eq!(world.customer.unwraps() - before, 1, "the use before the first refresh counts");
    assert!(world.keyring.status(account, Provider::Customer).verified_at.is_some());
    sleep(60 * SECOND).await;
    assert_eq!(world.state(account), KeyState::Cold);
    assert!(world.keyring.status(account, Provider::Customer).key_id.is_none(), "its entry is freed");
    assert!(!key.still_usable());
    world.key(account).await.unwrap();
    assert_eq!(world.customer.unwraps() - before, 2);
}

#[tokio::test(start_paused = true)]
async fn a_use_after_a_skipped_refresh_refreshes_behind() {
    let world = World::new();
    let account = world.account(1).await;
    world.key(account).await.unwrap();
    // Renewed once, as it was used before that, and let go by since.
    sleep(31 * SECOND).await;
    let unasked_until = world.keyring.status(account, Provider::Customer).unasked_until.unwrap();
    sleep(unasked_until.boot - world.clock.now().boot - 2 * MS).await;
    let before = world.customer.unwraps();
    world.customer.set_latency(SECOND);
    let asked = Instant::now();
    world.key(account).await.unwrap();
    assert_eq!(asked.elapsed(), Duration::ZERO);
    sleep(2 * SECOND).await;
    assert_eq!(world.customer.unwraps() - before, 1);
}

#[tokio::test(start_paused = true)]
async fn a_use_of_a_key_that_was_idle_for_longer_waits_for_one_attempt() {
    let world = World::new();
    let account = world.account(1).await;
    world.key(account).await.unwrap();
    sleep(31 * SECOND).await;
    let unasked_until = world.keyring.status(account, Provider::Customer).unasked_until.unwrap();
    sleep(unasked_until.boot - world.clock.now().boot).await;
    let before = world.customer.unwraps();
    world.customer.set_latency(SECOND);
    let asked = Instant::now();
    world.key(account).await.unwrap();
    assert!(asked.elapsed() >= SECOND, "{:?}", asked.elapsed());
    assert_eq!(world.customer.unwraps() - before, 1);

    // The same in an outage: one wait, and then nobody waits.
    sleep(120 * SECOND).await;
    world.customer.answer(Answer::Hang);
    let asked = Instant::now();
    world.key(account).await.unwrap();
    assert!(
        asked.elapsed() >= 5 * SECOND && asked.elapsed() <= 5 * SECOND + 10 * MS,
        "{:?}",
        asked.elapsed()
    );
    let (failed, longest) = world.use_for(account, 1500 * SECOND, SECOND).await;
    assert_eq!((failed, longest), (0, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn forgetting_an_account_evicts_at_once_and_reads_anew() {
    let world = World::new();
    let account = world.account(1).await;
    let key = world.key(account).await.unwrap();
    world.rewrap(account, 2).await;
    world.keyring.forget(account);
    assert!(!key.still_usable());
    assert_eq!(world.state(account), KeyState::Cold);
    world.key(account).await.unwrap();
    assert_eq!(world.keyring.status(account, Provider::Customer).key_id, Some(common::kek(2)));
}

#[tokio::test(start_paused = true)]
async fn what_is_under_way_when_an_account_is_forgotten_is_not_used() {
    let world = World::new();
    let account = world.account(1).await;
    world.customer.set_latency(SECOND);
    let before = world.customer.unwraps();
    let asked = Instant::now();
    let (key, ()) = tokio::join!(world.key(account), async {
        sleep(500 * MS).await;
        world.keyring.forget(account);
    });
    key.unwrap();
    assert_eq!(world.customer.unwraps() - before, 2);
    assert!(asked.elapsed() >= 1500 * MS, "{:?}", asked.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_unknown_account_is_said_to_be_one_and_leaves_nothing_behind() {
    let world = World::new();
    let stranger = AccountId::from_random_bytes([9; 16]);
    for _ in 0..2 {
        let refused = world.key(stranger).await.unwrap_err();
        assert!(
            matches!(refused, KeyError::UnknownAccount { account, .. } if account == stranger),
            "{refused}"
        );
    }
    let reads = world.records.reads.load(Ordering::Relaxed);
    sleep(600 * SECOND).await;
    assert_eq!(world.records.reads.load(Ordering::Relaxed), reads, "it is not polled");
}

#[tokio::test(start_paused = true)]
async fn a_crowd_that_asks_for_an_unknown_account_makes_one_read() {
    let world = World::new();
    let stranger = AccountId::from_random_bytes([9; 16]);
    let callers: Vec<_> = (0..100)
        .map(|_| {
            let keyring = world.keyring.clone();
            tokio::spawn(async move { keyring.sealing_key(stranger, Provider::Customer).await.map(drop) })
        })
        .collect();
    for caller in callers {
        assert!(matches!(caller.await.unwrap().unwrap_err(), KeyError::UnknownAccount { .. }));
    }
    sleep(SECOND).await;
    assert_eq!(world.records.reads.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_deleted_account_loses_its_keys_once_forgotten() {
    let world = World::new();
    let account = world.account(1).await;
    world.key(account).await.unwrap();
    world.records.delete(account);
    world.keyring.forget(account);
    assert!(matches!(world.key(account).await.unwrap_err(), KeyError::UnknownAccount { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_record_that_is_not_authentic_is_refused() {
    let world = World::new();
    let account = world.account(1).await;
    world.records.forge(account);
    let before = world.customer.unwraps();
    let refused = world.key(account).await.unwrap_err();
    assert!(matches!(&refused, KeyError::Record(e) if matches!(**e, RecordError::Tampered(_))), "{refused}");
    assert_eq!(world.customer.unwraps(), before, "nothing of it reaches the vault");
}

#[tokio::test(start_paused = true)]
async fn a_principal_without_a_vault_is_named() {
    let world = World::new();
    let account = world.account(1).await;
    world.records.change(account, |record| {
        record.keks[0].principal = Some(cofferdam_vault::Principal::new("stranger"));
    });
    let refused = world.key(account).await.unwrap_err();
    assert!(refused.to_string().contains("stranger"), "{refused}");
    assert!(matches!(refused, KeyError::NoVault { .. }));
}

#[tokio::test(start_paused = true)]
async fn closing_wipes_keys_ends_tasks_and_tells_who_waits() {
    let world = World::new();
    let (open, cold) = (world.account(1).await, world.account(1).await);
    let key = world.key(open).await.unwrap();
    world.customer.answer(Answer::Hang);
    let (waited, ()) = tokio::join!(world.key(cold), async {
        sleep(SECOND).await;
        world.keyring.close().await;
    });
    assert!(matches!(waited.unwrap_err(), KeyError::Closed));
    assert!(!key.still_usable());
    assert!(matches!(world.key(open).await.unwrap_err(), KeyError::Closed));
    let before = world.customer.calls().len();
    sleep(300 * SECOND).await;
    assert_eq!(world.customer.calls().len(), before);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_last_clone_ends_every_task_and_takes_the_keys_away() {
    let mut world = World::new();
    let account = world.account(1).await;
    let key = world.key(account).await.unwrap();
    world.restart();
    assert!(!key.still_usable());
    sleep(SECOND).await;
    let before = world.customer.calls().len();
    sleep(300 * SECOND).await;
    assert_eq!(world.customer.calls().len(), before);
}

#[tokio::test(start_paused = true)]
async fn salts_come_from_the_keyring_and_differ() {
    let world = World::new();
    let mut salts = [[0; SALT_LEN]; 100];
    world.keyring.salts().fill_salts(&mut salts).unwrap();
    let distinct: std::collections::BTreeSet<_> = salts.iter().collect();
    assert_eq!(distinct.len(), 100);
}

#[tokio::test(start_paused = true)]
async fn a_service_key_works_like_a_customers_but_its_denial_is_an_outage() {
    let world = World::new();
    let account = world.account(1).await;
    let key = world.keyring.sealing_key(account, Provider::Service).await.unwrap();
    let mut events = world.keyring.subscribe();
    world.service.answer(Answer::Fail(Kind::AccessDenied));
    sleep(40 * SECOND).await;
    let alarm = What::Alarm(cofferdam_keyring::Alarm::ServiceDenied(Kind::AccessDenied));
    assert_eq!(events.recv().await.unwrap().what, alarm);
    assert!(key.still_usable());
    sleep(60 * SECOND).await;
    assert!(world.keyring.sealing_key(account, Provider::Service).await.is_ok());
    assert_eq!(world.keyring.status(account, Provider::Service).state, KeyState::Grace);
}

#[tokio::test(start_paused = true)]
async fn an_old_epoch_of_a_cold_account_needs_one_attempt() {
    let world = World::new();
    let account = world.account(2).await;
    let before = world.customer.unwraps();
    let (old, newest) = tokio::join!(
        world.keyring.opening_key(account, Provider::Customer, Epoch::FIRST),
        world.key(account)
    );
    assert_eq!(old.unwrap().scope().epoch, Epoch::FIRST);
    assert_eq!(newest.unwrap().scope().epoch, Epoch::new(2));
    assert_eq!(world.customer.unwraps() - before, 2, "one for each epoch");
}

#[tokio::test(start_paused = true)]
async fn every_kek_of_a_record_is_asked_and_a_denial_by_any_is_a_revocation() {
    let world = World::new();
    let account = world.account(1).await;
    world.wrap_under(account, &[(0, 1), (0, 2)]).await;
    let before = world.customer.unwraps();
    world.key(account).await.unwrap();
    assert_eq!(world.customer.unwraps() - before, 2);
    world.customer.answer_for(&common::kek(2), Some(Answer::Fail(Kind::KeyDisabled)));
    world.use_for(account, 100 * SECOND, SECOND).await;
    let refused = world.key(account).await.unwrap_err();
    assert!(
        matches!(&refused, KeyError::Revoked { key_id: Some(id), .. } if *id == common::kek(2)),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_threads_get_keys_while_accounts_are_forgotten_and_entries_freed() {
    let world = World::new();
    let mut accounts = Vec::new();
    for _ in 0..32 {
        accounts.push(world.account(2).await);
    }
    let tasks: Vec<_> = (0..8)
        .map(|thread| {
            let (keyring, accounts) = (world.keyring.clone(), accounts.clone());
            tokio::spawn(async move {
                for round in 0..2_000 {
                    let account = accounts[(round * 7 + thread * 3) % accounts.len()];
                    if round % 97 == thread {
                        keyring.forget(account);
                    }
                    let epoch = Epoch::new(1 + (round as u32 % 2));
                    let key = keyring.opening_key(account, Provider::Customer, epoch).await.unwrap();
                    assert_eq!((key.scope().account, key.scope().epoch), (account, epoch));
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    world.keyring.close().await;
    assert!(matches!(world.key(accounts[0]).await.unwrap_err(), KeyError::Closed));
}

#[tokio::test(start_paused = true)]
async fn a_services_key_that_comes_late_is_kept_until_who_waits_for_it_has_it() {
    let policy = Policy::default().with_refresh(6 * SECOND).unwrap().with_call_timeout(10 * SECOND).unwrap();
    let world = World::with(policy);
    let account = world.account(1).await;
    // Its refresh would be due by then.
    world.service.set_latency(8 * SECOND);
    let before = world.service.unwraps();
    world.key(account).await.unwrap();
    assert_eq!(world.service.unwraps() - before, 1);
    // And then it goes: only a record needed it.
    sleep(31 * SECOND).await;
    assert_eq!(world.keyring.status(account, Provider::Service).state, KeyState::Cold);
    assert_eq!(world.service.unwraps() - before, 1);
}

#[tokio::test(start_paused = true)]
async fn a_services_key_in_grace_lets_a_record_be_read_after_one_wait() {
    let policy = Policy::default().with_refresh(6 * SECOND).unwrap();
    let world = World::with(policy);
    let account = world.account(1).await;
    world.key(account).await.unwrap();
    // Held for callers of its own, and idle since.
    world.keyring.sealing_key(account, Provider::Service).await.unwrap();
    sleep(60 * SECOND).await;
    world.service.answer(Answer::Hang);
    let asked = Instant::now();
    // The record is read, which the service's key authenticates.
    assert_unknown(&world, account, 7).await;
    assert!(asked.elapsed() <= 11 * SECOND, "{:?}", asked.elapsed());
}
