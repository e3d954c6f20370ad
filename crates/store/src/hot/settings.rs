//! How a hot cache is set up.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use cofferdam_vault::{Executor, Threads};

use crate::EngineError;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// How a hot cache is set up: [`EngineBuilder::hot_cache`](crate::EngineBuilder::hot_cache).
#[derive(Clone, Debug)]
#[must_use = "an engine has a hot cache once it is given these"]
pub struct HotCacheSettings {
    pub(super) memory: u64,
    pub(super) disk: Option<(PathBuf, u64)>,
    pub(super) age: Duration,
    pub(super) fill_on_put: bool,
    pub(super) only_writer: bool,
    pub(super) executor: Arc<dyn Executor>,
    #[cfg(any(test, feature = "testing"))]
    pub(super) faults: super::HotCacheFaults,
}

impl HotCacheSettings {
    const MIN_BYTES: u64 = 1 << 20;
    const AGE: (Duration, Duration) = (HOUR, Duration::from_secs(3650 * 24 * 3600));

    /// A cache of so many bytes of memory, at least 1 MiB, with nothing on disk. A block larger than an eighth of it is not
    /// kept there.
    pub fn new(memory: u64) -> Self {
        Self {
            memory,
            disk: None,
            age: 14 * DAY,
            fill_on_put: true,
            only_writer: false,
            executor: Arc::new(Threads::new(4)),
            #[cfg(any(test, feature = "testing"))]
            faults: super::HotCacheFaults::default(),
        }
    }

    /// Keeps so many bytes, at least 1 MiB, also in this folder, which is made, or is empty, or was a hot cache's before:
    /// what falls out of memory, over restarts, a file a block. It belongs to one engine at a time. A block larger than
    /// an eighth of it is not kept there. Room in it is counted in 4 KiB; an entry takes about 250 bytes of memory.
    pub fn disk(mut self, folder: impl AsRef<Path>, bytes: u64) -> Self {
        self.disk = Some((folder.as_ref().to_owned(), bytes));
        self
    }

    /// How long after it was stored a block is kept. 14 days unless set, 1 hour to 10 years; by the wall clock.
    pub fn age(mut self, age: Duration) -> Self {
        self.age = age;
        self
    }

    /// Whether what is written is kept at once, or only what is read. It is unless set: what was written last is mostly what
    /// is read next, and to keep it costs a put no copy.
    pub fn fill_on_put(mut self, fill: bool) -> Self {
        self.fill_on_put = fill;
        self
    }

    /// Promises that nobody but this engine writes to the store, so that what is in memory is known to be the newest and a read
    /// of it asks nobody. Not unless set: then the store is asked at each read which version is the newest. True for an
    /// embedded store with one engine over it, never for a store that several nodes share: theirs would be read late.
    pub fn only_writer(mut self, only: bool) -> Self {
        self.only_writer = only;
        self
    }

    /// Where the files are read and written. On four threads of its own unless set.
    pub fn executor(mut self, executor: Arc<dyn Executor>) -> Self {
        self.executor = executor;
        self
    }

    /// A disk that fails on demand, for tests.
    #[cfg(any(test, feature = "testing"))]
    pub fn faults(mut self, faults: super::HotCacheFaults) -> Self {
        self.faults = faults;
        self
    }

    pub(super) fn check(&self) -> Result<(), EngineError> {
        let bytes = |setting, given: u64| {
            // What is counted in memory is counted in words.
            if given >= Self::MIN_BYTES && usize::try_from(given).is_ok() {
                return Ok(());
            }
            let allowed = format!("at least {} bytes", Self::MIN_BYTES);
            Err(EngineError::BadSetting { setting, given: format!("{given} bytes"), allowed })
        };
        bytes("hot_cache.memory", self.memory)?;
        if let Some((_, given)) = &self.disk {
            bytes("hot_cache.disk", *given)?;
        }
        let (min, max) = Self::AGE;
        if (min..=max).contains(&self.age) {
            return Ok(());
        }
        let (given, allowed) = (format!("{:?}", self.age), format!("{min:?} to {max:?}"));
        Err(EngineError::BadSetting { setting: "hot_cache.age", given, allowed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_takes_its_bounds_and_nothing_beyond() {
        let of = |memory| HotCacheSettings::new(memory);
        let (ms, max) = (Duration::from_millis(1), 3650 * DAY);
        for good in [of(1 << 20), of(1 << 40).disk("d", 1 << 20), of(1 << 20).age(HOUR), of(1 << 20).age(max)]
        {
            good.check().unwrap();
        }
        for (bad, setting) in [
            (of((1 << 20) - 1), "hot_cache.memory"),
            (of(1 << 20).disk("d", (1 << 20) - 1), "hot_cache.disk"),
            (of(1 << 20).age(HOUR - ms), "hot_cache.age"),
            (of(1 << 20).age(max + ms), "hot_cache.age"),
        ] {
            let error = bad.check().unwrap_err();
            assert!(matches!(error, EngineError::BadSetting { setting: s, .. } if s == setting), "{error}");
        }
    }
}
