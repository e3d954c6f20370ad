//! What an engine does by itself from time to time.
//!
//! Guarantees: it takes note of other engines' changes, goes on with operations whose engines are gone, purges accounts whose
//! time to be recovered is over, and rotates what is due to be rotated. Nothing of it is urgent: a failure is tried again at
//! the next round.
//!
//! Not its job: renewing keys (the keyring's), draining.

use std::{
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use cofferdam_crypto::{AccountId, KeyId};
use cofferdam_vault::Timestamp;
use tokio::sync::Semaphore;

use super::{
    AccountName, EngineError, Inner, OperationKind,
    account_record::{AccountRecord, CustomerKey, Stage},
    kek::{ask, vault_of},
};

/// How often accounts are looked through for what is due.
const DUE_EVERY: Duration = Duration::from_secs(3600);

/// Stops it.
#[derive(Debug)]
pub(super) struct Tending {
    stop: Semaphore,
    /// One permit: it is held while the task runs.
    runs: Semaphore,
    /// Has no permits: it is closed once the first round is done, or there will be none.
    first_round: Semaphore,
}

impl Default for Tending {
    fn default() -> Self {
        Self { stop: Semaphore::new(0), runs: Semaphore::new(1), first_round: Semaphore::new(0) }
    }
}

impl Tending {
    pub(super) fn start(&self, engine: &Arc<Inner>) {
        let engine = engine.clone();
        tokio::spawn(async move {
            let Ok(_runs) = engine.tending.runs.acquire().await else { return };
            tokio::select! {
                biased;
                // Never given, so this ends when it is closed.
                _ = engine.tending.stop.acquire() => {}
                () = engine.tend() => {}
            }
        });
    }

    pub(super) fn stop(&self) {
        self.stop.close();
        self.first_round.close();
    }

    /// Until what processes before this one left is gone on with, and what was due at the start is begun.
    pub(super) async fn began(&self) {
        // Never given, so this ends when it is closed.
        let _ = self.first_round.acquire().await;
    }

    pub(super) async fn ended(&self) {
        let _ = self.runs.acquire().await;
    }
}

impl Inner {
    async fn tend(self: &Arc<Self>) {
        let mut looked: Option<Timestamp> = None;
        loop {
            let noted = self.look_for_changes().await;
            self.log("other engines' changes can't be looked up", noted);
            let resumed = self.resume_operations().await;
            self.log("operations can't be gone on with", resumed);
            let swept = self.sweep_imports().await;
            self.log("what imports left behind can't be removed", swept);
            let now = self.clock.now();
            if looked.is_none_or(|at| now.since(&at) >= DUE_EVERY) {
                let due = self.begin_what_is_due().await;
                self.log("accounts can't be looked through for what is due", due);
                looked = Some(now);
            }
            self.tending.first_round.close();
            tokio::time::sleep(self.nodes.every()).await;
        }
    }

    fn log(&self, what: &'static str, outcome: Result<(), EngineError>) {
        if let Err(e) = outcome
            && !matches!(e, EngineError::Closed)
        {
            tracing::warn!(target: "cofferdam::audit", error = %e, "{what}");
        }
    }

    /// Begins the operations that are due, of all accounts.
    pub(super) async fn begin_what_is_due(self: &Arc<Self>) -> Result<(), EngineError> {
        let mut after = None;
        loop {
            let page = self.records.page(after.as_ref()).await?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(last.clone());
            for (name, record) in page {
                let begun = match record {
                    Ok(record) => self.begin_if_due(&name, record.unverified()).await,
                    Err(e) => Err(e),
                };
                if let Err(e) = begun {
                    match e {
                        EngineError::Closed => return Err(e),
                        // Looked at again in an hour.
                        e => {
                            tracing::debug!(target: "cofferdam", account = %name, error = %e, "not looked at")
                        }
                    }
                }
            }
        }
    }

    async fn begin_if_due(
        self: &Arc<Self>,
        name: &AccountName,
        unverified: &AccountRecord,
    ) -> Result<(), EngineError> {
        let Some(kind) = self.due(unverified).await? else { return Ok(()) };
        // Only a genuine record is obeyed: it is looked at again before anything begins.
        let (verified, _) = self.verified(name).await?;
        if self.due(&verified.record).await? == Some(kind.clone()) {
            self.begin_operation(name, kind).await?;
        }
        Ok(())
    }

    /// What is to be done for an account now.
    async fn due(&self, record: &AccountRecord) -> Result<Option<OperationKind>, EngineError> {
        let now = self.clock.now().wall;
        if let Stage::Deleted { until, .. } = record.stage {
            return Ok((now >= until).then_some(OperationKind::Purge));
        }
        let Some(customer) = record.customer.as_ref().filter(|_| record.linked) else { return Ok(None) };
        let old = self.cryptoperiod.is_some_and(|period| now >= customer.epoch_since + period);
        let sealed = match self.cryptoperiod_bytes {
            Some(most) => self.sealed_bytes(record.id, customer).await? >= most,
            None => false,
        };
        if old || sealed {
            return Ok(Some(OperationKind::RotateAek { reencrypt: false }));
        }
        if record.follows_latest { self.newer_version(record, customer).await } else { Ok(None) }
    }

    /// How many bytes were sealed under an account's newest epoch, as far as it is written down; this engine's are.
    async fn sealed_bytes(&self, account: AccountId, customer: &CustomerKey) -> Result<u64, EngineError> {
        let epoch = customer.epochs.last().map_or(0, |of| of.scope.epoch.number());
        let new = {
            let accounts = self.accounts.read().unwrap_or_else(PoisonError::into_inner);
            let of = accounts.values().find(|shared| shared.id == account);
            of.map_or(0, |shared| shared.sealed.swap(0, Ordering::Relaxed))
        };
        Ok(self.records.add_sealed(account, epoch, new).await?)
    }

    async fn newer_version(
        &self,
        record: &AccountRecord,
        customer: &CustomerKey,
    ) -> Result<Option<OperationKind>, EngineError> {
        for kek in &customer.keks {
            let vault = vault_of(self, &record.name, &kek.principal)?;
            let properties = ask(self, "describe the KEK", vault.key_properties(&kek.key_id)).await?;
            let latest: KeyId = properties.latest;
            // One that was set with its version was meant to stay.
            if latest != kek.key_id && kek.set != kek.key_id {
                let (of, from) = (kek.principal.clone(), kek.key_id.clone());
                let (principal, to) = (kek.principal.clone(), kek.set.clone());
                return Ok(Some(OperationKind::RotateKek { of, from, principal, to }));
            }
        }
        Ok(None)
    }
}
