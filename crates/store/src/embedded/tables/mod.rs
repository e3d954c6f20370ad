//! What the store's tables hold, and every transaction over them.
//!
//! Invariants:
//! - `blocks` and `buffer`: account (16 bytes) and block id, to the block's meta: what is stored, and what is buffered.
//!   A block may be in both; what is buffered is newer then.
//! - `rows`: version (u64) and row (u32), big-endian, to at most [`ROW`] sealed bytes. A version belongs to one block
//!   in one of the two places, which has exactly the rows that its meta's length says, and every row belongs to one.
//!   Keys grow, so rows are appended.
//! - `buffered`: account, to how many blocks and bytes of it `buffer` holds and since when; no row for none.
//! - `segments`: account and segment, to how many blocks of it `buffer` holds and its record; no row for none.
//! - `catalog`: key, to revision (u64, big-endian) and record.
//! - `meta`: counters; `transaction` grows with every commit, so that after a failure one can see whether a
//!   commit was kept.
//! - A table that no transaction has made yet is an empty one: a store may be older than a table.
//!
//! A block, its rows, its account's usage and its segment change in one transaction. Transactions are durable (two-phase: pages
//! first, then the header that points to them) and keep redb's allocator state (quick repair), see [`super`].

mod apply;
mod buffer;
mod copy;
mod read;
mod records;
mod removal;
mod segments;

use bytes::Bytes;
use cofferdam_crypto::{AccountId, BlockId, SegmentId, Version};
use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, TableError};

pub(crate) use self::{
    apply::apply,
    buffer::{buffer_usage, buffered, buffering, check},
    copy::{ALL, check_known, check_same, finish, lengths},
    read::{fetch, fetch_stored, list, read, read_through, stat, stored, walk},
    records::{list_records, load},
    segments::{segment, segments},
};
use super::{guard::Fault, header::ROW};
use crate::{
    block_store::{Applied, BlockMeta, BlockOp},
    catalog::Revision,
    error::{StoreError, StoreErrorKind},
    plan::corrupt,
};

const BLOCKS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("blocks");
const BUFFER: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("buffer");
const ROWS: TableDefinition<'_, &[u8; 12], &[u8]> = TableDefinition::new("rows");
const BUFFERED: TableDefinition<'_, &[u8; 16], &[u8]> = TableDefinition::new("buffered");
const SEGMENTS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("segments");
const CATALOG: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("catalog");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

const LAST_VERSION: &str = "last_version";
const LAST_REVISION: &str = "last_revision";
const TRANSACTION: &str = "transaction";

/// One caller's write: applied whole or not at all.
#[derive(Debug)]
pub(crate) enum Work {
    Blocks(Vec<BlockOp>),
    Swap { key: String, expected: Option<Revision>, new: Option<Bytes> },
    ReplaceSegment { account: AccountId, segment: SegmentId, expected: Bytes, new: Bytes },
    Remove { account: AccountId, limit: usize },
}

/// What became of a [`Work`].
#[derive(Debug)]
pub(crate) enum Done {
    Blocks(Vec<Applied>),
    Swap(Option<Revision>),
    Replaced(bool),
    Removed(u64),
}

/// The number of the last transaction that was kept, 0 for none.
pub(crate) fn last_transaction(database: &Database) -> Result<u64, Fault> {
    counter(&database.begin_read()?, TRANSACTION)
}

/// The highest version ever committed.
pub(crate) fn last_version(database: &Database) -> Result<Version, Fault> {
    Ok(Version::new(counter(&database.begin_read()?, LAST_VERSION)?))
}

fn counter(reader: &ReadTransaction, name: &str) -> Result<u64, Fault> {
    let Some(meta) = existing(reader.open_table(META))? else { return Ok(0) };
    Ok(meta.get(name)?.map_or(0, |value| value.value()))
}

/// The table, if a transaction has made it.
fn existing<T>(table: Result<T, TableError>) -> Result<Option<T>, Fault> {
    match table {
        Ok(table) => Ok(Some(table)),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A block's meta in `blocks` or `buffer`.
fn meta_in(
    table: &impl ReadableTable<&'static [u8], &'static [u8]>,
    key: &[u8],
) -> Result<Option<BlockMeta>, Fault> {
    Ok(match table.get(key)? {
        Some(meta) => Some(BlockMeta::decode(meta.value())?),
        None => None,
    })
}

/// How many rows a block of this length has.
pub(crate) fn row_count(sealed_len: u64) -> Result<u32, StoreError> {
    u32::try_from(sealed_len.div_ceil(ROW as u64)).map_err(|_| too_large())
}

/// How many rows a stored block has. What has more than can be was not stored by us.
fn stored_rows(meta: &BlockMeta) -> Result<u32, StoreError> {
    row_count(meta.sealed_len)
        .map_err(|_| corrupt(format!("a block is said to have {} bytes", meta.sealed_len)))
}

fn too_large() -> StoreError {
    StoreError::new(StoreErrorKind::TooLarge).with_detail("a block has more rows than can be counted")
}

fn missing_row(version: Version, row: u32) -> StoreError {
    corrupt(format!("row {row} of version {version} is missing or of the wrong length"))
}

fn block_key(account: AccountId, id: &BlockId) -> Vec<u8> {
    [account.as_bytes(), id.as_bytes()].concat()
}

/// Where the entries of the account after this one begin; `None` after the last there can be.
fn next_account(account: AccountId) -> Option<[u8; 16]> {
    u128::from_be_bytes(*account.as_bytes()).checked_add(1).map(u128::to_be_bytes)
}

fn split_key(key: &[u8]) -> Result<(AccountId, BlockId), StoreError> {
    let (account, id) =
        key.split_first_chunk::<16>().ok_or_else(|| corrupt("a block's name is too short"))?;
    let id = BlockId::new(id).map_err(|error| corrupt("a block's id is out of bounds").caused_by(error))?;
    Ok((AccountId::from_bytes(*account), id))
}

fn row_key(version: Version, row: u32) -> [u8; 12] {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&version.number().to_be_bytes());
    key[8..].copy_from_slice(&row.to_be_bytes());
    key
}

#[cfg(test)]
mod tests;
