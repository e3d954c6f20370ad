//! The versions that writes are given.
//!
//! Guarantees: of this engine's writes, one that is given its version later has a higher one, higher also than what was seen in
//! the store before. Where the store gives versions out, no other engine's write has the same. Where it does not, taking one
//! costs a clock reading and no request.
//!
//! Not its job: to find out that another engine's newer write is in the way: the store says so.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use cofferdam_crypto::Version;
use tokio::sync::Mutex;

use crate::{BlockStore, StoreError, StoreErrorKind, VersionRange};

/// How many are reserved at a time: one request for so many writes. Those that are not used are lost.
const AHEAD: u32 = 1024;
/// How often they are reserved anew where what is seen in the store meanwhile is above them each time.
const TRIES: usize = 8;

pub(super) struct Versions {
    /// The highest that was given out or seen.
    last: AtomicU64,
    /// Whether the store has said that it gives none out.
    own: AtomicBool,
    reserved: Mutex<Option<VersionRange>>,
}

/// Versions for the blocks of one write.
#[derive(Clone, Copy, Debug)]
pub(super) enum Given {
    /// Each is chosen as its block is sealed.
    Own,
    /// As many as there are blocks, at the least.
    Reserved(VersionRange),
}

impl Versions {
    /// Those after this one.
    pub(super) fn after(last: Version) -> Self {
        let last = AtomicU64::new(last.number());
        Self { last, own: AtomicBool::new(false), reserved: Mutex::new(None) }
    }

    /// What is given out from here on is above this one.
    pub(super) fn seen(&self, version: Version) {
        self.last.fetch_max(version.number(), Ordering::Relaxed);
    }

    /// Versions for so many blocks.
    pub(super) async fn take(&self, store: &dyn BlockStore, blocks: usize) -> Result<Given, StoreError> {
        if self.own.load(Ordering::Relaxed) {
            return Ok(Given::Own);
        }
        let too_many =
            |_| StoreError::new(StoreErrorKind::TooLarge).with_detail("a batch of too many blocks");
        let count = u32::try_from(blocks).map_err(too_many)?;
        let mut reserved = self.reserved.lock().await;
        for _ in 0..TRIES {
            let above = self.last.load(Ordering::Relaxed).saturating_add(1);
            if let Some(given) = reserved.as_mut().and_then(|range| split(range, above, count)) {
                if let Some(last) = given.count.checked_sub(1).and_then(|last| given.nth(last)) {
                    self.seen(last);
                }
                return Ok(Given::Reserved(given));
            }
            *reserved = store.reserve_versions(Version::new(above), count.max(AHEAD)).await?;
            if reserved.is_none() {
                self.own.store(true, Ordering::Relaxed);
                return Ok(Given::Own);
            }
        }
        let detail = "the store gave out versions that are lower than others are";
        Err(StoreError::new(StoreErrorKind::Conflict).with_detail(detail))
    }

    /// The version of the `n`th block. One's own is the wall clock's microseconds, or one more than the last.
    pub(super) fn of(&self, given: Given, n: usize, wall: impl Fn() -> Duration) -> Version {
        if let Given::Reserved(range) = given
            && let Some(version) = u32::try_from(n).ok().and_then(|n| range.nth(n))
        {
            return version;
        }
        let wall = u64::try_from(wall().as_micros()).unwrap_or(u64::MAX);
        let step = |last: u64| Some(wall.max(last.saturating_add(1)));
        let last =
            self.last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step).unwrap_or_else(|last| last);
        Version::new(wall.max(last.saturating_add(1)))
    }
}

/// Takes the lowest `count` off a range that are `above` or more; `None`: it has not as many.
fn split(range: &mut VersionRange, above: u64, count: u32) -> Option<VersionRange> {
    let below = above.saturating_sub(range.first.number()).div_ceil(range.step.get());
    let skipped = u32::try_from(below).ok().filter(|skipped| *skipped < range.count)?;
    let left = range.count - skipped;
    let rest = left.checked_sub(count)?;
    let first = range.nth(skipped)?;
    let given = VersionRange { first, count, ..*range };
    *range = match range.nth(skipped + count) {
        Some(first) => VersionRange { first, count: rest, ..*range },
        None => VersionRange { count: 0, ..*range },
    };
    Some(given)
}

#[cfg(test)]
mod tests {
    use std::{num::NonZeroU64, sync::Arc};

    use async_trait::async_trait;
    use cofferdam_vault::Inline;

    use super::*;
    use crate::{EmbeddedOptions, EmbeddedStore, FaultyFile, Forwarding};

    /// A store that gives out every `step`th version, and counts how often it was asked.
    #[derive(Debug)]
    struct Giving {
        behind: EmbeddedStore,
        step: u64,
        upto: AtomicU64,
        asked: AtomicU64,
    }

