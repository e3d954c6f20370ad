//! What an attempt does: reads the record where it must, unwraps, verifies.
//!
//! Guarantees: nothing that a vault answers is used before its check value is found right; every KEK of the
//! record is asked, each once; no call is sent without a turn, and one takes at most the policy's time-out.
//!
//! Not its job: what a failure means.

use std::{
    collections::BTreeSet,
    sync::{Arc, PoisonError},
};

use cofferdam_crypto::{
    AccountId, Epoch, KeyId, Provider, WrappedAek, WrappedKey,
    planted::{Bug, is_planted},
};
use cofferdam_vault::{KeyVault, Meaning, Timestamp, VaultError, VaultErrorKind};
use futures_util::stream::{FuturesUnordered, StreamExt};

use super::{
    call,
    desk::Ticket,
    entry::For,
    kept::Kept,
    lane::{Lane, Throttled, Turn},
    live::Material,
    seats::Claim,
    task::Task,
};
use crate::{
    Fault, KeyError, KeyRecord, Policy, RecordError, What,
    budget::Kind,
    machine::{Alarm, Attempt, Effect, Event},
    rt::{Mutex, timeout},
    telemetry,
};

impl Task {
    pub(super) async fn attempt(&self, attempt: Attempt, reread: bool, generation: Ticket) -> Option<Effect> {
        let (known, mut turn, kind) = {
            let mut desk = self.entry.desk();
            desk.unknown.clear();
            let kind = if desk.machine.holds_key() { Kind::Held } else { Kind::Cold };
            (desk.record.clone(), desk.turn.take(), kind)
        };
        let (account, provider) = (self.entry.account, self.entry.provider);
        let record = match known {
            Some(known) if !reread => known.record(account, provider),
            known => match self.read_with(&mut turn).await {
                Ok(record) => {
                    // Within an attempt the machine asks for nothing in answer to a record.
                    self.note_record(generation, known.as_deref(), &record);
                    record
                }
                Err(error) => return self.record_failed(generation, error),
            },
        };
        let vault = self.vault(&record);
        #[cfg(cofferdam_planted)]
        let vault = vault.map(|(vault, lane)| (self.outliving(vault, attempt, &record.epochs), lane));
        let unwrapped = match vault {
            Ok((vault, lane)) => {
                let asked = Asked { vault: &*vault, lane, kind, turn: Mutex::new(turn) };
                self.unwrap_all(&asked, &record, generation).await
            }
            Err(error) => return self.record_failed(generation, error),
        };
        match unwrapped {
            Ok((keys, sent)) => {
                // Its age counts from when the vault was asked, not from when there was no turn yet.
                let attempt = Attempt { sent: sent.unwrap_or(attempt.sent), ..attempt };
                self.verified(generation, attempt, keys).await
            }
            Err((failed, sent)) => {
                let kind = failed.kind();
                let error = self.unavailable(failed);
                let (at, jitter) = (self.entry.now(), self.jitter());
                let attempt = Attempt { sent, ..attempt };
                self.conclude(generation, Event::Failed { attempt, kind, jitter }, |desk| {
                    desk.wanted.clear();
                    desk.note_failure(error, at);
                })
            }
        }
    }

    /// Takes note of a record that was just read, and of whether its wraps are others than those known.
    fn note_record(&self, generation: Ticket, known: Option<&Kept>, record: &KeyRecord) -> Option<Effect> {
        let known = known.map(|known| known.record(self.entry.account, self.entry.provider));
        let changed = known.is_none_or(|known| !same_wraps(&known, record));
        let event = Event::Record { revoked: record.revoked, changed };
        let kept = Arc::new(Kept::new(record, &self.shared.names));
        self.conclude(generation, event, |desk| desk.adopt(kept))
    }

    /// Reads the record that decides whether a denial is a revocation.
    pub(super) async fn read_after_denial(&self, generation: Ticket) -> Option<Effect> {
        match self.read().await {
            Ok(record) => {
                let known = self.entry.desk().record.clone();
                self.note_record(generation, known.as_deref(), &record)
            }
            Err(error) => self.record_failed(generation, error),
        }
    }

