//! What the keyring counts, through the `metrics` facade: an embedder installs the recorder.
//!
//! Guarantees: every change of state counts once, where it is also told and written to the audit log; labels are
//! words of this crate, never an account, a key id or a secret, so that there are few series; nothing is counted
//! on the hot path. `docs/metrics.md` lists the names; a test holds it to this file.
//!
//! Not its job: to send anything anywhere.

use std::time::Duration;

use cofferdam_crypto::Provider;
use cofferdam_vault::{VaultError, VaultErrorKind};
use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

use crate::{
    KeyEvent, What, WhatOfVault,
    machine::{Alarm, KeyState, Why},
};

const STATE_CHANGES: &str = "cofferdam_key_state_changes_total";
const REFRESHES: &str = "cofferdam_key_refreshes_total";
const EVICTIONS: &str = "cofferdam_key_evictions_total";
const ALARMS: &str = "cofferdam_key_alarms_total";
const BRIDGES: &str = "cofferdam_key_bridges_total";
const BRIDGED: &str = "cofferdam_keks_bridged";
const HELD: &str = "cofferdam_keys_held";
const CALLS: &str = "cofferdam_vault_calls_total";
const CALL_SECONDS: &str = "cofferdam_vault_call_seconds";
const TURN_SECONDS: &str = "cofferdam_vault_turn_seconds";
const REFRESH_CALLS: &str = "cofferdam_vault_calls_per_refresh";
const OVER_BUDGET: &str = "cofferdam_vaults_over_budget";
const BUDGET_ALARMS: &str = "cofferdam_vault_budget_alarms_total";

/// Describes every metric to the recorder that is installed.
pub(crate) fn describe() {
    describe_counter!(STATE_CHANGES, "Changes of the state of a key, by provider, from and to");
    describe_counter!(REFRESHES, "Keys in use that were verified again, by provider");
    describe_counter!(EVICTIONS, "Keys that were held and are wiped, by provider and why");
    describe_counter!(ALARMS, "Things that somebody should look at, by provider and alarm");
    describe_counter!(BRIDGES, "Bridges of KEKs that do not answer, by provider and event: begun, ended");
    describe_gauge!(
        BRIDGED,
        "KEKs that do not answer, of keys that are held on the strength of others, by provider"
    );
    describe_gauge!(HELD, "Keys held, by provider and state");
    describe_counter!(CALLS, "Calls to a vault to unwrap a key, by provider and outcome");
    describe_histogram!(CALL_SECONDS, Unit::Seconds, "What those calls took, by provider and outcome");
    describe_histogram!(
        TURN_SECONDS,
        Unit::Seconds,
        "How long callers' calls waited for their turn, by provider"
    );
    describe_gauge!(REFRESH_CALLS, "Calls that refresh every account in use once, by provider");
    describe_gauge!(OVER_BUDGET, "Vaults whose accounts in use need more calls than the budget, by provider");
    describe_counter!(
        BUDGET_ALARMS,
        "Times that a vault came to need more calls than its budget, by provider"
    );
}

/// Counts what has happened.
pub(crate) fn count(event: &KeyEvent) {
    let provider = provider(event.provider);
    match event.what {
        What::Changed { from, to, why } => {
            counter!(STATE_CHANGES, "provider" => provider, "from" => from.name(), "to" => to.name())
                .increment(1);
            if holds(from) && !holds(to) {
                counter!(EVICTIONS, "provider" => provider, "why" => reason(why)).increment(1);
            }
        }
        What::BridgeBegan => counter!(BRIDGES, "provider" => provider, "event" => "begun").increment(1),
        What::BridgeEnded => counter!(BRIDGES, "provider" => provider, "event" => "ended").increment(1),
        What::Refreshed => counter!(REFRESHES, "provider" => provider).increment(1),
        What::Alarm(alarm) => {
            let alarm = match alarm {
                Alarm::Corrupt => "corrupt",
                Alarm::BridgeEnds => "bridge_ends",
                Alarm::BridgeNotPersisted => "bridge_not_persisted",
                Alarm::ServiceDenied(_) => "service_denied",
                Alarm::NotPersisted { .. } => "not_persisted",
            };
            counter!(ALARMS, "provider" => provider, "alarm" => alarm).increment(1);
        }
    }
}

