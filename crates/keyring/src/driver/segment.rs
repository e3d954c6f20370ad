//! The keys of segments of write-only buffers, which a customer's vault unwraps beside the account's own.
//!
//! Guarantees: a segment is unwrapped, and its key served, only while the account's key may be used; whoever asks at the
//! same time shares one call, and a caller who gives up cancels nothing; nothing that the vault answers is used before
//! its check value is found right; keys are kept until the account's is evicted, and go in the same step. A denial lets
//! the account's own key be asked for at once: whether it is a revocation is the machine's to say.
//!
//! Not its job: whether a segment is genuine. Who asks has checked its tag: a check value can be made by anyone who has
//! the KEK's public half.

use std::{
    collections::BTreeMap,
    fmt,
    ops::Deref,
    sync::{Arc, PoisonError},
};

use cofferdam_crypto::{
    AccountId, KeyScope, Provider, Sealer, SegmentId, WrappedAek, WrappedKey,
    planted::{Bug, is_planted},
};
use cofferdam_vault::{KeyVault, Meaning, VaultError};

use super::{
    Keyring, LiveKey, Shared,
    ask::not_asked,
    call,
    entry::{Entry, For},
    kept,
    lane::Lane,
    signal::Flag,
};
use crate::{
    Fault, KeyError,
    budget::Kind,
    rt::{self, Mutex, MutexGuard},
    telemetry,
};

/// How many segments' keys an account keeps; those used longest ago make way. A few hundred bytes each.
const KEPT: usize = 1024;

/// The key of a segment, to open its blocks with: derefs to its [`Sealer`].
///
/// Use it for one operation and drop it; a long one asks [`Self::still_usable`] at each page.
#[derive(Clone)]
pub struct LiveSegment {
    owner: LiveKey,
    sealer: Arc<Sealer>,
}

impl LiveSegment {
    /// Which AEK it is.
    pub fn scope(&self) -> &KeyScope {
        self.sealer.scope()
    }

    /// The key of the account's newest epoch, without which the segment's may not be used.
    pub fn owner(&self) -> &LiveKey {
        &self.owner
    }

    /// Whether it may still be used: see [`LiveKey::still_usable`].
    pub fn still_usable(&self) -> bool {
        self.owner.still_usable()
    }
}

impl Deref for LiveSegment {
    type Target = Sealer;

    fn deref(&self) -> &Sealer {
        &self.sealer
    }
}

impl fmt::Debug for LiveSegment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LiveSegment({})", self.scope())
    }
}

impl Keyring {
    /// The key of a segment that was unwrapped before and is still kept; asks no vault.
    ///
    /// # Errors
    /// [`KeyError`]: why the account's own key can't be used now.
    pub async fn kept_segment(
        &self,
        account: AccountId,
        segment: SegmentId,
    ) -> Result<Option<LiveSegment>, KeyError> {
        let owner = self.shared.key(account, Provider::Customer, None, For::Caller).await?;
        let entry = self.shared.entry(account, Provider::Customer);
        Ok(entry.segments.kept(segment).map(|sealer| LiveSegment { owner, sealer }))
    }

    /// The key of a segment, unwrapped by the KEK that its wrap names. The caller has checked the segment's tag.
    ///
    /// # Errors
    /// [`KeyError`]: why the account's own key can't be used now; [`KeyError::Unavailable`] with what the vault said
    /// of the segment: `Corrupt` when its answer is not the segment's AEK.
    pub async fn unwrap_segment(&self, of: &WrappedAek) -> Result<LiveSegment, KeyError> {
        let account = of.scope.account;
        let Some(segment) = of.scope.provider.segment() else {
            return Err(KeyError::UnknownEpoch(of.scope));
        };
        let owner = self.shared.key(account, Provider::Customer, None, For::Caller).await?;
        let entry = self.shared.entry(account, Provider::Customer);
        let flight = match entry.segments.join(segment) {
            Joined::Kept(sealer) => return Ok(LiveSegment { owner, sealer }),
            Joined::UnderWay(flight) => flight,
            Joined::Begun(flight) => {
                let call = Call::new(self.shared.clone(), entry, flight.clone(), owner.clone(), of.clone());
                rt::spawn(call.run(segment));
                flight
            }
        };
        flight.landed.wait().await;
        let sealer = flight.answer().clone().unwrap_or_else(|| {
            let retry = self.shared.parts.policy.retry_max();
            let (provider, fault) = (Provider::Customer, Fault::Panicked);
            Err(KeyError::Unavailable { account, provider, fault, proven: true, retry })
        })?;
        Ok(LiveSegment { owner, sealer })
    }
}

