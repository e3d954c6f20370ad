//! Several handles on one store: no version twice, no writer's block in another's, and readers of what is being replaced.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use cofferdam_crypto::Version;
use cofferdam_store::{
    Applied, BlockStore, BufferLimit, Catalog, StoreErrorKind,
    objects::{ObjectBlocks, ObjectBlocksOptions},
};
use futures_util::future::join_all;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::{
    blocks_support::{data_objects, handle, handle_with, memory, prefix, rows_in, sweeper},
    embedded_support::*,
};

async fn several(n: u64) -> (Arc<dyn ObjectStore>, Vec<ObjectBlocks>) {
    let store = memory();
    let mut handles = Vec::new();
    for seed in 0..n {
        handles.push(handle(&store, &rows_in(&store, seed).await, seed));
    }
    (store, handles)
}

#[tokio::test(start_paused = true)]
async fn no_version_is_given_to_two_whatever_their_slots_and_clocks() {
    // More than there are slots, so that some share one.
    let (_, handles) = several(100).await;
    let mut given = BTreeSet::new();
    let mut highest = Version::new(0);
    for round in 0..5 {
        let ranges =
            join_all(handles.iter().map(|handle| handle.reserve_versions(Version::new(round * 7), 10)));
        for range in ranges.await {
            let range = range.unwrap().unwrap();
            for n in 0..range.count {
                let version = range.nth(n).unwrap();
                assert!(given.insert(version), "round {round}: {version} was given to another");
                highest = highest.max(version);
            }
        }
    }
    assert_eq!(given.len(), 100 * 5 * 10);
    assert!(handles[0].last_version().await.unwrap() >= highest);
    let beyond = Version::new(highest.number() + 1_000_000_000);
    let range = handles[7].reserve_versions(beyond, 3).await.unwrap().unwrap();
    assert!(range.first >= beyond);
    let last = handles[8].last_version().await.unwrap();
    assert!(last >= range.nth(2).unwrap(), "{last}");
}

#[tokio::test(start_paused = true)]
async fn the_last_version_covers_one_that_somebody_chose() {
    let (_, handles) = several(2).await;
    assert_eq!(handles[0].last_version().await.unwrap(), Version::new(0));
    let far = 1 << 60;
    handles[0].commit(vec![put(account(1), "x", far, "x")]).await.unwrap();
    assert!(handles[1].last_version().await.unwrap().number() >= far);
}

