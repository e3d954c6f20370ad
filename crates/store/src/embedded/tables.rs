//! What the store's tables hold, and every transaction over them.
//!
//! Invariants:
//! - `blocks`: account (16 bytes) and block id, to the block's meta.
//! - `rows`: version (u64) and row (u32), big-endian, to at most [`ROW`] sealed bytes; a block has exactly the
//!   rows that its meta's length says, and every row belongs to a block. Keys grow, so rows are appended.
//! - `catalog`: key, to revision (u64, big-endian) and record.
//! - `meta`: counters; `transaction` grows with every commit, so that after a failure one can see whether a
//!   commit was kept.
//!
//! A block and its rows change in one transaction. Transactions are durable (two-phase: pages first, then the
//! header that points to them) and keep redb's allocator state (quick repair), see [`super`].

use std::{
    collections::BTreeSet,
    ops::{Bound, Range},
};

use bytes::{Bytes, BytesMut};
use cofferdam_crypto::{AccountId, BlockId, Version};
use redb::{
    AccessGuard, Database, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable, Table,
    TableDefinition, TableError,
};

use super::{guard::Fault, header::ROW};
use crate::{
    block_store::{Applied, BlockMeta, BlockOp},
    catalog::{Revision, Stored},
    error::{StoreError, StoreErrorKind},
};

const BLOCKS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("blocks");
const ROWS: TableDefinition<'_, &[u8; 12], &[u8]> = TableDefinition::new("rows");
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
}

/// What became of a [`Work`].
#[derive(Debug)]
pub(crate) enum Done {
    Blocks(Vec<Applied>),
    Swap(Option<Revision>),
}

/// Applies all works in one durable transaction, numbered `number`. Each work's own failure leaves the others
/// alone. `answers` is filled before the commit is tried, and counts if the transaction was kept.
pub(crate) fn apply(
    database: &Database,
    works: &[&Work],
    number: u64,
    answers: &mut Option<Vec<Result<Done, StoreError>>>,
) -> Result<(), Fault> {
    let mut transaction = database.begin_write()?;
    transaction.set_two_phase_commit(true);
    transaction.set_quick_repair(true);
    let mut done = Vec::with_capacity(works.len());
    {
        let mut blocks = transaction.open_table(BLOCKS)?;
        let mut rows = transaction.open_table(ROWS)?;
        let mut catalog = transaction.open_table(CATALOG)?;
        let mut meta = transaction.open_table(META)?;
        let mut version = meta.get(LAST_VERSION)?.map_or(0, |value| value.value());
        let mut revision = meta.get(LAST_REVISION)?.map_or(0, |value| value.value());
        for work in works {
            done.push(match work {
                Work::Blocks(ops) => match check_versions(&blocks, &rows, ops)? {
                    Some(error) => Err(error),
                    None => {
                        let mut applied = Vec::with_capacity(ops.len());
                        for op in ops {
                            version = version.max(op.version().number());
                            applied.push(apply_op(&mut blocks, &mut rows, op)?);
                        }
                        Ok(Done::Blocks(applied))
                    }
                },
                Work::Swap { key, expected, new } => {
                    swap(&mut catalog, key, expected.as_ref(), new.as_ref(), &mut revision)?.map(Done::Swap)
                }
            });
        }
        meta.insert(LAST_VERSION, version)?;
        meta.insert(LAST_REVISION, revision)?;
        meta.insert(TRANSACTION, number)?;
    }
    *answers = Some(done);
    transaction.commit()?;
    Ok(())
}

/// Refuses a put whose version some other block has: its rows would be overwritten.
fn check_versions(
    blocks: &Table<'_, &'static [u8], &'static [u8]>,
    rows: &Table<'_, &'static [u8; 12], &'static [u8]>,
    ops: &[BlockOp],
) -> Result<Option<StoreError>, Fault> {
    let mut seen = BTreeSet::new();
    for op in ops {
        let BlockOp::Put { account, id, meta, .. } = op else { continue };
        let taken = !seen.insert(meta.version)
            || rows.get(&row_key(meta.version, 0))?.is_some()
                && match blocks.get(&block_key(*account, id)[..])? {
                    Some(stored) => BlockMeta::decode(stored.value())?.version != meta.version,
                    None => true,
                };
        if taken {
            return Ok(Some(
                StoreError::new(StoreErrorKind::Conflict)
                    .with_detail(format!("version {} is that of another block already", meta.version)),
            ));
        }
    }
    Ok(None)
}

