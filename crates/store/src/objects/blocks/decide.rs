//! What a batch makes of the rows that it is about; pure.
//!
//! Guarantees: what the embedded store does with the same batch over the same blocks (`plan` decides for both), and the same
//! refusals: all of a batch or nothing of it. Every row that changes is written from the revision that it was read at.
//!
//! Invariants of the rows: what is buffered of a block is in the block's row, and has a row of its own exactly then, so that it
//! is listed; an account's usage and its segments are what its buffered blocks add up to.
//!
//! Not its job: to read or write rows; to find that two blocks have one version: data objects have names of their own, so
//! nothing is overwritten by that, and versions that were reserved are nobody else's.

use std::collections::{BTreeMap, BTreeSet};

use cofferdam_crypto::{AccountId, BlockId, SegmentId};

use super::{
    super::transaction::Write,
    names::{Tail, block_key, buffered_key, segment_key, usage_key},
    rows::{BlockRow, Placed},
};
use crate::{
    Applied, BlockMeta, BlockOp, BufferUsage, StoreError, StoreErrorKind, Stored,
    plan::{Held, SegmentState, check_limit, encode_usage, joined, left, usage_after},
};

pub(super) type Key = (AccountId, BlockId);

/// A row as it was read.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen<T> {
    pub(super) value: T,
    /// `None`: there is no row.
    pub(super) was: Option<Stored>,
}

/// A row besides the blocks' own that must be read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ask {
    /// The row of what is buffered of a block.
    Buffered(Key),
    Usage(AccountId),
    Segment(AccountId, SegmentId),
}

/// Rows as they were read.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) blocks: BTreeMap<Key, Seen<BlockRow>>,
    pub(super) buffered: BTreeMap<Key, Option<Stored>>,
    pub(super) usages: BTreeMap<AccountId, Seen<Option<BufferUsage>>>,
    pub(super) segments: BTreeMap<(AccountId, SegmentId), Seen<Option<SegmentState>>>,
}

/// Rows as a batch makes them.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) applied: Vec<Applied>,
    pub(super) blocks: BTreeMap<Key, BlockRow>,
    usages: BTreeMap<AccountId, Option<BufferUsage>>,
    segments: BTreeMap<(AccountId, SegmentId), Option<SegmentState>>,
}

impl Known {
    fn row(&self, key: &Key) -> BlockRow {
        self.blocks.get(key).map(|seen| seen.value).unwrap_or_default()
    }

    /// What must be read besides before the batch can be decided.
    pub(super) fn asks(&self, batch: &[BlockOp]) -> Vec<Ask> {
        let mut held: BTreeMap<Key, Held> = BTreeMap::new();
        let mut asks = BTreeSet::new();
        for op in batch {
            let key = (op.account(), op.id().clone());
            let before = held.get(&key).copied().unwrap_or_else(|| self.row(&key).held());
            let (_, after) = before.decide(op);
            if before.buffered != after.buffered {
                asks.insert(Ask::Usage(op.account()));
                for meta in before.buffered.iter().chain(&after.buffered) {
                    asks.extend(meta.provider.segment().map(|segment| Ask::Segment(op.account(), segment)));
                }
                if self.row(&key).buffered.is_some() {
                    asks.insert(Ask::Buffered(key.clone()));
                }
            }
            held.insert(key, after);
        }
        let is_known = |ask: &Ask| match ask {
            Ask::Buffered(key) => self.buffered.contains_key(key),
            Ask::Usage(account) => self.usages.contains_key(account),
            Ask::Segment(account, segment) => self.segments.contains_key(&(*account, *segment)),
        };
        asks.retain(|ask| !is_known(ask));
        asks.into_iter().collect()
    }

