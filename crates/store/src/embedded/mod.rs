//! The embedded store: blocks and catalog in one file, on redb.
//!
//! Guarantees: what [`BlockStore`] and [`Catalog`] promise, through kill -9 and power loss; one handle at a
//! time, by a lock on the file; damage is an error where it is met, never a wrong answer, a panic or an abort.
//!
//! How: every page carries a checksum that is verified before redb sees it (`checksummed`); redb is called
//! through one joint that turns its panics into errors (`guard`); writers share commits (`queue`, `commit`).
//!
//! Every transaction is committed in two phases and keeps redb's allocator state. Two phases: the pages are
//! synced before the header points to them, so after a crash nothing reachable is torn, and no checksum of
//! reachable pages has to be believed or doubted; the price is a second sync, which the group shares. The
//! allocator state (redb's quick repair): opening after a crash reads it instead of walking all blocks; the
//! price is about 135 KiB for each GiB of file with each transaction, which the group shares (measured: 1 GiB
//! opens 15 ms after a kill, and in 2.7 s without).
//!
//! Not its job: keys. It sees sealed bytes only.

mod checksummed;
mod commit;
mod compact;
#[cfg(any(test, feature = "testing"))]
mod faulty;
mod guard;
mod header;
mod layer;
mod queue;
mod tables;
mod verify;

use std::{
    fmt, io,
    ops::Range,
    path::Path,
    sync::{Arc, atomic::Ordering},
};

use async_trait::async_trait;
use bytes::Bytes;
use cofferdam_crypto::{AccountId, BlockId, SegmentId, Version};
use cofferdam_vault::{Executor, Threads, executor};
use redb::Database;

#[cfg(any(test, feature = "testing"))]
pub use faulty::{Fault as FileFault, FaultyFile, FileOp};
pub use layer::FileLayer;
pub use verify::VerifyReport;

pub(crate) use layer::LockedFile;

use self::{
    commit::Committer,
    guard::{Fault, Joint},
    layer::{folder_of, sync_folder},
    queue::Lane,
    tables::{Done, Work},
};
use crate::{
    block_store::{Applied, BlockMeta, BlockOp, BlockStore, BufferUsage, Located, SegmentRow},
    catalog::{Catalog, Revision, Stored},
    error::{StoreError, StoreErrorKind},
    plan,
};

/// What a work takes in the queue besides its bytes, about.
const WORK: u64 = 128;

/// How an [`EmbeddedStore`] uses memory and threads.
#[derive(Clone, Debug)]
pub struct EmbeddedOptions {
    /// redb's page cache, in bytes; half of it holds what a transaction writes. Default 40 MiB: a block
    /// up to nearly 20 MiB is held in the half until its commit; of a larger one (an engine takes 64 MiB unless
    /// told otherwise) pages are written before, just as safe.
    pub cache_bytes: usize,
    /// How many bytes of writes may wait for a commit; more wait before they are taken. Default 32 MiB.
    pub queue_bytes: u64,
    /// How many bytes of writes one transaction takes at most, a single larger batch aside. Default 8 MiB.
    pub commit_bytes: u64,
    /// Where blocking work runs. Default four [`Threads`].
    pub executor: Arc<dyn Executor>,
}

impl Default for EmbeddedOptions {
    fn default() -> Self {
        const MIB: usize = 1024 * 1024;
        Self {
            cache_bytes: 40 * MIB,
            queue_bytes: 32 * MIB as u64,
            commit_bytes: 8 * MIB as u64,
            executor: Arc::new(Threads::new(4)),
        }
    }
}

/// A store in one local file. Clones are the same handle.
///
/// [`close`](BlockStore::close) releases the file before it returns. After a mere drop of the last clone it is
/// released, and as safe, once work in progress has ended.
#[derive(Clone)]
pub struct EmbeddedStore {
    inner: Arc<Inner>,
}

struct Inner {
    joint: Arc<Joint>,
    committer: Arc<Committer>,
    executor: Arc<dyn Executor>,
    name: String,
}

impl EmbeddedStore {
    /// Makes a new store at `path`, readable by its owner alone. The file appears there once it is complete.
    ///
    /// # Errors
    /// `AlreadyExists` when there is anything at `path`; `ReadOnly`, `Full`, `Io`.
    pub fn create(path: impl AsRef<Path>, options: EmbeddedOptions) -> Result<Self, StoreError> {
        let path = path.as_ref();
        let failed = |error: io::Error| StoreError::from_io("creating the store's file", error).at(path);
        if path.symlink_metadata().is_ok() {
            return Err(StoreError::new(StoreErrorKind::AlreadyExists).at(path));
        }
        let folder = folder_of(path);
        let (file, unnamed) =
            tempfile::Builder::new().prefix(".new-store-").tempfile_in(folder).map_err(failed)?.into_parts();
        let layer: Arc<dyn FileLayer> = Arc::new(LockedFile::lock(file, path)?);
        let joint = Joint::create(layer.clone(), Some(path.to_owned()), options.cache_bytes)?;
        let store = Self::over(joint, options, path.display().to_string())?;
        layer.sync().map_err(failed)?;
        unnamed.persist_noclobber(path).map_err(|error| failed(error.error))?;
        sync_folder(folder).map_err(failed)?;
        Ok(store)
    }

