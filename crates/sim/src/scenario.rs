//! What a simulation is of.

use std::{fmt, sync::Arc, time::Duration};

use cofferdam_keyring::Policy;
use cofferdam_store::{EmbeddedOptions, EmbeddedStore, FaultyFile, StoreError};
use cofferdam_vault::Inline;
use tokio::runtime::Builder;

use crate::{
    Check, Counts, KekState, MemoryVault, Report, SimStore, SimVault, Violation, dice::Dice,
    director::Director, panics::Watch,
};

/// How often each kind of fault comes, relative to the others; 0 for never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Faults {
    /// A way to a vault fails: every kind of outage, slow and wrong answers, a replica that lags.
    pub outages: u32,
    /// A customer takes a KEK away and gives it back.
    pub denials: u32,
    /// A machine is suspended, or its wall clock is set.
    pub clocks: u32,
    /// A node's process ends, or is closed in order, and starts anew.
    pub crashes: u32,
    /// The power fails, at any operation on the store's file.
    pub power: u32,
    /// The disk fails an operation, or is full.
    pub disk: u32,
    /// Others use much of a vault's limit.
    pub limits: u32,
    /// Somebody who has the public half of a KEK writes to the store what looks like a buffered block.
    pub forgeries: u32,
}

impl Default for Faults {
    fn default() -> Self {
        Self { outages: 40, denials: 14, clocks: 12, crashes: 10, power: 6, disk: 8, limits: 8, forgeries: 5 }
    }
}

impl Faults {
    /// None at all.
    pub const NONE: Self =
        Self { outages: 0, denials: 0, clocks: 0, crashes: 0, power: 0, disk: 0, limits: 0, forgeries: 0 };

    /// The same with so many outages.
    #[must_use]
    pub fn with_outages(self, outages: u32) -> Self {
        Self { outages, ..self }
    }

    /// The same with so many denials.
    #[must_use]
    pub fn with_denials(self, denials: u32) -> Self {
        Self { denials, ..self }
    }

    /// The same with so many jumps of clocks.
    #[must_use]
    pub fn with_clocks(self, clocks: u32) -> Self {
        Self { clocks, ..self }
    }

    /// The same with so many crashes.
    #[must_use]
    pub fn with_crashes(self, crashes: u32) -> Self {
        Self { crashes, ..self }
    }

    /// The same with so many failures of the power.
    #[must_use]
    pub fn with_power(self, power: u32) -> Self {
        Self { power, ..self }
    }

    /// The same with so many faults of the disk.
    #[must_use]
    pub fn with_disk(self, disk: u32) -> Self {
        Self { disk, ..self }
    }

    /// The same with so many forgeries.
    #[must_use]
    pub fn with_forgeries(self, forgeries: u32) -> Self {
        Self { forgeries, ..self }
    }

    /// The same with so often much of a vault's limit used by others.
    #[must_use]
    pub fn with_limits(self, limits: u32) -> Self {
        Self { limits, ..self }
    }
}

type Vaults = Arc<dyn Fn(u64) -> Arc<dyn SimVault> + Send + Sync>;
type Stores = Arc<dyn Fn(&FaultyFile, bool) -> Result<Arc<dyn SimStore>, StoreError> + Send + Sync>;

/// What a simulation is of: how much of everything. What is not said is drawn from the seed.
#[derive(Clone)]
pub struct Scenario {
    pub(crate) duration: Duration,
    pub(crate) nodes: usize,
    pub(crate) clients: usize,
    pub(crate) customers: usize,
    pub(crate) services: usize,
    pub(crate) think: Duration,
    pub(crate) calm: Duration,
    pub(crate) faults: Faults,
    pub(crate) denial: Option<KekState>,
    pub(crate) policy: Option<Policy>,
    pub(crate) buffer: Option<(Duration, u64)>,
    pub(crate) crowd: Option<usize>,
    pub(crate) vault_limit: Option<u32>,
    pub(crate) rsa: Option<u64>,
    pub(crate) write_only: Option<u64>,
    pub(crate) hot_cache: Option<u64>,
    pub(crate) operations: Option<Option<Duration>>,
    pub(crate) keep_trace: bool,
    pub(crate) vaults: Vaults,
    pub(crate) stores: Stores,
}

