//! Every row of the table of errors in every state of a key, through vault, driver and store.

use std::time::Duration;

use cofferdam_crypto::{AccountId, Provider};
use cofferdam_keyring::{Alarm, KeyError, KeyState, What};
use cofferdam_vault::{
    KNOWN_GOOD_FOR, Meaning, VaultErrorKind as Kind,
    testing::{Answer, KINDS, Token, TokenService},
};
use tokio::time::sleep;

use crate::common::{MS, SECOND, World};

const STATES: [KeyState; 5] =
    [KeyState::Cold, KeyState::Active, KeyState::Grace, KeyState::Unavailable, KeyState::Revoked];

/// An account whose key is in this state.
async fn in_state(world: &World, state: KeyState) -> AccountId {
    let account = world.account(1).await;
    match state {
        KeyState::Cold => {}
        KeyState::Active => drop(world.key(account).await.unwrap()),
        KeyState::Grace => {
            world.key(account).await.unwrap();
            world.customer.answer(Answer::Fail(Kind::Unavailable));
            world.use_for(account, 100 * SECOND, SECOND).await;
        }
        KeyState::Unavailable => {
            world.key(account).await.unwrap();
            world.customer.answer(Answer::Fail(Kind::Unavailable));
            world.use_for(account, 1801 * SECOND, SECOND).await;
        }
        KeyState::Revoked => {
            world.customer.answer(Answer::Fail(Kind::AccessDenied));
            assert!(world.key(account).await.is_err());
        }
    }
    assert_eq!(world.state(account), state);
    account
}

/// What a caller gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gets {
    Key,
    /// A refusal that lets writes wait.
    Outage,
    /// A refusal that does not.
    Refusal,
    Revoked,
}

fn gets<T>(result: &Result<T, KeyError>) -> Gets {
    match result {
        Ok(_) => Gets::Key,
        Err(KeyError::Revoked { .. }) => Gets::Revoked,
        Err(refused) if refused.is_outage() => Gets::Outage,
        Err(_) => Gets::Refusal,
    }
}

/// What the table says: the state afterwards, and what a caller gets.
fn expected(state: KeyState, kind: Kind) -> (KeyState, Gets) {
    match (kind.meaning(), state) {
        (_, KeyState::Revoked) | (Meaning::Denial | Meaning::UnconfirmedDenial, _) => {
            (KeyState::Revoked, Gets::Revoked)
        }
        // Nothing says that it ever worked.
        (Meaning::Outage, KeyState::Cold) if kind == Kind::Corrupt => (KeyState::Unavailable, Gets::Refusal),
        (Meaning::Outage, KeyState::Cold | KeyState::Unavailable) => (KeyState::Unavailable, Gets::Outage),
        (Meaning::Outage, KeyState::Active | KeyState::Grace) => (KeyState::Grace, Gets::Key),
    }
}

