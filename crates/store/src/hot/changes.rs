//! Which blocks are being changed, roughly: a mark stands for many blocks.
//!
//! Guarantees: what was read before or during a change of its block does not come in after it. Of several changes at once
//! none brings anything in, since nobody can tell which of them the store applied last. So what comes in is the newest version,
//! as far as all changes go through here.
//!
//! Not its job: changes that others make to the store.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::tier::Key;

/// How many marks there are.
const MARKS: usize = 4096;

pub(super) struct Changes(Box<[Mutex<Mark>]>);

#[derive(Debug, Default)]
pub(super) struct Mark {
    /// How many changes began and ended.
    count: u64,
    under_way: usize,
    /// Of some change nobody knows whether it came to pass, or will.
    unsure: bool,
}

/// What `Mark::count` was; a change since then makes it invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket(u64);

impl Default for Changes {
    fn default() -> Self {
        Self((0..MARKS).map(|_| Mutex::default()).collect())
    }
}

impl Changes {
    /// For who is about to read a block; none while it is being changed.
    pub(super) fn ticket(&self, key: &Key) -> Option<Ticket> {
        let mark = self.mark(key);
        (mark.under_way == 0).then_some(Ticket(mark.count))
    }

    /// Does `enter` if nothing has changed since the ticket was drawn, and lets nothing change meanwhile.
    pub(super) fn if_unchanged<T>(&self, key: &Key, since: Ticket, enter: impl FnOnce() -> T) -> Option<T> {
        let mark = self.mark(key);
        (mark.under_way == 0 && mark.count == since.0).then(enter)
    }

    pub(super) fn begin(&self, key: &Key) -> Ticket {
        let mut mark = self.mark(key);
        mark.count += 1;
        mark.under_way += 1;
        Ticket(mark.count)
    }

    /// Ends a change; does `enter` if it was alone.
    pub(super) fn end<T>(
        &self,
        key: &Key,
        begun: Ticket,
        sure: bool,
        enter: impl FnOnce() -> T,
    ) -> Option<T> {
        let mut mark = self.mark(key);
        let alone = mark.under_way == 1 && mark.count == begun.0;
        mark.count += 1;
        mark.under_way -= 1;
        mark.unsure |= !sure;
        alone.then(enter)
    }

    /// A change begins of which nobody says whose blocks it is of.
    pub(super) fn begin_all(&self) {
        for mark in &self.0 {
            let mut mark = mark.lock().unwrap_or_else(PoisonError::into_inner);
            mark.count += 1;
            mark.under_way += 1;
        }
    }

    /// Ends it.
    pub(super) fn end_all(&self) {
        for mark in &self.0 {
            let mut mark = mark.lock().unwrap_or_else(PoisonError::into_inner);
            mark.count += 1;
            mark.under_way -= 1;
        }
    }

    /// Whether it is known how all changes ended.
    pub(super) fn is_sure(&self, key: &Key) -> bool {
        !self.mark(key).unsure
    }

    fn mark(&self, key: &Key) -> MutexGuard<'_, Mark> {
        let mark = &self.0[(key.name % MARKS as u128) as usize];
        mark.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use cofferdam_crypto::AccountId;

    use super::*;

    fn key() -> Key {
        Key { account: AccountId::from_bytes([1; 16]), name: 7 }
    }

    #[test]
    fn nothing_comes_in_that_was_read_before_or_during_a_change() {
        let changes = Changes::default();
        let before = changes.ticket(&key()).unwrap();
        assert_eq!(changes.if_unchanged(&key(), before, || 1), Some(1));
        let begun = changes.begin(&key());
        assert_eq!(changes.ticket(&key()), None);
        assert_eq!(changes.if_unchanged(&key(), before, || 1), None);
        assert_eq!(changes.end(&key(), begun, true, || 1), Some(1));
        assert_eq!(changes.if_unchanged(&key(), before, || 1), None);
        assert!(changes.ticket(&key()).is_some());
    }

    #[test]
    fn of_two_changes_at_once_neither_brings_anything_in_whichever_ends_first() {
        for first_ends_first in [true, false] {
            let changes = Changes::default();
            let (first, second) = (changes.begin(&key()), changes.begin(&key()));
            let order = if first_ends_first { [first, second] } else { [second, first] };
            for begun in order {
                assert_eq!(changes.end(&key(), begun, true, || 1), None);
            }
            assert!(changes.is_sure(&key()) && changes.ticket(&key()).is_some());
        }
    }

    #[test]
    fn a_change_whose_end_nobody_knows_leaves_doubt_for_good() {
        let changes = Changes::default();
        let begun = changes.begin(&key());
        changes.end(&key(), begun, false, || ());
        let begun = changes.begin(&key());
        changes.end(&key(), begun, true, || ());
        assert!(!changes.is_sure(&key()));
    }
}
