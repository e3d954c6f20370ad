//! Every row of the table of errors, in every state.

use cofferdam_vault::Meaning;

use super::*;

/// Ends the wait for the next attempt, begins it, and fails it.
fn next_fails(machine: &mut Machine, kind: Kind) -> Vec<Effect> {
    while machine.state.flight.is_none() {
        let wait = machine.next();
        machine.pass(wait);
        machine.wake();
    }
    machine.fail(kind)
}

#[test]
fn an_outage_kind_spends_grace_and_opens_nothing() {
    for kind in KINDS.into_iter().filter(|kind| kind.meaning() == Meaning::Outage) {
        let mut machine = Machine::cold(Provider::Customer);
        machine.fail(kind);
        assert_eq!(
            (machine.reported(), machine.serving()),
            (KeyState::Unavailable, Serving::Refuse),
            "{kind}"
        );

        let mut machine = Machine::active(Provider::Customer);
        next_fails(&mut machine, kind);
        assert_eq!((machine.reported(), machine.serving()), (KeyState::Active, Serving::Use), "{kind}");

        let mut machine = Machine::grace(Provider::Customer);
        let before = machine.state.bounds(&machine.policy).unwrap();
        next_fails(&mut machine, kind);
        let bounds = machine.state.bounds(&machine.policy).unwrap();
        assert_eq!((machine.reported(), machine.serving()), (KeyState::Grace, Serving::Use), "{kind}");
        assert_eq!((bounds.verified, bounds.usable_until), (before.verified, before.usable_until), "{kind}");

        let mut machine = Machine::unavailable(Provider::Customer);
        next_fails(&mut machine, kind);
        assert_eq!(
            (machine.reported(), machine.serving()),
            (KeyState::Unavailable, Serving::Refuse),
            "{kind}"
        );

        let mut machine = Machine::revoked();
        next_fails(&mut machine, kind);
        assert_eq!((machine.reported(), machine.serving()), (KeyState::Revoked, Serving::Refuse), "{kind}");
    }
}

#[test]
fn a_denial_kind_stops_serving_at_once_and_asks_for_the_record() {
    for kind in [Kind::AccessDenied, Kind::KeyDisabled] {
        for machine in [
            Machine::cold(Provider::Customer),
            Machine::active(Provider::Customer),
            Machine::grace(Provider::Customer),
            Machine::unavailable(Provider::Customer),
        ] {
            let mut machine = machine;
            let held = machine.state.holds_key();
            let effects = next_or_now_fails(&mut machine, kind);
            assert_eq!(effects.first() == Some(&Effect::Evict), held, "{kind}: {effects:?}");
            assert_eq!(work(&effects), [Effect::ReadRecord], "{kind}");
            assert_eq!(machine.serving(), Serving::Wait, "{kind}");

            let effects = machine.record(false);
            assert_eq!(effects, [Effect::Persist { revoked: true }], "persisted before it is announced");
            assert_eq!(machine.reported(), KeyState::Cold, "{kind}");
            let effects = machine.feed(Event::Persisted { revoked: true, ok: true });
            let (from, to, why) = (KeyState::Cold, KeyState::Revoked, Why::Denied(kind));
            assert_eq!(effects, [Effect::Announce { from, to, why }], "{kind}");
            assert_eq!(machine.serving(), Serving::Refuse);
        }
        let mut machine = Machine::revoked();
        let effects = next_fails(&mut machine, kind);
        assert_eq!(effects, []);
        assert_eq!((machine.reported(), machine.serving()), (KeyState::Revoked, Serving::Refuse));
        assert_eq!(machine.next(), 30 * SECOND);
    }
}

fn next_or_now_fails(machine: &mut Machine, kind: Kind) -> Vec<Effect> {
    if machine.serving() == Serving::Wait { machine.fail(kind) } else { next_fails(machine, kind) }
}

