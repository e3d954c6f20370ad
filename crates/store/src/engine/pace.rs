//! How fast a drain may go.
//!
//! Guarantees: while foreground operations go on, a drain works at most a fifth of the time, so they keep at least
//! four fifths of their rate; while there are none it does not rest.
//!
//! Not its job: to order the drains of several accounts, who take turns.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// How many times as long as it worked a drain rests: a sixth of the time is work, so that what a batch does to
/// caches and to the store's queue fits into the fifth as well.
const REST: u32 = 5;

/// The operations under way are counted in the low bits, those begun in the others.
const BEGUN: u64 = 1 << 24;

#[derive(Debug, Default)]
pub(super) struct Pace {
    foreground: AtomicU64,
}

/// Counts an operation as under way.
#[must_use = "an operation is under way for as long as this lives"]
pub(super) struct Foreground<'a>(&'a AtomicU64);

impl Pace {
    pub(super) fn foreground(&self) -> Foreground<'_> {
        self.foreground.fetch_add(BEGUN + 1, Ordering::Relaxed);
        Foreground(&self.foreground)
    }

    /// How long to rest after work that took so long; `seen` is what the same drain saw the last time.
    pub(super) fn rest_after(&self, took: Duration, seen: &mut u64) -> Duration {
        let now = self.foreground.load(Ordering::Relaxed);
        let idle = now.is_multiple_of(BEGUN) && now / BEGUN == *seen;
        *seen = now / BEGUN;
        if idle { Duration::ZERO } else { took.saturating_mul(REST) }
    }
}

impl Drop for Foreground<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOOK: Duration = Duration::from_millis(7);

    #[test]
    fn a_drain_rests_while_operations_begin_or_go_on_and_only_then() {
        let (pace, mut seen) = (Pace::default(), 0);
        assert_eq!(pace.rest_after(TOOK, &mut seen), Duration::ZERO);
        drop(pace.foreground());
        assert_eq!(pace.rest_after(TOOK, &mut seen), 5 * TOOK, "one began and ended meanwhile");
        assert_eq!(pace.rest_after(TOOK, &mut seen), Duration::ZERO);
        let long = pace.foreground();
        assert_eq!(pace.rest_after(TOOK, &mut seen), 5 * TOOK);
        assert_eq!(pace.rest_after(TOOK, &mut seen), 5 * TOOK, "it goes on");
        drop(long);
        assert_eq!(pace.rest_after(TOOK, &mut seen), Duration::ZERO);
    }

    #[test]
    fn work_is_at_most_a_fifth_of_the_time() {
        let (pace, mut seen) = (Pace::default(), 0);
        let _busy = pace.foreground();
        let rest = pace.rest_after(TOOK, &mut seen);
        assert!(TOOK.as_secs_f64() / (TOOK + rest).as_secs_f64() <= 0.2);
    }
}
