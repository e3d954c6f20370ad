//! One account's keys under one provider.
//!
//! Invariants: `live` is what the machine says may be served, set and cleared under the desk's lock, in the step
//! that decides it; no lock is held across an await; a retired entry is in no map and has no task.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
};

use arc_swap::ArcSwapOption;
use cofferdam_crypto::{AccountId, Epoch, KeyId, KeyScope, Provider};
use cofferdam_vault::{Clock, Timestamp};
use tokio::sync::{Notify, watch};

use super::{
    KeyStatus, LastFailure, Shared,
    live::{Live, LiveKey, Material},
    task,
};
use crate::{
    Fault, KeyError, KeyEvent, KeyRecord, What,
    machine::{Alarm, Effect, Event, KeyState, Serving, State, step},
};

/// Whether the key was used since the task last looked.
mod activity {
    pub(super) const UNUSED: u8 = 0;
    pub(super) const USED: u8 = 1;
    /// Unused, and the task has let a refresh go by: who uses the key wakes it.
    pub(super) const ASLEEP: u8 = 2;
}

pub(super) struct Entry {
    pub(super) account: AccountId,
    pub(super) provider: Provider,
    clock: Arc<dyn Clock>,
    live: ArcSwapOption<Live>,
    activity: AtomicU8,
    state: watch::Sender<KeyState>,
    /// Counts what was concluded: those who wait look again at each.
    rounds: watch::Sender<u64>,
    /// Wakes the task.
    pub(super) wake: Notify,
    desk: Mutex<Desk>,
}

/// What the task and the slow path share.
pub(super) struct Desk {
    pub(super) machine: State,
    pub(super) record: Option<Arc<KeyRecord>>,
    /// What is live, by epoch.
    pub(super) keys: Vec<Arc<Material>>,
    /// What a verified attempt unwrapped, until the machine publishes it.
    pub(super) candidate: Option<Vec<Arc<Material>>>,
    /// Epochs that callers wait for.
    pub(super) wanted: BTreeSet<Epoch>,
    /// Grows when what is under way must not be delivered.
    pub(super) generation: u64,
    pub(super) failure: Option<(KeyError, LastFailure)>,
    denied: Option<KeyId>,
    /// What a round said to who waited in it, if not by the state.
    said: Option<(u64, KeyError)>,
    said_of: BTreeMap<Epoch, (u64, KeyError)>,
    /// A caller waits that no attempt was begun for yet.
    asked: bool,
    waiting: usize,
    /// Used since the last verified attempt.
    used: bool,
    last_used: Timestamp,
    running: bool,
    retired: bool,
}

/// What the task is to do next.
#[derive(Debug)]
pub(super) enum Work {
    Do(Effect),
    Sleep(std::time::Duration),
    End,
}

pub(super) enum Answered {
    Key(Result<LiveKey, KeyError>),
    /// The entry is out of use: look the account up again.
    Retired,
}

enum Verdict {
    Answer(Result<LiveKey, KeyError>),
    Retired,
    Wait,
}

impl Entry {
    pub(super) fn new(account: AccountId, provider: Provider, clock: Arc<dyn Clock>) -> Self {
        let desk = Desk {
            machine: State::new(provider),
            record: None,
            keys: Vec::new(),
            candidate: None,
            wanted: BTreeSet::new(),
            generation: 0,
            failure: None,
            denied: None,
            said: None,
            said_of: BTreeMap::new(),
            asked: false,
            waiting: 0,
            used: false,
            last_used: clock.now(),
            running: false,
            retired: false,
        };
        Self {
            account,
            provider,
            clock,
            live: ArcSwapOption::empty(),
            activity: AtomicU8::new(activity::UNUSED),
            state: watch::Sender::new(KeyState::Cold),
            rounds: watch::Sender::new(0),
            wake: Notify::new(),
            desk: Mutex::new(desk),
        }
    }

    /// The key, if it may be used now without a question. The hot path: no lock, no allocation.
    pub(super) fn current(&self, epoch: Option<Epoch>) -> Option<LiveKey> {
        let live = self.live.load_full()?;
        if !live.bounds.serves(self.clock.now()) {
            return None;
        }
        self.note_use();
        LiveKey::of(live, epoch)
    }

