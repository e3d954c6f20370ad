//! A key in use.
//!
//! Guarantees: whoever holds a [`LiveKey`] can ask at any time whether it may still be used; its secrets are
//! wiped when the cache has evicted it and the last holder has dropped it.

use std::{
    fmt,
    ops::Deref,
    sync::{Arc, Weak},
};

use cofferdam_crypto::{Aek, Epoch, KeyCheckValue, KeyScope, RecordKey, Sealer, WrappedAek};
use cofferdam_vault::Timestamp;

use super::entry::{Entry, For};
use crate::{
    machine::{Bounds, Moment},
    rt::Counted,
};

/// What is kept of an AEK: never the AEK itself.
pub(super) struct Material {
    sealer: Sealer,
    record_key: RecordKey,
    check: KeyCheckValue,
    _counted: Counted,
}

impl Material {
    /// Of an AEK that was verified against its record.
    pub(super) fn new(aek: &Aek, record: &WrappedAek) -> Self {
        Self {
            sealer: Sealer::new(aek, record.scope),
            record_key: RecordKey::derive(aek, &record.scope),
            check: record.check,
            _counted: Counted::new(),
        }
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.sealer.scope().epoch
    }

    pub(super) fn check(&self) -> KeyCheckValue {
        self.check
    }

    /// The key that authenticates records, and the epoch after this one.
    pub(super) fn record_key(&self) -> &RecordKey {
        &self.record_key
    }

    /// Whether it is the key of this record.
    pub(super) fn is_of(&self, record: &WrappedAek) -> bool {
        *self.sealer.scope() == record.scope && self.check == record.check
    }
}

/// What an entry serves now.
pub(super) struct Live {
    /// By epoch; the newest is the last.
    pub(super) keys: Box<[Arc<Material>]>,
    bounds: LiveBounds,
    pub(super) entry: Weak<Entry>,
}

/// What of [`Bounds`] says whether a key serves, in few bytes.
struct LiveBounds {
    unasked_until: Moment,
    usable_until: Moment,
    retried_until: Option<Moment>,
}

impl LiveBounds {
    /// `None` beyond the year 2554.
    fn new(bounds: &Bounds) -> Option<Self> {
        let retried_until = match bounds.retried_until {
            Some(until) => Some(Moment::pack(until)?),
            None => None,
        };
        let unasked_until = Moment::pack(bounds.unasked_until)?;
        let usable_until = Moment::pack(bounds.usable_until)?;
        Some(Self { unasked_until, usable_until, retried_until })
    }

    /// The same as [`Bounds::serves`].
    fn serves(&self, now: Moment) -> bool {
        !self.unasked_until.is_reached(now)
            || (self.retried_until.is_some_and(|until| !until.is_reached(now))
                && !self.usable_until.is_reached(now))
    }
}

impl Live {
    pub(super) fn new(keys: &[Arc<Material>], bounds: &Bounds, entry: Weak<Entry>) -> Option<Self> {
        Some(Self { keys: keys.into(), bounds: LiveBounds::new(bounds)?, entry })
    }

    /// Whether the keys may be used now, without waiting for anything.
    pub(super) fn serves(&self, now: Timestamp) -> bool {
        Moment::pack(now).is_some_and(|now| self.bounds.serves(now))
    }

    fn position(&self, epoch: Option<Epoch>) -> Option<usize> {
        match epoch {
            None => self.keys.len().checked_sub(1),
            Some(epoch) => self.keys.binary_search_by_key(&epoch, |key| key.epoch()).ok(),
        }
    }
}

/// A key that may be used now: derefs to its [`Sealer`].
///
/// Use it for one operation and drop it; a long one asks [`Self::still_usable`] at each page.
#[derive(Clone)]
pub struct LiveKey {
    live: Arc<Live>,
    at: usize,
}

impl LiveKey {
    pub(super) fn of(live: Arc<Live>, epoch: Option<Epoch>) -> Option<Self> {
        let at = live.position(epoch)?;
        Some(Self { live, at })
    }

    /// The key that authenticates records of the account, derived from the same AEK.
    pub fn record_key(&self) -> &RecordKey {
        &self.material().record_key
    }

    /// Which AEK it is.
    pub fn scope(&self) -> &KeyScope {
        self.material().sealer.scope()
    }

    /// Whether it may still be used: its account's key is within its bounds now and was not taken away.
    ///
    /// If not, ask the keyring for the key again: it waits or refuses, as the state demands.
    pub fn still_usable(&self) -> bool {
        let Some(entry) = self.live.entry.upgrade() else { return false };
        entry
            .current(Some(self.scope().epoch), For::Caller)
            .is_some_and(|now| now.material().check == self.material().check)
    }

    fn material(&self) -> &Material {
        &self.live.keys[self.at]
    }
}

impl Deref for LiveKey {
    type Target = Sealer;

    fn deref(&self) -> &Sealer {
        &self.material().sealer
    }
}

impl fmt::Debug for LiveKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LiveKey({})", self.scope())
    }
}
