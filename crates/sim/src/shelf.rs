//! What one node sees of the store.
//!
//! Guarantees: nothing is applied for a node that crashed, and nothing is acknowledged to it; every write is told to the
//! model with what became of it, before the node learns of it. It lets time pass before and after, so that a crash can
//! come between a commit and its acknowledgement.

mod catalog;

use std::{
    fmt,
    ops::Range,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use cofferdam_crypto::{AccountId, BlockId, Header, Provider, SegmentId, Version};
use cofferdam_store::{
    Applied, BlockMeta, BlockOp, BlockStore, BufferUsage, Catalog, FaultyFile, FileLayer, Located, Revision,
    SegmentRow, StoreError, StoreErrorKind, Stored, VersionRange,
};
use cofferdam_vault::{Clock, testing::TokioClock};

use crate::{
    Check,
    dice::Dice,
    hub::{Hub, Moment, State},
    link::Cut,
    model::{self, End, Views},
    record::{self, ACCOUNTS, OPERATIONS, REVOKED},
    rows::{look_for_lost, tell},
    sealed::{judge_write_only, open_by_reference},
};

/// A store that a simulation can be run on.
pub trait SimStore: BlockStore + Catalog {}

impl<T: BlockStore + Catalog> SimStore for T {}

/// How long a write may be under way since its engine looked at the clock.
const SETTLES: Duration = Duration::from_secs(2);
/// One operation of so many is slow.
const SLOW: u64 = 12;
/// One sealed block of so many is opened by the reference.
const OPENED: u64 = 24;

pub(crate) struct Shelf {
    pub(crate) node: usize,
    pub(crate) hub: Hub,
    pub(crate) clock: Arc<TokioClock>,
    pub(crate) store: Arc<dyn SimStore>,
    pub(crate) disk: FaultyFile,
    pub(crate) cut: Cut,
    pub(crate) dice: Mutex<Dice>,
    /// The bounds of an account's buffer.
    pub(crate) buffer: (Duration, u64),
}

impl Shelf {
    async fn pass(&self) {
        let (slow, time) = {
            let mut dice = self.dice.lock().unwrap_or_else(PoisonError::into_inner);
            (dice.below(SLOW) == 0, dice.millis(1, 30))
        };
        if slow {
            tokio::time::sleep(time).await;
        }
        self.unless_cut().await;
    }

    async fn unless_cut(&self) {
        if self.cut.load(Ordering::Relaxed) {
            std::future::pending().await
        }
    }

    /// Calls the store, unless the node or the power is gone before its answer.
    async fn call<T>(
        &self,
        call: impl Future<Output = Result<T, StoreError>>,
        tell: impl FnOnce(&Self, &Result<T, StoreError>),
    ) -> Result<T, StoreError> {
        self.pass().await;
        let answer = call.await;
        if self.disk.size().is_err() {
            self.hub.lose_power();
            return std::future::pending().await;
        }
        tell(self, &answer);
        if let Err(error) = &answer {
            self.failed(error);
        }
        self.pass().await;
        answer
    }

    fn failed(&self, error: &StoreError) {
        let kind = error.kind();
        if matches!(kind, StoreErrorKind::Conflict | StoreErrorKind::BufferFull) {
            return;
        }
        let now = self.hub.moment(&self.clock);
        self.hub.note(format_args!("node {}: the store says {kind:?}", self.node));
        self.hub.state().keys.store_failed(self.node, now);
        if matches!(kind, StoreErrorKind::Poisoned | StoreErrorKind::Io | StoreErrorKind::Corrupt) {
            self.hub.break_store();
        }
    }

    /// A write is about to be done; it may be, and nobody hear of it.
    fn begins(&self, op: &BlockOp, sealed: Moment) {
        let (BlockOp::Put { account, id, meta, .. }
        | BlockOp::Buffer { account, id, meta, .. }
        | BlockOp::Drain { account, id, meta, .. }
        | BlockOp::Reseal { account, id, meta, .. }) = op
        else {
            return;
        };
        let mut state = self.hub.state();
        state.blocks.is_under(*account, id, meta.version.number(), (meta.provider, meta.epoch));
        if matches!(op, BlockOp::Buffer { .. }) {
            // It is the customer's, whatever key it waits under.
            state.blocks.is_under(*account, id, meta.version.number(), (Provider::Customer, meta.epoch));
        }
        if let (BlockOp::Buffer { .. }, Provider::Buffer(segment)) = (op, meta.provider) {
            state.segments.begins(self.node, *account, segment, sealed);
        }
    }

    fn committed(&self, batch: &[BlockOp], applied: &[Applied], sealed: Moment) {
        for (op, applied) in batch.iter().zip(applied) {
            self.hub.note(format_args!("node {}: {op:?} is {applied:?}", self.node));
            if *applied == Applied::Written {
                self.written(op, sealed);
            }
        }
    }

    fn written(&self, op: &BlockOp, sealed_at: Moment) {
        let (account, id, meta, sealed) = match op {
            BlockOp::Put { account, id, meta, sealed }
            | BlockOp::Buffer { account, id, meta, sealed, .. }
            | BlockOp::Drain { account, id, meta, sealed, .. }
            | BlockOp::Reseal { account, id, meta, sealed } => (*account, id, meta, sealed),
            BlockOp::Discard { .. } | BlockOp::Delete { .. } => return,
        };
        let now = self.hub.state().next_seq();
        let views = self.hub.state().accounts.views(account, sealed_at.seq, now);
        self.hub.check(self.judge_key(&views, op, meta, now));
        self.hub.check(self.judge_sealed(account, id, meta, sealed));
        if let Provider::Buffer(segment) = meta.provider {
            let mut state = self.hub.state();
            state.counts.buffered_write_only += 1;
            let State { segments, keys, .. } = &mut *state;
            let jumped = |first| keys.jumped_since(self.node, first);
            let judged = segments.judge_written(self.node, account, segment, sealed_at, jumped);
            let judged = judged.and(judge_write_only(&mut state, account, id, meta, sealed));
            drop(state);
            self.hub.check(judged);
        }
        match op {
            BlockOp::Drain { .. } => self.drained(account, id, meta, sealed_at),
            BlockOp::Reseal { .. } => {
                let mut state = self.hub.state();
                state.counts.reencrypted += 1;
                let of = state.use_of(self.node, account, sealed_at, sealed_at);
                let used = state.keys.judge_use(&of, meta.provider, &state.budgets);
                drop(state);
                self.hub.check(used.map(drop));
            }
            _ => {}
        }
    }

    fn drained(&self, account: AccountId, id: &BlockId, meta: &BlockMeta, sealed_at: Moment) {
        let mut state = self.hub.state();
        state.counts.drained += 1;
        let judged = state.blocks.judge_drained(account, id, meta.version.number());
        let judged = if state.segments.is_forged(account, id) {
            Err((Check::Forged, format!("block {id} of {account} was drained, which was forged")))
        } else {
            judged
        };
        // It was opened under the one key and sealed under the other.
        let of = state.use_of(self.node, account, sealed_at, sealed_at);
        // The tag of a segment is checked once, under the service's key.
        let is_segmented = of.views.any(|view| view.writes_only);
        let used = state.keys.judge_use(&of, Provider::Customer, &state.budgets);
        let opened = state.keys.judge_use(&of, Provider::Service, &state.budgets);
        let opened = if is_segmented { Ok(()) } else { opened.map(drop) };
        drop(state);
        self.hub.check(judged.and(used.map(drop)).and(opened));
    }

    /// A linked account's block goes under the customer's newest key into the store, and into the buffer under the service's
    /// or, where that is write-only, under a segment's; another account's under the service's. What is buffered stays the
    /// customer's.
    fn judge_key(&self, views: &Views, op: &BlockOp, meta: &BlockMeta, now: u64) -> model::Judged {
        let (account, id) = (op.account(), op.id());
        let held = (meta.provider, meta.epoch);
        let is_newest = |view: &record::AccountState, provider| {
            meta.provider == provider && view.newest(provider) == Some(meta.epoch)
        };
        let fits = |view: &record::AccountState| match op {
            BlockOp::Buffer { .. } if !view.linked => false,
            BlockOp::Buffer { .. } if view.writes_only => meta.provider.segment().is_some(),
            BlockOp::Buffer { .. } => is_newest(view, Provider::Service),
            BlockOp::Drain { .. } => is_newest(view, Provider::Customer),
            _ => is_newest(view, view.provider()),
        };
        let is_deleted = |view: &record::AccountState| view.deleted_until.is_some();
        let said = |views: &[model::Written]| {
            let brief = |view: &model::Written| view.as_ref().map_or("no record".to_owned(), |of| of.brief());
            views.iter().map(brief).collect::<Vec<_>>().join("; ")
        };
        if views.all(is_deleted) {
            let what = format!("{op:?} was done, and the account is deleted: {}", said(&views.of));
            return Err((Check::Deleted, what));
        }
        if !views.of.is_empty() && !views.any(fits) {
            let what = format!(
                "block {id} of {account} was stored under the {} key, epoch {}, by {op:?}: {}",
                meta.provider,
                meta.epoch,
                said(&views.of)
            );
            return Err((Check::UnderServiceKey, what));
        }
        // Whatever a node went by: nothing opens it any longer if its key is not in the record.
        let there = self.hub.state().accounts.possible(account, now, now);
        let opens = |view: &model::Written| view.as_ref().is_some_and(|view| view.holds(held));
        if meta.provider.segment().is_none() && !there.is_empty() && !there.iter().any(opens) {
            let what = format!(
                "block {id} of {account} was stored under the {} key, epoch {}, which is destroyed: {}",
                meta.provider,
                meta.epoch,
                said(&there)
            );
            return Err((Check::Retired, what));
        }
        Ok(())
    }

    fn judge_sealed(
        &self,
        account: AccountId,
        id: &BlockId,
        meta: &BlockMeta,
        sealed: &Bytes,
    ) -> model::Judged {
        let header = Header::parse(sealed)
            .map_err(|e| (Check::Format, format!("block {id} of {account} has no header: {e}")))?;
        let mut state = self.hub.state();
        state.blocks.judge_salt(*header.salt(), id)?;
        if header.epoch() != meta.epoch || header.provider() != meta.provider.kind() {
            return Err((Check::Format, format!("the header of block {id} is not what its meta says")));
        }
        if self.dice.lock().unwrap_or_else(PoisonError::into_inner).below(OPENED) == 0 {
            state.counts.reference_opens += 1;
            open_by_reference(&state.keys, account, id, meta, sealed)?;
        }
        Ok(())
    }

    async fn judge_bounds(&self, account: AccountId, began: Moment) {
        let Ok(Some(usage)) = self.store.buffer_usage(account).await else { return };
        let (time, bytes) = self.buffer;
        let now = self.clock.now();
        let jumped = self.hub.state().keys.jumped_since(self.node, began);
        // Judged by the wall clock, as the store keeps nothing else.
        let held = now.wall.saturating_sub(usage.since);
        if usage.bytes > bytes || (held > time + SETTLES && !jumped) {
            let what = format!(
                "the buffer of {account} took a write and holds {} bytes since {held:?}; it may hold {bytes}, for {time:?}",
                usage.bytes
            );
            self.hub.fail(Check::BufferBounds, what);
        }
    }
}

fn untold<T>(_: &Shelf, _: &Result<T, StoreError>) {}

#[async_trait]
impl BlockStore for Shelf {
    async fn commit(&self, batch: Vec<BlockOp>) -> Result<Vec<Applied>, StoreError> {
        let told = batch.clone();
        // It was sealed just before.
        let sealed = self.hub.moment(&self.clock);
        for op in &batch {
            self.begins(op, sealed);
        }
        let filled = batch.iter().find(|op| matches!(op, BlockOp::Buffer { .. })).map(BlockOp::account);
        let commit = async {
            let began = self.hub.moment(&self.clock);
            let applied = self.store.commit(batch).await?;
            // In the same step: nobody else can have filled it since.
            if let Some(account) = filled
                && applied.contains(&Applied::Written)
            {
                self.judge_bounds(account, began).await;
            }
            Ok(applied)
        };
        self.call(commit, move |shelf, answer| match answer {
            Ok(applied) => shelf.committed(&told, applied, sealed),
            Err(error) => {
                shelf.hub.note(format_args!("node {}: {told:?} is {:?}", shelf.node, error.kind()));
            }
        })
        .await
    }

    async fn stat(&self, account: AccountId, id: &BlockId) -> Result<Option<Located>, StoreError> {
        self.call(self.store.stat(account, id), untold).await
    }

    async fn fetch(&self, account: AccountId, id: &BlockId) -> Result<Option<(Located, Bytes)>, StoreError> {
        self.call(self.store.fetch(account, id), untold).await
    }

    async fn read(
        &self,
        account: AccountId,
        id: &BlockId,
        of: &Located,
        ranges: &[Range<u64>],
    ) -> Result<Option<Vec<Bytes>>, StoreError> {
        self.call(self.store.read(account, id, of, ranges), untold).await
    }

    async fn list(
        &self,
        account: AccountId,
        after: Option<&BlockId>,
        limit: usize,
    ) -> Result<Vec<(BlockId, Located)>, StoreError> {
        self.call(BlockStore::list(&*self.store, account, after, limit), untold).await
    }

    async fn buffered(
        &self,
        account: AccountId,
        after: Option<&BlockId>,
        limit: usize,
    ) -> Result<Vec<(BlockId, BlockMeta)>, StoreError> {
        self.call(self.store.buffered(account, after, limit), untold).await
    }

    async fn buffer_usage(&self, account: AccountId) -> Result<Option<BufferUsage>, StoreError> {
        self.call(self.store.buffer_usage(account), untold).await
    }

    async fn buffering(
        &self,
        after: Option<AccountId>,
        limit: usize,
    ) -> Result<Vec<(AccountId, BufferUsage)>, StoreError> {
        self.call(self.store.buffering(after, limit), untold).await
    }

    async fn segment(
        &self,
        account: AccountId,
        segment: SegmentId,
    ) -> Result<Option<SegmentRow>, StoreError> {
        self.call(self.store.segment(account, segment), untold).await
    }

    async fn segments(
        &self,
        account: AccountId,
        after: Option<SegmentId>,
        limit: usize,
    ) -> Result<Vec<(SegmentId, SegmentRow)>, StoreError> {
        self.call(self.store.segments(account, after, limit), untold).await
    }

    async fn stored(
        &self,
        account: AccountId,
        after: Option<&BlockId>,
        limit: usize,
    ) -> Result<Vec<(BlockId, BlockMeta)>, StoreError> {
        self.call(self.store.stored(account, after, limit), untold).await
    }

    async fn fetch_stored(
        &self,
        account: AccountId,
        id: &BlockId,
    ) -> Result<Option<(BlockMeta, Bytes)>, StoreError> {
        self.call(self.store.fetch_stored(account, id), untold).await
    }

    async fn replace_segment(
        &self,
        account: AccountId,
        segment: SegmentId,
        expected: &Bytes,
        new: Bytes,
    ) -> Result<bool, StoreError> {
        self.call(self.store.replace_segment(account, segment, expected, new), untold).await
    }

    async fn remove_blocks(&self, account: AccountId, limit: usize) -> Result<u64, StoreError> {
        self.call(self.store.remove_blocks(account, limit), untold).await
    }

    async fn compact(&self) -> Result<(), StoreError> {
        self.call(self.store.compact(), untold).await
    }

    async fn last_version(&self) -> Result<Version, StoreError> {
        self.call(self.store.last_version(), untold).await
    }

    async fn reserve_versions(
        &self,
        at_least: Version,
        count: u32,
    ) -> Result<Option<VersionRange>, StoreError> {
        self.store.reserve_versions(at_least, count).await
    }

    /// The store is the other nodes' as well: the director closes it.
    async fn close(&self) -> Result<(), StoreError> {
        self.pass().await;
        Ok(())
    }
}

impl fmt::Debug for Shelf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shelf(node {}, {:?})", self.node, self.store)
    }
}

/// How long a call to the store may take at the most.
pub(crate) const SLOWEST: Duration = Duration::from_millis(60);
