//! Every bound, on the millisecond.

use super::*;

#[test]
fn a_key_serves_without_a_question_for_refresh_and_time_out() {
    for refresh in [6, 30, 60] {
        let policy = Policy::default().with_refresh(refresh * SECOND).unwrap();
        let mut machine = Machine { policy, ..Machine::cold(Provider::Customer) };
        machine.verify();
        machine.pass((refresh + 5) * SECOND - MS);
        assert_eq!(machine.serving(), Serving::Use, "{refresh} s");
        machine.pass(MS);
        assert_eq!(machine.serving(), Serving::Wait, "{refresh} s: one attempt is waited for");
    }
}

#[test]
fn an_idle_key_serves_no_longer_than_one_in_use() {
    let mut machine = Machine::active(Provider::Customer);
    machine.pass(30 * SECOND);
    machine.feed(Event::Wake { wanted: false, used: false });
    assert!(machine.state.is_idle());
    machine.pass(5 * SECOND - MS);
    assert_eq!(machine.serving(), Serving::Use);
    machine.pass(MS);
    assert_eq!(machine.serving(), Serving::Wait);
    // An outage then leads to Grace, as it does for a key in use.
    assert_eq!(work(&machine.want()).len(), 1);
    machine.pass(5 * SECOND);
    machine.fail(Kind::Unavailable);
    assert_eq!((machine.serving(), machine.reported()), (Serving::Use, KeyState::Active));
    machine.pass(25 * SECOND);
    machine.wake();
    assert_eq!((machine.serving(), machine.reported()), (Serving::Use, KeyState::Grace));
}

#[test]
fn a_failure_that_nobody_tries_again_after_lets_nobody_go_on() {
    let mut machine = Machine::active(Provider::Customer);
    machine.pass(30 * SECOND);
    machine.wake();
    machine.fail(Kind::Unavailable);
    machine.pass(SECOND);
    let effects = machine.feed(Event::Wake { wanted: false, used: false });
    assert!(matches!(effects[..], [Effect::Publish(Bounds { retried_until: None, .. })]), "{effects:?}");
    machine.pass(3 * SECOND);
    assert_eq!(machine.serving(), Serving::Use);
    machine.pass(SECOND);
    assert_eq!(machine.serving(), Serving::Wait, "the vault may have answered for 4 s by now");
}

#[test]
fn a_key_counts_as_active_for_ceiling_and_time_out() {
    let mut machine = Machine::active(Provider::Customer);
    machine.pass(60 * SECOND);
    machine.fail(Kind::Unavailable);
    machine.pass(5 * SECOND - MS);
    machine.wake();
    assert_eq!(machine.reported(), KeyState::Active);
    machine.pass(MS);
    machine.wake();
    assert_eq!(machine.reported(), KeyState::Grace);
}

#[test]
fn a_key_in_grace_serves_until_the_grace_is_over_and_not_beyond() {
    let mut machine = Machine::active(Provider::Customer);
    machine.pass(1800 * SECOND - 2 * MS);
    machine.fail(Kind::Unavailable);
    machine.pass(MS);
    assert_eq!((machine.serving(), machine.reported()), (Serving::Use, KeyState::Grace));
    machine.pass(2 * MS);
    assert_eq!(machine.serving(), Serving::Refuse);
    let effects = machine.wake();
    let (from, to, why) = (KeyState::Grace, KeyState::Unavailable, Why::Expired);
    assert_eq!(effects[0], Effect::Evict);
    assert!(effects.contains(&Effect::Announce { from, to, why }), "{effects:?}");
}

#[test]
fn age_counts_from_when_the_attempt_was_sent() {
    let mut machine = Machine::cold(Provider::Customer);
    machine.want();
    machine.pass(4 * SECOND);
    machine.verify();
    machine.pass(31 * SECOND - MS);
    assert_eq!(machine.serving(), Serving::Use);
    machine.pass(MS);
    assert_eq!(machine.serving(), Serving::Wait);
}

