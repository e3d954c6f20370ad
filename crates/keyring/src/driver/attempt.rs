//! What an attempt does: reads the record where it must, unwraps, verifies.
//!
//! Guarantees: nothing that a vault answers is used before its check value is found right; every KEK of the
//! record is asked, each once; a call takes at most the policy's time-out. Not its job: what a failure means.

use std::{collections::BTreeSet, sync::Arc};

use cofferdam_crypto::{
    AccountId, Epoch, KeyId, Provider, WrappedAek, WrappedKey,
    planted::{Bug, is_planted},
};
use cofferdam_vault::{KeyVault, Meaning, VaultError, VaultErrorKind, WrapContext};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::timeout;

use super::{desk::Ticket, live::Material, seats::Claim, task::Task};
use crate::{
    Fault, KeyError, KeyRecord, RecordError, What,
    machine::{Alarm, Attempt, Effect, Event},
    telemetry,
};

impl Task {
    pub(super) async fn attempt(&self, attempt: Attempt, reread: bool, generation: Ticket) -> Option<Effect> {
        let known = {
            let mut desk = self.entry.desk();
            desk.unknown.clear();
            desk.record.clone()
        };
        let record = match known {
            Some(known) if !reread => known,
            known => match self.read().await {
                Ok(record) => {
                    let changed = known.is_none_or(|known| !same_wraps(&known, &record));
                    let event = Event::Record { revoked: record.revoked, changed };
                    let record = Arc::new(record);
                    let kept = record.clone();
                    // Within an attempt the machine asks for nothing in answer to a record.
                    self.conclude(generation, event, |desk| desk.adopt(kept));
                    record
                }
                Err(error) => return self.record_failed(generation, error),
            },
        };
        let vault = self.vault(&record);
        #[cfg(cofferdam_planted)]
        let vault = vault.map(|vault| self.outliving(vault, attempt, &record.epochs));
        let unwrapped = match vault {
            Ok(vault) => self.unwrap_all(&*vault, &record, generation).await,
            Err(error) => return self.record_failed(generation, error),
        };
        let jitter = self.jitter();
        match unwrapped {
            Ok(keys) => {
                let claim = self.claim().await;
                self.conclude(generation, Event::Verified { attempt, jitter }, |desk| {
                    desk.claim = claim;
                    for key in &keys {
                        desk.wanted.remove(&key.epoch());
                    }
                    desk.candidate = Some(keys);
                })
            }
            Err(failed) => {
                let kind = failed.kind();
                let error = self.unavailable(failed);
                let at = self.entry.now();
                self.conclude(generation, Event::Failed { attempt, kind, jitter }, |desk| {
                    desk.wanted.clear();
                    desk.note_failure(error, at);
                })
            }
        }
    }

    /// Reads the record that decides whether a denial is a revocation.
    pub(super) async fn read_after_denial(&self, generation: Ticket) -> Option<Effect> {
        match self.read().await {
            Ok(record) => {
                let known = self.entry.desk().record.clone();
                let changed = known.is_none_or(|known| !same_wraps(&known, &record));
                let event = Event::Record { revoked: record.revoked, changed };
                self.conclude(generation, event, |desk| desk.adopt(Arc::new(record)))
            }
            Err(error) => self.record_failed(generation, error),
        }
    }

    pub(super) async fn persist(&self, revoked: bool) -> Option<Effect> {
        let result = self.in_time(self.shared.parts.records.set_revoked(self.entry.account, revoked)).await;
        let generation = self.entry.desk().ticket();
        match result {
            Ok(()) => {
                let claim = if revoked { None } else { self.claim().await };
                self.conclude(generation, Event::Persisted { revoked, ok: true }, |desk| desk.claim = claim)
            }
            Err(RecordError::NotFound) => {
                self.conclude(generation, Event::Abandoned, |_| {});
                self.record_failed(generation, self.unknown_account())
            }
            Err(error) => {
                let error = KeyError::Record(Arc::new(error));
                let said = error.clone();
                let at = self.entry.now();
                self.conclude(generation, Event::Persisted { revoked, ok: false }, |desk| {
                    desk.note_failure(error, at);
                    self.entry.say(desk, said);
                })
            }
        }
    }

    /// Room for the key, unless it is held. Who takes that away meanwhile begins another generation.
    pub(super) async fn claim(&self) -> Option<Claim> {
        let is_seated = self.entry.desk().seat.is_some();
        if is_seated { None } else { Some(self.shared.make_room().await) }
    }

    fn record_failed(&self, generation: Ticket, error: KeyError) -> Option<Effect> {
        let gone = matches!(error, KeyError::UnknownAccount { .. });
        let event = if gone { Event::RecordGone } else { Event::RecordUnreadable };
        let at = self.entry.now();
        self.conclude(generation, event, |desk| {
            if gone {
                desk.forget_record();
            }
            desk.wanted.clear();
            desk.note_failure(error.clone(), at);
            self.entry.say(desk, error);
        })
    }

