//! A world to test the engine in: two local vaults, an embedded store, a clock that tokio's paused time drives.
//!
//! It survives restarts of the engine: everything that matters is in files. The way to the customer's vault can be made
//! slow, or to lead nowhere.

#![allow(dead_code, reason = "no test file uses all of it")]

use std::{
    fmt,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use cofferdam::{
    crypto::{Aek, BlockId, KeyId, WrappedKey},
    keyring::{KeyState, Policy},
    store::{
        Account, AccountKey, AccountName, BlockStore, BufferMode, Catalog, EmbeddedOptions, EmbeddedStore,
        Engine, EngineBuilder, EngineError, EngineErrorKind, FaultyFile, HotCacheSettings, Outcome,
        PutReceipt,
    },
    vault::{
        Clock, Executor, Inline, Job, KeyProperties, KeyVault, LocalVault, LocalVaultOptions, Principal,
        PublicKeyAnswer, Threads, Timestamp, VaultError, VaultErrorKind, VaultRegistry, WrapContext,
        testing::{ManualClock, PublishedRsaKeys, SeededEntropy, TokioClock},
    },
};
use tempfile::TempDir;

/// Longer than any answer of the vault may be out of date: refresh, ceiling and time-out.
pub(crate) const NOTICED: Duration = Duration::from_secs(70);
/// The grace of the default policy.
pub(crate) const GRACE: Duration = Duration::from_secs(30 * 60);
/// How long a call to a vault may take under the default policy.
pub(crate) const TIME_OUT: Duration = Duration::from_secs(5);
/// How long a poll takes at most under the default policy, with the call.
pub(crate) const POLL: Duration = Duration::from_secs(35);

/// The full number with `COFFERDAM_FULL`, else the smaller one.
pub(crate) fn scale(full: usize, sample: usize) -> usize {
    if std::env::var_os("COFFERDAM_FULL").is_some() { full } else { sample }
}

/// How the engine of a world is set up, beyond its parts.
pub(crate) type Settings = fn(EngineBuilder) -> EngineBuilder;

pub(crate) struct World {
    dir: TempDir,
    pub(crate) clock: Arc<TokioClock>,
    entropy: Arc<SeededEntropy>,
    pub(crate) service: LocalVault,
    pub(crate) customer: LocalVault,
    /// Another vault of the customer's, under a principal of its own.
    pub(crate) partner: LocalVault,
    /// The way to the customer's vault.
    pub(crate) way: Arc<Way>,
    pub(crate) kek: KeyId,
    /// What the buffers of new accounts are sealed under.
    pub(crate) mode: BufferMode,
    vaults: VaultRegistry,
    service_kek: KeyId,
    options: EmbeddedOptions,
    executor: Arc<dyn Executor>,
    settings: Settings,
    pub(crate) store: EmbeddedStore,
    pub(crate) engine: Engine,
}

impl World {
    pub(crate) async fn new(seed: u64) -> Self {
        Self::set_up(seed, |builder| builder).await
    }

    pub(crate) async fn set_up(seed: u64, settings: Settings) -> Self {
        // All work is done where it is asked for: paused time would run on while a thread works.
        let options = EmbeddedOptions { executor: Arc::new(Inline), ..EmbeddedOptions::default() };
        Self::of(seed, options, Arc::new(Inline), settings).await
    }

    /// Whose customer's KEK is RSA, and whose buffers are write-only.
    #[cfg(feature = "aws-lc")]
    pub(crate) async fn write_only(seed: u64) -> Self {
        Self::write_only_with(seed, |builder| builder).await
    }

    #[cfg(feature = "aws-lc")]
    pub(crate) async fn write_only_with(seed: u64, settings: Settings) -> Self {
        use cofferdam::{
            crypto::rsa::RsaSize,
            vault::{KeyKind, Recovery},
        };
        let mut world = Self::set_up(seed, settings).await;
        let rsa = KeyKind::Rsa(RsaSize::Rsa2048);
        world.kek = world.customer.create_key_of("rsa", rsa, Recovery::default()).await.unwrap();
        world.mode = BufferMode::WriteOnly;
        world
    }

    /// In each mode of buffers.
    pub(crate) async fn in_mode(mode: BufferMode, seed: u64) -> Self {
        Self::set_up_in(mode, seed, |builder| builder).await
    }

    pub(crate) async fn set_up_in(mode: BufferMode, seed: u64, settings: Settings) -> Self {
        match mode {
            BufferMode::ServiceManaged => Self::set_up(seed, settings).await,
            #[cfg(feature = "aws-lc")]
            BufferMode::WriteOnly => Self::write_only_with(seed, settings).await,
            #[cfg(not(feature = "aws-lc"))]
            BufferMode::WriteOnly => panic!("there is none without aws-lc"),
        }
    }

    /// With an executor for large blocks that can be told to wait.
    pub(crate) async fn held(seed: u64) -> (Self, Arc<Held>) {
        let held = Arc::new(Held::default());
        let options = EmbeddedOptions { executor: Arc::new(Inline), ..EmbeddedOptions::default() };
        (Self::with(seed, options, held.clone()).await, held)
    }

    /// With threads, as in production, for tests whose time is not paused.
    pub(crate) async fn threaded(seed: u64, options: EmbeddedOptions) -> Self {
        Self::with(seed, options, Arc::new(Threads::new(2))).await
    }

    pub(crate) async fn with(seed: u64, options: EmbeddedOptions, executor: Arc<dyn Executor>) -> Self {
        Self::of(seed, options, executor, |builder| builder).await
    }

    async fn of(
        seed: u64,
        options: EmbeddedOptions,
        executor: Arc<dyn Executor>,
        settings: Settings,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (clock, entropy) = (Arc::new(TokioClock::new()), Arc::new(SeededEntropy::new(seed)));
        let vault = async |name: &str| {
            let options = LocalVaultOptions::new(clock.clone(), entropy.clone())
                .executor(Arc::new(Inline))
                .rsa_keys(Arc::new(PublishedRsaKeys::default()));
            LocalVault::create(dir.path().join(format!("{name}.vault")), name, options).await.unwrap()
        };
        let (service, customer) = (vault("service").await, vault("customer").await);
        let partner = vault("partner").await;
        let service_kek = service.create_key("service").await.unwrap();
        let kek = customer.create_key("payroll").await.unwrap();
        let way = Arc::new(Way::to(customer.clone()));
        let store = EmbeddedStore::create(dir.path().join("blocks.store"), options.clone()).unwrap();
        let vaults =
            VaultRegistry::new(Arc::new(service.clone())).with_customer(Self::principal(), way.clone());
        let vaults = vaults.with_customer(Self::partner_principal(), Arc::new(partner.clone()));
        let parts = (vaults.clone(), &service_kek, &entropy, &executor);
        let engine = settings(builder(&store, parts, clock.clone())).open().await.unwrap();
        Self {
            dir,
            clock,
            entropy,
            service,
            customer,
            partner,
            way,
            kek,
            mode: BufferMode::default(),
            vaults,
            service_kek,
            options,
            executor,
            settings,
            store,
            engine,
        }
    }

    /// Another engine over the same store, whose clock stands at the epoch.
    pub(crate) async fn second_engine(&self) -> Engine {
        let clock = Arc::new(ManualClock::new(Timestamp { boot: Duration::ZERO, wall: Duration::ZERO }));
        self.engine_over(&self.store, clock).await
    }

    /// Another engine over the same store, by the same clock.
    pub(crate) async fn twin(&self) -> Engine {
        self.engine_over(&self.store, self.clock.clone()).await
    }

    /// An engine over a store of one's own.
    pub(crate) async fn engine_over<S>(&self, store: &S, clock: Arc<dyn Clock>) -> Engine
    where
        S: BlockStore + Catalog + Clone + 'static,
    {
        let parts = (self.vaults.clone(), &self.service_kek, &self.entropy, &self.executor);
        (self.settings)(builder(store, parts, clock)).open().await.unwrap()
    }

    /// An engine over blocks and a catalog that are two things, by the same clock.
    pub(crate) async fn engine_on(&self, blocks: Arc<dyn BlockStore>, catalog: Arc<dyn Catalog>) -> Engine {
        let builder = Engine::builder_over(blocks, catalog, self.vaults.clone(), self.service_kek.clone());
        let builder = set_up(builder, &self.entropy, &self.executor, self.clock.clone());
        (self.settings)(builder).open().await.unwrap()
    }

    /// Another engine over the same store, by the same clock, with a hot cache before it.
    pub(crate) async fn cached(&self, settings: HotCacheSettings) -> Result<Engine, EngineError> {
        let parts = (self.vaults.clone(), &self.service_kek, &self.entropy, &self.executor);
        let builder = (self.settings)(builder(&self.store, parts, self.clock.clone()));
        builder.hot_cache(settings.executor(self.executor.clone())).open().await
    }

    /// Another engine over the same store, with these settings.
    pub(crate) async fn try_open(&self, settings: Settings) -> Result<Engine, EngineError> {
        let parts = (self.vaults.clone(), &self.service_kek, &self.entropy, &self.executor);
        settings(builder(&self.store, parts, self.clock.clone())).open().await
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn principal() -> Principal {
        Principal::new("customer")
    }

    pub(crate) fn partner_principal() -> Principal {
        Principal::new("partner")
    }

    pub(crate) fn customer_key(&self) -> AccountKey {
        AccountKey::Customer { principal: Self::principal(), kek: self.kek.clone(), buffer: self.mode }
    }

    /// A new account under the customer's key.
    pub(crate) async fn contoso(&self) -> Account {
        self.engine.create_account(&name("contoso"), self.customer_key()).await.unwrap()
    }

    /// The same account, after a restart.
    pub(crate) async fn contoso_again(&self) -> Account {
        self.engine.account(&name("contoso")).await.unwrap()
    }

    /// Takes the customer's vault away until the account's key is unavailable.
    pub(crate) async fn lose_key(&self, account: &Account) {
        self.customer.set_offline(true).await.unwrap();
        tokio::time::sleep(GRACE + NOTICED).await;
        assert_eq!(account.check_key().await.unwrap_err().kind(), EngineErrorKind::Unavailable);
    }

    /// Gives it back, and waits until what was buffered is drained.
    pub(crate) async fn regain_key(&self, account: &Account) {
        self.customer.set_offline(false).await.unwrap();
        tokio::time::sleep(POLL).await;
        let report = account.drain().await.unwrap();
        assert_eq!((report.left, report.blocked), (None, None));
    }

    /// Closes everything and opens it again from its files.
    pub(crate) async fn restart(&mut self) {
        self.engine.close().await.unwrap();
        self.reopen().await;
    }

    /// The same without a word, as a process that was killed: what the engine had in memory is gone.
    pub(crate) async fn crash(&mut self) {
        let elsewhere = EmbeddedStore::create_on(Arc::new(FaultyFile::new()), self.options.clone()).unwrap();
        self.engine = self.engine_over(&elsewhere, self.clock.clone()).await;
        // The last handle is gone: its tasks end without having been told to close.
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        BlockStore::close(&self.store).await.unwrap();
        self.reopen().await;
    }

    /// The store, after it was closed.
    pub(crate) fn reopened_store(&self) -> EmbeddedStore {
        EmbeddedStore::open(self.dir.path().join("blocks.store"), self.options.clone()).unwrap()
    }

    /// Opens what was closed.
    pub(crate) async fn reopen(&mut self) {
        self.store = self.reopened_store();
        self.engine = self.twin().await;
    }
}

type Parts<'a> = (VaultRegistry, &'a KeyId, &'a Arc<SeededEntropy>, &'a Arc<dyn Executor>);

fn builder<S>(
    store: &S,
    (vaults, service_kek, entropy, executor): Parts<'_>,
    clock: Arc<dyn Clock>,
) -> EngineBuilder
where
    S: BlockStore + Catalog + Clone + 'static,
{
    let builder = Engine::builder(Arc::new(store.clone()), vaults, service_kek.clone());
    set_up(builder, entropy, executor, clock)
}

fn set_up(
    builder: EngineBuilder,
    entropy: &Arc<SeededEntropy>,
    executor: &Arc<dyn Executor>,
    clock: Arc<dyn Clock>,
) -> EngineBuilder {
    builder
        .clock(clock)
        .entropy(entropy.clone())
        .policy(Policy::default())
        .executor(executor.clone())
        .max_block_len(1 << 20)
        .in_flight(4 << 20)
}

/// Does jobs where they are asked for, and keeps them back while it is told to.
#[derive(Default)]
pub(crate) struct Held(Mutex<Option<Vec<Job>>>);

impl Held {
    pub(crate) fn hold(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Vec::new());
    }

    /// How many it did that were kept back.
    pub(crate) fn release(&self) -> usize {
        let jobs = self.0.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default();
        let held = jobs.len();
        jobs.into_iter().for_each(|job| job());
        held
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Held")
    }
}

