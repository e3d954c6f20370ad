//! An account's record as it is kept: a tenth of a cached account is this.
//!
//! Guarantees: what is kept is what was read, but for whether it is revoked, which only a reading says. Names of KEKs
//! and principals are kept once, however many accounts name them.

use std::{
    collections::BTreeSet,
    sync::{Arc, PoisonError},
    time::Duration,
};

use cofferdam_crypto::{
    AccountId, Epoch, EpochTag, KeyCheckValue, KeyId, KeyScope, Provider, WrapAlgorithm, WrappedAek,
    WrappedKey,
};
use cofferdam_vault::{Principal, Timestamp};

use super::BridgedKek;
use crate::{
    Kek, KeyRecord,
    machine::{after, earlier},
    rt::Mutex,
};

pub(super) struct Kept {
    keks: Arc<KekNames>,
    epochs: Box<[KeptEpoch]>,
    rare: Option<Box<Rare>>,
}

/// What few records have.
struct Rare {
    /// Since when each KEK is bridged, in their order.
    bridged: Box<[Option<Timestamp>]>,
    /// What each epoch follows.
    follows: Box<[Option<EpochTag>]>,
}

/// Whose vault has a KEK, and its name.
type KekName = (Option<Arc<Principal>>, KeyId);
type KekNames = Box<[KekName]>;

struct KeptEpoch {
    epoch: Epoch,
    check: KeyCheckValue,
    /// One for each KEK, in their order.
    wraps: Box<[KeptWrap]>,
}

struct KeptWrap {
    algorithm: WrapAlgorithm,
    bytes: Box<[u8]>,
}

impl Kept {
    /// Of a record that was checked, and read at `now`.
    pub(super) fn new(record: &KeyRecord, names: &Names, now: Timestamp) -> Self {
        let wrap =
            |wrap: &WrappedKey| KeptWrap { algorithm: wrap.algorithm, bytes: wrap.bytes.clone().into() };
        let epoch = |of: &WrappedAek| KeptEpoch {
            epoch: of.scope.epoch,
            check: of.check,
            wraps: of.wraps.iter().map(wrap).collect(),
        };
        let since = |kek: &Kek| kek.bridged_since.map(|since| on_both_clocks(since, now));
        let bridged: Box<[_]> = record.keks.iter().map(since).collect();
        let follows: Box<[_]> = record.epochs.iter().map(|of| of.follows).collect();
        let is_rare = bridged.iter().any(Option::is_some) || follows.iter().any(Option::is_some);
        Self {
            keks: names.of(&record.keks),
            epochs: record.epochs.iter().map(epoch).collect(),
            rare: is_rare.then(|| Box::new(Rare { bridged, follows })),
        }
    }

    /// The record as it was read.
    pub(super) fn record(&self, account: AccountId, provider: Provider) -> KeyRecord {
        let kek = |(at, (principal, key_id)): (usize, &KekName)| Kek {
            principal: principal.as_deref().cloned(),
            key_id: key_id.clone(),
            bridged_since: self.bridged_since(at).map(|since| since.wall),
        };
        let wrap = |(wrap, (_, key_id)): (&KeptWrap, &KekName)| WrappedKey {
            key_id: key_id.clone(),
            algorithm: wrap.algorithm,
            bytes: wrap.bytes.to_vec(),
        };
        let epoch = |(at, of): (usize, &KeptEpoch)| WrappedAek {
            scope: KeyScope { account, epoch: of.epoch, provider },
            check: of.check,
            wraps: of.wraps.iter().zip(&**self.keks).map(wrap).collect(),
            follows: self.rare.as_ref().and_then(|rare| *rare.follows.get(at)?),
        };
        KeyRecord {
            keks: self.keks.iter().enumerate().map(kek).collect(),
            epochs: self.epochs.iter().enumerate().map(epoch).collect(),
            revoked: false,
        }
    }

    /// Whose vaults have the KEKs, in their order.
    pub(super) fn principals(&self) -> impl Iterator<Item = Option<&Principal>> {
        self.keks.iter().map(|(principal, _)| principal.as_deref())
    }

    /// Whose vault has this KEK. One that is none of the account's any longer may be an earlier version of one that is: it
    /// is looked for where that one is whose name begins most like it, the first of those.
    pub(super) fn principal_of(&self, key_id: Option<&KeyId>) -> Option<&Principal> {
        let sought = key_id.map_or("", KeyId::as_str);
        let alike = |(_, kek): &&KekName| {
            std::cmp::Reverse(kek.as_str().bytes().zip(sought.bytes()).take_while(|(a, b)| a == b).count())
        };
        self.keks.iter().min_by_key(alike).and_then(|(principal, _)| principal.as_deref())
    }

    /// Since when the KEK at this place is bridged.
    pub(super) fn bridged_since(&self, at: usize) -> Option<Timestamp> {
        *self.rare.as_ref()?.bridged.get(at)?
    }

    /// Whether this KEK is bridged.
    pub(super) fn is_bridged(&self, key_id: &KeyId) -> bool {
        (0..self.keks.len()).any(|at| self.keks[at].1 == *key_id && self.bridged_since(at).is_some())
    }

    /// The KEKs that are bridged, for `longest` each.
    pub(super) fn bridged(&self, longest: Duration) -> Vec<BridgedKek> {
        let bridged = |(at, (_, key_id)): (usize, &KekName)| {
            let since = self.bridged_since(at)?;
            Some(BridgedKek { key_id: key_id.clone(), since, until: after(since, longest) })
        };
        self.keks.iter().enumerate().filter_map(bridged).collect()
    }