    /// The account's record, whole and believable.
    pub(super) async fn read(&self) -> Result<KeyRecord, KeyError> {
        let (account, provider) = (self.entry.account, self.entry.provider);
        let records = &self.shared.parts.records;
        let read = match provider {
            Provider::Service => self.in_time(records.service_keys(account)).await,
            Provider::Customer => {
                let service = self
                    .shared
                    .key(account, Provider::Service, None)
                    .await
                    .map_err(|e| self.of_service(e))?;
                self.in_time(records.customer_keys(account, service.record_key())).await
            }
            // A segment's key has no record among the account's.
            Provider::Buffer(_) => Err(RecordError::NotFound),
        };
        let record = read.map_err(|error| match error {
            RecordError::NotFound => self.unknown_account(),
            error => KeyError::Record(Arc::new(error)),
        })?;
        check(&record, account, provider)
            .map_err(|wrong| KeyError::Record(Arc::new(RecordError::Tampered(wrong.to_owned()))))?;
        Ok(record)
    }

    /// What the store of records answers, within its time-out.
    async fn in_time<T>(&self, call: impl Future<Output = Result<T, RecordError>>) -> Result<T, RecordError> {
        let limit = self.shared.parts.policy.record_timeout();
        timeout(limit, call).await.unwrap_or(Err(RecordError::TimedOut(limit)))
    }

    /// What a failure of the service key means for the customer's record.
    fn of_service(&self, error: KeyError) -> KeyError {
        match error {
            KeyError::UnknownAccount { .. } => self.unknown_account(),
            KeyError::Record(_) | KeyError::Closed => error,
            error => KeyError::Unavailable {
                account: self.entry.account,
                provider: self.entry.provider,
                fault: Fault::ServiceKey(Box::new(error)),
                proven: self.entry.desk().is_proven(),
                retry: self.shared.parts.policy.retry_max(),
            },
        }
    }

    fn unknown_account(&self) -> KeyError {
        KeyError::UnknownAccount { account: self.entry.account, provider: self.entry.provider }
    }

    fn unavailable(&self, failed: VaultError) -> KeyError {
        let fault = Fault::Vault {
            kind: failed.kind(),
            message: failed.to_string().into(),
            key_id: failed.key_id().cloned(),
        };
        KeyError::Unavailable {
            account: self.entry.account,
            provider: self.entry.provider,
            fault,
            proven: self.entry.desk().is_proven(),
            retry: self.shared.parts.policy.retry_max(),
        }
    }

    pub(super) fn vault(&self, record: &KeyRecord) -> Result<Arc<dyn KeyVault>, KeyError> {
        let vaults = &self.shared.parts.vaults;
        if self.entry.provider == Provider::Service {
            return Ok(vaults.service().clone());
        }
        let vault = record.principal.as_ref().and_then(|principal| vaults.customer(principal));
        vault.cloned().ok_or_else(|| KeyError::NoVault {
            account: self.entry.account,
            principal: record.principal.clone(),
        })
    }

