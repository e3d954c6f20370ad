//! Keys that were not made here: found where they are the only one meant, refused where they are no KEK.

use std::time::Duration;

use cofferdam_crypto::KeyId;
use cofferdam_vault::{
    Clock, KeyKind, KeyState, KeyVault, Timestamp, VaultErrorKind as Kind, pkcs11::KeyFault,
};
use cryptoki::{
    mechanism::Mechanism,
    object::{Attribute as A, KeyType, ObjectClass},
    session::Session,
    types::Date,
};

use crate::{
    support::{aek, context, kind},
    tokens::Token,
};

fn make(session: &Session, label: &str, id: &[u8], but: &[A]) {
    let mut template = vec![
        A::Token(true),
        A::Private(true),
        A::Sensitive(true),
        A::Extractable(false),
        A::Wrap(true),
        A::Unwrap(true),
        A::ValueLen(32.into()),
        A::Label(label.into()),
        A::Id(id.into()),
    ];
    for attribute in but {
        template.retain(|a| a.attribute_type() != attribute.attribute_type());
        template.push(attribute.clone());
    }
    session.generate_key(&Mechanism::AesKeyGen, &template).unwrap();
}

fn id(token: &Token, rest: &str) -> KeyId {
    KeyId::new(format!("pkcs11:token={};object={rest}", token.label)).unwrap()
}

#[tokio::test]
async fn a_key_of_its_owners_is_found_where_nothing_else_is_meant() {
    for token in Token::each() {
        let vault = token.vault().await;
        let session = token.session();
        make(&session, "owners", &[1], &[]);
        let (any, one, two) = (
            id(&token, "owners;type=secret-key"),
            id(&token, "owners;id=%01;type=secret-key"),
            id(&token, "owners;id=%02;type=secret-key"),
        );
        let wrapped = vault.wrap_key(&any, &aek(7), &context()).await.unwrap();
        assert_eq!(wrapped.key_id, one);
        assert_eq!(kind(vault.wrap_key(&two, &aek(7), &context()).await), Some(Kind::KeyNotFound));
        let as_rsa = id(&token, "owners;id=%01;type=private");
        assert_eq!(kind(vault.wrap_key(&as_rsa, &aek(7), &context()).await), Some(Kind::KeyNotFound));
        make(&session, "owners", &[2], &[]);
        let error = vault.wrap_key(&any, &aek(7), &context()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Other);
        assert!(error.to_string().contains("name the id"), "{error}");
        for named in [&one, &two] {
            let wrapped = vault.wrap_key(named, &aek(7), &context()).await.unwrap();
            assert_eq!(vault.unwrap_key(&wrapped, &context()).await.unwrap().expose(), aek(7).expose());
            assert_eq!(
                vault.key_properties(named).await.unwrap().latest,
                *named,
                "it is the one that is named"
            );
        }
        let refused = vault.new_version("owners").await.unwrap_err();
        assert!(refused.to_string().contains("were not made here"), "{refused}");
        make(&session, "owners", &[1], &[]);
        let error = vault.unwrap_key(&wrapped, &context()).await.unwrap_err();
        assert!(error.kind() == Kind::Other && error.to_string().contains("two keys"), "{error}");
    }
}

