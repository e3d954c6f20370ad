//! One vault's calls: who may make one, and who waits for it.
//!
//! Guarantees: no call is sent without a [`Turn`]; who gives up leaves the queue, and a turn that is not used goes to
//! the next. Whom callers wait for is served in the order of coming.
//!
//! Invariants: the lock is taken under a desk's and never the other way round; nothing is called under it.
//!
//! Not its job: the rations (`budget`), the timers (`agenda`).

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, Weak},
    time::Duration,
};

use cofferdam_crypto::{
    Provider,
    planted::{Bug, is_planted},
};
use cofferdam_vault::{Principal, Timestamp, VaultErrorKind, VaultRegistry, is_same_vault};

use super::{agenda::Hub, entry::Entry, kept::Kept};
use crate::{
    KeyRecord, Policy, VaultName, VaultStatus,
    budget::{Budget, Kind, News, Next, Turns, Wait},
    rt::{Mutex, MutexGuard, Notify},
    telemetry,
};

pub(super) struct Lane {
    pub(super) index: usize,
    name: VaultName,
    provider: Provider,
    /// How long a turn is waited for before calls under way no longer count, and a pause that is waited for.
    patience: Duration,
    /// How long a vault that throttles one key is known to throttle all.
    evidence: Duration,
    hub: Arc<Hub>,
    plan: Mutex<Plan>,
}

struct Plan {
    budget: Budget,
    turns: Turns<Arc<Place>, Weak<Entry>>,
    news: Option<News>,
}

/// Where somebody waits.
struct Place {
    answer: Mutex<Option<Answer>>,
    called: Notify,
}

#[derive(Clone, Copy)]
enum Answer {
    Turn,
    Throttled,
}

/// The vault is not called: it asked for that, or throttled others of late and there is no turn.
pub(super) struct Throttled {
    pub(super) retry_after: Duration,
    /// When it was last asked, by whoever, as far as that is of late.
    pub(super) asked: Timestamp,
}

/// What a release came to.
pub(super) struct Released {
    /// Refreshes whose turn it is.
    pub(super) behind: Vec<(Arc<Entry>, Turn)>,
    /// When the next turn is, as time since boot, if time alone brings it.
    pub(super) again: Option<Duration>,
    pub(super) news: Option<News>,
}

impl Lane {
    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn name(&self) -> &VaultName {
        &self.name
    }

    pub(super) fn provider(&self) -> Provider {
        self.provider
    }

    /// A turn for a call that callers wait for.
    ///
    /// # Errors
    /// [`Throttled`] when the vault must not be called for longer than a time-out, and for a key that is held when the
    /// vault throttles and has no turn now: so the key can be used, within its grace, as it could if it had been asked.
    pub(super) async fn turn(self: &Arc<Self>, kind: Kind) -> Result<Turn, Throttled> {
        let came = self.hub.now();
        let place = Arc::new(Place { answer: Mutex::new(None), called: Notify::new() });
        let mut waiting = {
            let now = self.hub.now();
            let mut plan = self.plan();
            let pause = plan.budget.pause(now.boot);
            if pause > self.patience && !is_planted(Bug::RetryAfterIgnored) {
                return Err(self.throttled(&plan, now));
            }
            // What turns a throttling vault has are for those that have waited for longer.
            if kind == Kind::Held
                && plan.turns.is_behind_waiting()
                && plan.budget.throttles(self.evidence, now)
            {
                return Err(self.throttled(&plan, now));
            }
            let number = plan.turns.come(kind, place.clone(), now.boot);
            self.release_front(&mut plan, now);
            Waiting { lane: self, kind, number, place: &place, over: false }
        };
        loop {
            let called = place.called.notified();
            match waiting.take_answer() {
                Some(Answer::Turn) => {
                    waiting.over = true;
                    telemetry::count_turn(self.provider, self.hub.now().since(&came));
                    return Ok(self.granted(kind));
                }
                Some(Answer::Throttled) => {
                    waiting.over = true;
                    return Err(self.throttled(&self.plan(), self.hub.now()));
                }
                None => {}
            }
            let now = self.hub.now();
            let throttles = self.plan().budget.throttles(self.evidence, now);
            if kind == Kind::Held && (throttles || is_planted(Bug::BudgetOpensGrace)) {
                return Err(self.throttled(&self.plan(), now));
            }
            self.hub.agenda.serve(self.index);
            called.await;
        }
    }

