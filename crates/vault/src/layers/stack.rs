//! Layers put around a vault, in the order that the module says.
//!
//! Guarantees: the order is the same in whatever order they are named; a layer that is not named is not there.

use std::{sync::Arc, time::Duration};

use super::{
    Audit, AuditSink, BreakerPolicy, Budget, CallBudget, CircuitBreaker, Metrics, Retry, RetryPolicy,
    Timeout, TracingAudit,
};
use crate::{Clock, Entropy, KeyVault};

/// Which layers are put around a vault. See [the module](super) for the order, and why.
#[derive(Clone, Debug)]
pub struct VaultLayers {
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    audit: Option<Arc<dyn AuditSink>>,
    retry: Option<RetryPolicy>,
    breaker: Option<BreakerPolicy>,
    budget: Option<CallBudget>,
    metrics: Option<&'static str>,
    timeout: Option<Duration>,
}

impl VaultLayers {
    /// The longest that a keyring may wait for a call.
    const LONGEST_CALL: Duration = Duration::from_secs(10);
    /// How long a call may take where nobody says otherwise.
    const CALL: Duration = Duration::from_secs(5);

    /// No layer.
    pub fn none(clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Self {
        Self {
            clock,
            entropy,
            audit: None,
            retry: None,
            breaker: None,
            budget: None,
            metrics: None,
            timeout: None,
        }
    }

    /// What a production service wants under a keyring, which retries, bounds and rations calls itself: an audit in the log, metrics under
    /// this name, and a time-out of 10 s for who asks without one.
    pub fn under_keyring(name: &'static str, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Self {
        Self::none(clock, entropy).audit(Arc::new(TracingAudit)).metrics(name).timeout(Self::LONGEST_CALL)
    }

    /// What a production service wants for a vault that it asks without a keyring: every layer, with its defaults, and 5 s for a request.
    pub fn on_its_own(
        name: &'static str,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        budget: &CallBudget,
    ) -> Self {
        Self::under_keyring(name, clock, entropy)
            .retry(RetryPolicy::default())
            .circuit_breaker(BreakerPolicy::default())
            .budget(budget)
            .timeout(Self::CALL)
    }

    /// The same whose calls are told to this sink.
    #[must_use]
    pub fn audit(self, sink: Arc<dyn AuditSink>) -> Self {
        Self { audit: Some(sink), ..self }
    }

    /// The same that asks again after an outage.
    #[must_use]
    pub fn retry(self, policy: RetryPolicy) -> Self {
        Self { retry: Some(policy), ..self }
    }

    /// The same that leaves a vault alone that is away.
    #[must_use]
    pub fn circuit_breaker(self, policy: BreakerPolicy) -> Self {
        Self { breaker: Some(policy), ..self }
    }

    /// The same within this budget, which all stacks that lead to one vault should share.
    #[must_use]
    pub fn budget(self, budget: &CallBudget) -> Self {
        Self { budget: Some(budget.clone()), ..self }
    }

    /// The same counted under this name, of the vault's kind.
    #[must_use]
    pub fn metrics(self, name: &'static str) -> Self {
        Self { metrics: Some(name), ..self }
    }

    /// The same where a request takes at most so long.
    #[must_use]
    pub fn timeout(self, limit: Duration) -> Self {
        Self { timeout: Some(limit), ..self }
    }

    /// The layers around this vault. One stack a vault: a registry tells vaults apart by their `Arc`.
    pub fn over(&self, vault: Arc<dyn KeyVault>) -> Arc<dyn KeyVault> {
        let mut vault = vault;
        if let Some(limit) = self.timeout {
            vault = Arc::new(Timeout::new(vault, limit));
        }
        if let Some(name) = self.metrics {
            vault = Arc::new(Metrics::new(vault, name, self.clock.clone()));
        }
        if let Some(budget) = &self.budget {
            vault = Arc::new(Budget::new(vault, budget.clone()));
        }
        if let Some(policy) = self.breaker {
            vault = Arc::new(CircuitBreaker::new(vault, policy));
        }
        if let Some(policy) = self.retry {
            vault = Arc::new(Retry::new(vault, policy, self.entropy.clone()));
        }
        if let Some(sink) = &self.audit {
            vault = Arc::new(Audit::new(vault, sink.clone(), self.clock.clone()));
        }
        vault
    }
}
