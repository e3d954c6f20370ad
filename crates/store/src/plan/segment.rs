//! A segment of a fallback buffer: how many blocks it has, and its record.
//!
//! Guarantees: it is there for exactly as long as the buffer holds one of its blocks; its record is the one that came with the
//! first of them, until it is replaced.
//!
//! Not its job: what a record says, or whether it is genuine.
//!
//! Encoding, integers big-endian: format byte, blocks u64, record. The format is 2 once the record was replaced: who fills the
//! segment may not know of that yet, so blocks may come with another record then.

use bytes::Bytes;
use cofferdam_crypto::{
    SegmentId,
    planted::{Bug, is_planted},
};

use super::corrupt;
use crate::{
    block_store::{BlockOp, SegmentRow},
    error::{StoreError, StoreErrorKind},
};

const FORMAT: u8 = 1;
const FORMAT_REPLACED: u8 = 2;
const HEAD: usize = 9;

/// A segment, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentState {
    pub(crate) blocks: u64,
    pub(crate) record: Bytes,
    pub(crate) replaced: bool,
}

impl From<SegmentState> for SegmentRow {
    fn from(SegmentState { blocks, record, .. }: SegmentState) -> Self {
        Self { blocks, record }
    }
}

impl SegmentState {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let format = if self.replaced { FORMAT_REPLACED } else { FORMAT };
        [&[format][..], &self.blocks.to_be_bytes(), &self.record].concat()
    }

    /// What was encoded.
    ///
    /// # Errors
    /// `NewerFormat`, `Corrupt`.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        let undecodable = || corrupt("the row of a segment does not decode");
        let replaced = match bytes.first() {
            Some(&FORMAT) => false,
            Some(&FORMAT_REPLACED) => true,
            Some(&found) if found > FORMAT_REPLACED => {
                let (found, supported) = (found.into(), FORMAT_REPLACED.into());
                return Err(StoreError::new(StoreErrorKind::NewerFormat { found, supported }));
            }
            _ => return Err(undecodable()),
        };
        let (head, record) = bytes.split_first_chunk::<HEAD>().ok_or_else(undecodable)?;
        let blocks = u64::from_be_bytes(std::array::from_fn(|i| head[1 + i]));
        if blocks == 0 {
            return Err(undecodable());
        }
        Ok(Self { blocks, record: Bytes::copy_from_slice(record), replaced })
    }
}

/// A block came to the segment.
pub(crate) fn joined(
    row: Option<SegmentState>,
    segment: SegmentId,
    op: &BlockOp,
) -> Result<Option<SegmentState>, StoreError> {
    match (row, op.segment()) {
        (Some(row), Some(record)) if row.record != record && !row.replaced => {
            Err(corrupt(format!("the record of segment {segment} is not the one that its blocks came with")))
        }
        (Some(row), _) => {
            let blocks = row.blocks.checked_add(1).ok_or_else(|| wrong(segment))?;
            Ok(Some(SegmentState { blocks, ..row }))
        }
        (None, Some(record)) => Ok(Some(SegmentState { blocks: 1, record: record.clone(), replaced: false })),
        (None, None) => Err(wrong(segment)),
    }
}

/// A block left it.
pub(crate) fn left(
    row: Option<SegmentState>,
    segment: SegmentId,
) -> Result<Option<SegmentState>, StoreError> {
    // Without its row a block opens nowhere, but it may be deleted or written anew.
    let Some(row) = row else { return Ok(None) };
    let blocks = row.blocks.checked_sub(1).ok_or_else(|| wrong(segment))?;
    let is_left = blocks > 0 && !is_planted(Bug::SegmentRemovedEarly);
    Ok(is_left.then_some(SegmentState { blocks, ..row }))
}

pub(crate) fn wrong(segment: SegmentId) -> StoreError {
    corrupt(format!("the row of segment {segment} is not that of its blocks"))
}
