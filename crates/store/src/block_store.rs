//! Where sealed blocks are kept.
//!
//! Guarantees that every implementation gives: a batch is applied whole or not at all, and is durable before
//! [`BlockStore::commit`] returns; a read sees one version of a block, never a mixture; a newer version is
//! never replaced by an older one.
//!
//! A block is in one of two places: the store proper, or the fallback buffer, where writes wait that could not be
//! sealed under the account's own key. Who asks for a block gets the newest version of both.
//!
//! Not its job: keys, sealing, choosing versions, when to buffer or to drain. It sees sealed bytes only.

mod meta;

use std::{fmt, num::NonZeroU64, ops::Range, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use cofferdam_crypto::{AccountId, BlockId, SegmentId, Version};

pub use meta::BlockMeta;

use crate::error::StoreError;

/// Keeps sealed blocks.
#[async_trait]
pub trait BlockStore: fmt::Debug + Send + Sync {
    /// Applies all of a batch or none of it, and is durable before it returns.
    ///
    /// The answers are in the order of the operations. An operation whose version is not newer than the one
    /// that is stored or buffered is [`Applied::Superseded`]: a newer write won. Where that is so of some puts of a batch
    /// and not of others, the batch is a `Conflict`: who put them together finds all of them or none. Versions of puts are
    /// the store's own: no two blocks may be given the same one, see [`Self::reserve_versions`]. If the future is dropped, the
    /// batch is applied or not, never in part.
    ///
    /// # Errors
    /// `Full`, `TooLarge`, `Conflict` (a version that another block has, or newer ones of some), `BufferFull`, `Invalid` (a
    /// block of a segment that is not buffered, or comes without its record), `Corrupt`, `Poisoned`, `Closed`, `Io`. Nothing of the batch was acknowledged then.
    async fn commit(&self, batch: Vec<BlockOp>) -> Result<Vec<Applied>, StoreError>;

    /// What is known of a block's newest version without reading it.
    ///
    /// # Errors
    /// `Corrupt`, `Poisoned`, `Closed`, `Io`.
    async fn stat(&self, account: AccountId, id: &BlockId) -> Result<Option<Located>, StoreError>;

    /// The whole newest version of a sealed block, with what is known of it as of the same moment.
    ///
    /// # Errors
    /// `Corrupt`, `Poisoned`, `Closed`, `Io`.
    async fn fetch(&self, account: AccountId, id: &BlockId) -> Result<Option<(Located, Bytes)>, StoreError>;

    /// Byte ranges of the sealed block that this is of; `None` when it was replaced, sealed anew, drained or deleted: unless
    /// all that is known of it is still so, what is stored are other bytes.
    ///
    /// # Errors
    /// `OutOfBounds` when a range ends past the block or before it starts; `Corrupt`, `Poisoned`, `Closed`,
    /// `Io`.
    async fn read(
        &self,
        account: AccountId,
        id: &BlockId,
        of: &Located,
        ranges: &[Range<u64>],
    ) -> Result<Option<Vec<Bytes>>, StoreError>;

    /// The newest versions of the next `limit` blocks of an account after this id, in the order of their ids'
    /// bytes.
    ///
    /// # Errors
    /// `Corrupt`, `Poisoned`, `Closed`, `Io`.
    async fn list(
        &self,
        account: AccountId,
        after: Option<&BlockId>,
        limit: usize,
    ) -> Result<Vec<(BlockId, Located)>, StoreError>;

    /// The next `limit` blocks of an account in the store proper after this id, in the order of their ids' bytes, whether or
    /// not newer versions of them are buffered.
    ///
    /// # Errors
    /// `Corrupt`, `Poisoned`, `Closed`, `Io`.
    async fn stored(
        &self,
        account: AccountId,
        after: Option<&BlockId>,
        limit: usize,
    ) -> Result<Vec<(BlockId, BlockMeta)>, StoreError>;

    /// The whole sealed block that is in the store proper, whether or not a newer version of it is buffered, with what is
    /// known of it as of the same moment.
    ///
    /// # Errors
    /// `Corrupt`, `Poisoned`, `Closed`, `Io`.
    async fn fetch_stored(
        &self,
        account: AccountId,
        id: &BlockId,
    ) -> Result<Option<(BlockMeta, Bytes)>, StoreError>;

    /// The next `limit` blocks in an account's buffer after this id, in the order of their ids' bytes.
    ///
    /// # Errors
    /// `Corrupt`, `Poisoned`, `Closed`, `Io`.
    async fn buffered(
        &self,
        account: AccountId,
        after: Option<&BlockId>,
        limit: usize,
    ) -> Result<Vec<(BlockId, BlockMeta)>, StoreError>;

    /// What an account's buffer holds; `None` when it is empty.
    ///
    /// # Errors
    /// `Corrupt`, `Poisoned`, `Closed`, `Io`.
    async fn buffer_usage(&self, account: AccountId) -> Result<Option<BufferUsage>, StoreError>;

    /// The next `limit` accounts after this one whose buffers hold something, in the order of their ids' bytes.
    ///
    /// # Errors
    /// `Corrupt`, `Poisoned`, `Closed`, `Io`.
    async fn buffering(
        &self,
        after: Option<AccountId>,
        limit: usize,
    ) -> Result<Vec<(AccountId, BufferUsage)>, StoreError>;

    /// The record of a segment of an account's buffer; `None` when the buffer holds no block of it.
    ///
    /// # Errors
    /// `Corrupt`, `Poisoned`, `Closed`, `Io`.
    async fn segment(&self, account: AccountId, segment: SegmentId)
    -> Result<Option<SegmentRow>, StoreError>;

    /// The next `limit` segments of an account's buffer after this one, in the order of their ids' bytes.
    ///
    /// # Errors
    /// `Corrupt`, `Poisoned`, `Closed`, `Io`.
    async fn segments(
        &self,
        account: AccountId,
        after: Option<SegmentId>,
        limit: usize,
    ) -> Result<Vec<(SegmentId, SegmentRow)>, StoreError>;

    /// Replaces the record of a segment of an account's buffer, if it is `expected`, and is durable before it returns.
    /// `false`: the segment is gone or has another record, and nothing was changed. Blocks that come to the segment later
    /// may bring its earlier record; the one that is there stays.
    ///
    /// # Errors
    /// `Full`, `Corrupt`, `Poisoned`, `Closed`, `Io`.
    async fn replace_segment(
        &self,
        account: AccountId,
        segment: SegmentId,
        expected: &Bytes,
        new: Bytes,
    ) -> Result<bool, StoreError>;

    /// Removes blocks of an account from the store proper and from its buffer, and with the last blocks of a segment its
    /// record: `limit` of them at most, one at least if there is one, and durable before it returns. How many were removed;
    /// 0 once nothing of the account is left. Which version was the last one stays known.
    ///
    /// # Errors
    /// `Full`, `Corrupt`, `Poisoned`, `Closed`, `Io`. Nothing was removed then.
    async fn remove_blocks(&self, account: AccountId, limit: usize) -> Result<u64, StoreError>;

    /// Once it has returned, nothing is left in the store's files of what was removed or replaced before it was called:
    /// blocks, segments' records, and the records of a catalog that is kept in the same files. Commits wait meanwhile;
    /// reads wait for a moment only.
    ///
    /// A store that fails amid it, or a power that does, leaves everything as it was, or done.
    ///
    /// # Errors
    /// `Full` where there is no room for what is left beside what there is: nothing was changed then, and the store goes on.
    /// `Corrupt`, `ReadOnly`, `Poisoned`, `Closed`, `Io`.
    async fn compact(&self) -> Result<(), StoreError>;

    /// The highest version ever committed, of a put or a delete; 0 in a new store. It never goes back.
    ///
    /// # Errors
    /// `Corrupt`, `Poisoned`, `Closed`, `Io`.
    async fn last_version(&self) -> Result<Version, StoreError>;

    /// At least `count` versions that nobody else is ever given, none of them lower than `at_least` or than any that this
    /// handle was given before. `None`, the default: the store refuses a version that another block has (`Conflict`), so
    /// that who writes may choose it.
    ///
    /// # Errors
    /// `Corrupt`, `Poisoned`, `Closed`, `Io`. None are given then; perhaps some were reserved that nobody will have.
    async fn reserve_versions(
        &self,
        at_least: Version,
        count: u32,
    ) -> Result<Option<VersionRange>, StoreError> {
        let _ = (at_least, count);
        Ok(None)
    }

    /// Finishes what was begun and releases the store. Everything after it is `Closed`.
    ///
    /// # Errors
    /// `Io` and the like when the last words could not be written; what was acknowledged is safe even so.
    async fn close(&self) -> Result<(), StoreError>;
}

/// Versions that a store gives to one engine alone, in rising order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VersionRange {
    /// The lowest of them.
    pub first: Version,
    /// How far each is above the one before.
    pub step: NonZeroU64,
    /// How many there are.
    pub count: u32,
}