impl Executor for Held {
    fn execute(&self, job: Job) {
        match &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(jobs) => jobs.push(job),
            None => job(),
        }
    }
}

/// What becomes of calls for a segment's key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum OfSegments {
    #[default]
    Pass,
    Hang,
    Deny,
    /// And everything else once there was one.
    DenyAllFromThen,
}

/// What lies between the engine and the customer's vault.
pub(crate) struct Way {
    vault: LocalVault,
    state: Mutex<WayState>,
}

#[derive(Default)]
struct WayState {
    hangs: bool,
    /// So many calls go through before it hangs, or all are denied.
    hangs_after: Option<usize>,
    /// What becomes of calls for a segment's key.
    segments: OfSegments,
    /// Everything is denied.
    denies: bool,
    calls: usize,
}

impl Way {
    fn to(vault: LocalVault) -> Self {
        Self { vault, state: Mutex::default() }
    }

    /// From now on calls get no answer, or get one again.
    pub(crate) fn set_hanging(&self, hangs: bool) {
        let mut state = self.state();
        (state.hangs, state.hangs_after) = (hangs, None);
    }

    /// Hangs after so many more calls.
    pub(crate) fn hang_after(&self, calls: usize) {
        self.state().hangs_after = Some(calls);
    }

    pub(crate) fn treat_segments(&self, segments: OfSegments) {
        let mut state = self.state();
        (state.segments, state.denies) = (segments, false);
    }

