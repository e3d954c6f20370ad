//! The life of a cached AEK as a pure function: [`step`].
//!
//! Guarantees, whatever the order of events: a key is never served past its bounds; an outage never opens a
//! revoked key; `Revoked` is left only by a verified unwrap that began after the denial, and announced only
//! once it is persisted; a KEK that does not answer is bridged for a bounded time ([`bridging`]).
//!
//! Not its job: clocks, timers, randomness, calls, keys. Its driver has those; it performs the effects and
//! feeds events back.

mod bounds;
mod bridge;
mod event;
mod packed;
mod policy;
mod state;
mod step;
#[cfg(test)]
mod tests;

pub use bounds::Bounds;
pub(crate) use bounds::{after, earlier, remaining};
pub use bridge::{Bridging, KekFound, bridging};
pub use event::{Alarm, Attempt, Effect, Event, Jitter, Keks, Why};
pub(crate) use packed::{Moment, Packed};
pub use policy::{Policy, PolicyError};
pub use state::{KeyState, Recovery, Serving, State};
pub use step::step;
