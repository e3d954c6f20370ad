//! A home: one folder with a store, the service's vault and the customer's.
//!
//! Guarantees: only one process has a home's store open; nothing in a home names where it is, so a closed
//! one can be copied elsewhere; `cofferdam.json` is written last, so a home is whole or is none. The customer's
//! vault is changed without the home's lock. A command that uses keys finishes what can be drained, and operations, before it
//! ends.
//!
//! Not its job: what the commands do with the engine.

mod config;
mod lock;
mod passphrase;
mod receipt;
#[cfg(feature = "serve")]
mod serving;
mod status;
mod unasked;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use cofferdam_store::{
    AccountName, BufferEvent, DeletedAccount, EmbeddedOptions, EmbeddedStore, Engine, EngineError, ReceiptKey,
};
use cofferdam_vault::{
    Clock, KeyVault, LocalVault, LocalVaultOptions, Principal, SystemClock, VaultRegistry,
};

use tokio::sync::broadcast::Receiver;

use config::Config;
pub(crate) use config::{AccountTimes, BufferBounds, KeyTimes, Settings};
pub(crate) use lock::HomeLock;
pub(crate) use passphrase::PassphraseSource;
use receipt::open_receipt_key;
#[cfg(feature = "serve")]
pub(crate) use serving::Serving;
pub(crate) use status::{AccountReport, STATUS_EVERY, StatusFile};

use crate::{drain, error::CliError, operation, output::escape, vaults::VaultConfig};
use unasked::UnaskedVault;

const CONFIG: &str = "cofferdam.json";
const SERVICE_VAULT: &str = "service.vault";
const CUSTOMER_VAULT: &str = "customer.vault";
const STORE: &str = "blocks.store";
const SERVICE_KEY: &str = "cofferdam";
const RECEIPT_KEY: &str = "receipt.key";
#[cfg(feature = "serve")]
const SERVING: &str = "key-vault-server";

/// The most bytes of one block. Longer input is for `ingest`, which cuts it.
pub(crate) const MAX_BLOCK_LEN: u64 = 64 << 20;

/// How many bytes of writes may be under way: what bounds a writer's memory.
const IN_FLIGHT: usize = 32 << 20;

/// How long a command waits for another one to release the home, and how often it looks.
const LOCK_WAIT: Duration = Duration::from_millis(500);
const LOCK_LOOK: Duration = Duration::from_millis(20);

/// A home that was found to be one. Holds no lock.
#[derive(Debug)]
pub(crate) struct Home {
    path: PathBuf,
    config: Config,
    passphrase: PassphraseSource,
    /// Which vaults there are, if not the home's own alone.
    vault_config: Option<PathBuf>,
    drains: Drains,
}

/// What a command that has used keys does about blocks that can be drained, and about operations that go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Drains {
    /// It waits until none is left.
    Finish,
    /// It leaves them to the next one.
    Leave,
}

/// A home with its store open, under the home's lock.
pub(crate) struct OpenHome {
    pub(crate) engine: Engine,
    pub(crate) store: EmbeddedStore,
    pub(crate) home: Home,
    /// Who has vaults here.
    pub(crate) principals: Vec<Principal>,
    keys: Keys,
    /// What happened to buffers since it was opened.
    events: Receiver<BufferEvent>,
    _lock: HomeLock,
}

/// Which vaults a command needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keys {
    /// Blocks are sealed or opened.
    Needed,
    /// No vault is opened, no passphrase asked for: lists and removals work whatever became of the keys.
    Unused,
}

impl Home {
    /// Makes a home in a folder that is empty or not there yet.
    pub(crate) async fn create(
        path: &Path,
        settings: Settings,
        passphrase: PassphraseSource,
    ) -> Result<Self, CliError> {
        settings.key_times.policy()?;
        let was_there = path.exists();
        fs::create_dir_all(path).map_err(|e| CliError::writing("make", path, e))?;
        if path.join(CONFIG).symlink_metadata().is_ok() {
            return Err(CliError::HomeExists { path: path.into() });
        }
        for found in [SERVICE_VAULT, CUSTOMER_VAULT, STORE, RECEIPT_KEY] {
            if path.join(found).symlink_metadata().is_ok() {
                return Err(CliError::InTheWay { path: path.into(), found });
            }
        }
        let _lock = HomeLock::acquire(path)?;
        match Self::fill(path, settings, &passphrase).await {
            Ok(config) => {
                let (path, drains) = (path.into(), Drains::Finish);
                Ok(Self { path, config, passphrase, vault_config: None, drains })
            }
            Err(e) => {
                // What was made is of no use; that it can't be removed is said by the next init.
                if was_there {
                    for made in [SERVICE_VAULT, CUSTOMER_VAULT, STORE, RECEIPT_KEY] {
                        let _ = fs::remove_file(path.join(made));
                    }
                } else {
                    let _ = fs::remove_dir_all(path);
                }
                Err(e)
            }
        }
    }

