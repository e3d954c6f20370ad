//! A deterministic simulator of Cofferdam.
//!
//! One seed is one run: nodes with an engine each share a store; their accounts' keys are in vaults that fail, hang, lag
//! and say no; clocks jump, disks lose what was not synced, processes end at any await. A model knows what was
//! acknowledged and what every vault truly answered, and holds the house to its promises after every step. Time is
//! tokio's paused clock and randomness is the seed's, so that ten minutes take milliseconds, and a run repeats to the
//! last event, in any process on any machine: what is found once is found again. Wraps under RSA keys differ from run to
//! run; what happens does not.
//!
//! What a scenario leaves open is drawn: how many calls vaults take, which of them refuse at half of what they publish,
//! whether hundreds of accounts share one vault, which KEKs are RSA and which accounts write only, which nodes
//! have a hot cache; and whether accounts' keys are rotated, accounts linked, unlinked, deleted and purged meanwhile.
//!
//! ```
//! use std::time::Duration;
//! use cofferdam_sim::{Scenario, Simulation};
//!
//! let simulation = Simulation::new(Scenario::new().duration(Duration::from_secs(60)));
//! let report = simulation.run(7);
//! assert!(report.violation.is_none(), "{:?}", report.violation);
//! assert_eq!(report.trace_hash, simulation.run(7).trace_hash);
//! ```
//!
//! Bring your own vault ([`Scenario::vaults`]) or store ([`Scenario::stores`]) to see whether it keeps what
//! Cofferdam counts on.
//!
//! Not its job: threads (an interleaving of awaits is all that it explores), performance, real services.

mod admin;
mod client;
mod crowd;
mod dice;
mod director;
mod drawn;
mod finale;
mod forge;
mod hub;
mod interrupt;
mod link;
mod meter;
mod model;
mod node;
mod operation;
mod owners;
mod panics;
mod record;
mod reference;
mod report;
mod rows;
mod scenario;
mod sealed;
mod set_up;
mod shelf;
mod site;
mod trace;
mod vault;
mod way;
mod weather;

pub use cofferdam_store::FaultyFile;
pub use report::{Check, Counts, Report, Violation};
pub use scenario::{Faults, Scenario, Simulation};
pub use shelf::SimStore;
pub use vault::{KekState, MemoryVault, SimVault};
