//! A key in a token: wraps and unwraps, has versions, and is refused when its owner says so.

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use cofferdam_crypto::{KeyId, WrapAlgorithm, WrappedKey, rsa::RsaSize};
use cofferdam_vault::{
    KeyKind, KeyState, KeyVault, Threads, VaultErrorKind as Kind,
    pkcs11::{KeyFault, Pin, Pkcs11Error as E, Pkcs11Vault},
};
use cryptoki::object::ObjectClass;

use crate::{
    support::{aek, context, kind},
    tokens::{self, Token},
};

const AES: KeyKind = KeyKind::Aes256;
const RSA_2048: KeyKind = KeyKind::Rsa(RsaSize::Rsa2048);

#[tokio::test]
async fn what_is_wrapped_unwraps_by_the_version_that_wrapped_it() {
    for token in Token::each() {
        let vault = token.vault().await;
        let first = vault.create_key("pay roll", AES).await.unwrap();
        let any = vault.key_id("pay roll", AES).unwrap();
        assert_eq!(any.as_str(), format!("pkcs11:token={};object=pay%20roll;type=secret-key", token.label));
        assert!(vault.owns(&first) && vault.owns(&any));
        let old = vault.wrap_key(&any, &aek(7), &context()).await.unwrap();
        assert_eq!((&old.key_id, old.algorithm, old.bytes.len()), (&first, WrapAlgorithm::Aes256Kw, 40));
        // The clock stands still: the version is the later one all the same.
        let second = vault.new_version("pay roll").await.unwrap();
        let new = vault.wrap_key(&any, &aek(8), &context()).await.unwrap();
        assert_eq!(new.key_id, second);
        let by_name = vault.wrap_key(&first, &aek(7), &context()).await.unwrap();
        assert_eq!(by_name, old, "AES key wrap has no randomness");
        let again = token.vault().await;
        for (wrapped, byte) in [(&old, 7), (&new, 8), (&old, 7)] {
            assert_eq!(again.unwrap_key(wrapped, &context()).await.unwrap().expose(), aek(byte).expose());
        }
        let properties = again.key_properties(&first).await.unwrap();
        assert_eq!((&properties.key_id, &properties.latest), (&first, &second));
        assert_eq!((properties.kind, properties.state), (AES, KeyState::Enabled));
        assert!(
            properties.recoverable() && properties.not_before.is_none() && properties.expires_at.is_none()
        );
        let error = again.public_key(&any).await.unwrap_err();
        assert!(error.kind() == Kind::Other && error.to_string().contains("no RSA key"), "{error}");
    }
}

#[tokio::test]
async fn nobody_vouches_for_a_key_unless_told_to() {
    for token in Token::each() {
        let vault = Pkcs11Vault::open(token.options(token.pin).recoverable(false)).await.unwrap();
        let key = vault.create_key("unvouched", AES).await.unwrap();
        let properties = vault.key_properties(&key).await.unwrap();
        assert!(!properties.soft_delete && !properties.purge_protection);
    }
}

#[tokio::test]
async fn what_its_owner_does_to_a_key_is_felt_by_the_next_call() {
    for token in Token::each() {
        let vault = token.vault().await;
        let old = vault.create_key("owned", AES).await.unwrap();
        let wrapped = vault.wrap_key(&old, &aek(7), &context()).await.unwrap();
        let new = vault.new_version("owned").await.unwrap();
        let any = vault.key_id("owned", AES).unwrap();
        let state =
            async |key: &KeyId| vault.key_properties(key).await.map(|p| p.state).map_err(|e| e.kind());
        let unwraps = async || kind(vault.unwrap_key(&wrapped, &context()).await);
        let wraps = async |key: &KeyId| kind(vault.wrap_key(key, &aek(1), &context()).await);
        assert_eq!((unwraps().await, wraps(&old).await, wraps(&any).await), (None, None, None));

        token.owner("disable", &old);
        assert_eq!((unwraps().await, wraps(&old).await), (Some(Kind::KeyDisabled), Some(Kind::KeyDisabled)));
        assert_eq!(state(&old).await, Ok(KeyState::Disabled));
        assert_eq!(
            (wraps(&any).await, state(&any).await),
            (None, Ok(KeyState::Enabled)),
            "the latest is another"
        );
        token.owner("enable", &old);
        assert_eq!((unwraps().await, wraps(&old).await), (None, None));

        token.owner("forbid wrapping", &old);
        assert_eq!((unwraps().await, wraps(&old).await), (None, Some(Kind::KeyDisabled)));
        assert_eq!(state(&old).await, Ok(KeyState::Disabled), "it is not good for all");

        vault.disable(&any).await.unwrap();
        assert_eq!((unwraps().await, wraps(&new).await), (Some(Kind::KeyDisabled), Some(Kind::KeyDisabled)));
        assert_eq!(wraps(&any).await, Some(Kind::KeyDisabled), "no older version is tried");
        vault.enable(&any).await.unwrap();
        assert_eq!((unwraps().await, wraps(&old).await, wraps(&new).await), (None, None, None));

        token.owner("delete", &old);
        assert_eq!((unwraps().await, wraps(&old).await), (Some(Kind::KeyNotFound), Some(Kind::KeyNotFound)));
        assert_eq!(state(&old).await, Err(Kind::KeyNotFound));
        assert_eq!(wraps(&any).await, None);
        token.owner("delete", &any);
        assert_eq!((wraps(&any).await, state(&any).await), (Some(Kind::KeyNotFound), Err(Kind::KeyNotFound)));
        for gone in [vault.disable(&any).await, vault.enable(&old).await] {
            assert!(matches!(gone, Err(E::Key { fault: KeyFault::NotFound, .. })), "{gone:?}");
        }
    }
}

