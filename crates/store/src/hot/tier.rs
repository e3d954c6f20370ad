//! A bounded set of what the cache holds, in foyer's hands.
//!
//! Guarantees: what it holds weighs at most its capacity, in each of its parts; whatever is pushed out is handed to who
//! pushed it out. Eviction is S3-FIFO, so that one walk over everything does not push out what is read often.
//!
//! Not its job: whether something may be held, or is current.

use std::{
    fmt,
    hash::{BuildHasher, DefaultHasher, Hasher},
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Waker},
};

use cofferdam_crypto::{AccountId, BlockId};
use foyer_common::event::{Event, EventListener};
use foyer_memory::{Cache, CacheBuilder, CacheProperties, S3FifoConfig};
use xxhash_rust::xxh3::xxh3_128;

/// How many parts, each with a lock and a bound of its own.
const PARTS: usize = 8;

/// Which block something is of.
///
/// Two ids of one account could share a name, by chance or because their owner looked for two: they take each other's
/// place in the cache, and what is read is held against the store's own word on the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    pub(super) account: AccountId,
    pub(super) name: u128,
}

impl Key {
    pub(super) fn of(account: AccountId, id: &BlockId) -> Self {
        Self { account, name: xxh3_128(id.as_bytes()) }
    }
}

/// Hashes under a secret, so that who chooses ids can't choose where they collide.
pub(super) struct Seeded([u8; 16]);

impl BuildHasher for Seeded {
    type Hasher = DefaultHasher;

    fn build_hasher(&self) -> DefaultHasher {
        let mut hasher = DefaultHasher::new();
        hasher.write(&self.0);
        hasher
    }
}

/// A part of the cache.
pub(super) struct Tier<V: Clone + Send + Sync + 'static> {
    cache: Cache<Key, V, Seeded, CacheProperties>,
    evicted: Arc<Evicted<V>>,
}

/// What was pushed out and not yet handed to anybody.
struct Evicted<V>(Mutex<Vec<(Key, V)>>);

impl<V: Clone + Send + Sync + 'static> EventListener for Evicted<V> {
    type Key = Key;
    type Value = V;

    fn on_leave(&self, why: Event, key: &Key, value: &V) {
        if why == Event::Evict {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push((*key, value.clone()));
        }
    }
}

impl<V: Clone + Send + Sync + 'static> Tier<V> {
    pub(super) fn new(
        capacity: usize,
        seed: [u8; 16],
        weight: impl Fn(&V) -> usize + Send + Sync + 'static,
    ) -> Self {
        let evicted = Arc::new(Evicted(Mutex::default()));
        let cache = CacheBuilder::new(capacity)
            .with_shards(PARTS)
            .with_eviction_config(S3FifoConfig::default())
            .with_hash_builder(Seeded(seed))
            .with_weighter(move |_: &Key, value: &V| weight(value))
            .with_event_listener(evicted.clone())
            .build();
        Self { cache, evicted }
    }

    /// The most that one thing may weigh.
    pub(super) fn largest(&self) -> usize {
        self.cache.capacity() / PARTS
    }

    /// Holds this, which weighs at most [`Self::largest`]. What was pushed out for it.
    pub(super) fn insert(&self, key: Key, value: V) -> Vec<(Key, V)> {
        drop(self.cache.insert(key, value));
        self.evicted()
    }

    pub(super) fn get(&self, key: &Key) -> Option<V> {
        self.cache.get(key).map(|entry| entry.value().clone())
    }

    /// Whether it holds something of this block; does not count as a use.
    pub(super) fn has(&self, key: &Key) -> bool {
        self.cache.contains(key)
    }

    /// Whether there was something of this block.
    pub(super) fn remove(&self, key: &Key) -> bool {
        self.cache.remove(key).is_some()
    }

    /// Walks over everything and pushes out what is not to be kept: that.
    pub(super) fn retain(&self, mut keep: impl FnMut(&Key, &V) -> bool) -> Vec<(Key, V)> {
        self.push_out(|key, value| !keep(key, value));
        self.evicted()
    }

    /// Walks over everything.
    pub(super) fn walk(&self, mut see: impl FnMut(&Key, &V)) {
        self.push_out(|key, value| {
            see(key, value);
            false
        });
    }

    pub(super) fn weight(&self) -> usize {
        self.cache.usage()
    }

    pub(super) fn len(&self) -> usize {
        self.cache.entries()
    }

    pub(super) fn capacity(&self) -> usize {
        self.cache.capacity()
    }

    fn push_out(&self, goes: impl FnMut(&Key, &V) -> bool) {
        let flush = pin!(self.cache.flush_if(goes));
        // Only a disk engine of foyer's would be waited for, and there is none.
        let _ = flush.poll(&mut Context::from_waker(Waker::noop()));
    }

    fn evicted(&self) -> Vec<(Key, V)> {
        std::mem::take(&mut *self.evicted.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<V: Clone + Send + Sync + 'static> fmt::Debug for Tier<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tier({} of {})", self.weight(), self.capacity())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(account: u8, name: u128) -> Key {
        Key { account: AccountId::from_bytes([account; 16]), name }
    }

    fn tier(capacity: usize) -> Tier<usize> {
        Tier::new(capacity, [7; 16], |value| *value)
    }

    #[test]
    fn it_weighs_at_most_its_capacity_and_hands_over_what_it_pushed_out() {
        let tier = tier(8 * 100);
        let mut handed = 0;
        for name in 0..1000 {
            handed += tier.insert(key(1, name), 30).len();
            assert!(tier.weight() <= 8 * 100);
        }
        assert_eq!(handed + tier.len(), 1000);
        assert_eq!(tier.largest(), 100);
        tier.insert(key(1, 5000), 100);
        assert!(tier.weight() <= 8 * 100);
    }

    #[test]
    fn what_is_replaced_or_removed_is_handed_to_nobody() {
        let tier = tier(8 * 100);
        assert_eq!(tier.insert(key(1, 1), 10), []);
        assert_eq!(tier.insert(key(1, 1), 20), []);
        assert_eq!((tier.get(&key(1, 1)), tier.weight()), (Some(20), 20));
        assert!(tier.remove(&key(1, 1)) && !tier.remove(&key(1, 1)));
        assert_eq!((tier.get(&key(1, 1)), tier.has(&key(1, 1)), tier.weight()), (None, false, 0));
        assert_eq!(tier.insert(key(1, 2), 10), []);
    }

    #[test]
    fn what_is_not_to_be_kept_goes_in_one_walk() {
        let tier = tier(8 * 1000);
        for name in 0..50 {
            tier.insert(key(1, name), 1);
            tier.insert(key(2, name), 1);
        }
        let mut gone = tier.retain(|key, _| key.account != AccountId::from_bytes([1; 16]));
        gone.sort_unstable();
        assert_eq!(gone, (0..50).map(|name| (key(1, name), 1)).collect::<Vec<_>>());
        assert_eq!((tier.len(), tier.weight()), (50, 50));
        assert_eq!(tier.retain(|_, _| true), []);
    }
}
