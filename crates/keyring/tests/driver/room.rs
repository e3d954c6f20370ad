//! How many keys are held at once, and whose goes when there is no room.

use std::{collections::BTreeMap, num::NonZeroUsize, time::Duration};

use cofferdam_crypto::{AccountId, Provider};
use cofferdam_keyring::{KeyEvent, KeyState, Policy, What, Why};
use cofferdam_vault::{VaultErrorKind as Kind, testing::Answer};
use proptest::prelude::*;
use tokio::{sync::broadcast::Receiver, time::sleep};

use crate::common::{SECOND, World, kek, scale};

fn world(max_keys: usize) -> World {
    World::with(Policy::default().with_max_keys(NonZeroUsize::new(max_keys).unwrap()))
}

/// Accounts whose service keys are verified, which customer keys need: so nothing else takes a seat.
async fn accounts(world: &World, many: usize) -> Vec<AccountId> {
    let mut accounts = Vec::new();
    for _ in 0..many {
        accounts.push(world.account(1).await);
    }
    accounts
}

type Displaced = (AccountId, Provider, KeyState);

fn displaced(events: &mut Receiver<KeyEvent>) -> Vec<Displaced> {
    let displaced = |event: KeyEvent| match event.what {
        What::Changed { from, to: KeyState::Cold, why: Why::Displaced } => {
            Some((event.account, event.provider, from))
        }
        _ => None,
    };
    std::iter::from_fn(|| events.try_recv().ok()).filter_map(displaced).collect()
}

