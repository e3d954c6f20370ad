//! Who brings the faults, by the seed, and starts again what has ended.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use cofferdam_crypto::{AccountId, BlockId, KeyId};
use cofferdam_store::{Catalog, FaultyFile, FileFault, FileOp};
use tokio::time::{Instant, sleep_until};

use crate::{
    Check, KekState, Report, Scenario, SimStore,
    dice::Dice,
    drawn::Drawn,
    hub::Hub,
    meter::Meter,
    node::Node,
    owners,
    record::{ACCOUNTS, OPERATIONS},
    rows::{look_for_lost, tell},
    set_up::key_id,
    site::{House, Site},
    trace::Trace,
    weather::{Condition, Weather},
};

/// Longer than any closing may take: writes under way, a drain, a call to each vault.
pub(crate) const CLOSES_WITHIN: Duration = Duration::from_secs(60);
/// How often it is looked whether a process has closed.
const CLOSED_BY_AND_BY: Duration = Duration::from_secs(1);
/// How long the power stays on at the most once it is to fail.
const POWER_FAILS_WITHIN: Duration = Duration::from_secs(25);

/// Something that is to happen at its time.
#[derive(Clone, Debug)]
pub(crate) enum Due {
    Restart(usize),
    GiveBack(KeyId),
    PowerFails,
    RoomOnDisk,
    RemoveForged(AccountId, BlockId),
    RetireVersions,
}

pub(crate) struct Director {
    pub(crate) scenario: Scenario,
    pub(crate) drawn: Drawn,
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
        let drawn = Drawn::of(&scenario, &mut dice);
        let trace = Trace::new(scenario.keep_trace);
        let hub = Hub::new(trace, &drawn.policy, Weather::default());
        hub.note(format_args!("seed {seed}: {drawn:?}"));
        let service = House::new(0, (scenario.vaults)(dice.roll()), Meter::without_limit());
        let site = Site {
            hub: hub.clone(),
            seats: Arc::default(),
            service,
            service_kek: key_id("service", "mmk"),
            token_service: key_id("tokens", "of-the-service"),
            tenants: Vec::new(),
            policy: drawn.policy.clone(),
            buffer: drawn.buffer,
            budget: drawn.budget(scenario.nodes),
            segment_time: drawn.segment_time,
            hot: Arc::new(drawn.hot.clone()),
            // Once there are accounts.
            clients: 0,
            operations: None,
            retention: drawn.retention,
            think: scenario.think,
            back: Arc::default(),
            closing_time: Arc::new(AtomicBool::new(false)),
        };
        let nodes = (0..scenario.nodes).map(|number| Node::new(number, dice.fork())).collect();
        let mut director = Self {
            scenario,
            drawn,
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

    pub(crate) fn start(&mut self, node: usize) {
        if self.nodes[node].is_closing() {
            self.at(CLOSED_BY_AND_BY, Due::Restart(node));
        } else if let Some(store) = &self.store
            && !self.nodes[node].is_up()
        {
            self.nodes[node].start(&self.site, store, &self.disk);
        }
    }

    pub(crate) fn at(&mut self, after: Duration, due: Due) {
        self.entries += 1;
        self.agenda.insert((self.site.hub.at() + after, self.entries), due);
    }

    /// Brings faults until the time is over.
    async fn trouble(&mut self) {
        let hub = self.site.hub.clone();
        let start = Instant::now() - hub.at();
        let end = hub.at() + self.drawn.duration;
        if self.site.operations.is_some() {
            self.at(owners::RETIRES_EVERY, Due::RetireVersions);
        }
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

    /// The KEKs that accounts are under, each once.
    pub(crate) fn keks(&self) -> Vec<KeyId> {
        let state = self.site.hub.state();
        let all: BTreeSet<KeyId> =
            state.accounts.all().flat_map(|account| &account.keks).map(|(_, kek)| kek.clone()).collect();
        all.into_iter().collect()
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
                    self.look_at_rows(&store).await;
                    self.store = Some(store);
                    self.try_buffers().await;
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

    /// What the catalog says after everything ended: of some writes nobody has heard.
    async fn look_at_rows(&self, store: &Arc<dyn SimStore>) {
        for prefix in [ACCOUNTS, OPERATIONS] {
            let Ok(rows) = Catalog::list(&**store, prefix, None, 1_000).await else { return };
            for (key, stored) in rows {
                let now = self.site.hub.moment(&self.nodes[0].clock);
                tell(&self.site.hub, &key, Some(&stored.bytes), now);
            }
        }
        let names: Vec<String> = self.site.seats.iter().map(|seat| seat.name.to_string()).collect();
        for name in names {
            let key = format!("{ACCOUNTS}{name}");
            if let Ok(None) = store.load(&key).await {
                let now = self.site.hub.moment(&self.nodes[0].clock);
                tell(&self.site.hub, &key, None, now);
            }
            look_for_lost(&self.site.hub, &**store, &name).await;
        }
    }

    async fn happens(&mut self, due: Due) {
        let hub = self.site.hub.clone();
        hub.note(format_args!("due: {due:?}"));
        match due {
            Due::Restart(node) => self.start(node),
            Due::GiveBack(kek) => self.set_kek(&kek, KekState::Enabled),
            Due::RetireVersions => self.retire_versions().await,
            Due::PowerFails => self.power_fails().await,
            Due::RoomOnDisk => self.disk.set_capacity(None),
            Due::RemoveForged(account, id) => self.remove_forged(account, id).await,
        }
    }

    pub(crate) fn set_kek(&mut self, kek: &KeyId, state: KekState) {
        let hub = &self.site.hub;
        if hub.state().retired.contains(kek) {
            return;
        }
        hub.note(format_args!("{kek} is {state:?}"));
        for (_, house) in &self.site.tenants {
            house.vault.set_state(kek, state);
        }
        hub.state().weather.set_usable(kek, state == KekState::Enabled, hub.at());
    }

    /// Brings one fault.
    async fn strike(&mut self) {
        let faults = self.scenario.faults;
        let kinds = [
            faults.outages,
            faults.denials,
            faults.clocks,
            faults.crashes,
            faults.power,
            faults.disk,
            faults.limits,
            faults.forgeries,
        ];
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
            Some(6) => self.others_call(),
            Some(7) => self.forge().await,
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
        let customers = self.keks();
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

    /// Others use much of a vault's limit for a while.
    fn others_call(&mut self) {
        let limited: Vec<&House> = self.site.houses().filter(|house| house.meter().is_limited()).collect();
        if limited.is_empty() {
            return;
        }
        let house = limited[self.dice.below(limited.len() as u64) as usize];
        let (percent, lasts) = (self.dice.between(30, 100) as u32, self.dice.wait(Duration::from_secs(30)));
        let hub = &self.site.hub;
        hub.note(format_args!("others use {percent}% of {house:?} for {lasts:?}"));
        house.meter().share(percent, hub.at() + lasts);
    }

    fn denial(&mut self) {
        let customers = self.keks();
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
        state.budgets.clock_jumped(node.number);
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
