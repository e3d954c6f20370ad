//! Two vaults and a store of records whose answers are drawn.

use std::{
    fmt,
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use cofferdam_crypto::{
    AccountId, Aek, Epoch, KeyId, KeyScope, Provider, RecordKey, WrapAlgorithm, WrappedAek, WrappedKey,
};
use cofferdam_keyring::{
    KeyRecord, KeyRecords, RecordError,
    rt::{point, time},
};
use cofferdam_vault::{
    KeyProperties, KeyVault, Principal, PublicKeyAnswer, VaultError, VaultErrorKind as Kind, WrapContext,
};
use shuttle::{future, rand::RngCore};

use crate::judge::Judge;

pub const ACCOUNTS: usize = 2;
pub const EPOCHS: u32 = 2;
const PROVIDERS: [Provider; 2] = [Provider::Customer, Provider::Service];

/// A number below `bound`; part of the schedule.
pub fn draw(bound: u64) -> u64 {
    shuttle::rand::thread_rng().next_u64() % bound
}

pub fn account(number: usize) -> AccountId {
    AccountId::from_random_bytes([number as u8; 16])
}

pub fn tenant() -> Principal {
    Principal::new("tenant")
}

/// The records, made once: they are the same in every schedule.
static RECORDS: LazyLock<Vec<[KeyRecord; 2]>> =
    LazyLock::new(|| (0..ACCOUNTS).map(|number| PROVIDERS.map(|of| record(number, of))).collect());

fn record(number: usize, provider: Provider) -> KeyRecord {
    let epochs = match provider {
        Provider::Service => 1,
        Provider::Customer | Provider::Buffer(_) => EPOCHS,
    };
    let mut before: Option<RecordKey> = None;
    let wrapped = |epoch| {
        let scope = KeyScope { account: account(number), epoch: Epoch::new(epoch), provider };
        let mut bytes = vec![0; 40];
        bytes[..3].copy_from_slice(&[number as u8, provider.code(), epoch as u8]);
        let key_id = KeyId::new(format!("test://{provider}/keys/{number}/1")).unwrap();
        let aek = unwrapped(&bytes);
        let wrap = WrappedKey { key_id, algorithm: WrapAlgorithm::Aes256Kw, bytes };
        let of = WrappedAek::new(&aek, scope, vec![wrap]);
        let previous = before.replace(RecordKey::derive(&aek, &scope));
        previous.iter().fold(of, |of, previous| of.following(previous))
    };
    KeyRecord::under((provider == Provider::Customer).then(tenant), (1..=epochs).map(wrapped).collect())
}

/// What the vaults make of a wrapped key.
fn unwrapped(wrapped: &[u8]) -> Aek {
    let fill = |bytes: &mut [u8; Aek::LEN]| -> Result<(), fmt::Error> {
        bytes.copy_from_slice(&wrapped[..Aek::LEN]);
        Ok(())
    };
    Aek::try_from_fn(fill).unwrap()
}

/// Its locks are std's: they are held within one step.
pub struct Vault {
    pub judge: Arc<Judge>,
    denials: [Mutex<Option<Kind>>; ACCOUNTS],
    /// In how many of 100 calls it fails as in an outage.
    outages: AtomicU64,
    /// Some calls never end.
    hangs: AtomicBool,
}

impl Vault {
    pub fn new(judge: Arc<Judge>, outages: u64, hangs: bool) -> Self {
        Self { judge, denials: Default::default(), outages: outages.into(), hangs: hangs.into() }
    }

    /// From now on, every call is answered, and with the key.
    pub fn recover(&self) {
        self.denials.iter().for_each(|denial| *denial.lock().unwrap() = None);
        self.outages.store(0, Ordering::Relaxed);
        self.hangs.store(false, Ordering::Relaxed);
    }

    /// From now on, the customer of this account denies its key, or no longer does.
    pub fn deny(&self, number: usize, kind: Option<Kind>) {
        *self.denials[number].lock().unwrap() = kind;
    }

    fn denial(&self, context: &WrapContext) -> Option<Kind> {
        let number = (0..ACCOUNTS).find(|&number| account(number) == context.scope.account)?;
        let denied = *self.denials[number].lock().unwrap();
        denied.filter(|_| context.scope.provider == Provider::Customer)
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Vault")
    }
}

/// Takes a time that is drawn.
async fn take_time(hangs: bool) {
    match draw(8) {
        0..=3 => point(),
        4 | 5 => future::yield_now().await,
        6 => time::sleep(Duration::from_millis(50 * (1 + draw(4)))).await,
        _ if hangs => time::sleep(Duration::from_secs(3_600)).await,
        _ => {}
    }
}

#[async_trait]
impl KeyVault for Vault {
    async fn wrap_key(&self, _: &KeyId, _: &Aek, _: &WrapContext) -> Result<WrappedKey, VaultError> {
        Err(VaultError::new(Kind::Other, "nothing is wrapped here"))
    }

    async fn unwrap_key(&self, wrapped: &WrappedKey, context: &WrapContext) -> Result<Aek, VaultError> {
        let call = self.judge.begin_call(&context.scope);
        take_time(self.hangs.load(Ordering::Relaxed)).await;
        let denial = self.denial(context);
        let fails = draw(100) < self.outages.load(Ordering::Relaxed);
        take_time(false).await;
        if let Some(kind) = denial {
            call.denied();
            return Err(VaultError::new(kind, "the customer says so"));
        }
        if fails {
            return Err(VaultError::new(Kind::Unavailable, "drawn"));
        }
        call.unwrapped();
        Ok(unwrapped(&wrapped.bytes))
    }

    async fn key_properties(&self, _: &KeyId) -> Result<KeyProperties, VaultError> {
        Err(VaultError::new(Kind::Other, "nothing is told here"))
    }

    async fn public_key(&self, key_id: &KeyId) -> Result<PublicKeyAnswer, VaultError> {
        Err(VaultError::not_rsa(key_id))
    }
}

pub struct Records {
    judge: Arc<Judge>,
    revoked: Mutex<[bool; ACCOUNTS]>,
    /// In how many of 100 calls a write fails.
    failures: AtomicU64,
}

impl Records {
    pub fn new(judge: Arc<Judge>, failures: u64) -> Self {
        Self { judge, revoked: Default::default(), failures: failures.into() }
    }

    /// From now on, every write succeeds.
    pub fn recover(&self) {
        self.failures.store(0, Ordering::Relaxed);
    }
}

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Records")
    }
}

