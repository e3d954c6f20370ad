//! What the driver takes from its surroundings: locks, atomics, pointers that are swapped, wake-ups, tasks, time.
//!
//! Guarantees: it is the real thing in every build but one; under `--cfg cofferdam_shuttle` each of its
//! operations is a point at which another task may run, and time is virtual, so that a test can go through the
//! driver's schedules (`tests/shuttle`). A check of the house holds the driver to this module.
//!
//! Not its job: `Arc`, whose methods can't be given to another type. Who counts the holders of something asks
//! [`point`] first: between that and the next operation here, nobody else runs.

#[cfg(not(cofferdam_shuttle))]
mod plain;
#[cfg(cofferdam_shuttle)]
mod scheduled;
#[cfg(cofferdam_shuttle)]
pub mod time;

#[cfg(not(cofferdam_shuttle))]
pub(crate) use plain::*;
#[cfg(cofferdam_shuttle)]
pub use scheduled::*;
