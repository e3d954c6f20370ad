//! Doubles for deterministic tests: clocks that a test moves, seeded randomness, a vault that follows a script.
//!
//! Guarantees: nothing here reads the machine's clocks or its randomness, so a run repeats from its seed; but for wraps under
//! RSA keys, whose bytes differ each time.
//! Not its job: production. `SeededEntropy` is predictable by design.

mod clock;
mod entropy;
mod rsa;
mod scripted;
#[cfg(feature = "servers")]
pub mod servers;

use std::time::Duration;

use crate::VaultErrorKind as Kind;

/// Every kind of failure; throttled without and with a word on how long.
pub const KINDS: [Kind; 10] = [
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

pub use clock::{ManualClock, TokioClock};
pub use entropy::SeededEntropy;
pub use rsa::PublishedRsaKeys;
pub use scripted::{Answer, Call, Outcome, ScriptedCredential, ScriptedVault, Token, TokenService};
