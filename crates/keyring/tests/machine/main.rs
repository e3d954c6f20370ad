//! The machine alone, whatever comes in whatever order: every short sequence of events, many long random ones, and
//! a world of a vault and a record whose truth it is held to.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

mod explore;
mod model;
mod random;
mod world;

use std::time::Duration;

use cofferdam_crypto::Provider;
use cofferdam_keyring::machine::*;
use cofferdam_vault::{Meaning, Timestamp, VaultErrorKind as Kind};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);
const NO_JITTER: Jitter = Jitter(0);

const KINDS: [Kind; 10] = [
    Kind::AccessDenied,
    Kind::KeyDisabled,
    Kind::KeyNotFound,
    Kind::Throttled { retry_after: None },
    Kind::Throttled { retry_after: Some(Duration::from_secs(7)) },
    Kind::Unavailable,
    Kind::Unauthenticated,
    Kind::Untrusted,
    Kind::Corrupt,
    Kind::Other,
];

/// Whether the tests run at their full scale.
fn is_full() -> bool {
    std::env::var_os("COFFERDAM_FULL").is_some_and(|full| full == "1")
}

/// This long after `from`, by both clocks.
fn after(from: Timestamp, time: Duration) -> Timestamp {
    Timestamp { boot: from.boot + time, wall: from.wall + time }
}
