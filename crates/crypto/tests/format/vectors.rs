//! The frozen vectors in the repository's tests/vectors: what they hold is what we generate, seal, open and refuse.
//!
//! `COFFERDAM_WRITE_VECTORS=1` writes those that are missing. One that exists is never overwritten: what was
//! sealed once must open for ever.

use std::{collections::BTreeMap, fs, path::PathBuf};

use cofferdam_crypto::{
    AccountId, Aead, BlockId, DefaultAead, Epoch, KeyCheckValue, KeyScope, OpenError, Provider, RecordKey,
    RustCrypto, Sealer, SegmentId, Version, kw::Kek, kw::UnwrapError,
};
use sha2::{Digest, Sha256};

use crate::common::{
    Fixed, aek,
    vectors::{
        BlockVector, CheckVector, KeyVectors, SegmentCheckVector, SegmentVectors, TagVector, WrapVector,
        array, generate, hex, unhex,
    },
};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors")
}

/// Every file below the folder, by its path there.
fn frozen() -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    for kind in ["open", "refuse"] {
        for entry in fs::read_dir(folder().join(kind)).unwrap() {
            let entry = entry.unwrap();
            let name = format!("{kind}/{}", entry.file_name().into_string().unwrap());
            files.insert(name, fs::read_to_string(entry.path()).unwrap());
        }
    }
    for name in ["keys.json", "segments.json"] {
        if let Ok(text) = fs::read_to_string(folder().join(name)) {
            files.insert(name.into(), text);
        }
    }
    files
}

fn blocks(kind: &str) -> Vec<(String, BlockVector)> {
    let of_kind = frozen().into_iter().filter(|(name, _)| name.starts_with(kind));
    of_kind.map(|(name, text)| (name, serde_json::from_str(&text).unwrap())).collect()
}

#[test]
fn what_is_generated_is_what_was_frozen() {
    let generated = generate();
    if std::env::var("COFFERDAM_WRITE_VECTORS").is_ok_and(|v| v == "1") {
        for (name, text) in &generated {
            let path = folder().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            if !path.exists() {
                fs::write(path, text).unwrap();
                println!("wrote {name}");
            }
        }
    }
    let frozen = frozen();
    assert_eq!(frozen.keys().collect::<Vec<_>>(), generated.keys().collect::<Vec<_>>());
    for (name, text) in &generated {
        assert!(frozen[name] == *text, "{name}: generated is not what was frozen");
    }
    println!("{} files of vectors, each generated again byte for byte", frozen.len());
}

fn scope_of(account: &str, epoch: u32, provider: &str, segment: Option<&str>) -> KeyScope {
    KeyScope {
        account: AccountId::from_bytes(array(&account.replace('-', ""))),
        epoch: Epoch::new(epoch),
        provider: match (provider, segment) {
            ("customer", None) => Provider::Customer,
            ("service", None) => Provider::Service,
            ("buffer", Some(segment)) => Provider::Buffer(SegmentId::from_bytes(array(segment))),
            other => panic!("provider {other:?}"),
        },
    }
}

fn sealer<A: Aead>(vector: &BlockVector) -> Sealer<A> {
    let scope = scope_of(&vector.account, vector.epoch, &vector.provider, vector.segment.as_deref());
    Sealer::with_aead(&aek(&array(&vector.aek)), scope)
}

fn open<A: Aead>(vector: &BlockVector, out: &mut [u8]) -> Result<usize, OpenError> {
    let id = BlockId::new(unhex(&vector.block_id)).unwrap();
    let at = id.at(Version::new(u64::from_be_bytes(array(&vector.version))));
    sealer::<A>(vector).open_to(at, &unhex(&vector.sealed), out)
}

fn opens_by<A: Aead>(name: &str, vector: &BlockVector) {
    let plaintext = vector.plaintext.as_ref().unwrap();
    let mut out = vec![0xee; plaintext.len];
    assert_eq!(open::<A>(vector, &mut out), Ok(plaintext.len), "{name}");
    assert_eq!(hex(&Sha256::digest(&out)), plaintext.sha256, "{name}");

    // And sealing it again under its salt gives its bytes.
    let derived = vector.derived.as_ref().unwrap();
    let id = BlockId::new(unhex(&vector.block_id)).unwrap();
    let at = id.at(Version::new(u64::from_be_bytes(array(&vector.version))));
    let page = cofferdam_crypto::PageSize::new(derived.page_size).unwrap();
    let sealed = sealer::<A>(vector).seal(at, page, &out, &Fixed(array(&derived.salt))).unwrap();
    assert_eq!(hex(&sealed), vector.sealed, "{name}");
}

#[test]
fn every_good_vector_opens_and_seals_again_to_its_bytes_by_both_aeads() {
    let vectors = blocks("open");
    for (name, vector) in &vectors {
        opens_by::<DefaultAead>(name, vector);
        opens_by::<RustCrypto>(name, vector);
    }
    println!("{} good vectors opened and sealed again by both AEADs", vectors.len());
    assert!(vectors.len() >= 10);
}

