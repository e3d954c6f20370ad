//! What an operation makes of a block and of its account's buffer, whatever store keeps them; pure.
//!
//! Guarantees: a newer version is never replaced by an older one, in whichever place it is; what is buffered is newer
//! than what is stored; a buffer's usage is what its blocks add up to, and stays within its limit.
//!
//! Not its job: to keep anything.

mod segment;
mod usage;

use std::{ops::Range, time::Duration};

use cofferdam_crypto::{
    AccountId,
    planted::{Bug, is_planted},
};

pub(crate) use self::{
    segment::{SegmentState, joined, left, wrong as wrong_segment},
    usage::{decode_usage, encode_usage},
};
use crate::{
    block_store::{Applied, BlockMeta, BlockOp, BufferLimit, BufferUsage, Located, Place},
    error::{StoreError, StoreErrorKind},
};

/// Refuses an operation that contradicts itself.
pub(crate) fn check(op: &BlockOp) -> Result<(), StoreError> {
    let Some((meta, sealed)) = op.sealed() else { return Ok(()) };
    if meta.sealed_len != sealed.len() as u64 {
        return Err(StoreError::new(StoreErrorKind::OutOfBounds).with_detail(format!(
            "block {} is said to have {} bytes and has {}",
            op.id(),
            meta.sealed_len,
            sealed.len()
        )));
    }
    // A block of a segment is buffered with its segment's record, and stored under another key.
    if meta.provider.segment().is_some() == op.segment().is_some() {
        return Ok(());
    }
    let detail = format!("{op:?} is under the key of {}, which does not go with that", meta.provider);
    Err(StoreError::new(StoreErrorKind::Invalid).with_detail(detail))
}

/// Refuses ranges that a block of this length has not.
pub(crate) fn check_ranges(len: u64, ranges: &[Range<u64>]) -> Result<(), StoreError> {
    match ranges.iter().find(|range| range.start > range.end || range.end > len) {
        Some(range) => Err(StoreError::new(StoreErrorKind::OutOfBounds)
            .with_detail(format!("bytes {} to {} of {len}", range.start, range.end))),
        None => Ok(()),
    }
}

/// Damage, with what shows it.
pub(crate) fn corrupt(detail: impl Into<String>) -> StoreError {
    StoreError::new(StoreErrorKind::Corrupt).with_detail(detail)
}

/// What is known of a block in each place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) stored: Option<BlockMeta>,
    pub(crate) buffered: Option<BlockMeta>,
}

impl Held {
    /// What a reader sees of it.
    pub(crate) fn located(&self) -> Result<Option<Located>, StoreError> {
        let stored = self.stored.map(|meta| Located { place: Place::Store, meta });
        let buffered = self.buffered.map(|meta| Located { place: Place::Buffer, meta });
        if is_planted(Bug::BufferReadLast) {
            return Ok(stored.or(buffered));
        }
        match (stored, buffered) {
            (Some(stored), Some(buffered)) if stored.meta.version >= buffered.meta.version => {
                Err(corrupt(format!(
                    "version {} of a block is buffered and version {} is stored",
                    buffered.meta.version, stored.meta.version
                )))
            }
            (stored, buffered) => Ok(buffered.or(stored)),
        }
    }

    pub(crate) fn metas(&self) -> impl Iterator<Item = BlockMeta> {
        self.stored.into_iter().chain(self.buffered)
    }

