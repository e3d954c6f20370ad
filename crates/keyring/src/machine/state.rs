//! What the machine knows of one key, and what that means for a caller.

use std::{fmt, time::Duration};

use cofferdam_crypto::{
    Provider,
    planted::{Bug, is_planted},
};
use cofferdam_vault::{Timestamp, VaultErrorKind};

use super::{
    Attempt, Bounds, Policy,
    bounds::{after, reached, remaining},
};

/// The state of an account's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyState {
    /// Not unwrapped yet, or denied and not yet confirmed: callers wait.
    Cold,
    /// Verified of late: serves.
    Active,
    /// Its vault can't be asked: serves until the grace ends.
    Grace,
    /// Its vault can't be asked and there is no key to serve.
    Unavailable,
    /// Its customer took it away.
    Revoked,
}

impl KeyState {
    /// Its name, as events and metrics carry it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Active => "active",
            Self::Grace => "grace",
            Self::Unavailable => "unavailable",
            Self::Revoked => "revoked",
        }
    }
}

impl fmt::Display for KeyState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether a key that is held could be had again, if it were given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Recovery {
    /// Its vault answered last time.
    Likely,
    /// Its vault failed since.
    Doubtful,
    /// It is in Grace: its vault has failed for longer.
    Unlikely,
}

/// What a caller gets now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Serving {
    /// The key.
    Use,
    /// What the attempt under way, or the next one, brings.
    Wait,
    /// A refusal, by the state that is reported.
    Refuse,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Phase {
    Cold,
    Held {
        verified: Attempt,
        grace: bool,
    },
    /// Denied, and not yet known whether that is a revocation.
    Doubted {
        since: Timestamp,
    },
    Unavailable,
    Revoked(Revocation),
}

/// What is known of a revocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Revocation {
    pub(super) persisted: bool,
    /// Its end was to be persisted, and may have been: the next denial is persisted again.
    pub(super) unsure: bool,
    /// An attempt since the revocation, or since it was read from the record, has said no.
    pub(super) answered: bool,
    /// Verified, and served once the end of the revocation is persisted.
    pub(super) restoring: Option<Attempt>,
}

impl Revocation {
    /// By a denial, just now.
    pub(super) const DENIED: Self = Self { persisted: false, unsure: false, answered: true, restoring: None };

    /// By what the record says: nobody was asked yet.
    pub(super) const RECORDED: Self =
        Self { persisted: true, unsure: false, answered: false, restoring: None };
}

/// An attempt that failed since the last verified one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Failure {
    pub(super) attempt: Attempt,
    /// When its vault was asked: later than it was begun, if it had to wait for its record, and the service's key.
    pub(super) asked: Timestamp,
    /// `None`: the record could not be read.
    pub(super) kind: Option<VaultErrorKind>,
}

/// All that the machine knows of one key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub(super) provider: Provider,
    pub(super) phase: Phase,
    pub(super) flight: Option<Attempt>,
    /// When the last attempt had read its record, if it had to.
    pub(super) asked: Option<Timestamp>,
    /// The number of the last attempt begun.
    pub(super) last: u64,
    /// Successes of attempts up to this number began before a denial: they are ignored.
    pub(super) barred: u64,
    pub(super) failure: Option<Failure>,
    /// Failures in a row.
    pub(super) failures: u32,
    /// Which KEK answered "not found" when, within the time in which answers must agree.
    pub(super) absent: Vec<(u8, Timestamp)>,
    /// The denial for which the record is being read.
    pub(super) reading: Option<VaultErrorKind>,
    pub(super) persisting: bool,
    /// When the next attempt is due.
    pub(super) due: Option<Timestamp>,
    /// An attempt was due and nobody had used the key.
    pub(super) idle: bool,
    /// How often the key is refreshed, where that was stretched.
    pub(super) pace: Duration,
}

impl State {
    /// A key of which nothing is known.
    pub fn new(provider: Provider) -> Self {
        Self {
            provider,
            phase: Phase::Cold,
            flight: None,
            asked: None,
            last: 0,
            barred: 0,
            failure: None,
            failures: 0,
            absent: Vec::new(),
            reading: None,
            persisting: false,
            due: None,
            idle: false,
            pace: Duration::ZERO,
        }
    }

    /// The state to report. A revocation is not reported before it is persisted.
    pub fn reported(&self) -> KeyState {
        match self.phase {
            Phase::Cold | Phase::Doubted { .. } | Phase::Revoked(Revocation { persisted: false, .. }) => {
                KeyState::Cold
            }
            Phase::Held { grace: false, .. } => KeyState::Active,
            Phase::Held { grace: true, .. } => KeyState::Grace,
            Phase::Unavailable => KeyState::Unavailable,
            Phase::Revoked(_) => KeyState::Revoked,
        }
    }

    /// Until when the key serves, if one is held.
    pub fn bounds(&self, policy: &Policy) -> Option<Bounds> {
        match self.phase {
            Phase::Held { verified, .. } => {
                Some(Bounds::new(verified, self.failure.map(|f| f.asked), self.pace(policy), policy))
            }
            _ => None,
        }
    }

