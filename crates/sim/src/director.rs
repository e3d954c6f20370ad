//! Who brings the faults, by the seed, and starts again what has ended.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, atomic::AtomicBool},
    time::Duration,
};

use cofferdam_crypto::KeyId;
use cofferdam_keyring::Policy;
use cofferdam_store::{AccountKey, AccountName, BufferMode, FaultyFile, FileFault, FileOp};
use cofferdam_vault::Principal;
use tokio::time::{Instant, sleep_until};

use crate::{
    Check, KekState, Report, Scenario, SimStore,
    dice::Dice,
    hub::Hub,
    model::Keys,
    node::{Node, Seat, Site},
    trace::Trace,
    weather::{Condition, Weather},
};

/// Longer than any closing may take: writes under way, a drain, a call to each vault.
const CLOSES_WITHIN: Duration = Duration::from_secs(60);
/// How often it is looked whether a process has closed.
const CLOSED_BY_AND_BY: Duration = Duration::from_secs(1);
/// How long the power stays on at the most once it is to fail.
const POWER_FAILS_WITHIN: Duration = Duration::from_secs(25);

/// Something that is to happen at its time.
#[derive(Clone, Debug)]
enum Due {
    Restart(usize),
    GiveBack(KeyId),
    PowerFails,
    RoomOnDisk,
}

pub(crate) struct Director {
    pub(crate) scenario: Scenario,
    seed: u64,
    pub(crate) dice: Dice,
    pub(crate) site: Site,
    pub(crate) nodes: Vec<Node>,
    pub(crate) disk: FaultyFile,
    pub(crate) store: Option<Arc<dyn SimStore>>,
    agenda: BTreeMap<(Duration, u64), Due>,
    entries: u64,
}

impl Director {
    pub(crate) async fn run(scenario: Scenario, seed: u64, mut dice: Dice) -> Report {
        let policy = scenario.policy.clone().unwrap_or_else(|| draw_policy(&mut dice));
        let buffer = scenario.buffer.unwrap_or_else(|| draw_buffer(&mut dice));
        let trace = Trace::new(scenario.keep_trace);
        let hub = Hub::new(trace, Keys::new(policy.clone()), Weather::default());
        hub.note(format_args!("seed {seed}: {policy:?}, buffer {buffer:?}"));
        let service_vault = (scenario.vaults)(dice.roll());
        let site = Site {
            hub: hub.clone(),
            seats: Arc::default(),
            customers: Arc::default(),
            service_vault,
            service_kek: key_id("service", "mmk"),
            token_service: key_id("tokens", "of-the-service"),
            vaults: Vec::new(),
            policy,
            buffer,
            // Once there are accounts.
            clients: 0,
            think: scenario.think,
            back: Arc::default(),
            closing_time: Arc::new(AtomicBool::new(false)),
        };
        let nodes = (0..scenario.nodes).map(|number| Node::new(number, dice.fork())).collect();
        let mut director = Self {
            scenario,
            seed,
            dice,
            site,
            nodes,
            disk: FaultyFile::new(),
            store: None,
            agenda: BTreeMap::new(),
            entries: 0,
        };
        if let Err(what) = director.set_up().await {
            hub.fail(Check::Unexplained, format!("setting up: {what}"));
        } else {
            director.trouble().await;
            if !hub.has_failed() {
                director.finale().await;
            }
        }
        director.report()
    }

    fn report(&mut self) -> Report {
        let hub = self.site.hub.clone();
        self.nodes.iter_mut().for_each(|node| node.crash(&hub));
        let mut state = hub.state();
        Report {
            seed: self.seed,
            events: state.trace.events(),
            virtual_time: hub.at(),
            counts: state.counts,
            trace_hash: state.trace.hash(),
            trace: state.trace.take_whole(),
            violation: state.violation.take(),
        }
    }

