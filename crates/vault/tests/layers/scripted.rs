//! The vault of tests does what its script says, and writes down what it did.

use std::{sync::Arc, time::Duration};

use cofferdam_crypto::{AccountId, Aek, Epoch, KeyId, KeyScope, Provider, WrappedKey};
use cofferdam_vault::{
    KeyVault, VaultError, VaultErrorKind as Kind, WrapContext,
    testing::{Answer, Outcome, ScriptedCredential, ScriptedVault, Token, TokioClock},
};
use tokio::time::{Instant, sleep, timeout};

const SECOND: Duration = Duration::from_secs(1);

fn kek(n: u32) -> KeyId {
    KeyId::new(format!("test://customer/keys/payroll/{n}")).unwrap()
}

fn context(account: u8) -> WrapContext {
    let account = AccountId::from_random_bytes([account; 16]);
    WrapContext { scope: KeyScope { account, epoch: Epoch::FIRST, provider: Provider::Customer } }
}

fn vault(seed: u64) -> ScriptedVault {
    let vault = ScriptedVault::new(seed);
    (1..=2).for_each(|n| vault.create_key(&kek(n)).unwrap());
    vault
}

async fn wrapped(vault: &ScriptedVault, n: u32) -> WrappedKey {
    let aek = Aek::try_from_fn(|bytes| {
        bytes.fill(7);
        Ok::<_, VaultError>(())
    })
    .unwrap();
    vault.wrap_key(&kek(n), &aek, &context(1)).await.unwrap()
}

async fn kind(vault: &ScriptedVault, wrapped: &WrappedKey, account: u8) -> Option<Kind> {
    vault.unwrap_key(wrapped, &context(account)).await.err().map(|failed| failed.kind())
}

