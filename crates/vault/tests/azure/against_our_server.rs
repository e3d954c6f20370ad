//! The Azure vault against our own Key Vault-compatible server. Alone it proves nothing, for both sides are ours: that
//! Microsoft's clients drive the same server is the other half.

use std::{sync::Arc, time::Duration};

use cofferdam_crypto::{Aek, KeyId, WrapAlgorithm, WrappedKey, rsa::RsaSize};
use cofferdam_vault::{
    KeyKind, KeyProperties, KeyState, KeyVault, Recovery, VaultError, VaultErrorKind as Kind,
    azure::{AzureOptions, AzureVault},
    serve::Permission,
};

use crate::azure_support::{CLIENT, SECRET, Served, aek, context, now};

const RSA: KeyKind = KeyKind::Rsa(RsaSize::Rsa2048);

async fn wrap(vault: &impl KeyVault, key: &KeyId) -> Result<WrappedKey, VaultError> {
    vault.wrap_key(key, &aek(7), &context()).await
}

async fn unwrap(vault: &impl KeyVault, wrapped: &WrappedKey) -> Result<Aek, VaultError> {
    vault.unwrap_key(wrapped, &context()).await
}

async fn properties(vault: &impl KeyVault, key: &KeyId) -> Result<KeyProperties, VaultError> {
    vault.key_properties(key).await
}

#[track_caller]
fn kind<T>(answer: Result<T, VaultError>) -> Kind {
    match answer {
        Ok(_) => panic!("no failure"),
        Err(e) => e.kind(),
    }
}

#[tokio::test]
async fn what_is_wrapped_is_unwrapped_by_every_kind_of_key() {
    let served = Served::start().await;
    let vault = served.vault();
    for (at, wrapped_len) in [
        (KeyKind::Aes256, 40),
        (RSA, 256),
        (KeyKind::Rsa(RsaSize::Rsa3072), 384),
        (KeyKind::Rsa(RsaSize::Rsa4096), 512),
    ] {
        let key = served.key(&format!("key-{at}"), at).await;
        for asked in [key.clone(), Served::whole(&key)] {
            let wrapped = wrap(&vault, &asked).await.unwrap();
            assert_eq!((&wrapped.key_id, wrapped.bytes.len()), (&key, wrapped_len), "{at}");
            assert_eq!(wrapped.algorithm, at.algorithm());
            assert_eq!(unwrap(&vault, &wrapped).await.unwrap().expose(), &[7; 32]);
        }
        let told = properties(&vault, &Served::whole(&key)).await.unwrap();
        assert_eq!((&told.key_id, &told.latest, told.kind, told.state), (&key, &key, at, KeyState::Enabled));
        assert!(told.recoverable());
        // The public half is the one that the customer's vault tells itself.
        match vault.public_key(&key).await {
            Ok(public) => {
                let own = served.customer.public_key(&served.local(&key)).await.unwrap();
                assert_eq!((public.key, public.key_id), (own.key, key));
            }
            Err(e) => assert_eq!((at, e.kind()), (KeyKind::Aes256, Kind::Other)),
        }
    }
}

#[tokio::test]
async fn a_key_wrapped_here_unwraps_in_the_customers_own_vault_and_the_other_way() {
    let served = Served::start().await;
    let vault = served.vault();
    for at in [KeyKind::Aes256, RSA] {
        let key = served.key(&format!("key-{at}"), at).await;
        let here = wrap(&vault, &key).await.unwrap();
        let moved = WrappedKey { key_id: served.local(&key), ..here };
        assert_eq!(served.customer.unwrap_key(&moved, &context()).await.unwrap().expose(), &[7; 32]);
        let there = wrap(&served.customer, &served.local(&key)).await.unwrap();
        let moved = WrappedKey { key_id: key, ..there };
        assert_eq!(unwrap(&vault, &moved).await.unwrap().expose(), &[7; 32]);
    }
}

#[tokio::test]
async fn a_new_version_wraps_from_now_on_and_the_old_one_still_unwraps() {
    let served = Served::start().await;
    let vault = served.vault();
    let first = served.key("payroll", RSA).await;
    let old = wrap(&vault, &Served::whole(&first)).await.unwrap();
    let second = served.served(&served.customer.new_version("payroll").await.unwrap());
    let new = wrap(&vault, &Served::whole(&first)).await.unwrap();
    assert_eq!((&old.key_id, &new.key_id), (&first, &second));
    for wrapped in [&old, &new] {
        assert_eq!(unwrap(&vault, wrapped).await.unwrap().expose(), &[7; 32]);
    }
    let told = properties(&vault, &first).await.unwrap();
    assert_eq!((told.key_id, told.latest), (first, second.clone()));
    let swapped = WrappedKey { key_id: second, ..old };
    assert_eq!(kind(unwrap(&vault, &swapped).await), Kind::Corrupt, "of the other version");
}

