//! Names of the segments of a write-only buffer.
//!
//! Guarantees: 128 random bits, so that segments of processes and nodes that know nothing of each other never
//! share a name. Not its job: what a segment is made of ([`WrappedAek`](crate::WrappedAek) holds its key).

use std::fmt;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use crate::wrapped::hex;

/// Which segment of an account's write-only buffer: one AEK of a process and a stretch of time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SegmentId(#[serde(with = "hex")] [u8; Self::LEN]);

impl SegmentId {
    /// Its length in bytes.
    pub const LEN: usize = 16;

    /// The segment of these bytes: random ones for a new segment. Two of `N` share an id with probability below
    /// `N^2 / 2^129`.
    pub const fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl fmt::Display for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SegmentId({self})")
    }
}
