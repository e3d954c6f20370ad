//! Group commit: whoever waits shares one durable transaction.
//!
//! Guarantees: writes are applied by one leader at a time, in turns between accounts; nothing is acknowledged
//! before the transaction that holds it is durable; a caller that gives up changes nothing about what becomes
//! of its write. One caller's conflict or damage fails that caller alone.
//!
//! There is no task to stop: whoever finds nobody leading starts a job that takes what waits, commits it,
//! acknowledges it, and ends when nothing waits any more.
//!
//! Not its job: what a transaction does.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use cofferdam_vault::Executor;
use tokio::sync::oneshot;

use super::{
    compact::compact,
    guard::{Broke, Joint},
    queue::{Lane, Permit, Queue},
    tables::{self, Done, Work},
};
use crate::error::{StoreError, StoreErrorKind};

/// What the leader does.
enum Job {
    Write(Work, oneshot::Sender<Result<Done, StoreError>>),
    Compact(oneshot::Sender<Result<(), StoreError>>),
}

/// A write that waits for its commit, or a compaction that waits for its turn.
pub(crate) struct Entry {
    job: Job,
    /// Held until it is done.
    _room: Permit<Self>,
}

/// The group commit of one store.
pub(crate) struct Committer {
    joint: Arc<Joint>,
    executor: Arc<dyn Executor>,
    queue: Queue<Entry>,
    bytes_at_once: u64,
    /// The number of the last transaction that was tried; only the leader changes it.
    transaction: AtomicU64,
    commits: AtomicU64,
}

impl Committer {
    pub(crate) fn new(
        joint: Arc<Joint>,
        executor: Arc<dyn Executor>,
        queue_bytes: u64,
        bytes_at_once: u64,
    ) -> Result<Self, StoreError> {
        let transaction = AtomicU64::new(joint.run(tables::last_transaction)?);
        let queue = Queue::new(queue_bytes);
        Ok(Self { joint, executor, queue, bytes_at_once, transaction, commits: AtomicU64::new(0) })
    }

    /// Commits one caller's work with whatever else waits.
    pub(crate) async fn commit(
        self: &Arc<Self>,
        lane: Lane,
        bytes: u64,
        work: Work,
    ) -> Result<Done, StoreError> {
        let (reply, done) = oneshot::channel();
        self.lead(lane, bytes, Job::Write(work, reply)).await?;
        done.await.map_err(|_| dropped("the write may be stored or not"))?
    }

    /// Compacts the file between two commits, after all that was committed before.
    pub(crate) async fn compact(self: &Arc<Self>) -> Result<(), StoreError> {
        let (reply, done) = oneshot::channel();
        self.lead(Lane::Catalog, 0, Job::Compact(reply)).await?;
        done.await.map_err(|_| dropped("the compaction is done or not"))?
    }

    /// Puts a job into the queue, and sees to it that somebody leads.
    async fn lead(self: &Arc<Self>, lane: Lane, bytes: u64, job: Job) -> Result<(), StoreError> {
        let room = self.queue.admit(lane, bytes).await?;
        if self.queue.push(lane, bytes, Entry { job, _room: room })? {
            let lead = Lead(Some(self.clone()));
            self.executor.execute(Box::new(move || lead.run()));
        }
        Ok(())
    }

    /// Takes nothing new and resolves once what was taken is done.
    pub(crate) async fn close(&self) {
        // Dropped without a word means that there is nobody to wait for either.
        let _ = self.queue.close().await;
    }

    /// How many transactions were committed.
    pub(crate) fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    fn commit_group(&self, group: &[&Work]) -> Vec<Result<Done, StoreError>> {
        match self.try_commit(group) {
            Ok(done) => done,
            // One of them meets damage: the others need not.
            Err(error) if error.kind() == StoreErrorKind::Corrupt && group.len() > 1 => {
                group.iter().flat_map(|work| self.commit_group(&[work])).collect()
            }
            Err(error) => group.iter().map(|_| Err(error.duplicate())).collect(),
        }
    }

    fn try_commit(&self, group: &[&Work]) -> Result<Vec<Result<Done, StoreError>>, StoreError> {
        let mut number = self.next_number();
        // redb may fail after the transaction has become durable, so the answers are kept here.
        let mut answers = None;
        let mut result = self.joint.run_once(|database| tables::apply(database, group, number, &mut answers));
        if result.as_ref().is_err_and(|broke| broke.bystander) && !self.was_kept(number) {
            // A reader met damage meanwhile; alone, nobody can.
            number = self.next_number();
            answers = None;
            result = self
                .joint
                .run_alone(|database| tables::apply(database, group, number, &mut answers))
                .map_err(|error| Broke { error, bystander: false });
        }
        match result {
            Err(broke) if !self.was_kept(number) => Err(broke.error),
            _ => {
                self.commits.fetch_add(1, Ordering::Relaxed);
                Ok(answers.unwrap_or_default())
            }
        }
    }

    fn next_number(&self) -> u64 {
        self.transaction.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Whether a transaction that failed was kept all the same. A poisoned store does not say.
    fn was_kept(&self, number: u64) -> bool {
        self.joint.run(tables::last_transaction).is_ok_and(|kept| kept == number)
    }
}

/// The leader's job. Dropped before it is done, it lets everybody who waits know, and makes way for the next.
struct Lead(Option<Arc<Committer>>);

impl Lead {
    fn run(mut self) {
        let Some(committer) = self.0.clone() else { return };
        loop {
            let group = committer.queue.take(committer.bytes_at_once);
            if group.is_empty() {
                self.0 = None;
                return;
            }
            let mut rooms = Vec::new();
            let (mut works, mut replies, mut compactions) = (Vec::new(), Vec::new(), Vec::new());
            for Entry { job, _room } in group {
                rooms.push(_room);
                match job {
                    Job::Write(work, reply) => {
                        works.push(work);
                        replies.push(reply);
                    }
                    Job::Compact(reply) => compactions.push(reply),
                }
            }
            if !works.is_empty() {
                let answers = committer.commit_group(&works.iter().collect::<Vec<_>>());
                for (reply, answer) in replies.into_iter().zip(answers) {
                    // Nobody listens any more: the write is done all the same.
                    let _ = reply.send(answer);
                }
            }
            if !compactions.is_empty() {
                // One for all: it comes after the writes that any of them waited for.
                let compacted = compact(&committer.joint);
                for reply in compactions {
                    let _ = reply.send(compacted.as_ref().map(|&()| ()).map_err(StoreError::duplicate));
                }
            }
        }
    }
}

fn dropped(what: &str) -> StoreError {
    StoreError::new(StoreErrorKind::Closed)
        .with_detail(format!("the job that commits was dropped or panicked: {what}"))
}

impl Drop for Lead {
    fn drop(&mut self) {
        if let Some(committer) = self.0.take() {
            committer.queue.resign();
        }
    }
}
