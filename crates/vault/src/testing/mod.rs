//! Doubles for deterministic tests: clocks that a test moves, seeded randomness, a vault that follows a script.
//!
//! Guarantees: nothing here reads the machine's clocks or its randomness, so a run repeats from its seed.
//! Not its job: production. `SeededEntropy` is predictable by design.

mod clock;
mod entropy;
mod scripted;

pub use clock::{ManualClock, TokioClock};
pub use entropy::SeededEntropy;
pub use scripted::{Answer, Call, Outcome, ScriptedCredential, ScriptedVault, Token, TokenService};