    async fn fill(
        path: &Path,
        settings: Settings,
        passphrase: &PassphraseSource,
    ) -> Result<Config, CliError> {
        let options = |passphrase: &PassphraseSource| vault_options(passphrase);
        LocalVault::create(path.join(CUSTOMER_VAULT), "customer", options(passphrase)?).await?;
        let service = LocalVault::create(path.join(SERVICE_VAULT), "service", options(passphrase)?).await?;
        service.create_key(SERVICE_KEY).await?;
        let service_kek = service.key_id(SERVICE_KEY)?;
        let config = Config::new(service_kek, settings);
        let store = EmbeddedStore::create(path.join(STORE), EmbeddedOptions::default())?;
        // Opened once, so that settings which the engine refuses make no home.
        let receipt_key = open_receipt_key(&path.join(RECEIPT_KEY))?;
        let engine = config.engine(store, VaultRegistry::new(Arc::new(service)), Some(receipt_key))?;
        engine.open().await?.close().await?;
        config.write(&path.join(CONFIG))?;
        Ok(config)
    }

    /// Finds a home; opens nothing in it.
    pub(crate) fn find(
        path: Option<&Path>,
        passphrase: PassphraseSource,
        vault_config: Option<PathBuf>,
        drains: Drains,
    ) -> Result<Self, CliError> {
        let path = path.ok_or(CliError::NoHome)?;
        let config = match fs::read(path.join(CONFIG)) {
            Ok(bytes) => Config::parse(path, &path.join(CONFIG), &bytes)?,
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                let reason = match path.metadata() {
                    Ok(found) if found.is_dir() => "it has no cofferdam.json",
                    Ok(_) => "it is not a folder",
                    Err(_) => "there is no such folder",
                };
                return Err(CliError::NotAHome { path: path.into(), reason });
            }
            Err(e) => return Err(CliError::reading(&path.join(CONFIG), e)),
        };
        Ok(Self { path: path.into(), config, passphrase, vault_config, drains })
    }

    /// Takes the home's lock, or says who has it.
    pub(crate) fn lock(&self) -> Result<HomeLock, CliError> {
        HomeLock::acquire(&self.path)
    }

    /// Takes the home's lock and opens its store. Waits a moment for a short command that has it.
    pub(crate) async fn open(self, keys: Keys) -> Result<OpenHome, CliError> {
        let began = SystemClock.now();
        let lock = loop {
            match self.lock() {
                Err(CliError::Locked { .. }) if SystemClock.now().since(&began) < LOCK_WAIT => {
                    tokio::time::sleep(LOCK_LOOK).await;
                }
                lock => break lock?,
            }
        };
        self.open_locked(lock, keys).await
    }

    /// Opens the store under a lock that is held already.
    pub(crate) async fn open_locked(self, lock: HomeLock, keys: Keys) -> Result<OpenHome, CliError> {
        let (service, customers): (Arc<dyn KeyVault>, _) = match keys {
            Keys::Needed => (Arc::new(self.open_vault(SERVICE_VAULT).await?), self.customers().await?),
            Keys::Unused => (Arc::new(UnaskedVault), vec![(principal(), Arc::new(UnaskedVault) as _)]),
        };
        let principals = customers.iter().map(|(principal, _)| principal.clone()).collect();
        let vaults = customers.into_iter().fold(VaultRegistry::new(service), |vaults, (principal, vault)| {
            vaults.with_customer(principal, vault)
        });
        let receipt_key = match keys {
            Keys::Needed => Some(self.receipt_key()?),
            Keys::Unused => None,
        };
        let store = EmbeddedStore::open(self.path.join(STORE), EmbeddedOptions::default())?;
        let engine =
            self.config.engine(store.clone(), vaults, receipt_key)?.open().await.map_err(|e| match e {
                EngineError::BadSetting { .. } => {
                    CliError::DamagedSettings { path: self.path.join(CONFIG), what: e.to_string() }
                }
                e => e.into(),
            })?;
        // A writer that was killed left it; nobody else writes now.
        StatusFile::remove(&self.path);
        let events = engine.buffer_events();
        Ok(OpenHome { engine, store, home: self, principals, keys, events, _lock: lock })
    }

    /// The customer's vault, without the home's lock.
    pub(crate) async fn customer_vault(&self) -> Result<LocalVault, CliError> {
        self.open_vault(CUSTOMER_VAULT).await
    }

    /// The vaults of all principals: those that the file of vaults lists, or the home's own.
    async fn customers(&self) -> Result<Vec<(Principal, Arc<dyn KeyVault>)>, CliError> {
        match &self.vault_config {
            None => Ok(vec![(principal(), Arc::new(self.customer_vault().await?))]),
            // It is judged before anything is opened.
            Some(path) => VaultConfig::read(path)?.open(&self.customer_vault().await?).await,
        }
    }

    /// A token of the file of vaults, to be served.
    #[cfg(all(feature = "pkcs11", feature = "serve"))]
    pub(crate) async fn token(&self, name: &str) -> Result<cofferdam_vault::pkcs11::Pkcs11Vault, CliError> {
        match &self.vault_config {
            None => {
                Err(CliError::Usage("--vault names a vault of a file: give that by --vault-config".into()))
            }
            Some(path) => VaultConfig::read(path)?.token(name).await,
        }
    }

    async fn open_vault(&self, name: &str) -> Result<LocalVault, CliError> {
        Ok(LocalVault::open(self.path.join(name), vault_options(&self.passphrase)?).await?)
    }

    /// The key that its receipts are signed with. A home that has none gets one.
    pub(crate) fn receipt_key(&self) -> Result<ReceiptKey, CliError> {
        open_receipt_key(&self.path.join(RECEIPT_KEY))
    }

    /// What the server of the customer's vault is known by; made where there is none yet, or it is for another host.
    #[cfg(feature = "serve")]
    pub(crate) fn serving(&self, host: &str) -> Result<Serving, CliError> {
        Serving::open(&self.path.join(SERVING), host, &SystemClock)
    }

    /// What may wait in its accounts' buffers.
    pub(crate) fn buffer_bounds(&self) -> BufferBounds {
        self.config.buffer
    }

    pub(crate) fn drains(&self) -> Drains {
        self.drains
    }

    /// What changes when a command or a vault's owner does something.
    pub(crate) fn files(&self) -> [PathBuf; 3] {
        [STORE, CUSTOMER_VAULT, SERVICE_VAULT].map(|name| self.path.join(name))
    }

    /// The file that holds all blocks and records.
    pub(crate) fn store_file(&self) -> PathBuf {
        self.path.join(STORE)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where it is, for people.
    pub(crate) fn name(&self) -> String {
        escape(&self.path.display().to_string())
    }
}

