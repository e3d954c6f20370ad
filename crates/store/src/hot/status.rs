//! What a hot cache did and holds.
//!
//! Guarantees: a hit costs one addition; the `metrics` facade hears of it later, from the cache's task. Labels are words of
//! this crate, never an account, a block or a secret. `docs/metrics.md` lists the names; a test holds it to this file.

use std::{
    fmt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

const HITS: &str = "cofferdam_hot_cache_hits_total";
const MISSES: &str = "cofferdam_hot_cache_misses_total";
const BYTES: &str = "cofferdam_hot_cache_bytes";
const BLOCKS: &str = "cofferdam_hot_cache_blocks";
const PURGES: &str = "cofferdam_hot_cache_purges_total";
const PURGED: &str = "cofferdam_hot_cache_purged_blocks_total";
const SKIPPED: &str = "cofferdam_hot_cache_skipped_writes_total";
const TROUBLES: &str = "cofferdam_hot_cache_troubles_total";

/// What a hot cache did since the engine was opened, and what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HotCacheStatus {
    /// In memory.
    pub memory: TierStatus,
    /// On disk, if it has a folder.
    pub disk: Option<TierStatus>,
    /// Reads of stored blocks that had to go to the store.
    pub misses: u64,
    /// Accounts that were purged: their key was revoked, or they are gone.
    pub purges: u64,
    /// Blocks that were deleted so, in memory and on disk.
    pub purged_blocks: u64,
    /// Blocks that were not written to disk, as it could not keep up or had just failed.
    pub skipped_writes: u64,
    /// What went wrong: each was a miss, or is tried again, and nothing more.
    pub troubles: u64,
}

/// One of the two places.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TierStatus {
    /// Reads that it answered.
    pub hits: u64,
    /// Blocks in it.
    pub blocks: u64,
    /// What they take of it, in bytes.
    pub bytes: u64,
    /// The most that they may take.
    pub max_bytes: u64,
}

/// What of an account is in a hot cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HotCached {
    /// In memory.
    pub memory: CacheUsage,
    /// On disk; what waits to be written there counts.
    pub disk: CacheUsage,
}

/// So many cached blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheUsage {
    /// How many.
    pub blocks: u64,
    /// Their sealed bytes.
    pub bytes: u64,
}

impl CacheUsage {
    pub(super) fn add(&mut self, bytes: u64) {
        self.blocks += 1;
        self.bytes += bytes;
    }
}

/// What can go wrong.
#[derive(Clone, Copy, Debug)]
pub(super) enum Failed {
    /// A cached block did not open.
    Open,
    /// A file could not be read.
    Read,
    /// A file could not be written.
    Write,
    /// A file that has left the cache could not be removed.
    Remove,
    /// What an account has on disk could not be removed; it is tried again.
    Purge,
}

impl Failed {
    const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Read => "read",
            Self::Write => "write",
            Self::Remove => "remove",
            Self::Purge => "purge",
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) memory_hits: AtomicU64,
    pub(super) disk_hits: AtomicU64,
    pub(super) misses: AtomicU64,
    pub(super) purges: AtomicU64,
    pub(super) purged_blocks: AtomicU64,
    pub(super) skipped_writes: AtomicU64,
    pub(super) troubles: AtomicU64,
    /// What the recorder was told of them.
    told: Mutex<[u64; 6]>,
}

pub(super) fn one_more(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}

impl Counts {
    /// Takes note of what went wrong. A disk that fails all the time fills no log.
    pub(super) fn trouble(&self, what: Failed, error: &dyn fmt::Display) {
        let before = self.troubles.fetch_add(1, Ordering::Relaxed);
        counter!(TROUBLES, "kind" => what.name()).increment(1);
        if (before + 1).is_power_of_two() {
            tracing::warn!(what = what.name(), %error, troubles = before + 1, "hot cache trouble");
        }
    }

    /// Tells the recorder what has come about since it was last told.
    pub(super) fn tell(&self, memory: TierStatus, disk: Option<TierStatus>) {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let now = [
            memory.hits,
            load(&self.disk_hits),
            load(&self.misses),
            load(&self.purges),
            load(&self.purged_blocks),
            load(&self.skipped_writes),
        ];
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let [hits, disk_hits, misses, purges, purged, skipped] =
            std::array::from_fn(|i| now[i].saturating_sub(told[i]));
        *told = now;
        counter!(HITS, "tier" => "memory").increment(hits);
        counter!(HITS, "tier" => "disk").increment(disk_hits);
        counter!(MISSES).increment(misses);
        counter!(PURGES).increment(purges);
        counter!(PURGED).increment(purged);
        counter!(SKIPPED).increment(skipped);
        for (tier, status) in [("memory", Some(memory)), ("disk", disk)] {
            let Some(TierStatus { blocks, bytes, .. }) = status else { continue };
            gauge!(BLOCKS, "tier" => tier).set(blocks as f64);
            gauge!(BYTES, "tier" => tier).set(bytes as f64);
        }
    }
}

/// Describes every metric to the recorder that is installed.
pub(super) fn describe() {
    describe_counter!(HITS, "Reads that the hot cache answered, by tier");
    describe_counter!(MISSES, "Reads of stored blocks that had to go to the store");
    describe_gauge!(BYTES, Unit::Bytes, "What cached blocks take, by tier");
    describe_gauge!(BLOCKS, "Cached blocks, by tier");
    describe_counter!(PURGES, "Accounts whose cached blocks were deleted");
    describe_counter!(PURGED, "Those blocks");
    describe_counter!(SKIPPED, "Blocks that were not written to the cache's disk");
    describe_counter!(TROUBLES, "What went wrong in the hot cache, by kind");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_metrics_are_those_that_are_counted() {
        let text = include_str!("../../../../docs/metrics.md");
        for name in [HITS, MISSES, BYTES, BLOCKS, PURGES, PURGED, SKIPPED, TROUBLES] {
            assert!(text.contains(&format!("| `{name}` |")), "{name} is not in docs/metrics.md");
        }
        for kind in [Failed::Open, Failed::Read, Failed::Write, Failed::Remove, Failed::Purge] {
            assert!(text.contains(&format!("`{}`", kind.name())), "{kind:?} is not in docs/metrics.md");
        }
    }
}
