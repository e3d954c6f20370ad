//! Somewhere else to import archives: another store, another service, and the vaults that were allowed, counted.

#![allow(dead_code, reason = "no test file uses all of it")]

use std::{
    io::{self, Cursor},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use async_trait::async_trait;
use bytes::Bytes;
use cofferdam::{
    crypto::{Aek, KeyId, WrappedKey},
    keyring::Policy,
    store::{
        Account, AccountName, ArchiveReport, BlockStore, EmbeddedOptions, EmbeddedStore, Engine,
        EngineBuilder, EngineError, FaultyFile, ImportOptions, ImportReport,
    },
    vault::{
        Clock, Inline, KeyProperties, KeyVault, LocalVault, LocalVaultOptions, Principal, PublicKeyAnswer,
        VaultError, VaultRegistry, WrapContext,
        testing::{SeededEntropy, TokioClock},
    },
};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncSeek, ReadBuf};

use crate::world::World;

/// Another service.
pub(crate) struct Elsewhere {
    dir: TempDir,
    pub(crate) service: LocalVault,
    /// The vault of the customer of the archive, under the name `importer`.
    pub(crate) allowed: Arc<Counted>,
    /// The same vault, under the name that the archive has for it.
    pub(crate) other: Arc<Counted>,
    pub(crate) store: EmbeddedStore,
    pub(crate) engine: Engine,
    vaults: VaultRegistry,
    service_kek: KeyId,
    entropy: Arc<SeededEntropy>,
    clock: Arc<TokioClock>,
}

impl Elsewhere {
    pub(crate) async fn new(world: &World, seed: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (clock, entropy) = (world.clock.clone(), Arc::new(SeededEntropy::new(seed)));
        let options = LocalVaultOptions::new(clock.clone(), entropy.clone()).executor(Arc::new(Inline));
        let service =
            LocalVault::create(dir.path().join("service.vault"), "elsewhere", options).await.unwrap();
        let service_kek = service.create_key("service").await.unwrap();
        let counted = || Arc::new(Counted { vault: world.customer.clone(), calls: AtomicUsize::new(0) });
        let (allowed, other) = (counted(), counted());
        let vaults = VaultRegistry::new(Arc::new(service.clone()))
            .with_customer(importer(), allowed.clone())
            .with_customer(World::principal(), other.clone());
        let options = EmbeddedOptions { executor: Arc::new(Inline), ..EmbeddedOptions::default() };
        let store = EmbeddedStore::create_on(Arc::new(FaultyFile::new()), options).unwrap();
        let parts = (&store, &vaults, &service_kek, &entropy, &clock);
        let engine = builder(parts).open().await.unwrap();
        Self { dir, service, allowed, other, store, engine, vaults, service_kek, entropy, clock }
    }

    /// Another engine over the same store.
    pub(crate) async fn twin(&self) -> Engine {
        let parts = (&self.store, &self.vaults, &self.service_kek, &self.entropy, &self.clock);
        builder(parts).open().await.unwrap()
    }

    /// One that tells others what it does.
    pub(crate) async fn shared(&self) -> Engine {
        let parts = (&self.store, &self.vaults, &self.service_kek, &self.entropy, &self.clock);
        builder(parts).shared(true).open().await.unwrap()
    }

    pub(crate) async fn import(
        &self,
        archive: &[u8],
        options: ImportOptions,
    ) -> Result<(Account, ImportReport), EngineError> {
        self.engine.import(Cursor::new(archive), options).await
    }

    /// Whether nothing of any account is here.
    pub(crate) async fn is_empty(&self, account: &Account) -> bool {
        let names = self.engine.accounts(None, 10).await.unwrap();
        let blocks = self.store.list(account.id(), None, 10).await.unwrap();
        names.is_empty() && blocks.is_empty()
    }
}

type Parts<'a> =
    (&'a EmbeddedStore, &'a VaultRegistry, &'a KeyId, &'a Arc<SeededEntropy>, &'a Arc<TokioClock>);

fn builder((store, vaults, service_kek, entropy, clock): Parts<'_>) -> EngineBuilder {
    Engine::builder(Arc::new(store.clone()), vaults.clone(), service_kek.clone())
        .clock(clock.clone() as Arc<dyn Clock>)
        .entropy(entropy.clone())
        .policy(Policy::default())
        .executor(Arc::new(Inline))
        .max_block_len(1 << 20)
        .in_flight(4 << 20)
}

/// Who the archive's customer is there.
pub(crate) fn importer() -> Principal {
    Principal::new("importer")
}

/// The customer's vault may be asked.
pub(crate) fn allowing() -> ImportOptions {
    ImportOptions::new().allow(World::principal(), importer())
}

pub(crate) fn named(options: ImportOptions, name: &str) -> ImportOptions {
    options.named(AccountName::new(name).unwrap())
}

/// The account's archive.
pub(crate) async fn export(account: &Account) -> (Vec<u8>, ArchiveReport) {
    let mut bytes = Vec::new();
    let report = account.export(&mut bytes).await.unwrap();
    (bytes, report)
}

/// Every block of an account, as it reads.
pub(crate) async fn everything(account: &Account) -> Vec<(String, u64, Bytes)> {
    let mut all = Vec::new();
    for block in account.list(None, 1000).await.unwrap().blocks {
        let data = account.get(&block.id).await.unwrap();
        all.push((block.id.to_string(), block.version.number(), data));
    }
    all
}

/// A vault, and how often it was asked anything.
#[derive(Debug)]
pub(crate) struct Counted {
    vault: LocalVault,
    calls: AtomicUsize,
}

impl Counted {
    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    fn count(&self) -> &LocalVault {
        self.calls.fetch_add(1, Ordering::Relaxed);
        &self.vault
    }
}

#[async_trait]
impl KeyVault for Counted {
    async fn wrap_key(&self, kek: &KeyId, aek: &Aek, of: &WrapContext) -> Result<WrappedKey, VaultError> {
        self.count().wrap_key(kek, aek, of).await
    }

    async fn unwrap_key(&self, wrapped: &WrappedKey, of: &WrapContext) -> Result<Aek, VaultError> {
        self.count().unwrap_key(wrapped, of).await
    }

    async fn key_properties(&self, kek: &KeyId) -> Result<KeyProperties, VaultError> {
        self.count().key_properties(kek).await
    }

    async fn public_key(&self, kek: &KeyId) -> Result<PublicKeyAnswer, VaultError> {
        self.count().public_key(kek).await
    }
}

/// A file that gives no more once so much of it was read.
pub(crate) struct Stuck {
    file: Cursor<Vec<u8>>,
    left: usize,
}

impl Stuck {
    pub(crate) fn after(archive: &[u8], left: usize) -> Self {
        Self { file: Cursor::new(archive.to_vec()), left }
    }
}

impl AsyncRead for Stuck {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.left == 0 {
            return Poll::Pending;
        }
        let mut some = to.take(self.left.min(1000));
        let read = Pin::new(&mut self.file).poll_read(cx, &mut some);
        let n = some.filled().len();
        self.left -= n;
        to.advance(n);
        read
    }
}

impl AsyncSeek for Stuck {
    fn start_seek(mut self: Pin<&mut Self>, to: io::SeekFrom) -> io::Result<()> {
        Pin::new(&mut self.file).start_seek(to)
    }

    fn poll_complete(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<u64>> {
        Pin::new(&mut self.file).poll_complete(cx)
    }
}
