//! Which accounts have something to drain, and how far each came.
//!
//! Guarantees: an account that has something buffered has one task in this engine, from the commit that buffered
//! it, or from the opening of the engine; all tasks end when the last handle of the engine goes. One batch is drained
//! at a time, whoever's it is, in turns.
//!
//! Not its job: what a task does (`drain`).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use cofferdam_crypto::AccountId;
use tokio::sync::{Notify, Semaphore, SemaphorePermit, broadcast};

use super::{
    EngineError, Inner,
    admission::{AccountAdmission, Admission},
    buffer::{BufferChange, BufferEvent, DrainBlocked, DrainReport, Moved, Trouble, TroubleKind},
    drain::Drain,
    telemetry,
};

/// How many events a slow listener can be behind before it misses some.
const EVENTS_KEPT: usize = 1024;
/// How many accounts are looked up at once when an engine opens.
const SCAN_PAGE: usize = 256;

#[derive(Debug)]
pub(super) struct Drains {
    events: broadcast::Sender<BufferEvent>,
    /// Has no permits: it is closed to stop everything.
    stop: Semaphore,
    /// One permit: whose turn it is.
    turn: Semaphore,
    /// What all drains take of the memory for writes.
    pub(super) share: AccountAdmission,
    /// Something below changed.
    changed: Notify,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    accounts: BTreeMap<AccountId, Tracked>,
    /// Looking for what an earlier process buffered.
    scanning: bool,
    /// How many tasks there are, and how many there were.
    tasks: usize,
    started: u64,
}

/// What is known of an account that has or had something buffered.
#[derive(Debug, Default)]
struct Tracked {
    phase: Phase,
    /// Which task it is, of all that were.
    task: u64,
    /// Something was buffered since the task last found the buffer empty.
    more: bool,
    /// The account is deleted.
    cancelled: bool,
    wake: Arc<Notify>,
    /// Since the engine was opened.
    drained: Moved,
    /// Since the buffer was last empty.
    drained_now: Moved,
    trouble: Option<Trouble>,
}

/// What an account's task is at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    /// There is none: nothing is buffered.
    #[default]
    Idle,
    /// It asks for the key.
    Asking,
    /// It drains.
    Draining,
    /// It can't go on by itself.
    Blocked(DrainBlocked),
}

impl Drains {
    pub(super) fn new(admission: &Admission) -> Self {
        Self {
            events: broadcast::Sender::new(EVENTS_KEPT),
            stop: Semaphore::new(0),
            turn: Semaphore::new(1),
            share: admission.account(),
            changed: Notify::new(),
            state: Mutex::default(),
        }
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<BufferEvent> {
        self.events.subscribe()
    }

    /// Ends every task; there are no new ones.
    pub(super) fn stop(&self) {
        let _state = self.state();
        self.stop.close();
    }

    pub(super) async fn stopped(&self) {
        // Never given, so this ends when it is closed.
        let _ = self.stop.acquire().await;
    }

    /// Waits for one's turn to drain a batch.
    pub(super) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.turn.acquire().await.ok()
    }

    /// Something was buffered for this account: there is a task for it from here on.
    pub(super) fn buffered(&self, engine: &Arc<Inner>, account: AccountId) {
        if self.ensure(engine, account) {
            self.tell(engine, account, BufferChange::Began);
        }
    }

    /// The account is deleted: its task ends, and what is buffered stays where it is.
    pub(super) fn cancel(&self, account: AccountId) {
        if let Some(tracked) = self.state().accounts.get_mut(&account) {
            tracked.more = false;
            tracked.cancelled = true;
            tracked.wake.notify_one();
        }
        self.changed.notify_waiters();
    }

    /// Whether the account was deleted since its task began.
    pub(super) fn is_cancelled(&self, account: AccountId) -> bool {
        self.state().accounts.get(&account).is_some_and(|tracked| tracked.cancelled)
    }

