//! A small world: two scripted vaults, records in memory, a clock that follows paused time.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use cofferdam_crypto::{AccountId, Aek, Epoch, KeyId, KeyScope, Provider, RecordKey, RecordTag, WrappedAek};
use cofferdam_keyring::{
    KeyError, KeyRecord, KeyRecords, KeyState, Keyring, KeyringParts, LiveKey, Policy, RecordError,
};
use cofferdam_vault::{
    Entropy, KeyVault, Principal, Reauthenticating, VaultBudget, VaultRegistry, WrapContext,
    testing::{ScriptedCredential, ScriptedVault, SeededEntropy, TokioClock},
};
use tokio::time::{Instant, sleep};

pub const SEED: u64 = 0x0c0f_fe1d;
pub const SECOND: Duration = Duration::from_secs(1);
pub const MS: Duration = Duration::from_millis(1);

/// How many runs: the small number by default, the full one under `COFFERDAM_FULL=1`.
pub fn scale(small: u32, full: u32) -> u32 {
    if std::env::var_os("COFFERDAM_FULL").is_some_and(|value| value == "1") { full } else { small }
}

/// What tags a customer's record; enough to tell the right service AEK from another.
const TAGGED: &[u8] = b"customer record";

/// What a store's own error stands for.
#[derive(Debug, PartialEq)]
pub struct DiskAway;

impl std::fmt::Display for DiskAway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the disk is away")
    }
}

impl std::error::Error for DiskAway {}

type Hook = Box<dyn FnOnce() + Send>;

#[derive(Default)]
pub struct Records {
    service: Mutex<BTreeMap<AccountId, KeyRecord>>,
    customer: Mutex<BTreeMap<AccountId, (KeyRecord, RecordTag)>>,
    pub reads: AtomicUsize,
    pub broken: AtomicBool,
    pub service_broken: AtomicBool,
    pub read_only: AtomicBool,
    pub panics: AtomicBool,
    pub customer_panics: AtomicBool,
    /// Writes never end.
    pub writes_hang: AtomicBool,
    /// How long reading a customer's record takes.
    pub latency_ms: AtomicU64,
    /// What was persisted, in order.
    pub persisted: Mutex<Vec<bool>>,
    /// Called once, while a customer's record is read.
    pub on_read: Mutex<Option<Hook>>,
}

impl std::fmt::Debug for Records {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Records")
    }
}

impl Records {
    fn check(&self, broken: &AtomicBool) -> Result<(), RecordError> {
        if broken.load(Ordering::Relaxed) { Err(RecordError::Storage(Box::new(DiskAway))) } else { Ok(()) }
    }

    pub fn change(&self, account: AccountId, change: impl FnOnce(&mut KeyRecord)) {
        change(&mut self.customer.lock().unwrap().get_mut(&account).unwrap().0);
    }

    pub fn change_service(&self, account: AccountId, change: impl FnOnce(&mut KeyRecord)) {
        change(self.service.lock().unwrap().get_mut(&account).unwrap());
    }

    pub fn forge(&self, account: AccountId) {
        self.customer.lock().unwrap().get_mut(&account).unwrap().1[0] ^= 1;
    }

    pub fn delete(&self, account: AccountId) {
        self.customer.lock().unwrap().remove(&account);
        self.service.lock().unwrap().remove(&account);
    }

    pub fn is_revoked(&self, account: AccountId) -> bool {
        self.customer.lock().unwrap()[&account].0.revoked
    }
}

