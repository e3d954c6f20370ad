//! The KEKs of a record are asked.
//!
//! Guarantees: nothing that a vault answers is used before its check value is found right; every KEK of the record is
//! asked, at the same time; no call is sent without a turn, and one takes at most the policy's time-out.
//!
//! Not its job: what a failure means.

use std::{
    collections::BTreeSet,
    sync::{Arc, PoisonError},
};

use cofferdam_crypto::{
    Epoch, Provider, WrappedAek, WrappedKey,
    planted::{Bug, is_planted},
};
use cofferdam_vault::{KeyVault, Meaning, Timestamp, VaultError, VaultErrorKind};
use futures_util::stream::{FuturesUnordered, StreamExt};

use super::{
    call,
    desk::Ticket,
    lane::{Lane, Throttled, Turn},
    live::Material,
    task::Task,
};
use crate::{KeyError, KeyRecord, Policy, What, budget::Kind, machine::Alarm, rt::Mutex, telemetry};

/// The way to one KEK.
pub(super) struct Way<'a> {
    pub(super) vault: Arc<dyn KeyVault>,
    pub(super) lane: &'a Arc<Lane>,
}

/// The vaults that an attempt asks.
pub(super) struct Asked<'a> {
    /// One for each KEK of the record, in their order.
    ways: Vec<Way<'a>>,
    kind: Kind,
    /// For the first call at each vault.
    turns: Mutex<Vec<Turn>>,
}

impl<'a> Asked<'a> {
    pub(super) fn new(ways: Vec<Way<'a>>, kind: Kind, turns: Vec<Turn>) -> Self {
        Self { ways, kind, turns: Mutex::new(turns) }
    }

    fn take_turn(&self, lane: &Arc<Lane>) -> Option<Turn> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        // The record may have moved the account to another vault since.
        let at = turns.iter().position(|turn| turn.is_of(lane))?;
        Some(turns.swap_remove(at))
    }
}

/// A failure, and when the call was sent that it is of.
pub(super) type Failed = (VaultError, Timestamp);

/// What one KEK is asked for.
struct Question<'a> {
    /// Which one, by its place in the record.
    kek: usize,
    epochs: Vec<&'a WrappedAek>,
}

/// What one KEK said.
struct Answer<'a> {
    kek: usize,
    keys: Vec<Arc<Material>>,
    /// When the last of the calls was sent that it said yes to: that one renews the others.
    sent: Option<Timestamp>,
    /// Old wraps that are damaged: that says nothing of the KEK.
    corrupt: Vec<(&'a WrappedAek, VaultError)>,
    failed: Option<Failed>,
}

impl Task {
    /// The way to each KEK of the record.
    pub(super) fn ways(&self, record: &KeyRecord) -> Result<Vec<Way<'_>>, KeyError> {
        let (vaults, provider) = (&self.shared.parts.vaults, self.entry.provider);
        let way = |principal: Option<&_>| {
            let vault = match provider {
                Provider::Service => Some(vaults.service()),
                Provider::Customer | Provider::Buffer(_) => principal.and_then(|p| vaults.customer(p)),
            };
            Some(Way { vault: vault?.clone(), lane: self.shared.lanes.named(provider, principal)? })
        };
        let of = |kek: &crate::Kek| {
            way(kek.principal.as_ref()).ok_or_else(|| KeyError::NoVault {
                account: self.entry.account,
                principal: kek.principal.clone(),
            })
        };
        record.keks.iter().map(of).collect()
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
        let ask = |question| self.ask(asked, record, question);
        let mut asking: FuturesUnordered<_> = questions.into_iter().map(ask).collect();
        let mut answers = Vec::new();
        while let Some(answer) = asking.next().await {
            match answer.failed {
                Some(failed) if failed.0.kind().meaning() != Meaning::Outage => return Err(failed),
                _ => answers.push(answer),
            }
        }
        answers.sort_by_key(|answer| answer.kek);
        let mut outage: Option<Failed> = None;
        let mut first: Option<Timestamp> = None;
        for answer in answers {
            keys.extend(answer.keys);
            first = [first, answer.sent].into_iter().flatten().min_by_key(|sent| sent.boot);
            outage = outage.or(answer.failed);
            for (of, failed) in answer.corrupt {
                self.old_wrap_is_corrupt(generation, of.scope.epoch, failed);
            }
        }
        if let Some(failed) = outage {
            return Err(failed);
        }
        keys.sort_by_key(|key| key.epoch());
        keys.dedup_by_key(|key| key.epoch());
        Ok((keys, first))
    }

    /// Asks one KEK for each of its epochs.
    async fn ask<'a>(&self, asked: &Asked<'_>, record: &KeyRecord, question: Question<'a>) -> Answer<'a> {
        let Question { kek, epochs } = question;
        let mut answer = Answer { kek, keys: Vec::new(), sent: None, corrupt: Vec::new(), failed: None };
        for of in epochs {
            match self.unwrap(asked, kek, of).await {
                Ok((key, sent)) => {
                    answer.keys.push(key);
                    answer.sent = Some(sent);
                }
                Err((failed, _)) if failed.kind() == VaultErrorKind::Corrupt && !is_newest(of, record) => {
                    answer.corrupt.push((of, failed));
                }
                Err(failed) => {
                    answer.failed = Some(failed);
                    break;
                }
            }
        }
        answer
    }

    async fn unwrap(
        &self,
        asked: &Asked<'_>,
        kek: usize,
        of: &WrappedAek,
    ) -> Result<(Arc<Material>, Timestamp), Failed> {
        let Way { vault, lane } = &asked.ways[kek];
        let wrapped = call::wrap_of(of, kek, "the record has no wrap of the key")
            .map_err(|malformed| (malformed, self.entry.now()))?;
        let mut turn = loop {
            let turn = match asked.take_turn(lane) {
                Some(turn) => turn,
                None => match lane.turn(asked.kind).await {
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
        let answer = self.call(&**vault, wrapped, of).await;
        telemetry::count_call(self.entry.provider, self.entry.now().since(&sent), &answer);
        lane.answered(sent, answer.as_ref().err().map(VaultError::kind));
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

/// What a vault that is not called would have said.
pub(super) fn not_asked(throttled: &Throttled) -> VaultError {
    let wait = throttled.retry_after.max(Policy::FIRST_RETRY);
    let message =
        format!("the vault throttles and was not asked again: it is asked in {wait:?} at the soonest");
    VaultError::new(VaultErrorKind::Throttled { retry_after: Some(wait) }, message)
}

/// What each KEK is asked for: the first for all that is missing and needed, the newest first; who is not asked for any of
/// it for the newest, to hear whether the KEK still answers.
fn questions<'a>(
    record: &'a KeyRecord,
    held: &[Arc<Material>],
    wanted: &BTreeSet<Epoch>,
) -> Vec<Question<'a>> {
    let is_needed = |of: &&WrappedAek| {
        let is_missing = held.iter().all(|key| !key.is_of(of));
        is_missing && (is_newest(of, record) || wanted.contains(&of.scope.epoch))
    };
    let question = |kek| {
        let needed: Vec<_> = match kek {
            0 => record.epochs.iter().rev().filter(is_needed).collect(),
            _ => Vec::new(),
        };
        let newest = || record.epochs.last().into_iter().collect();
        Question { kek, epochs: if needed.is_empty() { newest() } else { needed } }
    };
    (0..record.keks.len()).map(question).collect()
}

fn is_newest(of: &WrappedAek, record: &KeyRecord) -> bool {
    record.epochs.last().is_some_and(|newest| newest.scope.epoch == of.scope.epoch)
}
