//! A PIN is asked for when it is needed; one that the token refused is tried once; a locked token is an outage.

use std::{
    fmt::{Debug, Write as _},
    sync::{Arc, Mutex},
};

use cofferdam_crypto::KeyId;
use cofferdam_vault::{
    KeyKind, KeyVault, Threads, VaultErrorKind as Kind,
    pkcs11::{PinFile, Pkcs11Options, Pkcs11Vault},
};
use cryptoki::{session::UserType, slot::Slot, types::AuthPin};
use data_encoding::HEXLOWER;
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
    span,
};

use crate::{
    heard,
    support::{aek, context, kind},
    tokens::{GivenPin, Token},
};

const WRONG: &str = "00000000";

fn pin(pin: &str) -> AuthPin {
    AuthPin::new(pin.into())
}

fn options(token: &Token, pin: &Arc<GivenPin>) -> Pkcs11Options {
    let mut options = token.options(token.pin);
    options.pin = pin.clone();
    options
}

/// A key, made by a vault that has logged out again.
async fn key(token: &Token, label: &str) -> KeyId {
    token.vault().await.create_key(label, KeyKind::Aes256).await.unwrap()
}

fn slot(token: &Token) -> Slot {
    let client = token.raw();
    let slots = client.get_slots_with_token().unwrap();
    slots.into_iter().find(|s| client.get_token_info(*s).unwrap().label() == token.label).unwrap()
}

#[tokio::test]
async fn a_pin_is_asked_for_once_a_login() {
    for token in Token::each() {
        let key = key(&token, "once").await;
        let given = GivenPin::new(token.pin);
        let vault = Pkcs11Vault::open(options(&token, &given)).await.unwrap();
        assert_eq!(*given.asked.lock().unwrap(), 0, "nothing is asked before it is needed");
        for _ in 0..20 {
            vault.wrap_key(&key, &aek(7), &context()).await.unwrap();
        }
        assert_eq!(*given.asked.lock().unwrap(), 1);
    }
}

#[tokio::test]
async fn a_refused_pin_is_an_outage_and_not_tried_again() {
    for token in Token::each() {
        let key = key(&token, "refused").await;
        let given = GivenPin::new(WRONG);
        let vault = Pkcs11Vault::open(options(&token, &given)).await.unwrap();
        // Kryoptic locks after ten.
        for _ in 0..40 {
            let error = vault.wrap_key(&key, &aek(7), &context()).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Unauthenticated);
            assert!(error.to_string().contains("refused this PIN"), "{error}");
            assert!(!format!("{error:?} {error}").contains(WRONG));
        }
        given.give("11111111");
        assert_eq!(kind(vault.key_properties(&key).await), Some(Kind::Unauthenticated), "another is tried");
        given.give(token.pin);
        assert_eq!(kind(vault.key_properties(&key).await), None, "nothing is locked, and nothing to forget");
    }
}

#[tokio::test]
async fn many_calls_at_once_try_a_wrong_pin_once() {
    for token in Token::each() {
        let key = key(&token, "at-once").await;
        let given = GivenPin::new(WRONG);
        let options = options(&token, &given).executor(Arc::new(Threads::new(8)));
        let vault = Pkcs11Vault::open(options).await.unwrap();
        let ask = || {
            let (vault, key) = (vault.clone(), key.clone());
            tokio::spawn(async move { kind(vault.wrap_key(&key, &aek(7), &context()).await) })
        };
        for call in (0..40).map(|_| ask()).collect::<Vec<_>>() {
            assert_eq!(call.await.unwrap(), Some(Kind::Unauthenticated));
        }
        given.give(token.pin);
        assert_eq!(ask().await.unwrap(), None, "the token has not locked");
    }
}

#[tokio::test]
async fn a_refused_pin_that_the_token_has_now_is_tried_when_the_refusal_is_forgotten() {
    for token in Token::each() {
        let key = key(&token, "changed").await;
        let given = GivenPin::new(WRONG);
        let vault = Pkcs11Vault::open(options(&token, &given)).await.unwrap();
        assert_eq!(kind(vault.key_properties(&key).await), Some(Kind::Unauthenticated));
        let session = token.session();
        session.set_pin(&pin(token.pin), &pin(WRONG)).unwrap();
        drop(session);
        assert_eq!(kind(vault.key_properties(&key).await), Some(Kind::Unauthenticated));
        vault.forget_pin_refusal();
        assert_eq!(kind(vault.key_properties(&key).await), None);
        drop(vault);
        let session = token.raw().open_rw_session(slot(&token)).unwrap();
        session.login(UserType::User, Some(&pin(WRONG))).unwrap();
        session.set_pin(&pin(WRONG), &pin(token.pin)).unwrap();
    }
}