#[test]
fn age_is_what_the_faster_clock_says() {
    for (boot, wall) in [(35, 0), (0, 35)] {
        let mut machine = Machine::active(Provider::Customer);
        machine.now.boot += boot * SECOND;
        machine.now.wall += wall * SECOND;
        assert_eq!(machine.serving(), Serving::Wait);
    }
    let mut machine = Machine::active(Provider::Customer);
    machine.now.wall -= 1000 * SECOND;
    machine.now.boot += 35 * SECOND - MS;
    assert_eq!(machine.serving(), Serving::Use);
    machine.now.boot += MS;
    assert_eq!(machine.serving(), Serving::Wait);
}

#[test]
fn a_failure_lets_callers_go_on_for_35_seconds_from_when_it_was_sent() {
    let mut machine = Machine::active(Provider::Customer);
    machine.pass(100 * SECOND);
    machine.want();
    machine.pass(5 * SECOND);
    machine.fail(Kind::Unavailable);
    machine.pass(30 * SECOND - MS);
    assert_eq!(machine.serving(), Serving::Use);
    machine.pass(MS);
    assert_eq!(machine.serving(), Serving::Wait);
}

#[test]
fn backoff_doubles_from_one_second_to_its_bound_and_is_reset_by_success() {
    let mut machine = Machine::unavailable(Provider::Customer);
    for expected in [1, 2, 4, 8, 16, 30, 30] {
        let wait = machine.next();
        assert_eq!(wait, expected * SECOND);
        machine.pass(wait - MS);
        assert_eq!(work(&machine.wake()), [], "not before it is due");
        machine.pass(MS);
        assert_eq!(work(&machine.wake()).len(), 1);
        machine.fail(Kind::Unavailable);
    }
    let wait = machine.next();
    machine.pass(wait);
    machine.wake();
    machine.verify();
    machine.pass(30 * SECOND);
    machine.wake();
    machine.fail(Kind::Unavailable);
    assert_eq!(machine.next(), SECOND);
}

#[test]
fn retry_after_is_obeyed_between_backoff_and_bound() {
    for (asked, expected) in [(0, 1), (1, 1), (12, 12), (30, 30), (3600, 30)] {
        let mut machine = Machine::cold(Provider::Customer);
        machine.fail(Kind::Throttled { retry_after: Some(asked * SECOND) });
        assert_eq!(machine.next(), expected * SECOND, "{asked}");
    }
}

#[test]
fn jitter_only_shortens_by_at_most_a_quarter_and_never_below_the_least_refresh() {
    for (refresh, shortest) in [(30, 22_500), (60, 45_000), (7, 6_000), (6, 6_000)] {
        for jitter in [0, 1, u16::MAX / 2, u16::MAX] {
            let mut machine = Machine::cold(Provider::Customer);
            machine.policy = machine.policy.with_refresh(refresh * SECOND).unwrap();
            let attempt = machine.attempt();
            machine.feed(Event::Verified { attempt, jitter: Jitter(jitter) });
            let wait = machine.next();
            assert!(wait <= refresh * SECOND && wait >= shortest * MS, "{refresh} s, {jitter}: {wait:?}");
        }
    }
}

#[test]
fn a_revoked_key_is_polled_at_its_interval() {
    let mut machine = Machine::revoked();
    for _ in 0..3 {
        assert_eq!(machine.next(), 30 * SECOND);
        machine.pass(30 * SECOND);
        assert_eq!(work(&machine.wake()).len(), 1);
        machine.fail(Kind::AccessDenied);
    }
}

#[test]
fn a_doubt_lasts_five_seconds() {
    let mut machine = Machine::active(Provider::Customer);
    machine.fail(Kind::KeyNotFound);
    machine.record(false);
    machine.pass(SECOND);
    machine.wake();
    machine.pass(4 * SECOND - MS);
    machine.wake();
    assert_eq!((machine.reported(), machine.serving()), (KeyState::Cold, Serving::Wait));
    machine.pass(MS);
    machine.wake();
    assert_eq!((machine.reported(), machine.serving()), (KeyState::Unavailable, Serving::Refuse));
}

