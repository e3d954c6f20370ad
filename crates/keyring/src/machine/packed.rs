//! A key at rest, in few bytes.
//!
//! Guarantees: what is unpacked behaves as what was packed. Most of a [`State`] is about what fails or is under way;
//! of a key that neither fails nor is asked for now, little remains. Not its job: to pack what does not fit: it says so.

use std::time::Duration;

use cofferdam_crypto::Provider;
use cofferdam_vault::Timestamp;

use super::{Attempt, State, state::Phase};

/// A moment on both clocks, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    boot: u64,
    wall: u64,
}

impl Moment {
    /// `None` beyond the year 2554.
    pub(crate) fn pack(at: Timestamp) -> Option<Self> {
        Some(Self { boot: nanos(at.boot)?, wall: nanos(at.wall)? })
    }

    pub(crate) fn unpack(self) -> Timestamp {
        Timestamp { boot: Duration::from_nanos(self.boot), wall: Duration::from_nanos(self.wall) }
    }

    /// Whether it has passed by either clock.
    pub(crate) fn is_reached(self, now: Self) -> bool {
        now.boot >= self.boot || now.wall >= self.wall
    }
}

/// Without the division of 128 bits that [`Duration::as_nanos`] and a conversion take.
fn nanos(time: Duration) -> Option<u64> {
    time.as_secs().checked_mul(1_000_000_000)?.checked_add(u64::from(time.subsec_nanos()))
}

/// What is known of a key that rests: verified by all its KEKs and not failing, or not held at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packed {
    /// The verified attempt's; 0: no key is held.
    number: u64,
    sent: Moment,
    last: u64,
    barred: u64,
    due: Option<Moment>,
    pace: Duration,
    idle: bool,
}

impl State {
    /// The state in few bytes, if it rests.
    pub(crate) fn pack(&self) -> Option<Packed> {
        let rests = self.flight.is_none()
            && self.asked.is_none()
            && self.failure.is_none()
            && self.failures == 0
            && self.absent.is_empty()
            && self.reading.is_none()
            && !self.persisting;
        let (number, sent) = match self.phase {
            Phase::Held { verified: Attempt { number, sent, bridged_until: None }, grace: false } => {
                (number, Moment::pack(sent)?)
            }
            Phase::Cold => (0, Moment { boot: 0, wall: 0 }),
            _ => return None,
        };
        let due = match self.due {
            Some(due) => Some(Moment::pack(due)?),
            None => None,
        };
        let Self { last, barred, pace, idle, .. } = *self;
        rests.then_some(Packed { number, sent, last, barred, due, pace, idle })
    }
}

impl Packed {
    pub(crate) fn unpack(self, provider: Provider) -> State {
        let Self { number, sent, last, barred, due, pace, idle } = self;
        let phase = match number {
            0 => Phase::Cold,
            _ => {
                let verified = Attempt { number, sent: sent.unpack(), bridged_until: None };
                Phase::Held { verified, grace: false }
            }
        };
        let due = due.map(Moment::unpack);
        State { phase, last, barred, due, pace, idle, ..State::new(provider) }
    }
}