/// What an entry keeps of its account's segments: nothing, for most.
pub(super) struct SegmentKeys(Mutex<Option<Box<Inner>>>);

#[derive(Default)]
struct Inner {
    kept: BTreeMap<SegmentId, Kept>,
    flights: BTreeMap<SegmentId, Arc<Flight>>,
    /// Counts uses.
    uses: u64,
}

struct Kept {
    sealer: Arc<Sealer>,
    used: u64,
}

/// A call that is under way.
#[derive(Default)]
struct Flight {
    /// Set before it lands; never if it panicked.
    answer: Mutex<Option<Result<Arc<Sealer>, KeyError>>>,
    landed: Flag,
}

impl Flight {
    fn answer(&self) -> MutexGuard<'_, Option<Result<Arc<Sealer>, KeyError>>> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Joined {
    Kept(Arc<Sealer>),
    UnderWay(Arc<Flight>),
    Begun(Arc<Flight>),
}

impl SegmentKeys {
    pub(super) fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// Wipes all, but for who works with one: that one goes when the work ends.
    pub(super) fn clear(&self) {
        if let Some(inner) = &mut *self.inner() {
            // What is under way is told to who waits for it, and not kept.
            inner.kept.clear();
        }
    }

    fn kept(&self, segment: SegmentId) -> Option<Arc<Sealer>> {
        self.inner().as_mut()?.touch(segment)
    }

    fn join(&self, segment: SegmentId) -> Joined {
        let mut inner = self.inner();
        let inner = inner.get_or_insert_default();
        if let Some(sealer) = inner.touch(segment) {
            return Joined::Kept(sealer);
        }
        if let Some(flight) = inner.flights.get(&segment) {
            return Joined::UnderWay(flight.clone());
        }
        let flight = Arc::new(Flight::default());
        inner.flights.insert(segment, flight.clone());
        Joined::Begun(flight)
    }

    /// Keeps a key for as long as its account's is kept. The lock makes it certain: who evicts that one takes this
    /// lock after it.
    fn keep(&self, segment: SegmentId, sealer: &Arc<Sealer>, owner: &LiveKey) {
        let mut inner = self.inner();
        if !owner.still_usable() {
            return;
        }
        let inner = inner.get_or_insert_default();
        if inner.kept.len() >= KEPT {
            let oldest = inner.kept.iter().min_by_key(|(_, kept)| kept.used).map(|(segment, _)| *segment);
            oldest.and_then(|oldest| inner.kept.remove(&oldest));
        }
        inner.uses += 1;
        let used = inner.uses;
        inner.kept.insert(segment, Kept { sealer: sealer.clone(), used });
    }

    fn land(&self, segment: SegmentId) {
        let mut inner = self.inner();
        if let Some(at) = &mut *inner {
            at.flights.remove(&segment);
            if at.flights.is_empty() && at.kept.is_empty() {
                *inner = None;
            }
        }
    }

    fn inner(&self) -> MutexGuard<'_, Option<Box<Inner>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn touch(&mut self, segment: SegmentId) -> Option<Arc<Sealer>> {
        let kept = self.kept.get_mut(&segment)?;
        self.uses += 1;
        kept.used = self.uses;
        Some(kept.sealer.clone())
    }
}

/// One call for one segment. It lands when this is dropped, whatever ended it.
struct Call {
    shared: Arc<Shared>,
    entry: Arc<Entry>,
    flight: Arc<Flight>,
    owner: LiveKey,
    of: WrappedAek,
}

impl Call {
    fn new(
        shared: Arc<Shared>,
        entry: Arc<Entry>,
        flight: Arc<Flight>,
        owner: LiveKey,
        of: WrappedAek,
    ) -> Self {
        shared.tasks.add();
        Self { shared, entry, flight, owner, of }
    }