#[tokio::test]
async fn every_state_of_a_key_is_heard_and_left_again() {
    let served = Served::start().await;
    let (vault, customer) = (served.vault(), &served.customer);
    let key = served.key("payroll", RSA).await;
    let local = served.local(&key);
    let wrapped = wrap(&vault, &key).await.unwrap();
    let works = async || {
        assert_eq!(unwrap(&vault, &wrapped).await.unwrap().expose(), &[7; 32]);
        wrap(&vault, &key).await.unwrap();
        assert_eq!(properties(&vault, &key).await.unwrap().state, KeyState::Enabled);
    };

    customer.disable(&local).await.unwrap();
    assert_eq!(kind(unwrap(&vault, &wrapped).await), Kind::KeyDisabled);
    assert_eq!(kind(wrap(&vault, &key).await), Kind::KeyDisabled);
    assert_eq!(kind(vault.public_key(&key).await), Kind::KeyDisabled);
    customer.enable(&local).await.unwrap();
    works().await;

    customer.delete(&Served::whole(&local)).await.unwrap();
    assert_eq!(kind(unwrap(&vault, &wrapped).await), Kind::KeyNotFound);
    assert_eq!(kind(wrap(&vault, &key).await), Kind::KeyNotFound);
    assert_eq!(properties(&vault, &key).await.unwrap().state, KeyState::Deleted);
    customer.recover(&Served::whole(&local)).await.unwrap();
    works().await;

    for set in [true, false] {
        let (expiry, start) = match set {
            true => (Some(now() - Duration::from_secs(1)), None),
            false => (None, Some(now() + Duration::from_secs(3600))),
        };
        customer.set_expiry(&local, expiry).await.unwrap();
        customer.set_not_before(&local, start).await.unwrap();
        let state = if set { KeyState::Expired } else { KeyState::NotYetActive };
        assert_eq!(properties(&vault, &key).await.unwrap().state, state);
        assert_eq!(kind(wrap(&vault, &key).await), Kind::KeyDisabled, "{state:?}");
        assert_eq!(kind(vault.public_key(&key).await), Kind::KeyDisabled, "{state:?}");
    }
    customer.set_not_before(&local, None).await.unwrap();
    works().await;

    customer.set_offline(true).await.unwrap();
    assert_eq!(kind(unwrap(&vault, &wrapped).await), Kind::Unavailable, "503");
    customer.set_offline(false).await.unwrap();
    works().await;

    let nowhere = Served::whole(&key).as_str().replace("payroll", "nobody");
    assert_eq!(kind(wrap(&vault, &KeyId::new(nowhere).unwrap()).await), Kind::KeyNotFound);
}

#[tokio::test]
async fn recoverability_is_what_the_customer_set() {
    let served = Served::start().await;
    let vault = served.vault();
    let window = Duration::from_secs(7 * 86_400);
    for (at, recovery, soft_delete, purge_protection) in [
        ("a", Recovery::Off, false, false),
        ("b", Recovery::Purgeable, true, false),
        ("c", Recovery::default(), true, true),
        ("d", Recovery::Protected { window }, true, true),
    ] {
        let local = served.customer.create_key_of(at, RSA, recovery).await.unwrap();
        let told = properties(&vault, &served.served(&local)).await.unwrap();
        assert_eq!(
            (told.soft_delete, told.purge_protection),
            (soft_delete, purge_protection),
            "{recovery:?}"
        );
    }
}

#[tokio::test]
async fn access_that_is_taken_away_is_a_denial_and_given_back_it_works() {
    let served = Served::start().await;
    let vault = served.vault();
    let key = served.key("payroll", RSA).await;
    let wrapped = wrap(&vault, &key).await.unwrap();
    served.on(|server| server.permit(CLIENT, &[Permission::Get])).unwrap();
    assert_eq!(kind(unwrap(&vault, &wrapped).await), Kind::AccessDenied);
    assert_eq!(kind(wrap(&vault, &key).await), Kind::AccessDenied);
    served.on(|server| server.permit(CLIENT, &[])).unwrap();
    let denied = properties(&vault, &key).await.unwrap_err();
    assert_eq!(denied.kind(), Kind::AccessDenied);
    assert!(denied.to_string().contains("does not have keys get permission on key vault 'acme"), "{denied}");
    served.on(|server| server.permit(CLIENT, &Permission::WRAPPING)).unwrap();
    assert_eq!(unwrap(&vault, &wrapped).await.unwrap().expose(), &[7; 32]);
}