async fn use_service_key(world: &World, account: AccountId) {
    world.keyring.sealing_key(account, Provider::Service).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_least_recently_used_key_goes_first_whenever_it_was_verified() {
    let world = world(4);
    let accounts = accounts(&world, 8).await;
    let mut events = world.keyring.subscribe();
    for &account in &accounts[..4] {
        use_service_key(&world, account).await;
        sleep(SECOND).await;
    }
    // Used again, without a question to the vault.
    for &account in [&accounts[0], &accounts[2]] {
        use_service_key(&world, account).await;
        sleep(SECOND).await;
    }
    for &account in &accounts[4..] {
        use_service_key(&world, account).await;
        sleep(SECOND).await;
        assert_eq!(world.keyring.held_keys(), 4);
    }
    let expected = [1, 3, 0, 2].map(|n: usize| (accounts[n], Provider::Service, KeyState::Active));
    assert_eq!(displaced(&mut events), expected);
}

#[tokio::test(start_paused = true)]
async fn a_displaced_account_is_cold_and_asks_its_vault_again() {
    let world = world(2);
    let accounts = accounts(&world, 2).await;
    let handle = world.keyring.handle(accounts[0], Provider::Customer);
    let key = handle.sealing_key().await.unwrap();
    let mut watch = world.keyring.watch(accounts[0], Provider::Customer);
    assert_eq!(*watch.borrow_and_update(), KeyState::Active);
    sleep(SECOND).await;
    world.key(accounts[1]).await.unwrap();
    assert!(!key.still_usable());
    assert_eq!(*watch.borrow_and_update(), KeyState::Cold);
    let before = world.customer.unwraps();
    let again = handle.sealing_key().await.unwrap();
    assert_eq!(world.customer.unwraps() - before, 1);
    assert_eq!(again.scope(), key.scope());
}

#[tokio::test(start_paused = true)]
async fn keys_in_grace_go_last_and_are_given_up_only_when_there_is_nothing_else() {
    let world = world(6);
    let accounts = accounts(&world, 10).await;
    // Three accounts under a KEK that fails: each also holds its service key.
    for &account in &accounts[..3] {
        world.rewrap(account, 2).await;
        world.key(account).await.unwrap();
    }
    world.customer.answer_for(&kek(2), Some(Answer::Fail(Kind::Unavailable)));
    for _ in 0..100 {
        for &account in &accounts[..3] {
            world.key(account).await.unwrap();
        }
        sleep(SECOND).await;
    }
    for &account in &accounts[..3] {
        assert_eq!(world.state(account), KeyState::Grace);
    }
    // Used later than those, and yet they go first.
    for &account in accounts[3..].iter().cycle().take(30) {
        sleep(SECOND).await;
        world.key(account).await.unwrap();
        assert!(world.keyring.held_keys() <= 6);
    }
    for &account in &accounts[..3] {
        assert_eq!(world.state(account), KeyState::Grace);
        world.key(account).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn with_every_key_in_grace_another_account_is_served_still() {
    let world = world(2);
    let accounts = accounts(&world, 3).await;
    for &account in &accounts[..2] {
        world.rewrap(account, 2).await;
    }
    world.key(accounts[0]).await.unwrap();
    world.customer.answer_for(&kek(2), Some(Answer::Fail(Kind::Unavailable)));
    world.service.answer(Answer::Fail(Kind::Unavailable));
    for _ in 0..100 {
        world.key(accounts[0]).await.unwrap();
        sleep(SECOND).await;
        use_service_key(&world, accounts[0]).await;
    }
    assert_eq!(world.keyring.status(accounts[0], Provider::Service).state, KeyState::Grace);
    world.service.answer(Answer::Work);
    let mut events = world.keyring.subscribe();
    use_service_key(&world, accounts[2]).await;
    assert_eq!(displaced(&mut events).len(), 1);
    // The customer's key of the first account was used a moment before its service key: it went. Its vault
    // fails still, so it can't be had again: an outage, for which writes may wait.
    let refused = world.key(accounts[0]).await.unwrap_err();
    assert!(refused.is_outage(), "{refused}");
}

#[derive(Clone, Debug)]
enum Do {
    Use(usize),
    UseService(usize),
    Pass(u64),
    Fails(u32, bool),
    Denies(u32, bool),
    Forget(usize),
}

fn doings() -> impl Strategy<Value = Do> {
    prop_oneof![
        8 => (0..12_usize).prop_map(Do::Use),
        3 => (0..12_usize).prop_map(Do::UseService),
        4 => (1..90_u64).prop_map(Do::Pass),
        1 => (1..=3_u32, any::<bool>()).prop_map(|(kek, fails)| Do::Fails(kek, fails)),
        1 => (1..=3_u32, any::<bool>()).prop_map(|(kek, denies)| Do::Denies(kek, denies)),
        1 => (0..12_usize).prop_map(Do::Forget),
    ]
}

/// How many keys there are in each state, with their services' own.
fn states(world: &World, accounts: &[AccountId]) -> BTreeMap<&'static str, usize> {
    let mut states = BTreeMap::new();
    for &account in accounts {
        for provider in [Provider::Customer, Provider::Service] {
            let status = world.keyring.status(account, provider);
            let is_sound = status.state == KeyState::Active && status.last_failure.is_none();
            *states.entry(if is_sound { "sound" } else { status.state.name() }).or_default() += 1;
        }
    }
    states
}

async fn check(max_keys: usize, doings: &[Do]) -> Result<(), String> {
    let world = world(max_keys);
    let accounts = accounts(&world, 12).await;
    for (n, &account) in accounts.iter().enumerate() {
        world.rewrap(account, 1 + n as u32 % 3).await;
    }
    let mut events = world.keyring.subscribe();
    for doing in doings {
        let before = states(&world, &accounts);
        match *doing {
            Do::Use(n) => drop(world.key(accounts[n]).await),
            Do::UseService(n) => drop(world.keyring.sealing_key(accounts[n], Provider::Service).await),
            Do::Pass(seconds) => sleep(Duration::from_secs(seconds)).await,
            Do::Fails(of, fails) => {
                world.customer.answer_for(&kek(of), fails.then_some(Answer::Fail(Kind::Unavailable)));
            }
            Do::Denies(of, denies) => {
                world.customer.answer_for(&kek(of), denies.then_some(Answer::Fail(Kind::AccessDenied)));
            }
            Do::Forget(n) => world.keyring.forget(accounts[n]),
        }
        let held = world.keyring.held_keys();
        let after = states(&world, &accounts);
        let serving = ["sound", "active", "grace"].iter().filter_map(|s| after.get(s)).sum::<usize>();
        if held > max_keys || serving > max_keys {
            return Err(format!("{held} keys are held, {serving} serve, after {doing:?}"));
        }
        let gone = displaced(&mut events);
        let lost = gone.iter().any(|(.., from)| *from == KeyState::Grace);
        // While time passes, keys that were sound before may not be any longer.
        if lost && !matches!(doing, Do::Pass(_)) && before.contains_key("sound") {
            return Err(format!("{gone:?} went before the keys that could be had again: {before:?}"));
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(scale(32, 2_000)) })]

    #[test]
    fn never_more_keys_than_room_and_those_in_grace_go_last(
        max_keys in 1..10_usize,
        doings in prop::collection::vec(doings(), 1..120),
    ) {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let checked = runtime.block_on(check(max_keys, &doings));
        prop_assert!(checked.is_ok(), "{checked:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_threads_that_need_more_keys_than_there_is_room_for_are_all_served() {
    for max_keys in [1, 3, 16] {
        let world = world(max_keys);
        let accounts = accounts(&world, 24).await;
        let tasks: Vec<_> = (0..8)
            .map(|thread| {
                let (keyring, accounts) = (world.keyring.clone(), accounts.clone());
                tokio::spawn(async move {
                    for round in 0..300 {
                        let account = accounts[(round * 7 + thread * 3) % accounts.len()];
                        let key = keyring.sealing_key(account, Provider::Customer).await.unwrap();
                        assert_eq!(key.scope().account, account);
                        assert!(keyring.held_keys() <= max_keys);
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        world.keyring.close().await;
        assert_eq!(world.keyring.held_keys(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn with_one_seat_for_many_every_call_to_a_vault_serves_somebody() {
    let world = world(1);
    let accounts = accounts(&world, 20).await;
    let (customer, service) = (world.customer.unwraps(), world.service.unwraps());
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
    // Nobody's key is displaced before who waits for it has it.
    assert_eq!((world.customer.unwraps() - customer, world.service.unwraps() - service), (20, 20));
    // An epoch that the record lacks is looked for, which needs the service key.
    let opened = world.keyring.opening_key(accounts[0], Provider::Customer, cofferdam_crypto::Epoch::new(9));
    assert!(opened.await.is_err());
}