#[test]
fn answers_five_seconds_apart_do_not_agree_and_a_millisecond_less_do() {
    for (wait, agree) in [(2500 * MS, false), (2499 * MS, true)] {
        let mut machine = Machine::active(Provider::Customer);
        machine.fail(Kind::KeyNotFound);
        machine.record(false);
        for _ in 0..2 {
            machine.pass(wait);
            machine.wake();
            machine.fail(Kind::KeyNotFound);
            machine.record(false);
        }
        assert_eq!(machine.state.persisting, agree, "{wait:?}");
    }
}

#[test]
fn an_idle_key_is_left_alone_until_its_bound_and_a_use_wakes_it() {
    let mut machine = Machine::active(Provider::Customer);
    let idle = Event::Wake { wanted: false, used: false };
    machine.pass(30 * SECOND);
    assert_eq!(machine.feed(idle), []);
    assert_eq!(machine.next(), 1770 * SECOND);
    let mut used = machine.clone();
    used.pass(10 * SECOND);
    assert_eq!(work(&used.wake()).len(), 1);

    machine.pass(1770 * SECOND);
    let effects = machine.feed(idle);
    let (from, to, why) = (KeyState::Active, KeyState::Cold, Why::Idle);
    assert_eq!(effects, [Effect::Evict, Effect::Announce { from, to, why }]);
    assert!(machine.state.is_at_rest());
}

#[test]
fn a_revocation_is_tried_again_until_it_is_persisted() {
    let mut machine = Machine::active(Provider::Customer);
    machine.fail(Kind::KeyDisabled);
    machine.record(false);
    for expected in [2, 4, 8, 16, 30, 30] {
        let effects = machine.feed(Event::Persisted { revoked: true, ok: false });
        assert_eq!(effects, [Effect::Alarm(Alarm::NotPersisted { revoked: true })]);
        assert_eq!((machine.reported(), machine.serving()), (KeyState::Cold, Serving::Wait));
        assert_eq!(machine.next(), expected * SECOND);
        machine.pass(expected * SECOND);
        assert_eq!(work(&machine.wake()), [Effect::Persist { revoked: true }]);
    }
}

#[test]
fn a_stretched_refresh_stretches_what_serves_without_a_question_and_never_past_the_ceiling() {
    for (paced, pace) in [(10, 30), (30, 30), (45, 45), (60, 60), (600, 60)] {
        let mut machine = Machine::active(Provider::Customer);
        machine.feed(Event::Paced(paced * SECOND));
        assert_eq!(machine.next(), pace * SECOND, "{paced}");
        machine.pass((pace + 5) * SECOND - MS);
        assert_eq!(machine.serving(), Serving::Use, "{paced}");
        machine.pass(MS);
        assert_eq!(machine.serving(), Serving::Wait, "{paced}");
        assert_eq!(machine.reported(), KeyState::Active, "what could not be asked has not failed");
    }
}

#[test]
fn a_stretch_keeps_keys_spread_and_leaves_no_room_for_jitter() {
    let mut machine = Machine::active(Provider::Customer);
    machine.feed(Event::Spread(Jitter(u16::MAX / 2)));
    let spread = machine.next();
    assert!(spread > 17 * SECOND && spread < 19 * SECOND, "{spread:?}");
    machine.feed(Event::Paced(60 * SECOND));
    assert!(machine.next().abs_diff(2 * spread) < MS, "{:?}", machine.next());
    machine.pass(60 * SECOND);
    let attempt = machine.attempt();
    machine.feed(Event::Verified { attempt, jitter: Jitter(u16::MAX) });
    assert_eq!(machine.next(), 60 * SECOND);
}

