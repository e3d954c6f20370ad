//! What an attempt does: reads the record where it must, has the KEKs asked, and concludes.
//!
//! Guarantees: a record is used only if it does not contradict itself. Not its job: to ask (`ask`), what a failure means.

use std::sync::Arc;

use cofferdam_crypto::{
    AccountId, Provider,
    planted::{Bug, is_planted},
};
use cofferdam_vault::VaultError;

use super::{
    ask::{Asked, Denied, Failed, Wrong},
    desk::Ticket,
    entry::For,
    kept::Kept,
    lane::Turn,
    seats::Claim,
    task::Task,
};
use crate::{
    Fault, Kek, KeyError, KeyRecord, RecordError,
    budget::Kind,
    machine::{Attempt, Effect, Event, Keks},
    rt::timeout,
};

impl Task {
    pub(super) async fn attempt(&self, attempt: Attempt, reread: bool, generation: Ticket) -> Option<Effect> {
        let (known, mut turns, kind, reread, reload) = {
            let mut desk = self.entry.desk();
            desk.unknown.clear();
            let reread = (reread || desk.is_stale()) && !is_planted(Bug::ReloadKeepsOldEpoch);
            desk.begun = desk.reloads;
            let kind = if desk.machine.holds_key() { Kind::Held } else { Kind::Cold };
            (desk.record.clone(), std::mem::take(&mut desk.turns), kind, reread, desk.begun)
        };
        let (account, provider) = (self.entry.account, self.entry.provider);
        let mut record = match known {
            Some(known) if !reread => known.record(account, provider),
            known => match self.read_with(&mut turns).await {
                Ok(record) => {
                    // Within an attempt the machine asks for nothing in answer to a record.
                    self.note_record(generation, known.as_deref(), &record);
                    self.drop_outdated(generation, &record);
                    record
                }
                Err(error) => return self.record_failed(generation, error),
            },
        };
        self.note_reread(generation, reload);
        let ways = match self.ways(&record) {
            Ok(ways) => ways,
            Err(error) => return self.record_failed(generation, error),
        };
        #[cfg(cofferdam_planted)]
        let ways = self.outliving(ways, attempt, &record.epochs);
        let mut heard = match self.unwrap_all(&Asked::new(ways, kind, turns), &record, generation).await {
            Ok(heard) => heard,
            Err(Denied { failed, keks }) => return self.failed_by(generation, attempt, failed, keks),
        };
        match heard.broken.take() {
            Some(Wrong::Corrupt(failed)) => {
                let sent = heard.sent().unwrap_or(attempt.sent);
                return self.failed(generation, attempt, (failed, sent));
            }
            Some(Wrong::Tampered(what)) => {
                let error = KeyError::Record(Arc::new(RecordError::Tampered(what)));
                return self.record_failed(generation, error);
            }
            None => {}
        }
        let bridged_until = match self.bridge(&mut record, &mut heard, generation).await {
            Ok(until) => until,
            Err(failed) => return self.failed(generation, attempt, failed),
        };
        // Its age counts from when the vault was asked, not from when there was no turn yet.
        let sent = heard.sent().unwrap_or(attempt.sent);
        let keys = std::mem::take(&mut heard.keys);
        let work = self.verified(generation, Attempt { sent, bridged_until, ..attempt }, keys).await;
        // What is to be done comes first: the next attempt takes note of it.
        if work.is_none() && record.keks.len() > 1 {
            self.note_bridges(&mut record, &heard, generation).await;
        }
        work
    }

    fn failed(&self, generation: Ticket, attempt: Attempt, failed: Failed) -> Option<Effect> {
        self.failed_by(generation, attempt, failed, Keks::default())
    }

    fn failed_by(
        &self,
        generation: Ticket,
        attempt: Attempt,
        (failed, sent): Failed,
        keks: Keks,
    ) -> Option<Effect> {
        let kind = failed.kind();
        let error = self.unavailable(failed);
        let (at, jitter) = (self.entry.now(), self.jitter());
        let attempt = Attempt { sent, ..attempt };
        self.conclude(generation, Event::Failed { attempt, kind, keks, jitter }, |desk| {
            desk.wanted.clear();
            desk.note_failure(error, at);
        })
    }

    /// Takes note of a record that was just read, and of whether its wraps are others than those known.
    fn note_record(&self, generation: Ticket, known: Option<&Kept>, record: &KeyRecord) -> Option<Effect> {
        let known = known.map(|known| known.record(self.entry.account, self.entry.provider));
        let changed = known.is_none_or(|known| !same_wraps(&known, record));
        let event = Event::Record { revoked: record.revoked, changed };
        let kept = Kept::new(record, &self.shared.names, self.entry.now());
        self.conclude(generation, event, |desk| {
            desk.denied_elsewhere |= record.revoked && !desk.machine.is_revoked();
            desk.adopt(kept);
        })
    }

    /// Reads the record that decides whether a denial is a revocation.
    pub(super) async fn read_after_denial(&self, generation: Ticket) -> Option<Effect> {
        self.end_bridges_of_denials().await;
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

    /// The account's record, while turns at its vaults wait: for a time-out, and then they are others'.
    async fn read_with(&self, turns: &mut Vec<Turn>) -> Result<KeyRecord, KeyError> {
        let mut reading = std::pin::pin!(self.read());
        if !turns.is_empty() {
            match timeout(self.shared.parts.policy.call_timeout(), &mut reading).await {
                Ok(read) => return read,
                Err(_) => turns.clear(),
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
        check(&record, account, provider).map_err(|wrong| KeyError::Record(Arc::new(wrong)))?;
        Ok(record)
    }

    /// What the store of records answers, within its time-out.
    pub(super) async fn in_time<T>(
        &self,
        call: impl Future<Output = Result<T, RecordError>>,
    ) -> Result<T, RecordError> {
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

    pub(super) fn unavailable(&self, failed: VaultError) -> KeyError {
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
}

fn same_wraps(one: &KeyRecord, other: &KeyRecord) -> bool {
    let is_same = |(one, other): (&Kek, &Kek)| one.principal == other.principal;
    one.epochs == other.epochs && one.keks.iter().zip(&other.keks).all(is_same)
}

/// Whether the record could have been written so, for this account.
fn check(record: &KeyRecord, account: AccountId, provider: Provider) -> Result<(), RecordError> {
    if record.epochs.iter().any(|of| of.scope.account != account || of.scope.provider != provider) {
        return Err(RecordError::Tampered("it has a key of another account or provider".into()));
    }
    record.check()
}
