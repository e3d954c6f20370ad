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
        Inline, LocalVault, LocalVaultOptions, Principal, VaultRegistry,
        testing::{SeededEntropy, TokioClock},
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
    service: LocalVault,
    service_kek: KeyId,
    options: EmbeddedOptions,
    pub(crate) store: EmbeddedStore,
    pub(crate) engine: Engine,
}

impl World {
    pub(crate) async fn new(seed: u64) -> Self {
        // All work is done where it is asked for: paused time would run on while a thread works.
        Self::with(seed, EmbeddedOptions { executor: Arc::new(Inline), ..EmbeddedOptions::default() }).await
    }

    pub(crate) async fn with(seed: u64, options: EmbeddedOptions) -> Self {
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
        let engine = open(&store, &service, &customer, &service_kek, &clock, &entropy).await;
        Self { dir, clock, entropy, customer, kek, service, service_kek, options, store, engine }
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
        self.engine =
            open(&self.store, &self.service, &self.customer, &self.service_kek, &self.clock, &self.entropy)
                .await;
    }
}

async fn open(
    store: &EmbeddedStore,
    service: &LocalVault,
    customer: &LocalVault,
    service_kek: &KeyId,
    clock: &Arc<TokioClock>,
    entropy: &Arc<SeededEntropy>,
) -> Engine {
    let vaults = VaultRegistry::new(Arc::new(service.clone()))
        .with_customer(World::principal(), Arc::new(customer.clone()));
    Engine::builder(Arc::new(store.clone()), vaults, service_kek.clone())
        .clock(clock.clone())
        .entropy(entropy.clone())
        .policy(Policy::default())
        .executor(Arc::new(Inline))
        .max_block_len(1 << 20)
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
