//! Removing all that an account has, a piece at a time.
//!
//! Guarantees: after each piece the tables agree, so that a crash between two of them leaves a sound store with less of the
//! account in it. What is damaged goes like the rest, as far as its name and its meta read.
//!
//! Not its job: the account's record, or to take the bytes out of the file: that is a compaction's.

use cofferdam_crypto::AccountId;
use redb::ReadableTable;

use super::{
    apply::Places,
    next_account, row_key,
    segments::{self, Changes},
};
use crate::{
    block_store::{BlockMeta, BufferUsage},
    embedded::guard::Fault,
    plan::encode_usage,
};

impl Places<'_> {
    /// Removes at most `limit` blocks and segments of an account, one at least if there is one; how many.
    pub(super) fn remove_of(&mut self, account: AccountId, limit: usize) -> Result<u64, Fault> {
        let limit = limit.max(1);
        let stored = some_of(&self.blocks, account, limit)?;
        for (key, meta) in &stored {
            self.remove_all_rows(meta)?;
            self.blocks.remove(&key[..])?;
        }
        let mut removed = stored.len();
        let buffered = some_of(&self.buffer, account, limit - removed)?;
        let mut changes = Changes::default();
        for (key, meta) in &buffered {
            self.remove_all_rows(meta)?;
            self.buffer.remove(&key[..])?;
            if let Some(segment) = meta.provider.segment() {
                changes.leave(&self.segments, account, segment)??;
            }
        }
        changes.carry_out(&mut self.segments)?;
        removed += buffered.len();
        if some_of(&self.buffer, account, 1)?.is_empty() {
            self.usages.remove(account.as_bytes())?;
            removed += segments::remove_rest(&mut self.segments, account, limit - removed)?;
        } else if let Some(usage) = self.usage(account)? {
            let bytes: u64 = buffered.iter().map(|(_, meta)| meta.sealed_len).sum();
            let usage = BufferUsage {
                blocks: usage.blocks.saturating_sub(buffered.len() as u64).max(1),
                bytes: usage.bytes.saturating_sub(bytes),
                ..usage
            };
            self.usages.insert(account.as_bytes(), &encode_usage(&usage)[..])?;
        }
        Ok(removed as u64)
    }

    /// Whatever rows there are of it, be they as many as its meta says or not.
    fn remove_all_rows(&mut self, meta: &BlockMeta) -> Result<(), Fault> {
        let (first, last) = (row_key(meta.version, 0), row_key(meta.version, u32::MAX));
        loop {
            let next = self.rows.range::<&[u8; 12]>(&first..=&last)?.next().transpose()?;
            let Some(row) = next.map(|(key, _)| *key.value()) else { return Ok(()) };
            self.rows.remove(&row)?;
        }
    }
}

/// The first blocks of an account.
fn some_of(
    table: &impl ReadableTable<&'static [u8], &'static [u8]>,
    account: AccountId,
    limit: usize,
) -> Result<Vec<(Vec<u8>, BlockMeta)>, Fault> {
    let mut found = Vec::new();
    let next = next_account(account);
    for entry in table.range::<&[u8]>(&account.as_bytes()[..]..)?.take(limit) {
        let (key, meta) = entry?;
        if next.is_some_and(|next| key.value() >= &next[..]) {
            break;
        }
        found.push((key.value().to_vec(), BlockMeta::decode(meta.value())?));
    }
    Ok(found)
}
