//! All users of a vault keep within its budget together, each in turn.

use std::{
    num::NonZeroU32,
    sync::{Arc, Mutex},
    time::Duration,
};

use cofferdam_vault::{
    KeyVault, VaultBudget, VaultErrorKind as Kind,
    layers::{Budget, CallBudget},
    testing::{Answer, KINDS, ScriptedVault},
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::time::{Instant, sleep, timeout};

use crate::asked::{MS, SECOND, ask_all, kek, vault};

fn budget_of(calls: u32) -> CallBudget {
    let calls = NonZeroU32::new(calls).unwrap();
    CallBudget::new(VaultBudget::default().with_budget(calls).unwrap())
}

/// The most calls that any window of 10 s holds, both its ends included.
fn most_within_a_window(vault: &ScriptedVault) -> usize {
    let sent: Vec<Instant> = vault.calls().iter().map(|call| call.sent).collect();
    let within =
        |from: usize| sent[from..].iter().take_while(|&&at| at - sent[from] <= VaultBudget::PER).count();
    (0..sent.len()).map(within).max().unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn stacks_that_share_a_budget_keep_within_it_together_and_in_the_order_of_coming() {
    for seed in 0..60 {
        let mut random = StdRng::seed_from_u64(seed);
        let allowed = 1 + random.next_u32() % 12;
        let (budget, vault) = (budget_of(allowed), vault());
        vault.set_latency_range(Duration::ZERO..=2 * SECOND);
        let stacks: Vec<_> = (0..3).map(|_| Arc::new(Budget::new(vault.clone(), budget.clone()))).collect();
        let served = Arc::new(Mutex::new(Vec::new()));
        let mut callers = Vec::new();
        for n in 0..40_u32 {
            sleep((random.next_u32() % 900) * MS).await;
            let stack = stacks[random.next_u32() as usize % stacks.len()].clone();
            let served = served.clone();
            // Some give up while they wait, or while the vault does.
            let patience = if random.next_u32() % 4 == 0 { random.next_u32() % 4_000 } else { 10_000_000 };
            callers.push(tokio::spawn(async move {
                let key = kek();
                let asked = async {
                    let asked = stack.key_properties(&key);
                    asked.await.unwrap();
                    served.lock().unwrap().push(n);
                };
                timeout(patience * MS, asked).await.is_ok()
            }));
            tokio::task::yield_now().await;
        }
        let mut ended = 0;
        for caller in callers {
            ended += usize::from(caller.await.unwrap());
        }
        let most = most_within_a_window(&vault);
        assert!(most <= allowed as usize, "seed {seed}: {most} calls, {allowed} are allowed");
        assert!(vault.calls().len() >= ended && ended >= 20, "seed {seed}: {ended} ended");
    }
}

#[tokio::test(start_paused = true)]
async fn who_came_first_is_first_whichever_stack_they_came_by() {
    let (budget, vault) = (budget_of(3), vault());
    let stacks: Vec<_> = (0..5).map(|_| Arc::new(Budget::new(vault.clone(), budget.clone()))).collect();
    let served = Arc::new(Mutex::new(Vec::new()));
    let callers: Vec<_> = (0..50_usize)
        .map(|n| {
            let (stack, served) = (stacks[n * 3 % 5].clone(), served.clone());
            tokio::spawn(async move {
                stack.key_properties(&kek()).await.unwrap();
                served.lock().unwrap().push(n);
            })
        })
        .collect();
    let began = Instant::now();
    for caller in callers {
        caller.await.unwrap();
    }
    assert!(served.lock().unwrap().iter().copied().eq(0..50));
    assert_eq!(most_within_a_window(&vault), 3);
    // 3 at once, and 3 more every 10 s: nothing is lost.
    let took = began.elapsed();
    assert!((160 * SECOND..160 * SECOND + 100 * MS).contains(&took), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn who_gives_up_while_waiting_takes_no_turn() {
    let (budget, vault) = (budget_of(1), vault());
    let stack = Budget::new(vault.clone(), budget);
    stack.key_properties(&kek()).await.unwrap();
    for _ in 0..20 {
        assert!(timeout(100 * MS, stack.key_properties(&kek())).await.is_err());
    }
    let came = Instant::now();
    stack.key_properties(&kek()).await.unwrap();
    assert!(came.elapsed() <= 8 * SECOND + 10 * MS, "{:?}", came.elapsed());
    assert_eq!(vault.calls().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn every_method_takes_a_turn_and_every_answer_is_passed_on() {
    let (budget, vault) = (budget_of(4 * 10), vault());
    let stack = Budget::new(vault.clone(), budget);
    let began = Instant::now();
    for kind in KINDS {
        vault.answer(Answer::Fail(kind));
        for failed in ask_all(&stack).await {
            assert_eq!(failed.unwrap_err().kind(), kind);
        }
    }
    assert_eq!(began.elapsed(), Duration::ZERO);
    let late = stack.key_properties(&kek()).await.unwrap_err();
    assert_eq!(late.kind(), Kind::Other);
    assert!(began.elapsed() >= VaultBudget::PER, "forty turns were taken");
}
