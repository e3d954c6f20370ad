//! What an attempt comes to when some KEKs of an account answer and others don't.
//!
//! Guarantees: a key is served on the strength of a bridge only once it is persisted since when that is needed; the earliest
//! time that any node persisted counts; that a KEK answers again is persisted once the key is served, and holds nothing up.
//!
//! Not its job: how long a bridge may last, and what stands against one (the machine's [`bridging`]).

use std::{collections::BTreeSet, time::Duration};

use cofferdam_crypto::{
    KeyId,
    planted::{Bug, is_planted},
};
use cofferdam_vault::{Timestamp, VaultError, VaultErrorKind};

use super::{
    ask::{Failed, Heard},
    desk::{Desk, Ticket},
    kept::Kept,
    task::Task,
};
use crate::{
    KeyEvent, KeyRecord, RecordError, What,
    machine::{Alarm, Bridging, KekFound, after, bridging, remaining},
    telemetry,
};

/// That a key is served although a KEK does not answer.
pub(super) struct Bridged {
    /// Counts those KEKs.
    _counted: telemetry::Bridged,
    /// Those of whose end an alarm was given.
    warned: BTreeSet<KeyId>,
}

impl Task {
    /// Until when a bridge lets the key be served; `None` where every KEK said yes.
    ///
    /// # Errors
    /// How the KEK failed that nothing stands in for.
    pub(super) async fn bridge(
        &self,
        record: &mut KeyRecord,
        heard: &mut Heard,
        generation: Ticket,
    ) -> Result<Option<Timestamp>, Failed> {
        let mut persisted = false;
        loop {
            let bridging = match heard.out.as_mut_slice() {
                [only] => return only.take().map_or(Ok(None), Err),
                out => self.judge(out, record, generation),
            };
            let (kek, too_long) = match bridging {
                Bridging::Whole => return Ok(None),
                Bridging::Bridged { until } => return Ok(Some(until)),
                Bridging::Begins(keks) if !persisted => {
                    persisted = true;
                    match self.begin(record, heard, &keks, generation).await {
                        Ok(()) => continue,
                        Err(kek) => (kek, false),
                    }
                }
                Bridging::Begins(keks) => (keks.first().copied().unwrap_or_default(), false),
                Bridging::Broken { kek, too_long } => (kek, too_long),
            };
            if let Some(failed) = heard.out[kek].take() {
                return Err(if too_long { self.too_long(failed) } else { failed });
            }
        }
    }

    fn judge(&self, out: &[Option<Failed>], record: &KeyRecord, generation: Ticket) -> Bridging {
        let desk = self.entry.desk();
        if !desk.admits(generation) {
            // Nobody hears of it.
            let kek = out.iter().position(Option::is_some);
            return kek.map_or(Bridging::Whole, |kek| Bridging::Broken { kek, too_long: false });
        }
        let doubted = desk.machine.is_doubted() || !desk.denied.is_empty();
        let found = |(at, out): (usize, &Option<Failed>)| KekFound {
            out: out.as_ref().map(|(_, asked)| *asked),
            since: desk.record.as_ref().and_then(|kept| kept.bridged_since(at)),
            denied: desk.may_have_denied(&record.keks[at].key_id),
        };
        let found: Vec<KekFound> = out.iter().enumerate().map(found).collect();
        bridging(&found, doubted, self.entry.now(), &self.shared.parts.policy)
    }

    /// Persists that these KEKs are bridged since they were asked. Says of which that failed.
    async fn begin(
        &self,
        record: &mut KeyRecord,
        heard: &Heard,
        keks: &[usize],
        generation: Ticket,
    ) -> Result<(), usize> {
        for &at in keks {
            let Some((failed, asked)) = &heard.out[at] else { continue };
            let is_corrupt = failed.kind() == VaultErrorKind::Corrupt;
            let kek = &mut record.keks[at];
            let Ok(stored) = self.begun(&kek.key_id, *asked).await else {
                self.tell_of(&kek.key_id, What::Alarm(Alarm::BridgeNotPersisted));
                self.adopt(record, generation);
                return Err(at);
            };
            kek.bridged_since = Some(stored.map_or(asked.wall, |stored| stored.min(asked.wall)));
            self.tell_of(&kek.key_id, What::BridgeBegan);
            if is_corrupt {
                self.tell_of(&kek.key_id, What::Alarm(Alarm::Corrupt));
            }
        }
        self.adopt(record, generation);
        Ok(())
    }

