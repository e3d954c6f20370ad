//! What the fallback buffer holds, and whether the tables agree.
//!
//! Guarantees: answers come from one moment; the check finds a row that belongs to no block or to two, and a usage
//! that is not what the buffer holds, in bounded memory.

use std::ops::Bound;

use cofferdam_crypto::{AccountId, BlockId, Version};
use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata};

use super::{
    BLOCKS, BUFFER, BUFFERED, ROWS, corrupt, existing, read::metas_of, segments, split_key, stored_rows,
};
use crate::{
    block_store::{BlockMeta, BufferUsage},
    embedded::guard::Fault,
    error::StoreError,
    plan::decode_usage,
};

/// How many versions the check compares with each other at a time: 8 bytes each.
const VERSIONS_AT_ONCE: u64 = 1 << 20;

pub(crate) fn buffered(
    database: &Database,
    account: AccountId,
    after: Option<&BlockId>,
    limit: usize,
) -> Result<Vec<(BlockId, BlockMeta)>, Fault> {
    metas_of(&database.begin_read()?, BUFFER, account, after, limit)
}

pub(crate) fn buffer_usage(database: &Database, account: AccountId) -> Result<Option<BufferUsage>, Fault> {
    let reader = database.begin_read()?;
    let Some(usages) = existing(reader.open_table(BUFFERED))? else { return Ok(None) };
    usage_in(&usages, account)
}

pub(super) fn usage_in(
    usages: &impl ReadableTable<&'static [u8; 16], &'static [u8]>,
    account: AccountId,
) -> Result<Option<BufferUsage>, Fault> {
    Ok(match usages.get(account.as_bytes())? {
        Some(usage) => Some(decode_usage(usage.value())?),
        None => None,
    })
}

pub(crate) fn buffering(
    database: &Database,
    after: Option<AccountId>,
    limit: usize,
) -> Result<Vec<(AccountId, BufferUsage)>, Fault> {
    let reader = database.begin_read()?;
    let Some(usages) = existing(reader.open_table(BUFFERED))? else { return Ok(Vec::new()) };
    let after = after.map(|account| *account.as_bytes());
    let lower = after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
    let mut found = Vec::new();
    for entry in usages.range::<&[u8; 16]>((lower, Bound::Unbounded))?.take(limit) {
        let (account, usage) = entry?;
        found.push((AccountId::from_bytes(*account.value()), decode_usage(usage.value())?));
    }
    Ok(found)
}

/// Checks that every row belongs to exactly one block of either place, as far as that can be told without reading
/// them, and that each usage and each segment is what the account's buffer holds.
pub(crate) fn check(database: &Database) -> Result<(), Fault> {
    let reader = database.begin_read()?;
    check_rows(&reader)?;
    check_usages(&reader)?;
    segments::check(&reader)
}

/// Each block's rows are met when it is read; what remains is that no two share them, and that there are no more.
fn check_rows(reader: &ReadTransaction) -> Result<(), Fault> {
    let mut blocks = 0;
    for table in [BLOCKS, BUFFER] {
        blocks += existing(reader.open_table(table))?.map_or(Ok(0), |table| table.len())?;
    }
    let parts = blocks / VERSIONS_AT_ONCE + 1;
    let mut claimed = 0;
    for part in 0..parts {
        let mut versions: Vec<Version> = Vec::new();
        claimed = 0;
        for table in [BLOCKS, BUFFER] {
            let Some(table) = existing(reader.open_table(table))? else { continue };
            for entry in table.iter()? {
                let meta = BlockMeta::decode(entry?.1.value())?;
                let rows = u64::from(stored_rows(&meta)?);
                claimed += rows;
                if rows > 0 && meta.version.number() % parts == part {
                    versions.push(meta.version);
                }
            }
        }
        versions.sort_unstable();
        if let Some(twice) = versions.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(corrupt(format!("two blocks have version {}", twice[0])).into());
        }
    }
    let rows = existing(reader.open_table(ROWS))?.map_or(Ok(0), |table| table.len())?;
    if rows == claimed {
        return Ok(());
    }
    Err(corrupt(format!("there are {rows} rows, and blocks have {claimed}")).into())
}

/// Both tables are in the order of accounts, so each account's blocks lie together.
fn check_usages(reader: &ReadTransaction) -> Result<(), Fault> {
    let mut usages = match existing(reader.open_table(BUFFERED))? {
        Some(usages) => Some(usages.range::<&[u8; 16]>(..)?),
        None => None,
    };
    let mut next_usage = || -> Result<Option<Sum>, Fault> {
        let Some((account, usage)) = usages.as_mut().and_then(Iterator::next).transpose()? else {
            return Ok(None);
        };
        let BufferUsage { blocks, bytes, .. } = decode_usage(usage.value())?;
        Ok(Some(Sum { account: AccountId::from_bytes(*account.value()), blocks, bytes }))
    };
    let mut sum: Option<Sum> = None;
    if let Some(buffer) = existing(reader.open_table(BUFFER))? {
        for entry in buffer.iter()? {
            let (key, meta) = entry?;
            let (account, _) = split_key(key.value())?;
            let len = BlockMeta::decode(meta.value())?.sealed_len;
            if let Some(ended) = sum.take_if(|sum| sum.account != account) {
                ended.is_as_said(next_usage()?.as_ref())?;
            }
            let sum = sum.get_or_insert(Sum { account, blocks: 0, bytes: 0 });
            sum.blocks += 1;
            sum.bytes = sum.bytes.saturating_add(len);
        }
    }
    if let Some(last) = sum {
        last.is_as_said(next_usage()?.as_ref())?;
    }
    match next_usage()? {
        Some(more) => Err(more.is_wrong().into()),
        None => Ok(()),
    }
}

/// What the blocks of an account's buffer add up to, or are said to.
#[derive(PartialEq)]
struct Sum {
    account: AccountId,
    blocks: u64,
    bytes: u64,
}

impl Sum {
    fn is_as_said(&self, said: Option<&Self>) -> Result<(), StoreError> {
        if said == Some(self) { Ok(()) } else { Err(self.is_wrong()) }
    }

    fn is_wrong(&self) -> StoreError {
        corrupt(format!("the usage of account {}'s buffer is not what it holds", self.account))
    }
}