#[test]
fn a_first_refresh_is_spread_between_the_least_refresh_and_the_target() {
    for (share, wait) in [(0, 30 * SECOND), (u16::MAX, Policy::MIN_REFRESH)] {
        let mut machine = Machine::active(Provider::Customer);
        machine.feed(Event::Spread(Jitter(share)));
        assert_eq!(machine.next(), wait);
    }
}

#[test]
fn while_the_refresh_is_stretched_a_failure_lets_callers_go_on_until_the_next_try() {
    let mut machine = Machine::active(Provider::Customer);
    machine.feed(Event::Paced(60 * SECOND));
    machine.pass(60 * SECOND);
    machine.fail(Kind::Unavailable);
    machine.pass(65 * SECOND - MS);
    assert_eq!((machine.serving(), machine.reported()), (Serving::Use, KeyState::Active));
    machine.wake();
    assert_eq!(machine.reported(), KeyState::Grace);
    machine.pass(MS);
    assert_eq!(machine.serving(), Serving::Wait);
}

#[test]
fn age_counts_from_when_the_vault_was_asked_where_the_attempt_had_to_wait_for_its_turn() {
    let mut machine = Machine::cold(Provider::Customer);
    let begun = machine.attempt();
    machine.pass(100 * SECOND);
    let attempt = Attempt { sent: machine.now, ..begun };
    machine.pass(SECOND);
    machine.feed(Event::Verified { attempt, jitter: NO_JITTER });
    assert_eq!((machine.serving(), machine.next()), (Serving::Use, 29 * SECOND));
    machine.pass(34 * SECOND - MS);
    assert_eq!(machine.serving(), Serving::Use);
    machine.pass(MS);
    assert_eq!(machine.serving(), Serving::Wait);
    // The same for a failure.
    let begun = machine.attempt();
    machine.pass(100 * SECOND);
    let attempt = Attempt { sent: machine.now, ..begun };
    machine.feed(Event::Failed {
        attempt,
        kind: Kind::Unavailable,
        keks: Keks::default(),
        jitter: NO_JITTER,
    });
    machine.pass(35 * SECOND - MS);
    assert_eq!(machine.serving(), Serving::Use);
    machine.pass(MS);
    assert_eq!(machine.serving(), Serving::Wait);
}

/// A key that was verified now, and that a bridge lets serve for so long.
fn bridged(time: Duration) -> Machine {
    let mut machine = Machine::cold(Provider::Customer);
    let attempt = Attempt { bridged_until: Some(after(machine.now, time)), ..machine.attempt() };
    machine.feed(Event::Verified { attempt, jitter: NO_JITTER });
    machine
}

#[test]
fn a_bridge_bounds_everything_that_its_end_comes_before() {
    // Before the refresh, within the time for it, within the grace.
    for time in [20 * SECOND, 34 * SECOND, 60 * SECOND, 1700 * SECOND] {
        let mut machine = bridged(time);
        machine.pass(time.saturating_sub(10 * SECOND));
        machine.fail(Kind::Unavailable);
        assert_eq!(machine.serving(), Serving::Use, "{time:?}");
        machine.pass(time.min(10 * SECOND) - MS);
        machine.wake();
        assert_eq!(machine.serving(), Serving::Use, "{time:?}");
        machine.pass(MS);
        machine.wake();
        assert_eq!((machine.serving(), machine.reported()), (Serving::Refuse, KeyState::Unavailable));
    }
    // One that ends later changes nothing.
    let (mut machine, mut whole) = (bridged(3600 * SECOND), Machine::active(Provider::Customer));
    for _ in 0..40 {
        for machine in [&mut machine, &mut whole] {
            machine.pass(60 * SECOND);
            machine.fail(Kind::Unavailable);
        }
        assert_eq!((machine.serving(), machine.reported()), (whole.serving(), whole.reported()));
    }
    assert_eq!(machine.reported(), KeyState::Unavailable);
}