    /// How many calls there were.
    pub(crate) fn calls(&self) -> usize {
        self.state().calls
    }

    fn state(&self) -> std::sync::MutexGuard<'_, WayState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn go(&self, of: Option<&WrapContext>) -> Result<(), VaultError> {
        let (hangs, denies) = {
            let mut state = self.state();
            state.calls += 1;
            let over = state.hangs_after == Some(0);
            state.hangs_after = state.hangs_after.map(|left| left.saturating_sub(1));
            let of_segment = of.is_some_and(|of| of.scope.provider.segment().is_some());
            let how = if of_segment { state.segments } else { OfSegments::Pass };
            state.denies |= how == OfSegments::DenyAllFromThen;
            let denies = state.denies || how == OfSegments::Deny;
            (over || state.hangs || how == OfSegments::Hang, denies)
        };
        if hangs {
            std::future::pending::<()>().await;
        }
        if denies {
            return Err(VaultError::new(VaultErrorKind::AccessDenied, "the way was closed"));
        }
        Ok(())
    }
}

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Way")
    }
}

#[async_trait]
impl KeyVault for Way {
    async fn wrap_key(&self, kek: &KeyId, aek: &Aek, of: &WrapContext) -> Result<WrappedKey, VaultError> {
        self.go(Some(of)).await?;
        self.vault.wrap_key(kek, aek, of).await
    }