    fn throttled(&self, plan: &Plan, now: Timestamp) -> Throttled {
        let (retry_after, asked) =
            (plan.budget.pause(now.boot), plan.budget.throttled_at(self.evidence, now));
        Throttled { retry_after, asked }
    }

    fn granted(self: &Arc<Self>, kind: Kind) -> Turn {
        Turn { lane: self.clone(), kind, sent: false }
    }

    /// A turn for a refresh, if there is one now and nobody else waits.
    pub(super) fn turn_behind(self: &Arc<Self>, now: Timestamp) -> Option<Turn> {
        let mut plan = self.plan();
        if !plan.turns.is_empty() {
            return None;
        }
        plan.budget.reserve(Kind::Behind, false, now.boot).ok()?;
        Some(self.granted(Kind::Behind))
    }

    /// The same later: the entry is called when its turn has come.
    pub(super) fn wait_behind(&self, entry: &Arc<Entry>, deadline: Duration) {
        self.plan().turns.come_behind(Arc::downgrade(entry), deadline);
        self.hub.agenda.serve(self.index);
    }

    /// Gives turns to those who wait, as far as there are any.
    pub(super) fn release(self: &Arc<Self>, now: Timestamp) -> Released {
        let mut gone = Vec::new();
        let mut plan = self.plan();
        let mut behind = Vec::new();
        let again = loop {
            let Plan { budget, turns, .. } = &mut *plan;
            match turns.next(budget, self.patience, now.boot, false) {
                Ok(Next::Front(place)) => place.call(Answer::Turn),
                Ok(Next::Behind(entry)) => match entry.upgrade() {
                    Some(entry) => behind.push((entry, self.granted(Kind::Behind))),
                    None => {
                        gone.push(entry);
                        plan.budget.end(Kind::Behind, false);
                    }
                },
                Err(Wait::Until(at)) => break Some(at),
                Err(Wait::ForATurn) => break None,
            }
        };
        Released { behind, again, news: plan.news.take() }
    }

    /// The same for those whom callers wait for.
    fn release_front(&self, plan: &mut Plan, now: Timestamp) {
        while !plan.turns.is_front_empty() {
            let Plan { budget, turns, .. } = plan;
            match turns.next(budget, self.patience, now.boot, true) {
                Ok(Next::Front(place)) => place.call(Answer::Turn),
                Ok(Next::Behind(_)) | Err(_) => return,
            }
        }
    }

    /// What the vault answered to a call that was sent at `sent`.
    pub(super) fn answered(&self, sent: Timestamp, failed: Option<VaultErrorKind>) {
        let Some(VaultErrorKind::Throttled { retry_after }) = failed else { return };
        let now = self.hub.now();
        let mut plan = self.plan();
        plan.budget.throttle(sent, now.boot, retry_after);
        let for_long = plan.budget.pause(now.boot) > self.patience;
        for place in plan.turns.leave_all(for_long) {
            place.call(Answer::Throttled);
        }
        plan.judge();
        drop(plan);
        self.hub.agenda.serve(self.index);
    }

    /// Whether the vault throttles, so that a key without a turn is known to be out of reach.
    pub(super) fn throttles(&self, now: Timestamp) -> bool {
        self.plan().budget.throttles(self.evidence, now)
    }

    /// How often its keys are refreshed.
    pub(super) fn pace(&self) -> Duration {
        self.plan().budget.pace()
    }

