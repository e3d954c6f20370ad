//! Several rows of a catalog at once, over any [`Catalog`].
//!
//! Guarantees: a [`Transaction`] is done whole or not at all, whatever stops it, wherever: its rows all get their new
//! values, or none does. All rows that it loaded are as it loaded them at the moment when it is done. Whoever finds a
//! transaction that was left takes it to its end or back, and needs nobody for that.
//!
//! # How
//!
//! A row is a cell: a value, or none, and what is under way. A transaction has a random id *T*. One of its rows is the
//! primary *P*, the others are the secondaries *S*. Each arrow is one compare-and-swap from the revision that the step
//! before left, and so happens once at most:
//!
//! ```text
//! P:  value  --prepare-->  value, pending T  --decide-->  new, decided T, names of all S  --forget-->  new
//!                                            --abort-->   value
//! S:  value  --prepare-->  value, pending T, name of P    --forward-->  new
//!                                                         --back-->     value
//! ```
//!
//! 1. The transaction prepares *P*, then all *S*.
//! 2. When all answered that they are prepared, it decides. This is the moment when it is done.
//! 3. It takes each *S* forward, then forgets.
//!
//! Who finds *S* pending *T* looks at *P* afterwards. Is *P* decided *T*, it takes *S* forward. Is *P* pending *T*, it waits
//! for a moment, then aborts *P*. Else it takes *S* back. Who finds *P* pending *T* waits, then aborts it. Who loads *P*
//! decided *T* into a transaction of its own takes all *S* forward first, and forgets.
//!
//! # Why that is right
//!
//! A catalog promises that no revision is used twice for a key, that a swap from a revision is done only at it, and that one
//! swap is done once at most. So:
//!
//! 1. *Decide and abort exclude each other*: both start from the one revision that *prepare* gave *P*.
//! 2. *When T is decided, every S is pending T*, at the revision that its *prepare* gave it, with the right new value. It
//!    was, before *decide* was sent. To leave, it went forward, which needs *P* decided; or back, by somebody who saw
//!    *S* pending and **afterwards** *P* neither pending nor decided. *P* was prepared before any *S*, so it had been
//!    aborted (then *decide* fails, by 1) or forgotten (then *T* was decided already).
//! 3. *A decided T takes no S back*: who does, saw *P* neither pending nor decided after it saw *S* pending at some
//!    revision. By 1 *P* was not aborted, so it was forgotten, and that comes after every *S* left its pending revision.
//!    So that revision is no more, and the swap fails.
//! 4. *An undecided T takes no S forward*: that needs *P* decided *T*.
//! 5. *What comes late changes nothing.* A *prepare* of *S* that was given up and arrives later finds *S* as it was loaded
//!    and leaves its value; who finds it takes it back, by the above. *T* is never decided then, since its *prepare* was
//!    not answered. Any other step starts from a revision that is no more once another one was done.
//!
//! So after *decide* whoever asks for any of the rows gets the new value, and without it the old one. Transactions are in
//! the order of their decisions, within the time that each took: at that moment each holds all rows that it loaded or
//! writes, at the values that it loaded, since each is pending from *prepare* on, and *prepare* needs the row as it was
//! loaded. (A row that was absent may have been there and gone again in between; it is absent when it is prepared.)
//!
//! A transaction that waits for none and is stopped by none takes, of n rows, 2n + 1 swaps in five rounds; one of a single
//! row takes one swap. Nothing of it is left. A row that was only loaded, and is absent, is made and removed again.
//!
//! Two that want the same rows may end each other; then both fail with `Conflict`, and who tries again should wait for a
//! random while.
//!
//! Not its job: to try again; what rows say.

mod cell;
mod commit;
mod rows;
mod write;

use std::{collections::BTreeMap, fmt};

use bytes::Bytes;
use futures_util::{StreamExt, stream};

pub use self::rows::Rows;
pub(crate) use self::write::Write;
use self::{commit::Change, rows::Loaded};
#[cfg(doc)]
use crate::Catalog;
use crate::error::StoreError;

/// How many swaps of one transaction are under way at once.
const AT_ONCE: usize = 16;

/// Changes of several rows that are done together or not at all. Dropped, it did nothing.
pub struct Transaction {
    rows: Rows,
    loaded: BTreeMap<String, Loaded>,
    writes: BTreeMap<String, Option<Bytes>>,
}

impl Rows {
    /// A transaction that has loaded nothing yet.
    pub fn begin(&self) -> Transaction {
        Transaction { rows: self.clone(), loaded: BTreeMap::new(), writes: BTreeMap::new() }
    }
}

impl Transaction {
    /// The value of a row, as this transaction would leave it. It is held to what was loaded: the commit is a `Conflict` if
    /// the row was changed, also if it is not written.
    ///
    /// # Errors
    /// Those of [`Rows::load`]; those of [`Catalog::swap`] where a transaction that was left has to be ended.
    pub async fn load(&mut self, key: &str) -> Result<Option<Bytes>, StoreError> {
        if let Some(new) = self.writes.get(key) {
            return Ok(new.clone());
        }
        if !self.loaded.contains_key(key) {
            let loaded = self.rows.plain(key).await?;
            self.loaded.insert(key.to_owned(), loaded);
        }
        Ok(self.loaded.get(key).and_then(|loaded| loaded.value.clone()))
    }

    /// Gives a row this value, whatever it had if it was not loaded.
    pub fn put(&mut self, key: impl Into<String>, value: Bytes) {
        self.writes.insert(key.into(), Some(value));
    }

    /// Removes a row, if it is there.
    pub fn remove(&mut self, key: impl Into<String>) {
        self.writes.insert(key.into(), None);
    }

    /// Does all of it, durably. One that writes nothing does nothing.
    ///
    /// If the future is dropped, all of it was or will be done, or nothing.
    ///
    /// # Errors
    /// `Conflict`: somebody else changed a row, and nothing was done. Those of [`Catalog::swap`]: where the text says
    /// "unknown outcome", all of it may have been done, else nothing was.
    pub async fn commit(mut self) -> Result<(), StoreError> {
        let not_loaded: Vec<_> =
            self.writes.keys().filter(|key| !self.loaded.contains_key(*key)).cloned().collect();
        for key in not_loaded {
            let loaded = self.rows.plain(&key).await?;
            self.loaded.insert(key, loaded);
        }
        if self.writes.is_empty() {
            return Ok(());
        }
        let mut changes: Vec<_> = self
            .loaded
            .into_iter()
            .map(|(key, was)| {
                let new = self.writes.remove(&key).unwrap_or_else(|| was.value.clone());
                Change { key, was, new }
            })
            .collect();
        let primary = changes.remove(0);
        if changes.is_empty() {
            return self.rows.change_one(primary).await;
        }
        self.rows.change_all(primary, changes).await
    }
}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (loaded, writes) = (self.loaded.keys(), self.writes.keys());
        write!(
            f,
            "Transaction(loaded {:?}, writes {:?})",
            loaded.collect::<Vec<_>>(),
            writes.collect::<Vec<_>>()
        )
    }
}

/// The answers of futures that run some at once, in their order.
async fn at_once<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let futures: Vec<_> = futures.collect();
    stream::iter(futures).buffered(AT_ONCE).collect().await
}
