//! SlateDB under a customer's key: what it writes is sealed before it reaches the object store, and the customer can take
//! the key away.
//!
//! Run it with `cargo run -p cofferdam-with-slatedb --example slatedb`. A service has a bucket and its customers' real vaults; here
//! objects are in memory, vaults in files, and time passes by a clock of the example's own.

#![allow(clippy::print_stdout, reason = "an example")]

use std::{error::Error, path::Path, sync::Arc, time::Duration};

use cofferdam::{
    crypto::KeyId,
    store::{
        Account, AccountKey, AccountName, BufferMode, EmbeddedOptions, EmbeddedStore, Engine,
        encrypted::EncryptedObjectStore,
    },
    vault::{
        Inline, LocalVault, LocalVaultOptions, Principal, SystemEntropy, VaultRegistry, testing::TokioClock,
    },
};
use object_store::memory::InMemory;
use slatedb::{Db, Settings};
use tokio::time::{pause, sleep};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    pause();
    let home = tempfile::tempdir()?;
    let (account, customer, kek) = account(home.path()).await?;

    // The bucket is wrapped, and SlateDB is given what wraps it. SlateDB repeats what fails for ever unless it is told how
    // often: told, it passes a refusal on.
    let bucket = Arc::new(InMemory::new());
    let sealed = Arc::new(EncryptedObjectStore::open(bucket, account).await?);
    let settings = Settings { object_store_max_retries: Some(3), ..Settings::default() };
    let db = Db::builder("payroll", sealed.clone()).with_settings(settings.clone()).build().await?;
    db.put(b"alice", b"4,200").await?.await_durable().await?;
    println!("alice: {:?}", db.get(b"alice").await?);
    db.close().await?;

    customer.disable(&kek).await?;
    sleep(Duration::from_secs(70)).await;
    let refusal = Db::builder("payroll", sealed.clone()).with_settings(settings.clone()).build().await;
    println!("the key is disabled: {}", refusal.err().ok_or("it opened")?);

    customer.enable(&kek).await?;
    sleep(Duration::from_secs(70)).await;
    let db = Db::builder("payroll", sealed).with_settings(settings).build().await?;
    println!("it is enabled, alice: {:?}", db.get(b"alice").await?);
    db.close().await?;
    Ok(())
}

/// What a service has already: an engine, and an account whose key is in the customer's vault.
async fn account(home: &Path) -> Result<(Account, LocalVault, KeyId), Box<dyn Error>> {
    let clock = Arc::new(TokioClock::new());
    let options =
        || LocalVaultOptions::new(clock.clone(), Arc::new(SystemEntropy)).executor(Arc::new(Inline));
    let service = LocalVault::create(home.join("service.vault"), "service", options()).await?;
    let customer = LocalVault::create(home.join("customer.vault"), "customer", options()).await?;
    let (service_kek, kek) = (service.create_key("storage").await?, customer.create_key("payroll").await?);
    let principal = Principal::new("contoso");
    let vaults =
        VaultRegistry::new(Arc::new(service)).with_customer(principal.clone(), Arc::new(customer.clone()));
    let accounts = EmbeddedOptions { executor: Arc::new(Inline), ..EmbeddedOptions::default() };
    let accounts = EmbeddedStore::create(home.join("accounts.store"), accounts)?;
    let engine =
        Engine::builder(Arc::new(accounts), vaults, service_kek).clock(clock).executor(Arc::new(Inline));
    let key = AccountKey::Customer { principal, kek: kek.clone(), buffer: BufferMode::default() };
    let account = engine.open().await?.create_account(&AccountName::new("payroll")?, key).await?;
    Ok((account, customer, kek))
}
