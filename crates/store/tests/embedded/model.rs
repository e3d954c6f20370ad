//! Any sequence of writes and reopenings reads as a map says; old files still open; one process at a time.

use std::{process::Command, sync::Arc};

use async_trait::async_trait;
use cofferdam_crypto::{AccountId, Version};
use cofferdam_store::{BlockStore, Catalog, EmbeddedOptions, EmbeddedStore, StoreErrorKind};
use cofferdam_vault::Inline;
use proptest::prelude::*;
use tempfile::TempDir;

use crate::embedded_support::{
    model::{Model, lay_open},
    steps::{Step, Subject, accounts, play, step},
    *,
};

fn inline() -> EmbeddedOptions {
    EmbeddedOptions { cache_bytes: 1 << 20, executor: Arc::new(Inline), ..EmbeddedOptions::default() }
}

/// A store in a file.
struct InAFile {
    folder: TempDir,
    store: EmbeddedStore,
}

impl InAFile {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let store = EmbeddedStore::create(folder.path().join("a.store"), inline()).unwrap();
        Self { folder, store }
    }
}

#[async_trait]
impl Subject for InAFile {
    fn blocks(&self) -> &dyn BlockStore {
        &self.store
    }

    fn catalog(&self) -> &dyn Catalog {
        &self.store
    }

    async fn assert_like(&self, model: &Model, accounts: &[AccountId], what: &str) {
        model.assert_seen_in(&self.store, accounts, what).await;
    }

    async fn reopen(self, closed: bool) -> Self {
        let Self { folder, store } = self;
        if closed {
            store.close().await.unwrap();
        }
        drop(store);
        let store = EmbeddedStore::open(folder.path().join("a.store"), inline()).unwrap();
        Self { folder, store }
    }
}

async fn check(steps: Vec<Step>) {
    let (subject, model) = play(InAFile::new(), steps).await;
    model.assert_verifies(&subject.store, "at the end").await;
    assert_eq!(lay_open(&subject.store, &accounts()).await, model);
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
