//! Running operations, step by step, to their end.
//!
//! Guarantees: an operation of this engine has one task, which goes on until it has ended or the engine is closed; a failure
//! that may pass is waited for, with growing pauses; one that will not pass ends an operation that has changed nothing
//! yet, and is waited for where it has. What keeps an operation waiting is in its record.
//!
//! Not its job: what the steps do.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use cofferdam_crypto::AccountId;
use cofferdam_keyring::RecordError;
use cofferdam_vault::{Meaning, VaultErrorKind};
use tokio::sync::{Notify, Semaphore, futures::Notified};

use super::{Operation, OperationFailure, OperationId, OperationStatus, Step, change, purge, reencrypt};
use crate::{
    StoreErrorKind,
    engine::{EngineError, Inner, drains::Backoff},
};

/// How often an operation looks whether other engines have taken note.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(in crate::engine) struct Runner {
    /// Has no permits: it is closed to stop everything.
    stop: Semaphore,
    /// Something below changed.
    changed: Notify,
    state: Mutex<BTreeMap<OperationId, Running>>,
}

#[derive(Debug, Default)]
struct Running {
    /// Something is in its way.
    waits: bool,
    wake: Arc<Notify>,
}

impl Default for Runner {
    fn default() -> Self {
        Self { stop: Semaphore::new(0), changed: Notify::new(), state: Mutex::default() }
    }
}

/// Why a step did not come to its end.
#[derive(Debug)]
pub(super) enum Stop {
    /// The engine is closed, or another one has the operation.
    Ended,
    /// It may pass.
    Wait(String),
    /// The same, and it is looked at again soon.
    Soon(String),
    /// The operation ends, and the account is as it was.
    Failed(OperationFailure),
}

impl Runner {
    /// Has a task for the operation, unless there is one.
    pub(in crate::engine) fn start(&self, engine: &Arc<Inner>, operation: &Operation) {
        let (id, account) = (operation.id, operation.account_id);
        let wake = {
            let mut state = self.state();
            if self.stop.is_closed() || state.contains_key(&id) {
                return;
            }
            state.entry(id).or_default().wake.clone()
        };
        let task = Task { engine: engine.clone(), account, id, wake };
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = task.engine.runner.stopped() => {}
                () = task.run() => {}
            }
        });
    }

    /// Ends every task; there are no new ones.
    pub(in crate::engine) fn stop(&self) {
        let _state = self.state();
        self.stop.close();
    }

    async fn stopped(&self) {
        // Never given, so this ends when it is closed.
        let _ = self.stop.acquire().await;
    }

    /// Waits until every task has ended.
    pub(in crate::engine) async fn ended(&self) {
        self.until(|state| state.is_empty()).await;
    }

    /// Waits until each has ended, or something is in its way.
    pub(in crate::engine) async fn settled(&self) {
        self.until(|state| state.values().all(|running| running.waits)).await;
    }

    /// Whether this engine runs it.
    pub(in crate::engine) fn runs(&self, id: OperationId) -> bool {
        self.state().contains_key(&id)
    }

    /// Until something has changed.
    pub(super) fn noted(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// Has it look again at once.
    pub(super) fn wake(&self, id: OperationId) {
        if let Some(running) = self.state().get(&id) {
            running.wake.notify_one();
        }
    }

    fn waits(&self, id: OperationId, waits: bool) {
        if let Some(running) = self.state().get_mut(&id) {
            running.waits = waits;
        }
        self.changed.notify_waiters();
    }

    async fn until(&self, holds: impl Fn(&BTreeMap<OperationId, Running>) -> bool) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if holds(&self.state()) {
                return;
            }
            changed.await;
        }
    }

    fn state(&self) -> MutexGuard<'_, BTreeMap<OperationId, Running>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One operation's task.
pub(super) struct Task {
    pub(super) engine: Arc<Inner>,
    pub(super) account: AccountId,
    pub(super) id: OperationId,
    wake: Arc<Notify>,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.engine.runner.state().remove(&self.id);
        self.engine.runner.changed.notify_waiters();
    }
}

