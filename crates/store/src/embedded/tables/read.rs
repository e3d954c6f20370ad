//! Reading blocks, wherever they are.
//!
//! Guarantees: a read sees one moment; of a block in both places it sees what is buffered, which is newer; memory is
//! taken for what rows bear out. A list reads no entry that it does not give, but one of each place to choose from.
//!
//! Not its job: what the buffer holds by itself ([`super::buffer`]).

use std::{
    cmp::Ordering,
    iter::{Flatten, Peekable},
    ops::{Bound, Range},
    option,
};

use bytes::Bytes;
use cofferdam_crypto::{AccountId, BlockId};
use redb::{AccessGuard, Database, ReadOnlyTable, ReadTransaction, ReadableDatabase, TableDefinition};

use super::{
    BLOCKS, BUFFER, ROW, ROWS, block_key, corrupt, existing, meta_in, missing_row, next_account, row_key,
    split_key, stored_rows,
};
use crate::{
    block_store::{BlockMeta, Located},
    embedded::guard::Fault,
    error::{StoreError, StoreErrorKind},
    plan::{Held, check_ranges},
};

pub(crate) fn stat(database: &Database, account: AccountId, id: &BlockId) -> Result<Option<Located>, Fault> {
    Ok(held(&database.begin_read()?, account, id)?.located()?)
}

pub(crate) fn fetch(
    database: &Database,
    account: AccountId,
    id: &BlockId,
) -> Result<Option<(Located, Bytes)>, Fault> {
    let reader = database.begin_read()?;
    let Some(found) = held(&reader, account, id)?.located()? else { return Ok(None) };
    let sealed = read_range(&reader, &found.meta, 0..found.meta.sealed_len)?;
    Ok(Some((found, sealed)))
}

pub(crate) fn read(
    database: &Database,
    account: AccountId,
    id: &BlockId,
    of: &Located,
    ranges: &[Range<u64>],
) -> Result<Option<Vec<Bytes>>, Fault> {
    let reader = database.begin_read()?;
    if held(&reader, account, id)?.located()?.as_ref() != Some(of) {
        return Ok(None);
    }
    check_ranges(of.meta.sealed_len, ranges)?;
    ranges
        .iter()
        .map(|range| read_range(&reader, &of.meta, range.clone()))
        .collect::<Result<_, _>>()
        .map(Some)
}

pub(crate) fn fetch_stored(
    database: &Database,
    account: AccountId,
    id: &BlockId,
) -> Result<Option<(BlockMeta, Bytes)>, Fault> {
    let reader = database.begin_read()?;
    let Some(meta) = held(&reader, account, id)?.stored else { return Ok(None) };
    let sealed = read_range(&reader, &meta, 0..meta.sealed_len)?;
    Ok(Some((meta, sealed)))
}

pub(crate) fn stored(
    database: &Database,
    account: AccountId,
    after: Option<&BlockId>,
    limit: usize,
) -> Result<Vec<(BlockId, BlockMeta)>, Fault> {
    metas_of(&database.begin_read()?, BLOCKS, account, after, limit)
}

/// What one place has of an account.
pub(super) fn metas_of(
    reader: &ReadTransaction,
    table: TableDefinition<'_, &'static [u8], &'static [u8]>,
    account: AccountId,
    after: Option<&BlockId>,
    limit: usize,
) -> Result<Vec<(BlockId, BlockMeta)>, Fault> {
    let mut found = Vec::new();
    for entry in of_account(reader, table, account, after)?.take(limit) {
        let (key, meta) = entry?;
        found.push((split_key(key.value())?.1, BlockMeta::decode(meta.value())?));
    }
    Ok(found)
}

pub(crate) fn list(
    database: &Database,
    account: AccountId,
    after: Option<&BlockId>,
    limit: usize,
) -> Result<Vec<(BlockId, Located)>, Fault> {
    let reader = database.begin_read()?;
    let mut both = Both {
        stored: of_account(&reader, BLOCKS, account, after)?,
        buffered: of_account(&reader, BUFFER, account, after)?,
    };
    let mut found = Vec::new();
    while found.len() < limit
        && let Some(entry) = both.next()?
    {
        let decode =
            |meta: &Option<Value>| meta.as_ref().map(|meta| BlockMeta::decode(meta.value())).transpose();
        let held = Held { stored: decode(&entry.stored)?, buffered: decode(&entry.buffered)? };
        if let Some(located) = held.located()? {
            found.push((split_key(entry.key.value())?.1, located));
        }
    }
    Ok(found)
}

