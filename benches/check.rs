//! What the check costs that every operation makes: may this key still be used, now?
//!
//! In nanoseconds, beside the two things that it can't do without: a count of who holds the key, and a reading of both
//! clocks. "Clock apart" is the same with a clock that costs nothing.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "a benchmark")]

mod paired;

use std::{hint::black_box, sync::Arc, time::Duration};

use async_trait::async_trait;
use cofferdam::crypto::SaltSource;
use cofferdam::{
    crypto::{AccountId, Aek, Epoch, KeyId, KeyScope, Provider, RecordKey, WrappedAek},
    keyring::{KeyHandle, KeyRecord, KeyRecords, Keyring, KeyringParts, LiveKey, Policy, RecordError, Salts},
    vault::{
        Clock, KeyVault, LocalVault, LocalVaultOptions, SystemClock, SystemEntropy, Timestamp, VaultRegistry,
        WrapContext,
    },
};
use futures_util::FutureExt;
use paired::{Bench, Side, Time};
use tokio::runtime::Runtime;

fn account() -> AccountId {
    AccountId::from_bytes([7; 16])
}

/// One account's record.
#[derive(Debug)]
struct Record(WrappedAek);

#[async_trait]
impl KeyRecords for Record {
    async fn service_keys(&self, _: AccountId) -> Result<KeyRecord, RecordError> {
        Ok(KeyRecord::under(None, vec![self.0.clone()]))
    }

    async fn customer_keys(&self, _: AccountId, _: &RecordKey) -> Result<KeyRecord, RecordError> {
        Err(RecordError::NotFound)
    }

    async fn set_revoked(&self, _: AccountId, _: bool) -> Result<(), RecordError> {
        Ok(())
    }

    async fn note_bridge(&self, _: AccountId, _: &KeyId, _: Option<Duration>) -> Result<(), RecordError> {
        Ok(())
    }
}

/// A clock that stands still.
#[derive(Debug)]
struct Still(Timestamp);

impl Clock for Still {
    fn now(&self) -> Timestamp {
        self.0
    }
}

/// The way to an active key.
struct Active {
    handle: KeyHandle,
    key: LiveKey,
    _keyring: Keyring,
}

impl Active {
    async fn new(vault: &LocalVault, record: &WrappedAek, clock: Arc<dyn Clock>) -> Self {
        let keyring = Keyring::new(KeyringParts {
            vaults: VaultRegistry::new(Arc::new(vault.clone())),
            records: Arc::new(Record(record.clone())),
            clock,
            entropy: Arc::new(SystemEntropy),
            policy: Policy::default(),
        });
        let handle = keyring.handle(account(), Provider::Service);
        let key = handle.sealing_key().await.unwrap();
        Self { handle, key, _keyring: keyring }
    }

    fn sealing_key(&self) -> LiveKey {
        self.handle.sealing_key().now_or_never().expect("an active key needs no waiting").unwrap()
    }

    fn still_usable(&self) {
        assert!(black_box(&self.key).still_usable());
    }
}

fn main() {
    let bench = Bench::from_args();
    if !bench.wants("check", "hot-path") {
        return;
    }
    let runtime = Runtime::new().unwrap();
    let (system, still) = runtime.block_on(async {
        let home = tempfile::tempdir().unwrap();
        let options = LocalVaultOptions::new(Arc::new(SystemClock), Arc::new(SystemEntropy));
        let vault = LocalVault::create(home.path().join("vault"), "service", options).await.unwrap();
        let kek = vault.create_key("storage").await.unwrap();
        let scope = KeyScope { account: account(), epoch: Epoch::FIRST, provider: Provider::Service };
        let aek = Aek::try_from_fn(|bytes| {
            bytes.fill(9);
            Ok::<_, ()>(())
        });
        let aek = aek.unwrap();
        let wrap = vault.wrap_key(&kek, &aek, &WrapContext { scope }).await.unwrap();
        let record = WrappedAek::new(&aek, scope, vec![wrap]);
        let still = Arc::new(Still(SystemClock.now()));
        (Active::new(&vault, &record, Arc::new(SystemClock)).await, Active::new(&vault, &record, still).await)
    });
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let shared = Arc::new(0_u64);
    let salts = Salts::new(Arc::new(SystemEntropy), clock.clone());
    let sides = vec![
        Side::new("Arc::clone", |()| drop(black_box(Arc::clone(black_box(&shared))))),
        Side::new("a clock reading", |()| _ = black_box(black_box(&clock).now())),
        Side::new("sealing_key", |()| _ = black_box(system.sealing_key())),
        Side::new("sealing_key, clock apart", |()| _ = black_box(still.sealing_key())),
        Side::new("still_usable", |()| system.still_usable()),
        Side::new("still_usable, clock apart", |()| still.still_usable()),
        Side::new("a salt", |()| salts.fill_salts(black_box(&mut [[0; 32]])).unwrap()),
    ];
    bench.compare(("check", "hot-path", 0), Time::Core, &mut (), sides);
}