    /// Persists that a KEK is bridged; returns since when it is by what is stored now.
    async fn begun(&self, kek: &KeyId, asked: Timestamp) -> Result<Option<Duration>, RecordError> {
        if is_planted(Bug::BridgeNotPersisted) {
            return Ok(None);
        }
        let (account, records) = (self.entry.account, &self.shared.parts.records);
        self.in_time(records.note_bridge(account, kek, Some(asked.wall))).await?;
        // Another node may have found it so before.
        let stored = self.read().await.map_err(|error| RecordError::Storage(Box::new(error)))?;
        Ok(stored.keks.iter().find(|of| of.key_id == *kek).and_then(|of| of.bridged_since))
    }

    /// Keeps what is persisted of this record's KEKs.
    fn adopt(&self, record: &KeyRecord, generation: Ticket) {
        let kept = Kept::new(record, &self.shared.names, self.entry.now());
        let mut desk = self.entry.desk();
        if desk.admits(generation) {
            desk.adopt(kept);
        }
    }

    /// Takes note of what an attempt found that was verified: which KEKs are bridged, and which are no longer.
    pub(super) async fn note_bridges(&self, record: &mut KeyRecord, heard: &Heard, generation: Ticket) {
        self.note_standing(record, heard, generation);
        let mut changed = false;
        for (kek, out) in record.keks.iter_mut().zip(&heard.out) {
            if out.is_none() && kek.bridged_since.is_some() && self.ended(&kek.key_id).await {
                kek.bridged_since = None;
                changed = true;
                self.tell_of(&kek.key_id, What::BridgeEnded);
            }
        }
        if changed {
            self.adopt(record, generation);
        }
    }

    /// Persists that a KEK answers again. If it can't be, that is tried with the next attempt.
    async fn ended(&self, kek: &KeyId) -> bool {
        let (account, records) = (self.entry.account, &self.shared.parts.records);
        let ended = self.in_time(records.note_bridge(account, kek, None)).await;
        if ended.is_err() {
            self.tell_of(kek, What::Alarm(Alarm::BridgeNotPersisted));
        }
        ended.is_ok()
    }

    fn note_standing(&self, record: &KeyRecord, heard: &Heard, generation: Ticket) {
        let (now, longest) = (self.entry.now(), self.shared.parts.policy.max_bridge());
        let mut told = Vec::new();
        let mut desk = self.entry.desk();
        if !desk.admits(generation) || !desk.machine.holds_key() {
            return;
        }
        let out: Vec<usize> = (0..heard.out.len()).filter(|&at| heard.out[at].is_some()).collect();
        let mut warned = desk.bridged.take().map(|bridged| bridged.warned).unwrap_or_default();
        warned.retain(|kek| out.iter().any(|&at| record.keks[at].key_id == *kek));
        for &at in &out {
            let kek = &record.keks[at].key_id;
            let since = desk.record.as_ref().and_then(|kept| kept.bridged_since(at));
            let ends = since.is_some_and(|since| remaining(after(since, longest), now) <= longest / 4);
            if ends && warned.insert(kek.clone()) {
                told.push(self.event_of(&desk, kek, What::Alarm(Alarm::BridgeEnds)));
            }
        }
        if let Some(counted) = telemetry::Bridged::new(self.entry.provider, out.len()) {
            desk.bridged = Some(Box::new(Bridged { _counted: counted, warned }));
        }
        self.entry.tell(&self.shared, desk, told);
    }

    /// A KEK that denied the key has answered: it is not bridged any longer, whatever is made of its answer.
    pub(super) async fn end_bridges_of_denials(&self) {
        let keks: Vec<KeyId> = {
            let desk = self.entry.desk();
            let Some(kept) = &desk.record else { return };
            let denied = desk.denied.iter().filter(|kek| kept.is_bridged(kek));
            denied.cloned().collect()
        };
        for kek in keks {
            self.ended(&kek).await;
        }
    }

    fn too_long(&self, (failed, asked): Failed) -> Failed {
        let longest = self.shared.parts.policy.max_bridge();
        let message = format!(
            "it has not answered for longer than {longest:?} (the last time: {}), so that the account's other keys stand in \
             for it no longer: mend its vault, or remove it from the account",
            failed.kind()
        );
        let error = VaultError::new(failed.kind(), message);
        let error = failed.key_id().cloned().into_iter().fold(error, |error, kek| error.about(&kek));
        (error.caused_by(failed), asked)
    }

    fn tell_of(&self, kek: &KeyId, what: What) {
        let desk = self.entry.desk();
        let event = self.event_of(&desk, kek, what);
        self.entry.tell(&self.shared, desk, vec![event]);
    }

    fn event_of(&self, desk: &Desk, kek: &KeyId, what: What) -> KeyEvent {
        KeyEvent { key_id: Some(kek.clone()), ..self.entry.event(desk, what) }
    }
}
