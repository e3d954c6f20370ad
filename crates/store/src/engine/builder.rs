//! Setting up an engine.

use std::{
    collections::BTreeMap,
    sync::{Arc, RwLock, atomic::AtomicBool},
    thread,
    time::Duration,
};

use cofferdam_crypto::planted::{Bug, is_planted};
use cofferdam_crypto::{KeyId, PageSize, sealed_len};
use cofferdam_keyring::{Keyring, KeyringParts, Policy};
use cofferdam_vault::{Clock, Entropy, Executor, SystemClock, SystemEntropy, Threads, VaultRegistry};

use super::archives::{Claims, Ledger};
use super::{
    Admission, Engine, EngineError, Fences, Gates, Handle, Inner, Nodes, OperationRows, Records, Runner,
    Tending, buffer::BufferSettings, drains::Drains, pace::Pace, segments::Segments, telemetry,
    versions::Versions, written::Written,
};
#[cfg(feature = "hot-cache")]
use crate::hot::HotCache;
use crate::{BlockStore, Catalog, ReceiptKey};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// The settings of an engine.
#[derive(Debug)]
#[must_use = "nothing is opened before `open`"]
pub struct EngineBuilder {
    blocks: Arc<dyn BlockStore>,
    catalog: Arc<dyn Catalog>,
    vaults: VaultRegistry,
    service_kek: KeyId,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    executor: Arc<dyn Executor>,
    policy: Policy,
    page_size: PageSize,
    max_block_len: u64,
    in_flight: usize,
    buffer: BufferSettings,
    shared: Option<bool>,
    retention: Duration,
    cryptoperiod: Option<Duration>,
    cryptoperiod_bytes: Option<u64>,
    receipt_key: Option<ReceiptKey>,
    #[cfg(feature = "hot-cache")]
    hot: Option<crate::HotCacheSettings>,
}

