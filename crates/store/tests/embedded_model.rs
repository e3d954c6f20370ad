//! Any sequence of writes and reopenings reads as a map says; old files still open; one process at a time.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    dead_code,
    reason = "tests"
)]

mod embedded_support;

use std::{collections::BTreeMap, process::Command, sync::Arc};

use bytes::Bytes;
use cofferdam_crypto::Version;
use cofferdam_store::{
    Applied, BlockOp, BlockStore, Catalog, EmbeddedOptions, EmbeddedStore, StoreErrorKind,
};
use cofferdam_vault::Inline;
use embedded_support::*;
use proptest::prelude::*;
use tempfile::TempDir;

#[derive(Clone, Debug)]
enum Step {
    /// Blocks by (account, name, length); a length of `None` deletes. `back` makes the version an old one.
    Commit(Vec<(u8, u8, Option<usize>, bool)>),
    Swap(u8, Option<usize>),
    Reopen {
        closed: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let len = prop_oneof![0usize..200, 4000usize..9000, 61_400usize..61_500, 0usize..200_000];
    let op = (0u8..3, 0u8..6, prop::option::weighted(0.75, len), prop::bool::weighted(0.1));
    prop_oneof![
        8 => prop::collection::vec(op, 1..5).prop_map(Step::Commit),
        2 => (0u8..4, prop::option::weighted(0.8, 0usize..5000)).prop_map(|(key, len)| Step::Swap(key, len)),
        1 => any::<bool>().prop_map(|closed| Step::Reopen { closed }),
    ]
}

fn inline() -> EmbeddedOptions {
    EmbeddedOptions { cache_bytes: 1 << 20, executor: Arc::new(Inline), ..EmbeddedOptions::default() }
}

type Map = BTreeMap<(u8, Vec<u8>), (u64, Bytes)>;

fn expect(map: &mut Map, op: &BlockOp, owner: u8) -> Applied {
    let key = (owner, op.id().as_bytes().to_vec());
    let version = op.version().number();
    match map.get(&key) {
        Some((stored, _)) if *stored >= version => return Applied::Superseded { by: Version::new(*stored) },
        None if matches!(op, BlockOp::Delete { .. }) => return Applied::Absent,
        _ => {}
    }
    match op {
        BlockOp::Put { sealed, .. } => {
            map.insert(key, (version, sealed.clone()));
            Applied::Written
        }
        BlockOp::Delete { .. } => {
            map.remove(&key);
            Applied::Deleted
        }
    }
}

async fn check(steps: Vec<Step>) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.store");
    let mut store = EmbeddedStore::create(&path, inline()).unwrap();
    let (mut map, mut records) = (Map::new(), BTreeMap::<String, Bytes>::new());
    let (mut version, mut highest) = (1000, 0);
    for step in steps {
        match step {
            Step::Commit(ops) => {
                let mut owners = Vec::new();
                let batch: Vec<_> = ops
                    .into_iter()
                    .map(|(owner, name, len, back)| {
                        version += 1;
                        // An old version that nothing had: the put is late.
                        let version = if back { version - 1000 } else { version + 1000 };
                        owners.push(owner);
                        match len {
                            Some(len) => put(account(owner), [name], version, bytes_of(version, len)),
                            None => delete(account(owner), [name], version),
                        }
                    })
                    .collect();
                let expected: Vec<_> =
                    batch.iter().zip(&owners).map(|(op, owner)| expect(&mut map, op, *owner)).collect();
                highest = batch.iter().map(|op| op.version().number()).fold(highest, u64::max);
                assert_eq!(store.commit(batch).await.unwrap(), expected);
            }
            Step::Swap(key, len) => {
                let key = format!("record {key}");
                let stored = store.load(&key).await.unwrap();
                assert_eq!(stored.as_ref().map(|stored| &stored.bytes), records.get(&key));
                version += 1;
                let new = len.map(|len| bytes_of(version, len));
                let revision = stored.map(|stored| stored.revision);
                store.swap(&key, revision.as_ref(), new.clone()).await.unwrap();
                match new {
                    Some(new) => drop(records.insert(key, new)),
                    None => drop(records.remove(&key)),
                }
            }
            Step::Reopen { closed } => {
                if closed {
                    store.close().await.unwrap();
                }
                drop(store);
                store = EmbeddedStore::open(&path, inline()).unwrap();
            }
        }
        assert_eq!(store.last_version().await.unwrap(), Version::new(highest));
    }
    for owner in 0..3 {
        let listed = BlockStore::list(&store, account(owner), None, usize::MAX).await.unwrap();
        let names: Vec<_> =
            listed.iter().map(|(id, meta)| (id.as_bytes().to_vec(), meta.version.number())).collect();
        let expected: Vec<_> = map
            .iter()
            .filter(|((of, _), _)| *of == owner)
            .map(|((_, name), (version, _))| (name.clone(), *version))
            .collect();
        assert_eq!(names, expected);
        for (id, meta) in listed {
            let (_, sealed) = &map[&(owner, id.as_bytes().to_vec())];
            assert_eq!(store.fetch(account(owner), &id).await.unwrap(), Some((meta, sealed.clone())));
        }
    }
    let listed = Catalog::list(&store, "", None, usize::MAX).await.unwrap();
    assert!(listed.into_iter().map(|(key, stored)| (key, stored.bytes)).eq(records));
    assert!(store.verify().await.unwrap().is_sound());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_sequence_of_writes_and_reopenings_reads_as_a_map_says(steps in prop::collection::vec(step(), 1..25)) {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(check(steps));
    }
}

