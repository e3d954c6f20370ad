//! Accounts with several KEKs, in several vaults: each says yes, an outage of one is bridged for a day, and a denial by any
//! is a revocation.

use std::{num::NonZeroU32, sync::atomic::Ordering, time::Duration};

use cofferdam_crypto::{AccountId, Epoch, KeyId, Provider};
use cofferdam_keyring::{Alarm, KeyError, KeyEvent, KeyState, Policy, What};
use cofferdam_vault::{Clock as _, VaultBudget, VaultErrorKind as Kind, testing::Answer};
use tokio::{
    sync::broadcast::{Receiver, error::TryRecvError},
    time::{Instant, sleep, sleep_until},
};

use crate::common::{MS, SECOND, World, kek_in};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
const DOWN: Answer = Answer::Fail(Kind::Unavailable);
const DENIED: Answer = Answer::Fail(Kind::AccessDenied);

/// An account with a KEK in each of so many vaults, its key in use.
async fn active(vaults: usize, policy: Policy) -> (World, AccountId) {
    let world = World::several(vaults, policy, VaultBudget::default());
    let account = world.account(1).await;
    let keks: Vec<(usize, u32)> = (0..vaults).map(|vault| (vault, 1)).collect();
    world.wrap_under(account, &keks).await;
    world.key(account).await.unwrap();
    world.forget_calls();
    (world, account)
}

async fn two() -> (World, AccountId) {
    active(2, Policy::default()).await
}

/// Uses the key until this vault has been asked once more, and returns when it was.
async fn asked(world: &World, account: AccountId, vault: usize) -> Instant {
    let vault = world.vault(vault).clone();
    let before = vault.calls().len();
    while vault.calls().len() == before {
        let _ = tokio::time::timeout(SECOND, world.key(account)).await;
        sleep(10 * MS).await;
    }
    vault.calls()[before].sent
}

/// Uses the key until then.
async fn use_until(world: &World, account: AccountId, end: Instant) {
    while Instant::now() + 20 * SECOND < end {
        world.key(account).await.unwrap();
        sleep(20 * SECOND).await;
    }
    world.key(account).await.unwrap();
    sleep_until(end).await;
}

/// Waits until the key is in this state.
async fn reaches(world: &World, account: AccountId, state: KeyState) {
    let mut watch = world.keyring.watch(account, Provider::Customer);
    let _ = tokio::time::timeout(SECOND, world.key(account)).await;
    tokio::time::timeout(600 * SECOND, watch.wait_for(|&is| is == state)).await.unwrap().unwrap();
}

/// What was told of late: more than the receiver keeps is lost.
fn drain(events: &mut Receiver<KeyEvent>) -> Vec<(Option<KeyId>, What)> {
    let mut told = Vec::new();
    loop {
        match events.try_recv() {
            Ok(event) => told.push((event.key_id, event.what)),
            Err(TryRecvError::Lagged(_)) => {}
            Err(_) => return told,
        }
    }
}

