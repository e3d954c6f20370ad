//! The steps of a transaction that is committed. What makes them right is said in [`transaction`](super).

use bytes::Bytes;

use super::{
    at_once,
    cell::{Cell, Pending, State, Txn},
    rows::{Loaded, Rows, Swapped},
};
use crate::{
    catalog::Revision,
    error::{StoreError, StoreErrorKind},
};

/// What is to become of one row.
pub(super) struct Change {
    pub(super) key: String,
    pub(super) was: Loaded,
    pub(super) new: Option<Bytes>,
}

impl Rows {
    pub(super) async fn change_one(&self, change: Change) -> Result<(), StoreError> {
        if change.was.revision.is_none() && change.new.is_none() {
            return Ok(());
        }
        let Change { key, was, new } = change;
        let swapped = self.swap(&key, was.revision.as_ref(), Cell::plain(new)).await?;
        swapped.map(|_| ()).ok_or_else(|| conflict(&key))
    }

    pub(super) async fn change_all(&self, primary: Change, others: Vec<Change>) -> Result<(), StoreError> {
        let mut txn = Txn::default();
        self.entropy.fill(&mut txn).map_err(|error| {
            StoreError::new(StoreErrorKind::Io).with_detail("drawing a transaction's id").caused_by(error)
        })?;
        let Change { key, was, new } = primary;
        let prepared = self.prepare(txn, &key, &was, &new, None).await.map_err(not_done)?;
        let Some(prepared) = prepared else { return Err(conflict(&key)) };

        let secondaries = at_once(
            others.iter().map(|other| self.prepare(txn, &other.key, &other.was, &other.new, Some(&key))),
        )
        .await;
        let failed = others.iter().zip(&secondaries).find_map(|(other, prepared)| match prepared {
            Ok(Some(_)) => None,
            Ok(None) => Some(conflict(&other.key)),
            Err(error) => Some(not_done(error.duplicate())),
        });
        let undo = Undo { rows: self, others: &others, secondaries: &secondaries };
        if let Some(error) = failed {
            // Nothing is decided from here on, whatever comes of this.
            let _ = self.swap(&key, Some(&prepared), Cell::plain(was.value)).await;
            undo.back().await;
            return Err(error);
        }

        let names: Vec<_> = others.iter().map(|other| other.key.clone()).collect();
        let state = State::Decided { txn, others: names.clone() };
        let revision = match self.swap(&key, Some(&prepared), Cell { value: new.clone(), state }).await {
            Ok(Some(Swapped(Some(revision)))) => revision,
            Ok(_) => {
                undo.back().await;
                return Err(conflict(&key));
            }
            Err(error) => match self.decided_after(error, txn, &key, was.value, &prepared).await? {
                Ok(revision) => revision,
                Err(error) => {
                    undo.back().await;
                    return Err(error);
                }
            },
        };
        // It is done. What is left of it is taken on by whoever finds it.
        let forward = others.iter().zip(&secondaries).filter_map(|(other, prepared)| {
            let prepared = prepared.as_ref().ok()?.as_ref()?;
            Some(self.swap(&other.key, Some(prepared), Cell::plain(other.new.clone())))
        });
        // One that is not as it was prepared was taken forward by somebody else.
        let _ = if at_once(forward).await.iter().all(Result::is_ok) {
            self.swap(&key, Some(&revision), Cell::plain(new)).await.map(drop)
        } else {
            self.finish(&key, txn, &names, new, &revision).await
        };
        Ok(())
    }

    /// Prepares a row; `Ok(None)`: it was changed.
    async fn prepare(
        &self,
        txn: Txn,
        key: &str,
        was: &Loaded,
        new: &Option<Bytes>,
        primary: Option<&str>,
    ) -> Result<Option<Revision>, StoreError> {
        let pending = Pending { txn, primary: primary.map(str::to_owned), new: new.clone() };
        let cell = Cell { value: was.value.clone(), state: State::Pending(pending) };
        Ok(self.swap(key, was.revision.as_ref(), cell).await?.and_then(|Swapped(revision)| revision))
    }

    /// Whether a decision that failed with `error` was made after all: tries to abort, which excludes it.
    ///
    /// # Errors
    /// The outer one: it is not known. The inner one: it was not.
    async fn decided_after(
        &self,
        error: StoreError,
        txn: Txn,
        key: &str,
        was: Option<Bytes>,
        prepared: &Revision,
    ) -> Result<Result<Revision, StoreError>, StoreError> {
        if let Ok(Some(_)) = self.swap(key, Some(prepared), Cell::plain(was)).await {
            return Ok(Err(not_done(error)));
        }
        match self.cell(key).await {
            Ok(Some((cell, revision))) if cell.is_decided_of(txn) => Ok(Ok(revision)),
            _ => Err(StoreError::new(error.kind())
                .with_detail(format!("unknown outcome: the transaction of {key:?} may have been done"))
                .caused_by(error)),
        }
    }
}

/// The secondaries that a transaction prepared.
struct Undo<'a> {
    rows: &'a Rows,
    others: &'a [Change],
    secondaries: &'a [Result<Option<Revision>, StoreError>],
}

impl Undo<'_> {
    /// Takes them back, as far as that works: who finds the others does so.
    async fn back(&self) {
        let back = self.others.iter().zip(self.secondaries).filter_map(|(other, prepared)| {
            let prepared = prepared.as_ref().ok()?.as_ref()?;
            Some(self.rows.swap(&other.key, Some(prepared), Cell::plain(other.was.value.clone())))
        });
        at_once(back).await;
    }
}

pub(super) fn conflict(key: &str) -> StoreError {
    StoreError::new(StoreErrorKind::Conflict).with_detail(format!("the row {key:?}"))
}

/// A failure after which it is known that the transaction was not done, although one of its steps may have been.
fn not_done(error: StoreError) -> StoreError {
    StoreError::new(error.kind()).with_detail("the transaction was not done").caused_by(error)
}
