//! Records in an object store behave as in any catalog.

use bytes::Bytes;
use cofferdam_store::{Catalog, Revision, StoreErrorKind};
use futures_util::TryStreamExt;
use object_store::{ObjectStoreExt, path::Path};

use crate::support::*;

#[tokio::test]
async fn records_swap_only_at_the_revision_expected() {
    let store = catalog(&memory(), 1).await;
    assert_eq!(store.load("account/1").await.unwrap(), None);
    let first = store.swap("account/1", None, Some("one".into())).await.unwrap().unwrap();
    let conflict = store.swap("account/1", None, Some("two".into())).await.unwrap_err();
    assert_eq!(conflict.kind(), StoreErrorKind::Conflict);
    assert!(conflict.to_string().contains("one/c/account/1"), "{conflict}");
    let second = store.swap("account/1", Some(&first), Some("two".into())).await.unwrap().unwrap();
    assert_ne!(first, second);
    assert!(store.swap("account/1", Some(&first), None).await.is_err());
    let stored = store.load("account/1").await.unwrap().unwrap();
    assert_eq!((&stored.bytes[..], &stored.revision), (&b"two"[..], &second));
    assert_eq!(store.swap("account/1", Some(&second), None).await.unwrap(), None);
    for revision in [&first, &second] {
        let error = store.swap("account/1", Some(revision), Some("x".into())).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Conflict);
    }
    assert_eq!(store.load("account/1").await.unwrap(), None);
    let third = store.swap("account/1", None, Some(Bytes::new())).await.unwrap().unwrap();
    assert!(third != first && third != second);
    assert_eq!(store.load("account/1").await.unwrap().unwrap().bytes.len(), 0);
}

#[tokio::test]
async fn an_equal_record_is_another_writing() {
    let store = catalog(&memory(), 1).await;
    let first = store.swap("a", None, Some("same".into())).await.unwrap().unwrap();
    let second = store.swap("a", Some(&first), Some("same".into())).await.unwrap().unwrap();
    assert_ne!(first, second);
    let error = store.swap("a", Some(&first), Some("same".into())).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Conflict);
}

#[tokio::test]
async fn nothing_is_removed_where_nothing_is_or_something_unexpected_is() {
    let store = catalog(&memory(), 1).await;
    assert_eq!(store.swap("a", None, None).await.unwrap(), None);
    store.swap("a", None, Some("1".into())).await.unwrap();
    assert_eq!(store.swap("a", None, None).await.unwrap_err().kind(), StoreErrorKind::Conflict);
    let foreign = Revision::new("7");
    let error = store.swap("a", Some(&foreign), None).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Conflict);
    assert_eq!(read(&store, "a").await.as_deref(), Some("1"));
}

#[tokio::test]
async fn records_are_listed_in_pages_in_the_order_of_their_keys() {
    let store = catalog(&memory(), 1).await;
    let keys = ["a/-", "a/.x", "a/0", "a/1/x", "a/1/y", "a/10", "a/1_", "a/B", "a/b", "a0", "b/1"];
    for key in keys {
        store.swap(key, None, Some(key.to_owned().into())).await.unwrap();
    }
    // Removed ones, before, between and after.
    for key in ["a/,".replace(',', "-0"), "a/1/xx".into(), "a/z".into()] {
        let revision = store.swap(&key, None, Some("gone".into())).await.unwrap();
        store.swap(&key, revision.as_ref(), None).await.unwrap();
    }
    for prefix in ["", "a", "a/", "a/1", "a/1/", "a/b", "b/", "c", "a/-", "a/1/x"] {
        for after in
            [None, Some("a/0"), Some("a/1/x"), Some("a/1/xx"), Some("a/10"), Some("zz"), Some("a/-0")]
        {
            let mut expected: Vec<_> = keys
                .into_iter()
                .filter(|key| key.starts_with(prefix) && after.is_none_or(|after| *key > after))
                .collect();
            expected.sort_unstable();
            for limit in [0, 1, 2, 3, 100] {
                let page = store.list(prefix, after, limit).await.unwrap();
                let listed: Vec<_> = page.iter().map(|(key, _)| key.as_str()).collect();
                let page_expected = &expected[..limit.min(expected.len())];
                assert_eq!(listed, page_expected, "{prefix:?} {after:?} {limit}");
                assert!(page.iter().all(|(key, stored)| stored.bytes == key.as_bytes()));
            }
        }
    }
}