fn told(events: &[(Option<KeyId>, What)], kek: &KeyId, what: What) -> usize {
    events.iter().filter(|event| **event == (Some(kek.clone()), what)).count()
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_one_kek_is_bridged_for_a_day_less_a_millisecond_and_not_a_millisecond_longer() {
    for vaults in 2..=4 {
        for down in 0..vaults {
            let (world, account) = active(vaults, Policy::default()).await;
            world.vault(down).answer(DOWN);
            let since = asked(&world, account, down).await;
            use_until(&world, account, since + DAY - MS).await;
            let now = Instant::now();
            world.key(account).await.unwrap();
            assert_eq!(now.elapsed(), Duration::ZERO);
            assert_eq!(world.state(account), KeyState::Active, "{down} of {vaults}");
            sleep_until(since + DAY + MS).await;
            let refused = world.key(account).await.unwrap_err();
            assert!(refused.is_outage(), "{refused}");
            let said = refused.to_string();
            assert!(said.contains("86400s") && said.contains(kek_in(down, 1).as_str()), "{said}");
            assert_eq!(world.state(account), KeyState::Unavailable);
            // It is tried on: once the KEK answers all is well.
            world.vault(down).answer(Answer::Work);
            reaches(&world, account, KeyState::Active).await;
            use_until(&world, account, Instant::now() + 2 * HOUR).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_bridge_outlives_the_process_and_ends_when_it_would_have_without_a_restart() {
    for restarts in 1..=3_u32 {
        let (mut world, account) = two().await;
        world.vault(1).answer(DOWN);
        let since = asked(&world, account, 1).await;
        for n in 1..=restarts {
            use_until(&world, account, since + DAY / (restarts + 1) * n).await;
            world.restart();
        }
        use_until(&world, account, since + DAY - MS).await;
        world.key(account).await.unwrap();
        sleep_until(since + DAY + MS).await;
        assert!(world.key(account).await.unwrap_err().is_outage());
        world.restart();
        assert!(world.key(account).await.unwrap_err().is_outage(), "nor after another restart");
    }
}

#[tokio::test(start_paused = true)]
async fn a_wall_clock_that_is_set_back_lengthens_no_bridge_and_one_set_ahead_shortens_it() {
    for (back, ends) in [(true, DAY), (false, DAY - 3 * HOUR)] {
        let (world, account) = two().await;
        world.vault(1).answer(DOWN);
        let since = asked(&world, account, 1).await;
        use_until(&world, account, since + HOUR).await;
        match back {
            true => world.clock.set_wall_back(3 * HOUR),
            false => world.clock.set_wall_ahead(3 * HOUR),
        }
        use_until(&world, account, since + ends - MS).await;
        world.key(account).await.unwrap();
        sleep_until(since + ends + MS).await;
        assert!(world.key(account).await.unwrap_err().is_outage());
    }
}

#[tokio::test(start_paused = true)]
async fn since_when_a_kek_is_bridged_is_persisted_before_the_key_is_served_on_the_strength_of_it() {
    let (mut world, account) = two().await;
    world.vault(0).answer(DOWN);
    world.records.bridges_broken.store(true, Ordering::Relaxed);
    world.restart();
    let mut events = world.keyring.subscribe();
    let refused = world.key(account).await.unwrap_err();
    assert!(refused.is_outage(), "{refused}");
    assert_eq!(told(&drain(&mut events), &kek_in(0, 1), What::Alarm(Alarm::BridgeNotPersisted)), 1);
    assert_eq!(world.records.bridges.lock().unwrap().len(), 0);

    world.records.bridges_broken.store(false, Ordering::Relaxed);
    reaches(&world, account, KeyState::Active).await;
    let bridges = world.records.bridges.lock().unwrap().clone();
    assert!(matches!(&bridges[..], [(kek, Some(_))] if *kek == kek_in(0, 1)), "{bridges:?}");
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_held_goes_to_its_grace_where_a_bridge_can_not_be_persisted() {
    let (world, account) = two().await;
    let verified = world.keyring.status(account, Provider::Customer).verified_at.unwrap();
    world.records.bridges_broken.store(true, Ordering::Relaxed);
    world.vault(1).answer(DOWN);
    let (failed, _) = world.use_for(account, 1700 * SECOND, SECOND).await;
    assert_eq!((failed, world.state(account)), (0, KeyState::Grace));
    let now = world.clock.now();
    sleep(1800 * SECOND - now.since(&verified) + MS).await;
    assert!(world.key(account).await.unwrap_err().is_outage());
}

#[tokio::test(start_paused = true)]
async fn the_time_that_another_node_found_a_kek_out_at_counts_where_it_is_earlier() {
    let (world, account) = two().await;
    let earlier = world.clock.now().wall - 23 * HOUR;
    // Written after this node read the record.
    world.records.change(account, |record| record.keks[1].bridged_since = Some(earlier));
    let end = Instant::now() + HOUR;
    world.vault(1).answer(DOWN);
    use_until(&world, account, end - MS).await;
    world.key(account).await.unwrap();
    sleep_until(end + MS).await;
    assert!(world.key(account).await.unwrap_err().is_outage());
}

#[tokio::test(start_paused = true)]
async fn without_a_bridge_every_kek_must_answer() {
    let (world, account) = active(2, Policy::default().with_max_bridge(Duration::ZERO).unwrap()).await;
    world.vault(1).answer(DOWN);
    let (failed, _) = world.use_for(account, 1700 * SECOND, SECOND).await;
    assert_eq!((failed, world.state(account)), (0, KeyState::Grace));
    assert!(world.records.bridges.lock().unwrap().is_empty());
    let (failed, _) = world.use_for(account, 200 * SECOND, SECOND).await;
    assert!(failed > 0);
}

#[tokio::test(start_paused = true)]
async fn where_no_kek_answers_nothing_stands_in_for_any() {
    let (world, account) = two().await;
    (0..2).for_each(|vault| world.vault(vault).answer(DOWN));
    let (failed, _) = world.use_for(account, 1700 * SECOND, SECOND).await;
    assert_eq!((failed, world.state(account)), (0, KeyState::Grace));
    assert!(world.records.bridges.lock().unwrap().is_empty());
    sleep(200 * SECOND).await;
    assert!(world.key(account).await.unwrap_err().is_outage());
    // One is back: from here on it stands in for the other.
    world.vault(0).answer(Answer::Work);
    reaches(&world, account, KeyState::Active).await;
    assert_eq!(world.keyring.status(account, Provider::Customer).bridged[0].key_id, kek_in(1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_bridge_that_begins_lasts_and_ends_is_told_shown_and_warned_of() {
    let (world, account) = two().await;
    let mut events = world.keyring.subscribe();
    world.vault(1).answer(DOWN);
    let since = asked(&world, account, 1).await;
    sleep(MS).await;
    assert_eq!(told(&drain(&mut events), &kek_in(1, 1), What::BridgeBegan), 1);
    let status = world.keyring.status(account, Provider::Customer);
    let [bridged] = &status.bridged[..] else { panic!("{:?}", status.bridged) };
    assert_eq!(bridged.key_id, kek_in(1, 1));
    assert_eq!(bridged.until.wall - bridged.since.wall, DAY);

    use_until(&world, account, since + DAY * 3 / 4 - 2 * SECOND).await;
    let earlier = drain(&mut events);
    assert_eq!(told(&earlier, &kek_in(1, 1), What::Alarm(Alarm::BridgeEnds)), 0);
    assert_eq!(told(&earlier, &kek_in(1, 1), What::BridgeBegan), 0, "once");
    use_until(&world, account, since + DAY - HOUR).await;
    assert_eq!(told(&drain(&mut events), &kek_in(1, 1), What::Alarm(Alarm::BridgeEnds)), 1);

    world.vault(1).answer(Answer::Work);
    use_until(&world, account, Instant::now() + 60 * SECOND).await;
    assert_eq!(told(&drain(&mut events), &kek_in(1, 1), What::BridgeEnded), 1);
    let bridges = world.records.bridges.lock().unwrap().clone();
    assert!(matches!(&bridges[..], [(_, Some(_)), (_, None)]), "{bridges:?}");
    assert!(world.keyring.status(account, Provider::Customer).bridged.is_empty());
    // And the next outage of it is counted anew.
    world.vault(1).answer(DOWN);
    let since = asked(&world, account, 1).await;
    use_until(&world, account, since + DAY - MS).await;
    world.key(account).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn that_a_kek_answers_again_is_served_at_once_and_persisted_when_it_can_be() {
    let (world, account) = two().await;
    world.vault(1).answer(DOWN);
    asked(&world, account, 1).await;
    use_until(&world, account, Instant::now() + HOUR).await;
    world.records.bridges_broken.store(true, Ordering::Relaxed);
    world.vault(1).answer(Answer::Work);
    assert_eq!(world.use_for(account, 2 * DAY, 20 * SECOND).await, (0, Duration::ZERO));
    assert_eq!(world.records.bridges.lock().unwrap().len(), 1);
    world.records.bridges_broken.store(false, Ordering::Relaxed);
    world.use_for(account, 60 * SECOND, SECOND).await;
    assert_eq!(world.records.bridges.lock().unwrap().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_denial_by_any_kek_is_a_revocation_although_the_others_say_yes() {
    for vaults in 2..=4 {
        for denies in 0..vaults {
            let (world, account) = active(vaults, Policy::default()).await;
            let key = world.key(account).await.unwrap();
            world.vault(denies).answer(DENIED);
            asked(&world, account, denies).await;
            sleep(MS).await;
            assert!(!key.still_usable());
            let refused = world.key(account).await.unwrap_err();
            let of = kek_in(denies, 1);
            assert!(matches!(&refused, KeyError::Revoked { key_id: Some(id), .. } if *id == of), "{refused}");
            assert!(world.records.is_revoked(account));
            let (failed, _) = world.use_for(account, 600 * SECOND, SECOND).await;
            assert_eq!(failed, 600);
            world.vault(denies).answer(Answer::Work);
            reaches(&world, account, KeyState::Active).await;
            assert!(!world.records.is_revoked(account));
            assert_eq!(world.use_for(account, 600 * SECOND, SECOND).await.0, 0);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_kek_that_denied_is_not_bridged_by_another_when_it_goes_away() {
    for restarts in [false, true] {
        let (mut world, account) = two().await;
        world.vault(1).answer(DENIED);
        reaches(&world, account, KeyState::Revoked).await;
        world.vault(1).answer(DOWN);
        if restarts {
            world.restart();
        }
        let (failed, _) = world.use_for(account, HOUR, 10 * SECOND).await;
        assert_eq!(failed, 360, "an outage opens nothing");
        assert!(matches!(world.key(account).await.unwrap_err(), KeyError::Revoked { .. }));
        assert!(world.records.bridges.lock().unwrap().is_empty());
        world.vault(1).answer(Answer::Work);
        reaches(&world, account, KeyState::Active).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_kek_that_was_bridged_and_then_denies_is_bridged_no_longer() {
    for restarts in [false, true] {
        let (mut world, account) = two().await;
        world.vault(1).answer(DOWN);
        asked(&world, account, 1).await;
        use_until(&world, account, Instant::now() + HOUR).await;
        world.vault(1).answer(DENIED);
        reaches(&world, account, KeyState::Revoked).await;
        assert_eq!(world.records.bridges.lock().unwrap().last(), Some(&(kek_in(1, 1), None)), "it answered");
        world.vault(1).answer(DOWN);
        if restarts {
            world.restart();
        }
        let (failed, _) = world.use_for(account, HOUR, 10 * SECOND).await;
        assert_eq!(failed, 360);
    }
}

#[tokio::test(start_paused = true)]
async fn a_kek_that_says_yes_again_after_its_denial_restores_the_key_while_another_is_bridged() {
    let (world, account) = active(3, Policy::default()).await;
    world.vault(0).answer(DOWN);
    asked(&world, account, 0).await;
    use_until(&world, account, Instant::now() + HOUR).await;
    world.vault(2).answer(DENIED);
    reaches(&world, account, KeyState::Revoked).await;
    // A bridge does not begin while a denial stands.
    world.vault(1).answer(DOWN);
    world.vault(2).answer(Answer::Work);
    let (failed, _) = world.use_for(account, HOUR, 10 * SECOND).await;
    assert_eq!(failed, 360);
    world.vault(1).answer(Answer::Work);
    reaches(&world, account, KeyState::Active).await;
    let status = world.keyring.status(account, Provider::Customer);
    assert_eq!(status.bridged.len(), 1, "{:?}", status.bridged);
}

#[tokio::test(start_paused = true)]
async fn removing_the_kek_that_denies_restores_the_key() {
    let (world, account) = active(3, Policy::default()).await;
    world.vault(1).answer(DENIED);
    reaches(&world, account, KeyState::Revoked).await;
    // Another node.
    world.wrap_under(account, &[(0, 1), (2, 1)]).await;
    reaches(&world, account, KeyState::Active).await;
    assert!(!world.records.is_revoked(account));
    assert_eq!(world.use_for(account, 600 * SECOND, SECOND).await, (0, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_denial_of_a_kek_that_another_node_removed_is_no_revocation() {
    let (world, account) = two().await;
    world.wrap_under(account, &[(0, 1)]).await;
    world.vault(1).answer(DENIED);
    let (failed, _) = world.use_for(account, 600 * SECOND, SECOND).await;
    assert_eq!((failed, world.state(account)), (0, KeyState::Active));
    assert!(world.records.persisted.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_kek_is_not_found_only_once_three_answers_say_so() {
    let (world, account) = two().await;
    world.vault(1).answer_next([Answer::Fail(Kind::KeyNotFound)]);
    asked(&world, account, 1).await;
    world.key(account).await.unwrap();
    assert!(world.records.persisted.lock().unwrap().is_empty());
    world.vault(1).answer(Answer::Fail(Kind::KeyNotFound));
    reaches(&world, account, KeyState::Revoked).await;
}

#[tokio::test(start_paused = true)]
async fn a_wrap_that_is_damaged_under_one_kek_is_had_by_another() {
    let (world, account) = active(2, Policy::default()).await;
    world.add_epoch(account, 2).await;
    world.records.change(account, |record| {
        record.epochs[0].wraps[0].bytes[7] ^= 1;
        record.epochs[1].wraps[1].bytes[7] ^= 1;
    });
    world.keyring.forget(account);
    let mut events = world.keyring.subscribe();
    assert_eq!(world.key(account).await.unwrap().scope().epoch, Epoch::new(2));
    let first = world.keyring.opening_key(account, Provider::Customer, Epoch::FIRST).await.unwrap();
    assert_eq!(first.scope().epoch, Epoch::FIRST);
    // The newest, damaged under the second KEK, counts as that one's outage.
    let told_of = drain(&mut events);
    assert_eq!(told(&told_of, &kek_in(1, 1), What::BridgeBegan), 1, "{told_of:?}");
    assert!(told(&told_of, &kek_in(1, 1), What::Alarm(Alarm::Corrupt)) > 0);
}

#[tokio::test(start_paused = true)]
async fn what_a_kek_is_missing_is_had_by_the_others_when_it_is_away() {
    for down in 0..3 {
        let world = World::several(3, Policy::default(), VaultBudget::default());
        let account = world.account(3).await;
        world.wrap_under(account, &[(0, 1), (1, 1), (2, 1)]).await;
        world.vault(down).answer(DOWN);
        for epoch in [3, 1, 2] {
            let epoch = Epoch::new(epoch);
            let key = world.keyring.opening_key(account, Provider::Customer, epoch).await.unwrap();
            assert_eq!(key.scope().epoch, epoch);
        }
        assert_eq!(world.key(account).await.unwrap().scope().epoch, Epoch::new(3));
    }
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_callers_ask_each_kek_once() {
    let world = World::several(4, Policy::default(), VaultBudget::default());
    let account = world.account(1).await;
    world.wrap_under(account, &[(0, 1), (1, 1), (2, 1), (3, 1)]).await;
    (0..4).for_each(|vault| world.vault(vault).set_latency(100 * MS));
    let before: Vec<usize> = (0..4).map(|vault| world.vault(vault).unwraps()).collect();
    let asked = Instant::now();
    let callers: Vec<_> = (0..10_000)
        .map(|_| {
            let keyring = world.keyring.clone();
            tokio::spawn(async move { keyring.sealing_key(account, Provider::Customer).await.map(drop) })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap().unwrap();
    }
    assert!(asked.elapsed() <= 110 * MS, "{:?}: they are asked at the same time", asked.elapsed());
    for (vault, before) in before.into_iter().enumerate() {
        assert_eq!(world.vault(vault).unwraps() - before, 1);
        assert_eq!(world.vault(vault).max_in_flight(), 1);
    }
}

/// The most calls within any 10 s.
fn most_within_ten_seconds(world: &World, vault: usize) -> usize {
    let sent: Vec<Instant> = world.vault(vault).calls().iter().filter(|c| c.unwrap).map(|c| c.sent).collect();
    let within =
        |&from: &Instant| sent.iter().filter(|&&at| at >= from && at - from <= VaultBudget::PER).count();
    sent.iter().map(within).max().unwrap_or(0)
}

#[tokio::test(start_paused = true)]
async fn an_account_counts_at_each_of_its_vaults_and_each_vaults_budget_is_kept() {
    let budget = VaultBudget::of_limit(NonZeroU32::new(20).unwrap());
    let world = World::several(3, Policy::default(), budget);
    let mut accounts = Vec::new();
    // 30 in the first vault alone, 10 in both, 10 with two KEKs in the third and one in the second.
    for n in 0..50 {
        let account = world.account(1).await;
        match n {
            0..30 => {}
            30..40 => world.wrap_under(account, &[(0, 1), (1, 1)]).await,
            _ => world.wrap_under(account, &[(2, 1), (2, 2), (1, 1)]).await,
        }
        accounts.push(account);
    }
    let calls = |world: &World| -> Vec<(u32, Duration)> {
        world.keyring.vaults()[1..].iter().map(|of| (of.calls_per_refresh, of.refresh)).collect()
    };
    world.forget_calls();
    let end = Instant::now() + 900 * SECOND;
    let callers: Vec<_> = accounts
        .iter()
        .map(|&account| {
            let keyring = world.keyring.clone();
            tokio::spawn(async move {
                let (mut refused, mut waited) = (0, 0);
                let start = Instant::now();
                while Instant::now() < end {
                    let asked = Instant::now();
                    refused += usize::from(keyring.sealing_key(account, Provider::Customer).await.is_err());
                    // The first 180 s bring them all up.
                    waited += usize::from(asked - start > 180 * SECOND && !asked.elapsed().is_zero());
                    let state = keyring.status(account, Provider::Customer).state;
                    assert!(matches!(state, KeyState::Active | KeyState::Cold), "{state}");
                    sleep(SECOND).await;
                }
                (refused, waited)
            })
        })
        .collect();
    sleep_until(end - SECOND).await;
    let [first, second, third] = calls(&world)[..] else { panic!() };
    println!("calls per refresh, and how often: {first:?}, {second:?}, {third:?}");
    assert_eq!((first.0, second.0, third.0), (40, 20, 20));
    assert!(first.1 > 40 * SECOND && first.1 < 60 * SECOND, "stretched: {:?}", first.1);
    assert_eq!(second.1, 30 * SECOND);
    let mut noticed = (0, 0);
    for caller in callers {
        let (refused, waited) = caller.await.unwrap();
        noticed = (noticed.0 + refused, noticed.1 + waited);
    }
    assert_eq!(noticed, (0, 0), "refused, waited");
    for vault in 0..3 {
        assert!(most_within_ten_seconds(&world, vault) <= 10, "{}", most_within_ten_seconds(&world, vault));
    }
    // Nobody uses them any longer.
    sleep(2 * HOUR).await;
    assert!(calls(&world).iter().all(|(calls, _)| *calls == 0));
}

#[tokio::test(start_paused = true)]
async fn a_vault_that_throttles_delays_only_the_keks_in_it() {
    let (world, account) = two().await;
    let retry_after = Some(20 * SECOND);
    world.vault(1).answer_next([Answer::Fail(Kind::Throttled { retry_after })]);
    let since = asked(&world, account, 1).await;
    assert_eq!(world.use_for(account, 120 * SECOND, SECOND).await, (0, Duration::ZERO));
    let early =
        world.vault(1).calls().iter().filter(|c| c.sent > since && c.sent < since + 20 * SECOND).count();
    assert_eq!(early, 0);
    assert!(world.keyring.status(account, Provider::Customer).bridged.is_empty(), "it answers again");
}

#[tokio::test(start_paused = true)]
async fn accounts_under_two_vaults_that_are_both_beyond_their_budgets_are_refreshed_in_time_and_bridge_nothing()
 {
    let budget = VaultBudget::of_limit(NonZeroU32::new(20).unwrap());
    let world = World::several(2, Policy::default(), budget);
    let mut accounts = Vec::new();
    for _ in 0..80 {
        let account = world.account(1).await;
        world.wrap_under(account, &[(0, 1), (1, 1)]).await;
        accounts.push(account);
    }
    (0..2).for_each(|vault| world.vault(vault).set_latency_range(20 * MS..=120 * MS));
    world.forget_calls();
    let mut events = world.keyring.subscribe();
    let end = Instant::now() + 900 * SECOND;
    let callers: Vec<_> = accounts
        .iter()
        .map(|&account| {
            let (keyring, clock) = (world.keyring.clone(), world.clock.clone());
            tokio::spawn(async move {
                let (mut refused, mut waited, mut oldest) = (0_u32, 0_u32, Duration::ZERO);
                let start = Instant::now();
                while Instant::now() < end {
                    let asked = Instant::now();
                    refused += u32::from(keyring.sealing_key(account, Provider::Customer).await.is_err());
                    if asked - start > 240 * SECOND {
                        waited += u32::from(!asked.elapsed().is_zero());
                        let status = keyring.status(account, Provider::Customer);
                        oldest = oldest.max(clock.now().since(&status.verified_at.unwrap()));
                        assert_eq!(status.state, KeyState::Active);
                    }
                    sleep(SECOND).await;
                }
                (refused, waited, oldest)
            })
        })
        .collect();
    let mut noticed = (0, 0, Duration::ZERO);
    for caller in callers {
        let (refused, waited, oldest) = caller.await.unwrap();
        noticed = (noticed.0 + refused, noticed.1 + waited, noticed.2.max(oldest));
    }
    let most = [0, 1].map(|vault| most_within_ten_seconds(&world, vault));
    println!("refused, waited, oldest: {noticed:?}; at most {most:?} calls in 10 s");
    assert_eq!(noticed.0, 0);
    assert!(noticed.1 <= 80 * 660 / 100, "{noticed:?}: at most one use in a hundred waits");
    assert!(noticed.2 < 66 * SECOND, "{noticed:?}");
    assert!(most.iter().all(|&most| most <= 20), "{most:?}");
    assert!(world.records.bridges.lock().unwrap().is_empty());
    assert!(drain(&mut events).iter().all(|(_, what)| !matches!(what, What::BridgeBegan)));
}

#[tokio::test(start_paused = true)]
async fn a_kek_that_hangs_holds_up_nobody_who_has_the_key_and_a_cold_one_for_a_time_out() {
    for hangs in 0..2 {
        let (mut world, account) = two().await;
        world.vault(hangs).answer(Answer::Hang);
        let (failed, longest) = world.use_for(account, HOUR, 500 * MS).await;
        assert_eq!(failed, 0);
        assert!(longest <= 10 * MS, "{longest:?}");
        assert_eq!(world.state(account), KeyState::Active);
        world.restart();
        let asked = Instant::now();
        world.key(account).await.unwrap();
        assert!(asked.elapsed() <= 5 * SECOND + 10 * MS, "{:?}", asked.elapsed());
    }
}