#[test]
fn every_kek_that_says_yes_again_lifts_the_bound_of_a_bridge() {
    let mut machine = bridged(20 * SECOND);
    machine.pass(10 * SECOND);
    machine.feed(Event::Fetch);
    machine.verify();
    machine.pass(20 * SECOND);
    assert_eq!((machine.serving(), machine.reported()), (Serving::Use, KeyState::Active));
}

#[test]
fn a_key_that_the_record_has_no_longer_is_dropped_and_what_is_under_way_is_used() {
    let mut machine = Machine::active(Provider::Customer);
    machine.feed(Event::Fetch);
    let effects = machine.feed(Event::Outdated);
    let (from, to, why) = (KeyState::Active, KeyState::Cold, Why::Outdated);
    assert_eq!(effects, [Effect::Evict, Effect::Announce { from, to, why }]);
    machine.verify();
    assert_eq!((machine.serving(), machine.reported()), (Serving::Use, KeyState::Active));
    assert_eq!(Machine::revoked().feed(Event::Outdated), []);
}

#[test]
fn a_key_that_nobody_needs_is_let_go_and_what_was_begun_before_is_not_used() {
    let mut machine = Machine::active(Provider::Service);
    let effects = machine.feed(Event::LetGo);
    let (from, to, why) = (KeyState::Active, KeyState::Cold, Why::Idle);
    assert_eq!(effects, [Effect::Evict, Effect::Announce { from, to, why }]);
    assert!(machine.state.is_at_rest());
    assert_eq!(Machine::cold(Provider::Service).feed(Event::LetGo), []);
}

#[test]
fn a_state_that_rests_is_packed_and_unpacked_as_it_was_and_no_other_is() {
    let mut paced = Machine::active(Provider::Customer);
    paced.feed(Event::Paced(45 * SECOND));
    let mut idle = Machine::active(Provider::Service);
    idle.pass(30 * SECOND);
    idle.feed(Event::Wake { wanted: false, used: false });
    let cold = Machine::cold(Provider::Customer);
    let mut let_go = Machine::active(Provider::Service);
    let_go.feed(Event::LetGo);
    for machine in [paced, idle, cold, let_go, Machine::active(Provider::Service)] {
        let packed = machine.state.pack().unwrap();
        assert_eq!(packed.unpack(machine.state.provider), machine.state);
    }
    let mut failing = Machine::active(Provider::Customer);
    failing.fail(Kind::Unavailable);
    let mut asked = Machine::active(Provider::Customer);
    asked.attempt();
    let (grace, gone) = (Machine::grace(Provider::Customer), Machine::unavailable(Provider::Customer));
    for machine in [failing, asked, grace, gone, Machine::revoked(), bridged(20 * SECOND)] {
        assert_eq!(machine.state.pack(), None);
    }
}

#[test]
fn only_answers_of_one_kek_agree_that_it_is_not_found_and_its_yes_between_them_ends_that() {
    let fail = |machine: &mut Machine, failed: u8, said_yes: u8| {
        let attempt = machine.attempt();
        let keks = Keks { failed, said_yes };
        machine.feed(Event::Failed { attempt, kind: Kind::KeyNotFound, keks, jitter: NO_JITTER });
        let told = machine.record(false);
        machine.pass(SECOND);
        told.iter().any(|effect| matches!(effect, Effect::Persist { revoked: true }))
    };
    let run = |answers: &[(u8, u8)]| {
        let mut machine = Machine::active(Provider::Customer);
        answers.iter().any(|&(failed, said_yes)| fail(&mut machine, failed, said_yes))
    };
    assert!(run(&[(0, 0), (0, 0), (0, 0)]));
    assert!(run(&[(1, 1), (0, 0), (1, 1), (1, 1)]), "three of the second");
    assert!(!run(&[(0, 0), (1, 0), (0, 0), (1, 0)]), "two of each");
    assert!(!run(&[(0, 0), (0, 0), (1, 1), (0, 0)]), "the first said yes in between");
}
