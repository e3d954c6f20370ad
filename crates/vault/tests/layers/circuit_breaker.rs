//! A vault that is away is left alone for a moment, and heard again within one refresh.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use cofferdam_vault::{
    KeyVault, VaultErrorKind as Kind,
    layers::{BreakerPolicy, CircuitBreaker},
    testing::{Answer, KINDS, ScriptedVault},
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::time::{Instant, sleep, timeout};

use crate::asked::{MS, SECOND, ask_all, kek, vault};

type Breaker = CircuitBreaker<Arc<ScriptedVault>>;

/// The shortest time between two refreshes of a key (`Policy::MIN_REFRESH`).
const SHORTEST_REFRESH: Duration = Duration::from_secs(6);

fn breaker() -> (Arc<ScriptedVault>, Arc<Breaker>) {
    let vault = vault();
    (vault.clone(), Arc::new(CircuitBreaker::new(vault, BreakerPolicy::default())))
}

/// What counts.
const OUTAGES: [Kind; 5] = [
    Kind::Unavailable,
    Kind::Throttled { retry_after: None },
    Kind::Throttled { retry_after: Some(Duration::from_secs(7)) },
    Kind::Unauthenticated,
    Kind::Untrusted,
];

async fn kind(breaker: &Breaker) -> Option<Kind> {
    breaker.key_properties(&kek()).await.err().map(|failed| failed.kind())
}

/// Opens it.
async fn open(vault: &ScriptedVault, breaker: &Breaker) {
    vault.answer(Answer::Fail(Kind::Unavailable));
    for _ in 0..5 {
        assert!(!breaker.is_open());
        kind(breaker).await;
    }
    assert!(breaker.is_open());
    vault.forget_calls();
}

#[tokio::test(start_paused = true)]
async fn after_five_outages_in_a_row_nothing_is_sent_until_it_cooled_down() {
    let (vault, breaker) = breaker();
    open(&vault, &breaker).await;
    let opened = Instant::now();
    while opened.elapsed() < 2 * SECOND - MS {
        for failed in ask_all(&*breaker).await {
            let failed = failed.unwrap_err();
            assert_eq!((failed.kind(), failed.key_id()), (Kind::Unavailable, Some(&kek())));
            let text = failed.to_string();
            assert!(text.contains("failed 5 times in a row, last by unavailable"), "{text}");
        }
        sleep(100 * MS).await;
    }
    assert_eq!(vault.calls().len(), 0);
    sleep(MS).await;
    assert_eq!(kind(&breaker).await, Some(Kind::Unavailable));
    assert_eq!((vault.calls().len(), breaker.is_open()), (1, true), "one was let through");
    assert_eq!(kind(&breaker).await, Some(Kind::Unavailable));
    assert_eq!(vault.calls().len(), 1, "it cools down anew");
}

#[tokio::test(start_paused = true)]
async fn one_call_alone_is_let_through_however_many_come() {
    let (vault, breaker) = breaker();
    open(&vault, &breaker).await;
    sleep(2 * SECOND).await;
    vault.set_latency(SECOND);
    vault.answer(Answer::Work);
    let came = Instant::now();
    let callers: Vec<_> = (0..64)
        .map(|_| {
            let breaker = breaker.clone();
            tokio::spawn(async move { (kind(&breaker).await, came.elapsed()) })
        })
        .collect();
    let mut answered = 0;
    for caller in callers {
        match caller.await.unwrap() {
            (None, _) => answered += 1,
            (failed, waited) => {
                assert_eq!((failed, waited), (Some(Kind::Unavailable), Duration::ZERO), "nobody else waits");
            }
        }
    }
    assert_eq!((answered, vault.calls().len()), (1, 1));
    assert_eq!((breaker.is_open(), kind(&breaker).await), (false, None));
}

#[tokio::test(start_paused = true)]
async fn a_denial_is_an_answer_and_closes_it() {
    for denial in [Kind::AccessDenied, Kind::KeyDisabled, Kind::KeyNotFound] {
        let (vault, breaker) = breaker();
        open(&vault, &breaker).await;
        vault.answer(Answer::Fail(denial));
        sleep(2 * SECOND).await;
        for _ in 0..10 {
            assert_eq!(kind(&breaker).await, Some(denial), "each is heard");
        }
        assert_eq!((vault.calls().len(), breaker.is_open()), (10, false));
    }
}