    /// What the operation makes of it, and what is said of that.
    pub(crate) fn decide(self, op: &BlockOp) -> (Applied, Self) {
        let newest = self.metas().map(|meta| meta.version).max();
        let superseded = newest.filter(|by| *by >= op.version()).map(|by| Applied::Superseded { by });
        let is_buffered = self.buffered.is_some_and(|meta| meta.version == op.version());
        let is_reseal = self.stored.is_some_and(|stored| is_sealed_anew(&stored, op));
        match (op, superseded) {
            (BlockOp::Drain { meta, .. }, _) if is_buffered || is_planted(Bug::DrainIgnoresVersion) => {
                let copy = self.buffered.filter(|_| is_planted(Bug::DrainKeepsCopy));
                (Applied::Written, Self { stored: Some(*meta), buffered: copy })
            }
            (BlockOp::Reseal { meta, .. }, _) if is_reseal => {
                (Applied::Written, Self { stored: Some(*meta), ..self })
            }
            (BlockOp::Discard { .. }, _) if is_buffered => {
                (Applied::Deleted, Self { buffered: None, ..self })
            }
            (_, Some(superseded)) => (superseded, self),
            (BlockOp::Put { meta, .. }, None) => {
                (Applied::Written, Self { stored: Some(*meta), buffered: None })
            }
            (BlockOp::Buffer { meta, .. }, None) => {
                (Applied::Written, Self { buffered: Some(*meta), ..self })
            }
            (BlockOp::Delete { .. }, None) if newest.is_some() => {
                let missed = self.buffered.filter(|_| is_planted(Bug::DeleteMissesBuffer));
                (Applied::Deleted, Self { stored: None, buffered: missed })
            }
            (
                BlockOp::Drain { .. }
                | BlockOp::Reseal { .. }
                | BlockOp::Discard { .. }
                | BlockOp::Delete { .. },
                None,
            ) => (Applied::Absent, self),
        }
    }
}

/// Whether the operation seals the stored block anew. Under the same epoch it would be other bytes with the same meta, and
/// who reads it in parts could not tell; under an earlier one, it would need a key that others take for out of use.
fn is_sealed_anew(stored: &BlockMeta, op: &BlockOp) -> bool {
    let BlockOp::Reseal { meta, .. } = op else { return false };
    if is_planted(Bug::ResealIgnoresVersion) {
        return true;
    }
    let is_later = stored.provider != meta.provider || stored.epoch < meta.epoch;
    stored.version == meta.version && is_later
}

/// What an account's buffer holds once the operation has turned `before` into `after` in it.
pub(crate) fn usage_after(
    op: &BlockOp,
    usage: Option<BufferUsage>,
    before: Option<&BlockMeta>,
    after: Option<&BlockMeta>,
) -> Result<Option<BufferUsage>, StoreError> {
    let account = op.account();
    let wrong = || corrupt(format!("the usage of account {account}'s buffer is not what it holds"));
    let (mut blocks, mut bytes) = usage.map_or((0, 0), |usage| (usage.blocks, usage.bytes));
    if let Some(meta) = before {
        blocks = blocks.checked_sub(1).ok_or_else(wrong)?;
        bytes = bytes.checked_sub(meta.sealed_len).ok_or_else(wrong)?;
    }
    if let Some(meta) = after {
        blocks = blocks.checked_add(1).ok_or_else(wrong)?;
        bytes = bytes.checked_add(meta.sealed_len).ok_or_else(wrong)?;
    }
    let since = match (usage, after) {
        _ if blocks == 0 && bytes == 0 => return Ok(None),
        _ if blocks == 0 => return Err(wrong()),
        (Some(usage), _) => usage.since,
        (None, Some(meta)) => meta.stored_at,
        (None, None) => return Err(wrong()),
    };
    let since = match op {
        BlockOp::Drain { at, .. } => since.max(*at),
        _ => since,
    };
    Ok(Some(BufferUsage { blocks, bytes, since }))
}

/// Refuses what would fill the account's buffer past its limit.
pub(crate) fn check_limit(
    account: AccountId,
    limit: &BufferLimit,
    now: Option<&BufferUsage>,
    next: Option<&BufferUsage>,
) -> Result<(), StoreError> {
    if is_planted(Bug::BufferUnbounded) {
        return Ok(());
    }
    let holds = || match now {
        Some(now) => format!(
            "account {account} has {} blocks of {} bytes buffered since {}",
            now.blocks,
            now.bytes,
            unix(now.since)
        ),
        None => format!("account {account} has nothing buffered"),
    };
    let full = |why| {
        let detail = format!("{}; {why}", holds());
        Err(StoreError::new(StoreErrorKind::BufferFull).with_detail(detail))
    };
    if now.is_some_and(|now| now.since < limit.since) {
        return full(format!("it may hold something since {} at most", unix(limit.since)));
    }
    match next {
        Some(next) if next.bytes > limit.bytes => {
            full(format!("it may hold {} bytes and would hold {}", limit.bytes, next.bytes))
        }
        _ => Ok(()),
    }
}

fn unix(time: Duration) -> String {
    format!("{}.{:03} s after the Unix epoch", time.as_secs(), time.subsec_millis())
}
