//! A catalog over real servers, also behind a way that loses answers after they were given.
//!
//! moto is asked for behaviour, and not for what happens when several write at once: it loses updates then.

use std::{
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use cofferdam::{
    store::{
        Catalog, StoreErrorKind,
        objects::{FaultRates, FaultyObjects, ObjectCatalog, RequestOptions, Rows},
    },
    vault::{
        SystemEntropy,
        testing::servers::{Azurite, Moto},
    },
};
use object_store::{ObjectStore, azure::MicrosoftAzureBuilder, path::Path};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{stores::Place, world::scale};

async fn open(store: &Arc<dyn ObjectStore>) -> ObjectCatalog {
    let options = RequestOptions { pause: Duration::from_millis(5), ..RequestOptions::default() };
    ObjectCatalog::open(store.clone(), Path::from("one"), Arc::new(SystemEntropy), options).await.unwrap()
}

async fn number(catalog: &ObjectCatalog) -> Option<u64> {
    let stored = catalog.load("counter").await.unwrap()?;
    Some(std::str::from_utf8(&stored.bytes).unwrap().parse().unwrap())
}

async fn increment(catalog: &ObjectCatalog) {
    loop {
        let stored = catalog.load("counter").await.unwrap();
        let next = stored
            .as_ref()
            .map_or(0, |stored| std::str::from_utf8(&stored.bytes).unwrap().parse::<u64>().unwrap())
            + 1;
        let revision = stored.as_ref().map(|stored| &stored.revision);
        match catalog.swap("counter", revision, Some(next.to_string().into())).await {
            Ok(_) => return,
            Err(error) if error.kind() == StoreErrorKind::Conflict => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// So many increments by each of these; what the record says then.
async fn race(catalogs: Vec<ObjectCatalog>, increments: usize) -> Option<u64> {
    let check = catalogs[0].clone();
    let writers = catalogs.into_iter().map(|catalog| {
        tokio::spawn(async move {
            for _ in 0..increments {
                increment(&catalog).await;
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    number(&check).await
}

async fn behaves(store: Arc<dyn ObjectStore>) {
    let catalog = open(&store).await;
    let first = catalog.swap("account/1", None, Some("one".into())).await.unwrap().unwrap();
    assert_eq!(catalog.load("account/1").await.unwrap().unwrap().revision, first);
    let second = catalog.swap("account/1", Some(&first), Some("two".into())).await.unwrap().unwrap();
    for (expected, new) in [(Some(&first), Some("x".into())), (None, Some("x".into())), (Some(&first), None)]
    {
        let error = catalog.swap("account/1", expected, new).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Conflict, "{error}");
    }
    assert_eq!(catalog.swap("account/1", Some(&second), None).await.unwrap(), None);
    assert_eq!(catalog.load("account/1").await.unwrap(), None);
    catalog.swap("account/1", None, Some("three".into())).await.unwrap().unwrap();

    let keys = ["a/-", "a/.x", "a/0", "a/1/x", "a/10", "a/B", "a/_", "a/b"];
    for key in keys.into_iter().chain(["a0", "a/gone"]) {
        let revision = catalog.swap(key, None, Some(key.to_owned().into())).await.unwrap();
        if key == "a/gone" {
            catalog.swap(key, revision.as_ref(), None).await.unwrap();
        }
    }
    let mut listed: Vec<String> = Vec::new();
    loop {
        let page = catalog.list("a/", listed.last().map(String::as_str), 3).await.unwrap();
        if page.is_empty() {
            break;
        }
        listed.extend(page.into_iter().map(|(key, _)| key));
    }
    assert_eq!(listed, keys);

    let rows = Rows::new(Arc::new(catalog), Arc::new(SystemEntropy));
    for value in ["1", "2"] {
        let mut transaction = rows.begin();
        transaction.put("row/a", value.into());
        transaction.put("row/b", value.into());
        transaction.commit().await.unwrap();
    }
    let listed = rows.list("row/", None, 10).await.unwrap();
    assert_eq!(listed, [("row/a".to_owned(), "2".into()), ("row/b".to_owned(), "2".into())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catalog_behaves_on_azure_as_in_memory() {
    let Some(azurite) = Azurite::start() else { return };
    behaves(Place::Azure(azurite).store("catalog")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catalog_behaves_on_s3_as_in_memory() {
    let Some(moto) = Moto::start() else { return };
    behaves(Place::S3(moto).store("catalog")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sixteen_nodes_increment_one_record_on_azure_and_no_update_is_lost() {
    let Some(azurite) = Azurite::start() else { return };
    let store = Place::Azure(azurite).store("catalog");
    let mut catalogs = Vec::new();
    for _ in 0..16 {
        catalogs.push(open(&store).await);
    }
    let increments = scale(96, 4);
    assert_eq!(race(catalogs, increments).await, Some(16 * increments as u64));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_update_on_azure_is_lost_behind_a_way_that_loses_repeats_and_delays() {
    let Some(azurite) = Azurite::start() else { return };
    let store = Place::Azure(azurite).store("catalog");
    let mut catalogs = Vec::new();
    for _ in 0..4 {
        let way = FaultyObjects::new(store.clone(), Arc::new(SystemEntropy));
        let behind: Arc<dyn ObjectStore> = Arc::new(way.clone());
        catalogs.push(open(&behind).await);
        let longest = Duration::from_millis(40);
        way.set_rates(FaultRates { refuse: 30, lose_answer: 50, repeat: 50, delay: 200, longest, hang: 0 });
    }
    let increments = scale(96, 8);
    assert_eq!(race(catalogs, increments).await, Some(4 * increments as u64));
}

/// A way to a server that ends every third connection when the answer to a put comes: the put was done, and its client can't
/// know. How many it ended.
async fn cutting(to: SocketAddr) -> (SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let (at, ended) = (listener.local_addr().unwrap(), Arc::new(AtomicU64::new(0)));
    let (listener, counter) = (tokio::net::TcpListener::from_std(listener).unwrap(), ended.clone());
    let puts = Arc::new(AtomicU64::new(0));
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (ended, puts) = (counter.clone(), puts.clone());
            tokio::spawn(async move {
                let server = tokio::net::TcpStream::connect(to).await.unwrap();
                let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
                    (client.into_split(), server.into_split());
                let ends = Arc::new(AtomicU64::new(0));
                let asks = ends.clone();
                tokio::spawn(async move {
                    let mut bytes = [0; 65536];
                    while let Ok(read @ 1..) = from_client.read(&mut bytes).await {
                        // Clients send the head of a request by itself or with its body, never two requests at once.
                        if bytes.starts_with(b"PUT ") && puts.fetch_add(1, Ordering::Relaxed) % 3 == 2 {
                            asks.store(1, Ordering::Relaxed);
                        }
                        if to_server.write_all(&bytes[..read]).await.is_err() {
                            break;
                        }
                    }
                });
                let mut bytes = [0; 65536];
                while let Ok(read @ 1..) = from_server.read(&mut bytes).await {
                    if ends.swap(0, Ordering::Relaxed) == 1 {
                        ended.fetch_add(1, Ordering::Relaxed);
                        break;
                    }
                    if to_client.write_all(&bytes[..read]).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    (at, ended)
}

#[tokio::test(flavor = "multi_thread")]
async fn puts_whose_connections_are_cut_before_the_answer_are_settled() {
    let Some(azurite) = Azurite::start() else { return };
    azurite.container("catalog");
    let server = azurite.url().trim_start_matches("http://").split('/').next().unwrap().parse().unwrap();
    let (way, ended) = cutting(server).await;
    let url = azurite.url().replace(&server.to_string(), &way.to_string());
    let builder = MicrosoftAzureBuilder::new().with_container_name("catalog");
    let set = |builder: MicrosoftAzureBuilder, (key, value): (&str, String)| {
        builder.with_config(key.to_ascii_lowercase().parse().unwrap(), value)
    };
    let settings = azurite.azure().into_iter().fold(builder, set).with_endpoint(url);
    let store: Arc<dyn ObjectStore> = Arc::new(settings.build().unwrap());
    let catalogs = vec![open(&store).await, open(&store).await];
    let increments = scale(96, 12);
    assert_eq!(race(catalogs, increments).await, Some(2 * increments as u64));
    assert!(ended.load(Ordering::Relaxed) > 5, "only {ended:?} connections were cut");
}
