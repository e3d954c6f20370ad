//! Reads through a hot cache beside the same reads without one, over the embedded store and over a store that is far away.
//!
//! The far store is the embedded one behind a way that takes 5 ms to answer and carries 100 MB/s: an object store on a
//! good day. A hit still asks it which version is the newest, and saves the bytes.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a benchmark"
)]

mod paired;

use std::{cell::Cell, ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use cofferdam::{
    crypto::{AccountId, BlockId, KeyId},
    store::{
        Account, AccountKey, AccountName, Applied, BlockOp, BlockStore, BufferMode, Catalog, EmbeddedOptions,
        EmbeddedStore, Engine, HotCacheSettings, Located, Revision, StoreError, Stored,
    },
    vault::{LocalVault, LocalVaultOptions, Principal, SystemClock, SystemEntropy, VaultRegistry},
};
use paired::{Bench, Side, Time};
use tempfile::TempDir;
use tokio::runtime::Runtime;

const SIZES: [(&str, usize); 3] = [("4KiB", 4 << 10), ("64KiB", 64 << 10), ("1MiB", 1 << 20)];
/// What is read in turn.
const READ: usize = 32 << 20;
const MIB: u64 = 1 << 20;

struct World {
    home: TempDir,
    vaults: VaultRegistry,
    service_kek: KeyId,
    store: Arc<EmbeddedStore>,
    key: AccountKey,
}

impl World {
    async fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let options = || LocalVaultOptions::new(Arc::new(SystemClock), Arc::new(SystemEntropy));
        let vault = async |name: &str| {
            LocalVault::create(home.path().join(format!("{name}.vault")), name, options()).await.unwrap()
        };
        let (service, customer) = (vault("service").await, vault("customer").await);
        let service_kek = service.create_key("storage").await.unwrap();
        let kek = customer.create_key("payroll").await.unwrap();
        let principal = Principal::new("customer");
        let vaults =
            VaultRegistry::new(Arc::new(service)).with_customer(principal.clone(), Arc::new(customer));
        let path = home.path().join("blocks.store");
        let store = Arc::new(EmbeddedStore::create(path, EmbeddedOptions::default()).unwrap());
        Self {
            home,
            vaults,
            service_kek,
            store,
            key: AccountKey::Customer { principal, kek, buffer: BufferMode::default() },
        }
    }

    /// An engine over the store, near or far, with these settings; its account of this name.
    async fn account(&self, name: &str, far: bool, settings: Option<HotCacheSettings>) -> (Engine, Account) {
        let (vaults, kek) = (self.vaults.clone(), self.service_kek.clone());
        let builder = match far {
            true => Engine::builder(Arc::new(Far(self.store.clone())), vaults, kek),
            false => Engine::builder(self.store.clone(), vaults, kek),
        };
        let builder = match settings {
            Some(settings) => builder.hot_cache(settings),
            None => builder,
        };
        let engine = builder.open().await.unwrap();
        let name = AccountName::new(name).unwrap();
        let account = match engine.account(&name).await {
            Ok(account) => account,
            Err(_) => engine.create_account(&name, self.key.clone()).await.unwrap(),
        };
        (engine, account)
    }

    /// Kept in memory alone, by the only writer and by one of several, and on disk alone: of what is read in turn, memory then
    /// has nothing when its turn comes again.
    fn settings(&self, folder: &str) -> [HotCacheSettings; 3] {
        let disk = HotCacheSettings::new(MIB).disk(self.home.path().join(folder), 16 * READ as u64);
        let memory = HotCacheSettings::new(16 * READ as u64);
        [memory.clone().only_writer(true), memory, disk]
    }
}

fn id(n: usize) -> BlockId {
    BlockId::new(format!("block/{n:06}")).unwrap()
}