    async fn run(self, segment: SegmentId) {
        let answer = tokio::select! {
            biased;
            () = self.shared.closing.wait() => Err(KeyError::Closed),
            answer = self.ask() => answer,
        };
        if let Ok(sealer) = &answer {
            self.entry.segments.keep(segment, sealer, &self.owner);
        }
        *self.flight.answer() = Some(answer);
    }

    /// Asks the KEKs that the segment is wrapped by, one after another, until one answers.
    async fn ask(&self) -> Result<Arc<Sealer>, KeyError> {
        let record = self.entry.desk().record.clone();
        let mut kek = 0;
        loop {
            let answer = self.ask_kek(record.as_deref(), kek).await;
            kek += 1;
            match &answer {
                Err(KeyError::Unavailable { fault: Fault::Vault { kind, .. }, .. })
                    if kind.meaning() == Meaning::Outage && kek < self.of.wraps.len() => {}
                _ => return answer,
            }
        }
    }

    async fn ask_kek(&self, record: Option<&kept::Kept>, kek: usize) -> Result<Arc<Sealer>, KeyError> {
        let account = self.of.scope.account;
        let key_id = self.of.wraps.get(kek).map(|wrap| &wrap.key_id);
        let principal = record.and_then(|record| record.principal_of(key_id).cloned());
        let found = principal.as_ref().and_then(|principal| {
            let lane = self.shared.lanes.named(Provider::Customer, Some(principal))?;
            Some((self.shared.parts.vaults.customer(principal)?.clone(), lane.clone()))
        });
        let Some((vault, lane)) = found else { return Err(KeyError::NoVault { account, principal }) };
        self.unwrap(&*vault, &lane, kek).await.map_err(|failed| self.failed(&failed))
    }

    async fn unwrap(
        &self,
        vault: &dyn KeyVault,
        lane: &Arc<Lane>,
        kek: usize,
    ) -> Result<Arc<Sealer>, VaultError> {
        let wrapped = call::wrap_of(&self.of, kek, "the segment has no wrap of its key")?;
        let throttled = |throttled| not_asked(&throttled).about(&wrapped.key_id);
        let mut turn = lane.turn(Kind::Cold).await.map_err(throttled)?;
        let sent = self.entry.now();
        turn.send(sent);
        let answer = self.call(vault, wrapped).await;
        telemetry::count_call(Provider::Customer, self.entry.now().since(&sent), &answer);
        lane.answered(sent, answer.as_ref().err().map(VaultError::kind));
        answer
    }

    /// One call, and what it brings verified. The AEK is wiped before this returns.
    async fn call(&self, vault: &dyn KeyVault, wrapped: &WrappedKey) -> Result<Arc<Sealer>, VaultError> {
        let limit = self.shared.parts.policy.call_timeout();
        let aek = call::unwrap(vault, wrapped, &self.of, limit).await?;
        if !is_planted(Bug::SegmentCheckIgnored) {
            call::verify(&aek, wrapped, &self.of)?;
        }
        Ok(Arc::new(Sealer::new(&aek, self.of.scope)))
    }

    fn failed(&self, failed: &VaultError) -> KeyError {
        if failed.kind().meaning() != Meaning::Outage {
            self.shared.doubt(&self.entry);
        }
        KeyError::Unavailable {
            account: self.of.scope.account,
            provider: Provider::Customer,
            fault: Fault::Vault {
                kind: failed.kind(),
                message: failed.to_string().into(),
                key_id: failed.key_id().cloned(),
            },
            // The account's own key is in use.
            proven: true,
            retry: self.shared.parts.policy.retry_max(),
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Some(segment) = self.of.scope.provider.segment() {
            self.entry.segments.land(segment);
        }
        self.flight.landed.raise();
        self.shared.tasks.remove();
    }
}

impl Shared {
    /// Lets the vault be asked for the account's key at once: it denied another of its keys.
    fn doubt(self: &Arc<Self>, entry: &Arc<Entry>) {
        {
            let mut desk = entry.desk();
            let newest = desk.record.as_ref().and_then(|record| record.newest());
            desk.wanted.extend(newest.map(|(epoch, _)| epoch));
        }
        self.attend(entry);
    }
}
