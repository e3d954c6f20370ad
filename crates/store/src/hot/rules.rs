//! What may be in the cache at all.
//!
//! Guarantees: nothing of an account that is barred, and nothing that is too old. Who puts something in asks after it did so,
//! and who bars an account looks for what is in after that: so one of them finds it, whoever is first.

use std::{
    collections::BTreeSet,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use cofferdam_crypto::AccountId;
use cofferdam_crypto::planted::{Bug, is_planted};
use cofferdam_vault::Clock;

use crate::BlockMeta;

#[derive(Debug)]
pub(super) struct Rules {
    clock: Arc<dyn Clock>,
    age: Duration,
    /// Accounts whose key is revoked.
    barred: RwLock<BTreeSet<AccountId>>,
}

impl Rules {
    pub(super) fn new(clock: Arc<dyn Clock>, age: Duration) -> Self {
        Self { clock, age, barred: RwLock::default() }
    }

    pub(super) fn admit(&self, account: AccountId, meta: &BlockMeta) -> bool {
        self.is_fresh(meta) && !self.is_barred(account)
    }

    /// Whether a block is young enough, by the wall clock: it was stored by that.
    pub(super) fn is_fresh(&self, meta: &BlockMeta) -> bool {
        self.stored_since().is_none_or(|oldest| meta.stored_at >= oldest)
    }

    /// The earliest time of storing that is young enough, since the Unix epoch; `None`: any.
    pub(super) fn stored_since(&self) -> Option<Duration> {
        if is_planted(Bug::HotCacheAgeIgnored) {
            return None;
        }
        self.clock.now().wall.checked_sub(self.age)
    }

    pub(super) fn bar(&self, accounts: &BTreeSet<AccountId>) {
        self.barred.write().unwrap_or_else(PoisonError::into_inner).extend(accounts);
    }

    pub(super) fn unbar(&self, account: AccountId) {
        self.barred.write().unwrap_or_else(PoisonError::into_inner).remove(&account);
    }

    /// From now on these are barred and no others; which of them were not.
    pub(super) fn bar_only(&self, accounts: BTreeSet<AccountId>) -> BTreeSet<AccountId> {
        let mut barred = self.barred.write().unwrap_or_else(PoisonError::into_inner);
        let new = accounts.difference(&barred).copied().collect();
        *barred = accounts;
        new
    }

    pub(super) fn is_barred(&self, account: AccountId) -> bool {
        self.barred.read().unwrap_or_else(PoisonError::into_inner).contains(&account)
    }
}
