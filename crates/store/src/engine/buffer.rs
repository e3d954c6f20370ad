//! The fallback buffer as who uses the engine sees it: its bounds, what it holds, what happens to it.
//!
//! Guarantees: every event is also an audit line; none holds a secret or a block's bytes.
//!
//! Not its job: to keep events for who listens too slowly.

use std::{fmt, time::Duration};

use cofferdam_crypto::{AccountId, BlockId};
use cofferdam_vault::Timestamp;

use super::{AccountName, EngineError};
use crate::BufferUsage;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// What writes may wait for in the buffer, and how long.
#[derive(Clone, Copy, Debug)]
pub(super) struct BufferSettings {
    /// How long an account's buffer takes writes, from the first; zero: it takes none.
    pub(super) max_time: Duration,
    /// The most sealed bytes of an account's buffer.
    pub(super) max_bytes: u64,
    /// How long a revocation is observed before what was buffered is discarded.
    pub(super) revoked_retention: Duration,
    /// How long one AEK of a write-only buffer is sealed under.
    pub(super) segment_time: Duration,
}

impl Default for BufferSettings {
    fn default() -> Self {
        let segment_time = Duration::from_secs(5 * 60);
        Self { max_time: 6 * HOUR, max_bytes: 1 << 30, revoked_retention: 14 * DAY, segment_time }
    }
}

impl BufferSettings {
    const MAX_TIME: Duration = Duration::from_secs(48 * 3600);
    const MIN_BYTES: u64 = 4096;
    const SEGMENT: (Duration, Duration) = (Duration::from_secs(10), HOUR);
    const RETENTION: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(3650 * 24 * 3600));

    pub(super) fn check(&self) -> Result<(), EngineError> {
        let refuse = |setting, given: String, allowed: String| {
            Err(EngineError::BadSetting { setting, given, allowed })
        };
        if self.max_time > Self::MAX_TIME {
            let allowed = format!("at most {:?}, or zero to turn it off", Self::MAX_TIME);
            return refuse("buffer_time", format!("{:?}", self.max_time), allowed);
        }
        if self.max_bytes < Self::MIN_BYTES {
            let allowed = format!("at least {} bytes", Self::MIN_BYTES);
            return refuse("buffer_bytes", format!("{} bytes", self.max_bytes), allowed);
        }
        let (min, max) = Self::RETENTION;
        if !(min..=max).contains(&self.revoked_retention) {
            return refuse(
                "revoked_retention",
                format!("{:?}", self.revoked_retention),
                format!("{min:?} to {max:?}"),
            );
        }
        let (min, max) = Self::SEGMENT;
        if !(min..=max).contains(&self.segment_time) {
            return refuse("segment_time", format!("{:?}", self.segment_time), format!("{min:?} to {max:?}"));
        }
        Ok(())
    }

    pub(super) fn is_on(&self) -> bool {
        !self.max_time.is_zero()
    }
}

/// Blocks that were moved or removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// How many.
    pub blocks: u64,
    /// Their sealed bytes.
    pub bytes: u64,
}

impl Moved {
    pub(super) fn add(&mut self, other: Self) {
        self.blocks += other.blocks;
        self.bytes += other.bytes;
    }
}

/// What went wrong with an account's buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// What it is about.
    pub kind: TroubleKind,
    /// What was said, without secrets.
    pub message: String,
    /// When.
    pub at: Timestamp,
}

/// What a [`Trouble`] is about.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TroubleKind {
    /// The store failed: the drain tries again, later and later.
    Store,
    /// The service's own key can't be had: the drain tries again, later and later.
    ServiceKey,
    /// The account's vault did not unwrap the key of a segment: the drain tries again, later and later.
    Vault,
    /// A buffered block does not open. It stays where it is, and the others are drained.
    Damaged(BlockId),
    /// The account's record was not found.
    NoAccount,
    /// Anything else: the drain tries again, later and later.
    Other,
}

/// Something happened to an account's buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BufferEvent {
    /// The account.
    pub account: AccountId,
    /// When.
    pub at: Timestamp,
    /// What.
    pub what: BufferChange,
}

