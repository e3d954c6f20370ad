//! A customer's key is rotated and the old version disabled; the account's own key is rotated and older blocks are sealed anew;
//! the account leaves the customer's key, and comes back under another.
//!
//! Run it with `cargo run --example rotation`. It takes a second.

#![allow(clippy::print_stdout, reason = "an example")]

use std::{error::Error, sync::Arc};

use cofferdam::{
    crypto::{BlockId, Provider},
    store::{
        Account, AccountKey, AccountName, BufferMode, EmbeddedOptions, EmbeddedStore, Engine, LinkTo,
        Operation, OperationHandle, OperationStatus, ReceiptKey, Reencrypt,
    },
    vault::{Entropy, LocalVault, LocalVaultOptions, Principal, SystemEntropy, VaultRegistry},
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let home = tempfile::tempdir()?;
    let file = |name: &str| home.path().join(name);
    let options = LocalVaultOptions::default;
    let service = LocalVault::create(file("service.vault"), "service", options()).await?;
    let customer = LocalVault::create(file("customer.vault"), "customer", options()).await?;
    let service_kek = service.create_key("storage").await?;
    let first = customer.create_key("payroll").await?;
    let principal = Principal::new("contoso");
    let vaults =
        VaultRegistry::new(Arc::new(service)).with_customer(principal.clone(), Arc::new(customer.clone()));
    let store = EmbeddedStore::create(file("blocks.store"), EmbeddedOptions::default())?;
    // A service keeps the seed, and gives auditors the public key.
    let receipt_key = ReceiptKey::try_from_fn(|seed| SystemEntropy.fill(seed))?;
    let auditor = receipt_key.public();
    let engine =
        Engine::builder(Arc::new(store), vaults, service_kek).receipt_key(receipt_key).open().await?;
    let buffer = BufferMode::default();
    let key = AccountKey::Customer { principal: principal.clone(), kek: first.clone(), buffer };
    let account = engine.create_account(&AccountName::new("payroll")?, key).await?;
    for n in 0..100 {
        account.put(&block(n)?, format!("salary {n}").into()).await?;
    }

    // The customer makes a new version. That alone changes nothing: the account has to be told.
    let second = customer.new_version("payroll").await?;
    let asked = engine.safe_to_disable(&first).await?;
    println!("before the rotation: {}", asked.needed.first().ok_or("nothing needed it")?);
    done(account.rotate_kek(None, second, None).await?).await?;
    let receipt = engine.safe_to_disable(&first).await?.receipt.ok_or("it is needed still")?;
    receipt.verify(&auditor)?;
    customer.disable(&first).await?;
    println!("after it the old version is disabled, and {} blocks read", read(&account, 100).await?);

    // New blocks are under a new AEK at once; those of before are sealed anew in the background.
    let operation = done(account.rotate_aek(Reencrypt::Yes).await?).await?;
    println!("sealed {} blocks anew: {} read", operation.progress.done, read(&account, 100).await?);

    // Without re-encryption blocks stay under the key that they were sealed under, and read seamlessly.
    done(account.unlink(Reencrypt::No).await?).await?;
    account.put(&block(100)?, "salary 100".into()).await?;
    println!("unlinked: {} blocks read, under two keys", read(&account, 101).await?);
    let kek = customer.create_key("payroll-2027").await?;
    done(account.link(LinkTo { principal, kek, buffer }, Reencrypt::Yes).await?).await?;
    let listed = account.list(None, 200).await?.blocks;
    assert!(listed.iter().all(|block| block.provider == Provider::Customer));
    println!("linked to another key: {} blocks read, all under the customer's", read(&account, 101).await?);

    engine.close().await?;
    Ok(())
}

/// Waits for an operation. Dropped instead, it goes on.
async fn done(handle: OperationHandle) -> Result<Operation, Box<dyn Error>> {
    let operation = handle.wait().await?;
    match (operation.status, &operation.failure) {
        (OperationStatus::Succeeded, _) => Ok(operation),
        (_, Some(failure)) => Err(failure.message.clone().into()),
        (_, None) => Err("it did not succeed".into()),
    }
}

async fn read(account: &Account, blocks: u32) -> Result<u32, Box<dyn Error>> {
    for n in 0..blocks {
        assert_eq!(account.get(&block(n)?).await?, format!("salary {n}"));
    }
    Ok(blocks)
}

fn block(n: u32) -> Result<BlockId, Box<dyn Error>> {
    Ok(BlockId::new(format!("2026-11/{n:06}"))?)
}
