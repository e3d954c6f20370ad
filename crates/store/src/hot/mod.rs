//! The hot cache: what was stored and read of late, kept close, as it is sealed.
//!
//! Guarantees:
//! - It holds sealed bytes with what the store knows of them, never plaintext and never a key: what is in it is as
//!   unreadable without the account's key as what is in the store.
//! - Every answer is of the version that the store has at that moment, also where other nodes write to it: the store is asked
//!   which one is the newest, and the cache answers only with exactly that. What it saves is the way of the block's bytes.
//!   Only where the settings say that this engine is the store's only writer is what is in memory known to be the newest,
//!   as every change goes through here (`changes`): then a hit asks nobody.
//! - Once an account's key is revoked, what is cached of the account is deleted, in memory and on disk, and nothing of it
//!   comes in; what an earlier process left of it is deleted before an engine opens.
//! - A failure of the cache is a miss: counted, told of, and nothing more. A cached block that does not open is dropped
//!   and read from the store.
//! - It is bounded, in memory and on disk, and nothing in it is older than its age.
//!
//! How: [`HotCache`] is a [`BlockStore`] around another one. Blocks in memory (`tier`) that are pushed out go to disk
//! (`disk`), a file each, in a folder for each account (`files`), so that one account's can be deleted: foyer's own disk
//! engine writes all accounts' into common files, where a deleted block's bytes stay until their turn comes. `watch`
//! listens to the keyring.
//!
//! Buffered blocks are not cached: they are few, and leave soon. A range that is not cached is read as a range: a small
//! one does not fetch a large block.
//!
//! Not its job: keys. Who may read is decided before, by who holds the key.

mod changes;
mod disk;
#[cfg(any(test, feature = "testing"))]
mod faults;
mod files;
mod rules;
mod serve;
mod settings;
mod status;
#[cfg(test)]
mod tests;
mod tier;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use cofferdam_crypto::planted::{Bug, is_planted};
use cofferdam_crypto::{AccountId, BlockId, EntropyError};
use cofferdam_vault::{Clock, Entropy};
use tokio::{sync::Semaphore, task::JoinHandle};

#[cfg(any(test, feature = "testing"))]
pub use faults::HotCacheFaults;
pub use settings::HotCacheSettings;
pub use status::{CacheUsage, HotCacheStatus, HotCached, TierStatus};
pub(crate) use watch::Standing;

use self::{
    changes::Changes,
    disk::Disk,
    files::Files,
    rules::Rules,
    status::{Counts, Failed, one_more},
    tier::{Key, Tier},
};
use crate::{BlockMeta, BlockStore, EngineError, Located, Place};

/// What an entry in memory takes besides its bytes, about.
const ENTRY: usize = 256;
/// A block as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    meta: BlockMeta,
    sealed: Bytes,
}

impl Held {
    fn located(&self) -> Located {
        Located { place: Place::Store, meta: self.meta }
    }
}

/// A store with a cache before it.
pub(crate) struct HotCache {
    store: Arc<dyn BlockStore>,
    memory: Tier<Held>,
    disk: Option<Arc<Disk>>,
    fill_on_put: bool,
    only_writer: bool,
    me: Weak<Self>,
    rules: Arc<Rules>,
    changes: Changes,
    counts: Arc<Counts>,
    /// Accounts whose files could not all be removed.
    owed: Mutex<BTreeSet<AccountId>>,
    task: tokio::sync::Mutex<Option<JoinHandle<()>>>,
    /// Has no permits: it is closed to end the task.
    stop: Semaphore,
}

impl HotCache {
    /// A cache before `store`. What an earlier engine left on disk of accounts that are revoked, or not known, is
    /// deleted before this returns.
    pub(crate) async fn open(
        store: Arc<dyn BlockStore>,
        settings: &HotCacheSettings,
        clock: Arc<dyn Clock>,
        entropy: &dyn Entropy,
        standing: &dyn Standing,
    ) -> Result<Arc<Self>, EngineError> {
        settings.check()?;
        status::describe();
        let capacity = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let rules = Arc::new(Rules::new(clock.clone(), settings.age));
        let counts = Arc::new(Counts::default());
        let disk = match &settings.disk {
            None => None,
            Some((folder, bytes)) => Some(Disk::new(
                Files::open(folder, settings)?,
                (capacity(*bytes), seed(entropy)?),
                (rules.clone(), counts.clone()),
                clock,
                settings.executor.clone(),
            )),
        };
        let memory =
            Tier::new(capacity(settings.memory), seed(entropy)?, |held: &Held| held.sealed.len() + ENTRY);
        let cache = Arc::new_cyclic(|me| Self {
            store,
            memory,
            disk,
            fill_on_put: settings.fill_on_put,
            only_writer: settings.only_writer,
            me: me.clone(),
            rules,
            changes: Changes::default(),
            counts,
            owed: Mutex::default(),
            task: tokio::sync::Mutex::new(None),
            stop: Semaphore::new(0),
        });
        cache.take_up(standing).await?;
        Ok(cache)
    }

    /// Deletes what may not be here, and takes up the rest, in the background.
    async fn take_up(&self, standing: &dyn Standing) -> Result<(), EngineError> {
        let revoked = standing.revoked().await?;
        self.rules.bar(&revoked);
        let Some(disk) = &self.disk else { return Ok(()) };
        let found = match disk.accounts().await {
            Ok(found) => found.into_iter().collect::<BTreeSet<_>>(),
            Err(error) => {
                self.counts.trouble(Failed::Read, &error);
                return Ok(());
            }
        };
        let mut gone = standing.unknown(&found).await?;
        gone.extend(revoked.intersection(&found));
        disk.scan(found.difference(&gone).copied());
        if !gone.is_empty() {
            self.purge(gone, "found at opening").await;
        }
        Ok(())
    }

