//! The fallback buffer in the embedded store: where a block is, what the buffer holds, and when it takes no more.

use bytes::Bytes;
use cofferdam_crypto::Version;
use cofferdam_store::{
    Applied, BlockOp, BlockStore, BufferLimit, BufferUsage, EmbeddedStore, StoreError, StoreErrorKind,
};
use tempfile::TempDir;

use crate::embedded_support::*;

fn new_store() -> (TempDir, EmbeddedStore) {
    let folder = TempDir::new().unwrap();
    let store = EmbeddedStore::create(folder.path().join("a.store"), options()).unwrap();
    (folder, store)
}

async fn usage(store: &EmbeddedStore, n: u8) -> Option<(u64, u64)> {
    store.buffer_usage(account(n)).await.unwrap().map(|usage| (usage.blocks, usage.bytes))
}

fn by(version: u64) -> Applied {
    Applied::Superseded { by: Version::new(version) }
}

#[tokio::test]
async fn a_drain_moves_a_block_and_leaves_nothing_of_what_was_there() {
    let (folder, store) = new_store();
    let (a, x) = (account(1), id("x"));
    store.commit(vec![put(a, "x", 1, bytes_of(1, 130_000))]).await.unwrap();
    store.commit(vec![buffer(a, "x", 2, bytes_of(2, 70_000))]).await.unwrap();
    assert_eq!(store.fetch(a, &x).await.unwrap(), Some((in_buffer(2, 70_000), bytes_of(2, 70_000))));
    let report = store.verify().await.unwrap();
    assert_eq!((report.blocks, report.buffered_blocks), (1, 1), "the older one stays until the drain");
    let drained = vec![drain(a, "x", 2, bytes_of(3, 61_000), 50)];
    assert_eq!(store.commit(drained.clone()).await.unwrap(), [Applied::Written]);
    assert_eq!(store.commit(drained).await.unwrap(), [by(2)], "it is not drained twice");
    assert_eq!(store.fetch(a, &x).await.unwrap(), Some((stored(2, 61_000), bytes_of(3, 61_000))));
    assert_eq!(store.read(a, &x, &in_buffer(2, 70_000), &[0..1]).await.unwrap(), None);
    assert_eq!(usage(&store, 1).await, None);
    store.close().await.unwrap();
    let store = EmbeddedStore::open(folder.path().join("a.store"), options()).unwrap();
    let report = store.verify().await.unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!((report.blocks, report.bytes, report.buffered_blocks), (1, 61_000, 0));
}

#[tokio::test]
async fn a_drain_that_comes_too_late_changes_nothing() {
    let (_folder, store) = new_store();
    let a = account(1);
    let drain_of = |version| vec![drain(a, "x", version, bytes_of(9, 100), 1)];
    assert_eq!(store.commit(drain_of(5)).await.unwrap(), [Applied::Absent]);
    store.commit(vec![buffer(a, "x", 5, bytes_of(5, 10))]).await.unwrap();
    store.commit(vec![buffer(a, "x", 6, bytes_of(6, 20))]).await.unwrap();
    assert_eq!(store.commit(drain_of(5)).await.unwrap(), [by(6)], "written again meanwhile");
    assert_eq!(store.commit(drain_of(7)).await.unwrap(), [Applied::Absent], "never buffered");
    assert_eq!(store.fetch(a, &id("x")).await.unwrap().unwrap().1, bytes_of(6, 20));
    store.commit(vec![put(a, "x", 8, bytes_of(8, 30))]).await.unwrap();
    assert_eq!(usage(&store, 1).await, None, "the put took its place");
    assert_eq!(store.commit(drain_of(6)).await.unwrap(), [by(8)]);
    store.commit(vec![buffer(a, "x", 10, bytes_of(10, 10))]).await.unwrap();
    assert_eq!(store.commit(vec![delete(a, "x", 11)]).await.unwrap(), [Applied::Deleted]);
    assert_eq!(store.commit(drain_of(10)).await.unwrap(), [Applied::Absent]);
    assert_eq!(store.stat(a, &id("x")).await.unwrap(), None);
    let report = store.verify().await.unwrap();
    assert!(report.is_sound() && report.blocks + report.buffered_blocks == 0, "{report:?}");
    assert_eq!(store.last_version().await.unwrap(), Version::new(11), "a drain brings no new version");
}

