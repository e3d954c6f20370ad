//! What the tasks of an entry and the slow path share.
//!
//! Invariants: it is read and changed under its lock alone; a result is delivered only while the desk admits its
//! ticket. Not its job: to step the machine (`steps`).

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use cofferdam_crypto::{Epoch, KeyCheckValue, KeyId, Provider};
use cofferdam_vault::{Meaning, Timestamp};

use super::{
    LastFailure,
    bridge::Bridged,
    kept::Kept,
    lane::{InUse, Turn},
    live::Material,
    seats::{Claim, Seat},
};
use crate::{
    Fault, KeyError, KeyEvent, KeyState,
    machine::State,
    rt::{Notify, watch},
    telemetry::HeldIn,
};

/// How many epochs are remembered as unknown; the oldest make way.
const UNKNOWN_KEPT: usize = 64;

/// What the tasks and the slow path share. Most of it is about what is under way or fails: `slot` keeps the rest.
pub(super) struct Desk {
    pub(super) machine: State,
    pub(super) record: Option<Arc<Kept>>,
    /// What is live, by epoch.
    pub(super) keys: Vec<Arc<Material>>,
    /// The AEK of the newest epoch that was verified.
    pub(super) proven: Option<(Epoch, KeyCheckValue)>,
    /// What a verified attempt unwrapped, until the machine publishes it.
    pub(super) candidate: Option<Vec<Arc<Material>>>,
    /// Where the keys are held.
    pub(super) seat: Option<Seat>,
    /// Counts them as held.
    pub(super) held: Option<HeldIn>,
    /// For the seat of the keys that are about to be published.
    pub(super) claim: Option<Claim>,
    /// Epochs that callers wait for.
    pub(super) wanted: BTreeSet<Epoch>,
    /// Epochs that the record was found to lack since the last attempt began: they are not looked for again.
    pub(super) unknown: VecDeque<Epoch>,
    /// How often the account was forgotten, and its key displaced.
    pub(super) forgets: u64,
    pub(super) displacements: u64,
    pub(super) failure: Option<(KeyError, LastFailure)>,
    /// The KEKs that denied the key since it was last verified.
    pub(super) denied: Vec<KeyId>,
    /// It was found to be revoked in the record: any KEK may have denied it.
    pub(super) denied_elsewhere: bool,
    /// The key is served although a KEK does not answer.
    pub(super) bridged: Option<Box<Bridged>>,
    /// The last denial since the key was verified.
    pub(super) denial: Option<(KeyError, LastFailure)>,
    /// Counts what was concluded: those who wait look again at each.
    pub(super) round: u64,
    /// What a round said to who waited in it, if not by the state.
    pub(super) said: Option<(u64, KeyError)>,
    pub(super) said_of: BTreeMap<Epoch, (u64, KeyError)>,
    /// A caller waits that no attempt was begun for yet.
    pub(super) asked: bool,
    pub(super) waiting: usize,
    /// Used since the last verified attempt.
    pub(super) used: bool,
    /// The key was asked for by somebody else than a record since it was unwrapped.
    pub(super) lent: bool,
    pub(super) last_used: Timestamp,
    /// Wakes the task there is.
    pub(super) running: Option<Arc<Notify>>,
    pub(super) retired: bool,
    /// What has happened and is not told yet, while somebody tells.
    pub(super) untold: Option<Vec<KeyEvent>>,
    /// Wakes those who wait, in the order of waiting, when a round ends.
    pub(super) round_ended: Option<Arc<Notify>>,
    pub(super) watch: Option<Box<watch::Sender<KeyState>>>,
    /// Counts the account as in use at its vault.
    pub(super) in_use: Option<InUse>,
    /// How often it was said that the record changed; up to which of them the last attempt began after, the record was read
    /// after, and an attempt failed.
    pub(super) reloads: u64,
    pub(super) begun: u64,
    pub(super) read: u64,
    pub(super) failed: u64,
    /// Who waits for one.
    pub(super) reloading: usize,
    /// For the next calls, at most one at each vault.
    pub(super) turns: Vec<Turn>,
    /// It waits at its vault for a turn that nobody else waits for.
    pub(super) queued: bool,
    /// The soonest time at which the agenda looks at it, in nanoseconds since boot.
    pub(super) timer: Option<u64>,
}

/// What is under way is delivered to who still waits for it: a result is dropped once the account was forgotten,
/// or its key displaced where the result is about that.
#[derive(Clone, Copy)]
pub(super) struct Ticket {
    forgets: Option<u64>,
    displacements: Option<u64>,
}

impl Ticket {
    /// For the end of a write, which is always delivered: the machine begins nothing before it.
    pub(super) const ALWAYS: Self = Self { forgets: None, displacements: None };
}

