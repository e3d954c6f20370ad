//! A call is bounded, and tried again after an outage alone.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use cofferdam_crypto::EntropyError;
use cofferdam_vault::{
    Entropy, KeyVault, VaultErrorKind as Kind,
    layers::{Retry, RetryPolicy, Timeout},
    testing::{Answer, KINDS, ScriptedVault, SeededEntropy},
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::time::Instant;

use crate::asked::{MS, SECOND, ask_all, kek, vault};

#[tokio::test(start_paused = true)]
async fn a_vault_that_hangs_is_an_outage_at_the_limit() {
    let vault = vault();
    vault.answer(Answer::Hang);
    let bounded = Timeout::new(vault.clone(), 3 * SECOND);
    for failed in ask_all(&bounded).await {
        let failed = failed.unwrap_err();
        assert_eq!((failed.kind(), failed.key_id()), (Kind::Unavailable, Some(&kek())));
        assert!(failed.to_string().contains("did not answer within 3s"), "{failed}");
    }
    let calls = vault.calls();
    assert_eq!(calls.len(), 4, "every method is bounded");
    for call in calls {
        let took = call.ended.unwrap().0 - call.sent;
        assert!((3 * SECOND..=3 * SECOND + 2 * MS).contains(&took), "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_bound_passes_every_answer_on() {
    let vault = vault();
    let bounded = Timeout::new(vault.clone(), 3 * SECOND);
    for kind in KINDS {
        vault.answer(Answer::Fail(kind));
        for failed in ask_all(&bounded).await {
            assert_eq!(failed.unwrap_err().kind(), kind);
        }
    }
}

fn retrying(vault: &Arc<ScriptedVault>, policy: RetryPolicy, seed: u64) -> Retry<Arc<ScriptedVault>> {
    Retry::new(vault.clone(), policy, Arc::new(SeededEntropy::new(seed)))
}

fn is_tried_again(kind: Kind, policy_retry_after: Duration) -> bool {
    match kind {
        Kind::Unavailable | Kind::Unauthenticated => true,
        Kind::Throttled { retry_after } => retry_after.unwrap_or_default() <= policy_retry_after,
        _ => false,
    }
}

#[tokio::test(start_paused = true)]
async fn only_an_outage_that_another_try_may_mend_is_tried_again() {
    let policy = RetryPolicy::default();
    for kind in KINDS {
        let vault = vault();
        vault.answer(Answer::Fail(kind));
        let retrying = retrying(&vault, policy, 1);
        for failed in ask_all(&retrying).await {
            assert_eq!(failed.unwrap_err().kind(), kind, "the vault's own answer is passed on");
        }
        let tries = if is_tried_again(kind, 5 * SECOND) { 4 } else { 1 };
        assert_eq!(vault.calls().len(), 4 * tries, "{kind:?}, four methods");
    }
}

#[tokio::test(start_paused = true)]
async fn a_denial_after_outages_is_passed_on_at_once() {
    for kind in [Kind::AccessDenied, Kind::KeyDisabled, Kind::KeyNotFound, Kind::Untrusted, Kind::Corrupt] {
        let vault = vault();
        vault.answer(Answer::Fail(kind));
        vault.answer_next([Answer::Fail(Kind::Unavailable), Answer::Fail(Kind::Unavailable)]);
        let failed = retrying(&vault, RetryPolicy::default(), 1).key_properties(&kek()).await.unwrap_err();
        assert_eq!((failed.kind(), vault.calls().len()), (kind, 3));
    }
}

/// Any script, any policy: against what the policy says.
#[tokio::test(start_paused = true)]
async fn tries_and_time_are_bounded_and_no_time_that_a_vault_names_is_passed_over() {
    let (mut tried_again, mut cut_short) = (0, 0);
    for seed in 0..2_000 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut draw = |n: u32| random.next_u32() % n;
        let vault = vault();
        vault.set_latency_range(Duration::ZERO..=(1 + draw(800)) * MS);
        let answers: Vec<Answer> = (0..10)
            .map(|_| match draw(14) {
                0 => Answer::Work,
                1 => Answer::Hang,
                2 => Answer::Fail(Kind::Throttled { retry_after: Some(draw(6_000) * MS) }),
                3..8 => Answer::Fail(Kind::Unavailable),
                _ => Answer::Fail(KINDS[draw(10) as usize]),
            })
            .collect();
        vault.answer_next(answers.clone());
        let tries = 1 + draw(6);
        let (first, longest) = ((1 + draw(400)) * MS, (1 + draw(2_000)) * MS);
        let (retry_after, total) = (draw(5_000) * MS, (500 + draw(10_000)) * MS);
        let policy = RetryPolicy::default()
            .with_tries(NonZeroU32::new(tries).unwrap())
            .with_waits(first, longest)
            .with_retry_after(retry_after)
            .with_total(total);
        let began = Instant::now();
        let answer = retrying(&vault, policy, seed).key_properties(&kek()).await;
        let took = began.elapsed();
        assert!(took <= total + 2 * MS, "seed {seed}: {took:?} of {total:?}");
        let calls = vault.calls();
        assert!((1..=tries as usize).contains(&calls.len()), "seed {seed}");
        for (n, pair) in calls.windows(2).enumerate() {
            tried_again += 1;
            let Answer::Fail(kind) = answers[n] else {
                panic!("seed {seed}: asked again after {:?}", answers[n])
            };
            assert!(is_tried_again(kind, retry_after), "seed {seed}: asked again after {kind:?}");
            let waited = pair[1].sent - pair[0].ended.unwrap().0;
            let whole = (first * 2_u32.pow(u32::try_from(n).unwrap())).min(longest);
            let named = match kind {
                Kind::Throttled { retry_after } => retry_after.unwrap_or_default(),
                _ => Duration::ZERO,
            };
            // Timers go by the millisecond.
            let bounds = named + whole / 2..=named + whole + 2 * MS;
            assert!(bounds.contains(&waited), "seed {seed}: waited {waited:?}, not {bounds:?}");
        }
        match (answers[calls.len() - 1], answer.as_ref().map_err(|failed| failed.kind())) {
            (Answer::Work, Ok(_)) => {}
            // In the middle of a try.
            (_, Err(Kind::Unavailable)) if took >= total => cut_short += 1,
            (Answer::Fail(last), Err(kind)) => {
                assert_eq!(kind, last, "seed {seed}: the last answer is passed on");
                let more = calls.len() < tries as usize && is_tried_again(kind, retry_after);
                let next = match kind {
                    Kind::Throttled { retry_after } => retry_after.unwrap_or_default(),
                    _ => Duration::ZERO,
                } + longest.min(first * 2_u32.pow(u32::try_from(calls.len() - 1).unwrap()));
                assert!(!more || took + next + 2 * MS >= total, "seed {seed}: given up too early");
            }
            other => panic!("seed {seed}: {other:?}"),
        }
    }
    assert!(tried_again > 1_000 && cut_short > 100, "{tried_again} tries, {cut_short} cut short");
}

#[derive(Debug)]
struct Dry;

impl Entropy for Dry {
    fn fill(&self, _: &mut [u8]) -> Result<(), EntropyError> {
        Err(EntropyError("dry".into()))
    }
}

#[tokio::test(start_paused = true)]
async fn callers_who_fail_together_do_not_come_back_together() {
    let mut waits = Vec::new();
    for seed in 0..200 {
        let vault = vault();
        vault.answer_next([Answer::Fail(Kind::Unavailable)]);
        let policy = RetryPolicy::default().with_waits(SECOND, SECOND);
        retrying(&vault, policy, seed).key_properties(&kek()).await.unwrap();
        let calls = vault.calls();
        waits.push(calls[1].sent - calls[0].sent);
    }
    waits.sort();
    let (least, most) = (waits[0], waits[waits.len() - 1]);
    assert!(least >= SECOND / 2 && most <= SECOND + 2 * MS, "{least:?} to {most:?}");
    waits.dedup();
    assert!(waits.len() > 100 && most - least > 400 * MS, "{} different waits", waits.len());
    // Without randomness it waits for the whole, and works.
    let vault = vault();
    vault.answer_next([Answer::Fail(Kind::Unavailable)]);
    Retry::new(vault.clone(), RetryPolicy::default(), Arc::new(Dry)).key_properties(&kek()).await.unwrap();
    assert_eq!(vault.calls().len(), 2);
}
