//! Blocks in an object store.
//!
//! Guarantees: what [`BlockStore`] promises, to any number of handles on one store at once. A block's sealed bytes are an object that
//! is created once, under a name that nothing else ever has, and never overwritten; a row of a [`Catalog`] says which object is
//! the block's. A batch is the change of its rows, so it is seen whole or not at all, and a reader that has the row reads
//! bytes that stay what they are. What is durable is what the two stores keep.
//!
//! Invariants:
//! - An object is there before a row names it, and is deleted only once no row will ever name it: by who changed the row, or by a
//!   compaction when it is older than any write can be under way.
//! - Rows: `b/ACCOUNT/ID` says what is stored and what is buffered of a block; `f/ACCOUNT/ID` is there while something is buffered of it;
//!   `u/ACCOUNT` says what the account's buffer holds; `s/ACCOUNT/SEGMENT` is a segment of it; `versions/SLOT` says which versions
//!   are given out. What changes in several rows changes as one transaction.
//! - Objects: `d/ACCOUNT/ID/VERSION-RANDOM`.
//!
//! How many requests an operation costs is in docs/object-stores.md, and held by a test.
//!
//! Not its job: keys; to find that somebody gives two blocks one version (it gives out versions that are nobody else's); to
//! close the catalog, which is its owner's.

mod commit;
mod decide;
mod hints;
mod names;
mod pause;
mod read;
mod rows;
mod sweep;
mod versions;

use std::{
    collections::VecDeque,
    fmt,
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use cofferdam_crypto::{AccountId, BlockId, SegmentId, Version};
use cofferdam_vault::{Clock, Entropy};
use object_store::{ObjectStore, path::Path};

use super::transaction::Rows;
use crate::{
    Applied, BlockMeta, BlockOp, BlockStore, BufferUsage, Catalog, Located, SegmentRow, StoreError,
    StoreErrorKind, VersionRange,
};
use hints::Hints;
use names::Places;
use versions::Slot;

/// How many rows are listed at once.
const PAGE: usize = 1000;
/// How many requests of one operation are under way at once.
const AT_ONCE: usize = 16;
/// Operations that fill or drain one account's buffer take turns here: they change the same row.
const TURNS: usize = 64;

/// How an [`ObjectBlocks`] uses memory, and how long it takes writers to be at work.
#[derive(Clone, Debug)]
pub struct ObjectBlocksOptions {
    /// How many blocks' rows are remembered as they were seen last: then a range read of a block that was looked up costs no
    /// second look, and replacing one no request to read its row. About 300 bytes each. Default 16,384.
    pub remembered_rows: usize,
    /// An object that no row names is deleted by a compaction when it is older than this, by the store's own time. A write that
    /// has taken half as long since it stored its bytes stores them again. Default one day.
    pub orphan_age: Duration,
    /// How long one request for a block's bytes may take, with what the store's client makes of it: it has time-outs and retries
    /// of its own. Default 2 minutes.
    pub time_out: Duration,
}

impl Default for ObjectBlocksOptions {
    fn default() -> Self {
        Self {
            remembered_rows: 16_384,
            orphan_age: Duration::from_secs(24 * 3600),
            time_out: Duration::from_secs(120),
        }
    }
}

/// A [`BlockStore`] over any object store, with its rows in any catalog. Clones are the same handle; there may be others on the
/// same stores, in other processes.
///
/// Block ids are at most 512 bytes, since object stores take names of 1,024; a longer one is `TooLarge`.
///
/// ```no_run
/// # async fn example(rows: std::sync::Arc<dyn cofferdam_store::Catalog>) -> Result<(), cofferdam_store::StoreError> {
/// use std::sync::Arc;
///
/// use cofferdam_store::objects::{ObjectBlocks, ObjectBlocksOptions};
/// use cofferdam_vault::{SystemClock, SystemEntropy};
/// use object_store::{memory::InMemory, path::Path};
///
/// let (data, prefix) = (Arc::new(InMemory::new()), Path::from("deployment"));
/// let (clock, entropy) = (Arc::new(SystemClock), Arc::new(SystemEntropy));
/// let blocks = ObjectBlocks::new(data, prefix, rows, clock, entropy, ObjectBlocksOptions::default())?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct ObjectBlocks {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<dyn ObjectStore>,
    places: Places,
    catalog: Arc<dyn Catalog>,
    rows: Rows,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    orphan_age: Duration,
    time_out: Duration,
    slot: Slot,
    hints: Hints,
    turns: Box<[tokio::sync::Mutex<()>]>,
    /// Objects that no row will ever name again and that could not be deleted.
    doomed: Mutex<VecDeque<Path>>,
    closed: AtomicBool,
}

