//! Whether a key may be served although one of its KEKs does not answer.
//!
//! Guarantees: a KEK that does not answer is bridged by one that does, for less than the policy's `max_bridge` since it was
//! found so; one that denied the key is not, until it says yes itself; and while a denial stands no bridge begins.
//!
//! Not its job: to ask, to persist, to wait.

use std::time::Duration;

use cofferdam_crypto::planted::{Bug, is_planted};
use cofferdam_vault::Timestamp;

use super::{
    Policy,
    bounds::{after, earlier, reached},
};

/// What an attempt found of one KEK, which did not deny the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KekFound {
    /// When it was asked, if it did not answer; `None`: it was verified.
    pub out: Option<Timestamp>,
    /// Since when it is bridged, as that is persisted.
    pub since: Option<Timestamp>,
    /// Whether it denied the key since that was verified last, or may have.
    pub denied: bool,
}

/// What that means for the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bridging {
    /// Every KEK said yes.
    Whole,
    /// The key may be served until then at most.
    Bridged {
        /// When the first of the bridges is too long.
        until: Timestamp,
    },
    /// It may once it is persisted that these KEKs, by their places, are bridged since they were asked.
    Begins(Vec<usize>),
    /// It may not, because of this KEK.
    Broken {
        /// Its place.
        kek: usize,
        /// Whether others have stood in for it for as long as they may.
        too_long: bool,
    },
}

/// What an attempt means that found this of each KEK; `doubted`: a denial of the key by any of them stands.
pub fn bridging(found: &[KekFound], doubted: bool, now: Timestamp, policy: &Policy) -> Bridging {
    let Some(first) = found.iter().position(|kek| kek.out.is_some()) else { return Bridging::Whole };
    if found.iter().all(|kek| kek.out.is_some()) {
        return Bridging::Broken { kek: first, too_long: false };
    }
    let (mut begins, mut until) = (Vec::new(), None);
    for (at, kek) in found.iter().enumerate() {
        let Some(asked) = kek.out else { continue };
        if kek.denied || (kek.since.is_none() && doubted) {
            return Bridging::Broken { kek: at, too_long: false };
        }
        let longest = if is_planted(Bug::BridgeUnbounded) { Duration::MAX } else { policy.max_bridge() };
        let end = after(kek.since.unwrap_or(asked), longest);
        if reached(end, now) {
            return Bridging::Broken { kek: at, too_long: true };
        }
        if kek.since.is_none() {
            begins.push(at);
        }
        until = Some(until.map_or(end, |until| earlier(until, end)));
    }
    match until {
        Some(until) if begins.is_empty() => Bridging::Bridged { until },
        _ => Bridging::Begins(begins),
    }
}