#[async_trait]
impl KeyRecords for Records {
    async fn service_keys(&self, account: AccountId) -> Result<KeyRecord, RecordError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        assert!(!self.panics.load(Ordering::Relaxed), "the script says so");
        self.check(&self.broken)?;
        self.check(&self.service_broken)?;
        self.service.lock().unwrap().get(&account).cloned().ok_or(RecordError::NotFound)
    }

    async fn customer_keys(&self, account: AccountId, service: &RecordKey) -> Result<KeyRecord, RecordError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        assert!(!self.customer_panics.load(Ordering::Relaxed), "the script says so");
        let hook = self.on_read.lock().unwrap().take();
        hook.into_iter().for_each(|hook| hook());
        match self.latency_ms.load(Ordering::Relaxed) {
            0 => {}
            ms => sleep(Duration::from_millis(ms)).await,
        }
        self.check(&self.broken)?;
        let (record, tag) =
            self.customer.lock().unwrap().get(&account).cloned().ok_or(RecordError::NotFound)?;
        if service.verify(TAGGED, &tag) { Ok(record) } else { Err(RecordError::Tampered("its tag".into())) }
    }

    async fn set_revoked(&self, account: AccountId, revoked: bool) -> Result<(), RecordError> {
        self.check(&self.broken)?;
        self.check(&self.read_only)?;
        if self.writes_hang.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        self.persisted.lock().unwrap().push(revoked);
        let mut customer = self.customer.lock().unwrap();
        customer.get_mut(&account).ok_or(RecordError::NotFound)?.0.revoked = revoked;
        Ok(())
    }
}

pub struct World {
    pub service: Arc<ScriptedVault>,
    pub customer: Arc<ScriptedVault>,
    pub records: Arc<Records>,
    pub clock: Arc<TokioClock>,
    pub policy: Policy,
    pub keyring: Keyring,
    /// What the customer's vault is asked with, where its client authenticates once more.
    pub credential: Option<Arc<ScriptedCredential>>,
    pub budget: VaultBudget,
    entropy: Arc<SeededEntropy>,
}

pub fn kek(version: u32) -> KeyId {
    KeyId::new(format!("test://customer/keys/payroll/{version}")).unwrap()
}

fn service_kek() -> KeyId {
    KeyId::new("test://service/keys/accounts/1").unwrap()
}

impl World {
    pub fn new() -> Self {
        Self::with(Policy::default())
    }

    /// One whose client of the customer's vault authenticates once more before it believes a denial.
    pub fn reauthenticating() -> Self {
        let mut world = Self::new();
        let credential = Arc::new(ScriptedCredential::new(world.clock.clone()));
        world.customer.set_credential(credential.clone());
        world.credential = Some(credential);
        world.restart();
        world
    }

    pub fn with(policy: Policy) -> Self {
        Self::budgeted(policy, VaultBudget::default())
    }

    /// One whose vaults may each be called so often.
    pub fn budgeted(policy: Policy, budget: VaultBudget) -> Self {
        let (service, customer) =
            (Arc::new(ScriptedVault::new(SEED)), Arc::new(ScriptedVault::new(SEED + 1)));
        service.create_key(&service_kek()).unwrap();
        (1..=3).for_each(|version| customer.create_key(&kek(version)).unwrap());
        let records = Arc::new(Records::default());
        let clock = Arc::new(TokioClock::new());
        let entropy = Arc::new(SeededEntropy::new(SEED + 2));
        let keyring = keyring(&service, customer.clone(), &records, &clock, &entropy, &policy, budget);
        Self { service, customer, records, clock, policy, keyring, credential: None, budget, entropy }
    }

    /// One whose customers `tenant` and `another` share a vault.
    pub fn shared(budget: VaultBudget) -> Self {
        let mut world = Self::budgeted(Policy::default(), budget);
        let customer: Arc<dyn KeyVault> = world.customer.clone();
        let vaults = VaultRegistry::new(world.service.clone())
            .with_customer(Principal::new("tenant"), customer.clone())
            .with_customer(Principal::new("another"), customer.clone())
            .with_budget(&customer, budget);
        world.keyring = Keyring::new(KeyringParts {
            vaults,
            records: world.records.clone(),
            clock: world.clock.clone(),
            entropy: world.entropy.clone(),
            policy: world.policy.clone(),
        });
        world
    }

    /// The process starts anew: what is persisted stays.
    pub fn restart(&mut self) {
        let (customer, clock) = (self.customer.clone(), self.clock.clone());
        let customer: Arc<dyn KeyVault> = match self.credential.clone() {
            Some(credential) => Arc::new(Reauthenticating::new(customer, credential, clock)),
            None => customer,
        };
        let (s, r) = (&self.service, &self.records);
        self.keyring = keyring(s, customer, r, &self.clock, &self.entropy, &self.policy, self.budget);
    }

