//! Any sequence of writes and reopenings reads as a map says; old files still open; one process at a time.

use std::{process::Command, sync::Arc};

use cofferdam_crypto::Version;
use cofferdam_store::{
    BlockOp, BlockStore, BufferLimit, Catalog, EmbeddedOptions, EmbeddedStore, StoreErrorKind,
};
use cofferdam_vault::Inline;
use proptest::prelude::*;
use tempfile::TempDir;

use crate::embedded_support::{
    model::{Model, lay_open},
    *,
};

/// An operation on a block, by account and name.
#[derive(Clone, Copy, Debug)]
enum What {
    Put(usize),
    Delete,
    /// With one of a few limits.
    Buffer(usize, u8),
    /// Whatever is buffered.
    Drain(usize),
    /// Whatever is stored, under the epoch after its own or under the same.
    Reseal(usize, bool),
    Discard,
}

#[derive(Clone, Debug)]
enum Step {
    /// `true` makes the version an old one, or for a drain and a discard another one than is buffered.
    Commit(Vec<(u8, u8, What, bool)>),
    Swap(u8, Option<usize>),
    /// The record of a segment, from the right one or from another.
    ReplaceSegment(u8, u8, bool),
    Remove(u8, usize),
    Compact,
    Reopen {
        closed: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let len = || prop_oneof![0usize..200, 4000usize..9000, 61_400usize..61_500, 0usize..200_000];
    let what = prop_oneof![
        3 => len().prop_map(What::Put),
        2 => Just(What::Delete),
        4 => (len(), 0u8..8).prop_map(|(len, limit)| What::Buffer(len, limit)),
        3 => len().prop_map(What::Drain),
        3 => (len(), prop::bool::weighted(0.8)).prop_map(|(len, later)| What::Reseal(len, later)),
        1 => Just(What::Discard),
    ];
    let op = (0u8..3, 0u8..6, what, prop::bool::weighted(0.1));
    prop_oneof![
        8 => prop::collection::vec(op, 1..5).prop_map(Step::Commit),
        2 => (0u8..4, prop::option::weighted(0.8, 0usize..5000)).prop_map(|(key, len)| Step::Swap(key, len)),
        1 => (0u8..3, 0u8..4, prop::bool::weighted(0.8)).prop_map(|(of, n, right)| Step::ReplaceSegment(of, n, right)),
        1 => (0u8..3, prop_oneof![0usize..4, Just(1000)]).prop_map(|(of, limit)| Step::Remove(of, limit)),
        1 => Just(Step::Compact),
        1 => any::<bool>().prop_map(|closed| Step::Reopen { closed }),
    ]
}

/// The operation, given what is buffered now.
fn op_of(model: &Model, step: (u8, u8, What, bool), version: u64) -> BlockOp {
    let (owner, name, what, odd) = step;
    let owner = account(owner);
    let buffered = model.buffered.get(&(owner, id([name]))).map_or(0, |(meta, _)| meta.version.number());
    // An old version that nothing had: the write is late.
    let own = if odd { version - 1000 } else { version + 1000 };
    let exact = if odd { buffered + 1 } else { buffered };
    match what {
        What::Put(len) => put(owner, [name], own, bytes_of(version, len)),
        What::Delete => delete(owner, [name], own),
        What::Buffer(len, limit) => {
            let limit = match limit {
                0 => BufferLimit { bytes: 100_000, ..UNBOUNDED },
                1 => BufferLimit { since: time(version + 900), ..UNBOUNDED },
                _ => UNBOUNDED,
            };
            buffer_within(limit, owner, [name], own, bytes_of(version, len))
        }
        What::Drain(len) => drain(owner, [name], exact, bytes_of(version, len), version + 1000),
        What::Reseal(len, later) => {
            let there =
                model.stored.get(&(owner, id([name]))).map(|(meta, _)| (meta.version.number(), meta.epoch));
            let (there, epoch) = there.unwrap_or((0, cofferdam_crypto::Epoch::FIRST));
            let epoch = epoch.number() + u32::from(later);
            reseal(owner, [name], there + u64::from(odd), epoch, bytes_of(version, len))
        }
        What::Discard => discard(owner, [name], exact),
    }
}

fn inline() -> EmbeddedOptions {
    EmbeddedOptions { cache_bytes: 1 << 20, executor: Arc::new(Inline), ..EmbeddedOptions::default() }
}

async fn check(steps: Vec<Step>) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("a.store");
    let mut store = EmbeddedStore::create(&path, inline()).unwrap();
    let accounts = [0, 1, 2].map(account);
    let mut model = Model::default();
    let mut version = 1000;
    for (n, step) in steps.into_iter().enumerate() {
        match step {
            Step::Commit(ops) => {
                // Each as if the ones before it were done, so that a drain may follow its write in one batch.
                let mut ahead = model.clone();
                let batch: Vec<_> = ops
                    .into_iter()
                    .map(|op| {
                        version += 1;
                        let op = op_of(&ahead, op, version);
                        let _ = ahead.commit(std::slice::from_ref(&op));
                        op
                    })
                    .collect();
                let expected = model.commit(&batch);
                let found = store.commit(batch.clone()).await.map_err(|error| error.kind());
                assert_eq!(found, expected, "step {n}: {batch:?}");
            }
            Step::Swap(key, len) => {
                let key = format!("record {key}");
                let stored = store.load(&key).await.unwrap();
                assert_eq!(stored.as_ref().map(|stored| &stored.bytes), model.records.get(&key));
                version += 1;
                let new = len.map(|len| bytes_of(version, len));
                let revision = stored.map(|stored| stored.revision);
                store.swap(&key, revision.as_ref(), new.clone()).await.unwrap();
                match new {
                    Some(new) => drop(model.records.insert(key, new)),
                    None => drop(model.records.remove(&key)),
                }
            }
            Step::ReplaceSegment(of, n, right) => {
                version += 1;
                let (of, n, new) = (account(of), segment(n), bytes_of(version, 40));
                let there =
                    model.segments(of).into_iter().find(|(id, _)| *id == n).map(|(_, row)| row.record);
                let expected = there.filter(|_| right).unwrap_or("another".into());
                let replaced = store.replace_segment(of, n, &expected, new.clone()).await.unwrap();
                assert_eq!(replaced, model.replace_segment(of, n, &expected, &new), "step {n}");
            }
            Step::Remove(of, limit) => {
                let removed = store.remove_blocks(account(of), limit).await.unwrap();
                assert_eq!(removed, model.remove_blocks(account(of), limit), "step {n}");
            }
            Step::Compact => store.compact().await.unwrap(),
            Step::Reopen { closed } => {
                if closed {
                    store.close().await.unwrap();
                }
                drop(store);
                store = EmbeddedStore::open(&path, inline()).unwrap();
            }
        }
        model.assert_seen_in(&store, &accounts, &format!("step {n}")).await;
    }
    model.assert_verifies(&store, "at the end").await;
    assert_eq!(lay_open(&store, &accounts).await, model);
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
    // It is older than the buffer's tables.
    assert_eq!(store.buffered(account(0), None, 9).await.unwrap(), []);
    assert_eq!(store.buffer_usage(account(0)).await.unwrap(), None);
    assert_eq!(store.buffering(None, 9).await.unwrap(), []);
    for (n, len) in [(1, 0), (3, 5000), (4, 61_441)] {
        let found = store.fetch(account(n as u8 % 2), &id(format!("block {n}"))).await.unwrap().unwrap();
        assert_eq!(found, (stored(n, len), bytes_of(n, len)));
    }
    assert_eq!(store.fetch(account(0), &id("block 2")).await.unwrap(), None);
    let record = store.load("account/one").await.unwrap().unwrap();
    assert_eq!((record.bytes.as_ref(), record.revision.as_str()), (&b"a record"[..], "1"));
    assert_eq!(store.last_version().await.unwrap(), Version::new(5));
    assert!(store.verify().await.unwrap().is_sound());
    store.commit(vec![buffer(account(0), "new", 6, bytes_of(6, 100_000))]).await.unwrap();
    assert_eq!(store.buffer_usage(account(0)).await.unwrap().unwrap().bytes, 100_000);
    assert!(store.verify().await.unwrap().is_sound());
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
        .args(["model::a_store_that_another_process_has_open_is_locked", "--exact", "--nocapture"])
        .env(CHILD, &path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("refused as locked"), "{said}");
    drop(store);
}
