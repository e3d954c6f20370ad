//! What happens behind the hot path: every step of an entry's machine, and what it changes at once.
//!
//! Invariants: `live` follows the machine in the same step, under the desk's lock; events are told once the lock
//! is released.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use cofferdam_crypto::{
    Epoch, Provider,
    planted::{Bug, is_planted},
};

use super::{
    Shared,
    agenda::LONGEST_SLEEP,
    desk::{Desk, Ticket},
    entry::{Entry, activity},
    kept::{Kept, Names},
    lane::{InUse, Lane},
    live::Live,
};
use crate::{
    KeyError, KeyEvent, KeyRecord, VaultEvent, What, WhatOfVault,
    budget::News,
    machine::{Bounds, Effect, Event, step},
    rt::{self, atomic::Ordering},
    telemetry::{self, HeldIn},
};

/// What is to be done for an entry now.
#[derive(Debug)]
pub(super) enum Work {
    Do(Effect),
    /// Read the record: these epochs are asked for, and what is known of it lacks them.
    Look(BTreeSet<Epoch>),
    /// Nothing until then.
    Rest(Duration),
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
                    if let Some(watch) = &desk.watch {
                        watch.send_replace(to);
                    }
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
        self.note_in_use(desk, shared);
        work
    }

    /// Whether the account counts as in use at its vault.
    fn note_in_use(&self, desk: &mut Desk, shared: &Shared) {
        // A service's key that only a record was authenticated by is not refreshed.
        let is_needed = desk.lent || self.provider == Provider::Customer;
        let record = desk.record.as_ref().filter(|_| is_needed && desk.machine.is_polled());
        match record.and_then(|record| shared.lanes.demand(self.provider, record)) {
            None => desk.in_use = None,
            Some(demand) if desk.in_use.as_ref().is_some_and(|known| known.is_of(&demand)) => {}
            Some(demand) => {
                let in_use = InUse::new(&demand);
                desk.in_use = in_use;
            }
        }
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
            let waited_for = desk.waiting > 0;
            desk.used = waited_for && desk.lent;
            self.promise(waited_for, shared);
            desk.failure = None;
            desk.denied.clear();
            desk.denied_elsewhere = false;
            desk.denial = None;
        }
        if let Some(claim) = desk.claim.take() {
            let (who, recovery) = (Arc::downgrade(self), desk.machine.recovery());
            desk.seat = Some(claim.sit(who, recovery, self.used_at()));
        }
        let live = Live::new(&desk.keys, &bounds, Arc::downgrade(self));
        self.live.store(live.map(Arc::new));
    }

    fn evict(self: &Arc<Self>, desk: &mut Desk) {
        if is_planted(Bug::EvictedUnlocked) {
            let entry = self.clone();
            rt::spawn(async move { entry.live.store(None) });
        } else {
            self.live.store(None);
        }
        self.segments.clear();
        desk.keys = Vec::new();
        desk.candidate = None;
        desk.seat = None;
        desk.held = None;
        desk.bridged = None;
        desk.lent = false;
    }

    /// Lets everybody who waits look again.
    pub(super) fn end_round(&self, desk: &mut Desk) {
        desk.asked = false;
        desk.round += 1;
        if let Some(round_ended) = &desk.round_ended {
            round_ended.notify_waiters();
        }
        if desk.waiting == 0 {
            desk.round_ended = None;
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
        names: &Names,
    ) {
        let mut desk = self.desk();
        if !desk.admits(generation) {
            return;
        }
        let now = self.now();
        let has = |record: &KeyRecord, epoch| record.epochs.iter().any(|of| of.scope.epoch == epoch);
        if let Ok(record) = &read {
            desk.adopt(Kept::new(record, names, now));
        }
        for &epoch in lacking {
            let error = match &read {
                Ok(record) if has(record, epoch) => continue,
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
        self.tell(shared, desk, told);
        due.map_or(Ticked::GoOn, Ticked::Due)
    }

    /// What is to be persisted although the keyring closes: a revocation that is known.
    pub(super) fn owed(self: &Arc<Self>, shared: &Shared) -> Option<Effect> {
        let mut told = Vec::new();
        let mut desk = self.desk();
        if !desk.machine.is_unpersisted() {
            return None;
        }
        let work = self.feed(&mut desk, shared, Event::Wake { wanted: true, used: true }, &mut told);
        self.tell(shared, desk, told);
        work
    }

    pub(super) fn decide(
        self: &Arc<Self>,
        desk: &mut Desk,
        shared: &Shared,
        told: &mut Vec<KeyEvent>,
    ) -> Work {
        let policy = &shared.parts.policy;
        let now = self.now();
        if self.activity.swap(activity::UNUSED, Ordering::Relaxed) == activity::USED {
            (desk.used, desk.lent) = (true, true);
            desk.last_used = now;
        }
        let before = desk.machine.reported();
        let wanted = std::mem::take(&mut desk.asked);
        let used = if desk.machine.holds_key() {
            // Who waits for a record's sake has not seen yet that an attempt failed.
            desk.used || (desk.waiting > 0 && desk.machine.failed_of_late(now, policy))
        } else {
            desk.is_watched() || now.since(&desk.last_used) < policy.usable_for()
        };
        if used && !wanted && desk.waiting == 0 && !desk.is_to_reload() {
            let put_off = self.put_off(desk, shared, told);
            if desk.machine.reported() != before {
                self.end_round(desk);
            }
            if let Some(time) = put_off {
                return Work::Rest(time);
            }
        }
        let before = desk.machine.reported();
        let mut work = self.feed(desk, shared, Event::Wake { wanted, used }, told);
        let is_for_record = self.provider == Provider::Service && !desk.lent;
        if is_for_record && desk.machine.is_idle() && desk.waiting == 0 && !self.is_promised() {
            // Unwrapped to authenticate the customer's record, which is done.
            self.feed(desk, shared, Event::LetGo, told);
        }
        let lacking = if desk.machine.holds_key() { desk.lacking() } else { BTreeSet::new() };
        if work.is_none() && lacking.is_empty() && (!desk.wanted.is_empty() || desk.is_to_reload()) {
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
            return Work::End;
        }
        if desk.machine.holds_key() && desk.machine.is_idle() {
            let (from, to) = (activity::UNUSED, activity::ASLEEP);
            let _ = self.activity.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed);
            if self.activity.load(Ordering::Relaxed) == activity::USED {
                return Work::Rest(Duration::ZERO);
            }
        }
        Work::Rest(desk.machine.next_wake(now, policy).unwrap_or(LONGEST_SLEEP))
    }

    /// Frees the entry if it rests and nobody holds it. Not before its events are told: those of the next one come
    /// after them.
    pub(super) fn rest(self: &Arc<Self>, shared: &Shared) {
        let mut desk = self.desk();
        // The map's, and that of who looks at it.
        if self.retire(&mut desk, 2) {
            shared.entries.remove((self.account, self.provider), self);
        }
    }

    /// Puts the entry out of use if it rests and only `holders` hold it. Who looks it up from now on finds it
    /// retired.
    fn retire(self: &Arc<Self>, desk: &mut Desk, holders: usize) -> bool {
        rt::point();
        let unused = Arc::strong_count(self) <= holders && !desk.is_watched();
        let is_told = desk.untold.is_none();
        desk.retired |= unused && is_told && desk.running.is_none() && desk.machine.is_at_rest();
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
        if desk.running.take().is_some() {
            if shared.is_closing() {
                // The close tells who waits; nothing failed that a key would spend its grace for.
                self.evict(&mut desk);
            } else {
                self.feed(&mut desk, shared, Event::Abandoned, &mut told);
                self.set_timer(&mut desk, Duration::ZERO);
            }
            self.end_round(&mut desk);
        }
        self.tell(shared, desk, told);
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
        match &desk.running {
            Some(task) => task.notify_one(),
            None => self.hub().agenda.call(Arc::downgrade(self)),
        }
        self.tell(shared, desk, told);
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
        match &desk.running {
            Some(task) => task.notify_one(),
            None => self.hub().agenda.call(Arc::downgrade(self)),
        }
        self.tell(shared, desk, told);
    }

    pub(super) fn shut(self: &Arc<Self>) {
        let mut desk = self.desk();
        self.evict(&mut desk);
        desk.in_use = None;
        self.end_round(&mut desk);
    }
}

impl Shared {
    /// Tells and logs what happened to a vault's calls.
    pub(super) fn tell_of_vault(&self, lane: &Lane, news: News) {
        let what = match news {
            News::Over => WhatOfVault::OverBudget,
            News::Within => WhatOfVault::WithinBudget,
        };
        let event =
            VaultEvent { vault: lane.name().clone(), at: self.hub.now(), what, status: lane.status() };
        event.log();
        telemetry::count_vault(lane.provider(), what);
        // Nobody may be listening.
        let _ = self.vault_events.send(event);
    }
}
