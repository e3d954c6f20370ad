//! Rows, and how a transaction that is found in them is ended. What makes it right is said in [`transaction`](super).

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use cofferdam_vault::Entropy;

use super::{
    at_once,
    cell::{Cell, Pending, State, Txn},
};
use crate::{
    catalog::{Catalog, Revision},
    error::{StoreError, StoreErrorKind},
};

/// The first wait for a transaction of others; each next one is twice as long, up to the longest.
const FIRST_WAIT: Duration = Duration::from_millis(20);
const LONGEST_WAIT: Duration = Duration::from_millis(320);

/// Rows that are changed several at once. Whoever writes them must do so through this. Clones are the same.
#[derive(Clone)]
pub struct Rows {
    pub(super) catalog: Arc<dyn Catalog>,
    pub(super) entropy: Arc<dyn Entropy>,
    patience: Duration,
}

/// A row as it was loaded.
pub(super) struct Loaded {
    pub(super) value: Option<Bytes>,
    pub(super) revision: Option<Revision>,
}

impl Rows {
    /// The rows of a catalog. The ids of transactions come from `entropy`, which must not repeat itself.
    pub fn new(catalog: Arc<dyn Catalog>, entropy: Arc<dyn Entropy>) -> Self {
        Self { catalog, entropy, patience: Duration::from_secs(2) }
    }

    /// How long a transaction of others that is under way is waited for before it is taken back. Default 2 s; what takes
    /// longer may be taken back by whoever wants one of its rows.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// The value of a row.
    ///
    /// # Errors
    /// Those of [`Catalog::load`]; `NewerFormat`.
    pub async fn load(&self, key: &str) -> Result<Option<Bytes>, StoreError> {
        Ok(self.settled(key).await?.and_then(|(cell, _)| cell.value))
    }

