//! The segments of fallback buffers: how many blocks each has, and its record.
//!
//! Guarantees: each row is what the plan makes of its segment; the check finds a row too many, too few, or with another count.
//!
//! Not its job: what becomes of a segment (`plan`); what a record says, or whether it is genuine.

use std::{collections::BTreeMap, ops::Bound};

use bytes::Bytes;
use cofferdam_crypto::{AccountId, SegmentId};
use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, Table};

use super::{BUFFER, SEGMENTS, corrupt, existing, split_key};
use crate::{
    block_store::{BlockMeta, BlockOp, SegmentRow},
    embedded::guard::Fault,
    error::StoreError,
    plan::{Held, SegmentState, joined, left, wrong_segment as wrong},
};

type Key = (AccountId, SegmentId);
type Rows<'t> = Table<'t, &'static [u8; 32], &'static [u8]>;

/// The segments that a work changes, as they are after its last operation; `None`: there is none.
#[derive(Debug, Default)]
pub(super) struct Changes(BTreeMap<Key, Option<SegmentState>>);

impl Changes {
    /// What an operation makes of segments that turns `before` into `after`, which differ in what is buffered; or why
    /// it is refused.
    pub(super) fn plan(
        &mut self,
        rows: &Rows<'_>,
        op: &BlockOp,
        before: &Held,
        after: &Held,
    ) -> Result<Result<(), StoreError>, Fault> {
        let segment_of = |held: &Held| held.buffered.and_then(|meta| meta.provider.segment());
        let account = op.account();
        // The one that comes first: a segment whose only block is written anew never has none.
        if let Some(segment) = segment_of(after)
            && let Err(refused) = self.change(rows, (account, segment), |row| joined(row, segment, op))?
        {
            return Ok(Err(refused));
        }
        if let Some(segment) = segment_of(before) {
            return self.leave(rows, account, segment);
        }
        Ok(Ok(()))
    }

    /// What it makes of the segment that one of its blocks leaves the buffer.
    pub(super) fn leave(
        &mut self,
        rows: &Rows<'_>,
        account: AccountId,
        segment: SegmentId,
    ) -> Result<Result<(), StoreError>, Fault> {
        self.change(rows, (account, segment), |row| left(row, segment))
    }

    fn change(
        &mut self,
        rows: &Rows<'_>,
        key: Key,
        change: impl FnOnce(Option<SegmentState>) -> Result<Option<SegmentState>, StoreError>,
    ) -> Result<Result<(), StoreError>, Fault> {
        let row = match self.0.get(&key) {
            Some(row) => row.clone(),
            None => row_in(rows, key)?,
        };
        Ok(change(row).map(|row| drop(self.0.insert(key, row))))
    }

    pub(super) fn carry_out(&self, rows: &mut Rows<'_>) -> Result<(), Fault> {
        for (key, row) in &self.0 {
            match row {
                Some(row) => drop(rows.insert(&row_key(*key), &row.encode()[..])?),
                None => drop(rows.remove(&row_key(*key))?),
            }
        }
        Ok(())
    }
}

pub(crate) fn segment(
    database: &Database,
    account: AccountId,
    segment: SegmentId,
) -> Result<Option<SegmentRow>, Fault> {
    let reader = database.begin_read()?;
    match existing(reader.open_table(SEGMENTS))? {
        Some(rows) => Ok(row_in(&rows, (account, segment))?.map(SegmentRow::from)),
        None => Ok(None),
    }
}

/// Replaces a segment's record, if it is `expected`.
pub(super) fn replace(rows: &mut Rows<'_>, key: Key, expected: &Bytes, new: &Bytes) -> Result<bool, Fault> {
    let Some(row) = row_in(rows, key)?.filter(|row| row.record == expected) else { return Ok(false) };
    let row = SegmentState { record: new.clone(), replaced: true, ..row };
    rows.insert(&row_key(key), &row.encode()[..])?;
    Ok(true)
}

/// Removes segments of an account whose buffer holds no block: at most `limit`; how many.
pub(super) fn remove_rest(rows: &mut Rows<'_>, account: AccountId, limit: usize) -> Result<usize, Fault> {
    let [first, last] = [[0; 16], [0xff; 16]].map(|id| row_key((account, SegmentId::from_bytes(id))));
    let mut keys = Vec::new();
    for entry in rows.range::<&[u8; 32]>(&first..=&last)?.take(limit) {
        keys.push(*entry?.0.value());
    }
    for key in &keys {
        rows.remove(key)?;
    }
    Ok(keys.len())
}

