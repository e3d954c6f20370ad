//! The vault goes away, and comes back.
//!
//! Guarantees: each answer is checked: until the grace ends none fails, after it every write is buffered and every read
//! refused as of an unavailable key; once the vault is back all that was buffered is drained, once each, as it was
//! written last. Waits are bounded.

use std::{
    fs::File,
    io::{self, Read},
};

use bytes::Bytes;
use cofferdam_crypto::{BlockId, Provider};
use cofferdam_keyring::KeyState;
use cofferdam_store::{Account, EngineError, EngineErrorKind, Outcome, Place};
use cofferdam_vault::{Clock, LocalVault, SystemClock};
use sha2::{Digest, Sha256};

use super::{
    pack::{BLOCK, Packed, first_block},
    report::Report,
    revoke::{count, wait},
};
use crate::{
    error::CliError,
    output::{Output, size},
};

/// How many blocks are written while the key is unavailable, at most, and how many reads are tried.
const WRITES: usize = 64;
const READS: usize = 100;

/// What was buffered: ids with the digests of what was written last.
pub(super) struct Buffered {
    blocks: Vec<(BlockId, [u8; 32])>,
    deleted: BlockId,
}

/// Switches the vault off; reads and writes until the key is unavailable, and on.
pub(super) async fn begin(
    account: &Account,
    vault: &LocalVault,
    files: &[Packed],
    output: &mut Output,
    report: &mut Report,
) -> Result<Buffered, CliError> {
    output.text(format_args!("Switching the customer's vault off; reads and writes go on..."))?;
    output.flush()?;
    vault.set_offline(true).await?;
    serve(account, files, report).await?;
    output.text(format_args!(
        "For {:.1} s no read or write failed, {} and {} of them, the slowest took {:.0} ms; {} and {} were in grace, when \
         the key could not be renewed any longer",
        report.outage_served_seconds,
        report.outage_reads,
        report.outage_writes,
        report.outage_slowest_seconds * 1000.0,
        report.grace_reads,
        report.grace_writes,
    ))?;
    let buffered = buffer(account, files, report).await?;
    output.text(format_args!(
        "The grace is over: {} writes are buffered, {}, all {} reads refused (key unavailable); the list still works: \
         {} blocks",
        report.buffered_blocks,
        size(report.buffered_bytes),
        report.unavailable_reads_refused,
        count(account).await?
    ))?;
    output.flush()?;
    Ok(buffered)
}

/// Reads and writes until the key is used up.
async fn serve(account: &Account, files: &[Packed], report: &mut Report) -> Result<(), CliError> {
    let began = SystemClock.now();
    loop {
        let key = account.key_status().await?.key;
        let asked = SystemClock.now();
        let file = &files[report.outage_reads as usize % files.len()];
        let read = account.get(&first_block(file)?).await;
        let read_took = SystemClock.now().since(&asked);
        let ended = match read {
            Ok(_) => {
                report.outage_reads += 1;
                report.grace_reads += u64::from(key.state == KeyState::Grace);
                false
            }
            Err(e) if e.kind() == EngineErrorKind::Unavailable => true,
            Err(e) => return Err(e.into()),
        };
        let now = SystemClock.now();
        if ended {
            if key.usable_until.is_some_and(|until| now.boot < until.boot && now.wall < until.wall) {
                return failed("a read was refused before the grace was over");
            }
            report.outage_served_seconds = now.since(&began).as_secs_f64();
            break;
        }
        let id = id(&format!("outage/served-{:06}", report.outage_writes))?;
        // One that comes after the grace, in this very round, is buffered and counted as that later.
        if account.put(&id, Bytes::from_static(b"served")).await?.outcome == Outcome::Stored {
            report.outage_writes += 1;
            report.grace_writes += u64::from(key.state == KeyState::Grace);
            let write_took = SystemClock.now().since(&now);
            let slowest = read_took.max(write_took).as_secs_f64();
            report.outage_slowest_seconds = report.outage_slowest_seconds.max(slowest);
        }
        wait(&began, "the key did not become unavailable").await?;
    }
    if report.grace_reads == 0 || report.grace_writes == 0 {
        return failed("nothing was read or written in grace");
    }
    Ok(())
}

