//! The cache of account encryption keys (AEKs).
//!
//! Guarantees: a key serves only within the bounds of its [`Policy`], checked on every operation against
//! clocks that count suspended time; a denial evicts it at once; a vault that can't be asked costs nothing
//! until the grace ends. However many callers wait, a vault sees one call for each account and key, and in any 10 s
//! no more calls than its budget, or its limit, allows.
//!
//! Not its job: storing wrapped keys ([`KeyRecords`]), vaults, data.

mod budget;
mod driver;
mod error;
mod event;
pub mod machine;
mod records;
#[cfg(not(cofferdam_shuttle))]
mod rt;
#[cfg(cofferdam_shuttle)]
pub mod rt;
mod salts;
mod telemetry;
mod vaults;

pub use driver::{
    BridgedKek, KeyHandle, KeyStatus, Keyring, KeyringParts, LastFailure, LiveKey, LiveSegment,
};
pub use error::{Fault, KeyError};
pub use event::{KeyEvent, What};
pub use machine::{Alarm, KeyState, Policy, PolicyError, Why};
pub use records::{Kek, KeyRecord, KeyRecords, RecordError};
pub use salts::Salts;
pub use vaults::{VaultEvent, VaultName, VaultStatus, WhatOfVault};
