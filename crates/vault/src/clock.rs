//! The time, as the bounds on a key's age need it.
//!
//! Guarantees: [`Timestamp::since`] never reports less than what either clock says has passed, so a machine
//! that was suspended, or whose wall clock was set back, can't keep a key past its bound.
//!
//! Not its job: to wait. Timers are the runtime's; every use of a key asks the clock again.

use std::{fmt, time::Duration};

/// One reading of both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Time since boot, suspends included (CLOCK_BOOTTIME).
    pub boot: Duration,
    /// Time since the Unix epoch by the wall clock.
    pub wall: Duration,
}

impl Timestamp {
    /// How long ago `earlier` was: the larger of what the two clocks say, zero if both say it lies ahead.
    pub fn since(&self, earlier: &Self) -> Duration {
        self.boot.saturating_sub(earlier.boot).max(self.wall.saturating_sub(earlier.wall))
    }
}

/// Tells the time. Passed in, so that tests decide what time it is.
pub trait Clock: fmt::Debug + Send + Sync {
    /// The time now.
    fn now(&self) -> Timestamp;
}

/// The machine's clocks.
///
/// The first reads CLOCK_BOOTTIME on Linux; on macOS CLOCK_MONOTONIC and on Windows the performance counter,
/// which also count suspended time there. Other systems are refused at build time.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp { boot: boot_time(), wall: wall_time() }
    }
}

#[expect(clippy::disallowed_methods, reason = "this is where the wall clock enters")]
fn wall_time() -> Duration {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
}

#[cfg(any(target_os = "linux", target_os = "android", target_os = "macos"))]
fn boot_time() -> Duration {
    use rustix::time::{ClockId, clock_gettime};
    #[cfg(target_os = "macos")]
    let clock = ClockId::Monotonic;
    #[cfg(not(target_os = "macos"))]
    let clock = ClockId::Boottime;
    let time = clock_gettime(clock);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(windows)]
#[expect(
    clippy::disallowed_methods,
    reason = "the performance counter goes on through sleep and hibernation"
)]
fn boot_time() -> Duration {
    use std::{sync::OnceLock, time::Instant};
    static START: OnceLock<Instant> = OnceLock::new();
    let now = Instant::now();
    now.duration_since(*START.get_or_init(|| now))
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "macos", windows)))]
compile_error!(
    "cofferdam needs a clock that counts suspended time: it knows one on Linux, macOS and Windows only"
);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(boot: u64, wall: u64) -> Timestamp {
        Timestamp { boot: Duration::from_secs(boot), wall: Duration::from_secs(wall) }
    }

    #[test]
    fn age_is_what_the_faster_clock_says() {
        assert_eq!(at(10, 100).since(&at(5, 99)), Duration::from_secs(5));
        assert_eq!(at(6, 150).since(&at(5, 99)), Duration::from_secs(51));
    }

    #[test]
    fn a_wall_clock_set_back_makes_nothing_younger() {
        assert_eq!(at(65, 10).since(&at(5, 99)), Duration::from_secs(60));
    }

    #[test]
    fn the_system_clock_does_not_go_back() {
        let (first, second) = (SystemClock.now(), SystemClock.now());
        assert!(second.boot >= first.boot);
        assert!(first.wall > Duration::from_secs(1_700_000_000));
    }
}