/// Writes and reads while the key is unavailable.
async fn buffer(account: &Account, files: &[Packed], report: &mut Report) -> Result<Buffered, CliError> {
    let mut blocks = Vec::new();
    for (number, file) in files.iter().take(WRITES).enumerate() {
        // It may have gone since it was stored.
        let Ok(data) = start_of(file) else { continue };
        let digest = Sha256::digest(&data).into();
        let id = id(&format!("outage/buffered-{number:06}"))?;
        // Twice: what was written last must win.
        put(account, &id, Bytes::from_static(b"an earlier version")).await?;
        put(account, &id, data).await?;
        blocks.push((id, digest));
    }
    if blocks.is_empty() {
        return failed("none of the files can be read any longer");
    }
    let deleted = id("outage/deleted")?;
    put(account, &deleted, Bytes::from_static(b"deleted before the drain")).await?;
    account.delete(&deleted).await?;
    for at in 0..READS {
        let refused = match at % 2 {
            0 => account.get(&first_block(&files[at % files.len()])?).await,
            _ => account.get(&blocks[at % blocks.len()].0).await,
        };
        match refused {
            Err(e) if e.kind() == EngineErrorKind::Unavailable => report.unavailable_reads_refused += 1,
            Ok(_) => return failed("a block was read although the key is unavailable"),
            Err(e) => return Err(e.into()),
        }
    }
    let status = account.key_status().await?;
    report.buffered_blocks = status.buffer.blocks;
    report.buffered_bytes = status.buffer.bytes;
    if status.key.state != KeyState::Unavailable || status.buffer.blocks < blocks.len() as u64 {
        return failed("the buffer does not hold what was buffered");
    }
    Ok(Buffered { blocks, deleted })
}

async fn put(account: &Account, id: &BlockId, data: Bytes) -> Result<(), CliError> {
    match account.put(id, data).await?.outcome {
        Outcome::Buffered => Ok(()),
        _ => failed("a block was stored although the key is unavailable"),
    }
}

/// The first block of a file, as it is now.
fn start_of(file: &Packed) -> io::Result<Bytes> {
    let mut data = Vec::new();
    File::open(&file.path)?.take(BLOCK as u64).read_to_end(&mut data)?;
    Ok(data.into())
}

/// Switches the vault on again, and checks what the drain did.
pub(super) async fn end(
    account: &Account,
    vault: &LocalVault,
    buffered: Buffered,
    output: &mut Output,
    report: &mut Report,
) -> Result<(), CliError> {
    output.text(format_args!("Switching the customer's vault on again..."))?;
    output.flush()?;
    vault.set_offline(false).await?;
    let began = SystemClock.now();
    while !serves(account.check_key().await)? {
        wait(&began, "the vault that is back was not noticed").await?;
    }
    report.recovered_after_seconds = SystemClock.now().since(&began).as_secs_f64();
    let drained = loop {
        let drain = account.drain().await?;
        if drain.left.is_none() {
            break drain.drained;
        }
        wait(&began, "the buffer was not drained").await?;
    };
    report.drained_after_seconds = SystemClock.now().since(&began).as_secs_f64();
    report.drained_blocks = drained.blocks;
    if drained.blocks != report.buffered_blocks {
        return failed("not every buffered block was drained once");
    }
    report.blocks_under_customer_key = under_customer_key(account).await?;
    for (id, digest) in &buffered.blocks {
        if <[u8; 32]>::from(Sha256::digest(account.get(id).await?)) != *digest {
            return failed("a drained block reads back with other bytes");
        }
        report.drained_equal += 1;
    }
    match account.get(&buffered.deleted).await {
        Err(EngineError::NoBlock { .. }) => {}
        Err(e) => return Err(e.into()),
        Ok(_) => return failed("a block that was deleted is there again after the drain"),
    }
    output.text(format_args!(
        "Felt after {:.1} s; all {} buffered blocks are drained after {:.1} s: {} of {} SHA-256 digests are equal, and all \
         {} blocks are under the customer's key",
        report.recovered_after_seconds,
        report.drained_blocks,
        report.drained_after_seconds,
        report.drained_equal,
        buffered.blocks.len(),
        report.blocks_under_customer_key
    ))
}

/// How many blocks there are, all of which must be under the customer's key.
async fn under_customer_key(account: &Account) -> Result<u64, CliError> {
    let (mut blocks, mut after) = (0, None);
    loop {
        let page = account.list(after.as_ref(), 1000).await?;
        for block in &page.blocks {
            if (block.provider, block.place) != (Provider::Customer, Place::Store) {
                return failed("a block is still under the service's key after the drain");
            }
            blocks += 1;
        }
        after = page.next;
        if after.is_none() {
            return Ok(blocks);
        }
    }
}

/// Whether the key can be had, if it is not only unavailable.
fn serves(checked: Result<(), EngineError>) -> Result<bool, CliError> {
    match checked {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == EngineErrorKind::Unavailable => Ok(false),
        Err(e) => Err(e.into()),
    }
}

fn id(text: &str) -> Result<BlockId, CliError> {
    BlockId::new(text).map_err(|e| CliError::Task(e.to_string()))
}

fn failed<T>(what: &str) -> Result<T, CliError> {
    Err(CliError::Demo { what: what.into() })
}