#[tokio::test]
async fn a_listed_record_has_the_revision_that_it_is_loaded_with() {
    let store = catalog(&memory(), 1).await;
    let revision = store.swap("a/1", None, Some("1".into())).await.unwrap().unwrap();
    let listed = store.list("a/", None, 10).await.unwrap();
    assert_eq!(listed[0].1, store.load("a/1").await.unwrap().unwrap());
    assert_eq!(listed[0].1.revision, revision);
}

#[tokio::test]
async fn handles_share_records_and_deployments_do_not() {
    let objects = memory();
    let (here, there) = (catalog(&objects, 1).await, catalog(&objects, 2).await);
    assert!(here.is_shared());
    let revision = here.swap("a", None, Some("1".into())).await.unwrap().unwrap();
    let revision = there.swap("a", Some(&revision), Some("2".into())).await.unwrap().unwrap();
    assert_eq!(here.swap("a", Some(&revision), None).await.unwrap(), None);
    assert_eq!(read(&there, "a").await, None);

    let two = cofferdam_store::objects::ObjectCatalog::open(
        objects.clone(),
        Path::from("two"),
        entropy(3),
        Default::default(),
    )
    .await
    .unwrap();
    two.swap("a", None, Some("other".into())).await.unwrap();
    assert_eq!(read(&here, "a").await, None);
}

#[tokio::test]
async fn a_removal_leaves_one_small_object_and_lists_do_not_read_it() {
    let objects = memory();
    let (way, store) = faulty(&objects, 1).await;
    for number in 0..50 {
        let key = format!("gone/{number:02}");
        let revision = store.swap(&key, None, Some(vec![0; 5000].into())).await.unwrap();
        store.swap(&key, revision.as_ref(), None).await.unwrap();
    }
    let reads = way.asked(cofferdam_store::objects::ObjectRequest::Get);
    assert_eq!(store.list("gone/", None, 100).await.unwrap(), []);
    assert_eq!(way.asked(cofferdam_store::objects::ObjectRequest::Get), reads);
    let left: Vec<_> = objects.list(Some(&Path::from("one/c/gone"))).try_collect().await.unwrap();
    assert_eq!(left.len(), 50);
    assert!(left.iter().all(|object| object.size < 100), "{left:?}");
}

#[tokio::test]
async fn a_key_that_can_be_no_name_is_refused() {
    let store = catalog(&memory(), 1).await;
    for key in ["", "a b", "a//b", "../a", "a/..", "a%", "ä"] {
        assert_eq!(store.load(key).await.unwrap_err().kind(), StoreErrorKind::Invalid, "{key:?}");
        let error = store.swap(key, None, Some("1".into())).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Invalid, "{key:?}");
    }
}

#[tokio::test]
async fn what_is_no_record_is_said_to_be_damaged_with_its_name() {
    let objects = memory();
    let store = catalog(&objects, 1).await;
    store.swap("a/1", None, Some("1".into())).await.unwrap();
    objects.put(&Path::from("one/c/a/1"), "\x01rubbish".into()).await.unwrap();
    let error = store.load("a/1").await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Corrupt);
    assert!(error.to_string().contains("one/c/a/1"), "{error}");
    objects.put(&Path::from("one/c/a/1"), vec![9_u8, 0, 0].into()).await.unwrap();
    let error = store.load("a/1").await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::NewerFormat { found: 9, supported: 1 });
}
