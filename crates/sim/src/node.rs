//! A node: a machine with clocks, on which a process with an engine comes and goes.
//!
//! Guarantees: a process that ended touches nothing any more: neither a vault nor the store, whatever of its tasks is
//! still there. Its clients end in the middle of what they do.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use cofferdam_crypto::PageSize;
use cofferdam_store::{Engine, EngineError, FaultyFile, HotCacheSettings};
use cofferdam_vault::{
    Inline, KeyVault, Reauthenticating, VaultRegistry,
    testing::{SeededEntropy, TokioClock},
};
use tokio::task::{AbortHandle, JoinHandle, JoinSet};

use crate::{
    Check, SimStore,
    admin::Admin,
    client::{self, Client},
    crowd::Regular,
    dice::Dice,
    hub::Hub,
    link::{Cut, Link},
    shelf::Shelf,
    site::{House, Site},
    way::{Token, Way},
};

pub(crate) struct Node {
    pub(crate) number: usize,
    pub(crate) clock: Arc<TokioClock>,
    dice: Dice,
    process: Option<Process>,
    closing: Option<(Cut, AbortHandle)>,
}

struct Process {
    cut: Cut,
    /// Set once its clients have come to an end.
    idle: Arc<AtomicBool>,
    engine: Arc<Mutex<Option<Engine>>>,
    supervisor: JoinHandle<()>,
}

/// How long a process waits before it tries again to open its engine.
const OPEN_AGAIN: Duration = Duration::from_millis(700);

impl Node {
    pub(crate) fn new(number: usize, mut dice: Dice) -> Self {
        let clock = Arc::new(TokioClock::new());
        if number > 0 {
            // Machines don't agree on the time.
            clock.set_wall_ahead(dice.millis(0, 5_000));
        }
        Self { number, clock, dice, process: None, closing: None }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.process.is_some()
    }

    /// Whether a process of it is being closed: another one would be another node.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.as_ref().is_some_and(|(cut, _)| !cut.load(Ordering::Relaxed))
    }

    /// Whether its clients have come to an end.
    pub(crate) fn is_idle(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.idle.load(Ordering::Relaxed))
    }

    /// The engine, once it is open.
    pub(crate) fn engine(&self) -> Option<Engine> {
        let process = self.process.as_ref()?;
        process.engine.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Starts a process; it opens its engine by itself.
    pub(crate) fn start(&mut self, site: &Site, store: &Arc<dyn SimStore>, disk: &FaultyFile) {
        let now = site.hub.moment(&self.clock);
        site.hub.note(format_args!("node {} starts", self.number));
        site.hub.state().keys.node_starts(self.number, now);
        site.hub.state().budgets.start_over(self.number);
        let cut = Cut::new(AtomicBool::new(false));
        let shelf = Arc::new(Shelf {
            node: self.number,
            hub: site.hub.clone(),
            clock: self.clock.clone(),
            store: store.clone(),
            disk: disk.clone(),
            cut: cut.clone(),
            dice: Mutex::new(self.dice.fork()),
            buffer: site.buffer,
        });
        let engine = Arc::new(Mutex::new(None));
        let idle = Arc::new(AtomicBool::new(false));
        let life = Life {
            node: self.number,
            clock: self.clock.clone(),
            site: site.clone(),
            shelf,
            vaults: self.registry(site, &cut),
            dice: self.dice.fork(),
            engine: engine.clone(),
            idle: idle.clone(),
        };
        let supervisor = tokio::spawn(life.run());
        self.process = Some(Process { cut, idle, engine, supervisor });
    }

    fn registry(&mut self, site: &Site, cut: &Cut) -> VaultRegistry {
        let mut link = |house: &House| -> Arc<dyn KeyVault> {
            let (hub, clock) = (site.hub.clone(), self.clock.clone());
            let service = site.token_service.clone();
            let token = Token::new(self.number, hub.clone(), clock.clone(), service, self.dice.fork());
            let token = Arc::new(token);
            let way = Way {
                node: self.number,
                hub: hub.clone(),
                house: house.clone(),
                token: token.clone(),
                dice: Mutex::new(self.dice.fork()),
            };
            let way = Reauthenticating::new(way, token, clock.clone());
            Arc::new(Link { node: self.number, vault: house.number, hub, clock, way, cut: cut.clone() })
        };
        let registry = VaultRegistry::new(link(&site.service));
        site.tenants.iter().fold(registry, |registry, (principal, house)| {
            let vault = link(house);
            let registry = match site.budget {
                Some(budget) => registry.with_budget(&vault, budget),
                None => registry,
            };
            registry.with_customer(principal.clone(), vault)
        })
    }

    /// The process is gone, at whatever it was.
    pub(crate) fn crash(&mut self, hub: &Hub) {
        if let Some((cut, life)) = self.closing.take() {
            cut.store(true, Ordering::Relaxed);
            life.abort();
        }
        if let Some(process) = self.process.take() {
            hub.note(format_args!("node {} crashes", self.number));
            process.cut.store(true, Ordering::Relaxed);
            process.supervisor.abort();
            let engine = process.engine.lock().unwrap_or_else(PoisonError::into_inner).take();
            count_hot_reads(hub, engine.as_ref());
        }
    }

    /// Takes the process out, to be closed in order.
    pub(crate) fn retire(&mut self) -> Option<Retired> {
        let process = self.process.take()?;
        let engine = process.engine.lock().unwrap_or_else(PoisonError::into_inner).take();
        match engine {
            Some(engine) => {
                self.closing = Some((process.cut.clone(), process.supervisor.abort_handle()));
                Some(Retired { engine, process })
            }
            // It was not even open.
            None => {
                process.cut.store(true, Ordering::Relaxed);
                process.supervisor.abort();
                None
            }
        }
    }
}

