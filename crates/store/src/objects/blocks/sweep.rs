//! Deleting objects that no row names, and everything of an account.
//!
//! Guarantees: an object is deleted only once no row will ever name it. Of one that its writer has left behind that is certain at
//! once. Of one that nobody is known to be done with, it is when it is older than a write may be under way, by the store's own
//! time: neither its version nor its block's row can tell, since a later write may be deleted and the earlier one land after that.
//!
//! Deletions can be repeated; one that fails is tried again by this handle, and by any compaction later.

use std::{collections::BTreeSet, sync::PoisonError};

use bytes::Bytes;
use cofferdam_crypto::{AccountId, BlockId};
use futures_util::{StreamExt, TryStreamExt, future::try_join_all, stream};
use object_store::{Error, ObjectMeta, ObjectStoreExt, path::Path};

use super::{
    super::transaction::Write,
    AT_ONCE, Inner, PAGE, failed,
    names::{Purpose, Tail, block_of, blocks_of, buffered_of, segments_of, usage_key},
    random,
    rows::BlockRow,
};
use crate::{Applied, BlockMeta, BlockOp, StoreError, StoreErrorKind, Stored};

/// How many objects that could not be deleted are remembered.
const DOOMED: usize = 4096;
/// How many of them are tried again with others.
const AGAIN: usize = 16;
/// How many objects are looked at and deleted at once.
const SWEPT: usize = 256;

impl Inner {
    /// Deletes objects that no row will ever name, as far as it can now.
    pub(super) async fn forget(&self, mut objects: Vec<Path>) {
        if objects.is_empty() {
            return;
        }
        objects.extend(self.doomed(AGAIN));
        if let Err((left, _)) = self.delete(objects).await {
            let mut doomed = self.doomed.lock().unwrap_or_else(PoisonError::into_inner);
            doomed.extend(left);
            let over = doomed.len().saturating_sub(DOOMED);
            doomed.drain(..over);
        }
    }

    fn doomed(&self, limit: usize) -> Vec<Path> {
        let mut doomed = self.doomed.lock().unwrap_or_else(PoisonError::into_inner);
        let some = doomed.len().min(limit);
        doomed.drain(..some).collect()
    }

    /// Deletes objects, whether or not they are there; which ones may be left, and why.
    async fn delete(&self, objects: Vec<Path>) -> Result<(), (Vec<Path>, Error)> {
        let mut left: BTreeSet<Path> = objects.into_iter().collect();
        let stream = stream::iter(left.iter().cloned().map(Ok).collect::<Vec<_>>()).boxed();
        let mut done = self.store.delete_stream(stream);
        let mut failure = None;
        loop {
            match self.in_time(done.try_next()).await {
                Ok(Some(object)) => drop(left.remove(&object)),
                Ok(None) => break,
                Err(Error::NotFound { .. }) => {}
                Err(e) => {
                    failure = Some(e);
                    break;
                }
            }
        }
        match failure {
            Some(e) => Err((left.into_iter().collect(), e)),
            None => Ok(()),
        }
    }

    async fn delete_all(&self, objects: Vec<Path>) -> Result<(), StoreError> {
        self.delete(objects).await.map_err(|(_, e)| failed("deleting an object", e))
    }

    pub(super) async fn compact(&self) -> Result<(), StoreError> {
        self.delete_all(self.doomed(usize::MAX)).await?;
        let now = self.written_now().await?;
        let mut found = self.store.list(Some(self.places.all())).try_chunks(SWEPT);
        while let Some(objects) = found.next().await {
            let objects = objects.map_err(|e| failed("listing objects", e.1))?;
            let is_old = |object: &ObjectMeta| {
                let age = now.last_modified.signed_duration_since(object.last_modified).to_std();
                age.is_ok_and(|age| age >= self.orphan_age)
            };
            let old: Vec<Path> = objects.into_iter().filter(is_old).map(|object| object.location).collect();
            let mut orphans = Vec::new();
            for objects in old.chunks(AT_ONCE) {
                let named = try_join_all(objects.iter().map(|object| self.is_named(object))).await?;
                orphans
                    .extend(objects.iter().zip(named).filter(|(_, named)| !named).map(|(of, _)| of.clone()));
            }
            self.delete_all(orphans).await?;
        }
        Ok(())
    }

    /// Whether a row names this object, or it is not ours.
    async fn is_named(&self, object: &Path) -> Result<bool, StoreError> {
        match self.places.purpose(object) {
            Some(Purpose::Block { account, id, version, tail }) => {
                let row = self.row(account, &id).await?.value;
                Ok(row.all().any(|placed| placed.tail == tail && placed.meta.version == version))
            }
            Some(Purpose::Time) => Ok(false),
            None => Ok(true),
        }
    }

