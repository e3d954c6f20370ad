//! Fixtures of the local vault's tests: a clock that stands until it is moved, seeded randomness, a vault in a
//! folder of its own whose passphrase costs next to nothing.

#![allow(dead_code, reason = "each file of tests uses a part")]

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use cofferdam_crypto::{AccountId, Aek, EntropyError, Epoch, KeyScope, Provider};
use cofferdam_vault::{
    Clock, Entropy, Inline, LocalVault, LocalVaultOptions, Passphrase, PassphraseCost, Timestamp, VaultError,
    VaultErrorKind, WrapContext, testing::PublishedRsaKeys,
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tempfile::TempDir;

/// More cases where the figures are to be shown, fewer in everyday runs.
pub(crate) fn scale<T>(everyday: T, full: T) -> T {
    if std::env::var_os("COFFERDAM_FULL").is_some() { full } else { everyday }
}

pub(crate) const START: Duration = Duration::from_secs(1_800_000_000);

/// In memory where there is such a place: tens of thousands of changes would wait for a disk.
fn fast_folder() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() { memory } else { std::env::temp_dir() }
}

#[derive(Debug)]
pub(crate) struct ManualClock(Mutex<Duration>);

impl ManualClock {
    pub(crate) fn advance(&self, by: Duration) {
        *self.0.lock().unwrap() += by;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        let wall = *self.0.lock().unwrap();
        Timestamp { boot: wall - START, wall }
    }
}

#[derive(Debug)]
pub(crate) struct Seeded(Mutex<StdRng>);

impl Entropy for Seeded {
    fn fill(&self, out: &mut [u8]) -> Result<(), EntropyError> {
        self.0.lock().unwrap().fill_bytes(out);
        Ok(())
    }
}

pub(crate) struct Fixture {
    pub(crate) folder: TempDir,
    pub(crate) clock: Arc<ManualClock>,
    entropy: Arc<Seeded>,
    passphrase: Option<&'static str>,
}

impl Fixture {
    pub(crate) fn new(passphrase: Option<&'static str>) -> Self {
        Self {
            folder: tempfile::tempdir_in(fast_folder()).unwrap(),
            clock: Arc::new(ManualClock(Mutex::new(START))),
            entropy: Arc::new(Seeded(Mutex::new(StdRng::seed_from_u64(2)))),
            passphrase,
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("vault.json")
    }

    pub(crate) fn options(&self, passphrase: Option<&str>) -> LocalVaultOptions {
        let options = LocalVaultOptions::new(self.clock.clone(), self.entropy.clone())
            .executor(Arc::new(Inline))
            .rsa_keys(Arc::new(PublishedRsaKeys::default()))
            .cost(PassphraseCost::new(8, 1, 1).unwrap());
        match passphrase {
            None => options,
            Some(text) => options.passphrase(Passphrase::new(text.to_owned()).unwrap()),
        }
    }

    pub(crate) async fn create(&self) -> LocalVault {
        LocalVault::create(self.path(), "acme", self.options(self.passphrase)).await.unwrap()
    }

    pub(crate) async fn open(&self) -> LocalVault {
        LocalVault::open(self.path(), self.options(self.passphrase)).await.unwrap()
    }

    pub(crate) fn files(&self) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(self.folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

pub(crate) fn aek(byte: u8) -> Aek {
    Aek::try_from_fn(|key| -> Result<(), std::convert::Infallible> {
        key.fill(byte);
        Ok(())
    })
    .unwrap()
}

pub(crate) fn context() -> WrapContext {
    let account = AccountId::from_bytes([3; 16]);
    WrapContext { scope: KeyScope { account, epoch: Epoch::FIRST, provider: Provider::Customer } }
}

pub(crate) fn kind<T>(answer: Result<T, VaultError>) -> Option<VaultErrorKind> {
    answer.err().map(|e| e.kind())
}
