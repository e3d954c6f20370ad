//! A small world: scripted vaults, records in memory, a clock that follows paused time.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use cofferdam_crypto::{
    AccountId, Aek, Epoch, KeyId, KeyScope, Provider, RecordKey, RecordTag, WrappedAek, WrappedKey,
};
use cofferdam_keyring::{
    Kek, KeyError, KeyRecord, KeyRecords, KeyState, Keyring, KeyringParts, LiveKey, Policy, RecordError,
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
    /// Every [`KeyRecords::note_bridge`] that was done, in order.
    pub bridges: Mutex<Vec<(KeyId, Option<Duration>)>>,
    /// That a KEK is bridged can't be written.
    pub bridges_broken: AtomicBool,
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

    async fn note_bridge(
        &self,
        account: AccountId,
        kek: &KeyId,
        since: Option<Duration>,
    ) -> Result<(), RecordError> {
        self.check(&self.broken)?;
        self.check(&self.read_only)?;
        self.check(&self.bridges_broken)?;
        if self.writes_hang.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        self.bridges.lock().unwrap().push((kek.clone(), since));
        self.change(account, |record| {
            for of in record.keks.iter_mut().filter(|of| of.key_id == *kek) {
                of.bridged_since = since.map(|since| of.bridged_since.unwrap_or(since).min(since));
            }
        });
        Ok(())
    }
}

pub struct World {
    pub service: Arc<ScriptedVault>,
    pub customer: Arc<ScriptedVault>,
    /// The vaults of the customer's other principals, where there are any.
    pub others: Vec<Arc<ScriptedVault>>,
    pub records: Arc<Records>,
    pub clock: Arc<TokioClock>,
    pub policy: Policy,
    pub keyring: Keyring,
    /// What the customer's vault is asked with, where its client authenticates once more.
    pub credential: Option<Arc<ScriptedCredential>>,
    pub budget: VaultBudget,
    entropy: Arc<SeededEntropy>,
    /// Every customer's AEK, by account and epoch.
    aeks: Mutex<BTreeMap<(AccountId, u32), [u8; Aek::LEN]>>,
}

/// A KEK in the vault of this number; the first is `customer`.
pub fn kek_in(vault: usize, version: u32) -> KeyId {
    match vault {
        0 => kek(version),
        _ => KeyId::new(format!("test://customer-{vault}/keys/payroll/{version}")).unwrap(),
    }
}