fn apply_op(
    blocks: &mut Table<'_, &'static [u8], &'static [u8]>,
    rows: &mut Table<'_, &'static [u8; 12], &'static [u8]>,
    op: &BlockOp,
) -> Result<Applied, Fault> {
    let key = block_key(op.account(), op.id());
    let stored = match blocks.get(&key[..])? {
        Some(stored) => Some(BlockMeta::decode(stored.value())?),
        None => None,
    };
    if let Some(stored) = &stored {
        if stored.version >= op.version() {
            return Ok(Applied::Superseded { by: stored.version });
        }
        for row in 0..stored_rows(stored)? {
            if rows.remove(&row_key(stored.version, row))?.is_none() {
                return Err(missing_row(stored.version, row).into());
            }
        }
    }
    match op {
        BlockOp::Put { meta, sealed, .. } => {
            for (row, piece) in sealed.chunks(ROW).enumerate() {
                let row = u32::try_from(row).map_err(|_| too_large())?;
                rows.insert(&row_key(meta.version, row), piece)?;
            }
            blocks.insert(&key[..], &meta.encode()[..])?;
            Ok(Applied::Written)
        }
        BlockOp::Delete { .. } if stored.is_none() => Ok(Applied::Absent),
        BlockOp::Delete { .. } => {
            blocks.remove(&key[..])?;
            Ok(Applied::Deleted)
        }
    }
}

fn swap(
    catalog: &mut Table<'_, &'static str, &'static [u8]>,
    key: &str,
    expected: Option<&Revision>,
    new: Option<&Bytes>,
    last: &mut u64,
) -> Result<Result<Option<Revision>, StoreError>, Fault> {
    let stored = match catalog.get(key)? {
        Some(stored) => Some(decode_record(stored.value())?.revision),
        None => None,
    };
    if stored.as_ref() != expected {
        let detail = match stored {
            Some(_) => format!("record {key:?} has another revision"),
            None => format!("record {key:?} does not exist"),
        };
        return Ok(Err(StoreError::new(StoreErrorKind::Conflict).with_detail(detail)));
    }
    let Some(new) = new else {
        catalog.remove(key)?;
        return Ok(Ok(None));
    };
    *last += 1;
    let mut record = BytesMut::with_capacity(8 + new.len());
    record.extend_from_slice(&last.to_be_bytes());
    record.extend_from_slice(new);
    catalog.insert(key, &record[..])?;
    Ok(Ok(Some(revision(*last))))
}

/// The number of the last transaction that was kept, 0 for none.
pub(crate) fn last_transaction(database: &Database) -> Result<u64, Fault> {
    counter(database, TRANSACTION)
}

/// The highest version ever committed.
pub(crate) fn last_version(database: &Database) -> Result<Version, Fault> {
    Ok(Version::new(counter(database, LAST_VERSION)?))
}

fn counter(database: &Database, name: &str) -> Result<u64, Fault> {
    let reader = database.begin_read()?;
    let Some(meta) = existing(reader.open_table(META))? else { return Ok(0) };
    Ok(meta.get(name)?.map_or(0, |value| value.value()))
}

pub(crate) fn stat(
    database: &Database,
    account: AccountId,
    id: &BlockId,
) -> Result<Option<BlockMeta>, Fault> {
    find(&database.begin_read()?, account, id)
}

pub(crate) fn fetch(
    database: &Database,
    account: AccountId,
    id: &BlockId,
) -> Result<Option<(BlockMeta, Bytes)>, Fault> {
    let reader = database.begin_read()?;
    let Some(meta) = find(&reader, account, id)? else { return Ok(None) };
    let sealed = read_range(&reader, &meta, 0..meta.sealed_len)?;
    Ok(Some((meta, sealed)))
}

