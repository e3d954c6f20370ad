use std::time::Duration;

use cofferdam::store::encrypted::EncryptedError;
use slatedb::{Db, Settings};
use tokio::time::timeout;

use super::{flush, key, memory, open, scanned, settings, value, world::*};

const KEYS: usize = 200;

/// SlateDB sends again what failed, for ever unless it is told how often.
fn a_few_tries() -> Settings {
    Settings { object_store_max_retries: Some(3), ..settings() }
}

async fn fill(db: &Db) {
    for n in 0..KEYS {
        db.put_bytes(key(n), value(n, 0)).await.unwrap();
    }
    flush(db).await.unwrap();
    // In the log alone.
    db.put_bytes(key(KEYS), value(KEYS, 0)).await.unwrap().await_durable().await.unwrap();
}

async fn written(db: &Db, n: usize) -> Result<(), slatedb::Error> {
    db.put_bytes(key(n), value(n, 1)).await?.await_durable().await
}

/// The encrypted store's own error, and what lies between it and SlateDB's.
fn typed<'a>(of: &str, error: &'a slatedb::Error) -> &'a EncryptedError {
    for (depth, link) in chain(error).into_iter().enumerate() {
        println!("{of}: {depth}: {link}");
    }
    find(error).unwrap_or_else(|| panic!("{of}: no EncryptedError in {error:?}"))
}

fn is_revoked(error: &EncryptedError) -> bool {
    matches!(error, EncryptedError::KeyRevoked { .. })
}

#[tokio::test(start_paused = true)]
async fn reads_and_writes_fail_with_our_error_and_nothing_is_lost() {
    let world = World::new(7041).await;
    let inner = memory();
    let store = world.over(inner.clone()).await;
    let db = open(&store, a_few_tries()).await.unwrap();
    fill(&db).await;
    let before = scanned(&db).await.unwrap();
    world.revoke().await;

    assert!(is_revoked(typed("a read", &db.get(key(7)).await.unwrap_err())));
    assert!(is_revoked(typed("a scan", &scanned(&db).await.unwrap_err())));
    assert!(is_revoked(typed("a write", &written(&db, 7).await.unwrap_err())));
    assert!(is_revoked(typed("opening", &open(&store, a_few_tries()).await.err().unwrap())));
    world.restore().await;
    // A database whose write was refused stays ended.
    assert!(is_revoked(typed("the same database", &written(&db, 7).await.unwrap_err())));
    let _ = db.close().await;
    let db = open(&store, a_few_tries()).await.unwrap();
    assert_eq!(scanned(&db).await.unwrap(), before, "all that was acknowledged");
    assert_eq!(before.len(), KEYS + 1);
    written(&db, 7).await.unwrap();
    assert_eq!(db.get(key(7)).await.unwrap().unwrap(), value(7, 1));
    db.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn without_a_bound_on_its_tries_it_waits_for_the_key_and_goes_on() {
    let world = World::new(7042).await;
    let store = world.over(memory()).await;
    let db = open(&store, settings()).await.unwrap();
    fill(&db).await;
    world.revoke().await;

    let minute = Duration::from_secs(60);
    assert!(timeout(minute, db.get(key(7))).await.is_err(), "a read waits");
    let write = db.put_bytes(key(8), value(8, 1)).await.unwrap();
    assert!(timeout(minute, write.await_durable()).await.is_err(), "a write is not durable");
    world.restore().await;
    write.await_durable().await.unwrap();
    assert_eq!(db.get(key(7)).await.unwrap().unwrap(), value(7, 0));
    assert_eq!(db.get(key(8)).await.unwrap().unwrap(), value(8, 1));
    db.close().await.unwrap();
    let db = open(&store, settings()).await.unwrap();
    assert_eq!(scanned(&db).await.unwrap().len(), KEYS + 1);
    db.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_outage_past_the_grace_is_told_from_a_revocation() {
    let world = World::new(7043).await;
    let store = world.over(memory()).await;
    let db = open(&store, a_few_tries()).await.unwrap();
    fill(&db).await;
    let before = scanned(&db).await.unwrap();
    world.lose_the_vault().await;
    let refusal = db.get(key(7)).await.unwrap_err();
    assert!(matches!(typed("a read", &refusal), EncryptedError::KeyUnavailable { .. }));
    let _ = db.close().await;
    world.regain_the_vault().await;
    let db = open(&store, a_few_tries()).await.unwrap();
    assert_eq!(scanned(&db).await.unwrap(), before);
    db.close().await.unwrap();
}