    #[async_trait]
    impl Forwarding for Giving {
        fn behind(&self) -> &dyn BlockStore {
            &self.behind
        }

        async fn reserve_versions(
            &self,
            at_least: Version,
            count: u32,
        ) -> Result<Option<VersionRange>, StoreError> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let first = self.upto.load(Ordering::Relaxed).max(at_least.number()).next_multiple_of(self.step);
            self.upto.store(first + u64::from(count) * self.step, Ordering::Relaxed);
            let step = NonZeroU64::new(self.step).unwrap();
            Ok(Some(VersionRange { first: Version::new(first), step, count }))
        }
    }

    fn embedded() -> EmbeddedStore {
        let options = EmbeddedOptions { executor: Arc::new(Inline), ..EmbeddedOptions::default() };
        EmbeddedStore::create_on(Arc::new(FaultyFile::new()), options).unwrap()
    }

    fn giving(step: u64) -> Giving {
        Giving { behind: embedded(), step, upto: AtomicU64::new(0), asked: AtomicU64::new(0) }
    }

    fn at(micros: u64) -> impl Fn() -> Duration {
        move || Duration::from_micros(micros)
    }

    async fn of_write(versions: &Versions, store: &dyn BlockStore, blocks: usize) -> Vec<u64> {
        let given = versions.take(store, blocks).await.unwrap();
        (0..blocks).map(|n| versions.of(given, n, at(7)).number()).collect()
    }

    #[tokio::test]
    async fn a_store_that_gives_none_out_leaves_the_wall_clock_or_one_more_than_the_last() {
        let (store, versions) = (embedded(), Versions::after(Version::new(5)));
        assert_eq!(of_write(&versions, &store, 3).await, [7, 8, 9]);
        versions.seen(Version::new(100));
        assert_eq!(of_write(&versions, &store, 1).await, [101]);
        let given = versions.take(&store, 1).await.unwrap();
        assert!(matches!(given, Given::Own));
        assert_eq!(versions.of(given, 0, at(5000)).number(), 5000);
        assert_eq!(versions.of(given, 0, at(4000)).number(), 5001, "the clock was set back");
    }

    #[tokio::test]
    async fn versions_are_reserved_many_at_a_time_and_only_grow() {
        let (store, versions) = (giving(64), Versions::after(Version::new(1000)));
        let mut last = 1000;
        for n in 0..3000 {
            for version in of_write(&versions, &store, n % 3 + 1).await {
                assert!(version > last && version % 64 == 0, "{version} after {last}");
                last = version;
            }
        }
        assert_eq!(store.asked.load(Ordering::Relaxed), 6000_u64.div_ceil(u64::from(AHEAD)));
    }

    #[tokio::test]
    async fn what_was_seen_in_the_store_is_skipped_within_what_is_reserved_and_beyond_it() {
        let (store, versions) = (giving(10), Versions::after(Version::new(0)));
        assert_eq!(of_write(&versions, &store, 2).await, [10, 20]);
        versions.seen(Version::new(45));
        assert_eq!(of_write(&versions, &store, 1).await, [50]);
        versions.seen(Version::new(60));
        assert_eq!(of_write(&versions, &store, 1).await, [70], "that very one is another's");
        assert_eq!(store.asked.load(Ordering::Relaxed), 1);
        versions.seen(Version::new(1_000_003));
        assert_eq!(of_write(&versions, &store, 1).await, [1_000_010]);
        assert_eq!(store.asked.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn a_batch_larger_than_what_is_reserved_at_a_time_has_versions_of_one_range() {
        let (store, versions) = (giving(2), Versions::after(Version::new(0)));
        let taken = of_write(&versions, &store, 5000).await;
        assert!(taken.windows(2).all(|pair| pair[1] == pair[0] + 2));
        assert_eq!(store.asked.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn of_writes_at_once_no_two_are_given_one_version() {
        let (store, versions) = (giving(1), Versions::after(Version::new(0)));
        let writes = (0..500).map(|n| of_write(&versions, &store, n % 7));
        let mut all: Vec<u64> = futures_util::future::join_all(writes).await.into_iter().flatten().collect();
        let given = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), given);
    }

    #[test]
    fn the_end_of_all_versions_is_no_version_twice() {
        let step = NonZeroU64::new(64).unwrap();
        let mut range = VersionRange { first: Version::new(u64::MAX - 70), step, count: 9 };
        assert_eq!(range.nth(1), Some(Version::new(u64::MAX - 6)));
        assert_eq!(range.nth(2), None);
        assert!(split(&mut range, 0, 2).is_some());
        assert_eq!(split(&mut range, 0, 1), None);
    }
}
