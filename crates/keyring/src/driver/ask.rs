//! The KEKs of a record are asked.
//!
//! Guarantees: nothing that a vault answers is used before its check value is found right; every KEK of the record is
//! asked, at the same time; an epoch only counts if it follows the one before it (`chain`); no call is sent without a turn,
//! and one takes at most the policy's time-out.
//!
//! Not its job: what a failure means.

use std::{
    collections::{BTreeMap, BTreeSet},
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
    chain::{self, Link},
    desk::Ticket,
    lane::{Lane, Throttled, Turn},
    live::Material,
    task::Task,
};
use crate::{
    KeyError, KeyRecord, Policy, RecordError, What,
    budget::Kind,
    machine::{Alarm, Keks},
    rt::Mutex,
    telemetry,
};

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

/// A denial, and of which KEK.
pub(super) struct Denied {
    pub(super) failed: Failed,
    pub(super) keks: Keks,
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

/// The old wraps that were found to be damaged, with what was said of them last.
type Corrupt = BTreeMap<Epoch, VaultError>;

/// What the KEKs of a record said, each by its place there.
pub(super) struct Heard {
    /// What was held of the record, then that and what was unwrapped, by epoch.
    pub(super) keys: Vec<Arc<Material>>,
    unwrapped: Vec<Arc<Material>>,
    /// Why the newest epoch can't be used.
    pub(super) broken: Option<Wrong>,
    /// As of when each KEK has said yes.
    sent: Vec<Option<Timestamp>>,
    /// How each failed that did not answer.
    pub(super) out: Vec<Option<Failed>>,
}

/// Why an epoch can't be used that was asked for.
pub(super) enum Wrong {
    /// It is damaged or can't be had, or the one before it.
    Corrupt(VaultError),
    /// It does not follow the one before it.
    Tampered(String),
}

impl Heard {
    fn take(&mut self, answer: Answer<'_>, corrupt: &mut Corrupt) -> Result<(), Failed> {
        let Answer { kek, keys, sent, corrupt: damaged, failed } = answer;
        self.unwrapped.extend(keys);
        self.sent[kek] = sent.or(self.sent[kek]);
        corrupt.extend(damaged.into_iter().map(|(of, failed)| (of.scope.epoch, failed)));
        let bridges_denials = is_planted(Bug::DenialBridged) && self.out.len() > 1;
        match failed {
            Some(failed) if failed.0.kind().meaning() != Meaning::Outage && !bridges_denials => {
                return Err(failed);
            }
            Some(failed) => self.out[kek] = Some(failed),
            None => {}
        }
        Ok(())
    }

    fn denied(&self, kek: usize, failed: Failed) -> Denied {
        let place = |kek: usize| u8::try_from(kek).unwrap_or_default();
        let yes = self.sent.iter().enumerate().filter(|(_, sent)| sent.is_some());
        let said_yes = yes.fold(0, |yes, (kek, _)| yes | 1 << place(kek));
        Denied { failed, keks: Keks { failed: place(kek), said_yes } }
    }

    /// Whether the KEK is worth asking for another epoch.
    fn may_answer(&self, kek: usize) -> bool {
        self.out[kek].as_ref().is_none_or(|(failed, _)| failed.kind() == VaultErrorKind::Corrupt)
    }

    fn lacks(&self, of: &WrappedAek) -> bool {
        self.keys.iter().chain(&self.unwrapped).all(|key| !key.is_of(of))
    }

    fn link(&self, record: &KeyRecord, of: &WrappedAek) -> Link {
        let there: Vec<_> = self.keys.iter().chain(&self.unwrapped).cloned().collect();
        chain::link(record, of, &there)
    }

