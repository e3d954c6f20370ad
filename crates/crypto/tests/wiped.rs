//! Once a sealer is dropped, no key that it had is left in the process's memory.
//!
//! All writable memory is searched for the halves of every key. The keys are known from a vector and kept masked
//! here, so that the search does not find itself.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    missing_docs,
    reason = "a test fails by panicking, and counts are printed"
)]

mod common;

use std::{convert::Infallible, path::Path};

use cofferdam_crypto::{
    Aead, Aek, BlockId, BlockReader, BlockWriter, DefaultAead, HEADER_LEN, KeyCheckValue, KeyScope, PageSize,
    PageSpan, Provider, RecordKey, RustCrypto, Sealer, kw::Kek,
};
use common::{
    Fixed, V1,
    memory::{Needle, hits, key_of, needles},
    scope,
    vectors::{BlockVector, KeyVectors},
};

/// Far down the stack, so that the search's own frames do not cover what was left there.
#[inline(never)]
fn use_keys_deep<A: Aead>(
    aek: &[Needle],
    kek: &[Needle],
    scope: KeyScope,
    id: &BlockId,
    salt: [u8; 32],
) -> Resting {
    let pad = [0xee_u8; 100_000];
    std::hint::black_box(&pad);
    let resting = use_keys::<A>(aek, kek, scope, id, salt);
    std::hint::black_box(&pad);
    resting
}

/// A block that is half sealed and one that is half opened: neither holds a key.
type Resting = (BlockWriter, BlockReader);

#[inline(never)]
fn use_keys<A: Aead>(
    aek: &[Needle],
    kek: &[Needle],
    scope: KeyScope,
    id: &BlockId,
    salt: [u8; 32],
) -> Resting {
    let key = Aek::try_from_fn(|k| {
        key_of(aek, k);
        Ok::<_, Infallible>(())
    })
    .unwrap();
    assert!(hits(aek).iter().all(|&hits| hits > 0), "while it is in use, the search finds the key");
    let sealer = Sealer::<A>::with_aead(&key, scope);
    let text = vec![7; 10_000];
    let sealed = sealer.seal(id.at(V1), PageSize::MIN, &text, &Fixed(salt)).unwrap();
    assert_eq!(sealer.open(id.at(V1), &sealed).unwrap(), text);
    assert_eq!(KeyCheckValue::derive(&key, &scope), KeyCheckValue::derive(&key, &scope));
    assert!(RecordKey::derive(&key, &scope).verify(b"r", &RecordKey::derive(&key, &scope).tag(b"r")));
    let kek_needles = kek;
    let kek = Kek::try_from_fn(|k| {
        key_of(kek_needles, k);
        Ok::<_, Infallible>(())
    })
    .unwrap();
    let unwrapped = kek.unwrap(&kek.wrap(&key)).unwrap();

    let begin = || sealer.begin(id.at(V1), PageSize::MIN, &Fixed(salt)).unwrap();
    let (mut half, mut out) = (begin(), vec![0; 10_000]);
    sealer.write(&mut half, &text[..5_000], &mut out).unwrap();
    // Its plaintext is a key: dropped, it leaves nothing of it.
    let mut dropped = begin();
    sealer.write(&mut dropped, kek_bytes(kek_needles).as_slice(), &mut out).unwrap();
    drop(dropped);
    let span = PageSpan::whole(sealed.len() as u64, PageSize::MIN).unwrap();
    let mut reader = sealer.begin_reading(id.at(V1), &sealed, span).unwrap();
    sealer.read(&mut reader, &sealed[HEADER_LEN..HEADER_LEN + 4112], &mut out).unwrap();
    drop((key, unwrapped, sealer));
    (half, reader)
}

fn kek_bytes(kek: &[Needle]) -> zeroize::Zeroizing<Vec<u8>> {
    let mut bytes = zeroize::Zeroizing::new(vec![0; kek.len() * 16]);
    key_of(kek, &mut bytes);
    bytes
}

/// As `use_keys_deep`, of an RSA KEK.
#[cfg(feature = "aws-lc")]
#[inline(never)]
fn use_rsa_deep(aek: &[Needle], pkcs8: &[Needle], private: &[Needle]) {
    let pad = [0xee_u8; 100_000];
    std::hint::black_box(&pad);
    use_rsa(aek, pkcs8, private);
    std::hint::black_box(&pad);
}

