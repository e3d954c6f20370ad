//! A world to test the engine in: two local vaults, an embedded store, a clock that tokio's paused time drives.
//!
//! It survives restarts of the engine: everything that matters is in files.

#![allow(dead_code, reason = "no test file uses all of it")]

use std::{path::Path, sync::Arc, time::Duration};

use cofferdam::{
    crypto::KeyId,
    keyring::Policy,
    store::{AccountKey, AccountName, EmbeddedOptions, EmbeddedStore, Engine, EngineError},
    vault::{
        Clock, Executor, Inline, LocalVault, LocalVaultOptions, Principal, Threads, Timestamp, VaultRegistry,
        testing::{ManualClock, SeededEntropy, TokioClock},
    },
};
use tempfile::TempDir;

/// Longer than any answer of the vault may be out of date: refresh, ceiling and time-out.
pub(crate) const NOTICED: Duration = Duration::from_secs(70);

pub(crate) struct World {
    dir: TempDir,
    clock: Arc<TokioClock>,
    entropy: Arc<SeededEntropy>,
    pub(crate) customer: LocalVault,
    pub(crate) kek: KeyId,
    vaults: VaultRegistry,
    service_kek: KeyId,
    options: EmbeddedOptions,
    executor: Arc<dyn Executor>,
    pub(crate) store: EmbeddedStore,
    pub(crate) engine: Engine,
}

impl World {
    pub(crate) async fn new(seed: u64) -> Self {
        // All work is done where it is asked for: paused time would run on while a thread works.
        let options = EmbeddedOptions { executor: Arc::new(Inline), ..EmbeddedOptions::default() };
        Self::with(seed, options, Arc::new(Inline)).await
    }

    /// With threads, as in production, for tests whose time is not paused.
    pub(crate) async fn threaded(seed: u64, options: EmbeddedOptions) -> Self {
        Self::with(seed, options, Arc::new(Threads::new(2))).await
    }

    pub(crate) async fn with(seed: u64, options: EmbeddedOptions, executor: Arc<dyn Executor>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (clock, entropy) = (Arc::new(TokioClock::new()), Arc::new(SeededEntropy::new(seed)));
        let vault = async |name: &str| {
            let options = LocalVaultOptions::new(clock.clone(), entropy.clone()).executor(Arc::new(Inline));
            LocalVault::create(dir.path().join(format!("{name}.vault")), name, options).await.unwrap()
        };
        let (service, customer) = (vault("service").await, vault("customer").await);
        let service_kek = service.create_key("service").await.unwrap();
        let kek = customer.create_key("payroll").await.unwrap();
        let store = EmbeddedStore::create(dir.path().join("blocks.store"), options.clone()).unwrap();
        let vaults = VaultRegistry::new(Arc::new(service.clone()))
            .with_customer(Self::principal(), Arc::new(customer.clone()));
        let engine = open(&store, vaults.clone(), &service_kek, clock.clone(), &entropy, &executor).await;
        Self { dir, clock, entropy, customer, kek, vaults, service_kek, options, executor, store, engine }
    }

    /// Another engine over the same store, whose clock stands at the epoch.
    pub(crate) async fn second_engine(&self) -> Engine {
        let clock = Arc::new(ManualClock::new(Timestamp { boot: Duration::ZERO, wall: Duration::ZERO }));
        open(&self.store, self.vaults.clone(), &self.service_kek, clock, &self.entropy, &self.executor).await
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn principal() -> Principal {
        Principal::new("customer")
    }

    pub(crate) fn customer_key(&self) -> AccountKey {
        AccountKey::Customer { principal: Self::principal(), kek: self.kek.clone() }
    }

    /// Closes everything and opens it again from its files.
    pub(crate) async fn restart(&mut self) {
        self.engine.close().await.unwrap();
        self.store = EmbeddedStore::open(self.dir.path().join("blocks.store"), self.options.clone()).unwrap();
        let (vaults, clock) = (self.vaults.clone(), self.clock.clone());
        self.engine =
            open(&self.store, vaults, &self.service_kek, clock, &self.entropy, &self.executor).await;
    }
}

async fn open(
    store: &EmbeddedStore,
    vaults: VaultRegistry,
    service_kek: &KeyId,
    clock: Arc<dyn Clock>,
    entropy: &Arc<SeededEntropy>,
    executor: &Arc<dyn Executor>,
) -> Engine {
    Engine::builder(Arc::new(store.clone()), vaults, service_kek.clone())
        .clock(clock)
        .entropy(entropy.clone())
        .policy(Policy::default())
        .executor(executor.clone())
        .max_block_len(1 << 20)
        .in_flight(4 << 20)
        .open()
        .await
        .unwrap()
}

pub(crate) fn name(text: &str) -> AccountName {
    AccountName::new(text).unwrap()
}

pub(crate) fn is_revoked<T: std::fmt::Debug>(answer: &Result<T, EngineError>) -> bool {
    matches!(answer, Err(EngineError::KeyRevoked { .. }))
}
