//! An engine with two customers' accounts, and an encrypted store over one in memory.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use cofferdam_crypto::{Aek, KeyId, PageSize, WrappedKey};
use cofferdam_store::{
    Account, AccountKey, AccountName, BufferMode, EmbeddedOptions, EmbeddedStore, Engine,
    encrypted::{Accounts, EncryptedError, EncryptedObjectStore, EncryptedOptions},
};
use cofferdam_vault::{
    Inline, KeyProperties, KeyVault, Principal, PublicKeyAnswer, VaultError, VaultRegistry, WrapContext,
    testing::{ScriptedVault, SeededEntropy, TokioClock},
};
use object_store::{Error, ObjectStore, ObjectStoreExt, memory::InMemory, path::Path};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tempfile::TempDir;

use super::watched::Watched;

/// Longer than any answer of a vault may be out of date.
pub(crate) const NOTICED: Duration = Duration::from_secs(70);
/// Longer than the grace of the default policy.
pub(crate) const PAST_GRACE: Duration = Duration::from_secs(35 * 60);

pub(crate) const PAGE: u64 = 4096;

pub(crate) struct World {
    _dir: TempDir,
    /// The vault of both customers.
    pub(crate) vault: Arc<ScriptedVault>,
    pub(crate) engine: Engine,
    pub(crate) account: Account,
    pub(crate) other: Account,
    /// What is stored.
    pub(crate) below: Arc<InMemory>,
    pub(crate) watched: Arc<Watched>,
    pub(crate) store: EncryptedObjectStore,
}

impl World {
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (service, vault) = (Arc::new(ScriptedVault::new(1)), Arc::new(ScriptedVault::new(2)));
        let key = |name: &str| KeyId::new(format!("scripted://{name}/1")).unwrap();
        service.create_key(&key("service")).unwrap();
        let principal = Principal::new("contoso");
        let vaults = VaultRegistry::new(service)
            .with_customer(principal.clone(), Arc::new(Recoverable(vault.clone())));
        // All work is done where it is asked for: paused time would run on while a thread works.
        let options = EmbeddedOptions { executor: Arc::new(Inline), ..EmbeddedOptions::default() };
        let blocks = EmbeddedStore::create(dir.path().join("blocks.store"), options).unwrap();
        let engine = Engine::builder(Arc::new(blocks), vaults, key("service"))
            .clock(Arc::new(TokioClock::new()))
            .entropy(Arc::new(SeededEntropy::new(3)))
            .executor(Arc::new(Inline))
            .open()
            .await
            .unwrap();
        let create = async |name: &str| {
            vault.create_key(&key(name)).unwrap();
            let of = AccountKey::Customer {
                principal: principal.clone(),
                kek: key(name),
                buffer: BufferMode::default(),
            };
            engine.create_account(&AccountName::new(name).unwrap(), of).await.unwrap()
        };
        let (account, other) = (create("payroll").await, create("other").await);
        let below = Arc::new(InMemory::new());
        let watched = Watched::over(below.clone());
        let store = open(watched.clone(), account.clone()).await;
        Self { _dir: dir, vault, engine, account, other, below, watched, store }
    }

    /// Another door to the same store, which knows nothing of what was read through the first.
    pub(crate) async fn another(&self) -> EncryptedObjectStore {
        open(self.watched.clone(), self.account.clone()).await
    }

    pub(crate) async fn stored(&self, path: &str) -> Bytes {
        self.below.get(&Path::from(path)).await.unwrap().bytes().await.unwrap()
    }

    pub(crate) async fn store_raw(&self, path: &str, bytes: impl Into<Bytes>) {
        self.below.put(&Path::from(path), bytes.into().into()).await.unwrap();
    }

    pub(crate) async fn put(&self, path: &str, bytes: &[u8]) {
        self.store.put(&Path::from(path), Bytes::copy_from_slice(bytes).into()).await.unwrap();
    }

    pub(crate) async fn get(&self, path: &str) -> object_store::Result<Bytes> {
        self.store.get(&Path::from(path)).await?.bytes().await
    }
}

/// A scripted vault whose keys can be recovered, as an account's have to be.
#[derive(Debug)]
struct Recoverable(Arc<ScriptedVault>);

#[async_trait]
impl KeyVault for Recoverable {
    async fn wrap_key(&self, kek: &KeyId, aek: &Aek, of: &WrapContext) -> Result<WrappedKey, VaultError> {
        self.0.wrap_key(kek, aek, of).await
    }

    async fn unwrap_key(&self, wrapped: &WrappedKey, of: &WrapContext) -> Result<Aek, VaultError> {
        self.0.unwrap_key(wrapped, of).await
    }

    async fn key_properties(&self, kek: &KeyId) -> Result<KeyProperties, VaultError> {
        let mut properties = self.0.key_properties(kek).await?;
        (properties.soft_delete, properties.purge_protection) = (true, true);
        Ok(properties)
    }

    async fn public_key(&self, kek: &KeyId) -> Result<PublicKeyAnswer, VaultError> {
        self.0.public_key(kek).await
    }
}

/// With pages of 4 KiB and parts of 5 MiB.
pub(crate) async fn open(store: Arc<dyn ObjectStore>, accounts: impl Into<Accounts>) -> EncryptedObjectStore {
    let options = EncryptedOptions { page_size: PageSize::MIN, part_size: 5 << 20 };
    EncryptedObjectStore::open_with(store, accounts, options).await.unwrap()
}

/// Bytes that are in no other object.
pub(crate) fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

/// What the encrypted store says was wrong.
#[track_caller]
pub(crate) fn said<T: fmt::Debug>(result: object_store::Result<T>) -> (Error, String) {
    let error = result.unwrap_err();
    let of = EncryptedError::of(&error).unwrap_or_else(|| panic!("not the encrypted store's: {error:?}"));
    let name = format!("{of:?}");
    let name = name.split([' ', '(']).next().unwrap().to_owned();
    (error, name)
}
