//! The rations of a vault: every bound, and any order of events.

use std::num::NonZeroU32;

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

fn settings(limit: u32, budget: u32, in_flight: u32) -> VaultBudget {
    let calls = |calls| NonZeroU32::new(calls).unwrap();
    VaultBudget::of_limit(calls(limit)).with_budget(calls(budget)).unwrap().with_in_flight(calls(in_flight))
}

fn budget(limit: u32, budget: u32) -> Budget {
    Budget::new(settings(limit, budget, 4), &Policy::default())
}

fn at(boot: Duration) -> Timestamp {
    Timestamp { boot, wall: 1_795_000_000 * SECOND + boot }
}

/// Sends as much as there is, now.
fn send_all(budget: &mut Budget, kind: Kind, now: Duration) -> usize {
    let mut sent = 0;
    while budget.reserve(kind, true, now).is_ok() {
        budget.send(now);
        budget.end(kind, true);
        sent += 1;
    }
    sent
}

#[test]
fn a_burst_takes_the_whole_budget_and_the_next_comes_when_the_window_has_passed() {
    let mut budget = budget(20, 10);
    let start = 100 * SECOND;
    assert_eq!(send_all(&mut budget, Kind::Held, start), 10);
    let again = start + VaultBudget::PER + Duration::from_nanos(1);
    assert_eq!(budget.reserve(Kind::Held, false, start + 5 * SECOND), Err(Wait::Until(again)));
    assert_eq!(send_all(&mut budget, Kind::Held, start + VaultBudget::PER), 0, "ends of a window are in it");
    assert_eq!(send_all(&mut budget, Kind::Held, again), 10);
}

#[test]
fn refreshes_that_nobody_waits_for_are_sent_evenly() {
    let mut budget = budget(200, 100);
    let sent: Vec<usize> =
        (0..30).map(|n| send_all(&mut budget, Kind::Behind, (100 + n) * SECOND + MS * n)).collect();
    assert!(sent.iter().all(|&sent| sent <= 10), "{sent:?}");
    assert!(sent.iter().sum::<usize>() >= 260, "{sent:?}");
}

#[test]
fn a_turn_that_is_sent_late_counts_from_then_and_one_that_is_given_up_does_not_count() {
    let mut budget = budget(2, 2);
    budget.reserve(Kind::Held, false, 100 * SECOND).unwrap();
    budget.reserve(Kind::Held, false, 100 * SECOND).unwrap();
    assert_eq!(budget.reserve(Kind::Held, false, 109 * SECOND), Err(Wait::ForATurn));
    budget.send(109 * SECOND);
    budget.end(Kind::Held, true);
    budget.end(Kind::Held, false);
    assert_eq!(send_all(&mut budget, Kind::Held, 111 * SECOND), 1);
    assert_eq!(send_all(&mut budget, Kind::Held, 118 * SECOND), 0);
}

#[test]
fn the_refresh_is_stretched_with_the_accounts_in_use_and_never_past_the_ceiling() {
    let mut budget = Budget::new(VaultBudget::default(), &Policy::default());
    for (in_use, pace) in [(0, 30_000), (2_800, 30_000), (4_000, 42_000), (5_800, 60_000), (6_000, 60_000)] {
        budget.in_use = in_use;
        assert_eq!(budget.judge(), None, "{in_use}");
        assert_eq!(budget.pace(), Duration::from_millis(pace), "{in_use}");
        assert_eq!(budget.allowed(), 1_000);
    }
    for (in_use, allowed) in [(6_001, 1_001), (9_000, 1_500), (12_000, 2_000), (20_000, 2_000)] {
        budget.in_use = in_use;
        budget.judge();
        assert_eq!((budget.pace(), budget.allowed()), (60 * SECOND, allowed), "{in_use}");
    }
}

#[test]
fn the_alarm_begins_above_the_budget_and_ends_at_nine_tenths_of_it() {
    let mut budget = Budget::new(VaultBudget::default(), &Policy::default());
    budget.use_by(6_000, 0);
    assert_eq!(budget.judge(), None);
    budget.use_by(1, 0);
    assert_eq!((budget.judge(), budget.judge()), (Some(News::Over), None));
    budget.use_by(0, 600);
    assert_eq!(budget.judge(), None, "5,401 need 901 within 10 s");
    budget.use_by(0, 1);
    assert_eq!((budget.judge(), budget.judge()), (Some(News::Within), None));
}

