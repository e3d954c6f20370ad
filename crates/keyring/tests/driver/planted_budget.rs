//! Defects of a vault's rations that are planted on purpose are found. Compiled only with
//! `RUSTFLAGS="--cfg cofferdam_planted"`.
#![cfg(cofferdam_planted)]

use std::{collections::BTreeSet, num::NonZeroU32, time::Duration};

use cofferdam_crypto::{
    Provider,
    planted::{Bug, plant},
};
use cofferdam_keyring::{KeyState, Policy};
use cofferdam_vault::{Clock as _, VaultBudget, VaultErrorKind as Kind, testing::Answer};
use tokio::time::{Instant, sleep};

use crate::common::{MS, SECOND, World};

/// What a vault that throttles asks for.
const PAUSE: Duration = Duration::from_secs(9);

/// What a run found wrong, in words.
type Wrong = BTreeSet<&'static str>;

/// So many accounts in use on a vault of 20 calls within 10 s, with a budget of 10; `throttled`: one call is.
async fn run(accounts: usize, most: usize, throttled: bool) -> Wrong {
    let budget = VaultBudget::of_limit(NonZeroU32::new(20).unwrap());
    let world = World::budgeted(Policy::default(), budget);
    let mut ids = Vec::new();
    for _ in 0..accounts {
        ids.push(world.account(1).await);
    }
    world.customer.set_latency(50 * MS);
    world.forget_calls();
    let end = Instant::now() + 400 * SECOND;
    let callers: Vec<_> = ids
        .into_iter()
        .map(|account| {
            let (keyring, clock) = (world.keyring.clone(), world.clock.clone());
            tokio::spawn(async move {
                let mut wrong = Wrong::new();
                while Instant::now() < end {
                    let key = keyring.sealing_key(account, Provider::Customer).await;
                    let status = keyring.status(account, Provider::Customer);
                    if key.is_err() {
                        wrong.insert("a caller is refused");
                    } else if status.state == KeyState::Grace {
                        wrong.insert("a key is in Grace");
                    } else if clock.now().since(&status.verified_at.unwrap()) >= 65 * SECOND {
                        wrong.insert("a key is used past the ceiling");
                    }
                    sleep(SECOND).await;
                }
                wrong
            })
        })
        .collect();
    let mut wrong = Wrong::new();
    if throttled {
        sleep(100 * SECOND).await;
        let retry_after = Some(PAUSE);
        world.customer.answer_next([Answer::Fail(Kind::Throttled { retry_after })]);
    }
    for caller in callers {
        let found = caller.await.unwrap();
        // A vault that throttles opens Grace.
        wrong.extend(found.into_iter().filter(|_| !throttled));
    }
    let calls = world.customer.calls();
    let within =
        |from: Instant| calls.iter().filter(|c| c.sent >= from && c.sent - from <= VaultBudget::PER).count();
    if calls.iter().any(|call| within(call.sent) > most) {
        wrong.insert("more calls within 10 s than are allowed");
    }
    for (n, call) in calls.iter().enumerate().filter(|(_, call)| call.is_throttled()) {
        let answered = call.ended.unwrap().0;
        if calls[n + 1..].iter().any(|c| c.sent > answered && c.sent < answered + PAUSE) {
            wrong.insert("a vault is called before the time that it named");
        }
    }
    wrong
}

fn find(bug: Option<Bug>) -> Wrong {
    plant(bug);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let wrong = runtime.block_on(async {
        let mut wrong = run(50, 10, false).await;
        // Few: what is left suffices, so that no refresh is put off for that.
        wrong.extend(run(10, 10, true).await);
        wrong.extend(run(200, 20, false).await);
        wrong
    });
    plant(None);
    wrong
}

#[test]
fn every_planted_defect_of_the_rations_is_found_and_none_where_none_is_planted() {
    assert_eq!(find(None), Wrong::new());
    for &bug in Bug::OF_BUDGETS {
        let wrong = find(Some(bug));
        println!("{:<28} found: {wrong:?}", bug.name());
        assert!(!wrong.is_empty(), "{} is not found", bug.name());
    }
}
