//! Moving an account's blocks from the buffer to the store once its key is back.
//!
//! Guarantees: a block is opened under the service's key, or that of its segment once that was found genuine, and sealed
//! under the account's only while both may be used, and keeps its version; it leaves the buffer in the commit that stores it, unless a newer write or a delete was
//! faster. A denial or an outage stops it between two blocks. A block that does not open stays and stops no other.
//! Memory is bounded by a batch, taken from what writes may use.
//!
//! Not its job: which accounts have something to drain (`drains`), what is discarded (`purge`).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use cofferdam_crypto::planted::{Bug, is_planted};
use cofferdam_crypto::{AccountId, BlockId, Epoch, Provider, SealError, SegmentId, Version, plaintext_len};
use cofferdam_keyring::{KeyError, KeyState, LiveKey, LiveSegment};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep},
};
use zeroize::Zeroizing;

use super::{
    EngineError, Inner,
    blocks::Used,
    buffer::{DrainBlocked, Moved, TroubleKind},
    drains::{Backoff, Phase},
    purge::Revocation,
    segments::SegmentFault,
    work_key::WorkKey,
};
use crate::{Applied, BlockMeta, BlockOp, Place, StoreError, StoreErrorKind};

/// How many blocks are looked up at once, and drained in one commit at most.
pub(super) const PAGE: usize = 256;
/// How many sealed bytes are drained in one commit, a single larger block aside.
const BATCH_BYTES: u64 = 1 << 20;
/// How many damaged blocks are told of once only.
const REPORTED_KEPT: usize = 64;
/// How long damaged blocks are left alone if nothing else is buffered.
const STUCK: Duration = Duration::from_secs(3600);

/// The drain of one account.
pub(super) struct Drain {
    pub(super) engine: Arc<Inner>,
    pub(super) account: AccountId,
    /// Something more was buffered.
    wake: Arc<Notify>,
    reported: BTreeSet<(BlockId, Version)>,
    pub(super) revocation: Revocation,
    /// The buffer was looked through since something new was heard of: the next time can wait.
    walked: bool,
    /// The foreground operations that were seen.
    seen: u64,
}

/// How a walk through the buffer ended.
enum Walk {
    /// It was walked to its end.
    Ended { drained: u64, damaged: u64 },
    /// A key may not be used any longer.
    Lapsed,
}

/// Why a walk stopped short.
pub(super) struct Stopped {
    kind: TroubleKind,
    message: String,
    closed: bool,
}

pub(super) type Row = (BlockId, BlockMeta);

/// The keys of segments, or what is wrong with those.
type SegmentKeys = BTreeMap<SegmentId, Result<LiveSegment, String>>;

impl Drain {
    pub(super) fn new(engine: Arc<Inner>, account: AccountId, wake: Arc<Notify>) -> Self {
        Self {
            engine,
            account,
            wake,
            reported: BTreeSet::new(),
            revocation: Revocation::default(),
            walked: false,
            seen: 0,
        }
    }

    /// Drains until nothing is left, however long that takes.
    pub(super) async fn run(&mut self) {
        let engine = self.engine.clone();
        // While it is watched, a key that can't be used is asked for again.
        let mut state = engine.keyring.watch(self.account, Provider::Customer);
        let mut backoff = Backoff::default();
        loop {
            if engine.drains.look(self.account) {
                self.walked = false;
            }
            match self.turn_of_events(&mut state, &mut backoff).await {
                Ok(true) => return,
                Ok(false) => {}
                Err(stopped) if stopped.closed => return,
                Err(Stopped { kind, message, .. }) => {
                    let trouble = engine.drains.trouble(&engine, self.account, kind, message);
                    engine.drains.enter(self.account, Phase::Blocked(DrainBlocked::Trouble(trouble)));
                    sleep(backoff.next()).await;
                }
            }
        }
    }

