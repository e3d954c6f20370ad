//! Which versions this engine wrote, of late.
//!
//! Guarantees: what it says this engine wrote, it wrote, and no other engine wrote anything under that version: a store
//! gives a version to one put alone. It may have forgotten one; who asks then takes it for another engine's.

use std::sync::atomic::{AtomicU64, Ordering};

use cofferdam_crypto::Version;

/// How many are remembered, about: more than writes are under way at once.
const KEPT: usize = 1024;

#[derive(Debug)]
pub(super) struct Written(Box<[AtomicU64]>);

impl Default for Written {
    fn default() -> Self {
        Self((0..KEPT).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Written {
    /// A put was stored under this version.
    pub(super) fn note(&self, version: Version) {
        self.slot(version).store(version.number(), Ordering::Relaxed);
    }

    /// Whether a put of this engine was stored under this version.
    pub(super) fn has(&self, version: Version) -> bool {
        version.number() != 0 && self.slot(version).load(Ordering::Relaxed) == version.number()
    }

    fn slot(&self, version: Version) -> &AtomicU64 {
        &self.0[(version.number() % KEPT as u64) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_of_no_version_that_it_was_written_unless_it_was() {
        let written = Written::default();
        let version = |n: usize| Version::new(n as u64);
        assert!((0..2 * KEPT).all(|n| !written.has(version(n))));
        written.note(version(7));
        assert!(written.has(version(7)) && !written.has(version(7 + KEPT)));
        written.note(version(7 + KEPT));
        assert!(written.has(version(7 + KEPT)) && !written.has(version(7)));
    }
}
