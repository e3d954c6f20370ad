//! Accounts and blocks over an embedded store, under a customer's key that is taken away and given back.
//!
//! Run it with `cargo run --example engine`. A service would register its customers' real vaults; here both are
//! vaults in a file.

#![allow(clippy::print_stdout, reason = "an example")]

use std::{error::Error, sync::Arc, time::Duration};

use cofferdam::{
    crypto::BlockId,
    keyring::Policy,
    store::{AccountKey, AccountName, BufferMode, EmbeddedOptions, EmbeddedStore, Engine, EngineError},
    vault::{LocalVault, LocalVaultOptions, Principal, SystemClock, SystemEntropy, VaultRegistry},
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let home = tempfile::tempdir()?;
    let options = || LocalVaultOptions::new(Arc::new(SystemClock), Arc::new(SystemEntropy));

    // The service's own vault, and that of a customer. Only the service decides whose vault an account can reach.
    let service = LocalVault::create(home.path().join("service.vault"), "service", options()).await?;
    let customer = LocalVault::create(home.path().join("customer.vault"), "customer", options()).await?;
    let service_kek = service.create_key("storage").await?;
    let kek = customer.create_key("payroll").await?;
    let principal = Principal::new("contoso");
    let vaults =
        VaultRegistry::new(Arc::new(service)).with_customer(principal.clone(), Arc::new(customer.clone()));

    let store = EmbeddedStore::create(home.path().join("blocks.store"), EmbeddedOptions::default())?;
    // Keys are renewed every 6 s here, so that the example is short; 30 s is the default.
    let policy =
        Policy::default().with_refresh(Duration::from_secs(6))?.with_ceiling(Duration::from_secs(6))?;
    let engine = Engine::builder(Arc::new(store), vaults, service_kek).policy(policy).open().await?;

    let account = engine
        .create_account(
            &AccountName::new("payroll")?,
            AccountKey::Customer { principal, kek: kek.clone(), buffer: BufferMode::default() },
        )
        .await?;
    let id = BlockId::new("2026-11/salaries")?;
    let receipt = account.put(&id, "what only the customer may grant".into()).await?;
    println!("stored as version {}", receipt.version);
    println!("bytes 10..18: {:?}", account.get_range(&id, 10..18).await?);

    customer.disable(&kek).await?;
    let mut events = engine.events();
    let refusal = loop {
        match account.get(&id).await {
            Err(e @ EngineError::KeyRevoked { .. }) => break e,
            answer => answer?,
        };
        events.recv().await?;
    };
    println!("after the key was disabled: {refusal}");
    println!("blocks still listed: {}", account.list(None, 10).await?.blocks.len());

    customer.enable(&kek).await?;
    while account.get(&id).await.is_err() {
        events.recv().await?;
    }
    println!("after it was enabled: {:?}", account.get(&id).await?);

    engine.close().await?;
    Ok(())
}
