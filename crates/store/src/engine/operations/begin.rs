//! Beginning operations: what is asked for is checked, written down, and only then begun.
//!
//! Guarantees: what is refused here changed nothing, and the refusal says which condition failed. What a vault is asked here
//! it is asked afresh.

use cofferdam_crypto::KeyId;
use cofferdam_vault::{Meaning, Principal};
use data_encoding::HEXLOWER;

use super::{Operation, OperationHandle, OperationId, OperationKind, OperationStatus, Progress, row::Begun};
use crate::engine::{
    Account, AccountName, BufferMode, Engine, EngineError, Handle,
    account_record::{AccountRecord, CustomerKek, CustomerKey, MAX_KEKS, Stage},
    kek::{self, NewKek},
};
use std::sync::Arc;

/// Whether blocks are sealed anew after a change of the key that new ones are sealed under.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reencrypt {
    /// They stay as they are, and keep needing the key that they are sealed under.
    #[default]
    No,
    /// In the background, paced; then what they were sealed under is destroyed, where nothing else needs it.
    Yes,
}

/// The customer's key that an account is linked to.
#[derive(Clone, Debug)]
pub struct LinkTo {
    /// Whose vault it is in.
    pub principal: Principal,
    /// The KEK: with a version, or without for the latest.
    pub kek: KeyId,
    /// What writes are sealed under while that can't be had.
    pub buffer: BufferMode,
}

impl Account {
    /// Wraps the account's AEKs under another KEK in place of one, or under another version of it. No block is touched.
    ///
    /// `replacing` is the version that is replaced; it may be left out where there is one KEK. `principal` is whose vault the
    /// new one is in; left out, the former one's. Checked first: the new KEK is there, enabled, recoverable, of a kind that
    /// fits, and its vault describes, wraps and unwraps; and the former version still unwraps.
    ///
    /// # Errors
    /// [`EngineError::OldKek`] when the former version does not unwrap: enable it first; [`EngineError::UnfitKek`],
    /// [`EngineError::NoWriteOnly`], [`EngineError::Vault`] of the new one; [`EngineError::NoSuchKek`],
    /// [`EngineError::OperationRunning`], [`EngineError::NotLinked`].
    pub async fn rotate_kek(
        &self,
        principal: Option<Principal>,
        kek: KeyId,
        replacing: Option<KeyId>,
    ) -> Result<OperationHandle, EngineError> {
        let record = self.live_record().await?;
        let customer = self.customer(&record)?;
        let from = match (&replacing, customer.keks.as_slice()) {
            (Some(replaced), keks) => keks.iter().find(|kek| kek.key_id == *replaced),
            (None, [only]) => Some(only),
            (None, _) => None,
        };
        let from = from.ok_or_else(|| self.no_such_kek(customer, replacing.clone()))?;
        let principal = principal.unwrap_or_else(|| from.principal.clone());
        self.check_new(customer, &principal, &kek).await?;
        self.check_old(customer, from).await?;
        let (of, from) = (from.principal.clone(), from.key_id.clone());
        self.begin(OperationKind::RotateKek { of, from, principal, to: kek }).await
    }

    /// Wraps the account's AEKs under one KEK more, in this principal's vault; at most four.
    ///
    /// An outage of one vault is then bridged by another, for a day at most; a denial by any one is a revocation.
    ///
    /// # Errors
    /// As [`Self::rotate_kek`]; [`EngineError::TooManyKeks`].
    pub async fn add_kek(&self, principal: Principal, kek: KeyId) -> Result<OperationHandle, EngineError> {
        let record = self.live_record().await?;
        let customer = self.customer(&record)?;
        if customer.keks.len() >= MAX_KEKS {
            return Err(EngineError::TooManyKeks { account: self.name().clone(), most: MAX_KEKS });
        }
        self.check_new(customer, &principal, &kek).await?;
        self.check_any(customer, &customer.keks).await?;
        self.begin(OperationKind::AddKek { principal, kek }).await
    }

    /// Takes the wraps under one KEK away; another must unwrap now. An end of a revocation by that KEK as well: audit who
    /// may call it.
    ///
    /// # Errors
    /// [`EngineError::OldKek`] when no other unwraps; [`EngineError::NoSuchKek`], [`EngineError::LastKek`],
    /// [`EngineError::OperationRunning`], [`EngineError::NotLinked`].
    pub async fn remove_kek(&self, kek: &KeyId) -> Result<OperationHandle, EngineError> {
        let record = self.live_record().await?;
        let customer = self.customer(&record)?;
        let Some(removed) = customer.keks.iter().find(|of| of.key_id == *kek || of.set == *kek) else {
            return Err(self.no_such_kek(customer, Some(kek.clone())));
        };
        let others: Vec<CustomerKek> =
            customer.keks.iter().filter(|of| of.key_id != removed.key_id).cloned().collect();
        if others.is_empty() {
            return Err(EngineError::LastKek {
                account: self.name().clone(),
                key_id: removed.key_id.clone(),
            });
        }
        self.check_any(customer, &others).await?;
        let (principal, kek) = (removed.principal.clone(), removed.key_id.clone());
        tracing::warn!(target: "cofferdam::audit", account = %self.name(), %kek, "a KEK is being removed");
        self.begin(OperationKind::RemoveKek { principal, kek }).await
    }