impl EngineBuilder {
    pub(super) fn new(
        blocks: Arc<dyn BlockStore>,
        catalog: Arc<dyn Catalog>,
        vaults: VaultRegistry,
        service_kek: KeyId,
    ) -> Self {
        Self {
            blocks,
            catalog,
            vaults,
            service_kek,
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SystemEntropy),
            executor: Arc::new(Threads::new(thread::available_parallelism().map_or(2, usize::from))),
            policy: Policy::default(),
            page_size: PageSize::DEFAULT,
            max_block_len: 64 << 20,
            in_flight: 64 << 20,
            buffer: BufferSettings::default(),
            shared: None,
            retention: 14 * DAY,
            cryptoperiod: Some(365 * DAY),
            cryptoperiod_bytes: None,
            receipt_key: None,
            #[cfg(feature = "hot-cache")]
            hot: None,
        }
    }

    /// When keys are renewed and how long they outlive their vault.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// The page size of new blocks: what a range read opens at the least. 64 KiB unless set.
    pub fn page_size(mut self, page_size: PageSize) -> Self {
        self.page_size = page_size;
        self
    }

    /// The most bytes of a block. 64 MiB unless set.
    pub fn max_block_len(mut self, bytes: u64) -> Self {
        self.max_block_len = bytes;
        self
    }

    /// How many bytes of writes may be under way at once; more wait. One account takes at most a half, and a batch
    /// at most all of it. 64 MiB unless set.
    pub fn in_flight(mut self, bytes: usize) -> Self {
        self.in_flight = bytes;
        self
    }

    /// How long an account's buffer takes writes while the account's key is unavailable, counted from the first one in
    /// it. 6 h unless set, at most 48 h; zero turns buffering off. What was taken is kept until it is drained.
    pub fn buffer_time(mut self, time: Duration) -> Self {
        self.buffer.max_time = time;
        self
    }

    /// The most sealed bytes of an account's buffer. 1 GiB unless set, at least 4096.
    pub fn buffer_bytes(mut self, bytes: u64) -> Self {
        self.buffer.max_bytes = bytes;
        self
    }

    /// How long a revocation must have been observed before what was buffered for the account is discarded. 14 days
    /// unless set, 1 minute to 10 years.
    pub fn revoked_retention(mut self, time: Duration) -> Self {
        self.buffer.revoked_retention = time;
        self
    }

    /// Whether other engines use the same catalog at the same time, so that they tell each other what they change. As the
    /// catalog says unless set: the embedded store is one process's, and so one engine's unless that opens several.
    pub fn shared(mut self, shared: bool) -> Self {
        self.shared = Some(shared);
        self
    }

    /// For how long a deleted account can be recovered before it is destroyed. 14 days unless set, up to 10 years.
    pub fn deleted_retention(mut self, time: Duration) -> Self {
        self.retention = time;
        self
    }

    /// For how long an account's new blocks are sealed under one epoch (the cryptoperiod, NIST SP 800-57) before the engine starts
    /// another by itself; `None`: for ever. One year unless set, at least an hour. Looked at every hour.
    pub fn cryptoperiod(mut self, time: Option<Duration>) -> Self {
        self.cryptoperiod = time;
        self
    }

    /// How many bytes of an account are sealed under one epoch before the engine starts another by itself. No limit unless
    /// set: every block has a key of its own, so the cipher asks for none.
    pub fn cryptoperiod_bytes(mut self, bytes: Option<u64>) -> Self {
        self.cryptoperiod_bytes = bytes;
        self
    }

    /// Signs receipts that a version of a KEK may be disabled. None unless set: then there are no receipts.
    pub fn receipt_key(mut self, key: ReceiptKey) -> Self {
        self.receipt_key = Some(key);
        self
    }

    /// Keeps what is stored and read of late in memory, and on a local disk where the settings say so. None unless set.
    #[cfg(feature = "hot-cache")]
    pub fn hot_cache(mut self, settings: crate::HotCacheSettings) -> Self {
        self.hot = Some(settings);
        self
    }

    /// How long one key of a write-only buffer is written under: what was written under an earlier one can't be read
    /// before the customer's vault unwraps it. Each takes one call to the vault when it is drained. 5 minutes unless
    /// set, 10 s to 1 h.
    pub fn segment_time(mut self, time: Duration) -> Self {
        self.buffer.segment_time = time;
        self
    }

    /// Another clock than the machine's, for tests.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Another source of randomness than the operating system's, for tests.
    pub fn entropy(mut self, entropy: Arc<dyn Entropy>) -> Self {
        self.entropy = entropy;
        self
    }

    /// Where large blocks are sealed and opened. On a thread of its own for each core unless set.
    pub fn executor(mut self, executor: Arc<dyn Executor>) -> Self {
        self.executor = executor;
        self
    }

    /// Opens the engine, on a tokio runtime. Asks no vault anything: what an earlier process buffered is looked up, and
    /// drained, in the background.
    ///
    /// # Errors
    /// [`EngineError::BadSetting`]; [`EngineError::BlockTooLarge`] when the largest block is larger than a sealed block can be;
    /// [`EngineError::Store`], also when the folder of a hot cache is in use or not one.
    pub async fn open(self) -> Result<Engine, EngineError> {
        let largest = sealed_len(self.max_block_len, self.page_size).map_err(|_| {
            EngineError::BlockTooLarge { len: self.max_block_len, max: cofferdam_crypto::MAX_PLAINTEXT_LEN }
        })?;
        self.buffer.check()?;
        check_times(self.retention, self.cryptoperiod)?;
        telemetry::describe();
        let last_version = self.blocks.last_version().await?;
        // A block of the largest kind goes alone where it is larger than the allowance.
        let max_batch_len = self.in_flight.max(usize::try_from(largest).unwrap_or(usize::MAX));
        let (catalog, clock) = (self.catalog, self.clock.clone());
        let shared = self.shared.unwrap_or_else(|| catalog.is_shared());
        let every = self.policy.refresh();
        let nodes = Nodes::new(catalog.clone(), clock.clone(), &*self.entropy, shared, every)?;
        nodes.join().await?;
        let records = Arc::new(Records::new(catalog.clone(), clock.clone()));
        let keyring = Keyring::new(KeyringParts {
            vaults: self.vaults.clone(),
            records: records.clone(),
            clock: self.clock.clone(),
            entropy: self.entropy.clone(),
            policy: self.policy.clone(),
        });
        let admission = Admission::new(self.in_flight);
        #[cfg(feature = "hot-cache")]
        let (blocks, hot) = match &self.hot {
            None => (self.blocks, None),
            Some(settings) => {
                // First, to miss nothing.
                let events = keyring.subscribe();
                let (clock, standing) = (self.clock.clone(), records.clone());
                let hot = HotCache::open(self.blocks, settings, clock, &*self.entropy, &*standing).await?;
                hot.watch(standing, events).await;
                (hot.clone() as Arc<dyn BlockStore>, Some(hot))
            }
        };
        #[cfg(not(feature = "hot-cache"))]
        let blocks = self.blocks;
        let inner = Arc::new(Inner {
            blocks,
            #[cfg(feature = "hot-cache")]
            hot,
            records,
            keyring,
            vaults: self.vaults,
            service_kek: self.service_kek,
            clock: self.clock,
            entropy: self.entropy,
            executor: self.executor,
            policy: self.policy,
            page_size: self.page_size,
            max_block_len: self.max_block_len,
            max_batch_len,
            buffer: self.buffer,
            retention: self.retention,
            cryptoperiod: self.cryptoperiod,
            cryptoperiod_bytes: self.cryptoperiod_bytes,
            receipt_key: self.receipt_key,
            segments: Segments::default(),
            gates: Gates::default(),
            fences: Fences::new(catalog.clone(), clock),
            ledger: Ledger::new(catalog.clone()),
            claims: Claims::new(catalog.clone()),
            nodes,
            operations: OperationRows(catalog),
            runner: Runner::default(),
            tending: Tending::default(),
            drains: Drains::new(&admission),
            pace: Pace::default(),
            admission,
            versions: Versions::after(last_version),
            written: Written::default(),
            accounts: RwLock::new(BTreeMap::new()),
            closed: AtomicBool::new(false),
            closing: tokio::sync::Mutex::new(false),
        });
        if !is_planted(Bug::DrainForgottenAtOpen) {
            inner.drains.resume(&inner);
        }
        inner.tending.start(&inner);
        Ok(Engine { inner: Arc::new(Handle(inner)) })
    }
}

fn check_times(retention: Duration, cryptoperiod: Option<Duration>) -> Result<(), EngineError> {
    let bad = |setting, given: Duration, allowed: &str| EngineError::BadSetting {
        setting,
        given: format!("{given:?}"),
        allowed: allowed.to_owned(),
    };
    if retention > 3650 * DAY {
        return Err(bad("deleted_retention", retention, "at most 10 years"));
    }
    match cryptoperiod {
        Some(period) if period < Duration::from_secs(3600) => {
            Err(bad("cryptoperiod", period, "an hour or more, or to none"))
        }
        _ => Ok(()),
    }
}
