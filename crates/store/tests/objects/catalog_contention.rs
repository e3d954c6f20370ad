//! Writers that race for one record lose no update.

use std::{sync::Arc, time::Duration};

use cofferdam_store::{
    Catalog,
    objects::{FaultRates, ObjectCatalog},
};

use crate::support::*;

const WRITERS: u64 = 16;
const INCREMENTS: u64 = 96;

async fn race(catalogs: Vec<ObjectCatalog>) -> Option<String> {
    let check = catalogs[0].clone();
    let writers = catalogs.into_iter().map(|catalog| {
        tokio::spawn(async move {
            for _ in 0..INCREMENTS {
                increment(&catalog, "counter").await.unwrap();
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    read(&check, "counter").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sixteen_nodes_increment_one_record_and_no_update_is_lost() {
    let store = memory();
    let mut catalogs = Vec::new();
    for seed in 0..WRITERS {
        catalogs.push(catalog(&store, seed).await);
    }
    assert_eq!(race(catalogs).await, Some((WRITERS * INCREMENTS).to_string()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sixteen_tasks_of_one_node_increment_one_record_and_no_update_is_lost() {
    let catalog = catalog(&memory(), 1).await;
    let catalogs = (0..WRITERS).map(|_| catalog.clone()).collect();
    assert_eq!(race(catalogs).await, Some((WRITERS * INCREMENTS).to_string()));
}

#[tokio::test(start_paused = true)]
async fn sixteen_nodes_behind_a_bad_network_lose_no_update() {
    let store = memory();
    let mut catalogs = Vec::new();
    for seed in 0..WRITERS {
        let (way, catalog) = faulty(&store, seed).await;
        // Nothing that makes an outcome unknown: six attempts in a row do not all fail at these rates.
        way.set_rates(FaultRates {
            lose_answer: 20,
            hang: 5,
            repeat: 50,
            delay: 200,
            refuse: 20,
            longest: Duration::from_millis(500),
        });
        catalogs.push(catalog);
    }
    assert_eq!(race(catalogs).await, Some((WRITERS * INCREMENTS).to_string()));
}

#[tokio::test]
async fn of_two_who_create_one_record_one_does() {
    let store = memory();
    let (one, two) = (Arc::new(catalog(&store, 1).await), Arc::new(catalog(&store, 2).await));
    for number in 0..200 {
        let key = format!("a/{number}");
        let (first, second) =
            tokio::join!(one.swap(&key, None, Some("1".into())), two.swap(&key, None, Some("2".into())));
        assert!(first.is_ok() != second.is_ok(), "{first:?} {second:?}");
    }
}
