//! One account's keys under one provider.
//!
//! Invariants: `live` is what the machine says may be served, set and cleared under the desk's lock, in the step
//! that decides it; no lock is held across an await; an entry has a task only while something is under way; a retired
//! one has none and leaves the map; one that
//! somebody holds and has found in use is not retired: who retires it counts its holders, under the desk's lock.

use std::sync::Arc;

use cofferdam_crypto::{
    AccountId, Epoch, KeyScope, Provider,
    planted::{Bug, is_planted},
};
use cofferdam_vault::Timestamp;

#[cfg(cofferdam_planted)]
use super::task;
use super::{
    KeyStatus, Shared,
    agenda::Hub,
    desk::Desk,
    live::{Live, LiveKey},
    segment::SegmentKeys,
    slot::Slot,
};
use crate::{
    Fault, KeyError,
    machine::{Event, KeyState, Serving, step},
    rt::{
        ArcSwapOption, Mutex,
        atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering},
        watch,
    },
};

/// Whether the key was used since it was last looked at.
pub(super) mod activity {
    pub(in crate::driver) const UNUSED: u8 = 0;
    pub(in crate::driver) const USED: u8 = 1;
    /// Unused, and a refresh was let go by: who uses the key has it looked at.
    pub(in crate::driver) const ASLEEP: u8 = 2;
}

pub(super) struct Entry {
    pub(super) account: AccountId,
    pub(super) provider: Provider,
    hub: Arc<Hub>,
    pub(super) live: ArcSwapOption<Live>,
    pub(super) activity: AtomicU8,
    /// The keys of segments that were unwrapped while this one is held.
    pub(super) segments: SegmentKeys,
    /// The key was published for callers of whom none has looked yet.
    promised: AtomicBool,
    /// When the key was last used, in seconds since boot.
    used_at: AtomicU32,
    pub(super) slot: Mutex<Slot>,
}

/// Who asks for a key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum For {
    Caller,
    /// The customer's record of the same account, which is authenticated under it: no use that keeps the key.
    Record,
}

enum Verdict {
    Answer(Result<LiveKey, KeyError>),
    Wait,
}

impl Entry {
    pub(super) fn new(account: AccountId, provider: Provider, hub: Arc<Hub>) -> Self {
        let desk = Desk::new(provider, hub.now());
        Self {
            account,
            provider,
            hub,
            live: ArcSwapOption::empty(),
            segments: SegmentKeys::new(),
            activity: AtomicU8::new(activity::UNUSED),
            promised: AtomicBool::new(false),
            used_at: AtomicU32::new(0),
            slot: Mutex::new(Slot::Stands(Box::new(desk))),
        }
    }

    /// The key, if it may be used now without a question. The hot path: no lock, no allocation.
    pub(super) fn current(self: &Arc<Self>, epoch: Option<Epoch>, whose: For) -> Option<LiveKey> {
        let live = self.live.load_full()?;
        let now = self.hub.now();
        if !live.serves(now) {
            return None;
        }
        if whose == For::Caller {
            self.note_use(now);
        }
        LiveKey::of(live, epoch)
    }

    fn note_use(self: &Arc<Self>, now: Timestamp) {
        let second = second(now);
        // Read mostly: threads that use one key write once a second.
        if self.used_at.load(Ordering::Relaxed) != second {
            self.used_at.store(second, Ordering::Relaxed);
        }
        match self.activity.load(Ordering::Relaxed) {
            activity::USED => {}
            activity::UNUSED => self.activity.store(activity::USED, Ordering::Relaxed),
            _ => {
                if self.activity.swap(activity::USED, Ordering::Relaxed) == activity::ASLEEP {
                    self.hub.agenda.call(Arc::downgrade(self));
                }
            }
        }
    }

    /// The key, or why there is none, after waiting for what is under way.
    pub(super) async fn ask(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        epoch: Option<Epoch>,
        whose: For,
    ) -> Result<LiveKey, KeyError> {
        let mut waiting: Option<Waiting<'_>> = None;
        loop {
            let notify;
            let round_ended = {
                let mut desk = self.desk();
                let round = desk.round;
                let since = waiting.as_ref().map_or(round, |waiting| waiting.since);
                let verdict = self.judge(&mut desk, shared, epoch, since, whose);
                if waiting.is_some() {
                    self.keep_promise(shared);
                }
                if let Verdict::Answer(answer) = verdict {
                    drop(desk);
                    // The runtime that did what is due may have ended.
                    shared.keep_agenda();
                    return answer;
                }
                if waiting.is_none() {
                    desk.waiting += 1;
                    waiting = Some(Waiting { entry: self, shared, since: round });
                }
                // Made under the lock that ends rounds: told of the end of this one.
                notify = desk.round_ended();
                notify.notified()
            };
            shared.attend(self);
            #[cfg(cofferdam_planted)]
            if is_planted(Bug::NoSingleFlight) {
                crate::rt::spawn(task::Task::extra(shared.clone(), self.clone()).ask_alone());
            }
            if is_planted(Bug::ListensLate) {
                drop(round_ended);
                let late = self.desk().round_ended();
                late.notified().await;
            } else {
                round_ended.await;
            }
        }
    }

