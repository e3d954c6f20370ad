//! Many accounts on one vault: its budget is kept, and no key is used past its bound.

use std::{num::NonZeroU32, time::Duration};

use cofferdam_crypto::{AccountId, Provider};
use cofferdam_keyring::{KeyState, Policy, VaultEvent, VaultName, WhatOfVault};
use cofferdam_vault::{
    Clock as _, VaultBudget, VaultErrorKind as Kind,
    testing::{Answer, Call},
};
use tokio::{
    sync::broadcast::Receiver,
    time::{Instant, sleep, sleep_until},
};

use crate::common::{MS, SECOND, World, scale};

/// By how much everything is smaller by default: accounts and budgets alike, so that the figures mean the same.
fn smaller() -> u32 {
    scale(20, 1)
}

fn of_limit(limit: u32) -> VaultBudget {
    VaultBudget::of_limit(NonZeroU32::new(limit / smaller()).unwrap())
}

/// A world with vaults of the default limit and budget, all of it smaller.
fn world() -> World {
    let limit = of_limit(VaultBudget::default().limit());
    assert_eq!(limit.budget(), 1_000 / smaller());
    with_budget(limit)
}

fn with_budget(budget: VaultBudget) -> World {
    let world = World::budgeted(Policy::default(), budget);
    world.customer.set_latency_range(20 * MS..=120 * MS);
    world.service.set_latency_range(5 * MS..=30 * MS);
    world
}

async fn accounts(world: &World, many: u32) -> Vec<AccountId> {
    let mut accounts = Vec::new();
    for _ in 0..many / smaller() {
        accounts.push(world.account(1).await);
    }
    accounts
}

/// The most calls within any 10 s, ends included, of those sent since `from`.
fn most_within_ten_seconds(calls: &[Call]) -> usize {
    let sent: Vec<Instant> = calls.iter().filter(|call| call.unwrap).map(|call| call.sent).collect();
    let mut most = 0;
    let mut first = 0;
    for (last, &at) in sent.iter().enumerate() {
        while at - sent[first] > VaultBudget::PER {
            first += 1;
        }
        most = most.max(last + 1 - first);
    }
    most
}

/// What callers noticed.
#[derive(Clone, Copy, Debug, Default)]
struct Noticed {
    uses: u64,
    refused: u64,
    /// Uses that waited, and the longest wait.
    waited: u64,
    longest: Duration,
    /// The age of the oldest key that was used.
    oldest: Duration,
    /// Uses in Grace.
    in_grace: u64,
}

impl Noticed {
    fn and(self, other: Self) -> Self {
        Self {
            uses: self.uses + other.uses,
            refused: self.refused + other.refused,
            waited: self.waited + other.waited,
            longest: self.longest.max(other.longest),
            oldest: self.oldest.max(other.oldest),
            in_grace: self.in_grace + other.in_grace,
        }
    }
}

/// Every account is used about every `step`, by a caller of its own, until `end`.
async fn use_all(world: &World, accounts: &[AccountId], step: Duration, end: Instant) -> Noticed {
    let callers: Vec<_> = accounts
        .iter()
        .enumerate()
        .map(|(n, &account)| {
            let (keyring, clock) = (world.keyring.clone(), world.clock.clone());
            tokio::spawn(async move {
                let mut noticed = Noticed::default();
                sleep(MS * (n as u32 * 7919 % step.as_millis() as u32)).await;
                while Instant::now() < end {
                    let asked = Instant::now();
                    let key = keyring.sealing_key(account, Provider::Customer).await;
                    noticed.uses += 1;
                    noticed.refused += u64::from(key.is_err());
                    noticed.waited += u64::from(asked.elapsed() > MS);
                    noticed.longest = noticed.longest.max(asked.elapsed());
                    if key.is_ok() {
                        let status = keyring.status(account, Provider::Customer);
                        let verified = status.verified_at.unwrap();
                        noticed.oldest = noticed.oldest.max(clock.now().since(&verified));
                        noticed.in_grace += u64::from(status.state == KeyState::Grace);
                    }
                    sleep(step).await;
                }
                noticed
            })
        })
        .collect();
    let mut noticed = Noticed::default();
    for caller in callers {
        noticed = noticed.and(caller.await.unwrap());
    }
    noticed
}

fn told(events: &mut Receiver<VaultEvent>) -> Vec<(VaultName, WhatOfVault)> {
    std::iter::from_fn(|| events.try_recv().ok()).map(|event| (event.vault, event.what)).collect()
}

