//! The part of the cache that is on disk.
//!
//! Guarantees: one thing is done to the files at a time, in one job of the executor, and what deletes comes before what
//! writes: so once an account is barred and its purge has ended, nothing of it is on disk or comes there. Whatever fails is
//! a miss, counted and told of. What waits to be written is bounded; more is not written.
//!
//! Not its job: to know which version of a block is current: who reads says which one it wants.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io::{self, ErrorKind},
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use cofferdam_crypto::AccountId;
use cofferdam_vault::{Clock, Executor, Timestamp, executor};
use tokio::sync::oneshot;

use super::{
    CacheUsage, Held,
    files::{Files, HEADER_LEN},
    rules::Rules,
    status::{Counts, Failed, TierStatus, one_more},
    tier::{Key, Tier},
};
use crate::BlockMeta;

/// How many sealed bytes may wait to be written.
const WAITING_BYTES: usize = 32 << 20;
/// What a file takes is counted in this.
const SECTOR: usize = 4096;
/// After how many files a walk through them looks up.
const LOOK_UP: usize = 256;
/// How long nothing is written after a write that failed.
const REST: Duration = Duration::from_secs(10);

/// What purging did, for each account.
pub(super) type Purged = BTreeMap<AccountId, io::Result<CacheUsage>>;

#[derive(Debug)]
pub(super) struct Disk {
    files: Files,
    index: Tier<BlockMeta>,
    rules: Arc<Rules>,
    counts: Arc<Counts>,
    clock: Arc<dyn Clock>,
    executor: Arc<dyn Executor>,
    queue: Mutex<Queue>,
}

/// What is to be done.
#[derive(Debug, Default)]
struct Queue {
    purges: VecDeque<(BTreeSet<AccountId>, oneshot::Sender<Purged>)>,
    remove: BTreeSet<Key>,
    /// Look for what is too old, and say so once that is done.
    sweeps: Vec<oneshot::Sender<()>>,
    /// Accounts whose files are to be looked through.
    scan: BTreeSet<AccountId>,
    writes: BTreeMap<Key, Held>,
    waiting_bytes: usize,
    /// Told once nothing is left to do.
    idle: Vec<oneshot::Sender<()>>,
    /// There is a job at it.
    running: bool,
    /// What that job writes.
    writing: Option<Key>,
    rests_since: Option<Timestamp>,
    closed: bool,
}

enum Task {
    Purge(BTreeSet<AccountId>, oneshot::Sender<Purged>),
    Remove(BTreeSet<Key>),
    Sweep(Vec<oneshot::Sender<()>>),
    Scan(AccountId),
    Write(Key, Held),
}

impl Disk {
    pub(super) fn new(
        files: Files,
        (bytes, seed): (usize, [u8; 16]),
        (rules, counts): (Arc<Rules>, Arc<Counts>),
        clock: Arc<dyn Clock>,
        executor: Arc<dyn Executor>,
    ) -> Arc<Self> {
        let index = Tier::new(bytes, seed, |meta: &BlockMeta| on_disk(meta));
        Arc::new(Self { files, index, rules, counts, clock, executor, queue: Mutex::default() })
    }

    /// The version of a block that is here.
    pub(super) fn version_of(&self, key: &Key) -> Option<BlockMeta> {
        self.index.get(key)
    }

    /// Byte ranges of a block, if this version of it is here.
    pub(super) async fn read(
        self: &Arc<Self>,
        key: Key,
        meta: BlockMeta,
        ranges: Vec<Range<u64>>,
    ) -> Option<Vec<Bytes>> {
        let disk = self.clone();
        let read =
            executor::run(&*self.executor, move || disk.files.read(&key, &meta, &ranges)).await.ok()?;
        match read {
            Ok(Some(parts)) => {
                one_more(&self.counts.disk_hits);
                return Some(parts);
            }
            // It was replaced or pushed out meanwhile, or is not whole.
            Ok(None) => {}
            Err(error) => self.counts.trouble(Failed::Read, &error),
        }
        self.remove(key);
        None
    }

    /// Keeps a block, some time soon, if there is room in the queue.
    pub(super) fn write(self: &Arc<Self>, key: Key, held: Held) {
        if on_disk(&held.meta) > self.index.largest() || self.version_of(&key) == Some(held.meta) {
            return;
        }
        let mut queue = self.queue();
        let rests = queue.rests_since.is_some_and(|since| self.clock.now().since(&since) < REST);
        if rests || queue.closed || queue.waiting_bytes + held.sealed.len() > WAITING_BYTES {
            return one_more(&self.counts.skipped_writes);
        }
        queue.waiting_bytes += held.sealed.len();
        if let Some(older) = queue.writes.insert(key, held) {
            queue.waiting_bytes -= older.sealed.len();
        }
        self.work(queue);
    }

