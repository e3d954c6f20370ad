//! The keys of a write-only buffer's segments: one call for all who wait, nothing unverified, gone with the account's key.

use std::sync::Arc;

use cofferdam_crypto::{
    AccountId, Aek, BlockId, Epoch, KeyScope, PageSize, Provider, Sealer, SegmentId, Version, WrappedAek,
};
use cofferdam_keyring::{Fault, KeyError, KeyState, Policy};
use cofferdam_vault::{KeyVault, VaultBudget, VaultErrorKind, WrapContext, testing::Answer};
use tokio::time::{Instant, sleep};

use crate::common::{SECOND, World, kek};

fn aek(n: u8) -> Aek {
    Aek::try_from_fn(|aek| {
        aek.fill(n);
        Ok::<_, std::convert::Infallible>(())
    })
    .unwrap()
}

fn id(n: u8) -> SegmentId {
    SegmentId::from_bytes([n; 16])
}

fn scope(account: AccountId, n: u8) -> KeyScope {
    KeyScope { account, epoch: Epoch::FIRST, provider: Provider::Buffer(id(n)) }
}

/// Segment `n`, wrapped by the first KEK.
async fn segment(world: &World, account: AccountId, n: u8) -> WrappedAek {
    let scope = scope(account, n);
    let wrap = world.customer.wrap_key(&kek(1), &aek(n), &WrapContext { scope }).await.unwrap();
    WrappedAek::new(&aek(n), scope, vec![wrap])
}

/// Which failure of the vault it was.
fn kind(error: KeyError) -> VaultErrorKind {
    match error {
        KeyError::Unavailable { fault: Fault::Vault { kind, .. }, .. } => kind,
        other => panic!("{other}"),
    }
}

#[tokio::test(start_paused = true)]
async fn all_who_ask_at_the_same_time_share_one_call_and_later_ones_need_none() {
    let world = World::new();
    let account = world.account(1).await;
    let of = segment(&world, account, 7).await;
    world.key(account).await.unwrap();
    let before = world.customer.unwraps();
    world.customer.set_latency(SECOND);
    let asked: Vec<_> = (0..1000)
        .map(|_| {
            let (keyring, of) = (world.keyring.clone(), of.clone());
            tokio::spawn(async move { keyring.unwrap_segment(&of).await.map(|key| *key.scope()) })
        })
        .collect();
    // The first gives up, and cancels nothing.
    asked[0].abort();
    for answer in asked.into_iter().skip(1) {
        assert_eq!(answer.await.unwrap().unwrap(), of.scope);
    }
    assert_eq!(world.customer.unwraps() - before, 1);
    let kept = world.keyring.kept_segment(account, id(7)).await.unwrap().unwrap();
    assert_eq!(world.customer.unwraps() - before, 1);
    assert!(world.keyring.kept_segment(account, id(8)).await.unwrap().is_none());

    // It opens what was sealed for the segment.
    let block = BlockId::new("block").unwrap();
    let at = block.at(Version::new(3));
    let sealed =
        Sealer::new(&aek(7), of.scope).seal(at, PageSize::MIN, b"waited", world.keyring.salts()).unwrap();
    assert_eq!(kept.open(at, &sealed).unwrap(), b"waited");
}

#[tokio::test(start_paused = true)]
async fn a_segments_key_goes_with_its_accounts_and_is_asked_for_anew() {
    let world = World::new();
    let account = world.account(1).await;
    let of = segment(&world, account, 7).await;
    let live = world.keyring.unwrap_segment(&of).await.unwrap();
    assert!(live.still_usable());
    world.customer.answer(Answer::Fail(VaultErrorKind::AccessDenied));
    sleep(70 * SECOND).await;
    assert!(world.key(account).await.is_err());
    assert_eq!(world.state(account), KeyState::Revoked);
    assert!(!live.still_usable());
    assert!(matches!(world.keyring.unwrap_segment(&of).await, Err(KeyError::Revoked { .. })));
    assert!(matches!(world.keyring.kept_segment(account, id(7)).await, Err(KeyError::Revoked { .. })));
    world.customer.answer(Answer::Work);
    sleep(40 * SECOND).await;
    world.key(account).await.unwrap();
    assert!(world.keyring.kept_segment(account, id(7)).await.unwrap().is_none(), "it was wiped");
    world.keyring.unwrap_segment(&of).await.unwrap();
    world.keyring.close().await;
    assert!(matches!(world.keyring.unwrap_segment(&of).await, Err(KeyError::Closed)));
}