    /// The record that is known now, after this one: a bridge that goes on began no later than was known.
    pub(super) fn continuing(mut self, before: &Self) -> Self {
        let keks = &self.keks;
        if let Some(rare) = &mut self.rare {
            for (since, (_, key_id)) in rare.bridged.iter_mut().zip(&***keks) {
                let at = before.keks.iter().position(|(_, of)| of == key_id);
                if let (Some(since), Some(known)) = (since, at.and_then(|at| before.bridged_since(at))) {
                    *since = earlier(*since, known);
                }
            }
        }
        self
    }

    /// Whether it has a wrap of this epoch.
    pub(super) fn has(&self, epoch: Epoch) -> bool {
        self.epochs.iter().any(|of| of.epoch == epoch)
    }

    /// The newest AEK.
    pub(super) fn newest(&self) -> Option<(Epoch, KeyCheckValue)> {
        self.epochs.last().map(|of| (of.epoch, of.check))
    }

    /// The first KEK.
    pub(super) fn key_id(&self) -> Option<&KeyId> {
        self.keks.first().map(|(_, key_id)| key_id)
    }
}

/// A time of the wall clock on both: as far from `now` by either.
fn on_both_clocks(wall: Duration, now: Timestamp) -> Timestamp {
    // From after now: the clock was set back. It counts from now.
    let wall = wall.min(now.wall);
    Timestamp { boot: now.boot.saturating_sub(now.wall - wall), wall }
}

/// The names that records have in common.
#[derive(Default)]
pub(super) struct Names {
    keks: Interned<KekNames>,
    principals: Interned<Principal>,
}

impl Names {
    fn of(&self, keks: &[Kek]) -> Arc<KekNames> {
        let principal = |kek: &Kek| kek.principal.as_ref().map(|principal| self.principals.name(principal));
        self.keks.name(&keks.iter().map(|kek| (principal(kek), kek.key_id.clone())).collect())
    }
}

struct Interned<T>(Mutex<Known<T>>);

struct Known<T> {
    names: BTreeSet<Arc<T>>,
    /// Names that nobody uses any longer are looked for when there are so many.
    sweep_at: usize,
}

const FIRST_SWEEP: usize = 64;

impl<T> Default for Interned<T> {
    fn default() -> Self {
        Self(Mutex::new(Known { names: BTreeSet::new(), sweep_at: FIRST_SWEEP }))
    }
}

impl<T: Ord + Clone> Interned<T> {
    fn name(&self, name: &T) -> Arc<T> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(name) = known.names.get(name) {
            return name.clone();
        }
        if known.names.len() >= known.sweep_at {
            known.names.retain(|name| Arc::strong_count(name) > 1);
            known.sweep_at = (known.names.len() * 2).max(FIRST_SWEEP);
        }
        let name = Arc::new(name.clone());
        known.names.insert(name.clone());
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_kept_as_it_was_read_and_its_names_once() {
        let scope = |epoch| KeyScope {
            account: AccountId::from_bytes([7; 16]),
            epoch: Epoch::new(epoch),
            provider: Provider::Customer,
        };
        let aek = cofferdam_crypto::Aek::try_from_fn(|aek| {
            aek.fill(3);
            Ok::<_, ()>(())
        })
        .unwrap();
        let kek = |n| KeyId::new(format!("test://vault/keys/{n}")).unwrap();
        let wrap = |n| WrappedKey { key_id: kek(n), algorithm: WrapAlgorithm::Aes256Kw, bytes: vec![n; 40] };
        let first = WrappedAek::new(&aek, scope(1), vec![wrap(1), wrap(2)]);
        let previous = cofferdam_crypto::RecordKey::derive(&aek, &scope(1));
        let second = WrappedAek::new(&aek, scope(4), vec![wrap(1), wrap(2)]).following(&previous);
        let mut record = KeyRecord::under(Some(Principal::new("tenant")), vec![first, second]);
        let second = Duration::from_secs(1);
        record.keks[1].principal = Some(Principal::new("another"));
        record.keks[1].bridged_since = Some(1_000 * second);
        record.check().unwrap();
        let names = Names::default();
        let now = Timestamp { boot: 700 * second, wall: 1_600 * second };
        let kept = Kept::new(&record, &names, now);
        assert_eq!(kept.record(scope(1).account, Provider::Customer), record);
        assert!(kept.has(Epoch::new(4)) && !kept.has(Epoch::new(2)));
        assert_eq!(kept.key_id(), Some(&kek(1)));
        assert_eq!(kept.bridged_since(0), None);
        let since = Timestamp { boot: 100 * second, wall: 1_000 * second };
        assert_eq!(kept.bridged_since(1), Some(since));
        assert_eq!(kept.principal_of(Some(&kek(2))), Some(&Principal::new("another")));
        let earlier = KeyId::new("test://vault/keys/2/0").unwrap();
        assert_eq!(kept.principal_of(Some(&earlier)), Some(&Principal::new("another")));
        assert_eq!(kept.principal_of(None), Some(&Principal::new("tenant")));
        assert_eq!(kept.principal_of(Some(&kek(7))), Some(&Principal::new("tenant")));
        let again = Kept::new(&record, &names, now);
        assert!(Arc::ptr_eq(&kept.keks, &again.keks));
    }

    #[test]
    fn names_that_nobody_uses_are_forgotten() {
        let names = Names::default();
        for n in 0..10_000 {
            let key_id = KeyId::new(format!("test://vault/keys/{n}")).unwrap();
            names.of(&[Kek { principal: None, key_id, bridged_since: None }]);
        }
        assert!(names.keks.0.lock().unwrap().names.len() <= 2 * FIRST_SWEEP);
    }
}