    /// Removes what is here of a block, some time soon.
    pub(super) fn remove(self: &Arc<Self>, key: Key) {
        let mut queue = self.queue();
        if let Some(held) = queue.writes.remove(&key) {
            queue.waiting_bytes -= held.sealed.len();
        }
        if self.index.remove(&key) || queue.writing == Some(key) {
            queue.remove.insert(key);
            self.work(queue);
        }
    }

    /// Removes all that accounts have here, which were barred before. `None` when the executor is shutting down.
    pub(super) async fn purge(self: &Arc<Self>, accounts: BTreeSet<AccountId>) -> Option<Purged> {
        let (reply, done) = oneshot::channel();
        self.ask(|queue| {
            let Queue { writes, waiting_bytes, .. } = queue;
            for (_, held) in writes.extract_if(.., |key, _| accounts.contains(&key.account)) {
                *waiting_bytes -= held.sealed.len();
            }
            queue.purges.push_back((accounts, reply));
        });
        done.await.ok()
    }

    /// Removes what is too old.
    pub(super) async fn sweep(self: &Arc<Self>) {
        let (reply, done) = oneshot::channel();
        self.ask(|queue| queue.sweeps.push(reply));
        let _ = done.await;
    }

    /// The accounts that have a folder.
    pub(super) async fn accounts(self: &Arc<Self>) -> io::Result<Vec<AccountId>> {
        let disk = self.clone();
        executor::run(&*self.executor, move || disk.files.accounts()).await.map_err(io::Error::other)?
    }

    /// Takes up what an earlier engine left of these accounts, some time soon.
    pub(super) fn scan(self: &Arc<Self>, accounts: impl IntoIterator<Item = AccountId>) {
        self.ask(|queue| queue.scan.extend(accounts));
    }

    /// Waits until nothing is left to do.
    pub(super) async fn settle(self: &Arc<Self>) {
        let (reply, idle) = oneshot::channel();
        self.ask(|queue| queue.idle.push(reply));
        let _ = idle.await;
    }

    /// Writes nothing more, finishes what removes, and lets go of the folder.
    pub(super) async fn close(self: &Arc<Self>) {
        {
            let mut queue = self.queue();
            queue.closed = true;
            queue.writes.clear();
            queue.scan.clear();
            queue.waiting_bytes = 0;
        }
        self.settle().await;
        self.files.release();
    }

    pub(super) fn status(&self, hits: u64) -> TierStatus {
        TierStatus {
            hits,
            blocks: self.index.len() as u64,
            bytes: self.index.weight() as u64,
            max_bytes: self.index.capacity() as u64,
        }
    }

    /// What there is of an account, what waits to be written included.
    pub(super) fn usage_of(&self, account: AccountId) -> CacheUsage {
        let mut usage = CacheUsage::default();
        let of_account = |key: &Key| key.account == account;
        for (_, held) in self.queue().writes.iter().filter(|(key, _)| of_account(key)) {
            usage.add(held.meta.sealed_len);
        }
        self.index.walk(|key, meta| {
            if of_account(key) {
                usage.add(meta.sealed_len);
            }
        });
        usage
    }

    fn ask(self: &Arc<Self>, for_what: impl FnOnce(&mut Queue)) {
        let mut queue = self.queue();
        for_what(&mut queue);
        self.work(queue);
    }

    /// Sees to it that somebody does what there is to do.
    fn work(self: &Arc<Self>, mut queue: MutexGuard<'_, Queue>) {
        if std::mem::replace(&mut queue.running, true) {
            return;
        }
        // An executor may do it here and now.
        drop(queue);
        let job = Job { disk: self.clone(), done: false };
        self.executor.execute(Box::new(move || job.run()));
    }

    fn next(&self) -> Option<Task> {
        let queue = &mut *self.queue();
        queue.writing = None;
        if let Some((accounts, reply)) = queue.purges.pop_front() {
            return Some(Task::Purge(accounts, reply));
        }
        if !queue.remove.is_empty() {
            return Some(Task::Remove(std::mem::take(&mut queue.remove)));
        }
        if !queue.sweeps.is_empty() {
            return Some(Task::Sweep(std::mem::take(&mut queue.sweeps)));
        }
        if let Some(account) = queue.scan.pop_first() {
            return Some(Task::Scan(account));
        }
        if let Some((key, held)) = queue.writes.pop_first() {
            queue.waiting_bytes -= held.sealed.len();
            queue.writing = Some(key);
            return Some(Task::Write(key, held));
        }
        queue.running = false;
        for waiter in queue.idle.drain(..) {
            let _ = waiter.send(());
        }
        None
    }

