//! When an entry's work is done: now by a task, later by the agenda, or once there is a turn at its vault.
//!
//! Guarantees: an entry has at most one task; one that has something to do later is in the agenda. An attempt that nobody
//! waits for is begun when its vault has a turn for it, and not before: it neither waits in a task nor counts as failed.
//!
//! Not its job: to decide what is to be done (`steps`).

use std::{sync::Arc, time::Duration};

use cofferdam_crypto::planted::{Bug, is_planted};
use cofferdam_vault::Timestamp;

use super::{
    Shared,
    agenda::LONGEST_SLEEP,
    desk::Desk,
    entry::Entry,
    lane::{Lane, Turn},
    steps::Work,
    task,
};
use crate::{
    KeyEvent,
    machine::{Effect, Event},
};

impl Entry {
    /// What the entry's task, if it `is_task`, or else a new one, is to do now. Without work there is none, and the agenda
    /// looks again when time has brought some.
    pub(super) fn next(self: &Arc<Self>, shared: &Shared, is_task: bool) -> Option<Work> {
        let mut told = Vec::new();
        let mut desk = self.desk();
        if !is_task && desk.running.is_some() {
            return None;
        }
        let work = self.decide(&mut desk, shared, &mut told);
        if !matches!(work, Work::Do(Effect::Attempt { .. })) {
            desk.turns.clear();
        }
        match work {
            Work::Do(_) | Work::Look(_) => {
                desk.running.get_or_insert_default();
            }
            Work::Rest(time) => {
                desk.running = None;
                self.set_timer(&mut desk, time);
            }
            Work::End => desk.running = None,
        }
        self.tell(shared, desk, told);
        if matches!(work, Work::End) {
            self.rest(shared);
        }
        Some(work)
    }

    /// Has the agenda look at the entry after this time, or before.
    pub(super) fn set_timer(self: &Arc<Self>, desk: &mut Desk, time: Duration) {
        let now = self.now().boot;
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let at = nanos(now.saturating_add(time.min(LONGEST_SLEEP)));
        // One that comes sooner sets the next.
        // One that was slept over, while the machine was suspended, is no good.
        if desk.timer.is_none_or(|timer| at < timer || timer <= nanos(now)) {
            desk.timer = Some(at);
            self.hub().agenda.at(at, Arc::downgrade(self), nanos(now));
        }
    }

    /// Whether this timer is the one that was set last; it is no longer.
    pub(super) fn is_timer(&self, at: u64) -> bool {
        let mut desk = self.desk();
        let is_timer = desk.timer == Some(at);
        if is_timer {
            desk.timer = None;
        }
        is_timer
    }

    /// Its turn has come at its vault.
    pub(super) fn take_turn(&self, turn: Turn) {
        let mut desk = self.desk();
        desk.queued = false;
        if desk.running.is_none() {
            desk.turns.push(turn);
        }
    }

    /// An attempt that nobody waits for is put off until there is a turn for it at each of its vaults; returns for how
    /// long at the most, unless it is its turn.
    pub(super) fn put_off(
        self: &Arc<Self>,
        desk: &mut Desk,
        shared: &Shared,
        told: &mut Vec<KeyEvent>,
    ) -> Option<Duration> {
        let (now, policy) = (self.now(), &shared.parts.policy);
        if !desk.machine.is_attempt_due(now) {
            return None;
        }
        let demand = shared.lanes.demand(self.provider, desk.record.as_ref()?)?;
        // First of all later, if there are more accounts than when it was verified. Lets time pass in any case.
        let pace = demand.pace().max(desk.machine.pace(policy));
        self.feed(desk, shared, Event::Paced(pace), told);
        if !desk.machine.is_attempt_due(now) {
            return None;
        }
        let deadline = self.deadline(desk, shared);
        // It does not go from one queue to the next for ever.
        let has_waited = !desk.turns.is_empty();
        let is_late = deadline.is_some_and(|deadline| deadline <= now.boot);
        let lane = demand.lanes().find(|lane| !may_go(desk, lane, has_waited, is_late, now))?;
        // What is not used is another's: it is not kept while one waits elsewhere.
        desk.turns.clear();
        self.queue(desk, lane, deadline.unwrap_or(now.boot + policy.ceiling()));
        let until = deadline.map(|deadline| deadline.saturating_sub(now.boot));
        let until = until.filter(|until| !until.is_zero()).unwrap_or(LONGEST_SLEEP);
        let bound = desk.machine.next_wake_but_due(now, policy).unwrap_or(LONGEST_SLEEP);
        Some(until.min(bound))
    }

    fn queue(self: &Arc<Self>, desk: &mut Desk, lane: &Lane, deadline: Duration) {
        if !std::mem::replace(&mut desk.queued, true) {
            lane.wait_behind(self, deadline);
        }
    }

    /// When callers begin to wait for the key that is held, as time since boot.
    fn deadline(&self, desk: &Desk, shared: &Shared) -> Option<Duration> {
        let bounds = desk.machine.bounds(&shared.parts.policy)?;
        let unasked = bounds.unasked_until.boot;
        Some(bounds.retried_until.map_or(unasked, |until| until.boot.max(unasked)))
    }
}

/// Whether an attempt need not wait for its turn at this vault any longer; `has_waited`: it has for another's.
fn may_go(desk: &mut Desk, lane: &Arc<Lane>, has_waited: bool, is_late: bool, now: Timestamp) -> bool {
    if desk.turns.iter().any(|turn| turn.is_of(lane)) {
        return true;
    }
    if let Some(turn) = lane.turn_behind(now) {
        desk.turns.push(turn);
        return true;
    }
    if is_planted(Bug::BudgetOpensGrace) {
        return true;
    }
    // A vault that throttles need not be asked to know the answer, which lets the key serve within its grace.
    if lane.throttles(now) { is_late } else { has_waited }
}

impl Shared {
    /// Does for an entry what is to be done now: by a task, if anything.
    pub(super) fn attend(self: &Arc<Self>, entry: &Arc<Entry>) {
        if !self.is_closing()
            && let Some(work @ (Work::Do(_) | Work::Look(_))) = entry.next(self, false)
        {
            task::spawn(self.clone(), entry.clone(), work);
        }
        self.keep_agenda();
    }
}