fn minutes() -> u32 {
    scale(6, 10)
}

#[tokio::test(start_paused = true)]
async fn six_thousand_accounts_in_use_of_a_hundred_thousand_keep_one_vault_within_its_budget() {
    let world = world();
    let known = accounts(&world, 100_000).await;
    let in_use = &known[..6_000 / smaller() as usize];
    let mut events = world.keyring.subscribe_vaults();
    world.forget_calls();
    let start = Instant::now();
    let cold = use_all(&world, in_use, SECOND, start + SECOND).await;
    let cold_for = start.elapsed();
    let noticed = use_all(&world, in_use, SECOND, start + minutes() * 60 * SECOND).await;
    let status = world.keyring.vaults().pop().unwrap();
    let most = most_within_ten_seconds(&world.customer.calls());
    println!(
        "{} known, {} in use for {} min: at most {most} calls in 10 s of a budget of {}; the first uses took {cold_for:?}, \
         after that {noticed:?}; refresh {:?}, {} sent in the last 10 s",
        known.len(),
        in_use.len(),
        minutes(),
        status.budget,
        status.refresh,
        status.sent
    );
    assert!(most <= status.budget as usize);
    assert!(noticed.oldest < 65 * SECOND && cold.oldest < 65 * SECOND, "{noticed:?}");
    assert_eq!((noticed.refused, cold.refused, noticed.in_grace), (0, 0, 0));
    assert_eq!(told(&mut events), [], "it is just enough");
    assert_eq!((status.refresh, status.calls_per_refresh as usize), (60 * SECOND, in_use.len()));
    assert_eq!(
        world.keyring.held_keys(),
        in_use.len(),
        "of accounts not in use, and services', none is held"
    );
}

#[tokio::test(start_paused = true)]
async fn twenty_thousand_accounts_in_use_raise_the_alarm_and_no_key_is_used_past_its_bound() {
    let world = world();
    let accounts = accounts(&world, 20_000).await;
    let mut events = world.keyring.subscribe_vaults();
    world.forget_calls();
    let start = Instant::now();
    let mut watched = world.keyring.subscribe();
    // The service's own vault needs 200 s for their first uses.
    let cold = use_all(&world, &accounts, 5 * SECOND, start + 240 * SECOND).await;
    let noticed = use_all(&world, &accounts, 5 * SECOND, Instant::now() + minutes() * 60 * SECOND).await;
    let status = world.keyring.vaults().pop().unwrap();
    let most = most_within_ten_seconds(&world.customer.calls());
    println!(
        "{} in use for {} min: at most {most} calls in 10 s of a limit of {}; {noticed:?}; {status:?}",
        accounts.len(),
        minutes(),
        status.limit
    );
    let over = (VaultName::OfPrincipal(cofferdam_vault::Principal::new("tenant")), WhatOfVault::OverBudget);
    assert_eq!(told(&mut events), vec![over.clone()], "once, and it stands");
    assert!(
        status.over_budget && status.allowed == status.limit && status.refresh == 60 * SECOND,
        "{status:?}"
    );
    assert!(most <= status.limit as usize);
    let noticed = noticed.and(cold);
    assert!(noticed.oldest < 65 * SECOND, "{noticed:?}");
    assert_eq!(
        (noticed.refused, noticed.in_grace),
        (0, 0),
        "callers wait their turn, and the budget opens no Grace"
    );
    while let Ok(event) = watched.try_recv() {
        assert!(
            !matches!(event.what, cofferdam_keyring::What::Changed { to: KeyState::Grace, .. }),
            "{event:?}"
        );
    }

    // Fewer again: the alarm ends, and the refresh is as often as it was.
    let few = &accounts[..1_000 / smaller() as usize];
    use_all(&world, few, SECOND, Instant::now() + 300 * SECOND).await;
    let status = world.keyring.vaults().pop().unwrap();
    assert_eq!(told(&mut events), [(over.0, WhatOfVault::WithinBudget)]);
    assert!(!status.over_budget && status.refresh == 30 * SECOND, "{status:?}");
}

