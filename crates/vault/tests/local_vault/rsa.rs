//! RSA KEKs of a local vault: what is wrapped for them by anybody unwraps by the vault alone, and the file that holds
//! them is of a version that says so.

use std::{fs, path::Path, sync::Arc};

use cofferdam_crypto::{
    KeyId, WrapAlgorithm, WrappedKey,
    rsa::{RsaKek, RsaPublicKey, RsaSize},
};
use cofferdam_vault::{
    AwsLcRsaKeys, KeyKind, KeyVault, LocalVault, LocalVaultError as E, Recovery, VaultErrorKind as Kind,
};
use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

use crate::support::{Fixture, aek, context, kind};

const RSA_2048: KeyKind = KeyKind::Rsa(RsaSize::Rsa2048);
const PASSPHRASES: [Option<&str>; 2] = [None, Some("correct horse")];

async fn create(vault: &LocalVault, name: &str, kind: KeyKind) -> KeyId {
    vault.create_key_of(name, kind, Recovery::default()).await.unwrap()
}

fn version_of(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    text.split_once("\"version\": ").unwrap().1.chars().next().unwrap().to_string()
}

#[tokio::test]
async fn what_anybody_wraps_by_the_public_half_the_vault_unwraps() {
    for passphrase in PASSPHRASES {
        let fixture = Fixture::new(passphrase);
        let vault = fixture.create().await;
        for (size, name) in RsaSize::ALL.into_iter().zip(["a", "b", "c"]) {
            let key = create(&vault, name, KeyKind::Rsa(size)).await;
            let public = vault.public_key(&vault.key_id(name).unwrap()).await.unwrap();
            assert_eq!((&public.key_id, public.key.size()), (&key, size));
            let bytes = public.key.wrap(&aek(7)).unwrap();
            let wrapped = WrappedKey { key_id: public.key_id, algorithm: WrapAlgorithm::RsaOaep256, bytes };
            let reopened = fixture.open().await;
            assert_eq!(reopened.unwrap_key(&wrapped, &context()).await.unwrap().expose(), aek(7).expose());
            let by_vault = vault.wrap_key(&key, &aek(7), &context()).await.unwrap();
            assert_eq!((by_vault.algorithm, by_vault.bytes.len()), (wrapped.algorithm, size.modulus_len()));
            assert_ne!(by_vault.bytes, wrapped.bytes, "OAEP draws a seed");
            assert_eq!(vault.unwrap_key(&by_vault, &context()).await.unwrap().expose(), aek(7).expose());
        }
    }
}

#[tokio::test]
async fn a_key_of_aws_lcs_own_is_as_good() {
    let fixture = Fixture::new(Some("correct horse"));
    fixture.create().await;
    let options = fixture.options(Some("correct horse")).rsa_keys(Arc::new(AwsLcRsaKeys));
    let vault = LocalVault::open(fixture.path(), options).await.unwrap();
    let key = create(&vault, "payroll", RSA_2048).await;
    let next = vault.new_version("payroll").await.unwrap();
    let (old, new) = (vault.public_key(&key).await.unwrap(), vault.public_key(&next).await.unwrap());
    assert_ne!(old.key, new.key);
    let wrapped = vault.wrap_key(&key, &aek(7), &context()).await.unwrap();
    assert_eq!(
        fixture.open().await.unwrap_key(&wrapped, &context()).await.unwrap().expose(),
        aek(7).expose()
    );
}

