//! What is done alike with rows of the catalog, whatever they say.
//!
//! Not its job: what is decided by what a row says, which is a compare-and-swap of its own.

use bytes::Bytes;

use crate::{Catalog, StoreError, StoreErrorKind, Stored};

/// How many rows are read at once.
pub(super) const PAGE: usize = 256;

/// Every row whose key begins so, in the order of the keys' bytes.
pub(super) async fn under(catalog: &dyn Catalog, prefix: &str) -> Result<Vec<(String, Stored)>, StoreError> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let rows = catalog.list(prefix, after.as_deref(), PAGE).await?;
        let Some((last, _)) = rows.last() else { return Ok(all) };
        after = Some(last.clone());
        all.extend(rows);
    }
}

/// Writes a row, whatever was there.
pub(super) async fn put(catalog: &dyn Catalog, key: &str, bytes: Bytes) -> Result<(), StoreError> {
    loop {
        let revision = catalog.load(key).await?.map(|stored| stored.revision);
        match catalog.swap(key, revision.as_ref(), Some(bytes.clone())).await {
            Ok(_) => return Ok(()),
            // Also one's own, where the answer to the swap was lost.
            Err(e) if e.kind() == StoreErrorKind::Conflict => {}
            Err(e) => return Err(e),
        }
    }
}

/// Removes a row. Whether there was one.
pub(super) async fn remove(catalog: &dyn Catalog, key: &str) -> Result<bool, StoreError> {
    loop {
        let Some(stored) = catalog.load(key).await? else { return Ok(false) };
        match catalog.swap(key, Some(&stored.revision), None).await {
            Ok(_) => return Ok(true),
            Err(e) if e.kind() == StoreErrorKind::Conflict => {}
            Err(e) => return Err(e),
        }
    }
}