/// Counts a call to a vault, with what its answer was found to be.
pub(crate) fn count_call<T>(of: Provider, took: Duration, answer: &Result<T, VaultError>) {
    let outcome = answer.as_ref().map_or_else(|failed| failed.kind().name(), |_| "verified");
    counter!(CALLS, "provider" => provider(of), "outcome" => outcome).increment(1);
    histogram!(CALL_SECONDS, "provider" => provider(of), "outcome" => outcome).record(took);
}

/// Counts a turn at a vault that callers waited for.
pub(crate) fn count_turn(of: Provider, waited: Duration) {
    histogram!(TURN_SECONDS, "provider" => provider(of)).record(waited);
}

/// Notes that accounts came into use, or went out of it.
pub(crate) fn in_use(of: Provider, more: u32, fewer: u32) {
    let gauge = gauge!(REFRESH_CALLS, "provider" => provider(of));
    gauge.increment(f64::from(more));
    gauge.decrement(f64::from(fewer));
}

/// Counts that a vault's alarm began, or ended.
pub(crate) fn count_vault(of: Provider, what: WhatOfVault) {
    let over = gauge!(OVER_BUDGET, "provider" => provider(of));
    match what {
        WhatOfVault::OverBudget => {
            over.increment(1.0);
            counter!(BUDGET_ALARMS, "provider" => provider(of)).increment(1);
        }
        WhatOfVault::WithinBudget => over.decrement(1.0),
    }
}

/// A key that counts as held in a state until this is dropped.
pub(crate) struct HeldIn(Provider, KeyState);

impl HeldIn {
    /// For a key of this state, if one is held in it.
    pub(crate) fn new(of: Provider, state: KeyState) -> Option<Self> {
        if !holds(state) {
            return None;
        }
        gauge!(HELD, "provider" => provider(of), "state" => state.name()).increment(1.0);
        Some(Self(of, state))
    }

    pub(crate) fn state(&self) -> KeyState {
        self.1
    }
}

impl Drop for HeldIn {
    fn drop(&mut self) {
        gauge!(HELD, "provider" => provider(self.0), "state" => self.1.name()).decrement(1.0);
    }
}

/// KEKs that count as bridged until this is dropped.
pub(crate) struct Bridged(Provider, usize);

impl Bridged {
    /// `None` for none.
    pub(crate) fn new(of: Provider, keks: usize) -> Option<Self> {
        if keks == 0 {
            return None;
        }
        gauge!(BRIDGED, "provider" => provider(of)).increment(keks as f64);
        Some(Self(of, keks))
    }
}

impl Drop for Bridged {
    fn drop(&mut self) {
        gauge!(BRIDGED, "provider" => provider(self.0)).decrement(self.1 as f64);
    }
}

fn holds(state: KeyState) -> bool {
    matches!(state, KeyState::Active | KeyState::Grace)
}

const fn provider(provider: Provider) -> &'static str {
    match provider {
        Provider::Customer => "customer",
        Provider::Service => "service",
        // None is held as one of an account's own.
        Provider::Buffer(_) => "buffer",
    }
}

fn reason(why: Why) -> &'static str {
    match why {
        Why::Denied(kind) | Why::Outage(kind) => VaultErrorKind::name(kind),
        Why::Verified => "verified",
        Why::Unconfirmed => "unconfirmed",
        Why::Expired => "expired",
        Why::Idle => "idle",
        Why::RecordedAsRevoked => "recorded_as_revoked",
        Why::RecordUnreadable => "record_unreadable",
        Why::RecordGone => "record_gone",
        Why::Outdated => "outdated",
        Why::Forgotten => "forgotten",
        Why::Displaced => "displaced",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_metrics_are_those_that_are_counted() {
        let text = include_str!("../../../docs/metrics.md");
        let documented: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("| `cofferdam_")?.split_once('`').map(|(name, _)| name))
            .collect();
        let counted = [
            STATE_CHANGES,
            REFRESHES,
            EVICTIONS,
            ALARMS,
            BRIDGES,
            BRIDGED,
            HELD,
            CALLS,
            CALL_SECONDS,
            TURN_SECONDS,
            REFRESH_CALLS,
            OVER_BUDGET,
            BUDGET_ALARMS,
        ];
        let counted: Vec<&str> = counted.iter().map(|name| name.trim_start_matches("cofferdam_")).collect();
        for name in counted {
            assert!(documented.contains(&name), "{name} is not in docs/metrics.md");
        }
    }
}