    /// A new account with this many epochs under the first KEK.
    pub async fn account(&self, epochs: u32) -> AccountId {
        let mut bytes = [0; 16];
        self.entropy.fill(&mut bytes).unwrap();
        let account = AccountId::from_random_bytes(bytes);

        let scope = KeyScope { account, epoch: Epoch::FIRST, provider: Provider::Service };
        let aek = self.aek();
        let wrap = self.service.wrap_key(&service_kek(), &aek, &WrapContext { scope }).await.unwrap();
        let record = KeyRecord {
            principal: None,
            epochs: vec![WrappedAek::new(&aek, scope, vec![wrap])],
            revoked: false,
        };
        self.records.service.lock().unwrap().insert(account, record);
        let tag = RecordKey::derive(&aek, &scope).tag(TAGGED);

        let record =
            KeyRecord { principal: Some(Principal::new("tenant")), epochs: Vec::new(), revoked: false };
        self.records.customer.lock().unwrap().insert(account, (record, tag));
        for epoch in 1..=epochs {
            self.add_epoch(account, epoch).await;
        }
        account
    }

    pub async fn add_epoch(&self, account: AccountId, epoch: u32) {
        let scope = KeyScope { account, epoch: Epoch::new(epoch), provider: Provider::Customer };
        let aek = self.aek();
        let wrap = self.customer.wrap_key(&kek(1), &aek, &WrapContext { scope }).await.unwrap();
        self.records.change(account, |record| record.epochs.push(WrappedAek::new(&aek, scope, vec![wrap])));
    }

    /// Another node wraps every epoch by another version of the KEK.
    pub async fn rewrap(&self, account: AccountId, version: u32) {
        let mut epochs = self.records.customer.lock().unwrap()[&account].0.epochs.clone();
        for of in &mut epochs {
            let context = WrapContext { scope: of.scope };
            let aek = self.customer.unwrap_key(&of.wraps[0], &context).await.unwrap();
            of.wraps = vec![self.customer.wrap_key(&kek(version), &aek, &context).await.unwrap()];
        }
        self.records.change(account, |record| record.epochs = epochs);
    }

    /// The vaults forget what they were asked: their lists are not what is measured.
    pub fn forget_calls(&self) {
        self.service.forget_calls();
        self.customer.forget_calls();
    }

    fn aek(&self) -> Aek {
        Aek::try_from_fn(|bytes| self.entropy.fill(bytes)).unwrap()
    }

    pub async fn key(&self, account: AccountId) -> Result<LiveKey, KeyError> {
        self.keyring.sealing_key(account, Provider::Customer).await
    }

    pub fn state(&self, account: AccountId) -> KeyState {
        self.keyring.status(account, Provider::Customer).state
    }

    /// Uses the key every `step` for `time`. Returns how many uses failed, and the longest wait.
    pub async fn use_for(&self, account: AccountId, time: Duration, step: Duration) -> (usize, Duration) {
        let end = Instant::now() + time;
        let (mut failed, mut longest) = (0, Duration::ZERO);
        while Instant::now() < end {
            let asked = Instant::now();
            failed += usize::from(self.key(account).await.is_err());
            longest = longest.max(asked.elapsed());
            sleep(step).await;
        }
        (failed, longest)
    }
}

fn keyring(
    service: &Arc<ScriptedVault>,
    customer: Arc<dyn KeyVault>,
    records: &Arc<Records>,
    clock: &Arc<TokioClock>,
    entropy: &Arc<SeededEntropy>,
    policy: &Policy,
    budget: VaultBudget,
) -> Keyring {
    let service: Arc<dyn KeyVault> = service.clone();
    Keyring::new(KeyringParts {
        vaults: VaultRegistry::new(service.clone())
            .with_customer(Principal::new("tenant"), customer.clone())
            .with_budget(&service, budget)
            .with_budget(&customer, budget),
        records: records.clone(),
        clock: clock.clone(),
        entropy: entropy.clone(),
        policy: policy.clone(),
    })
}
