//! How the calls to each vault stand, and what is told of it.

use std::{fmt, time::Duration};

use cofferdam_vault::{Principal, Timestamp};

/// Which vault, as a keyring tells of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum VaultName {
    /// The service's own, and of every principal that shares it.
    Service,
    /// Of this principal, and of others that share it: the first of their names.
    OfPrincipal(Principal),
}

impl fmt::Display for VaultName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service => f.write_str("the service's own vault"),
            Self::OfPrincipal(principal) => write!(f, "the vault of {principal}"),
        }
    }
}

/// How the calls to one vault stand now. Calls are counted within 10 s.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VaultStatus {
    /// Which vault.
    pub vault: VaultName,
    /// Calls sent in the last 10 s.
    pub sent: u32,
    /// What is planned with.
    pub budget: u32,
    /// The vault's published limit.
    pub limit: u32,
    /// What is let through now: the budget, more of the limit while the alarm stands, or less while the vault throttles.
    pub allowed: u32,
    /// The calls that it takes to refresh every account in use once: one for each account and KEK.
    pub calls_per_refresh: u32,
    /// How often keys are refreshed: the policy's refresh, or stretched towards its ceiling.
    pub refresh: Duration,
    /// Accounts that wait for their turn.
    pub waiting: usize,
    /// The alarm: even at the ceiling, the accounts in use need more than the budget.
    pub over_budget: bool,
    /// How long the vault asked not to be called.
    pub paused_for: Duration,
}

/// Something happened to a vault's calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VaultEvent {
    /// Which vault.
    pub vault: VaultName,
    /// When.
    pub at: Timestamp,
    /// What.
    pub what: WhatOfVault,
    /// How its calls stood then.
    pub status: VaultStatus,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhatOfVault {
    /// Alarm: even at the ceiling, the accounts in use need more calls than the budget. More of the vault's limit is
    /// taken; where that does not do either, callers wait their turn.
    OverBudget,
    /// The alarm is over.
    WithinBudget,
}

impl VaultEvent {
    /// Writes the event to the log, under the target `cofferdam::audit`.
    pub(crate) fn log(&self) {
        let vault = &self.vault as &dyn fmt::Display;
        let VaultStatus { sent, budget, limit, allowed, calls_per_refresh, .. } = self.status;
        match self.what {
            WhatOfVault::OverBudget => tracing::warn!(
                target: "cofferdam::audit",
                %vault, sent, budget, limit, allowed, calls_per_refresh, "vault over budget"
            ),
            WhatOfVault::WithinBudget => tracing::info!(
                target: "cofferdam::audit",
                %vault, sent, budget, limit, allowed, calls_per_refresh, "vault within budget"
            ),
        }
    }
}