impl ObjectBlocks {
    /// A handle on the blocks under `prefix`, where there may be none yet; makes no request. The catalog may be an
    /// [`ObjectCatalog`](super::ObjectCatalog) of the same store, or any other that every handle shares.
    ///
    /// # Errors
    /// `Io` without randomness.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        prefix: Path,
        catalog: Arc<dyn Catalog>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        options: ObjectBlocksOptions,
    ) -> Result<Self, StoreError> {
        let inner = Inner {
            store,
            places: Places::under(&prefix),
            rows: Rows::new(catalog.clone(), entropy.clone()),
            catalog,
            clock,
            slot: Slot::of(random(&*entropy)?),
            entropy,
            orphan_age: options.orphan_age,
            time_out: options.time_out,
            hints: Hints::of(options.remembered_rows),
            turns: (0..TURNS).map(|_| tokio::sync::Mutex::new(())).collect(),
            doomed: Mutex::default(),
            closed: AtomicBool::new(false),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    fn open(&self) -> Result<&Inner, StoreError> {
        if self.inner.closed.load(Ordering::Acquire) {
            return Err(StoreError::new(StoreErrorKind::Closed));
        }
        Ok(&self.inner)
    }
}

#[async_trait]
impl BlockStore for ObjectBlocks {
    async fn commit(&self, batch: Vec<BlockOp>) -> Result<Vec<Applied>, StoreError> {
        self.open()?.commit(batch).await
    }

    async fn stat(&self, account: AccountId, id: &BlockId) -> Result<Option<Located>, StoreError> {
        self.open()?.stat(account, id).await
    }

    async fn fetch(&self, account: AccountId, id: &BlockId) -> Result<Option<(Located, Bytes)>, StoreError> {
        self.open()?.fetch(account, id).await
    }

    /// Fetches nothing but the ranges. Of a block that another handle replaced a moment ago, before it has deleted the bytes, it
    /// may still read those: they are the version's that is asked for.
    async fn read(
        &self,
        account: AccountId,
        id: &BlockId,
        of: &Located,
        ranges: &[Range<u64>],
    ) -> Result<Option<Vec<Bytes>>, StoreError> {
        self.open()?.read(account, id, of, ranges).await
    }

    async fn list(
        &self,
        account: AccountId,
        after: Option<&BlockId>,
        limit: usize,
    ) -> Result<Vec<(BlockId, Located)>, StoreError> {
        self.open()?.list(account, after, limit).await
    }

    async fn stored(
        &self,
        account: AccountId,
        after: Option<&BlockId>,
        limit: usize,
    ) -> Result<Vec<(BlockId, BlockMeta)>, StoreError> {
        self.open()?.stored(account, after, limit).await
    }

    async fn fetch_stored(
        &self,
        account: AccountId,
        id: &BlockId,
    ) -> Result<Option<(BlockMeta, Bytes)>, StoreError> {
        self.open()?.fetch_stored(account, id).await
    }

    async fn buffered(
        &self,
        account: AccountId,
        after: Option<&BlockId>,
        limit: usize,
    ) -> Result<Vec<(BlockId, BlockMeta)>, StoreError> {
        self.open()?.buffered(account, after, limit).await
    }

    async fn buffer_usage(&self, account: AccountId) -> Result<Option<BufferUsage>, StoreError> {
        Ok(self.open()?.usage(account).await?.value)
    }

    async fn buffering(
        &self,
        after: Option<AccountId>,
        limit: usize,
    ) -> Result<Vec<(AccountId, BufferUsage)>, StoreError> {
        self.open()?.buffering(after, limit).await
    }

    async fn segment(
        &self,
        account: AccountId,
        segment: SegmentId,
    ) -> Result<Option<SegmentRow>, StoreError> {
        Ok(self.open()?.segment(account, segment).await?.value.map(SegmentRow::from))
    }

    async fn segments(
        &self,
        account: AccountId,
        after: Option<SegmentId>,
        limit: usize,
    ) -> Result<Vec<(SegmentId, SegmentRow)>, StoreError> {
        self.open()?.segments(account, after, limit).await
    }

    async fn replace_segment(
        &self,
        account: AccountId,
        segment: SegmentId,
        expected: &Bytes,
        new: Bytes,
    ) -> Result<bool, StoreError> {
        self.open()?.replace_segment(account, segment, expected, new).await
    }

    /// Once nothing of the account is left, deletes every object that was written for it, also by writes that did not end.
    async fn remove_blocks(&self, account: AccountId, limit: usize) -> Result<u64, StoreError> {
        self.open()?.remove_blocks(account, limit).await
    }

    /// Deletes the objects that no row names and that are older than a write may take
    /// ([`ObjectBlocksOptions::orphan_age`]); what is replaced or removed is deleted at once in any case, unless its writer was
    /// stopped before it could. Looks at the row of every object that is that old: one request each. Writers go on.
    async fn compact(&self) -> Result<(), StoreError> {
        self.open()?.compact().await
    }

    /// No lower than the highest version ever committed or given out.
    async fn last_version(&self) -> Result<Version, StoreError> {
        self.open()?.highest().await
    }

    async fn reserve_versions(
        &self,
        at_least: Version,
        count: u32,
    ) -> Result<Option<VersionRange>, StoreError> {
        self.open()?.reserve(at_least, count).await.map(Some)
    }

    /// Writes nothing: there is nothing left to write. The catalog stays open.
    async fn close(&self) -> Result<(), StoreError> {
        self.inner.closed.store(true, Ordering::Release);
        Ok(())
    }
}

impl fmt::Debug for ObjectBlocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "ObjectBlocks({} at {}, rows in {:?})",
            self.inner.store,
            self.inner.places.all(),
            self.inner.catalog
        )
    }
}

impl Inner {
    /// Waits for an answer as long as it may take.
    async fn in_time<T>(
        &self,
        request: impl Future<Output = object_store::Result<T>> + Send,
    ) -> object_store::Result<T> {
        match tokio::time::timeout(self.time_out, request).await {
            Ok(answer) => answer,
            Err(elapsed) => {
                Err(object_store::Error::Generic { store: "ObjectBlocks", source: Box::new(elapsed) })
            }
        }
    }
}

fn random(entropy: &dyn Entropy) -> Result<u64, StoreError> {
    let mut bytes = [0; 8];
    entropy.fill(&mut bytes).map_err(|e| StoreError::new(StoreErrorKind::Io).caused_by(e))?;
    Ok(u64::from_be_bytes(bytes))
}

/// What an object store's failure is to who asked for something; `doing` says what that was.
fn failed(doing: &str, error: object_store::Error) -> StoreError {
    StoreError::new(StoreErrorKind::Io).with_detail(doing).caused_by(error)
}
