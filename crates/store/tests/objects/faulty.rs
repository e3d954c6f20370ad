//! A way to a store that misbehaves does so as it was told, and alike for the same seed.

use std::{sync::Arc, time::Duration};

use cofferdam_store::objects::{FaultRates, FaultyObjects, ObjectFault, ObjectRequest};
use futures_util::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, path::Path};

use crate::support::*;

fn way(store: &Arc<dyn ObjectStore>, seed: u64) -> FaultyObjects {
    FaultyObjects::new(store.clone(), entropy(seed))
}

#[tokio::test(start_paused = true)]
async fn each_fault_does_what_it_says() {
    let store = memory();
    let way = way(&store, 1);
    let at = |name: &str| Path::from(name);
    let is_there = async |name: &str| store.head(&at(name)).await.is_ok();

    way.fail(ObjectRequest::Put, 1, ObjectFault::Refuse);
    way.put(&at("plain"), "1".into()).await.unwrap();
    assert!(way.put(&at("refused"), "1".into()).await.is_err());
    assert!(is_there("plain").await && !is_there("refused").await);

    way.fail(ObjectRequest::Put, 0, ObjectFault::LoseAnswer);
    assert!(way.put(&at("lost"), "1".into()).await.is_err());
    assert!(is_there("lost").await);

    way.fail(ObjectRequest::Put, 0, ObjectFault::Hang);
    let hung_at = at("hung");
    let hanging = way.put(&hung_at, "1".into());
    assert!(tokio::time::timeout(Duration::from_secs(1000), hanging).await.is_err());
    assert!(is_there("hung").await);

    way.fail(ObjectRequest::Put, 0, ObjectFault::Repeat);
    let repeated = way.put_opts(&at("twice"), "1".into(), PutMode::Create.into()).await;
    assert!(matches!(repeated, Err(object_store::Error::AlreadyExists { .. })), "{repeated:?}");
    assert!(is_there("twice").await);

    let fault = ObjectFault::Delay { there: Duration::from_secs(5), back: Duration::from_secs(5) };
    way.fail(ObjectRequest::Put, 0, fault);
    let late_at = at("late");
    let delayed = way.put(&late_at, "1".into());
    assert!(tokio::time::timeout(Duration::from_secs(1), delayed).await.is_err());
    assert!(!is_there("late").await);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(is_there("late").await, "it arrives although nobody waits for it");
    assert_eq!(way.asked(ObjectRequest::Put), 6);
}

#[tokio::test(start_paused = true)]
async fn nothing_passes_a_way_that_is_cut_and_all_of_another_node_does() {
    let store = memory();
    let (cut, whole) = (way(&store, 1), way(&store, 2));
    let there = Duration::from_secs(5);
    cut.fail(ObjectRequest::Put, 0, ObjectFault::Delay { there, back: Duration::ZERO });
    let on_its_way = {
        let cut = cut.clone();
        tokio::spawn(async move { cut.put(&Path::from("a"), "1".into()).await })
    };
    tokio::time::sleep(Duration::from_secs(1)).await;
    cut.cut();
    assert!(on_its_way.await.unwrap().is_err());
    assert!(cut.put(&Path::from("b"), "1".into()).await.is_err());
    assert!(cut.list(None).try_collect::<Vec<_>>().await.is_err());
    assert!(cut.delete(&Path::from("b")).await.is_err());
    whole.put(&Path::from("c"), "1".into()).await.unwrap();
    cut.heal();
    let listed: Vec<_> = cut.list(None).map_ok(|object| object.location).try_collect().await.unwrap();
    assert_eq!(listed, [Path::from("c")]);
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_misbehaves_alike() {
    let run = async |seed| {
        let way = way(&memory(), seed);
        let longest = Duration::from_secs(3);
        way.set_rates(FaultRates {
            refuse: 100,
            lose_answer: 100,
            hang: 0,
            repeat: 100,
            delay: 300,
            longest,
        });
        let mut seen = Vec::new();
        for number in 0..200 {
            let before = tokio::time::Instant::now();
            let at = Path::from(format!("{}", number % 50));
            let put = way.put_opts(&at, "1".into(), PutMode::Create.into()).await;
            seen.push((put.is_ok(), before.elapsed()));
        }
        seen
    };
    let seen = run(1).await;
    assert_eq!(seen, run(1).await);
    assert_ne!(seen, run(2).await);
    let took = seen.iter().filter(|(_, took)| !took.is_zero()).count();
    assert!((30..90).contains(&took), "of 200 requests about 60 are delayed, and {took} were");
}