impl Default for Scenario {
    fn default() -> Self {
        Self::new()
    }
}

impl Scenario {
    /// Ten minutes of two nodes with three clients each, on three accounts under customers' keys and one under the
    /// service's, with every kind of fault.
    pub fn new() -> Self {
        Self {
            duration: Duration::from_secs(600),
            nodes: 2,
            clients: 3,
            customers: 3,
            services: 1,
            think: Duration::from_secs(20),
            calm: Duration::from_secs(16),
            faults: Faults::default(),
            denial: None,
            policy: None,
            buffer: None,
            crowd: None,
            vault_limit: None,
            rsa: None,
            write_only: None,
            hot_cache: None,
            operations: None,
            keep_trace: false,
            vaults: Arc::new(|seed| Arc::new(MemoryVault::new(seed))),
            stores: Arc::new(embedded),
        }
    }

    /// For how long faults go on, by the run's own clock; the recovery and the last checks come on top.
    #[must_use]
    pub fn duration(mut self, duration: Duration) -> Self {
        self.duration = duration;
        self
    }

    /// How many nodes share the store; at least one.
    #[must_use]
    pub fn nodes(mut self, nodes: usize) -> Self {
        self.nodes = nodes.max(1);
        self
    }

    /// How many clients each node has.
    #[must_use]
    pub fn clients(mut self, clients: usize) -> Self {
        self.clients = clients;
        self
    }

    /// How many accounts are under customers' keys, and how many under the service's; one at the least.
    #[must_use]
    pub fn accounts(mut self, customers: usize, services: usize) -> Self {
        self.customers = customers;
        self.services = if customers == 0 { services.max(1) } else { services };
        self
    }

    /// How long a client waits between bursts of operations, on average.
    #[must_use]
    pub fn think(mut self, think: Duration) -> Self {
        self.think = think;
        self
    }

    /// How long it takes from one fault to the next, on average.
    #[must_use]
    pub fn calm(mut self, calm: Duration) -> Self {
        self.calm = calm;
        self
    }

    /// Which faults come.
    #[must_use]
    pub fn faults(mut self, faults: Faults) -> Self {
        self.faults = faults;
        self
    }

    /// How a KEK is taken away, each time; drawn anew each time unless set.
    #[must_use]
    pub fn denial(mut self, denial: KekState) -> Self {
        self.denial = Some(denial);
        self
    }