impl VersionRange {
    /// The `n`th of them, counted from 0; `None` past the last.
    pub fn nth(&self, n: u32) -> Option<Version> {
        let above = u64::from(n).checked_mul(self.step.get())?;
        self.first.number().checked_add(above).filter(|_| n < self.count).map(Version::new)
    }
}

/// One change of one block.
#[derive(Clone)]
pub enum BlockOp {
    /// Writes a block, replacing an older version of it wherever that is.
    Put {
        /// The account it belongs to.
        account: AccountId,
        /// Its id.
        id: BlockId,
        /// What is known of it; `sealed_len` must be the length of `sealed`.
        meta: BlockMeta,
        /// Its sealed bytes.
        sealed: Bytes,
    },
    /// Writes a block to the buffer, replacing an older version that is buffered. An older one that is stored stays
    /// until the drain.
    Buffer {
        /// The account it belongs to.
        account: AccountId,
        /// Its id.
        id: BlockId,
        /// What is known of it; `sealed_len` must be the length of `sealed`.
        meta: BlockMeta,
        /// Its sealed bytes.
        sealed: Bytes,
        /// What the account's buffer may hold; past it the batch is `BufferFull`.
        limit: BufferLimit,
        /// The record of the segment that the meta's provider names; `None` where it names none. It is stored with the
        /// segment's first block, and leaves with its last one, in the commit that stores or removes that.
        segment: Option<Bytes>,
    },
    /// Moves a block from the buffer to the store, sealed anew. Only while the buffer holds exactly this version;
    /// else it is [`Applied::Superseded`], or [`Applied::Absent`] where no newer version is left.
    Drain {
        /// The account it belongs to.
        account: AccountId,
        /// Its id.
        id: BlockId,
        /// What is known of it, with the version that is buffered.
        meta: BlockMeta,
        /// Its bytes as they are sealed now.
        sealed: Bytes,
        /// When, since the Unix epoch: the account's key is back, so its buffer's time counts anew from here.
        at: Duration,
    },
    /// Seals a block of the store proper anew, in its place, whether or not a newer version of it is buffered. Only while
    /// the store proper has exactly this version, and under a later epoch of the same provider's key or under another
    /// provider's; else the answer is that of a drain, so that of two who seal it anew the later key wins.
    Reseal {
        /// The account it belongs to.
        account: AccountId,
        /// Its id.
        id: BlockId,
        /// What is known of it, with the version that is stored.
        meta: BlockMeta,
        /// Its bytes as they are sealed now.
        sealed: Bytes,
    },
    /// Removes a block from the buffer, if it holds exactly this version; else the answer is that of a drain. What is
    /// stored stays, and is the newest then.
    Discard {
        /// The account it belongs to.
        account: AccountId,
        /// Its id.
        id: BlockId,
        /// The version that is buffered.
        version: Version,
    },
    /// Removes a block that is older than this version, wherever it is.
    Delete {
        /// The account it belongs to.
        account: AccountId,
        /// Its id.
        id: BlockId,
        /// The version of the deletion.
        version: Version,
    },
}

