//! What happens behind the hot path: every step of an entry's machine, and what it changes at once.
//!
//! Invariants: `live` follows the machine in the same step, under the desk's lock; events are told once the lock
//! is released; a result is delivered only while the desk admits its ticket.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use cofferdam_crypto::{
    Epoch, KeyCheckValue, KeyId, Provider,
    planted::{Bug, is_planted},
};
use cofferdam_vault::{Meaning, Timestamp};

use super::{
    LastFailure, Shared,
    entry::{Entry, activity},
    live::{Live, Material},
    seats::{Claim, Seat},
    task,
};
use crate::{
    Fault, KeyError, KeyEvent, KeyRecord, What,
    machine::{Bounds, Effect, Event, State, step},
    telemetry::{self, HeldIn},
};

/// How many epochs are remembered as unknown; the oldest make way.
const UNKNOWN_KEPT: usize = 64;

/// What the task and the slow path share.
pub(super) struct Desk {
    pub(super) machine: State,
    pub(super) record: Option<Arc<KeyRecord>>,
    /// What is live, by epoch.
    pub(super) keys: Vec<Arc<Material>>,
    /// The AEK of the newest epoch that was verified.
    proven: Option<(Epoch, KeyCheckValue)>,
    /// What a verified attempt unwrapped, until the machine publishes it.
    pub(super) candidate: Option<Vec<Arc<Material>>>,
    /// Where the keys are held.
    pub(super) seat: Option<Seat>,
    /// Counts them as held.
    pub(super) held: Option<HeldIn>,
    /// For the seat of the keys that are about to be published.
    pub(super) claim: Option<Claim>,
    /// Epochs that callers wait for.
    pub(super) wanted: BTreeSet<Epoch>,
    /// Epochs that the record was found to lack since the last attempt began: they are not looked for again.
    pub(super) unknown: VecDeque<Epoch>,
    /// How often the account was forgotten, and its key displaced.
    forgets: u64,
    displacements: u64,
    pub(super) failure: Option<(KeyError, LastFailure)>,
    pub(super) denied: Option<KeyId>,
    /// The last denial since the key was verified.
    denial: Option<(KeyError, LastFailure)>,
    /// Counts what was concluded: those who wait look again at each.
    pub(super) round: u64,
    /// What a round said to who waited in it, if not by the state.
    pub(super) said: Option<(u64, KeyError)>,
    pub(super) said_of: BTreeMap<Epoch, (u64, KeyError)>,
    /// A caller waits that no attempt was begun for yet.
    pub(super) asked: bool,
    pub(super) waiting: usize,
    /// Used since the last verified attempt.
    pub(super) used: bool,
    pub(super) last_used: Timestamp,
    pub(super) running: bool,
    pub(super) retired: bool,
}

/// What is under way is delivered to who still waits for it: a result is dropped once the account was forgotten,
/// or its key displaced where the result is about that.
#[derive(Clone, Copy)]
pub(super) struct Ticket {
    forgets: u64,
    displacements: Option<u64>,
}

/// What the task is to do next.
#[derive(Debug)]
pub(super) enum Work {
    Do(Effect),
    /// Read the record: these epochs are asked for, and what is known of it lacks them.
    Look(BTreeSet<Epoch>),
    Sleep(Duration),
    End,
}

/// What a lapse of time means for what is under way.
pub(super) enum Ticked {
    GoOn,
    /// What it is about was forgotten.
    Forgotten,
    /// This comes first. Never said to what the machine asked for itself.
    Due(Effect),
}

impl Desk {
    pub(super) fn new(provider: Provider, now: Timestamp) -> Self {
        Self {
            machine: State::new(provider),
            record: None,
            keys: Vec::new(),
            proven: None,
            candidate: None,
            seat: None,
            held: None,
            claim: None,
            wanted: BTreeSet::new(),
            unknown: VecDeque::new(),
            forgets: 0,
            displacements: 0,
            failure: None,
            denied: None,
            denial: None,
            round: 0,
            said: None,
            said_of: BTreeMap::new(),
            asked: false,
            waiting: 0,
            used: false,
            last_used: now,
            running: false,
            retired: false,
        }
    }