    /// Opens the store at `path`, and recovers it if it was not closed.
    ///
    /// # Errors
    /// `NotFound`, `NotAStore`, `NewerFormat`, `Locked`, `ReadOnly`, `Corrupt`, `Full`, `Io`. Nothing was
    /// changed by the first four.
    pub fn open(path: impl AsRef<Path>, options: EmbeddedOptions) -> Result<Self, StoreError> {
        let path = path.as_ref();
        let layer: Arc<dyn FileLayer> = Arc::new(LockedFile::open(path)?);
        let joint = Joint::open(layer, Some(path.to_owned()), options.cache_bytes)?;
        Self::over(joint, options, path.display().to_string())
    }

    /// Makes a new store in an empty file of your own, which is locked already.
    ///
    /// # Errors
    /// `Full`, `Io`.
    pub fn create_on(layer: Arc<dyn FileLayer>, options: EmbeddedOptions) -> Result<Self, StoreError> {
        let name = format!("{layer:?}");
        Self::over(Joint::create(layer, None, options.cache_bytes)?, options, name)
    }

    /// Opens the store in a file of your own, which is locked already.
    ///
    /// # Errors
    /// `NotAStore`, `NewerFormat`, `Corrupt`, `Full`, `Io`.
    pub fn open_on(layer: Arc<dyn FileLayer>, options: EmbeddedOptions) -> Result<Self, StoreError> {
        let name = format!("{layer:?}");
        Self::over(Joint::open(layer, None, options.cache_bytes)?, options, name)
    }

    /// What the handle has done since it was opened.
    pub fn activity(&self) -> Activity {
        Activity {
            commits: self.inner.committer.commits(),
            syncs: self.inner.joint.counters().syncs.load(Ordering::Relaxed),
            panics_caught: self.inner.joint.caught(),
        }
    }

    fn over(joint: Joint, options: EmbeddedOptions, name: String) -> Result<Self, StoreError> {
        let joint = Arc::new(joint);
        let executor = options.executor;
        let committer =
            Committer::new(joint.clone(), executor.clone(), options.queue_bytes, options.commit_bytes)?;
        Ok(Self { inner: Arc::new(Inner { joint, committer: Arc::new(committer), executor, name }) })
    }

    /// Runs blocking work where it belongs.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Joint) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let joint = self.inner.joint.clone();
        // The handle on the file goes with the work: it is unlocked once the caller has let go of the store.
        executor::run(&*self.inner.executor, move || work(&joint))
            .await
            .map_err(|lost| StoreError::new(StoreErrorKind::Closed).caused_by(lost))?
    }

    async fn reading<T: Send + 'static>(
        &self,
        read: impl Fn(&Database) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.blocking(move |joint| joint.run(read)).await
    }
}

/// What a handle has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Activity {
    /// Transactions committed by writers.
    pub commits: u64,
    /// Successful syncs of the file.
    pub syncs: u64,
    /// Panics of redb that became errors.
    pub panics_caught: u64,
}

#[async_trait]
impl BlockStore for EmbeddedStore {
    async fn commit(&self, batch: Vec<BlockOp>) -> Result<Vec<Applied>, StoreError> {
        let Some(first) = batch.first() else { return Ok(Vec::new()) };
        let lane = Lane::Account(first.account());
        let mut bytes = 0;
        for op in &batch {
            bytes += WORK + op.id().as_bytes().len() as u64;
            if let Some((_, sealed)) = op.sealed() {
                tables::row_count(sealed.len() as u64)?;
                bytes += sealed.len() as u64;
            }
            plan::check(op)?;
            bytes += op.segment().map_or(0, |record| record.len() as u64);
        }
        match self.inner.committer.commit(lane, bytes, Work::Blocks(batch)).await? {
            Done::Blocks(applied) => Ok(applied),
            _ => Err(mixed_up()),
        }
    }

    async fn stat(&self, account: AccountId, id: &BlockId) -> Result<Option<Located>, StoreError> {
        let id = id.clone();
        self.reading(move |database| tables::stat(database, account, &id)).await
    }

    async fn fetch(&self, account: AccountId, id: &BlockId) -> Result<Option<(Located, Bytes)>, StoreError> {
        let id = id.clone();
        self.reading(move |database| tables::fetch(database, account, &id)).await
    }

    async fn read(
        &self,
        account: AccountId,
        id: &BlockId,
        of: &Located,
        ranges: &[Range<u64>],
    ) -> Result<Option<Vec<Bytes>>, StoreError> {
        let (id, of, ranges) = (id.clone(), *of, ranges.to_vec());
        self.reading(move |database| tables::read(database, account, &id, &of, &ranges)).await
    }