#[tokio::test]
async fn a_wrap_that_is_not_this_keys_is_corrupt_and_never_a_denial() {
    for token in Token::each() {
        let vault = token.vault().await;
        let key = vault.create_key("sound", AES).await.unwrap();
        let other = vault.create_key("another", AES).await.unwrap();
        let wrapped = vault.wrap_key(&key, &aek(7), &context()).await.unwrap();
        let corrupt = async |what: &str, wrapped: &WrappedKey| {
            let error = vault.unwrap_key(wrapped, &context()).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Corrupt, "{what}: {error}");
            error.to_string()
        };
        for bit in (0..320).step_by(17) {
            let mut bad = wrapped.clone();
            bad.bytes[bit / 8] ^= 1 << (bit % 8);
            let said = corrupt(&format!("bit {bit}"), &bad).await;
            assert!(said.contains("UnwrapKey") && said.contains("restore"), "the token was asked: {said}");
        }
        corrupt("another key's", &WrappedKey { key_id: other.clone(), ..wrapped.clone() }).await;
        for len in (0..600).filter(|len| *len != 40) {
            corrupt("its length", &WrappedKey { bytes: vec![0xa6; len], ..wrapped.clone() }).await;
        }
        for (algorithm, len) in [(WrapAlgorithm::RsaOaep256, 256), (WrapAlgorithm::AwsKms, 40 + 60)] {
            let key_id = key.clone();
            corrupt("its algorithm", &WrappedKey { key_id, algorithm, bytes: vec![1; len] }).await;
        }
        let any = vault.key_id("sound", AES).unwrap();
        corrupt("no version", &WrappedKey { key_id: any, ..wrapped.clone() }).await;
        vault.disable(&key).await.unwrap();
        let mut bad = wrapped.clone();
        bad.bytes[0] ^= 1;
        let denied = kind(vault.unwrap_key(&bad, &context()).await);
        assert_eq!(denied, Some(Kind::KeyDisabled), "its owner's word goes first");
        vault.enable(&key).await.unwrap();
        assert_eq!(vault.unwrap_key(&wrapped, &context()).await.unwrap().expose(), aek(7).expose());
    }
}

