//! What all parts of a simulated world share: the order of events, the trace, the model.
//!
//! Guarantees: every event has a number, and numbers grow in the order in which things happen; the first violation
//! is kept and ends the run. Not its job: to decide what is a violation (`model`).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use cofferdam_crypto::{AccountId, KeyId};
use cofferdam_keyring::Policy;
use cofferdam_vault::{Clock, Timestamp, testing::TokioClock};
use tokio::{sync::Notify, time::Instant};

use crate::{
    Check, Counts, Violation,
    model::{Accounts, Blocks, Budgets, Keys, Segments, Use},
    trace::Trace,
    weather::Weather,
};

/// A point in a run: its number, the run's time, and what a node's clocks show.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) seq: u64,
    pub(crate) at: Duration,
    pub(crate) clock: Timestamp,
}

pub(crate) struct State {
    seq: u64,
    pub(crate) trace: Trace,
    pub(crate) counts: Counts,
    pub(crate) keys: Keys,
    pub(crate) budgets: Budgets,
    pub(crate) segments: Segments,
    pub(crate) accounts: Accounts,
    /// Which vault each principal's keys are in.
    pub(crate) vaults: BTreeMap<String, usize>,
    /// How many versions each key has.
    pub(crate) versions: BTreeMap<String, u64>,
    /// Versions that an account was ever under.
    pub(crate) used: BTreeSet<KeyId>,
    /// Versions that their owners enable again then.
    pub(crate) given_back: Vec<(Duration, KeyId)>,
    /// Versions that were disabled for good.
    pub(crate) retired: BTreeSet<KeyId>,
    pub(crate) blocks: Blocks,
    pub(crate) weather: Weather,
    /// The disk has no power: everything is to be started again.
    pub(crate) power_lost: bool,
    /// The store's handle refuses everything: it is to be opened again.
    pub(crate) store_broken: bool,
    pub(crate) violation: Option<Violation>,
}

impl State {
    /// What a node did between these, with what it may have gone by.
    pub(crate) fn use_of(&self, node: usize, account: AccountId, begun: Moment, ended: Moment) -> Use {
        let views = self.accounts.views(account, begun.seq, ended.seq);
        let principals =
            views.of.iter().flatten().flat_map(|view| &view.keks).map(|(principal, _)| principal);
        let vaults = principals.filter_map(|principal| self.vaults.get(principal)).copied().collect();
        Use { node, account, vaults, begun, ended, views }
    }

    pub(crate) fn next_seq(&mut self) -> u64 {
        self.seq += 1;
        self.seq
    }
}

/// A handle on what is shared.
#[derive(Clone)]
pub(crate) struct Hub(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    /// Wakes the director.
    wake: Notify,
    start: Instant,
}

impl Hub {
    pub(crate) fn new(trace: Trace, policy: &Policy, weather: Weather) -> Self {
        let (keys, budgets) = (Keys::new(policy.clone()), Budgets::new(policy.clone()));
        let state = State {
            seq: 0,
            trace,
            counts: Counts::default(),
            keys,
            budgets,
            segments: Segments::default(),
            accounts: Accounts::default(),
            vaults: BTreeMap::new(),
            versions: BTreeMap::new(),
            used: BTreeSet::new(),
            given_back: Vec::new(),
            retired: BTreeSet::new(),
            blocks: Blocks::default(),
            weather,
            power_lost: false,
            store_broken: false,
            violation: None,
        };
        Self(Arc::new(Inner { state: Mutex::new(state), wake: Notify::new(), start: Instant::now() }))
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The run's time.
    pub(crate) fn at(&self) -> Duration {
        self.0.start.elapsed()
    }

    /// Now, on a node with this clock.
    pub(crate) fn moment(&self, clock: &TokioClock) -> Moment {
        Moment { seq: self.state().next_seq(), at: self.at(), clock: clock.now() }
    }

    pub(crate) fn note(&self, what: fmt::Arguments<'_>) {
        self.state().trace.note(self.at(), what);
    }

    /// A promise was broken. The first one counts.
    pub(crate) fn fail(&self, check: Check, what: String) {
        let at = self.at();
        let mut state = self.state();
        state.trace.note(at, format_args!("VIOLATION {check}: {what}"));
        if state.violation.is_none() {
            let last_events = state.trace.last();
            state.violation = Some(Violation { check, what, at, last_events });
        }
        drop(state);
        self.0.wake.notify_one();
    }

    pub(crate) fn check(&self, verdict: Result<(), (Check, String)>) {
        if let Err((check, what)) = verdict {
            self.fail(check, what);
        }
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.state().violation.is_some()
    }

    pub(crate) fn lose_power(&self) {
        self.state().power_lost = true;
        self.0.wake.notify_one();
    }

    pub(crate) fn break_store(&self) {
        self.state().store_broken = true;
        self.0.wake.notify_one();
    }

    /// Something happened that the director must still see.
    pub(crate) fn wake(&self) {
        self.0.wake.notify_one();
    }

    /// Resolves when something happened that the director must see.
    pub(crate) async fn woken(&self) {
        self.0.wake.notified().await;
    }
}
