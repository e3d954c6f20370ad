//! Destroying an account.
//!
//! Guarantees: its keys' wraps go first, and with them the account's record and name; nothing that is left can be opened then.
//! Its blocks are removed only where no record has its id any longer. At the end no byte of what was removed is in the
//! store's own files.
//!
//! Not its job: copies elsewhere.

use cofferdam_crypto::planted::{Bug, is_planted};
use data_encoding::HEXLOWER;

use super::{
    row::Begun,
    runner::{Stop, Task, failed, stop},
};
use crate::engine::{EngineError, account_record::Stage};

/// How many blocks are removed at once.
const PAGE: usize = 256;

/// Destroys the record, and with it every wrap.
pub(super) async fn destroy(task: &Task, begun: &Begun) -> Result<(), Stop> {
    let (engine, operation) = (&task.engine, &begun.operation);
    let name = &operation.account;
    match engine.records.load(name).await {
        Ok(record) if record.unverified().id == task.account => {
            let verified = engine.verified(name).await;
            let (verified, service) = verified.map_err(|e| stop(e, false))?;
            if begun.cancelled {
                return Err(failed("cancelled", "it was cancelled before it had destroyed anything"));
            }
            if !begun.is_genuine(service.record_key()) {
                return Err(failed("forged", "its record is not what was written: begin it again"));
            }
            if begun.base != HEXLOWER.encode(&verified.tag)
                || !matches!(verified.record.stage, Stage::Deleted { .. })
            {
                return Err(failed("conflict", format_args!("account {name} was changed meanwhile")));
            }
            if !is_planted(Bug::PurgeKeepsWraps) {
                let destroyed = engine.records.replace(name, &verified.revision, None).await;
                if !destroyed.map_err(|e| stop(e, true))? {
                    return Err(Stop::Soon("another engine changed the account at the same time".into()));
                }
            }
        }
        // It is gone, and perhaps another account has its name.
        Ok(_) | Err(EngineError::NoAccount { .. }) => {}
        Err(e) => return Err(stop(e, false)),
    }
    engine.records.remove_rows(task.account).await.map_err(|e| stop(e, true))?;
    engine.ledger.forget_all(task.account).await.map_err(|e| stop(e, true))?;
    // Earlier operations name keys.
    task.update(|row| row.ended.clear()).await.map(drop)
}

/// Removes its blocks.
pub(super) async fn remove(task: &Task, begun: &Begun) -> Result<(), Stop> {
    let engine = &task.engine;
    let account = task.account;
    if !is_planted(Bug::PurgeKeepsWraps) {
        // Whoever wrote this operation: nothing of an account that is there is removed.
        if let Some(name) = engine.name_in_catalog(account).await.map_err(|e| stop(e, true))? {
            return Err(Stop::Wait(format!("account {name} is there: it is not to be removed")));
        }
    }
    let mut done = begun.operation.progress.done;
    loop {
        let removed = engine.blocks.remove_blocks(account, PAGE).await.map_err(|e| stop(e.into(), true))?;
        if removed == 0 {
            return Ok(());
        }
        done += removed;
        task.update(|row| row.last.operation.progress.done = done).await?;
    }
}
