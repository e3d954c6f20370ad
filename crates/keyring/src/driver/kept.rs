//! An account's record as it is kept: a tenth of a cached account is this.
//!
//! Guarantees: what is kept is what was read, but for whether it is revoked, which only a reading says. Names of KEKs
//! and principals are kept once, however many accounts name them.

use std::{
    collections::BTreeSet,
    sync::{Arc, PoisonError},
};

use cofferdam_crypto::{
    AccountId, Epoch, KeyCheckValue, KeyId, KeyScope, Provider, WrapAlgorithm, WrappedAek, WrappedKey,
};
use cofferdam_vault::Principal;

use crate::{KeyRecord, rt::Mutex};

pub(super) struct Kept {
    principal: Option<Arc<Principal>>,
    epochs: Box<[KeptEpoch]>,
}

struct KeptEpoch {
    epoch: Epoch,
    check: KeyCheckValue,
    wraps: Box<[KeptWrap]>,
}

struct KeptWrap {
    key_id: Arc<KeyId>,
    algorithm: WrapAlgorithm,
    bytes: Box<[u8]>,
}

impl Kept {
    pub(super) fn new(record: &KeyRecord, names: &Names) -> Self {
        let wrap = |wrap: &WrappedKey| KeptWrap {
            key_id: names.key_ids.name(&wrap.key_id),
            algorithm: wrap.algorithm,
            bytes: wrap.bytes.clone().into(),
        };
        let epoch = |of: &WrappedAek| KeptEpoch {
            epoch: of.scope.epoch,
            check: of.check,
            wraps: of.wraps.iter().map(wrap).collect(),
        };
        Self {
            principal: record.principal.as_ref().map(|principal| names.principals.name(principal)),
            epochs: record.epochs.iter().map(epoch).collect(),
        }
    }

    /// The record as it was read.
    pub(super) fn record(&self, account: AccountId, provider: Provider) -> KeyRecord {
        let wrap = |wrap: &KeptWrap| WrappedKey {
            key_id: KeyId::clone(&wrap.key_id),
            algorithm: wrap.algorithm,
            bytes: wrap.bytes.to_vec(),
        };
        let epoch = |of: &KeptEpoch| WrappedAek {
            scope: KeyScope { account, epoch: of.epoch, provider },
            check: of.check,
            wraps: of.wraps.iter().map(wrap).collect(),
        };
        KeyRecord {
            principal: self.principal.as_deref().cloned(),
            epochs: self.epochs.iter().map(epoch).collect(),
            revoked: false,
        }
    }

    pub(super) fn principal(&self) -> Option<&Principal> {
        self.principal.as_deref()
    }

    /// Whether it has a wrap of this epoch.
    pub(super) fn has(&self, epoch: Epoch) -> bool {
        self.epochs.iter().any(|of| of.epoch == epoch)
    }

    /// The newest AEK.
    pub(super) fn newest(&self) -> Option<(Epoch, KeyCheckValue)> {
        self.epochs.last().map(|of| (of.epoch, of.check))
    }

    /// The KEK of the newest epoch.
    pub(super) fn key_id(&self) -> Option<&KeyId> {
        self.epochs.last()?.wraps.first().map(|wrap| &*wrap.key_id)
    }

    /// How many KEKs are asked for one refresh.
    pub(super) fn keks(&self) -> u32 {
        let keks: BTreeSet<&KeyId> =
            self.epochs.iter().filter_map(|of| of.wraps.first()).map(|wrap| &*wrap.key_id).collect();
        u32::try_from(keks.len()).unwrap_or(u32::MAX)
    }
}

/// The names that records have in common.
#[derive(Default)]
pub(super) struct Names {
    key_ids: Interned<KeyId>,
    principals: Interned<Principal>,
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
        let epochs = vec![
            WrappedAek::new(&aek, scope(1), vec![wrap(1), wrap(2)]),
            WrappedAek::new(&aek, scope(4), vec![wrap(1)]),
        ];
        let record = KeyRecord { principal: Some(Principal::new("tenant")), epochs, revoked: false };
        let names = Names::default();
        let kept = Kept::new(&record, &names);
        assert_eq!(kept.record(scope(1).account, Provider::Customer), record);
        assert!(kept.has(Epoch::new(4)) && !kept.has(Epoch::new(2)));
        assert_eq!((kept.keks(), kept.key_id()), (1, Some(&kek(1))));
        let again = Kept::new(&record, &names);
        assert!(Arc::ptr_eq(&kept.epochs[0].wraps[1].key_id, &again.epochs[0].wraps[1].key_id));
        assert!(kept.principal.zip(again.principal).is_some_and(|(one, other)| Arc::ptr_eq(&one, &other)));
    }

    #[test]
    fn names_that_nobody_uses_are_forgotten() {
        let names = Names::default();
        for n in 0..10_000 {
            names.key_ids.name(&KeyId::new(format!("test://vault/keys/{n}")).unwrap());
        }
        assert!(names.key_ids.0.lock().unwrap().names.len() <= 2 * FIRST_SWEEP);
    }
}