#[tokio::test(start_paused = true)]
async fn the_more_particular_applies_first() {
    let vault = vault(1);
    let key = wrapped(&vault, 1).await;
    let credential = Arc::new(ScriptedCredential::new(Arc::new(TokioClock::new())));
    vault.set_credential(credential.clone());
    vault.answer(Answer::Fail(Kind::Other));
    assert_eq!(kind(&vault, &key, 1).await, Some(Kind::Other));
    vault.answer_for(&kek(1), Some(Answer::Fail(Kind::KeyDisabled)));
    assert_eq!(kind(&vault, &key, 1).await, Some(Kind::KeyDisabled));
    vault.answer_by_chance(Some((100, Answer::Fail(Kind::Corrupt))));
    assert_eq!(kind(&vault, &key, 1).await, Some(Kind::Corrupt));
    vault.answer_every(Some((1, Answer::Fail(Kind::KeyNotFound))));
    assert_eq!(kind(&vault, &key, 1).await, Some(Kind::KeyNotFound));
    credential.turn(Token::Expired);
    assert_eq!(kind(&vault, &key, 1).await, Some(Kind::Unauthenticated));
    vault.flap(Some((Duration::ZERO, SECOND, Answer::Fail(Kind::Unavailable))));
    assert_eq!(kind(&vault, &key, 1).await, Some(Kind::Unavailable));
    vault.answer_account(context(1).scope.account, Some(Answer::Fail(Kind::Untrusted)));
    assert_eq!(kind(&vault, &key, 1).await, Some(Kind::Untrusted));
    assert_eq!(kind(&vault, &key, 2).await, Some(Kind::Unavailable), "another account is not cut off");
    vault.answer_next([Answer::Work]);
    assert_eq!(kind(&vault, &key, 1).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_link_flaps_by_the_clock() {
    let vault = vault(2);
    let key = wrapped(&vault, 1).await;
    vault.flap(Some((2 * SECOND, SECOND, Answer::Fail(Kind::Unavailable))));
    let mut answers = String::new();
    for _ in 0..9 {
        answers.push(if kind(&vault, &key, 1).await.is_none() { 'u' } else { 'd' });
        sleep(SECOND).await;
    }
    assert_eq!(answers, "uuduuduud");
    vault.flap(None);
    sleep(2 * SECOND).await;
    assert_eq!(kind(&vault, &key, 1).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_replica_lags_every_nth_call_and_chance_repeats_from_the_seed() {
    let run = async |seed| {
        let vault = vault(seed);
        let key = wrapped(&vault, 1).await;
        vault.answer_by_chance(Some((30, Answer::Fail(Kind::Unavailable))));
        vault.answer_every(Some((7, Answer::Fail(Kind::KeyNotFound))));
        let mut kinds = Vec::new();
        for _ in 0..700 {
            kinds.push(kind(&vault, &key, 1).await);
        }
        kinds
    };
    let kinds = run(3).await;
    assert_eq!(kinds, run(3).await);
    assert_ne!(kinds, run(4).await);
    assert_eq!(kinds.iter().filter(|kind| **kind == Some(Kind::KeyNotFound)).count(), 100);
    let failed = kinds.iter().filter(|kind| **kind == Some(Kind::Unavailable)).count();
    assert!((120..240).contains(&failed), "{failed}");
}

#[tokio::test(start_paused = true)]
async fn every_call_is_written_down_with_when_and_how_it_ended() {
    let vault = vault(5);
    let start = Instant::now();
    let key = wrapped(&vault, 2).await;
    vault.set_latency(SECOND);
    kind(&vault, &key, 1).await;
    vault.answer_next([Answer::WrongKey]);
    kind(&vault, &key, 1).await;
    let retry_after = Kind::Throttled { retry_after: Some(7 * SECOND) };
    vault.answer_next([Answer::Fail(retry_after), Answer::Hang]);
    assert_eq!(kind(&vault, &key, 1).await, Some(retry_after));
    assert!(timeout(5 * SECOND, kind(&vault, &key, 1)).await.is_err());
    let told: Vec<_> = vault
        .calls()
        .into_iter()
        .map(|call| {
            let (ended, outcome) = call.ended.unwrap();
            assert_eq!((&call.key_id, call.account), (&kek(2), Some(context(1).scope.account)));
            ((call.sent - start).as_secs(), (ended - start).as_secs(), call.unwrap, outcome)
        })
        .collect();
    let expected = [
        (0, 0, false, Outcome::Worked),
        (0, 1, true, Outcome::Worked),
        (1, 2, true, Outcome::WrongKey),
        (2, 3, true, Outcome::Failed(retry_after)),
        (3, 8, true, Outcome::GivenUp),
    ];
    assert_eq!(told, expected);
}

#[tokio::test(start_paused = true)]
async fn latencies_are_drawn_from_their_range_and_repeat_from_the_seed() {
    let run = async |seed| {
        let vault = vault(seed);
        let key = wrapped(&vault, 1).await;
        vault.set_latency_range(Duration::from_millis(10)..=Duration::from_millis(500));
        for _ in 0..200 {
            kind(&vault, &key, 1).await;
        }
        let calls = vault.calls();
        calls[1..].iter().map(|call| call.ended.unwrap().0 - call.sent).collect::<Vec<_>>()
    };
    let latencies = run(6).await;
    assert_eq!(latencies, run(6).await);
    assert!(latencies.iter().all(|l| (10..=501).contains(&l.as_millis())), "{latencies:?}");
    let (least, most) = (latencies.iter().min().unwrap(), latencies.iter().max().unwrap());
    assert!(most.as_millis() - least.as_millis() > 400, "{least:?} to {most:?}");
}

#[cfg(feature = "aws-lc")]
#[tokio::test(start_paused = true)]
async fn an_rsa_key_follows_the_script_as_an_aes_key_does() {
    use cofferdam_crypto::rsa::RsaSize;
    use cofferdam_vault::KeyKind;
    let vault = vault(7);
    let rsa = KeyId::new("test://customer/keys/rsa/1").unwrap();
    vault.create_rsa_key(&rsa, RsaSize::Rsa2048).unwrap();
    assert_eq!(vault.key_properties(&rsa).await.unwrap().kind, KeyKind::Rsa(RsaSize::Rsa2048));
    let by_aes = wrapped(&vault, 1).await;
    let aek = vault.unwrap_key(&by_aes, &context(1)).await.unwrap();
    let by_vault = vault.wrap_key(&rsa, &aek, &context(1)).await.unwrap();
    let bytes = vault.public_key(&rsa).await.unwrap().key.wrap(&aek).unwrap();
    let by_public_half = WrappedKey { bytes, ..by_vault.clone() };
    for wrap in [&by_vault, &by_public_half] {
        let again = vault.unwrap_key(wrap, &context(1)).await.unwrap();
        assert_eq!(again.expose(), aek.expose());
    }
    let moved = WrappedKey { key_id: kek(1), ..by_vault.clone() };
    assert_eq!(kind(&vault, &moved, 1).await, Some(Kind::Corrupt));
    vault.answer_next([Answer::WrongKey]);
    assert_ne!(vault.unwrap_key(&by_vault, &context(1)).await.unwrap().expose(), aek.expose());
    vault.answer_for(&rsa, Some(Answer::Fail(Kind::KeyDisabled)));
    assert_eq!(kind(&vault, &by_vault, 1).await, Some(Kind::KeyDisabled));
    assert_eq!(vault.public_key(&rsa).await.unwrap_err().kind(), Kind::KeyDisabled);
    let other = KeyId::new("test://customer/keys/rsa/2").unwrap();
    vault.create_rsa_key(&other, RsaSize::Rsa2048).unwrap();
    vault.answer_for(&rsa, None);
    assert_ne!(vault.public_key(&rsa).await.unwrap().key, vault.public_key(&other).await.unwrap().key);
}
