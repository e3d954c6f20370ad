//! Waiting until whoever may seal under an account's former key has ended.
//!
//! Guarantees: who enters before it reads an account's key, and stays until its commit has ended, is waited for by
//! whoever changed that key before the turn. Entering takes no lock and waits for nothing.
//!
//! Not its job: to change the key.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use cofferdam_crypto::AccountId;
use tokio::sync::watch;

/// The gates of all accounts that were worked with.
#[derive(Debug, Default)]
pub(super) struct Gates(Mutex<BTreeMap<AccountId, Arc<Gate>>>);

impl Gates {
    pub(super) fn of(&self, account: AccountId) -> Arc<Gate> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(account).or_default().clone()
    }

    /// The account is gone, and whoever had entered its gate.
    pub(super) fn forget(&self, account: AccountId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&account);
    }
}

/// The gate of an account.
#[derive(Debug)]
pub(super) struct Gate(ArcSwap<watch::Sender<()>>);

/// Somebody works under a key of the account's.
#[derive(Debug)]
pub(super) struct Entered(#[expect(dead_code, reason = "held")] watch::Receiver<()>);

impl Default for Gate {
    fn default() -> Self {
        Self(ArcSwap::from_pointee(watch::Sender::new(())))
    }
}

impl Gate {
    /// From here on a turn waits.
    pub(super) fn enter(&self) -> Entered {
        // Who is overtaken by a turn between these two reads the key after it, and so the new one.
        Entered(self.0.load().subscribe())
    }

    /// Waits for all who entered before. Those who enter meanwhile are not waited for.
    pub(super) async fn turn(&self) {
        self.0.swap(Arc::new(watch::Sender::new(()))).closed().await;
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::poll;

    use super::*;

    #[tokio::test]
    async fn a_turn_waits_for_those_who_entered_before_it_and_for_nobody_else() {
        let gate = Gate::default();
        gate.turn().await;
        let (first, second) = (gate.enter(), gate.enter());
        let mut turn = pin!(gate.turn());
        assert!(poll!(turn.as_mut()).is_pending());
        let _later = gate.enter();
        drop(first);
        assert!(poll!(turn.as_mut()).is_pending());
        drop(second);
        assert!(poll!(turn.as_mut()).is_ready());
    }
}