/// What the hot cache of an engine that ends has done.
fn count_hot_reads(hub: &Hub, engine: Option<&Engine>) {
    let status = engine.and_then(Engine::hot_cache);
    hub.state().counts.hot_reads += status.map_or(0, |status| status.memory.hits);
}

/// A process that is being closed.
pub(crate) struct Retired {
    engine: Engine,
    process: Process,
}

impl Retired {
    /// Closes the engine while its clients go on, and ends the process.
    pub(crate) async fn close(self, hub: Hub, node: usize, limit: Duration) {
        count_hot_reads(&hub, Some(&self.engine));
        match tokio::time::timeout(limit, self.engine.close()).await {
            Ok(result) => {
                hub.note(format_args!("node {node} is closed: {}", result.is_ok()));
            }
            // Where the power is gone, nothing answers any more.
            Err(_) if self.process.cut.load(Ordering::Relaxed) || hub.state().power_lost => {}
            Err(_) => hub.fail(Check::Hang, format!("node {node} was not closed within {limit:?}")),
        }
        self.process.cut.store(true, Ordering::Relaxed);
        self.process.supervisor.abort();
    }
}

/// What runs in a process.
struct Life {
    node: usize,
    clock: Arc<TokioClock>,
    site: Site,
    shelf: Arc<Shelf>,
    vaults: VaultRegistry,
    dice: Dice,
    engine: Arc<Mutex<Option<Engine>>>,
    idle: Arc<AtomicBool>,
}

impl Life {
    async fn run(mut self) {
        let engine = loop {
            match self.open().await {
                Ok(engine) => break engine,
                Err(error) => {
                    self.site.hub.note(format_args!("node {}: can't open: {:?}", self.node, error.kind()));
                    tokio::time::sleep(OPEN_AGAIN).await;
                }
            }
        };
        *self.engine.lock().unwrap_or_else(PoisonError::into_inner) = Some(engine.clone());
        let (mut tasks, mut listeners) = (JoinSet::new(), JoinSet::new());
        listeners.spawn(client::listen(self.site.clone(), self.node, self.clock.clone(), engine.events()));
        for number in 0..self.site.clients {
            let client = Client {
                node: self.node,
                number,
                clock: self.clock.clone(),
                site: self.site.clone(),
                engine: engine.clone(),
                dice: self.dice.fork(),
            };
            tasks.spawn(client.run());
        }
        for share in Regular::shares(&self.site) {
            let regular = Regular {
                node: self.node,
                clock: self.clock.clone(),
                site: self.site.clone(),
                engine: engine.clone(),
                dice: self.dice.fork(),
                share,
            };
            tasks.spawn(regular.run());
        }
        if let Some(calm) = self.site.operations {
            let admin = Admin {
                node: self.node,
                clock: self.clock.clone(),
                site: self.site.clone(),
                engine: engine.clone(),
                dice: self.dice.fork(),
                calm,
            };
            tasks.spawn(admin.run());
        }
        drop(engine);
        while tasks.join_next().await.is_some() {}
        self.idle.store(true, Ordering::Relaxed);
        std::future::pending().await
    }

    async fn open(&mut self) -> Result<Engine, EngineError> {
        let Site { service_kek, policy, buffer, .. } = &self.site;
        let entropy = Arc::new(SeededEntropy::new(self.dice.roll()));
        let page_size = PageSize::new(4096).unwrap_or(PageSize::DEFAULT);
        let mut builder = Engine::builder(self.shelf.clone(), self.vaults.clone(), service_kek.clone());
        if let Some(bytes) = self.site.hot.get(self.node).copied().flatten() {
            builder = builder.hot_cache(HotCacheSettings::new(bytes).executor(Arc::new(Inline)));
        }
        builder
            .policy(policy.clone())
            .clock(self.clock.clone())
            .entropy(entropy)
            .executor(Arc::new(Inline))
            .page_size(page_size)
            .buffer_time(buffer.0)
            .buffer_bytes(buffer.1)
            .segment_time(self.site.segment_time)
            .deleted_retention(self.site.retention)
            .open()
            .await
    }
}
