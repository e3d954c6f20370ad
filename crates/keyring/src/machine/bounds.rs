//! Until when a key serves.
//!
//! Guarantees: a deadline has passed as soon as either clock says so, which is the same as an age that is the
//! larger of what both say. Bounds are half-open: at the deadline it is over. What was verified while a KEK was bridged
//! serves no longer than the bridge may last.

use std::time::Duration;

use cofferdam_crypto::planted::{Bug, is_planted};
use cofferdam_vault::Timestamp;

use super::{Attempt, Policy};

/// This long after `from`.
pub(crate) fn after(from: Timestamp, time: Duration) -> Timestamp {
    Timestamp { boot: from.boot.saturating_add(time), wall: from.wall.saturating_add(time) }
}

/// Whether a deadline has passed by either clock.
pub(crate) fn reached(deadline: Timestamp, now: Timestamp) -> bool {
    now.boot >= deadline.boot || now.wall >= deadline.wall
}

/// Whichever comes first, by each clock.
pub(crate) fn earlier(one: Timestamp, other: Timestamp) -> Timestamp {
    Timestamp { boot: one.boot.min(other.boot), wall: one.wall.min(other.wall) }
}

/// How long until a deadline passes.
pub(crate) fn remaining(deadline: Timestamp, now: Timestamp) -> Duration {
    deadline.boot.saturating_sub(now.boot).min(deadline.wall.saturating_sub(now.wall))
}

/// Until when a verified key serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Bounds {
    /// The attempt that verified it; its age counts from when that was sent.
    pub verified: Attempt,
    /// Until then it serves without a question: a refresh in time has ended by then.
    pub unasked_until: Timestamp,
    /// Until then its state is Active.
    pub fresh_until: Timestamp,
    /// From then on it never serves.
    pub usable_until: Timestamp,
    /// Until then an attempt that failed as an outage is recent enough to serve without waiting for another.
    pub retried_until: Option<Timestamp>,
}

impl Bounds {
    /// Of a key that is refreshed every `pace`.
    pub(crate) fn new(verified: Attempt, failed: Option<Timestamp>, pace: Duration, policy: &Policy) -> Self {
        let mut grace_from = verified.sent;
        if is_planted(Bug::GraceFromFailure) {
            // When a refresh of it fails first.
            grace_from = after(grace_from, policy.refresh());
        }
        let bridged = |until| verified.bridged_until.map_or(until, |end| earlier(until, end));
        Self {
            verified,
            unasked_until: bridged(after(verified.sent, pace + policy.call_timeout())),
            fresh_until: bridged(after(verified.sent, policy.fresh_for())),
            usable_until: bridged(after(grace_from, policy.usable_for())),
            retried_until: failed.map(|sent| after(sent, policy.failure_window_at(pace))),
        }
    }

    /// Whether the key may be used now, without waiting for anything.
    pub fn serves(&self, now: Timestamp) -> bool {
        !reached(self.unasked_until, now)
            || (self.retried_until.is_some_and(|until| !reached(until, now))
                && !reached(self.usable_until, now))
    }
}
