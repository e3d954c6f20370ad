//! How old a key in use can be while its vault answers, whatever else happens.

use std::{sync::Arc, time::Duration};

use cofferdam_crypto::{AccountId, Provider};
use cofferdam_keyring::{KeyState, Policy};
use cofferdam_vault::{
    Clock as _, Entropy, VaultErrorKind as Kind,
    testing::{Answer, SeededEntropy},
};
use tokio::time::{Instant, sleep};

use crate::common::{MS, SECOND, World, scale};

fn runs() -> u64 {
    scale(40, 2_000).into()
}

/// Random numbers of a seed.
struct Dice(SeededEntropy);

impl Dice {
    fn below(&self, bound: u64) -> u64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes).unwrap();
        u64::from_le_bytes(bytes) % bound
    }

    fn ms(&self, bound: u64) -> Duration {
        Duration::from_millis(self.below(bound))
    }
}

/// The age of the key that was just served.
fn age(world: &World, account: AccountId) -> Duration {
    let verified = world.keyring.status(account, Provider::Customer).verified_at.unwrap();
    world.clock.now().since(&verified)
}

/// Uses of a key at random times, with a vault that answers late but in time, in suspends and idle times. Returns
/// the age of the oldest key served.
async fn oldest(seed: u64) -> (Duration, Policy) {
    let dice = Dice(SeededEntropy::new(seed));
    let refresh = Duration::from_secs(6 + dice.below(55));
    let ceiling = refresh.max(Duration::from_secs(30 + dice.below(31)));
    let policy = Policy::default()
        .with_ceiling(60 * SECOND)
        .unwrap()
        .with_refresh(refresh)
        .unwrap()
        .with_ceiling(ceiling);
    let world = World::with(policy.unwrap());
    let account = world.account(1).await;
    let mut oldest = Duration::ZERO;
    for _ in 0..200 {
        world.customer.set_latency(dice.ms(4_900));
        match dice.below(10) {
            0 => world.clock.suspend(dice.ms(200_000)),
            1 => world.clock.set_wall_back(dice.ms(100_000)),
            2 => sleep(dice.ms(120_000)).await,
            3 => sleep(dice.ms(40_000)).await,
            _ => sleep(dice.ms(3_000)).await,
        }
        world.key(account).await.unwrap();
        oldest = oldest.max(age(&world, account));
    }
    (oldest, world.policy.clone())
}

#[tokio::test(start_paused = true)]
async fn while_its_vault_answers_no_key_in_use_is_older_than_refresh_and_time_out() {
    let mut closest = Duration::MAX;
    for seed in 0..runs() {
        let (oldest, policy) = oldest(seed).await;
        let bound = policy.refresh() + policy.call_timeout();
        assert!(oldest < bound, "seed {seed}: {oldest:?} of {bound:?}");
        closest = closest.min(bound - oldest);
    }
    println!("{} runs; the oldest key in use was {closest:?} younger than refresh + time-out", runs());
}

#[tokio::test(start_paused = true)]
async fn after_a_revocation_no_key_in_use_is_older_than_refresh_and_time_out() {
    let mut oldest = Duration::ZERO;
    for seed in 0..runs() {
        for kind in [Kind::AccessDenied, Kind::KeyDisabled, Kind::KeyNotFound] {
            let dice = Dice(SeededEntropy::new(seed));
            let world = World::new();
            let account = world.account(1).await;
            // Three answers within 5 s take a vault that answers within half of that.
            world.customer.set_latency(dice.ms(if kind == Kind::KeyNotFound { 2_400 } else { 4_900 }));
            world.use_for(account, dice.ms(100_000), Duration::from_millis(1 + dice.below(40_000))).await;
            world.customer.answer(Answer::Fail(kind));
            let revoked = Instant::now();
            while world.state(account) != KeyState::Revoked {
                if world.key(account).await.is_ok() {
                    let age = age(&world, account);
                    assert!(age < 35 * SECOND, "seed {seed}, {kind}: {age:?}");
                    oldest = oldest.max(age);
                }
                sleep(dice.ms(10_000)).await;
                assert!(revoked.elapsed() < 100 * SECOND, "seed {seed}, {kind}");
            }
        }
    }
    println!("{} revocations; the oldest key used after one was {oldest:?} old", 3 * runs());
}

#[tokio::test(start_paused = true)]
async fn a_key_serves_until_a_millisecond_before_its_bound_and_not_a_millisecond_after() {
    for kind in [Kind::Unavailable, Kind::Throttled { retry_after: None }, Kind::Unauthenticated, Kind::Other]
    {
        for (grace, bound) in [(1800, 1800), (3600, 3600), (0, 65)] {
            let policy = Policy::default().with_grace(Duration::from_secs(grace)).unwrap();
            let world = World::with(policy);
            let account = world.account(1).await;
            world.key(account).await.unwrap();
            let status = world.keyring.status(account, Provider::Customer);
            let usable_until = status.usable_until.unwrap();
            assert_eq!(usable_until.since(&status.verified_at.unwrap()), bound * SECOND);
            world.customer.answer(Answer::Fail(kind));
            // Used all the time: retries go on, and refreshes do not move the bound.
            let left = usable_until.since(&world.clock.now()) - MS;
            let end = Instant::now() + left;
            while Instant::now() + SECOND < end {
                world.key(account).await.unwrap();
                sleep(SECOND).await;
            }
            tokio::time::sleep_until(end).await;
            assert_eq!(usable_until.since(&world.clock.now()), MS);
            let key = world.key(account).await.unwrap();
            assert!(key.still_usable(), "{kind}");
            sleep(2 * MS).await;
            assert!(!key.still_usable(), "{kind}");
            assert!(world.key(account).await.unwrap_err().is_outage(), "{kind}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_callers_on_an_expired_key_make_one_call() {
    let world = World::new();
    let account = world.account(1).await;
    world.key(account).await.unwrap();
    world.customer.set_latency(200 * MS);
    world.clock.suspend(36 * SECOND);
    let before = world.customer.unwraps();
    let keyring = Arc::new(world.keyring.clone());
    let callers: Vec<_> = (0..10_000)
        .map(|_| {
            let keyring = keyring.clone();
            tokio::spawn(async move { keyring.sealing_key(account, Provider::Customer).await.map(drop) })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap().unwrap();
    }
    let calls = world.customer.unwraps() - before;
    println!("10,000 callers on an expired key: {calls} vault call");
    assert_eq!(calls, 1);
}