    async fn unwrap_key(&self, wrapped: &WrappedKey, of: &WrapContext) -> Result<Aek, VaultError> {
        self.go(Some(of)).await?;
        self.vault.unwrap_key(wrapped, of).await
    }

    async fn key_properties(&self, kek: &KeyId) -> Result<KeyProperties, VaultError> {
        self.go(None).await?;
        self.vault.key_properties(kek).await
    }

    async fn public_key(&self, kek: &KeyId) -> Result<PublicKeyAnswer, VaultError> {
        self.go(None).await?;
        self.vault.public_key(kek).await
    }
}

/// The modes that a buffer can be in here.
pub(crate) const MODES: &[BufferMode] = if cfg!(feature = "aws-lc") {
    &[BufferMode::ServiceManaged, BufferMode::WriteOnly]
} else {
    &[BufferMode::ServiceManaged]
};

pub(crate) fn name(text: &str) -> AccountName {
    AccountName::new(text).unwrap()
}

pub(crate) fn id(text: &str) -> BlockId {
    BlockId::new(text).unwrap()
}

pub(crate) fn is_revoked<T: fmt::Debug>(answer: &Result<T, EngineError>) -> bool {
    matches!(answer, Err(EngineError::KeyRevoked { .. }))
}

pub(crate) fn is_unavailable<T: fmt::Debug>(answer: &Result<T, EngineError>) -> bool {
    matches!(answer, Err(EngineError::KeyUnavailable { .. }))
}

/// The receipt of a write that must have been buffered.
pub(crate) fn buffered(answer: Result<PutReceipt, EngineError>) -> PutReceipt {
    let receipt = answer.unwrap();
    assert_eq!(receipt.outcome, Outcome::Buffered);
    receipt
}

/// The receipt of a write that must have been stored.
pub(crate) fn stored(answer: Result<PutReceipt, EngineError>) -> PutReceipt {
    let receipt = answer.unwrap();
    assert_eq!(receipt.outcome, Outcome::Stored);
    receipt
}

pub(crate) async fn key_state(account: &Account) -> KeyState {
    account.key_status().await.unwrap().key.state
}

/// Whether a file of this folder holds these bytes.
pub(crate) fn holds(path: &Path, needle: &[u8]) -> bool {
    std::fs::read_dir(path).unwrap().any(|entry| {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        memchr::memmem::find(&bytes, needle).is_some()
    })
}
