//! What the tests of this target share.

use std::sync::Arc;

use cofferdam_store::{
    Catalog, StoreErrorKind,
    objects::{FaultyObjects, ObjectCatalog, RequestOptions},
};
use cofferdam_vault::{Entropy, testing::SeededEntropy};
use object_store::{ObjectStore, memory::InMemory, path::Path};

/// The everyday size of a test, or with `COFFERDAM_FULL` in the environment its full one.
pub(crate) fn scale<T>(everyday: T, full: T) -> T {
    if std::env::var_os("COFFERDAM_FULL").is_some() { full } else { everyday }
}

pub(crate) fn entropy(seed: u64) -> Arc<dyn Entropy> {
    Arc::new(SeededEntropy::new(seed))
}

pub(crate) fn memory() -> Arc<dyn ObjectStore> {
    Arc::new(InMemory::new())
}

/// A handle of the one catalog in this store; handles must not share a seed.
pub(crate) async fn catalog(store: &Arc<dyn ObjectStore>, seed: u64) -> ObjectCatalog {
    let options = RequestOptions::default();
    ObjectCatalog::open(store.clone(), Path::from("one"), entropy(seed), options).await.unwrap()
}

/// A handle on a way of its own.
pub(crate) async fn faulty(store: &Arc<dyn ObjectStore>, seed: u64) -> (FaultyObjects, ObjectCatalog) {
    let way = FaultyObjects::new(store.clone(), entropy(seed ^ 0xFAAF));
    let store: Arc<dyn ObjectStore> = Arc::new(way.clone());
    let catalog = catalog(&store, seed).await;
    (way, catalog)
}

/// Adds one to the number in a record; `Err`: what else than a conflict came of it.
pub(crate) async fn increment(catalog: &dyn Catalog, key: &str) -> Result<(), StoreErrorKind> {
    loop {
        let stored = catalog.load(key).await.map_err(|error| error.kind())?;
        let number = stored.as_ref().map_or(0, |stored| number(&stored.bytes)) + 1;
        let revision = stored.as_ref().map(|stored| &stored.revision);
        match catalog.swap(key, revision, Some(number.to_string().into())).await {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == StoreErrorKind::Conflict => {}
            Err(error) => return Err(error.kind()),
        }
    }
}

pub(crate) fn number(bytes: &[u8]) -> u64 {
    std::str::from_utf8(bytes).unwrap().parse().unwrap()
}

pub(crate) async fn read(catalog: &dyn Catalog, key: &str) -> Option<String> {
    let stored = catalog.load(key).await.unwrap()?;
    Some(String::from_utf8(stored.bytes.to_vec()).unwrap())
}