    fn note_use(&self) {
        match self.activity.load(Ordering::Relaxed) {
            activity::USED => {}
            activity::UNUSED => self.activity.store(activity::USED, Ordering::Relaxed),
            _ => {
                if self.activity.swap(activity::USED, Ordering::Relaxed) == activity::ASLEEP {
                    self.wake.notify_one();
                }
            }
        }
    }

    /// The key, or why there is none, after waiting for what is under way.
    pub(super) async fn ask(self: &Arc<Self>, shared: &Arc<Shared>, epoch: Option<Epoch>) -> Answered {
        let mut rounds = self.rounds.subscribe();
        let mut waiting: Option<Waiting<'_>> = None;
        loop {
            let verdict = {
                let mut desk = self.desk();
                let round = *rounds.borrow_and_update();
                let since = waiting.as_ref().map_or(round, |waiting| waiting.since);
                let verdict = self.judge(&mut desk, shared, epoch, since);
                if matches!(verdict, Verdict::Wait) {
                    if waiting.is_none() {
                        desk.waiting += 1;
                        waiting = Some(Waiting { entry: self, since: round });
                    }
                    if !desk.running {
                        desk.running = true;
                        task::spawn(shared.clone(), self.clone());
                    }
                }
                verdict
            };
            match verdict {
                Verdict::Answer(answer) => return Answered::Key(answer),
                Verdict::Retired => return Answered::Retired,
                Verdict::Wait => self.wake.notify_one(),
            }
            // The sender is ours: it lives as long as this entry.
            let _ = rounds.changed().await;
        }
    }

    /// What a caller gets who waits since round `since`.
    fn judge(&self, desk: &mut Desk, shared: &Shared, epoch: Option<Epoch>, since: u64) -> Verdict {
        if shared.is_closing() {
            return Verdict::Answer(Err(KeyError::Closed));
        }
        if desk.retired {
            return Verdict::Retired;
        }
        let now = self.clock.now();
        desk.used = true;
        desk.last_used = now;
        match desk.machine.serving(now, &shared.parts.policy) {
            Serving::Use => {
                if let Some(key) = self.current(epoch) {
                    return Verdict::Answer(Ok(key));
                }
                let Some(epoch) = epoch else { return Verdict::Wait };
                match desk.said_of.get(&epoch) {
                    Some((round, error)) if *round > since => return Verdict::Answer(Err(error.clone())),
                    _ => {}
                }
                if desk.machine.failed_of_late(now, &shared.parts.policy) {
                    return Verdict::Answer(Err(self.refusal(desk, shared, KeyState::Unavailable)));
                }
                desk.wanted.insert(epoch);
                Verdict::Wait
            }
            Serving::Refuse => {
                let state = match desk.machine.reported() {
                    KeyState::Revoked => KeyState::Revoked,
                    _ => KeyState::Unavailable,
                };
                Verdict::Answer(Err(self.refusal(desk, shared, state)))
            }
            Serving::Wait => match &desk.said {
                Some((round, error)) if *round > since => Verdict::Answer(Err(error.clone())),
                _ => {
                    desk.asked = true;
                    Verdict::Wait
                }
            },
        }
    }

    fn refusal(&self, desk: &Desk, shared: &Shared, state: KeyState) -> KeyError {
        let policy = &shared.parts.policy;
        let (account, provider) = (self.account, self.provider);
        match (state, &desk.failure) {
            (KeyState::Revoked, _) => KeyError::Revoked {
                account,
                provider,
                key_id: desk.denied.clone().or_else(|| desk.key_id()),
                poll: policy.revoked_poll(),
            },
            (_, Some((error, _))) => error.clone(),
            (_, None) => {
                KeyError::Unavailable { account, provider, fault: Fault::Overdue, retry: policy.retry_max() }
            }
        }
    }

