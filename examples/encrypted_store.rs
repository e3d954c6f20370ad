//! A customer's key around anything that writes to an object store: what is put is sealed, what is read is opened, and
//! nothing is once the customer takes the key away.
//!
//! Run it with `cargo run --example encrypted_store --features object-store`. The objects are files in a folder here; any other
//! store of the crate `object_store` stands in its place.

#![allow(clippy::print_stdout, reason = "an example")]

use std::{error::Error, sync::Arc, time::Duration};

use cofferdam::{
    keyring::Policy,
    store::{
        AccountKey, AccountName, BufferMode, EmbeddedOptions, EmbeddedStore, Engine,
        encrypted::{EncryptedError, EncryptedObjectStore},
    },
    vault::{LocalVault, LocalVaultOptions, Principal, SystemClock, SystemEntropy, VaultRegistry},
};
use object_store::{ObjectStore, ObjectStoreExt, WriteMultipart, local::LocalFileSystem, path::Path};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // A service with an account under a customer's key, as in the example `engine`.
    let home = tempfile::tempdir()?;
    let options = || LocalVaultOptions::new(Arc::new(SystemClock), Arc::new(SystemEntropy));
    let service = LocalVault::create(home.path().join("service.vault"), "service", options()).await?;
    let customer = LocalVault::create(home.path().join("customer.vault"), "customer", options()).await?;
    let (service_kek, kek) = (service.create_key("storage").await?, customer.create_key("payroll").await?);
    let principal = Principal::new("contoso");
    let vaults =
        VaultRegistry::new(Arc::new(service)).with_customer(principal.clone(), Arc::new(customer.clone()));
    let catalog = EmbeddedStore::create(home.path().join("catalog.store"), EmbeddedOptions::default())?;
    // Keys are renewed every 6 s here, so that the example is short; 30 s is the default.
    let policy =
        Policy::default().with_refresh(Duration::from_secs(6))?.with_ceiling(Duration::from_secs(6))?;
    let engine = Engine::builder(Arc::new(catalog), vaults, service_kek).policy(policy).open().await?;
    let key = AccountKey::Customer { principal, kek: kek.clone(), buffer: BufferMode::default() };
    let account = engine.create_account(&AccountName::new("payroll")?, key).await?;

    // Two lines more: what is built on `ObjectStore` takes this one.
    let folder = home.path().join("objects");
    std::fs::create_dir(&folder)?;
    let files = Arc::new(LocalFileSystem::new_with_prefix(&folder)?);
    let store: Arc<dyn ObjectStore> = Arc::new(EncryptedObjectStore::open(files, account).await?);

    let path = Path::from("2026/11/salaries.csv");
    let mut upload = WriteMultipart::new(store.put_multipart(&path).await?);
    for employee in 0..100_000 {
        upload.write(format!("{employee},{}\n", 3_000 + employee % 997).as_bytes());
    }
    upload.finish().await?;
    let meta = store.head(&path).await?;
    let on_disk = std::fs::read(folder.join(path.as_ref()))?;
    println!("{}: {} bytes, {} as stored", meta.location, meta.size, on_disk.len());
    assert!(!on_disk.windows(7).any(|bytes| bytes == b"7,3007\n"), "nothing is in the clear");

    let range = store.get_range(&path, 54..61).await?;
    println!("bytes 54..61: {range:?}");

    customer.disable(&kek).await?;
    let refusal = loop {
        match store.get(&path).await {
            Err(e) => break e,
            Ok(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    };
    assert!(matches!(EncryptedError::of(&refusal), Some(EncryptedError::KeyRevoked { .. })));
    println!("after the key was disabled: {refusal}");

    engine.close().await?;
    Ok(())
}
