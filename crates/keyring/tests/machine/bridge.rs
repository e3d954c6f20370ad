//! What several KEKs' answers mean, held to the promises in plain words.

use proptest::prelude::*;

use super::*;

const SOME_TIME: u64 = 200_000;

/// Before [`now`], or at it. The clocks disagree by hours: one was set.
fn earlier() -> impl Strategy<Value = Timestamp> {
    (0..100_000_u64, 0..100_000_u64).prop_map(|(boot, wall)| Timestamp {
        boot: Duration::from_secs(SOME_TIME - boot),
        wall: Duration::from_secs(10 * SOME_TIME - wall),
    })
}

fn now() -> Timestamp {
    Timestamp { boot: Duration::from_secs(SOME_TIME), wall: Duration::from_secs(10 * SOME_TIME) }
}

fn kek() -> impl Strategy<Value = KekFound> {
    let denied = prop::bool::weighted(0.1);
    (prop::option::of(earlier()), prop::option::of(earlier()), denied)
        .prop_map(|(out, since, denied)| KekFound { out, since, denied })
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(if is_full() { 200_000 } else { 5_000 })
    })]

    #[test]
    fn a_bridge_is_what_was_promised_whatever_is_found(
        keks in prop::collection::vec(kek(), 1..=4),
        doubted in prop::bool::weighted(0.2),
        max in 0..=86_400_u64,
    ) {
        let policy = Policy::default().with_max_bridge(Duration::from_secs(max)).unwrap();
        let out: Vec<(usize, &KekFound)> = keks.iter().enumerate().filter(|(_, kek)| kek.out.is_some()).collect();
        let age = |kek: &KekFound| now().since(&kek.since.or(kek.out).unwrap());
        let too_long = |kek: &KekFound| age(kek) >= policy.max_bridge();
        match bridging(&keks, doubted, now(), &policy) {
            Bridging::Whole => prop_assert!(out.is_empty()),
            Bridging::Bridged { until } => {
                prop_assert!(out.len() < keks.len(), "somebody answers");
                for (_, kek) in out {
                    prop_assert!(kek.since.is_some(), "it is persisted");
                    prop_assert!(!kek.denied && !too_long(kek));
                    let left = until.boot.saturating_sub(now().boot).min(until.wall.saturating_sub(now().wall));
                    prop_assert!(left <= policy.max_bridge() - age(kek), "{left:?}");
                    prop_assert!(!left.is_zero());
                }
            }
            Bridging::Begins(begins) => {
                prop_assert!(out.len() < keks.len() && !doubted, "none begins while a denial stands");
                let new: Vec<usize> = out.iter().filter(|(_, kek)| kek.since.is_none()).map(|(at, _)| *at).collect();
                prop_assert_eq!(begins, new);
                prop_assert!(out.iter().all(|(_, kek)| !kek.denied && !too_long(kek)));
            }
            Bridging::Broken { kek: at, too_long: is_too_long } => {
                let kek = keks[at];
                prop_assert!(kek.out.is_some());
                let none_answers = out.len() == keks.len();
                let forbidden = kek.denied || (doubted && kek.since.is_none());
                prop_assert!(none_answers || forbidden || too_long(&kek), "{kek:?}");
                prop_assert!(!is_too_long || too_long(&kek));
            }
        }
    }
}