    pub(super) async fn persist(&self, revoked: bool) -> Option<Effect> {
        let result = self.in_time(self.shared.parts.records.set_revoked(self.entry.account, revoked)).await;
        let ended =
            if is_planted(Bug::WriteEndForgotten) { self.entry.desk().ticket() } else { Ticket::ALWAYS };
        match result {
            Ok(()) => {
                let claim = if revoked { None } else { self.claim().await };
                self.conclude(ended, Event::Persisted { revoked, ok: true }, |desk| desk.claim = claim)
            }
            Err(RecordError::NotFound) => {
                self.conclude(ended, Event::Abandoned, |_| {});
                self.record_failed(ended, self.unknown_account())
            }
            Err(error) => {
                let error = KeyError::Record(Arc::new(error));
                let said = error.clone();
                let at = self.entry.now();
                self.conclude(ended, Event::Persisted { revoked, ok: false }, |desk| {
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
        if matches!(error, KeyError::Closed) {
            // As for what a close ends: nothing failed.
            return None;
        }
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

    /// The account's record, while a turn at its vault waits: for a time-out, and then it is another's.
    async fn read_with(&self, turn: &mut Option<Turn>) -> Result<KeyRecord, KeyError> {
        let mut reading = std::pin::pin!(self.read());
        if turn.is_some() {
            match timeout(self.shared.parts.policy.call_timeout(), &mut reading).await {
                Ok(read) => return read,
                Err(_) => *turn = None,
            }
        }
        reading.await
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
                    .key(account, Provider::Service, None, For::Record)
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

    pub(super) fn vault(&self, record: &KeyRecord) -> Result<(Arc<dyn KeyVault>, &Arc<Lane>), KeyError> {
        let vaults = &self.shared.parts.vaults;
        let vault = match self.entry.provider {
            Provider::Service => Some(vaults.service()),
            Provider::Customer | Provider::Buffer(_) => {
                record.principal.as_ref().and_then(|p| vaults.customer(p))
            }
        };
        let lane = self.shared.lanes.named(self.entry.provider, record.principal.as_ref());
        vault.cloned().zip(lane).ok_or_else(|| KeyError::NoVault {
            account: self.entry.account,
            principal: record.principal.clone(),
        })
    }

    /// Unwraps what is missing, and something by every KEK of the record. Returns all keys, by epoch, and the time as
    /// of which every KEK has said yes.
    ///
    /// KEKs are asked at the same time, so that an attempt takes one time-out however many there are; each KEK
    /// is asked for one epoch after the other. A denial ends it at once, whatever the others would say.
    pub(super) async fn unwrap_all(
        &self,
        asked: &Asked<'_>,
        record: &KeyRecord,
        generation: Ticket,
    ) -> Result<(Vec<Arc<Material>>, Option<Timestamp>), Failed> {
        let (held, wanted) = {
            let desk = self.entry.desk();
            (desk.keys.clone(), desk.wanted.clone())
        };
        let mut keys: Vec<Arc<Material>> =
            held.into_iter().filter(|key| record.epochs.iter().any(|of| key.is_of(of))).collect();
        let questions = questions(record, &keys, &wanted);
        let ask = |question| self.ask(asked, record, question, generation);
        let mut answers: FuturesUnordered<_> = questions.iter().map(ask).collect();
        let mut outage: Option<Failed> = None;
        let mut first: Option<Timestamp> = None;
        while let Some(answer) = answers.next().await {
            match answer {
                Ok((unwrapped, sent)) => {
                    keys.extend(unwrapped);
                    first = [first, sent].into_iter().flatten().min_by_key(|sent| sent.boot);
                }
                Err(failed) if failed.0.kind().meaning() == Meaning::Outage => {
                    outage = outage.or(Some(failed))
                }
                Err(denied) => return Err(denied),
            }
        }
        if let Some(failed) = outage {
            return Err(failed);
        }
        keys.sort_by_key(|key| key.epoch());
        keys.dedup_by_key(|key| key.epoch());
        Ok((keys, first))
    }

    /// Asks one KEK for each of its epochs. Returns also when the last of the calls was sent that it said yes to: that
    /// one renews the others.
    async fn ask(
        &self,
        asked: &Asked<'_>,
        record: &KeyRecord,
        question: &Question<'_>,
        generation: Ticket,
    ) -> Result<(Vec<Arc<Material>>, Option<Timestamp>), Failed> {
        let (mut keys, mut last) = (Vec::new(), None);
        for of in question.epochs() {
            match self.unwrap(asked, of).await {
                Ok((key, sent)) => {
                    keys.push(key);
                    last = Some(sent);
                }
                // One old wrap is damaged: that says nothing of the KEK.
                Err((failed, _)) if failed.kind() == VaultErrorKind::Corrupt && !is_newest(of, record) => {
                    self.old_wrap_is_corrupt(generation, of.scope.epoch, failed);
                }
                Err(failed) => return Err(failed),
            }
        }
        Ok((keys, last))
    }

    async fn unwrap(&self, asked: &Asked<'_>, of: &WrappedAek) -> Result<(Arc<Material>, Timestamp), Failed> {
        let wrapped = call::wrap_of(of, "the record has no wrap of the key")
            .map_err(|malformed| (malformed, self.entry.now()))?;
        let mut turn = loop {
            let given = asked.take_turn();
            let turn = match given {
                Some(turn) => turn,
                None => match asked.lane.turn(asked.kind).await {
                    Ok(turn) => turn,
                    Err(throttled) => {
                        return Err((not_asked(&throttled).about(&wrapped.key_id), throttled.asked));
                    }
                },
            };
            // The vault may have asked for a pause since it was given: while the record was read, say.
            if turn.stands() {
                break turn;
            }
        };
        let sent = self.entry.now();
        turn.send(sent);
        let answer = self.call(asked.vault, wrapped, of).await;
        telemetry::count_call(self.entry.provider, self.entry.now().since(&sent), &answer);
        asked.lane.answered(sent, answer.as_ref().err().map(VaultError::kind));
        drop(turn);
        match answer {
            Ok(key) => Ok((key, sent)),
            Err(failed) => Err((failed, sent)),
        }
    }

    /// One call, and what it brings verified.
    async fn call(
        &self,
        vault: &dyn KeyVault,
        wrapped: &WrappedKey,
        of: &WrappedAek,
    ) -> Result<Arc<Material>, VaultError> {
        #[cfg(cofferdam_planted)]
        let _held = match is_planted(Bug::LockAcrossCall) {
            true => Some(self.shared.one_call.lock().await),
            false => None,
        };
        let aek = call::unwrap(vault, wrapped, of, self.shared.parts.policy.call_timeout()).await?;
        if !is_planted(Bug::CheckValueIgnored) {
            call::verify(&aek, wrapped, of)?;
        }
        Ok(Arc::new(Material::new(&aek, of)))
    }

    fn old_wrap_is_corrupt(&self, generation: Ticket, epoch: Epoch, failed: VaultError) {
        let error = self.unavailable(failed);
        let mut desk = self.entry.desk();
        if !desk.admits(generation) {
            return;
        }
        desk.wanted.remove(&epoch);
        self.entry.say_of(&mut desk, epoch, error);
        let event = self.entry.event(&desk, What::Alarm(Alarm::Corrupt));
        self.entry.tell(&self.shared, desk, vec![event]);
    }
}

/// A failure, and when the call was sent that it is of.
pub(super) type Failed = (VaultError, Timestamp);

/// The vault that an attempt asks.
pub(super) struct Asked<'a> {
    vault: &'a dyn KeyVault,
    lane: &'a Arc<Lane>,
    kind: Kind,
    /// For the first call.
    turn: Mutex<Option<Turn>>,
}

impl<'a> Asked<'a> {
    #[cfg(cofferdam_planted)]
    pub(super) fn new(vault: &'a dyn KeyVault, lane: &'a Arc<Lane>) -> Self {
        Self { vault, lane, kind: Kind::Cold, turn: Mutex::new(None) }
    }

    fn take_turn(&self) -> Option<Turn> {
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner).take();
        // The record may have moved the account to another vault since.
        turn.filter(|turn| turn.is_of(self.lane))
    }
}

/// What a vault that is not called would have said.
pub(super) fn not_asked(throttled: &Throttled) -> VaultError {
    let wait = throttled.retry_after.max(Policy::FIRST_RETRY);
    let message =
        format!("the vault throttles and was not asked again: it is asked in {wait:?} at the soonest");
    VaultError::new(VaultErrorKind::Throttled { retry_after: Some(wait) }, message)
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
