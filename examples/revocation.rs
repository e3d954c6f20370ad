//! A customer takes the key away in the middle of an outage: nothing is kept from then on, what waited stays unread, and
//! all of it is back once access is restored.
//!
//! Run it with `cargo run --example revocation`. Hours pass in it by a clock of its own; a service
//! passes none and gets the machine's.

#![allow(clippy::print_stdout, reason = "an example")]

use std::{error::Error, sync::Arc, time::Duration};

use cofferdam::{
    crypto::BlockId,
    keyring::KeyState,
    store::{
        Account, AccountKey, AccountName, BufferMode, DrainBlocked, EmbeddedOptions, EmbeddedStore, Engine,
        EngineError, Outcome,
    },
    vault::{
        Inline, LocalVault, LocalVaultOptions, Principal, SystemEntropy, VaultRegistry, testing::TokioClock,
    },
};
use tokio::time::{pause, sleep};

/// Longer than a poll for a key takes: 30 s, and the call.
const POLL: Duration = Duration::from_secs(36);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    pause();
    let home = tempfile::tempdir()?;
    let clock = Arc::new(TokioClock::new());
    let options =
        || LocalVaultOptions::new(clock.clone(), Arc::new(SystemEntropy)).executor(Arc::new(Inline));
    let service = LocalVault::create(home.path().join("service.vault"), "service", options()).await?;
    let customer = LocalVault::create(home.path().join("customer.vault"), "customer", options()).await?;
    let service_kek = service.create_key("storage").await?;
    let kek = customer.create_key("payroll").await?;
    let principal = Principal::new("contoso");
    let vaults =
        VaultRegistry::new(Arc::new(service)).with_customer(principal.clone(), Arc::new(customer.clone()));
    let options = EmbeddedOptions { executor: Arc::new(Inline), ..Default::default() };
    let store = EmbeddedStore::create(home.path().join("blocks.store"), options)?;
    let engine = Engine::builder(Arc::new(store), vaults, service_kek)
        .clock(clock)
        .executor(Arc::new(Inline))
        .open()
        .await?;
    let key = AccountKey::Customer { principal, kek: kek.clone(), buffer: BufferMode::default() };
    let account = engine.create_account(&AccountName::new("payroll")?, key).await?;
    let (first, second) = (BlockId::new("first")?, BlockId::new("second")?);
    account.put(&first, "stored".into()).await?;

    customer.set_offline(true).await?;
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(account.put(&second, "buffered".into()).await?.outcome, Outcome::Buffered);
    println!("the vault is away: {} key, and a write waits in the buffer", state(&account).await?);

    customer.disable(&kek).await?;
    customer.set_offline(false).await?;
    sleep(POLL).await;
    assert_eq!(state(&account).await?, KeyState::Revoked);
    for block in [&first, &second] {
        assert!(matches!(account.get(block).await, Err(EngineError::KeyRevoked { .. })));
    }
    let refusal = account.put(&second, "not kept".into()).await.err().ok_or("it was kept")?;
    assert!(matches!(refusal, EngineError::KeyRevoked { .. }));
    println!("it is back and says no: {refusal}");
    assert_eq!(account.list(None, 10).await?.blocks.len(), 2);
    let report = account.drain().await?;
    assert!(matches!(report.blocked, Some(DrainBlocked::Revoked(_))));
    println!("a list needs no key; {} block stays in the buffer", report.left.map_or(0, |left| left.blocks));

    customer.enable(&kek).await?;
    sleep(POLL).await;
    assert_eq!(account.get(&first).await?, "stored");
    assert_eq!(account.get(&second).await?, "buffered");
    assert_eq!(account.drain().await?.left, None);
    println!("access is restored: both are read, within one poll");

    engine.close().await?;
    Ok(())
}

async fn state(account: &Account) -> Result<KeyState, EngineError> {
    Ok(account.key_status().await?.key.state)
}