    /// What a caller gets who waits since round `since`.
    fn judge(
        self: &Arc<Self>,
        desk: &mut Desk,
        shared: &Shared,
        epoch: Option<Epoch>,
        since: u64,
        whose: For,
    ) -> Verdict {
        if shared.is_closing() {
            return Verdict::Answer(Err(KeyError::Closed));
        }
        let now = self.hub.now();
        if whose == For::Caller {
            (desk.used, desk.lent) = (true, true);
        }
        desk.last_used = now;
        self.used_at.store(second(now), Ordering::Relaxed);
        match desk.machine.serving(now, &shared.parts.policy) {
            Serving::Use => {
                if let Some(key) = self.current(epoch, whose) {
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
                key_id: desk.denied.last().cloned().or_else(|| desk.key_id()),
                poll: policy.revoked_poll(),
            },
            (_, Some((error, _))) => error.clone(),
            (_, None) => {
                let (fault, proven, retry) = (Fault::Overdue, desk.is_proven(), policy.retry_max());
                KeyError::Unavailable { account, provider, fault, proven, retry }
            }
        }
    }

    /// Keeps the key, or not, until a caller who waits for it has looked.
    pub(super) fn promise(&self, promised: bool, shared: &Shared) {
        // An earlier promise may still stand that whoever it was made to is about to find kept: it ends here.
        if self.promised.swap(promised, Ordering::Relaxed) && !promised {
            shared.seats.note_change();
        }
    }

    pub(super) fn is_promised(&self) -> bool {
        self.promised.load(Ordering::Relaxed)
    }

    fn keep_promise(&self, shared: &Shared) {
        if self.promised.swap(false, Ordering::Relaxed) {
            shared.seats.note_change();
        }
    }

    pub(super) fn used_at(&self) -> u32 {
        self.used_at.load(Ordering::Relaxed)
    }

    pub(super) fn now(&self) -> Timestamp {
        self.hub.now()
    }

    pub(super) fn hub(&self) -> &Hub {
        &self.hub
    }

    /// Whether it is out of use: the account is to be looked up again. The desk's lock, taken while the caller
    /// holds the entry, makes the answer "no" last.
    pub(super) fn is_retired(&self) -> bool {
        self.desk().retired
    }

    /// Called while the entry is held, and in use.
    pub(super) fn watch(&self) -> watch::Receiver<KeyState> {
        // Seen by whoever retires next.
        let mut desk = self.desk();
        let state = desk.machine.reported();
        desk.watch.get_or_insert_with(|| Box::new(watch::Sender::new(state))).subscribe()
    }

    pub(super) fn status(&self, shared: &Shared) -> KeyStatus {
        let policy = &shared.parts.policy;
        let desk = self.desk();
        let look = Event::Wake { wanted: false, used: false };
        let (machine, _) = step(desk.machine.clone(), look, self.now(), policy);
        let bounds = machine.bounds(policy);
        KeyStatus {
            state: machine.reported(),
            verified_at: bounds.map(|bounds| bounds.verified.sent),
            unasked_until: bounds.map(|bounds| bounds.unasked_until),
            fresh_until: bounds.map(|bounds| bounds.fresh_until),
            usable_until: bounds.map(|bounds| bounds.usable_until),
            key_id: desk.key_id(),
            last_failure: desk.failure.as_ref().map(|(_, failure)| failure.clone()),
            bridged: desk.record.as_ref().map_or(Vec::new(), |kept| kept.bridged(policy.max_bridge())),
        }
    }

    pub(super) fn scope(&self, epoch: Epoch) -> KeyScope {
        KeyScope { account: self.account, epoch, provider: self.provider }
    }
}

/// In seconds since boot: a machine is up for less than a century.
fn second(now: Timestamp) -> u32 {
    u32::try_from(now.boot.as_secs()).unwrap_or(u32::MAX)
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