    pub(super) fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Steps the machine and does at once what can be done at once. Returns what the task is to do.
    pub(super) fn feed(
        self: &Arc<Self>,
        desk: &mut Desk,
        shared: &Shared,
        event: Event,
        told: &mut Vec<KeyEvent>,
    ) -> Option<Effect> {
        let at = self.clock.now();
        let (machine, effects) = step(desk.machine.clone(), event, at, &shared.parts.policy);
        desk.machine = machine;
        let mut work = None;
        for effect in effects {
            let what = match effect {
                Effect::Evict => {
                    self.evict(desk);
                    continue;
                }
                Effect::Publish(bounds) => {
                    self.publish(desk, shared, bounds);
                    continue;
                }
                Effect::Attempt { .. } | Effect::ReadRecord | Effect::Persist { .. } => {
                    work = Some(effect);
                    continue;
                }
                Effect::Alarm(alarm) => What::Alarm(alarm),
                Effect::Announce { from, to, why } => {
                    self.state.send_replace(to);
                    What::Changed { from, to, why }
                }
                Effect::Refreshed => What::Refreshed,
            };
            let (account, provider, key_id) = (self.account, self.provider, desk.key_id());
            told.push(KeyEvent { account, provider, key_id, at, what });
        }
        if !desk.machine.is_restoring() {
            desk.candidate = None;
        }
        work
    }

    fn publish(self: &Arc<Self>, desk: &mut Desk, shared: &Shared, bounds: crate::machine::Bounds) {
        if shared.is_closing() {
            return;
        }
        if let Some(keys) = desk.candidate.take() {
            desk.keys = keys;
            desk.used = desk.waiting > 0;
            desk.failure = None;
            desk.denied = None;
        }
        let live = Live { keys: desk.keys.clone(), bounds, entry: Arc::downgrade(self) };
        self.live.store(Some(Arc::new(live)));
    }

    fn evict(&self, desk: &mut Desk) {
        self.live.store(None);
        desk.keys.clear();
        desk.candidate = None;
    }

    /// Lets everybody who waits look again.
    pub(super) fn end_round(&self, desk: &mut Desk) {
        desk.asked = false;
        self.rounds.send_modify(|round| *round += 1);
        if desk.waiting == 0 {
            desk.said = None;
            desk.said_of.clear();
        }
    }

    /// The same with something to say to them. Ends no round yet.
    pub(super) fn say(&self, desk: &mut Desk, error: KeyError) {
        desk.said = Some((*self.rounds.borrow() + 1, error));
    }

    /// The same to those who wait for one epoch.
    pub(super) fn say_of(&self, desk: &mut Desk, epoch: Epoch, error: KeyError) {
        desk.said_of.insert(epoch, (*self.rounds.borrow() + 1, error));
    }

    /// Lets time pass for the machine, while something is under way.
    pub(super) fn tick(self: &Arc<Self>, shared: &Shared) {
        let mut told = Vec::new();
        let mut desk = self.desk();
        let before = desk.machine.reported();
        self.feed(&mut desk, shared, Event::Wake { wanted: false, used: true }, &mut told);
        if desk.machine.reported() != before {
            self.end_round(&mut desk);
        }
        drop(desk);
        shared.tell(told);
    }

    /// What the task is to do now.
    pub(super) fn next(self: &Arc<Self>, shared: &Shared) -> Work {
        let mut told = Vec::new();
        let mut desk = self.desk();
        let work = self.decide(&mut desk, shared, &mut told);
        drop(desk);
        shared.tell(told);
        work
    }

