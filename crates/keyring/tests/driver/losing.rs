//! The keyring while its vault fails or denies: grace, its end, revocation, recovery.

use std::{sync::atomic::Ordering, time::Duration};

use cofferdam_crypto::{AccountId, Epoch, Provider};
use cofferdam_keyring::{Alarm, Fault, KeyError, KeyEvent, KeyState, Policy, RecordError, What, Why};
use cofferdam_vault::{VaultErrorKind as Kind, testing::Answer};
use tokio::{
    sync::broadcast::Receiver,
    time::{Instant, sleep},
};

use crate::common::{DiskAway, MS, SECOND, World, kek};

const OUTAGES: [Kind; 7] = [
    Kind::Throttled { retry_after: None },
    Kind::Throttled { retry_after: Some(Duration::from_secs(3)) },
    Kind::Unavailable,
    Kind::Unauthenticated,
    Kind::Untrusted,
    Kind::Corrupt,
    Kind::Other,
];

fn drain(events: &mut Receiver<KeyEvent>) -> Vec<What> {
    std::iter::from_fn(|| events.try_recv().ok()).map(|event| event.what).collect()
}

/// The changes of customers' keys.
fn changes(events: &mut Receiver<KeyEvent>) -> Vec<(KeyState, KeyState, Why)> {
    let changed = |event: KeyEvent| match event.what {
        What::Changed { from, to, why } if event.provider == Provider::Customer => Some((from, to, why)),
        _ => None,
    };
    std::iter::from_fn(|| events.try_recv().ok()).filter_map(changed).collect()
}

async fn active(world: &World) -> AccountId {
    let account = world.account(1).await;
    world.key(account).await.unwrap();
    account
}