pub(crate) fn read(
    database: &Database,
    account: AccountId,
    id: &BlockId,
    version: Version,
    ranges: &[Range<u64>],
) -> Result<Option<Vec<Bytes>>, Fault> {
    let reader = database.begin_read()?;
    let Some(meta) = find(&reader, account, id)?.filter(|meta| meta.version == version) else {
        return Ok(None);
    };
    if let Some(range) = ranges.iter().find(|range| range.start > range.end || range.end > meta.sealed_len) {
        return Err(StoreError::new(StoreErrorKind::OutOfBounds)
            .with_detail(format!("bytes {} to {} of {}", range.start, range.end, meta.sealed_len))
            .into());
    }
    ranges.iter().map(|range| read_range(&reader, &meta, range.clone())).collect::<Result<_, _>>().map(Some)
}

pub(crate) fn list(
    database: &Database,
    account: AccountId,
    after: Option<&BlockId>,
    limit: usize,
) -> Result<Vec<(BlockId, BlockMeta)>, Fault> {
    let reader = database.begin_read()?;
    let Some(blocks) = existing(reader.open_table(BLOCKS))? else { return Ok(Vec::new()) };
    let (first, lower) = match after {
        Some(id) => (block_key(account, id), true),
        None => (account.as_bytes().to_vec(), false),
    };
    let lower = if lower { Bound::Excluded(&first[..]) } else { Bound::Included(&first[..]) };
    let mut found = Vec::new();
    for entry in blocks.range::<&[u8]>((lower, Bound::Unbounded))?.take(limit) {
        let (key, meta) = entry?;
        let Some(id) = key.value().strip_prefix(account.as_bytes()) else { break };
        let id = BlockId::new(id).map_err(|error| {
            StoreError::new(StoreErrorKind::Corrupt)
                .with_detail("a block's id is out of bounds")
                .caused_by(error)
        })?;
        found.push((id, BlockMeta::decode(meta.value())?));
    }
    Ok(found)
}

/// The next `limit` blocks of any account after this account and id, for a walk over all.
pub(crate) fn walk(
    database: &Database,
    after: Option<&(AccountId, BlockId)>,
    limit: usize,
) -> Result<Vec<(AccountId, BlockId)>, Fault> {
    let reader = database.begin_read()?;
    let Some(blocks) = existing(reader.open_table(BLOCKS))? else { return Ok(Vec::new()) };
    let first = after.map(|(account, id)| block_key(*account, id));
    let lower = first.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
    let mut found = Vec::new();
    for entry in blocks.range::<&[u8]>((lower, Bound::Unbounded))?.take(limit) {
        let (key, _) = entry?;
        let named = key
            .value()
            .split_first_chunk::<16>()
            .and_then(|(account, id)| Some((AccountId::from_bytes(*account), BlockId::new(id).ok()?)));
        found.push(named.ok_or_else(|| {
            StoreError::new(StoreErrorKind::Corrupt).with_detail("a block's name does not decode")
        })?);
    }
    Ok(found)
}

pub(crate) fn load(database: &Database, key: &str) -> Result<Option<Stored>, Fault> {
    let reader = database.begin_read()?;
    let Some(catalog) = existing(reader.open_table(CATALOG))? else { return Ok(None) };
    Ok(match catalog.get(key)? {
        Some(record) => Some(decode_record(record.value())?),
        None => None,
    })
}

