//! Writing a batch: its bytes first, then its rows.
//!
//! Guarantees: the rows change from what was decided upon, or the batch is decided anew. Of a batch that is answered, the objects
//! that no row will ever name are deleted, as far as they can be; of one whose outcome is unknown, none is.
//!
//! A batch of puts is written from what this handle saw last of their rows, or as if there were none: so a put of a new block
//! reads nothing, and a wrong guess costs one try.
//!
//! Not its job: what a batch does (`decide`).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use cofferdam_crypto::{AccountId, SegmentId};
use cofferdam_vault::Timestamp;
use futures_util::{StreamExt, future::try_join_all, stream};
use object_store::{Error, PutMode, PutOptions, PutPayload, path::Path};
use tokio::sync::MutexGuard;

use super::{
    super::transaction::Write,
    AT_ONCE, Inner, TURNS,
    decide::{Ask, Key, Known, Plan, Seen},
    failed,
    hints::Hint,
    names::{Tail, block_key, buffered_key, check_id, segment_key},
    pause::Pauses,
    random,
    rows::BlockRow,
};
use crate::{
    Applied, BlockOp, BufferUsage, Revision, StoreError, StoreErrorKind, Stored,
    plan::{self, SegmentState},
};

/// How often other names are tried for an object whose name is taken.
const NAMES: usize = 4;

/// The bytes of a batch, stored.
struct Uploads {
    /// Of each operation, in order.
    tails: Vec<Tail>,
    since: Timestamp,
}

/// Why a batch was not written.
enum Failed {
    /// No row names its objects, nor ever will.
    Refused(StoreError),
    /// Rows may yet come to name them.
    Unknown(StoreError),
}

impl From<StoreError> for Failed {
    fn from(e: StoreError) -> Self {
        Self::Refused(e)
    }
}