    pub(super) fn status(&self) -> VaultStatus {
        let now = self.hub.now();
        let mut plan = self.plan();
        let headroom = plan.budget.headroom(now.boot);
        let settings = *plan.budget.settings();
        VaultStatus {
            vault: self.name.clone(),
            sent: headroom.sent,
            budget: settings.budget(),
            limit: settings.limit(),
            allowed: headroom.allowed,
            calls_per_refresh: headroom.in_use,
            refresh: headroom.pace,
            waiting: plan.turns.waiting(),
            over_budget: headroom.alarm,
            paused_for: plan.budget.pause(now.boot),
        }
    }
}

impl Plan {
    fn judge(&mut self) {
        // Told once: what came and went before anybody heard of it is no news.
        match (self.news, self.budget.judge()) {
            (_, None) => {}
            (None, news) => self.news = news,
            (Some(_), Some(_)) => self.news = None,
        }
    }
}

impl Place {
    fn call(&self, answer: Answer) {
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
        self.called.notify_one();
    }
}

/// Somebody in the queue, until it is over or given up.
struct Waiting<'a> {
    lane: &'a Arc<Lane>,
    kind: Kind,
    number: u64,
    place: &'a Place,
    over: bool,
}

impl Waiting<'_> {
    fn take_answer(&self) -> Option<Answer> {
        *self.place.answer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let mut plan = self.lane.plan();
        plan.turns.leave(self.kind, self.number);
        // Given under the lock.
        if let Some(Answer::Turn) = self.take_answer() {
            plan.budget.end(self.kind, false);
        }
        drop(plan);
        self.lane.hub.agenda.serve(self.lane.index);
    }
}

/// The right to one call.
pub(super) struct Turn {
    lane: Arc<Lane>,
    kind: Kind,
    sent: bool,
}

impl Turn {
    /// Whether its call may be sent now: the vault asked for no pause since it was given.
    pub(super) fn stands(&self) -> bool {
        let now = self.lane.hub.now().boot;
        self.lane.plan().budget.pause(now).is_zero() || is_planted(Bug::RetryAfterIgnored)
    }

    /// Its call is sent now.
    pub(super) fn send(&mut self, now: Timestamp) {
        if !self.sent {
            self.sent = true;
            self.lane.plan().budget.send(now.boot);
        }
    }

    /// Whether it is of this vault.
    pub(super) fn is_of(&self, lane: &Arc<Lane>) -> bool {
        Arc::ptr_eq(&self.lane, lane)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut plan = self.lane.plan();
        plan.budget.end(self.kind, self.sent);
        let waited_for = !plan.turns.is_empty();
        drop(plan);
        if waited_for {
            self.lane.hub.agenda.serve(self.lane.index);
        }
    }
}

/// The calls that one refresh of an account takes, at each of its vaults.
pub(super) struct Demand<'a>([Option<(&'a Arc<Lane>, u32)>; KeyRecord::MOST_KEKS]);

impl<'a> Demand<'a> {
    fn of(lanes: impl Iterator<Item = Option<&'a Arc<Lane>>>) -> Option<Self> {
        let mut demand = [None; KeyRecord::MOST_KEKS];
        for lane in lanes {
            let lane = lane?;
            let is_of = |of: &Option<(&Arc<Lane>, u32)>| of.is_none_or(|(of, _)| Arc::ptr_eq(of, lane));
            let of = demand.iter_mut().find(|of| is_of(of))?;
            *of = Some((lane, of.map_or(0, |(_, calls)| calls) + 1));
        }
        Some(Self(demand))
    }

    fn calls(&self) -> impl Iterator<Item = (&'a Arc<Lane>, u32)> {
        self.0.iter().copied().flatten()
    }

    /// Each vault, once.
    pub(super) fn lanes(&self) -> impl Iterator<Item = &'a Arc<Lane>> {
        self.calls().map(|(lane, _)| lane)
    }

    /// How often an account of these vaults is refreshed: as the slowest allows.
    pub(super) fn pace(&self) -> Duration {
        self.lanes().map(|lane| lane.pace()).max().unwrap_or_default()
    }
}

/// An account in use, counted at each of its vaults until it is dropped.
pub(super) enum InUse {
    One(Arc<Lane>, u32),
    Several(Box<Several>),
}