impl Task {
    async fn run(&self) {
        let mut backoff = Backoff::default();
        loop {
            let (why, wait) = match self.next().await {
                Ok(()) => {
                    backoff.reset();
                    self.engine.runner.waits(self.id, false);
                    continue;
                }
                Err(Stop::Ended) => return,
                Err(Stop::Failed(failure)) => match self.fail(failure).await {
                    Ok(()) => return,
                    Err(e) => (e.to_string(), backoff.next()),
                },
                Err(Stop::Wait(why)) => (why, backoff.next()),
                Err(Stop::Soon(why)) => (why, LOOK_AGAIN),
            };
            self.note_wait(&why).await;
            tokio::select! {
                biased;
                () = self.wake.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Does the step that it is at, and goes to the next.
    async fn next(&self) -> Result<(), Stop> {
        let load = self.engine.operations.load(self.account).await;
        let Some((row, _)) = load.map_err(|e| stop(e, true))? else { return Err(Stop::Ended) };
        let begun = row.last;
        if begun.operation.id != self.id || begun.operation.status.has_ended() {
            return Err(Stop::Ended);
        }
        let step = begun.operation.step;
        match step {
            Step::Change => change::change(self, &begun).await?,
            Step::Announce | Step::AnnounceRetired => self.announce(&begun).await?,
            Step::Segments => change::rewrap_segments(self, &begun).await?,
            Step::Reencrypt => reencrypt::reencrypt(self, &begun).await?,
            Step::Retire => reencrypt::retire(self, &begun).await?,
            Step::Destroy => purge::destroy(self, &begun).await?,
            Step::Remove => purge::remove(self, &begun).await?,
            Step::Compact => self.engine.blocks.compact().await.map_err(|e| stop(e.into(), true))?,
        }
        self.advance(step).await
    }

    async fn advance(&self, done: Step) -> Result<(), Stop> {
        let now = self.engine.clock.now().wall;
        let update = self.update(|row| {
            let operation = &mut row.last.operation;
            if operation.step != done {
                return;
            }
            let steps = operation.kind.steps();
            let next = steps.iter().position(|step| *step == done).and_then(|at| steps.get(at + 1));
            operation.waits_for = None;
            (row.last.announced, row.last.cursor) = (None, None);
            let operation = &mut row.last.operation;
            match next {
                Some(&next) => {
                    operation.step = next;
                    operation.status = operation.status_at(next);
                }
                None => row.end(OperationStatus::Succeeded, None, now),
            }
        });
        let operation = update.await?;
        tracing::info!(
            target: "cofferdam::audit", operation = %operation.id, account = %operation.account,
            kind = operation.kind.name(), step = done.name(), status = operation.status.name(), "a step is done"
        );
        self.engine.runner.changed.notify_waiters();
        Ok(())
    }

    async fn fail(&self, failure: OperationFailure) -> Result<(), EngineError> {
        let now = self.engine.clock.now().wall;
        let ended = self.engine.operations.update(self.account, self.id, |row| {
            row.end(OperationStatus::Failed, Some(failure.clone()), now);
        });
        ended.await?;
        tracing::warn!(
            target: "cofferdam::audit", operation = %self.id, account = %self.account, code = failure.code,
            message = failure.message, "an operation failed"
        );
        Ok(())
    }

    /// Makes every engine take note, this one first.
    async fn announce(&self, begun: &super::row::Begun) -> Result<(), Stop> {
        let number = match begun.announced {
            Some(number) => number,
            None => {
                let number = self.engine.nodes.append(self.account).await.map_err(|e| stop(e, true))?;
                self.update(|row| row.last.announced = Some(number)).await?;
                number
            }
        };
        let noted = match self.engine.nodes.is_shared() {
            true => self.engine.look_for_changes().await,
            false => self.engine.reload(self.account).await,
        };
        noted.map_err(|e| stop(e, true))?;
        if !self.engine.nodes.has_seen(number) {
            return Err(Stop::Soon("this engine can't take note of the change yet".into()));
        }
        let behind = self.engine.nodes.behind(number).await.map_err(|e| stop(e, true))?;
        if behind.is_empty() {
            return Ok(());
        }
        let names: Vec<String> = behind.iter().map(ToString::to_string).collect();
        Err(Stop::Soon(format!("engines that have not seen the change yet: {}", names.join(", "))))
    }

    /// Changes the operation's row.
    pub(super) async fn update(
        &self,
        change: impl Fn(&mut super::row::OperationRow) + Send,
    ) -> Result<Operation, Stop> {
        let updated = self.engine.operations.update(self.account, self.id, change).await;
        match updated.map_err(|e| stop(e, true))? {
            Some(row) => Ok(row.last.operation),
            None => Err(Stop::Ended),
        }
    }

    /// Says what it waits for, in its record and here.
    async fn note_wait(&self, why: &str) {
        let waits = self.engine.operations.update(self.account, self.id, |row| {
            row.last.operation.waits_for = Some(why.to_owned());
        });
        // Where the store is what it waits for, that can't be told.
        let _ = waits.await;
        tracing::warn!(
            target: "cofferdam::audit", operation = %self.id, account = %self.account, why, "an operation waits"
        );
        self.engine.runner.waits(self.id, true);
    }
}

impl Inner {
    /// Goes on with operations of engines that are gone, and of processes before this one.
    pub(in crate::engine) async fn resume_operations(self: &Arc<Self>) -> Result<(), EngineError> {
        for (row, _) in self.operations.all().await? {
            let operation = &row.last.operation;
            if operation.status.has_ended() || self.runner.runs(operation.id) {
                continue;
            }
            if row.last.node == self.nodes.id || !self.nodes.lives(row.last.node).await? {
                let node = self.nodes.id;
                // The keyring knows accounts by id, the catalog by name.
                self.records.learn_names(&[operation.account_id].into()).await?;
                let taken = self.operations.update(operation.account_id, operation.id, |row| {
                    row.last.node = node;
                    // What kept the engine before may not keep this one.
                    row.last.operation.waits_for = None;
                });
                if taken.await?.is_some() {
                    self.runner.start(self, operation);
                }
            }
        }
        Ok(())
    }
}

pub(super) fn failed(code: &str, message: impl std::fmt::Display) -> Stop {
    Stop::Failed(OperationFailure { code: code.to_owned(), message: message.to_string() })
}

/// What an error means for an operation, which has `changed` the account already or not.
pub(super) fn stop(e: EngineError, changed: bool) -> Stop {
    use EngineError as E;
    let code = match &e {
        E::Closed => return Stop::Ended,
        E::Vault { source, .. } => match (source.kind(), source.kind().meaning()) {
            (VaultErrorKind::Other | VaultErrorKind::Corrupt, _) => "vault-refused",
            (_, Meaning::Outage) => return Stop::Wait(e.to_string()),
            (_, Meaning::Denial | Meaning::UnconfirmedDenial) => "vault-denied",
        },
        E::UnfitKek { .. } | E::NoWriteOnly { .. } => "kek-unfit",
        E::KeyRevoked { .. } => "key-revoked",
        E::NoVault { .. } => "no-vault",
        E::BadRecord { .. } | E::NewerRecord { .. } => "record-damaged",
        E::NoAccount { .. } => "no-account",
        E::NoSuchKek { .. } | E::TooManyKeks { .. } | E::LastKek { .. } | E::KekInUse { .. } => "kek-unfit",
        E::Record { source, .. } if matches!(**source, RecordError::Tampered(_)) => "record-damaged",
        E::Store(e) if e.kind() == StoreErrorKind::Corrupt => "store-damaged",
        _ => return Stop::Wait(e.to_string()),
    };
    if changed { Stop::Wait(e.to_string()) } else { failed(code, e) }
}