#[test]
fn not_found_stops_serving_at_once_and_is_revoked_by_three_answers_within_five_seconds() {
    for machine in [
        Machine::cold(Provider::Customer),
        Machine::active(Provider::Customer),
        Machine::grace(Provider::Customer),
    ] {
        let mut machine = machine;
        next_or_now_fails(&mut machine, Kind::KeyNotFound);
        assert_eq!(machine.serving(), Serving::Wait);
        machine.record(false);
        for _ in 0..2 {
            assert_eq!(machine.next(), SECOND);
            assert_eq!(machine.serving(), Serving::Wait, "puts wait meanwhile");
            assert_eq!(work(&next_fails(&mut machine, Kind::KeyNotFound)), [Effect::ReadRecord]);
            assert_eq!(machine.reported(), KeyState::Cold);
            machine.record(false);
        }
        assert!(machine.state.persisting);
        machine.feed(Event::Persisted { revoked: true, ok: true });
        assert_eq!(machine.reported(), KeyState::Revoked);
    }
}

#[test]
fn not_found_while_unavailable_lets_writes_be_buffered_until_the_answers_agree() {
    let mut machine = Machine::unavailable(Provider::Customer);
    for _ in 0..3 {
        assert_eq!((machine.reported(), machine.serving()), (KeyState::Unavailable, Serving::Refuse));
        next_fails(&mut machine, Kind::KeyNotFound);
        machine.record(false);
    }
    machine.feed(Event::Persisted { revoked: true, ok: true });
    assert_eq!(machine.reported(), KeyState::Revoked);
}

#[test]
fn three_not_found_further_apart_do_not_agree() {
    let mut machine = Machine::active(Provider::Customer);
    for _ in 0..6 {
        next_or_now_fails(&mut machine, Kind::KeyNotFound);
        machine.record(false);
        let wait = machine.next();
        machine.pass(wait);
        machine.wake();
        // Each answer takes its time.
        machine.pass(2501 * MS - wait);
    }
    assert!(!machine.state.persisting);
    machine.wake();
    assert_eq!(machine.reported(), KeyState::Unavailable);
}

#[test]
fn a_verified_unwrap_clears_the_doubt() {
    let mut machine = Machine::active(Provider::Customer);
    for _ in 0..2 {
        next_fails(&mut machine, Kind::KeyNotFound);
        machine.record(false);
    }
    let wait = machine.next();
    machine.pass(wait);
    machine.wake();
    machine.verify();
    assert_eq!(machine.reported(), KeyState::Active);
    next_fails(&mut machine, Kind::KeyNotFound);
    machine.record(false);
    assert!(!machine.state.persisting, "counting began anew");
}

#[test]
fn denials_of_the_services_own_vault_are_outages_with_an_alarm() {
    for kind in [Kind::AccessDenied, Kind::KeyDisabled, Kind::KeyNotFound] {
        let alarm = Effect::Alarm(Alarm::ServiceDenied(kind));
        let mut machine = Machine::cold(Provider::Service);
        assert!(machine.fail(kind).contains(&alarm));
        assert_eq!(machine.reported(), KeyState::Unavailable);
        let mut machine = Machine::active(Provider::Service);
        assert!(next_fails(&mut machine, kind).contains(&alarm));
        assert_eq!(machine.serving(), Serving::Use);
        let mut machine = Machine::grace(Provider::Service);
        assert!(next_fails(&mut machine, kind).contains(&alarm));
        assert_eq!((machine.reported(), machine.serving()), (KeyState::Grace, Serving::Use));
    }
}

#[test]
fn a_corrupt_answer_alarms_in_every_state() {
    for machine in [
        Machine::cold(Provider::Customer),
        Machine::active(Provider::Customer),
        Machine::grace(Provider::Customer),
        Machine::unavailable(Provider::Customer),
        Machine::revoked(),
    ] {
        let mut machine = machine;
        let effects = next_or_now_fails(&mut machine, Kind::Corrupt);
        assert!(effects.contains(&Effect::Alarm(Alarm::Corrupt)), "{effects:?}");
    }
}