#[test]
fn a_vault_that_throttles_is_not_called_before_the_time_it_named_and_less_often_after_it() {
    let mut budget = Budget::new(VaultBudget::default(), &Policy::default());
    budget.throttle(at(100 * SECOND), 101 * SECOND, Some(7 * SECOND));
    // What was under way is answered alike.
    budget.throttle(at(100 * SECOND), 101 * SECOND, Some(3 * SECOND));
    assert_eq!(budget.reserve(Kind::Held, true, 108 * SECOND - MS), Err(Wait::Until(108 * SECOND)));
    assert_eq!(send_all(&mut budget, Kind::Held, 108 * SECOND), 700);
    budget.pass(200 * SECOND);
    assert_eq!(budget.allowed(), 1_000);
    assert!(!budget.throttles(35 * SECOND, at(200 * SECOND)));
    budget.use_by(6_000, 0);
    budget.throttle(at(200 * SECOND), 200 * SECOND, None);
    budget.pass(250 * SECOND);
    assert!(budget.throttles(35 * SECOND, at(250 * SECOND)), "what it left is less than is needed still");
    // It goes on: less still. It stops: more again, little by little.
    assert_eq!(budget.allowed(), 900);
    budget.throttle(at(250 * SECOND), 251 * SECOND, None);
    assert_eq!(budget.pause(251 * SECOND), SECOND);
    assert_eq!(budget.allowed(), 630);
    budget.pass(271 * SECOND);
    assert_eq!(budget.allowed(), 710);
    budget.pass(1_000 * SECOND);
    assert_eq!((budget.allowed(), budget.cap), (1_000, 2_000));
    // Longer than the longest wait between two tries is not obeyed: an answer that is wrong must not last.
    budget.throttle(at(1_000 * SECOND), 1_001 * SECOND, Some(3_600 * SECOND));
    assert_eq!(budget.pause(1_001 * SECOND), 30 * SECOND);
}

#[test]
fn calls_under_way_hold_up_those_without_a_key_for_no_longer_than_their_patience() {
    let (mut budget, mut turns) = (budget(200, 100), Turns::<u32, u32>::new());
    for who in 0..6 {
        turns.come(Kind::Cold, who, 100 * SECOND);
    }
    turns.come(Kind::Held, 6, 101 * SECOND);
    let mut next = |now| match turns.next(&mut budget, 5 * SECOND, now, false) {
        Ok(Next::Front(who)) => Ok(who),
        Ok(Next::Behind(who)) => Ok(1000 + who),
        Err(wait) => Err(wait),
    };
    let now = 101 * SECOND;
    assert_eq!([next(now), next(now), next(now), next(now)], [Ok(0), Ok(1), Ok(2), Ok(3)]);
    assert_eq!(next(now), Ok(6), "one with a key is not held up");
    assert_eq!(next(now), Err(Wait::Until(105 * SECOND)));
    assert_eq!([next(105 * SECOND), next(105 * SECOND)], [Ok(4), Ok(5)]);
}

#[test]
fn callers_come_first_in_the_order_of_coming_and_then_whose_key_is_too_old_first() {
    let (mut budget, mut turns) = (budget(200, 100), Turns::<&str, &str>::new());
    let now = 100 * SECOND;
    turns.come_behind("late", 140 * SECOND);
    turns.come_behind("soon", 120 * SECOND);
    turns.come_behind("soon, and came later", 120 * SECOND);
    turns.come(Kind::Cold, "first", now);
    let gone = turns.come(Kind::Held, "gone", now);
    turns.come(Kind::Held, "second", now);
    turns.come(Kind::Cold, "third", now);
    turns.leave(Kind::Held, gone);
    assert_eq!(turns.waiting(), 6);
    let order: Vec<&str> = std::iter::from_fn(|| match turns.next(&mut budget, SECOND, now, false) {
        Ok(Next::Front(who) | Next::Behind(who)) => Some(who),
        Err(_) => None,
    })
    .collect();
    assert_eq!(order, ["first", "second", "third", "soon", "soon, and came later", "late"]);
    assert!(turns.is_empty());
}

