//! Blocks and records in an object store: what a service keeps that outgrew one machine.
//!
//! Guarantees: a failure of a store names the object and says what was done with it; an answer that was lost is settled
//! by what is stored, and where that can't be, it is said to be unknown.
//!
//! Not its job: credentials and transports, which are [`object_store`]'s.

mod blocks;
mod catalog;
#[cfg(any(test, feature = "testing"))]
mod faulty;
mod history;
mod names;
mod probe;
mod requests;
mod transaction;

pub use blocks::{ObjectBlocks, ObjectBlocksOptions};
pub use catalog::ObjectCatalog;
#[cfg(any(test, feature = "testing"))]
pub use faulty::{FaultRates, FaultyObjects, ObjectFault, ObjectRequest};
pub use requests::RequestOptions;
pub use transaction::{Rows, Transaction};