    /// What the operations do one after the other, or why the batch is refused. `tails` has that of each one's data object.
    pub(super) fn plan(&self, batch: &[BlockOp], tails: &[Tail]) -> Result<Plan, StoreError> {
        let mut plan = Plan::default();
        let (mut puts, mut late_puts) = (false, false);
        for (op, tail) in batch.iter().zip(tails) {
            let key = (op.account(), op.id().clone());
            let committed = self.row(&key);
            let row = plan.blocks.get(&key).copied().unwrap_or(committed);
            let before = row.held();
            let (applied, after) = before.decide(op);
            if matches!(op, BlockOp::Put { .. } | BlockOp::Buffer { .. }) {
                puts |= applied == Applied::Written;
                late_puts |= committed.all().any(|placed| placed.meta.version >= op.version());
            }
            plan.applied.push(applied);
            if matches!(applied, Applied::Absent | Applied::Superseded { .. }) {
                continue;
            }
            if before.buffered != after.buffered {
                self.plan_buffer(&mut plan, op, &before, &after)?;
            }
            let row = BlockRow {
                stored: place(row.stored, after.stored, *tail),
                buffered: place(row.buffered, after.buffered, *tail),
            };
            plan.blocks.insert(key, row);
        }
        if puts && late_puts {
            let detail = "some of the blocks have newer versions, others have not";
            return Err(StoreError::new(StoreErrorKind::Conflict).with_detail(detail));
        }
        Ok(plan)
    }

    /// What it does to the account's buffer that an operation turns `before` into `after`.
    fn plan_buffer(
        &self,
        plan: &mut Plan,
        op: &BlockOp,
        before: &Held,
        after: &Held,
    ) -> Result<(), StoreError> {
        let account = op.account();
        let committed = || self.usages.get(&account).and_then(|seen| seen.value);
        let now = plan.usages.get(&account).copied().unwrap_or_else(committed);
        let next = usage_after(op, now, before.buffered.as_ref(), after.buffered.as_ref())?;
        if let BlockOp::Buffer { limit, .. } = op {
            check_limit(account, limit, now.as_ref(), next.as_ref())?;
        }
        plan.usages.insert(account, next);
        let segment_of = |meta: &BlockMeta| meta.provider.segment();
        // The one that comes first: a segment whose only block is written anew never has none.
        if let Some(segment) = after.buffered.as_ref().and_then(segment_of) {
            let state = joined(self.segment(plan, account, segment), segment, op)?;
            plan.segments.insert((account, segment), state);
        }
        if let Some(segment) = before.buffered.as_ref().and_then(segment_of) {
            let state = left(self.segment(plan, account, segment), segment)?;
            plan.segments.insert((account, segment), state);
        }
        Ok(())
    }

    fn segment(&self, plan: &Plan, account: AccountId, segment: SegmentId) -> Option<SegmentState> {
        let key = (account, segment);
        let committed = || self.segments.get(&key).and_then(|seen| seen.value.clone());
        plan.segments.get(&key).cloned().unwrap_or_else(committed)
    }

    /// The rows that differ after the plan.
    pub(super) fn writes(&self, plan: &Plan) -> Vec<Write> {
        let mut writes = Vec::new();
        for (key @ (account, id), after) in &plan.blocks {
            let before = self.row(key);
            if before != *after {
                let was = self.blocks.get(key).and_then(|seen| seen.was.clone());
                writes.push(Write { key: block_key(*account, id), was, new: after.encode() });
            }
            if before.buffered != after.buffered {
                let was = self.buffered.get(key).cloned().flatten();
                let new = after.buffered.and_then(|buffered| BlockRow::of_buffered(buffered).encode());
                writes.push(Write { key: buffered_key(*account, id), was, new });
            }
        }
        for (account, after) in &plan.usages {
            let seen = self.usages.get(account).cloned().unwrap_or_default();
            let new = after.as_ref().map(|usage| encode_usage(usage).to_vec().into());
            if seen.value != *after {
                writes.push(Write { key: usage_key(*account), was: seen.was, new });
            }
        }
        for (key @ (account, segment), after) in &plan.segments {
            let seen = self.segments.get(key).cloned().unwrap_or_default();
            if seen.value != *after {
                let new = after.as_ref().map(|state| state.encode().into());
                writes.push(Write { key: segment_key(*account, *segment), was: seen.was, new });
            }
        }
        writes.retain(|write| write.was.is_some() || write.new.is_some());
        writes
    }
}

/// A version stays where its bytes are, and one that an operation brings is where that put them.
fn place(before: Option<Placed>, after: Option<BlockMeta>, tail: Tail) -> Option<Placed> {
    let meta = after?;
    Some(before.filter(|before| before.meta == meta).unwrap_or(Placed { meta, tail }))
}
