//! Durable puts and gets through the engine, beside the same bytes unsealed through the same store.
//!
//! `plain` is what encryption costs nothing of: the same group commit, the same file, the same acknowledgement.
//! Both write to one store, so that it has the same size and the same caches for both.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "a benchmark")]

mod paired;

use std::{cell::Cell, sync::Arc, time::Duration};

use bytes::Bytes;
use cofferdam::{
    crypto::{AccountId, BlockId, Epoch, PageSize, Provider, Version},
    store::{
        Account, AccountKey, AccountName, BlockMeta, BlockOp, BlockStore, BufferMode, EmbeddedOptions,
        EmbeddedStore, Engine,
    },
    vault::{LocalVault, LocalVaultOptions, Principal, SystemClock, SystemEntropy, VaultRegistry},
};
use futures_util::future::join_all;
use paired::{Bench, Side, Time};
use tempfile::TempDir;
use tokio::runtime::Runtime;

const SIZES: [(&str, usize); 3] = [("4KiB", 4 << 10), ("64KiB", 64 << 10), ("1MiB", 1 << 20)];
/// Writers that share commits.
const WRITERS: usize = 16;
/// Different blocks written in turn: a put replaces one of them, so that the file does not grow without end.
const BLOCKS: u64 = 64;

struct World {
    _home: TempDir,
    store: Arc<EmbeddedStore>,
    account: Account,
    plain: AccountId,
    version: Cell<u64>,
}

impl World {
    async fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let options = || LocalVaultOptions::new(Arc::new(SystemClock), Arc::new(SystemEntropy));
        let service =
            LocalVault::create(home.path().join("service.vault"), "service", options()).await.unwrap();
        let customer =
            LocalVault::create(home.path().join("customer.vault"), "customer", options()).await.unwrap();
        let service_kek = service.create_key("storage").await.unwrap();
        let kek = customer.create_key("payroll").await.unwrap();
        let principal = Principal::new("customer");
        let vaults =
            VaultRegistry::new(Arc::new(service)).with_customer(principal.clone(), Arc::new(customer));
        let path = home.path().join("blocks.store");
        let store = Arc::new(EmbeddedStore::create(path, EmbeddedOptions::default()).unwrap());
        let engine = Engine::builder(store.clone(), vaults, service_kek).open().await.unwrap();
        let name = AccountName::new("bench").unwrap();
        let account = engine
            .create_account(&name, AccountKey::Customer { principal, kek, buffer: BufferMode::default() })
            .await
            .unwrap();
        Self {
            _home: home,
            store,
            account,
            plain: AccountId::from_bytes([1; 16]),
            version: Cell::new(1 << 62),
        }
    }

    fn id(n: u64) -> BlockId {
        BlockId::new(format!("block/{:06}", n % BLOCKS)).unwrap()
    }

    async fn put_plain(&self, n: u64, data: Bytes) {
        self.version.set(self.version.get() + 1);
        let meta = BlockMeta {
            version: Version::new(self.version.get()),
            sealed_len: data.len() as u64,
            page_size: PageSize::DEFAULT,
            stored_at: Duration::ZERO,
            epoch: Epoch::FIRST,
            provider: Provider::Service,
        };
        let op = BlockOp::Put { account: self.plain, id: Self::id(n), meta, sealed: data };
        self.store.commit(vec![op]).await.unwrap();
    }
}

fn put(bench: &Bench, runtime: &Runtime, world: &World, name: &str, len: usize) {
    if !bench.wants("put", name) {
        return;
    }
    let data = Bytes::from(vec![7; len]);
    let n = Cell::new(0);
    let next = || n.replace(n.get() + 1);
    let plain = Side::new("plain", |_| runtime.block_on(world.put_plain(next(), data.clone())));
    let sealed = Side::new("sealed", |_| {
        runtime.block_on(world.account.put(&World::id(next()), data.clone())).unwrap();
    });
    bench.compare(("put", name, len), Time::Wall, &mut (), vec![plain, sealed.against(&["plain"])]);
}

/// Many at once share a commit: what is left is what the bytes cost.
fn put_many(bench: &Bench, runtime: &Runtime, world: &World, name: &str, len: usize) {
    if !bench.wants("put-16-at-once", name) {
        return;
    }
    let data = Bytes::from(vec![7; len]);
    let n = Cell::new(0);
    let next = || n.replace(n.get() + 1);
    let plain = Side::new("plain", |_| {
        let puts = (0..WRITERS).map(|_| world.put_plain(next(), data.clone()));
        runtime.block_on(join_all(puts));
    });
    let sealed = Side::new("sealed", |_| {
        let puts = (0..WRITERS).map(|_| {
            let (id, data) = (World::id(next()), data.clone());
            async move { world.account.put(&id, data).await.unwrap() }
        });
        runtime.block_on(join_all(puts));
    });
    let sides = vec![plain, sealed.against(&["plain"])];
    bench.compare(("put-16-at-once", name, WRITERS * len), Time::Wall, &mut (), sides);
}

fn get(bench: &Bench, runtime: &Runtime, world: &World, name: &str, len: usize) {
    if !bench.wants("get", name) {
        return;
    }
    let data = Bytes::from(vec![7; len]);
    runtime.block_on(async {
        for n in 0..BLOCKS {
            world.put_plain(n, data.clone()).await;
            world.account.put(&World::id(n), data.clone()).await.unwrap();
        }
    });
    let n = Cell::new(0);
    let next = || n.replace(n.get() + 1);
    let plain = Side::new("plain", |_| {
        runtime.block_on(world.store.fetch(world.plain, &World::id(next()))).unwrap().unwrap();
    });
    let sealed = Side::new("sealed", |_| {
        runtime.block_on(world.account.get(&World::id(next()))).unwrap();
    });
    bench.compare(("get", name, len), Time::Wall, &mut (), vec![plain, sealed.against(&["plain"])]);
}

fn main() {
    let bench = Bench::from_args();
    let runtime = Runtime::new().unwrap();
    let world = runtime.block_on(World::new());
    for (name, len) in SIZES {
        put(&bench, &runtime, &world, name, len);
        put_many(&bench, &runtime, &world, name, len);
        get(&bench, &runtime, &world, name, len);
    }
}
