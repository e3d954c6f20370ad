//! One account in one file: its blocks as they are sealed, and what is needed to unwrap its keys again.
//!
//! Guarantees: nothing is opened to be written; a reader gives no block before all of the file was found whole and one of
//! the account's keys has authenticated it, and tells at the end whether it was the same file until then. No length is
//! believed before it was found to be within its bound and within the file, so damage costs no memory; one block is held
//! at a time. Whatever was changed, moved, repeated, left out, cut off or added is an error that says what and where.
//!
//! Not its job: what the account's part says (the engine's), vaults, to store anything. `docs/format.md` has every byte.

mod error;
mod frame;
mod order;
mod read;
mod write;

#[cfg(test)]
mod tests;

use bytes::Bytes;
use cofferdam_crypto::{BlockId, Epoch, ProviderKind, RecordTag, SegmentId};

pub use error::ArchiveError;
pub(crate) use read::{Checked, Loading, UncheckedArchive};
pub(crate) use write::{ArchiveWriter, Signatory};

use crate::{BlockMeta, Place};

/// Whether a file that begins so is an archive, of whichever format.
pub(crate) fn is_archive(start: &[u8]) -> bool {
    start.starts_with(frame::MAGIC)
}

/// How many of what an archive holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ArchiveCounts {
    /// Blocks of the store proper.
    pub stored: u64,
    /// Blocks of the fallback buffer. A block may be among both.
    pub buffered: u64,
    /// Segments of a write-only buffer.
    pub segments: u64,
    /// Sealed bytes of all blocks.
    pub bytes: u64,
}

/// A record of an archive, after the account's part.
#[derive(Debug)]
pub(crate) enum ArchiveRecord {
    /// A segment, before the first block of it.
    Segment { id: SegmentId, record: Bytes },
    /// A block as it was stored or buffered.
    Block { place: Place, id: BlockId, meta: BlockMeta, sealed: Bytes },
}

/// The tag of an archive under one of the account's keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ArchiveTag {
    /// Whose key.
    pub(crate) provider: ProviderKind,
    /// The epoch of it.
    pub(crate) epoch: Epoch,
    pub(crate) tag: RecordTag,
}
