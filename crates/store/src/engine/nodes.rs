//! How engines that share a catalog learn of each other's changes.
//!
//! Guarantees: a change of an account's record is numbered; an engine that says that it has seen a number uses no older
//! record of any account, and nothing that it began under one is still to be committed. Who waits for that waits for every
//! engine that lives, and for one that died at most a lease. An engine whose lease may be over looks again before it
//! commits anything.
//!
//! No clocks are compared: an engine counts as dead when its row stayed as it was for a lease by the clock of who
//! waits. What it leaves open: an engine that is suspended between that look and its commit, for longer than a lease.
//!
//! A store that one process has to itself has no such rows: what it changes it knows.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use cofferdam_crypto::AccountId;
use cofferdam_crypto::planted::{Bug, is_planted};
use cofferdam_vault::{Clock, Entropy};
use data_encoding::HEXLOWER;
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};

use super::{EngineError, Inner, rows};
use crate::{Catalog, Revision, StoreError, StoreErrorKind};

const CHANGES: &str = "changes";
const NODES: &str = "node/";
/// How many changes are kept. Who missed more looks at every account.
const KEPT: usize = 256;
/// How many looks a lease lasts.
const LOOKS_A_LEASE: u32 = 3;

/// Names an engine: random bits, new at each opening.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeId([u8; 8]);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({self})")
    }
}

impl From<NodeId> for String {
    fn from(id: NodeId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for NodeId {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let bytes = HEXLOWER.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or("it names no engine")
    }
}

/// The changes of account records, the latest last.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Changes {
    last: u64,
    recent: Vec<(u64, AccountId)>,
}

impl Changes {
    /// The accounts that changed since this number; `None` when that is longer ago than what is kept.
    fn since(&self, seen: u64) -> Option<Vec<(u64, AccountId)>> {
        let first = self.recent.first().map_or(self.last + 1, |(number, _)| *number);
        (seen + 1 >= first)
            .then(|| self.recent.iter().copied().filter(|(number, _)| *number > seen).collect())
    }
}

/// What an engine says of itself.
#[derive(Debug, Serialize, Deserialize)]
struct NodeRow {
    /// The last change that it has seen.
    seen: u64,
    /// Grows, so that each writing is another.
    beat: u64,
}

/// The row of another engine, as it was seen last.
#[derive(Debug)]
struct Seen {
    revision: Revision,
    /// For how long it was seen to stay so.
    silent: Duration,
    /// When that was, since boot.
    looked: Duration,
}

/// This engine among those that share its catalog.
#[derive(Debug)]
pub(super) struct Nodes {
    pub(super) id: NodeId,
    catalog: Arc<dyn Catalog>,
    clock: Arc<dyn Clock>,
    shared: bool,
    every: Duration,
    /// The last change that this engine has seen.
    seen: AtomicU64,
    /// Until when its row counts, in nanoseconds since boot.
    live_until: AtomicU64,
    /// How the rows of the others were seen last.
    others: Mutex<BTreeMap<NodeId, Seen>>,
    /// One look at a time; what is held is the number of the next writing.
    looking: tokio::sync::Mutex<u64>,
    /// Since when a change could not be taken note of, as time since boot.
    failing: Mutex<Option<Duration>>,
}

impl Nodes {
    pub(super) fn new(
        catalog: Arc<dyn Catalog>,
        clock: Arc<dyn Clock>,
        entropy: &dyn Entropy,
        shared: bool,
        every: Duration,
    ) -> Result<Self, EngineError> {
        let mut id = [0; 8];
        entropy.fill(&mut id)?;
        Ok(Self {
            id: NodeId(id),
            shared,
            catalog,
            clock,
            every,
            seen: AtomicU64::new(0),
            live_until: AtomicU64::new(0),
            others: Mutex::default(),
            looking: tokio::sync::Mutex::new(0),
            failing: Mutex::default(),
        })
    }

    pub(super) fn is_shared(&self) -> bool {
        self.shared
    }

    pub(super) fn every(&self) -> Duration {
        self.every
    }

    fn lease(&self) -> Duration {
        self.every * LOOKS_A_LEASE
    }

    /// Before any record is read: from here on others wait for this engine.
    pub(super) async fn join(&self) -> Result<(), EngineError> {
        if !self.shared {
            return Ok(());
        }
        let mut beat = self.looking.lock().await;
        let (changes, _) = self.changes().await?;
        self.say(changes.last, u64::MAX, &mut beat).await
    }

