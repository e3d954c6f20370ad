use std::sync::Arc;

use cofferdam::store::encrypted::EncryptedError;
use futures_util::TryStreamExt;
use object_store::memory::InMemory;
use parquet::errors::ParquetError;

use super::{COLUMNS, GROUPS, group, open, read_and_check, world::*, write};

/// The encrypted store's own error, and what lies between it and Parquet's.
fn typed<'a>(of: &str, error: &'a ParquetError) -> &'a EncryptedError {
    for (depth, link) in chain(error).into_iter().enumerate() {
        println!("{of}: {depth}: {link}");
    }
    find(error).unwrap_or_else(|| panic!("{of}: no EncryptedError in {error:?}"))
}

fn is_revoked(error: &EncryptedError) -> bool {
    matches!(error, EncryptedError::KeyRevoked { .. })
}

#[tokio::test(start_paused = true)]
async fn in_the_middle() {
    let world = World::new(7061).await;
    let store = world.over(Arc::new(InMemory::new())).await;
    write(&store).await.unwrap();
    let mut rows = open(&store, 0..COLUMNS.len(), 0..GROUPS).await.unwrap();
    assert_eq!(rows.try_next().await.unwrap().unwrap(), group(0));

    world.revoke().await;
    let mut handed_out = 1;
    let refusal = loop {
        match rows.try_next().await {
            Ok(Some(batch)) => assert_eq!(batch, group(handed_out)),
            Ok(None) => panic!("it was read to its end"),
            Err(refusal) => break refusal,
        }
        handed_out += 1;
    };
    // At most what was in memory when the key went.
    assert!(handed_out <= 2, "{handed_out} row groups");
    assert!(is_revoked(typed("a read under way", &refusal)));
    let refusal = read_and_check(&store, 0..1, 0..1).await.unwrap_err();
    assert!(is_revoked(typed("a new read", &refusal)));

    world.restore().await;
    read_and_check(&store, 0..COLUMNS.len(), 0..GROUPS).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn and_a_write() {
    let world = World::new(7062).await;
    let inner = Arc::new(InMemory::new());
    let store = world.over(inner.clone()).await;
    write(&store).await.unwrap();
    let before = objects(&*inner).await;
    world.revoke().await;
    assert!(is_revoked(typed("a write", &write(&store).await.unwrap_err())));
    assert_eq!(objects(&*inner).await, before, "the file is as it was");
    world.restore().await;
    read_and_check(&store, 0..COLUMNS.len(), 0..GROUPS).await.unwrap();
}
