//! What a drain leaves of the rate of foreground writes.
//!
//! Eight writers put blocks of 4 KiB under one account's key, all the time. Meanwhile another account, whose vault was
//! away, has blocks in the buffer: in one window its vault stays away, in the next it is back and the buffer is
//! drained. A round is one window of each; the windows' order changes from round to round.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a benchmark"
)]

mod paired;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use cofferdam::{
    crypto::BlockId,
    store::{Account, AccountKey, AccountName, EmbeddedOptions, EmbeddedStore, Engine, Outcome},
    vault::{
        Clock, LocalVault, LocalVaultOptions, Principal, SystemClock, SystemEntropy, Timestamp, VaultRegistry,
    },
};
use futures_util::{StreamExt, TryStreamExt, stream};
use paired::{Bench, Row};
use tempfile::TempDir;
use tokio::{
    runtime::Runtime,
    time::{Instant, sleep},
};

const WRITERS: u64 = 8;
const FOREGROUND_LEN: usize = 4 << 10;
const BUFFERED_LEN: usize = 64 << 10;
/// Longer than the grace and all that can be added to it.
const PAST_GRACE: Duration = Duration::from_secs(2 * 3600);
/// Longer than a failed call is taken for an answer.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// The machine's clock, and what was added to it: an outage outlives the grace at once.
#[derive(Debug, Default)]
struct Ahead(AtomicU64);

impl Ahead {
    fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_secs(), Ordering::Relaxed);
    }
}

impl Clock for Ahead {
    fn now(&self) -> Timestamp {
        let (ahead, now) = (Duration::from_secs(self.0.load(Ordering::Relaxed)), SystemClock.now());
        Timestamp { boot: now.boot + ahead, wall: now.wall + ahead }
    }
}

struct World {
    _home: TempDir,
    clock: Arc<Ahead>,
    customer: LocalVault,
    engine: Engine,
    /// Under the service's key, whose vault stays.
    foreground: Account,
    drained: Account,
}

impl World {
    async fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let clock = Arc::new(Ahead::default());
        let vault = async |name: &str| {
            let options = LocalVaultOptions::new(clock.clone(), Arc::new(SystemEntropy));
            LocalVault::create(home.path().join(format!("{name}.vault")), name, options).await.unwrap()
        };
        let (service, customer) = (vault("service").await, vault("customer").await);
        let service_kek = service.create_key("storage").await.unwrap();
        let kek = customer.create_key("payroll").await.unwrap();
        let principal = Principal::new("customer");
        let vaults = VaultRegistry::new(Arc::new(service))
            .with_customer(principal.clone(), Arc::new(customer.clone()));
        let store =
            EmbeddedStore::create(home.path().join("blocks.store"), EmbeddedOptions::default()).unwrap();
        let engine =
            Engine::builder(Arc::new(store), vaults, service_kek).clock(clock.clone()).open().await.unwrap();
        let name = |name: &str| AccountName::new(name).unwrap();
        let foreground = engine.create_account(&name("fabrikam"), AccountKey::Service).await.unwrap();
        let drained =
            engine.create_account(&name("contoso"), AccountKey::Customer { principal, kek }).await.unwrap();
        Self { _home: home, clock, customer, engine, foreground, drained }
    }

    /// Takes the customer's vault away and puts blocks into the buffer.
    async fn buffer(&self, blocks: u64) {
        self.customer.set_offline(true).await.unwrap();
        self.clock.advance(PAST_GRACE);
        let data = Bytes::from(vec![7; BUFFERED_LEN]);
        stream::iter(0..blocks)
            .map(|n| {
                let data = data.clone();
                async move {
                    let id = BlockId::new(format!("buffered/{n:06}")).unwrap();
                    let receipt = self.drained.put(&id, data).await?;
                    assert_eq!(receipt.outcome, Outcome::Buffered);
                    Ok(())
                }
            })
            .buffer_unordered(16)
            .try_collect::<()>()
            .await
            .map_err(|error: cofferdam::store::EngineError| error)
            .unwrap();
    }

    /// Gives the vault back, and waits until the drain has begun.
    async fn begin_drain(&self) {
        let before = self.drained.status().await.unwrap().buffer.drained.blocks;
        self.customer.set_offline(false).await.unwrap();
        self.clock.advance(FORGOTTEN);
        self.drained.check_key().await.unwrap();
        while self.drained.status().await.unwrap().buffer.drained.blocks == before {
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// Puts blocks for so long: how many nanoseconds one took.
    async fn put_for(&self, window: Duration) -> f64 {
        let began = Instant::now();
        let writers = (0..WRITERS).map(|writer| {
            let account = self.foreground.clone();
            tokio::spawn(async move {
                let data = Bytes::from(vec![7; FOREGROUND_LEN]);
                let mut puts = 0_u64;
                while began.elapsed() < window {
                    // A few blocks over and over, so that the file does not grow without end.
                    let id = BlockId::new(format!("writer-{writer}/{}", puts % 64)).unwrap();
                    account.put(&id, data.clone()).await.unwrap();
                    puts += 1;
                }
                puts
            })
        });
        let puts: u64 = futures_util::future::try_join_all(writers).await.unwrap().into_iter().sum();
        began.elapsed().as_nanos() as f64 / puts as f64
    }

    /// One window beside a drain, which must last longer than it: its nanoseconds, and how many blocks were drained.
    async fn put_beside_drain(&self, window: Duration) -> (f64, u64) {
        self.begin_drain().await;
        let before = self.drained.status().await.unwrap().buffer;
        let nanos = self.put_for(window).await;
        let after = self.drained.status().await.unwrap().buffer;
        assert!(after.blocks > 0, "the drain ended within the window: it needs more blocks");
        (nanos, after.drained.blocks - before.drained.blocks)
    }
}

fn main() {
    let bench = Bench::from_args();
    if !bench.wants("drain", "4KiB") {
        return;
    }
    let (window, blocks) = match bench.is_smoke() {
        true => (Duration::from_millis(20), 64),
        false => (Duration::from_secs(2), 1500),
    };
    Runtime::new().unwrap().block_on(async {
        let world = World::new().await;
        let (mut without, mut beside, mut drained) = (Vec::new(), Vec::new(), 0);
        // A window is thousands of turns, so a few rounds say as much as hundreds elsewhere.
        let enough = Instant::now() + 8 * bench.budget();
        loop {
            world.buffer(blocks).await;
            let drains_first = without.len() % 2 == 1;
            if !drains_first {
                without.push(world.put_for(window).await);
            }
            let (nanos, moved) = world.put_beside_drain(window).await;
            beside.push(nanos);
            drained += moved;
            let report = world.drained.drain().await.unwrap();
            assert_eq!((report.left, report.blocked), (None, None));
            if drains_first {
                without.push(world.put_for(window).await);
            }
            if bench.is_smoke() || Instant::now() > enough {
                break;
            }
        }
        world.engine.close().await.unwrap();
        println!("{drained} blocks of 64 KiB were drained in {} windows of {window:?}", beside.len());
        if !bench.is_smoke() {
            let rows = [
                Row { name: "without a drain", baselines: &[], nanos: without },
                Row { name: "beside a drain", baselines: &["without a drain"], nanos: beside },
            ];
            bench.report(("drain", "4KiB", FOREGROUND_LEN), &rows);
        }
    });
}
