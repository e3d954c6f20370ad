use std::{collections::BTreeMap, fs, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use cofferdam::{
    crypto::{
        AccountId, Aek, BlockId, EntropyError, Epoch, KeyScope, PageSize, Provider, Salt, SaltSource, Sealer,
        Version,
    },
    vault::{Entropy, testing::SeededEntropy},
};
use object_store::path::Path;
use slatedb::{BlockTransformer, Db, config::ObjectStoreCacheOptions};

use super::{PATH, flush, memory, open, settings, value, world::*};

const KEYS: usize = 400;

/// Neighbours have hardly a beginning in common, which SlateDB would write once for both.
fn key(n: usize) -> Bytes {
    format!("{:016x}/iban-DE89370400440532013000", (n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)).into()
}

/// What no other key has of it.
fn trace(n: usize) -> Bytes {
    key(n).slice(4..20)
}

/// Tables, sorted runs, a log, manifests: a bit of all that SlateDB writes.
async fn fill(db: &Db) {
    for round in 0..8 {
        for n in (0..KEYS).filter(|n| n % 8 == round || n % 5 == 0) {
            db.put_bytes(key(n), value(n, round)).await.unwrap();
        }
        flush(db).await.unwrap();
    }
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    assert!(!db.manifest().compacted().is_empty(), "it has compacted");
    db.put_bytes(key(KEYS), value(KEYS, 9)).await.unwrap().await_durable().await.unwrap();
}

/// How many keys and how many values are somewhere in the clear.
fn in_the_clear(objects: &BTreeMap<Path, Bytes>) -> (usize, usize) {
    let is = |needle: &[u8]| !holding(objects, needle).is_empty();
    let keys = (0..=KEYS).filter(|n| is(&trace(*n))).count();
    let values = (0..=KEYS).filter(|n| is(format!("salary of {n} in round").as_bytes())).count();
    (keys, values)
}

/// All that is 12 bytes long in these objects, sorted.
fn pieces(objects: &BTreeMap<Path, Bytes>) -> Vec<[u8; 12]> {
    let mut pieces: Vec<_> =
        objects.values().flat_map(|bytes| bytes.windows(12)).map(|piece| piece.try_into().unwrap()).collect();
    pieces.sort_unstable();
    pieces.dedup();
    pieces
}

#[tokio::test(start_paused = true)]
async fn no_key_no_value_and_nothing_of_slatedbs_own() {
    let plain = memory();
    let db = open(&plain, settings()).await.unwrap();
    fill(&db).await;
    db.close().await.unwrap();
    assert_eq!(in_the_clear(&objects(&*plain).await), (KEYS + 1, KEYS + 1), "the search finds what is there");

    let world = World::new(7031).await;
    let inner = memory();
    let store = world.over(inner.clone()).await;
    let db = open(&store, settings()).await.unwrap();
    fill(&db).await;
    let (opened, sealed) = (objects(&*store).await, objects(&*inner).await);
    assert_eq!(in_the_clear(&opened), (KEYS + 1, KEYS + 1), "the same is in it");
    assert_eq!(in_the_clear(&sealed), (0, 0));

    // Not only what was searched for: no 12 bytes in a row of any object of SlateDB's are anywhere in the store.
    let (opened, sealed) = (pieces(&opened), pieces(&sealed));
    let shown: Vec<_> = opened.iter().filter(|piece| sealed.binary_search(piece).is_ok()).collect();
    assert!(shown.is_empty(), "{} of {} pieces, {:?}", shown.len(), opened.len(), shown.first());
    println!("none of {} pieces of 12 bytes is among {} in the store", opened.len(), sealed.len());
    db.close().await.unwrap();
}

/// Every block sealed on its own, by the hook that SlateDB has for it.
struct Sealed {
    sealer: Sealer,
    entropy: SeededEntropy,
}

impl std::fmt::Debug for Sealed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealed")
    }
}

impl Sealed {
    fn new(seed: u64) -> Self {
        let entropy = SeededEntropy::new(seed);
        let aek = Aek::try_from_fn(|aek| entropy.fill(aek)).unwrap();
        let account = AccountId::from_bytes([7; 16]);
        let scope = KeyScope { account, epoch: Epoch::FIRST, provider: Provider::Customer };
        Self { sealer: Sealer::new(&aek, scope), entropy }
    }
}