#[tokio::test]
async fn a_key_that_can_leave_or_is_of_another_kind_is_refused_and_no_denial() {
    for token in Token::each() {
        let vault = token.vault().await;
        let session = token.session();
        make(&session, "leaves", &[1], &[A::Extractable(true)]);
        make(&session, "shows", &[1], &[A::Sensitive(false)]);
        make(&session, "short", &[1], &[A::ValueLen(16.into())]);
        make(&session, "nameless", &[], &[]);
        let generic = [
            A::Class(ObjectClass::SECRET_KEY),
            A::KeyType(KeyType::GENERIC_SECRET),
            A::Token(true),
            A::Private(true),
            A::Sensitive(true),
            A::Extractable(false),
            A::Label(b"generic".into()),
            A::Id(vec![1]),
            A::Value(vec![7; 32]),
        ];
        session.create_object(&generic).unwrap();
        for (label, says) in [
            ("leaves", "can leave its token (CKA_EXTRACTABLE)"),
            ("shows", "can leave its token (not CKA_SENSITIVE)"),
            ("short", "AES with 128 bits"),
            ("nameless", "no CKA_ID"),
            ("generic", "GENERIC_SECRET"),
        ] {
            let key = id(&token, &format!("{label};type=secret-key"));
            for error in [
                vault.wrap_key(&key, &aek(7), &context()).await.map(drop).unwrap_err(),
                vault.key_properties(&key).await.map(drop).unwrap_err(),
            ] {
                assert_eq!(error.kind(), Kind::Other, "{label}");
                assert!(error.to_string().contains(says), "{error}");
            }
        }
    }
}

#[tokio::test]
async fn a_key_is_used_from_its_start_date_to_the_end_of_its_end_date() {
    for token in Token::each() {
        let vault = token.vault().await;
        let session = token.session();
        let dates = [
            A::StartDate(Date::new(*b"2026", *b"11", *b"20")),
            A::EndDate(Date::new(*b"2026", *b"11", *b"27")),
            // SoftHSM2 can't tell the dates of a private object.
            A::Private(!token.is_softhsm()),
        ];
        make(&session, "dated", &[1], &dates);
        let key = id(&token, "dated;id=%01;type=secret-key");
        let (start, end) = (Duration::from_secs(20_777 * 86_400), Duration::from_secs(20_785 * 86_400));
        let mut wrapped = None;
        for (wall, state) in [
            (start, KeyState::Enabled),
            (start - Duration::from_millis(1), KeyState::NotYetActive),
            (end - Duration::from_millis(1), KeyState::Enabled),
            (end, KeyState::Expired),
        ] {
            token.clock.set(Timestamp { wall, ..token.clock.now() });
            let properties = vault.key_properties(&key).await.unwrap();
            assert_eq!(
                (properties.state, properties.not_before, properties.expires_at),
                (state, Some(start), Some(end))
            );
            let answer = vault.wrap_key(&key, &aek(7), &context()).await;
            let denied = (state != KeyState::Enabled).then_some(Kind::KeyDisabled);
            assert_eq!(answer.as_ref().err().map(|e| e.kind()), denied, "{state:?}");
            let wrapped = wrapped.get_or_insert_with(|| answer.unwrap());
            assert_eq!(kind(vault.unwrap_key(wrapped, &context()).await), denied, "{state:?}");
        }
    }
}

#[tokio::test]
async fn a_date_that_its_token_cannot_tell_is_an_outage_and_not_ignored() {
    let Some(token) = Token::softhsm() else { return };
    let vault = token.vault().await;
    make(&token.session(), "untold", &[1], &[A::EndDate(Date::new(*b"2020", *b"01", *b"01"))]);
    let key = id(&token, "untold;id=%01;type=secret-key");
    let error = vault.wrap_key(&key, &aek(7), &context()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.to_string().contains("GeneralError to C_GetAttributeValue"), "{error}");
}

#[tokio::test]
async fn a_key_that_may_not_be_changed_says_so() {
    for token in Token::each() {
        let vault = token.vault().await;
        make(&token.session(), "fixed", &[1], &[A::Modifiable(false)]);
        let key = id(&token, "fixed;id=%01;type=secret-key");
        let refused = vault.disable(&key).await.unwrap_err();
        let is_fixed = matches!(
            refused,
            cofferdam_vault::pkcs11::Pkcs11Error::Key { fault: KeyFault::Fixed { .. }, .. }
        );
        assert!(is_fixed, "{refused:?}");
        assert_eq!(vault.key_properties(&key).await.unwrap().kind, KeyKind::Aes256);
    }
}
