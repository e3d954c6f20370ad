//! The segments of write-only buffers: the one that each account writes to now, and the keys of those that were written.
//!
//! Guarantees: the AEK of a segment is fresh, wrapped to the public half that the account's record pins, and wiped before
//! anything is sealed under what was derived from it; that goes when the segment's time is over, when the account's
//! key is back or revoked, or when the engine closes, whether or not anything more is written. From then on only the
//! customer's vault can open its blocks. Nothing is opened under a segment whose tag was not found right.
//!
//! Invariant: a segment has no record in the store before its first block is; the two are committed together.
//!
//! Not its job: to decide when to buffer (`account`), rows and their numbers (the store's).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use cofferdam_crypto::planted::{Bug, is_planted};
use cofferdam_crypto::{
    AccountId, Aek, KeyId, KeyScope, Provider, Sealer, SegmentId, WrapAlgorithm, WrappedAek, WrappedKey,
    rsa::RsaPublicKey,
};
use cofferdam_keyring::{KeyError, KeyState, LiveKey, LiveSegment};
use cofferdam_vault::{Clock, Timestamp};
use tokio::{sync::watch, time::sleep};

use super::{
    EngineError, Inner,
    account::Shared,
    segment_record::{SegmentRecord, UnverifiedSegment},
};
use crate::StoreError;

/// The longest that a keeper sleeps, so that it is late by that after the machine was suspended.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// What an account's segments are wrapped to.
#[derive(Debug)]
pub(super) struct SegmentKek {
    /// The KEK, with the version that the public half is of.
    pub(super) key_id: KeyId,
    pub(super) public: RsaPublicKey,
}

/// A segment that is being written.
pub(super) struct Segment {
    sealer: Sealer,
    record: Bytes,
    made: Timestamp,
    lasts: Duration,
    clock: Arc<dyn Clock>,
    /// It was taken away.
    gone: AtomicBool,
}

impl Segment {
    pub(super) fn sealer(&self) -> &Sealer {
        &self.sealer
    }

    pub(super) fn record(&self) -> &Bytes {
        &self.record
    }

    pub(super) fn still_usable(&self) -> bool {
        !self.gone.load(Ordering::Acquire) && self.left() > Duration::ZERO
    }

    /// How long it may be written to.
    fn left(&self) -> Duration {
        if is_planted(Bug::SegmentNeverRenewed) {
            return self.lasts;
        }
        self.lasts.saturating_sub(self.clock.now().since(&self.made))
    }
}

/// The segment that each account writes to now.
#[derive(Default)]
pub(super) struct Segments(Mutex<State>);

#[derive(Default)]
struct State {
    current: BTreeMap<AccountId, Arc<Segment>>,
    /// Accounts that have a task which takes their segments away.
    kept: BTreeSet<AccountId>,
    closed: bool,
    /// What the defect `SegmentKeyKept` keeps.
    #[cfg(cofferdam_planted)]
    hoard: Vec<Arc<Segment>>,
}

impl State {
    fn take_away(&mut self, account: AccountId) {
        if let Some(segment) = self.current.remove(&account) {
            segment.gone.store(true, Ordering::Release);
            #[cfg(cofferdam_planted)]
            if is_planted(Bug::SegmentKeyKept) {
                self.hoard.push(segment);
            }
        }
    }
}

impl Segments {
    /// The segment that the account writes to now: that of before while its time lasts, else a new one.
    ///
    /// # Errors
    /// [`EngineError::Segment`], [`EngineError::Entropy`], [`EngineError::Closed`].
    pub(super) fn current(
        engine: &Arc<Inner>,
        of: &Shared,
        kek: &SegmentKek,
        service: &LiveKey,
    ) -> Result<Arc<Segment>, EngineError> {
        let (this, account) = (&engine.segments, of.id);
        if let Some(segment) = this.usable(account) {
            return Ok(segment);
        }
        let made = Arc::new(make(engine, of, kek, service)?);
        let mut state = this.state();
        if state.closed {
            return Err(EngineError::Closed);
        }
        if let Some(segment) = state.current.get(&account).filter(|segment| segment.still_usable()) {
            return Ok(segment.clone());
        }
        state.take_away(account);
        state.current.insert(account, made.clone());
        let is_kept = !state.kept.insert(account);
        drop(state);
        let state = engine.keyring.watch(account, Provider::Customer);
        if !is_kept {
            tokio::spawn(keep(Arc::downgrade(engine), account, state));
        } else if ends_buffering(*state.borrow()) {
            // Its keeper may have slept through that.
            this.forget(account);
        }
        Ok(made)
    }