#[tokio::test(start_paused = true)]
async fn an_outage_shorter_than_the_grace_fails_nothing_and_delays_nothing() {
    for kind in OUTAGES {
        let world = World::new();
        let account = active(&world).await;
        world.customer.answer(Answer::Fail(kind));
        let (failed, longest) = world.use_for(account, 1700 * SECOND, 500 * MS).await;
        assert_eq!((failed, longest), (0, Duration::ZERO), "{kind}");
        assert_eq!(world.state(account), KeyState::Grace, "{kind}");
        world.customer.answer(Answer::Work);
        sleep(31 * SECOND).await;
        assert_eq!(world.state(account), KeyState::Active, "{kind}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_vault_that_hangs_delays_nobody_longer_than_one_time_out() {
    let world = World::new();
    let account = active(&world).await;
    world.customer.answer(Answer::Hang);
    let (failed, longest) = world.use_for(account, 1700 * SECOND, 500 * MS).await;
    assert_eq!(failed, 0);
    assert!(longest <= 10 * MS, "retries run behind: {longest:?}");
    let sent: Vec<Instant> = world.customer.calls().iter().map(|call| call.sent).collect();
    let widest = sent.windows(2).skip(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    assert!(widest <= 31 * SECOND, "{widest:?}");
    assert_eq!(world.customer.max_in_flight(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_grace_ends_on_the_millisecond() {
    let world = World::new();
    let account = active(&world).await;
    let verified = Instant::now();
    world.customer.answer(Answer::Fail(Kind::Unavailable));
    let mut key = world.key(account).await.unwrap();
    let mut last = Duration::ZERO;
    while verified.elapsed() < 1799 * SECOND {
        key = world.key(account).await.unwrap();
        last = verified.elapsed();
        sleep(SECOND).await;
    }
    assert!(last >= 1798 * SECOND);
    tokio::time::sleep_until(verified + 1800 * SECOND - MS).await;
    assert!(key.still_usable());
    world.key(account).await.unwrap();
    tokio::time::sleep_until(verified + 1800 * SECOND + MS).await;
    assert!(!key.still_usable());
    let refused = world.key(account).await.unwrap_err();
    assert!(refused.is_outage());
    let KeyError::Unavailable { fault: Fault::Vault { kind, .. }, .. } = &refused else {
        panic!("{refused}");
    };
    assert_eq!(*kind, Kind::Unavailable);
    assert!(refused.to_string().contains("the script says so"), "{refused}");
    assert_eq!(world.state(account), KeyState::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn without_grace_a_key_lives_ceiling_and_time_out() {
    let world = World::with(Policy::default().with_grace(Duration::ZERO).unwrap());
    let account = active(&world).await;
    let verified = Instant::now();
    world.customer.answer(Answer::Fail(Kind::Unavailable));
    tokio::time::sleep_until(verified + 65 * SECOND - MS).await;
    world.key(account).await.unwrap();
    sleep(2 * MS).await;
    assert!(matches!(world.key(account).await.unwrap_err(), KeyError::Unavailable { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_cold_start_without_its_vault_is_unavailable_and_recovers_by_itself() {
    let world = World::new();
    let account = world.account(1).await;
    let mut watch = world.keyring.watch(account, Provider::Customer);
    world.customer.answer(Answer::Fail(Kind::Unavailable));
    assert!(matches!(world.key(account).await.unwrap_err(), KeyError::Unavailable { .. }));
    assert_eq!(*watch.borrow_and_update(), KeyState::Unavailable);
    let asked = Instant::now();
    assert!(world.key(account).await.is_err());
    assert_eq!(asked.elapsed(), Duration::ZERO, "it failed just now: nobody waits");

    sleep(7200 * SECOND).await;
    world.customer.answer(Answer::Work);
    let healed = Instant::now();
    watch.wait_for(|&state| state == KeyState::Active).await.unwrap();
    assert!(healed.elapsed() <= 31 * SECOND, "{:?}", healed.elapsed());
    world.key(account).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_cold_start_without_the_services_vault_is_unavailable_and_recovers_by_itself() {
    let world = World::new();
    let account = world.account(1).await;
    world.service.answer(Answer::Hang);
    let refused = world.key(account).await.unwrap_err();
    assert!(matches!(refused, KeyError::Unavailable { fault: Fault::ServiceKey(_), .. }), "{refused}");
    assert!(!refused.is_outage(), "the service can seal nothing");
    world.service.answer(Answer::Work);
    let mut watch = world.keyring.watch(account, Provider::Customer);
    watch.wait_for(|&state| state == KeyState::Active).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_cold_hang_ends_after_one_time_out() {
    let world = World::new();
    let account = world.account(1).await;
    world.customer.answer(Answer::Hang);
    let asked = Instant::now();
    assert!(matches!(world.key(account).await.unwrap_err(), KeyError::Unavailable { .. }));
    assert!(asked.elapsed() <= 5 * SECOND + 10 * MS, "{:?}", asked.elapsed());
}

#[tokio::test(start_paused = true)]
async fn who_waited_for_the_services_key_does_not_wait_for_a_second_try_of_his_own() {
    // A failure is recent for as long as a wait and a time-out take: two time-outs are longer than that.
    let policy = Policy::default().with_retry_max(SECOND).unwrap();
    let limit = policy.call_timeout();
    let world = World::with(policy);
    let account = world.account(1).await;
    world.service.set_latency(limit - 10 * MS);
    world.customer.answer(Answer::Hang);
    let asked = Instant::now();
    let refused = world.key(account).await.unwrap_err();
    assert!(refused.is_outage(), "{refused}");
    assert!(asked.elapsed() <= 2 * limit + 10 * MS, "{:?}", asked.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_denial_that_could_not_be_confirmed_is_no_outage_whatever_fails_after_it() {
    let world = World::new();
    let account = active(&world).await;
    world.customer.answer(Answer::Fail(Kind::AccessDenied));
    world.records.broken.store(true, Ordering::Relaxed);
    while world.key(account).await.is_ok() {
        sleep(SECOND).await;
    }
    assert!(!world.records.is_revoked(account));
    world.records.broken.store(false, Ordering::Relaxed);
    world.customer.answer(Answer::Fail(Kind::Unavailable));
    for _ in 0..120 {
        let refused = world.key(account).await.unwrap_err();
        assert!(!refused.is_outage(), "{refused}");
        sleep(SECOND).await;
    }
    world.customer.answer(Answer::Work);
    sleep(31 * SECOND).await;
    world.key(account).await.unwrap();
    world.customer.answer(Answer::Fail(Kind::Unavailable));
    sleep(1800 * SECOND).await;
    assert!(world.key(account).await.unwrap_err().is_outage(), "the denial is over");
}

#[tokio::test(start_paused = true)]
async fn a_denial_evicts_at_once_is_persisted_and_then_announced() {
    for kind in [Kind::AccessDenied, Kind::KeyDisabled] {
        let world = World::new();
        let account = active(&world).await;
        let key = world.key(account).await.unwrap();
        let mut events = world.keyring.subscribe();
        let mut watch = world.keyring.watch(account, Provider::Customer);
        world.customer.answer(Answer::Fail(kind));
        watch.wait_for(|&state| state == KeyState::Revoked).await.unwrap();
        assert!(world.records.is_revoked(account), "{kind}");
        assert!(!key.still_usable(), "{kind}");
        let refused = world.key(account).await.unwrap_err();
        assert!(matches!(&refused, KeyError::Revoked { key_id: Some(id), .. } if *id == kek(1)), "{refused}");
        let expected = vec![
            (KeyState::Active, KeyState::Cold, Why::Denied(kind)),
            (KeyState::Cold, KeyState::Revoked, Why::Denied(kind)),
        ];
        assert_eq!(changes(&mut events), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_revoked_key_is_evicted_even_inside_grace() {
    let world = World::new();
    let account = active(&world).await;
    world.customer.answer(Answer::Fail(Kind::Unavailable));
    world.use_for(account, 100 * SECOND, SECOND).await;
    assert_eq!(world.state(account), KeyState::Grace);
    world.customer.answer(Answer::Fail(Kind::AccessDenied));
    let denied = Instant::now();
    while world.key(account).await.is_ok() {
        sleep(100 * MS).await;
    }
    assert!(denied.elapsed() <= 31 * SECOND, "{:?}", denied.elapsed());
    assert_eq!(world.state(account), KeyState::Revoked);
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_when_a_denial_comes_are_all_refused() {
    let world = World::new();
    let account = world.account(1).await;
    world.customer.set_latency(SECOND);
    world.customer.answer(Answer::Fail(Kind::KeyDisabled));
    let callers: Vec<_> = (0..100)
        .map(|_| {
            let keyring = world.keyring.clone();
            tokio::spawn(async move { keyring.sealing_key(account, Provider::Customer).await.map(drop) })
        })
        .collect();
    for caller in callers {
        assert!(matches!(caller.await.unwrap().unwrap_err(), KeyError::Revoked { .. }));
    }
    assert_eq!(*world.records.persisted.lock().unwrap(), [true]);
}

#[tokio::test(start_paused = true)]
async fn no_outage_opens_a_revoked_key_and_access_restored_does_within_one_poll() {
    let world = World::new();
    let account = active(&world).await;
    world.customer.answer(Answer::Fail(Kind::AccessDenied));
    world.use_for(account, 40 * SECOND, SECOND).await;
    for kind in OUTAGES {
        world.customer.answer(Answer::Fail(kind));
        let (failed, longest) = world.use_for(account, 100 * SECOND, SECOND).await;
        assert_eq!((failed, longest), (100, Duration::ZERO), "{kind}");
        assert_eq!(world.state(account), KeyState::Revoked, "{kind}");
    }
    world.customer.answer(Answer::Work);
    let restored = Instant::now();
    while world.key(account).await.is_err() {
        sleep(100 * MS).await;
    }
    assert!(restored.elapsed() <= 31 * SECOND, "{:?}", restored.elapsed());
    assert!(!world.records.is_revoked(account));
    assert_eq!(*world.records.persisted.lock().unwrap(), [true, false]);
}

#[tokio::test(start_paused = true)]
async fn a_revocation_survives_a_restart_and_an_outage_then() {
    let mut world = World::new();
    let account = active(&world).await;
    world.customer.answer(Answer::Fail(Kind::KeyDisabled));
    world.use_for(account, 40 * SECOND, SECOND).await;

    world.customer.answer(Answer::Fail(Kind::Unavailable));
    world.restart();
    assert!(matches!(world.key(account).await.unwrap_err(), KeyError::Revoked { .. }));

    world.customer.answer(Answer::Work);
    world.restart();
    world.key(account).await.unwrap();
    assert!(!world.records.is_revoked(account));
}

#[tokio::test(start_paused = true)]
async fn a_revocation_that_can_not_be_persisted_is_not_announced_and_nothing_is_served() {
    let world = World::new();
    let account = active(&world).await;
    let key = world.key(account).await.unwrap();
    let mut events = world.keyring.subscribe();
    world.records.read_only.store(true, Ordering::Relaxed);
    world.customer.answer(Answer::Fail(Kind::AccessDenied));
    sleep(40 * SECOND).await;
    assert!(!key.still_usable());
    let refused = world.key(account).await.unwrap_err();
    assert!(matches!(&refused, KeyError::Record(e) if matches!(**e, RecordError::Storage(_))), "{refused}");
    let told = drain(&mut events);
    assert!(told.contains(&What::Alarm(Alarm::NotPersisted { revoked: true })), "{told:?}");
    assert!(!told.iter().any(|what| matches!(what, What::Changed { to: KeyState::Revoked, .. })), "{told:?}");

    world.records.read_only.store(false, Ordering::Relaxed);
    sleep(31 * SECOND).await;
    assert_eq!(world.state(account), KeyState::Revoked);
    assert!(world.records.is_revoked(account));
}

#[tokio::test(start_paused = true)]
async fn a_revocation_that_is_found_as_the_keyring_closes_is_persisted() {
    let world = World::new();
    let account = active(&world).await;
    world.customer.answer(Answer::Fail(Kind::AccessDenied));
    // It closes while the record is read that makes the denial a revocation.
    let (keyring, closing) = (world.keyring.clone(), tokio::runtime::Handle::current());
    let closed = std::sync::Arc::new(std::sync::Mutex::new(None));
    let close = closed.clone();
    *world.records.on_read.lock().unwrap() = Some(Box::new(move || {
        let mut ends = Box::pin(async move { keyring.close().await });
        let waker = std::task::Waker::noop();
        assert!(ends.as_mut().poll(&mut std::task::Context::from_waker(waker)).is_pending());
        *close.lock().unwrap() = Some(closing.spawn(ends));
    }));
    sleep(31 * SECOND).await;
    let closed = closed.lock().unwrap().take().unwrap();
    closed.await.unwrap();
    assert_eq!(*world.records.persisted.lock().unwrap(), [true]);
    assert!(world.records.is_revoked(account));
}

#[tokio::test(start_paused = true)]
async fn a_record_that_waits_for_the_services_key_as_the_keyring_closes_has_not_failed() {
    let world = World::new();
    let account = active(&world).await;
    world.rewrap(account, 2).await;
    let (_, _) = world.use_for(account, 120 * SECOND, SECOND).await;
    // By now the service's key was let go. It is asked for again once the denial has the record read.
    world.service.set_latency(3 * SECOND);
    world.customer.answer_for(&kek(1), Some(Answer::Fail(Kind::KeyDisabled)));
    let asked = world.service.unwraps();
    let mut events = world.keyring.subscribe();
    while world.service.unwraps() == asked {
        let _ = tokio::time::timeout(100 * MS, world.key(account)).await;
        sleep(10 * MS).await;
    }
    world.keyring.close().await;
    let told = drain(&mut events);
    let of_the_record = |what: &&What| matches!(what, What::Changed { why: Why::RecordUnreadable, .. });
    assert_eq!(told.iter().find(of_the_record), None, "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn a_revocation_that_could_not_be_persisted_is_tried_once_more_as_the_keyring_closes() {
    for writable in [true, false] {
        let world = World::new();
        let account = active(&world).await;
        world.records.read_only.store(true, Ordering::Relaxed);
        world.customer.answer(Answer::Fail(Kind::AccessDenied));
        sleep(40 * SECOND).await;
        let mut events = world.keyring.subscribe();
        world.records.read_only.store(!writable, Ordering::Relaxed);
        world.keyring.close().await;
        assert_eq!(world.records.is_revoked(account), writable);
        let told = drain(&mut events);
        let alarms = told.iter().filter(|&&w| w == What::Alarm(Alarm::NotPersisted { revoked: true }));
        assert_eq!(alarms.count(), usize::from(!writable), "{told:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_denial_of_a_wrap_that_another_node_replaced_is_no_revocation() {
    for kind in [Kind::KeyDisabled, Kind::AccessDenied, Kind::KeyNotFound] {
        let world = World::new();
        let account = active(&world).await;
        world.rewrap(account, 2).await;
        world.customer.answer_for(&kek(1), Some(Answer::Fail(kind)));
        let (failed, _) = world.use_for(account, 120 * SECOND, SECOND).await;
        assert_eq!(failed, 0, "{kind}");
        assert!(world.records.persisted.lock().unwrap().is_empty(), "{kind}");
        assert_eq!(world.keyring.status(account, Provider::Customer).key_id, Some(kek(2)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_denial_whose_record_can_not_be_read_stops_serving_and_is_settled_later() {
    let world = World::new();
    let account = active(&world).await;
    let key = world.key(account).await.unwrap();
    world.records.broken.store(true, Ordering::Relaxed);
    world.customer.answer(Answer::Fail(Kind::AccessDenied));
    sleep(40 * SECOND).await;
    assert!(!key.still_usable());
    assert_eq!(world.state(account), KeyState::Unavailable);
    assert!(matches!(world.key(account).await.unwrap_err(), KeyError::Record(_)));
    world.records.broken.store(false, Ordering::Relaxed);
    // One poll for the service's key, which the record is authenticated by, and one for its own.
    world.use_for(account, 65 * SECOND, SECOND).await;
    assert_eq!(world.state(account), KeyState::Revoked);
}

#[tokio::test(start_paused = true)]
async fn a_key_not_found_stops_serving_at_once_and_is_revoked_by_three_answers() {
    let world = World::new();
    let account = active(&world).await;
    let key = world.key(account).await.unwrap();
    world.customer.set_latency(100 * MS);
    world.customer.answer(Answer::Fail(Kind::KeyNotFound));
    let before = world.customer.unwraps();
    while key.still_usable() {
        sleep(10 * MS).await;
    }
    let stopped = Instant::now();
    assert_eq!(world.customer.unwraps() - before, 1);
    assert!(matches!(world.key(account).await.unwrap_err(), KeyError::Revoked { .. }), "puts wait meanwhile");
    assert_eq!(world.customer.unwraps() - before, 3);
    assert!(stopped.elapsed() <= 5 * SECOND, "{:?}", stopped.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_lags_is_waited_for() {
    let world = World::new();
    let account = active(&world).await;
    world.customer.answer_next([Answer::Fail(Kind::KeyNotFound), Answer::Fail(Kind::KeyNotFound)]);
    let (failed, longest) = world.use_for(account, 120 * SECOND, 100 * MS).await;
    assert_eq!(failed, 0);
    assert!(longest > SECOND && longest <= 5 * SECOND, "{longest:?}");
    assert!(world.records.persisted.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn not_found_that_can_not_be_confirmed_is_not_a_revocation() {
    let world = World::new();
    let account = active(&world).await;
    world.customer.answer_next([Answer::Fail(Kind::KeyNotFound)]);
    world.customer.answer(Answer::Hang);
    sleep(31 * SECOND).await;
    let asked = Instant::now();
    let refused = world.key(account).await.unwrap_err();
    assert!(matches!(refused, KeyError::Unavailable { .. }), "{refused}");
    assert!(asked.elapsed() <= 6 * SECOND);
    sleep(600 * SECOND).await;
    assert_eq!(world.state(account), KeyState::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn after_a_suspend_one_attempt_decides_although_no_timer_ran() {
    let world = World::new();
    let account = active(&world).await;
    let key = world.key(account).await.unwrap();
    world.clock.suspend(3600 * SECOND);
    assert!(!key.still_usable());
    let before = world.customer.unwraps();
    world.key(account).await.unwrap();
    assert_eq!(world.customer.unwraps() - before, 1);

    world.customer.answer(Answer::Fail(Kind::AccessDenied));
    world.clock.suspend(3600 * SECOND);
    assert!(matches!(world.key(account).await.unwrap_err(), KeyError::Revoked { .. }));
}

#[tokio::test(start_paused = true)]
async fn after_a_suspend_within_grace_an_outage_is_bridged_by_one_wait() {
    let world = World::new();
    let account = active(&world).await;
    world.customer.answer(Answer::Hang);
    world.clock.suspend(600 * SECOND);
    let asked = Instant::now();
    world.key(account).await.unwrap();
    assert!(asked.elapsed() <= 5 * SECOND + 10 * MS, "{:?}", asked.elapsed());
    let asked = Instant::now();
    world.key(account).await.unwrap();
    assert_eq!(asked.elapsed(), Duration::ZERO);

    world.clock.suspend(1800 * SECOND);
    assert!(matches!(world.key(account).await.unwrap_err(), KeyError::Unavailable { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_wall_clock_set_back_keeps_no_key_longer() {
    let world = World::new();
    let account = active(&world).await;
    let key = world.key(account).await.unwrap();
    world.clock.set_wall_back(86_400 * SECOND);
    world.customer.answer(Answer::Fail(Kind::Unavailable));
    world.use_for(account, 1799 * SECOND, SECOND).await;
    assert!(world.key(account).await.is_ok());
    sleep(2 * SECOND).await;
    assert!(world.key(account).await.is_err());
    assert!(!key.still_usable());
}

#[tokio::test(start_paused = true)]
async fn a_wall_clock_set_ahead_is_believed() {
    let world = World::new();
    let account = active(&world).await;
    let key = world.key(account).await.unwrap();
    world.clock.set_wall_ahead(3600 * SECOND);
    assert!(!key.still_usable());
    world.key(account).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_wrong_key_is_never_used() {
    let world = World::new();
    let account = active(&world).await;
    let mut events = world.keyring.subscribe();
    world.customer.answer(Answer::WrongKey);
    assert_eq!(world.use_for(account, 100 * SECOND, SECOND).await, (0, Duration::ZERO));
    assert_eq!(world.state(account), KeyState::Grace);
    assert!(drain(&mut events).contains(&What::Alarm(Alarm::Corrupt)));

    let cold = world.account(1).await;
    let refused = world.key(cold).await.unwrap_err();
    assert!(
        matches!(refused, KeyError::Unavailable { fault: Fault::Vault { kind: Kind::Corrupt, .. }, .. }),
        "{refused}"
    );
    assert!(!refused.is_outage(), "nothing says that it ever worked: writes must not wait for it");

    // Past the grace, for a key that was verified: an outage like any other.
    world.use_for(account, 1800 * SECOND, SECOND).await;
    let refused = world.key(account).await.unwrap_err();
    assert!(
        matches!(refused, KeyError::Unavailable { fault: Fault::Vault { kind: Kind::Corrupt, .. }, .. }),
        "{refused}"
    );
    assert!(refused.is_outage());
    world.keyring.forget(account);
    assert!(!world.key(account).await.unwrap_err().is_outage(), "nothing of it is known any longer");
}

#[tokio::test(start_paused = true)]
async fn a_wrapped_key_of_another_length_never_reaches_the_vault() {
    let world = World::new();
    let account = world.account(1).await;
    world.records.change(account, |record| record.epochs[0].wraps[0].bytes.push(0));
    let before = world.customer.unwraps();
    let refused = world.key(account).await.unwrap_err();
    assert!(refused.to_string().contains("41 bytes"), "{refused}");
    assert_eq!(world.customer.unwraps(), before);
}

#[tokio::test(start_paused = true)]
async fn a_vault_that_asks_to_wait_is_obeyed_within_the_bounds() {
    for (asked, least, most) in [(0, 1, 1), (20, 20, 20), (600, 30, 30)] {
        let world = World::new();
        let account = world.account(1).await;
        let retry_after = Some(Duration::from_secs(asked));
        world.customer.answer_next([Answer::Fail(Kind::Throttled { retry_after })]);
        let start = Instant::now();
        world.key(account).await.unwrap_err();
        let mut watch = world.keyring.watch(account, Provider::Customer);
        watch.wait_for(|&state| state == KeyState::Active).await.unwrap();
        let waited = start.elapsed();
        assert!(waited >= Duration::from_secs(least) - MS, "{asked}: {waited:?}");
        assert!(waited <= Duration::from_secs(most) + 10 * MS, "{asked}: {waited:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hanging_vault_does_not_keep_a_key_past_its_bound() {
    let world = World::with(Policy::default().with_grace(Duration::ZERO).unwrap());
    let account = active(&world).await;
    world.customer.answer(Answer::Hang);
    sleep(66 * SECOND).await;
    let status = world.keyring.status(account, Provider::Customer);
    assert_eq!((status.state, status.verified_at), (KeyState::Unavailable, None));
    assert!(status.last_failure.unwrap().message.contains("did not answer within 5s"));
}

#[tokio::test(start_paused = true)]
async fn a_record_that_can_not_be_read_is_reported_and_tried_again() {
    let world = World::new();
    let account = world.account(1).await;
    world.records.broken.store(true, Ordering::Relaxed);
    let refused = world.key(account).await.unwrap_err();
    assert!(matches!(&refused, KeyError::Record(e) if matches!(**e, RecordError::Storage(_))), "{refused}");
    world.records.broken.store(false, Ordering::Relaxed);
    let mut watch = world.keyring.watch(account, Provider::Customer);
    watch.wait_for(|&state| state == KeyState::Active).await.unwrap();
}

/// The store's own error is what a record's failure is told by.
fn assert_disk_away(refused: &KeyError) {
    let KeyError::Record(failed) = refused else { panic!("{refused:?}") };
    let RecordError::Storage(own) = &**failed else { panic!("{failed:?}") };
    assert_eq!(own.downcast_ref(), Some(&DiskAway));
    assert!(!refused.to_string().contains("tried again"), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn a_stores_own_error_reaches_every_caller_whichever_record_failed() {
    for service in [false, true] {
        let world = World::new();
        let account = world.account(1).await;
        let broken = if service { &world.records.service_broken } else { &world.records.broken };
        broken.store(true, Ordering::Relaxed);
        let (one, other) = tokio::join!(world.key(account), world.key(account));
        assert_disk_away(&one.unwrap_err());
        assert_disk_away(&other.unwrap_err());
        assert_disk_away(&world.key(account).await.unwrap_err());
        // Past the failure window, which a refusal comes from.
        sleep(3600 * SECOND).await;
        assert_disk_away(&world.key(account).await.unwrap_err());
        let last = world.keyring.status(account, Provider::Customer).last_failure.unwrap();
        assert_eq!(last.kind, None, "{last:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stores_own_error_reaches_who_asks_for_an_epoch_that_is_not_known() {
    let world = World::new();
    let account = active(&world).await;
    world.records.broken.store(true, Ordering::Relaxed);
    for _ in 0..2 {
        let epoch = Epoch::new(999);
        let refused = world.keyring.opening_key(account, Provider::Customer, epoch).await.unwrap_err();
        assert_disk_away(&refused);
    }
    assert!(world.key(account).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_forged_service_record_is_told_as_such_to_who_asks_for_the_customers_key() {
    let world = World::new();
    let account = world.account(1).await;
    world.records.change_service(account, |record| record.epochs.clear());
    for _ in 0..2 {
        let refused = world.key(account).await.unwrap_err();
        assert!(
            matches!(&refused, KeyError::Record(e) if matches!(**e, RecordError::Tampered(_))),
            "{refused}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_revoked_account_that_is_linked_anew_opens_at_once() {
    let world = World::new();
    let account = active(&world).await;
    world.rewrap(account, 2).await;
    world.customer.answer(Answer::Fail(Kind::AccessDenied));
    world.use_for(account, 40 * SECOND, SECOND).await;
    assert_eq!(world.state(account), KeyState::Revoked);
    world.customer.answer(Answer::Work);
    world.keyring.forget(account);
    world.key(account).await.unwrap();
    assert!(!world.records.is_revoked(account));
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_to_a_revoked_key_that_nobody_polled_gets_an_answer_of_now() {
    let world = World::new();
    let account = active(&world).await;
    let handle = world.keyring.handle(account, Provider::Customer);
    world.customer.answer(Answer::Fail(Kind::AccessDenied));
    world.use_for(account, 40 * SECOND, SECOND).await;
    sleep(7200 * SECOND).await;
    let before = world.customer.calls().len();
    sleep(600 * SECOND).await;
    assert_eq!(world.customer.calls().len(), before, "nobody asks: it is not polled");
    assert!(matches!(handle.sealing_key().await.unwrap_err(), KeyError::Revoked { .. }));
    sleep(7200 * SECOND).await;
    world.customer.answer(Answer::Work);
    handle.sealing_key().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_revoked_key_that_is_forgotten_while_it_is_polled_goes_on() {
    let world = World::new();
    let account = active(&world).await;
    world.customer.answer(Answer::Fail(Kind::AccessDenied));
    world.use_for(account, 40 * SECOND, SECOND).await;
    world.customer.answer(Answer::Hang);
    for round in 0..40 {
        sleep(Duration::from_millis(700 * round)).await;
        world.keyring.forget(account);
    }
    world.customer.answer(Answer::Work);
    sleep(40 * SECOND).await;
    world.key(account).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_record_store_that_panics_is_an_outage() {
    let world = World::new();
    let account = world.account(1).await;
    world.records.panics.store(true, Ordering::Relaxed);
    let refused = world.key(account).await.unwrap_err();
    assert!(refused.to_string().contains("panicked"), "{refused}");
    world.records.panics.store(false, Ordering::Relaxed);
    sleep(10 * SECOND).await;
    world.key(account).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_old_wrap_that_is_damaged_takes_the_newest_key_from_nobody() {
    let world = World::new();
    // The newest is checked against the one before it, which is checked against the damaged one only where it is used.
    let account = world.account(3).await;
    world.wrap_under(account, &[(0, 1), (0, 2)]).await;
    world.records.change(account, |record| {
        record.epochs[0].wraps.iter_mut().for_each(|wrap| wrap.bytes[7] ^= 1);
    });
    let mut events = world.keyring.subscribe();
    for _ in 0..60 {
        assert_eq!(world.use_for(account, 60 * SECOND, SECOND).await.0, 0);
        let refused = world.keyring.opening_key(account, Provider::Customer, Epoch::FIRST).await.unwrap_err();
        assert!(matches!(refused, KeyError::Unavailable { .. }), "{refused}");
        assert_eq!(world.state(account), KeyState::Active);
    }
    assert!(drain(&mut events).contains(&What::Alarm(Alarm::Corrupt)));
}

#[tokio::test(start_paused = true)]
async fn several_keks_that_answer_late_cost_one_wait() {
    let world = World::new();
    let account = world.account(1).await;
    world.wrap_under(account, &[(0, 1), (0, 2), (0, 3)]).await;
    world.customer.set_latency(4 * SECOND);
    let asked = Instant::now();
    world.key(account).await.unwrap();
    assert!(asked.elapsed() <= 4 * SECOND + 10 * MS, "{:?}", asked.elapsed());
    assert_eq!(world.use_for(account, 600 * SECOND, SECOND).await, (0, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_denial_by_one_kek_counts_although_another_can_not_be_asked() {
    for (hangs, denies) in [(1, 2), (2, 1)] {
        let world = World::new();
        let account = world.account(2).await;
        world.wrap_under(account, &[(0, 1), (0, 2)]).await;
        world.key(account).await.unwrap();
        world.customer.answer_for(&kek(hangs), Some(Answer::Hang));
        world.customer.answer_for(&kek(denies), Some(Answer::Fail(Kind::AccessDenied)));
        let calls = world.customer.calls().len();
        while world.customer.calls().len() == calls {
            world.key(account).await.unwrap();
            sleep(10 * MS).await;
        }
        sleep(10 * MS).await;
        let asked = Instant::now();
        let refused = world.key(account).await.unwrap_err();
        assert_eq!(asked.elapsed(), Duration::ZERO, "a denial is not held up by a vault that hangs");
        assert!(
            matches!(&refused, KeyError::Revoked { key_id: Some(id), .. } if *id == kek(denies)),
            "{refused}"
        );
    }
}

fn is_timed_out(refused: &KeyError) -> bool {
    matches!(refused, KeyError::Record(e) if matches!(**e, RecordError::TimedOut(_)))
}

#[tokio::test(start_paused = true)]
async fn a_record_store_that_hangs_holds_up_a_cold_key_for_one_time_out() {
    let world = World::with(Policy::default().with_record_timeout(2 * SECOND).unwrap());
    let account = world.account(1).await;
    world.records.latency_ms.store(86_400_000, Ordering::Relaxed);
    let asked = Instant::now();
    let refused = world.key(account).await.unwrap_err();
    assert!(is_timed_out(&refused) && !refused.is_outage(), "{refused}");
    assert!(asked.elapsed() <= 2 * SECOND + 10 * MS, "{:?}", asked.elapsed());
    let asked = Instant::now();
    assert!(is_timed_out(&world.key(account).await.unwrap_err()));
    assert_eq!(asked.elapsed(), Duration::ZERO, "it failed just now");
    world.records.latency_ms.store(0, Ordering::Relaxed);
    let mut watch = world.keyring.watch(account, Provider::Customer);
    watch.wait_for(|&state| state == KeyState::Active).await.unwrap();
    assert!(asked.elapsed() <= 31 * SECOND, "{:?}", asked.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_record_store_that_hangs_holds_up_neither_a_denial_nor_a_close() {
    let world = World::new();
    let account = active(&world).await;
    let key = world.key(account).await.unwrap();
    let mut events = world.keyring.subscribe();
    world.records.writes_hang.store(true, Ordering::Relaxed);
    world.customer.answer(Answer::Fail(Kind::AccessDenied));
    while key.still_usable() {
        sleep(10 * MS).await;
    }
    let asked = Instant::now();
    assert!(is_timed_out(&world.key(account).await.unwrap_err()), "it is not told before it is persisted");
    assert!(asked.elapsed() <= 5 * SECOND + 10 * MS, "{:?}", asked.elapsed());
    let alarm = What::Alarm(Alarm::NotPersisted { revoked: true });
    assert!(drain(&mut events).contains(&alarm));
    assert_eq!(world.state(account), KeyState::Cold);

    let closing = Instant::now();
    world.keyring.close().await;
    assert!(closing.elapsed() <= 10 * SECOND + 10 * MS, "{:?}", closing.elapsed());
    assert!(drain(&mut events).contains(&alarm));
}

#[tokio::test(start_paused = true)]
async fn after_a_suspend_a_denial_is_confirmed_in_time_although_the_timers_slept_through_it() {
    let world = World::new();
    let (account, other) = (active(&world).await, active(&world).await);
    for _ in 0..40 {
        world.key(account).await.unwrap();
        world.key(other).await.unwrap();
        sleep(SECOND).await;
    }
    world.clock.suspend(60 * SECOND);
    world.customer.answer(Answer::Fail(Kind::KeyNotFound));
    let asked = Instant::now();
    assert!(matches!(world.key(account).await.unwrap_err(), KeyError::Revoked { .. }));
    assert!(asked.elapsed() <= 5 * SECOND, "{:?}", asked.elapsed());
}