    /// Unwraps what is missing, and something by every KEK of the record. Returns all keys, by epoch.
    ///
    /// KEKs are asked at the same time, so that an attempt takes one time-out however many there are; each KEK
    /// is asked for one epoch after the other. A denial ends it at once, whatever the others would say.
    pub(super) async fn unwrap_all(
        &self,
        vault: &dyn KeyVault,
        record: &KeyRecord,
        generation: Ticket,
    ) -> Result<Vec<Arc<Material>>, VaultError> {
        let (held, wanted) = {
            let desk = self.entry.desk();
            (desk.keys.clone(), desk.wanted.clone())
        };
        let mut keys: Vec<Arc<Material>> =
            held.into_iter().filter(|key| record.epochs.iter().any(|of| key.is_of(of))).collect();
        let questions = questions(record, &keys, &wanted);
        let ask = |question| self.ask(vault, record, question, generation);
        let mut answers: FuturesUnordered<_> = questions.iter().map(ask).collect();
        let mut outage = None;
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(unwrapped) => keys.extend(unwrapped),
                Err(failed) if failed.kind().meaning() == Meaning::Outage => outage = outage.or(Some(failed)),
                Err(denied) => return Err(denied),
            }
        }
        if let Some(failed) = outage {
            return Err(failed);
        }
        keys.sort_by_key(|key| key.epoch());
        keys.dedup_by_key(|key| key.epoch());
        Ok(keys)
    }

    /// Asks one KEK for each of its epochs.
    async fn ask(
        &self,
        vault: &dyn KeyVault,
        record: &KeyRecord,
        question: &Question<'_>,
        generation: Ticket,
    ) -> Result<Vec<Arc<Material>>, VaultError> {
        let mut keys = Vec::new();
        for of in question.epochs() {
            match self.unwrap(vault, of).await {
                Ok(key) => keys.push(key),
                // One old wrap is damaged: that says nothing of the KEK.
                Err(failed) if failed.kind() == VaultErrorKind::Corrupt && !is_newest(of, record) => {
                    self.old_wrap_is_corrupt(generation, of.scope.epoch, failed);
                }
                Err(failed) => return Err(failed),
            }
        }
        Ok(keys)
    }

    async fn unwrap(&self, vault: &dyn KeyVault, of: &WrappedAek) -> Result<Arc<Material>, VaultError> {
        let Some(wrapped) = of.wraps.first() else {
            return Err(VaultError::new(VaultErrorKind::Corrupt, "the record has no wrap of the key"));
        };
        if !wrapped.algorithm.accepts_len(wrapped.bytes.len()) {
            let message = format!("a wrapped key can't have {} bytes", wrapped.bytes.len());
            return Err(VaultError::new(VaultErrorKind::Corrupt, message).about(&wrapped.key_id));
        }
        let sent = self.entry.now();
        let answer = self.call(vault, wrapped, of).await;
        telemetry::count_call(self.entry.provider, self.entry.now().since(&sent), &answer);
        answer
    }

    /// One call, and what it brings verified.
    async fn call(
        &self,
        vault: &dyn KeyVault,
        wrapped: &WrappedKey,
        of: &WrappedAek,
    ) -> Result<Arc<Material>, VaultError> {
        let context = WrapContext { scope: of.scope };
        let limit = self.shared.parts.policy.call_timeout();
        #[cfg(cofferdam_planted)]
        let _held = match is_planted(Bug::LockAcrossCall) {
            true => Some(self.shared.one_call.lock().await),
            false => None,
        };
        let aek = match timeout(limit, vault.unwrap_key(wrapped, &context)).await {
            Ok(answer) => answer.map_err(|failed| failed.about(&wrapped.key_id))?,
            Err(_) => {
                let message = format!("the vault did not answer within {limit:?}");
                return Err(VaultError::new(VaultErrorKind::Unavailable, message).about(&wrapped.key_id));
            }
        };
        if is_planted(Bug::CheckValueIgnored) {
            return Ok(Arc::new(Material::new(&aek, of)));
        }
        of.verify(&aek).map_err(|mismatch| {
            VaultError::new(VaultErrorKind::Corrupt, mismatch.to_string())
                .about(&wrapped.key_id)
                .caused_by(mismatch)
        })?;
        Ok(Arc::new(Material::new(&aek, of)))
    }

    fn old_wrap_is_corrupt(&self, generation: Ticket, epoch: Epoch, failed: VaultError) {
        let error = self.unavailable(failed);
        let event = {
            let mut desk = self.entry.desk();
            if !desk.admits(generation) {
                return;
            }
            desk.wanted.remove(&epoch);
            self.entry.say_of(&mut desk, epoch, error);
            self.entry.event(&desk, What::Alarm(Alarm::Corrupt))
        };
        self.shared.tell(vec![event]);
    }
}

/// What one KEK is asked for.
struct Question<'a> {
    /// The newest epoch under it.
    newest: &'a WrappedAek,
    /// What is missing and needed, the newest first.
    needed: Vec<&'a WrappedAek>,
}

impl<'a> Question<'a> {
    /// The epochs to ask for: if none is needed the newest, to hear whether the KEK still answers.
    fn epochs(&self) -> impl Iterator<Item = &'a WrappedAek> {
        let newest = if self.needed.is_empty() { Some(self.newest) } else { None };
        newest.into_iter().chain(self.needed.iter().copied())
    }
}

fn questions<'a>(
    record: &'a KeyRecord,
    held: &[Arc<Material>],
    wanted: &BTreeSet<Epoch>,
) -> Vec<Question<'a>> {
    let mut questions: Vec<Question<'_>> = Vec::new();
    for of in record.epochs.iter().rev() {
        let is_missing = held.iter().all(|key| !key.is_of(of));
        let is_needed = is_missing && (is_newest(of, record) || wanted.contains(&of.scope.epoch));
        let needed = if is_needed { Some(of) } else { None };
        match questions.iter_mut().find(|question| key_id(question.newest) == key_id(of)) {
            Some(question) => question.needed.extend(needed),
            None => questions.push(Question { newest: of, needed: needed.into_iter().collect() }),
        }
    }
    questions
}

fn is_newest(of: &WrappedAek, record: &KeyRecord) -> bool {
    record.epochs.last().is_some_and(|newest| newest.scope.epoch == of.scope.epoch)
}

fn key_id(of: &WrappedAek) -> Option<&KeyId> {
    of.wraps.first().map(|wrap| &wrap.key_id)
}

fn same_wraps(one: &KeyRecord, other: &KeyRecord) -> bool {
    one.principal == other.principal && one.epochs == other.epochs
}

/// What is wrong with a record that could not have been written so.
fn check(record: &KeyRecord, account: AccountId, provider: Provider) -> Result<(), &'static str> {
    if record.epochs.is_empty() {
        return Err("it has no epoch");
    }
    if record.epochs.iter().any(|of| of.scope.account != account || of.scope.provider != provider) {
        return Err("it has a key of another account or provider");
    }
    if !record.epochs.is_sorted_by(|one, next| one.scope.epoch < next.scope.epoch) {
        return Err("its epochs are out of order");
    }
    if record.epochs.iter().any(|of| of.wraps.is_empty()) {
        return Err("an epoch has no wrap");
    }
    Ok(())
}