    /// For what is about the key.
    pub(super) fn ticket(&self) -> Ticket {
        Ticket { forgets: self.forgets, displacements: Some(self.displacements) }
    }

    /// For what is about the record alone.
    pub(super) fn ticket_of_record(&self) -> Ticket {
        Ticket { forgets: self.forgets, displacements: None }
    }

    pub(super) fn admits(&self, ticket: Ticket) -> bool {
        let displaced = ticket.displacements.is_some_and(|known| known != self.displacements);
        ticket.forgets == self.forgets && !displaced
    }

    /// Keeps a record that was just read.
    pub(super) fn adopt(&mut self, record: Arc<KeyRecord>) {
        self.unknown.retain(|&epoch| !record.has(epoch));
        self.record = Some(record);
    }

    /// What is waited for and not in the record, as far as that is known.
    pub(super) fn lacking(&self) -> BTreeSet<Epoch> {
        let has = |epoch| self.record.as_ref().is_some_and(|record| record.has(epoch));
        self.wanted.iter().copied().filter(|&epoch| !has(epoch)).collect()
    }

    /// Nothing that was known of the account holds any longer.
    pub(super) fn forget_record(&mut self) {
        self.record = None;
        self.proven = None;
    }

    fn note_unknown(&mut self, epoch: Epoch) {
        if self.unknown.len() == UNKNOWN_KEPT {
            self.unknown.pop_front();
        }
        self.unknown.push_back(epoch);
    }

    /// Takes note of what failed, for refusals and the status. A denial outweighs an outage after it until the key is
    /// verified again: it may be a revocation that could not be confirmed, so nothing is buffered meanwhile.
    pub(super) fn note_failure(&mut self, error: KeyError, at: Timestamp) {
        if self.denial.is_some() && error.is_outage() {
            self.failure.clone_from(&self.denial);
            return;
        }
        let kind = match &error {
            KeyError::Unavailable { fault: Fault::Vault { kind, key_id, .. }, .. } => {
                if kind.meaning() != Meaning::Outage {
                    self.denied.clone_from(key_id);
                }
                Some(*kind)
            }
            _ => None,
        };
        let message = error.to_string();
        self.failure = Some((error, LastFailure { kind, message, at }));
        if kind.is_some_and(|kind| kind.meaning() == Meaning::Denial) {
            self.denial.clone_from(&self.failure);
        }
    }

    /// Whether the record's newest AEK was verified since the account was last forgotten.
    pub(super) fn is_proven(&self) -> bool {
        let newest = self.record.as_ref().and_then(|record| record.epochs.last());
        match (&self.proven, newest) {
            (Some((epoch, check)), Some(newest)) => *epoch == newest.scope.epoch && *check == newest.check,
            (proven, None) => proven.is_some(),
            (None, _) => false,
        }
    }

    pub(super) fn key_id(&self) -> Option<KeyId> {
        let newest = self.record.as_ref()?.epochs.last()?;
        newest.wraps.first().map(|wrap| wrap.key_id.clone())
    }
}