    /// The settings of the nodes' keyrings.
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = Some(policy);
        self
    }

    /// The bounds of an account's buffer: time and sealed bytes.
    #[must_use]
    pub fn buffer(mut self, time: Duration, bytes: u64) -> Self {
        self.buffer = Some((time, bytes));
        self
    }

    /// How many further accounts share the first customer's vault, and are used all the time. Drawn unless set: a crowd
    /// for some seeds, whose runs take a quarter of the time then.
    #[must_use]
    pub fn crowd(mut self, accounts: usize) -> Self {
        self.crowd = Some(accounts);
        self
    }

    /// How many calls each customer's vault publishes that it takes in ten seconds; some refuse at half of that already.
    /// Drawn unless set.
    ///
    /// A budget is one process's: nodes know nothing of each other's calls. So each is given its share of half the
    /// limit, as an operator must who runs several nodes on one vault.
    #[must_use]
    pub fn vault_limit(mut self, calls: u32) -> Self {
        self.vault_limit = Some(calls.max(1));
        self
    }

    /// How many of a hundred KEKs are RSA, with 2,048 bits; the others are AES. 35 unless set, none without the feature
    /// `aws-lc`.
    #[must_use]
    pub fn rsa(mut self, percent: u8) -> Self {
        self.rsa = Some(u64::from(percent));
        self
    }

    /// How many of a hundred accounts under an RSA KEK have a write-only buffer. 60 unless set.
    #[must_use]
    pub fn write_only(mut self, percent: u8) -> Self {
        self.write_only = Some(u64::from(percent));
        self
    }

    /// How many of a hundred nodes have a hot cache, in memory. 35 unless set.
    #[must_use]
    pub fn hot_cache(mut self, percent: u8) -> Self {
        self.hot_cache = Some(u64::from(percent));
        self
    }

    /// How long it takes on each node from one operation on an account to the next, on average: rotation, linking, deletion;
    /// `None` for no such operations. Drawn unless set, and none where a crowd or a vault's limit is set.
    #[must_use]
    pub fn operations(mut self, calm: Option<Duration>) -> Self {
        self.operations = Some(calm);
        self
    }

    /// Keeps every event for [`Report::trace`].
    #[must_use]
    pub fn keep_trace(mut self) -> Self {
        self.keep_trace = true;
        self
    }

    /// Makes the vaults: the service's and each customer's, from seeds of their own.
    #[must_use]
    pub fn vaults(mut self, make: impl Fn(u64) -> Arc<dyn SimVault> + Send + Sync + 'static) -> Self {
        self.vaults = Arc::new(make);
        self
    }

    /// Opens the store on the simulated disk; at first the disk is empty, and the flag is set.
    ///
    /// A store must do all its work on the file that it is given and in place, without threads of its own. It is opened
    /// again after each failure of the power, of which the disk keeps what a disk would.
    #[must_use]
    pub fn stores(
        mut self,
        open: impl Fn(&FaultyFile, bool) -> Result<Arc<dyn SimStore>, StoreError> + Send + Sync + 'static,
    ) -> Self {
        self.stores = Arc::new(open);
        self
    }
}

impl fmt::Debug for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scenario")
            .field("duration", &self.duration)
            .field("nodes", &self.nodes)
            .field("clients", &self.clients)
            .field("customers", &self.customers)
            .field("services", &self.services)
            .field("faults", &self.faults)
            .finish_non_exhaustive()
    }
}

fn embedded(disk: &FaultyFile, new: bool) -> Result<Arc<dyn SimStore>, StoreError> {
    let options =
        EmbeddedOptions { cache_bytes: 1 << 20, executor: Arc::new(Inline), ..EmbeddedOptions::default() };
    let disk = Arc::new(disk.clone());
    let store =
        if new { EmbeddedStore::create_on(disk, options) } else { EmbeddedStore::open_on(disk, options) };
    Ok(Arc::new(store?))
}

/// Runs a scenario.
#[derive(Clone, Debug)]
pub struct Simulation {
    scenario: Scenario,
}

impl Simulation {
    /// Of this.
    pub fn new(scenario: Scenario) -> Self {
        Self { scenario }
    }

    /// The same, with every event kept for [`Report::trace`].
    #[must_use]
    pub fn keep_trace(self) -> Self {
        Self { scenario: self.scenario.keep_trace() }
    }

    /// One run, on this thread, without threads of its own. Must not be called within a runtime.
    pub fn run(&self, seed: u64) -> Report {
        let _watch = Watch::start();
        let report = match Builder::new_current_thread().enable_time().start_paused(true).build() {
            Ok(runtime) => {
                let report = runtime.block_on(Director::run(self.scenario.clone(), seed, Dice::new(seed)));
                drop(runtime);
                report
            }
            Err(error) => Report {
                seed,
                events: 0,
                virtual_time: Duration::ZERO,
                counts: Counts::default(),
                trace_hash: 0,
                trace: Vec::new(),
                violation: Some(Violation {
                    check: Check::Hang,
                    what: format!("there is no runtime to be had: {error}"),
                    at: Duration::ZERO,
                    last_events: Vec::new(),
                }),
            },
        };
        with_panics(report)
    }
}

/// A panic outweighs what followed from it.
fn with_panics(mut report: Report) -> Report {
    if let Some(what) = Watch::seen() {
        let last_events = report.violation.take().map(|violation| violation.last_events).unwrap_or_default();
        let at = report.virtual_time;
        report.violation = Some(Violation { check: Check::Panic, what, at, last_events });
    }
    report
}