impl BlockOp {
    /// The account it changes.
    pub fn account(&self) -> AccountId {
        match self {
            Self::Put { account, .. }
            | Self::Buffer { account, .. }
            | Self::Drain { account, .. }
            | Self::Reseal { account, .. }
            | Self::Discard { account, .. }
            | Self::Delete { account, .. } => *account,
        }
    }

    /// The block it changes.
    pub fn id(&self) -> &BlockId {
        match self {
            Self::Put { id, .. }
            | Self::Buffer { id, .. }
            | Self::Drain { id, .. }
            | Self::Reseal { id, .. }
            | Self::Discard { id, .. }
            | Self::Delete { id, .. } => id,
        }
    }

    /// The record of the block's segment, of one that buffers a block of a segment.
    pub(crate) fn segment(&self) -> Option<&Bytes> {
        match self {
            Self::Buffer { segment, .. } => segment.as_ref(),
            _ => None,
        }
    }

    /// What is known of the block that it writes, and its sealed bytes; `None` for one that writes none.
    pub(crate) fn sealed(&self) -> Option<(&BlockMeta, &Bytes)> {
        match self {
            Self::Put { meta, sealed, .. }
            | Self::Buffer { meta, sealed, .. }
            | Self::Drain { meta, sealed, .. }
            | Self::Reseal { meta, sealed, .. } => Some((meta, sealed)),
            Self::Discard { .. } | Self::Delete { .. } => None,
        }
    }

