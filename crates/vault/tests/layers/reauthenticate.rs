//! A vault's "no" counts only to a credential that is known good.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use cofferdam_crypto::{AccountId, Aek, Epoch, KeyId, KeyScope, Provider};
use cofferdam_vault::{
    KNOWN_GOOD_FOR, KeyVault, Reauthenticating, VaultError, VaultErrorKind as Kind, WrapContext,
    testing::{Answer, ScriptedCredential, ScriptedVault, Token, TokenService, TokioClock},
};
use tokio::time::{Instant, sleep, timeout};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

struct World {
    vault: Arc<ScriptedVault>,
    credential: Arc<ScriptedCredential>,
    clock: Arc<TokioClock>,
    asked: Arc<Reauthenticating<Arc<ScriptedVault>>>,
}

fn kek() -> KeyId {
    KeyId::new("test://customer/keys/payroll/1").unwrap()
}

fn context() -> WrapContext {
    let account = AccountId::from_random_bytes([7; 16]);
    WrapContext { scope: KeyScope { account, epoch: Epoch::FIRST, provider: Provider::Customer } }
}

impl World {
    fn new() -> Self {
        let vault = Arc::new(ScriptedVault::new(7));
        vault.create_key(&kek()).unwrap();
        let clock = Arc::new(TokioClock::new());
        let credential = Arc::new(ScriptedCredential::new(clock.clone()));
        vault.set_credential(credential.clone());
        let asked = Arc::new(Reauthenticating::new(vault.clone(), credential.clone(), clock.clone()));
        Self { vault, credential, clock, asked }
    }

    async fn ask(&self) -> Result<(), VaultError> {
        self.asked.key_properties(&kek()).await.map(drop)
    }

    async fn kind(&self) -> Option<Kind> {
        self.ask().await.err().map(|failed| failed.kind())
    }

    /// Calls and renewals so far.
    fn counts(&self) -> (usize, usize) {
        (self.vault.calls().len(), self.credential.renewals())
    }
}

#[tokio::test(start_paused = true)]
async fn a_credential_that_works_is_left_alone() {
    let world = World::new();
    sleep(7200 * SECOND).await;
    assert_eq!(world.kind().await, None);
    for kind in [
        Kind::KeyDisabled,
        Kind::KeyNotFound,
        Kind::Throttled { retry_after: Some(SECOND) },
        Kind::Unavailable,
        Kind::Untrusted,
        Kind::Corrupt,
        Kind::Other,
    ] {
        world.vault.answer(Answer::Fail(kind));
        assert_eq!(world.kind().await, Some(kind));
    }
    assert_eq!(world.counts(), (8, 0));
}

#[tokio::test(start_paused = true)]
async fn an_expired_credential_is_renewed_once_and_the_vault_asked_again() {
    let world = World::new();
    let aek = Aek::try_from_fn(|bytes| {
        bytes.fill(7);
        Ok::<_, VaultError>(())
    })
    .unwrap();
    world.credential.turn(Token::Expired);
    let wrapped = world.asked.wrap_key(&kek(), &aek, &context()).await.unwrap();
    assert_eq!(world.counts(), (2, 1));
    world.credential.turn(Token::Expired);
    let unwrapped = world.asked.unwrap_key(&wrapped, &context()).await.unwrap();
    assert_eq!(unwrapped.expose(), aek.expose());
    assert_eq!(world.counts(), (4, 2));
}

#[cfg(feature = "aws-lc")]
#[tokio::test(start_paused = true)]
async fn a_public_half_is_asked_for_again_too() {
    let world = World::new();
    let rsa = KeyId::new("test://customer/keys/rsa/1").unwrap();
    world.vault.create_rsa_key(&rsa, cofferdam_crypto::rsa::RsaSize::Rsa2048).unwrap();
    world.credential.turn(Token::Expired);
    let public = world.asked.public_key(&rsa).await.unwrap();
    assert_eq!((public.key_id, public.key.bits()), (rsa, 2048));
    assert_eq!(world.counts(), (2, 1));
    let error = world.asked.public_key(&kek()).await.unwrap_err();
    assert_eq!((error.kind(), error.key_id()), (Kind::Other, Some(&kek())), "an AES key has none");
}