    /// Others need not wait for this engine any longer.
    pub(super) async fn leave(&self) {
        if !self.shared {
            return;
        }
        // Who can't be told waits for a lease.
        let _ = rows::remove(&*self.catalog, &key(self.id)).await;
    }

    /// Whether this engine has taken note of this change.
    pub(super) fn has_seen(&self, number: u64) -> bool {
        !self.shared || self.seen.load(Ordering::Acquire) >= number
    }

    /// A change can't be taken note of: whether that has been so for longer than others should wait.
    fn fails_for_long(&self) -> bool {
        let now = self.clock.now().boot;
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        now.saturating_sub(*failing.get_or_insert(now)) >= self.lease()
    }

    fn succeeds(&self) {
        *self.failing.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Whether others wait for this engine still, so that it may commit.
    pub(super) fn is_live(&self) -> bool {
        !self.shared || nanos(self.clock.now().boot) < self.live_until.load(Ordering::Acquire)
    }

    /// A change of this account's record is there: its number.
    pub(super) async fn append(&self, account: AccountId) -> Result<u64, EngineError> {
        if !self.shared {
            return Ok(0);
        }
        loop {
            let (mut changes, revision) = self.changes().await?;
            changes.last += 1;
            changes.recent.push((changes.last, account));
            let excess = changes.recent.len().saturating_sub(KEPT);
            changes.recent.drain(..excess);
            match self.catalog.swap(CHANGES, revision.as_ref(), Some(encode(&changes)?)).await {
                Ok(_) => return Ok(changes.last),
                Err(e) if e.kind() == StoreErrorKind::Conflict => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// The engines that live and have not seen this change.
    pub(super) async fn behind(&self, number: u64) -> Result<Vec<NodeId>, EngineError> {
        if !self.shared || is_planted(Bug::NoAnnounce) {
            return Ok(Vec::new());
        }
        let rows = self.look_at_others().await?;
        Ok(rows.into_iter().filter(|(_, row)| row.seen < number).map(|(id, _)| id).collect())
    }

    /// How many engines live, this one too, and which of the others have not seen the last change.
    pub(super) async fn standing(&self) -> Result<(u64, Vec<NodeId>), EngineError> {
        if !self.shared {
            return Ok((1, Vec::new()));
        }
        let (changes, _) = self.changes().await?;
        let rows = self.look_at_others().await?;
        let living = rows.len() as u64 + 1;
        Ok((living, rows.into_iter().filter(|(_, row)| row.seen < changes.last).map(|(id, _)| id).collect()))
    }

    /// Whether this engine, another one than us, is alive as far as we know.
    pub(super) async fn lives(&self, node: NodeId) -> Result<bool, EngineError> {
        if !self.shared {
            return Ok(false);
        }
        Ok(self.look_at_others().await?.into_iter().any(|(id, _)| id == node))
    }

    /// The rows of all others that live. Rows of those that are long dead are removed.
    async fn look_at_others(&self) -> Result<Vec<(NodeId, NodeRow)>, EngineError> {
        let rows = rows::under(&*self.catalog, NODES).await?;
        let now = self.clock.now().boot;
        let (mut living, mut dead) = (Vec::new(), Vec::new());
        {
            let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
            let mut known = BTreeMap::new();
            for (key, stored) in rows {
                let id = key.strip_prefix(NODES).and_then(|id| NodeId::try_from(id.to_owned()).ok());
                let row = serde_json::from_slice(&stored.bytes).ok();
                // What is not written so is nobody's.
                let Some((id, row)) = id.zip(row).filter(|(id, _)| *id != self.id) else { continue };
                let silent = match others.get(&id) {
                    // By the clock that nobody sets; and who has not looked for longer, as it slept, has seen nobody be silent.
                    Some(seen) if seen.revision == stored.revision => {
                        seen.silent + now.saturating_sub(seen.looked).min(self.every)
                    }
                    _ => Duration::ZERO,
                };
                if silent < self.lease() {
                    living.push((id, row));
                } else if silent >= self.lease() * 10 {
                    dead.push((key, stored.revision.clone()));
                }
                known.insert(id, Seen { revision: stored.revision, silent, looked: now });
            }
            *others = known;
        }
        for (key, revision) in dead {
            // It may have come back.
            let _ = self.catalog.swap(&key, Some(&revision), None).await;
        }
        Ok(living)
    }

    async fn changes(&self) -> Result<(Changes, Option<Revision>), EngineError> {
        let Some(stored) = self.catalog.load(CHANGES).await? else { return Ok(Default::default()) };
        let changes = serde_json::from_slice(&stored.bytes).map_err(|e| corrupt(&e))?;
        Ok((changes, Some(stored.revision)))
    }

    /// Writes that this engine has seen this. It lives on if others have waited for it until then.
    async fn say(&self, seen: u64, waited_until: u64, beat: &mut u64) -> Result<(), EngineError> {
        let live_until = self.write(seen, beat).await?;
        self.seen.store(seen, Ordering::Release);
        if nanos(self.clock.now().boot) < waited_until {
            self.live_until.store(live_until, Ordering::Release);
        }
        Ok(())
    }

    /// Writes this engine's row: until when others wait for it, as time since boot.
    async fn write(&self, seen: u64, beat: &mut u64) -> Result<u64, EngineError> {
        *beat += 1;
        // Shorter than others wait, who see it later.
        let live_until = nanos(self.clock.now().boot + self.lease());
        rows::put(&*self.catalog, &key(self.id), encode(&NodeRow { seen, beat: *beat })?).await?;
        Ok(live_until)
    }
}

impl Inner {
    /// Takes note of what others changed, and says so.
    pub(super) async fn look_for_changes(self: &Arc<Self>) -> Result<(), EngineError> {
        let nodes = &self.nodes;
        if !nodes.shared {
            return Ok(());
        }
        let mut beat = nodes.looking.lock().await;
        let seen = nodes.seen.load(Ordering::Acquire);
        // Who was taken for dead is waited for from its next word on: what changed before that is read after it.
        let lapsed = !nodes.is_live();
        let waited_until = match lapsed {
            true => nodes.write(seen, &mut beat).await?,
            false => nodes.live_until.load(Ordering::Acquire),
        };
        let (changes, _) = nodes.changes().await?;
        let everything = || self.records.known().into_iter().map(|account| (seen, account)).collect();
        let later = changes.since(seen).unwrap_or_else(everything);
        let (mut upto, mut whole) = (seen, true);
        // At once, so that a vault that hangs is waited for once and not for each account.
        let noted = later.into_iter().map(|(number, account)| async move {
            (number, account, if lapsed { self.reread(account).await } else { self.reload(account).await })
        });
        for (number, account, noted) in join_all(noted).await {
            match noted {
                Ok(()) => {}
                Err(e @ (EngineError::Closed | EngineError::Store(_))) => return Err(e),
                Err(error) if nodes.fails_for_long() => {
                    tracing::warn!(target: "cofferdam::audit", %account, %error, "put out of use: its record can't be read");
                    self.put_out_of_use(account).await;
                }
                // Others wait for this engine meanwhile.
                Err(error) => {
                    tracing::warn!(target: "cofferdam::audit", %account, %error, "a change can't be taken note of yet");
                    whole = false;
                    break;
                }
            }
            upto = number;
        }
        if whole {
            nodes.succeeds();
        }
        nodes.say(if whole { changes.last } else { upto }, waited_until, &mut beat).await
    }

    /// Looks first where others may have ceased to wait for this engine. Not to be called by who has entered a gate: who
    /// looks waits for those.
    pub(super) async fn be_live(self: &Arc<Self>) -> Result<(), EngineError> {
        if self.nodes.is_live() { Ok(()) } else { self.look_for_changes().await }
    }
}

fn key(id: NodeId) -> String {
    format!("{NODES}{id}")
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn encode(row: &impl Serialize) -> Result<Bytes, EngineError> {
    Ok(serde_json::to_vec(row).map_err(|e| corrupt(&e))?.into())
}

fn corrupt(e: &serde_json::Error) -> EngineError {
    StoreError::new(StoreErrorKind::Corrupt).with_detail(format!("what engines tell each other: {e}")).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_missed_more_changes_than_are_kept_looks_at_everything() {
        let account = |n: u8| AccountId::from_bytes([n; 16]);
        let changes = Changes { last: 9, recent: vec![(7, account(7)), (8, account(8)), (9, account(9))] };
        assert_eq!(changes.since(9), Some(vec![]));
        assert_eq!(changes.since(8), Some(vec![(9, account(9))]));
        assert_eq!(changes.since(6), Some(vec![(7, account(7)), (8, account(8)), (9, account(9))]));
        assert_eq!(changes.since(5), None);
        assert_eq!(Changes::default().since(0), Some(vec![]));
    }
}