impl OpenHome {
    /// The names of all accounts that are not deleted, in order.
    pub(crate) async fn accounts(&self) -> Result<Vec<AccountName>, CliError> {
        let mut all: Vec<AccountName> = Vec::new();
        loop {
            let more = self.engine.accounts(all.last(), 1000).await?;
            if more.is_empty() {
                return Ok(all);
            }
            all.extend(more);
        }
    }

    /// The accounts that are deleted and can be recovered, in the order of their names.
    pub(crate) async fn deleted_accounts(&self) -> Result<Vec<DeletedAccount>, CliError> {
        let mut all: Vec<DeletedAccount> = Vec::new();
        loop {
            let more = self.engine.deleted_accounts(all.last().map(|of| &of.name), 1000).await?;
            if more.is_empty() {
                return Ok(all);
            }
            all.extend(more);
        }
    }

    /// Finishes what can be drained and what operations go on, unless that is to be left, and closes the engine: everything
    /// is on disk, every key is wiped.
    pub(crate) async fn close(mut self) -> Result<Home, CliError> {
        let settled = self.settle().await;
        self.close_now().await.and_then(|home| settled.map(|()| home))
    }

    /// Finishes what can be drained and what operations go on, unless that is to be left.
    pub(crate) async fn settle(&mut self) -> Result<(), CliError> {
        match (self.keys, self.home.drains) {
            (Keys::Needed, Drains::Finish) => {
                let mut events = self.events.resubscribe();
                std::mem::swap(&mut events, &mut self.events);
                drain::finish(self, &mut events).await?;
                operation::finish(self).await
            }
            _ => Ok(()),
        }
    }

    /// Closes the engine and leaves what is not done yet.
    pub(crate) async fn close_now(self) -> Result<Home, CliError> {
        self.engine.close().await?;
        Ok(self.home)
    }
}

/// Whose the accounts of a home are, unless something else is said.
pub(crate) const PRINCIPAL: &str = "customer";

/// The same.
pub(crate) fn principal() -> Principal {
    Principal::new(PRINCIPAL)
}

fn vault_options(passphrase: &PassphraseSource) -> Result<LocalVaultOptions, CliError> {
    let options = LocalVaultOptions::default();
    Ok(match passphrase.read()? {
        Some(passphrase) => options.passphrase(passphrase),
        None => options,
    })
}