    /// The next `limit` rows whose keys begin with `prefix` and come after `after`, in the order of the keys' bytes.
    ///
    /// # Errors
    /// Those of [`Catalog::list`]; `NewerFormat`.
    pub async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, Bytes)>, StoreError> {
        let mut rows = Vec::new();
        let mut after = after.map(str::to_owned);
        while rows.len() < limit {
            let wanted = limit - rows.len();
            let page = self.catalog.list(prefix, after.as_deref(), wanted).await?;
            let is_end = page.len() < wanted;
            after = page.last().map(|(last, _)| last.clone());
            for (key, stored) in page {
                let cell = Cell::decode(&key, &stored.bytes)?;
                let value = if cell.is_pending() { self.load(&key).await? } else { cell.value };
                rows.extend(value.map(|value| (key, value)));
            }
            if is_end {
                break;
            }
        }
        Ok(rows)
    }

    /// The cell of a row that no undecided transaction has.
    async fn settled(&self, key: &str) -> Result<Option<(Cell, Revision)>, StoreError> {
        let mut patience = Patience::new(self.patience);
        loop {
            let Some((cell, revision)) = self.cell(key).await? else { return Ok(None) };
            match &cell.state {
                State::Pending(pending) => {
                    self.resolve(key, &cell, pending, &revision, &mut patience).await?;
                }
                State::Plain | State::Decided { .. } => return Ok(Some((cell, revision))),
            }
        }
    }

    /// The row as a transaction loads it: nothing is under way in it.
    pub(super) async fn plain(&self, key: &str) -> Result<Loaded, StoreError> {
        loop {
            match self.settled(key).await? {
                None => return Ok(Loaded { value: None, revision: None }),
                Some((cell, revision)) => match cell.state {
                    State::Decided { txn, others } => {
                        self.finish(key, txn, &others, cell.value, &revision).await?;
                    }
                    _ => return Ok(Loaded { value: cell.value, revision: Some(revision) }),
                },
            }
        }
    }

    /// Takes a row that is pending a step on: waits, or takes it, or the transaction's primary, forward or back.
    async fn resolve(
        &self,
        key: &str,
        cell: &Cell,
        pending: &Pending,
        revision: &Revision,
        patience: &mut Patience,
    ) -> Result<(), StoreError> {
        let Some(primary) = &pending.primary else {
            if !patience.wait(pending.txn).await {
                self.swap(key, Some(revision), Cell::plain(cell.value.clone())).await?;
            }
            return Ok(());
        };
        // After the row itself was read: the proof needs that.
        match self.cell(primary).await? {
            Some((at_primary, revision)) if at_primary.is_pending_of(pending.txn) => {
                if !patience.wait(pending.txn).await {
                    self.swap(primary, Some(&revision), Cell::plain(at_primary.value)).await?;
                }
            }
            Some((at_primary, _)) if at_primary.is_decided_of(pending.txn) => {
                self.swap(key, Some(revision), Cell::plain(pending.new.clone())).await?;
            }
            _ => {
                self.swap(key, Some(revision), Cell::plain(cell.value.clone())).await?;
            }
        }
        Ok(())
    }

    /// Takes all secondaries of a decided transaction forward, then forgets it.
    pub(super) async fn finish(
        &self,
        primary: &str,
        txn: Txn,
        others: &[String],
        value: Option<Bytes>,
        revision: &Revision,
    ) -> Result<(), StoreError> {
        at_once(others.iter().map(|key| self.forward(key, txn)))
            .await
            .into_iter()
            .collect::<Result<(), _>>()?;
        self.swap(primary, Some(revision), Cell::plain(value)).await.map(|_| ())
    }

    async fn forward(&self, key: &str, txn: Txn) -> Result<(), StoreError> {
        while let Some((cell, revision)) = self.cell(key).await?
            && let State::Pending(pending) = cell.state
            && pending.txn == txn
        {
            self.swap(key, Some(&revision), Cell::plain(pending.new)).await?;
        }
        Ok(())
    }

    pub(super) async fn cell(&self, key: &str) -> Result<Option<(Cell, Revision)>, StoreError> {
        let Some(stored) = self.catalog.load(key).await? else { return Ok(None) };
        Ok(Some((Cell::decode(key, &stored.bytes)?, stored.revision)))
    }

    /// Swaps a row; `Ok(None)`: it was changed meanwhile. A row without a value and with nothing under way is removed.
    pub(super) async fn swap(
        &self,
        key: &str,
        expected: Option<&Revision>,
        new: Cell,
    ) -> Result<Option<Swapped>, StoreError> {
        let is_gone = new.value.is_none() && matches!(new.state, State::Plain);
        let bytes = if is_gone { None } else { Some(new.encode(key)?) };
        match self.catalog.swap(key, expected, bytes).await {
            Ok(revision) => Ok(Some(Swapped(revision))),
            Err(error) if error.kind() == StoreErrorKind::Conflict => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A swap that was done.
pub(super) struct Swapped(pub(super) Option<Revision>);

impl fmt::Debug for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rows({:?})", self.catalog)
    }
}

/// How long one transaction of others is waited for.
struct Patience {
    bound: Duration,
    of: Option<Txn>,
    waited: Duration,
    next: Duration,
}

impl Patience {
    fn new(bound: Duration) -> Self {
        Self { bound, of: None, waited: Duration::ZERO, next: FIRST_WAIT }
    }

    /// Waits a while for this transaction; `false` once it was waited for long enough.
    async fn wait(&mut self, txn: Txn) -> bool {
        if self.of != Some(txn) {
            *self = Self { of: Some(txn), ..Self::new(self.bound) };
        }
        let left = self.bound.saturating_sub(self.waited);
        if left.is_zero() {
            return false;
        }
        let wait = self.next.min(left);
        tokio::time::sleep(wait).await;
        self.waited += wait;
        self.next = (self.next * 2).min(LONGEST_WAIT);
        true
    }
}