#[tokio::test(start_paused = true)]
async fn a_new_credential_that_is_not_taken_either_is_an_outage() {
    let world = World::new();
    world.credential.turn(Token::Expired);
    world.credential.service(TokenService::Gives(Token::Expired));
    assert_eq!(world.kind().await, Some(Kind::Unauthenticated));
    assert_eq!(world.counts(), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn no_credential_to_be_had_is_an_outage_whatever_the_vault_said() {
    for token in [Token::Expired, Token::Stale] {
        for service in [TokenService::Down, TokenService::Hangs] {
            let world = World::new();
            sleep(KNOWN_GOOD_FOR).await;
            world.credential.turn(token);
            world.credential.service(service);
            let failed = world.ask().await.unwrap_err();
            assert_eq!(failed.kind(), Kind::Unauthenticated, "{token:?}, {service:?}");
            assert!(failed.to_string().contains("could not be renewed"), "{failed}");
            assert_eq!(world.counts(), (1, 1));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_denial_of_a_credential_known_good_is_passed_on_at_once() {
    let world = World::new();
    world.vault.answer(Answer::Fail(Kind::AccessDenied));
    sleep(KNOWN_GOOD_FOR - MS).await;
    assert_eq!(world.kind().await, Some(Kind::AccessDenied));
    assert_eq!(world.counts(), (1, 0));
    sleep(MS).await;
    assert_eq!(world.kind().await, Some(Kind::AccessDenied));
    assert_eq!(world.counts(), (3, 1), "not known good any longer: renewed, and asked again");
    // It was renewed just now.
    assert_eq!(world.kind().await, Some(Kind::AccessDenied));
    assert_eq!(world.counts(), (4, 1));
}

#[tokio::test(start_paused = true)]
async fn a_denial_of_an_old_credential_is_no_denial_if_a_new_one_is_let_in() {
    let world = World::new();
    sleep(3600 * SECOND).await;
    world.credential.turn(Token::Stale);
    assert_eq!(world.kind().await, None);
    assert_eq!(world.counts(), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn the_age_of_a_credential_counts_suspended_time() {
    let world = World::new();
    world.credential.turn(Token::Stale);
    world.clock.suspend(KNOWN_GOOD_FOR);
    assert_eq!(world.kind().await, None);
    assert_eq!(world.counts(), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_denial_after_an_expired_credential_was_renewed_for_the_call_counts() {
    let world = World::new();
    sleep(3600 * SECOND).await;
    world.credential.turn(Token::Expired);
    world.vault.answer(Answer::Fail(Kind::AccessDenied));
    assert_eq!(world.kind().await, Some(Kind::AccessDenied));
    assert_eq!(world.counts(), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn however_many_callers_meet_an_expired_credential_one_renews_it_and_all_go_on_in_order() {
    let world = World::new();
    world.credential.turn(Token::Expired);
    world.credential.set_latency(SECOND);
    let order = Arc::new(Mutex::new(Vec::new()));
    let callers: Vec<_> = (0..1000)
        .map(|n| {
            let (asked, order) = (world.asked.clone(), order.clone());
            tokio::spawn(async move {
                asked.key_properties(&kek()).await.unwrap();
                order.lock().unwrap().push(n);
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    assert_eq!(world.counts(), (2000, 1));
    assert!(order.lock().unwrap().iter().copied().eq(0..1000));
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_ended_while_a_call_was_under_way_is_not_done_again() {
    let world = World::new();
    world.credential.turn(Token::Expired);
    world.vault.set_latency(SECOND);
    let late = world.asked.clone();
    let first = tokio::spawn({
        let asked = world.asked.clone();
        async move { asked.key_properties(&kek()).await.map(drop) }
    });
    sleep(500 * MS).await;
    // Sent with the old credential, and answered after it was renewed.
    late.key_properties(&kek()).await.unwrap();
    first.await.unwrap().unwrap();
    assert_eq!(world.counts(), (4, 1));
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_gives_up_does_not_cancel_the_renewal() {
    let world = World::new();
    world.credential.turn(Token::Expired);
    world.credential.set_latency(SECOND);
    assert!(timeout(100 * MS, world.ask()).await.is_err());
    sleep(SECOND).await;
    assert_eq!(world.credential.token(), Token::Good);
    assert_eq!(world.kind().await, None);
    assert_eq!(world.counts(), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_hangs_ends_and_the_next_call_tries_again() {
    let world = World::new();
    world.credential.turn(Token::Expired);
    world.credential.service(TokenService::Hangs);
    let asked = Instant::now();
    assert_eq!(world.kind().await, Some(Kind::Unauthenticated));
    assert!(asked.elapsed() <= 10 * SECOND + 10 * MS, "{:?}", asked.elapsed());
    world.credential.service(TokenService::Gives(Token::Good));
    assert_eq!(world.kind().await, None);
    assert_eq!(world.credential.renewals(), 2);
}