#[tokio::test]
async fn a_delete_removes_older_versions_in_both_places_and_a_discard_only_what_is_buffered() {
    let (_folder, store) = new_store();
    let a = account(1);
    store.commit(vec![put(a, "x", 1, bytes_of(1, 10)), buffer(a, "x", 3, bytes_of(3, 10))]).await.unwrap();
    assert_eq!(store.commit(vec![delete(a, "x", 3)]).await.unwrap(), [by(3)]);
    assert_eq!(store.commit(vec![discard(a, "x", 2)]).await.unwrap(), [by(3)]);
    assert_eq!(store.commit(vec![discard(a, "x", 4)]).await.unwrap(), [Applied::Absent]);
    assert_eq!(store.stat(a, &id("x")).await.unwrap(), Some(in_buffer(3, 10)));
    assert_eq!(store.commit(vec![discard(a, "x", 3)]).await.unwrap(), [Applied::Deleted]);
    assert_eq!(store.stat(a, &id("x")).await.unwrap(), Some(stored(1, 10)));
    assert_eq!(store.commit(vec![discard(a, "x", 1)]).await.unwrap(), [by(1)], "it is stored, not buffered");
    store.commit(vec![buffer(a, "x", 5, bytes_of(5, 10))]).await.unwrap();
    assert_eq!(store.commit(vec![delete(a, "x", 6)]).await.unwrap(), [Applied::Deleted]);
    assert_eq!(store.stat(a, &id("x")).await.unwrap(), None);
    assert_eq!(store.commit(vec![buffer(a, "y", 7, bytes_of(7, 10))]).await.unwrap(), [Applied::Written]);
    assert_eq!(store.commit(vec![delete(a, "y", 8)]).await.unwrap(), [Applied::Deleted], "buffered alone");
    assert_eq!(usage(&store, 1).await, None);
}

fn refused(result: Result<Vec<Applied>, StoreError>) -> String {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::BufferFull, "{error}");
    error.to_string()
}