/// What happened to an account's buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BufferChange {
    /// Writes are buffered from here on: the account's key is unavailable.
    Began,
    /// Blocks were sealed under the account's key and moved to the store.
    Drained {
        /// These.
        moved: Moved,
        /// What is left.
        left: Moved,
    },
    /// Nothing is left in it.
    Finished {
        /// What was drained since it began.
        drained: Moved,
    },
    /// Something went wrong.
    Trouble(Trouble),
    /// What it held was discarded: the account's key is revoked for longer than it is kept.
    Discarded {
        /// That.
        gone: Moved,
        /// For how long the revocation was observed.
        revoked_for: Duration,
    },
}

impl BufferEvent {
    /// Writes the event to the log, under the target `cofferdam::audit`.
    pub(super) fn log(&self) {
        let account = &self.account as &dyn fmt::Display;
        match &self.what {
            BufferChange::Began => {
                tracing::info!(target: "cofferdam::audit", %account, "buffering began");
            }
            BufferChange::Drained { moved, left } => tracing::info!(
                target: "cofferdam::audit", %account, blocks = moved.blocks, bytes = moved.bytes,
                left_blocks = left.blocks, left_bytes = left.bytes, "buffer drained"
            ),
            BufferChange::Finished { drained } => tracing::info!(
                target: "cofferdam::audit", %account, blocks = drained.blocks, bytes = drained.bytes,
                "buffer is empty"
            ),
            BufferChange::Trouble(Trouble { kind, message, .. }) => tracing::warn!(
                target: "cofferdam::audit", %account, ?kind, message, "buffer trouble"
            ),
            BufferChange::Discarded { gone, revoked_for } => tracing::warn!(
                target: "cofferdam::audit", %account, blocks = gone.blocks, bytes = gone.bytes, ?revoked_for,
                "buffer discarded"
            ),
        }
    }
}

/// Why a drain does not go on.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DrainBlocked {
    /// The account's key is revoked.
    Revoked(String),
    /// The account's key is unavailable.
    KeyUnavailable(String),
    /// What is left is damaged.
    Damaged {
        /// So many blocks.
        blocks: u64,
    },
    /// Something went wrong; it is tried again.
    Trouble(Trouble),
}

impl fmt::Display for DrainBlocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Revoked(message) | Self::KeyUnavailable(message) => f.write_str(message),
            Self::Damaged { blocks } => write!(
                f,
                "{blocks} buffered blocks do not open: they are damaged, or not what was written there; \
                 write them again, or delete them"
            ),
            Self::Trouble(trouble) => f.write_str(&trouble.message),
        }
    }
}

/// How far an account's drain came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrainReport {
    /// The account's id.
    pub account: AccountId,
    /// Its name, if its record was found.
    pub name: Option<AccountName>,
    /// What this engine has drained of it since it was opened.
    pub drained: Moved,
    /// What its buffer still holds; none when it is empty.
    pub left: Option<BufferUsage>,
    /// Why that can't be drained now.
    pub blocked: Option<DrainBlocked>,
}

/// An account's buffer now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BufferStatus {
    /// How many blocks it holds.
    pub blocks: u64,
    /// Their sealed bytes.
    pub bytes: u64,
    /// Since when it holds something, as time since the Unix epoch; the time of the last drain where that is later.
    pub since: Option<Duration>,
    /// What this engine has drained of it since it was opened.
    pub drained: Moved,
    /// What went wrong last, until a drain went through without.
    pub trouble: Option<Trouble>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_takes_its_bounds_and_nothing_beyond() {
        let with = |max_time, max_bytes, revoked_retention, segment_time| {
            BufferSettings { max_time, max_bytes, revoked_retention, segment_time }.check()
        };
        let (ms, least) = (Duration::from_millis(1), Duration::from_secs(10));
        with(Duration::ZERO, 4096, Duration::from_secs(60), least).unwrap();
        with(48 * HOUR, u64::MAX, 3650 * DAY, HOUR).unwrap();
        for (time, bytes, retention, segment, setting) in [
            (48 * HOUR + ms, 4096, DAY, HOUR, "buffer_time"),
            (HOUR, 4095, DAY, HOUR, "buffer_bytes"),
            (HOUR, 4096, Duration::from_secs(60) - ms, HOUR, "revoked_retention"),
            (HOUR, 4096, 3650 * DAY + ms, HOUR, "revoked_retention"),
            (HOUR, 4096, DAY, least - ms, "segment_time"),
            (HOUR, 4096, DAY, HOUR + ms, "segment_time"),
        ] {
            let error = with(time, bytes, retention, segment).unwrap_err();
            assert!(matches!(error, EngineError::BadSetting { setting: s, .. } if s == setting), "{error}");
        }
    }
}
