//! Small records that change under compare-and-swap: accounts, wrapped keys, operations.
//!
//! Guarantees that every implementation gives: a swap is durable before it returns, and of two swaps that
//! expect the same revision one fails with `Conflict`, also between nodes that share the catalog.
//!
//! Not its job: what the records say, or whether they are authentic.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::StoreError;

/// Keeps records under compare-and-swap.
#[async_trait]
pub trait Catalog: fmt::Debug + Send + Sync {
    /// The record of this key.
    ///
    /// # Errors
    /// `Corrupt`, `Poisoned`, `Closed`, `Io`.
    async fn load(&self, key: &str) -> Result<Option<Stored>, StoreError>;

    /// Replaces the record that is at the revision `expected` (`None`: there must be none) by `new` (`None`:
    /// removes it). Returns the new revision, `None` after a removal.
    ///
    /// # Errors
    /// `Conflict` when another revision is stored; `Full`, `TooLarge`, `Corrupt`, `Poisoned`, `Closed`, `Io`.
    async fn swap(
        &self,
        key: &str,
        expected: Option<&Revision>,
        new: Option<Bytes>,
    ) -> Result<Option<Revision>, StoreError>;

    /// The next `limit` records whose keys begin with `prefix` and come after `after`, in the order of the
    /// keys' bytes.
    ///
    /// # Errors
    /// `Corrupt`, `Poisoned`, `Closed`, `Io`.
    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Stored)>, StoreError>;

    /// Clears away whatever is kept of removed records whose keys begin with `prefix`, where something is: their names, say.
    /// Only for keys that nobody writes again: a swap that comes late may find no record there, and make one.
    ///
    /// # Errors
    /// `Corrupt`, `Poisoned`, `Closed`, `Io`.
    async fn clear_removed(&self, prefix: &str) -> Result<(), StoreError> {
        let _ = prefix;
        Ok(())
    }

    /// Whether other processes may use the catalog at the same time. Where they can't, engines need not tell each other what
    /// they changed.
    fn is_shared(&self) -> bool {
        true
    }
}

/// A record as it is stored.
#[derive(Clone, PartialEq, Eq)]
pub struct Stored {
    /// The record.
    pub bytes: Bytes,
    /// Which writing of it this is.
    pub revision: Revision,
}

impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stored({} bytes, {:?})", self.bytes.len(), self.revision)
    }
}

/// Which writing of a record: opaque, compared for equality only, never used twice for one key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Revision(Box<str>);

impl Revision {
    /// The revision that a store calls this.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into().into())
    }

    /// What the store calls it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
