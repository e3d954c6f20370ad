use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use slatedb::{
    Db, DbReader, DbReaderMode, IsolationLevel,
    config::{CheckpointOptions, CheckpointScope},
};

use super::{PATH, flush, key, memory, open, scanned, settings, value, world::*};

const KEYS: usize = 500;

/// Writes, overwrites and deletes; the model does the same.
async fn write(db: &Db, model: &mut BTreeMap<Bytes, Bytes>, round: usize) {
    for n in (0..KEYS).filter(|n| !(n + round).is_multiple_of(3)) {
        if (n + round).is_multiple_of(7) {
            db.delete(key(n)).await.unwrap();
            model.remove(&key(n));
        } else {
            db.put_bytes(key(n), value(n, round)).await.unwrap();
            model.insert(key(n), value(n, round));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn through_flushes_compactions_collected_garbage_and_reopening() {
    let world = World::new(7001).await;
    let inner = memory();
    let store = world.over(inner.clone()).await;
    let mut model = BTreeMap::new();
    let mut db = open(&store, settings()).await.unwrap();
    for round in 0..12 {
        write(&db, &mut model, round).await;
        flush(&db).await.unwrap();
        if round % 4 == 3 {
            db.close().await.unwrap();
            db = open(&store, settings()).await.unwrap();
        }
        assert_eq!(scanned(&db).await.unwrap(), model, "round {round}");
    }
    let written: Vec<_> = objects(&*inner).await.into_keys().collect();
    tokio::time::sleep(Duration::from_secs(2 * 3600)).await;
    let runs = db.manifest().compacted().len();
    assert!(runs > 0, "it has compacted");
    let left = objects(&*inner).await;
    let gone = written.iter().filter(|path| !left.contains_key(*path)).count();
    assert!(gone > 10, "{gone} of {} objects were collected", written.len());

    assert_eq!(scanned(&db).await.unwrap(), model);
    for n in (0..KEYS).step_by(17) {
        assert_eq!(db.get(key(n)).await.unwrap(), model.get(&key(n)).cloned(), "key {n}");
    }
    let mut rows = db.scan(key(100)..key(200)).await.unwrap();
    for (key, value) in model.range(key(100)..key(200)) {
        let row = rows.next().await.unwrap().unwrap();
        assert_eq!((&row.key, &row.value), (key, value));
    }
    assert_eq!(rows.next().await.unwrap(), None);
    db.close().await.unwrap();
    let db = open(&store, settings()).await.unwrap();
    assert_eq!(scanned(&db).await.unwrap(), model, "reopened");
    db.close().await.unwrap();
    println!("{} rows, {runs} sorted runs, {gone} of {} objects collected", model.len(), written.len());
}

#[tokio::test(start_paused = true)]
async fn what_was_only_logged_when_the_process_died() {
    let world = World::new(7002).await;
    let store = world.over(memory()).await;
    let mut model = BTreeMap::new();
    let db = open(&store, settings()).await.unwrap();
    write(&db, &mut model, 0).await;
    db.put_bytes(key(KEYS), value(KEYS, 0)).await.unwrap().await_durable().await.unwrap();
    model.insert(key(KEYS), value(KEYS, 0));
    // Without a word, as a process that was killed.
    drop(db);
    let db = open(&store, settings()).await.unwrap();
    assert_eq!(scanned(&db).await.unwrap(), model);
    db.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_a_transaction_and_a_checkpoint_see_what_was_there_then() {
    let world = World::new(7003).await;
    let store = world.over(memory()).await;
    let mut then = BTreeMap::new();
    let db = open(&store, settings()).await.unwrap();
    write(&db, &mut then, 0).await;
    let snapshot = db.snapshot().unwrap();
    let transaction = db.begin(IsolationLevel::Snapshot).unwrap();
    let scope = CheckpointScope::All;
    let checkpoint = db.create_checkpoint(scope, &CheckpointOptions::default()).await.unwrap();

    let mut now = then.clone();
    for round in 1..6 {
        write(&db, &mut now, round).await;
        flush(&db).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_ne!(then, now);
    for n in (0..KEYS).step_by(13) {
        let expected = then.get(&key(n)).cloned();
        assert_eq!(snapshot.get(key(n)).await.unwrap(), expected, "snapshot, key {n}");
        assert_eq!(transaction.get(key(n)).await.unwrap(), expected, "transaction, key {n}");
    }
    let reader = DbReader::builder(PATH, store.clone());
    let reader = reader.with_reader_mode(DbReaderMode::Checkpoint(checkpoint.id)).build().await.unwrap();
    let follower = DbReader::builder(PATH, store.clone()).build().await.unwrap();
    for n in 0..KEYS {
        assert_eq!(reader.get(key(n)).await.unwrap(), then.get(&key(n)).cloned(), "checkpoint, key {n}");
        assert_eq!(follower.get(key(n)).await.unwrap(), now.get(&key(n)).cloned(), "follower, key {n}");
    }
    reader.close().await.unwrap();
    follower.close().await.unwrap();
    db.close().await.unwrap();
}