    /// The version it brings.
    pub fn version(&self) -> Version {
        match self {
            Self::Put { meta, .. }
            | Self::Buffer { meta, .. }
            | Self::Drain { meta, .. }
            | Self::Reseal { meta, .. } => meta.version,
            Self::Discard { version, .. } | Self::Delete { version, .. } => *version,
        }
    }
}

impl fmt::Debug for BlockOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self {
            Self::Put { .. } => "Put",
            Self::Buffer { .. } => "Buffer",
            Self::Drain { .. } => "Drain",
            Self::Reseal { .. } => "Reseal",
            Self::Discard { .. } => "Discard",
            Self::Delete { .. } => "Delete",
        };
        write!(f, "{what}({}, {}, version {})", self.account(), self.id(), self.version())
    }
}

/// What became of one operation of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// The block was written: put, buffered, drained or sealed anew.
    Written,
    /// The block was removed.
    Deleted,
    /// There was no such block to remove, to drain or to seal anew.
    Absent,
    /// Nothing was changed: a version at least as new is there.
    Superseded {
        /// The version that is there.
        by: Version,
    },
}

/// Where a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// In the store proper.
    Store,
    /// In the fallback buffer.
    Buffer,
}

/// What a store knows of a block, and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Located {
    /// Where it is.
    pub place: Place,
    /// What is known of it.
    pub meta: BlockMeta,
}

/// What an account's buffer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferUsage {
    /// How many blocks.
    pub blocks: u64,
    /// Their sealed bytes.
    pub bytes: u64,
    /// Since when, as time since the Unix epoch: the `stored_at` of the first block that came into the empty
    /// buffer, or the time of the last drain out of it, whichever is later.
    pub since: Duration,
}

/// A segment of an account's buffer, as it is stored.
#[derive(Clone, PartialEq, Eq)]
pub struct SegmentRow {
    /// How many blocks of it the buffer holds.
    pub blocks: u64,
    /// Its record, as it came with the first of them.
    pub record: Bytes,
}

impl fmt::Debug for SegmentRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SegmentRow({} blocks, record of {} bytes)", self.blocks, self.record.len())
    }
}

/// What an account's buffer may hold. It is held against what the buffer holds once the batch's earlier operations are
/// done, and only if there is something to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferLimit {
    /// The most sealed bytes.
    pub bytes: u64,
    /// A buffer that has held something since before this, as time since the Unix epoch, takes no more.
    pub since: Duration,
}
