//! How a vault's calls are rationed, as a pure state: no clock, no I/O, no randomness.
//!
//! Guarantees: in any window of 10 s at most what is allowed is sent: the budget, or more of the vault's limit while the
//! alarm stands, or less while the vault throttles, and never more than the limit. Before a time that the vault named
//! nothing is sent. The refresh is stretched with the number of accounts in use, never past the ceiling.
//!
//! Invariants: a turn is reserved until it is sent or given up, so that what is sent late still counts when it is sent.
//!
//! Not its job: who waits, and in which order they come (`turns`); what a failure means for a key (the machine).

#[cfg(test)]
mod tests;
mod turns;
mod window;

use std::time::Duration;

use cofferdam_crypto::planted::{Bug, is_planted};
use cofferdam_vault::{Timestamp, VaultBudget};

pub(crate) use self::turns::{Next, Turns};
use self::window::Window;
use crate::Policy;

/// Renewals are sent evenly: at most a tenth of what is allowed within a second.
const EVENLY: Duration = Duration::from_secs(1);
const SHARES: u32 = 10;

/// How a wait is reckoned where a throttling vault names none.
const PAUSE: Duration = Duration::from_secs(1);

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Callers wait, for a key that is held but too old.
    Held,
    /// Callers wait, and there is no key.
    Cold,
    /// Nobody waits.
    Behind,
}

/// Why there is no turn now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Not before this, as time since boot.
    Until(Duration),
    /// When another turn ends.
    ForATurn,
}

/// What a vault is asked for beyond its budget changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    Over,
    Within,
}

/// How a vault's calls stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Headroom {
    pub(crate) sent: u32,
    pub(crate) allowed: u32,
    pub(crate) in_use: u32,
    pub(crate) pace: Duration,
    pub(crate) alarm: bool,
    pub(crate) paused_until: Option<Duration>,
}

#[derive(Clone, Debug)]
pub(crate) struct Budget {
    settings: VaultBudget,
    refresh: Duration,
    ceiling: Duration,
    longest_pause: Duration,
    sent: Window,
    /// Turns that were given and are not sent yet.
    reserved: u32,
    /// Turns of accounts without a key that have not ended.
    cold: u32,
    /// Calls that one refresh of every account in use takes.
    in_use: u32,
    /// What throttling has left of the limit.
    cap: u32,
    /// When the cap was last lowered, and last changed.
    lowered_at: Option<Duration>,
    capped_at: Duration,
    /// When the cap last let through less than was needed.
    short_at: Option<Duration>,
    paused_until: Option<Duration>,
    /// When the last call was sent that the vault answered by throttling.
    throttled: Option<Timestamp>,
    alarm: bool,
}

impl Budget {
    pub(crate) fn new(settings: VaultBudget, policy: &Policy) -> Self {
        Self {
            settings,
            refresh: policy.refresh(),
            ceiling: policy.ceiling(),
            longest_pause: policy.retry_max(),
            sent: Window::new(VaultBudget::PER),
            reserved: 0,
            cold: 0,
            in_use: 0,
            cap: settings.limit(),
            lowered_at: None,
            capped_at: Duration::ZERO,
            short_at: None,
            paused_until: None,
            throttled: None,
            alarm: false,
        }
    }

    /// Lets time pass: old calls no longer count, and a cap is lifted by a fiftieth of the limit each 10 s.
    pub(crate) fn pass(&mut self, now: Duration) {
        self.sent.pass(now);
        self.paused_until = self.paused_until.filter(|&until| until > now);
        if self.cap < self.settings.limit() {
            let steps = now.saturating_sub(self.capped_at).as_nanos() / VaultBudget::PER.as_nanos();
            let steps = u32::try_from(steps).unwrap_or(u32::MAX);
            if steps > 0 {
                let step = (self.settings.limit() / 50).max(1);
                self.cap = self.cap.saturating_add(step.saturating_mul(steps)).min(self.settings.limit());
                self.capped_at = self.capped_at.saturating_add(VaultBudget::PER.saturating_mul(steps));
            }
        }
        if self.cap < self.needed().min(self.settings.limit()) {
            self.short_at = Some(now);
        }
    }

    /// Calls within 10 s that are planned with.
    fn planned(&self) -> u32 {
        self.settings.budget().min(self.cap).max(1)
    }

    /// Calls within 10 s that it takes to refresh every account in use at the ceiling.
    fn needed(&self) -> u32 {
        let calls = u128::from(self.in_use) * VaultBudget::PER.as_nanos();
        u32::try_from(calls.div_ceil(self.ceiling.as_nanos().max(1))).unwrap_or(u32::MAX)
    }

    /// Calls within 10 s that would be let through if the vault did not throttle.
    fn wanted(&self) -> u32 {
        let (budget, limit) = (self.settings.budget(), self.settings.limit());
        if self.alarm { self.needed().clamp(budget, limit) } else { budget }
    }

    /// Calls within 10 s that are let through.
    pub(crate) fn allowed(&self) -> u32 {
        if is_planted(Bug::BudgetIgnored) {
            return u32::MAX;
        }
        self.wanted().min(self.cap).max(1)
    }