    /// An object that was written just now: only the store's own time says how old others are.
    async fn written_now(&self) -> Result<ObjectMeta, StoreError> {
        let object = self.places.of_time(Tail(random(&*self.entropy)?));
        self.create(&object, Bytes::new()).await.map_err(|e| failed("asking the store's time", e))?;
        let met =
            self.in_time(self.store.head(&object)).await.map_err(|e| failed("asking the store's time", e));
        self.forget(vec![object]).await;
        met
    }

    pub(super) async fn remove_blocks(&self, account: AccountId, limit: usize) -> Result<u64, StoreError> {
        let limit = limit.max(1);
        let mut removed = self.remove_stored(account, limit).await?;
        if removed < limit {
            removed += self.remove_buffered(account, limit - removed).await?;
        }
        if removed == 0 {
            removed = self.remove_rest(account).await?;
        }
        if removed == 0 {
            let object = self.places.of_account(account);
            let mut found = self.store.list(Some(&object)).try_chunks(PAGE);
            while let Some(objects) = found.next().await {
                let objects = objects.map_err(|e| failed("listing objects", e.1))?;
                self.delete_all(objects.into_iter().map(|object| object.location).collect()).await?;
            }
            // Its id is never given to another, so nobody writes there again.
            for prefix in [blocks_of(account), buffered_of(account), segments_of(account), usage_key(account)]
            {
                self.catalog.clear_removed(&prefix).await?;
            }
        }
        Ok(removed as u64)
    }

    /// Removes what the store proper has of an account's first blocks.
    async fn remove_stored(&self, account: AccountId, limit: usize) -> Result<usize, StoreError> {
        let prefix = blocks_of(account);
        let (mut removed, mut after) = (0, None::<String>);
        while removed < limit {
            let wanted = PAGE.min(limit - removed);
            let rows = self.rows.stored_list(&prefix, after.as_deref(), wanted).await?;
            let is_end = rows.len() < wanted;
            after = rows.last().map(|(last, _)| last.clone());
            for rows in rows.chunks(AT_ONCE) {
                let gone = try_join_all(rows.iter().map(|row| self.remove_stored_of(account, &prefix, row)));
                let gone: Vec<Option<Path>> = gone.await?.into_iter().flatten().collect();
                removed += gone.len();
                self.forget(gone.into_iter().flatten().collect()).await;
            }
            if is_end {
                break;
            }
        }
        Ok(removed)
    }

    /// Takes what is stored out of a row, and the row away if nothing is left. What does not read goes whole. `None`: nothing was
    /// stored, or somebody else changed it.
    async fn remove_stored_of(
        &self,
        account: AccountId,
        prefix: &str,
        (key, was): &(String, Stored),
    ) -> Result<Option<Option<Path>>, StoreError> {
        let (mut object, mut left) = (None, None);
        if let (Ok(id), Ok(row)) = (block_of(prefix, key), BlockRow::decode(&was.bytes)) {
            let Some(placed) = row.stored else { return Ok(None) };
            self.hints.note(&(account, id.clone()), None);
            object = Some(placed.object(&self.places, account, &id));
            left = BlockRow { stored: None, ..row }.encode();
        }
        let gone = self.swap(key, was, left).await?;
        Ok(gone.then_some(object))
    }

    /// Removes an account's first buffered blocks.
    async fn remove_buffered(&self, account: AccountId, limit: usize) -> Result<usize, StoreError> {
        let mut removed = 0;
        while removed < limit {
            let some = self.buffered(account, None, AT_ONCE.min(limit - removed)).await?;
            if some.is_empty() {
                break;
            }
            let discard =
                |(id, meta): (BlockId, BlockMeta)| BlockOp::Discard { account, id, version: meta.version };
            let applied = self.commit(some.into_iter().map(discard).collect()).await?;
            removed += applied.iter().filter(|applied| **applied == Applied::Deleted).count();
        }
        Ok(removed)
    }

    /// Removes rows of an account that are there and belong to nothing.
    async fn remove_rest(&self, account: AccountId) -> Result<usize, StoreError> {
        let mut rows = Vec::new();
        for prefix in [buffered_of(account), segments_of(account)] {
            rows.extend(self.rows.stored_list(&prefix, None, PAGE).await?);
        }
        let key = usage_key(account);
        rows.extend(self.rows.stored(&key).await?.map(|was| (key, was)));
        let mut removed = 0;
        for (key, was) in rows {
            removed += usize::from(self.swap(&key, &was, None).await?);
        }
        Ok(removed)
    }

    /// Writes one row, if it is as it was read.
    async fn swap(&self, key: &str, was: &Stored, new: Option<Bytes>) -> Result<bool, StoreError> {
        let write = Write { key: key.to_owned(), was: Some(was.clone()), new };
        match self.rows.write(vec![write]).await {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == StoreErrorKind::Conflict => Ok(false),
            Err(e) => Err(e),
        }
    }
}