#[tokio::test(start_paused = true)]
async fn between_budget_and_limit_more_is_taken_with_an_alarm_and_nobody_waits() {
    let world = world();
    let accounts = accounts(&world, 9_000).await;
    let mut events = world.keyring.subscribe_vaults();
    use_all(&world, &accounts, SECOND, Instant::now() + 180 * SECOND).await;
    world.forget_calls();
    let noticed = use_all(&world, &accounts, SECOND, Instant::now() + 180 * SECOND).await;
    let status = world.keyring.vaults().pop().unwrap();
    let most = most_within_ten_seconds(&world.customer.calls());
    println!("{} in use: at most {most} calls in 10 s; {noticed:?}; {status:?}", accounts.len());
    assert_eq!(told(&mut events).len(), 1);
    assert!(most <= status.allowed as usize && status.allowed < status.limit);
    assert!(noticed.oldest < 65 * SECOND && noticed.refused == 0);
    assert!(noticed.waited * 1000 <= noticed.uses, "{noticed:?}");
}

#[tokio::test(start_paused = true)]
async fn a_cold_start_of_ten_thousand_takes_what_the_budget_takes() {
    // All of the limit, so that there is no more to take: ten thousand in use need more than the budget.
    let world =
        with_budget(of_limit(1_000).with_budget(NonZeroU32::new(1_000 / smaller()).unwrap()).unwrap());
    world.service.set_latency(20 * MS);
    world.customer.set_latency(100 * MS);
    let accounts = accounts(&world, 10_000).await;
    world.forget_calls();
    let start = Instant::now();
    let callers: Vec<_> = accounts
        .iter()
        .map(|&account| {
            let keyring = world.keyring.clone();
            tokio::spawn(async move {
                keyring.sealing_key(account, Provider::Customer).await.unwrap();
                start.elapsed()
            })
        })
        .collect();
    let mut served = Vec::new();
    for caller in callers {
        served.push(caller.await.unwrap());
    }
    let took = start.elapsed();
    let budget = world.keyring.vaults().pop().unwrap().budget;
    // The first window's calls need not wait.
    let floor = VaultBudget::PER * (accounts.len() as u32 / budget - 1);
    let most = most_within_ten_seconds(&world.customer.calls());
    println!(
        "{} accounts from cold in {took:?}; the budget's floor is {floor:?}; at most {most} calls in 10 s, {} at once; half \
         were served after {:?}",
        accounts.len(),
        world.customer.max_in_flight(),
        served[served.len() / 2]
    );
    assert!(served.is_sorted(), "first come, first served");
    assert!(took >= floor && took <= floor + floor / 5, "{took:?}");
    assert!(most <= budget as usize);
    assert!(world.customer.max_in_flight() <= 64 && world.service.max_in_flight() <= 64);
}

