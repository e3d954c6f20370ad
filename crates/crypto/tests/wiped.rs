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

use std::{convert::Infallible, fs::File, os::unix::fs::FileExt, path::Path};

use cofferdam_crypto::{
    Aead, Aek, BlockId, DefaultAead, KeyCheckValue, KeyScope, PageSize, Provider, RecordKey, RustCrypto,
    Sealer, kw::Kek,
};
use common::{
    Fixed, V1, scope,
    vectors::{BlockVector, KeyVectors},
};
use zeroize::Zeroize;

const MASK: u8 = 0x5a;

/// Half a key, masked.
struct Needle {
    name: String,
    masked: [u8; 16],
}

/// The halves of a key in hex, byte by byte, so that the key is never whole anywhere.
fn needles(name: &str, hex: &str) -> Vec<Needle> {
    let masked: Vec<u8> =
        (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap() ^ MASK).collect();
    let halves = masked.chunks_exact(16).enumerate();
    halves
        .map(|(i, half)| Needle { name: format!("{name}, half {i}"), masked: half.try_into().unwrap() })
        .collect()
}

/// How often each needle lies in writable memory.
fn hits(needles: &[Needle]) -> Vec<usize> {
    let memory = File::open("/proc/self/mem").unwrap();
    let mut hits = vec![0; needles.len()];
    let mut chunk = vec![0u8; 1 << 20];
    for line in std::fs::read_to_string("/proc/self/maps").unwrap().lines() {
        let mut fields = line.split_whitespace();
        let (range, mode) = (fields.next().unwrap(), fields.next().unwrap());
        if !mode.starts_with("rw") || line.ends_with("[vvar]") {
            continue;
        }
        let (start, end) = range.split_once('-').unwrap();
        let (mut at, end) = (u64::from_str_radix(start, 16).unwrap(), u64::from_str_radix(end, 16).unwrap());
        while at < end {
            let len = (end - at).min(chunk.len() as u64) as usize;
            let Ok(read) = memory.read_at(&mut chunk[..len], at) else { break };
            for (needle, hits) in needles.iter().zip(&mut hits) {
                *hits += count(&chunk[..read], needle);
            }
            // Overlap, so that a needle on the seam is found.
            at += if len as u64 == end - at { read as u64 } else { read as u64 - 15 };
            if read == 0 {
                break;
            }
        }
    }
    // What it found, it holds.
    chunk.zeroize();
    hits
}

/// Compares under the mask, so that no key is made whole by searching for it.
fn count(memory: &[u8], needle: &Needle) -> usize {
    let here =
        |window: &&[u8]| window.iter().zip(&needle.masked).all(|(byte, masked)| byte ^ MASK == *masked);
    memory.windows(needle.masked.len()).filter(here).count()
}

fn key_of(needles: &[Needle], fill: &mut [u8; 32]) {
    for (byte, masked) in fill.iter_mut().zip(needles.iter().flat_map(|needle| &needle.masked)) {
        *byte = masked ^ MASK;
    }
}

/// Far down the stack, so that the search's own frames do not cover what was left there.
#[inline(never)]
fn use_keys_deep<A: Aead>(aek: &[Needle], kek: &[Needle], scope: KeyScope, id: &BlockId, salt: [u8; 32]) {
    let pad = [0xee_u8; 100_000];
    std::hint::black_box(&pad);
    use_keys::<A>(aek, kek, scope, id, salt);
    std::hint::black_box(&pad);
}

#[inline(never)]
fn use_keys<A: Aead>(aek: &[Needle], kek: &[Needle], scope: KeyScope, id: &BlockId, salt: [u8; 32]) {
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
    let kek = Kek::try_from_fn(|k| {
        key_of(kek, k);
        Ok::<_, Infallible>(())
    })
    .unwrap();
    let unwrapped = kek.unwrap(&kek.wrap(&key)).unwrap();
    drop((key, unwrapped, sealer));
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
            use_keys_deep::<DefaultAead> as fn(&[Needle], &[Needle], KeyScope, &BlockId, [u8; 32]),
        ),
        ("RustCrypto", use_keys_deep::<RustCrypto>),
    ] {
        used(&aek, &kek, scope, &id, salt);
        let hits = hits(&all);
        for (needle, hits) in all.iter().zip(&hits) {
            println!("{name}: {} found {hits} times", needle.name);
        }
        assert!(hits.iter().all(|&hits| hits == 0), "{name}: {hits:?}");
    }
}
