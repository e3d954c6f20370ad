//! The embedded store does what the traits say, and refuses what is not a store.

use bytes::Bytes;
use cofferdam_crypto::Version;
use cofferdam_store::{Applied, BlockStore, Catalog, EmbeddedStore, StoreErrorKind};
use tempfile::TempDir;

use crate::embedded_support::*;

fn new_store() -> (TempDir, EmbeddedStore) {
    let folder = TempDir::new().unwrap();
    let store = EmbeddedStore::create(folder.path().join("a.store"), options()).unwrap();
    (folder, store)
}

#[tokio::test]
async fn blocks_of_every_length_around_a_row_come_back() {
    let (folder, store) = new_store();
    let lengths = [0, 1, 4095, 4096, 61_439, 61_440, 61_441, 122_880, 122_881, 1 << 20, (16 << 20) + 17];
    for (i, len) in lengths.into_iter().enumerate() {
        let sealed = bytes_of(i as u64, len);
        let applied = store.commit(vec![put(account(1), format!("b{len}"), 1 + i as u64, sealed)]).await;
        assert_eq!(applied.unwrap(), [Applied::Written]);
    }
    store.close().await.unwrap();
    let store = EmbeddedStore::open(folder.path().join("a.store"), options()).unwrap();
    for (i, len) in lengths.into_iter().enumerate() {
        let (found, sealed) = store.fetch(account(1), &id(format!("b{len}"))).await.unwrap().unwrap();
        assert_eq!(found, stored(1 + i as u64, len));
        assert_eq!(sealed, bytes_of(i as u64, len));
        assert_eq!(store.stat(account(1), &id(format!("b{len}"))).await.unwrap(), Some(found));
    }
    assert_eq!(store.last_version().await.unwrap(), Version::new(lengths.len() as u64));
    assert_eq!(store.fetch(account(2), &id("b1")).await.unwrap(), None);
}

#[tokio::test]
async fn ranges_come_from_exactly_the_version_asked_for() {
    let (_folder, store) = new_store();
    let sealed = bytes_of(1, 200_000);
    store.commit(vec![put(account(1), "x", 5, sealed.clone())]).await.unwrap();
    let ranges =
        [0..0, 0..1, 61_439..61_441, 0..200_000, 199_999..200_000, 200_000..200_000, 61_440..122_880];
    let found = store.read(account(1), &id("x"), &stored(5, 200_000), &ranges).await.unwrap().unwrap();
    for (range, bytes) in ranges.iter().zip(&found) {
        assert_eq!(bytes[..], sealed[range.start as usize..range.end as usize], "{range:?}");
    }
    #[expect(clippy::reversed_empty_ranges, reason = "that is what is refused")]
    for bad in [0..200_001, 200_001..200_001, 5..4, u64::MAX - 1..u64::MAX] {
        let error = store.read(account(1), &id("x"), &stored(5, 200_000), &[0..1, bad]).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::OutOfBounds);
    }
    store.commit(vec![put(account(1), "x", 6, bytes_of(2, 10))]).await.unwrap();
    assert_eq!(store.read(account(1), &id("x"), &stored(5, 200_000), &[0..1]).await.unwrap(), None);
}

#[tokio::test]
async fn the_newest_version_wins_in_whatever_order_they_come() {
    let (_folder, store) = new_store();
    let a = account(1);
    let newer = bytes_of(2, 70_000);
    let batch = vec![
        put(a, "x", 8, newer.clone()),
        put(a, "x", 7, bytes_of(1, 10)),
        delete(a, "x", 8),
        delete(a, "x", 3),
        delete(a, "y", 9),
    ];
    let by = Version::new(8);
    assert_eq!(
        store.commit(batch).await.unwrap(),
        [
            Applied::Written,
            Applied::Superseded { by },
            Applied::Superseded { by },
            Applied::Superseded { by },
            Applied::Absent
        ]
    );
    assert_eq!(store.fetch(a, &id("x")).await.unwrap().unwrap().1, newer);
    assert_eq!(store.commit(vec![delete(a, "x", 10)]).await.unwrap(), [Applied::Deleted]);
    assert_eq!(store.fetch(a, &id("x")).await.unwrap(), None);
    assert_eq!(store.last_version().await.unwrap(), Version::new(10));
}

#[tokio::test]
async fn puts_of_one_batch_are_all_stored_or_none_also_where_one_is_late() {
    let (_folder, store) = new_store();
    let a = account(1);
    store.commit(vec![put(a, "x", 5, bytes_of(1, 100))]).await.unwrap();
    let late = vec![put(a, "y", 3, bytes_of(2, 10)), put(a, "x", 4, bytes_of(3, 10))];
    assert_eq!(store.commit(late).await.unwrap_err().kind(), StoreErrorKind::Conflict);
    assert_eq!(store.fetch(a, &id("y")).await.unwrap(), None);
    // Where all are late there is nothing to keep together.
    let by = Version::new(5);
    let both = vec![put(a, "x", 3, bytes_of(2, 10)), put(a, "x", 4, bytes_of(3, 10))];
    assert_eq!(store.commit(both).await.unwrap(), [Applied::Superseded { by }; 2]);
    let newer = vec![put(a, "y", 6, bytes_of(2, 10)), put(a, "x", 7, bytes_of(3, 10))];
    assert_eq!(store.commit(newer).await.unwrap(), [Applied::Written; 2]);
}

