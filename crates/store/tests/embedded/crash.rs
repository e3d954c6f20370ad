//! Whatever moment the power fails, and whatever the disk kept: what was acknowledged is there.

use std::{process::Command, sync::Arc};

use cofferdam_crypto::AccountId;
use cofferdam_store::{
    BlockOp, BlockStore, Catalog, EmbeddedOptions, EmbeddedStore, FaultyFile, FileOp, StoreError,
    StoreErrorKind,
};
use cofferdam_vault::Inline;

use crate::embedded_support::{
    model::{Model, lay_open},
    *,
};

fn accounts() -> [AccountId; 2] {
    [account(1), account(2)]
}

fn options_of(rng: &mut Rng) -> EmbeddedOptions {
    // Small caches make redb write pages long before the commit.
    let cache_bytes = [32 << 10, 256 << 10, 4 << 20][rng.below(3) as usize];
    EmbeddedOptions { cache_bytes, executor: Arc::new(Inline), ..EmbeddedOptions::default() }
}

fn random_batch(rng: &mut Rng, model: &Model, version: &mut u64) -> Vec<BlockOp> {
    let mut model = model.clone();
    (0..1 + rng.below(4))
        .map(|_| {
            let op = random_op(rng, &model, version);
            model.commit(std::slice::from_ref(&op)).unwrap();
            op
        })
        .collect()
}

fn random_op(rng: &mut Rng, model: &Model, version: &mut u64) -> BlockOp {
    *version += 1;
    let owner = account(1 + rng.below(2) as u8);
    let name = format!("block {}", rng.below(12));
    let len = match rng.below(6) {
        0 => 0,
        1 => rng.below(500),
        2 | 3 => rng.below(9000),
        4 => rng.below(70_000),
        _ => rng.below(300_000),
    };
    let sealed = bytes_of(*version, len as usize);
    // Mostly what is buffered, sometimes another version.
    let of_owner: Vec<_> = model.buffered.iter().filter(|((of, _), _)| *of == owner).collect();
    let buffered = (!of_owner.is_empty()).then(|| of_owner[rng.below(of_owner.len() as u64) as usize]);
    let stored: Vec<_> = model.stored.iter().filter(|((of, _), _)| *of == owner).collect();
    if rng.one_in(8) && !stored.is_empty() {
        let ((_, id), (meta, _)) = stored[rng.below(stored.len() as u64) as usize];
        let epoch = meta.epoch.number() + u32::from(!rng.one_in(8));
        let of = meta.version.number() + u64::from(rng.one_in(8));
        return reseal(owner, id.as_bytes(), of, epoch, sealed);
    }
    match (rng.below(12), buffered) {
        (0..=1, _) => delete(owner, name, *version),
        (2..=5, _) => buffer(owner, name, *version, sealed),
        (6..=8, Some(((_, id), (meta, _)))) => {
            let of = meta.version.number() + u64::from(rng.one_in(8));
            drain(owner, id.as_bytes(), of, sealed, *version)
        }
        (9, Some(((_, id), (meta, _)))) => discard(owner, id.as_bytes(), meta.version.number()),
        _ => put(owner, name, *version, sealed),
    }
}

/// What is neither a batch nor a record.
async fn do_something_else(
    store: &EmbeddedStore,
    model: &mut Model,
    rng: &mut Rng,
    version: &mut u64,
    tally: &mut Tally,
) -> Result<(), StoreError> {
    let of = account(1 + rng.below(2) as u8);
    match rng.below(6) {
        0..=2 => {
            store.compact().await?;
            tally.compactions += 1;
        }
        3..=4 => {
            *version += 1;
            let (segment, new) = (segment(rng.below(4) as u8), bytes_of(*version, 200));
            let there = model.segments(of).into_iter().find(|(id, _)| *id == segment);
            let expected = there.map_or("another".into(), |(_, row)| row.record);
            let is_it = model.replace_segment(of, segment, &expected, &new);
            assert_eq!(store.replace_segment(of, segment, &expected, new).await?, is_it);
        }
        _ => {
            let limit = if rng.one_in(2) { 1000 } else { rng.below(4) as usize };
            let removed = model.remove_blocks(of, limit);
            assert_eq!(store.remove_blocks(of, limit).await?, removed);
        }
    }
    Ok(())
}

#[derive(Default)]
struct Tally {
    acknowledged: u64,
    compactions: u64,
    crashes: u64,
    kept_unacknowledged: u64,
}