#[tokio::test]
async fn a_locked_token_is_an_outage_until_its_security_officer_sets_a_pin() {
    // SoftHSM2 never locks.
    let Some(token) = Token::kryoptic() else { return };
    let key = key(&token, "locked").await;
    let given = GivenPin::new(token.pin);
    let vault = Pkcs11Vault::open(options(&token, &given)).await.unwrap();
    let session = token.raw().open_rw_session(slot(&token)).unwrap();
    for _ in 0..12 {
        session.login(UserType::User, Some(&pin(WRONG))).unwrap_err();
    }
    for _ in 0..3 {
        let error = vault.wrap_key(&key, &aek(7), &context()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unauthenticated);
        assert!(error.to_string().contains("security officer"), "{error}");
    }
    session.login(UserType::So, Some(&pin(token.so_pin))).unwrap();
    session.init_pin(&pin(token.pin)).unwrap();
    session.logout().unwrap();
    drop(session);
    assert_eq!(kind(vault.wrap_key(&key, &aek(7), &context()).await), None);
}

#[tokio::test]
async fn a_pin_file_that_is_missing_is_an_outage_until_it_is_there() {
    for token in Token::each() {
        let key = key(&token, "file").await;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pin");
        let mut options = token.options(token.pin);
        options.pin = Arc::new(PinFile::new(&path));
        let vault = Pkcs11Vault::open(options).await.unwrap();
        let error = vault.wrap_key(&key, &aek(7), &context()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unauthenticated);
        assert!(error.to_string().contains("can't read the PIN's file"), "{error}");
        std::fs::write(&path, format!("{}\n", token.pin)).unwrap();
        assert_eq!(kind(vault.wrap_key(&key, &aek(7), &context()).await), None);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(kind(vault.wrap_key(&key, &aek(7), &context()).await), None, "it is logged in");
    }
}

/// Everything that is traced, at every level, as one text.
#[derive(Clone, Default)]
struct Traced(Arc<Mutex<String>>);

impl Visit for Traced {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        writeln!(self.0.lock().unwrap(), "{field}={value:?}").unwrap();
    }
}

impl Subscriber for Traced {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &span::Attributes<'_>) -> span::Id {
        span.record(&mut self.clone());
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, values: &span::Record<'_>) {
        values.record(&mut self.clone());
    }

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        event.record(&mut self.clone());
    }

    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

#[tokio::test]
async fn neither_a_pin_nor_a_key_is_traced() {
    for token in Token::each() {
        let traced = Traced::default();
        let _heard = heard::by(traced.clone());
        let key = key(&token, "traced").await;
        let given = GivenPin::new(WRONG);
        let vault = Pkcs11Vault::open(options(&token, &given)).await.unwrap();
        let mut said = format!("{:?}", vault.wrap_key(&key, &aek(0xa7), &context()).await.unwrap_err());
        given.give(token.pin);
        let mut wrapped = vault.wrap_key(&key, &aek(0xa7), &context()).await.unwrap();
        token.session().logout().unwrap();
        vault.unwrap_key(&wrapped, &context()).await.unwrap();
        wrapped.bytes[0] ^= 1;
        said.push_str(&format!("{:?}", vault.unwrap_key(&wrapped, &context()).await.unwrap_err()));
        said.push_str(&traced.0.lock().unwrap());
        for told in ["refused the PIN", "logged in", "lost a session", token.label] {
            assert!(said.contains(told), "{told} is not in: {said}");
        }
        let bytes = format!("{:?}", [0xa7_u8; 4]);
        let hex = HEXLOWER.encode(&[0xa7; 4]);
        for secret in [WRONG, token.pin, token.so_pin, &hex, bytes.trim_matches(['[', ']'])] {
            assert!(!said.contains(secret), "{secret} is in: {said}");
        }
    }
}
