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
    guard::{Broke, Joint},
    queue::{Lane, Permit, Queue},
    tables::{self, Done, Work},
};
use crate::error::{StoreError, StoreErrorKind};

/// A write that waits for its commit.
pub(crate) struct Entry {
    work: Work,
    reply: oneshot::Sender<Result<Done, StoreError>>,
    /// Held until the write is done.
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
        let room = self.queue.admit(lane, bytes).await?;
        let (reply, done) = oneshot::channel();
        if self.queue.push(lane, bytes, Entry { work, reply, _room: room })? {
            let lead = Lead(Some(self.clone()));
            self.executor.execute(Box::new(move || lead.run()));
        }
        done.await.map_err(|_| {
            StoreError::new(StoreErrorKind::Closed)
                .with_detail("the job that commits was dropped or panicked: the write may be stored or not")
        })?
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
            let works: Vec<&Work> = group.iter().map(|entry| &entry.work).collect();
            let answers = committer.commit_group(&works);
            for (entry, answer) in group.into_iter().zip(answers) {
                // Nobody listens any more: the write is done all the same.
                let _ = entry.reply.send(answer);
            }
        }
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        if let Some(committer) = self.0.take() {
            committer.queue.resign();
        }
    }
}
