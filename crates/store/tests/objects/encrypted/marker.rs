//! A store is made once, and what is not one is left alone.

use std::sync::Arc;

use cofferdam_crypto::PageSize;
use cofferdam_store::encrypted::{EncryptedObjectStore, EncryptedOptions};
use object_store::{ObjectStoreExt, memory::InMemory, path::Path};

use super::world::{World, said};

fn marker() -> Path {
    Path::from(".cofferdam/store")
}

#[tokio::test(start_paused = true)]
async fn a_store_keeps_the_page_size_that_it_was_made_with() {
    let world = World::new().await;
    world.put("a", &[7; 10_000]).await;
    let again = EncryptedObjectStore::open(world.below.clone(), world.account.clone()).await.unwrap();
    assert_eq!(again.page_size(), PageSize::MIN);
    assert_eq!(again.get(&Path::from("a")).await.unwrap().bytes().await.unwrap(), vec![7; 10_000]);

    let new = Arc::new(InMemory::new());
    let options = |page_size| EncryptedOptions { page_size, ..EncryptedOptions::default() };
    let open =
        |page_size| EncryptedObjectStore::open_with(new.clone(), world.account.clone(), options(page_size));
    let (a, b) = tokio::join!(open(PageSize::MAX), open(PageSize::DEFAULT));
    let (a, b) = (a.unwrap(), b.unwrap());
    assert_eq!(a.page_size(), b.page_size());
    let body = new.get(&marker()).await.unwrap().bytes().await.unwrap();
    let text = format!(
        r#"{{"kind":"cofferdam encrypted objects","version":1,"page_size":{}}}"#,
        a.page_size().bytes()
    );
    assert_eq!(body, text);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_ours_or_newer_is_refused_and_left_as_it_is() {
    let world = World::new().await;
    let long = "x".repeat(5000);
    for (body, name) in [
        ("", "NotOurs"),
        ("text", "NotOurs"),
        (r#"{"kind":"another","version":1,"page_size":4096}"#, "NotOurs"),
        (r#"{"kind":"cofferdam encrypted objects","version":1,"page_size":5000}"#, "NotOurs"),
        (r#"{"kind":"cofferdam encrypted objects","version":1}"#, "NotOurs"),
        (&long, "NotOurs"),
        (r#"{"kind":"cofferdam encrypted objects","version":2,"pages":"other"}"#, "Newer"),
    ] {
        let store = Arc::new(InMemory::new());
        store.put(&marker(), body.to_owned().into()).await.unwrap();
        let opened = EncryptedObjectStore::open(store.clone(), world.account.clone()).await;
        assert_eq!(said(opened).1, name, "{body}");
        assert_eq!(store.get(&marker()).await.unwrap().bytes().await.unwrap(), body.to_owned());
    }
    for part_size in [0, (5 << 20) - 1, (1 << 30) + 1] {
        let options = EncryptedOptions { part_size, ..EncryptedOptions::default() };
        let opened =
            EncryptedObjectStore::open_with(world.below.clone(), world.account.clone(), options).await;
        assert_eq!(said(opened).1, "BadSetting", "{part_size}");
    }
}
