//! Writing rows from what they were when they were read, by somebody who decides upon several of them at once.
//!
//! Guarantees: those of a [`Transaction`](super::Transaction); no row is read to write it, so that one write of one row is one
//! swap.

use bytes::Bytes;

use super::{
    cell::{Cell, State},
    commit::{Change, conflict},
    rows::{Loaded, Rows, Swapped},
};
use crate::{Revision, StoreError, Stored};

/// What is to become of one row.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    pub(crate) key: String,
    /// As it was read; `None`: there was none.
    pub(crate) was: Option<Stored>,
    /// `None` removes it.
    pub(crate) new: Option<Bytes>,
}

impl Rows {
    /// A row, to write it later from what it is now.
    ///
    /// # Errors
    /// Those of [`Rows::load`]; those of a swap where a transaction that was left has to be ended.
    pub(crate) async fn stored(&self, key: &str) -> Result<Option<Stored>, StoreError> {
        let Loaded { value, revision } = self.plain(key).await?;
        Ok(value.zip(revision).map(|(bytes, revision)| Stored { bytes, revision }))
    }

    /// The next `limit` rows whose keys begin with `prefix` and come after `after`, in the order of the keys' bytes, to write
    /// them later from what they are now.
    ///
    /// # Errors
    /// Those of [`Rows::list`] and [`Rows::stored`].
    pub(crate) async fn stored_list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Stored)>, StoreError> {
        let mut rows = Vec::new();
        let mut after = after.map(str::to_owned);
        while rows.len() < limit {
            let wanted = limit - rows.len();
            let page = self.catalog.list(prefix, after.as_deref(), wanted).await?;
            let is_end = page.len() < wanted;
            after = page.last().map(|(last, _)| last.clone());
            for (key, Stored { bytes, revision }) in page {
                let row = match Cell::decode(&key, &bytes)? {
                    Cell { value, state: State::Plain } => value.map(|bytes| Stored { bytes, revision }),
                    _ => self.stored(&key).await?,
                };
                rows.extend(row.map(|row| (key, row)));
            }
            if is_end {
                break;
            }
        }
        Ok(rows)
    }

    /// Writes all of the rows or none; their new revisions, where they are known.
    ///
    /// # Errors
    /// `Conflict`: one is not as it was read, and nothing was or will be written. After any other failure all may have been
    /// written, or none.
    pub(crate) async fn write(&self, mut writes: Vec<Write>) -> Result<Vec<Option<Revision>>, StoreError> {
        let count = writes.len();
        if count == 1
            && let Some(Write { key, was, new }) = writes.pop()
        {
            let revision = was.as_ref().map(|was| &was.revision);
            let swapped = self.swap(&key, revision, Cell::plain(new)).await?;
            let Swapped(revision) = swapped.ok_or_else(|| conflict(&key))?;
            return Ok(vec![revision]);
        }
        let mut changes = writes.into_iter().map(|Write { key, was, new }| {
            let (value, revision) = was.map(|was| (was.bytes, was.revision)).unzip();
            Change { key, was: Loaded { value, revision }, new }
        });
        if let Some(primary) = changes.next() {
            self.change_all(primary, changes.collect()).await?;
        }
        Ok(vec![None; count])
    }
}