#[tokio::test]
async fn a_buffer_takes_bytes_up_to_its_limit_and_a_batch_counts_as_a_whole() {
    let (_folder, store) = new_store();
    let within = |version, name: &str, len| {
        let limit = BufferLimit { bytes: 1000, ..UNBOUNDED };
        buffer_within(limit, account(1), name, version, bytes_of(version, len))
    };
    let both = vec![within(1, "a", 600), put(account(1), "p", 2, bytes_of(2, 5)), within(3, "b", 401)];
    let said = refused(store.commit(both).await);
    assert!(said.contains("nothing buffered") || said.contains("600 bytes"), "{said}");
    assert_eq!(usage(&store, 1).await, None, "all of a batch or nothing");
    assert_eq!(store.stat(account(1), &id("p")).await.unwrap(), None);
    assert_eq!(store.last_version().await.unwrap(), Version::new(0));
    store.commit(vec![within(4, "a", 600), within(5, "b", 400)]).await.unwrap();
    assert_eq!(usage(&store, 1).await, Some((2, 1000)));
    let said = refused(store.commit(vec![within(6, "c", 1)]).await);
    for part in ["2 blocks of 1000 bytes", "since 1764000000.004 s", "may hold 1000 bytes", "would hold 1001"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
    // What is replaced makes room first.
    store.commit(vec![within(7, "a", 590), within(8, "c", 10)]).await.unwrap();
    assert_eq!(usage(&store, 1).await, Some((3, 1000)));
    refused(store.commit(vec![within(9, "a", 591)]).await);
    assert_eq!(store.commit(vec![within(3, "a", 5000)]).await.unwrap(), [by(7)], "nothing would be written");
    // Another account's buffer is another matter.
    store.commit(vec![buffer(account(2), "a", 10, bytes_of(1, 5000))]).await.unwrap();
    store.commit(vec![discard(account(1), "c", 8), within(11, "d", 10)]).await.unwrap();
    assert_eq!(usage(&store, 1).await, Some((3, 1000)));
    assert!(store.verify().await.unwrap().is_sound());
}

#[tokio::test]
async fn a_buffer_that_has_held_something_for_too_long_takes_no_more() {
    let (_folder, store) = new_store();
    let a = account(1);
    let since = |bound: u64, version: u64, name: &str| {
        let limit = BufferLimit { since: time(bound), ..UNBOUNDED };
        buffer_within(limit, a, name, version, bytes_of(version, 10))
    };
    store.commit(vec![since(9000, 100, "a")]).await.unwrap();
    let held = BufferUsage { blocks: 1, bytes: 10, since: time(100) };
    assert_eq!(store.buffer_usage(a).await.unwrap(), Some(held), "an empty buffer has no age");
    store.commit(vec![since(100, 200, "b")]).await.unwrap();
    let said = refused(store.commit(vec![since(101, 300, "a")]).await);
    assert!(said.contains("since 1764000000.100 s") && said.contains("since 1764000000.101 s"), "{said}");
    // Each drain shows that the key is back, and its time counts from there; never backwards.
    for (version, name, at, expected) in [(100, "a", 250, Some(250)), (400, "c", 240, Some(250))] {
        if name == "c" {
            store.commit(vec![since(250, version, name)]).await.unwrap();
        }
        store.commit(vec![drain(a, name, version, bytes_of(1, 10), at)]).await.unwrap();
        let usage = store.buffer_usage(a).await.unwrap();
        assert_eq!(usage.map(|usage| usage.since), expected.map(time));
    }
    refused(store.commit(vec![since(251, 500, "d")]).await);
    store.commit(vec![drain(a, "b", 200, bytes_of(1, 10), 260)]).await.unwrap();
    assert_eq!(store.buffer_usage(a).await.unwrap(), None);
    store.commit(vec![since(9000, 600, "d")]).await.unwrap();
    assert_eq!(store.buffer_usage(a).await.unwrap().unwrap().since, time(600));
}

#[tokio::test]
async fn lists_merge_both_places_in_pages() {
    let (_folder, store) = new_store();
    let mut expected = Vec::new();
    let mut version = 0;
    for n in 0..60u8 {
        // The neighbours' blocks, which must not show.
        for owner in [0, 1, 2, 255] {
            version += 2;
            let (old, new) = (bytes_of(version, 5), bytes_of(version, 7));
            let ops = match n % 4 {
                0 => vec![put(account(owner), [n], version, old)],
                1 => vec![buffer(account(owner), [n], version, old)],
                2 => vec![
                    put(account(owner), [n], version, old),
                    buffer(account(owner), [n], version + 1, new),
                ],
                _ => vec![],
            };
            if owner == 1 {
                match n % 4 {
                    0 => expected.push((id([n]), stored(version, 5))),
                    1 => expected.push((id([n]), in_buffer(version, 5))),
                    2 => expected.push((id([n]), in_buffer(version + 1, 7))),
                    _ => {}
                }
            }
            store.commit(ops).await.unwrap();
        }
    }
    for limit in [1, 2, 7, 44, 45, 46] {
        let mut found: Vec<(_, _)> = Vec::new();
        loop {
            let after = found.last().map(|(id, _)| id);
            let page = store.list(account(1), after, limit).await.unwrap();
            assert!(page.len() <= limit);
            if page.is_empty() {
                break;
            }
            found.extend(page);
        }
        assert_eq!(found, expected, "{limit}");
    }
    assert_eq!(store.list(account(255), None, 99).await.unwrap().len(), 45, "the last account there can be");
    assert_eq!(store.list(account(1), None, 0).await.unwrap(), []);
    let buffered = store.buffered(account(1), Some(&id([1])), 2).await.unwrap();
    assert_eq!(buffered.iter().map(|(id, _)| id.as_bytes()).collect::<Vec<_>>(), [[2], [5]]);
    let accounts = |found: Vec<(_, BufferUsage)>| found.into_iter().map(|(of, _)| of).collect::<Vec<_>>();
    assert_eq!(accounts(store.buffering(None, 3).await.unwrap()), [account(0), account(1), account(2)]);
    assert_eq!(accounts(store.buffering(Some(account(1)), 9).await.unwrap()), [account(2), account(255)]);
    assert_eq!(accounts(store.buffering(Some(account(255)), 9).await.unwrap()), []);
    let report = store.verify().await.unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!((report.blocks, report.buffered_blocks), (120, 120));
}

#[tokio::test]
async fn a_version_of_another_block_is_a_conflict_in_either_place() {
    let (_folder, store) = new_store();
    let a = account(1);
    let batch =
        vec![put(a, "s", 1, bytes_of(1, 9)), buffer(a, "b", 2, bytes_of(2, 9)), buffer(a, "0", 3, "")];
    store.commit(batch).await.unwrap();
    for batch in [
        vec![buffer(a, "y", 1, bytes_of(3, 9))],
        vec![buffer(a, "y", 2, bytes_of(3, 9))],
        vec![put(a, "y", 2, bytes_of(3, 9))],
        vec![put(account(2), "b", 2, bytes_of(3, 9))],
        vec![buffer(a, "y", 7, bytes_of(3, 9)), put(a, "z", 7, bytes_of(3, 9))],
        vec![drain(a, "b", 2, bytes_of(3, 9), 1), put(a, "z", 2, bytes_of(3, 9))],
        // One without bytes has no rows to tell by.
        vec![put(a, "z", 3, bytes_of(3, 9)), drain(a, "0", 3, bytes_of(3, 9), 1)],
    ] {
        let error = store.commit(batch.clone()).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Conflict, "{batch:?}: {error}");
    }
    assert_eq!(store.last_version().await.unwrap(), Version::new(3));
    let moved = vec![buffer(a, "y", 4, bytes_of(4, 9)), drain(a, "y", 4, bytes_of(5, 9), 1)];
    assert_eq!(store.commit(moved).await.unwrap(), [Applied::Written, Applied::Written]);
    assert_eq!(store.fetch(a, &id("y")).await.unwrap(), Some((stored(4, 9), bytes_of(5, 9))));
    assert!(store.verify().await.unwrap().is_sound());
}