    /// Makes sure that the account has a task that will look into its buffer; whether it had none.
    pub(super) fn ensure(&self, engine: &Arc<Inner>, account: AccountId) -> bool {
        let mut state = self.state();
        if self.stop.is_closed() {
            return false;
        }
        let task = state.started + 1;
        let tracked = state.accounts.entry(account).or_default();
        (tracked.more, tracked.cancelled) = (true, false);
        if tracked.phase != Phase::Idle {
            tracked.wake.notify_one();
            return false;
        }
        tracked.phase = Phase::Asking;
        tracked.task = task;
        tracked.drained_now = Moved::default();
        let wake = tracked.wake.clone();
        state.tasks += 1;
        state.started = task;
        let running = Running { engine: engine.clone(), of: Some((account, task)) };
        tokio::spawn(async move {
            let drains = &running.engine.drains;
            let mut drain = Drain::new(running.engine.clone(), account, wake);
            tokio::select! {
                biased;
                () = drains.stopped() => {}
                () = drain.run() => {}
            }
        });
        true
    }

    /// The account's task looks at the buffer from here on: whether something was buffered since it last did.
    pub(super) fn look(&self, account: AccountId) -> bool {
        let more = self.state().accounts.get_mut(&account).is_some_and(|of| std::mem::take(&mut of.more));
        self.enter(account, Phase::Asking);
        more
    }

    pub(super) fn enter(&self, account: AccountId, phase: Phase) {
        if let Some(tracked) = self.state().accounts.get_mut(&account) {
            tracked.phase = phase;
        }
        self.changed.notify_waiters();
    }

    /// The buffer was found empty: whether the task may end.
    pub(super) fn finish(&self, engine: &Inner, account: AccountId) -> bool {
        let mut state = self.state();
        let Some(tracked) = state.accounts.get_mut(&account) else { return true };
        if tracked.more {
            return false;
        }
        tracked.phase = Phase::Idle;
        tracked.trouble = None;
        let drained = tracked.drained_now;
        drop(state);
        self.tell(engine, account, BufferChange::Finished { drained });
        self.changed.notify_waiters();
        true
    }

    pub(super) fn drained(&self, engine: &Inner, account: AccountId, moved: Moved, left: Moved) {
        if let Some(tracked) = self.state().accounts.get_mut(&account) {
            tracked.drained.add(moved);
            tracked.drained_now.add(moved);
        }
        self.tell(engine, account, BufferChange::Drained { moved, left });
    }

    pub(super) fn trouble(
        &self,
        engine: &Inner,
        account: AccountId,
        kind: TroubleKind,
        message: String,
    ) -> Trouble {
        let trouble = Trouble { kind, message, at: engine.clock.now() };
        if let Some(tracked) = self.state().accounts.get_mut(&account) {
            tracked.trouble = Some(trouble.clone());
        }
        self.tell(engine, account, BufferChange::Trouble(trouble.clone()));
        trouble
    }

    pub(super) fn no_trouble(&self, account: AccountId) {
        if let Some(tracked) = self.state().accounts.get_mut(&account) {
            tracked.trouble = None;
        }
    }

    pub(super) fn tell(&self, engine: &Inner, account: AccountId, what: BufferChange) {
        let event = BufferEvent { account, at: engine.clock.now(), what };
        event.log();
        telemetry::count(&event.what);
        // Nobody may be listening.
        let _ = self.events.send(event);
    }

    /// What this engine did for an account's buffer, and what went wrong last.
    pub(super) fn progress(&self, account: AccountId) -> (Moved, Option<Trouble>) {
        let state = self.state();
        let tracked = state.accounts.get(&account);
        tracked.map(|tracked| (tracked.drained, tracked.trouble.clone())).unwrap_or_default()
    }

    /// Waits until no drain of these can go on by itself: it is done, or something is in its way.
    pub(super) async fn settled(&self, account: Option<AccountId>) {
        self.until(|state| {
            let settles = |phase: &Phase| !matches!(phase, Phase::Asking | Phase::Draining);
            !state.scanning
                && match account {
                    Some(account) => state.accounts.get(&account).is_none_or(|of| settles(&of.phase)),
                    None => state.accounts.values().all(|of| settles(&of.phase)),
                }
        })
        .await;
    }