    /// Deletes all that is cached of these accounts and lets nothing more of them in, until [`Self::unbar`].
    async fn purge(&self, accounts: BTreeSet<AccountId>, why: &'static str) {
        if is_planted(Bug::HotCachePurgeForgotten) {
            return;
        }
        self.rules.bar(&accounts);
        let mut gone: BTreeMap<AccountId, CacheUsage> = BTreeMap::new();
        let evicted = self.memory.retain(|key, held| {
            let keep = !accounts.contains(&key.account);
            if !keep {
                gone.entry(key.account).or_default().add(held.meta.sealed_len);
            }
            keep
        });
        // Others may have been pushed out meanwhile.
        self.demote(evicted);
        let mut removed = match &self.disk {
            Some(disk) => disk.purge(accounts.clone()).await,
            None => Some(BTreeMap::new()),
        };
        for &account in &accounts {
            let memory = gone.get(&account).copied().unwrap_or_default();
            let disk = match &mut removed {
                Some(removed) => removed.remove(&account).unwrap_or(Ok(CacheUsage::default())),
                None => Err(std::io::Error::other("the executor is shutting down")),
            };
            self.account_for(account, memory, disk, why);
        }
    }

    fn account_for(
        &self,
        account: AccountId,
        memory: CacheUsage,
        disk: std::io::Result<CacheUsage>,
        why: &'static str,
    ) {
        let blocks = memory.blocks + disk.as_ref().map_or(0, |disk| disk.blocks);
        self.counts.purged_blocks.fetch_add(blocks, Ordering::Relaxed);
        let account_text = &account as &dyn fmt::Display;
        match disk {
            Ok(disk) => {
                self.owed().remove(&account);
                one_more(&self.counts.purges);
                tracing::info!(
                    target: "cofferdam::audit", account = %account_text, why, memory_blocks = memory.blocks,
                    memory_bytes = memory.bytes, files = disk.blocks, file_bytes = disk.bytes, "hot cache purged"
                );
            }
            Err(error) => {
                self.owed().insert(account);
                self.counts.trouble(Failed::Purge, &error);
                tracing::warn!(
                    target: "cofferdam::audit", account = %account_text, why, %error,
                    "files of the hot cache can't be removed; trying again"
                );
            }
        }
    }

    /// The account is deleted: deletes all that is cached of it and lets nothing more in, until [`Self::readmit`].
    pub(crate) async fn forget(&self, account: AccountId) {
        self.purge(BTreeSet::from([account]), "deleted").await;
    }

    /// The account is there, or there again.
    pub(crate) fn readmit(&self, account: AccountId) {
        self.rules.unbar(account);
    }

    /// The account's key is back: its blocks may come in again.
    fn unbar(&self, account: AccountId) {
        self.rules.unbar(account);
    }

    /// Drops a cached block that did not open. Whether there was one, so that the store's is worth a try.
    pub(crate) fn distrust(&self, account: AccountId, id: &BlockId) -> bool {
        let key = Key::of(account, id);
        let cached =
            self.memory.has(&key) || self.disk.as_ref().is_some_and(|disk| disk.version_of(&key).is_some());
        if cached {
            self.counts
                .trouble(Failed::Open, &format_args!("a cached block of account {account} does not open"));
            self.remove(&key);
        }
        cached
    }

    pub(crate) fn status(&self) -> HotCacheStatus {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let counts = &self.counts;
        HotCacheStatus {
            memory: TierStatus {
                hits: load(&counts.memory_hits),
                blocks: self.memory.len() as u64,
                bytes: self.memory.weight() as u64,
                max_bytes: self.memory.capacity() as u64,
            },
            disk: self.disk.as_ref().map(|disk| disk.status(load(&counts.disk_hits))),
            misses: load(&counts.misses),
            purges: load(&counts.purges),
            purged_blocks: load(&counts.purged_blocks),
            skipped_writes: load(&counts.skipped_writes),
            troubles: load(&counts.troubles),
        }
    }

    /// What is cached of an account. Walks over everything.
    pub(crate) fn usage_of(&self, account: AccountId) -> HotCached {
        let mut cached = HotCached::default();
        self.memory.walk(|key, held| {
            if key.account == account {
                cached.memory.add(held.meta.sealed_len);
            }
        });
        if let Some(disk) = &self.disk {
            cached.disk = disk.usage_of(account);
        }
        cached
    }

    /// Waits until what is to be written to disk, or removed there, is.
    pub(crate) async fn settle(&self) {
        if let Some(disk) = &self.disk {
            disk.settle().await;
        }
    }

    /// Removes what is too old.
    async fn sweep(&self) {
        if let Some(oldest) = self.rules.stored_since() {
            let evicted = self.memory.retain(|_, held| held.meta.stored_at >= oldest);
            self.demote(evicted);
            if let Some(disk) = &self.disk {
                disk.sweep().await;
            }
        }
    }

    fn owed(&self) -> MutexGuard<'_, BTreeSet<AccountId>> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn seed(entropy: &dyn Entropy) -> Result<[u8; 16], EntropyError> {
    let mut seed = [0; 16];
    entropy.fill(&mut seed)?;
    Ok(seed)
}

impl fmt::Debug for HotCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HotCache({:?} before {:?})", self.memory, self.store)
    }
}
