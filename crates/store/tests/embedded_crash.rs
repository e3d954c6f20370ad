//! Whatever moment the power fails, and whatever the disk kept: what was acknowledged is there.
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

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use cofferdam_crypto::AccountId;
use cofferdam_store::{
    BlockOp, BlockStore, Catalog, EmbeddedOptions, EmbeddedStore, FaultyFile, FileOp, StoreErrorKind,
};
use cofferdam_vault::Inline;
use embedded_support::*;

#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    blocks: BTreeMap<(AccountId, Vec<u8>), (u64, Bytes)>,
    records: BTreeMap<String, Bytes>,
}

impl Model {
    fn apply(&mut self, op: &BlockOp) {
        let key = (op.account(), op.id().as_bytes().to_vec());
        let version = op.version().number();
        if self.blocks.get(&key).is_some_and(|(stored, _)| *stored >= version) {
            return;
        }
        match op {
            BlockOp::Put { sealed, .. } => self.blocks.insert(key, (version, sealed.clone())),
            BlockOp::Delete { .. } => self.blocks.remove(&key),
        };
    }
}

async fn state_of(store: &EmbeddedStore) -> Model {
    let mut model = Model::default();
    for owner in [account(1), account(2)] {
        for (id, meta) in BlockStore::list(store, owner, None, usize::MAX).await.unwrap() {
            let (fetched, sealed) = store.fetch(owner, &id).await.unwrap().unwrap();
            assert_eq!(fetched, meta);
            model.blocks.insert((owner, id.as_bytes().to_vec()), (meta.version.number(), sealed));
        }
    }
    for (key, stored) in Catalog::list(store, "", None, usize::MAX).await.unwrap() {
        model.records.insert(key, stored.bytes);
    }
    model
}

fn options_of(rng: &mut Rng) -> EmbeddedOptions {
    // Small caches make redb write pages long before the commit.
    let cache_bytes = [32 << 10, 256 << 10, 4 << 20][rng.below(3) as usize];
    EmbeddedOptions { cache_bytes, executor: Arc::new(Inline), ..EmbeddedOptions::default() }
}

fn random_batch(rng: &mut Rng, version: &mut u64) -> Vec<BlockOp> {
    (0..1 + rng.below(4))
        .map(|_| {
            *version += 1;
            let owner = account(1 + rng.below(2) as u8);
            let name = format!("block {}", rng.below(12));
            if rng.one_in(4) {
                return delete(owner, name, *version);
            }
            let len = match rng.below(6) {
                0 => 0,
                1 => rng.below(500),
                2 | 3 => rng.below(9000),
                4 => rng.below(70_000),
                _ => rng.below(300_000),
            };
            put(owner, name, *version, bytes_of(*version, len as usize))
        })
        .collect()
}

struct Tally {
    acknowledged: u64,
    crashes: u64,
    kept_unacknowledged: u64,
}

/// Works on a store until the power fails, several times over, and checks what is there each time.
async fn run(seed: u64, tally: &mut Tally) {
    let mut rng = Rng(seed);
    let mut file = FaultyFile::new();
    drop(EmbeddedStore::create_on(Arc::new(file.clone()), options_of(&mut rng)).unwrap());
    let (mut model, mut version) = (Model::default(), 0);
    for round in 0..4 {
        // Few operations: the power may fail while the store recovers.
        file.power_off_after(if rng.one_in(4) { rng.below(12) } else { 12 + rng.below(200) });
        let mut maybe = model.clone();
        if let Ok(store) = EmbeddedStore::open_on(Arc::new(file.clone()), options_of(&mut rng)) {
            loop {
                maybe = model.clone();
                let result = if rng.one_in(5) {
                    let key = format!("record {}", rng.below(3));
                    version += 1;
                    let new = (!rng.one_in(4)).then(|| bytes_of(version, rng.below(6000) as usize));
                    let Ok(stored) = store.load(&key).await else { break };
                    match &new {
                        Some(new) => drop(maybe.records.insert(key.clone(), new.clone())),
                        None => drop(maybe.records.remove(&key)),
                    }
                    let expected = stored.map(|stored| stored.revision);
                    store.swap(&key, expected.as_ref(), new).await.map(drop)
                } else {
                    let batch = random_batch(&mut rng, &mut version);
                    batch.iter().for_each(|op| maybe.apply(op));
                    store.commit(batch).await.map(drop)
                };
                match result {
                    Ok(()) => {
                        tally.acknowledged += 1;
                        model = maybe.clone();
                    }
                    Err(error) => {
                        assert!(
                            matches!(error.kind(), StoreErrorKind::Io | StoreErrorKind::Poisoned),
                            "seed {seed}, round {round}: {error}"
                        );
                        break;
                    }
                }
                if rng.one_in(40) {
                    // Or nothing fails, and the store is closed, or just dropped.
                    if rng.one_in(2) {
                        let _ = store.close().await;
                    }
                    maybe = model.clone();
                    break;
                }
            }
        }
        tally.crashes += 1;
        file = file.after_crash(|| rng.next());
        let check = FaultyFile::from_bytes(file.bytes());
        let store = EmbeddedStore::open_on(Arc::new(check), options_of(&mut rng))
            .unwrap_or_else(|error| panic!("seed {seed}, round {round}: {error}"));
        let found = state_of(&store).await;
        assert!(found == model || found == maybe, "seed {seed}, round {round}: neither state is there");
        assert_eq!(store.activity().panics_caught, 0, "seed {seed}, round {round}");
        let report = store.verify().await.unwrap();
        assert!(report.is_sound(), "seed {seed}, round {round}: {report:?}");
        if found != model {
            tally.kept_unacknowledged += 1;
            model = found;
        }
    }
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_crash_at_any_moment() {
    let seeds = if std::env::var_os("COFFERDAM_FULL").is_some() { 20_000 } else { 400 };
    let mut tally = Tally { acknowledged: 0, crashes: 0, kept_unacknowledged: 0 };
    for seed in 0..seeds {
        run(seed, &mut tally).await;
    }
    println!(
        "{seeds} seeds: {} writes acknowledged, {} crashes, 0 lost; {} kept that were not acknowledged yet",
        tally.acknowledged, tally.crashes, tally.kept_unacknowledged
    );
    assert!(tally.acknowledged > seeds && tally.kept_unacknowledged > 0);
}

/// The hardest reading of "durable before it returns": at each acknowledgement the power fails and the disk
/// keeps nothing that was not synced.
#[tokio::test]
async fn an_acknowledged_write_is_on_the_disk_at_that_moment() {
    let mut rng = Rng(7);
    let file = FaultyFile::new();
    let store = EmbeddedStore::create_on(Arc::new(file.clone()), options_of(&mut rng)).unwrap();
    let (mut model, mut version) = (Model::default(), 0);
    for _ in 0..100 {
        let batch = random_batch(&mut rng, &mut version);
        batch.iter().for_each(|op| model.apply(op));
        let syncs = file.asked(FileOp::Sync);
        store.commit(batch).await.unwrap();
        assert!(file.asked(FileOp::Sync) >= syncs + 2, "two phases");
        let crashed = file.after_crash(|| 0);
        let after = EmbeddedStore::open_on(Arc::new(crashed), options_of(&mut rng)).unwrap();
        assert!(state_of(&after).await == model, "version {version}");
    }
}
