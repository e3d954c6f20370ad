//! How many calls a vault takes, by its own clock.
//!
//! Guarantees: a vault takes at most its true limit of calls in any window, whoever calls; the others are answered as
//! throttled, some of them with how long to wait. What is published may be twice what is true: such vaults exist. Not
//! its job: what a node may ask (that is its own budget).

use std::{collections::VecDeque, time::Duration};

use cofferdam_vault::VaultErrorKind;

use crate::dice::Dice;

/// Vaults publish their limits for as long as this.
pub(crate) const WINDOW: Duration = Duration::from_secs(10);

/// What a vault says about how long to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Advice {
    Nothing,
    /// Until it takes calls again.
    Exact,
    /// Always so long.
    Fixed(Duration),
}

/// A vault's limit, and the calls that count against it.
#[derive(Debug)]
pub(crate) struct Meter {
    limit: Option<u32>,
    advice: Advice,
    /// When the calls of the last window were taken.
    taken: VecDeque<Duration>,
    /// Until when others use so much of it, in percent.
    shared: Option<(u32, Duration)>,
    open: bool,
}

impl Meter {
    /// That of a vault that takes every call.
    pub(crate) fn without_limit() -> Self {
        Self { limit: None, advice: Advice::Nothing, taken: VecDeque::new(), shared: None, open: true }
    }

    /// Draws how a vault keeps the limit that it publishes.
    pub(crate) fn draw(published: u32, dice: &mut Dice) -> Self {
        let honest = dice.percent(70);
        let advice = match dice.below(4) {
            0 => Advice::Nothing,
            1 => Advice::Fixed(dice.millis(1_000, 12_000)),
            _ => Advice::Exact,
        };
        let limit = if honest { published } else { (published / 2).max(1) };
        Self { limit: Some(limit), advice, ..Self::without_limit() }
    }

    /// Takes every call from now on, or keeps its limit.
    pub(crate) fn set_open(&mut self, open: bool) {
        self.open = open;
        self.shared = None;
    }

    /// Until then others use so much of the limit, in percent.
    pub(crate) fn share(&mut self, percent: u32, until: Duration) {
        self.shared = Some((percent.min(100), until));
    }

    pub(crate) fn is_limited(&self) -> bool {
        self.limit.is_some()
    }

    /// Takes a call that comes now, or says how it is refused.
    pub(crate) fn admit(&mut self, now: Duration) -> Result<(), VaultErrorKind> {
        let Some(limit) = self.limit.filter(|_| !self.open) else { return Ok(()) };
        while self.taken.front().is_some_and(|&at| at + WINDOW <= now) {
            self.taken.pop_front();
        }
        let (others, until) = self.shared.filter(|(_, until)| now < *until).unwrap_or_default();
        let limit = u64::from(limit) * u64::from(100 - others) / 100;
        if (self.taken.len() as u64) < limit {
            self.taken.push_back(now);
            return Ok(());
        }
        let retry_after = match self.advice {
            Advice::Nothing => None,
            Advice::Fixed(wait) => Some(wait),
            Advice::Exact => {
                let free = self.taken.front().map_or(until, |&at| at + WINDOW);
                // In whole seconds, as the header has it.
                Some(Duration::from_secs(free.saturating_sub(now).as_secs() + 1))
            }
        };
        Err(VaultErrorKind::Throttled { retry_after })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn of(limit: u32, advice: Advice) -> Meter {
        Meter { limit: Some(limit), advice, open: false, ..Meter::without_limit() }
    }

    fn throttled(wait: Option<u64>) -> Result<(), VaultErrorKind> {
        Err(VaultErrorKind::Throttled { retry_after: wait.map(Duration::from_secs) })
    }

    #[test]
    fn no_window_has_more_calls_than_the_limit() {
        let mut meter = of(3, Advice::Exact);
        for second in [0, 1, 2] {
            assert_eq!(meter.admit(second * SECOND), Ok(()));
        }
        assert_eq!(meter.admit(4 * SECOND), throttled(Some(7)));
        assert_eq!(meter.admit(10 * SECOND), Ok(()));
        assert_eq!(meter.admit(10 * SECOND), throttled(Some(2)));
        assert_eq!(meter.admit(11 * SECOND), Ok(()));
    }

    #[test]
    fn what_others_use_is_not_there() {
        let mut meter = of(4, Advice::Nothing);
        meter.share(75, 5 * SECOND);
        assert_eq!(meter.admit(SECOND), Ok(()));
        assert_eq!(meter.admit(SECOND), throttled(None));
        for _ in 0..3 {
            assert_eq!(meter.admit(5 * SECOND), Ok(()));
        }
        assert_eq!(meter.admit(5 * SECOND), throttled(None));
        meter.set_open(true);
        assert_eq!(meter.admit(5 * SECOND), Ok(()));
    }
}
