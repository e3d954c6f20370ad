//! One account's keys under one provider.
//!
//! Invariants: `live` is what the machine says may be served, set and cleared under the desk's lock, in the step
//! that decides it; no lock is held across an await; a retired entry has no task and leaves the map; one that
//! somebody holds and has found in use is not retired: who retires it counts its holders, under the desk's lock.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError, TryLockError,
    atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
};

use arc_swap::ArcSwapOption;
#[cfg(cofferdam_planted)]
use cofferdam_crypto::planted::{Bug, is_planted};
use cofferdam_crypto::{AccountId, Epoch, KeyScope, Provider};
use cofferdam_vault::{Clock, Timestamp};
use tokio::sync::{Notify, watch};

use super::{
    KeyStatus, Shared,
    desk::Desk,
    live::{Live, LiveKey},
    segment::SegmentKeys,
    task,
};
use crate::{
    Fault, KeyError,
    machine::{Event, KeyState, Serving, step},
};

/// Whether the key was used since the task last looked.
pub(super) mod activity {
    pub(in crate::driver) const UNUSED: u8 = 0;
    pub(in crate::driver) const USED: u8 = 1;
    /// Unused, and the task has let a refresh go by: who uses the key wakes it.
    pub(in crate::driver) const ASLEEP: u8 = 2;
}

pub(super) struct Entry {
    pub(super) account: AccountId,
    pub(super) provider: Provider,
    clock: Arc<dyn Clock>,
    pub(super) live: ArcSwapOption<Live>,
    pub(super) activity: AtomicU8,
    /// The keys of segments that were unwrapped while this one is held.
    pub(super) segments: SegmentKeys,
    /// When the key was last used, in seconds since boot.
    used_at: AtomicU64,
    /// The key was published for callers of whom none has looked yet.
    promised: AtomicBool,
    pub(super) state: watch::Sender<KeyState>,
    /// Wakes those who wait, in the order of waiting, when a round ends.
    pub(super) round_ended: Notify,
    /// Wakes the task.
    pub(super) wake: Notify,
    desk: Mutex<Desk>,
}

enum Verdict {
    Answer(Result<LiveKey, KeyError>),
    Wait,
}

impl Entry {
    pub(super) fn new(account: AccountId, provider: Provider, clock: Arc<dyn Clock>) -> Self {
        let desk = Desk::new(provider, clock.now());
        Self {
            account,
            provider,
            clock,
            live: ArcSwapOption::empty(),
            segments: SegmentKeys::default(),
            activity: AtomicU8::new(activity::UNUSED),
            used_at: AtomicU64::new(0),
            promised: AtomicBool::new(false),
            state: watch::Sender::new(KeyState::Cold),
            round_ended: Notify::new(),
            wake: Notify::new(),
            desk: Mutex::new(desk),
        }
    }

    /// The key, if it may be used now without a question. The hot path: no lock, no allocation.
    pub(super) fn current(&self, epoch: Option<Epoch>) -> Option<LiveKey> {
        let live = self.live.load_full()?;
        let now = self.clock.now();
        if !live.bounds.serves(now) {
            return None;
        }
        self.note_use(now);
        LiveKey::of(live, epoch)
    }

