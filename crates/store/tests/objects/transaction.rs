//! Several rows of a catalog change together or not at all.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use cofferdam_store::{
    Catalog, EmbeddedStore, StoreErrorKind,
    objects::{FaultRates, Rows},
};
use object_store::ObjectStore;

use crate::support::*;

/// Rows over each kind of catalog.
async fn each() -> Vec<Rows> {
    let folder = tempfile::tempdir().unwrap();
    let embedded = EmbeddedStore::create(folder.path().join("store"), Default::default()).unwrap();
    let objects = catalog(&memory(), 1).await;
    let catalogs: [Arc<dyn Catalog>; 2] = [Arc::new(embedded), Arc::new(objects)];
    catalogs.into_iter().map(|catalog| Rows::new(catalog, entropy(7))).collect()
}

async fn text(rows: &Rows, key: &str) -> Option<String> {
    rows.load(key).await.unwrap().map(|value| String::from_utf8(value.into()).unwrap())
}

#[tokio::test]
async fn a_transaction_writes_and_removes_rows_together() {
    for rows in each().await {
        let mut first = rows.begin();
        assert_eq!(first.load("a").await.unwrap(), None);
        first.put("a", "1".into());
        first.put("b", "1".into());
        first.remove("c");
        assert_eq!(first.load("a").await.unwrap(), Some(Bytes::from("1")));
        assert_eq!(text(&rows, "a").await, None, "nothing is done before the commit");
        first.commit().await.unwrap();
        let mut second = rows.begin();
        assert_eq!(second.load("a").await.unwrap(), Some(Bytes::from("1")));
        second.put("c", "2".into());
        second.remove("b");
        second.commit().await.unwrap();
        let listed = rows.list("", None, 10).await.unwrap();
        assert_eq!(listed, [("a".to_owned(), "1".into()), ("c".to_owned(), "2".into())], "{rows:?}");
    }
}

#[tokio::test]
async fn a_transaction_conflicts_where_a_row_that_it_loaded_was_changed_even_one_it_does_not_write() {
    for rows in each().await {
        for written in ["a", "b"] {
            let mut ours = rows.begin();
            ours.load("a").await.unwrap();
            ours.load("c").await.unwrap();
            ours.put(written, "ours".into());
            let mut theirs = rows.begin();
            theirs.put("a", written.as_bytes().to_vec().into());
            theirs.commit().await.unwrap();
            let error = ours.commit().await.unwrap_err();
            assert_eq!(error.kind(), StoreErrorKind::Conflict);
            assert!(error.to_string().contains("\"a\""), "{error}");
            assert_eq!(text(&rows, "a").await.as_deref(), Some(written));
            assert_eq!(text(&rows, "b").await, None);
        }
    }
}

#[tokio::test]
async fn what_was_loaded_and_not_written_stays_as_it_is() {
    for rows in each().await {
        let mut first = rows.begin();
        first.put("a", "1".into());
        first.commit().await.unwrap();
        let mut second = rows.begin();
        assert!(second.load("a").await.unwrap().is_some());
        assert!(second.load("gone").await.unwrap().is_none());
        second.put("b", "2".into());
        second.commit().await.unwrap();
        let listed = rows.list("", None, 10).await.unwrap();
        assert_eq!(listed, [("a".to_owned(), "1".into()), ("b".to_owned(), "2".into())]);
    }
}

#[tokio::test]
async fn a_list_fills_its_pages_past_rows_that_have_no_value() {
    for rows in each().await {
        for number in 0..7 {
            let mut transaction = rows.begin();
            transaction.put(format!("a/{number}"), number.to_string().into());
            transaction.commit().await.unwrap();
        }
        let mut removal = rows.begin();
        (1..6).for_each(|number| removal.remove(format!("a/{number}")));
        removal.commit().await.unwrap();
        let keys: Vec<_> = rows.list("a/", None, 2).await.unwrap().into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["a/0", "a/6"]);
    }
}

/// Adds one to both rows, until it worked; `false`: it is not known whether it did.
async fn add(rows: &Rows, keys: [&str; 2], seed: u64) -> bool {
    for attempt in 0.. {
        let added = async {
            let mut transaction = rows.begin();
            for key in keys {
                let number = transaction.load(key).await?.map_or(0, |value| number(&value)) + 1;
                transaction.put(key, number.to_string().into());
            }
            transaction.commit().await
        };
        match added.await {
            Ok(()) => return true,
            Err(error) if error.kind() == StoreErrorKind::Conflict => {
                // Two at once must not end each other for ever.
                let wait = (seed * 7 + attempt * 13) % 50;
                tokio::time::sleep(Duration::from_millis(wait)).await;
            }
            Err(error) => {
                assert_eq!(error.kind(), StoreErrorKind::Io, "{error}");
                return false;
            }
        }
    }
    unreachable!()
}