    /// What is wrong with an epoch that was asked for; nothing where that is how its KEKs failed.
    fn judge(&self, record: &KeyRecord, of: &WrappedAek, corrupt: &Corrupt) -> Option<Wrong> {
        let epoch = of.scope.epoch;
        if self.lacks(of) {
            return corrupt.get(&epoch).map(|failed| Wrong::Corrupt(again(failed, failed.to_string())));
        }
        match self.link(record, of) {
            Link::Follows => None,
            Link::Broken { previous } => {
                let what = format!("epoch {epoch} was not made under the key of epoch {previous} before it");
                Some(Wrong::Tampered(what))
            }
            Link::Unknown { previous } => {
                let message = format!("epoch {epoch} can't be checked without epoch {previous} before it");
                match corrupt.get(&previous) {
                    Some(failed) => {
                        Some(Wrong::Corrupt(again(failed, format!("{message}: {}", failed.kind()))))
                    }
                    None if self.out.iter().all(Option::is_some) => None,
                    None => Some(Wrong::Corrupt(VaultError::new(VaultErrorKind::Unavailable, message))),
                }
            }
        }
    }

    /// What was unwrapped for another's sake alone is used only if it can be checked as well.
    fn keep_what_follows(&mut self, record: &KeyRecord) {
        let of = |key: &Arc<Material>| record.epochs.iter().find(|of| key.is_of(of));
        let follows = |key: &&Arc<Material>| of(key).is_some_and(|of| self.link(record, of) == Link::Follows);
        let kept: Vec<_> = self.unwrapped.iter().filter(follows).cloned().collect();
        self.unwrapped.clear();
        self.keys.extend(kept);
        self.keys.sort_by_key(|key| key.epoch());
        self.keys.dedup_by_key(|key| key.epoch());
    }

    /// As of when every KEK that answered has said yes.
    pub(super) fn sent(&self) -> Option<Timestamp> {
        let said_yes = self.sent.iter().zip(&self.out).filter(|(_, out)| out.is_none());
        said_yes.filter_map(|(sent, _)| *sent).min_by_key(|sent| sent.boot)
    }
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

    /// Unwraps what is missing, and something by every KEK of the record.
    ///
    /// KEKs are asked at the same time, so that an attempt takes one time-out however many there are; each KEK
    /// is asked for one epoch after the other. Where the first does not answer the others are asked for what is missing.
    ///
    /// # Errors
    /// A denial, which ends it at once, whatever the others would say.
    pub(super) async fn unwrap_all(
        &self,
        asked: &Asked<'_>,
        record: &KeyRecord,
        generation: Ticket,
    ) -> Result<Heard, Denied> {
        let (held, wanted) = {
            let desk = self.entry.desk();
            (desk.keys.clone(), desk.wanted.clone())
        };
        let mut heard = Heard {
            keys: held.into_iter().filter(|key| record.epochs.iter().any(|of| key.is_of(of))).collect(),
            unwrapped: Vec::new(),
            broken: None,
            sent: record.keks.iter().map(|_| None).collect(),
            out: record.keks.iter().map(|_| None).collect(),
        };
        let needed = needed(record, &heard.keys, &wanted);
        let missing = with_previous(record, &heard.keys, &needed);
        // One that is bridged is not likely to answer.
        let lead = record.keks.iter().position(|kek| kek.bridged_since.is_none()).unwrap_or_default();
        let ask = |kek| {
            let is_lead = kek == lead && !missing.is_empty();
            // Who is asked for nothing else is asked for the newest, to hear whether the KEK still answers.
            let newest = || record.epochs.last().into_iter().collect();
            self.ask(asked, record, kek, if is_lead { missing.clone() } else { newest() })
        };
        let mut asking: FuturesUnordered<_> = (0..record.keks.len()).map(ask).collect();
        let mut corrupt = Corrupt::new();
        while let Some(answer) = asking.next().await {
            let kek = answer.kek;
            heard.take(answer, &mut corrupt).map_err(|failed| heard.denied(kek, failed))?;
        }
        for of in missing {
            for kek in (0..record.keks.len()).filter(|&kek| kek != lead) {
                if heard.may_answer(kek) && heard.lacks(of) {
                    let answer = self.ask(asked, record, kek, vec![of]).await;
                    heard.take(answer, &mut corrupt).map_err(|failed| heard.denied(kek, failed))?;
                }
            }
        }
        for of in needed {
            let Some(wrong) = heard.judge(record, of, &corrupt) else { continue };
            match wrong {
                wrong if is_newest(of, record) => heard.broken = Some(wrong),
                Wrong::Corrupt(failed) => {
                    self.epoch_fails(
                        generation,
                        of.scope.epoch,
                        self.unavailable(failed),
                        Some(Alarm::Corrupt),
                    );
                }
                Wrong::Tampered(what) => {
                    let error = KeyError::Record(Arc::new(RecordError::Tampered(what)));
                    self.epoch_fails(generation, of.scope.epoch, error, None);
                }
            }
        }
        heard.keep_what_follows(record);
        Ok(heard)
    }

