//! An object store that seals what is written through it, and opens what is read.
//!
//! [`EncryptedObjectStore`] stands before any other `object_store::ObjectStore` and is one itself: whatever is built on that
//! trait has its data under its customer's key, by being given this store in place of its own.
//!
//! Guarantees: every object is one sealed block of format 1, under the key of its path's account, bound to that path: moved,
//! swapped, cut off or changed, it does not open. Sizes, ranges, conditions, attributes, tags and errors are as without it, of
//! the plaintext. It obeys the life cycle of the account's key: an outage is bridged by grace and then an error, a revocation is
//! an error at once, also in mid-stream. Memory is bounded by pages and parts, not by objects. No way around it is offered: no
//! signed URLs, no raw parts.
//!
//! What stays visible to who sees the store: names, lengths (to the byte), times, attributes, tags, which objects are written
//! together, and of each the epoch of its key. What it can't tell: that an object was put back as it was earlier at that path, or
//! was deleted: there is no catalog here that knows better. A range does not prove the object's length. An object holds at
//! most 64 GiB, and its path at most 1,024 bytes. An account whose AEK is rotated keeps the earlier ones for its objects, also
//! where its blocks are sealed anew; a copy of an object onto itself brings it under the newest. The folder `.cofferdam/` is the store's own and hidden.
//!
//! Not its job: to buffer what is written in an outage (the engine's own blocks are; here the caller gets the error and knows),
//! to keep the names secret, or to be fast where the store below is slow.

mod accounts;
mod copy;
mod error;
mod get;
mod headers;
mod marker;
mod pages;
mod put;
mod ranges;
mod upload;

