//! Stores what a feed hands over, several parcels at a time.
//!
//! Guarantees: a block is told of once it is durable, and every durable block is told of, also when a later
//! one fails; at most `writers` parcels are under way.

use std::{io, sync::Arc};

use bytes::Bytes;
use cofferdam_crypto::{BlockId, IdError, Version};
use cofferdam_store::{Account, Outcome};
use sha2::{Digest, Sha256};
use tokio::task::JoinSet;

use crate::{
    error::CliError,
    feed::{Feed, Parcel, Piece},
};

/// A block that is durable.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) id: BlockId,
    pub(crate) version: Version,
    pub(crate) len: u64,
    pub(crate) sha256: [u8; 32],
    /// Where it is.
    pub(crate) outcome: Outcome,
}

/// Who is told how it goes.
pub(crate) trait Watcher {
    /// A block is durable.
    fn written(&mut self, block: &Written) -> Result<(), CliError>;
    /// An input can't be read, or not to its end.
    fn unreadable(&mut self, source: usize, error: &io::Error);
}

/// How it ended, when it did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// All input was read.
    Complete,
    /// It was stopped; all that was read is stored, some input may not have been read.
    Stopped,
}

/// Stores everything, until the feed ends, something fails or `stop` is ready.
pub(crate) async fn write_all(
    account: &Account,
    feed: &Feed,
    names: &Arc<[Vec<u8>]>,
    writers: usize,
    watcher: &mut dyn Watcher,
    stop: impl Future<Output = ()>,
) -> Result<Ending, CliError> {
    let mut stop = std::pin::pin!(stop);
    let (mut ending, mut failure) = (Ending::Complete, None);
    let (mut asked_to_stop, mut exhausted) = (false, false);
    let mut tasks = JoinSet::<Result<Vec<Written>, CliError>>::new();
    while !(exhausted && tasks.is_empty()) {
        tokio::select! {
            () = &mut stop, if !asked_to_stop => {
                asked_to_stop = true;
                if feed.stop() {
                    ending = Ending::Stopped;
                }
            }
            Some(done) = tasks.join_next(), if !tasks.is_empty() => {
                let told = match done {
                    Ok(written) => written.and_then(|blocks| {
                        blocks.iter().try_for_each(|block| watcher.written(block))
                    }),
                    Err(e) => Err(CliError::Task(e.to_string())),
                };
                if let Err(e) = told {
                    failure.get_or_insert(e);
                    feed.abandon();
                }
            }
            parcel = feed.next(), if !exhausted && tasks.len() < writers => match parcel {
                Some(Parcel::Blocks(pieces)) if failure.is_none() => {
                    tasks.spawn(store(account.clone(), names.clone(), pieces));
                }
                Some(Parcel::Blocks(_)) => {}
                Some(Parcel::Unreadable { source, error }) => watcher.unreadable(source, &error),
                None => exhausted = true,
            },
        }
    }
    match failure {
        Some(e) => Err(e),
        None => Ok(ending),
    }
}

async fn store(
    account: Account,
    names: Arc<[Vec<u8>]>,
    pieces: Vec<Piece>,
) -> Result<Vec<Written>, CliError> {
    let mut blocks: Vec<(BlockId, Bytes)> = Vec::with_capacity(pieces.len());
    let mut written = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let name = names.get(piece.source).map_or(&[][..], Vec::as_slice);
        // Names were checked by `check_name`.
        let id = block_id(name, piece.number).map_err(|e| CliError::Task(e.to_string()))?;
        let sha256 = Sha256::digest(&piece.data).into();
        let len = piece.data.len() as u64;
        let (version, outcome) = (Version::new(0), Outcome::Stored);
        written.push(Written { id: id.clone(), version, len, sha256, outcome });
        blocks.push((id, piece.data));
    }
    let receipts = account.put_batch(blocks).await?;
    for (written, receipt) in written.iter_mut().zip(receipts) {
        written.version = receipt.version;
        written.outcome = receipt.outcome;
    }
    Ok(written)
}

/// The id of an input's block: its name, a slash and the block's number in 12 digits, so that they list in order.
pub(crate) fn block_id(name: &[u8], number: u64) -> Result<BlockId, IdError> {
    BlockId::new([name, format!("/{number:012}").as_bytes()].concat())
}

/// Whether every block of an input of this name has an id.
pub(crate) fn check_name(name: &[u8]) -> Result<(), IdError> {
    block_id(name, u64::MAX).map(drop)
}