    /// Looks at what there is to do, and does it. Whether nothing is left.
    async fn turn_of_events(
        &mut self,
        state: &mut watch::Receiver<KeyState>,
        backoff: &mut Backoff,
    ) -> Result<bool, Stopped> {
        let engine = self.engine.clone();
        if engine.drains.is_cancelled(self.account) {
            return Ok(true);
        }
        if engine.blocks.buffer_usage(self.account).await?.is_none() {
            return Ok(engine.drains.finish(&engine, self.account));
        }
        let key = match engine.keyring.sealing_key(self.account, Provider::Customer).await {
            Ok(key) => key,
            Err(KeyError::Closed) => return Err(StoreError::new(StoreErrorKind::Closed).into()),
            Err(error) => {
                self.wait_for_key(state, error).await?;
                self.walked = false;
                return Ok(false);
            }
        };
        self.revocation = Revocation::default();
        engine.drains.enter(self.account, Phase::Draining);
        if std::mem::replace(&mut self.walked, true) {
            // Something is left that nobody told of: another engine's, or what is of no use to try at once.
            sleep(backoff.next()).await;
        }
        let Walk::Ended { drained, damaged } = self.walk(&key).await? else { return Ok(false) };
        if drained > 0 {
            backoff.reset();
        }
        if damaged == 0 {
            engine.drains.no_trouble(self.account);
        } else if drained == 0 {
            engine.drains.enter(self.account, Phase::Blocked(DrainBlocked::Damaged { blocks: damaged }));
            tokio::select! {
                biased;
                () = self.wake.notified() => {}
                () = sleep(STUCK) => {}
            }
        }
        Ok(false)
    }

    /// Waits until the key's state changes, and at most as long as a poll takes.
    async fn wait_for_key(
        &mut self,
        state: &mut watch::Receiver<KeyState>,
        error: KeyError,
    ) -> Result<(), Stopped> {
        let engine = self.engine.clone();
        let message = error.to_string();
        let blocked = match error {
            KeyError::Revoked { .. } => DrainBlocked::Revoked(message),
            _ => DrainBlocked::KeyUnavailable(message),
        };
        let revoked = matches!(blocked, DrainBlocked::Revoked(_));
        if revoked {
            engine.segments.forget(self.account);
        }
        engine.drains.enter(self.account, Phase::Blocked(blocked));
        if !revoked {
            self.revocation = Revocation::default();
        } else if self.outlived_retention().await? {
            return Ok(());
        }
        let poll = engine.policy.retry_max().max(engine.policy.revoked_poll());
        let wake = self.wake.clone();
        tokio::select! {
            biased;
            () = wake.notified(), if engine.drains.is_cancelled(self.account) => {}
            changed = state.changed() => {
                // The keyring is gone, and with it the engine.
                if changed.is_err() {
                    return Err(StoreError::new(StoreErrorKind::Closed).into());
                }
            }
            () = sleep(poll) => {}
        }
        Ok(())
    }

    /// Walks through the buffer once, a batch at a time.
    async fn walk(&mut self, key: &LiveKey) -> Result<Walk, Stopped> {
        let engine = self.engine.clone();
        let (mut drained, mut damaged, mut after) = (0, 0, None);
        loop {
            let rows = engine.blocks.buffered(self.account, after.as_ref(), PAGE).await?;
            let Some((last, _)) = rows.last() else { return Ok(Walk::Ended { drained, damaged }) };
            after = Some(last.clone());
            let mut rows = rows.as_slice();
            while !rows.is_empty() {
                let (batch, rest) = rows.split_at(batch_len(rows));
                rows = rest;
                // Before its turn: a vault that hangs holds up no other account.
                let Some(segments) = self.segments_of(key, batch).await? else { return Ok(Walk::Lapsed) };
                let Some(_turn) = engine.drains.turn().await else { return Ok(Walk::Lapsed) };
                // The timer's time, not the clock's: that counts a suspend as work, to be rested for.
                let began = Instant::now();
                let Some(done) = self.batch(key, batch, &segments).await? else { return Ok(Walk::Lapsed) };
                drained += done.0;
                damaged += done.1;
                let rest = engine.pace.rest_after(began.elapsed(), &mut self.seen);
                if rest.is_zero() {
                    tokio::task::yield_now().await;
                } else {
                    sleep(rest).await;
                }
            }
        }
    }

