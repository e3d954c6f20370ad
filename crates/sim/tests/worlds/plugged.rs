//! Somebody's own vault and store, in the simulation.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use cofferdam_crypto::{Aek, KeyId, WrappedKey};
use cofferdam_sim::{
    Check, Faults, FaultyFile, KekState, MemoryVault, Scenario, SimStore, SimVault, Simulation,
};
use cofferdam_store::{EmbeddedOptions, EmbeddedStore};
use cofferdam_vault::{
    Inline, KeyKind, KeyProperties, KeyVault, PublicKeyAnswer, VaultError, VaultErrorKind, WrapContext,
};

/// Takes its own overload for a denial, a mistake that an adapter of a vault can make.
#[derive(Debug)]
struct Overloaded {
    vault: MemoryVault,
    calls: AtomicU64,
}

#[async_trait]
impl KeyVault for Overloaded {
    async fn wrap_key(&self, key: &KeyId, aek: &Aek, of: &WrapContext) -> Result<WrappedKey, VaultError> {
        self.vault.wrap_key(key, aek, of).await
    }

    async fn unwrap_key(&self, wrapped: &WrappedKey, of: &WrapContext) -> Result<Aek, VaultError> {
        if self.calls.fetch_add(1, Ordering::Relaxed) % 20 > 16 {
            return Err(VaultError::new(VaultErrorKind::AccessDenied, "too many requests"));
        }
        self.vault.unwrap_key(wrapped, of).await
    }

    async fn key_properties(&self, key: &KeyId) -> Result<KeyProperties, VaultError> {
        self.vault.key_properties(key).await
    }

    async fn public_key(&self, key: &KeyId) -> Result<PublicKeyAnswer, VaultError> {
        self.vault.public_key(key).await
    }
}

impl SimVault for Overloaded {
    fn create_key(&self, key: &KeyId, kind: KeyKind) -> Result<(), VaultError> {
        self.vault.create_key(key, kind)
    }

    fn set_state(&self, key: &KeyId, state: KekState) {
        self.vault.set_state(key, state);
    }
}

fn calm() -> Scenario {
    Scenario::new().duration(Duration::from_secs(300)).faults(Faults::NONE.with_crashes(1))
}

#[test]
fn a_vault_that_denies_for_the_wrong_reason_is_found() {
    let overloaded = |seed| -> Arc<dyn SimVault> {
        Arc::new(Overloaded { vault: MemoryVault::new(seed), calls: AtomicU64::new(0) })
    };
    let violation = Simulation::new(calm().vaults(overloaded)).run(1).violation.expect("it denied");
    assert_eq!(violation.check, Check::FalseRevocation, "{violation}");
    assert!(Simulation::new(calm()).run(1).violation.is_none());
}

#[test]
fn a_store_that_loses_what_it_acknowledged_is_found() {
    // Opened anew after a failure of the power, it starts with nothing.
    let forgetful = |disk: &FaultyFile, new: bool| {
        let disk = Arc::new(if new { disk.clone() } else { FaultyFile::new() });
        let options = EmbeddedOptions { executor: Arc::new(Inline), ..EmbeddedOptions::default() };
        Ok(Arc::new(EmbeddedStore::create_on(disk, options)?) as Arc<dyn SimStore>)
    };
    let report = Simulation::new(calm().stores(forgetful)).run(1);
    assert!(report.violation.is_some(), "{}", report.counts);
}