impl Inner {
    pub(super) async fn commit(&self, batch: Vec<BlockOp>) -> Result<Vec<Applied>, StoreError> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        for op in &batch {
            if !matches!(op, BlockOp::Delete { .. } | BlockOp::Discard { .. }) {
                check_id(op.id())?;
            }
            plan::check(op)?;
        }
        // What keeps a version brings none.
        let keeps = |op: &&BlockOp| {
            matches!(op, BlockOp::Drain { .. } | BlockOp::Reseal { .. } | BlockOp::Discard { .. })
        };
        if let Some(highest) = batch.iter().filter(|op| !keeps(op)).map(BlockOp::version).max() {
            self.cover(highest).await?;
        }
        let mut uploads = self.upload(&batch).await?;
        let mut pauses = Pauses::new(&*self.entropy);
        let mut guess = batch.iter().all(|op| matches!(op, BlockOp::Put { .. }));
        loop {
            if self.clock.now().since(&uploads.since) >= self.orphan_age / 2 {
                let late = self.written_for(&batch, &uploads.tails);
                uploads = self.upload(&batch).await?;
                self.forget(late).await;
            }
            let refused = match self.try_commit(&batch, &uploads.tails, guess).await {
                Ok(Some(applied)) => return Ok(applied),
                Ok(None) if guess => {
                    guess = false;
                    continue;
                }
                Ok(None) => match pauses.next().await {
                    Ok(()) => continue,
                    Err(e) => e,
                },
                Err(Failed::Refused(e)) => e,
                Err(Failed::Unknown(e)) => return Err(e),
            };
            self.forget(self.written_for(&batch, &uploads.tails)).await;
            return Err(refused);
        }
    }

    /// `None`: it is to be decided anew, from rows that are read now.
    async fn try_commit(
        &self,
        batch: &[BlockOp],
        tails: &[Tail],
        guess: bool,
    ) -> Result<Option<Vec<Applied>>, Failed> {
        let fills = |op: &&BlockOp| {
            matches!(op, BlockOp::Buffer { .. } | BlockOp::Drain { .. } | BlockOp::Discard { .. })
        };
        let mut turn = match batch.iter().find(fills) {
            Some(op) => Some(self.turn(op.account()).await),
            None => None,
        };
        let mut known = if guess { self.guessed(batch) } else { self.looked_up(batch).await? };
        let mut asks = known.asks(batch);
        if turn.is_none()
            && let Some(Ask::Usage(account)) = asks.iter().find(|ask| matches!(ask, Ask::Usage(_)))
        {
            if guess {
                return Ok(None);
            }
            turn = Some(self.turn(*account).await);
            // They may have changed before it was this one's turn.
            known = self.looked_up(batch).await?;
            asks = known.asks(batch);
        }
        self.ask(&mut known, asks).await?;
        let planned = known.plan(batch, tails);
        let changes =
            planned.as_ref().is_ok_and(|plan| plan.applied.iter().all(|at| *at == Applied::Written));
        if guess && !changes {
            return Ok(None);
        }
        let plan = match planned {
            Ok(plan) => plan,
            // Rows of one moment say so only if the blocks' are still as they were before the others were read.
            Err(_) if !known.usages.is_empty() && self.have_changed(&known).await? => return Ok(None),
            Err(refused) => return Err(Failed::Refused(refused)),
        };
        let writes = known.writes(&plan);
        let keys: Vec<String> = writes.iter().map(|write| write.key.clone()).collect();
        let written = if writes.is_empty() { Ok(Vec::new()) } else { self.rows.write(writes).await };
        drop(turn);
        match written {
            Ok(revisions) => {
                self.note(&plan, keys.into_iter().zip(revisions).collect());
                self.forget(self.left_behind(&known, &plan, batch, tails)).await;
                Ok(Some(plan.applied))
            }
            Err(e) => {
                for key in known.blocks.keys() {
                    self.hints.note(key, None);
                }
                if e.kind() == StoreErrorKind::Conflict { Ok(None) } else { Err(Failed::Unknown(e)) }
            }
        }
    }

    /// The blocks' rows as they were seen last; none of those that were not.
    fn guessed(&self, batch: &[BlockOp]) -> Known {
        let seen = |key: &Key| match self.hints.find(key) {
            Some(Hint { row, was }) => Seen { value: row, was: Some(was) },
            None => Seen::default(),
        };
        let blocks = keys_of(batch).into_iter().map(|key| (key.clone(), seen(&key))).collect();
        Known { blocks, ..Known::default() }
    }

    async fn looked_up(&self, batch: &[BlockOp]) -> Result<Known, StoreError> {
        // One that has no name is nowhere.
        let keys = keys_of(batch).into_iter().filter(|(_, id)| check_id(id).is_ok());
        Ok(Known { blocks: self.rows_of(keys.collect()).await?, ..Known::default() })
    }

    async fn rows_of(&self, keys: Vec<Key>) -> Result<BTreeMap<Key, Seen<BlockRow>>, StoreError> {
        let mut rows = BTreeMap::new();
        for keys in keys.chunks(AT_ONCE) {
            let some = try_join_all(keys.iter().map(|(account, id)| self.row(*account, id))).await?;
            rows.extend(keys.iter().cloned().zip(some));
        }
        Ok(rows)
    }

    /// Whether the row of a block is not as it was read.
    async fn have_changed(&self, known: &Known) -> Result<bool, StoreError> {
        let now = self.rows_of(known.blocks.keys().cloned().collect()).await?;
        Ok(known.blocks.iter().any(|(key, seen)| now.get(key).is_none_or(|now| now.was != seen.was)))
    }

    async fn ask(&self, known: &mut Known, asks: Vec<Ask>) -> Result<(), StoreError> {
        for asks in asks.chunks(AT_ONCE) {
            for answer in try_join_all(asks.iter().map(|ask| self.answer(ask))).await? {
                match answer {
                    Answer::Buffered(key, was) => drop(known.buffered.insert(key, was)),
                    Answer::Usage(account, usage) => drop(known.usages.insert(account, usage)),
                    Answer::Segment(key, state) => drop(known.segments.insert(key, state)),
                }
            }
        }
        Ok(())
    }

    async fn answer(&self, ask: &Ask) -> Result<Answer, StoreError> {
        Ok(match ask {
            Ask::Buffered(key @ (account, id)) => {
                Answer::Buffered(key.clone(), self.rows.stored(&buffered_key(*account, id)).await?)
            }
            Ask::Usage(account) => Answer::Usage(*account, self.usage(*account).await?),
            Ask::Segment(account, segment) => {
                Answer::Segment((*account, *segment), self.segment(*account, *segment).await?)
            }
        })
    }

    /// Remembers the blocks' rows as they were written.
    fn note(&self, plan: &Plan, revisions: BTreeMap<String, Option<Revision>>) {
        for (key @ (account, id), row) in &plan.blocks {
            if let Some(revision) = revisions.get(&block_key(*account, id)) {
                let was = row.encode().zip(revision.clone());
                let was = was.map(|(bytes, revision)| Stored { bytes, revision });
                self.hints.note(key, was.map(|was| Hint { row: *row, was }));
            }
        }
    }

    /// The objects of before and of the batch that no row names after it.
    fn left_behind(&self, known: &Known, plan: &Plan, batch: &[BlockOp], tails: &[Tail]) -> Vec<Path> {
        let mut left: BTreeSet<Path> = self.written_for(batch, tails).into_iter().collect();
        for ((account, id), seen) in &known.blocks {
            left.extend(seen.value.all().map(|placed| placed.object(&self.places, *account, id)));
        }
        for (key @ (account, id), seen) in &known.blocks {
            for placed in plan.blocks.get(key).unwrap_or(&seen.value).all() {
                left.remove(&placed.object(&self.places, *account, id));
            }
        }
        left.into_iter().collect()
    }

    /// The objects of a batch.
    fn written_for(&self, batch: &[BlockOp], tails: &[Tail]) -> Vec<Path> {
        let of = |(op, tail): (&BlockOp, &Tail)| {
            op.sealed().map(|_| self.places.of_block(op.account(), op.id(), op.version(), *tail))
        };
        batch.iter().zip(tails).filter_map(of).collect()
    }

    /// Stores the bytes of a batch.
    async fn upload(&self, batch: &[BlockOp]) -> Result<Uploads, StoreError> {
        let since = self.clock.now();
        let mut uploads = Vec::new();
        for op in batch {
            uploads.push(self.upload_one(op));
        }
        let done: Vec<Result<Tail, StoreError>> = stream::iter(uploads).buffered(AT_ONCE).collect().await;
        if done.iter().all(Result::is_ok) {
            return Ok(Uploads { tails: done.into_iter().filter_map(Result::ok).collect(), since });
        }
        // No row was written yet, so none will name those that were stored.
        let stored = batch.iter().zip(&done).filter_map(|(op, done)| {
            let tail = *done.as_ref().ok()?;
            op.sealed().map(|_| self.places.of_block(op.account(), op.id(), op.version(), tail))
        });
        self.forget(stored.collect()).await;
        match done.into_iter().find_map(Result::err) {
            Some(e) => Err(e),
            None => Ok(Uploads { tails: Vec::new(), since }),
        }
    }

    /// Stores what an operation writes under a name that nothing else has, and says which.
    async fn upload_one(&self, op: &BlockOp) -> Result<Tail, StoreError> {
        let Some((_, sealed)) = op.sealed() else { return Ok(Tail(0)) };
        for _ in 0..NAMES {
            let tail = Tail(random(&*self.entropy)?);
            let object = self.places.of_block(op.account(), op.id(), op.version(), tail);
            match self.create(&object, sealed.clone()).await {
                Ok(()) => return Ok(tail),
                // Perhaps its own, sent a second time after a lost answer, perhaps not: another name is certain.
                Err(Error::AlreadyExists { .. }) => {}
                Err(e) => return Err(failed("storing a block", e)),
            }
        }
        let detail = format!("{NAMES} random names for block {} were taken", op.id());
        Err(StoreError::new(StoreErrorKind::Io).with_detail(detail))
    }

    pub(super) async fn create(&self, object: &Path, bytes: Bytes) -> Result<(), Error> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        self.in_time(self.store.put_opts(object, PutPayload::from(bytes), options)).await.map(drop)
    }

    /// One at a time of the operations of this handle that change what an account's buffer holds.
    async fn turn(&self, account: AccountId) -> MutexGuard<'_, ()> {
        let first = usize::from(account.as_bytes()[0]);
        self.turns[first % TURNS].lock().await
    }

    pub(super) async fn replace_segment(
        &self,
        account: AccountId,
        segment: SegmentId,
        expected: &Bytes,
        new: Bytes,
    ) -> Result<bool, StoreError> {
        let mut pauses = Pauses::new(&*self.entropy);
        loop {
            let Seen { value: Some(state), was } = self.segment(account, segment).await? else {
                return Ok(false);
            };
            if state.record != expected {
                return Ok(false);
            }
            let state = SegmentState { record: new.clone(), replaced: true, ..state };
            let (key, new) = (segment_key(account, segment), Some(state.encode().into()));
            match self.rows.write(vec![Write { key, was, new }]).await {
                Ok(_) => return Ok(true),
                Err(e) if e.kind() == StoreErrorKind::Conflict => pauses.next().await?,
                Err(e) => return Err(e),
            }
        }
    }
}

/// The answer to an [`Ask`].
enum Answer {
    Buffered(Key, Option<Stored>),
    Usage(AccountId, Seen<Option<BufferUsage>>),
    Segment((AccountId, SegmentId), Seen<Option<SegmentState>>),
}

fn keys_of(batch: &[BlockOp]) -> BTreeSet<Key> {
    batch.iter().map(|op| (op.account(), op.id().clone())).collect()
}