    /// How often keys are refreshed.
    pub(crate) fn pace(&self) -> Duration {
        if self.alarm && !is_planted(Bug::StretchUnbounded) {
            return self.ceiling;
        }
        let calls = u128::from(self.in_use) * VaultBudget::PER.as_nanos();
        let needed = calls / u128::from(self.planned());
        // A twentieth to spare, for those that come between.
        let needed = Duration::from_nanos(u64::try_from(needed + needed / 20).unwrap_or(u64::MAX));
        if is_planted(Bug::StretchUnbounded) {
            return needed.max(self.refresh);
        }
        needed.clamp(self.refresh, self.ceiling)
    }

    /// Whether a call may be begun now; it counts from here on.
    ///
    /// # Errors
    /// [`Wait`]: until when, or for what.
    pub(crate) fn reserve(&mut self, kind: Kind, waited: bool, now: Duration) -> Result<(), Wait> {
        self.pass(now);
        if let Some(until) = self.paused_until
            && !is_planted(Bug::RetryAfterIgnored)
        {
            return Err(Wait::Until(until));
        }
        if kind == Kind::Cold && !waited && self.cold >= self.settings.in_flight() {
            return Err(Wait::ForATurn);
        }
        self.room(self.allowed(), VaultBudget::PER, now)?;
        if kind == Kind::Behind {
            self.room(self.allowed().div_ceil(SHARES), EVENLY, now)?;
        }
        self.reserved += 1;
        self.cold += u32::from(kind == Kind::Cold);
        Ok(())
    }

    fn room(&self, most: u32, within: Duration, now: Duration) -> Result<(), Wait> {
        let most = (most as usize).saturating_sub(self.reserved as usize);
        if most == 0 {
            return Err(Wait::ForATurn);
        }
        if self.sent.count_within(within, now) < most {
            return Ok(());
        }
        self.sent.fewer_at(most, within).map_or(Ok(()), |at| Err(Wait::Until(at)))
    }

    /// A turn is used: its call is sent now.
    pub(crate) fn send(&mut self, now: Duration) {
        self.reserved = self.reserved.saturating_sub(1);
        self.pass(now);
        self.sent.note(now);
    }

    /// A turn ends, its call sent or not.
    pub(crate) fn end(&mut self, kind: Kind, was_sent: bool) {
        self.reserved = self.reserved.saturating_sub(u32::from(!was_sent));
        self.cold = self.cold.saturating_sub(u32::from(kind == Kind::Cold));
    }

    /// The vault answered a call that was sent at `sent` by throttling.
    pub(crate) fn throttle(&mut self, sent: Timestamp, now: Duration, retry_after: Option<Duration>) {
        self.pass(now);
        let until = now + retry_after.unwrap_or(PAUSE).min(self.longest_pause);
        self.paused_until = Some(self.paused_until.map_or(until, |earlier| earlier.max(until)));
        if self.throttled.is_none_or(|last| last.boot < sent.boot) {
            self.throttled = Some(sent);
        }
        // Once for each window: what was under way is answered alike.
        if self.lowered_at.is_none_or(|at| now.saturating_sub(at) >= VaultBudget::PER) {
            let (limit, allowed) = (self.settings.limit(), self.allowed());
            let less = allowed.saturating_sub(allowed.div_ceil(10).saturating_mul(3));
            self.cap = less.clamp((limit / 100).max(1), limit);
            (self.lowered_at, self.capped_at) = (Some(now), now);
        }
        self.pass(now);
    }

    /// Whether the vault throttles: it did less than `within` ago, or what it left was less than is needed within the
    /// last ceiling, so that there are keys still that missed their turn for it.
    pub(crate) fn throttles(&mut self, within: Duration, now: Timestamp) -> bool {
        self.pass(now.boot);
        self.throttled.is_some_and(|sent| now.since(&sent) < within)
            || self.short_at.is_some_and(|at| now.boot.saturating_sub(at) < self.ceiling)
    }

    /// When it was last asked and throttled, if that is less than `within` ago; else now.
    pub(crate) fn throttled_at(&self, within: Duration, now: Timestamp) -> Timestamp {
        self.throttled.filter(|sent| now.since(sent) < within).unwrap_or(now)
    }

    /// How long the vault asked not to be called.
    pub(crate) fn pause(&self, now: Duration) -> Duration {
        self.paused_until.map_or(Duration::ZERO, |until| until.saturating_sub(now))
    }

    /// Accounts came into use, or went out of it.
    pub(crate) fn use_by(&mut self, more: u32, fewer: u32) {
        self.in_use = self.in_use.saturating_add(more).saturating_sub(fewer);
    }

    /// Whether the alarm begins or ends. It ends at nine tenths of where it begins.
    pub(crate) fn judge(&mut self) -> Option<News> {
        let (needed, planned) = (u64::from(self.needed()), u64::from(self.planned()));
        if !self.alarm && needed > planned {
            self.alarm = true;
            return Some(News::Over);
        }
        if self.alarm && needed * 10 <= planned * 9 {
            self.alarm = false;
            return Some(News::Within);
        }
        None
    }

    pub(crate) fn settings(&self) -> &VaultBudget {
        &self.settings
    }

    pub(crate) fn headroom(&mut self, now: Duration) -> Headroom {
        self.pass(now);
        Headroom {
            sent: u32::try_from(self.sent.count()).unwrap_or(u32::MAX),
            allowed: self.allowed(),
            in_use: self.in_use,
            pace: self.pace(),
            alarm: self.alarm,
            paused_until: self.paused_until,
        }
    }
}