#[tokio::test(start_paused = true)]
async fn nodes_behind_a_bad_network_change_rows_together_and_lose_nothing() {
    for seed in 0..scale(10, 1000) {
        let store: Arc<dyn ObjectStore> = memory();
        let mut tasks = Vec::new();
        let pairs = [["a", "b"], ["b", "c"], ["c", "a"], ["a", "c"]];
        for (node, pair) in pairs.into_iter().enumerate() {
            let node = node as u64;
            let (way, catalog) = faulty(&store, 1000 * seed + node).await;
            way.set_rates(FaultRates {
                refuse: 30,
                lose_answer: 30,
                hang: 10,
                repeat: 50,
                delay: 200,
                longest: Duration::from_secs(12),
            });
            let rows = Rows::new(Arc::new(catalog), entropy(500_000 + 1000 * seed + node));
            tasks.push(tokio::spawn(async move {
                let mut came = [0, 0];
                for _ in 0..8 {
                    came[usize::from(!add(&rows, pair, node).await)] += 1;
                }
                (pair, came)
            }));
        }
        let mut bounds = std::collections::BTreeMap::<&str, (u64, u64)>::new();
        let mut all = 0;
        for task in tasks {
            let (pair, [done, unknown]) = task.await.unwrap();
            all += done;
            for key in pair {
                let (least, most) = bounds.entry(key).or_default();
                (*least, *most) = (*least + done, *most + done + unknown);
            }
        }
        tokio::time::sleep(Duration::from_secs(60)).await;
        let rows = Rows::new(Arc::new(catalog(&store, u64::MAX - seed).await), entropy(u64::MAX - seed));
        let mut sum = 0;
        for (key, (least, most)) in bounds {
            let value: u64 = text(&rows, key).await.map_or(0, |text| text.parse().unwrap());
            assert!(
                (least..=most).contains(&value),
                "seed {seed}: {key} is {value}, not in {least}..={most}"
            );
            sum += value;
        }
        // Each transaction added to two rows or to none.
        assert_eq!(sum % 2, 0, "seed {seed}: a transaction was done in part");
        assert!(all > 0, "seed {seed}: nothing was done");
    }
}

#[tokio::test(start_paused = true)]
async fn a_transaction_under_way_is_waited_for_and_one_that_was_left_is_taken_back() {
    let store = memory();
    let (way, ours) = faulty(&store, 1).await;
    let ours = Rows::new(Arc::new(ours), entropy(11));
    let theirs = Rows::new(Arc::new(catalog(&store, 2).await), entropy(12));
    let begun = async |rows: &Rows| {
        let mut transaction = rows.begin();
        transaction.put("a", "ours".into());
        transaction.put("b", "ours".into());
        transaction.commit().await
    };
    // The decision takes a second: within their patience.
    let slow =
        cofferdam_store::objects::ObjectFault::Delay { there: Duration::from_secs(1), back: Duration::ZERO };
    way.fail(cofferdam_store::objects::ObjectRequest::Put, 2, slow);
    let waiting = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        text(&theirs, "b").await
    };
    let (committed, seen) = tokio::join!(begun(&ours), waiting);
    committed.unwrap();
    assert_eq!(seen.as_deref(), Some("ours"));

    // The decision takes an hour: it is taken back, and then too late.
    let mut removal = ours.begin();
    removal.remove("a");
    removal.remove("b");
    removal.commit().await.unwrap();
    let slow = cofferdam_store::objects::ObjectFault::Delay {
        there: Duration::from_secs(3600),
        back: Duration::ZERO,
    };
    // Both rows were removed, so each is first tried as one that never was.
    way.fail(cofferdam_store::objects::ObjectRequest::Put, 4, slow);
    let commit = begun(&ours);
    let patient = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let before = tokio::time::Instant::now();
        let seen = (text(&theirs, "b").await, text(&theirs, "a").await);
        (seen, before.elapsed())
    };
    let (committed, (seen, waited)) = tokio::join!(commit, patient);
    assert_eq!(seen, (None, None));
    assert!((Duration::from_secs(2)..Duration::from_secs(3)).contains(&waited), "{waited:?}");
    assert_eq!(committed.unwrap_err().kind(), StoreErrorKind::Conflict);
    tokio::time::sleep(Duration::from_secs(4000)).await;
    assert_eq!((text(&theirs, "a").await, text(&theirs, "b").await), (None, None));
}