/// Boxed twice, for what few accounts have must not make those of one vault larger.
pub(super) struct Several(Box<[(Arc<Lane>, u32)]>);

impl InUse {
    pub(super) fn new(demand: &Demand<'_>) -> Option<Self> {
        let mut calls = demand.calls().map(|(lane, calls)| (lane.clone(), calls));
        let in_use = match (calls.next()?, calls.next()) {
            ((lane, calls), None) => Self::One(lane, calls),
            (first, Some(second)) => {
                Self::Several(Box::new(Several([first, second].into_iter().chain(calls).collect())))
            }
        };
        in_use.each(|lane, calls| lane.use_by(calls, 0));
        Some(in_use)
    }

    pub(super) fn is_of(&self, demand: &Demand<'_>) -> bool {
        let mut calls = demand.calls();
        let mut is_next = |lane, calls_of| {
            calls.next().is_some_and(|(of, calls)| calls == calls_of && Arc::ptr_eq(of, lane))
        };
        let is_of = match self {
            Self::One(lane, calls) => is_next(lane, *calls),
            Self::Several(all) => all.0.iter().all(|(lane, calls)| is_next(lane, *calls)),
        };
        is_of && calls.next().is_none()
    }

    fn each(&self, act: impl Fn(&Lane, u32)) {
        match self {
            Self::One(lane, calls) => act(lane, *calls),
            Self::Several(all) => all.0.iter().for_each(|(lane, calls)| act(lane, *calls)),
        }
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.each(|lane, calls| lane.use_by(0, calls));
    }
}

impl Lane {
    fn use_by(&self, more: u32, fewer: u32) {
        self.plan().budget.use_by(more, fewer);
        self.note_demand();
        telemetry::in_use(self.provider, more, fewer);
    }

    fn note_demand(&self) {
        let mut plan = self.plan();
        plan.judge();
        let news = plan.news.is_some();
        drop(plan);
        if news {
            self.hub.agenda.serve(self.index);
        }
    }
}

/// Every vault of the registry.
pub(super) struct Lanes {
    all: Vec<Arc<Lane>>,
    customers: BTreeMap<Principal, Arc<Lane>>,
}

impl Lanes {
    pub(super) fn new(vaults: &VaultRegistry, policy: &Policy, hub: &Arc<Hub>) -> Self {
        let mut known = vec![(vaults.service(), VaultName::Service)];
        let mut of = Vec::new();
        for (principal, vault) in vaults.customers() {
            let found = known.iter().position(|(other, _)| is_same_vault(other, vault));
            of.push((principal, found.unwrap_or(known.len())));
            if found.is_none() {
                known.push((vault, VaultName::OfPrincipal(principal.clone())));
            }
        }
        let lane = |(index, (vault, name)): (usize, (_, VaultName))| {
            let provider = if name == VaultName::Service { Provider::Service } else { Provider::Customer };
            let budget = Budget::new(vaults.budget(vault), policy);
            let plan = Mutex::new(Plan { budget, turns: Turns::new(), news: None });
            let (patience, evidence, hub) = (policy.call_timeout(), policy.failure_window(), hub.clone());
            Arc::new(Lane { index, name, provider, patience, evidence, hub, plan })
        };
        let all: Vec<_> = known.into_iter().enumerate().map(lane).collect();
        let customers = of.into_iter().filter_map(|(p, at)| Some((p.clone(), all.get(at)?.clone())));
        Self { customers: customers.collect(), all }
    }

    pub(super) fn all(&self) -> &[Arc<Lane>] {
        &self.all
    }

    /// What an account with this record asks of its vaults; `None` where one is not registered.
    pub(super) fn demand(&self, provider: Provider, record: &Kept) -> Option<Demand<'_>> {
        Demand::of(record.principals().map(|principal| self.named(provider, principal)))
    }

    pub(super) fn named(&self, provider: Provider, principal: Option<&Principal>) -> Option<&Arc<Lane>> {
        match provider {
            Provider::Service => self.all.first(),
            Provider::Customer | Provider::Buffer(_) => self.customers.get(principal?),
        }
    }
}