#[tokio::test(start_paused = true)]
async fn every_kind_in_every_state_does_what_the_table_says() {
    for state in STATES {
        for kind in KINDS {
            let world = World::new();
            let account = in_state(&world, state).await;
            let mut events = world.keyring.subscribe();
            world.customer.answer(Answer::Fail(kind));
            // Long enough for a refresh, a retry or a poll, for three answers, and for Active to end.
            let calls = world.customer.unwraps();
            world.use_for(account, 70 * SECOND, 100 * MS).await;
            assert!(world.customer.unwraps() > calls, "{state}, {kind}: it is asked for");
            let (then, caller) = expected(state, kind);
            assert_eq!(world.state(account), then, "{state}, {kind}");
            assert_eq!(gets(&world.key(account).await), caller, "{state}, {kind}");
            let revoked = then == KeyState::Revoked;
            assert_eq!(world.records.is_revoked(account), revoked, "{state}, {kind}");
            let alarmed = std::iter::from_fn(|| events.try_recv().ok())
                .any(|event| event.what == What::Alarm(Alarm::Corrupt));
            assert_eq!(alarmed, kind == Kind::Corrupt, "{state}, {kind}");

            // Whatever it was: one wait later it is over.
            world.customer.answer(Answer::Work);
            world.use_for(account, 31 * SECOND, 100 * MS).await;
            assert_eq!(world.state(account), KeyState::Active, "{state}, {kind}");
            assert!(!world.records.is_revoked(account), "{state}, {kind}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn not_found_stops_a_key_at_once_and_no_answer_less_than_three_revokes_it() {
    for state in [KeyState::Cold, KeyState::Active, KeyState::Grace] {
        for answers in [1, 2] {
            let world = World::new();
            let account = in_state(&world, state).await;
            world.customer.answer(Answer::Work);
            world.customer.answer_next(vec![Answer::Fail(Kind::KeyNotFound); answers]);
            world.use_for(account, 70 * SECOND, 100 * MS).await;
            assert_eq!(world.state(account), KeyState::Active, "{state}, {answers}");
            assert!(world.records.persisted.lock().unwrap().is_empty(), "{state}, {answers}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_expired_credential_costs_a_key_nothing() {
    let world = World::reauthenticating();
    let (account, credential) = (world.account(1).await, world.credential.clone().unwrap());
    world.key(account).await.unwrap();
    for token in [Token::Expired, Token::Stale] {
        for _ in 0..10 {
            sleep(KNOWN_GOOD_FOR).await;
            credential.turn(token);
            assert_eq!(world.use_for(account, 60 * SECOND, SECOND).await.0, 0, "{token:?}");
            assert_eq!(world.state(account), KeyState::Active, "{token:?}");
        }
    }
    assert!(world.records.persisted.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_token_service_that_is_down_is_an_outage_whatever_the_vault_says_to_the_old_token() {
    for token in [Token::Expired, Token::Stale] {
        for service in [TokenService::Down, TokenService::Hangs] {
            let world = World::reauthenticating();
            let (account, credential) = (world.account(1).await, world.credential.clone().unwrap());
            world.key(account).await.unwrap();
            sleep(KNOWN_GOOD_FOR).await;
            world.key(account).await.unwrap();
            credential.turn(token);
            credential.service(service);
            assert_eq!(world.use_for(account, 300 * SECOND, SECOND).await.0, 0, "{token:?}, {service:?}");
            assert_eq!(world.state(account), KeyState::Grace, "{token:?}, {service:?}");
            assert!(world.records.persisted.lock().unwrap().is_empty(), "{token:?}, {service:?}");
            credential.service(TokenService::Gives(Token::Good));
            world.use_for(account, 45 * SECOND, SECOND).await;
            assert_eq!(world.state(account), KeyState::Active, "{token:?}, {service:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_real_denial_is_one_whatever_the_age_of_the_credential() {
    for age in [Duration::ZERO, 2 * KNOWN_GOOD_FOR] {
        let world = World::reauthenticating();
        let account = world.account(1).await;
        sleep(age).await;
        world.key(account).await.unwrap();
        world.customer.answer(Answer::Fail(Kind::AccessDenied));
        world.use_for(account, 36 * SECOND, SECOND).await;
        assert_eq!(world.state(account), KeyState::Revoked, "{age:?}");
        assert_eq!(gets(&world.key(account).await), Gets::Revoked);
    }
}

#[tokio::test(start_paused = true)]
async fn the_services_own_key_is_never_revoked_and_never_lets_writes_wait() {
    for kind in KINDS {
        let world = World::new();
        let account = world.account(1).await;
        world.keyring.sealing_key(account, Provider::Service).await.unwrap();
        world.service.answer(Answer::Fail(kind));
        for _ in 0..1801 {
            drop(world.keyring.sealing_key(account, Provider::Service).await);
            sleep(SECOND).await;
        }
        assert_eq!(world.keyring.status(account, Provider::Service).state, KeyState::Unavailable, "{kind}");
        let refused = world.keyring.sealing_key(account, Provider::Service).await;
        assert_eq!(gets(&refused), Gets::Refusal, "{kind}");
    }
}
