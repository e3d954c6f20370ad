//! Waiting for an operation, and cancelling it.

use std::{fmt, sync::Arc, time::Duration};

use cofferdam_crypto::AccountId;

use super::{Operation, OperationId};
use crate::engine::{EngineError, Handle};

/// How often an operation is looked at that another engine runs.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// An operation that was begun. Dropped, it goes on.
#[derive(Clone)]
pub struct OperationHandle {
    engine: Arc<Handle>,
    id: OperationId,
    account: AccountId,
}

impl OperationHandle {
    pub(super) fn new(engine: Arc<Handle>, of: &Operation) -> Self {
        Self { engine, id: of.id, account: of.account_id }
    }

    /// Its id.
    pub fn id(&self) -> OperationId {
        self.id
    }

    /// How it stands now.
    ///
    /// # Errors
    /// [`EngineError::NoOperation`] when it ended so long ago that it is forgotten; [`EngineError::Store`].
    pub async fn status(&self) -> Result<Operation, EngineError> {
        self.engine.check_open()?;
        let row = self.engine.operations.load(self.account).await?;
        let found = row.and_then(|(row, _)| row.find(self.id).cloned());
        found.ok_or_else(|| EngineError::NoOperation { operation: self.id.to_string() })
    }

    /// Waits until it has ended, and tells how; also one that another engine runs.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn wait(&self) -> Result<Operation, EngineError> {
        self.until(|operation| operation.status.has_ended()).await
    }

    async fn until(&self, holds: impl Fn(&Operation) -> bool) -> Result<Operation, EngineError> {
        loop {
            let noted = self.engine.runner.noted();
            let mut noted = std::pin::pin!(noted);
            noted.as_mut().enable();
            let operation = self.status().await?;
            if holds(&operation) {
                return Ok(operation);
            }
            tokio::select! {
                biased;
                () = noted => {}
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
        }
    }

    /// Waits until it has ended, or something is in its way.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn settle(&self) -> Result<Operation, EngineError> {
        self.engine.runner.settled().await;
        self.status().await
    }

    /// Has it end as it was not begun, if nothing is changed yet. How it stands then: it may have been too late.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub async fn cancel(&self) -> Result<Operation, EngineError> {
        self.engine.check_open()?;
        let cancel = |row: &mut super::row::OperationRow| row.last.cancelled = true;
        self.engine.operations.update(self.account, self.id, cancel).await?;
        self.engine.runner.wake(self.id);
        self.until(|operation| !operation.is_cancellable()).await
    }
}

impl fmt::Debug for OperationHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OperationHandle({})", self.id)
    }
}