    /// Asks one KEK for these epochs.
    async fn ask<'a>(
        &self,
        asked: &Asked<'_>,
        record: &KeyRecord,
        kek: usize,
        epochs: Vec<&'a WrappedAek>,
    ) -> Answer<'a> {
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
                // It has just said yes to another: a replica lags. That is no answer to agree with.
                Err((failed, sent))
                    if failed.kind() == VaultErrorKind::KeyNotFound && answer.sent.is_some() =>
                {
                    let message = format!("it unwraps a newer epoch, and said: {failed}");
                    let lags = VaultError::new(VaultErrorKind::Unavailable, message);
                    let lags = failed.key_id().into_iter().fold(lags, VaultError::about);
                    answer.failed = Some((lags, sent));
                    break;
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

    /// One epoch, not the newest, can't be had.
    fn epoch_fails(&self, generation: Ticket, epoch: Epoch, error: KeyError, alarm: Option<Alarm>) {
        let mut desk = self.entry.desk();
        if !desk.admits(generation) {
            return;
        }
        desk.wanted.remove(&epoch);
        self.entry.say_of(&mut desk, epoch, error);
        let told = alarm.map(|alarm| self.entry.event(&desk, What::Alarm(alarm)));
        self.entry.tell(&self.shared, desk, told.into_iter().collect());
    }
}

/// What a vault that is not called would have said.
pub(super) fn not_asked(throttled: &Throttled) -> VaultError {
    let wait = throttled.retry_after.max(Policy::FIRST_RETRY);
    let message =
        format!("the vault throttles and was not asked again: it is asked in {wait:?} at the soonest");
    VaultError::new(VaultErrorKind::Throttled { retry_after: Some(wait) }, message)
}

/// What is missing and needed, the newest first.
fn needed<'a>(
    record: &'a KeyRecord,
    held: &[Arc<Material>],
    wanted: &BTreeSet<Epoch>,
) -> Vec<&'a WrappedAek> {
    let is_needed = |of: &&WrappedAek| {
        let is_missing = held.iter().all(|key| !key.is_of(of));
        is_missing && (is_newest(of, record) || wanted.contains(&of.scope.epoch))
    };
    record.epochs.iter().rev().filter(is_needed).collect()
}

/// The same, with what each of it follows, where that is not held.
fn with_previous<'a>(
    record: &'a KeyRecord,
    held: &[Arc<Material>],
    needed: &[&'a WrappedAek],
) -> Vec<&'a WrappedAek> {
    let is_held = |of: &WrappedAek| held.iter().any(|key| key.is_of(of));
    let previous = needed.iter().filter_map(|of| chain::previous(record, of)).filter(|of| !is_held(of));
    let mut all: Vec<_> = needed.iter().copied().chain(previous).collect();
    all.sort_by_key(|of| std::cmp::Reverse(of.scope.epoch));
    all.dedup_by_key(|of| of.scope.epoch);
    all
}

/// What was said of a wrap, to say it again.
fn again(failed: &VaultError, message: String) -> VaultError {
    let error = VaultError::new(failed.kind(), message);
    failed.key_id().into_iter().fold(error, VaultError::about)
}

fn is_newest(of: &WrappedAek, record: &KeyRecord) -> bool {
    record.epochs.last().is_some_and(|newest| newest.scope.epoch == of.scope.epoch)
}
