//! Records in an object store, under conditional puts.
//!
//! Guarantees: those of [`Catalog`], for any number of handles and processes over one store and prefix. A swap is one
//! conditional put. Where its answer was lost (the client sent it again and sees its own write as another's; it timed
//! out after it was done; the connection was cut), it is sent again, which does nothing if it was done, and then what is
//! stored tells whether it was: [`History`] says why that is never a guess. Where it can't be told, the error says
//! "unknown outcome".
//!
//! - `Conflict`: the swap was not done, and never will be.
//! - `Invalid`, `TooLarge`: nothing was sent.
//! - Any other error of a swap: it may have been done, or may yet be.
//!
//! A store's delete has no condition, so a removal writes a small object that reads as no record. It stays: a late create
//! of somebody who saw no record before must find it. So a key costs one object for ever, whether or not it has a record.
//!
//! Not its job: whether the records are authentic; to make a store strongly consistent that is not.

use std::{collections::BTreeMap, fmt, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use cofferdam_vault::Entropy;
use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::{ObjectStore, PutMode, path::Path};
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::{
    history::{Body, History, Known, Told, Unreadable, Writer, is_removal},
    names::Names,
    probe,
    requests::{Failure, Object, RequestOptions, Requests},
};
use crate::{
    catalog::{Catalog, Revision, Stored},
    error::{StoreError, StoreErrorKind},
};

/// How many objects are read at once for one page of a list.
const READS: usize = 16;

/// Records in an object store, shared by whoever opens it there. Clones are the same handle.
#[derive(Clone)]
pub struct ObjectCatalog {
    requests: Requests,
    names: Names,
    /// This handle among all that write; it has at most one writing of a key under way.
    writer: Writer,
    writing: Arc<std::sync::Mutex<BTreeMap<Path, Arc<Mutex<()>>>>>,
    is_ordered: bool,
}

/// A record's object, read.
struct Found {
    known: Known,
    record: Option<Bytes>,
}

/// What came of a conditional put.
enum Put {
    Done(Known),
    /// It was not done, and never will be: this is there.
    Refused(Found),
}

impl ObjectCatalog {
    /// The catalog below a prefix of a store, which is tried first: a store that can't replace an object only if it is
    /// unchanged can't keep a catalog. Random ids come from `entropy`, which must not repeat itself.
    ///
    /// # Errors
    /// `Unsupported` for such a store; `NotFound` where there is no bucket or container; `ReadOnly`, `Invalid`, `Io`.
    pub async fn open(
        store: Arc<dyn ObjectStore>,
        prefix: Path,
        entropy: Arc<dyn Entropy>,
        options: RequestOptions,
    ) -> Result<Self, StoreError> {
        let requests = Requests { store, entropy, options };
        let names = Names::below(&prefix);
        let writer = requests.draw()?;
        let is_ordered = probe::try_store(&requests, &names).await?;
        Ok(Self { requests, names, writer, writing: Arc::default(), is_ordered })
    }

    /// Waits until this handle's earlier writing of this object has ended.
    async fn lock(&self, at: &Path) -> Locked {
        let lock = self.locks().entry(at.clone()).or_default().clone();
        Locked { guard: Some(lock.lock_owned().await), at: at.clone(), of: self.clone() }
    }

    fn locks(&self) -> std::sync::MutexGuard<'_, BTreeMap<Path, Arc<Mutex<()>>>> {
        self.writing.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    async fn read(&self, at: &Path) -> Result<Option<Found>, StoreError> {
        self.requests.get(at).await?.map(|object| found(at, object)).transpose()
    }

    /// Makes a record where there is none.
    async fn create(&self, at: &Path, record: Bytes) -> Result<Revision, StoreError> {
        let history = History::of_first(self.writer, self.requests.draw()?);
        match self.put(at, PutMode::Create, history, Some(&record)).await? {
            Put::Done(known) => Ok(known.revision()),
            Put::Refused(Found { record: Some(_), .. }) => Err(conflict(at)),
            Put::Refused(Found { known, record: None }) => self.replace(at, &known, Some(&record)).await,
        }
    }

    /// Replaces the writing that is known.
    async fn replace(
        &self,
        at: &Path,
        known: &Known,
        record: Option<&Bytes>,
    ) -> Result<Revision, StoreError> {
        // What is known to be overwritten can't be replaced.
        let Some(version) = known.version.clone() else { return Err(conflict(at)) };
        let history = known.history.next(self.writer, self.requests.draw()?);
        match self.put(at, PutMode::Update(version), history, record).await? {
            Put::Done(known) => Ok(known.revision()),
            Put::Refused(_) => Err(conflict(at)),
        }
    }

    /// Puts until it is known what came of it.
    async fn put(
        &self,
        at: &Path,
        mode: PutMode,
        history: History,
        record: Option<&Bytes>,
    ) -> Result<Put, StoreError> {
        let body = Body::encode(&history, record);
        let mut attempts = self.requests.attempts();
        loop {
            let failure = match self.requests.put(at, mode.clone(), body.clone()).await {
                Ok(version) => return Ok(Put::Done(Known { history, version: Some(version) })),
                Err(failure) => failure,
            };
            // What was not refused is simply sent again: if it was done, that is refused.
            let is_answer = failure.is_refusal() || matches!(failure, Failure::Nonsense(_));
            if is_answer && let Some(put) = self.settle(at, &history).await? {
                return Ok(put);
            }
            attempts.again(failure).await.map_err(|failure| failure.writing(at))?;
        }
    }

    /// What came of a writing, by what is stored; `None` where it may yet be done.
    async fn settle(&self, at: &Path, sent: &History) -> Result<Option<Put>, StoreError> {
        let Some(found) = self.read(at).await.map_err(|error| unknown(at).caused_by(error))? else {
            return Ok(None);
        };
        match found.known.history.tells(sent) {
            Told::Current => Ok(Some(Put::Done(found.known))),
            Told::Overwritten => Ok(Some(Put::Done(Known { history: sent.clone(), version: None }))),
            Told::Never => Ok(Some(Put::Refused(found))),
            Told::NotYet => Ok(None),
            Told::Forgotten => Err(unknown(at)),
        }
    }

    /// The names of the next records, without those that are known to be removed.
    async fn names_after(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Path)>, StoreError> {
        let folder = self.names.folder(prefix)?;
        let offset = self.names.offset(prefix, after)?;
        let mut attempts = self.requests.attempts();
        loop {
            let listed = if self.is_ordered {
                self.listed(&folder, &offset, prefix, after, limit).await
            } else {
                self.listed_unordered(&folder, prefix, after, limit).await
            };
            match listed {
                Ok(names) => return Ok(names),
                Err(failure) => attempts.again(failure).await.map_err(|failure| failure.listing(&folder))?,
            }
        }
    }

    async fn listed(
        &self,
        folder: &Path,
        offset: &Path,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Path)>, Failure> {
        let mut objects = self.requests.store.list_with_offset(Some(folder), offset);
        let (mut names, mut last) = (Vec::new(), Path::ROOT);
        while names.len() < limit
            && let Some(object) = self.requests.in_time(objects.try_next()).await?
        {
            if object.location <= last {
                return Err(Failure::Nonsense(
                    "the store listed names that are not in the order of their bytes",
                ));
            }
            last = object.location.clone();
            let Some(key) = self.names.key(&object.location) else { continue };
            if !key.starts_with(prefix) {
                if key > prefix {
                    break;
                }
                continue;
            }
            if after.is_none_or(|after| key > after) && !is_removal(object.size) {
                names.push((key.to_owned(), object.location));
            }
        }
        Ok(names)
    }

    async fn listed_unordered(
        &self,
        folder: &Path,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Path)>, Failure> {
        let mut objects = self.requests.store.list(Some(folder));
        let mut names = BTreeMap::new();
        while let Some(object) = self.requests.in_time(objects.try_next()).await? {
            let Some(key) = self.names.key(&object.location) else { continue };
            let is_next = key.starts_with(prefix) && after.is_none_or(|after| key > after);
            if is_next && !is_removal(object.size) {
                names.insert(key.to_owned(), object.location);
                if names.len() > limit {
                    names.pop_last();
                }
            }
        }
        Ok(names.into_iter().collect())
    }
}

#[async_trait]
impl Catalog for ObjectCatalog {
    async fn load(&self, key: &str) -> Result<Option<Stored>, StoreError> {
        Ok(self.read(&self.names.record(key)?).await?.and_then(stored))
    }

    async fn swap(
        &self,
        key: &str,
        expected: Option<&Revision>,
        new: Option<Bytes>,
    ) -> Result<Option<Revision>, StoreError> {
        let at = self.names.record(key)?;
        let _lock = self.lock(&at).await;
        match (expected, new) {
            (None, None) => match self.read(&at).await?.and_then(stored) {
                None => Ok(None),
                Some(_) => Err(conflict(&at)),
            },
            (None, Some(new)) => Ok(Some(self.create(&at, new).await?)),
            (Some(expected), new) => {
                let known = Known::parse(expected).ok_or_else(|| conflict(&at))?;
                let revision = self.replace(&at, &known, new.as_ref()).await?;
                Ok(new.map(|_| revision))
            }
        }
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Stored)>, StoreError> {
        let mut records = Vec::new();
        let mut after = after.map(str::to_owned);
        while records.len() < limit {
            let wanted = limit - records.len();
            let names = self.names_after(prefix, after.as_deref(), wanted).await?;
            let is_end = names.len() < wanted;
            after = names.last().map(|(key, _)| key.clone());
            let reads: Vec<_> = names
                .into_iter()
                .map(|(key, at)| async move { Ok::<_, StoreError>((key, self.read(&at).await?)) })
                .collect();
            let mut reads = stream::iter(reads).buffered(READS);
            while let Some((key, found)) = reads.try_next().await? {
                records.extend(found.and_then(stored).map(|stored| (key, stored)));
            }
            if is_end {
                break;
            }
        }
        Ok(records)
    }

    /// Deletes the objects that removals left.
    async fn clear_removed(&self, prefix: &str) -> Result<(), StoreError> {
        let folder = self.names.folder(prefix)?;
        let failed = |failure: Failure| failure.listing(&folder);
        let (mut objects, mut removed) = (self.requests.store.list(Some(&folder)), Vec::new());
        while let Some(object) = self.requests.in_time(objects.try_next()).await.map_err(failed)? {
            let is_of = self.names.key(&object.location).is_some_and(|key| key.starts_with(prefix));
            if is_of && is_removal(object.size) {
                removed.push(Ok(object.location));
            }
        }
        let mut deleted = self.requests.store.delete_stream(stream::iter(removed).boxed());
        loop {
            match self.requests.in_time(deleted.try_next()).await {
                Ok(Some(_)) | Err(Failure::Store(object_store::Error::NotFound { .. })) => {}
                Ok(None) => return Ok(()),
                Err(failure) => return Err(failure.writing(&folder)),
            }
        }
    }
}

impl fmt::Debug for ObjectCatalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ObjectCatalog({}, {:?})", self.requests.store, self.names)
    }
}