pub(crate) fn segments(
    database: &Database,
    account: AccountId,
    after: Option<SegmentId>,
    limit: usize,
) -> Result<Vec<(SegmentId, SegmentRow)>, Fault> {
    let reader = database.begin_read()?;
    let Some(rows) = existing(reader.open_table(SEGMENTS))? else { return Ok(Vec::new()) };
    let first = row_key((account, after.unwrap_or(SegmentId::from_bytes([0; 16]))));
    let last = row_key((account, SegmentId::from_bytes([0xff; 16])));
    let lower = if after.is_some() { Bound::Excluded(&first) } else { Bound::Included(&first) };
    let mut found = Vec::new();
    for entry in rows.range::<&[u8; 32]>((lower, Bound::Included(&last)))?.take(limit) {
        let (key, row) = entry?;
        found.push((split_row_key(key.value()).1, SegmentState::decode(row.value())?.into()));
    }
    Ok(found)
}

/// Checks that each account's segments are those of the blocks in its buffer. Blocks and segments are both in the order
/// of accounts; one account's segments are held in memory at a time.
pub(super) fn check(reader: &ReadTransaction) -> Result<(), Fault> {
    let mut of_blocks = Counted::default();
    if let Some(buffer) = existing(reader.open_table(BUFFER))? {
        for entry in buffer.iter()? {
            let (key, meta) = entry?;
            let (account, _) = split_key(key.value())?;
            if of_blocks.account != Some(account) {
                check_account(reader, &of_blocks)?;
                of_blocks = Counted { account: Some(account), ..of_blocks.next() };
            }
            if let Some(segment) = BlockMeta::decode(meta.value())?.provider.segment() {
                *of_blocks.blocks.entry(segment).or_default() += 1;
            }
        }
    }
    check_account(reader, &of_blocks)?;
    let rows = match existing(reader.open_table(SEGMENTS))? {
        Some(rows) => redb::ReadableTableMetadata::len(&rows)?,
        None => 0,
    };
    let met = of_blocks.met + of_blocks.blocks.len() as u64;
    if rows == met {
        return Ok(());
    }
    Err(corrupt(format!("there are {rows} segments of buffers, and blocks of {met}")).into())
}

/// How many blocks of each segment one account has, and how many segments those before it had.
#[derive(Default)]
struct Counted {
    account: Option<AccountId>,
    blocks: BTreeMap<SegmentId, u64>,
    met: u64,
}

impl Counted {
    fn next(self) -> Self {
        Self { met: self.met + self.blocks.len() as u64, ..Self::default() }
    }
}

fn check_account(reader: &ReadTransaction, counted: &Counted) -> Result<(), Fault> {
    let Some(account) = counted.account.filter(|_| !counted.blocks.is_empty()) else { return Ok(()) };
    let Some(rows) = existing(reader.open_table(SEGMENTS))? else {
        return Err(corrupt("there are blocks of segments and no segments").into());
    };
    for (&segment, &blocks) in &counted.blocks {
        if row_in(&rows, (account, segment))?.is_none_or(|row| row.blocks != blocks) {
            return Err(wrong(segment).into());
        }
    }
    Ok(())
}

fn row_in(
    rows: &impl ReadableTable<&'static [u8; 32], &'static [u8]>,
    key: Key,
) -> Result<Option<SegmentState>, Fault> {
    Ok(match rows.get(&row_key(key))? {
        Some(row) => Some(SegmentState::decode(row.value())?),
        None => None,
    })
}

fn row_key((account, segment): Key) -> [u8; 32] {
    let mut key = [0; 32];
    key[..16].copy_from_slice(account.as_bytes());
    key[16..].copy_from_slice(segment.as_bytes());
    key
}

fn split_row_key(key: &[u8; 32]) -> Key {
    let part = |from: usize| std::array::from_fn(|i| key[from + i]);
    (AccountId::from_bytes(part(0)), SegmentId::from_bytes(part(16)))
}
