//! Defects of accounts with several KEKs or epochs that are planted on purpose are found. Compiled only with
//! `RUSTFLAGS="--cfg cofferdam_planted"`.
#![cfg(cofferdam_planted)]

use std::{collections::BTreeSet, time::Duration};

use cofferdam_crypto::{
    AccountId, Aek, Epoch, KeyScope, Provider, WrappedAek,
    planted::{Bug, plant},
};
use cofferdam_keyring::{KeyState, Policy};
use cofferdam_vault::{VaultBudget, VaultErrorKind as Kind, testing::Answer};
use tokio::time::{Instant, sleep, sleep_until};

use crate::common::{MS, SECOND, World};

const HOUR: Duration = Duration::from_secs(3600);
const BRIDGE: Duration = HOUR;

/// What a run found wrong, in words.
type Wrong = BTreeSet<&'static str>;

async fn two() -> (World, AccountId) {
    let policy = Policy::default().with_max_bridge(BRIDGE).unwrap();
    let world = World::several(2, policy, VaultBudget::default());
    let account = world.account(1).await;
    world.wrap_under(account, &[(0, 1), (1, 1)]).await;
    world.key(account).await.unwrap();
    (world, account)
}

async fn use_until(world: &World, account: AccountId, end: Instant) {
    while Instant::now() + 10 * SECOND < end {
        let _ = world.key(account).await;
        sleep(10 * SECOND).await;
    }
    sleep_until(end).await;
}

/// A KEK is away for longer than it may be bridged, and the process starts anew in between.
async fn outage(restarts: bool) -> Wrong {
    let mut wrong = Wrong::new();
    let (mut world, account) = two().await;
    world.vault(1).answer(Answer::Fail(Kind::Unavailable));
    // The first attempt that finds it so begins within the refresh.
    let latest = Instant::now() + 31 * SECOND;
    use_until(&world, account, latest + BRIDGE / 2).await;
    if world.key(account).await.is_err() {
        wrong.insert("an outage of one KEK is not bridged");
    }
    if restarts {
        world.restart();
    }
    use_until(&world, account, latest + BRIDGE + MS).await;
    if world.key(account).await.is_ok() {
        wrong.insert("a KEK is bridged for longer than it may be");
    }
    wrong
}

async fn denial() -> Wrong {
    let mut wrong = Wrong::new();
    let (world, account) = two().await;
    world.vault(1).answer(Answer::Fail(Kind::AccessDenied));
    use_until(&world, account, Instant::now() + 60 * SECOND).await;
    if world.key(account).await.is_ok() || world.state(account) != KeyState::Revoked {
        wrong.insert("a denial by one KEK is no revocation");
    }
    wrong
}

async fn forged_epoch() -> Wrong {
    let mut wrong = Wrong::new();
    let world = World::new();
    let account = world.account(1).await;
    let theirs = Aek::try_from_fn(|aek| {
        aek.fill(0x66);
        Ok::<_, std::convert::Infallible>(())
    })
    .unwrap();
    let scope = KeyScope { account, epoch: Epoch::new(2), provider: Provider::Customer };
    let wraps = world.wrap(&world.keks(account), &theirs, scope).await;
    world.records.change(account, |record| record.epochs.push(WrappedAek::new(&theirs, scope, wraps)));
    if world.key(account).await.is_ok_and(|key| key.scope().epoch == Epoch::new(2)) {
        wrong.insert("a forged epoch is sealed under");
    }
    wrong
}

async fn rotation() -> Wrong {
    let mut wrong = Wrong::new();
    let world = World::new();
    let account = world.account(1).await;
    world.key(account).await.unwrap();
    world.add_epoch(account, 2).await;
    world.keyring.reload(account).await.unwrap();
    if world.key(account).await.unwrap().scope().epoch != Epoch::new(2) {
        wrong.insert("an epoch that is no longer the newest is sealed under after a reload");
    }
    wrong
}

fn find(bug: Option<Bug>) -> Wrong {
    plant(bug);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let wrong = runtime.block_on(async {
        let mut wrong = outage(false).await;
        wrong.extend(outage(true).await);
        wrong.extend(denial().await);
        wrong.extend(forged_epoch().await);
        wrong.extend(rotation().await);
        wrong
    });
    plant(None);
    wrong
}

#[test]
fn every_planted_defect_of_several_keks_and_epochs_is_found_and_none_where_none_is_planted() {
    assert_eq!(find(None), Wrong::new());
    for &bug in Bug::OF_SEVERAL_KEKS {
        let wrong = find(Some(bug));
        println!("{:<28} found: {wrong:?}", bug.name());
        assert!(!wrong.is_empty(), "{} is not found", bug.name());
    }
}