#[cfg(feature = "aws-lc")]
#[inline(never)]
fn use_rsa(aek: &[Needle], pkcs8: &[Needle], private: &[Needle]) {
    use cofferdam_crypto::rsa::RsaKek;
    let key = Aek::try_from_fn(|k| {
        key_of(aek, k);
        Ok::<_, Infallible>(())
    })
    .unwrap();
    let mut der = zeroize::Zeroizing::new(vec![0; pkcs8.len() * 16]);
    key_of(pkcs8, &mut der);
    // The vector was padded to whole needles.
    let len = usize::from(u16::from_be_bytes([der[2], der[3]])) + 4;
    let kek = RsaKek::from_pkcs8(&der[..len]).unwrap();
    drop(der);
    let found = hits(private).iter().filter(|&&hits| hits > 0).count();
    println!("RSA: while it is in use, {found} of {} parts of the private key are found", private.len());
    assert!(found > 0);
    let wrapped = kek.public_key().wrap(&key).unwrap();
    let unwrapped = kek.unwrap(&wrapped).unwrap();
    let again = RsaKek::from_pkcs8(&kek.to_pkcs8().unwrap()).unwrap();
    assert!(again.unwrap(&wrapped[1..]).is_err() && again.unwrap(&vec![1; wrapped.len()]).is_err());
    assert_eq!(again.unwrap(&wrapped).unwrap().expose(), unwrapped.expose());
    assert!(hits(aek).iter().all(|&hits| hits > 0));
}

fn read<T: serde::de::DeserializeOwned>(name: &str) -> T {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors").join(name);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn no_key_is_left_in_memory_once_its_owner_is_dropped() {
    let vector: BlockVector = read("open/hello.json");
    let derived = vector.derived.unwrap();
    let keys: KeyVectors = read("keys.json");
    let (aek, kek) = (needles("AEK", &vector.aek), needles("KEK", &keys.wraps[0].kek));
    let mut all = needles("AEK", &vector.aek);
    all.extend(needles("KEK", &keys.wraps[0].kek));
    all.extend(needles("PRK", &derived.prk));
    all.extend(needles("DEK", &derived.dek));
    let account = common::vectors::array(&vector.account.replace('-', ""));
    let scope = KeyScope {
        account: cofferdam_crypto::AccountId::from_bytes(account),
        ..scope(0, vector.epoch, Provider::Customer)
    };
    let (id, salt) = (common::id("greeting"), common::vectors::array(&derived.salt));
    for (name, used) in [
        (
            "default AEAD",
            use_keys_deep::<DefaultAead> as fn(&[Needle], &[Needle], KeyScope, &BlockId, [u8; 32]) -> Resting,
        ),
        ("RustCrypto", use_keys_deep::<RustCrypto>),
    ] {
        let resting = used(&aek, &kek, scope, &id, salt);
        let hits = hits(&all);
        assert_eq!(resting.0.plaintext_len(), 5_000);
        assert!(resting.1.sealed_len().is_some());
        for (needle, hits) in all.iter().zip(&hits) {
            println!("{name}: {} found {hits} times", needle.name);
        }
        assert!(hits.iter().all(|&hits| hits == 0), "{name}: {hits:?}");
    }
    #[cfg(feature = "aws-lc")]
    {
        let vectors: serde_json::Value = read("rsa.json");
        let mut hex = vectors["keys"][0]["pkcs8"].as_str().unwrap().to_owned();
        hex.push_str(&"0".repeat((32 - hex.len() % 32) % 32));
        let pkcs8 = needles("PKCS#8", &hex);
        // Behind the modulus: its parts in DER, and as numbers.
        let mut private = needles("private key", &hex[2 * 320..]);
        private.pop();
        let reversed: Vec<_> = private.iter().map(Needle::reversed).collect();
        private.extend(reversed);
        use_rsa_deep(&aek, &pkcs8, &private);
        private.extend(needles("AEK", &vector.aek));
        let hits = hits(&private);
        println!("RSA: {} needles, {} found", hits.len(), hits.iter().sum::<usize>());
        let found: Vec<_> = private
            .iter()
            .zip(&hits)
            .filter(|(_, hits)| **hits > 0)
            .map(|(needle, _)| &needle.name)
            .collect();
        assert!(found.is_empty(), "RSA: {found:?}");
    }
}