    fn perform(&self, task: Task) {
        match task {
            Task::Purge(accounts, reply) => {
                self.push_out(|key, _| !accounts.contains(&key.account));
                let removed =
                    accounts.into_iter().map(|account| (account, self.files.remove_account(account)));
                let _ = reply.send(removed.collect());
            }
            Task::Remove(keys) => keys.iter().for_each(|key| self.unlink(key)),
            Task::Sweep(done) => {
                if let Some(oldest) = self.rules.stored_since() {
                    self.push_out(|_, meta| meta.stored_at >= oldest);
                }
                done.into_iter().for_each(|done| _ = done.send(()));
            }
            Task::Scan(account) => self.take_up(account),
            Task::Write(key, held) => self.put(key, &held),
        }
    }

    fn put(&self, key: Key, held: &Held) {
        if !self.rules.admit(key.account, &held.meta) {
            return;
        }
        match self.files.write(&key, &held.meta, &held.sealed) {
            Ok(()) => self.list(key, held.meta),
            Err(error) => {
                self.counts.trouble(Failed::Write, &error);
                self.queue().rests_since = Some(self.clock.now());
            }
        }
    }

    /// Lists what is in a file, and removes the files of what was pushed out.
    fn list(&self, key: Key, meta: BlockMeta) {
        for (gone, _) in self.index.insert(key, meta) {
            // An older version of the same block may have been: its file is the newer one's.
            if !self.index.has(&gone) {
                self.unlink(&gone);
            }
        }
    }

    /// Lists the files that an earlier engine left of an account.
    fn take_up(&self, account: AccountId) {
        let found = match self.files.of(account) {
            Ok(found) => found,
            Err(error) if error.kind() == ErrorKind::NotFound => return,
            Err(error) => return self.counts.trouble(Failed::Read, &error),
        };
        for (n, file) in found.into_iter().enumerate() {
            // A purge waits for no long walk: this one begins anew after it.
            if n.is_multiple_of(LOOK_UP) && n > 0 && self.give_way(account) {
                return;
            }
            match file.of {
                Some((key, meta))
                    if self.rules.admit(account, &meta) && on_disk(&meta) <= self.index.largest() =>
                {
                    self.list(key, meta);
                }
                _ => {
                    if let Err(error) = self.files.remove_file(&file.path) {
                        self.counts.trouble(Failed::Remove, &error);
                    }
                }
            }
        }
    }

    /// Puts the walk through an account's files off if something more urgent waits.
    fn give_way(&self, account: AccountId) -> bool {
        let mut queue = self.queue();
        let urgent = !queue.purges.is_empty();
        if urgent {
            queue.scan.insert(account);
        }
        urgent || queue.closed
    }

    /// Takes what is not to be kept from the index, and its files from the disk where nobody else does.
    fn push_out(&self, keep: impl FnMut(&Key, &BlockMeta) -> bool) {
        for (key, _) in self.index.retain(keep) {
            if !self.rules.is_barred(key.account) {
                self.unlink(&key);
            }
        }
    }

    fn unlink(&self, key: &Key) {
        if let Err(error) = self.files.remove(key) {
            self.counts.trouble(Failed::Remove, &error);
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Works at the queue until nothing is left.
struct Job {
    disk: Arc<Disk>,
    done: bool,
}

impl Job {
    fn run(mut self) {
        while let Some(task) = self.disk.next() {
            self.disk.perform(task);
        }
        self.done = true;
    }
}

impl Drop for Job {
    /// Where the executor dropped it, or it panicked, nobody waits for what it would have done.
    fn drop(&mut self) {
        if !self.done {
            let mut queue = self.disk.queue();
            queue.running = false;
            queue.purges.clear();
            queue.sweeps.clear();
            queue.idle.clear();
        }
    }
}

/// What a block takes on disk.
fn on_disk(meta: &BlockMeta) -> usize {
    usize::try_from(meta.sealed_len)
        .ok()
        .and_then(|len| len.checked_add(HEADER_LEN))
        .and_then(|len| len.checked_next_multiple_of(SECTOR))
        .unwrap_or(usize::MAX)
}