    /// Starts a new epoch: new blocks are sealed under a new AEK at once, older ones stay readable. Re-encryption ends with the
    /// older AEKs' wraps destroyed; pages of the store's file that were freed by that are reused, and gone with the next
    /// [`Engine::compact`].
    ///
    /// # Errors
    /// [`EngineError::OldKek`] when a KEK does not unwrap; [`EngineError::OperationRunning`], [`EngineError::NotLinked`].
    pub async fn rotate_aek(&self, reencrypt: Reencrypt) -> Result<OperationHandle, EngineError> {
        let record = self.live_record().await?;
        let customer = self.customer(&record)?;
        for kek in &customer.keks {
            self.check_old(customer, kek).await?;
        }
        self.begin(OperationKind::RotateAek { reencrypt: reencrypt == Reencrypt::Yes }).await
    }

    /// Moves the account to a customer's key. What is sealed under the service's stays readable, while that key may be used.
    ///
    /// # Errors
    /// [`EngineError::AlreadyLinked`]; [`EngineError::Undrained`] while something is buffered from before;
    /// [`EngineError::OldKek`] when it was linked before, has blocks from then and their key does not unwrap; else as
    /// [`Self::rotate_kek`].
    pub async fn link(&self, to: LinkTo, reencrypt: Reencrypt) -> Result<OperationHandle, EngineError> {
        let record = self.live_record().await?;
        if record.linked {
            return Err(EngineError::AlreadyLinked { account: self.name().clone() });
        }
        let LinkTo { principal, kek, buffer } = to;
        let new = NewKek::of(&self.engine, self.name(), &principal, &kek)?;
        new.check(&self.engine, buffer).await?;
        if let Some(usage) = self.engine.blocks.buffer_usage(self.id()).await? {
            return Err(EngineError::Undrained { account: self.name().clone(), blocks: usage.blocks });
        }
        if let Some(former) = &record.customer {
            self.check_any(former, &former.keks).await?;
        }
        let reencrypt = reencrypt == Reencrypt::Yes;
        self.begin(OperationKind::Link { principal, kek, buffer, reencrypt }).await
    }

    /// Moves the account to the service's key. Its blocks of before need the customer's key as ever, and what is buffered
    /// stays the customer's; with re-encryption the customer's key is given up once nothing needs it.
    ///
    /// # Errors
    /// [`EngineError::NotLinked`], [`EngineError::OperationRunning`].
    pub async fn unlink(&self, reencrypt: Reencrypt) -> Result<OperationHandle, EngineError> {
        let record = self.live_record().await?;
        self.customer(&record)?;
        self.begin(OperationKind::Unlink { reencrypt: reencrypt == Reencrypt::Yes }).await
    }

    /// Deletes the account: nothing is read or written any longer, its name stays taken, and it can be recovered until its
    /// time is over; then its keys are destroyed, and its blocks removed. What is being drained stays where it is.
    ///
    /// # Errors
    /// [`EngineError::OperationRunning`], [`EngineError::AccountDeleted`].
    pub async fn delete_account(&self) -> Result<OperationHandle, EngineError> {
        self.live_record().await?;
        self.begin(OperationKind::Delete).await
    }

    /// Whether the account can be purged before its time once it is deleted. Turned on, it stays on.
    ///
    /// # Errors
    /// [`EngineError::OperationRunning`], [`EngineError::Store`].
    pub async fn protect_from_purge(&self) -> Result<(), EngineError> {
        self.set(|record| record.purge_protected = true).await
    }

    /// Whether the account goes to the latest versions of its KEKs by itself: of those that were set without a version.
    ///
    /// # Errors
    /// [`EngineError::OperationRunning`], [`EngineError::Store`].
    pub async fn follow_latest(&self, follows: bool) -> Result<(), EngineError> {
        self.set(|record| record.follows_latest = follows).await
    }

    /// The account's last operation.
    ///
    /// # Errors
    /// [`EngineError::Store`].
    pub async fn operation(&self) -> Result<Option<Operation>, EngineError> {
        self.engine.check_open()?;
        Ok(self.engine.operations.load(self.id()).await?.map(|(row, _)| row.last.operation))
    }