#[tokio::test(start_paused = true)]
async fn what_is_not_the_segments_key_is_not_served() {
    let world = World::new();
    let account = world.account(1).await;
    let of = segment(&world, account, 7).await;
    let wrong = [
        ("another key", WrappedAek { wraps: segment(&world, account, 8).await.wraps, ..of.clone() }),
        ("another segment", WrappedAek { scope: scope(account, 9), ..of.clone() }),
        ("no wrap", WrappedAek { wraps: Vec::new(), ..of.clone() }),
    ];
    for (what, of) in wrong {
        assert_eq!(
            kind(world.keyring.unwrap_segment(&of).await.unwrap_err()),
            VaultErrorKind::Corrupt,
            "{what}"
        );
        let segment = of.scope.provider.segment().unwrap();
        assert!(world.keyring.kept_segment(account, segment).await.unwrap().is_none(), "{what}");
    }
    let not_one = WrappedAek { scope: KeyScope { provider: Provider::Customer, ..of.scope }, ..of };
    assert!(matches!(world.keyring.unwrap_segment(&not_one).await, Err(KeyError::UnknownEpoch(_))));
}

#[cfg(cofferdam_planted)]
#[tokio::test(start_paused = true)]
async fn another_key_is_served_where_check_values_are_not_looked_at() {
    use cofferdam_crypto::planted::{Bug, plant};
    let world = World::new();
    let account = world.account(1).await;
    let of = segment(&world, account, 7).await;
    let other = WrappedAek { wraps: segment(&world, account, 8).await.wraps, ..of };
    plant(Some(Bug::SegmentCheckIgnored));
    assert!(world.keyring.unwrap_segment(&other).await.is_ok());
    plant(None);
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_told_within_a_time_out_and_leaves_the_accounts_key_as_it_is() {
    let world = World::new();
    let account = world.account(1).await;
    let of = segment(&world, account, 7).await;
    world.key(account).await.unwrap();
    world.customer.answer(Answer::Hang);
    let began = Instant::now();
    assert_eq!(kind(world.keyring.unwrap_segment(&of).await.unwrap_err()), VaultErrorKind::Unavailable);
    assert_eq!(began.elapsed(), world.policy.call_timeout());
    assert_eq!(world.state(account), KeyState::Active);
    world.customer.answer(Answer::Work);
    world.keyring.unwrap_segment(&of).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_denial_has_the_accounts_key_asked_for_at_once() {
    let world = World::new();
    let account = world.account(1).await;
    let of = segment(&world, account, 7).await;
    world.key(account).await.unwrap();
    // The account is denied, and would be asked for in half a minute.
    world.customer.answer_account(account, Some(Answer::Fail(VaultErrorKind::KeyDisabled)));
    assert_eq!(kind(world.keyring.unwrap_segment(&of).await.unwrap_err()), VaultErrorKind::KeyDisabled);
    sleep(SECOND).await;
    assert_eq!(world.state(account), KeyState::Revoked);
}

#[tokio::test(start_paused = true)]
async fn a_vault_is_asked_for_segments_no_oftener_than_its_budget_allows() {
    let budget = VaultBudget::of_limit(20.try_into().unwrap());
    let world = World::budgeted(Policy::default(), budget);
    let account = world.account(1).await;
    let mut asked = Vec::new();
    for n in 0..60 {
        let of = segment(&world, account, n).await;
        asked.push(of);
    }
    world.forget_calls();
    let keyring = Arc::new(world.keyring.clone());
    let began = Instant::now();
    let waiting: Vec<_> = asked
        .into_iter()
        .map(|of| {
            let keyring = keyring.clone();
            tokio::spawn(async move { keyring.unwrap_segment(&of).await.is_ok() })
        })
        .collect();
    for answer in waiting {
        assert!(answer.await.unwrap());
    }
    assert!(began.elapsed() >= 40 * SECOND, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_segment_under_several_keks_is_unwrapped_by_the_first_that_answers_each_in_its_own_vault() {
    let world = World::several(2, Policy::default(), VaultBudget::default());
    let account = world.account(1).await;
    world.wrap_under(account, &[(0, 1), (1, 1)]).await;
    world.key(account).await.unwrap();
    let wraps = world.wrap(&world.keks(account), &aek(7), scope(account, 7)).await;
    let of = WrappedAek::new(&aek(7), scope(account, 7), wraps);
    world.vault(0).answer(Answer::Fail(VaultErrorKind::Unavailable));
    let before = world.vault(1).unwraps();
    world.keyring.unwrap_segment(&of).await.unwrap();
    assert_eq!(world.vault(1).unwraps() - before, 1);
    // A denial is not asked around.
    world.vault(0).answer(Answer::Work);
    let wraps = world.wrap(&world.keks(account), &aek(8), scope(account, 8)).await;
    let of = WrappedAek::new(&aek(8), scope(account, 8), wraps);
    world.vault(0).answer(Answer::Fail(VaultErrorKind::AccessDenied));
    let before = world.vault(1).unwraps();
    assert_eq!(kind(world.keyring.unwrap_segment(&of).await.unwrap_err()), VaultErrorKind::AccessDenied);
    assert_eq!(world.vault(1).unwraps(), before);
}
