//! Operations as the catalog keeps them: a row an account, with the one that goes on and the last that ended.
//!
//! Guarantees: of an account's operations at most one has not ended: whoever begins one does so by compare-and-swap. Who can
//! write to the catalog can't have an engine change an account's keys: an operation is obeyed only after its tag, made
//! under the account's service AEK, was checked, and only for the record that it was begun for. A purge has no tag, since
//! the AEK is what it destroys: it goes on from a record that is gone, and who writes to the catalog can remove that.
//!
//! Not its job: to do anything.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use cofferdam_crypto::{AccountId, RecordKey};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use super::{Operation, OperationId, OperationStatus};
use crate::{
    Catalog, Revision, StoreError, StoreErrorKind,
    engine::{EngineError, nodes::NodeId, rows},
};

const OPERATIONS: &str = "operation/";
/// How many that ended are kept of an account.
const KEPT: usize = 16;

/// An account's operations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OperationRow {
    /// The last that was begun.
    pub(crate) last: Begun,
    /// Those before it, the latest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) ended: Vec<Operation>,
}

/// An operation, and what an engine needs to go on with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Begun {
    pub(crate) operation: Operation,
    /// The engine that runs it.
    pub(crate) node: NodeId,
    /// The tag of the account's record that it was begun for, in hex.
    pub(crate) base: String,
    /// The number of the change that other engines are to take note of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) announced: Option<u64>,
    /// Up to which block this pass has come, in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cursor: Option<String>,
    /// Somebody wants it to end where that leaves the account as it was.
    #[serde(default)]
    pub(crate) cancelled: bool,
    /// The tag of its kind, account, id and base under the account's service AEK, in hex.
    pub(crate) tag: String,
}

impl Begun {
    /// What is under the tag: what it is told to do, not how far it came.
    fn tagged(&self) -> Result<Vec<u8>, EngineError> {
        let Operation { id, account, account_id, kind, .. } = &self.operation;
        serde_json::to_vec(&(id, account, account_id, kind, &self.base))
            .map_err(|e| EngineError::BadRecord { account: account.clone(), reason: e.to_string() })
    }

    pub(crate) fn tag(mut self, key: &RecordKey) -> Result<Self, EngineError> {
        self.tag = HEXLOWER.encode(&key.operation_tag(&self.tagged()?));
        Ok(self)
    }

    /// Whether somebody who had the account's service AEK began it.
    pub(crate) fn is_genuine(&self, key: &RecordKey) -> bool {
        let tag = HEXLOWER.decode(self.tag.as_bytes()).ok().and_then(|tag| tag.try_into().ok());
        let tagged = self.tagged().ok();
        tag.zip(tagged).is_some_and(|(tag, tagged)| key.verify_operation(&tagged, &tag))
    }
}

/// The rows of a catalog.
#[derive(Debug)]
pub(crate) struct OperationRows(pub(crate) Arc<dyn Catalog>);

impl OperationRows {
    /// An account's operations, and which writing of them this is.
    pub(crate) async fn load(
        &self,
        account: AccountId,
    ) -> Result<Option<(OperationRow, Revision)>, EngineError> {
        let Some(stored) = self.0.load(&key(account)).await? else { return Ok(None) };
        Ok(Some((parse(&stored.bytes)?, stored.revision)))
    }

    /// Every row.
    pub(crate) async fn all(&self) -> Result<Vec<(OperationRow, Revision)>, EngineError> {
        let rows = rows::under(&*self.0, OPERATIONS).await?;
        rows.into_iter().map(|(_, stored)| Ok((parse(&stored.bytes)?, stored.revision))).collect()
    }

    /// Begins an operation, unless one of the account's goes on: then that is returned.
    pub(crate) async fn begin(&self, new: &Begun) -> Result<Result<Revision, Operation>, EngineError> {
        let account = new.operation.account_id;
        loop {
            let known = self.load(account).await?;
            let (ended, revision) = match known {
                None => (Vec::new(), None),
                Some((row, _)) if !row.last.operation.status.has_ended() => {
                    // One's own, where the answer to the swap was lost.
                    if row.last.operation.id == new.operation.id {
                        let (_, revision) = self.load(account).await?.ok_or_else(lost)?;
                        return Ok(Ok(revision));
                    }
                    return Ok(Err(row.last.operation));
                }
                Some((row, revision)) => {
                    let mut ended = row.ended;
                    ended.insert(0, row.last.operation);
                    ended.truncate(KEPT);
                    (ended, Some(revision))
                }
            };
            let row = OperationRow { last: new.clone(), ended };
            match self.swap(account, revision.as_ref(), &row).await {
                Ok(revision) => return Ok(Ok(revision)),
                Err(e) if is_conflict(&e) => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Changes the operation that goes on, unless another took its place or it ended: then `None`. The change may be
    /// tried on several writings of the row.
    pub(crate) async fn update(
        &self,
        account: AccountId,
        id: OperationId,
        change: impl Fn(&mut OperationRow) + Send,
    ) -> Result<Option<OperationRow>, EngineError> {
        loop {
            let Some((mut row, revision)) = self.load(account).await? else { return Ok(None) };
            if row.last.operation.id != id || row.last.operation.status.has_ended() {
                return Ok(None);
            }
            let before = row.clone();
            change(&mut row);
            if row == before {
                return Ok(Some(row));
            }
            match self.swap(account, Some(&revision), &row).await {
                Ok(_) => return Ok(Some(row)),
                Err(e) if is_conflict(&e) => {}
                Err(e) => return Err(e),
            }
        }
    }

    async fn swap(
        &self,
        account: AccountId,
        expected: Option<&Revision>,
        row: &OperationRow,
    ) -> Result<Revision, EngineError> {
        let bytes = serde_json::to_vec(row).map_err(|e| corrupt(e.to_string()))?;
        self.0.swap(&key(account), expected, Some(Bytes::from(bytes))).await?.ok_or_else(lost)
    }
}

impl OperationRow {
    /// The operation of this id.
    pub(crate) fn find(&self, id: OperationId) -> Option<&Operation> {
        [&self.last.operation].into_iter().chain(&self.ended).find(|operation| operation.id == id)
    }

    /// The one that goes on ends so.
    pub(crate) fn end(
        &mut self,
        status: OperationStatus,
        failure: Option<super::OperationFailure>,
        at: Duration,
    ) {
        let operation = &mut self.last.operation;
        (operation.status, operation.failure, operation.ended_at) = (status, failure, Some(at));
        operation.waits_for = None;
    }
}

fn key(account: AccountId) -> String {
    format!("{OPERATIONS}{account}")
}

fn is_conflict(e: &EngineError) -> bool {
    matches!(e, EngineError::Store(e) if e.kind() == StoreErrorKind::Conflict)
}

fn corrupt(detail: String) -> EngineError {
    StoreError::new(StoreErrorKind::Corrupt).with_detail(format!("an operation's record: {detail}")).into()
}

fn lost() -> EngineError {
    corrupt("it is gone right after it was written".into())
}

fn parse(bytes: &[u8]) -> Result<OperationRow, EngineError> {
    serde_json::from_slice(bytes).map_err(|e| corrupt(e.to_string()))
}
