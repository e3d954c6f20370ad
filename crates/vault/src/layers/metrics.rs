//! Counts calls, through the `metrics` facade: an embedder installs the recorder.
//!
//! Guarantees: every call that gets here counts once, those that are given up too; labels are the name that the vault was given, and words of
//! this crate, never a key, an account or a secret. `docs/metrics.md` lists the names; a test holds it to this file.
//!
//! Not its job: to send anything anywhere.

use std::{sync::Arc, time::Duration};

use ::metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

use super::{Operation, Question};
use crate::{Clock, KeyVault, Timestamp, VaultError};

const REQUESTS: &str = "cofferdam_vault_requests_total";
const REQUEST_SECONDS: &str = "cofferdam_vault_request_seconds";
const IN_FLIGHT: &str = "cofferdam_vault_requests_in_flight";
const RETRIES: &str = "cofferdam_vault_retries_total";
const WAIT_SECONDS: &str = "cofferdam_vault_wait_seconds";
const BREAKS: &str = "cofferdam_vault_circuit_breaks_total";

/// Counts that a call is tried again.
pub(super) fn count_retry(operation: Operation) {
    counter!(RETRIES, "operation" => operation.name()).increment(1);
}

/// Counts how long a call waited for its turn.
pub(super) fn count_wait(operation: Operation, waited: Duration) {
    histogram!(WAIT_SECONDS, "operation" => operation.name()).record(waited);
}

/// Counts that a circuit opened.
pub(super) fn count_break() {
    counter!(BREAKS).increment(1);
}

/// A vault whose calls are counted.
#[derive(Debug)]
pub struct Metrics<V> {
    vault: V,
    name: &'static str,
    clock: Arc<dyn Clock>,
}

impl<V: KeyVault> Metrics<V> {
    /// The vault, counted under this name: of its kind, such as `azure`, since every name is more series.
    pub fn new(vault: V, name: &'static str, clock: Arc<dyn Clock>) -> Self {
        describe();
        Self { vault, name, clock }
    }

    /// The vault as it is without this.
    pub fn inner(&self) -> &V {
        &self.vault
    }

    async fn call<T>(
        &self,
        question: Question<'_>,
        asked: impl Future<Output = Result<T, VaultError>>,
    ) -> Result<T, VaultError> {
        gauge!(IN_FLIGHT, "vault" => self.name).increment(1.0);
        let mut counted = Counted {
            name: self.name,
            operation: question.operation,
            outcome: "given_up",
            clock: &*self.clock,
            sent: self.clock.now(),
        };
        let answer = asked.await;
        counted.outcome = answer.as_ref().map_or_else(|failed| failed.kind().name(), |_| "answered");
        answer
    }
}

fn describe() {
    describe_counter!(REQUESTS, "Requests to a vault, by vault, operation and outcome");
    describe_histogram!(REQUEST_SECONDS, Unit::Seconds, "What they took, by vault, operation and outcome");
    describe_gauge!(IN_FLIGHT, "Requests under way, by vault");
    describe_counter!(RETRIES, "Calls that were tried again, by operation");
    describe_histogram!(WAIT_SECONDS, Unit::Seconds, "How long calls waited for their turn, by operation");
    describe_counter!(BREAKS, "Times that a vault was found away, and left alone");
}

/// A call that is counted when it ends, however that comes.
struct Counted<'a> {
    name: &'static str,
    operation: Operation,
    outcome: &'static str,
    clock: &'a dyn Clock,
    sent: Timestamp,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        let (vault, operation, outcome) = (self.name, self.operation.name(), self.outcome);
        gauge!(IN_FLIGHT, "vault" => vault).decrement(1.0);
        counter!(REQUESTS, "vault" => vault, "operation" => operation, "outcome" => outcome).increment(1);
        let took = self.clock.now().since(&self.sent);
        histogram!(REQUEST_SECONDS, "vault" => vault, "operation" => operation, "outcome" => outcome)
            .record(took);
    }
}

layer!(Metrics);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_metrics_are_those_that_are_counted() {
        let text = include_str!("../../../../docs/metrics.md");
        let (_, section) = text.split_once("## Layers of vaults").unwrap();
        let (section, _) = section.split_once("\n## ").unwrap();
        let documented: Vec<&str> =
            section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
        let counted = [REQUESTS, REQUEST_SECONDS, IN_FLIGHT, RETRIES, WAIT_SECONDS, BREAKS];
        assert_eq!(documented, counted);
    }
}