    /// The account's operations, the latest first.
    ///
    /// # Errors
    /// [`EngineError::Store`].
    pub async fn operations(&self) -> Result<Vec<Operation>, EngineError> {
        self.engine.check_open()?;
        let row = self.engine.operations.load(self.id()).await?;
        let all = row.map(|(row, _)| [vec![row.last.operation], row.ended].concat());
        Ok(all.unwrap_or_default())
    }

    async fn live_record(&self) -> Result<AccountRecord, EngineError> {
        let (verified, _) = self.engine.verified(self.name()).await?;
        if let Stage::Deleted { until, .. } = verified.record.stage {
            return Err(EngineError::AccountDeleted { account: self.name().clone(), until });
        }
        Ok(verified.record)
    }

    fn customer<'a>(&self, record: &'a AccountRecord) -> Result<&'a CustomerKey, EngineError> {
        let customer = record.customer.as_ref().filter(|_| record.linked);
        customer.ok_or_else(|| EngineError::NotLinked { account: self.name().clone() })
    }

    /// Whether a new KEK can be taken: all but what only the wrap of the account's own AEKs shows.
    async fn check_new(
        &self,
        customer: &CustomerKey,
        principal: &Principal,
        set: &KeyId,
    ) -> Result<(), EngineError> {
        let new = NewKek::of(&self.engine, self.name(), principal, set)?;
        let properties = new.check(&self.engine, customer.buffer).await?;
        self.engine.fences.check(&properties.key_id).await?;
        if customer.keks.iter().any(|kek| kek.key_id == properties.key_id) {
            let (account, key_id) = (self.name().clone(), properties.key_id);
            return Err(EngineError::KekInUse { account, key_id });
        }
        new.try_out(&self.engine, self.id()).await
    }

    /// Whether this KEK still unwraps the newest AEK.
    async fn check_old(&self, customer: &CustomerKey, old: &CustomerKek) -> Result<(), EngineError> {
        let vault = kek::vault_of(&self.engine, self.name(), &old.principal)?;
        let newest = customer.epochs.last().map(std::slice::from_ref).unwrap_or_default();
        let unwrapped = kek::unwrap_all(&self.engine, vault, &old.key_id, newest).await;
        unwrapped.map(drop).map_err(|e| self.old_kek(old, e))
    }

    /// Whether any of these KEKs unwraps the newest AEK.
    async fn check_any(&self, customer: &CustomerKey, of: &[CustomerKek]) -> Result<(), EngineError> {
        let mut last = Ok(());
        for kek in of {
            last = self.check_old(customer, kek).await;
            if last.is_ok() {
                return Ok(());
            }
        }
        last
    }

    fn old_kek(&self, old: &CustomerKek, e: EngineError) -> EngineError {
        match e {
            EngineError::Vault { source, .. } => {
                let what = match source.kind().meaning() {
                    Meaning::Outage => "its vault can't be asked",
                    Meaning::Denial | Meaning::UnconfirmedDenial => "its vault denies it",
                };
                let (account, key_id) = (self.name().clone(), old.key_id.clone());
                EngineError::OldKek { account, key_id, what, source }
            }
            e => e,
        }
    }

    fn no_such_kek(&self, customer: &CustomerKey, named: Option<KeyId>) -> EngineError {
        let has = customer.keks.iter().map(|kek| kek.key_id.clone()).collect();
        EngineError::NoSuchKek { account: self.name().clone(), named, has }
    }

    async fn begin(&self, kind: OperationKind) -> Result<OperationHandle, EngineError> {
        begin(&self.engine, self.name(), kind).await
    }

    /// Changes what needs no operation, while none goes on.
    async fn set(&self, change: impl Fn(&mut AccountRecord)) -> Result<(), EngineError> {
        if let Some(operation) = self.operation().await?.filter(|of| !of.status.has_ended()) {
            return Err(running(self.name(), &operation));
        }
        loop {
            let (mut verified, service) = self.engine.verified(self.name()).await?;
            change(&mut verified.record);
            let bytes = verified.record.seal(service.record_key())?;
            if self.engine.records.replace(self.name(), &verified.revision, Some(bytes)).await? {
                return Ok(());
            }
        }
    }
}

impl Engine {
    /// Brings a deleted account back, with its blocks.
    ///
    /// # Errors
    /// [`EngineError::NoAccount`], [`EngineError::NotDeleted`], [`EngineError::OperationRunning`].
    pub async fn recover_account(&self, name: &AccountName) -> Result<OperationHandle, EngineError> {
        self.inner.check_open()?;
        self.deleted(name).await?;
        begin(&self.inner, name, OperationKind::Recover).await
    }