fn get(bench: &Bench, runtime: &Runtime, world: &World, (name, len): (&str, usize), far: bool) {
    let group = if far { "get-far" } else { "get" };
    if !bench.wants(group, name) {
        return;
    }
    let blocks = if bench.is_smoke() { 4 } else { READ / len };
    let [alone, in_memory, on_disk] = world.settings(&format!("{group}-{name}"));
    let sides = runtime.block_on(async {
        let text = format!("{group}-{name}");
        let (_near, near) = world.account(&text, false, None).await;
        for n in 0..blocks {
            near.put(&id(n), Bytes::from(vec![n as u8; len])).await.unwrap();
        }
        let sides = [
            world.account(&text, far, None).await,
            world.account(&text, far, Some(alone)).await,
            world.account(&text, far, Some(in_memory)).await,
            world.account(&text, far, Some(on_disk)).await,
        ];
        for (engine, account) in &sides[1..] {
            for n in 0..blocks {
                account.get(&id(n)).await.unwrap();
            }
            engine.settle_hot_cache().await;
        }
        sides
    });
    let side = |name, account: &Account| {
        let (account, n) = (account.clone(), Cell::new(0));
        Side::new(name, move |_: &mut ()| {
            let block = id(n.replace((n.get() + 1) % blocks));
            runtime.block_on(account.get(&block)).unwrap();
        })
    };
    let [store, alone, memory, disk] = &sides;
    let compared = vec![
        side("store", &store.1),
        side("in memory, only writer", &alone.1).against(&["store"]),
        side("in memory", &memory.1).against(&["store"]),
        side("on disk", &disk.1).against(&["store"]),
    ];
    bench.compare((group, name, len), Time::Wall, &mut (), compared);
    for (engine, _) in &sides[1..] {
        println!("  {:?}", engine.hot_cache().unwrap());
    }
}

fn put(bench: &Bench, runtime: &Runtime, world: &World, (name, len): (&str, usize)) {
    if !bench.wants("put", name) {
        return;
    }
    let (bare, memory, disk) = runtime.block_on(async {
        let text = format!("put-{name}");
        let [_, memory, disk] = world.settings(&text);
        let account = async |settings| world.account(&text, false, settings).await;
        (account(None).await, account(Some(memory)).await, account(Some(disk)).await)
    });
    let data = Bytes::from(vec![7; len]);
    let side = |name, account: &Account| {
        let (account, data, n) = (account.clone(), data.clone(), Cell::new(0));
        Side::new(name, move |_: &mut ()| {
            runtime.block_on(account.put(&id(n.replace((n.get() + 1) % 64)), data.clone())).unwrap();
        })
    };
    let sides = vec![
        side("store", &bare.1),
        side("into memory", &memory.1).against(&["store"]),
        side("pushed out to disk", &disk.1).against(&["store"]),
    ];
    bench.compare(("put", name, len), Time::Wall, &mut (), sides);
}

fn main() {
    let bench = Bench::from_args();
    let runtime = Runtime::new().unwrap();
    let world = runtime.block_on(World::new());
    for size in SIZES {
        get(&bench, &runtime, &world, size, false);
        get(&bench, &runtime, &world, size, true);
        put(&bench, &runtime, &world, size);
    }
}

/// The store, far away.
#[derive(Debug)]
struct Far(Arc<EmbeddedStore>);

impl Far {
    async fn way(bytes: u64) {
        tokio::time::sleep(Duration::from_millis(5) + Duration::from_nanos(10 * bytes)).await;
    }
}

#[async_trait]
impl cofferdam::store::Forwarding for Far {
    fn behind(&self) -> &dyn BlockStore {
        &*self.0
    }

    async fn commit(&self, batch: Vec<BlockOp>) -> Result<Vec<Applied>, StoreError> {
        Self::way(0).await;
        self.0.commit(batch).await
    }

    async fn stat(&self, account: AccountId, id: &BlockId) -> Result<Option<Located>, StoreError> {
        Self::way(0).await;
        self.0.stat(account, id).await
    }

    async fn fetch(&self, account: AccountId, id: &BlockId) -> Result<Option<(Located, Bytes)>, StoreError> {
        let fetched = self.0.fetch(account, id).await?;
        Self::way(fetched.as_ref().map_or(0, |(at, _)| at.meta.sealed_len)).await;
        Ok(fetched)
    }

    async fn read(
        &self,
        account: AccountId,
        id: &BlockId,
        of: &Located,
        ranges: &[Range<u64>],
    ) -> Result<Option<Vec<Bytes>>, StoreError> {
        Self::way(ranges.iter().map(|range| range.end - range.start).sum()).await;
        self.0.read(account, id, of, ranges).await
    }
}

#[async_trait]
impl Catalog for Far {
    async fn load(&self, key: &str) -> Result<Option<Stored>, StoreError> {
        self.0.load(key).await
    }

    async fn swap(
        &self,
        key: &str,
        expected: Option<&Revision>,
        new: Option<Bytes>,
    ) -> Result<Option<Revision>, StoreError> {
        self.0.swap(key, expected, new).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Stored)>, StoreError> {
        Catalog::list(&*self.0, prefix, after, limit).await
    }
}