    /// What a caller gets now.
    pub fn serving(&self, now: Timestamp, policy: &Policy) -> Serving {
        let failed = self.failed_of_late(now, policy);
        match self.phase {
            Phase::Cold | Phase::Doubted { .. } => Serving::Wait,
            Phase::Held { verified, .. } => {
                let failed_at = self.failure.map(|f| f.asked);
                let bounds = Bounds::new(verified, failed_at, self.pace(policy), policy);
                match (bounds.serves(now), failed) {
                    (true, _) => Serving::Use,
                    (false, true) => Serving::Refuse,
                    (false, false) => Serving::Wait,
                }
            }
            Phase::Unavailable if failed => Serving::Refuse,
            Phase::Unavailable => Serving::Wait,
            Phase::Revoked(Revocation { persisted: true, answered: true, .. }) => Serving::Refuse,
            Phase::Revoked(_) => Serving::Wait,
        }
    }

    /// How long until time alone changes something; `None` if it never does.
    pub fn next_wake(&self, now: Timestamp, policy: &Policy) -> Option<Duration> {
        let due = if self.idle || self.is_busy() { None } else { self.due };
        let due = due.map(|deadline| remaining(deadline, now));
        [self.next_wake_but_due(now, policy), due].into_iter().flatten().min()
    }

    /// The same where an attempt that is due is put off.
    pub fn next_wake_but_due(&self, now: Timestamp, policy: &Policy) -> Option<Duration> {
        let bound = match self.phase {
            Phase::Held { verified, grace } => {
                let bounds = Bounds::new(verified, None, self.pace(policy), policy);
                let turns_grace = !grace && self.failure.is_some();
                Some(if turns_grace { bounds.fresh_until } else { bounds.usable_until })
            }
            Phase::Doubted { since } => Some(after(since, Policy::CONFIRM_WITHIN)),
            Phase::Cold | Phase::Unavailable | Phase::Revoked(_) => None,
        };
        bound.map(|deadline| remaining(deadline, now))
    }

    /// Whether there is nothing to do until somebody asks: no key held, nothing under way, nothing due.
    pub fn is_at_rest(&self) -> bool {
        !self.is_busy()
            && (self.idle || self.due.is_none())
            && !self.is_unpersisted()
            && matches!(self.phase, Phase::Cold | Phase::Unavailable | Phase::Revoked(_))
    }

    /// Whether a refresh was let go by because nobody had used the key.
    pub fn is_idle(&self) -> bool {
        self.idle
    }

    /// Whether a key is held.
    pub fn holds_key(&self) -> bool {
        matches!(self.phase, Phase::Held { .. })
    }

    /// Whether the key could be had again, if it were given up.
    pub fn recovery(&self) -> Recovery {
        match self.phase {
            Phase::Held { grace: true, .. } => Recovery::Unlikely,
            _ if self.failure.is_some() => Recovery::Doubtful,
            _ => Recovery::Likely,
        }
    }

    /// Whether a KEK denied the key, and that is not yet taken back or made up for.
    pub fn is_doubted(&self) -> bool {
        matches!(self.phase, Phase::Doubted { .. } | Phase::Revoked(_))
    }

    /// Whether an attempt is under way.
    pub fn is_asking(&self) -> bool {
        self.flight.is_some()
    }

    /// Whether a revocation is known.
    pub fn is_revoked(&self) -> bool {
        matches!(self.phase, Phase::Revoked(_))
    }

    /// Whether a verified key waits for the end of its revocation to be persisted.
    pub fn is_restoring(&self) -> bool {
        matches!(self.phase, Phase::Revoked(Revocation { restoring: Some(_), .. }))
    }

    /// Whether a revocation is known and still to be persisted.
    pub fn is_unpersisted(&self) -> bool {
        matches!(self.phase, Phase::Revoked(Revocation { persisted: false, .. }))
    }

    /// Whether something is under way that must end before an attempt begins.
    pub(super) fn is_busy(&self) -> bool {
        self.flight.is_some() || self.reading.is_some() || self.persisting
    }

    /// Whether an attempt begun within the failure window has failed.
    pub fn failed_of_late(&self, now: Timestamp, policy: &Policy) -> bool {
        self.failure
            .is_some_and(|f| !reached(after(f.asked, policy.failure_window_at(self.pace(policy))), now))
    }

    /// How often the key is refreshed: as the policy says, or as a scheduler stretched it.
    pub fn pace(&self, policy: &Policy) -> Duration {
        if is_planted(Bug::StretchUnbounded) {
            return self.pace.max(policy.refresh());
        }
        self.pace.clamp(policy.refresh(), policy.ceiling())
    }

    /// Whether time alone begins an attempt now, which may be put off: nobody waits for it, as for one that confirms a
    /// denial.
    pub fn is_attempt_due(&self, now: Timestamp) -> bool {
        let may_wait = match self.phase {
            Phase::Cold | Phase::Held { .. } | Phase::Unavailable => true,
            Phase::Doubted { .. } => false,
            Phase::Revoked(revocation) => revocation.persisted,
        };
        may_wait && !self.is_busy() && self.due.is_some_and(|due| reached(due, now))
    }

    /// Whether attempts go on by themselves.
    pub fn is_polled(&self) -> bool {
        !self.idle && (self.due.is_some() || self.flight.is_some())
    }

    /// Whether the vault failed, or was not asked yet, since the key was last verified: many keys may be like that at
    /// one time.
    pub fn is_one_of_many(&self) -> bool {
        self.failure.is_some() || !self.holds_key()
    }
}