    /// Destroys a deleted account's keys before its time, then removes its blocks and compacts the store. Nothing brings
    /// it back. Its name is free once the keys are destroyed.
    ///
    /// Copies that were made elsewhere may remain: archives, versions that a bucket keeps, what an SSD has remapped. They stay
    /// sealed; without the keys' wraps the AEKs can't be had again.
    ///
    /// # Errors
    /// [`EngineError::PurgeProtected`], [`EngineError::NotDeleted`], [`EngineError::NoAccount`],
    /// [`EngineError::OperationRunning`].
    pub async fn purge_account(&self, name: &AccountName) -> Result<OperationHandle, EngineError> {
        self.inner.check_open()?;
        let (record, until) = self.deleted(name).await?;
        if record.purge_protected && self.inner.clock.now().wall < until {
            return Err(EngineError::PurgeProtected { account: name.clone(), until });
        }
        begin(&self.inner, name, OperationKind::Purge).await
    }

    /// Every account's last operation, and those before it that are kept: the latest of each account first.
    ///
    /// # Errors
    /// [`EngineError::Store`].
    pub async fn operations(&self) -> Result<Vec<Operation>, EngineError> {
        self.inner.check_open()?;
        let rows = self.inner.operations.all().await?;
        Ok(rows.into_iter().flat_map(|(row, _)| [vec![row.last.operation], row.ended].concat()).collect())
    }

    /// The operation of this id.
    ///
    /// # Errors
    /// [`EngineError::NoOperation`], [`EngineError::Store`].
    pub async fn operation(&self, id: OperationId) -> Result<OperationHandle, EngineError> {
        self.inner.check_open()?;
        let rows = self.inner.operations.all().await?;
        let found = rows.iter().find_map(|(row, _)| row.find(id));
        let found = found.ok_or_else(|| EngineError::NoOperation { operation: id.to_string() })?;
        Ok(OperationHandle::new(self.inner.clone(), found))
    }

    /// Has what was removed leave the store's own files, the wraps of retired epochs too: the store is copied, and writes wait
    /// meanwhile. A purge does so by itself.
    ///
    /// # Errors
    /// [`EngineError::Store`].
    pub async fn compact(&self) -> Result<(), EngineError> {
        self.inner.check_open()?;
        Ok(self.inner.blocks.compact().await?)
    }

    /// Waits until no operation of this engine can go on by itself: each has ended, or something is in its way. Those too that
    /// a process before this one left, and those that were due when the engine was opened.
    pub async fn settle_operations(&self) {
        self.inner.tending.began().await;
        self.inner.runner.settled().await;
    }

    async fn deleted(&self, name: &AccountName) -> Result<(AccountRecord, std::time::Duration), EngineError> {
        let (verified, _) = self.inner.verified(name).await?;
        match verified.record.stage {
            Stage::Deleted { until, .. } => Ok((verified.record, until)),
            Stage::Live => Err(EngineError::NotDeleted { account: name.clone() }),
        }
    }
}

/// Writes an operation down, unless one goes on, and begins it.
pub(in crate::engine) async fn begin(
    engine: &Arc<Handle>,
    name: &AccountName,
    kind: OperationKind,
) -> Result<OperationHandle, EngineError> {
    let operation = engine.begin_operation(name, kind).await?;
    Ok(OperationHandle::new(engine.clone(), &operation))
}

impl crate::engine::Inner {
    pub(in crate::engine) async fn begin_operation(
        self: &Arc<Self>,
        name: &AccountName,
        kind: OperationKind,
    ) -> Result<Operation, EngineError> {
        let (verified, service) = self.verified(name).await?;
        let mut id = [0; 16];
        self.entropy.fill(&mut id)?;
        let step = kind.steps()[0];
        let mut operation = Operation {
            id: OperationId::from_bytes(id),
            account: name.clone(),
            account_id: verified.record.id,
            kind,
            status: OperationStatus::InProgress,
            step,
            progress: Progress::default(),
            started_at: self.clock.now().wall,
            ended_at: None,
            failure: None,
            waits_for: None,
        };
        operation.status = operation.status_at(step);
        let begun = Begun {
            operation,
            node: self.nodes.id,
            base: HEXLOWER.encode(&verified.tag),
            announced: None,
            cursor: None,
            cancelled: false,
            tag: String::new(),
        };
        let begun = begun.tag(service.record_key())?;
        match self.operations.begin(&begun).await? {
            Ok(_) => {
                let Begun { operation, .. } = begun;
                tracing::info!(
                    target: "cofferdam::audit", operation = %operation.id, account = %name,
                    kind = operation.kind.name(), "an operation begins"
                );
                self.runner.start(self, &operation);
                Ok(operation)
            }
            Err(other) => Err(running(name, &other)),
        }
    }
}

fn running(name: &AccountName, other: &Operation) -> EngineError {
    EngineError::OperationRunning {
        account: name.clone(),
        operation: other.id,
        kind: other.kind.name(),
        since: other.started_at,
    }
}