#[tokio::test(start_paused = true)]
async fn a_vault_that_throttles_at_half_its_published_limit_costs_nothing_within_grace() {
    let world = world();
    // More than the budget, so that more of the limit is tried than the vault lets through.
    let accounts = accounts(&world, 9_000).await;
    use_all(&world, &accounts, SECOND, Instant::now() + 240 * SECOND).await;
    world.customer.throttle_above(Some((1_000 / smaller() as usize, VaultBudget::PER, Some(3 * SECOND))));
    world.forget_calls();
    let noticed = use_all(&world, &accounts, SECOND, Instant::now() + 600 * SECOND).await;
    let calls = world.customer.calls();
    let throttled = calls.iter().filter(|call| call.is_throttled()).count();
    println!(
        "{} in use, 10 min of 429 above {} in 10 s: {noticed:?}; {} calls, {throttled} of them answered 429",
        accounts.len(),
        1_000 / smaller(),
        calls.len()
    );
    assert!(throttled > 0 && throttled * 5 < calls.len(), "tried, and not hammered");
    assert_eq!((noticed.refused, noticed.waited), (0, 0), "{noticed:?}");
    assert!(noticed.oldest < 1800 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_vault_that_names_a_time_is_not_called_before_it_for_any_account() {
    let world = World::new();
    let mut accounts = Vec::new();
    for _ in 0..50 {
        accounts.push(world.account(1).await);
    }
    for &account in &accounts[..25] {
        world.key(account).await.unwrap();
    }
    sleep(10 * SECOND).await;
    for (named, waits) in [(3, true), (20, false)] {
        let retry_after = Some(named * SECOND);
        world.customer.answer_next([Answer::Fail(Kind::Throttled { retry_after })]);
        let before = world.customer.calls().len();
        // Whose turn it is by itself.
        while world.customer.calls().len() == before {
            use_once(&world, &accounts[..25]).await;
            sleep(100 * MS).await;
        }
        let asked = world.customer.calls()[before].sent;
        let cold = accounts[if waits { 30 } else { 40 }];
        let asks = Instant::now();
        let answer = world.key(cold).await;
        if waits {
            // For a key that is not there, a short time is waited for.
            answer.unwrap();
            assert!(asks.elapsed() <= 3 * SECOND + 10 * MS, "{:?}", asks.elapsed());
        } else {
            let refused = answer.unwrap_err();
            assert!(refused.is_outage() && refused.to_string().contains("throttles"), "{refused}");
            assert_eq!(asks.elapsed(), Duration::ZERO);
        }
        // For those that are, nobody waits, however old they grow meanwhile.
        while Instant::now() < asked + named * SECOND {
            let asks = Instant::now();
            use_once(&world, &accounts[..25]).await;
            assert_eq!(asks.elapsed(), Duration::ZERO);
            sleep(500 * MS).await;
        }
        sleep_until(asked + 120 * SECOND).await;
        let again = world.customer.calls()[before + 1].sent;
        assert!(again - asked >= named * SECOND - MS, "{:?}", again - asked);
        use_once(&world, &accounts[..25]).await;
    }
}

async fn use_once(world: &World, accounts: &[AccountId]) {
    for &account in accounts {
        world.key(account).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn after_an_outage_keys_are_not_all_asked_for_at_once_again() {
    let world = world();
    let accounts = accounts(&world, 2_000).await;
    use_all(&world, &accounts, SECOND, Instant::now() + 60 * SECOND).await;
    world.customer.answer(Answer::Fail(Kind::Unavailable));
    let outage = use_all(&world, &accounts, SECOND, Instant::now() + 600 * SECOND).await;
    world.customer.answer(Answer::Work);
    use_all(&world, &accounts, SECOND, Instant::now() + 40 * SECOND).await;
    world.forget_calls();
    let after = use_all(&world, &accounts, SECOND, Instant::now() + 120 * SECOND).await;
    let calls = world.customer.calls();
    let mut by_second = vec![0; 121];
    let start = calls[0].sent;
    calls.iter().for_each(|call| by_second[(call.sent - start).as_secs() as usize] += 1);
    let busiest = *by_second.iter().max().unwrap();
    println!(
        "{} in use, after an outage: at most {busiest} calls in a second; {outage:?}; {after:?}",
        accounts.len()
    );
    assert!(busiest <= 1 + 100 / smaller() as usize * 2, "{by_second:?}");
    assert_eq!((outage.refused, outage.waited, after.refused, after.waited), (0, 0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_a_vault_at_its_budget_costs_nobody_anything_within_grace() {
    let world = world();
    let accounts = accounts(&world, 6_000).await;
    use_all(&world, &accounts, SECOND, Instant::now() + 240 * SECOND).await;
    world.customer.answer(Answer::Fail(Kind::Unavailable));
    let noticed = use_all(&world, &accounts, SECOND, Instant::now() + 900 * SECOND).await;
    println!("{} in use, 15 min of outage: {noticed:?}", accounts.len());
    assert_eq!(noticed.refused, 0);
    assert!(noticed.waited * 1000 <= noticed.uses, "{noticed:?}");
}

#[tokio::test(start_paused = true)]
async fn principals_with_one_vault_share_its_budget() {
    let world = World::shared(VaultBudget::of_limit(NonZeroU32::new(20).unwrap()));
    let mut accounts = Vec::new();
    for n in 0..40 {
        let account = world.account(1).await;
        let name = if n % 2 == 0 { "tenant" } else { "another" };
        world.records.change(account, |r| r.keks[0].principal = Some(cofferdam_vault::Principal::new(name)));
        accounts.push(account);
    }
    world.forget_calls();
    let callers: Vec<_> = accounts
        .iter()
        .map(|&account| {
            let keyring = world.keyring.clone();
            tokio::spawn(async move { keyring.sealing_key(account, Provider::Customer).await.map(drop) })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap().unwrap();
    }
    assert_eq!(most_within_ten_seconds(&world.customer.calls()), 10);
    let names: Vec<VaultName> = world.keyring.vaults().into_iter().map(|status| status.vault).collect();
    let shared = VaultName::OfPrincipal(cofferdam_vault::Principal::new("another"));
    assert_eq!(names, [VaultName::Service, shared]);
}
