//! The base of stores that stand before another one in tests and benchmarks.
//!
//! Guarantees: what a decorator says nothing about goes to the store behind it as it is; a method that [`BlockStore`] is
//! given later is forwarded here and nowhere else.
//!
//! Not its job: to be a decorator's base in a program: there, what is forwarded is decided for each method.

use std::{fmt, ops::Range};

use async_trait::async_trait;
use bytes::Bytes;
use cofferdam_crypto::{AccountId, BlockId, SegmentId, Version};

use crate::{
    block_store::{Applied, BlockMeta, BlockOp, BlockStore, BufferUsage, Located, SegmentRow, VersionRange},
    error::StoreError,
};

/// A [`BlockStore`] that forwards to another one. What a decorator may want to do otherwise is here; the rest is always
/// forwarded.
#[async_trait]
pub trait Forwarding: fmt::Debug + Send + Sync {
    /// The store that it stands before.
    fn behind(&self) -> &dyn BlockStore;

    /// [`BlockStore::commit`].
    ///
    /// # Errors
    /// The store's behind it.
    async fn commit(&self, batch: Vec<BlockOp>) -> Result<Vec<Applied>, StoreError> {
        self.behind().commit(batch).await
    }

    /// [`BlockStore::stat`].
    ///
    /// # Errors
    /// The store's behind it.
    async fn stat(&self, account: AccountId, id: &BlockId) -> Result<Option<Located>, StoreError> {
        self.behind().stat(account, id).await
    }

    /// [`BlockStore::fetch`].
    ///
    /// # Errors
    /// The store's behind it.
    async fn fetch(&self, account: AccountId, id: &BlockId) -> Result<Option<(Located, Bytes)>, StoreError> {
        self.behind().fetch(account, id).await
    }

    /// [`BlockStore::read`].
    ///
    /// # Errors
    /// The store's behind it.
    async fn read(
        &self,
        account: AccountId,
        id: &BlockId,
        of: &Located,
        ranges: &[Range<u64>],
    ) -> Result<Option<Vec<Bytes>>, StoreError> {
        self.behind().read(account, id, of, ranges).await
    }

    /// [`BlockStore::reserve_versions`].
    ///
    /// # Errors
    /// The store's behind it.
    async fn reserve_versions(
        &self,
        at_least: Version,
        count: u32,
    ) -> Result<Option<VersionRange>, StoreError> {
        self.behind().reserve_versions(at_least, count).await
    }
}

#[async_trait]
impl<T: Forwarding> BlockStore for T {
    async fn commit(&self, batch: Vec<BlockOp>) -> Result<Vec<Applied>, StoreError> {
        Forwarding::commit(self, batch).await
    }

    async fn stat(&self, account: AccountId, id: &BlockId) -> Result<Option<Located>, StoreError> {
        Forwarding::stat(self, account, id).await
    }

    async fn fetch(&self, account: AccountId, id: &BlockId) -> Result<Option<(Located, Bytes)>, StoreError> {
        Forwarding::fetch(self, account, id).await
    }

    async fn read(
        &self,
        account: AccountId,
        id: &BlockId,
        of: &Located,
        ranges: &[Range<u64>],
    ) -> Result<Option<Vec<Bytes>>, StoreError> {
        Forwarding::read(self, account, id, of, ranges).await
    }

    async fn list(
        &self,
        account: AccountId,
        after: Option<&BlockId>,
        limit: usize,
    ) -> Result<Vec<(BlockId, Located)>, StoreError> {
        self.behind().list(account, after, limit).await
    }

    async fn stored(
        &self,
        account: AccountId,
        after: Option<&BlockId>,
        limit: usize,
    ) -> Result<Vec<(BlockId, BlockMeta)>, StoreError> {
        self.behind().stored(account, after, limit).await
    }

    async fn fetch_stored(
        &self,
        account: AccountId,
        id: &BlockId,
    ) -> Result<Option<(BlockMeta, Bytes)>, StoreError> {
        self.behind().fetch_stored(account, id).await
    }

    async fn buffered(
        &self,
        account: AccountId,
        after: Option<&BlockId>,
        limit: usize,
    ) -> Result<Vec<(BlockId, BlockMeta)>, StoreError> {
        self.behind().buffered(account, after, limit).await
    }

    async fn buffer_usage(&self, account: AccountId) -> Result<Option<BufferUsage>, StoreError> {
        self.behind().buffer_usage(account).await
    }

    async fn buffering(
        &self,
        after: Option<AccountId>,
        limit: usize,
    ) -> Result<Vec<(AccountId, BufferUsage)>, StoreError> {
        self.behind().buffering(after, limit).await
    }

    async fn segment(
        &self,
        account: AccountId,
        segment: SegmentId,
    ) -> Result<Option<SegmentRow>, StoreError> {
        self.behind().segment(account, segment).await
    }

    async fn segments(
        &self,
        account: AccountId,
        after: Option<SegmentId>,
        limit: usize,
    ) -> Result<Vec<(SegmentId, SegmentRow)>, StoreError> {
        self.behind().segments(account, after, limit).await
    }

    async fn replace_segment(
        &self,
        account: AccountId,
        segment: SegmentId,
        expected: &Bytes,
        new: Bytes,
    ) -> Result<bool, StoreError> {
        self.behind().replace_segment(account, segment, expected, new).await
    }

    async fn remove_blocks(&self, account: AccountId, limit: usize) -> Result<u64, StoreError> {
        self.behind().remove_blocks(account, limit).await
    }

    async fn compact(&self) -> Result<(), StoreError> {
        self.behind().compact().await
    }

    async fn last_version(&self) -> Result<Version, StoreError> {
        self.behind().last_version().await
    }

    async fn reserve_versions(
        &self,
        at_least: Version,
        count: u32,
    ) -> Result<Option<VersionRange>, StoreError> {
        Forwarding::reserve_versions(self, at_least, count).await
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.behind().close().await
    }
}