#[test]
fn every_bad_vector_is_refused_by_both_aeads() {
    let vectors = blocks("refuse");
    let mut out = vec![0; 1 << 20];
    for (name, vector) in &vectors {
        for refused in [open::<DefaultAead>, open::<RustCrypto>] {
            out.fill(0xee);
            assert_eq!(refused(vector, &mut out), Err(OpenError::Refused), "{name}");
            assert!(out.iter().all(|&byte| byte == 0), "{name}: something left in the output");
        }
    }
    println!("{} bad vectors refused by both AEADs", vectors.len());
    assert!(vectors.len() >= 30);
}

#[test]
fn every_key_vector_holds() {
    let vectors: KeyVectors = serde_json::from_str(&frozen()["keys.json"]).unwrap();
    for CheckVector { comment, account, epoch, provider, aek: key, check } in &vectors.key_check_values {
        let scope = scope_of(account, *epoch, provider, None);
        let derived = serde_json::to_value(KeyCheckValue::derive(&aek(&array(key)), &scope)).unwrap();
        assert_eq!(derived, check.as_str(), "{comment}");
    }
    for WrapVector { comment, kek, wrapped, aek: expected } in &vectors.wraps {
        let kek = Kek::try_from_fn(|k| {
            *k = array(kek);
            Ok::<_, UnwrapError>(())
        })
        .unwrap();
        match (kek.unwrap(&unhex(wrapped)), expected) {
            (Ok(unwrapped), Some(expected)) => {
                assert_eq!(hex(unwrapped.expose()), *expected, "{comment}");
                assert_eq!(hex(&kek.wrap(&unwrapped)), *wrapped, "{comment}");
            }
            (Err(_), None) => {}
            (unwrapped, _) => panic!("{comment}: {unwrapped:?}"),
        }
    }
    for TagVector { comment, account, epoch, provider, aek: key, record, tag } in &vectors.record_tags {
        let scope = scope_of(account, *epoch, provider, None);
        let record_key = RecordKey::derive(&aek(&array(key)), &scope);
        assert_eq!(hex(&record_key.tag(&unhex(record))), *tag, "{comment}");
    }
    println!(
        "{} key check values, {} wraps, {} record tags",
        vectors.key_check_values.len(),
        vectors.wraps.len(),
        vectors.record_tags.len()
    );
}

#[test]
fn every_segment_vector_holds() {
    let vectors: SegmentVectors = serde_json::from_str(&frozen()["segments.json"]).unwrap();
    for SegmentCheckVector { comment, account, epoch, segment, aek: key, check } in &vectors.key_check_values
    {
        let scope = scope_of(account, *epoch, "buffer", Some(segment));
        let derived = serde_json::to_value(KeyCheckValue::derive(&aek(&array(key)), &scope)).unwrap();
        assert_eq!(derived, check.as_str(), "{comment}");
    }
    for TagVector { comment, account, epoch, provider, aek: key, record, tag } in &vectors.record_tags {
        let record_key = RecordKey::derive(&aek(&array(key)), &scope_of(account, *epoch, provider, None));
        assert_eq!(hex(&record_key.segment_tag(&unhex(record))), *tag, "{comment}");
        assert!(!record_key.verify(&unhex(record), &array(tag)), "{comment}: it is no account's");
    }
    let (checks, tags) = (vectors.key_check_values.len(), vectors.record_tags.len());
    println!("{checks} key check values and {tags} record tags of segments");
}

#[test]
fn the_worked_example_of_the_documentation_is_the_vector() {
    let doc = fs::read_to_string(folder().join("../../docs/format.md")).unwrap();
    let words: Vec<&str> = doc.split_whitespace().collect();
    let (_, vector) = blocks("open/hello").remove(0);
    let derived = vector.derived.unwrap();
    let sealed = &vector.sealed;
    let keys: KeyVectors = serde_json::from_str(&frozen()["keys.json"]).unwrap();
    for value in [
        &vector.aek,
        &vector.account,
        &vector.block_id,
        &vector.version,
        &derived.salt,
        &derived.prk,
        &derived.identity,
        &derived.identity[..42],
        &derived.dek,
        &derived.commitment,
        &sealed[24..88],
        &sealed[88..152],
        &sealed[152..186],
        &sealed[186..],
        &keys.key_check_values[0].check,
        &keys.wraps[0].kek,
        &keys.wraps[0].wrapped,
        &keys.record_tags[1].tag,
    ] {
        assert!(words.contains(&value), "docs/format.md lacks {value}");
    }
    assert!(doc.contains("4346444d 01 01 01 0c 00000001"));
    assert_eq!(sealed[..24], "4346444d0101010c00000001"[..]);
}