    /// Wipes the account's segment, but for who works with it: that goes with the work.
    pub(super) fn forget(&self, account: AccountId) {
        self.state().take_away(account);
    }

    /// Wipes all. There are no new ones.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        let accounts: Vec<AccountId> = state.current.keys().copied().collect();
        accounts.into_iter().for_each(|account| state.take_away(account));
    }

    fn usable(&self, account: AccountId) -> Option<Arc<Segment>> {
        self.state().current.get(&account).filter(|segment| segment.still_usable()).cloned()
    }

    /// How long the account's segment lasts; `None` when there is none, and then it has no keeper any longer.
    fn left(&self, account: AccountId) -> Option<Duration> {
        let mut state = self.state();
        if state.current.get(&account).is_some_and(|segment| !segment.still_usable()) {
            state.take_away(account);
        }
        let left = state.current.get(&account).map(|segment| segment.left());
        if left.is_none() {
            state.kept.remove(&account);
        }
        left
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A new segment. Its AEK is gone once this returns.
fn make(engine: &Inner, of: &Shared, kek: &SegmentKek, service: &LiveKey) -> Result<Segment, EngineError> {
    let account = of.id;
    let mut id = [0; SegmentId::LEN];
    engine.entropy.fill(&mut id)?;
    let provider = Provider::Buffer(SegmentId::from_bytes(id));
    let scope = KeyScope { account, epoch: service.scope().epoch, provider };
    let aek = Aek::try_from_fn(|aek| engine.entropy.fill(aek))?;
    let unwrapped = |source| EngineError::Segment { account: of.name().clone(), source };
    let wrap = WrappedKey {
        key_id: kek.key_id.clone(),
        algorithm: WrapAlgorithm::RsaOaep256,
        bytes: kek.public.wrap(&aek).map_err(unwrapped)?,
    };
    let now = engine.clock.now();
    let record = SegmentRecord { key: WrappedAek::new(&aek, scope, vec![wrap]), created_at: now.wall };
    let record = record.seal(service.record_key()).map_err(|e| of.bad_record(e))?;
    Ok(Segment {
        sealer: Sealer::new(&aek, scope),
        record,
        made: now,
        lasts: engine.buffer.segment_time,
        clock: engine.clock.clone(),
        gone: AtomicBool::new(false),
    })
}

/// Takes an account's segments away when their time is over, or its key is back or revoked, until there is none.
async fn keep(engine: Weak<Inner>, account: AccountId, mut state: watch::Receiver<KeyState>) {
    let mut ended = ends_buffering(*state.borrow_and_update());
    loop {
        let left = {
            let Some(engine) = engine.upgrade() else { return };
            if ended {
                engine.segments.forget(account);
            }
            match engine.segments.left(account) {
                Some(left) => left,
                None => return,
            }
        };
        tokio::select! {
            biased;
            changed = state.changed() => match changed {
                // Also of a denial that is not confirmed yet: it is not to be waited for.
                Ok(()) => ended = *state.borrow_and_update() != KeyState::Unavailable,
                // The keyring is gone, and with it the engine.
                Err(_) => return,
            },
            () = sleep(left.min(LONGEST_SLEEP)) => ended = false,
        }
    }
}

/// Whether nothing is buffered in this state. In `Cold` something may be: where foreign code panics.
fn ends_buffering(state: KeyState) -> bool {
    matches!(state, KeyState::Active | KeyState::Grace | KeyState::Revoked)
}

/// Why a segment's key can't be had.
#[derive(Clone)]
pub(super) enum SegmentFault {
    /// The store has no such segment.
    Gone,
    /// Its record is not what was written: what, in words.
    Damaged(String),
    /// The account's key, or its vault.
    Key(KeyError),
    /// The service's own key, which its record is checked under.
    ServiceKey(KeyError),
}

impl Inner {
    /// The key of a segment, once its record was found genuine and the customer's vault has unwrapped it.
    pub(super) async fn segment_key(
        &self,
        account: AccountId,
        segment: SegmentId,
    ) -> Result<Result<LiveSegment, SegmentFault>, StoreError> {
        match self.keyring.kept_segment(account, segment).await {
            Ok(Some(key)) => return Ok(Ok(key)),
            Ok(None) => {}
            Err(error) => return Ok(Err(SegmentFault::Key(error))),
        }
        let Some(row) = self.blocks.segment(account, segment).await? else {
            return Ok(Err(SegmentFault::Gone));
        };
        let record = match self.genuine(account, segment, &row.record).await {
            Ok(record) => record,
            Err(fault) => return Ok(Err(fault)),
        };
        // It is genuine, so a vault that finds it malformed, or answers with another key, is wrong: as an outage, that is
        // tried again.
        Ok(self.keyring.unwrap_segment(&record.key).await.map_err(SegmentFault::Key))
    }

    pub(super) async fn genuine(
        &self,
        account: AccountId,
        segment: SegmentId,
        bytes: &[u8],
    ) -> Result<SegmentRecord, SegmentFault> {
        let record = UnverifiedSegment::parse(account, segment, bytes).map_err(SegmentFault::Damaged)?;
        let epoch = record.unverified().key.scope.epoch;
        let service = match self.keyring.opening_key(account, Provider::Service, epoch).await {
            Ok(service) => service,
            Err(e @ (KeyError::UnknownEpoch(_) | KeyError::UnknownAccount { .. })) => {
                return Err(SegmentFault::Damaged(e.to_string()));
            }
            Err(e) => return Err(SegmentFault::ServiceKey(e)),
        };
        record.verify(service.record_key()).map_err(SegmentFault::Damaged)
    }
}

#[cfg(test)]
mod tests {
    use cofferdam_crypto::Epoch;
    use cofferdam_vault::SystemClock;

    use super::*;

    fn segment() -> Arc<Segment> {
        let aek = Aek::try_from_fn(|aek| {
            aek.fill(9);
            Ok::<_, std::convert::Infallible>(())
        });
        let provider = Provider::Buffer(SegmentId::from_bytes([9; 16]));
        let scope = KeyScope { account: account(), epoch: Epoch::FIRST, provider };
        Arc::new(Segment {
            sealer: Sealer::new(&aek.unwrap(), scope),
            record: Bytes::new(),
            made: SystemClock.now(),
            lasts: Duration::from_secs(3600),
            clock: Arc::new(SystemClock),
            gone: AtomicBool::new(false),
        })
    }

    fn account() -> AccountId {
        AccountId::from_bytes([1; 16])
    }

    /// Whether anything of a segment's key is left once this was done with it.
    fn is_left(done: impl FnOnce(&Segments)) -> bool {
        let segments = Segments::default();
        let segment = segment();
        let key = Arc::downgrade(&segment);
        segments.state().current.insert(account(), segment);
        assert!(segments.usable(account()).is_some());
        done(&segments);
        assert!(segments.usable(account()).is_none());
        key.strong_count() > 0
    }

    #[test]
    fn the_key_of_a_segment_goes_when_that_is_over_or_the_engine_closes() {
        assert!(!is_left(|segments| segments.forget(account())));
        assert!(!is_left(Segments::close));
    }

    #[test]
    fn work_that_waits_with_a_segments_key_learns_that_it_was_taken_away() {
        let segments = Segments::default();
        segments.state().current.insert(account(), segment());
        let waiting = segments.usable(account()).unwrap();
        segments.forget(account());
        assert!(!waiting.still_usable());
    }

    #[cfg(cofferdam_planted)]
    #[test]
    fn a_key_that_is_kept_shows() {
        cofferdam_crypto::planted::plant(Some(Bug::SegmentKeyKept));
        assert!(is_left(|segments| segments.forget(account())));
        cofferdam_crypto::planted::plant(None);
    }
}