    /// Drains these blocks in one commit. How many it drained, and how many are damaged; `None` when a key may not be
    /// used any longer.
    async fn batch(
        &mut self,
        key: &LiveKey,
        rows: &[Row],
        segments: &SegmentKeys,
    ) -> Result<Option<(u64, u64)>, Stopped> {
        let engine = self.engine.clone();
        let largest = rows.iter().map(|(_, meta)| meta.sealed_len).max().unwrap_or_default();
        // All of them sealed anew, and one as it was sealed and in the clear.
        let bytes = rows.iter().map(|(_, meta)| meta.sealed_len).sum::<u64>() + 2 * largest;
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        let _admitted = engine.admission.admit(&engine.drains.share, bytes).await?;
        engine.be_live().await?;
        // Entered before the key is looked at that is sealed under: who changes that waits for this batch.
        let _entered = engine.gates.of(self.account).enter();
        let now = engine.keyring.sealing_key(self.account, Provider::Customer).await;
        let Some(now) = now.ok().filter(|now| now.scope() == key.scope()) else { return Ok(None) };
        let key = &now;
        let (mut ops, mut damaged, mut opened_by) = (Vec::new(), 0, None);
        for (id, meta) in rows {
            match self.reseal(key, id, meta, segments, &mut opened_by).await? {
                Resealed::Sealed(op) => ops.push(op),
                Resealed::Gone => {}
                Resealed::Damaged(why) => {
                    damaged += 1;
                    self.report_damaged(id, meta.version, why);
                }
                Resealed::Lapsed => return Ok(None),
            }
        }
        if !key.still_usable()
            || !engine.nodes.is_live()
            || opened_by.is_some_and(|key: WorkKey| !key.still_usable())
        {
            return Ok(None);
        }
        if is_planted(Bug::DrainDeletesFirst) {
            ops = self.delete_first(ops).await?;
        }
        let lens: Vec<u64> =
            ops.iter().map(|op| op.sealed().map_or(0, |(meta, _)| meta.sealed_len)).collect();
        let mut moved = Moved::default();
        for (applied, bytes) in engine.blocks.commit(ops).await?.into_iter().zip(lens) {
            // What is not written was written or deleted anew meanwhile, or another engine drained it.
            if applied == Applied::Written {
                moved.add(Moved { blocks: 1, bytes });
            }
        }
        if moved.blocks > 0 {
            let left = engine.blocks.buffer_usage(self.account).await?;
            let left = left.map_or(Moved::default(), |left| Moved { blocks: left.blocks, bytes: left.bytes });
            engine.drains.drained(&engine, self.account, moved, left);
        }
        Ok(Some((moved.blocks, damaged)))
    }

    /// The keys of the segments that these blocks are of; `None` when the account's key may not be used any longer.
    async fn segments_of(&self, key: &LiveKey, rows: &[Row]) -> Result<Option<SegmentKeys>, Stopped> {
        let mut keys = SegmentKeys::new();
        for segment in rows.iter().filter_map(|(_, meta)| meta.provider.segment()) {
            if keys.contains_key(&segment) {
                continue;
            }
            let found = match self.engine.segment_key(self.account, segment).await? {
                Ok(found) => Ok(found),
                // Where a block of it is buffered still, it should be there.
                Err(SegmentFault::Gone) => Err("it has no record".into()),
                Err(SegmentFault::Damaged(why)) => Err(why),
                Err(SegmentFault::Key(KeyError::Closed) | SegmentFault::ServiceKey(KeyError::Closed)) => {
                    return Err(StoreError::new(StoreErrorKind::Closed).into());
                }
                Err(SegmentFault::Key(_)) if !key.still_usable() => return Ok(None),
                Err(SegmentFault::Key(e)) => {
                    return Err(Stopped::of(TroubleKind::Vault, &format_args!("segment {segment}: {e}")));
                }
                Err(SegmentFault::ServiceKey(e)) => return Err(Stopped::of(TroubleKind::ServiceKey, &e)),
            };
            keys.insert(segment, found);
        }
        Ok(Some(keys))
    }

    /// Seals one block under the account's key.
    async fn reseal(
        &self,
        key: &LiveKey,
        id: &BlockId,
        meta: &BlockMeta,
        segments: &SegmentKeys,
        opened_by: &mut Option<WorkKey>,
    ) -> Result<Resealed, Stopped> {
        let engine = &self.engine;
        let (at, sealed) = match engine.blocks.fetch(self.account, id).await {
            Ok(Some(fetched)) => fetched,
            Ok(None) => return Ok(Resealed::Gone),
            Err(e) if e.kind() == StoreErrorKind::Corrupt => return Ok(Resealed::Damaged(None)),
            Err(e) => return Err(e.into()),
        };
        if at.place != Place::Buffer || at.meta.version != meta.version {
            return Ok(Resealed::Gone);
        }
        let meta = at.meta;
        let len =
            plaintext_len(meta.sealed_len, meta.page_size).ok().and_then(|len| usize::try_from(len).ok());
        let Some(len) = len else { return Ok(Resealed::Damaged(None)) };
        let opening = match meta.provider {
            Provider::Customer => return Ok(Resealed::Damaged(None)),
            Provider::Service => match self.service_key(meta.epoch).await? {
                Some(opening) => WorkKey::Live(opening),
                None => return Ok(Resealed::Damaged(None)),
            },
            Provider::Buffer(segment) => match segments.get(&segment) {
                Some(Ok(opening)) => WorkKey::Unwrapped(opening.clone()),
                Some(Err(why)) => return Ok(Resealed::Damaged(Some((segment, why.clone())))),
                None => return Ok(Resealed::Gone),
            },
        };
        *opened_by = Some(opening.clone());
        let own = WorkKey::Live(key.clone());
        let to = if is_planted(Bug::DrainUnderServiceKey) { opening.clone() } else { own };
        let (inner, account, block) = (engine.clone(), self.account, id.clone());
        let work = move |opening: &WorkKey| -> Result<BlockOp, Unsealed> {
            let mut plain = Zeroizing::new(vec![0; len]);
            opening.open_to(block.at(meta.version), &sealed, &mut plain).map_err(|_| Unsealed::Damaged)?;
            inner.reseal(&to, account, &block, &meta, &plain).map_err(Unsealed::Failed)
        };
        match engine.with_keys(opening, Some(key.clone()), len, work).await? {
            Used::Done(Ok(op)) => Ok(Resealed::Sealed(op)),
            Used::Done(Err(Unsealed::Damaged)) => Ok(Resealed::Damaged(None)),
            Used::Done(Err(Unsealed::Failed(e))) => Err(EngineError::from(e).into()),
            Used::Lapsed => Ok(Resealed::Lapsed),
        }
    }