#[tokio::test]
async fn a_length_that_is_not_that_of_the_bytes_is_refused_in_either_place() {
    let (_folder, store) = new_store();
    let (a, limit) = (account(1), UNBOUNDED);
    let (meta, sealed) = (buffer_meta(1, 9), Bytes::from_static(b"eight by"));
    for op in [
        BlockOp::Buffer { account: a, id: id("x"), meta, sealed: sealed.clone(), limit, segment: None },
        BlockOp::Drain { account: a, id: id("x"), meta, sealed, at: time(1) },
    ] {
        assert_eq!(store.commit(vec![op]).await.unwrap_err().kind(), StoreErrorKind::OutOfBounds);
    }
}

#[tokio::test]
async fn a_stored_block_is_sealed_anew_in_its_place_whatever_is_buffered_and_only_as_the_version_that_it_is()
{
    let (_folder, store) = new_store();
    let (a, x) = (account(1), id("x"));
    let reseal_by =
        |version, epoch, len| reseal(a, "x", version, epoch, bytes_of(version + 100 * u64::from(epoch), len));
    let commit = async |op| store.commit(vec![op]).await.unwrap()[0];
    assert_eq!(commit(reseal_by(1, 2, 10)).await, Applied::Absent);
    store.commit(vec![put(a, "x", 1, bytes_of(1, 130_000))]).await.unwrap();
    // Longer, shorter, without any bytes, with some again: always as many rows as it has.
    for (epoch, len) in [(2, 200_000), (3, 70_000), (4, 0), (5, 61_441)] {
        assert_eq!(commit(reseal_by(1, epoch, len)).await, Applied::Written);
        let (meta, sealed) = store.fetch_stored(a, &x).await.unwrap().unwrap();
        assert_eq!((meta.epoch.number(), sealed), (epoch, bytes_of(1 + 100 * u64::from(epoch), len)));
        assert!(store.verify().await.unwrap().is_sound());
    }
    // Somebody else was here, with a later key or the same.
    assert_eq!(commit(reseal_by(1, 5, 61_441)).await, by(1));
    assert_eq!(commit(reseal_by(1, 4, 10)).await, by(1));
    let before = store.stat(a, &x).await.unwrap().unwrap();
    assert_eq!(commit(reseal_by(1, 6, 61_441)).await, Applied::Written);
    assert_eq!(store.read(a, &x, &before, &[0..10]).await.unwrap(), None, "the same version, other bytes");
    // Under a buffered one it goes on, and the drain does not mind.
    store.commit(vec![buffer(a, "x", 7, bytes_of(7, 100_000))]).await.unwrap();
    assert_eq!(commit(reseal_by(1, 7, 80_000)).await, Applied::Written);
    assert_eq!(store.fetch(a, &x).await.unwrap(), Some((in_buffer(7, 100_000), bytes_of(7, 100_000))));
    assert_eq!(store.fetch_stored(a, &x).await.unwrap().unwrap().1, bytes_of(701, 80_000));
    assert_eq!(commit(reseal_by(7, 8, 10)).await, by(7), "that one is buffered");
    assert_eq!(commit(drain(a, "x", 7, bytes_of(8, 50), 9)).await, Applied::Written);
    assert_eq!(commit(reseal_by(1, 8, 10)).await, by(7));
    assert_eq!(commit(reseal_by(8, 8, 10)).await, Applied::Absent);
    // Written and sealed anew in one batch; and to another provider's key and back.
    let both = vec![put(a, "x", 10, bytes_of(10, 70_000)), reseal_by(10, 2, 90_000)];
    assert_eq!(store.commit(both).await.unwrap(), [Applied::Written; 2]);
    let BlockOp::Reseal { account, id, meta, sealed } = reseal_by(10, 1, 30) else { panic!() };
    let meta = cofferdam_store::BlockMeta { provider: cofferdam_crypto::Provider::Service, ..meta };
    assert_eq!(commit(BlockOp::Reseal { account, id, meta, sealed }).await, Applied::Written);
    assert_eq!(commit(reseal_by(10, 3, 40)).await, Applied::Written);
    assert_eq!(store.fetch_stored(a, &x).await.unwrap().unwrap().1, bytes_of(310, 40));
    assert_eq!(store.last_version().await.unwrap(), Version::new(10), "no version was given out by it");
    assert!(store.verify().await.unwrap().is_sound());
}