pub fn principal(vault: usize) -> Principal {
    match vault {
        0 => Principal::new("tenant"),
        _ => Principal::new(format!("tenant-{vault}")),
    }
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
        Self::several(1, policy, budget)
    }

    /// One whose customer has this many vaults, each with a principal of its own.
    pub fn several(vaults: usize, policy: Policy, budget: VaultBudget) -> Self {
        let (service, customer) =
            (Arc::new(ScriptedVault::new(SEED)), Arc::new(ScriptedVault::new(SEED + 1)));
        service.create_key(&service_kek()).unwrap();
        (1..=3).for_each(|version| customer.create_key(&kek(version)).unwrap());
        let records = Arc::new(Records::default());
        let clock = Arc::new(TokioClock::new());
        let entropy = Arc::new(SeededEntropy::new(SEED + 2));
        let others: Vec<_> = (1..vaults)
            .map(|vault| {
                let other = ScriptedVault::new(SEED + 10 + vault as u64);
                (1..=3).for_each(|version| other.create_key(&kek_in(vault, version)).unwrap());
                Arc::new(other)
            })
            .collect();
        let keyring =
            keyring(&service, customer.clone(), &others, &records, &clock, &entropy, &policy, budget);
        let (credential, aeks) = (None, Mutex::default());
        Self { service, customer, others, records, clock, policy, keyring, credential, budget, entropy, aeks }
    }

    pub fn vault(&self, number: usize) -> &Arc<ScriptedVault> {
        number.checked_sub(1).map_or(&self.customer, |other| &self.others[other])
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
        let (s, o, r) = (&self.service, &self.others, &self.records);
        self.keyring = keyring(s, customer, o, r, &self.clock, &self.entropy, &self.policy, self.budget);
    }

    /// A new account with this many epochs under the first KEK.
    pub async fn account(&self, epochs: u32) -> AccountId {
        let mut bytes = [0; 16];
        self.entropy.fill(&mut bytes).unwrap();
        let account = AccountId::from_random_bytes(bytes);

        let scope = KeyScope { account, epoch: Epoch::FIRST, provider: Provider::Service };
        let aek = self.aek();
        let wrap = self.service.wrap_key(&service_kek(), &aek, &WrapContext { scope }).await.unwrap();
        let record = KeyRecord::under(None, vec![WrappedAek::new(&aek, scope, vec![wrap])]);
        self.records.service.lock().unwrap().insert(account, record);
        let tag = RecordKey::derive(&aek, &scope).tag(TAGGED);

        let keks = vec![Kek { principal: Some(principal(0)), key_id: kek(1), bridged_since: None }];
        let record = KeyRecord { keks, epochs: Vec::new(), revoked: false };
        self.records.customer.lock().unwrap().insert(account, (record, tag));
        for epoch in 1..=epochs {
            self.add_epoch(account, epoch).await;
        }
        account
    }

    pub async fn add_epoch(&self, account: AccountId, epoch: u32) {
        let scope = KeyScope { account, epoch: Epoch::new(epoch), provider: Provider::Customer };
        let mut bytes = [0; Aek::LEN];
        self.entropy.fill(&mut bytes).unwrap();
        self.aeks.lock().unwrap().insert((account, epoch), bytes);
        let (aek, keks) = (aek_of(&bytes), self.keks(account));
        let of = WrappedAek::new(&aek, scope, self.wrap(&keks, &aek, scope).await);
        let last = self.records.customer.lock().unwrap()[&account].0.epochs.last().map(|last| last.scope);
        let of = match last {
            Some(last) => of.following(&self.record_key(last)),
            None => of,
        };
        self.records.change(account, |record| record.epochs.push(of));
    }

    /// The record key of a customer's AEK.
    pub fn record_key(&self, scope: KeyScope) -> RecordKey {
        let bytes = self.aeks.lock().unwrap()[&(scope.account, scope.epoch.number())];
        RecordKey::derive(&aek_of(&bytes), &scope)
    }

    pub fn keks(&self, account: AccountId) -> Vec<Kek> {
        self.records.customer.lock().unwrap()[&account].0.keks.clone()
    }

    /// The wraps of an AEK by these KEKs.
    pub async fn wrap(&self, keks: &[Kek], aek: &Aek, scope: KeyScope) -> Vec<WrappedKey> {
        let mut wraps = Vec::new();
        for kek in keks {
            let number = (0..=self.others.len()).find(|&number| kek.principal == Some(principal(number)));
            let vault = self.vault(number.unwrap_or(0));
            wraps.push(vault.wrap_key(&kek.key_id, aek, &WrapContext { scope }).await.unwrap());
        }
        wraps
    }

    /// Another node wraps every epoch by another version of the KEK.
    pub async fn rewrap(&self, account: AccountId, version: u32) {
        self.wrap_under(account, &[(0, version)]).await;
    }

    /// Another node wraps every epoch by these KEKs: each a vault's number and a version. What is known of a KEK that
    /// stays is kept.
    pub async fn wrap_under(&self, account: AccountId, keks: &[(usize, u32)]) {
        let known = self.keks(account);
        let kek = |&(vault, version)| {
            let key_id = kek_in(vault, version);
            let is_known = known.iter().find(|kek| kek.key_id == key_id).cloned();
            is_known.unwrap_or(Kek { principal: Some(principal(vault)), key_id, bridged_since: None })
        };
        let keks: Vec<Kek> = keks.iter().map(kek).collect();
        let mut epochs = self.records.customer.lock().unwrap()[&account].0.epochs.clone();
        for of in &mut epochs {
            let bytes = self.aeks.lock().unwrap()[&(account, of.scope.epoch.number())];
            of.wraps = self.wrap(&keks, &aek_of(&bytes), of.scope).await;
        }
        self.records.change(account, |record| (record.keks, record.epochs) = (keks, epochs));
    }

    /// The vaults forget what they were asked: their lists are not what is measured.
    pub fn forget_calls(&self) {
        self.service.forget_calls();
        self.customer.forget_calls();
        self.others.iter().for_each(|other| other.forget_calls());
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

fn aek_of(bytes: &[u8; Aek::LEN]) -> Aek {
    Aek::try_from_fn(|aek| {
        aek.copy_from_slice(bytes);
        Ok::<_, std::convert::Infallible>(())
    })
    .unwrap()
}

#[allow(clippy::too_many_arguments, reason = "what a world is made of")]
fn keyring(
    service: &Arc<ScriptedVault>,
    customer: Arc<dyn KeyVault>,
    others: &[Arc<ScriptedVault>],
    records: &Arc<Records>,
    clock: &Arc<TokioClock>,
    entropy: &Arc<SeededEntropy>,
    policy: &Policy,
    budget: VaultBudget,
) -> Keyring {
    let service: Arc<dyn KeyVault> = service.clone();
    let mut vaults = VaultRegistry::new(service.clone())
        .with_customer(principal(0), customer.clone())
        .with_budget(&service, budget)
        .with_budget(&customer, budget);
    for (number, other) in others.iter().enumerate() {
        let other: Arc<dyn KeyVault> = other.clone();
        vaults = vaults.with_customer(principal(number + 1), other.clone()).with_budget(&other, budget);
    }
    Keyring::new(KeyringParts {
        vaults,
        records: records.clone(),
        clock: clock.clone(),
        entropy: entropy.clone(),
        policy: policy.clone(),
    })
}