    async fn list(
        &self,
        account: AccountId,
        after: Option<&BlockId>,
        limit: usize,
    ) -> Result<Vec<(BlockId, Located)>, StoreError> {
        let after = after.cloned();
        self.reading(move |database| tables::list(database, account, after.as_ref(), limit)).await
    }

    async fn stored(
        &self,
        account: AccountId,
        after: Option<&BlockId>,
        limit: usize,
    ) -> Result<Vec<(BlockId, BlockMeta)>, StoreError> {
        let after = after.cloned();
        self.reading(move |database| tables::stored(database, account, after.as_ref(), limit)).await
    }

    async fn fetch_stored(
        &self,
        account: AccountId,
        id: &BlockId,
    ) -> Result<Option<(BlockMeta, Bytes)>, StoreError> {
        let id = id.clone();
        self.reading(move |database| tables::fetch_stored(database, account, &id)).await
    }

    async fn buffered(
        &self,
        account: AccountId,
        after: Option<&BlockId>,
        limit: usize,
    ) -> Result<Vec<(BlockId, BlockMeta)>, StoreError> {
        let after = after.cloned();
        self.reading(move |database| tables::buffered(database, account, after.as_ref(), limit)).await
    }

    async fn buffer_usage(&self, account: AccountId) -> Result<Option<BufferUsage>, StoreError> {
        self.reading(move |database| tables::buffer_usage(database, account)).await
    }

    async fn buffering(
        &self,
        after: Option<AccountId>,
        limit: usize,
    ) -> Result<Vec<(AccountId, BufferUsage)>, StoreError> {
        self.reading(move |database| tables::buffering(database, after, limit)).await
    }

    async fn segment(
        &self,
        account: AccountId,
        segment: SegmentId,
    ) -> Result<Option<SegmentRow>, StoreError> {
        self.reading(move |database| tables::segment(database, account, segment)).await
    }

    async fn segments(
        &self,
        account: AccountId,
        after: Option<SegmentId>,
        limit: usize,
    ) -> Result<Vec<(SegmentId, SegmentRow)>, StoreError> {
        self.reading(move |database| tables::segments(database, account, after, limit)).await
    }

    async fn replace_segment(
        &self,
        account: AccountId,
        segment: SegmentId,
        expected: &Bytes,
        new: Bytes,
    ) -> Result<bool, StoreError> {
        let bytes = WORK + new.len() as u64;
        let work = Work::ReplaceSegment { account, segment, expected: expected.clone(), new };
        match self.inner.committer.commit(Lane::Account(account), bytes, work).await? {
            Done::Replaced(replaced) => Ok(replaced),
            _ => Err(mixed_up()),
        }
    }

    async fn remove_blocks(&self, account: AccountId, limit: usize) -> Result<u64, StoreError> {
        let work = Work::Remove { account, limit };
        match self.inner.committer.commit(Lane::Account(account), WORK, work).await? {
            Done::Removed(removed) => Ok(removed),
            _ => Err(mixed_up()),
        }
    }

    /// Needs as much space beside the file as what is left in it takes, and for as long as it takes the memory of another
    /// page cache.
    async fn compact(&self) -> Result<(), StoreError> {
        self.inner.committer.compact().await
    }

    async fn last_version(&self) -> Result<Version, StoreError> {
        self.reading(tables::last_version).await
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.inner.committer.close().await;
        self.blocking(Joint::close).await
    }
}

#[async_trait]
impl Catalog for EmbeddedStore {
    async fn load(&self, key: &str) -> Result<Option<Stored>, StoreError> {
        let key = key.to_owned();
        self.reading(move |database| tables::load(database, &key)).await
    }

    async fn swap(
        &self,
        key: &str,
        expected: Option<&Revision>,
        new: Option<Bytes>,
    ) -> Result<Option<Revision>, StoreError> {
        let bytes = WORK + key.len() as u64 + new.as_ref().map_or(0, |new| new.len() as u64);
        let work = Work::Swap { key: key.to_owned(), expected: expected.cloned(), new };
        match self.inner.committer.commit(Lane::Catalog, bytes, work).await? {
            Done::Swap(revision) => Ok(revision),
            _ => Err(mixed_up()),
        }
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Stored)>, StoreError> {
        let (prefix, after) = (prefix.to_owned(), after.map(str::to_owned));
        self.reading(move |database| tables::list_records(database, &prefix, after.as_deref(), limit)).await
    }

    fn is_shared(&self) -> bool {
        false
    }
}

impl fmt::Debug for EmbeddedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EmbeddedStore({})", self.inner.name)
    }
}

fn mixed_up() -> StoreError {
    StoreError::new(StoreErrorKind::Io).with_detail("answers were mixed up")
}
