//! Clocks that a test moves.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::{Clock, Timestamp};

/// Where both test clocks start: a machine up for a day, in November 2026.
const START: Timestamp =
    Timestamp { boot: Duration::from_secs(86_400), wall: Duration::from_secs(1_795_000_000) };

/// How far the two clocks of a [`TokioClock`] have been moved away from tokio's.
#[derive(Clone, Copy, Debug, Default)]
struct Offsets {
    suspended: Duration,
    wall_ahead: Duration,
    wall_behind: Duration,
}

/// Follows tokio's clock, so paused time drives it; suspends and jumps of the wall clock come on top.
#[derive(Debug)]
pub struct TokioClock {
    start: tokio::time::Instant,
    offsets: Mutex<Offsets>,
}

impl TokioClock {
    /// A clock that starts now, up for a day and in November 2026. Needs no runtime.
    pub fn new() -> Self {
        Self { start: tokio::time::Instant::now(), offsets: Mutex::default() }
    }

    /// The machine was suspended: both clocks went on, tokio's timers did not.
    pub fn suspend(&self, time: Duration) {
        self.change(|offsets| offsets.suspended += time);
    }

    /// Somebody set the wall clock forward.
    pub fn set_wall_ahead(&self, by: Duration) {
        self.change(|offsets| offsets.wall_ahead += by);
    }

    /// Somebody set the wall clock back.
    pub fn set_wall_back(&self, by: Duration) {
        self.change(|offsets| offsets.wall_behind += by);
    }

    fn change(&self, change: impl FnOnce(&mut Offsets)) {
        change(&mut self.offsets.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Default for TokioClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        let offsets = *self.offsets.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = self.start.elapsed() + offsets.suspended;
        Timestamp {
            boot: START.boot + passed,
            wall: (START.wall + passed + offsets.wall_ahead).saturating_sub(offsets.wall_behind),
        }
    }
}

/// Stands still until it is moved.
#[derive(Debug)]
pub struct ManualClock(Mutex<Timestamp>);

impl ManualClock {
    /// A clock that shows this time.
    pub fn new(now: Timestamp) -> Self {
        Self(Mutex::new(now))
    }

    /// Lets time pass on both clocks.
    pub fn advance(&self, by: Duration) {
        let mut now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        now.boot += by;
        now.wall += by;
    }

    /// Sets both clocks.
    pub fn set(&self, now: Timestamp) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new(START)
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
