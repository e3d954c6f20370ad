//! A customer's key is rotated and the old version disabled; the account's own key is rotated and older blocks are sealed anew;
//! the account leaves the customer's key and comes back to it.
//!
//! Run it with `cargo run --example rotation`. All of it is a matter of seconds on the machine's clock.

#![allow(clippy::print_stdout, reason = "an example")]

use std::{error::Error, sync::Arc};

use cofferdam::{
    crypto::{BlockId, Epoch, KeyId},
    store::{
        Account, AccountKey, AccountName, BufferMode, EmbeddedOptions, EmbeddedStore, Engine, LinkTo, Operation,
        OperationHandle, OperationStatus, ReceiptKey, Reencrypt, SafeToDisable,
    },
    vault::{Entropy, LocalVault, LocalVaultOptions, Principal, SystemEntropy, VaultRegistry},
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let home = tempfile::tempdir()?;
    let vault = |name: &'static str| {
        LocalVault::create(home.path().join(format!("{name}.vault")), name, LocalVaultOptions::default())
    };
    let (service, customer) = (vault("service").await?, vault("customer").await?);
    let service_kek = service.create_key("storage").await?;
    let first = customer.create_key("payroll").await?;
    let principal = Principal::new("contoso");
    let vaults =
        VaultRegistry::new(Arc::new(service)).with_customer(principal.clone(), Arc::new(customer.clone()));
    let store = EmbeddedStore::create(home.path().join("blocks.store"), EmbeddedOptions::default())?;
    let engine = Engine::builder(Arc::new(store), vaults, service_kek).open().await?;
    let buffer = BufferMode::default();
    let key = AccountKey::Customer { principal: principal.clone(), kek: first.clone(), buffer };
    let account = engine.create_account(&AccountName::new("payroll")?, key).await?;
    for n in 0..100 {
        account.put(&block(n)?, format!("salary {n}").into()).await?;
    }

    // The customer makes a new version. That alone changes nothing; the service has to be told.
    let second = customer.new_version("payroll").await?;
    safe(&engine, &first).await?;
    done("rotate-kek", account.rotate_kek(None, second.clone(), None).await?).await?;
    safe(&engine, &first).await?;
    customer.disable(&first).await?;
    account.check_key().await?;
    println!("the old version is disabled, and {} blocks read", read(&account, 100).await?);

    // New blocks are under a new AEK at once; those of before follow in the background.
    let operation = done("rotate-aek", account.rotate_aek(Reencrypt::Yes).await?).await?;
    println!("sealed anew: {} blocks", operation.progress.done);
    assert_eq!(epochs(&account).await?, [Epoch::new(2)]);

    // Without re-encryption, blocks stay under the key that they were sealed under, and read seamlessly.
    done("unlink", account.unlink(Reencrypt::No).await?).await?;
    account.put(&block(100)?, "salary 100".into()).await?;
    println!("unlinked: {} blocks read, under two keys", read(&account, 101).await?);
    let third = customer.create_key("payroll-2027").await?;
    done("link", account.link(LinkTo { principal, kek: third, buffer }, Reencrypt::Yes).await?).await?;
    println!("linked again, to another key: {} blocks read", read(&account, 101).await?);
    assert_eq!(account.list(None, 200).await?.blocks.iter().filter(|b| b.provider.is_service()).count(), 0);

    engine.close().await?;
    Ok(())
}
