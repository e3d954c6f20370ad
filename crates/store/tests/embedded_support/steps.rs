//! Sequences of writes and reopenings, and the play of one against a store and the model.

use async_trait::async_trait;
use cofferdam_crypto::{AccountId, Epoch};
use cofferdam_store::{BlockOp, BlockStore, BufferLimit, Catalog};
use proptest::prelude::*;

use super::{model::Model, *};

/// A store that is played against.
#[async_trait]
pub trait Subject: Sized + Sync {
    fn blocks(&self) -> &dyn BlockStore;

    fn catalog(&self) -> &dyn Catalog;

    /// Whether it says what the model does.
    async fn assert_like(&self, model: &Model, accounts: &[AccountId], what: &str);

    /// Opened again, after it was closed or not.
    async fn reopen(self, closed: bool) -> Self;
}

/// An operation on a block, by account and name.
#[derive(Clone, Copy, Debug)]
pub enum What {
    Put(usize),
    Delete,
    /// With one of a few limits.
    Buffer(usize, u8),
    /// Whatever is buffered.
    Drain(usize),
    /// Whatever is stored, under the epoch after its own or under the same.
    Reseal(usize, bool),
    Discard,
}

#[derive(Clone, Debug)]
pub enum Step {
    /// `true` makes the version an old one, or for a drain and a discard another one than is buffered.
    Commit(Vec<(u8, u8, What, bool)>),
    Swap(u8, Option<usize>),
    /// The record of a segment, from the right one or from another.
    ReplaceSegment(u8, u8, bool),
    Remove(u8, usize),
    Compact,
    Reopen {
        closed: bool,
    },
}

pub fn step() -> impl Strategy<Value = Step> {
    let len = || prop_oneof![0usize..200, 4000usize..9000, 61_400usize..61_500, 0usize..200_000];
    let what = prop_oneof![
        3 => len().prop_map(What::Put),
        2 => Just(What::Delete),
        4 => (len(), 0u8..8).prop_map(|(len, limit)| What::Buffer(len, limit)),
        3 => len().prop_map(What::Drain),
        3 => (len(), prop::bool::weighted(0.8)).prop_map(|(len, later)| What::Reseal(len, later)),
        1 => Just(What::Discard),
    ];
    let op = (0u8..3, 0u8..6, what, prop::bool::weighted(0.1));
    prop_oneof![
        8 => prop::collection::vec(op, 1..5).prop_map(Step::Commit),
        2 => (0u8..4, prop::option::weighted(0.8, 0usize..5000)).prop_map(|(key, len)| Step::Swap(key, len)),
        1 => (0u8..3, 0u8..4, prop::bool::weighted(0.8)).prop_map(|(of, n, right)| Step::ReplaceSegment(of, n, right)),
        1 => (0u8..3, prop_oneof![0usize..4, Just(1000)]).prop_map(|(of, limit)| Step::Remove(of, limit)),
        1 => Just(Step::Compact),
        1 => any::<bool>().prop_map(|closed| Step::Reopen { closed }),
    ]
}

/// The operation, given what is buffered now.
fn op_of(model: &Model, step: (u8, u8, What, bool), version: u64) -> BlockOp {
    let (owner, name, what, odd) = step;
    let owner = account(owner);
    let buffered = model.buffered.get(&(owner, id([name]))).map_or(0, |(meta, _)| meta.version.number());
    // An old version that nothing had: the write is late.
    let own = if odd { version - 1000 } else { version + 1000 };
    let exact = if odd { buffered + 1 } else { buffered };
    match what {
        What::Put(len) => put(owner, [name], own, bytes_of(version, len)),
        What::Delete => delete(owner, [name], own),
        What::Buffer(len, limit) => {
            let limit = match limit {
                0 => BufferLimit { bytes: 100_000, ..UNBOUNDED },
                1 => BufferLimit { since: time(version + 900), ..UNBOUNDED },
                _ => UNBOUNDED,
            };
            buffer_within(limit, owner, [name], own, bytes_of(version, len))
        }
        What::Drain(len) => drain(owner, [name], exact, bytes_of(version, len), version + 1000),
        What::Reseal(len, later) => {
            let there =
                model.stored.get(&(owner, id([name]))).map(|(meta, _)| (meta.version.number(), meta.epoch));
            let (there, epoch) = there.unwrap_or((0, Epoch::FIRST));
            let epoch = epoch.number() + u32::from(later);
            reseal(owner, [name], there + u64::from(odd), epoch, bytes_of(version, len))
        }
        What::Discard => discard(owner, [name], exact),
    }
}

/// The accounts that steps write to.
pub fn accounts() -> [AccountId; 3] {
    [0, 1, 2].map(account)
}

/// Plays the steps, and compares after each of them.
pub async fn play<S: Subject>(mut subject: S, steps: Vec<Step>) -> (S, Model) {
    let mut model = Model::default();
    let mut version = 1000;
    for (n, step) in steps.into_iter().enumerate() {
        match step {
            Step::Commit(ops) => {
                // Each as if the ones before it were done, so that a drain may follow its write in one batch.
                let mut ahead = model.clone();
                let batch: Vec<_> = ops
                    .into_iter()
                    .map(|op| {
                        version += 1;
                        let op = op_of(&ahead, op, version);
                        let _ = ahead.commit(std::slice::from_ref(&op));
                        op
                    })
                    .collect();
                let expected = model.commit(&batch);
                let found = subject.blocks().commit(batch.clone()).await.map_err(|error| error.kind());
                assert_eq!(found, expected, "step {n}: {batch:?}");
            }
            Step::Swap(key, len) => {
                let key = format!("record/{key}");
                let stored = subject.catalog().load(&key).await.unwrap();
                assert_eq!(stored.as_ref().map(|stored| &stored.bytes), model.records.get(&key));
                version += 1;
                let new = len.map(|len| bytes_of(version, len));
                let revision = stored.map(|stored| stored.revision);
                subject.catalog().swap(&key, revision.as_ref(), new.clone()).await.unwrap();
                match new {
                    Some(new) => drop(model.records.insert(key, new)),
                    None => drop(model.records.remove(&key)),
                }
            }
            Step::ReplaceSegment(of, n, right) => {
                version += 1;
                let (of, n, new) = (account(of), segment(n), bytes_of(version, 40));
                let there =
                    model.segments(of).into_iter().find(|(id, _)| *id == n).map(|(_, row)| row.record);
                let expected = there.filter(|_| right).unwrap_or("another".into());
                let replaced = subject.blocks().replace_segment(of, n, &expected, new.clone()).await.unwrap();
                assert_eq!(replaced, model.replace_segment(of, n, &expected, &new), "step {n}");
            }
            Step::Remove(of, limit) => {
                let removed = subject.blocks().remove_blocks(account(of), limit).await.unwrap();
                assert_eq!(removed, model.remove_blocks(account(of), limit), "step {n}");
            }
            Step::Compact => subject.blocks().compact().await.unwrap(),
            Step::Reopen { closed } => subject = subject.reopen(closed).await,
        }
        subject.assert_like(&model, &accounts(), &format!("step {n}")).await;
    }
    (subject, model)
}