pub(crate) fn list_records(
    database: &Database,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<(String, Stored)>, Fault> {
    let reader = database.begin_read()?;
    let Some(catalog) = existing(reader.open_table(CATALOG))? else { return Ok(Vec::new()) };
    let lower = match after {
        Some(after) if after >= prefix => Bound::Excluded(after),
        _ => Bound::Included(prefix),
    };
    let mut found = Vec::new();
    for entry in catalog.range::<&str>((lower, Bound::Unbounded))?.take(limit) {
        let (key, record) = entry?;
        if !key.value().starts_with(prefix) {
            break;
        }
        found.push((key.value().to_owned(), decode_record(record.value())?));
    }
    Ok(found)
}

fn find(reader: &ReadTransaction, account: AccountId, id: &BlockId) -> Result<Option<BlockMeta>, Fault> {
    let Some(blocks) = existing(reader.open_table(BLOCKS))? else { return Ok(None) };
    Ok(match blocks.get(&block_key(account, id)[..])? {
        Some(meta) => Some(BlockMeta::decode(meta.value())?),
        None => None,
    })
}

/// Bytes of a block's sealed bytes; touches only the rows that hold them.
fn read_range(reader: &ReadTransaction, meta: &BlockMeta, range: Range<u64>) -> Result<Bytes, Fault> {
    if range.is_empty() {
        return Ok(Bytes::new());
    }
    stored_rows(meta)?;
    let rows = reader.open_table(ROWS)?;
    let row_len = ROW as u64;
    // No more rows than `stored_rows` allows, and that is a u32.
    let (first, last) = ((range.start / row_len) as u32, ((range.end - 1) / row_len) as u32);
    if first != last {
        // The length is only what the meta says: memory is taken for it once the rows bear it out.
        row_of(&rows, meta, last)?;
    }
    let mut out = room_for(range.end - range.start)?;
    for row in first..=last {
        let piece = row_of(&rows, meta, row)?;
        let begins = u64::from(row) * row_len;
        let from = range.start.saturating_sub(begins) as usize;
        let to = (range.end - begins).min(row_len) as usize;
        out.extend_from_slice(&piece.value()[from..to]);
    }
    Ok(out.into())
}

/// A row of a block, which has the length that it should have.
fn row_of(
    rows: &ReadOnlyTable<&'static [u8; 12], &'static [u8]>,
    meta: &BlockMeta,
    row: u32,
) -> Result<AccessGuard<'static, &'static [u8]>, Fault> {
    let missing = || missing_row(meta.version, row);
    let piece = rows.get(&row_key(meta.version, row))?.ok_or_else(missing)?;
    let rest = meta.sealed_len - u64::from(row) * ROW as u64;
    if piece.value().len() as u64 != rest.min(ROW as u64) {
        return Err(missing().into());
    }
    Ok(piece)
}

/// Memory, or an error where an ordinary allocation would abort.
fn room_for(len: u64) -> Result<Vec<u8>, StoreError> {
    let none = || {
        StoreError::new(StoreErrorKind::TooLarge).with_detail(format!("there is no memory for {len} bytes"))
    };
    let mut out = Vec::new();
    out.try_reserve_exact(usize::try_from(len).map_err(|_| none())?).map_err(|_| none())?;
    Ok(out)
}

/// A table that no transaction has made yet is an empty one.
fn existing<T>(table: Result<T, TableError>) -> Result<Option<T>, Fault> {
    match table {
        Ok(table) => Ok(Some(table)),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// How many rows a block of this length has.
pub(crate) fn row_count(sealed_len: u64) -> Result<u32, StoreError> {
    u32::try_from(sealed_len.div_ceil(ROW as u64)).map_err(|_| too_large())
}

/// How many rows a stored block has. What has more than can be was not stored by us.
fn stored_rows(meta: &BlockMeta) -> Result<u32, StoreError> {
    row_count(meta.sealed_len).map_err(|_| {
        StoreError::new(StoreErrorKind::Corrupt)
            .with_detail(format!("a block is said to have {} bytes", meta.sealed_len))
    })
}

fn too_large() -> StoreError {
    StoreError::new(StoreErrorKind::TooLarge).with_detail("a block has more rows than can be counted")
}

fn missing_row(version: Version, row: u32) -> StoreError {
    StoreError::new(StoreErrorKind::Corrupt)
        .with_detail(format!("row {row} of version {version} is missing or of the wrong length"))
}

fn block_key(account: AccountId, id: &BlockId) -> Vec<u8> {
    [account.as_bytes(), id.as_bytes()].concat()
}

fn row_key(version: Version, row: u32) -> [u8; 12] {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&version.number().to_be_bytes());
    key[8..].copy_from_slice(&row.to_be_bytes());
    key
}

fn revision(number: u64) -> Revision {
    Revision::new(number.to_string())
}

fn decode_record(record: &[u8]) -> Result<Stored, StoreError> {
    match record.split_first_chunk::<8>() {
        Some((number, bytes)) => Ok(Stored {
            bytes: Bytes::copy_from_slice(bytes),
            revision: revision(u64::from_be_bytes(*number)),
        }),
        None => Err(StoreError::new(StoreErrorKind::Corrupt).with_detail("a record does not decode")),
    }
}

#[cfg(test)]
mod tests;