/// Works on a store until the power fails, several times over, and checks what is there each time; the file as it is
/// at last.
async fn run(seed: u64, tally: &mut Tally) -> Vec<u8> {
    let mut rng = Rng(seed);
    let mut file = FaultyFile::new();
    drop(EmbeddedStore::create_on(Arc::new(file.clone()), options_of(&mut rng)).unwrap());
    let (mut model, mut version) = (Model::default(), 0);
    for round in 0..4 {
        // Few operations: the power may fail while the store recovers.
        file.power_off_after(if rng.one_in(4) { rng.below(12) } else { 12 + rng.below(200) });
        let mut maybe = model.clone();
        if let Ok(store) = EmbeddedStore::open_on(Arc::new(file.clone()), options_of(&mut rng)) {
            assert_eq!(file.all_bytes().len(), 1, "seed {seed}: what a compaction left is removed");
            loop {
                maybe = model.clone();
                let result = if rng.one_in(8) {
                    do_something_else(&store, &mut maybe, &mut rng, &mut version, tally).await
                } else if rng.one_in(5) {
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
                    let batch = random_batch(&mut rng, &model, &mut version);
                    let expected = maybe.commit(&batch).unwrap();
                    store.commit(batch).await.map(|applied| assert_eq!(applied, expected, "seed {seed}"))
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
        assert!(file.all_bytes().len() <= 2);
        let check = FaultyFile::from_bytes(file.bytes());
        let store = EmbeddedStore::open_on(Arc::new(check), options_of(&mut rng))
            .unwrap_or_else(|error| panic!("seed {seed}, round {round}: {error}"));
        let report = store.verify().await.unwrap();
        assert!(report.is_sound(), "seed {seed}, round {round}: {report:?}");
        // Each block is in one place whole: a row of two blocks or of none is not sound, and `lay_open` sees both.
        let found = lay_open(&store, &accounts()).await;
        assert!(found == model || found == maybe, "seed {seed}, round {round}: neither state is there");
        let report = store.verify().await.unwrap();
        assert!(report.is_sound() && report.buffered_blocks == 0, "seed {seed}, round {round}: {report:?}");
        assert_eq!(store.activity().panics_caught, 0, "seed {seed}, round {round}");
        if found != model {
            tally.kept_unacknowledged += 1;
            model = found;
        }
    }
    file.bytes()
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_crash_at_any_moment() {
    let seeds = if std::env::var_os("COFFERDAM_FULL").is_some() { 20_000 } else { 400 };
    let mut tally = Tally::default();
    for seed in 0..seeds {
        run(seed, &mut tally).await;
    }
    println!(
        "{seeds} seeds: {} writes acknowledged, {} compactions among them, {} crashes, 0 lost; {} kept that were not \
         acknowledged yet",
        tally.acknowledged, tally.compactions, tally.crashes, tally.kept_unacknowledged
    );
    assert!(tally.acknowledged > seeds && tally.kept_unacknowledged > 0 && tally.compactions > seeds / 4);
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
        let batch = random_batch(&mut rng, &model, &mut version);
        model.commit(&batch).unwrap();
        let syncs = file.asked(FileOp::Sync);
        store.commit(batch).await.unwrap();
        assert!(file.asked(FileOp::Sync) >= syncs + 2, "two phases");
        let crashed = file.after_crash(|| 0);
        let after = EmbeddedStore::open_on(Arc::new(crashed), options_of(&mut rng)).unwrap();
        assert!(lay_open(&after, &accounts()).await == model, "version {version}");
    }
}

const CHILD: &str = "COFFERDAM_TEST_SAME_BYTES";

/// The other process: this test, run again.
#[tokio::test]
async fn the_same_seeds_leave_the_same_bytes_in_another_process() {
    let mut tally = Tally::default();
    let mut sums = Vec::new();
    for seed in 1_000_000..1_000_012 {
        sums.push(format!("{:016x}", xxhash_rust::xxh3::xxh3_64(&run(seed, &mut tally).await)));
    }
    let said = format!("{sums:?} after {} commits", tally.acknowledged);
    if std::env::var_os(CHILD).is_some() {
        println!("left {said}");
        return;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["crash::the_same_seeds_leave_the_same_bytes_in_another_process", "--exact", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let other = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && other.contains(&format!("left {said}")), "{said}: {other}");
}