    /// Waits until nothing is being drained, at most this long.
    pub(super) async fn quiet(&self, limit: Duration) {
        let quiet = self.until(|state| state.accounts.values().all(|of| of.phase != Phase::Draining));
        let _ = tokio::time::timeout(limit, quiet).await;
    }

    /// Waits until every task has ended.
    pub(super) async fn ended(&self) {
        self.until(|state| state.tasks == 0).await;
    }

    async fn until(&self, holds: impl Fn(&State) -> bool) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if holds(&self.state()) {
                return;
            }
            changed.await;
        }
    }

    /// The accounts that a drain was due for since the engine was opened.
    pub(super) fn accounts(&self) -> Vec<AccountId> {
        self.state().accounts.keys().copied().collect()
    }

    pub(super) async fn report(
        &self,
        engine: &Inner,
        account: AccountId,
    ) -> Result<DrainReport, EngineError> {
        let left = engine.blocks.buffer_usage(account).await?;
        let state = self.state();
        let tracked = state.accounts.get(&account);
        let blocked = tracked.and_then(|tracked| match &tracked.phase {
            Phase::Blocked(why) => Some(why.clone()),
            _ => None,
        });
        Ok(DrainReport {
            account,
            name: engine.records.name_of(account),
            drained: tracked.map(|tracked| tracked.drained).unwrap_or_default(),
            blocked: blocked.filter(|_| left.is_some()),
            left,
        })
    }

    /// Starts to look for what an earlier process buffered, in the background.
    pub(super) fn resume(&self, engine: &Arc<Inner>) {
        let mut state = self.state();
        state.scanning = true;
        state.tasks += 1;
        let running = Running { engine: engine.clone(), of: None };
        tokio::spawn(async move {
            let engine = &running.engine;
            tokio::select! {
                biased;
                () = engine.drains.stopped() => {}
                () = engine.drains.scan(engine) => {}
            }
        });
    }

    async fn scan(&self, engine: &Arc<Inner>) {
        let mut wait = Backoff::default();
        while let Err(e) = self.try_scan(engine).await {
            if matches!(e, EngineError::Closed) {
                return;
            }
            tracing::warn!(target: "cofferdam::audit", error = %e, "what was buffered earlier can't be looked up");
            tokio::time::sleep(wait.next()).await;
        }
    }

    async fn try_scan(&self, engine: &Arc<Inner>) -> Result<(), EngineError> {
        let (mut found, mut after) = (BTreeSet::new(), None);
        loop {
            let page = engine.blocks.buffering(after, SCAN_PAGE).await?;
            let Some((last, _)) = page.last() else { break };
            after = Some(*last);
            found.extend(page.into_iter().map(|(account, _)| account));
        }
        if found.is_empty() {
            return Ok(());
        }
        // The keyring knows accounts by id, the catalog by name.
        engine.records.learn_names(&found).await?;
        for account in found {
            if engine.records.name_of(account).is_none() {
                let message = format!(
                    "something is buffered for account {account}, which has no record: restore it from a copy"
                );
                self.trouble(engine, account, TroubleKind::NoAccount, message);
            }
            self.ensure(engine, account);
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts a task until it is dropped.
struct Running {
    engine: Arc<Inner>,
    /// Whose, and which one; `None`: the scan.
    of: Option<(AccountId, u64)>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let drains = &self.engine.drains;
        let mut state = drains.state();
        state.tasks -= 1;
        match self.of {
            // Also when it was stopped or panicked: the next one that is needed can start.
            Some((account, task)) => {
                if let Some(tracked) = state.accounts.get_mut(&account).filter(|of| of.task == task) {
                    tracked.phase = Phase::Idle;
                }
            }
            None => state.scanning = false,
        }
        drop(state);
        drains.changed.notify_waiters();
    }
}

/// Waits that double.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    const FIRST: Duration = Duration::from_secs(1);
    const LONGEST: Duration = Duration::from_secs(60);

    pub(super) fn next(&mut self) -> Duration {
        let wait = Self::FIRST.saturating_mul(1 << self.failures.min(10)).min(Self::LONGEST);
        self.failures += 1;
        wait
    }

    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}
