//! The transaction that writes.
//!
//! Guarantees: each caller's work is applied whole, or refused before it has changed anything, so that the others of
//! its group are left alone; an account's usage and its segments change with what they count.
//!
//! Not its job: what an operation means ([`super::plan`]).

use std::collections::BTreeMap;

use bytes::Bytes;
use cofferdam_crypto::{
    AccountId, Version,
    planted::{Bug, is_planted},
};
use redb::{Database, Durability, ReadableTable, Table, WriteTransaction};

use super::{
    BLOCKS, BUFFER, BUFFERED, CATALOG, Done, LAST_REVISION, LAST_VERSION, META, ROW, ROWS, SEGMENTS,
    TRANSACTION, Work, block_key, buffer::usage_in, meta_in, missing_row, records, row_key, segments,
    stored_rows, too_large,
};
use crate::{
    block_store::{Applied, BlockMeta, BlockOp, BufferUsage},
    embedded::guard::Fault,
    error::{StoreError, StoreErrorKind},
    plan::{Held, check_limit, encode_usage, usage_after},
};

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
    if is_planted(Bug::AckBeforeSync) {
        let _ = transaction.set_durability(Durability::None);
    }
    let mut done = Vec::with_capacity(works.len());
    {
        let mut places = Places::open(&transaction)?;
        let mut catalog = transaction.open_table(CATALOG)?;
        let mut meta = transaction.open_table(META)?;
        let mut version = meta.get(LAST_VERSION)?.map_or(0, |value| value.value());
        let mut revision = meta.get(LAST_REVISION)?.map_or(0, |value| value.value());
        for work in works {
            done.push(match work {
                Work::Blocks(ops) => match places.plan(ops)? {
                    Ok(plan) => {
                        version = version.max(plan.highest);
                        places.carry_out(&plan)?;
                        Ok(Done::Blocks(plan.applied))
                    }
                    Err(refused) => Err(refused),
                },
                Work::Swap { key, expected, new } => {
                    records::swap(&mut catalog, key, expected.as_ref(), new.as_ref(), &mut revision)?
                        .map(Done::Swap)
                }
                Work::ReplaceSegment { account, segment, expected, new } => {
                    let key = (*account, *segment);
                    Ok(Done::Replaced(segments::replace(&mut places.segments, key, expected, new)?))
                }
                Work::Remove { account, limit } => Ok(Done::Removed(places.remove_of(*account, *limit)?)),
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

/// What the operations of one work do.
#[derive(Default)]
struct Plan<'a> {
    applied: Vec<Applied>,
    steps: Vec<Step<'a>>,
    /// The blocks as they are after the last step.
    blocks: BTreeMap<Vec<u8>, Held>,
    /// The buffers that change, as they are after the last step.
    usages: BTreeMap<AccountId, Option<BufferUsage>>,
    segments: segments::Changes,
    /// Which block brings a version.
    versions: BTreeMap<Version, Vec<u8>>,
    highest: u64,
    /// Whether it puts a block, and whether it would have put one that is newer in the store.
    puts: bool,
    late_puts: bool,
}

/// One operation that changes something.
struct Step<'a> {
    op: &'a BlockOp,
    key: Vec<u8>,
    before: Held,
    after: Held,
}

/// The tables that blocks are in.
pub(super) struct Places<'t> {
    pub(super) blocks: Table<'t, &'static [u8], &'static [u8]>,
    pub(super) buffer: Table<'t, &'static [u8], &'static [u8]>,
    pub(super) rows: Table<'t, &'static [u8; 12], &'static [u8]>,
    pub(super) usages: Table<'t, &'static [u8; 16], &'static [u8]>,
    pub(super) segments: Table<'t, &'static [u8; 32], &'static [u8]>,
}

impl<'t> Places<'t> {
    fn open(transaction: &'t WriteTransaction) -> Result<Self, Fault> {
        Ok(Self {
            blocks: transaction.open_table(BLOCKS)?,
            buffer: transaction.open_table(BUFFER)?,
            rows: transaction.open_table(ROWS)?,
            usages: transaction.open_table(BUFFERED)?,
            segments: transaction.open_table(SEGMENTS)?,
        })
    }

    /// What a work's operations do one after the other, or why it is refused. Changes nothing.
    fn plan<'a>(&self, ops: &'a [BlockOp]) -> Result<Result<Plan<'a>, StoreError>, Fault> {
        let mut plan = Plan::default();
        for op in ops {
            if let Err(refused) = self.plan_op(&mut plan, op)? {
                return Ok(Err(refused));
            }
        }
        if plan.puts && plan.late_puts {
            let detail = "some of the blocks have newer versions, others have not";
            return Ok(Err(StoreError::new(StoreErrorKind::Conflict).with_detail(detail)));
        }
        Ok(Ok(plan))
    }

    fn plan_op<'a>(&self, plan: &mut Plan<'a>, op: &'a BlockOp) -> Result<Result<(), StoreError>, Fault> {
        let key = block_key(op.account(), op.id());
        let committed = self.held(&key)?;
        let before = plan.blocks.get(&key).copied().unwrap_or(committed);
        let (applied, after) = before.decide(op);
        if let Some(version) = brings(op, applied) {
            if self.is_taken(plan, op, &key, &committed)? {
                let detail = format!("version {version} is that of another block already");
                return Ok(Err(StoreError::new(StoreErrorKind::Conflict).with_detail(detail)));
            }
            plan.versions.insert(version, key.clone());
        }
        if !matches!(op, BlockOp::Drain { .. } | BlockOp::Reseal { .. } | BlockOp::Discard { .. }) {
            plan.highest = plan.highest.max(op.version().number());
        }
        if matches!(op, BlockOp::Put { .. } | BlockOp::Buffer { .. }) {
            plan.puts |= applied == Applied::Written;
            plan.late_puts |= committed.metas().any(|meta| meta.version >= op.version());
        }
        plan.applied.push(applied);
        if matches!(applied, Applied::Absent | Applied::Superseded { .. }) {
            return Ok(Ok(()));
        }
        if before.buffered != after.buffered {
            let now = match plan.usages.get(&op.account()) {
                Some(usage) => *usage,
                None => self.usage(op.account())?,
            };
            let next = usage_after(op, now, before.buffered.as_ref(), after.buffered.as_ref())?;
            if let BlockOp::Buffer { limit, .. } = op
                && let Err(full) = check_limit(op.account(), limit, now.as_ref(), next.as_ref())
            {
                return Ok(Err(full));
            }
            plan.usages.insert(op.account(), next);
            if let Err(refused) = plan.segments.plan(&self.segments, op, &before, &after)? {
                return Ok(Err(refused));
            }
        }
        plan.blocks.insert(key.clone(), after);
        plan.steps.push(Step { op, key, before, after });
        Ok(Ok(()))
    }

    /// Whether another block has the version that the operation brings: its rows would be overwritten. `committed` is
    /// what was there before the work, so a version that the same work gives up counts too.
    fn is_taken(&self, plan: &Plan<'_>, op: &BlockOp, key: &[u8], committed: &Held) -> Result<bool, Fault> {
        let keeps_version = matches!(op, BlockOp::Drain { .. } | BlockOp::Reseal { .. });
        match plan.versions.get(&op.version()) {
            Some(by) if keeps_version && by == key => return Ok(false),
            Some(_) => return Ok(true),
            None => {}
        }
        // One without bytes has no rows: those that are there are another's.
        let is_own = committed.metas().any(|meta| meta.version == op.version() && meta.sealed_len > 0);
        Ok(!is_own && self.rows.get(&row_key(op.version(), 0))?.is_some())
    }

    fn carry_out(&mut self, plan: &Plan<'_>) -> Result<(), Fault> {
        for Step { op, key, before, after } in &plan.steps {
            // Rows are cut as the sealed bytes are, so older ones go before newer ones of the same version come.
            self.remove_rows(before.stored.as_ref(), after.stored.as_ref())?;
            self.remove_rows(before.buffered.as_ref(), after.buffered.as_ref())?;
            if let Some((meta, sealed)) = op.sealed() {
                self.insert_rows(meta, sealed)?;
            }
            set_meta(&mut self.blocks, key, before.stored.as_ref(), after.stored.as_ref())?;
            set_meta(&mut self.buffer, key, before.buffered.as_ref(), after.buffered.as_ref())?;
        }
        for (account, usage) in &plan.usages {
            match usage {
                Some(usage) => self.usages.insert(account.as_bytes(), &encode_usage(usage)[..])?,
                None => self.usages.remove(account.as_bytes())?,
            };
        }
        plan.segments.carry_out(&mut self.segments)
    }

    fn remove_rows(&mut self, before: Option<&BlockMeta>, after: Option<&BlockMeta>) -> Result<(), Fault> {
        // Sealed anew, it may have fewer of them.
        let Some(before) = before.filter(|before| after != Some(before)) else { return Ok(()) };
        for row in 0..stored_rows(before)? {
            if self.rows.remove(&row_key(before.version, row))?.is_none() {
                return Err(missing_row(before.version, row).into());
            }
        }
        Ok(())
    }

    fn insert_rows(&mut self, meta: &BlockMeta, sealed: &Bytes) -> Result<(), Fault> {
        for (row, piece) in sealed.chunks(ROW).enumerate() {
            let row = u32::try_from(row).map_err(|_| too_large())?;
            self.rows.insert(&row_key(meta.version, row), piece)?;
        }
        Ok(())
    }

    fn held(&self, key: &[u8]) -> Result<Held, Fault> {
        Ok(Held { stored: meta_in(&self.blocks, key)?, buffered: meta_in(&self.buffer, key)? })
    }

    pub(super) fn usage(&self, account: AccountId) -> Result<Option<BufferUsage>, Fault> {
        usage_in(&self.usages, account)
    }
}

/// The version that the operation claims for its block. What keeps a version and comes too late claims none.
fn brings(op: &BlockOp, applied: Applied) -> Option<Version> {
    match op {
        BlockOp::Put { .. } | BlockOp::Buffer { .. } => Some(op.version()),
        BlockOp::Drain { .. } | BlockOp::Reseal { .. } if applied == Applied::Written => Some(op.version()),
        BlockOp::Drain { .. } | BlockOp::Reseal { .. } | BlockOp::Discard { .. } | BlockOp::Delete { .. } => {
            None
        }
    }
}

fn set_meta(
    table: &mut Table<'_, &'static [u8], &'static [u8]>,
    key: &[u8],
    before: Option<&BlockMeta>,
    after: Option<&BlockMeta>,
) -> Result<(), Fault> {
    match after {
        _ if before == after => {}
        Some(meta) => drop(table.insert(key, &meta.encode()[..])?),
        None => drop(table.remove(key)?),
    }
    Ok(())
}