    fn decide(self: &Arc<Self>, desk: &mut Desk, shared: &Shared, told: &mut Vec<KeyEvent>) -> Work {
        let policy = &shared.parts.policy;
        let now = self.clock.now();
        if self.activity.swap(activity::UNUSED, Ordering::Relaxed) == activity::USED {
            desk.used = true;
            desk.last_used = now;
        }
        let before = desk.machine.reported();
        let wanted = std::mem::take(&mut desk.asked);
        let used = if desk.machine.holds_key() {
            desk.used
        } else {
            self.state.receiver_count() > 0 || now.since(&desk.last_used) < policy.usable_for()
        };
        let mut work = self.feed(desk, shared, Event::Wake { wanted, used }, told);
        if work.is_none() && !desk.wanted.is_empty() {
            work = self.feed(desk, shared, Event::Fetch, told);
        }
        if desk.machine.reported() != before {
            self.end_round(desk);
        }
        if let Some(work) = work {
            return Work::Do(work);
        }
        if desk.machine.is_at_rest() && desk.waiting == 0 {
            self.rest(desk, shared);
            return Work::End;
        }
        if desk.machine.holds_key() && desk.machine.is_idle() {
            let (from, to) = (activity::UNUSED, activity::ASLEEP);
            let _ = self.activity.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed);
            if self.activity.load(Ordering::Relaxed) == activity::USED {
                return Work::Sleep(std::time::Duration::ZERO);
            }
        }
        Work::Sleep(desk.machine.next_wake(now, policy).unwrap_or(task::LONGEST_SLEEP))
    }

    /// Ends the task; frees the entry if nobody holds it.
    fn rest(self: &Arc<Self>, desk: &mut Desk, shared: &Shared) {
        desk.running = false;
        // The map's and the task's own. Who looks it up from now on finds it retired.
        if Arc::strong_count(self) <= 2 && self.state.receiver_count() == 0 {
            desk.retired = true;
            shared.entries.remove((self.account, self.provider), self);
        }
    }

    /// The task has ended without being told to: what it had under way came to nothing.
    pub(super) fn abandon(self: &Arc<Self>, shared: &Shared) {
        let mut told = Vec::new();
        let mut desk = self.desk();
        if desk.running {
            desk.running = false;
            self.feed(&mut desk, shared, Event::Abandoned, &mut told);
            if shared.is_closing() {
                self.evict(&mut desk);
            }
            self.end_round(&mut desk);
        }
        drop(desk);
        shared.tell(told);
    }

    pub(super) fn alarm(&self, desk: &Desk, alarm: Alarm) -> KeyEvent {
        KeyEvent {
            account: self.account,
            provider: self.provider,
            key_id: desk.key_id(),
            at: self.clock.now(),
            what: What::Alarm(alarm),
        }
    }

    pub(super) fn forget(self: &Arc<Self>, shared: &Shared) {
        let mut told = Vec::new();
        let mut desk = self.desk();
        desk.generation += 1;
        desk.record = None;
        desk.failure = None;
        self.feed(&mut desk, shared, Event::Forgotten, &mut told);
        self.end_round(&mut desk);
        drop(desk);
        self.wake.notify_one();
        shared.tell(told);
    }

    pub(super) fn shut(&self) {
        let mut desk = self.desk();
        self.evict(&mut desk);
        self.end_round(&mut desk);
    }

    pub(super) fn watch(&self) -> Option<watch::Receiver<KeyState>> {
        let desk = self.desk();
        (!desk.retired).then(|| self.state.subscribe())
    }

    pub(super) fn status(&self, shared: &Shared) -> KeyStatus {
        let policy = &shared.parts.policy;
        let desk = self.desk();
        let look = Event::Wake { wanted: false, used: false };
        let (machine, _) = step(desk.machine.clone(), look, self.clock.now(), policy);
        let bounds = machine.bounds(policy);
        KeyStatus {
            state: machine.reported(),
            verified_at: bounds.map(|bounds| bounds.verified.sent),
            fresh_until: bounds.map(|bounds| bounds.fresh_until),
            usable_until: bounds.map(|bounds| bounds.usable_until),
            key_id: desk.key_id(),
            last_failure: desk.failure.as_ref().map(|(_, failure)| failure.clone()),
        }
    }

    pub(super) fn scope(&self, epoch: Epoch) -> KeyScope {
        KeyScope { account: self.account, epoch, provider: self.provider }
    }
}

impl Desk {
    /// Takes note of what failed, for refusals and the status.
    pub(super) fn note_failure(&mut self, error: KeyError, at: Timestamp) {
        let kind = match &error {
            KeyError::Unavailable { fault: Fault::Vault { kind, key_id, .. }, .. } => {
                if kind.meaning() != cofferdam_vault::Meaning::Outage {
                    self.denied.clone_from(key_id);
                }
                Some(*kind)
            }
            _ => None,
        };
        let message = error.to_string();
        self.failure = Some((error, LastFailure { kind, message, at }));
    }

    fn key_id(&self) -> Option<KeyId> {
        let newest = self.record.as_ref()?.epochs.last()?;
        newest.wraps.first().map(|wrap| wrap.key_id.clone())
    }
}

impl Shared {
    /// Tells and logs events, with no lock held.
    pub(super) fn tell(&self, events: Vec<KeyEvent>) {
        for event in events {
            event.log();
            // Nobody may be listening.
            let _ = self.events.send(event);
        }
    }
}

/// Counts a caller as waiting until it is dropped.
struct Waiting<'a> {
    entry: &'a Entry,
    since: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.entry.desk().waiting -= 1;
    }
}