impl SaltSource for Sealed {
    fn fill_salts(&self, salts: &mut [Salt]) -> Result<(), EntropyError> {
        salts.iter_mut().try_for_each(|salt| self.entropy.fill(salt))
    }
}

#[async_trait]
impl BlockTransformer for Sealed {
    async fn encode(&self, block: Bytes) -> Result<Bytes, slatedb::Error> {
        // It is not told which block this is, so nothing binds the block to its place.
        let id = BlockId::new("a block").unwrap();
        Ok(self.sealer.seal(id.at(Version::new(1)), PageSize::MIN, &block, self).unwrap().into())
    }

    async fn decode(&self, block: Bytes) -> Result<Bytes, slatedb::Error> {
        let id = BlockId::new("a block").unwrap();
        Ok(self.sealer.open(id.at(Version::new(1)), &block).unwrap().into())
    }
}

/// Why SlateDB's hook does not do: sealed are the blocks, and not what the tables and the manifest say of them.
#[tokio::test(start_paused = true)]
async fn but_under_slatedbs_own_block_transformer_keys_are() {
    let store = memory();
    let sealed = Arc::new(Sealed::new(7032));
    let db = Db::builder(PATH, store.clone())
        .with_settings(settings())
        .with_block_transformer(sealed)
        .build()
        .await
        .unwrap();
    fill(&db).await;
    for n in 0..=KEYS {
        assert!(db.get(key(n)).await.unwrap().is_some(), "key {n}");
    }
    db.close().await.unwrap();
    let found = objects(&*store).await;
    let (keys, values) = in_the_clear(&found);
    assert_eq!(values, 0, "the blocks are sealed");
    assert!(keys > 0, "SlateDB seals keys by now: say so in ecosystem/README.md");
    let kinds = ["compacted", "manifest", "wal"].map(|kind| {
        let of_kind = |path: &&Path| path.as_ref().starts_with(&format!("{PATH}/{kind}"));
        let with_a_key = (0..=KEYS).flat_map(|n| holding(&found, &trace(n))).filter(of_kind);
        let mut with_a_key: Vec<_> = with_a_key.collect();
        with_a_key.sort_unstable();
        with_a_key.dedup();
        format!("{} of {} in {kind}", with_a_key.len(), found.keys().filter(of_kind).count())
    });
    println!("{keys} of {} keys are in the clear, in objects: {}", KEYS + 1, kinds.join(", "));
}

/// What lies outside of an encrypted store is not encrypted by it.
#[tokio::test(start_paused = true)]
async fn but_in_slatedbs_cache_on_a_local_disk_all_is() {
    let world = World::new(7033).await;
    let (inner, disk) = (memory(), tempfile::tempdir().unwrap());
    let store = world.over(inner.clone()).await;
    let cache = ObjectStoreCacheOptions {
        root_folder: Some(disk.path().to_owned()),
        cache_on_flush: true,
        ..ObjectStoreCacheOptions::default()
    };
    let with_cache = slatedb::Settings { object_store_cache_options: cache, ..settings() };
    let db = open(&store, with_cache).await.unwrap();
    fill(&db).await;
    for n in 0..=KEYS {
        assert!(db.get(key(n)).await.unwrap().is_some(), "key {n}");
    }
    db.close().await.unwrap();
    assert_eq!(in_the_clear(&objects(&*inner).await), (0, 0));
    let on_disk = files(disk.path());
    let (keys, values) = in_the_clear(&on_disk);
    assert!(keys > 0 && values > 0, "SlateDB's cache is sealed by now: say so in ecosystem/README.md");
    println!("{keys} keys and {values} values of {} are in {} files of the cache", KEYS + 1, on_disk.len());
}

fn files(folder: &std::path::Path) -> BTreeMap<Path, Bytes> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert(Path::from_absolute_path(&path).unwrap(), fs::read(&path).unwrap().into());
        }
    }
    found
}