/// The right to write an object, until it is dropped.
struct Locked {
    guard: Option<OwnedMutexGuard<()>>,
    at: Path,
    of: ObjectCatalog,
}

impl Drop for Locked {
    fn drop(&mut self) {
        let mut locks = self.of.locks();
        drop(self.guard.take());
        // Whoever waits for it has a clone of it.
        if locks.get(&self.at).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            locks.remove(&self.at);
        }
    }
}

fn found(at: &Path, object: Object) -> Result<Found, StoreError> {
    let body = Body::decode(&object.bytes).map_err(|why| match why {
        Unreadable::Newer { found, supported } => {
            let kind = StoreErrorKind::NewerFormat { found: found.into(), supported: supported.into() };
            StoreError::new(kind).with_detail(format!("the record in {at}"))
        }
        Unreadable::Damaged => StoreError::new(StoreErrorKind::Corrupt)
            .with_detail(format!("the {} bytes of {at} are no record", object.bytes.len())),
    })?;
    Ok(Found { known: Known { history: body.history, version: Some(object.version) }, record: body.record })
}

fn stored(found: Found) -> Option<Stored> {
    let revision = found.known.revision();
    found.record.map(|bytes| Stored { bytes, revision })
}

fn conflict(at: &Path) -> StoreError {
    StoreError::new(StoreErrorKind::Conflict).with_detail(format!("the record in {at}"))
}

fn unknown(at: &Path) -> StoreError {
    let detail = format!("unknown outcome: writing {at} was not confirmed and may have been done");
    StoreError::new(StoreErrorKind::Io).with_detail(detail)
}
