//! What a drain leaves of the rate of foreground writes.
//!
//! Eight writers put blocks of 4 KiB under one account's key, all the time. Meanwhile another account, whose vault was
//! away, has blocks in the buffer. A round is four windows: its vault is away, is back and the buffer is drained, the
//! same once more, is away again.

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
    store::{Account, AccountKey, AccountName, BufferMode, EmbeddedOptions, EmbeddedStore, Engine, Outcome},
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
        let drained = engine
            .create_account(
                &name("contoso"),
                AccountKey::Customer { principal, kek, buffer: BufferMode::default() },
            )
            .await
            .unwrap();
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
        let before = self.drained().await;
        self.customer.set_offline(false).await.unwrap();
        self.clock.advance(FORGOTTEN);
        self.drained.check_key().await.unwrap();
        while self.drained().await == before {
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// Takes the vault away, and waits until the drain has stopped. Whether something was left to drain.
    async fn stop_drain(&self) -> bool {
        self.customer.set_offline(true).await.unwrap();
        self.clock.advance(PAST_GRACE);
        self.drained.drain().await.unwrap().left.is_some()
    }

    /// How many blocks were drained so far.
    async fn drained(&self) -> u64 {
        self.drained.status().await.unwrap().buffer.drained.blocks
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

    /// Four windows: nanoseconds without and beside a drain; `None` if the drain ended before them.
    async fn round(&self, window: Duration, blocks: u64) -> Option<(f64, f64)> {
        self.buffer(blocks).await;
        let mut without = self.put_for(window).await;
        self.begin_drain().await;
        let beside = self.put_for(window).await + self.put_for(window).await;
        if !self.stop_drain().await {
            return None;
        }
        without += self.put_for(window).await;
        Some((without / 2.0, beside / 2.0))
    }
}

fn main() {
    let bench = Bench::from_args();
    if !bench.wants("drain", "4KiB") {
        return;
    }
    let (window, mut blocks) = match bench.is_smoke() {
        true => (Duration::from_millis(20), 64),
        false => (Duration::from_secs(1), 600),
    };
    Runtime::new().unwrap().block_on(async {
        let world = World::new().await;
        let (mut without, mut beside) = (Vec::new(), Vec::new());
        // A window is as long as hundreds of turns elsewhere, so fewer rounds say as much.
        let enough = Instant::now() + 10 * bench.budget();
        while without.is_empty() || !bench.is_smoke() && Instant::now() < enough {
            match world.round(window, blocks).await {
                Some((one, other)) => {
                    without.push(one);
                    beside.push(other);
                }
                None if bench.is_smoke() => break,
                None => blocks *= 2,
            }
        }
        let drained = world.drained().await;
        world.engine.close().await.unwrap();
        println!("{drained} blocks of 64 KiB were drained in {} windows of {window:?}", 2 * beside.len());
        if !bench.is_smoke() {
            let rows = [
                Row { name: "without a drain", baselines: &[], nanos: without },
                Row { name: "beside a drain", baselines: &["without a drain"], nanos: beside },
            ];
            bench.report(("drain", "4KiB", FOREGROUND_LEN), &rows);
        }
    });
}
