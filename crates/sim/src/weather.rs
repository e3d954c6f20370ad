//! How the way from each node to each KEK is: the faults that are nobody's will.

use std::{collections::BTreeMap, time::Duration};

use cofferdam_crypto::KeyId;
use cofferdam_vault::VaultErrorKind;

use crate::dice::Dice;

/// How calls fare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// Answered within this many milliseconds.
    Fair { latency: u64 },
    /// Answered within this many milliseconds, which may be too late.
    Slow { latency: u64 },
    /// Never answered.
    Hangs,
    /// Failed with this kind.
    Fails(VaultErrorKind),
    /// Each call fares otherwise.
    Flaps(VaultErrorKind),
    /// Some calls reach a replica that does not know the key yet.
    Lags,
    /// Some calls are answered with another key.
    WrongKey,
}

/// What becomes of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Reaches,
    Fails(VaultErrorKind),
    Hangs,
    Absent,
    WrongKey,
}

/// A key's id without its version.
pub(crate) fn base_of(kek: &KeyId) -> &str {
    let id = kek.as_str();
    match id.rsplit_once("/v") {
        Some((base, version)) if version.bytes().all(|b| b.is_ascii_digit()) => base,
        _ => id,
    }
}

const FAIR: Condition = Condition::Fair { latency: 40 };

/// The conditions of all ways, and when they were last bad.
#[derive(Debug, Default)]
pub(crate) struct Weather {
    /// By node and key; all versions of one are reached in one way.
    ways: BTreeMap<(usize, String), Spell>,
    /// Since when each KEK can be used, as far as its owner is concerned.
    usable_since: BTreeMap<KeyId, Option<Duration>>,
}

#[derive(Clone, Copy, Debug)]
struct Spell {
    condition: Condition,
    until: Duration,
}

impl Weather {
    pub(crate) fn set(&mut self, node: usize, kek: &KeyId, condition: Condition, until: Duration) {
        self.ways.insert((node, base_of(kek).to_owned()), Spell { condition, until });
    }

    /// All ways are fair from now on.
    pub(crate) fn clear(&mut self, now: Duration) {
        for spell in self.ways.values_mut() {
            spell.until = spell.until.min(now);
        }
    }

    pub(crate) fn condition(&self, node: usize, kek: &KeyId, now: Duration) -> Condition {
        match self.ways.get(&(node, base_of(kek).to_owned())) {
            Some(spell) if now < spell.until => spell.condition,
            _ => FAIR,
        }
    }

    /// A KEK was taken away by its owner, or given back.
    pub(crate) fn set_usable(&mut self, kek: &KeyId, usable: bool, now: Duration) {
        self.usable_since.insert(kek.clone(), usable.then_some(now));
    }

    /// Since when the owner lets the KEK be used; `None` while it is taken away.
    pub(crate) fn usable_since(&self, kek: &KeyId) -> Option<Duration> {
        self.usable_since.get(kek).copied().unwrap_or(Some(Duration::ZERO))
    }

    /// Since when this node can reach and use this KEK without a flaw; `None` if it can't now.
    pub(crate) fn fair_since(&self, node: usize, kek: &KeyId, now: Duration) -> Option<Duration> {
        let usable = self.usable_since(kek)?;
        match self.ways.get(&(node, base_of(kek).to_owned())) {
            Some(spell) if now < spell.until => None,
            Some(spell) => Some(usable.max(spell.until)),
            None => Some(usable),
        }
    }
}

impl Condition {
    /// What becomes of a call, and how long it takes.
    pub(crate) fn fate(self, dice: &mut Dice) -> (Fate, Duration) {
        let quick = dice.millis(1, 40);
        match self {
            Self::Fair { latency } => (Fate::Reaches, dice.millis(1, latency)),
            Self::Slow { latency } => (Fate::Reaches, dice.millis(1, latency)),
            Self::Hangs => (Fate::Hangs, quick),
            Self::Fails(kind) => (Fate::Fails(kind), quick),
            Self::Flaps(kind) => match dice.below(3) {
                0 => (Fate::Reaches, quick),
                1 => (Fate::Fails(kind), quick),
                _ => (Fate::Hangs, quick),
            },
            Self::Lags => (if dice.percent(50) { Fate::Absent } else { Fate::Reaches }, quick),
            Self::WrongKey => (if dice.percent(70) { Fate::WrongKey } else { Fate::Reaches }, quick),
        }
    }

    /// One of those that are nobody's will; `timeout` is how long a call may take.
    pub(crate) fn draw(dice: &mut Dice, timeout: Duration) -> Self {
        let kind = dice.pick(&[
            VaultErrorKind::Unavailable,
            VaultErrorKind::Throttled { retry_after: None },
            VaultErrorKind::Throttled { retry_after: Some(Duration::from_secs(7)) },
            VaultErrorKind::Unauthenticated,
            VaultErrorKind::Untrusted,
            VaultErrorKind::Corrupt,
            VaultErrorKind::Other,
        ]);
        match dice.below(10) {
            0..=2 => Self::Fails(kind),
            3 | 4 => Self::Hangs,
            5 => Self::Flaps(kind),
            6 | 7 => Self::Slow { latency: timeout.as_millis() as u64 * dice.pick(&[1, 1, 3]) },
            8 => Self::Lags,
            _ => Self::WrongKey,
        }
    }
}
