//! Every entry, by account and provider.
//!
//! Guarantees: looking one up takes no lock and allocates nothing. Adding and removing copy one shard; adding
//! also frees what nobody holds any longer.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError},
};

use cofferdam_crypto::{AccountId, Provider};

use super::entry::Entry;
use crate::rt::{ArcSwap, Mutex};

const SHARDS: usize = 256;

type Key = (AccountId, Provider);
type Shard = ArcSwap<BTreeMap<Key, Arc<Entry>>>;

pub(super) struct Entries {
    shards: Box<[Shard]>,
    changes: Mutex<()>,
}

impl Entries {
    pub(super) fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| ArcSwap::default()).collect(), changes: Mutex::new(()) }
    }

    /// What `work` makes of the entry, if there is one.
    pub(super) fn with<T>(&self, key: Key, work: impl FnOnce(&Arc<Entry>) -> T) -> Option<T> {
        self.shard(&key).load().get(&key).map(work)
    }

    /// The entry, made by `make` if there is none.
    pub(super) fn ensure(&self, key: Key, make: impl FnOnce() -> Arc<Entry>) -> Arc<Entry> {
        if let Some(entry) = self.with(key, Arc::clone) {
            return entry;
        }
        let _changing = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let shard = self.shard(&key);
        let mut entries = BTreeMap::clone(&shard.load());
        // Held by the shard and by its copy.
        entries.retain(|_, entry| !entry.retire_if_unused(2));
        let entry = Arc::clone(entries.entry(key).or_insert_with(make));
        shard.store(Arc::new(entries));
        entry
    }

    /// Removes this very entry.
    pub(super) fn remove(&self, key: Key, entry: &Arc<Entry>) {
        let _changing = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let shard = self.shard(&key);
        let mut entries = BTreeMap::clone(&shard.load());
        if entries.get(&key).is_some_and(|found| Arc::ptr_eq(found, entry)) {
            entries.remove(&key);
            shard.store(Arc::new(entries));
        }
    }

    pub(super) fn all(&self) -> Vec<Arc<Entry>> {
        self.shards.iter().flat_map(|shard| shard.load().values().cloned().collect::<Vec<_>>()).collect()
    }

    /// How many entries are so, in one step.
    #[cfg(cofferdam_shuttle)]
    pub(super) fn count(&self, is: impl Fn(&Entry) -> bool) -> usize {
        let count = |shard: &Shard| shard.peek().values().filter(|entry| is(entry)).count();
        self.shards.iter().map(count).sum()
    }

    fn shard(&self, (account, provider): &Key) -> &Shard {
        let folded = account.as_bytes().iter().fold(provider.code(), |folded, byte| folded ^ byte);
        &self.shards[usize::from(folded) % SHARDS]
    }
}