    fn note_use(&self, now: Timestamp) {
        let second = now.boot.as_secs();
        // Read mostly: threads that use one key write once a second.
        if self.used_at.load(Ordering::Relaxed) != second {
            self.used_at.store(second, Ordering::Relaxed);
        }
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
    pub(super) async fn ask(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        epoch: Option<Epoch>,
    ) -> Result<LiveKey, KeyError> {
        let mut waiting: Option<Waiting<'_>> = None;
        loop {
            let (verdict, round_ended) = {
                let mut desk = self.desk();
                let round = desk.round;
                let since = waiting.as_ref().map_or(round, |waiting| waiting.since);
                let verdict = self.judge(&mut desk, shared, epoch, since);
                let waits = matches!(verdict, Verdict::Wait);
                if waits && waiting.is_none() {
                    desk.waiting += 1;
                    waiting = Some(Waiting { entry: self, shared, since: round });
                } else if waiting.is_some() {
                    self.keep_promise(shared);
                }
                let is_due = !shared.is_closing() && !desk.machine.is_at_rest();
                // A task that was cut short left something due.
                if !desk.running && (waits || is_due) {
                    desk.running = true;
                    task::spawn(shared.clone(), self.clone());
                }
                // Made under the lock that ends rounds: told of the end of this one.
                (verdict, self.round_ended.notified())
            };
            match verdict {
                Verdict::Answer(answer) => return answer,
                Verdict::Wait => self.wake.notify_one(),
            }
            #[cfg(cofferdam_planted)]
            if is_planted(Bug::NoSingleFlight) {
                tokio::spawn(task::Task::extra(shared.clone(), self.clone()).ask_alone());
            }
            round_ended.await;
        }
    }

    /// What a caller gets who waits since round `since`.
    fn judge(&self, desk: &mut Desk, shared: &Shared, epoch: Option<Epoch>, since: u64) -> Verdict {
        if shared.is_closing() {
            return Verdict::Answer(Err(KeyError::Closed));
        }
        let now = self.clock.now();
        desk.used = true;
        desk.last_used = now;
        self.used_at.store(now.boot.as_secs(), Ordering::Relaxed);
        match desk.machine.serving(now, &shared.parts.policy) {
            Serving::Use => {
                if let Some(key) = self.current(epoch) {
                    return Verdict::Answer(Ok(key));
                }
                let Some(epoch) = epoch else { return Verdict::Wait };
                if desk.unknown.contains(&epoch) {
                    return Verdict::Answer(Err(KeyError::UnknownEpoch(self.scope(epoch))));
                }
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
            Serving::Wait => match (&desk.said, epoch.and_then(|epoch| desk.said_of.get(&epoch))) {
                (Some((round, error)), _) | (_, Some((round, error))) if *round > since => {
                    Verdict::Answer(Err(error.clone()))
                }
                _ => {
                    desk.wanted.extend(epoch);
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
                let (fault, proven, retry) = (Fault::Overdue, desk.is_proven(), policy.retry_max());
                KeyError::Unavailable { account, provider, fault, proven, retry }
            }
        }
    }

    pub(super) fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The desk, if nobody is at it.
    pub(super) fn try_desk(&self) -> Option<MutexGuard<'_, Desk>> {
        match self.desk.try_lock() {
            Ok(desk) => Some(desk),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Keeps the key, or not, until a caller who waits for it has looked.
    pub(super) fn promise(&self, promised: bool) {
        self.promised.store(promised, Ordering::Relaxed);
    }

    pub(super) fn is_promised(&self) -> bool {
        self.promised.load(Ordering::Relaxed)
    }

    fn keep_promise(&self, shared: &Shared) {
        if self.promised.swap(false, Ordering::Relaxed) {
            shared.seats.note_change();
        }
    }

    pub(super) fn used_at(&self) -> u64 {
        self.used_at.load(Ordering::Relaxed)
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Whether it is out of use: the account is to be looked up again. The desk's lock, taken while the caller
    /// holds the entry, makes the answer "no" last.
    pub(super) fn is_retired(&self) -> bool {
        self.desk().retired
    }

    /// Called while the entry is held, and in use.
    pub(super) fn watch(&self) -> watch::Receiver<KeyState> {
        // Seen by whoever retires next.
        let _desk = self.desk();
        self.state.subscribe()
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
            unasked_until: bounds.map(|bounds| bounds.unasked_until),
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

/// Counts a caller as waiting until it is dropped.
struct Waiting<'a> {
    entry: &'a Entry,
    shared: &'a Shared,
    since: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.entry.desk().waiting -= 1;
        self.entry.keep_promise(self.shared);
    }
}
