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

use std::{fmt, ops::Range, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use cofferdam_crypto::{AccountId, BlockId, Epoch, PageSize, Provider, Version};

use crate::error::{StoreError, StoreErrorKind};

/// Keeps sealed blocks.
#[async_trait]
pub trait BlockStore: fmt::Debug + Send + Sync {
    /// Applies all of a batch or none of it, and is durable before it returns.
    ///
    /// The answers are in the order of the operations. An operation whose version is not newer than the one
    /// that is stored or buffered is [`Applied::Superseded`]: a newer write won. Where that is so of some puts of a batch
    /// and not of others, the batch is a `Conflict`: who put them together finds all of them or none. Versions of puts are
    /// the store's own: no two blocks may be given the same one. If the future is dropped, the batch is applied or not,
    /// never in part.
    ///
    /// # Errors
    /// `Full`, `TooLarge`, `Conflict` (a version that another block has, or newer ones of some), `BufferFull`, `Corrupt`, `Poisoned`,
    /// `Closed`, `Io`. Nothing of the batch was acknowledged then.
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

    /// Byte ranges of the sealed block that this is of; `None` when it was replaced, drained or deleted.
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

    /// The highest version ever committed, of a put or a delete; 0 in a new store.
    ///
    /// # Errors
    /// `Corrupt`, `Poisoned`, `Closed`, `Io`.
    async fn last_version(&self) -> Result<Version, StoreError>;

    /// Finishes what was begun and releases the store. Everything after it is `Closed`.
    ///
    /// # Errors
    /// `Io` and the like when the last words could not be written; what was acknowledged is safe even so.
    async fn close(&self) -> Result<(), StoreError>;
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
            | Self::Discard { id, .. }
            | Self::Delete { id, .. } => id,
        }
    }

    /// What is known of the block that it writes, and its sealed bytes; `None` for one that writes none.
    pub(crate) fn sealed(&self) -> Option<(&BlockMeta, &Bytes)> {
        match self {
            Self::Put { meta, sealed, .. }
            | Self::Buffer { meta, sealed, .. }
            | Self::Drain { meta, sealed, .. } => Some((meta, sealed)),
            Self::Discard { .. } | Self::Delete { .. } => None,
        }
    }

    /// The version it brings.
    pub fn version(&self) -> Version {
        match self {
            Self::Put { meta, .. } | Self::Buffer { meta, .. } | Self::Drain { meta, .. } => meta.version,
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
            Self::Discard { .. } => "Discard",
            Self::Delete { .. } => "Delete",
        };
        write!(f, "{what}({}, {}, version {})", self.account(), self.id(), self.version())
    }
}

/// What became of one operation of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// The block was written: put, buffered or drained.
    Written,
    /// The block was removed.
    Deleted,
    /// There was no such block to remove, or to drain.
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

/// What an account's buffer may hold. It is held against what the buffer holds once the batch's earlier operations are
/// done, and only if there is something to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferLimit {
    /// The most sealed bytes.
    pub bytes: u64,
    /// A buffer that has held something since before this, as time since the Unix epoch, takes no more.
    pub since: Duration,
}

/// What is known of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockMeta {
    /// Its version.
    pub version: Version,
    /// The length of its sealed bytes.
    pub sealed_len: u64,
    /// The size of its plaintext pages.
    pub page_size: PageSize,
    /// When it was written, since the Unix epoch.
    pub stored_at: Duration,
    /// The epoch of the AEK it is sealed under.
    pub epoch: Epoch,
    /// Whose KEK wraps that AEK.
    pub provider: Provider,
}

impl BlockMeta {
    /// The length of its encoding.
    pub const ENCODED_LEN: usize = 38;
    const FORMAT: u8 = 1;

    /// Its encoding: format byte, version, sealed length, page size, seconds, nanoseconds, epoch, provider;
    /// integers are big-endian.
    pub fn encode(&self) -> [u8; Self::ENCODED_LEN] {
        let mut out = [0; Self::ENCODED_LEN];
        out[0] = Self::FORMAT;
        out[1..9].copy_from_slice(&self.version.number().to_be_bytes());
        out[9..17].copy_from_slice(&self.sealed_len.to_be_bytes());
        out[17..21].copy_from_slice(&(self.page_size.bytes() as u32).to_be_bytes());
        out[21..29].copy_from_slice(&self.stored_at.as_secs().to_be_bytes());
        out[29..33].copy_from_slice(&self.stored_at.subsec_nanos().to_be_bytes());
        out[33..37].copy_from_slice(&self.epoch.number().to_be_bytes());
        out[37] = self.provider.code();
        out
    }

    /// The meta of this encoding.
    ///
    /// # Errors
    /// `NewerFormat` for a format byte above ours; `Corrupt` for anything else that [`Self::encode`] does not
    /// write.
    pub fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        let corrupt =
            || StoreError::new(StoreErrorKind::Corrupt).with_detail("a block's meta does not decode");
        match bytes.first() {
            Some(&Self::FORMAT) => {}
            Some(&found) if found > Self::FORMAT => {
                return Err(StoreError::new(StoreErrorKind::NewerFormat {
                    found: found.into(),
                    supported: Self::FORMAT.into(),
                }));
            }
            _ => return Err(corrupt()),
        }
        let bytes: &[u8; Self::ENCODED_LEN] = bytes.try_into().map_err(|_| corrupt())?;
        let nanos = u32::from_be_bytes(array(bytes, 29));
        if nanos >= 1_000_000_000 {
            return Err(corrupt());
        }
        Ok(Self {
            version: Version::new(u64::from_be_bytes(array(bytes, 1))),
            sealed_len: u64::from_be_bytes(array(bytes, 9)),
            page_size: PageSize::new(u32::from_be_bytes(array(bytes, 17)).into()).map_err(|_| corrupt())?,
            stored_at: Duration::new(u64::from_be_bytes(array(bytes, 21)), nanos),
            epoch: Epoch::new(u32::from_be_bytes(array(bytes, 33))),
            provider: Provider::from_code(bytes[37]).ok_or_else(corrupt)?,
        })
    }
}

/// The `N` bytes at `from`, which the caller knows to be there.
fn array<const N: usize>(bytes: &[u8; BlockMeta::ENCODED_LEN], from: usize) -> [u8; N] {
    std::array::from_fn(|i| bytes[from + i])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn meta_decodes_to_what_was_encoded(
            version: u64, sealed_len: u64, log2 in 12u32..=24, secs: u64,
            nanos in 0u32..1_000_000_000, epoch: u32, customer: bool,
        ) {
            let provider = if customer { Provider::Customer } else { Provider::Service };
            let meta = BlockMeta {
                version: Version::new(version), sealed_len, page_size: PageSize::new(1 << log2).unwrap(),
                stored_at: Duration::new(secs, nanos), epoch: Epoch::new(epoch), provider,
            };
            prop_assert_eq!(BlockMeta::decode(&meta.encode()).unwrap(), meta);
        }

        #[test]
        fn meta_of_other_bytes_is_refused_or_encodes_to_them(bytes in prop::collection::vec(any::<u8>(), 0..48)) {
            if let Ok(meta) = BlockMeta::decode(&bytes) {
                prop_assert_eq!(&meta.encode()[..], &bytes[..]);
            }
        }
    }

    #[test]
    fn meta_of_a_newer_format_is_said_to_be_that() {
        let error = BlockMeta::decode(&[2; 60]).unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::NewerFormat { found: 2, supported: 1 });
    }
}