/// The next `limit` blocks of any account and in either place after this account and id, for a walk over all.
pub(crate) fn walk(
    database: &Database,
    after: Option<&(AccountId, BlockId)>,
    limit: usize,
) -> Result<Vec<(AccountId, BlockId)>, Fault> {
    let reader = database.begin_read()?;
    let first = after.map(|(account, id)| block_key(*account, id));
    let lower = first.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
    let mut both = Both {
        stored: entries(&reader, BLOCKS, (lower, Bound::Unbounded))?,
        buffered: entries(&reader, BUFFER, (lower, Bound::Unbounded))?,
    };
    let mut found = Vec::new();
    while found.len() < limit
        && let Some(entry) = both.next()?
    {
        found.push(split_key(entry.key.value())?);
    }
    Ok(found)
}

/// The lengths of what a block has in the store and in the buffer, both read whole.
pub(crate) fn read_through(
    database: &Database,
    account: AccountId,
    id: &BlockId,
) -> Result<[Option<u64>; 2], Fault> {
    let reader = database.begin_read()?;
    let held = held(&reader, account, id)?;
    held.located()?;
    let mut lengths = [None, None];
    for (meta, len) in [held.stored, held.buffered].iter().zip(&mut lengths) {
        if let Some(meta) = meta {
            *len = Some(read_range(&reader, meta, 0..meta.sealed_len)?.len() as u64);
        }
    }
    Ok(lengths)
}

type Value = AccessGuard<'static, &'static [u8]>;

/// What a range of `blocks` or of `buffer` holds.
type Entries = Flatten<option::IntoIter<redb::Range<'static, &'static [u8], &'static [u8]>>>;

/// The entries of an account after this id.
fn of_account(
    reader: &ReadTransaction,
    table: TableDefinition<'_, &'static [u8], &'static [u8]>,
    account: AccountId,
    after: Option<&BlockId>,
) -> Result<Peekable<Entries>, Fault> {
    let first = after.map(|id| block_key(account, id));
    let lower = first.as_deref().map_or(Bound::Included(&account.as_bytes()[..]), Bound::Excluded);
    let next = next_account(account);
    let upper = next.as_ref().map_or(Bound::Unbounded, |next| Bound::Excluded(&next[..]));
    entries(reader, table, (lower, upper))
}

fn entries(
    reader: &ReadTransaction,
    table: TableDefinition<'_, &'static [u8], &'static [u8]>,
    bounds: (Bound<&[u8]>, Bound<&[u8]>),
) -> Result<Peekable<Entries>, Fault> {
    let range = match existing(reader.open_table(table))? {
        Some(table) => Some(table.range::<&[u8]>(bounds)?),
        None => None,
    };
    Ok(range.into_iter().flatten().peekable())
}

/// The entries of both places, merged by key.
struct Both {
    stored: Peekable<Entries>,
    buffered: Peekable<Entries>,
}

/// One block's entries; there is at least one.
struct Entry {
    key: Value,
    stored: Option<Value>,
    buffered: Option<Value>,
}

impl Both {
    fn next(&mut self) -> Result<Option<Entry>, Fault> {
        let order = match (self.stored.peek(), self.buffered.peek()) {
            (Some(Ok((stored, _))), Some(Ok((buffered, _)))) => stored.value().cmp(buffered.value()),
            // One that does not read is met first.
            (Some(Err(_)), _) | (_, None) => Ordering::Less,
            (None, _) | (_, Some(Err(_))) => Ordering::Greater,
        };
        let stored = if order.is_le() { self.stored.next().transpose()? } else { None };
        let buffered = if order.is_ge() { self.buffered.next().transpose()? } else { None };
        Ok(match (stored, buffered) {
            (Some((key, stored)), Some((_, buffered))) => {
                Some(Entry { key, stored: Some(stored), buffered: Some(buffered) })
            }
            (Some((key, stored)), None) => Some(Entry { key, stored: Some(stored), buffered: None }),
            (None, Some((key, buffered))) => Some(Entry { key, stored: None, buffered: Some(buffered) }),
            (None, None) => None,
        })
    }
}

fn held(reader: &ReadTransaction, account: AccountId, id: &BlockId) -> Result<Held, Fault> {
    let key = block_key(account, id);
    let find = |table| match existing(reader.open_table(table))? {
        Some(table) => meta_in(&table, &key),
        None => Ok(None),
    };
    Ok(Held { stored: find(BLOCKS)?, buffered: find(BUFFER)? })
}

/// Bytes of a block's sealed bytes; touches only the rows that hold them.
fn read_range(reader: &ReadTransaction, meta: &BlockMeta, range: Range<u64>) -> Result<Bytes, Fault> {
    if range.is_empty() {
        return Ok(Bytes::new());
    }
    stored_rows(meta)?;
    let rows = existing(reader.open_table(ROWS))?.ok_or_else(|| corrupt("there are blocks and no rows"))?;
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
) -> Result<Value, Fault> {
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