#[tokio::test(start_paused = true)]
async fn what_says_nothing_of_the_vault_neither_opens_it_nor_closes_it() {
    for nothing in [Kind::Corrupt, Kind::Other] {
        let (vault, breaker) = breaker();
        vault.answer(Answer::Fail(nothing));
        for _ in 0..20 {
            assert_eq!(kind(&breaker).await, Some(nothing));
        }
        assert!(!breaker.is_open());
        open(&vault, &breaker).await;
        vault.answer(Answer::Fail(nothing));
        sleep(2 * SECOND).await;
        for _ in 0..3 {
            assert_eq!(kind(&breaker).await, Some(nothing), "the next is let through at once");
        }
        assert!(breaker.is_open());
    }
}

#[tokio::test(start_paused = true)]
async fn every_outage_counts_and_every_answer_begins_the_count_anew() {
    for outage in OUTAGES {
        let (vault, breaker) = breaker();
        for _ in 0..10 {
            vault.answer_next([Answer::Fail(outage); 4]);
            vault.answer_next([Answer::Work]);
            for _ in 0..5 {
                kind(&breaker).await;
            }
        }
        assert!(!breaker.is_open());
        vault.answer_next([Answer::Fail(outage); 5]);
        for _ in 0..5 {
            kind(&breaker).await;
        }
        assert!(breaker.is_open(), "{outage:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_gives_up_while_it_is_tried_leaves_that_to_the_next() {
    let (vault, breaker) = breaker();
    open(&vault, &breaker).await;
    sleep(2 * SECOND).await;
    vault.answer_next([Answer::Hang]);
    assert!(timeout(SECOND, kind(&breaker)).await.is_err());
    vault.answer(Answer::Work);
    assert_eq!(kind(&breaker).await, None);
    assert!(!breaker.is_open());
}

/// Any vault: what a caller hears is what the vault said, or that it is left alone; and what changes is heard in time.
#[tokio::test(start_paused = true)]
async fn a_change_is_heard_within_one_refresh_whatever_came_before() {
    let (mut opened, mut slowest) = (0, Duration::ZERO);
    for seed in 0..400 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut draw = |n: u32| random.next_u32() % n;
        let vault = vault();
        let policy = BreakerPolicy::default()
            .with_outages(NonZeroU32::new(1 + draw(6)).unwrap())
            .with_cool_down(draw(5_001) * MS)
            .unwrap();
        let breaker = CircuitBreaker::new(vault.clone(), policy);
        let mut last_outage = None;
        for _ in 0..draw(60) {
            let said = KINDS[draw(10) as usize];
            vault.answer(if draw(8) == 0 { Answer::Work } else { Answer::Fail(said) });
            let sent = vault.calls().len();
            let answer = kind(&breaker).await;
            if vault.calls().len() == sent {
                assert_eq!(answer, last_outage, "seed {seed}: why it is left alone stays told");
                opened += 1;
            } else if answer.is_some_and(|kind| OUTAGES.contains(&kind)) {
                last_outage = answer;
            }
            sleep(draw(1_500) * MS).await;
        }
        let last = [None, Some(Kind::AccessDenied), Some(Kind::KeyDisabled), Some(Kind::KeyNotFound)]
            [draw(4) as usize];
        vault.answer(last.map_or(Answer::Work, Answer::Fail));
        let changed = Instant::now();
        let every = (1 + draw(900)) * MS;
        while kind(&breaker).await != last {
            sleep(every).await;
        }
        slowest = slowest.max(changed.elapsed());
        assert!(!breaker.is_open());
    }
    assert!(opened > 1_000, "{opened} calls were answered in the vault's place");
    assert!(slowest < SHORTEST_REFRESH, "{slowest:?}");
}

#[test]
fn a_cool_down_that_is_too_long_is_refused() {
    let policy = BreakerPolicy::default();
    assert!(policy.with_cool_down(BreakerPolicy::LONGEST_COOL_DOWN).is_ok());
    let refused = policy.with_cool_down(BreakerPolicy::LONGEST_COOL_DOWN + MS).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "a cool-down of 5.001s keeps a denial from being heard for too long: take 5s or less"
    );
    assert!(BreakerPolicy::LONGEST_COOL_DOWN < SHORTEST_REFRESH);
}
