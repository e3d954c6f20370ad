//! A service with its own I/O seals and opens blocks itself: here each block is a file.
//!
//! Run it with `cargo run --example sealer`. The service keeps the wrapped keys where it likes and tells the keyring through
//! [`KeyRecords`]; the keyring unwraps, renews and wipes the keys, and gives them out for one operation at a time.

#![allow(clippy::print_stdout, reason = "an example")]

use std::{
    error::Error,
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use cofferdam::{
    crypto::{
        AccountId, Aek, BlockId, Epoch, Header, KeyId, KeyScope, PageSize, Provider, ProviderKind, RecordKey,
        RecordTag, Version, WrappedAek,
    },
    keyring::{KeyRecord, KeyRecords, Keyring, KeyringParts, Policy, RecordError},
    vault::{
        Entropy, KeyVault, LocalVault, LocalVaultOptions, Principal, SystemClock, SystemEntropy,
        VaultRegistry, WrapContext,
    },
};

use serde::{Deserialize, Serialize};

/// The keys of one account, as a service would keep them in its catalog: the service's wraps, which the service's vault alone
/// can have made, and the customer's, which are believed only with a tag under the service key.
#[derive(Debug)]
struct Catalog {
    service: WrappedAek,
    /// JSON of [`Customer`].
    customer: Vec<u8>,
    tag: RecordTag,
    revoked: AtomicBool,
}

#[derive(Serialize, Deserialize)]
struct Customer {
    principal: Principal,
    epochs: Vec<WrappedAek>,
}

#[async_trait]
impl KeyRecords for Catalog {
    async fn service_keys(&self, _: AccountId) -> Result<KeyRecord, RecordError> {
        Ok(KeyRecord::under(None, vec![self.service.clone()]))
    }

    async fn customer_keys(&self, _: AccountId, service: &RecordKey) -> Result<KeyRecord, RecordError> {
        if !service.verify(&self.customer, &self.tag) {
            return Err(RecordError::Tampered("its tag does not fit".into()));
        }
        // Only what was tagged is used: principal and wraps both come out of the verified bytes.
        let customer: Customer =
            serde_json::from_slice(&self.customer).map_err(|e| RecordError::Tampered(e.to_string()))?;
        let revoked = self.revoked.load(Ordering::SeqCst);
        Ok(KeyRecord { revoked, ..KeyRecord::under(Some(customer.principal), customer.epochs) })
    }

    async fn set_revoked(&self, _: AccountId, revoked: bool) -> Result<(), RecordError> {
        // A real catalog has it on disk before this returns: it must outlive a restart.
        self.revoked.store(revoked, Ordering::SeqCst);
        Ok(())
    }

    async fn note_bridge(&self, _: AccountId, _: &KeyId, _: Option<Duration>) -> Result<(), RecordError> {
        // With one KEK there is none that another could stand in for.
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let home = tempfile::tempdir()?;
    let (clock, entropy) = (Arc::new(SystemClock), Arc::new(SystemEntropy));
    let options = || LocalVaultOptions::new(clock.clone(), entropy.clone());
    let service =
        Arc::new(LocalVault::create(home.path().join("service.vault"), "service", options()).await?);
    let customer =
        Arc::new(LocalVault::create(home.path().join("customer.vault"), "customer", options()).await?);

    // A new account: an AEK under the service's KEK and one under the customer's.
    let account = AccountId::from_bytes(*b"one of your UUID");
    let mut wrapped = Vec::new();
    for (vault, provider) in [(&service, Provider::Service), (&customer, Provider::Customer)] {
        let scope = KeyScope { account, epoch: Epoch::FIRST, provider };
        let kek = vault.create_key("storage").await?;
        let aek = Aek::try_from_fn(|bytes| entropy.fill(bytes))?;
        let wrap = vault.wrap_key(&kek, &aek, &WrapContext { scope }).await?;
        wrapped.push((WrappedAek::new(&aek, scope, vec![wrap]), RecordKey::derive(&aek, &scope)));
    }
    let [(service_aek, record_key), (customer_aek, _)] =
        <[_; 2]>::try_from(wrapped).map_err(|_| "two keys")?;
    let principal = Principal::new("contoso");
    let record = Customer { principal: principal.clone(), epochs: vec![customer_aek] };
    let record = serde_json::to_vec(&record)?;
    let tag = record_key.tag(&record);
    let catalog = Catalog { service: service_aek, customer: record, tag, revoked: AtomicBool::new(false) };

    let keyring = Keyring::new(KeyringParts {
        vaults: VaultRegistry::new(service).with_customer(principal, customer),
        records: Arc::new(catalog),
        clock,
        entropy,
        policy: Policy::default(),
    });

    // Seal: the key is asked for at each write, so that a revocation is obeyed; it answers from memory.
    let id = BlockId::new("2026-11-24/000017")?;
    let version = Version::new(1);
    let key = keyring.sealing_key(account, Provider::Customer).await?;
    let sealed = key.seal(id.at(version), PageSize::DEFAULT, b"one block of a log", keyring.salts())?;
    let path = home.path().join("000017.block");
    fs::write(&path, &sealed)?;
    println!("sealed {} bytes", sealed.len());

    // Open: the header says which key; the block opens only as this id and version of this account. Headers tell two kinds
    // of key apart from that of a buffer's segment, which only an engine has.
    let stored = fs::read(&path)?;
    let header = Header::parse(&stored)?;
    let provider = match header.provider() {
        ProviderKind::Customer => Provider::Customer,
        ProviderKind::Service => Provider::Service,
        ProviderKind::Buffer => return Err("a block of a write-only buffer is an engine's to open".into()),
    };
    let key = keyring.opening_key(account, provider, header.epoch()).await?;
    let opened = key.open(id.at(version), &stored)?;
    println!("opened: {}", String::from_utf8_lossy(&opened));

    let moved = key.open(id.at(Version::new(2)), &stored);
    println!("as another version: {}", moved.err().map_or("opened?".into(), |e| e.to_string()));
    keyring.close().await;
    Ok(())
}
