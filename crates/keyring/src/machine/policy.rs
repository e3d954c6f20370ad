//! The settings of a keyring and their bounds.
//!
//! Guarantees: a [`Policy`] that exists is within every bound. Not its job: to act on it.

use std::{num::NonZeroUsize, time::Duration};

use thiserror::Error;

/// The settings of a keyring. Start from [`Policy::default`] and change what must differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    refresh: Duration,
    ceiling: Duration,
    grace: Duration,
    retry_max: Duration,
    revoked_poll: Duration,
    call_timeout: Duration,
    record_timeout: Duration,
    max_bridge: Duration,
    max_keys: NonZeroUsize,
}

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// Five times the accounts that one vault of the largest can keep verified within its limits, in about 30 MiB.
const MAX_KEYS: NonZeroUsize = NonZeroUsize::new(32_768).unwrap();

impl Default for Policy {
    fn default() -> Self {
        Self {
            refresh: 30 * SECOND,
            ceiling: MINUTE,
            grace: 30 * MINUTE,
            retry_max: 30 * SECOND,
            revoked_poll: 30 * SECOND,
            call_timeout: 5 * SECOND,
            record_timeout: 5 * SECOND,
            max_bridge: Self::LONGEST_BRIDGE,
            max_keys: MAX_KEYS,
        }
    }
}

impl Policy {
    /// The shortest time between two refreshes of a key.
    pub const MIN_REFRESH: Duration = Duration::from_secs(6);

    /// The longest that a KEK which does not answer may be bridged.
    const LONGEST_BRIDGE: Duration = Duration::from_secs(24 * 3600);

    /// The first wait after a failure; each further one doubles it.
    pub(crate) const FIRST_RETRY: Duration = SECOND;

    /// How far apart "not found" is asked for again, and within how long three answers must agree.
    pub(crate) const CONFIRM_EVERY: Duration = SECOND;
    pub(crate) const CONFIRM_WITHIN: Duration = Duration::from_secs(5);
    pub(crate) const ANSWERS_THAT_AGREE: usize = 3;

    /// How old a verified key may grow before it is unwrapped again; jitter only shortens it. Default 30 s.
    ///
    /// # Errors
    /// [`PolicyError`] unless it is 6 to 60 s and at most the ceiling.
    pub fn with_refresh(mut self, refresh: Duration) -> Result<Self, PolicyError> {
        self.refresh = within("refresh", refresh, Self::MIN_REFRESH, self.ceiling)?;
        Ok(self)
    }

    /// How far a scheduler may stretch the refresh. Default 60 s.
    ///
    /// # Errors
    /// [`PolicyError`] unless it is between the refresh and 60 s.
    pub fn with_ceiling(mut self, ceiling: Duration) -> Result<Self, PolicyError> {
        self.ceiling = within("ceiling", ceiling, self.refresh, MINUTE)?;
        Ok(self)
    }

    /// How long a key may be used without its vault, from the last verified unwrap. Default 30 min.
    ///
    /// # Errors
    /// [`PolicyError`] unless it is at most 60 min.
    pub fn with_grace(mut self, grace: Duration) -> Result<Self, PolicyError> {
        self.grace = within("grace", grace, Duration::ZERO, 60 * MINUTE)?;
        Ok(self)
    }

    /// The longest wait between two tries while the vault fails; it starts at 1 s. Default 30 s.
    ///
    /// # Errors
    /// [`PolicyError`] unless it is 1 to 60 s.
    pub fn with_retry_max(mut self, retry_max: Duration) -> Result<Self, PolicyError> {
        self.retry_max = within("retry_max", retry_max, SECOND, MINUTE)?;
        Ok(self)
    }

    /// How often a revoked key is asked for again. Default 30 s.
    ///
    /// # Errors
    /// [`PolicyError`] unless it is 1 to 60 s.
    pub fn with_revoked_poll(mut self, revoked_poll: Duration) -> Result<Self, PolicyError> {
        self.revoked_poll = within("revoked_poll", revoked_poll, SECOND, MINUTE)?;
        Ok(self)
    }

    /// How long one call to a vault may take before it counts as an outage. Default 5 s.
    ///
    /// # Errors
    /// [`PolicyError`] unless it is 100 ms to 10 s.
    pub fn with_call_timeout(mut self, call_timeout: Duration) -> Result<Self, PolicyError> {
        self.call_timeout = within("call_timeout", call_timeout, Duration::from_millis(100), 10 * SECOND)?;
        Ok(self)
    }

    /// How long reading or writing an account's record may take before it counts as failed. Default 5 s.
    ///
    /// # Errors
    /// [`PolicyError`] unless it is 100 ms to 60 s.
    pub fn with_record_timeout(mut self, record_timeout: Duration) -> Result<Self, PolicyError> {
        self.record_timeout = within("record_timeout", record_timeout, Duration::from_millis(100), MINUTE)?;
        Ok(self)
    }

    /// How long a KEK that does not answer is bridged by the account's others, from when it was first found so; that
    /// outlives the process. 0: every KEK must answer, or the key goes into its grace. Default 24 h.
    ///
    /// # Errors
    /// [`PolicyError`] unless it is at most 24 h.
    pub fn with_max_bridge(mut self, max_bridge: Duration) -> Result<Self, PolicyError> {
        self.max_bridge = within("max_bridge", max_bridge, Duration::ZERO, Self::LONGEST_BRIDGE)?;
        Ok(self)
    }