    /// Makes the vaults, the store and the accounts, while all is well.
    async fn set_up(&mut self) -> Result<(), String> {
        let say = |e: &dyn std::fmt::Display| e.to_string();
        let store = (self.scenario.stores)(&self.disk, true).map_err(|e| say(&e))?;
        self.store = Some(store);
        self.site.service_vault.create_key(&self.site.service_kek).map_err(|e| say(&e))?;
        let mut seats = Vec::new();
        for number in 0..self.scenario.customers + self.scenario.services {
            let name = AccountName::new(format!("account-{number}")).map_err(|e| say(&e))?;
            let kek =
                (number < self.scenario.customers).then(|| key_id(&format!("customer-{number}"), "kek"));
            if let Some(kek) = &kek {
                let vault = (self.scenario.vaults)(self.dice.roll());
                vault.create_key(kek).map_err(|e| say(&e))?;
                self.site.vaults.push((Principal::new(format!("tenant-{number}")), vault));
            }
            seats.push((name, kek));
        }
        self.start(0);
        let engine = loop {
            if let Some(engine) = self.nodes[0].engine() {
                break engine;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            if self.site.hub.at() > CLOSES_WITHIN {
                return Err("the first node does not open".to_owned());
            }
        };
        let mut made = Vec::new();
        for (number, (name, kek)) in seats.into_iter().enumerate() {
            let key = match &kek {
                Some(kek) => AccountKey::Customer {
                    principal: self.site.vaults[number].0.clone(),
                    kek: kek.clone(),
                    buffer: BufferMode::default(),
                },
                None => AccountKey::Service,
            };
            let account = engine.create_account(&name, key).await.map_err(|e| say(&e))?;
            let id = account.id();
            if kek.is_some() {
                self.site.customers.lock().unwrap_or_else(PoisonError::into_inner).push(id);
            }
            self.site.hub.note(format_args!("{name} is {id}"));
            made.push(Seat { name, id, kek });
        }
        self.site.seats = Arc::new(made);
        drop(engine);
        self.nodes[0].crash(&self.site.hub);
        self.site.clients = self.scenario.clients;
        (0..self.nodes.len()).for_each(|number| self.start(number));
        Ok(())
    }

    pub(crate) fn start(&mut self, node: usize) {
        if self.nodes[node].is_closing() {
            self.at(CLOSED_BY_AND_BY, Due::Restart(node));
        } else if let Some(store) = &self.store
            && !self.nodes[node].is_up()
        {
            self.nodes[node].start(&self.site, store, &self.disk);
        }
    }

    fn at(&mut self, after: Duration, due: Due) {
        self.entries += 1;
        self.agenda.insert((self.site.hub.at() + after, self.entries), due);
    }

    /// Brings faults until the time is over.
    async fn trouble(&mut self) {
        let hub = self.site.hub.clone();
        let start = Instant::now() - hub.at();
        let end = hub.at() + self.scenario.duration;
        let mut next = hub.at() + self.dice.wait(self.scenario.calm);
        loop {
            let due = self.agenda.keys().next().map(|(at, _)| *at);
            let until = due.map_or(next, |due| due.min(next)).min(end);
            tokio::select! {
                biased;
                () = hub.woken() => {}
                () = sleep_until(start + until) => {}
            }
            self.mend().await;
            if hub.has_failed() || hub.at() >= end {
                return;
            }
            while let Some(entry) = self.agenda.first_entry()
                && entry.key().0 <= hub.at()
            {
                let due = entry.remove();
                self.happens(due).await;
            }
            if hub.at() >= next {
                self.strike().await;
                next = hub.at() + self.dice.wait(self.scenario.calm).max(Duration::from_millis(1));
            }
        }
    }

    /// Starts again what can't go on.
    pub(crate) async fn mend(&mut self) {
        let hub = self.site.hub.clone();
        let (power_lost, broken) = {
            let state = hub.state();
            (state.power_lost, state.store_broken)
        };
        if power_lost {
            self.power_fails().await;
        } else if broken {
            self.reopen_store().await;
        }
    }

    pub(crate) fn crash_all(&mut self) {
        let hub = self.site.hub.clone();
        self.nodes.iter_mut().for_each(|node| node.crash(&hub));
    }

    /// The power is gone and comes back: the disk keeps what it keeps, every process starts anew.
    pub(crate) async fn power_fails(&mut self) {
        let hub = self.site.hub.clone();
        hub.note(format_args!("the power fails"));
        self.crash_all();
        self.store = None;
        // Those that ended let go of what they held.
        tokio::task::yield_now().await;
        self.disk = self.disk.after_crash(|| self.dice.roll());
        {
            let mut state = hub.state();
            state.counts.power_failures += 1;
            (state.power_lost, state.store_broken) = (false, false);
        }
        self.agenda.retain(|_, due| !matches!(due, Due::PowerFails | Due::RoomOnDisk));
        self.open_store().await;
    }

    /// Everything is stopped and the store opened again, as an operator would.
    async fn reopen_store(&mut self) {
        let hub = self.site.hub.clone();
        hub.note(format_args!("the store is opened again"));
        self.crash_all();
        if let Some(store) = self.store.take() {
            // What it says is of no interest: its last words are not needed.
            let _ = store.close().await;
        }
        let wait = self.dice.millis(0, 3_000);
        tokio::time::sleep(wait).await;
        {
            let mut state = hub.state();
            state.counts.reopened += 1;
            state.store_broken = false;
        }
        self.open_store().await;
    }

    async fn open_store(&mut self) {
        let hub = self.site.hub.clone();
        for attempt in 0..40 {
            match (self.scenario.stores)(&self.disk, false) {
                Ok(store) => {
                    self.store = Some(store);
                    for node in 0..self.nodes.len() {
                        let wait = self.dice.millis(0, 2_000);
                        self.at(wait, Due::Restart(node));
                    }
                    return;
                }
                Err(error) => {
                    hub.note(format_args!("the store can't be opened: {:?}", error.kind()));
                    if self.is_off() {
                        self.disk = self.disk.after_crash(|| self.dice.roll());
                    }
                    // A fault that was meant for later, or a full disk: somebody makes room.
                    if attempt > 2 {
                        self.disk.set_capacity(None);
                    }
                }
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        hub.fail(Check::Recovery, "the store can't be opened again".to_owned());
    }

    async fn happens(&mut self, due: Due) {
        let hub = self.site.hub.clone();
        hub.note(format_args!("due: {due:?}"));
        match due {
            Due::Restart(node) => self.start(node),
            Due::GiveBack(kek) => self.set_kek(&kek, KekState::Enabled),
            Due::PowerFails => self.power_fails().await,
            Due::RoomOnDisk => self.disk.set_capacity(None),
        }
    }

    pub(crate) fn set_kek(&mut self, kek: &KeyId, state: KekState) {
        let hub = &self.site.hub;
        hub.note(format_args!("{kek} is {state:?}"));
        for (_, vault) in &self.site.vaults {
            vault.set_state(kek, state);
        }
        hub.state().weather.set_usable(kek, state == KekState::Enabled, hub.at());
    }

    /// Brings one fault.
    async fn strike(&mut self) {
        let faults = self.scenario.faults;
        let kinds =
            [faults.outages, faults.denials, faults.clocks, faults.crashes, faults.power, faults.disk];
        let all = kinds.iter().map(|&weight| u64::from(weight)).sum();
        let mut drawn = self.dice.below(all);
        let kind = kinds.iter().position(|&weight| match drawn.checked_sub(u64::from(weight)) {
            Some(rest) => {
                drawn = rest;
                false
            }
            None => true,
        });
        match kind {
            Some(0) => self.outage(),
            Some(1) => self.denial(),
            Some(2) => self.clock(),
            Some(3) => self.end_a_process(),
            Some(4) => {
                let operations = self.dice.below(150);
                self.site.hub.note(format_args!("the power is to fail after {operations} operations"));
                self.disk.power_off_after(operations);
                self.at(POWER_FAILS_WITHIN, Due::PowerFails);
            }
            Some(5) => self.disk_fault(),
            _ => {}
        }
    }

    fn outage(&mut self) {
        let policy = &self.site.policy;
        let condition = Condition::draw(&mut self.dice, policy.call_timeout());
        // Some outlast the grace.
        let long = if self.dice.percent(35) { policy.usable_for() } else { Duration::ZERO };
        let lasts = long + self.dice.wait(Duration::from_secs(40));
        let any_node = self.dice.below(self.nodes.len() as u64) as usize;
        let nodes = if self.dice.percent(60) { 0..self.nodes.len() } else { any_node..any_node + 1 };
        let customers: Vec<KeyId> = self.site.seats.iter().filter_map(|seat| seat.kek.clone()).collect();
        let keks = match self.dice.below(10) {
            0 => vec![self.site.service_kek.clone()],
            1 => vec![self.site.token_service.clone()],
            2 => customers.into_iter().chain([self.site.service_kek.clone()]).collect(),
            _ if customers.is_empty() => vec![self.site.service_kek.clone()],
            _ => vec![customers[self.dice.below(customers.len() as u64) as usize].clone()],
        };
        let hub = &self.site.hub;
        hub.note(format_args!("{condition:?} from nodes {nodes:?} to {keks:?} for {lasts:?}"));
        let until = hub.at() + lasts;
        let mut state = hub.state();
        for node in nodes {
            for kek in &keks {
                state.weather.set(node, kek, condition, until);
            }
        }
    }

    fn denial(&mut self) {
        let customers: Vec<KeyId> = self.site.seats.iter().filter_map(|seat| seat.kek.clone()).collect();
        if customers.is_empty() {
            return;
        }
        let kek = customers[self.dice.below(customers.len() as u64) as usize].clone();
        let drawn = self.dice.pick(&[KekState::Denied, KekState::Disabled, KekState::Deleted]);
        self.set_kek(&kek, self.scenario.denial.unwrap_or(drawn));
        self.site.hub.state().counts.revocations += 1;
        let lasts = self.dice.wait(Duration::from_secs(50));
        self.at(lasts, Due::GiveBack(kek));
    }

    fn clock(&mut self) {
        let node = &self.nodes[self.dice.below(self.nodes.len() as u64) as usize];
        let by = if self.dice.percent(50) {
            self.dice.millis(100, 60_000)
        } else {
            self.dice.millis(60_000, 900_000)
        };
        let how = self.dice.below(3);
        match how {
            0 => node.clock.suspend(by),
            1 => node.clock.set_wall_ahead(by),
            _ => node.clock.set_wall_back(by),
        }
        let hub = &self.site.hub;
        let now = hub.moment(&node.clock);
        let what =
            ["is suspended for", "has its clock set ahead by", "has its clock set back by"][how as usize];
        hub.note(format_args!("node {} {what} {by:?}", node.number));
        let mut state = hub.state();
        state.counts.clock_jumps += 1;
        state.keys.clock_jumped(node.number, now, how == 2);
    }

    fn end_a_process(&mut self) {
        let number = self.dice.below(self.nodes.len() as u64) as usize;
        let hub = self.site.hub.clone();
        let node = &mut self.nodes[number];
        if !node.is_up() {
            return;
        }
        hub.state().counts.crashes += 1;
        if self.dice.percent(30) {
            if let Some(retired) = node.retire() {
                hub.note(format_args!("node {number} closes"));
                tokio::spawn(retired.close(hub, number, CLOSES_WITHIN));
            }
            self.at(CLOSED_BY_AND_BY, Due::Restart(number));
        } else {
            node.crash(&hub);
            let wait =
                if self.dice.percent(50) { self.dice.millis(1, 300) } else { self.dice.millis(1, 20_000) };
            self.at(wait, Due::Restart(number));
        }
    }

    fn disk_fault(&mut self) {
        let hub = self.site.hub.clone();
        hub.state().counts.disk_faults += 1;
        if self.dice.percent(30) {
            let room = self.disk.allocated() + 4096 * self.dice.below(12);
            hub.note(format_args!("the disk is full at {room} bytes"));
            self.disk.set_capacity(Some(room));
            let lasts = self.dice.wait(Duration::from_secs(15));
            self.at(lasts, Due::RoomOnDisk);
            return;
        }
        let op = self.dice.pick(&[
            FileOp::Sync,
            FileOp::Sync,
            FileOp::Write,
            FileOp::Write,
            FileOp::Read,
            FileOp::SetLen,
        ]);
        let kind = self.dice.pick(&[
            std::io::ErrorKind::Other,
            std::io::ErrorKind::StorageFull,
            std::io::ErrorKind::TimedOut,
        ]);
        let fault = match op {
            FileOp::Write if self.dice.percent(50) => FileFault::Short(kind),
            _ => FileFault::Error(kind),
        };
        let nth = self.dice.below(20);
        hub.note(format_args!("the disk fails: {op:?} {nth}, {fault:?}"));
        self.disk.fail(op, nth, fault);
    }
}

fn key_id(vault: &str, key: &str) -> KeyId {
    KeyId::new(format!("sim://{vault}/keys/{key}/v1")).unwrap_or_else(|_| unreachable!("a short id"))
}

/// Any settings that are allowed, with a grace that ends within a run.
fn draw_policy(dice: &mut Dice) -> Policy {
    let refresh = dice.millis(6_000, 30_000);
    let ceiling = refresh.max(dice.millis(6_000, 60_000));
    let grace = if dice.percent(25) { Duration::ZERO } else { dice.millis(30_000, 240_000) };
    let timeout = dice.pick(&[200, 1_000, 3_000, 5_000, 10_000]);
    let (retry, poll) = (dice.millis(1_000, 30_000), dice.millis(1_000, 30_000));
    let policy = Policy::default()
        .with_refresh(refresh)
        .and_then(|policy| policy.with_ceiling(ceiling))
        .and_then(|policy| policy.with_grace(grace))
        .and_then(|policy| policy.with_call_timeout(Duration::from_millis(timeout)))
        .and_then(|policy| policy.with_retry_max(retry))
        .and_then(|policy| policy.with_revoked_poll(poll));
    policy.unwrap_or_default()
}

fn draw_buffer(dice: &mut Dice) -> (Duration, u64) {
    let time = if dice.percent(10) { Duration::ZERO } else { dice.millis(20_000, 600_000) };
    let bytes = if dice.percent(70) { 8 << 20 } else { dice.between(4_096, 100_000) };
    (time, bytes)
}