#[tokio::test]
async fn a_wrap_of_another_key_length_or_algorithm_is_corrupt() {
    let fixture = Fixture::new(None);
    let vault = fixture.create().await;
    let rsa = create(&vault, "rsa", RSA_2048).await;
    let other = create(&vault, "other", RSA_2048).await;
    let longer = create(&vault, "longer", KeyKind::Rsa(RsaSize::Rsa3072)).await;
    let aes = create(&vault, "aes", KeyKind::Aes256).await;
    let by_rsa = vault.wrap_key(&rsa, &aek(7), &context()).await.unwrap();
    let by_longer = vault.wrap_key(&longer, &aek(7), &context()).await.unwrap();
    let by_aes = vault.wrap_key(&aes, &aek(7), &context()).await.unwrap();
    let of = |key: &KeyId, wrap: &WrappedKey| WrappedKey { key_id: key.clone(), ..wrap.clone() };
    let as_oaep = WrappedKey { algorithm: WrapAlgorithm::RsaOaep256, ..by_aes.clone() };
    let as_kw = WrappedKey { algorithm: WrapAlgorithm::Aes256Kw, ..by_rsa.clone() };
    for (what, wrap) in [
        ("by another RSA key", of(&other, &by_rsa)),
        ("by a longer RSA key", of(&rsa, &by_longer)),
        ("by a shorter RSA key", of(&longer, &by_rsa)),
        ("by an RSA key, for AES", of(&aes, &by_rsa)),
        ("by an AES key, for RSA", of(&rsa, &by_aes)),
        ("by an AES key, said to be OAEP", of(&rsa, &as_oaep)),
        ("by an RSA key, said to be key wrap", of(&aes, &as_kw)),
    ] {
        assert_eq!(kind(vault.unwrap_key(&wrap, &context()).await), Some(Kind::Corrupt), "{what}");
    }
    for bit in (0..256 * 8).step_by(37) {
        let mut bad = by_rsa.clone();
        bad.bytes[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(kind(vault.unwrap_key(&bad, &context()).await), Some(Kind::Corrupt), "bit {bit}");
    }
    vault.disable(&aes).await.unwrap();
    let denied = vault.unwrap_key(&of(&aes, &by_rsa), &context()).await;
    assert_eq!(kind(denied), Some(Kind::KeyDisabled), "its owner's word goes first");
    fs::remove_file(fixture.path()).unwrap();
    for len in (0..1_000).filter(|len| ![256, 384, 512].contains(len)) {
        let bad = WrappedKey { bytes: vec![0xa6; len], ..by_rsa.clone() };
        assert_eq!(kind(vault.unwrap_key(&bad, &context()).await), Some(Kind::Corrupt), "{len} bytes");
    }
    let unversioned = WrappedKey { key_id: vault.key_id("rsa").unwrap(), ..by_rsa };
    assert_eq!(kind(vault.unwrap_key(&unversioned, &context()).await), Some(Kind::Corrupt));
}

#[tokio::test]
async fn a_wrap_of_something_shorter_is_corrupt() {
    // 16 bytes that OpenSSL wrapped would be refused as frozen vectors are; here the vault's own error is looked at.
    let fixture = Fixture::new(None);
    let vault = fixture.create().await;
    let key = create(&vault, "payroll", RSA_2048).await;
    let zeros = WrappedKey { key_id: key, algorithm: WrapAlgorithm::RsaOaep256, bytes: vec![0; 256] };
    let error = vault.unwrap_key(&zeros, &context()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
    assert!(error.to_string().contains("was not wrapped for this RSA key"), "{error}");
}

#[tokio::test]
async fn an_aes_key_has_no_public_half() {
    let fixture = Fixture::new(None);
    let vault = fixture.create().await;
    let key = vault.create_key("payroll").await.unwrap();
    let error = vault.public_key(&key).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Other);
    assert!(error.to_string().contains("no RSA key"), "{error}");
    assert_eq!(kind(vault.public_key(&vault.key_id("none").unwrap()).await), Some(Kind::KeyNotFound));
}

#[tokio::test]
async fn a_new_version_is_of_its_keys_kind() {
    for passphrase in PASSPHRASES {
        let fixture = Fixture::new(passphrase);
        let vault = fixture.create().await;
        let own = &KeyKind::ALL[..4];
        for (&kind, name) in own.iter().zip(["a", "b", "c", "d"]) {
            create(&vault, name, kind).await;
            let next = vault.new_version(name).await.unwrap();
            assert_eq!(vault.key_properties(&next).await.unwrap().kind, kind);
        }
        let kinds: Vec<_> = vault.list().await.unwrap().into_iter().map(|key| key.kind).collect();
        assert_eq!(kinds, own);
        for foreign in &KeyKind::ALL[4..] {
            let refused = vault.create_key_of("e", *foreign, Recovery::default()).await.unwrap_err();
            assert!(matches!(refused, E::KindOfOthers { .. }), "{refused}");
        }
    }
}

#[tokio::test]
async fn a_vault_is_of_version_2_while_it_has_rsa_keys_and_of_version_1_otherwise() {
    for passphrase in PASSPHRASES {
        let fixture = Fixture::new(passphrase);
        let vault = fixture.create().await;
        vault.create_key("aes").await.unwrap();
        assert_eq!(version_of(&fixture.path()), "1");
        let key = vault.create_key_of("rsa", RSA_2048, Recovery::Off).await.unwrap();
        assert_eq!(version_of(&fixture.path()), "2");
        assert_eq!(fixture.open().await.list().await.unwrap().len(), 2);
        vault.delete(&key).await.unwrap();
        assert_eq!(version_of(&fixture.path()), "1");
        assert_eq!(fixture.open().await.list().await.unwrap().len(), 1);
    }
}

#[tokio::test]
async fn a_file_of_version_1_is_read_and_may_get_rsa_keys() {
    // Written by the program before RSA.
    let (old, passphrase) = (include_str!("../fixtures/local-vault-1.json"), "correct horse");
    let fixture = Fixture::new(Some(passphrase));
    fs::write(fixture.path(), old).unwrap();
    let vault = fixture.open().await;
    let key = vault.list().await.unwrap()[0].versions[0].key_id.clone();
    let bytes = HEXLOWER.decode(include_bytes!("../fixtures/local-vault-1.wrap")).unwrap();
    let wrapped = WrappedKey { key_id: key, algorithm: WrapAlgorithm::Aes256Kw, bytes };
    assert_eq!(vault.unwrap_key(&wrapped, &context()).await.unwrap().expose(), aek(7).expose());
    create(&vault, "rsa", RSA_2048).await;
    assert_eq!(
        fixture.open().await.unwrap_key(&wrapped, &context()).await.unwrap().expose(),
        aek(7).expose()
    );
}

/// The file with this in place of that, under a checksum that fits.
fn forge(path: &Path, this: &str, that: &str) {
    const CHECKSUM: &str = ",\n  \"checksum\": \"";
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(this), "{this} is not in {text}");
    let text = text.replacen(this, that, 1);
    let body = &text[..text.rfind(CHECKSUM).unwrap()];
    let checksum = HEXLOWER.encode(&Sha256::digest(body.as_bytes()));
    fs::write(path, format!("{body}{CHECKSUM}{checksum}\"\n}}\n")).unwrap();
}

