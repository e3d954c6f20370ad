//! The key is taken away, and given back.
//!
//! Guarantees: each refusal is checked to be that of a revoked key; waits are bounded.

use std::time::Duration;

use bytes::Bytes;
use cofferdam_crypto::{BlockId, KeyId};
use cofferdam_store::{Account, EngineError, EngineErrorKind};
use cofferdam_vault::{Clock, LocalVault, SystemClock};

use super::pack::{Packed, first_block};
use crate::error::CliError;

/// How often it is looked whether something was noticed.
const LOOK: Duration = Duration::from_millis(50);
/// Longer than the keyring may take by the demonstration's settings.
const PATIENCE: Duration = Duration::from_secs(20);
/// How many reads are tried, and how many writes.
const TRIES: usize = 100;

/// What happened.
#[derive(Debug)]
pub(super) struct Revocation {
    pub(super) noticed_after: Duration,
    pub(super) reads_refused: u64,
    pub(super) writes_refused: u64,
    pub(super) listed: u64,
    pub(super) restored_after: Duration,
}

/// Disables the key and waits until it is felt; tries reads, writes and the list.
pub(super) async fn revoke(
    account: &Account,
    vault: &LocalVault,
    kek: &KeyId,
    files: &[Packed],
) -> Result<Revocation, CliError> {
    let new = BlockId::new(b"after/the-key-was-taken").map_err(|e| CliError::Task(e.to_string()))?;
    vault.disable(kek).await?;
    let began = SystemClock.now();
    let write = || async { account.put(&new, Bytes::from_static(b"refused")).await.map(drop) };
    let first = first_block(&files[0])?;
    // Reads only: what a write stores before it is felt would be listed later.
    while !refused(account.get(&first).await.map(drop))? {
        wait(&began, "the disabled key was not noticed").await?;
    }
    let mut found = Revocation {
        noticed_after: SystemClock.now().since(&began),
        reads_refused: 0,
        writes_refused: 0,
        listed: 0,
        restored_after: Duration::ZERO,
    };
    for at in 0..TRIES {
        let file = &files[at % files.len()];
        if !refused(account.get(&first_block(file)?).await.map(drop))? || !refused(write().await)? {
            let what = "a block was read or written under a revoked key".into();
            return Err(CliError::Demo { what });
        }
        found.reads_refused += 1;
        found.writes_refused += 1;
    }
    found.listed = count(account).await?;
    Ok(found)
}

/// Enables the key and waits until reads and writes work again.
pub(super) async fn restore(
    account: &Account,
    vault: &LocalVault,
    kek: &KeyId,
    files: &[Packed],
    found: &mut Revocation,
) -> Result<(), CliError> {
    vault.enable(kek).await?;
    let began = SystemClock.now();
    let first = first_block(&files[0])?;
    while refused(account.get(&first).await.map(drop))? {
        wait(&began, "the enabled key was not noticed").await?;
    }
    found.restored_after = SystemClock.now().since(&began);
    let new = BlockId::new(b"after/the-key-was-given-back").map_err(|e| CliError::Task(e.to_string()))?;
    account.put(&new, Bytes::from_static(b"stored")).await?;
    if account.get(&new).await? != "stored" {
        return Err(CliError::Demo { what: "a block reads back with other bytes".into() });
    }
    Ok(())
}

/// Whether it was refused because the key is revoked.
fn refused(result: Result<(), EngineError>) -> Result<bool, CliError> {
    match result {
        Ok(()) => Ok(false),
        Err(e) if e.kind() == EngineErrorKind::Revoked => Ok(true),
        Err(e) => Err(e.into()),
    }
}

pub(super) async fn wait(began: &cofferdam_vault::Timestamp, what: &'static str) -> Result<(), CliError> {
    if SystemClock.now().since(began) > PATIENCE {
        return Err(CliError::Overdue { what, waited: PATIENCE });
    }
    tokio::time::sleep(LOOK).await;
    Ok(())
}

pub(super) async fn count(account: &Account) -> Result<u64, CliError> {
    let (mut blocks, mut after) = (0, None);
    loop {
        let page = account.list(after.as_ref(), 1000).await?;
        blocks += page.blocks.len() as u64;
        after = page.next;
        if after.is_none() {
            return Ok(blocks);
        }
    }
}
