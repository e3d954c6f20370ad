//! Where sealed blocks are kept.
//!
//! Guarantees that every implementation gives: a batch is applied whole or not at all, and is durable before
//! [`BlockStore::commit`] returns; a read sees one version of a block, never a mixture; a newer version is
//! never replaced by an older one.
//!
//! Not its job: keys, sealing, choosing versions. It sees sealed bytes only.

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
    /// that is stored is [`Applied::Superseded`]: a newer write won. Versions of puts are the store's own:
    /// no two blocks may be given the same one. If the future is dropped, the batch is applied or not, never
    /// in part.
    ///
    /// # Errors
    /// `Full`, `TooLarge`, `Conflict` (a version that another block has), `Corrupt`, `Poisoned`, `Closed`,
    /// `Io`. Nothing of the batch was acknowledged then.
    async fn commit(&self, batch: Vec<BlockOp>) -> Result<Vec<Applied>, StoreError>;

    /// What is known of a block without reading it.
    ///
    /// # Errors
    /// `Corrupt`, `Poisoned`, `Closed`, `Io`.
    async fn stat(&self, account: AccountId, id: &BlockId) -> Result<Option<BlockMeta>, StoreError>;

    /// A whole sealed block, with its meta as of the same moment.
    ///
    /// # Errors
    /// `Corrupt`, `Poisoned`, `Closed`, `Io`.
    async fn fetch(&self, account: AccountId, id: &BlockId)
    -> Result<Option<(BlockMeta, Bytes)>, StoreError>;

    /// Byte ranges of the sealed block at exactly this version; `None` when it was replaced or deleted.
    ///
    /// # Errors
    /// `OutOfBounds` when a range ends past the block or before it starts; `Corrupt`, `Poisoned`, `Closed`,
    /// `Io`.
    async fn read(
        &self,
        account: AccountId,
        id: &BlockId,
        version: Version,
        ranges: &[Range<u64>],
    ) -> Result<Option<Vec<Bytes>>, StoreError>;

    /// The next `limit` blocks of an account after this id, in the order of their ids' bytes.
    ///
    /// # Errors
    /// `Corrupt`, `Poisoned`, `Closed`, `Io`.
    async fn list(
        &self,
        account: AccountId,
        after: Option<&BlockId>,
        limit: usize,
    ) -> Result<Vec<(BlockId, BlockMeta)>, StoreError>;

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
    /// Writes a block, replacing an older version of it.
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
    /// Removes a block that is older than this version.
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
            Self::Put { account, .. } | Self::Delete { account, .. } => *account,
        }
    }

    /// The block it changes.
    pub fn id(&self) -> &BlockId {
        match self {
            Self::Put { id, .. } | Self::Delete { id, .. } => id,
        }
    }

    /// The version it brings.
    pub fn version(&self) -> Version {
        match self {
            Self::Put { meta, .. } => meta.version,
            Self::Delete { version, .. } => *version,
        }
    }
}

impl fmt::Debug for BlockOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self {
            Self::Put { .. } => "Put",
            Self::Delete { .. } => "Delete",
        };
        write!(f, "{what}({}, {}, version {})", self.account(), self.id(), self.version())
    }
}

/// What became of one operation of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// The block was written.
    Written,
    /// The block was removed.
    Deleted,
    /// There was no such block to remove.
    Absent,
    /// Nothing was changed: a version at least as new is stored.
    Superseded {
        /// The version that is stored.
        by: Version,
    },
}

/// What a store knows of a block.
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