    /// How many keys are held at once: one for each account and provider, with all its epochs in use. Beyond it
    /// the least recently used go, those whose vault fails last; an account whose key went asks its vault again
    /// at its next use. Default 32,768: one takes less than 1 KiB with its record.
    #[must_use]
    pub fn with_max_keys(mut self, max_keys: NonZeroUsize) -> Self {
        self.max_keys = max_keys;
        self
    }

    /// How old a verified key may grow before it is unwrapped again.
    pub fn refresh(&self) -> Duration {
        self.refresh
    }

    /// How far a scheduler may stretch the refresh.
    pub fn ceiling(&self) -> Duration {
        self.ceiling
    }

    /// How long a key may be used without its vault, from the last verified unwrap.
    pub fn grace(&self) -> Duration {
        self.grace
    }

    /// The longest wait between two tries while the vault fails.
    pub fn retry_max(&self) -> Duration {
        self.retry_max
    }

    /// How often a revoked key is asked for again.
    pub fn revoked_poll(&self) -> Duration {
        self.revoked_poll
    }

    /// How long one call to a vault may take before it counts as an outage.
    pub fn call_timeout(&self) -> Duration {
        self.call_timeout
    }

    /// How long reading or writing an account's record may take before it counts as failed.
    pub fn record_timeout(&self) -> Duration {
        self.record_timeout
    }

    /// How long a KEK that does not answer is bridged by the account's others.
    pub fn max_bridge(&self) -> Duration {
        self.max_bridge
    }

    /// How many keys are held at once.
    pub fn max_keys(&self) -> NonZeroUsize {
        self.max_keys
    }

    /// How old a key may be to be used without a question: refresh + time-out. By then a refresh in time has
    /// ended; where nobody used the key, or the runtime came late, there was none: who comes then waits for one.
    /// So no key in use is older while its vault answers. A scheduler that stretches the refresh stretches this.
    pub fn unasked_for(&self) -> Duration {
        self.refresh + self.call_timeout
    }

    /// How old a key may be to count as active: ceiling + time-out.
    pub fn fresh_for(&self) -> Duration {
        self.ceiling + self.call_timeout
    }

    /// How old a key may be to be used at all: grace, or [`Self::fresh_for`] where that is longer.
    pub fn usable_for(&self) -> Duration {
        self.grace.max(self.fresh_for())
    }

    /// How long a failed attempt lets callers go on without waiting for another one: until the next one, begun
    /// as late as the backoff allows, has failed too. 35 s by default.
    pub fn failure_window(&self) -> Duration {
        self.retry_max + self.call_timeout
    }

    /// The same while a scheduler stretches the refresh to `pace`, and with it the wait between two tries.
    pub(crate) fn failure_window_at(&self, pace: Duration) -> Duration {
        let retry = if pace > self.refresh { self.retry_max.max(pace) } else { self.retry_max };
        retry + self.call_timeout
    }
}

fn within(
    setting: &'static str,
    given: Duration,
    min: Duration,
    max: Duration,
) -> Result<Duration, PolicyError> {
    if (min..=max).contains(&given) { Ok(given) } else { Err(PolicyError { setting, given, min, max }) }
}

/// A setting is out of its range.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{setting} is {given:?}: set it to {min:?} to {max:?}")]
pub struct PolicyError {
    /// The setting.
    pub setting: &'static str,
    /// The value given.
    pub given: Duration,
    /// The least allowed, with the other settings as they are.
    pub min: Duration,
    /// The most allowed, with the other settings as they are.
    pub max: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_takes_its_bounds_and_nothing_beyond() {
        type Set = fn(Policy, Duration) -> Result<Policy, PolicyError>;
        let ms = Duration::from_millis;
        let cases: [(&str, Set, u64, u64); 8] = [
            ("refresh", Policy::with_refresh, 6_000, 60_000),
            ("ceiling", Policy::with_ceiling, 30_000, 60_000),
            ("grace", Policy::with_grace, 0, 3_600_000),
            ("retry_max", Policy::with_retry_max, 1_000, 60_000),
            ("revoked_poll", Policy::with_revoked_poll, 1_000, 60_000),
            ("call_timeout", Policy::with_call_timeout, 100, 10_000),
            ("record_timeout", Policy::with_record_timeout, 100, 60_000),
            ("max_bridge", Policy::with_max_bridge, 0, 86_400_000),
        ];
        for (setting, set, min, max) in cases {
            let (min, max) = (ms(min), ms(max));
            assert!(set(Policy::default(), min).is_ok(), "{setting}");
            assert!(set(Policy::default(), max).is_ok(), "{setting}");
            let beyond = max + ms(1);
            let refused = PolicyError { setting, given: beyond, min, max };
            assert_eq!(set(Policy::default(), beyond).unwrap_err(), refused);
            if let Some(below) = min.checked_sub(ms(1)) {
                let refused = PolicyError { setting, given: below, min, max };
                assert_eq!(set(Policy::default(), below).unwrap_err(), refused);
            }
        }
    }

    #[test]
    fn the_error_names_setting_value_and_range() {
        let error = Policy::default().with_refresh(SECOND).unwrap_err();
        assert_eq!(error.to_string(), "refresh is 1s: set it to 6s to 60s");
    }

    #[test]
    fn bounds_follow_from_the_settings() {
        let policy = Policy::default();
        assert_eq!(policy.unasked_for(), Duration::from_secs(35));
        assert_eq!(policy.fresh_for(), Duration::from_secs(65));
        assert_eq!(policy.usable_for(), Duration::from_secs(1800));
        assert_eq!(policy.failure_window(), Duration::from_secs(35));
        let without_grace = policy.with_grace(Duration::ZERO).unwrap();
        assert_eq!(without_grace.usable_for(), Duration::from_secs(65));
    }
}
