//! What the machine is told, and what it asks for.

use std::time::Duration;

use cofferdam_vault::{Timestamp, VaultErrorKind};

use super::{Bounds, KeyState};

/// One try to unwrap and verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Attempt {
    /// Grows by one with each attempt, so that which of two began first needs no clock.
    pub number: u64,
    /// When it was begun, and in its result when its vault was asked: it may have had to wait for its record, and for
    /// its turn.
    pub sent: Timestamp,
    /// In its result, when one of the KEKs did not answer: until when the others stand in for it.
    pub bridged_until: Option<Timestamp>,
}

/// A random share of the jitter, drawn by the driver. It only ever shortens a wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Jitter(pub u16);

impl Jitter {
    /// The wait, shortened by up to a quarter.
    pub(crate) fn shorten(self, wait: Duration) -> Duration {
        wait - wait / 4 * u32::from(self.0) / u32::from(u16::MAX)
    }

    /// The wait, shortened to anything down to `least`.
    pub(crate) fn spread(self, wait: Duration, least: Duration) -> Duration {
        wait - wait.saturating_sub(least) * u32::from(self.0) / u32::from(u16::MAX)
    }
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A timer fired, or a caller came.
    Wake {
        /// A caller waits for the key.
        wanted: bool,
        /// The key was used since it was verified, or asked for of late.
        used: bool,
    },
    /// A scheduler refreshes the keys of this vault so often, from the target to the ceiling: from here on, and for
    /// the key that is held. Said before [`Self::Verified`], and when a refresh is due.
    Paced(Duration),
    /// The key was verified for the first time, or again after its vault had failed, perhaps together with many
    /// others: its first refresh comes earlier by a random share, so that theirs are spread.
    Spread(Jitter),
    /// Nobody needs the key that is held any longer.
    LetGo,
    /// A caller needs an epoch that is not unwrapped, of a key that is held.
    Fetch,
    /// The account's record was read.
    Record {
        /// It says that the key is revoked.
        revoked: bool,
        /// Its wraps are not those of the last attempt.
        changed: bool,
    },
    /// The record was read, and of the keys that are held it has none any longer. What is under way goes on.
    Outdated,
    /// The account's record can't be read or believed.
    RecordUnreadable,
    /// The account has no such record.
    RecordGone,
    /// The attempt's unwraps were verified, and which KEK did not answer is bridged.
    Verified {
        /// Which attempt.
        attempt: Attempt,
        /// Shortens the wait until the next.
        jitter: Jitter,
    },
    /// The attempt failed.
    Failed {
        /// Which attempt.
        attempt: Attempt,
        /// How.
        kind: VaultErrorKind,
        /// Of several KEKs, which one, and which said yes.
        keks: Keks,
        /// Shortens the wait until the next.
        jitter: Jitter,
    },
    /// [`Effect::Persist`] is done.
    Persisted {
        /// What was to be persisted.
        revoked: bool,
        /// Whether it was.
        ok: bool,
    },
    /// The owner says that what was known no longer holds. Results of what is under way are not delivered.
    Forgotten,
    /// The key that is held is given up: room is needed for another. Results of what is under way are not
    /// delivered.
    Displaced,
    /// What was under way came to nothing; its result will not be delivered.
    Abandoned,
}

/// Of the KEKs of a record, by their places there: which one failed an attempt, and which said yes in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Keks {
    /// Which one failed it; the first where that is of none or of all.
    pub failed: u8,
    /// Which said yes, a bit for each.
    pub said_yes: u8,
}

/// What the driver is to do, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Effect {
    /// Let no one use the key from now on, and drop it.
    Evict,
    /// Let the key be used within these bounds. After a verified attempt: the key that it unwrapped.
    Publish(Bounds),
    /// Have every KEK of the record unwrap, and verify; one that does not answer may be bridged by the others.
    Attempt {
        /// Names the attempt in its result.
        attempt: Attempt,
        /// Read the record first, and report it.
        reread: bool,
    },
    /// Read the record and report it.
    ReadRecord,
    /// Persist whether the key is revoked.
    Persist {
        /// Whether it is.
        revoked: bool,
    },
    /// Somebody should look.
    Alarm(Alarm),
    /// The state that is reported changed.
    Announce {
        /// From this.
        from: KeyState,
        /// To this.
        to: KeyState,
        /// Because of this.
        why: Why,
    },
    /// A key that was held was verified again.
    Refreshed,
}

/// Why a state changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Why {
    /// An unwrap was verified.
    Verified,
    /// The vault failed, as an outage counts.
    Outage(VaultErrorKind),
    /// The vault denied the key.
    Denied(VaultErrorKind),
    /// "Not found" could not be confirmed in time.
    Unconfirmed,
    /// The key reached its bound.
    Expired,
    /// Nobody used the key until its bound.
    Idle,
    /// The record says that the key is revoked.
    RecordedAsRevoked,
    /// The record can't be read or believed.
    RecordUnreadable,
    /// The record is gone.
    RecordGone,
    /// The record has none of the keys any longer that were held.
    Outdated,
    /// The owner asked to forget it.
    Forgotten,
    /// Room was needed for another key.
    Displaced,
}

/// What somebody should look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Alarm {
    /// A wrapped key is malformed, or unwraps to another key than it should.
    Corrupt,
    /// A KEK has not answered for so long that in less than a quarter of the longest time nothing stands in for it.
    BridgeEnds,
    /// That a KEK is bridged, or no longer is, could not be persisted; the key is not served on the strength of that.
    BridgeNotPersisted,
    /// The service's own vault denies its key: a mistake of the service, counted as an outage.
    ServiceDenied(VaultErrorKind),
    /// A revocation, or its end, could not be persisted; it is tried again.
    NotPersisted {
        /// What was to be persisted.
        revoked: bool,
    },
}
