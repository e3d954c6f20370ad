//! How the usage of a fallback buffer is written down.
//!
//! Encoding, integers big-endian: format byte, blocks u64, bytes u64, since as seconds u64 and nanoseconds u32.

use std::time::Duration;

use super::corrupt;
use crate::{
    block_store::BufferUsage,
    error::{StoreError, StoreErrorKind},
};

const USAGE_LEN: usize = 29;
const USAGE_FORMAT: u8 = 1;

pub(crate) fn encode_usage(usage: &BufferUsage) -> [u8; USAGE_LEN] {
    let mut out = [0; USAGE_LEN];
    out[0] = USAGE_FORMAT;
    out[1..9].copy_from_slice(&usage.blocks.to_be_bytes());
    out[9..17].copy_from_slice(&usage.bytes.to_be_bytes());
    out[17..25].copy_from_slice(&usage.since.as_secs().to_be_bytes());
    out[25..29].copy_from_slice(&usage.since.subsec_nanos().to_be_bytes());
    out
}

pub(crate) fn decode_usage(bytes: &[u8]) -> Result<BufferUsage, StoreError> {
    let wrong = || corrupt("the usage of a buffer does not decode");
    match bytes.first() {
        Some(&USAGE_FORMAT) => {}
        Some(&found) if found > USAGE_FORMAT => {
            let (found, supported) = (found.into(), USAGE_FORMAT.into());
            return Err(StoreError::new(StoreErrorKind::NewerFormat { found, supported }));
        }
        _ => return Err(wrong()),
    }
    let bytes: &[u8; USAGE_LEN] = bytes.try_into().map_err(|_| wrong())?;
    let word = |at: usize| u64::from_be_bytes(std::array::from_fn(|i| bytes[at + i]));
    let nanos = u32::from_be_bytes(std::array::from_fn(|i| bytes[25 + i]));
    if nanos >= 1_000_000_000 || word(1) == 0 {
        return Err(wrong());
    }
    Ok(BufferUsage { blocks: word(1), bytes: word(9), since: Duration::new(word(17), nanos) })
}