impl Entry {
    /// Steps the machine and does at once what can be done at once. Returns what the task is to do.
    pub(super) fn feed(
        self: &Arc<Self>,
        desk: &mut Desk,
        shared: &Shared,
        event: Event,
        told: &mut Vec<KeyEvent>,
    ) -> Option<Effect> {
        let (machine, effects) = step(desk.machine.clone(), event, self.now(), &shared.parts.policy);
        desk.machine = machine;
        let mut work = None;
        for effect in effects {
            let what = match effect {
                Effect::Evict => {
                    if !is_planted(Bug::EvictForgotten) {
                        self.evict(desk);
                    }
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
            told.push(self.event(desk, what));
        }
        if !desk.machine.is_restoring() {
            desk.candidate = None;
        }
        desk.claim = None;
        self.note_held(desk);
        work
    }

    /// Where and as what the keys are held now.
    fn note_held(&self, desk: &mut Desk) {
        let recovery = desk.machine.recovery();
        if let Some(seat) = &mut desk.seat {
            seat.rank(recovery, self.used_at());
            let state = desk.machine.reported();
            if desk.held.as_ref().map(HeldIn::state) != Some(state) {
                // The old one first.
                desk.held = None;
                desk.held = HeldIn::new(self.provider, state);
            }
        }
    }

    fn publish(self: &Arc<Self>, desk: &mut Desk, shared: &Shared, bounds: Bounds) {
        if shared.is_closing() {
            return;
        }
        if let Some(keys) = desk.candidate.take() {
            desk.proven = keys.last().map(|newest| (newest.epoch(), newest.check()));
            desk.keys = keys;
            desk.used = desk.waiting > 0;
            self.promise(desk.used);
            desk.failure = None;
            desk.denied = None;
            desk.denial = None;
        }
        if let Some(claim) = desk.claim.take() {
            let (who, recovery) = (Arc::downgrade(self), desk.machine.recovery());
            desk.seat = Some(claim.sit(who, recovery, self.used_at()));
        }
        let live = Live { keys: desk.keys.clone(), bounds, entry: Arc::downgrade(self) };
        self.live.store(Some(Arc::new(live)));
    }

    fn evict(&self, desk: &mut Desk) {
        self.live.store(None);
        desk.keys.clear();
        desk.candidate = None;
        desk.seat = None;
        desk.held = None;
    }

    /// Lets everybody who waits look again.
    pub(super) fn end_round(&self, desk: &mut Desk) {
        desk.asked = false;
        desk.round += 1;
        self.round_ended.notify_waiters();
        if desk.waiting == 0 {
            desk.said = None;
            desk.said_of.clear();
        }
    }

    /// The same with something to say to them. Ends no round yet.
    pub(super) fn say(&self, desk: &mut Desk, error: KeyError) {
        desk.said = Some((desk.round + 1, error));
    }

    /// The same to those who wait for one epoch.
    pub(super) fn say_of(&self, desk: &mut Desk, epoch: Epoch, error: KeyError) {
        desk.said_of.insert(epoch, (desk.round + 1, error));
    }

    /// What a reading of the record means to those who wait for epochs that it lacked: what it still lacks does
    /// not exist. Ends the round, unless what it is about was forgotten meanwhile.
    pub(super) fn settle(
        &self,
        generation: Ticket,
        lacking: &BTreeSet<Epoch>,
        read: Result<KeyRecord, KeyError>,
    ) {
        let mut desk = self.desk();
        if !desk.admits(generation) {
            return;
        }
        let read = read.map(Arc::new);
        if let Ok(record) = &read {
            desk.adopt(record.clone());
        }
        for &epoch in lacking {
            let error = match &read {
                Ok(record) if record.has(epoch) => continue,
                Ok(_) => {
                    desk.note_unknown(epoch);
                    KeyError::UnknownEpoch(self.scope(epoch))
                }
                Err(error) => error.clone(),
            };
            desk.wanted.remove(&epoch);
            self.say_of(&mut desk, epoch, error);
        }
        self.end_round(&mut desk);
    }

    /// Lets time pass for the machine while something is under way.
    pub(super) fn tick(self: &Arc<Self>, shared: &Shared, generation: Ticket) -> Ticked {
        let mut told = Vec::new();
        let mut desk = self.desk();
        if !desk.admits(generation) {
            return Ticked::Forgotten;
        }
        let before = desk.machine.reported();
        let due = self.feed(&mut desk, shared, Event::Wake { wanted: false, used: true }, &mut told);
        if desk.machine.reported() != before {
            self.end_round(&mut desk);
        }
        drop(desk);
        shared.tell(told);
        due.map_or(Ticked::GoOn, Ticked::Due)
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

    /// What is to be persisted although the keyring closes: a revocation that is known.
    pub(super) fn owed(self: &Arc<Self>, shared: &Shared) -> Option<Effect> {
        let mut told = Vec::new();
        let mut desk = self.desk();
        if !desk.machine.is_unpersisted() {
            return None;
        }
        let work = self.feed(&mut desk, shared, Event::Wake { wanted: true, used: true }, &mut told);
        drop(desk);
        shared.tell(told);
        work
    }

    fn decide(self: &Arc<Self>, desk: &mut Desk, shared: &Shared, told: &mut Vec<KeyEvent>) -> Work {
        let policy = &shared.parts.policy;
        let now = self.now();
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
        let lacking = if desk.machine.holds_key() { desk.lacking() } else { BTreeSet::new() };
        if work.is_none() && lacking.is_empty() && !desk.wanted.is_empty() {
            work = self.feed(desk, shared, Event::Fetch, told);
        }
        if desk.machine.reported() != before {
            self.end_round(desk);
        }
        if let Some(work) = work {
            return Work::Do(work);
        }
        if !lacking.is_empty() {
            return Work::Look(lacking);
        }
        if desk.machine.is_at_rest() && desk.waiting == 0 {
            self.rest(desk, shared);
            return Work::End;
        }
        if desk.machine.holds_key() && desk.machine.is_idle() {
            let (from, to) = (activity::UNUSED, activity::ASLEEP);
            let _ = self.activity.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed);
            if self.activity.load(Ordering::Relaxed) == activity::USED {
                return Work::Sleep(Duration::ZERO);
            }
        }
        Work::Sleep(desk.machine.next_wake(now, policy).unwrap_or(task::LONGEST_SLEEP))
    }

    /// Ends the task; frees the entry if nobody holds it.
    fn rest(self: &Arc<Self>, desk: &mut Desk, shared: &Shared) {
        desk.running = false;
        // The map's and the task's own.
        if self.retire(desk, 2) {
            shared.entries.remove((self.account, self.provider), self);
        }
    }

    /// Puts the entry out of use if it rests and only `holders` hold it. Who looks it up from now on finds it
    /// retired.
    fn retire(self: &Arc<Self>, desk: &mut Desk, holders: usize) -> bool {
        let unused = Arc::strong_count(self) <= holders && self.state.receiver_count() == 0;
        desk.retired |= unused && !desk.running && desk.machine.is_at_rest();
        desk.retired
    }

    /// The same for the map, which finds entries whose last holder went after their task.
    pub(super) fn retire_if_unused(self: &Arc<Self>, holders: usize) -> bool {
        self.try_desk().is_some_and(|mut desk| self.retire(&mut desk, holders))
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

    pub(super) fn event(&self, desk: &Desk, what: What) -> KeyEvent {
        let (account, provider, key_id) = (self.account, self.provider, desk.key_id());
        KeyEvent { account, provider, key_id, at: self.now(), what }
    }

    pub(super) fn forget(self: &Arc<Self>, shared: &Shared) {
        let mut told = Vec::new();
        let mut desk = self.desk();
        desk.forgets += 1;
        desk.forget_record();
        desk.unknown.clear();
        desk.failure = None;
        desk.denial = None;
        self.feed(&mut desk, shared, Event::Forgotten, &mut told);
        self.end_round(&mut desk);
        drop(desk);
        self.wake.notify_one();
        shared.tell(told);
    }

    /// Gives up the key in this seat, for another to sit there.
    pub(super) fn displace(self: &Arc<Self>, shared: &Shared, seat: u64) {
        let mut told = Vec::new();
        let mut desk = self.desk();
        if desk.seat.as_ref().is_none_or(|own| own.number() != seat) {
            return;
        }
        desk.displacements += 1;
        self.feed(&mut desk, shared, Event::Displaced, &mut told);
        // Read again with the next attempt.
        desk.record = None;
        desk.unknown.clear();
        desk.failure = None;
        desk.denial = None;
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
}

impl Shared {
    /// Tells and logs events, with no lock held.
    pub(super) fn tell(&self, events: Vec<KeyEvent>) {
        for event in events {
            event.log();
            telemetry::count(&event);
            // Nobody may be listening.
            let _ = self.events.send(event);
        }
    }
}