    /// The service's key of this epoch; `None` when no such AEK was ever made: what claims to be sealed under it is not
    /// what was written.
    async fn service_key(&self, epoch: Epoch) -> Result<Option<LiveKey>, Stopped> {
        match self.engine.keyring.opening_key(self.account, Provider::Service, epoch).await {
            Ok(key) => Ok(Some(key)),
            Err(KeyError::UnknownEpoch(_)) => Ok(None),
            Err(KeyError::Closed) => Err(StoreError::new(StoreErrorKind::Closed).into()),
            Err(e) => Err(Stopped::of(TroubleKind::ServiceKey, &e)),
        }
    }

    fn report_damaged(&mut self, id: &BlockId, version: Version, why: Option<(SegmentId, String)>) {
        let known = (id.clone(), version);
        if self.reported.contains(&known) {
            return;
        }
        if self.reported.len() < REPORTED_KEPT {
            self.reported.insert(known);
        }
        let why = match why {
            None => "it is damaged, or not what was written there".to_owned(),
            Some((segment, why)) => {
                format!("its segment {segment} is damaged, or not one that we made: {why}")
            }
        };
        let message = format!("buffered block {id} does not open: {why}; write it again, or delete it");
        self.engine.drains.trouble(&self.engine, self.account, TroubleKind::Damaged(id.clone()), message);
    }

    /// The defect `DrainDeletesFirst`.
    async fn delete_first(&self, ops: Vec<BlockOp>) -> Result<Vec<BlockOp>, Stopped> {
        let (mut discards, mut puts) = (Vec::new(), Vec::new());
        for op in ops {
            discards.push(BlockOp::Discard {
                account: op.account(),
                id: op.id().clone(),
                version: op.version(),
            });
            puts.push(match op {
                BlockOp::Drain { account, id, meta, sealed, .. } => {
                    BlockOp::Put { account, id, meta, sealed }
                }
                op => op,
            });
        }
        self.engine.blocks.commit(discards).await?;
        Ok(puts)
    }
}

/// What became of a block that was to be sealed anew.
enum Resealed {
    Sealed(BlockOp),
    /// It was written anew, deleted, or drained by somebody else.
    Gone,
    /// Where its segment is to blame, that, and what is wrong with it.
    Damaged(Option<(SegmentId, String)>),
    /// A key may not be used any longer.
    Lapsed,
}

enum Unsealed {
    Damaged,
    Failed(SealError),
}

impl Stopped {
    pub(super) fn of(kind: TroubleKind, error: &dyn std::fmt::Display) -> Self {
        Self { kind, message: error.to_string(), closed: false }
    }
}

impl From<StoreError> for Stopped {
    fn from(e: StoreError) -> Self {
        Self { closed: e.kind() == StoreErrorKind::Closed, ..Self::of(TroubleKind::Store, &e) }
    }
}

impl From<EngineError> for Stopped {
    fn from(e: EngineError) -> Self {
        match e {
            EngineError::Store(e) => e.into(),
            e => Self { closed: matches!(e, EngineError::Closed), ..Self::of(TroubleKind::Other, &e) },
        }
    }
}

/// How many of these go into one commit, at least one.
pub(super) fn batch_len(rows: &[Row]) -> usize {
    let mut bytes = 0;
    let fits = |(_, meta): &&Row| {
        bytes += meta.sealed_len;
        bytes <= BATCH_BYTES
    };
    rows.iter().take_while(fits).count().max(1)
}