#[tokio::test]
async fn a_version_of_another_block_is_a_conflict_and_changes_nothing() {
    let (_folder, store) = new_store();
    let a = account(1);
    store.commit(vec![put(a, "x", 1, bytes_of(1, 100))]).await.unwrap();
    for batch in [
        vec![put(a, "z", 9, bytes_of(3, 5)), put(a, "y", 1, bytes_of(2, 100))],
        vec![put(a, "z", 9, bytes_of(3, 5)), put(a, "y", 9, bytes_of(2, 100))],
    ] {
        assert_eq!(store.commit(batch).await.unwrap_err().kind(), StoreErrorKind::Conflict);
    }
    assert_eq!(BlockStore::list(&store, a, None, 10).await.unwrap().len(), 1);
    assert_eq!(store.fetch(a, &id("x")).await.unwrap().unwrap().1, bytes_of(1, 100));
    assert_eq!(store.last_version().await.unwrap(), Version::new(1));
}

#[tokio::test]
async fn a_put_that_is_sent_again_is_not_written_twice() {
    let (_folder, store) = new_store();
    let op = put(account(1), "x", 4, bytes_of(1, 100_000));
    store.commit(vec![op.clone()]).await.unwrap();
    assert_eq!(store.commit(vec![op]).await.unwrap(), [Applied::Superseded { by: Version::new(4) }]);
    assert_eq!(store.fetch(account(1), &id("x")).await.unwrap().unwrap().1, bytes_of(1, 100_000));
}

#[tokio::test]
async fn a_meta_that_lies_about_its_length_is_refused() {
    let (_folder, store) = new_store();
    let mut op = put(account(1), "x", 1, bytes_of(1, 10));
    if let cofferdam_store::BlockOp::Put { meta, .. } = &mut op {
        meta.sealed_len = 11;
    }
    assert_eq!(store.commit(vec![op]).await.unwrap_err().kind(), StoreErrorKind::OutOfBounds);
}

#[tokio::test]
async fn lists_page_through_ids_of_any_bytes_in_their_order() {
    let (_folder, store) = new_store();
    let mut names: Vec<Vec<u8>> = (0..=255u8).map(|b| vec![b]).collect();
    names.extend([vec![0, 0], vec![0, 255], vec![255, 0], vec![255; 1024], vec![0; 1024], vec![255, 255]]);
    let mut version = 0;
    // Neighbours on both sides, the last possible account among them, must not be listed.
    for owner in [account(0), account(254), account(255)] {
        let batch = names
            .iter()
            .map(|name| {
                version += 1;
                put(owner, name, version, bytes_of(version, 3))
            })
            .collect();
        store.commit(batch).await.unwrap();
    }
    names.sort();
    for limit in [1, 7, 1000] {
        let mut found = Vec::new();
        loop {
            let after = found.last().map(id);
            let page = BlockStore::list(&store, account(254), after.as_ref(), limit).await.unwrap();
            assert!(page.len() <= limit);
            if page.is_empty() {
                break;
            }
            found.extend(page.iter().map(|(id, _)| id.as_bytes().to_vec()));
        }
        assert_eq!(found, names, "limit {limit}");
    }
    let last = BlockStore::list(&store, account(255), None, 1000).await.unwrap();
    assert_eq!(last.len(), names.len());
    assert_eq!(BlockStore::list(&store, account(255), None, 0).await.unwrap(), []);
    assert_eq!(BlockStore::list(&store, account(7), None, 9).await.unwrap(), []);
}

#[tokio::test]
async fn records_swap_only_at_the_revision_expected() {
    let (folder, store) = new_store();
    assert_eq!(store.load("account/1").await.unwrap(), None);
    let first = store.swap("account/1", None, Some("one".into())).await.unwrap().unwrap();
    let conflict = store.swap("account/1", None, Some("two".into())).await.unwrap_err();
    assert_eq!(conflict.kind(), StoreErrorKind::Conflict);
    let second = store.swap("account/1", Some(&first), Some("two".into())).await.unwrap().unwrap();
    assert_ne!(first, second);
    assert!(store.swap("account/1", Some(&first), None).await.is_err());
    assert_eq!(store.swap("account/1", Some(&second), None).await.unwrap(), None);
    assert_eq!(
        store.swap("account/1", Some(&second), Some("x".into())).await.unwrap_err().kind(),
        StoreErrorKind::Conflict
    );
    let third = store.swap("account/1", None, Some(Bytes::new())).await.unwrap().unwrap();
    assert!(third != first && third != second, "a revision never comes again");
    store.close().await.unwrap();
    let store = EmbeddedStore::open(folder.path().join("a.store"), options()).unwrap();
    let found = store.load("account/1").await.unwrap().unwrap();
    assert_eq!((found.revision, found.bytes), (third, Bytes::new()));
}

