//! A vault that can't be reached: nothing fails within the grace, then writes are buffered, and are in their place once
//! it is back.
//!
//! Run it with `cargo run --example outage`. Hours pass in it by a clock of its own; a service passes
//! none and gets the machine's.

#![allow(clippy::print_stdout, reason = "an example")]

use std::{error::Error, sync::Arc, time::Duration};

use cofferdam::{
    crypto::BlockId,
    store::{
        AccountKey, AccountName, BufferChange, BufferMode, EmbeddedOptions, EmbeddedStore, Engine,
        EngineError, Outcome, Place,
    },
    vault::{
        Inline, LocalVault, LocalVaultOptions, Principal, SystemEntropy, VaultRegistry, testing::TokioClock,
    },
};
use tokio::time::{pause, sleep};

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
        .buffer_time(Duration::from_secs(12 * 3600))
        .open()
        .await?;
    let account = engine
        .create_account(
            &AccountName::new("payroll")?,
            AccountKey::Customer { principal, kek, buffer: BufferMode::default() },
        )
        .await?;
    let (before, during) = (BlockId::new("2026-11/before")?, BlockId::new("2026-11/during")?);
    assert_eq!(account.put(&before, "written before".into()).await?.outcome, Outcome::Stored);

    customer.set_offline(true).await?;
    sleep(Duration::from_secs(20 * 60)).await;
    assert_eq!(account.get(&before).await?, "written before");
    println!("20 min into the outage: {} key, all goes on", account.key_status().await?.key.state);

    sleep(Duration::from_secs(3600)).await;
    let receipt = account.put(&during, "written meanwhile".into()).await?;
    assert_eq!(receipt.outcome, Outcome::Buffered);
    let refusal = account.get(&during).await.err();
    assert!(matches!(refusal, Some(EngineError::KeyUnavailable { .. })));
    let buffer = account.key_status().await?.buffer;
    assert_eq!(buffer.blocks, 1);
    println!("80 min into it: writes are buffered ({} bytes wait), nothing is read", buffer.bytes);

    let mut events = engine.buffer_events();
    customer.set_offline(false).await?;
    let drained = loop {
        match events.recv().await?.what {
            BufferChange::Finished { drained } => break drained,
            step => println!("  {step:?}"),
        }
    };
    assert_eq!(drained.blocks, 1);
    assert_eq!(account.get(&during).await?, "written meanwhile");
    let listed = account.list(None, 10).await?.blocks;
    assert!(listed.len() == 2 && listed.iter().all(|block| block.place == Place::Store));
    println!("the vault is back: {} block drained by itself, and under the customer's key", drained.blocks);

    engine.close().await?;
    Ok(())
}
