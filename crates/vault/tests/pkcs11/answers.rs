//! What both tokens say when something is wrong, word for word: what the vault's table was made from.

use cofferdam_vault::{KeyKind, KeyVault};
use cryptoki::{
    error::Error,
    mechanism::{
        Mechanism, MechanismType,
        rsa::{PkcsMgfType, PkcsOaepParams, PkcsOaepSource},
    },
    object::{Attribute as A, KeyType, ObjectClass},
    session::UserType,
    types::AuthPin,
};

use crate::{
    support::{aek, context},
    tokens::{self, Token},
};

/// What was done, what SoftHSM2 says, what Kryoptic says.
const ANSWERS: [(&str, &str, &str); 17] = [
    ("unwrap, tampered", "GeneralError, UnwrapKey", "DeviceError, UnwrapKey"),
    ("unwrap, 39 bytes", "WrappedKeyLenRange, UnwrapKey", "DataLenRange, UnwrapKey"),
    ("unwrap, 48 bytes", "GeneralError, UnwrapKey", "DeviceError, UnwrapKey"),
    ("unwrap, no bytes", "WrappedKeyLenRange, UnwrapKey", "KeySizeRange, UnwrapKey"),
    ("wrap the KEK", "KeyUnextractable, WrapKey", "KeyUnextractable, WrapKey"),
    ("make it extractable", "AttributeReadOnly, SetAttributeValue", "AttributeReadOnly, SetAttributeValue"),
    ("unwrap, disabled", "KeyFunctionNotPermitted, UnwrapKey", "WrappingKeyHandleInvalid, UnwrapKey"),
    ("wrap, disabled", "KeyFunctionNotPermitted, WrapKey", "WrappingKeyHandleInvalid, WrapKey"),
    ("OAEP with SHA-256, no ciphertext", "ArgumentsBad, DecryptInit", "DeviceError, Decrypt"),
    (
        "OAEP with SHA-256, disabled",
        "KeyFunctionNotPermitted, DecryptInit",
        "KeyFunctionNotPermitted, DecryptInit",
    ),
    ("unwrap, deleted", "UnwrappingKeyHandleInvalid, UnwrapKey", "ObjectHandleInvalid, UnwrapKey"),
    ("read, deleted", "ObjectHandleInvalid, GetAttributeValue", "ObjectHandleInvalid, GetAttributeValue"),
    ("no such slot", "SlotIdInvalid, OpenSession", "SlotIdInvalid, OpenSession"),
    ("make a key, read only", "SessionReadOnly, GenerateKey", "SessionReadOnly, GenerateKey"),
    ("wrong PIN", "PinIncorrect, Login", "PinIncorrect, Login"),
    ("finalised", "CryptokiNotInitialized, GetSlotList", "CryptokiNotInitialized, GetSlotList"),
    ("session closed", "SessionHandleInvalid, GetSessionInfo", "SessionHandleInvalid, GetSessionInfo"),
];

fn said<T>(answer: Result<T, Error>) -> String {
    match answer {
        Err(Error::Pkcs11(code, function)) => format!("{code:?}, {function:?}"),
        Err(other) => other.to_string(),
        Ok(_) => "done".into(),
    }
}

#[tokio::test]
async fn both_tokens_say_what_the_table_was_made_from() {
    for token in Token::each() {
        let said = answers(&token).await;
        assert_eq!(said.len(), ANSWERS.len());
        for ((what, said), (of, softhsm, kryoptic)) in said.iter().zip(ANSWERS) {
            assert_eq!(*what, of);
            assert_eq!(said, if token.is_softhsm() { softhsm } else { kryoptic }, "{what}, {}", token.label);
        }
    }
}

async fn answers(token: &Token) -> Vec<(&'static str, String)> {
    let mut answers = Vec::new();
    let mut note = |what, answer| answers.push((what, answer));
    let vault = token.vault().await;
    let key = vault.create_key("answers", KeyKind::Aes256).await.unwrap();
    let wrap = vault.wrap_key(&key, &aek(7), &context()).await.unwrap().bytes;
    let session = token.session();
    let kek = tokens::objects(&session, ObjectClass::SECRET_KEY, "answers", None)[0];
    let template = [
        A::Class(ObjectClass::SECRET_KEY),
        A::KeyType(KeyType::AES),
        A::Token(false),
        A::Sensitive(false),
        A::Extractable(true),
    ];
    let unwrap = |bytes: &[u8]| said(session.unwrap_key(&Mechanism::AesKeyWrap, kek, bytes, &template));
    assert_eq!(unwrap(&wrap), "done");
    let mut tampered = wrap.clone();
    tampered[3] ^= 1;
    note("unwrap, tampered", unwrap(&tampered));
    note("unwrap, 39 bytes", unwrap(&wrap[..39]));
    note("unwrap, 48 bytes", unwrap(&[&wrap[..], &[0; 8]].concat()));
    note("unwrap, no bytes", unwrap(&[]));
    let wrap_of = |object| said(session.wrap_key(&Mechanism::AesKeyWrap, kek, object));
    note("wrap the KEK", wrap_of(kek));
    note("make it extractable", said(session.update_attributes(kek, &[A::Extractable(true)])));
    session.update_attributes(kek, &[A::Wrap(false), A::Unwrap(false)]).unwrap();
    note("unwrap, disabled", unwrap(&wrap));
    let aek = session.create_object(&[&template[..], &[A::Value(vec![1; 32])]].concat()).unwrap();
    note("wrap, disabled", wrap_of(aek));
    tokens::make_rsa(&session, "answers", &[1]);
    let rsa = tokens::objects(&session, ObjectClass::PRIVATE_KEY, "answers", None)[0];
    let source = PkcsOaepSource::empty();
    let oaep = PkcsOaepParams::new(MechanismType::SHA256, PkcsMgfType::MGF1_SHA256, source);
    let decrypt = || said(session.decrypt(&Mechanism::RsaPkcsOaep(oaep), rsa, &[0; 256]));
    note("OAEP with SHA-256, no ciphertext", decrypt());
    session.update_attributes(rsa, &[A::Decrypt(false)]).unwrap();
    note("OAEP with SHA-256, disabled", decrypt());
    session.destroy_object(kek).unwrap();
    note("unwrap, deleted", unwrap(&wrap));
    note("read, deleted", said(session.get_attributes(kek, &[cryptoki::object::AttributeType::Wrap])));
    let client = token.raw();
    note("no such slot", said(client.open_ro_session(77u64.try_into().unwrap())));
    let slot = session.get_session_info().unwrap().slot_id();
    let read_only = client.open_ro_session(slot).unwrap();
    let stored = [A::Token(true), A::ValueLen(32.into())];
    note("make a key, read only", said(read_only.generate_key(&Mechanism::AesKeyGen, &stored)));
    session.logout().unwrap();
    note("wrong PIN", said(session.login(UserType::User, Some(&AuthPin::new("00000000".into())))));
    client.clone().finalize().unwrap();
    note("finalised", said(client.get_slots_with_token()));
    token.raw();
    note("session closed", said(session.get_session_info()));
    answers
}
