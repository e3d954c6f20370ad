//! A home: one folder with a store, the service's vault and the customer's.
//!
//! Guarantees: only one process has a home's store open; nothing in a home names where it is, so a closed
//! one can be copied elsewhere; `cofferdam.json` is written last, so a home is whole or is none. The customer's
//! vault is changed without the home's lock.
//!
//! Not its job: what the commands do with the engine.

mod config;
mod lock;
mod passphrase;
mod status;
mod unasked;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use cofferdam_store::{EmbeddedOptions, EmbeddedStore, Engine};
use cofferdam_vault::{KeyVault, LocalVault, LocalVaultOptions, Principal, VaultRegistry};

use config::Config;
pub(crate) use config::KeyTimes;
pub(crate) use lock::HomeLock;
pub(crate) use passphrase::PassphraseSource;
pub(crate) use status::{AccountReport, STATUS_EVERY, StatusFile};

use crate::{error::CliError, output::escape};
use unasked::UnaskedVault;

const CONFIG: &str = "cofferdam.json";
const SERVICE_VAULT: &str = "service.vault";
const CUSTOMER_VAULT: &str = "customer.vault";
const STORE: &str = "blocks.store";
const SERVICE_KEY: &str = "cofferdam";

/// The most bytes of one block. Longer input is for `ingest`, which cuts it.
pub(crate) const MAX_BLOCK_LEN: u64 = 64 << 20;

/// How many bytes of writes may be under way: what bounds a writer's memory.
const IN_FLIGHT: usize = 32 << 20;

/// A home that was found to be one. Holds no lock.
#[derive(Debug)]
pub(crate) struct Home {
    path: PathBuf,
    config: Config,
    passphrase: PassphraseSource,
}

/// A home with its store open, under the home's lock.
pub(crate) struct OpenHome {
    pub(crate) engine: Engine,
    pub(crate) store: EmbeddedStore,
    pub(crate) home: Home,
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
        times: KeyTimes,
        passphrase: PassphraseSource,
    ) -> Result<Self, CliError> {
        times.policy()?;
        fs::create_dir_all(path).map_err(|e| CliError::writing("make", path, e))?;
        if path.join(CONFIG).symlink_metadata().is_ok() {
            return Err(CliError::HomeExists { path: path.into() });
        }
        for found in [SERVICE_VAULT, CUSTOMER_VAULT, STORE] {
            if path.join(found).symlink_metadata().is_ok() {
                return Err(CliError::InTheWay { path: path.into(), found });
            }
        }
        let _lock = HomeLock::acquire(path)?;
        match Self::fill(path, times, &passphrase).await {
            Ok(config) => Ok(Self { path: path.into(), config, passphrase }),
            Err(e) => {
                // What was made is of no use; that it can't be removed is said by the next init.
                for made in [SERVICE_VAULT, CUSTOMER_VAULT, STORE] {
                    let _ = fs::remove_file(path.join(made));
                }
                Err(e)
            }
        }
    }

    async fn fill(path: &Path, times: KeyTimes, passphrase: &PassphraseSource) -> Result<Config, CliError> {
        let options = |passphrase: &PassphraseSource| vault_options(passphrase);
        LocalVault::create(path.join(CUSTOMER_VAULT), "customer", options(passphrase)?).await?;
        let service = LocalVault::create(path.join(SERVICE_VAULT), "service", options(passphrase)?).await?;
        service.create_key(SERVICE_KEY).await?;
        let service_kek = service.key_id(SERVICE_KEY)?;
        let store = EmbeddedStore::create(path.join(STORE), EmbeddedOptions::default())?;
        cofferdam_store::BlockStore::close(&store).await?;
        let config = Config::new(service_kek, times);
        config.write(&path.join(CONFIG))?;
        Ok(config)
    }

    /// Finds a home; opens nothing in it.
    pub(crate) fn find(path: Option<&Path>, passphrase: PassphraseSource) -> Result<Self, CliError> {
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
        Ok(Self { path: path.into(), config, passphrase })
    }

    /// Takes the home's lock, or says who has it.
    pub(crate) fn lock(&self) -> Result<HomeLock, CliError> {
        HomeLock::acquire(&self.path)
    }

    /// Takes the home's lock and opens its store.
    pub(crate) async fn open(self, keys: Keys) -> Result<OpenHome, CliError> {
        let lock = self.lock()?;
        self.open_locked(lock, keys).await
    }

    /// Opens the store under a lock that is held already.
    pub(crate) async fn open_locked(self, lock: HomeLock, keys: Keys) -> Result<OpenHome, CliError> {
        let (service, customer): (Arc<dyn KeyVault>, Arc<dyn KeyVault>) = match keys {
            Keys::Needed => (
                Arc::new(self.open_vault(SERVICE_VAULT).await?),
                Arc::new(self.open_vault(CUSTOMER_VAULT).await?),
            ),
            Keys::Unused => (Arc::new(UnaskedVault), Arc::new(UnaskedVault)),
        };
        let vaults = VaultRegistry::new(service).with_customer(principal(), customer);
        let store = EmbeddedStore::open(self.path.join(STORE), EmbeddedOptions::default())?;
        let engine = Engine::builder(Arc::new(store.clone()), vaults, self.config.service_kek.clone())
            .policy(self.config.key_times.policy()?)
            .max_block_len(MAX_BLOCK_LEN)
            .in_flight(IN_FLIGHT)
            .open()
            .await?;
        // A writer that was killed left it; nobody else writes now.
        StatusFile::remove(&self.path);
        Ok(OpenHome { engine, store, home: self, _lock: lock })
    }

    /// The customer's vault, without the home's lock.
    pub(crate) async fn customer_vault(&self) -> Result<LocalVault, CliError> {
        self.open_vault(CUSTOMER_VAULT).await
    }

    async fn open_vault(&self, name: &str) -> Result<LocalVault, CliError> {
        Ok(LocalVault::open(self.path.join(name), vault_options(&self.passphrase)?).await?)
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
    /// Closes the engine: everything is on disk, every key is wiped.
    pub(crate) async fn close(self) -> Result<Home, CliError> {
        self.engine.close().await?;
        Ok(self.home)
    }
}

/// Whose the accounts of a home are: there is one customer.
pub(crate) fn principal() -> Principal {
    Principal::new("customer")
}

fn vault_options(passphrase: &PassphraseSource) -> Result<LocalVaultOptions, CliError> {
    let options = LocalVaultOptions::default();
    Ok(match passphrase.read()? {
        Some(passphrase) => options.passphrase(passphrase),
        None => options,
    })
}