#[test]
fn a_denial_of_a_replaced_wrap_leads_to_an_attempt_with_the_new_one() {
    for kind in [Kind::AccessDenied, Kind::KeyDisabled, Kind::KeyNotFound] {
        let mut machine = Machine::active(Provider::Customer);
        machine.pass(30 * SECOND);
        machine.wake();
        machine.fail(kind);
        let effects = machine.record(true);
        assert!(matches!(effects[..], [Effect::Attempt { reread: false, .. }]), "{effects:?}");
        machine.verify();
        assert_eq!(machine.reported(), KeyState::Active);
    }
}

#[test]
fn a_success_that_began_before_a_denial_is_ignored() {
    for kind in [Kind::AccessDenied, Kind::KeyDisabled, Kind::KeyNotFound] {
        let mut machine = Machine::active(Provider::Customer);
        let early = machine.attempt();
        machine.pass(SECOND);
        // The same attempt's twin: a denial that arrives first, whatever it belongs to.
        machine.feed(Event::Failed { attempt: early, kind, keks: Keks::default(), jitter: NO_JITTER });
        machine.feed(Event::Verified { attempt: early, jitter: NO_JITTER });
        assert!(!machine.state.holds_key(), "{kind}");
    }
    let mut machine = Machine::revoked();
    let old = Attempt { number: machine.state.last, sent: machine.now, bridged_until: None };
    let effects = machine.feed(Event::Verified { attempt: old, jitter: NO_JITTER });
    assert_eq!((effects, machine.reported()), (vec![], KeyState::Revoked));
}

#[test]
fn revoked_is_left_once_the_end_is_persisted() {
    let mut machine = Machine::revoked();
    machine.pass(30 * SECOND);
    let effects = machine.wake();
    assert!(matches!(effects[..], [Effect::Attempt { reread: true, .. }]), "{effects:?}");
    assert_eq!(machine.verify(), [Effect::Persist { revoked: false }]);
    assert_eq!((machine.reported(), machine.serving()), (KeyState::Revoked, Serving::Refuse));
    let effects = machine.feed(Event::Persisted { revoked: false, ok: true });
    assert!(matches!(effects[..], [Effect::Publish(_), Effect::Announce { to: KeyState::Active, .. }]));

    let mut machine = Machine::revoked();
    machine.pass(30 * SECOND);
    machine.wake();
    machine.verify();
    machine.feed(Event::Persisted { revoked: false, ok: false });
    assert_eq!((machine.reported(), machine.serving()), (KeyState::Revoked, Serving::Refuse));
    assert!(!machine.state.is_restoring());
}

#[test]
fn a_record_that_says_revoked_is_believed_until_the_vault_verifies() {
    let mut machine = Machine::cold(Provider::Customer);
    machine.want();
    machine.feed(Event::Record { revoked: true, changed: true });
    assert_eq!((machine.reported(), machine.serving()), (KeyState::Revoked, Serving::Wait));
    let mut outage = machine.clone();
    outage.fail(Kind::Unavailable);
    assert_eq!((outage.reported(), outage.serving()), (KeyState::Revoked, Serving::Refuse));
    machine.verify();
    machine.feed(Event::Persisted { revoked: false, ok: true });
    assert_eq!(machine.reported(), KeyState::Active);
}

#[test]
fn a_denial_after_an_end_that_may_have_been_persisted_is_persisted_again() {
    for lost in [Event::Persisted { revoked: false, ok: false }, Event::Abandoned] {
        let mut machine = Machine::revoked();
        machine.pass(30 * SECOND);
        machine.wake();
        assert_eq!(machine.verify(), [Effect::Persist { revoked: false }]);
        machine.feed(lost);
        for ok in [false, true] {
            assert_eq!((machine.reported(), machine.serving()), (KeyState::Revoked, Serving::Refuse));
            assert_eq!(next_fails(&mut machine, Kind::AccessDenied), [Effect::Persist { revoked: true }]);
            machine.feed(Event::Persisted { revoked: true, ok });
        }
        assert_eq!(machine.reported(), KeyState::Revoked);
        assert_eq!(next_fails(&mut machine, Kind::AccessDenied), [], "it is known to be persisted");
    }
}