#[tokio::test(start_paused = true)]
async fn of_writers_of_one_block_at_once_the_newest_version_stays_and_no_bytes_but_its_own() {
    let (store, handles) = several(6).await;
    let writes = (0..60u64).map(|n| {
        let batch = vec![put(account(1), "hot", n + 1, bytes_of(n + 1, 1000))];
        handles[n as usize % 6].commit(batch)
    });
    let applied = join_all(writes).await;
    assert!(applied.iter().all(Result::is_ok), "{applied:?}");
    let found = handles[0].fetch(account(1), &id("hot")).await.unwrap().unwrap();
    assert_eq!(found, (stored(60, 1000), bytes_of(60, 1000)));
    assert_eq!(data_objects(&store).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn writers_that_fill_one_buffer_from_several_handles_stay_within_its_bounds() {
    let (store, handles) = several(4).await;
    let limit = BufferLimit { bytes: 5000, ..UNBOUNDED };
    let writes = (0..16u64).map(|n| {
        let batch = vec![buffer_within(limit, account(1), format!("{n}"), 3 * n + 1, bytes_of(n, 1000))];
        handles[n as usize % 4].commit(batch)
    });
    let done = join_all(writes).await;
    let written = done.iter().filter(|done| matches!(done, Ok(applied) if applied[0] == Applied::Written));
    assert_eq!(written.count(), 5, "{done:?}");
    let full = |e: &cofferdam_store::StoreError| e.kind() == StoreErrorKind::BufferFull;
    assert!(done.iter().filter_map(|done| done.as_ref().err()).all(full), "{done:?}");
    let usage = handles[3].buffer_usage(account(1)).await.unwrap().unwrap();
    assert_eq!((usage.blocks, usage.bytes), (5, 5000));
    assert_eq!(data_objects(&store).await.len(), 5, "those that were refused left nothing");
}

#[tokio::test(start_paused = true)]
async fn of_two_that_drain_one_block_one_does() {
    let (_, handles) = several(2).await;
    handles[0].commit(vec![buffer(account(1), "x", 3, "buffered")]).await.unwrap();
    let drained = join_all(
        handles
            .iter()
            .enumerate()
            .map(|(n, handle)| handle.commit(vec![drain(account(1), "x", 3, bytes_of(n as u64, 50), 4)])),
    );
    let mut answers: Vec<Applied> = drained.await.into_iter().map(|done| done.unwrap()[0]).collect();
    answers.sort_by_key(|applied| *applied != Applied::Written);
    assert_eq!(answers, [Applied::Written, Applied::Superseded { by: Version::new(3) }]);
    assert_eq!(handles[0].buffer_usage(account(1)).await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn a_reader_whose_block_is_replaced_by_another_handle_gets_the_new_one_or_none_and_never_a_mixture() {
    let (store, handles) = several(2).await;
    let (a, x) = (account(1), id("x"));
    handles[0].commit(vec![put(a, "x", 1, bytes_of(1, 1000))]).await.unwrap();
    let at = handles[0].stat(a, &x).await.unwrap().unwrap();
    handles[1].commit(vec![put(a, "x", 2, bytes_of(2, 1000))]).await.unwrap();
    assert_eq!(handles[0].read(a, &x, &at, &[0..10, 900..1000]).await.unwrap(), None);
    assert_eq!(handles[0].fetch(a, &x).await.unwrap(), Some((stored(2, 1000), bytes_of(2, 1000))));
    handles[1].commit(vec![delete(a, "x", 3)]).await.unwrap();
    assert_eq!(handles[0].read(a, &x, &stored(2, 1000), &[0..10]).await.unwrap(), None);
    assert_eq!(handles[0].fetch(a, &x).await.unwrap(), None);
    // A row that still names an object that is gone is damage.
    handles[1].commit(vec![put(a, "x", 4, bytes_of(4, 1000))]).await.unwrap();
    let objects = data_objects(&store).await;
    store.delete(&objects[0]).await.unwrap();
    let corrupt = StoreErrorKind::Corrupt;
    assert_eq!(handles[0].fetch(a, &x).await.unwrap_err().kind(), corrupt);
    assert_eq!(handles[0].read(a, &x, &stored(4, 1000), &[0..9]).await.unwrap_err().kind(), corrupt);
    // So is one that is shorter than its row says.
    store.put(&objects[0], bytes_of(4, 50).into()).await.unwrap();
    assert_eq!(handles[0].fetch(a, &x).await.unwrap_err().kind(), corrupt);
    let parts = handles[0].read(a, &x, &stored(4, 1000), &[0..40, 40..100]).await;
    assert_eq!(parts.unwrap_err().kind(), corrupt);
}

#[tokio::test(start_paused = true)]
async fn what_a_row_does_not_name_is_swept_once_it_is_old_and_nothing_else_is() {
    let store = memory();
    let rows: Arc<dyn Catalog> = rows_in(&store, 1).await;
    let blocks = handle(&store, &rows, 1);
    let a = account(1);
    blocks.commit(vec![put(a, "x", 1, "x"), buffer(a, "y", 3, "y")]).await.unwrap();
    let named = data_objects(&store).await;
    let strange = prefix().join("d").join("a-file-of-ours");
    let orphan = named[0].parent().unwrap().join("0000000000000009-00000000000000aa");
    for object in [&strange, &orphan] {
        store.put(object, "left".into()).await.unwrap();
    }
    blocks.compact().await.unwrap();
    assert_eq!(data_objects(&store).await.len(), 4, "its writer may be at work");
    sweeper(&store, &rows, 2).compact().await.unwrap();
    let mut left = named.clone();
    left.push(strange.clone());
    left.sort();
    assert_eq!(data_objects(&store).await, left);
    assert_eq!(blocks.fetch(a, &id("x")).await.unwrap().unwrap().1, "x");
    // All of an account goes at once, its writers are gone.
    store.put(&orphan, "left".into()).await.unwrap();
    while blocks.remove_blocks(a, 1).await.unwrap() > 0 {}
    assert_eq!(data_objects(&store).await, [strange]);
}

#[tokio::test(start_paused = true)]
async fn a_block_whose_name_is_too_long_is_refused_and_is_nowhere() {
    let (_, handles) = several(1).await;
    let (blocks, a, long) = (&handles[0], account(1), vec![7u8; 513]);
    let refused = blocks.commit(vec![put(a, &long, 1, "x")]).await.unwrap_err();
    assert_eq!(refused.kind(), StoreErrorKind::TooLarge);
    assert!(refused.to_string().contains("512"), "{refused}");
    assert_eq!(blocks.stat(a, &id(&long)).await.unwrap(), None);
    assert_eq!(blocks.fetch(a, &id(&long)).await.unwrap(), None);
    assert_eq!(blocks.commit(vec![delete(a, &long, 2)]).await.unwrap(), [Applied::Absent]);
    blocks.commit(vec![put(a, &long[..512], 3, "x"), put(a, [8], 4, "y")]).await.unwrap();
    let after = blocks.list(a, Some(&id(&long)), 9).await.unwrap();
    assert_eq!(after.len(), 1);
    assert_eq!(after[0].0, id([8]));
}

#[tokio::test(start_paused = true)]
async fn a_write_that_took_too_long_stores_its_bytes_again_before_a_row_names_them() {
    let store = memory();
    let rows = rows_in(&store, 1).await;
    // Every write takes too long.
    let options = ObjectBlocksOptions { orphan_age: Duration::ZERO, ..Default::default() };
    let blocks = handle_with(&store, &rows, 1, options);
    blocks.commit(vec![put(account(1), "x", 1, "x")]).await.unwrap();
    blocks.commit(vec![put(account(1), "x", 2, "y")]).await.unwrap();
    assert_eq!(blocks.fetch(account(1), &id("x")).await.unwrap().unwrap().1, "y");
    assert_eq!(data_objects(&store).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_closed_handle_refuses_everything_and_leaves_the_others_open() {
    let (_, handles) = several(2).await;
    handles[0].close().await.unwrap();
    let closed = StoreErrorKind::Closed;
    let batch = vec![put(account(1), "x", 1, "x")];
    assert_eq!(handles[0].commit(batch.clone()).await.unwrap_err().kind(), closed);
    assert_eq!(handles[0].stat(account(1), &id("x")).await.unwrap_err().kind(), closed);
    assert_eq!(handles[0].clone().compact().await.unwrap_err().kind(), closed);
    assert_eq!(handles[1].commit(batch).await.unwrap(), [Applied::Written]);
}