#[tokio::test]
async fn records_list_by_prefix_in_pages() {
    let (_folder, store) = new_store();
    for key in ["a", "account/1", "account/2", "account/22", "account/3", "b", "\u{10ffff}"] {
        store.swap(key, None, Some(key.to_owned().into())).await.unwrap();
    }
    let keys = |found: Vec<(String, cofferdam_store::Stored)>| -> Vec<String> {
        found
            .into_iter()
            .map(|(key, stored)| {
                assert_eq!(stored.bytes, key.as_bytes());
                key
            })
            .collect()
    };
    let page = Catalog::list(&store, "account/", None, 2).await.unwrap();
    assert_eq!(keys(page), ["account/1", "account/2"]);
    let page = Catalog::list(&store, "account/", Some("account/2"), 9).await.unwrap();
    assert_eq!(keys(page), ["account/22", "account/3"]);
    assert_eq!(keys(Catalog::list(&store, "account/", Some("a"), 9).await.unwrap()).len(), 4);
    assert_eq!(keys(Catalog::list(&store, "", None, 99).await.unwrap()).len(), 7);
    assert!(Catalog::list(&store, "c", None, 9).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_closed_store_says_so_and_can_be_opened_again() {
    let (folder, store) = new_store();
    store.commit(vec![put(account(1), "x", 1, bytes_of(1, 10))]).await.unwrap();
    store.close().await.unwrap();
    store.close().await.unwrap();
    let error = store.commit(vec![put(account(1), "x", 2, bytes_of(1, 10))]).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Closed);
    assert_eq!(store.stat(account(1), &id("x")).await.unwrap_err().kind(), StoreErrorKind::Closed);
    let again = EmbeddedStore::open(folder.path().join("a.store"), options()).unwrap();
    assert!(again.stat(account(1), &id("x")).await.unwrap().is_some());
}

#[tokio::test]
async fn a_store_that_is_open_is_locked() {
    let (folder, store) = new_store();
    let path = folder.path().join("a.store");
    let error = EmbeddedStore::open(&path, options()).unwrap_err();
    assert_eq!((error.kind(), error.path()), (StoreErrorKind::Locked, Some(path.as_path())));
    drop(store);
    EmbeddedStore::open(&path, options()).unwrap();
}

#[tokio::test]
async fn what_is_not_a_store_is_refused_untouched() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("file");
    let kind = || EmbeddedStore::open(&path, options()).unwrap_err().kind();
    assert_eq!(kind(), StoreErrorKind::NotFound);
    for content in [&b""[..], b"x", b"cofferdam stor", &[7; 100_000]] {
        std::fs::write(&path, content).unwrap();
        assert_eq!(kind(), StoreErrorKind::NotAStore);
        assert_eq!(std::fs::read(&path).unwrap(), content);
        let error = EmbeddedStore::create(&path, options()).unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), content);
    }
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert_eq!(kind(), StoreErrorKind::NotAStore);
    let error = EmbeddedStore::create(folder.path().join("no/such/folder"), options()).unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::NotFound);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left behind");
}

#[tokio::test]
async fn a_read_only_file_is_refused_as_such() {
    let (folder, store) = new_store();
    drop(store);
    let path = folder.path().join("a.store");
    let mut permissions = std::fs::metadata(&path).unwrap().permissions();
    permissions.set_readonly(true);
    std::fs::set_permissions(&path, permissions).unwrap();
    assert_eq!(EmbeddedStore::open(&path, options()).unwrap_err().kind(), StoreErrorKind::ReadOnly);
}

#[tokio::test]
async fn verify_reads_everything_of_a_sound_store() {
    let (_folder, store) = new_store();
    let report = store.verify().await.unwrap();
    assert!(report.is_sound(), "{report:?}");
    for n in 0..300 {
        store
            .commit(vec![put(account(n as u8 % 3), format!("{n}"), n + 1, bytes_of(n, 10_000))])
            .await
            .unwrap();
    }
    store.swap("a", None, Some("1".into())).await.unwrap();
    let report = store.verify().await.unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!((report.blocks, report.bytes, report.records), (300, 3_000_000, 1));
    assert!(report.pages_verified >= 3_000_000 / 4096);
    store.commit(vec![delete(account(0), "0", 301)]).await.unwrap();
    assert_eq!(store.verify().await.unwrap().blocks, 299);
}