fn number(asked: AccountId) -> Result<usize, RecordError> {
    (0..ACCOUNTS).find(|&number| account(number) == asked).ok_or(RecordError::NotFound)
}

fn stored(number: usize, provider: Provider) -> KeyRecord {
    let of = PROVIDERS.iter().position(|other| *other == provider).unwrap();
    RECORDS[number][of].clone()
}

#[async_trait]
impl KeyRecords for Records {
    async fn service_keys(&self, asked: AccountId) -> Result<KeyRecord, RecordError> {
        let number = number(asked)?;
        self.judge.read_record((asked, Provider::Service));
        point();
        Ok(stored(number, Provider::Service))
    }

    async fn customer_keys(&self, asked: AccountId, _: &RecordKey) -> Result<KeyRecord, RecordError> {
        let number = number(asked)?;
        self.judge.read_record((asked, Provider::Customer));
        take_time(false).await;
        let revoked = self.revoked.lock().unwrap()[number];
        point();
        Ok(KeyRecord { revoked, ..stored(number, Provider::Customer) })
    }

    async fn set_revoked(&self, asked: AccountId, revoked: bool) -> Result<(), RecordError> {
        let number = number(asked)?;
        take_time(false).await;
        if draw(100) < self.failures.load(Ordering::Relaxed) {
            return Err(RecordError::Storage("drawn".into()));
        }
        self.judge.persist(asked, revoked);
        self.revoked.lock().unwrap()[number] = revoked;
        take_time(false).await;
        Ok(())
    }

    async fn note_bridge(&self, _: AccountId, _: &KeyId, _: Option<Duration>) -> Result<(), RecordError> {
        Err(RecordError::Storage("an account of one KEK has no bridge".into()))
    }
}
