//! The machine alone, whatever comes in whatever order: every short sequence of events, many long random ones, and
//! a world of a vault and a record whose truth it is held to.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

mod bridge;
mod explore;
mod model;
mod random;
mod world;

use std::time::Duration;

use cofferdam_crypto::Provider;
use cofferdam_keyring::machine::*;
use cofferdam_vault::{Meaning, Timestamp, VaultErrorKind as Kind, testing::KINDS};
use proptest::strategy::Strategy;

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);
const NO_JITTER: Jitter = Jitter(0);

/// Whether the tests run at their full scale.
fn is_full() -> bool {
    std::env::var_os("COFFERDAM_FULL").is_some_and(|full| full == "1")
}

/// This long after `from`, by both clocks.
fn after(from: Timestamp, time: Duration) -> Timestamp {
    Timestamp { boot: from.boot + time, wall: from.wall + time }
}

/// Every policy, to the second.
fn policies() -> impl Strategy<Value = Policy> {
    (6..=60u32, 0..=3600u32, 1..=60u32, 1..=60u32, 100..=10_000u32).prop_map(
        |(refresh, grace, retry, poll, timeout)| {
            let set = || -> Result<Policy, PolicyError> {
                Policy::default()
                    .with_refresh(refresh * SECOND)?
                    .with_grace(grace * SECOND)?
                    .with_retry_max(retry * SECOND)?
                    .with_revoked_poll(poll * SECOND)?
                    .with_call_timeout(timeout * MS)
            };
            set().unwrap()
        },
    )
}