/// Written by format 1 when it was frozen: `COFFERDAM_WRITE_FIXTURE=1` writes a new one where there is none.
#[tokio::test]
async fn a_file_of_format_1_still_opens() {
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/format-1.store");
    if std::env::var_os("COFFERDAM_WRITE_FIXTURE").is_some() {
        let store = EmbeddedStore::create(fixture, inline()).unwrap();
        for (n, len) in [(1, 0), (2, 1), (3, 5000), (4, 61_441)] {
            let op = put(account(n as u8 % 2), format!("block {n}"), n, bytes_of(n, len));
            store.commit(vec![op]).await.unwrap();
        }
        store.commit(vec![delete(account(0), "block 2", 5)]).await.unwrap();
        store.swap("account/one", None, Some("a record".into())).await.unwrap();
        store.close().await.unwrap();
    }
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("copy.store");
    // Not `copy`: the fixture may be read-only, and its copy would be.
    std::fs::write(&path, std::fs::read(fixture).unwrap()).unwrap();
    let store = EmbeddedStore::open(&path, inline()).unwrap();
    for (n, len) in [(1, 0), (3, 5000), (4, 61_441)] {
        let found = store.fetch(account(n as u8 % 2), &id(format!("block {n}"))).await.unwrap().unwrap();
        assert_eq!(found, (meta(n, len), bytes_of(n, len)));
    }
    assert_eq!(store.fetch(account(0), &id("block 2")).await.unwrap(), None);
    let record = store.load("account/one").await.unwrap().unwrap();
    assert_eq!((record.bytes.as_ref(), record.revision.as_str()), (&b"a record"[..], "1"));
    assert_eq!(store.last_version().await.unwrap(), Version::new(5));
    assert!(store.verify().await.unwrap().is_sound());
    store.commit(vec![put(account(0), "new", 6, bytes_of(6, 100_000))]).await.unwrap();
    store.close().await.unwrap();
}

const CHILD: &str = "COFFERDAM_TEST_LOCKED_STORE";

/// The other process: this test, run again.
#[tokio::test]
async fn a_store_that_another_process_has_open_is_locked() {
    if let Some(path) = std::env::var_os(CHILD) {
        let kind = EmbeddedStore::open(path, inline()).unwrap_err().kind();
        assert_eq!(kind, StoreErrorKind::Locked);
        println!("refused as locked");
        return;
    }
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.store");
    let store = EmbeddedStore::create(&path, inline()).unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["a_store_that_another_process_has_open_is_locked", "--exact", "--nocapture"])
        .env(CHILD, &path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("refused as locked"), "{said}");
    drop(store);
}
