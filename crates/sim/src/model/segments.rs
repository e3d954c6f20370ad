//! Segments of write-only buffers: who made them, until when they may be written to, and which nobody made.

use std::{collections::BTreeMap, time::Duration};

use cofferdam_crypto::{AccountId, BlockId, SegmentId};

use super::Judged;
use crate::{Check, hub::Moment};

/// How long a write may be under way since it was sealed.
const SETTLES: Duration = Duration::from_secs(2);

/// A segment, by its first write.
#[derive(Clone, Copy, Debug)]
struct Begun {
    node: usize,
    account: AccountId,
    first: Moment,
}

/// What is known of segments.
#[derive(Debug, Default)]
pub(crate) struct Segments {
    /// For how long a segment may be written to.
    lasts: Duration,
    begun: BTreeMap<SegmentId, Begun>,
    forged: BTreeMap<(AccountId, BlockId), SegmentId>,
}

impl Segments {
    /// For how long each may be written to.
    pub(crate) fn last(&mut self, lasts: Duration) {
        self.lasts = lasts;
    }

    /// A node is about to write its first block to a segment, or another one: whether it gets there is another matter.
    pub(crate) fn begins(&mut self, node: usize, account: AccountId, segment: SegmentId, sealed: Moment) {
        self.begun.entry(segment).or_insert(Begun { node, account, first: sealed });
    }

    /// A block that was sealed then is buffered in a segment; `jumped`: the node's clocks did since the first.
    pub(crate) fn judge_written(
        &mut self,
        node: usize,
        account: AccountId,
        segment: SegmentId,
        sealed: Moment,
        jumped: impl FnOnce(Moment) -> bool,
    ) -> Judged {
        let begun = *self.begun.entry(segment).or_insert(Begun { node, account, first: sealed });
        if (begun.node, begun.account) != (node, account) {
            let what = format!(
                "node {node} writes to segment {segment} of {account}, which node {} began for {}",
                begun.node, begun.account
            );
            return Err((Check::Segment, what));
        }
        let age = sealed.clock.since(&begun.first.clock);
        if age > self.lasts + SETTLES && !jumped(begun.first) {
            let what = format!(
                "node {node} writes to segment {segment} {age:?} after it began; it may for {:?}",
                self.lasts
            );
            return Err((Check::Segment, what));
        }
        Ok(())
    }

    /// Somebody who has the public key alone has put this into the store.
    pub(crate) fn forged(&mut self, account: AccountId, block: &BlockId, segment: SegmentId) {
        self.forged.insert((account, block.clone()), segment);
    }

    pub(crate) fn is_forged(&self, account: AccountId, block: &BlockId) -> bool {
        self.forged.contains_key(&(account, block.clone()))
    }

    /// All that was forged.
    pub(crate) fn all_forged(&self) -> Vec<(AccountId, BlockId)> {
        self.forged.keys().cloned().collect()
    }

    /// A vault is asked to unwrap the key of a segment: only of one that is known to be genuine.
    pub(crate) fn judge_asked(&self, account: AccountId, segment: SegmentId) -> Judged {
        let made = self.begun.get(&segment).is_some_and(|begun| begun.account == account);
        if made && !self.forged.values().any(|forged| *forged == segment) {
            return Ok(());
        }
        let what =
            format!("the vault is asked for the key of segment {segment} of {account}, which nobody made");
        Err((Check::Forged, what))
    }
}
