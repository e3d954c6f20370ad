//! What rotations cost: of the KEK whatever an account holds, and of the AEK beside what writing the same blocks costs.
//!
//! `kek`: two accounts, one with a thousand times (in full ten thousand times: 1 MiB and 10 GiB) the other's data; their KEKs are
//! rotated in turns, each to a new version. `reencrypt`: an account's blocks of 64 KiB are put, by sixteen at once, then sealed
//! anew, in turns.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a benchmark"
)]

mod paired;

use std::sync::Arc;

use bytes::Bytes;
use cofferdam::{
    crypto::BlockId,
    store::{
        Account, AccountKey, AccountName, BufferMode, EmbeddedOptions, EmbeddedStore, Engine, EngineError,
        OperationHandle, OperationStatus, Reencrypt,
    },
    vault::{LocalVault, LocalVaultOptions, Principal, SystemClock, SystemEntropy, VaultRegistry},
};
use futures_util::{StreamExt, TryStreamExt, stream};
use paired::{Bench, Row};
use tempfile::TempDir;
use tokio::{runtime::Runtime, time::Instant};

const LEN: usize = 64 << 10;
const MIB: u64 = 1 << 20;

struct World {
    _home: TempDir,
    customer: LocalVault,
    engine: Engine,
}

impl World {
    async fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let vault = async |name: &str| {
            let options = LocalVaultOptions::new(Arc::new(SystemClock), Arc::new(SystemEntropy));
            LocalVault::create(home.path().join(format!("{name}.vault")), name, options).await.unwrap()
        };
        let (service, customer) = (vault("service").await, vault("customer").await);
        let service_kek = service.create_key("storage").await.unwrap();
        let vaults = VaultRegistry::new(Arc::new(service))
            .with_customer(Principal::new("customer"), Arc::new(customer.clone()));
        let store =
            EmbeddedStore::create(home.path().join("blocks.store"), EmbeddedOptions::default()).unwrap();
        let engine = Engine::builder(Arc::new(store), vaults, service_kek).open().await.unwrap();
        Self { _home: home, customer, engine }
    }

    async fn account(&self, name: &str) -> Account {
        let kek = self.customer.create_key(name).await.unwrap();
        let principal = Principal::new("customer");
        let key = AccountKey::Customer { principal, kek, buffer: BufferMode::default() };
        self.engine.create_account(&AccountName::new(name).unwrap(), key).await.unwrap()
    }

    /// Rotates an account's KEK to a new version: how many nanoseconds that took.
    async fn rotate_kek(&self, account: &Account) -> f64 {
        let new = self.customer.new_version(account.name().as_str()).await.unwrap();
        let began = Instant::now();
        done(account.rotate_kek(None, new, None).await).await;
        began.elapsed().as_nanos() as f64
    }
}

async fn done(handle: Result<OperationHandle, EngineError>) {
    let operation = handle.unwrap().wait().await.unwrap();
    assert_eq!(operation.status, OperationStatus::Succeeded, "{operation:?}");
}

async fn fill(account: &Account, bytes: u64) {
    let data = Bytes::from(vec![7; LEN]);
    stream::iter(0..bytes / LEN as u64)
        .map(|n| {
            let data = data.clone();
            async move {
                let id = BlockId::new(format!("block/{n:08}")).unwrap();
                account.put(&id, data).await.map(drop)
            }
        })
        .buffer_unordered(16)
        .try_collect::<()>()
        .await
        .unwrap();
}

async fn kek(bench: &Bench) {
    let large = match (bench.is_smoke(), std::env::var_os("COFFERDAM_FULL")) {
        (true, _) => 4 * MIB,
        (_, None) => 1024 * MIB,
        (_, Some(_)) => 10 * 1024 * MIB,
    };
    let world = World::new().await;
    let (small, big) = (world.account("small").await, world.account("big").await);
    fill(&small, MIB).await;
    fill(&big, large).await;
    let (mut of_small, mut of_big) = (Vec::new(), Vec::new());
    let enough = Instant::now() + 2 * bench.budget();
    while of_small.is_empty() || !bench.is_smoke() && Instant::now() < enough {
        of_small.push(world.rotate_kek(&small).await);
        of_big.push(world.rotate_kek(&big).await);
    }
    println!("{} rotations of an account of 1 MiB and of one of {} MiB", of_small.len(), large / MIB);
    world.engine.close().await.unwrap();
    if !bench.is_smoke() {
        let rows = [
            Row { name: "1 MiB", baselines: &[], nanos: of_small },
            Row { name: "large", baselines: &["1 MiB"], nanos: of_big },
        ];
        bench.report(("rotate-kek", "account", 0), &rows);
    }
}

async fn reencrypt(bench: &Bench) {
    let bytes = if bench.is_smoke() { MIB } else { 64 * MIB };
    let world = World::new().await;
    let account = world.account("contoso").await;
    fill(&account, bytes).await;
    let (mut puts, mut anew) = (Vec::new(), Vec::new());
    let blocks = (bytes / LEN as u64) as f64;
    let enough = Instant::now() + 5 * bench.budget();
    while puts.is_empty() || !bench.is_smoke() && Instant::now() < enough {
        let began = Instant::now();
        fill(&account, bytes).await;
        puts.push(began.elapsed().as_nanos() as f64 / blocks);
        let began = Instant::now();
        done(account.rotate_aek(Reencrypt::Yes).await).await;
        anew.push(began.elapsed().as_nanos() as f64 / blocks);
    }
    world.engine.close().await.unwrap();
    if !bench.is_smoke() {
        let rows = [
            Row { name: "put", baselines: &[], nanos: puts },
            Row { name: "re-encrypted", baselines: &["put"], nanos: anew },
        ];
        bench.report(("reencrypt", "64KiB", LEN), &rows);
    }
}

fn main() {
    let bench = Bench::from_args();
    let runtime = Runtime::new().unwrap();
    if bench.wants("rotate-kek", "account") {
        runtime.block_on(kek(&bench));
    }
    if bench.wants("reencrypt", "64KiB") {
        runtime.block_on(reencrypt(&bench));
    }
}