impl Desk {
    pub(super) fn new(provider: Provider, now: Timestamp) -> Self {
        Self {
            machine: State::new(provider),
            record: None,
            keys: Vec::new(),
            proven: None,
            candidate: None,
            seat: None,
            held: None,
            claim: None,
            wanted: BTreeSet::new(),
            unknown: VecDeque::new(),
            forgets: 0,
            displacements: 0,
            failure: None,
            denied: Vec::new(),
            denied_elsewhere: false,
            bridged: None,
            denial: None,
            round: 0,
            said: None,
            said_of: BTreeMap::new(),
            asked: false,
            waiting: 0,
            used: false,
            lent: false,
            last_used: now,
            running: None,
            retired: false,
            untold: None,
            round_ended: None,
            watch: None,
            in_use: None,
            reloads: 0,
            begun: 0,
            read: 0,
            failed: 0,
            reloading: 0,
            turns: Vec::new(),
            queued: false,
            timer: None,
        }
    }

    /// Whether somebody watches the state.
    pub(super) fn is_watched(&self) -> bool {
        self.watch.as_ref().is_some_and(|watch| watch.receiver_count() > 0)
    }

    /// What wakes who waits for the end of this round.
    pub(super) fn round_ended(&mut self) -> Arc<Notify> {
        self.round_ended.get_or_insert_default().clone()
    }

    /// For what is about the key.
    pub(super) fn ticket(&self) -> Ticket {
        Ticket { forgets: Some(self.forgets), displacements: Some(self.displacements) }
    }

    /// For what is about the record alone.
    pub(super) fn ticket_of_record(&self) -> Ticket {
        Ticket { forgets: Some(self.forgets), displacements: None }
    }

    pub(super) fn admits(&self, ticket: Ticket) -> bool {
        let displaced = ticket.displacements.is_some_and(|known| known != self.displacements);
        let forgotten = ticket.forgets.is_some_and(|known| known != self.forgets);
        !forgotten && !displaced
    }

    /// Keeps a record that was just read.
    pub(super) fn adopt(&mut self, record: Kept) {
        self.unknown.retain(|&epoch| !record.has(epoch));
        let record = match &self.record {
            Some(before) => record.continuing(before),
            None => record,
        };
        self.record = Some(Arc::new(record));
    }

    /// Whether the record is to be read again before it is used.
    pub(super) fn is_stale(&self) -> bool {
        self.read < self.reloads
    }

    /// Whether an attempt is to begin for that: none was since it was said.
    pub(super) fn is_to_reload(&self) -> bool {
        self.begun < self.reloads && self.machine.holds_key()
    }

    /// Whether this KEK denied the key since it was last verified, or may have.
    pub(super) fn may_have_denied(&self, kek: &KeyId) -> bool {
        let is_known = !self.denied_elsewhere && !self.denied.is_empty();
        self.denied.contains(kek) || (self.machine.is_doubted() && !is_known)
    }

    /// What is waited for and not in the record, as far as that is known.
    pub(super) fn lacking(&self) -> BTreeSet<Epoch> {
        let has = |epoch| self.record.as_ref().is_some_and(|record| record.has(epoch));
        self.wanted.iter().copied().filter(|&epoch| !has(epoch)).collect()
    }

    /// Nothing that was known of the account holds any longer.
    pub(super) fn forget_record(&mut self) {
        self.record = None;
        self.proven = None;
    }

    pub(super) fn note_unknown(&mut self, epoch: Epoch) {
        if self.unknown.len() == UNKNOWN_KEPT {
            self.unknown.pop_front();
        }
        self.unknown.push_back(epoch);
    }

    /// Takes note of what failed, for refusals and the status. A denial outweighs an outage after it until the key is
    /// verified again: it may be a revocation that could not be confirmed, so nothing is buffered meanwhile.
    pub(super) fn note_failure(&mut self, error: KeyError, at: Timestamp) {
        self.failed = self.begun;
        if self.denial.is_some() && error.is_outage() {
            self.failure.clone_from(&self.denial);
            return;
        }
        let kind = match &error {
            KeyError::Unavailable { fault: Fault::Vault { kind, key_id, .. }, .. } => {
                if let Some(kek) = key_id
                    && kind.meaning() != Meaning::Outage
                    && !self.denied.contains(kek)
                {
                    self.denied.push(kek.clone());
                }
                Some(*kind)
            }
            _ => None,
        };
        let message = error.to_string();
        self.failure = Some((error, LastFailure { kind, message, at }));
        if kind.is_some_and(|kind| kind.meaning() == Meaning::Denial) {
            self.denial.clone_from(&self.failure);
        }
    }

    /// Whether the record's newest AEK was verified since the account was last forgotten.
    pub(super) fn is_proven(&self) -> bool {
        let newest = self.record.as_ref().and_then(|record| record.newest());
        match (&self.proven, newest) {
            (Some(proven), Some(newest)) => *proven == newest,
            (proven, None) => proven.is_some(),
            (None, _) => false,
        }
    }

    pub(super) fn key_id(&self) -> Option<KeyId> {
        self.record.as_ref()?.key_id().cloned()
    }
}