#[tokio::test]
async fn a_token_that_ends_in_mid_flight_is_renewed_and_the_call_goes_on() {
    let served = Served::start().await;
    let vault = Arc::new(served.vault());
    let key = served.key("payroll", RSA).await;
    let wrapped = wrap(&*vault, &key).await.unwrap();
    for _ in 0..3 {
        served.on(|server| server.expire_tokens());
        let callers: Vec<_> = (0..20)
            .map(|_| {
                let (vault, wrapped) = (vault.clone(), wrapped.clone());
                tokio::spawn(async move { unwrap(&*vault, &wrapped).await.map(|aek| *aek.expose()) })
            })
            .collect();
        for caller in callers {
            assert_eq!(caller.await.unwrap().unwrap(), [7; 32]);
        }
    }
    served.on(|server| {
        server.add_client_with(CLIENT, "another secret", &Permission::WRAPPING);
        server.expire_tokens();
    });
    let lost = unwrap(&*vault, &wrapped).await.unwrap_err();
    assert_eq!(lost.kind(), Kind::Unauthenticated);
    assert!(!format!("{lost} {lost:?}").contains(SECRET), "{lost:?}");
    served.on(|server| server.add_client_with(CLIENT, SECRET, &Permission::WRAPPING));
    assert_eq!(unwrap(&*vault, &wrapped).await.unwrap().expose(), &[7; 32]);
}

#[tokio::test]
async fn a_client_of_another_tenant_is_not_authenticated() {
    let served = Served::start().await;
    let key = served.key("payroll", RSA).await;
    let other = "22222222-2222-2222-2222-222222222222";
    let secret = served.on(|server| server.add_client_of(other, "stranger", &Permission::WRAPPING)).unwrap();
    let credential =
        cofferdam_vault::azure::AzureCredential::client_secret(other, "stranger", move || Ok(secret.clone()));
    let options = AzureOptions::new(served.url(), credential)
        .test_server()
        .authority_host(served.url())
        .roots_pem(served.on(|server| server.authority_pem().to_owned()));
    let stranger = AzureVault::connect(options).unwrap();
    let error = properties(&stranger, &key).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthenticated, "{error}");
}

#[tokio::test]
async fn throttling_is_passed_on_with_its_wait() {
    let served = Served::start().await;
    let vault = served.vault();
    let key = served.key("payroll", RSA).await;
    let wrapped = wrap(&vault, &key).await.unwrap();
    for wait in [Duration::from_secs(7), Duration::from_secs(86_400)] {
        served.on(|server| server.throttle(wait, Some(1)));
        assert_eq!(kind(unwrap(&vault, &wrapped).await), Kind::Throttled { retry_after: Some(wait) });
        assert_eq!(unwrap(&vault, &wrapped).await.unwrap().expose(), &[7; 32], "it asked once");
    }
}

#[tokio::test]
async fn a_server_that_goes_and_comes_back_is_an_outage_and_an_impostor_is_not_believed() {
    let served = Served::start().await;
    let vault = served.vault();
    let key = served.key("payroll", RSA).await;
    let wrapped = wrap(&vault, &key).await.unwrap();
    served.down().await;
    assert_eq!(kind(unwrap(&vault, &wrapped).await), Kind::Unavailable);
    served.impostor().await;
    assert_eq!(kind(unwrap(&vault, &wrapped).await), Kind::Untrusted);
    served.up().await;
    assert_eq!(unwrap(&vault, &wrapped).await.unwrap().expose(), &[7; 32]);
}

#[tokio::test]
async fn a_wrapped_key_that_was_tampered_with_is_corrupt() {
    let served = Served::start().await;
    let vault = served.vault();
    for at in [KeyKind::Aes256, RSA] {
        let key = served.key(&format!("key-{at}"), at).await;
        let wrapped = wrap(&vault, &key).await.unwrap();
        for byte in [0, wrapped.bytes.len() / 2, wrapped.bytes.len() - 1] {
            let mut bad = wrapped.clone();
            bad.bytes[byte] ^= 1;
            assert_eq!(kind(unwrap(&vault, &bad).await), Kind::Corrupt, "{at}, byte {byte}");
        }
    }
    let (rsa, aes) = (served.key("rsa", RSA).await, served.key("aes", KeyKind::Aes256).await);
    let of_rsa = wrap(&vault, &rsa).await.unwrap();
    let by_aes = WrappedKey { key_id: aes.clone(), ..of_rsa };
    assert_eq!(kind(unwrap(&vault, &by_aes).await), Kind::Corrupt, "a key of another kind wrapped it");
    let of_aes = wrap(&vault, &aes).await.unwrap();
    let by_rsa = WrappedKey { key_id: rsa, ..of_aes };
    assert_eq!(by_rsa.algorithm, WrapAlgorithm::Aes256Kw);
    assert_eq!(kind(unwrap(&vault, &by_rsa).await), Kind::Corrupt, "a key of another kind wrapped it");
}