use std::{fmt, ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use cofferdam_crypto::{BlockId, PageSize, Version, plaintext_len};
use futures_util::{StreamExt, TryStreamExt, future::ready, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, path::Path,
};

pub use accounts::Accounts;
pub use error::EncryptedError;
use headers::Headers;

use crate::Account;

/// The version that objects are sealed for. The engine gives it to no block, so neither opens as the other.
const VERSION: Version = Version::new(0);
/// The smallest part that stores take, but for the last.
const MIN_PART: usize = 5 << 20;
const MAX_PART: usize = 1 << 30;

/// How a store is set up.
#[derive(Clone, Copy, Debug)]
pub struct EncryptedOptions {
    /// How much plaintext a page of a new store holds; an existing one keeps its own. A range costs whole pages. 64 KiB.
    pub page_size: PageSize,
    /// The size of an upload's parts as the store below gets them, in bytes: 5 MiB to 1 GiB. An upload holds one such, beside
    /// those that are under way. S3 takes 10,000 parts of an object. 8 MiB.
    pub part_size: usize,
}

impl Default for EncryptedOptions {
    fn default() -> Self {
        Self { page_size: PageSize::DEFAULT, part_size: 8 << 20 }
    }
}

/// An object store whose objects are sealed in another one. Cheap to clone.
///
/// ```no_run
/// # use std::sync::Arc;
/// # use cofferdam_store::{Engine, AccountName, encrypted::EncryptedObjectStore};
/// # use object_store::{ObjectStore, ObjectStoreExt, path::Path};
/// # async fn example(engine: Engine, s3: Arc<dyn ObjectStore>) -> Result<(), Box<dyn std::error::Error>> {
/// let account = engine.account(&AccountName::new("contoso")?).await?;
/// let store = EncryptedObjectStore::open(s3, account).await?;
/// store.put(&Path::from("report.csv"), "a,b\n1,2\n".into()).await?;
/// assert_eq!(store.get(&Path::from("report.csv")).await?.bytes().await?, "a,b\n1,2\n");
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct EncryptedObjectStore {
    shared: Arc<Shared>,
}

struct Shared {
    store: Arc<dyn ObjectStore>,
    accounts: Accounts,
    page_size: PageSize,
    part_size: usize,
    headers: Headers,
}

impl EncryptedObjectStore {
    /// Opens the store, which becomes an encrypted one if it is not one yet. Needs no key.
    ///
    /// # Errors
    /// What the store says; [`EncryptedError::NotOurs`] and [`EncryptedError::Newer`] of its marker.
    pub async fn open(store: Arc<dyn ObjectStore>, accounts: impl Into<Accounts>) -> Result<Self> {
        Self::open_with(store, accounts, EncryptedOptions::default()).await
    }

    /// The same, set up otherwise.
    ///
    /// # Errors
    /// As [`Self::open`]; [`EncryptedError::BadSetting`].
    pub async fn open_with(
        store: Arc<dyn ObjectStore>,
        accounts: impl Into<Accounts>,
        options: EncryptedOptions,
    ) -> Result<Self> {
        let EncryptedOptions { page_size, part_size } = options;
        if !(MIN_PART..=MAX_PART).contains(&part_size) {
            let (given, allowed) = (part_size.to_string(), "5 MiB to 1 GiB, in bytes");
            return Err(EncryptedError::BadSetting { setting: "part_size", given, allowed }.into());
        }
        let (accounts, headers) = (accounts.into(), Headers::default());
        let page_size = marker::open(&store, page_size).await?;
        // Before anything is sealed: an operation must not destroy what it could need.
        for (prefix, account) in accounts.all() {
            account.note_objects().await.map_err(|e| EncryptedError::key(prefix, e))?;
        }
        Ok(Self { shared: Arc::new(Shared { store, accounts, page_size, part_size, headers }) })
    }

    /// How much plaintext its pages hold.
    pub fn page_size(&self) -> PageSize {
        self.shared.page_size
    }
}

impl Shared {
    /// Refuses a path of the store's own.
    fn own(&self, path: &Path) -> Result<()> {
        if is_hidden(path) { Err(EncryptedError::Reserved { path: path.clone() }.into()) } else { Ok(()) }
    }

    /// Finds nothing at a path of the store's own.
    fn find(&self, path: &Path) -> Result<()> {
        self.own(path).map_err(|e| Error::NotFound { path: path.to_string(), source: e.into() })
    }

    fn account(&self, path: &Path) -> Result<&Account> {
        let none = || EncryptedError::NoAccount { path: path.clone() };
        Ok(self.accounts.of(path).ok_or_else(none)?)
    }

    /// What an object of this path is bound to.
    fn id(&self, path: &Path) -> Result<BlockId> {
        let unnameable = |source| EncryptedError::Unnameable { path: path.clone(), source };
        Ok(BlockId::new(path.as_ref()).map_err(unnameable)?)
    }

    fn plaintext_len(&self, path: &Path, stored: u64) -> Result<u64> {
        let not = |e| EncryptedError::NotEncrypted { path: path.clone(), reason: format!("{e}") };
        Ok(plaintext_len(stored, self.page_size).map_err(not)?)
    }
}

fn is_hidden(path: &Path) -> bool {
    path.parts().next().is_some_and(|part| part.as_ref() == marker::FOLDER)
}

/// An object as a list shows it; none of the store's own. What can't be a sealed object is shown as long as it is, so that it
/// can be found and deleted; reading it is refused.
fn listed(meta: ObjectMeta, page_size: PageSize) -> Option<ObjectMeta> {
    let size = plaintext_len(meta.size, page_size).unwrap_or(meta.size);
    (!is_hidden(&meta.location)).then_some(ObjectMeta { size, ..meta })
}

fn all_listed(
    list: BoxStream<'static, Result<ObjectMeta>>,
    page_size: PageSize,
) -> BoxStream<'static, Result<ObjectMeta>> {
    list.try_filter_map(move |meta| ready(Ok(listed(meta, page_size)))).boxed()
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ObjectStore for EncryptedObjectStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.shared.put(location, payload, opts).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.shared.own(location)?;
        Ok(Box::new(self.shared.upload(location, location, opts).await?))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.shared.get(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.shared.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let shared = self.shared.clone();
        let locations = locations.map(move |location| {
            let location = location?;
            shared.own(&location)?;
            shared.headers.forget(&location);
            Ok(location)
        });
        self.shared.store.delete_stream(locations.boxed())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        all_listed(self.shared.store.list(prefix), self.shared.page_size)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        all_listed(self.shared.store.list_with_offset(prefix, offset), self.shared.page_size)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let ListResult { common_prefixes, objects, extensions } =
            self.shared.store.list_with_delimiter(prefix).await?;
        let objects = objects.into_iter().filter_map(|meta| listed(meta, self.shared.page_size)).collect();
        let common_prefixes = common_prefixes.into_iter().filter(|prefix| !is_hidden(prefix)).collect();
        Ok(ListResult { common_prefixes, objects, extensions })
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.shared.copy(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.shared.rename(from, to, options).await
    }
}

impl fmt::Display for EncryptedObjectStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EncryptedObjectStore({})", self.shared.store)
    }
}

impl fmt::Debug for EncryptedObjectStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { store, accounts, page_size, part_size, .. } = &*self.shared;
        f.debug_struct("EncryptedObjectStore")
            .field("store", store)
            .field("accounts", accounts)
            .field("page_size", page_size)
            .field("part_size", part_size)
            .finish_non_exhaustive()
    }
}