#[tokio::test]
async fn what_anybody_wraps_by_the_public_half_the_token_unwraps() {
    let Some(token) = Token::kryoptic() else { return };
    let vault = token.vault().await;
    for (size, label) in RsaSize::ALL.into_iter().zip(["rsa-a", "rsa-b", "rsa-c"]) {
        let key = vault.create_key(label, KeyKind::Rsa(size)).await.unwrap();
        let public = vault.public_key(&vault.key_id(label, RSA_2048).unwrap()).await.unwrap();
        assert_eq!((&public.key_id, public.key.size()), (&key, size));
        let bytes = public.key.wrap(&aek(7)).unwrap();
        let by_anybody = WrappedKey { key_id: key.clone(), algorithm: WrapAlgorithm::RsaOaep256, bytes };
        let by_vault = vault.wrap_key(&key, &aek(8), &context()).await.unwrap();
        assert_eq!(
            (by_vault.algorithm, by_vault.bytes.len()),
            (WrapAlgorithm::RsaOaep256, size.modulus_len())
        );
        for (wrapped, byte) in [(&by_anybody, 7), (&by_vault, 8)] {
            assert_eq!(vault.unwrap_key(wrapped, &context()).await.unwrap().expose(), aek(byte).expose());
        }
        assert_eq!(vault.key_properties(&key).await.unwrap().kind, KeyKind::Rsa(size));
    }
    let (key, longer) = (latest(&vault, "rsa-a").await, latest(&vault, "rsa-b").await);
    let wrapped = vault.wrap_key(&key, &aek(7), &context()).await.unwrap();
    for bit in [0, 9, 2_000, 2_047] {
        let mut bad = wrapped.clone();
        bad.bytes[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(kind(vault.unwrap_key(&bad, &context()).await), Some(Kind::Corrupt), "bit {bit}");
    }
    let moved = WrappedKey { key_id: longer, ..wrapped.clone() };
    assert_eq!(kind(vault.unwrap_key(&moved, &context()).await), Some(Kind::Corrupt));
    let second = vault.new_version("rsa-a").await.unwrap();
    assert_ne!(vault.public_key(&second).await.unwrap().key, vault.public_key(&key).await.unwrap().key);
    token.owner("disable", &key);
    assert_eq!(kind(vault.unwrap_key(&wrapped, &context()).await), Some(Kind::KeyDisabled));
    assert_eq!(kind(vault.wrap_key(&key, &aek(7), &context()).await), Some(Kind::KeyDisabled));
    assert_eq!(kind(vault.public_key(&key).await), Some(Kind::KeyDisabled), "it is for wrapping");
    assert_eq!(vault.key_properties(&key).await.unwrap().state, KeyState::Disabled);
    vault.enable(&key).await.unwrap();
    assert_eq!(vault.unwrap_key(&wrapped, &context()).await.unwrap().expose(), aek(7).expose());
}

async fn latest(vault: &Pkcs11Vault, label: &str) -> KeyId {
    let any = vault.key_id(label, RSA_2048).unwrap();
    vault.key_properties(&any).await.unwrap().latest
}

#[tokio::test]
async fn a_token_without_oaep_and_sha_256_says_so_before_a_key_is_relied_on() {
    let Some(token) = Token::softhsm() else { return };
    let vault = token.vault().await;
    let refused = vault.create_key("no-rsa", RSA_2048).await;
    assert!(matches!(refused, Err(E::NoOaepSha256 { .. })), "{refused:?}");
    let session = token.session();
    for class in [ObjectClass::PRIVATE_KEY, ObjectClass::PUBLIC_KEY] {
        assert!(tokens::objects(&session, class, "no-rsa", None).is_empty(), "nothing is left behind");
    }
    // One that its owner made.
    tokens::make_rsa(&session, "owners-rsa", &[1]);
    let key =
        KeyId::new(format!("pkcs11:token={};object=owners-rsa;id=%01;type=private", token.label)).unwrap();
    for error in [
        vault.key_properties(&key).await.map(drop).unwrap_err(),
        vault.public_key(&key).await.map(drop).unwrap_err(),
        vault.wrap_key(&key, &aek(7), &context()).await.map(drop).unwrap_err(),
    ] {
        assert_eq!(error.kind(), Kind::Other);
        assert!(error.to_string().contains("can't do RSA-OAEP with SHA-256"), "{error}");
    }
}

#[tokio::test]
async fn a_key_id_of_another_token_or_vault_is_refused_before_anything_is_asked() {
    for token in Token::each() {
        let pin = tokens::GivenPin::new(token.pin);
        let mut options = token.options(token.pin);
        options.pin = pin.clone();
        let vault = Pkcs11Vault::open(options).await.unwrap();
        for id in [
            "pkcs11:token=another;object=k;id=%01;type=secret-key".to_owned(),
            format!("pkcs11:token={};object=k;type=cert", token.label),
            format!("pkcs11:token={};object=k;type=secret-key?pin-value=1234", token.label),
            "local://acme/keys/k".to_owned(),
            "https://acme.vault.azure.net/keys/k".to_owned(),
        ] {
            let id = KeyId::new(id).unwrap();
            assert!(!vault.owns(&id), "{id}");
            let wrapped = WrappedKey { key_id: id.clone(), algorithm: AES.algorithm(), bytes: vec![0; 40] };
            assert_eq!(kind(vault.wrap_key(&id, &aek(7), &context()).await), Some(Kind::Other), "{id}");
            assert_eq!(kind(vault.unwrap_key(&wrapped, &context()).await), Some(Kind::Other), "{id}");
            assert_eq!(kind(vault.key_properties(&id).await), Some(Kind::Other), "{id}");
            assert_eq!(kind(vault.public_key(&id).await), Some(Kind::Other), "{id}");
        }
        assert_eq!(*pin.asked.lock().unwrap(), 0);
    }
}

#[tokio::test]
async fn keys_are_made_under_labels_that_are_free_and_of_kinds_that_tokens_have() {
    for token in Token::each() {
        let vault = token.vault().await;
        vault.create_key("taken", AES).await.unwrap();
        for kind in [AES, RSA_2048] {
            let refused = vault.create_key("taken", kind).await;
            assert!(matches!(refused, Err(E::Key { fault: KeyFault::Exists, .. })), "{refused:?}");
        }
        let refused = vault.new_version("nobody's").await;
        assert!(matches!(refused, Err(E::Key { fault: KeyFault::NotFound, .. })), "{refused:?}");
        for kind in [KeyKind::AwsKms, KeyKind::Transit] {
            assert!(matches!(vault.create_key("foreign", kind).await, Err(E::KindOfOthers { .. })));
        }
        for label in ["", &"k".repeat(256)] {
            assert!(matches!(vault.create_key(label, AES).await, Err(E::BadLabel { .. })), "{label}");
        }
        let odd = "\u{e9}/;=%?&'\u{1F511} ";
        let key = vault.create_key(odd, AES).await.unwrap();
        let wrapped = vault.wrap_key(&vault.key_id(odd, AES).unwrap(), &aek(7), &context()).await.unwrap();
        assert_eq!(wrapped.key_id, key);
    }
}

#[tokio::test]
async fn the_version_made_later_is_the_latest_whatever_the_clock_says() {
    for token in Token::each() {
        let vault = token.vault().await;
        vault.create_key("timed", AES).await.unwrap();
        let any = vault.key_id("timed", AES).unwrap();
        for back in [true, false, true] {
            let now = cofferdam_vault::Clock::now(&*token.clock);
            let wall = if back {
                now.wall - Duration::from_secs(9_000)
            } else {
                now.wall + Duration::from_secs(9_000)
            };
            token.clock.set(cofferdam_vault::Timestamp { wall, ..now });
            let made = vault.new_version("timed").await.unwrap();
            assert_eq!(vault.key_properties(&any).await.unwrap().latest, made);
        }
    }
}

#[tokio::test]
async fn many_calls_at_once_share_a_few_sessions() {
    for token in Token::each() {
        let options = token.options(token.pin).sessions(NonZeroUsize::new(3).unwrap());
        let vault = Pkcs11Vault::open(options.executor(Arc::new(Threads::new(8)))).await.unwrap();
        let key = vault.create_key("busy", AES).await.unwrap();
        let calls = (0..60u8).map(|n| {
            let (vault, key) = (vault.clone(), key.clone());
            tokio::spawn(async move {
                let wrapped = vault.wrap_key(&key, &aek(n), &context()).await.unwrap();
                assert_eq!(vault.unwrap_key(&wrapped, &context()).await.unwrap().expose(), aek(n).expose());
            })
        });
        for call in calls.collect::<Vec<_>>() {
            call.await.unwrap();
        }
        let session = token.session();
        let left = session.find_objects(&[cryptoki::object::Attribute::Token(false)]).unwrap();
        assert!(left.is_empty(), "no AEK is left in the token: {left:?}");
        let slot = session.get_session_info().unwrap().slot_id();
        if let Some(open) = token.raw().get_token_info(slot).unwrap().session_count().filter(|n| *n > 0) {
            assert!(open <= 3 + 1, "{open} sessions");
        }
    }
}

#[tokio::test]
async fn nothing_that_is_printed_has_a_pin() {
    for token in Token::each() {
        let vault = token.vault().await;
        vault.create_key("printed", AES).await.unwrap();
        let printed = format!("{vault:?} {:?}", Pin::new(token.pin.into()).unwrap());
        assert!(printed.contains(token.label) && !printed.contains(token.pin), "{printed}");
    }
}