#[tokio::test]
async fn files_that_contradict_themselves_about_rsa_are_refused() {
    let fixture = Fixture::new(None);
    let vault = fixture.create().await;
    let key = create(&vault, "payroll", RSA_2048).await;
    create(&vault, "archive", RSA_2048).await;
    vault.create_key("aes").await.unwrap();
    let wrapped = vault.wrap_key(&key, &aek(7), &context()).await.unwrap();
    let whole = fs::read_to_string(fixture.path()).unwrap();
    let part = |name: &str, at: usize| {
        let (_, rest) = whole.match_indices(name).nth(at).map(|(i, n)| (i, &whole[i + n.len()..])).unwrap();
        rest[..rest.find('"').unwrap()].to_owned()
    };
    let (public, other) = (part("\"public\": \"", 0), part("\"public\": \"", 1));
    let pkcs8 = part("\"pkcs8\": \"", 0);
    for (this, that) in [
        ("\"version\": 2", "\"version\": 1"),
        ("\"rsa_clear\"", "\"rsa_sealed\""),
        ("\"pkcs8\": \"", "\"pkcs8\": \"0"),
        ("\"pkcs8\": \"30", "\"pkcs8\": \"zz"),
        ("\"public\": \"30", "\"public\": \"31"),
        ("\"public\": \"30", "\"public\": \"30\", \"more\": \"30"),
    ] {
        forge(&fixture.path(), this, that);
        let opened = LocalVault::open(fixture.path(), fixture.options(None)).await;
        assert!(matches!(opened, Err(E::Damaged { .. })), "{that}: {opened:?}");
        assert_eq!(kind(vault.unwrap_key(&wrapped, &context()).await), Some(Kind::Other), "{that}");
        fs::write(fixture.path(), &whole).unwrap();
    }
    let spki = HEXLOWER.decode(public.as_bytes()).unwrap();
    assert!(RsaPublicKey::from_spki(&spki).is_ok());
    assert!(RsaKek::from_pkcs8(&HEXLOWER.decode(pkcs8.as_bytes()).unwrap()).is_ok());
    let long = "0".repeat(20_000);
    for (this, that) in [(&public, &other), (&pkcs8, &pkcs8[..pkcs8.len() - 2].to_owned()), (&pkcs8, &long)] {
        forge(&fixture.path(), this, that);
        let answer = vault.unwrap_key(&wrapped, &context()).await.unwrap_err();
        assert_eq!(answer.kind(), Kind::Other, "a private half that is not its public half's: {answer}");
        assert!(!format!("{answer:?}").contains(&pkcs8[60..80]), "no message holds a key");
        fs::write(fixture.path(), &whole).unwrap();
    }
}

#[tokio::test]
async fn a_protected_file_holds_no_private_half() {
    let fixture = Fixture::new(Some("correct horse"));
    let vault = fixture.create().await;
    let key = create(&vault, "payroll", RSA_2048).await;
    let text = fs::read_to_string(fixture.path()).unwrap();
    assert!(!text.contains("clear") && !text.contains("pkcs8"), "{text}");
    let public = vault.public_key(&key).await.unwrap().key;
    assert!(text.contains(&HEXLOWER.encode(public.spki())), "the public half is no secret");
}
