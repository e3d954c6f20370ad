//! Puts and gets through the encrypting object store, beside the same through the store under it: in memory, and in
//! files, which no put syncs, so that both are limited by the machine and not by a network.
//!
//! In memory a plain store passes bytes on and touches none, so a percentage of it says nothing: there, the baseline is `copied`,
//! which copies them once, the least that any store does that is not memory.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "a benchmark")]

mod paired;

use std::{cell::Cell, hint::black_box, sync::Arc};

use bytes::Bytes;
use cofferdam::{
    store::{
        Account, AccountKey, AccountName, BufferMode, EmbeddedOptions, EmbeddedStore, Engine,
        encrypted::EncryptedObjectStore,
    },
    vault::{LocalVault, LocalVaultOptions, Principal, SystemClock, SystemEntropy, VaultRegistry},
};
use object_store::{ObjectStore, ObjectStoreExt, local::LocalFileSystem, memory::InMemory, path::Path};
use paired::{Bench, Side, Time};
use tempfile::TempDir;
use tokio::runtime::Runtime;

const SIZES: [(&str, usize); 3] = [("64KiB", 64 << 10), ("1MiB", 1 << 20), ("64MiB", 64 << 20)];
/// What is done to a store.
type Work<'a> = dyn Fn(&dyn ObjectStore) + 'a;

/// Different objects, written in turn.
const OBJECTS: u64 = 4;

/// An account under a customer's key.
async fn account(home: &TempDir) -> Account {
    let options = || LocalVaultOptions::new(Arc::new(SystemClock), Arc::new(SystemEntropy));
    let vault = async |name: &str| {
        LocalVault::create(home.path().join(format!("{name}.vault")), name, options()).await.unwrap()
    };
    let (service, customer) = (vault("service").await, vault("customer").await);
    let service_kek = service.create_key("storage").await.unwrap();
    let kek = customer.create_key("payroll").await.unwrap();
    let principal = Principal::new("customer");
    let vaults = VaultRegistry::new(Arc::new(service)).with_customer(principal.clone(), Arc::new(customer));
    let path = home.path().join("blocks.store");
    let store = Arc::new(EmbeddedStore::create(path, EmbeddedOptions::default()).unwrap());
    let engine = Engine::builder(store, vaults, service_kek).open().await.unwrap();
    let key = AccountKey::Customer { principal, kek, buffer: BufferMode::default() };
    engine.create_account(&AccountName::new("bench").unwrap(), key).await.unwrap()
}

struct Stores {
    name: &'static str,
    plain: Arc<dyn ObjectStore>,
    sealed: Arc<dyn ObjectStore>,
}

impl Stores {
    async fn new(name: &'static str, [plain, inner]: [Arc<dyn ObjectStore>; 2], account: &Account) -> Self {
        let sealed = EncryptedObjectStore::open(inner, account.clone());
        Self { name, plain, sealed: Arc::new(sealed.await.unwrap()) }
    }
}

fn compare(bench: &Bench, runtime: &Runtime, stores: &Stores, (name, len): (&str, usize)) {
    let n = Cell::new(0);
    let next = || Path::from(format!("{name}/{}", n.replace(n.get() + 1) % OBJECTS));
    let data = Bytes::from(vec![7; len]);
    let put = |store: &dyn ObjectStore| {
        runtime.block_on(store.put(&next(), data.clone().into())).unwrap();
    };
    let get = |store: &dyn ObjectStore| {
        let got = runtime.block_on(async { store.get(&next()).await?.bytes().await });
        assert_eq!(got.unwrap().len(), len);
    };
    for _ in 0..OBJECTS {
        put(&stores.plain);
    }
    for _ in 0..OBJECTS {
        put(&stores.sealed);
    }
    let works: [(&str, &Work<'_>); 2] = [("put", &put), ("get", &get)];
    for (verb, work) in works {
        let group = format!("{verb}-{}", stores.name);
        if bench.wants(&group, name) {
            let plain = Side::new("plain", |_| work(&stores.plain));
            let copied = Side::new("copied", |_| {
                black_box(data.to_vec());
                work(&stores.plain);
            });
            let sealed = Side::new("encrypted", |_| work(&stores.sealed)).against(&["plain", "copied"]);
            bench.compare((&group, name, len), Time::Wall, &mut (), vec![plain, copied, sealed]);
        }
    }
}

fn main() {
    let bench = Bench::from_args();
    let runtime = Runtime::new().unwrap();
    let home = tempfile::tempdir().unwrap();
    let account = runtime.block_on(account(&home));
    let files = ["plain", "sealed"].map(|name| -> Arc<dyn ObjectStore> {
        let folder = home.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        Arc::new(LocalFileSystem::new_with_prefix(folder).unwrap())
    });
    let memory = [0, 1].map(|_| -> Arc<dyn ObjectStore> { Arc::new(InMemory::new()) });
    let both = runtime.block_on(async {
        [Stores::new("memory", memory, &account).await, Stores::new("files", files, &account).await]
    });
    for stores in &both {
        for size in SIZES {
            compare(&bench, &runtime, stores, size);
        }
    }
}