#[derive(Clone, Debug)]
enum Do {
    Pass(u32),
    Reserve(Kind, bool),
    Send,
    GiveUp,
    Throttle(Option<u32>),
    Use(u32, u32),
}

fn doings() -> impl Strategy<Value = Do> {
    let kinds = prop::sample::select(vec![Kind::Held, Kind::Cold, Kind::Behind]);
    prop_oneof![
        4 => (0..3_000_u32).prop_map(Do::Pass),
        1 => (0..30_000_u32).prop_map(Do::Pass),
        10 => (kinds, any::<bool>()).prop_map(|(kind, waited)| Do::Reserve(kind, waited)),
        8 => Just(Do::Send),
        1 => Just(Do::GiveUp),
        1 => prop::option::of(0..40_000_u32).prop_map(Do::Throttle),
        1 => (0..200_u32, 0..200_u32).prop_map(|(more, fewer)| Do::Use(more, fewer)),
    ]
}

fn cases() -> u32 {
    if std::env::var_os("COFFERDAM_FULL").is_some_and(|full| full == "1") { 20_000 } else { 500 }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases()) })]

    #[test]
    fn no_window_holds_more_than_was_allowed_and_nothing_is_begun_in_a_pause(
        (limit, share) in (1..40_u32).prop_flat_map(|limit| (Just(limit), 1..=limit)),
        in_flight in 1..5_u32,
        doings in prop::collection::vec(doings(), 1..400),
    ) {
        let policy = Policy::default();
        let mut budget = Budget::new(settings(limit, share, in_flight), &policy);
        let (mut now, mut turns, mut sent) = (1_000 * SECOND, Vec::new(), Vec::<Duration>::new());
        let (mut in_use, mut was_over, mut paused_until) = (0_u32, false, Duration::ZERO);
        for doing in doings {
            match doing {
                Do::Pass(ms) => now += ms * MS,
                Do::Reserve(kind, waited) => {
                    let cold = turns.iter().filter(|&&kind| kind == Kind::Cold).count();
                    if budget.reserve(kind, waited, now).is_ok() {
                        prop_assert!(now >= paused_until, "begun in a pause");
                        prop_assert!(kind != Kind::Cold || waited || cold < in_flight as usize);
                        turns.push(kind);
                    }
                }
                Do::Send => {
                    if let Some(kind) = turns.pop() {
                        budget.send(now);
                        budget.end(kind, true);
                        sent.push(now);
                    }
                }
                Do::GiveUp => {
                    if let Some(kind) = turns.pop() {
                        budget.end(kind, false);
                    }
                }
                Do::Throttle(retry_after) => {
                    let retry_after = retry_after.map(|ms| ms * MS);
                    budget.throttle(at(now), now, retry_after);
                    paused_until = paused_until.max(now + retry_after.unwrap_or(SECOND).min(policy.retry_max()));
                    turns.drain(..).for_each(|kind| budget.end(kind, false));
                }
                Do::Use(more, fewer) => {
                    budget.use_by(more, fewer);
                    in_use = (in_use + more).saturating_sub(fewer);
                }
            }
            budget.judge();
            was_over |= budget.alarm;
            let pace = budget.pace();
            prop_assert!((policy.refresh()..=policy.ceiling()).contains(&pace), "{pace:?}");
            prop_assert_eq!(budget.in_use, in_use);
            let needed = in_use.div_ceil(6);
            prop_assert!(budget.alarm || needed <= share, "{} need {} of {}", in_use, needed, share);
            let most = if was_over { limit } else { share };
            let within = sent.iter().filter(|&&sent| now - sent <= VaultBudget::PER).count();
            prop_assert!(within <= most as usize, "{} calls within 10 s, {} are allowed", within, most);
        }
        // What stands still comes back: with no turn open, there is one again after a window and a pause.
        turns.drain(..).for_each(|kind| budget.end(kind, false));
        now += 41 * SECOND;
        prop_assert!(budget.reserve(Kind::Behind, false, now).is_ok());
    }
}
