//! How often a vault may be called.
//!
//! Guarantees: a [`VaultBudget`] that exists has room for at least one call, and its budget is within its limit. Not
//! its job: to keep to it: that is the keyring's.

use std::{num::NonZeroU32, time::Duration};

use thiserror::Error;

/// How often a keyring may call one vault, in calls within any [`VaultBudget::PER`], and how many it may begin with.
///
/// The limit is the vault's own, as it is published. The budget is what a keyring plans with: where its accounts in use
/// need more, it says so and takes more, up to the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VaultBudget {
    limit: NonZeroU32,
    budget: NonZeroU32,
    in_flight: NonZeroU32,
}

impl Default for VaultBudget {
    fn default() -> Self {
        Self { limit: Self::LIMIT, budget: Self::BUDGET, in_flight: Self::IN_FLIGHT }
    }
}

impl VaultBudget {
    /// The window that calls are counted in.
    pub const PER: Duration = Duration::from_secs(10);

    /// What Azure Key Vault publishes for RSA-2048 keys in an HSM, a vault and 10 s ("Azure Key Vault service limits").
    const LIMIT: NonZeroU32 = NonZeroU32::new(2_000).unwrap();
    /// Half of it: the vault has other users, and other processes of this service.
    const BUDGET: NonZeroU32 = NonZeroU32::new(1_000).unwrap();
    const IN_FLIGHT: NonZeroU32 = NonZeroU32::new(64).unwrap();

    /// A vault with this published limit, in calls within 10 s, of which a keyring plans with a half.
    pub fn of_limit(limit: NonZeroU32) -> Self {
        let budget = NonZeroU32::new(limit.get() / 2).unwrap_or(NonZeroU32::MIN);
        Self { limit, budget, ..Self::default() }
    }

    /// The same with this budget, in calls within 10 s. Default: half of the limit.
    ///
    /// # Errors
    /// [`BudgetError`] when it is more than the limit.
    pub fn with_budget(mut self, budget: NonZeroU32) -> Result<Self, BudgetError> {
        if budget > self.limit {
            return Err(BudgetError { budget: budget.get(), limit: self.limit.get() });
        }
        self.budget = budget;
        Ok(self)
    }

    /// The same with at most so many calls under way for accounts that have no key yet. Default 64. Renewals of keys in
    /// use are not held up by it, and nobody is for longer than a time-out: a vault that hangs must not take keys away.
    #[must_use]
    pub fn with_in_flight(mut self, in_flight: NonZeroU32) -> Self {
        self.in_flight = in_flight;
        self
    }

    /// The vault's published limit, in calls within 10 s. Default 2,000.
    pub fn limit(&self) -> u32 {
        self.limit.get()
    }

    /// What a keyring plans with, in calls within 10 s. Default 1,000.
    pub fn budget(&self) -> u32 {
        self.budget.get()
    }

    /// How many calls for accounts without a key may be under way. Default 64.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.get()
    }
}

/// A budget is more than the vault's limit.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("a budget of {budget} calls within 10 s is more than the vault's limit of {limit}: lower it")]
pub struct BudgetError {
    /// The budget given.
    pub budget: u32,
    /// The vault's limit.
    pub limit: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls(calls: u32) -> NonZeroU32 {
        NonZeroU32::new(calls).unwrap()
    }

    #[test]
    fn a_budget_is_half_of_the_limit_unless_set_and_never_more_than_it() {
        let default = VaultBudget::default();
        assert_eq!((default.limit(), default.budget(), default.in_flight()), (2_000, 1_000, 64));
        let small = VaultBudget::of_limit(calls(1));
        assert_eq!((small.limit(), small.budget()), (1, 1));
        assert_eq!(VaultBudget::of_limit(calls(300)).budget(), 150);
        assert_eq!(default.with_budget(calls(2_000)).unwrap().budget(), 2_000);
        let refused = default.with_budget(calls(2_001)).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "a budget of 2001 calls within 10 s is more than the vault's limit of 2000: lower it"
        );
    }
}
