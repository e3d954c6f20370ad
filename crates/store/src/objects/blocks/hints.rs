//! What this handle saw of blocks' rows, of late.
//!
//! Guarantees: bounded. A hint may be out of date: who changes a row from it does so by compare-and-swap, and who reads a data
//! object from it finds the bytes that the row named then, or none.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use super::{decide::Key, rows::BlockRow};
use crate::Stored;

/// A row as it was.
#[derive(Clone, Debug)]
pub(super) struct Hint {
    pub(super) row: BlockRow,
    pub(super) was: Stored,
}

/// Two halves: what is looked up moves to the young one, and when that is full, the old one is dropped.
pub(super) struct Hints {
    half: usize,
    halves: Mutex<Halves>,
}

#[derive(Default)]
struct Halves {
    young: HashMap<Key, Hint>,
    old: HashMap<Key, Hint>,
}

impl Hints {
    pub(super) fn of(rows: usize) -> Self {
        Self { half: rows / 2, halves: Mutex::default() }
    }

    pub(super) fn find(&self, key: &Key) -> Option<Hint> {
        let mut halves = self.halves.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(hint) = halves.young.get(key) {
            return Some(hint.clone());
        }
        let hint = halves.old.remove(key)?;
        halves.insert(self.half, key.clone(), hint.clone());
        Some(hint)
    }

    /// The row is as it is given; `None`: it may be anything.
    pub(super) fn note(&self, key: &Key, hint: Option<Hint>) {
        let mut halves = self.halves.lock().unwrap_or_else(PoisonError::into_inner);
        halves.young.remove(key);
        halves.old.remove(key);
        if let Some(hint) = hint {
            halves.insert(self.half, key.clone(), hint);
        }
    }
}

impl Halves {
    fn insert(&mut self, half: usize, key: Key, hint: Hint) {
        if half == 0 {
            return;
        }
        if self.young.len() >= half {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, hint);
    }
}

#[cfg(test)]
mod tests {
    use cofferdam_crypto::{AccountId, BlockId};

    use super::*;

    fn key(n: u32) -> Key {
        (AccountId::from_bytes([1; 16]), BlockId::new(n.to_be_bytes()).unwrap())
    }

    fn hint(n: u32) -> Option<Hint> {
        let revision = crate::Revision::new(n.to_string());
        Some(Hint { row: BlockRow::default(), was: Stored { bytes: Default::default(), revision } })
    }

    #[test]
    fn what_is_used_stays_and_no_more_than_so_many_are_kept() {
        let hints = Hints::of(8);
        for n in 0..100 {
            hints.note(&key(n), hint(n));
            assert!(hints.find(&key(0)).is_some(), "it is looked up all the time");
        }
        let kept = (0..100).filter(|n| {
            let halves = hints.halves.lock().unwrap();
            halves.young.contains_key(&key(*n)) || halves.old.contains_key(&key(*n))
        });
        assert!(kept.count() <= 8);
        hints.note(&key(0), None);
        assert!(hints.find(&key(0)).is_none());
        let none = Hints::of(0);
        none.note(&key(1), hint(1));
        assert!(none.find(&key(1)).is_none());
    }
}
