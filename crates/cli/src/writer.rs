//! Stores what a feed hands over, several parcels at a time.
//!
//! Guarantees: a block is told of once it is durable, and every durable block is told of, also when a later
//! one fails; at most `writers` parcels are under way.

use std::{io, sync::Arc};

use bytes::Bytes;
use cofferdam_crypto::{BlockId, IdError, Version};
use cofferdam_store::Account;
use sha2::{Digest, Sha256};
use tokio::task::JoinSet;

use crate::{
    error::CliError,
    feed::{Feed, Parcel, Piece},
    home,
};

/// A block that is durable.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) id: BlockId,
    pub(crate) version: Version,
    pub(crate) len: u64,
    pub(crate) sha256: [u8; 32],
}

/// Who is told how it goes.
pub(crate) trait Watcher {
    /// A block is durable.
    fn stored(&mut self, block: &Stored) -> Result<(), CliError>;
    /// An input can't be read, or not to its end.
    fn unreadable(&mut self, source: usize, error: &io::Error);
    /// Some time has passed.
    fn tick(&mut self) {}
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
    let mut tick = tokio::time::interval(home::STATUS_EVERY);
    let (mut ending, mut failure) = (Ending::Complete, None);
    let (mut asked_to_stop, mut exhausted) = (false, false);
    let mut tasks = JoinSet::<Result<Vec<Stored>, CliError>>::new();
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
                    Ok(stored) => stored.and_then(|blocks| {
                        blocks.iter().try_for_each(|block| watcher.stored(block))
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
            _ = tick.tick() => watcher.tick(),
        }
    }
    match failure {
        Some(e) => Err(e),
        None => Ok(ending),
    }
}

async fn store(account: Account, names: Arc<[Vec<u8>]>, pieces: Vec<Piece>) -> Result<Vec<Stored>, CliError> {
    let mut blocks: Vec<(BlockId, Bytes)> = Vec::with_capacity(pieces.len());
    let mut stored = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let name = names.get(piece.source).map_or(&[][..], Vec::as_slice);
        // Names were checked by `check_name`.
        let id = block_id(name, piece.number).map_err(|e| CliError::Task(e.to_string()))?;
        let sha256 = Sha256::digest(&piece.data).into();
        let len = piece.data.len() as u64;
        stored.push(Stored { id: id.clone(), version: Version::new(0), len, sha256 });
        blocks.push((id, piece.data));
    }
    let receipts = account.put_batch(blocks).await?;
    for (stored, receipt) in stored.iter_mut().zip(receipts) {
        stored.version = receipt.version;
    }
    Ok(stored)
}

/// The id of an input's block: its name, a slash and the block's number in 12 digits, so that they list in order.
pub(crate) fn block_id(name: &[u8], number: u64) -> Result<BlockId, IdError> {
    BlockId::new([name, format!("/{number:012}").as_bytes()].concat())
}

/// Whether every block of an input of this name has an id.
pub(crate) fn check_name(name: &[u8]) -> Result<(), IdError> {
    block_id(name, u64::MAX).map(drop)
}
